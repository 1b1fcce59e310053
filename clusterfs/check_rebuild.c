// SPDX-License-Identifier: Apache-2.0
/*
 * check_rebuild.c: lost inodes get their names back, and directories with trouble are written anew: all
 * entries that are right are collected, packed into new blocks, and the inode is turned to them last.
 */
#include "clusterfs/check.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"

#define DIRS	   16384u /* as in check_dir.c */
#define LEAF_FILL  3000u  /* bytes; leaves room for names to come */
#define NODE_FILL  200u
#define LOST_FOUND "lost+found"

/* --- collecting ------------------------------------------------------------------------------------- */

struct list_of { /* entries in memory, names behind them */
	size_t n, size;
	struct cfs_dirent *e;
};

static void push(struct list_of *l, const struct cfs_dirent *e)
{
	if (l->n == l->size) {
		l->size = l->size ? 2 * l->size : 64;
		l->e = xrealloc(l->e, l->size * sizeof(*l->e));
	}
	l->e[l->n++] = *e;
}

static bool same(const struct cfs_dirent *a, const struct cfs_dirent *b)
{
	return a->hash == b->hash && a->inode == b->inode && strcmp(a->name, b->name) == 0;
}

static int collect(struct check *c, struct check_dir *d, const struct cfs_dirent *e, void *arg)
{
	(void)c;
	for (const struct check_entry *x = d->drop; x; x = x->next) {
		if (same(&x->e, e))
			return 0;
	}
	push(arg, e);
	return 0;
}

static int compare(const void *a, const void *b)
{
	const struct cfs_dirent *x = a, *y = b;
	int order;

	if (x->hash != y->hash)
		return x->hash < y->hash ? -1 : 1;
	order = memcmp(x->name, y->name, MIN(x->len, y->len));
	return order ? order : (int)x->len - (int)y->len;
}

/* An inode's own parent and name follow what its entry will be. */
static int rename_inode(struct check *c, uint64_t dir, const struct cfs_dirent *e)
{
	struct cfs_inode_block *n = xmalloc(sizeof(*n));
	int rc = check_read(c, e->inode, n);

	if (rc == 0 && (le64_get(n->parent) != dir || strcmp(n->name, e->name) != 0)) {
		n->parent = le64_of(dir);
		memcpy(n->name, e->name, sizeof(n->name));
		rc = check_write(c, e->inode, CFS_T_INODE, n);
	}
	free(n);
	return rc;
}

static int gather(struct check *c, struct check_dir *d, const struct cfs_inode_block *n,
		  struct list_of *l)
{
	int rc = check_dir_walk(c, d, n, true, collect, l);
	size_t kept = 0;

	for (const struct check_entry *x = d->add; x; x = x->next)
		push(l, &x->e);
	if (l->n)
		qsort(l->e, l->n, sizeof(*l->e), compare);
	for (size_t i = 0; i < l->n && rc == 0; i++) {
		if (kept && compare(&l->e[kept - 1], &l->e[i]) == 0) {
			struct cfs_dirent e = l->e[i];
			char name[32];
			int len;

			if (l->e[kept - 1].inode == e.inode)
				continue; /* the same name twice */
			len = snprintf(name, sizeof(name), "#%llu", (unsigned long long)e.inode);
			cfs_dirent_set(&e, name, (size_t)len, e.kind, e.inode);
			rc = rename_inode(c, d->vbn, &e);
			push(l, &e);
			qsort(l->e + i + 1, l->n - i - 1, sizeof(*l->e), compare);
			continue;
		}
		l->e[kept++] = l->e[i];
	}
	l->n = kept;
	return rc;
}

/* --- writing ------------------------------------------------------------------------------------------ */

struct level { /* pointers to what was written last */
	size_t n, size;
	struct cfs_dir_pointer *p;
};

static void point(struct level *l, uint64_t hash, uint64_t child)
{
	if (l->n == l->size) {
		l->size = l->size ? 2 * l->size : 64;
		l->p = xrealloc(l->p, l->size * sizeof(*l->p));
	}
	l->p[l->n].hash = le64_of(l->n ? hash : 0);
	l->p[l->n++].child = le64_of(child);
}

static int write_leaf(struct check *c, uint64_t lock, struct cfs_dir_leaf *leaf, struct level *l)
{
	uint64_t vbn, first = le64_get(((struct cfs_dir_entry *)leaf->data)->hash);
	int rc = check_alloc_meta(c, CFS_SLAB_META, &vbn);

	if (rc < 0)
		return rc;
	leaf->head.owner = le64_of(lock);
	point(l, first, vbn);
	rc = check_write(c, vbn, CFS_T_DIR_LEAF, leaf);
	memset(leaf, 0, sizeof(*leaf));
	return rc;
}

