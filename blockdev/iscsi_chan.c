// SPDX-License-Identifier: Apache-2.0
/*
 * iscsi_chan.c: the data path of an iSCSI LUN: a session in a loop.
 *
 * States of a channel: UP (a session, watched by the loop), BRINGING (a thread connects, logs in,
 * registers, looks: it may wait, the loop does not), DOWN. Requests wait in a list until the channel
 * is UP. A request that is not answered in time takes the session down, and everything that was
 * given to it is answered -ENOTCONN, maybe_done; nothing is sent again on another session by us
 * (INV-BLK-1). What the target itself has ended with a status (attention, busy) is sent again here.
 *
 * A LUN that is passed through to one user (BLK_SCSI) keeps to the user what the target says, attentions
 * of a new session too. What is lost with a session is answered when the next one is up: by its name and ISID it
 * has drained the old one (or the flight time is over), so that the user may do it again (INV-BLK-1). What
 * was not sent waits as long as it takes.
 *
 * All in the loop's thread but the bringing thread, which owns the session while it runs, and posts.
 * Those who post hold the anchor, which outlives the channel while a post is on its way.
 */
#include "blockdev/iscsi.h"

#include <errno.h>
#include <poll.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "blockdev/baton.h"

#define TICK_MS	       20  /* busy targets are asked again, time-outs noticed, this often */
#define BRING_PAUSE_MS 100 /* between a failed attempt to come up and the next */
#define UNREGISTER_MS  1000
#define MAX_FLYING     256  /* a session's commands given to libiscsi at once */
#define PASS_PAUSE_MS  1000 /* as BRING_PAUSE_MS, where nobody is waiting for an error */
#define PASS_FLIGHT_MS 3000 /* as a volume's flight time */
#define PASS_RW_MS     30000 /* a READ or WRITE that is passed through is lost with its session then */
#define PASS_OTHER_MS  600000 /* other commands may take that long */

enum state { DOWN, BRINGING, UP };

/* What was posted to a channel. */
enum { POST_ATTACH = 1, POST_BROUGHT = 2, POST_RESET = 4, POST_UNREGISTER = 8 };

struct anchor {
	struct loop_work work;	 /* posted */
	struct loop_work flush;	 /* deferred: serves what was queued in this turn */
	struct iscsi_chan *chan; /* NULL: it was closed; the last work frees the anchor */
	struct loop *loop;
	_Atomic unsigned posts;
	sem_t unregistered;
};

/* The poll in the kernel outlives the session it was for. */
struct watch {
	struct loop_watch watch;
	struct iscsi_chan *chan;
};

struct iscsi_chan {
	struct blk_chan chan;
	enum state state;
	struct isess *sess; /* UP: ours; BRINGING: the thread's */
	struct watch *watch;
	struct anchor *anchor;
	struct list waiting; /* struct ireq.link, by age */
	struct list later;   /* to be sent again at the next tick */
	struct list flying;  /* given to libiscsi */
	struct list lost;    /* passed through: went with a session, see lost_until_ns */
	uint64_t lost_until_ns;
	unsigned nflying;
	bool dropping; /* callbacks only collect */
	struct loop_timer tick;
	pthread_t thread; /* BRINGING */
	int brought;	  /* its result */
	struct err_info brought_err;
	uint64_t last_try_ns;
};
_Static_assert(sizeof(struct iscsi_chan) <= ISCSI_CHAN_SIZE, "ISCSI_CHAN_SIZE");

struct ireq {
	struct list link;
	struct blk_req *req;
	struct iscsi_chan *chan;
	struct scsi_task *task;
	uint64_t deadline_ns;
	uint64_t power;	   /* the count when it came; FLUSH: when it began */
	struct iovec data; /* UNMAP's and WRITE SAME's */
	uint8_t list[24];  /* UNMAP's parameter list */
	bool syncing;	   /* the write is done, SYNCHRONIZE CACHE stands for its FUA */
};

static const uint8_t zero_block[4096];

static struct iscsi_chan *of(struct blk_chan *chan)
{
	return container_of(chan, struct iscsi_chan, chan);
}

