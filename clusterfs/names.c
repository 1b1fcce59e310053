// SPDX-License-Identifier: Apache-2.0
/*
 * names.c: paths, and the calls that make, move and list names. Every change is one transaction, so a
 * crash leaves the old or the new state. Blocking, in the daemon's pool.
 */
#include "clusterfs/names.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "clusterfs/group.h"
#include "clusterfs/map.h"

#define WALKS	  20u /* so often what a walk found may have changed meanwhile */
#define MAX_DEPTH 256u
#define SHUNNED	  16u /* free inodes whose locks others keep, at most, before it waits for one */

#define OPEN_WAIT_MS	    100u  /* others on this host look at an open file for a moment only */
#define LIVE_WAIT_MS	    1000u /* for a host that is asked to let go */
#define READDIR_PATIENCE_MS 3000u /* for all fresh entries of one listing together */

/* --- walking ------------------------------------------------------------------------------------ */

static void root_node(struct cfs *fs, struct cfs_node *out)
{
	memset(out, 0, sizeof(*out));
	out->kind = CFS_KIND_DIR;
	out->inode = fs->root_dir;
}

int cfs_node_check(const struct cfs_node *node, const struct cfs_inode_block *n)
{
	if (n->kind != node->kind || n->work == CFS_WORK_DELETE)
		return -EAGAIN;
	if (!node->parent)
		return 0;
	return le64_get(n->parent) == node->parent && strcmp(n->name, node->name) == 0 ? 0
										       : -EAGAIN;
}

/* Takes the directory's lock and opens it; -EAGAIN when it is not that directory any more. */
static int dir_take(struct cfs *fs, const struct cfs_node *node, enum cfs_lock_mode mode,
		    struct cfs_lock **lock, struct cfs_dir *dir)
{
	int rc = cfs_lock_get(fs, node->inode - 1, mode, CFS_LOCK_WAIT_MS, lock);

	if (rc < 0)
		return rc;
	rc = cfs_dir_open(fs, node->inode, dir);
	if (rc == 0) {
		rc = cfs_node_check(node, cfs_dir_inode(dir));
		if (rc == 0)
			return 0;
		cfs_dir_close(dir);
	} else if (rc == -ENOENT) {
		rc = -EAGAIN;
	}
	cfs_lock_put(*lock);
	return rc;
}

/* One step: `name` in `node`, which becomes what it names. */
static int step(struct cfs *fs, struct cfs_node *node, const char *name, size_t len)
{
	struct cfs_lock *lock;
	struct cfs_dirent e;
	struct cfs_dir dir;
	int rc = dir_take(fs, node, CFS_LOCK_SHARED, &lock, &dir);

	if (rc < 0)
		return rc;
	cfs_dirent_set(&e, name, len, CFS_KIND_NONE, 0);
	rc = cfs_dir_lookup(&dir, &e);
	cfs_dir_close(&dir);
	cfs_lock_put(lock);
	if (rc < 0)
		return rc;
	node->parent = node->inode;
	node->inode = e.inode;
	node->kind = e.kind;
	memcpy(node->name, e.name, sizeof(node->name));
	return 0;
}

static int missing(struct cfs *fs, const char *path, size_t len)
{
	int rc = fail(-ENOENT, "%s:%.*s: no such file or directory", fs->name, (int)MIN(len, 300u),
		      path);

	err_object("%s:%.*s", fs->name, (int)MIN(len, 128u), path);
	return rc;
}

static int walk_once(struct cfs *fs, const char *path, const char *end, struct cfs_node *out)
{
	const char *p = path;
	unsigned depth = 0;

	root_node(fs, out);
	while (p < end) {
		const char *slash;
		int rc;

		if (*p == '/') {
			p++;
			continue;
		}
		slash = memchr(p, '/', (size_t)(end - p));
		if (!slash)
			slash = end;
		if (out->kind != CFS_KIND_DIR)
			return fail(-ENOENT, "%s:%.*s: not a directory", fs->name,
				    (int)MIN((size_t)(p - path), 300u), path);
		rc = cfs_name_check(p, (size_t)(slash - p));
		if (rc == 0 && ++depth > MAX_DEPTH)
			rc = fail(-EINVAL, "path: deeper than %u directories", MAX_DEPTH);
		if (rc == 0)
			rc = step(fs, out, p, (size_t)(slash - p));
		if (rc == -ENOENT)
			return missing(fs, path, (size_t)(slash - path));
		if (rc < 0)
			return rc;
		p = slash;
	}
	return 0;
}

