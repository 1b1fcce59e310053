// SPDX-License-Identifier: Apache-2.0
/*
 * file.c: the `file` verbs: small files on a volume. A new content is written beside the old one
 * and takes its name when it is durable.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "base/util.h"
#include "clusterfs/cfs.h"
#include "host/daemon.h"
#include "host/names.h"
#include "host/verbs.h"
#include "host/vm_saved.h"
#include "host/volume.h"

#define COPY_BYTES (1 * MiB)

const char *host_kind_name(unsigned kind)
{
	switch ((enum cfs_file_kind)kind) {
	case CFS_FILE:
		return "file";
	case CFS_DIR:
		return "directory";
	case CFS_DISK:
		return "disk";
	case CFS_VM:
		return "vm";
	}
	return "unknown";
}

int host_need_object(struct host_call *call, const char *key, struct host_volume **v,
		     const char **path)
{
	const char *name;
	int rc = host_arg_need(call, key, &name);

	return rc < 0 ? rc : host_volume_of(call->host->volumes, name, v, path);
}

int host_read_file(struct cfs *fs, const char *path, int fd, uint64_t limit)
{
	cleanup_free char *buf = xmalloc(COPY_BYTES);
	struct cfs_file *file;
	struct cfs_stat st;
	int rc = cfs_open(fs, path, 0, 0, &file);
	uint64_t at = 0;

	if (rc < 0)
		return rc;
	cfs_file_stat(file, &st);
	if (st.size > limit)
		rc = fail(-EINVAL, "%s: has %llu bytes, more than %llu; use disk export", path,
			  (unsigned long long)st.size, (unsigned long long)limit);
	while (rc == 0 && at < st.size) {
		int64_t n = cfs_pread(file, buf, MIN(COPY_BYTES, st.size - at), at);

		if (n <= 0)
			rc = n < 0 ? (int)n : fail(-EIO, "%s: ends early", path);
		else if (write(fd, buf, (size_t)n) != n)
			rc = fail(-errno, "%s: cannot pass on what was read: %s", path,
				  strerror(errno));
		else
			at += (uint64_t)n;
	}
	(void)cfs_close(file);
	return rc;
}

/* Makes `path` anew with the bytes of `fd` from its offset on; durable. */
static int write_new(struct cfs *fs, const char *path, enum cfs_file_kind kind, int fd)
{
	cleanup_free char *buf = xmalloc(COPY_BYTES);
	struct cfs_file *file;
	uint64_t at = 0;
	int rc = cfs_create(fs, path, kind, 0), end;
	ssize_t n;

	if (rc == 0)
		rc = cfs_open(fs, path, CFS_OPEN_WRITE, 0, &file);
	if (rc < 0)
		return rc;
	while (rc == 0 && (n = read(fd, buf, COPY_BYTES)) != 0) {
		int64_t done = n < 0 ? -errno : cfs_pwrite(file, buf, (size_t)n, at);

		if (done < 0)
			rc = n < 0 ? fail((int)done, "%s: cannot read what is put", path)
				   : (int)done;
		else
			at += (uint64_t)done;
	}
	if (rc == 0)
		rc = cfs_fsync(file);
	end = cfs_close(file);
	return rc < 0 ? rc : end;
}

int host_write_file(struct cfs *fs, const char *path, enum cfs_file_kind kind, int fd)
{
	cleanup_free char *fresh = NULL;
	struct err_info why;
	struct cfs_stat st;
	uint32_t token;
	int rc = cfs_stat(fs, path, &st);

	if (rc == -ENOENT) {
		err_clear();
		rc = write_new(fs, path, kind, fd);
		fresh = xstrdup(path);
	} else if (rc == 0 && st.kind != kind) {
		return fail(-EPERM, "%s: is a %s, not a %s; delete it first", path,
			    host_kind_name(st.kind), host_kind_name(kind));
	} else if (rc == 0) {
		const char *slash = strrchr(path, '/');

		random_bytes(&token, sizeof(token));
		fresh = xasprintf("%.*s/.put-%08x", (int)(slash - path), path, token);
		rc = write_new(fs, fresh, kind, fd);
		if (rc == 0)
			rc = cfs_replace(fs, fresh, path);
		if (rc == 0)
			return cfs_sync_names(fs);
	}
	if (rc < 0 && rc != -EEXIST && fresh) {
		err_save(&why, rc);
		(void)cfs_unlink(fs, fresh);
		rc = err_restore(&why);
	}
	return rc;
}

static json_t *describe(const char *name, const struct cfs_stat *st)
{
	return json_pack("{s:s, s:s, s:o, s:o, s:o, s:o}", "name", name, "kind",
			 host_kind_name(st->kind), "size", host_json_known(st, st->size),
			 "allocated", host_json_known(st, st->allocated), "created",
			 host_json_time(st->created_ns), "modified",
			 host_json_time(st->modified_ns));
}

static int by_name(const void *a, const void *b)
{
	json_t *const *x = a, *const *y = b;

	return strcmp(json_string_value(json_object_get(*x, "name")),
		      json_string_value(json_object_get(*y, "name")));
}

