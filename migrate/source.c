// SPDX-License-Identifier: Apache-2.0
/* source.c: rounds, then the last pages and the state. */
#include "migrate/source.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/peer_stream.h"
#include "migrate/estimate.h"
#include "migrate/memory.h"
#include "migrate/post.h"
#include "migrate/sender.h"

#define LOOK_MS	       100u	   /* between looks at how far it is */
#define FEW_BYTES      (256 * KiB) /* so few last pages go on the control stream, without a round */
#define RUN_BYTES      (256 * KiB)
#define CHECKSUM_BYTES (256 * KiB) /* of memory that are read in a millisecond, at the least */
#define CHECKSUM_MOST  (3600 * 1000u)
#define POST_LEAST     (128 * KiB) /* less is sent while the guest stands still */
#define SLOW_MS	       1000u
#define STEADY_MS      500u /* a throttled guest has had that long before it is judged */

struct mig_source {
	struct mig_source_options o;
	struct mig_sender *sender;
	struct mig_packer *packer;
	struct mig_post *post;
	struct mig_dirty dirty; /* `post` has it, when there is one */
	struct mig_estimate estimate;
	struct mig_progress progress;
	uint64_t look_ms, ping_ms, round_ns, round_sent, round_waited;
	uint64_t marked; /* a round that is under way on the data streams; 0: none */
	le64 word;	 /* of the target's, with its last answer */
	bool began, outrun;
	atomic_bool cancelled;
};

int mig_source_create(struct mig_source **out, const struct mig_source_options *o)
{
	struct mig_source *s = xcalloc(1, sizeof(*s));
	int rc;

	s->o = *o;
	mig_dirty_init(&s->dirty, o->memory);
	s->packer = mig_packer_create(o->memory_fd);
	mig_estimate_init(&s->estimate, o->max_downtime_ms * NS_PER_MS, o->constant_ns);
	rc = mig_sender_create(&s->sender, s->o.streams, o->streams_n, o->memory_fd, o->bandwidth);
	if (rc < 0) {
		mig_source_destroy(s);
		return rc;
	}
	*out = s;
	return 0;
}

void mig_source_destroy(struct mig_source *s)
{
	if (!s)
		return;
	mig_post_destroy(s->post);
	mig_sender_destroy(s->sender);
	mig_packer_destroy(s->packer);
	mig_dirty_free(&s->dirty);
	free(s);
}

void mig_source_cancel(struct mig_source *s)
{
	atomic_store(&s->cancelled, true);
	peer_stream_cancel(s->o.control);
	for (unsigned i = 0; i < s->o.streams_n; i++)
		peer_stream_cancel(s->o.streams[i]);
	if (s->o.wants) {
		peer_stream_cancel(s->o.wants);
		peer_stream_cancel(s->o.urgent);
	}
}

void mig_source_max_downtime(struct mig_source *s, uint64_t ms)
{
	s->o.max_downtime_ms = ms;
	s->estimate.max_downtime_ns = ms * NS_PER_MS;
}

void mig_source_constant(struct mig_source *s, uint64_t ns)
{
	s->estimate.constant_ns = ns;
}

/* --- rounds -------------------------------------------------------------------------------------- */

static void measure(struct mig_source *s)
{
	struct mig_progress *p = &s->progress;
	uint64_t ns = clock_boot_ns() - s->round_ns, done;
	struct mig_sent sent;

	mig_sender_sent(s->sender, &sent);
	p->sent = sent.bytes;
	p->zeroes = sent.zeroes;
	if (ns > LOOK_MS * NS_PER_MS && sent.bytes > s->round_sent)
		p->rate = (uint64_t)((double)(sent.bytes - s->round_sent) * 1e9 / (double)ns);
	p->throttle = s->estimate.throttle;
	p->round = s->estimate.rounds;
	done = sent.bytes + sent.zeroes;
	if (p->round == 0)
		p->remaining = p->total > done ? p->total - done : 0;
	p->eta_ms = p->rate ? p->remaining * 1000 / p->rate : UINT64_MAX;
	p->blackout_ms = mig_estimate_blackout(&s->estimate, s->dirty.count * MIG_PAGE) / NS_PER_MS;
}

/* Between steps that may be long: tells how far it is, and the target that we live. */
static int look(struct mig_source *s)
{
	uint64_t now = clock_boot_ms();

	s->look_ms = now + LOOK_MS;
	measure(s);
	if (atomic_load(&s->cancelled))
		return fail(-ECANCELED, "the migration was cancelled");
	if (now >= s->ping_ms) {
		int rc = peer_stream_ping(s->o.control);

		if (rc < 0)
			return rc;
		s->ping_ms = now + PEER_STREAM_PING;
	}
	return s->o.ops->progress(s->o.arg, &s->progress);
}

