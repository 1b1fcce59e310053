// SPDX-License-Identifier: Apache-2.0
/*
 * loop.c: the event loop. One io_uring; an eventfd wakes it for posted work; timers lie in a
 * sorted list (a loop has few of them). A turn: posted work, timers, deferred work, one io_uring_enter
 * that submits and waits, completions with what they defer.
 */
#include "base/loop.h"

#include <errno.h>
#include <sched.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"

/*
 * Completions are handled in batches, each with its deferred work and its submissions: a guest gets
 * its first answers, and the device its next requests, while the rest is worked on. With one batch a
 * turn guest, thread and device wait for each other in turns (an eighth of a vring's throughput).
 */
#define REAP_BATCH 8

struct loop {
	struct io_uring ring;
	bool disabled; /* until the first turn: the ring belongs to the thread that runs it */
	int event_fd;
	uint64_t event_value;
	struct loop_op event_op;
	bool event_armed;
	_Atomic(struct loop_work *) posted; /* a stack, newest first */
	_Atomic unsigned posting; /* threads in loop_post, loop_stop: the loop must not go yet */
	struct loop_work *deferred, **deferred_tail;
	struct list timers; /* by deadline */
	_Atomic bool stop;
};

static _Thread_local struct loop *current_loop;

struct loop *loop_current(void)
{
	return current_loop;
}

static void event_done(struct loop_op *op, int res)
{
	struct loop *loop = container_of(op, struct loop, event_op);

	(void)res;
	loop->event_armed = false;
}

/*
 * Completions wait for the turn's one call instead of interrupting the thread (Linux 6.1); that ties
 * the ring to one thread, which is the first that runs it. Older kernels: no interrupts between CPUs
 * at least (5.19), or nothing of it.
 */
static int ring_init(struct loop *loop, unsigned entries)
{
	static const unsigned modes[] = {
		IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_R_DISABLED |
			IORING_SETUP_TASKRUN_FLAG,
		IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
		0,
	};
	int rc = -EINVAL;

	for (unsigned i = 0; i < ARRAY_SIZE(modes) && rc == -EINVAL; i++) {
		struct io_uring_params params = {
			.flags = IORING_SETUP_CLAMP | IORING_SETUP_CQSIZE | modes[i],
			.cq_entries = entries * 4,
		};

		rc = io_uring_queue_init_params(entries, &loop->ring, &params);
		loop->disabled = modes[i] & IORING_SETUP_R_DISABLED;
	}
	return rc;
}

int loop_create(struct loop **out, unsigned entries)
{
	struct loop *loop = xcalloc(1, sizeof(*loop));
	int rc = ring_init(loop, entries);

	if (rc < 0) {
		free(loop);
		return fail(rc,
			    "io_uring: cannot set up a ring: %s; Linux 5.19 or later is needed and "
			    "kernel.io_uring_disabled must be 0",
			    strerror(-rc));
	}
	loop->event_fd = eventfd(0, EFD_CLOEXEC);
	if (loop->event_fd < 0) {
		rc = -errno;
		io_uring_queue_exit(&loop->ring);
		free(loop);
		return fail(rc, "eventfd: %s", strerror(-rc));
	}
	loop->event_op.done = event_done;
	loop->deferred_tail = &loop->deferred;
	list_init(&loop->timers);
	*out = loop;
	return 0;
}

void loop_destroy(struct loop *loop)
{
	if (!loop)
		return;
	/*
	 * Who posted the last work may not have woken us yet: we ran it by another's wake. Without the
	 * wait it would write into whatever file has the descriptor's number next.
	 */
	while (atomic_load(&loop->posting))
		sched_yield();
	io_uring_queue_exit(&loop->ring);
	close(loop->event_fd);
	free(loop);
}

static void enable(struct loop *loop)
{
	/* Debian 12's liburing.so does not export io_uring_enable_rings. */
	MUST(io_uring_register((unsigned)loop->ring.ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL,
			       0) == 0);
	loop->disabled = false;
}

