// SPDX-License-Identifier: Apache-2.0
/* print.c: metadata blocks in words; one function a type, a table over them. */
#include "clusterfs/print.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "clusterfs/dirleaf.h"
#include "clusterfs/label.h"
#include "clusterfs/map.h"
#include "clusterfs/validate.h"

void cfs_print(const struct cfs_printer *p, const char *fmt, ...)
{
	char text[1024];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	p->line(p->arg, text);
}

const char *cfs_print_vbn(uint64_t vbn, char dst[64])
{
	if (vbn)
		snprintf(dst, 64, "%llu (extent %u, block %llu)", (unsigned long long)vbn,
			 cfs_vbn_extent(vbn), (unsigned long long)cfs_vbn_block(vbn));
	else
		snprintf(dst, 64, "none");
	return dst;
}

static void vbn_line(const struct cfs_printer *p, const char *what, le64 vbn)
{
	char at[64];

	cfs_print(p, "%s: %s", what, cfs_print_vbn(le64_get(vbn), at));
}

static void hex_line(const struct cfs_printer *p, const char *what, const uint8_t *bytes, size_t n)
{
	char text[2 * 64 + 1] = "";

	for (size_t i = 0; i < MIN(n, 64u); i++)
		snprintf(text + 2 * i, 3, "%02x", bytes[i]);
	cfs_print(p, "%s: %s", what, text);
}

static void time_line(const struct cfs_printer *p, const char *what, le64 ns)
{
	char text[32];

	clock_rfc3339(le64_get(ns), text, sizeof(text));
	cfs_print(p, "%s: %s", what, text);
}

/* Text from a disk: unprintable bytes become "?". */
static const char *text_of(const char *src, size_t n, char *dst, size_t size)
{
	cfs_text_copy(dst, size, src, n);
	return dst;
}

static const char *word(const char *const *words, size_t n, unsigned i)
{
	return i < n ? words[i] : "unknown";
}
#define WORD(table, i) word(table, ARRAY_SIZE(table), i)

static const char *const lock_modes[] = {"free", "shared", "exclusive"};
static const char *const lock_states[] = {"none", "active", "offered", "saved"};
static const char *const owner_kinds[] = {"nobody", "a host", "a VM"};
static const char *const slot_states[] = {"free", "active", "recovering"};
static const char *const kinds[] = {"none", "file", "directory", "disk", "VM"};
static const char *const works[] = {"none", "being deleted", "being shrunk"};
static const char *const slab_types[] = {"free", "inodes", "tree blocks"};
static const char *const fence_modes[] = {"auto", "time"};
static const char *const record_types[] = {"unknown", "image", "patch", "released", "freed"};

/* --- by type ------------------------------------------------------------------------------------ */

static void print_label(const struct cfs_printer *p, const void *block)
{
	const struct cfs_label *l = block;
	unsigned n = MIN(le16_get(l->extents), CFS_MAX_EXTENTS);
	char text[96];

	cfs_print(p, "name: %s", text_of(l->name, sizeof(l->name), text, sizeof(text)));
	cfs_print(p, "format version: %u", le32_get(l->format_version));
	cfs_print(p, "features: compatible %#x, read-only %#x, incompatible %#x",
		  le32_get(l->features_compat), le32_get(l->features_ro),
		  le32_get(l->features_incompat));
	cfs_print(p, "logical block: %u bytes", le32_get(l->logical_block));
	cfs_print(p, "extents: %u, this is %u", le16_get(l->extents), le16_get(l->extent));
	cfs_print(p, "beat: %u ms, silence: %u beats, lease: %u ms, flight: %u ms",
		  le32_get(l->beat_ms), le32_get(l->silence_beats), le32_get(l->lease_ms),
		  le32_get(l->flight_ms));
	cfs_print(p, "fence: %s", WORD(fence_modes, le32_get(l->fence_mode)));
	cfs_print(p, "group: %u units of 64 KiB", le32_get(l->group_units));
	time_line(p, "created", l->created);
	vbn_line(p, "root directory", l->root);
	vbn_line(p, "trash", l->trash);
	hex_line(p, "identity", l->identity, sizeof(l->identity));
	cfs_print(p, "secret: (not shown)");
	for (unsigned i = 0; i < n; i++) {
		const struct cfs_extent_entry *e = &l->extent_table[i];

		cfs_print(p, "extent %u: %s, %llu blocks, %u groups, the last of %u units", i,
			  text_of(e->lun, sizeof(e->lun), text, sizeof(text)),
			  (unsigned long long)le64_get(e->blocks), le32_get(e->groups),
			  le32_get(e->last_units));
	}
}

