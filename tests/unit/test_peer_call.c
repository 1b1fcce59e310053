// SPDX-License-Identifier: Apache-2.0
/* A call that another host passes on: who asks, and what that is worth here. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#undef fail /* base/err.h has its own */

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/util.h"
#include "host/call.h"
#include "host/daemon.h"
#include "host/names.h"
#include "host/peers.h"

static int parse(const char *doc, struct host_call *call)
{
	size_t n = strlen(doc), body_bytes;
	cleanup_free uint8_t *whole = xmalloc(4 + n);
	le32 length = le32_of((uint32_t)n);
	const void *body;

	memset(call, 0, sizeof(*call));
	memcpy(whole, &length, 4);
	memcpy(whole + 4, doc, n);
	return host_peer_call_parse(whole, 4 + n, call, &body, &body_bytes);
}

static int parse_as(const char *uid, const char *gid, struct host_call *call)
{
	cleanup_free char *doc = xasprintf("{\"noun\": \"host\", \"verb\": \"show\", \"uid\": %s,"
					   " \"gid\": %s, \"args\": {}}",
					   uid, gid);

	return parse(doc, call);
}

static void users_are_possible_ones(void **state)
{
	static const char *const bad[] = {"-1", "4294967295", "4294967296", "-4294967296",
					  "9223372036854775807"};
	struct host_call call;

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_int_equal(parse_as(bad[i], "0", &call), -EINVAL);
		assert_null(call.args);
		assert_int_equal(parse_as("0", bad[i], &call), -EINVAL);
		assert_null(call.args);
	}
	assert_int_equal(parse_as("1000", "4294967294", &call), 0);
	assert_int_equal(call.uid, 1000);
	assert_int_equal(call.gid, 4294967294u);
	assert_true(call.relayed);
	json_decref(call.args);
}

static void users_of_others_open_nothing(void **state)
{
	static struct host host = {.name = "h2"};
	struct host_call call;
	int fd;

	(void)state;
	assert_int_equal(parse_as("1000", "1000", &call), 0);
	call.host = &host;
	assert_int_equal(host_open_as_caller(&call, "/dev/null", O_RDONLY, 0), -EPERM);
	json_decref(call.args);
	assert_int_equal(parse_as("0", "0", &call), 0); /* root is trusted with root */
	call.host = &host;
	fd = host_open_as_caller(&call, "/dev/null", O_RDONLY, 0);
	assert_true(fd >= 0);
	close(fd);
	json_decref(call.args);
	call = (struct host_call){.host = &host, .uid = geteuid(), .gid = getegid()}; /* of here */
	fd = host_open_as_caller(&call, "/dev/null", O_RDONLY, 0);
	assert_true(fd >= 0);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(users_are_possible_ones),
		cmocka_unit_test(users_of_others_open_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
