// SPDX-License-Identifier: Apache-2.0
/*
 * record.h: reads what blk_record_wrap (blk.h) has written, for crash tests.
 *
 * The log is the order of events: a request was submitted (with its data), a request was answered.
 * Several blks, also of several processes, may write one log; the file's order is the order in
 * which it happened, as far as anybody could tell. A crash may strike between any two events. Then
 *
 *   - what was answered before a flush was submitted that itself was answered well, and what was
 *     answered with FUA, is on the medium;
 *   - of everything else that was submitted each logical block may or may not be (a write is torn at
 *     a block, never within), and requests that were in flight together may land in any order;
 *   - but compare-and-writes of a block that succeeded landed in the order that their compares say.
 *     No two may write the same (random tokens see to that): so it is the order of submissions,
 *     as what one compares with was submitted before it. It is not the order of answers: a host
 *     may go on from what it reads before the answer to whoever wrote it is logged.
 */
#ifndef BLOCKDEV_RECORD_H
#define BLOCKDEV_RECORD_H

#include <stdbool.h>
#include <stdint.h>

#include "blockdev/blk.h"

struct record_log;

struct record_event {
	bool answer;	 /* false: submitted */
	unsigned submit; /* an answer's submission: its number in the log */
	enum blk_op op;
	unsigned flags;
	uint64_t offset, length;
	const void *data;    /* WRITE, CAS (what is written): owned by the log */
	const void *compare; /* CAS */
	int res;	     /* answers */
	bool maybe_done;
};

/* -ENOENT, -EUCLEAN (no log; a record that was cut off at the end is left out, that is no error). */
int record_open(const char *path, struct record_log **out);
void record_close(struct record_log *log);
unsigned record_events(const struct record_log *log);
/* NULL behind the end. */
const struct record_event *record_event(const struct record_log *log, unsigned n);
uint32_t record_block_size(const struct record_log *log);
uint64_t record_size(const struct record_log *log);

enum record_choice {
	RECORD_DURABLE, /* only what must be there */
	RECORD_ALL,	/* all that was submitted */
	RECORD_RANDOM,	/* a legal medium, by seed */
};
/*
 * The medium after a crash in front of event `point` (so events 0..point-1 had happened): calls
 * `apply` for each change in the order of a legal history; `data` NULL: zeroes. The medium is in
 * the state in which it was when the log began (an unanswered compare-and-write of a block that the
 * log has not written yet is taken to match); a return value < 0 of `apply` ends it and is
 * returned.
 */
int record_replay(const struct record_log *log, unsigned point, enum record_choice choice,
		  uint64_t seed,
		  int (*apply)(void *arg, uint64_t offset, const void *data, uint64_t length),
		  void *arg);

#endif
