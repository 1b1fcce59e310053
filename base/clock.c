// SPDX-License-Identifier: Apache-2.0
/* clock.c: the clocks, and the name of this boot. */
#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/err.h"
#include "base/util.h"

static uint64_t read_clock(clockid_t id)
{
	struct timespec ts;

	MUST(clock_gettime(id, &ts) == 0);
	return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

uint64_t clock_boot_ns(void)
{
	return read_clock(CLOCK_BOOTTIME);
}

uint64_t clock_monotonic_ns(void)
{
	return read_clock(CLOCK_MONOTONIC);
}

uint64_t clock_thread_ns(void)
{
	return read_clock(CLOCK_THREAD_CPUTIME_ID);
}

uint64_t clock_wall_ns(void)
{
	return read_clock(CLOCK_REALTIME);
}

void clock_rfc3339(uint64_t wall_ns, char *dst, size_t size)
{
	time_t s = (time_t)(wall_ns / NS_PER_S);
	struct tm tm;

	gmtime_r(&s, &tm);
	strftime(dst, size, "%Y-%m-%dT%H:%M:%SZ", &tm);
}

void sleep_ms(uint64_t ms)
{
	struct timespec ts = {(time_t)(ms / 1000), (long)(ms % 1000 * NS_PER_MS)};

	while (nanosleep(&ts, &ts) < 0 && errno == EINTR)
		;
}

struct timespec clock_in_ms(uint64_t ms)
{
	struct timespec ts;

	MUST(clock_gettime(CLOCK_MONOTONIC, &ts) == 0);
	ts.tv_sec += (time_t)(ms / 1000);
	ts.tv_nsec += (long)(ms % 1000 * NS_PER_MS);
	if (ts.tv_nsec >= (long)NS_PER_S) {
		ts.tv_sec++;
		ts.tv_nsec -= (long)NS_PER_S;
	}
	return ts;
}

struct timespec clock_timespec(uint64_t ns)
{
	return (struct timespec){(time_t)(ns / NS_PER_S), (long)(ns % NS_PER_S)};
}

int clock_boot_id(uint8_t id[16])
{
	cleanup_fd int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	char text[64] = "", *p = text;

	if (fd < 0 || read(fd, text, sizeof(text) - 1) < 36)
		return fail(-EIO, "/proc/sys/kernel/random/boot_id: cannot read it; mount /proc");
	for (int i = 0; i < 16; i++) {
		unsigned v;

		if (*p == '-')
			p++;
		if (sscanf(p, "%2x", &v) != 1)
			return fail(-EIO, "/proc/sys/kernel/random/boot_id: not a uuid");
		id[i] = (uint8_t)v;
		p += 2;
	}
	return 0;
}
