// SPDX-License-Identifier: Apache-2.0
/*
 * trash.c: deletion as restartable long work. See names.h. A thread of the volume goes on with what
 * lies in the trash, so that deleting 10 TB returns at once; each piece is a transaction of map.c or
 * dir.c, so a crash anywhere leaves a name in the trash and less to do.
 */
#include "clusterfs/names.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "clusterfs/group.h"
#include "clusterfs/map.h"

#define POLL_S	     2	  /* for takeovers */
#define LOOK_WAIT_MS 500u /* for another host's lock on the trash, then it is tried again */

struct job {
	struct job *next;
	uint64_t inode;
};

struct cfs_trash {
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t more;
	struct job *first, **end;
	bool stop;
	bool look;  /* for what is in the trash: at the start, after a takeover */
	bool later; /* something could not be had now: look again when there is time */
};

void cfs_trash_name(uint64_t inode, char name[CFS_TRASH_NAME_BYTES])
{
	snprintf(name, CFS_TRASH_NAME_BYTES, "%llx", (unsigned long long)inode);
}

/* Gives a lock back at once: another host should not have to wish for it. */
static void drop_lock(struct cfs *fs, uint64_t inode)
{
	struct cfs_lock *lock;
	int rc = cfs_lock_get(fs, inode - 1, CFS_LOCK_SHARED, 0, &lock);

	if (rc == 0)
		rc = cfs_lock_drop(lock);
	if (rc < 0)
		log_info("cfs", "volume %s: giving back the lock of inode %llu: %s", fs->name,
			 (unsigned long long)inode, err_message(rc));
}

static struct cfs_inode_block *inode_of(struct cfs_buf *buf)
{
	return (struct cfs_inode_block *)buf->data;
}

/* The end of every deletion: the name, wherever it is by now, and the inode. Its group is held. */
static void free_inode(struct cfs_txn *txn, struct cfs_dir_change *remove, struct cfs_buf *buf)
{
	struct cfs_inode_block *n = inode_of(buf);

	cfs_dir_remove(txn, remove);
	n->kind = CFS_KIND_NONE;
	n->work = CFS_WORK_NONE;
	cfs_txn_patch(txn, buf, &n->kind, 2);
	cfs_meta_free(txn, CFS_SLAB_INODE, buf->vbn);
}

/* --- in ------------------------------------------------------------------------------------------- */

void cfs_trash_mark(struct cfs_txn *txn, struct cfs_buf *buf, uint64_t trash)
{
	struct cfs_inode_block *n = (struct cfs_inode_block *)buf->data;

	n->work = CFS_WORK_DELETE;
	n->cursor = le64_of(0);
	n->parent = le64_of(trash);
	memset(n->name, 0, sizeof(n->name));
	cfs_trash_name(buf->vbn, n->name);
	cfs_txn_patch(txn, buf, &n->work, sizeof(n->work));
	cfs_txn_patch(txn, buf, &n->cursor, sizeof(n->cursor));
	cfs_txn_patch(txn, buf, &n->parent, sizeof(n->parent));
	cfs_txn_patch(txn, buf, n->name, sizeof(n->name));
}

static int put_between(struct cfs *fs, const struct cfs_node *node, struct cfs_dir *from,
		       struct cfs_dir *trash, struct cfs_buf *buf)
{
	struct cfs_dir_change remove, insert;
	char name[CFS_TRASH_NAME_BYTES];
	struct cfs_dirent old, new;
	struct cfs_txn txn;
	int rc;

	cfs_dirent_set(&old, node->name, strlen(node->name), node->kind, node->inode);
	cfs_trash_name(node->inode, name);
	cfs_dirent_set(&new, name, strlen(name), node->kind, node->inode);
	rc = cfs_dir_prepare_remove(from, &old, &remove);
	if (rc < 0)
		return rc == -ENOENT ? -EAGAIN : rc;
	rc = cfs_dir_prepare_insert(trash, &new, &insert);
	if (rc == 0) {
		rc = cfs_txn_begin_wait(fs, &txn);
		if (rc == 0) {
			cfs_dir_remove(&txn, &remove);
			cfs_dir_insert(&txn, &insert);
			cfs_trash_mark(&txn, buf, trash->inode);
			cfs_txn_end(&txn);
		}
		cfs_dir_change_end(&insert);
	}
	cfs_dir_change_end(&remove);
	return rc;
}

/* Nothing but an inode: goes at once, name, inode and its block in one transaction. */
static int delete_now(struct cfs *fs, const struct cfs_node *node, struct cfs_dir *from,
		      struct cfs_buf *buf)
{
	unsigned group = cfs_group_of(fs, node->inode);
	struct cfs_dir_change remove;
	struct cfs_dirent e;
	struct cfs_txn txn;
	int rc;