/* Equal hashes stay together. */
static int write_leaves(struct check *c, uint64_t lock, const struct list_of *all, struct level *l)
{
	struct cfs_dir_leaf *leaf = xcalloc(1, sizeof(*leaf));
	uint64_t last = 0;
	int rc = 0;

	for (size_t i = 0; i < all->n && rc == 0; i++) {
		const struct cfs_dirent *e = &all->e[i];

		if (le16_get(leaf->entries) && e->hash != last &&
		    le16_get(leaf->used) + CFS_DIR_ENTRY_BYTES(e->len) > LEAF_FILL)
			rc = write_leaf(c, lock, leaf, l);
		if (rc == 0 && !cfs_dirleaf_fits(leaf, e))
			rc = fail(-ENOSPC, "directory: too many names of one hash");
		if (rc == 0)
			cfs_dirleaf_insert(leaf, e);
		last = e->hash;
	}
	if (rc == 0 && le16_get(leaf->entries))
		rc = write_leaf(c, lock, leaf, l);
	free(leaf);
	return rc;
}

static int write_nodes(struct check *c, uint64_t lock, unsigned level, const struct level *below,
		       struct level *l)
{
	struct cfs_dir_node *node = xmalloc(sizeof(*node));
	int rc = 0;

	for (size_t i = 0; i < below->n && rc == 0; i += NODE_FILL) {
		size_t n = MIN(below->n - i, (size_t)NODE_FILL);
		uint64_t vbn;

		rc = check_alloc_meta(c, CFS_SLAB_META, &vbn);
		if (rc < 0)
			break;
		memset(node, 0, sizeof(*node));
		node->head.owner = le64_of(lock);
		node->level = (uint8_t)level;
		node->entries = le16_of((uint16_t)n);
		memcpy(node->pointer, below->p + i, n * sizeof(*node->pointer));
		point(l, le64_get(below->p[i].hash), vbn);
		rc = check_write(c, vbn, CFS_T_DIR_NODE, node);
	}
	free(node);
	return rc;
}

static int write_tree(struct check *c, uint64_t lock, const struct list_of *all, uint64_t *root,
		      unsigned *height)
{
	struct level below = {0};
	int rc = write_leaves(c, lock, all, &below);

	*height = 0;
	while (rc == 0 && below.n > 1) {
		struct level above = {0};

		rc = write_nodes(c, lock, ++*height, &below, &above);
		free(below.p);
		below = above;
	}
	*root = rc == 0 && below.n ? le64_get(below.p[0].child) : 0;
	free(below.p);
	return rc;
}

static void note_block(void *arg, uint64_t vbn)
{
	point(arg, 0, vbn);
}

/* The old blocks stay taken until the inode has turned to the new ones. */
static int rebuild(struct check *c, struct check_dir *d)
{
	struct cfs_inode_block *n = xmalloc(sizeof(*n));
	struct list_of all = {0};
	struct level old = {0};
	unsigned height;
	uint64_t root;
	int rc = check_read(c, d->vbn, n);

	if (rc == 0)
		rc = gather(c, d, n, &all);
	if (rc == 0)
		rc = check_dir_blocks(c, d, n, note_block, &old);
	if (rc == 0)
		rc = write_tree(c, d->vbn - 1, &all, &root, &height);
	if (rc == 0 && c->repair)
		rc = cfs_flush_since(c->fs, c->power);
	if (rc == 0) {
		n->root = le64_of(root);
		n->height = (uint8_t)height;
		n->size = le64_of(all.n);
		n->modified = le64_of(clock_wall_ns());
		rc = check_write(c, d->vbn, CFS_T_INODE, n);
	}
	for (size_t i = 0; i < old.n && rc == 0; i++)
		check_unclaim_meta(c, le64_get(old.p[i].child));
	free(all.e);
	free(old.p);
	free(n);
	return rc;
}

/* --- lost inodes ------------------------------------------------------------------------------------------ */

static int find_name(struct check *c, struct check_dir *d, const struct cfs_dirent *e, void *arg)
{
	struct cfs_dirent *want = arg;

	(void)c;
	(void)d;
	if (e->hash == want->hash && strcmp(e->name, want->name) == 0) {
		want->inode = e->inode;
		want->kind = e->kind;
	}
	return 0;
}

