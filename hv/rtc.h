// SPDX-License-Identifier: Apache-2.0
/*
 * rtc.h: the clock and its CMOS memory (ports 0x70, 0x71): wall time in UTC, the memory sizes and
 * the number of processors that firmware reads. Its interrupt is not there.
 * Source: MC146818A data sheet; memory sizes as SeaBIOS reads them (src/fw/paravirt.c).
 */
#ifndef HV_RTC_H
#define HV_RTC_H

#include <stdint.h>

struct hv_bus;
struct hv_rtc;
struct hv_state_reader;
struct hv_state_writer;

void hv_rtc_create(struct hv_rtc **out, struct hv_bus *ports, uint64_t memory_bytes, unsigned cpus);
void hv_rtc_destroy(struct hv_rtc *rtc);

/* Section "rtc". -EINVAL with words: it is none of ours. */
void hv_rtc_save(const struct hv_rtc *rtc, struct hv_state_writer *w);
int hv_rtc_load(struct hv_rtc *rtc, struct hv_state_reader *r);

#endif
