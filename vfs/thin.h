// SPDX-License-Identifier: Apache-2.0
/*
 * thin.h: a disk on a volume: requests go through the file's map straight to the LUN, with the
 * guest's own memory.
 *
 * A write to blocks that are there changes no metadata. A first write takes a unit from the file's
 * stock, is written, and only then logged (INV-FS-2) and answered (INV-FS-3). One structural change
 * of a 64 KiB entry at a time; other requests that need one wait, plain I/O does not.
 */
#ifndef VFS_THIN_H
#define VFS_THIN_H

#include "vfs/disk.h"

struct cfs_file;
struct vfs_chans;

/*
 * `file` is opened with CFS_OPEN_WRITE (else the disk is read-only) and stays the caller's: closed
 * with cfs_close after the disk is. From now on only the disk's loop touches its map. Takes a
 * reference of `chans`. `name` is what people call it. Any thread.
 */
int vfs_thin_open(struct vfs_chans *chans, struct cfs_file *file, const char *name,
		  struct vfs_disk **out);
/* A pr_store of controller.h: with the file, for as long as it lives. In the loop. */
void vfs_thin_store_reservations(struct vfs_disk *disk, const void *bytes, size_t size,
				 void (*stored)(void *op, int res), void *op);
/* The file has grown to `size` bytes, durably: the guest may use them, and is told. In the loop. */
void vfs_thin_set_size(struct vfs_disk *disk, uint64_t size);

#endif
