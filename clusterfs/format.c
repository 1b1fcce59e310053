// SPDX-License-Identifier: Apache-2.0
/*
 * format.c: makes a volume out of LUNs. It refuses what holds something, and always what is alive.
 * The labels come last: a format that was cut off leaves no volume. Claims, beats, group headers and
 * bitmaps are written with non-zero bytes, so that a thin array that runs full cannot starve them.
 */
#include "clusterfs/cfs.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "clusterfs/label.h"
#include "clusterfs/lock.h"
#include "clusterfs/signature.h"
#include "clusterfs/volume.h"

#define WRITERS	    8u /* threads that write group metadata: a LUN answers many at once */
#define FORMAT_LOCK CFS_MAX_SLOTS /* file LUNs: the host lock that a format holds */
#define TAIL_WIPE   (256 * KiB)	  /* backup GPT, old md and DRBD superblocks lie there */
#define SLAB_PAIRS  8u
#define ROOT_BLOCK  1u /* blocks in the first inode slab; each one's lock block lies before it */
#define TRASH_BLOCK 3u

struct format {
	struct blk **blks;
	unsigned n;
	const struct cfs_format_options *options;
	struct cfs_label label;
	bool keyed[CFS_MAX_EXTENTS]; /* our key is registered there */
	bool locked[CFS_MAX_EXTENTS];
};

/* --- what is asked for ------------------------------------------------------------------------- */

static int check_name(const char *name)
{
	size_t n = name ? strlen(name) : 0;

	if (n < 1 || n > 63)
		return fail(-EINVAL, "volume name: 1 to 63 bytes are allowed");
	if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
		return fail(-EINVAL, "volume name: %s is not allowed", name);
	for (size_t i = 0; i < n; i++)
		if ((uint8_t)name[i] < ' ' || name[i] == 0x7f || name[i] == '/' || name[i] == ':')
			return fail(-EINVAL,
				    "volume name: '/', ':' and control characters are not allowed");
	return 0;
}

static int check_luns(const struct format *f)
{
	uint64_t total = 0, least = (CFS_GROUPS * (uint64_t)CFS_BLOCK) + CFS_MIN_GROUP;

	if (f->n < 1 || f->n > CFS_MAX_EXTENTS)
		return fail(-EINVAL, "%u LUNs: a volume has 1 to %u", f->n, CFS_MAX_EXTENTS);
	for (unsigned i = 0; i < f->n; i++) {
		const struct blk_info *info = blk_info(f->blks[i]);

		for (unsigned k = 0; k < i; k++)
			if (strcmp(info->id, blk_info(f->blks[k])->id) == 0)
				return fail(-EINVAL, "LUN %s and LUN %s are one and the same (%s)",
					    blk_info(f->blks[k])->name, info->name, info->id);
		if (!info->id[0])
			return fail(-EINVAL, "LUN %s has no identity; name it by hand", info->name);
		if (info->block_size != blk_info(f->blks[0])->block_size)
			return fail(
				-EINVAL,
				"LUN %s has logical blocks of %u bytes, LUN %s of %u; all must be "
				"alike",
				info->name, info->block_size, blk_info(f->blks[0])->name,
				blk_info(f->blks[0])->block_size);
		if (info->cas == BLK_CAS_NONE)
			return fail(-EINVAL,
				    "LUN %s can neither compare-and-write nor reservations; hosts "
				    "cannot share it",
				    info->name);
		if (info->size < least)
			return fail(-EINVAL,
				    "LUN %s is too small: %llu bytes, an extent needs %llu",
				    info->name, (unsigned long long)info->size,
				    (unsigned long long)least);
		if (info->size / CFS_BLOCK > CFS_MAX_EXTENT_BLOCKS)
			return fail(-EINVAL, "LUN %s is too large", info->name);
		total += info->size;
	}
	if (total < CFS_MIN_VOLUME)
		return fail(-EINVAL,
			    "LUN %s%s: %llu bytes are too small for a volume, which needs 256 MiB",
			    blk_info(f->blks[0])->name, f->n > 1 ? " and others" : "",
			    (unsigned long long)total);
	if (total > CFS_MAX_VOLUME)
		return fail(-EINVAL, "%llu bytes are too large for a volume: at most 64 TiB",
			    (unsigned long long)total);
	return 0;
}

