// SPDX-License-Identifier: Apache-2.0
/* memdisk.h: a disk in memory whose requests can be held back or failed, for tests of exports. */
#ifndef TESTS_LIB_MEMDISK_H
#define TESTS_LIB_MEMDISK_H

#include <stdatomic.h>

#include "vfs/disk.h"

#define MEMDISK_HELD 1024
struct memdisk {
	struct vfs_disk disk;
	uint8_t *data;
	_Atomic bool hold;	/* requests stay where they are until memdisk_release */
	_Atomic bool unflushed; /* as it says when it is to rest */
	_Atomic int fail;	/* -errno for what changes or reads data */
	struct vfs_req *held[MEMDISK_HELD];
	_Atomic unsigned held_count;
	_Atomic unsigned reads, writes, flushes, discards, zeroes, fua;
	_Atomic bool closed;
};
/* Of `size` bytes, blocks of 512. Freed by memdisk_free after it was closed. */
struct memdisk *memdisk_new(struct loop *loop, uint64_t size);
void memdisk_free(struct memdisk *m);
/* In the disk's loop: holds no more and answers what was held, in order. */
void memdisk_release(struct memdisk *m);

#endif
