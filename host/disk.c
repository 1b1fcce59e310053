// SPDX-License-Identifier: Apache-2.0
/* disk.c: the `disk` verbs but import, export and bench. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/util.h"
#include "clusterfs/cfs.h"
#include "host/daemon.h"
#include "host/event.h"
#include "host/holder.h"
#include "host/names.h"
#include "host/verbs.h"
#include "host/vm.h"
#include "host/volume.h"

#define DISK_ALIGN    4096ULL
#define DISK_SIZE_MAX (64 * TiB)

static json_t *describe(const char *volume, const char *path, const struct cfs_stat *st)
{
	cleanup_free char *name = xasprintf("%s:%s", volume, path);
	char id[33];

	for (unsigned i = 0; i < 16; i++)
		(void)str_format(id + 2 * i, 3, "%02x", st->id[i]);
	return json_pack("{s:s, s:s, s:o, s:o, s:b, s:i, s:o, s:b, s:I}", "path", name, "id", id,
			 "size", host_json_known(st, st->size), "allocated",
			 host_json_known(st, st->allocated), "thin", !st->thick, "generation",
			 (int)st->generation, "created", host_json_time(st->created_ns), "deleting",
			 st->deleting, "inode", (json_int_t)st->inode);
}

static int stat_disk(struct host_volume *v, const char *path, struct cfs_stat *st)
{
	int rc = cfs_stat(host_volume_fs(v), path, st);

	if (rc == 0 && st->kind != CFS_DISK)
		rc = fail(-EINVAL, "%s:%s: is a %s, not a disk", host_volume_name(v), path,
			  host_kind_name(st->kind));
	return rc;
}

static int check_size(uint64_t size)
{
	if (size == 0 || size % DISK_ALIGN || size > DISK_SIZE_MAX)
		return fail(-EINVAL,
			    "a disk's size is a multiple of 4096 bytes, at most 64T; %llu is not",
			    (unsigned long long)size);
	return 0;
}

static int allocate_all(struct host_call *call, struct cfs_file *file, uint64_t size)
{
	int rc = 0;

	for (uint64_t at = 0; at < size && rc == 0; at += GiB) {
		rc = cfs_allocate(file, at, MIN(GiB, size - at));
		if (rc == 0)
			rc = host_progress(call, MIN(at + GiB, size), size, "allocating");
	}
	return rc;
}

static int disk_create(struct host_call *call)
{
	struct host_volume *v;
	struct cfs_file *file;
	struct cfs_stat st;
	struct err_info why;
	const char *path;
	uint64_t size;
	int rc = host_arg_u64(call, "size", 0, &size), end;

	if (rc == 0)
		rc = check_size(size);
	if (rc == 0)
		rc = host_need_object(call, "path", &v, &path);
	if (rc < 0)
		return rc;
	rc = cfs_create(host_volume_fs(v), path, CFS_DISK, size);
	if (rc < 0)
		goto out;
	rc = cfs_open(host_volume_fs(v), path, CFS_OPEN_WRITE, 0, &file);
	if (rc == 0) {
		if (host_arg_bool(call, "thick"))
			rc = allocate_all(call, file, size);
		if (rc == 0)
			rc = cfs_fsync(file);
		end = cfs_close(file);
		rc = rc < 0 ? rc : end;
	}
	if (rc == 0)
		rc = stat_disk(v, path, &st);
	if (rc == 0) {
		call->result = describe(host_volume_name(v), path, &st);
	} else {
		err_save(&why, rc);
		(void)cfs_unlink(host_volume_fs(v), path);
		rc = err_restore(&why);
	}
out:
	host_volume_disks_changed(v);
	host_volume_put(v);
	return rc;
}

struct walk {
	json_t *list, *dirs;
	const char *volume, *dir;
};

static int walk_entry(void *arg, const char *name, const struct cfs_stat *st)
{
	struct walk *w = arg;
	cleanup_free char *path = xasprintf("%s%s%s", w->dir, w->dir[1] ? "/" : "", name);
	json_t *d = NULL;

	if (st->kind == CFS_DISK)
		d = describe(w->volume, path, st);
	else if (st->kind == CFS_DIR)
		json_array_append_new(w->dirs, json_string(path));
	if (d)
		json_array_append_new(w->list, d);
	return 0;
}

/* Directories are read one after the other, none while another is. */
static int list_tree(struct host_volume *v, const char *dir, json_t *list)
{
	json_t *dirs = json_array();
	int rc = 0;

	json_array_append_new(dirs, json_string(dir));
	for (size_t i = 0; i < json_array_size(dirs) && rc == 0; i++) {
		struct walk w = {list, dirs, host_volume_name(v),
				 json_string_value(json_array_get(dirs, i))};

		rc = cfs_readdir(host_volume_fs(v), w.dir, walk_entry, &w);
		if (rc == -ENOENT && i > 0) /* went away meanwhile */
			rc = 0;
	}
	json_decref(dirs);
	return rc;
}