	cfs_dirent_set(&e, node->name, strlen(node->name), node->kind, node->inode);
	rc = cfs_dir_prepare_remove(from, &e, &remove);
	if (rc < 0)
		return rc == -ENOENT ? -EAGAIN : rc;
	rc = cfs_group_hold(fs, group);
	if (rc == 0) {
		rc = cfs_txn_begin_wait(fs, &txn);
		if (rc == 0) {
			free_inode(&txn, &remove, buf);
			cfs_txn_end(&txn);
		}
		cfs_group_unhold(fs, group);
	}
	cfs_dir_change_end(&remove);
	return rc;
}

int cfs_trash_idle(struct cfs *fs, const struct cfs_node *node, const struct cfs_buf *buf)
{
	const struct cfs_inode_block *n = (const struct cfs_inode_block *)buf->data;
	int rc = cfs_node_check(node, n);

	if (rc < 0)
		return rc;
	if (n->kind == CFS_KIND_DIR && le64_get(n->size))
		return fail(-ENOTEMPTY, "directory is not empty; delete what is in it first");
	if (cfs_file_is_open(fs, node->inode)) {
		rc = fail(-EBUSY, "in use on this host; close it first");
		err_holder("%s", fs->options.host_name ? fs->options.host_name : "this host");
	}
	return rc;
}

static int delete_held(struct cfs *fs, const struct cfs_node *parent, const struct cfs_node *node)
{
	const uint64_t inodes[] = {parent->inode, node->inode};
	struct cfs_held held;
	struct cfs_buf *buf;
	struct cfs_dir from;
	int rc = cfs_hold(fs, inodes, 2, &held);

	if (rc < 0)
		return rc;
	rc = cfs_dir_open(fs, parent->inode, &from);
	if (rc == 0) {
		rc = cfs_node_check(parent, cfs_dir_inode(&from));
		if (rc == 0)
			rc = cfs_buf_get(fs, node->inode, CFS_T_INODE, node->inode - 1, &buf);
		if (rc == 0) {
			rc = cfs_trash_idle(fs, node, buf);
			if (rc == 0)
				rc = le64_get(inode_of(buf)->root)
					     ? 1
					     : delete_now(fs, node, &from, buf);
			cfs_buf_put(fs, buf);
		}
		cfs_dir_close(&from);
	} else if (rc == -ENOENT) {
		rc = -EAGAIN;
	}
	cfs_unhold(&held);
	return rc;
}

static int put_held(struct cfs *fs, const struct cfs_node *parent, const struct cfs_node *node,
		    uint64_t trash)
{
	struct cfs_dir from, into;
	struct cfs_buf *buf;
	int rc = cfs_dir_open(fs, parent->inode, &from);

	if (rc < 0)
		return rc == -ENOENT ? -EAGAIN : rc;
	rc = cfs_node_check(parent, cfs_dir_inode(&from));
	if (rc == 0)
		rc = cfs_dir_open(fs, trash, &into);
	if (rc == 0) {
		rc = cfs_buf_get(fs, node->inode, CFS_T_INODE, node->inode - 1, &buf);
		if (rc == 0) {
			rc = cfs_trash_idle(fs, node, buf);
			if (rc == 0)
				rc = put_between(fs, node, &from, &into, buf);
			cfs_buf_put(fs, buf);
		}
		cfs_dir_close(&into);
	}
	cfs_dir_close(&from);
	return rc;
}

static void enqueue(struct cfs_trash *t, uint64_t inode)
{
	struct job *job = xcalloc(1, sizeof(*job));

	job->inode = inode;
	pthread_mutex_lock(&t->lock);
	*t->end = job;
	t->end = &job->next;
	pthread_cond_signal(&t->more);
	pthread_mutex_unlock(&t->lock);
}

int cfs_trash_begun(struct cfs *fs, uint64_t inode)
{
	int rc = 0;

	if (fs->trash)
		enqueue(fs->trash, inode);
	else
		rc = cfs_trash_finish(fs, inode);
	return rc == -EBUSY ? 0 : rc; /* it is deleted; its space comes back later */
}

int cfs_trash_put(struct cfs *fs, const struct cfs_node *parent, const struct cfs_node *node)
{
	uint64_t trash = fs->trash_dir, inodes[3] = {parent->inode, node->inode, trash};
	struct cfs_held held;
	int rc = delete_held(fs, parent, node);

	if (rc <= 0)
		return rc;
	/* It has blocks: through the trash, which all hosts share. */
	rc = cfs_hold(fs, inodes, 3, &held);
	if (rc < 0)
		return rc;
	rc = put_held(fs, parent, node, trash);
	cfs_unhold(&held);
	return rc < 0 ? rc : cfs_trash_begun(fs, node->inode);
}

/* --- out ----------------------------------------------------------------------------------------------- */

