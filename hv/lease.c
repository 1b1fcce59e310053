// SPDX-License-Identifier: Apache-2.0
/* The watch over the lease. A renewal needs no message: the thread looks again before it acts. */
#include "hv/lease.h"

#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <poll.h>
#include <endian.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/util.h"
#include "base/vmctl.h"

#define STACK_BYTES (128 * 1024) /* none so large that a huge page could be put into it */

/* How soon a lease that was absent, or that ended, is seen to run again or to end once more. */
#define LOOK_MS 50

struct hv_lease {
	const uint64_t *end; /* little-endian, ns of CLOCK_BOOTTIME; may change at any time */
	void (*ended)(void *opaque);
	void *opaque;
	int stop_fd;
	pthread_t thread;
	bool started;
};

uint64_t hv_lease_end(const struct hv_lease *lease)
{
	return le64toh(__atomic_load_n(lease->end, __ATOMIC_ACQUIRE));
}

bool hv_lease_runs(const struct hv_lease *lease)
{
	uint64_t end = hv_lease_end(lease);

	return end == VMCTL_LEASE_NONE || clock_boot_ns() < end;
}

/* Until the lease's end as it stands now, rounded down so that it is never passed by sleeping. */
static int sleep_for_ms(const struct hv_lease *lease)
{
	uint64_t end = hv_lease_end(lease), now = clock_boot_ns();

	if (end == VMCTL_LEASE_NONE || now >= end)
		return LOOK_MS;
	return (int)MIN((end - now) / NS_PER_MS, LOOK_MS * 2);
}

static void *lease_thread(void *arg)
{
	struct hv_lease *lease = arg;
	struct pollfd p = {.fd = lease->stop_fd, .events = POLLIN};
	uint64_t told = VMCTL_LEASE_NONE; /* the end that was acted on: each one is, once */

	prctl(PR_SET_NAME, "lease");
	while (poll(&p, 1, sleep_for_ms(lease)) <= 0) {
		uint64_t end = hv_lease_end(lease);

		if (end == told || end == VMCTL_LEASE_NONE || clock_boot_ns() < end)
			continue;
		lease->ended(lease->opaque);
		told = end;
	}
	return NULL;
}

int hv_lease_create(struct hv_lease **out, int fd, void (*ended)(void *opaque), void *opaque)
{
	void *page = mmap(NULL, VMCTL_LEASE_BYTES, PROT_READ, MAP_SHARED, fd, 0);

	if (page == MAP_FAILED)
		return fail(-errno, "lease: cannot map its page: %s", strerror(errno));
	struct hv_lease *lease = xcalloc(1, sizeof(*lease));
	*lease = (struct hv_lease){.end = page, .ended = ended, .opaque = opaque, .stop_fd = -1};
	*out = lease;
	return 0;
}

int hv_lease_watch(struct hv_lease *lease)
{
	lease->stop_fd = eventfd(0, EFD_CLOEXEC);
	if (lease->stop_fd < 0)
		return fail(-errno, "lease: eventfd: %s", strerror(errno));
	pthread_attr_t attr;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	int err = pthread_create(&lease->thread, &attr, lease_thread, lease);
	pthread_attr_destroy(&attr);
	if (err)
		return fail(-err, "lease: no thread: %s", strerror(err));
	lease->started = true;
	return 0;
}

void hv_lease_destroy(struct hv_lease *lease)
{
	if (!lease)
		return;
	if (lease->started) {
		eventfd_write(lease->stop_fd, 1);
		pthread_join(lease->thread, NULL);
	}
	util_close(&lease->stop_fd);
	munmap((void *)(uintptr_t)lease->end, VMCTL_LEASE_BYTES);
	free(lease);
}
