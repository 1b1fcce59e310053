// SPDX-License-Identifier: Apache-2.0
/*
 * node.c: the node that every backend and filter is: opening, the one seam that each request
 * passes on its way down and back, and the calls that a filter hands to what it stands on.
 */
#include "blockdev/node.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"

/* A beat that takes longer is missed anyway: two fit into the shortest lease. */
#define BEAT_TIMEOUT_MS 2000

static const char *const op_names[BLK_OPS] = {
	[BLK_READ] = "read",	   [BLK_WRITE] = "write", [BLK_FLUSH] = "flush",
	[BLK_DISCARD] = "discard", [BLK_CAS] = "cas",	  [BLK_WRITE_ZEROES] = "write-zeroes",
	[BLK_SCSI] = "scsi",
};

const char *blk_cas_name(enum blk_cas cas)
{
	switch (cas) {
	case BLK_CAS_NONE:
		return NULL;
	case BLK_CAS_ATS:
		return "ats";
	case BLK_CAS_BATON:
		return "baton";
	case BLK_CAS_FILE:
		return "file";
	}
	return NULL;
}

bool blk_op_changes(enum blk_op op)
{
	switch (op) {
	case BLK_WRITE:
	case BLK_DISCARD:
	case BLK_WRITE_ZEROES:
	case BLK_CAS:
	case BLK_SCSI: /* for all we know */
		return true;
	case BLK_READ:
	case BLK_FLUSH:
	case BLK_OPS:
		return false;
	}
	return false;
}

/* --- opening ---------------------------------------------------------------------------------- */

int blk_open(const char *name, const struct blk_options *options, struct blk **out)
{
	static const struct blk_options defaults;
	struct stat st;

	if (!options)
		options = &defaults;
	if (strncmp(name, "iscsi://", 8) == 0)
		return blk_iscsi_open(name, options, out);
	if (stat(name, &st) < 0)
		return fail(-errno, "LUN %s: %s", name, strerror(errno));
	if (options->pass && !S_ISBLK(st.st_mode))
		return fail(-EINVAL,
			    "LUN %s: a file speaks no SCSI; only iSCSI LUNs and SCSI devices do",
			    name);
	if (S_ISREG(st.st_mode))
		return blk_file_open(name, options, out);
	if (S_ISBLK(st.st_mode))
		return blk_kernel_open(name, options, out);
	return fail(-EINVAL,
		    "LUN %s: neither a file nor a block device; give one, or an iscsi:// URL",
		    name);
}

static const char *dup_or_null(const char *s)
{
	return s ? xstrdup(s) : NULL;
}

void blk_node_init(struct blk *blk, const struct blk_ops *ops, const char *name,
		   const struct blk_options *options)
{
	blk->ops = ops;
	blk->options = *options;
	blk->options.initiator = dup_or_null(options->initiator);
	blk->options.chap_file = dup_or_null(options->chap_file);
	blk->options.force_id = dup_or_null(options->force_id);
	if (!blk->options.timeout_ms)
		blk->options.timeout_ms = 5000;
	(void)str_format(blk->info.name, sizeof(blk->info.name), "%s", name);
	pthread_mutex_init(&blk->lock, NULL);
	list_init(&blk->chans);
}

static int chan_new(struct blk *blk, struct loop *loop, enum blk_chan_kind kind,
		    struct blk_chan *borrow, struct blk_chan **out)
{
	struct blk_chan *chan = xcalloc(1, MAX(blk->ops->chan_size, sizeof(*chan)));
	int rc = 0;

	chan->blk = blk;
	chan->loop = loop;
	chan->kind = kind;
	chan->lower = borrow;
	chan->borrowed = borrow != NULL;
	pthread_mutex_lock(&blk->lock);
	if (!list_empty(&blk->chans)) /* the lowest index that is free, so that ISIDs stay few */
		for (bool used = true; used; chan->index += used) {
			struct blk_chan *c;

			used = false;
			list_for_each (c, &blk->chans, link)
				used |= c->index == chan->index;
		}
	list_add_tail(&blk->chans, &chan->link);
	pthread_mutex_unlock(&blk->lock);
	if (blk->lower && !borrow)
		rc = blk_chan_open(blk->lower, loop, kind, &chan->lower);
	if (rc == 0 && blk->ops->chan_open) {
		rc = blk->ops->chan_open(chan);
		if (rc < 0 && chan->lower && !borrow)
			blk_chan_close(chan->lower);
	}
	if (rc < 0) {
		pthread_mutex_lock(&blk->lock);
		list_del(&chan->link);
		pthread_mutex_unlock(&blk->lock);
		free(chan);
		return rc;
	}
	*out = chan;
	return 0;
}

int blk_chan_open(struct blk *blk, struct loop *loop, enum blk_chan_kind kind,
		  struct blk_chan **out)
{
	return chan_new(blk, loop, kind, NULL, out);
}

