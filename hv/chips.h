// SPDX-License-Identifier: Apache-2.0
/*
 * chips.h: saving and loading what KVM keeps for the whole machine: interrupt controllers, timer,
 * the guest's clock. Processors stand still meanwhile. Source: Documentation/virt/kvm/api.rst.
 */
#ifndef HV_CHIPS_H
#define HV_CHIPS_H

#include <stdint.h>

struct hv_kvm;
struct hv_state_reader;
struct hv_state_writer;

/* Sections "pic" (two instances), "ioapic", "pit", "clock". */
int hv_chips_save(struct hv_kvm *kvm, struct hv_state_writer *w);
/* The guest's clock goes on by `elapsed_ns`, as the processors' time stamp counters do. */
int hv_chips_load(struct hv_kvm *kvm, struct hv_state_reader *r, uint64_t elapsed_ns);

#endif
