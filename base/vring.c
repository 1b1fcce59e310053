// SPDX-License-Identifier: Apache-2.0
/*
 * vring.c: the device's side of a split virtqueue. Reads what the guest wrote exactly once and
 * believes nothing of it; barriers as virtio 1.2, 2.7.7 and 2.7.10 ask.
 */
#include "base/vring.h"

#include <errno.h>
#include <string.h>

#include "base/err.h"
#include "base/util.h"

#define LOAD(x)	      __atomic_load_n(&(x), __ATOMIC_RELAXED)
#define STORE(x, v)   __atomic_store_n(&(x), (v), __ATOMIC_RELAXED)
#define ACQUIRE(x)    __atomic_load_n(&(x), __ATOMIC_ACQUIRE)
#define RELEASE(x, v) __atomic_store_n(&(x), (v), __ATOMIC_RELEASE)

/* After the last entry of each ring: the event index of the other side (2.7.6, 2.7.8). */
static uint16_t *used_event(const struct vring_dev *ring)
{
	return &ring->avail->ring[ring->size];
}

static uint16_t *avail_event(const struct vring_dev *ring)
{
	return (uint16_t *)(void *)&ring->used->ring[ring->size];
}

int vring_start(struct vring_dev *ring, unsigned size, void *desc, void *avail, void *used,
		uint16_t base, bool event_idx)
{
	if (!size || size > VRING_SIZE_MAX || (size & (size - 1)))
		return fail(-EINVAL, "ring: %u is no size of a ring", size);
	if ((uintptr_t)desc % 16 || (uintptr_t)avail % 2 || (uintptr_t)used % 4)
		return fail(-EINVAL, "ring: its parts are not aligned to 16, 2 and 4 bytes");
	memset(ring, 0, sizeof(*ring));
	ring->size = size;
	ring->desc = desc;
	ring->avail = avail;
	ring->used = used;
	ring->event_idx = event_idx;
	ring->next_avail = base;
	ring->used_idx = LOAD(ring->used->idx);
	return 0;
}

int vring_pending(const struct vring_dev *ring)
{
	uint16_t n = (uint16_t)(ACQUIRE(ring->avail->idx) - ring->next_avail);

	if (n > ring->size)
		return fail(-EINVAL, "ring: avail index is %u ahead in a ring of %u", n,
			    ring->size);
	return n;
}

int vring_pop(struct vring_dev *ring, uint16_t *head)
{
	int n = vring_pending(ring);

	if (n <= 0)
		return n;
	*head = LOAD(ring->avail->ring[ring->next_avail & (ring->size - 1)]);
	if (*head >= ring->size)
		return fail(-EINVAL, "ring: head %u in a ring of %u", *head, ring->size);
	n = vring_retake(ring);
	if (n < 0)
		return n;
	ring->next_avail++;
	return 1;
}

int vring_retake(struct vring_dev *ring)
{
	if (ring->in_hand == ring->size)
		return fail(-EINVAL, "ring: more requests than its %u entries", ring->size);
	ring->in_hand++;
	return 0;
}

/* One walk: where the descriptors lie that it is in now, and what it has gathered. */
struct walk {
	const struct guest_mem *mem;
	struct iovec *iov;
	unsigned max, n;
	unsigned left; /* descriptors it may still look at */
	struct vring_chain *chain;
};

/* Adds one descriptor's memory; it may span neighbouring regions. */
static int walk_add(struct walk *w, uint64_t gpa, uint32_t len, bool write)
{
	if (!write && w->chain->in)
		return -EINVAL; /* 2.7.4.2: what the device reads comes first */
	if (write)
		w->chain->in_bytes += len;
	else
		w->chain->out_bytes += len;
	while (len) {
		void *host;
		uint64_t got = guest_mem_span(w->mem, gpa, len, &host);

		if (!got)
			return -EINVAL;
		if (w->n == w->max)
			return -E2BIG;
		w->iov[w->n++] = (struct iovec){host, (size_t)got};
		if (write)
			w->chain->in++;
		else
			w->chain->out++;
		gpa += got;
		len -= (uint32_t)got;
	}
	return 0;
}

/*
 * Follows `table` of `count` descriptors from `at`. A loop ends by `left`. An indirect descriptor
 * ends its chain (2.7.5.3.1) and is returned in *indirect; inside of a table (`indirect` NULL)
 * there is none.
 */
static int walk_table(struct walk *w, const struct vring_desc *table, unsigned count, unsigned at,
		      struct vring_desc *indirect)
{
	for (;;) {
		struct vring_desc d;
		int rc;

		if (at >= count || !w->left--)
			return -EINVAL;
		d.addr = LOAD(table[at].addr);
		d.len = LOAD(table[at].len);
		d.flags = LOAD(table[at].flags);
		d.next = LOAD(table[at].next);
		if (d.flags & VRING_DESC_F_INDIRECT) {
			if (!indirect || (d.flags & VRING_DESC_F_NEXT))
				return -EINVAL;
			*indirect = d;
			return 1;
		}
		rc = walk_add(w, d.addr, d.len, d.flags & VRING_DESC_F_WRITE);
		if (rc || !(d.flags & VRING_DESC_F_NEXT))
			return rc;
		at = d.next;
	}
}

int vring_read_chain(const struct vring_dev *ring, const struct guest_mem *mem, uint16_t head,
		     struct iovec *iov, unsigned max, struct vring_chain *chain)
{
	struct walk w = {.mem = mem, .iov = iov, .max = max, .chain = chain};
	struct vring_desc indirect;
	void *table;
	int rc;

