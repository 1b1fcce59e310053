// SPDX-License-Identifier: Apache-2.0
/*
 * slab.c: metadata blocks out of slabs: units cut into 16 blocks. A slab stays one for ever.
 * Reserved in memory first (slab_taken), made real by the transaction that uses the block.
 */
#include "clusterfs/groups.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"

#define SLABS_AT_ONCE 16u /* 1 MiB: one wipe, one flush */

/* The slab and the bit of a block in it; -EUCLEAN when no slab is there. */
static int locate(struct group *g, enum cfs_slab_type type, uint64_t vbn, unsigned *slab,
		  unsigned *bit)
{
	const struct cfs_group *h = group_header(g);
	uint32_t unit = group_unit(g, vbn);
	unsigned block = (unsigned)((vbn - g->vbn) % CFS_UNIT_BLOCKS);

	for (unsigned i = 0; i < le16_get(h->slabs); i++) {
		if (le32_get(h->slab[i].unit) != unit)
			continue;
		if (h->slab[i].type != type)
			break;
		*slab = i;
		*bit = type == CFS_SLAB_INODE ? block / 2 : block;
		return 0;
	}
	return fail(-EUCLEAN, "block %llu: not in a slab of its kind; run volume check",
		    (unsigned long long)vbn);
}

static uint64_t slab_vbn(const struct group *g, unsigned slab, unsigned bit)
{
	const struct cfs_slab *s = &group_header(g)->slab[slab];
	uint64_t first = group_unit_vbn(g, le32_get(s->unit));

	return s->type == CFS_SLAB_INODE ? first + 2 * bit + 1 : first + bit;
}

/* Groups mutex held: a free block of a slab that is there; 0 when there is none. */
static uint64_t take_from_slabs(struct group *g, enum cfs_slab_type type)
{
	const struct cfs_group *h = group_header(g);
	unsigned bits = type == CFS_SLAB_INODE ? 8 : 16;

	for (unsigned i = g->slab_hint[type]; i < le16_get(h->slabs); i++) {
		g->slab_hint[type] = (uint16_t)i;
		if (h->slab[i].type != type)
			continue;
		for (unsigned b = 0; b < bits; b++) {
			if (g->slab_taken[i] >> b & 1)
				continue;
			g->slab_taken[i] |= (uint16_t)(1u << b);
			atomic_fetch_add(&g->out, 1);
			return slab_vbn(g, i, b);
		}
	}
	return 0;
}

/*
 * What units held before is wiped: no guest's bytes may look like metadata to a replay, and lock
 * blocks must be there before anybody can want them (afterwards only compare-and-write touches them).
 */
static int wipe(struct cfs *fs, enum cfs_slab_type type, uint64_t vbn, uint32_t units)
{
	uint8_t *data = xaligned(CFS_BLOCK, (size_t)units * CFS_UNIT);
	uint64_t power = cfs_power(fs);
	int rc;

	for (unsigned i = 0; type == CFS_SLAB_INODE && i < units * CFS_UNIT_BLOCKS; i += 2)
		cfs_lock_init_block(data + i * CFS_BLOCK, fs->id, vbn + i, vbn + i + 1);
	rc = cfs_write(fs, vbn, data, (size_t)units * CFS_UNIT, 0);
	free(data);
	return rc < 0 ? rc : cfs_flush_since(fs, power);
}

/*
 * Units for slabs that lie together: several, since each wipe costs a flush, but few in a small
 * group, and only one where the group is down to its reserve. Groups mutex held; 0: none.
 */
static uint32_t take_for_slabs(struct group *g, uint32_t *unit)
{
	uint32_t want = MIN(SLABS_AT_ONCE, MAX(1u, g->units / 64)), n;

	want = MIN(want, (uint32_t)(CFS_SLABS - le16_get(group_header(g)->slabs)));
	if (want == 0)
		return 0;
	n = group_take_run(g, want, group_reserve(g), unit);
	return n ? n : group_take_run(g, 1, 0, unit);
}

/* Units of the group become slabs. The group is held. Blocking. */
static int make_slabs(struct group *g, enum cfs_slab_type type)
{
	struct cfs *fs = g->fs;
	struct cfs_group *h = group_header(g);
	struct cfs_txn txn;
	unsigned first;
	uint32_t unit, n;
	int rc;

	pthread_mutex_lock(&fs->groups->lock);
	n = take_for_slabs(g, &unit);
	pthread_mutex_unlock(&fs->groups->lock);
	if (n == 0)
		return -ENOSPC;
	rc = wipe(fs, type, group_unit_vbn(g, unit), n);
	if (rc == 0)
		rc = cfs_txn_begin_wait(fs, &txn);
	if (rc < 0) {
		cfs_let_land(fs, rc);
		pthread_mutex_lock(&fs->groups->lock);
		group_untake(g, unit, n);
		pthread_mutex_unlock(&fs->groups->lock);
		return rc;
	}
	first = le16_get(h->slabs);
	group_mark(&txn, g, unit, n, true);
	for (unsigned i = 0; i < n; i++) {
		g->slab_taken[first + i] = 0;
		h->slab[first + i].unit = le32_of(unit + i);
		h->slab[first + i].used = le16_of(0);
		h->slab[first + i].type = (uint8_t)type;
	}
	h->slabs = le16_of((uint16_t)(first + n));
	cfs_txn_patch(&txn, g->header, &h->slab[first], n * sizeof(h->slab[0]));
	cfs_txn_patch(&txn, g->header, &h->slabs, sizeof(h->slabs));
	cfs_txn_end(&txn);
	return 0;
}

