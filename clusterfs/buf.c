// SPDX-License-Identifier: Apache-2.0
/*
 * buf.c: metadata blocks in memory. Two hash tables, by address and by owner; clean buffers that
 * nobody refers to lie in an LRU and go when the limit is passed. The cache mutex guards the tables,
 * the LRU, reference counts and `dirty`; a buffer's data belongs to the holder of its lock.
 */
#include "clusterfs/txn.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/err.h"
#include "clusterfs/validate.h"

#define CHUNK_BLOCKS 64u
#define BUF_BYTES    (CFS_BLOCK + sizeof(struct cfs_buf)) /* what one counts against the limit */

/*
 * Buffers come by 64, and stay: blocks allocated one by one, aligned, would cost two pages each, and small
 * pieces between them would keep the holes that others leave.
 */
struct chunk {
	struct chunk *next;
	uint8_t *blocks;
	struct cfs_buf buf[CHUNK_BLOCKS];
};

struct cfs_cache {
	pthread_mutex_t lock;
	size_t limit, bytes;
	size_t buckets; /* a power of two */
	struct list *by_vbn, *by_owner;
	struct list lru; /* oldest first */
	struct chunk *chunks;
	struct list spare; /* by `lru`; each with its block */
};

static void add_chunk(struct cfs_cache *c)
{
	struct chunk *chunk = xcalloc(1, sizeof(*chunk));

	/* Mapped, not allocated: no header in a page of its own, no memory for blocks never used. */
	chunk->blocks = mmap(NULL, CHUNK_BLOCKS * CFS_BLOCK, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	MUST(chunk->blocks != MAP_FAILED);
	chunk->next = c->chunks;
	c->chunks = chunk;
	for (unsigned i = 0; i < CHUNK_BLOCKS; i++) {
		chunk->buf[i].data = chunk->blocks + (size_t)i * CFS_BLOCK;
		list_add(&c->spare, &chunk->buf[i].lru);
	}
}

static size_t bucket(const struct cfs_cache *c, uint64_t vbn)
{
	return (size_t)((vbn * 0x9e3779b97f4a7c15ULL) >> 32) & (c->buckets - 1);
}

int cfs_cache_create(struct cfs *fs, size_t limit_bytes)
{
	struct cfs_cache *c = xcalloc(1, sizeof(*c));

	pthread_mutex_init(&c->lock, NULL);
	c->limit = limit_bytes;
	for (c->buckets = 1024; c->buckets < limit_bytes / CFS_BLOCK; c->buckets *= 2)
		;
	c->by_vbn = xcalloc(c->buckets, sizeof(*c->by_vbn));
	c->by_owner = xcalloc(c->buckets, sizeof(*c->by_owner));
	for (size_t i = 0; i < c->buckets; i++) {
		list_init(&c->by_vbn[i]);
		list_init(&c->by_owner[i]);
	}
	list_init(&c->lru);
	list_init(&c->spare);
	fs->cache = c;
	return 0;
}

static void unlink_buf(struct cfs_cache *c, struct cfs_buf *b)
{
	list_del(&b->hash);
	list_del(&b->owned);
	list_del(&b->lru);
	c->bytes -= BUF_BYTES;
}

static void free_buf(struct cfs_cache *c, struct cfs_buf *b)
{
	list_add(&c->spare, &b->lru);
}

void cfs_cache_destroy(struct cfs *fs)
{
	struct cfs_cache *c = fs->cache;

	if (!c)
		return;
	for (size_t i = 0; i < c->buckets; i++) {
		while (!list_empty(&c->by_vbn[i])) {
			struct cfs_buf *b = list_first(&c->by_vbn[i], struct cfs_buf, hash);

			unlink_buf(c, b);
			free_buf(c, b);
		}
	}
	while (c->chunks) {
		struct chunk *chunk = c->chunks;

		c->chunks = chunk->next;
		munmap(chunk->blocks, CHUNK_BLOCKS * CFS_BLOCK);
		free(chunk);
	}
	free(c->by_vbn);
	free(c->by_owner);
	pthread_mutex_destroy(&c->lock);
	free(c);
	fs->cache = NULL;
}

/* Cache mutex held. */
static struct cfs_buf *lookup(struct cfs_cache *c, uint64_t vbn)
{
	struct list *head = &c->by_vbn[bucket(c, vbn)];
	struct cfs_buf *b;

	list_for_each (b, head, hash) {
		if (b->vbn == vbn)
			return b;
	}
	return NULL;
}

static void take_ref(struct cfs_buf *b)
{
	if (b->refs++ == 0)
		list_del(&b->lru);
}

static void evict(struct cfs_cache *c)
{
	while (c->bytes > c->limit && !list_empty(&c->lru)) {
		struct cfs_buf *b = list_first(&c->lru, struct cfs_buf, lru);

		unlink_buf(c, b);
		free_buf(c, b);
	}
}

/* Cache mutex held; the buffer comes with one reference and whatever its block held. */
static struct cfs_buf *add(struct cfs_cache *c, uint64_t vbn, enum cfs_type type, uint64_t owner)
{
	struct cfs_buf *b;

	c->bytes += BUF_BYTES;
	evict(c); /* first: the new one may take the place of the oldest */
	if (list_empty(&c->spare))
		add_chunk(c);
	b = list_first(&c->spare, struct cfs_buf, lru);
	list_del(&b->lru);
	*b = (struct cfs_buf){.vbn = vbn, .owner = owner, .type = type, .data = b->data, .refs = 1};
	list_init(&b->lru);
	list_init(&b->dirty_link);
	list_init(&b->touched_link);
	list_add(&c->by_vbn[bucket(c, vbn)], &b->hash);
	list_add(&c->by_owner[bucket(c, owner)], &b->owned);
	return b;
}

static int check_kind(const struct cfs_buf *b, enum cfs_type type, uint64_t owner)
{
	if (b->type == type && b->owner == owner)
		return 0;
	return fail(-EUCLEAN, "block %llu: used as %s of %llu and as %s of %llu; run volume check",
		    (unsigned long long)b->vbn, cfs_type_name(b->type),
		    (unsigned long long)b->owner, cfs_type_name(type), (unsigned long long)owner);
}

static void see_sequence(struct cfs *fs, uint64_t seen)
{
	uint64_t now = atomic_load(&fs->sequence);

	while (seen > now && !atomic_compare_exchange_weak(&fs->sequence, &now, seen))
		;
}

static int validate(struct cfs *fs, uint64_t vbn, enum cfs_type type, uint64_t owner,
		    const void *data)
{
	const struct cfs_head *h = data;
	int rc = cfs_block_check(data, type, fs->id, vbn);

	if (rc == 0)
		rc = cfs_block_validate(data, type);
	if (rc < 0)
		return rc;
	if (le64_get(h->owner) != owner)
		return fail(-EUCLEAN, "block %llu: %s of object %llu, not %llu; run volume check",
			    (unsigned long long)vbn, cfs_type_name(type),
			    (unsigned long long)le64_get(h->owner), (unsigned long long)owner);
	see_sequence(fs, le64_get(h->sequence));
	return 0;
}

/*
 * Cache mutex held. The block as whoever holds `owner` means it. A clean buffer of another owner that
 * nobody uses is what was freed there: another host has used the block since.
 */
static struct cfs_buf *lookup_for(struct cfs_cache *c, uint64_t vbn, uint64_t owner)
{
	struct cfs_buf *b = lookup(c, vbn);

	if (!b || b->owner == owner || b->refs > 0 || b->dirty)
		return b;
	unlink_buf(c, b);
	free_buf(c, b);
	return NULL;
}

int cfs_buf_get(struct cfs *fs, uint64_t vbn, enum cfs_type type, uint64_t owner,
		struct cfs_buf **out)
{
	struct cfs_cache *c = fs->cache;
	uint8_t data[CFS_BLOCK] __attribute__((aligned(CFS_BLOCK)));
	struct cfs_buf *b;
	int rc;

	if (!cfs_vbn_valid(fs, vbn))
		return fail(-EUCLEAN,
			    "block %llu: a %s is said to be there, outside of the volume; "
			    "run volume check",
			    (unsigned long long)vbn, cfs_type_name(type));
	pthread_mutex_lock(&c->lock);
	b = lookup_for(c, vbn, owner);
	if (b)
		take_ref(b);
	pthread_mutex_unlock(&c->lock);
	if (b) {
		rc = check_kind(b, type, owner);
		if (rc < 0)
			cfs_buf_put(fs, b);
		else
			*out = b;
		return rc;
	}
	rc = cfs_read(fs, vbn, data, CFS_BLOCK);
	if (rc == 0)
		rc = cfs_buf_insert(fs, vbn, type, owner, data, out);
	return rc;
}

int cfs_buf_insert(struct cfs *fs, uint64_t vbn, enum cfs_type type, uint64_t owner,
		   const void *data, struct cfs_buf **out)
{
	struct cfs_cache *c = fs->cache;
	struct cfs_buf *b;
	int rc = validate(fs, vbn, type, owner, data);

	if (rc < 0)
		return rc;
	pthread_mutex_lock(&c->lock);
	b = lookup_for(c, vbn, owner);
	if (b) { /* somebody was faster; what is in memory is never older */
		take_ref(b);
	} else {
		b = add(c, vbn, type, owner);
		memcpy(b->data, data, CFS_BLOCK);
	}
	pthread_mutex_unlock(&c->lock);
	rc = check_kind(b, type, owner);
	if (rc < 0)
		cfs_buf_put(fs, b);
	else
		*out = b;
	return rc;
}

struct cfs_buf *cfs_buf_peek(struct cfs *fs, uint64_t vbn)
{
	struct cfs_cache *c = fs->cache;
	struct cfs_buf *b;

	pthread_mutex_lock(&c->lock);
	b = lookup(c, vbn);
	if (b)
		take_ref(b);
	pthread_mutex_unlock(&c->lock);
	return b;
}

struct cfs_buf *cfs_buf_new(struct cfs *fs, uint64_t vbn, enum cfs_type type, uint64_t owner)
{
	struct cfs_cache *c = fs->cache;
	struct cfs_buf *b;

	pthread_mutex_lock(&c->lock);
	b = lookup(c, vbn);
	if (b) { /* what was freed here; INV-FS-4: checkpointed and unused by now */
		MUST(b->refs == 0 && !b->dirty);
		unlink_buf(c, b);
		free_buf(c, b);
	}
	b = add(c, vbn, type, owner);
	memset(b->data, 0, CFS_BLOCK);
	pthread_mutex_unlock(&c->lock);
	((struct cfs_head *)b->data)->owner = le64_of(owner);
	((struct cfs_head *)b->data)->type = le16_of((uint16_t)type);
	return b;
}

/* Cache mutex held. */
static void drop_ref(struct cfs_cache *c, struct cfs_buf *b)
{
	MUST(b->refs > 0);
	if (--b->refs == 0 && !b->dirty) {
		list_add_tail(&c->lru, &b->lru);
		evict(c);
	}
}

void cfs_buf_put(struct cfs *fs, struct cfs_buf *buf)
{
	if (!buf)
		return;
	pthread_mutex_lock(&fs->cache->lock);
	drop_ref(fs->cache, buf);
	pthread_mutex_unlock(&fs->cache->lock);
}

void cfs_buf_set_dirty(struct cfs *fs, struct cfs_buf *buf, bool dirty)
{
	struct cfs_cache *c = fs->cache;

	pthread_mutex_lock(&c->lock);
	buf->dirty = dirty;
	if (!dirty && buf->refs == 0) {
		list_add_tail(&c->lru, &buf->lru);
		evict(c);
	}
	pthread_mutex_unlock(&c->lock);
}

void cfs_buf_hold(struct cfs *fs, struct cfs_buf *buf)
{
	pthread_mutex_lock(&fs->cache->lock);
	take_ref(buf);
	pthread_mutex_unlock(&fs->cache->lock);
}

size_t cfs_buf_of_owner(struct cfs *fs, uint64_t owner, enum cfs_type type, struct cfs_buf **out,
			size_t max)
{
	struct cfs_cache *c = fs->cache;
	struct cfs_buf *b;
	size_t n = 0;

	pthread_mutex_lock(&c->lock);
	list_for_each (b, &c->by_owner[bucket(c, owner)], owned) {
		if (n == max)
			break;
		if (b->owner != owner || b->type != type)
			continue;
		take_ref(b);
		out[n++] = b;
	}
	pthread_mutex_unlock(&c->lock);
	return n;
}

void cfs_buf_forget_owner(struct cfs *fs, uint64_t owner)
{
	struct cfs_cache *c = fs->cache;
	struct list *head = &c->by_owner[bucket(c, owner)];
	struct cfs_buf *b, *tmp;

	pthread_mutex_lock(&c->lock);
	list_for_each_safe (b, tmp, head, owned) {
		if (b->owner != owner)
			continue;
		MUST(b->refs == 0 && !b->dirty);
		unlink_buf(c, b);
		free_buf(c, b);
	}
	pthread_mutex_unlock(&c->lock);
}