static void begin_round(struct mig_source *s)
{
	struct mig_sent sent;

	mig_sender_sent(s->sender, &sent);
	s->round_ns = clock_boot_ns();
	s->round_sent = sent.bytes;
	s->round_waited = sent.waited_ns;
}

/* All of the round is over there: what it took counts for the estimate, without our own bandwidth's waits. */
static int end_round(struct mig_source *s)
{
	struct mig_sent sent;
	uint64_t ns, waited;
	int rc;

	mig_sender_mark(s->sender);
	while ((rc = mig_sender_wait(s->sender, LOOK_MS)) == 1) {
		rc = look(s);
		if (rc < 0)
			return rc;
	}
	if (rc < 0)
		return rc;
	mig_sender_sent(s->sender, &sent);
	ns = clock_boot_ns() - s->round_ns;
	waited = (sent.waited_ns - s->round_waited) / s->o.streams_n;
	mig_estimate_round(&s->estimate, sent.bytes - s->round_sent,
			   MAX(ns > waited ? ns - waited : 0, ns / 10));
	return look(s);
}

/* A range may be all of the memory; what waits for room looks up meanwhile. */
static int push(struct mig_source *s, const struct mig_range *r, bool fresh)
{
	struct mig_range left = *r;
	int rc = 0;

	while (rc >= 0 && left.bytes) {
		struct mig_range part = {left.offset, MIN(left.bytes, MIG_SENDER_RANGE)};

		rc = mig_sender_room(s->sender, LOOK_MS);
		if (rc == 0) {
			rc = mig_sender_push(s->sender, &part, fresh);
			left.offset += part.bytes;
			left.bytes -= part.bytes;
		}
		if (rc >= 0 && clock_boot_ms() >= s->look_ms)
			rc = look(s);
	}
	return MIN(rc, 0);
}

/* What is there at all. Pages that come later are in the log. */
static int first_round(struct mig_source *s)
{
	struct mig_range r = {0, 0};
	int rc;

	while ((rc = mig_memory_next(s->o.memory_fd, s->o.memory, r.offset + r.bytes, &r)) == 1)
		s->progress.total += r.bytes;
	r = (struct mig_range){0, 0};
	while (rc >= 0 &&
	       (rc = mig_memory_next(s->o.memory_fd, s->o.memory, r.offset + r.bytes, &r)) == 1)
		rc = push(s, &r, true);
	return rc < 0 ? rc : end_round(s);
}

static int next_round(struct mig_source *s)
{
	struct mig_range r;
	int rc = 0;

	begin_round(s);
	while (rc == 0 && mig_dirty_next(&s->dirty, RUN_BYTES, &r))
		rc = push(s, &r, false);
	return rc < 0 ? rc : end_round(s);
}

int mig_source_all(struct mig_source *s)
{
	int rc;

	if (s->began)
		return 0;
	begin_round(s);
	rc = first_round(s);
	s->began = rc == 0;
	return rc;
}

static int take_log(struct mig_source *s)
{
	mig_dirty_take(&s->dirty, s->o.log);
	s->progress.remaining = s->dirty.count * MIG_PAGE;
	return 0;
}

static int sync_log(struct mig_source *s)
{
	int rc = s->o.ops->sync(s->o.arg);

	return rc < 0 ? rc : take_log(s);
}

static int linger(struct mig_source *s, uint64_t ms)
{
	uint64_t until = clock_boot_ms() + ms;
	int rc = 0;

	while (rc == 0 && clock_boot_ms() < until) {
		sleep_ms(LOOK_MS);
		rc = look(s);
	}
	return rc;
}

static int slow_down(struct mig_source *s)
{
	int rc = s->o.ops->throttle(s->o.arg, s->estimate.throttle);

	return rc < 0 ? rc : linger(s, STEADY_MS);
}

/* Storage was slow: it may be faster soon, and the guest has it for itself meanwhile. */
static int be_patient(struct mig_source *s)
{
	return s->estimate.slow ? linger(s, MIN(2 * s->estimate.constant_ns / NS_PER_MS, SLOW_MS))
				: 0;
}

