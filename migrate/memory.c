// SPDX-License-Identifier: Apache-2.0
/* memory.c: guest memory: what is there, what was written, and the target's copy. */
#define XXH_INLINE_ALL
#include "migrate/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/err.h"

#define HUGE_BYTES (2 * MiB)
#define READ_BYTES (256 * KiB)

int mig_memory_next(int fd, uint64_t bytes, uint64_t from, struct mig_range *out)
{
	off_t start, end;

	if (from >= bytes)
		return 0;
	start = lseek(fd, (off_t)from, SEEK_DATA);
	if (start < 0 && errno == ENXIO)
		return 0;
	end = start < 0 ? -1 : lseek(fd, start, SEEK_HOLE);
	if (start < 0 || end < 0)
		return fail(-errno, "guest memory: %s", strerror(errno));
	out->offset = MAX(ROUND_DOWN((uint64_t)start, MIG_PAGE), from);
	out->bytes = MIN(ROUND_UP((uint64_t)end, MIG_PAGE), bytes) - out->offset;
	return 1;
}

bool mig_is_zero(const void *p, size_t n)
{
	const uint64_t *w = p;

	/* Most pages are told by their beginning. */
	for (size_t i = 0; i < n / 8; i += 8)
		if (w[i] | w[i + 1] | w[i + 2] | w[i + 3] | w[i + 4] | w[i + 5] | w[i + 6] |
		    w[i + 7])
			return false;
	return true;
}

static int read_all(int fd, void *dst, uint64_t n, uint64_t offset)
{
	uint8_t *p = dst;

	while (n) {
		ssize_t got = pread(fd, p, n, (off_t)offset);

		if (got <= 0)
			return fail(got < 0 ? -errno : -EIO, "guest memory: cannot be read");
		p += got;
		offset += (uint64_t)got;
		n -= (uint64_t)got;
	}
	return 0;
}

/* Those that are not zero, with their places. */
static void add_pages(XXH3_state_t *state, const void *data, uint64_t offset, uint64_t n)
{
	for (uint64_t at = 0; at < n; at += MIG_PAGE) {
		const uint8_t *page = (const uint8_t *)data + at;
		const le64 place = le64_of(offset + at);

		if (mig_is_zero(page, MIG_PAGE))
			continue;
		XXH3_64bits_update(state, &place, sizeof(place));
		XXH3_64bits_update(state, page, MIG_PAGE);
	}
}

int mig_memory_checksum(int fd, uint64_t bytes, uint64_t *out)
{
	cleanup_free uint64_t *page = xaligned(MIG_PAGE, READ_BYTES);
	XXH3_state_t *state = XXH3_createState();
	struct mig_range r = {0, 0};
	int rc;

	MUST(state);
	XXH3_64bits_reset(state);
	/* A range is asked for once, it may be all of the memory: lseek walks to its end. */
	while ((rc = mig_memory_next(fd, bytes, r.offset + r.bytes, &r)) == 1) {
		uint64_t n = 0;

		for (uint64_t from = 0; rc >= 0 && from < r.bytes; from += n) {
			n = MIN(r.bytes - from, READ_BYTES);
			rc = read_all(fd, page, n, r.offset + from);
			if (rc == 0)
				add_pages(state, page, r.offset + from, n);
		}
		if (rc < 0)
			break;
	}
	*out = XXH3_64bits_digest(state);
	XXH3_freeState(state);
	return rc;
}

/* --- what was written ---------------------------------------------------------------------------- */

void mig_dirty_init(struct mig_dirty *d, uint64_t memory)
{
	d->pages = DIV_ROUND_UP(memory, MIG_PAGE);
	d->words = xcalloc(DIV_ROUND_UP(d->pages, 64), sizeof(*d->words));
	d->count = d->at = 0;
}

void mig_dirty_free(struct mig_dirty *d)
{
	free(d->words);
	d->words = NULL;
}

void mig_dirty_take(struct mig_dirty *d, uint64_t *log)
{
	uint64_t words = DIV_ROUND_UP(d->pages, 64), count = 0;

	for (uint64_t i = 0; i < words; i++) {
		if (__atomic_load_n(&log[i], __ATOMIC_RELAXED))
			d->words[i] |= __atomic_exchange_n(&log[i], 0, __ATOMIC_ACQ_REL);
		/* The VMM writes there, too: it may have set bits of pages that are none. */
		if (i == words - 1 && d->pages % 64)
			d->words[i] &= (1ULL << d->pages % 64) - 1;
		count += (uint64_t)__builtin_popcountll(d->words[i]);
	}
	d->count = count;
	d->at = 0;
}

