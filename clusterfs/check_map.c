// SPDX-License-Identifier: Apache-2.0
/*
 * check_map.c: a file's map: each block whole, in its place and owned by the file, each unit named once.
 *
 * A pointer to a block that says it belongs elsewhere is put aside until everything was seen: if nobody
 * else came for the block, the block is wrong and is mended; else the pointer is. A unit named twice
 * stays with who came first, the other one gets a copy: nothing readable is lost.
 */
#include "clusterfs/check.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "clusterfs/map.h"

#define MAP_HEIGHT 4u
#define ALL_GRAINS 0x55555555u

struct file { /* kept while something of it is put aside */
	uint64_t vbn, lock;
	char text[320];
	uint32_t generation;
	uint64_t allocated; /* units that were found */
	uint64_t end;	    /* behind the last one, units */
	unsigned aside;
};

struct check_later {
	struct check_later *next;
	struct file *file;
	uint64_t parent; /* block that holds the pointer, 0: the inode */
	unsigned slot;
	uint64_t vbn;
	unsigned level; /* of what the pointer leads to; CLONE: the entry of a leaf */
	uint64_t index;
};
#define CLONE UINT32_MAX

static uint64_t reach(unsigned level)
{
	uint64_t n = 1;

	while (level--)
		n *= CFS_NODE_ENTRIES;
	return n;
}

static enum cfs_type type_at(unsigned level)
{
	return level ? CFS_T_MAP_NODE : CFS_T_MAP_LEAF;
}

static void put_aside(struct check *c, struct file *f, const struct check_later *what)
{
	struct check_later *l = xmalloc(sizeof(*l));

	*l = *what;
	l->file = f;
	l->next = c->later;
	c->later = l;
	f->aside++;
}

/* --- entries -------------------------------------------------------------------------------------- */

static void drop_block(struct cfs_entry *e)
{
	e->state &= ~(e->state & ALL_GRAINS);
	e->block = 0;
}

static void drop_below(struct cfs_entry *e)
{
	e->state &= ~(e->state & (ALL_GRAINS << 1));
	e->below = 0;
	e->below_birth = 0;
}

/* Makes an entry possible in itself; says whether it was not. */
static bool tame(const struct file *f, struct cfs_entry *e)
{
	uint32_t both = e->state & (e->state >> 1) & ALL_GRAINS;
	struct cfs_entry was = *e;

	e->state &= ~(both | both << 1); /* 3 is no state */
	e->flags &= CFS_ENTRY_REPOSITORY;
	if (!e->below)
		e->flags = 0;
	if (e->block % CFS_UNIT_BLOCKS || !e->block)
		drop_block(e);
	if (!e->below || (e->below % CFS_UNIT_BLOCKS && !e->flags))
		drop_below(e);
	if ((e->block && !e->birth) || e->birth > f->generation)
		e->birth = f->generation;
	if (e->below_birth > f->generation)
		e->below_birth = f->generation;
	return memcmp(&was, e, sizeof(was)) != 0;
}

static void told_entry(struct check *c, struct file *f, uint64_t unit, const char *what,
		       uint64_t vbn)
{
	check_found(c, true, f->text, "64 KiB at offset %llu %s (block %llu)",
		    (unsigned long long)(unit * CFS_UNIT), what, (unsigned long long)vbn);
}

/* One entry; true when it was changed. */
static bool check_entry(struct check *c, struct file *f, uint64_t leaf_vbn, uint64_t unit,
			unsigned slot, struct cfs_entry *e)
{
	bool changed = tame(f, e);

	if (changed)
		told_entry(c, f, unit, "has an impossible map entry, which is made possible",
			   e->block);
	if (e->block) {
		switch (check_claim_units(c, e->block, 1)) {
		case CHECK_NEW:
			break;
		case CHECK_TAKEN:
			put_aside(c, f,
				  &(struct check_later){.parent = leaf_vbn,
							.slot = slot,
							.vbn = e->block,
							.level = CLONE,
							.index = unit});
			break;
		case CHECK_IMPOSSIBLE:
			told_entry(c, f, unit,
				   "is said to lie where no data can be, and reads as zeroes now",
				   e->block);
			drop_block(e);
			changed = true;
			break;
		}
	}
	/* What lies below is frozen and may be shared by many. */
	if (e->below && !e->flags && check_claim_units(c, e->below, 1) == CHECK_IMPOSSIBLE) {
		told_entry(c, f, unit, "has a layer below where no data can be; it is dropped",
			   e->below);
		drop_below(e);
		changed = true;
	}
	f->allocated += e->block != 0;
	if (e->block || e->below)
		f->end = MAX(f->end, unit + 1);
	return changed;
}

