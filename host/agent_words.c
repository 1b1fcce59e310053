// SPDX-License-Identifier: Apache-2.0
/* agent_words.c: nothing here fails; fuzzed by tests/fuzz/fuzz_agent.c. */
#include "host/agent_words.h"

#include <arpa/inet.h>
#include <stdbool.h>
#include <string.h>

#include "base/util.h"

void agent_text(json_t *text, char *dst, size_t size)
{
	const char *s = json_string_value(text);
	size_t n = s ? MIN(strlen(s), size - 1) : 0;

	while (s && s[n] && n && ((unsigned char)s[n] & 0xc0) == 0x80)
		n--; /* not within a character */
	for (size_t i = 0; i < n; i++)
		dst[i] = (unsigned char)s[i] < 0x20 || s[i] == 0x7f ? '?' : s[i];
	dst[n] = 0;
}

void agent_os(json_t *info, char *dst, size_t size)
{
	agent_text(json_object_get(info, "pretty-name"), dst, size);
	if (!dst[0])
		agent_text(json_object_get(info, "name"), dst, size);
}

/* An address as the system writes it; false: it is none. */
static bool take_address(json_t *text, char dst[INET6_ADDRSTRLEN], bool *elsewhere)
{
	const char *s = json_string_value(text);
	struct in6_addr six;
	struct in_addr four;

	if (s && inet_pton(AF_INET, s, &four) == 1) {
		*elsewhere = (ntohl(four.s_addr) >> 24) != 127;
		return inet_ntop(AF_INET, &four, dst, INET6_ADDRSTRLEN);
	}
	if (!s || inet_pton(AF_INET6, s, &six) != 1)
		return false;
	*elsewhere = !IN6_IS_ADDR_LOOPBACK(&six) && !IN6_IS_ADDR_LINKLOCAL(&six);
	return inet_ntop(AF_INET6, &six, dst, INET6_ADDRSTRLEN);
}

/* One interface; what can be reached from elsewhere goes into `all`, too. */
static json_t *take_interface(json_t *in, json_t *all)
{
	char name[AGENT_TEXT_MAX + 1], mac[AGENT_TEXT_MAX + 1];
	json_t *own = json_array(), *one;
	size_t i;

	agent_text(json_object_get(in, "name"), name, sizeof(name));
	agent_text(json_object_get(in, "hardware-address"), mac, sizeof(mac));
	json_array_foreach(json_object_get(in, "ip-addresses"), i, one)
	{
		char address[INET6_ADDRSTRLEN];
		bool elsewhere;

		if (json_array_size(own) >= AGENT_ADDRESSES_MAX ||
		    !take_address(json_object_get(one, "ip-address"), address, &elsewhere))
			continue;
		json_array_append_new(own, json_string(address));
		if (elsewhere && json_array_size(all) < AGENT_ADDRESSES_MAX)
			json_array_append_new(all, json_string(address));
	}
	return json_pack("{s:s, s:s, s:o}", "name", name, "mac", mac, "addresses", own);
}

json_t *agent_interfaces(json_t *list, json_t *all)
{
	json_t *interfaces = json_array(), *one;
	size_t i;

	json_array_foreach(list, i, one)
	{
		if (i < AGENT_INTERFACES_MAX)
			json_array_append_new(interfaces, take_interface(one, all));
	}
	return interfaces;
}

/* LUNs over 255 come from Linux as they are on the wire, in flat space addressing (SAM-5, 4.7.7.4). */
static bool lies_on(json_t *disk, unsigned lun)
{
	const char *bus = json_string_value(json_object_get(disk, "bus-type"));
	json_int_t unit = json_integer_value(json_object_get(disk, "unit"));

	return bus && !strcmp(bus, "scsi") &&
	       json_integer_value(json_object_get(disk, "target")) == 0 &&
	       (unit == lun || unit == (lun | 0x4000));
}

int agent_mounted(json_t *list, unsigned lun, char *where, size_t size)
{
	json_t *fs, *disk;
	size_t i, k;

	json_array_foreach(list, i, fs)
	{
		json_array_foreach(json_object_get(fs, "disk"), k, disk)
		{
			if (!lies_on(disk, lun))
				continue;
			agent_text(json_object_get(fs, "mountpoint"), where, size);
			return 1;
		}
	}
	return 0;
}
