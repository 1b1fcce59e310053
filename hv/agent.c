// SPDX-License-Identifier: Apache-2.0
/*
 * The agent's channel. Queues are 0 and 1 of port 0, which is nobody's (others keep it for a console, and
 * drivers expect that), 2 and 3 for control messages, 4 and 5 of port 1. Each even one is filled here.
 *
 * What the guest is to be told is kept as what it has been told (`added`, `named`, `told_open`), not as a
 * queue of messages: there is nothing that a guest without free buffers could make us keep.
 *
 * A chain that the guest sends is answered when its last byte has gone to the daemon; until then it is
 * `held`, and read again at each turn.
 */
#include "hv/agent.h"

#include <errno.h>
#include <linux/virtio_console.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_ring.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "base/util.h"
#include "base/vring.h"
#include "hv/gmem.h"
#include "hv/state.h"

#define NAME	     "org.qemu.guest_agent.0"
#define PORT	     1
#define PORTS	     2
#define TURN_MAX     64	  /* chains of one turn, so that one guest queue starves nobody */
#define SEGMENTS_MAX 128  /* of one chain; Linux sends one, or a pipe's pages */
#define BYTES_MAX    4096 /* on their way from the daemon */

enum queue { PORT0_IN, PORT0_OUT, CONTROL_IN, CONTROL_OUT, PORT_IN, PORT_OUT, QUEUES };

static const char thaw[] = "\xff{\"execute\":\"guest-fsfreeze-thaw\"}\n";

struct hv_agent {
	struct hv_virtio virtio;
	struct hv_gmem *gmem;
	uint16_t queue_size;

	/* The guest's, gone with a reset. */
	struct vring_dev ring[QUEUES];
	bool runs[QUEUES];
	bool wanted; /* the driver asked for its ports */
	bool added;  /* ... was told of this one */
	bool ready;  /* ... has it */
	bool named;
	bool told_open, guest_open;
	bool holds; /* PORT_OUT: `held` is being sent, `sent` bytes of it have gone */
	uint16_t held;
	uint64_t sent;
	uint8_t in[BYTES_MAX]; /* from in_at on to the guest */
	size_t in_n, in_at;

	/* The daemon's. */
	int fd; /* -1: none */
	bool thaws;
	bool farewell; /* it has gone, and the guest is told to thaw: nobody reads what that answers */
};

static uint64_t agent_features(struct hv_virtio *v)
{
	(void)v;
	return 1ULL << VIRTIO_RING_F_EVENT_IDX | 1ULL << VIRTIO_RING_F_INDIRECT_DESC |
	       1ULL << VIRTIO_CONSOLE_F_MULTIPORT;
}

static void agent_config_read(struct hv_virtio *v, uint32_t offset, void *dst, unsigned size)
{
	const struct virtio_console_config config = {.max_nr_ports = PORTS};

	(void)v;
	memset(dst, 0, size);
	if (offset < sizeof(config))
		memcpy(dst, (const uint8_t *)&config + offset, MIN(size, sizeof(config) - offset));
}

/* --- rings ------------------------------------------------------------------------------------- */

static void kick(struct hv_agent *a, enum queue queue)
{
	if (a->runs[queue])
		eventfd_write(a->virtio.queue[queue].kick_fd, 1);
}

/* False: there is no such ring. */
static bool start(struct hv_agent *a, enum queue queue, uint16_t base)
{
	const struct hv_virtio *v = &a->virtio;
	const struct hv_virtio_queue *q = &v->queue[queue];

	void *desc = hv_gmem_at(a->gmem, q->desc, vring_desc_bytes(q->size));
	void *avail = hv_gmem_at(a->gmem, q->driver, vring_avail_bytes(q->size));
	void *used = hv_gmem_at(a->gmem, q->device, vring_used_bytes(q->size));
	bool event_idx = v->driver_features & 1ULL << VIRTIO_RING_F_EVENT_IDX;
	if (!desc || !avail || !used ||
	    vring_start(&a->ring[queue], q->size, desc, avail, used, base, event_idx))
		return false;
	a->runs[queue] = true;
	kick(a, queue);
	return true;
}

static void agent_run(struct hv_virtio *v)
{
	struct hv_agent *a = container_of(v, struct hv_agent, virtio);

	for (unsigned i = 0; i < QUEUES; i++) {
		if (v->queue[i].enabled && !start(a, i, 0))
			log_warn("agent", "the guest's ring %u lies outside of its memory", i);
	}
}