static void print_lock(const struct cfs_printer *p, const void *block)
{
	const struct cfs_lock_record *r = block;
	char at[64];

	cfs_print(p, "mode: %s, state: %s", WORD(lock_modes, r->mode), WORD(lock_states, r->state));
	cfs_print(p, "owner: %s, slot %u, epoch %u, VM %s", WORD(owner_kinds, r->owner_kind),
		  le16_get(r->owner_slot), le32_get(r->owner_epoch),
		  cfs_print_vbn(le64_get(r->vm), at));
	cfs_print(p, "from: slot %u, epoch %u", le16_get(r->from_slot), le32_get(r->from_epoch));
	hex_line(p, "token", r->token, sizeof(r->token));
	vbn_line(p, "protects", r->object);
	if (le64_get(r->saved)) {
		vbn_line(p, "state saved in the file of inode", r->saved);
		hex_line(p, "its id", r->saved_id, sizeof(r->saved_id));
	}
	for (unsigned i = 0; i < ARRAY_SIZE(r->readers); i++) {
		if (le32_get(r->readers[i]))
			cfs_print(p, "reader: slot %u, epoch %u", i, le32_get(r->readers[i]));
	}
}

static void print_claim(const struct cfs_printer *p, const void *block)
{
	const struct cfs_claim_record *r = block;
	char text[256];

	cfs_print(p, "slot: %u, state: %s, epoch: %u%s", le16_get(r->slot),
		  WORD(slot_states, r->state), le32_get(r->epoch),
		  r->flags & CFS_CLAIM_CHECK ? ", volume check" : "");
	cfs_print(p, "host: %s", text_of(r->name, sizeof(r->name), text, sizeof(text)));
	if (r->state == CFS_SLOT_RECOVERING)
		cfs_print(p, "recovered by: slot %u, epoch %u", le16_get(r->by_slot),
			  le32_get(r->by_epoch));
	hex_line(p, "token", r->token, sizeof(r->token));
	hex_line(p, "machine", r->machine, sizeof(r->machine));
	hex_line(p, "boot", r->boot, sizeof(r->boot));
	hex_line(p, "host id", r->host, sizeof(r->host));
	cfs_print(p, "pid: %u, started at tick %llu, lease: %u ms", le32_get(r->pid),
		  (unsigned long long)le64_get(r->start_time), le32_get(r->lease_ms));
	vbn_line(p, "journal", r->journal);
	cfs_print(p, "journal blocks: %u", le32_get(r->journal_blocks));
	cfs_print(p, "initiator: %s, isid %08x, sessions %u",
		  text_of(r->initiator, sizeof(r->initiator), text, sizeof(text)),
		  le32_get(r->isid), le16_get(r->sessions));
}

