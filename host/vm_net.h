// SPDX-License-Identifier: Apache-2.0
/*
 * vm_net.h (private to host): the network devices of a VM: in its definition, and the taps of one that runs.
 * A tap is the VMM's (base/vmctl.h, NET): this daemon opens it, puts it into its bridge, and keeps its name.
 */
#ifndef HOST_VM_NET_H
#define HOST_VM_NET_H

#include <jansson.h>

#include "host/tap.h"
#include "host/vm_def.h"

struct host_vm;
struct vmctl_config;

/* --- vm_def_net.c: definitions --------------------------------------------------------------------- */

/*
 * Adds what a user says: "bridge=BR[,vlan=N][,queues=N][,vhost=off][,mac=AA:BB:CC:DD:EE:FF]" or "tap=T[,...]". Without
 * `mac` one is made up, locally administered. -EINVAL in words.
 */
int vm_def_net_add(struct vm_def *def, const char *name, const char *text);
/* As it is stored; a new reference. -EUCLEAN for what is none. */
json_t *vm_def_nets_record(const struct vm_def *def);
int vm_def_nets_parse(json_t *list, const char *name, struct vm_def *out);
/*
 * For `vm show`: each with its place, "mac", "state" ("off", "connected", "disconnected") and, of a VM that runs
 * here, "device". `vm` may be NULL: it does not.
 */
json_t *vm_def_nets_json(const struct vm_def *def, struct host_vm *vm);

struct tap_place vm_net_place(const struct vm_def_net *net);

/* --- vm_net.c: of one that runs, in its supervisor --------------------------------------------------- */

/* What it needs of this host is there; errors name it. Any thread. */
int vm_nets_check(const struct vm_def *def, const char *name);
/* Its devices in CONFIG, behind all others. */
void vm_nets_configure(struct host_vm *vm, struct vmctl_config *config);
/* Behind CONFIG: taps are made and given to the VMM. */
int vm_nets_open(struct host_vm *vm);
/* In the inventory's record. */
json_t *vm_nets_record(const struct host_vm *vm);
void vm_nets_recall(struct host_vm *vm, json_t *list);

#endif
