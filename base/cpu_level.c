// SPDX-License-Identifier: Apache-2.0
/* cpu_level.c: the levels of the x86-64 psABI as tables of features. */
#include "base/cpu_level.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cpu_feature.h"
#include "base/err.h"
#include "base/util.h"

#define BIT(n)	      (1u << (n))
#define LEAF_KVM      0x40000001u
#define LEAF_ADDRESS  0x80000008u
#define ADDRESS_BITS  0xffu
#define ADDRESS_LEVEL 40u
#define NESTED	      9u /* no level: shown where it is there, to who may have guests of its own */

struct bits {
	unsigned level; /* from this one on; 0: shown where it is there, asked of nobody */
	uint32_t function, index;
	enum cpu_register reg;
	uint32_t bits;
};

static const struct bits table_of[] = {
	/* fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2; no vme, which
	   the psABI does not ask for and not every processor has */
	{1, 0x1, 0, CPU_EDX, 0x078bfbfd},
	{1, 0x80000001, 0, CPU_EDX, BIT(11) | BIT(20) | BIT(29)}, /* syscall nx lm */
	/* sse3 ssse3 cx16 sse4_1 sse4_2 popcnt */
	{2, 0x1, 0, CPU_ECX, BIT(0) | BIT(9) | BIT(13) | BIT(19) | BIT(20) | BIT(23)},
	{2, 0x80000001, 0, CPU_ECX, BIT(0)}, /* lahf_lm */
	/* fma movbe xsave avx f16c; x87, SSE and AVX state */
	{3, 0x1, 0, CPU_ECX, BIT(12) | BIT(22) | BIT(26) | BIT(28) | BIT(29)},
	{3, 0x7, 0, CPU_EBX, BIT(3) | BIT(5) | BIT(8)}, /* bmi1 avx2 bmi2 */
	{3, 0x80000001, 0, CPU_ECX, BIT(5)},		/* abm: lzcnt */
	{3, 0xd, 0, CPU_EAX, BIT(0) | BIT(1) | BIT(2)},
	/* avx512f avx512dq avx512cd avx512bw avx512vl, and its state */
	{4, 0x7, 0, CPU_EBX, BIT(16) | BIT(17) | BIT(28) | BIT(30) | BIT(31)},
	{4, 0xd, 0, CPU_EAX, BIT(5) | BIT(6) | BIT(7)},
	/* x2apic tsc_deadline hypervisor; tsc_adjust; arat */
	{0, 0x1, 0, CPU_ECX, BIT(21) | BIT(24) | BIT(31)},
	{0, 0x7, 0, CPU_EBX, BIT(1)},
	{0, 0x6, 0, CPU_EAX, BIT(2)},
	/* vmx; svm, and what of it there is */
	{NESTED, 0x1, 0, CPU_ECX, BIT(5)},
	{NESTED, 0x80000001, 0, CPU_ECX, BIT(2)},
	{NESTED, 0x8000000a, 0, CPU_EDX, UINT32_MAX},
};

static unsigned level_of(const char *name)
{
	static const char *const names[] = {"x86-64-v1", "x86-64-v2", "x86-64-v3", "x86-64-v4"};

	for (unsigned i = 0; i < ARRAY_SIZE(names); i++)
		if (!strcmp(name, names[i]))
			return i + 1;
	return 0;
}

bool cpu_level_known(const char *name)
{
	return level_of(name) != 0;
}

static bool is_in(const struct bits *b, const struct cpu_feature_word *w)
{
	return b->function == w->function && b->index == w->index && b->reg == w->reg;
}

/* What of a feature word the level asks for. */
static uint32_t asked(const struct cpu_feature_word *w, unsigned level)
{
	uint32_t bits = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(table_of); i++)
		if (is_in(&table_of[i], w) && table_of[i].level && table_of[i].level <= level)
			bits |= table_of[i].bits;
	return bits;
}

/* What is shown beside, where it is there. */
static uint32_t allowed(const struct cpu_feature_word *w, bool nested)
{
	uint32_t bits = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(table_of); i++)
		if (is_in(&table_of[i], w) &&
		    (!table_of[i].level || (nested && table_of[i].level == NESTED)))
			bits |= table_of[i].bits;
	return bits;
}

/* The level as a processor of the same maker would have it, for words about what is missing. */
static int check(const struct cpu_table *t, unsigned level, const char *name)
{
	struct cpu_table *need = xcalloc(1, sizeof(*need));
	const struct cpu_leaf *maker = cpu_table_leaf(t, 0, 0);
	int rc = maker ? cpu_table_set_leaf(need, maker) : 0;

	for (unsigned i = 0; i < cpu_feature_words_n && rc == 0; i++) {
		const struct cpu_feature_word *w = &cpu_feature_words[i];
		const struct cpu_leaf *had = cpu_table_leaf(need, w->function, w->index);
		struct cpu_leaf leaf = {.function = w->function, .index = w->index};

		if (had)
			leaf = *had;
		leaf.reg[w->reg] = asked(w, level);
		if (leaf.reg[w->reg] && w->function != 0xd)
			rc = cpu_table_set_leaf(need, &leaf);
	}
	if (rc == 0)
		rc = cpu_table_check(need, t);
	free(need);
	return rc < 0 ? fail_prefix(rc, "%s", name) : 0;
}

static struct cpu_leaf *leaf_at(struct cpu_table *t, uint32_t function, uint32_t index)
{
	for (uint32_t i = 0; i < t->leaves_n; i++)
		if (t->leaves[i].function == function && t->leaves[i].index == index)
			return &t->leaves[i];
	return NULL;
}

int cpu_level_apply(struct cpu_table *t, const char *name, bool nested)
{
	unsigned level = level_of(name);
	struct cpu_leaf *l;
	int rc;

	if (!level)
		return fail(-EINVAL, "processor %s: is none; x86-64-v1 to x86-64-v4 are", name);
	rc = check(t, level, name);
	if (rc < 0)
		return rc;
	for (unsigned i = 0; i < cpu_feature_words_n; i++) {
		const struct cpu_feature_word *w = &cpu_feature_words[i];

		l = leaf_at(t, w->function, w->index);
		if (l && w->function != LEAF_KVM) /* the kernel's, not the processor's */
			l->reg[w->reg] &= asked(w, level) | allowed(w, nested) |
					  (uint32_t)w->ignored;
	}
	for (unsigned k = 0; k < cpu_feature_msrs_n; k++)
		for (uint32_t i = 0; i < t->msrs_n; i++)
			if (t->msrs[i].index == cpu_feature_msrs[k].function)
				t->msrs[i].value &= cpu_feature_msrs[k].ignored;
	l = leaf_at(t, LEAF_ADDRESS, 0);
	if (l && (l->reg[CPU_EAX] & ADDRESS_BITS) > ADDRESS_LEVEL)
		l->reg[CPU_EAX] = (l->reg[CPU_EAX] & ~ADDRESS_BITS) | ADDRESS_LEVEL;
	return 0;
}

void cpu_level_hide_nested(struct cpu_table *t)
{
	for (unsigned i = 0; i < ARRAY_SIZE(table_of); i++) {
		const struct bits *b = &table_of[i];
		struct cpu_leaf *l = leaf_at(t, b->function, b->index);

		if (l && b->level == NESTED)
			l->reg[b->reg] &= ~b->bits;
	}
}
