// SPDX-License-Identifier: Apache-2.0
/*
 * dir.h (private): a directory: a B+ tree from names' hashes to inodes, one block a node.
 *
 * All blocks of a directory, its inode included, are protected by its lock (inode - 1); whoever calls
 * here holds it: shared is enough to read. A change comes in two halves, because a transaction must
 * not wait: prepare reads the path and reserves the blocks that a split may need; the change itself
 * cannot fail and runs inside of the transaction; end lets go of everything, used or not.
 *
 *	cfs_dir_open(fs, inode, &dir);
 *	rc = cfs_dir_prepare_insert(&dir, &entry, &change);	// -EEXIST, -ENOSPC, -EUCLEAN
 *	cfs_txn_begin_wait(fs, &txn);
 *	cfs_dir_insert(&txn, &change);
 *	cfs_txn_end(&txn);
 *	cfs_dir_change_end(&change);
 *	cfs_dir_close(&dir);
 *
 * Changes of one directory in one transaction: removals and new targets first, then one insertion; all prepared
 * before.
 * A leaf that became empty stays. Equal hashes never leave their leaf.
 */
#ifndef CLUSTERFS_DIR_H
#define CLUSTERFS_DIR_H

#include "clusterfs/dirleaf.h"
#include "clusterfs/txn.h"
#include "clusterfs/validate.h"

struct cfs_dir {
	struct cfs *fs;
	uint64_t inode, lock;	   /* vbns */
	struct cfs_buf *inode_buf; /* referenced while open */
};

/* -ENOENT when no directory is there (any more), -EUCLEAN. */
int cfs_dir_open(struct cfs *fs, uint64_t inode, struct cfs_dir *dir);
void cfs_dir_close(struct cfs_dir *dir);
static inline struct cfs_inode_block *cfs_dir_inode(struct cfs_dir *dir)
{
	return (struct cfs_inode_block *)dir->inode_buf->data;
}

/* `e` has name, len and hash set; inode and kind are filled in. -ENOENT (without words). */
int cfs_dir_lookup(struct cfs_dir *dir, struct cfs_dirent *e);

/*
 * For walks that let go of the lock between leaves: copies the leaf in which `hash` would lie, and
 * the smallest hash of the one behind it. 0: copied; 1: copied and it is the last; an empty
 * directory is a copied, last, empty leaf.
 */
int cfs_dir_leaf(struct cfs_dir *dir, uint64_t hash, struct cfs_dir_leaf *out, uint64_t *next);

struct cfs_dir_change {
	struct cfs_dir *dir;
	struct cfs_dirent entry;
	unsigned levels;			  /* buffers in `path`; 0: the tree has no root */
	struct cfs_buf *path[CFS_MAX_HEIGHT + 1]; /* root first, the leaf last */
	unsigned slot[CFS_MAX_HEIGHT + 1];	  /* in path[i]: where path[i + 1] hangs */
	unsigned reserved, used;		  /* new blocks */
	uint64_t block[CFS_MAX_HEIGHT + 2];
};

/* `near`: vbn that new blocks should be close to. Reserves; -EEXIST (in words by the caller). */
int cfs_dir_prepare_insert(struct cfs_dir *dir, const struct cfs_dirent *e,
			   struct cfs_dir_change *change);
/* -ENOENT when the name is not there. */
int cfs_dir_prepare_remove(struct cfs_dir *dir, const struct cfs_dirent *e,
			   struct cfs_dir_change *change);
void cfs_dir_insert(struct cfs_txn *txn, struct cfs_dir_change *change);
void cfs_dir_remove(struct cfs_txn *txn, struct cfs_dir_change *change);
/* The entry, prepared as for removal, names another object of its kind from now on. */
void cfs_dir_retarget(struct cfs_txn *txn, struct cfs_dir_change *change, uint64_t inode);
void cfs_dir_change_end(struct cfs_dir_change *change);

/*
 * Frees the tree of a directory that is being deleted, a block a transaction, the last one first: so
 * it can end and begin again anywhere. Lock held exclusively.
 */
int cfs_dir_cut(struct cfs_dir *dir);

#endif
