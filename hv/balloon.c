// SPDX-License-Identifier: Apache-2.0
/*
 * The balloon. Page numbers come from the guest by the thousand: they are sorted, so that neighbours go
 * back to the host in one piece.
 */
#include "hv/balloon.h"

#include <linux/virtio_balloon.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_ring.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/util.h"
#include "base/vring.h"
#include "hv/gmem.h"
#include "hv/state.h"

#define PAGE	     (1u << VIRTIO_BALLOON_PFN_SHIFT)
#define QUEUES	     4
#define SEGMENTS_MAX 64		/* of one request; drivers report 32 ranges at a time */
#define PFNS_MAX     1024	/* looked at in one piece; Linux sends 256 */
#define REQUEST_MAX  (64 * KiB) /* bytes of one request that are looked at */
#define STATS_MAX    32		/* of one buffer; more are not looked at */
#define TURN_MAX     4 /* requests of one turn: punching takes its time, vCPUs may wait for the lock */

/* What a queue is for. The optional ones lie behind each other, whichever of them there are. */
enum role { INFLATE, DEFLATE, STATS, REPORTING, NOTHING };

struct queue {
	struct vring_dev ring;
	bool running;
};

struct hv_balloon {
	struct hv_virtio virtio;
	struct hv_gmem *gmem;
	struct queue queue[QUEUES];
	uint64_t target;     /* bytes the guest is to have */
	uint32_t actual;     /* pages in the balloon, as the guest says */
	uint64_t inflated;   /* bytes that were given back, ever */
	uint64_t reported;   /* the same, by reporting */
	bool has_stats_head; /* the driver's buffer is kept until newer numbers are wanted */
	uint16_t stats_head;
	uint64_t stats_ns; /* when they came; 0: never */
	uint64_t stat[VMCTL_BALLOON_STATS];
};

static uint64_t balloon_features(struct hv_virtio *v)
{
	(void)v;
	return 1ULL << VIRTIO_RING_F_EVENT_IDX | 1ULL << VIRTIO_RING_F_INDIRECT_DESC |
	       1ULL << VIRTIO_BALLOON_F_STATS_VQ | 1ULL << VIRTIO_BALLOON_F_DEFLATE_ON_OOM |
	       1ULL << VIRTIO_BALLOON_F_REPORTING;
}

static bool agreed(const struct hv_balloon *b, unsigned feature)
{
	return b->virtio.driver_features & 1ULL << feature;
}

static enum role role_of(const struct hv_balloon *b, unsigned queue)
{
	if (queue <= DEFLATE)
		return queue == INFLATE ? INFLATE : DEFLATE;
	if (queue == 2 && agreed(b, VIRTIO_BALLOON_F_STATS_VQ))
		return STATS;
	return agreed(b, VIRTIO_BALLOON_F_REPORTING) ? REPORTING : NOTHING;
}

/* --- configuration ----------------------------------------------------------------------------- */

static void balloon_config_read(struct hv_virtio *v, uint32_t offset, void *dst, unsigned size)
{
	const struct hv_balloon *b = container_of(v, struct hv_balloon, virtio);
	uint64_t take = (hv_gmem_bytes(b->gmem) - b->target) / PAGE;
	const struct virtio_balloon_config config = {
		.num_pages = htole32((uint32_t)MIN(take, UINT32_MAX)),
		.actual = htole32(b->actual),
	};

	if (offset < sizeof(config))
		memcpy(dst, (const uint8_t *)&config + offset, MIN(size, sizeof(config) - offset));
}

static void balloon_config_write(struct hv_virtio *v, uint32_t offset, uint64_t value,
				 unsigned size)
{
	struct hv_balloon *b = container_of(v, struct hv_balloon, virtio);

	if (offset == offsetof(struct virtio_balloon_config, actual) && size == 4)
		b->actual = (uint32_t)value;
}

