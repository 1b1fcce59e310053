// SPDX-License-Identifier: Apache-2.0
/* vhost_blk.c: requests of virtio-blk drivers. Each is answered; garbage with IOERR or UNSUPP. */
#include "vfs/vhost_blk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <linux/virtio_blk.h>

#include "vfs/disk.h"
#include "vfs/guest_io.h"

#define SECTOR	      512u
#define SEGMENTS      126u     /* fits a queue of 128 even without indirect descriptors */
#define RANGES	      64u      /* of one DISCARD or WRITE_ZEROES */
#define RANGE_SECTORS 2097152u /* of one range: 1 GiB */

struct blk_request {
	struct vhost_req req; /* first */
	struct guest_io io;
	uint8_t *status;				/* the last byte the guest gave */
	uint32_t bytes;					/* of data to the guest on success */
	struct virtio_blk_discard_write_zeroes *ranges; /* the guest's, copied */
	unsigned range, range_count;
};

static struct vhost_blk *blk_of(const struct blk_request *r);

static struct blk_request *of(struct vhost_req *req)
{
	return container_of(req, struct blk_request, req);
}

static void answer(struct blk_request *r, struct vhost_device *dev, uint8_t status)
{
	*r->status = status;
	if (status != VIRTIO_BLK_S_OK)
		dev->stats.errors++;
	vhost_req_done(&r->req, status == VIRTIO_BLK_S_OK ? r->bytes + 1 : 1);
}

static void io_done(struct guest_io *io, int res)
{
	struct blk_request *r = container_of(io, struct blk_request, io);

	answer(r, &blk_of(r)->dev,
	       res == 0		    ? VIRTIO_BLK_S_OK
	       : res == -EOPNOTSUPP ? VIRTIO_BLK_S_UNSUPP
				    : VIRTIO_BLK_S_IOERR);
}

static bool in_range(const struct vfs_disk *disk, uint64_t sector, uint64_t length)
{
	uint64_t unit = disk->info.block_size;

	return length && sector <= disk->info.size / SECTOR &&
	       length <= disk->info.size - sector * SECTOR && length % unit == 0 &&
	       sector * SECTOR % unit == 0;
}

/* Durable before it is answered: a guest without a write cache. */
static unsigned write_flags(const struct vhost_blk *blk)
{
	return blk->features >> VIRTIO_BLK_F_FLUSH & 1 ? 0 : VFS_FUA;
}

static void transfer(struct vhost_blk *blk, struct blk_request *r, bool write, uint64_t sector)
{
	struct vhost_req *req = &r->req;
	struct iovec *pieces = req->iov + (write ? 0 : req->out);
	unsigned count = write ? req->out : req->in;
	uint64_t length;

	/* The pieces still hold the header and the status byte; cut here, in the request's copy. */
	if (write)
		vhost_trim_front(req, &pieces, &count, sizeof(struct virtio_blk_outhdr));
	else
		vhost_trim_back(req, pieces, &count, 1);
	length = vhost_pieces_bytes(pieces, count);
	if (length > GUEST_IO_MAX || !in_range(blk->disk, sector, length) ||
	    (write && (blk->dev.read_only || blk->disk->info.read_only))) {
		answer(r, &blk->dev, VIRTIO_BLK_S_IOERR);
		return;
	}
	if (write) {
		blk->dev.stats.writes++;
		blk->dev.stats.write_bytes += length;
	} else {
		blk->dev.stats.reads++;
		blk->dev.stats.read_bytes += length;
		r->bytes = (uint32_t)length;
	}
	guest_io_submit(&r->io, blk->disk, write ? VFS_WRITE : VFS_READ, sector * SECTOR, length,
			pieces, count, write_flags(blk), io_done);
}

static void get_id(struct vhost_blk *blk, struct blk_request *r)
{
	static const char hex[] = "0123456789abcdef";
	char id[VIRTIO_BLK_ID_BYTES + 1];
	struct iovec *pieces = r->req.iov + r->req.out;
	unsigned count = r->req.in;

	for (unsigned i = 0; i < VIRTIO_BLK_ID_BYTES; i++)
		id[i] = hex[blk->disk->info.id[i / 2] >> (i % 2 ? 0 : 4) & 15];
	vhost_trim_back(&r->req, pieces, &count, 1);
	r->bytes = (uint32_t)iov_write(pieces, count, 0, id, VIRTIO_BLK_ID_BYTES);
	blk->dev.stats.others++;
	answer(r, &blk->dev, VIRTIO_BLK_S_OK);
}

