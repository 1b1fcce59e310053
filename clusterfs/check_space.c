// SPDX-License-Identifier: Apache-2.0
/*
 * check_space.c: which units and blocks are used, as far as `check` has seen; and what the groups say.
 * Bits are kept for groups in which something was seen only: a sparse volume of 64 TiB costs little.
 */
#include "clusterfs/check.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "clusterfs/lock.h"

static bool bit(const uint8_t *bits, uint32_t i)
{
	return bits && bits[i / 8] >> (i % 8) & 1;
}

static void set(uint8_t *bits, uint32_t i)
{
	bits[i / 8] |= (uint8_t)(1u << (i % 8));
}

static uint8_t *seen_bits(struct check_group *g)
{
	if (!g->seen) {
		g->seen = xcalloc(1, DIV_ROUND_UP(g->units, 8u));
		for (uint32_t i = 0; i < le32_get(g->header->meta_units); i++)
			set(g->seen, i);
	}
	return g->seen;
}

static uint16_t slab_seen(const struct check_group *g, unsigned slab)
{
	return (uint16_t)(g->slab_seen[2 * slab] | g->slab_seen[2 * slab + 1] << 8);
}

static void slab_see(struct check_group *g, unsigned slab, unsigned i)
{
	g->slab_seen[2 * slab + i / 8] |= (uint8_t)(1u << (i % 8));
}

/* --- headers --------------------------------------------------------------------------------------- */

static void fresh_header(struct check *c, struct check_group *g)
{
	struct cfs_group *h = g->header;

	memset(h, 0, sizeof(*h));
	h->head.owner = le64_of(g->vbn);
	h->index = le32_of(g->index);
	h->units = le32_of(g->units);
	h->meta_units = le32_of(cfs_group_meta_units(c->fs->group_units));
	h->extent = le16_of((uint16_t)g->extent);
}

/* Two slabs in one unit, or one in the group's own metadata. */
static bool slabs_clash(const struct cfs_group *h)
{
	for (unsigned i = 0; i < le16_get(h->slabs); i++) {
		uint32_t unit = le32_get(h->slab[i].unit);

		if (h->slab[i].type == CFS_SLAB_FREE)
			continue;
		for (unsigned k = 0; k < i; k++) {
			if (h->slab[k].type != CFS_SLAB_FREE && le32_get(h->slab[k].unit) == unit)
				return true;
		}
	}
	return false;
}

static int load_header(struct check *c, struct check_group *g)
{
	struct cfs_group *h = g->header = xcalloc(1, sizeof(*h));
	char why[256], what[64];
	int rc = check_block(c, g->vbn + 1, CFS_T_GROUP, h, why);

	snprintf(what, sizeof(what), "group %u of extent %u", g->index, g->extent);
	if (rc == 0 && slabs_clash(h)) {
		snprintf(why, sizeof(why), "its header has two slabs in one place");
		rc = 1;
	}
	/* A short group of an extent that grew is extended by who takes it first: as if it was. */
	if (rc == 0 && le32_get(h->units) < g->units) {
		h->free_units = le32_of(le32_get(h->free_units) + g->units - le32_get(h->units));
		h->units = le32_of(g->units);
	}
	if (rc >= 1) {
		check_found(c, true, what, "%s; its slabs are found again", why);
		fresh_header(c, g);
		g->rebuilt = true;
	} else if (rc == 0 &&
		   (le32_get(h->index) != g->index || le16_get(h->extent) != g->extent ||
		    le32_get(h->units) != g->units || le64_get(h->head.owner) != g->vbn ||
		    le32_get(h->meta_units) != cfs_group_meta_units(c->fs->group_units))) {
		check_found(c, true, what, "its header has wrong numbers");
		h->head.owner = le64_of(g->vbn);
		h->index = le32_of(g->index);
		h->extent = le16_of((uint16_t)g->extent);
		h->units = le32_of(g->units);
		h->meta_units = le32_of(cfs_group_meta_units(c->fs->group_units));
		rc = check_write(c, g->vbn + 1, CFS_T_GROUP, h);
	}
	if (rc < 0)
		return rc;
	g->slab_seen = xcalloc(CFS_SLABS, 2);
	for (unsigned i = 0; i < le16_get(h->slabs); i++) {
		if (h->slab[i].type != CFS_SLAB_FREE)
			set(seen_bits(g), le32_get(h->slab[i].unit));
	}
	return check_lock(c, g->vbn, g->vbn + 1, what);
}

