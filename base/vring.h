// SPDX-License-Identifier: Apache-2.0
/*
 * vring.h: a split virtqueue (virtio 1.2, 2.7) from the device's side; the layouts are those of
 * <linux/virtio_ring.h>, little-endian. The daemon serves disks with it, the VMM its own devices.
 *
 *	while (vring_pop(ring, &head) > 0) {
 *		rc = vring_read_chain(ring, mem, head, iov, ARRAY_SIZE(iov), &chain);
 *		...				// work; answer each head exactly once
 *		vring_push(ring, head, written);
 *	}
 *	if (vring_publish(ring))		// one used-index update and one call a batch
 *		eventfd_write(call_fd, 1);
 *	if (vring_want_kicks(ring))		// something came in between: again
 *		goto again;
 *
 * Both sides decide on a call or kick with vring_need_event() of <linux/virtio_ring.h>.
 *
 * Everything in the ring is the guest's and may change while it is looked at: each field is read
 * once, and checked after it was read. A ring that makes no sense gives -EINVAL: it is to be
 * stopped until the guest resets it. A bad chain costs that one request.
 */
#ifndef BASE_VRING_H
#define BASE_VRING_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>
#include <linux/virtio_ring.h>

#include "base/guest_mem.h"

#define VRING_SIZE_MAX	   32768u /* 2.7: a power of two up to that */
#define VRING_SEGMENTS_MAX 1024u  /* of one chain, indirect ones counted; more is refused */

struct vring_dev {
	unsigned size;
	struct vring_desc *desc;
	struct vring_avail *avail;
	struct vring_used *used;
	uint64_t used_gpa;     /* where used lies, for the dirty log, when log_used */
	bool log_used;	       /* log writes to the used ring in `mem` of vring_push */
	bool event_idx;	       /* VIRTIO_RING_F_EVENT_IDX is negotiated */
	uint16_t next_avail;   /* free-running index of the next avail entry to take */
	uint16_t used_idx;     /* free-running index that was published last */
	uint16_t unpublished;  /* used entries written since */
	unsigned in_hand;      /* taken and not published: at most size */
	bool signalled_before; /* a call was sent or suppressed since the start */
};

/* Bytes of the three parts of a ring of `size` entries, event fields included. */
static inline uint64_t vring_desc_bytes(unsigned size)
{
	return 16ULL * size;
}
static inline uint64_t vring_avail_bytes(unsigned size)
{
	return 6 + 2ULL * size;
}
static inline uint64_t vring_used_bytes(unsigned size)
{
	return 6 + 8ULL * size;
}

/*
 * Starts on a ring whose parts are mapped at these addresses (checked by guest_mem_at for the
 * sizes above; aligned to 16, 2, 4: else -EINVAL). `base`: the first avail index to take. The used
 * index goes on where the ring's own stands.
 */
int vring_start(struct vring_dev *ring, unsigned size, void *desc, void *avail, void *used,
		uint16_t base, bool event_idx);

/* How many heads wait; -EINVAL: an index beyond the ring's size, the ring is broken. */
int vring_pending(const struct vring_dev *ring);
/* Takes the next head: 1, 0 when there is none, -EINVAL when the ring is broken. */
int vring_pop(struct vring_dev *ring, uint16_t *head);
/* Counts a head that was taken before this start (in-flight tracking); -EINVAL as vring_pop. */
int vring_retake(struct vring_dev *ring);

struct vring_chain {
	unsigned out, in; /* iov[0..out) the guest wrote, iov[out..out+in) the device writes */
	uint64_t out_bytes, in_bytes;
	uint64_t absent; /* with -EAGAIN: an offset in the memory's file */
};
/*
 * Walks the chain of `head` into at most `max` pieces of mapped memory. -EINVAL: a loop, a bad
 * address, index, flag or order; -E2BIG: too many pieces. -EAGAIN: not all of it is there yet (guest_mem.h;
 * the ring itself must be), chain->absent says what is missing first. Changes nothing.
 */
int vring_read_chain(const struct vring_dev *ring, const struct guest_mem *mem, uint16_t head,
		     struct iovec *iov, unsigned max, struct vring_chain *chain);

/* Writes a used entry; the guest sees it after vring_publish. `written`: bytes the device wrote. */
void vring_push(struct vring_dev *ring, uint16_t head, uint32_t written);
/*
 * The last `n` heads that were taken were not: they wait in the ring again. Those of them that were pushed
 * are the last that were, and not published.
 */
void vring_rewind(struct vring_dev *ring, unsigned n, unsigned pushed);
/* Publishes the pushed entries; true when the guest wants to be called. Logs them as dirty. */
bool vring_publish(struct vring_dev *ring, const struct guest_mem *mem);
/*
 * Asks for kicks and looks again: true when there is something to take already. vring_no_kicks is
 * the opposite, while the ring is being worked on (free with EVENT_IDX).
 */
bool vring_want_kicks(struct vring_dev *ring, const struct guest_mem *mem);
void vring_no_kicks(struct vring_dev *ring);

/* --- small copies to and from pieces of memory ------------------------------------------------- */

/* Copies `len` bytes at `offset` of the pieces; returns how many were there. */
size_t iov_read(const struct iovec *iov, unsigned n, size_t offset, void *dst, size_t len);
size_t iov_write(const struct iovec *iov, unsigned n, size_t offset, const void *src, size_t len);
size_t iov_zero(const struct iovec *iov, unsigned n, size_t offset, size_t len);
/* Makes in `dst` (room for n) the pieces [offset, offset + len); returns how many pieces. */
unsigned iov_slice(struct iovec *dst, const struct iovec *iov, unsigned n, size_t offset,
		   size_t len);

#endif