/* --- DISCARD and WRITE_ZEROES: one range after the other --------------------------------------- */

static void next_range(struct blk_request *r, enum vfs_op op);

static void range_done(struct guest_io *io, int res)
{
	struct blk_request *r = container_of(io, struct blk_request, io);
	enum vfs_op op = io->req.op == VFS_FLUSH ? VFS_DISCARD : io->req.op;

	if (res == 0 && ++r->range < r->range_count) {
		next_range(r, op);
		return;
	}
	free(r->ranges);
	io_done(io, res);
}

static void next_range(struct blk_request *r, enum vfs_op op)
{
	const struct virtio_blk_discard_write_zeroes *range = &r->ranges[r->range];
	struct vhost_blk *blk = blk_of(r);
	unsigned flags = write_flags(blk);

	if (range->flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP)
		flags |= VFS_MAY_UNMAP;
	guest_io_submit(&r->io, blk->disk, op, range->sector * SECTOR,
			(uint64_t)range->num_sectors * SECTOR, NULL, 0, flags, range_done);
}

/* The whole list is checked before anything of it is done (5.2.6.2). */
static uint8_t check_ranges(const struct vhost_blk *blk, const struct blk_request *r, bool discard)
{
	for (unsigned i = 0; i < r->range_count; i++) {
		const struct virtio_blk_discard_write_zeroes *range = &r->ranges[i];

		if (range->flags & ~(discard ? 0u : VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP))
			return VIRTIO_BLK_S_UNSUPP;
		if (range->num_sectors > RANGE_SECTORS ||
		    !in_range(blk->disk, range->sector, (uint64_t)range->num_sectors * SECTOR))
			return VIRTIO_BLK_S_IOERR;
	}
	return VIRTIO_BLK_S_OK;
}

static void zero(struct vhost_blk *blk, struct blk_request *r, bool discard)
{
	struct vhost_req *req = &r->req;
	size_t header = sizeof(struct virtio_blk_outhdr), unit = sizeof(*r->ranges);
	size_t bytes = vhost_pieces_bytes(req->iov, req->out) - header;
	uint8_t status = VIRTIO_BLK_S_IOERR;

	blk->dev.stats.discards++;
	if (!bytes || bytes % unit || bytes / unit > RANGES || blk->dev.read_only ||
	    blk->disk->info.read_only) {
		answer(r, &blk->dev, status);
		return;
	}
	r->range = 0;
	r->range_count = (unsigned)(bytes / unit);
	r->ranges = xmalloc(bytes);
	iov_read(req->iov, req->out, header, r->ranges, bytes);
	status = check_ranges(blk, r, discard);
	if (status == VIRTIO_BLK_S_OK) {
		next_range(r, discard ? VFS_DISCARD : VFS_WRITE_ZEROES);
		return;
	}
	free(r->ranges);
	answer(r, &blk->dev, status);
}

/* --- the device -------------------------------------------------------------------------------- */

static struct vhost_blk *blk_of_dev(struct vhost_device *dev)
{
	return container_of(dev, struct vhost_blk, dev);
}

static struct vhost_blk *blk_of(const struct blk_request *r)
{
	return blk_of_dev(vhost_req_device(&r->req));
}

/* Where the answer goes: the very last byte that the guest lets us write; NULL: nowhere. */
static uint8_t *status_byte(const struct vhost_req *req)
{
	for (unsigned i = req->out + req->in; i-- > req->out;)
		if (req->iov[i].iov_len)
			return (uint8_t *)req->iov[i].iov_base + req->iov[i].iov_len - 1;
	return NULL;
}

