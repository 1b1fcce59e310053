// SPDX-License-Identifier: Apache-2.0
/*
 * The network device: what it offers, its control queue, its life. Frames: net_pair.c.
 *
 * A reset or a start by the guest waits for the turn that a pair's thread is in, which is short: a tap never
 * blocks. Without VIRTIO_NET_F_MQ the control queue is the third one, else the last (5.1.2).
 */
#include "hv/net.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_net.h>
#include <linux/virtio_ring.h>
#include <net/if.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/util.h"
#include "hv/gmem.h"
#include "hv/net_impl.h"
#include "hv/state.h"

#define BIT(n) (1ULL << (n))
/* How what comes in may look: the tap does the rest. */
#define GUEST_OFFLOADS                                                 \
	(BIT(VIRTIO_NET_F_GUEST_CSUM) | BIT(VIRTIO_NET_F_GUEST_TSO4) | \
	 BIT(VIRTIO_NET_F_GUEST_TSO6) | BIT(VIRTIO_NET_F_GUEST_ECN) | BIT(VIRTIO_NET_F_GUEST_UFO))
#define FEATURES                                                                                 \
	(GUEST_OFFLOADS | BIT(VIRTIO_NET_F_CSUM) | BIT(VIRTIO_NET_F_HOST_TSO4) |                 \
	 BIT(VIRTIO_NET_F_HOST_TSO6) | BIT(VIRTIO_NET_F_HOST_ECN) | BIT(VIRTIO_NET_F_HOST_UFO) | \
	 BIT(VIRTIO_NET_F_MAC) | BIT(VIRTIO_NET_F_MTU) | BIT(VIRTIO_NET_F_MRG_RXBUF) |           \
	 BIT(VIRTIO_NET_F_STATUS) | BIT(VIRTIO_NET_F_CTRL_VQ) |                                  \
	 BIT(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS) | BIT(VIRTIO_NET_F_GUEST_ANNOUNCE) |              \
	 BIT(VIRTIO_RING_F_EVENT_IDX) | BIT(VIRTIO_RING_F_INDIRECT_DESC))

#define CTRL_TURN	 64
#define CTRL_SEGMENTS	 16
#define CTRL_DATA	 16 /* bytes of the longest command that is obeyed */
#define ANNOUNCEMENTS	 5  /* 0, 50, 200, 450, 800 ms after it was let go: as QEMU does */
#define ANNOUNCE_MS	 50
#define ANNOUNCE_MORE_MS 100
#define RARP_BYTES	 60

static struct hv_net *net_of(struct hv_virtio *v)
{
	return container_of(v, struct hv_net, virtio);
}

/* --- the device, as the transport sees it ------------------------------------------------------ */

static uint64_t net_features(struct hv_virtio *v)
{
	return FEATURES | (net_of(v)->pairs > 1 ? BIT(VIRTIO_NET_F_MQ) : 0);
}

static void net_config_read(struct hv_virtio *v, uint32_t offset, void *dst, unsigned size)
{
	struct hv_net *net = net_of(v);
	struct virtio_net_config c = {
		.max_virtqueue_pairs = htole16((uint16_t)net->pairs),
		.mtu = htole16(net->how.mtu),
	};
	unsigned status = atomic_load(&net->linked) ? VIRTIO_NET_S_LINK_UP : 0;

	if (atomic_load(&net->announcing))
		status |= VIRTIO_NET_S_ANNOUNCE;
	c.status = htole16((uint16_t)status);
	memcpy(c.mac, net->how.mac, sizeof(c.mac));
	memset(dst, 0, size);
	if (offset < sizeof(c))
		memcpy(dst, (uint8_t *)&c + offset, MIN(size, sizeof(c) - offset));
}

static void lock_all(struct hv_net *net)
{
	for (unsigned i = 0; i < net->pairs; i++)
		net_pair_lock(&net->pair[i]);
}

static void unlock_all(struct hv_net *net)
{
	for (unsigned i = net->pairs; i-- > 0;) {
		net_pair_unlock(&net->pair[i]);
		net_pair_wake(&net->pair[i]);
	}
}

/* --- the tap's side of things; pair 0's lock is held ---------------------------------------------- */