static struct iscsi_blk *blk_of(struct iscsi_chan *c)
{
	return iscsi_of(c->chan.blk);
}

static void kick(struct iscsi_chan *c);
static void drop(struct iscsi_chan *c, const char *why);

/* --- answers ---------------------------------------------------------------------------------- */

static void answer(struct ireq *ir, int res, bool maybe_done)
{
	struct blk_req *req = ir->req;

	req->maybe_done = maybe_done && blk_op_changes(req->op);
	blk_complete(req, res);
}

static bool passed(const struct iscsi_chan *c)
{
	return c->chan.blk->options.pass;
}

static bool gate_shut(struct ireq *ir)
{
	if ((ir->req->flags & BLK_STANDING) &&
	    ir->power != atomic_load_explicit(&ir->chan->chan.power_count, memory_order_relaxed))
		return true;
	return blk_gate_shut(ir->chan->chan.blk, ir->req);
}

/* A status that ended a command for good; some of it may have been executed. */
static void end_with_status(struct ireq *ir, uint8_t status, const struct scsi_sense_data *sense)
{
	struct blk_req *req = ir->req;
	int res = scsi_errno(status, sense);
	bool executed = res == -EIO || res == -ENOSPC || ir->syncing;

	if (res == -EOPNOTSUPP && req->op == BLK_WRITE_ZEROES) {
		blk_of(ir->chan)->node.info.write_same = false;
		blk_write_zeroes_plainly(&ir->chan->chan, req);
		return;
	}
	if (res != -EILSEQ && res != -EBADE)
		log_warn("blk", "LUN %s: status %02xh, sense %x/%02x/%02x at byte %llu",
			 ir->chan->chan.blk->info.name, status, sense->key, sense->asc, sense->ascq,
			 (unsigned long long)req->offset);
	answer(ir, res, executed);
}

static void good(struct ireq *ir, const struct scsi_task *task)
{
	struct iscsi_blk *blk = blk_of(ir->chan);
	struct blk_req *req = ir->req;
	bool fua = req->op == BLK_CAS	  ? blk->limits.cas_fua
		   : req->flags & BLK_FUA ? blk->limits.fua && req->op == BLK_WRITE
					  : true;

	if (req->op == BLK_READ && task->residual_status == SCSI_RESIDUAL_UNDERFLOW &&
	    task->residual) {
		answer(ir, -EIO, false);
		return;
	}
	/* A cache that was lost meanwhile has lost what this flush was for (review 1.16). */
	if ((req->op == BLK_FLUSH || ir->syncing) &&
	    ir->power != atomic_load(&ir->chan->chan.power_count)) {
		answer(ir, -EIO, true);
		return;
	}
	if (!fua && !ir->syncing && blk->node.info.write_cache) {
		ir->syncing = true;
		ir->power = atomic_load(&ir->chan->chan.power_count);
		list_add_tail(&ir->chan->waiting, &ir->link);
		kick(ir->chan);
		return;
	}
	answer(ir, 0, false);
}

static void again(struct ireq *ir, enum scsi_resend how)
{
	bool ended = how == SCSI_RESEND_ENDED;

	if (ended && (ir->req->op == BLK_CAS || ir->syncing)) {
		answer(ir, -EIO, true); /* perhaps executed: a second one would miscompare */
	} else if (gate_shut(ir)) {
		answer(ir, -ESTALE, ended);
	} else if (clock_boot_ns() >= ir->deadline_ns) {
		answer(ir, -ETIMEDOUT, ended);
	} else {
		list_add_tail(how == SCSI_RESEND ? &ir->chan->waiting : &ir->chan->later,
			      &ir->link);
		kick(ir->chan);
	}
}

/* libiscsi keeps raw sense data behind their length where data would lie. */
static void take_sense(struct blk_scsi *s, const struct scsi_task *task)
{
	if (task->status != SCSI_STATUS_CHECK_CONDITION || task->datain.size < 2)
		return;
	s->sense_bytes = MIN((unsigned)be16_get(task->datain.data),
			     MIN((unsigned)task->datain.size - 2, BLK_SENSE_MAX));
	memcpy(s->sense, task->datain.data + 2, s->sense_bytes);
}

