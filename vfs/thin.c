// SPDX-License-Identifier: Apache-2.0
/* thin.c: a thin disk's life and its requests: from submit over the walk to the answer. */
#include "vfs/thin_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "clusterfs/cfs.h"

_Static_assert(sizeof(struct thin_req) <= sizeof(((struct vfs_req *)0)->priv), "priv");

/* --- the walk --------------------------------------------------------------------------------------- */

static int step(struct vfs_req *req)
{
	switch (req->op) {
	case VFS_READ:
		return thin_step_read(req);
	case VFS_WRITE:
		return thin_step_write(req);
	case VFS_DISCARD:
	case VFS_WRITE_ZEROES:
		return thin_step_zero(req);
	case VFS_FLUSH:
		break;
	}
	MUST(!"a request that walks");
}

/* The map names data that may be lost: a commit says. */
static int wait_settled(struct vfs_req *req)
{
	struct thin *thin = thin_req(req)->thin;

	if (thin_gone(req))
		return -ESTALE;
	thin_wait(&thin->unsure, req);
	thin_settle(thin);
	return STEP_WAIT;
}

void thin_walk(struct vfs_req *req)
{
	struct thin_req *t = thin_req(req);
	int rc = STEP_MORE;

	while (rc == STEP_MORE && t->at < req->offset + req->length && t->res == 0) {
		if (thin_suspect(t->thin))
			rc = wait_settled(req);
		else
			rc = step(req);
	}
	if (rc == STEP_WAIT)
		return; /* called again from the list it waits on */
	thin_part_done(req, rc);
}

void thin_answer(struct vfs_req *req, int res)
{
	struct thin *thin = thin_req(req)->thin;

	req->done(req, res);
	thin->in_flight--;
	thin_idle(thin);
}

uint64_t thin_losses(const struct thin *thin)
{
	return unflushed_power(thin->unflushed) + thin_undone(thin);
}

static void begin_walk(struct vfs_req *req)
{
	struct thin_req *t = thin_req(req);

	t->at = req->offset;
	t->pending = 1;
	t->res = 0;
	t->iov_index = 0;
	t->iov_offset = 0;
	t->anew = false;
	t->power = thin_losses(t->thin);
	thin_walk(req);
}

/*
 * A cache was lost under a request that writes: what of it was done before may be gone, and what came after may
 * lie in units that were undone. No flush would tell of it, since it was not answered yet: it is done again.
 */
static bool in_vain(struct vfs_req *req)
{
	struct thin_req *t = thin_req(req);

	return req->op != VFS_READ && t->power != thin_losses(t->thin);
}

static void write_again(struct vfs_req *req)
{
	if (thin_gone(req))
		thin_answer(req, -EIO);
	else
		begin_walk(req);
}

/* --- flush: what was answered becomes durable ----------------------------------------------------------- */

/* A session or the lease that is lost comes back: nothing is promised until then. */
static bool passing(int res)
{
	return res == -ESTALE || res == -ENOTCONN || res == -ETIMEDOUT || res == -ECONNRESET ||
	       res == -EBADE;
}

static void tell_lost(struct thin *thin, unsigned extent)
{
	char text[512];

	(void)str_format(
		text, sizeof(text),
		"%s: LUN %.100s may have lost its write cache, and writes with it that were "
		"not flushed yet; the guest's flush was answered with an I/O error",
		thin->disk.info.name, blk_info(cfs_lun(thin->fs, extent))->name);
	log_error("vfs", "%s", text);
	cfs_tell(thin->fs, "lost", text);
}

struct proof {
	struct blk_req blk;
	struct vfs_req *req;
	unsigned extent;
	uint64_t witness;
};

static void settle(struct vfs_req *req);

static void proof_done(struct blk_req *blk, int res)
{
	struct proof *proof = container_of(blk, struct proof, blk);
	struct vfs_req *req = proof->req;
	struct thin_req *t = thin_req(req);

	if (res == 0)
		unflushed_proved(t->thin->unflushed, proof->extent, proof->witness);
	t->res = res < 0 && !passing(res) ? -EIO : res;
	free(proof);
	settle(req);
}

static void prove(struct vfs_req *req, unsigned extent)
{
	struct thin *thin = thin_req(req)->thin;
	struct proof *proof = xcalloc(1, sizeof(*proof));

	proof->req = req;
	proof->extent = extent;
	proof->witness = unflushed_witness(thin->unflushed, extent);
	proof->blk.done = proof_done;
	blk_prep_flush(&proof->blk);
	blk_submit(vfs_chan(thin->chans, extent), &proof->blk);
}

