// SPDX-License-Identifier: Apache-2.0
/*
 * lock.c: the host's table of locks: who uses one, who pins it, and waiting for other hosts.
 */
#include "clusterfs/locks.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "clusterfs/hint.h"
#include "clusterfs/slot.h"
#include "clusterfs/txn.h"

#define POLL_FIRST_MS 5u
#define POLL_MAX_MS   40u
#define RACES	      100u /* lost in a row without waiting, before it is called busy */

/* --- the table ----------------------------------------------------------------------------------- */

static struct list *bucket_of(struct cfs_locks *t, uint64_t vbn)
{
	return &t->bucket[(vbn * 0x9e3779b97f4a7c15ULL >> 40) % CFS_LOCK_BUCKETS];
}

struct cfs_lock *cfs_locks_find(struct cfs_locks *t, uint64_t vbn)
{
	struct cfs_lock *l;

	list_for_each (l, bucket_of(t, vbn), hash)
		if (l->vbn == vbn)
			return l;
	return NULL;
}

struct cfs_lock *cfs_locks_make(struct cfs_locks *t, uint64_t vbn)
{
	struct cfs_lock *l = xcalloc(1, sizeof(*l));
	pthread_condattr_t attr;

	l->fs = t->fs;
	l->vbn = vbn;
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&l->free, &attr);
	pthread_condattr_destroy(&attr);
	list_add(bucket_of(t, vbn), &l->hash);
	list_add_tail(&t->lru, &l->lru);
	t->count++;
	return l;
}

static void destroy(struct cfs_locks *t, struct cfs_lock *l)
{
	list_del(&l->hash);
	list_del(&l->lru);
	pthread_cond_destroy(&l->free);
	t->wished -= l->wished;
	t->owed -= l->owed;
	t->count--;
	free(l);
}

void cfs_locks_shrink(struct cfs_locks *t)
{
	struct cfs_lock *l, *tmp;

	if (t->count <= 2 * CFS_LOCKS_KEPT)
		return;
	list_for_each_safe (l, tmp, &t->lru, lru)
		if (l->held == CFS_LOCK_FREE && !l->used && !l->waiting && !l->pins && !l->owed)
			destroy(t, l);
}

int cfs_locks_start(struct cfs *fs)
{
	struct cfs_locks *t = xcalloc(1, sizeof(*t));
	pthread_condattr_t attr;
	int rc;

	t->fs = fs;
	pthread_mutex_init(&t->mutex, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&t->work, &attr);
	pthread_cond_init(&t->news, &attr);
	pthread_condattr_destroy(&attr);
	for (unsigned i = 0; i < CFS_LOCK_BUCKETS; i++)
		list_init(&t->bucket[i]);
	list_init(&t->lru);
	fs->locks = t;
	rc = -pthread_create(&t->thread, NULL, cfs_release_main, fs);
	if (rc < 0) {
		cfs_locks_stop(fs, false);
		return fail(rc, "thread: %s", strerror(-rc));
	}
	pthread_setname_np(t->thread, "release");
	t->threaded = true;
	return 0;
}

void cfs_locks_serve(struct cfs *fs)
{
	fs->locks->serving = true;
}

bool cfs_locks_serving(const struct cfs *fs)
{
	return fs->locks->serving;
}

/* Everything in one go: one checkpoint, one commit. Pinned locks are somebody's mistake. */
static int give_up_all(struct cfs *fs)
{
	struct cfs_locks *t = fs->locks;
	struct cfs_lock **all, *l;
	unsigned n = 0;
	int rc;

	pthread_mutex_lock(&t->mutex);
	all = xcalloc(t->count + 1, sizeof(*all));
	list_for_each (l, &t->lru, lru) {
		if (l->held == CFS_LOCK_FREE) {
			MUST(!l->used && !l->waiting);
			continue;
		}
		if (l->pins || l->used) { /* `used`: a VM is being handed over */
			pthread_mutex_unlock(&t->mutex);
			free(all);
			return fail(-EBUSY, "lock %llu is still in use",
				    (unsigned long long)l->vbn);
		}
		l->used = true;
		all[n++] = l;
	}
	pthread_mutex_unlock(&t->mutex);
	rc = cfs_release_locks(fs, all, n);
	free(all);
	return rc;
}

