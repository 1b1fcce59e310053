// SPDX-License-Identifier: Apache-2.0
/* volume_locks.c: `volume locks`: who holds what, as this host knows it. */
#include "base/err.h"
#include "clusterfs/cfs.h"
#include "host/daemon.h"
#include "host/verbs.h"
#include "host/volume.h"

static void one(void *arg, const struct cfs_lock_info *l)
{
	json_t *d = json_pack("{s:I, s:I, s:s, s:s, s:s, s:b}", "block", (json_int_t)l->vbn,
			      "object", (json_int_t)l->object, "what", l->what, "mode", l->mode,
			      "holder", l->holder, "wanted", l->wanted);

	if (d)
		json_array_append_new(arg, d);
}

static int volume_locks(struct host_call *call)
{
	struct host_volume *v;
	const char *name;
	int rc = host_arg_need(call, "volume", &name);

	if (rc == 0)
		rc = host_volume_get(call->host->volumes, name, &v);
	if (rc < 0)
		return rc;
	call->result = json_array();
	rc = cfs_locks_list(host_volume_fs(v), one, call->result);
	host_volume_put(v);
	return rc;
}

const struct host_verb host_volume_locks_verbs[] = {
	{"volume", "locks", 0, volume_locks},
	{NULL, NULL, 0, NULL},
};
