// SPDX-License-Identifier: Apache-2.0
/* Timers of the loop: order, arming again, cancelling. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_arm_again),
		cmocka_unit_test(test_cancel),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