/* 1: the next chain; 0: there is none, or none that can be used any more. */
static int pop(struct hv_agent *a, enum queue queue, uint16_t *head)
{
	int rc = a->runs[queue] ? vring_pop(&a->ring[queue], head) : 0;

	if (rc < 0) {
		log_warn("agent",
			 "the guest's ring %u makes no sense; stopped until its next reset", queue);
		a->runs[queue] = false;
	}
	return rc == 1;
}

/* A chain that makes no sense has no bytes. */
static void read_chain(struct hv_agent *a, enum queue queue, uint16_t head, struct iovec *iov,
		       struct vring_chain *chain)
{
	if (vring_read_chain(&a->ring[queue], hv_gmem_banks(a->gmem), head, iov, SEGMENTS_MAX,
			     chain) < 0)
		*chain = (struct vring_chain){0};
}

/* Answers `head`, a buffer of the guest's, with `n` bytes; the count that had room. */
static size_t fill(struct hv_agent *a, enum queue queue, uint16_t head, const void *src, size_t n)
{
	struct iovec iov[SEGMENTS_MAX];
	struct vring_chain chain;

	read_chain(a, queue, head, iov, &chain);
	n = iov_write(iov + chain.out, chain.in, 0, src, MIN(n, chain.in_bytes));
	for (unsigned i = chain.out; i < chain.out + chain.in; i++)
		hv_gmem_dirty(a->gmem, iov[i].iov_base, iov[i].iov_len);
	vring_push(&a->ring[queue], head, (uint32_t)n);
	return n;
}

/* The guest sees what was answered. `more`: this queue has work left for another turn. */
static void publish(struct hv_agent *a, enum queue queue, bool more)
{
	const struct guest_mem *mem = hv_gmem_banks(a->gmem);
	struct vring_dev *ring = &a->ring[queue];

	if (!a->runs[queue])
		return;
	if (vring_publish(ring, mem))
		eventfd_write(a->virtio.queue[queue].call_fd, 1);
	if (vring_want_kicks(ring, mem) && more)
		kick(a, queue);
	hv_gmem_dirty(a->gmem, ring->used, vring_used_bytes(ring->size));
}

/* --- what the guest is told -------------------------------------------------------------------- */

static bool host_open(const struct hv_agent *a)
{
	return a->fd >= 0 || a->farewell;
}

/* The next message; 0: nothing is to be said. */
static size_t next_message(const struct hv_agent *a, uint8_t *dst)
{
	struct virtio_console_control c = {.id = PORT, .value = 1};
	size_t n = sizeof(c);

	if (a->wanted && !a->added) {
		c.event = VIRTIO_CONSOLE_PORT_ADD;
	} else if (a->ready && !a->named) {
		c.event = VIRTIO_CONSOLE_PORT_NAME;
		memcpy(dst + n, NAME, sizeof(NAME));
		n += sizeof(NAME);
	} else if (a->ready && a->told_open != host_open(a)) {
		c.event = VIRTIO_CONSOLE_PORT_OPEN;
		c.value = host_open(a);
	} else {
		return 0;
	}
	memcpy(dst, &c, sizeof(c));
	return n;
}

static void was_told(struct hv_agent *a)
{
	if (!a->added)
		a->added = true;
	else if (!a->named)
		a->named = true;
	else
		a->told_open = host_open(a);
}

static void tell(struct hv_agent *a)
{
	uint8_t message[sizeof(struct virtio_console_control) + sizeof(NAME)];
	uint16_t head;
	size_t n;

	while ((n = next_message(a, message)) && pop(a, CONTROL_IN, &head)) {
		fill(a, CONTROL_IN, head, message, n);
		was_told(a);
	}
	publish(a, CONTROL_IN, n != 0);
}

/* --- the daemon -------------------------------------------------------------------------------- */

static void drop_input(struct hv_agent *a)
{
	a->in_n = a->in_at = 0;
}

static void drop_daemon(struct hv_agent *a)
{
	if (a->fd < 0)
		return;
	close(a->fd);
	a->fd = -1;
	drop_input(a);
	a->farewell = a->thaws && a->guest_open;
	if (a->farewell) {
		a->in_n = sizeof(thaw) - 1;
		memcpy(a->in, thaw, a->in_n);
		kick(a, PORT_IN);
	}
	kick(a, PORT_OUT); /* what it waited to send goes nowhere */
	kick(a, CONTROL_IN);
}

void hv_agent_connect(struct hv_agent *a, int fd, bool thaws)
{
	a->thaws = false; /* who comes now sees to it */
	drop_daemon(a);
	a->fd = fd;
	a->thaws = thaws;
	a->farewell = false;
	kick(a, CONTROL_IN);
	kick(a, PORT_OUT);
}