static uint32_t choose_group_units(const struct format *f)
{
	uint64_t total = 0, group = CFS_MIN_GROUP;

	for (unsigned i = 0; i < f->n; i++)
		total += blk_info(f->blks[i])->size;
	while (group < CFS_MAX_GROUP && group * 2 <= total / 256)
		group *= 2;
	return (uint32_t)(group / CFS_UNIT);
}

static void plan_extent(struct format *f, unsigned i, uint32_t group_units)
{
	const struct blk_info *info = blk_info(f->blks[i]);
	struct cfs_extent_entry *e = &f->label.extent_table[i];
	uint64_t blocks = info->size / CFS_BLOCK;
	uint64_t units = (blocks - CFS_GROUPS) / CFS_UNIT_BLOCKS;
	uint64_t groups = units / group_units;
	uint32_t last = (uint32_t)(units % group_units);

	/* A last piece is a group only if it holds more than its own metadata. */
	if (groups == 0 || last >= CFS_MIN_GROUP / CFS_UNIT)
		groups++;
	else
		last = group_units;
	(void)str_format(e->lun, sizeof(e->lun), "%s", info->id);
	e->blocks = le64_of(blocks);
	e->groups = le32_of((uint32_t)groups);
	e->last_units = le32_of(last ? last : group_units);
}

static int plan(struct format *f)
{
	const struct cfs_format_options *o = f->options;
	uint32_t group_units = choose_group_units(f);
	struct cfs_label *l = &f->label;
	uint64_t slab = CFS_GROUPS + cfs_group_meta_units(group_units) * CFS_UNIT_BLOCKS;

	(void)str_format(l->name, sizeof(l->name), "%s", o->name);
	random_bytes(l->head.volume, sizeof(l->head.volume));
	random_bytes(l->identity, sizeof(l->identity));
	random_bytes(l->secret, sizeof(l->secret));
	l->head.sequence = le64_of(1);
	l->head.owner = le64_of(cfs_vbn(0, CFS_LABEL_LOCK));
	l->format_version = le32_of(CFS_FORMAT_VERSION);
	l->features_ro = le32_of(CFS_RO_KNOWN);
	l->logical_block = le32_of(blk_info(f->blks[0])->block_size);
	l->extents = le16_of((uint16_t)f->n);
	l->beat_ms = le32_of(o->beat_ms ? o->beat_ms : 1000);
	l->silence_beats = le32_of(o->silence_beats ? o->silence_beats : 5);
	l->lease_ms = le32_of(o->lease_ms ? o->lease_ms : 6000);
	l->flight_ms = le32_of(o->flight_ms ? o->flight_ms : 3000);
	l->fence_mode = le32_of(o->fence_time ? CFS_FENCE_TIME : CFS_FENCE_AUTO);
	l->group_units = le32_of(group_units);
	l->created = le64_of(clock_wall_ns());
	l->root = le64_of(cfs_vbn(0, slab + ROOT_BLOCK));
	l->trash = le64_of(cfs_vbn(0, slab + TRASH_BLOCK));
	for (unsigned i = 0; i < f->n; i++)
		plan_extent(f, i, group_units);
	if (le32_get(l->lease_ms) < 2 * le32_get(l->beat_ms) || le32_get(l->beat_ms) < 10 ||
	    le32_get(l->silence_beats) < 2)
		return fail(-EINVAL, "times: a lease is at least two beats, a beat at least 10 ms, "
				     "a silence at least 2 beats");
	return 0;
}

/* --- what is there already ------------------------------------------------------------------------- */

static struct blk *find_lun(const struct format *f, const char *id)
{
	for (unsigned i = 0; i < f->n; i++)
		if (strncmp(blk_info(f->blks[i])->id, id, 80) == 0)
			return f->blks[i];
	return NULL;
}

