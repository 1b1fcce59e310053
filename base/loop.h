// SPDX-License-Identifier: Apache-2.0
/*
 * loop.h: an event loop on one io_uring (liburing), owned by one thread.
 *
 * Everything here is called by the loop's own thread, but loop_post and loop_stop, which any
 * thread may call. Objects (ops, timers, watches, works) belong to the caller and must stay where
 * they are until their callback ran or they were cancelled; nothing here allocates on the way of
 * a request. A callback may free its own object.
 *
 *	struct io_uring_sqe *sqe = loop_sqe(loop, &req->op);
 *	io_uring_prep_readv(sqe, fd, iov, n, off);	// op.done(op, res) later, res as in the CQE
 *
 * Requests queued in one turn go to the kernel together at its end, or in a few batches.
 */
#ifndef BASE_LOOP_H
#define BASE_LOOP_H

#include <stdbool.h>
#include <stdint.h>
#include <liburing.h>

#include "base/util.h"

struct loop;

/* A kernel request in flight. */
struct loop_op {
	void (*done)(struct loop_op *op, int res);
	unsigned flags; /* of the completion: IORING_CQE_F_MORE when others will follow */
};

/* Work to run once in the loop's thread. */
struct loop_work {
	void (*fn)(struct loop_work *work);
	struct loop_work *next; /* private */
	bool queued;		/* private, loop_defer only */
};

struct loop_timer {
	void (*fn)(struct loop_timer *timer);
	uint64_t deadline_ns; /* CLOCK_BOOTTIME */
	struct list link;     /* private */
	bool armed;	      /* private */
};

/* A descriptor watched with poll(2) events until it is removed. */
struct loop_watch {
	void (*fn)(struct loop_watch *watch, unsigned events);
	struct loop_op op; /* private */
	struct loop *loop; /* private */
	int fd;
	unsigned events;
	bool active;			      /* private: watched */
	bool armed;			      /* private: a poll is in the kernel */
	void (*closed)(struct loop_watch *w); /* private */
};

/* `entries`: requests the ring holds at once (a power of two, 8 to 32768). -errno. */
int loop_create(struct loop **out, unsigned entries);
/* No request may be in flight. */
void loop_destroy(struct loop *loop);
/* Runs callbacks until loop_stop; returns 0 or -errno of the ring itself. */
int loop_run(struct loop *loop);
/* One turn: waits at most until `deadline_ns` (0: does not wait) for something to do. */
int loop_turn(struct loop *loop, uint64_t deadline_ns);
void loop_stop(struct loop *loop);
/* The loop that the calling thread runs, or NULL. */
struct loop *loop_current(void);

/* Any thread: `work->fn(work)` will run in the loop's thread; each work posted once at a time. */
void loop_post(struct loop *loop, struct loop_work *work);
/*
 * Loop's thread: runs in this turn, behind at most a few more callbacks and under none of them, before requests
 * go to the kernel; idempotent.
 */
void loop_defer(struct loop *loop, struct loop_work *work);

/* An SQE whose completion calls op->done. Never NULL (a full queue is submitted first). */
struct io_uring_sqe *loop_sqe(struct loop *loop, struct loop_op *op);

void loop_timer_arm(struct loop *loop, struct loop_timer *timer, uint64_t deadline_ns);
void loop_timer_cancel(struct loop_timer *timer);

/* Calls watch->fn for each wake-up (level-triggered: armed again after each call). */
void loop_watch_add(struct loop *loop, struct loop_watch *watch, int fd, unsigned events);
/* Changes the events waited for. */
void loop_watch_set(struct loop_watch *watch, unsigned events);
/*
 * Stops watching; `closed` (may be NULL) runs when the kernel has let go, at the latest in a later
 * turn: only then may the watch's memory go. The descriptor may be closed at once.
 */
void loop_watch_remove(struct loop_watch *watch, void (*closed)(struct loop_watch *watch));

#endif
