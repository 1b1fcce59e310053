// SPDX-License-Identifier: Apache-2.0
/*
 * err.h: errors a user can act on.
 *
 * Functions return 0 (or a count) or a negative errno. The place that knows says it once, in words:
 *
 *	return fail(-EBUSY, "volume %s: slot %u is held by host %s; unmount it there", ...);
 *
 * and everyone above passes the number on. The words wait in a context of the calling thread until
 * somebody shows them; err_save/err_restore carry them over to another thread. Lower case, no full
 * stop, the failing thing first, the cure last.
 *
 * Exit codes and API names (the contract in docs/cli.md) come from the errno, in one table here.
 */
#ifndef BASE_ERR_H
#define BASE_ERR_H

#include <stdarg.h>

struct err_info {
	int err;	   /* negative errno, 0 when there is none */
	char message[512]; /* what failed, on which object, why, the cure */
	char object[192];  /* the object's name, may be empty */
	char holder[128];  /* who holds it, for -EBUSY; may be empty */
};

/* Sets the thread's error and returns `err` (which must be negative). */
int fail(int err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Puts "prefix: " before the message that is there; returns `err`. With none there, as fail(). */
int fail_prefix(int err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Adds to the error just set: which object, and who holds it. */
void err_object(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void err_holder(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

void err_clear(void);
/* The words for `err`: the thread's own if it has some for this errno, else strerror's. */
const char *err_message(int err);
void err_save(struct err_info *out, int err);
int err_restore(const struct err_info *in);

/* The exit code of CLI.md for a negative errno, and its name ("busy"). 0 is "ok". */
int err_exit_code(int err);
const char *err_exit_name(int code);

#endif
