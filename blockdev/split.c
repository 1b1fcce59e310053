// SPDX-License-Identifier: Apache-2.0
/*
 * split.c: requests that are longer than the LUN takes go down in pieces, all at once; off the
 * fast path, so it may allocate. Also zeroes written plainly, where the LUN has no command for it.
 */
#include "blockdev/node.h"

#include <errno.h>
#include <stdlib.h>

#include "base/err.h"

struct split {
	struct blk_req *parent;
	struct blk_chan *chan;
	uint64_t power; /* of the channel, when the first piece went */
	unsigned pending;
	int res;
	bool maybe_done;
};

struct piece {
	struct blk_req req;
	struct split *split;
	struct iovec iov[];
};

int blk_iov_slice(struct iovec *out, const struct iovec *iov, int iovcnt, uint64_t skip,
		  uint64_t length)
{
	int n = 0;

	for (int i = 0; i < iovcnt && length; i++) {
		size_t have = iov[i].iov_len, take;

		if (skip >= have) {
			skip -= have;
			continue;
		}
		take = MIN(have - skip, length);
		out[n].iov_base = (char *)iov[i].iov_base + skip;
		out[n++].iov_len = take;
		length -= take;
		skip = 0;
	}
	MUST(length == 0);
	return n;
}

/*
 * Some of a write's pieces went before a cache may have been lost, others after it: who counts from the
 * end of the whole would not see it. It ends as the lost session's other writes have.
 */
static bool straddles(const struct blk_chan *chan, const struct blk_req *parent, uint64_t power)
{
	return chan->blk->info.write_cache && blk_op_changes(parent->op) &&
	       !(parent->flags & BLK_FUA) && power != blk_chan_power_count(chan);
}

static void release(struct split *split)
{
	struct blk_req *parent = split->parent;
	int res = split->res;

	if (--split->pending)
		return;
	if (res == 0 && straddles(split->chan, parent, split->power))
		res = -ENOTCONN;
	/* Some pieces may be on the medium, others not. */
	parent->maybe_done = split->maybe_done;
	free(split);
	blk_complete(parent, res);
}

static void piece_done(struct blk_req *req, int res)
{
	struct piece *piece = container_of(req, struct piece, req);
	struct split *split = piece->split;

	if (res < 0 && split->res == 0)
		split->res = res;
	/* A piece that was written is a part of the whole that was executed. */
	if (blk_op_changes(req->op) && (res == 0 || req->maybe_done))
		split->maybe_done = true;
	free(piece);
	release(split);
}

/* How much from `skip` on fits into BLK_IOV_MAX iovecs and `max` bytes, in whole blocks. */
static uint64_t fits(const struct blk_req *req, uint64_t skip, uint64_t max, uint32_t block)
{
	uint64_t sum = 0, want = MIN(max, req->length - skip);
	int n = 0;

	if (!req->iov)
		return want;
	for (int i = 0; i < req->iovcnt && sum < want && n < BLK_IOV_MAX; i++) {
		uint64_t have = req->iov[i].iov_len;

		if (skip >= have) {
			skip -= have;
			continue;
		}
		sum += have - skip;
		skip = 0;
		n++;
	}
	sum = ROUND_DOWN(MIN(sum, want), (uint64_t)block);
	MUST(sum > 0);
	return sum;
}

void blk_split(struct blk_chan *chan, struct blk_req *req, uint64_t max)
{
	struct split *split = xcalloc(1, sizeof(*split));
	uint64_t at = 0, take;

	split->parent = req;
	split->chan = chan;
	split->power = blk_chan_power_count(chan);
	split->pending = 1;
	if (max != UINT64_MAX)
		max = ROUND_DOWN(max, (uint64_t)chan->blk->info.block_size);
	for (; at < req->length; at += take) {
		int iovs = req->iov ? MIN(req->iovcnt, BLK_IOV_MAX) : 0;
		struct piece *piece = xcalloc(1,
					      sizeof(*piece) + (size_t)iovs * sizeof(struct iovec));

		take = fits(req, at, max, chan->blk->info.block_size);
		piece->split = split;
		piece->req.done = piece_done;
		blk_prep_rw(&piece->req, req->op, req->offset + at, req->iov ? piece->iov : NULL, 0,
			    take, req->flags);
		if (req->iov)
			piece->req.iovcnt = blk_iov_slice(piece->iov, req->iov, req->iovcnt, at,
							  take);
		split->pending++;
		blk_submit(chan, &piece->req);
	}
	release(split);
}

/* --- zeroes ----------------------------------------------------------------------------------- */

#define ZERO_BYTES  (64 * KiB)
#define ZERO_IOVS   16
#define ZERO_AT_ONE (ZERO_BYTES * ZERO_IOVS)

static const uint8_t zeroes[ZERO_BYTES] __attribute__((aligned(4096)));

/* One write of zeroes after the other: `parent` waits. */
struct zero {
	struct blk_req req;
	struct iovec iov[ZERO_IOVS];
	struct blk_req *parent;
	struct blk_chan *chan;
	uint64_t at;
	uint64_t power; /* as above */
};

static void zero_next(struct zero *z)
{
	struct blk_req *parent = z->parent;
	uint64_t left = parent->length - z->at, take;
	int n = 0;

	take = MIN(MIN(left, ZERO_AT_ONE),
		   ROUND_DOWN(z->chan->blk->info.max_transfer, z->chan->blk->info.block_size));
	for (uint64_t sum = 0; sum < take; sum += z->iov[n++].iov_len)
		z->iov[n] = (struct iovec){(void *)zeroes, MIN(take - sum, ZERO_BYTES)};
	blk_prep_rw(&z->req, BLK_WRITE, parent->offset + z->at, z->iov, n, take, parent->flags);
	z->at += take;
	blk_submit(z->chan, &z->req);
}

static void zero_done(struct blk_req *req, int res)
{
	struct zero *z = container_of(req, struct zero, req);
	struct blk_req *parent = z->parent;

	if (res == 0 && z->at < parent->length) {
		zero_next(z);
		return;
	}
	if (res == 0 && z->at > req->length && straddles(z->chan, parent, z->power))
		res = -ENOTCONN;
	parent->maybe_done = res < 0 && (req->maybe_done || z->at > req->length);
	free(z);
	blk_complete(parent, res);
}

void blk_write_zeroes_plainly(struct blk_chan *chan, struct blk_req *req)
{
	struct zero *z = xcalloc(1, sizeof(*z));

	z->parent = req;
	z->chan = chan;
	z->power = blk_chan_power_count(chan);
	z->req.done = zero_done;
	zero_next(z);
}