int check_groups_load(struct check *c)
{
	unsigned n = 0;
	int rc = 0;

	for (unsigned e = 0; e < c->fs->extents; e++)
		n += le32_get(c->fs->label.extent_table[e].groups);
	c->group = xcalloc(n, sizeof(*c->group));
	for (unsigned e = 0; e < c->fs->extents && rc == 0; e++) {
		const struct cfs_extent_entry *x = &c->fs->label.extent_table[e];

		for (uint32_t i = 0; i < le32_get(x->groups) && rc == 0; i++) {
			struct check_group *g = &c->group[c->groups++];

			g->vbn = cfs_vbn(e, CFS_GROUPS + (uint64_t)i * c->fs->group_units *
								 CFS_UNIT_BLOCKS);
			g->index = i;
			g->extent = e;
			g->units = i + 1 == le32_get(x->groups) ? le32_get(x->last_units)
								: c->fs->group_units;
			rc = load_header(c, g);
		}
	}
	return rc;
}

void check_groups_free(struct check *c)
{
	for (unsigned i = 0; i < c->groups; i++) {
		free(c->group[i].header);
		free(c->group[i].seen);
		free(c->group[i].slab_seen);
	}
	free(c->group);
}

/* --- claims ------------------------------------------------------------------------------------------- */

struct check_group *check_group_at(struct check *c, uint64_t vbn)
{
	unsigned first = 0, extent = cfs_vbn_extent(vbn);
	uint64_t span = (uint64_t)c->fs->group_units * CFS_UNIT_BLOCKS, n;
	struct check_group *g;

	if (!cfs_vbn_valid(c->fs, vbn))
		return NULL;
	for (unsigned e = 0; e < extent; e++)
		first += le32_get(c->fs->label.extent_table[e].groups);
	n = (cfs_vbn_block(vbn) - CFS_GROUPS) / span;
	if (n >= le32_get(c->fs->label.extent_table[extent].groups))
		return NULL; /* behind the last group */
	g = &c->group[first + n];
	n = (vbn - g->vbn) / CFS_UNIT_BLOCKS;
	return n >= le32_get(g->header->meta_units) && n < g->units ? g : NULL;
}

static uint32_t unit_of(const struct check_group *g, uint64_t vbn)
{
	return (uint32_t)((vbn - g->vbn) / CFS_UNIT_BLOCKS);
}

/* The slab in a unit; CFS_SLABS: none. */
static unsigned find_slab(const struct check_group *g, uint32_t unit)
{
	for (unsigned i = 0; i < le16_get(g->header->slabs); i++) {
		const struct cfs_slab *s = &g->header->slab[i];

		if (s->type != CFS_SLAB_FREE && le32_get(s->unit) == unit)
			return i;
	}
	return CFS_SLABS;
}

/* Does metadata lie there? A slab that a wrong header made up holds none. */
static int slab_is_real(struct check *c, const struct check_group *g, unsigned slab, bool *real)
{
	const struct cfs_slab *s = &g->header->slab[slab];
	uint64_t vbn = g->vbn + (uint64_t)le32_get(s->unit) * CFS_UNIT_BLOCKS;
	uint8_t *block = xmalloc(CFS_BLOCK);
	int rc = 0;

	*real = false;
	for (unsigned i = 0; i < CFS_UNIT_BLOCKS && rc == 0 && !*real; i++) {
		const struct cfs_head *h = (const void *)block;

		rc = check_read(c, vbn + i, block);
		if (rc < 0)
			break;
		if (s->type == CFS_SLAB_INODE)
			*real = cfs_record_check(block, CFS_T_LOCK, c->fs->id, vbn + i) == 0;
		else
			*real = cfs_block_check(block, (enum cfs_type)le16_get(h->type), c->fs->id,
						vbn + i) == 0;
		err_clear();
	}
	free(block);
	return rc;
}

/* A unit that data claims is said to be a slab: takes it out of the header when it is none. */
static bool drop_false_slab(struct check *c, struct check_group *g, uint32_t unit)
{
	unsigned slab = find_slab(g, unit);
	char what[64];
	bool real;

	if (slab_seen(g, slab) || slab_is_real(c, g, slab, &real) < 0 || real)
		return false;
	snprintf(what, sizeof(what), "group %u of extent %u", g->index, g->extent);
	check_found(c, true, what, "unit %u is no slab, but a file's", unit);
	memset(&g->header->slab[slab], 0, sizeof(g->header->slab[slab]));
	g->seen[unit / 8] &= (uint8_t) ~(1u << (unit % 8));
	return true;
}

