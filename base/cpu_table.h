// SPDX-License-Identifier: Apache-2.0
/*
 * cpu_table.h: what a processor can, as a guest sees it: CPUID leaves and the MSRs that list
 * features. Pure functions over tables, so that source and target of a migration, and a cluster
 * that looks for what all its hosts have in common, can compare them without any KVM at hand.
 *
 * A guest may move to a host when that host has every feature the guest sees (cpu_table_check); what
 * the host has beyond is hidden from it. Family, model, caches and names need not agree.
 * Sources: Intel SDM volume 2A (CPUID) and 4, AMD APM volume 3 appendix E, Linux' KVM CPUID leaves.
 */
#ifndef BASE_CPU_TABLE_H
#define BASE_CPU_TABLE_H

#include <stddef.h>
#include <stdint.h>

#define CPU_LEAVES_MAX 256
#define CPU_MSRS_MAX   16

enum cpu_register { CPU_EAX, CPU_EBX, CPU_ECX, CPU_EDX };

struct cpu_leaf {
	uint32_t function, index;
	uint32_t reg[4]; /* by enum cpu_register */
};

struct cpu_msr {
	uint32_t index;
	uint64_t value;
};

/* A leaf or MSR that is absent reads as zero. */
struct cpu_table {
	uint32_t leaves_n, msrs_n;
	struct cpu_leaf leaves[CPU_LEAVES_MAX];
	struct cpu_msr msrs[CPU_MSRS_MAX];
};

/* Adds or replaces; -ENOSPC. */
int cpu_table_set_leaf(struct cpu_table *table, const struct cpu_leaf *leaf);
int cpu_table_set_msr(struct cpu_table *table, uint32_t index, uint64_t value);
/* NULL: absent. */
const struct cpu_leaf *cpu_table_leaf(const struct cpu_table *table, uint32_t function,
				      uint32_t index);
uint32_t cpu_table_get(const struct cpu_table *table, uint32_t function, uint32_t index,
		       enum cpu_register reg);
uint64_t cpu_table_msr(const struct cpu_table *table, uint32_t index);

/*
 * Does a host that shows its guests `have` give all that `need` says? 0, or -ENOTSUP with words
 * that name up to a dozen of what is missing: "processor: avx2, bmi2 and 3 more are missing".
 * Bits that a guest's own settings change (OSXSAVE) and those of the topology are left out.
 */
int cpu_table_check(const struct cpu_table *need, const struct cpu_table *have);
/* Takes from `table` the features that `other` has not: what both can. Its other leaves stay. */
void cpu_table_common(struct cpu_table *table, const struct cpu_table *other);

/* Bytes, little-endian, as in base/vmctl.h's messages. The length, or -EINVAL: no room. */
int cpu_table_encode(const struct cpu_table *table, uint8_t *dst, size_t size);
/* 0, -EPROTO with words: not exactly one table. */
int cpu_table_decode(const uint8_t *src, size_t bytes, struct cpu_table *out);

#endif
