// SPDX-License-Identifier: Apache-2.0
/*
 * unflushed.h: which of a disk's writes would be gone if a LUN lost its volatile cache, and whether it may
 * have: so that a guest never hears "flushed" of what is lost (DESIGN 5).
 *
 * A write is safe from the moment at which a flush that began after its end has succeeded, if the session
 * it went by lives on until then: with the power of an array go its sessions. A session that was lost
 * counts at once (blk_chan_power_count); one that is dead and has not been used since does not show it.
 * That is ruled out by the session that flushes: it stood all the while (`witness`). Or else by proof: a
 * flush over the writes' own session.
 *
 * One flush that fails for it reports a loss, with all that have begun by then; the next starts afresh, as
 * fsync does on Linux. All in the disk's loop.
 */
#ifndef VFS_UNFLUSHED_H
#define VFS_UNFLUSHED_H

#include <stdbool.h>
#include <stdint.h>

struct blk;
struct blk_chan;
struct unflushed;

/* For up to `n` LUNs. */
void unflushed_create(struct unflushed **out, unsigned n);
void unflushed_destroy(struct unflushed *u);
/*
 * LUN `i` is written by `chan`. `blk`: its blocking calls flush it, not `chan`; NULL when `chan` does.
 * A LUN without a write cache has nothing to lose and is ignored.
 */
void unflushed_add(struct unflushed *u, unsigned i, struct blk *blk, struct blk_chan *chan);
/* A write to LUN `i` has succeeded. */
void unflushed_wrote(struct unflushed *u, unsigned i);
/*
 * One with FUA has: not answered yet, its data are at hand. It needs a proof as others do, but what is
 * lost of it is written again (unflushed_power tells), and no flush needs to tell.
 */
void unflushed_wrote_fua(struct unflushed *u, unsigned i);
/*
 * How often any of the LUNs may have lost its cache, since it was added. A write that is flushed under the same
 * number as it began under is not lost.
 */
uint64_t unflushed_power(const struct unflushed *u);

struct unflushed_mark {
	uint64_t turn, writes;
};
/* A flush begins. */
void unflushed_begin(struct unflushed *u, struct unflushed_mark *mark);
/*
 * Its commands have succeeded. 0: so has it. -EAGAIN: LUN *i needs a proof first. -EIO: writes that it
 * was for may be lost; *first tells who is the first to say so.
 */
int unflushed_end(struct unflushed *u, const struct unflushed_mark *mark, unsigned *i, bool *first);
/* Whether a write without FUA is not flushed yet. */
bool unflushed_any(const struct unflushed *u);
/* The commands of a flush for something else (a FUA write) have succeeded: it counts for what it covers. */
void unflushed_retire(struct unflushed *u, const struct unflushed_mark *mark);
/* Whether a LUN that was written needs a proof: -EAGAIN and *i, else 0. */
int unflushed_unproved(const struct unflushed *u, unsigned *i);
/*
 * A proof: what this returns is taken before a flush goes over the channel, and given back when that has
 * succeeded.
 */
uint64_t unflushed_witness(const struct unflushed *u, unsigned i);
void unflushed_proved(struct unflushed *u, unsigned i, uint64_t witness);

#endif