enum check_claim check_claim_units(struct check *c, uint64_t vbn, uint32_t units)
{
	struct check_group *g = check_group_at(c, vbn);
	uint32_t first;

	if (!g || vbn % CFS_UNIT_BLOCKS || unit_of(g, vbn) + units > g->units)
		return CHECK_IMPOSSIBLE;
	first = unit_of(g, vbn);
	for (uint32_t i = first; i < first + units; i++) {
		if (!bit(g->seen, i))
			continue;
		if (find_slab(g, i) == CFS_SLABS)
			return CHECK_TAKEN;
		if (!drop_false_slab(c, g, i))
			return CHECK_IMPOSSIBLE;
	}
	for (uint32_t i = first; i < first + units; i++)
		set(seen_bits(g), i);
	c->result->units_used += units;
	return CHECK_NEW;
}

static unsigned add_slab(struct check_group *g, uint32_t unit, enum cfs_slab_type type)
{
	unsigned n = le16_get(g->header->slabs), i = 0;

	while (i < n && g->header->slab[i].type != CFS_SLAB_FREE)
		i++;
	if (i == CFS_SLABS)
		return CFS_SLABS;
	g->header->slab[i] = (struct cfs_slab){.unit = le32_of(unit), .type = (uint8_t)type};
	if (i == n)
		g->header->slabs = le16_of((uint16_t)(n + 1));
	set(seen_bits(g), unit);
	return i;
}

static unsigned bit_in_slab(enum cfs_slab_type type, uint64_t vbn)
{
	unsigned block = (unsigned)(cfs_vbn_block(vbn) % CFS_UNIT_BLOCKS);

	return type == CFS_SLAB_INODE ? block / 2 : block;
}

enum check_claim check_claim_meta(struct check *c, enum cfs_slab_type type, uint64_t vbn)
{
	struct check_group *g = check_group_at(c, vbn);
	unsigned slab, i = bit_in_slab(type, vbn);
	char what[64];

	if (!g || (type == CFS_SLAB_INODE && vbn % 2 == 0))
		return CHECK_IMPOSSIBLE;
	snprintf(what, sizeof(what), "group %u of extent %u", g->index, g->extent);
	slab = find_slab(g, unit_of(g, vbn));
	if (slab == CFS_SLABS && !bit(g->seen, unit_of(g, vbn))) {
		slab = add_slab(g, unit_of(g, vbn), type);
		if (slab < CFS_SLABS && !g->rebuilt)
			check_found(c, true, what, "a slab is missing in its header");
	} else if (slab < CFS_SLABS && g->header->slab[slab].type != type && !slab_seen(g, slab)) {
		check_found(c, true, what, "a slab is of another type than its header says");
		g->header->slab[slab].type = (uint8_t)type;
	}
	if (slab == CFS_SLABS || g->header->slab[slab].type != type)
		return CHECK_IMPOSSIBLE;
	if (slab_seen(g, slab) >> i & 1)
		return CHECK_TAKEN;
	slab_see(g, slab, i);
	return CHECK_NEW;
}

bool check_meta_seen(struct check *c, enum cfs_slab_type type, uint64_t vbn)
{
	struct check_group *g = check_group_at(c, vbn);
	unsigned slab = g ? find_slab(g, unit_of(g, vbn)) : CFS_SLABS;

	return slab < CFS_SLABS && g->header->slab[slab].type == type &&
	       (slab_seen(g, slab) >> bit_in_slab(type, vbn) & 1);
}

void check_unclaim_meta(struct check *c, uint64_t vbn)
{
	struct check_group *g = check_group_at(c, vbn);
	unsigned slab = g ? find_slab(g, unit_of(g, vbn)) : CFS_SLABS;
	unsigned i = (unsigned)(cfs_vbn_block(vbn) % CFS_UNIT_BLOCKS);

	if (slab < CFS_SLABS && g->header->slab[slab].type == CFS_SLAB_META)
		g->slab_seen[2 * slab + i / 8] &= (uint8_t) ~(1u << (i % 8));
}

