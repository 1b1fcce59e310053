// SPDX-License-Identifier: Apache-2.0
/* CPUID leaves for a vCPU. Sources: Intel SDM volume 2A, AMD APM volume 3 appendix E. */
#include "hv/cpuid.h"

#include <cpuid.h>
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/err.h"
#include "base/util.h"

/*
 * QEMU's emulation of SVM does not tell KVM when a guest executes XSETBV, so that KVM runs it with
 * the wrong XCR0 later (seen with QEMU 7.2: guests die in XRSTOR). There, and only there, guests
 * see no XSAVE, nor what needs it. The emulator signs its leaf 0x40000000.
 */
static bool host_is_emulated(void)
{
	uint32_t a, b, c, d;

	__cpuid(1, a, b, c, d);
	if (!(c & 1u << 31))
		return false;
	__cpuid(0x40000000, a, b, c, d);
	const uint32_t signature[] = {b, c, d};
	return !memcmp(signature, "TCGTCGTCGTCG", sizeof(signature));
}

static void hide_xsave(struct kvm_cpuid_entry2 *e)
{
	switch (e->function) {
	case 0x1: /* FMA, XSAVE, OSXSAVE, AVX, F16C */
		e->ecx &= ~(1u << 12 | 1u << 26 | 1u << 27 | 1u << 28 | 1u << 29);
		break;
	case 0x7: /* AVX2, MPX, all of AVX-512; PKU, OSPKE, VAES, VPCLMULQDQ; the rest of AVX-512 */
		e->ebx &= ~(1u << 5 | 1u << 14 | 1u << 16 | 1u << 17 | 1u << 21 | 1u << 26 |
			    1u << 27 | 1u << 28 | 1u << 30 | 1u << 31);
		e->ecx &= ~(1u << 1 | 1u << 3 | 1u << 4 | 1u << 6 | 1u << 9 | 1u << 10 | 1u << 11 |
			    1u << 12 | 1u << 14);
		e->edx &= ~(1u << 2 | 1u << 3 | 1u << 8 | 1u << 22 | 1u << 23 | 1u << 24 |
			    1u << 25);
		break;
	case 0xd:
		e->eax = e->ebx = e->ecx = e->edx = 0;
		break;
	case 0x80000001: /* XOP, FMA4 */
		e->ecx &= ~(1u << 11 | 1u << 16);
		break;
	default:
		break;
	}
}

int hv_cpuid_read(struct hv_cpuid *out, int kvm_fd)
{
	memset(out, 0, sizeof(*out));
	out->nent = HV_CPUID_MAX;
	if (ioctl(kvm_fd, KVM_GET_SUPPORTED_CPUID, out) < 0)
		return fail(-errno, "kvm: KVM_GET_SUPPORTED_CPUID: %s", strerror(errno));
	if (host_is_emulated()) {
		for (unsigned i = 0; i < out->nent; i++)
			hide_xsave(&out->entries[i]);
	}
	return 0;
}

/* Bits of an APIC id that number the cores. */
static unsigned core_bits(unsigned cpus)
{
	unsigned bits = 0;

	while (1u << bits < cpus)
		bits++;
	return bits;
}

static void basic_features(struct kvm_cpuid_entry2 *e, unsigned index, unsigned cpus, bool nested)
{
	e->ebx = (e->ebx & 0x0000ff00) | index << 24 | cpus << 16;
	e->ecx |= 1u << 31;   /* there is a hypervisor */
	e->ecx |= 1u << 24;   /* TSC deadline timer, by the in-kernel LAPIC */
	e->ecx &= ~(1u << 3); /* MONITOR */
	if (!nested)
		e->ecx &= ~(1u << 5);				      /* VMX */
	e->edx = cpus > 1 ? e->edx | 1u << 28 : e->edx & ~(1u << 28); /* HTT: several cores */
}

/* Leaf 4 (Intel) and 0x8000001d (AMD): caches; the third level is shared by all cores. */
static void cache(struct kvm_cpuid_entry2 *e, unsigned cpus)
{
	unsigned level = e->eax >> 5 & 7;

	if (!(e->eax & 0x1f))
		return;
	e->eax &= 0x00003fff;
	if (level >= 3)
		e->eax |= (cpus - 1) << 14;
	if (e->function == 4)
		e->eax |= ((1u << core_bits(cpus)) - 1) << 26;
}

