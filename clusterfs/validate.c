// SPDX-License-Identifier: Apache-2.0
/*
 * validate.c: the structure of each block type, checked before anything in it is believed. One
 * function a type, a table over them. Checks that need a second block (is this unit taken, does the
 * parent point here) are check.c's.
 */
#include "clusterfs/validate.h"

#include <errno.h>
#include <string.h>

#include "base/checksum.h"
#include "base/err.h"

static int bad(const void *block, const char *what)
{
	const struct cfs_head *h = block;

	return fail(-EUCLEAN, "block %llu: %s; run volume check",
		    (unsigned long long)le64_get(h->self), what);
}

/* --- names ------------------------------------------------------------------------------------- */

bool cfs_name_valid(const uint8_t *name, size_t len)
{
	if (len < 1 || len > CFS_MAX_NAME || (len == 1 && name[0] == '.') ||
	    (len == 2 && name[0] == '.' && name[1] == '.'))
		return false;
	for (size_t i = 0; i < len; i++) {
		if (name[i] < 0x20 || name[i] == 0x7f || name[i] == '/')
			return false;
	}
	return true;
}

int cfs_name_check(const char *name, size_t len)
{
	if (cfs_name_valid((const uint8_t *)name, len))
		return 0;
	if (len > CFS_MAX_NAME)
		return fail(-EINVAL, "name %.40s...: %zu bytes long; a name has at most %u", name,
			    len, CFS_MAX_NAME);
	for (size_t i = 0; i < len; i++) {
		uint8_t c = (uint8_t)name[i];

		if (c < 0x20 || c == 0x7f)
			return fail(-EINVAL,
				    "name: byte %zu is the control character 0x%02x; leave it out",
				    i + 1, c);
	}
	return fail(-EINVAL, "name \"%.*s\": must not be empty, \".\", \"..\" or contain \"/\"",
		    (int)MIN(len, 255u), name);
}

uint64_t cfs_name_hash(const void *name, size_t len)
{
	return checksum64(name, len);
}

/* --- by type ------------------------------------------------------------------------------------- */

static int check_lock(const void *block)
{
	const struct cfs_lock_record *r = block;
	bool active = r->mode != CFS_LOCK_FREE;

	if (r->mode > CFS_LOCK_EXCLUSIVE || r->state > CFS_LOCK_SAVED)
		return bad(block, "a lock of unknown mode or state");
	if (r->owner_kind > CFS_OWNER_VM ||
	    (active && r->mode == CFS_LOCK_EXCLUSIVE && r->owner_kind == CFS_OWNER_NONE))
		return bad(block, "a lock with an unknown kind of owner");
	if (r->state == CFS_LOCK_OFFERED &&
	    (r->mode != CFS_LOCK_EXCLUSIVE || r->owner_kind != CFS_OWNER_VM))
		return bad(block, "a lock that is offered, and no VM's");
	if (r->state == CFS_LOCK_SAVED &&
	    (r->mode != CFS_LOCK_EXCLUSIVE || r->owner_kind != CFS_OWNER_VM ||
	     le64_get(r->vm) != le64_get(r->head.self) || !le64_get(r->saved)))
		return bad(block, "a lock that is saved, and no VM's own, or without a state");
	if (le16_get(r->owner_slot) >= CFS_MAX_SLOTS || le16_get(r->from_slot) >= CFS_MAX_SLOTS)
		return bad(block, "a lock of a slot that does not exist");
	return 0;
}

static int check_claim(const void *block)
{
	const struct cfs_claim_record *r = block;

	if (r->state > CFS_SLOT_RECOVERING || le16_get(r->slot) >= CFS_MAX_SLOTS ||
	    le16_get(r->by_slot) >= CFS_MAX_SLOTS)
		return bad(block, "a claim of unknown state or slot");
	if (r->name[sizeof(r->name) - 1] || r->initiator[sizeof(r->initiator) - 1])
		return bad(block, "a claim with a name that does not end");
	return 0;
}

static int check_beat(const void *block)
{
	const struct cfs_beat_record *r = block;

	if (le16_get(r->slot) >= CFS_MAX_SLOTS || r->address[sizeof(r->address) - 1])
		return bad(block, "a beat of an unknown slot, or with a broken address");
	return 0;
}