bool check_pair_used(struct check *c, uint64_t vbn)
{
	struct check_group *g = check_group_at(c, vbn);
	unsigned slab = g ? find_slab(g, unit_of(g, vbn)) : CFS_SLABS;

	return slab < CFS_SLABS && vbn % 2 == 1 && g->header->slab[slab].type == CFS_SLAB_INODE &&
	       (g->rebuilt ||
		(le16_get(g->header->slab[slab].used) >> bit_in_slab(CFS_SLAB_INODE, vbn) & 1));
}

int check_lost_inodes(struct check *c, int (*fn)(struct check *c, uint64_t vbn))
{
	int rc = 0;

	for (unsigned k = 0; k < c->groups && rc == 0; k++) {
		struct check_group *g = &c->group[k];

		for (unsigned s = 0; s < le16_get(g->header->slabs) && rc == 0; s++) {
			uint64_t first = g->vbn + (uint64_t)le32_get(g->header->slab[s].unit) *
							  CFS_UNIT_BLOCKS;

			if (g->header->slab[s].type != CFS_SLAB_INODE)
				continue;
			for (unsigned i = 0; i < 8 && rc == 0; i++) {
				uint64_t vbn = first + 2 * i + 1;

				if (check_pair_used(c, vbn) &&
				    !check_meta_seen(c, CFS_SLAB_INODE, vbn))
					rc = fn(c, vbn);
			}
		}
	}
	return rc;
}

/* --- taking what is free --------------------------------------------------------------------------------- */

static bool free_unit(struct check *c, struct check_group **out, uint32_t *unit)
{
	for (unsigned k = 0; k < c->groups; k++) {
		struct check_group *g = &c->group[k];

		for (uint32_t i = le32_get(g->header->meta_units); i < g->units; i++) {
			if (bit(g->seen, i))
				continue;
			set(seen_bits(g), i);
			*out = g;
			*unit = i;
			return true;
		}
	}
	return false;
}

int check_alloc_unit(struct check *c, uint64_t *vbn)
{
	struct check_group *g;
	uint32_t unit;

	if (!free_unit(c, &g, &unit))
		return fail(-ENOSPC, "volume %s: no free unit is left for the repair", c->fs->name);
	*vbn = g->vbn + (uint64_t)unit * CFS_UNIT_BLOCKS;
	c->result->units_used++;
	return 0;
}

static int new_slab(struct check *c, enum cfs_slab_type type)
{
	uint8_t *blank;
	struct check_group *g;
	uint64_t vbn;
	int rc = check_alloc_unit(c, &vbn);

	if (rc < 0)
		return rc;
	g = check_group_at(c, vbn);
	if (add_slab(g, unit_of(g, vbn), type) == CFS_SLABS)
		return fail(-ENOSPC, "volume %s: no slab is left for the repair", c->fs->name);
	blank = xaligned(CFS_BLOCK, CFS_UNIT);
	for (unsigned i = 0; type == CFS_SLAB_INODE && i < CFS_UNIT_BLOCKS; i += 2)
		cfs_lock_init_block(blank + i * CFS_BLOCK, c->fs->id, vbn + i, vbn + i + 1);
	rc = check_write_raw(c, vbn, blank, CFS_UNIT);
	free(blank);
	return rc;
}

static bool take_meta(struct check *c, enum cfs_slab_type type, uint64_t *vbn)
{
	unsigned bits = type == CFS_SLAB_INODE ? 8 : 16;

	for (unsigned k = 0; k < c->groups; k++) {
		struct check_group *g = &c->group[k];

		for (unsigned s = 0; s < le16_get(g->header->slabs); s++) {
			uint64_t first = g->vbn + (uint64_t)le32_get(g->header->slab[s].unit) *
							  CFS_UNIT_BLOCKS;

			if (g->header->slab[s].type != type)
				continue;
			for (unsigned i = 0; i < bits; i++) {
				if (slab_seen(g, s) >> i & 1)
					continue;
				slab_see(g, s, i);
				*vbn = type == CFS_SLAB_INODE ? first + 2 * i + 1 : first + i;
				return true;
			}
		}
	}
	return false;
}

int check_alloc_meta(struct check *c, enum cfs_slab_type type, uint64_t *vbn)
{
	int rc = 0;

	while (rc == 0 && !take_meta(c, type, vbn))
		rc = new_slab(c, type);
	return rc;
}

/* --- groups whose header was lost --------------------------------------------------------------------------- */

