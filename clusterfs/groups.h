// SPDX-License-Identifier: Apache-2.0
/*
 * groups.h (private to group.c, stock.c, slab.c, reclaim.c): resource groups in memory.
 *
 * `taken` holds what nobody may take now: the bits on the disk, plus units in stocks, plus what was
 * freed by a transaction that is not durable yet. The groups mutex guards it, the slabs' masks and the
 * stocks; it is never held across I/O. Bitmaps and headers (cfs_buf) change in transactions only.
 */
#ifndef CLUSTERFS_GROUPS_H
#define CLUSTERFS_GROUPS_H

#include "clusterfs/group.h"
#include "clusterfs/journal.h"
#include "clusterfs/lock.h"

struct group {
	struct cfs *fs;
	unsigned number; /* over all extents */
	uint64_t vbn;	 /* first block: the lock block */
	uint32_t units, meta_units;
	unsigned maps;	       /* bitmap blocks */
	struct cfs_lock *lock; /* pinned while held */
	bool held;
	_Atomic bool wished; /* another host wants it */
	/* Reasons to keep it: units out in stocks or on their way, reservations, holds. */
	_Atomic uint32_t out;
	struct cfs_buf *header, **bitmap, **reclaim;
	uint8_t *taken;
	uint32_t mem_free; /* clear bits of `taken` */
	uint32_t hint;	   /* where the last search ended */
	uint16_t slab_taken[CFS_SLABS];
	uint16_t slab_hint[CFS_SLAB_META + 1]; /* no slab of that kind before has a free block */
	uint32_t known_free;		       /* not held: what its header said last */
};

struct pending { /* freed, reusable once its transaction is durable */
	struct list link;
	uint64_t stream; /* where the transaction began */
	uint64_t vbn;
	uint32_t units; /* 0: a block of a slab */
	enum cfs_slab_type slab;
};

/* Groups come in pieces of an array, since they become more and must stay where they are. */
#define GROUPS_PIECE 1024u
#define GROUPS_MAX   (CFS_MAX_VOLUME / CFS_MIN_GROUP + CFS_MAX_EXTENTS) /* as labels are checked */

struct cfs_groups {
	pthread_mutex_t lock;
	pthread_cond_t work, filled;
	struct group *piece[DIV_ROUND_UP(GROUPS_MAX, GROUPS_PIECE)];
	_Atomic unsigned count; /* changes under the lock, when the new ones are described */
	struct list stocks;
	pthread_mutex_t pending_lock; /* innermost: taken inside transactions */
	struct list pending;
	pthread_t thread;
	bool stopping;
	pthread_mutex_t acquire_lock; /* one thread at a time looks for a new group; across I/O */
	uint64_t last_free,
		last_reclaim; /* bytes in all groups as last counted; UINT64_MAX: never */
	uint64_t ahead_ns;    /* CLOCK_BOOTTIME: not before, for lack of a group to take ahead */
};

static inline struct cfs_group *group_header(const struct group *g)
{
	return (struct cfs_group *)g->header->data;
}
static inline bool bit_get(const uint8_t *bits, uint32_t i)
{
	return bits[i / 8] >> (i % 8) & 1;
}
static inline void bit_put(uint8_t *bits, uint32_t i, bool on)
{
	if (on)
		bits[i / 8] |= (uint8_t)(1u << (i % 8));
	else
		bits[i / 8] &= (uint8_t) ~(1u << (i % 8));
}
static inline uint32_t group_reserve(const struct group *g)
{
	return MAX(1u, g->units / 64);
}

static inline struct group *group_nth(const struct cfs_groups *gs, unsigned number)
{
	return &gs->piece[number / GROUPS_PIECE][number % GROUPS_PIECE];
}
struct group *group_at(struct cfs *fs, uint64_t vbn);
/* The unit of a vbn in its group. */
uint32_t group_unit(const struct group *g, uint64_t vbn);
uint64_t group_unit_vbn(const struct group *g, uint32_t unit);

/* Groups mutex held. A clear run of at most `want` units; 0: none. Marks it taken. */
uint32_t group_take_run(struct group *g, uint32_t want, uint32_t keep, uint32_t *unit);
void group_untake(struct group *g, uint32_t unit, uint32_t n);
/* Takes the group's lock and loads it; blocking, no mutex held. `wait_ms` as cfs_lock_get. */
int group_acquire(struct group *g, unsigned wait_ms);
/* One more group with at least `need` units to take; -ENOSPC when the volume has none. Blocking. */
int group_acquire_any(struct cfs *fs, uint32_t need, bool for_meta);
/* What became durable may be taken again. */
void groups_settle(struct cfs *fs);
/* In a transaction: sets or clears bits on the disk, counts right; `freed` sets reclaim bits. */
void group_mark(struct cfs_txn *txn, struct group *g, uint32_t unit, uint32_t n, bool taken);
void group_pend(struct cfs_txn *txn, uint64_t vbn, uint32_t units, enum cfs_slab_type slab);

/* slab.c. Groups mutex held: whether the header says that a block is in use; its bit in memory. */
bool cfs_meta_used(struct group *g, enum cfs_slab_type type, uint64_t vbn);
void cfs_meta_reserve_locked(struct group *g, enum cfs_slab_type type, uint64_t vbn);
void cfs_meta_unreserve_locked(struct group *g, enum cfs_slab_type type, uint64_t vbn);

/* stock.c, for the groups' thread. Groups mutex held. */
void stocks_give_back(struct cfs *fs, struct group *g);
bool stocks_hungry(struct cfs *fs);
/* Blocking, no mutex held. Returns the largest target of those that were refilled, 0: none. */
uint32_t stocks_refill(struct cfs *fs);

#endif
