// SPDX-License-Identifier: Apache-2.0
/*
 * front.h: a vhost-user front-end and virtio driver in one, small, for tests and benchmarks: own
 * memfd, split rings with EVENT_IDX, in-flight memory kept across reconnects.
 */
#ifndef TESTS_LIB_FRONT_H
#define TESTS_LIB_FRONT_H

#include <stdbool.h>
#include <stdint.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_ring.h>
#include <linux/virtio_scsi.h>

#include "base/vhost_user.h"

#define FRONT_QUEUES 8
#define FRONT_GPA    0x100000000ULL /* where front_init's memory lies for the "guest" */

struct front_queue {
	unsigned index, size;
	struct vring_desc *desc;
	struct vring_avail *avail;
	struct vring_used *used;
	uint64_t ring_offset; /* in the memory */
	uint16_t avail_idx, seen_used;
	uint16_t *free; /* chains of 4 descriptors: heads that are free */
	unsigned free_count;
	int kick_fd, call_fd;
};
struct front {
	int fd;
	int mem_fd;
	uint8_t *mem;
	uint64_t mem_bytes, data_offset; /* data may be put behind data_offset */
	uint64_t gpa;			 /* of the memory's first byte */
	bool borrowed;			 /* the memory is the caller's */
	uint64_t offered, features;	 /* wanted ones; those that are offered are acknowledged */
	uint64_t protocol;
	unsigned queues;
	struct front_queue q[FRONT_QUEUES];
	int inflight_fd;
	struct vhost_user_inflight inflight;
	bool event_idx;
};

/* Makes memory of `mem_bytes` (sealed) and `queues` rings of `size`; nothing is connected. */
int front_init(struct front *f, unsigned queues, unsigned size, uint64_t mem_bytes);
/* The same in memory of the caller's, from its guest address 0 on, the rings at `at` (not wiped). */
void front_init_in(struct front *f, unsigned queues, unsigned size, int mem_fd, uint8_t *mem,
		   uint64_t mem_bytes, uint64_t at);
void front_free(struct front *f);
/* Connects (waiting up to timeout_ms for the socket), negotiates, starts all rings. */
int front_connect(struct front *f, const char *path, int timeout_ms);
/* The same on a connected socket, which it takes. */
int front_start(struct front *f, int fd);
/* As front_start without the rings; then they, all of them: again after front_stop_ring. */
int front_negotiate(struct front *f, int fd);
int front_start_rings(struct front *f);
void front_disconnect(struct front *f);
/* Sends a request; replies into *reply when it has one. */
int front_call(struct front *f, struct vhost_user_msg *msg, struct vhost_user_msg *reply);
/* Stops ring `index`, waits for the drain; returns the base or -errno. */
int front_stop_ring(struct front *f, unsigned index);

/*
 * Puts a chain of up to 4 pieces at offsets of the memory: the first `out` to the device, the rest
 * from it. Returns the head, or -EBUSY when no chain is free. front_kick tells the device.
 */
struct front_piece {
	uint64_t offset;
	uint32_t bytes;
};
int front_add(struct front *f, unsigned queue, const struct front_piece *pieces, unsigned out,
	      unsigned in);
void front_kick(struct front *f, unsigned queue, uint16_t old_avail);
/* Kicks whether it is asked for or not: after a reconnect. */
void front_kick_always(struct front *f, unsigned queue);
/* The next answered head, or -EAGAIN; its bytes in *written. The chain is free again. */
int front_get(struct front *f, unsigned queue, uint32_t *written);
/* As front_get, sleeping on the call descriptor up to timeout_ms: -ETIMEDOUT. */
int front_wait(struct front *f, unsigned queue, uint32_t *written, int timeout_ms);

/* One SCSI command and its answer, on queue 2; data at `data` of the memory. */
struct front_scsi {
	uint8_t lun[8];
	uint8_t cdb[32];
	uint32_t out_bytes, in_bytes;
	struct virtio_scsi_cmd_resp resp;
};
int front_scsi(struct front *f, struct front_scsi *s, uint64_t data);

#endif