/* What `name` is in a directory: e->inode 0 when there is no such name. */
static int look_up(struct check *c, struct check_dir *d, const char *name, struct cfs_dirent *e)
{
	struct cfs_inode_block *n = xmalloc(sizeof(*n));
	bool was = d->rebuild;
	int rc = check_read(c, d->vbn, n);

	cfs_dirent_set(e, name, strlen(name), CFS_KIND_NONE, 0);
	if (rc == 0)
		rc = check_dir_walk(c, d, n, true, find_name, e);
	d->rebuild = was;
	for (const struct check_entry *x = d->drop; x; x = x->next) {
		if (e->inode && same(&x->e, e))
			e->inode = 0;
	}
	for (const struct check_entry *x = d->add; x; x = x->next) {
		if (strcmp(x->e.name, name) == 0)
			*e = x->e;
	}
	free(n);
	return rc;
}

static int make_lost_found(struct check *c, struct check_dir *root, struct check_dir **out)
{
	struct cfs_inode_block *n = xcalloc(1, sizeof(*n));
	struct cfs_dirent e;
	uint64_t vbn;
	int rc = check_alloc_meta(c, CFS_SLAB_INODE, &vbn);

	if (rc == 0) {
		cfs_dirent_set(&e, LOST_FOUND, strlen(LOST_FOUND), CFS_KIND_DIR, vbn);
		n->head.owner = le64_of(vbn - 1);
		n->kind = CFS_KIND_DIR;
		random_bytes(n->id, sizeof(n->id));
		random_bytes(&n->node, sizeof(n->node));
		n->created = n->modified = le64_of(clock_wall_ns());
		n->generation = le32_of(1);
		n->parent = le64_of(root->vbn);
		memcpy(n->name, e.name, sizeof(n->name));
		rc = check_write(c, vbn, CFS_T_INODE, n);
	}
	if (rc == 0) {
		check_entry_add(&root->add, &e);
		root->rebuild = true;
		*out = check_dir_add(c, vbn);
		c->todo = NULL; /* empty: nothing to read */
	}
	free(n);
	return rc;
}

static int lost_found(struct check *c, struct check_dir **out)
{
	struct check_dir *root = check_dir_find(c, le64_get(c->fs->label.root));
	struct cfs_dirent e;
	int rc = look_up(c, root, LOST_FOUND, &e);

	if (rc < 0)
		return rc;
	*out = e.inode && e.kind == CFS_KIND_DIR ? check_dir_find(c, e.inode) : NULL;
	if (*out)
		return 0;
	if (e.inode) { /* something else has that name: the root takes them */
		*out = root;
		return 0;
	}
	return make_lost_found(c, root, out);
}

static int attach(struct check *c, const struct check_attach *a)
{
	uint64_t trash = le64_get(c->fs->label.trash);
	struct check_dir *d = check_dir_find(c, a->deleting ? trash : a->dir);
	struct cfs_dirent e = a->e, there = {0};
	char name[32];
	int rc = 0;

	if (d && (a->deleting || d->vbn != trash))
		rc = look_up(c, d, e.name, &there);
	else
		d = NULL;
	if (rc == 0 && there.inode == e.inode && d)
		return 0; /* it has its name already */
	if (rc == 0 && (!d || there.inode)) {
		int len = snprintf(name, sizeof(name), "#%llu", (unsigned long long)e.inode);

		cfs_dirent_set(&e, name, (size_t)len, e.kind, e.inode);
		rc = lost_found(c, &d);
	}
	if (rc < 0)
		return rc;
	check_entry_add(&d->add, &e);
	d->rebuild = true;
	return rename_inode(c, d->vbn, &e);
}

/* --- all of it ------------------------------------------------------------------------------------------------ */

static int count_names(struct check *c, struct check_dir *d)
{
	struct cfs_inode_block *n = xmalloc(sizeof(*n));
	char text[320];
	int rc = check_read(c, d->vbn, n);

	if (rc == 0 && d->names != le64_get(n->size)) {
		check_found(c, true, check_inode_text(d->vbn, n, text), "has %llu names, not %llu",
			    (unsigned long long)d->names, (unsigned long long)le64_get(n->size));
		n->size = le64_of(d->names);
		rc = check_write(c, d->vbn, CFS_T_INODE, n);
	}
	free(n);
	return rc;
}

int check_rebuild(struct check *c)
{
	int rc = 0;

	for (struct check_attach *a = c->attach; a && rc == 0; a = a->next)
		rc = attach(c, a);
	for (unsigned i = 0; i < DIRS && rc == 0; i++) {
		for (struct check_dir *d = c->dirs[i]; d && rc == 0; d = d->next)
			rc = d->rebuild ? rebuild(c, d) : count_names(c, d);
	}
	return rc;
}
