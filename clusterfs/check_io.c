// SPDX-License-Identifier: Apache-2.0
/*
 * check_io.c: reading through overlay and cache, writing, and the mending of single blocks: a block
 * with one wrong byte is told by its checksum which byte and what it was.
 */
#include "clusterfs/check.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checksum.h"
#include "base/err.h"
#include "clusterfs/lock.h"

#define TABLE 4096u

struct overlay_block {
	struct overlay_block *next;
	uint64_t vbn;
	uint8_t data[CFS_BLOCK];
};
struct check_overlay {
	struct overlay_block *bucket[TABLE];
};

void check_found(struct check *c, bool mended, const char *object, const char *fmt, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	mended = mended && c->repair;
	c->result->findings++;
	c->result->mended += mended;
	if (c->options->finding)
		c->options->finding(c->options->arg, object, text, mended);
}

/* --- overlay and cache --------------------------------------------------------------------------- */

int check_io_start(struct check *c)
{
	c->overlay = xcalloc(1, sizeof(*c->overlay));
	c->cache = xaligned(CFS_BLOCK, (size_t)CHECK_CACHE_UNITS * CFS_UNIT);
	return 0;
}

void check_io_stop(struct check *c)
{
	for (unsigned i = 0; c->overlay && i < TABLE; i++) {
		while (c->overlay->bucket[i]) {
			struct overlay_block *b = c->overlay->bucket[i];

			c->overlay->bucket[i] = b->next;
			free(b);
		}
	}
	free(c->overlay);
	free(c->cache);
}

static struct overlay_block **overlay_at(struct check *c, uint64_t vbn)
{
	struct overlay_block **p =
		&c->overlay->bucket[(vbn * 0x9e3779b97f4a7c15ULL) >> 52 & (TABLE - 1)];

	while (*p && (*p)->vbn != vbn)
		p = &(*p)->next;
	return p;
}

static void overlay_set(struct check *c, uint64_t vbn, const void *block)
{
	struct overlay_block **p = overlay_at(c, vbn);

	if (!*p) {
		*p = xcalloc(1, sizeof(**p));
		(*p)->vbn = vbn;
	}
	memcpy((*p)->data, block, CFS_BLOCK);
}

/* Of two hosts' journals the one that changed the block later is right. */
int check_overlay_put(void *arg, uint64_t vbn, const void *block)
{
	struct overlay_block **p = overlay_at(arg, vbn);
	const struct cfs_head *new = block, *old = *p ? (const void *)(*p)->data : NULL;

	if (!old || le64_get(old->sequence) < le64_get(new->sequence))
		overlay_set(arg, vbn, block);
	return 0;
}

static void see(struct check *c, const void *block)
{
	const struct cfs_head *h = block;

	if (le32_get(h->magic) == CFS_MAGIC && le16_get(h->type) >= CFS_T_GROUP &&
	    le16_get(h->type) <= CFS_T_DIR_NODE && le64_get(h->sequence) < UINT64_MAX / 2)
		c->sequence = MAX(c->sequence, le64_get(h->sequence));
}

/* Metadata lies together in slabs: a whole unit is read at once. */
int check_read(struct check *c, uint64_t vbn, void *block)
{
	uint64_t in = cfs_vbn_block(vbn), unit = vbn - in % CFS_UNIT_BLOCKS;
	unsigned at = (unsigned)(unit / CFS_UNIT_BLOCKS % CHECK_CACHE_UNITS);
	uint8_t *cached = c->cache + (size_t)at * CFS_UNIT;
	struct overlay_block **p = overlay_at(c, vbn);
	int rc;

	if (*p) {
		memcpy(block, (*p)->data, CFS_BLOCK);
		return 0;
	}
	if (!cfs_vbn_valid(c->fs, vbn) || !cfs_vbn_valid(c->fs, unit + CFS_UNIT_BLOCKS - 1)) {
		uint8_t *one = xaligned(CFS_BLOCK, CFS_BLOCK);

		rc = cfs_read(c->fs, vbn, one, CFS_BLOCK);
		memcpy(block, one, CFS_BLOCK);
		free(one);
		return rc;
	}
	if (c->cached_unit[at] != unit) {
		c->cached_unit[at] = 0;
		rc = cfs_read(c->fs, unit, cached, CFS_UNIT);
		if (rc < 0)
			return rc;
		c->cached_unit[at] = unit;
	}
	memcpy(block, cached + (vbn - unit) * CFS_BLOCK, CFS_BLOCK);
	return 0;
}

