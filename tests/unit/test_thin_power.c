// SPDX-License-Identifier: Apache-2.0
/*
 * Thin disks on an array that loses power, with its write cache: no guest hears "flushed" of what is lost, and
 * none reads what was somebody else's.
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
#include "blockdev/fault.h"
#include "clusterfs/cfs.h"
#include "clusterfs/journal.h"
#include "tests/lib/thin_bench.h"

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

/* --- faults -------------------------------------------------------------------------------------- */

static unsigned add_fault(struct rig *r, const char *kind, const char *op, unsigned times)
{
	struct fault fault;
	unsigned id = 0;

	ok(fault_parse(&fault, thin_bench_of(r)->lun, kind, op, NULL, NULL));
	fault.times = times;
	ok(fault_add(&fault, &id));
	return id;
}

/* As "volatile" is, but leaves what is read to other faults. */
static void add_volatile(struct rig *r)
{
	(void)add_fault(r, "volatile", "write", 0);
	(void)add_fault(r, "volatile", "cas", 0);
	(void)add_fault(r, "volatile", "flush", 0);
}

static int find_range(void *arg, uint64_t offset, uint64_t length, unsigned extent,
		      uint64_t address)
{
	struct fault *fault = arg; /* `from` is a byte of the file yet */

	(void)extent;
	if (fault->to || fault->from < offset || fault->from >= offset + length)
		return 0;
	fault->from += address - offset;
	fault->to = fault->from + 512;
	return 0;
}

/* The next request to where byte `at` of the file lies hangs. */
static unsigned add_hang(struct rig *r, struct cfs_file *file, const char *op, uint64_t at)
{
	struct fault fault;
	unsigned id = 0;

	ok(fault_parse(&fault, thin_bench_of(r)->lun, "hang", op, NULL, NULL));
	fault.times = 1;
	fault.from = at;
	ok(cfs_extents(file, find_range, &fault));
	assert_true(fault.to > 0);
	ok(fault_add(&fault, &id));
	return id;
}

/* Waits until fault `id` has struck. */
static void wait_struck(unsigned id)
{
	struct fault list[8];
	bool struck = false;

	for (unsigned i = 0; i < 3000 && !struck; i++) {
		unsigned n = fault_list(list, 8);

		for (unsigned k = 0; k < n; k++)
			struck |= list[k].id == id && list[k].hits > 0;
		if (!struck)
			usleep(10000);
	}
	assert_true(struck);
}

static bool reads_back(struct rig *r, uint64_t at, uint8_t byte)
{
	uint8_t *buf = xaligned(4096, 4096), want[4096];
	bool same;

	memset(want, byte, sizeof(want));
	assert_int_equal(rig_run(r, VFS_READ, at, 4096, buf, 0), 0);
	same = memcmp(buf, want, 4096) == 0;
	free(buf);
	return same;
}

static int write_byte(struct rig *r, uint64_t at, uint8_t byte, unsigned flags)
{
	uint8_t *buf = xaligned(4096, 4096);
	int rc;

	memset(buf, byte, 4096);
	rc = rig_run(r, VFS_WRITE, at, 4096, buf, flags);
	free(buf);
	return rc;
}

/* Power goes between a write and its flush: the flush fails, once; what was flushed before is there. */
static void test_lost_between_write_and_flush(void **state)
{
	struct rig *r = thin_bench_setup(512 * MiB, false);

	(void)state;
	(void)add_fault(r, "volatile", NULL, 0);
	for (unsigned round = 1; round < 4; round++) {
		uint8_t old = (uint8_t)(2 * round), new = old + 1;

		assert_int_equal(write_byte(r, MiB, old, 0), 0);
		assert_int_equal(rig_run(r, VFS_FLUSH, 0, 0, NULL, 0), 0);
		assert_int_equal(write_byte(r, MiB, new, 0), 0);
		(void)add_fault(r, "power-loss", NULL, 0);
		assert_true(reads_back(r, MiB, old)); /* the fault does what it says */
		assert_int_equal(rig_run(r, VFS_FLUSH, 0, 0, NULL, 0), -EIO);
		assert_int_equal(r->lost, round);
		assert_int_equal(rig_run(r, VFS_FLUSH, 0, 0, NULL, 0), 0); /* it was told */
		assert_true(reads_back(r, MiB, old));
	}
	/* Nothing was written since the last flush: nothing is lost. */
	(void)add_fault(r, "power-loss", NULL, 0);
	assert_int_equal(rig_run(r, VFS_FLUSH, 0, 0, NULL, 0), 0);
	/* What is written after the loss is not lost. */
	assert_int_equal(write_byte(r, MiB, 99, 0), 0);
	assert_int_equal(rig_run(r, VFS_FLUSH, 0, 0, NULL, 0), 0);
	(void)add_fault(r, "power-loss", NULL, 0);
	assert_int_equal(rig_run(r, VFS_FLUSH, 0, 0, NULL, 0), 0);
	assert_true(reads_back(r, MiB, 99));
	assert_int_equal(r->lost, 3);
	ok(fault_clear(0));
	thin_bench_teardown(r);
}

