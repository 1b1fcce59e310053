// SPDX-License-Identifier: Apache-2.0
/* The fault filter: each kind, on a file LUN; and the words of the command line. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#undef fail /* base/err.h has its own */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "blockdev/blk.h"
#include "blockdev/fault.h"
#include "tests/lib/lun.h"

#define SIZE (16 * MiB)

struct fixture {
	char *path;
	struct blk *blk;
	uint8_t *a, *b;
};

static int setup(void **state)
{
	struct fixture *f = xcalloc(1, sizeof(*f));
	struct blk *lower;

	f->path = lun_make(SIZE);
	assert_int_equal(blk_open(f->path, &(struct blk_options){.timeout_ms = 60}, &lower), 0);
	assert_int_equal(blk_fault_wrap(lower, &f->blk), 0);
	f->a = xaligned(4096, 64 * KiB);
	f->b = xaligned(4096, 64 * KiB);
	lun_pattern(f->a, 64 * KiB, 7);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(fault_clear(0), 0);
	blk_close(f->blk);
	lun_remove(f->path);
	free(f->a);
	free(f->b);
	free(f);
	return 0;
}

static unsigned add(struct fixture *f, const char *kind, const char *op, const char *range)
{
	struct fault fault;
	unsigned id = 0;

	assert_int_equal(fault_parse(&fault, f->path, kind, op, range, NULL), 0);
	assert_int_equal(fault_add(&fault, &id), 0);
	return id;
}

static uint64_t hits(unsigned id)
{
	struct fault list[8];
	unsigned n = fault_list(list, 8);

	for (unsigned i = 0; i < n; i++)
		if (list[i].id == id)
			return list[i].hits;
	return UINT64_MAX;
}

static void test_words(void **state)
{
	struct fault fault;
	char line[400];

	(void)state;
	assert_int_equal(fault_parse(&fault, "lun", "delay=50", "write", "1M-2M", "1.5"), 0);
	assert_int_equal(fault.value, 50);
	assert_int_equal(fault.ops, FAULT_WRITE);
	assert_int_equal(fault.from, MiB);
	assert_int_equal(fault.to, 2 * MiB);
	assert_int_equal(fault.for_ms, 1500);
	assert_true(fault_print(&fault, line, sizeof(line)) > 0);
	assert_string_equal(line, "lun delay=50 op write range 1048576-2097152 for 1.5 s");
	assert_int_equal(fault_parse(&fault, "lun", "lost-answer", NULL, NULL, NULL), 0);
	assert_int_equal(fault.ops, FAULT_ALL);
	assert_int_equal(fault_parse(&fault, "lun", "bogus", NULL, NULL, NULL), -EINVAL);
	assert_int_equal(fault_parse(&fault, "lun", "delay", NULL, NULL, NULL), -EINVAL);
	assert_int_equal(fault_parse(&fault, "lun", "delay=x", NULL, NULL, NULL), -EINVAL);
	assert_int_equal(fault_parse(&fault, "lun", "fail=3", NULL, NULL, NULL), -EINVAL);
	assert_int_equal(fault_parse(&fault, "lun", "drop=101", NULL, NULL, NULL), -EINVAL);
	assert_int_equal(fault_parse(&fault, "lun", "fail", "paint", NULL, NULL), -EINVAL);
	assert_int_equal(fault_parse(&fault, "lun", "fail", NULL, "5-5", NULL), -EINVAL);
	assert_int_equal(fault_parse(&fault, "lun", "fail", NULL, "5", NULL), -EINVAL);
	assert_int_equal(fault_parse(&fault, "lun", "fail", NULL, NULL, "soon"), -EINVAL);
	assert_int_equal(fault_clear(99), -ENOENT);
}