/* A volume lies on `blk`: is it alive? Its hosts beat on its first extent. */
static int refuse_volume(const struct format *f, struct blk *blk, const struct cfs_label *old)
{
	struct blk *first = blk;
	char lun[80];
	int rc;

	if (!f->options->overwrite)
		return fail(-EPERM,
			    "LUN %s holds the volume %.63s; when it is unmounted everywhere, "
			    "--overwrite insists",
			    blk_info(blk)->name, old->name);
	if (le16_get(old->extent) != 0) {
		cfs_text_copy(lun, sizeof(lun), old->extent_table[0].lun, sizeof(lun));
		first = find_lun(f, lun);
	}
	if (!first)
		return fail(-EPERM,
			    "LUN %s is extent %u of the volume %.63s, whose hosts beat on LUN %s; "
			    "format both together, or zero the first 4 MiB if that one is gone",
			    blk_info(blk)->name, le16_get(old->extent), old->name, lun);
	rc = cfs_volume_quiet(first, old);
	if (rc == -EBUSY)
		return fail(-EPERM, "LUN %s: %s", blk_info(blk)->name, err_message(rc));
	return rc;
}

static int refuse_content(const struct format *f)
{
	for (unsigned i = 0; i < f->n; i++) {
		struct blk *blk = f->blks[i];
		struct cfs_label old;
		const char *what = NULL;
		int rc = cfs_label_read(blk, &old);

		if (rc == 0)
			rc = refuse_volume(f, blk, &old);
		else if ((rc == -EUCLEAN || rc == -EPERM) && !f->options->overwrite)
			rc = fail(-EPERM, "%s; --overwrite insists", err_message(rc));
		else if (rc == -ENOENT || rc == -EUCLEAN || rc == -EPERM)
			rc = 0;
		if (rc < 0)
			return rc;
		rc = cfs_signature_find(blk, &what);
		if (rc == 0 && what && !f->options->overwrite)
			rc = fail(-EPERM, "LUN %s holds %s; --overwrite insists",
				  blk_info(blk)->name, what);
		if (rc < 0)
			return rc;
	}
	return 0;
}

/* --- nobody else writes meanwhile ------------------------------------------------------------------- */

static bool is_foreign(const struct blk *blk, uint64_t key, uint64_t own)
{
	return key != own && !(key == BLK_PR_BATON && blk_info(blk)->cas == BLK_CAS_BATON);
}

/* Preempts every foreign key: hosts of what was here before must never write again. */
static int preempt_all(struct blk *blk, uint64_t key)
{
	const struct blk_info *info = blk_info(blk);
	enum blk_pr_type type = info->cas == BLK_CAS_ATS ? BLK_PR_WE_ALL_REGISTRANTS
							 : BLK_PR_WE_REGISTRANTS_ONLY;
	struct blk_pr_state *pr = xcalloc(1, sizeof(*pr));
	int rc = blk_pr_read(blk, pr);

	if (rc == 0 && pr->type == BLK_PR_NONE)
		rc = blk_pr_reserve(blk, type);
	else if (rc == 0)
		type = pr->type;
	for (unsigned i = 0; rc == 0 && i < pr->keys; i++)
		if (is_foreign(blk, pr->key[i], key))
			rc = blk_pr_preempt(blk, type, pr->key[i]);
	if (rc == 0)
		rc = blk_pr_read(blk, pr);
	for (unsigned i = 0; rc == 0 && i < pr->keys; i++)
		if (is_foreign(blk, pr->key[i], key))
			rc = fail(
				-EBUSY,
				"LUN %s: key %#llx came back after it was preempted: a host still "
				"uses it",
				info->name, (unsigned long long)pr->key[i]);
	free(pr);
	return rc;
}

static int shut_out(struct format *f)
{
	uint64_t key;

	do
		random_bytes(&key, sizeof(key));
	while (!key);
	for (unsigned i = 0; i < f->n; i++) {
		struct blk *blk = f->blks[i];
		int rc = 0;

		if (blk_info(blk)->kind == BLK_FILE) {
			rc = blk_host_lock(blk, FORMAT_LOCK);
			if (rc == -EBUSY)
				return fail(rc, "LUN %s: another format is under way",
					    blk_info(blk)->name);
			f->locked[i] = rc == 0;
		} else if (blk_info(blk)->reservations) {
			rc = blk_pr_register(blk, key, NULL, NULL);
			f->keyed[i] = rc == 0;
			if (rc == 0)
				rc = preempt_all(blk, key);
		}
		if (rc < 0)
			return rc;
	}
	return 0;
}

