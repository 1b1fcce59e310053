// SPDX-License-Identifier: Apache-2.0
/*
 * admission.h (private to host): may a VM run here, by what is reserved? A host has its memory but for a little
 * that stays its own, and 100 % of each processor; what its VMs have reserved is never more.
 */
#ifndef HOST_ADMISSION_H
#define HOST_ADMISSION_H

#include <stdbool.h>
#include <stdint.h>

struct host;
struct host_vm;
struct host_vms;
struct vm_share;

/* Bytes of this machine, and those that could be had now, by /proc/meminfo (or STATE/steps/meminfo, in its place: a drill). */
int host_memory_info(const struct host *host, uint64_t *total, uint64_t *available);
/* ... and it is one. */
bool host_memory_is_drill(const struct host *host);
/* What VMs can have of `total`. */
uint64_t host_memory_for_vms(uint64_t total);
/*
 * Would a VM with this share fit beside those that are here? -ENOSPC in words. `all`'s lock is held; `except`
 * (may be NULL) is the VM itself.
 */
int host_admit(struct host_vms *all, const struct vm_share *share, const char *name,
	       const struct host_vm *except);

#endif
