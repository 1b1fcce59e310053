// SPDX-License-Identifier: Apache-2.0
/* sender.c: one queue, a thread a stream. */
#include "migrate/sender.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/peer_stream.h"
#include "migrate/memory.h"

#define QUEUE	 256u	     /* ranges */
#define AT_ONE	 (256 * KiB) /* taken by a thread at one time */
#define BURST_NS (20 * NS_PER_MS)
#define ROUND_MS (60 * 1000u) /* the target puts in place what was sent */

struct item {
	struct mig_range range;
	bool fresh;
};

struct lane {
	struct mig_sender *all;
	struct peer_stream *stream;
	struct mig_packer *packer;
	pthread_t thread;
	bool started;
	uint64_t done; /* the last round that is in place */
};

struct mig_sender {
	pthread_mutex_t lock; /* all below but the lanes' own */
	pthread_cond_t changed;
	struct item queue[QUEUE];
	unsigned first, count;
	uint64_t round; /* marked */
	bool ending;
	struct err_info err;
	uint64_t bandwidth, next_ns; /* nothing more is sent before that */
	struct mig_sent sent;
	unsigned lanes;
	struct lane lane[MIG_STREAMS_MAX];
};

static void failed(struct mig_sender *s, const struct err_info *why)
{
	pthread_mutex_lock(&s->lock);
	if (!s->err.err)
		s->err = *why;
	s->ending = true;
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
}

/* Caller holds the lock, and has taken that many bytes. */
static void keep_bandwidth(struct mig_sender *s, uint64_t bytes)
{
	uint64_t began = clock_monotonic_ns();
	struct timespec ts;

	if (!s->bandwidth)
		return;
	s->next_ns = MAX(s->next_ns, began > BURST_NS ? began - BURST_NS : 0) +
		     bytes * NS_PER_S / s->bandwidth;
	ts = clock_timespec(s->next_ns);
	while (!s->ending && s->bandwidth && clock_monotonic_ns() < s->next_ns)
		pthread_cond_timedwait(&s->changed, &s->lock, &ts);
	s->sent.waited_ns += clock_monotonic_ns() - began;
}

enum { NO_MORE = -1, NOTHING_YET = -2 };

/* Ranges to send, up to AT_ONE; 0: a round's end. */
static int next(struct lane *l, struct item *out, unsigned max)
{
	struct mig_sender *s = l->all;
	uint64_t bytes = 0;
	struct timespec ts;
	int n = 0, rc = 0;

	ts = clock_in_ms(PEER_STREAM_PING);
	pthread_mutex_lock(&s->lock);
	while (rc == 0 && !s->ending && !s->count && l->done == s->round)
		rc = pthread_cond_timedwait(&s->changed, &s->lock, &ts);
	if (!s->ending && !s->count && l->done == s->round)
		n = NOTHING_YET;
	while (s->count && n < (int)max && bytes < AT_ONE) {
		struct item *i = &s->queue[s->first];

		out[n] = *i;
		if (i->range.bytes > AT_ONE) { /* its rest is for whoever is next */
			out[n].range.bytes = AT_ONE;
			i->range.offset += AT_ONE;
			i->range.bytes -= AT_ONE;
		} else {
			s->first = (s->first + 1) % QUEUE;
			s->count--;
		}
		bytes += out[n++].range.bytes;
	}
	if (bytes)
		keep_bandwidth(s, bytes);
	pthread_cond_broadcast(&s->changed);
	if (s->ending)
		n = NO_MORE;
	pthread_mutex_unlock(&s->lock);
	return n;
}

static void count(struct lane *l, struct mig_sent *before)
{
	struct mig_sender *s = l->all;
	struct mig_sent now;

	mig_packer_sent(l->packer, &now);
	pthread_mutex_lock(&s->lock);
	s->sent.bytes += now.bytes - before->bytes;
	s->sent.zeroes += now.zeroes - before->zeroes;
	pthread_mutex_unlock(&s->lock);
	*before = now;
}

/* Says the round's end and waits until the target has all of it. */
static int end_round(struct lane *l)
{
	struct mig_sender *s = l->all;
	struct frame answer;
	uint64_t round;
	le64 body;
	int rc;

	pthread_mutex_lock(&s->lock);
	round = s->round;
	pthread_mutex_unlock(&s->lock);
	body = le64_of(round);
	rc = mig_packer_flush(l->packer, l->stream);
	if (rc == 0)
		rc = peer_stream_call(l->stream, FRAME_MIG_ROUND, &body, sizeof(body), NULL, 0,
				      ROUND_MS, &answer);
	if (rc < 0)
		return rc;
	pthread_mutex_lock(&s->lock);
	l->done = round;
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
	return 0;
}

