// SPDX-License-Identifier: Apache-2.0
/* perilune_task.c: tasks and events, and watching them. */
#include "tools/perilune_cli.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/util.h"

#define WATCH_MS 300

static int task_watch(struct cli_call *call)
{
	json_t *result = NULL;
	uint64_t id = (uint64_t)json_integer_value(json_object_get(call->args, "id"));
	int rc = cli_follow(call->cli, id, &result);

	if (rc == 0)
		cli_show(call, result);
	json_decref(result);
	return rc;
}

static void show_event(struct cli *cli, json_t *e)
{
	if (cli->json) {
		json_dumpf(e, stdout, JSON_COMPACT);
		putchar('\n');
	} else {
		printf("%s  %-7s %s: %s\n", json_string_value(json_object_get(e, "time")),
		       json_string_value(json_object_get(e, "kind")),
		       json_string_value(json_object_get(e, "object")),
		       json_string_value(json_object_get(e, "text")));
	}
	fflush(stdout);
}

/* Prints a line an event until it is interrupted, or the daemon is gone for good. */
static int event_watch(struct cli_call *call)
{
	json_t *query = json_pack("{s:i, s:i}", "since", 0, "limit", 10), *list, *e;
	size_t i;
	int rc;

	for (;;) {
		rc = cli_http(call->cli, "event", "list", query, &list);
		if (rc < 0)
			break;
		json_array_foreach(list, i, e)
		{
			show_event(call->cli, e);
			json_object_set(query, "since", json_object_get(e, "id"));
		}
		json_decref(list);
		json_object_set_new(query, "limit", json_integer(1000));
		sleep_ms(WATCH_MS);
	}
	json_decref(query);
	return rc;
}

static const struct cli_option event_options[] = {
	{"since", CLI_SIZE, "ID", "only those after this one", false},
	{"limit", CLI_SIZE, "N", "at most N, the newest (200)", false},
	{NULL, CLI_FLAG, NULL, NULL, false},
};

const struct cli_verb cli_task_verbs[] = {
	{"task", "list", "", "long work: running, and what became of the last",
	 "perilune task list", NULL, 0,
	 "id=ID,noun=NOUN,verb=VERB,state=STATE,started=STARTED,ended=ENDED", NULL},
	{"task", "show", "id=ID", "one task, with its result", "perilune task show 17", NULL, 0,
	 NULL, NULL},
	{"task", "watch", "id=ID", "follow a task to its end, and exit as it did",
	 "perilune task watch 17", NULL, 0, NULL, task_watch},
	{"task", "cancel", "id=ID", "ask a task to end", "perilune task cancel 17", NULL, 0, "",
	 NULL},
	{"event", "list", "", "what happened here, oldest first", "perilune event list --limit 20",
	 event_options, 0, "id=ID,time=TIME,kind=KIND,object=OBJECT,text=TEXT", NULL},
	{"event", "show", "id=ID", "one event", "perilune event show 4", NULL, 0, NULL, NULL},
	{"event", "watch", "", "a line an event, as they come", "perilune event watch", NULL, 0, "",
	 event_watch},
	{NULL, NULL, NULL, NULL, NULL, NULL, 0, NULL, NULL},
};
