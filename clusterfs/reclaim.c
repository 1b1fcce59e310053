// SPDX-License-Identifier: Apache-2.0
/*
 * reclaim.c: freed units go back to the array. While the UNMAP is on its way the units are taken in
 * memory (INV-FS-4); their reclaim bits are cleared when it has ended. And the one allocation that is
 * made without a journal: the journal's own place.
 */
#include "clusterfs/groups.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"

#define RUN_UNITS 512u /* 32 MiB in one discard */

/* Groups mutex held: a run that waits for its UNMAP and is free; marks it taken. */
static uint32_t take_reclaimable(struct group *g, uint32_t *at, uint32_t *unit)
{
	uint32_t i = *at, n = 0;

	for (; i < g->units; i++) {
		const struct cfs_bitmap *map = (const void *)g->reclaim[i / CFS_BITMAP_BITS]->data;
		bool want = bit_get(map->bits, i % CFS_BITMAP_BITS) && !bit_get(g->taken, i);

		if (!want && n > 0)
			break;
		if (!want)
			continue;
		if (n == 0)
			*unit = i;
		bit_put(g->taken, i, true);
		if (++n == RUN_UNITS) {
			i++;
			break;
		}
	}
	g->mem_free -= n;
	*at = i;
	return n;
}

static void clear_reclaim(struct cfs_txn *txn, struct group *g, uint32_t unit, uint32_t n)
{
	struct cfs_group *h = group_header(g);

	for (uint32_t i = unit; i < unit + n; i++) {
		struct cfs_buf *buf = g->reclaim[i / CFS_BITMAP_BITS];
		struct cfs_bitmap *map = (struct cfs_bitmap *)buf->data;
		uint32_t bit = i % CFS_BITMAP_BITS;

		bit_put(map->bits, bit, false);
		if (bit % 8 == 7 || i == unit + n - 1 || bit == CFS_BITMAP_BITS - 1)
			cfs_txn_patch(txn, buf, &map->bits[bit / 8], 1);
	}
	h->reclaim_units = le32_of(le32_get(h->reclaim_units) - n);
	cfs_txn_patch(txn, g->header, &h->reclaim_units, 4);
}

static int send_run(struct group *g, uint32_t unit, uint32_t n)
{
	struct cfs *fs = g->fs;
	struct cfs_txn txn;
	uint64_t offset;
	struct blk *blk = cfs_locate(fs, group_unit_vbn(g, unit), &offset);
	int rc = 0;

	if (blk_info(blk)->unmap)
		rc = blk_discard(blk, offset, (uint64_t)n * CFS_UNIT);
	cfs_let_land(fs, rc); /* not upon what is put there next */
	if (rc == 0)
		rc = cfs_txn_begin_wait(fs, &txn);
	if (rc == 0) {
		clear_reclaim(&txn, g, unit, n);
		cfs_txn_end(&txn);
	}
	pthread_mutex_lock(&fs->groups->lock);
	group_untake(g, unit, n);
	pthread_mutex_unlock(&fs->groups->lock);
	return rc;
}

static bool is_held(struct cfs_groups *gs, const struct group *g)
{
	bool held;

	pthread_mutex_lock(&gs->lock);
	held = g->held;
	pthread_mutex_unlock(&gs->lock);
	return held;
}

static int reclaim(struct cfs *fs, uint64_t bytes, bool held_only, uint64_t *done)
{
	struct cfs_groups *gs = fs->groups;
	int rc = 0;

	*done = 0;
	groups_settle(fs);
	for (unsigned i = 0; i < gs->count && *done < bytes && rc == 0; i++) {
		struct group *g = group_nth(gs, i);
		uint32_t at = 0, unit, n;

		if (held_only && !is_held(gs, g))
			continue;
		rc = cfs_group_hold(fs, i);
		if (rc == -EBUSY) {
			rc = 0;
			continue;
		}
		while (rc == 0 && *done < bytes) {
			pthread_mutex_lock(&gs->lock);
			n = take_reclaimable(g, &at, &unit);
			pthread_mutex_unlock(&gs->lock);
			if (n == 0)
				break;
			rc = send_run(g, unit, n);
			if (rc == 0)
				*done += (uint64_t)n * CFS_UNIT;
		}
		cfs_group_unhold(fs, i);
	}
	return rc;
}