/* Is it (still) an inode in the trash? 1 yes, 0 no: somebody was faster. */
static int lies_there(struct cfs *fs, uint64_t inode, uint64_t trash, struct cfs_buf **out)
{
	const struct cfs_inode_block *n;
	char name[CFS_TRASH_NAME_BYTES];
	int rc = cfs_buf_get(fs, inode, CFS_T_INODE, inode - 1, out);

	if (rc < 0)
		return rc;
	n = (const struct cfs_inode_block *)(*out)->data;
	cfs_trash_name(inode, name);
	if (n->kind != CFS_KIND_NONE && n->work == CFS_WORK_DELETE &&
	    le64_get(n->parent) == trash && strcmp(n->name, name) == 0)
		return 1;
	cfs_buf_put(fs, *out);
	return 0;
}

/* Gives back all that the inode names; its lock is in use by us. */
static int cut(struct cfs *fs, uint64_t inode, const struct cfs_inode_block *n)
{
	struct cfs_dir dir;
	struct cfs_map map;
	int rc;

	if (n->kind == CFS_KIND_DIR) {
		rc = cfs_dir_open(fs, inode, &dir);
		if (rc == 0) {
			rc = cfs_dir_cut(&dir);
			cfs_dir_close(&dir);
		}
		return rc;
	}
	if (!le64_get(n->root))
		return 0;
	rc = cfs_map_open(fs, inode, true, &map);
	if (rc == 0) {
		rc = cfs_map_cut(&map, 0);
		cfs_map_close(&map);
	}
	return rc;
}

/* The last transaction: the inode and its name. Trash's and inode's locks held. */
static int forget(struct cfs *fs, uint64_t inode, struct cfs_dir *trash, struct cfs_buf *buf)
{
	struct cfs_inode_block *n = (struct cfs_inode_block *)buf->data;
	struct cfs_dir_change remove;
	unsigned group = cfs_group_of(fs, inode);
	struct cfs_dirent e;
	struct cfs_txn txn;
	int rc;

	cfs_dirent_set(&e, n->name, strlen(n->name), (enum cfs_kind)n->kind, inode);
	rc = cfs_dir_prepare_remove(trash, &e, &remove);
	if (rc < 0)
		return rc == -ENOENT
			       ? fail(-EUCLEAN,
				      "inode %llu: has no name in the trash; run volume check",
				      (unsigned long long)inode)
			       : rc;
	rc = cfs_group_hold(fs, group);
	if (rc == 0) {
		rc = cfs_txn_begin_wait(fs, &txn);
		if (rc == 0) {
			free_inode(&txn, &remove, buf);
			cfs_txn_end(&txn);
		}
		cfs_group_unhold(fs, group);
	}
	cfs_dir_change_end(&remove);
	return rc;
}

static int forget_locked(struct cfs *fs, uint64_t inode, uint64_t trash)
{
	const uint64_t inodes[] = {inode, trash};
	struct cfs_held held;
	struct cfs_buf *buf;
	struct cfs_dir dir;
	int rc = cfs_hold(fs, inodes, 2, &held);

	if (rc < 0)
		return rc;
	rc = lies_there(fs, inode, trash, &buf);
	if (rc > 0) {
		rc = cfs_dir_open(fs, trash, &dir);
		if (rc == 0) {
			rc = forget(fs, inode, &dir, buf);
			cfs_dir_close(&dir);
		}
		cfs_buf_put(fs, buf);
	}
	cfs_unhold(&held);
	return rc;
}

int cfs_trash_finish(struct cfs *fs, uint64_t inode)
{
	uint64_t trash = fs->trash_dir;
	struct cfs_lock *lock;
	struct cfs_buf *buf;
	/* Another host may be at it, or have its lock left over from a look: that one it gives back. */
	int rc = cfs_lock_get(fs, inode - 1, CFS_LOCK_EXCLUSIVE, LOOK_WAIT_MS, &lock);

	if (rc < 0)
		return rc;
	rc = lies_there(fs, inode, trash, &buf);
	if (rc > 0) {
		rc = cut(fs, inode, (struct cfs_inode_block *)buf->data);
		cfs_buf_put(fs, buf);
		cfs_lock_put(lock);
		if (rc == 0)
			rc = forget_locked(fs, inode, trash);
		return rc;
	}
	cfs_lock_put(lock);
	return rc;
}

/* --- taking it up ------------------------------------------------------------------------------------------- */

static int resume_leaf(struct cfs *fs, const struct cfs_dir_leaf *leaf)
{
	struct cfs_dirent e;
	unsigned at = 0;
	int rc = 0;

	while (rc == 0 && (at = cfs_dirleaf_entry(leaf, at, &e)))
		rc = cfs_trash_begun(fs, e.inode);
	return rc;
}

