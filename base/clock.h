// SPDX-License-Identifier: Apache-2.0
/*
 * clock.h: time. Leases and deadlines run on CLOCK_BOOTTIME in nanoseconds (it goes on while the
 * machine sleeps), timed waits on CLOCK_MONOTONIC; wall time is for people only, nothing depends on it.
 */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <stddef.h>
#include <stdint.h>
#include <time.h>

#define NS_PER_S  1000000000ULL
#define NS_PER_MS 1000000ULL

/* CLOCK_BOOTTIME, ns. */
uint64_t clock_boot_ns(void);
static inline uint64_t clock_boot_ms(void)
{
	return clock_boot_ns() / NS_PER_MS;
}
/* CLOCK_MONOTONIC, ns: for timed waits, and a guest's clocks, which stand still while the machine sleeps. */
uint64_t clock_monotonic_ns(void);
/* Of a processor that the calling thread has had, ns. */
uint64_t clock_thread_ns(void);
/* Wall time, seconds and nanoseconds since 1970. */
uint64_t clock_wall_ns(void);
/* RFC 3339 UTC, "2026-11-21T22:31:40Z"; `dst` holds at least 32 bytes. */
void clock_rfc3339(uint64_t wall_ns, char *dst, size_t size);
void sleep_ms(uint64_t ms);

/*
 * `ms` from now on CLOCK_MONOTONIC: the end of a wait that takes an absolute time. The wait has to go
 * by that clock, too: by pthread_condattr_setclock(), or as a ..._clockwait().
 */
struct timespec clock_in_ms(uint64_t ms);
/* `ns` on any clock, or a duration, for calls that take a struct timespec. */
struct timespec clock_timespec(uint64_t ns);

/* 36 characters of /proc/sys/kernel/random/boot_id as 16 bytes: names this boot of this machine. */
int clock_boot_id(uint8_t id[16]);

#endif
