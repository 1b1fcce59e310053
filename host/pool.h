// SPDX-License-Identifier: Apache-2.0
/*
 * pool.h (private to host): pools of VMs on this host: a control group around the groups of its VMs, with a weight
 * and a limit of its own. Which pool a VM is in its definition says; what a pool gets, each host for itself.
 */
#ifndef HOST_POOL_H
#define HOST_POOL_H

struct host;

/* Makes its group as this host has it set; "" is no pool. -ENOENT: no groups here, though they are wanted. */
int host_pool_apply(struct host *host, const char *name);

#endif