static int check_group(const void *block)
{
	const struct cfs_group *g = block;
	uint32_t units = le32_get(g->units);
	unsigned slabs = le16_get(g->slabs);

	if (slabs > CFS_SLABS || units == 0 || units > CFS_MAX_GROUP / CFS_UNIT ||
	    le32_get(g->meta_units) == 0 || le32_get(g->meta_units) > units ||
	    le32_get(g->free_units) > units || le32_get(g->reclaim_units) > units ||
	    le16_get(g->extent) >= CFS_MAX_EXTENTS)
		return bad(block, "a group header with impossible numbers");
	for (unsigned i = 0; i < slabs; i++) {
		const struct cfs_slab *s = &g->slab[i];

		uint32_t unit = le32_get(s->unit);

		if (s->type > CFS_SLAB_META || unit >= units ||
		    (s->type != CFS_SLAB_FREE && unit < le32_get(g->meta_units)) ||
		    (s->type == CFS_SLAB_INODE && le16_get(s->used) > 0xff))
			return bad(block, "a group header with a broken slab");
	}
	return 0;
}

static int check_inode(const void *block)
{
	const struct cfs_inode_block *n = block;
	unsigned inl = le16_get(n->inline_bytes);

	if (n->kind > CFS_KIND_VM || n->work > CFS_WORK_SHRINK || n->height > CFS_MAX_HEIGHT)
		return bad(block, "an inode of unknown kind, work or height");
	if (inl > CFS_INODE_INLINE || (inl && n->kind != CFS_KIND_FILE && n->kind != CFS_KIND_VM))
		return bad(block, "an inode with impossible inline content");
	if (le16_get(n->reservation_bytes) > CFS_RESERVATIONS ||
	    (le16_get(n->reservation_bytes) && n->kind != CFS_KIND_DISK))
		return bad(block, "an inode with impossible reservations");
	if (n->name[sizeof(n->name) - 1])
		return bad(block, "an inode with a name that does not end");
	if (le64_get(n->root) >= CFS_VBN_MAX)
		return bad(block, "an inode with an impossible root");
	return 0;
}

static uint64_t get40(const uint8_t b[5])
{
	return (uint64_t)b[0] | (uint64_t)b[1] << 8 | (uint64_t)b[2] << 16 | (uint64_t)b[3] << 24 |
	       (uint64_t)b[4] << 32;
}

static int check_map_leaf(const void *block)
{
	const struct cfs_map_leaf *l = block;

	for (unsigned i = 0; i < CFS_LEAF_ENTRIES; i++) {
		const struct cfs_map_entry *e = &l->entry[i];
		uint64_t at = get40(e->block), below = get40(e->below);
		uint32_t state = le32_get(e->state), in_block = state & 0x55555555u,
			 in_below = state >> 1 & 0x55555555u;

		if (in_block & in_below)
			return bad(block, "a map entry with an unknown state");
		if ((in_block && !at) || (in_below && !below))
			return bad(block, "a map entry with grains in a block it does not have");
		if (at % CFS_UNIT_BLOCKS || (at && le32_get(e->birth) == 0) ||
		    le16_get(e->flags) & ~CFS_ENTRY_REPOSITORY ||
		    (below % CFS_UNIT_BLOCKS && !(le16_get(e->flags) & CFS_ENTRY_REPOSITORY)))
			return bad(block, "a map entry with an impossible address, birth or flag");
	}
	return 0;
}

static int check_map_node(const void *block)
{
	const struct cfs_map_node *n = block;

	if (n->level < 1 || n->level > CFS_MAX_HEIGHT)
		return bad(block, "a map node of an impossible level");
	for (unsigned i = 0; i < CFS_NODE_ENTRIES; i++) {
		if (le64_get(n->pointer[i].child) >= CFS_VBN_MAX)
			return bad(block, "a map node with an impossible address");
	}
	return 0;
}

static bool zeroes(const uint8_t *p, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (p[i])
			return false;
	}
	return true;
}

