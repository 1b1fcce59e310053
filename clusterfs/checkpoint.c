// SPDX-License-Identifier: Apache-2.0
/*
 * checkpoint.c: metadata goes in place.
 *
 * Dirty buffers are copied under the journal mutex (so between transactions); what the copies hold is
 * committed; only then are they written in place and flushed, and the journal's tail moves on. A
 * buffer that changes after its copy logs a whole image first, so replay never needs the copy whole.
 */
#include "clusterfs/journal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "clusterfs/fresh.h"

#define COPY_BATCH 64u /* blocks copied under one hold of the mutex: 256 KiB */
#define RUN_BLOCKS 64u /* neighbours written as one */

struct copy {
	struct cfs_buf *buf; /* referenced */
	uint64_t last_stream;
	uint8_t *data;
};

struct copies {
	struct copy *v;
	size_t n, size;
	uint8_t *data;	      /* of all of them */
	uint64_t last_stream; /* the largest of all */
};

static void take_copy(struct copies *c, struct cfs_buf *b)
{
	if (c->n == c->size) {
		c->size = c->size ? 2 * c->size : 64;
		c->v = xrealloc(c->v, c->size * sizeof(*c->v));
	}
	c->v[c->n].buf = b;
	c->v[c->n].last_stream = b->last_stream;
	c->v[c->n].data = c->data + c->n * CFS_BLOCK;
	memcpy(c->v[c->n].data, b->data, CFS_BLOCK);
	c->n++;
	c->last_stream = MAX(c->last_stream, b->last_stream);
	b->imaged = false;
}

struct owners {
	const uint64_t *vbn; /* ascending */
	size_t n;	     /* 0: everybody */
};

static int by_number(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return *x < *y ? -1 : *x > *y;
}

static bool wanted(const struct owners *o, const struct cfs_buf *b)
{
	return !o->n || bsearch(&b->owner, o->vbn, o->n, sizeof(*o->vbn), by_number);
}

/* Copies all dirty buffers of these owners, a batch under each hold of the mutex. */
static void collect(struct cfs *fs, const struct owners *owners, struct copies *c)
{
	struct cfs_journal *j = fs->journal;
	struct cfs_buf **want = NULL;
	size_t n = 0, size = 0;
	struct cfs_buf *b;

	pthread_mutex_lock(&j->lock);
	list_for_each (b, &j->dirty, dirty_link) {
		if (!wanted(owners, b))
			continue;
		if (b->freed) { /* only its transaction has to be durable */
			c->last_stream = MAX(c->last_stream, b->last_stream);
			continue;
		}
		if (n == size) {
			size = size ? 2 * size : 256;
			want = xrealloc(want, size * sizeof(*want));
		}
		cfs_buf_hold(fs, b);
		want[n++] = b;
	}
	if (n > 0) {
		pthread_mutex_unlock(&j->lock);
		c->data = xaligned(CFS_BLOCK, n * CFS_BLOCK);
		pthread_mutex_lock(&j->lock);
	}
	for (size_t i = 0; i < n; i++) {
		if (want[i]->dirty && !want[i]->freed)
			take_copy(c, want[i]);
		else
			cfs_buf_put(fs, want[i]);	/* freed meanwhile */
		if (i % COPY_BATCH == COPY_BATCH - 1) { /* let transactions in */
			pthread_mutex_unlock(&j->lock);
			pthread_mutex_lock(&j->lock);
		}
	}
	pthread_mutex_unlock(&j->lock);
	free(want);
}

static int by_vbn(const void *a, const void *b)
{
	const struct copy *x = a, *y = b;

	return x->buf->vbn < y->buf->vbn ? -1 : x->buf->vbn > y->buf->vbn;
}

/* The copies from `i` on that lie together become one part; returns how many. */
static size_t make_part(const struct copies *c, size_t i, const struct iovec *iov,
			struct blk_part *part)
{
	uint64_t first = c->v[i].buf->vbn;
	size_t n = 1;

	while (i + n < c->n && n < RUN_BLOCKS && c->v[i + n].buf->vbn == first + n)
		n++;
	*part = (struct blk_part){cfs_vbn_block(first) * CFS_BLOCK, n * CFS_BLOCK, &iov[i], (int)n};
	return n;
}

