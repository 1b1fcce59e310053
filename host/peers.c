// SPDX-License-Identifier: Apache-2.0
/*
 * peers.c: the peers' thread: it listens, looks through the beats once a second, and keeps a table of
 * volumes with a link to each slot. What a link and a served connection do is in peer_link.c and
 * peer_serve.c.
 */
#include "host/peers_impl.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/pool.h"
#include "base/util.h"
#include "host/daemon.h"
#include "host/event.h"
#include "host/strangers.h"

#define LOOP_ENTRIES  1024u
#define ACCEPT_AT_ONE 16u /* connections taken in one turn */

/* --- volumes --------------------------------------------------------------------------------------- */

struct peer_volume *peers_volume(struct host_peers *p, const char *identity)
{
	struct peer_volume *v;

	list_for_each (v, &p->volumes, link)
		if (v->fs && !strcmp(v->identity, identity))
			return v;
	return NULL;
}

void peers_check_end(struct host_peers *p)
{
	if (p->stopped && !p->calls && !p->runs && list_empty(&p->volumes) &&
	    list_empty(&p->served))
		loop_stop(p->loop);
}

static void free_if_left(struct peer_volume *v)
{
	if (v->fs || v->conns)
		return;
	list_del(&v->link);
	peers_check_end(v->peers);
	explicit_bzero(v->key, sizeof(v->key));
	free(v);
}

void peers_volume_put(struct peer_volume *v)
{
	MUST(v->conns > 0);
	v->conns--;
	free_if_left(v);
}

static void uuid_text(const uint8_t b[16], char text[TLS_IDENTITY_BYTES])
{
	char *at = text;

	for (unsigned i = 0; i < 16; i++)
		at += str_format(at, 4, i == 4 || i == 6 || i == 8 || i == 10 ? "-%02x" : "%02x",
				 b[i]);
}

void host_peers_join(struct host_peers *p, struct cfs *fs)
{
	struct peer_volume *v;
	struct cfs_membership m;

	if (!p)
		return;
	v = xcalloc(1, sizeof(*v));
	cfs_membership(fs, &m);
	v->peers = p;
	v->fs = fs;
	memcpy(v->id, m.volume, sizeof(v->id));
	v->slot = m.slot;
	v->epoch = m.epoch;
	uuid_text(v->id, v->identity);
	if (tls_derive_key(m.secret, v->identity, v->key) < 0)
		random_bytes(v->key, sizeof(v->key)); /* nobody gets in */
	explicit_bzero(&m, sizeof(m));
	for (unsigned i = 0; i < PEER_SLOTS; i++)
		peer_link_init(&v->to[i], v, i);
	pthread_mutex_lock(&p->lock);
	list_add_tail(&p->volumes, &v->link);
	if (p->known) /* perhaps only since it was mounted */
		cfs_set_address(fs, p->address);
	pthread_mutex_unlock(&p->lock);
}

static void leave_posted(struct loop_work *work)
{
	struct host_peers *p = container_of(work, struct host_peers, leave_work);
	struct peer_volume *v, *tmp;

	pthread_mutex_lock(&p->lock);
	p->leaving = false;
	list_for_each_safe (v, tmp, &p->volumes, link) {
		if (v->fs)
			continue;
		peer_served_close_all(p, v, "the volume was unmounted");
		for (unsigned i = 0; i < PEER_SLOTS; i++)
			peer_link_drop(&v->to[i], -ESHUTDOWN, "the volume was unmounted");
		free_if_left(v);
	}
	pthread_mutex_unlock(&p->lock);
}

void host_peers_leave(struct host_peers *p, struct cfs *fs)
{
	struct peer_volume *v;

	if (!p)
		return;
	pthread_mutex_lock(&p->lock);
	list_for_each (v, &p->volumes, link)
		if (v->fs == fs)
			v->fs = NULL; /* only looked at under the lock */
	if (!p->leaving)
		loop_post(p->loop, &p->leave_work);
	p->leaving = true;
	pthread_mutex_unlock(&p->lock);
}

void host_peers_await(struct host_peers *p, const char *id)
{
	unsigned at = 0;

	if (!p)
		return;
	pthread_mutex_lock(&p->lock);
	for (unsigned i = 0; i < PEER_AWAITED; i++) {
		if (!strcmp(p->awaited[i].identity, id)) {
			at = i;
			break;
		}
		if (p->awaited[i].until_ms < p->awaited[at].until_ms)
			at = i;
	}
	(void)str_format(p->awaited[at].identity, sizeof(p->awaited[at].identity), "%s", id);
	p->awaited[at].until_ms = clock_boot_ms() + PEER_AWAITED_MS;
	pthread_mutex_unlock(&p->lock);
}

void host_peers_settled(struct host_peers *p)
{
	pthread_mutex_lock(&p->lock);
	p->settled = true;
	pthread_mutex_unlock(&p->lock);
}

