// SPDX-License-Identifier: Apache-2.0
/*
 * vm_boot.c: kernel and initrd from the volume into guest memory, or firmware from this host, for each
 * start and each reboot of the guest. The VMM keeps no copy and has no file.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "base/linux_boot.h"
#include "base/util.h"
#include "clusterfs/cfs.h"
#include "host/daemon.h"
#include "host/vm_run.h"
#include "host/volume.h"

#define COPY_BYTES (1 * MiB)

/* `bytes` of the file from `from` on, to guest address `gpa`; all below the hole. */
static int place(struct cfs_file *file, uint64_t from, uint64_t bytes, uint8_t *memory,
		 uint64_t memory_bytes, uint64_t gpa, const char *what)
{
	uint64_t low = vmctl_low_bytes(memory_bytes);

	if (gpa > low || bytes > low - gpa)
		return fail(-ENOSPC, "%s: does not fit into the guest's memory", what);
	for (uint64_t at = 0; at < bytes;) {
		int64_t n = cfs_pread(file, memory + gpa + at, MIN(COPY_BYTES, bytes - at),
				      from + at);

		if (n <= 0)
			return n < 0 ? (int)n : fail(-EIO, "%s: ends early", what);
		at += (uint64_t)n;
	}
	return 0;
}

static int open_part(struct cfs *fs, const char *name, const char *part, struct cfs_file **out,
		     uint64_t *bytes)
{
	cleanup_free char *path = vm_path(name, part);
	struct cfs_stat st;
	int rc = cfs_open(fs, path, 0, 0, out);

	if (rc == 0) {
		cfs_file_stat(*out, &st);
		*bytes = st.size;
	}
	return rc;
}

static int read_head(struct cfs_file *file, uint64_t bytes, const char *name,
		     struct linux_boot_info *info)
{
	uint8_t head[LINUX_BOOT_HEAD];
	int64_t n = cfs_pread(file, head, MIN(sizeof(head), bytes), 0);

	return n < 0 ? (int)n : linux_boot_parse(head, (size_t)n, bytes, name, info);
}

static int load(struct host_vm *vm, struct cfs_file *kernel, uint64_t kernel_bytes,
		struct cfs_file *initrd, uint64_t initrd_bytes, struct vmctl_config *c)
{
	uint64_t memory = vm->def.memory;
	struct linux_boot_place at;
	struct linux_boot_info info;
	uint8_t *map;
	int rc = read_head(kernel, kernel_bytes, vm->name, &info);

	if (rc == 0)
		rc = linux_boot_place(&info, memory, initrd_bytes, vm->name, &at);
	if (rc < 0)
		return rc;
	map = mmap(NULL, memory, PROT_READ | PROT_WRITE, MAP_SHARED, vm->memory_fd, 0);
	if (map == MAP_FAILED)
		return fail(-errno, "vm %s: cannot map its memory: %s", vm->name, strerror(errno));
	(void)madvise(map, memory, MADV_HUGEPAGE);
	(void)madvise(map, memory, MADV_DONTDUMP);
	rc = place(kernel, 0, info.setup_bytes, map, memory, at.setup_gpa, "kernel");
	if (rc == 0)
		rc = place(kernel, info.setup_bytes, info.kernel_bytes, map, memory, at.kernel_gpa,
			   "kernel");
	if (rc == 0 && initrd)
		rc = place(initrd, 0, initrd_bytes, map, memory, at.initrd_gpa, "initrd");
	munmap(map, memory);
	c->boot = VMCTL_BOOT_LINUX;
	c->setup_gpa = at.setup_gpa;
	c->setup_bytes = info.setup_bytes;
	c->kernel_gpa = at.kernel_gpa;
	c->kernel_bytes = info.kernel_bytes;
	c->initrd_gpa = at.initrd_gpa;
	c->initrd_bytes = initrd_bytes;
	return rc;
}

/* --- from the disk itself ----------------------------------------------------------------------- */

#define LOW_END MiB

static int open_firmware(const struct host *host, int *fd, uint64_t *bytes)
{
	struct stat st;

	*fd = open(host->firmware, O_RDONLY | O_CLOEXEC);
	if (*fd < 0 || fstat(*fd, &st) < 0) {
		int rc =
			fail(-errno,
			     "firmware %s: %s; VMs that boot from their disk need Debian's package "
			     "seabios on this host",
			     host->firmware, strerror(errno));

		util_close(fd);
		*fd = -1;
		return rc;
	}
	*bytes = (uint64_t)st.st_size;
	if (*bytes >= VMCTL_FIRMWARE_MIN && *bytes <= VMCTL_FIRMWARE_MAX && *bytes % 4096 == 0)
		return 0;
	util_close(fd);
	*fd = -1;
	return fail(-EINVAL, "firmware %s: has %llu bytes, 64 to 256 KiB are expected",
		    host->firmware, (unsigned long long)*bytes);
}

int vm_check_firmware(const struct host *host)
{
	uint64_t bytes;
	int fd = -1, rc = open_firmware(host, &fd, &bytes);

	util_close(&fd);
	return rc;
}

/* Right below 1 MiB; afresh for each boot, since firmware writes over itself. */
static int load_firmware(struct host_vm *vm, struct vmctl_config *c)
{
	cleanup_fd int fd = -1;
	uint64_t bytes;
	int rc = open_firmware(vm->all->host, &fd, &bytes);
	uint8_t *map;

	if (rc < 0)
		return rc;
	map = mmap(NULL, LOW_END, PROT_READ | PROT_WRITE, MAP_SHARED, vm->memory_fd, 0);
	if (map == MAP_FAILED)
		return fail(-errno, "vm %s: cannot map its memory: %s", vm->name, strerror(errno));
	if (pread(fd, map + LOW_END - bytes, bytes, 0) != (ssize_t)bytes)
		rc = fail(-EIO, "firmware %s: cannot be read", vm->all->host->firmware);
	munmap(map, LOW_END);
	c->boot = VMCTL_BOOT_FIRMWARE;
	c->setup_gpa = LOW_END - bytes;
	c->setup_bytes = bytes;
	return rc;
}

int vm_load_kernel(struct host_vm *vm, struct vmctl_config *config)
{
	if (vm->def.firmware)
		return load_firmware(vm, config);
	struct cfs *fs = host_volume_fs(vm->volume);
	struct cfs_file *kernel, *initrd = NULL;
	uint64_t kernel_bytes = 0, initrd_bytes = 0;
	int rc = open_part(fs, vm->name, "kernel", &kernel, &kernel_bytes);

	if (rc < 0)
		return rc;
	if (vm->def.has_initrd)
		rc = open_part(fs, vm->name, "initrd", &initrd, &initrd_bytes);
	if (rc == 0)
		rc = load(vm, kernel, kernel_bytes, initrd, initrd_bytes, config);
	if (initrd)
		(void)cfs_close(initrd);
	(void)cfs_close(kernel);
	return rc;
}

int vm_check_kernel(int fd, uint64_t bytes, uint64_t initrd_bytes, uint64_t memory,
		    const char *name)
{
	uint8_t head[LINUX_BOOT_HEAD];
	struct linux_boot_info info;
	struct linux_boot_place at;
	ssize_t n = pread(fd, head, sizeof(head), 0);
	int rc = n < 0 ? fail(-errno, "%s: %s", name, strerror(errno))
		       : linux_boot_parse(head, (size_t)n, bytes, name, &info);

	return rc < 0 ? rc : linux_boot_place(&info, memory, initrd_bytes, name, &at);
}
