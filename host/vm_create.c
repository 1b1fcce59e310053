// SPDX-License-Identifier: Apache-2.0
/*
 * vm_create.c: making, renaming and deleting VMs. A VM is there when its object /vms/NAME/vm is:
 * written last, taken away first; what else a crash leaves in the directory is nobody's.
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
#include "host/vm_run.h"
#include "host/vm_verbs.h"
#include "host/volume.h"

#define DEFAULT_MEMORY (256 * MiB)
#define DEFAULT_APPEND "console=ttyS0"
#define PART_BYTES_MAX (2 * GiB)

static const char *const parts[] = {"definition.json", "kernel", "initrd"};

static void new_id(char id[40])
{
	uint8_t b[16];

	random_bytes(b, sizeof(b));
	b[6] = (uint8_t)((b[6] & 0x0f) | 0x40);
	b[8] = (uint8_t)((b[8] & 0x3f) | 0x80);
	(void)str_format(id, 40,
			 "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x",
			 b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11],
			 b[12], b[13], b[14], b[15]);
}

static int take_disks(struct host_call *call, struct host_volume *v, struct vm_def *d)
{
	const char *names[VM_DISKS_MAX], *path;
	char volume[64];
	struct cfs_stat st;
	int n = host_arg_list(call, "disk", names, VM_DISKS_MAX), rc = 0;

	if (n < 0)
		return n;
	for (int i = 0; i < n && rc == 0; i++) {
		rc = host_split_name(names[i], volume, &path);
		if (rc == 0 && strcmp(volume, host_volume_name(v)))
			rc = fail(-EINVAL, "%s: a VM's disks lie on its own volume, %s", names[i],
				  host_volume_name(v));
		if (rc == 0)
			rc = cfs_stat(host_volume_fs(v), path, &st);
		if (rc == 0 && st.kind != CFS_DISK)
			rc = fail(-EINVAL, "%s: is a %s, not a disk", names[i],
				  host_kind_name(st.kind));
		if (rc == 0 && str_format(d->disk[i], sizeof(d->disk[0]), "%s", path) < 0)
			rc = fail(-EINVAL, "%s: too long", names[i]);
		for (int k = 0; k < i && rc == 0; k++)
			if (!strcmp(d->disk[k], d->disk[i]))
				rc = fail(-EINVAL, "%s: named twice", names[i]);
	}
	d->disks = (unsigned)n;
	return rc;
}

static int take_values(struct host_call *call, struct host_volume *v, const char *name,
		       struct vm_def *d)
{
	const char *append = host_arg(call, "append");
	uint64_t cpus;
	int rc = host_arg_u64(call, "memory", DEFAULT_MEMORY, &d->memory);

	if (rc == 0)
		rc = host_arg_u64(call, "cpus", 1, &cpus);
	if (rc < 0)
		return rc;
	d->cpus = (unsigned)MIN(cpus, UINT32_MAX);
	new_id(d->id);
	clock_rfc3339(clock_wall_ns(), d->created, sizeof(d->created));
	if (str_format(d->append, sizeof(d->append), "%s", append ? append : DEFAULT_APPEND) < 0)
		return fail(-EINVAL, "--append: at most %zu bytes", sizeof(d->append) - 1);
	rc = vm_def_check(d, name);
	return rc < 0 ? rc : take_disks(call, v, d);
}

static int open_part(struct host_call *call, const char *path, uint64_t *bytes)
{
	struct stat st;
	int fd = host_open_as_caller(call, path, O_RDONLY, 0);

	if (fd < 0)
		return fd;
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size == 0 ||
	    (uint64_t)st.st_size > PART_BYTES_MAX) {
		close(fd);
		return fail(-EINVAL, "%s: not a file of a sensible size", path);
	}
	*bytes = (uint64_t)st.st_size;
	return fd;
}

static void remove_parts(struct cfs *fs, const char *name)
{
	cleanup_free char *dir = vm_path(name, NULL);

	for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
		cleanup_free char *path = vm_path(name, parts[i]);

		(void)cfs_unlink(fs, path);
	}
	(void)cfs_unlink(fs, dir);
	err_clear();
}

static int make_dir(struct cfs *fs, const char *path)
{
	int rc = cfs_mkdir(fs, path);

	if (rc == -EEXIST) {
		err_clear();
		rc = 0;
	}
	return rc;
}

static int write_parts(struct cfs *fs, const char *name, const struct vm_def *d, int kernel,
		       int initrd)
{
	cleanup_free char *dir = vm_path(name, NULL), *object = vm_path(name, "vm");
	cleanup_free char *k = vm_path(name, "kernel"), *i = vm_path(name, "initrd");
	int rc = make_dir(fs, VM_DIR);

	if (rc == 0)
		rc = make_dir(fs, dir);
	if (rc == 0)
		rc = host_write_file(fs, k, CFS_FILE, kernel);
	if (rc == 0 && initrd >= 0)
		rc = host_write_file(fs, i, CFS_FILE, initrd);
	if (rc == 0)
		rc = vm_def_store(fs, name, d);
	if (rc == 0)
		rc = cfs_create(fs, object, CFS_VM, 0);
	return rc;
}

static int check_free(struct cfs *fs, const char *volume, const char *name)
{
	cleanup_free char *object = vm_path(name, "vm");
	struct cfs_stat st;
	int rc = cfs_stat(fs, object, &st);

	if (rc == 0)
		return fail(-EEXIST, "vm %s:%s: exists; delete it or take another name", volume,
			    name);
	if (rc != -ENOENT)
		return rc;
	err_clear();
	return 0;
}

static int create_on(struct host_call *call, struct host_volume *v, const char *name,
		     const char *kernel_path)
{
	const char *initrd_path = host_arg(call, "initrd");
	struct vm_def *d = xcalloc(1, sizeof(*d));
	cleanup_fd int kernel = -1, initrd = -1;
	uint64_t kernel_bytes = 0, initrd_bytes = 0;
	struct err_info why;
	int rc = check_free(host_volume_fs(v), host_volume_name(v), name);

	if (rc == 0)
		rc = take_values(call, v, name, d);
	if (rc == 0) {
		kernel = open_part(call, kernel_path, &kernel_bytes);
		rc = MIN(kernel, 0);
	}
	if (rc == 0 && initrd_path) {
		initrd = open_part(call, initrd_path, &initrd_bytes);
		rc = MIN(initrd, 0);
		d->has_initrd = true;
	}
	if (rc == 0)
		rc = vm_check_kernel(kernel, kernel_bytes, initrd_bytes, d->memory, kernel_path);
	if (rc == 0)
		rc = host_progress(call, 0, 0, "copying the kernel");
	if (rc == 0) {
		rc = write_parts(host_volume_fs(v), name, d, kernel, initrd);
		if (rc < 0) {
			err_save(&why, rc);
			remove_parts(host_volume_fs(v), name);
			rc = err_restore(&why);
		}
	}
	if (rc == 0)
		call->result = json_pack("{s:s, s:s, s:s}", "name", name, "volume",
					 host_volume_name(v), "id", d->id);
	free(d);
	return rc;
}

static int vm_create(struct host_call *call)
{
	const char *name, *volume, *kernel;
	struct host_volume *v;
	int rc = host_arg_need(call, "name", &name);

	if (rc == 0)
		rc = vm_check_name(name);
	if (rc == 0)
		rc = host_arg_need(call, "volume", &volume);
	if (rc == 0)
		rc = host_arg_need(call, "kernel", &kernel);
	if (rc == 0)
		rc = host_volume_get(call->host->volumes, volume, &v);
	if (rc < 0)
		return rc;
	rc = create_on(call, v, name, kernel);
	if (rc == 0)
		host_event(call->host->events, "vm", name, "created on volume %s", volume);
	host_volume_put(v);
	return rc;
}

static int refuse_running(struct host_call *call, struct host_volume *v, const char *name)
{
	struct host_vm *vm = vm_find(call->host->vms, v, name);

	if (!vm)
		return vm_refuse_elsewhere(v, name);
	vm_put(vm);
	(void)fail(-EBUSY, "vm %s: runs on this host; stop it first", name);
	err_object("%s", name);
	err_holder("%s", call->host->name);
	return -EBUSY;
}

/* With the lock in hand nobody can start it meanwhile. */
static int vm_rename(struct host_call *call)
{
	cleanup_free char *from_dir = NULL, *to_dir = NULL, *object = NULL;
	struct cfs_vm_lock *lock;
	struct host_volume *v;
	const char *name, *to;
	int rc = host_arg_need(call, "to", &to), end;

	if (rc == 0)
		rc = vm_check_name(to);
	if (rc == 0)
		rc = vm_resolve(call, &v, &name);
	if (rc < 0)
		return rc;
	from_dir = vm_path(name, NULL);
	to_dir = vm_path(to, NULL);
	object = vm_path(name, "vm");
	rc = refuse_running(call, v, name);
	if (rc == 0)
		rc = check_free(host_volume_fs(v), host_volume_name(v), to);
	if (rc == 0)
		rc = cfs_vm_lock(host_volume_fs(v), object, 0, &lock);
	if (rc == 0) {
		rc = cfs_rename(host_volume_fs(v), from_dir, to_dir);
		end = cfs_vm_unlock(lock);
		rc = rc < 0 ? rc : end;
	}
	host_volume_put(v);
	return rc;
}

static int vm_delete(struct host_call *call)
{
	cleanup_free char *object = NULL;
	struct host_volume *v;
	const char *name;
	int rc = vm_resolve(call, &v, &name);

	if (rc < 0)
		return rc;
	object = vm_path(name, "vm");
	rc = refuse_running(call, v, name);
	if (rc == 0)
		rc = cfs_unlink(host_volume_fs(v), object); /* refused while somebody runs it */
	if (rc == 0) {
		remove_parts(host_volume_fs(v), name);
		host_event(call->host->events, "vm", name, "deleted; its disks stay");
	}
	host_volume_put(v);
	return rc;
}

const struct host_verb host_vm_create_verbs[] = {
	{"vm", "create", HOST_CHANGES | HOST_TASK, vm_create},
	{"vm", "rename", HOST_CHANGES, vm_rename},
	{"vm", "delete", HOST_CHANGES | HOST_TASK, vm_delete},
	{NULL, NULL, 0, NULL},
};
