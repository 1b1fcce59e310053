// SPDX-License-Identifier: Apache-2.0
/*
 * mapcut.c: space comes back. A unit's bit is cleared in the same transaction that makes its entry
 * forget it, a group at a time; so every transaction lies in one journal, and a crash at any point
 * leaves either both or none. What is left to do is what is left in the tree: nothing to remember.
 */
#include "clusterfs/map.h"

#include <errno.h>
#include <string.h>

#include "base/err.h"
#include "clusterfs/group.h"

#define ENTRIES_A_TXN 64u
#define ENTRY_IMAGES  6u /* leaf, inode, group header, bitmap, reclaim bitmap, and patches */

/* Collects up to ENTRIES_A_TXN of slot[] whose unit lies in the group of the first one left. */
static unsigned pick_group(struct cfs *fs, struct cfs_map_leaf *leaf, const uint8_t *slot,
			   unsigned n, uint8_t *picked, unsigned *group)
{
	unsigned k = 0;

	for (unsigned i = 0; i < n && k < ENTRIES_A_TXN; i++) {
		struct cfs_entry e;

		cfs_entry_decode(&leaf->entry[slot[i]], &e);
		if (!e.block)
			continue;
		if (k == 0)
			*group = cfs_group_of(fs, e.block);
		if (cfs_group_of(fs, e.block) == *group)
			picked[k++] = slot[i];
	}
	return k;
}

static int free_picked(struct cfs_map *map, struct cfs_buf *leaf, const uint8_t *picked, unsigned n,
		       unsigned group)
{
	struct cfs_map_leaf *l = (struct cfs_map_leaf *)leaf->data;
	struct cfs_txn txn;
	int rc = cfs_group_hold(map->fs, group);

	if (rc < 0)
		return rc;
	rc = cfs_txn_begin_wait(map->fs, &txn);
	if (rc == 0) {
		/* Units far apart: bitmap blocks of their own. What does not fit is picked again. */
		for (unsigned i = 0; i < n && cfs_txn_fits(&txn, ENTRY_IMAGES); i++) {
			struct cfs_entry e;
			uint64_t block;

			cfs_entry_decode(&l->entry[picked[i]], &e);
			block = e.block;
			e = (struct cfs_entry){.birth = map->generation};
			cfs_map_set(&txn, map, leaf, picked[i], &e);
			cfs_units_free(&txn, block, 1);
		}
		cfs_txn_end(&txn);
	}
	cfs_group_unhold(map->fs, group);
	return rc;
}

int cfs_map_reap(struct cfs_map *map, struct cfs_buf *leaf, const uint8_t *slot, unsigned n)
{
	struct cfs_map_leaf *l = (struct cfs_map_leaf *)leaf->data;
	uint8_t picked[ENTRIES_A_TXN];
	unsigned k, group = 0;

	for (unsigned i = 0; i < n; i++) {
		struct cfs_entry e;

		cfs_entry_decode(&l->entry[slot[i]], &e);
		if (e.block && (!cfs_vbn_valid(map->fs, e.block) || e.block % CFS_UNIT_BLOCKS))
			return fail(-EUCLEAN,
				    "inode %llu: its map names block %llu; run volume check",
				    (unsigned long long)map->inode, (unsigned long long)e.block);
	}
	while ((k = pick_group(map->fs, l, slot, n, picked, &group)) > 0) {
		int rc = free_picked(map, leaf, picked, k, group);

		if (rc < 0)
			return rc;
	}
	return 0;
}

/* Frees an empty tree block and takes it out of its parent (NULL: the inode). */
static int drop_block(struct cfs_map *map, struct cfs_buf *parent, unsigned at,
		      struct cfs_buf *child)
{
	struct cfs_inode_block *ino = (struct cfs_inode_block *)map->inode_buf->data;
	unsigned group = cfs_group_of(map->fs, child->vbn);
	struct cfs_txn txn;
	int rc = cfs_group_hold(map->fs, group);