static int read_bits(struct check *c, struct check_group *g, unsigned i, enum cfs_type type,
		     struct cfs_bitmap *map, char why[256])
{
	unsigned maps = cfs_group_bitmap_blocks(c->fs->group_units);
	uint64_t vbn = g->vbn + 2 + i + (type == CFS_T_RECLAIM ? maps : 0);

	return check_block(c, vbn, type, map, why);
}

/* A slab of inodes begins with a lock block that is whole and protects the block behind it. */
static int look_for_slab(struct check *c, struct check_group *g, uint32_t unit)
{
	uint64_t vbn = g->vbn + (uint64_t)unit * CFS_UNIT_BLOCKS;
	uint8_t *block = xmalloc(CFS_BLOCK);
	const struct cfs_lock_record *r = (const void *)block;
	int rc = check_read(c, vbn, block);

	if (rc == 0 && cfs_record_check(block, CFS_T_LOCK, c->fs->id, vbn) == 0 &&
	    le64_get(r->object) == vbn + 1)
		add_slab(g, unit, CFS_SLAB_INODE);
	err_clear();
	free(block);
	return rc;
}

int check_find_slabs(struct check *c)
{
	struct cfs_bitmap *map = xmalloc(sizeof(*map));
	char why[256];
	int rc = 0;

	for (unsigned k = 0; k < c->groups && rc >= 0; k++) {
		struct check_group *g = &c->group[k];

		for (uint32_t i = 0; g->rebuilt && i < g->units && rc >= 0; i++) {
			uint32_t in = i % CFS_BITMAP_BITS;

			if (in == 0) {
				rc = read_bits(c, g, i / CFS_BITMAP_BITS, CFS_T_BITMAP, map, why);
				if (rc >= 1) /* told later; look everywhere */
					memset(map->bits, 0xff, sizeof(map->bits));
			}
			if (rc >= 0 && bit(map->bits, in) && !bit(seen_bits(g), i))
				rc = look_for_slab(c, g, i);
		}
	}
	free(map);
	return rc < 0 ? rc : 0;
}

/* --- last: bitmaps and counts ---------------------------------------------------------------------------------- */

struct store { /* of one group */
	struct check_group *g;
	char what[64];
	uint32_t lost, missing, reclaim_wrong, free, reclaim;
};

static void fix_bits(struct store *s, unsigned i, struct cfs_bitmap *map,
		     struct cfs_bitmap *reclaim, bool fresh_reclaim, bool *dirty,
		     bool *reclaim_dirty)
{
	for (uint32_t k = 0; k < CFS_BITMAP_BITS; k++) {
		uint32_t unit = i * CFS_BITMAP_BITS + k;

		if (k % 8 == 0 && unit >= le32_get(s->g->header->meta_units) &&
		    unit + 8 <= s->g->units && !fresh_reclaim) { /* most bytes are right */
			uint8_t want8 = s->g->seen ? s->g->seen[unit / 8] : 0;

			if (map->bits[k / 8] == want8 && !(reclaim->bits[k / 8] & want8)) {
				s->free += 8 - (unsigned)__builtin_popcount(want8);
				s->reclaim += (unsigned)__builtin_popcount(reclaim->bits[k / 8]);
				k += 7;
				continue;
			}
		}
		bool inside = unit < s->g->units;
		bool want = inside &&
			    (unit < le32_get(s->g->header->meta_units) || bit(s->g->seen, unit));
		uint8_t mask = (uint8_t)(1u << (k % 8));

		if (bit(map->bits, k) != want) {
			s->lost += !want;
			s->missing += want;
			map->bits[k / 8] ^= mask;
			*dirty = true;
			if (!want &&
			    inside) { /* something lies there: the array may have it back */
				reclaim->bits[k / 8] |= mask;
				*reclaim_dirty = true;
			}
		}
		if (fresh_reclaim && inside && !want)
			reclaim->bits[k / 8] |= mask;
		if (bit(reclaim->bits, k) && (want || !inside)) {
			s->reclaim_wrong++;
			reclaim->bits[k / 8] &= (uint8_t)~mask;
			*reclaim_dirty = true;
		}
		s->free += inside && !want;
		s->reclaim += bit(reclaim->bits, k);
	}
}

static void blank_bits(struct check_group *g, struct cfs_bitmap *map)
{
	memset(map, 0, sizeof(*map));
	map->head.owner = le64_of(g->vbn);
}