static int walk(struct cfs *fs, const char *path, const char *end, struct cfs_node *out)
{
	int rc = -EAGAIN;

	if (path[0] != '/')
		return fail(-EINVAL, "path %.200s: must begin with \"/\"", path);
	for (unsigned i = 0; i < WALKS && rc == -EAGAIN; i++) {
		if (i)
			sleep_ms(i);
		rc = walk_once(fs, path, end, out);
	}
	if (rc == -EAGAIN)
		return fail(-EUCLEAN, "%s:%.300s: names and inodes do not agree; run volume check",
			    fs->name, path);
	return rc;
}

int cfs_walk(struct cfs *fs, const char *path, struct cfs_node *out)
{
	return walk(fs, path, path + strlen(path), out);
}

int cfs_walk_parent(struct cfs *fs, const char *path, struct cfs_node *parent, char name[256])
{
	const char *end = path + strlen(path), *slash;
	int rc;

	while (end > path && end[-1] == '/')
		end--;
	slash = end;
	while (slash > path && slash[-1] != '/')
		slash--;
	if (slash == path || slash == end)
		return fail(-EINVAL, "path \"%.200s\": names no object; give one as /a/b", path);
	rc = cfs_name_check(slash, (size_t)(end - slash));
	if (rc < 0)
		return rc;
	memset(name, 0, 256);
	memcpy(name, slash, (size_t)(end - slash));
	rc = walk(fs, path, slash, parent);
	if (rc < 0)
		return rc;
	if (parent->kind != CFS_KIND_DIR)
		return fail(-ENOENT, "%s:%.*s: not a directory", fs->name, (int)(slash - path),
			    path);
	return 0;
}

int cfs_hold(struct cfs *fs, const uint64_t *inodes, unsigned n, struct cfs_held *held)
{
	uint64_t sorted[5], last = 0;
	unsigned used = 0;

	MUST(n <= ARRAY_SIZE(sorted));
	for (unsigned i = 0; i < n; i++) {
		unsigned at = used++;

		for (; at > 0 && sorted[at - 1] > inodes[i]; at--)
			sorted[at] = sorted[at - 1];
		sorted[at] = inodes[i];
	}
	held->n = 0;
	for (unsigned i = 0; i < used; i++) {
		int rc;

		if (sorted[i] == last)
			continue;
		last = sorted[i];
		rc = cfs_lock_get(fs, last - 1, CFS_LOCK_EXCLUSIVE, CFS_LOCK_WAIT_MS,
				  &held->lock[held->n]);
		if (rc < 0) {
			cfs_unhold(held);
			return rc;
		}
		held->n++;
	}
	return 0;
}

void cfs_unhold(struct cfs_held *held)
{
	while (held->n)
		cfs_lock_put(held->lock[--held->n]);
}

/* Opens a directory whose lock is held; -EAGAIN when it is another one by now. */
static int open_checked(struct cfs *fs, const struct cfs_node *node, struct cfs_dir *dir)
{
	int rc = cfs_dir_open(fs, node->inode, dir);

	if (rc == -ENOENT)
		return -EAGAIN;
	if (rc < 0)
		return rc;
	rc = cfs_node_check(node, cfs_dir_inode(dir));
	if (rc < 0)
		cfs_dir_close(dir);
	return rc;
}

/* --- making --------------------------------------------------------------------------------------- */

static void make_inode(struct cfs_txn *txn, uint64_t vbn, const struct cfs_node *parent,
		       const struct cfs_dirent *e, uint64_t size)
{
	struct cfs_buf *buf = cfs_buf_new(txn->fs, vbn, CFS_T_INODE, vbn - 1);
	struct cfs_inode_block *n = (struct cfs_inode_block *)buf->data;
	uint64_t node;

	n->kind = (uint8_t)e->kind;
	random_bytes(n->id, sizeof(n->id));
	n->size = le64_of(size);
	n->created = n->modified = le64_of(clock_wall_ns());
	n->generation = le32_of(1);
	random_bytes(&node, sizeof(node));
	n->node = le64_of(node);
	n->parent = le64_of(parent->inode);
	memcpy(n->name, e->name, sizeof(n->name));
	cfs_meta_use(txn, CFS_SLAB_INODE, vbn);
	cfs_txn_image(txn, buf);
	cfs_buf_put(txn->fs, buf);
}

