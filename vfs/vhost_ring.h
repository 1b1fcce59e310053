// SPDX-License-Identifier: Apache-2.0
/*
 * vhost_ring.h: a ring of a session, private to vhost_*.c. The life of a ring (vhost-user spec,
 * "Ring states"): configured by messages, started by SET_VRING_KICK, stopped by GET_VRING_BASE,
 * which is answered when its last request has ended. It is served while started and enabled.
 */
#ifndef VFS_VHOST_RING_H
#define VFS_VHOST_RING_H

#include "vfs/vhost.h"

struct vhost_kick; /* a watched kick descriptor, with a life of its own */

struct vhost_ring {
	struct vhost_session *session;
	unsigned index;
	/* as configured */
	unsigned size;
	uint16_t base;
	struct vhost_user_vring_addr addr;
	bool have_addr, enabled;
	int call_fd, err_fd;
	struct vhost_kick *kick;
	/* as it runs */
	bool started, broken;
	bool want_take; /* look for new requests in the next turn of work */
	bool taking;	/* in the middle of it */
	struct vring_dev q;
	struct inflight inflight;
	uint16_t *replay; /* heads to take again first; replay[replay_at..replay_count) */
	unsigned replay_at, replay_count;
	uint8_t *requests; /* `size` structs of the device */
	unsigned in_flight;
	/*
	 * Taken, and waiting for pages that have not come yet: parked[0..parked_n), the oldest first; as many of
	 * these as parked_ready says are to be tried again.
	 */
	struct vhost_parked {
		uint16_t head;
		bool replay;
	} * parked;
	unsigned parked_n, parked_ready;
	struct loop_work work;
	struct loop_op call_op, again_op;
	bool call_busy, call_again, again_busy;
	uint64_t one;
};

struct vhost_session {
	struct vhost_device *dev;
	int fd;
	unsigned refs; /* watches, operations, requests in flight; freed at 0 when dead */
	unsigned in_flight;
	bool dead, watching;
	char why[256];
	void (*ended)(void *arg, const char *why);
	void *ended_arg;
	struct loop_watch watch;
	struct loop_work free_work;
	struct vhost_user_msg msg;  /* being received */
	struct vhost_user_msg held; /* GET_VRING_BASE and the like, waiting for a drain */
	bool holding;
	uint64_t features, protocol_features;
	struct vhost_memory *memory; /* or NULL */
	struct guard_map log_map;
	uint8_t *log;
	uint64_t log_bytes;
	struct guard_map inflight_map;
	uint64_t inflight_offset;
	struct vhost_user_inflight inflight; /* num_queues 0: none */
	int backend_fd;
	struct vhost_ring ring[VHOST_RINGS];
	struct iovec scratch[VRING_SEGMENTS_MAX];
};

void vhost_session_ref(struct vhost_session *s);
void vhost_session_unref(struct vhost_session *s);
/* Kills the session, and returns true, when its client took shared memory away (guard.h). */
bool vhost_session_check_memory(struct vhost_session *s);
/* A ring has drained: goes on with the message that waits for it. */
void vhost_session_drained(struct vhost_session *s);
/* Closes a descriptor after the requests on it that are queued in the loop. */
void vhost_close_fd(struct loop *loop, int *fd);

void vhost_ring_init(struct vhost_ring *ring, struct vhost_session *s, unsigned index);
/* Finds the ring's parts in the session's memory; when it is started, without losing its place. */
int vhost_ring_resolve(struct vhost_ring *ring);
/* Writes to the used ring are logged, or not, from now on. */
void vhost_ring_update_log(struct vhost_ring *ring);
/* Watches `fd` (taken) for kicks, in place of the one before, and starts the ring. */
int vhost_ring_kick_fd(struct vhost_ring *ring, int fd);
/* Something about it changed, look for work. */
void vhost_ring_poke(struct vhost_ring *ring);
/* Takes no more requests; drained when vhost_ring_idle(). */
void vhost_ring_stop(struct vhost_ring *ring);
bool vhost_ring_idle(const struct vhost_ring *ring);
/* Calls go to `fd` (taken) from now on; -1: to nobody. */
void vhost_ring_call_fd(struct vhost_ring *ring, int fd);
/* Frees what a stopped and idle ring holds; with `clean` its in-flight region is fresh again. */
void vhost_ring_release(struct vhost_ring *ring, bool clean);
/* The ring is broken: no more requests, tells the client through its error descriptor. */
void vhost_ring_break(struct vhost_ring *ring, int why);

#endif
