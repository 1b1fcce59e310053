// SPDX-License-Identifier: Apache-2.0
/* vm_cpu.h (private to host): the processor a guest sees, as its VMM tells it, and as text in what moves with it. */
#ifndef HOST_VM_CPU_H
#define HOST_VM_CPU_H

#include <jansson.h>

#include "base/cpu_table.h"

struct host_call;
struct host_vm;
struct vm_def;

/* Owned by the caller. */
char *vm_cpu_text(const struct cpu_table *cpu);
/* -EBADMSG: it is none. */
int vm_cpu_parse(const char *text, struct cpu_table *out);

/* From the supervisor. What its guest sees; before it runs: what this host can show. */
int vm_cpu_get(struct host_vm *vm, struct cpu_table *out);
/* Its guest is to see `cpu`, which it has seen before. -ENOTSUP, in words: what this host lacks. */
int vm_cpu_take(struct host_vm *vm, const struct cpu_table *cpu);
/*
 * A machine that begins anew sees what its definition says. -ENOTSUP: this host lacks something of it. Between
 * CONFIG and START.
 */
int vm_cpu_begin(struct host_vm *vm);

/* --- in definitions -------------------------------------------------------------------------------- */

/* "cpu" and "cpu_common" of a definition's record. */
void vm_cpu_record(const struct vm_def *def, json_t *doc);
int vm_cpu_def_parse(json_t *doc, const char *name, struct vm_def *def);
/*
 * Argument "cpu", if it is there: "host", "baseline=LEVEL", or "baseline=HOST,HOST..." with the hosts' tables (what
 * `host cpu` says there) as the list "cpu_tables".
 */
int vm_cpu_option(struct host_call *call, struct vm_def *def, const char *name);

/* The verb: what this host can show. */
int host_cpu(struct host_call *call);

#endif
