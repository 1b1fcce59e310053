// SPDX-License-Identifier: Apache-2.0
/* guest_io.c: guests' requests to a disk, bounced where they must be. */
#include "vfs/guest_io.h"

#include <errno.h>
#include <stdlib.h>

#include "base/util.h"
#include "base/vring.h"

#define DMA_ALIGN 512u

static bool fits(const struct iovec *pieces, unsigned count)
{
	uintptr_t odd = 0;

	for (unsigned i = 0; i < count; i++)
		odd |= (uintptr_t)pieces[i].iov_base | pieces[i].iov_len;
	return odd % DMA_ALIGN == 0;
}

static void finish(struct guest_io *io, int res)
{
	if (io->bounce.iov_base) {
		if (io->req.op == VFS_READ && res == 0)
			iov_write(io->pieces, io->count, 0, io->bounce.iov_base,
				  io->bounce.iov_len);
		free(io->bounce.iov_base);
	}
	io->done(io, res);
}

static void req_done(struct vfs_req *req, int res)
{
	struct guest_io *io = container_of(req, struct guest_io, req);

	/* Disks know FUA for what writes; a discard is made durable by a flush behind it. */
	if (res == 0 && req->op == VFS_DISCARD && io->commit) {
		req->op = VFS_FLUSH;
		req->offset = req->length = 0;
		vfs_submit(io->disk, req);
		return;
	}
	finish(io, res);
}

void guest_io_submit(struct guest_io *io, struct vfs_disk *disk, enum vfs_op op, uint64_t offset,
		     uint64_t length, const struct iovec *pieces, unsigned count, unsigned flags,
		     void (*done)(struct guest_io *io, int res))
{
	struct vfs_req *req = &io->req;

	if (op == VFS_FLUSH && disk->owes_loss) {
		disk->owes_loss = false;
		done(io, -EIO);
		return;
	}
	io->disk = disk;
	io->pieces = pieces;
	io->count = count;
	io->commit = flags & VFS_FUA;
	io->bounce.iov_base = NULL;
	io->done = done;
	req->op = op;
	req->flags = op == VFS_WRITE || op == VFS_WRITE_ZEROES ? flags : 0;
	req->offset = offset;
	req->length = length;
	req->iov = pieces;
	req->iovcnt = (int)count;
	req->done = req_done;
	if ((op == VFS_READ || op == VFS_WRITE) && !fits(pieces, count)) {
		MUST(length <= GUEST_IO_MAX);
		io->bounce.iov_base = xaligned(4096, length);
		io->bounce.iov_len = length;
		if (op == VFS_WRITE)
			iov_read(pieces, count, 0, io->bounce.iov_base, length);
		req->iov = &io->bounce;
		req->iovcnt = 1;
	}
	vfs_submit(disk, req);
}
