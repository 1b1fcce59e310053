// SPDX-License-Identifier: Apache-2.0
/*
 * vmlock.c: who runs a VM. One lock decides: that of its definition file, while it is held as a VM's:
 * owner kind VM, naming itself, with the slot and epoch of the host that runs it. Held in a host's own
 * name it is an ordinary lock (somebody edits the definition) and is given up when wished for.
 */
#include "clusterfs/cfs.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "clusterfs/handover.h"
#include "clusterfs/iopath.h"
#include "clusterfs/names.h"
#include "clusterfs/slot.h"

#define LEAST_WAIT_MS  5000u /* for hosts that only have the definition in their cache */
#define UNLOCK_WAIT_MS 30000u
/* Between attempts to give up what could not be given up. */
#define PAY_FIRST_MS 250u
#define PAY_LAST_MS  4000u

int cfs_vm_find(struct cfs *fs, const char *path, uint64_t *vbn)
{
	struct cfs_node node;
	int rc = cfs_walk(fs, path, &node);

	if (rc < 0)
		return rc == -EAGAIN
			       ? fail(-ENOENT, "%s:%s: is being moved or deleted", fs->name, path)
			       : rc;
	if (node.kind != CFS_KIND_VM)
		return fail(-EINVAL, "%s:%s: not the definition of a VM", fs->name, path);
	*vbn = node.inode - 1;
	return 0;
}

/* The record says that somebody runs it. */
static bool runs(uint64_t vbn, const struct cfs_lock_record *r)
{
	return r->mode == CFS_LOCK_EXCLUSIVE && r->owner_kind == CFS_OWNER_VM &&
	       le64_get(r->vm) == vbn;
}

/* It is this host's, in this life; also while it offers it. */
static bool runs_here(const struct cfs *fs, uint64_t vbn, const struct cfs_lock_record *r)
{
	uint32_t epoch;
	unsigned slot;

	cfs_lock_life(r, &slot, &epoch);
	return runs(vbn, r) && slot == fs->slot && epoch == fs->epoch;
}

static int here_already(struct cfs *fs, const char *path)
{
	int rc = fail(-EBUSY, "VM %s:%s: runs on this host, %s", fs->name, path,
		      fs->options.host_name);

	err_object("%s:%s", fs->name, path);
	err_holder("host %s", fs->options.host_name);
	return rc;
}

/* Mutex held. */
static void set_owed(struct cfs_lock *l, bool owed)
{
	struct cfs_locks *t = l->fs->locks;

	if (owed && !l->owed && !t->owed)
		t->owed_ms = t->owed_pause_ms = 0;
	t->owed += (unsigned)owed - (unsigned)l->owed;
	l->owed = owed;
	l->owed_long = false;
}

/* The lock is in use by the caller, or pinned. */
static void set_taken(struct cfs_lock *l, bool taken, bool owed)
{
	pthread_mutex_lock(&l->fs->locks->mutex);
	l->vm_taken = taken;
	set_owed(l, owed);
	pthread_mutex_unlock(&l->fs->locks->mutex);
}

bool cfs_vm_is_taken(struct cfs_lock *l)
{
	bool taken;

	pthread_mutex_lock(&l->fs->locks->mutex);
	taken = l->vm_taken;
	pthread_mutex_unlock(&l->fs->locks->mutex);
	return taken;
}

/* *so_long (may be NULL): an attempt to give it up has failed. */
static bool is_owed(struct cfs *fs, uint64_t vbn, bool *so_long)
{
	struct cfs_lock *l;
	bool owed;

	pthread_mutex_lock(&fs->locks->mutex);
	l = cfs_locks_find(fs->locks, vbn);
	owed = l && l->owed;
	if (so_long)
		*so_long = owed && l->owed_long;
	pthread_mutex_unlock(&fs->locks->mutex);
	return owed;
}

static void note_failed(struct cfs *fs, uint64_t vbn)
{
	struct cfs_lock *l;

	pthread_mutex_lock(&fs->locks->mutex);
	l = cfs_locks_find(fs->locks, vbn);
	if (l)
		l->owed_long = l->owed;
	pthread_mutex_unlock(&fs->locks->mutex);
}

struct cfs_vm_lock *cfs_vm_new(struct cfs *fs, struct cfs_lock *lock)
{
	struct cfs_vm_lock *vm = xcalloc(1, sizeof(*vm));

