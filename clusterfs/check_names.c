// SPDX-License-Identifier: Apache-2.0
/*
 * check_names.c: from the root and the trash to everything that has a name; then what has none.
 *
 * An inode repeats its parent and its name. Where entry and inode agree, that is it. An entry whose inode
 * says otherwise is put aside: if the inode turns up under the name it says, the entry is wrong; if not,
 * the inode gets the entry's name. An inode that no entry names wants to be where it says it was.
 */
#include "clusterfs/check.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "clusterfs/locks.h"
#include "clusterfs/names.h"

static uint64_t trash_vbn(const struct check *c)
{
	return le64_get(c->fs->label.trash);
}

static void attach_add(struct check_attach **list, uint64_t dir, const struct cfs_dirent *e,
		       bool deleting)
{
	struct check_attach *a = xcalloc(1, sizeof(*a));

	a->dir = dir;
	a->e = *e;
	a->deleting = deleting;
	a->next = *list;
	*list = a;
}

static void drop(struct check *c, struct check_dir *d, const struct cfs_dirent *e, const char *why)
{
	char text[320];

	snprintf(text, sizeof(text), "directory %llu", (unsigned long long)d->vbn);
	check_found(c, true, text, "name \"%.200s\" %s; it is taken out", e->name, why);
	check_entry_add(&d->drop, e);
	d->rebuild = true;
}

/* --- inodes ------------------------------------------------------------------------------------------ */

static void blank_inode(struct cfs_inode_block *n, uint64_t vbn, uint64_t parent,
			const struct cfs_dirent *e)
{
	memset(n, 0, sizeof(*n));
	n->head.owner = le64_of(vbn - 1);
	n->kind = (uint8_t)e->kind;
	random_bytes(n->id, sizeof(n->id));
	random_bytes(&n->node, sizeof(n->node));
	n->created = n->modified = le64_of(clock_wall_ns());
	n->generation = le32_of(1);
	n->parent = le64_of(parent);
	memcpy(n->name, e->name, sizeof(n->name));
}

/* A whole block whose content cannot be. */
static void tame_inode(struct cfs_inode_block *n, const struct cfs_dirent *e)
{
	if (n->kind > CFS_KIND_VM)
		n->kind = (uint8_t)e->kind;
	if (n->work > CFS_WORK_SHRINK)
		n->work = CFS_WORK_NONE;
	if (n->height > CFS_MAX_HEIGHT)
		n->height = CFS_MAX_HEIGHT; /* the tree's root block knows better */
	n->name[sizeof(n->name) - 1] = 0;
	if (le64_get(n->root) >= CFS_VBN_MAX)
		n->root = le64_of(0);
	if (le16_get(n->inline_bytes) > CFS_INODE_INLINE ||
	    (n->kind != CFS_KIND_FILE && n->kind != CFS_KIND_VM))
		n->inline_bytes = le16_of(0);
	if (le16_get(n->reservation_bytes) > CFS_RESERVATIONS || n->kind != CFS_KIND_DISK)
		n->reservation_bytes = le16_of(0);
}

/*
 * The inode of an entry is unreadable, and it is certain that there was one: a directory is begun anew
 * (what was in it names it as parent), a file's map is looked for. 1: nothing to be had.
 */
static int revive(struct check *c, uint64_t vbn, uint64_t parent, const struct cfs_dirent *e,
		  struct cfs_inode_block *n, const char *why)
{
	char text[320];
	int rc = 0;

	if (!check_pair_used(c, vbn) || e->kind < CFS_KIND_FILE || e->kind > CFS_KIND_VM)
		return 1;
	blank_inode(n, vbn, parent, e);
	if (e->kind != CFS_KIND_DIR)
		rc = check_map_find(c, vbn - 1, n);
	if (rc != 0)
		return rc;
	check_found(c, true, check_inode_text(vbn, n, text), "%s; %s", why,
		    e->kind == CFS_KIND_DIR
			    ? "the directory is made anew, what was in it is found by its own names"
			    : "its content is found again, but for its exact size and its id");
	return check_write(c, vbn, CFS_T_INODE, n);
}

/* Which of the two kinds the tree below speaks for. */
static int agree_on_kind(struct check *c, uint64_t vbn, struct cfs_inode_block *n,
			 struct cfs_dirent *e)
{
	struct cfs_head *root = xmalloc(CFS_BLOCK);
	uint64_t at = le64_get(n->root);
	bool dir = n->kind == CFS_KIND_DIR, known = false;
	char text[320];
	int rc = 0;