json_t *host_sorted(json_t *list)
{
	size_t n = json_array_size(list);
	json_t **items = xcalloc(n + 1, sizeof(*items)), *sorted = json_array();

	for (size_t i = 0; i < n; i++)
		items[i] = json_array_get(list, i);
	qsort(items, n, sizeof(*items), by_name);
	for (size_t i = 0; i < n; i++)
		json_array_append(sorted, items[i]);
	free(items);
	json_decref(list);
	return sorted;
}

static int add_entry(void *arg, const char *name, const struct cfs_stat *st)
{
	json_t *d = describe(name, st);

	if (d)
		json_array_append_new(arg, d);
	return 0;
}

static int file_ls(struct host_call *call)
{
	struct host_volume *v;
	struct cfs_stat st;
	const char *path;
	json_t *list = NULL;
	int rc = host_need_object(call, "path", &v, &path);

	if (rc < 0)
		return rc;
	rc = cfs_stat(host_volume_fs(v), path, &st);
	if (rc == 0) {
		list = json_array();
		rc = st.kind == CFS_DIR ? cfs_readdir(host_volume_fs(v), path, add_entry, list)
					: add_entry(list, strrchr(path, '/') + 1, &st);
	}
	host_volume_put(v);
	if (rc == 0)
		call->result = host_sorted(list);
	else
		json_decref(list);
	return rc;
}

static int file_get(struct host_call *call)
{
	struct host_volume *v;
	const char *path;
	int rc = host_need_object(call, "path", &v, &path), fd;

	if (rc < 0)
		return rc;
	fd = memfd_create("download", MFD_CLOEXEC);
	rc = fd < 0 ? fail(-errno, "no place for a download: %s", strerror(errno))
		    : host_read_file(host_volume_fs(v), path, fd, 256 * MiB);
	host_volume_put(v);
	if (rc < 0 && fd >= 0)
		close(fd);
	if (rc == 0)
		call->answer_fd = fd;
	return rc;
}

/*
 * /vms/NAME/state is all that there is of a saved VM's memory, and may become that at any time: only of a VM
 * that is off, and stays so meanwhile, it is a file like others. *lock: NULL for all others.
 */
static int hold_state(struct host_volume *v, const char *path, struct cfs_vm_lock **lock)
{
	cleanup_free char *copy = xstrdup(path);
	char *at, *vms = strtok_r(copy, "/", &at), *name = strtok_r(NULL, "/", &at),
		  *file = strtok_r(NULL, "/", &at);
	int rc;

	*lock = NULL;
	if (!file || strtok_r(NULL, "/", &at) || strcmp(vms, &VM_DIR[1]) != 0 ||
	    strcmp(file, VM_STATE_FILE) != 0)
		return 0;
	rc = vm_hold(v, name, lock);
	if (rc == -ENOENT) { /* no VM, but a directory */
		err_clear();
		rc = 0;
	}
	return rc;
}

/* Returns `rc`. */
static int let_state(struct cfs_vm_lock *lock, int rc)
{
	struct err_info why;

	if (!lock)
		return rc;
	err_save(&why, rc);
	(void)cfs_vm_unlock(lock);
	return err_restore(&why);
}

static int file_put(struct host_call *call)
{
	struct host_volume *v;
	struct cfs_vm_lock *lock;
	const char *path;
	int rc = host_need_object(call, "path", &v, &path);

	if (rc < 0)
		return rc;
	rc = hold_state(v, path, &lock);
	if (rc == 0)
		rc = host_write_file(host_volume_fs(v), path, CFS_FILE, call->body_fd);
	rc = let_state(lock, rc);
	host_volume_put(v);
	return rc;
}

static int file_rm(struct host_call *call)
{
	struct host_volume *v;
	struct cfs_vm_lock *lock;
	struct cfs_stat st;
	const char *path;
	int rc = host_need_object(call, "path", &v, &path);

	if (rc < 0)
		return rc;
	rc = hold_state(v, path, &lock);
	if (rc == 0)
		rc = cfs_stat(host_volume_fs(v), path, &st);
	if (rc == 0 && (st.kind == CFS_DISK || st.kind == CFS_VM))
		rc = fail(-EPERM, "%s: is a %s; say perilune %s delete", path,
			  host_kind_name(st.kind), host_kind_name(st.kind));
	if (rc == 0)
		rc = cfs_unlink(host_volume_fs(v), path);
	if (rc == 0)
		rc = cfs_sync_names(host_volume_fs(v));
	rc = let_state(lock, rc);
	host_volume_put(v);
	return rc;
}

static int file_mkdir(struct host_call *call)
{
	struct host_volume *v;
	const char *path;
	int rc = host_need_object(call, "path", &v, &path);

	if (rc < 0)
		return rc;
	rc = cfs_mkdir(host_volume_fs(v), path);
	if (rc == 0)
		rc = cfs_sync_names(host_volume_fs(v));
	host_volume_put(v);
	return rc;
}

const struct host_verb host_file_verbs[] = {
	{"file", "ls", 0, file_ls},
	{"file", "get", 0, file_get},
	{"file", "put", HOST_CHANGES | HOST_BODY, file_put},
	{"file", "rm", HOST_CHANGES, file_rm},
	{"file", "mkdir", HOST_CHANGES, file_mkdir},
	{NULL, NULL, 0, NULL},
};
