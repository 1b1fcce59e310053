// SPDX-License-Identifier: Apache-2.0
/*
 * label.c: the label: two copies on each extent, so that one damaged block costs nothing. It says
 * which LUNs make up the volume; a LUN whose own id is not the one in the table is an array's clone
 * and is refused, because two volumes of one id would fence each other's hosts.
 */
#include "clusterfs/label.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "clusterfs/volume.h"

void cfs_text_copy(char *dst, size_t size, const char *src, size_t n)
{
	size_t i = 0;

	for (; i < n && i + 1 < size && src[i]; i++)
		dst[i] = src[i] >= ' ' && src[i] != 0x7f ? src[i] : '?';
	dst[i] = 0;
}

/* --- one copy ----------------------------------------------------------------------------------- */

static bool times_sane(const struct cfs_label *l)
{
	uint32_t beat = le32_get(l->beat_ms), lease = le32_get(l->lease_ms);

	return beat >= 10 && beat <= 60000 && lease >= 2 * beat && lease <= 3600000 &&
	       le32_get(l->silence_beats) >= 2 && le32_get(l->silence_beats) <= 1000 &&
	       le32_get(l->flight_ms) <= 3600000 && le32_get(l->fence_mode) <= CFS_FENCE_TIME;
}

static bool extents_sane(const struct cfs_label *l)
{
	uint32_t n = le16_get(l->extents), group_units = le32_get(l->group_units);
	uint64_t total = 0;

	for (uint32_t i = 0; i < n; i++) {
		const struct cfs_extent_entry *e = &l->extent_table[i];
		uint64_t blocks = le64_get(e->blocks), groups = le32_get(e->groups);
		uint64_t last = le32_get(e->last_units);

		if (!e->lun[0] || e->lun[sizeof(e->lun) - 1])
			return false;
		if (!groups || !last || last > group_units || blocks > CFS_MAX_EXTENT_BLOCKS)
			return false;
		if (CFS_GROUPS + ((groups - 1) * group_units + last) * CFS_UNIT_BLOCKS > blocks)
			return false;
		total += blocks * CFS_BLOCK;
	}
	return total <= CFS_MAX_VOLUME;
}

/* Fields of a label whose checksum is right: what the rest of the code relies on. */
static int validate(const struct cfs_label *l, const char *lun)
{
	uint32_t n = le16_get(l->extents), units = le32_get(l->group_units);
	uint32_t block = le32_get(l->logical_block);
	const char *bad = NULL;

	if (le32_get(l->format_version) > CFS_FORMAT_VERSION)
		return fail(
			-EPERM,
			"LUN %s: its volume has format %u, this release knows %u; use a newer one",
			lun, le32_get(l->format_version), CFS_FORMAT_VERSION);
	if (le32_get(l->features_incompat) || (le32_get(l->features_ro) & ~CFS_RO_KNOWN))
		return fail(-EPERM,
			    "LUN %s: its volume uses features this release does not know "
			    "(incompat %#x, ro %#x); use a newer one",
			    lun, le32_get(l->features_incompat), le32_get(l->features_ro));
	if (n < 1 || n > CFS_MAX_EXTENTS || le16_get(l->extent) >= n)
		bad = "extents";
	else if (block != 512 && block != 4096)
		bad = "logical block";
	else if (units < CFS_MIN_GROUP / CFS_UNIT || units > CFS_MAX_GROUP / CFS_UNIT)
		bad = "group size";
	else if (!times_sane(l))
		bad = "times";
	else if (!l->name[0] || l->name[sizeof(l->name) - 1])
		bad = "name";
	else if (!extents_sane(l))
		bad = "extent table";
	if (bad)
		return fail(-EUCLEAN, "LUN %s: label: bad %s", lun, bad);
	return 0;
}

