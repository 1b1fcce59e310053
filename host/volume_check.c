// SPDX-License-Identifier: Apache-2.0
/* volume_check.c: `volume check` and `debug dump`, on LUNs, in the daemon or in the command line. */
#include "host/volume.h"

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

/* More findings than that are counted, not told. */
#define FINDINGS_MAX 10000

struct found {
	struct host_call *call;
	json_t *list;
	uint64_t n;
};

static void finding(void *arg, const char *object, const char *text, bool mended)
{
	struct found *f = arg;

	if (f->n++ >= FINDINGS_MAX)
		return;
	json_array_append_new(f->list, json_pack("{s:s, s:s, s:b}", "object", object, "text", text,
						 "mended", mended));
	(void)host_progress(f->call, f->n, 0, text);
}

/* A mounted volume's name is refused by a word of its own: check is for unmounted ones. */
static int refuse_mounted(struct host_call *call, const char *name)
{
	struct host_volume *v;

	if (!call->host->volumes || strchr(name, '/') ||
	    host_volume_get(call->host->volumes, name, &v) < 0) {
		err_clear();
		return 0;
	}
	host_volume_put(v);
	(void)fail(-EBUSY, "volume %s: mounted here; unmount it on all hosts, then check its LUNs",
		   name);
	err_object("%s", name);
	err_holder("%s", call->host->name);
	return -EBUSY;
}

static int volume_check(struct host_call *call)
{
	const char *names[HOST_EXTENTS_MAX];
	struct host_lun *luns[HOST_EXTENTS_MAX];
	struct blk *blks[HOST_EXTENTS_MAX];
	struct found f = {call, NULL, 0};
	struct cfs_check_options options = {
		.repair = host_arg_bool(call, "repair"),
		.host_name = call->host->name,
		.finding = finding,
		.arg = &f,
	};
	struct cfs_check_result r = {0};
	int n = host_arg_list(call, "luns", names, HOST_EXTENTS_MAX), rc;

	if (n <= 0)
		return n < 0 ? n : fail(-EINVAL, "volume check: name its LUNs");
	rc = refuse_mounted(call, names[0]);
	if (rc == 0)
		rc = host_luns_hold(call, names, (unsigned)n, false, luns, blks);
	if (rc < 0)
		return rc;
	f.list = json_array();
	rc = cfs_check(blks, (unsigned)n, &options, &r);
	host_luns_release(call, luns, (unsigned)n, false);
	if (rc < 0) {
		json_decref(f.list);
		return rc;
	}
	call->result = json_pack("{s:b, s:I, s:I, s:I, s:I, s:I, s:o}", "clean",
				 r.findings == r.mended, "findings_count", (json_int_t)r.findings,
				 "mended", (json_int_t)r.mended, "inodes", (json_int_t)r.inodes,
				 "directories", (json_int_t)r.directories, "units_used",
				 (json_int_t)r.units_used, "findings", f.list);
	return 0;
}

static void dump_line(void *arg, const char *text)
{
	json_t *line = json_string(text);

	json_array_append_new(arg, line ? line : json_string("(not UTF-8)"));
}

static int debug_dump(struct host_call *call)
{
	struct host_lun *luns[HOST_EXTENTS_MAX];
	struct blk *blks[HOST_EXTENTS_MAX];
	struct host_volume *v = NULL;
	const char *name;
	uint64_t block;
	unsigned n = 1;
	json_t *lines;
	int rc = host_arg_need(call, "name", &name);

	if (rc == 0)
		rc = host_arg_u64(call, "block", UINT64_MAX, &block);
	if (rc < 0)
		return rc;
	if (call->host->volumes && !strchr(name, '/') &&
	    host_volume_get(call->host->volumes, name, &v) == 0) {
		n = host_volume_luns(v, luns);
		for (unsigned i = 0; i < n; i++)
			blks[i] = host_lun_blk(luns[i]);
	} else {
		rc = host_luns_hold(call, &name, 1, true, luns, blks);
	}
	if (rc < 0)
		return rc;
	lines = json_array();
	rc = cfs_dump(blks, n, block, dump_line, lines);
	if (v)
		host_volume_put(v);
	else
		host_luns_release(call, luns, n, true);
	if (rc == 0)
		call->result = json_pack("{s:O}", "lines", lines);
	json_decref(lines);
	return rc;
}

const struct host_verb host_volume_check_verbs[] = {
	{"volume", "check", HOST_CHANGES | HOST_TASK | HOST_OFFLINE, volume_check},
	{"debug", "dump", HOST_OFFLINE, debug_dump},
	{NULL, NULL, 0, NULL},
};
