// SPDX-License-Identifier: Apache-2.0
/*
 * fault.c: the filter that does harm. A request that a fault strikes is answered here, later or
 * wrongly; what goes down instead is a child request of our own. All in the channel's thread.
 */
#include "blockdev/fault.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "blockdev/fault_cache.h"
#include "blockdev/fault_table.h"
#include "blockdev/node.h"

/* How often a hanging request asks whether its fault was cleared. */
#define ASK_MS 10

struct fault_blk {
	struct blk node;
	struct fault_node entry;
	struct fault_cache *cache;
	_Atomic bool losing; /* the power is off */
};

struct fault_chan {
	struct blk_chan chan;
	struct list victims; /* struct victim.link */
};

struct victim {
	struct blk_req req;   /* what goes down, if anything does */
	struct blk_req *orig; /* to be answered; NULL when it has been */
	struct blk_chan *chan;
	struct fault_strike strike;
	struct loop_timer timer;
	uint64_t deadline_ns; /* when the answer's time is over */
	bool below;	      /* `req` is in flight */
	uint64_t mark;	      /* VOLATILE, a flush: what it makes durable */
	struct list link;
	struct iovec iov[2]; /* of what is torn or late */
	uint8_t *copy;
};

static struct fault_blk *of(struct blk *blk)
{
	return container_of(blk, struct fault_blk, node);
}

static unsigned op_bit(enum blk_op op)
{
	switch (op) {
	case BLK_READ:
		return FAULT_READ;
	case BLK_WRITE:
	case BLK_DISCARD:
	case BLK_WRITE_ZEROES:
		return FAULT_WRITE;
	case BLK_CAS:
		return FAULT_CAS;
	case BLK_FLUSH:
		return FAULT_FLUSH;
	case BLK_SCSI:
	case BLK_OPS:
		break;
	}
	return 0;
}

static void victim_free(struct victim *v)
{
	loop_timer_cancel(&v->timer);
	list_del(&v->link);
	free(v->copy);
	free(v);
}

static void victim_answer(struct victim *v, int res, bool maybe_done)
{
	struct blk_req *orig = v->orig;

	v->orig = NULL;
	orig->maybe_done = maybe_done;
	blk_complete(orig, res);
}

/* The request goes down after all; its answer does not come by here. */
static void victim_release(struct victim *v)
{
	struct blk_req *orig = v->orig;
	struct blk_chan *chan = v->chan;

	victim_free(v);
	blk_pass(chan, orig);
}

static void send_below(struct victim *v)
{
	v->below = true;
	blk_submit(v->chan->lower, &v->req);
}

static void arm(struct victim *v, uint64_t ms)
{
	loop_timer_arm(v->chan->loop, &v->timer, clock_boot_ns() + ms * NS_PER_MS);
}

static void arm_deadline(struct victim *v)
{
	loop_timer_arm(v->chan->loop, &v->timer, v->deadline_ns);
}

/* --- what each kind does in time -------------------------------------------------------------- */

static void timer_fired(struct loop_timer *timer)
{
	struct victim *v = container_of(timer, struct victim, timer);
	bool changes;

	if (v->strike.kind == FAULT_POWER_LOSS && atomic_load(&of(v->chan->blk)->losing)) {
		arm(v, ASK_MS);
		return;
	}
	if (v->strike.kind == FAULT_DELAY || v->strike.kind == FAULT_POWER_LOSS) {
		victim_release(v);
		return;
	}
	if (v->strike.kind == FAULT_HANG || v->strike.kind == FAULT_DROP) {
		if (!fault_table_stands(v->strike.id)) {
			victim_release(v);
			return;
		}
		if (clock_boot_ns() < v->deadline_ns) {
			arm(v, ASK_MS);
			return;
		}
	}
	if (!v->orig) { /* a late write, its answer given long ago */
		send_below(v);
		return;
	}
	changes = blk_op_changes(v->orig->op);
	victim_answer(v, -ETIMEDOUT, changes);
	if (v->strike.kind == FAULT_LATE_WRITE)
		arm(v, v->strike.value);
	else
		victim_free(v);
}

