// SPDX-License-Identifier: Apache-2.0
/* Growing: a larger LUN under two hosts, one more LUN under one; what is refused. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#undef fail /* base/err.h has its own */

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/util.h"
#include "tests/lib/lun.h"
#include "tests/lib/vol.h"

static int setup(void **state)
{
	*state = vol_make(300 * MiB); /* the last group is a short one or missing */
	return 0;
}

static int teardown(void **state)
{
	vol_free(*state);
	return 0;
}

static void must(int rc)
{
	if (rc < 0)
		print_message("%s\n", err_message(rc));
	assert_int_equal(rc, 0);
}

static void info(struct cfs *fs, struct cfs_info *out)
{
	must(cfs_info(fs, out));
}

/* Fills a file until there is no space; returns the bytes. */
static uint64_t fill(struct cfs *fs, const char *path)
{
	size_t n = 4 * MiB;
	uint8_t *buf = xaligned(4096, n);
	struct cfs_file *file;
	uint64_t at = 0;
	int64_t got;

	memset(buf, 0x5a, n);
	must(cfs_create(fs, path, CFS_FILE, 0));
	must(cfs_open(fs, path, CFS_OPEN_WRITE, 0, &file));
	while ((got = cfs_pwrite(file, buf, n, at)) > 0)
		at += (uint64_t)got;
	assert_int_equal(got, -ENOSPC);
	must(cfs_close(file));
	free(buf);
	return at;
}

static void check_clean(struct vol *v)
{
	struct cfs_check_result r;

	must(vol_check(v, false, true, &r));
	assert_int_equal(r.findings, 0);
}

static void test_larger_lun(void **state)
{
	struct vol *v = *state;
	struct cfs_info *a = xcalloc(1, sizeof(*a)), *b = xcalloc(1, sizeof(*b));
	uint64_t free_before, filled, start;

	must(vol_mount(v, 0, NULL));
	must(vol_mount(v, 1, NULL));
	assert_int_equal(cfs_grow(v->fs[0], NULL, 0), -EINVAL);
	info(v->fs[0], a);
	free_before = a->free;
	assert_int_equal(truncate(v->lun, 777 * MiB), 0);
	must(cfs_grow(v->fs[0], NULL, 0));
	info(v->fs[0], a);
	assert_int_equal(a->size, 777 * MiB);
	print_message("free %llu -> %llu\n", (unsigned long long)free_before,
		      (unsigned long long)a->free);
	assert_true(a->free > free_before + 460 * MiB);
	/* The other host learns of it by the beat. */
	start = clock_boot_ms();
	do {
		sleep_ms(20);
		info(v->fs[1], b);
	} while (b->size != a->size && clock_boot_ms() < start + 5000);
	assert_int_equal(b->size, a->size);
	filled = fill(v->fs[1], "/b") + fill(v->fs[0], "/a");
	print_message("filled %llu\n", (unsigned long long)filled);
	assert_true(filled > 650 * MiB);
	must(vol_unmount(v, 0));
	must(vol_unmount(v, 1));
	check_clean(v);
	free(a);
	free(b);
}

/* A volume whose groups are small, grown to many times of what it was: more groups than any guess. */
static void test_much_larger(void **state)
{
	struct vol *v = *state;
	struct cfs_info *a = xcalloc(1, sizeof(*a));
	uint64_t large = 144 * GiB, start = clock_boot_ms();

	must(vol_mount(v, 0, NULL));
	assert_int_equal(truncate(v->lun, (off_t)large), 0);
	must(cfs_grow(v->fs[0], NULL, 0));
	info(v->fs[0], a);
	print_message("grown and counted in %llu ms\n",
		      (unsigned long long)(clock_boot_ms() - start));
	assert_int_equal(a->size, large);
	assert_true(a->free > 140 * GiB);
	must(vol_unmount(v, 0));
	free(a);
}

static void test_more_luns(void **state)
{
	struct vol *v = *state;
	struct cfs_info *a = xcalloc(1, sizeof(*a));
	char *path = lun_make(400 * MiB), *small = lun_make(2 * MiB), *taken = lun_make(300 * MiB);
	struct cfs_format_options fo = {.name = "other"};
	struct cfs_options options = {.host_name = "host0", .address = "", .initiator = ""};
	struct blk *more, *tiny, *other, *both[2];
	struct cfs_check_options co = {.host_name = "check"};
	struct cfs_check_result cr;
	struct cfs *fs;
	char state_dir[300];

	must(blk_open(path, NULL, &more));
	must(blk_open(small, NULL, &tiny));
	must(blk_open(taken, NULL, &other));
	must(cfs_format(&other, 1, &fo));
	must(vol_mount(v, 0, NULL));
	must(vol_mount(v, 1, NULL));
	assert_int_equal(cfs_grow(v->fs[0], &more, 1), -EBUSY);
	assert_non_null(strstr(err_message(-EBUSY), "host1"));
	must(vol_unmount(v, 1));
	assert_int_equal(cfs_grow(v->fs[0], &tiny, 1), -EINVAL);
	assert_int_equal(cfs_grow(v->fs[0], &other, 1), -EPERM);
	assert_int_equal(cfs_grow(v->fs[0], &v->blk[0], 1), -EINVAL);
	info(v->fs[0], a);
	assert_int_equal(a->size, 300 * MiB);
	must(cfs_grow(v->fs[0], &more, 1));
	info(v->fs[0], a);
	assert_int_equal(a->extents, 2);
	assert_int_equal(a->size, 700 * MiB);
	assert_true(fill(v->fs[0], "/a") > 600 * MiB);
	must(vol_unmount(v, 0));
	/* It needs both now, in any order. */
	assert_int_equal(vol_mount(v, 0, NULL), -ENOENT);
	must(blk_open(v->lun, &(struct blk_options){.force_id = "file.test"},
		      &both[1])); /* as vol.c */
	both[0] = more;
	(void)str_format(state_dir, sizeof(state_dir), "%s/0", v->dir);
	options.state_dir = state_dir;
	must(cfs_mount(both, 2, &options, &fs));
	must(cfs_unmount(fs));
	must(cfs_check(both, 2, &co, &cr));
	assert_int_equal(cr.findings, 0);
	blk_close(more);
	blk_close(tiny);
	blk_close(other);
	blk_close(both[1]);
	lun_remove(path);
	lun_remove(small);
	lun_remove(taken);
	free(a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_larger_lun, setup, teardown),
		cmocka_unit_test_setup_teardown(test_more_luns, setup, teardown),
		cmocka_unit_test_setup_teardown(test_much_larger, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
