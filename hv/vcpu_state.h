// SPDX-License-Identifier: Apache-2.0
/*
 * vcpu_state.h: saving and loading one processor. It stands still, every exit is complete
 * (hv/vcpu.h). The order of the parts is KVM's demand, see the .c.
 */
#ifndef HV_VCPU_STATE_H
#define HV_VCPU_STATE_H

#include <stdint.h>

struct hv_cpuid;
struct hv_kvm;
struct hv_state_reader;
struct hv_state_writer;

struct hv_vcpu_state {
	struct hv_kvm *kvm;
	int fd; /* the vCPU's */
	unsigned index;
	struct hv_cpuid *cpuid; /* its leaves; a load frees and replaces them */
};

/* -EBUSY, in words: the guest has guests of its own at this moment. It stands still. */
int hv_vcpu_can_save(const struct hv_vcpu_state *v);
/* Section "vcpu"; -EBUSY as above. */
int hv_vcpu_save(const struct hv_vcpu_state *v, struct hv_state_writer *w);
/*
 * `host`: what this host would show the processor; -ENOTSUP names what the saved one has beyond it.
 * `elapsed_ns`: its time stamp counter goes on by so much.
 */
int hv_vcpu_load(struct hv_vcpu_state *v, struct hv_state_reader *r, const struct hv_cpuid *host,
		 uint64_t elapsed_ns);

#endif