static unsigned tap_offloads(uint64_t features)
{
	static const struct {
		unsigned feature, tap;
	} table[] = {
		{VIRTIO_NET_F_GUEST_TSO4, TUN_F_TSO4},
		{VIRTIO_NET_F_GUEST_TSO6, TUN_F_TSO6},
		{VIRTIO_NET_F_GUEST_ECN, TUN_F_TSO_ECN},
		{VIRTIO_NET_F_GUEST_UFO, TUN_F_UFO},
	};
	unsigned bits = features & BIT(VIRTIO_NET_F_GUEST_CSUM) ? TUN_F_CSUM : 0;

	for (unsigned i = 0; bits && i < ARRAY_SIZE(table); i++)
		bits |= features & BIT(table[i].feature) ? table[i].tap : 0;
	return bits;
}

/* For the whole tap, by any of its queues that is attached. */
static bool set_offloads(struct hv_net *net, uint64_t features)
{
	const int tap = net->pair[0].tap;

	net->offloads = features & GUEST_OFFLOADS;
	return tap < 0 || ioctl(tap, TUNSETOFFLOAD, tap_offloads(features)) == 0;
}

/* A queue of the tap that the driver does not serve gets no frames. */
static void attach(struct net_pair *p, bool on)
{
	struct ifreq ifr = {0};

	if (p->attached == on || p->tap < 0)
		return;
	if (!on) { /* the kernel must not have a queue that goes */
		p->attached = false;
		net_vhost_settle(p);
		p->attached = true;
	}
	ifr.ifr_flags = on ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE;
	if (p->net->pairs > 1 && ioctl(p->tap, TUNSETQUEUE, &ifr) < 0)
		log_warn("net", "device %u: queue %u of its tap cannot be %s: %s", p->net->index,
			 p->index, on ? "attached" : "detached", strerror(errno));
	else
		p->attached = on;
}

/* Pairs' locks are taken in their order; pair 0's is held already. */
static void use_pairs(struct hv_net *net, unsigned n)
{
	net->used_pairs = n;
	for (unsigned i = 1; i < net->pairs; i++) {
		net_pair_lock(&net->pair[i]);
		attach(&net->pair[i], i < n);
		net_vhost_settle(&net->pair[i]);
		net_pair_unlock(&net->pair[i]);
		net_pair_wake(&net->pair[i]);
	}
}

/* --- the control queue ------------------------------------------------------------------------------ */

static bool ctrl_mq(struct hv_net *net, uint8_t cmd, const uint8_t *data, size_t n)
{
	uint16_t pairs;

	if (cmd != VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET || n != sizeof(pairs) ||
	    !(net->virtio.driver_features & BIT(VIRTIO_NET_F_MQ)))
		return false;
	memcpy(&pairs, data, sizeof(pairs));
	pairs = le16toh(pairs);
	if (pairs < 1 || pairs > net->pairs)
		return false;
	use_pairs(net, pairs);
	return true;
}

static bool ctrl_offloads(struct hv_net *net, uint8_t cmd, const uint8_t *data, size_t n)
{
	uint64_t bits;

	if (cmd != VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET || n != sizeof(bits) ||
	    !(net->virtio.driver_features & BIT(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS)))
		return false;
	memcpy(&bits, data, sizeof(bits));
	bits = le64toh(bits);
	if (bits & ~(net->virtio.driver_features & GUEST_OFFLOADS))
		return false;
	return set_offloads(net, bits);
}

static bool obey(struct hv_net *net, const struct virtio_net_ctrl_hdr *hdr, const uint8_t *data,
		 size_t n)
{
	if (hdr->class == VIRTIO_NET_CTRL_MQ)
		return ctrl_mq(net, hdr->cmd, data, n);
	if (hdr->class == VIRTIO_NET_CTRL_GUEST_OFFLOADS)
		return ctrl_offloads(net, hdr->cmd, data, n);
	if (hdr->class == VIRTIO_NET_CTRL_ANNOUNCE && hdr->cmd == VIRTIO_NET_CTRL_ANNOUNCE_ACK) {
		atomic_store(&net->announcing, false);
		return true;
	}
	return false;
}

/* Bytes written: the answer, a byte, or none when there is no room for it. */
static uint32_t answer_ctrl(struct hv_net *net, uint16_t head)
{
	struct virtio_net_ctrl_hdr hdr = {0};
	struct iovec iov[CTRL_SEGMENTS];
	struct vring_chain chain;
	uint8_t data[CTRL_DATA];

	if (vring_read_chain(&net->ctrl.vring, hv_gmem_banks(net->gmem), head, iov, CTRL_SEGMENTS,
			     &chain) < 0 ||
	    !chain.in_bytes)
		return 0;
	bool whole = iov_read(iov, chain.out, 0, &hdr, sizeof(hdr)) == sizeof(hdr);
	size_t n = iov_read(iov, chain.out, sizeof(hdr), data, sizeof(data));
	whole = whole && chain.out_bytes == sizeof(hdr) + n;
	const uint8_t ack = whole && obey(net, &hdr, data, n) ? VIRTIO_NET_OK : VIRTIO_NET_ERR;
	iov_write(iov + chain.out, chain.in, 0, &ack, sizeof(ack));
	hv_gmem_dirty(net->gmem, iov[chain.out].iov_base, iov[chain.out].iov_len);
	return sizeof(ack);
}

