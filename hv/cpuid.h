// SPDX-License-Identifier: Apache-2.0
/*
 * cpuid.h: what processor a guest sees: what this KVM supports, with a topology of one socket of N
 * cores without threads, and without what a guest must not see (performance counters, an "invariant"
 * clock, neither of which survives a move to another host; virtualisation of its own unless that is
 * switched on), and without what a
 * baseline of the VM's has not (base/cpu_table.h): so unlike hosts can agree.
 */
#ifndef HV_CPUID_H
#define HV_CPUID_H

#include <stdbool.h>
#include <stdint.h>
#include <linux/kvm.h>

#include "base/cpu_table.h"

#define HV_CPUID_MAX 256 /* leaves */

struct hv_cpuid {
	/* Laid out as struct kvm_cpuid2, whose array has no size of its own. */
	uint32_t nent, padding;
	struct kvm_cpuid_entry2 entries[HV_CPUID_MAX];
};

/* Asks /dev/kvm once for all vCPUs of a machine. */
int hv_cpuid_read(struct hv_cpuid *out, int kvm_fd);
/* Takes away what `baseline` has not. -ENOTSUP: it is of another maker's processor. */
int hv_cpuid_mask(struct hv_cpuid *host, const struct cpu_table *baseline);
/* A copy with no more room than its leaves take; to be freed, not to be assigned as a whole. */
struct hv_cpuid *hv_cpuid_copy(const struct hv_cpuid *cpuid);
/* The leaves as a table, without feature MSRs; `out` zeroed. */
int hv_cpuid_table(const struct hv_cpuid *cpuid, struct cpu_table *out);
/* The leaves as processor `index` of `cpus` shows them; `nested`: with VMX or SVM, where KVM offers it. */
void hv_cpuid_for(const struct hv_cpuid *host, struct hv_cpuid *out, unsigned index, unsigned cpus,
		  bool nested);

#endif
