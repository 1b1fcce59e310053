// SPDX-License-Identifier: Apache-2.0
/* The recorder and its reader: what a crash may leave, and what it may not. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#undef fail /* base/err.h has its own */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/checksum.h"
#include "blockdev/blk.h"
#include "blockdev/fault.h"
#include "blockdev/record.h"
#include "blockdev/record_format.h"
#include "tests/lib/lun.h"

#define SIZE  (4 * MiB)
#define BLOCK 4096

struct fixture {
	char *path, *log_path;
	struct blk *blk;
	struct record_log *log;
	uint8_t *image;
};

static int setup(void **state)
{
	struct fixture *f = xcalloc(1, sizeof(*f));
	struct blk *lower;

	f->path = lun_make(SIZE);
	f->log_path = lun_make(0);
	f->image = xcalloc(1, SIZE);
	assert_int_equal(blk_open(f->path,
				  &(struct blk_options){.timeout_ms = 50, .block_size = BLOCK},
				  &lower),
			 0);
	assert_int_equal(blk_fault_wrap(lower, &lower), 0);
	assert_int_equal(blk_record_wrap(lower, f->log_path, &f->blk), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	fault_clear(0);
	blk_close(f->blk);
	record_close(f->log);
	lun_remove(f->path);
	lun_remove(f->log_path);
	free(f->image);
	free(f);
	return 0;
}

static void put(struct fixture *f, unsigned block, uint8_t value, unsigned blocks, unsigned flags)
{
	uint8_t *buf = xaligned(4096, blocks * BLOCK);

	memset(buf, value, blocks * BLOCK);
	assert_int_equal(blk_write(f->blk, block * BLOCK, buf, blocks * BLOCK, flags), 0);
	free(buf);
}

static int apply(void *arg, uint64_t offset, const void *data, uint64_t length)
{
	struct fixture *f = arg;

	assert_true(offset + length <= SIZE);
	if (data)
		memcpy(f->image + offset, data, length);
	else
		memset(f->image + offset, 0, length);
	return 0;
}

static void replay(struct fixture *f, unsigned point, enum record_choice choice, uint64_t seed)
{
	memset(f->image, 0, SIZE);
	assert_int_equal(record_replay(f->log, point, choice, seed, apply, f), 0);
}

static uint8_t at(const struct fixture *f, unsigned block)
{
	const uint8_t *p = f->image + (size_t)block * BLOCK;

	for (unsigned i = 1; i < BLOCK; i++)
		assert_int_equal(p[i], p[0]); /* torn at blocks only */
	return p[0];
}

static void test_events(void **state)
{
	struct fixture *f = *state;

	put(f, 1, 0xaa, 2, 0);
	assert_int_equal(blk_flush(f->blk), 0);
	assert_int_equal(blk_discard(f->blk, BLOCK, BLOCK), 0);
	assert_int_equal(record_open(f->log_path, &f->log), 0);
	assert_int_equal(record_size(f->log), SIZE);
	assert_int_equal(record_block_size(f->log), BLOCK);
	assert_int_equal(record_events(f->log), 6);
	assert_false(record_event(f->log, 0)->answer);
	assert_int_equal(record_event(f->log, 0)->op, BLK_WRITE);
	assert_int_equal(record_event(f->log, 0)->length, 2 * BLOCK);
	assert_int_equal(((const uint8_t *)record_event(f->log, 0)->data)[5000], 0xaa);
	assert_true(record_event(f->log, 3)->answer);
	assert_int_equal(record_event(f->log, 3)->submit, 2);
	assert_int_equal(record_event(f->log, 3)->op, BLK_FLUSH);
	assert_null(record_event(f->log, 6));
	replay(f, 6, RECORD_ALL, 0);
	assert_int_equal(at(f, 1), 0);
	assert_int_equal(at(f, 2), 0xaa);
	replay(f, 6, RECORD_DURABLE, 0);
	assert_int_equal(at(f, 1), 0xaa);
}

/* Flushed stays, unflushed may go, torn by block; FUA stays; the older never wins. */
static void test_legal(void **state)
{
	enum { SEEDS = 300 };
	struct fixture *f = *state;
	unsigned seen[256] = {0}, torn = 0;

	put(f, 0, 1, 1, 0);
	assert_int_equal(blk_flush(f->blk), 0); /* event 3 is its answer */
	put(f, 0, 2, 1, 0);
	put(f, 0, 3, 1, 0);
	put(f, 1, 4, 1, BLK_FUA);
	put(f, 2, 5, 2, 0);
	assert_int_equal(record_open(f->log_path, &f->log), 0);
	for (unsigned seed = 0; seed < SEEDS; seed++) {
		replay(f, record_events(f->log), RECORD_RANDOM, seed);
		seen[at(f, 0)]++;
		assert_int_equal(at(f, 1), 4);
		assert_true(at(f, 2) == 5 || at(f, 2) == 0);
		assert_true(at(f, 3) == 5 || at(f, 3) == 0);
		torn += at(f, 2) != at(f, 3);
	}
	assert_true(seen[1] && seen[2] && seen[3] && torn);
	assert_int_equal(seen[1] + seen[2] + seen[3], SEEDS);
	replay(f, 3, RECORD_DURABLE, 0); /* the flush not yet answered */
	assert_int_equal(at(f, 0), 0);
	replay(f, 4, RECORD_DURABLE, 0);
	assert_int_equal(at(f, 0), 1);
	replay(f, 0, RECORD_ALL, 0);
	assert_int_equal(at(f, 0), 0);
}

static void test_cas(void **state)
{
	struct fixture *f = *state;
	uint8_t *zero = xaligned(4096, BLOCK), *one = xaligned(4096, BLOCK),
		*two = xaligned(4096, BLOCK);
	struct fault fault;
	unsigned seen[4] = {0};

	memset(one, 1, BLOCK);
	memset(two, 2, BLOCK);
	assert_int_equal(blk_cas(f->blk, 0, zero, one, NULL, 0, NULL), 0);
	assert_int_equal(blk_cas(f->blk, 0, zero, two, NULL, 0, NULL), -EILSEQ);
	/* its answer is lost: both are legal, before and after */
	assert_int_equal(fault_parse(&fault, f->path, "lost-answer", "cas", NULL, NULL), 0);
	assert_int_equal(fault_add(&fault, NULL), 0);
	assert_int_equal(blk_cas(f->blk, 0, one, two, NULL, 0, NULL), -ETIMEDOUT);
	/* one that could never match */
	assert_int_equal(blk_cas(f->blk, BLOCK, one, two, NULL, 0, NULL), -ETIMEDOUT);
	fault_clear(0);
	assert_int_equal(record_open(f->log_path, &f->log), 0);
	assert_int_equal(record_events(f->log), 8);
	for (unsigned seed = 0; seed < 100; seed++) {
		replay(f, 8, RECORD_RANDOM, seed);
		seen[at(f, 0)]++;
	}
	assert_true(seen[1] && seen[2] && !seen[0]);
	replay(f, 4, RECORD_RANDOM, 0);
	assert_int_equal(at(f, 0), 1);
	free(zero);
	free(one);
	free(two);
}

/* A compare-and-write of a block, all of it `compare` and then all of it `write`; one a host. */
struct step {
	unsigned block, host;
	uint32_t kind;
	uint8_t compare, write; /* submissions */
	int res;		/* answers */
};

static void log_step(int fd, const struct step *s)
{
	bool data = s->kind == RECORD_SUBMIT;
	uint8_t buf[sizeof(struct record_entry) + 2 * BLOCK];
	struct record_entry e = {.writer = le64_of(s->host),
				 .number = le64_of(s->block),
				 .offset = le64_of((uint64_t)s->block * BLOCK),
				 .length = le64_of(BLOCK),
				 .kind = le32_of(s->kind),
				 .op = le32_of(BLK_CAS),
				 .flags = le32_of(BLK_FUA),
				 .res = le32_of((uint32_t)s->res),
				 .maybe_done = le32_of(s->res != 0),
				 .data_length = le32_of(data ? 2 * BLOCK : 0)};
	size_t n = data ? sizeof(buf) : sizeof(e);

	e.checksum = le64_of(checksum64(&e, sizeof(e)));
	memcpy(buf, &e, sizeof(e));
	memset(buf + sizeof(e), s->compare, BLOCK);
	memset(buf + sizeof(e) + BLOCK, s->write, BLOCK);
	assert_int_equal(write(fd, buf, n), n);
}

/* Hosts that go on from what they see on the medium, before its writer's answer is logged. */
static void test_cas_order(void **state)
{
	enum { SEEDS = 300 };
	static const struct step steps[] = {
		{0, 1, RECORD_SUBMIT, 0, 1, 0}, /* answers in the order of the writes */
		{0, 2, RECORD_SUBMIT, 1, 2, 0},
		{0, 1, RECORD_ANSWER, 0, 0, 0},
		{0, 2, RECORD_ANSWER, 0, 0, 0},
		{1, 1, RECORD_SUBMIT, 0, 1, 0}, /* and the other way round */
		{1, 2, RECORD_SUBMIT, 1, 2, 0},
		{1, 2, RECORD_ANSWER, 0, 0, 0},
		{1, 1, RECORD_ANSWER, 0, 0, 0},
		{2, 1, RECORD_SUBMIT, 0, 1, 0}, /* a lost answer between the two */
		{2, 2, RECORD_SUBMIT, 1, 2, 0},
		{2, 2, RECORD_ANSWER, 0, 0, -ETIMEDOUT},
		{2, 3, RECORD_SUBMIT, 2, 3, 0},
		{2, 3, RECORD_ANSWER, 0, 0, 0},
		{2, 1, RECORD_ANSWER, 0, 0, 0},
		{3, 1, RECORD_SUBMIT, 0, 1, 0}, /* who had no answer lost against who had one */
		{3, 2, RECORD_SUBMIT, 0, 2, 0},
		{3, 1, RECORD_ANSWER, 0, 0, 0},
	};
	struct fixture *f = *state;
	int fd = open(f->log_path, O_WRONLY | O_APPEND);

	for (unsigned i = 0; i < ARRAY_SIZE(steps); i++)
		log_step(fd, &steps[i]);
	close(fd);
	assert_int_equal(record_open(f->log_path, &f->log), 0);
	assert_int_equal(record_events(f->log), ARRAY_SIZE(steps));
	for (unsigned seed = 0; seed < SEEDS + 2; seed++) {
		replay(f, record_events(f->log),
		       seed == SEEDS	   ? RECORD_ALL
		       : seed == SEEDS + 1 ? RECORD_DURABLE
					   : RECORD_RANDOM,
		       seed);
		assert_int_equal(at(f, 0), 2);
		assert_int_equal(at(f, 1), 2);
		assert_int_equal(at(f, 2), 3);
		assert_int_equal(at(f, 3), 1);
	}
}

static void test_reopen_and_cut(void **state)
{
	struct fixture *f = *state;
	struct blk *other;
	int fd;

	/* a second writer of the same log */
	assert_int_equal(blk_open(f->path, &(struct blk_options){.block_size = BLOCK}, &other), 0);
	assert_int_equal(blk_record_wrap(other, f->log_path, &other), 0);
	put(f, 0, 1, 1, 0);
	assert_int_equal(blk_flush(other), 0);
	put(f, 1, 1, 1, 0);
	blk_close(other);
	fd = open(f->log_path, O_WRONLY | O_APPEND);
	assert_int_equal(write(fd, "half an entry", 13), 13);
	close(fd);
	assert_int_equal(record_open(f->log_path, &f->log), 0);
	assert_int_equal(record_events(f->log), 6);
	replay(f, 6, RECORD_DURABLE, 0);
	assert_int_equal(at(f, 0), 1);
	assert_int_equal(at(f, 1), 0);
}

static void test_errors(void **state)
{
	struct fixture *f = *state;
	struct record_log *log;

	assert_int_equal(record_open("/nowhere", &log), -ENOENT);
	assert_int_equal(record_open(f->path, &log), -EUCLEAN);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_events, setup, teardown),
		cmocka_unit_test_setup_teardown(test_legal, setup, teardown),
		cmocka_unit_test_setup_teardown(test_cas, setup, teardown),
		cmocka_unit_test_setup_teardown(test_cas_order, setup, teardown),
		cmocka_unit_test_setup_teardown(test_reopen_and_cut, setup, teardown),
		cmocka_unit_test_setup_teardown(test_errors, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
