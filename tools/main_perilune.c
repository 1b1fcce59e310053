// SPDX-License-Identifier: Apache-2.0
/*
 * main_perilune.c: the command line: words to a verb, its operands and options to JSON, then the
 * verb runs. Global options may stand anywhere.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "base/log.h"
#include "base/util.h"
#include "tools/perilune_cli.h"

#define SYSTEM_SOCKET "/run/perilune/api.sock"
#define WORDS_MAX     256

struct words {
	const char *word[WORDS_MAX];
	unsigned n;
};

static const struct cli_verb *find_verb(const char *noun, const char *verb)
{
	for (const struct cli_verb *const *t = cli_tables; *t; t++)
		for (const struct cli_verb *v = *t; v->noun; v++)
			if (!strcmp(v->noun, noun) && !strcmp(v->verb, verb))
				return v;
	return NULL;
}

static bool noun_exists(const char *noun)
{
	for (const struct cli_verb *const *t = cli_tables; *t; t++)
		for (const struct cli_verb *v = *t; v->noun; v++)
			if (!strcmp(v->noun, noun))
				return true;
	return false;
}

/* --- global options ----------------------------------------------------------------------------- */

static int set_progress(struct cli *cli, const char *value)
{
	static const char *const names[] = {"auto", "none", "json"};

	for (unsigned i = 0; value && i < ARRAY_SIZE(names); i++)
		if (!strcmp(value, names[i])) {
			cli->progress = (enum cli_progress)i;
			return 0;
		}
	return fail(-EINVAL, "--progress: say auto, none or json");
}

/* 1: it was one, 2: and it took the next word as its value; 0: none; -EINVAL. */
static int global_option(struct cli *cli, const char *arg, const char *next)
{
	static const struct {
		const char *name;
		size_t offset;
	} flags[] = {
		{"--json", offsetof(struct cli, json)},
		{"--yes", offsetof(struct cli, yes)},
		{"--dry-run", offsetof(struct cli, dry_run)},
		{"-q", offsetof(struct cli, quiet)},
		{"-v", offsetof(struct cli, verbose)},
		{"--help", offsetof(struct cli, help)},
		{"-h", offsetof(struct cli, help)},
	};

	for (size_t i = 0; i < ARRAY_SIZE(flags); i++)
		if (!strcmp(arg, flags[i].name)) {
			*(bool *)((char *)cli + flags[i].offset) = true;
			return 1;
		}
	if (!strncmp(arg, "--progress=", 11))
		return set_progress(cli, arg + 11) < 0 ? -EINVAL : 1;
	if (!strcmp(arg, "--progress"))
		return set_progress(cli, next) < 0 ? -EINVAL : 2;
	if (!strncmp(arg, "--on=", 5) && arg[5]) {
		cli->on = arg + 5;
		return 1;
	}
	if (!strcmp(arg, "--on")) {
		if (!next || !*next)
			return fail(-EINVAL, "--on: wants a host; see perilune host list");
		cli->on = next;
		return 2;
	}
	if (!strncmp(arg, "--connect=", 10)) {
		cli->connect = arg + 10;
		return 1;
	}
	if (!strcmp(arg, "--connect")) {
		if (!next)
			return fail(-EINVAL, "--connect: wants a directory or a socket");
		cli->connect = next;
		return 2;
	}
	return 0;
}

static int resolve_socket(struct cli *cli)
{
	const char *where = cli->connect ? cli->connect : getenv("PERILUNE_CONNECT");
	struct stat st;
	int rc;

	if (!where || !*where)
		where = SYSTEM_SOCKET;
	if (stat(where, &st) == 0 && S_ISDIR(st.st_mode))
		rc = str_format(cli->socket, sizeof(cli->socket), "%s/api.sock", where);
	else
		rc = str_format(cli->socket, sizeof(cli->socket), "%s", where);
	return rc < 0 ? fail(-EINVAL, "--connect: a socket's path has at most 107 bytes") : 0;
}

/* --- options and operands of a verb -------------------------------------------------------------- */

/* "chap-file" as JSON's key "chap_file". */
static void json_key(const char *name, char dst[40])
{
	(void)str_format(dst, 40, "%s", name);
	for (char *p = dst; *p; p++)
		if (*p == '-')
			*p = '_';
}