/* A guest's flush: all is durable. Unless what it was for went with an array's power. */
static void settle_flush(struct vfs_req *req)
{
	struct thin_req *t = thin_req(req);
	unsigned extent;
	bool first;
	int rc;

	rc = unflushed_end(t->thin->unflushed, &t->mark, &extent, &first);
	if (rc == -EAGAIN) {
		prove(req, extent);
		return;
	}
	if (first)
		tell_lost(t->thin, extent);
	thin_answer(req, rc);
}

/* A write with FUA: its data are at hand still, so what may be lost is written again. */
static void settle_fua(struct vfs_req *req)
{
	struct thin_req *t = thin_req(req);
	unsigned extent;

	if (unflushed_unproved(t->thin->unflushed, &extent) < 0) {
		prove(req, extent);
		return;
	}
	if (in_vain(req)) {
		write_again(req);
		return;
	}
	unflushed_retire(t->thin->unflushed, &t->mark);
	thin_answer(req, 0);
}

static void settle(struct vfs_req *req)
{
	struct thin_req *t = thin_req(req);
	struct thin *thin = t->thin;

	if (passing(t->res) && !thin->closed) {
		thin_wait(&thin->flushes, req);
		if (!thin->retry.armed)
			loop_timer_arm(thin->disk.loop, &thin->retry,
				       clock_boot_ns() + THIN_RETRY_MS * NS_PER_MS);
	} else if (t->res < 0) {
		thin_answer(req, t->res);
	} else if (req->op == VFS_FLUSH) {
		settle_flush(req);
	} else {
		settle_fua(req);
	}
}

static void commit_posted(struct loop_work *work)
{
	settle(req_of(container_of(work, struct thin_req, commit_work)));
}

static void commit_done(struct cfs_commit *commit, int res) /* in the commit thread */
{
	struct thin_req *t = container_of(commit, struct thin_req, commit);

	t->res = res < 0 && !passing(res) ? -EIO : res;
	loop_post(t->thin->disk.loop, &t->commit_work);
}

void thin_commit(struct vfs_req *req)
{
	struct thin_req *t = thin_req(req);

	t->commit.done = commit_done;
	t->commit_work.fn = commit_posted;
	cfs_commit(t->thin->fs, &t->commit);
}

void thin_part_done(struct vfs_req *req, int res)
{
	struct thin_req *t = thin_req(req);

	if (res < 0 && t->res == 0)
		t->res = res;
	if (--t->pending)
		return;
	if (t->res == 0 && t->anew)
		begin_walk(req);
	else if (t->res == 0 && in_vain(req))
		write_again(req);
	else if (t->res == 0 && (req->flags & VFS_FUA) && req->op != VFS_READ) {
		unflushed_begin(t->thin->unflushed, &t->mark);
		thin_commit(req);
	} else {
		thin_answer(req, t->res);
	}
}

void thin_wait(struct list *queue, struct vfs_req *req)
{
	list_add_tail(queue, &thin_req(req)->wait);
}

void thin_wake(struct list *queue)
{
	struct list now;

	list_init(&now);
	list_splice_tail(&now, queue);
	while (!list_empty(&now)) {
		struct thin_req *t = list_first(&now, struct thin_req, wait);

		list_del(&t->wait);
		thin_walk(req_of(t));
	}
}

/* --- submit ------------------------------------------------------------------------------------------------ */

static bool in_range(const struct vfs_disk *disk, const struct vfs_req *req)
{
	return req->length > 0 && req->offset % disk->info.block_size == 0 &&
	       req->length % disk->info.block_size == 0 && req->offset <= disk->info.size &&
	       req->length <= disk->info.size - req->offset;
}

static void thin_submit(struct vfs_disk *disk, struct vfs_req *req)
{
	struct thin *thin = container_of(disk, struct thin, disk);
	struct thin_req *t = thin_req(req);

	if (req->op != VFS_FLUSH && !in_range(disk, req)) {
		req->done(req, -EINVAL);
		return;
	}
	if (req->op != VFS_FLUSH && req->op != VFS_READ && disk->info.read_only) {
		req->done(req, -EROFS);
		return;
	}
	t->thin = thin;
	t->sheds = thin->sheds;
	list_init(&t->wait);
	thin->in_flight++;
	if (req->op != VFS_FLUSH) {
		begin_walk(req);
	} else if (disk->info.read_only) {
		thin_answer(req, 0);
	} else {
		unflushed_begin(thin->unflushed, &t->mark);
		thin_commit(req);
	}
}

