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
#include "hv/state.h"

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

/* False: there is no such ring. */
static bool start(struct hv_rng *rng, uint16_t base)
{
	const struct hv_virtio *v = &rng->virtio;
	const struct hv_virtio_queue *q = &v->queue[0];

	void *desc = hv_gmem_at(rng->gmem, q->desc, vring_desc_bytes(q->size));
	void *avail = hv_gmem_at(rng->gmem, q->driver, vring_avail_bytes(q->size));
	void *used = hv_gmem_at(rng->gmem, q->device, vring_used_bytes(q->size));
	bool event_idx = v->driver_features & 1ULL << VIRTIO_RING_F_EVENT_IDX;
	if (!desc || !avail || !used ||
	    vring_start(&rng->ring, q->size, desc, avail, used, base, event_idx))
		return false;
	rng->running = true;
	eventfd_write(q->kick_fd, 1);
	return true;
}

static void rng_run(struct hv_virtio *v)
{
	struct hv_rng *rng = container_of(v, struct hv_rng, virtio);

	if (v->queue[0].enabled && !start(rng, 0))
		log_warn("rng", "the guest's ring lies outside of its memory");
}

static void rng_reset(struct hv_virtio *v)
{
	struct hv_rng *rng = container_of(v, struct hv_rng, virtio);

	rng->running = false;
	hv_virtio_reset_done(v);
}

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
	n = iov_write(iov + chain.out, chain.in, 0, bytes, n);
	for (unsigned i = chain.out; i < chain.out + chain.in; i++)
		hv_gmem_dirty(rng->gmem, iov[i].iov_base, iov[i].iov_len);
	return (uint32_t)n;
}

void hv_rng_serve(struct hv_rng *rng)
{
	const struct guest_mem *mem = hv_gmem_banks(rng->gmem);
	struct hv_virtio_queue *q = &rng->virtio.queue[0];
	eventfd_t kicks;
	uint16_t head;
	int rc = 0;

	eventfd_read(q->kick_fd, &kicks);
	if (!rng->running)
		return;
	for (unsigned i = 0; i < TURN_MAX; i++) {
		rc = vring_pop(&rng->ring, &head);
		if (rc <= 0)
			break;
		vring_push(&rng->ring, head, answer(rng, head));
	}
	if (rc < 0) {
		log_warn("rng", "the guest's ring makes no sense; stopped until its next reset");
		rng->running = false;
	} else {
		if (vring_publish(&rng->ring, mem))
			eventfd_write(q->call_fd, 1);
		if (vring_want_kicks(&rng->ring, mem))
			eventfd_write(q->kick_fd, 1); /* more came: next turn */
	}
	hv_gmem_dirty(rng->gmem, rng->ring.used, vring_used_bytes(rng->ring.size));
}

static void rng_serve(struct hv_virtio *v, unsigned queue)
{
	(void)queue;
	hv_rng_serve(container_of(v, struct hv_rng, virtio));
}

static const struct hv_virtio_ops rng_ops = {
	.features = rng_features,
	.config_read = rng_config_read,
	.run = rng_run,
	.reset = rng_reset,
	.serve = rng_serve,
};

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

/* --- saved state ------------------------------------------------------------------------------- */

void hv_rng_save(const struct hv_rng *rng, unsigned instance, struct hv_state_writer *w)
{
	hv_state_begin(w, "rng", instance, 1);
	hv_state_put8(w, rng->running);
	hv_state_put16(w, rng->ring.next_avail);
}

int hv_rng_load(struct hv_rng *rng, unsigned instance, struct hv_state_reader *r)
{
	int rc = hv_state_section(r, "rng", instance, 1);

	if (rc < 0)
		return rc;
	bool running = hv_state_get8(r) & 1;
	uint16_t base = hv_state_get16(r);
	rc = hv_state_done(r);
	if (rc || !running)
		return rc;
	if (!hv_virtio_ready(&rng->virtio) || !rng->virtio.queue[0].enabled || !start(rng, base))
		return hv_state_refuse(r, "its ring is none");
	return 0;
}
