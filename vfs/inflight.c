// SPDX-License-Identifier: Apache-2.0
/*
 * inflight.c: in-flight tracking for split rings. The daemon may be killed between any two stores
 * here; a killed process's stores become visible in program order, so compiler barriers are all
 * that is needed (release stores are that on x86).
 */
#include "vfs/inflight.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/util.h"

#define SET(x, v) __atomic_store_n(&(x), (v), __ATOMIC_RELEASE)
#define GET(x)	  __atomic_load_n(&(x), __ATOMIC_RELAXED)

/* Clears the marks of the last `n` answers, newest first, along `next` (publishing, step 6). */
static void clear_batch(struct inflight *inf, unsigned n)
{
	uint16_t at = GET(inf->ring->last_batch_head);

	while (n-- && at < inf->size) {
		SET(inf->ring->desc[at].inflight, 0);
		at = GET(inf->ring->desc[at].next);
	}
}

struct taken {
	uint64_t counter;
	uint16_t head;
};

static int by_counter(const void *a, const void *b)
{
	const struct taken *x = a, *y = b;

	return x->counter < y->counter ? -1 : x->counter > y->counter;
}

/* Step 2 of reconnecting: resubmit in the order of counters. */
static int collect(struct inflight *inf, uint16_t *heads)
{
	struct taken *taken = xcalloc(inf->size, sizeof(*taken));
	unsigned n = 0;

	for (unsigned i = 0; i < inf->size; i++)
		if (GET(inf->ring->desc[i].inflight))
			taken[n++] = (struct taken){GET(inf->ring->desc[i].counter), (uint16_t)i};
	qsort(taken, n, sizeof(*taken), by_counter);
	for (unsigned i = 0; i < n; i++)
		heads[i] = taken[i].head;
	inf->counter = n ? taken[n - 1].counter + 1 : 0;
	free(taken);
	return (int)n;
}

int inflight_start(struct inflight *inf, void *region, unsigned size, uint16_t used_idx,
		   uint16_t *heads, bool *resumed)
{
	struct vhost_user_inflight_ring *ring = region;
	uint16_t version = GET(ring->version), behind;

	memset(inf, 0, sizeof(*inf));
	inf->size = size;
	*resumed = version != 0;
	if (!version) {
		memset(ring->desc, 0, size * sizeof(ring->desc[0]));
		ring->features = 0;
		ring->desc_num = (uint16_t)size;
		ring->last_batch_head = 0;
		ring->used_idx = used_idx; /* not 0: else an answer is thought lost or done */
		SET(ring->version, VHOST_USER_INFLIGHT_VERSION);
		inf->ring = ring;
		return 0;
	}
	if (version != VHOST_USER_INFLIGHT_VERSION || GET(ring->desc_num) != size)
		return fail(-EINVAL,
			    "in-flight region: version %u for a ring of %u, expected %u "
			    "for %u",
			    version, GET(ring->desc_num), VHOST_USER_INFLIGHT_VERSION, size);
	behind = (uint16_t)(used_idx - GET(ring->used_idx));
	if (behind > size)
		return fail(-EINVAL, "in-flight region: it is %u answers behind in a ring of %u",
			    behind, size);
	inf->ring = ring;
	/* Step 1: the index moved, the marks of that batch may still stand. */
	clear_batch(inf, behind);
	SET(ring->used_idx, used_idx);
	return collect(inf, heads);
}

void inflight_take(struct inflight *inf, uint16_t head)
{
	if (!inf->ring || head >= inf->size)
		return;
	SET(inf->ring->desc[head].counter, inf->counter++);
	SET(inf->ring->desc[head].inflight, 1);
}

void inflight_put(struct inflight *inf, uint16_t head)
{
	if (!inf->ring || head >= inf->size)
		return;
	SET(inf->ring->desc[head].next, GET(inf->ring->last_batch_head));
	SET(inf->ring->last_batch_head, head);
	inf->batch++;
}

void inflight_published(struct inflight *inf, uint16_t used_idx)
{
	if (!inf->ring)
		return;
	clear_batch(inf, inf->batch);
	SET(inf->ring->used_idx, used_idx);
	inf->batch = 0;
}

void inflight_end(struct inflight *inf)
{
	if (inf->ring)
		SET(inf->ring->version, 0);
	inf->ring = NULL;
}