void hv_balloon_set_target(struct hv_balloon *b, uint64_t bytes)
{
	bytes = MIN(bytes, hv_gmem_bytes(b->gmem));
	if (bytes == b->target)
		return;
	b->target = bytes;
	hv_virtio_config_changed(&b->virtio);
}

/* --- pages that come back ---------------------------------------------------------------------- */

/* Whole pages between `host` and its end. */
static uint64_t give_back(struct hv_balloon *b, uint8_t *host, uint64_t bytes)
{
	uintptr_t from = ROUND_UP((uintptr_t)host, PAGE),
		  to = ROUND_DOWN((uintptr_t)host + bytes, PAGE);

	if (to <= from || hv_gmem_punch(b->gmem, (void *)from, to - from))
		return 0;
	return to - from;
}

/* Shell's; libc's asks the system for memory, which the sandbox kills for. */
static void sort(uint32_t *v, size_t n)
{
	for (size_t gap = n / 2; gap; gap /= 2) {
		for (size_t i = gap; i < n; i++) {
			uint32_t x = v[i];
			size_t k = i;

			for (; k >= gap && v[k - gap] > x; k -= gap)
				v[k] = v[k - gap];
			v[k] = x;
		}
	}
}

/* Numbers that are no memory are left out. */
static void take_pages(struct hv_balloon *b, uint32_t *pfn, size_t n)
{
	uint8_t *from = NULL, *to = NULL;

	for (size_t i = 0; i < n; i++)
		pfn[i] = le32toh(pfn[i]);
	sort(pfn, n);
	for (size_t i = 0; i < n; i++) {
		uint8_t *page = hv_gmem_at(b->gmem, (uint64_t)pfn[i] * PAGE, PAGE);

		if (!page || (to && page == to - PAGE)) /* none, or said twice */
			continue;
		if (page != to) {
			if (from)
				b->inflated += give_back(b, from, (uint64_t)(to - from));
			from = page;
		}
		to = page + PAGE;
	}
	if (from)
		b->inflated += give_back(b, from, (uint64_t)(to - from));
}

static void inflate(struct hv_balloon *b, const struct iovec *iov, const struct vring_chain *chain)
{
	uint32_t pfn[PFNS_MAX];

	for (size_t at = 0, n; at < REQUEST_MAX; at += n) {
		n = iov_read(iov, chain->out, at, pfn, sizeof(pfn));
		if (n < sizeof(*pfn))
			return;
		take_pages(b, pfn, n / sizeof(*pfn));
	}
}

static void take_stats(struct hv_balloon *b, const struct iovec *iov,
		       const struct vring_chain *chain)
{
	struct virtio_balloon_stat stat[STATS_MAX];
	size_t n = iov_read(iov, chain->out, 0, stat, sizeof(stat)) / sizeof(*stat);

	memset(b->stat, 0xff, sizeof(b->stat));
	for (size_t i = 0; i < n; i++) {
		uint16_t tag = le16toh(stat[i].tag);

		if (tag < VMCTL_BALLOON_STATS)
			b->stat[tag] = le64toh(stat[i].val);
	}
	b->stats_ns = clock_boot_ns();
}

/* --- rings ------------------------------------------------------------------------------------- */

/* False: there is no such ring. */
static bool start(struct hv_balloon *b, unsigned queue, uint16_t base)
{
	const struct hv_virtio_queue *q = &b->virtio.queue[queue];
	void *desc = hv_gmem_at(b->gmem, q->desc, vring_desc_bytes(q->size));
	void *avail = hv_gmem_at(b->gmem, q->driver, vring_avail_bytes(q->size));
	void *used = hv_gmem_at(b->gmem, q->device, vring_used_bytes(q->size));

	if (!desc || !avail || !used ||
	    vring_start(&b->queue[queue].ring, q->size, desc, avail, used, base,
			agreed(b, VIRTIO_RING_F_EVENT_IDX)))
		return false;
	b->queue[queue].running = true;
	eventfd_write(q->kick_fd, 1);
	return true;
}

