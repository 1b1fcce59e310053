// SPDX-License-Identifier: Apache-2.0
/*
 * raw.h: a disk that is a whole LUN, byte for byte: for tests, and as the floor of benchmarks.
 */
#ifndef VFS_RAW_H
#define VFS_RAW_H

#include "vfs/disk.h"

struct blk;

/*
 * Opens a channel of `blk` for `loop` (blocks: not from the loop's own thread) and a disk on it.
 * The blk stays the caller's and outlives the disk. Close with vfs_close in the loop's thread.
 */
int vfs_raw_open(struct blk *blk, struct loop *loop, const char *name, struct vfs_disk **out);

#endif
