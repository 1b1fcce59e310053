// SPDX-License-Identifier: Apache-2.0
/*
 * Guest memory. The mapping is one piece, so banks differ only in where the guest sees them.
 * Called by boot (tables), the rng device, and by whoever hands the banks to KVM or a back-end.
 */
#include "hv/gmem.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
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
	pthread_rwlock_t log_lock; /* written under the machine's lock as well */
	uint64_t *log;		   /* shared with the daemon, little-endian words; NULL: none */
	atomic_bool lazy;
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
	pthread_rwlock_init(&gmem->log_lock, NULL);
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
	hv_gmem_log_stop(gmem);
	munmap(gmem->base, gmem->bytes);
	pthread_rwlock_destroy(&gmem->log_lock);
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
	hv_gmem_dirty(gmem, p, len);
	return 0;
}

/* --- the log ----------------------------------------------------------------------------------- */

static void set_log(struct hv_gmem *gmem, uint64_t *log)
{
	pthread_rwlock_wrlock(&gmem->log_lock);
	if (gmem->log)
		munmap(gmem->log, vmctl_log_bytes(gmem->bytes));
	gmem->log = log;
	pthread_rwlock_unlock(&gmem->log_lock);
}

int hv_gmem_log_start(struct hv_gmem *gmem, int fd)
{
	const int must = F_SEAL_SHRINK | F_SEAL_GROW;
	uint64_t bytes = vmctl_log_bytes(gmem->bytes);
	int seals = fcntl(fd, F_GET_SEALS);

	if (seals < 0 || (seals & must) != must || lseek(fd, 0, SEEK_END) != (off_t)bytes)
		return fail(-EINVAL, "dirty log: it is to be a sealed memfd of %llu bytes",
			    (unsigned long long)bytes);
	void *log = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (log == MAP_FAILED)
		return fail(-errno, "dirty log: cannot map it: %s", strerror(errno));
	set_log(gmem, log);
	return 0;
}

void hv_gmem_log_stop(struct hv_gmem *gmem)
{
	set_log(gmem, NULL);
}

bool hv_gmem_logs(const struct hv_gmem *gmem)
{
	return gmem->log;
}

static void log_pages(struct hv_gmem *gmem, const void *host, uint64_t len)
{
	uint64_t offset = (uint64_t)((const uint8_t *)host - gmem->base);

	MUST(offset < gmem->bytes && len <= gmem->bytes - offset);
	for (uint64_t page = offset / VMCTL_LOG_PAGE; page <= (offset + len - 1) / VMCTL_LOG_PAGE;
	     page++)
		__atomic_fetch_or(&gmem->log[page / 64], htole64(1ULL << page % 64),
				  __ATOMIC_RELEASE);
}

void hv_gmem_dirty(struct hv_gmem *gmem, const void *host, uint64_t len)
{
	if (!len)
		return;
	pthread_rwlock_rdlock(&gmem->log_lock);
	if (gmem->log)
		log_pages(gmem, host, len);
	pthread_rwlock_unlock(&gmem->log_lock);
}

void hv_gmem_dirty_words(struct hv_gmem *gmem, uint64_t offset, const uint64_t *words, uint64_t n)
{
	uint64_t *log = gmem->log + offset / VMCTL_LOG_PAGE / 64;

	MUST(gmem->log && offset % (64 * VMCTL_LOG_PAGE) == 0 &&
	     offset + n * 64 * VMCTL_LOG_PAGE <= gmem->bytes);
	for (uint64_t i = 0; i < n; i++) {
		if (words[i])
			__atomic_fetch_or(&log[i], htole64(words[i]), __ATOMIC_RELEASE);
	}
}

/* MADV_DONTNEED would free nothing of a memfd. The log comes after: who reads in between reads again. */
int hv_gmem_punch(struct hv_gmem *gmem, void *host, uint64_t len)
{
	if (atomic_load(&gmem->lazy)) /* what comes later would be older than this */
		return -EAGAIN;
	if (madvise(host, len, MADV_REMOVE) < 0)
		return -errno;
	hv_gmem_dirty(gmem, host, len);
	return 0;
}

/* --- before all of it has come ------------------------------------------------------------------ */

/* No huge pages meanwhile: one that is made of a few small ones brings zeroes for the others. */
int hv_gmem_lazy_start(struct hv_gmem *gmem, int uffd, uint64_t *base)
{
	struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_MISSING_SHMEM};
	struct uffdio_register reg = {
		.range = {.start = (uintptr_t)gmem->base, .len = gmem->bytes},
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};

	madvise(gmem->base, gmem->bytes, MADV_NOHUGEPAGE);
	if (ioctl(uffd, UFFDIO_API, &api) < 0 || ioctl(uffd, UFFDIO_REGISTER, &reg) < 0)
		return fail(-errno, "guest memory: userfaultfd: %s", strerror(errno));
	atomic_store(&gmem->lazy, true);
	*base = (uintptr_t)gmem->base;
	return 0;
}

int hv_gmem_lazy_end(struct hv_gmem *gmem, int uffd)
{
	struct uffdio_range range = {.start = (uintptr_t)gmem->base, .len = gmem->bytes};

	if (ioctl(uffd, UFFDIO_UNREGISTER, &range) < 0)
		return fail(-errno, "guest memory: userfaultfd: %s", strerror(errno));
	madvise(gmem->base, gmem->bytes, MADV_HUGEPAGE);
	atomic_store(&gmem->lazy, false);
	return 0;
}

void hv_gmem_await(const struct hv_gmem *gmem, uint64_t gpa, uint64_t len)
{
	const volatile uint8_t *p = atomic_load(&gmem->lazy) ? hv_gmem_at(gmem, gpa, len) : NULL;

	for (uint64_t at = 0; p && at < len; at = MIN(at + VMCTL_LOG_PAGE, len))
		(void)p[at];
	if (p)
		(void)p[len - 1];
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
