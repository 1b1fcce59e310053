// SPDX-License-Identifier: Apache-2.0
/*
 * guard.c: mappings of clients' memory and the SIGBUS handler. The table of mappings is the one
 * variable of this folder that belongs to the process: a signal handler has nothing else to look
 * at. An entry is free, or taken by one thread; the handler only reads its range and sets `hit`.
 */
#include "vfs/guard.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/err.h"
#include "base/util.h"

#define GUARD_SLOTS 1024 /* 32 regions and two helpers of some 30 clients at once */
#define HUGE_PAGE   (2 * MiB)

static struct {
	_Atomic bool taken;
	_Atomic uintptr_t start, end; /* end 0: nothing mapped */
	_Atomic bool hit;
} table[GUARD_SLOTS];
static struct sigaction before; /* whose SIGBUS it was */

static void on_sigbus(int sig, siginfo_t *info, void *context)
{
	uintptr_t at = (uintptr_t)info->si_addr;
	int saved = errno;

	for (int i = 0; i < GUARD_SLOTS; i++) {
		uintptr_t start = table[i].start, end = table[i].end;

		if (at < start || at >= end)
			continue;
		/* Whole: a part of a mapping of huge pages cannot be replaced. */
		if (mmap((void *)start, end - start, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1,
			 0) == MAP_FAILED)
			break;
		table[i].hit = true;
		errno = saved;
		return;
	}
	if (before.sa_flags & SA_SIGINFO) /* not a client's memory: die of it as usual */
		before.sa_sigaction(sig, info, context);
	signal(sig, SIG_DFL);
}

void guard_install(void)
{
	struct sigaction sa = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO}, old;

	sigemptyset(&sa.sa_mask);
	MUST(sigaction(SIGBUS, NULL, &old) == 0);
	if (old.sa_flags & SA_SIGINFO && old.sa_sigaction == on_sigbus)
		return;
	before = old;
	MUST(sigaction(SIGBUS, &sa, NULL) == 0);
}

static int take_slot(void)
{
	for (int i = 0; i < GUARD_SLOTS; i++) {
		bool no = false;

		if (atomic_compare_exchange_strong(&table[i].taken, &no, true))
			return i;
	}
	return fail(-ENOSPC, "guest memory: more than %d mappings", GUARD_SLOTS);
}

static int check(int fd, uint64_t size, bool sealed, size_t *page)
{
	struct stat st;
	int seals;

	if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return fail(-EINVAL, "guest memory: the descriptor is no memory file");
	if (!size || size > (uint64_t)st.st_size)
		return fail(-EINVAL, "guest memory: %llu bytes asked for, the file has %llu",
			    (unsigned long long)size, (unsigned long long)st.st_size);
	seals = fcntl(fd, F_GET_SEALS);
	if (sealed && (seals < 0 || !(seals & F_SEAL_SHRINK)))
		return fail(-EPERM, "guest memory: it is not sealed against shrinking");
	*page = st.st_blksize > 4096 ? (size_t)st.st_blksize : 4096; /* hugetlbfs says its own */
	return 0;
}

/* Reserves address space with a multiple of 2 MiB in it, and gives back what is over. */
static uint8_t *map_aligned(int fd, size_t size, size_t page)
{
	size_t align = MAX(page, HUGE_PAGE), room = size + align;
	uint8_t *at = mmap(NULL, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
			   0);
	uint8_t *base;

	if (at == MAP_FAILED)
		return NULL;
	base = (uint8_t *)ROUND_UP((uintptr_t)at, align);
	if (mmap(base, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED) {
		int saved = errno;

		munmap(at, room);
		errno = saved;
		return NULL;
	}
	if (base > at)
		munmap(at, (size_t)(base - at));
	munmap(base + size, (size_t)(at + room - base) - size);
	return base;
}

int guard_map(struct guard_map *map, int fd, uint64_t size, bool sealed)
{
	size_t page = 4096, whole;
	uint8_t *base;
	int slot, rc;

	memset(map, 0, sizeof(*map));
	rc = check(fd, size, sealed, &page);
	if (rc < 0)
		return rc;
	slot = take_slot();
	if (slot < 0)
		return slot;
	whole = ROUND_UP(size, page);
	base = map_aligned(fd, whole, page);
	if (!base) {
		rc = -errno;
		table[slot].taken = false;
		return fail(rc, "guest memory: cannot map %zu bytes: %s", whole, strerror(-rc));
	}
	madvise(base, whole, MADV_HUGEPAGE);
	madvise(base, whole, MADV_DONTDUMP);
	table[slot].hit = false;
	table[slot].start = (uintptr_t)base;
	table[slot].end = (uintptr_t)base + whole;
	*map = (struct guard_map){.base = base, .size = whole, .slot = slot};
	return 0;
}

void guard_unmap(struct guard_map *map)
{
	if (!map->base)
		return;
	table[map->slot].end = 0;
	munmap(map->base, map->size);
	table[map->slot].taken = false;
	map->base = NULL;
}

bool guard_was_hit(const struct guard_map *map)
{
	return map->base && table[map->slot].hit;
}