/* Flushes that are under way together all hear of it. */
static void test_lost_under_two_flushes(void **state)
{
	struct rig *r = thin_bench_setup(512 * MiB, false);
	struct rig_job *jobs = xaligned(64, 2 * sizeof(*jobs));
	unsigned delay;

	(void)state;
	(void)add_fault(r, "volatile", "write", 0);
	assert_int_equal(write_byte(r, MiB, 1, 0), 0);
	assert_int_equal(rig_run(r, VFS_FLUSH, 0, 0, NULL, 0), 0);
	assert_int_equal(write_byte(r, MiB, 2, 0), 0);
	delay = add_fault(r, "delay=200", "flush", 0);
	rig_start(&jobs[0], r, VFS_FLUSH, 0, 0, NULL, 0);
	rig_start(&jobs[1], r, VFS_FLUSH, 0, 0, NULL, 0);
	(void)add_fault(r, "power-loss", NULL, 0);
	ok(fault_clear(delay));
	assert_int_equal(rig_finish(&jobs[0]), -EIO);
	assert_int_equal(rig_finish(&jobs[1]), -EIO);
	assert_int_equal(r->lost, 1);
	ok(fault_clear(0));
	free(jobs);
	thin_bench_teardown(r);
}

/* A write with FUA has its data at hand: it is written again, and then it is durable. */
static void test_lost_under_fua(void **state)
{
	struct rig *r = thin_bench_setup(512 * MiB, false);
	struct rig_job *job = xaligned(64, sizeof(*job));
	uint8_t *buf = xaligned(4096, 4096);

	(void)state;
	memset(buf, 7, 4096);
	assert_int_equal(write_byte(r, MiB, 1, VFS_FUA), 0);
	(void)add_fault(r, "delay=500", "flush", 1);
	(void)add_fault(r, "volatile", NULL, 0);
	rig_start(job, r, VFS_WRITE, MiB, 4096, buf, VFS_FUA);
	for (unsigned i = 0; i < 500 && !reads_back(r, MiB, 7); i++)
		usleep(10000);
	(void)add_fault(r, "power-loss", NULL, 0);
	assert_int_equal(rig_finish(job), 0);
	assert_int_equal(rig_run(r, VFS_FLUSH, 0, 0, NULL, 0), 0); /* nothing is lost */
	assert_int_equal(r->lost, 0);
	(void)add_fault(r, "power-loss", NULL, 0);
	assert_true(reads_back(r, MiB, 7));
	ok(fault_clear(0));
	free(job);
	free(buf);
	thin_bench_teardown(r);
}

/* The session that flushes is lost, the one that wrote is not: the flush waits, and is good. */
static void test_flush_over_a_flapping_session(void **state)
{
	struct rig *r = thin_bench_setup(512 * MiB, false);
	struct fault fault;

	(void)state;
	(void)add_fault(r, "flap=400", "flush", 0); /* longer than the volume's own patience */
	do {
		assert_int_equal(write_byte(r, MiB, 1, 0), 0);
		assert_int_equal(rig_run(r, VFS_FLUSH, 0, 0, NULL, 0), 0);
		usleep(20000);
	} while (fault_list(&fault, 1) == 1 && fault.hits < 8);
	assert_int_equal(r->lost, 0);
	ok(fault_clear(0));
	thin_bench_teardown(r);
}