bool net_serve_ctrl(struct hv_net *net)
{
	uint16_t head;
	int rc = 0;

	if (!net->ctrl.on)
		return false;
	for (unsigned i = 0; i < CTRL_TURN; i++) {
		rc = vring_pop(&net->ctrl.vring, &head);
		if (rc <= 0)
			break;
		vring_push(&net->ctrl.vring, head, answer_ctrl(net, head));
	}
	if (rc < 0)
		net_ring_break(net, &net->ctrl, "control");
	return net_ring_end_turn(net, &net->ctrl, 0);
}

/* --- announcements ------------------------------------------------------------------------------------ */

/* RFC 903 as switches know it: who sends it is here. From the guest's address to all. */
static void send_rarp(struct hv_net *net)
{
	static const uint8_t head[] = {0x80, 0x35, /* reverse ARP */
				       0x00, 0x01, 0x08, 0x00, 6, 4, 0x00, 0x03};
	uint8_t frame[HV_NET_HEADER + RARP_BYTES] = {0}, *p = frame + HV_NET_HEADER;

	memset(p, 0xff, 6);
	memcpy(p + 6, net->how.mac, 6);
	memcpy(p + 12, head, sizeof(head));
	memcpy(p + 22, net->how.mac, 6);
	memcpy(p + 32, net->how.mac, 6);
	if (write(net->pair[0].tap, frame, sizeof(frame)) < 0)
		log_warn("net", "device %u: it cannot announce itself: %s", net->index,
			 strerror(errno));
}

int net_announce(struct hv_net *net)
{
	uint64_t now;

	if (!net->announcements || net->pair[0].tap < 0)
		return -1;
	now = clock_boot_ns();
	if (now >= net->announce_ns) {
		unsigned made = ANNOUNCEMENTS - net->announcements--;

		net->announce_ns = now + (ANNOUNCE_MS + made * ANNOUNCE_MORE_MS) * NS_PER_MS;
		send_rarp(net);
		if (net->can_announce && !atomic_exchange(&net->announcing, true))
			eventfd_write(net->virtio.config_fd, 1);
	}
	return net->announcements ? (int)((net->announce_ns - now) / NS_PER_MS) + 1 : -1;
}

/* --- its rings ------------------------------------------------------------------------------------------ */

static unsigned ctrl_index(const struct hv_net *net)
{
	return net->virtio.driver_features & BIT(VIRTIO_NET_F_MQ) ? 2 * net->pairs : 2;
}

/* False: there is no such ring. One that is not enabled is none to be served. */
static bool start_ring(struct hv_net *net, struct net_ring *r, unsigned index, uint16_t base)
{
	const struct hv_virtio_queue *q = &net->virtio.queue[index];

	r->on = false;
	if (!q->enabled)
		return true;
	void *desc = hv_gmem_at(net->gmem, q->desc, vring_desc_bytes(q->size));
	void *avail = hv_gmem_at(net->gmem, q->driver, vring_avail_bytes(q->size));
	void *used = hv_gmem_at(net->gmem, q->device, vring_used_bytes(q->size));
	bool event_idx = net->virtio.driver_features & BIT(VIRTIO_RING_F_EVENT_IDX);
	if (!desc || !avail || !used ||
	    vring_start(&r->vring, q->size, desc, avail, used, base, event_idx))
		return false;
	r->kick_fd = q->kick_fd;
	r->call_fd = q->call_fd;
	r->on = true;
	return true;
}

/* What the driver agreed to; all locks are held. */
static void take_features(struct hv_net *net)
{
	const uint64_t features = net->virtio.driver_features;

	net->mergeable = features & BIT(VIRTIO_NET_F_MRG_RXBUF);
	net->can_announce = features & BIT(VIRTIO_NET_F_GUEST_ANNOUNCE) &&
			    features & BIT(VIRTIO_NET_F_CTRL_VQ);
}

