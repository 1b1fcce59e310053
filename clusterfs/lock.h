// SPDX-License-Identifier: Apache-2.0
/*
 * lock.h (private): locks on the disk, as this host holds them.
 *
 * A lock block is changed by compare-and-write only (INV-FS-1), each attempt with a fresh token; an
 * unknown outcome is settled by another compare-and-write (INV-BLK-2). The host keeps a lock until
 * another one wishes for it (beat block) or it is told to drop it. It leaves in four steps
 * (INV-FS-5): checkpoint in place what it protects - flush - a durable RELEASED record - the
 * compare-and-write. Release runs in a thread of its own, which never waits for a lock.
 *
 *	cfs_lock_get    the host holds it on the disk, and this thread has its use mutex
 *	cfs_lock_put    the use mutex is free again; the host keeps the lock
 *	cfs_lock_pin    the host must not give it up (no use mutex): stocks of blocks, open disks
 */
#ifndef CLUSTERFS_LOCK_H
#define CLUSTERFS_LOCK_H

#include "clusterfs/volume.h"

struct cfs_lock;

#define CFS_LOCK_WAIT_MS 30000u /* metadata work waits that long for another host */

int cfs_locks_start(struct cfs *fs);
/* The journal is there (replayed, if it was ours): from now on other hosts' wishes are served. */
void cfs_locks_serve(struct cfs *fs);
bool cfs_locks_serving(const struct cfs *fs);
/* Gives up every lock (four steps each) and ends the release thread. `give_up` false: just ends. */
int cfs_locks_stop(struct cfs *fs, bool give_up);

/*
 * Takes the lock block `vbn` in `mode` for this host and its use mutex for this thread. Waits up to
 * `wait_ms` for other hosts (wishing), 0: tries once. A stale lock (dead epoch) is broken on the way; it
 * waits while that slot is recovering. -EBUSY (holder named), -ESTALE, -EIO, -EUCLEAN.
 */
int cfs_lock_get(struct cfs *fs, uint64_t vbn, enum cfs_lock_mode mode, unsigned wait_ms,
		 struct cfs_lock **out);
void cfs_lock_put(struct cfs_lock *lock);
void cfs_lock_pin(struct cfs_lock *lock); /* use mutex held */
void cfs_lock_unpin(struct cfs_lock *lock);
/* Gives the lock up on the disk now, in four steps; use mutex held, freed with it. No pins. */
int cfs_lock_drop(struct cfs_lock *lock);
/*
 * Called by the release thread when another host wishes for it, before it tries to give it up: the
 * owner of pins may let go (group.c gives back its stock). Must not block on a lock or I/O.
 */
void cfs_lock_on_wish(struct cfs_lock *lock, void (*fn)(void *arg), void *arg);
/* True when the content block must be read again: the lock was not ours without a break. Cleared. */
bool cfs_lock_fresh(struct cfs_lock *lock);
/*
 * The use mutex of a lock that an open file of this host holds, in whosever name: what it protects is
 * newest in memory, and the file is not closed before cfs_lock_put. NULL: there is none such, or others
 * used it for `wait_ms`.
 */
struct cfs_lock *cfs_lock_use_open(struct cfs *fs, uint64_t vbn, unsigned wait_ms);
uint64_t cfs_lock_vbn(const struct cfs_lock *lock);
/* It is a VM's own lock, and this host runs that VM. Use mutex held. */
bool cfs_lock_runs_vm(const struct cfs_lock *lock);
/*
 * Told by a transaction for each lock under which it changes something; `sequence` is its number. So
 * a lock under which nothing was changed is given up without commit and RELEASED record. Cheap.
 */
void cfs_lock_touched(struct cfs *fs, uint64_t lock_vbn, uint64_t sequence);

/* Locks whose owner is named by hand: VMs' locks and the disks that belong to a VM. */
struct cfs_lock_owner {
	enum cfs_owner_kind kind;
	unsigned slot; /* CFS_OWNER_HOST */
	uint32_t epoch;
	uint64_t vm; /* CFS_OWNER_VM */
};
/* As cfs_lock_get, exclusive, but the record names `owner`: a VM whose lock this host holds. */
int cfs_lock_get_as(struct cfs *fs, uint64_t vbn, const struct cfs_lock_owner *owner,
		    unsigned wait_ms, struct cfs_lock **out);
/* Reads a lock block; validated. */
int cfs_lock_read(struct cfs *fs, uint64_t vbn, struct cfs_lock_record *out);
/* Words for who holds it: "host alpha (slot 1, epoch 4)"; "" when free. */
void cfs_lock_holder(struct cfs *fs, const struct cfs_lock_record *record, char *dst, size_t size);
/* An initial, free lock block for a new object, into a 4 KiB buffer. */
void cfs_lock_init_block(void *block, const uint8_t volume[16], uint64_t vbn, uint64_t object);

/* Locks that are no objects' (label, fence): the same records, no four steps. */
int cfs_plain_lock(struct cfs *fs, uint64_t vbn, unsigned wait_ms);
int cfs_plain_unlock(struct cfs *fs, uint64_t vbn);

#endif
