// SPDX-License-Identifier: Apache-2.0
/* err.c: the thread's error context and the table of exit codes. */
#include "base/err.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/util.h"

static _Thread_local struct err_info current;

int fail(int err, const char *fmt, ...)
{
	char message[sizeof(current.message)];
	va_list ap;

	MUST(err < 0);
	va_start(ap, fmt);
	vsnprintf(message, sizeof(message), fmt, ap); /* may quote current.message */
	va_end(ap);
	err_clear();
	current.err = err;
	memcpy(current.message, message, sizeof(message));
	return err;
}

int fail_prefix(int err, const char *fmt, ...)
{
	char prefix[sizeof(current.message)], whole[sizeof(current.message)];
	const char *old = err_message(err);
	va_list ap;
	size_t n;

	MUST(err < 0);
	va_start(ap, fmt);
	vsnprintf(prefix, sizeof(prefix), fmt, ap);
	va_end(ap);
	n = strlen(prefix);
	memcpy(whole, prefix, n + 1);
	(void)str_format(whole + n, sizeof(whole) - n, ": %s", old);
	if (current.err != err)
		err_clear();
	current.err = err;
	memcpy(current.message, whole, sizeof(whole));
	return err;
}

void err_object(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(current.object, sizeof(current.object), fmt, ap);
	va_end(ap);
}

void err_holder(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(current.holder, sizeof(current.holder), fmt, ap);
	va_end(ap);
}

void err_clear(void)
{
	memset(&current, 0, sizeof(current));
}

const char *err_message(int err)
{
	if (current.err && current.err == err)
		return current.message;
	return strerror(-err);
}

void err_save(struct err_info *out, int err)
{
	if (current.err == err) {
		*out = current;
		return;
	}
	memset(out, 0, sizeof(*out));
	out->err = err;
	if (err)
		snprintf(out->message, sizeof(out->message), "%s", strerror(-err));
}

int err_restore(const struct err_info *in)
{
	current = *in;
	return in->err;
}

int err_exit_code(int err)
{
	switch (-err) {
	case 0:
		return 0;
	case EINVAL:
	case ENAMETOOLONG:
		return 2;
	case ENOENT:
		return 3;
	case EBUSY:
		return 4;
	case EPERM:
		return 5;
	case ENOSPC:
		return 6;
	case EUCLEAN:
		return 7;
	case EIO:
	case ECONNREFUSED:
	case EHOSTUNREACH:
	case ENOTCONN:
		return 8;
	case ETIMEDOUT:
		return 9;
	default:
		return 1;
	}
}

const char *err_exit_name(int code)
{
	static const char *const names[] = {"ok",	   "failed",   "usage",	   "not-found",
					    "busy",	   "refused",  "no-space", "integrity",
					    "unreachable", "timed-out"};

	return code >= 0 && (size_t)code < ARRAY_SIZE(names) ? names[code] : "failed";
}