static void hand_up(struct ireq *ir, uint8_t status, const struct scsi_task *task)
{
	struct blk_scsi *s = ir->req->scsi;
	uint64_t missing = task->residual_status == SCSI_RESIDUAL_UNDERFLOW ? task->residual : 0;

	s->status = status;
	take_sense(s, task);
	s->moved = ir->req->length - MIN(missing, ir->req->length);
	s->overrun = task->residual_status == SCSI_RESIDUAL_OVERFLOW;
	answer(ir, 0, false);
}

static void command_done(struct iscsi_context *ctx, int status, void *data, void *private_data)
{
	struct ireq *ir = private_data;
	struct iscsi_chan *c = ir->chan;
	struct scsi_task *task = data;
	struct scsi_sense_data sense;
	enum scsi_resend how;

	(void)ctx;
	if (c->dropping)
		return;			   /* drop() answers what is flying */
	if (status < 0 || status > 0xff) { /* libiscsi lost the connection: so do we, soon */
		c->sess->lost = true;
		loop_defer(c->chan.loop, &c->anchor->flush);
		return;
	}
	sense = (struct scsi_sense_data){.key = (uint8_t)task->sense.key,
					 .asc = (uint8_t)(task->sense.ascq >> 8),
					 .ascq = (uint8_t)task->sense.ascq};
	list_del(&ir->link);
	c->nflying--;
	if (scsi_power_loss((uint8_t)status, &sense))
		atomic_fetch_add(&c->chan.power_count, 1);
	ir->task = NULL;
	how = scsi_resend((uint8_t)status, &sense);
	if (ir->req->op == BLK_SCSI)
		hand_up(ir, (uint8_t)status, task);
	else if (status == SCSI_GOOD)
		good(ir, task);
	else if (how != SCSI_FINAL)
		again(ir, how);
	else
		end_with_status(ir, (uint8_t)status, &sense);
	scsi_free_scsi_task(task);
	if (!list_empty(&c->waiting))
		kick(c);
}

/* --- sending ---------------------------------------------------------------------------------- */

static void cdb_range(uint8_t *cdb, const struct ireq *ir)
{
	uint32_t block = ir->chan->chan.blk->info.block_size;

	be64_put(cdb + 2, ir->req->offset / block);
	be32_put(cdb + 10, (uint32_t)(ir->req->length / block));
}

/* Fills in the CDB; returns the data's direction, *length its bytes, and iovecs. */
static int build(struct ireq *ir, uint8_t *cdb, unsigned *cdb_length, const struct iovec **iov,
		 int *iovcnt, uint64_t *length)
{
	const struct iscsi_blk *blk = blk_of(ir->chan);
	struct blk_req *req = ir->req;

	*cdb_length = 16;
	*iov = req->iov;
	*iovcnt = req->iovcnt;
	*length = req->length;
	if (req->op == BLK_SCSI) {
		static const int dirs[] = {[BLK_DATA_NONE] = SCSI_XFER_NONE,
					   [BLK_DATA_IN] = SCSI_XFER_READ,
					   [BLK_DATA_OUT] = SCSI_XFER_WRITE};

		*cdb_length = req->scsi->cdb_length;
		memcpy(cdb, req->scsi->cdb, *cdb_length);
		return dirs[req->scsi->data];
	}
	if (req->op == BLK_FLUSH || ir->syncing) {
		cdb[0] = 0x91;
		*length = 0;
		return SCSI_XFER_NONE;
	}
	cdb_range(cdb, ir);
	switch (req->op) {
	case BLK_READ:
		cdb[0] = 0x88;
		return SCSI_XFER_READ;
	case BLK_WRITE:
		cdb[0] = 0x8a;
		cdb[1] = (req->flags & BLK_FUA) && blk->limits.fua ? 0x08 : 0;
		return SCSI_XFER_WRITE;
	case BLK_CAS:
		cdb[0] = 0x89;
		cdb[1] = blk->limits.cas_fua ? 0x08 : 0;
		be32_put(cdb + 10, 0);
		cdb[13] = 1;
		*length = 2 * req->length;
		return SCSI_XFER_WRITE;
	case BLK_DISCARD:
		if (!blk->limits.unmap_by_write_same) {
			memset(cdb, 0, 16);
			cdb[0] = 0x42;
			*cdb_length = 10;
			be16_put(cdb + 7, sizeof(ir->list));
			be16_put(ir->list, sizeof(ir->list) - 2);
			be16_put(ir->list + 2, 16);
			be64_put(ir->list + 8, req->offset / blk->node.info.block_size);
			be32_put(ir->list + 16,
				 (uint32_t)(req->length / blk->node.info.block_size));
			ir->data = (struct iovec){ir->list, sizeof(ir->list)};
			break;
		}
		cdb[1] = 0x08;
		/* fall through */
	case BLK_WRITE_ZEROES:
		cdb[0] = 0x93;
		ir->data = (struct iovec){(void *)zero_block, blk->node.info.block_size};
		break;
	case BLK_FLUSH:
	case BLK_SCSI:
	case BLK_OPS:
		MUST(!"an operation of blk.h");
	}
	*iov = &ir->data;
	*iovcnt = 1;
	*length = ir->data.iov_len;
	return SCSI_XFER_WRITE;
}

