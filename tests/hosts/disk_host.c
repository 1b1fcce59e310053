// SPDX-License-Identifier: Apache-2.0
/*
 * disk_host.c: a thin disk on a volume of its own, driven line by line, for tests that take the target away
 * under it. Formats LUN, mounts it, creates a disk; "ready". Then commands, each answered by its result:
 *
 *	write BYTE	4096 bytes at 1 MiB
 *	read		the byte that they all are, or -1
 *	flush
 *	lost		how many events told of a loss so far
 *
 *	disk_host LUN STATE_DIR
 */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/loop.h"
#include "base/pool.h"
#include "blockdev/blk.h"
#include "clusterfs/cfs.h"
#include "vfs/chans.h"
#include "vfs/iothread.h"
#include "vfs/thin.h"

struct host {
	struct blk *blk;
	struct cfs *fs;
	struct cfs_file *file;
	struct iothread *io;
	struct pool *pool;
	struct vfs_chans *chans;
	struct vfs_disk *disk;
	_Atomic unsigned lost;
	uint8_t *buf;
};

struct job {
	struct vfs_req req;
	struct iovec iov;
	struct loop_work work;
	struct host *h;
	int res;
	_Atomic bool done;
};

static void ok(int rc, const char *what)
{
	if (rc >= 0)
		return;
	fprintf(stderr, "%s: %s\n", what, err_message(rc));
	exit(1);
}

static void on_event(void *arg, const char *kind, const char *text)
{
	struct host *h = arg;

	(void)text;
	if (strcmp(kind, "lost") == 0)
		h->lost++;
}

static void job_done(struct vfs_req *req, int res)
{
	struct job *job = container_of(req, struct job, req);

	job->res = res;
	job->done = true;
}

static void job_run(struct loop_work *work)
{
	struct job *job = container_of(work, struct job, work);

	vfs_submit(job->h->disk, &job->req);
}

static int run(struct host *h, enum vfs_op op)
{
	struct job *job = xaligned(64, sizeof(*job));
	int res;

	memset(job, 0, sizeof(*job));
	job->h = h;
	job->iov = (struct iovec){h->buf, 4096};
	job->req.op = op;
	job->req.done = job_done;
	if (op != VFS_FLUSH) {
		job->req.offset = MiB;
		job->req.length = 4096;
		job->req.iov = &job->iov;
		job->req.iovcnt = 1;
	}
	job->work.fn = job_run;
	loop_post(iothread_loop(h->io), &job->work);
	while (!job->done)
		sleep_ms(1);
	res = job->res;
	free(job);
	return res;
}

static int read_byte(struct host *h)
{
	int rc = run(h, VFS_READ);

	if (rc < 0)
		return rc;
	for (unsigned i = 1; i < 4096; i++)
		if (h->buf[i] != h->buf[0])
			return -1;
	return h->buf[0];
}

static void job_closed(void *arg)
{
	_Atomic bool *closed = arg;

	*closed = true;
}

struct closing {
	struct host *h;
	_Atomic bool closed;
};

static int start_close(void *arg)
{
	struct closing *c = arg;

	vfs_close(c->h->disk, job_closed, &c->closed);
	return 0;
}

static void begin(struct host *h, const char *lun, const char *state)
{
	struct cfs_format_options fo = {.name = "v"};
	struct cfs_options co = {
		.host_name = "one", .state_dir = state, .event = on_event, .arg = h};

	h->buf = xaligned(4096, 4096);
	ok(blk_open(lun, NULL, &h->blk), "open");
	ok(cfs_format(&h->blk, 1, &fo), "format");
	ok(cfs_mount(&h->blk, 1, &co, &h->fs), "mount");
	ok(cfs_create(h->fs, "/d", CFS_DISK, 16 * MiB), "create");
	ok(cfs_open(h->fs, "/d", CFS_OPEN_WRITE, 0, &h->file), "open");
	ok(iothread_create(&h->io, "io", 256), "thread");
	ok(pool_create(&h->pool, "pool", 2), "pool");
	ok(vfs_chans_open(h->fs, iothread_loop(h->io), h->pool, &h->chans), "channels");
	ok(vfs_thin_open(h->chans, h->file, "v:/d", &h->disk), "disk");
}

static void end(struct host *h)
{
	struct closing c = {.h = h};

	iothread_call(h->io, start_close, &c);
	while (!c.closed)
		sleep_ms(1);
	vfs_chans_close(h->chans);
	iothread_destroy(h->io);
	pool_destroy(h->pool);
	ok(cfs_close(h->file), "close");
	ok(cfs_unmount(h->fs), "unmount");
	blk_close(h->blk);
	free(h->buf);
}

int main(int argc, char **argv)
{
	struct host h = {0};
	char line[64];

	if (argc != 3) {
		fprintf(stderr, "usage: disk_host LUN STATE_DIR\n");
		return 2;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	begin(&h, argv[1], argv[2]);
	printf("ready\n");
	while (fgets(line, sizeof(line), stdin)) {
		unsigned byte;

		if (sscanf(line, "write %u", &byte) == 1) {
			memset(h.buf, (int)byte, 4096);
			printf("%d\n", run(&h, VFS_WRITE));
		} else if (strcmp(line, "read\n") == 0) {
			printf("%d\n", read_byte(&h));
		} else if (strcmp(line, "flush\n") == 0) {
			printf("%d\n", run(&h, VFS_FLUSH));
		} else if (strcmp(line, "lost\n") == 0) {
			printf("%u\n", h.lost);
		} else {
			printf("what?\n");
		}
	}
	end(&h);
	return 0;
}
