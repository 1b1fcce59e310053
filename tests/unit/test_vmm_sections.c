// SPDX-License-Identifier: Apache-2.0
/* A saved VM's sections: what was put comes back, what is newer, missing, unknown or damaged is refused. */
#include <stdarg.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <errno.h>

#include "base/err.h"
#include "base/util.h"
#include "hv/msrs.h"
#include "hv/state.h"

#include <cmocka.h>

static struct hv_state_reader r;

/* Two sections, "a" 0 in version 2 and "b" 7 in version 1. */
static const uint8_t *make(struct hv_state_writer *w, size_t *n)
{
	hv_state_writer_init(w);
	hv_state_begin(w, "a", 0, 2);
	hv_state_put8(w, 1);
	hv_state_put16(w, 0x203);
	hv_state_put32(w, 0x4050607);
	hv_state_put64(w, 0x8090a0b0c0d0e0f);
	hv_state_begin(w, "b", 7, 1);
	hv_state_put(w, "seven", 5);
	return hv_state_finish(w, n);
}

static void what_was_put_comes_back(void **state)
{
	(void)state;
	struct hv_state_writer w;
	size_t n;
	const uint8_t *data = make(&w, &n);
	char text[5];

	assert_int_equal(n % 8, 0);
	assert_int_equal(hv_state_open(&r, data, n), 0);
	assert_int_equal(hv_state_count(&r, "a"), 1);
	assert_int_equal(hv_state_count(&r, "c"), 0);
	assert_int_equal(hv_state_section(&r, "b", 7, 1), 1);
	hv_state_get(&r, text, 5);
	assert_memory_equal(text, "seven", 5);
	assert_int_equal(hv_state_done(&r), 0);
	assert_int_equal(hv_state_close(&r), -EINVAL); /* "a" was not opened */
	assert_int_equal(hv_state_section(&r, "a", 0, 3), 2);
	assert_int_equal(hv_state_get8(&r), 1);
	assert_int_equal(hv_state_get16(&r), 0x203);
	assert_int_equal(hv_state_get32(&r), 0x4050607);
	assert_int_equal(hv_state_get64(&r), 0x8090a0b0c0d0e0f);
	assert_int_equal(hv_state_done(&r), 0);
	assert_int_equal(hv_state_close(&r), 0);
	hv_state_writer_free(&w);
}

static void newer_absent_and_repeated_are_refused(void **state)
{
	(void)state;
	struct hv_state_writer w;
	size_t n;
	const uint8_t *data = make(&w, &n);

	assert_int_equal(hv_state_open(&r, data, n), 0);
	assert_int_equal(hv_state_section(&r, "a", 0, 1), -EINVAL);
	assert_non_null(strstr(err_message(-EINVAL), "version 2, this release knows up to 1"));
	assert_int_equal(hv_state_section(&r, "a", 1, 2), -EINVAL);
	assert_int_equal(hv_state_section(&r, "a", 0, 2), 2);
	assert_int_equal(hv_state_section(&r, "a", 0, 2), -EINVAL);
	hv_state_writer_free(&w);
}

static void too_short_and_too_long_are_refused(void **state)
{
	(void)state;
	struct hv_state_writer w;
	size_t n;
	const uint8_t *data = make(&w, &n);
	uint8_t bytes[100];

	assert_int_equal(hv_state_open(&r, data, n), 0);
	assert_int_equal(hv_state_section(&r, "a", 0, 2), 2);
	hv_state_get8(&r);
	assert_int_equal(hv_state_done(&r), -EINVAL);
	assert_int_equal(hv_state_section(&r, "b", 7, 1), 1);
	memset(bytes, 0xff, sizeof(bytes));
	hv_state_get(&r, bytes, 6);
	assert_int_equal(bytes[0] | bytes[5], 0); /* nothing of what is not all there */
	hv_state_get(&r, bytes, 1);
	assert_int_equal(hv_state_done(&r), -EINVAL);
	hv_state_writer_free(&w);
}

static void each_damaged_byte_is_seen(void **state)
{
	(void)state;
	struct hv_state_writer w;
	size_t n;
	cleanup_free uint8_t *bad = NULL;
	const uint8_t *data = make(&w, &n);

	bad = xmalloc(n);
	for (size_t i = 0; i < n; i++) {
		memcpy(bad, data, n);
		bad[i] ^= 0x10;
		assert_int_equal(hv_state_open(&r, bad, n), -EINVAL);
		assert_int_equal(hv_state_open(&r, data, i), -EINVAL);
	}
	hv_state_writer_free(&w);
}

static void a_name_comes_once(void **state)
{
	(void)state;
	struct hv_state_writer w;
	size_t n;

	hv_state_writer_init(&w);
	hv_state_begin(&w, "vcpu", 1, 1);
	hv_state_begin(&w, "vcpu", 0, 1);
	const uint8_t *data = hv_state_finish(&w, &n);
	assert_int_equal(hv_state_open(&r, data, n), 0);
	hv_state_begin(&w, "vcpu", 1, 1);
	data = hv_state_finish(&w, &n);
	assert_int_equal(hv_state_open(&r, data, n), -EINVAL);
	hv_state_writer_free(&w);
}

static void only_a_guests_msrs_travel(void **state)
{
	(void)state;
	assert_true(hv_msrs_known(HV_MSR_TSC) && hv_msrs_known(HV_MSR_TSC_DEADLINE));
	assert_true(hv_msrs_known(0xc0000080) && hv_msrs_known(0x277) && hv_msrs_known(0x4b564d01));
	assert_false(hv_msrs_known(0x186)); /* performance event selection */
	assert_false(hv_msrs_known(0x480)); /* what VMX can */
	assert_false(hv_msrs_known(0xffffffff));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_was_put_comes_back),
		cmocka_unit_test(newer_absent_and_repeated_are_refused),
		cmocka_unit_test(too_short_and_too_long_are_refused),
		cmocka_unit_test(each_damaged_byte_is_seen),
		cmocka_unit_test(a_name_comes_once),
		cmocka_unit_test(only_a_guests_msrs_travel),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
