// SPDX-License-Identifier: Apache-2.0
/* The node and the file backend: data, gate, splitting, compare-and-write, host locks. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#undef fail /* base/err.h has its own */

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/loop.h"
#include "blockdev/blk.h"
#include "blockdev/node.h"
#include "tests/lib/lun.h"

#define SIZE (64 * MiB)

struct fixture {
	char *path;
	struct blk *blk;
};

static int setup(void **state)
{
	struct fixture *f = xcalloc(1, sizeof(*f));

	f->path = lun_make(SIZE);
	assert_int_equal(blk_open(f->path, NULL, &f->blk), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	blk_close(f->blk);
	lun_remove(f->path);
	free(f);
	return 0;
}

static void test_info(void **state)
{
	struct fixture *f = *state;
	const struct blk_info *info = blk_info(f->blk);
	struct blk *again;

	assert_int_equal(info->kind, BLK_FILE);
	assert_int_equal(info->size, SIZE);
	assert_true(info->block_size == 512 || info->block_size == 4096);
	assert_int_equal(info->cas, BLK_CAS_FILE);
	assert_string_equal(blk_cas_name(info->cas), "file");
	assert_memory_equal(info->id, "file.", 5);
	assert_int_equal(blk_open(f->path, NULL, &again), 0);
	assert_string_equal(blk_info(again)->id, info->id);
	blk_close(again);
}

static void test_open_errors(void **state)
{
	struct blk *blk;

	(void)state;
	assert_int_equal(blk_open("/nowhere/lun", NULL, &blk), -ENOENT);
	assert_non_null(strstr(err_message(-ENOENT), "/nowhere/lun"));
	assert_int_equal(blk_open("/dev/null", NULL, &blk), -EINVAL);
	assert_int_equal(blk_open("/etc/passwd", &(struct blk_options){.block_size = 1024}, &blk),
			 -EINVAL);
}

static void test_blocking(void **state)
{
	struct fixture *f = *state;
	uint8_t *a = xaligned(4096, 64 * KiB), *b = xaligned(4096, 64 * KiB);

	lun_pattern(a, 64 * KiB, 1);
	assert_int_equal(blk_write(f->blk, MiB, a, 64 * KiB, 0), 0);
	assert_int_equal(blk_write(f->blk, 2 * MiB, a, 4096, BLK_FUA), 0);
	assert_int_equal(blk_flush(f->blk), 0);
	assert_int_equal(blk_read(f->blk, MiB, b, 64 * KiB), 0);
	assert_memory_equal(a, b, 64 * KiB);
	/* buffers that O_DIRECT would not take */
	assert_int_equal(blk_write(f->blk, 3 * MiB, a + 1, 4096, 0), 0);
	assert_int_equal(blk_read(f->blk, 3 * MiB, b + 3, 4096), 0);
	assert_memory_equal(a + 1, b + 3, 4096);
	assert_int_equal(blk_discard(f->blk, MiB, 4096), 0);
	assert_int_equal(blk_write_zeroes(f->blk, MiB + 8192, 4096, BLK_FUA), 0);
	assert_int_equal(blk_read(f->blk, MiB, b, 64 * KiB), 0);
	memset(a, 0, 4096);
	memset(a + 8192, 0, 4096);
	assert_memory_equal(a, b, 64 * KiB);
	free(a);
	free(b);
}

/* Longer than max_transfer and in more pieces than the kernel takes at once. */
static void test_split(void **state)
{
	struct fixture *f = *state;
	size_t n = 11 * MiB, piece = 4096, count = n / piece;
	uint8_t *a = xaligned(4096, n), *b = xaligned(4096, n);
	struct iovec *iov = xcalloc(count, sizeof(*iov));
	struct loop *loop;
	struct blk_chan *chan;
	struct blk_req req;

	lun_pattern(a, n, 2);
	for (size_t i = 0; i < count; i++)
		iov[i] = (struct iovec){a + i * piece, piece};
	assert_int_equal(loop_create(&loop, 64), 0);
	assert_int_equal(blk_chan_open(f->blk, loop, BLK_CHAN_DATA, &chan), 0);
	blk_prep_rw(&req, BLK_WRITE, 5 * 4096, iov, (int)count, n, 0);
	assert_int_equal(blk_call(chan, &req), 0);
	assert_int_equal(blk_read(f->blk, 5 * 4096, b, n), 0);
	assert_memory_equal(a, b, n);
	blk_chan_close(chan);
	loop_destroy(loop);
	free(iov);
	free(a);
	free(b);
}

struct whole {
	struct blk_req req;
	struct loop *loop;
	int res;
};

static void whole_done(struct blk_req *req, int res)
{
	struct whole *w = container_of(req, struct whole, req);

	w->res = res;
	loop_stop(w->loop);
}

/* A session is lost between a long write's first piece and its last: it is no success. */
static void test_split_straddles_a_loss(void **state)
{
	static const struct {
		unsigned flags;
		bool loss;
		int want;
	} round[] = {{0, false, 0}, {0, true, -ENOTCONN}, {BLK_FUA, true, 0}};
	struct fixture *f = *state;
	size_t n = 2 * blk_info(f->blk)->max_transfer;
	struct iovec iov = {xaligned(4096, n), n};
	struct whole w = {.req.done = whole_done};
	struct blk_chan *chan;

	lun_pattern(iov.iov_base, n, 9);
	assert_int_equal(loop_create(&w.loop, 64), 0);
	assert_int_equal(blk_chan_open(f->blk, w.loop, BLK_CHAN_DATA, &chan), 0);
	for (unsigned i = 0; i < 3; i++) {
		blk_prep_rw(&w.req, BLK_WRITE, 0, &iov, 1, n, round[i].flags);
		blk_submit(chan, &w.req);
		chan->power_count += round[i].loss;
		assert_int_equal(loop_run(w.loop), 0);
		assert_int_equal(w.res, round[i].want);
		if (round[i].want < 0)
			assert_true(w.req.maybe_done);
	}
	blk_chan_close(chan);
	loop_destroy(w.loop);
	free(iov.iov_base);
}

/* More places than are written at once; and a lease that is over stops it. */
static void test_parts(void **state)
{
	enum { N = 100 };
	struct fixture *f = *state;
	const _Atomic uint64_t over = 1;
	uint8_t *buf = xaligned(4096, N * 4096), *back = xaligned(4096, 4096);
	struct blk_part part[N];
	struct iovec iov[N];
	bool maybe = true;

	lun_pattern(buf, N * 4096, 4);
	for (unsigned i = 0; i < N; i++) {
		iov[i] = (struct iovec){buf + i * 4096, 4096};
		part[i] = (struct blk_part){(uint64_t)(N - i) * 12288, 4096, &iov[i], 1};
	}
	assert_int_equal(blk_write_parts(f->blk, part, 0, 0, &maybe), 0);
	assert_int_equal(blk_write_parts(f->blk, part, N, 0, &maybe), 0);
	for (unsigned i = 0; i < N; i++) {
		assert_int_equal(blk_read(f->blk, part[i].offset, back, 4096), 0);
		assert_memory_equal(back, buf + i * 4096, 4096);
	}
	blk_set_lease(f->blk, &over);
	assert_int_equal(blk_write_parts(f->blk, part, N, 0, &maybe), -ESTALE);
	assert_false(maybe); /* nothing was sent */
	blk_set_lease(f->blk, NULL);
	free(buf);
	free(back);
}

struct many {
	struct blk_req req;
	struct iovec iov;
	unsigned *left;
};

static void many_done(struct blk_req *req, int res)
{
	struct many *m = container_of(req, struct many, req);

	assert_int_equal(res, 0);
	(*m->left)--;
}

static void test_depth(void **state)
{
	enum { N = 512 };
	struct fixture *f = *state;
	uint8_t *buf = xaligned(4096, N * 4096), *back = xaligned(4096, N * 4096);
	struct many *many = xcalloc(N, sizeof(*many));
	struct blk_stats stats;
	struct blk_chan *chan;
	struct loop *loop;
	unsigned left = N;

	lun_pattern(buf, N * 4096, 3);
	assert_int_equal(loop_create(&loop, 64), 0);
	assert_int_equal(blk_chan_open(f->blk, loop, BLK_CHAN_DATA, &chan), 0);
	for (unsigned i = 0; i < N; i++) {
		many[i].iov = (struct iovec){buf + i * 4096, 4096};
		many[i].left = &left;
		many[i].req.done = many_done;
		blk_prep_rw(&many[i].req, BLK_WRITE, (uint64_t)i * 8192, &many[i].iov, 1, 4096, 0);
		blk_submit(chan, &many[i].req);
	}
	while (left)
		assert_int_equal(loop_turn(loop, UINT64_MAX), 0);
	for (unsigned i = 0; i < N; i++)
		assert_int_equal(blk_read(f->blk, (uint64_t)i * 8192, back + i * 4096, 4096), 0);
	assert_memory_equal(buf, back, N * 4096);
	blk_get_stats(f->blk, &stats);
	assert_int_equal(stats.ops[BLK_WRITE], N);
	assert_int_equal(stats.bytes_written, N * 4096);
	assert_true(stats.latency_ns > 0);
	blk_chan_close(chan);
	loop_destroy(loop);
	free(many);
	free(buf);
	free(back);
}

static void test_lease(void **state)
{
	struct fixture *f = *state;
	_Atomic uint64_t end = clock_boot_ns() + 3600 * NS_PER_S;
	uint8_t zero[4096] = {0}, one[4096] = {1};
	bool maybe = true;

	blk_set_lease(f->blk, &end);
	assert_int_equal(blk_write(f->blk, 0, one, 4096, 0), 0);
	end = clock_boot_ns();
	assert_int_equal(blk_write(f->blk, 0, zero, 4096, 0), -ESTALE);
	assert_int_equal(blk_discard(f->blk, 0, 4096), -ESTALE);
	assert_int_equal(blk_write_zeroes(f->blk, 0, 4096, 0), -ESTALE);
	assert_int_equal(blk_cas(f->blk, 0, one, zero, NULL, 0, &maybe), -ESTALE);
	assert_false(maybe);
	assert_int_equal(blk_flush(f->blk), 0);
	assert_int_equal(blk_read(f->blk, 0, zero, 4096), 0);
	assert_memory_equal(zero, one, 4096);
	assert_int_equal(blk_write(f->blk, 0, one, 4096, BLK_UNGATED), 0);
	blk_set_lease(f->blk, NULL);
	assert_int_equal(blk_write(f->blk, 0, one, 4096, 0), 0);
}

static void test_read_only(void **state)
{
	struct fixture *f = *state;
	uint8_t buf[4096] = {0};
	struct blk *ro;

	assert_int_equal(blk_open(f->path, &(struct blk_options){.read_only = true}, &ro), 0);
	assert_int_equal(blk_read(ro, 0, buf, 4096), 0);
	assert_int_equal(blk_write(ro, 0, buf, 4096, 0), -EROFS);
	blk_close(ro);
}

static void test_block_size(void **state)
{
	struct fixture *f = *state;
	struct blk *blk;

	assert_int_equal(blk_open(f->path, &(struct blk_options){.block_size = 4096}, &blk), 0);
	assert_int_equal(blk_info(blk)->block_size, 4096);
	blk_close(blk);
}

static void test_rescan(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(truncate(f->path, 2 * SIZE + 100), 0);
	assert_int_equal(blk_rescan(f->blk), 0);
	assert_int_equal(blk_info(f->blk)->size, 2 * SIZE);
}

static void test_cas(void **state)
{
	struct fixture *f = *state;
	uint32_t n = blk_info(f->blk)->block_size;
	uint8_t zero[4096] = {0}, one[4096] = {1}, two[4096] = {2}, found[4096];
	bool maybe = true;

	assert_int_equal(blk_cas(f->blk, n, zero, one, NULL, 0, &maybe), 0);
	assert_false(maybe);
	assert_int_equal(blk_cas(f->blk, n, zero, two, found, 0, &maybe), -EILSEQ);
	assert_memory_equal(found, one, n);
	assert_int_equal(blk_cas(f->blk, n, one, two, NULL, 0, NULL), 0);
	assert_int_equal(blk_read(f->blk, n, found, n), 0);
	assert_memory_equal(found, two, n);
}

/* Adds `rounds` to the counter in block 0, from several blks and threads at once. */
static void add(struct blk *blk, unsigned rounds)
{
	uint32_t n = blk_info(blk)->block_size;
	uint8_t *old = xaligned(4096, n), *new = xaligned(4096, n);

	MUST(blk_read(blk, 0, old, n) == 0);
	for (unsigned i = 0; i < rounds; i++) {
		int rc;

		do {
			uint64_t v;

			memcpy(new, old, n);
			memcpy(&v, new, 8);
			v++;
			memcpy(new, &v, 8);
			rc = blk_cas(blk, 0, old, new, old, 0, NULL);
			MUST(rc == 0 || rc == -EILSEQ);
		} while (rc);
		memcpy(old, new, n);
	}
	free(old);
	free(new);
}

static void *add_thread(void *blk)
{
	add(blk, 100);
	return NULL;
}

static void test_cas_race(void **state)
{
	struct fixture *f = *state;
	pthread_t threads[4];
	struct blk *other;
	uint64_t buf[512];
	pid_t pid = fork();

	if (pid == 0) {
		struct blk *mine;

		MUST(blk_open(f->path, NULL, &mine) == 0);
		add(mine, 100);
		_exit(0);
	}
	assert_true(pid > 0);
	assert_int_equal(blk_open(f->path, NULL, &other), 0);
	for (int i = 0; i < 4; i++)
		pthread_create(&threads[i], NULL, add_thread, i % 2 ? other : f->blk);
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	assert_int_equal(blk_read(f->blk, 0, buf, sizeof(buf)), 0);
	assert_int_equal(buf[0], 500);
	blk_close(other);
}

/* Somebody stopped inside of his section: time-out for that block, others go on. */
static void test_cas_stuck(void **state)
{
	struct fixture *f = *state;
	struct flock fl = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 4096, .l_len = 512};
	uint8_t zero[4096] = {0}, one[4096] = {1};
	bool maybe = true;
	struct blk *blk;
	int fd = open(f->path, O_RDWR | O_CLOEXEC);

	assert_int_equal(fcntl(fd, F_OFD_SETLK, &fl), 0);
	assert_int_equal(blk_open(f->path, &(struct blk_options){.timeout_ms = 100}, &blk), 0);
	assert_int_equal(blk_cas(blk, 4096, zero, one, NULL, 0, &maybe), -ETIMEDOUT);
	assert_false(maybe);
	assert_int_equal(blk_cas(blk, 8192, zero, one, NULL, 0, NULL), 0);
	close(fd);
	assert_int_equal(blk_cas(blk, 4096, zero, one, NULL, 0, NULL), 0);
	blk_close(blk);
}

