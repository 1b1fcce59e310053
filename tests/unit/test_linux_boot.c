// SPDX-License-Identifier: Apache-2.0
/* bzImage headers: a good one is understood, each bad field refused, places do not overlap. */
#include <stdarg.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <errno.h>
#include <asm/bootparam.h>

#include "base/err.h"
#include "base/linux_boot.h"
#include "base/util.h"

#include <cmocka.h>

static uint8_t head[LINUX_BOOT_HEAD];

static struct setup_header *good(void)
{
	struct setup_header *h = (struct setup_header *)(void *)(head + 0x1f1);

	memset(head, 0, sizeof(head));
	h->setup_sects = 27;
	h->boot_flag = 0xaa55;
	h->header = 0x53726448;
	h->version = 0x20f;
	h->loadflags = LOADED_HIGH;
	h->xloadflags = XLF_KERNEL_64;
	h->pref_address = 0x1000000;
	h->init_size = 40 * MiB;
	h->cmdline_size = 2047;
	h->initrd_addr_max = 0x7fffffff;
	return h;
}

static int parse(struct linux_boot_info *info)
{
	return linux_boot_parse(head, sizeof(head), 8 * MiB, "vmlinuz", info);
}

static void a_kernel_is_understood(void **state)
{
	(void)state;
	struct linux_boot_info info;

	good();
	assert_int_equal(parse(&info), 0);
	assert_int_equal(info.setup_bytes, 28 * 512);
	assert_int_equal(info.kernel_bytes, 8 * MiB - 28 * 512);
	assert_int_equal(info.init_bytes, 40 * MiB);
}

static void what_is_none_is_refused(void **state)
{
	(void)state;
	struct linux_boot_info info;

	good()->header = 0;
	assert_int_equal(parse(&info), -EINVAL);
	assert_non_null(strstr(err_message(-EINVAL), "vmlinuz"));
	good()->version = 0x20b;
	assert_int_equal(parse(&info), -EINVAL);
	good()->xloadflags = 0; /* of 32 bits */
	assert_int_equal(parse(&info), 0);
	assert_true(info.bits32);
	good()->loadflags = 0;
	assert_int_equal(parse(&info), -EINVAL);
	good()->setup_sects = 200;
	assert_int_equal(parse(&info), -EINVAL);
	good()->pref_address = 0xfff00000000;
	assert_int_equal(parse(&info), -EINVAL);
	good()->init_size = 0xffffffff;
	assert_int_equal(parse(&info), -EINVAL);
	good();
	assert_int_equal(linux_boot_parse(head, 600, 600, "short", &info), -EINVAL);
	assert_int_equal(linux_boot_parse(head, 4096, 4096, "cut", &info), -EINVAL);
}

static void places_do_not_overlap(void **state)
{
	(void)state;
	struct linux_boot_info info;
	struct linux_boot_place place;

	good();
	assert_int_equal(parse(&info), 0);
	for (uint64_t memory = 2 * MiB; memory <= 16 * GiB;
	     memory += memory < GiB ? 2 * MiB : GiB) {
		uint64_t initrd = 30 * MiB + 123;
		int rc = linux_boot_place(&info, memory, initrd, "vmlinuz", &place);
		if (memory < 56 * MiB + initrd) {
			assert_int_equal(rc, -ENOSPC);
			continue;
		}
		if (rc) {
			/* The page rounding may ask for the next step. */
			assert_true(memory < 56 * MiB + initrd + 4096);
			continue;
		}
		assert_true(place.kernel_gpa + info.init_bytes <= place.initrd_gpa);
		assert_true(place.initrd_gpa + initrd <= MIN(memory, 2 * GiB));
		assert_int_equal(place.initrd_gpa % 4096, 0);
	}
	assert_int_equal(linux_boot_place(&info, 64 * MiB, 0, "vmlinuz", &place), 0);
	assert_int_equal(place.initrd_gpa, 0);
	assert_int_equal(linux_boot_place(&info, 4 * GiB, UINT64_MAX, "vmlinuz", &place), -ENOSPC);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_kernel_is_understood),
		cmocka_unit_test(what_is_none_is_refused),
		cmocka_unit_test(places_do_not_overlap),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