int cfs_locks_stop(struct cfs *fs, bool give_up)
{
	struct cfs_locks *t = fs->locks;
	int rc = 0;

	if (!t)
		return 0;
	pthread_mutex_lock(&t->mutex);
	t->stop = true;
	pthread_cond_signal(&t->work);
	pthread_mutex_unlock(&t->mutex);
	if (t->threaded)
		pthread_join(t->thread, NULL);
	if (give_up)
		rc = give_up_all(fs);
	while (!list_empty(&t->lru))
		destroy(t, list_first(&t->lru, struct cfs_lock, lru));
	pthread_mutex_destroy(&t->mutex);
	pthread_cond_destroy(&t->work);
	pthread_cond_destroy(&t->news);
	free(t);
	fs->locks = NULL;
	return rc;
}

/* --- using -------------------------------------------------------------------------------------------- */

bool cfs_lock_try_use(struct cfs_lock *l)
{
	if (l->used || l->pins)
		return false;
	l->used = true;
	return true;
}

struct cfs_lock *cfs_locks_use(struct cfs *fs, uint64_t vbn, unsigned wait_ms)
{
	struct cfs_locks *t = fs->locks;
	struct timespec end = clock_in_ms(wait_ms);
	struct cfs_lock *l;
	int rc = 0;

	pthread_mutex_lock(&t->mutex);
	cfs_locks_shrink(t);
	l = cfs_locks_find(t, vbn);
	if (!l)
		l = cfs_locks_make(t, vbn);
	l->waiting++;
	while (l->used && rc == 0)
		rc = wait_ms ? pthread_cond_timedwait(&l->free, &t->mutex, &end) : ETIMEDOUT;
	l->waiting--;
	if (!l->used) {
		l->used = true;
		list_del(&l->lru);
		list_add_tail(&t->lru, &l->lru);
	} else {
		l = NULL;
	}
	pthread_mutex_unlock(&t->mutex);
	return l;
}

void cfs_lock_put(struct cfs_lock *l)
{
	struct cfs_locks *t = l->fs->locks;

	pthread_mutex_lock(&t->mutex);
	MUST(l->used);
	l->used = false;
	if (l->waiting)
		pthread_cond_signal(&l->free);
	if (l->wished)
		pthread_cond_signal(&t->work);
	pthread_mutex_unlock(&t->mutex);
}

void cfs_lock_pin(struct cfs_lock *l)
{
	pthread_mutex_lock(&l->fs->locks->mutex);
	MUST(l->used);
	l->pins++;
	pthread_mutex_unlock(&l->fs->locks->mutex);
}

void cfs_lock_unpin(struct cfs_lock *l)
{
	struct cfs_locks *t = l->fs->locks;

	pthread_mutex_lock(&t->mutex);
	MUST(l->pins > 0);
	if (--l->pins == 0 && l->wished)
		pthread_cond_signal(&t->work);
	pthread_mutex_unlock(&t->mutex);
}

void cfs_lock_on_wish(struct cfs_lock *l, void (*fn)(void *arg), void *arg)
{
	pthread_mutex_lock(&l->fs->locks->mutex);
	l->on_wish = fn;
	l->on_wish_arg = arg;
	pthread_mutex_unlock(&l->fs->locks->mutex);
}

bool cfs_lock_fresh(struct cfs_lock *l)
{
	bool fresh = l->fresh;

	l->fresh = false;
	return fresh;
}

/* Mutex held. */
static bool is_open(struct cfs_locks *t, uint64_t vbn)
{
	struct cfs_lock *l = cfs_locks_find(t, vbn);

	return l && l->pins > 0 && l->held == CFS_LOCK_EXCLUSIVE;
}

struct cfs_lock *cfs_lock_use_open(struct cfs *fs, uint64_t vbn, unsigned wait_ms)
{
	struct cfs_locks *t = fs->locks;
	struct cfs_lock *l;
	bool open;

	pthread_mutex_lock(&t->mutex);
	open = is_open(t, vbn);
	pthread_mutex_unlock(&t->mutex);
	l = open ? cfs_locks_use(fs, vbn, wait_ms) : NULL;
	if (!l)
		return NULL;
	pthread_mutex_lock(&t->mutex);
	open = is_open(t, vbn); /* it may have been closed meanwhile, not from now on */
	pthread_mutex_unlock(&t->mutex);
	if (open)
		return l;
	cfs_lock_put(l);
	return NULL;
}

