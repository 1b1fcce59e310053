// SPDX-License-Identifier: Apache-2.0
/*
 * map.c: the tree over a file's map leaves: finding, making, and setting entries. The root grows by
 * a level when the file outgrows it; that never copies anything.
 */
#include "clusterfs/map.h"

#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "clusterfs/group.h"

#define MAX_HEIGHT 4u

static uint64_t get40(const uint8_t b[5])
{
	return (uint64_t)b[0] | (uint64_t)b[1] << 8 | (uint64_t)b[2] << 16 | (uint64_t)b[3] << 24 |
	       (uint64_t)b[4] << 32;
}

static void put40(uint8_t b[5], uint64_t v)
{
	for (int i = 0; i < 5; i++)
		b[i] = (uint8_t)(v >> (8 * i));
}

void cfs_entry_decode(const struct cfs_map_entry *disk, struct cfs_entry *out)
{
	out->block = get40(disk->block);
	out->below = get40(disk->below);
	out->birth = le32_get(disk->birth);
	out->below_birth = le32_get(disk->below_birth);
	out->state = le32_get(disk->state);
	out->flags = le16_get(disk->flags);
}

/* A commit may clear bits of a state meanwhile (fresh.c): by bytes, and each is the old or the new one. */
void cfs_leaf_entry(const struct cfs_buf *leaf, unsigned slot, struct cfs_entry *out)
{
	const struct cfs_map_entry *disk = &((const struct cfs_map_leaf *)leaf->data)->entry[slot];
	const uint8_t *state = (const uint8_t *)&disk->state;

	out->block = get40(disk->block);
	out->below = get40(disk->below);
	out->birth = le32_get(disk->birth);
	out->below_birth = le32_get(disk->below_birth);
	out->state = 0;
	for (unsigned i = 0; i < 4; i++)
		out->state |= (uint32_t)__atomic_load_n(&state[i], __ATOMIC_RELAXED) << (8 * i);
	out->flags = le16_get(disk->flags);
}

void cfs_leaf_clear(struct cfs_txn *txn, struct cfs_buf *leaf, unsigned slot, uint32_t bits)
{
	struct cfs_map_entry *disk = &((struct cfs_map_leaf *)leaf->data)->entry[slot];
	uint8_t *state = (uint8_t *)&disk->state;

	for (unsigned i = 0; i < 4; i++)
		__atomic_fetch_and(&state[i], (uint8_t) ~(bits >> (8 * i)), __ATOMIC_RELAXED);
	cfs_txn_patch_dirty(txn, leaf, &disk->state, sizeof(disk->state));
}

void cfs_entry_encode(const struct cfs_entry *in, struct cfs_map_entry *disk)
{
	put40(disk->block, in->block);
	put40(disk->below, in->below);
	disk->birth = le32_of(in->birth);
	disk->below_birth = le32_of(in->below_birth);
	disk->state = le32_of(in->state);
	disk->flags = le16_of(in->flags);
}

/* Leaves that a tree of this height has room for. */
static uint64_t reach(unsigned height)
{
	uint64_t n = 1;

	while (height--)
		n *= CFS_NODE_ENTRIES;
	return n;
}

unsigned cfs_map_height(uint64_t size)
{
	uint64_t leaves = DIV_ROUND_UP(size, CFS_LEAF_BYTES);
	unsigned h = 0;

	while (reach(h) < leaves)
		h++;
	return h;
}

static struct cfs_inode_block *inode_of(const struct cfs_map *map)
{
	return (struct cfs_inode_block *)map->inode_buf->data;
}

int cfs_map_open(struct cfs *fs, uint64_t inode, bool write, struct cfs_map *map)
{
	int rc;

	memset(map, 0, sizeof(*map));
	map->fs = fs;
	map->inode = inode;
	map->lock = inode - 1;
	rc = cfs_buf_get(fs, inode, CFS_T_INODE, map->lock, &map->inode_buf);
	if (rc < 0)
		return rc;
	if (inode_of(map)->height > MAX_HEIGHT) {
		cfs_buf_put(fs, map->inode_buf);
		return fail(-EUCLEAN, "inode %llu: a map of height %u; run volume check",
			    (unsigned long long)inode, inode_of(map)->height);
	}
	map->generation = le32_get(inode_of(map)->generation);
	pthread_mutex_init(&map->tree, NULL);
	return write ? cfs_stock_create(fs, &map->stock) : 0;
}

void cfs_map_close(struct cfs_map *map)
{
	if (map->stock)
		cfs_stock_destroy(map->stock);
	map->stock = NULL;
	cfs_buf_put(map->fs, map->inode_buf);
	map->inode_buf = NULL;
	pthread_mutex_destroy(&map->tree);
}

static enum cfs_type type_at(unsigned level)
{
	return level == 0 ? CFS_T_MAP_LEAF : CFS_T_MAP_NODE;
}