static uint64_t timeout_ms(const struct blk_chan *chan, const struct blk_req *req)
{
	if (req->op != BLK_SCSI)
		return blk_chan_timeout_ms(chan);
	switch (req->scsi->cdb[0] & 0x1f) { /* READ and WRITE of 6, 10, 12, 16 bytes */
	case 0x08:
	case 0x0a:
		return PASS_RW_MS;
	}
	return PASS_OTHER_MS;
}

/* libiscsi takes iovecs of the same shape; it borrows them, and the buffers, until the callback. */
_Static_assert(sizeof(struct scsi_iovec) == sizeof(struct iovec), "scsi_iovec");

static bool send_one(struct iscsi_chan *c, struct ireq *ir)
{
	uint8_t cdb[16] = {0};
	const struct iovec *iov;
	unsigned cdb_length;
	uint64_t length;
	int n, dir = build(ir, cdb, &cdb_length, &iov, &n, &length);

	ir->task = scsi_create_task((int)cdb_length, cdb, dir, (int)length);
	MUST(ir->task);
	if (dir == SCSI_XFER_READ)
		scsi_task_set_iov_in(ir->task, (struct scsi_iovec *)iov, n);
	else if (dir == SCSI_XFER_WRITE)
		scsi_task_set_iov_out(ir->task, (struct scsi_iovec *)iov, n);
	if (passed(c)) /* it may have waited for long */
		ir->deadline_ns = clock_boot_ns() + timeout_ms(&c->chan, ir->req) * NS_PER_MS;
	list_add_tail(&c->flying, &ir->link);
	c->nflying++;
	if (iscsi_scsi_command_async(c->sess->ctx, c->sess->target->lun, ir->task, command_done,
				     NULL, ir) == 0)
		return true;
	c->sess->lost = true;
	return false;
}

static bool in_line(const struct iscsi_chan *c)
{
	return c->sess->generation ==
	       atomic_load_explicit(&iscsi_of(c->chan.blk)->reg_generation, memory_order_acquire);
}

static void arm_tick(struct iscsi_chan *c)
{
	if (!c->tick.armed)
		loop_timer_arm(c->chan.loop, &c->tick, clock_boot_ns() + TICK_MS * NS_PER_MS);
}

static void send_waiting(struct iscsi_chan *c)
{
	while (!list_empty(&c->waiting) && c->nflying < MAX_FLYING && !c->sess->lost) {
		struct ireq *ir = list_first(&c->waiting, struct ireq, link);

		if (passed(c) && gate_shut(ir)) { /* it waits for the lease as well */
			arm_tick(c);
			break;
		}
		list_del(&ir->link);
		if (gate_shut(ir)) { /* it may have waited for the session */
			answer(ir, -ESTALE, ir->syncing);
			if (c->state != UP)
				return;
			continue;
		}
		if (!send_one(c, ir))
			break;
	}
	loop_defer(c->chan.loop, &c->anchor->flush);
}

