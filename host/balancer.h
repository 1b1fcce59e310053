// SPDX-License-Identifier: Apache-2.0
/*
 * balancer.h (private to host): a thread that looks every two seconds whether the host lacks memory, and moves the
 * targets of its VMs' balloons (balance.h). Where that does not help for a while and memory all but runs out, the VM of
 * least share is saved to its volume; it comes back when there is room. Events tell of all of it.
 */
#ifndef HOST_BALANCER_H
#define HOST_BALANCER_H

struct host;
struct host_balancer;

int host_balancer_start(struct host *host, struct host_balancer **out);
/* Ends it, once host->ending is set: a save or restore that it has begun is given up, or comes to its end. */
void host_balancer_stop(struct host_balancer *balancer);

#endif
