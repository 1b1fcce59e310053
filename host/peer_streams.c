// SPDX-License-Identifier: Apache-2.0
/*
 * peer_streams.c: connections for bulk. They are opened and accepted like all others, then leave the
 * peers' thread for one of whoever wants them.
 */
#include "host/peers_impl.h"

#include <errno.h>
#include <string.h>

#include "base/err.h"
#include "base/log.h"
#include "base/peer_stream.h"
#include "base/util.h"
#include "host/daemon.h"
#include "host/migrations.h"

/* On the stack of who waits for it. */
struct stream_ask {
	struct list link;
	struct loop_work work;
	struct host_peers *peers;
	struct cfs *fs;
	const char *on;
	struct peer_volume *volume;
	struct peer_conn *conn;
	unsigned slot; /* who is meant */
	uint32_t epoch;
	char address[64];
	struct peer_stream *stream;
	struct err_info err;
	bool done;
	pthread_cond_t changed;
};

void peer_streams_init(struct host_peers *p)
{
	list_init(&p->streams);
}

void peer_streams_stop(struct host_peers *p)
{
	struct stream_ask *a;

	list_for_each (a, &p->streams, link)
		peer_conn_close(a->conn, -ESHUTDOWN, "perilund is stopping");
}

/* Lock held; `rc` negative: this thread's error. */
static void finish(struct stream_ask *a, int rc)
{
	if (rc < 0)
		err_save(&a->err, rc);
	a->done = true;
	pthread_cond_broadcast(&a->changed);
}

/* --- the connection's callbacks -------------------------------------------------------------------- */

static int on_hello(void *arg, struct peer_conn *conn, const char *identity,
		    const struct peer_hello *theirs, struct peer_hello *mine)
{
	struct stream_ask *a = arg;

	(void)conn;
	(void)identity;
	(void)mine;
	if (theirs->slot != a->slot || theirs->epoch != a->epoch ||
	    memcmp(theirs->volume, a->volume->id, sizeof(theirs->volume)) != 0)
		return fail(-ESTALE, "%s is host %s (slot %u, epoch %u) now", a->address,
			    theirs->name, theirs->slot, theirs->epoch);
	if (!(theirs->features & PEER_F_MIGRATE))
		return fail(-EPROTONOSUPPORT, "its perilund is too old for migration");
	return 0;
}

static void on_taken(void *arg, struct peer_stream *stream)
{
	struct stream_ask *a = arg;

	a->stream = stream;
}

static void on_opened(void *arg, struct peer_conn *conn)
{
	(void)arg;
	peer_conn_detach(conn, on_taken);
}

static int on_frame(void *arg, struct peer_conn *conn, const struct frame *f)
{
	(void)arg;
	(void)conn;
	return fail(-EBADMSG, "a frame of type %u on a stream of ours", f->type);
}

static void on_closed(void *arg, struct peer_conn *conn, int err, const char *why)
{
	struct stream_ask *a = arg;
	struct host_peers *p = a->peers;

	(void)conn;
	pthread_mutex_lock(&p->lock);
	list_del(&a->link);
	peers_volume_put(a->volume);
	if (err < 0 && err != -EPROTONOSUPPORT)
		err = -EHOSTUNREACH;
	finish(a, err < 0 ? fail(err, "host %s: not reached: %s", a->on, why) : 0);
	pthread_mutex_unlock(&p->lock);
}

static const struct peer_conn_events stream_events = {
	.hello = on_hello,
	.opened = on_opened,
	.frame = on_frame,
	.closed = on_closed,
};

/* --- opening --------------------------------------------------------------------------------------- */

static int open_it(struct stream_ask *a, struct peer_link *l)
{
	struct peer_volume *v = l->volume;
	int rc;

	if (!l->address[0])
		return fail(-EHOSTUNREACH,
			    "host %s: it has no address; start its perilund with --listen", a->on);
	a->volume = v;
	a->slot = l->slot;
	a->epoch = l->epoch;
	memcpy(a->address, l->address, sizeof(a->address));
	rc = peer_link_connect(l, PEER_STREAM, &stream_events, a, &a->conn);
	if (rc < 0)
		return fail_prefix(-EHOSTUNREACH, "host %s: not reached", a->on);
	list_add_tail(&a->peers->streams, &a->link);
	return 0;
}

static void ask_posted(struct loop_work *work)
{
	struct stream_ask *a = container_of(work, struct stream_ask, work);
	struct host_peers *p = a->peers;
	struct peer_link *l;
	int rc;

	pthread_mutex_lock(&p->lock);
	peers_look(p);
	rc = p->no_calls ? fail(-ENOTCONN, "perilund is stopping")
			 : peer_link_find(p, a->fs, a->on, &l);
	if (rc == 0)
		rc = open_it(a, l);
	if (rc < 0)
		finish(a, rc);
	pthread_mutex_unlock(&p->lock);
}

/* The connection itself takes PEER_OPEN_MS at most, so nobody waits here for long. */
int host_peers_stream(struct host_peers *p, struct cfs *fs, const char *on,
		      struct peer_stream **out)
{
	struct stream_ask a = {.peers = p, .fs = fs, .on = on, .work = {.fn = ask_posted}};
	int rc = 0;

	list_init(&a.link);
	pthread_cond_init(&a.changed, NULL);
	pthread_mutex_lock(&p->lock);
	if (p->no_calls) {
		rc = fail(-ENOTCONN, "perilund is stopping");
	} else {
		p->calls++;
		loop_post(p->loop, &a.work);
		while (!a.done)
			pthread_cond_wait(&a.changed, &p->lock);
		rc = a.err.err ? err_restore(&a.err) : 0;
		if (--p->calls == 0)
			pthread_cond_broadcast(&p->idle);
		peers_check_end(p);
	}
	pthread_mutex_unlock(&p->lock);
	pthread_cond_destroy(&a.changed);
	*out = a.stream;
	return rc;
}

/* --- serving --------------------------------------------------------------------------------------- */

void peer_stream_serve(struct peer_served *s, struct peer_stream *stream)
{
	char identity[TLS_IDENTITY_BYTES] = "";

	pthread_mutex_lock(&s->peers->lock);
	if (s->volume)
		memcpy(identity, s->volume->identity, sizeof(identity));
	pthread_mutex_unlock(&s->peers->lock);
	host_migrations_serve(s->peers->host->migrations, identity, stream);
}