	if (at && check_group_at(c, at)) {
		unsigned type;

		rc = check_read(c, at, root);
		type = le16_get(root->type);
		known = rc == 0 && type >= CFS_T_MAP_LEAF && type <= CFS_T_DIR_NODE;
		dir = type == CFS_T_DIR_LEAF || type == CFS_T_DIR_NODE;
	}
	free(root);
	if (rc < 0)
		return rc;
	if ((known && dir != (n->kind == CFS_KIND_DIR) && dir == (e->kind == CFS_KIND_DIR)) ||
	    (n->kind == CFS_KIND_DISK && le16_get(n->inline_bytes))) {
		check_found(c, true, check_inode_text(vbn, n, text),
			    "is of kind %u, its name's entry says %u, and that is right", n->kind,
			    e->kind);
		n->kind = (uint8_t)e->kind;
		return check_write(c, vbn, CFS_T_INODE, n);
	}
	return 1; /* the entry is wrong */
}

/* A saved VM needs the file that its lock names; only its owner can say that the state may go. */
static int check_saved(struct check *c, uint64_t vbn, const char *what)
{
	struct cfs_inode_block *n = xmalloc(sizeof(*n));
	struct cfs_lock_record r;
	struct cfs_saved state;
	char why[256];
	int rc = check_record(c, vbn - 1, CFS_T_LOCK, &r, why);

	if (rc == 0 && cfs_lock_is_saved(&r)) {
		cfs_saved_get(&r, &state);
		rc = cfs_vbn_valid(c->fs, state.inode)
			     ? check_block(c, state.inode, CFS_T_INODE, n, why)
			     : 2;
		if (rc > 0 || (rc == 0 && (n->kind != CFS_KIND_FILE ||
					   memcmp(n->id, state.id, sizeof(n->id)) != 0)))
			check_found(c, false, what,
				    "is saved, and the state is not there: it can only be started "
				    "anew (vm start --discard-state)");
	}
	free(n);
	return MIN(rc, 0);
}

/* The inode is found, and is where it belongs. */
static int accept(struct check *c, uint64_t vbn, struct cfs_inode_block *n, bool in_trash)
{
	bool changed = false;
	char text[320];
	int rc;

	check_inode_text(vbn, n, text);
	if (check_claim_meta(c, CFS_SLAB_INODE, vbn) != CHECK_NEW) {
		check_found(c, false, text, "lies where no inode can be");
		return 0;
	}
	c->result->inodes++;
	c->result->directories += n->kind == CFS_KIND_DIR;
	if (le64_get(n->head.owner) != vbn - 1) {
		check_found(c, true, text, "names another lock as its own");
		n->head.owner = le64_of(vbn - 1);
		changed = true;
	}
	if (in_trash != (n->work == CFS_WORK_DELETE)) {
		check_found(c, true, text,
			    in_trash ? "lies in the trash but is not being deleted"
				     : "is being deleted but does not lie in the trash");
		n->work = in_trash ? CFS_WORK_DELETE : CFS_WORK_NONE;
		changed = true;
	}
	rc = check_lock(c, vbn - 1, vbn, text);
	if (rc == 0 && n->kind == CFS_KIND_VM)
		rc = check_saved(c, vbn, text);
	if (rc == 0 && changed)
		rc = check_write(c, vbn, CFS_T_INODE, n);
	if (rc < 0)
		return rc;
	if (n->kind != CFS_KIND_DIR)
		return check_map(c, vbn, n);
	check_dir_add(c, vbn);
	return 0;
}

/* --- entries ------------------------------------------------------------------------------------------ */

static bool agrees(const struct check_dir *d, const struct cfs_dirent *e,
		   const struct cfs_inode_block *n)
{
	return le64_get(n->parent) == d->vbn && strcmp(n->name, e->name) == 0;
}

/* Reads the inode an entry names. 1: the entry is to go (told). */
static int entry_inode(struct check *c, struct check_dir *d, const struct cfs_dirent *e,
		       struct cfs_inode_block *n)
{
	char why[256];
	int rc;

