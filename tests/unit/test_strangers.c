// SPDX-License-Identifier: Apache-2.0
/* Strangers at the peers' port: delays grow, are bounded, are forgotten; a burst is said once. */
#include <stdarg.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <errno.h>

#include "base/util.h"
#include "host/strangers.h"

#include <cmocka.h>

static struct netaddr at(unsigned n)
{
	struct netaddr a;
	char text[NETADDR_TEXT];

	(void)str_format(text, sizeof(text), "10.%u.%u.%u:1", n >> 16 & 255, n >> 8 & 255, n & 255);
	assert_int_equal(netaddr_parse(text, 1, &a), 0);
	return a;
}

static void delays_grow_and_are_forgotten(void **state)
{
	struct strangers *s = strangers_create();
	struct netaddr a = at(1), friend = at(2);
	char text[NETADDR_TEXT];
	unsigned wait, last = 0, failures;
	uint64_t now = 1000;

	(void)state;
	for (unsigned i = 0; i < 12; i++) {
		assert_int_equal(strangers_admit(s, &a, now, &wait), 0);
		if (i == 0)
			assert_int_equal(wait, 0);
		else
			assert_int_equal(wait,
					 MIN(STRANGER_WAIT_MS << (i - 1), STRANGER_WAIT_MAX_MS));
		assert_true(wait >= last);
		last = wait;
		assert_int_equal(strangers_done(s, &a, now, false), i == 0);
		now += 10;
	}
	assert_int_equal(last, STRANGER_WAIT_MAX_MS);
	/* another address is not concerned */
	assert_int_equal(strangers_admit(s, &friend, now, &wait), 0);
	assert_int_equal(wait, 0);
	assert_false(strangers_done(s, &friend, now, true));
	/* a member behind the same address gets in, and makes it no better for others */
	assert_int_equal(strangers_admit(s, &a, now, &wait), 0);
	assert_false(strangers_done(s, &a, now, true));
	assert_int_equal(strangers_admit(s, &a, now, &wait), 0);
	assert_int_equal(wait, STRANGER_WAIT_MAX_MS);
	assert_false(strangers_done(s, &a, now, false));
	assert_false(strangers_forget(s, now + STRANGER_FORGET_MS - 1, text, &failures));
	assert_true(strangers_forget(s, now + STRANGER_FORGET_MS, text, &failures));
	assert_int_equal(failures, 13);
	assert_string_equal(text, "10.0.0.1");
	assert_false(strangers_forget(s, now + STRANGER_FORGET_MS, text, &failures));
	assert_int_equal(strangers_admit(s, &a, now + STRANGER_FORGET_MS, &wait), 0);
	assert_int_equal(wait, 0);
	assert_true(strangers_done(s, &a, now + STRANGER_FORGET_MS, false)); /* a new burst */
	strangers_destroy(s);
}

static void few_at_once(void **state)
{
	struct strangers *s = strangers_create();
	struct netaddr a = at(1), b;
	unsigned wait, n = 0;

	(void)state;
	while (strangers_admit(s, &a, 5, &wait) == 0)
		n++;
	assert_int_equal(n, STRANGER_AT_ONCE);
	while (n) {
		(void)strangers_done(s, &a, 5, false);
		n--;
	}
	while (strangers_admit(s, &a, 6, &wait) == 0)
		n++;
	assert_int_equal(n, 2);
	for (unsigned i = 0; i < 1000; i++) {
		b = at(100 + i);
		n += strangers_admit(s, &b, 6, &wait) == 0;
	}
	assert_int_equal(n, STRANGERS_AT_ONCE);
	strangers_destroy(s);
}

static void a_full_table_forgets_the_quietest(void **state)
{
	struct strangers *s = strangers_create();
	struct netaddr a;
	char text[NETADDR_TEXT];
	unsigned wait, failures;

	(void)state;
	for (unsigned i = 0; i < 10 * STRANGERS_MAX; i++) {
		a = at(i);
		assert_int_equal(strangers_admit(s, &a, 100 + i, &wait), 0);
		/* of which only the first few are said */
		assert_int_equal(strangers_done(s, &a, 100 + i, false), i < STRANGERS_SAID);
	}
	assert_int_equal(strangers_admit(s, &a, 20000, &wait), 0);
	assert_int_equal(wait, STRANGER_WAIT_MS);
	a = at(0);
	assert_int_equal(strangers_admit(s, &a, 20000, &wait), 0);
	assert_int_equal(wait, 0);
	/* nor is the end of what was not said; after a while there is room again */
	assert_false(strangers_forget(s, 20000 + STRANGER_FORGET_MS, text, &failures));
	a = at(77777);
	assert_int_equal(strangers_admit(s, &a, 20000 + STRANGER_FORGET_MS, &wait), 0);
	assert_true(strangers_done(s, &a, 20000 + STRANGER_FORGET_MS, false));
	strangers_destroy(s);
}

static void ipv4_at_an_ipv6_socket(void **state)
{
	struct strangers *s = strangers_create();
	struct netaddr a, b, plain;
	unsigned wait;

	(void)state;
	assert_int_equal(netaddr_parse("[::ffff:192.0.2.1]:1", 1, &a), 0);
	assert_int_equal(netaddr_parse("[::ffff:192.0.2.2]:1", 1, &b), 0);
	assert_int_equal(netaddr_parse("192.0.2.1:1", 1, &plain), 0);
	assert_int_equal(strangers_admit(s, &a, 5, &wait), 0);
	assert_true(strangers_done(s, &a, 5, false));
	assert_int_equal(strangers_admit(s, &b, 6, &wait), 0);
	assert_int_equal(wait, 0);
	assert_int_equal(strangers_admit(s, &plain, 6, &wait), 0);
	assert_int_equal(wait, STRANGER_WAIT_MS);
	strangers_destroy(s);
}

static void a_network_of_ipv6_counts_as_one(void **state)
{
	struct strangers *s = strangers_create();
	struct netaddr a, b, c;
	unsigned wait;

	(void)state;
	assert_int_equal(netaddr_parse("[2001:db8:1:1::1]:1", 1, &a), 0);
	assert_int_equal(netaddr_parse("[2001:db8:1:1:ffff::2]:1", 1, &b), 0);
	assert_int_equal(netaddr_parse("[2001:db8:1:2::1]:1", 1, &c), 0);
	assert_int_equal(strangers_admit(s, &a, 5, &wait), 0);
	assert_true(strangers_done(s, &a, 5, false));
	assert_int_equal(strangers_admit(s, &b, 6, &wait), 0);
	assert_int_equal(wait, STRANGER_WAIT_MS);
	assert_int_equal(strangers_admit(s, &c, 6, &wait), 0);
	assert_int_equal(wait, 0);
	strangers_destroy(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(delays_grow_and_are_forgotten),
		cmocka_unit_test(few_at_once),
		cmocka_unit_test(a_full_table_forgets_the_quietest),
		cmocka_unit_test(a_network_of_ipv6_counts_as_one),
		cmocka_unit_test(ipv4_at_an_ipv6_socket),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
