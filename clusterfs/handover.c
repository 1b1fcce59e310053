// SPDX-License-Identifier: Apache-2.0
/*
 * handover.c: a running VM goes to another host, with all of its disks (cfs.h).
 *
 * The locks of its disks name the VM and stay as they are: what changes hands is one record. INV-FS-5 is kept for
 * all of them before it is offered, so that whoever replays our journal later leaves alone what is the
 * target's by then, though other objects hold the journal's tail back. From then on nothing may change under
 * these locks: the hand-over has their use mutexes until it is decided.
 */
#include "clusterfs/handover.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "clusterfs/fileio.h"
#include "clusterfs/slot.h"

#define LOOK_MS	    2000u
#define USE_WAIT_MS 2000u /* others on this host look at an open file for a moment only */

static int by_number(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return *x < *y ? -1 : *x > *y;
}

uint64_t *cfs_vm_locks(struct cfs *fs, uint64_t vm, unsigned *n)
{
	struct cfs_locks *t = fs->locks;
	struct cfs_lock *l;
	uint64_t *vbn;

	*n = 0;
	pthread_mutex_lock(&t->mutex);
	vbn = xcalloc(t->count + 1, sizeof(*vbn));
	list_for_each (l, &t->lru, lru)
		if (l->held == CFS_LOCK_EXCLUSIVE && cfs_lock_is_vm(&l->rec) &&
		    le64_get(l->rec.vm) == vm)
			vbn[(*n)++] = l->vbn;
	pthread_mutex_unlock(&t->mutex);
	qsort(vbn, *n, sizeof(*vbn), by_number);
	return vbn;
}

static void set_leaving(struct cfs_vm_lock *vm, bool leaving)
{
	pthread_mutex_lock(&vm->fs->locks->mutex);
	vm->lock->leaving = leaving;
	pthread_mutex_unlock(&vm->fs->locks->mutex);
}

static void let_use(struct cfs_vm_lock *vm)
{
	for (unsigned i = 0; i < vm->n; i++)
		cfs_lock_put(vm->held[i]);
	free(vm->held);
	vm->held = NULL;
	vm->n = 0;
	vm->settled = false;
	set_leaving(vm, false);
}

/* No more are taken in its name from now on, and those that were about to be are there. */
static int stop_taking(struct cfs_vm_lock *vm)
{
	uint64_t end = clock_boot_ms() + USE_WAIT_MS;
	unsigned taking;

	set_leaving(vm, true);
	for (;;) {
		pthread_mutex_lock(&vm->fs->locks->mutex);
		taking = vm->lock->taking;
		pthread_mutex_unlock(&vm->fs->locks->mutex);
		if (!taking)
			return 0;
		if (clock_boot_ms() >= end)
			break;
		sleep_ms(1);
	}
	set_leaving(vm, false);
	return fail(-EBUSY, "a disk of it is being opened");
}

/* Nobody else on this host uses these locks from now on, and no more are taken in the VM's name. */
static int hold_use(struct cfs_vm_lock *vm)
{
	uint64_t *vbn;
	unsigned n;
	int rc = 0;

	if (vm->held)
		return fail(-EBUSY, "it is being handed over already");
	rc = stop_taking(vm);
	if (rc < 0)
		return rc;
	vbn = cfs_vm_locks(vm->fs, vm->vbn, &n);
	vm->held = xcalloc(n + 1, sizeof(struct cfs_lock *));
	for (unsigned i = 0; i < n && rc == 0; i++) {
		struct cfs_lock *l = cfs_locks_use(vm->fs, vbn[i], USE_WAIT_MS);

		if (!l)
			rc = fail(-EBUSY, "lock %llu of it is in use", (unsigned long long)vbn[i]);
		else
			vm->held[vm->n++] = l;
	}
	free(vbn);
	if (rc < 0)
		let_use(vm);
	return rc;
}

static int words(struct cfs_vm_lock *vm, int rc)
{
	return rc < 0 ? fail_prefix(rc, "volume %s: VM %llu", vm->fs->name,
				    (unsigned long long)vm->vbn)
		      : rc;
}

int cfs_vm_checkpoint(struct cfs_vm_lock *vm)
{
	unsigned n;
	uint64_t *vbn = cfs_vm_locks(vm->fs, vm->vbn, &n);
	int rc = n ? cfs_checkpoint(vm->fs, vbn, n) : 0;

	free(vbn);
	return words(vm, rc);
}

/* Steps one to three. What there was is in the past now: a second offer has nothing to do. */
static int settle(struct cfs_vm_lock *vm)
{
	int rc = cfs_release_settle(vm->fs, vm->held, vm->n);

	for (unsigned i = 0; i < vm->n && rc == 0; i++)
		vm->held[i]->since = atomic_load(&vm->fs->sequence);
	vm->settled = rc == 0;
	return rc;
}

static bool is_active(struct cfs *fs, unsigned slot, uint32_t epoch)
{
	struct cfs_slot_view v;

	cfs_slot_view(fs, slot, &v);
	return v.claim.state == CFS_SLOT_ACTIVE && le32_get(v.claim.epoch) == epoch;
}

int cfs_vm_offer(struct cfs_vm_lock *vm, unsigned slot, uint32_t epoch)
{
	struct cfs *fs = vm->fs;
	int rc;

	if (slot >= CFS_MAX_SLOTS || slot == fs->slot)
		return words(vm, fail(-EINVAL, "it cannot be offered to slot %u", slot));
	if (!is_active(fs, slot, epoch)) /* it may have come just now */
		cfs_look(fs, LOOK_MS);
	if (!is_active(fs, slot, epoch))
		return words(vm,
			     fail(-ENOENT, "no host is active in slot %u, epoch %u", slot, epoch));
	rc = hold_use(vm);
	if (rc == 0)
		rc = settle(vm);
	if (rc == 0)
		rc = cfs_lock_offer(vm->lock, slot, epoch);
	return words(vm, rc);
}