static json_t *text_value(const char *value)
{
	json_t *v = json_string(value);

	if (!v)
		(void)fail(-EINVAL, "a word is not UTF-8");
	return v;
}

static int add_option(struct cli_call *call, const struct cli_option *o, const char *value)
{
	json_t *to = o->kind == CLI_LOCAL || o->kind == CLI_VALUE ? call->local : call->args;
	cleanup_free char *path = NULL;
	json_t *v = NULL;
	char key[40];
	uint64_t n;

	json_key(o->name, key);
	switch (o->kind) {
	case CLI_FLAG:
	case CLI_LOCAL:
		v = json_true();
		break;
	case CLI_SIZE:
		if (parse_size(value, &n) < 0 || n > INT64_MAX)
			return fail(-EINVAL, "--%s %s: wants a number, such as 512 or 10G", o->name,
				    value);
		v = json_integer((json_int_t)n);
		break;
	case CLI_FILE:
		path = cli_absolute(value);
		v = text_value(path);
		break;
	case CLI_LIST:
		if (!json_object_get(to, key))
			json_object_set_new(to, key, json_array());
		v = text_value(value);
		return v ? json_array_append_new(json_object_get(to, key), v) : -EINVAL;
	case CLI_TEXT:
	case CLI_VALUE:
		v = text_value(value);
		break;
	}
	return v ? json_object_set_new(to, key, v) : -EINVAL;
}

static bool takes_value(const struct cli_option *o)
{
	return o->kind != CLI_FLAG && o->kind != CLI_LOCAL;
}

/* 1 or 2 as global_option; 0: not an option of this verb. */
static int verb_option(struct cli_call *call, const char *arg, const char *next)
{
	for (const struct cli_option *o = call->verb->options; o && o->name; o++) {
		size_t n = strlen(o->name);
		const char *value = NULL;
		int used = 1;

		if (strncmp(arg, "--", 2) || strncmp(arg + 2, o->name, n) ||
		    (arg[2 + n] && arg[2 + n] != '='))
			continue;
		if (arg[2 + n] == '=')
			value = arg + 3 + n;
		else if (takes_value(o) && (used = 2))
			value = next;
		if (takes_value(o) && !value)
			return fail(-EINVAL, "--%s: wants %s", o->name, o->arg);
		if (!takes_value(o) && value)
			return fail(-EINVAL, "--%s: takes no value", o->name);
		return add_option(call, o, value) < 0 ? -EINVAL : used;
	}
	return 0;
}

/* LUNs and files are paths of this directory, unless they look like something else. */
static json_t *operand_value(const char *label, const char *word)
{
	cleanup_free char *path = NULL;

	if (!strncmp(label, "ID", 2)) {
		uint64_t id;

		if (parse_size(word, &id) < 0 || id > INT64_MAX) {
			(void)fail(-EINVAL, "%s: not a number", word);
			return NULL;
		}
		return json_integer((json_int_t)id);
	}
	if (strstr(word, "://") ||
	    (strncmp(label, "LUN", 3) && strncmp(label, "FILE", 4) && strncmp(label, "TARGET", 6)))
		return text_value(word);
	if (!strncmp(label, "FILE", 4)
		    ? strcmp(word, "-") != 0
		    : (strchr(word, '/') && !strchr(word, ':')) || access(word, F_OK) == 0)
		path = cli_absolute(word);
	return text_value(path ? path : word);
}

static int usage_error(const struct cli_verb *v, const char *why)
{
	return fail(-EINVAL, "%s%s%s: %s; see perilune %s%s%s --help", v->noun, *v->verb ? " " : "",
		    v->verb, why, v->noun, *v->verb ? " " : "", v->verb);
}

static int take_operands(struct cli_call *call, const struct words *w)
{
	const char *spec = call->verb->operands;
	unsigned at = 0;

	while (*spec) {
		size_t len = strcspn(spec, " ");
		bool optional = spec[0] == '[';
		bool many = memmem(spec, len, "...", 3) != NULL;
		const char *equal = memchr(spec, '=', len);
		cleanup_free char *key = strndup(spec + optional,
						 (size_t)(equal - spec) - optional);
		json_t *list = many ? json_array() : NULL, *v;

		if (at == w->n && !optional) {
			json_decref(list);
			return usage_error(call->verb, "something is missing");
		}
		do {
			if (at == w->n)
				break;
			v = operand_value(equal + 1, w->word[at++]);
			if (!v) {
				json_decref(list);
				return -EINVAL;
			}
			if (many)
				json_array_append_new(list, v);
			else
				json_object_set_new(call->args, key, v);
		} while (many);
		if (many)
			json_object_set_new(call->args, key, list);
		spec += len + (spec[len] == ' ');
	}
	if (at < w->n)
		return usage_error(call->verb, "too many words");
	for (const struct cli_option *o = call->verb->options; o && o->name; o++) {
		char name[40];

		json_key(o->name, name);
		if (o->required && !json_object_get(call->args, name)) {
			cleanup_free char *why = xasprintf("--%s is missing", o->name);

			return usage_error(call->verb, why);
		}
	}
	return 0;
}

