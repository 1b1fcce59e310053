// SPDX-License-Identifier: Apache-2.0
/*
 * beat.h (private to slot.c and beat.c): the beat thread and what it sees.
 */
#ifndef CLUSTERFS_BEAT_H
#define CLUSTERFS_BEAT_H

#include "clusterfs/self.h"
#include "clusterfs/slot.h"

struct cfs_beat; /* the threads' own */
struct cfs_recovery;

struct cfs_slots {
	struct cfs_self self;
	int state_fd;	   /* the state directory's lock on this volume */
	uint32_t held;	   /* extents whose host lock we hold, a bit each */
	bool joined;	   /* registered with the fence */
	uint32_t lease_ms; /* ours: the label's, or longer */
	struct cfs_beat *beat;
	struct cfs_recovery *recovery;

	pthread_mutex_t claim_lock;  /* changes of the own claim; held across its I/O */
	struct cfs_claim_record own; /* as it stands on the disk */
	_Atomic bool claimed;
	_Atomic bool gone; /* a look of the fence found another life in our claim */

	pthread_mutex_t lock; /* all below; never held across I/O */
	pthread_cond_t seen;  /* a beat was confirmed, or the life is over */
	uint64_t confirmed;   /* beats that were, since the start */
	bool ended;	      /* no beat will come any more */
	struct cfs_slot_view view[CFS_MAX_SLOTS];
	uint8_t raw[CFS_MAX_SLOTS][CFS_RECORD]; /* each beat as last read: what "moves" means */
	uint64_t beat_ms[CFS_MAX_SLOTS];	/* BOOTTIME when its beat block last differed */
	uint64_t epoch_ms[CFS_MAX_SLOTS];	/* ... and when its epoch was first seen */
	uint64_t wish[CFS_WISHES];
	unsigned next_wish;
	uint32_t refused[CFS_MAX_SLOTS];
	uint32_t refusing[CFS_MAX_SLOTS]; /* as in the beat that was written last ... */
	uint32_t refuses[CFS_MAX_SLOTS];  /* ... and in the last confirmed one */
	uint32_t evicted[CFS_MAX_SLOTS];  /* ... of which the recoverer was told */
	uint64_t counter;		  /* of the own beat */
	uint64_t label_sequence;
	uint64_t wished_ms; /* BOOTTIME when a wish, ours or another's, stood last */
};

/* Claims and beats lie together: one read brings both. */
#define CFS_AREA_BLOCKS (CFS_BEATS + CFS_MAX_SLOTS - CFS_CLAIMS)
#define CFS_AREA_BYTES	((size_t)CFS_AREA_BLOCKS * CFS_BLOCK)
static inline const void *cfs_area_claim(const uint8_t *area, unsigned slot)
{
	return area + (size_t)slot * CFS_BLOCK;
}
static inline const void *cfs_area_beat(const uint8_t *area, unsigned slot)
{
	return area + (size_t)(CFS_BEATS - CFS_CLAIMS + slot) * CFS_BLOCK;
}

/*
 * Starts the thread for fs->slot and fs->epoch and waits for the first confirmed beat. The thread
 * opens a beat channel of extent 0, beats, looks, and keeps *fs->lease_end.
 */
int cfs_beat_start(struct cfs *fs);
/* Somebody wishes: a beat at once, and quickly for a while. Any thread. */
void cfs_beat_hurry(struct cfs *fs);
/* As cfs_slot_wait_beat; ends with -ECANCELED when *stop is set and the watchers are woken. */
int cfs_slot_wait_beat_or(struct cfs *fs, unsigned wait_ms, const _Atomic bool *stop);
void cfs_slot_wake(struct cfs *fs);
/* Ends it, whatever it is in the middle of; the lease is 0 afterwards. */
void cfs_beat_stop(struct cfs *fs);

#endif