/* The volume's own way to write files. */
static void test_lost_under_fsync(void **state)
{
	struct rig *r = thin_bench_setup(512 * MiB, false);
	uint8_t *buf = xcalloc(1, 64 * KiB);
	struct cfs_file *file;

	(void)state;
	ok(cfs_create(r->fs, "/f", CFS_FILE, 0));
	ok(cfs_open(r->fs, "/f", CFS_OPEN_WRITE, 0, &file));
	assert_int_equal(cfs_pwrite(file, buf, 64 * KiB, 0), 64 * KiB);
	ok(cfs_fsync(file));
	ok(cfs_sync(r->fs));
	(void)add_fault(r, "power-loss", NULL, 0);
	ok(cfs_fsync(file));
	assert_int_equal(cfs_pwrite(file, buf, 64 * KiB, 0), 64 * KiB);
	(void)add_fault(r, "power-loss", NULL, 0);
	assert_int_equal(cfs_fsync(file), -EIO);
	ok(cfs_fsync(file));
	assert_int_equal(cfs_sync(r->fs), -EIO); /* who waits for all hears of it too */
	ok(cfs_sync(r->fs));
	assert_int_equal(cfs_pwrite(file, buf, 64 * KiB, 0), 64 * KiB);
	ok(cfs_fsync(file));
	(void)add_fault(r, "power-loss", NULL, 0); /* nothing that anybody had not made durable */
	ok(cfs_sync(r->fs));
	ok(cfs_close(file));
	free(buf);
	thin_bench_teardown(r);
}

/* Commits that have begun, once none is under way. */
static uint64_t commits(struct rig *r)
{
	struct cfs_journal *j = r->fs->journal;
	uint64_t n;

	pthread_mutex_lock(&j->lock);
	while (j->commits_ended < j->commits_begun)
		pthread_cond_wait(&j->committed, &j->lock);
	n = j->commits_begun;
	pthread_mutex_unlock(&j->lock);
	return n;
}

/*
 * Writes at a place that nobody has written to, and power goes before any commit has begun, which comes each
 * second by itself: then it goes on to another place. Where it was.
 */
static uint64_t lose_first_writes(struct rig *r, uint64_t *place)
{
	for (;;) {
		uint64_t before = commits(r), at = *place;

		*place += MiB;
		assert_true(at < THIN_BENCH_SIZE);
		assert_int_equal(write_byte(r, at, 1, 0), 0);
		assert_int_equal(write_byte(r, at + 8192, 2, 0), 0);
		assert_int_equal(write_byte(r, at, 3, 0), 0);
		(void)add_fault(r, "power-loss", NULL, 0);
		if (commits(r) == before)
			return at;
		assert_int_equal(rig_run(r, VFS_FLUSH, 0, 0, NULL, 0), -EIO);
	}
}

/* A first write is lost: its grains are zero then, not what the unit held before. */
static void test_lost_first_write(void **state)
{
	struct rig *r = thin_bench_setup(256 * MiB, true);
	uint64_t at = 0, place = 2 * MiB;

	(void)state;
	(void)add_fault(r, "volatile", NULL, 0);
	for (unsigned round = 1; round < 4; round++) {
		unsigned lost;

		at = lose_first_writes(r, &place);
		lost = r->lost;
		if (round == 2) /* nobody looks before a commit of its own has begun */
			usleep(1200000);
		if (round == 3) { /* written over before anybody has looked: lost with it, or not */
			assert_int_equal(write_byte(r, at, 4, 0), 0);
			assert_true(reads_back(r, at, 4));
		} else {
			assert_true(reads_back(r, at, 0));
		}
		assert_true(reads_back(r, at + 8192, 0));
		assert_int_equal(rig_run(r, VFS_FLUSH, 0, 0, NULL, 0), -EIO);
		assert_int_equal(r->lost, lost + 1);
		assert_int_equal(rig_run(r, VFS_FLUSH, 0, 0, NULL, 0), 0);
	}
	/* What the loss did not take. */
	assert_int_equal(write_byte(r, MiB, 5, 0), 0);
	assert_int_equal(rig_run(r, VFS_FLUSH, 0, 0, NULL, 0), 0);
	(void)add_fault(r, "power-loss", NULL, 0);
	assert_int_equal(rig_run(r, VFS_FLUSH, 0, 0, NULL, 0), 0);
	/* Lost, and the disk closed before anybody could say so. */
	place = lose_first_writes(r, &place);
	thin_bench_close(r);
	ok(fault_clear(0));
	thin_bench_open(r);
	assert_true(reads_back(r, MiB, 5));
	assert_true(reads_back(r, at, 4));
	assert_true(reads_back(r, at + 8192, 0));
	assert_true(reads_back(r, place, 0));
	assert_true(reads_back(r, place + 8192, 0));
	thin_bench_teardown(r);
}