uint64_t cfs_lock_vbn(const struct cfs_lock *l)
{
	return l->vbn;
}

void cfs_lock_touched(struct cfs *fs, uint64_t lock_vbn, uint64_t sequence)
{
	if (fs->locks)
		atomic_store_explicit(&fs->locks->touched[lock_vbn % CFS_TOUCH_SLOTS], sequence,
				      memory_order_relaxed);
}

/* --- a VM's locks ---------------------------------------------------------------------------------------- */

/* Mutex held: the VM's own lock, while it is ours and is not offered; without it its disks' are not to be touched. */
static struct cfs_lock *of_vm(struct cfs *fs, uint64_t vm)
{
	struct cfs_lock *l = cfs_locks_find(fs->locks, vm);

	return l && l->held == CFS_LOCK_EXCLUSIVE && !l->leaving ? l : NULL;
}

/* An offer that begins later waits until this has ended, and has the lock along. */
static bool begin_taking(struct cfs *fs, uint64_t vm)
{
	struct cfs_lock *l;

	pthread_mutex_lock(&fs->locks->mutex);
	l = of_vm(fs, vm);
	if (l)
		l->taking++;
	pthread_mutex_unlock(&fs->locks->mutex);
	return l != NULL;
}

static void end_taking(struct cfs *fs, uint64_t vm)
{
	struct cfs_lock *l;

	pthread_mutex_lock(&fs->locks->mutex);
	l = cfs_locks_find(fs->locks, vm);
	if (l && l->taking)
		l->taking--;
	pthread_mutex_unlock(&fs->locks->mutex);
}

static int no_vm(uint64_t vbn, uint64_t vm)
{
	return fail(-EPERM, "lock %llu: this host does not run the VM of block %llu",
		    (unsigned long long)vbn, (unsigned long long)vm);
}

/* What is waited for would come too late. */
static int check_vm(const struct cfs_lock *l, const struct cfs_want *w)
{
	bool runs;

	if (w->owner.kind != CFS_OWNER_VM || w->owner.vm == l->vbn)
		return 0;
	pthread_mutex_lock(&l->fs->locks->mutex);
	runs = of_vm(l->fs, w->owner.vm) != NULL;
	pthread_mutex_unlock(&l->fs->locks->mutex);
	return runs ? 0 : no_vm(l->vbn, w->owner.vm);
}

/* --- getting ------------------------------------------------------------------------------------------- */

/*
 * To read and now to write: what others may change meanwhile is forgotten with the share. While
 * something is pinned under it the share must stay, and the others be waited for.
 */
static int leave_share(struct cfs_lock *l)
{
	unsigned pins;

	pthread_mutex_lock(&l->fs->locks->mutex);
	pins = l->pins;
	pthread_mutex_unlock(&l->fs->locks->mutex);
	return pins ? 0 : cfs_release_locks(l->fs, &l, 1);
}

/*
 * Who was asked to let go lets the asker go first: for a while, or until somebody has had it. False:
 * not within this wait.
 */
static bool give_way(struct cfs_lock *l, uint64_t deadline_ms)
{
	struct cfs_lock_record r;

	while (l->held == CFS_LOCK_FREE && clock_boot_ms() < l->give_way_ms) {
		if (!l->known || cfs_lock_read(l->fs, l->vbn, &r) < 0 ||
		    memcmp(&r, &l->rec, sizeof(r)) != 0)
			break;
		if (clock_boot_ms() >= deadline_ms)
			return false;
		sleep_ms(POLL_FIRST_MS);
	}
	l->give_way_ms = 0;
	return true;
}

/* Until its holder says that it is free, at most `ms`: then it is looked at, whatever was said. */
static void wait_news(struct cfs_lock *l, unsigned ms)
{
	struct cfs_locks *t = l->fs->locks;
	struct timespec end = clock_in_ms(ms);

	pthread_mutex_lock(&t->mutex);
	while (!l->news)
		if (pthread_cond_timedwait(&t->news, &t->mutex, &end))
			break;
	l->news = false;
	pthread_mutex_unlock(&t->mutex);
}

