// SPDX-License-Identifier: Apache-2.0
/* perilune_host.c: status and the host. */
#include "tools/perilune_cli.h"

#include <stddef.h>

const struct cli_verb cli_host_verbs[] = {
	{"host", "check", "", "what this machine can do, found by trying", "perilune host check",
	 NULL, CLI_OFFLINE, "name=CHECK,ok=OK,detail=DETAIL,cure=CURE", NULL},
	{"host", "show", "", "this host: its names and its daemon", "perilune host show --json",
	 NULL, 0, NULL, NULL},
	{NULL, NULL, NULL, NULL, NULL, NULL, 0, NULL, NULL},
};