/* Whether something that the lease forbids by now may lie unsent in libiscsi's queue. */
static bool stale_in_queue(struct iscsi_chan *c)
{
	struct ireq *ir;

	if (!atomic_load_explicit(&c->chan.blk->lease, memory_order_relaxed) ||
	    !iscsi_out_queue_length(c->sess->ctx))
		return false;
	list_for_each (ir, &c->flying, link)
		if (blk_gate_shut(c->chan.blk, ir->req))
			return true;
	return false;
}

static void serve(struct iscsi_chan *c, int events)
{
	if (c->state != UP)
		return;
	if (!c->sess->lost && stale_in_queue(c)) {
		drop(c, "the lease is over");
		return;
	}
	if (!c->sess->lost && iscsi_service(c->sess->ctx, events) < 0)
		c->sess->lost = true;
	if (c->state != UP)
		return;
	if (c->sess->lost || iscsi_get_fd(c->sess->ctx) != c->sess->fd) {
		drop(c, iscsi_get_error(c->sess->ctx));
		return;
	}
	if (iscsi_out_queue_length(c->sess->ctx) && (events & POLLIN))
		loop_defer(c->chan.loop,
			   &c->anchor->flush); /* data for an R2T, an answer to a NOP */
}

static void anchor_free(struct anchor *a)
{
	if (atomic_load(&a->posts) || a->flush.queued)
		return; /* the other work will */
	sem_destroy(&a->unregistered);
	free(a);
}

static void flush_work(struct loop_work *work)
{
	struct anchor *a = container_of(work, struct anchor, flush);
	struct iscsi_chan *c = a->chan;

	if (!c) {
		anchor_free(a);
		return;
	}
	if (c->state == UP)
		serve(c, iscsi_out_queue_length(c->sess->ctx) ? POLLOUT : 0);
	if (c->state == UP)
		loop_watch_set(&c->watch->watch,
			       (unsigned)iscsi_which_events(c->sess->ctx) | POLLIN);
}

static void watch_fired(struct loop_watch *watch, unsigned events)
{
	struct watch *w = container_of(watch, struct watch, watch);

	if (w->chan)
		serve(w->chan, (int)events);
}

/* --- up and down ------------------------------------------------------------------------------ */

static void watch_closed(struct loop_watch *watch)
{
	free(container_of(watch, struct watch, watch));
}

static void detach(struct iscsi_chan *c)
{
	if (!c->watch)
		return;
	c->watch->chan = NULL;
	loop_watch_remove(&c->watch->watch, watch_closed);
	c->watch = NULL;
}

static void attach(struct iscsi_chan *c)
{
	if (c->watch)
		return;
	c->watch = xcalloc(1, sizeof(*c->watch));
	c->watch->chan = c;
	c->watch->watch.fn = watch_fired;
	loop_watch_add(c->chan.loop, &c->watch->watch, c->sess->fd, POLLIN);
}

/* Answers everything in `list`; callbacks may submit anew, to the channel's own lists. */
static void fail_all(struct list *list, int res, bool sent)
{
	while (!list_empty(list)) {
		struct ireq *ir = list_first(list, struct ireq, link);

		list_del(&ir->link);
		if (ir->task)
			scsi_free_scsi_task(ir->task);
		ir->task = NULL;
		if (ir->req->op != BLK_SCSI && clock_boot_ns() >= ir->deadline_ns)
			answer(ir, -ETIMEDOUT, sent || ir->syncing);
		else
			answer(ir, res, sent || ir->syncing);
	}
}

static void drop(struct iscsi_chan *c, const char *why)
{
	struct list flying = LIST_INIT(flying);
	struct isess *s = c->sess;

	log_warn("blk", "LUN %s: session %u lost with %u commands: %s", c->chan.blk->info.name,
		 c->chan.index, c->nflying, why);
	atomic_fetch_add(&c->chan.power_count, 1);
	c->state = DOWN;
	c->sess = NULL;
	detach(c);
	c->dropping = true;
	isess_close(s, false);
	c->dropping = false;
	free(s);
	c->nflying = 0;
	if (passed(c)) {
		if (list_empty(&c->lost))
			c->lost_until_ns = 0;
		if (!c->chan.blk->info.reinstatement)
			c->lost_until_ns = clock_boot_ns() + PASS_FLIGHT_MS * NS_PER_MS;
		list_splice_tail(&c->lost, &c->flying);
	}
	list_splice_tail(&flying, &c->flying);
	fail_all(&flying, -ENOTCONN, true);
	if (!list_empty(&c->waiting) || !list_empty(&c->lost))
		kick(c);
}

