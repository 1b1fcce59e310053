// SPDX-License-Identifier: Apache-2.0
/* Which MSRs travel. */
#include "hv/msrs.h"

#include <errno.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/err.h"
#include "base/util.h"

static const struct {
	uint32_t first, last;
} known[] = {
	{0x10, 0x10},		  /* TSC */
	{0x11, 0x12},		  /* kvmclock, old numbers */
	{0x3a, 0x3b},		  /* FEATURE_CONTROL, TSC_ADJUST */
	{0x48, 0x48},		  /* SPEC_CTRL */
	{0x10a, 0x10a},		  /* ARCH_CAPABILITIES */
	{0x122, 0x122},		  /* TSX_CTRL */
	{0x140, 0x140},		  /* MISC_FEATURES_ENABLES */
	{0x174, 0x176},		  /* SYSENTER */
	{0x17a, 0x17b},		  /* MCG_STATUS, MCG_CTL */
	{0x1a0, 0x1a0},		  /* MISC_ENABLE */
	{0x1c4, 0x1c5},		  /* XFD, XFD_ERR */
	{0x1d9, 0x1d9},		  /* DEBUGCTL */
	{0x1fc, 0x1fc},		  /* POWER_CTL */
	{0x200, 0x20f},		  /* MTRRs */
	{0x250, 0x250},		  /* fixed MTRRs */
	{0x258, 0x259},		  /* the same */
	{0x268, 0x26f},		  /* the same */
	{0x277, 0x277},		  /* PAT */
	{0x2ff, 0x2ff},		  /* MTRRdefType */
	{0x400, 0x47f},		  /* machine check banks */
	{0x6a0, 0x6a2},		  /* U_CET, S_CET */
	{0x6a4, 0x6a8},		  /* shadow stacks */
	{0x6e0, 0x6e0},		  /* TSC_DEADLINE */
	{0xda0, 0xda0},		  /* XSS */
	{0x4b564d00, 0x4b564d07}, /* KVM's own */
	{0xc0000080, 0xc0000084}, /* EFER, STAR, LSTAR, CSTAR, SFMASK */
	{0xc0000100, 0xc0000103}, /* FS and GS bases, TSC_AUX */
	{0xc0000104, 0xc0000104}, /* TSC_RATIO */
	{0xc0010015, 0xc0010015}, /* HWCR */
	{0xc001011f, 0xc001011f}, /* VIRT_SSBD */
};

bool hv_msrs_known(uint32_t index)
{
	for (size_t i = 0; i < ARRAY_SIZE(known); i++) {
		if (index >= known[i].first && index <= known[i].last)
			return true;
	}
	return false;
}

int hv_msrs_list(struct hv_msrs *out, int kvm_fd)
{
	cleanup_free struct kvm_msr_list *list =
		xcalloc(1, sizeof(*list) + HV_MSRS_MAX * sizeof(list->indices[0]));
	bool deadline = false;

	list->nmsrs = HV_MSRS_MAX;
	if (ioctl(kvm_fd, KVM_GET_MSR_INDEX_LIST, list) < 0)
		return fail(-errno, "kvm: KVM_GET_MSR_INDEX_LIST: %s", strerror(errno));
	out->n = 0;
	out->index[out->n++] = HV_MSR_TSC;
	/* Not in every KVM's list, though all have them: what firmware and kernels set up. */
	for (uint32_t i = 0x200; i <= 0x2ff; i++) {
		if (hv_msrs_known(i) && i != 0x277)
			out->index[out->n++] = i;
	}
	for (uint32_t i = 0; i < list->nmsrs && out->n < HV_MSRS_MAX - 1; i++) {
		uint32_t msr = list->indices[i];
		deadline = deadline || msr == HV_MSR_TSC_DEADLINE;
		if (hv_msrs_known(msr) && msr != HV_MSR_TSC && msr != HV_MSR_TSC_DEADLINE &&
		    (msr < 0x200 || msr > 0x2ff || msr == 0x277))
			out->index[out->n++] = msr;
	}
	if (deadline)
		out->index[out->n++] = HV_MSR_TSC_DEADLINE;
	return 0;
}

/* struct kvm_msrs with one entry; its array has no size of its own. */
struct one {
	uint32_t nmsrs, pad;
	struct kvm_msr_entry entry;
};

int hv_msr_get(int fd, uint32_t index, uint64_t *value)
{
	struct one one = {.nmsrs = 1, .entry = {.index = index}};
	int n = ioctl(fd, KVM_GET_MSRS, &one);

	if (n < 1)
		return n < 0 ? -errno : -ENOENT;
	*value = one.entry.data;
	return 0;
}

int hv_msr_set(int fd, uint32_t index, uint64_t value)
{
	struct one one = {.nmsrs = 1, .entry = {.index = index, .data = value}};
	int n = ioctl(fd, KVM_SET_MSRS, &one);

	if (n < 1)
		return n < 0 ? -errno : -EINVAL;
	return 0;
}
