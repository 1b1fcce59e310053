// SPDX-License-Identifier: Apache-2.0
/*
 * map.h (private to clusterfs; vfs/thin.c is its other user): a file's blocks.
 *
 * The map is owned by whoever holds the file's lock exclusively: one thread changes it (the I/O
 * thread of the disk, or the blocking calls of file.c, never both). Reading an entry of a pinned
 * leaf needs no lock in that thread.
 */
#ifndef CLUSTERFS_MAP_H
#define CLUSTERFS_MAP_H

#include "clusterfs/txn.h"

struct cfs_entry { /* an entry in memory */
	uint64_t block, below;
	uint32_t birth, below_birth;
	uint32_t state;
	uint16_t flags;
};
void cfs_entry_decode(const struct cfs_map_entry *disk, struct cfs_entry *out);
void cfs_entry_encode(const struct cfs_entry *in, struct cfs_map_entry *disk);
static inline enum cfs_grain cfs_entry_grain(const struct cfs_entry *e, unsigned grain)
{
	return (enum cfs_grain)(e->state >> (2 * grain) & 3);
}
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
 * Leaf `index` (disk offset / CFS_LEAF_BYTES), +1 reference. Blocking. `create` false: *out is NULL
 * when nothing is mapped there. `create` true: makes it (and nodes above) in a transaction of its own.
 */
int cfs_map_leaf(struct cfs_map *map, uint64_t index, bool create, struct cfs_buf **out);
/* Only from memory: 0 with *out (NULL: known to be a hole), -EAGAIN when it must be read. */
int cfs_map_leaf_peek(struct cfs_map *map, uint64_t index, struct cfs_buf **out);
/* In a transaction: entry `slot` of the leaf becomes `e`; keeps the inode's `allocated` right. */
void cfs_map_set(struct cfs_txn *txn, struct cfs_map *map, struct cfs_buf *leaf, unsigned slot,
		 const struct cfs_entry *e);
/*
 * Frees units that entries `slot[0..n)` of a leaf still name while all their grains are zero: takes
 * each group, one transaction a group. Blocking, pool. The caller guarantees that no I/O to those units
 * is in flight (INV-FS-4) and that nobody changes those entries meanwhile.
 */
int cfs_map_reap(struct cfs_map *map, struct cfs_buf *leaf, const uint8_t *slot, unsigned n);
/*
 * Empties everything from `from` bytes on (rounded up to units) and gives back its space, tree blocks
 * too; each transaction stands by itself, so it may be ended and begun again at any point. Blocking.
 */
int cfs_map_cut(struct cfs_map *map, uint64_t from);

#endif
