// SPDX-License-Identifier: Apache-2.0
/*
 * vm_pass.h (private to host): LUNs that are passed through to a VM. Calls block.
 *
 * On iSCSI each (VM, LUN) has a session of its own: the initiator's name is derived from the VM's id, the
 * ISID stands in its definition. So an array can mask LUNs per VM, each VM is an initiator of its own to reservations,
 * and whoever runs the VM next is the same initiator: its login ends the old session and keeps what the guest
 * has registered. A session is used only while the VM's lock is ours.
 *
 * A LUN is one VM's. Several VMs may have it if each says `shared`; but a kernel device's initiator is the host:
 * two VMs of one host would be one to the array, and cannot share it there.
 */
#ifndef HOST_VM_PASS_H
#define HOST_VM_PASS_H

#include <stdbool.h>

#include "host/vm_def.h"

struct cfs_file;
struct host;
struct host_vm;
struct host_volume;

/*
 * What `text` (a path, a URL, or the id of a LUN this host knows) is, as VM `def` would see it: fills in the
 * entry but for lun, pending and what the user chose. -EPERM: it holds a volume; -EBUSY: this host uses it; -EINVAL.
 */
int vm_pass_probe(struct host *host, const struct vm_def *def, const char *text,
		  struct vm_def_disk *entry);
/*
 * Nobody else attaches LUNs to VMs of this volume until vm_pass_done. -EBUSY, naming it: another VM of the mounted
 * volumes has the LUN, and one of both does not share it.
 */
int vm_pass_begin(struct host *host, struct host_volume *volume, const char *name,
		  const struct vm_def_disk *entry, struct cfs_file **guard);
void vm_pass_done(struct cfs_file *guard);
/* -EBUSY, naming it: a VM of the mounted volumes has the LUN `id`. For who would write over it. */
int vm_pass_check_free(struct host *host, const char *id, const char *name);
/* Whether this host could open it for a VM that still runs elsewhere, whose session is left alone: 0, -EBUSY, ... */
int vm_pass_check(struct host *host, const struct vm_def *def, const struct vm_def_disk *disk);
/* Opens def.disk[index], one of these: vm_disk_open. */
int vm_pass_open(struct host_vm *vm, unsigned index);
/* After its disk is closed. */
void vm_pass_close(struct host_vm *vm, unsigned index);

#endif
