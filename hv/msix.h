// SPDX-License-Identifier: Apache-2.0
/*
 * msix.h: a function's MSI-X table, and which of its vectors may interrupt right now.
 *
 * Interrupts are raised through eventfds that KVM listens to. A masked vector's eventfd is simply
 * not connected; what it counts meanwhile becomes one interrupt when KVM is connected again, which
 * is just what a pending bit means. Source: PCI 3.0, 6.8.2. All calls under the machine's lock.
 */
#ifndef HV_MSIX_H
#define HV_MSIX_H

#include <stdint.h>

#include "hv/pci.h"

struct hv_kvm;
struct hv_state_reader;
struct hv_state_writer;

#define HV_MSIX_VECTORS	    20
#define HV_MSIX_TABLE_BYTES 4096 /* of the BAR, table and pending bits each */

struct hv_msix {
	struct hv_pci_function *function;
	struct hv_kvm *kvm;
	unsigned cap, n;
	struct {
		uint32_t word[4]; /* address low, high, data, control (bit 0: masked) */
		int gsi;
	} vector[HV_MSIX_VECTORS];
};

/*
 * Adds the capability: `n` vectors, the table at `offset` of `bar`, pending bits right behind it.
 * -ENOSPC when KVM has no interrupt routes left.
 */
int hv_msix_init(struct hv_msix *msix, struct hv_pci_function *function, struct hv_kvm *kvm,
		 unsigned n, unsigned bar, uint32_t offset);
/* The GSI that interrupts for `vector` now; -1: masked, off, or no such vector. */
int hv_msix_gsi(struct hv_msix *msix, uint16_t vector);
/* The table through its BAR; `offset` from the table's start, 4 or 8 bytes. */
uint64_t hv_msix_read(struct hv_msix *msix, uint64_t offset, unsigned size);
void hv_msix_write(struct hv_msix *msix, uint64_t offset, unsigned size, uint64_t value);

/* Parts of the transport's section; the caller connects interrupts afterwards. */
void hv_msix_save(const struct hv_msix *msix, struct hv_state_writer *w);
void hv_msix_load(struct hv_msix *msix, struct hv_state_reader *r);

#endif
