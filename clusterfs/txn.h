// SPDX-License-Identifier: Apache-2.0
/*
 * txn.h (private): metadata buffers, transactions and the journal; with iopath.h, which has what I/O
 * threads use of them.
 *
 * A buffer is a 4 KiB metadata block in memory. A transaction changes buffers and logs what it
 * changed; it holds the journal mutex from begin to end and never does I/O, so that it is atomic
 * against commit and checkpoint, and an I/O thread may run one.
 *
 *	struct cfs_txn t;
 *	cfs_txn_begin(fs, &t);
 *	leaf->entry[i] = e;				 // memory changes ...
 *	cfs_txn_patch(&t, buf, &leaf->entry[i], sizeof(e)); // ... then is logged
 *	cfs_txn_end(&t);				 // answered from now on: it is in the tail
 *
 * INV-FS-2: commit = flush of all extents, then the records with FUA. So log a change of the map only
 * after its data was written. INV-FS-3: cfs_txn_end puts the records into the tail file, which
 * outlives the daemon; a guest may be answered then, a FLUSH only after cfs_commit.
 *
 * The first change of a block after it was copied for a checkpoint logs its whole image, later ones
 * patches. The sequence in the head is a Lamport number, larger than any the host has seen.
 */
#ifndef CLUSTERFS_TXN_H
#define CLUSTERFS_TXN_H

#include "clusterfs/volume.h"

struct cfs_buf {
	uint64_t vbn;
	uint64_t owner; /* vbn of the lock block that protects it */
	enum cfs_type type;
	uint8_t *data; /* CFS_BLOCK bytes; change only in a transaction, by the lock's holder */
	/* private to buf.c, txn.c, journal.c and checkpoint.c; the journal mutex guards all but refs,
	 * lru, hash and owned (the cache's) */
	unsigned refs;
	bool dirty;		/* differs from the medium; changes under both mutexes */
	bool freed;		/* by a transaction that may not be durable: never goes in place */
	bool imaged;		/* an image was logged since the last checkpoint copied it */
	uint64_t first_stream;	/* dirty: where its oldest record that is still needed lies */
	uint64_t image_stream;	/* where its newest image lies */
	uint64_t last_stream;	/* behind its newest record */
	_Atomic uint64_t fresh; /* a leaf's: fresh.c */
	struct list lru, hash, owned, dirty_link, touched_link;
};

/* --- buffer cache (buf.c) ------------------------------------------------------------------------ */

int cfs_cache_create(struct cfs *fs, size_t limit_bytes);
void cfs_cache_destroy(struct cfs *fs);
/* Reads (if it must) and validates; +1 reference. The caller holds the owner's lock. Blocking. */
int cfs_buf_get(struct cfs *fs, uint64_t vbn, enum cfs_type type, uint64_t owner,
		struct cfs_buf **out);
/* Only if it is in memory: NULL otherwise. Never blocks. */
struct cfs_buf *cfs_buf_peek(struct cfs *fs, uint64_t vbn);
/* A new, zeroed block of that type (nothing is read); log it with cfs_txn_image before txn end. */
struct cfs_buf *cfs_buf_new(struct cfs *fs, uint64_t vbn, enum cfs_type type, uint64_t owner);
/*
 * Puts bytes that were read by the caller (an I/O thread's asynchronous read of a map block) into
 * the cache after validation; an older copy in the cache wins. +1 reference.
 */
int cfs_buf_insert(struct cfs *fs, uint64_t vbn, enum cfs_type type, uint64_t owner,
		   const void *data, struct cfs_buf **out);
/* Forgets all clean, unreferenced buffers of a lock that is given up (all must be so). */
void cfs_buf_forget_owner(struct cfs *fs, uint64_t owner);
/*
 * What is in memory of an object's blocks of one type, the newest first: at most `max`, each with a further
 * reference; how many.
 */
size_t cfs_buf_of_owner(struct cfs *fs, uint64_t owner, enum cfs_type type, struct cfs_buf **out,
			size_t max);
