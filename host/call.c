// SPDX-License-Identifier: Apache-2.0
/*
 * call.c: arguments of a call, its progress, and the way from an errno to the API's error. All
 * input here is a user's: answered, never asserted.
 */
#include "host/call.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/util.h"
#include "clusterfs/cfs.h"
#include "host/task.h"

const char *host_arg(struct host_call *call, const char *key)
{
	return json_string_value(json_object_get(call->args, key));
}

int host_arg_need(struct host_call *call, const char *key, const char **out)
{
	json_t *v = json_object_get(call->args, key);

	if (!v || json_is_null(v))
		return fail(-EINVAL, "%s %s: \"%s\" is missing", call->verb->noun, call->verb->verb,
			    key);
	*out = json_string_value(v);
	if (!*out || !**out || json_string_length(v) != strlen(*out))
		return fail(-EINVAL, "%s %s: \"%s\" must be text, and not empty", call->verb->noun,
			    call->verb->verb, key);
	return 0;
}

int host_arg_u64(struct host_call *call, const char *key, uint64_t fallback, uint64_t *out)
{
	json_t *v = json_object_get(call->args, key);

	*out = fallback;
	if (!v || json_is_null(v))
		return 0;
	if (json_is_integer(v) && json_integer_value(v) >= 0) {
		*out = (uint64_t)json_integer_value(v);
		return 0;
	}
	if (json_is_string(v) && parse_size(json_string_value(v), out) == 0)
		return 0;
	return fail(-EINVAL, "%s %s: \"%s\" must be a number, such as 512 or 10G", call->verb->noun,
		    call->verb->verb, key);
}

bool host_arg_bool(struct host_call *call, const char *key)
{
	json_t *v = json_object_get(call->args, key);
	const char *s = json_string_value(v);

	return json_is_true(v) || (s && (!strcmp(s, "true") || !strcmp(s, "1")));
}

int host_arg_list(struct host_call *call, const char *key, const char **out, unsigned max)
{
	json_t *v = json_object_get(call->args, key), *item;
	size_t i;

	if (!v || json_is_null(v))
		return 0;
	if (json_is_string(v)) {
		out[0] = json_string_value(v);
		return 1;
	}
	if (!json_is_array(v) || json_array_size(v) > max)
		return fail(-EINVAL, "%s %s: \"%s\" must be a list of at most %u names",
			    call->verb->noun, call->verb->verb, key, max);
	json_array_foreach(v, i, item)
	{
		out[i] = json_string_value(item);
		if (!out[i] || !*out[i])
			return fail(-EINVAL, "%s %s: \"%s\" must be a list of names",
				    call->verb->noun, call->verb->verb, key);
	}
	return (int)i;
}

int host_progress(struct host_call *call, uint64_t done, uint64_t total, const char *what)
{
	if (call->progress)
		call->progress(call->progress_arg, done, total, what);
	if (call->task)
		return host_task_progress(call->task, done, total, what);
	return 0;
}

int host_split_name(const char *name, char volume[64], const char **path)
{
	const char *colon = strchr(name, ':');
	size_t n = colon ? (size_t)(colon - name) : 0;

	if (!colon || n == 0 || n > 63 || colon[1] != '/')
		return fail(-EINVAL, "%s: not an object on a volume; write VOLUME:/path", name);
	memcpy(volume, name, n);
	volume[n] = 0;
	*path = colon + 1;
	return 0;
}

json_t *host_json_time(uint64_t wall_ns)
{
	char text[40];

	if (!wall_ns)
		return json_null();
	clock_rfc3339(wall_ns, text, sizeof(text));
	return json_string(text);
}

json_t *host_json_known(const struct cfs_stat *st, uint64_t value)
{
	return st->created_ns ? json_integer((json_int_t)value) : json_null();
}

json_t *host_error_json(int err)
{
	struct err_info info;
	int code = err_exit_code(err);
	json_t *e;

	err_save(&info, err);
	e = json_pack("{s:i, s:s, s:s+}", "code", code, "name", err_exit_name(code), "message",
		      info.message, "");
	if (!e) /* words that are not UTF-8: a name from a disk or from a user */
		e = json_pack("{s:i, s:s, s:s}", "code", code, "name", err_exit_name(code),
			      "message", "the error's text is not UTF-8; see the daemon's log");
	if (info.object[0])
		json_object_set_new(e, "object", json_string(info.object));
	if (info.holder[0])
		json_object_set_new(e, "holder", json_string(info.holder));
	return e;
}

unsigned host_http_status(int err)
{
	switch (err_exit_code(err)) {
	case 0:
		return 200;
	case 2:
		return 400;
	case 3:
		return 404;
	case 4:
		return 409;
	case 5:
		return 403;
	case 6:
		return 507;
	case 8:
		return 503;
	case 9:
		return 504;
	default:
		return 500;
	}
}
