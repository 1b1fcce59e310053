// SPDX-License-Identifier: Apache-2.0
/*
 * A queue pair: its thread copies frames between the guest's rings and the tap, one system call a frame.
 * From the guest to the tap straight out of its memory (the kernel checks header and lengths as it does those
 * of any program); to the guest through a buffer, since a frame's length is not known before it is read.
 *
 * What a guest puts into rings may change at any time and is checked by base/vring.h; frames are bytes.
 */
#include "hv/net_impl.h"

#include <errno.h>
#include <linux/virtio_net.h>
#include <poll.h>
#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/err.h"
#include "base/log.h"
#include "base/util.h"
#include "hv/gmem.h"

#define STACK_BYTES (128 * 1024)
#define TURN_MAX    64	 /* frames each way before the lock is given a chance */
#define STALE_MAX   8192 /* frames that a tap's queue may hold */
#define FRAME_MIN   (HV_NET_HEADER + 14)
#define BUFFERS_AT  offsetof(struct virtio_net_hdr_v1, num_buffers)

/* --- locks ------------------------------------------------------------------------------------- */

void net_pair_lock(struct net_pair *p)
{
	atomic_fetch_add(&p->wanted, 1);
	pthread_mutex_lock(&p->lock);
	atomic_fetch_sub(&p->wanted, 1);
}

void net_pair_unlock(struct net_pair *p)
{
	pthread_mutex_unlock(&p->lock);
}

void net_pair_wake(struct net_pair *p)
{
	eventfd_write(p->wake_fd, 1);
}

static bool held(const struct net_pair *p)
{
	return atomic_load_explicit(&p->net->held, memory_order_relaxed);
}

/* --- rings --------------------------------------------------------------------------------------- */

void net_ring_break(struct hv_net *net, struct net_ring *r, const char *what)
{
	log_warn("net",
		 "device %u: the guest's %s ring makes no sense; stopped until its next reset",
		 net->index, what);
	r->on = false;
}

bool net_ring_end_turn(struct hv_net *net, struct net_ring *r, unsigned seen)
{
	const struct guest_mem *mem = hv_gmem_banks(net->gmem);

	if (!r->on)
		return false;
	if (vring_publish(&r->vring, mem))
		eventfd_write(r->call_fd, 1);
	r->vring.next_avail = (uint16_t)(r->vring.next_avail + seen);
	bool more = vring_want_kicks(&r->vring, mem);
	r->vring.next_avail = (uint16_t)(r->vring.next_avail - seen);
	hv_gmem_dirty(net->gmem, r->vring.used, vring_used_bytes(r->vring.size));
	return more;
}

/* --- from the guest -------------------------------------------------------------------------------- */

/* A frame that is none, or that the tap does not take, is lost, as on a wire. */
static void send_frame(struct net_pair *p, uint16_t head)
{
	struct vring_chain chain;
	int rc = vring_read_chain(&p->tx.vring, hv_gmem_banks(p->net->gmem), head, p->iov,
				  NET_SEGMENTS, &chain);

	if (!rc && p->tap >= 0 && p->attached && chain.out_bytes >= FRAME_MIN &&
	    chain.out_bytes <= NET_FRAME_MAX && writev(p->tap, p->iov, (int)chain.out) < 0)
		log_debug("net", "device %u: a frame was not taken: %s", p->net->index,
			  strerror(errno));
	vring_push(&p->tx.vring, head, 0);
}

/* True: there is more to do. */
static bool serve_tx(struct net_pair *p)
{
	uint16_t head;
	int rc = 0;

	if (!p->tx.on)
		return false;
	vring_no_kicks(&p->tx.vring);
	for (unsigned i = 0; i < TURN_MAX && !held(p); i++) {
		rc = vring_pop(&p->tx.vring, &head);
		if (rc <= 0)
			break;
		send_frame(p, head);
	}
	if (rc < 0)
		net_ring_break(p->net, &p->tx, "transmit");
	return net_ring_end_turn(p->net, &p->tx, 0);
}

/* --- to the guest ---------------------------------------------------------------------------------- */

