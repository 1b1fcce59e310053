// SPDX-License-Identifier: Apache-2.0
/*
 * peer_link.c: our connection to the host in one slot of one volume. The beats say who is there and
 * where; the hello must be of that very life, else it is hung up on: an address may be another
 * host's by now.
 */
#include "host/peers_impl.h"

#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/util.h"
#include "host/daemon.h"

void peer_link_init(struct peer_link *l, struct peer_volume *v, unsigned slot)
{
	l->volume = v;
	l->slot = slot;
	list_init(&l->calls);
}

void peer_link_drop(struct peer_link *l, int err, const char *why)
{
	peer_calls_fail(l, -EHOSTUNREACH, why);
	if (!l->conn)
		return;
	l->dropped = true;
	peer_conn_close(l->conn, err, why);
}

static void forget(struct peer_link *l)
{
	l->epoch = 0;
	l->failures = 0;
	l->retry_ms = 0;
	l->hints_n = 0;
	l->name[0] = l->id[0] = l->address[0] = l->error[0] = 0;
}

void peer_link_set(struct peer_link *l, const struct cfs_host_info *h)
{
	bool same = h && !h->self && h->epoch == l->epoch && !strcmp(h->id, l->id);

	if (!h || h->self) {
		if (l->epoch)
			peer_link_drop(l, -EHOSTUNREACH, "the host has left the volume");
		forget(l);
		return;
	}
	/* Its first beat may not have come yet; an address once told stands. */
	if (same && (!h->address[0] || !strcmp(h->address, l->address)))
		return;
	if (l->epoch) {
		peer_link_drop(l, -EHOSTUNREACH, "the host has begun anew");
		forget(l);
	}
	l->epoch = h->epoch;
	(void)str_format(l->name, sizeof(l->name), "%s", h->name);
	(void)str_format(l->id, sizeof(l->id), "%s", h->id);
	(void)str_format(l->address, sizeof(l->address), "%s", h->address);
}

/* --- the connection's callbacks -------------------------------------------------------------------- */

static int on_hello(void *arg, struct peer_conn *conn, const char *identity,
		    const struct peer_hello *theirs, struct peer_hello *mine)
{
	struct peer_link *l = arg;
	int rc = 0;

	(void)conn;
	(void)identity;
	(void)mine;
	pthread_mutex_lock(&l->volume->peers->lock);
	if (theirs->slot != l->slot || theirs->epoch != l->epoch ||
	    memcmp(theirs->volume, l->volume->id, sizeof(theirs->volume)) != 0)
		rc = fail(-ESTALE,
			  "%s is host %s (slot %u, epoch %u) now, not %s (slot %u, epoch %u)",
			  l->address, theirs->name, theirs->slot, theirs->epoch, l->name, l->slot,
			  l->epoch);
	pthread_mutex_unlock(&l->volume->peers->lock);
	return rc;
}

static void on_opened(void *arg, struct peer_conn *conn)
{
	struct peer_link *l = arg;
	struct host_peers *p = l->volume->peers;

	pthread_mutex_lock(&p->lock);
	if (l->conn == conn && !l->dropped) {
		l->open = true;
		l->failures = 0;
		l->error[0] = 0;
		log_info("peers", "connected to host %s at %s", l->name, l->address);
		peer_hints_go(l);
		peer_calls_go(l);
	}
	pthread_mutex_unlock(&p->lock);
}

static int on_frame(void *arg, struct peer_conn *conn, const struct frame *f)
{
	(void)arg;
	(void)conn;
	return fail(-EBADMSG, "a frame of type %u on a connection that was not opened for it",
		    f->type);
}

static void note_failure(struct peer_link *l, int err, const char *why)
{
	uint64_t pause = PEER_RETRY_MS << MIN(l->failures, 8u);

	l->retry_ms = clock_boot_ms() + MIN(pause, PEER_RETRY_MAX_MS);
	(void)str_format(l->error, sizeof(l->error), "%s%s", why,
			 err == -EACCES ? "; is the volume mounted there?" : "");
	if (l->failures++ == 0)
		log_info("peers", "host %s at %s: %s", l->name, l->address, why);
	peer_calls_fail(l, -EHOSTUNREACH, l->error);
}

static void on_closed(void *arg, struct peer_conn *conn, int err, const char *why)
{
	struct peer_link *l = arg;
	struct host_peers *p = l->volume->peers;

	pthread_mutex_lock(&p->lock);
	MUST(l->conn == conn);
	l->conn = NULL;
	l->open = false;
	if (!l->dropped)
		note_failure(l, err, why);
	else if (!list_empty(&l->calls) && !peer_link_need(l, true)) /* asked for meanwhile */
		peer_calls_fail(l, -EHOSTUNREACH,
				l->error[0] ? l->error : "it left while it was asked");
	l->dropped = false;
	peers_volume_put(l->volume);
	pthread_mutex_unlock(&p->lock);
}

static const struct peer_conn_events link_events = {
	.hello = on_hello,
	.opened = on_opened,
	.frame = on_frame,
	.closed = on_closed,
};

void peer_hello_fill(const struct peer_volume *v, enum peer_purpose purpose, struct peer_hello *out)
{
	*out = (struct peer_hello){.version_min = PEER_VERSION_MIN,
				   .version_max = PEER_VERSION_MAX,
				   .purpose = purpose,
				   .features = PEER_FEATURES,
				   .slot = v->slot,
				   .epoch = v->epoch};
	memcpy(out->volume, v->id, sizeof(out->volume));
	(void)str_format(out->name, sizeof(out->name), "%s", v->peers->host->name);
}

int peer_link_connect(struct peer_link *l, enum peer_purpose purpose,
		      const struct peer_conn_events *events, void *arg, struct peer_conn **out)
{
	struct peer_volume *v = l->volume;
	struct peer_hello hello;
	struct netaddr to;
	int rc = netaddr_parse(l->address, HOST_PEERS_PORT, &to);

	peer_hello_fill(v, purpose, &hello);
	hello.to_slot = l->slot;
	hello.to_epoch = l->epoch;
	if (rc == 0)
		rc = peer_conn_connect(out, v->peers->loop, &to, v->identity, v->key, &hello,
				       events, arg);
	if (rc == 0)
		v->conns++;
	return rc;
}

bool peer_link_need(struct peer_link *l, bool insist)
{
	struct peer_volume *v = l->volume;
	int rc;

	if (l->conn)
		return true;
	if (v->peers->stopping || !v->fs || !l->epoch)
		return false;
	if (!insist && clock_boot_ms() < l->retry_ms)
		return false;
	if (!l->address[0]) {
		(void)str_format(l->error, sizeof(l->error),
				 "it has no address; start its perilund with --listen");
		return false;
	}
	rc = peer_link_connect(l, PEER_CONTROL, &link_events, l, &l->conn);
	if (rc < 0) {
		note_failure(l, rc, err_message(rc));
		return false;
	}
	l->open = l->dropped = false;
	return true;
}
