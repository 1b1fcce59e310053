// SPDX-License-Identifier: Apache-2.0
/* perilune_run.c: sending a verb, following its task, asking before what destroys. */
#include "tools/perilune_cli.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/util.h"
#include "host/host.h"

/* A task is looked at often at first, so that short ones feel like none. */
#define POLL_FIRST_MS 2
#define POLL_LAST_MS  150
#define POLL_SOON_MS  20 /* in the first two seconds */
#define POLL_SHARE    4 /* a pause is that often an asking's own time: asking must not slow the work */

char *cli_absolute(const char *path)
{
	cleanup_free char *cwd = NULL;

	if (path[0] == '/')
		return xstrdup(path);
	cwd = getcwd(NULL, 0);
	return xasprintf("%s/%s", cwd ? cwd : "", path);
}

int cli_ask(struct cli *cli, const char *question)
{
	char line[16];

	if (cli->yes)
		return 0;
	if (!isatty(STDIN_FILENO))
		return fail(-EPERM, "%s: needs an answer and there is no terminal; say --yes",
			    question);
	fprintf(stderr, "%s? [y/N] ", question);
	if (fgets(line, sizeof(line), stdin) && (line[0] == 'y' || line[0] == 'Y'))
		return 0;
	return fail(-EPERM, "%s: answered no", question);
}

static void wait_or_detach(uint64_t ms, const sigset_t *interrupt, bool *detached)
{
	struct timespec ts = {(time_t)(ms / 1000), (long)(ms % 1000 * NS_PER_MS)};

	if (sigtimedwait(interrupt, NULL, &ts) == SIGINT)
		*detached = true;
}

static int task_ended(json_t *task, const char *state, json_t **result)
{
	json_t *error = json_object_get(task, "error");
	json_int_t code = json_integer_value(json_object_get(error, "code"));
	static const int by_code[] = {0,      0,       -EINVAL,	 -ENOENT, -EBUSY,
				      -EPERM, -ENOSPC, -EUCLEAN, -EIO,	  -ETIMEDOUT};
	const char *s;
	int err;

	if (!strcmp(state, "done")) {
		*result = json_incref(json_object_get(task, "result"));
		return 0;
	}
	err = code > 1 && code < (json_int_t)ARRAY_SIZE(by_code) ? by_code[code] : -ECANCELED;
	s = json_string_value(json_object_get(error, "message"));
	(void)fail(err, "%s", s ? s : state);
	s = json_string_value(json_object_get(error, "object"));
	if (s)
		err_object("%s", s);
	s = json_string_value(json_object_get(error, "holder"));
	if (s)
		err_holder("%s", s);
	return err;
}

int cli_follow(struct cli *cli, uint64_t id, json_t **result)
{
	uint64_t began = clock_boot_ms(), pause = POLL_FIRST_MS, shown = 0, took;
	json_t *query = json_pack("{s:I}", "id", (json_int_t)id);
	const char *on = cli->on ? " --on " : "", *host = cli->on ? cli->on : "";
	bool detached = false;
	sigset_t interrupt, old;
	int rc = 0;

	sigemptyset(&interrupt);
	sigaddset(&interrupt, SIGINT);
	sigprocmask(SIG_BLOCK, &interrupt, &old);
	while (rc == 0 && !detached) {
		json_t *task = NULL, *p;
		const char *state;
		uint64_t now = clock_boot_ms();

		rc = cli_http(cli, "task", "show", query, &task);
		if (rc < 0)
			break;
		took = clock_boot_ms() - now;
		state = json_string_value(json_object_get(task, "state"));
		if (!state || (strcmp(state, "queued") && strcmp(state, "running"))) {
			cli_end_progress(cli);
			rc = task_ended(task, state ? state : "lost", result);
			json_decref(task);
			break;
		}
		p = json_object_get(task, "progress");
		if (now - shown >= 200) {
			const char *what = json_string_value(json_object_get(p, "what"));

			cli_show_progress(cli, id,
					  (uint64_t)json_integer_value(json_object_get(p, "done")),
					  (uint64_t)json_integer_value(json_object_get(p, "total")),
					  what ? what : "", now - began);
			shown = now;
		}
		json_decref(task);
		pause = MIN(MAX(pause, POLL_SHARE * took), POLL_LAST_MS);
		wait_or_detach(pause, &interrupt, &detached);
		pause = MIN(2 * pause, now - began < 2000 ? POLL_SOON_MS : POLL_LAST_MS);
	}
	sigprocmask(SIG_SETMASK, &old, NULL);
	json_decref(query);
	if (detached && rc == 0) {
		cli_end_progress(cli);
		rc = fail(-ETIMEDOUT,
			  "task %llu goes on; watch it with perilune%s%s task watch %llu, end it"
			  " with perilune%s%s task cancel %llu",
			  (unsigned long long)id, on, host, (unsigned long long)id, on, host,
			  (unsigned long long)id);
	}
	return rc;
}

