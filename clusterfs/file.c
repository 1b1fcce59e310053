// SPDX-License-Identifier: Apache-2.0
/*
 * file.c: open files, and their size, space and extents. Reading and writing is fileio.c's.
 *
 * An open file pins its lock and keeps its inode's buffer. This host opens a file for writing once at a
 * time; the list of open files is looked at under the file's lock, so that unlink and open agree.
 */
#include "clusterfs/fileio.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "clusterfs/group.h"

#define WALKS	       20u
#define ALLOCATE_A_TXN 64u

/* --- the list of open files --------------------------------------------------------------------- */

bool cfs_file_is_open(struct cfs *fs, uint64_t inode)
{
	bool found = false;

	pthread_mutex_lock(&fs->files_lock);
	for (struct cfs_file *f = fs->files; f && !found; f = f->next)
		found = f->map.inode == inode;
	pthread_mutex_unlock(&fs->files_lock);
	return found;
}

unsigned cfs_files_open(struct cfs *fs)
{
	unsigned n = 0;

	pthread_mutex_lock(&fs->files_lock);
	for (struct cfs_file *f = fs->files; f; f = f->next)
		n++;
	pthread_mutex_unlock(&fs->files_lock);
	return n;
}

/* Enters the file unless that would give it two writers here, or a writer beside readers. */
static int enlist(struct cfs *fs, struct cfs_file *file, const struct cfs_node *node)
{
	bool clash = false;

	pthread_mutex_lock(&fs->files_lock);
	for (struct cfs_file *f = fs->files; f && !clash; f = f->next)
		clash = f->map.inode == node->inode && ((f->flags | file->flags) & CFS_OPEN_WRITE);
	if (!clash) {
		file->map.inode = node->inode;
		file->next = fs->files;
		fs->files = file;
	}
	pthread_mutex_unlock(&fs->files_lock);
	if (!clash)
		return 0;
	fail(-EBUSY, "%s:%.200s: in use on this host; close it first", fs->name, file->path);
	err_object("%s:%.128s", fs->name, file->path);
	err_holder("%s", fs->options.host_name ? fs->options.host_name : "this host");
	return -EBUSY;
}

static void delist(struct cfs_file *file)
{
	struct cfs *fs = file->fs;
	struct cfs_file **p = &fs->files;

	pthread_mutex_lock(&fs->files_lock);
	while (*p && *p != file)
		p = &(*p)->next;
	if (*p)
		*p = file->next;
	pthread_mutex_unlock(&fs->files_lock);
}

/* --- opening ------------------------------------------------------------------------------------------ */

static int take_lock(struct cfs_file *file, uint64_t inode, unsigned wait_ms,
		     struct cfs_lock **lock)
{
	struct cfs_lock_owner owner = {.kind = CFS_OWNER_VM, .vm = file->vm};

	if (file->vm)
		return cfs_lock_get_as(file->fs, inode - 1, &owner, wait_ms, lock);
	return cfs_lock_get(file->fs, inode - 1,
			    file->flags & CFS_OPEN_WRITE ? CFS_LOCK_EXCLUSIVE : CFS_LOCK_SHARED,
			    wait_ms, lock);
}

/* The lock is in use: is it still that file? Then it is ours. */
static int open_held(struct cfs_file *file, const struct cfs_node *node)
{
	struct cfs *fs = file->fs;
	bool write = file->flags & CFS_OPEN_WRITE;
	struct cfs_buf *buf;
	int rc = cfs_buf_get(fs, node->inode, CFS_T_INODE, node->inode - 1, &buf);

	if (rc < 0)
		return rc;
	rc = cfs_node_check(node, (struct cfs_inode_block *)buf->data);
	cfs_buf_put(fs, buf);
	if (rc == 0)
		rc = enlist(fs, file, node);
	if (rc < 0)
		return rc;
	rc = cfs_map_open(fs, node->inode, write, &file->map);
	if (rc < 0) {
		delist(file);
		return rc;
	}
	if (write && cfs_file_inode(file)->work == CFS_WORK_SHRINK) {
		rc = cfs_file_finish_shrink(file);
		if (rc < 0) {
			cfs_map_close(&file->map);
			delist(file);
		}
	}
	return rc;
}

static int open_node(struct cfs_file *file, const struct cfs_node *node)
{
	int rc;

	if (node->kind == CFS_KIND_DIR)
		return fail(-EINVAL, "%s:%.200s: a directory", file->fs->name, file->path);
	rc = take_lock(file, node->inode, CFS_BUSY_WAIT_MS, &file->lock);
	if (rc == -EBUSY) {
		rc = fail_prefix(rc, "%s:%.200s", file->fs->name, file->path);
		err_object("%s:%.128s", file->fs->name, file->path);
	}
	if (rc < 0)
		return rc;
	rc = open_held(file, node);
	if (rc == 0)
		cfs_lock_pin(file->lock);
	cfs_lock_put(file->lock);
	return rc;
}