/* What went with the last session can happen no more: its user may do it again. */
static void answer_lost(struct iscsi_chan *c)
{
	struct list lost = LIST_INIT(lost);

	if (list_empty(&c->lost) || c->state != UP || clock_boot_ns() < c->lost_until_ns)
		return;
	list_splice_tail(&lost, &c->lost);
	fail_all(&lost, -ENOTCONN, true);
}

static void post(struct anchor *a, unsigned what)
{
	if (atomic_fetch_or(&a->posts, what) == 0)
		loop_post(a->loop, &a->work);
}

/* Whether the user may still use the LUN: who was kicked out by a login looks before the next one. */
static int look(const struct iscsi_chan *c)
{
	const struct blk_options *o = &c->chan.blk->options;

	return o->look && o->look(o->look_arg)
		       ? fail(-ESTALE, "LUN %s: is not to be used now", c->chan.blk->info.name)
		       : 0;
}

static void *bring_main(void *arg)
{
	struct iscsi_chan *c = arg;
	uint64_t since = clock_boot_ns() - c->last_try_ns;
	int rc = 0;

	if (since < BRING_PAUSE_MS * NS_PER_MS)
		sleep_ms(BRING_PAUSE_MS - since / NS_PER_MS);
	err_clear();
	if (passed(c))
		rc = look(c);
	if (rc == 0 && !c->sess->ctx)
		rc = iscsi_login_as(blk_of(c), c->sess, c->chan.index,
				    blk_chan_timeout_ms(&c->chan));
	if (rc == 0)
		rc = passed(c) ? look(c) : iscsi_enrol(blk_of(c), c->sess);
	c->brought = rc;
	if (rc < 0)
		err_save(&c->brought_err, rc);
	post(c->anchor, POST_BROUGHT);
	return NULL;
}

static void bring(struct iscsi_chan *c)
{
	if (c->state == UP)
		detach(c); /* the thread's now, to register afresh */
	else
		c->sess = xcalloc(1, sizeof(*c->sess));
	c->state = BRINGING;
	MUST(pthread_create(&c->thread, NULL, bring_main, c) == 0);
	arm_tick(c);
}

/* What it was told at its login is over; an attention from now on is news of the array. */
static void stands(struct iscsi_chan *c)
{
	c->sess->nexus.power_count = &c->chan.power_count;
}

static void brought(struct iscsi_chan *c)
{
	struct list waiting = LIST_INIT(waiting);
	int rc = c->brought;

	pthread_join(c->thread, NULL);
	c->state = UP;
	if (rc == 0) {
		c->last_try_ns = 0;
		if (!c->sess->nexus.power_count) /* a new one */
			atomic_fetch_add(&c->chan.came_up, 1);
		stands(c);
		attach(c);
		answer_lost(c);
		kick(c);
		return;
	}
	log_warn("blk", "LUN %s: session %u does not come up: %s", c->chan.blk->info.name,
		 c->chan.index, c->brought_err.message);
	if (c->sess->nexus.power_count) /* it stood, and was to register anew */
		atomic_fetch_add(&c->chan.power_count, 1);
	isess_close(c->sess, false);
	free(c->sess);
	c->sess = NULL;
	c->state = DOWN;
	c->last_try_ns = clock_boot_ns();
	if (passed(c)) { /* as long as it takes; see tick */
		arm_tick(c);
		return;
	}
	if (rc != -ESTALE && rc != -EBADE && rc != -ETIMEDOUT)
		rc = -ENOTCONN;
	list_splice_tail(&waiting, &c->later);
	list_splice_tail(&waiting, &c->waiting);
	fail_all(&waiting, rc, false);
	if (!list_empty(&c->waiting))
		kick(c);
}

