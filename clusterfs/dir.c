// SPDX-License-Identifier: Apache-2.0
/*
 * dir.c: directories as B+ trees over the buffer cache. Nodes hold the smallest hash that may lie in
 * each child; the first pointer of a node repeats the node's own bound (the whole tree's is 0).
 * Splits go upward from the leaf along the prepared path, inside of one transaction; the blocks
 * they need were reserved before (at most one a level and a new root).
 */
#include "clusterfs/dir.h"

#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "clusterfs/group.h"

static struct cfs_dir_leaf *leaf_of(struct cfs_buf *buf)
{
	return (struct cfs_dir_leaf *)buf->data;
}

static struct cfs_dir_node *node_of(struct cfs_buf *buf)
{
	return (struct cfs_dir_node *)buf->data;
}

int cfs_dir_open(struct cfs *fs, uint64_t inode, struct cfs_dir *dir)
{
	const struct cfs_inode_block *n;
	int rc;

	*dir = (struct cfs_dir){.fs = fs, .inode = inode, .lock = inode - 1};
	rc = cfs_buf_get(fs, inode, CFS_T_INODE, dir->lock, &dir->inode_buf);
	if (rc < 0)
		return rc;
	n = cfs_dir_inode(dir);
	if (n->kind == CFS_KIND_DIR)
		return 0;
	cfs_dir_close(dir);
	return fail(-ENOENT, "inode %llu: no directory here", (unsigned long long)inode);
}

void cfs_dir_close(struct cfs_dir *dir)
{
	cfs_buf_put(dir->fs, dir->inode_buf);
	dir->inode_buf = NULL;
}

/* --- going down ----------------------------------------------------------------------------------- */

/* The pointer whose child may hold `hash`: the last one that is not larger. */
static unsigned node_slot(const struct cfs_dir_node *node, uint64_t hash)
{
	unsigned lo = 0, hi = le16_get(node->entries); /* the first is never too large */

	while (hi - lo > 1) {
		unsigned mid = (lo + hi) / 2;

		if (le64_get(node->pointer[mid].hash) <= hash)
			lo = mid;
		else
			hi = mid;
	}
	return lo;
}

static int get_block(struct cfs_dir *dir, uint64_t vbn, unsigned level, struct cfs_buf **out)
{
	int rc = cfs_buf_get(dir->fs, vbn, level ? CFS_T_DIR_NODE : CFS_T_DIR_LEAF, dir->lock, out);

	if (rc < 0)
		return rc;
	if (level && (node_of(*out)->level != level || le16_get(node_of(*out)->entries) == 0)) {
		cfs_buf_put(dir->fs, *out);
		return fail(-EUCLEAN,
			    "block %llu: directory node of the wrong level; run volume check",
			    (unsigned long long)vbn);
	}
	return 0;
}

static void put_path(struct cfs_dir_change *c)
{
	for (unsigned i = 0; i < c->levels; i++)
		cfs_buf_put(c->dir->fs, c->path[i]);
	c->levels = 0;
}

/* Reads the path to the leaf for `hash` into c->path; *next is the bound of the leaf behind it. */
static int descend(struct cfs_dir *dir, uint64_t hash, struct cfs_dir_change *c, uint64_t *next,
		   bool *last)
{
	const struct cfs_inode_block *n = cfs_dir_inode(dir);
	uint64_t vbn = le64_get(n->root);
	unsigned height = n->height;
	int rc;

	c->dir = dir;
	c->levels = 0;
	*last = true;
	if (!vbn)
		return 0;
	for (unsigned level = height;; level--) {
		const struct cfs_dir_node *node;
		unsigned i = c->levels, s;

		rc = get_block(dir, vbn, level, &c->path[i]);
		if (rc < 0) {
			put_path(c);
			return rc;
		}
		c->levels++;
		if (level == 0)
			return 0;
		node = node_of(c->path[i]);
		c->slot[i] = s = node_slot(node, hash);
		vbn = le64_get(node->pointer[s].child);
		if (s + 1 < le16_get(node->entries)) {
			*next = le64_get(node->pointer[s + 1].hash);
			*last = false;
		}
	}
}

int cfs_dir_lookup(struct cfs_dir *dir, struct cfs_dirent *e)
{
	struct cfs_dir_change c = {0};
	uint64_t next;
	bool last, found = false;
	int rc = descend(dir, e->hash, &c, &next, &last);

	if (rc < 0)
		return rc;
	if (c.levels) {
		const struct cfs_dir_leaf *leaf = leaf_of(c.path[c.levels - 1]);
		unsigned at = cfs_dirleaf_find(leaf, e, &found);

		if (found)
			cfs_dirleaf_entry(leaf, at, e);
		put_path(&c);
	}
	return found ? 0 : -ENOENT;
}