/* For checkpoint.c and txn.c: a further reference; dirty or clean again (journal mutex held). */
void cfs_buf_hold(struct cfs *fs, struct cfs_buf *buf);
void cfs_buf_set_dirty(struct cfs *fs, struct cfs_buf *buf, bool dirty);

/* --- transactions (txn.c) -------------------------------------------------------------------------- */

/* As cfs_txn_begin, but waits for room; -ESTALE when the lease is over for good. Not for I/O threads. */
int cfs_txn_begin_wait(struct cfs *fs, struct cfs_txn *txn);
/* Journal mutex held: begins one for which room was kept back (fresh.h). */
void cfs_txn_begin_kept(struct cfs *fs, struct cfs_txn *txn);
/* Logs that [p, p+bytes) inside buf->data has changed. */
void cfs_txn_patch(struct cfs_txn *txn, struct cfs_buf *buf, const void *p, size_t bytes);
/*
 * The same for a block that is dirty, without an image: the one that was logged before is still needed, so
 * replay has it.
 */
void cfs_txn_patch_dirty(struct cfs_txn *txn, struct cfs_buf *buf, const void *p, size_t bytes);
/* Logs the whole block: new ones, or many changes at once. */
void cfs_txn_image(struct cfs_txn *txn, struct cfs_buf *buf);
/*
 * A block that this transaction frees: what is in memory must not go in place any more, since the block
 * may belong to another host soon; and replay skips its older records (as jbd's revoke), since their base
 * may never have gone in place. The journal's tail waits for it until this transaction is durable.
 */
void cfs_txn_forget(struct cfs_txn *txn, struct cfs_buf *buf);
/* Logs RELEASED for a lock block (step three of INV-FS-5). */
void cfs_txn_released(struct cfs_txn *txn, uint64_t lock_vbn);
/* Whether `images` more whole blocks fit; who changes blocks without number ends here and begins anew. */
bool cfs_txn_fits(const struct cfs_txn *txn, unsigned images);

/* Between these no transaction changes any buffer: for who looks at more than one field of one. */
void cfs_journal_lock(struct cfs *fs);
void cfs_journal_unlock(struct cfs *fs);

#define CFS_TXN_MAX_BYTES (96u * 1024u) /* one transaction logs at most that much: 22 images */

/* --- journal (journal.c) ------------------------------------------------------------------------------ */

/*
 * Mount: own journal (allocated and named in the claim before), replayed if `resumed` (and then the
 * tail file). Starts the commit and checkpoint threads.
 */
int cfs_journal_start(struct cfs *fs, bool resumed);
/* Checkpoints everything (unless `abandon`) and ends the threads. */
int cfs_journal_stop(struct cfs *fs, bool abandon);
/* Bytes a new journal for this volume has, and writes it (non-zero, as thin arrays want). */
uint32_t cfs_journal_blocks(const struct cfs *fs);
int cfs_journal_format(struct cfs *fs, uint64_t vbn, uint32_t blocks);

int cfs_commit_wait(struct cfs *fs);
uint64_t cfs_durable(struct cfs *fs);
/* Records before this stream position will never be replayed again. */
uint64_t cfs_journal_passed(struct cfs *fs);
/*
 * Writes in place, and flushes, everything that the locks `owner[0..n)` protect (n 0: everything): step one
 * and two of INV-FS-5. `owner` ascends.
 */
int cfs_checkpoint(struct cfs *fs, const uint64_t *owner, size_t n);

/*
 * Replays the journal of (slot, epoch) at `vbn`: two passes, whole batches, only blocks whose owner
 * was not released later, only where the sequence is older; writes in place and flushes. Writes
 * nothing into our own journal. `apply` NULL; `check` without --repair passes a function that gets
 * each resulting block instead of the medium.
 */
int cfs_replay(struct cfs *fs, unsigned slot, uint32_t epoch, uint64_t vbn, uint32_t blocks,
	       int (*apply)(void *arg, uint64_t vbn, const void *block), void *arg);

#endif
