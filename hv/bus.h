// SPDX-License-Identifier: Apache-2.0
/*
 * bus.h: which device answers at an I/O port or a guest address that is no memory.
 *
 * Regions may come and go while the guest runs (PCI BARs); everything happens under the machine's
 * lock. What nobody answers reads as all ones and swallows writes, as on a PC.
 */
#ifndef HV_BUS_H
#define HV_BUS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/util.h"

/* A device's answers. `offset` is from the region's start, `size` 1, 2, 4 or 8 bytes. */
struct hv_region_ops {
	uint64_t (*read)(void *opaque, uint64_t offset, unsigned size);
	void (*write)(void *opaque, uint64_t offset, unsigned size, uint64_t value);
};

/* Owned by the device, linked into the bus while it is mapped. */
struct hv_region {
	const struct hv_region_ops *ops;
	void *opaque;
	uint64_t base, bytes;
	struct list link; /* private */
	bool mapped;	  /* private */
};

struct hv_bus {
	struct list regions;
};

void hv_bus_init(struct hv_bus *bus);
/* Where two overlap the one mapped last answers. */
void hv_bus_map(struct hv_bus *bus, struct hv_region *region, uint64_t base, uint64_t bytes);
void hv_bus_unmap(struct hv_region *region);

uint64_t hv_bus_read(struct hv_bus *bus, uint64_t address, unsigned size);
void hv_bus_write(struct hv_bus *bus, uint64_t address, unsigned size, uint64_t value);

#endif