int cfs_dir_leaf(struct cfs_dir *dir, uint64_t hash, struct cfs_dir_leaf *out, uint64_t *next)
{
	struct cfs_dir_change c = {0};
	bool last;
	int rc = descend(dir, hash, &c, next, &last);

	if (rc < 0)
		return rc;
	if (c.levels)
		memcpy(out, leaf_of(c.path[c.levels - 1]), sizeof(*out));
	else
		memset(out, 0, sizeof(*out));
	put_path(&c);
	return last ? 1 : 0;
}

/* --- preparing --------------------------------------------------------------------------------------- */

/* How many new blocks the insertion may take: 0 when it fits. */
static int blocks_wanted(const struct cfs_dir_change *c, unsigned *want)
{
	const struct cfs_dir_leaf *leaf;
	unsigned at, n = 1, i;

	*want = 1;
	if (c->levels == 0)
		return 0;
	leaf = leaf_of(c->path[c->levels - 1]);
	*want = 0;
	if (cfs_dirleaf_fits(leaf, &c->entry))
		return 0;
	if (!cfs_dirleaf_split_at(leaf, &c->entry, &at))
		return fail(-ENOSPC,
			    "name %.60s: too many names in this directory have its hash; "
			    "choose another one",
			    c->entry.name);
	for (i = c->levels - 1; i > 0; i--, n++) {
		if (le16_get(node_of(c->path[i - 1])->entries) < CFS_NODE_ENTRIES)
			break;
	}
	if (i == 0) { /* the root splits too */
		if (c->levels > CFS_MAX_HEIGHT)
			return fail(-ENOSPC, "name %.60s: the directory is full", c->entry.name);
		n++;
	}
	*want = n;
	return 0;
}

int cfs_dir_prepare_insert(struct cfs_dir *dir, const struct cfs_dirent *e,
			   struct cfs_dir_change *c)
{
	unsigned want = 0;
	uint64_t next;
	bool last, found;
	int rc;

	*c = (struct cfs_dir_change){.entry = *e};
	rc = descend(dir, e->hash, c, &next, &last);
	if (rc < 0)
		return rc;
	if (c->levels) {
		cfs_dirleaf_find(leaf_of(c->path[c->levels - 1]), e, &found);
		if (found)
			rc = -EEXIST;
	}
	if (rc == 0)
		rc = blocks_wanted(c, &want);
	while (rc == 0 && c->reserved < want) {
		rc = cfs_meta_reserve(dir->fs, CFS_SLAB_META, dir->inode, &c->block[c->reserved]);
		if (rc == 0)
			c->reserved++;
	}
	if (rc < 0)
		cfs_dir_change_end(c);
	return rc;
}

int cfs_dir_prepare_remove(struct cfs_dir *dir, const struct cfs_dirent *e,
			   struct cfs_dir_change *c)
{
	uint64_t next;
	bool last, found = false;
	int rc;

	*c = (struct cfs_dir_change){.entry = *e};
	rc = descend(dir, e->hash, c, &next, &last);
	if (rc < 0)
		return rc;
	if (c->levels)
		cfs_dirleaf_find(leaf_of(c->path[c->levels - 1]), e, &found);
	if (!found)
		cfs_dir_change_end(c);
	return found ? 0 : -ENOENT;
}

void cfs_dir_change_end(struct cfs_dir_change *c)
{
	if (!c->dir)
		return;
	put_path(c);
	while (c->reserved > c->used)
		cfs_meta_unreserve(c->dir->fs, CFS_SLAB_META, c->block[--c->reserved]);
	c->dir = NULL;
}

/* --- changing, inside of a transaction ------------------------------------------------------------------ */

static struct cfs_buf *new_block(struct cfs_txn *txn, struct cfs_dir_change *c, enum cfs_type type)
{
	uint64_t vbn;

	MUST(c->used < c->reserved);
	vbn = c->block[c->used++];
	cfs_meta_use(txn, CFS_SLAB_META, vbn);
	return cfs_buf_new(txn->fs, vbn, type, c->dir->lock);
}

/* Names, and the tree's root, in the directory's inode. */
static void touch_inode(struct cfs_txn *txn, struct cfs_dir *dir, int64_t names)
{
	struct cfs_inode_block *n = cfs_dir_inode(dir);

	n->size = le64_of(le64_get(n->size) + (uint64_t)names);
	n->modified = le64_of(clock_wall_ns());
	cfs_txn_patch(txn, dir->inode_buf, &n->size, sizeof(n->size));
	cfs_txn_patch(txn, dir->inode_buf, &n->modified, sizeof(n->modified));
}