static void corrupt(struct victim *v)
{
	uint64_t at = v->strike.random % v->orig->length;

	for (int i = 0; i < v->orig->iovcnt; i++) {
		const struct iovec *iov = &v->orig->iov[i];

		if (at < iov->iov_len) {
			((uint8_t *)iov->iov_base)[at] ^= 0x40;
			return;
		}
		at -= iov->iov_len;
	}
}

/* VOLATILE: a plain write's old content has been read; anything else has been done. */
static void volatile_done(struct victim *v, int res)
{
	struct fault_cache *cache = of(v->chan->blk)->cache;
	struct blk_req *orig = v->orig;

	if (orig->op == BLK_WRITE && !(orig->flags & BLK_FUA)) {
		if (res == 0)
			fault_cache_keep(cache, orig->offset, v->copy, orig->length);
		victim_release(v);
		return;
	}
	if (res == 0 && orig->op == BLK_FLUSH)
		fault_cache_flushed(cache, v->mark);
	else if (res == 0)
		fault_cache_forget(cache, orig->offset, orig->length);
	victim_answer(v, res, v->req.maybe_done);
	victim_free(v);
}

/* NO_SPACE: what lies there has been read. Where there is nothing yet, the array would have to find space. */
static void no_space_done(struct victim *v, int res)
{
	static const uint8_t zero[4096];
	uint64_t n = v->orig->length;
	bool fresh = false;

	for (uint64_t at = 0; res == 0 && at < n && !fresh; at += sizeof(zero))
		fresh = memcmp(v->copy + at, zero, (size_t)MIN(n - at, sizeof(zero))) == 0;
	if (res == 0 && !fresh) {
		victim_release(v);
		return;
	}
	victim_answer(v, res ? res : -ENOSPC, false);
	victim_free(v);
}

static void below_done(struct blk_req *req, int res)
{
	struct victim *v = container_of(req, struct victim, req);

	v->below = false;
	switch (v->strike.kind) {
	case FAULT_CORRUPT:
		if (res == 0)
			corrupt(v);
		victim_answer(v, res, false);
		victim_free(v);
		return;
	case FAULT_LATE_WRITE:
		victim_free(v);
		return;
	case FAULT_VOLATILE:
		volatile_done(v, res);
		return;
	case FAULT_NO_SPACE:
		no_space_done(v, res);
		return;
	case FAULT_LOST_ANSWER:
	case FAULT_TEAR:
		if (res == -ESTALE) { /* nothing was sent: nothing to lose */
			victim_answer(v, res, false);
			victim_free(v);
		} else {
			arm_deadline(v);
		}
		return;
	case FAULT_FAIL:
	case FAULT_HANG:
	case FAULT_DELAY:
	case FAULT_DROP:
	case FAULT_FLAP:
	case FAULT_FORGET_KEYS:
	case FAULT_POWER_LOSS:
	case FAULT_NO_RESERVATIONS:
	case FAULT_KINDS:
		break;
	}
	MUST(!"a kind that sends below");
}

/* --- beginnings ------------------------------------------------------------------------------- */

static void copy_data(struct victim *v)
{
	struct blk_req *req = &v->req;
	size_t at = 0, total = 0;

	for (int i = 0; i < v->orig->iovcnt; i++)
		total += v->orig->iov[i].iov_len;
	if (!total)
		return;
	v->copy = xaligned(4096, total);
	for (int i = 0; i < v->orig->iovcnt; i++) {
		memcpy(v->copy + at, v->orig->iov[i].iov_base, v->orig->iov[i].iov_len);
		at += v->orig->iov[i].iov_len;
	}
	v->iov[0] = (struct iovec){v->copy, req->op == BLK_CAS ? req->length : total};
	v->iov[1] = (struct iovec){v->copy + req->length, req->length};
	req->iov = v->iov;
	req->iovcnt = req->op == BLK_CAS ? 2 : 1;
}

/* A random, true part of its blocks, from the beginning on. */
static void tear(struct victim *v)
{
	uint64_t block = v->chan->blk->info.block_size, blocks = v->orig->length / block;
	uint64_t keep = v->strike.random % blocks;

	if (!keep) {
		arm_deadline(v);
		return;
	}
	if (v->req.op == BLK_WRITE) {
		copy_data(v);
		v->iov[0].iov_len = keep * block;
	}
	v->req.length = keep * block;
	send_below(v);
}