static void test_host_lock(void **state)
{
	struct fixture *f = *state;
	struct blk *other;
	int status;
	pid_t pid;

	assert_int_equal(blk_open(f->path, NULL, &other), 0);
	assert_int_equal(blk_host_lock(f->blk, 3), 0);
	assert_int_equal(blk_host_lock(other, 3), -EBUSY);
	assert_int_equal(blk_host_lock(other, 4), 0);
	blk_host_unlock(f->blk, 3);
	assert_int_equal(blk_host_lock(other, 3), 0);
	blk_close(other);
	assert_int_equal(blk_host_lock(f->blk, 4), 0);
	/* a killed process lets go */
	pid = fork();
	if (pid == 0) {
		struct blk *mine;

		MUST(blk_open(f->path, NULL, &mine) == 0);
		MUST(blk_host_lock(mine, 9) == 0);
		kill(getpid(), SIGKILL);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status));
	for (int i = 0; i < 2000 && blk_host_lock(f->blk, 9) == -EBUSY; i++)
		sleep_ms(1);
	assert_int_equal(blk_host_lock(f->blk, 9), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_info, setup, teardown),
		cmocka_unit_test(test_open_errors),
		cmocka_unit_test_setup_teardown(test_blocking, setup, teardown),
		cmocka_unit_test_setup_teardown(test_split, setup, teardown),
		cmocka_unit_test_setup_teardown(test_split_straddles_a_loss, setup, teardown),
		cmocka_unit_test_setup_teardown(test_parts, setup, teardown),
		cmocka_unit_test_setup_teardown(test_depth, setup, teardown),
		cmocka_unit_test_setup_teardown(test_lease, setup, teardown),
		cmocka_unit_test_setup_teardown(test_read_only, setup, teardown),
		cmocka_unit_test_setup_teardown(test_block_size, setup, teardown),
		cmocka_unit_test_setup_teardown(test_rescan, setup, teardown),
		cmocka_unit_test_setup_teardown(test_cas, setup, teardown),
		cmocka_unit_test_setup_teardown(test_cas_race, setup, teardown),
		cmocka_unit_test_setup_teardown(test_cas_stuck, setup, teardown),
		cmocka_unit_test_setup_teardown(test_host_lock, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