static void set_root(struct cfs_txn *txn, struct cfs_dir *dir, uint64_t vbn, unsigned height)
{
	struct cfs_inode_block *n = cfs_dir_inode(dir);

	n->root = le64_of(vbn);
	n->height = (uint8_t)height;
	cfs_txn_patch(txn, dir->inode_buf, &n->root, sizeof(n->root));
	cfs_txn_patch(txn, dir->inode_buf, &n->height, sizeof(n->height));
}

static void log_leaf(struct cfs_txn *txn, struct cfs_buf *buf, unsigned from, unsigned to)
{
	struct cfs_dir_leaf *leaf = leaf_of(buf);

	cfs_txn_patch(txn, buf, &leaf->entries, 4);
	cfs_txn_patch(txn, buf, leaf->data + from, to - from);
}

static void node_insert(struct cfs_dir_node *node, unsigned slot, uint64_t hash, uint64_t child)
{
	unsigned n = le16_get(node->entries);

	MUST(n < CFS_NODE_ENTRIES && slot <= n);
	memmove(&node->pointer[slot + 1], &node->pointer[slot],
		(n - slot) * sizeof(*node->pointer));
	node->pointer[slot].hash = le64_of(hash);
	node->pointer[slot].child = le64_of(child);
	node->entries = le16_of((uint16_t)(n + 1));
}

/* Splits a full node, the new pointer included; *hash and *child become those of its right half. */
static void split_node(struct cfs_txn *txn, struct cfs_dir_change *c, unsigned i, uint64_t *hash,
		       uint64_t *child)
{
	struct cfs_buf *left = c->path[i], *right = new_block(txn, c, CFS_T_DIR_NODE);
	struct cfs_dir_node *l = node_of(left), *r = node_of(right);
	unsigned half = CFS_NODE_ENTRIES / 2, slot = c->slot[i] + 1;

	memcpy(r->pointer, &l->pointer[half], half * sizeof(*r->pointer));
	memset(&l->pointer[half], 0, half * sizeof(*l->pointer));
	l->entries = r->entries = le16_of((uint16_t)half);
	r->level = l->level;
	if (slot <= half)
		node_insert(l, slot, *hash, *child);
	else
		node_insert(r, slot - half, *hash, *child);
	cfs_txn_image(txn, left);
	cfs_txn_image(txn, right);
	*hash = le64_get(r->pointer[0].hash);
	*child = right->vbn;
	cfs_buf_put(txn->fs, right);
}

static void new_root(struct cfs_txn *txn, struct cfs_dir_change *c, uint64_t hash, uint64_t child)
{
	struct cfs_buf *buf = new_block(txn, c, CFS_T_DIR_NODE);
	struct cfs_dir_node *root = node_of(buf);

	root->level = (uint8_t)c->levels;
	root->entries = le16_of(2);
	root->pointer[0].child = le64_of(c->path[0]->vbn);
	root->pointer[1].hash = le64_of(hash);
	root->pointer[1].child = le64_of(child);
	cfs_txn_image(txn, buf);
	set_root(txn, c->dir, buf->vbn, c->levels);
	cfs_buf_put(txn->fs, buf);
}

/* Hangs the right half of a split child of path[i] in, from there upward. */
static void hang_in(struct cfs_txn *txn, struct cfs_dir_change *c, unsigned i, uint64_t hash,
		    uint64_t child)
{
	while (i-- > 0) {
		struct cfs_dir_node *node = node_of(c->path[i]);
		unsigned n = le16_get(node->entries), slot = c->slot[i] + 1;

		if (n < CFS_NODE_ENTRIES) {
			node_insert(node, slot, hash, child);
			cfs_txn_patch(txn, c->path[i], &node->entries, sizeof(node->entries));
			cfs_txn_patch(txn, c->path[i], &node->pointer[slot],
				      (n + 1 - slot) * sizeof(*node->pointer));
			return;
		}
		split_node(txn, c, i, &hash, &child);
	}
	new_root(txn, c, hash, child);
}

static void split_leaf(struct cfs_txn *txn, struct cfs_dir_change *c)
{
	struct cfs_buf *left = c->path[c->levels - 1], *right = new_block(txn, c, CFS_T_DIR_LEAF);
	struct cfs_dir_leaf *l = leaf_of(left), *r = leaf_of(right);
	const struct cfs_dir_entry *first;
	unsigned at = 0;
	uint64_t bound;

	MUST(cfs_dirleaf_split_at(l, &c->entry, &at));
	cfs_dirleaf_split(l, r, at);
	first = (const struct cfs_dir_entry *)r->data;
	bound = le64_get(first->hash);
	cfs_dirleaf_insert(c->entry.hash < bound ? l : r, &c->entry);
	cfs_txn_image(txn, left);
	cfs_txn_image(txn, right);
	hang_in(txn, c, c->levels - 1, bound, right->vbn);
	cfs_buf_put(txn->fs, right);
}

