// SPDX-License-Identifier: Apache-2.0
/* Tables of what processors can. */
#include "base/cpu_table.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/cpu_feature.h"
#include "base/err.h"
#include "base/util.h"

#define NAMED_MAX     12 /* of the missing features; the rest is counted */
#define HEAD_BYTES    8	 /* both counts */
#define LEAF_BYTES    24
#define MSR_BYTES     16
#define LEAF_XSAVE    0xd
#define LEAF_ADDRESS  0x80000008u
#define ADDRESS_BITS  0xffu
#define XSAVE_EXTENDS 2 /* components from here on have a place of their own in the area */

/* --- one table ----------------------------------------------------------------------------------- */

static struct cpu_leaf *find(const struct cpu_table *t, uint32_t function, uint32_t index)
{
	for (uint32_t i = 0; i < t->leaves_n; i++) {
		const struct cpu_leaf *l = &t->leaves[i];
		if (l->function == function && l->index == index)
			return (struct cpu_leaf *)(uintptr_t)l;
	}
	return NULL;
}

int cpu_table_set_leaf(struct cpu_table *t, const struct cpu_leaf *leaf)
{
	struct cpu_leaf *l = find(t, leaf->function, leaf->index);

	if (!l && t->leaves_n == CPU_LEAVES_MAX)
		return fail(-ENOSPC, "processor: more than %d CPUID leaves", CPU_LEAVES_MAX);
	if (!l)
		l = &t->leaves[t->leaves_n++];
	*l = *leaf;
	return 0;
}

int cpu_table_set_msr(struct cpu_table *t, uint32_t index, uint64_t value)
{
	uint32_t i = 0;

	while (i < t->msrs_n && t->msrs[i].index != index)
		i++;
	if (i == CPU_MSRS_MAX)
		return fail(-ENOSPC, "processor: more than %d feature MSRs", CPU_MSRS_MAX);
	if (i == t->msrs_n)
		t->msrs_n++;
	t->msrs[i] = (struct cpu_msr){.index = index, .value = value};
	return 0;
}

const struct cpu_leaf *cpu_table_leaf(const struct cpu_table *t, uint32_t function, uint32_t index)
{
	return find(t, function, index);
}

uint32_t cpu_table_get(const struct cpu_table *t, uint32_t function, uint32_t index,
		       enum cpu_register reg)
{
	const struct cpu_leaf *l = find(t, function, index);

	return l ? l->reg[reg] : 0;
}

uint64_t cpu_table_msr(const struct cpu_table *t, uint32_t index)
{
	for (uint32_t i = 0; i < t->msrs_n; i++) {
		if (t->msrs[i].index == index)
			return t->msrs[i].value;
	}
	return 0;
}

/* --- two tables ---------------------------------------------------------------------------------- */

/* Words for what is missing, as far as there is room. */
struct missing {
	char names[400];
	size_t used;
	unsigned n;
};

static void add_missing(struct missing *m, const char *name)
{
	if (m->n++ >= NAMED_MAX)
		return;
	int n = snprintf(m->names + m->used, sizeof(m->names) - m->used, "%s%s",
			 m->used ? ", " : "", name);
	if (n > 0 && (size_t)n < sizeof(m->names) - m->used)
		m->used += (size_t)n;
}

static void add_missing_bits(struct missing *m, const struct cpu_feature_word *w, uint64_t bits)
{
	char name[64];

	for (unsigned bit = 0; bit < 64; bit++) {
		if (!(bits >> bit & 1))
			continue;
		if (bit < w->names_n && w->names[bit]) {
			add_missing(m, w->names[bit]);
			continue;
		}
		snprintf(name, sizeof(name), "%s bit %u", w->word_name, bit);
		add_missing(m, name);
	}
}

static bool same_vendor(const struct cpu_table *a, const struct cpu_table *b)
{
	const struct cpu_leaf *x = find(a, 0, 0), *y = find(b, 0, 0);

	return x && y && !memcmp(&x->reg[CPU_EBX], &y->reg[CPU_EBX], 3 * sizeof(x->reg[0]));
}

/* A saved XSAVE area is taken as it is: each part must lie where it lay. */
static bool same_xsave_layout(const struct cpu_table *need, const struct cpu_table *have)
{
	uint64_t parts = cpu_table_get(need, LEAF_XSAVE, 0, CPU_EAX);

	for (uint32_t i = XSAVE_EXTENDS; i < 32; i++) {
		if (!(parts >> i & 1))
			continue;
		if (cpu_table_get(need, LEAF_XSAVE, i, CPU_EAX) !=
			    cpu_table_get(have, LEAF_XSAVE, i, CPU_EAX) ||
		    cpu_table_get(need, LEAF_XSAVE, i, CPU_EBX) !=
			    cpu_table_get(have, LEAF_XSAVE, i, CPU_EBX))
			return false;
	}
	return true;
}

static uint32_t address_bits(const struct cpu_table *t)
{
	return cpu_table_get(t, LEAF_ADDRESS, 0, CPU_EAX) & ADDRESS_BITS;
}