static bool test(const struct mig_dirty *d, uint64_t page)
{
	return page < d->pages && d->words[page / 64] >> page % 64 & 1;
}

void mig_dirty_set(struct mig_dirty *d, const struct mig_range *r)
{
	for (uint64_t page = r->offset / MIG_PAGE; page < (r->offset + r->bytes) / MIG_PAGE;
	     page++) {
		if (page >= d->pages || test(d, page))
			continue;
		d->words[page / 64] |= 1ULL << page % 64;
		d->count++;
		d->at = MIN(d->at, page / 64);
	}
}

bool mig_dirty_take_at(struct mig_dirty *d, uint64_t offset, uint64_t max, struct mig_range *out)
{
	uint64_t page = offset / MIG_PAGE, n = 0;

	for (; n < max / MIG_PAGE && test(d, page + n); n++)
		d->words[(page + n) / 64] &= ~(1ULL << (page + n) % 64);
	d->count -= n;
	*out = (struct mig_range){page * MIG_PAGE, n * MIG_PAGE};
	return n;
}

bool mig_dirty_next(struct mig_dirty *d, uint64_t max, struct mig_range *out)
{
	uint64_t words = DIV_ROUND_UP(d->pages, 64), page, n = 0;

	while (d->at < words && !d->words[d->at])
		d->at++;
	if (d->at == words)
		return false;
	page = d->at * 64 + (uint64_t)__builtin_ctzll(d->words[d->at]);
	for (; n < max / MIG_PAGE && test(d, page + n); n++)
		d->words[(page + n) / 64] &= ~(1ULL << (page + n) % 64);
	d->count -= n;
	*out = (struct mig_range){page * MIG_PAGE, n * MIG_PAGE};
	return true;
}

/* --- the target's copy ----------------------------------------------------------------------------- */

struct mig_sink {
	int fd;
	uint8_t *map;
	uint64_t bytes;
	uint8_t *touched; /* a byte for each 4 KiB: it is not what a fresh memory has there */
};

int mig_sink_create(struct mig_sink **out, int fd, uint64_t bytes, bool huge)
{
	uint8_t *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	struct mig_sink *s;

	if (map == MAP_FAILED)
		return fail(-errno, "guest memory: cannot be mapped: %s", strerror(errno));
	(void)madvise(map, bytes, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	(void)madvise(map, bytes, MADV_DONTDUMP);
	s = xcalloc(1, sizeof(*s));
	s->fd = fd;
	s->map = map;
	s->bytes = bytes;
	s->touched = xcalloc(DIV_ROUND_UP(bytes, MIG_PAGE), 1);
	*out = s;
	return 0;
}

void mig_sink_destroy(struct mig_sink *s)
{
	if (!s)
		return;
	munmap(s->map, s->bytes);
	free(s->touched);
	free(s);
}

uint64_t mig_sink_bytes(const struct mig_sink *s)
{
	return s->bytes;
}

void mig_sink_pages(struct mig_sink *s, const struct mig_range *r, unsigned n, const uint8_t *data)
{
	for (unsigned i = 0; i < n; i++) {
		memcpy(s->map + r[i].offset, data, r[i].bytes);
		memset(s->touched + r[i].offset / MIG_PAGE, 1, r[i].bytes / MIG_PAGE);
		data += r[i].bytes;
	}
}

/* Huge pages are given back whole; smaller ones are wiped, so that they stay in one piece. */
static void wipe(struct mig_sink *s, uint64_t at, uint64_t bytes)
{
	if (at % HUGE_BYTES == 0 && bytes == HUGE_BYTES &&
	    fallocate(s->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)at, (off_t)bytes) ==
		    0) {
		memset(s->touched + at / MIG_PAGE, 0, bytes / MIG_PAGE);
		return;
	}
	for (uint64_t end = at + bytes; at < end; at += MIG_PAGE) {
		if (!s->touched[at / MIG_PAGE])
			continue;
		memset(s->map + at, 0, MIG_PAGE);
		s->touched[at / MIG_PAGE] = 0;
	}
}

void mig_sink_absent(struct mig_sink *s, const struct mig_range *r, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		for (uint64_t at = r[i].offset, end = at + r[i].bytes, next; at < end; at = next) {
			next = MIN(end, ROUND_DOWN(at, HUGE_BYTES) + HUGE_BYTES);
			wipe(s, at, next - at);
		}
}
