// SPDX-License-Identifier: Apache-2.0
/* pass.c: requests and commands go to the LUN's channel; kept here: what they need on their way. */
#include "vfs/pass.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/checksum.h"
#include "base/err.h"
#include "base/loop.h"
#include "base/util.h"
#include "blockdev/blk.h"
#include "vfs/guest_io.h"

struct pass {
	struct vfs_disk disk;
	struct blk *blk;
	struct blk_chan *chan;
	struct list free; /* struct command.link */
	unsigned in_flight;
	struct loop_work close_work;
	void (*closed)(void *arg);
	void *closed_arg;
};

struct command {
	struct blk_req blk;
	struct blk_scsi scsi;
	struct pass *pass;
	struct vfs_scsi *of;
	struct list link;
};

/* READ, WRITE, FLUSH of a kernel device. */
struct request {
	struct blk_req blk;
	struct pass *pass;
};
_Static_assert(sizeof(struct request) <= sizeof(((struct vfs_req *)0)->priv), "priv");

static struct pass *pass_of(struct vfs_disk *disk)
{
	return container_of(disk, struct pass, disk);
}

static void ended(struct pass *pass)
{
	if (--pass->in_flight == 0 && pass->closed)
		loop_defer(pass->disk.loop, &pass->close_work);
}

/* --- commands ---------------------------------------------------------------------------------- */

static void command_done(struct blk_req *req, int res)
{
	struct command *c = container_of(req, struct command, blk);
	struct pass *pass = c->pass;
	struct vfs_scsi *s = c->of;

	s->status = c->scsi.status;
	s->moved = c->scsi.moved;
	s->overrun = c->scsi.overrun;
	s->sense_bytes = res == 0 ? c->scsi.sense_bytes : 0;
	memcpy(s->sense, c->scsi.sense, s->sense_bytes);
	list_add(&pass->free, &c->link);
	s->done(s, res);
	ended(pass);
}

static struct command *command_new(struct pass *pass)
{
	struct command *c;

	if (list_empty(&pass->free))
		return xcalloc(1, sizeof(*c));
	c = list_first(&pass->free, struct command, link);
	list_del(&c->link);
	memset(c, 0, sizeof(*c));
	return c;
}

static void pass_scsi(struct vfs_disk *disk, struct vfs_scsi *s)
{
	struct pass *pass = pass_of(disk);
	struct command *c = command_new(pass);

	MUST(s->cdb_length <= sizeof(c->scsi.cdb));
	c->pass = pass;
	c->of = s;
	memcpy(c->scsi.cdb, s->cdb, s->cdb_length);
	c->scsi.cdb_length = s->cdb_length;
	c->scsi.data = !s->bytes ? BLK_DATA_NONE : s->to_guest ? BLK_DATA_IN : BLK_DATA_OUT;
	c->blk.op = BLK_SCSI;
	c->blk.scsi = &c->scsi;
	c->blk.iov = s->iov;
	c->blk.iovcnt = (int)s->iovcnt;
	c->blk.length = s->bytes;
	c->blk.done = command_done;
	pass->in_flight++;
	blk_submit(pass->chan, &c->blk);
}

/* --- requests ---------------------------------------------------------------------------------- */

static void request_done(struct blk_req *blk_req, int res)
{
	struct request *r = container_of(blk_req, struct request, blk);
	struct vfs_req *req = container_of((uint8_t *)r, struct vfs_req, priv);
	struct pass *pass = r->pass;

	/* -EBADE is a reservation conflict, which a guest is told as what it is. */
	if (res < 0 && res != -ESTALE && res != -EBADE && res != -EOPNOTSUPP)
		res = -EIO;
	req->done(req, res);
	ended(pass);
}

static void pass_submit(struct vfs_disk *disk, struct vfs_req *req)
{
	struct pass *pass = pass_of(disk);
	struct request *r = (struct request *)(void *)req->priv;

	if (req->op != VFS_READ && req->op != VFS_WRITE) { /* the target sends commands for these */
		req->done(req, -EOPNOTSUPP);
		return;
	}
	if (req->offset % disk->info.block_size || req->length % disk->info.block_size ||
	    !req->length || req->offset > disk->info.size ||
	    req->length > disk->info.size - req->offset) {
		req->done(req, -EINVAL);
		return;
	}
	r->pass = pass;
	blk_prep_rw(&r->blk, req->op == VFS_READ ? BLK_READ : BLK_WRITE, req->offset, req->iov,
		    req->iovcnt, req->length, req->flags & VFS_FUA ? BLK_FUA : 0);
	r->blk.done = request_done;
	pass->in_flight++;
	blk_submit(pass->chan, &r->blk);
}

/* --- life -------------------------------------------------------------------------------------- */

static void close_now(struct loop_work *work)
{
	struct pass *pass = container_of(work, struct pass, close_work);
	void (*closed)(void *arg) = pass->closed;
	void *arg = pass->closed_arg;

	while (!list_empty(&pass->free)) {
		struct command *c = list_first(&pass->free, struct command, link);

		list_del(&c->link);
		free(c);
	}
	blk_chan_close(pass->chan);
	free(pass);
	closed(arg);
}

/* What is on its way to an iSCSI LUN ends with its session; to the kernel, when the kernel gives it back. */
static void pass_close(struct vfs_disk *disk, void (*closed)(void *arg), void *arg)
{
	struct pass *pass = pass_of(disk);

	pass->closed = closed;
	pass->closed_arg = arg;
	if (pass->in_flight)
		blk_reset(pass->blk);
	else
		loop_defer(disk->loop, &pass->close_work);
}

static const struct vfs_disk_ops pass_ops = {
	.submit = pass_submit,
	.close = pass_close,
	.scsi = pass_scsi,
};

int vfs_pass_open(struct blk *blk, struct loop *loop, const struct pass_options *o,
		  struct vfs_disk **out)
{
	const struct blk_info *info = blk_info(blk);
	struct pass *pass = xcalloc(1, sizeof(*pass));
	uint64_t id[2] = {checksum64(o->id, strlen(o->id)), checksum64(o->id, strlen(o->id) + 1)};
	int rc = blk_chan_open(blk, loop, BLK_CHAN_DATA, &pass->chan);

	if (rc < 0) {
		free(pass);
		return fail_prefix(rc, "LUN %s", o->name);
	}
	pass->blk = blk;
	list_init(&pass->free);
	pass->close_work.fn = close_now;
	pass->disk.ops = &pass_ops;
	pass->disk.loop = loop;
	pass->disk.info.size = info->size;
	pass->disk.info.block_size = info->kind == BLK_KERNEL ? info->block_size : o->block_size;
	pass->disk.info.grain = pass->disk.info.block_size;
	pass->disk.pass = (struct vfs_pass){
		.by_requests = info->kind == BLK_KERNEL,
		.unfiltered = o->unfiltered,
		.max_transfer = info->max_transfer ? MIN(info->max_transfer, GUEST_IO_MAX)
						   : GUEST_IO_MAX,
	};
	memcpy(pass->disk.info.id, id, sizeof(id));
	(void)str_format(pass->disk.info.name, sizeof(pass->disk.info.name), "%s", o->name);
	*out = &pass->disk;
	return 0;
}
