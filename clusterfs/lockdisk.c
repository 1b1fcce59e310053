// SPDX-License-Identifier: Apache-2.0
/*
 * lockdisk.c: taking and leaving a lock block by compare-and-write. Whoever may take it is decided
 * from what was read; that it is still so when it is written, by the compare.
 *
 * A lock that names a dead life is broken by whoever wants it; dead means that the life's journal is
 * replayed (cfs_slot_life), so never while its slot is "recovering". A lock that names us but that
 * we do not know (an attempt given up as unknown, or a daemon restarted in the same epoch) is taken
 * like a free one: a late copy of the old attempt can only miscompare then (INV-BLK-2).
 *
 * One lock decides for a VM. The locks of its disks name the VM; such a lock is changed only by who
 * holds the VM's lock. "Who finds X stopped may take its disk" without X's lock would race with X's
 * start (models: two writers).
 */
#include "clusterfs/locks.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "clusterfs/slot.h"

#define SETTLE_MS 5000u /* an unknown attempt is settled for at least that long */

bool cfs_lock_is_vm(const struct cfs_lock_record *r)
{
	return r->mode == CFS_LOCK_EXCLUSIVE && r->owner_kind == CFS_OWNER_VM;
}

/* An offered one (lockoffer.c) is its giver's until it is taken up. */
bool cfs_lock_is_offered(const struct cfs_lock_record *r)
{
	return r->mode == CFS_LOCK_EXCLUSIVE && r->state == CFS_LOCK_OFFERED;
}

bool cfs_lock_is_saved(const struct cfs_lock_record *r)
{
	return r->mode == CFS_LOCK_EXCLUSIVE && r->state == CFS_LOCK_SAVED;
}

void cfs_lock_life(const struct cfs_lock_record *r, unsigned *slot, uint32_t *epoch)
{
	bool offered = cfs_lock_is_offered(r);

	*slot = le16_get(offered ? r->from_slot : r->owner_slot);
	*epoch = le32_get(offered ? r->from_epoch : r->owner_epoch);
}

static bool names_us(const struct cfs *fs, const struct cfs_lock_record *r)
{
	uint32_t epoch;
	unsigned slot;

	cfs_lock_life(r, &slot, &epoch);
	return slot == fs->slot && epoch == fs->epoch;
}

/* The VM's own lock, taken to run it. */
static bool is_running_mark(const struct cfs_lock *l, const struct cfs_lock_record *r)
{
	return cfs_lock_is_vm(r) && le64_get(r->vm) == l->vbn;
}

static int busy(const struct cfs_lock *l, const struct cfs_lock_record *r)
{
	char who[128];

	cfs_lock_holder(l->fs, r, who, sizeof(who));
	fail(-EBUSY, "held by %s", who);
	err_holder("%s", who);
	return -EBUSY;
}

static int busy_reader(const struct cfs_lock *l, const struct cfs_lock_record *r, unsigned slot)
{
	struct cfs_lock_record one = *r;

	memset(one.readers, 0, sizeof(one.readers));
	one.readers[slot] = r->readers[slot];
	return busy(l, &one);
}

static bool reader_dead(const struct cfs_lock *l, const struct cfs_lock_record *r, unsigned slot)
{
	uint32_t epoch = le32_get(r->readers[slot]);

	return !epoch || cfs_slot_life(l->fs, slot, epoch) == CFS_LIFE_DEAD;
}

static int may_take_from_readers(const struct cfs_lock *l, const struct cfs_lock_record *r)
{
	const struct cfs *fs = l->fs;

	for (unsigned slot = 0; slot < CFS_MAX_SLOTS; slot++) {
		if (slot == fs->slot && le32_get(r->readers[slot]) == fs->epoch)
			continue;
		if (!reader_dead(l, r, slot))
			return busy_reader(l, r, slot);
	}
	return 0;
}