/* One thread writes these numbers, others read them: whole ones, of about now. */
static uint64_t peek(const uint64_t *number)
{
	return __atomic_load_n(number, __ATOMIC_RELAXED);
}

static void put(uint64_t *number, uint64_t value)
{
	__atomic_store_n(number, value, __ATOMIC_RELAXED);
}

static void add_stats(struct blk_stats *to, const struct blk_stats *from)
{
	for (unsigned i = 0; i < BLK_OPS; i++)
		to->ops[i] += peek(&from->ops[i]);
	to->bytes_read += peek(&from->bytes_read);
	to->bytes_written += peek(&from->bytes_written);
	to->errors += peek(&from->errors);
	to->steps += peek(&from->steps);
	to->latency_ns = MAX(to->latency_ns, peek(&from->latency_ns));
	if (peek(&from->lost_ns) &&
	    (!to->lost_ns || peek(&from->lost_since_ns) < to->lost_since_ns))
		to->lost_since_ns = peek(&from->lost_since_ns);
	to->lost_ns = MAX(to->lost_ns, peek(&from->lost_ns));
	to->good_ns = MAX(to->good_ns, peek(&from->good_ns));
	to->back_ns = MAX(to->back_ns, peek(&from->back_ns));
}

void blk_chan_close(struct blk_chan *chan)
{
	struct blk *blk = chan->blk;

	if (blk->ops->chan_close)
		blk->ops->chan_close(chan);
	if (chan->lower && !chan->borrowed)
		blk_chan_close(chan->lower);
	pthread_mutex_lock(&blk->lock);
	list_del(&chan->link);
	chan->stats.lost_ns = 0;
	add_stats(&blk->closed_stats, &chan->stats);
	pthread_mutex_unlock(&blk->lock);
	free(chan);
}

int blk_node_start(struct blk *blk)
{
	int rc = blk_service_create(&blk->service);

	if (rc < 0)
		return rc;
	return chan_new(blk, blk_service_loop(blk->service), BLK_CHAN_DATA, NULL,
			&blk->service_chan);
}

int blk_filter_start(struct blk *blk, const struct blk_ops *ops, struct blk *lower)
{
	int rc;

	blk_node_init(blk, ops, lower->info.name, &lower->options);
	blk->info = lower->info;
	blk->max_discard = lower->max_discard;
	blk->lower = lower;
	blk->service = lower->service;
	rc = chan_new(blk, blk_service_loop(blk->service), BLK_CHAN_DATA, lower->service_chan,
		      &blk->service_chan);
	if (rc < 0) { /* stay the caller's */
		blk->lower = NULL;
		blk->service = NULL;
	}
	return rc;
}

static int close_service_chan(void *arg)
{
	blk_chan_close(arg);
	return 0;
}

void blk_node_free(struct blk *blk)
{
	struct blk *lower = blk->lower;

	if (blk->service_chan) /* one that is passed through has none */
		blk_service_run(blk->service, close_service_chan, blk->service_chan);
	MUST(list_empty(&blk->chans));
	if (!lower)
		blk_service_destroy(blk->service);
	if (blk->ops->close)
		blk->ops->close(blk);
	pthread_mutex_destroy(&blk->lock);
	free((char *)blk->options.initiator);
	free((char *)blk->options.chap_file);
	free((char *)blk->options.force_id);
	free(blk);
	if (lower)
		blk_close(lower);
}

void blk_filter_stop(struct blk *blk)
{
	blk_service_run(blk->service, close_service_chan, blk->service_chan);
	blk->service_chan = NULL;
	blk->service = NULL;
	blk->lower = NULL;
}

void blk_close(struct blk *blk)
{
	if (blk)
		blk_node_free(blk);
}

const struct blk_info *blk_info(const struct blk *blk)
{
	return &blk->info;
}

unsigned blk_chan_timeout_ms(const struct blk_chan *chan)
{
	unsigned ms = chan->blk->options.timeout_ms;

	return chan->kind == BLK_CHAN_BEAT ? MIN(ms, BEAT_TIMEOUT_MS) : ms;
}

struct blk *blk_lowest(struct blk *blk)
{
	while (blk->lower)
		blk = blk->lower;
	return blk;
}

/* --- the seam --------------------------------------------------------------------------------- */

