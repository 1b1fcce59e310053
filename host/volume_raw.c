// SPDX-License-Identifier: Apache-2.0
/*
 * volume_raw.c: `volume format`, in the daemon or, without one, in the command line.
 */
#include "host/lun.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/util.h"
#include "clusterfs/cfs.h"
#include "host/daemon.h"
#include "host/event.h"
#include "host/lun.h"
#include "host/verbs.h"

static int need_luns(struct host_call *call, const char **names)
{
	int n = host_arg_list(call, "luns", names, HOST_EXTENTS_MAX);

	return n == 0 ? fail(-EINVAL, "volume %s: name its LUNs", call->verb->verb) : n;
}

static int volume_format(struct host_call *call)
{
	const char *names[HOST_EXTENTS_MAX], *fence = host_arg(call, "fence");
	struct cfs_format_options options = {.overwrite = host_arg_bool(call, "overwrite")};
	struct host_lun *luns[HOST_EXTENTS_MAX];
	struct blk *blks[HOST_EXTENTS_MAX];
	int rc = host_arg_need(call, "name", &options.name), n = need_luns(call, names);

	if (rc < 0)
		return rc;
	if (n < 0)
		return n;
	if (fence && strcmp(fence, "auto") && strcmp(fence, "time"))
		return fail(-EINVAL, "--fence=%s: say auto or time", fence);
	options.fence_time = fence && !strcmp(fence, "time");
	rc = host_luns_hold(call, names, (unsigned)n, false, luns, blks);
	if (rc == -EBUSY) /* one's own mount: never overwritten, insist who may */
		return fail(-EPERM, "%s", err_message(rc));
	if (rc < 0)
		return rc;
	rc = host_progress(call, 0, 0, "writing the volume");
	if (rc == 0)
		rc = cfs_format(blks, (unsigned)n, &options);
	host_luns_release(call, luns, (unsigned)n, false);
	if (rc < 0)
		return rc;
	host_event(call->host->events, "volume", options.name, "formatted on %d LUN%s", n,
		   n > 1 ? "s" : "");
	call->result = json_pack("{s:s, s:i}", "name", options.name, "luns", n);
	return 0;
}

const struct host_verb host_volume_raw_verbs[] = {
	{"volume", "format", HOST_CHANGES | HOST_TASK | HOST_OFFLINE, volume_format},
	{NULL, NULL, 0, NULL},
};