static void print_beat(const struct cfs_printer *p, const void *block)
{
	const struct cfs_beat_record *r = block;
	char text[80];

	cfs_print(p, "slot: %u, epoch: %u, load: %u %%, free memory: %llu bytes", le16_get(r->slot),
		  le32_get(r->epoch), le16_get(r->load),
		  (unsigned long long)le64_get(r->memory_free));
	cfs_print(p, "address: %s", text_of(r->address, sizeof(r->address), text, sizeof(text)));
	cfs_print(p, "label sequence: %llu", (unsigned long long)le64_get(r->label_sequence));
	for (unsigned i = 0; i < CFS_WISHES; i++) {
		if (le64_get(r->wishes[i]))
			vbn_line(p, "wishes for lock", r->wishes[i]);
	}
	for (unsigned i = 0; i < CFS_MAX_SLOTS; i++) {
		if (le32_get(r->refused[i]))
			cfs_print(p, "refuses: slot %u, epoch %u", i, le32_get(r->refused[i]));
	}
}

static void print_group(const struct cfs_printer *p, const void *block)
{
	const struct cfs_group *g = block;
	unsigned slabs = MIN(le16_get(g->slabs), CFS_SLABS);

	cfs_print(p, "group: %u of extent %u", le32_get(g->index), le16_get(g->extent));
	cfs_print(p, "units: %u, metadata: %u, free: %u, to be returned to the array: %u",
		  le32_get(g->units), le32_get(g->meta_units), le32_get(g->free_units),
		  le32_get(g->reclaim_units));
	cfs_print(p, "slabs: %u", le16_get(g->slabs));
	for (unsigned i = 0; i < slabs; i++)
		cfs_print(p, "slab %u: unit %u, %s, used %04x", i, le32_get(g->slab[i].unit),
			  WORD(slab_types, g->slab[i].type), le16_get(g->slab[i].used));
}

/* Runs of set bits, as "0-12 14 20-31". */
static void print_bitmap(const struct cfs_printer *p, const void *block)
{
	const struct cfs_bitmap *b = block;
	unsigned set = 0, runs = 0;

	for (unsigned i = 0; i < CFS_BITMAP_BITS; i++)
		set += b->bits[i / 8] >> (i % 8) & 1;
	cfs_print(p, "bits set: %u of %u", set, CFS_BITMAP_BITS);
	for (unsigned i = 0; i < CFS_BITMAP_BITS; i++) {
		unsigned first = i;

		while (i < CFS_BITMAP_BITS && b->bits[i / 8] >> (i % 8) & 1)
			i++;
		if (i == first)
			continue;
		if (++runs > 200) {
			cfs_print(p, "...");
			return;
		}
		cfs_print(p, "set: %u..%u", first, i - 1);
	}
}

static void print_inode(const struct cfs_printer *p, const void *block)
{
	const struct cfs_inode_block *n = block;
	char text[260];

	cfs_print(p, "kind: %s, work: %s, flags: %#x%s", WORD(kinds, n->kind), WORD(works, n->work),
		  le16_get(n->flags), le16_get(n->flags) & CFS_INODE_THICK ? " (thick)" : "");
	cfs_print(p, "name: %s", text_of(n->name, sizeof(n->name), text, sizeof(text)));
	vbn_line(p, "parent", n->parent);
	hex_line(p, "id", n->id, sizeof(n->id));
	cfs_print(p, "size: %llu, allocated units: %llu, inline bytes: %u, of reservations: %u",
		  (unsigned long long)le64_get(n->size), (unsigned long long)le64_get(n->allocated),
		  le16_get(n->inline_bytes), le16_get(n->reservation_bytes));
	time_line(p, "created", n->created);
	time_line(p, "modified", n->modified);
	vbn_line(p, "root", n->root);
	cfs_print(p, "height: %u, root birth: %u, generation: %u, node: %016llx, backup mark: %u",
		  n->height, le32_get(n->root_birth), le32_get(n->generation),
		  (unsigned long long)le64_get(n->node), le32_get(n->backup_mark));
	cfs_print(p, "cursor: %llu", (unsigned long long)le64_get(n->cursor));
}

