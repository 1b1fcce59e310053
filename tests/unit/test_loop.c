// SPDX-License-Identifier: Apache-2.0
/* Timers of the loop: order, arming again, cancelling; completions and what they defer. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <sys/ioctl.h>
#include <unistd.h>
#undef fail /* base/err.h has its own */

#include "base/clock.h"
#include "base/loop.h"

struct probe {
	struct loop_timer timer;
	struct loop *loop;
	unsigned fired;
	bool last;
};

static void fired(struct loop_timer *timer)
{
	struct probe *p = container_of(timer, struct probe, timer);

	p->fired++;
	if (p->last)
		loop_stop(p->loop);
}

/* A deadline that is moved again and again, alone in the list and as its last: it comes once. */
static void test_arm_again(void **state)
{
	struct loop *loop;
	uint64_t now = clock_boot_ns();

	(void)state;
	assert_int_equal(loop_create(&loop, 8), 0);
	for (unsigned again = 0; again < 4; again++) {
		struct probe a = {.timer.fn = fired, .loop = loop};
		struct probe b = {.timer.fn = fired, .loop = loop};
		struct probe end = {.timer.fn = fired, .loop = loop, .last = true};

		now = clock_boot_ns();
		for (unsigned i = 0; i <= again; i++)
			loop_timer_arm(loop, &a.timer, now + (i + 1) * NS_PER_MS);
		for (unsigned i = 0; i <= again; i++)
			loop_timer_arm(loop, &b.timer, now + (i + 8) * NS_PER_MS);
		loop_timer_arm(loop, &end.timer, now + 30 * NS_PER_MS);
		assert_int_equal(loop_run(loop), 0);
		assert_int_equal(a.fired, 1);
		assert_int_equal(b.fired, 1);
		assert_true(clock_boot_ns() >= now + 30 * NS_PER_MS);
	}
	loop_destroy(loop);
}

static void test_cancel(void **state)
{
	struct probe a = {.timer.fn = fired}, end = {.timer.fn = fired, .last = true};
	struct loop *loop;

	(void)state;
	assert_int_equal(loop_create(&loop, 8), 0);
	a.loop = end.loop = loop;
	loop_timer_arm(loop, &end.timer, clock_boot_ns() + 10 * NS_PER_MS);
	loop_timer_arm(loop, &a.timer, clock_boot_ns() + NS_PER_MS);
	loop_timer_cancel(&a.timer);
	loop_timer_cancel(&a.timer);
	assert_int_equal(loop_run(loop), 0);
	assert_int_equal(a.fired, 0);
	loop_destroy(loop);
}

/* --- completions ---------------------------------------------------------------------------------- */

#define NOPS 64u

struct batch {
	struct loop *loop;
	struct loop_work work;
	unsigned done, published, most; /* most: answers that waited for the deferred work */
	bool inside;			/* of a callback */
	struct nop {
		struct loop_op op;
		struct batch *batch;
	} nop[NOPS];
};

static void nop_done(struct loop_op *op, int res)
{
	struct batch *b = container_of(op, struct nop, op)->batch;

	assert_int_equal(res, 0);
	b->inside = true;
	b->done++;
	b->most = MAX(b->most, b->done - b->published);
	loop_defer(b->loop, &b->work);
	b->inside = false;
}

static void publish(struct loop_work *work)
{
	struct batch *b = container_of(work, struct batch, work);

	assert_false(b->inside);
	b->published = b->done;
	if (b->done == NOPS)
		loop_stop(b->loop);
}

/* Many completions at once: whoever waits for the first does not wait for the last. */
static void test_batches(void **state)
{
	struct batch b = {.work.fn = publish};

	(void)state;
	assert_int_equal(loop_create(&b.loop, 2 * NOPS), 0);
	for (unsigned i = 0; i < NOPS; i++) {
		b.nop[i].batch = &b;
		b.nop[i].op.done = nop_done;
		io_uring_prep_nop(loop_sqe(b.loop, &b.nop[i].op));
	}
	assert_int_equal(loop_run(b.loop), 0);
	assert_int_equal(b.published, NOPS);
	assert_in_range(b.most, 1, NOPS / 4);
	loop_destroy(b.loop);
}

/* --- what completions lead to ----------------------------------------------------------------------- */

struct follow {
	struct loop_op first, second, write;
	struct loop *loop;
	int pipe[2];
	int there; /* bytes in the pipe when the second is handled */
	bool written;
};

static void write_done(struct loop_op *op, int res)
{
	struct follow *f = container_of(op, struct follow, write);

	assert_int_equal(res, 1);
	f->written = true;
	loop_stop(f->loop);
}

static void first_done(struct loop_op *op, int res)
{
	struct follow *f = container_of(op, struct follow, first);

	assert_int_equal(res, 0);
	io_uring_prep_write(loop_sqe(f->loop, &f->write), f->pipe[1], "x", 1, 0);
}

static void second_done(struct loop_op *op, int res)
{
	struct follow *f = container_of(op, struct follow, second);

	assert_int_equal(res, 0);
	assert_int_equal(ioctl(f->pipe[0], FIONREAD, &f->there), 0);
}

/* A device gets its next request before the next answer is worked on, not with the end of them all. */
static void test_follow_at_once(void **state)
{
	struct follow f = {
		.first.done = first_done, .second.done = second_done, .write.done = write_done};

	(void)state;
	assert_int_equal(loop_create(&f.loop, 8), 0);
	assert_int_equal(pipe(f.pipe), 0);
	io_uring_prep_nop(loop_sqe(f.loop, &f.first));
	io_uring_prep_nop(loop_sqe(f.loop, &f.second));
	assert_int_equal(loop_run(f.loop), 0);
	assert_true(f.written);
	assert_int_equal(f.there, 1);
	loop_destroy(f.loop);
	close(f.pipe[0]);
	close(f.pipe[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_arm_again),
		cmocka_unit_test(test_cancel),
		cmocka_unit_test(test_batches),
		cmocka_unit_test(test_follow_at_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
