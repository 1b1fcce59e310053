// SPDX-License-Identifier: Apache-2.0
/*
 * vm_tree.h (private to host): a VM's directory on its volume, made and taken away as a whole. It is
 * built, and taken apart, under a hidden name that says whose work it is: the host's life on the
 * volume, and the daemon's. What a life that is over left behind is removed by whoever finds it.
 */
#ifndef HOST_VM_TREE_H
#define HOST_VM_TREE_H

#include <stdbool.h>

struct cfs;
struct host;
struct host_call;
struct host_volume;

/* The verb. */
int vm_create(struct host_call *call);
/* "/vms/.WHAT-LIFE-RANDOM": no VM is called so; owned by the caller. */
char *vm_hidden_path(const struct host *host, struct cfs *fs, const char *what);
/* Deletes a VM's directory with all that lies in it, also when another does so at the same time. */
int vm_tree_delete(struct cfs *fs, const char *path);
/*
 * Removes what creations and deletions of lives that are over left behind. Blocking. False: to be
 * looked at again: work of another host, which lives or is not seen to be over yet, or an error.
 */
bool vm_tree_clean(struct host *host, struct host_volume *volume);

#endif
