// SPDX-License-Identifier: Apache-2.0
/* volume_verbs.c: the verbs on mounted volumes, `host list`, and the volumes' part of `status`. */
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
#include "host/peers.h"
#include "host/verbs.h"

static json_t *count_or_null(uint64_t n)
{
	return n == UINT64_MAX ? json_null() : json_integer((json_int_t)n);
}

static json_t *describe_host(const struct cfs_host_info *h)
{
	return json_pack("{s:s, s:s, s:i, s:I, s:s, s:I, s:s, s:b}", "name", h->name, "id", h->id,
			 "slot", (int)h->slot, "epoch", (json_int_t)h->epoch, "state", h->state,
			 "beat_age_ms", (json_int_t)h->beat_age_ms, "address", h->address, "self",
			 h->self);
}

json_t *host_volume_json(const struct cfs_info *i)
{
	json_t *extents = json_array(), *hosts = json_array();

	for (unsigned k = 0; k < i->extents; k++)
		json_array_append_new(extents, json_pack("{s:i, s:s, s:I}", "index", (int)k, "lun",
							 i->extent_lun[k], "size",
							 (json_int_t)i->extent_size[k]));
	for (unsigned k = 0; k < i->hosts; k++)
		json_array_append_new(hosts, describe_host(&i->host[k]));
	return json_pack("{s:s, s:s, s:I, s:o, s:o, s:o, s:s, s:s, s:i, s:i, s:I, s:I, s:o, s:o}",
			 "name", i->name, "id", i->id, "size", (json_int_t)i->size, "free",
			 count_or_null(i->free), "promised", count_or_null(i->promised),
			 "reclaim_pending", count_or_null(i->reclaim_pending), "state", i->state,
			 "fence", i->fence ? i->fence : "none", "format_version",
			 (int)i->format_version, "slot", (int)i->slot, "epoch",
			 (json_int_t)i->epoch, "lease_ms", (json_int_t)i->lease_ms, "extents",
			 extents, "hosts", hosts);
}

static int info_of(struct host_volume *v, struct cfs_info **out)
{
	*out = xcalloc(1, sizeof(**out));
	return host_volume_info(v, *out);
}

int host_volume_named(struct host_call *call, struct host_volume **out)
{
	const char *name;
	int rc = host_arg_need(call, "volume", &name);

	return rc < 0 ? rc : host_volume_get(call->host->volumes, name, out);
}

static int volume_mount(struct host_call *call)
{
	const char *names[HOST_EXTENTS_MAX];
	char name[64];
	int n = host_arg_list(call, "luns", names, HOST_EXTENTS_MAX), rc;

	if (n <= 0)
		return n < 0 ? n : fail(-EINVAL, "volume mount: name its LUNs, or the volume");
	rc = host_progress(call, 0, 0, "mounting");
	if (rc == 0)
		rc = host_volume_mount(call->host->volumes, names, (unsigned)n,
				       host_arg(call, "chap_file"),
				       host_arg_bool(call, "new_identity"), false, name);
	if (rc == 0)
		call->result = json_pack("{s:s}", "name", name);
	return rc;
}

static int volume_unmount(struct host_call *call)
{
	const char *name;
	int rc = host_arg_need(call, "volume", &name);

	return rc < 0 ? rc : host_volume_unmount(call->host->volumes, name);
}

static int list_one(void *arg, struct host_volume *v)
{
	struct cfs_info *i;
	int rc = info_of(v, &i);

	json_array_append_new(arg,
			      rc < 0 ? json_pack("{s:s, s:s, s:s}", "name", host_volume_name(v),
						 "state", "unknown", "error", err_message(rc))
				     : host_volume_json(i));
	free(i);
	return 0;
}

static int volume_list(struct host_call *call)
{
	call->result = json_array();
	(void)host_volumes_each(call->host->volumes, list_one, call->result);
	host_volumes_missing(call->host->volumes, call->result);
	return 0;
}

static int volume_show(struct host_call *call)
{
	struct host_volume *v;
	struct cfs_info *i;
	int rc = host_volume_named(call, &v);

	if (rc < 0)
		return rc;
	rc = info_of(v, &i);
	if (rc == 0)
		call->result = host_volume_json(i);
	free(i);
	host_volume_put(v);
	return rc;
}

static int volume_paths(struct host_call *call)
{
	struct host_lun *luns[HOST_EXTENTS_MAX];
	struct host_volume *v;
	int rc = host_volume_named(call, &v);
	unsigned n;

	if (rc < 0)
		return rc;
	n = host_volume_luns(v, luns);
	call->result = json_array();
	for (unsigned i = 0; i < n; i++)
		json_array_append_new(call->result, host_lun_path(call->host->luns, luns[i]));
	host_volume_put(v);
	return 0;
}

static int volume_rename(struct host_call *call)
{
	struct host_volume *v;
	const char *to;
	int rc = host_arg_need(call, "to", &to);

	if (rc == 0)
		rc = host_volume_named(call, &v);
	if (rc < 0)
		return rc;
	rc = cfs_rename_volume(host_volume_fs(v), to);
	if (rc == 0)
		rc = host_volume_remember(v);
	host_volume_put(v);
	return rc;
}

static int volume_reclaim(struct host_call *call)
{
	struct host_volume *v;
	uint64_t bytes, total = 0, done = 1;
	int rc = host_arg_u64(call, "bytes", UINT64_MAX, &bytes);

	if (rc == 0)
		rc = host_volume_named(call, &v);
	if (rc < 0)
		return rc;
	/* In parts, so that it can be cancelled and seen. */
	while (rc == 0 && done && total < bytes) {
		rc = cfs_reclaim(host_volume_fs(v), MIN(bytes - total, GiB), &done);
		total += done;
		if (rc == 0)
			rc = host_progress(call, total, 0, "returned to the array");
	}
	if (rc == 0)
		call->result = json_pack("{s:I}", "reclaimed", (json_int_t)total);
	host_volume_put(v);
	return rc;
}

static int host_list_one(void *arg, struct host_volume *v)
{
	struct host_call *call = arg;
	struct cfs_host_info hosts[64];
	unsigned n = cfs_hosts(host_volume_fs(v), hosts);
	char name[64], id[40];

	cfs_names(host_volume_fs(v), name, id);
	for (unsigned k = 0; k < n; k++) {
		json_t *h = describe_host(&hosts[k]);

		json_object_set_new(h, "volume", json_string(name));
		host_peers_describe(call->host->peers, host_volume_fs(v), &hosts[k], h);
		json_array_append_new(call->result, h);
	}
	return 0;
}

static int host_list(struct host_call *call)
{
	call->result = json_array();
	return host_volumes_each(call->host->volumes, host_list_one, call);
}

const struct host_verb host_volume_verbs[] = {
	{"volume", "mount", HOST_CHANGES | HOST_TASK, volume_mount},
	{"volume", "unmount", HOST_CHANGES | HOST_TASK, volume_unmount},
	{"volume", "list", 0, volume_list},
	{"volume", "show", 0, volume_show},
	{"volume", "paths", 0, volume_paths},
	{"volume", "rename", HOST_CHANGES, volume_rename},
	{"volume", "reclaim", HOST_CHANGES | HOST_TASK, volume_reclaim},
	{"host", "list", 0, host_list},
	{NULL, NULL, 0, NULL},
};