/* The directory is open, its lock and the new inode's are held. */
static int create_held(struct cfs *fs, struct cfs_dir *dir, const struct cfs_node *parent,
		       struct cfs_dirent *e, uint64_t size)
{
	struct cfs_dir_change change;
	struct cfs_txn txn;
	int rc = cfs_dir_prepare_insert(dir, e, &change);

	if (rc < 0)
		return rc;
	rc = cfs_txn_begin_wait(fs, &txn);
	if (rc == 0) {
		make_inode(&txn, e->inode, parent, e, size);
		cfs_dir_insert(&txn, &change);
		cfs_txn_end(&txn);
	}
	cfs_dir_change_end(&change);
	return rc;
}

/*
 * A free inode whose lock nobody else has; the lock is held. With `others` such as are locked are passed
 * by, else -EBUSY and *e tells which it is. Passed ones stay reserved meanwhile: else they came again.
 */
static int reserve(struct cfs *fs, const struct cfs_node *parent, struct cfs_dirent *e, bool others,
		   struct cfs_lock **own)
{
	uint64_t passed[SHUNNED];
	unsigned n = 0;
	int rc;

	for (;;) {
		rc = cfs_meta_reserve(fs, CFS_SLAB_INODE, parent->inode, &e->inode);
		if (rc < 0)
			break;
		rc = cfs_lock_get(fs, e->inode - 1, CFS_LOCK_EXCLUSIVE, 0, own);
		if (rc == 0)
			break;
		if (rc != -EBUSY || !others || n == SHUNNED) {
			cfs_meta_unreserve(fs, CFS_SLAB_INODE, e->inode);
			break;
		}
		passed[n++] = e->inode;
	}
	if (rc == -ENOSPC && n) { /* there are none but such */
		e->inode = passed[0];
		rc = -EBUSY;
	}
	while (n)
		cfs_meta_unreserve(fs, CFS_SLAB_INODE, passed[--n]);
	return rc;
}

/*
 * A reservation keeps its group here, so the directory's lock comes first (volume.h). The inode's lock
 * is out of order then: it is free, or another host has it left over from what it was before; so it is
 * tried, and else (-EAGAIN, *busy) waited for with nothing held.
 */
static int create_locked(struct cfs *fs, const struct cfs_node *parent, struct cfs_dirent *e,
			 uint64_t size, bool others, uint64_t *busy)
{
	struct cfs_lock *lock, *own;
	struct cfs_dir dir;
	int rc = dir_take(fs, parent, CFS_LOCK_EXCLUSIVE, &lock, &dir);

	if (rc < 0)
		return rc;
	rc = reserve(fs, parent, e, others, &own);
	if (rc == 0) {
		rc = create_held(fs, &dir, parent, e, size);
		cfs_lock_put(own);
		if (rc < 0)
			cfs_meta_unreserve(fs, CFS_SLAB_INODE, e->inode);
	} else if (rc == -EBUSY) {
		*busy = e->inode;
		rc = -EAGAIN;
	}
	cfs_dir_close(&dir);
	cfs_lock_put(lock);
	return rc;
}

int cfs_wait_for(struct cfs *fs, uint64_t inode, unsigned wait_ms)
{
	struct cfs_lock *lock;
	int rc = cfs_lock_get(fs, inode - 1, CFS_LOCK_EXCLUSIVE, wait_ms, &lock);

	if (rc == 0)
		cfs_lock_put(lock);
	return rc;
}

static int create_in(struct cfs *fs, const struct cfs_node *parent, const char *name,
		     enum cfs_kind kind, uint64_t size)
{
	struct cfs_node probe = *parent;
	struct cfs_dirent e;
	uint64_t busy = 0;
	int rc = step(fs, &probe, name, strlen(name)); /* before anything is reserved */