static void balloon_run(struct hv_virtio *v)
{
	struct hv_balloon *b = container_of(v, struct hv_balloon, virtio);

	for (unsigned i = 0; i < QUEUES; i++) {
		if (v->queue[i].enabled && !start(b, i, 0))
			log_warn("balloon", "ring %u of the guest lies outside of its memory", i);
	}
}

static void balloon_reset(struct hv_virtio *v)
{
	struct hv_balloon *b = container_of(v, struct hv_balloon, virtio);

	for (unsigned i = 0; i < QUEUES; i++)
		b->queue[i].running = false;
	b->has_stats_head = false;
	b->stats_ns = 0;
	b->actual = 0; /* its driver gave up what it had taken, or is another one */
	hv_virtio_reset_done(v);
}

/* Answers what was pushed, and asks to be told of more. */
static void publish(struct hv_balloon *b, unsigned queue)
{
	const struct guest_mem *mem = hv_gmem_banks(b->gmem);
	struct vring_dev *ring = &b->queue[queue].ring;

	if (vring_publish(ring, mem))
		eventfd_write(b->virtio.queue[queue].call_fd, 1);
	if (vring_want_kicks(ring, mem))
		eventfd_write(b->virtio.queue[queue].kick_fd, 1); /* more came: next turn */
	hv_gmem_dirty(b->gmem, ring->used, vring_used_bytes(ring->size));
}

/* The driver's one buffer: it stays here until newer numbers are wanted. */
static void keep_stats_head(struct hv_balloon *b, struct vring_dev *ring, uint16_t head)
{
	if (b->has_stats_head)
		vring_push(ring, b->stats_head, 0);
	b->stats_head = head;
	b->has_stats_head = true;
}

static void work(struct hv_balloon *b, unsigned queue, uint16_t head)
{
	struct vring_dev *ring = &b->queue[queue].ring;
	struct iovec iov[SEGMENTS_MAX];
	struct vring_chain chain;
	enum role role = role_of(b, queue);

	if (vring_read_chain(ring, hv_gmem_banks(b->gmem), head, iov, SEGMENTS_MAX, &chain) < 0)
		role = NOTHING;
	if (role == INFLATE)
		inflate(b, iov, &chain);
	for (unsigned i = chain.out; role == REPORTING && i < chain.out + chain.in; i++)
		b->reported += give_back(b, iov[i].iov_base, iov[i].iov_len);
	if (role == STATS) {
		take_stats(b, iov, &chain);
		keep_stats_head(b, ring, head);
	} else { /* a page that is taken back is there again when it is touched: nothing to do */
		vring_push(ring, head, 0);
	}
}

static void balloon_serve(struct hv_virtio *v, unsigned queue)
{
	struct hv_balloon *b = container_of(v, struct hv_balloon, virtio);
	struct queue *q = &b->queue[queue];
	eventfd_t kicks;
	uint16_t head;
	int rc = 0;

	eventfd_read(v->queue[queue].kick_fd, &kicks);
	if (!q->running)
		return;
	for (unsigned i = 0; i < TURN_MAX; i++) {
		rc = vring_pop(&q->ring, &head);
		if (rc <= 0)
			break;
		work(b, queue, head);
	}
	if (rc >= 0) {
		publish(b, queue);
		return;
	}
	log_warn("balloon", "ring %u of the guest makes no sense; stopped until its next reset",
		 queue);
	q->running = false;
	if (role_of(b, queue) == STATS)
		b->has_stats_head = false;
	hv_gmem_dirty(b->gmem, q->ring.used, vring_used_bytes(q->ring.size));
}

void hv_balloon_get(const struct hv_balloon *b, struct vmctl_balloon *out)
{
	*out = (struct vmctl_balloon){
		.ready = hv_virtio_ready(&b->virtio),
		.target = b->target,
		.taken = MIN((uint64_t)b->actual * PAGE, hv_gmem_bytes(b->gmem)),
		.inflated = b->inflated,
		.reported = b->reported,
		.age_ns = b->stats_ns ? clock_boot_ns() - b->stats_ns : UINT64_MAX,
	};
	memset(out->stat, 0xff, sizeof(out->stat));
	if (b->stats_ns)
		memcpy(out->stat, b->stat, sizeof(out->stat));
}

