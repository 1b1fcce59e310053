// SPDX-License-Identifier: Apache-2.0
/*
 * record.c: the filter that writes the log. An entry is one write to a file opened with O_APPEND,
 * so that entries of several processes do not mix; a submission is logged before it goes down, an
 * answer before it goes up: what the log says happened in that order.
 */
#include "blockdev/record.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checksum.h"
#include "base/err.h"
#include "base/log.h"
#include "blockdev/node.h"
#include "blockdev/record_format.h"

struct record_blk {
	struct blk node;
	int fd;
	uint64_t writer;
	_Atomic uint64_t number;
};

struct recorded {
	struct blk_req req;
	struct blk_req *orig;
	struct blk_chan *chan;
	uint64_t number;
};

static struct record_blk *of(struct blk *blk)
{
	return container_of(blk, struct record_blk, node);
}

static void append(struct record_blk *r, const struct blk_req *req, uint64_t number, uint32_t kind,
		   int res)
{
	bool data = kind == RECORD_SUBMIT && (req->op == BLK_WRITE || req->op == BLK_CAS);
	struct record_entry e = {.writer = le64_of(r->writer),
				 .number = le64_of(number),
				 .offset = le64_of(req->offset),
				 .length = le64_of(req->length),
				 .kind = le32_of(kind),
				 .op = le32_of(req->op),
				 .flags = le32_of(req->flags),
				 .res = le32_of((uint32_t)res),
				 .maybe_done = le32_of(req->maybe_done)};
	size_t total = sizeof(e);
	uint8_t *whole;

	for (int i = 0; data && i < req->iovcnt; i++)
		total += req->iov[i].iov_len;
	whole = xmalloc(total);
	e.data_length = le32_of((uint32_t)(total - sizeof(e)));
	e.checksum = le64_of(checksum64(&e, sizeof(e)));
	memcpy(whole, &e, sizeof(e));
	total = sizeof(e);
	for (int i = 0; data && i < req->iovcnt; i++) {
		memcpy(whole + total, req->iov[i].iov_base, req->iov[i].iov_len);
		total += req->iov[i].iov_len;
	}
	if (write(r->fd, whole, total) != (ssize_t)total) {
		/* A log with a hole would prove nothing. */
		log_error("record", "the log cannot be written: %s", strerror(errno));
		abort();
	}
	free(whole);
}

static void recorded_done(struct blk_req *req, int res)
{
	struct recorded *rec = container_of(req, struct recorded, req);
	struct blk_req *orig = rec->orig;

	append(of(rec->chan->blk), req, rec->number, RECORD_ANSWER, res);
	orig->maybe_done = req->maybe_done;
	free(rec);
	blk_complete(orig, res);
}

static void record_submit(struct blk_chan *chan, struct blk_req *req)
{
	struct record_blk *r = of(chan->blk);
	struct recorded *rec;

	if (req->op == BLK_READ) {
		blk_pass(chan, req);
		return;
	}
	rec = xcalloc(1, sizeof(*rec));
	rec->orig = req;
	rec->chan = chan;
	rec->number = atomic_fetch_add(&r->number, 1);
	rec->req.done = recorded_done;
	blk_prep_rw(&rec->req, req->op, req->offset, req->iov, req->iovcnt, req->length,
		    req->flags);
	append(r, &rec->req, rec->number, RECORD_SUBMIT, 0);
	blk_submit(chan->lower, &rec->req);
}

static void record_close_node(struct blk *blk)
{
	if (of(blk)->fd >= 0)
		close(of(blk)->fd);
}

static const struct blk_ops record_ops = {
	.close = record_close_node,
	.submit = record_submit,
};

/* The first of several writers puts the head. */
static int put_head(int fd, const struct blk_info *info)
{
	struct record_head head = {.magic = le64_of(RECORD_MAGIC),
				   .size = le64_of(info->size),
				   .block_size = le32_of(info->block_size)};
	struct stat st;
	int rc = 0;

	if (flock(fd, LOCK_EX) < 0 || fstat(fd, &st) < 0)
		return -errno;
	if (st.st_size == 0 && write(fd, &head, sizeof(head)) != sizeof(head))
		rc = -EIO;
	flock(fd, LOCK_UN);
	return rc;
}

int blk_record_wrap(struct blk *lower, const char *path, struct blk **out)
{
	struct record_blk *r = xcalloc(1, sizeof(*r));
	int rc = blk_filter_start(&r->node, &record_ops, lower);

	r->fd = -1;
	if (rc == 0) {
		random_bytes(&r->writer, sizeof(r->writer));
		r->fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
		rc = r->fd < 0 ? -errno : put_head(r->fd, &lower->info);
		if (rc < 0) {
			(void)fail(rc, "record: %s: %s", path, strerror(-rc));
			blk_filter_stop(&r->node);
		}
	}
	if (rc < 0) {
		blk_node_free(&r->node);
		return rc;
	}
	*out = &r->node;
	return 0;
}
