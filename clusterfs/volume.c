// SPDX-License-Identifier: Apache-2.0
/* volume.c: what a mounted volume says of itself, and changes of its label: grow, rename. */
#include "clusterfs/volume.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "clusterfs/group.h"
#include "clusterfs/label.h"
#include "clusterfs/lock.h"
#include "clusterfs/slot.h"
#include "clusterfs/txn.h"

#define LABEL_WAIT_MS 10000u

static void uuid_text(const uint8_t id[16], char *dst, size_t size)
{
	(void)str_format(dst, size,
			 "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x",
			 id[0], id[1], id[2], id[3], id[4], id[5], id[6], id[7], id[8], id[9],
			 id[10], id[11], id[12], id[13], id[14], id[15]);
}

/* False: nobody is there. */
static bool host_info(struct cfs *fs, unsigned slot, struct cfs_host_info *h)
{
	struct cfs_slot_view v;

	cfs_slot_view(fs, slot, &v);
	if (v.claim.state == CFS_SLOT_FREE)
		return false;
	memset(h, 0, sizeof(*h));
	h->slot = slot;
	h->epoch = le32_get(v.claim.epoch);
	cfs_text_copy(h->name, sizeof(h->name), v.claim.name, sizeof(v.claim.name));
	uuid_text(v.claim.host, h->id, sizeof(h->id));
	if (v.beat_valid)
		cfs_text_copy(h->address, sizeof(h->address), v.beat.address,
			      sizeof(v.beat.address));
	h->self = slot == fs->slot;
	h->beat_age_ms = v.moved_ms ? clock_boot_ms() - v.moved_ms : 0;
	(void)str_format(h->state, sizeof(h->state), "%s",
			 v.claim.state == CFS_SLOT_RECOVERING ? "recovering"
			 : !h->self && v.silent_beats >= 2    ? "silent"
							      : "active");
	return true;
}

unsigned cfs_hosts(struct cfs *fs, struct cfs_host_info out[64])
{
	unsigned n = 0;

	for (unsigned s = 0; s < CFS_MAX_SLOTS; s++)
		n += host_info(fs, s, &out[n]);
	return n;
}

void cfs_membership(struct cfs *fs, struct cfs_membership *out)
{
	pthread_mutex_lock(&fs->label_lock);
	memcpy(out->secret, fs->label.secret, sizeof(out->secret));
	pthread_mutex_unlock(&fs->label_lock);
	memcpy(out->volume, fs->id, sizeof(out->volume));
	out->slot = fs->slot;
	out->epoch = fs->epoch;
}

int cfs_info(struct cfs *fs, struct cfs_info *out)
{
	static const char *const fences[] = {
		[CFS_FENCE_BY_PR] = "reservations",
		[CFS_FENCE_BY_FILE] = "file",
		[CFS_FENCE_BY_TIME] = "time",
		[CFS_FENCE_NONE] = "none",
	};

	memset(out, 0, sizeof(*out));
	pthread_mutex_lock(&fs->label_lock);
	(void)str_format(out->name, sizeof(out->name), "%s", fs->name);
	uuid_text(fs->id, out->id, sizeof(out->id));
	out->extents = fs->extents;
	for (unsigned e = 0; e < fs->extents; e++) {
		const char *lun = fs->label.extent_table[e].lun;

		cfs_text_copy(out->extent_lun[e], sizeof(out->extent_lun[e]), lun,
			      sizeof(fs->label.extent_table[e].lun));
		out->extent_size[e] = fs->span[e].blocks * CFS_BLOCK;
		out->size += out->extent_size[e];
	}
	out->format_version = le32_get(fs->label.format_version);
	out->lease_ms = fs->lease_ms;
	pthread_mutex_unlock(&fs->label_lock);
	out->slot = fs->slot;
	out->epoch = fs->epoch;
	out->promised = UINT64_MAX;
	out->fence = fences[cfs_fence_kind(fs)];
	(void)str_format(out->state, sizeof(out->state), "%s",
			 clock_boot_ns() < *fs->lease_end && !fs->dead ? "mounted" : "frozen");
	out->free = cfs_groups_free_bytes(fs, &out->reclaim_pending);
	out->hosts = cfs_hosts(fs, out->host);
	return 0;
}

void cfs_names(struct cfs *fs, char *name, char *id)
{
	(void)str_format(name, 64, "%s", fs->name);
	uuid_text(fs->id, id, 40);
}

void cfs_life(const struct cfs *fs, unsigned *slot, uint32_t *epoch)
{
	*slot = fs->slot;
	*epoch = fs->epoch;
}

bool cfs_resumed(const struct cfs *fs)
{
	return fs->resumed;
}

bool cfs_life_over(struct cfs *fs, unsigned slot, uint32_t epoch)
{
	return slot < CFS_MAX_SLOTS && cfs_slot_life(fs, slot, epoch) == CFS_LIFE_DEAD;
}

bool cfs_evicted(const struct cfs *fs)
{
	return atomic_load(&fs->dead);
}

int cfs_reclaim(struct cfs *fs, uint64_t bytes, uint64_t *done)
{
	int rc = cfs_groups_reclaim(fs, bytes, done);

	return rc < 0 ? rc : cfs_commit_wait(fs);
}

int cfs_rename_volume(struct cfs *fs, const char *name)
{
	size_t n = strlen(name);
	int rc;

	if (n < 1 || n > 63)
		return fail(-EINVAL, "volume name: %zu bytes; 1 to 63 are possible", n);
	for (size_t i = 0; i < n; i++) {
		if ((uint8_t)name[i] < 0x20 || name[i] == 0x7f || name[i] == '/' || name[i] == ':')
			return fail(-EINVAL, "volume name: no '/', ':' or control characters");
	}
	rc = cfs_plain_lock(fs, CFS_LABEL_LOCK, LABEL_WAIT_MS);
	if (rc < 0)
		return rc;
	pthread_mutex_lock(&fs->label_lock);
	memset(fs->label.name, 0, sizeof(fs->label.name));
	memcpy(fs->label.name, name, n);
	rc = cfs_label_store(fs);
	if (rc == 0)
		cfs_label_take(fs, &fs->label);
	pthread_mutex_unlock(&fs->label_lock);
	cfs_plain_unlock(fs, CFS_LABEL_LOCK);
	return rc;
}