static void *lane_main(void *arg)
{
	struct item items[64];
	struct mig_sent sent = {0};
	struct lane *l = arg;
	struct err_info why;
	int rc = 0, n;

	while (rc == 0 && (n = next(l, items, ARRAY_SIZE(items))) != NO_MORE) {
		for (int i = 0; i < n && rc == 0; i++)
			rc = mig_packer_send(l->packer, l->stream, &items[i].range, items[i].fresh);
		if (n == 0)
			rc = end_round(l);
		else if (n == NOTHING_YET) /* the guest's thread may be held up by storage */
			rc = peer_stream_ping(l->stream);
		count(l, &sent);
	}
	if (rc < 0) {
		err_save(&why, rc);
		failed(l->all, &why);
	}
	return NULL;
}

int mig_sender_create(struct mig_sender **out, struct peer_stream **streams, unsigned n,
		      int memory_fd, uint64_t bandwidth)
{
	struct mig_sender *s = xcalloc(1, sizeof(*s));
	pthread_condattr_t monotonic;
	int rc = 0;

	MUST(n && n <= MIG_STREAMS_MAX);
	pthread_mutex_init(&s->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&s->changed, &monotonic);
	s->bandwidth = bandwidth;
	s->lanes = n;
	for (unsigned i = 0; i < n && rc == 0; i++) {
		struct lane *l = &s->lane[i];

		*l = (struct lane){.all = s, .stream = streams[i]};
		l->packer = mig_packer_create(memory_fd);
		rc = -pthread_create(&l->thread, NULL, lane_main, l);
		l->started = rc == 0;
	}
	if (rc < 0) {
		mig_sender_destroy(s);
		return fail(rc, "migration: cannot start a thread: %s", strerror(-rc));
	}
	*out = s;
	return 0;
}

void mig_sender_destroy(struct mig_sender *s)
{
	static const struct err_info over = {.err = -ECANCELED, .message = "the migration is over"};

	if (!s)
		return;
	failed(s, &over);
	for (unsigned i = 0; i < s->lanes; i++) {
		struct lane *l = &s->lane[i];

		if (l->started) {
			peer_stream_cancel(l->stream);
			pthread_join(l->thread, NULL);
		}
		mig_packer_destroy(l->packer);
	}
	pthread_mutex_destroy(&s->lock);
	pthread_cond_destroy(&s->changed);
	free(s);
}

/* Caller holds the lock. */
static int error_of(struct mig_sender *s)
{
	return s->err.err ? err_restore(&s->err) : 0;
}

int mig_sender_push(struct mig_sender *s, const struct mig_range *range, bool fresh)
{
	struct mig_range left = *range;
	int rc = 0;

	pthread_mutex_lock(&s->lock);
	while (left.bytes && rc == 0) {
		struct mig_range r = {left.offset, MIN(left.bytes, MIG_SENDER_RANGE)};

		while (s->count == QUEUE && !s->ending)
			pthread_cond_wait(&s->changed, &s->lock);
		rc = error_of(s);
		if (rc < 0)
			break;
		s->queue[(s->first + s->count++) % QUEUE] = (struct item){r, fresh};
		left.offset += r.bytes;
		left.bytes -= r.bytes;
		pthread_cond_broadcast(&s->changed);
	}
	pthread_mutex_unlock(&s->lock);
	return rc;
}

int mig_sender_room(struct mig_sender *s, unsigned wait_ms)
{
	struct timespec ts = clock_in_ms(wait_ms);
	int rc = 0;

	pthread_mutex_lock(&s->lock);
	while (rc == 0 && s->count == QUEUE && !s->ending)
		rc = pthread_cond_timedwait(&s->changed, &s->lock, &ts);
	rc = s->err.err ? error_of(s) : s->count == QUEUE;
	pthread_mutex_unlock(&s->lock);
	return rc;
}

unsigned mig_sender_queued(struct mig_sender *s)
{
	unsigned n;

	pthread_mutex_lock(&s->lock);
	n = s->count;
	pthread_mutex_unlock(&s->lock);
	return n;
}

uint64_t mig_sender_mark(struct mig_sender *s)
{
	uint64_t round;

	pthread_mutex_lock(&s->lock);
	round = ++s->round;
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
	return round;
}

static bool all_done(const struct mig_sender *s)
{
	for (unsigned i = 0; i < s->lanes; i++)
		if (s->lane[i].done != s->round)
			return false;
	return true;
}

int mig_sender_wait(struct mig_sender *s, unsigned wait_ms)
{
	struct timespec ts = clock_in_ms(wait_ms);
	int rc = 0;

	pthread_mutex_lock(&s->lock);
	while (rc == 0 && !all_done(s) && !s->err.err)
		rc = pthread_cond_timedwait(&s->changed, &s->lock, &ts);
	rc = s->err.err ? error_of(s) : !all_done(s);
	pthread_mutex_unlock(&s->lock);
	return rc;
}

void mig_sender_unlimited(struct mig_sender *s)
{
	pthread_mutex_lock(&s->lock);
	s->bandwidth = 0;
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
}

void mig_sender_sent(struct mig_sender *s, struct mig_sent *out)
{
	pthread_mutex_lock(&s->lock);
	*out = s->sent;
	pthread_mutex_unlock(&s->lock);
}