static void test_fail_and_range(void **state)
{
	struct fixture *f = *state;
	unsigned id = add(f, "fail", "write", "1M-2M");

	assert_int_equal(blk_write(f->blk, MiB, f->a, 4096, 0), -EIO);
	assert_int_equal(blk_write(f->blk, 2 * MiB, f->a, 4096, 0), 0);
	assert_int_equal(blk_read(f->blk, MiB, f->b, 4096), 0);
	assert_int_equal(hits(id), 1);
	assert_int_equal(fault_clear(id), 0);
	assert_int_equal(blk_write(f->blk, MiB, f->a, 4096, 0), 0);
	assert_int_equal(hits(id), UINT64_MAX);
}

static void test_by_id_and_time(void **state)
{
	struct fixture *f = *state;
	struct fault fault;

	assert_int_equal(fault_parse(&fault, blk_info(f->blk)->id, "fail", NULL, NULL, "1"), 0);
	assert_int_equal(fault_add(&fault, NULL), 0);
	assert_int_equal(blk_flush(f->blk), -EIO);
	sleep_ms(1001);
	assert_int_equal(blk_flush(f->blk), 0);
	fault.for_ms = 0;
	fault.times = 2;
	assert_int_equal(fault_add(&fault, NULL), 0);
	assert_int_equal(blk_flush(f->blk), -EIO);
	assert_int_equal(blk_flush(f->blk), -EIO);
	assert_int_equal(blk_flush(f->blk), 0);
}

static void test_times(void **state)
{
	struct fixture *f = *state;
	uint64_t start = clock_boot_ns();

	add(f, "delay=30", "read", NULL);
	assert_int_equal(blk_read(f->blk, 0, f->b, 4096), 0);
	assert_true(clock_boot_ns() - start >= 30 * NS_PER_MS);
	fault_clear(0);
	add(f, "hang", NULL, NULL);
	start = clock_boot_ns();
	assert_int_equal(blk_read(f->blk, 0, f->b, 4096), -ETIMEDOUT);
	assert_true(clock_boot_ns() - start >= 60 * NS_PER_MS);
	fault_clear(0);
	add(f, "flap=20", NULL, NULL);
	for (int good = 0, bad = 0; !good || !bad; sleep_ms(1)) {
		int rc = blk_read(f->blk, 0, f->b, 4096);

		assert_true(rc == 0 || rc == -ENOTCONN);
		good += rc == 0;
		bad += rc != 0;
		assert_true(clock_boot_ns() - start < 5 * NS_PER_S);
	}
}

static void test_drop(void **state)
{
	struct fixture *f = *state;
	unsigned id = add(f, "drop=50", "read", NULL);
	int bad = 0;

	for (int i = 0; i < 20; i++) {
		int rc = blk_read(f->blk, 0, f->b, 4096);

		assert_true(rc == 0 || rc == -ETIMEDOUT);
		bad += rc != 0;
	}
	assert_true(bad > 2 && bad < 18);
	assert_int_equal(hits(id), bad);
}

static void test_corrupt(void **state)
{
	struct fixture *f = *state;
	int differ = 0;

	assert_int_equal(blk_write(f->blk, 0, f->a, 4096, 0), 0);
	add(f, "corrupt", NULL, NULL);
	assert_int_equal(blk_read(f->blk, 0, f->b, 4096), 0);
	for (int i = 0; i < 4096; i++)
		differ += f->a[i] != f->b[i];
	assert_int_equal(differ, 1);
	fault_clear(0);
	assert_int_equal(blk_read(f->blk, 0, f->b, 4096), 0);
	assert_memory_equal(f->a, f->b, 4096);
}

static void test_tear(void **state)
{
	struct fixture *f = *state;
	uint32_t block = blk_info(f->blk)->block_size, n = 0;

	add(f, "tear", NULL, NULL);
	assert_int_equal(blk_write(f->blk, 0, f->a, 64 * KiB, 0), -ETIMEDOUT);
	fault_clear(0);
	assert_int_equal(blk_read(f->blk, 0, f->b, 64 * KiB), 0);
	while (n < 64 * KiB && memcmp(f->a + n, f->b + n, block) == 0)
		n += block;
	assert_true(n < 64 * KiB);
	for (; n < 64 * KiB; n++)
		assert_int_equal(f->b[n], 0);
}

