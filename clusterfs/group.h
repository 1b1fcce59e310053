// SPDX-License-Identifier: Apache-2.0
/*
 * group.h (private): resource groups: space.
 *
 * The host keeps the groups it allocates from (their locks are pinned while a stock is out). A
 * bit is set, or cleared, in the same transaction that names, or forgets, the unit. What a transaction
 * freed is free for others to take only when it is durable (INV-FS-4): until then the unit stays taken
 * in memory. A reserve in each group serves only what frees space.
 */
#ifndef CLUSTERFS_GROUP_H
#define CLUSTERFS_GROUP_H

#include "clusterfs/txn.h"

int cfs_groups_start(struct cfs *fs);
void cfs_groups_stop(struct cfs *fs);
/* After grow: new groups. Label lock held. */
int cfs_groups_extend(struct cfs *fs);

unsigned cfs_group_count(struct cfs *fs);
/* First vbn and number of units of group `g` (a number over all extents). */
void cfs_group_place(struct cfs *fs, unsigned g, uint64_t *vbn, uint32_t *units);
/* The group that a vbn lies in. */
unsigned cfs_group_of(struct cfs *fs, uint64_t vbn);

/* --- units: stocks taken ahead, used without waiting ----------------------------------------------- */

/*
 * A stock (see iopath.h) has one user at a time, an I/O thread or a blocking writer. A refill runs in the
 * background once it is low.
 */
int cfs_stock_create(struct cfs *fs, struct cfs_stock **out);
/* Gives unused units back. */
void cfs_stock_destroy(struct cfs_stock *stock);
/* Blocking refill for pool threads: 0 or -ENOSPC. */
int cfs_stock_fill(struct cfs_stock *stock, uint32_t want);

/* --- freeing ------------------------------------------------------------------------------------------ */

/* Has the group held by this host, and loaded, until cfs_group_unhold. Blocking. */
int cfs_group_hold(struct cfs *fs, unsigned g);
void cfs_group_unhold(struct cfs *fs, unsigned g);
/* In a transaction, group held: clears the bits, sets reclaim bits; reusable once durable. */
void cfs_units_free(struct cfs_txn *txn, uint64_t vbn, uint32_t units);
/* --- metadata blocks out of slabs ----------------------------------------------------------------------- */

/*
 * Reserves in memory; cfs_meta_use in a transaction makes it real. CFS_SLAB_INODE: *vbn is the inode's
 * block, its lock block lies before it. Blocking (may take groups, new slabs). `near`: same group if
 * it can be.
 */
int cfs_meta_reserve(struct cfs *fs, enum cfs_slab_type type, uint64_t near, uint64_t *vbn);
void cfs_meta_unreserve(struct cfs *fs, enum cfs_slab_type type, uint64_t vbn);
void cfs_meta_use(struct cfs_txn *txn, enum cfs_slab_type type, uint64_t vbn);
/* In a transaction, group held. Reusable once durable and the journal's tail has passed it. */
void cfs_meta_free(struct cfs_txn *txn, enum cfs_slab_type type, uint64_t vbn);

/* Before there is a journal: room for one, taken in place (mount.c); its group comes held. */
int cfs_groups_place_journal(struct cfs *fs, uint32_t blocks, uint64_t *vbn);
/* Sends freed units back to the array, up to `bytes`. Blocking. */
int cfs_groups_reclaim(struct cfs *fs, uint64_t bytes, uint64_t *done);
/* The same, but only of groups this host holds anyway. */
int cfs_groups_reclaim_held(struct cfs *fs, uint64_t bytes, uint64_t *done);
/* Counts; while the lease does not run, or a header cannot be read: the last count, UINT64_MAX if there was none. */
uint64_t cfs_groups_free_bytes(struct cfs *fs, uint64_t *reclaim_pending);

#endif
