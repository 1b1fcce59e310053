// SPDX-License-Identifier: Apache-2.0
/*
 * console.h: what the guest said on its console and no daemon has taken yet, the last 64 KiB of
 * it. Older bytes give way and are counted. Under the machine's lock.
 */
#ifndef HV_CONSOLE_H
#define HV_CONSOLE_H

#include <stddef.h>
#include <stdint.h>

#include "base/vmctl.h"

struct hv_console {
	uint8_t ring[VMCTL_CONSOLE_KEPT];
	size_t head, n; /* ring[head..head+n), around */
	uint64_t lost;
};

void hv_console_put(struct hv_console *console, uint8_t byte);
/* Takes up to `max` bytes; returns how many. */
size_t hv_console_take(struct hv_console *console, uint8_t *dst, size_t max);

#endif