int check_write_raw(struct check *c, uint64_t vbn, const void *data, size_t bytes)
{
	uint8_t *copy;
	int rc;

	for (size_t i = 0; i < bytes / CFS_BLOCK; i++) {
		uint64_t unit = vbn + i - cfs_vbn_block(vbn + i) % CFS_UNIT_BLOCKS;

		if (!c->repair)
			overlay_set(c, vbn + i, (const uint8_t *)data + i * CFS_BLOCK);
		if (c->cached_unit[unit / CFS_UNIT_BLOCKS % CHECK_CACHE_UNITS] == unit)
			c->cached_unit[unit / CFS_UNIT_BLOCKS % CHECK_CACHE_UNITS] = 0;
	}
	if (!c->repair)
		return 0;
	copy = xaligned(CFS_BLOCK, bytes);
	memcpy(copy, data, bytes);
	rc = cfs_write(c->fs, vbn, copy, bytes, 0);
	free(copy);
	return rc;
}

int check_write(struct check *c, uint64_t vbn, enum cfs_type type, void *block)
{
	struct cfs_head *h = block;

	h->sequence = le64_of(++c->sequence);
	cfs_block_seal(block, type, c->fs->id, vbn);
	return check_write_raw(c, vbn, block, CFS_BLOCK);
}

/* --- one wrong byte ---------------------------------------------------------------------------------- */

static bool one_byte(uint64_t a, uint64_t b)
{
	uint64_t x = a ^ b;

	for (unsigned i = 0; i < 8; i++) {
		if ((x & ~(0xffULL << (8 * i))) == 0)
			return true;
	}
	return false;
}

static bool try_byte(uint8_t *block, size_t bytes, size_t at, uint64_t want)
{
	uint8_t was = block[at];

	for (unsigned v = 1; v < 256; v++) {
		block[at] = was ^ (uint8_t)v;
		if (checksum64_with_hole(block, bytes, CFS_CHECKSUM_AT) == want)
			return true;
	}
	block[at] = was;
	return false;
}

/* Puts the one wrong byte right. 64 bits of checksum leave no doubt about which it was. */
static bool mend_byte(struct check *c, uint8_t *block, size_t bytes)
{
	struct cfs_head *h = (struct cfs_head *)block;
	uint64_t want = le64_get(h->checksum);
	uint64_t is = checksum64_with_hole(block, bytes, CFS_CHECKSUM_AT);

	if (is == want)
		return false;
	if (one_byte(is, want)) {
		h->checksum = le64_of(is);
		return true;
	}
	if (bytes == CFS_BLOCK && c->mends++ >= CHECK_MAX_MENDS)
		return false;
	for (size_t at = 0; at < bytes; at++) {
		if (at - CFS_CHECKSUM_AT < 8)
			continue;
		if (try_byte(block, bytes, at, want))
			return true;
	}
	return false;
}

/* A head with a right checksum and one field that says something else: that field is mended. */
static bool mend_head(struct check *c, uint8_t *block, size_t bytes, enum cfs_type type,
		      uint64_t vbn)
{
	struct cfs_head *h = (struct cfs_head *)block;
	unsigned wrong = (le32_get(h->magic) != CFS_MAGIC) + (le16_get(h->type) != type) +
			 (le16_get(h->version) != 1) + (memcmp(h->volume, c->fs->id, 16) != 0) +
			 (le64_get(h->self) != vbn);

	return wrong == 1 &&
	       le64_get(h->checksum) == checksum64_with_hole(block, bytes, CFS_CHECKSUM_AT);
}

/* What is wrong, without the cure, which is at work. */
static void keep_words(int rc, char why[256])
{
	char *cure;

	snprintf(why, 256, "%.255s", err_message(rc));
	cure = strstr(why, "; run volume check");

	if (cure)
		*cure = 0;
	err_clear();
}

int check_block(struct check *c, uint64_t vbn, enum cfs_type type, void *block, char why[256])
{
	uint8_t before[CFS_BLOCK];
	char object[64];
	int rc = check_read(c, vbn, block);

	if (rc < 0)
		return rc;
	rc = cfs_block_check(block, type, c->fs->id, vbn);
	if (rc < 0) {
		keep_words(rc, why);
		memcpy(before, block, CFS_BLOCK);
		if (mend_head(c, block, CFS_BLOCK, type, vbn) || mend_byte(c, block, CFS_BLOCK)) {
			cfs_block_seal(block, type, c->fs->id, vbn);
			rc = cfs_block_validate(block, type);
		}
		if (rc < 0) {
			memcpy(block, before, CFS_BLOCK);
			err_clear();
			return 1;
		}
		check_found(c, true, cfs_type_name(type),
			    "%s; one byte or field was wrong, and which is known", why);
		see(c, block);
		return check_write(c, vbn, type, block);
	}
	see(c, block);
	rc = cfs_block_validate(block, type);
	if (rc < 0) {
		keep_words(rc, why);
		return 2;
	}
	if (le64_get(((struct cfs_head *)block)->sequence) < UINT64_MAX / 2)
		return 0;
	/* no replay would ever change such a block again */
	snprintf(object, sizeof(object), "block %llu", (unsigned long long)vbn);
	check_found(c, true, object, "%s: an impossible sequence number", cfs_type_name(type));
	return check_write(c, vbn, type, block);
}

/* --- records ------------------------------------------------------------------------------------------ */

