// SPDX-License-Identifier: Apache-2.0
/* kernel.h: what the kernel says of a block device: identity, limits; private to blockdev. */
#ifndef BLOCKDEV_KERNEL_H
#define BLOCKDEV_KERNEL_H

#include <sys/types.h>

#include "blockdev/blk.h"

/* Size, blocks, abilities from ioctls and sysfs. */
int kernel_geometry(int fd, dev_t dev, struct blk_info *info);
int kernel_size(int fd, struct blk_info *info);
/* A loop device's id comes from its file; true when `dev` is one. */
bool kernel_loop_identity(int fd, dev_t dev, struct blk_info *info);
/* wwid or serial number from sysfs: NVMe, virtio. -ENODATA. */
int kernel_sysfs_identity(dev_t dev, struct blk_info *info);
/* Warns, loudly, of a multipath device that never gives a request back. */
void kernel_warn_queueing(dev_t dev, const char *name);

#endif