static void test_lost_answer(void **state)
{
	struct fixture *f = *state;
	uint32_t n = blk_info(f->blk)->block_size;
	uint8_t zero[4096] = {0};
	bool maybe = false;

	add(f, "lost-answer", NULL, NULL);
	assert_int_equal(blk_cas(f->blk, 0, zero, f->a, NULL, 0, &maybe), -ETIMEDOUT);
	assert_true(maybe);
	fault_clear(0);
	assert_int_equal(blk_read(f->blk, 0, f->b, n), 0);
	assert_memory_equal(f->a, f->b, n);
}

/* Of several writes one was refused, then another is not answered: it may land still, and that counts. */
static void test_parts_open(void **state)
{
	struct fixture *f = *state;
	struct iovec iov = {f->a, 4096};
	struct blk_part part[] = {{2 * MiB, 4096, &iov, 1}, {MiB, 4096, &iov, 1}};
	bool maybe = true;

	add(f, "fail", "write", "1M-2M");
	assert_int_equal(blk_write_parts(f->blk, part, 2, 0, &maybe), -EIO);
	assert_false(maybe);
	add(f, "lost-answer", "write", "2M-3M");
	assert_int_equal(blk_write_parts(f->blk, part, 2, 0, &maybe), -ETIMEDOUT);
	assert_true(maybe);
}

/* Waits, for long, until `n` bytes at `offset` are those of `want`. */
static void await(struct fixture *f, uint64_t offset, const uint8_t *want, uint32_t n)
{
	uint64_t start = clock_boot_ns();

	do {
		assert_true(clock_boot_ns() - start < 20 * NS_PER_S);
		sleep_ms(1);
		assert_int_equal(blk_read(f->blk, offset, f->b, n), 0);
	} while (memcmp(f->b, want, n) != 0);
}

/* INV-BLK-2's reason: what reads "not done" executes later. */
static void test_late_write(void **state)
{
	struct fixture *f = *state;
	uint32_t n = blk_info(f->blk)->block_size;
	uint8_t *late = xaligned(4096, 4096);
	uint8_t zero[4096] = {0};
	bool maybe = false;

	/* one that lands long after this test: not executed when it is answered */
	add(f, "late-write=3600000", "write", "8M-9M");
	assert_int_equal(blk_write(f->blk, 8 * MiB, f->a, 4096, 0), -ETIMEDOUT);
	assert_int_equal(blk_read(f->blk, 8 * MiB, f->b, 4096), 0);
	assert_memory_equal(f->b, zero, 4096);
	fault_clear(0);
	add(f, "late-write=20", NULL, NULL);
	assert_int_equal(blk_cas(f->blk, 0, zero, f->a, NULL, 0, &maybe), -ETIMEDOUT);
	assert_true(maybe);
	memcpy(late, f->a, 4096);
	assert_int_equal(blk_write(f->blk, MiB, late, 4096, 0), -ETIMEDOUT);
	memset(late, 0xff, 4096); /* its buffer is the caller's again */
	fault_clear(0);
	await(f, 0, f->a, n);
	await(f, MiB, f->a, 4096);
	free(late);
}

static void test_no_reservations(void **state)
{
	struct fixture *f = *state;

	add(f, "no-reservations", NULL, NULL);
	assert_int_equal(blk_pr_register(f->blk, 5, NULL, NULL), -EOPNOTSUPP);
	assert_false(blk_info(f->blk)->reservations);
	assert_int_equal(blk_read(f->blk, 0, f->b, 4096), 0);
}