static int list_volume(void *arg, struct host_volume *v)
{
	return list_tree(v, "/", arg);
}

static int disk_list(struct host_call *call)
{
	const char *name = host_arg(call, "path"), *path = "/", *colon;
	char volume[64];
	struct host_volume *v;
	int rc;

	call->result = json_array();
	if (!name)
		return host_volumes_each(call->host->volumes, list_volume, call->result);
	colon = strchr(name, ':');
	if (colon && colon[1]) {
		rc = host_split_name(name, volume, &path);
		if (rc < 0)
			return rc;
	} else if (str_format(volume, sizeof(volume), "%.*s", (int)strcspn(name, ":"), name) < 0) {
		return fail(-EINVAL, "%s: a volume's name has at most 63 bytes", name);
	}
	rc = host_volume_get(call->host->volumes, volume, &v);
	if (rc < 0)
		return rc;
	rc = list_tree(v, path, call->result);
	host_volume_put(v);
	return rc;
}

/* Who holds it: tried by opening it to read, which its writer refuses by name. */
static json_t *holder_of(struct host_volume *v, const char *path)
{
	struct cfs_file *file;
	struct err_info why;
	int rc = cfs_open(host_volume_fs(v), path, 0, 0, &file);

	if (rc == 0) {
		(void)cfs_close(file);
		return json_null();
	}
	err_save(&why, rc);
	err_clear();
	if (rc != -EBUSY)
		return json_null();
	return host_holder_json(v, path, why.holder);
}

static int disk_show(struct host_call *call)
{
	struct host_volume *v;
	struct cfs_stat st;
	const char *path;
	int rc = host_need_object(call, "path", &v, &path);

	if (rc < 0)
		return rc;
	rc = stat_disk(v, path, &st);
	if (rc == 0) {
		call->result = describe(host_volume_name(v), path, &st);
		json_object_set_new(call->result, "holder", holder_of(v, path));
	}
	host_volume_put(v);
	return rc;
}

static int check_shrink(struct host_call *call, struct host_volume *v, const char *path,
			uint64_t from, uint64_t size)
{
	if (size >= from || host_arg_bool(call, "shrink"))
		return 0;
	return fail(-EPERM,
		    "%s:%s: has %llu bytes, a smaller size cuts off its end; insist with --shrink",
		    host_volume_name(v), path, (unsigned long long)from);
}

/*
 * One that a guest of this host uses can grow under it; for all else nobody may use it. `from` may be
 * old: others resize, too. Asked again where nobody else can change it.
 */
static int set_size(struct host_call *call, struct host_volume *v, const char *path, uint64_t from,
		    uint64_t size)
{
	struct cfs_file *file;
	struct cfs_stat now;
	int rc = -ENOENT, end;

	if (size >= from)
		rc = host_vms_grow_disk(call->host->vms, v, path, size);
	if (rc != -ENOENT)
		return rc;
	rc = cfs_open(host_volume_fs(v), path, CFS_OPEN_WRITE, 0, &file);
	if (rc < 0)
		return rc;
	cfs_file_stat(file, &now);
	rc = check_shrink(call, v, path, now.size, size);
	if (rc == 0)
		rc = cfs_truncate(file, size);
	if (rc == 0)
		rc = cfs_fsync(file);
	end = cfs_close(file);
	return rc < 0 ? rc : end;
}

