// SPDX-License-Identifier: Apache-2.0
/* migrations.c: streams that come in. */
#include "host/migrations.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/log.h"
#include "base/peer_stream.h"
#include "base/util.h"
#include "host/daemon.h"
#include "host/vm_frames.h"
#include "host/vm_move.h"
#include "migrate/target.h"

#define STREAMS_MAX 256u
#define FIRST_MS    6000u /* until it says what it is for */

struct host_stream {
	struct list link;
	struct host_migrations *all;
	struct peer_stream *stream;
	char volume[64];
};

struct expected {
	struct list link;
	struct mig_target *target;
	unsigned users;
};

struct host_migrations {
	struct host *host;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct list streams, expected;
	unsigned count; /* of streams */
	bool ending;
};

int host_migrations_create(struct host *host, struct host_migrations **out)
{
	struct host_migrations *m = xcalloc(1, sizeof(*m));

	m->host = host;
	pthread_mutex_init(&m->lock, NULL);
	pthread_cond_init(&m->changed, NULL);
	list_init(&m->streams);
	list_init(&m->expected);
	*out = m;
	return 0;
}

void host_migrations_refuse(struct host_migrations *m)
{
	if (!m)
		return;
	pthread_mutex_lock(&m->lock);
	m->ending = true;
	pthread_mutex_unlock(&m->lock);
}

void host_migrations_quiesce(struct host_migrations *m)
{
	struct host_stream *s;

	if (!m)
		return;
	pthread_mutex_lock(&m->lock);
	m->ending = true;
	list_for_each (s, &m->streams, link)
		peer_stream_cancel(s->stream);
	while (m->count)
		pthread_cond_wait(&m->changed, &m->lock);
	pthread_mutex_unlock(&m->lock);
}

void host_migrations_destroy(struct host_migrations *m)
{
	if (!m)
		return;
	host_migrations_quiesce(m);
	MUST(list_empty(&m->expected));
	pthread_mutex_destroy(&m->lock);
	pthread_cond_destroy(&m->changed);
	free(m);
}

struct peer_stream *host_stream_of(struct host_stream *s)
{
	return s->stream;
}

void host_stream_end(struct host_stream *s, int err)
{
	struct host_migrations *m = s->all;

	/* Off the list first: nobody cancels what is being freed. */
	pthread_mutex_lock(&m->lock);
	list_del(&s->link);
	pthread_mutex_unlock(&m->lock);
	peer_stream_end(s->stream, err);
	free(s);
	pthread_mutex_lock(&m->lock);
	m->count--;
	pthread_cond_broadcast(&m->changed);
	pthread_mutex_unlock(&m->lock);
}

/* --- data streams ---------------------------------------------------------------------------------- */

void host_migrations_expect(struct host_migrations *m, struct mig_target *t)
{
	struct expected *e = xcalloc(1, sizeof(*e));

	e->target = t;
	pthread_mutex_lock(&m->lock);
	list_add_tail(&m->expected, &e->link);
	pthread_mutex_unlock(&m->lock);
}

void host_migrations_forget(struct host_migrations *m, struct mig_target *t)
{
	struct expected *e, *hit = NULL;

	pthread_mutex_lock(&m->lock);
	list_for_each (e, &m->expected, link)
		if (e->target == t)
			hit = e;
	MUST(hit);
	list_del(&hit->link);
	mig_target_close(t);
	while (hit->users)
		pthread_cond_wait(&m->changed, &m->lock);
	pthread_mutex_unlock(&m->lock);
	free(hit);
}

static struct expected *find(struct host_migrations *m, const uint8_t token[MIG_TOKEN_BYTES])
{
	struct expected *e, *hit = NULL;

	pthread_mutex_lock(&m->lock);
	list_for_each (e, &m->expected, link)
		if (!memcmp(mig_target_token(e->target), token, MIG_TOKEN_BYTES))
			hit = e;
	if (hit)
		hit->users++;
	pthread_mutex_unlock(&m->lock);
	return hit;
}

static int join(struct host_stream *s, const struct frame *f)
{
	struct host_migrations *m = s->all;
	uint8_t token[MIG_TOKEN_BYTES];
	struct expected *e;
	unsigned index;
	int rc = mig_join_decode(f, token, &index);

	if (rc < 0)
		return rc;
	e = find(m, token);
	if (!e)
		return fail(-ENOENT, "no migration here waits for this stream");
	rc = mig_target_lane(e->target, s->stream, index, f->tag);
	pthread_mutex_lock(&m->lock);
	e->users--;
	pthread_cond_broadcast(&m->changed);
	pthread_mutex_unlock(&m->lock);
	return rc;
}

/* --- a stream's thread ------------------------------------------------------------------------------- */

static void *stream_main(void *arg)
{
	struct host_stream *s = arg;
	struct frame f;
	int rc = peer_stream_receive(s->stream, &f, FIRST_MS);

	if (rc == 0 && f.type == FRAME_MIG_JOIN && !f.flags)
		rc = join(s, &f);
	else if (rc == 0 && f.type == FRAME_MIG_NET && !f.flags)
		rc = vm_frames_serve(s->all->host, s->volume, s->stream, &f);
	else if (rc == 0 && f.type == FRAME_MIG_BEGIN && !f.flags) {
		rc = vm_arrival_begin(s->all->host, s->volume, s, &f);
		if (rc == 0) /* its supervisor has the stream */
			return NULL;
	} else if (rc == 0)
		rc = fail(-EBADMSG, "a stream that begins with a frame of type %u", f.type);
	if (rc < 0)
		log_debug("migrate", "a stream of host %s: %s", peer_stream_theirs(s->stream)->name,
			  err_message(rc));
	host_stream_end(s, rc);
	return NULL;
}

void host_migrations_serve(struct host_migrations *m, const char *volume_id,
			   struct peer_stream *stream)
{
	struct host_stream *s;
	pthread_t thread;
	bool taken;

	if (!m) {
		peer_stream_end(stream, 0);
		return;
	}
	s = xcalloc(1, sizeof(*s));
	s->all = m;
	s->stream = stream;
	(void)str_format(s->volume, sizeof(s->volume), "%s", volume_id);
	pthread_mutex_lock(&m->lock);
	taken = !m->ending && m->count < STREAMS_MAX;
	if (taken) {
		list_add_tail(&m->streams, &s->link);
		m->count++;
	}
	pthread_mutex_unlock(&m->lock);
	if (!taken) {
		peer_stream_end(stream, 0);
		free(s);
	} else if (pthread_create(&thread, NULL, stream_main, s)) {
		host_stream_end(s, 0);
	} else {
		pthread_detach(thread);
		pthread_setname_np(thread, "stream");
	}
}
