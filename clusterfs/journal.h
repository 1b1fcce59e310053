// SPDX-License-Identifier: Apache-2.0
/*
 * journal.h (private to txn.c, tail.c, journal.c, checkpoint.c, replay.c): the journal in memory.
 *
 * The slot's record stream is a sequence of transactions, addressed by byte position from 0 at the
 * slot's first mount on. It lives in three places: [.., durable) in journal blocks; [durable, head)
 * in the tail file only; and what the checkpoint has passed nowhere.
 */
#ifndef CLUSTERFS_JOURNAL_H
#define CLUSTERFS_JOURNAL_H

#include "clusterfs/txn.h"

#define CFS_TAIL_BYTES (8u * MiB) /* of records; a power of two */

/* First page of the tail file: which life the records behind it belong to. Host byte order. */
struct cfs_tail_page {
	uint64_t magic;
	uint8_t volume[16], boot[16];
	uint32_t slot, epoch;
	_Atomic uint64_t durable; /* stream position up to which journal blocks hold it */
	_Atomic uint64_t head;	  /* stream position behind the last whole transaction */
};

struct cfs_tail {
	int fd;
	struct cfs_tail_page *page;
	uint8_t *ring; /* position p lies at p % CFS_TAIL_BYTES */
};

/* A batch in the journal, for finding the block of a stream position. */
struct cfs_batch {
	struct list link;
	uint64_t stream, block; /* where it begins */
};

struct cfs_room_waiter {
	struct list link;
	struct loop *loop;
	struct loop_work *work;
};

struct cfs_journal {
	struct cfs *fs;
	pthread_mutex_t lock; /* the journal mutex: held for a transaction, never across I/O */
	pthread_cond_t room, committed, wake_commit, wake_checkpoint;
	uint64_t vbn;
	uint32_t blocks;
	struct cfs_tail tail;
	uint8_t *scratch; /* the transaction that is being built */
	size_t scratch_used;

	uint64_t head, durable;		  /* stream positions */
	uint64_t next_block;		  /* number of the next journal block to write */
	uint64_t tail_block, tail_stream; /* oldest that replay needs */
	struct list batches;		  /* oldest first */
	struct list dirty;		  /* buffers, cfs_buf.dirty_link */
	size_t dirty_count;
	struct cfs_fresh *fresh; /* first writes whose data no flush has proved */
	struct list room_waiters;

	struct cfs_commit *commits, **commits_last; /* waiting for the next commit */
	bool committing, checkpointing, stopping;
	bool want_commit, want_checkpoint;
	int error; /* the last commit's, for those who wait blocking */
	uint64_t commits_begun, commits_ended;
	pthread_t commit_thread, checkpoint_thread;
	bool threads;
	pthread_mutex_t checkpoint_lock; /* one at a time; outside of `lock` */
};

/* tail.c: the file in the state directory; `resume` keeps what is there if it matches. */
int cfs_tail_open(struct cfs *fs, struct cfs_tail *tail, bool *matches);
void cfs_tail_close(struct cfs_tail *tail, bool remove_file, struct cfs *fs);
void cfs_tail_put(struct cfs_tail *tail, uint64_t position, const void *data, size_t n);
void cfs_tail_get(const struct cfs_tail *tail, uint64_t position, void *data, size_t n);

/* Journal mutex held: blocks that could be written now without touching what replay needs. */
uint64_t cfs_journal_free_blocks(const struct cfs_journal *j);
/* Journal mutex held: true when a transaction of the largest size has room. */
bool cfs_journal_has_room(const struct cfs_journal *j);
/* Moves the tail up to what dirty buffers still need, and writes the journal's head. Blocking. */
int cfs_journal_trim(struct cfs *fs);
int cfs_journal_write_head(struct cfs *fs, uint64_t tail_block, uint64_t tail_stream);
/* checkpoint.c */
void *cfs_checkpoint_main(void *arg);

/* replay.c: what a journal holds, read and checked. */
struct cfs_log {
	uint8_t *stream; /* owned */
	size_t bytes;
	uint64_t start;	     /* stream position of stream[0] */
	uint64_t next_block; /* number behind the last whole batch */
};
int cfs_log_read(struct cfs *fs, unsigned slot, uint32_t epoch, uint64_t vbn, uint32_t blocks,
		 struct cfs_log *log);
typedef int cfs_apply_fn(void *arg, uint64_t vbn, const void *block);
int cfs_log_apply(struct cfs *fs, const struct cfs_log *log, cfs_apply_fn *apply, void *arg);

#endif