/* From a host: it must be us, or dead; and a dead host's VM may run until its lease is over. */
static int may_take_from_host(const struct cfs_lock *l, const struct cfs_lock_record *r)
{
	uint32_t epoch;
	unsigned slot;

	cfs_lock_life(r, &slot, &epoch);
	if (names_us(l->fs, r))
		return 0;
	if (slot >= CFS_MAX_SLOTS)
		return fail(-EUCLEAN, "lock %llu names slot %u; run volume check",
			    (unsigned long long)l->vbn, slot);
	if (cfs_slot_life(l->fs, slot, epoch) != CFS_LIFE_DEAD)
		return busy(l, r);
	if (is_running_mark(l, r) && clock_boot_ms() < cfs_slot_lease_over_ms(l->fs, slot, epoch))
		return busy(l, r);
	return 0;
}

/*
 * The host that runs the VM has beaten since we asked: it lives, there is nothing to wait for. What it
 * had beaten before it may have died of is read from its block at first.
 */
static bool has_beaten(const struct cfs_lock *l, struct cfs_want *w,
		       const struct cfs_lock_record *r)
{
	struct cfs_beat_record beat;
	struct cfs_slot_view v;
	uint32_t epoch;
	unsigned slot;

	cfs_lock_life(r, &slot, &epoch);
	if (slot >= CFS_MAX_SLOTS || slot == l->fs->slot)
		return false;
	if (!w->looked) {
		w->looked = cfs_record_read(l->fs, cfs_vbn(0, CFS_BEATS + slot), CFS_T_BEAT,
					    &beat) == 0;
		w->counter = le64_get(beat.head.sequence);
		return false;
	}
	cfs_slot_view(l->fs, slot, &v);
	/* Not one that came back to its slot: it runs nothing of its former life, whose lease ends. */
	return v.claim.state == CFS_SLOT_ACTIVE && le32_get(v.claim.epoch) == epoch &&
	       v.beat_valid && le64_get(v.beat.head.sequence) > w->counter;
}

static int may_take(const struct cfs_lock *l, const struct cfs_lock_record *r, struct cfs_want *w,
		    bool *final, uint64_t *steal_from)
{
	switch ((enum cfs_lock_mode)r->mode) {
	case CFS_LOCK_FREE:
		return 0;
	case CFS_LOCK_SHARED:
		return w->mode == CFS_LOCK_SHARED ? 0 : may_take_from_readers(l, r);
	case CFS_LOCK_EXCLUSIVE:
		/* Saved: by who restores it; or offered by us: that is taken back by who offered it. */
		if (cfs_lock_is_saved(r) ||
		    (cfs_lock_is_offered(r) && (!is_running_mark(l, r) || names_us(l->fs, r)))) {
			*final = true;
			return busy(l, r);
		}
		if (r->owner_kind == CFS_OWNER_HOST)
			return may_take_from_host(l, r);
		if (is_running_mark(l, r)) {
			int rc = may_take_from_host(l, r);

			if (rc == -EBUSY)
				*final = has_beaten(l, w, r);
			return rc;
		}
		if (w->owner.kind == CFS_OWNER_VM && w->owner.vm == le64_get(r->vm))
			return 0; /* the caller holds that VM's lock */
		*steal_from = le64_get(r->vm);
		return 0;
	}
	return fail(-EUCLEAN, "lock %llu: mode %u; run volume check", (unsigned long long)l->vbn,
		    r->mode);
}

static void fill_next(const struct cfs_lock *l, const struct cfs_lock_record *r,
		      const struct cfs_want *w, struct cfs_lock_record *next)
{
	const struct cfs *fs = l->fs;
	bool host = w->owner.kind == CFS_OWNER_HOST || w->owner.vm == l->vbn;
	bool still_runs = is_running_mark(l, r) && names_us(fs, r) && !cfs_lock_is_offered(r);

	*next = *r;
	if (w->mode == CFS_LOCK_EXCLUSIVE && still_runs)
		return; /* a fresh token only: what it says about the VM stays */
	next->state = CFS_LOCK_ACTIVE;
	next->mode = (uint8_t)w->mode;
	next->owner_kind = CFS_OWNER_NONE;
	next->owner_slot = next->from_slot = le16_of(0);
	next->owner_epoch = next->from_epoch = le32_of(0);
	next->vm = le64_of(0);
	cfs_saved_put(NULL, next);
	if (w->mode == CFS_LOCK_SHARED) {
		for (unsigned slot = 0; slot < CFS_MAX_SLOTS; slot++)
			if (r->mode != CFS_LOCK_SHARED || reader_dead(l, r, slot))
				next->readers[slot] = le32_of(0);
		next->readers[fs->slot] = le32_of(fs->epoch);
		return;
	}
	memset(next->readers, 0, sizeof(next->readers));
	next->owner_kind = (uint8_t)w->owner.kind;
	if (w->owner.kind == CFS_OWNER_VM)
		next->vm = le64_of(w->owner.vm);
	if (host) {
		next->owner_slot = le16_of((uint16_t)fs->slot);
		next->owner_epoch = le32_of(fs->epoch);
	}
}

