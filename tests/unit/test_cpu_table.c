// SPDX-License-Identifier: Apache-2.0
/* Comparing processors: what is missing is named, what hosts have in common suits them all. */
#include <stdarg.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <errno.h>

#include "base/cpu_table.h"
#include "base/err.h"
#include "base/util.h"

#include <cmocka.h>

#define AVX2 (1u << 5)
#define BMI2 (1u << 8)
#define FMA  (1u << 12)

/* Two processors of one maker, as KVM would tell of them. */
static struct cpu_table processor(uint32_t leaf_1_ecx, uint32_t leaf_7_ebx)
{
	struct cpu_table t = {0};
	const struct cpu_leaf leaves[] = {
		{0, 0, {0x10, 0x68747541, 0x444d4163, 0x69746e65}},
		{1, 0, {0x00800f12, 0, leaf_1_ecx, 0x178bfbff}},
		{7, 0, {0, leaf_7_ebx, 0, 0}},
		{0xd, 0, {7, 832, 832, 0}},
		{0xd, 2, {256, 576, 0, 0}},
		{0x80000008, 0, {0x3030, 0, 0, 0}},
	};

	for (size_t i = 0; i < ARRAY_SIZE(leaves); i++)
		assert_int_equal(cpu_table_set_leaf(&t, &leaves[i]), 0);
	return t;
}

static void set(struct cpu_table *t, uint32_t function, uint32_t index, enum cpu_register reg,
		uint32_t value)
{
	struct cpu_leaf leaf = {.function = function, .index = index};
	const struct cpu_leaf *old = cpu_table_leaf(t, function, index);

	if (old)
		leaf = *old;
	leaf.reg[reg] = value;
	assert_int_equal(cpu_table_set_leaf(t, &leaf), 0);
}

static void more_is_enough_and_less_is_named(void **state)
{
	(void)state;
	struct cpu_table big = processor(FMA, AVX2 | BMI2), small = processor(0, BMI2);

	assert_int_equal(cpu_table_check(&small, &big), 0);
	assert_int_equal(cpu_table_check(&big, &big), 0);
	assert_int_equal(cpu_table_check(&big, &small), -ENOTSUP);
	assert_string_equal(err_message(-ENOTSUP), "processor: fma, avx2 are missing");
	small = processor(FMA, AVX2);
	assert_int_equal(cpu_table_check(&big, &small), -ENOTSUP);
	assert_string_equal(err_message(-ENOTSUP), "processor: bmi2 is missing");
}

static void a_bit_without_a_name_counts_too(void **state)
{
	(void)state;
	struct cpu_table a = processor(0, 1u << 22), b = processor(0, 0);

	assert_int_equal(cpu_table_check(&a, &b), -ENOTSUP);
	assert_string_equal(err_message(-ENOTSUP), "processor: cpuid 7 ebx bit 22 is missing");
}

static void many_are_counted(void **state)
{
	(void)state;
	struct cpu_table a = processor(0x77ffffff, 0xffffffff), b = processor(0, 0);

	assert_int_equal(cpu_table_check(&a, &b), -ENOTSUP);
	const char *words = err_message(-ENOTSUP);
	assert_non_null(strstr(words, "processor: sse3, pclmulqdq, "));
	assert_non_null(strstr(words, " and 50 more are missing"));
}

/* OSXSAVE and OSPKE are the guest's doing; the number of threads is the VM's. */
static void what_a_guest_switches_is_no_difference(void **state)
{
	(void)state;
	struct cpu_table a = processor(1u << 27, 0), b = processor(0, 0);

	set(&a, 7, 0, CPU_ECX, 1u << 4);
	set(&a, 1, 0, CPU_EDX, 0x178bfbff | 1u << 28);
	set(&b, 1, 0, CPU_EDX, 0x078bfbff);
	assert_int_equal(cpu_table_check(&a, &b), 0);
	set(&b, 1, 0, CPU_EDX, 0x078bfbfe); /* no fpu */
	assert_int_equal(cpu_table_check(&a, &b), -ENOTSUP);
}

static void another_maker_address_size_or_area_is_refused(void **state)
{
	(void)state;
	struct cpu_table a = processor(0, 0), b = processor(0, 0), none = {0};

	set(&b, 0, 0, CPU_EBX, 0x756e6547);
	assert_int_equal(cpu_table_check(&a, &b), -ENOTSUP);
	assert_non_null(strstr(err_message(-ENOTSUP), "different makers"));
	assert_int_equal(cpu_table_check(&a, &none), -ENOTSUP);
	b = processor(0, 0);
	set(&b, 0x80000008, 0, CPU_EAX, 0x302e);
	assert_int_equal(cpu_table_check(&a, &b), -ENOTSUP);
	assert_non_null(strstr(err_message(-ENOTSUP), "46 bits of address, the guest's has 48"));
	assert_int_equal(cpu_table_check(&b, &a), 0);
	b = processor(0, 0);
	set(&b, 0xd, 2, CPU_EBX, 640);
	assert_int_equal(cpu_table_check(&a, &b), -ENOTSUP);
	assert_non_null(strstr(err_message(-ENOTSUP), "XSAVE"));
}

