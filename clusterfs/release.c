// SPDX-License-Identifier: Apache-2.0
/*
 * release.c: giving locks up, and the thread that does it when other hosts wish for them.
 *
 * INV-FS-5, four steps: what the lock protects goes in place (1) and is flushed (2); a RELEASED record
 * becomes durable (3), so that a replay of our journal skips what lies before it; then the
 * compare-and-write with FUA (4). Without step 3:
 *
 *	us	change, in place, free the lock			die, journal replayed:
 *	other				take it, change			our old record undoes it
 */
#include "clusterfs/locks.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "clusterfs/handover.h"
#include "clusterfs/hint.h"
#include "clusterfs/slot.h"
#include "clusterfs/txn.h"

#define GIVE_WAY_MS    300u /* longer than a waiting host's poll */
#define HOLD_MS	       30u  /* a lock that many want is used for that long before it goes on */
#define LOOK_MS	       10u  /* how often the views are looked through for wishes */
#define LOOK_AGAIN_MS  3000u
#define RELEASED_BATCH 1000u /* records in a transaction */
#define IDLE_BATCH     256u

/* --- four steps -------------------------------------------------------------------------------- */

static bool touched(const struct cfs_lock *l)
{
	uint64_t last = atomic_load_explicit(&l->fs->locks->touched[l->vbn % CFS_TOUCH_SLOTS],
					     memory_order_relaxed);

	/* since 0: adopted, the journal may hold anything. */
	return l->held == CFS_LOCK_EXCLUSIVE && (!l->since || last > l->since);
}

static int by_number(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return *x < *y ? -1 : *x > *y;
}

/* Steps 1 and 2. */
static int put_in_place(struct cfs *fs, struct cfs_lock **l, unsigned n)
{
	uint64_t *owner = xcalloc(n, sizeof(*owner));
	unsigned dirty = 0;
	int rc;

	for (unsigned i = 0; i < n; i++)
		if (touched(l[i]))
			owner[dirty++] = l[i]->vbn;
	qsort(owner, dirty, sizeof(*owner), by_number);
	rc = dirty ? cfs_checkpoint(fs, owner, dirty) : 0;
	free(owner);
	return rc < 0 ? rc : (int)dirty;
}

int cfs_release_settle(struct cfs *fs, struct cfs_lock **l, unsigned n)
{
	struct cfs_txn txn;
	int rc;

	if (!n || !fs->journal)
		return 0;
	rc = put_in_place(fs, l, n);
	if (rc <= 0)
		return rc;
	rc = 0;
	for (unsigned i = 0; i < n && rc == 0;) {
		unsigned records = 0;

		rc = cfs_txn_begin_wait(fs, &txn);
		if (rc < 0)
			break;
		for (; i < n && records < RELEASED_BATCH; i++) {
			if (!touched(l[i]))
				continue;
			cfs_txn_released(&txn, l[i]->vbn);
			records++;
		}
		cfs_txn_end(&txn);
	}
	return rc < 0 ? rc : cfs_commit_wait(fs);
}

/* Mutex held. */
static void set_wished(struct cfs_lock *l, bool wished)
{
	struct cfs_locks *t = l->fs->locks;

	t->wished += (unsigned)wished - (unsigned)l->wished;
	l->wished = wished;
}

/* It is given up, for whatever reason: who wished for it is served and told. */
static void served(struct cfs *fs, struct cfs_lock *l)
{
	uint64_t wishers;

	pthread_mutex_lock(&fs->locks->mutex);
	set_wished(l, false);
	wishers = l->wishers;
	l->wishers = 0;
	pthread_mutex_unlock(&fs->locks->mutex);
	cfs_hint_out(fs, wishers, &(struct cfs_hint){.kind = CFS_HINT_FREED, .vbn = l->vbn});
}

int cfs_release_locks(struct cfs *fs, struct cfs_lock **l, unsigned n)
{
	int rc = cfs_release_settle(fs, l, n), one;

	for (unsigned i = 0; i < n && rc == 0; i++) {
		if (fs->cache)
			cfs_buf_forget_owner(fs, l[i]->vbn);
		l[i]->fresh = true;
		one = cfs_lock_release(l[i]);
		if (l[i]->held == CFS_LOCK_FREE)
			served(fs, l[i]);
		if (one < 0)
			rc = one;
	}
	return rc;
}