int cpu_table_check(const struct cpu_table *need, const struct cpu_table *have)
{
	struct missing m = {0};

	if (!same_vendor(need, have))
		return fail(-ENOTSUP, "processor: the guest's and the host's are of different "
				      "makers; start the vm anew there");
	for (unsigned i = 0; i < cpu_feature_words_n; i++) {
		const struct cpu_feature_word *w = &cpu_feature_words[i];
		add_missing_bits(&m, w,
				 cpu_table_get(need, w->function, w->index, w->reg) &
					 ~cpu_table_get(have, w->function, w->index, w->reg) &
					 ~(uint32_t)w->ignored);
	}
	for (unsigned i = 0; i < cpu_feature_msrs_n; i++) {
		const struct cpu_feature_word *w = &cpu_feature_msrs[i];
		add_missing_bits(&m, w,
				 cpu_table_msr(need, w->function) &
					 ~cpu_table_msr(have, w->function) & ~w->ignored);
	}
	if (m.n > NAMED_MAX)
		return fail(-ENOTSUP, "processor: %s and %u more are missing", m.names,
			    m.n - NAMED_MAX);
	if (m.n)
		return fail(-ENOTSUP, "processor: %s %s missing", m.names, m.n > 1 ? "are" : "is");
	if (address_bits(need) > address_bits(have))
		return fail(-ENOTSUP, "processor: it has %u bits of address, the guest's has %u",
			    address_bits(have), address_bits(need));
	if (!same_xsave_layout(need, have))
		return fail(-ENOTSUP, "processor: its XSAVE area has another layout");
	return 0;
}

void cpu_table_common(struct cpu_table *t, const struct cpu_table *other)
{
	for (unsigned i = 0; i < cpu_feature_words_n; i++) {
		const struct cpu_feature_word *w = &cpu_feature_words[i];
		struct cpu_leaf *l = find(t, w->function, w->index);
		if (l)
			l->reg[w->reg] &= cpu_table_get(other, w->function, w->index, w->reg) |
					  (uint32_t)w->ignored;
	}
	for (unsigned i = 0; i < t->msrs_n; i++) {
		uint64_t theirs = cpu_table_msr(other, t->msrs[i].index);
		for (unsigned k = 0; k < cpu_feature_msrs_n; k++) {
			const struct cpu_feature_word *w = &cpu_feature_msrs[k];
			/* What one of them suffers from, the guest is to know. */
			if (w->function == t->msrs[i].index)
				t->msrs[i].value = (t->msrs[i].value & theirs) |
						   ((t->msrs[i].value | theirs) & w->ignored);
		}
	}
	struct cpu_leaf *l = find(t, LEAF_ADDRESS, 0);
	if (l && address_bits(other) && address_bits(other) < address_bits(t))
		l->reg[CPU_EAX] = (l->reg[CPU_EAX] & ~ADDRESS_BITS) | address_bits(other);
}

/* --- bytes --------------------------------------------------------------------------------------- */

static uint8_t *put32(uint8_t *p, uint32_t value)
{
	le32 w = le32_of(value);

	memcpy(p, &w, sizeof(w));
	return p + sizeof(w);
}

static uint32_t get32(const uint8_t *p)
{
	le32 w;

	memcpy(&w, p, sizeof(w));
	return le32_get(w);
}

int cpu_table_encode(const struct cpu_table *t, uint8_t *dst, size_t size)
{
	if (t->leaves_n > CPU_LEAVES_MAX || t->msrs_n > CPU_MSRS_MAX)
		return -EINVAL;
	size_t bytes = HEAD_BYTES + t->leaves_n * LEAF_BYTES + t->msrs_n * MSR_BYTES;
	if (bytes > size)
		return -EINVAL;
	dst = put32(put32(dst, t->leaves_n), t->msrs_n);
	for (uint32_t i = 0; i < t->leaves_n; i++) {
		const struct cpu_leaf *l = &t->leaves[i];
		dst = put32(put32(dst, l->function), l->index);
		for (unsigned r = 0; r < 4; r++)
			dst = put32(dst, l->reg[r]);
	}
	for (uint32_t i = 0; i < t->msrs_n; i++) {
		dst = put32(put32(dst, t->msrs[i].index), 0);
		dst = put32(put32(dst, (uint32_t)t->msrs[i].value),
			    (uint32_t)(t->msrs[i].value >> 32));
	}
	return (int)bytes;
}

static int bad_table(size_t bytes)
{
	return fail(-EPROTO, "processor: a table of %zu bytes is malformed", bytes);
}

int cpu_table_decode(const uint8_t *src, size_t bytes, struct cpu_table *out)
{
	const uint8_t *p = src + HEAD_BYTES;

	memset(out, 0, sizeof(*out));
	if (bytes < HEAD_BYTES)
		return bad_table(bytes);
	uint32_t leaves = get32(src), msrs = get32(src + 4);
	if (leaves > CPU_LEAVES_MAX || msrs > CPU_MSRS_MAX ||
	    bytes != HEAD_BYTES + leaves * LEAF_BYTES + msrs * MSR_BYTES)
		return bad_table(bytes);
	for (uint32_t i = 0; i < leaves; i++, p += LEAF_BYTES) {
		struct cpu_leaf l = {.function = get32(p), .index = get32(p + 4)};
		for (unsigned r = 0; r < 4; r++)
			l.reg[r] = get32(p + 8 + r * 4);
		if (find(out, l.function, l.index))
			return bad_table(bytes);
		out->leaves[out->leaves_n++] = l;
	}
	for (uint32_t i = 0; i < msrs; i++, p += MSR_BYTES) {
		uint32_t index = get32(p);
		if (get32(p + 4))
			return bad_table(bytes);
		for (uint32_t k = 0; k < out->msrs_n; k++) {
			if (out->msrs[k].index == index)
				return bad_table(bytes);
		}
		out->msrs[out->msrs_n++] = (struct cpu_msr){
			.index = index, .value = get32(p + 8) | (uint64_t)get32(p + 12) << 32};
	}
	return 0;
}
