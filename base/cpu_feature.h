// SPDX-License-Identifier: Apache-2.0
/*
 * cpu_feature.h: which registers of CPUID, and which MSRs, are lists of features, and what their
 * bits are called (as in Linux' /proc/cpuinfo where it has a name). For cpu_table.c.
 */
#ifndef BASE_CPU_FEATURE_H
#define BASE_CPU_FEATURE_H

#include "base/cpu_table.h"

struct cpu_feature_word {
	uint32_t function, index; /* of CPUID; an MSR: function is its number */
	enum cpu_register reg;
	uint64_t ignored;	  /* bits that say nothing about the processor's abilities */
	const char *const *names; /* per bit; NULL: has none */
	unsigned names_n;
	const char *word_name; /* for bits without a name: "WORD bit N" */
};

extern const struct cpu_feature_word cpu_feature_words[];
extern const unsigned cpu_feature_words_n;
extern const struct cpu_feature_word cpu_feature_msrs[];
extern const unsigned cpu_feature_msrs_n;

#endif