/* --- wishes ------------------------------------------------------------------------------------- */

/* Gives up one lock whose use mutex was just taken, because somebody waits for it; puts it. */
static int let_go(struct cfs *fs, struct cfs_lock *l)
{
	int rc = cfs_release_locks(fs, &l, 1);

	if (rc < 0 && rc != -ESTALE)
		log_warn("cfs", "volume %s: giving up lock %llu: %s", fs->name,
			 (unsigned long long)l->vbn, err_message(rc));
	if (rc == 0) {
		pthread_mutex_lock(&fs->locks->mutex);
		l->give_way_ms = clock_boot_ms() + GIVE_WAY_MS;
		pthread_mutex_unlock(&fs->locks->mutex);
	}
	cfs_lock_put(l); /* it may be gone now */
	return rc;
}

/* Mutex held: the use mutex of a lock that others wish for, if it may go now. */
static bool may_go(struct cfs_lock *l)
{
	if (l->held == CFS_LOCK_FREE || cfs_lock_is_vm(&l->rec) ||
	    clock_boot_ms() < l->taken_ms + HOLD_MS)
		return false;
	return cfs_lock_try_use(l);
}

/* True when we may look at an unknown lock's block now; it is not looked at again for a while. */
static bool look_now(struct cfs_locks *t, uint64_t vbn)
{
	unsigned at = (unsigned)(vbn * 0x9e3779b97f4a7c15ULL >> 58);
	uint64_t now = clock_boot_ms();

	if (t->looked[at].vbn != vbn) { /* wished for the first time: it may be gone soon */
		t->looked[at].vbn = vbn;
		t->looked[at].next_ms = now + t->fs->beat_ms;
		return false;
	}
	if (now < t->looked[at].next_ms)
		return false;
	t->looked[at].next_ms = now + LOOK_AGAIN_MS;
	return true;
}

/*
 * Somebody wishes for a lock that we don't hold as far as we know. It may name us all the same: an
 * attempt of ours was given up as unknown and came through, or our predecessor in this epoch held
 * it. Then it is taken up, so as to settle it, and given up.
 */
static void check_unknown(struct cfs *fs, uint64_t vbn)
{
	struct cfs_locks *t = fs->locks;
	struct cfs_lock_record r;
	struct cfs_want w = {.owner.kind = CFS_OWNER_HOST};
	struct cfs_lock *l;
	bool final, ours;

	if (cfs_record_read(fs, vbn, CFS_T_LOCK, &r) < 0)
		return;
	ours = r.mode == CFS_LOCK_SHARED
		       ? le32_get(r.readers[fs->slot]) == fs->epoch
		       : r.mode == CFS_LOCK_EXCLUSIVE && r.owner_kind == CFS_OWNER_HOST &&
				 le16_get(r.owner_slot) == fs->slot &&
				 le32_get(r.owner_epoch) == fs->epoch;
	if (!ours)
		return;
	pthread_mutex_lock(&t->mutex);
	l = cfs_locks_find(t, vbn);
	if (!l)
		l = cfs_locks_make(t, vbn);
	if (l->waiting || !cfs_lock_try_use(l))
		l = NULL;
	pthread_mutex_unlock(&t->mutex);
	if (!l)
		return;
	w.mode = (enum cfs_lock_mode)r.mode;
	if (l->held == CFS_LOCK_FREE)
		(void)cfs_lock_acquire(l, &w, &final);
	if (l->held != CFS_LOCK_FREE && !cfs_lock_is_vm(&l->rec))
		(void)let_go(fs, l);
	else
		cfs_lock_put(l);
}

/* `told`: over the network, by whom we don't ask a disk for. */
static void on_wish_for(struct cfs *fs, uint64_t vbn, unsigned slot, bool told)
{
	struct cfs_locks *t = fs->locks;
	void (*fn)(void *arg) = NULL;
	void *arg = NULL;
	struct cfs_lock *l;
	bool unknown, mine = false;

	pthread_mutex_lock(&t->mutex);
	l = cfs_locks_find(t, vbn);
	unknown = !l || (l->held == CFS_LOCK_FREE && !l->used);
	if (l && l->held != CFS_LOCK_FREE && !cfs_lock_is_vm(&l->rec)) {
		set_wished(l, true);
		l->wishers |= 1ULL << slot;
		if (l->pins) {
			fn = l->on_wish;
			arg = l->on_wish_arg;
		} else {
			mine = may_go(l);
		}
	}
	pthread_mutex_unlock(&t->mutex);
	if (fn)
		fn(arg);
	if (mine)
		(void)let_go(fs, l);
	else if (unknown && !told && look_now(t, vbn))
		check_unknown(fs, vbn);
}

