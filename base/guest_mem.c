// SPDX-License-Identifier: Apache-2.0
/* guest_mem.c: guest physical addresses to pointers, and the dirty log. */
#include "base/guest_mem.h"

#include <errno.h>

#include "base/err.h"
#include "base/util.h"

int guest_mem_add(struct guest_mem *mem, const struct guest_region *n)
{
	if (mem->count == GUEST_MEM_REGIONS)
		return fail(-E2BIG, "guest memory: more than %d regions", GUEST_MEM_REGIONS);
	if (!n->size || n->gpa + n->size < n->gpa || n->user_addr + n->size < n->user_addr)
		return fail(-EINVAL, "guest memory: region at %#llx of %#llx bytes is no range",
			    (unsigned long long)n->gpa, (unsigned long long)n->size);
	for (unsigned i = 0; i < mem->count; i++) {
		const struct guest_region *r = &mem->region[i];

		if (n->gpa < r->gpa + r->size && r->gpa < n->gpa + n->size)
			return fail(-EINVAL, "guest memory: regions at %#llx and %#llx overlap",
				    (unsigned long long)r->gpa, (unsigned long long)n->gpa);
	}
	mem->region[mem->count++] = *n;
	return 0;
}

uint64_t guest_mem_span(const struct guest_mem *mem, uint64_t gpa, uint64_t len, void **host)
{
	for (unsigned i = 0; i < mem->count; i++) {
		const struct guest_region *r = &mem->region[i];

		if (gpa - r->gpa < r->size) {
			*host = r->host + (gpa - r->gpa);
			return MIN(len, r->size - (gpa - r->gpa));
		}
	}
	return 0;
}

void *guest_mem_at_user(const struct guest_mem *mem, uint64_t addr, uint64_t len)
{
	for (unsigned i = 0; i < mem->count; i++) {
		const struct guest_region *r = &mem->region[i];

		if (addr - r->user_addr < r->size && len <= r->size - (addr - r->user_addr))
			return r->host + (addr - r->user_addr);
	}
	return NULL;
}

bool guest_mem_gpa(const struct guest_mem *mem, const void *host, uint64_t *gpa)
{
	for (unsigned i = 0; i < mem->count; i++) {
		const struct guest_region *r = &mem->region[i];
		uint64_t off = (uint64_t)(uintptr_t)host - (uint64_t)(uintptr_t)r->host;

		if (off < r->size) {
			*gpa = r->gpa + off;
			return true;
		}
	}
	return false;
}

bool guest_mem_is_present(const struct guest_mem *mem, const void *host, uint64_t len,
			  uint64_t *offset)
{
	for (unsigned i = 0; i < mem->count && mem->present && len; i++) {
		const struct guest_region *r = &mem->region[i];
		uint64_t at = (uint64_t)(uintptr_t)host - (uint64_t)(uintptr_t)r->host;

		if (at >= r->size)
			continue;
		at += r->offset;
		for (uint64_t page = at / GUEST_PAGE; page <= (at + len - 1) / GUEST_PAGE; page++) {
			uint64_t word = __atomic_load_n(&mem->present[page / 64], __ATOMIC_ACQUIRE);

			if (word >> page % 64 & 1)
				continue;
			*offset = page * GUEST_PAGE;
			return false;
		}
	}
	return true;
}

static void log_client(const struct guest_mem *mem, uint64_t gpa, uint64_t len)
{
	uint64_t last;

	if (!mem->log_bytes)
		return;
	last = MIN((gpa + len - 1) / GUEST_PAGE, mem->log_bytes * 8 - 1);
	for (uint64_t page = gpa / GUEST_PAGE; page <= last; page++)
		__atomic_fetch_or(&mem->log[page / 8], (uint8_t)(1u << (page % 8)),
				  __ATOMIC_RELEASE);
}

static void log_file(const struct guest_mem *mem, uint64_t gpa, uint64_t len)
{
	for (unsigned i = 0; i < mem->count; i++) {
		const struct guest_region *r = &mem->region[i];
		uint64_t at, last;

		if (gpa - r->gpa >= r->size)
			continue;
		at = r->offset + (gpa - r->gpa);
		last = (at + MIN(len, r->size - (gpa - r->gpa)) - 1) / GUEST_PAGE;
		for (uint64_t page = at / GUEST_PAGE; page <= last && page < mem->file_log_bits;
		     page++)
			__atomic_fetch_or(&mem->file_log[page / 64], 1ULL << (page % 64),
					  __ATOMIC_RELEASE);
	}
}

void guest_mem_log(const struct guest_mem *mem, uint64_t gpa, uint64_t len)
{
	if (!len || gpa + len < gpa)
		return;
	if (mem->log)
		log_client(mem, gpa, len);
	if (mem->file_log)
		log_file(mem, gpa, len);
}

void guest_mem_log_host(const struct guest_mem *mem, const void *host, uint64_t len)
{
	uint64_t gpa;

	if (guest_mem_logs(mem) && guest_mem_gpa(mem, host, &gpa))
		guest_mem_log(mem, gpa, len);
}
