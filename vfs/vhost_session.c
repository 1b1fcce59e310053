// SPDX-License-Identifier: Apache-2.0
/*
 * vhost_session.c: a client's connection: receiving, answering, ending. What each message does is
 * in vhost_messages.c.
 *
 * Messages are done one after the other. One that must wait for rings to drain is held, and the
 * socket is not read meanwhile.
 */
#include "vfs/vhost_ring.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/err.h"
#include "base/log.h"
#include "vfs/vhost_messages.h"

void vhost_session_ref(struct vhost_session *s)
{
	s->refs++;
}

static void free_now(struct loop_work *work)
{
	struct vhost_session *s = container_of(work, struct vhost_session, free_work);
	void (*ended)(void *arg, const char *why) = s->ended;
	void *arg = s->ended_arg;
	char why[sizeof(s->why)];

	MUST(s->refs == 0 && s->in_flight == 0);
	for (unsigned i = 0; i < VHOST_RINGS; i++)
		vhost_ring_release(&s->ring[i], false);
	vhost_memory_put(s->memory);
	guard_unmap(&s->log_map);
	guard_unmap(&s->inflight_map);
	vhost_user_close_fds(&s->msg);
	vhost_user_close_fds(&s->held);
	memcpy(why, s->why, sizeof(why));
	s->dev->session = NULL;
	free(s);
	ended(arg, why);
}

void vhost_session_unref(struct vhost_session *s)
{
	MUST(s->refs > 0);
	if (--s->refs == 0)
		loop_defer(s->dev->loop, &s->free_work);
}

static void watch_closed(struct loop_watch *watch)
{
	vhost_session_unref(container_of(watch, struct vhost_session, watch));
}

void vhost_session_kill(struct vhost_session *s, const char *why)
{
	if (s->dead)
		return;
	s->dead = true;
	(void)str_format(s->why, sizeof(s->why), "%s", why);
	for (unsigned i = 0; i < VHOST_RINGS; i++) {
		vhost_ring_stop(&s->ring[i]);
		vhost_ring_call_fd(&s->ring[i], -1);
		vhost_close_fd(s->dev->loop, &s->ring[i].err_fd);
	}
	if (s->watching)
		loop_watch_remove(&s->watch, watch_closed);
	s->watching = false;
	shutdown(s->fd, SHUT_RDWR);
	vhost_close_fd(s->dev->loop, &s->fd);
	if (s->backend_fd >= 0)
		close(s->backend_fd);
	s->backend_fd = -1;
}

bool vhost_session_check_memory(struct vhost_session *s)
{
	if (!(s->memory && vhost_memory_was_hit(s->memory)) && !guard_was_hit(&s->inflight_map) &&
	    !guard_was_hit(&s->log_map))
		return false;
	vhost_session_kill(s, "it took memory away that it had shared");
	return true;
}

bool vhost_session_hung_up(const struct vhost_session *s)
{
	struct pollfd p = {.fd = s->fd, .events = POLLRDHUP};

	return s->dead || (poll(&p, 1, 0) == 1 && (p.revents & (POLLRDHUP | POLLHUP | POLLERR)));
}

bool vhost_session_dead(const struct vhost_session *s)
{
	return s->dead;
}

bool vhost_session_idle(const struct vhost_session *s)
{
	for (unsigned i = 0; i < s->dev->rings; i++) {
		const struct vhost_ring *ring = &s->ring[i];

		if (!vhost_ring_idle(ring) || ring->replay_at < ring->replay_count)
			return false;
	}
	return !s->in_flight;
}

void vhost_session_go_on(struct vhost_session *s)
{
	for (unsigned i = 0; i < s->dev->rings && !s->dead; i++)
		if (s->ring[i].started)
			vhost_ring_poke(&s->ring[i]);
}

void vhost_session_pages_came(struct vhost_session *s)
{
	for (unsigned i = 0; i < s->dev->rings && !s->dead; i++) {
		struct vhost_ring *ring = &s->ring[i];

		ring->parked_ready = ring->parked_n;
		if (ring->parked_n)
			vhost_ring_poke(ring);
	}
}

unsigned vhost_session_in_flight(const struct vhost_session *s)
{
	return s->in_flight;
}

uint64_t vhost_session_features(const struct vhost_session *s)
{
	return s->features;
}

void vhost_session_config_changed(struct vhost_session *s)
{
	struct vhost_user_msg msg = {.request = VHOST_USER_BACKEND_CONFIG_CHANGE_MSG,
				     .flags = VHOST_USER_VERSION};

	if (s->dead || s->backend_fd < 0)
		return;
	if (vhost_user_send(s->backend_fd, &msg) < 0)
		log_warn("vhost", "%s: the client was not told of the new size", s->dev->name);
}

