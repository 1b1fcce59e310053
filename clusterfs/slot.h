// SPDX-License-Identifier: Apache-2.0
/*
 * slot.h (private): a host's place on the volume: claim, beat, lease; and watching the others.
 *
 * INV-HA-1, a beat: write one's beat block, then read all claims and beats; if the own claim still
 * stands, the lease runs from the write's submission. A host writes only while it runs; the check is
 * in blockdev's lowest submit. It runs again only under the same epoch.
 * INV-HA-2, a takeover: claim by compare-and-write, fence (or wait lease + flight, counted from the
 * claim), evict, replay, free. Silence is counted in own consecutive confirmed beats.
 */
#ifndef CLUSTERFS_SLOT_H
#define CLUSTERFS_SLOT_H

#include "clusterfs/volume.h"

/* What the last confirmed beat showed; a copy. */
struct cfs_slot_view {
	struct cfs_claim_record claim; /* validated; state free if the block is damaged */
	struct cfs_beat_record beat;
	bool beat_valid;
	unsigned silent_beats; /* own confirmed beats since it last moved */
	uint64_t moved_ms;     /* BOOTTIME of that */
};

/*
 * Takes a slot: the one this state directory had (same boot, dead daemon: same epoch, *resumed true),
 * else a free one, else its own old one as a stranger would. Starts the beat thread. Fills fs->slot
 * and epoch. Registers with the fence first. `check` claims for `volume check`. fs->lease_end is there
 * already; from now on the extents obey it, until the mount takes it away from them.
 */
int cfs_slot_take(struct cfs *fs, bool check, bool *resumed);
/* Unmount: everything is checkpointed; ends the beat, frees the claim by compare-and-write. */
int cfs_slot_leave(struct cfs *fs);
/* Ends the thread without a word to the disk. */
void cfs_slot_abandon(struct cfs *fs);
void cfs_slot_view(struct cfs *fs, unsigned slot, struct cfs_slot_view *out);

/* Is the life (slot, epoch) over *and* replayed: may its locks be broken? */
enum cfs_life { CFS_LIFE_ALIVE, CFS_LIFE_RECOVERING, CFS_LIFE_DEAD };
enum cfs_life cfs_slot_life(struct cfs *fs, unsigned slot, uint32_t epoch);
/*
 * BOOTTIME ms from which on the lease of a dead life is over, so that its VMs may run elsewhere;
 * UINT64_MAX while that life stands. Its last confirmed beat had landed before its claim was taken,
 * so it was in the first look that showed the claim gone, or in an earlier one: counted from there.
 */
uint64_t cfs_slot_lease_over_ms(struct cfs *fs, unsigned slot, uint32_t epoch);
/* Until the next confirmed beat, at most `wait_ms`. */
int cfs_slot_wait_beat(struct cfs *fs, unsigned wait_ms);

/* Wishes for the own beat block; a full list drops the oldest. */
void cfs_slot_wish(struct cfs *fs, uint64_t lock_vbn);
void cfs_slot_unwish(struct cfs *fs, uint64_t lock_vbn);

/* Changes the own claim (journal's place, sessions) by compare-and-write. */
int cfs_slot_set_journal(struct cfs *fs, uint64_t vbn, uint32_t blocks);
void cfs_slot_journal(struct cfs *fs, unsigned slot, uint64_t *vbn, uint32_t *blocks);
/* Claims more sessions when the LUNs have come to use more than the claim says. */
int cfs_slot_update_sessions(struct cfs *fs);
/* Grow: host lock and fence of one more extent, and giving them back. */
int cfs_slot_join_extent(struct cfs *fs, unsigned extent);
void cfs_slot_leave_extent(struct cfs *fs, unsigned extent);
/* Reads the label again when another host has changed it: sizes, name. -EBUSY: more LUNs. (grow.c) */
int cfs_label_refresh(struct cfs *fs);
/*
 * From now on this host's beats say that it serves (slot, epoch) no more. A look that shows a claim
 * that is not active does the same.
 */
void cfs_slot_refuse(struct cfs *fs, unsigned slot, uint32_t epoch);

/* Do the beats of all other active hosts say that they serve (slot, epoch) no more? */
bool cfs_slot_evicted(struct cfs *fs, unsigned slot, uint32_t epoch);
/*
 * The next life, if any, whose eviction our beat says since the last call, and who takes it over:
 * true and filled. For the recovery thread.
 */
bool cfs_slot_next_evicted(struct cfs *fs, unsigned *slot, uint32_t *epoch, unsigned *by);
/* A beat and a look at once, and quick ones for a while. Any thread. */
void cfs_slot_look_soon(struct cfs *fs);

/* The recovery thread (recover.c): takes over silent slots. */
int cfs_recover_start(struct cfs *fs);
void cfs_recover_stop(struct cfs *fs);
/* One takeover, also used by mount and check: claim, fence, wait, replay, free. Blocking. */
int cfs_recover_slot(struct cfs *fs, unsigned slot);

/* Fencing (fence.c): what this volume's LUNs can do. */
enum cfs_fence_kind { CFS_FENCE_BY_PR, CFS_FENCE_BY_FILE, CFS_FENCE_BY_TIME, CFS_FENCE_NONE };
enum cfs_fence_kind cfs_fence_kind(struct cfs *fs);
/* Registers own key (slot, epoch) on every extent; takes the reservation where nobody holds it. */
int cfs_fence_join(struct cfs *fs);
int cfs_fence_leave(struct cfs *fs);
int cfs_fence_join_extent(struct cfs *fs, unsigned extent);
void cfs_fence_leave_extent(struct cfs *fs, unsigned extent);
/* Makes sure that nothing of (slot, epoch) reaches the medium any more; `claim` is its claim. */
int cfs_fence_host(struct cfs *fs, const struct cfs_claim_record *claim);

#endif