static int load_bits(struct check *c, struct store *s, unsigned i, enum cfs_type type,
		     struct cfs_bitmap *map, bool *fresh)
{
	char why[256];
	int rc = read_bits(c, s->g, i, type, map, why);

	*fresh = false;
	if (rc >= 1) {
		check_found(c, true, s->what, "%s; it is made anew", why);
	} else if (rc == 0 && le64_get(map->head.owner) != s->g->vbn) {
		check_found(c, true, s->what, "%s %u names another lock", cfs_type_name(type), i);
		map->head.owner = le64_of(s->g->vbn);
		*fresh = true;
		return 0;
	}
	if (rc >= 1) {
		blank_bits(s->g, map);
		*fresh = true;
		rc = 0;
	}
	return rc;
}

static int store_bits(struct check *c, struct store *s, unsigned i)
{
	unsigned maps = cfs_group_bitmap_blocks(c->fs->group_units);
	struct cfs_bitmap *map = xmalloc(sizeof(*map)), *reclaim = xmalloc(sizeof(*map));
	uint32_t missing = s->missing;
	bool dirty, reclaim_dirty, lost;
	int rc = load_bits(c, s, i, CFS_T_BITMAP, map, &dirty);

	lost = dirty;
	if (rc == 0)
		rc = load_bits(c, s, i, CFS_T_RECLAIM, reclaim, &reclaim_dirty);
	if (rc == 0) {
		fix_bits(s, i, map, reclaim, reclaim_dirty, &dirty, &reclaim_dirty);
		if (lost) /* a bitmap that was lost says nothing about units */
			s->missing = missing;
		if (dirty)
			rc = check_write(c, s->g->vbn + 2 + i, CFS_T_BITMAP, map);
		if (rc == 0 && reclaim_dirty)
			rc = check_write(c, s->g->vbn + 2 + maps + i, CFS_T_RECLAIM, reclaim);
	}
	free(map);
	free(reclaim);
	return rc;
}

static void tell_store(struct check *c, const struct store *s)
{
	if (s->lost)
		check_found(c, true, s->what, "%u units are marked as taken but belong to nothing",
			    s->lost);
	if (s->missing)
		check_found(c, true, s->what, "%u units are used but marked as free", s->missing);
	if (s->reclaim_wrong)
		check_found(c, true, s->what, "%u units are used but wait to be given back",
			    s->reclaim_wrong);
}

static int store_header(struct check *c, struct store *s)
{
	struct cfs_group *h = s->g->header;
	struct cfs_group *disk = xmalloc(sizeof(*disk));
	unsigned wrong = 0;
	int rc = check_read(c, s->g->vbn + 1, disk);

	for (unsigned i = 0; i < le16_get(h->slabs); i++) {
		uint16_t seen = slab_seen(s->g, i);

		wrong += !s->g->rebuilt && i < le16_get(disk->slabs) &&
			 le16_get(disk->slab[i].used) != seen;
		h->slab[i].used = le16_of(seen);
	}
	if (wrong)
		check_found(c, true, s->what, "%u slabs have wrong blocks marked as used", wrong);
	if (!s->g->rebuilt &&
	    (le32_get(h->free_units) != s->free || le32_get(h->reclaim_units) != s->reclaim))
		check_found(c, true, s->what,
			    "counts of free units are wrong: %u and %u, not %u and %u",
			    le32_get(h->free_units), le32_get(h->reclaim_units), s->free,
			    s->reclaim);
	h->free_units = le32_of(s->free);
	h->reclaim_units = le32_of(s->reclaim);
	if (rc == 0 && (s->g->rebuilt ||
			memcmp((uint8_t *)h + sizeof(h->head), (uint8_t *)disk + sizeof(h->head),
			       sizeof(*h) - sizeof(h->head)) != 0))
		rc = check_write(c, s->g->vbn + 1, CFS_T_GROUP, h);
	free(disk);
	return rc;
}

int check_groups_store(struct check *c)
{
	unsigned maps = cfs_group_bitmap_blocks(c->fs->group_units);
	int rc = 0;

	for (unsigned k = 0; k < c->groups && rc == 0; k++) {
		struct store s = {.g = &c->group[k]};

		snprintf(s.what, sizeof(s.what), "group %u of extent %u", s.g->index, s.g->extent);
		for (unsigned i = 0; i < maps && rc == 0; i++)
			rc = store_bits(c, &s, i);
		tell_store(c, &s);
		if (rc == 0)
			rc = store_header(c, &s);
	}
	return rc;
}