/* --- life ---------------------------------------------------------------------------------------------------- */

static void close_now(struct loop_work *work)
{
	struct thin *thin = container_of(work, struct thin, close_work);
	void (*closed)(void *arg) = thin->closed;
	void *arg = thin->closed_arg;

	if (!thin_ways_commit(thin) || !thin_ways_leave(thin))
		return;
	loop_timer_cancel(&thin->retry);
	leaf_forget_all(thin);
	pieces_free(thin);
	unflushed_destroy(thin->unflushed);
	vfs_chans_put(thin->chans);
	free(thin);
	closed(arg);
}

void thin_idle(struct thin *thin)
{
	if (thin->closed && thin->in_flight == 0 && !thin->space_waiting && !thin->room_waiting)
		loop_defer(thin->disk.loop, &thin->close_work);
	else if (thin->resting && !thin->closed && thin->in_flight == 0 && thin->disk.rested)
		thin->disk.rested(&thin->disk);
}

static unsigned thin_rest(struct vfs_disk *disk, bool on)
{
	struct thin *thin = container_of(disk, struct thin, disk);

	if (thin->resting && !on) {
		thin->resting = false;
		leaf_reap_run(thin);
	}
	thin->resting = on;
	return (thin->in_flight ? VFS_BUSY : 0) |
	       (unflushed_any(thin->unflushed) ? VFS_UNFLUSHED : 0);
}

static void thin_close(struct vfs_disk *disk, void (*closed)(void *arg), void *arg)
{
	struct thin *thin = container_of(disk, struct thin, disk);

	thin->closed = closed;
	thin->closed_arg = arg;
	thin->close_work.fn = close_now;
	thin_give_up_stalled(thin);
	thin_idle(thin);
}

/* Pieces that may still land go on, and are waited for. */
static void thin_shed(struct vfs_disk *disk)
{
	struct thin *thin = container_of(disk, struct thin, disk);

	thin->sheds++;
	thin_give_up_stalled(thin);
	thin_set_full(thin, THIN_FULL_UNITS | THIN_FULL_LUN | THIN_FULL_MAP, false);
}

static const struct vfs_disk_ops thin_ops = {
	.submit = thin_submit,
	.close = thin_close,
	.shed = thin_shed,
	.rest = thin_rest,
};

static void fill_info(struct thin *thin, const struct cfs_stat *st, const char *name)
{
	struct vfs_disk_info *info = &thin->disk.info;

	info->size = st->size;
	info->block_size = MAX(512u, cfs_logical_block(thin->fs));
	info->grain = THIN_GRAIN;
	info->discard_unit = CFS_UNIT;
	memcpy(info->id, st->id, sizeof(info->id));
	(void)str_format(info->name, sizeof(info->name), "%s", name);
	info->read_only = !thin->stock;
}

int vfs_thin_open(struct vfs_chans *chans, struct cfs_file *file, const char *name,
		  struct vfs_disk **out)
{
	struct thin *thin = xcalloc(1, sizeof(*thin));
	struct cfs_stat st;

	cfs_file_stat(file, &st);
	thin->disk.ops = &thin_ops;
	thin->disk.loop = vfs_chans_loop(chans);
	thin->chans = chans;
	thin->fs = vfs_chans_volume(chans);
	thin->file = file;
	thin->map = cfs_file_map(file);
	thin->stock = cfs_map_stock(thin->map);
	thin->thick = st.thick;
	thin->flight_ns = cfs_flight_ms(thin->fs) * NS_PER_MS;
	for (unsigned i = 0; i < THIN_BUCKETS; i++)
		list_init(&thin->bucket[i]);
	list_init(&thin->lru);
	list_init(&thin->free_pieces);
	list_init(&thin->no_space);
	list_init(&thin->no_room);
	list_init(&thin->zero_room);
	list_init(&thin->stalled);
	list_init(&thin->flushes);
	list_init(&thin->later);
	list_init(&thin->unsure);
	list_init(&thin->reap);
	thin->retry.fn = thin_retry_stalled;
	thin->room_work.fn = thin_room;
	thin->space_work.fn = thin_space;
	fill_info(thin, &st, name);
	unflushed_create(&thin->unflushed, CFS_MAX_EXTENTS);
	vfs_chans_get(chans);
	*out = &thin->disk;
	return 0;
}

void vfs_thin_set_size(struct vfs_disk *disk, uint64_t size)
{
	if (size <= disk->info.size)
		return;
	disk->info.size = size;
	if (disk->resized)
		disk->resized(disk);
}
