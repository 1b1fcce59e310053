// SPDX-License-Identifier: Apache-2.0
/*
 * A queue pair that the kernel serves (vhost-net, <linux/vhost.h>): frames do not pass through this process at all. Only
 * while nobody logs what is written: with a log, and wherever the kernel refuses, the pair's thread does the work. The
 * rings go from one to the other where they stand, the driver notices nothing.
 */
#include "hv/net_impl.h"

#include <errno.h>
#include <linux/vhost.h>
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <linux/virtio_ring.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>

#include "base/err.h"
#include "base/log.h"
#include "base/util.h"
#include "hv/gmem.h"

#define BIT(n) (1ULL << (n))
/* What vhost-net must know of: how rings and headers look. */
#define RING_FEATURES                                             \
	(BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_RING_F_EVENT_IDX) | \
	 BIT(VIRTIO_RING_F_INDIRECT_DESC) | BIT(VIRTIO_NET_F_MRG_RXBUF))

enum { RX, TX, RINGS };

static struct net_ring *ring_of(struct net_pair *p, unsigned i)
{
	return i == RX ? &p->rx : &p->tx;
}

static int give_memory(struct net_pair *p)
{
	const struct guest_mem *mem = hv_gmem_banks(p->net->gmem);
	struct vhost_memory *table =
		xcalloc(1, sizeof(*table) + mem->count * sizeof(table->regions[0]));

	table->nregions = mem->count;
	for (unsigned i = 0; i < mem->count; i++)
		table->regions[i] = (struct vhost_memory_region){
			.guest_phys_addr = mem->region[i].gpa,
			.memory_size = mem->region[i].size,
			.userspace_addr = (uintptr_t)mem->region[i].host,
		};
	int rc = ioctl(p->vhost_fd, VHOST_SET_MEM_TABLE, table) < 0 ? -errno : 0;
	free(table);
	return rc;
}

static int give_ring(struct net_pair *p, unsigned index)
{
	const struct net_ring *r = ring_of(p, index);
	const int fd = p->vhost_fd;
	struct vhost_vring_state num = {.index = index, .num = r->vring.size},
				 base = {.index = index, .num = r->vring.next_avail};
	struct vhost_vring_addr addr = {
		.index = index,
		.desc_user_addr = (uintptr_t)r->vring.desc,
		.avail_user_addr = (uintptr_t)r->vring.avail,
		.used_user_addr = (uintptr_t)r->vring.used,
	};
	struct vhost_vring_file kick = {.index = index, .fd = r->kick_fd},
				call = {.index = index, .fd = r->call_fd};

	if (ioctl(fd, VHOST_SET_VRING_NUM, &num) < 0 ||
	    ioctl(fd, VHOST_SET_VRING_BASE, &base) < 0 ||
	    ioctl(fd, VHOST_SET_VRING_ADDR, &addr) < 0 ||
	    ioctl(fd, VHOST_SET_VRING_KICK, &kick) < 0 ||
	    ioctl(fd, VHOST_SET_VRING_CALL, &call) < 0)
		return -errno;
	return 0;
}

static int set_backend(struct net_pair *p, unsigned index, int tap)
{
	struct vhost_vring_file backend = {.index = index, .fd = tap};

	return ioctl(p->vhost_fd, VHOST_NET_SET_BACKEND, &backend) < 0 ? -errno : 0;
}

/* Where the kernel stopped we go on. */
static void take_ring(struct net_pair *p, unsigned index)
{
	struct net_ring *r = ring_of(p, index);
	struct vring_dev *v = &r->vring;
	struct vhost_vring_state state = {.index = index};

	(void)set_backend(p, index, -1);
	if (ioctl(p->vhost_fd, VHOST_GET_VRING_BASE, &state) < 0) {
		net_ring_break(p->net, r, "kernel's");
		return;
	}
	MUST(!vring_start(v, v->size, v->desc, v->avail, v->used, (uint16_t)state.num,
			  v->event_idx));
}

/* Both or none: one that the kernel has begun with goes on where it stopped. */
static int let_serve(struct net_pair *p)
{
	for (unsigned i = 0; i < RINGS; i++) {
		int rc = set_backend(p, i, p->tap);

		for (unsigned k = 0; rc && k < i; k++)
			take_ring(p, k);
		if (rc)
			return rc;
	}
	return 0;
}

static int begin(struct net_pair *p)
{
	const uint64_t driver = p->net->virtio.driver_features & RING_FEATURES;
	uint64_t kernel = 0;
	int rc = 0;

	if (ioctl(p->vhost_fd, VHOST_SET_OWNER) < 0 && errno != EBUSY) /* ours from another life */
		return -errno;
	if (ioctl(p->vhost_fd, VHOST_GET_FEATURES, &kernel) < 0)
		return -errno;
	if (driver & ~kernel)
		return -ENOTSUP;
	if (ioctl(p->vhost_fd, VHOST_SET_FEATURES, &driver) < 0)
		return -errno;
	rc = give_memory(p);
	for (unsigned i = 0; i < RINGS && !rc; i++)
		rc = give_ring(p, i);
	return rc ? rc : let_serve(p);
}

static void end(struct net_pair *p)
{
	for (unsigned i = 0; i < RINGS; i++)
		take_ring(p, i);
	p->by_kernel = false;
}

void net_vhost_settle(struct net_pair *p)
{
	bool can = p->vhost_fd >= 0 && p->rx.on && p->tx.on && p->attached && p->tap >= 0 &&
		   !p->frame_n && !atomic_load(&p->net->held) && !atomic_load(&p->net->logged);

	if (p->by_kernel && !can)
		end(p);
	if (p->by_kernel || !can)
		return;
	int rc = begin(p);
	if (rc) {
		log_info("net", "device %u: vhost-net does not serve it: %s", p->net->index,
			 strerror(-rc));
		p->vhost_fd = -1; /* nor will it later */
		return;
	}
	p->by_kernel = true;
	for (unsigned i = 0; i < RINGS; i++) /* what waits in them */
		eventfd_write(ring_of(p, i)->kick_fd, 1);
}
