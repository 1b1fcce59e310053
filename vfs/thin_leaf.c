// SPDX-License-Identifier: Apache-2.0
/*
 * thin_leaf.c: map leaves at hand: found by index, loaded or made by a job in the pool, kept under a
 * limit; and the jobs that give discarded units back.
 */
#include "vfs/thin_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/log.h"

static struct list *bucket_of(struct thin *thin, uint64_t index)
{
	return &thin->bucket[index % THIN_BUCKETS];
}

static struct leaf *find(struct thin *thin, uint64_t index)
{
	struct leaf *leaf;

	if (thin->last && thin->last->index == index)
		return thin->last;
	list_for_each (leaf, bucket_of(thin, index), hash) {
		if (leaf->index == index) {
			list_del(&leaf->lru);
			list_add_tail(&thin->lru, &leaf->lru);
			thin->last = leaf;
			return leaf;
		}
	}
	return NULL;
}

static void drop(struct thin *thin, struct leaf *leaf)
{
	if (thin->last == leaf)
		thin->last = NULL;
	list_del(&leaf->hash);
	list_del(&leaf->lru);
	list_del(&leaf->reap_link);
	cfs_buf_put(thin->fs, leaf->buf);
	free(leaf);
	thin->leaves--;
}

static void shrink(struct thin *thin)
{
	unsigned share = THIN_LEAVES_ALL / MAX(1u, vfs_chans_disks(thin->chans)), looked = 0;
	unsigned limit = MAX(THIN_LEAVES_LEAST, MIN(THIN_LEAVES, share));
	struct leaf *leaf, *tmp;

	list_for_each_safe (leaf, tmp, &thin->lru, lru) {
		if (thin->leaves < limit || looked++ > 16)
			return;
		if (!leaf->users && !leaf->loading && list_empty(&leaf->waiters) &&
		    list_empty(&leaf->reap_link))
			drop(thin, leaf);
	}
}

void leaf_forget_all(struct thin *thin)
{
	while (!list_empty(&thin->lru))
		drop(thin, list_first(&thin->lru, struct leaf, lru));
}

void leaf_use(struct leaf *leaf)
{
	leaf->users++;
}

void leaf_unuse(struct thin *thin, struct leaf *leaf)
{
	(void)thin;
	MUST(leaf->users > 0);
	leaf->users--;
}

static struct leaf *add(struct thin *thin, uint64_t index)
{
	struct leaf *leaf = xcalloc(1, sizeof(*leaf));

	shrink(thin);
	leaf->index = index;
	list_init(&leaf->waiters);
	list_init(&leaf->reap_link);
	list_add(bucket_of(thin, index), &leaf->hash);
	list_add_tail(&thin->lru, &leaf->lru);
	thin->leaves++;
	return leaf;
}

/* --- loading --------------------------------------------------------------------------------------------- */

struct load {
	struct pool_job job;
	struct loop_work work;
	struct thin *thin;
	struct leaf *leaf;
	bool create;
	struct cfs_buf *buf;
	int rc;
};

/* What an earlier life discarded and did not give back shows in the leaf. */
static void note_discarded(struct thin *thin, struct leaf *leaf)
{
	if (!leaf->buf || thin->thick || thin->disk.info.read_only)
		return;
	for (unsigned i = 0; i < CFS_LEAF_ENTRIES; i++) {
		struct cfs_entry e;

		leaf_entry(leaf, i, &e);
		if (e.block && e.state == 0)
			leaf_reap_later(thin, leaf, i);
	}
}

static void loaded(struct loop_work *work)
{
	struct load *load = container_of(work, struct load, work);
	struct thin *thin = load->thin;
	struct leaf *leaf = load->leaf;
	int rc = load->rc;

	leaf->loading = false;
	if (rc == 0 && load->buf) {
		MUST(!leaf->buf);
		leaf->buf = load->buf;
		note_discarded(thin, leaf);
	}
	free(load);
	if (rc == 0 && leaf->buf)
		thin_set_full(thin, THIN_FULL_MAP, false);
	leaf->error = rc;
	thin_wake(&leaf->waiters);
	leaf->error = 0;
	leaf->users--; /* only now: those who walked on may make room among the leaves */
	if (rc < 0 && !leaf->users && list_empty(&leaf->waiters))
		drop(thin, leaf);
	thin->in_flight--;
	leaf_reap_run(thin);
	thin_idle(thin);
}

static void load_job(struct pool_job *job)
{
	struct load *load = container_of(job, struct load, job);

	load->rc = cfs_map_leaf(load->thin->map, load->leaf->index, load->create, &load->buf);
	if (load->rc < 0 && load->rc != -ENOSPC)
		log_error("vfs", "%s: its map: %s", load->thin->disk.info.name,
			  err_message(load->rc));
	loop_post(load->thin->disk.loop, &load->work);
}

static void start_load(struct thin *thin, struct leaf *leaf, bool create)
{
	struct load *load = xcalloc(1, sizeof(*load));

	load->thin = thin;
	load->leaf = leaf;
	load->create = create;
	load->job.fn = load_job;
	load->work.fn = loaded;
	leaf->loading = true;
	leaf->users++;
	thin->in_flight++;
	pool_submit(vfs_chans_pool(thin->chans), &load->job);
}

