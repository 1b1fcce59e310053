// SPDX-License-Identifier: Apache-2.0
/* target.c: memory comes in on several streams, the order of things on one. */
#include "migrate/target.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/peer_stream.h"
#include "migrate/memory.h"
#include "migrate/pager.h"

struct mig_target {
	struct mig_sink *sink;
	struct peer_stream *control;
	uint8_t token[MIG_TOKEN_BYTES];
	unsigned
		streams; /* for data; then, in post-copy, that for urgent pages and that for wishes */
	unsigned lanes; /* all of them */
	struct mig_dirty stale;
	pthread_mutex_t lock; /* all below */
	pthread_cond_t changed;
	struct peer_stream *lane[MIG_STREAMS_MAX]; /* NULL: has not joined, or has left */
	bool joined[MIG_STREAMS_MAX];
	uint64_t round[MIG_STREAMS_MAX];
	unsigned inside; /* threads in mig_target_lane */
	uint64_t
		heard; /* bytes on all data streams when the control stream was last found silent */
	struct mig_pager *pager; /* the caller's */
	bool asking;		 /* the stream for wishes is used */
	struct err_info err;
};

int mig_target_create(struct mig_target **out, int memory_fd, uint64_t memory, unsigned streams,
		      bool post, struct peer_stream *control)
{
	struct mig_target *t;
	struct mig_sink *sink;
	unsigned lanes = streams + (post ? MIG_POST_STREAMS : 0);
	int rc = streams && streams <= MIG_STREAMS_MAX && lanes <= MIG_STREAMS_MAX
			 ? mig_sink_create(&sink, memory_fd, memory, !post)
			 : fail(-EBADMSG, "a migration over %u streams", streams);

	if (rc < 0)
		return rc;
	t = xcalloc(1, sizeof(*t));
	t->sink = sink;
	t->streams = streams;
	t->lanes = lanes;
	mig_dirty_init(&t->stale, memory);
	t->control = control;
	random_bytes(t->token, sizeof(t->token));
	pthread_mutex_init(&t->lock, NULL);
	pthread_cond_init(&t->changed, NULL);
	*out = t;
	return 0;
}

void mig_target_cancel(struct mig_target *t, int err)
{
	pthread_mutex_lock(&t->lock);
	if (!t->err.err)
		err_save(&t->err, err);
	for (unsigned i = 0; i < t->lanes; i++)
		if (t->lane[i])
			peer_stream_cancel(t->lane[i]);
	if (t->pager)
		mig_pager_stop(t->pager, err_restore(&t->err));
	peer_stream_cancel(t->control);
	pthread_cond_broadcast(&t->changed);
	pthread_mutex_unlock(&t->lock);
}

void mig_target_close(struct mig_target *t)
{
	pthread_mutex_lock(&t->lock);
	if (!t->err.err)
		t->err = (struct err_info){.err = -ECANCELED, .message = "the migration is over"};
	pthread_cond_broadcast(&t->changed);
	for (unsigned i = 0; i < t->lanes; i++)
		if (t->lane[i])
			peer_stream_cancel(t->lane[i]);
	pthread_mutex_unlock(&t->lock);
}

void mig_target_destroy(struct mig_target *t)
{
	if (!t)
		return;
	mig_target_close(t);
	pthread_mutex_lock(&t->lock);
	while (t->inside)
		pthread_cond_wait(&t->changed, &t->lock);
	pthread_mutex_unlock(&t->lock);
	mig_sink_destroy(t->sink);
	mig_dirty_free(&t->stale);
	pthread_mutex_destroy(&t->lock);
	pthread_cond_destroy(&t->changed);
	free(t);
}

const uint8_t *mig_target_token(const struct mig_target *t)
{
	return t->token;
}

/* --- data streams -------------------------------------------------------------------------------- */

static struct mig_pager *pager_of(struct mig_target *t)
{
	struct mig_pager *pager;

	pthread_mutex_lock(&t->lock);
	pager = t->pager;
	pthread_mutex_unlock(&t->lock);
	return pager;
}

