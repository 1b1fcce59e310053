// SPDX-License-Identifier: Apache-2.0
/*
 * plainlock.c: the locks of the label and of the fence: taken for a moment, by one thread of a host
 * at a time (its callers see to that), nothing cached under them, nobody wishes for them.
 */
#include "clusterfs/lock.h"

#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "clusterfs/beat.h"
#include "clusterfs/label.h"
#include "clusterfs/record.h"

#define POLL_MS	       20u
#define UNLOCK_WAIT_MS 10000u

int cfs_lock_read(struct cfs *fs, uint64_t vbn, struct cfs_lock_record *out)
{
	return cfs_record_read(fs, vbn, CFS_T_LOCK, out);
}

static void name_host(struct cfs *fs, unsigned slot, uint32_t epoch, char *dst, size_t size)
{
	struct cfs_slot_view v;
	char name[64] = "?";

	if (slot < CFS_MAX_SLOTS && fs->slots) {
		cfs_slot_view(fs, slot, &v);
		if (le32_get(v.claim.epoch) == epoch)
			cfs_text_copy(name, sizeof(name), v.claim.name, sizeof(v.claim.name));
	}
	(void)str_format(dst, size, "host %s (slot %u, epoch %u)", name, slot, epoch);
}

void cfs_lock_holder(struct cfs *fs, const struct cfs_lock_record *r, char *dst, size_t size)
{
	unsigned slot = 0;

	dst[0] = 0;
	if (r->mode == CFS_LOCK_EXCLUSIVE && r->owner_kind == CFS_OWNER_VM &&
	    le64_get(r->vm) != le64_get(r->head.self)) {
		(void)str_format(dst, size, "the VM of block %llu",
				 (unsigned long long)le64_get(r->vm));
	} else if (r->mode == CFS_LOCK_EXCLUSIVE && r->state == CFS_LOCK_SAVED) {
		(void)str_format(dst, size, "the VM's saved state");
	} else if (r->mode == CFS_LOCK_EXCLUSIVE && r->state == CFS_LOCK_OFFERED) {
		name_host(fs, le16_get(r->from_slot), le32_get(r->from_epoch), dst, size);
	} else if (r->mode == CFS_LOCK_EXCLUSIVE) {
		name_host(fs, le16_get(r->owner_slot), le32_get(r->owner_epoch), dst, size);
	} else if (r->mode == CFS_LOCK_SHARED) {
		while (slot < CFS_MAX_SLOTS && !le32_get(r->readers[slot]))
			slot++;
		if (slot < CFS_MAX_SLOTS)
			name_host(fs, slot, le32_get(r->readers[slot]), dst, size);
	}
}

static bool is_ours(const struct cfs *fs, const struct cfs_lock_record *r)
{
	return r->mode == CFS_LOCK_EXCLUSIVE && le16_get(r->owner_slot) == fs->slot &&
	       le32_get(r->owner_epoch) == fs->epoch;
}

/*
 * Dead hosts' locks are broken. The fence's lock can be held by the very host that is to be fenced,
 * and by then is not dead: when its claim is ours for recovery, and its lease and its commands'
 * flight are over, it sends no more reservation commands.
 */
static bool may_break(struct cfs *fs, const struct cfs_lock_record *r, uint64_t *ours_since)
{
	unsigned slot = le16_get(r->owner_slot);
	struct cfs_slot_view v;
	uint64_t now = clock_boot_ms(), wait;

	if (slot >= CFS_MAX_SLOTS)
		return true; /* nobody can be that */
	if (cfs_slot_life(fs, slot, le32_get(r->owner_epoch)) == CFS_LIFE_DEAD)
		return true;
	cfs_slot_view(fs, slot, &v);
	if (v.claim.state != CFS_SLOT_RECOVERING || le16_get(v.claim.by_slot) != fs->slot ||
	    le32_get(v.claim.by_epoch) != fs->epoch ||
	    le32_get(v.claim.epoch) != le32_get(r->owner_epoch))
		return false;
	if (!*ours_since)
		*ours_since = now;
	wait = MAX(fs->slots->lease_ms, le32_get(v.claim.lease_ms));
	return now >= *ours_since + wait + fs->flight_ms;
}

static int try_take(struct cfs *fs, uint64_t vbn, uint64_t deadline_ns, uint64_t *ours_since)
{
	struct cfs_lock_record old, next;
	struct cfs_swap swap = {.vbn = vbn,
				.type = CFS_T_LOCK,
				.token_at = offsetof(struct cfs_lock_record, token),
				.deadline_ns = deadline_ns};
	int rc = cfs_record_read(fs, vbn, CFS_T_LOCK, &old);

	if (rc < 0)
		return rc;
	if (old.mode != CFS_LOCK_FREE && !is_ours(fs, &old) && !may_break(fs, &old, ours_since)) {
		char who[96];

		cfs_lock_holder(fs, &old, who, sizeof(who));
		rc = fail(-EBUSY, "volume %s: %s is held by %s", fs->name,
			  vbn == cfs_vbn(0, CFS_LABEL_LOCK) ? "the label" : "the fence", who);
		err_holder("%s", who);
		return rc;
	}
	next = old;
	next.mode = CFS_LOCK_EXCLUSIVE;
	next.state = CFS_LOCK_ACTIVE;
	next.owner_kind = CFS_OWNER_HOST;
	next.owner_slot = le16_of((uint16_t)fs->slot);
	next.owner_epoch = le32_of(fs->epoch);
	return cfs_record_swap(fs, &swap, &old, &next);
}

int cfs_plain_lock(struct cfs *fs, uint64_t vbn, unsigned wait_ms)
{
	uint64_t end = clock_boot_ms() + wait_ms, ours_since = 0;
	int rc = try_take(fs, vbn, end * NS_PER_MS, &ours_since);

	while ((rc == -EBUSY || rc == -EILSEQ) && clock_boot_ms() < end &&
	       !atomic_load(&fs->dead)) {
		sleep_ms(POLL_MS);
		rc = try_take(fs, vbn, end * NS_PER_MS, &ours_since);
	}
	return rc == -EILSEQ ? fail(-EBUSY, "volume %s: others were quicker", fs->name) : rc;
}

int cfs_plain_unlock(struct cfs *fs, uint64_t vbn)
{
	struct cfs_lock_record old, next;
	struct cfs_swap swap = {.vbn = vbn,
				.type = CFS_T_LOCK,
				.token_at = offsetof(struct cfs_lock_record, token),
				.deadline_ns = clock_boot_ns() + UNLOCK_WAIT_MS * NS_PER_MS};
	int rc = cfs_record_read(fs, vbn, CFS_T_LOCK, &old);

	if (rc < 0)
		return rc;
	if (!is_ours(fs, &old))
		return fail(-ESTALE, "volume %s: a lock of ours was broken", fs->name);
	next = old;
	next.mode = CFS_LOCK_FREE;
	next.state = CFS_LOCK_NONE;
	next.owner_kind = CFS_OWNER_NONE;
	next.owner_slot = le16_of(0);
	next.owner_epoch = le32_of(0);
	rc = cfs_record_swap(fs, &swap, &old, &next);
	return rc == -EILSEQ ? fail(-ESTALE, "volume %s: a lock of ours was broken", fs->name) : rc;
}
