// SPDX-License-Identifier: Apache-2.0
/*
 * thin_zero.c: DISCARD and WRITE ZEROES: grains become "zero" in the map; nothing is written but for
 * the parts of grains at the ends. A unit that is all zero is given back later (leaf_reap_later), when
 * nothing is in flight to it any more (INV-FS-4); until then its entry goes on naming it.
 */
#include <errno.h>

#include "vfs/thin_impl.h"

#include "base/err.h"

/* The part of a grain at the request's position, up to the grain's end or the request's. */
static int zero_part(struct vfs_req *req, struct leaf *leaf, unsigned slot,
		     const struct cfs_entry *e)
{
	struct thin_req *t = thin_req(req);
	uint64_t end = req->offset + req->length;
	size_t bytes = (size_t)MIN(THIN_GRAIN - t->at % THIN_GRAIN, end - t->at);
	unsigned grain = (unsigned)(t->at % CFS_UNIT / THIN_GRAIN);

	if (cfs_entry_grain(e, grain) == CFS_GRAIN_BLOCK && e->block)
		thin_write_zeroes(req, leaf, slot, e->block, bytes);
	else
		thin_skip(req, bytes);
	return STEP_MORE;
}

/* Whole grains of entry `slot` in [at, end): its new state; false when nothing changes. */
static bool zero_entry(struct cfs_entry *e, uint64_t unit, uint64_t at, uint64_t end)
{
	uint64_t first = MAX(at, unit * CFS_UNIT) - unit * CFS_UNIT;
	uint64_t last = MIN(end, (unit + 1) * CFS_UNIT) - unit * CFS_UNIT;
	uint32_t before = e->state;

	for (uint64_t g = first / THIN_GRAIN; g < last / THIN_GRAIN; g++)
		e->state &= ~(3u << (2 * g));
	return e->state != before;
}

/*
 * Whole grains from the position on, as far as entries of this leaf go that nobody else is changing;
 * one transaction.
 */
static int zero_grains(struct vfs_req *req, struct leaf *leaf, unsigned slot)
{
	struct thin_req *t = thin_req(req);
	struct thin *thin = t->thin;
	bool unmap = req->op == VFS_DISCARD || (req->flags & VFS_MAY_UNMAP);
	uint64_t end = ROUND_DOWN(req->offset + req->length, THIN_GRAIN), unit = t->at / CFS_UNIT;
	struct cfs_txn txn;
	unsigned i;

	if (cfs_txn_begin(thin->fs, &txn) < 0) {
		if (thin->closed)
			return -ESTALE;
		thin_wait(&thin->zero_room, req);
		thin_ask_room(thin);
		return STEP_WAIT;
	}
	for (i = slot; i < CFS_LEAF_ENTRIES && (unit + i - slot) * CFS_UNIT < end; i++) {
		struct cfs_entry e;

		if (bitmap_get(leaf->busy, i))
			break;
		leaf_entry(leaf, i, &e);
		if ((e.block || e.below) && zero_entry(&e, unit + i - slot, t->at, end)) {
			e.birth = cfs_map_generation(thin->map);
			cfs_map_set(&txn, thin->map, leaf->buf, i, &e);
		}
		if (e.block && e.state == 0 && unmap)
			leaf_reap_later(thin, leaf, i);
	}
	cfs_txn_end(&txn);
	thin_skip(req, MIN(end, (unit + i - slot) * CFS_UNIT) - t->at);
	leaf_reap_run(thin);
	return STEP_MORE;
}

int thin_step_zero(struct vfs_req *req)
{
	struct thin_req *t = thin_req(req);
	struct thin *thin = t->thin;
	uint64_t unit = t->at / CFS_UNIT, left = req->offset + req->length - t->at;
	unsigned slot = (unsigned)(unit % CFS_LEAF_ENTRIES);
	struct cfs_entry e;
	struct leaf *leaf;
	int rc = leaf_get(thin, unit / CFS_LEAF_ENTRIES, false, req, &leaf);

	if (rc != STEP_MORE)
		return rc;
	if (!leaf->buf) {
		thin_skip(req, MIN(left, (uint64_t)(CFS_LEAF_ENTRIES - slot) * CFS_UNIT -
						 t->at % CFS_UNIT));
		return STEP_MORE;
	}
	if (bitmap_get(leaf->busy, slot)) {
		thin_wait(&leaf->waiters, req);
		return STEP_WAIT;
	}
	leaf_entry(leaf, slot, &e);
	if (t->at % THIN_GRAIN || left < THIN_GRAIN)
		return zero_part(req, leaf, slot, &e);
	return zero_grains(req, leaf, slot);
}