	if (rc == 0)
		return -EEXIST;
	if (rc != -ENOENT)
		return rc;
	cfs_dirent_set(&e, name, strlen(name), kind, 0);
	rc = create_locked(fs, parent, &e, size, false, &busy);
	if (!busy)
		return rc;
	/* A host that lives lets go at once; one that died keeps it until it is recovered. */
	rc = cfs_wait_for(fs, busy, LIVE_WAIT_MS);
	if (rc != -EBUSY)
		return rc < 0 ? rc : -EAGAIN;
	busy = 0;
	rc = create_locked(fs, parent, &e, size, true, &busy);
	if (!busy)
		return rc;
	rc = cfs_wait_for(fs, busy, CFS_LOCK_WAIT_MS);
	return rc < 0 ? rc : -EAGAIN;
}

static int exists(struct cfs *fs, const char *path)
{
	int rc = fail(-EEXIST, "%s:%.300s: exists already; choose another name or delete it first",
		      fs->name, path);

	err_object("%s:%.128s", fs->name, path);
	return rc;
}

static int create(struct cfs *fs, const char *path, enum cfs_kind kind, uint64_t size)
{
	struct cfs_node parent;
	char name[256];
	int rc = -EAGAIN;

	for (unsigned i = 0; i < WALKS && rc == -EAGAIN; i++) {
		rc = cfs_walk_parent(fs, path, &parent, name);
		if (rc == 0)
			rc = create_in(fs, &parent, name, kind, size);
	}
	return rc == -EEXIST ? exists(fs, path) : rc;
}

int cfs_mkdir(struct cfs *fs, const char *path)
{
	return create(fs, path, CFS_KIND_DIR, 0);
}

int cfs_create(struct cfs *fs, const char *path, enum cfs_file_kind kind, uint64_t size)
{
	if (kind == CFS_DIR)
		return cfs_mkdir(fs, path);
	if (kind != CFS_FILE && kind != CFS_DISK && kind != CFS_VM)
		return fail(-EINVAL, "%.200s: unknown kind of object %d", path, (int)kind);
	if (kind == CFS_DISK && (size == 0 || size % CFS_BLOCK || size > CFS_MAX_VOLUME))
		return fail(-EINVAL,
			    "%.200s: a disk of %llu bytes; take a multiple of 4096 up to 64T", path,
			    (unsigned long long)size);
	if (kind != CFS_DISK && size)
		return fail(-EINVAL, "%.200s: only a disk is created with a size", path);
	return create(fs, path, (enum cfs_kind)kind, size);
}

/* --- moving ----------------------------------------------------------------------------------------- */

/* Everything of a rename that both its ends need. */
struct move {
	struct cfs_node from, to, what; /* the directories, and the object */
	char name[256];			/* the new one */
	bool guarded; /* the root's lock is held: a directory changes its parent */
};

/* One step up; the root's lock is held, so that no directory changes its parent meanwhile. */
static int parent_of(struct cfs *fs, uint64_t inode, uint64_t *parent)
{
	struct cfs_lock *lock;
	struct cfs_dir dir;
	int rc = cfs_lock_get(fs, inode - 1, CFS_LOCK_SHARED, CFS_LOCK_WAIT_MS, &lock);

	if (rc < 0)
		return rc;
	rc = cfs_dir_open(fs, inode, &dir);
	if (rc == 0) {
		*parent = le64_get(cfs_dir_inode(&dir)->parent);
		cfs_dir_close(&dir);
	} else if (rc == -ENOENT) {
		rc = -EAGAIN;
	}
	cfs_lock_put(lock);
	return rc;
}

/* A directory must not move into itself. */
static int check_no_loop(struct cfs *fs, const struct move *m, uint64_t root)
{
	uint64_t at = m->to.inode;
	int rc = 0;

	for (unsigned depth = 0; rc == 0 && at != root; depth++) {
		if (at == m->what.inode)
			return fail(-EINVAL, "%s: directory \"%.200s\" cannot move into itself",
				    fs->name, m->what.name);
		if (depth > MAX_DEPTH || !at)
			return -EAGAIN;
		rc = parent_of(fs, at, &at);
	}
	return rc;
}

