// SPDX-License-Identifier: Apache-2.0
/* pager.c: which pages are there, who waits for others, and how they are put in place. */
#include "migrate/pager.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/peer_stream.h"
#include "migrate/memory.h"

#define FAULTS	  16u /* read at once */
#define RUN_BYTES (1 * MiB)

struct mig_pager {
	int memory_fd, faults, wake_fd;
	uint64_t bytes, base;
	uint64_t *present; /* a bit a page; set with atomic OR */
	uint64_t *taken;   /* likewise: who sets it puts the page in place */
	atomic_uint_fast64_t left;
	void (*came)(void *arg);
	void *came_arg;
	pthread_mutex_t lock; /* all below */
	uint64_t *asked;      /* a bit a page: somebody wants it, or wanted it */
	uint64_t *wants;      /* not asked for yet */
	unsigned wants_n, wants_room;
	bool stopped;
	struct err_info err;
};

/* --- which are there --------------------------------------------------------------------------------- */

static bool has(const uint64_t *map, uint64_t page)
{
	return __atomic_load_n(&map[page / 64], __ATOMIC_ACQUIRE) >> page % 64 & 1;
}

/* True: it was not set before. */
static bool set(uint64_t *map, uint64_t page)
{
	uint64_t bit = 1ULL << page % 64;

	return !(__atomic_fetch_or(&map[page / 64], bit, __ATOMIC_ACQ_REL) & bit);
}

/* The old bytes of a range go; a huge page is split. -EAGAIN: it is still there. */
static int discard(struct mig_pager *p, const struct mig_range *r)
{
	struct mig_range there;

	if (fallocate(p->memory_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)r->offset,
		      (off_t)r->bytes) < 0)
		return fail(-errno, "guest memory: %s", strerror(errno));
	if (mig_memory_next(p->memory_fd, p->bytes, r->offset, &there) == 1 &&
	    there.offset < r->offset + r->bytes)
		return fail(-EAGAIN, "guest memory: the kernel does not let go of a page");
	return 0;
}

static int discard_all(struct mig_pager *p, struct mig_dirty *stale)
{
	struct mig_range r;
	int rc = 0;

	while (rc == 0 && mig_dirty_next(stale, RUN_BYTES, &r)) {
		rc = discard(p, &r);
		for (uint64_t at = r.offset / MIG_PAGE; at < (r.offset + r.bytes) / MIG_PAGE; at++)
			p->present[at / 64] &= p->taken[at / 64] &= ~(1ULL << at % 64);
		p->left += r.bytes / MIG_PAGE;
	}
	return rc;
}

int mig_pager_create(struct mig_pager **out, int memory_fd, uint64_t memory, int faults,
		     uint64_t base, struct mig_dirty *stale)
{
	struct mig_pager *p = xcalloc(1, sizeof(*p));
	uint64_t words = DIV_ROUND_UP(memory / MIG_PAGE, 64);
	int rc;

	p->memory_fd = memory_fd;
	p->bytes = memory;
	p->faults = faults;
	p->base = base;
	p->present = xmalloc(words * sizeof(*p->present));
	memset(p->present, 0xff, words * sizeof(*p->present));
	p->taken = xmalloc(words * sizeof(*p->taken));
	memset(p->taken, 0xff, words * sizeof(*p->taken));
	p->asked = xcalloc(words, sizeof(*p->asked));
	pthread_mutex_init(&p->lock, NULL);
	p->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	MUST(p->wake_fd >= 0);
	rc = discard_all(p, stale);
	if (rc < 0) {
		mig_pager_destroy(p);
		return rc;
	}
	*out = p;
	return 0;
}

void mig_pager_destroy(struct mig_pager *p)
{
	if (!p)
		return;
	close(p->faults);
	close(p->wake_fd);
	pthread_mutex_destroy(&p->lock);
	free(p->present);
	free(p->taken);
	free(p->asked);
	free(p->wants);
	free(p);
}

const uint64_t *mig_pager_present(const struct mig_pager *p)
{
	return p->present;
}