bool hv_agent_connected(const struct hv_agent *a)
{
	return a->fd >= 0;
}

static void give(struct hv_agent *a)
{
	uint16_t head;

	while (a->guest_open && a->in_at < a->in_n && pop(a, PORT_IN, &head))
		a->in_at += fill(a, PORT_IN, head, a->in + a->in_at, a->in_n - a->in_at);
	if (a->in_at == a->in_n)
		drop_input(a);
	publish(a, PORT_IN, a->in_n != 0);
}

/* Sends what is left of the held chain: true when all of it has gone. */
static bool send_held(struct hv_agent *a)
{
	struct iovec iov[SEGMENTS_MAX], rest[SEGMENTS_MAX];
	struct vring_chain chain;
	struct msghdr msg = {.msg_iov = rest};

	read_chain(a, PORT_OUT, a->held, iov, &chain);
	while (a->fd >= 0 && a->sent < chain.out_bytes) {
		msg.msg_iovlen = iov_slice(rest, iov, chain.out, (size_t)a->sent,
					   (size_t)(chain.out_bytes - a->sent));
		ssize_t n = sendmsg(a->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0 && errno == EAGAIN)
			return false;
		if (n < 0)
			drop_daemon(a);
		else
			a->sent += (uint64_t)n;
	}
	return true;
}

static void take(struct hv_agent *a)
{
	unsigned i = 0;

	for (; i < TURN_MAX && (a->holds || pop(a, PORT_OUT, &a->held)); i++) {
		if (!a->holds)
			a->sent = 0;
		a->holds = true;
		if (!send_held(a))
			break;
		a->holds = false;
		vring_push(&a->ring[PORT_OUT], a->held, 0);
	}
	publish(a, PORT_OUT, !a->holds);
}

void hv_agent_poll(const struct hv_agent *a, struct pollfd *out)
{
	*out = (struct pollfd){.fd = a->fd};
	if (!a->in_n)
		out->events |= POLLIN;
	if (a->holds)
		out->events |= POLLOUT;
}

void hv_agent_serve_daemon(struct hv_agent *a, const struct pollfd *polled)
{
	if (a->fd < 0 || polled->fd != a->fd)
		return;
	if (polled->revents & POLLOUT)
		take(a);
	if (polled->revents & (POLLHUP | POLLERR) && a->in_n) {
		drop_daemon(a); /* half a request is worth nothing */
		return;
	}
	if (a->fd < 0 || a->in_n || !(polled->revents & (POLLIN | POLLHUP | POLLERR)))
		return;
	ssize_t n = recv(a->fd, a->in, sizeof(a->in), MSG_DONTWAIT);
	if (n == 0 || (n < 0 && errno != EAGAIN)) {
		drop_daemon(a);
	} else if (n > 0 && a->guest_open) {
		a->in_n = (size_t)n;
		give(a);
	}
}

/* --- what the guest says ----------------------------------------------------------------------- */

static void set_guest_open(struct hv_agent *a, bool open)
{
	bool closed = a->guest_open && !open;

	a->guest_open = open;
	if (!closed)
		return;
	a->thaws = a->farewell = false; /* whoever could thaw has gone */
	drop_input(a);
	drop_daemon(a);
}

static void obey(struct hv_agent *a, const struct virtio_console_control *c)
{
	if (c->event == VIRTIO_CONSOLE_DEVICE_READY && c->value == 1) {
		set_guest_open(a, false);
		a->wanted = true;
		a->added = a->ready = a->named = a->told_open = false;
	}
	if (c->id == PORT && c->event == VIRTIO_CONSOLE_PORT_READY) {
		a->ready = a->added && c->value == 1;
		a->named = a->told_open = false;
	}
	if (c->id == PORT && c->event == VIRTIO_CONSOLE_PORT_OPEN)
		set_guest_open(a, a->ready && c->value == 1);
}

static void hear(struct hv_agent *a)
{
	unsigned i = 0;
	uint16_t head;

	for (; i < TURN_MAX && pop(a, CONTROL_OUT, &head); i++) {
		struct virtio_console_control c = {0};
		struct iovec iov[SEGMENTS_MAX];
		struct vring_chain chain;

		read_chain(a, CONTROL_OUT, head, iov, &chain);
		if (iov_read(iov, chain.out, 0, &c, sizeof(c)) == sizeof(c))
			obey(a, &c);
		vring_push(&a->ring[CONTROL_OUT], head, 0);
	}
	publish(a, CONTROL_OUT, true);
	tell(a);
}