int cfs_groups_reclaim(struct cfs *fs, uint64_t bytes, uint64_t *done)
{
	return reclaim(fs, bytes, false, done);
}

int cfs_groups_reclaim_held(struct cfs *fs, uint64_t bytes, uint64_t *done)
{
	return reclaim(fs, bytes, true, done);
}

/* --- the journal's place ------------------------------------------------------------------------------------ */

static uint32_t find_clear_run(struct group *g, uint32_t want)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < g->units; i++) {
		n = bit_get(g->taken, i) ? 0 : n + 1;
		if (n == want)
			return i + 1 - want;
	}
	return 0;
}

/* In place, before there is a journal: bits, header, flush. */
static int mark_in_place(struct cfs *fs, struct group *g, uint32_t unit, uint32_t n)
{
	struct cfs_group *h = group_header(g);
	uint64_t sequence = atomic_fetch_add(&fs->sequence, 1) + 1, power = cfs_power(fs);
	uint32_t waiting = 0;
	int rc = 0;

	for (uint32_t i = unit; i < unit + n; i++) {
		struct cfs_bitmap *map = (void *)g->bitmap[i / CFS_BITMAP_BITS]->data;
		struct cfs_bitmap *reclaim = (void *)g->reclaim[i / CFS_BITMAP_BITS]->data;

		bit_put(map->bits, i % CFS_BITMAP_BITS, true);
		waiting += bit_get(reclaim->bits, i % CFS_BITMAP_BITS);
		bit_put(reclaim->bits, i % CFS_BITMAP_BITS, false);
	}
	h->free_units = le32_of(le32_get(h->free_units) - n);
	h->reclaim_units = le32_of(le32_get(h->reclaim_units) - waiting);
	for (unsigned i = 0; i <= 2 * g->maps && rc == 0; i++) {
		struct cfs_buf *b = i < g->maps	      ? g->bitmap[i]
				    : i < 2 * g->maps ? g->reclaim[i - g->maps]
						      : g->header;

		((struct cfs_head *)b->data)->sequence = le64_of(sequence);
		cfs_block_seal(b->data, b->type, fs->id, b->vbn);
		rc = cfs_write(fs, b->vbn, b->data, CFS_BLOCK, 0);
	}
	return rc < 0 ? rc : cfs_flush_since(fs, power);
}

/* In group `number`: 0 and *vbn set (the group stays held), -ENOSPC, -EBUSY another host has it. */
static int place_in(struct cfs *fs, unsigned number, unsigned wait_ms, uint32_t blocks,
		    uint64_t *vbn)
{
	struct cfs_groups *gs = fs->groups;
	struct group *g = group_nth(gs, number);
	uint32_t want = blocks / CFS_UNIT_BLOCKS, unit;
	int rc = g->held ? cfs_group_hold(fs, number) : group_acquire(g, wait_ms);

	if (rc < 0)
		return rc;
	unit = find_clear_run(g, want);
	rc = -ENOSPC;
	if (unit) {
		*vbn = group_unit_vbn(g, unit);
		rc = cfs_journal_format(fs, *vbn, blocks);
		if (rc == 0)
			rc = mark_in_place(fs, g, unit, want);
		pthread_mutex_lock(&gs->lock);
		for (uint32_t u = unit; rc == 0 && u < unit + want; u++)
			bit_put(g->taken, u, true);
		g->mem_free -= rc == 0 ? want : 0;
		pthread_mutex_unlock(&gs->lock);
	}
	if (rc < 0)
		cfs_group_unhold(fs, number);
	return rc;
}

int cfs_groups_place_journal(struct cfs *fs, uint32_t blocks, uint64_t *vbn)
{
	struct cfs_groups *gs = fs->groups;
	int rc = -ENOSPC;

	/* First where nobody is; then where somebody has to give way. */
	for (unsigned i = 0; i < 2 * gs->count; i++) {
		unsigned number = (fs->slot + i) % gs->count;

		rc = place_in(fs, number, i < gs->count ? 0 : 3000, blocks, vbn);
		if (rc != -ENOSPC && rc != -EBUSY)
			return rc;
	}
	return rc == -EBUSY ? rc
			    : fail(-ENOSPC,
				   "volume %s: no room for this host's journal; grow it or delete "
				   "something",
				   fs->name);
}