/* One pass over the trash; -EBUSY while a dead host's lock on it is not free yet. */
static int resume(struct cfs *fs, unsigned wait_ms)
{
	struct cfs_dir_leaf *leaf = xmalloc(sizeof(*leaf));
	uint64_t trash = fs->trash_dir, from = 0;
	int rc = 0, last = 0;

	while (rc == 0 && !last) {
		struct cfs_lock *lock;
		struct cfs_dir dir;

		rc = cfs_lock_get(fs, trash - 1, CFS_LOCK_SHARED, wait_ms, &lock);
		if (rc < 0)
			break;
		rc = cfs_dir_open(fs, trash, &dir);
		if (rc == 0) {
			rc = last = cfs_dir_leaf(&dir, from, leaf, &from);
			cfs_dir_close(&dir);
		}
		cfs_lock_put(lock);
		if (rc >= 0)
			rc = resume_leaf(fs, leaf);
	}
	free(leaf);
	if (rc >= 0)
		drop_lock(fs, trash); /* other hosts delete too */
	return rc < 0 ? rc : 0;
}

int cfs_trash_resume(struct cfs *fs)
{
	struct cfs_trash *t = fs->trash;

	if (!t)
		return resume(fs, CFS_LOCK_WAIT_MS);
	pthread_mutex_lock(&t->lock);
	t->look = true;
	pthread_cond_signal(&t->more);
	pthread_mutex_unlock(&t->lock);
	return 0;
}

/* Queues what lies there; tries again when another host has the trash. Lock held, let go meanwhile. */
static void look(struct cfs *fs, struct cfs_trash *t)
{
	int rc;

	t->look = false;
	pthread_mutex_unlock(&t->lock);
	rc = resume(fs, LOOK_WAIT_MS);
	if (rc < 0 && rc != -EBUSY && rc != -ESTALE)
		log_warn("cfs", "volume %s: looking for deleted files: %s", fs->name,
			 err_message(rc));
	pthread_mutex_lock(&t->lock);
	t->look |= rc == -EBUSY;
}

/* New work, or a dead host was taken over: it may have left some. Lock held. */
static void wait_for_work(struct cfs *fs, struct cfs_trash *t)
{
	struct timespec until = clock_in_ms(POLL_S * 1000);

	pthread_cond_clockwait(&t->more, &t->lock, CLOCK_MONOTONIC, &until);
	t->look |= atomic_exchange(&fs->took_over, false) || t->later;
	t->later = false;
}

static void *trash_main(void *arg)
{
	struct cfs *fs = arg;
	struct cfs_trash *t = fs->trash;

	pthread_mutex_lock(&t->lock);
	while (!t->stop) {
		struct job *job = t->first;
		int rc;

		if (!job && t->look) {
			look(fs, t);
			continue;
		}
		if (!job) {
			wait_for_work(fs, t);
			continue;
		}
		t->first = job->next;
		if (!t->first)
			t->end = &t->first;
		pthread_mutex_unlock(&t->lock);
		rc = cfs_trash_finish(fs, job->inode);
		if (rc < 0 && rc != -ESTALE && rc != -EBUSY)
			log_warn("cfs", "volume %s: deleting inode %llu: %s", fs->name,
				 (unsigned long long)job->inode, err_message(rc));
		free(job);
		pthread_mutex_lock(&t->lock);
		t->later |= rc == -EBUSY;
	}
	pthread_mutex_unlock(&t->lock);
	return NULL;
}

int cfs_trash_start(struct cfs *fs)
{
	struct cfs_trash *t = xcalloc(1, sizeof(*t));
	int rc;

	pthread_mutex_init(&t->lock, NULL);
	pthread_cond_init(&t->more, NULL);
	t->end = &t->first;
	t->look = true;
	atomic_store(&fs->leaving, false);
	fs->trash = t;
	rc = pthread_create(&t->thread, NULL, trash_main, fs);
	if (rc) {
		fs->trash = NULL;
		pthread_cond_destroy(&t->more);
		pthread_mutex_destroy(&t->lock);
		free(t);
		return fail(-rc, "volume %s: no thread for deletions", fs->name);
	}
	return 0;
}

void cfs_trash_stop(struct cfs *fs)
{
	struct cfs_trash *t = fs->trash;

	if (!t)
		return;
	atomic_store(&fs->leaving, true); /* what is left to do is what is left in the trash */
	pthread_mutex_lock(&t->lock);
	t->stop = true;
	pthread_cond_signal(&t->more);
	pthread_mutex_unlock(&t->lock);
	pthread_join(t->thread, NULL);
	fs->trash = NULL;
	while (t->first) {
		struct job *job = t->first;

		t->first = job->next;
		free(job);
	}
	pthread_cond_destroy(&t->more);
	pthread_mutex_destroy(&t->lock);
	free(t);
}