void cfs_dir_insert(struct cfs_txn *txn, struct cfs_dir_change *c)
{
	if (c->levels == 0) {
		struct cfs_buf *buf = new_block(txn, c, CFS_T_DIR_LEAF);

		cfs_dirleaf_insert(leaf_of(buf), &c->entry);
		cfs_txn_image(txn, buf);
		set_root(txn, c->dir, buf->vbn, 0);
		cfs_buf_put(txn->fs, buf);
	} else {
		struct cfs_buf *buf = c->path[c->levels - 1];

		if (cfs_dirleaf_fits(leaf_of(buf), &c->entry)) {
			unsigned from = cfs_dirleaf_insert(leaf_of(buf), &c->entry);

			log_leaf(txn, buf, from, le16_get(leaf_of(buf)->used));
		} else {
			split_leaf(txn, c);
		}
	}
	touch_inode(txn, c->dir, 1);
}

void cfs_dir_remove(struct cfs_txn *txn, struct cfs_dir_change *c)
{
	struct cfs_buf *buf = c->path[c->levels - 1];
	unsigned used = le16_get(leaf_of(buf)->used), at;
	bool found;

	at = cfs_dirleaf_find(leaf_of(buf), &c->entry, &found);
	MUST(found);
	cfs_dirleaf_remove(leaf_of(buf), at);
	log_leaf(txn, buf, at, used);
	touch_inode(txn, c->dir, -1);
}

void cfs_dir_retarget(struct cfs_txn *txn, struct cfs_dir_change *c, uint64_t inode)
{
	struct cfs_buf *buf = c->path[c->levels - 1];
	struct cfs_dir_entry *e;
	unsigned at;
	bool found;

	at = cfs_dirleaf_find(leaf_of(buf), &c->entry, &found);
	MUST(found);
	e = (struct cfs_dir_entry *)(leaf_of(buf)->data + at);
	e->inode = le64_of(inode);
	cfs_txn_patch(txn, buf, &e->inode, sizeof(e->inode));
	touch_inode(txn, c->dir, 0);
}

/* --- deleting the tree ------------------------------------------------------------------------------------- */

/* Frees one block and what `forget` says about it, in one transaction. */
static int free_one(struct cfs_dir *dir, uint64_t vbn, struct cfs_buf *parent)
{
	struct cfs *fs = dir->fs;
	unsigned group = cfs_group_of(fs, vbn);
	struct cfs_txn txn;
	int rc = cfs_group_hold(fs, group);

	if (rc < 0)
		return rc;
	rc = cfs_txn_begin_wait(fs, &txn);
	if (rc == 0) {
		if (parent) {
			struct cfs_dir_node *node = node_of(parent);
			unsigned n = le16_get(node->entries) - 1u;

			memset(&node->pointer[n], 0, sizeof(*node->pointer));
			node->entries = le16_of((uint16_t)n);
			cfs_txn_patch(&txn, parent, &node->entries, sizeof(node->entries));
			cfs_txn_patch(&txn, parent, &node->pointer[n], sizeof(*node->pointer));
		} else {
			set_root(&txn, dir, 0, 0);
		}
		cfs_meta_free(&txn, CFS_SLAB_META, vbn);
		cfs_txn_end(&txn);
	}
	cfs_group_unhold(fs, group);
	return rc;
}

/* Frees the children of a node from the last one on; leaves need not be read. */
static int cut_node(struct cfs_dir *dir, uint64_t vbn, unsigned level)
{
	struct cfs_buf *buf;
	int rc = cfs_buf_get(dir->fs, vbn, CFS_T_DIR_NODE, dir->lock, &buf);

	if (rc < 0)
		return rc;
	if (node_of(buf)->level != level)
		rc = fail(-EUCLEAN,
			  "block %llu: directory node of the wrong level; run volume check",
			  (unsigned long long)vbn);
	while (rc == 0 && le16_get(node_of(buf)->entries)) {
		unsigned n = le16_get(node_of(buf)->entries) - 1u;
		uint64_t child = le64_get(node_of(buf)->pointer[n].child);

		if (level > 1)
			rc = cut_node(dir, child, level - 1);
		if (rc == 0)
			rc = free_one(dir, child, buf);
	}
	cfs_buf_put(dir->fs, buf);
	return rc;
}

int cfs_dir_cut(struct cfs_dir *dir)
{
	const struct cfs_inode_block *n = cfs_dir_inode(dir);
	uint64_t root = le64_get(n->root);
	int rc = 0;

	if (root && n->height)
		rc = cut_node(dir, root, n->height);
	if (rc == 0 && root)
		rc = free_one(dir, root, NULL);
	return rc;
}
