// SPDX-License-Identifier: Apache-2.0
/*
 * vhost_blk.h: virtio-blk (virtio 1.2, 5.2) over vhost-user: READ, WRITE, FLUSH, DISCARD,
 * WRITE_ZEROES, GET_ID; many queues. Private to vfs/.
 *
 * A guest that did not negotiate FLUSH has no write cache: its writes are durable when answered.
 * CONFIG_WCE is not offered: the guest's choice would not outlive a restart of the daemon.
 */
#ifndef VFS_VHOST_BLK_H
#define VFS_VHOST_BLK_H

#include "vfs/vhost.h"

struct vfs_disk;

struct vhost_blk {
	struct vhost_device dev; /* first */
	struct vfs_disk *disk;	 /* NULL: every request fails */
	uint64_t features;	 /* acknowledged by the guest */
	struct vhost_device_ops ops;
};
/* `dev` of which loop, name, rings are filled. */
void vhost_blk_init(struct vhost_blk *blk);
/* After the disk is there: features may depend on it. */
void vhost_blk_set_disk(struct vhost_blk *blk, struct vfs_disk *disk);

#endif