static int disk_resize(struct host_call *call)
{
	struct host_volume *v;
	struct cfs_stat st;
	const char *path;
	uint64_t size;
	int rc = host_arg_u64(call, "size", 0, &size);

	if (rc == 0)
		rc = check_size(size);
	if (rc == 0)
		rc = host_need_object(call, "path", &v, &path);
	if (rc < 0)
		return rc;
	rc = stat_disk(v, path, &st);
	if (rc == 0)
		rc = check_shrink(call, v, path, st.size, size);
	if (rc == 0)
		rc = set_size(call, v, path, st.size, size);
	if (rc == 0)
		rc = stat_disk(v, path, &st);
	if (rc == 0)
		call->result = describe(host_volume_name(v), path, &st);
	rc = host_name_holder(v, path, rc);
	host_volume_disks_changed(v);
	host_volume_put(v);
	return rc;
}

static int disk_rename(struct host_call *call)
{
	struct host_volume *v;
	struct cfs_stat st;
	const char *path, *to, *to_path;
	char volume[64];
	int rc = host_arg_need(call, "to", &to);

	if (rc == 0)
		rc = host_need_object(call, "path", &v, &path);
	if (rc < 0)
		return rc;
	to_path = to; /* "/new" or "VOLUME:/new" of the same volume */
	if (to[0] != '/') {
		rc = host_split_name(to, volume, &to_path);
		if (rc == 0 && strcmp(volume, host_volume_name(v)))
			rc = fail(-EINVAL,
				  "%s: on another volume; export the disk and import it there", to);
	}
	if (rc == 0)
		rc = stat_disk(v, path, &st);
	if (rc == 0)
		rc = cfs_rename(host_volume_fs(v), path, to_path);
	if (rc == 0)
		rc = cfs_sync_names(host_volume_fs(v));
	rc = host_name_holder(v, path, rc);
	host_volume_put(v);
	return rc;
}

static int disk_delete(struct host_call *call)
{
	struct host_volume *v;
	struct cfs_stat st;
	const char *path;
	int rc = host_need_object(call, "path", &v, &path);

	if (rc < 0)
		return rc;
	rc = stat_disk(v, path, &st);
	if (rc == 0)
		rc = cfs_unlink(host_volume_fs(v), path);
	if (rc == 0)
		rc = cfs_sync_names(host_volume_fs(v));
	rc = host_name_holder(v, path, rc);
	host_volume_disks_changed(v);
	host_volume_put(v);
	return rc;
}

static int extent(void *arg, uint64_t offset, uint64_t length, unsigned lun, uint64_t address)
{
	json_array_append_new(arg, json_pack("{s:I, s:I, s:i, s:I}", "offset", (json_int_t)offset,
					     "length", (json_int_t)length, "extent", (int)lun,
					     "address", (json_int_t)address));
	return 0;
}

static int disk_extents(struct host_call *call)
{
	struct host_volume *v;
	struct cfs_file *file;
	struct cfs_stat st;
	const char *path;
	int rc = host_need_object(call, "path", &v, &path);

	if (rc < 0)
		return rc;
	rc = stat_disk(v, path, &st);
	if (rc == 0)
		rc = cfs_open(host_volume_fs(v), path, 0, 0, &file);
	if (rc == 0) {
		call->result = json_array();
		rc = cfs_extents(file, extent, call->result);
		(void)cfs_close(file);
	}
	rc = host_name_holder(v, path, rc);
	host_volume_put(v);
	return rc;
}

const struct host_verb host_disk_verbs[] = {
	{"disk", "create", HOST_CHANGES | HOST_TASK, disk_create},
	{"disk", "list", 0, disk_list},
	{"disk", "show", 0, disk_show},
	{"disk", "resize", HOST_CHANGES | HOST_TASK, disk_resize},
	{"disk", "rename", HOST_CHANGES, disk_rename},
	{"disk", "delete", HOST_CHANGES | HOST_TASK, disk_delete},
	{"disk", "extents", 0, disk_extents},
	{NULL, NULL, 0, NULL},
};