	if (!check_group_at(c, e->inode) || e->inode % 2 == 0) {
		drop(c, d, e, "names a block that no inode can have");
		return 1;
	}
	rc = check_block(c, e->inode, CFS_T_INODE, n, why);
	if (rc == 2) {
		check_found(c, true, why, "inode %llu is made possible",
			    (unsigned long long)e->inode);
		tame_inode(n, e);
		rc = check_write(c, e->inode, CFS_T_INODE, n);
	}
	if (rc == 1) {
		rc = revive(c, e->inode, d->vbn, e, n, why);
		if (rc == 1)
			drop(c, d, e, why);
		return rc;
	}
	if (rc == 0 && n->kind == CFS_KIND_NONE) {
		drop(c, d, e, "names an inode that was freed");
		return 1;
	}
	return rc;
}

static int visit(struct check *c, struct check_dir *d, const struct cfs_dirent *entry, void *arg)
{
	struct cfs_inode_block *n;
	struct cfs_dirent e = *entry;
	int rc;

	(void)arg;
	if (check_meta_seen(c, CFS_SLAB_INODE, e.inode)) {
		attach_add(&c->doubt, d->vbn, &e, false);
		return 0;
	}
	n = xmalloc(sizeof(*n));
	rc = entry_inode(c, d, &e, n);
	if (rc == 0 && !agrees(d, &e, n)) {
		attach_add(&c->doubt, d->vbn, &e, false);
		rc = 1;
	}
	if (rc == 0 && n->kind != e.kind) {
		rc = agree_on_kind(c, e.inode, n, &e);
		if (rc == 1) {
			drop(c, d, &e, "has another kind than its inode");
			e.kind = (enum cfs_kind)n->kind;
			check_entry_add(&d->add, &e);
			rc = accept(c, e.inode, n, d->vbn == trash_vbn(c));
			free(n);
			return rc;
		}
	}
	if (rc == 0) {
		d->names++;
		rc = accept(c, e.inode, n, d->vbn == trash_vbn(c));
	}
	free(n);
	return rc < 0 ? rc : 0;
}

static int read_dir(struct check *c, struct check_dir *d)
{
	struct cfs_inode_block *n = xmalloc(sizeof(*n));
	int rc = check_read(c, d->vbn, n);

	if (rc == 0)
		rc = check_dir_walk(c, d, n, false, visit, NULL);
	free(n);
	return rc;
}

static int read_dirs(struct check *c)
{
	int rc = 0;

	while (rc == 0 && c->todo) {
		struct check_dir *d = c->todo;

		c->todo = d->todo;
		rc = read_dir(c, d);
	}
	return rc;
}

/* --- root and trash -------------------------------------------------------------------------------------- */

static int special(struct check *c, uint64_t vbn, const char *name)
{
	struct cfs_inode_block *n = xmalloc(sizeof(*n));
	struct cfs_dirent e;
	char why[256];
	int rc;

	cfs_dirent_set(&e, name, strlen(name), CFS_KIND_DIR, vbn);
	if (!check_group_at(c, vbn) || vbn % 2 == 0) {
		free(n);
		return fail(-EUCLEAN,
			    "volume %s: its label names block %llu as %s, which cannot be",
			    c->fs->name, (unsigned long long)vbn, name);
	}
	rc = check_block(c, vbn, CFS_T_INODE, n, why);
	if (rc == 2) {
		check_found(c, true, name, "%s", why);
		tame_inode(n, &e);
	}
	if (rc == 1) {
		check_found(c, true, name, "%s; it is made anew", why);
		blank_inode(n, vbn, 0, &e);
	} else if (rc >= 0 &&
		   (n->kind != CFS_KIND_DIR || le64_get(n->parent) || n->work != CFS_WORK_NONE)) {
		check_found(c, true, name,
			    "its inode is of another kind, has a parent or is "
			    "being deleted");
		n->kind = CFS_KIND_DIR;
		n->work = CFS_WORK_NONE;
		n->inline_bytes = le16_of(0);
		n->parent = le64_of(0);
		rc = 1;
	}
	if (rc >= 1)
		rc = check_write(c, vbn, CFS_T_INODE, n);
	if (rc == 0)
		rc = accept(c, vbn, n, false);
	free(n);
	return rc;
}

int check_names(struct check *c)
{
	int rc = special(c, le64_get(c->fs->label.root), "/");

	if (rc == 0)
		rc = special(c, trash_vbn(c), "(trash)");
	return rc < 0 ? rc : read_dirs(c);
}

/* --- doubts ------------------------------------------------------------------------------------------------- */

