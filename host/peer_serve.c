// SPDX-License-Identifier: Apache-2.0
/*
 * peer_serve.c: connections that others open. Until one has proved that it knows the secret of one of
 * our volumes it is a stranger (strangers.h): it may wait, say a few bytes, and is gone.
 */
#include "host/peers_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/util.h"
#include "host/daemon.h"
#include "host/event.h"
#include "host/strangers.h"

void peer_served_put(struct peer_served *s)
{
	if (!s->conn && !s->calls)
		free(s);
}

static int on_key(void *arg, const char *identity, uint8_t key[TLS_KEY_BYTES])
{
	struct peer_served *s = arg;
	struct peer_volume *v;

	pthread_mutex_lock(&s->peers->lock);
	v = peers_volume(s->peers, identity);
	if (v)
		memcpy(key, v->key, sizeof(v->key));
	s->early = !v && peers_awaits(s->peers, identity);
	pthread_mutex_unlock(&s->peers->lock);
	return v ? 0 : -ENOENT;
}

static void proved(struct peer_served *s)
{
	s->proved = true;
	(void)strangers_done(s->peers->strangers, &s->from, clock_boot_ms(), true);
}

/* Who has lost its place on the volume knows the secret still. Lock held. */
static int check_life(struct peer_served *s, struct peer_volume *v, const struct peer_hello *theirs)
{
	struct cfs_host_info hosts[64];
	unsigned n = cfs_hosts(v->fs, hosts);
	enum peer_life life = peers_life(v, hosts, n, theirs->slot, theirs->epoch);

	if (theirs->slot >= PEER_SLOTS || life == PEER_LIFE_OVER)
		return fail(-ESTALE, "host %s: slot %u, epoch %u is no member any more",
			    theirs->name, theirs->slot, theirs->epoch);
	s->slot = theirs->slot;
	s->epoch = theirs->epoch;
	s->unseen_ms = life == PEER_LIFE_UNSEEN ? clock_boot_ms() : 0;
	return 0;
}

void peer_served_look(struct peer_volume *v, const struct cfs_host_info *hosts, unsigned n)
{
	struct peer_served *s;

	list_for_each (s, &v->peers->served, link) {
		enum peer_life life;

		if (s->volume != v)
			continue;
		life = peers_life(v, hosts, n, s->slot, s->epoch);
		if (life == PEER_LIFE_SEEN)
			s->unseen_ms = 0;
		if (life == PEER_LIFE_OVER ||
		    (s->unseen_ms && clock_boot_ms() - s->unseen_ms >= PEER_UNSEEN_MS))
			peer_conn_close(s->conn, -ESTALE, "no member of the volume any more");
	}
}

static int on_hello(void *arg, struct peer_conn *conn, const char *identity,
		    const struct peer_hello *theirs, struct peer_hello *mine)
{
	struct peer_served *s = arg;
	struct peer_volume *v;
	int rc = 0;

	(void)conn;
	proved(s);
	if (theirs->purpose == PEER_STREAM && !(theirs->features & PEER_F_MIGRATE))
		return fail(-EPROTONOSUPPORT, "host %s: a stream for nothing that is known here",
			    theirs->name);
	pthread_mutex_lock(&s->peers->lock);
	v = peers_volume(s->peers, identity);
	if (!v) {
		rc = fail(-ESTALE, "the volume was unmounted");
	} else if (theirs->to_slot != v->slot || theirs->to_epoch != v->epoch) {
		rc = fail(-ESTALE, "host %s has slot %u, epoch %u now", s->peers->host->name,
			  v->slot, v->epoch);
	} else {
		rc = check_life(s, v, theirs);
	}
	if (rc == 0) {
		peer_hello_fill(v, theirs->purpose, mine);
		s->volume = v;
		v->conns++;
	}
	pthread_mutex_unlock(&s->peers->lock);
	return rc;
}

static void on_stream(void *arg, struct peer_stream *stream)
{
	peer_stream_serve(arg, stream);
}

static void on_opened(void *arg, struct peer_conn *conn)
{
	if (peer_conn_theirs(conn)->purpose == PEER_STREAM)
		peer_conn_detach(conn, on_stream);
	(void)arg;
	log_debug("peers", "host %s connected from %s", peer_conn_theirs(conn)->name,
		  peer_conn_address(conn));
}