/* Port 0, or a driver that knows no ports: nobody listens. */
static void sink(struct hv_agent *a)
{
	uint16_t head;

	for (unsigned i = 0; i < TURN_MAX && pop(a, PORT0_OUT, &head); i++)
		vring_push(&a->ring[PORT0_OUT], head, 0);
	publish(a, PORT0_OUT, true);
}

static void agent_serve(struct hv_virtio *v, unsigned queue)
{
	struct hv_agent *a = container_of(v, struct hv_agent, virtio);
	eventfd_t kicks;

	eventfd_read(v->queue[queue].kick_fd, &kicks);
	switch ((enum queue)queue) {
	case PORT0_OUT:
		sink(a);
		break;
	case CONTROL_IN:
		tell(a);
		break;
	case CONTROL_OUT:
		hear(a);
		break;
	case PORT_IN:
		give(a);
		break;
	case PORT_OUT:
		take(a);
		break;
	case PORT0_IN:
	case QUEUES:
		break;
	}
}

/* --- its life ---------------------------------------------------------------------------------- */

static void forget_guest(struct hv_agent *a)
{
	set_guest_open(a, false);
	memset(a->runs, 0, sizeof(a->runs));
	a->wanted = a->added = a->ready = a->named = a->told_open = a->holds = a->farewell = false;
	drop_input(a);
}

void hv_agent_stop(struct hv_agent *a)
{
	forget_guest(a);
}

static void agent_reset(struct hv_virtio *v)
{
	forget_guest(container_of(v, struct hv_agent, virtio));
	hv_virtio_reset_done(v);
}

static const struct hv_virtio_ops agent_ops = {
	.features = agent_features,
	.config_read = agent_config_read,
	.run = agent_run,
	.reset = agent_reset,
	.serve = agent_serve,
};

struct hv_virtio *hv_agent_device(struct hv_agent *a)
{
	forget_guest(a);
	a->virtio = (struct hv_virtio){
		.ops = &agent_ops,
		.type = VIRTIO_ID_CONSOLE,
		.pci_class = 0x078000,
		.queues_n = QUEUES,
	};
	for (unsigned i = 0; i < QUEUES; i++)
		a->virtio.queue[i].size_max = a->queue_size;
	return &a->virtio;
}

void hv_agent_create(struct hv_agent **out, struct hv_gmem *gmem, uint16_t queue_size)
{
	struct hv_agent *a = xcalloc(1, sizeof(*a));

	a->gmem = gmem;
	a->queue_size = queue_size;
	a->fd = -1;
	*out = a;
}

void hv_agent_destroy(struct hv_agent *a)
{
	if (!a)
		return;
	util_close(&a->fd);
	free(a);
}

/* --- saved state ------------------------------------------------------------------------------- */

void hv_agent_save(const struct hv_agent *a, unsigned instance, struct hv_state_writer *w)
{
	const uint8_t told = (uint8_t)(a->wanted | a->added << 1 | a->ready << 2 | a->named << 3 |
				       a->told_open << 4 | a->guest_open << 5);

	hv_state_begin(w, "agent", instance, 1);
	hv_state_put8(w, told);
	for (unsigned i = 0; i < QUEUES; i++) {
		/* What is held has no answer: it is sent once more, to a daemon that expects nothing. */
		bool again = i == PORT_OUT && a->holds;
		hv_state_put8(w, a->runs[i]);
		hv_state_put16(w, (uint16_t)(a->ring[i].next_avail - again));
	}
}

int hv_agent_load(struct hv_agent *a, unsigned instance, struct hv_state_reader *r)
{
	uint16_t base[QUEUES];
	bool runs[QUEUES];
	int rc = hv_state_section(r, "agent", instance, 1);

	if (rc < 0)
		return rc;
	uint8_t told = hv_state_get8(r);
	for (unsigned i = 0; i < QUEUES; i++) {
		runs[i] = hv_state_get8(r) & 1;
		base[i] = hv_state_get16(r);
	}
	rc = hv_state_done(r);
	if (rc)
		return rc;
	for (unsigned i = 0; i < QUEUES; i++) {
		if (!runs[i])
			continue;
		if (!hv_virtio_ready(&a->virtio) || !a->virtio.queue[i].enabled ||
		    !start(a, i, base[i]))
			return hv_state_refuse(r, "one of its rings is none");
	}
	a->wanted = told & 1;
	a->added = told & 2;
	a->ready = told & 4;
	a->named = told & 8;
	a->told_open = told & 16;
	a->guest_open = told & 32;
	return 0;
}
