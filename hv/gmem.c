// SPDX-License-Identifier: Apache-2.0
/*
 * Guest memory. The mapping is one piece, so banks differ only in where the guest sees them.
 * Called by boot (tables), the rng device, and by whoever hands the banks to KVM or a back-end.
 */
#include "hv/gmem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/err.h"
#include "base/util.h"
#include "base/vmctl.h"

#define HUGE_PAGE (2 * MiB)

struct hv_gmem {
	int fd;
	uint64_t bytes;
	uint8_t *base;
	struct guest_mem banks;
};

static int check_fd(int fd, uint64_t *bytes)
{
	const int must = F_SEAL_SHRINK | F_SEAL_GROW;
	off_t size = lseek(fd, 0, SEEK_END); /* fstat would need a call that takes paths */

	if (size < 0)
		return fail(-errno, "guest memory: lseek: %s", strerror(errno));
	int seals = fcntl(fd, F_GET_SEALS);
	if (seals < 0 || (seals & must) != must)
		return fail(-EINVAL, "guest memory: the memfd is not sealed against a change of "
				     "size; seal it with F_SEAL_SHRINK and F_SEAL_GROW");
	*bytes = (uint64_t)size;
	if (*bytes < VMCTL_MEMORY_MIN || *bytes % VMCTL_MEMORY_ALIGN)
		return fail(-EINVAL,
			    "guest memory: the memfd's %llu bytes are no multiple of 2 MiB",
			    (unsigned long long)*bytes);
	return 0;
}

/* An address that is a multiple of 2 MiB, or huge pages of the memfd cannot be mapped as such. */
static void *map_aligned(int fd, uint64_t bytes)
{
	uint8_t *hole = mmap(NULL, bytes + HUGE_PAGE, PROT_NONE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (hole == MAP_FAILED)
		return NULL;
	uint8_t *base = (uint8_t *)ROUND_UP((uintptr_t)hole, HUGE_PAGE);
	if (mmap(base, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED)
		return NULL;
	if (base > hole)
		munmap(hole, (size_t)(base - hole));
	munmap(base + bytes, (size_t)(hole + HUGE_PAGE - base));
	return base;
}

static void add_bank(struct hv_gmem *gmem, uint64_t gpa, uint64_t offset, uint64_t bytes)
{
	const struct guest_region r = {
		.gpa = gpa,
		.size = bytes,
		.user_addr = gpa,
		.host = gmem->base + offset,
	};

	MUST(guest_mem_add(&gmem->banks, &r) == 0);
}

int hv_gmem_create(struct hv_gmem **out, int fd)
{
	uint64_t bytes = 0;
	int rc = check_fd(fd, &bytes);

	if (rc)
		return rc;
	void *base = map_aligned(fd, bytes);
	if (!base)
		return fail(-ENOMEM, "guest memory: cannot map %llu MiB: %s",
			    (unsigned long long)(bytes / MiB), strerror(errno));
	/* Both are advice: a kernel without huge pages for shmem refuses, and only costs speed. */
	madvise(base, bytes, MADV_HUGEPAGE);
	madvise(base, bytes, MADV_DONTDUMP);
	struct hv_gmem *gmem = xcalloc(1, sizeof(*gmem));
	*gmem = (struct hv_gmem){.fd = fd, .bytes = bytes, .base = base};
	add_bank(gmem, 0, 0, vmctl_low_bytes(bytes));
	if (bytes > VMCTL_HOLE_START)
		add_bank(gmem, VMCTL_HOLE_END, VMCTL_HOLE_START, bytes - VMCTL_HOLE_START);
	*out = gmem;
	return 0;
}

void hv_gmem_destroy(struct hv_gmem *gmem)
{
	if (!gmem)
		return;
	munmap(gmem->base, gmem->bytes);
	free(gmem);
}

void *hv_gmem_at(const struct hv_gmem *gmem, uint64_t gpa, uint64_t len)
{
	return len ? guest_mem_at(&gmem->banks, gpa, len) : NULL;
}

int hv_gmem_read(const struct hv_gmem *gmem, uint64_t gpa, void *dst, size_t len)
{
	const void *p = hv_gmem_at(gmem, gpa, len);

	if (!p)
		return -EFAULT;
	memcpy(dst, p, len);
	return 0;
}

int hv_gmem_write(struct hv_gmem *gmem, uint64_t gpa, const void *src, size_t len)
{
	void *p = hv_gmem_at(gmem, gpa, len);

	if (!p)
		return -EFAULT;
	memcpy(p, src, len);
	return 0;
}

uint64_t hv_gmem_bytes(const struct hv_gmem *gmem)
{
	return gmem->bytes;
}

const struct guest_mem *hv_gmem_banks(const struct hv_gmem *gmem)
{
	return &gmem->banks;
}

int hv_gmem_fd(const struct hv_gmem *gmem)
{
	return gmem->fd;
}