static void wake(struct loop *loop)
{
	uint64_t one = 1;

	while (write(loop->event_fd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}

void loop_stop(struct loop *loop)
{
	atomic_fetch_add(&loop->posting, 1);
	loop->stop = true;
	wake(loop);
	atomic_fetch_sub(&loop->posting, 1);
}

void loop_post(struct loop *loop, struct loop_work *work)
{
	struct loop_work *head;

	atomic_fetch_add(&loop->posting, 1);
	head = atomic_load(&loop->posted);
	do
		work->next = head;
	while (!atomic_compare_exchange_weak(&loop->posted, &head, work));
	if (!head)
		wake(loop); /* the first of a batch; the taker empties the whole stack */
	atomic_fetch_sub(&loop->posting, 1);
}

void loop_defer(struct loop *loop, struct loop_work *work)
{
	if (work->queued)
		return;
	work->queued = true;
	work->next = NULL;
	*loop->deferred_tail = work;
	loop->deferred_tail = &work->next;
}

static void run_posted(struct loop *loop)
{
	struct loop_work *work = atomic_exchange(&loop->posted, NULL), *oldest = NULL;

	while (work) { /* the stack gives the newest first */
		struct loop_work *next = work->next;

		work->next = oldest;
		oldest = work;
		work = next;
	}
	while (oldest) {
		struct loop_work *next = oldest->next;

		oldest->fn(oldest);
		oldest = next;
	}
}

static void run_deferred(struct loop *loop)
{
	while (loop->deferred) {
		struct loop_work *work = loop->deferred;

		loop->deferred = work->next;
		if (!loop->deferred)
			loop->deferred_tail = &loop->deferred;
		work->queued = false;
		work->fn(work);
	}
}

void loop_timer_arm(struct loop *loop, struct loop_timer *timer, uint64_t deadline_ns)
{
	struct list *at;

	loop_timer_cancel(timer); /* first: it may be the last in the list itself */
	at = loop->timers.prev;
	timer->deadline_ns = deadline_ns;
	while (at != &loop->timers &&
	       list_entry(at, struct loop_timer, link)->deadline_ns > deadline_ns)
		at = at->prev;
	list_insert(at, &timer->link);
	timer->armed = true;
}

void loop_timer_cancel(struct loop_timer *timer)
{
	if (!timer->armed)
		return;
	list_del(&timer->link);
	timer->armed = false;
}

static void run_timers(struct loop *loop)
{
	uint64_t now;

	if (list_empty(&loop->timers))
		return;
	now = clock_boot_ns();
	while (!list_empty(&loop->timers)) {
		struct loop_timer *t = list_first(&loop->timers, struct loop_timer, link);

		if (t->deadline_ns > now)
			return;
		loop_timer_cancel(t);
		t->fn(t);
	}
}

struct io_uring_sqe *loop_sqe(struct loop *loop, struct loop_op *op)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&loop->ring);

	while (!sqe) {
		int rc;

		if (loop->disabled)
			enable(loop);
		rc = io_uring_submit(&loop->ring);
		MUST(rc >= 0 || rc == -EAGAIN || rc == -EBUSY || rc == -EINTR);
		sqe = io_uring_get_sqe(&loop->ring);
	}
	io_uring_sqe_set_data(sqe, op);
	return sqe;
}

static void reap(struct loop *loop)
{
	struct io_uring_cqe *cqe;
	unsigned n = 0;

	/* Bounded, so that timers and posted work get their turn under any load. */
	while (n++ < 256 && io_uring_peek_cqe(&loop->ring, &cqe) == 0) {
		struct loop_op *op = io_uring_cqe_get_data(cqe);
		int res = cqe->res;

		if (op)
			op->flags = cqe->flags;
		io_uring_cqe_seen(&loop->ring, cqe);
		if (op)
			op->done(op, res);
		if (n % REAP_BATCH == 0)
			run_deferred(loop);
		/*
		 * While others wait, what this one led to goes at once: a device that gets its next
		 * requests in bursts idles in between (a tenth of the throughput at depth 32 on a
		 * virtio disk, in bursts of four). The last one's go with the turn's own call.
		 */
		if (io_uring_sq_ready(&loop->ring) && io_uring_cq_ready(&loop->ring))
			(void)io_uring_submit(&loop->ring); /* what fails is tried at the end */
	}
}

