// SPDX-License-Identifier: Apache-2.0
/* perilune_host.c: status and the host. */
#include "tools/perilune_cli.h"

#include <stddef.h>
#include <stdio.h>

static const char *text(json_t *object, const char *key)
{
	const char *s = json_string_value(json_object_get(object, key));

	return s && *s ? s : "-";
}

static void size_or_dash(json_t *v, char dst[16])
{
	if (json_is_integer(v))
		cli_size((uint64_t)json_integer_value(v), dst);
	else
		snprintf(dst, 16, "-");
}

static void show_volume(json_t *v)
{
	char size[16], used[16], promised[16], back[16];
	json_t *p;
	size_t i;

	size_or_dash(json_object_get(v, "size"), size);
	size_or_dash(json_object_get(v, "used"), used);
	size_or_dash(json_object_get(v, "promised"), promised);
	size_or_dash(json_object_get(v, "reclaim_pending"), back);
	printf("volume  %-16s %-10s size %s, used %s, promised %s, going back %s\n",
	       text(v, "name"), text(v, "state"), size, used, promised, back);
	json_array_foreach(json_object_get(v, "paths"), i, p) printf(
		"  path  %-6s %-5s %s\n", text(p, "kind"), text(p, "state"), text(p, "path"));
}

static int status_run(struct cli_call *call)
{
	json_t *result = NULL, *x;
	size_t i;
	int rc = cli_request(call->cli, "status", "show", call->args, &result);

	if (rc < 0)
		return rc;
	if (call->cli->json) {
		cli_show_json(result);
		json_decref(result);
		return 0;
	}
	printf("host    %s\n", text(result, "host"));
	json_array_foreach(json_object_get(result, "volumes"), i, x) show_volume(x);
	json_array_foreach(json_object_get(result, "hosts"), i, x)
		printf("member  %-16s %-10s of %s\n", text(x, "name"), text(x, "state"),
		       text(x, "volume"));
	json_array_foreach(json_object_get(result, "vms"), i, x)
		printf("vm      %-16s %-10s on %s\n", text(x, "name"), text(x, "state"),
		       text(x, "volume"));
	json_array_foreach(json_object_get(result, "alarms"), i, x)
		printf("alarm   %s: %s\n", text(x, "object"), text(x, "text"));
	json_decref(result);
	return 0;
}

static const struct cli_option maintenance_options[] = {
	{"parallel", CLI_SIZE, "N", "VMs that move at once, 1 to 8 (2)", false},
	{NULL, CLI_FLAG, NULL, NULL, false},
};

const struct cli_verb cli_host_verbs[] = {
	{"status", "", "", "one screen: volumes, paths, space, hosts, VMs, alarms",
	 "perilune status", NULL, 0, NULL, status_run},
	{"host", "check", "", "what this machine can do, found by trying", "perilune host check",
	 NULL, CLI_OFFLINE, "name=CHECK,ok=OK,detail=DETAIL,cure=CURE", NULL},
	{"host", "show", "", "this host: its names and its daemon", "perilune host show --json",
	 NULL, 0, NULL, NULL},
	{"host", "cpu", "",
	 "what processor guests of this host can see: its levels, and a table to compare",
	 "perilune host cpu --on host2", NULL, 0, NULL, NULL},
	{"host", "maintenance", "state=STATE",
	 "on: no VM starts here or comes here any more, those that run move to other hosts; off:"
	 " as before",
	 "perilune host maintenance on", maintenance_options, 0, NULL, NULL},
	{"host", "list", "", "the hosts of all mounted volumes", "perilune host list", NULL, 0,
	 "name=NAME,volume=VOLUME,state=STATE,beat_age_ms=BEAT MS,slot=SLOT,address=ADDRESS,"
	 "connection=CONNECTION",
	 NULL},
	{NULL, NULL, NULL, NULL, NULL, NULL, 0, NULL, NULL},
};
