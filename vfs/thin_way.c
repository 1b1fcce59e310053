// SPDX-License-Identifier: Apache-2.0
/*
 * thin_way.c: the ways of a disk's data, one to each extent, as carriers of first writes (fresh.h). While it
 * is open whether such data went with an array's cache, what the map says is not believed: requests wait for
 * a commit, which undoes what is lost, and walk over the map anew.
 */
#include "vfs/thin_impl.h"

#include <stdlib.h>

#include "base/clock.h"

/* --- a commit asks whether a session lives --------------------------------------------------------- */

static void proof_done(struct blk_req *blk, int res)
{
	struct way *way = container_of(blk, struct way, proof);
	struct thin *thin = way->thin;

	cfs_carrier_proved(&way->carrier, res);
	thin->in_flight--;
	thin_idle(thin);
}

static void prove_posted(struct loop_work *work)
{
	struct way *way = container_of(work, struct way, work);

	way->thin->in_flight++;
	way->proof.done = proof_done;
	blk_prep_flush(&way->proof);
	blk_submit(way->carrier.chan, &way->proof);
}

static void prove(struct cfs_carrier *c) /* in the commit thread */
{
	struct way *way = container_of(c, struct way, carrier);

	way->work.fn = prove_posted;
	loop_post(way->thin->disk.loop, &way->work);
}

/* --- ways --------------------------------------------------------------------------------------------- */

struct way *thin_way(struct thin *thin, unsigned extent, struct blk_chan *chan)
{
	struct way *way = thin->way[extent];

	if (way)
		return way;
	way = xcalloc(1, sizeof(*way));
	way->thin = thin;
	cfs_carrier_init(&way->carrier, thin->fs, extent, chan, prove);
	thin->way[extent] = way;
	thin->ways = MAX(thin->ways, extent + 1);
	unflushed_add(thin->unflushed, extent, cfs_lun(thin->fs, extent), chan);
	return way;
}

bool thin_ways_leave(struct thin *thin)
{
	for (unsigned e = 0; e < thin->ways; e++)
		if (thin->way[e] && !cfs_carrier_leave(&thin->way[e]->carrier))
			return false; /* its proof comes by thin_idle */
	for (unsigned e = 0; e < thin->ways; e++)
		free(thin->way[e]);
	thin->ways = 0;
	return true;
}

uint64_t thin_undone(const struct thin *thin)
{
	uint64_t n = 0;

	for (unsigned e = 0; e < thin->ways; e++)
		if (thin->way[e])
			n += cfs_carrier_undone(&thin->way[e]->carrier);
	return n;
}

/* --- requests that wait until it is settled -------------------------------------------------------------- */

bool thin_suspect(const struct thin *thin)
{
	for (unsigned e = 0; e < thin->ways; e++)
		if (thin->way[e] && cfs_carrier_suspect(&thin->way[e]->carrier))
			return true;
	return false;
}

static void settled(struct loop_work *work)
{
	struct thin *thin = container_of(work, struct thin, settle_work);

	thin->settling = false;
	if (thin->settled >= 0)
		thin_wake(&thin->unsure);
	else if (!thin->retry.armed)
		loop_timer_arm(thin->disk.loop, &thin->retry,
			       clock_boot_ns() + THIN_RETRY_MS * NS_PER_MS);
	thin->in_flight--;
	thin_idle(thin);
}

static void settle_done(struct cfs_commit *commit, int res) /* in the commit thread */
{
	struct thin *thin = container_of(commit, struct thin, settle_commit);

	thin->settled = res;
	loop_post(thin->disk.loop, &thin->settle_work);
}

static void begin_commit(struct thin *thin)
{
	thin->settling = true;
	thin->in_flight++;
	thin->settle_work.fn = settled;
	thin->settle_commit.done = settle_done;
	cfs_commit(thin->fs, &thin->settle_commit);
}

void thin_settle(struct thin *thin)
{
	if (!thin->settling && !list_empty(&thin->unsure))
		begin_commit(thin);
}

static bool any_waits(const struct thin *thin)
{
	for (unsigned e = 0; e < thin->ways; e++)
		if (thin->way[e] && cfs_carrier_waits(&thin->way[e]->carrier))
			return true;
	return false;
}

bool thin_ways_commit(struct thin *thin)
{
	if (thin->last_commit || !any_waits(thin))
		return true;
	thin->last_commit = true;
	begin_commit(thin);
	return false;
}