static void test_lost_first_write_with_fua(void **state)
{
	struct rig *r = thin_bench_setup(256 * MiB, true);
	struct rig_job *job = xaligned(64, sizeof(*job));
	uint8_t *buf = xaligned(4096, 4096);

	(void)state;
	memset(buf, 7, 4096);
	(void)add_fault(r, "delay=500", "flush", 1);
	(void)add_fault(r, "volatile", NULL, 0);
	rig_start(job, r, VFS_WRITE, MiB, 4096, buf, VFS_FUA);
	for (unsigned i = 0; i < 500 && !reads_back(r, MiB, 7); i++)
		usleep(10000);
	(void)add_fault(r, "power-loss", NULL, 0);
	assert_int_equal(rig_finish(job), 0);
	assert_true(reads_back(r, MiB, 7));
	(void)add_fault(r, "power-loss", NULL, 0);
	assert_true(reads_back(r, MiB, 7));
	assert_int_equal(rig_run(r, VFS_FLUSH, 0, 0, NULL, 0), 0);
	assert_int_equal(r->lost, 0);
	ok(fault_clear(0));
	free(job);
	free(buf);
	thin_bench_teardown(r);
}

static void test_lost_first_write_of_a_file(void **state)
{
	struct rig *r = thin_bench_setup(256 * MiB, true);
	uint8_t *buf = xcalloc(1, 100 * KiB), *back = xcalloc(1, 100 * KiB);
	struct cfs_file *file;

	(void)state;
	ok(cfs_create(r->fs, "/f", CFS_FILE, 0));
	ok(cfs_open(r->fs, "/f", CFS_OPEN_WRITE, 0, &file));
	(void)add_fault(r, "volatile", NULL, 0);
	for (unsigned round = 0; round < 2; round++) {
		uint64_t before = commits(r);

		memset(buf, 0x55, 100 * KiB);
		assert_int_equal(cfs_pwrite(file, buf, 100 * KiB, 0), 100 * KiB);
		(void)add_fault(r, "power-loss", NULL, 0);
		if (commits(r) != before) { /* it is durable by now */
			ok(cfs_truncate(file, 0));
			(void)cfs_fsync(file);
			round--;
			continue;
		}
		memset(buf, 0, 100 * KiB);
		if (round == 0) {
			assert_int_equal(cfs_pread(file, back, 100 * KiB, 0), 100 * KiB);
			assert_memory_equal(back, buf, 100 * KiB);
		}
		assert_int_equal(cfs_fsync(file), -EIO);
		ok(cfs_fsync(file));
		assert_int_equal(cfs_pread(file, back, 100 * KiB, 0), 100 * KiB);
		assert_memory_equal(back, buf, 100 * KiB);
	}
	assert_int_equal(cfs_pwrite(file, buf, 100 * KiB, 0), 100 * KiB);
	ok(cfs_fsync(file));
	ok(cfs_close(file));
	ok(fault_clear(0));
	free(buf);
	free(back);
	thin_bench_teardown(r);
}

/*
 * A read under way when the power goes, and when a commit has undone what it was to read: it is answered late, or
 * never (then it is sent again). What is at that place of the LUN by now is not the guest's.
 */
static void read_over_a_loss(struct rig *r, uint64_t at, bool answered)
{
	struct rig_job *job = xaligned(64, sizeof(*job));
	uint8_t *buf = xaligned(4096, 4096);
	unsigned hang;

	assert_int_equal(write_byte(r, at, 7, 0), 0);
	hang = add_hang(r, r->file, "read", at);
	rig_start(job, r, VFS_READ, at, 4096, buf, 0);
	wait_struck(hang);
	(void)add_fault(r, "power-loss", NULL, 0);
	assert_int_equal(rig_run(r, VFS_FLUSH, 0, 0, NULL, 0), -EIO);
	if (answered)
		ok(fault_clear(hang));
	assert_int_equal(rig_finish(job), 0);
	for (unsigned i = 0; i < 4096; i++) /* undone, or flushed by a commit before */
		assert_true(buf[i] == buf[0] && (!buf[i] || buf[i] == 7));
	if (!answered)
		ok(fault_clear(hang));
	free(job);
	free(buf);
}

