// SPDX-License-Identifier: Apache-2.0
/* perilune_volume.c: volumes, and the inspector. */
#include "tools/perilune_cli.h"

#include <stdio.h>

static const struct cli_option format_options[] = {
	{"overwrite", CLI_FLAG, NULL, "insist over a partition table, a file system, a dead volume",
	 false},
	{"fence", CLI_TEXT, "HOW",
	 "auto: by what the LUNs offer; time: a dead host's silence is enough", false},
	{"chap-file", CLI_FILE, "F", "user and password for CHAP, on one line", false},
	{NULL, CLI_FLAG, NULL, NULL, false},
};

/* --overwrite destroys what is there, so it asks; a LUN that holds nothing needs no question. */
static int format_run(struct cli_call *call)
{
	struct cli_verb asking = *call->verb;
	struct cli_call with = *call;

	if (json_is_true(json_object_get(call->args, "overwrite")))
		asking.flags |= CLI_ASKS;
	with.verb = &asking;
	return cli_run_default(&with);
}

const struct cli_verb cli_format_verbs[] = {
	{"volume", "format", "name=NAME luns=LUN...",
	 "write a new volume over LUNs; what they hold is respected",
	 "perilune volume format v1 iscsi://10.0.0.9/iqn.2026-11.org.example:a/0", format_options,
	 CLI_OFFLINE, NULL, format_run},
	{NULL, NULL, NULL, NULL, NULL, NULL, 0, NULL, NULL},
};
