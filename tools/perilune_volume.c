// SPDX-License-Identifier: Apache-2.0
/* perilune_volume.c: volumes, and the inspector. */
#include "tools/perilune_cli.h"

#include <errno.h>
#include <stdio.h>

#include "base/err.h"

static const struct cli_option format_options[] = {
	{"overwrite", CLI_FLAG, NULL, "insist over a partition table, a file system, a dead volume",
	 false},
	{"fence", CLI_TEXT, "HOW",
	 "auto: by what the LUNs offer; time: a dead host's silence is enough", false},
	{"chap-file", CLI_FILE, "F", "user and password for CHAP, on one line", false},
	{NULL, CLI_FLAG, NULL, NULL, false},
};

static const struct cli_option mount_options[] = {
	{"new-identity", CLI_FLAG, NULL, "the LUNs are an array's clone: a volume of their own",
	 false},
	{"chap-file", CLI_FILE, "F", "user and password for CHAP, on one line", false},
	{NULL, CLI_FLAG, NULL, NULL, false},
};

static const struct cli_option reclaim_options[] = {
	{"bytes", CLI_SIZE, "N", "no more than that", false},
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

const struct cli_verb cli_volume_verbs[] = {
	{"volume", "format", "name=NAME luns=LUN...",
	 "write a new volume over LUNs; what they hold is respected",
	 "perilune volume format v1 iscsi://10.0.0.9/iqn.2026-11.org.example:a/0", format_options,
	 CLI_OFFLINE, NULL, format_run},
	{"volume", "mount", "luns=LUN...",
	 "mount a volume by its LUNs or its name, now and after each start",
	 "perilune volume mount /dev/mapper/mpatha", mount_options, 0, NULL, NULL},
	{"volume", "unmount", "volume=VOLUME", "let a volume go, and forget it",
	 "perilune volume unmount v1", NULL, 0, "", NULL},
	{"volume", "list", "", "volumes of this host", "perilune volume list", NULL, 0,
	 "name=NAME,state=STATE,size%=SIZE,free%=FREE,id=ID,error=ERROR", NULL},
	{"volume", "show", "volume=VOLUME", "all of one volume: space, LUNs, hosts",
	 "perilune volume show v1 --json", NULL, 0, NULL, NULL},
	{"volume", "paths", "volume=VOLUME", "how its LUNs are reached", "perilune volume paths v1",
	 NULL, 0,
	 "lun=LUN,path=PATH,kind=KIND,state=STATE,errors=ERRORS,latency_us=LATENCY US,bytes%=BYTES,"
	 "since=SINCE",
	 NULL},
	{"volume", "locks", "volume=VOLUME", "locks that this host holds or waits for",
	 "perilune volume locks v1", NULL, 0,
	 "what=OBJECT,mode=MODE,holder=HOLDER,wanted=WANTED,block=BLOCK", NULL},
	{"volume", "grow", "volume=VOLUME [luns=LUN...]", "take larger LUNs, or more of them",
	 "perilune volume grow v1 /dev/mapper/mpathb", NULL, 0, NULL, NULL},
	{"volume", "rename", "volume=VOLUME to=NAME", "give a volume another name",
	 "perilune volume rename v1 archive", NULL, 0, "", NULL},
	{"volume", "reclaim", "volume=VOLUME", "return freed space to the array now",
	 "perilune volume reclaim v1", reclaim_options, 0, NULL, NULL},
	{NULL, NULL, NULL, NULL, NULL, NULL, 0, NULL, NULL},
};

/* --- verbs for unmounted volumes ------------------------------------------------------------------ */

static const struct cli_option check_options[] = {
	{"repair", CLI_FLAG, NULL, "mend what was found", false},
	{"chap-file", CLI_FILE, "F", "user and password for CHAP, on one line", false},
	{NULL, CLI_FLAG, NULL, NULL, false},
};

static const struct cli_option dump_options[] = {
	{"block", CLI_SIZE, "N", "one metadata block, by its address", false},
	{"chap-file", CLI_FILE, "F", "user and password for CHAP, on one line", false},
	{NULL, CLI_FLAG, NULL, NULL, false},
};

/* A volume that is not clean is exit 7, with the findings as the result. */
static int check_run(struct cli_call *call)
{
	json_t *result = NULL, *f;
	size_t i;
	int rc = cli_request_or_local(call->cli, "volume", "check", call->args, &result);

	if (rc < 0)
		return rc;
	if (call->cli->json) {
		cli_show_json(result);
	} else {
		json_array_foreach(json_object_get(result, "findings"), i, f)
			printf("%s: %s%s\n", json_string_value(json_object_get(f, "object")),
			       json_string_value(json_object_get(f, "text")),
			       json_is_true(json_object_get(f, "mended")) ? " (mended)" : "");
		if (!call->cli->quiet)
			printf("%lld findings, %lld mended; %lld objects, %lld directories\n",
			       (long long)json_integer_value(
				       json_object_get(result, "findings_count")),
			       (long long)json_integer_value(json_object_get(result, "mended")),
			       (long long)json_integer_value(json_object_get(result, "inodes")),
			       (long long)json_integer_value(
				       json_object_get(result, "directories")));
	}
	if (!json_is_true(json_object_get(result, "clean")))
		rc = fail(-EUCLEAN, "the volume is damaged; mend it with volume check --repair");
	json_decref(result);
	return rc;
}

static int dump_run(struct cli_call *call)
{
	json_t *result = NULL, *line;
	size_t i;
	int rc = cli_request_or_local(call->cli, "debug", "dump", call->args, &result);

	if (rc == 0 && call->cli->json)
		cli_show_json(result);
	else if (rc == 0)
		json_array_foreach(json_object_get(result, "lines"), i, line)
			puts(json_string_value(line));
	json_decref(result);
	return rc;
}

const struct cli_verb cli_check_verbs[] = {
	{"volume", "check", "luns=LUN...", "look for damage on a volume that nobody has mounted",
	 "perilune volume check /dev/mapper/mpatha --repair", check_options, CLI_OFFLINE, NULL,
	 check_run},
	{"debug", "dump", "name=LUN-or-VOLUME", "metadata in words",
	 "perilune debug dump /srv/lun0.img --block 64", dump_options, CLI_OFFLINE, NULL, dump_run},
	{NULL, NULL, NULL, NULL, NULL, NULL, 0, NULL, NULL},
};
