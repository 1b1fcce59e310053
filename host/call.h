// SPDX-License-Identifier: Apache-2.0
/*
 * call.h (private to host): a verb of the API and one call of it.
 *
 * A verb is a plain function that blocks; it runs in a pool, or in the command line's thread. It
 * reads `args` with the functions below, which answer bad input in words, and leaves a result.
 */
#ifndef HOST_CALL_H
#define HOST_CALL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <jansson.h>

#include "host/host.h"

struct host_call;
struct host_task;
struct cfs_stat;

enum host_verb_flags {
	HOST_CHANGES = 1u, /* POST only */
	HOST_TASK = 2u,	   /* long: answered with a task's number; cancellable, with progress */
	HOST_OFFLINE = 4u, /* needs no state directory: the command line may run it itself */
	HOST_QUICK = 8u,   /* never waits for storage: runs in the pool that always answers */
	HOST_BODY = 16u,   /* takes a body of bytes; arguments come from the address */
};

struct host_verb {
	const char *noun, *verb;
	unsigned flags;
	int (*run)(struct host_call *call);
};

struct host_call {
	struct host *host;
	const struct host_verb *verb;
	json_t *args;		/* an object */
	json_t *result;		/* the verb's; NULL reads as {} */
	struct host_task *task; /* NULL: none */
	host_progress_fn progress;
	void *progress_arg;
	uid_t uid; /* of who asks; files of his are opened with his rights */
	gid_t gid;
	bool relayed;  /* from another host, whose users they are: nobody here but for uid 0 */
	int body_fd;   /* HOST_BODY: what was sent, at offset 0; -1 */
	int answer_fd; /* set by the verb: bytes to send instead of a result; the API closes it */
	/* Set by the verb: the connection is handed over; the function owns the socket. It is called
	 * once; with -1 when the client went before. */
	void (*upgrade)(void *arg, int fd);
	void *upgrade_arg;
};

/* NULL when there is none. */
const struct host_verb *host_verb_find(const char *noun, const char *verb);

/* Arguments. The `need` kind returns -EINVAL, in words, when it is missing; strings are borrowed. */
int host_arg_need(struct host_call *call, const char *key, const char **out);
const char *host_arg(struct host_call *call, const char *key); /* or NULL */
/* A number, or text as parse_size takes it; `fallback` when it is missing. */
int host_arg_u64(struct host_call *call, const char *key, uint64_t fallback, uint64_t *out);
bool host_arg_bool(struct host_call *call, const char *key);
/*
 * A list of strings (a single string is a list of one): fills `out` with at most `max` borrowed
 * ones and returns how many; -EINVAL.
 */
int host_arg_list(struct host_call *call, const char *key, const char **out, unsigned max);

/* How far it is; also the place where a cancelled task learns of it: -ECANCELED. */
int host_progress(struct host_call *call, uint64_t done, uint64_t total, const char *what);

/*
 * "VOLUME:/path" taken apart: `volume` holds 64 bytes, `path` is borrowed from `name`. -EINVAL.
 */
int host_split_name(const char *name, char volume[64], const char **path);

/* Wall time as the API writes it, or JSON null for 0. */
json_t *host_json_time(uint64_t wall_ns);
/* A number of an object's inode; null where the inode could not be read yet. */
json_t *host_json_known(const struct cfs_stat *st, uint64_t value);

#endif