	memset(chain, 0, sizeof(*chain));
	w.left = MAX(ring->size, VRING_SEGMENTS_MAX);
	rc = walk_table(&w, ring->desc, ring->size, head, &indirect);
	if (rc == 1) {
		if (!indirect.len || indirect.len % 16 || indirect.addr % 8)
			return -EINVAL;
		table = guest_mem_at(mem, indirect.addr, indirect.len);
		if (!table)
			return -EINVAL;
		if (!guest_mem_is_present(mem, table, indirect.len, &chain->absent))
			return -EAGAIN;
		rc = walk_table(&w, table, indirect.len / 16, 0, NULL);
	}
	for (unsigned i = 0; rc == 0 && mem->present && i < chain->out + chain->in; i++)
		if (!guest_mem_is_present(mem, iov[i].iov_base, iov[i].iov_len, &chain->absent))
			return -EAGAIN;
	return rc;
}

void vring_push(struct vring_dev *ring, uint16_t head, uint32_t written)
{
	unsigned at = (unsigned)(ring->used_idx + ring->unpublished) & (ring->size - 1);

	MUST(ring->unpublished < ring->in_hand);
	STORE(ring->used->ring[at].id, head);
	STORE(ring->used->ring[at].len, written);
	ring->unpublished++;
}

void vring_rewind(struct vring_dev *ring, unsigned n, unsigned pushed)
{
	MUST(pushed <= n && pushed <= ring->unpublished && n <= ring->in_hand);
	ring->next_avail = (uint16_t)(ring->next_avail - n);
	ring->in_hand -= n;
	ring->unpublished -= pushed;
}

static void log_published(const struct vring_dev *ring, const struct guest_mem *mem, uint16_t was)
{
	unsigned first = was & (ring->size - 1), n = ring->unpublished;
	unsigned run = MIN(n, ring->size - first);

	guest_mem_log(mem, ring->used_gpa + 4 + 8ULL * first, 8ULL * run);
	if (n > run)
		guest_mem_log(mem, ring->used_gpa + 4, 8ULL * (n - run));
	guest_mem_log(mem, ring->used_gpa, 4);
}

bool vring_publish(struct vring_dev *ring, const struct guest_mem *mem)
{
	uint16_t was = ring->used_idx, now = (uint16_t)(was + ring->unpublished);
	bool first = !ring->signalled_before;

	if (!ring->unpublished)
		return false;
	RELEASE(ring->used->idx, now);
	if (ring->log_used)
		log_published(ring, mem, was);
	ring->used_idx = now;
	ring->in_hand -= ring->unpublished;
	ring->unpublished = 0;
	/* The index must be visible before the driver's wish is read, or a call gets lost. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (!ring->event_idx)
		return !(LOAD(ring->avail->flags) & VRING_AVAIL_F_NO_INTERRUPT);
	ring->signalled_before = true;
	return first || vring_need_event(LOAD(*used_event(ring)), now, was);
}

bool vring_want_kicks(struct vring_dev *ring, const struct guest_mem *mem)
{
	if (ring->event_idx) {
		STORE(*avail_event(ring), ring->next_avail);
		if (ring->log_used)
			guest_mem_log(mem, ring->used_gpa + 4 + 8ULL * ring->size, 2);
	} else if (LOAD(ring->used->flags)) {
		STORE(ring->used->flags, 0);
		if (ring->log_used)
			guest_mem_log(mem, ring->used_gpa, 2);
	}
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return ACQUIRE(ring->avail->idx) != ring->next_avail;
}

void vring_no_kicks(struct vring_dev *ring)
{
	if (!ring->event_idx)
		STORE(ring->used->flags, VRING_USED_F_NO_NOTIFY);
}

/* --- pieces ------------------------------------------------------------------------------------ */

enum iov_what { IOV_READ, IOV_WRITE, IOV_ZERO };

static size_t iov_walk(const struct iovec *iov, unsigned n, size_t offset, void *buf, size_t len,
		       enum iov_what what)
{
	size_t done = 0;

	for (unsigned i = 0; i < n && done < len; i++) {
		uint8_t *at = iov[i].iov_base;
		size_t part;

		if (offset >= iov[i].iov_len) {
			offset -= iov[i].iov_len;
			continue;
		}
		part = MIN(len - done, iov[i].iov_len - offset);
		switch (what) {
		case IOV_READ:
			memcpy((uint8_t *)buf + done, at + offset, part);
			break;
		case IOV_WRITE:
			memcpy(at + offset, (const uint8_t *)buf + done, part);
			break;
		case IOV_ZERO:
			memset(at + offset, 0, part);
			break;
		}
		done += part;
		offset = 0;
	}
	return done;
}

size_t iov_read(const struct iovec *iov, unsigned n, size_t offset, void *dst, size_t len)
{
	return iov_walk(iov, n, offset, dst, len, IOV_READ);
}

size_t iov_write(const struct iovec *iov, unsigned n, size_t offset, const void *src, size_t len)
{
	return iov_walk(iov, n, offset, (void *)(uintptr_t)src, len, IOV_WRITE);
}

size_t iov_zero(const struct iovec *iov, unsigned n, size_t offset, size_t len)
{
	return iov_walk(iov, n, offset, NULL, len, IOV_ZERO);
}

unsigned iov_slice(struct iovec *dst, const struct iovec *iov, unsigned n, size_t offset,
		   size_t len)
{
	unsigned made = 0;

	for (unsigned i = 0; i < n && len; i++) {
		size_t part;

		if (offset >= iov[i].iov_len) {
			offset -= iov[i].iov_len;
			continue;
		}
		part = MIN(len, iov[i].iov_len - offset);
		dst[made++] = (struct iovec){(uint8_t *)iov[i].iov_base + offset, part};
		len -= part;
		offset = 0;
	}
	return made;
}
