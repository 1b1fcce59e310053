// SPDX-License-Identifier: Apache-2.0
/*
 * fault_cache.h: what an array's volatile cache would lose: for each logical block that was written and
 * not flushed since, what the medium held before. Private to blockdev. Any thread.
 */
#ifndef BLOCKDEV_FAULT_CACHE_H
#define BLOCKDEV_FAULT_CACHE_H

#include <stddef.h>
#include <stdint.h>

struct blk;
struct fault_cache;

void fault_cache_create(struct fault_cache **out, uint32_t block_size);
void fault_cache_destroy(struct fault_cache *cache);
/* `old` is what [offset, +length) holds, and a write is about to change: kept unless it is already. */
void fault_cache_keep(struct fault_cache *cache, uint64_t offset, const uint8_t *old,
		      uint64_t length);
/* Written durably: nothing to lose there. */
void fault_cache_forget(struct fault_cache *cache, uint64_t offset, uint64_t length);
/* A flush that began at fault_cache_mark has succeeded. */
uint64_t fault_cache_mark(struct fault_cache *cache);
void fault_cache_flushed(struct fault_cache *cache, uint64_t mark);
/* The power goes: puts back what was kept, with blocking writes. */
int fault_cache_lose(struct fault_cache *cache, struct blk *blk);

#endif
