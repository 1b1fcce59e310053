// SPDX-License-Identifier: Apache-2.0
/*
 * kvm.h: one virtual machine of the kernel's: memory slots, interrupt chips, interrupt routes,
 * descriptors that the kernel signals (ioeventfd) or listens to (irqfd).
 *
 * A guest that reboots gets a new one of these; so nothing here is ever reset. Calls are made
 * under the machine's lock. Source: Documentation/virt/kvm/api.rst.
 */
#ifndef HV_KVM_H
#define HV_KVM_H

#include <stdbool.h>
#include <stdint.h>

struct hv_gmem;
struct hv_kvm;

/* Fails with words that name the missing ability, when this KVM cannot run our machines. */
int hv_kvm_create(struct hv_kvm **out, int kvm_fd, const struct hv_gmem *gmem);
void hv_kvm_destroy(struct hv_kvm *kvm);

int hv_kvm_fd(const struct hv_kvm *kvm);	     /* /dev/kvm itself, borrowed */
int hv_kvm_vm_fd(const struct hv_kvm *kvm);	     /* the machine, borrowed */
unsigned hv_kvm_run_bytes(const struct hv_kvm *kvm); /* of each vCPU's shared page */

/*
 * Shows `bytes` of memory at guest address `from` a second time, read-only, right below 4 GiB: where a
 * processor begins. Writes there go nowhere. -ENOTSUP: KVM cannot.
 */
int hv_kvm_map_rom(struct hv_kvm *kvm, const struct hv_gmem *gmem, uint64_t from, uint64_t bytes);

/* ISA and IOAPIC lines, GSI 0 to 23. */
void hv_kvm_irq_line(struct hv_kvm *kvm, unsigned gsi, bool level);

/* A GSI of its own for one MSI-X vector; routes nowhere until hv_kvm_msi_route. -ENOSPC. */
int hv_kvm_gsi_alloc(struct hv_kvm *kvm);
int hv_kvm_msi_route(struct hv_kvm *kvm, unsigned gsi, uint64_t address, uint32_t data);

/* `fd`'s signals become interrupts on `gsi`; one that waits already becomes one at once. */
int hv_kvm_irqfd(struct hv_kvm *kvm, int fd, unsigned gsi, bool on);

/*
 * A guest's write of 2 bytes to an I/O port or address signals `fd`, without an exit. `match`: only
 * writes of this value; -1: all.
 */
int hv_kvm_ioeventfd(struct hv_kvm *kvm, int fd, bool pio, uint64_t address, int match, bool on);

/*
 * KVM's own log of pages that processors wrote. On: it starts clean. hv_kvm_log_sync moves what it
 * holds into `gmem`'s log; a page written later is in the next one.
 */
int hv_kvm_log(struct hv_kvm *kvm, const struct hv_gmem *gmem, bool on);
int hv_kvm_log_sync(struct hv_kvm *kvm, struct hv_gmem *gmem);

#endif
