// SPDX-License-Identifier: Apache-2.0
/* fault_cache.c: old content by block, in a hash table with a list through it. */
#include "blockdev/fault_cache.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "blockdev/blk.h"

#define BUCKETS 1024u

struct kept {
	struct list hash, link;
	uint64_t offset, serial;
	uint8_t *old; /* one logical block */
};

struct fault_cache {
	pthread_mutex_t lock; /* never held across I/O */
	uint32_t block;
	uint64_t serial;
	struct list bucket[BUCKETS];
	struct list all;
};

void fault_cache_create(struct fault_cache **out, uint32_t block_size)
{
	struct fault_cache *c = xcalloc(1, sizeof(*c));

	pthread_mutex_init(&c->lock, NULL);
	c->block = block_size;
	for (unsigned i = 0; i < BUCKETS; i++)
		list_init(&c->bucket[i]);
	list_init(&c->all);
	*out = c;
}

static void drop(struct kept *k)
{
	list_del(&k->hash);
	list_del(&k->link);
	free(k->old);
	free(k);
}

void fault_cache_destroy(struct fault_cache *c)
{
	while (!list_empty(&c->all))
		drop(list_first(&c->all, struct kept, link));
	pthread_mutex_destroy(&c->lock);
	free(c);
}

static struct list *bucket_of(struct fault_cache *c, uint64_t offset)
{
	return &c->bucket[offset / c->block % BUCKETS];
}

static struct kept *find(struct fault_cache *c, uint64_t offset)
{
	struct kept *k;

	list_for_each (k, bucket_of(c, offset), hash)
		if (k->offset == offset)
			return k;
	return NULL;
}

void fault_cache_keep(struct fault_cache *c, uint64_t offset, const uint8_t *old, uint64_t length)
{
	pthread_mutex_lock(&c->lock);
	for (uint64_t at = 0; at < length; at += c->block) {
		struct kept *k;

		if (find(c, offset + at))
			continue;
		k = xcalloc(1, sizeof(*k));
		k->offset = offset + at;
		k->serial = ++c->serial;
		k->old = xaligned(4096, c->block);
		memcpy(k->old, old + at, c->block);
		list_add(bucket_of(c, k->offset), &k->hash);
		list_add_tail(&c->all, &k->link);
	}
	pthread_mutex_unlock(&c->lock);
}

void fault_cache_forget(struct fault_cache *c, uint64_t offset, uint64_t length)
{
	pthread_mutex_lock(&c->lock);
	for (uint64_t at = 0; at < length; at += c->block) {
		struct kept *k = find(c, offset + at);

		if (k)
			drop(k);
	}
	pthread_mutex_unlock(&c->lock);
}

uint64_t fault_cache_mark(struct fault_cache *c)
{
	uint64_t mark;

	pthread_mutex_lock(&c->lock);
	mark = c->serial;
	pthread_mutex_unlock(&c->lock);
	return mark;
}

void fault_cache_flushed(struct fault_cache *c, uint64_t mark)
{
	struct kept *k, *next;

	pthread_mutex_lock(&c->lock);
	list_for_each_safe (k, next, &c->all, link)
		if (k->serial <= mark)
			drop(k);
	pthread_mutex_unlock(&c->lock);
}

int fault_cache_lose(struct fault_cache *c, struct blk *blk)
{
	struct list lost;
	int rc = 0;

	list_init(&lost);
	pthread_mutex_lock(&c->lock);
	while (!list_empty(&c->all)) {
		struct kept *k = list_first(&c->all, struct kept, link);

		list_del(&k->hash);
		list_init(&k->hash);
		list_del(&k->link);
		list_add_tail(&lost, &k->link);
	}
	pthread_mutex_unlock(&c->lock);
	while (!list_empty(&lost)) {
		struct kept *k = list_first(&lost, struct kept, link);
		int one = blk_write(blk, k->offset, k->old, c->block, BLK_UNGATED);

		rc = rc ? rc : one;
		drop(k);
	}
	return rc;
}
