// SPDX-License-Identifier: Apache-2.0
/*
 * A request to the API from bytes: "METHOD ADDRESS\n" and a body. What parses has its arguments
 * read in every way; whatever fails becomes an error that is JSON. Verbs are not run.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/util.h"
#include "blockdev/fault.h"
#include "host/api.h"
#include "host/call.h"
#include "host/task.h"
#include "host/vm_def.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_error(int rc)
{
	json_t *e;
	char *text;

	if (rc >= 0)
		return;
	MUST(host_http_status(rc) >= 400);
	e = host_error_json(rc);
	text = json_dumps(e, 0);
	MUST(text);
	free(text);
	json_decref(e);
}

static void read_arguments(struct host_call *call)
{
	const char *key, *list[8], *text, *path;
	struct fault fault;
	char volume[64];
	uint64_t n;
	json_t *value;

	json_object_foreach(call->args, key, value)
	{
		check_error(host_arg_u64(call, key, 7, &n));
		check_error(host_arg_list(call, key, list, ARRAY_SIZE(list)));
		(void)host_arg_bool(call, key);
		if (host_arg_need(call, key, &text) < 0)
			continue;
		if (host_split_name(text, volume, &path) == 0)
			MUST(strlen(volume) > 0 && path[0] == '/');
		check_error(vm_check_name(text));
		check_error(fault_parse(&fault, text, text, text, text, text));
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct host_call *call = xcalloc(1, sizeof(*call));
	char method[16] = "POST", url[128] = "";
	const uint8_t *line = memchr(data, '\n', size), *space;
	size_t head = line ? (size_t)(line - data) : 0;
	int rc;

	space = memchr(data, ' ', head);
	if (space && (size_t)(space - data) < sizeof(method)) {
		memcpy(method, data, (size_t)(space - data));
		method[space - data] = 0;
		(void)str_format(url, sizeof(url), "%.*s", (int)(line - space - 1),
				 (const char *)space + 1);
	}
	call->body_fd = call->answer_fd = -1;
	err_clear();
	rc = host_api_parse(method, url, NULL, line ? (const char *)line + 1 : "",
			    line ? size - head - 1 : 0, call);
	check_error(rc);
	if (rc == 0)
		read_arguments(call);
	host_call_free(call);
	return 0;
}