/* Moves what waits, as far as it can be moved now. */
static void kick(struct iscsi_chan *c)
{
	arm_tick(c);
	if (c->state == BRINGING)
		return;
	if (c->state == DOWN) {
		if (passed(c) && clock_boot_ns() < c->last_try_ns + PASS_PAUSE_MS * NS_PER_MS)
			return;
		if (!list_empty(&c->waiting) || !list_empty(&c->later) || !list_empty(&c->lost))
			bring(c);
		return;
	}
	if (in_line(c))
		send_waiting(c);
	else if (c->nflying == 0)
		bring(c);
}

/* --- time ------------------------------------------------------------------------------------- */

static void expire_waiting(struct iscsi_chan *c, uint64_t now)
{
	struct list late = LIST_INIT(late);
	struct ireq *ir, *next;

	list_for_each_safe (ir, next, &c->waiting, link)
		if (now >= ir->deadline_ns) {
			list_del(&ir->link);
			list_add_tail(&late, &ir->link);
		}
	fail_all(&late, -ETIMEDOUT, false);
}

static void tick(struct loop_timer *timer)
{
	struct iscsi_chan *c = container_of(timer, struct iscsi_chan, tick);
	uint64_t now = clock_boot_ns();
	struct ireq *ir;
	bool late = false;

	list_for_each (ir, &c->flying, link)
		late |= now >= ir->deadline_ns;
	if (late && c->state == UP)
		drop(c, "a command was not answered in time");
	if (passed(c))
		answer_lost(c);
	else
		expire_waiting(c, now);
	list_splice_tail(&c->waiting, &c->later);
	if (!list_empty(&c->waiting) || (c->state == DOWN && !list_empty(&c->lost)))
		kick(c);
	if (c->nflying || !list_empty(&c->waiting) || !list_empty(&c->lost) || c->state == BRINGING)
		arm_tick(c);
}

/* --- posts from other threads ----------------------------------------------------------------- */

static void unregister(struct iscsi_chan *c)
{
	if (c->state == UP && c->sess->registered && !c->sess->lost) {
		(void)scsi_pr_register(&c->sess->nexus, 0);
		c->sess->registered = false;
		loop_defer(c->chan.loop, &c->anchor->flush);
	}
	if (c->sess && c->state == UP)
		c->sess->generation = atomic_load(&blk_of(c)->reg_generation);
	sem_post(&c->anchor->unregistered);
}

static void anchor_work(struct loop_work *work)
{
	struct anchor *a = container_of(work, struct anchor, work);
	unsigned posts = atomic_exchange(&a->posts, 0);
	struct iscsi_chan *c = a->chan;

	if (!c) {
		anchor_free(a);
		return;
	}
	if ((posts & POST_ATTACH) && c->state == UP)
		attach(c);
	if ((posts & POST_BROUGHT) && c->state == BRINGING)
		brought(c);
	if (posts & POST_RESET) {
		struct list waiting = LIST_INIT(waiting);

		list_splice_tail(&waiting, &c->later);
		list_splice_tail(&waiting, &c->waiting);
		if (c->state == UP)
			drop(c, "reset");
		fail_all(&waiting, -ENOTCONN, false);
		list_splice_tail(&waiting, &c->lost);
		fail_all(&waiting, -ENOTCONN, true);
	}
	if (posts & POST_UNREGISTER)
		unregister(c);
}

void iscsi_chan_reset(struct blk *blk)
{
	struct blk_chan *chan;

	pthread_mutex_lock(&blk->lock);
	list_for_each (chan, &blk->chans, link)
		if (of(chan)->anchor)
			post(of(chan)->anchor, POST_RESET);
	pthread_mutex_unlock(&blk->lock);
}

