// SPDX-License-Identifier: Apache-2.0
/*
 * service.c: the thread inside of a blk that serves those who may block: a loop of its own, to
 * which requests are posted; the caller sleeps on a semaphore until the answer is there.
 */
#include "blockdev/node.h"

#include <errno.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"

#define SERVICE_ENTRIES 256

struct blk_service {
	struct loop *loop;
	pthread_t thread;
};

static void *service_main(void *arg)
{
	struct blk_service *service = arg;
	int rc = loop_run(service->loop);

	MUST(rc == 0);
	/* What a closed channel left to the kernel (watches) comes back. */
	for (int i = 0; i < 4; i++)
		(void)loop_turn(service->loop, 0);
	return NULL;
}

int blk_service_create(struct blk_service **out)
{
	struct blk_service *service = xcalloc(1, sizeof(*service));
	int rc = loop_create(&service->loop, SERVICE_ENTRIES);

	if (rc == 0) {
		rc = -pthread_create(&service->thread, NULL, service_main, service);
		if (rc < 0) {
			loop_destroy(service->loop);
			rc = fail(rc, "thread: %s", strerror(-rc));
		}
	}
	if (rc < 0) {
		free(service);
		return rc;
	}
	pthread_setname_np(service->thread, "blk");
	*out = service;
	return 0;
}

void blk_service_destroy(struct blk_service *service)
{
	if (!service)
		return;
	loop_stop(service->loop);
	pthread_join(service->thread, NULL);
	loop_destroy(service->loop);
	free(service);
}

struct loop *blk_service_loop(struct blk_service *service)
{
	return service->loop;
}

static void wait_for(sem_t *sem)
{
	while (sem_wait(sem) < 0)
		MUST(errno == EINTR);
}

struct run {
	struct loop_work work;
	int (*fn)(void *arg);
	void *arg;
	struct err_info err;
	int rc;
	sem_t sem;
};

static void run_work(struct loop_work *work)
{
	struct run *run = container_of(work, struct run, work);

	run->rc = run->fn(run->arg);
	if (run->rc < 0)
		err_save(&run->err, run->rc);
	sem_post(&run->sem);
}

int blk_service_run(struct blk_service *service, int (*fn)(void *arg), void *arg)
{
	struct run run = {.work.fn = run_work, .fn = fn, .arg = arg};

	MUST(!pthread_equal(pthread_self(), service->thread));
	sem_init(&run.sem, 0, 0);
	loop_post(service->loop, &run.work);
	wait_for(&run.sem);
	sem_destroy(&run.sem);
	return run.rc < 0 ? err_restore(&run.err) : run.rc;
}

/* --- the blocking calls ----------------------------------------------------------------------- */

struct call {
	struct loop_work work;
	struct blk_chan *chan;
	struct blk_req req;
	int res;
	sem_t sem;
};

static void call_done(struct blk_req *req, int res)
{
	struct call *call = container_of(req, struct call, req);

	call->res = res;
	sem_post(&call->sem);
}

static void call_submit(struct loop_work *work)
{
	struct call *call = container_of(work, struct call, work);

	blk_submit(call->chan, &call->req);
}

static int call(struct blk *blk, struct call *c)
{
	MUST(!pthread_equal(pthread_self(), blk->service->thread));
	c->work.fn = call_submit;
	c->chan = blk->service_chan;
	c->req.done = call_done;
	sem_init(&c->sem, 0, 0);
	loop_post(blk->service->loop, &c->work);
	wait_for(&c->sem);
	sem_destroy(&c->sem);
	return c->res;
}

/* Buffers that O_DIRECT takes are used in place, others copied. */
static bool aligned(const void *buf)
{
	return ((uintptr_t)buf & 511) == 0;
}

static const char *op_words(enum blk_op op)
{
	switch (op) {
	case BLK_READ:
		return "read";
	case BLK_WRITE:
		return "write";
	case BLK_FLUSH:
		return "flush";
	case BLK_DISCARD:
		return "discard";
	case BLK_WRITE_ZEROES:
		return "write of zeroes";
	case BLK_SCSI:
		return "SCSI command";
	case BLK_CAS:
	case BLK_OPS:
		break;
	}
	return "compare-and-write";
}

static int explain(const struct blk *blk, const struct blk_req *req, int rc)
{
	const char *why = "see the log of its paths";

	if (rc == 0 || rc == -EILSEQ)
		return rc;
	if (rc == -ESTALE)
		why = "this host's lease on it is over; nothing was sent";
	else if (rc == -EBADE)
		why = "a reservation keeps this host out: it was fenced, or is not registered";
	else if (rc == -ENOSPC)
		why = "the array or file system below is full; make room there";
	else if (rc == -EROFS)
		why = "it was opened read-only";
	else if (rc == -ENOTCONN || rc == -ETIMEDOUT)
		why = "no answer; check the target and the network to it";
	return fail(rc, "LUN %s: %s of %llu bytes at %llu failed: %s", blk->info.name,
		    op_words(req->op), (unsigned long long)req->length,
		    (unsigned long long)req->offset, why);
}

