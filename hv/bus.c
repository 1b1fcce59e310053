// SPDX-License-Identifier: Apache-2.0
/* A list of regions, newest first: a few dozen at most, and the hot paths (kicks) never come here. */
#include "hv/bus.h"

void hv_bus_init(struct hv_bus *bus)
{
	list_init(&bus->regions);
}

void hv_bus_map(struct hv_bus *bus, struct hv_region *region, uint64_t base, uint64_t bytes)
{
	MUST(!region->mapped && bytes && base + bytes > base);
	region->base = base;
	region->bytes = bytes;
	region->mapped = true;
	list_add(&bus->regions, &region->link);
}

void hv_bus_unmap(struct hv_region *region)
{
	if (!region->mapped)
		return;
	region->mapped = false;
	list_del(&region->link);
}

/* An access that runs over a region's end belongs to nobody. */
static struct hv_region *find(struct hv_bus *bus, uint64_t address, unsigned size)
{
	struct hv_region *r;

	list_for_each (r, &bus->regions, link) {
		if (address >= r->base && address - r->base < r->bytes &&
		    size <= r->bytes - (address - r->base))
			return r;
	}
	return NULL;
}

uint64_t hv_bus_read(struct hv_bus *bus, uint64_t address, unsigned size)
{
	struct hv_region *r = find(bus, address, size);
	uint64_t ones = size >= 8 ? UINT64_MAX : (1ULL << size * 8) - 1;

	if (!r)
		return ones;
	return r->ops->read(r->opaque, address - r->base, size) & ones;
}

void hv_bus_write(struct hv_bus *bus, uint64_t address, unsigned size, uint64_t value)
{
	struct hv_region *r = find(bus, address, size);

	if (r)
		r->ops->write(r->opaque, address - r->base, size, value);
}