static void let_in(struct format *f)
{
	for (unsigned i = 0; i < f->n; i++) {
		if (f->locked[i])
			blk_host_unlock(f->blks[i], FORMAT_LOCK);
		if (f->keyed[i])
			(void)blk_pr_unregister(f->blks[i]);
	}
}

/* --- writing ---------------------------------------------------------------------------------------- */

static uint8_t *block_at(uint8_t *buf, uint64_t block)
{
	return buf + block * CFS_BLOCK;
}

static void fill_slots(const struct format *f, uint8_t *area)
{
	for (unsigned slot = 0; slot < CFS_MAX_SLOTS; slot++) {
		struct cfs_claim_record *claim = (void *)block_at(area, CFS_CLAIMS + slot);
		struct cfs_beat_record *beat = (void *)block_at(area, CFS_BEATS + slot);

		claim->state = CFS_SLOT_FREE;
		claim->slot = le16_of((uint16_t)slot);
		claim->head.sequence = le64_of(1);
		random_bytes(claim->token, sizeof(claim->token));
		cfs_record_seal(claim, CFS_T_CLAIM, f->label.head.volume,
				cfs_vbn(0, CFS_CLAIMS + slot));
		beat->slot = le16_of((uint16_t)slot);
		cfs_record_seal(beat, CFS_T_BEAT, f->label.head.volume,
				cfs_vbn(0, CFS_BEATS + slot));
	}
}

/*
 * Blocks 0..1023 of an extent: first all zero (which takes an old label away), then, on extent 0,
 * the two plain locks, claims and beats.
 */
static int write_front(struct format *f, unsigned i, bool wipe)
{
	const uint8_t *volume = f->label.head.volume;
	uint8_t *area = xaligned(CFS_BLOCK, CFS_GROUPS * CFS_BLOCK);
	uint64_t tail = ROUND_DOWN(blk_info(f->blks[i])->size, CFS_BLOCK) - TAIL_WIPE;
	int rc = 0;

	if (wipe) {
		rc = blk_write(f->blks[i], tail, area, TAIL_WIPE, 0);
	} else if (i == 0) {
		cfs_lock_init_block(block_at(area, CFS_LABEL_LOCK), volume,
				    cfs_vbn(0, CFS_LABEL_LOCK), cfs_vbn(0, CFS_LABEL_A));
		cfs_lock_init_block(block_at(area, CFS_FENCE_LOCK), volume,
				    cfs_vbn(0, CFS_FENCE_LOCK), 0);
		fill_slots(f, area);
	}
	if (rc == 0)
		rc = blk_write(f->blks[i], 0, area, CFS_GROUPS * (size_t)CFS_BLOCK, 0);
	free(area);
	return rc;
}

static void set_bits(uint8_t *bits, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		bits[i / 8] |= (uint8_t)(1u << i % 8);
}

/*
 * Lock block, header and both bitmaps of group `g`; whole units, so that nothing old stays inside. A
 * shorter last group has the metadata of a whole one, so that its extent can grow.
 */
static int write_group(const struct format *f, unsigned extent, uint32_t g)
{
	const struct cfs_extent_entry *e = &f->label.extent_table[extent];
	uint32_t whole = le32_get(f->label.group_units);
	uint32_t units = g + 1 == le32_get(e->groups) ? le32_get(e->last_units) : whole;
	uint32_t bitmaps = cfs_group_bitmap_blocks(whole), meta = cfs_group_meta_units(whole);
	uint64_t first = cfs_vbn(extent, CFS_GROUPS + (uint64_t)g * whole * CFS_UNIT_BLOCKS);
	const uint8_t *volume = f->label.head.volume;
	bool root = extent == 0 && g == 0;
	size_t bytes = (size_t)meta * CFS_UNIT;
	uint8_t *buf = xaligned(CFS_BLOCK, bytes);
	struct cfs_group *head = (void *)block_at(buf, 1);
	int rc;

	cfs_lock_init_block(buf, volume, first, first + 1);
	head->head.owner = le64_of(first);
	head->head.sequence = le64_of(1);
	head->index = le32_of(g);
	head->units = le32_of(units);
	head->meta_units = le32_of(meta);
	head->free_units = le32_of(units - meta - root);
	head->extent = le16_of((uint16_t)extent);
	if (root) {
		head->slabs = le16_of(1);
		head->slab[0].unit = le32_of(meta);
		head->slab[0].used = le16_of(3);
		head->slab[0].type = CFS_SLAB_INODE;
	}
	cfs_block_seal(head, CFS_T_GROUP, volume, first + 1);
	for (uint32_t i = 0; i < 2 * bitmaps; i++) {
		struct cfs_bitmap *bitmap = (void *)block_at(buf, 2 + i);

		bitmap->head.owner = le64_of(first);
		bitmap->head.sequence = le64_of(1);
		if (i == 0)
			set_bits(bitmap->bits, meta + root);
		cfs_block_seal(bitmap, i < bitmaps ? CFS_T_BITMAP : CFS_T_RECLAIM, volume,
			       first + 2 + i);
	}
	rc = blk_write(f->blks[extent], cfs_vbn_block(first) * CFS_BLOCK, buf, bytes, 0);
	free(buf);
	return rc;
}