static int take_pages(struct mig_target *t, const struct frame *f)
{
	cleanup_free struct mig_range *ranges = xcalloc(MIG_RANGES_MAX, sizeof(*ranges));
	struct mig_pager *pager = pager_of(t);
	const uint8_t *data;
	int n = mig_ranges_decode(f, mig_sink_bytes(t->sink), ranges, &data);

	if (n < 0)
		return n;
	if (pager)
		return mig_pager_place(pager, ranges, (unsigned)n,
				       f->type == FRAME_MIG_PAGES ? data : NULL);
	if (f->type == FRAME_MIG_PAGES)
		mig_sink_pages(t->sink, ranges, (unsigned)n, data);
	else
		mig_sink_absent(t->sink, ranges, (unsigned)n);
	return 0;
}

static int answer(struct peer_stream *s, enum frame_type type, uint64_t tag, uint64_t value)
{
	le64 body = le64_of(value);
	int rc = peer_stream_send(s, type, FRAME_ANSWER, tag, &body, sizeof(body), NULL, 0);

	return rc < 0 ? rc : peer_stream_flush(s);
}

static int end_round(struct mig_target *t, struct peer_stream *s, unsigned index,
		     const struct frame *f)
{
	uint64_t round, tag = f->tag;
	int rc = mig_round_decode(f, &round);

	if (rc < 0)
		return rc;
	pthread_mutex_lock(&t->lock);
	t->round[index] = MAX(t->round[index], round);
	pthread_cond_broadcast(&t->changed);
	pthread_mutex_unlock(&t->lock);
	return answer(s, FRAME_MIG_ROUND, tag, round);
}

static int serve_lane(struct mig_target *t, struct peer_stream *s, unsigned index, uint64_t tag)
{
	int rc = answer(s, FRAME_MIG_JOIN, tag, 0);

	while (rc == 0) {
		struct frame f;

		/* Rounds may be far apart; the control stream knows whether anybody is there. */
		rc = peer_stream_receive(s, &f, PEER_STREAM_MS);
		if (rc == -ETIMEDOUT)
			rc = pager_of(t) ? rc
					 : 0; /* which is told nothing more on the control stream */
		else if (rc == 0 && !f.flags &&
			 (f.type == FRAME_MIG_PAGES || f.type == FRAME_MIG_ABSENT))
			rc = take_pages(t, &f);
		else if (rc == 0 && !f.flags && f.type == FRAME_MIG_ROUND)
			rc = end_round(t, s, index, &f);
		else if (rc == 0)
			rc = fail(-EBADMSG, "a frame of type %u on a data stream", f.type);
	}
	return rc;
}

/* For wishes: mig_target_pages has it. */
static int lend_lane(struct mig_target *t, struct peer_stream *s, uint64_t tag)
{
	int rc = answer(s, FRAME_MIG_JOIN, tag, 0);

	pthread_mutex_lock(&t->lock);
	while (rc == 0 && !t->err.err)
		pthread_cond_wait(&t->changed, &t->lock);
	while (t->asking)
		pthread_cond_wait(&t->changed, &t->lock);
	pthread_mutex_unlock(&t->lock);
	return rc;
}

int mig_target_lane(struct mig_target *t, struct peer_stream *s, unsigned index, uint64_t tag)
{
	bool over;
	int rc = 0;

	pthread_mutex_lock(&t->lock);
	if (t->err.err)
		rc = err_restore(&t->err);
	else if (index >= t->lanes || t->joined[index])
		rc = fail(-EBADMSG, "data stream %u of %u joins once more", index, t->lanes);
	if (rc == 0) {
		t->joined[index] = true;
		t->lane[index] = s;
		t->inside++;
	}
	pthread_mutex_unlock(&t->lock);
	if (rc < 0)
		return rc;
	rc = index == t->streams + 1 ? lend_lane(t, s, tag) : serve_lane(t, s, index, tag);
	pthread_mutex_lock(&t->lock);
	t->lane[index] = NULL;
	over = t->err.err;
	pthread_mutex_unlock(&t->lock);
	if (!over) /* one that hangs up while the control stream lives ends all */
		mig_target_cancel(t, rc);
	pthread_mutex_lock(&t->lock);
	t->inside--;
	pthread_cond_broadcast(&t->changed);
	pthread_mutex_unlock(&t->lock);
	return rc;
}

