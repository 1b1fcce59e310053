// SPDX-License-Identifier: Apache-2.0
/*
 * offload.h: a thread for requests that only a blocking call can do (ioctls of kernel devices);
 * private to blockdev. One after the other, answered in the channel's loop.
 */
#ifndef BLOCKDEV_OFFLOAD_H
#define BLOCKDEV_OFFLOAD_H

#include "blockdev/node.h"

struct offload;

/* `run` does a request in the thread: 0 or -errno; it may set req->maybe_done. */
int offload_create(struct offload **out, int (*run)(struct blk_chan *chan, struct blk_req *req));
void offload_destroy(struct offload *offload);
void offload_submit(struct offload *offload, struct blk_req *req);

#endif
