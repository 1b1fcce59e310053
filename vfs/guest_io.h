// SPDX-License-Identifier: Apache-2.0
/*
 * guest_io.h: one request of a guest to a disk, with the guest's own memory as buffers. Pieces
 * that a disk does not take (disk.h) go through a bounce buffer. Private to vfs/.
 */
#ifndef VFS_GUEST_IO_H
#define VFS_GUEST_IO_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "vfs/disk.h"

#define GUEST_IO_MAX (32u << 20) /* bytes of one READ or WRITE; exports refuse more */

struct guest_io {
	struct vfs_req req; /* first: the disk's */
	struct vfs_disk *disk;
	const struct iovec *pieces; /* the guest's */
	unsigned count;
	bool commit; /* durable before it is answered */
	struct iovec bounce;
	void (*done)(struct guest_io *io, int res);
};

/*
 * READ and WRITE: `pieces` hold exactly `length` bytes and stay until done. FLUSH: no offset, no
 * length. `flags`: VFS_FUA: what changes the disk is durable when it is answered, also for DISCARD;
 * VFS_MAY_UNMAP. done(io, 0 or -errno) once, maybe before this returns.
 */
void guest_io_submit(struct guest_io *io, struct vfs_disk *disk, enum vfs_op op, uint64_t offset,
		     uint64_t length, const struct iovec *pieces, unsigned count, unsigned flags,
		     void (*done)(struct guest_io *io, int res));

#endif
