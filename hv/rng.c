// SPDX-License-Identifier: Apache-2.0
/* The entropy device: each request is answered at once, with as much as one turn allows. */
#include "hv/rng.h"

#include <linux/virtio_ids.h>
#include <linux/virtio_ring.h>
#include <stdlib.h>
#include <sys/eventfd.h>

#include "base/log.h"
#include "base/util.h"
#include "base/vring.h"
#include "hv/gmem.h"

#define BYTES_MAX    4096 /* of one answer: a guest that wants more asks again */
#define SEGMENTS_MAX 16
#define TURN_MAX     64 /* requests of one turn, so that one guest queue starves nobody */

struct hv_rng {
	struct hv_virtio virtio;
	struct hv_gmem *gmem;
	struct vring_dev ring;
	bool running;
};

static uint64_t rng_features(struct hv_virtio *v)
{
	(void)v;
	return 1ULL << VIRTIO_RING_F_EVENT_IDX | 1ULL << VIRTIO_RING_F_INDIRECT_DESC;
}

static void rng_config_read(struct hv_virtio *v, uint32_t offset, void *dst, unsigned size)
{
	(void)v;
	(void)offset;
	(void)dst;
	(void)size;
}

static void rng_run(struct hv_virtio *v)
{
	struct hv_rng *rng = container_of(v, struct hv_rng, virtio);
	const struct hv_virtio_queue *q = &v->queue[0];

	if (!q->enabled)
		return;
	void *desc = hv_gmem_at(rng->gmem, q->desc, vring_desc_bytes(q->size));
	void *avail = hv_gmem_at(rng->gmem, q->driver, vring_avail_bytes(q->size));
	void *used = hv_gmem_at(rng->gmem, q->device, vring_used_bytes(q->size));
	bool event_idx = v->driver_features & 1ULL << VIRTIO_RING_F_EVENT_IDX;
	if (!desc || !avail || !used ||
	    vring_start(&rng->ring, q->size, desc, avail, used, 0, event_idx)) {
		log_warn("rng", "the guest's ring lies outside of its memory");
		return;
	}
	rng->running = true;
	eventfd_write(q->kick_fd, 1);
}

static void rng_reset(struct hv_virtio *v)
{
	struct hv_rng *rng = container_of(v, struct hv_rng, virtio);

	rng->running = false;
	hv_virtio_reset_done(v);
}

static const struct hv_virtio_ops rng_ops = {
	.features = rng_features,
	.config_read = rng_config_read,
	.run = rng_run,
	.reset = rng_reset,
};

/* Bytes written; a chain that makes no sense is answered with none. */
static uint32_t answer(struct hv_rng *rng, uint16_t head)
{
	uint8_t bytes[BYTES_MAX];
	struct iovec iov[SEGMENTS_MAX];
	struct vring_chain chain;

	if (vring_read_chain(&rng->ring, hv_gmem_banks(rng->gmem), head, iov, SEGMENTS_MAX,
			     &chain) < 0)
		return 0;
	size_t n = MIN(chain.in_bytes, sizeof(bytes));
	random_bytes(bytes, n);
	return (uint32_t)iov_write(iov + chain.out, chain.in, 0, bytes, n);
}

void hv_rng_serve(struct hv_rng *rng)
{
	const struct guest_mem *mem = hv_gmem_banks(rng->gmem);
	struct hv_virtio_queue *q = &rng->virtio.queue[0];
	eventfd_t kicks;
	uint16_t head;
	int rc = 0;

	eventfd_read(q->kick_fd, &kicks);
	for (unsigned i = 0; rng->running && i < TURN_MAX; i++) {
		rc = vring_pop(&rng->ring, &head);
		if (rc <= 0)
			break;
		vring_push(&rng->ring, head, answer(rng, head));
	}
	if (rc < 0) {
		log_warn("rng", "the guest's ring makes no sense; stopped until its next reset");
		rng->running = false;
	}
	if (!rng->running)
		return;
	if (vring_publish(&rng->ring, mem))
		eventfd_write(q->call_fd, 1);
	if (vring_want_kicks(&rng->ring, mem))
		eventfd_write(q->kick_fd, 1); /* more came: next turn */
}

void hv_rng_create(struct hv_rng **out, struct hv_gmem *gmem, uint16_t queue_size)
{
	struct hv_rng *rng = xcalloc(1, sizeof(*rng));

	rng->gmem = gmem;
	rng->virtio = (struct hv_virtio){
		.ops = &rng_ops,
		.type = VIRTIO_ID_RNG,
		.pci_class = 0x00ff00,
		.queues_n = 1,
		.queue = {{.size_max = queue_size}},
	};
	*out = rng;
}

void hv_rng_destroy(struct hv_rng *rng)
{
	free(rng);
}

struct hv_virtio *hv_rng_device(struct hv_rng *rng)
{
	return &rng->virtio;
}