void mig_pager_listen(struct mig_pager *p, void (*came)(void *arg), void *arg)
{
	p->came_arg = arg;
	p->came = came;
}

uint64_t mig_pager_left(const struct mig_pager *p)
{
	return atomic_load(&p->left);
}

/* --- pages come ---------------------------------------------------------------------------------------- */

static int wake(struct mig_pager *p, uint64_t offset)
{
	struct uffdio_range range = {.start = p->base + offset, .len = MIG_PAGE};

	return ioctl(p->faults, UFFDIO_WAKE, &range) < 0 ? -errno : 0;
}

/*
 * In one step: nobody sees half a page. -EEXIST: there is one already; who waits for it waits on. -ESRCH: nobody is left
 * who could read it.
 */
static int put_page(struct mig_pager *p, uint64_t offset, const uint8_t *data)
{
	int rc;

	do {
		if (data) {
			struct uffdio_copy copy = {
				.dst = p->base + offset, .src = (uintptr_t)data, .len = MIG_PAGE};

			rc = ioctl(p->faults, UFFDIO_COPY, &copy) < 0 ? -errno : 0;
		} else {
			struct uffdio_zeropage zero = {
				.range = {.start = p->base + offset, .len = MIG_PAGE}};

			rc = ioctl(p->faults, UFFDIO_ZEROPAGE, &zero) < 0 ? -errno : 0;
		}
	} while (rc == -EAGAIN);
	if (rc == -EEXIST)
		return fail(rc, "guest memory: byte %llu: a page that had not come is there",
			    (unsigned long long)offset);
	if (rc == -ESRCH)
		return fail(rc, "guest memory: its process has ended");
	return rc < 0 ? fail(rc, "guest memory: a page cannot be put in place: %s", strerror(-rc))
		      : 0;
}

/*
 * One that is missing, once: it may come twice, and by two threads. Should there be a page nevertheless, somebody
 * has made it who went past us, and has read zeroes or written to it: what the guest has is not its memory any more.
 */
static int place_page(struct mig_pager *p, uint64_t offset, const uint8_t *data, uint64_t *placed)
{
	uint64_t page = offset / MIG_PAGE;
	int rc;

	if (!set(p->taken, page))
		return 0;
	rc = put_page(p, offset, data);
	if (rc == 0)
		*placed += set(p->present, page);
	return rc;
}

/* A hole is zeroes; it may have been filled meanwhile, by whoever may touch it. */
static int fill_hole(struct mig_pager *p, uint64_t offset)
{
	int rc = put_page(p, offset, NULL);

	if (rc == -EEXIST)
		rc = wake(p, offset);
	if (rc < 0 && rc != -ESRCH)
		return fail(rc, "guest memory: a hole cannot be filled: %s", strerror(-rc));
	return rc;
}

int mig_pager_place(struct mig_pager *p, const struct mig_range *ranges, unsigned n,
		    const uint8_t *data)
{
	uint64_t placed = 0;
	int rc = 0;

	for (unsigned i = 0; i < n; i++)
		for (uint64_t at = 0; rc == 0 && at < ranges[i].bytes; at += MIG_PAGE) {
			rc = place_page(p, ranges[i].offset + at, data, &placed);
			data = data ? data + MIG_PAGE : NULL;
		}
	if (placed && atomic_fetch_sub(&p->left, placed) == placed)
		(void)eventfd_write(p->wake_fd, 1);
	if (placed && p->came)
		p->came(p->came_arg);
	return rc;
}

/* --- pages are wanted ------------------------------------------------------------------------------------ */

/* Caller holds the lock. True: it was not asked for before. */
static bool note_want(struct mig_pager *p, uint64_t offset)
{
	uint64_t page = offset / MIG_PAGE;

	if (has(p->asked, page))
		return false;
	p->asked[page / 64] |= 1ULL << page % 64;
	if (p->wants_n == p->wants_room) {
		p->wants_room = MAX(64, 2 * p->wants_room);
		p->wants = xrealloc(p->wants, p->wants_room * sizeof(*p->wants));
	}
	p->wants[p->wants_n++] = offset;
	return true;
}

