// SPDX-License-Identifier: Apache-2.0
/*
 * uring.h: data requests to a descriptor by the channel's io_uring; shared by file and kernel,
 * private to blockdev. Reads, writes (FUA as RWF_DSYNC), fdatasync, and fallocate modes.
 */
#ifndef BLOCKDEV_URING_H
#define BLOCKDEV_URING_H

#include "blockdev/node.h"

/*
 * READ, WRITE, FLUSH, and WRITE_ZEROES (by plain writes where `fd` has no command for it). False, and
 * nothing done, for what file and kernel do differently: DISCARD, CAS.
 */
bool uring_submit(struct blk_chan *chan, struct blk_req *req, int fd);
/*
 * fallocate(2) with `mode`; followed by fdatasync with BLK_FUA. Where it is refused
 * (-EOPNOTSUPP), `refused` is called instead of an answer.
 */
void uring_fallocate(struct blk_chan *chan, struct blk_req *req, int fd, int mode,
		     void (*refused)(struct blk_chan *chan, struct blk_req *req));

/* The errno of a request as blk.h promises it. */
int uring_errno(const struct blk_chan *chan, const struct blk_req *req, int res);

#endif
