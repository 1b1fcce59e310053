// SPDX-License-Identifier: Apache-2.0
/* memdisk.c: a disk in memory. */
#include "tests/lib/memdisk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "base/vring.h"

static void execute(struct memdisk *m, struct vfs_req *req)
{
	uint8_t *at = m->data + req->offset;
	unsigned n = (unsigned)req->iovcnt;

	if (req->op != VFS_FLUSH &&
	    (req->offset % 512 || req->length % 512 || !req->length ||
	     req->offset > m->disk.info.size || req->length > m->disk.info.size - req->offset)) {
		req->done(req, -EINVAL);
		return;
	}
	m->fua += (req->flags & VFS_FUA) != 0;
	switch (req->op) {
	case VFS_READ:
		m->reads++;
		if (!m->fail)
			MUST(iov_write(req->iov, n, 0, at, req->length) == req->length);
		break;
	case VFS_WRITE:
		m->writes++;
		if (!m->fail)
			MUST(iov_read(req->iov, n, 0, at, req->length) == req->length);
		break;
	case VFS_FLUSH:
		m->flushes++;
		break;
	case VFS_DISCARD:
		m->discards++;
		memset(at, 0, req->length);
		break;
	case VFS_WRITE_ZEROES:
		m->zeroes++;
		memset(at, 0, req->length);
		break;
	}
	req->done(req, m->fail);
}

static void submit(struct vfs_disk *disk, struct vfs_req *req)
{
	struct memdisk *m = container_of(disk, struct memdisk, disk);

	if (!m->hold) {
		execute(m, req);
		return;
	}
	MUST(m->held_count < MEMDISK_HELD);
	m->held[m->held_count] = req;
	m->held_count++;
}

void memdisk_release(struct memdisk *m)
{
	m->hold = false;
	for (unsigned i = 0; i < m->held_count; i++)
		execute(m, m->held[i]);
	m->held_count = 0;
}

static void close_disk(struct vfs_disk *disk, void (*closed)(void *arg), void *arg)
{
	struct memdisk *m = container_of(disk, struct memdisk, disk);

	/* What is parked is answered, as disk.h says. */
	m->hold = false;
	for (unsigned i = 0; i < m->held_count; i++)
		m->held[i]->done(m->held[i], -ESTALE);
	m->held_count = 0;
	m->closed = true;
	closed(arg);
}

static unsigned rest(struct vfs_disk *disk, bool on)
{
	struct memdisk *m = container_of(disk, struct memdisk, disk);

	(void)on;
	return m->unflushed ? VFS_UNFLUSHED : 0;
}

static const struct vfs_disk_ops ops = {.submit = submit, .close = close_disk, .rest = rest};

struct memdisk *memdisk_new(struct loop *loop, uint64_t size)
{
	struct memdisk *m = xcalloc(1, sizeof(*m));

	m->data = xaligned(4096, size);
	m->disk.ops = &ops;
	m->disk.loop = loop;
	m->disk.info.size = size;
	m->disk.info.block_size = 512;
	m->disk.info.grain = 4096;
	m->disk.info.discard_unit = 65536;
	memcpy(m->disk.info.id, "\x12\x34\x56\x78\x9a\xbc\xde\xf0perilune", 16);
	strcpy(m->disk.info.name, "test:/mem");
	return m;
}

void memdisk_free(struct memdisk *m)
{
	free(m->data);
	free(m);
}
