// SPDX-License-Identifier: Apache-2.0
/* chans.c: channels to a volume's extents for one loop, counted. */
#include "vfs/chans.h"

#include <errno.h>
#include <semaphore.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/pool.h"
#include "base/util.h"
#include "blockdev/blk.h"
#include "clusterfs/iopath.h"

#define AGAIN_NS NS_PER_S /* between tries to open a channel */

struct vfs_chans {
	struct cfs *fs;
	struct loop *loop;
	struct pool *pool;
	_Atomic unsigned refs;
	struct blk_chan *chan[CFS_MAX_EXTENTS]; /* the loop's */
	/* One that is being opened: the volume has grown. */
	struct pool_job job;
	struct loop_work work;
	bool opening;
	unsigned extent;
	struct blk_chan *opened;
	uint64_t not_before_ns;
	/* Whoever opened them waits for the last reference. */
	struct loop_work close_work;
	sem_t *ended;
};

static void close_all(struct vfs_chans *c)
{
	sem_t *ended = c->ended;

	for (unsigned e = 0; e < CFS_MAX_EXTENTS; e++)
		if (c->chan[e])
			blk_chan_close(c->chan[e]);
	free(c);
	if (ended)
		sem_post(ended);
}

int vfs_chans_open(struct cfs *fs, struct loop *loop, struct pool *pool, struct vfs_chans **out)
{
	struct vfs_chans *c = xcalloc(1, sizeof(*c));

	c->fs = fs;
	c->loop = loop;
	c->pool = pool;
	c->refs = 1;
	for (unsigned e = 0; e < cfs_luns(fs); e++) {
		int rc = blk_chan_open(cfs_lun(fs, e), loop, BLK_CHAN_DATA, &c->chan[e]);

		if (rc < 0) {
			close_all(c);
			return rc;
		}
	}
	*out = c;
	return 0;
}

void vfs_chans_get(struct vfs_chans *chans)
{
	chans->refs++;
}

unsigned vfs_chans_disks(const struct vfs_chans *chans)
{
	return atomic_load_explicit(&chans->refs, memory_order_relaxed);
}

void vfs_chans_put(struct vfs_chans *chans)
{
	if (--chans->refs == 0)
		close_all(chans);
}

static void close_posted(struct loop_work *work)
{
	vfs_chans_put(container_of(work, struct vfs_chans, close_work));
}

void vfs_chans_close(struct vfs_chans *chans)
{
	sem_t ended;

	MUST(loop_current() != chans->loop);
	sem_init(&ended, 0, 0);
	chans->ended = &ended;
	chans->close_work.fn = close_posted;
	loop_post(chans->loop, &chans->close_work);
	while (sem_wait(&ended) < 0)
		MUST(errno == EINTR);
	sem_destroy(&ended);
}

/* --- a volume that has grown --------------------------------------------------------------------------- */

static void open_job(struct pool_job *job)
{
	struct vfs_chans *c = container_of(job, struct vfs_chans, job);
	struct blk *blk = cfs_lun(c->fs, c->extent);
	int rc = blk_chan_open(blk, c->loop, BLK_CHAN_DATA, &c->opened);

	if (rc < 0) {
		log_warn("vfs", "LUN %s: %s", blk_info(blk)->name, err_message(rc));
		c->opened = NULL;
	}
	loop_post(c->loop, &c->work);
}

static void opened(struct loop_work *work)
{
	struct vfs_chans *c = container_of(work, struct vfs_chans, work);

	c->chan[c->extent] = c->opened;
	c->not_before_ns = c->opened ? 0 : clock_boot_ns() + AGAIN_NS;
	c->opening = false;
	vfs_chans_put(c);
}

struct blk_chan *vfs_chan(struct vfs_chans *c, unsigned e)
{
	MUST(e < cfs_luns(c->fs));
	if (!c->chan[e] && !c->opening && clock_boot_ns() >= c->not_before_ns) {
		c->opening = true;
		c->extent = e;
		c->job.fn = open_job;
		c->work.fn = opened;
		vfs_chans_get(c);
		pool_submit(c->pool, &c->job);
	}
	return c->chan[e];
}

struct cfs *vfs_chans_volume(struct vfs_chans *chans)
{
	return chans->fs;
}

struct loop *vfs_chans_loop(struct vfs_chans *chans)
{
	return chans->loop;
}

struct pool *vfs_chans_pool(struct vfs_chans *chans)
{
	return chans->pool;
}
