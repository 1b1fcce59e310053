// SPDX-License-Identifier: Apache-2.0
/*
 * casfile.h: compare-and-write for LUNs of one machine (files, loop devices): read, compare, write
 * under an OFD lock on the block's own bytes; private to blockdev.
 *
 * A thread of its own with a descriptor of its own does it, so that no loop ever waits. OFD locks
 * belong to open files: those of two processes exclude each other, and so do those of two blks in
 * one process; within one blk the one thread does one section at a time. The lock falls with the
 * descriptor, and a thread inside of a write keeps the descriptor until that write has ended: a
 * killed process leaves no half section behind that could still write.
 */
#ifndef BLOCKDEV_CASFILE_H
#define BLOCKDEV_CASFILE_H

#include "blockdev/node.h"

struct casfile;

/* `fd` opened for reading and writing, not shared with anything else; owned when this succeeds. */
int casfile_create(struct casfile **out, struct blk *blk, int fd);
void casfile_destroy(struct casfile *cas);
/*
 * Answers in the channel's loop. A lock that cannot be had within the blk's timeout_ms (its holder
 * was stopped inside of its section) is answered -ETIMEDOUT, not done.
 */
void casfile_submit(struct casfile *cas, struct blk_chan *chan, struct blk_req *req);
/* blk_host_lock of such a LUN: an OFD lock through `fd`, which carries its I/O. -EBUSY. */
int casfile_host_lock(const struct blk *blk, int fd, unsigned slot, bool lock);

#endif