static int rw(struct blk *blk, enum blk_op op, uint64_t offset, void *buf, size_t length,
	      unsigned flags)
{
	cleanup_free void *copy = aligned(buf) ? NULL : xaligned(4096, length);
	struct iovec iov = {.iov_base = copy ? copy : buf, .iov_len = length};
	struct call c = {0};
	int rc;

	if (copy && op == BLK_WRITE)
		memcpy(copy, buf, length);
	blk_prep_rw(&c.req, op, offset, &iov, 1, length, flags);
	rc = call(blk, &c);
	if (rc == 0 && copy && op == BLK_READ)
		memcpy(buf, copy, length);
	return explain(blk, &c.req, rc);
}

int blk_read(struct blk *blk, uint64_t offset, void *buf, size_t length)
{
	struct blk *lowest = blk_lowest(blk);
	int rc;

	if (lowest->ops->look_read && lowest->ops->look_read(lowest, offset, buf, length, &rc))
		return rc;
	return rw(blk, BLK_READ, offset, buf, length, 0);
}

int blk_write(struct blk *blk, uint64_t offset, const void *buf, size_t length, unsigned flags)
{
	return rw(blk, BLK_WRITE, offset, (void *)buf, length, flags);
}

#define PARTS_AT_ONCE 32u

struct parts {
	struct loop_work work;
	struct blk_chan *chan;
	const struct blk_part *part;
	size_t n, next;
	unsigned flags, flying;
	int rc;
	bool maybe;	       /* a part that failed may have been executed, or may still be */
	struct blk_req failed; /* for the words */
	sem_t sem;
	struct parts_slot {
		struct blk_req req;
		struct parts *parts;
	} slot[PARTS_AT_ONCE];
};

static void parts_next(struct parts_slot *slot)
{
	struct parts *p = slot->parts;
	const struct blk_part *part = &p->part[p->next];

	if (p->next == p->n || p->rc < 0) {
		if (--p->flying == 0)
			sem_post(&p->sem);
		return;
	}
	p->next++;
	blk_prep_rw(&slot->req, BLK_WRITE, part->offset, part->iov, part->iovcnt, part->length,
		    p->flags);
	blk_submit(p->chan, &slot->req);
}

static void parts_done(struct blk_req *req, int res)
{
	struct parts_slot *slot = container_of(req, struct parts_slot, req);
	struct parts *p = slot->parts;

	/* The first error, but one that leaves something open outweighs one that does not. */
	if (res < 0 && (p->rc == 0 || (req->maybe_done && !p->maybe))) {
		p->rc = res;
		p->maybe = req->maybe_done;
		blk_prep_rw(&p->failed, req->op, req->offset, NULL, 0, req->length, req->flags);
	}
	parts_next(slot);
}

static void parts_start(struct loop_work *work)
{
	struct parts *p = container_of(work, struct parts, work);
	unsigned n = p->flying = (unsigned)MIN(p->n, PARTS_AT_ONCE);

	for (unsigned i = 0; i < n; i++) { /* the last of them may end it: p is gone then */
		p->slot[i].parts = p;
		p->slot[i].req.done = parts_done;
		parts_next(&p->slot[i]);
	}
}

int blk_write_parts(struct blk *blk, const struct blk_part *part, size_t n, unsigned flags,
		    bool *maybe_done)
{
	struct parts *p;
	int rc;

	MUST(!pthread_equal(pthread_self(), blk->service->thread));
	*maybe_done = false;
	if (n == 0)
		return 0;
	p = xcalloc(1, sizeof(*p));
	p->work.fn = parts_start;
	p->chan = blk->service_chan;
	p->part = part;
	p->n = n;
	p->flags = flags;
	sem_init(&p->sem, 0, 0);
	loop_post(blk->service->loop, &p->work);
	wait_for(&p->sem);
	sem_destroy(&p->sem);
	rc = explain(blk, &p->failed, p->rc);
	*maybe_done = p->maybe;
	free(p);
	return rc;
}

static int plain(struct blk *blk, enum blk_op op, uint64_t offset, uint64_t length, unsigned flags)
{
	struct call c = {0};

	blk_prep_rw(&c.req, op, offset, NULL, 0, length, flags);
	return explain(blk, &c.req, call(blk, &c));
}

int blk_flush(struct blk *blk)
{
	return plain(blk, BLK_FLUSH, 0, 0, 0);
}

int blk_discard(struct blk *blk, uint64_t offset, uint64_t length)
{
	return plain(blk, BLK_DISCARD, offset, length, 0);
}

int blk_write_zeroes(struct blk *blk, uint64_t offset, uint64_t length, unsigned flags)
{
	return plain(blk, BLK_WRITE_ZEROES, offset, length, flags);
}

int blk_cas(struct blk *blk, uint64_t offset, const void *expect, const void *write, void *found,
	    unsigned flags, bool *maybe_done)
{
	size_t n = blk->info.block_size;
	cleanup_free uint8_t *copy = xaligned(4096, 2 * n);
	struct iovec iov[2] = {{copy, n}, {copy + n, n}};
	struct call c = {0};
	int rc;

	memcpy(copy, expect, n);
	memcpy(copy + n, write, n);
	blk_prep_rw(&c.req, BLK_CAS, offset, iov, 2, n, flags | BLK_FUA);
	rc = call(blk, &c);
	if (maybe_done)
		*maybe_done = c.req.maybe_done;
	if (rc == -EILSEQ && found && blk_read(blk, offset, found, n) < 0)
		memset(found, 0, n);
	return explain(blk, &c.req, rc);
}