int cfs_open(struct cfs *fs, const char *path, unsigned flags, uint64_t vm, struct cfs_file **out)
{
	struct cfs_file *file = xcalloc(1, sizeof(*file));
	struct cfs_node node;
	int rc = -EAGAIN;

	file->fs = fs;
	file->flags = flags;
	file->vm = vm;
	file->path = xstrdup(path);
	pthread_mutex_init(&file->io, NULL);
	for (unsigned i = 0; i < WALKS && rc == -EAGAIN; i++) {
		rc = cfs_walk(fs, path, &node);
		if (rc == 0)
			rc = open_node(file, &node);
	}
	if (rc == 0) {
		*out = file;
		return 0;
	}
	pthread_mutex_destroy(&file->io);
	free(file->path);
	free(file);
	return rc == -EAGAIN ? fail(-ENOENT, "%s:%.200s: is being moved or deleted", fs->name, path)
			     : rc;
}

static void free_file(struct cfs_file *file)
{
	pthread_mutex_destroy(&file->io);
	free(file->bounce);
	free(file->path);
	free(file);
}

/*
 * A lock that names a VM goes back to the disk at once: no other host could ask for it. This host's
 * own stays with the host until somebody wishes for it.
 */
int cfs_close(struct cfs_file *file)
{
	struct cfs_lock *lock;
	int rc = 0;

	cfs_map_close(&file->map);
	delist(file);
	if (file->vm) {
		/* Others on this host use it for a moment only, to look at the file. */
		rc = take_lock(file, file->map.inode, CFS_LOCK_WAIT_MS, &lock);
		cfs_lock_unpin(file->lock);
		if (rc == 0)
			rc = cfs_lock_drop(lock);
	} else {
		cfs_lock_unpin(file->lock);
	}
	free_file(file);
	return rc;
}

void cfs_file_forget(struct cfs_file *file)
{
	cfs_map_close(&file->map);
	delist(file);
	cfs_lock_unpin(file->lock);
	free_file(file);
}

void cfs_files_abandon(struct cfs *fs)
{
	while (fs->files)
		cfs_file_forget(fs->files);
}

struct cfs_map *cfs_file_map(struct cfs_file *file)
{
	return &file->map;
}

void cfs_file_stat(struct cfs_file *file, struct cfs_stat *out)
{
	cfs_stat_buf(file->fs, file->map.inode_buf, out);
}

int cfs_fsync(struct cfs_file *file)
{
	return cfs_commit_data(file->fs, &file->unflushed);
}

int cfs_sync(struct cfs *fs)
{
	return cfs_commit_data(fs, &fs->unflushed);
}

int cfs_sync_names(struct cfs *fs)
{
	return cfs_commit_wait(fs);
}

int cfs_file_writable(const struct cfs_file *file)
{
	if (file->flags & CFS_OPEN_WRITE)
		return 0;
	return fail(-EPERM, "%s:%.200s: opened for reading only", file->fs->name, file->path);
}

/* --- size -------------------------------------------------------------------------------------------------- */

static int set_size(struct cfs_file *file, uint64_t size, enum cfs_work work)
{
	struct cfs_inode_block *n = cfs_file_inode(file);
	unsigned inl = le16_get(n->inline_bytes);
	struct cfs_txn txn;
	int rc = cfs_txn_begin_wait(file->fs, &txn);

	if (rc < 0)
		return rc;
	n->size = le64_of(size);
	n->work = (uint8_t)work;
	n->modified = le64_of(clock_wall_ns());
	cfs_txn_patch(&txn, file->map.inode_buf, &n->size, sizeof(n->size));
	cfs_txn_patch(&txn, file->map.inode_buf, &n->work, sizeof(n->work));
	cfs_txn_patch(&txn, file->map.inode_buf, &n->modified, sizeof(n->modified));
	if (size < inl) {
		memset(n->inline_data + size, 0, inl - size);
		n->inline_bytes = le16_of((uint16_t)size);
		cfs_txn_patch(&txn, file->map.inode_buf, &n->inline_bytes, 2);
		cfs_txn_patch(&txn, file->map.inode_buf, n->inline_data + size, inl - size);
	}
	cfs_txn_end(&txn);
	return 0;
}

/* What lies behind the size must read as zeroes should the file grow again. */
int cfs_file_finish_shrink(struct cfs_file *file)
{
	uint64_t size = le64_get(cfs_file_inode(file)->size);
	int rc = cfs_map_cut(&file->map, size);

	if (rc == 0)
		rc = cfs_file_zero_tail(file, size);
	return rc < 0 ? rc : set_size(file, size, CFS_WORK_NONE);
}