static void check(const struct blk_chan *chan, const struct blk_req *req)
{
	const struct blk_info *info = &chan->blk->info;
	uint64_t size = __atomic_load_n(&info->size, __ATOMIC_RELAXED), sum = 0;

	MUST(req->op < BLK_OPS);
	if (req->op == BLK_FLUSH || req->op == BLK_SCSI)
		return;
	MUST(((req->offset | req->length) & (info->block_size - 1)) == 0);
	MUST(req->length > 0);
	MUST(req->offset <= size && req->length <= size - req->offset);
	if (req->op == BLK_DISCARD || req->op == BLK_WRITE_ZEROES)
		return;
	for (int i = 0; i < req->iovcnt; i++)
		sum += req->iov[i].iov_len;
	if (req->op != BLK_CAS) {
		MUST(sum == req->length);
		return;
	}
	MUST(req->length == info->block_size && req->iovcnt == 2);
	MUST(req->iov[0].iov_len == req->length && req->iov[1].iov_len == req->length);
}

bool blk_gate_shut(struct blk *blk, const struct blk_req *req)
{
	const _Atomic uint64_t *lease;

	if (!blk_op_changes(req->op) || (req->flags & BLK_UNGATED))
		return false;
	lease = atomic_load_explicit(&blk->lease, memory_order_acquire);
	return lease && clock_boot_ns() >= atomic_load_explicit(lease, memory_order_acquire);
}

static void trace(const char *what, const struct blk_req *req, int res)
{
	log_debug("blk", "%s: %s %s %#llx+%#llx flags %u res %d%s",
		  blk_priv((struct blk_req *)req)->chan->blk->info.id, what, op_names[req->op],
		  (unsigned long long)req->offset, (unsigned long long)req->length, req->flags, res,
		  req->maybe_done ? " maybe done" : "");
}

static void count(struct blk_chan *chan, const struct blk_req *req)
{
	struct blk_stats *s = &chan->stats;

	put(&s->ops[req->op], s->ops[req->op] + 1);
	if (!chan->lower && !chan->answerless && chan->kind != BLK_CHAN_BEAT) {
		chan->answerless = true;
		put(&s->steps, s->steps + 1);
	}
	if (req->op == BLK_READ)
		put(&s->bytes_read, s->bytes_read + req->length);
	else if (req->op == BLK_WRITE)
		put(&s->bytes_written, s->bytes_written + req->length);
}

static uint64_t limit_of(const struct blk *blk, enum blk_op op)
{
	if (op == BLK_READ || op == BLK_WRITE)
		return blk->info.max_transfer;
	if ((op == BLK_DISCARD || op == BLK_WRITE_ZEROES) && blk->max_discard)
		return blk->max_discard;
	return UINT64_MAX;
}

void blk_submit(struct blk_chan *chan, struct blk_req *req)
{
	struct blk *blk = chan->blk;
	struct blk_priv *p = blk_priv(req);
	uint64_t max;

	check(chan, req);
	req->maybe_done = false;
	p->chan = chan;
	p->start_ns = (chan->turn++ & 7) ? 0 : clock_boot_ns();
	trace("submit", req, 0);
	if (blk->lower) {
		count(chan, req);
		blk->ops->submit(chan, req);
		return;
	}
	if (req->op == BLK_SCSI && !blk->options.pass) {
		blk_complete(req, -EOPNOTSUPP);
		return;
	}
	if (blk->options.read_only && blk_op_changes(req->op)) {
		blk_complete(req, -EROFS);
		return;
	}
	if (blk_gate_shut(blk, req)) { /* the lowest submit: INV-HA-1 */
		blk_complete(req, -ESTALE);
		return;
	}
	max = limit_of(blk, req->op);
	if (req->op != BLK_SCSI && (req->length > max || req->iovcnt > BLK_IOV_MAX)) {
		blk_split(chan, req, max);
		return;
	}
	count(chan, req);
	blk->ops->submit(chan, req);
}

static void note_reached(struct blk_chan *chan, const struct blk_priv *p, int res)
{
	struct blk_stats *s = &chan->stats;

	if (res == -ENOTCONN || res == -ETIMEDOUT) {
		uint64_t now = clock_boot_ns();

		if (!s->lost_ns)
			put(&s->lost_since_ns, now);
		put(&s->lost_ns, now);
	} else if (res == 0 && (s->lost_ns || p->start_ns || chan->kind == BLK_CHAN_BEAT)) {
		put(&s->good_ns, clock_boot_ns());
		if (s->lost_ns)
			put(&s->back_ns, s->good_ns);
		put(&s->lost_ns, 0);
	}
}

void blk_complete(struct blk_req *req, int res)
{
	struct blk_priv *p = blk_priv(req);
	struct blk_chan *chan = p->chan;

	MUST(res <= 0);
	chan->answerless = false;
	if (res == 0)
		req->maybe_done = false;
	else if (res != -EILSEQ && res != -ESTALE)
		put(&chan->stats.errors, chan->stats.errors + 1);
	if (p->start_ns) {
		uint64_t took = clock_boot_ns() - p->start_ns, old = chan->stats.latency_ns;

		put(&chan->stats.latency_ns, old ? old - old / 8 + took / 8 : took);
	}
	note_reached(chan, p, res);
	trace("answer", req, res);
	req->done(req, res);
}

