// SPDX-License-Identifier: Apache-2.0
/*
 * daemon.h (private to host): what hangs together in one host. Set up by daemon.c in the order of
 * the fields; afterwards the pointers never change, each module locks its own.
 */
#ifndef HOST_DAEMON_H
#define HOST_DAEMON_H

#include <stdatomic.h>
#include <stdbool.h>

#include "host/host.h"
#include "host/state.h"

struct host_api;
struct host_db;
struct host_events;
struct host_luns;
struct host_migrations;
struct host_peers;
struct host_tasks;
struct host_balancer;
struct host_vms;
struct host_volumes;

struct host {
	bool offline; /* no state directory: only luns is there */
	char name[64];
	char vmm[256], kvm[256], firmware[256];
	uint64_t started_ns; /* wall time */
	struct host_state state;
	_Atomic bool ending;	  /* host_stop was called: what waits for storage gives up */
	_Atomic bool maintenance; /* no VM starts here or comes here (maintenance.c) */
	_Atomic bool emptying;	  /* ... and those that are here are being moved */
	struct host_db *db;
	struct host_events *events;
	struct host_tasks *tasks;
	struct host_luns *luns;
	struct host_migrations *migrations;
	struct host_peers *peers;
	struct host_volumes *volumes;
	struct host_vms *vms;
	struct host_balancer *balancer;
	struct host_api *api;
};

/* maintenance.c: what was stored; 0, or -EPERM in words. */
void host_maintenance_load(struct host *host);
int host_maintenance_check(struct host *host);

#endif
