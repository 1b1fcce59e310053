// SPDX-License-Identifier: Apache-2.0
/*
 * fresh.h (private; with iopath.h, where carriers are): first writes that lie in an array's volatile cache.
 *
 * A first write makes grains of a unit readable that held somebody else's bytes before. Were its data lost
 * with an array's cache, its entry must not be believed: neither by a journal block, nor in memory. So who
 * logs a first write says which session carried the data (a *carrier*), and a commit, after its flush and
 * before it writes records, asks for each carrier whether that session was lost since (its count), and
 * whether it lives at all, if the flush's own session did not stand all the while (a flush over it
 * proves that). A session ends for many reasons, and an array that kept its power has kept the data. So what
 * may be lost is read back: grains that hold what was written, by checksums of the first write and of
 * overwrites since, are flushed once more and stay; the others are undone in the same batch: they are zero
 * again, their units stay named, as with a discard. A LUN without a write cache has nothing to lose.
 *
 * From the loss to the commit the map still names those grains: cfs_carrier_suspect tells, and who reads waits for
 * a commit then.
 */
#ifndef CLUSTERFS_FRESH_H
#define CLUSTERFS_FRESH_H

#include "clusterfs/txn.h"

/* The carrier of the blocking calls' session to an extent. */
struct cfs_carrier *cfs_carrier_service(const struct cfs *fs, unsigned extent);

struct cfs_fresh;
void cfs_fresh_create(struct cfs *fs, struct cfs_fresh **out);
void cfs_fresh_destroy(struct cfs_fresh *f);
/* Journal mutex held. Bytes of the stream that undoing all of it may take. */
uint64_t cfs_fresh_room(const struct cfs_fresh *f);
bool cfs_fresh_many(const struct cfs_fresh *f);
/*
 * All extents were flushed, after the journal's head had been at `to`. 0: what was logged before `to` has
 * its data on the media. -EAGAIN: something was read back, or undone with records behind the head; flush again. Else a proof
 * failed. Journal mutex not held. In the commit thread.
 */
int cfs_fresh_settle(struct cfs *fs, uint64_t to);
/* How often something was undone. Any thread. */
uint64_t cfs_fresh_undone(const struct cfs *fs);

#endif
