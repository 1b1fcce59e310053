// SPDX-License-Identifier: Apache-2.0
/*
 * What a hostile guest's agent can say: the input is all of it, as the answer to each question; what parses is
 * made fit for people, and must be that.
 */
#include <stdint.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/util.h"
#include "host/agent_talk.h"
#include "host/agent_words.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_text(const char *text, size_t max)
{
	size_t n = strlen(text);

	MUST(n <= max);
	for (size_t i = 0; i < n; i++)
		MUST((unsigned char)text[i] >= 0x20 && text[i] != 0x7f);
}

static void use(json_t *answer)
{
	json_t *all = json_array(), *interfaces = agent_interfaces(answer, all), *one;
	char text[AGENT_TEXT_MAX + 1] = "";
	size_t i;

	agent_os(answer, text, sizeof(text));
	check_text(text, AGENT_TEXT_MAX);
	if (agent_mounted(answer, 1, text, sizeof(text)))
		check_text(text, AGENT_TEXT_MAX);
	MUST(json_array_size(interfaces) <= AGENT_INTERFACES_MAX);
	MUST(json_array_size(all) <= AGENT_ADDRESSES_MAX);
	json_array_foreach(interfaces, i, one)
	{
		check_text(json_string_value(json_object_get(one, "name")), AGENT_TEXT_MAX);
		check_text(json_string_value(json_object_get(one, "mac")), AGENT_TEXT_MAX);
	}
	json_array_foreach(all, i, one) check_text(json_string_value(one), 46);
	json_decref(interfaces);
	json_decref(all);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static int stop = -1;
	struct agent_talk *t;
	json_t *answer = NULL;
	int s[2], rc;

	if (size > 60000) /* a socket takes it at once */
		return 0;
	if (stop < 0)
		stop = eventfd(0, EFD_CLOEXEC);
	MUST(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s));
	MUST(send(s[1], data, size, MSG_NOSIGNAL) == (ssize_t)size);
	shutdown(s[1], SHUT_WR);
	t = agent_talk_create(s[0], stop);
	if (size && data[0] == 0xff) {
		rc = agent_talk_sync(t, clock_boot_ns() + NS_PER_S);
		MUST(rc < 0);
	}
	do {
		rc = agent_talk_call(t, "guest-ping", NULL, clock_boot_ns() + NS_PER_S, &answer);
		if (rc == 0)
			use(answer);
		json_decref(answer);
		answer = NULL;
	} while (rc == 0);
	agent_talk_destroy(t);
	close(s[1]);
	return 0;
}
