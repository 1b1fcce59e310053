// SPDX-License-Identifier: Apache-2.0
/*
 * watchdog.h: a watchdog that counts whole seconds of the guest's own time: it stands still with the
 * guest (a pause, a migration, a lost lease). The guest finds it by the WDAT (hv/acpi.h):
 *
 *	0x620  u32  the countdown that the next three begin with, in seconds
 *	0x624  u32  seconds left
 *	0x628  u8   1: runs, 0: stopped
 *	0x629  u8   any write: begins anew
 *	0x62a  u8   1: it ran out before this boot; a write clears
 *
 * Calls under the machine's lock.
 */
#ifndef HV_WATCHDOG_H
#define HV_WATCHDOG_H

#include <stdbool.h>

#define HV_WATCHDOG_TIMEOUT   0x620
#define HV_WATCHDOG_LEFT      0x624
#define HV_WATCHDOG_CONTROL   0x628
#define HV_WATCHDOG_AGAIN     0x629
#define HV_WATCHDOG_STATUS    0x62a
#define HV_WATCHDOG_PERIOD_MS 1000
#define HV_WATCHDOG_COUNT_MAX 86400

struct hv_bus;
struct hv_state_reader;
struct hv_state_writer;
struct hv_watchdog;

/* `ran_out`: the status that a guest finds. `expired` is called once; then it is stopped. */
int hv_watchdog_create(struct hv_watchdog **out, struct hv_bus *ports, bool ran_out,
		       void (*expired)(void *opaque), void *opaque);
void hv_watchdog_destroy(struct hv_watchdog *watchdog);
/* Readable each second while it counts: then hv_watchdog_tick. Not looked at while the guest stands still. */
int hv_watchdog_fd(const struct hv_watchdog *watchdog);
void hv_watchdog_tick(struct hv_watchdog *watchdog);

/* Section "watchdog". */
void hv_watchdog_save(const struct hv_watchdog *watchdog, struct hv_state_writer *w);
int hv_watchdog_load(struct hv_watchdog *watchdog, struct hv_state_reader *r);

#endif
