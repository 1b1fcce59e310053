// SPDX-License-Identifier: Apache-2.0
/* What a VM gets of its host: what is refused, what a definition keeps of it, lists of processors. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <errno.h>

#include "base/util.h"
#include "host/call.h"
#include "host/vm_share.h"

#include <cmocka.h>

#define MAX_BYTES (64 * MiB)

static void the_usual_share_is_written_as_nothing(void **state)
{
	struct vm_share s, again;
	json_t *doc = json_object();

	(void)state;
	vm_share_init(&s, MAX_BYTES);
	assert_int_equal(vm_share_check(&s, MAX_BYTES, 1, "g"), 0);
	assert_int_equal(vm_share_reserved(&s), MAX_BYTES);
	vm_share_record(&s, MAX_BYTES, doc);
	assert_int_equal(json_object_size(doc), 0);
	vm_share_parse(&again, MAX_BYTES, doc); /* as definitions of before have it */
	assert_int_equal(again.memory, s.memory);
	assert_int_equal(again.memory_reserved, s.memory_reserved);
	assert_int_equal(again.memory_shares, s.memory_shares);
	assert_int_equal(again.cpu_weight, s.cpu_weight);
	assert_int_equal(again.cpu_limit, s.cpu_limit);
	assert_int_equal(again.cpu_reserved, s.cpu_reserved);
	assert_string_equal(again.cpus_allowed, s.cpus_allowed);
	assert_string_equal(again.pool, s.pool);
	json_decref(doc);
}

static void all_of_it_is_kept(void **state)
{
	struct vm_share s = {.memory = 32 * MiB,
			     .memory_reserved = 0,
			     .memory_shares = 7,
			     .cpu_weight = 10000,
			     .cpu_limit = 150,
			     .cpu_reserved = 20,
			     .cpus_allowed = "0-1,5",
			     .pool = "web"},
			again;
	json_t *doc = json_object();

	(void)state;
	assert_int_equal(vm_share_check(&s, MAX_BYTES, 2, "g"), 0);
	assert_int_equal(vm_share_reserved(&s), 0);
	vm_share_record(&s, MAX_BYTES, doc);
	vm_share_parse(&again, MAX_BYTES, doc);
	assert_int_equal(again.memory, s.memory);
	assert_int_equal(again.memory_reserved, s.memory_reserved);
	assert_int_equal(again.memory_shares, s.memory_shares);
	assert_int_equal(again.cpu_weight, s.cpu_weight);
	assert_int_equal(again.cpu_limit, s.cpu_limit);
	assert_int_equal(again.cpu_reserved, s.cpu_reserved);
	assert_string_equal(again.cpus_allowed, s.cpus_allowed);
	assert_string_equal(again.pool, s.pool);
	json_decref(doc);
}

static void what_cannot_be_is_refused(void **state)
{
	const struct vm_share good = {.memory = 32 * MiB,
				      .memory_reserved = VM_NOT_SAID,
				      .memory_shares = 100,
				      .cpu_weight = 100};
	struct vm_share bad[12];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		bad[i] = good;
	bad[0].memory = MAX_BYTES + 2 * MiB;
	bad[1].memory = 3 * MiB;
	bad[2].memory = 0;
	bad[3].memory_reserved = 33 * MiB;
	bad[4].memory_shares = 0;
	bad[5].cpu_weight = 10001;
	bad[6].cpu_limit = 201;
	bad[7].cpu_reserved = 201;
	bad[8].cpu_limit = 10;
	bad[8].cpu_reserved = 11;
	strcpy(bad[9].cpus_allowed, "0-");
	strcpy(bad[10].pool, "../up");
	strcpy(bad[11].pool, "a/b");
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(vm_share_check(&bad[i], MAX_BYTES, 2, "g"), -EINVAL);
	assert_int_equal(vm_share_check(&good, MAX_BYTES, 2, "g"), 0);
}

static void lists_of_processors(void **state)
{
	static const char *const bad[] = {"-1", "1-",	   "a",	  "3-1", "1,",
					  ",1", "0-99999", "1;2", "1 "};
	cpu_set_t set;

	(void)state;
	assert_int_equal(vm_share_cpus("0-2,7", &set), 0);
	assert_int_equal(CPU_COUNT(&set), 4);
	assert_true(CPU_ISSET(7, &set) && CPU_ISSET(2, &set) && !CPU_ISSET(3, &set));
	assert_int_equal(vm_share_cpus("", &set), 0);
	assert_int_equal(CPU_COUNT(&set), CPU_SETSIZE);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(vm_share_cpus(bad[i], &set), -EINVAL);
}

static void a_call_changes_what_it_says(void **state)
{
	const struct host_verb verb = {"vm", "set", 0, NULL};
	struct host_call call = {.verb = &verb,
				 .args = json_pack("{s:s, s:i, s:s, s:s}", "memory", "16M",
						   "memory_shares", 300, "cpu_affinity", "all",
						   "pool", "none")};
	struct vm_share s;
	bool changed = false;

	(void)state;
	vm_share_init(&s, MAX_BYTES);
	strcpy(s.cpus_allowed, "1");
	strcpy(s.pool, "web");
	assert_int_equal(vm_share_args(&s, &call, &changed), 0);
	assert_true(changed);
	assert_int_equal(s.memory, 16 * MiB);
	assert_int_equal(s.memory_shares, 300);
	assert_int_equal(s.cpu_weight, 100);
	assert_string_equal(s.cpus_allowed, "");
	assert_string_equal(s.pool, "");
	json_object_clear(call.args);
	changed = false;
	assert_int_equal(vm_share_args(&s, &call, &changed), 0);
	assert_false(changed);
	json_object_set_new(call.args, "cpu_weight", json_string("much"));
	assert_int_equal(vm_share_args(&s, &call, &changed), -EINVAL);
	json_decref(call.args);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_usual_share_is_written_as_nothing),
		cmocka_unit_test(all_of_it_is_kept),
		cmocka_unit_test(what_cannot_be_is_refused),
		cmocka_unit_test(lists_of_processors),
		cmocka_unit_test(a_call_changes_what_it_says),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