static int check_leaf(struct check *c, struct file *f, uint64_t vbn, struct cfs_map_leaf *leaf,
		      bool changed)
{
	uint64_t first = le64_get(leaf->index) * CFS_LEAF_ENTRIES;

	if (le32_get(leaf->birth) > f->generation) {
		check_found(c, true, f->text, "map leaf %llu was born after the file's generation",
			    (unsigned long long)vbn);
		leaf->birth = le32_of(f->generation);
		changed = true;
	}
	for (unsigned i = 0; i < CFS_LEAF_ENTRIES; i++) {
		struct cfs_entry e;

		cfs_entry_decode(&leaf->entry[i], &e);
		if (!e.block && !e.below && !e.state && !e.flags && e.birth <= f->generation)
			continue;
		if (check_entry(c, f, vbn, first + i, i, &e)) {
			cfs_entry_encode(&e, &leaf->entry[i]);
			changed = true;
		}
	}
	return changed ? check_write(c, vbn, CFS_T_MAP_LEAF, leaf) : 0;
}

/* --- the tree ---------------------------------------------------------------------------------------- */

static int walk(struct check *c, struct file *f, const struct check_later *at, bool adopt,
		bool *gone);

static void told_gone(struct check *c, const struct file *f, const struct check_later *at,
		      const char *why)
{
	uint64_t leaf = at->index * reach(at->level), bytes = reach(at->level) * CFS_LEAF_BYTES;

	check_found(c, true, f->text,
		    "the map of %llu MiB from offset %llu on is lost, they read as zeroes now: %s",
		    (unsigned long long)(bytes / MiB), (unsigned long long)(leaf * CFS_LEAF_BYTES),
		    why);
}

static int walk_node(struct check *c, struct file *f, uint64_t vbn, struct cfs_map_node *node,
		     bool changed)
{
	int rc = 0;

	if (le32_get(node->birth) > f->generation) {
		check_found(c, true, f->text, "map node %llu was born after the file's generation",
			    (unsigned long long)vbn);
		node->birth = le32_of(f->generation);
		changed = true;
	}
	for (unsigned i = 0; i < CFS_NODE_ENTRIES && rc == 0; i++) {
		struct check_later child = {
			.parent = vbn,
			.slot = i,
			.vbn = le64_get(node->pointer[i].child),
			.level = node->level - 1u,
			.index = le64_get(node->index) * CFS_NODE_ENTRIES + i,
		};
		bool gone = false;

		if (child.vbn)
			rc = walk(c, f, &child, false, &gone);
		if (gone) {
			node->pointer[i].child = le64_of(0);
			changed = true;
		}
	}
	if (rc == 0 && changed)
		rc = check_write(c, vbn, CFS_T_MAP_NODE, node);
	return rc;
}

/* Does the block say of itself what the pointer says of it? */
static bool belongs(const struct file *f, const struct check_later *at, const void *block)
{
	const struct cfs_map_leaf *leaf = block;
	const struct cfs_map_node *node = block;

	if (le64_get(leaf->head.owner) != f->lock)
		return false;
	return at->level ? le64_get(node->index) == at->index && node->level == at->level
			 : le64_get(leaf->index) == at->index;
}

static void make_belong(const struct file *f, const struct check_later *at, void *block)
{
	struct cfs_map_leaf *leaf = block;
	struct cfs_map_node *node = block;

	leaf->head.owner = le64_of(f->lock);
	if (at->level) {
		node->index = le64_of(at->index);
		node->level = (uint8_t)at->level;
	} else {
		leaf->index = le64_of(at->index);
	}
}

/* A whole block with pointers or entries that cannot be: those go, one by one. */
static void tame_node(struct cfs_map_node *node)
{
	for (unsigned i = 0; i < CFS_NODE_ENTRIES; i++) {
		if (le64_get(node->pointer[i].child) >= CFS_VBN_MAX)
			node->pointer[i].child = le64_of(0);
	}
}

