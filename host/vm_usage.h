// SPDX-License-Identifier: Apache-2.0
/*
 * vm_usage.h (private to host): what a VM uses of its host, and how much memory its guest is to have. The
 * supervisor looks about once a second and speaks with the VMM without waiting for answers; others read what it
 * found.
 */
#ifndef HOST_VM_USAGE_H
#define HOST_VM_USAGE_H

#include <stdbool.h>
#include <stdint.h>
#include <jansson.h>

#include "base/vmctl.h"

struct host_vm;

struct vm_usage {
	uint64_t at_ns;			  /* of the last look, CLOCK_BOOTTIME; 0: none yet */
	uint64_t memory;		  /* bytes of the host: blocks of the guest memory's file */
	uint64_t cpu_ns;		  /* since its VMM began */
	uint64_t read_bytes, write_bytes; /* of its disks, since this daemon serves them */
	uint64_t span_ns;		  /* the four below belong to, before at_ns */
	uint64_t cpu_span_ns, read_span, write_span;
	uint64_t balloon_ns; /* when `balloon` came; 0: never */
	struct vmctl_balloon balloon;
};

/* Supervisor, each turn: looks when it is time, and tells the VMM another target. */
void vm_usage_turn(struct host_vm *vm);
/* Supervisor: a connection to the VMM is new; it has been told nothing. */
void vm_usage_begin(struct host_vm *vm);
/* Supervisor: an answer came. */
void vm_usage_balloon(struct host_vm *vm, const struct vmctl_balloon *balloon);

/* --- any thread -------------------------------------------------------------------------------- */

void vm_usage_get(struct host_vm *vm, struct vm_usage *out);
/* What its guest is to have: its memory now, or less while the host lacks memory. */
uint64_t vm_memory_target(struct host_vm *vm);
/* Fields of `vm show`: memory_used, memory_target, guest_memory. */
void vm_usage_json(struct host_vm *vm, json_t *doc);

#endif