static bool has_ctrl(const struct hv_net *net)
{
	return net->virtio.driver_features & BIT(VIRTIO_NET_F_CTRL_VQ);
}

/* Without MQ the queues from the third on are no pairs. */
static unsigned ring_pairs(const struct hv_net *net)
{
	return net->virtio.driver_features & BIT(VIRTIO_NET_F_MQ) ? net->pairs : 1;
}

static void settle_all(struct hv_net *net)
{
	for (unsigned i = 0; i < net->pairs; i++)
		net_vhost_settle(&net->pair[i]);
}

static void net_run(struct hv_virtio *v)
{
	struct hv_net *net = net_of(v);
	bool good = true;

	lock_all(net);
	take_features(net);
	if (!set_offloads(net, v->driver_features))
		log_warn("net", "device %u: its tap lacks offloads: %s", net->index,
			 strerror(errno));
	for (unsigned i = 0; i < ring_pairs(net); i++) {
		good = start_ring(net, &net->pair[i].rx, 2 * i, 0) && good;
		good = start_ring(net, &net->pair[i].tx, 2 * i + 1, 0) && good;
	}
	if (has_ctrl(net))
		good = start_ring(net, &net->ctrl, ctrl_index(net), 0) && good;
	settle_all(net);
	unlock_all(net);
	if (!good)
		log_warn("net", "device %u: a ring of the guest's lies outside of its memory",
			 net->index);
}

static void net_reset(struct hv_virtio *v)
{
	struct hv_net *net = net_of(v);

	lock_all(net);
	net->ctrl.on = false;
	atomic_store(&net->announcing, false);
	net->can_announce = net->mergeable = false;
	net->used_pairs = 1;
	for (unsigned i = 0; i < net->pairs; i++) {
		struct net_pair *p = &net->pair[i];

		p->rx.on = p->tx.on = p->starved = false;
		net_vhost_settle(p);
		p->frame_n = 0;
		attach(p, i == 0);
	}
	set_offloads(net, 0);
	unlock_all(net);
	hv_virtio_reset_done(v);
}

static const struct hv_virtio_ops net_ops = {
	.features = net_features,
	.config_read = net_config_read,
	.run = net_run,
	.reset = net_reset,
};

/* --- its life ------------------------------------------------------------------------------------------- */

/* All locks are held. */
static void take_link(struct hv_net *net, const struct hv_net_link *link)
{
	if (link)
		net->how = link->how;
	atomic_store(&net->linked, link && link->taps);
	for (unsigned i = 0; i < net->pairs; i++) {
		struct net_pair *p = &net->pair[i];

		p->attached = false;
		net_vhost_settle(p); /* the kernel has none of it */
		p->tap = link && i < link->taps ? link->tap[i] : -1;
		p->vhost_fd = link && i < link->vhosts ? link->vhost[i] : -1;
		p->attached = true; /* as they come */
		p->frame_n = 0;
		p->starved = false;
		if (p->tap >= 0)
			fcntl(p->tap, F_SETFL, O_RDWR | O_NONBLOCK);
		attach(p, i < net->used_pairs);
		net_vhost_settle(p);
	}
	if (!set_offloads(net, net->offloads))
		log_warn("net", "device %u: its tap lacks offloads: %s", net->index,
			 strerror(errno));
}

void hv_net_set_link(struct hv_net *net, const struct hv_net_link *link)
{
	lock_all(net);
	take_link(net, link);
	unlock_all(net);
	hv_virtio_config_changed(&net->virtio);
}

int hv_net_create(struct hv_net **out, unsigned index, unsigned pairs, uint16_t queue_size,
		  struct hv_gmem *gmem, const struct hv_net_link *link)
{
	struct hv_net *net = xcalloc(1, sizeof(*net));
	int rc = 0;

	MUST(pairs >= 1 && pairs <= VMCTL_NET_PAIRS_MAX);
	net->index = index;
	net->pairs = pairs;
	net->gmem = gmem;
	net->used_pairs = 1;
	net->how.mtu = 1500;
	atomic_store(&net->held, true);
	net->virtio = (struct hv_virtio){
		.ops = &net_ops,
		.type = VIRTIO_ID_NET,
		.pci_class = 0x020000,
		.queues_n = 2 * pairs + 1,
	};
	for (unsigned i = 0; i < net->virtio.queues_n; i++)
		net->virtio.queue[i].size_max = queue_size;
	for (unsigned i = 0; i < pairs; i++) {
		net->pair[i].net = net;
		net->pair[i].index = i;
		net->pair[i].tap = net->pair[i].wake_fd = net->pair[i].vhost_fd = -1;
	}
	for (unsigned i = 0; i < pairs && !rc; i++)
		rc = net_pair_init(&net->pair[i]);
	if (rc) {
		hv_net_destroy(net);
		return rc;
	}
	lock_all(net);
	take_link(net, link);
	unlock_all(net);
	*out = net;
	return 0;
}

