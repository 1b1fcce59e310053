// SPDX-License-Identifier: Apache-2.0
/*
 * vm_share.h (private to host): what a VM gets of its host's memory and processors: the part of a
 * definition that `vm create` and `vm set` change, also while it runs. Pure but for the words of errors.
 *
 * Memory: the guest sees its maximum (vm_def.memory, the memfd's size) and is kept at `memory` by its balloon.
 * What is reserved is never taken from it; the rest may be when the host lacks memory, from VMs of few
 * shares first.
 */
#ifndef HOST_VM_SHARE_H
#define HOST_VM_SHARE_H

#include <stdbool.h>
#include <stdint.h>
#include <sched.h>
#include <jansson.h>

struct host_call;

#define VM_SHARES_DEFAULT 100u
#define VM_SHARES_MAX	  10000u
#define VM_CPU_LIST_MAX	  128
#define VM_POOL_MAX	  60
#define VM_NOT_SAID	  UINT64_MAX

struct vm_share {
	uint64_t memory;	  /* bytes it has now; a multiple of 2 MiB */
	uint64_t memory_reserved; /* bytes; VM_NOT_SAID: all of `memory` */
	unsigned memory_shares;	  /* 1 to VM_SHARES_MAX */
	unsigned cpu_weight;	  /* 1 to VM_SHARES_MAX, beside the other VMs of its pool */
	unsigned cpu_limit;	  /* percent of one processor; 0: none */
	unsigned cpu_reserved;	  /* percent of one processor */
	char cpus_allowed[VM_CPU_LIST_MAX]; /* "0-3,8"; "": all */
	char pool[VM_POOL_MAX + 1];	    /* "": none */
};

/* Of a new VM with so much memory. */
void vm_share_init(struct vm_share *share, uint64_t memory);
/* -EINVAL in words; `memory_max`: the VM's maximum. */
int vm_share_check(const struct vm_share *share, uint64_t memory_max, unsigned cpus,
		   const char *name);
/* Takes what the call's arguments say; *changed: they said something. -EINVAL. */
int vm_share_args(struct vm_share *share, struct host_call *call, bool *changed);
/* Into and from a definition's document: only what is not the default is written. */
void vm_share_record(const struct vm_share *share, uint64_t memory_max, json_t *doc);
void vm_share_parse(struct vm_share *share, uint64_t memory_max, json_t *doc);
/* Fields of `vm show`. */
void vm_share_json(const struct vm_share *share, uint64_t memory_max, json_t *doc);

/* Bytes that nobody takes from it. */
uint64_t vm_share_reserved(const struct vm_share *share);
/* "0-3,8" as a set; -EINVAL. An empty text is the set of all. */
int vm_share_cpus(const char *text, cpu_set_t *out);

#endif
