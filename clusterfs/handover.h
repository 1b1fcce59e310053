// SPDX-License-Identifier: Apache-2.0
/* handover.h (private to vmlock.c, handover.c, baggage.c): a VM that this host runs. */
#ifndef CLUSTERFS_HANDOVER_H
#define CLUSTERFS_HANDOVER_H

#include "clusterfs/locks.h"

struct cfs_vm_lock {
	struct cfs *fs;
	uint64_t vbn;
	struct cfs_lock *lock; /* pinned */
	/* while it is offered: its own and its open files', in ascending order, in use by the hand-over */
	struct cfs_lock **held;
	unsigned n;
	bool settled; /* INV-FS-5 is kept for them: nothing under them is dirty */
};

/* The definition's lock block. */
int cfs_vm_find(struct cfs *fs, const char *path, uint64_t *vbn);
/* A lock that is this host's now, in use by the caller, becomes the VM's. */
struct cfs_vm_lock *cfs_vm_new(struct cfs *fs, struct cfs_lock *lock);
/* This host runs the VM whose lock that is. */
bool cfs_vm_is_taken(struct cfs_lock *l);
/* Release thread: VMs' locks that could not be given up are tried again, with pauses. */
void cfs_vm_pay(struct cfs *fs);
/* Some VM's lock is held here. */
bool cfs_vm_any(struct cfs *fs);
/* Numbers of the locks that this host holds in the VM's name, its own with them; to be freed. Ascending. */
uint64_t *cfs_vm_locks(struct cfs *fs, uint64_t vm, unsigned *n);

/*
 * baggage.c. What baggage says of the VM's lock, when it is for this volume and that VM; false otherwise.
 * Into the table and the cache: its disks' locks, and blocks under them. The VM's lock is ours.
 */
bool cfs_baggage_lock(struct cfs *fs, const void *baggage, size_t size, uint64_t vm,
		      struct cfs_lock_record *out);
void cfs_baggage_unpack(struct cfs *fs, const void *baggage, size_t size, uint64_t vm);

#endif