int cfs_vm_save(struct cfs_vm_lock *vm, const struct cfs_saved *state)
{
	int rc = hold_use(vm);

	if (rc == 0)
		rc = settle(vm);
	if (rc == 0)
		rc = cfs_lock_lay_down(vm->lock, state);
	return words(vm, rc);
}

int cfs_vm_retract(struct cfs_vm_lock *vm)
{
	struct cfs_lock *own = NULL;
	int rc;

	if (!vm->held) { /* the offer failed before it began */
		own = cfs_locks_use(vm->fs, vm->vbn, USE_WAIT_MS);
		if (!own)
			return words(vm, fail(-EAGAIN, "its lock is in use"));
	}
	rc = cfs_lock_take_back(vm->lock);
	if (own)
		cfs_lock_put(own);
	if (rc == 0 && vm->held)
		let_use(vm);
	return words(vm, rc);
}

/* --- lost ------------------------------------------------------------------------------------------ */

/* Frees this host's open files of the VM; their locks stay in the table, without pins. */
static void forget_files(struct cfs *fs, uint64_t vm)
{
	struct cfs_file *f;

	do {
		pthread_mutex_lock(&fs->files_lock);
		for (f = fs->files; f && f->vm != vm; f = f->next)
			;
		pthread_mutex_unlock(&fs->files_lock);
		if (f)
			cfs_file_forget(f);
	} while (f);
}

/* Use mutex held. */
static void forget_lock(struct cfs *fs, struct cfs_lock *l)
{
	cfs_buf_forget_owner(fs, l->vbn);
	cfs_lock_note_held(l, CFS_LOCK_FREE, NULL);
	l->known = false;
	l->fresh = true;
}

void cfs_vm_forget(struct cfs_vm_lock *vm)
{
	struct cfs *fs = vm->fs;

	forget_files(fs, vm->vbn);
	/*
	 * Without an offer that was made, it was lost with our life, whether that is known here yet or not: what is
	 * dirty under its locks is in the journal, for others to replay, and ends with the mount.
	 */
	for (unsigned i = 0; i < vm->n && vm->settled; i++)
		forget_lock(fs, vm->held[i]);
	pthread_mutex_lock(&fs->locks->mutex);
	vm->lock->vm_taken = false;
	pthread_mutex_unlock(&fs->locks->mutex);
	let_use(vm);
	cfs_lock_unpin(vm->lock);
	free(vm);
}

/* --- the target ------------------------------------------------------------------------------------- */

static int use_for(struct cfs *fs, const char *path, struct cfs_lock **out)
{
	uint64_t vbn;
	int rc = cfs_vm_find(fs, path, &vbn);

	if (rc < 0)
		return rc;
	*out = cfs_locks_use(fs, vbn, USE_WAIT_MS);
	if (!*out)
		rc = fail(-EAGAIN, "VM %s:%s: its lock is in use", fs->name, path);
	return rc;
}

int cfs_vm_accept(struct cfs *fs, const char *path, unsigned slot, uint32_t epoch,
		  const void *baggage, size_t size, struct cfs_vm_lock **out)
{
	struct cfs_lock_record seen;
	struct cfs_lock *l;
	bool told = false;
	int rc = use_for(fs, path, &l);

	if (rc < 0)
		return rc;
	if (cfs_vm_is_taken(l)) {
		cfs_lock_put(l);
		return fail(-EBUSY, "VM %s:%s: runs on this host already", fs->name, path);
	}
	if (baggage)
		told = cfs_baggage_lock(fs, baggage, size, l->vbn, &seen);
	rc = cfs_lock_take_up(l, slot, epoch, told ? &seen : NULL, &told);
	if (rc == 0) {
		/* Only with the very offer it belongs to: what it says of the disks is so then. */
		if (told)
			cfs_baggage_unpack(fs, baggage, size, l->vbn);
		*out = cfs_vm_new(fs, l);
	}
	cfs_lock_put(l);
	return rc < 0 ? fail_prefix(rc, "VM %s:%s", fs->name, path) : 0;
}

int cfs_vm_restore(struct cfs *fs, const char *path, const struct cfs_saved *state, bool *tried,
		   struct cfs_vm_lock **out)
{
	struct cfs_lock *l;
	int rc = use_for(fs, path, &l);

	if (rc < 0)
		return rc;
	if (cfs_vm_is_taken(l))
		rc = fail(-EBUSY, "runs on this host already");
	else
		rc = cfs_lock_wake(l, state, tried);
	if (rc == 0)
		*out = cfs_vm_new(fs, l);
	cfs_lock_put(l);
	return rc < 0 ? fail_prefix(rc, "VM %s:%s", fs->name, path) : 0;
}

int cfs_vm_decline(struct cfs *fs, const char *path)
{
	struct cfs_lock *l;
	int rc = use_for(fs, path, &l);

	if (rc < 0)
		return rc;
	rc = cfs_vm_is_taken(l) ? fail(-EALREADY, "it is this host's already")
				: cfs_lock_decline(l);
	cfs_lock_put(l);
	return rc < 0 ? fail_prefix(rc, "VM %s:%s", fs->name, path) : 0;
}
