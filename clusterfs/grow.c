// SPDX-License-Identifier: Apache-2.0
/*
 * grow.c: a mounted volume becomes larger, and hosts that learn of a changed label.
 *
 * New groups are written before the label names them. Other hosts see the label's new sequence in our
 * beats and read it again. A new LUN they would have to open themselves, so one is only added while no
 * other host is mounted: we store the label and then look at the claims, a mount claims and then looks
 * at the label (cfs_label_refresh), so at least one sees the other.
 */
#include "clusterfs/slot.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/log.h"
#include "clusterfs/beat.h"
#include "clusterfs/group.h"
#include "clusterfs/label.h"
#include "clusterfs/lock.h"
#include "clusterfs/record.h"

#define LABEL_WAIT_MS 30000u

static int refuse_others(struct cfs *fs)
{
	struct cfs_claim_record c;

	for (unsigned slot = 0; slot < CFS_MAX_SLOTS; slot++) {
		int rc = slot == fs->slot ? 0
					  : cfs_record_read(fs, cfs_vbn(0, CFS_CLAIMS + slot),
							    CFS_T_CLAIM, &c);

		if (rc < 0)
			return rc;
		if (slot == fs->slot || c.state == CFS_SLOT_FREE)
			continue;
		rc = fail(
			-EBUSY,
			"volume %s: host %.63s (slot %u) has it mounted; a LUN is added while only "
			"one host is",
			fs->name, c.name, slot);
		err_holder("host %.63s", c.name);
		return rc;
	}
	return 0;
}

/* The extents that are new obey our lease and our fence before anything is written to them. */
static int enlist(struct cfs *fs, unsigned olds, unsigned n)
{
	int rc = 0;

	for (unsigned i = olds; i < n && rc == 0; i++) {
		blk_set_lease(fs->extent[i], fs->lease_end);
		rc = cfs_slot_join_extent(fs, i);
	}
	return rc;
}

/* The group that was short is whole at once, unless it is in use here: then when it is taken again. */
static void extend_short_group(struct cfs *fs, unsigned group)
{
	if (cfs_group_hold(fs, group) < 0)
		err_clear();
	else
		cfs_group_unhold(fs, group);
}

static int grow(struct cfs *fs, unsigned olds, unsigned n)
{
	struct cfs_label *next = xcalloc(1, sizeof(*next));
	unsigned short_group = cfs_group_count(fs) - 1;
	int rc = n > olds ? refuse_others(fs) : 0;

	for (unsigned i = 0; i < n && rc == 0; i++)
		rc = blk_rescan(fs->extent[i]);
	if (rc == 0)
		rc = enlist(fs, olds, n);
	pthread_mutex_lock(&fs->label_lock);
	if (rc == 0)
		rc = cfs_format_grow(next, &fs->label, fs->extent, n);
	/*
	 * Nothing is taken from the new groups before the label that names them is durable: else what
	 * was flushed there lies outside of the volume for whoever mounts it. A store that failed may
	 * have left copies: the next one must be newer than they are.
	 */
	if (rc == 0) {
		rc = cfs_label_store_next(fs->extent, n, next);
		fs->label.head.sequence = next->head.sequence;
	}
	if (rc == 0) {
		cfs_label_take(fs, next);
		(void)cfs_groups_extend(fs);
	}
	pthread_mutex_unlock(&fs->label_lock);
	free(next);
	if (rc == 0)
		extend_short_group(fs, short_group);
	if (rc == 0)
		log_info("cfs", "volume %s: grew to %u LUNs, %u groups", fs->name, n,
			 cfs_group_count(fs));
	return rc;
}

int cfs_grow(struct cfs *fs, struct blk **added, unsigned n)
{
	unsigned olds = fs->extents;
	int rc;

	if (olds + n > CFS_MAX_EXTENTS)
		return fail(-EINVAL, "volume %s: %u LUNs would be %u; at most %u are possible",
			    fs->name, n, olds + n, CFS_MAX_EXTENTS);
	for (unsigned i = 0; i < n; i++)
		fs->extent[olds + i] = added[i];
	rc = cfs_plain_lock(fs, cfs_vbn(0, CFS_LABEL_LOCK), LABEL_WAIT_MS);
	if (rc == 0) {
		int unlock;

		rc = grow(fs, olds, olds + n);
		unlock = cfs_plain_unlock(fs, cfs_vbn(0, CFS_LABEL_LOCK));
		rc = rc < 0 ? rc : unlock;
	}
	for (unsigned i = 0; rc < 0 && i < n && fs->extents == olds; i++) {
		cfs_slot_leave_extent(fs, olds + i);
		blk_set_lease(added[i], NULL);
		fs->extent[olds + i] = NULL;
	}
	return rc;
}

int cfs_label_refresh(struct cfs *fs)
{
	struct cfs_label *l = xcalloc(1, sizeof(*l));
	int rc = cfs_label_read(fs->extent[0], l);

	pthread_mutex_lock(&fs->label_lock);
	if (rc == 0 && le64_get(l->head.sequence) <= le64_get(fs->label.head.sequence))
		goto out;
	if (rc == 0 && memcmp(l->head.volume, fs->id, sizeof(fs->id)) != 0)
		rc = fail(-ESTALE, "volume %s: its LUNs were formatted anew", fs->name);
	if (rc == 0 && le16_get(l->extents) != fs->extents)
		rc = fail(-EBUSY, "volume %s: it has %u LUNs now; mount it again with all of them",
			  fs->name, le16_get(l->extents));
	for (unsigned i = 0; i < fs->extents && rc == 0; i++)
		if (blk_info(fs->extent[i])->size / CFS_BLOCK < le64_get(l->extent_table[i].blocks))
			rc = blk_rescan(fs->extent[i]);
	for (unsigned i = 0; i < fs->extents && rc == 0; i++)
		if (blk_info(fs->extent[i])->size / CFS_BLOCK < le64_get(l->extent_table[i].blocks))
			rc = fail(-EIO,
				  "LUN %s: this host does not see its new size yet; rescan it",
				  blk_info(fs->extent[i])->name);
	if (rc == 0) {
		l->extent = le16_of(0);
		cfs_label_take(fs, l);
		if (fs->groups)
			(void)cfs_groups_extend(fs);
	}
out:
	pthread_mutex_unlock(&fs->label_lock);
	free(l);
	return rc;
}
