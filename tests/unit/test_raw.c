// SPDX-License-Identifier: Apache-2.0
/* A LUN as a disk (vfs/raw.h) whose cache is lost while requests are under way, or between them. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/loop.h"
#include "blockdev/node.h"
#include "vfs/disk.h"
#include "vfs/raw.h"

#define LUN_BYTES (1u << 20)

/* Keeps each request until the test answers it. */
static void keep(struct blk_chan *chan, struct blk_req *req)
{
	struct blk_req **kept = chan->blk->options.look_arg;

	assert_null(*kept);
	*kept = req;
}

static const struct blk_ops ops = {.chan_size = sizeof(struct blk_chan), .submit = keep};

struct rig {
	struct loop *loop;
	struct blk *blk;
	struct vfs_disk *disk;
	struct blk_req *kept;
	struct vfs_req req;
	uint8_t data[4096];
	struct iovec iov;
	int res;
	bool done, closed;
};

static void setup(struct rig *r)
{
	const struct blk_options options = {.look_arg = &r->kept};

	assert_int_equal(loop_create(&r->loop, 8), 0);
	r->blk = calloc(1, sizeof(*r->blk));
	blk_node_init(r->blk, &ops, "fake", &options);
	r->blk->info.size = LUN_BYTES;
	r->blk->info.block_size = 512;
	r->blk->info.max_transfer = LUN_BYTES;
	r->blk->info.write_cache = true;
	assert_int_equal(blk_node_start(r->blk), 0);
	assert_int_equal(vfs_raw_open(r->blk, r->loop, "fake", &r->disk), 0);
}

static void on_closed(void *arg)
{
	struct rig *r = arg;

	r->closed = true;
}

static void teardown(struct rig *r)
{
	vfs_close(r->disk, on_closed, r);
	while (!r->closed)
		assert_int_equal(loop_turn(r->loop, 0), 0);
	blk_close(r->blk);
	loop_destroy(r->loop);
}

static void on_done(struct vfs_req *req, int res)
{
	struct rig *r = container_of(req, struct rig, req);

	r->done = true;
	r->res = res;
}

static void begin(struct rig *r, enum vfs_op op, unsigned flags)
{
	r->iov = (struct iovec){r->data, sizeof(r->data)};
	r->req = (struct vfs_req){.op = op,
				  .flags = flags,
				  .length = op == VFS_FLUSH ? 0 : sizeof(r->data),
				  .iov = &r->iov,
				  .iovcnt = 1,
				  .done = on_done};
	r->done = false;
	vfs_submit(r->disk, &r->req);
	assert_non_null(r->kept);
}

/* The LUN says that it has done it. */
static void answer(struct rig *r)
{
	struct blk_req *req = r->kept;

	r->kept = NULL;
	blk_complete(req, 0);
}

static int run(struct rig *r, enum vfs_op op)
{
	begin(r, op, 0);
	answer(r);
	assert_true(r->done);
	return r->res;
}

static void lose_cache(struct rig *r)
{
	atomic_fetch_add(&r->blk->power_count, 1);
}

/* What was written before is told by the next flush; what is under way is written again. */
static void test_lost_under_way(void **state)
{
	struct rig *r = aligned_alloc(64, ROUND_UP(sizeof(*r), 64));

	(void)state;
	*r = (struct rig){0};
	setup(r);
	for (enum vfs_op op = VFS_WRITE; op <= VFS_WRITE_ZEROES; op++) {
		if (op == VFS_FLUSH || op == VFS_DISCARD)
			continue;
		begin(r, op, 0);
		lose_cache(r);
		answer(r);
		assert_false(r->done);
		assert_non_null(r->kept);
		answer(r);
		assert_true(r->done && r->res == 0);
		assert_int_equal(run(r, VFS_FLUSH), 0);
	}
	assert_int_equal(run(r, VFS_WRITE), 0);
	lose_cache(r);
	assert_int_equal(run(r, VFS_FLUSH), -EIO);
	assert_int_equal(run(r, VFS_FLUSH), 0);
	/* Reads have nothing to lose, a write with FUA neither. */
	begin(r, VFS_READ, 0);
	lose_cache(r);
	answer(r);
	assert_true(r->done && r->res == 0);
	begin(r, VFS_WRITE, VFS_FUA);
	lose_cache(r);
	answer(r);
	assert_true(r->done && r->res == 0);
	teardown(r);
	free(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_lost_under_way)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