/* How many bytes of the frame, from `at` on, went into the buffer; -EINVAL: it is none. */
static int64_t fill_buffer(struct net_pair *p, uint16_t head, uint32_t at, uint8_t **start)
{
	struct vring_chain chain;
	uint32_t left = p->frame_n - at;

	if (vring_read_chain(&p->rx.vring, hv_gmem_banks(p->net->gmem), head, p->iov, NET_SEGMENTS,
			     &chain) < 0 ||
	    chain.out || !chain.in_bytes)
		return -EINVAL;
	size_t n = iov_write(p->iov, chain.in, 0, p->frame + at, left);
	*start = p->iov[0].iov_len >= HV_NET_HEADER ? p->iov[0].iov_base : NULL;
	size_t dirty = n;
	for (unsigned i = 0; i < chain.in && dirty; i++) {
		size_t part = MIN(dirty, p->iov[i].iov_len);
		hv_gmem_dirty(p->net->gmem, p->iov[i].iov_base, part);
		dirty -= part;
	}
	return (int64_t)n;
}

enum put { PUT_DONE, PUT_STARVED, PUT_BROKEN };

/*
 * The frame goes into as many buffers as it needs, or it waits, or it is too long for this driver. Starved:
 * `seen` buffers are there, and not enough.
 */
static enum put put_frame(struct net_pair *p, unsigned *seen)
{
	uint8_t *first = NULL, *start;
	unsigned taken = 0;
	uint32_t at = 0;

	while (at < p->frame_n) {
		uint16_t head;
		int rc = vring_pop(&p->rx.vring, &head);

		if (rc < 0)
			return PUT_BROKEN;
		if (!rc) {
			vring_rewind(&p->rx.vring, taken, taken);
			*seen = taken;
			return PUT_STARVED;
		}
		int64_t n = fill_buffer(p, head, at, &start);
		if (n < 0 || (!taken && !start))
			return PUT_BROKEN;
		if (!taken)
			first = start;
		taken++;
		at += (uint32_t)n;
		if (at < p->frame_n &&
		    !p->net->mergeable) { /* lost; the buffer is for the next one */
			vring_rewind(&p->rx.vring, taken, taken - 1);
			return PUT_DONE;
		}
		vring_push(&p->rx.vring, head, (uint32_t)n);
	}
	const uint16_t buffers = htole16((uint16_t)taken);
	memcpy(first + BUFFERS_AT, &buffers, sizeof(buffers));
	hv_gmem_dirty(p->net->gmem, first + BUFFERS_AT, sizeof(buffers));
	return PUT_DONE;
}

/* False: there is none. */
static bool read_frame(struct net_pair *p)
{
	ssize_t n;

	do
		n = read(p->tap, p->frame, sizeof(p->frame));
	while (n < 0 && errno == EINTR);
	if (n < 0 && errno != EAGAIN && errno != EIO) { /* EIO: the interface is down */
		log_warn("net", "device %u: its tap is gone: %s", p->net->index, strerror(errno));
		p->tap = -1;
	}
	p->frame_n = n < (ssize_t)FRAME_MIN ? 0 : (uint32_t)n;
	if (!p->net->offloads) /* what such a driver must not be told of (5.1.6.4.1) */
		memset(p->frame, 0, HV_NET_HEADER);
	return n > 0;
}

/* True: there is more to do. */
static bool serve_rx(struct net_pair *p)
{
	enum put put = PUT_DONE;
	unsigned i, seen = 0;

	if (!p->rx.on || p->tap < 0 || !p->attached)
		return false;
	vring_no_kicks(&p->rx.vring);
	for (i = 0; i < TURN_MAX && put == PUT_DONE && !held(p); i++) {
		if (!p->frame_n && !read_frame(p))
			break;
		put = put_frame(p, &seen);
		if (put == PUT_DONE)
			p->frame_n = 0;
	}
	if (put == PUT_BROKEN)
		net_ring_break(p->net, &p->rx, "receive");
	bool room = net_ring_end_turn(p->net, &p->rx, seen);
	p->starved = put == PUT_STARVED && !room;
	return p->rx.on && (put == PUT_STARVED ? room : i == TURN_MAX);
}