/* --- the control stream ---------------------------------------------------------------------------- */

static int await_round(struct mig_target *t, const struct frame *f)
{
	uint64_t round, tag = f->tag;
	int rc = mig_round_decode(f, &round);

	if (rc < 0)
		return rc;
	pthread_mutex_lock(&t->lock);
	for (unsigned i = 0; i < t->streams && !t->err.err; i++)
		while (t->round[i] < round && !t->err.err)
			pthread_cond_wait(&t->changed, &t->lock);
	rc = t->err.err ? err_restore(&t->err) : 0;
	pthread_mutex_unlock(&t->lock);
	return rc < 0 ? rc : answer(t->control, FRAME_MIG_ROUND, tag, round);
}

static int load(struct mig_target *t, const struct mig_target_ops *ops, void *arg,
		const struct frame *f)
{
	struct mig_state state;
	uint64_t tag = f->tag;
	int rc = mig_state_decode(f, &state);

	if (rc == 0)
		rc = ops->load(arg, &state);
	return rc < 0 ? rc : answer(t->control, FRAME_MIG_STATE, tag, 0);
}

/* --- post-copy --------------------------------------------------------------------------------------- */

static int take_stale(struct mig_target *t, const struct frame *f)
{
	cleanup_free struct mig_range *ranges = xcalloc(MIG_RANGES_MAX, sizeof(*ranges));
	const uint8_t *data;
	int n = mig_ranges_decode(f, mig_sink_bytes(t->sink), ranges, &data);

	for (int i = 0; i < n; i++)
		mig_dirty_set(&t->stale, &ranges[i]);
	return MIN(n, 0);
}

static int begin_post(struct mig_target *t, const struct mig_target_ops *ops, void *arg,
		      const struct frame *f)
{
	uint64_t pages, tag = f->tag;
	bool joined;
	int rc = mig_round_decode(f, &pages);

	if (rc < 0)
		return rc;
	pthread_mutex_lock(&t->lock);
	joined = t->lanes > t->streams && t->lane[t->streams] && t->lane[t->streams + 1];
	pthread_mutex_unlock(&t->lock);
	if (!ops->post || !joined || pages != t->stale.count)
		return fail(-EBADMSG, "a post-copy that was not agreed on, of %llu pages",
			    (unsigned long long)pages);
	rc = ops->post(arg, &t->stale);
	return rc < 0 ? rc : answer(t->control, FRAME_MIG_POST, tag, pages);
}

struct asking {
	struct mig_target *t;
	struct peer_stream *s;
};

static int ask(void *arg, const uint64_t *offsets, unsigned n)
{
	struct asking *a = arg;
	le64 body[PEER_MIG_WANTS_MAX];
	int rc;

	/* None is a sign of life; a ping would be heard by the stream alone, not by who listens. */
	for (unsigned i = 0; i < n; i++)
		body[i] = le64_of(offsets[i]);
	rc = peer_stream_send(a->s, FRAME_MIG_WANT, 0, 0, body, n * (uint32_t)sizeof(*body), NULL,
			      0);
	return rc < 0 ? rc : peer_stream_flush(a->s);
}

static int say_whole(struct peer_stream *s)
{
	const le64 nothing = le64_of(0);
	int rc = peer_stream_send(s, FRAME_MIG_WHOLE, 0, 0, &nothing, sizeof(nothing), NULL, 0);

	return rc < 0 ? rc : peer_stream_flush(s);
}

void mig_target_lazy(struct mig_target *t, struct mig_pager *pager)
{
	pthread_mutex_lock(&t->lock);
	t->pager = pager;
	if (t->err.err)
		mig_pager_stop(pager, err_restore(&t->err));
	pthread_mutex_unlock(&t->lock);
}

