// SPDX-License-Identifier: Apache-2.0
/* status.c: `status`: one screen: hosts, volumes, paths, space, VMs, and what is wrong. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/util.h"
#include "clusterfs/cfs.h"
#include "host/daemon.h"
#include "host/lun.h"
#include "host/verbs.h"
#include "host/vm.h"
#include "host/volume.h"

struct status {
	struct host *host;
	json_t *hosts, *volumes, *alarms;
};

static void alarm_add(json_t *alarms, const char *object, const char *text)
{
	json_array_append_new(alarms, json_pack("{s:s, s:s}", "object", object, "text", text));
}

static json_t *paths_of(struct status *s, struct host_volume *v)
{
	struct host_lun *luns[HOST_EXTENTS_MAX];
	unsigned n = host_volume_luns(v, luns);
	json_t *list = json_array();

	for (unsigned i = 0; i < n; i++) {
		json_t *path = host_lun_path(s->host->luns, luns[i]);
		const char *state = json_string_value(json_object_get(path, "state"));

		if (strcmp(state, "up"))
			alarm_add(s->alarms, host_lun_name(luns[i]), state);
		json_array_append_new(list, path);
	}
	return list;
}

static json_t *count_or_null(uint64_t n)
{
	return n == UINT64_MAX ? json_null() : json_integer((json_int_t)n);
}

static int one_volume(void *arg, struct host_volume *v)
{
	struct status *s = arg;
	struct cfs_info *i = xcalloc(1, sizeof(*i));
	int rc = host_volume_info(v, i);

	if (rc < 0) {
		alarm_add(s->alarms, host_volume_name(v), err_message(rc));
		free(i);
		return 0;
	}
	json_array_append_new(
		s->volumes,
		json_pack("{s:s, s:s, s:s, s:I, s:o, s:o, s:o, s:o, s:o}", "name", i->name, "state",
			  i->state, "redirected", "no", "size", (json_int_t)i->size, "free",
			  count_or_null(i->free), "used",
			  count_or_null(i->free == UINT64_MAX ? i->free : i->size - i->free),
			  "promised", count_or_null(i->promised), "reclaim_pending",
			  count_or_null(i->reclaim_pending), "paths", paths_of(s, v)));
	if (strcmp(i->state, "mounted"))
		alarm_add(s->alarms, i->name, "frozen: its lease does not run; see volume paths");
	if (i->free < i->size / 20)
		alarm_add(s->alarms, i->name, "less than 5 % is free; grow it or delete disks");
	if (i->fence && !strcmp(i->fence, "none"))
		alarm_add(s->alarms, i->name,
			  "unfenced: a dead host is taken over only when a person says so");
	for (unsigned k = 0; k < i->hosts; k++) {
		json_array_append_new(s->hosts, json_pack("{s:s, s:s, s:s, s:I, s:s}", "name",
							  i->host[k].name, "volume", i->name,
							  "state", i->host[k].state, "beat_age_ms",
							  (json_int_t)i->host[k].beat_age_ms,
							  "address", i->host[k].address));
		if (strcmp(i->host[k].state, "active"))
			alarm_add(s->alarms, i->host[k].name, i->host[k].state);
	}
	free(i);
	return 0;
}

static int status(struct host_call *call)
{
	struct status s = {call->host, json_array(), json_array(), json_array()};
	json_t *vms = host_vms_running(call->host->vms), *missing = json_array(), *x;
	size_t i;

	(void)host_volumes_each(call->host->volumes, one_volume, &s);
	host_volumes_missing(call->host->volumes, missing);
	json_array_foreach(missing, i, x)
	{
		json_array_append(s.volumes, x);
		alarm_add(s.alarms, json_string_value(json_object_get(x, "name")),
			  json_string_value(json_object_get(x, "error")));
	}
	json_decref(missing);
	json_array_foreach(vms, i, x)
	{
		const char *name = json_string_value(json_object_get(x, "name"));
		const char *state = json_string_value(json_object_get(x, "state"));
		const char *why = json_string_value(json_object_get(x, "why"));

		if (why || strcmp(state, "running"))
			alarm_add(s.alarms, name, strcmp(state, "running") ? state : why);
	}
	call->result = json_pack("{s:s, s:o, s:o, s:o, s:o}", "host", call->host->name, "hosts",
				 s.hosts, "volumes", s.volumes, "vms", vms, "alarms", s.alarms);
	return 0;
}

const struct host_verb host_status_verbs[] = {
	{"status", "show", 0, status},
	{NULL, NULL, 0, NULL},
};
