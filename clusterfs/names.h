// SPDX-License-Identifier: Apache-2.0
/*
 * names.h (private): paths, several locks at once, open files, and deletion that can be taken up again.
 *
 * A walk holds one directory's lock at a time. What it found may have moved when the next lock is there,
 * so an inode repeats its parent and its name: if they are not what the walk expects, it begins anew.
 * Several locks are taken in the order of their numbers; groups' locks always come last (they are taken
 * while directories and inodes are held, never the other way round).
 */
#ifndef CLUSTERFS_NAMES_H
#define CLUSTERFS_NAMES_H

#include "clusterfs/dir.h"
#include "clusterfs/lock.h"

#define CFS_BUSY_WAIT_MS 5000u /* for a file that another host may just not have let go yet */

/* What a walk found: an inode, and the entry that names it. */
struct cfs_node {
	uint64_t inode, parent; /* vbns; of the root the parent is 0 */
	enum cfs_kind kind;
	char name[256]; /* "" for the root */
};
/* -ENOENT names the part of the path that is missing; -EINVAL a path that cannot be. */
int cfs_walk(struct cfs *fs, const char *path, struct cfs_node *out);
/* The directory of `path` and its last name. -EINVAL for "/". */
int cfs_walk_parent(struct cfs *fs, const char *path, struct cfs_node *parent, char name[256]);
/* -EAGAIN (walk again) when `inode` is not any more what the walk had found. */
int cfs_node_check(const struct cfs_node *node, const struct cfs_inode_block *inode);

/* Up to five locks, exclusive, in the right order; twice the same is once. */
struct cfs_held {
	unsigned n;
	struct cfs_lock *lock[5];
};
int cfs_hold(struct cfs *fs, const uint64_t *inodes, unsigned n, struct cfs_held *held);
void cfs_unhold(struct cfs_held *held);

/* Waits for an object's lock alone, so that nobody waits for what else would be held meanwhile. */
int cfs_wait_for(struct cfs *fs, uint64_t inode, unsigned wait_ms);

void cfs_stat_fill(const struct cfs_inode_block *inode, uint64_t vbn, struct cfs_stat *out);
/* The same of one in memory, which a disk's I/O thread may be changing. */
void cfs_stat_buf(struct cfs *fs, const struct cfs_buf *buf, struct cfs_stat *out);

/* --- open files (file.c) ------------------------------------------------------------------------- */

/* Whether this host has the file open. The inode's lock is in use by the caller, so that it stays so. */
bool cfs_file_is_open(struct cfs *fs, uint64_t inode);
unsigned cfs_files_open(struct cfs *fs);
/* Frees what is open; the volume is let go of. */
void cfs_files_abandon(struct cfs *fs);

/* --- trash (trash.c) ------------------------------------------------------------------------------- */

/*
 * A deleted object moves into the hidden trash directory, under its inode's number in hex, with
 * inode.work = CFS_WORK_DELETE, in one transaction. Then its blocks go piece by piece, and last its inode
 * and the name in the trash, in one transaction. Whoever finds a name there may go on.
 *
 * Mount, after locks and groups started: starts the thread, which takes up what lies there. Never waits.
 */
int cfs_trash_start(struct cfs *fs);
void cfs_trash_stop(struct cfs *fs);
/* Takes up what a dead host left; mount and recovery. Without the thread it is done at once. */
int cfs_trash_resume(struct cfs *fs);
/* Goes on with one inode that lies in the trash. */
int cfs_trash_finish(struct cfs *fs, uint64_t inode);
/* Moves what `node` names into the trash; the caller does not hold any lock. -EAGAIN: walk again. */
int cfs_trash_put(struct cfs *fs, const struct cfs_node *parent, const struct cfs_node *node);
/* The halves of that, for replace.c: may it go (the caller holds its lock)? The inode's new name. */
int cfs_trash_idle(struct cfs *fs, const struct cfs_node *node, const struct cfs_buf *buf);
void cfs_trash_mark(struct cfs_txn *txn, struct cfs_buf *buf, uint64_t trash);
/* And what is left to do with it. */
int cfs_trash_begun(struct cfs *fs, uint64_t inode);
#define CFS_TRASH_NAME_BYTES 24u
void cfs_trash_name(uint64_t inode, char name[CFS_TRASH_NAME_BYTES]);

#endif