void net_pair_discard(struct net_pair *p)
{
	p->frame_n = 0;
	for (unsigned i = 0; i < STALE_MAX && p->tap >= 0 && p->attached && read_frame(p); i++)
		p->frame_n = 0;
	p->frame_n = 0;
}

/* --- the thread ------------------------------------------------------------------------------------ */

enum { P_WAKE, P_TAP, P_RX, P_TX, P_CTRL, POLLS };

static void wait_for(struct net_pair *p, struct pollfd polls[POLLS], bool on)
{
	const bool ours = on && !p->by_kernel;
	const bool tap = ours && p->rx.on && p->tap >= 0 && p->attached && !p->starved;

	polls[P_WAKE] = (struct pollfd){.fd = p->wake_fd, .events = POLLIN};
	polls[P_TAP] = (struct pollfd){.fd = tap ? p->tap : -1, .events = POLLIN};
	polls[P_RX] = (struct pollfd){.fd = ours && p->rx.on && p->starved ? p->rx.kick_fd : -1,
				      .events = POLLIN};
	polls[P_TX] = (struct pollfd){.fd = ours && p->tx.on ? p->tx.kick_fd : -1,
				      .events = POLLIN};
	polls[P_CTRL] = (struct pollfd){.fd = -1, .events = POLLIN};
	if (p->index == 0 && on && p->net->ctrl.on)
		polls[P_CTRL].fd = p->net->ctrl.kick_fd;
}

bool net_pair_turn(struct net_pair *p)
{
	bool more = false;

	if (!held(p)) {
		if (!p->by_kernel) {
			more = serve_tx(p);
			more = serve_rx(p) || more;
		}
		if (p->index == 0)
			more = net_serve_ctrl(p->net) || more;
	}
	return more;
}

/* What to poll for, and for how many ms, -1: for good. */
static int prepare_sleep(struct net_pair *p, struct pollfd polls[POLLS])
{
	const bool on = !held(p);

	wait_for(p, polls, on);
	return on && p->index == 0 ? net_announce(p->net) : -1;
}

static void sleep_in(struct pollfd polls[POLLS], int ms)
{
	eventfd_t n;

	if (poll(polls, POLLS, ms) <= 0)
		return;
	for (unsigned i = 0; i < POLLS; i++) {
		if (i != P_TAP && polls[i].fd >= 0 && polls[i].revents)
			eventfd_read(polls[i].fd, &n);
	}
}

static void *pair_thread(void *arg)
{
	struct net_pair *p = arg;
	struct pollfd polls[POLLS];
	char name[16];
	int ms = 0;

	snprintf(name, sizeof(name), "net%u.%u", p->net->index, p->index);
	prctl(PR_SET_NAME, name);
	for (;;) {
		while (atomic_load(&p->wanted))
			sched_yield();
		pthread_mutex_lock(&p->lock);
		bool ending = p->ending, more = !ending && net_pair_turn(p);
		if (!more)
			ms = prepare_sleep(p, polls);
		pthread_mutex_unlock(&p->lock);
		if (ending)
			return NULL;
		if (!more)
			sleep_in(polls, ms);
	}
}

int net_pair_init(struct net_pair *p)
{
	pthread_mutex_init(&p->lock, NULL);
	p->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return p->wake_fd < 0 ? fail(-errno, "net: eventfd: %s", strerror(errno)) : 0;
}

int net_pair_start(struct net_pair *p)
{
	pthread_attr_t attr;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	int err = pthread_create(&p->thread, &attr, pair_thread, p);
	pthread_attr_destroy(&attr);
	if (err)
		return fail(-err, "net: no thread: %s", strerror(err));
	p->started = true;
	return 0;
}

void net_pair_end(struct net_pair *p)
{
	if (p->started) {
		net_pair_lock(p);
		p->ending = true;
		net_pair_unlock(p);
		net_pair_wake(p);
		pthread_join(p->thread, NULL);
		p->started = false;
	}
	util_close(&p->wake_fd);
}
