// SPDX-License-Identifier: Apache-2.0
/*
 * vm_saved.h (private to host): VMs whose state lies on their volume. `vm save` is a migration to a file, `vm start`
 * and `vm restore` one from it; what decides is the VM's lock (cfs.h, "a VM that is saved").
 *
 * The file is /vms/NAME/state (migrate/statefile.h), and nothing unless the lock names it: one that is left over goes
 * with the next save, or the next start. Its words are JSON: {"version", "name", "definition", "cpu", "started_ns",
 * "held", "host", "saved"}.
 */
#ifndef HOST_VM_SAVED_H
#define HOST_VM_SAVED_H

#include <stdbool.h>
#include <jansson.h>

#include "clusterfs/cfs.h"
#include "host/vm_run.h"

struct host_call;

#define VM_STATE_FILE	 "state"
#define VM_STATE_VERSION 1
#define VM_SAVED_RUNS	 1

/* --- vm_save.c ------------------------------------------------------------------------------------ */

/* The verb. */
int vm_save(struct host_call *call);
/*
 * A VM that runs here, or is held: to its volume; 0: it is off. Waits. `call` for progress and cancelling, may be
 * NULL: then it is given up when the daemon is told to stop. `whole` (may be NULL) is told of the state when that is
 * durable, right before the lock is to name it. *bytes: of its memory that were not zero.
 */
typedef void (*vm_whole_fn)(void *arg, const struct cfs_saved *state);
int vm_save_it(struct host_vm *vm, struct host_call *call, vm_whole_fn whole, void *arg,
	       uint64_t *bytes);

/* --- vm_restore.c --------------------------------------------------------------------------------- */

/*
 * Supervisor, before a start: 0 it is to begin anew, its lock ours already if a state was thrown away; VM_SAVED_RUNS:
 * it went on where it was saved, or is held there. An error before its lock was taken leaves the state as it was.
 */
int vm_saved_begin(struct host_vm *vm);
/* The VM's lock is ours, so the file is nobody's. */
void vm_saved_remove(struct host_vm *vm);
bool vm_is_saved(struct cfs *fs, const char *name);
/* Which state it is, among all that were and will be, in words for the inventory; -EINVAL: no such words. */
#define VM_STATE_TEXT 64
void vm_saved_text(const struct cfs_saved *state, char dst[VM_STATE_TEXT]);
int vm_saved_parse(const char *text, struct cfs_saved *out);
/* -EBUSY: it is, and what can be done. */
int vm_say_saved(struct host_volume *volume, const char *name);
/* "saved": when, "saved_bytes": how much of the volume. */
void vm_saved_describe(struct host_volume *volume, const char *name, json_t *d);
/* As vm_hold; if it is saved that is thrown away, and its disks are free. */
int vm_saved_hold(struct host_volume *volume, const char *name, struct cfs_vm_lock **lock);

#endif
