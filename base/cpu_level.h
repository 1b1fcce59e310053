// SPDX-License-Identifier: Apache-2.0
/*
 * cpu_level.h: processors by name, so that a guest may move between unlike hosts: the levels of the x86-64 psABI
 * (x86-64-ABI 1.0, 3.1.1 "Processor Architecture"), "x86-64-v1" to "x86-64-v4". Makers still differ, and are not hidden.
 */
#ifndef BASE_CPU_LEVEL_H
#define BASE_CPU_LEVEL_H

#include <stdbool.h>

#include "base/cpu_table.h"

bool cpu_level_known(const char *name);
/*
 * `table` is what a host can show its guests; afterwards it has what the level names, what every KVM gives a guest
 * (its own leaves, x2APIC, the TSC deadline), at most 40 bits of address, and nothing else; `nested`: and VMX or SVM, where the
 * host has it. -ENOTSUP, in words: the
 * features of the level that the host lacks; -EINVAL: no such level.
 */
int cpu_level_apply(struct cpu_table *table, const char *name, bool nested);
/* Takes VMX and SVM away: whose guests may have no guests is not to ask for it. */
void cpu_level_hide_nested(struct cpu_table *table);

#endif