static int give_up(struct mig_source *s)
{
	if (s->estimate.constant_ns > s->estimate.max_downtime_ns)
		return fail(-ETIMEDOUT,
			    "its standstill would take %llu ms without a page to send, %llu are "
			    "allowed; "
			    "allow more (--max-downtime)",
			    (unsigned long long)(s->estimate.constant_ns / NS_PER_MS),
			    (unsigned long long)s->o.max_downtime_ms);
	s->outrun = true;
	return fail(
		-ETIMEDOUT,
		"the guest writes faster than %llu MiB/s can be sent, even with %u %% of its CPU "
		"time taken: its standstill would take %llu ms of %llu; allow more "
		"(--max-downtime)",
		(unsigned long long)(s->estimate.rate / MiB), s->estimate.throttle,
		(unsigned long long)(mig_estimate_blackout(&s->estimate,
							   s->dirty.count * MIG_PAGE) /
				     NS_PER_MS),
		(unsigned long long)s->o.max_downtime_ms);
}

bool mig_source_outrun(const struct mig_source *s)
{
	return s->outrun;
}

int mig_source_rounds(struct mig_source *s)
{
	enum mig_verdict verdict;
	int rc = 0;

	if (!s->began) {
		begin_round(s);
		rc = first_round(s);
		s->began = true;
	} else { /* it could not be stopped: what was written since is one more round */
		rc = sync_log(s);
		if (rc == 0)
			rc = next_round(s);
	}
	while (rc == 0) {
		rc = sync_log(s);
		if (rc < 0)
			break;
		verdict = mig_estimate_decide(&s->estimate, s->dirty.count * MIG_PAGE);
		if (s->o.wants && !s->estimate.slow && s->dirty.count * MIG_PAGE > POST_LEAST)
			return MIG_SOURCE_POST;
		switch (verdict) {
		case MIG_GO:
			return 0;
		case MIG_ROUND:
			rc = be_patient(s);
			if (rc == 0)
				rc = next_round(s);
			break;
		case MIG_THROTTLE:
			rc = slow_down(s);
			if (rc == 0)
				rc = next_round(s);
			break;
		case MIG_GIVE_UP:
			return give_up(s);
		}
	}
	return rc;
}

/* --- the guest stands still ------------------------------------------------------------------------ */

static int send_here(struct mig_source *s)
{
	struct mig_range r;
	int rc = 0;

	while (rc == 0 && mig_dirty_next(&s->dirty, RUN_BYTES, &r))
		rc = mig_packer_send(s->packer, s->o.control, &r, false);
	return rc < 0 ? rc : mig_packer_flush(s->packer, s->o.control);
}

int mig_source_last_pages(struct mig_source *s)
{
	struct mig_range r;
	int rc = 0;

	mig_sender_unlimited(s->sender);
	(void)take_log(s);
	s->marked = 0;
	if (s->dirty.count * MIG_PAGE <= FEW_BYTES)
		return send_here(s);
	while (rc == 0 && mig_dirty_next(&s->dirty, RUN_BYTES, &r))
		rc = mig_sender_push(s->sender, &r, false);
	if (rc == 0)
		s->marked = mig_sender_mark(s->sender);
	return rc;
}

static int send_state(struct mig_source *s, const void *state, uint32_t bytes, bool verify,
		      uint64_t tag)
{
	struct mig_state m = {.has_checksum = verify};
	struct mig_state_head head;
	int rc = 0;

	if (bytes == 0 || bytes > PEER_MIG_STATE_MAX - sizeof(head))
		return fail(-EIO, "the machine's state has %u bytes", bytes);
	if (verify)
		rc = mig_memory_checksum(s->o.memory_fd, s->o.memory, &m.checksum);
	if (rc < 0)
		return rc;
	mig_state_encode(&m, &head);
	return peer_stream_send(s->o.control, FRAME_MIG_STATE, 0, tag, &head, sizeof(head), state,
				bytes);
}

enum { TAG_ROUND = 1000, TAG_STATE, TAG_OFFERED };

/* A checksum reads all of the memory, there once more. */
static unsigned checksum_ms(const struct mig_source *s, bool verify)
{
	return verify ? (unsigned)MIN(s->o.memory / CHECKSUM_BYTES, CHECKSUM_MOST) : 0;
}