static int read_copy(struct blk *blk, uint64_t at, struct cfs_label *out)
{
	const char *lun = blk_info(blk)->name;
	int rc;

	if (blk_info(blk)->size < (at + 1) * CFS_BLOCK)
		return fail(-ENOENT, "LUN %s: holds no volume", lun);
	rc = blk_read(blk, at * CFS_BLOCK, out, CFS_BLOCK);
	if (rc < 0)
		return fail_prefix(rc, "LUN %s: label", lun);
	if (le32_get(out->head.magic) != CFS_MAGIC || le16_get(out->head.type) != CFS_T_LABEL)
		return fail(-ENOENT, "LUN %s: holds no volume", lun);
	rc = cfs_block_check(out, CFS_T_LABEL, out->head.volume,
			     cfs_vbn(le16_get(out->extent) % CFS_MAX_EXTENTS, at));
	if (rc < 0)
		return fail_prefix(rc, "LUN %s: label", lun);
	return validate(out, lun);
}

int cfs_label_read(struct blk *blk, struct cfs_label *out)
{
	struct cfs_label b;
	int ra = read_copy(blk, CFS_LABEL_A, out), rb;
	struct err_info err_a;

	if (ra < 0)
		err_save(&err_a, ra);
	rb = read_copy(blk, CFS_LABEL_B, &b);
	if (ra == 0 && rb == 0 && memcmp(out->head.volume, b.head.volume, 16) != 0)
		return fail(-EUCLEAN, "LUN %s: its two labels name two volumes",
			    blk_info(blk)->name);
	if (rb == 0 && (ra < 0 || le64_get(b.head.sequence) > le64_get(out->head.sequence))) {
		if (ra < 0 && ra != -EPERM)
			log_warn("cfs", "LUN %s: first label: %s; the second one serves",
				 blk_info(blk)->name, err_a.message);
		*out = b;
		ra = 0;
	}
	if (ra == 0)
		return 0;
	/* One damaged and one absent is a damaged label, not an empty LUN. */
	if (rb == -EUCLEAN && ra == -ENOENT)
		return rb;
	return err_restore(&err_a);
}

int cfs_label_write_copy(struct blk *blk, const struct cfs_label *label, unsigned extent,
			 uint64_t block, unsigned flags)
{
	struct cfs_label *copy = xaligned(CFS_BLOCK, CFS_BLOCK);
	int rc;

	*copy = *label;
	copy->extent = le16_of((uint16_t)extent);
	cfs_block_seal(copy, CFS_T_LABEL, label->head.volume, cfs_vbn(extent, block));
	rc = validate(copy, blk_info(blk)->name);
	MUST(rc == 0);
	rc = blk_write(blk, block * CFS_BLOCK, copy, CFS_BLOCK, flags);
	free(copy);
	return rc;
}

int cfs_identify(struct blk *blk, struct cfs_identity *out)
{
	struct cfs_label l;
	int rc = cfs_label_read(blk, &l);

	if (rc < 0)
		return rc;
	memset(out, 0, sizeof(*out));
	cfs_text_copy(out->name, sizeof(out->name), l.name, sizeof(l.name));
	memcpy(out->id, l.head.volume, sizeof(out->id));
	out->extents = le16_get(l.extents);
	out->extent = le16_get(l.extent);
	for (unsigned i = 0; i < out->extents; i++)
		cfs_text_copy(out->luns[i], sizeof(out->luns[i]), l.extent_table[i].lun,
			      sizeof(l.extent_table[i].lun));
	memcpy(out->lun, out->luns[out->extent], sizeof(out->lun));
	return 0;
}

/* --- all extents together ------------------------------------------------------------------------ */

