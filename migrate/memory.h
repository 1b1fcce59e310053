// SPDX-License-Identifier: Apache-2.0
/*
 * memory.h: a guest's memory as migration sees it: a memfd, sealed (INV-HV-1), whose holes are pages
 * that nobody has touched; and the log of what was written since (vmctl.h: a bit a page of the memfd,
 * set by VMM and controller with atomic OR).
 */
#ifndef MIGRATE_MEMORY_H
#define MIGRATE_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "migrate/wire.h"

/*
 * The next range that is there, at or after `from`, cut to whole pages: 1 and filled, 0 there is none,
 * -errno.
 */
int mig_memory_next(int fd, uint64_t bytes, uint64_t from, struct mig_range *out);
/* All zero. `n` a multiple of 64. */
bool mig_is_zero(const void *p, size_t n);
/* Of all pages that are not zero, with their places: the same for a page that is absent and one of zeroes. */
int mig_memory_checksum(int fd, uint64_t bytes, uint64_t *out);

/* --- what was written ---------------------------------------------------------------------------- */

struct mig_dirty {
	uint64_t *words; /* bit n: page n */
	uint64_t pages;
	uint64_t count; /* bits that are set */
	uint64_t at;	/* mig_dirty_next: words before it are clear */
};
void mig_dirty_init(struct mig_dirty *d, uint64_t memory);
void mig_dirty_free(struct mig_dirty *d);
/* Moves what `log` has (as many words as `d`) over; what was there stays. */
void mig_dirty_take(struct mig_dirty *d, uint64_t *log);
/* A range is written, or not sent yet. */
void mig_dirty_set(struct mig_dirty *d, const struct mig_range *range);
/* The run of at most `max` bytes that begins at `offset`, a whole page, which is clear then; false: that page is clear. */
bool mig_dirty_take_at(struct mig_dirty *d, uint64_t offset, uint64_t max, struct mig_range *out);
/* The next run of at most `max` bytes, which is clear then; false: there is none. */
bool mig_dirty_next(struct mig_dirty *d, uint64_t max, struct mig_range *out);

/* --- the target's ---------------------------------------------------------------------------------- */

/* Written by several threads at once: different pages, each one's later bytes on the same stream or later. */
struct mig_sink;
/* `huge`: huge pages may be made. */
int mig_sink_create(struct mig_sink **out, int fd, uint64_t bytes, bool huge);
void mig_sink_destroy(struct mig_sink *sink);
uint64_t mig_sink_bytes(const struct mig_sink *sink);
/* Ranges that mig_ranges_decode let through. */
void mig_sink_pages(struct mig_sink *sink, const struct mig_range *ranges, unsigned n,
		    const uint8_t *data);
void mig_sink_absent(struct mig_sink *sink, const struct mig_range *ranges, unsigned n);

#endif