struct cfs_swap cfs_lock_swap(const struct cfs_lock *l, uint64_t deadline_ns)
{
	return (struct cfs_swap){
		.vbn = l->vbn,
		.type = CFS_T_LOCK,
		.token_at = offsetof(struct cfs_lock_record, token),
		.deadline_ns = MAX(deadline_ns, clock_boot_ns() + SETTLE_MS * NS_PER_MS)};
}

void cfs_lock_note_held(struct cfs_lock *l, enum cfs_lock_mode mode,
			const struct cfs_lock_record *rec)
{
	pthread_mutex_lock(&l->fs->locks->mutex);
	if (l->held == CFS_LOCK_FREE && mode != CFS_LOCK_FREE)
		l->taken_ms = clock_boot_ms();
	l->held = mode;
	if (rec)
		l->rec = *rec;
	pthread_mutex_unlock(&l->fs->locks->mutex);
}

static int take_from(struct cfs_lock *l, const struct cfs_lock_record *r, const struct cfs_want *w)
{
	struct cfs_swap swap = cfs_lock_swap(l, w->deadline_ns);
	struct cfs_want want = *w;
	struct cfs_lock_record next;
	bool kept = l->held != CFS_LOCK_FREE; /* an upgrade, or another name for it */
	int rc;

	/* What was ours exclusively stays so: our journal may hold records under it. */
	if (r->mode == CFS_LOCK_EXCLUSIVE && names_us(l->fs, r))
		want.mode = CFS_LOCK_EXCLUSIVE;
	fill_next(l, r, &want, &next);
	rc = cfs_record_swap(l->fs, &swap, r, &next);
	l->known = rc == 0;
	if (rc < 0)
		return rc;
	cfs_lock_note_held(l, want.mode, &next);
	if (!kept) {
		/* A lock that was ours all along may have changes under it that we don't know. */
		bool adopted = names_us(l->fs, r) || cfs_lock_is_vm(r);

		l->since = adopted ? 0 : atomic_load(&l->fs->sequence);
		l->fresh = true;
	}
	return 0;
}

/* `l` names a VM that does not run: only with that VM's lock in our hands may it change. */
static int steal(struct cfs_lock *l, const struct cfs_lock_record *r, const struct cfs_want *w,
		 uint64_t vm, bool *final)
{
	struct cfs_lock *lock;
	int rc = -EUCLEAN;

	if (cfs_vbn_valid(l->fs, vm) && vm != l->vbn)
		rc = cfs_lock_get(l->fs, vm, CFS_LOCK_EXCLUSIVE, 0, &lock);
	if (rc == -EBUSY || rc == -EUCLEAN) {
		*final = true;
		return rc == -EBUSY ? rc : busy(l, r);
	}
	if (rc < 0)
		return rc;
	if (cfs_lock_runs_vm(lock)) { /* here */
		*final = true;
		rc = busy(l, r);
	} else {
		rc = take_from(l, r, w);
	}
	cfs_lock_put(lock);
	return rc;
}

/* Whom a wish concerns: VMs' locks are not given up for one. */
static uint64_t holders_of(const struct cfs_lock_record *r)
{
	uint64_t slots = 0;

	if (r->mode == CFS_LOCK_EXCLUSIVE && !cfs_lock_is_vm(r) &&
	    le16_get(r->owner_slot) < CFS_MAX_SLOTS)
		slots = 1ULL << le16_get(r->owner_slot);
	for (unsigned i = 0; r->mode == CFS_LOCK_SHARED && i < CFS_MAX_SLOTS; i++)
		slots |= (uint64_t)(le32_get(r->readers[i]) != 0) << i;
	return slots;
}

