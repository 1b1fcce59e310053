// SPDX-License-Identifier: Apache-2.0
/* thin_bench.c: a thin disk on a LUN of its own, for tests. */
#include "tests/lib/thin_bench.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

/* Perilune has a function of that name. */
#undef fail

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "blockdev/blk.h"
#include "clusterfs/cfs.h"
#include "tests/lib/lun.h"

#define LANE (THIN_BENCH_SIZE / THIN_BENCH_LANES)

static void ok(int rc)
{
	if (rc < 0) {
		print_error("%s", err_message(rc));
		assert_true(false);
	}
}

void thin_bench_open(struct rig *r)
{
	struct thin_bench *b = thin_bench_of(r);
	struct blk_options bo = {.timeout_ms = b->timeout_ms};
	struct blk *lower;

	ok(blk_open(b->lun, &bo, &lower));
	ok(blk_fault_wrap(lower, &b->blk));
	ok(rig_open(r, b->blk, b->state, THIN_BENCH_SIZE));
}

void thin_bench_close(struct rig *r)
{
	ok(rig_close(r));
	blk_close(thin_bench_of(r)->blk);
}

static void fill(struct blk *blk, uint64_t bytes)
{
	uint8_t *buf = xaligned(4096, MiB);

	memset(buf, THIN_BENCH_STRANGER, MiB);
	for (uint64_t at = 0; at < bytes; at += MiB)
		ok(blk_write(blk, at, buf, MiB, 0));
	free(buf);
}

struct rig *thin_bench_setup(uint64_t lun_bytes, bool used)
{
	struct thin_bench *b = xcalloc(1, sizeof(*b));
	struct cfs_format_options fo = {.name = "v"};
	struct blk_options bo = {0};

	b->lun = lun_make(lun_bytes);
	(void)str_format(b->state, sizeof(b->state), "/tmp/perilune-thin-XXXXXX");
	assert_non_null(mkdtemp(b->state));
	ok(blk_open(b->lun, &bo, &b->blk));
	if (used)
		fill(b->blk, lun_bytes);
	ok(cfs_format(&b->blk, 1, &fo));
	blk_close(b->blk);
	thin_bench_open(&b->rig);
	return &b->rig;
}

void thin_bench_teardown(struct rig *r)
{
	struct thin_bench *b = thin_bench_of(r);
	char command[128];

	thin_bench_close(r);
	lun_remove(b->lun);
	(void)str_format(command, sizeof(command), "rm -rf '%s'", b->state);
	assert_int_equal(system(command), 0);
	free(b);
}

void thin_bench_random(struct rig_job *j, struct rig *r, unsigned lane, unsigned *seed,
		       uint8_t *model, uint8_t *buf, enum vfs_op *op)
{
	uint64_t max = rand_r(seed) % 8 == 0 ? 600 * 1024 : 40 * 1024;
	uint64_t length = 512 * (1 + (uint64_t)rand_r(seed) % (max / 512));
	uint64_t offset = lane * LANE + 512 * ((uint64_t)rand_r(seed) % ((LANE - length) / 512));
	unsigned dice = (unsigned)rand_r(seed) % 10;

	*op = dice < 5	 ? VFS_WRITE
	      : dice < 8 ? VFS_READ
	      : dice < 9 ? VFS_DISCARD
			 : VFS_WRITE_ZEROES;
	if (*op == VFS_WRITE) {
		for (uint64_t i = 0; i < length; i++)
			buf[i] = (uint8_t)(rand_r(seed) >> 3) & 0x7f;
		memcpy(model + offset, buf, length);
	}
	if (*op == VFS_DISCARD || *op == VFS_WRITE_ZEROES)
		memset(model + offset, 0, length);
	r->part = rand_r(seed) % 2 ? 0 : 512 * (1 + (unsigned)rand_r(seed) % 16);
	rig_start(j, r, *op, offset, length, *op == VFS_READ || *op == VFS_WRITE ? buf : NULL,
		  rand_r(seed) % 20 == 0 ? VFS_FUA : 0);
}