static void look_for_wishes(struct cfs *fs)
{
	struct cfs_slot_view v;

	for (unsigned slot = 0; slot < CFS_MAX_SLOTS; slot++) {
		if (slot == fs->slot)
			continue;
		cfs_slot_view(fs, slot, &v);
		if (v.claim.state != CFS_SLOT_ACTIVE || !v.beat_valid)
			continue;
		for (unsigned i = 0; i < CFS_WISHES; i++) {
			uint64_t vbn = le64_get(v.beat.wishes[i]);

			if (vbn && cfs_vbn_valid(fs, vbn))
				on_wish_for(fs, vbn, slot, false);
		}
	}
}

/* What was told over the network since the last look. */
static void look_at_hints(struct cfs *fs)
{
	struct cfs_locks *t = fs->locks;
	struct {
		uint64_t vbn;
		unsigned slot;
	} hinted[CFS_LOCK_HINTS];
	unsigned n;

	static_assert(sizeof(hinted) == sizeof(t->hinted), "hints");
	pthread_mutex_lock(&t->mutex);
	n = t->hinted_n;
	memcpy(hinted, t->hinted, n * sizeof(hinted[0]));
	t->hinted_n = 0;
	pthread_mutex_unlock(&t->mutex);
	for (unsigned i = 0; i < n; i++)
		on_wish_for(fs, hinted[i].vbn, hinted[i].slot, true);
}

/* Locks that were wished for while they were in use, and now are not. */
static void serve_wished(struct cfs *fs)
{
	struct cfs_locks *t = fs->locks;
	struct cfs_lock *l, *found;

	do {
		found = NULL;
		pthread_mutex_lock(&t->mutex);
		if (t->wished) { /* a host may keep tens of thousands */
			list_for_each (l, &t->lru, lru) {
				if (!l->wished || !may_go(l))
					continue;
				found = l;
				break;
			}
		}
		pthread_mutex_unlock(&t->mutex);
		if (found && let_go(fs, found) < 0)
			return; /* the next look tries again */
	} while (found && !t->stop);
}

/* The longest unused are given up when there are too many. */
static void drop_idle(struct cfs *fs)
{
	struct cfs_locks *t = fs->locks;
	struct cfs_lock *l, *idle[IDLE_BATCH];
	unsigned n = 0, held = 0;

	pthread_mutex_lock(&t->mutex);
	if (t->count > CFS_LOCKS_KEPT)
		list_for_each (l, &t->lru, lru)
			held += l->held != CFS_LOCK_FREE;
	if (held > CFS_LOCKS_KEPT)
		list_for_each (l, &t->lru, lru) {
			if (n == IDLE_BATCH || n == held - CFS_LOCKS_KEPT)
				break;
			if (l->held != CFS_LOCK_FREE && !l->waiting && !cfs_lock_is_vm(&l->rec) &&
			    cfs_lock_try_use(l))
				idle[n++] = l;
		}
	cfs_locks_shrink(t);
	pthread_mutex_unlock(&t->mutex);
	if (n)
		(void)cfs_release_locks(fs, idle, n);
	for (unsigned i = 0; i < n; i++)
		cfs_lock_put(idle[i]);
}

void *cfs_release_main(void *arg)
{
	struct cfs *fs = arg;
	struct cfs_locks *t = fs->locks;
	struct timespec until;

	pthread_mutex_lock(&t->mutex);
	while (!t->stop) {
		until = clock_in_ms(LOOK_MS);
		if (!t->hinted_n || !t->serving || atomic_load(&fs->dead)) /* else told meanwhile */
			pthread_cond_timedwait(&t->work, &t->mutex, &until);
		if (t->stop)
			break;
		pthread_mutex_unlock(&t->mutex);
		if (t->serving && !atomic_load(&fs->dead)) {
			look_at_hints(fs);
			serve_wished(fs);
			look_for_wishes(fs);
			cfs_vm_pay(fs);
			drop_idle(fs);
		}
		pthread_mutex_lock(&t->mutex);
	}
	pthread_mutex_unlock(&t->mutex);
	return NULL;
}