struct writer {
	pthread_t thread;
	const struct format *f;
	unsigned from;	/* the first extent with something new, */
	uint32_t first; /* and its first new group */
	unsigned turn;	/* writes each group whose number is `turn` modulo WRITERS */
	int rc;
	struct err_info err;
};

static void *writer_main(void *arg)
{
	struct writer *w = arg;

	for (unsigned i = w->from; i < w->f->n && w->rc == 0; i++)
		for (uint32_t g = w->turn + (i == w->from ? w->first : 0);
		     g < le32_get(w->f->label.extent_table[i].groups) && w->rc == 0; g += WRITERS)
			w->rc = write_group(w->f, i, g);
	if (w->rc < 0)
		err_save(&w->err, w->rc);
	return NULL;
}

static int write_groups(const struct format *f, unsigned from, uint32_t first)
{
	struct writer w[WRITERS] = {0};
	unsigned started = 0;
	int rc = 0;

	for (; started < WRITERS && rc == 0; started += rc == 0) {
		w[started].f = f;
		w[started].from = from;
		w[started].first = first;
		w[started].turn = started;
		rc = -pthread_create(&w[started].thread, NULL, writer_main, &w[started]);
	}
	if (rc < 0)
		rc = fail(rc, "thread: %s", strerror(-rc));
	for (unsigned i = 0; i < started; i++) {
		pthread_join(w[i].thread, NULL);
		if (rc == 0 && w[i].rc < 0)
			rc = err_restore(&w[i].err);
	}
	return rc;
}

static void fill_directory(const struct format *f, uint8_t *block, uint64_t vbn, const char *name)
{
	struct cfs_inode_block *inode = (void *)block;

	inode->head.owner = le64_of(vbn - 1);
	inode->head.sequence = le64_of(1);
	inode->kind = CFS_KIND_DIR;
	random_bytes(inode->id, sizeof(inode->id));
	random_bytes(&inode->node, sizeof(inode->node));
	inode->created = inode->modified = f->label.created;
	inode->generation = inode->root_birth = le32_of(1);
	(void)str_format(inode->name, sizeof(inode->name), "%s", name);
	cfs_block_seal(inode, CFS_T_INODE, f->label.head.volume, vbn);
}

/* The first inode slab: root and trash; the other pairs' lock blocks are there and free. */
static int write_roots(const struct format *f)
{
	uint8_t *slab = xaligned(CFS_BLOCK, CFS_UNIT);
	uint64_t first = le64_get(f->label.root) - ROOT_BLOCK;
	int rc;

	for (unsigned i = 0; i < SLAB_PAIRS; i++)
		cfs_lock_init_block(block_at(slab, 2 * (uint64_t)i), f->label.head.volume,
				    first + 2 * (uint64_t)i, first + 2 * (uint64_t)i + 1);
	fill_directory(f, block_at(slab, ROOT_BLOCK), first + ROOT_BLOCK, "/");
	fill_directory(f, block_at(slab, TRASH_BLOCK), first + TRASH_BLOCK, "(trash)");
	rc = blk_write(f->blks[0], cfs_vbn_block(first) * CFS_BLOCK, slab, CFS_UNIT, 0);
	free(slab);
	return rc;
}

