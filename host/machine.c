// SPDX-License-Identifier: Apache-2.0
/* machine.c: the verbs about this host itself: status, host check and show, tasks, events. */
#include "host/verbs.h"
#include "host/vm_cpu.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "base/util.h"
#include "host/daemon.h"
#include "host/event.h"
#include "host/peers.h"
#include "host/probe.h"
#include "host/task.h"

static void check_table(json_t *list, const struct host_probe *probes)
{
	for (const struct host_probe *p = probes; p->name; p++) {
		struct host_probe_result r;

		host_probe_run(p, &r);
		json_array_append_new(list, json_pack("{s:s, s:b, s:s, s:s}", "name", p->name, "ok",
						      r.ok, "detail", r.detail, "cure", r.cure));
	}
}

static int host_check(struct host_call *call)
{
	call->result = json_array();
	check_table(call->result, host_probes_kvm);
	check_table(call->result, host_probes_machine);
	return 0;
}

static int host_show(struct host_call *call)
{
	struct host *h = call->host;

	call->result = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:i, s:s, s:o, s:b}", "name",
				 h->name, "id", h->state.id, "state_dir", h->state.dir, "initiator",
				 h->state.initiator, "address", host_peers_address(h->peers), "vmm",
				 h->vmm, "pid", (int)getpid(), "version", PERILUNE_VERSION,
				 "started", host_json_time(h->started_ns), "maintenance",
				 (int)h->maintenance);
	return 0;
}

static int need_id(struct host_call *call, uint64_t *id)
{
	int rc = host_arg_u64(call, "id", 0, id);

	if (rc == 0 && !*id)
		rc = fail(-EINVAL, "%s %s: \"id\" is missing", call->verb->noun, call->verb->verb);
	return rc;
}

static int task_list(struct host_call *call)
{
	call->result = host_tasks_list(call->host->tasks);
	return 0;
}

static int task_show(struct host_call *call)
{
	uint64_t id;
	int rc = need_id(call, &id);

	return rc < 0 ? rc : host_tasks_show(call->host->tasks, id, &call->result);
}

static int task_cancel(struct host_call *call)
{
	uint64_t id;
	int rc = need_id(call, &id);

	return rc < 0 ? rc : host_tasks_cancel(call->host->tasks, id);
}

static int event_list(struct host_call *call)
{
	uint64_t since, limit;
	int rc = host_arg_u64(call, "since", 0, &since);

	if (rc == 0)
		rc = host_arg_u64(call, "limit", 200, &limit);
	if (rc < 0)
		return rc;
	call->result = host_events_list(call->host->events, since,
					(unsigned)MIN(limit, UINT32_MAX));
	return 0;
}

static int event_show(struct host_call *call)
{
	uint64_t id;
	int rc = need_id(call, &id);
	json_t *list, *first;

	if (rc < 0)
		return rc;
	list = host_events_list(call->host->events, id - 1, HOST_EVENTS_KEPT);
	first = json_array_get(list, 0);
	if ((uint64_t)json_integer_value(json_object_get(first, "id")) == id)
		call->result = json_incref(first);
	json_decref(list);
	return call->result ? 0
			    : fail(-ENOENT, "event %llu: there is none; see perilune event list",
				   (unsigned long long)id);
}

const struct host_verb host_host_verbs[] = {
	{"host", "check", HOST_OFFLINE, host_check},
	{"host", "show", HOST_QUICK, host_show},
	{"host", "cpu", 0, host_cpu},
	{"task", "list", HOST_QUICK, task_list},
	{"task", "show", HOST_QUICK, task_show},
	{"task", "cancel", HOST_QUICK | HOST_CHANGES, task_cancel},
	{"event", "list", HOST_QUICK, event_list},
	{"event", "show", HOST_QUICK, event_show},
	{NULL, NULL, 0, NULL},
};