/* The metadata cache may have it: no need for a job then. */
static bool peek(struct thin *thin, struct leaf *leaf)
{
	if (cfs_map_leaf_peek(thin->map, leaf->index, &leaf->buf) < 0) {
		err_clear();
		return false;
	}
	note_discarded(thin, leaf);
	return true;
}

int leaf_get(struct thin *thin, uint64_t index, bool create, struct vfs_req *req, struct leaf **out)
{
	struct leaf *leaf = find(thin, index);
	bool fresh = false;

	if (!leaf) {
		leaf = add(thin, index);
		fresh = !peek(thin, leaf);
	}
	if (leaf->error == -ESTALE || leaf->error == -ENOTCONN || leaf->error == -ETIMEDOUT) {
		thin_walk_later(thin, req, leaf->error); /* not known yet: no hole, no error */
		return STEP_WAIT;
	}
	if (leaf->error < 0 && leaf->error != -ENOSPC)
		return -EIO; /* said why in the log; the next request tries again */
	if (!leaf->loading && !fresh && (leaf->buf || !create)) {
		*out = leaf;
		return STEP_MORE;
	}
	if (leaf->error < 0) {
		thin_walk_later(thin, req, leaf->error);
		return STEP_WAIT;
	}
	if (!leaf->loading)
		start_load(thin, leaf, create);
	thin_wait(&leaf->waiters, req);
	return STEP_WAIT;
}

/* --- giving discarded units back ------------------------------------------------------------------------------ */

struct reap {
	struct pool_job job;
	struct loop_work work;
	struct thin *thin;
	struct leaf *leaf;
	uint8_t slot[CFS_LEAF_ENTRIES];
	unsigned n;
	int rc;
};

static void reaped(struct loop_work *work)
{
	struct reap *reap = container_of(work, struct reap, work);
	struct thin *thin = reap->thin;
	struct leaf *leaf = reap->leaf;

	for (unsigned i = 0; i < reap->n; i++) {
		bitmap_put(leaf->busy, reap->slot[i], false);
		bitmap_put(leaf->gone, reap->slot[i], false);
	}
	/* Not given back now: the entry still names it, and the next load of the leaf finds it. */
	free(reap);
	leaf->users--;
	thin->reap_running = false;
	thin->in_flight--;
	thin_wake(&leaf->waiters);
	leaf_reap_run(thin);
	thin_idle(thin);
}

static void reap_job(struct pool_job *job)
{
	struct reap *reap = container_of(job, struct reap, job);

	reap->rc = cfs_map_reap(reap->thin->map, reap->leaf->buf, reap->slot, reap->n);
	if (reap->rc < 0)
		log_warn("vfs", "%s: giving space back: %s", reap->thin->disk.info.name,
			 err_message(reap->rc));
	loop_post(reap->thin->disk.loop, &reap->work);
}

void leaf_reap_later(struct thin *thin, struct leaf *leaf, unsigned slot)
{
	if (thin->thick)
		return;
	bitmap_put(leaf->reap, slot, true);
	if (list_empty(&leaf->reap_link))
		list_add_tail(&thin->reap, &leaf->reap_link);
}

/* Entries that can go now: all zero, nobody changes them, nothing is in flight to their unit. */
static unsigned collect(struct leaf *leaf, uint8_t *slot)
{
	unsigned n = 0;

	for (unsigned i = 0; i < CFS_LEAF_ENTRIES; i++) {
		struct cfs_entry e;

		if (!bitmap_get(leaf->reap, i) || bitmap_get(leaf->busy, i) || leaf->io[i])
			continue;
		bitmap_put(leaf->reap, i, false);
		leaf_entry(leaf, i, &e);
		if (!e.block || e.state)
			continue; /* written again meanwhile */
		bitmap_put(leaf->busy, i, true);
		bitmap_put(leaf->gone, i, true);
		slot[n++] = (uint8_t)i;
	}
	return n;
}

void leaf_reap_run(struct thin *thin)
{
	struct reap *reap;

	if (thin->reap_running || thin->closed || thin->resting)
		return;
	while (!list_empty(&thin->reap)) {
		struct leaf *leaf = list_first(&thin->reap, struct leaf, reap_link);
		uint8_t slot[CFS_LEAF_ENTRIES];
		unsigned n = collect(leaf, slot);

		/* What still has I/O comes back when that ends (piece_end). */
		list_del(&leaf->reap_link);
		if (n == 0)
			continue;
		reap = xcalloc(1, sizeof(*reap));
		reap->thin = thin;
		reap->leaf = leaf;
		reap->n = n;
		memcpy(reap->slot, slot, n);
		reap->job.fn = reap_job;
		reap->work.fn = reaped;
		leaf->users++;
		thin->in_flight++;
		thin->reap_running = true;
		pool_submit(vfs_chans_pool(thin->chans), &reap->job);
		return;
	}
}