/* A write: what lies there is read first. */
static void read_before(struct victim *v)
{
	struct blk_req *req = &v->req;

	v->copy = xaligned(4096, req->length);
	v->iov[0] = (struct iovec){v->copy, req->length};
	blk_prep_rw(req, BLK_READ, req->offset, v->iov, 1, req->length, 0);
}

static void send_volatile(struct victim *v)
{
	if (v->req.op == BLK_WRITE && !(v->req.flags & BLK_FUA))
		read_before(v);
	v->mark = fault_cache_mark(of(v->chan->blk)->cache);
	send_below(v);
}

static void strike(struct victim *v)
{
	switch (v->strike.kind) {
	case FAULT_FAIL:
		victim_answer(v, -EIO, false);
		victim_free(v);
		return;
	case FAULT_FLAP:
		victim_answer(v, -ENOTCONN, false);
		victim_free(v);
		return;
	case FAULT_HANG:
	case FAULT_DROP:
	case FAULT_POWER_LOSS: /* it is off: as if its session came up when it is on again */
		arm(v, ASK_MS);
		return;
	case FAULT_DELAY:
		arm(v, v->strike.value);
		return;
	case FAULT_CORRUPT:
	case FAULT_LOST_ANSWER:
		send_below(v);
		return;
	case FAULT_TEAR:
		tear(v);
		return;
	case FAULT_VOLATILE:
		send_volatile(v);
		return;
	case FAULT_NO_SPACE:
		if (v->req.op != BLK_WRITE) {
			victim_release(v);
			return;
		}
		read_before(v);
		send_below(v);
		return;
	case FAULT_LATE_WRITE:
		if (blk_gate_shut(blk_lowest(v->chan->blk), v->orig)) {
			victim_answer(v, -ESTALE, false);
			victim_free(v);
			return;
		}
		copy_data(v);
		v->req.flags |= BLK_UNGATED; /* it passed the gate when it was sent */
		arm_deadline(v);
		return;
	case FAULT_FORGET_KEYS:
	case FAULT_NO_RESERVATIONS:
	case FAULT_KINDS:
		break;
	}
	MUST(!"a kind that strikes requests");
}

static bool struck(struct fault_blk *f, const struct blk_req *req, struct fault_strike *found)
{
	if (atomic_load(&f->losing)) {
		*found = (struct fault_strike){.kind = FAULT_POWER_LOSS};
		return true;
	}
	return fault_table_any() &&
	       fault_table_strike(&f->entry, op_bit(req->op), req->offset, req->length, found);
}

static void fault_submit(struct blk_chan *chan, struct blk_req *req)
{
	struct fault_chan *fc = container_of(chan, struct fault_chan, chan);
	struct fault_strike found;
	struct victim *v;

	if (!struck(of(chan->blk), req, &found)) {
		blk_pass(chan, req);
		return;
	}
	v = xcalloc(1, sizeof(*v));
	v->orig = req;
	v->chan = chan;
	v->strike = found;
	v->timer.fn = timer_fired;
	v->deadline_ns = clock_boot_ns() + blk_chan_timeout_ms(chan) * NS_PER_MS;
	v->req.done = below_done;
	blk_prep_rw(&v->req, req->op, req->offset, req->iov, req->iovcnt, req->length, req->flags);
	list_add_tail(&fc->victims, &v->link);
	strike(v);
}

/* --- the node --------------------------------------------------------------------------------- */

static int fault_chan_open(struct blk_chan *chan)
{
	list_init(&container_of(chan, struct fault_chan, chan)->victims);
	return 0;
}

/* Late writes that have not landed yet never will: their host has gone. */
static void fault_chan_close(struct blk_chan *chan)
{
	struct fault_chan *fc = container_of(chan, struct fault_chan, chan);
	struct victim *v, *next;

	list_for_each_safe (v, next, &fc->victims, link) {
		MUST(!v->orig); /* nothing may be in flight */
		if (!v->below)
			victim_free(v);
	}
	while (!list_empty(&fc->victims))
		MUST(loop_turn(chan->loop, UINT64_MAX) == 0);
}

