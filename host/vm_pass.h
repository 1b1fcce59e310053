// SPDX-License-Identifier: Apache-2.0
/*
 * vm_pass.h (private to host): LUNs that are passed through to a VM. Calls block.
 *
 * On iSCSI each (VM, LUN) has a session of its own: the initiator's name is derived from the VM's id, the
 * ISID stands in its definition. So an array can mask LUNs per VM, each VM is an initiator of its own to reservations,
 * and whoever runs the VM next is the same initiator: its login ends the old session and keeps what the guest
 * has registered. A session is used only while the VM's lock is ours.
 *
 * A device is claimed (O_EXCL) as long as it is a running VM's: what is mounted or part of another device is not
 * opened, and nobody mounts it meanwhile. While no daemon runs nobody claims it; one that finds it taken then lets its
 * VM wait (vm_disks_insist).
 *
 * A LUN is one VM's. Several VMs may have it if each says `shared`; but a kernel device's initiator is the host:
 * two VMs of one host would be one to the array, and cannot share it there.
 */
#ifndef HOST_VM_PASS_H
#define HOST_VM_PASS_H

#include <stdbool.h>

#include "host/vm_def.h"

struct host;
struct host_vm;
struct host_volume;
struct vm_pass_guard;

/*
 * What `text` (a path, a URL, or the id of a LUN this host knows) is, as VM `def` would see it: fills in the
 * entry but for lun, pending and what the user chose. -EPERM: it holds a volume; -EBUSY: this host uses it; -EINVAL.
 */
int vm_pass_probe(struct host *host, const struct vm_def *def, const char *text,
		  struct vm_def_disk *entry);
/*
 * Nobody else attaches LUNs to VMs of the mounted volumes until vm_pass_done. -EBUSY, naming it: another VM of the mounted
 * volumes has the LUN, and one of both does not share it.
 */
int vm_pass_begin(struct host *host, struct host_volume *volume, const char *name,
		  const struct vm_def_disk *entry, struct vm_pass_guard **guard);
void vm_pass_done(struct vm_pass_guard *guard);
/* -EBUSY, naming it: a VM of the mounted volumes has the LUN `id`. For who would write over it. */
int vm_pass_check_free(struct host *host, const char *id, const char *name);
/*
 * Whether this host could open it for a VM that still runs elsewhere, whose session is left alone: 0, -EBUSY, ...
 * `claimed`: elsewhere is this machine, so that a device is claimed for that VM.
 */
int vm_pass_check(struct host *host, const struct vm_def *def, const struct vm_def_disk *disk,
		  bool claimed);
/* Opens def.disk[index], one of these: vm_disk_open. -EBUSY: this host uses it, or another VM here by the kernel. */
int vm_pass_open(struct host_vm *vm, unsigned index);
/* After its disk is closed. */
void vm_pass_close(struct host_vm *vm, unsigned index);
/* The supervisor's: its VM is about to be another daemon's, perhaps on this machine, which claims its devices; and is not. */
void vm_pass_leave(struct host_vm *vm);
void vm_pass_stay(struct host_vm *vm);

#endif