void iscsi_chans_unregister(struct iscsi_blk *blk)
{
	struct timespec until;
	struct blk_chan *chan;

	until = clock_in_ms(UNREGISTER_MS);
	pthread_mutex_lock(&blk->node.lock); /* channels stay open meanwhile; bounded */
	list_for_each (chan, &blk->node.chans, link) {
		struct anchor *a = of(chan)->anchor;

		if (!a)
			continue;
		if (loop_current() == chan->loop)
			unregister(of(chan));
		else
			post(a, POST_UNREGISTER);
		while (sem_clockwait(&a->unregistered, CLOCK_MONOTONIC, &until) < 0)
			if (errno != EINTR) {
				log_warn("blk",
					 "LUN %s: session %u stays registered: its loop "
					 "does not run",
					 blk->node.info.name, chan->index);
				break;
			}
	}
	pthread_mutex_unlock(&blk->node.lock);
}

/* --- the channel ------------------------------------------------------------------------------ */

int iscsi_chan_open(struct blk_chan *chan)
{
	struct iscsi_chan *c = of(chan);
	int rc;

	if (chan->index >= ISID_CHANNELS)
		return fail(-EMFILE, "LUN %s: more than %u channels", chan->blk->info.name,
			    ISID_CHANNELS);
	list_init(&c->waiting);
	list_init(&c->later);
	list_init(&c->flying);
	list_init(&c->lost);
	c->tick.fn = tick;
	c->sess = xcalloc(1, sizeof(*c->sess));
	rc = iscsi_login_as(blk_of(c), c->sess, chan->index, blk_chan_timeout_ms(chan));
	if (rc == 0)
		rc = passed(c) ? look(c) : iscsi_enrol(blk_of(c), c->sess);
	if (rc < 0) {
		isess_close(c->sess, false);
		free(c->sess);
		c->sess = NULL;
		if (!passed(c) || !chan->blk->options.lazy)
			return rc;
	} else {
		c->state = UP;
		stands(c);
	}
	c->anchor = xcalloc(1, sizeof(*c->anchor));
	*c->anchor = (struct anchor){
		.work.fn = anchor_work, .flush.fn = flush_work, .chan = c, .loop = chan->loop};
	sem_init(&c->anchor->unregistered, 0, 0);
	post(c->anchor, POST_ATTACH);
	return 0;
}

void iscsi_chan_close(struct blk_chan *chan)
{
	struct iscsi_chan *c = of(chan);
	struct anchor *a = c->anchor;

	MUST(list_empty(&c->waiting) && list_empty(&c->later) && list_empty(&c->flying) &&
	     list_empty(&c->lost));
	if (c->state == BRINGING)
		pthread_join(c->thread, NULL);
	pthread_mutex_lock(&chan->blk->lock); /* after this nobody posts */
	c->anchor = NULL;
	pthread_mutex_unlock(&chan->blk->lock);
	a->chan = NULL;
	anchor_free(a);
	loop_timer_cancel(&c->tick);
	detach(c);
	if (c->sess) {
		isess_close(c->sess, c->state == UP);
		free(c->sess);
	}
}

void iscsi_chan_submit(struct blk_chan *chan, struct blk_req *req)
{
	struct iscsi_chan *c = of(chan);
	struct iscsi_blk *blk = blk_of(c);
	struct ireq *ir = BLK_BACKEND(struct ireq, req);

	if (req->op == BLK_CAS && blk->baton) {
		baton_submit(blk->baton, chan, req);
		return;
	}
	if (req->op == BLK_FLUSH && !blk->node.info.write_cache) {
		blk_complete(req, 0);
		return;
	}
	if ((req->op == BLK_CAS && blk->node.info.cas == BLK_CAS_NONE) ||
	    (req->op == BLK_DISCARD && !blk->node.info.unmap)) {
		blk_complete(req, -EOPNOTSUPP);
		return;
	}
	if (req->op == BLK_WRITE_ZEROES && !blk->node.info.write_same) {
		blk_write_zeroes_plainly(chan, req);
		return;
	}
	ir->req = req;
	ir->chan = c;
	ir->task = NULL;
	ir->syncing = false;
	ir->power = atomic_load_explicit(&chan->power_count, memory_order_relaxed);
	ir->deadline_ns = clock_boot_ns() + timeout_ms(chan, req) * NS_PER_MS;
	list_add_tail(&c->waiting, &ir->link);
	if (c->state == UP && !c->watch)
		attach(c);
	kick(c);
}
