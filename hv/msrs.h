// SPDX-License-Identifier: Apache-2.0
/*
 * msrs.h: the MSRs that are a processor's state: those of KVM's list that a guest can have set, and
 * that have a meaning on another host. Performance counters, debug stores and the like are left
 * out: guests have none (hv/cpuid.h). Sources: Intel SDM volume 4, AMD APM volume 2 appendix A,
 * Documentation/virt/kvm/x86/msr.rst.
 */
#ifndef HV_MSRS_H
#define HV_MSRS_H

#include <stdbool.h>
#include <stdint.h>

#define HV_MSRS_MAX		 512
#define HV_MSR_TSC		 0x10
#define HV_MSR_ARCH_CAPABILITIES 0x10a
#define HV_MSR_TSC_DEADLINE	 0x6e0

struct hv_msrs {
	unsigned n;
	uint32_t index[HV_MSRS_MAX]; /* HV_MSR_TSC first, HV_MSR_TSC_DEADLINE last */
};

/* What this KVM has of them. */
int hv_msrs_list(struct hv_msrs *out, int kvm_fd);
/* An MSR that a saved state may hold. */
bool hv_msrs_known(uint32_t index);

/* One MSR of `fd`, a vCPU's or, for features, /dev/kvm's. 0, or -errno without words: not to be had. */
int hv_msr_get(int fd, uint32_t index, uint64_t *value);
int hv_msr_set(int fd, uint32_t index, uint64_t value);

#endif
