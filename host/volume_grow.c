// SPDX-License-Identifier: Apache-2.0
/* volume_grow.c: `volume grow`: larger LUNs, or more of them. */
#include <errno.h>
#include <stdlib.h>

#include "base/err.h"
#include "base/util.h"
#include "blockdev/blk.h"
#include "clusterfs/cfs.h"
#include "host/daemon.h"
#include "host/event.h"
#include "host/lun.h"
#include "host/verbs.h"
#include "host/volume.h"

static int volume_grow(struct host_call *call)
{
	const char *names[HOST_EXTENTS_MAX];
	struct host_lun *luns[HOST_EXTENTS_MAX], *old[HOST_EXTENTS_MAX];
	struct blk *blks[HOST_EXTENTS_MAX];
	struct host_volume *v;
	struct cfs_info *i = NULL;
	unsigned olds;
	int n = host_arg_list(call, "luns", names, HOST_EXTENTS_MAX);
	int rc = n < 0 ? n : host_volume_named(call, &v);

	if (rc < 0)
		return rc;
	olds = host_volume_luns(v, old);
	for (unsigned k = 0; k < olds && rc == 0; k++)
		rc = blk_rescan(host_lun_blk(old[k]));
	if (rc == 0)
		rc = host_luns_hold(call, names, (unsigned)n, false, luns, blks);
	if (rc < 0)
		goto out;
	rc = cfs_grow(host_volume_fs(v), blks, (unsigned)n);
	if (rc < 0) {
		struct err_info why;

		err_save(&why, rc);
		host_luns_release(call, luns, (unsigned)n, false);
		rc = err_restore(&why);
	} else {
		rc = host_volume_add_luns(v, luns, (unsigned)n);
	}
	if (rc == 0)
		rc = cfs_info(host_volume_fs(v), i = xcalloc(1, sizeof(*i)));
	if (rc == 0) {
		call->result = host_volume_json(i);
		host_event(call->host->events, "volume", i->name, "grew to %llu bytes",
			   (unsigned long long)i->size);
	}
	free(i);
out:
	host_volume_put(v);
	return rc;
}

const struct host_verb host_volume_grow_verbs[] = {
	{"volume", "grow", HOST_CHANGES | HOST_TASK, volume_grow},
	{NULL, NULL, 0, NULL},
};