/* Nobody else has the inode: it is what the entry says. */
static int settle(struct check *c, struct check_dir *d, const struct cfs_dirent *e)
{
	struct cfs_inode_block *n = xmalloc(sizeof(*n));
	char text[320];
	int rc = check_read(c, e->inode, n);

	if (rc == 0) {
		check_found(c, true, check_inode_text(e->inode, n, text),
			    "is named \"%.200s\" in directory %llu, and knows it now", e->name,
			    (unsigned long long)d->vbn);
		memcpy(n->name, e->name, sizeof(n->name));
		n->parent = le64_of(d->vbn);
		if (n->kind != e->kind) {
			check_entry_add(&d->drop, e);
			check_entry_add(&d->add, e);
			d->add->e.kind = (enum cfs_kind)n->kind;
			d->rebuild = true;
		} else {
			d->names++;
		}
		rc = check_write(c, e->inode, CFS_T_INODE, n);
	}
	if (rc == 0)
		rc = accept(c, e->inode, n, d->vbn == trash_vbn(c));
	free(n);
	return rc;
}

static int settle_doubts(struct check *c)
{
	int rc = 0;

	while (rc == 0 && c->doubt) {
		struct check_attach *a = c->doubt;
		struct check_dir *d = check_dir_find(c, a->dir);

		c->doubt = a->next;
		if (check_meta_seen(c, CFS_SLAB_INODE, a->e.inode))
			drop(c, d, &a->e, "names an inode that has another name");
		else
			rc = settle(c, d, &a->e);
		free(a);
		if (rc == 0)
			rc = read_dirs(c);
	}
	return rc;
}

/* --- inodes without a name ------------------------------------------------------------------------------------- */

static int lost_inode(struct check *c, uint64_t vbn, bool dirs)
{
	struct cfs_inode_block *n = xmalloc(sizeof(*n));
	struct cfs_dirent e;
	char why[256], text[320];
	int rc = check_block(c, vbn, CFS_T_INODE, n, why);

	if (rc == 2) {
		cfs_dirent_set(&e, "x", 1, CFS_KIND_NONE, vbn);
		tame_inode(n, &e);
		rc = 0;
	}
	if (rc == 1 && !dirs) {
		snprintf(text, sizeof(text), "inode %llu", (unsigned long long)vbn);
		check_found(c, true, text, "nobody names it, and %s; it is freed", why);
	}
	if (rc == 0 && n->kind != CFS_KIND_NONE && (n->kind == CFS_KIND_DIR) == dirs) {
		bool deleting = n->work == CFS_WORK_DELETE;
		size_t len = strnlen(n->name, sizeof(n->name));
		char name[32];

		check_found(c, true, check_inode_text(vbn, n, text),
			    "nobody names it; it gets a name again");
		if (!cfs_name_valid((uint8_t *)n->name, len)) {
			len = (size_t)snprintf(name, sizeof(name), "#%llu",
					       (unsigned long long)vbn);
			cfs_dirent_set(&e, name, len, (enum cfs_kind)n->kind, vbn);
		} else {
			cfs_dirent_set(&e, n->name, len, (enum cfs_kind)n->kind, vbn);
		}
		attach_add(&c->attach, le64_get(n->parent), &e, deleting);
		rc = accept(c, vbn, n, deleting);
	}
	free(n);
	return rc < 0 ? rc : 0;
}

static int lost_dir(struct check *c, uint64_t vbn)
{
	int rc = lost_inode(c, vbn, true);

	return rc < 0 ? rc : read_dirs(c);
}

static int lost_file(struct check *c, uint64_t vbn)
{
	return lost_inode(c, vbn, false);
}

/* Directories first: what is in them has a name then. */
int check_lost(struct check *c)
{
	int rc = settle_doubts(c);

	if (rc == 0)
		rc = check_find_slabs(c);
	if (rc == 0)
		rc = check_lost_inodes(c, lost_dir);
	if (rc == 0)
		rc = settle_doubts(c);
	if (rc == 0)
		rc = check_lost_inodes(c, lost_file);
	return rc;
}

void check_names_free(struct check *c)
{
	struct check_attach **lists[] = {&c->doubt, &c->attach};

	for (unsigned i = 0; i < ARRAY_SIZE(lists); i++) {
		while (*lists[i]) {
			struct check_attach *a = *lists[i];

			*lists[i] = a->next;
			free(a);
		}
	}
}