static void print_map_leaf(const struct cfs_printer *p, const void *block)
{
	const struct cfs_map_leaf *l = block;
	uint64_t first = le64_get(l->index) * CFS_LEAF_ENTRIES;
	char at[64], below[64];

	cfs_print(p, "index: %llu (from byte %llu on), birth: %u",
		  (unsigned long long)le64_get(l->index), (unsigned long long)(first * CFS_UNIT),
		  le32_get(l->birth));
	for (unsigned i = 0; i < CFS_LEAF_ENTRIES; i++) {
		struct cfs_entry e;

		cfs_entry_decode(&l->entry[i], &e);
		if (!e.block && !e.below && !e.birth && !e.state && !e.flags)
			continue;
		cfs_print(p,
			  "entry %u: block %s, birth %u, below %s, birth %u, state %08x, flags %#x",
			  i, cfs_print_vbn(e.block, at), e.birth, cfs_print_vbn(e.below, below),
			  e.below_birth, e.state, e.flags);
	}
}

static void print_map_node(const struct cfs_printer *p, const void *block)
{
	const struct cfs_map_node *n = block;
	char at[64];

	cfs_print(p, "level: %u, index: %llu, birth: %u", n->level,
		  (unsigned long long)le64_get(n->index), le32_get(n->birth));
	for (unsigned i = 0; i < CFS_NODE_ENTRIES; i++) {
		if (le64_get(n->pointer[i].child) || le32_get(n->pointer[i].birth))
			cfs_print(p, "child %u: %s, birth %u", i,
				  cfs_print_vbn(le64_get(n->pointer[i].child), at),
				  le32_get(n->pointer[i].birth));
	}
}

static void print_dir_leaf(const struct cfs_printer *p, const void *block)
{
	const struct cfs_dir_leaf *l = block;
	char at[64], text[260];
	struct cfs_dirent e;
	unsigned i = 0;

	cfs_print(p, "entries: %u, bytes: %u", le16_get(l->entries), le16_get(l->used));
	if (cfs_block_validate(block, CFS_T_DIR_LEAF) < 0)
		return; /* said already */
	while ((i = cfs_dirleaf_entry(l, i, &e)))
		cfs_print(p, "%016llx %s: %s at %s", (unsigned long long)e.hash,
			  text_of(e.name, e.len, text, sizeof(text)), WORD(kinds, e.kind),
			  cfs_print_vbn(e.inode, at));
}

static void print_dir_node(const struct cfs_printer *p, const void *block)
{
	const struct cfs_dir_node *n = block;
	unsigned entries = MIN(le16_get(n->entries), CFS_NODE_ENTRIES);
	char at[64];

	cfs_print(p, "level: %u, entries: %u", n->level, le16_get(n->entries));
	for (unsigned i = 0; i < entries; i++)
		cfs_print(p, "from %016llx: %s", (unsigned long long)le64_get(n->pointer[i].hash),
			  cfs_print_vbn(le64_get(n->pointer[i].child), at));
}

static void print_journal_head(const struct cfs_printer *p, const void *block)
{
	const struct cfs_journal_head *j = block;

	cfs_print(p, "slot: %u, epoch: %u, tail: block %llu, stream position %llu",
		  le16_get(j->slot), le32_get(j->epoch), (unsigned long long)le64_get(j->tail),
		  (unsigned long long)le64_get(j->stream));
}