static int wait_for(struct cfs_lock *l, struct cfs_want *w, unsigned wait_ms, uint64_t deadline_ms)
{
	struct cfs *fs = l->fs;
	unsigned poll = POLL_FIRST_MS, races = 0;
	uint64_t told = 0;
	struct cfs_hint wish = {.kind = CFS_HINT_WISH, .vbn = l->vbn};
	bool wishing = false, final = false, left = false;
	int rc = give_way(l, deadline_ms) ? cfs_lock_acquire(l, w, &final)
					  : fail(-EBUSY, "another host goes first");

	while ((rc == -EILSEQ && ++races < RACES) ||
	       (rc == -EBUSY && !final && wait_ms && clock_boot_ms() < deadline_ms)) {
		if (atomic_load(&fs->dead)) {
			rc = -ESTALE;
			break;
		}
		if (rc == -EBUSY) {
			if (l->held == CFS_LOCK_SHARED && !left) {
				left = true;
				rc = leave_share(l);
				if (rc < 0)
					break;
			}
			if (!wishing)
				cfs_slot_wish(fs, l->vbn);
			wishing = true;
			cfs_hint_out(fs, w->holders & ~told, &wish);
			told = w->holders;
			wait_news(l, poll);
			poll = MIN(2 * poll, POLL_MAX_MS);
			rc = check_vm(l, w);
			if (rc < 0)
				break;
		}
		rc = cfs_lock_acquire(l, w, &final);
	}
	if (wishing)
		cfs_slot_unwish(fs, l->vbn);
	return rc == -EILSEQ ? fail(-EBUSY, "other hosts are quicker") : rc;
}

static int get(struct cfs *fs, uint64_t vbn, struct cfs_want *w, unsigned wait_ms,
	       struct cfs_lock **out)
{
	uint64_t deadline = clock_boot_ms() + wait_ms;
	struct cfs_lock *l;
	int rc = 0;

	if (atomic_load(&fs->dead))
		return fail(-ESTALE, "volume %s: this host's slot is lost; mount again", fs->name);
	l = cfs_locks_use(fs, vbn, wait_ms);
	if (!l) {
		rc = fail(-EBUSY, "lock %llu: in use on this host", (unsigned long long)vbn);
		err_holder("host %s", fs->options.host_name);
		return rc;
	}
	w->deadline_ns = deadline * NS_PER_MS;
	if (!cfs_lock_covers(l, w)) {
		if (l->held == CFS_LOCK_EXCLUSIVE && l->rec.owner_kind == CFS_OWNER_VM &&
		    w->owner.kind != CFS_OWNER_VM) {
			rc = fail(-EBUSY, "held by a VM of this host");
			err_holder("the VM of block %llu", (unsigned long long)le64_get(l->rec.vm));
		} else {
			rc = check_vm(l, w);
			if (rc == 0)
				rc = wait_for(l, w, wait_ms, deadline);
		}
	}
	if (rc < 0) {
		cfs_lock_put(l);
		return rc;
	}
	*out = l;
	return 0;
}

int cfs_lock_get(struct cfs *fs, uint64_t vbn, enum cfs_lock_mode mode, unsigned wait_ms,
		 struct cfs_lock **out)
{
	struct cfs_want w = {.mode = mode, .owner.kind = CFS_OWNER_HOST};

	MUST(mode != CFS_LOCK_FREE);
	return get(fs, vbn, &w, wait_ms, out);
}

int cfs_lock_get_as(struct cfs *fs, uint64_t vbn, const struct cfs_lock_owner *owner,
		    unsigned wait_ms, struct cfs_lock **out)
{
	struct cfs_want w = {.mode = CFS_LOCK_EXCLUSIVE, .owner = *owner};

	bool of_disk = owner->kind == CFS_OWNER_VM && owner->vm != vbn;
	int rc;

	if (of_disk && !begin_taking(fs, owner->vm))
		return no_vm(vbn, owner->vm);
	rc = get(fs, vbn, &w, wait_ms, out);
	if (of_disk)
		end_taking(fs, owner->vm);
	return rc;
}

int cfs_lock_drop(struct cfs_lock *l)
{
	struct cfs_locks *t = l->fs->locks;
	unsigned pins;
	int rc = 0;

	pthread_mutex_lock(&t->mutex);
	pins = l->pins;
	pthread_mutex_unlock(&t->mutex);
	if (!pins) /* else somebody else on this host needs it still */
		rc = cfs_release_locks(l->fs, &l, 1);
	cfs_lock_put(l);
	return rc;
}