	vm->fs = fs;
	vm->vbn = lock->vbn;
	vm->lock = lock;
	cfs_lock_pin(lock);
	set_taken(lock, true, false);
	return vm;
}

bool cfs_vm_any(struct cfs *fs)
{
	struct cfs_lock *l;
	bool any = false;

	pthread_mutex_lock(&fs->locks->mutex);
	list_for_each (l, &fs->locks->lru, lru)
		any = any || l->vm_taken;
	pthread_mutex_unlock(&fs->locks->mutex);
	return any;
}

static int take(struct cfs *fs, const char *path, uint64_t vbn, unsigned wait_ms,
		struct cfs_vm_lock **out)
{
	struct cfs_lock_owner owner = {.kind = CFS_OWNER_VM, .vm = vbn};
	struct cfs_lock *lock;
	int rc = cfs_lock_get_as(fs, vbn, &owner, MAX(wait_ms, LEAST_WAIT_MS), &lock);

	if (rc < 0) {
		rc = fail_prefix(rc, "VM %s:%s", fs->name, path);
		err_object("%s:%s", fs->name, path);
		return rc;
	}
	if (cfs_vm_is_taken(lock)) {
		cfs_lock_put(lock);
		return here_already(fs, path);
	}
	*out = cfs_vm_new(fs, lock);
	cfs_lock_put(lock);
	return 0;
}

int cfs_vm_lock(struct cfs *fs, const char *path, unsigned wait_ms, struct cfs_vm_lock **out)
{
	struct cfs_lock_record r;
	uint64_t vbn;
	int rc = cfs_vm_find(fs, path, &vbn);

	if (rc == 0)
		rc = cfs_lock_read(fs, vbn, &r);
	if (rc < 0)
		return rc;
	/* Only we write that, so what was read is so: taken twice, or not adopted after a restart. */
	if (runs_here(fs, vbn, &r) && !is_owed(fs, vbn, NULL))
		return here_already(fs, path);
	return take(fs, path, vbn, wait_ms, out);
}

/* Our predecessor in this epoch has offered it, and did not live to hear what became of it. */
static int take_offer_back(struct cfs *fs, const char *path, uint64_t vbn)
{
	struct cfs_lock *l = cfs_locks_use(fs, vbn, LEAST_WAIT_MS);
	int rc;

	if (!l)
		return fail(-EAGAIN, "VM %s:%s: its lock is in use", fs->name, path);
	rc = cfs_vm_is_taken(l) ? here_already(fs, path) : cfs_lock_take_back(l);
	if (rc == 0)
		l->since = 0; /* the journal may hold anything under it */
	cfs_lock_put(l);
	return rc < 0 ? fail_prefix(rc, "VM %s:%s", fs->name, path) : 0;
}

int cfs_vm_adopt(struct cfs *fs, const char *path, struct cfs_vm_lock **out)
{
	struct cfs_lock_record r;
	uint64_t vbn;
	int rc = cfs_vm_find(fs, path, &vbn);

	if (rc == 0)
		rc = cfs_lock_read(fs, vbn, &r);
	if (rc < 0)
		return rc;
	if (!runs_here(fs, vbn, &r))
		return fail(-ENOENT, "VM %s:%s: its lock does not name this host", fs->name, path);
	if (cfs_lock_is_offered(&r))
		rc = take_offer_back(fs, path, vbn);
	return rc < 0 ? rc : take(fs, path, vbn, 0, out);
}

int cfs_vm_lock_look(const struct cfs_vm_lock *vm)
{
	struct cfs_lock_record r;
	int rc = cfs_lock_read(vm->fs, vm->vbn, &r);

	if (rc < 0)
		return rc;
	return runs_here(vm->fs, vm->vbn, &r) && r.state == CFS_LOCK_ACTIVE ? 0 : -ESTALE;
}

uint64_t cfs_vm_lock_vbn(const struct cfs_vm_lock *vm)
{
	return vm->vbn;
}

