// SPDX-License-Identifier: Apache-2.0
/*
 * lockoffer.c: a VM's own lock on its way to another host: the compare-and-writes of a hand-over.
 *
 *	{S, active}  -offer->  {T, offered, from S}  -take up->  {T, active}
 *				-take back->  {S, active}
 *				-decline->  {S, active}
 *	{S, active}  -lay down->  {nobody, saved, state}  -wake->  {T, active}
 *
 * Each one replaces exactly what was read, with a fresh token, so of two that meet one succeeds, and a late
 * copy of an attempt whose answer got lost can only miscompare (INV-BLK-2). To take back an offer of unknown
 * outcome while the record still says {S, active} is a compare-and-write too: it makes the late one miss.
 */
#include "clusterfs/locks.h"

#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "clusterfs/cfs.h"

/* Somebody else was quicker: each time the record is another one, so few are possible. */
#define ROUNDS	  16u
#define SETTLE_MS 2000u /* a guest stands still meanwhile; the caller tries again */

void cfs_saved_get(const struct cfs_lock_record *r, struct cfs_saved *out)
{
	out->inode = le64_get(r->saved);
	memcpy(out->id, r->saved_id, sizeof(out->id));
}

void cfs_saved_put(const struct cfs_saved *state, struct cfs_lock_record *r)
{
	static const struct cfs_saved none;

	state = state ? state : &none;
	r->saved = le64_of(state->inode);
	memcpy(r->saved_id, state->id, sizeof(r->saved_id));
}

static bool owned_by(const struct cfs_lock_record *r, unsigned slot, uint32_t epoch)
{
	return le16_get(r->owner_slot) == slot && le32_get(r->owner_epoch) == epoch;
}

static bool offered_by(const struct cfs_lock_record *r, unsigned slot, uint32_t epoch)
{
	return cfs_lock_is_offered(r) && le16_get(r->from_slot) == slot &&
	       le32_get(r->from_epoch) == epoch;
}

static bool runs_vm(const struct cfs_lock *l, const struct cfs_lock_record *r)
{
	return cfs_lock_is_vm(r) && le64_get(r->vm) == l->vbn;
}

static bool ours(const struct cfs_lock *l, const struct cfs_lock_record *r)
{
	return runs_vm(l, r) && r->state == CFS_LOCK_ACTIVE &&
	       owned_by(r, l->fs->slot, l->fs->epoch);
}

static void make_active(const struct cfs_lock_record *r, unsigned slot, uint32_t epoch,
			struct cfs_lock_record *next)
{
	*next = *r;
	next->state = CFS_LOCK_ACTIVE;
	next->owner_slot = le16_of((uint16_t)slot);
	next->owner_epoch = le32_of(epoch);
	next->from_slot = le16_of(0);
	next->from_epoch = le32_of(0);
	cfs_saved_put(NULL, next);
}

/* The record becomes `next`; what we know of it follows. */
static int swap(struct cfs_lock *l, const struct cfs_lock_record *r, struct cfs_lock_record *next)
{
	struct cfs_swap s = cfs_lock_swap(l, 0);
	int rc;

	s.deadline_ns = clock_boot_ns() + SETTLE_MS * NS_PER_MS;
	rc = cfs_record_swap(l->fs, &s, r, next);

	l->known = rc == 0;
	return rc;
}

static int elsewhere(struct cfs_lock *l, const struct cfs_lock_record *r)
{
	char who[128];
	int rc;

	cfs_lock_holder(l->fs, r, who, sizeof(who));
	rc = fail(-ENOENT, "it is %s%s now", who[0] ? "with " : "nobody's", who);
	err_holder("%s", who);
	return rc;
}

int cfs_lock_offer(struct cfs_lock *l, unsigned slot, uint32_t epoch)
{
	struct cfs_lock_record r = l->rec, next;
	int rc = l->known ? 0 : cfs_lock_read(l->fs, l->vbn, &r);

	if (rc == 0 && !ours(l, &r))
		rc = fail(-ESTALE, "its lock is not ours any more");
	if (rc < 0)
		return rc;
	next = r;
	next.state = CFS_LOCK_OFFERED;
	next.owner_slot = le16_of((uint16_t)slot);
	next.owner_epoch = le32_of(epoch);
	next.from_slot = le16_of((uint16_t)l->fs->slot);
	next.from_epoch = le32_of(l->fs->epoch);
	rc = swap(l, &r, &next);
	if (rc == 0)
		cfs_lock_note_held(l, CFS_LOCK_EXCLUSIVE, &next);
	return rc == -EILSEQ ? fail(-EIO, "its lock was changed by somebody else") : rc;
}

