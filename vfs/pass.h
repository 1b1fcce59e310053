// SPDX-License-Identifier: Apache-2.0
/*
 * pass.h: a disk that is a whole LUN of a SAN, passed through to one guest: its SCSI commands go to the
 * LUN as they are (scsi_pass.c says what does not), and so do the answers: identity, reservations, sense
 * data are the LUN's own.
 *
 * On iSCSI all commands go by the one session of the blk. On a kernel device READ and WRITE go through
 * io_uring, the others through SG_IO in a thread.
 */
#ifndef VFS_PASS_H
#define VFS_PASS_H

#include "vfs/disk.h"

struct blk;

struct pass_options {
	const char *name;    /* in messages */
	const char *id;	     /* of the LUN, "naa..." */
	uint32_t block_size; /* bytes, logical: as it was when it was attached */
	bool unfiltered;     /* no command is refused */
};

/*
 * `blk` was opened with options.pass, stays the caller's and outlives the disk. Opens its channel for `loop`,
 * which blocks: not from the loop's own thread. Closing ends what waits for a LUN out of reach.
 */
int vfs_pass_open(struct blk *blk, struct loop *loop, const struct pass_options *options,
		  struct vfs_disk **out);

#endif
