// SPDX-License-Identifier: Apache-2.0
/*
 * guest_mem.h: a guest's memory as a device sees it: ranges of guest physical addresses mapped
 * here. The one checked way from an address a guest wrote to a pointer: nothing overflows, nothing
 * reaches past a region.
 *
 * There are two dirty logs, a bit for each 4 KiB page, set atomically after the write; both may lie in
 * shared memory. The client's is vhost's (vhost-user spec, "Migration"), by guest physical address: bit
 * (page % 8) of byte (page / 8). The host's goes by the offset in the memory's file: bit (page % 64) of word
 * (page / 64).
 *
 * Of a guest that runs before all of its memory has come (post-copy) a map by the same offsets says which pages are
 * there; others must not be touched, they would be made, full of zeroes.
 */
#ifndef BASE_GUEST_MEM_H
#define BASE_GUEST_MEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GUEST_MEM_REGIONS 32
#define GUEST_PAGE	  4096u

struct guest_region {
	uint64_t gpa;	    /* guest physical address of the first byte */
	uint64_t size;	    /* bytes; gpa + size does not overflow */
	uint64_t user_addr; /* vhost-user: where the front-end has it; ring addresses are such */
	uint8_t *host;	    /* where it is mapped here */
	uint64_t offset;    /* of the first byte in the memory's file, for the host's log */
};

struct guest_mem {
	unsigned count;
	struct guest_region region[GUEST_MEM_REGIONS];
	uint8_t *log;	    /* dirty log, or NULL: no logging */
	uint64_t log_bytes; /* pages beyond it are not logged */
	uint64_t *file_log; /* the host's, or NULL */
	uint64_t file_log_bits;
	const uint64_t *present; /* a bit a page, as in file_log; NULL: all are there */
};

/* Adds a region; -EINVAL when it is empty, overflows or overlaps, -E2BIG when there are too many. */
int guest_mem_add(struct guest_mem *mem, const struct guest_region *region);

/*
 * A pointer to `len` > 0 bytes at `gpa`, all in one region; else NULL. Inline: it is on the way of
 * each descriptor.
 */
static inline void *guest_mem_at(const struct guest_mem *mem, uint64_t gpa, uint64_t len)
{
	for (unsigned i = 0; i < mem->count; i++) {
		const struct guest_region *r = &mem->region[i];

		/* gpa - r->gpa wraps around to a huge offset below the region. */
		if (gpa - r->gpa < r->size && len <= r->size - (gpa - r->gpa))
			return r->host + (gpa - r->gpa);
	}
	return NULL;
}
/* As guest_mem_at, but the bytes there are from `gpa` on in its region, at most `len`; 0: none. */
uint64_t guest_mem_span(const struct guest_mem *mem, uint64_t gpa, uint64_t len, void **host);
/* As guest_mem_at for a front-end's own address. */
void *guest_mem_at_user(const struct guest_mem *mem, uint64_t user_addr, uint64_t len);
/* The way back: the guest physical address of a pointer into a region; false when it is in none. */
bool guest_mem_gpa(const struct guest_mem *mem, const void *host, uint64_t *gpa);

static inline bool guest_mem_logs(const struct guest_mem *mem)
{
	return mem->log || mem->file_log;
}
/*
 * Whether all of these bytes may be touched. Else *offset is where, in the memory's file, the first page lies that
 * is not there yet.
 */
bool guest_mem_is_present(const struct guest_mem *mem, const void *host, uint64_t len,
			  uint64_t *offset);
/* Marks pages as written; without a log nothing happens. */
void guest_mem_log(const struct guest_mem *mem, uint64_t gpa, uint64_t len);
/* As guest_mem_log, by pointer. */
void guest_mem_log_host(const struct guest_mem *mem, const void *host, uint64_t len);

#endif
