// SPDX-License-Identifier: Apache-2.0
/*
 * perilune_cli.h: the command line: tables of verbs, and what runs them.
 *
 * A verb is a row: its words, its operands and options, which become the keys of a JSON object,
 * and how its answer is printed. Most need no code: the row is sent to the daemon as it is. The
 * help text and docs/cli.md's synopsis come from these rows.
 */
#ifndef TOOLS_PERILUNE_CLI_H
#define TOOLS_PERILUNE_CLI_H

#include <stdbool.h>
#include <stdint.h>
#include <jansson.h>

enum cli_progress { CLI_PROGRESS_AUTO, CLI_PROGRESS_NONE, CLI_PROGRESS_JSON };

struct cli {
	const char *connect; /* socket, resolved */
	const char *on;	     /* the host whose daemon is to do it; NULL: this one */
	char socket[108];
	bool json, yes, dry_run, quiet, verbose, help;
	enum cli_progress progress;
};

enum cli_kind {
	CLI_FLAG,  /* true */
	CLI_TEXT,  /* a string */
	CLI_SIZE,  /* a number; K M G T */
	CLI_FILE,  /* a path on this machine, made absolute */
	CLI_LIST,  /* text; may be given several times */
	CLI_LOCAL, /* a flag for the command line only, not sent */
	CLI_VALUE, /* a value for the command line only, not sent */
};

struct cli_option {
	const char *name; /* "size" for --size */
	enum cli_kind kind;
	const char *arg; /* "S" in the synopsis; NULL for flags */
	const char *help;
	bool required;
};

#define CLI_OFFLINE 1u /* runs here when there is no daemon */
#define CLI_ASKS    2u /* destructive: asks, or wants --yes */

struct cli_verb;
struct cli_call {
	struct cli *cli;
	const struct cli_verb *verb;
	json_t *args;  /* for the daemon */
	json_t *local; /* options of kind CLI_LOCAL and CLI_VALUE */
};

struct cli_verb {
	const char *noun, *verb;
	/*
	 * "key=LABEL" words; "..." after it takes one or more into a list, brackets make it
	 * optional. LUN, and FILE, labels are made absolute.
	 */
	const char *operands;
	const char *about;
	const char *example;
	const struct cli_option *options; /* ended by a NULL name; may be NULL */
	unsigned flags;
	/* How people see the answer: "key=TITLE,..." a table; NULL: a list of fields; "": nothing.
	 * After a key: '%' a size, '@' joined names, '?' yes or no. */
	const char *columns;
	int (*run)(struct cli_call *call); /* NULL: send, wait, show */
};

extern const struct cli_verb *const cli_tables[]; /* ended by NULL */

/* --- perilune_run.c ------------------------------------------------------------------------------ */

/* Sends noun/verb with `args` (borrowed), follows a task; 0 and *result (owned), or -errno. */
int cli_request(struct cli *cli, const char *noun, const char *verb, json_t *args, json_t **result);
/* As cli_request, and runs the verb in this process when there is no daemon. */
int cli_request_or_local(struct cli *cli, const char *noun, const char *verb, json_t *args,
			 json_t **result);
/* Follows a task to its end. */
int cli_follow(struct cli *cli, uint64_t id, json_t **result);
/* For destructive verbs: 0 when the answer is yes, else -EPERM. */
int cli_ask(struct cli *cli, const char *question);
/* The usual way of a verb: ask, send, wait, show. */
int cli_run_default(struct cli_call *call);
/* Absolute path of a file that may not exist yet; owned by the caller. */
char *cli_absolute(const char *path);

/* --- perilune_http.c ----------------------------------------------------------------------------- */

/*
 * One request. `body` is JSON, or NULL. -ENOTCONN when no daemon listens; *answer (owned) is the
 * document; a daemon's error becomes this thread's error. Returns 0, or -errno.
 */
int cli_http(struct cli *cli, const char *noun, const char *verb, json_t *body, json_t **answer);
/* Bytes up from `fd` (to its end), or down to `fd`; keys in `query`. */
int cli_http_upload(struct cli *cli, const char *noun, const char *verb, json_t *query, int fd);
int cli_http_download(struct cli *cli, const char *noun, const char *verb, json_t *query, int fd);
/* A connection that became a raw stream; the descriptor is the caller's. */
int cli_http_stream(struct cli *cli, const char *noun, const char *verb, json_t *query);

/* --- perilune_print.c ---------------------------------------------------------------------------- */

void cli_show(struct cli_call *call, json_t *result);
void cli_show_json(json_t *doc);
/* "1.5G" from bytes; `dst` holds 16 bytes. */
const char *cli_size(uint64_t bytes, char dst[16]);
/* A bar or a line of JSON, on standard error; `since_ms` since the work began. */
void cli_show_progress(struct cli *cli, uint64_t id, uint64_t done, uint64_t total,
		       const char *what, uint64_t since_ms);
void cli_end_progress(struct cli *cli);
/* Says the thread's error for `err` on standard error; returns the exit code. */
int cli_show_error(struct cli *cli, int err);

/* --- perilune_help.c ----------------------------------------------------------------------------- */

void cli_help(const char *noun);
void cli_help_verb(const struct cli_verb *verb);
/* All synopses, for docs/cli.md. */
void cli_help_markdown(void);

/* --- verbs with code of their own ---------------------------------------------------------------- */

extern const struct cli_verb cli_host_verbs[];
extern const struct cli_verb cli_lun_verbs[];
extern const struct cli_verb cli_check_verbs[];
extern const struct cli_verb cli_volume_verbs[];
extern const struct cli_verb cli_disk_verbs[];
extern const struct cli_verb cli_file_verbs[];
extern const struct cli_verb cli_vm_verbs[];
extern const struct cli_verb cli_pool_verbs[];
extern const struct cli_verb cli_fault_verbs[];
extern const struct cli_verb cli_task_verbs[];

#endif