/* Leaves 0xb and 0x1f: level 0 is the thread, level 1 the core. */
static void topology(struct kvm_cpuid_entry2 *e, unsigned index, unsigned cpus)
{
	e->eax = e->ebx = 0;
	e->ecx = e->index & 0xff;
	e->edx = index;
	if (e->index == 0) {
		e->ebx = 1;
		e->ecx |= 1 << 8;
	} else if (e->index == 1) {
		e->eax = core_bits(cpus);
		e->ebx = cpus;
		e->ecx |= 2 << 8;
	}
}

static void adjust(struct kvm_cpuid_entry2 *e, unsigned index, unsigned cpus, bool nested)
{
	switch (e->function) {
	case 0x1:
		basic_features(e, index, cpus, nested);
		break;
	case 0x4:
	case 0x8000001d:
		cache(e, cpus);
		break;
	case 0xa: /* performance counters */
		e->eax = e->ebx = e->ecx = e->edx = 0;
		break;
	case 0xb:
	case 0x1f:
		topology(e, index, cpus);
		break;
	case 0x80000001:
		if (!nested)
			e->ecx &= ~(1u << 2);				    /* SVM */
		e->ecx = cpus > 1 ? e->ecx | 1u << 1 : e->ecx & ~(1u << 1); /* CmpLegacy */
		e->ecx &= ~(1u << 22); /* TopologyExtensions: 0x8000001e would need a model */
		break;
	case 0x80000007:
		e->edx &= ~(1u << 8); /* invariant TSC */
		break;
	case 0x80000008:
		e->ecx = core_bits(cpus) << 12 | (cpus - 1);
		break;
	case 0x8000000a: /* SVM */
		if (nested)
			break;
		e->eax = e->ebx = e->ecx = e->edx = 0;
		break;
	default:
		break;
	}
}

void hv_cpuid_for(const struct hv_cpuid *host, struct hv_cpuid *out, unsigned index, unsigned cpus,
		  bool nested)
{
	*out = *host;
	for (unsigned i = 0; i < out->nent; i++)
		adjust(&out->entries[i], index, cpus, nested);
}

struct hv_cpuid *hv_cpuid_copy(const struct hv_cpuid *cpuid)
{
	size_t bytes = offsetof(struct hv_cpuid, entries) + cpuid->nent * sizeof(cpuid->entries[0]);

	return memcpy(xmalloc(bytes), cpuid, bytes);
}

/* Leaves of zeroes are left out: that is how an absent one reads. */
int hv_cpuid_table(const struct hv_cpuid *cpuid, struct cpu_table *out)
{
	int rc = 0;

	for (uint32_t i = 0; i < cpuid->nent && !rc; i++) {
		const struct kvm_cpuid_entry2 *e = &cpuid->entries[i];
		const struct cpu_leaf leaf = {.function = e->function,
					      .index = e->index,
					      .reg = {e->eax, e->ebx, e->ecx, e->edx}};
		if (e->eax || e->ebx || e->ecx || e->edx)
			rc = cpu_table_set_leaf(out, &leaf);
	}
	return rc;
}

int hv_cpuid_mask(struct hv_cpuid *host, const struct cpu_table *baseline)
{
	cleanup_free struct cpu_table *t = xcalloc(1, sizeof(*t));
	int rc = hv_cpuid_table(host, t);

	if (rc)
		return rc;
	cpu_table_common(t, baseline);
	for (uint32_t i = 0; i < host->nent; i++) {
		struct kvm_cpuid_entry2 *e = &host->entries[i];
		const struct cpu_leaf *l = cpu_table_leaf(t, e->function, e->index);
		if (!l)
			continue;
		e->eax = l->reg[CPU_EAX];
		e->ebx = l->reg[CPU_EBX];
		e->ecx = l->reg[CPU_ECX];
		e->edx = l->reg[CPU_EDX];
	}
	t->msrs_n = 0;
	return cpu_table_check(t, baseline); /* features agree by now: the maker, the layout */
}
