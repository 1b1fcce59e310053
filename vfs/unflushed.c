// SPDX-License-Identifier: Apache-2.0
/* unflushed.c: a few numbers for each LUN; see the header for what they prove. */
#include "vfs/unflushed.h"

#include <errno.h>
#include <stdlib.h>

#include "base/util.h"
#include "blockdev/blk.h"

struct lun {
	struct blk *blk;
	struct blk_chan *chan; /* NULL: nothing to lose */
	uint64_t base;	       /* count of the channel, when it was added */
	uint64_t power;	       /* of the channel, when the write `first` ended */
	uint64_t witness;      /* count of the flushing session, up to which all is known */
	uint64_t first, last;  /* writes that are not flushed; 0: none */
	uint64_t fua; /* the last that is durable when answered, and not flushed yet; 0: none */
};

struct unflushed {
	uint64_t writes; /* that have ended */
	uint64_t turns;	 /* flushes that have begun */
	uint64_t failed; /* flushes up to this one report a loss */
	unsigned max, n; /* LUNs: room for, and the last one that was added, plus one */
	struct lun lun[];
};

void unflushed_create(struct unflushed **out, unsigned n)
{
	struct unflushed *u = xcalloc(1, sizeof(*u) + n * sizeof(u->lun[0]));

	u->max = n;
	*out = u;
}

void unflushed_destroy(struct unflushed *u)
{
	free(u);
}

void unflushed_add(struct unflushed *u, unsigned i, struct blk *blk, struct blk_chan *chan)
{
	MUST(i < u->max);
	u->n = MAX(u->n, i + 1);
	if (blk && !blk_info(blk)->write_cache)
		return;
	u->lun[i] = (struct lun){.blk = blk,
				 .chan = chan,
				 .base = blk_chan_power_count(chan),
				 .witness = blk ? blk_session_count(blk) : 0};
}

void unflushed_wrote(struct unflushed *u, unsigned i)
{
	struct lun *lun = &u->lun[i];

	u->writes++;
	if (!lun->chan)
		return;
	if (!lun->first) {
		lun->first = u->writes;
		lun->power = blk_chan_power_count(lun->chan);
	}
	lun->last = u->writes;
}

void unflushed_wrote_fua(struct unflushed *u, unsigned i)
{
	u->writes++;
	if (u->lun[i].chan)
		u->lun[i].fua = u->writes;
}

uint64_t unflushed_power(const struct unflushed *u)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < u->n; i++)
		if (u->lun[i].chan)
			sum += blk_chan_power_count(u->lun[i].chan) - u->lun[i].base;
	return sum;
}

void unflushed_begin(struct unflushed *u, struct unflushed_mark *mark)
{
	*mark = (struct unflushed_mark){.turn = ++u->turns, .writes = u->writes};
}

static bool lost(const struct lun *lun, uint64_t writes)
{
	return lun->first && lun->first <= writes && lun->power != blk_chan_power_count(lun->chan);
}

uint64_t unflushed_witness(const struct unflushed *u, unsigned i)
{
	return u->lun[i].blk ? blk_session_count(u->lun[i].blk) : 0;
}

int unflushed_unproved(const struct unflushed *u, unsigned *i)
{
	for (*i = 0; *i < u->n; (*i)++) {
		const struct lun *lun = &u->lun[*i];

		if ((lun->first || lun->fua) && lun->witness != unflushed_witness(u, *i))
			return -EAGAIN;
	}
	return 0;
}

void unflushed_proved(struct unflushed *u, unsigned i, uint64_t witness)
{
	u->lun[i].witness = witness;
}

/*
 * The flushes that have begun by now end with -EIO. What was written since stays to be flushed, in the cache
 * that there is now.
 */
static void tell(struct unflushed *u)
{
	u->failed = u->turns;
	for (unsigned i = 0; i < u->n; i++)
		if (u->lun[i].first)
			u->lun[i].power = blk_chan_power_count(u->lun[i].chan);
}

bool unflushed_any(const struct unflushed *u)
{
	for (unsigned i = 0; i < u->n; i++)
		if (u->lun[i].first)
			return true;
	return false;
}

void unflushed_retire(struct unflushed *u, const struct unflushed_mark *mark)
{
	for (unsigned n = 0; n < u->n; n++) {
		struct lun *lun = &u->lun[n];

		if (lun->fua <= mark->writes)
			lun->fua = 0;
		if (!lun->first || lost(lun, mark->writes))
			continue;
		if (lun->last <= mark->writes)
			lun->first = 0;
		else if (lun->first <= mark->writes)
			lun->first = mark->writes + 1; /* its count is still that of now */
	}
}

int unflushed_end(struct unflushed *u, const struct unflushed_mark *mark, unsigned *i, bool *first)
{
	*first = false;
	if (mark->turn <= u->failed)
		return -EIO;
	for (unsigned n = 0; n < u->n; n++)
		if (lost(&u->lun[n], mark->writes)) {
			*i = n;
			*first = true;
			tell(u);
			return -EIO;
		}
	if (unflushed_unproved(u, i) < 0)
		return -EAGAIN;
	unflushed_retire(u, mark);
	return 0;
}
