// SPDX-License-Identifier: Apache-2.0
/*
 * uring.c: the data path of file and kernel LUNs. One SQE a request, nothing allocated, no lock;
 * requests of one turn of the loop enter the kernel together. A transfer that comes back short
 * (a signal, a device in trouble) goes on where it stopped, off the fast path.
 */
#include "blockdev/uring.h"

#include <errno.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"

struct uring_req {
	struct loop_op op;
	struct blk_req *req;
	int fd;
	int mode;
	uint64_t at;	    /* bytes transferred so far */
	struct iovec *rest; /* what is left, after a short transfer; owned */
	void (*refused)(struct blk_chan *chan, struct blk_req *req);
};

int uring_errno(const struct blk_chan *chan, const struct blk_req *req, int res)
{
	switch (-res) {
	case ENOSPC:
	case EDQUOT:
		return -ENOSPC;
	case EBADE: /* a reservation conflict, kernel devices */
		return -EBADE;
	case EOPNOTSUPP:
		return -EOPNOTSUPP;
	case ETIMEDOUT:
		return -ETIMEDOUT;
	case ENOLINK:
	case ENODEV:
	case ENXIO:
		return -ENOTCONN;
	}
	log_warn("blk", "LUN %s: %s of %llu bytes at %llu: %s", chan->blk->info.name,
		 blk_op_changes(req->op) ? "write" : "read or flush",
		 (unsigned long long)req->length, (unsigned long long)req->offset, strerror(-res));
	return -EIO;
}

static void answer(struct uring_req *u, int res)
{
	struct blk_req *req = u->req;

	if (res < 0) {
		req->maybe_done = blk_op_changes(req->op);
		res = uring_errno(blk_priv(req)->chan, req, res);
	}
	blk_complete(req, res);
}

static struct uring_req *begin(struct blk_req *req, int fd,
			       void (*done)(struct loop_op *op, int res))
{
	struct uring_req *u = BLK_BACKEND(struct uring_req, req);

	u->op.done = done;
	u->req = req;
	u->fd = fd;
	u->at = 0;
	u->rest = NULL;
	return u;
}

static void rw_send(struct uring_req *u)
{
	struct blk_req *req = u->req;
	struct io_uring_sqe *sqe = loop_sqe(blk_priv(req)->chan->loop, &u->op);
	const struct iovec *iov = req->iov;
	int n = req->iovcnt;

	if (u->at) {
		iov = u->rest;
		n = blk_iov_slice(u->rest, req->iov, req->iovcnt, u->at, req->length - u->at);
	}
	if (req->op == BLK_READ) {
		if (n == 1)
			io_uring_prep_read(sqe, u->fd, iov->iov_base, (unsigned)iov->iov_len,
					   req->offset + u->at);
		else
			io_uring_prep_readv(sqe, u->fd, iov, (unsigned)n, req->offset + u->at);
		return;
	}
	if (n == 1)
		io_uring_prep_write(sqe, u->fd, iov->iov_base, (unsigned)iov->iov_len,
				    req->offset + u->at);
	else
		io_uring_prep_writev(sqe, u->fd, iov, (unsigned)n, req->offset + u->at);
	if (req->flags & BLK_FUA)
		sqe->rw_flags = RWF_DSYNC;
}

static void rw_done(struct loop_op *op, int res)
{
	struct uring_req *u = container_of(op, struct uring_req, op);
	struct blk_req *req = u->req;

	if (res > 0)
		u->at += (uint64_t)res;
	if (u->at < req->length && (res > 0 || res == -EAGAIN || res == -EINTR)) {
		if (blk_gate_shut(blk_priv(req)->chan->blk, req)) {
			req->maybe_done = u->at > 0;
			res = -ESTALE;
		} else {
			if (!u->rest)
				u->rest = calloc((size_t)req->iovcnt, sizeof(struct iovec));
			MUST(u->rest);
			rw_send(u);
			return;
		}
	}
	if (u->rest)
		free(u->rest);
	if (res == -ESTALE)
		blk_complete(req, res);
	else if (res == 0) /* the file has become shorter than the LUN */
		answer(u, -EIO);
	else
		answer(u, MIN(res, 0));
}

static void sync_done(struct loop_op *op, int res)
{
	answer(container_of(op, struct uring_req, op), MIN(res, 0));
}

static void send_sync(struct uring_req *u)
{
	u->op.done = sync_done;
	io_uring_prep_fsync(loop_sqe(blk_priv(u->req)->chan->loop, &u->op), u->fd,
			    IORING_FSYNC_DATASYNC);
}

static void allocate_done(struct loop_op *op, int res)
{
	struct uring_req *u = container_of(op, struct uring_req, op);
	struct blk_chan *chan = blk_priv(u->req)->chan;

	if (res == -EINTR || res == -EAGAIN)
		uring_fallocate(chan, u->req, u->fd, u->mode, u->refused);
	else if (res == -EOPNOTSUPP && u->refused)
		u->refused(chan, u->req);
	else if (res == 0 && (u->req->flags & BLK_FUA))
		send_sync(u);
	else
		answer(u, res);
}

void uring_fallocate(struct blk_chan *chan, struct blk_req *req, int fd, int mode,
		     void (*refused)(struct blk_chan *chan, struct blk_req *req))
{
	struct uring_req *u = begin(req, fd, allocate_done);

	u->mode = mode;
	u->refused = refused;
	io_uring_prep_fallocate(loop_sqe(chan->loop, &u->op), fd, mode, (off_t)req->offset,
				(off_t)req->length);
}

bool uring_submit(struct blk_chan *chan, struct blk_req *req, int fd)
{
	switch (req->op) {
	case BLK_READ:
	case BLK_WRITE:
		rw_send(begin(req, fd, rw_done));
		return true;
	case BLK_FLUSH:
		send_sync(begin(req, fd, sync_done));
		return true;
	case BLK_WRITE_ZEROES:
		uring_fallocate(chan, req, fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
				blk_write_zeroes_plainly);
		return true;
	case BLK_DISCARD:
	case BLK_CAS:
	case BLK_SCSI:
	case BLK_OPS:
		break;
	}
	return false;
}