/* Index of a block at `level` on the way to leaf `leaf`. */
static uint64_t index_at(uint64_t leaf, unsigned level)
{
	return leaf / reach(level);
}

static int check_place(const struct cfs_buf *buf, unsigned level, uint64_t leaf)
{
	const struct cfs_map_leaf *l = (const void *)buf->data;
	const struct cfs_map_node *n = (const void *)buf->data;
	uint64_t index = le64_get(level ? n->index : l->index);

	if (index == index_at(leaf, level) && (level == 0 || n->level == level))
		return 0;
	return fail(-EUCLEAN, "block %llu: a map block of another place; run volume check",
		    (unsigned long long)buf->vbn);
}

/* One step down: the block that `vbn` names at `level`. */
static int step(struct cfs_map *map, uint64_t vbn, unsigned level, uint64_t leaf, bool peek,
		struct cfs_buf **out)
{
	int rc;

	if (peek) {
		*out = cfs_buf_peek(map->fs, vbn);
		if (!*out)
			return -EAGAIN;
		if ((*out)->type != type_at(level) || (*out)->owner != map->lock) {
			cfs_buf_put(map->fs, *out);
			return -EAGAIN; /* the blocking way says what is wrong */
		}
	} else {
		rc = cfs_buf_get(map->fs, vbn, type_at(level), map->lock, out);
		if (rc < 0)
			return rc;
	}
	rc = check_place(*out, level, leaf);
	if (rc < 0)
		cfs_buf_put(map->fs, *out);
	return rc;
}

/*
 * Walks down to leaf `index`. *out NULL: a hole, and then *level tells at which level the pointer is
 * missing and *parent (referenced; NULL: the inode) holds it.
 */
static int walk(struct cfs_map *map, uint64_t index, bool peek, struct cfs_buf **out,
		struct cfs_buf **parent, unsigned *level)
{
	const struct cfs_inode_block *ino = inode_of(map);
	uint64_t vbn = le64_get(ino->root);
	unsigned h = ino->height;
	struct cfs_buf *up = NULL, *here;
	int rc;

	*out = NULL;
	*parent = NULL;
	*level = h;
	if (index >= reach(h))
		return 0;
	for (;;) {
		if (vbn == 0) {
			*parent = up;
			*level = h;
			return 0;
		}
		rc = step(map, vbn, h, index, peek, &here);
		cfs_buf_put(map->fs, up);
		if (rc < 0)
			return rc;
		if (h == 0) {
			*out = here;
			return 0;
		}
		h--;
		up = here;
		vbn = le64_get(((struct cfs_map_node *)here->data)
				       ->pointer[index_at(index, h) % CFS_NODE_ENTRIES]
				       .child);
	}
}

int cfs_map_leaf_peek(struct cfs_map *map, uint64_t index, struct cfs_buf **out)
{
	struct cfs_buf *parent;
	unsigned level;
	int rc;

	if (pthread_mutex_trylock(&map->tree) != 0)
		return -EAGAIN; /* held across I/O by a job */
	rc = walk(map, index, true, out, &parent, &level);
	pthread_mutex_unlock(&map->tree);
	cfs_buf_put(map->fs, parent);
	return rc;
}

struct cfs_stock *cfs_map_stock(const struct cfs_map *map)
{
	return map->stock;
}

uint32_t cfs_map_generation(const struct cfs_map *map)
{
	return map->generation;
}

static void set_pointer(struct cfs_txn *txn, struct cfs_map *map, struct cfs_buf *parent,
			unsigned level, uint64_t index, uint64_t child)
{
	struct cfs_inode_block *ino = inode_of(map);

	if (parent) {
		struct cfs_map_node *n = (struct cfs_map_node *)parent->data;
		struct cfs_map_pointer *p = &n->pointer[index_at(index, level) % CFS_NODE_ENTRIES];

		p->child = le64_of(child);
		p->birth = le32_of(map->generation);
		cfs_txn_patch(txn, parent, p, sizeof(*p));
	} else {
		ino->root = le64_of(child);
		ino->root_birth = le32_of(map->generation);
		cfs_txn_patch(txn, map->inode_buf, &ino->root, 12);
	}
}

/* A new, empty tree block; for a node, `first` (if any) becomes its first child. */
static struct cfs_buf *new_block(struct cfs_map *map, uint64_t vbn, unsigned level, uint64_t leaf)
{
	struct cfs_buf *b = cfs_buf_new(map->fs, vbn, type_at(level), map->lock);

	if (level == 0) {
		struct cfs_map_leaf *l = (struct cfs_map_leaf *)b->data;

		l->index = le64_of(index_at(leaf, 0));
		l->birth = le32_of(map->generation);
	} else {
		struct cfs_map_node *n = (struct cfs_map_node *)b->data;

		n->index = le64_of(index_at(leaf, level));
		n->birth = le32_of(map->generation);
		n->level = (uint8_t)level;
	}
	return b;
}