static void change_names(struct cfs_txn *txn, struct move *m, struct cfs_dir_change *remove,
			 struct cfs_dir_change *insert, struct cfs_buf *buf)
{
	struct cfs_inode_block *n = (struct cfs_inode_block *)buf->data;

	cfs_dir_remove(txn, remove);
	cfs_dir_insert(txn, insert);
	memset(n->name, 0, sizeof(n->name));
	memcpy(n->name, m->name, strlen(m->name));
	n->parent = le64_of(m->to.inode);
	n->modified = le64_of(clock_wall_ns());
	cfs_txn_patch(txn, buf, n->name, sizeof(n->name));
	cfs_txn_patch(txn, buf, &n->parent, sizeof(n->parent));
	cfs_txn_patch(txn, buf, &n->modified, sizeof(n->modified));
}

/* Both directories are open and right; all locks held. */
static int move_between(struct cfs *fs, struct move *m, struct cfs_dir *from, struct cfs_dir *to)
{
	struct cfs_dir_change remove, insert;
	struct cfs_dirent old, new;
	struct cfs_buf *buf;
	struct cfs_txn txn;
	int rc = cfs_buf_get(fs, m->what.inode, CFS_T_INODE, m->what.inode - 1, &buf);

	if (rc < 0)
		return rc;
	cfs_dirent_set(&old, m->what.name, strlen(m->what.name), m->what.kind, m->what.inode);
	cfs_dirent_set(&new, m->name, strlen(m->name), m->what.kind, m->what.inode);
	rc = cfs_node_check(&m->what, (struct cfs_inode_block *)buf->data);
	if (rc == 0)
		rc = cfs_dir_prepare_remove(from, &old, &remove);
	if (rc < 0) {
		cfs_buf_put(fs, buf);
		return rc == -ENOENT ? -EAGAIN : rc;
	}
	rc = cfs_dir_prepare_insert(to, &new, &insert);
	if (rc == 0) {
		rc = cfs_txn_begin_wait(fs, &txn);
		if (rc == 0) {
			change_names(&txn, m, &remove, &insert, buf);
			cfs_txn_end(&txn);
		}
		cfs_dir_change_end(&insert);
	}
	cfs_dir_change_end(&remove);
	cfs_buf_put(fs, buf);
	return rc;
}

static int move_held(struct cfs *fs, struct move *m)
{
	struct cfs_dir from, to, *target = &from;
	int rc = open_checked(fs, &m->from, &from);

	if (rc < 0)
		return rc;
	if (m->to.inode != m->from.inode) {
		target = &to;
		rc = open_checked(fs, &m->to, &to);
		if (rc < 0) {
			cfs_dir_close(&from);
			return rc;
		}
	}
	rc = move_between(fs, m, &from, target);
	if (target == &to)
		cfs_dir_close(&to);
	cfs_dir_close(&from);
	return rc;
}

static int move_once(struct cfs *fs, struct move *m)
{
	uint64_t inodes[3] = {m->from.inode, m->to.inode, m->what.inode};
	struct cfs_lock *guard = NULL;
	struct cfs_held held;
	struct cfs_node root;
	int rc = cfs_wait_for(fs, m->what.inode, CFS_BUSY_WAIT_MS);

	if (rc < 0)
		return rc;
	root_node(fs, &root);
	/* The root's number is the smallest of all: first in order. It guards all moves of directories. */
	if (m->what.kind == CFS_KIND_DIR && m->from.inode != m->to.inode) {
		rc = cfs_lock_get(fs, root.inode - 1, CFS_LOCK_EXCLUSIVE, CFS_LOCK_WAIT_MS, &guard);
		if (rc < 0)
			return rc;
		rc = check_no_loop(fs, m, root.inode);
		for (unsigned i = 0; i < 3; i++) /* held already */
			inodes[i] = inodes[i] == root.inode ? m->what.inode : inodes[i];
	}
	if (rc == 0)
		rc = cfs_hold(fs, inodes, 3, &held);
	if (rc == 0) {
		rc = move_held(fs, m);
		cfs_unhold(&held);
	}
	if (guard)
		cfs_lock_put(guard);
	return rc;
}

