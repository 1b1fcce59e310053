// SPDX-License-Identifier: Apache-2.0
/* fault.c: the `fault` verbs: drills, on LUNs this daemon has open (blockdev/fault.h). */
#include "host/verbs.h"

#include <errno.h>

#include "base/err.h"
#include "base/util.h"
#include "blockdev/fault.h"
#include "host/daemon.h"
#include "host/event.h"

#define FAULTS_MAX 128

static const char nothing_yet[] =
	"no LUN of this name or id is open here now: it strikes when one is; see perilune lun list";

static int fault_add_verb(struct host_call *call)
{
	struct fault fault;
	const char *target, *kind;
	char line[400];
	unsigned id = 0;
	int rc = host_arg_need(call, "target", &target);

	if (rc == 0)
		rc = host_arg_need(call, "kind", &kind);
	if (rc == 0)
		rc = fault_parse(&fault, target, kind, host_arg(call, "op"),
				 host_arg(call, "range"), host_arg(call, "for"));
	if (rc == 0)
		rc = fault_add(&fault, &id);
	if (rc < 0)
		return rc;
	if (fault_print(&fault, line, sizeof(line)) < 0)
		line[0] = 0;
	host_event(call->host->events, "fault", target, "added: %s", line);
	call->result = json_pack("{s:i, s:s}", "id", (int)id, "fault", line);
	if (!fault_concerns_any(&fault))
		json_object_set_new(call->result, "note", json_string(nothing_yet));
	return 0;
}

static int fault_list_verb(struct host_call *call)
{
	struct fault *faults = xcalloc(FAULTS_MAX, sizeof(*faults));
	unsigned n = fault_list(faults, FAULTS_MAX);
	char line[400];

	call->result = json_array();
	for (unsigned i = 0; i < n; i++) {
		if (fault_print(&faults[i], line, sizeof(line)) < 0)
			line[0] = 0;
		json_array_append_new(call->result,
				      json_pack("{s:i, s:s, s:s, s:I}", "id", (int)faults[i].id,
						"target", faults[i].target, "fault", line, "hits",
						(json_int_t)faults[i].hits));
	}
	util_free(&faults);
	return 0;
}

static int fault_clear_verb(struct host_call *call)
{
	uint64_t id;
	int rc = host_arg_u64(call, "id", 0, &id);

	if (rc == 0 && id > UINT32_MAX)
		rc = fail(-ENOENT, "fault %llu: there is none", (unsigned long long)id);
	if (rc == 0)
		rc = fault_clear((unsigned)id);
	if (rc == 0)
		host_event(call->host->events, "fault", "-", "cleared %s", id ? "one" : "all");
	return rc;
}

const struct host_verb host_fault_verbs[] = {
	{"fault", "add", HOST_CHANGES, fault_add_verb},
	{"fault", "list", HOST_QUICK, fault_list_verb},
	{"fault", "clear", HOST_CHANGES, fault_clear_verb},
	{NULL, NULL, 0, NULL},
};