static int check_dir_leaf(const void *block)
{
	const struct cfs_dir_leaf *l = block;
	unsigned used = le16_get(l->used), at = 0, n = 0;
	const struct cfs_dir_entry *prev = NULL;
	const uint8_t *prev_name = NULL;

	if (used > CFS_DIR_LEAF_BYTES)
		return bad(block, "a directory leaf that is longer than itself");
	for (; at < used; n++) {
		const struct cfs_dir_entry *e = (const void *)(l->data + at);
		const uint8_t *name = l->data + at + offsetof(struct cfs_dir_entry, name);
		unsigned len, bytes;
		int order;

		if (used - at < CFS_DIR_ENTRY_BYTES(1u))
			return bad(block, "a directory leaf with a cut entry");
		len = e->name_len;
		bytes = CFS_DIR_ENTRY_BYTES(len);
		if (bytes > used - at || !cfs_name_valid(name, len) ||
		    !zeroes(name + len, bytes - 18 - len))
			return bad(block, "a directory leaf with an impossible name");
		if (e->kind < CFS_KIND_FILE || e->kind > CFS_KIND_VM || !le64_get(e->inode) ||
		    le64_get(e->inode) >= CFS_VBN_MAX)
			return bad(block, "a directory leaf with an impossible entry");
		if (le64_get(e->hash) != cfs_name_hash(name, len))
			return bad(block, "a directory leaf with a wrong hash");
		if (prev && le64_get(prev->hash) >= le64_get(e->hash)) {
			if (le64_get(prev->hash) > le64_get(e->hash))
				return bad(block, "a directory leaf out of order");
			order = memcmp(prev_name, name, MIN(prev->name_len, len));
			if (order > 0 || (order == 0 && prev->name_len >= len))
				return bad(block, "a directory leaf with a name twice");
		}
		prev = e;
		prev_name = name;
		at += bytes;
	}
	return n == le16_get(l->entries) ? 0 : bad(block, "a directory leaf with a wrong count");
}

/* An empty node exists only while its directory is being deleted. */
static int check_dir_node(const void *block)
{
	const struct cfs_dir_node *d = block;
	unsigned n = le16_get(d->entries);

	if (n > CFS_NODE_ENTRIES || d->level < 1 || d->level > CFS_MAX_HEIGHT)
		return bad(block, "a directory node of impossible size or level");
	for (unsigned i = 0; i < n; i++) {
		uint64_t child = le64_get(d->pointer[i].child);

		if (!child || child >= CFS_VBN_MAX)
			return bad(block, "a directory node with an impossible address");
		if (i && le64_get(d->pointer[i].hash) <= le64_get(d->pointer[i - 1].hash))
			return bad(block, "a directory node out of order");
	}
	return 0;
}

static int check_journal_head(const void *block)
{
	const struct cfs_journal_head *j = block;

	return le16_get(j->slot) < CFS_MAX_SLOTS
		       ? 0
		       : bad(block, "a journal of a slot that does not exist");
}

static int check_journal(const void *block)
{
	const struct cfs_journal_block *j = block;

	if (le16_get(j->slot) >= CFS_MAX_SLOTS || le16_get(j->used) > CFS_JOURNAL_PAYLOAD ||
	    le16_get(j->flags) & ~CFS_JOURNAL_END ||
	    le64_get(j->batch) > le64_get(j->head.sequence))
		return bad(block, "a journal block with impossible numbers");
	return 0;
}

static int (*const checks[CFS_T_END])(const void *block) = {
	[CFS_T_LOCK] = check_lock,	   [CFS_T_CLAIM] = check_claim,
	[CFS_T_BEAT] = check_beat,	   [CFS_T_GROUP] = check_group,
	[CFS_T_INODE] = check_inode,	   [CFS_T_MAP_LEAF] = check_map_leaf,
	[CFS_T_MAP_NODE] = check_map_node, [CFS_T_DIR_LEAF] = check_dir_leaf,
	[CFS_T_DIR_NODE] = check_dir_node, [CFS_T_JOURNAL_HEAD] = check_journal_head,
	[CFS_T_JOURNAL] = check_journal,
};

int cfs_block_validate(const void *block, enum cfs_type type)
{
	if ((unsigned)type >= CFS_T_END)
		return bad(block, "a block of unknown type");
	return checks[type] ? checks[type](block) : 0;
}