void hv_balloon_ask(struct hv_balloon *b)
{
	if (!b->has_stats_head || !b->queue[STATS].running)
		return;
	b->has_stats_head = false;
	vring_push(&b->queue[STATS].ring, b->stats_head, 0);
	publish(b, STATS);
}

/* --- saved state ------------------------------------------------------------------------------- */

void hv_balloon_save(const struct hv_balloon *b, unsigned instance, struct hv_state_writer *w)
{
	hv_state_begin(w, "balloon", instance, 1);
	hv_state_put64(w, b->target);
	hv_state_put32(w, b->actual);
	hv_state_put8(w, b->has_stats_head);
	hv_state_put16(w, b->stats_head);
	hv_state_put8(w, QUEUES);
	for (unsigned i = 0; i < QUEUES; i++) {
		hv_state_put8(w, b->queue[i].running);
		hv_state_put16(w, b->queue[i].ring.next_avail);
	}
}

/* The buffer that is kept counts as taken. */
static int retake_stats(struct hv_balloon *b, struct hv_state_reader *r)
{
	struct queue *q = &b->queue[STATS];

	if (!b->has_stats_head)
		return 0;
	if (!q->running || b->stats_head >= q->ring.size || vring_retake(&q->ring))
		return hv_state_refuse(r, "its statistics' buffer is none");
	return 0;
}

int hv_balloon_load(struct hv_balloon *b, unsigned instance, struct hv_state_reader *r)
{
	uint16_t base[QUEUES];
	bool running[QUEUES];
	int rc = hv_state_section(r, "balloon", instance, 1);

	if (rc < 0)
		return rc;
	uint64_t target = hv_state_get64(r);
	b->target = MIN(target, hv_gmem_bytes(b->gmem));
	b->actual = hv_state_get32(r);
	bool has_head = hv_state_get8(r) & 1;
	b->stats_head = hv_state_get16(r);
	if (hv_state_get8(r) != QUEUES)
		r->bad = true;
	for (unsigned i = 0; i < QUEUES; i++) {
		running[i] = hv_state_get8(r) & 1;
		base[i] = hv_state_get16(r);
	}
	rc = hv_state_done(r);
	for (unsigned i = 0; i < QUEUES && !rc; i++) {
		if (!running[i])
			continue;
		if (!hv_virtio_ready(&b->virtio) || !b->virtio.queue[i].enabled ||
		    !start(b, i, base[i]))
			rc = hv_state_refuse(r, "its ring is none");
	}
	b->has_stats_head = has_head && !rc;
	rc = rc ? rc : retake_stats(b, r);
	b->has_stats_head = b->has_stats_head && !rc;
	return rc;
}

/* --- creation ---------------------------------------------------------------------------------- */

static const struct hv_virtio_ops balloon_ops = {
	.features = balloon_features,
	.config_read = balloon_config_read,
	.config_write = balloon_config_write,
	.run = balloon_run,
	.reset = balloon_reset,
	.serve = balloon_serve,
};

void hv_balloon_create(struct hv_balloon **out, struct hv_gmem *gmem, uint16_t queue_size)
{
	struct hv_balloon *b = xcalloc(1, sizeof(*b));

	b->gmem = gmem;
	b->target = hv_gmem_bytes(gmem);
	b->virtio = (struct hv_virtio){
		.ops = &balloon_ops,
		.type = VIRTIO_ID_BALLOON,
		.pci_class = 0x00ff00,
		.queues_n = QUEUES,
	};
	for (unsigned i = 0; i < QUEUES; i++)
		b->virtio.queue[i].size_max = queue_size;
	*out = b;
}

void hv_balloon_destroy(struct hv_balloon *b)
{
	free(b);
}

struct hv_virtio *hv_balloon_device(struct hv_balloon *b)
{
	return &b->virtio;
}
