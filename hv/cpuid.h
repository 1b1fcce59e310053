// SPDX-License-Identifier: Apache-2.0
/*
 * cpuid.h: what processor a guest sees: what this KVM supports, with a topology of one socket of N
 * cores without threads, and without what a guest must not see (nested virtualisation, performance
 * counters, an "invariant" clock: none of them survives a move to another host). A model and mask
 * for each VM come with migration; here is where they will apply.
 */
#ifndef HV_CPUID_H
#define HV_CPUID_H

#include <stdint.h>
#include <linux/kvm.h>

#define HV_CPUID_MAX 256 /* leaves */

struct hv_cpuid {
	/* Laid out as struct kvm_cpuid2, whose array has no size of its own. */
	uint32_t nent, padding;
	struct kvm_cpuid_entry2 entries[HV_CPUID_MAX];
};

/* Asks /dev/kvm once for all vCPUs of a machine. */
int hv_cpuid_read(struct hv_cpuid *out, int kvm_fd);
/* The leaves as processor `index` of `cpus` shows them. */
void hv_cpuid_for(const struct hv_cpuid *host, struct hv_cpuid *out, unsigned index, unsigned cpus);

#endif
