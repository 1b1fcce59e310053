// SPDX-License-Identifier: Apache-2.0
/* Who gives memory, who gets it back, and who goes last. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "base/util.h"
#include "host/balance.h"

#include <cmocka.h>

static struct balance_vm one(uint64_t memory, uint64_t reserved, unsigned shares)
{
	return (struct balance_vm){.memory = memory * MiB,
				   .reserved = reserved * MiB,
				   .target = memory * MiB,
				   .used = memory * MiB,
				   .shares = shares,
				   .obeys = true};
}

static struct balance_host lacking(uint64_t available)
{
	return (struct balance_host){
		.available = available * MiB, .low = 100 * MiB, .high = 200 * MiB};
}

static void enough_moves_nothing(void **state)
{
	struct balance_vm vm[] = {one(512, 128, 100), one(512, 512, 100)};
	struct balance_host h = lacking(150);

	(void)state;
	vm[0].target = 300 * MiB;
	assert_int_equal(balance(&h, vm, 2), 0);
	assert_int_equal(vm[0].want, 300 * MiB);
	assert_int_equal(vm[1].want, 512 * MiB);
}

static void few_shares_give_more_and_reservations_hold(void **state)
{
	struct balance_vm vm[] = {one(512, 0, 100), one(512, 0, 300), one(512, 512, 1)};
	struct balance_host h = lacking(40);

	(void)state;
	assert_int_equal(balance(&h, vm, 3), 0);
	uint64_t a = 512 * MiB - vm[0].want, b = 512 * MiB - vm[1].want;
	assert_in_range(a + b, 160 * MiB, 162 * MiB);
	assert_in_range(a, 3 * b - 4 * MiB, 3 * b + 4 * MiB);
	assert_int_equal(vm[2].want, 512 * MiB);
}

static void what_one_cannot_give_others_do(void **state)
{
	struct balance_vm vm[] = {one(512, 500, 1), one(512, 0, 100), one(512, 0, 100)};
	struct balance_host h = lacking(0);

	(void)state;
	vm[2].obeys = false; /* no driver */
	assert_int_equal(balance(&h, vm, 3), 0);
	assert_int_equal(vm[0].want, 500 * MiB);
	assert_in_range(vm[1].want, 322 * MiB, 324 * MiB);
	assert_int_equal(vm[2].want, 512 * MiB);
}

static void what_nobody_can_give_is_told(void **state)
{
	struct balance_vm vm[] = {one(100, 50, 100), one(100, 70, 100)};
	struct balance_host h = lacking(0);

	(void)state;
	assert_int_equal(balance(&h, vm, 2), 120 * MiB);
	assert_int_equal(vm[0].want, 50 * MiB);
	assert_int_equal(vm[1].want, 70 * MiB);
	assert_int_equal(balance(&h, vm, 0), 200 * MiB);
}

static void unused_memory_is_no_gift(void **state)
{
	struct balance_vm vm[] = {one(512, 0, 100)};
	struct balance_host h = lacking(90);

	(void)state;
	vm[0].used = 200 * MiB;
	assert_int_equal(balance(&h, vm, 1), 0);
	assert_int_equal(vm[0].want, 90 * MiB);
}

static void what_is_on_its_way_is_not_asked_for_again(void **state)
{
	struct balance_vm vm[] = {one(512, 0, 100)};
	struct balance_host h = lacking(50);

	(void)state;
	vm[0].target = 362 * MiB;
	vm[0].asked = true;
	assert_int_equal(balance(&h, vm, 1), 0);
	assert_int_equal(vm[0].want, 362 * MiB);
	vm[0].asked = false; /* long ago: more is needed of whoever gives */
	assert_int_equal(balance(&h, vm, 1), 0);
	assert_int_equal(vm[0].want, 212 * MiB);
}

static void it_comes_back_by_shares(void **state)
{
	struct balance_vm vm[] = {one(512, 0, 100), one(512, 0, 300), one(512, 0, 100)};
	struct balance_host h = lacking(1000);

	(void)state;
	for (int i = 0; i < 3; i++)
		vm[i].used = vm[i].target = 100 * MiB;
	vm[2].target = 512 * MiB;
	assert_int_equal(balance(&h, vm, 3), 0);
	assert_in_range(vm[0].want, 199 * MiB, 202 * MiB);
	assert_in_range(vm[1].want, 398 * MiB, 401 * MiB);
	assert_int_equal(vm[2].want, 512 * MiB);
	h.available = 100000 * MiB;
	assert_int_equal(balance(&h, vm, 3), 0);
	assert_int_equal(vm[0].want, 512 * MiB);
	assert_int_equal(vm[1].want, 512 * MiB);
}

static void any_numbers_make_sense(void **state)
{
	(void)state;
	srand(1);
	for (int run = 0; run < 20000; run++) {
		struct balance_vm vm[6];
		unsigned n = (unsigned)rand() % 7;
		struct balance_host h;
		uint64_t given = 0, short_by;

		balance_marks((uint64_t)(rand() % 4096) * MiB, &h);
		assert_true(h.low < h.high);
		h.available = (uint64_t)(rand() % 1000) * MiB + (uint64_t)rand() % MiB;
		for (unsigned i = 0; i < n; i++) {
			vm[i] = one((uint64_t)rand() % 2048, (uint64_t)rand() % 2048,
				    1 + (unsigned)rand() % 10000);
			vm[i].target = (uint64_t)rand() % (2 * GiB);
			vm[i].used = (uint64_t)rand() % (3 * GiB);
			vm[i].obeys = rand() % 4;
			vm[i].asked = rand() % 2;
		}
		short_by = balance(&h, vm, n);
		for (unsigned i = 0; i < n; i++) {
			assert_true(vm[i].want <= vm[i].memory && vm[i].want >= vm[i].reserved);
			given += vm[i].target - MIN(vm[i].target, vm[i].want);
		}
		if (h.available >= h.low)
			assert_int_equal(short_by, 0);
		(void)given;
	}
}

static void the_least_goes_last(void **state)
{
	struct balance_vm vm[] = {one(512, 100, 200), one(256, 100, 50), one(512, 100, 50),
				  one(512, 512, 1)};

	(void)state;
	assert_int_equal(balance_last_resort(vm, 4), 2);
	assert_int_equal(balance_last_resort(vm, 2), 1);
	assert_int_equal(balance_last_resort(vm + 3, 1), -1);
	assert_int_equal(balance_last_resort(vm, 0), -1);
	vm[2].stays = true; /* one that can't be saved is no candidate: the next one is */
	assert_int_equal(balance_last_resort(vm, 4), 1);
	vm[0].stays = vm[1].stays = true;
	assert_int_equal(balance_last_resort(vm, 4), -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(enough_moves_nothing),
		cmocka_unit_test(few_shares_give_more_and_reservations_hold),
		cmocka_unit_test(what_one_cannot_give_others_do),
		cmocka_unit_test(what_nobody_can_give_is_told),
		cmocka_unit_test(unused_memory_is_no_gift),
		cmocka_unit_test(what_is_on_its_way_is_not_asked_for_again),
		cmocka_unit_test(it_comes_back_by_shares),
		cmocka_unit_test(any_numbers_make_sense),
		cmocka_unit_test(the_least_goes_last),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