int mig_target_pages(struct mig_target *t, struct mig_pager *pager)
{
	static const struct mig_pager_ops ops = {.ask = ask};
	struct asking a = {.t = t};
	int rc;

	pthread_mutex_lock(&t->lock);
	rc = t->err.err ? err_restore(&t->err) : 0;
	a.s = t->lane[t->streams + 1];
	t->asking = rc == 0;
	pthread_mutex_unlock(&t->lock);
	if (rc < 0)
		return rc;
	rc = mig_pager_run(pager, &ops, &a);
	if (rc == 0)
		(void)say_whole(
			a.s); /* a source that does not hear of it has nothing that we lack */
	pthread_mutex_lock(&t->lock);
	t->asking = false;
	pthread_cond_broadcast(&t->changed);
	pthread_mutex_unlock(&t->lock);
	return rc;
}

static int accept_it(const struct mig_target_ops *ops, void *arg, const struct frame *f,
		     uint64_t *word)
{
	const uint8_t *baggage;
	uint32_t n;
	int rc = mig_offered_decode(f, &baggage, &n);

	return rc < 0 ? rc : ops->accept(arg, baggage, n, word);
}

/* A standstill's last pages, or a slow checkpoint: what comes on any stream is a sign of life. */
static bool lanes_live(struct mig_target *t)
{
	uint64_t all = 0, in, out;
	bool lives;

	pthread_mutex_lock(&t->lock);
	for (unsigned i = 0; i < t->streams + (t->lanes > t->streams); i++) {
		if (!t->lane[i])
			continue;
		peer_stream_traffic(t->lane[i], &in, &out);
		all += in;
	}
	lives = all != t->heard && !t->err.err;
	t->heard = all;
	pthread_mutex_unlock(&t->lock);
	return lives;
}

/* Our own error is behind the one that a cancelled stream tells. */
static int true_error(struct mig_target *t, int rc)
{
	pthread_mutex_lock(&t->lock);
	if (rc == -ECANCELED && t->err.err)
		rc = err_restore(&t->err);
	pthread_mutex_unlock(&t->lock);
	return rc;
}

int mig_target_run(struct mig_target *t, const struct mig_target_ops *ops, void *arg)
{
	bool loaded = false;

	for (;;) {
		struct frame f;
		uint64_t tag;
		int rc = peer_stream_receive(t->control, &f, PEER_STREAM_MS);

		if (rc == -ETIMEDOUT && lanes_live(t))
			continue;
		if (rc < 0)
			return true_error(t, rc);
		tag = f.tag;
		if (f.flags) {
			rc = -EBADMSG;
		} else if (f.type == FRAME_MIG_ROUND && !loaded) {
			rc = await_round(t, &f);
		} else if ((f.type == FRAME_MIG_PAGES || f.type == FRAME_MIG_ABSENT) && !loaded) {
			rc = take_pages(t, &f);
		} else if (f.type == FRAME_MIG_STALE && !loaded && !pager_of(t)) {
			rc = take_stale(t, &f);
		} else if (f.type == FRAME_MIG_POST && !loaded && !pager_of(t)) {
			rc = begin_post(t, ops, arg, &f);
		} else if (f.type == FRAME_MIG_STATE && !loaded) {
			rc = load(t, ops, arg, &f);
			loaded = rc == 0;
		} else if (f.type == FRAME_MIG_OFFERED && loaded) {
			uint64_t word = 0;

			rc = accept_it(ops, arg, &f, &word);
			if (rc == 0) /* it runs here, whether they hear of it or not */
				(void)answer(t->control, FRAME_MIG_OFFERED, tag, word);
			return rc;
		} else {
			rc = -EBADMSG;
		}
		if (rc == -EBADMSG)
			rc = fail(rc, "a frame of type %u where none belongs", f.type);
		if (rc < 0)
			return true_error(t, rc);
	}
}