static void test_read_over_a_loss(void **state)
{
	struct rig *r = thin_bench_setup(256 * MiB, true);

	(void)state;
	thin_bench_close(r);
	thin_bench_of(r)->timeout_ms = 500;
	thin_bench_open(r);
	add_volatile(r);
	read_over_a_loss(r, MiB, true);
	read_over_a_loss(r, 2 * MiB, false);
	ok(fault_clear(0));
	thin_bench_teardown(r);
}

struct file_reader {
	struct cfs_file *file;
	uint8_t *buf;
	int64_t res;
};

static void *read_file(void *arg)
{
	struct file_reader *f = arg;

	f->res = cfs_pread(f->file, f->buf, 64 * KiB, 0);
	return NULL;
}

/* The same with a file. */
static void test_file_read_over_a_loss(void **state)
{
	struct rig *r = thin_bench_setup(256 * MiB, true);
	struct file_reader f = {.buf = xcalloc(1, 64 * KiB)};
	unsigned hang;
	pthread_t thread;

	(void)state;
	ok(cfs_create(r->fs, "/f", CFS_FILE, 0));
	ok(cfs_open(r->fs, "/f", CFS_OPEN_WRITE, 0, &f.file));
	add_volatile(r);
	memset(f.buf, 7, 64 * KiB);
	assert_int_equal(cfs_pwrite(f.file, f.buf, 64 * KiB, 0), 64 * KiB);
	hang = add_hang(r, f.file, "read", 0);
	assert_int_equal(pthread_create(&thread, NULL, read_file, &f), 0);
	wait_struck(hang);
	(void)add_fault(r, "power-loss", NULL, 0);
	assert_int_equal(rig_run(r, VFS_FLUSH, 0, 0, NULL, 0), 0); /* it was no write of the disk */
	ok(fault_clear(hang));
	pthread_join(thread, NULL);
	assert_int_equal(f.res, 64 * KiB);
	for (unsigned i = 0; i < 64 * KiB; i++)
		assert_true(f.buf[i] == f.buf[0] && (!f.buf[i] || f.buf[i] == 7));
	assert_int_equal(cfs_fsync(f.file), -EIO);
	ok(cfs_close(f.file));
	ok(fault_clear(0));
	free(f.buf);
	thin_bench_teardown(r);
}

/*
 * Power goes under a write of `length` bytes over what was written before: flushes that had begun fail. What is
 * answered afterwards, and flushed, is there.
 */
static void write_over_a_loss(struct rig *r, uint64_t at, uint64_t length, unsigned flags)
{
	struct rig_job *job = xaligned(64, sizeof(*job));
	uint8_t *buf = xaligned(4096, length), *back = xaligned(4096, length);
	unsigned hang;

	memset(buf, 1, length);
	assert_int_equal(rig_run(r, VFS_WRITE, at, length, buf, 0), 0);
	memset(buf, 2, length);
	hang = add_hang(r, r->file, "write", at); /* the first piece of it */
	add_volatile(r);
	rig_start(job, r, VFS_WRITE, at, length, buf, flags);
	wait_struck(hang);
	if (length > MiB) /* the second is in the cache by now */
		for (unsigned i = 0; i < 3000 && !reads_back(r, at + length - 4096, 2); i++)
			usleep(10000);
	(void)add_fault(r, "power-loss", NULL, 0);
	assert_int_equal(rig_run(r, VFS_FLUSH, 0, 0, NULL, 0), -EIO);
	ok(fault_clear(hang));
	assert_int_equal(rig_finish(job), 0);
	assert_int_equal(rig_run(r, VFS_FLUSH, 0, 0, NULL, 0), 0);
	assert_int_equal(rig_run(r, VFS_READ, at, length, back, 0), 0);
	assert_memory_equal(back, buf, length);
	ok(fault_clear(0));
	free(job);
	free(buf);
	free(back);
}

