// SPDX-License-Identifier: Apache-2.0
/* Levels of processors: what they ask for, what they hide, and that unlike hosts agree on them. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#undef fail /* base/err.h has its own */

#include <errno.h>
#include <string.h>

#include "base/cpu_level.h"
#include "base/err.h"

#define BIT(n) (1u << (n))

static void add(struct cpu_table *t, uint32_t function, uint32_t index, uint32_t eax, uint32_t ebx,
		uint32_t ecx, uint32_t edx)
{
	const struct cpu_leaf leaf = {
		.function = function, .index = index, .reg = {eax, ebx, ecx, edx}};

	assert_int_equal(cpu_table_set_leaf(t, &leaf), 0);
}

/* A host of level 3, with things beside that level. */
static void make_host(struct cpu_table *t, uint32_t more_7_ebx)
{
	memset(t, 0, sizeof(*t));
	add(t, 0, 0, 0xd, 0x756e6547, 0x6c65746e, 0x49656e69);
	add(t, 1, 0, 0, 0, 0xfffab223 & ~BIT(5), 0x078bfbff);
	add(t, 6, 0, BIT(2), 0, 0, 0);
	add(t, 7, 0, 0, BIT(0) | BIT(1) | BIT(3) | BIT(5) | BIT(8) | more_7_ebx, BIT(2), BIT(26));
	add(t, 0xd, 0, 0x207, 0, 0, 0);
	add(t, 0xd, 2, 256, 576, 0, 0);
	add(t, 0xd, 9, 8, 2688, 0, 0);
	add(t, 0x40000001, 0, 0x01007efb, 0, 0, 0);
	add(t, 0x80000001, 0, 0, 0, 0x121, 0x2c100800);
	add(t, 0x80000008, 0, 0x3039 | 46, 0x1000, 0, 0);
	assert_int_equal(cpu_table_set_msr(t, 0x10a, 0x0d), 0);
}

static void test_what_is_left(void **state)
{
	struct cpu_table t;

	(void)state;
	make_host(&t, BIT(19));
	assert_int_equal(cpu_level_apply(&t, "x86-64-v2", false), 0);
	/* sse3 ssse3 cx16 sse4_1 sse4_2 x2apic popcnt tsc_deadline hypervisor; OSXSAVE is the guest's */
	assert_int_equal(cpu_table_get(&t, 1, 0, CPU_ECX) & ~BIT(27),
			 BIT(0) | BIT(9) | BIT(13) | BIT(19) | BIT(20) | BIT(21) | BIT(23) |
				 BIT(24) | BIT(31));
	assert_int_equal(cpu_table_get(&t, 7, 0, CPU_EBX), BIT(1));
	assert_int_equal(cpu_table_get(&t, 7, 0, CPU_EDX), 0);
	assert_int_equal(cpu_table_get(&t, 0xd, 0, CPU_EAX), 0);
	assert_int_equal(cpu_table_get(&t, 0x80000001, 0, CPU_ECX), 1);
	assert_int_equal(cpu_table_get(&t, 0x40000001, 0, CPU_EAX), 0x01007efb);
	assert_int_equal(cpu_table_get(&t, 0x80000008, 0, CPU_EAX) & 0xff, 40);
	assert_int_equal(cpu_table_msr(&t, 0x10a), 0x04); /* what it suffers from is told */
	make_host(&t, 0);
	assert_int_equal(cpu_level_apply(&t, "x86-64-v3", false), 0);
	assert_int_equal(cpu_table_get(&t, 7, 0, CPU_EBX), BIT(1) | BIT(3) | BIT(5) | BIT(8));
	assert_int_equal(cpu_table_get(&t, 0xd, 0, CPU_EAX), 7);
}

/* What no level asks for is not missed, and not shown: a guest moves between such hosts. */
static void test_without_virtual_8086(void **state)
{
	struct cpu_table t;

	(void)state;
	make_host(&t, 0);
	add(&t, 1, 0, 0, 0, 0xfffab223 & ~BIT(5), 0x0f8bfbfd);
	assert_int_equal(cpu_level_apply(&t, "x86-64-v3", false), 0);
	assert_int_equal(cpu_table_get(&t, 1, 0, CPU_EDX), 0x078bfbfd);
	make_host(&t, 0);
	assert_int_equal(cpu_level_apply(&t, "x86-64-v3", false), 0);
	assert_int_equal(cpu_table_get(&t, 1, 0, CPU_EDX), 0x078bfbfd);
}