/* From the groups this host holds; `near`'s first. */
static uint64_t take_from_held(struct cfs *fs, enum cfs_slab_type type, uint64_t near)
{
	struct cfs_groups *gs = fs->groups;
	uint64_t vbn = 0;

	pthread_mutex_lock(&gs->lock);
	if (near && group_at(fs, near)->held && !group_at(fs, near)->wished)
		vbn = take_from_slabs(group_at(fs, near), type);
	for (unsigned i = 0; i < gs->count && !vbn; i++) {
		if (group_nth(gs, i)->held && !group_nth(gs, i)->wished)
			vbn = take_from_slabs(group_nth(gs, i), type);
	}
	pthread_mutex_unlock(&gs->lock);
	return vbn;
}

/* Makes a slab in a held group: `near`'s, else the first that can. */
static int slab_in_held(struct cfs *fs, enum cfs_slab_type type, uint64_t near)
{
	struct cfs_groups *gs = fs->groups;
	unsigned first = near ? cfs_group_of(fs, near) : 0;

	for (unsigned k = 0; k < gs->count; k++) {
		struct group *g = group_nth(gs, (first + k) % gs->count);
		int rc;

		pthread_mutex_lock(&gs->lock);
		if (!g->held || g->wished || g->mem_free == 0) {
			pthread_mutex_unlock(&gs->lock);
			continue;
		}
		atomic_fetch_add(&g->out, 1);
		pthread_mutex_unlock(&gs->lock);
		rc = make_slabs(g, type);
		cfs_group_unhold(fs, g->number);
		if (rc != -ENOSPC)
			return rc;
	}
	return -ENOSPC;
}

int cfs_meta_reserve(struct cfs *fs, enum cfs_slab_type type, uint64_t near, uint64_t *vbn)
{
	for (unsigned tries = 0; tries < 64; tries++) {
		int rc;

		*vbn = take_from_held(fs, type, near);
		if (*vbn)
			return 0;
		pthread_mutex_lock(&fs->groups->acquire_lock); /* one new slab at a time */
		*vbn = take_from_held(fs, type, near);
		rc = *vbn ? 0 : slab_in_held(fs, type, near);
		pthread_mutex_unlock(&fs->groups->acquire_lock);
		if (*vbn)
			return 0;
		if (rc == -ENOSPC)
			rc = group_acquire_any(fs, 1, true);
		if (rc < 0)
			return rc;
	}
	return fail(-ENOSPC, "volume %s: no room for metadata; grow it or delete something",
		    fs->name);
}

bool cfs_meta_used(struct group *g, enum cfs_slab_type type, uint64_t vbn)
{
	unsigned slab, bit;

	return locate(g, type, vbn, &slab, &bit) == 0 &&
	       le16_get(group_header(g)->slab[slab].used) >> bit & 1;
}

void cfs_meta_reserve_locked(struct group *g, enum cfs_slab_type type, uint64_t vbn)
{
	unsigned slab, bit;

	if (locate(g, type, vbn, &slab, &bit) == 0)
		g->slab_taken[slab] |= (uint16_t)(1u << bit);
}

void cfs_meta_unreserve_locked(struct group *g, enum cfs_slab_type type, uint64_t vbn)
{
	unsigned slab, bit;

	if (locate(g, type, vbn, &slab, &bit) < 0)
		return;
	g->slab_taken[slab] &= (uint16_t) ~(1u << bit);
	g->slab_hint[type] = (uint16_t)MIN(g->slab_hint[type], slab);
}

void cfs_meta_unreserve(struct cfs *fs, enum cfs_slab_type type, uint64_t vbn)
{
	struct group *g = group_at(fs, vbn);

	pthread_mutex_lock(&fs->groups->lock);
	cfs_meta_unreserve_locked(g, type, vbn);
	pthread_mutex_unlock(&fs->groups->lock);
	cfs_group_unhold(fs, g->number);
}

static void set_used(struct cfs_txn *txn, struct group *g, enum cfs_slab_type type, uint64_t vbn,
		     bool on)
{
	struct cfs_slab *s;
	unsigned slab, bit;
	uint16_t used;

	MUST(g->held && locate(g, type, vbn, &slab, &bit) == 0);
	s = &group_header(g)->slab[slab];
	used = le16_get(s->used);
	MUST((used >> bit & 1) != on);
	s->used = le16_of((uint16_t)(on ? used | 1u << bit : used & ~(1u << bit)));
	cfs_txn_patch(txn, g->header, s, sizeof(*s));
}

void cfs_meta_use(struct cfs_txn *txn, enum cfs_slab_type type, uint64_t vbn)
{
	struct group *g = group_at(txn->fs, vbn);

	set_used(txn, g, type, vbn, true);
	atomic_fetch_sub(&g->out, 1);
}

void cfs_meta_free(struct cfs_txn *txn, enum cfs_slab_type type, uint64_t vbn)
{
	struct group *g = group_at(txn->fs, vbn);

	struct cfs_buf *buf = cfs_buf_peek(txn->fs, vbn);

	MUST(g->out > 0);
	/*
	 * An inode goes in place as a free one: who found its name before must be able to read that it is
	 * gone. It cannot hit another host's: that one takes the inode's lock first, which we hold.
	 */
	if (buf && type == CFS_SLAB_META)
		cfs_txn_forget(txn, buf);
	cfs_buf_put(txn->fs, buf);
	set_used(txn, g, type, vbn, false);
	group_pend(txn, vbn, 0, type);
}
