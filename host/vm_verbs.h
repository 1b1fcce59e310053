// SPDX-License-Identifier: Apache-2.0
/* vm_verbs.h (private to host): what the verbs on VMs share. */
#ifndef HOST_VM_VERBS_H
#define HOST_VM_VERBS_H

struct host_call;
struct host_volume;

/* Argument "name", NAME or VOLUME:NAME, of a VM that exists: a use of its volume; name borrowed. */
int vm_resolve(struct host_call *call, struct host_volume **volume, const char **name);
/* -EBUSY with the holder when some host runs it. */
int vm_refuse_elsewhere(struct host_volume *v, const char *name);

#endif