static void test_what_is_missing(void **state)
{
	struct cpu_table t;
	struct err_info e;
	int rc;

	(void)state;
	make_host(&t, 0);
	rc = cpu_level_apply(&t, "x86-64-v4", false);
	assert_int_equal(rc, -ENOTSUP);
	err_save(&e, rc);
	assert_non_null(strstr(e.message, "avx512f"));
	assert_non_null(strstr(e.message, "x86-64-v4"));
	assert_null(strstr(e.message, "avx2"));
	assert_int_equal(cpu_level_apply(&t, "x86-64-v5", false), -EINVAL);
	assert_true(cpu_level_known("x86-64-v1") && !cpu_level_known("x86-64") &&
		    !cpu_level_known(""));
}

/* Whose guest may have guests sees VMX or SVM beside the level, all others do not, whatever tables say. */
static void test_guests_of_guests(void **state)
{
	struct cpu_table t, other;

	(void)state;
	for (int nested = 0; nested < 2; nested++) {
		make_host(&t, 0);
		add(&t, 1, 0, 0, 0, 0xfffab223 | BIT(5), 0x078bfbff);
		add(&t, 0x80000001, 0, 0, 0, 0x121 | BIT(2) | BIT(12), 0x2c100800);
		add(&t, 0x8000000a, 0, 1, 8, 0, BIT(0) | BIT(3));
		other = t;
		assert_int_equal(cpu_level_apply(&t, "x86-64-v2", nested), 0);
		assert_int_equal(cpu_table_get(&t, 1, 0, CPU_ECX) & BIT(5), nested ? BIT(5) : 0);
		assert_int_equal(cpu_table_get(&t, 0x80000001, 0, CPU_ECX), nested ? 5 : 1);
		assert_int_equal(cpu_table_get(&t, 0x8000000a, 0, CPU_EDX), nested ? 9 : 0);
	}
	/* A host without it has the level as well; a table of one with it is none to ask for by itself. */
	make_host(&t, 0);
	assert_int_equal(cpu_level_apply(&t, "x86-64-v2", true), 0);
	assert_int_equal(cpu_table_get(&t, 0x80000001, 0, CPU_ECX), 1);
	make_host(&t, 0);
	assert_int_equal(cpu_table_check(&other, &t), -ENOTSUP);
	cpu_level_hide_nested(&other);
	add(&other, 0x80000001, 0, 0, 0, 0x121, 0x2c100800);
	assert_int_equal(cpu_table_check(&other, &t), 0);
}

/* Two hosts of which each has something that the other lacks. */
static void test_unlike_hosts_agree(void **state)
{
	struct cpu_table a, b, here;

	(void)state;
	make_host(&a, BIT(19));
	make_host(&b, BIT(18));
	assert_int_equal(cpu_table_check(&a, &b), -ENOTSUP);
	assert_int_equal(cpu_table_check(&b, &a), -ENOTSUP);
	here = a;
	assert_int_equal(cpu_level_apply(&here, "x86-64-v3", false), 0);
	assert_int_equal(cpu_table_check(&here, &b), 0);
	here = b;
	assert_int_equal(cpu_level_apply(&here, "x86-64-v3", false), 0);
	assert_int_equal(cpu_table_check(&here, &a), 0);
	/* Once applied, applied again: nothing changes. */
	b = here;
	assert_int_equal(cpu_level_apply(&b, "x86-64-v3", false), 0);
	assert_memory_equal(&b, &here, sizeof(b));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_what_is_left),
		cmocka_unit_test(test_without_virtual_8086),
		cmocka_unit_test(test_what_is_missing),
		cmocka_unit_test(test_guests_of_guests),
		cmocka_unit_test(test_unlike_hosts_agree),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
