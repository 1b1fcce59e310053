// SPDX-License-Identifier: Apache-2.0
/* vm_tree.h (private to host): a VM's directory on its volume, made and taken away as a whole. */
#ifndef HOST_VM_TREE_H
#define HOST_VM_TREE_H

struct cfs;
struct host_call;

/* The verb. */
int vm_create(struct host_call *call);
/* "/vms/.WHAT-RANDOM": no VM is called so; owned by the caller. */
char *vm_hidden_path(const char *what);
/* Deletes a VM's directory with all that lies in it. */
int vm_tree_delete(struct cfs *fs, const char *path);

#endif
