// SPDX-License-Identifier: Apache-2.0
/*
 * pci.h: one PCI bus behind a host bridge, configuration mechanism 1 (ports 0xcf8, 0xcfc).
 *
 * Slot 0 is the bridge, with i440FX's identity, because that is the one SeaBIOS and OVMF know.
 * A function has at most HV_PCI_BARS regions; they come with addresses given out here, so that a
 * kernel without firmware finds them placed, and may be moved or switched off by the guest. All
 * calls under the machine's lock. Source: PCI Local Bus Specification 3.0.
 */
#ifndef HV_PCI_H
#define HV_PCI_H

#include <stdbool.h>
#include <stdint.h>

#include "hv/bus.h"

#define HV_PCI_SLOTS	  32
#define HV_PCI_BARS	  2
#define HV_PCI_MMIO_START 0xc0000000u /* to the last byte: the window for memory BARs */
#define HV_PCI_MMIO_LAST  0xfebfffffu
#define HV_PCI_IO_START	  0xc000u

struct hv_pci;
struct hv_pci_function;
struct hv_state_reader;
struct hv_state_writer;

struct hv_pci_bar {
	bool io;
	uint64_t bytes;		 /* a power of two; 0: no such BAR */
	uint64_t address;	 /* where it answers now, 0: nowhere */
	struct hv_region region; /* ops and opaque set by the device */
};

/* A device's side of a function. Embed it in the device. */
struct hv_pci_function {
	uint8_t config[256];
	uint8_t writable[256]; /* bits of config that the guest may change */
	struct hv_pci_bar bars[HV_PCI_BARS];
	/* May be NULL. A BAR answers at bars[i].address now, before at `old` (0: nowhere). */
	void (*bar_moved)(struct hv_pci_function *f, unsigned bar, uint64_t old);
	/* May be NULL. The guest wrote to these bytes of config; they hold the new value. */
	void (*config_written)(struct hv_pci_function *f, unsigned offset, unsigned size);
	/* May be NULL. Bytes are about to be read; 0 or the value to answer instead in *value. */
	bool (*config_read)(struct hv_pci_function *f, unsigned offset, unsigned size,
			    uint32_t *value);
	struct hv_pci *pci; /* private */
	unsigned cap_last;  /* private: the last capability, 0: none */
	unsigned cap_next;  /* private: free from here */
};

void hv_pci_create(struct hv_pci **out, struct hv_bus *ports, struct hv_bus *mmio);
void hv_pci_destroy(struct hv_pci *pci);

struct hv_pci_identity {
	uint16_t vendor, device, subsystem_vendor, subsystem;
	uint32_t class_code; /* 24 bits */
	uint8_t revision;
};
/* Clears and fills the function; then set BARs and capabilities; then add it. */
void hv_pci_function_init(struct hv_pci_function *f, const struct hv_pci_identity *id);
/* Appends a capability; returns its offset. `bytes` with id and link. */
unsigned hv_pci_add_capability(struct hv_pci_function *f, uint8_t id, const void *body,
			       unsigned bytes);
/* Places its BARs and shows it to the guest at `slot`. Borrows it until hv_pci_remove. */
void hv_pci_add(struct hv_pci *pci, struct hv_pci_function *f, unsigned slot);
void hv_pci_remove(struct hv_pci_function *f);

/* Section "pci": the address port and the bridge. */
void hv_pci_save(const struct hv_pci *pci, struct hv_state_writer *w);
int hv_pci_load(struct hv_pci *pci, struct hv_state_reader *r);
/*
 * A function's configuration space, as part of its device's section. What the guest cannot write
 * must be what it is here: -EINVAL when another device was saved. BARs are moved.
 */
void hv_pci_function_save(const struct hv_pci_function *f, struct hv_state_writer *w);
int hv_pci_function_load(struct hv_pci_function *f, struct hv_state_reader *r);

#endif
