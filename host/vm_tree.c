// SPDX-License-Identifier: Apache-2.0
/* vm_tree.c: hidden directories of VMs that are being made or deleted, and what is left of them. */
#include "host/vm_tree.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <jansson.h>

#include "base/err.h"
#include "base/log.h"
#include "base/util.h"
#include "clusterfs/cfs.h"
#include "host/daemon.h"
#include "host/event.h"
#include "host/vm_def.h"
#include "host/volume.h"

/* Slot and epoch of the host's life, the daemon's start, a random number: all hexadecimal. */
#define HIDDEN_FORMAT "-%02x-%08" PRIx32 "-%016" PRIx64 "-%016" PRIx64

char *vm_hidden_path(const struct host *host, struct cfs *fs, const char *what)
{
	uint64_t token;
	uint32_t epoch;
	unsigned slot;

	cfs_life(fs, &slot, &epoch);
	random_bytes(&token, sizeof(token));
	return xasprintf(VM_DIR "/.%s" HIDDEN_FORMAT, what, slot, epoch, host->started_ns, token);
}

static int first_name(void *arg, const char *name, const struct cfs_stat *stat)
{
	(void)stat;
	*(char **)arg = xstrdup(name);
	return 1;
}

static int gone_is_fine(int rc)
{
	if (rc == -ENOENT)
		err_clear();
	return rc == -ENOENT ? 0 : rc;
}

int vm_tree_delete(struct cfs *fs, const char *path)
{
	for (;;) {
		cleanup_free char *name = NULL, *part = NULL;
		int rc = cfs_readdir(fs, path, first_name, &name);

		if (rc < 0)
			return gone_is_fine(rc);
		if (!name)
			return gone_is_fine(cfs_unlink(fs, path));
		part = xasprintf("%s/%s", path, name);
		rc = gone_is_fine(cfs_unlink(fs, part));
		if (rc < 0)
			return rc;
	}
}

/* --- leftovers ------------------------------------------------------------------------------------ */

struct search {
	const struct host *host;
	struct cfs *fs;
	json_t *names;
	bool again; /* work of another host is not over, or something failed */
};

/* A name of our own daemon is work under way; one of a host that lives is that host's to remove. */
static bool is_over(struct search *s, const char *name)
{
	uint64_t started, token;
	uint32_t epoch, our_epoch;
	unsigned slot, our_slot;
	const char *life = strchr(name, '-');

	if (name[0] != '.' || !life ||
	    sscanf(life, "-%2x-%8" SCNx32 "-%16" SCNx64 "-%16" SCNx64, &slot, &epoch, &started,
		   &token) != 4)
		return false;
	cfs_life(s->fs, &our_slot, &our_epoch);
	if (slot == our_slot && epoch == our_epoch)
		return started != s->host->started_ns;
	if (cfs_life_over(s->fs, slot, epoch))
		return true;
	s->again = true;
	return false;
}

static int find_leftover(void *arg, const char *name, const struct cfs_stat *stat)
{
	struct search *s = arg;

	if (stat->kind == CFS_DIR && is_over(s, name))
		json_array_append_new(s->names, json_string(name));
	return 0;
}

bool vm_tree_clean(struct host *host, struct host_volume *volume)
{
	struct search s = {host, host_volume_fs(volume), json_array(), false};
	json_t *name;
	size_t i;
	int rc;

	rc = gone_is_fine(cfs_readdir(s.fs, VM_DIR, find_leftover, &s));
	s.again |= rc < 0;
	json_array_foreach(s.names, i, name)
	{
		cleanup_free char *path = xasprintf(VM_DIR "/%s", json_string_value(name));

		if (host_volumes_ending(host->volumes)) {
			s.again = true;
			break;
		}
		rc = vm_tree_delete(s.fs, path);
		s.again |= rc < 0;
		if (rc < 0)
			log_warn("host", "volume %s: %s stays: %s", host_volume_name(volume), path,
				 err_message(rc));
		else
			host_event(host->events, "volume", host_volume_name(volume),
				   "%s removed: what a daemon that died had begun", path);
	}
	json_decref(s.names);
	err_clear();
	return !s.again;
}