/* A disk's lock that this host still holds in the VM's name: 0 when there is none. */
static uint64_t disk_left(struct cfs *fs, uint64_t vm, bool *pinned)
{
	struct cfs_locks *t = fs->locks;
	uint64_t vbn = 0;
	struct cfs_lock *l;

	pthread_mutex_lock(&t->mutex);
	list_for_each (l, &t->lru, lru) {
		if (l->vbn == vm || l->held == CFS_LOCK_FREE || !cfs_lock_is_vm(&l->rec) ||
		    le64_get(l->rec.vm) != vm)
			continue;
		vbn = l->vbn;
		*pinned = l->pins > 0;
		break;
	}
	pthread_mutex_unlock(&t->mutex);
	return vbn;
}

/*
 * Whoever has the VM's lock takes its disks' locks without asking (lockdisk.c). So a disk's lock whose
 * release failed goes first: under it may lie changes that are not in place.
 */
static int give_up_disks(struct cfs *fs, const struct cfs_lock_owner *owner, unsigned wait_ms)
{
	bool pinned = false;
	int rc = 0;

	for (;;) {
		uint64_t vbn = disk_left(fs, owner->vm, &pinned);
		struct cfs_lock *lock;

		if (!vbn || rc < 0)
			return rc;
		if (pinned)
			return fail(-EBUSY, "a disk of the VM (lock %llu) is still open",
				    (unsigned long long)vbn);
		rc = cfs_lock_get_as(fs, vbn, owner, wait_ms, &lock);
		if (rc == 0)
			rc = cfs_lock_drop(lock);
	}
}

/* Caller holds nothing: owed no more, unless somebody has started it anew meanwhile. */
static void paid(struct cfs *fs, uint64_t vbn)
{
	struct cfs_lock *l;

	pthread_mutex_lock(&fs->locks->mutex);
	l = cfs_locks_find(fs->locks, vbn);
	if (l && !l->vm_taken)
		set_owed(l, false);
	pthread_mutex_unlock(&fs->locks->mutex);
}

/* The VM's lock, in use by the caller, and owed; put. */
static int give_up(struct cfs_lock *lock, const struct cfs_lock_owner *owner, unsigned wait_ms)
{
	struct cfs *fs = lock->fs;
	int rc = give_up_disks(fs, owner, wait_ms);

	if (rc == 0)
		rc = cfs_lock_drop(lock);
	else
		cfs_lock_put(lock);
	if (rc == 0)
		paid(fs, owner->vm);
	return rc;
}

int cfs_vm_unlock(struct cfs_vm_lock *vm)
{
	struct cfs_lock_owner owner = {.kind = CFS_OWNER_VM, .vm = vm->vbn};
	struct cfs_lock *lock;
	int rc;

	MUST(!vm->held); /* an offer is decided first: retract, or forget */
	rc = cfs_lock_get_as(vm->fs, vm->vbn, &owner, UNLOCK_WAIT_MS, &lock);
	set_taken(vm->lock, false, true);
	cfs_lock_unpin(vm->lock); /* it is kept, being owed */
	if (rc == 0)
		rc = give_up(lock, &owner, UNLOCK_WAIT_MS);
	if (rc < 0)
		note_failed(vm->fs, vm->vbn);
	free(vm);
	return rc;
}

void cfs_vm_leave(struct cfs_vm_lock *vm)
{
	free(vm->held); /* what is being handed over stays in use until the volume goes */
	free(vm);
}

void cfs_vm_owe(struct cfs *fs, const char *path)
{
	struct cfs_lock *l;
	uint64_t vbn;

	if (cfs_vm_find(fs, path, &vbn) < 0)
		return;
	pthread_mutex_lock(&fs->locks->mutex);
	l = cfs_locks_find(fs->locks, vbn);
	if (!l)
		l = cfs_locks_make(fs->locks, vbn);
	if (!l->vm_taken) {
		set_owed(l, true);
		l->owed_long = true;
	}
	pthread_mutex_unlock(&fs->locks->mutex);
}

/* --- given up later ---------------------------------------------------------------------------------- */

/* The longest one is tried again first: vbn, or 0. */
static uint64_t next_owed(struct cfs_locks *t)
{
	uint64_t now = clock_boot_ms(), vbn = 0;
	struct cfs_lock *l;

	pthread_mutex_lock(&t->mutex);
	if (t->owed && t->owed_ms <= now) {
		list_for_each (l, &t->lru, lru)
			if (l->owed && !l->used && !vbn)
				vbn = l->vbn;
		t->owed_pause_ms = MIN(MAX(2 * t->owed_pause_ms, PAY_FIRST_MS), PAY_LAST_MS);
		t->owed_ms = now + t->owed_pause_ms;
	}
	pthread_mutex_unlock(&t->mutex);
	return vbn;
}