int cfs_truncate(struct cfs_file *file, uint64_t size)
{
	struct cfs_inode_block *n = cfs_file_inode(file);
	int rc = cfs_file_writable(file);

	if (rc < 0)
		return rc;
	if (size > CFS_MAX_VOLUME || (n->kind == CFS_KIND_DISK && (size == 0 || size % CFS_BLOCK)))
		return fail(-EINVAL,
			    "%s:%.200s: cannot have %llu bytes; a disk has a multiple of "
			    "4096 up to 64T",
			    file->fs->name, file->path, (unsigned long long)size);
	pthread_mutex_lock(&file->io);
	if (size >= le64_get(n->size) || !le64_get(n->root)) {
		rc = set_size(file, size, CFS_WORK_NONE);
	} else {
		rc = set_size(file, size, CFS_WORK_SHRINK);
		if (rc == 0)
			rc = cfs_file_finish_shrink(file);
	}
	pthread_mutex_unlock(&file->io);
	return rc;
}

/* --- space ---------------------------------------------------------------------------------------------------- */

/* Gives units to entries [from, to) of a leaf that have none; their grains stay zero. */
static int allocate_entries(struct cfs_file *file, struct cfs_buf *leaf, unsigned from, unsigned to)
{
	struct cfs_map *map = &file->map;
	struct cfs_map_leaf *l = (struct cfs_map_leaf *)leaf->data;
	uint64_t near = 0;

	while (from < to) {
		struct cfs_entry e;
		struct cfs_txn txn;
		unsigned n = 0;
		uint32_t got;
		uint64_t vbn;
		int rc;

		cfs_entry_decode(&l->entry[from], &e);
		if (e.block || e.below) {
			from++;
			continue;
		}
		for (; from + n < to && n < ALLOCATE_A_TXN; n++) {
			cfs_entry_decode(&l->entry[from + n], &e);
			if (e.block || e.below)
				break;
		}
		got = cfs_stock_take(map->stock, near, n, &vbn);
		if (!got) {
			rc = cfs_stock_fill(map->stock, n);
			if (rc < 0)
				return rc;
			continue;
		}
		rc = cfs_txn_begin_wait(file->fs, &txn);
		if (rc < 0) {
			cfs_stock_return(map->stock, vbn, got);
			return rc;
		}
		cfs_units_use(&txn, vbn, got);
		for (unsigned i = 0; i < got; i++) {
			e = (struct cfs_entry){.block = vbn + i * CFS_UNIT_BLOCKS,
					       .birth = map->generation};
			cfs_map_set(&txn, map, leaf, from + i, &e);
		}
		cfs_txn_end(&txn);
		from += got;
		near = vbn + (uint64_t)got * CFS_UNIT_BLOCKS;
	}
	return 0;
}

static int set_thick(struct cfs_file *file)
{
	struct cfs_inode_block *n = cfs_file_inode(file);
	struct cfs_txn txn;
	int rc = cfs_txn_begin_wait(file->fs, &txn);

	if (rc < 0)
		return rc;
	n->flags = le16_of(le16_get(n->flags) | CFS_INODE_THICK);
	cfs_txn_patch(&txn, file->map.inode_buf, &n->flags, sizeof(n->flags));
	cfs_txn_end(&txn);
	return 0;
}

int cfs_allocate(struct cfs_file *file, uint64_t offset, uint64_t length)
{
	struct cfs_inode_block *n = cfs_file_inode(file);
	uint64_t size, end, unit;
	int rc = cfs_file_writable(file);

	if (rc < 0)
		return rc;
	pthread_mutex_lock(&file->io);
	size = le64_get(n->size);
	end = offset < size ? offset + MIN(length, size - offset) : offset;
	unit = offset / CFS_UNIT;
	while (rc == 0 && unit < DIV_ROUND_UP(end, CFS_UNIT) && !le16_get(n->inline_bytes)) {
		uint64_t index = unit / CFS_LEAF_ENTRIES, first = index * CFS_LEAF_ENTRIES;
		uint64_t last = MIN(DIV_ROUND_UP(end, CFS_UNIT), first + CFS_LEAF_ENTRIES);
		struct cfs_buf *leaf;

		rc = cfs_map_leaf(&file->map, index, true, &leaf);
		if (rc < 0)
			break;
		rc = allocate_entries(file, leaf, (unsigned)(unit - first),
				      (unsigned)(last - first));
		cfs_buf_put(file->fs, leaf);
		unit = last;
	}
	if (rc == 0 && offset == 0 && length >= size)
		rc = set_thick(file);
	pthread_mutex_unlock(&file->io);
	return rc;
}

int cfs_extents(struct cfs_file *file,
		int (*fn)(void *arg, uint64_t offset, uint64_t length, unsigned extent,
			  uint64_t address),
		void *arg)
{
	struct cfs_inode_block *n = cfs_file_inode(file);
	uint64_t size, at = 0;
	int rc = 0;

	pthread_mutex_lock(&file->io);
	size = le64_get(n->size);
	while (rc == 0 && at < size && !le16_get(n->inline_bytes)) {
		struct cfs_run run;

		rc = cfs_file_run(file, at, size - at, &run);
		if (rc < 0)
			break;
		if (run.vbn)
			rc = fn(arg, at, run.length, cfs_vbn_extent(run.vbn),
				cfs_vbn_block(run.vbn) * CFS_BLOCK + run.skip);
		at += run.length;
	}
	pthread_mutex_unlock(&file->io);
	return rc;
}