static void request(struct vhost_device *dev, struct vhost_session *s, struct vhost_req *req)
{
	struct vhost_blk *blk = blk_of_dev(dev);
	struct blk_request *r = of(req);
	struct virtio_blk_outhdr header;

	(void)s;
	r->status = status_byte(req);
	r->bytes = 0;
	if (!r->status) {
		dev->stats.errors++;
		vhost_req_done(req, 0);
		return;
	}
	if (iov_read(req->iov, req->out, 0, &header, sizeof(header)) != sizeof(header) ||
	    !blk->disk) {
		answer(r, dev, VIRTIO_BLK_S_IOERR);
		return;
	}
	switch (header.type & ~VIRTIO_BLK_T_BARRIER) {
	case VIRTIO_BLK_T_IN:
		transfer(blk, r, false, header.sector);
		break;
	case VIRTIO_BLK_T_OUT:
		transfer(blk, r, true, header.sector);
		break;
	case VIRTIO_BLK_T_FLUSH:
		dev->stats.flushes++;
		guest_io_submit(&r->io, blk->disk, VFS_FLUSH, 0, 0, NULL, 0, 0, io_done);
		break;
	case VIRTIO_BLK_T_GET_ID:
		get_id(blk, r);
		break;
	case VIRTIO_BLK_T_DISCARD:
		zero(blk, r, true);
		break;
	case VIRTIO_BLK_T_WRITE_ZEROES:
		zero(blk, r, false);
		break;
	default:
		answer(r, dev, VIRTIO_BLK_S_UNSUPP);
	}
}

static void bad_request(struct vhost_device *dev)
{
	dev->stats.errors++;
}

static void get_config(struct vhost_device *dev, uint8_t data[VHOST_USER_CONFIG_SIZE])
{
	const struct vfs_disk *disk = blk_of_dev(dev)->disk;
	struct virtio_blk_config c = {.seg_max = SEGMENTS};

	if (disk) {
		const struct vfs_disk_info *info = &disk->info;
		uint32_t grain = MAX(info->grain, info->block_size);

		c.capacity = info->size / SECTOR;
		c.blk_size = info->block_size;
		c.physical_block_exp = (uint8_t)__builtin_ctz(grain / info->block_size);
		c.min_io_size = (uint16_t)(grain / info->block_size);
		c.discard_sector_alignment = MAX(info->discard_unit, grain) / SECTOR;
	}
	c.num_queues = (uint16_t)dev->rings;
	c.max_discard_sectors = c.max_write_zeroes_sectors = RANGE_SECTORS;
	c.max_discard_seg = c.max_write_zeroes_seg = RANGES;
	c.write_zeroes_may_unmap = 1;
	memcpy(data, &c, sizeof(c));
}

/* QEMU writes the one field that can be written even when it does not change. */
static int set_config(struct vhost_device *dev, unsigned offset, const uint8_t *data, unsigned size)
{
	uint8_t now[VHOST_USER_CONFIG_SIZE] = {0};

	get_config(dev, now);
	return memcmp(now + offset, data, size) == 0 ? 0 : -EINVAL;
}

static void set_features(struct vhost_device *dev, uint64_t features)
{
	blk_of_dev(dev)->features = features;
}

static const struct vhost_device_ops blk_ops = {
	.features = 1ULL << VIRTIO_BLK_F_SEG_MAX | 1ULL << VIRTIO_BLK_F_BLK_SIZE |
		    1ULL << VIRTIO_BLK_F_TOPOLOGY | 1ULL << VIRTIO_BLK_F_FLUSH |
		    1ULL << VIRTIO_BLK_F_MQ | 1ULL << VIRTIO_BLK_F_DISCARD |
		    1ULL << VIRTIO_BLK_F_WRITE_ZEROES,
	.request_size = sizeof(struct blk_request),
	.request = request,
	.bad_request = bad_request,
	.get_config = get_config,
	.set_config = set_config,
	.set_features = set_features,
};

void vhost_blk_init(struct vhost_blk *blk)
{
	blk->ops = blk_ops;
	if (blk->dev.read_only)
		blk->ops.features |= 1ULL << VIRTIO_BLK_F_RO;
	blk->dev.ops = &blk->ops;
}

void vhost_blk_set_disk(struct vhost_blk *blk, struct vfs_disk *disk)
{
	blk->disk = disk;
	if (disk && disk->info.read_only)
		blk->ops.features |= 1ULL << VIRTIO_BLK_F_RO;
}
