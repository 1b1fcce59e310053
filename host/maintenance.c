// SPDX-License-Identifier: Apache-2.0
/*
 * maintenance.c: `host maintenance on`: no VM starts here or comes here any more, and those that run leave, some
 * at once, each as a `vm migrate` task of its own, to whichever member of its volume takes it. One that is on its way
 * to here is refused when its guest is to come, and waited for: it may be past that. It lasts until `off`, over
 * restarts.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/util.h"
#include "clusterfs/cfs.h"
#include "host/daemon.h"
#include "host/event.h"
#include "host/task.h"
#include "host/verbs.h"
#include "host/vm.h"
#include "host/volume.h"

#define FILE_NAME	 "maintenance"
#define PARALLEL_DEFAULT 2
#define PARALLEL_MAX	 8
#define LOOK_MS		 100
#define END_MS		 1000 /* one that could not be moved because it ends is gone within that, mostly */
#define TARGETS_MAX	 64
#define NAME_TEXT	 170
#define BY_HAND \
	"; by hand it may go: vm migrate --max-downtime, --quick or --postcopy" /* it writes too fast */

struct guest {
	char name[NAME_TEXT]; /* VOLUME:NAME */
	char to[TARGETS_MAX][64];
	unsigned targets, next;
	uint64_t task;	    /* 0: none under way */
	uint64_t failed_ms; /* when the last one did; 0: none */
	bool over, moved;
	bool gone; /* it has ended meanwhile */
	char why[360];
};

struct emptying {
	struct host_call *call;
	struct guest *guest;
	unsigned n, running, done;
	uint64_t parallel;
};

void host_maintenance_load(struct host *host)
{
	char text[8];

	host->maintenance = host_state_read(&host->state, FILE_NAME, text, sizeof(text)) == 0 &&
			    !strcmp(text, "on");
	err_clear();
}

int host_maintenance_check(struct host *host)
{
	return host->maintenance
		       ? fail(-EPERM, "host %s: is in maintenance; perilune host maintenance off",
			      host->name)
		       : 0;
}

static int store(struct host *host, bool on)
{
	int rc = host_state_write(&host->state, FILE_NAME, on ? "on\n" : "off\n", 0600);

	if (rc < 0)
		return rc;
	if (host->maintenance != on)
		host_event(host->events, "host", host->name, "maintenance %s", on ? "on" : "off");
	host->maintenance = on;
	return 0;
}

/* --- where to ----------------------------------------------------------------------------------------- */

/* Members of its volume, each VM beginning at another one. */
static void find_targets(struct host *host, struct guest *g, const char *volume, unsigned first)
{
	struct cfs_host_info *hosts = xcalloc(64, sizeof(*hosts));
	struct host_volume *v;
	unsigned n;

	if (host_volume_get(host->volumes, volume, &v) < 0) {
		free(hosts);
		return;
	}
	n = cfs_hosts(host_volume_fs(v), hosts);
	for (unsigned i = 0; i < n; i++) {
		const struct cfs_host_info *h = &hosts[(i + first) % n];

		if (!h->self && h->address[0] && !strcmp(h->state, "active"))
			(void)str_format(g->to[g->targets++], sizeof(g->to[0]), "%s", h->id);
	}
	host_volume_put(v);
	free(hosts);
}

/* "VOLUME:NAME" of one of host_vms_running. */
static void vm_text(const json_t *vm, char dst[NAME_TEXT])
{
	(void)str_format(dst, NAME_TEXT, "%s:%s", json_string_value(json_object_get(vm, "volume")),
			 json_string_value(json_object_get(vm, "name")));
}

static void find_guests(struct emptying *e)
{
	json_t *list = host_vms_running(e->call->host->vms), *vm;
	size_t i;

	e->guest = xcalloc(json_array_size(list) + 1, sizeof(*e->guest));
	json_array_foreach(list, i, vm)
	{
		const char *volume = json_string_value(json_object_get(vm, "volume"));
		struct guest *g = &e->guest[e->n++];

		vm_text(vm, g->name);
		find_targets(e->call->host, g, volume, (unsigned)i);
		(void)str_format(g->why, sizeof(g->why),
				 "no other host of volume %s can be reached", volume);
	}
	json_decref(list);
}

/* --- one VM ------------------------------------------------------------------------------------------- */

static int begin(struct emptying *e, struct guest *g)
{
	struct host_call *call = xcalloc(1, sizeof(*call));
	int rc;

	call->host = e->call->host;
	call->verb = host_verb_find("vm", "migrate");
	call->args = json_pack("{s:s, s:s}", "name", g->name, "to", g->to[g->next++]);
	call->body_fd = call->answer_fd = -1;
	call->uid = e->call->uid;
	call->gid = e->call->gid;
	rc = host_task_start(call->host->tasks, call, &g->task);
	if (rc < 0) {
		host_call_free(call);
		g->task = 0;
	} else {
		e->running++;
	}
	return rc;
}

