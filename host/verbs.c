// SPDX-License-Identifier: Apache-2.0
/* verbs.c: all verbs, and calling one without the API. */
#include "host/verbs.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/util.h"
#include "host/daemon.h"
#include "host/task.h"

static const struct host_verb *const tables[] = {
	host_status_verbs,	 host_host_verbs,	  host_lun_verbs,
	host_fault_verbs,	 host_volume_verbs,	  host_volume_raw_verbs,
	host_volume_locks_verbs, host_volume_check_verbs, host_volume_grow_verbs,
	host_disk_verbs,	 host_transfer_verbs,	  host_bench_verbs,
	host_file_verbs,	 host_vm_verbs,		  host_hotplug_verbs,
	host_maintenance_verbs,	 host_vm_set_verbs,	  host_pool_verbs,
	host_vm_top_verbs,
};

const struct host_verb *host_verb_find(const char *noun, const char *verb)
{
	for (size_t i = 0; i < ARRAY_SIZE(tables); i++)
		for (const struct host_verb *v = tables[i]; v->noun; v++)
			if (!strcmp(v->noun, noun) && !strcmp(v->verb, verb))
				return v;
	return NULL;
}

int host_call_local(struct host *host, const char *noun, const char *verb, json_t *args,
		    host_progress_fn progress, void *arg, json_t **result)
{
	const struct host_verb *v = host_verb_find(noun, verb);
	struct host_call *call;
	int rc;

	*result = NULL;
	if (!v || (host->offline && !(v->flags & HOST_OFFLINE)))
		return fail(-ENOENT, "%s %s: needs a daemon", noun, verb);
	call = xcalloc(1, sizeof(*call));
	call->host = host;
	call->verb = v;
	call->args = json_incref(args);
	call->progress = progress;
	call->progress_arg = arg;
	call->uid = (uid_t)-1;
	call->gid = (gid_t)-1;
	call->body_fd = call->answer_fd = -1;
	rc = v->run(call);
	if (rc >= 0)
		*result = json_incref(call->result);
	host_call_free(call);
	return rc;
}
