// SPDX-License-Identifier: Apache-2.0
/* post.c: wishes first. */
#include "migrate/post.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/peer_stream.h"
#include "migrate/memory.h"
#include "migrate/sender.h"

#define RUN_BYTES \
	(64 * KiB)	/* a wish brings its neighbours along; and what the streams get at once */
#define QUEUED	     2u /* no more wait for a stream: a wish for one of them comes too late */
#define LISTEN_MS    5u
#define LAST_WORD_MS 1000u
#define NO_HURRY_MS  10u /* while nothing but wishes may go */

struct mig_post {
	struct mig_post_options o;
	struct mig_packer *packer;
	pthread_t thread;
	bool started, marked;
	uint64_t heard_ms, ping_ms;
	atomic_bool push, ending;
	atomic_uint_fast64_t left;
	pthread_mutex_t lock; /* over, err */
	pthread_cond_t changed;
	bool over;
	struct err_info err;
};

static int send_wanted(struct mig_post *p, const struct frame *f)
{
	uint64_t offsets[PEER_MIG_WANTS_MAX];
	int n = mig_want_decode(f, p->o.memory, offsets), rc = MIN(n, 0);
	struct mig_range r;

	for (int i = 0; i < n && rc == 0; i++)
		if (mig_dirty_take_at(p->o.dirty, offsets[i], RUN_BYTES, &r))
			rc = mig_packer_send(p->packer, p->o.urgent, &r, false);
	return rc < 0 || !n ? rc : mig_packer_flush(p->packer, p->o.urgent);
}

/* 1: it is over, all is there. */
static int listen_for(struct mig_post *p, unsigned ms)
{
	struct frame f;
	int rc = peer_stream_receive(p->o.wants, &f, ms);
	uint64_t now = clock_boot_ms();

	if (rc == -ETIMEDOUT && now - p->heard_ms < PEER_STREAM_MS)
		return 0;
	if (rc == -ETIMEDOUT)
		return fail(rc, "the other side says nothing for %u ms", PEER_STREAM_MS);
	if (rc < 0)
		return rc;
	p->heard_ms = now;
	if (!f.flags && f.type == FRAME_MIG_WANT)
		return send_wanted(p, &f);
	if (!f.flags && f.type == FRAME_MIG_WHOLE)
		return 1;
	return fail(-EBADMSG, "a frame of type %u on a stream for wishes", f.type);
}

static int push_some(struct mig_post *p)
{
	struct mig_range r;
	int rc = 0;

	while (rc == 0 && mig_sender_queued(p->o.sender) < QUEUED &&
	       mig_dirty_next(p->o.dirty, RUN_BYTES, &r))
		rc = mig_sender_push(p->o.sender, &r, false);
	if (rc == 0 && !p->o.dirty->count && !p->marked) {
		(void)mig_sender_mark(p->o.sender); /* nothing stays behind in a stream's buffer */
		p->marked = true;
	}
	return rc;
}

static int say_that_we_live(struct mig_post *p)
{
	uint64_t now = clock_boot_ms();

	if (now < p->ping_ms)
		return 0;
	p->ping_ms = now + PEER_STREAM_PING;
	return peer_stream_ping(p->o.urgent);
}

/* A target that has all of it says so before it lets go of the streams. */
static int look_at_streams(struct mig_post *p)
{
	uint64_t until = clock_boot_ms() + LAST_WORD_MS;
	struct err_info why;
	int rc = MIN(mig_sender_wait(p->o.sender, 0), 0);

	if (rc == 0)
		return 0;
	err_save(&why, rc);
	do
		rc = listen_for(p, LISTEN_MS);
	while (rc == 0 && clock_boot_ms() < until);
	return rc == 1 ? 1 : err_restore(&why);
}

static void *post_main(void *arg)
{
	struct mig_post *p = arg;
	int rc = 0;

	while (rc == 0) {
		bool push = atomic_load(&p->push);
		bool busy = push && p->o.dirty->count && mig_sender_queued(p->o.sender) < QUEUED;

		rc = listen_for(p, busy ? 0 : push ? LISTEN_MS : NO_HURRY_MS);
		if (rc == 0 && push)
			rc = push_some(p);
		if (rc == 0)
			rc = say_that_we_live(p);
		if (rc == 0 && push)
			rc = look_at_streams(p);
		if (rc == 0 && atomic_load(&p->ending))
			rc = fail(-ECANCELED, "the migration is over");
		atomic_store(&p->left, p->o.dirty->count * MIG_PAGE);
	}
	pthread_mutex_lock(&p->lock);
	if (rc < 0)
		err_save(&p->err, rc);
	p->over = true;
	pthread_cond_broadcast(&p->changed);
	pthread_mutex_unlock(&p->lock);
	return NULL;
}

int mig_post_create(struct mig_post **out, const struct mig_post_options *o)
{
	struct mig_post *p = xcalloc(1, sizeof(*p));
	pthread_condattr_t monotonic;
	int rc;

	p->o = *o;
	p->packer = mig_packer_create(o->memory_fd);
	p->heard_ms = clock_boot_ms();
	p->left = o->dirty->count * MIG_PAGE;
	pthread_mutex_init(&p->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&p->changed, &monotonic);
	mig_sender_unlimited(o->sender);
	rc = -pthread_create(&p->thread, NULL, post_main, p);
	p->started = rc == 0;
	if (rc < 0) {
		mig_post_destroy(p);
		return fail(rc, "migration: cannot start a thread");
	}
	*out = p;
	return 0;
}

void mig_post_push(struct mig_post *p)
{
	atomic_store(&p->push, true);
}

int mig_post_wait(struct mig_post *p, unsigned wait_ms)
{
	struct timespec ts = clock_in_ms(wait_ms);
	int rc = 0;

	pthread_mutex_lock(&p->lock);
	while (rc == 0 && !p->over)
		rc = pthread_cond_timedwait(&p->changed, &p->lock, &ts);
	rc = !p->over ? 1 : p->err.err ? err_restore(&p->err) : 0;
	pthread_mutex_unlock(&p->lock);
	return rc;
}

uint64_t mig_post_left(struct mig_post *p)
{
	return atomic_load(&p->left);
}

void mig_post_destroy(struct mig_post *p)
{
	if (!p)
		return;
	atomic_store(&p->ending, true);
	if (p->started) {
		peer_stream_cancel(p->o.wants);
		peer_stream_cancel(p->o.urgent);
		pthread_join(p->thread, NULL);
	}
	mig_packer_destroy(p->packer);
	pthread_mutex_destroy(&p->lock);
	pthread_cond_destroy(&p->changed);
	free(p);
}
