// SPDX-License-Identifier: Apache-2.0
/*
 * virtio_pci.h: a virtio device as a PCI function (virtio 1.2, 4.1), modern only, MSI-X only.
 *
 * BAR 0, I/O: queue notify, the queue's number is the value written; first in the list of
 * capabilities, because an OUT needs no instruction decoding in the host. BAR 1, memory: common
 * configuration, ISR, device configuration, notify again, MSI-X. Kicks are ioeventfds, interrupts
 * irqfds: neither passes through this process.
 */
#ifndef HV_VIRTIO_PCI_H
#define HV_VIRTIO_PCI_H

struct hv_kvm;
struct hv_pci;
struct hv_state_reader;
struct hv_state_writer;
struct hv_virtio;
struct hv_virtio_pci;

/* Puts `device` (borrowed) into `slot`. -errno when eventfds or interrupt routes are not to be had. */
int hv_virtio_pci_create(struct hv_virtio_pci **out, struct hv_virtio *device, struct hv_pci *pci,
			 struct hv_kvm *kvm, unsigned slot);
void hv_virtio_pci_destroy(struct hv_virtio_pci *vpci);

/* Section "virtio": the transport's registers and queues, not what the device itself knows. */
void hv_virtio_pci_save(const struct hv_virtio_pci *vpci, unsigned instance,
			struct hv_state_writer *w);
int hv_virtio_pci_load(struct hv_virtio_pci *vpci, unsigned instance, struct hv_state_reader *r);
/*
 * After everything was loaded: one interrupt for each queue at work, and one for the configuration,
 * since one that was on its way when the state was saved is in nobody's state. One too many is allowed.
 */
void hv_virtio_pci_call_all(struct hv_virtio_pci *vpci);

#endif