bool peers_awaits(struct host_peers *p, const char *identity)
{
	uint64_t now = clock_boot_ms();
	bool found = !p->settled;

	for (unsigned i = 0; i < PEER_AWAITED; i++)
		found |= p->awaited[i].until_ms > now && !strcmp(p->awaited[i].identity, identity);
	return found;
}

/* --- looking ----------------------------------------------------------------------------------------- */

enum peer_life peers_life(struct peer_volume *v, const struct cfs_host_info *hosts, unsigned n,
			  unsigned slot, uint32_t epoch)
{
	for (unsigned i = 0; i < n; i++) {
		const struct cfs_host_info *h = &hosts[i];

		if (h->slot != slot || h->epoch < epoch)
			continue;
		return h->epoch > epoch || h->self || !strcmp(h->state, "recovering")
			       ? PEER_LIFE_OVER
			       : PEER_LIFE_SEEN;
	}
	return cfs_life_over(v->fs, slot, epoch) ? PEER_LIFE_OVER : PEER_LIFE_UNSEEN;
}

void peers_look(struct host_peers *p)
{
	struct cfs_host_info hosts[64];
	struct peer_volume *v;

	list_for_each (v, &p->volumes, link) {
		const struct cfs_host_info *by_slot[PEER_SLOTS] = {NULL};
		unsigned n = v->fs ? cfs_hosts(v->fs, hosts) : 0;

		for (unsigned i = 0; i < n; i++)
			by_slot[hosts[i].slot] = &hosts[i];
		for (unsigned i = 0; v->fs && i < PEER_SLOTS; i++)
			peer_link_set(&v->to[i], by_slot[i]);
		if (v->fs)
			peer_served_look(v, hosts, n);
	}
}

static void begin_listening(struct host_peers *p);

/* Lock held. An interface may get its address after we began. */
static void find_address(struct host_peers *p)
{
	struct netaddr shown = p->listen;
	struct peer_volume *v;

	if (p->known || !p->listens)
		return;
	if (netaddr_is_any(&shown) && netaddr_reachable(&shown) < 0)
		return;
	netaddr_format(&shown, p->address);
	p->known = true;
	list_for_each (v, &p->volumes, link)
		if (v->fs)
			cfs_set_address(v->fs, p->address);
}

static void look_fired(struct loop_timer *timer)
{
	struct host_peers *p = container_of(timer, struct host_peers, look);

	pthread_mutex_lock(&p->lock);
	find_address(p);
	peers_look(p);
	pthread_mutex_unlock(&p->lock);
	peer_served_sweep(p);
	begin_listening(p);
	loop_timer_arm(p->loop, timer, clock_boot_ns() + PEER_LOOK_MS * NS_PER_MS);
}

void host_peers_describe(struct host_peers *p, struct cfs *fs, const struct cfs_host_info *h,
			 json_t *into)
{
	const char *state = "none", *error = "";
	struct peer_volume *v;

	if (!p)
		return;
	pthread_mutex_lock(&p->lock);
	list_for_each (v, &p->volumes, link) {
		struct peer_link *l = &v->to[h->slot];

		if (v->fs != fs)
			continue;
		state = !h->address[0] ? "none" : "idle";
		if (l->epoch == h->epoch && l->conn)
			state = l->open ? "connected" : "connecting";
		else if (l->epoch == h->epoch && l->failures) {
			state = "failed";
			error = l->error;
		}
	}
	if (h->self)
		state = "self";
	json_object_set_new(into, "connection", json_string(state));
	json_object_set_new(into, "connection_error", *error ? json_string(error) : json_null());
	pthread_mutex_unlock(&p->lock);
}

/* --- listening --------------------------------------------------------------------------------------- */

static void on_listen(struct loop_watch *watch, unsigned events)
{
	struct host_peers *p = container_of(watch, struct host_peers, listen_watch);

	(void)events;
	for (unsigned i = 0; i < ACCEPT_AT_ONE; i++) {
		int fd = accept4(p->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

		if (fd >= 0) {
			peer_served_accept(p, fd);
			continue;
		}
		if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
			log_warn("peers", "%s: %s; nobody is let in for a second", p->listen_text,
				 strerror(errno));
			loop_watch_set(watch, 0); /* until the next look */
		}
		break;
	}
}

/* Loop's thread: once the address is ours, and again whenever letting in was stopped. */
static void begin_listening(struct host_peers *p)
{
	if (p->stopping || !p->listens)
		return;
	if (p->listen_watch.active) {
		loop_watch_set(&p->listen_watch, POLLIN);
		return;
	}
	if (p->listen_fd < 0) {
		p->listen_fd = netaddr_listen(&p->listen);
		if (p->listen_fd < 0) {
			err_clear();
			return;
		}
		host_event(p->host->events, "peer", p->listen_text, "listening, after all");
	}
	p->listen_watch.fn = on_listen;
	loop_watch_add(p->loop, &p->listen_watch, p->listen_fd, POLLIN);
}

