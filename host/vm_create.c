// SPDX-License-Identifier: Apache-2.0
/*
 * vm_create.c: `vm create`. The directory is built under a hidden name, made durable, and then gets
 * its own: there is no half VM.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/util.h"
#include "clusterfs/cfs.h"
#include "host/daemon.h"
#include "host/event.h"
#include "host/names.h"
#include "host/verbs.h"
#include "host/vm_cpu.h"
#include "host/vm_net.h"
#include "host/vm_run.h"
#include "host/vm_tree.h"
#include "host/volume.h"

struct parts {
	const char *name;
	struct host_volume *volume;
	struct cfs *fs;
	struct vm_def def;
	int kernel, initrd; /* -1: none */
	uint64_t kernel_bytes, initrd_bytes;
};

/* --- what was asked for --------------------------------------------------------------------------- */

static int open_part(struct host_call *call, const char *key, int *fd, uint64_t *bytes)
{
	const char *file = host_arg(call, key);
	struct stat st;

	if (!file)
		return 0;
	*fd = host_open_as_caller(call, file, O_RDONLY, 0);
	if (*fd < 0)
		return *fd;
	if (fstat(*fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size == 0)
		return fail(-EINVAL, "%s: not a file, or empty", file);
	*bytes = (uint64_t)st.st_size;
	return 0;
}

static int check_disk(struct parts *p, const char *text)
{
	struct vm_def *d = &p->def;
	struct cfs_stat st;
	char volume[64];
	const char *path;
	int rc = host_split_name(text, volume, &path);

	if (rc < 0)
		return rc;
	if (strcmp(volume, host_volume_name(p->volume)))
		return fail(-EINVAL,
			    "vm %s: disk %s lies on another volume than %s; a VM's disks"
			    " lie on its own volume",
			    p->name, text, host_volume_name(p->volume));
	rc = cfs_stat(p->fs, path, &st);
	if (rc < 0)
		return rc;
	if (st.kind != CFS_DISK)
		return fail(-EINVAL, "%s: a %s, not a disk", text, host_kind_name(st.kind));
	if (vm_def_find(d, path) >= 0)
		return fail(-EINVAL, "%s: named twice", text);
	return vm_def_add(d, p->name, path, d->disks);
}

static void make_id(char id[40])
{
	uint8_t b[16];
	char *p = id;

	random_bytes(b, sizeof(b));
	b[6] = (uint8_t)((b[6] & 0x0f) | 0x40); /* RFC 4122, version 4 */
	b[8] = (uint8_t)((b[8] & 0x3f) | 0x80);
	for (unsigned i = 0; i < sizeof(b); i++)
		p += sprintf(p, "%s%02x", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", b[i]);
}

static int take_numbers(struct host_call *call, struct vm_def *d, const char *name)
{
	const char *append = host_arg(call, "append");
	uint64_t cpus, memory;
	bool said = false;
	int rc = host_arg_u64(call, "memory", 0, &memory);

	if (rc == 0)
		rc = host_arg_u64(call, "memory_max", memory, &d->memory);
	if (rc == 0)
		rc = host_arg_u64(call, "cpus", 1, &cpus);
	if (rc < 0)
		return rc;
	if (!memory)
		return fail(-EINVAL, "vm create: --memory is missing");
	if (cpus > VM_CPUS_MAX)
		return fail(-EINVAL, "vm %s: %llu CPUs; 1 to %d can be", name,
			    (unsigned long long)cpus, VM_CPUS_MAX);
	d->cpus = (unsigned)cpus;
	vm_share_init(&d->share, memory);
	rc = vm_share_args(&d->share, call, &said);
	if (rc < 0)
		return rc;
	if (append && str_format(d->append, sizeof(d->append), "%s", append) < 0)
		return fail(-EINVAL, "vm %s: --append has at most %zu bytes", name,
			    sizeof(d->append) - 1);
	d->watchdog = VMCTL_WATCHDOG_RESET;
	rc = vm_machine_args(d, call, name, &said);
	if (rc == 0)
		rc = vm_cpu_option(call, d, name);
	if (rc < 0)
		return rc;
	make_id(d->id);
	clock_rfc3339(clock_wall_ns(), d->created, sizeof(d->created));
	return vm_def_check(d, name);
}

static int take_nets(struct host_call *call, struct parts *p)
{
	const char *nets[VM_NETS_MAX];
	int n = host_arg_list(call, "net", nets, VM_NETS_MAX), rc = MIN(n, 0);

	for (int i = 0; i < n && rc == 0; i++)
		rc = vm_def_net_add(&p->def, p->name, nets[i]);
	return rc;
}

static int take_parts(struct host_call *call, struct parts *p)
{
	const char *disks[VM_DISKS_MAX];
	struct vm_def *d = &p->def;
	int n = host_arg_list(call, "disk", disks, VM_DISKS_MAX), rc = n < 0 ? n : 0;

	for (int i = 0; i < n && rc == 0; i++)
		rc = check_disk(p, disks[i]);
	if (rc == 0)
		rc = take_nets(call, p);
	if (rc == 0)
		rc = open_part(call, "kernel", &p->kernel, &p->kernel_bytes);
	if (rc == 0)
		rc = open_part(call, "initrd", &p->initrd, &p->initrd_bytes);
	d->has_kernel = p->kernel >= 0;
	d->has_initrd = p->initrd >= 0;
	if (rc == 0 && !d->has_kernel && (d->has_initrd || d->append[0]))
		rc = fail(-EINVAL, "vm %s: --initrd and --append go with --kernel", p->name);
	if (rc == 0 && d->firmware)
		rc = vm_def_check(d, p->name);
	if (rc == 0 && d->firmware && d->has_kernel)
		rc = fail(-EINVAL, "vm %s: boots from its disk or by --kernel, not both", p->name);
	if (rc == 0 && d->firmware && d->disks == 0)
		rc = fail(-EINVAL, "vm %s: --boot disk goes with --disk", p->name);
	if (rc == 0 && d->has_kernel)
		rc = vm_check_kernel(p->kernel, p->kernel_bytes, p->initrd_bytes, d->memory,
				     host_arg(call, "kernel"));
	return rc;
}

/* --- building ------------------------------------------------------------------------------------- */

static int put_part(struct parts *p, const char *dir, const char *part, int fd)
{
	cleanup_free char *path = xasprintf("%s/%s", dir, part);

	return fd < 0 ? 0 : host_write_file(p->fs, path, CFS_FILE, fd);
}

static int build(struct host_call *call, struct parts *p, const char *dir)
{
	cleanup_free char *vm = xasprintf("%s/vm", dir);
	cleanup_free char *definition = xasprintf("%s/definition.json", dir);
	int rc = cfs_mkdir(p->fs, dir);

	if (rc == 0)
		rc = cfs_create(p->fs, vm, CFS_VM, 0);
	if (rc == 0)
		rc = vm_def_store(p->fs, definition, &p->def);
	if (rc == 0)
		rc = host_progress(call, 0, 0, "copying the kernel");
	if (rc == 0)
		rc = put_part(p, dir, "kernel", p->kernel);
	if (rc == 0)
		rc = host_progress(call, 0, 0, "copying the initrd");
	if (rc == 0)
		rc = put_part(p, dir, "initrd", p->initrd);
	return rc == 0 ? cfs_sync_names(p->fs) : rc;
}

static int make(struct host_call *call, struct parts *p)
{
	cleanup_free char *hidden = vm_hidden_path(call->host, p->fs, "new"),
			  *dir = vm_path(p->name, NULL);
	struct err_info why;
	int rc = cfs_mkdir(p->fs, VM_DIR);

	if (rc == -EEXIST)
		rc = 0;
	if (rc == 0)
		rc = build(call, p, hidden);
	if (rc == 0)
		rc = cfs_rename(p->fs, hidden, dir);
	if (rc == 0)
		return cfs_sync_names(p->fs);
	err_save(&why, rc);
	(void)vm_tree_delete(p->fs, hidden);
	return err_restore(&why);
}

static int exists(struct parts *p)
{
	cleanup_free char *dir = vm_path(p->name, NULL);
	struct cfs_stat st;
	int rc = cfs_stat(p->fs, dir, &st);

	if (rc == 0) {
		rc = fail(-EEXIST, "vm %s: exists already on volume %s", p->name,
			  host_volume_name(p->volume));
		err_object("%s:%s", host_volume_name(p->volume), p->name);
	} else if (rc == -ENOENT) {
		err_clear();
		rc = 0;
	}
	return rc;
}

int vm_create(struct host_call *call)
{
	struct parts *p = xcalloc(1, sizeof(*p));
	const char *volume;
	int rc = host_arg_need(call, "name", &p->name);

	p->kernel = p->initrd = -1;
	if (rc == 0)
		rc = vm_check_name(p->name);
	if (rc == 0)
		rc = host_arg_need(call, "volume", &volume);
	if (rc == 0)
		rc = take_numbers(call, &p->def, p->name);
	if (rc == 0)
		rc = host_volume_get(call->host->volumes, volume, &p->volume);
	if (rc == 0) {
		p->fs = host_volume_fs(p->volume);
		rc = exists(p);
	}
	if (rc == 0)
		rc = take_parts(call, p);
	if (rc == 0)
		rc = make(call, p);
	if (rc == 0) {
		call->result = vm_def_json(&p->def, host_volume_name(p->volume));
		json_object_set_new(call->result, "name", json_string(p->name));
		json_object_set_new(call->result, "state", json_string("stopped"));
		host_event(call->host->events, "vm", p->name, "created on volume %s",
			   host_volume_name(p->volume));
	}
	if (p->kernel >= 0)
		close(p->kernel);
	if (p->initrd >= 0)
		close(p->initrd);
	if (p->volume)
		host_volume_put(p->volume);
	free(p);
	return rc;
}