static void test_write_over_a_loss(void **state)
{
	struct rig *r = thin_bench_setup(256 * MiB, true);

	(void)state;
	write_over_a_loss(r, MiB, 4096, 0);		 /* a unit that is undone meanwhile */
	write_over_a_loss(r, 4 * MiB, 2 * MiB, 0);	 /* a part that was done before */
	write_over_a_loss(r, 8 * MiB, 2 * MiB, VFS_FUA); /* the same, with its data at hand */
	thin_bench_teardown(r);
}

/* The disk is closed with first writes that nobody has flushed, the power being all right. */
static void test_close_loses_nothing(void **state)
{
	struct rig *r = thin_bench_setup(256 * MiB, true);

	(void)state;
	assert_int_equal(write_byte(r, MiB, 1, 0), 0);
	assert_int_equal(rig_run(r, VFS_FLUSH, 0, 0, NULL, 0), 0);
	(void)add_fault(r, "power-loss", NULL, 0); /* long ago */
	assert_int_equal(write_byte(r, 2 * MiB, 2, 0), 0);
	thin_bench_close(r);
	thin_bench_open(r);
	assert_true(reads_back(r, MiB, 1));
	assert_true(reads_back(r, 2 * MiB, 2));
	thin_bench_teardown(r);
}

/* Whether `length` bytes at `at` of the disk all are `byte`. */
static bool holds(struct rig *r, uint64_t at, uint64_t length, uint8_t byte)
{
	uint8_t *buf = xaligned(4096, 16384);
	bool same = true;

	assert_int_equal(rig_run(r, VFS_READ, at & ~16383ULL, 16384, buf, 0), 0);
	for (uint64_t i = at % 16384; i < at % 16384 + length; i++)
		same = same && buf[i] == byte;
	free(buf);
	return same;
}

/* Sessions end, the array lives: a first write that was written over in part is known again, sector by sector. */
static void test_overwritten_in_part(void **state)
{
	struct rig *r = thin_bench_setup(256 * MiB, true);
	uint8_t *buf = xaligned(4096, 12288);
	uint64_t at = MiB, before;

	(void)state;
	do {
		(void)rig_run(r, VFS_FLUSH, 0, 0, NULL, 0);
		at += MiB;
		assert_true(at < THIN_BENCH_SIZE);
		before = commits(r);
		memset(buf, 1, 12288);
		assert_int_equal(rig_run(r, VFS_WRITE, at, 12288, buf, 0), 0);
		memset(buf, 2, 12288);
		assert_int_equal(rig_run(r, VFS_WRITE, at + 512, 1536, buf, 0), 0);
		memset(buf, 3,
		       12288); /* the end of one grain, a whole one, the beginning of a third */
		assert_int_equal(rig_run(r, VFS_WRITE, at + 3072, 6144, buf, 0), 0);
		(void)add_fault(r, "power-loss", NULL, 0);
	} while (commits(r) != before); /* one comes each second by itself */
	assert_true(holds(r, at, 512, 1));
	assert_true(holds(r, at + 512, 1536, 2));
	assert_true(holds(r, at + 2048, 1024, 1));
	assert_true(holds(r, at + 3072, 6144, 3));
	assert_true(holds(r, at + 9216, 3072, 1));
	assert_int_equal(rig_run(r, VFS_FLUSH, 0, 0, NULL, 0), -EIO);
	assert_true(holds(r, at + 512, 1536, 2));
	free(buf);
	thin_bench_teardown(r);
}

/* The same of a file: what its owner could read before, he reads still. */
static void test_file_overwritten_in_part(void **state)
{
	struct rig *r = thin_bench_setup(256 * MiB, true);
	uint8_t *buf = xmalloc(12288), *want = xmalloc(12288), *back = xmalloc(12288);
	uint64_t at = MiB, before;
	struct cfs_file *file;

	(void)state;
	ok(cfs_create(r->fs, "/f", CFS_FILE, 0));
	ok(cfs_open(r->fs, "/f", CFS_OPEN_WRITE, 0, &file));
	memset(want, 1, 12288);
	memset(want + 512, 2, 1536);
	memset(want + 3072, 3, 6144);
	do {
		(void)cfs_fsync(file);
		at += MiB;
		before = commits(r);
		memset(buf, 1, 12288);
		assert_int_equal(cfs_pwrite(file, buf, 12288, at), 12288);
		memset(buf, 2, 12288);
		assert_int_equal(cfs_pwrite(file, buf, 1536, at + 512), 1536);
		memset(buf, 3, 12288);
		assert_int_equal(cfs_pwrite(file, buf, 6144, at + 3072), 6144);
		(void)add_fault(r, "power-loss", NULL, 0);
	} while (commits(r) != before); /* one comes each second by itself */
	assert_int_equal(cfs_pread(file, back, 12288, at), 12288);
	assert_memory_equal(back, want, 12288);
	assert_int_equal(cfs_fsync(file), -EIO);
	ok(cfs_fsync(file));
	assert_int_equal(cfs_pread(file, back, 12288, at), 12288);
	assert_memory_equal(back, want, 12288);
	ok(cfs_close(file));
	free(buf);
	free(want);
	free(back);
	thin_bench_teardown(r);
}