int mig_source_state(struct mig_source *s, const void *state, uint32_t bytes, bool verify,
		     unsigned timeout_ms)
{
	le64 round = le64_of(s->marked);
	struct frame answer;
	int rc = 0;

	if (s->marked) /* behind those of the data streams, so that the newer bytes stay */
		rc = peer_stream_send(s->o.control, FRAME_MIG_ROUND, 0, TAG_ROUND, &round,
				      sizeof(round), NULL, 0);
	timeout_ms += checksum_ms(s, verify);
	if (rc == 0 && !s->post) {
		(void)take_log(s);
		rc = send_here(s);
	}
	if (rc == 0)
		rc = send_state(s, state, bytes, verify, TAG_STATE);
	if (rc == 0 && s->marked)
		rc = peer_stream_answer(s->o.control, FRAME_MIG_ROUND, TAG_ROUND, timeout_ms,
					&answer);
	if (rc == 0)
		rc = peer_stream_answer(s->o.control, FRAME_MIG_STATE, TAG_STATE, timeout_ms,
					&answer);
	return rc;
}

/* --- post-copy ---------------------------------------------------------------------------------------- */

static int send_stale(struct mig_source *s)
{
	struct mig_range *r = xcalloc(MIG_RANGES_MAX, sizeof(*r));
	cleanup_free uint8_t *table = xmalloc(MIG_TABLE_BYTES(MIG_RANGES_MAX));
	struct mig_dirty all;
	unsigned n = 0;
	bool more = true;
	int rc = 0;

	mig_dirty_init(&all, s->o.memory);
	memcpy(all.words, s->dirty.words, DIV_ROUND_UP(all.pages, 64) * sizeof(*all.words));
	while (rc == 0 && more) {
		more = mig_dirty_next(&all, s->o.memory, &r[n]);
		n += more;
		if (n == 0 || (more && n < MIG_RANGES_MAX))
			continue;
		rc = peer_stream_send(s->o.control, FRAME_MIG_STALE, 0, 0, table,
				      mig_ranges_encode(r, n, table), NULL, 0);
		n = 0;
	}
	mig_dirty_free(&all);
	free(r);
	return rc;
}

int mig_source_post(struct mig_source *s, unsigned timeout_ms)
{
	const struct mig_post_options o = {
		.memory_fd = s->o.memory_fd,
		.memory = s->o.memory,
		.dirty = &s->dirty,
		.sender = s->sender,
		.wants = s->o.wants,
		.urgent = s->o.urgent,
	};
	struct frame answer;
	le64 pages;
	int rc;

	MUST(s->o.wants && !s->post);
	(void)take_log(s);
	s->marked = 0;
	pages = le64_of(s->dirty.count);
	rc = send_stale(s);
	if (rc == 0)
		rc = peer_stream_call(s->o.control, FRAME_MIG_POST, &pages, sizeof(pages), NULL, 0,
				      timeout_ms, &answer);
	return rc < 0 ? rc : mig_post_create(&s->post, &o);
}

int mig_source_rest(struct mig_source *s)
{
	struct mig_sent sent;
	int rc;

	mig_post_push(s->post);
	while ((rc = mig_post_wait(s->post, LOOK_MS)) == 1) {
		mig_sender_sent(s->sender, &sent);
		s->progress.sent = sent.bytes;
		s->progress.remaining = mig_post_left(s->post);
		(void)s->o.ops->progress(s->o.arg, &s->progress); /* there is no way back */
	}
	return rc;
}

int mig_source_offered(struct mig_source *s, const void *baggage, uint32_t bytes,
		       unsigned timeout_ms)
{
	uint32_t most = PEER_MIG_STATE_MAX - sizeof(le64);
	const le64 nothing = le64_of(0);
	int rc = peer_stream_send(s->o.control, FRAME_MIG_OFFERED, 0, TAG_OFFERED, &nothing,
				  sizeof(nothing), baggage, bytes <= most ? bytes : 0);

	return rc < 0 ? rc : mig_source_runs(s, timeout_ms);
}

int mig_source_runs(struct mig_source *s, unsigned timeout_ms)
{
	struct frame answer;
	int rc = peer_stream_answer(s->o.control, FRAME_MIG_OFFERED, TAG_OFFERED, timeout_ms,
				    &answer);

	if (rc == 0 && answer.bytes == sizeof(le64))
		memcpy(&s->word, answer.body, sizeof(s->word));
	return rc;
}

uint64_t mig_source_word(const struct mig_source *s)
{
	return le64_get(s->word) & ~MIG_STANDS;
}

bool mig_source_stands(const struct mig_source *s)
{
	return le64_get(s->word) & MIG_STANDS;
}

void mig_source_progress(struct mig_source *s, struct mig_progress *out)
{
	*out = s->progress;
}