static void arm_event(struct loop *loop)
{
	if (loop->event_armed)
		return;
	loop->event_armed = true;
	io_uring_prep_read(loop_sqe(loop, &loop->event_op), loop->event_fd, &loop->event_value,
			   sizeof(loop->event_value), 0);
}

static int submit_and_wait(struct loop *loop, uint64_t deadline_ns)
{
	uint64_t now = clock_boot_ns(), wait_ns;
	struct __kernel_timespec ts;
	struct io_uring_cqe *cqe;
	int rc;

	if (!list_empty(&loop->timers))
		deadline_ns = MIN(deadline_ns,
				  list_first(&loop->timers, struct loop_timer, link)->deadline_ns);
	if (deadline_ns <= now || atomic_load(&loop->posted) || loop->stop ||
	    io_uring_cq_ready(&loop->ring)) {
		rc = io_uring_submit_and_get_events(&loop->ring);
	} else {
		wait_ns = MIN(deadline_ns - now, 3600 * NS_PER_S);
		ts.tv_sec = (long long)(wait_ns / NS_PER_S);
		ts.tv_nsec = (long long)(wait_ns % NS_PER_S);
		rc = io_uring_submit_and_wait_timeout(&loop->ring, &cqe, 1, &ts, NULL);
	}
	if (rc < 0 && rc != -ETIME && rc != -EINTR && rc != -EAGAIN && rc != -EBUSY)
		return fail(rc, "io_uring: %s", strerror(-rc));
	return 0;
}

int loop_turn(struct loop *loop, uint64_t deadline_ns)
{
	int rc;

	current_loop = loop;
	if (loop->disabled)
		enable(loop);
	arm_event(loop);
	run_posted(loop);
	run_timers(loop);
	run_deferred(loop);
	rc = submit_and_wait(loop, deadline_ns);
	reap(loop);
	run_deferred(loop);
	return rc;
}

int loop_run(struct loop *loop)
{
	int rc = 0;

	while (!loop->stop && rc == 0)
		rc = loop_turn(loop, UINT64_MAX);
	loop->stop = false;
	return rc;
}

static void watch_arm(struct loop_watch *watch)
{
	watch->armed = true;
	io_uring_prep_poll_add(loop_sqe(watch->loop, &watch->op), watch->fd, watch->events);
}

static void watch_done(struct loop_op *op, int res)
{
	struct loop_watch *watch = container_of(op, struct loop_watch, op);

	watch->armed = false;
	if (!watch->active) {
		if (watch->closed)
			watch->closed(watch);
		return;
	}
	/*
	 * Armed before the call, so that the callback may remove or free the watch by the rules of
	 * loop_watch_remove. A cancelled poll (changed events) is only armed again.
	 */
	watch_arm(watch);
	if (res > 0)
		watch->fn(watch, (unsigned)res);
}

void loop_watch_add(struct loop *loop, struct loop_watch *watch, int fd, unsigned events)
{
	watch->loop = loop;
	watch->fd = fd;
	watch->events = events;
	watch->op.done = watch_done;
	watch->closed = NULL;
	watch->active = true;
	watch_arm(watch);
}

static void watch_cancel(struct loop_watch *watch)
{
	struct io_uring_sqe *sqe = loop_sqe(watch->loop, NULL);

	io_uring_prep_poll_remove(sqe, (__u64)(uintptr_t)&watch->op);
	io_uring_sqe_set_data(sqe, NULL);
}

void loop_watch_set(struct loop_watch *watch, unsigned events)
{
	if (watch->events == events)
		return;
	watch->events = events;
	if (watch->armed)
		watch_cancel(watch);
}

void loop_watch_remove(struct loop_watch *watch, void (*closed)(struct loop_watch *watch))
{
	MUST(watch->active);
	watch->active = false;
	watch->closed = closed;
	/* Always armed here: see watch_done. */
	watch_cancel(watch);
}
