// SPDX-License-Identifier: Apache-2.0
/*
 * PCI configuration space. The guest programs what it likes; a BAR that it points outside of its
 * window (over memory, over the interrupt controllers) answers nowhere until it is moved back.
 */
#include "hv/pci.h"

#include <linux/pci_regs.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "hv/state.h"

#define CONFIG_ADDRESS 0xcf8
#define CONFIG_DATA    0xcfc
#define IO_LAST	       0xffffu
#define PAM_FIRST      0x59 /* i440FX: memory attributes of the BIOS area, stored and read back */
#define PAM_LAST       0x5f
#define SMRAM	       0x72

struct hv_pci {
	struct hv_bus *ports, *mmio;
	struct hv_region address_region, data_region;
	uint32_t address;
	struct hv_pci_function *slots[HV_PCI_SLOTS];
	struct hv_pci_function bridge;
	uint64_t io_next, mmio_next; /* where the next BAR is placed */
};

static uint32_t get(const struct hv_pci_function *f, unsigned offset, unsigned size)
{
	uint32_t v = 0;

	for (unsigned i = 0; i < size; i++)
		v |= (uint32_t)f->config[offset + i] << i * 8;
	return v;
}

static void put(uint8_t *bytes, unsigned offset, unsigned size, uint32_t value)
{
	for (unsigned i = 0; i < size; i++)
		bytes[offset + i] = (uint8_t)(value >> i * 8);
}

/* --- BARs -------------------------------------------------------------------------------------- */

/* Where a BAR answers by the function's registers as they are; 0: nowhere. */
static uint64_t bar_target(const struct hv_pci_function *f, unsigned i)
{
	const struct hv_pci_bar *bar = &f->bars[i];
	uint32_t value = get(f, PCI_BASE_ADDRESS_0 + i * 4, 4);
	uint16_t command = (uint16_t)get(f, PCI_COMMAND, 2);
	uint64_t first = bar->io ? value & PCI_BASE_ADDRESS_IO_MASK
				 : value & PCI_BASE_ADDRESS_MEM_MASK;
	uint64_t last = first + bar->bytes - 1;

	if (!(command & (bar->io ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY)) || !first)
		return 0;
	if (bar->io)
		return last <= IO_LAST ? first : 0;
	return first >= HV_PCI_MMIO_START && last <= HV_PCI_MMIO_LAST ? first : 0;
}

static void update_bars(struct hv_pci_function *f)
{
	for (unsigned i = 0; i < HV_PCI_BARS; i++) {
		struct hv_pci_bar *bar = &f->bars[i];
		uint64_t old = bar->address, now = bar->bytes ? bar_target(f, i) : 0;

		if (now == old)
			continue;
		hv_bus_unmap(&bar->region);
		bar->address = now;
		if (now)
			hv_bus_map(bar->io ? f->pci->ports : f->pci->mmio, &bar->region, now,
				   bar->bytes);
		if (f->bar_moved)
			f->bar_moved(f, i, old);
	}
}

static void place_bar(struct hv_pci *pci, struct hv_pci_function *f, unsigned i)
{
	struct hv_pci_bar *bar = &f->bars[i];
	unsigned at = PCI_BASE_ADDRESS_0 + i * 4;
	uint64_t *next = bar->io ? &pci->io_next : &pci->mmio_next;

	if (!bar->bytes)
		return;
	*next = ROUND_UP(*next, bar->bytes);
	MUST(*next + bar->bytes - 1 <= (bar->io ? IO_LAST : HV_PCI_MMIO_LAST));
	put(f->config, at, 4, (uint32_t)*next | (bar->io ? PCI_BASE_ADDRESS_SPACE_IO : 0));
	put(f->writable, at, 4, ~(uint32_t)(bar->bytes - 1));
	*next += bar->bytes;
}

/* --- the two ports ----------------------------------------------------------------------------- */

/* The function that 0xcf8 names, and the register; NULL: there is none. */
static struct hv_pci_function *target(const struct hv_pci *pci, uint64_t offset, unsigned size,
				      unsigned *reg)
{
	unsigned slot = pci->address >> 11 & 0x1f;

	*reg = (pci->address & 0xfc) + (unsigned)offset;
	if (!(pci->address & 1u << 31) || pci->address >> 16 & 0xff || pci->address >> 8 & 7 ||
	    *reg + size > 256)
		return NULL;
	return pci->slots[slot];
}

static uint64_t data_read(void *opaque, uint64_t offset, unsigned size)
{
	struct hv_pci *pci = opaque;
	unsigned reg;
	struct hv_pci_function *f = target(pci, offset, size, &reg);
	uint32_t value;

	if (!f || size > 4)
		return UINT64_MAX;
	if (f->config_read && f->config_read(f, reg, size, &value))
		return value;
	return get(f, reg, size);
}

static void data_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	struct hv_pci *pci = opaque;
	unsigned reg;
	struct hv_pci_function *f = target(pci, offset, size, &reg);

	if (!f || size > 4)
		return;
	for (unsigned i = 0; i < size; i++) {
		uint8_t mask = f->writable[reg + i], byte = (uint8_t)(value >> i * 8);
		f->config[reg + i] = (f->config[reg + i] & ~mask) | (byte & mask);
	}
	update_bars(f);
	if (f->config_written)
		f->config_written(f, reg, size);
}

static uint64_t address_read(void *opaque, uint64_t offset, unsigned size)
{
	struct hv_pci *pci = opaque;

	(void)size;
	return pci->address >> offset * 8;
}

/* Only as a whole: single bytes here belong to the reset port. */
static void address_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	struct hv_pci *pci = opaque;

	if (offset == 0 && size == 4)
		pci->address = (uint32_t)value & 0x80fffffc;
}

