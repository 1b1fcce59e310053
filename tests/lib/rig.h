// SPDX-License-Identifier: Apache-2.0
/*
 * rig.h: a thin disk "/d" on a mounted volume, in an I/O thread of its own; requests from any other thread,
 * which waits for their answers.
 */
#ifndef TESTS_LIB_RIG_H
#define TESTS_LIB_RIG_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/uio.h>

#include "base/loop.h"
#include "vfs/disk.h"

struct blk;
struct cfs;
struct cfs_file;
struct iothread;
struct pool;
struct vfs_chans;

struct rig {
	struct cfs *fs;
	struct cfs_file *file;
	struct iothread *io;
	struct pool *pool;
	struct vfs_chans *chans;
	struct vfs_disk *disk;
	_Atomic unsigned lost; /* events of that kind */
	unsigned
		part; /* bytes, a multiple of 512: so long are a request's buffers; 0: it has three */
};

#define RIG_PARTS 256 /* buffers of a request; they get longer if that is not enough */

/*
 * Mounts the volume on `blk`, makes the disk of `size` bytes if it is not there, opens it. 0 or a negative
 * errno; the rig is of no use then. `blk` stays the caller's, and open until rig_close.
 */
int rig_open(struct rig *rig, struct blk *blk, const char *state_dir, uint64_t size);
/* Closes the disk, unmounts. */
int rig_close(struct rig *rig);

/* One request; more of them may be in flight. Aligned to 64: allocate with xaligned. */
struct rig_job {
	struct vfs_req req;
	struct iovec iov[RIG_PARTS];
	struct loop_work work;
	struct rig *rig;
	int res;
	bool done;
	pthread_mutex_t lock;
	pthread_cond_t cond;
};
/* `buf` (may be NULL, else of `length` bytes) goes in parts, as guests do. */
void rig_start(struct rig_job *job, struct rig *rig, enum vfs_op op, uint64_t offset,
	       uint64_t length, void *buf, unsigned flags);
/* Waits; the answer. */
int rig_finish(struct rig_job *job);
/* Both. */
int rig_run(struct rig *rig, enum vfs_op op, uint64_t offset, uint64_t length, void *buf,
	    unsigned flags);

#endif
