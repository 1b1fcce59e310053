// SPDX-License-Identifier: Apache-2.0
/*
 * vm.h (private to host): the VMs of this host's volumes, and those that run here.
 *
 * A VM is a directory /vms/NAME on its volume: `vm` (an object whose lock decides who runs it; one
 * lock decides for a VM), `definition.json`, `kernel`, `initrd`. Its disks are opened with locks that
 * name the VM. A VM that runs here has a supervisor thread (vm_run.h), and a record in the inventory
 * by which the next daemon finds its VMM.
 */
#ifndef HOST_VM_H
#define HOST_VM_H

#include <stdint.h>
#include <jansson.h>

struct host;
struct host_vms;
struct host_volume;

int host_vms_create(struct host *host, struct host_vms **out);
/* Lets all VMs go, running: the next daemon takes them up. */
void host_vms_destroy(struct host_vms *vms);
/*
 * Returns when no VM here waits for memory from another host (post-copy): the next daemon could not fetch it. As long as
 * that takes; it ends when the source or the way to it is gone. `vms` may be NULL.
 */
void host_vms_await_memory(struct host_vms *vms);
/*
 * A volume was mounted: VMs of a former daemon of this host that still run are taken up; locks that
 * name this host but no living VMM are given up. Returns when each serves, or after a few seconds.
 */
void host_vms_adopt(struct host_vms *vms, struct host_volume *volume);
/* The volume's life is over (another host took our slot): its VMs here are ended. Never blocks. */
void host_vms_lost(struct host_vms *vms, struct host_volume *volume);
/*
 * The disk at `path` of a VM that runs here gets `size` bytes; the guest is told.
 * -ENOENT: no VM here uses it; -EPERM: it has more.
 */
int host_vms_grow_disk(struct host_vms *vms, struct host_volume *volume, const char *path,
		       uint64_t size);
/* For `status`: {"name", "volume", "state", "host"} of those that run here, and "why" as vm_state_why. */
json_t *host_vms_running(struct host_vms *vms);
/* How many are on their way to here, or from here. */
unsigned host_vms_between(struct host_vms *vms);

#endif