/* The block is right, or was made right, and is the file's: goes on into it. */
static int enter(struct check *c, struct file *f, const struct check_later *at, void *block,
		 bool changed, bool *gone)
{
	int rc;

	if (check_claim_meta(c, CFS_SLAB_META, at->vbn) != CHECK_NEW) {
		told_gone(c, f, at, "another one uses its block");
		*gone = true;
		return 0;
	}
	if (at->level)
		rc = walk_node(c, f, at->vbn, block, changed);
	else
		rc = check_leaf(c, f, at->vbn, block, changed);
	return rc;
}

/* `adopt`: everything was seen; a block that says otherwise is the file's if nobody has it. */
static int walk(struct check *c, struct file *f, const struct check_later *at, bool adopt,
		bool *gone)
{
	bool changed = false;
	char why[256];
	uint8_t *block;
	int rc = 0;

	*gone = false;
	if (!check_group_at(c, at->vbn)) {
		told_gone(c, f, at, "its block would lie outside");
		*gone = true;
		return 0;
	}
	block = xmalloc(CFS_BLOCK);
	rc = check_block(c, at->vbn, type_at(at->level), block, why);
	if (rc == 2 &&
	    (!at->level || ((struct cfs_map_node *)block)->level == at->level || adopt)) {
		check_found(c, true, f->text, "%s", why);
		if (at->level)
			tame_node((struct cfs_map_node *)block);
		changed = true; /* check_leaf sees to the entries */
		rc = 0;
	}
	if (rc == 1 || (rc == 2 && adopt)) {
		told_gone(c, f, at, why);
		*gone = true;
		rc = 0;
	} else if (rc == 2 || (rc == 0 && !belongs(f, at, block) && !adopt)) {
		put_aside(c, f, at);
		rc = 0;
	} else if (rc == 0) {
		if (!belongs(f, at, block)) {
			check_found(c, true, f->text,
				    "map block %llu says that it belongs elsewhere",
				    (unsigned long long)at->vbn);
			make_belong(f, at, block);
			changed = true;
		}
		rc = enter(c, f, at, block, changed, gone);
	}
	free(block);
	return rc;
}

/* --- the file ------------------------------------------------------------------------------------------- */

/* A tree whose height is wrong: its root block knows better. */
static int mend_height(struct check *c, struct file *f, struct cfs_inode_block *n, bool *changed)
{
	struct cfs_map_node *root = xmalloc(sizeof(*root));
	uint64_t vbn = le64_get(n->root);
	enum cfs_type type;
	unsigned height;
	int rc = 0;

	if (vbn && check_group_at(c, vbn)) {
		rc = check_read(c, vbn, root);
		type = (enum cfs_type)le16_get(root->head.type);
		height = type == CFS_T_MAP_NODE ? root->level : 0;
		if (rc == 0 && (type == CFS_T_MAP_NODE || type == CFS_T_MAP_LEAF) &&
		    cfs_block_check(root, type, c->fs->id, vbn) == 0 &&
		    cfs_block_validate(root, type) == 0 && le64_get(root->head.owner) == f->lock &&
		    le64_get(root->index) == 0 && height <= MAP_HEIGHT && height != n->height) {
			check_found(c, true, f->text, "its map is %u high, not %u", height,
				    n->height);
			n->height = (uint8_t)height;
			*changed = true;
		}
		err_clear();
	}
	if (n->height > MAP_HEIGHT) {
		check_found(c, true, f->text, "its map cannot be %u high", n->height);
		n->height = 0;
		*changed = true;
	}
	free(root);
	return rc;
}