int hv_net_start(struct hv_net *net)
{
	int rc = 0;

	for (unsigned i = 0; i < net->pairs && !rc; i++)
		rc = net_pair_start(&net->pair[i]);
	return rc;
}

void hv_net_end(struct hv_net *net)
{
	hv_net_hold(net); /* the kernel has none of its rings */
	for (unsigned i = 0; i < net->pairs; i++)
		net_pair_end(&net->pair[i]);
}

void hv_net_destroy(struct hv_net *net)
{
	if (!net)
		return;
	hv_net_end(net);
	free(net);
}

struct hv_virtio *hv_net_device(struct hv_net *net)
{
	return &net->virtio;
}

void hv_net_hold(struct hv_net *net)
{
	atomic_store(&net->held, true);
	lock_all(net); /* until their turns have ended */
	settle_all(net);
	unlock_all(net);
}

void hv_net_go(struct hv_net *net)
{
	lock_all(net);
	atomic_store(&net->held, false);
	settle_all(net);
	unlock_all(net);
}

void hv_net_log(struct hv_net *net, bool on)
{
	lock_all(net);
	atomic_store(&net->logged, on);
	settle_all(net);
	unlock_all(net);
}

/* --- saved state ------------------------------------------------------------------------------------------ */

static void save_ring(const struct net_ring *r, struct hv_state_writer *w)
{
	hv_state_put8(w, r->on);
	hv_state_put16(w, r->vring.next_avail);
}

/* A frame that waited for room in a ring is lost, as one on a wire. */
void hv_net_save(const struct hv_net *net, unsigned instance, struct hv_state_writer *w)
{
	MUST(atomic_load(&net->held));
	hv_state_begin(w, "net", instance, 1);
	hv_state_put64(w, net->offloads);
	hv_state_put16(w, (uint16_t)net->used_pairs);
	hv_state_put8(w, atomic_load(&net->announcing));
	save_ring(&net->ctrl, w);
	for (unsigned i = 0; i < net->pairs; i++) {
		save_ring(&net->pair[i].rx, w);
		save_ring(&net->pair[i].tx, w);
	}
}

static bool load_ring(struct hv_net *net, struct net_ring *r, unsigned index,
		      struct hv_state_reader *reader)
{
	bool on = hv_state_get8(reader) & 1;
	uint16_t base = hv_state_get16(reader);

	if (!on)
		return true;
	return hv_virtio_ready(&net->virtio) && index < net->virtio.queues_n &&
	       start_ring(net, r, index, base) && r->on;
}

static bool load_all(struct hv_net *net, struct hv_state_reader *r)
{
	bool good;

	net->offloads = hv_state_get64(r) & GUEST_OFFLOADS;
	net->used_pairs = hv_state_get16(r);
	good = net->used_pairs >= 1 && net->used_pairs <= ring_pairs(net);
	if (!good)
		net->used_pairs = 1;
	atomic_store(&net->announcing, hv_state_get8(r) & 1);
	take_features(net);
	good = load_ring(net, &net->ctrl, ctrl_index(net), r) && good;
	for (unsigned i = 0; i < net->pairs; i++) {
		good = load_ring(net, &net->pair[i].rx, 2 * i, r) && good;
		good = load_ring(net, &net->pair[i].tx, 2 * i + 1, r) && good;
	}
	return good && !(net->offloads & ~net->virtio.driver_features);
}

int hv_net_load(struct hv_net *net, unsigned instance, struct hv_state_reader *r)
{
	int rc = hv_state_section(r, "net", instance, 1);

	if (rc < 0)
		return rc;
	lock_all(net);
	bool good = load_all(net, r);
	set_offloads(net, net->offloads);
	/* The source sends after what came for the guest until now; that it stood still is not over yet. */
	for (unsigned i = 0; i < net->pairs; i++) {
		attach(&net->pair[i], i < net->used_pairs);
		net_pair_discard(&net->pair[i]);
	}
	net->announcements = ANNOUNCEMENTS;
	net->announce_ns = 0;
	unlock_all(net);
	rc = hv_state_done(r);
	return rc || good ? rc : hv_state_refuse(r, "its rings are none");
}
