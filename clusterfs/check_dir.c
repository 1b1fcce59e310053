// SPDX-License-Identifier: Apache-2.0
/*
 * check_dir.c: the tree of one directory: its blocks whole, its own, in order, each hash where it belongs.
 * Of a block with a right checksum every entry that is right by itself is taken; of one without, none.
 */
#include "clusterfs/check.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "clusterfs/label.h"

#define DIRS 16384u

const char *check_inode_text(uint64_t vbn, const struct cfs_inode_block *n, char dst[320])
{
	char name[256];

	cfs_text_copy(name, sizeof(name), n->name, sizeof(n->name));
	snprintf(dst, 320, "inode %llu (%s)", (unsigned long long)vbn, name);
	return dst;
}

/* --- directories that were reached ----------------------------------------------------------------- */

static struct check_dir **dir_at(struct check *c, uint64_t vbn)
{
	struct check_dir **p;

	if (!c->dirs)
		c->dirs = xcalloc(DIRS, sizeof(*c->dirs));
	p = &c->dirs[(vbn * 0x9e3779b97f4a7c15ULL) >> 50 & (DIRS - 1)];
	while (*p && (*p)->vbn != vbn)
		p = &(*p)->next;
	return p;
}

struct check_dir *check_dir_find(struct check *c, uint64_t vbn)
{
	return *dir_at(c, vbn);
}

struct check_dir *check_dir_add(struct check *c, uint64_t vbn)
{
	struct check_dir **p = dir_at(c, vbn);

	if (!*p) {
		*p = xcalloc(1, sizeof(**p));
		(*p)->vbn = vbn;
		(*p)->todo = c->todo;
		c->todo = *p;
	}
	return *p;
}

void check_entry_add(struct check_entry **list, const struct cfs_dirent *e)
{
	struct check_entry *x = xmalloc(sizeof(*x));

	x->e = *e;
	x->next = *list;
	*list = x;
}

static void entries_free(struct check_entry *x)
{
	while (x) {
		struct check_entry *next = x->next;

		free(x);
		x = next;
	}
}

void check_dirs_free(struct check *c)
{
	for (unsigned i = 0; c->dirs && i < DIRS; i++) {
		while (c->dirs[i]) {
			struct check_dir *d = c->dirs[i];

			c->dirs[i] = d->next;
			entries_free(d->add);
			entries_free(d->drop);
			free(d);
		}
	}
	free(c->dirs);
	c->dirs = NULL;
}

/* --- the walk --------------------------------------------------------------------------------------------- */

struct walk {
	struct check *c;
	struct check_dir *d;
	const char *text;
	bool quiet, deleting;
	check_entry_fn *fn;
	void *arg;
	void (*block)(void *arg, uint64_t vbn);
};

static void trouble(struct walk *w, uint64_t vbn, const char *what)
{
	if (!w->quiet)
		check_found(w->c, true, w->text, "directory block %llu: %s; it is written anew",
			    (unsigned long long)vbn, what);
	w->d->rebuild = true;
}

/* Entries of a leaf that may be broken: as far as they parse. `lo`..`hi` is what belongs here. */
static int leaf_entries(struct walk *w, uint64_t vbn, const struct cfs_dir_leaf *leaf, uint64_t lo,
			uint64_t hi, bool last)
{
	unsigned used = MIN(le16_get(leaf->used), CFS_DIR_LEAF_BYTES), at = 0;
	bool misplaced = false;
	int rc = 0;

	while (rc == 0 && used - at >= CFS_DIR_ENTRY_BYTES(1u)) {
		const struct cfs_dir_entry *d = (const void *)(leaf->data + at);
		const uint8_t *name = leaf->data + at + offsetof(struct cfs_dir_entry, name);
		unsigned bytes = (unsigned)CFS_DIR_ENTRY_BYTES(d->name_len);
		struct cfs_dirent e;

		if (bytes > used - at || !cfs_name_valid(name, d->name_len))
			break;
		cfs_dirent_set(&e, (const char *)name, d->name_len, (enum cfs_kind)d->kind,
			       le64_get(d->inode));
		/* Name or hash is wrong: the inode knows its name, and gets it back. */
		if (e.hash == le64_get(d->hash)) {
			misplaced |= e.hash < lo || (!last && e.hash >= hi);
			if (w->fn)
				rc = w->fn(w->c, w->d, &e, w->arg);
		}
		at += bytes;
	}
	if (misplaced)
		trouble(w, vbn, "names whose hash belongs elsewhere");
	return rc;
}