void mig_pager_want(struct mig_pager *p, uint64_t offset)
{
	bool fresh;

	pthread_mutex_lock(&p->lock);
	fresh = note_want(p, offset);
	pthread_mutex_unlock(&p->lock);
	if (fresh)
		(void)eventfd_write(p->wake_fd, 1);
}

void mig_pager_stop(struct mig_pager *p, int err)
{
	pthread_mutex_lock(&p->lock);
	if (!p->stopped)
		err_save(&p->err, err);
	p->stopped = true;
	pthread_mutex_unlock(&p->lock);
	(void)eventfd_write(p->wake_fd, 1);
}

/* A thread of the VMM waits: for a page that is to come, or in a hole. */
static int take_fault(struct mig_pager *p, uint64_t address)
{
	uint64_t offset = ROUND_DOWN(address - p->base, (uint64_t)MIG_PAGE);

	if (address < p->base || offset >= p->bytes)
		return fail(-EPROTO, "guest memory: a fault outside of it");
	if (has(p->present, offset / MIG_PAGE))
		return fill_hole(p, offset);
	pthread_mutex_lock(&p->lock);
	(void)note_want(p, offset);
	pthread_mutex_unlock(&p->lock);
	/* It may have come just before it was looked at: then who put it there has woken who waited. */
	return 0;
}

static int take_faults(struct mig_pager *p)
{
	struct uffd_msg msg[FAULTS];
	ssize_t n;
	int rc = 0;

	while (rc == 0 && (n = read(p->faults, msg, sizeof(msg))) > 0)
		for (size_t i = 0; rc == 0 && i < (size_t)n / sizeof(msg[0]); i++)
			if (msg[i].event == UFFD_EVENT_PAGEFAULT)
				rc = take_fault(p, msg[i].arg.pagefault.address);
	return rc;
}

static int ask(struct mig_pager *p, const struct mig_pager_ops *ops, void *arg)
{
	uint64_t offsets[PEER_MIG_WANTS_MAX];
	unsigned n;
	int rc = 0;

	do {
		pthread_mutex_lock(&p->lock);
		n = MIN(p->wants_n, PEER_MIG_WANTS_MAX);
		memcpy(offsets, p->wants, n * sizeof(*offsets));
		p->wants_n -= n;
		memmove(p->wants, p->wants + n, p->wants_n * sizeof(*offsets));
		if (p->stopped)
			rc = err_restore(&p->err);
		pthread_mutex_unlock(&p->lock);
		if (rc == 0 && n)
			rc = ops->ask(arg, offsets, n);
	} while (rc == 0 && n == PEER_MIG_WANTS_MAX);
	return rc;
}

int mig_pager_run(struct mig_pager *p, const struct mig_pager_ops *ops, void *arg)
{
	struct pollfd fds[2] = {{.fd = p->faults, .events = POLLIN},
				{.fd = p->wake_fd, .events = POLLIN}};
	struct uffdio_range all = {.start = p->base, .len = p->bytes};
	uint64_t sign_ms = clock_boot_ms() + PEER_STREAM_PING;
	eventfd_t n;
	int rc = 0;

	while (rc == 0 && atomic_load(&p->left)) {
		(void)poll(fds, 2, (int)PEER_STREAM_PING);
		if (fds[1].revents)
			(void)eventfd_read(p->wake_fd, &n);
		rc = take_faults(p);
		if (rc == 0)
			rc = ask(p, ops, arg);
		if (rc == 0 && clock_boot_ms() >= sign_ms) {
			rc = ops->ask(arg, NULL, 0);
			sign_ms = clock_boot_ms() + PEER_STREAM_PING;
		}
	}
	if (atomic_load(&p->left))
		return rc;
	/* Who touches a hole from now on is served by the kernel alone; who waits in one is woken. */
	if (ioctl(p->faults, UFFDIO_UNREGISTER, &all) < 0 && errno != ESRCH)
		return fail(-errno, "guest memory: userfaultfd: %s", strerror(errno));
	return 0;
}
