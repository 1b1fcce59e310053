// SPDX-License-Identifier: Apache-2.0
/*
 * replace.c: one file takes another's name, and that one goes into the trash, in one transaction: a crash
 * leaves the old content or the new, and nothing besides.
 */
#include "clusterfs/names.h"

#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"

#define WALKS 20u /* so often what a walk found may have changed meanwhile */

struct replace {
	struct cfs_node parent, old, new;
	struct cfs_buf *old_buf, *new_buf;
};

static void take_name(struct cfs_txn *txn, struct replace *r)
{
	struct cfs_inode_block *n = (struct cfs_inode_block *)r->new_buf->data;

	memcpy(n->name, r->old.name, sizeof(n->name));
	n->modified = le64_of(clock_wall_ns());
	cfs_txn_patch(txn, r->new_buf, n->name, sizeof(n->name));
	cfs_txn_patch(txn, r->new_buf, &n->modified, sizeof(n->modified));
}

static int change(struct cfs *fs, struct replace *r, struct cfs_dir_change *leave,
		  struct cfs_dir_change *take, struct cfs_dir_change *drop)
{
	struct cfs_txn txn;
	int rc = cfs_txn_begin_wait(fs, &txn);

	if (rc < 0)
		return rc;
	cfs_dir_remove(&txn, leave);
	cfs_dir_retarget(&txn, take, r->new.inode);
	cfs_dir_insert(&txn, drop);
	take_name(&txn, r);
	cfs_trash_mark(&txn, r->old_buf, drop->dir->inode);
	cfs_txn_end(&txn);
	return 0;
}

static int prepare(struct cfs *fs, struct replace *r, struct cfs_dir *dir, struct cfs_dir *trash)
{
	struct cfs_dir_change leave, take = {0}, drop = {0};
	char name[CFS_TRASH_NAME_BYTES];
	struct cfs_dirent old, new, gone;
	int rc;

	cfs_dirent_set(&old, r->old.name, strlen(r->old.name), r->old.kind, r->old.inode);
	cfs_dirent_set(&new, r->new.name, strlen(r->new.name), r->new.kind, r->new.inode);
	cfs_trash_name(r->old.inode, name);
	cfs_dirent_set(&gone, name, strlen(name), r->old.kind, r->old.inode);
	rc = cfs_dir_prepare_remove(dir, &new, &leave);
	if (rc == 0) {
		rc = cfs_dir_prepare_remove(dir, &old, &take);
		if (rc == 0)
			rc = cfs_dir_prepare_insert(trash, &gone, &drop);
		if (rc == 0)
			rc = change(fs, r, &leave, &take, &drop);
		cfs_dir_change_end(&drop);
		cfs_dir_change_end(&take);
	}
	cfs_dir_change_end(&leave);
	return rc == -ENOENT ? -EAGAIN : rc;
}

/* All locks are held: are they still what the walks found, and is nobody using the old one? */
static int check(struct cfs *fs, struct replace *r, struct cfs_dir *dir)
{
	int rc = cfs_node_check(&r->parent, cfs_dir_inode(dir));

	if (rc == 0)
		rc = cfs_buf_get(fs, r->old.inode, CFS_T_INODE, r->old.inode - 1, &r->old_buf);
	if (rc == 0)
		rc = cfs_buf_get(fs, r->new.inode, CFS_T_INODE, r->new.inode - 1, &r->new_buf);
	if (rc == 0)
		rc = cfs_trash_idle(fs, &r->old, r->old_buf);
	if (rc == 0)
		rc = cfs_node_check(&r->new, (struct cfs_inode_block *)r->new_buf->data);
	return rc;
}

static int replace_held(struct cfs *fs, struct replace *r, uint64_t trash)
{
	struct cfs_dir dir, into;
	int rc = cfs_dir_open(fs, r->parent.inode, &dir);

	if (rc < 0)
		return rc == -ENOENT ? -EAGAIN : rc;
	r->old_buf = r->new_buf = NULL;
	rc = check(fs, r, &dir);
	if (rc == 0)
		rc = cfs_dir_open(fs, trash, &into);
	if (rc == 0) {
		rc = prepare(fs, r, &dir, &into);
		cfs_dir_close(&into);
	}
	cfs_buf_put(fs, r->old_buf);
	cfs_buf_put(fs, r->new_buf);
	cfs_dir_close(&dir);
	return rc;
}

static int replace_once(struct cfs *fs, struct replace *r)
{
	uint64_t trash = fs->trash_dir;
	uint64_t inodes[] = {r->parent.inode, r->old.inode, r->new.inode, trash};
	struct cfs_held held;
	int rc = cfs_wait_for(fs, r->old.inode, CFS_BUSY_WAIT_MS);

	if (rc == 0)
		rc = cfs_wait_for(fs, r->new.inode, CFS_BUSY_WAIT_MS);
	if (rc == 0)
		rc = cfs_hold(fs, inodes, ARRAY_SIZE(inodes), &held);
	if (rc < 0)
		return rc;
	rc = replace_held(fs, r, trash);
	cfs_unhold(&held);
	return rc < 0 ? rc : cfs_trash_begun(fs, r->old.inode);
}

int cfs_replace(struct cfs *fs, const char *from, const char *to)
{
	struct replace r;
	char name[256];
	int rc = -EAGAIN;

	for (unsigned i = 0; i < WALKS && rc == -EAGAIN; i++) {
		rc = cfs_walk_parent(fs, to, &r.parent, name);
		if (rc == 0)
			rc = cfs_walk(fs, to, &r.old);
		if (rc == 0)
			rc = cfs_walk(fs, from, &r.new);
		if (rc < 0)
			return rc;
		if (r.old.kind == CFS_KIND_DIR || r.old.kind != r.new.kind ||
		    r.old.inode == r.new.inode || r.old.parent != r.new.parent)
			return fail(-EINVAL, "%s:%.200s: cannot replace %.200s", fs->name, from,
				    to);
		rc = r.old.parent == r.parent.inode ? replace_once(fs, &r) : -EAGAIN;
	}
	if (rc == -EBUSY) {
		rc = fail_prefix(rc, "%s:%.200s", fs->name, to);
		err_object("%s:%.128s", fs->name, to);
	}
	return rc;
}
