// SPDX-License-Identifier: Apache-2.0
/* raw.c: requests go to a channel of the LUN as they are; what is kept here is their count. */
#include "vfs/raw.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/checksum.h"
#include "base/err.h"
#include "base/loop.h"
#include "base/util.h"
#include "base/log.h"
#include "blockdev/blk.h"
#include "vfs/unflushed.h"

struct raw {
	struct vfs_disk disk;
	struct blk *blk;
	struct blk_chan *chan;
	struct unflushed *unflushed;
	unsigned in_flight;
	bool resting;
	struct loop_work close_work;
	void (*closed)(void *arg);
	void *closed_arg;
};

struct raw_req {
	struct blk_req blk;
	struct raw *raw;
	struct unflushed_mark mark; /* of a flush */
	uint64_t power;		    /* count of the channel when it was sent */
};
_Static_assert(sizeof(struct raw_req) <= sizeof(((struct vfs_req *)0)->priv), "priv");

static void raw_close_now(struct loop_work *work)
{
	struct raw *raw = container_of(work, struct raw, close_work);
	void (*closed)(void *arg) = raw->closed;
	void *arg = raw->closed_arg;

	blk_chan_close(raw->chan);
	unflushed_destroy(raw->unflushed);
	free(raw);
	closed(arg);
}

/* It went by the channel that the writes went by: no other proof is needed. */
static int flushed(struct raw *raw, const struct unflushed_mark *mark)
{
	unsigned i;
	bool first;
	int rc = unflushed_end(raw->unflushed, mark, &i, &first);

	if (first)
		log_error("vfs",
			  "%s: the LUN may have lost its write cache, and writes with it that were "
			  "not "
			  "flushed yet; the guest's flush was answered with an I/O error",
			  raw->disk.info.name);
	return rc;
}

static void send_it(struct raw_req *rr)
{
	struct raw *raw = rr->raw;

	rr->power = blk_chan_power_count(raw->chan);
	blk_submit(raw->chan, &rr->blk);
}

/*
 * It was under way when a cache was lost, perhaps with it; no flush would tell, since it was not answered yet. It is
 * done again: its first copy has ended, so nothing of it comes later.
 */
static bool in_vain(const struct raw_req *rr, int res)
{
	const struct raw *raw = rr->raw;

	return res == 0 && rr->blk.op != BLK_READ && rr->blk.op != BLK_FLUSH &&
	       !(rr->blk.flags & BLK_FUA) && blk_info(raw->blk)->write_cache &&
	       rr->power != blk_chan_power_count(raw->chan);
}

static void raw_done(struct blk_req *blk_req, int res)
{
	struct raw_req *rr = container_of(blk_req, struct raw_req, blk);
	struct vfs_req *req = container_of((uint8_t *)rr, struct vfs_req, priv);
	struct raw *raw = rr->raw;

	if (in_vain(rr, res) && !raw->closed) {
		send_it(rr);
		return;
	}
	if (res == 0 && blk_req->op == BLK_FLUSH)
		res = flushed(raw, &rr->mark);
	else if (res == 0 && blk_req->op != BLK_READ && !(blk_req->flags & BLK_FUA))
		unflushed_wrote(raw->unflushed, 0);
	/* What the medium says in other words is an I/O error to a guest. */
	if (res < 0 && res != -ESTALE && res != -EOPNOTSUPP)
		res = -EIO;
	req->done(req, res);
	if (--raw->in_flight)
		return;
	if (raw->closed)
		loop_defer(raw->disk.loop, &raw->close_work);
	else if (raw->resting && raw->disk.rested)
		raw->disk.rested(&raw->disk);
}

static void raw_submit(struct vfs_disk *disk, struct vfs_req *req)
{
	static const enum blk_op op[] = {
		[VFS_READ] = BLK_READ,
		[VFS_WRITE] = BLK_WRITE,
		[VFS_FLUSH] = BLK_FLUSH,
		[VFS_DISCARD] = BLK_DISCARD,
		[VFS_WRITE_ZEROES] = BLK_WRITE_ZEROES,
	};
	struct raw *raw = container_of(disk, struct raw, disk);
	struct raw_req *rr = (struct raw_req *)(void *)req->priv;

	if (req->op != VFS_FLUSH &&
	    (req->offset % disk->info.block_size || req->length % disk->info.block_size ||
	     !req->length || req->offset > disk->info.size ||
	     req->length > disk->info.size - req->offset)) {
		req->done(req, -EINVAL);
		return;
	}
	/* Discarded blocks must read as zeroes (exports say so); a LUN that cannot keeps them. */
	if (req->op == VFS_DISCARD && !blk_info(raw->blk)->zeroes_after_unmap) {
		req->done(req, 0);
		return;
	}
	rr->raw = raw;
	rr->blk.op = op[req->op];
	rr->blk.flags = req->flags & VFS_FUA ? BLK_FUA : 0;
	rr->blk.offset = req->op == VFS_FLUSH ? 0 : req->offset;
	rr->blk.length = req->op == VFS_FLUSH ? 0 : req->length;
	rr->blk.iov = req->iov;
	rr->blk.iovcnt = req->iovcnt;
	rr->blk.done = raw_done;
	if (req->op == VFS_FLUSH)
		unflushed_begin(raw->unflushed, &rr->mark);
	raw->in_flight++;
	send_it(rr);
}

static void raw_close(struct vfs_disk *disk, void (*closed)(void *arg), void *arg)
{
	struct raw *raw = container_of(disk, struct raw, disk);

	raw->closed = closed;
	raw->closed_arg = arg;
	if (!raw->in_flight)
		loop_defer(disk->loop, &raw->close_work);
}

static unsigned raw_rest(struct vfs_disk *disk, bool on)
{
	struct raw *raw = container_of(disk, struct raw, disk);

	raw->resting = on;
	return (raw->in_flight ? VFS_BUSY : 0) |
	       (unflushed_any(raw->unflushed) ? VFS_UNFLUSHED : 0);
}

static const struct vfs_disk_ops raw_ops = {
	.submit = raw_submit,
	.close = raw_close,
	.rest = raw_rest,
};

int vfs_raw_open(struct blk *blk, struct loop *loop, const char *name, struct vfs_disk **out)
{
	const struct blk_info *info = blk_info(blk);
	struct raw *raw = xcalloc(1, sizeof(*raw));
	uint64_t id[2] = {checksum64(info->id, strlen(info->id)),
			  checksum64(info->id, strlen(info->id) + 1)};
	int rc = blk_chan_open(blk, loop, BLK_CHAN_DATA, &raw->chan);

	if (rc < 0) {
		free(raw);
		return fail_prefix(rc, "disk %s", name);
	}
	raw->blk = blk;
	unflushed_create(&raw->unflushed, 1);
	if (info->write_cache)
		unflushed_add(raw->unflushed, 0, NULL, raw->chan);
	raw->close_work.fn = raw_close_now;
	raw->disk.ops = &raw_ops;
	raw->disk.loop = loop;
	raw->disk.info.size = info->size;
	raw->disk.info.block_size = info->block_size;
	raw->disk.info.grain = MAX(info->physical_block_size, info->block_size);
	raw->disk.info.discard_unit = info->discard_granularity;
	memcpy(raw->disk.info.id, id, sizeof(id));
	(void)str_format(raw->disk.info.name, sizeof(raw->disk.info.name), "%s", name);
	*out = &raw->disk;
	return 0;
}