/* The first try, so that the address of "any port" is known before a beat tells it. */
static int first_listen(struct host_peers *p, const char *text)
{
	int rc;

	if (!text || !*text)
		return 0;
	rc = netaddr_parse(text, HOST_PEERS_PORT, &p->listen);
	if (rc < 0)
		return fail_prefix(rc, "--listen");
	p->listens = true;
	p->listen_fd = netaddr_listen(&p->listen);
	if (p->listen_fd < 0 && !netaddr_port(&p->listen))
		return p->listen_fd;
	if (p->listen_fd < 0)
		host_event(p->host->events, "peer", text, "%s; tried again each second",
			   err_message(p->listen_fd));
	netaddr_format(&p->listen, p->listen_text);
	find_address(p);
	if (!p->known)
		log_warn("peers",
			 "%s: no address yet that others can reach; looked for each second", text);
	return 0;
}

const char *host_peers_address(const struct host_peers *p)
{
	return p && p->known ? p->address : "";
}

/* --- coming up and going down -------------------------------------------------------------------------- */

static void *peers_main(void *arg)
{
	struct host_peers *p = arg;

	loop_timer_arm(p->loop, &p->look, clock_boot_ns());
	MUST(loop_run(p->loop) == 0);
	loop_timer_cancel(&p->look);
	for (int i = 0; i < 8; i++) /* what connections left to the kernel comes back */
		(void)loop_turn(p->loop, clock_boot_ns() + NS_PER_MS);
	return NULL;
}

int host_peers_create(struct host *host, const char *listen, struct host_peers **out)
{
	struct host_peers *p = xcalloc(1, sizeof(*p));
	int rc;

	p->host = host;
	p->listen_fd = -1;
	p->look.fn = look_fired;
	p->leave_work.fn = leave_posted;
	list_init(&p->volumes);
	list_init(&p->served);
	peer_calls_init(p);
	peer_streams_init(p);
	peer_hints_init(p);
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->idle, NULL);
	p->strangers = strangers_create();
	*out = p;
	rc = first_listen(p, listen);
	if (rc == 0)
		rc = pool_create(&p->workers, "relay", PEER_WORKERS);
	if (rc == 0)
		rc = pool_create(&p->quick, "rquick", PEER_QUICK_WORKERS);
	if (rc == 0)
		rc = loop_create(&p->loop, LOOP_ENTRIES);
	if (rc == 0) {
		rc = -pthread_create(&p->thread, NULL, peers_main, p);
		if (rc < 0)
			rc = fail(rc, "peers: cannot start a thread: %s", strerror(-rc));
	}
	if (rc < 0)
		return rc;
	pthread_setname_np(p->thread, "peers");
	p->started = true;
	return 0;
}

static void stop_posted(struct loop_work *work)
{
	struct host_peers *p = container_of(work, struct host_peers, stop_work);
	struct peer_volume *v;

	pthread_mutex_lock(&p->lock);
	p->stopped = true;
	if (p->listen_watch.active)
		loop_watch_remove(&p->listen_watch, NULL);
	peer_served_close_all(p, NULL, "perilund is stopping");
	peer_streams_stop(p);
	list_for_each (v, &p->volumes, link)
		for (unsigned i = 0; i < PEER_SLOTS; i++)
			peer_link_drop(&v->to[i], -ESHUTDOWN, "perilund is stopping");
	peers_check_end(p);
	pthread_mutex_unlock(&p->lock);
}

void host_peers_quiesce(struct host_peers *p)
{
	if (!p || !p->started)
		return;
	pthread_mutex_lock(&p->lock);
	p->no_calls = true;
	p->stopping = true;
	p->stop_work.fn = stop_posted;
	loop_post(p->loop, &p->stop_work);
	while (p->calls || p->runs)
		pthread_cond_wait(&p->idle, &p->lock);
	pthread_mutex_unlock(&p->lock);
}

void host_peers_destroy(struct host_peers *p)
{
	if (!p)
		return;
	host_peers_quiesce(p);
	if (p->started) {
		/* Every volume was left: the thread ends when the last connection has. */
		pthread_mutex_lock(&p->lock);
		if (!p->leaving)
			loop_post(p->loop, &p->leave_work);
		p->leaving = true;
		pthread_mutex_unlock(&p->lock);
		pthread_join(p->thread, NULL);
	}
	pool_destroy(p->workers);
	pool_destroy(p->quick);
	loop_destroy(p->loop);
	if (p->listen_fd >= 0)
		close(p->listen_fd);
	strangers_destroy(p->strangers);
	pthread_mutex_destroy(&p->lock);
	pthread_cond_destroy(&p->idle);
	free(p);
}