static int reserve(struct cfs_map *map, unsigned n, uint64_t *vbns)
{
	for (unsigned i = 0; i < n; i++) {
		int rc = cfs_meta_reserve(map->fs, CFS_SLAB_META, map->inode, &vbns[i]);

		if (rc < 0) {
			while (i-- > 0)
				cfs_meta_unreserve(map->fs, CFS_SLAB_META, vbns[i]);
			return rc;
		}
	}
	return 0;
}

/* Puts nodes on top of the root until leaf `index` is within reach. Tree mutex held. */
static int grow_height(struct cfs_map *map, uint64_t index)
{
	struct cfs_inode_block *ino = inode_of(map);

	while (index >= reach(ino->height)) {
		struct cfs_txn txn;
		uint64_t vbn;
		bool empty = le64_get(ino->root) == 0;
		int rc = empty ? 0 : reserve(map, 1, &vbn);

		if (rc < 0)
			return rc;
		rc = cfs_txn_begin_wait(map->fs, &txn);
		if (rc < 0) {
			if (!empty)
				cfs_meta_unreserve(map->fs, CFS_SLAB_META, vbn);
			return rc;
		}
		ino->height++;
		if (!empty) {
			struct cfs_buf *b = new_block(map, vbn, ino->height, 0);
			struct cfs_map_node *n = (struct cfs_map_node *)b->data;

			n->pointer[0].child = ino->root;
			n->pointer[0].birth = ino->root_birth;
			cfs_meta_use(&txn, CFS_SLAB_META, vbn);
			cfs_txn_image(&txn, b);
			ino->root = le64_of(vbn);
			ino->root_birth = le32_of(map->generation);
			cfs_txn_patch(&txn, map->inode_buf, &ino->root, 12);
			cfs_buf_put(map->fs, b);
		}
		cfs_txn_patch(&txn, map->inode_buf, &ino->height, 1);
		cfs_txn_end(&txn);
	}
	return 0;
}

/* Makes the blocks from `level` (whose pointer is missing in `parent`) down to the leaf. */
static int make_path(struct cfs_map *map, uint64_t index, struct cfs_buf *parent, unsigned level,
		     struct cfs_buf **out)
{
	uint64_t vbns[MAX_HEIGHT + 1];
	struct cfs_buf *up = parent;
	struct cfs_txn txn;
	int rc = reserve(map, level + 1, vbns);

	if (rc < 0)
		return rc;
	rc = cfs_txn_begin_wait(map->fs, &txn);
	if (rc < 0) {
		for (unsigned l = 0; l <= level; l++)
			cfs_meta_unreserve(map->fs, CFS_SLAB_META, vbns[l]);
		return rc;
	}
	for (unsigned l = level + 1; l-- > 0;) {
		struct cfs_buf *b = new_block(map, vbns[l], l, index);

		cfs_meta_use(&txn, CFS_SLAB_META, vbns[l]);
		cfs_txn_image(&txn, b);
		set_pointer(&txn, map, up, l, index, vbns[l]);
		if (up != parent)
			cfs_buf_put(map->fs, up);
		up = b;
	}
	cfs_txn_end(&txn);
	*out = up;
	return 0;
}

int cfs_map_leaf(struct cfs_map *map, uint64_t index, bool create, struct cfs_buf **out)
{
	struct cfs_buf *parent;
	unsigned level;
	int rc;

	pthread_mutex_lock(&map->tree);
	rc = walk(map, index, false, out, &parent, &level);
	if (rc == 0 && !*out && create) {
		if (index >= reach(inode_of(map)->height)) {
			rc = grow_height(map, index);
			if (rc == 0)
				rc = walk(map, index, false, out, &parent, &level);
		}
		if (rc == 0 && !*out)
			rc = make_path(map, index, parent, level, out);
	}
	if (rc == 0 || !*out)
		cfs_buf_put(map->fs, parent);
	pthread_mutex_unlock(&map->tree);
	return rc;
}

void cfs_map_set(struct cfs_txn *txn, struct cfs_map *map, struct cfs_buf *leaf, unsigned slot,
		 const struct cfs_entry *e)
{
	struct cfs_map_entry *disk = &((struct cfs_map_leaf *)leaf->data)->entry[slot];
	struct cfs_inode_block *ino = inode_of(map);
	int delta = (e->block != 0) - (get40(disk->block) != 0);

	MUST(slot < CFS_LEAF_ENTRIES);
	cfs_entry_encode(e, disk);
	cfs_txn_patch(txn, leaf, disk, sizeof(*disk));
	if (delta) {
		ino->allocated = le64_of(le64_get(ino->allocated) + (uint64_t)(int64_t)delta);
		cfs_txn_patch(txn, map->inode_buf, &ino->allocated, 8);
	}
}