void *vhost_session_kept(struct vhost_session *s)
{
	uint64_t rings;

	if (!s || s->dead || !s->inflight_map.base)
		return NULL;
	rings = s->inflight.num_queues * vhost_user_inflight_bytes(s->inflight.queue_size);
	if (s->inflight.mmap_size < rings + VHOST_KEPT)
		return NULL;
	return s->inflight_map.base + s->inflight_offset + rings;
}

/* --- messages ---------------------------------------------------------------------------------- */

static void answer(struct vhost_session *s, struct vhost_user_msg *reply)
{
	int rc;

	reply->flags = VHOST_USER_VERSION | VHOST_USER_REPLY;
	rc = vhost_user_send(s->fd, reply);
	if (rc < 0)
		vhost_session_kill(s, err_message(rc));
}

/* After a message is done: its own answer, or the acknowledgement that was asked for. */
static void finish(struct vhost_session *s, struct vhost_user_msg *msg, int rc)
{
	bool ack = (msg->flags & VHOST_USER_NEED_REPLY) &&
		   (s->protocol_features >> VHOST_USER_PROTOCOL_F_REPLY_ACK & 1);
	struct vhost_user_msg reply = {.request = msg->request, .size = 8};

	vhost_user_close_fds(msg);
	if (s->dead)
		return;
	if (rc < 0) {
		log_warn("vhost", "%s: %s: %s", s->dev->name, vhost_user_request_name(msg->request),
			 err_message(rc));
		if (!ack) {
			vhost_session_kill(s, err_message(rc));
			return;
		}
	}
	if (rc == VHOST_ANSWERED || !ack)
		return;
	reply.payload.u64 = rc < 0;
	answer(s, &reply);
}

static void handle(struct vhost_session *s, struct vhost_user_msg *msg)
{
	struct vhost_user_msg reply = {.request = msg->request, .size = 8};
	int rc;

	log_debug("vhost", "%s: %s", s->dev->name, vhost_user_request_name(msg->request));
	err_clear();
	rc = vhost_message(s, msg, &reply);
	if (rc == VHOST_HELD) {
		s->held = *msg;
		msg->fd_count = 0;
		s->holding = true;
		loop_watch_set(&s->watch, 0); /* a hang-up is still reported */
		return;
	}
	if (rc == VHOST_ANSWERED) {
		answer(s, &reply);
		for (unsigned i = 0; i < reply.fd_count; i++)
			close(reply.fds[i]);
	}
	finish(s, msg, rc);
	vhost_session_check_memory(s);
}

void vhost_session_drained(struct vhost_session *s)
{
	struct vhost_user_msg msg;

	if (!s->holding || s->dead)
		return;
	msg = s->held;
	s->held.fd_count = 0;
	s->holding = false;
	handle(s, &msg); /* may be held again, for another ring */
	if (!s->holding && !s->dead)
		loop_watch_set(&s->watch, POLLIN);
}

static void readable(struct loop_watch *watch, unsigned events)
{
	struct vhost_session *s = container_of(watch, struct vhost_session, watch);
	int rc;

	if (s->holding) {
		if (events & (POLLHUP | POLLERR))
			vhost_session_kill(s, "the client hung up");
		return;
	}
	/* A few a turn: a client that floods the socket leaves the thread to others. */
	for (int i = 0; i < 16 && !s->dead && !s->holding; i++) {
		struct vhost_user_msg msg;

		rc = vhost_user_receive(s->fd, &s->msg, false);
		if (rc == -ECONNRESET)
			vhost_session_kill(s, "the client hung up");
		else if (rc < 0)
			vhost_session_kill(s, err_message(rc));
		if (rc <= 0)
			return;
		msg = s->msg;
		memset(&s->msg, 0, sizeof(s->msg));
		handle(s, &msg);
	}
}

int vhost_session_start(struct vhost_device *dev, int fd, void (*ended)(void *arg, const char *why),
			void *arg)
{
	struct vhost_session *s = xcalloc(1, sizeof(*s));
	int buffer = 64 * 1024; /* holds every answer that can be asked for at once */

	MUST(!dev->session);
	s->dev = dev;
	s->fd = fd;
	s->ended = ended;
	s->ended_arg = arg;
	s->backend_fd = -1;
	s->free_work.fn = free_now;
	for (unsigned i = 0; i < VHOST_RINGS; i++)
		vhost_ring_init(&s->ring[i], s, i);
	setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &buffer, sizeof(buffer));
	dev->session = s;
	s->watch.fn = readable;
	s->watching = true;
	vhost_session_ref(s);
	loop_watch_add(dev->loop, &s->watch, fd, POLLIN);
	return 0;
}