int check_record(struct check *c, uint64_t vbn, enum cfs_type type, void *record, char why[256])
{
	uint8_t *block = xaligned(CFS_BLOCK, CFS_BLOCK);
	int rc = check_read(c, vbn, block);

	memcpy(record, block, CFS_RECORD);
	free(block);
	if (rc < 0)
		return rc;
	rc = cfs_record_check(record, type, c->fs->id, vbn);
	if (rc < 0) {
		keep_words(rc, why);
		if (!mend_head(c, record, CFS_RECORD, type, vbn) &&
		    !mend_byte(c, record, CFS_RECORD))
			return 1;
		cfs_record_seal(record, type, c->fs->id, vbn);
		if (cfs_block_validate(record, type) < 0) {
			err_clear();
			return 1;
		}
		check_found(c, true, cfs_type_name(type),
			    "%s; one byte or field was wrong, and which is known", why);
		return check_swap(c, vbn, type, record);
	}
	rc = cfs_block_validate(record, type);
	if (rc == 0)
		return 0;
	keep_words(rc, why);
	return 1;
}

/*
 * INV-FS-1: also here by compare-and-write only (beats plainly), comparing with what stands there. The
 * rest of the block is zero, as it was made; with 4 KiB logical blocks that is compared and written too.
 */
int check_swap(struct check *c, uint64_t vbn, enum cfs_type type, void *next)
{
	struct cfs_record_head *h = next;
	uint8_t *old, *new;
	uint64_t offset;
	int rc;

	h->sequence = le64_of(le64_get(h->sequence) + 1);
	cfs_record_seal(next, type, c->fs->id, vbn);
	old = xaligned(CFS_BLOCK, CFS_BLOCK);
	new = xaligned(CFS_BLOCK, CFS_BLOCK);
	rc = check_read(c, vbn, old);
	memcpy(new, old, CFS_BLOCK);
	memset(new, 0, c->fs->logical_block);
	memcpy(new, next, CFS_RECORD);
	if (rc == 0 && (!c->repair || type == CFS_T_BEAT)) {
		rc = check_write_raw(c, vbn, new, CFS_BLOCK);
	} else if (rc == 0) {
		struct blk *blk = cfs_locate(c->fs, vbn, &offset);
		uint64_t unit = vbn - cfs_vbn_block(vbn) % CFS_UNIT_BLOCKS;

		rc = blk_cas(blk, offset, old, new, NULL, 0, NULL);
		c->cached_unit[unit / CFS_UNIT_BLOCKS % CHECK_CACHE_UNITS] = 0;
	}
	free(old);
	free(new);
	return rc;
}

/* Can that life end, so that a host finds the lock stale some day? */
static bool life_known(struct check *c, unsigned slot, uint32_t epoch)
{
	return slot < CFS_MAX_SLOTS && epoch != 0 && epoch <= c->epochs[slot];
}

static const char *lock_trouble(struct check *c, const struct cfs_lock_record *r, uint64_t object)
{
	if (le64_get(r->object) != object)
		return "names another object";
	if (r->mode == CFS_LOCK_EXCLUSIVE && r->owner_kind == CFS_OWNER_HOST &&
	    !life_known(c, le16_get(r->owner_slot), le32_get(r->owner_epoch)))
		return "is held by a host that never lived";
	if (r->mode == CFS_LOCK_EXCLUSIVE && r->owner_kind == CFS_OWNER_VM &&
	    !cfs_vbn_valid(c->fs, le64_get(r->vm)))
		return "is held by a VM that cannot be";
	if (r->state == CFS_LOCK_OFFERED &&
	    !life_known(c, le16_get(r->from_slot), le32_get(r->from_epoch)))
		return "was offered by a host that never lived";
	for (unsigned i = 0; r->mode == CFS_LOCK_SHARED && i < CFS_MAX_SLOTS; i++) {
		if (le32_get(r->readers[i]) && !life_known(c, i, le32_get(r->readers[i])))
			return "is shared by a host that never lived";
	}
	return NULL;
}

int check_lock(struct check *c, uint64_t vbn, uint64_t object, const char *what)
{
	struct cfs_lock_record r;
	uint8_t *block;
	char why[256];
	int rc = check_record(c, vbn, CFS_T_LOCK, &r, why);
	uint64_t sequence = 0;

	if (rc == 0) {
		const char *trouble = lock_trouble(c, &r, object);

		if (!trouble)
			return 0;
		snprintf(why, sizeof(why), "block %llu: lock %s", (unsigned long long)vbn, trouble);
		sequence = le64_get(r.head.sequence);
	} else if (rc < 0) {
		return rc;
	}
	check_found(c, true, what, "%s; it is made new and free", why);
	block = xaligned(CFS_BLOCK, CFS_BLOCK);
	cfs_lock_init_block(block, c->fs->id, vbn, object);
	((struct cfs_record_head *)block)->sequence = le64_of(sequence);
	rc = check_swap(c, vbn, CFS_T_LOCK, block);
	free(block);
	return rc;
}
