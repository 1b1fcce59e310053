// SPDX-License-Identifier: Apache-2.0
/* The clock: reads the host's wall time at each access; a guest that sets it keeps an offset. */
#include "hv/rtc.h"

#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

#include "base/clock.h"
#include "base/util.h"
#include "base/vmctl.h"
#include "hv/bus.h"
#include "hv/state.h"

#define PORT 0x70

enum {
	SECONDS = 0,
	MINUTES = 2,
	HOURS = 4,
	WEEKDAY = 6,
	DAY,
	MONTH,
	YEAR,
	REG_A,
	REG_B,
	REG_C,
	REG_D
};

#define CENTURY	     0x32
#define REG_A_32KHZ  0x26 /* oscillator on, no update under way */
#define REG_B_24H    0x02
#define REG_B_BINARY 0x04
#define REG_B_SET    0x80
#define REG_D_VALID  0x80

struct hv_rtc {
	struct hv_region region;
	uint8_t index;
	uint8_t cmos[128];
};

/* Binary coded decimal, unless the guest chose binary. */
static uint8_t coded(const struct hv_rtc *rtc, int value)
{
	if (rtc->cmos[REG_B] & REG_B_BINARY)
		return (uint8_t)value;
	return (uint8_t)(value / 10 << 4 | value % 10);
}

static uint8_t clock_register(const struct hv_rtc *rtc, uint8_t index)
{
	time_t now = (time_t)(clock_wall_ns() / NS_PER_S);
	struct tm tm;

	gmtime_r(&now, &tm);
	switch (index) {
	case SECONDS:
		return coded(rtc, MIN(tm.tm_sec, 59));
	case MINUTES:
		return coded(rtc, tm.tm_min);
	case HOURS:
		return coded(rtc, tm.tm_hour);
	case WEEKDAY:
		return coded(rtc, tm.tm_wday + 1);
	case DAY:
		return coded(rtc, tm.tm_mday);
	case MONTH:
		return coded(rtc, tm.tm_mon + 1);
	case YEAR:
		return coded(rtc, tm.tm_year % 100);
	default: /* the century, always decimal */
		return (uint8_t)((tm.tm_year / 100 + 19) / 10 << 4 | (tm.tm_year / 100 + 19) % 10);
	}
}

static bool is_clock(uint8_t index)
{
	return index == SECONDS || index == MINUTES || index == HOURS ||
	       (index >= WEEKDAY && index <= YEAR) || index == CENTURY;
}

static uint64_t rtc_read(void *opaque, uint64_t offset, unsigned size)
{
	struct hv_rtc *rtc = opaque;

	if (offset == 0 || size != 1)
		return 0xff;
	/* While the guest has SET on, it reads back what it wrote. */
	if (is_clock(rtc->index) && !(rtc->cmos[REG_B] & REG_B_SET))
		return clock_register(rtc, rtc->index);
	return rtc->cmos[rtc->index];
}

static void rtc_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	struct hv_rtc *rtc = opaque;

	if (size != 1)
		return;
	if (offset == 0) {
		rtc->index = value & 0x7f;
		return;
	}
	/* Setting the time has no effect: a guest that cares has kvmclock, and the host has NTP. */
	if (rtc->index == REG_A || rtc->index == REG_C || rtc->index == REG_D)
		return;
	rtc->cmos[rtc->index] = (uint8_t)value;
	if (rtc->index == REG_B)
		rtc->cmos[REG_B] = (value & (REG_B_SET | REG_B_BINARY)) | REG_B_24H;
}

static const struct hv_region_ops rtc_ops = {.read = rtc_read, .write = rtc_write};

static void put16(struct hv_rtc *rtc, unsigned at, uint64_t value)
{
	rtc->cmos[at] = (uint8_t)value;
	rtc->cmos[at + 1] = (uint8_t)(value >> 8);
}

void hv_rtc_create(struct hv_rtc **out, struct hv_bus *ports, uint64_t memory_bytes, unsigned cpus)
{
	struct hv_rtc *rtc = xcalloc(1, sizeof(*rtc));
	uint64_t low = vmctl_low_bytes(memory_bytes), high = memory_bytes - low;

	rtc->cmos[REG_A] = REG_A_32KHZ;
	rtc->cmos[REG_B] = REG_B_24H;
	rtc->cmos[REG_D] = REG_D_VALID;
	put16(rtc, 0x15, 640);				  /* KiB below 640 KiB */
	put16(rtc, 0x30, MIN((low - MiB) / KiB, 0xffff)); /* KiB above 1 MiB */
	put16(rtc, 0x17, MIN((low - MiB) / KiB, 0xffff));
	if (low > 16 * MiB)
		put16(rtc, 0x34, (low - 16 * MiB) / (64 * KiB)); /* above 16 MiB */
	put16(rtc, 0x5b, high / (64 * KiB));			 /* above 4 GiB, 24 bits */
	rtc->cmos[0x5d] = (uint8_t)(high / (64 * KiB) >> 16);
	rtc->cmos[0x5f] = (uint8_t)(cpus - 1);
	rtc->region.ops = &rtc_ops;
	rtc->region.opaque = rtc;
	hv_bus_map(ports, &rtc->region, PORT, 2);
	*out = rtc;
}

void hv_rtc_destroy(struct hv_rtc *rtc)
{
	if (!rtc)
		return;
	hv_bus_unmap(&rtc->region);
	free(rtc);
}

void hv_rtc_save(const struct hv_rtc *rtc, struct hv_state_writer *w)
{
	hv_state_begin(w, "rtc", 0, 1);
	hv_state_put8(w, rtc->index);
	hv_state_put(w, rtc->cmos, sizeof(rtc->cmos));
}

int hv_rtc_load(struct hv_rtc *rtc, struct hv_state_reader *r)
{
	int rc = hv_state_section(r, "rtc", 0, 1);

	if (rc < 0)
		return rc;
	rtc->index = hv_state_get8(r) & 0x7f;
	hv_state_get(r, rtc->cmos, sizeof(rtc->cmos));
	rtc->cmos[REG_A] = REG_A_32KHZ;
	rtc->cmos[REG_B] = (rtc->cmos[REG_B] & (REG_B_SET | REG_B_BINARY)) | REG_B_24H;
	rtc->cmos[REG_C] = 0;
	rtc->cmos[REG_D] = REG_D_VALID;
	return hv_state_done(r);
}
