// SPDX-License-Identifier: Apache-2.0
/* The countdown: a timer of the kernel's ticks each second while it runs, the main loop counts. */
#include "hv/watchdog.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/err.h"
#include "base/util.h"
#include "hv/bus.h"
#include "hv/state.h"

#define PORT  HV_WATCHDOG_TIMEOUT
#define PORTS 0x10

struct hv_watchdog {
	struct hv_region region;
	int timer_fd;
	uint32_t timeout, left;
	bool running, ran_out;
	void (*expired)(void *opaque);
	void *opaque;
};

/* The next tick is a whole second away. */
static void set_timer(struct hv_watchdog *d)
{
	const time_t period = d->running ? HV_WATCHDOG_PERIOD_MS / 1000 : 0;
	const struct itimerspec when = {.it_interval.tv_sec = period, .it_value.tv_sec = period};

	timerfd_settime(d->timer_fd, 0, &when, NULL);
}

static void begin(struct hv_watchdog *d)
{
	d->left = d->timeout;
	set_timer(d);
}

static uint64_t watchdog_read(void *opaque, uint64_t offset, unsigned size)
{
	const struct hv_watchdog *d = opaque;

	switch (PORT + offset) {
	case HV_WATCHDOG_TIMEOUT:
		return d->timeout;
	case HV_WATCHDOG_LEFT:
		return d->left;
	case HV_WATCHDOG_CONTROL:
		return d->running;
	case HV_WATCHDOG_STATUS:
		return d->ran_out;
	default:
		(void)size;
		return 0;
	}
}

static void watchdog_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	struct hv_watchdog *d = opaque;

	switch (PORT + offset) {
	case HV_WATCHDOG_TIMEOUT:
		if (size != 4 || value < 1 || value > HV_WATCHDOG_COUNT_MAX)
			break;
		d->timeout = (uint32_t)value;
		begin(d);
		break;
	case HV_WATCHDOG_CONTROL:
		d->running = value & 1;
		begin(d);
		break;
	case HV_WATCHDOG_AGAIN:
		begin(d);
		break;
	case HV_WATCHDOG_STATUS:
		d->ran_out = false;
		break;
	default:
		break;
	}
}

static const struct hv_region_ops watchdog_ops = {.read = watchdog_read, .write = watchdog_write};

int hv_watchdog_create(struct hv_watchdog **out, struct hv_bus *ports, bool ran_out,
		       void (*expired)(void *opaque), void *opaque)
{
	int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);

	if (fd < 0)
		return fail(-errno, "watchdog: no timer: %s", strerror(errno));
	struct hv_watchdog *d = xcalloc(1, sizeof(*d));
	d->timer_fd = fd;
	d->timeout = d->left = HV_WATCHDOG_COUNT_MAX;
	d->ran_out = ran_out;
	d->expired = expired;
	d->opaque = opaque;
	d->region.ops = &watchdog_ops;
	d->region.opaque = d;
	hv_bus_map(ports, &d->region, PORT, PORTS);
	*out = d;
	return 0;
}

void hv_watchdog_destroy(struct hv_watchdog *d)
{
	if (!d)
		return;
	hv_bus_unmap(&d->region);
	close(d->timer_fd);
	free(d);
}

int hv_watchdog_fd(const struct hv_watchdog *d)
{
	return d->timer_fd;
}

/* However many ticks are due: those of a time in which nobody looked, the guest stood still. */
void hv_watchdog_tick(struct hv_watchdog *d)
{
	uint64_t ticks;

	if (read(d->timer_fd, &ticks, sizeof(ticks)) != sizeof(ticks) || !d->running)
		return;
	if (d->left && --d->left)
		return;
	d->running = false;
	set_timer(d);
	d->expired(d->opaque);
}

/* --- saved state ------------------------------------------------------------------------------- */

void hv_watchdog_save(const struct hv_watchdog *d, struct hv_state_writer *w)
{
	hv_state_begin(w, "watchdog", 0, 1);
	hv_state_put32(w, d->timeout);
	hv_state_put32(w, d->left);
	hv_state_put8(w, d->running);
	hv_state_put8(w, d->ran_out);
}

int hv_watchdog_load(struct hv_watchdog *d, struct hv_state_reader *r)
{
	int rc = hv_state_section(r, "watchdog", 0, 1);

	if (rc < 0)
		return rc;
	d->timeout = hv_state_get32(r);
	d->left = hv_state_get32(r);
	d->running = hv_state_get8(r) & 1;
	d->ran_out = hv_state_get8(r) & 1;
	if (d->timeout < 1 || d->timeout > HV_WATCHDOG_COUNT_MAX || d->left > d->timeout)
		return hv_state_refuse(r, "a countdown that cannot be");
	set_timer(d);
	return hv_state_done(r);
}