/* Reads a block of the tree; 1: not usable. */
static int take_block(struct walk *w, uint64_t vbn, unsigned level, void *block, bool *broken)
{
	enum cfs_type type = level ? CFS_T_DIR_NODE : CFS_T_DIR_LEAF;
	const struct cfs_dir_node *node = block;
	char why[256];
	int rc;

	*broken = false;
	if (!check_group_at(w->c, vbn)) {
		trouble(w, vbn, "lies outside");
		return 1;
	}
	if (w->quiet) {
		if (!check_meta_seen(w->c, CFS_SLAB_META, vbn))
			return 1;
		rc = check_read(w->c, vbn, block);
		if (rc == 0 && cfs_block_check(block, type, w->c->fs->id, vbn) < 0)
			rc = 1;
		err_clear();
	} else {
		rc = check_block(w->c, vbn, type, block, why);
		if (rc >= 1)
			trouble(w, vbn, why);
		*broken = rc == 2;
		if (rc == 2)
			rc = 0;
	}
	if (rc == 0 &&
	    (le64_get(node->head.owner) != w->d->vbn - 1 || (level && node->level != level))) {
		trouble(w, vbn, "belongs to another directory, or another level");
		rc = 1;
	}
	if (rc == 0 && !w->quiet && check_claim_meta(w->c, CFS_SLAB_META, vbn) != CHECK_NEW) {
		trouble(w, vbn, "is used twice");
		rc = 1;
	}
	return rc;
}

static int walk_tree(struct walk *w, uint64_t vbn, unsigned level, uint64_t lo, uint64_t hi,
		     bool last)
{
	uint8_t *block = xmalloc(CFS_BLOCK);
	const struct cfs_dir_node *node = (const void *)block;
	bool broken;
	int rc = take_block(w, vbn, level, block, &broken);
	unsigned n = MIN(le16_get(node->entries), CFS_NODE_ENTRIES);

	if (rc == 0 && w->quiet && w->block)
		w->block(w->arg, vbn);
	if (rc == 0 && level == 0) {
		rc = leaf_entries(w, vbn, (const void *)block, lo, hi, last);
	} else if (rc == 0) {
		if (n ? le64_get(node->pointer[0].hash) != lo : !w->deleting)
			trouble(w, vbn, "does not begin where it should");
		for (unsigned i = 0; i < n && rc == 0; i++) {
			bool end = i + 1 == n;
			uint64_t from = le64_get(node->pointer[i].hash);
			uint64_t to = end ? hi : le64_get(node->pointer[i + 1].hash);

			if (le64_get(node->pointer[i].child) < CFS_VBN_MAX)
				rc = walk_tree(w, le64_get(node->pointer[i].child), level - 1, from,
					       to, end && last);
		}
	}
	free(block);
	return rc < 0 ? rc : 0;
}

/* The root's own level, where it can be read: an inode's height may be what is wrong. */
static int find_height(struct walk *w, const struct cfs_inode_block *n, unsigned *height)
{
	struct cfs_dir_node *root = xmalloc(sizeof(*root));
	uint64_t vbn = le64_get(n->root);
	int rc = 0;

	*height = n->height;
	if (check_group_at(w->c, vbn)) {
		enum cfs_type type;

		rc = check_read(w->c, vbn, root);
		type = (enum cfs_type)le16_get(root->head.type);
		if (rc == 0 && (type == CFS_T_DIR_LEAF || type == CFS_T_DIR_NODE) &&
		    cfs_block_check(root, type, w->c->fs->id, vbn) == 0 &&
		    cfs_block_validate(root, type) == 0 &&
		    le64_get(root->head.owner) == w->d->vbn - 1)
			*height = type == CFS_T_DIR_NODE ? root->level : 0;
		err_clear();
	}
	free(root);
	if (*height != n->height)
		trouble(w, vbn, "is of another height than the inode says");
	if (*height > CFS_MAX_HEIGHT) {
		trouble(w, vbn, "the tree cannot be that high");
		*height = 0;
	}
	return rc;
}

static int walk_dir(struct walk *w, const struct cfs_inode_block *n)
{
	unsigned height;
	int rc;

	if (!le64_get(n->root))
		return 0;
	w->deleting = n->work == CFS_WORK_DELETE;
	rc = find_height(w, n, &height);
	return rc < 0 ? rc : walk_tree(w, le64_get(n->root), height, 0, 0, true);
}

int check_dir_walk(struct check *c, struct check_dir *d, const struct cfs_inode_block *n,
		   bool quiet, check_entry_fn *fn, void *arg)
{
	char text[320];
	struct walk w = {.c = c, .d = d, .quiet = quiet, .fn = fn, .arg = arg};

	w.text = check_inode_text(d->vbn, n, text);
	return walk_dir(&w, n);
}

int check_dir_blocks(struct check *c, struct check_dir *d, const struct cfs_inode_block *n,
		     void (*fn)(void *arg, uint64_t vbn), void *arg)
{
	struct walk w = {.c = c, .d = d, .text = "", .quiet = true, .block = fn, .arg = arg};

	return walk_dir(&w, n);
}