int cfs_lock_take_back(struct cfs_lock *l)
{
	const struct cfs *fs = l->fs;
	struct cfs_lock_record r, next;
	int rc = -EILSEQ;

	for (unsigned i = 0; i < ROUNDS && rc == -EILSEQ; i++) {
		rc = cfs_lock_read(l->fs, l->vbn, &r);
		if (rc < 0)
			return rc;
		if (!ours(l, &r) && !offered_by(&r, fs->slot, fs->epoch)) {
			cfs_lock_note_held(l, CFS_LOCK_FREE, NULL);
			l->known = false;
			return elsewhere(l, &r);
		}
		make_active(&r, fs->slot, fs->epoch, &next);
		rc = swap(l, &r, &next);
	}
	if (rc == 0)
		cfs_lock_note_held(l, CFS_LOCK_EXCLUSIVE, &next);
	return rc == -EILSEQ ? fail(-EIO, "its lock changes all the time") : rc;
}

int cfs_lock_take_up(struct cfs_lock *l, unsigned slot, uint32_t epoch,
		     const struct cfs_lock_record *seen, bool *as_seen)
{
	const struct cfs *fs = l->fs;
	struct cfs_lock_record r, next;
	int rc = -EILSEQ;

	*as_seen = false;
	for (unsigned i = 0; i < ROUNDS && rc == -EILSEQ; i++) {
		bool told = seen && i == 0;

		if (told)
			r = *seen;
		else
			rc = cfs_lock_read(l->fs, l->vbn, &r);
		if (!told && rc < 0)
			return rc;
		/* Ours: an attempt that was given up as unknown has come through. */
		if (!ours(l, &r) && !(runs_vm(l, &r) && offered_by(&r, slot, epoch) &&
				      owned_by(&r, fs->slot, fs->epoch))) {
			if (!told)
				return elsewhere(l, &r);
			rc = -EILSEQ;
			continue;
		}
		make_active(&r, fs->slot, fs->epoch, &next);
		rc = swap(l, &r, &next);
		*as_seen = told && rc == 0;
	}
	if (rc == -EILSEQ)
		return fail(-EIO, "its lock changes all the time");
	if (rc < 0)
		return rc;
	cfs_lock_note_held(l, CFS_LOCK_EXCLUSIVE, &next);
	/* Nothing of ours is under it: what there was, a RELEASED record lies behind. */
	l->since = atomic_load(&fs->sequence);
	l->fresh = true;
	return 0;
}

int cfs_lock_decline(struct cfs_lock *l)
{
	const struct cfs *fs = l->fs;
	struct cfs_lock_record r, next;
	int rc = -EILSEQ;

	for (unsigned i = 0; i < ROUNDS && rc == -EILSEQ; i++) {
		rc = cfs_lock_read(l->fs, l->vbn, &r);
		if (rc < 0)
			return rc;
		if (ours(l, &r))
			return fail(-EALREADY, "it is this host's already");
		if (!runs_vm(l, &r) || !cfs_lock_is_offered(&r) ||
		    !owned_by(&r, fs->slot, fs->epoch))
			return elsewhere(l, &r);
		make_active(&r, le16_get(r.from_slot), le32_get(r.from_epoch), &next);
		rc = swap(l, &r, &next);
	}
	l->known = false;
	return rc == -EILSEQ ? fail(-EIO, "its lock changes all the time") : rc;
}

/* --- saved ------------------------------------------------------------------------------------------- */

static bool is_state(const struct cfs_lock_record *r, const struct cfs_saved *state)
{
	struct cfs_saved now;

	cfs_saved_get(r, &now);
	return now.inode == state->inode && !memcmp(now.id, state->id, sizeof(now.id));
}

int cfs_lock_lay_down(struct cfs_lock *l, const struct cfs_saved *state)
{
	struct cfs_lock_record r = l->rec, next;
	int rc = l->known ? 0 : cfs_lock_read(l->fs, l->vbn, &r);

	if (rc == 0 && !ours(l, &r))
		rc = fail(-ESTALE, "its lock is not ours any more");
	if (rc < 0)
		return rc;
	make_active(&r, 0, 0, &next);
	next.state = CFS_LOCK_SAVED;
	cfs_saved_put(state, &next);
	rc = swap(l, &r, &next);
	return rc == -EILSEQ ? fail(-EIO, "its lock was changed by somebody else") : rc;
}

int cfs_lock_wake(struct cfs_lock *l, const struct cfs_saved *state, bool *tried)
{
	const struct cfs *fs = l->fs;
	struct cfs_lock_record r, next;
	int rc = -EILSEQ;

	for (unsigned i = 0; i < ROUNDS && rc == -EILSEQ; i++) {
		rc = cfs_lock_read(l->fs, l->vbn, &r);
		if (rc < 0)
			return rc;
		/* Ours: an attempt that was given up as unknown has come through. */
		if (!(*tried && ours(l, &r)) && !(cfs_lock_is_saved(&r) && is_state(&r, state)))
			return elsewhere(l, &r);
		make_active(&r, fs->slot, fs->epoch, &next);
		*tried = true;
		rc = swap(l, &r, &next);
	}
	if (rc == -EILSEQ)
		return fail(-EIO, "its lock changes all the time");
	if (rc < 0)
		return rc;
	cfs_lock_note_held(l, CFS_LOCK_EXCLUSIVE, &next);
	/* Nothing of ours is under it: what there was, a RELEASED record lies behind. */
	l->since = atomic_load(&fs->sequence);
	l->fresh = true;
	return 0;
}