/* Counts and sizes, when the whole map was seen. */
static bool finish(struct check *c, const struct file *f, struct cfs_inode_block *n)
{
	uint64_t size = le64_get(n->size), units = DIV_ROUND_UP(size, CFS_UNIT);
	bool changed = false;

	if (f->allocated != le64_get(n->allocated)) {
		check_found(c, true, f->text, "has %llu units, its inode says %llu",
			    (unsigned long long)f->allocated,
			    (unsigned long long)le64_get(n->allocated));
		n->allocated = le64_of(f->allocated);
		changed = true;
	}
	if (f->allocated && le16_get(n->inline_bytes)) {
		check_found(c, true, f->text, "has content in its inode and in its map");
		n->inline_bytes = le16_of(0);
		changed = true;
	}
	if (le16_get(n->inline_bytes) > size || (f->end > units && n->work == CFS_WORK_NONE)) {
		size = MAX((uint64_t)le16_get(n->inline_bytes), f->end * CFS_UNIT);
		check_found(c, true, f->text, "has content behind its size of %llu; it is %llu now",
			    (unsigned long long)le64_get(n->size), (unsigned long long)size);
		n->size = le64_of(size);
		changed = true;
	}
	if (n->kind == CFS_KIND_DISK && size % CFS_BLOCK) {
		check_found(c, true, f->text, "has a size of %llu, no multiple of 4096",
			    (unsigned long long)size);
		n->size = le64_of(ROUND_UP(size, CFS_BLOCK));
		changed = true;
	}
	if (size > CFS_MAX_VOLUME) {
		check_found(c, true, f->text, "has an impossible size of %llu",
			    (unsigned long long)size);
		n->size = le64_of(MAX(f->end * CFS_UNIT, (uint64_t)CFS_BLOCK));
		changed = true;
	}
	return changed;
}

int check_map(struct check *c, uint64_t vbn, struct cfs_inode_block *n)
{
	struct file *f = xcalloc(1, sizeof(*f));
	struct check_later root = {.vbn = le64_get(n->root)};
	bool changed = false, gone = false;
	int rc;

	f->vbn = vbn;
	f->lock = vbn - 1;
	check_inode_text(vbn, n, f->text);
	if (le32_get(n->generation) == 0) {
		check_found(c, true, f->text, "has no generation");
		n->generation = le32_of(1);
		changed = true;
	}
	f->generation = le32_get(n->generation);
	rc = mend_height(c, f, n, &changed);
	root.level = n->height;
	if (rc == 0 && root.vbn)
		rc = walk(c, f, &root, false, &gone);
	if (gone) {
		n->root = le64_of(0);
		changed = true;
	}
	if (rc == 0 && !f->aside && finish(c, f, n))
		changed = true;
	if (rc == 0 && changed)
		rc = check_write(c, vbn, CFS_T_INODE, n);
	if (!f->aside)
		free(f);
	return rc;
}

/* --- what was put aside ------------------------------------------------------------------------------------ */

static int drop_pointer(struct check *c, const struct check_later *l)
{
	struct cfs_map_node *node = xmalloc(sizeof(*node));
	struct cfs_inode_block *n = (void *)node;
	uint64_t vbn = l->parent ? l->parent : l->file->vbn;
	int rc = check_read(c, vbn, node);

	if (rc == 0 && l->parent) {
		node->pointer[l->slot].child = le64_of(0);
		rc = check_write(c, vbn, CFS_T_MAP_NODE, node);
	} else if (rc == 0) {
		n->root = le64_of(0);
		rc = check_write(c, vbn, CFS_T_INODE, n);
	}
	free(node);
	return rc;
}

static int resolve(struct check *c, struct check_later *l)
{
	bool gone = false;
	int rc = 0;

	if (check_meta_seen(c, CFS_SLAB_META, l->vbn)) {
		told_gone(c, l->file, l, "another one uses its block");
		gone = true;
	} else {
		rc = walk(c, l->file, l, true, &gone);
	}
	return rc == 0 && gone ? drop_pointer(c, l) : rc;
}

static int clone_unit(struct check *c, struct check_later *l)
{
	struct cfs_map_leaf *leaf;
	struct cfs_entry e;
	uint8_t *data;
	uint64_t vbn;
	int rc = check_alloc_unit(c, &vbn);

	if (rc == -ENOSPC) {
		check_found(c, false, l->file->text,
			    "64 KiB at offset %llu share block %llu with another file; no room for "
			    "a copy",
			    (unsigned long long)(l->index * CFS_UNIT), (unsigned long long)l->vbn);
		err_clear();
		return 0;
	}
	if (rc < 0)
		return rc;
	told_entry(c, l->file, l->index,
		   "are used by two; this one has a copy now, look at the content of both", l->vbn);
	data = xaligned(CFS_BLOCK, CFS_UNIT);
	leaf = xmalloc(sizeof(*leaf));
	if (c->repair)
		rc = cfs_read(c->fs, l->vbn, data, CFS_UNIT);
	if (rc == 0 && c->repair)
		rc = check_write_raw(c, vbn, data, CFS_UNIT);
	if (rc == 0 && c->repair)
		rc = cfs_flush_since(c->fs, c->power);
	if (rc == 0)
		rc = check_read(c, l->parent, leaf);
	if (rc == 0) {
		cfs_entry_decode(&leaf->entry[l->slot], &e);
		e.block = vbn;
		cfs_entry_encode(&e, &leaf->entry[l->slot]);
		rc = check_write(c, l->parent, CFS_T_MAP_LEAF, leaf);
	}
	free(data);
	free(leaf);
	return rc;
}