/* Reads each LUN's label and puts it at its place; the newest label of all is the volume's. */
static int gather(struct blk **blks, unsigned n, struct cfs_label *label, struct blk **ordered)
{
	struct cfs_label l;

	MUST(n >= 1);
	if (n > CFS_MAX_EXTENTS)
		return fail(-EINVAL, "%u LUNs: a volume has at most %u", n, CFS_MAX_EXTENTS);
	memset(ordered, 0, n * sizeof(*ordered));
	for (unsigned i = 0; i < n; i++) {
		const char *lun = blk_info(blks[i])->name;
		unsigned at;
		int rc = cfs_label_read(blks[i], &l);

		if (rc < 0)
			return rc;
		if (i && memcmp(l.head.volume, label->head.volume, 16) != 0)
			return fail(-EINVAL, "LUN %s belongs to volume %.63s, LUN %s to %.63s", lun,
				    l.name, blk_info(blks[0])->name, label->name);
		at = le16_get(l.extent);
		if (at >= n)
			return fail(-ENOENT,
				    "volume %.63s: LUN %s is extent %u of %u; %u LUNs were given, "
				    "give all",
				    l.name, lun, at, le16_get(l.extents), n);
		if (ordered[at])
			return fail(
				-EPERM,
				"volume %.63s: LUN %s and LUN %s both say that they are extent %u: "
				"one is an array's clone; mount it by itself with --new-identity",
				l.name, blk_info(ordered[at])->name, lun, at);
		ordered[at] = blks[i];
		if (!i || le64_get(l.head.sequence) > le64_get(label->head.sequence))
			*label = l;
	}
	if (le16_get(label->extents) != n)
		return fail(-ENOENT, "volume %.63s has %u LUNs, %u were given; give all",
			    label->name, le16_get(label->extents), n);
	return 0;
}

static int match_extent(const struct cfs_label *label, unsigned i, const struct blk_info *info)
{
	const struct cfs_extent_entry *e = &label->extent_table[i];

	if (info->block_size != le32_get(label->logical_block))
		return fail(-EPERM,
			    "volume %.63s: LUN %s has logical blocks of %u bytes, the volume was "
			    "formatted with %u",
			    label->name, info->name, info->block_size,
			    le32_get(label->logical_block));
	if (info->size / CFS_BLOCK < le64_get(e->blocks))
		return fail(
			-EPERM,
			"volume %.63s: LUN %s has %llu bytes, the volume needs %llu of it; make "
			"it as large as it was",
			label->name, info->name, (unsigned long long)info->size,
			(unsigned long long)(le64_get(e->blocks) * CFS_BLOCK));
	return 0;
}

int cfs_label_load(struct blk **blks, unsigned n, struct cfs_label *label, struct blk **ordered)
{
	int rc = gather(blks, n, label, ordered);

	for (unsigned i = 0; i < n && rc == 0; i++) {
		const struct blk_info *info = blk_info(ordered[i]);

		if (strncmp(info->id, label->extent_table[i].lun, sizeof(info->id)) != 0) {
			char lun[80];

			cfs_text_copy(lun, sizeof(lun), label->extent_table[i].lun, sizeof(lun));
			return fail(-EPERM,
				    "volume %.63s: LUN %s has the id %s, its label says %s: an "
				    "array's clone; mount it with --new-identity",
				    label->name, info->name, info->id, lun);
		}
		rc = match_extent(label, i, info);
	}
	label->extent = le16_of(0);
	return rc;
}

/* First all copies A, then all copies B: at any instant each LUN has a whole label. */
static int store(struct blk **extent, unsigned n, const struct cfs_label *label)
{
	static const uint64_t place[] = {CFS_LABEL_A, CFS_LABEL_B};
	int rc = 0;

	for (unsigned c = 0; c < ARRAY_SIZE(place) && rc == 0; c++) {
		for (unsigned i = 0; i < n && rc == 0; i++)
			rc = cfs_label_write_copy(extent[i], label, i, place[c], 0);
		for (unsigned i = 0; i < n && rc == 0; i++)
			rc = blk_flush(extent[i]);
	}
	return rc;
}

int cfs_label_store_next(struct blk **extent, unsigned n, struct cfs_label *label)
{
	label->head.sequence = le64_of(le64_get(label->head.sequence) + 1);
	return store(extent, n, label);
}

static void take_name(struct cfs *fs, const struct cfs_label *next)
{
	struct cfs_name *name = xcalloc(1, sizeof(*name));

	cfs_text_copy(name->text, sizeof(name->text), next->name, sizeof(next->name));
	if (fs->names && !strcmp(fs->names->text, name->text)) {
		free(name);
		return;
	}
	name->older = fs->names;
	fs->names = name;
	fs->name = name->text;
}

