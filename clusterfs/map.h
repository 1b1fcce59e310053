// SPDX-License-Identifier: Apache-2.0
/*
 * map.h (private): a file's blocks. What a disk's I/O thread does with them is in iopath.h.
 *
 * The map is owned by whoever holds the file's lock exclusively: one thread changes it (the I/O
 * thread of the disk, or the blocking calls of file.c, never both). Reading an entry of a pinned
 * leaf needs no lock in that thread. But a commit may make grains zero (fresh.h): who sets an entry reads it
 * in the same transaction.
 */
#ifndef CLUSTERFS_MAP_H
#define CLUSTERFS_MAP_H

#include "clusterfs/txn.h"

void cfs_entry_decode(const struct cfs_map_entry *disk, struct cfs_entry *out);
void cfs_entry_encode(const struct cfs_entry *in, struct cfs_map_entry *disk);
/* fresh.c: clears bits of the state of an entry, whoever's leaf it is. It is dirty. */
void cfs_leaf_clear(struct cfs_txn *txn, struct cfs_buf *leaf, unsigned slot, uint32_t bits);
#define CFS_STATE_ALL_BLOCK 0x55555555u
#define CFS_LEAF_BYTES	    ((uint64_t)CFS_LEAF_ENTRIES * CFS_UNIT)

/* Height a tree needs for `size` bytes: 0 = the root is a leaf. */
unsigned cfs_map_height(uint64_t size);

/* An open file's map. */
struct cfs_map {
	struct cfs *fs;
	uint64_t inode, lock;	   /* vbns */
	struct cfs_buf *inode_buf; /* referenced while open */
	uint32_t generation;
	struct cfs_stock *stock; /* NULL when opened for reading */
	pthread_mutex_t tree;	 /* inner nodes: one structural change at a time; across I/O */
};
int cfs_map_open(struct cfs *fs, uint64_t inode, bool write, struct cfs_map *map);
void cfs_map_close(struct cfs_map *map);

/*
 * Empties everything from `from` bytes on (rounded up to units) and gives back its space, tree blocks
 * too; each transaction stands by itself, so it may be ended and begun again at any point. Blocking.
 */
int cfs_map_cut(struct cfs_map *map, uint64_t from);

#endif
