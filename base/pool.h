// SPDX-License-Identifier: Apache-2.0
/*
 * pool.h: a small pool of threads for blocking metadata work.
 *
 * Jobs run in the order they came, at most `threads` at once. A job may block on I/O and on locks;
 * so whatever others wait for (beats, recovery, lock release, checkpoints) must not need this pool:
 * those have threads of their own.
 */
#ifndef BASE_POOL_H
#define BASE_POOL_H

struct pool;
struct pool_job {
	void (*fn)(struct pool_job *job); /* owns the job from its call on; may free it */
	struct pool_job *next;		  /* private */
};

int pool_create(struct pool **out, const char *name, unsigned threads);
/* Runs what is queued, then ends the threads. */
void pool_destroy(struct pool *pool);
void pool_submit(struct pool *pool, struct pool_job *job);

#endif