	if (rc < 0)
		return rc;
	rc = cfs_txn_begin_wait(map->fs, &txn);
	if (rc == 0) {
		if (parent) {
			struct cfs_map_node *n = (struct cfs_map_node *)parent->data;

			n->pointer[at].child = le64_of(0);
			n->pointer[at].birth = le32_of(map->generation);
			cfs_txn_patch(&txn, parent, &n->pointer[at], sizeof(n->pointer[at]));
		} else {
			ino->root = le64_of(0);
			ino->root_birth = le32_of(map->generation);
			cfs_txn_patch(&txn, map->inode_buf, &ino->root, 12);
		}
		cfs_meta_free(&txn, CFS_SLAB_META, child->vbn);
		cfs_txn_end(&txn);
	}
	cfs_group_unhold(map->fs, group);
	return rc;
}

/* Empties a leaf from unit `first` on; *empty says whether nothing is left in it. */
static int cut_leaf(struct cfs_map *map, struct cfs_buf *buf, unsigned first, bool *empty)
{
	struct cfs_map_leaf *l = (struct cfs_map_leaf *)buf->data;
	uint8_t slot[CFS_LEAF_ENTRIES];
	unsigned n = 0;
	int rc;

	for (unsigned i = first; i < CFS_LEAF_ENTRIES; i++)
		slot[n++] = (uint8_t)i;
	rc = cfs_map_reap(map, buf, slot, n);
	*empty = rc == 0;
	for (unsigned i = 0; i < CFS_LEAF_ENTRIES && *empty; i++) {
		struct cfs_entry e;

		cfs_entry_decode(&l->entry[i], &e);
		*empty = !e.block && !e.below;
	}
	return rc;
}

static uint64_t leaves_under(unsigned level)
{
	uint64_t n = 1;

	while (level--)
		n *= CFS_NODE_ENTRIES;
	return n;
}

/*
 * Cuts the subtree of `buf` at `level`, whose first leaf is `first_leaf`, from unit `from` of the file
 * on. Recursion as deep as the tree: at most five.
 */
static int cut_subtree(struct cfs_map *map, struct cfs_buf *buf, unsigned level,
		       uint64_t first_leaf, uint64_t from, bool *empty)
{
	struct cfs_map_node *n = (struct cfs_map_node *)buf->data;
	uint64_t start = first_leaf * CFS_LEAF_ENTRIES;

	if (atomic_load(&map->fs->leaving))
		return fail(-ESTALE, "inode %llu: its deletion goes on after the next mount",
			    (unsigned long long)map->inode);
	if (level == 0)
		return cut_leaf(map, buf,
				from > start ? (unsigned)MIN(from - start, CFS_LEAF_ENTRIES) : 0,
				empty);
	*empty = true;
	for (unsigned i = 0; i < CFS_NODE_ENTRIES; i++) {
		uint64_t leaf = first_leaf + i * leaves_under(level - 1);
		uint64_t child = le64_get(n->pointer[i].child);
		struct cfs_buf *sub;
		bool gone = false;
		int rc;

		if (!child)
			continue;
		if ((leaf + leaves_under(level - 1)) * CFS_LEAF_ENTRIES <= from) {
			*empty = false;
			continue;
		}
		rc = cfs_buf_get(map->fs, child, level == 1 ? CFS_T_MAP_LEAF : CFS_T_MAP_NODE,
				 map->lock, &sub);
		if (rc < 0)
			return rc;
		rc = cut_subtree(map, sub, level - 1, leaf, from, &gone);
		if (rc == 0 && gone)
			rc = drop_block(map, buf, i, sub);
		cfs_buf_put(map->fs, sub);
		if (rc < 0)
			return rc;
		if (!gone)
			*empty = false;
	}
	return 0;
}

int cfs_map_cut(struct cfs_map *map, uint64_t from)
{
	struct cfs_inode_block *ino = (struct cfs_inode_block *)map->inode_buf->data;
	uint64_t root = le64_get(ino->root);
	struct cfs_buf *buf;
	bool empty = false;
	int rc;

	if (!root)
		return 0;
	pthread_mutex_lock(&map->tree);
	rc = cfs_buf_get(map->fs, root, ino->height ? CFS_T_MAP_NODE : CFS_T_MAP_LEAF, map->lock,
			 &buf);
	if (rc == 0) {
		rc = cut_subtree(map, buf, ino->height, 0, DIV_ROUND_UP(from, CFS_UNIT), &empty);
		if (rc == 0 && empty)
			rc = drop_block(map, NULL, 0, buf);
		cfs_buf_put(map->fs, buf);
	}
	pthread_mutex_unlock(&map->tree);
	return rc;
}