int cfs_lock_acquire(struct cfs_lock *l, struct cfs_want *w, bool *final)
{
	struct cfs_lock_record r;
	uint64_t vm = 0;
	int rc = 0;

	*final = false;
	w->holders = 0;
	/* What we left there free ourselves need not be read: the compare tells. */
	if (l->known && l->held == CFS_LOCK_FREE && l->rec.mode == CFS_LOCK_FREE) {
		r = l->rec;
		return take_from(l, &r, w);
	}
	rc = cfs_record_read(l->fs, l->vbn, CFS_T_LOCK, &r);
	if (rc == 0)
		rc = may_take(l, &r, w, final, &vm);
	w->holders = rc == -EBUSY ? holders_of(&r) : 0;
	if (rc < 0)
		return rc;
	return vm ? steal(l, &r, w, vm, final) : take_from(l, &r, w);
}

bool cfs_lock_covers(const struct cfs_lock *l, const struct cfs_want *w)
{
	if (l->held == CFS_LOCK_FREE)
		return false;
	if (w->mode == CFS_LOCK_SHARED && l->held == CFS_LOCK_SHARED)
		return true;
	if (l->held != CFS_LOCK_EXCLUSIVE)
		return false;
	if (w->owner.kind == CFS_OWNER_VM)
		return l->rec.owner_kind == CFS_OWNER_VM && le64_get(l->rec.vm) == w->owner.vm;
	/* This host for itself: not a disk that belongs to a VM of ours. */
	return l->rec.owner_kind == CFS_OWNER_HOST || is_running_mark(l, &l->rec);
}

bool cfs_lock_runs_vm(const struct cfs_lock *l)
{
	return l->held == CFS_LOCK_EXCLUSIVE && is_running_mark(l, &l->rec);
}

/* --- leaving ----------------------------------------------------------------------------------------- */

static void fill_free(const struct cfs_lock *l, const struct cfs_lock_record *r,
		      struct cfs_lock_record *next)
{
	bool readers = false;

	*next = *r;
	if (r->mode == CFS_LOCK_SHARED) {
		next->readers[l->fs->slot] = le32_of(0);
		for (unsigned slot = 0; slot < CFS_MAX_SLOTS; slot++)
			readers |= le32_get(next->readers[slot]) != 0;
	}
	if (readers)
		return;
	next->mode = CFS_LOCK_FREE;
	next->state = CFS_LOCK_NONE;
	next->owner_kind = CFS_OWNER_NONE;
	next->owner_slot = next->from_slot = le16_of(0);
	next->owner_epoch = next->from_epoch = le32_of(0);
	next->vm = le64_of(0);
	memset(next->readers, 0, sizeof(next->readers));
}

static bool still_ours(const struct cfs_lock *l, const struct cfs_lock_record *r)
{
	if (r->mode == CFS_LOCK_SHARED)
		return le32_get(r->readers[l->fs->slot]) == l->fs->epoch;
	if (r->mode != CFS_LOCK_EXCLUSIVE)
		return false;
	if (is_running_mark(l, r)) /* it decides: it may have gone to another host */
		return names_us(l->fs, r) && !cfs_lock_is_offered(r);
	return names_us(l->fs, r) || cfs_lock_is_vm(r);
}

int cfs_lock_release(struct cfs_lock *l)
{
	struct cfs_swap swap = cfs_lock_swap(l, 0);
	struct cfs_lock_record r = l->rec, next;
	bool read = !l->known || l->held == CFS_LOCK_SHARED;
	int rc = -EILSEQ;

	/* Other readers come and go: each time the record is another one. */
	while (rc == -EILSEQ) {
		if (read)
			rc = cfs_record_read(l->fs, l->vbn, CFS_T_LOCK, &r);
		else
			rc = 0;
		if (rc < 0)
			break;
		if (!still_ours(l, &r)) {
			cfs_lock_note_held(l, CFS_LOCK_FREE, NULL);
			l->known = false;
			return 0;
		}
		fill_free(l, &r, &next);
		rc = cfs_record_swap(l->fs, &swap, &r, &next);
		read = true;
	}
	if (rc == 0 || swap.unsettled) {
		cfs_lock_note_held(l, CFS_LOCK_FREE, &next);
		l->known = rc == 0;
	}
	return rc;
}