static int flush_all(const struct format *f)
{
	int rc = 0;

	for (unsigned i = 0; i < f->n && rc == 0; i++)
		rc = blk_flush(f->blks[i]);
	return rc;
}

static int write_all(struct format *f)
{
	int rc = 0;

	for (unsigned i = 0; i < f->n && rc == 0; i++)
		rc = write_front(f, i, true);
	if (rc == 0)
		rc = flush_all(f); /* the old labels are gone before anything else changes */
	for (unsigned i = 0; i < f->n && rc == 0; i++)
		rc = write_front(f, i, false);
	if (rc == 0)
		rc = write_groups(f, 0, 0);
	if (rc == 0)
		rc = write_roots(f);
	if (rc == 0)
		rc = flush_all(f);
	for (unsigned i = 0; i < f->n && rc == 0; i++) {
		rc = cfs_label_write_copy(f->blks[i], &f->label, i, CFS_LABEL_B, 0);
		if (rc == 0)
			rc = cfs_label_write_copy(f->blks[i], &f->label, i, CFS_LABEL_A, 0);
	}
	return rc < 0 ? rc : flush_all(f);
}

int cfs_format(struct blk **blks, unsigned n, const struct cfs_format_options *options)
{
	struct format *f = xcalloc(1, sizeof(*f));
	int rc;

	f->blks = blks;
	f->n = n;
	f->options = options;
	rc = check_name(options->name);
	if (rc == 0)
		rc = check_luns(f);
	if (rc == 0)
		rc = plan(f);
	if (rc == 0)
		rc = refuse_content(f);
	if (rc == 0)
		rc = shut_out(f);
	if (rc == 0)
		rc = write_all(f);
	let_in(f);
	free(f);
	return rc;
}

/* --- growing ---------------------------------------------------------------------------------------- */

/* New LUNs must be empty: nobody is asked whether to overwrite them. */
static int check_added(struct format *f, unsigned from)
{
	const char *what = NULL;
	struct cfs_label old;
	int rc = check_luns(f);

	for (unsigned i = from; i < f->n && rc == 0; i++) {
		const char *lun = blk_info(f->blks[i])->name;

		rc = cfs_label_read(f->blks[i], &old);
		if (rc == 0)
			return fail(-EPERM,
				    "LUN %s holds the volume %.63s; zero its first 4 MiB "
				    "if it is not needed any more",
				    lun, old.name);
		if (rc == -ENOENT)
			rc = cfs_signature_find(f->blks[i], &what);
		if (rc == 0 && what)
			return fail(-EPERM, "LUN %s holds %s; zero it if it is not needed any more",
				    lun, what);
	}
	return rc;
}

static int write_grown(struct format *f, const struct cfs_label *old)
{
	unsigned olds = le16_get(old->extents), last = olds - 1;
	int rc = 0;

	for (unsigned i = olds; i < f->n && rc == 0; i++)
		rc = write_front(f, i, true);
	/* What the last extent had stays; a group that was shorter is extended by who takes it. */
	if (rc == 0)
		rc = write_groups(f, last, le32_get(old->extent_table[last].groups));
	return rc < 0 ? rc : flush_all(f);
}

int cfs_format_grow(struct cfs_label *next, const struct cfs_label *old, struct blk **blks,
		    unsigned n)
{
	struct format *f = xcalloc(1, sizeof(*f));
	unsigned olds = le16_get(old->extents);
	int rc;

	MUST(n >= olds);
	f->blks = blks;
	f->n = n;
	f->label = *old;
	f->label.extents = le16_of((uint16_t)n);
	rc = check_added(f, olds);
	for (unsigned i = olds - 1; i < n && rc == 0; i++)
		plan_extent(f, i, le32_get(old->group_units));
	if (rc == 0 && n == olds &&
	    le64_get(f->label.extent_table[n - 1].blocks) <=
		    le64_get(old->extent_table[n - 1].blocks))
		rc = fail(-EINVAL,
			  "volume %.63s: LUN %s is not larger than it was (only the last one may "
			  "grow); make it larger, or give new ones",
			  old->name, blk_info(blks[n - 1])->name);
	if (rc == 0)
		rc = write_grown(f, old);
	*next = f->label;
	free(f);
	return rc;
}