/* A transaction may begin in the block before: what begins here is told. */
static void print_journal(const struct cfs_printer *p, const void *block)
{
	const struct cfs_journal_block *j = block;
	unsigned used = MIN(le16_get(j->used), CFS_JOURNAL_PAYLOAD);
	char at[64];

	cfs_print(p, "slot: %u, epoch: %u, batch: %llu%s, stream position %llu, payload: %u bytes",
		  le16_get(j->slot), le32_get(j->epoch), (unsigned long long)le64_get(j->batch),
		  le16_get(j->flags) & CFS_JOURNAL_END ? " (its end)" : "",
		  (unsigned long long)le64_get(j->stream), le16_get(j->used));
	for (unsigned i = 0; i + sizeof(struct cfs_txn_header) <= used; i += 8) {
		struct cfs_txn_header h;
		unsigned k = i + sizeof(h);

		memcpy(&h, j->payload + i, sizeof(h));
		if (le32_get(h.magic) != CFS_TXN_MAGIC ||
		    le64_get(h.stream) != le64_get(j->stream) + i)
			continue;
		cfs_print(p, "transaction %llu: %u bytes, %u records, epoch %u",
			  (unsigned long long)le64_get(h.sequence), le32_get(h.bytes),
			  le32_get(h.records), le32_get(h.epoch));
		for (unsigned r = 0; r < le32_get(h.records); r++) {
			struct cfs_record rec;

			if (k + sizeof(rec) > used)
				break;
			memcpy(&rec, j->payload + k, sizeof(rec));
			cfs_print(p, "  %s: block %s, %u bytes at %u",
				  WORD(record_types, le16_get(rec.type)),
				  cfs_print_vbn(le64_get(rec.vbn), at), le32_get(rec.bytes),
				  le16_get(rec.offset));
			if (le32_get(rec.bytes) > CFS_BLOCK)
				break;
			k += sizeof(rec) + (unsigned)ROUND_UP(le32_get(rec.bytes), 8u);
		}
	}
}

static void (*const printers[CFS_T_END])(const struct cfs_printer *, const void *) = {
	[CFS_T_LABEL] = print_label,
	[CFS_T_LOCK] = print_lock,
	[CFS_T_CLAIM] = print_claim,
	[CFS_T_BEAT] = print_beat,
	[CFS_T_GROUP] = print_group,
	[CFS_T_BITMAP] = print_bitmap,
	[CFS_T_RECLAIM] = print_bitmap,
	[CFS_T_INODE] = print_inode,
	[CFS_T_MAP_LEAF] = print_map_leaf,
	[CFS_T_MAP_NODE] = print_map_node,
	[CFS_T_DIR_LEAF] = print_dir_leaf,
	[CFS_T_DIR_NODE] = print_dir_node,
	[CFS_T_JOURNAL_HEAD] = print_journal_head,
	[CFS_T_JOURNAL] = print_journal,
};

/* --- heads ------------------------------------------------------------------------------------------ */

static bool is_record(enum cfs_type type)
{
	return type == CFS_T_LOCK || type == CFS_T_CLAIM || type == CFS_T_BEAT;
}

static bool all_zero(const uint8_t *p, size_t n)
{
	return n == 0 || (p[0] == 0 && memcmp(p, p + 1, n - 1) == 0);
}

void cfs_print_block(const struct cfs_printer *p, const void *block, uint64_t vbn)
{
	const struct cfs_head *h = block;
	enum cfs_type type = (enum cfs_type)le16_get(h->type);
	char at[64];
	int rc;

	if (le32_get(h->magic) != CFS_MAGIC || (unsigned)type >= CFS_T_END || !printers[type]) {
		cfs_print(p, "block %s: %s", cfs_print_vbn(vbn, at),
			  all_zero(block, CFS_BLOCK) ? "all zero" : "no metadata of this volume");
		return;
	}
	cfs_print(p, "block %s: %s, sequence %llu", cfs_print_vbn(vbn, at), cfs_type_name(type),
		  (unsigned long long)le64_get(h->sequence));
	rc = is_record(type) ? cfs_record_check(block, type, h->volume, vbn)
			     : cfs_block_check(block, type, h->volume, vbn);
	if (rc == 0)
		rc = cfs_block_validate(block, type);
	if (rc < 0)
		cfs_print(p, "DAMAGED: %s", err_message(rc));
	hex_line(p, "volume", h->volume, sizeof(h->volume));
	if (!is_record(type))
		vbn_line(p, "protected by lock", h->owner);
	printers[type](p, block);
}