/* The same, of a write over several units in more buffers than a piece has room for. */
static void test_overwritten_in_many_parts(void **state)
{
	struct rig *r = thin_bench_setup(256 * MiB, true);
	const uint64_t length = 512 * 1024, at = MiB + 512;
	uint8_t *buf = xaligned(4096, length), *back = xaligned(4096, length);

	(void)state;
	r->part = 4096;
	for (unsigned round = 0; round < 3; round++) {
		memset(buf, 1, length);
		assert_int_equal(rig_run(r, VFS_WRITE, at + 4 * length * round, length, buf, 0), 0);
		for (uint64_t i = 0; i < length; i++)
			buf[i] = (uint8_t)(i / 512 * 7 + round);
		assert_int_equal(rig_run(r, VFS_WRITE, at + 4 * length * round, length, buf, 0), 0);
		(void)add_fault(r, "power-loss", NULL, 0); /* nothing is lost by it */
		assert_int_equal(rig_run(r, VFS_READ, at + 4 * length * round, length, back, 0), 0);
		assert_memory_equal(buf, back, length);
		(void)rig_run(r, VFS_FLUSH, 0, 0, NULL, 0);
	}
	free(buf);
	free(back);
	thin_bench_teardown(r);
}

static void no_strangers(const uint8_t *buf, uint64_t length)
{
	for (uint64_t i = 0; i < length; i++)
		if (buf[i] == THIN_BENCH_STRANGER)
			bad("a stranger's byte");
}

/* What is known of a sector: whether it must be what the model says. */
enum known {
	NOTHING,  /* it was lost, or was not */
	ANSWERED, /* since the last flush began */
	FLUSHING, /* before that */
	DURABLE,
};
#define SECTORS (THIN_BENCH_SIZE / 512)

static void flush_begins(uint8_t *known)
{
	for (uint64_t s = 0; s < SECTORS; s++)
		known[s] = known[s] == ANSWERED ? FLUSHING : known[s];
}

static void flush_ends(uint8_t *known, int res)
{
	assert_true(res == 0 || res == -EIO);
	for (uint64_t s = 0; s < SECTORS; s++) {
		if (res == 0 && known[s] == FLUSHING)
			known[s] = DURABLE;
		else if (res < 0 && known[s] != DURABLE)
			known[s] = NOTHING;
	}
}

static void check_durable(const uint8_t *buf, uint64_t offset, uint64_t length,
			  const uint8_t *model, const uint8_t *known)
{
	for (uint64_t at = 0; at < length; at += 512)
		if (known[(offset + at) / 512] == DURABLE &&
		    memcmp(buf + at, model + offset + at, 512) != 0)
			bad("sector %llu was flushed, and is gone",
			    (unsigned long long)((offset + at) / 512));
}

/* `told`: a flush that failed may have told of it. */
static void op_ends(struct rig_job *j, enum vfs_op op, bool told, const uint8_t *buf,
		    const uint8_t *model, uint8_t *known)
{
	const struct vfs_req *req = &j->req;

	assert_int_equal(rig_finish(j), 0);
	if (op != VFS_READ) {
		memset(known + req->offset / 512,
		       req->flags & VFS_FUA ? DURABLE
		       : told		    ? NOTHING
					    : ANSWERED,
		       req->length / 512);
		return;
	}
	no_strangers(buf, req->length);
	check_durable(buf, req->offset, req->length, model, known);
}