void cfs_label_take(struct cfs *fs, const struct cfs_label *next)
{
	unsigned n = le16_get(next->extents);

	if (next != &fs->label)
		fs->label = *next;
	take_name(fs, next);
	for (unsigned e = 0; e < n; e++) {
		const struct cfs_extent_entry *x = &next->extent_table[e];

		fs->span[e].blocks = le64_get(x->blocks);
		fs->span[e].groups = (uint64_t)le32_get(x->groups) << 32 | le32_get(x->last_units);
	}
	fs->extents = n;
}

void cfs_label_begin(struct cfs *fs)
{
	const struct cfs_label *l = &fs->label;

	memcpy(fs->id, l->head.volume, sizeof(fs->id));
	fs->logical_block = le32_get(l->logical_block);
	fs->group_units = le32_get(l->group_units);
	fs->beat_ms = le32_get(l->beat_ms);
	fs->silence_beats = le32_get(l->silence_beats);
	fs->lease_ms = le32_get(l->lease_ms);
	fs->flight_ms = le32_get(l->flight_ms);
	fs->fence_time = le32_get(l->fence_mode) == CFS_FENCE_TIME;
	fs->root_dir = le64_get(l->root);
	fs->trash_dir = le64_get(l->trash);
	cfs_label_take(fs, l);
}

void cfs_label_end(struct cfs *fs)
{
	while (fs->names) {
		struct cfs_name *name = fs->names;

		fs->names = name->older;
		free(name);
	}
}

int cfs_label_store(struct cfs *fs)
{
	return cfs_label_store_next(fs->extent, fs->extents, &fs->label);
}

/* --- clones ---------------------------------------------------------------------------------------- */

/*
 * A claim on a clone names a host that lives on the origin: nobody may log in with its initiator's
 * name or kill its process. Slot, epoch and journal stay: the journal is replayed as a dead host's.
 */
static int disarm_claim(struct blk *blk, const struct cfs_label *label, unsigned slot)
{
	uint32_t size = le32_get(label->logical_block);
	uint64_t vbn = cfs_vbn(0, CFS_CLAIMS + slot);
	uint8_t *old = xaligned(CFS_BLOCK, size), *new = xaligned(CFS_BLOCK, size);
	struct cfs_claim_record *claim = (struct cfs_claim_record *)new;
	int rc = blk_read(blk, vbn * CFS_BLOCK, old, size);

	if (rc == 0 && cfs_record_check(old, CFS_T_CLAIM, label->head.volume, vbn) == 0) {
		memcpy(new, old, size);
		memset(claim->initiator, 0, sizeof(claim->initiator));
		memset(claim->machine, 0, sizeof(claim->machine));
		memset(claim->boot, 0, sizeof(claim->boot));
		memset(claim->host, 0, sizeof(claim->host));
		claim->pid = le32_of(0);
		random_bytes(claim->token, sizeof(claim->token));
		claim->head.sequence = le64_of(le64_get(claim->head.sequence) + 1);
		cfs_record_seal(new, CFS_T_CLAIM, label->head.volume, vbn);
		rc = blk_cas(blk, vbn * CFS_BLOCK, old, new, NULL, BLK_FUA, NULL);
	}
	free(old);
	free(new);
	return rc;
}

int cfs_label_new_identity(struct blk **blks, unsigned n)
{
	struct blk *ordered[CFS_MAX_EXTENTS];
	struct cfs_label label;
	unsigned same = 0;
	int rc = gather(blks, n, &label, ordered);

	for (unsigned i = 0; i < n && rc == 0; i++) {
		const struct blk_info *info = blk_info(ordered[i]);

		same += strncmp(info->id, label.extent_table[i].lun, sizeof(info->id)) == 0;
		rc = match_extent(&label, i, info);
	}
	if (rc < 0)
		return rc;
	if (same)
		return fail(-EPERM,
			    "volume %.63s: %u of its %u LUNs are no clone: their ids are the "
			    "label's; mount it without --new-identity",
			    label.name, same, n);
	rc = cfs_volume_quiet(ordered[0], &label);
	if (rc == -EBUSY)
		return fail(-EPERM, "--new-identity: %s", err_message(rc));
	for (unsigned slot = 0; slot < CFS_MAX_SLOTS && rc == 0; slot++)
		rc = disarm_claim(ordered[0], &label, slot);
	if (rc < 0)
		return rc;
	random_bytes(label.identity, sizeof(label.identity));
	for (unsigned i = 0; i < n; i++) {
		struct cfs_extent_entry *e = &label.extent_table[i];

		memset(e->lun, 0, sizeof(e->lun));
		(void)str_format(e->lun, sizeof(e->lun), "%s", blk_info(ordered[i])->id);
	}
	label.head.sequence = le64_of(le64_get(label.head.sequence) + 1);
	return store(ordered, n, &label);
}