static const struct hv_region_ops address_ops = {.read = address_read, .write = address_write};
static const struct hv_region_ops data_ops = {.read = data_read, .write = data_write};

/* --- functions --------------------------------------------------------------------------------- */

void hv_pci_function_init(struct hv_pci_function *f, const struct hv_pci_identity *id)
{
	memset(f, 0, sizeof(*f));
	put(f->config, PCI_VENDOR_ID, 2, id->vendor);
	put(f->config, PCI_DEVICE_ID, 2, id->device);
	put(f->config, PCI_SUBSYSTEM_VENDOR_ID, 2, id->subsystem_vendor);
	put(f->config, PCI_SUBSYSTEM_ID, 2, id->subsystem);
	put(f->config, PCI_CLASS_REVISION, 4, id->class_code << 8 | id->revision);
	put(f->writable, PCI_COMMAND, 2,
	    PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_INTX_DISABLE);
	f->writable[PCI_CACHE_LINE_SIZE] = 0xff;
	f->writable[PCI_LATENCY_TIMER] = 0xff;
	f->writable[PCI_INTERRUPT_LINE] = 0xff;
	f->cap_next = 0x40;
}

unsigned hv_pci_add_capability(struct hv_pci_function *f, uint8_t id, const void *body,
			       unsigned bytes)
{
	unsigned at = f->cap_next;

	MUST(bytes >= 2 && at + bytes <= 256);
	memcpy(f->config + at, body, bytes);
	f->config[at] = id;
	f->config[at + 1] = 0;
	if (f->cap_last)
		f->config[f->cap_last + 1] = (uint8_t)at;
	else
		f->config[PCI_CAPABILITY_LIST] = (uint8_t)at;
	f->config[PCI_STATUS] |= PCI_STATUS_CAP_LIST;
	f->cap_last = at;
	f->cap_next = ROUND_UP(at + bytes, 4);
	return at;
}

void hv_pci_add(struct hv_pci *pci, struct hv_pci_function *f, unsigned slot)
{
	MUST(slot < HV_PCI_SLOTS && !pci->slots[slot]);
	f->pci = pci;
	for (unsigned i = 0; i < HV_PCI_BARS; i++)
		place_bar(pci, f, i);
	pci->slots[slot] = f;
}

void hv_pci_remove(struct hv_pci_function *f)
{
	if (!f->pci)
		return;
	for (unsigned i = 0; i < HV_PCI_SLOTS; i++) {
		if (f->pci->slots[i] == f)
			f->pci->slots[i] = NULL;
	}
	put(f->config, PCI_COMMAND, 2, 0);
	update_bars(f);
	f->pci = NULL;
}

static void add_bridge(struct hv_pci *pci)
{
	static const struct hv_pci_identity i440fx = {
		.vendor = 0x8086,
		.device = 0x1237,
		.subsystem_vendor = 0x1af4,
		.subsystem = 0x1100,
		.class_code = 0x060000,
		.revision = 2,
	};

	hv_pci_function_init(&pci->bridge, &i440fx);
	memset(pci->bridge.writable + PAM_FIRST, 0xff, PAM_LAST - PAM_FIRST + 1);
	pci->bridge.writable[SMRAM] = 0xff;
	hv_pci_add(pci, &pci->bridge, 0);
}

void hv_pci_create(struct hv_pci **out, struct hv_bus *ports, struct hv_bus *mmio)
{
	struct hv_pci *pci = xcalloc(1, sizeof(*pci));

	pci->ports = ports;
	pci->mmio = mmio;
	pci->io_next = HV_PCI_IO_START;
	pci->mmio_next = HV_PCI_MMIO_START;
	pci->address_region.ops = &address_ops;
	pci->address_region.opaque = pci;
	pci->data_region.ops = &data_ops;
	pci->data_region.opaque = pci;
	hv_bus_map(ports, &pci->address_region, CONFIG_ADDRESS, 4);
	hv_bus_map(ports, &pci->data_region, CONFIG_DATA, 4);
	add_bridge(pci);
	*out = pci;
}

void hv_pci_destroy(struct hv_pci *pci)
{
	if (!pci)
		return;
	hv_bus_unmap(&pci->address_region);
	hv_bus_unmap(&pci->data_region);
	free(pci);
}

/* --- saved state ------------------------------------------------------------------------------- */

void hv_pci_function_save(const struct hv_pci_function *f, struct hv_state_writer *w)
{
	hv_state_put(w, f->config, sizeof(f->config));
}

int hv_pci_function_load(struct hv_pci_function *f, struct hv_state_reader *r)
{
	uint8_t config[sizeof(f->config)];

	hv_state_get(r, config, sizeof(config));
	for (unsigned i = 0; i < sizeof(config); i++) {
		if ((config[i] ^ f->config[i]) & ~f->writable[i])
			return hv_state_refuse(r, "it was saved by another device");
	}
	memcpy(f->config, config, sizeof(config));
	update_bars(f);
	return 0;
}

void hv_pci_save(const struct hv_pci *pci, struct hv_state_writer *w)
{
	hv_state_begin(w, "pci", 0, 1);
	hv_state_put32(w, pci->address);
	hv_pci_function_save(&pci->bridge, w);
}

int hv_pci_load(struct hv_pci *pci, struct hv_state_reader *r)
{
	int rc = hv_state_section(r, "pci", 0, 1);

	if (rc < 0)
		return rc;
	pci->address = hv_state_get32(r) & 0x80fffffc;
	rc = hv_pci_function_load(&pci->bridge, r);
	return rc ? rc : hv_state_done(r);
}
