// SPDX-License-Identifier: Apache-2.0
/*
 * boot.h: what a Linux kernel wants to find when it is entered at its 64-bit or 32-bit entry: zero page with
 * memory map and command line, page tables, a GDT. Places: base/linux_boot.h; the kernel's own
 * parts were put there by the daemon.
 */
#ifndef HV_BOOT_H
#define HV_BOOT_H

#include <stdint.h>

#include "hv/vcpu.h"

struct hv_gmem;
struct vmctl_config;

/* Fills `entry` for the first processor. -EINVAL with words when the setup header makes no sense. */
int hv_boot_linux(struct hv_gmem *gmem, const struct vmctl_config *config, uint64_t rsdp_gpa,
		  struct hv_entry *entry);

#endif