static void look(struct emptying *e, struct guest *g)
{
	json_t *task = NULL, *result, *error;
	const char *state, *why, *name;

	if (host_tasks_show(e->call->host->tasks, g->task, &task) < 0)
		return;
	state = json_string_value(json_object_get(task, "state"));
	if (state && strcmp(state, "queued") && strcmp(state, "running")) {
		g->task = 0;
		e->running--;
		result = json_object_get(task, "result"); /* also when it does not run there yet */
		g->moved = !strcmp(state, "done") || json_object_get(result, "to");
		error = json_object_get(task, "error");
		why = json_string_value(json_object_get(error, "message"));
		name = json_string_value(json_object_get(error, "name"));
		g->failed_ms = clock_boot_ms();
		if (why)
			(void)str_format(g->why, sizeof(g->why), "%.280s%s", why,
					 name && !strcmp(name, "timed-out") ? BY_HAND : "");
	}
	json_decref(task);
}

static bool is_here(struct emptying *e, const struct guest *g)
{
	json_t *list = host_vms_running(e->call->host->vms), *vm;
	bool here = false;
	size_t i;

	json_array_foreach(list, i, vm)
	{
		char other[NAME_TEXT];

		vm_text(vm, other);
		here |= !strcmp(other, g->name);
	}
	json_decref(list);
	return here;
}

static void advance(struct emptying *e, struct guest *g)
{
	if (g->task)
		look(e, g);
	if (g->task || g->over)
		return;
	if (!g->moved && g->failed_ms && !g->gone)
		g->gone = !is_here(e, g);
	if (!g->moved && !g->gone && g->failed_ms && clock_boot_ms() < g->failed_ms + END_MS)
		return;
	if (g->moved || g->gone || g->next == g->targets) {
		g->over = true;
		e->done++;
	} else if (e->running < e->parallel) {
		(void)begin(e, g);
	}
}

/* --- all ---------------------------------------------------------------------------------------------- */

/* How far it is; < 0: it is to end. */
static int progress(struct host_call *call, uint64_t done, uint64_t total, const char *what)
{
	if (!call->host->maintenance)
		return fail(-ECANCELED, "host %s: somebody said host maintenance off",
			    call->host->name);
	return host_progress(call, done, total, what);
}

/*
 * One that comes is one of those that run here, or is not, before these are counted; one that has left may need what
 * is here of it still.
 */
static int await_others(struct host_call *call)
{
	char what[64];
	unsigned n;
	int rc = 0;

	while (rc == 0 && (n = host_vms_between(call->host->vms)) > 0) {
		(void)str_format(what, sizeof(what), "%u VMs are on their way", n);
		rc = progress(call, 0, n, what);
		if (rc == 0)
			sleep_ms(LOOK_MS);
	}
	return rc;
}

static int empty(struct emptying *e)
{
	struct err_info why;
	char what[64];
	int rc = 0;

	while (rc == 0 && e->done < e->n) {
		for (unsigned i = 0; i < e->n; i++)
			advance(e, &e->guest[i]);
		(void)str_format(what, sizeof(what), "%u VMs are leaving", e->n - e->done);
		rc = progress(e->call, e->done, e->n, what);
		if (rc == 0 && e->done < e->n)
			sleep_ms(LOOK_MS);
	}
	if (rc == 0)
		return 0;
	err_save(&why, rc);
	for (unsigned i = 0; i < e->n; i++)
		if (e->guest[i].task)
			(void)host_tasks_cancel(e->call->host->tasks, e->guest[i].task);
	return err_restore(&why);
}

static int report(struct emptying *e)
{
	json_t *moved = json_array();
	const struct guest *left = NULL;
	unsigned n = 0;

	for (unsigned i = 0; i < e->n; i++) {
		if (e->guest[i].moved) {
			json_array_append_new(moved, json_string(e->guest[i].name));
			continue;
		}
		if (e->guest[i].gone)
			continue;
		left = &e->guest[i];
		n++;
	}
	e->call->result = json_pack("{s:s, s:o}", "maintenance", "on", "moved", moved);
	return n ? fail(-EBUSY, "%u VMs are still here; vm %s: %s", n, left->name, left->why) : 0;
}

static int host_maintenance(struct host_call *call)
{
	struct emptying e = {.call = call};
	const char *state;
	int rc = host_arg_need(call, "state", &state);
	bool on = rc == 0 && !strcmp(state, "on");

	if (rc == 0 && !on && strcmp(state, "off"))
		rc = fail(-EINVAL, "host maintenance: on or off, not %s", state);
	if (rc == 0)
		rc = host_arg_u64(call, "parallel", PARALLEL_DEFAULT, &e.parallel);
	if (rc == 0 && (e.parallel < 1 || e.parallel > PARALLEL_MAX))
		rc = fail(-EINVAL, "--parallel: 1 to %d", PARALLEL_MAX);
	if (rc == 0 && on && atomic_exchange(&call->host->emptying, true))
		return fail(-EBUSY,
			    "host %s: is being emptied already; perilune task list tells how far",
			    call->host->name);
	if (rc == 0)
		rc = store(call->host, on);
	if (rc == 0 && !on)
		call->result = json_pack("{s:s, s:[]}", "maintenance", "off", "moved");
	if (!on)
		return rc;
	if (rc == 0)
		rc = await_others(call);
	if (rc == 0) {
		find_guests(&e);
		rc = empty(&e);
	}
	if (rc == 0)
		rc = report(&e);
	free(e.guest);
	atomic_store(&call->host->emptying, false);
	return rc;
}

const struct host_verb host_maintenance_verbs[] = {
	{"host", "maintenance", HOST_CHANGES | HOST_TASK, host_maintenance},
	{NULL, NULL, 0, NULL},
};