static bool ended(struct rig_job *j)
{
	bool done;

	pthread_mutex_lock(&j->lock);
	done = j->done;
	pthread_mutex_unlock(&j->lock);
	return done;
}

/* Power goes under the requests of a round, and a flush tells; `told`: those it may have told of. */
static void lose_in_flight(struct rig *r, struct rig_job *jobs, uint8_t *known, bool *told)
{
	int res;

	flush_begins(known);
	(void)add_fault(r, "power-loss", NULL, 0);
	res = rig_run(r, VFS_FLUSH, 0, 0, NULL, 0);
	flush_ends(known, res);
	for (unsigned l = 0; l < THIN_BENCH_LANES; l++)
		told[l] = res < 0 && ended(&jobs[l]);
}

/*
 * Power goes now and then, with writes that nobody has flushed, or just does: nobody ever reads what was there
 * before; and what was answered after a flush that failed, and then flushed, is there.
 */
static void test_no_stranger_ever(void **state)
{
	struct rig *r = thin_bench_setup(256 * MiB, true);
	uint8_t *known = xcalloc(1, SECTORS), *model = xcalloc(1, THIN_BENCH_SIZE),
		*buf = xaligned(4096, THIN_BENCH_LANES * MiB);
	struct rig_job *jobs = xaligned(64, THIN_BENCH_LANES * sizeof(*jobs));
	struct rig_job *flush = xaligned(64, sizeof(*flush));
	enum vfs_op op[THIN_BENCH_LANES];
	unsigned seed = 99;

	(void)state;
	(void)add_fault(r, "volatile", NULL, 0);
	for (unsigned round = 0; round < 162; round++) {
		bool told[THIN_BENCH_LANES] = {false};

		for (unsigned l = 0; l < THIN_BENCH_LANES; l++)
			thin_bench_random(&jobs[l], r, l, &seed, model, buf + l * MiB, &op[l]);
		if (round % 4 == 2)
			lose_in_flight(r, jobs, known, told);
		for (unsigned l = 0; l < THIN_BENCH_LANES; l++)
			op_ends(&jobs[l], op[l], told[l], buf + l * MiB, model, known);
		if (round % 4 == 1) /* it has been under way meanwhile */
			flush_ends(known, rig_finish(flush));
		if (round % 4 == 3) { /* nothing was lost since it failed */
			flush_begins(known);
			assert_int_equal(rig_run(r, VFS_FLUSH, 0, 0, NULL, 0), 0);
			flush_ends(known, 0);
		}
		if (round % 4)
			continue;
		flush_begins(known);
		rig_start(flush, r, VFS_FLUSH, 0, 0, NULL, 0);
		usleep((unsigned)rand_r(&seed) % 2000);
		(void)add_fault(r, "power-loss", NULL, 0);
	}
	ok(fault_clear(0));
	for (unsigned twice = 0; twice < 2; twice++) {
		for (uint64_t at = 0; at < THIN_BENCH_SIZE; at += MiB) {
			assert_int_equal(rig_run(r, VFS_READ, at, MiB, buf, 0), 0);
			no_strangers(buf, MiB);
			check_durable(buf, at, MiB, model, known);
		}
		thin_bench_close(r);
		thin_bench_open(r);
	}
	free(known);
	free(model);
	free(buf);
	free(jobs);
	free(flush);
	thin_bench_teardown(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_lost_between_write_and_flush),
		cmocka_unit_test(test_lost_under_two_flushes),
		cmocka_unit_test(test_lost_under_fua),
		cmocka_unit_test(test_flush_over_a_flapping_session),
		cmocka_unit_test(test_lost_under_fsync),
		cmocka_unit_test(test_lost_first_write),
		cmocka_unit_test(test_lost_first_write_with_fua),
		cmocka_unit_test(test_lost_first_write_of_a_file),
		cmocka_unit_test(test_read_over_a_loss),
		cmocka_unit_test(test_file_read_over_a_loss),
		cmocka_unit_test(test_write_over_a_loss),
		cmocka_unit_test(test_close_loses_nothing),
		cmocka_unit_test(test_overwritten_in_part),
		cmocka_unit_test(test_file_overwritten_in_part),
		cmocka_unit_test(test_overwritten_in_many_parts),
		cmocka_unit_test(test_no_stranger_ever),
	};

	return cmocka_run_group_tests_name("thin-power", tests, NULL, NULL);
}