static void feature_msrs_are_compared(void **state)
{
	(void)state;
	struct cpu_table a = processor(0, 0), b = processor(0, 0);

	cpu_table_set_msr(&a, 0x10a, 1 | 1u << 5);
	assert_int_equal(cpu_table_check(&a, &b), -ENOTSUP);
	assert_string_equal(err_message(-ENOTSUP), "processor: rdcl_no, mds_no are missing");
	cpu_table_set_msr(&b, 0x10a, 1 | 1u << 5 | 1u << 19);
	assert_int_equal(cpu_table_check(&a, &b), 0); /* an affliction is no ability */
	cpu_table_set_msr(&b, 0x10a, 1 | 1u << 19);
	cpu_table_common(&a, &b);
	assert_int_equal(cpu_table_msr(&a, 0x10a), 1 | 1u << 19);
}

static void what_is_common_suits_both(void **state)
{
	(void)state;
	struct cpu_table a = processor(FMA | 1, AVX2), b = processor(FMA, AVX2 | BMI2), both = a;

	set(&b, 0x80000008, 0, CPU_EAX, 0x302e);
	assert_int_equal(cpu_table_check(&a, &b), -ENOTSUP);
	assert_int_equal(cpu_table_check(&b, &a), -ENOTSUP);
	cpu_table_common(&both, &b);
	assert_int_equal(cpu_table_check(&both, &a), 0);
	assert_int_equal(cpu_table_check(&both, &b), 0);
	assert_int_equal(cpu_table_get(&both, 1, 0, CPU_ECX), FMA);
	assert_int_equal(cpu_table_get(&both, 7, 0, CPU_EBX), AVX2);
	assert_int_equal(cpu_table_get(&both, 0x80000008, 0, CPU_EAX), 0x302e);
	assert_int_equal(cpu_table_get(&both, 1, 0, CPU_EAX), 0x00800f12); /* the model stays */
}

static void tables_travel_as_bytes(void **state)
{
	(void)state;
	static uint8_t buf[8192];
	struct cpu_table a = processor(FMA, AVX2), b;

	cpu_table_set_msr(&a, 0x10a, 1ULL << 40);
	int n = cpu_table_encode(&a, buf, sizeof(buf));
	assert_int_equal(n, 8 + 6 * 24 + 16);
	assert_int_equal(cpu_table_encode(&a, buf, (size_t)n - 1), -EINVAL);
	assert_int_equal(cpu_table_decode(buf, (size_t)n, &b), 0);
	assert_int_equal(b.leaves_n, 6);
	assert_int_equal(cpu_table_get(&b, 7, 0, CPU_EBX), AVX2);
	assert_int_equal(cpu_table_msr(&b, 0x10a), 1ULL << 40);
	for (int i = 0; i < n; i++)
		assert_int_equal(cpu_table_decode(buf, (size_t)i, &b), -EPROTO);
	memcpy(buf + 8 + 24, buf + 8, 8); /* the same leaf twice */
	assert_int_equal(cpu_table_decode(buf, (size_t)n, &b), -EPROTO);
	buf[1] = 0xff;
	assert_int_equal(cpu_table_decode(buf, (size_t)n, &b), -EPROTO);
}

static void a_table_has_an_end(void **state)
{
	(void)state;
	struct cpu_table t = {0};
	struct cpu_leaf l = {0};

	for (l.index = 0; l.index < CPU_LEAVES_MAX; l.index++)
		assert_int_equal(cpu_table_set_leaf(&t, &l), 0);
	assert_int_equal(cpu_table_set_leaf(&t, &l), -ENOSPC);
	l.index = 5;
	l.reg[CPU_EAX] = 9;
	assert_int_equal(cpu_table_set_leaf(&t, &l), 0); /* in its old place */
	assert_int_equal(cpu_table_get(&t, 0, 5, CPU_EAX), 9);
	for (uint32_t i = 0; i < CPU_MSRS_MAX; i++)
		assert_int_equal(cpu_table_set_msr(&t, i, i), 0);
	assert_int_equal(cpu_table_set_msr(&t, 99, 0), -ENOSPC);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(more_is_enough_and_less_is_named),
		cmocka_unit_test(a_bit_without_a_name_counts_too),
		cmocka_unit_test(many_are_counted),
		cmocka_unit_test(what_a_guest_switches_is_no_difference),
		cmocka_unit_test(another_maker_address_size_or_area_is_refused),
		cmocka_unit_test(feature_msrs_are_compared),
		cmocka_unit_test(what_is_common_suits_both),
		cmocka_unit_test(tables_travel_as_bytes),
		cmocka_unit_test(a_table_has_an_end),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