int cfs_rename(struct cfs *fs, const char *from, const char *to)
{
	struct move m;
	char name[256];
	int rc = -EAGAIN;

	for (unsigned i = 0; i < WALKS && rc == -EAGAIN; i++) {
		rc = cfs_walk_parent(fs, from, &m.from, name);
		if (rc == 0)
			rc = cfs_walk_parent(fs, to, &m.to, m.name);
		if (rc < 0)
			return rc;
		m.what = m.from;
		rc = step(fs, &m.what, name, strlen(name));
		if (rc == -ENOENT)
			return missing(fs, from, strlen(from));
		if (rc == 0)
			rc = move_once(fs, &m);
	}
	return rc == -EEXIST ? exists(fs, to) : rc;
}

/* --- deleting ------------------------------------------------------------------------------------------ */

int cfs_unlink(struct cfs *fs, const char *path)
{
	struct cfs_node parent, node;
	char name[256];
	int rc = -EAGAIN;

	for (unsigned i = 0; i < WALKS && rc == -EAGAIN; i++) {
		rc = cfs_walk_parent(fs, path, &parent, name);
		if (rc < 0)
			return rc;
		node = parent;
		rc = step(fs, &node, name, strlen(name));
		if (rc == -ENOENT)
			return missing(fs, path, strlen(path));
		if (rc == 0)
			rc = cfs_wait_for(fs, node.inode, CFS_BUSY_WAIT_MS);
		if (rc == 0)
			rc = cfs_trash_put(fs, &parent, &node);
	}
	if (rc == -EBUSY || rc == -ENOTEMPTY) {
		rc = fail_prefix(rc, "%s:%.200s", fs->name, path);
		err_object("%s:%.128s", fs->name, path);
	}
	return rc;
}

/* --- looking --------------------------------------------------------------------------------------------- */

void cfs_stat_fill(const struct cfs_inode_block *n, uint64_t vbn, struct cfs_stat *out)
{
	memset(out, 0, sizeof(*out));
	out->kind = (enum cfs_file_kind)n->kind;
	out->inode = vbn;
	memcpy(out->id, n->id, sizeof(out->id));
	out->size = le64_get(n->size);
	out->allocated = le64_get(n->allocated) * CFS_UNIT;
	out->created_ns = le64_get(n->created);
	out->modified_ns = le64_get(n->modified);
	out->generation = le32_get(n->generation);
	out->thick = le16_get(n->flags) & CFS_INODE_THICK;
	out->deleting = n->work == CFS_WORK_DELETE;
}

void cfs_stat_buf(struct cfs *fs, const struct cfs_buf *buf, struct cfs_stat *out)
{
	cfs_journal_lock(fs);
	cfs_stat_fill((const struct cfs_inode_block *)buf->data, buf->vbn, out);
	cfs_journal_unlock(fs);
}

/* Without the lock: what its holder checkpointed last. A block that is just being written is torn. */
static int stat_plain(struct cfs *fs, const struct cfs_node *node, struct cfs_stat *out)
{
	struct cfs_inode_block *n = xaligned(CFS_BLOCK, CFS_BLOCK);
	int rc = -EAGAIN;

	for (unsigned i = 0; i < 4 && rc < 0; i++) {
		if (i)
			sleep_ms(2);
		rc = cfs_read(fs, node->inode, n, CFS_BLOCK);
		if (rc < 0)
			break;
		rc = cfs_block_check(n, CFS_T_INODE, fs->id, node->inode);
		if (rc == 0)
			rc = cfs_block_validate(n, CFS_T_INODE);
		if (rc == 0)
			rc = cfs_node_check(node, n);
	}
	if (rc == 0)
		cfs_stat_fill(n, node->inode, out);
	free(n);
	return rc;
}

static int stat_buf(struct cfs *fs, const struct cfs_node *node, struct cfs_stat *out)
{
	struct cfs_buf *buf;
	int rc = cfs_buf_get(fs, node->inode, CFS_T_INODE, node->inode - 1, &buf);

	if (rc < 0)
		return rc;
	rc = cfs_node_check(node, (struct cfs_inode_block *)buf->data);
	if (rc == 0)
		cfs_stat_buf(fs, buf, out);
	cfs_buf_put(fs, buf);
	return rc;
}

