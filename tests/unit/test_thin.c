// SPDX-License-Identifier: Apache-2.0
/*
 * Thin disks against a model in memory: random reads, writes, discards and zeroes of any 512-byte
 * alignment, several in flight on ranges of their own; then everything once more after a remount.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

/* Perilune has a function of that name. */
#undef fail

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "base/loop.h"
#include "base/pool.h"
#include "blockdev/blk.h"
#include "clusterfs/cfs.h"
#include "tests/lib/lun.h"
#include "tests/lib/thin_bench.h"
#include "vfs/chans.h"
#include "vfs/iothread.h"

#define bad(...)                          \
	do {                              \
		print_error(__VA_ARGS__); \
		assert_true(false);       \
	} while (0)

static void ok(int rc)
{
	if (rc < 0)
		bad("%s", err_message(rc));
}

static void compare_all(struct rig *r, const uint8_t *model)
{
	uint8_t *buf = xaligned(4096, MiB);

	for (uint64_t at = 0; at < THIN_BENCH_SIZE; at += MiB) {
		assert_int_equal(rig_run(r, VFS_READ, at, MiB, buf, 0), 0);
		if (memcmp(buf, model + at, MiB) != 0) {
			for (uint64_t i = 0; i < MiB; i += 512)
				if (memcmp(buf + i, model + at + i, 512) != 0)
					bad("differs at sector %llu",
					    (unsigned long long)((at + i) / 512));
		}
	}
	free(buf);
}

/* --- tests ------------------------------------------------------------------------------------------------- */

static void test_reads_zero_and_back(void **state)
{
	struct rig *r = thin_bench_setup(512 * MiB, false);
	uint8_t *buf = xaligned(4096, 8192);

	(void)state;
	memset(buf, 1, 8192);
	assert_int_equal(rig_run(r, VFS_READ, 12345 * 512, 8192, buf, 0), 0);
	for (unsigned i = 0; i < 8192; i++)
		assert_int_equal(buf[i], 0);
	memset(buf, 7, 512);
	assert_int_equal(rig_run(r, VFS_WRITE, 99 * 512, 512, buf, VFS_FUA), 0);
	assert_int_equal(rig_run(r, VFS_READ, 98 * 512, 1536, buf, 0), 0);
	assert_int_equal(buf[511], 0);
	assert_int_equal(buf[512], 7);
	assert_int_equal(buf[1023], 7);
	assert_int_equal(buf[1024], 0);
	assert_int_equal(rig_run(r, VFS_WRITE, THIN_BENCH_SIZE - 512, 1024, buf, 0), -EINVAL);
	assert_int_equal(rig_run(r, VFS_READ, 100, 512, buf, 0), -EINVAL);
	free(buf);
	thin_bench_teardown(r);
}

static void test_random_against_model(void **state)
{
	struct rig *r = thin_bench_setup(512 * MiB, false);
	uint8_t *model = xcalloc(1, THIN_BENCH_SIZE), *buf = xaligned(4096, THIN_BENCH_LANES * MiB);
	struct rig_job *jobs = xaligned(64, THIN_BENCH_LANES * sizeof(*jobs));
	enum vfs_op op[THIN_BENCH_LANES];
	unsigned seed = 4711;

	(void)state;
	for (unsigned round = 0; round < 400; round++) {
		for (unsigned l = 0; l < THIN_BENCH_LANES; l++)
			thin_bench_random(&jobs[l], r, l, &seed, model, buf + l * MiB, &op[l]);
		for (unsigned l = 0; l < THIN_BENCH_LANES; l++) {
			assert_int_equal(rig_finish(&jobs[l]), 0);
			if (op[l] == VFS_READ)
				assert_memory_equal(buf + l * MiB, model + jobs[l].req.offset,
						    jobs[l].req.length);
		}
		if (round % 50 == 0)
			assert_int_equal(rig_run(r, VFS_FLUSH, 0, 0, NULL, 0), 0);
	}
	compare_all(r, model);
	thin_bench_close(r);
	thin_bench_open(r);
	compare_all(r, model);
	free(model);
	free(buf);
	free(jobs);
	thin_bench_teardown(r);
}

/* Many small writes into one grain and one unit at once: none may wipe another. */
static void test_same_grain_at_once(void **state)
{
	struct rig *r = thin_bench_setup(512 * MiB, false);
	struct rig_job *jobs = xaligned(64, 64 * sizeof(*jobs));
	uint8_t *buf = xaligned(4096, 64 * 512), *back = xaligned(4096, 64 * 512);

	(void)state;
	for (unsigned i = 0; i < 64; i++)
		memset(buf + i * 512, (int)i + 1, 512);
	for (unsigned i = 0; i < 64; i++)
		rig_start(&jobs[i], r, VFS_WRITE, MiB + i * 512, 512, buf + i * 512, 0);
	for (unsigned i = 0; i < 64; i++)
		assert_int_equal(rig_finish(&jobs[i]), 0);
	assert_int_equal(rig_run(r, VFS_READ, MiB, 64 * 512, back, 0), 0);
	assert_memory_equal(buf, back, 64 * 512);
	free(jobs);
	free(buf);
	free(back);
	thin_bench_teardown(r);
}

