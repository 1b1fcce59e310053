// SPDX-License-Identifier: Apache-2.0
/*
 * lease.h: the lease's end, in a page that the daemon writes and this process can only read
 * (base/vmctl.h). INV-HA-1: when it has passed, the machine stands still, daemon or no daemon.
 *
 * vCPU threads keep to hv_lease_end() by themselves (hv/vcpu.h). A thread here sleeps until the end
 * and calls `ended` once it has passed without a renewal: for those that stand in HLT, and to tell.
 */
#ifndef HV_LEASE_H
#define HV_LEASE_H

#include <stdbool.h>
#include <stdint.h>

struct hv_lease;

/* Maps the page; the descriptor may be closed afterwards. `ended` comes from the lease's thread. */
int hv_lease_create(struct hv_lease **out, int fd, void (*ended)(void *opaque), void *opaque);
void hv_lease_destroy(struct hv_lease *lease);
/* Starts the thread: apart from creation, so that the process can lock itself up in between. */
int hv_lease_watch(struct hv_lease *lease);
/* Any thread. CLOCK_BOOTTIME in ns, UINT64_MAX: there is no end. */
uint64_t hv_lease_end(const struct hv_lease *lease);
bool hv_lease_runs(const struct hv_lease *lease);

#endif