static void fault_hide(struct fault_node *entry, bool hidden)
{
	struct blk *blk = &container_of(entry, struct fault_blk, entry)->node;

	/* The baton stays: it is this layer's own affair. */
	blk->info.reservations = !hidden && blk->lower->info.reservations;
	blk->info.preempt_abort = !hidden && blk->lower->info.preempt_abort;
}

static int fault_forget_keys(struct fault_node *entry)
{
	struct blk *lowest = blk_lowest(&container_of(entry, struct fault_blk, entry)->node);

	if (!lowest->ops->pr_clear)
		return fail(-EOPNOTSUPP, "LUN %s: has no reservations to forget",
			    lowest->info.name);
	return lowest->ops->pr_clear(lowest);
}

/*
 * Counted before it is true: whoever is told "flushed" from now on sees that the count has changed. And what is
 * sent under the new count is not lost with what was there before.
 */
static int fault_power_loss(struct fault_node *entry)
{
	struct fault_blk *f = container_of(entry, struct fault_blk, entry);
	int rc;

	atomic_store(&f->losing, true);
	atomic_fetch_add(&f->node.power_count, 1);
	blk_reset(f->node.lower);
	rc = fault_cache_lose(f->cache, f->node.lower);
	atomic_store(&f->losing, false);
	return rc;
}

static int hidden(struct blk *blk)
{
	if (!fault_table_hides_reservations(&of(blk)->entry))
		return 0;
	return fail(-EOPNOTSUPP, "LUN %s: reservations are hidden by a fault", blk->info.name);
}

static int fault_pr_register(struct blk *blk, uint64_t key, int (*look)(void *arg), void *arg)
{
	int rc = hidden(blk);

	return rc ? rc : blk_pr_register(blk->lower, key, look, arg);
}

static int fault_pr_unregister(struct blk *blk)
{
	int rc = hidden(blk);

	return rc ? rc : blk_pr_unregister(blk->lower);
}

static int fault_pr_reserve(struct blk *blk, enum blk_pr_type type)
{
	int rc = hidden(blk);

	return rc ? rc : blk_pr_reserve(blk->lower, type);
}

static int fault_pr_preempt(struct blk *blk, enum blk_pr_type type, uint64_t victim_key)
{
	int rc = hidden(blk);

	return rc ? rc : blk_pr_preempt(blk->lower, type, victim_key);
}

static int fault_pr_read(struct blk *blk, struct blk_pr_state *out)
{
	int rc = hidden(blk);

	return rc ? rc : blk_pr_read(blk->lower, out);
}

static int fault_rescan(struct blk *blk)
{
	fault_hide(&of(blk)->entry, fault_table_hides_reservations(&of(blk)->entry));
	return 0;
}

static void fault_close(struct blk *blk)
{
	fault_table_leave(&of(blk)->entry);
	fault_cache_destroy(of(blk)->cache);
}

static const struct blk_ops fault_ops = {
	.chan_size = sizeof(struct fault_chan),
	.close = fault_close,
	.rescan = fault_rescan,
	.chan_open = fault_chan_open,
	.chan_close = fault_chan_close,
	.submit = fault_submit,
	.pr_register = fault_pr_register,
	.pr_unregister = fault_pr_unregister,
	.pr_reserve = fault_pr_reserve,
	.pr_preempt = fault_pr_preempt,
	.pr_read = fault_pr_read,
};

int blk_fault_wrap(struct blk *lower, struct blk **out)
{
	struct fault_blk *f = xcalloc(1, sizeof(*f));
	int rc = blk_filter_start(&f->node, &fault_ops, lower);

	f->entry.name = f->node.info.name;
	f->entry.id = f->node.info.id;
	f->entry.forget_keys = fault_forget_keys;
	f->entry.power_loss = fault_power_loss;
	fault_cache_create(&f->cache, lower->info.block_size);
	f->entry.hide = fault_hide;
	list_init(&f->entry.link);
	if (rc < 0) {
		blk_node_free(&f->node);
		return rc;
	}
	fault_table_join(&f->entry);
	(void)fault_rescan(&f->node);
	*out = &f->node;
	return 0;
}