static int write_in_place(struct cfs *fs, const struct copies *c)
{
	struct iovec *iov = xcalloc(c->n, sizeof(*iov));
	struct blk_part *part = xcalloc(c->n, sizeof(*part));
	uint64_t power = cfs_power(fs);
	size_t i = 0;
	int rc = 0;

	for (size_t k = 0; k < c->n; k++) {
		const struct copy *one = &c->v[k];

		cfs_block_seal(one->data, one->buf->type, fs->id, one->buf->vbn);
		iov[k] = (struct iovec){one->data, CFS_BLOCK};
	}
	while (i < c->n && rc == 0) {
		unsigned extent = cfs_vbn_extent(c->v[i].buf->vbn);
		size_t parts = 0;

		while (i < c->n && cfs_vbn_extent(c->v[i].buf->vbn) == extent)
			i += make_part(c, i, iov, &part[parts++]);
		rc = cfs_write_parts(fs, extent, part, parts);
	}
	free(part);
	free(iov);
	return rc < 0 ? rc : cfs_flush_since(fs, power);
}

static int commit_up_to(struct cfs *fs, uint64_t stream)
{
	while (cfs_durable(fs) < stream) {
		int rc = cfs_commit_wait(fs);

		if (rc < 0)
			return rc;
	}
	return 0;
}

static void settle(struct cfs *fs, struct copies *c, bool written)
{
	struct cfs_journal *j = fs->journal;

	pthread_mutex_lock(&j->lock);
	for (size_t i = 0; i < c->n; i++) {
		struct cfs_buf *b = c->v[i].buf;

		if (!written || !b->dirty || b->freed) {
			/* Freed meanwhile; or: the old records are still needed; a further image does no harm. */
		} else if (b->last_stream == c->v[i].last_stream) {
			list_del(&b->dirty_link);
			j->dirty_count--;
			cfs_buf_set_dirty(fs, b, false);
		} else {
			b->first_stream = b->image_stream;
		}
		cfs_buf_put(fs, b);
	}
	pthread_mutex_unlock(&j->lock);
	free(c->v);
	free(c->data);
}

/* Freed blocks whose transaction is durable: the journal's tail need not wait for them any more. */
static void drop_freed(struct cfs *fs)
{
	struct cfs_journal *j = fs->journal;
	struct cfs_buf *b, *tmp;

	pthread_mutex_lock(&j->lock);
	list_for_each_safe (b, tmp, &j->dirty, dirty_link) {
		if (!b->freed || b->last_stream > j->durable)
			continue;
		list_del(&b->dirty_link);
		j->dirty_count--;
		b->freed = false;
		cfs_buf_set_dirty(fs, b, false);
	}
	pthread_mutex_unlock(&j->lock);
}

/*
 * Copies whose records are durable. A commit may undo first writes (fresh.h) that stand in the copies:
 * then they are made anew.
 */
static int make_copies(struct cfs *fs, const struct owners *owners, struct copies *c)
{
	for (;;) {
		uint64_t undone = cfs_fresh_undone(fs);
		int rc;

		*c = (struct copies){0};
		collect(fs, owners, c);
		if (c->n > 0)
			qsort(c->v, c->n, sizeof(*c->v), by_vbn);
		rc = commit_up_to(fs, c->last_stream);
		if (rc < 0 || undone == cfs_fresh_undone(fs))
			return rc;
		settle(fs, c, false);
	}
}

int cfs_checkpoint(struct cfs *fs, const uint64_t *owner, size_t n)
{
	struct cfs_journal *j = fs->journal;
	struct owners owners = {owner, n};
	struct copies c;
	int rc;

	pthread_mutex_lock(&j->checkpoint_lock);
	rc = make_copies(fs, &owners, &c);
	if (rc == 0 && c.n > 0)
		rc = write_in_place(fs, &c);
	settle(fs, &c, rc == 0);
	drop_freed(fs);
	if (rc == 0)
		rc = cfs_journal_trim(fs);
	pthread_mutex_unlock(&j->checkpoint_lock);
	return rc;
}

void *cfs_checkpoint_main(void *arg)
{
	struct cfs *fs = arg;
	struct cfs_journal *j = fs->journal;

	pthread_mutex_lock(&j->lock);
	while (!j->stopping) {
		int rc;

		if (!j->want_checkpoint) {
			pthread_cond_wait(&j->wake_checkpoint, &j->lock);
			continue;
		}
		pthread_mutex_unlock(&j->lock);
		rc = cfs_checkpoint(fs, NULL, 0);
		if (rc < 0) {
			log_warn("cfs", "volume %s: checkpoint: %s", fs->name, err_message(rc));
			sleep_ms(100);
		}
		pthread_mutex_lock(&j->lock);
		j->want_checkpoint = !cfs_journal_has_room(j) && !j->stopping;
	}
	pthread_mutex_unlock(&j->lock);
	return NULL;
}
