// SPDX-License-Identifier: Apache-2.0
/* test_unflushed.c: what a flush is told of sessions that come and go; see vfs/unflushed.h. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "blockdev/node.h"
#include "vfs/unflushed.h"

struct lun {
	struct blk blk;
	struct blk_chan service, data;
	struct unflushed *u;
};

static void lun_init(struct lun *lun)
{
	*lun = (struct lun){.blk.info.write_cache = true};
	lun->service.blk = &lun->blk;
	lun->data.blk = &lun->blk;
	lun->blk.service_chan = &lun->service;
	unflushed_create(&lun->u, 1);
}

/* A flush whose commands have succeeded. */
static int flush(struct lun *lun, const struct unflushed_mark *mark)
{
	unsigned i;
	bool first;

	return unflushed_end(lun->u, mark, &i, &first);
}

/* The flushing session is down when the disk begins: the one that comes up has not seen the writes. */
static void test_a_session_that_comes_up(void **state)
{
	struct unflushed_mark mark;
	struct lun lun;

	(void)state;
	lun_init(&lun);
	lun.service.power_count = 1; /* and the session is gone */
	unflushed_add(lun.u, 0, &lun.blk, &lun.data);
	unflushed_wrote(lun.u, 0);
	unflushed_begin(lun.u, &mark);
	lun.service.came_up = 1;
	assert_int_equal(blk_power_count(&lun.blk), 1);
	assert_int_equal(flush(&lun, &mark), -EAGAIN);
	unflushed_proved(lun.u, 0, unflushed_witness(lun.u, 0));
	assert_int_equal(flush(&lun, &mark), 0);
	/* From here on it stands. */
	unflushed_wrote(lun.u, 0);
	unflushed_begin(lun.u, &mark);
	assert_int_equal(flush(&lun, &mark), 0);
	/* The writes' own session is lost: that is more than a proof can mend. */
	unflushed_wrote(lun.u, 0);
	unflushed_begin(lun.u, &mark);
	lun.service.came_up = 2;
	lun.data.power_count = 1;
	assert_int_equal(flush(&lun, &mark), -EIO);
	unflushed_destroy(lun.u);
}

/* A write with FUA is written again by who has its data: it leaves nothing to be told. */
static void test_fua_leaves_no_loss(void **state)
{
	struct unflushed_mark mark;
	struct lun lun;
	unsigned i;

	(void)state;
	lun_init(&lun);
	unflushed_add(lun.u, 0, &lun.blk, &lun.data);
	unflushed_wrote_fua(lun.u, 0);
	lun.service.power_count = 1;
	assert_int_equal(unflushed_unproved(lun.u, &i), -EAGAIN);
	unflushed_proved(lun.u, 0, unflushed_witness(lun.u, 0));
	lun.data.power_count = 1;
	unflushed_wrote_fua(lun.u, 0); /* again */
	unflushed_begin(lun.u, &mark);
	unflushed_wrote_fua(lun.u, 0); /* another one's */
	assert_int_equal(unflushed_unproved(lun.u, &i), 0);
	unflushed_retire(lun.u, &mark);
	unflushed_begin(lun.u, &mark);
	assert_int_equal(flush(&lun, &mark), 0);
	lun.service.power_count = 2;
	assert_int_equal(unflushed_unproved(lun.u, &i), 0); /* nothing is left to prove */
	/* Beside it one without. */
	unflushed_wrote(lun.u, 0);
	lun.data.power_count = 2;
	unflushed_wrote_fua(lun.u, 0);
	unflushed_begin(lun.u, &mark);
	unflushed_retire(lun.u, &mark);
	assert_int_equal(flush(&lun, &mark), -EIO);
	unflushed_destroy(lun.u);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_session_that_comes_up),
		cmocka_unit_test(test_fua_leaves_no_loss),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