/*
 * The object of an entry. Its lock says the truth; a disk that a VM of this host uses is newest in our
 * memory; while another host has it in use, what that host wrote last must do; if that is nothing yet,
 * kind and inode are known all the same.
 */
static int stat_node(struct cfs *fs, const struct cfs_node *node, unsigned wait_ms,
		     struct cfs_stat *out)
{
	struct cfs_lock *lock;
	int rc = cfs_lock_get(fs, node->inode - 1, CFS_LOCK_SHARED, wait_ms, &lock);

	if (rc == -EBUSY) {
		lock = cfs_lock_use_open(fs, node->inode - 1, MAX(wait_ms, OPEN_WAIT_MS));
		rc = lock ? 0 : -EBUSY;
	}
	if (rc == -EBUSY || rc == -ETIMEDOUT) {
		rc = stat_plain(fs, node, out);
		if (rc == 0 || rc == -EIO)
			return rc;
		memset(out, 0, sizeof(*out));
		out->kind = (enum cfs_file_kind)node->kind;
		out->inode = node->inode;
		return 0;
	}
	if (rc < 0)
		return rc;
	rc = stat_buf(fs, node, out);
	cfs_lock_put(lock);
	return rc;
}

int cfs_stat(struct cfs *fs, const char *path, struct cfs_stat *out)
{
	struct cfs_node node;
	int rc = -EAGAIN;

	for (unsigned i = 0; i < WALKS && rc == -EAGAIN; i++) {
		rc = cfs_walk(fs, path, &node);
		if (rc == 0)
			rc = stat_node(fs, &node, 1500, out);
	}
	return rc;
}

/*
 * The entries of one leaf, with no lock held; those that are gone meanwhile are left out. What another
 * host has just made is not on the medium yet: it is waited for, but not for ever.
 */
static int list_leaf(struct cfs *fs, const struct cfs_node *dir, const struct cfs_dir_leaf *leaf,
		     uint64_t from, unsigned *patience_ms,
		     int (*fn)(void *, const char *, const struct cfs_stat *), void *arg)
{
	struct cfs_dirent e;
	unsigned at = 0;
	int rc = 0;

	while (rc == 0 && (at = cfs_dirleaf_entry(leaf, at, &e))) {
		struct cfs_node node = {.inode = e.inode, .parent = dir->inode, .kind = e.kind};
		struct cfs_stat st;

		if (e.hash < from)
			continue;
		memcpy(node.name, e.name, sizeof(node.name));
		rc = stat_node(fs, &node, 0, &st);
		if (rc == 0 && st.created_ns == 0 && *patience_ms) {
			uint64_t began = clock_boot_ms();

			rc = stat_node(fs, &node, MIN(*patience_ms, 1500u), &st);
			*patience_ms -= (unsigned)MIN(*patience_ms, clock_boot_ms() - began);
		}
		if (rc == 0)
			rc = fn(arg, e.name, &st);
		else if (rc == -EAGAIN)
			rc = 0;
	}
	return rc;
}

int cfs_readdir(struct cfs *fs, const char *path,
		int (*fn)(void *arg, const char *name, const struct cfs_stat *stat), void *arg)
{
	struct cfs_dir_leaf *leaf = xmalloc(sizeof(*leaf));
	uint64_t from = 0, next = 0;
	unsigned patience_ms = READDIR_PATIENCE_MS;
	struct cfs_node node;
	int rc = cfs_walk(fs, path, &node);

	if (rc == 0 && node.kind != CFS_KIND_DIR)
		rc = fail(-ENOENT, "%s:%.300s: not a directory", fs->name, path);
	while (rc == 0) {
		struct cfs_lock *lock;
		struct cfs_dir dir;
		int last;

		rc = dir_take(fs, &node, CFS_LOCK_SHARED, &lock, &dir);
		if (rc < 0)
			break;
		rc = last = cfs_dir_leaf(&dir, from, leaf, &next);
		cfs_dir_close(&dir);
		cfs_lock_put(lock);
		if (rc < 0)
			break;
		rc = list_leaf(fs, &node, leaf, from, &patience_ms, fn, arg);
		if (last)
			break;
		from = next;
	}
	free(leaf);
	return rc == -EAGAIN ? missing(fs, path, strlen(path)) : rc;
}
