// SPDX-License-Identifier: Apache-2.0
/*
 * volume.h (private to clusterfs): what a mounted volume is in memory, and its plain I/O.
 *
 * Threads: metadata work blocks, in the caller's thread (the daemon's pool); I/O threads of vfs
 * only look up pinned buffers and run transactions (txn.h), which never wait for I/O. Own threads:
 * beat (slot.c), recovery (recover.c), lock release (lock.c), commit and checkpoint (journal.c).
 *
 * Lock order, outermost first: use mutexes of cfs_locks, by vbn - groups (their locks, reservations,
 * holds) - group.c's mutex - journal mutex (a transaction) - buffer cache mutex. Only use mutexes and
 * groups are held across I/O. Who has a group waits for no other lock (docs/design.md).
 */
#ifndef CLUSTERFS_VOLUME_H
#define CLUSTERFS_VOLUME_H

#include <pthread.h>
#include <stdatomic.h>

#include "blockdev/blk.h"
#include "clusterfs/cfs.h"
#include "clusterfs/cfs_format.h"
#include "clusterfs/iopath.h"

struct cfs_slots;
struct cfs_locks;
struct cfs_cache;
struct cfs_journal;
struct cfs_groups;
struct cfs_trash;
struct cfs_janitor;

/*
 * Data written through files (not metadata: that is in the journal) that no flush has made durable yet.
 * With an array's volatile cache they may be gone, though the flush afterwards succeeds. files_lock.
 */
struct cfs_unflushed {
	bool any;
	uint64_t power;	  /* how much was lost before the first of them */
	unsigned writing; /* in flight */
	uint64_t writes;  /* that have begun, ever */
	uint64_t turns;	  /* commits that have begun; those up to `failed` report a loss */
	uint64_t failed;
};

/* How large an extent is; anyone reads it, who changes it holds the label lock. */
struct cfs_span {
	_Atomic uint64_t blocks;
	_Atomic uint64_t groups; /* their number << 32 | units of the last: always as a pair */
};

/* A name the volume has, or had: who took one from cfs.name may use it for as long as it is mounted. */
struct cfs_name {
	struct cfs_name *older;
	char text[64];
};

struct cfs {
	struct cfs_options options; /* strings owned */
	uint8_t id[16];
	const char *_Atomic name; /* of `names`; changes with the label */
	struct cfs_name *names;
	_Atomic unsigned extents;	     /* grows after extent[] and span[] have */
	struct blk *extent[CFS_MAX_EXTENTS]; /* owned by the caller of cfs_mount */
	struct cfs_span span[CFS_MAX_EXTENTS];
	struct cfs_label label; /* copy A of extent 0; label_lock guards it, also across I/O */
	pthread_mutex_t label_lock;
	/* What no label of the volume changes after its format: read without the lock. */
	uint32_t logical_block; /* bytes */
	uint32_t group_units;
	uint32_t beat_ms, silence_beats, lease_ms, flight_ms;
	bool fence_time;
	uint64_t root_dir, trash_dir; /* vbns */

	unsigned slot; /* our slot and epoch; fixed from mount to unmount */
	uint32_t epoch;
	bool resumed; /* ... and a daemon before us had them */
	/* End of the lease, CLOCK_BOOTTIME ns: 0 before the first confirmed beat, may lapse and come
	 * back under the same epoch. In memory that VMMs map read-only (cfs_lease_fd). */
	_Atomic uint64_t *lease_end;
	int lease_fd;
	bool abandoned;		   /* brought down without a word to the disk */
	_Atomic bool dead;	   /* another host took our slot: this life is over */
	_Atomic uint64_t sequence; /* Lamport clock of transactions: the largest seen */

	struct cfs_slots *slots;
	struct cfs_locks *locks;
	struct cfs_cache *cache;
	struct cfs_journal *journal;
	struct cfs_groups *groups;
	_Atomic bool took_over;	    /* a dead host was taken over since trash.c looked */
	_Atomic bool leaving;	    /* what is long and can be taken up again ends early, -ESTALE */
	struct cfs_trash *trash;    /* deletions in the background (names.h); NULL: done at once */
	pthread_mutex_t files_lock; /* guards the list of open files */
	struct cfs_file *files;
	struct cfs_unflushed unflushed; /* of all files */
	struct cfs_janitor *janitor;
};

/* The first half of a mount and of `check`, `dump`: reads and validates labels, matches extents. */
int cfs_label_load(struct blk **blks, unsigned n, struct cfs_label *label, struct blk **ordered);
/* The label that was just loaded into fs->label, and all that follows from it; and its end. */
void cfs_label_begin(struct cfs *fs);
void cfs_label_end(struct cfs *fs);
/*
 * Label lock held: `next`, which may be fs->label, is in force now: label, name, sizes; the number of
 * extents last.
 */
void cfs_label_take(struct cfs *fs, const struct cfs_label *next);
/* Encodes the label (sequence one more) and writes both copies on each extent. Label lock held. */
int cfs_label_store(struct cfs *fs);

/* --- plain I/O by volume block number; blocking; never across extents -------------------------- */

int cfs_read(struct cfs *fs, uint64_t vbn, void *buf, size_t bytes);
/* `flags` as blk_req: BLK_FUA, BLK_UNGATED. */
int cfs_write(struct cfs *fs, uint64_t vbn, const void *buf, size_t bytes, unsigned flags);
/* Several places of one extent, in no order. */
int cfs_write_parts(struct cfs *fs, unsigned extent, const struct blk_part *part, size_t n);
/*
 * Flushes every extent. What has been lost before or during it, with a session or the array's power, it
 * does not say: that is for who remembers since when it matters.
 */
int cfs_flush(struct cfs *fs);
/*
 * The same for writes that began after `power` was had from cfs_power(): -EIO when a cache may have
 * been lost since, so that they must be written again.
 */
int cfs_flush_since(struct cfs *fs, uint64_t power);
uint64_t cfs_power(const struct cfs *fs);
/* unflushed.c. A file's data; counted in `file` and in the volume. */
int cfs_write_data(struct cfs *fs, struct cfs_unflushed *file, uint64_t vbn, const void *buf,
		   size_t bytes);
/* All records and data are durable; -EIO, once, when data of `u` may be lost. */
int cfs_commit_data(struct cfs *fs, struct cfs_unflushed *u);
/*
 * After a command that ended with `rc`: where that leaves open whether it is executed still, waits until
 * it cannot be any more (the volume's flight time), so that what it was for can be used again.
 */
void cfs_let_land(struct cfs *fs, int rc);
/* The extent and the byte offset in it of a vbn; MUST be inside. */
struct blk *cfs_locate(struct cfs *fs, uint64_t vbn, uint64_t *offset);

/* --- heads (block.c) ----------------------------------------------------------------------------- */

/* Fills the head but `sequence` and `owner`, which stand there already, and the checksum. */
void cfs_block_seal(void *block, enum cfs_type type, const uint8_t volume[16], uint64_t vbn);
/* -EUCLEAN, in words, when magic, type, volume, address or checksum is not right. */
int cfs_block_check(const void *block, enum cfs_type type, const uint8_t volume[16], uint64_t vbn);
/* The same for a 512-byte record. */
void cfs_record_seal(void *record, enum cfs_type type, const uint8_t volume[16], uint64_t vbn);
int cfs_record_check(const void *record, enum cfs_type type, const uint8_t volume[16],
		     uint64_t vbn);
const char *cfs_type_name(enum cfs_type type);

#endif
