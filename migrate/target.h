// SPDX-License-Identifier: Apache-2.0
/*
 * target.h: the receiving side of a migration: data streams, each in a thread of the caller's, and the
 * control stream, which orders what happens (wire.h). Who runs the VM is none of its business: the
 * caller's `accept` decides that by compare-and-write.
 */
#ifndef MIGRATE_TARGET_H
#define MIGRATE_TARGET_H

#include <stdbool.h>
#include <stdint.h>

#include "migrate/wire.h"

struct mig_target;
struct peer_stream;

struct mig_dirty;
struct mig_pager;

struct mig_target_ops {
	/*
	 * Post-copy: what is in `stale` comes later. 0: nobody touches it any more but through a pager, which was made
	 * known (mig_target_lazy) and is served by a thread of the caller's (mig_target_pages). NULL: it is not allowed.
	 */
	int (*post)(void *arg, struct mig_dirty *stale);
	/* The memory is complete, here is the state: 0 when it is loaded. */
	int (*load)(void *arg, const struct mig_state *state);
	/*
	 * The source says that the lock is offered, and what it knows of it: 0 when the VM runs here. *word: what else
	 * it is told (wire.h, MIG_OFFERED's answer).
	 */
	int (*accept)(void *arg, const uint8_t *baggage, uint32_t n, uint64_t *word);
};

/*
 * `memory_fd` is borrowed, `control` too. `post`: it may become post-copy; streams for that join behind the `streams`
 * for data, and huge pages are not made.
 */
int mig_target_create(struct mig_target **out, int memory_fd, uint64_t memory, unsigned streams,
		      bool post, struct peer_stream *control);
/* Data streams end soon, no more join; the control stream stays. */
void mig_target_close(struct mig_target *t);
/* The same, waits until no thread is in mig_target_lane any more, frees. */
void mig_target_destroy(struct mig_target *t);
const uint8_t *mig_target_token(const struct mig_target *t);
/* Any thread: everything of it ends soon. */
void mig_target_cancel(struct mig_target *t, int err);

/*
 * A data stream has joined as number `index`; answers its JOIN (`tag`) and serves it until it ends, in
 * this thread. The stream stays the caller's.
 */
int mig_target_lane(struct mig_target *t, struct peer_stream *stream, unsigned index, uint64_t tag);
/*
 * In a thread of the caller's, from ops->post on, also while mig_target_run goes on: asks for pages. 0: all are there,
 * and the source knows. Before mig_target_destroy it must have returned; mig_target_cancel ends it.
 */
void mig_target_lazy(struct mig_target *t, struct mig_pager *pager);
int mig_target_pages(struct mig_target *t, struct mig_pager *pager);
/* The control stream behind BEGIN's answer, in this thread: 0 after `accept` did its work. */
int mig_target_run(struct mig_target *t, const struct mig_target_ops *ops, void *arg);

#endif
