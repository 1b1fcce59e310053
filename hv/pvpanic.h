// SPDX-License-Identifier: Apache-2.0
/*
 * pvpanic.h: how a guest says that it panicked (PCI 1b36:0011; Linux: pvpanic-pci, a module).
 * One byte: reads say what is understood, writes what happened; bit 0 panicked, bit 1 a crash
 * kernel was started. Source: docs/specs/pvpanic of QEMU.
 */
#ifndef HV_PVPANIC_H
#define HV_PVPANIC_H

struct hv_pci;
struct hv_pvpanic;
struct hv_state_reader;
struct hv_state_writer;

/* `panicked` is called under the machine's lock; the guest goes on. */
void hv_pvpanic_create(struct hv_pvpanic **out, struct hv_pci *pci, unsigned slot,
		       void (*panicked)(void *opaque), void *opaque);
void hv_pvpanic_destroy(struct hv_pvpanic *pvpanic);

/* Section "pvpanic". -EINVAL with words: it is none of ours. */
void hv_pvpanic_save(const struct hv_pvpanic *pvpanic, struct hv_state_writer *w);
int hv_pvpanic_load(struct hv_pvpanic *pvpanic, struct hv_state_reader *r);

#endif