/* 0: it is done with. What may be written still, or is not known, is settled on the way. */
static int pay(struct cfs *fs, uint64_t vbn)
{
	struct cfs_lock_owner owner = {.kind = CFS_OWNER_VM, .vm = vbn};
	struct cfs_lock_record r;
	struct cfs_lock *lock;
	int rc = cfs_lock_read(fs, vbn, &r);

	if (rc < 0)
		return rc;
	if (!runs_here(fs, vbn, &r)) { /* an attempt has come through after all */
		paid(fs, vbn);
		return 0;
	}
	rc = cfs_lock_get_as(fs, vbn, &owner, 0, &lock);
	if (rc == 0 && cfs_vm_is_taken(lock))
		cfs_lock_put(lock);
	else if (rc == 0)
		rc = give_up(lock, &owner, 0);
	return rc;
}

void cfs_vm_pay(struct cfs *fs)
{
	uint64_t vbn = next_owed(fs->locks);
	char text[128];
	int rc;

	if (!vbn)
		return;
	rc = pay(fs, vbn);
	if (rc < 0) {
		log_debug("cfs", "volume %s: VM %llu: its lock is not given up: %s", fs->name,
			  (unsigned long long)vbn, err_message(rc));
		return;
	}
	pthread_mutex_lock(&fs->locks->mutex);
	fs->locks->owed_ms = 0; /* it works again, so the others may go, too */
	pthread_mutex_unlock(&fs->locks->mutex);
	(void)str_format(text, sizeof(text), "VM %llu: its lock is given up now",
			 (unsigned long long)vbn);
	cfs_tell(fs, "lock", text);
}

/* --- where it is ----------------------------------------------------------------------------------- */

static void name_of(struct cfs *fs, unsigned slot, uint32_t epoch, char name[64])
{
	struct cfs_slot_view v;

	if (slot == fs->slot && epoch == fs->epoch) {
		(void)str_format(name, 64, "%.63s", fs->options.host_name);
		return;
	}
	cfs_slot_view(fs, slot, &v);
	(void)str_format(name, 64, "%.63s", v.claim.name);
}

int cfs_vm_where(struct cfs *fs, const char *path, struct cfs_vm_where *out)
{
	struct cfs_lock_record r;
	uint64_t vbn;
	bool owed;
	int rc = cfs_vm_find(fs, path, &vbn);

	memset(out, 0, sizeof(*out));
	if (rc == 0)
		rc = cfs_lock_read(fs, vbn, &r);
	if (rc < 0 || !runs(vbn, &r))
		return rc;
	if (cfs_lock_is_saved(&r)) {
		out->state = CFS_VM_SAVED;
		cfs_saved_get(&r, &out->saved);
		return 0;
	}
	cfs_lock_life(&r, &out->slot, &out->epoch);
	if (out->slot >= CFS_MAX_SLOTS || cfs_slot_life(fs, out->slot, out->epoch) == CFS_LIFE_DEAD)
		return 0;
	out->here = runs_here(fs, vbn, &r);
	if (out->here && is_owed(fs, vbn, &owed)) {
		*out = (struct cfs_vm_where){.owed = owed};
		return 0;
	}
	out->state = CFS_VM_RUNS;
	name_of(fs, out->slot, out->epoch, out->host);
	if (!cfs_lock_is_offered(&r))
		return 0;
	out->state = CFS_VM_OFFERED;
	out->to_slot = le16_get(r.owner_slot) % CFS_MAX_SLOTS;
	out->to_epoch = le32_get(r.owner_epoch);
	name_of(fs, out->to_slot, out->to_epoch, out->to);
	return 0;
}

int cfs_vm_owner(struct cfs *fs, const char *path, char *host, size_t size)
{
	struct cfs_vm_where where;
	int rc = cfs_vm_where(fs, path, &where);

	if (rc == 0 && (where.state == CFS_VM_STOPPED || where.state == CFS_VM_SAVED))
		rc = fail(-ENOENT, "VM %s:%s: nobody runs it", fs->name, path);
	if (rc == 0)
		(void)str_format(host, size, "%s", where.host);
	return rc;
}
