// SPDX-License-Identifier: Apache-2.0
/* rig.c: a thin disk for tests. */
#include "tests/lib/rig.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/pool.h"
#include "base/util.h"
#include "clusterfs/cfs.h"
#include "vfs/chans.h"
#include "vfs/iothread.h"
#include "vfs/thin.h"

static void on_event(void *arg, const char *kind, const char *text)
{
	struct rig *r = arg;

	(void)text;
	if (strcmp(kind, "lost") == 0)
		r->lost++;
}

int rig_open(struct rig *r, struct blk *blk, const char *state_dir, uint64_t size)
{
	struct cfs_options options = {
		.host_name = "rig", .state_dir = state_dir, .event = on_event, .arg = r};
	int rc = cfs_mount(&blk, 1, &options, &r->fs);

	if (rc == 0)
		rc = cfs_create(r->fs, "/d", CFS_DISK, size);
	if (rc == -EEXIST) {
		err_clear();
		rc = 0;
	}
	if (rc == 0)
		rc = cfs_open(r->fs, "/d", CFS_OPEN_WRITE, 0, &r->file);
	if (rc == 0)
		rc = iothread_create(&r->io, "io", 256);
	if (rc == 0)
		rc = pool_create(&r->pool, "pool", 2);
	if (rc == 0)
		rc = vfs_chans_open(r->fs, iothread_loop(r->io), r->pool, &r->chans);
	return rc < 0 ? rc : vfs_thin_open(r->chans, r->file, "v:/d", &r->disk);
}

struct closer {
	struct rig *r;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	bool closed;
};

static void on_closed(void *arg)
{
	struct closer *c = arg;

	pthread_mutex_lock(&c->lock);
	c->closed = true;
	pthread_cond_signal(&c->cond);
	pthread_mutex_unlock(&c->lock);
}

static int start_close(void *arg)
{
	struct closer *c = arg;

	vfs_close(c->r->disk, on_closed, c);
	return 0;
}

int rig_close(struct rig *r)
{
	struct closer c = {
		.r = r, .lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER};
	int rc;

	iothread_call(r->io, start_close, &c);
	pthread_mutex_lock(&c.lock);
	while (!c.closed)
		pthread_cond_wait(&c.cond, &c.lock);
	pthread_mutex_unlock(&c.lock);
	vfs_chans_close(r->chans);
	iothread_destroy(r->io);
	pool_destroy(r->pool);
	rc = cfs_close(r->file);
	return rc < 0 ? rc : cfs_unmount(r->fs);
}

static void job_done(struct vfs_req *req, int res)
{
	struct rig_job *j = container_of(req, struct rig_job, req);

	pthread_mutex_lock(&j->lock);
	j->res = res;
	j->done = true;
	pthread_cond_signal(&j->cond);
	pthread_mutex_unlock(&j->lock);
}

static void job_run(struct loop_work *work)
{
	struct rig_job *j = container_of(work, struct rig_job, work);

	vfs_submit(j->rig->disk, &j->req);
}

static void cut(struct rig_job *j, uint8_t *buf, uint64_t length)
{
	uint64_t part = j->rig->part ? j->rig->part : length / 3 / 512 * 512,
		 least = ROUND_UP(DIV_ROUND_UP(length, RIG_PARTS), 512);

	part = MAX(part, least);
	while (length) {
		uint64_t n = !j->rig->part && j->req.iovcnt == 2 ? length : MIN(part, length);

		j->iov[j->req.iovcnt++] = (struct iovec){buf, n};
		buf += n;
		length -= n;
	}
}

void rig_start(struct rig_job *j, struct rig *r, enum vfs_op op, uint64_t offset, uint64_t length,
	       void *buf, unsigned flags)
{
	memset(&j->req, 0, sizeof(j->req));
	j->req.op = op;
	j->req.flags = flags;
	j->req.offset = offset;
	j->req.length = length;
	j->req.iov = j->iov;
	j->rig = r;
	if (buf)
		cut(j, buf, length);
	j->req.done = job_done;
	j->done = false;
	pthread_mutex_init(&j->lock, NULL);
	pthread_cond_init(&j->cond, NULL);
	j->work.fn = job_run;
	loop_post(iothread_loop(r->io), &j->work);
}

int rig_finish(struct rig_job *j)
{
	pthread_mutex_lock(&j->lock);
	while (!j->done)
		pthread_cond_wait(&j->cond, &j->lock);
	pthread_mutex_unlock(&j->lock);
	return j->res;
}

int rig_run(struct rig *r, enum vfs_op op, uint64_t offset, uint64_t length, void *buf,
	    unsigned flags)
{
	struct rig_job *j = xaligned(64, sizeof(*j));
	int res;

	rig_start(j, r, op, offset, length, buf, flags);
	res = rig_finish(j);
	free(j);
	return res;
}