int cli_request(struct cli *cli, const char *noun, const char *verb, json_t *args, json_t **result)
{
	json_t *answer = NULL, *id;
	int rc = cli_http(cli, noun, verb, args, &answer);

	if (rc < 0)
		return rc;
	id = json_is_object(answer) && json_object_size(answer) == 1
		     ? json_object_get(answer, "task")
		     : NULL;
	if (!id) {
		*result = answer;
		return 0;
	}
	rc = cli_follow(cli, (uint64_t)json_integer_value(id), result);
	json_decref(answer);
	return rc;
}

struct local {
	struct cli *cli;
	uint64_t began, shown;
};

static void local_progress(void *arg, uint64_t done, uint64_t total, const char *what)
{
	struct local *local = arg;
	uint64_t now = clock_boot_ms();

	if (now - local->shown < 200)
		return;
	local->shown = now;
	cli_show_progress(local->cli, 0, done, total, what, now - local->began);
}

int cli_request_or_local(struct cli *cli, const char *noun, const char *verb, json_t *args,
			 json_t **result)
{
	struct local local = {cli, clock_boot_ms(), 0};
	int rc = cli_request(cli, noun, verb, args, result);

	if (rc != -ENOTCONN || cli->on)
		return rc;
	err_clear();
	if (cli->verbose)
		fprintf(stderr, "perilune: no daemon at %s, doing it here\n", cli->socket);
	rc = host_call_local(host_offline(), noun, verb, args, local_progress, &local, result);
	if (local.shown)
		cli_end_progress(cli);
	return rc;
}

/* "disk delete v1:/web1": the verb and the objects it was given. */
static char *question_of(const struct cli_call *call)
{
	char *text = xasprintf("%s %s", call->verb->noun, call->verb->verb);
	const char *key;
	json_t *value;

	json_object_foreach(call->args, key, value)
	{
		json_t *one = value;

		for (size_t i = 0; one; i++) {
			if (json_is_array(value))
				one = json_array_get(value, i);
			if (json_is_string(one)) {
				char *longer = xasprintf("%s %s", text, json_string_value(one));

				free(text);
				text = longer;
			}
			if (!json_is_array(value))
				one = NULL;
		}
	}
	return text;
}

int cli_run_default(struct cli_call *call)
{
	const struct cli_verb *v = call->verb;
	json_t *result = NULL;
	int rc = 0;

	if (v->flags & CLI_ASKS) {
		cleanup_free char *question = question_of(call);

		rc = cli_ask(call->cli, question);
	}
	if (rc == 0)
		rc = v->flags & CLI_OFFLINE
			     ? cli_request_or_local(call->cli, v->noun, v->verb, call->args,
						    &result)
			     : cli_request(call->cli, v->noun, v->verb, call->args, &result);
	if (rc == 0)
		cli_show(call, result);
	json_decref(result);
	return rc;
}