static int on_frame(void *arg, struct peer_conn *conn, const struct frame *f)
{
	struct peer_served *s = arg;
	int rc;

	switch (f->type) {
	case FRAME_CALL:
		rc = peer_call_serve(s, f);
		return rc < 0 ? peer_conn_answer_error(conn, f, rc) : 0;
	case FRAME_WISH:
	case FRAME_FREED:
	case FRAME_EVICT:
	case FRAME_EVICTED:
		pthread_mutex_lock(&s->peers->lock);
		rc = peer_hint_serve(s, f);
		pthread_mutex_unlock(&s->peers->lock);
		return rc;
	case FRAME_HELLO:
	case FRAME_BYE:
	case FRAME_PING:
	case FRAME_MIG_BEGIN:
	case FRAME_MIG_JOIN:
	case FRAME_MIG_PAGES:
	case FRAME_MIG_ABSENT:
	case FRAME_MIG_ROUND:
	case FRAME_MIG_STATE:
	case FRAME_MIG_OFFERED:
	case FRAME_MIG_NET:
	case FRAME_MIG_FRAME:
	case FRAME_MIG_STALE:
	case FRAME_MIG_POST:
	case FRAME_MIG_WANT:
	case FRAME_MIG_WHOLE:
		break;
	}
	return fail(-EBADMSG, "a frame of type %u", f->type);
}

static void on_room(void *arg, struct peer_conn *conn)
{
	struct peer_served *s = arg;

	(void)conn;
	pthread_mutex_lock(&s->peers->lock);
	peer_answers_go(s);
	pthread_mutex_unlock(&s->peers->lock);
}

static void on_closed(void *arg, struct peer_conn *conn, int err, const char *why)
{
	struct peer_served *s = arg;
	struct host_peers *p = s->peers;
	char text[NETADDR_TEXT];

	(void)err;
	MUST(s->conn == conn);
	if (!s->proved && strangers_done(p->strangers, &s->from, clock_boot_ms(), s->early)) {
		netaddr_format_host(&s->from, text);
		host_event(p->host->events, "peer", text, "refused: %s; the next ones wait", why);
	}
	pthread_mutex_lock(&p->lock);
	s->conn = NULL;
	list_del(&s->link);
	p->served_n--;
	if (s->volume)
		peers_volume_put(s->volume);
	s->volume = NULL;
	peer_answers_go(s); /* to nobody; frees it unless calls of it run */
	peers_check_end(p);
	pthread_mutex_unlock(&p->lock);
}

static const struct peer_conn_events served_events = {
	.key = on_key,
	.hello = on_hello,
	.opened = on_opened,
	.frame = on_frame,
	.room = on_room,
	.closed = on_closed,
};

void peer_served_accept(struct host_peers *p, int fd)
{
	struct netaddr from = {.bytes = sizeof(from.sa)};
	struct peer_served *s;
	unsigned wait_ms;

	if (getpeername(fd, (struct sockaddr *)&from.sa, &from.bytes) < 0 || p->stopping ||
	    p->served_n >= PEER_SERVED_MAX ||
	    strangers_admit(p->strangers, &from, clock_boot_ms(), &wait_ms) < 0) {
		close(fd);
		return;
	}
	s = xcalloc(1, sizeof(*s));
	s->peers = p;
	s->from = from;
	list_init(&s->answers);
	pthread_mutex_lock(&p->lock);
	list_add_tail(&p->served, &s->link);
	p->served_n++;
	MUST(peer_conn_accept(&s->conn, p->loop, fd, wait_ms, &served_events, s) == 0);
	pthread_mutex_unlock(&p->lock);
}

void peer_served_sweep(struct host_peers *p)
{
	char text[NETADDR_TEXT];
	unsigned failures;

	while (strangers_forget(p->strangers, clock_boot_ms(), text, &failures))
		if (failures > 1)
			host_event(p->host->events, "peer", text,
				   "quiet again after %u refused connections", failures);
}

void peer_served_close_all(struct host_peers *p, struct peer_volume *only, const char *why)
{
	struct peer_served *s;

	list_for_each (s, &p->served, link)
		if (!only || s->volume == only)
			peer_conn_close(s->conn, -ESHUTDOWN, why);
}