/* --- main ------------------------------------------------------------------------------------------ */

/* Noun and verb are the first two words; the rest are operands. */
static int parse(struct cli_call *call, int argc, char **argv, struct words *w)
{
	const char *noun = NULL;
	bool only_words = false;

	for (int i = 1; i < argc; i++) {
		const char *arg = argv[i], *next = i + 1 < argc ? argv[i + 1] : NULL;
		int used = 0;

		if (!only_words && !strcmp(arg, "--")) {
			only_words = true;
			continue;
		}
		if (!only_words && arg[0] == '-' && arg[1]) {
			if (call->verb)
				used = verb_option(call, arg, next);
			if (used == 0)
				used = global_option(call->cli, arg, next);
			if (used == 0)
				return fail(-EINVAL, "%s: no such option; see perilune%s%s --help",
					    arg, noun ? " " : "", noun ? noun : "");
			if (used < 0)
				return used;
			i += used - 1;
			continue;
		}
		if (!noun) {
			noun = arg;
			call->verb = find_verb(noun, "");
			if (!noun_exists(noun))
				return fail(-EINVAL, "%s: no such noun; see perilune --help", noun);
		} else if (!call->verb) {
			call->verb = find_verb(noun, arg);
			if (!call->verb)
				return fail(-EINVAL, "%s %s: no such verb; see perilune %s --help",
					    noun, arg, noun);
		} else if (w->n < WORDS_MAX) {
			w->word[w->n++] = arg;
		} else {
			return fail(-EINVAL, "more than %d words", WORDS_MAX);
		}
	}
	if (call->cli->help) {
		if (call->verb)
			cli_help_verb(call->verb);
		else
			cli_help(noun);
		return 1;
	}
	if (!noun)
		return fail(-EINVAL, "say what to do; see perilune --help");
	if (!call->verb)
		return fail(-EINVAL, "%s: a verb is missing; see perilune %s --help", noun, noun);
	return 0;
}

static int run(struct cli_call *call)
{
	int rc = resolve_socket(call->cli);

	if (rc < 0)
		return rc;
	if (call->cli->dry_run) {
		json_t *would = json_pack("{s:{s:s, s:s, s:O}}", "would", "noun", call->verb->noun,
					  "verb", call->verb->verb, "args", call->args);

		if (call->cli->on)
			json_object_set_new(json_object_get(would, "would"), "on",
					    json_string(call->cli->on));
		cli_show_json(would);
		json_decref(would);
		return 0;
	}
	return call->verb->run ? call->verb->run(call) : cli_run_default(call);
}

int main(int argc, char **argv)
{
	struct cli cli = {0};
	struct cli_call call = {.cli = &cli};
	struct words w = {.n = 0};
	int rc;

	log_set_level(LOG_WARN);
	if (argc == 2 && !strcmp(argv[1], "--version")) {
		puts("perilune " PERILUNE_VERSION);
		return 0;
	}
	if (argc == 2 && !strcmp(argv[1], "--help-markdown")) {
		cli_help_markdown();
		return 0;
	}
	call.args = json_object();
	call.local = json_object();
	rc = parse(&call, argc, argv, &w);
	if (cli.verbose)
		log_set_level(LOG_DEBUG);
	if (rc == 0)
		rc = take_operands(&call, &w);
	if (rc == 0)
		rc = run(&call);
	json_decref(call.args);
	json_decref(call.local);
	if (rc < 0)
		return cli_show_error(&cli, rc);
	if (fflush(stdout) != 0 || ferror(stdout)) {
		fprintf(stderr, "perilune: cannot write the result: %s\n", strerror(errno));
		return 1;
	}
	return 0;
}