/* What is discarded can be used again: write far more than the volume holds, discarding between. */
static void test_discard_gives_space_back(void **state)
{
	struct rig *r = thin_bench_setup(256 * MiB, false);
	uint8_t *buf = xaligned(4096, MiB);
	struct cfs_stat st;

	(void)state;
	memset(buf, 0x5a, MiB);
	for (unsigned round = 0; round < 12; round++) {
		for (uint64_t at = 0; at < THIN_BENCH_SIZE; at += MiB)
			assert_int_equal(rig_run(r, VFS_WRITE, at, MiB, buf, 0), 0);
		assert_int_equal(rig_run(r, VFS_DISCARD, 0, THIN_BENCH_SIZE, NULL, 0), 0);
	}
	for (unsigned i = 0; i < 100; i++) {
		cfs_file_stat(r->file, &st);
		if (st.allocated == 0)
			break;
		usleep(50000);
	}
	assert_int_equal(st.allocated, 0);
	free(buf);
	thin_bench_teardown(r);
}

static int count_other(void *arg, uint64_t offset, uint64_t length, unsigned extent,
		       uint64_t address)
{
	(void)offset, (void)length, (void)address;
	*(unsigned *)arg += extent != 0;
	return 0;
}

struct late_opening {
	struct pool_job job[2]; /* one for each of the pool's threads */
	_Atomic bool go;
	_Atomic unsigned over;
};

static void keep_busy(struct late_opening *late)
{
	while (!late->go)
		usleep(1000);
	late->over++;
}

static void busy_0(struct pool_job *job)
{
	keep_busy(container_of(job, struct late_opening, job[0]));
}

static void busy_1(struct pool_job *job)
{
	keep_busy(container_of(job, struct late_opening, job[1]));
}

static int ask_for_channel(void *arg)
{
	assert_null(vfs_chan(arg, 1));
	return 0;
}

static void *let_go(void *arg)
{
	struct late_opening *late = arg;

	usleep(50000);
	late->go = true;
	return NULL;
}

/* Channels that are given back while one of them is being opened: that is waited for. */
static void close_while_opening(struct rig *r, struct vfs_chans *chans)
{
	struct late_opening late = {.job = {{.fn = busy_0}, {.fn = busy_1}}};
	pthread_t thread;

	pool_submit(r->pool, &late.job[0]);
	pool_submit(r->pool, &late.job[1]);
	iothread_call(r->io, ask_for_channel, chans);
	assert_int_equal(pthread_create(&thread, NULL, let_go, &late), 0);
	vfs_chans_close(chans);
	assert_true(late.go);
	pthread_join(thread, NULL);
	while (late.over < 2)
		usleep(1000);
}

/* The volume grows by a LUN while the disk is open: its I/O thread has no channel to that one yet. */
static void test_grow_under_a_disk(void **state)
{
	struct rig *r = thin_bench_setup(256 * MiB, false);
	uint8_t *buf = xaligned(4096, MiB);
	char *more = lun_make(256 * MiB);
	unsigned other = 0;
	struct vfs_chans *chans;
	struct cfs_file *big;
	struct blk *blk;

	(void)state;
	memset(buf, 0x77, MiB);
	ok(cfs_create(r->fs, "/big", CFS_DISK,
		      232 * MiB)); /* leaves less than the disk will want */
	ok(cfs_open(r->fs, "/big", CFS_OPEN_WRITE, 0, &big));
	ok(cfs_allocate(big, 0, 208 * MiB));
	ok(blk_open(more, NULL, &blk));
	ok(vfs_chans_open(r->fs, iothread_loop(r->io), r->pool, &chans));
	ok(cfs_grow(r->fs, &blk, 1));
	close_while_opening(r, chans);
	for (uint64_t at = 0; at < THIN_BENCH_SIZE; at += MiB)
		assert_int_equal(rig_run(r, VFS_WRITE, at, MiB, buf, 0), 0);
	assert_int_equal(rig_run(r, VFS_FLUSH, 0, 0, NULL, 0), 0);
	ok(cfs_extents(r->file, count_other, &other));
	assert_true(other > 0);
	for (uint64_t at = 0; at < THIN_BENCH_SIZE; at += MiB) {
		uint8_t *back = xaligned(4096, MiB);

		assert_int_equal(rig_run(r, VFS_READ, at, MiB, back, 0), 0);
		assert_memory_equal(back, buf, MiB);
		free(back);
	}
	ok(cfs_close(big));
	free(buf);
	thin_bench_teardown(r);
	blk_close(blk);
	lun_remove(more);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_reads_zero_and_back),
		cmocka_unit_test(test_random_against_model),
		cmocka_unit_test(test_same_grain_at_once),
		cmocka_unit_test(test_discard_gives_space_back),
		cmocka_unit_test(test_grow_under_a_disk),
	};

	return cmocka_run_group_tests_name("thin", tests, NULL, NULL);
}