static void call_done(struct blk_req *req, int res)
{
	blk_priv(req)->call_res = res;
	blk_priv(req)->call_done = true;
}

int blk_call(struct blk_chan *chan, struct blk_req *req)
{
	struct blk_priv *p = blk_priv(req);

	req->done = call_done;
	p->call_done = false;
	blk_submit(chan, req);
	while (!p->call_done) {
		int rc = loop_turn(chan->loop, UINT64_MAX);

		MUST(rc == 0); /* a ring that fails would leave the request in flight */
	}
	return p->call_res;
}

/* --- what concerns the whole node, handed down to the backend --------------------------------- */

static void own_stats(struct blk *blk, struct blk_stats *out)
{
	struct blk_chan *chan;

	pthread_mutex_lock(&blk->lock);
	*out = blk->closed_stats;
	list_for_each (chan, &blk->chans, link)
		add_stats(out, &chan->stats);
	pthread_mutex_unlock(&blk->lock);
}

/* What a filter passes on is counted on its way down in each node, its answer in the lowest only. */
void blk_get_stats(struct blk *blk, struct blk_stats *out)
{
	struct blk_stats below;

	own_stats(blk, out);
	if (!blk->lower)
		return;
	blk_get_stats(blk->lower, &below);
	memset(below.ops, 0, sizeof(below.ops));
	below.bytes_read = below.bytes_written = 0;
	add_stats(out, &below);
}

int blk_rescan(struct blk *blk)
{
	int rc;

	if (blk->lower) {
		rc = blk_rescan(blk->lower);
		blk_set_size(blk, blk->lower->info.size);
		if (blk->ops->rescan)
			(void)blk->ops->rescan(blk);
		return rc;
	}
	return blk->ops->rescan ? blk->ops->rescan(blk) : 0;
}

void blk_set_lease(struct blk *blk, const _Atomic uint64_t *end_ns)
{
	atomic_store_explicit(&blk_lowest(blk)->lease, end_ns, memory_order_release);
}

void blk_reset(struct blk *blk)
{
	for (; blk; blk = blk->lower)
		if (blk->ops->reset)
			blk->ops->reset(blk);
}

uint64_t blk_chan_power_count(const struct blk_chan *chan)
{
	uint64_t n = 0;

	for (; chan; chan = chan->lower)
		n += atomic_load(&chan->power_count) + atomic_load(&chan->blk->power_count);
	return n;
}

uint64_t blk_power_count(const struct blk *blk)
{
	return blk_chan_power_count(blk->service_chan);
}

uint64_t blk_session_count(const struct blk *blk)
{
	uint64_t n = blk_power_count(blk);

	for (const struct blk_chan *chan = blk->service_chan; chan; chan = chan->lower)
		n += atomic_load(&chan->came_up);
	return n;
}

/* Calls the first node from the top that has an opinion. */
#define HAND_DOWN(blk, op, ...)                                                                  \
	do {                                                                                     \
		for (struct blk *b = (blk); b; b = b->lower)                                     \
			if (b->ops->op)                                                          \
				return b->ops->op(b, ##__VA_ARGS__);                             \
		return fail(-EOPNOTSUPP, "LUN %s: " #op " does not exist here", blk->info.name); \
	} while (0)

int blk_host_lock(struct blk *blk, unsigned slot)
{
	HAND_DOWN(blk, host_lock, slot, true);
}

void blk_host_unlock(struct blk *blk, unsigned slot)
{
	struct blk *b = blk_lowest(blk);

	if (b->ops->host_lock)
		(void)b->ops->host_lock(b, slot, false);
}

int blk_pr_register(struct blk *blk, uint64_t key, int (*look)(void *arg), void *arg)
{
	MUST(key != 0);
	HAND_DOWN(blk, pr_register, key, look, arg);
}

int blk_pr_unregister(struct blk *blk)
{
	HAND_DOWN(blk, pr_unregister);
}

int blk_pr_reserve(struct blk *blk, enum blk_pr_type type)
{
	HAND_DOWN(blk, pr_reserve, type);
}

int blk_pr_preempt(struct blk *blk, enum blk_pr_type type, uint64_t victim_key)
{
	HAND_DOWN(blk, pr_preempt, type, victim_key);
}

int blk_pr_read(struct blk *blk, struct blk_pr_state *out)
{
	HAND_DOWN(blk, pr_read, out);
}

int blk_drain_foreign(struct blk *blk, const char *initiator, uint32_t isid, unsigned sessions)
{
	HAND_DOWN(blk, drain_foreign, initiator, isid, sessions);
}

unsigned blk_sessions(const struct blk *blk)
{
	const struct blk *b = blk_lowest((struct blk *)blk);

	return b->ops->sessions ? b->ops->sessions(b) : 0;
}