/* --- is anybody there? --------------------------------------------------------------------------------- */

#define AREA_BLOCKS (CFS_BEATS + CFS_MAX_SLOTS - CFS_CLAIMS)

static void name_holder(const struct cfs_label *label, const struct cfs_claim_record *claim,
			unsigned slot)
{
	char name[64];

	cfs_text_copy(name, sizeof(name), claim->name, sizeof(claim->name));
	(void)fail(-EBUSY, "volume %.63s: host %s (slot %u) is alive on it; unmount it there",
		   label->name, name, slot);
	err_holder("host %s", name);
}

/* One look; `old` (may be NULL) is the area as an earlier look found it. */
static int look(struct blk *blk, const struct cfs_label *label, const uint8_t *old, uint8_t *area,
		unsigned *claimed)
{
	int rc = blk_read(blk, CFS_CLAIMS * (uint64_t)CFS_BLOCK, area, AREA_BLOCKS * CFS_BLOCK);

	*claimed = 0;
	if (rc < 0)
		return rc;
	for (unsigned slot = 0; slot < CFS_MAX_SLOTS; slot++) {
		size_t at = (size_t)slot * CFS_BLOCK;
		size_t beat = at + (CFS_BEATS - CFS_CLAIMS) * (size_t)CFS_BLOCK;
		const struct cfs_claim_record *claim = (const void *)(area + at);

		/* A claim that is damaged, or a beat that is torn, may be somebody's. */
		if (cfs_record_check(claim, CFS_T_CLAIM, label->head.volume,
				     cfs_vbn(0, CFS_CLAIMS + slot)) == 0 &&
		    claim->state == CFS_SLOT_FREE)
			continue;
		++*claimed;
		if (blk_info(blk)->kind == BLK_FILE) {
			rc = blk_host_lock(blk, slot);
			if (rc == 0)
				blk_host_unlock(blk, slot);
		}
		if (rc == -EBUSY || (old && (memcmp(old + at, area + at, CFS_RECORD) != 0 ||
					     memcmp(old + beat, area + beat, CFS_RECORD) != 0))) {
			name_holder(label, claim, slot);
			return -EBUSY;
		}
		rc = 0;
	}
	return 0;
}

int cfs_volume_quiet(struct blk *extent0, const struct cfs_label *label)
{
	uint8_t *old = xaligned(CFS_BLOCK, AREA_BLOCKS * CFS_BLOCK);
	uint8_t *now = xaligned(CFS_BLOCK, AREA_BLOCKS * CFS_BLOCK);
	uint32_t beat_ms = le32_get(label->beat_ms);
	uint64_t end = clock_boot_ms() + (uint64_t)beat_ms * (le32_get(label->silence_beats) + 1);
	unsigned claimed;
	int rc = look(extent0, label, NULL, old, &claimed);

	while (rc == 0 && claimed && clock_boot_ms() < end) {
		sleep_ms(beat_ms);
		rc = look(extent0, label, old, now, &claimed);
	}
	free(old);
	free(now);
	return rc;
}

int cfs_quiet(struct blk *blk)
{
	struct cfs_label label;
	int rc = cfs_label_read(blk, &label);

	if (rc == -ENOENT || rc == -EUCLEAN || rc == -EPERM ||
	    (rc == 0 && le16_get(label.extent))) {
		err_clear();
		return 0;
	}
	return rc < 0 ? rc : cfs_volume_quiet(blk, &label);
}
