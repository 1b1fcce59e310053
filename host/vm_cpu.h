// SPDX-License-Identifier: Apache-2.0
/* vm_cpu.h (private to host): the processor a guest sees, as its VMM tells it, and as text in what moves with it. */
#ifndef HOST_VM_CPU_H
#define HOST_VM_CPU_H

#include "base/cpu_table.h"

struct host_vm;

/* Owned by the caller. */
char *vm_cpu_text(const struct cpu_table *cpu);
/* -EBADMSG: it is none. */
int vm_cpu_parse(const char *text, struct cpu_table *out);

/* From the supervisor. What its guest sees; before it runs: what this host can show. */
int vm_cpu_get(struct host_vm *vm, struct cpu_table *out);
/* Its guest is to see `cpu`, which it has seen before. -ENOTSUP, in words: what this host lacks. */
int vm_cpu_take(struct host_vm *vm, const struct cpu_table *cpu);

#endif
