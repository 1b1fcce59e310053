// SPDX-License-Identifier: Apache-2.0
/*
 * casfile.c: compare-and-write by an OFD lock around read, compare, write. Requests whose lock is
 * taken wait in a list and are tried again; they do not keep others waiting.
 */
#include "blockdev/casfile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"

/* A section takes two I/Os; ask again soon, then rarer, until the request's time is over. */
#define RETRY_MIN_US 50
#define RETRY_MAX_US 2000

/* Slot locks lie far beyond any data (and so beyond compare-and-write's): 2^62 + slot. */
#define SLOT_LOCKS ((off_t)1 << 62)

struct casfile {
	struct blk *blk;
	int fd;
	pthread_t thread;
	pthread_mutex_t lock; /* incoming, ending; never held across I/O */
	pthread_cond_t more;
	struct list incoming;
	bool ending;
	uint8_t *buf; /* a logical block; two: what was read, what is written */
};

struct casfile_req {
	struct loop_work work; /* the way back into the channel's loop */
	struct list link;
	struct blk_req *req;
	uint64_t deadline_ns;
	int res;
};

static int set_lock(const struct casfile *cas, const struct blk_req *req, short type)
{
	struct flock fl = {.l_type = type,
			   .l_whence = SEEK_SET,
			   .l_start = (off_t)req->offset,
			   .l_len = (off_t)req->length};

	return fcntl(cas->fd, F_OFD_SETLK, &fl) < 0 ? -errno : 0;
}

static int whole(ssize_t n, size_t want)
{
	if (n < 0)
		return -errno;
	return (size_t)n == want ? 0 : -EIO;
}

static int section(struct casfile *cas, struct blk_req *req)
{
	size_t n = req->length;
	uint8_t *found = cas->buf, *write = cas->buf + n;
	struct iovec iov = {write, n};
	int rc = whole(pread(cas->fd, found, n, (off_t)req->offset), n);

	if (rc < 0)
		return rc;
	if (memcmp(found, req->iov[0].iov_base, n) != 0)
		return -EILSEQ;
	memcpy(write, req->iov[1].iov_base, n);
	if (blk_gate_shut(cas->blk, req)) /* it may have waited for its lock */
		return -ESTALE;
	req->maybe_done = true;
	return whole(pwritev2(cas->fd, &iov, 1, (off_t)req->offset, RWF_DSYNC), n);
}

static void deliver(struct loop_work *work)
{
	struct casfile_req *cr = container_of(work, struct casfile_req, work);
	int res = cr->res;

	if (res < 0 && res != -EILSEQ && res != -ESTALE && res != -ETIMEDOUT && res != -ENOSPC) {
		log_warn("blk", "LUN %s: compare-and-write at %llu: %s",
			 blk_priv(cr->req)->chan->blk->info.name,
			 (unsigned long long)cr->req->offset, strerror(-res));
		res = -EIO;
	}
	blk_complete(cr->req, res);
}

/* True when it is answered. */
static bool try_one(struct casfile *cas, struct casfile_req *cr)
{
	int rc = set_lock(cas, cr->req, F_WRLCK);

	if (rc == -EAGAIN || rc == -EACCES) {
		if (clock_boot_ns() < cr->deadline_ns)
			return false;
		cr->res = -ETIMEDOUT;
	} else if (rc < 0) {
		cr->res = rc;
	} else {
		cr->res = section(cas, cr->req);
		rc = set_lock(cas, cr->req, F_UNLCK);
		MUST(rc == 0);
	}
	list_del(&cr->link);
	loop_post(blk_priv(cr->req)->chan->loop, &cr->work);
	return true;
}

static void *casfile_main(void *arg)
{
	struct casfile *cas = arg;
	struct list waiting = LIST_INIT(waiting);
	unsigned pause_us = RETRY_MIN_US;

	for (;;) {
		struct casfile_req *cr, *next;
		bool moved = false;

		pthread_mutex_lock(&cas->lock);
		while (list_empty(&cas->incoming) && list_empty(&waiting) && !cas->ending)
			pthread_cond_wait(&cas->more, &cas->lock);
		list_splice_tail(&waiting, &cas->incoming);
		if (cas->ending && list_empty(&waiting)) {
			pthread_mutex_unlock(&cas->lock);
			return NULL;
		}
		pthread_mutex_unlock(&cas->lock);
		list_for_each_safe (cr, next, &waiting, link)
			moved |= try_one(cas, cr);
		pause_us = moved ? RETRY_MIN_US : MIN(2 * pause_us, RETRY_MAX_US);
		if (!list_empty(&waiting))
			usleep(pause_us);
	}
}

int casfile_create(struct casfile **out, struct blk *blk, int fd)
{
	struct casfile *cas = xcalloc(1, sizeof(*cas));
	int rc;

	cas->blk = blk;
	cas->fd = fd;
	cas->buf = xaligned(4096, 2 * blk->info.block_size);
	list_init(&cas->incoming);
	pthread_mutex_init(&cas->lock, NULL);
	pthread_cond_init(&cas->more, NULL);
	rc = -pthread_create(&cas->thread, NULL, casfile_main, cas);
	if (rc < 0) {
		free(cas->buf);
		free(cas);
		return fail(rc, "thread: %s", strerror(-rc));
	}
	pthread_setname_np(cas->thread, "blk-cas");
	*out = cas;
	return 0;
}

void casfile_destroy(struct casfile *cas)
{
	if (!cas)
		return;
	pthread_mutex_lock(&cas->lock);
	cas->ending = true;
	pthread_cond_signal(&cas->more);
	pthread_mutex_unlock(&cas->lock);
	pthread_join(cas->thread, NULL);
	pthread_cond_destroy(&cas->more);
	pthread_mutex_destroy(&cas->lock);
	close(cas->fd);
	free(cas->buf);
	free(cas);
}

void casfile_submit(struct casfile *cas, struct blk_chan *chan, struct blk_req *req)
{
	struct casfile_req *cr = BLK_BACKEND(struct casfile_req, req);

	cr->work.fn = deliver;
	cr->req = req;
	cr->res = 0;
	cr->deadline_ns = clock_boot_ns() + chan->blk->options.timeout_ms * NS_PER_MS;
	pthread_mutex_lock(&cas->lock);
	list_add_tail(&cas->incoming, &cr->link);
	pthread_cond_signal(&cas->more);
	pthread_mutex_unlock(&cas->lock);
}

int casfile_host_lock(const struct blk *blk, int fd, unsigned slot, bool lock)
{
	struct flock fl = {.l_type = lock ? F_WRLCK : F_UNLCK,
			   .l_whence = SEEK_SET,
			   .l_start = SLOT_LOCKS + slot,
			   .l_len = 1};

	if (fcntl(fd, F_OFD_SETLK, &fl) == 0)
		return 0;
	if (errno == EAGAIN || errno == EACCES)
		return fail(-EBUSY,
			    "LUN %s: slot %u is held by a process of this machine that still runs",
			    blk->info.name, slot);
	return fail(-errno, "LUN %s: lock of slot %u: %s", blk->info.name, slot, strerror(errno));
}