/* A full array takes what lies on blocks that it has, and nothing else. */
static void test_no_space(void **state)
{
	struct fixture *f = *state;
	uint8_t *zero = xaligned(4096, 8192);

	memset(zero, 0, 8192);
	assert_int_equal(blk_write(f->blk, MiB, f->a, 4096, 0), 0);
	add(f, "no-space", NULL, NULL);
	assert_int_equal(blk_write(f->blk, MiB, f->a, 4096, BLK_FUA), 0);
	assert_int_equal(blk_write(f->blk, MiB + 4096, f->a, 4096, 0), -ENOSPC);
	assert_int_equal(blk_write(f->blk, MiB, zero, 8192, 0), -ENOSPC);
	assert_int_equal(blk_read(f->blk, MiB, f->b, 4096), 0);
	assert_memory_equal(f->b, f->a, 4096);
	assert_int_equal(blk_read(f->blk, MiB + 4096, f->b, 4096), 0);
	assert_memory_equal(f->b, zero, 4096);
	assert_int_equal(blk_flush(f->blk), 0);
	fault_clear(0);
	assert_int_equal(blk_write(f->blk, MiB + 4096, f->a, 4096, 0), 0);
	free(zero);
}

static void test_stack_and_close(void **state)
{
	struct fixture *f = *state;
	struct blk *lower, *top;

	/* late writes still to come when the LUN is closed: they never land, nothing is lost */
	assert_int_equal(blk_open(f->path, &(struct blk_options){.timeout_ms = 20}, &lower), 0);
	assert_int_equal(blk_fault_wrap(lower, &lower), 0);
	assert_int_equal(blk_fault_wrap(lower, &top), 0);
	add(f, "late-write=100000", NULL, NULL);
	assert_int_equal(blk_write(top, 0, f->a, 4096, 0), -ETIMEDOUT);
	blk_close(top);
}

/* What was written and not flushed goes with the power; FUA and flushed stay; each loss is counted. */
static void test_power_loss(void **state)
{
	struct fixture *f = *state;
	uint8_t old[4096], back[4096];
	uint64_t power = blk_power_count(f->blk);

	memset(old, 1, sizeof(old));
	assert_int_equal(blk_write(f->blk, 0, old, 4096, 0), 0);
	assert_int_equal(blk_write(f->blk, MiB, old, 4096, 0), 0);
	add(f, "volatile", NULL, NULL);
	assert_int_equal(blk_write(f->blk, 0, f->a, 8192, 0), 0);
	assert_int_equal(blk_write(f->blk, 0, f->a + 4096, 4096, 0),
			 0); /* over what is in the cache */
	assert_int_equal(blk_write(f->blk, MiB, f->a, 4096, 0), 0);
	assert_int_equal(blk_write(f->blk, MiB, f->a, 4096, BLK_FUA), 0);
	add(f, "power-loss", NULL, NULL);
	assert_int_equal(blk_power_count(f->blk), power + 1);
	assert_int_equal(blk_read(f->blk, 0, back, 4096), 0);
	assert_memory_equal(back, old, 4096);
	assert_int_equal(blk_read(f->blk, MiB, back, 4096), 0);
	assert_memory_equal(back, f->a, 4096);
	assert_int_equal(blk_write(f->blk, 0, f->a, 4096, 0), 0);
	assert_int_equal(blk_flush(f->blk), 0);
	add(f, "power-loss", NULL, NULL);
	assert_int_equal(blk_read(f->blk, 0, back, 4096), 0);
	assert_memory_equal(back, f->a, 4096);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_words),
		cmocka_unit_test_setup_teardown(test_fail_and_range, setup, teardown),
		cmocka_unit_test_setup_teardown(test_by_id_and_time, setup, teardown),
		cmocka_unit_test_setup_teardown(test_times, setup, teardown),
		cmocka_unit_test_setup_teardown(test_drop, setup, teardown),
		cmocka_unit_test_setup_teardown(test_corrupt, setup, teardown),
		cmocka_unit_test_setup_teardown(test_tear, setup, teardown),
		cmocka_unit_test_setup_teardown(test_lost_answer, setup, teardown),
		cmocka_unit_test_setup_teardown(test_parts_open, setup, teardown),
		cmocka_unit_test_setup_teardown(test_late_write, setup, teardown),
		cmocka_unit_test_setup_teardown(test_no_reservations, setup, teardown),
		cmocka_unit_test_setup_teardown(test_no_space, setup, teardown),
		cmocka_unit_test_setup_teardown(test_stack_and_close, setup, teardown),
		cmocka_unit_test_setup_teardown(test_power_loss, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
