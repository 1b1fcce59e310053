// SPDX-License-Identifier: Apache-2.0
/* The MSI-X table; routes are told to KVM when a vector is asked for, not at each word written. */
#include "hv/msix.h"

#include <linux/pci_regs.h>
#include <string.h>

#include "base/util.h"
#include "hv/kvm.h"
#include "hv/state.h"

#define MASKED 1u

int hv_msix_init(struct hv_msix *msix, struct hv_pci_function *function, struct hv_kvm *kvm,
		 unsigned n, unsigned bar, uint32_t offset)
{
	uint8_t cap[12] = {0};
	const le16 control = le16_of((uint16_t)(n - 1));
	const le32 table = le32_of(offset | bar),
		   pba = le32_of((offset + HV_MSIX_TABLE_BYTES) | bar);

	MUST(n >= 1 && n <= HV_MSIX_VECTORS);
	memset(msix, 0, sizeof(*msix));
	msix->function = function;
	msix->kvm = kvm;
	msix->n = n;
	memcpy(cap + PCI_MSIX_FLAGS, &control, 2);
	memcpy(cap + PCI_MSIX_TABLE, &table, 4);
	memcpy(cap + PCI_MSIX_PBA, &pba, 4);
	msix->cap = hv_pci_add_capability(function, PCI_CAP_ID_MSIX, cap, sizeof(cap));
	function->writable[msix->cap + PCI_MSIX_FLAGS + 1] =
		(PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL) >> 8;
	for (unsigned i = 0; i < n; i++) {
		msix->vector[i].word[3] = MASKED;
		msix->vector[i].gsi = hv_kvm_gsi_alloc(kvm);
		if (msix->vector[i].gsi < 0)
			return msix->vector[i].gsi;
	}
	return 0;
}

int hv_msix_gsi(struct hv_msix *msix, uint16_t vector)
{
	uint8_t flags = msix->function->config[msix->cap + PCI_MSIX_FLAGS + 1];

	if (!(flags & PCI_MSIX_FLAGS_ENABLE >> 8) || flags & PCI_MSIX_FLAGS_MASKALL >> 8 ||
	    vector >= msix->n || msix->vector[vector].word[3] & MASKED)
		return -1;
	const uint32_t *w = msix->vector[vector].word;
	unsigned gsi = (unsigned)msix->vector[vector].gsi;
	if (hv_kvm_msi_route(msix->kvm, gsi, (uint64_t)w[1] << 32 | w[0], w[2]))
		return -1;
	return (int)gsi;
}

uint64_t hv_msix_read(struct hv_msix *msix, uint64_t offset, unsigned size)
{
	if (size == 8)
		return hv_msix_read(msix, offset, 4) | hv_msix_read(msix, offset + 4, 4) << 32;
	/* Pending bits are never seen: see msix.h. */
	if (size != 4 || offset % 4 || offset / 16 >= msix->n)
		return 0;
	return msix->vector[offset / 16].word[offset / 4 % 4];
}

void hv_msix_write(struct hv_msix *msix, uint64_t offset, unsigned size, uint64_t value)
{
	if (size == 8) {
		hv_msix_write(msix, offset, 4, value);
		hv_msix_write(msix, offset + 4, 4, value >> 32);
		return;
	}
	if (size != 4 || offset % 4 || offset / 16 >= msix->n)
		return;
	unsigned word = offset / 4 % 4;
	msix->vector[offset / 16].word[word] = word == 3 ? value & MASKED : (uint32_t)value;
}

void hv_msix_save(const struct hv_msix *msix, struct hv_state_writer *w)
{
	for (unsigned i = 0; i < msix->n; i++) {
		for (unsigned word = 0; word < 4; word++)
			hv_state_put32(w, msix->vector[i].word[word]);
	}
}

void hv_msix_load(struct hv_msix *msix, struct hv_state_reader *r)
{
	for (unsigned i = 0; i < msix->n; i++) {
		for (unsigned word = 0; word < 4; word++)
			msix->vector[i].word[word] = hv_state_get32(r);
		msix->vector[i].word[3] &= MASKED;
	}
}