static int finish_later(struct check *c, struct file *f)
{
	struct cfs_inode_block *n;
	int rc;

	if (--f->aside)
		return 0;
	n = xmalloc(sizeof(*n));
	rc = check_read(c, f->vbn, n);
	if (rc == 0 && finish(c, f, n))
		rc = check_write(c, f->vbn, CFS_T_INODE, n);
	free(n);
	free(f);
	return rc;
}

/* Blocks first: their content takes units; then copies, when all that is in use is known. */
int check_map_later(struct check *c)
{
	struct check_later *clones = NULL, *l;
	int rc = 0;

	while ((l = c->later)) {
		int rc2;

		c->later = l->next;
		if (l->level == CLONE) {
			l->next = clones;
			clones = l;
			continue;
		}
		if (rc == 0)
			rc = resolve(c, l);
		rc2 = finish_later(c, l->file);
		rc = rc < 0 ? rc : rc2;
		free(l);
	}
	while ((l = clones)) {
		int rc2;

		clones = l->next;
		if (rc == 0)
			rc = clone_unit(c, l);
		rc2 = finish_later(c, l->file);
		rc = rc < 0 ? rc : rc2;
		free(l);
	}
	return rc;
}

void check_map_drop(struct check *c)
{
	while (c->later) {
		struct check_later *l = c->later;

		c->later = l->next;
		if (--l->file->aside == 0)
			free(l->file);
		free(l);
	}
}

/* --- the map of an inode that was lost ------------------------------------------------------------------------ */

/* A better root than what was found so far? The highest one, with index 0, names the others. */
static void consider(struct check *c, uint64_t vbn, const struct cfs_map_node *b, uint64_t lock,
		     struct cfs_inode_block *n)
{
	enum cfs_type type = (enum cfs_type)le16_get(b->head.type);
	unsigned level = type == CFS_T_MAP_NODE ? b->level : 0;

	if ((type != CFS_T_MAP_NODE && type != CFS_T_MAP_LEAF) || le64_get(b->head.owner) != lock ||
	    le64_get(b->index) != 0 || level > MAP_HEIGHT ||
	    cfs_block_check(b, type, c->fs->id, vbn) < 0 || cfs_block_validate(b, type) < 0 ||
	    (le64_get(n->root) && level <= n->height))
		return;
	n->root = le64_of(vbn);
	n->height = (uint8_t)level;
	n->root_birth = n->generation = b->birth;
}

int check_map_find(struct check *c, uint64_t lock, struct cfs_inode_block *n)
{
	struct cfs_map_node *b = xmalloc(sizeof(*b));
	int rc = 0;

	n->root = le64_of(0);
	for (unsigned k = 0; k < c->groups && rc == 0; k++) {
		const struct check_group *g = &c->group[k];

		for (unsigned s = 0; s < le16_get(g->header->slabs) && rc == 0; s++) {
			uint64_t first = g->vbn + (uint64_t)le32_get(g->header->slab[s].unit) *
							  CFS_UNIT_BLOCKS;

			if (g->header->slab[s].type != CFS_SLAB_META)
				continue;
			for (unsigned i = 0; i < CFS_UNIT_BLOCKS && rc == 0; i++) {
				if (!(le16_get(g->header->slab[s].used) >> i & 1) ||
				    check_meta_seen(c, CFS_SLAB_META, first + i))
					continue;
				rc = check_read(c, first + i, b);
				if (rc == 0)
					consider(c, first + i, b, lock, n);
			}
		}
	}
	err_clear();
	free(b);
	if (rc == 0 && !le64_get(n->root))
		return 1;
	return rc;
}
