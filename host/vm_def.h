// SPDX-License-Identifier: Apache-2.0
/* vm_def.h (private to host): a VM's definition as it lies on the volume. Calls block. */
#ifndef HOST_VM_DEF_H
#define HOST_VM_DEF_H

#include <stdbool.h>
#include <stdint.h>
#include <jansson.h>

struct cfs;

#define VM_NAME_MAX  100
#define VM_DISKS_MAX 64
#define VM_CPUS_MAX  64
#define VM_DIR	     "/vms"

struct vm_def {
	char id[40]; /* a uuid's text; never changes */
	uint64_t memory;
	unsigned cpus;
	unsigned disks;
	char disk[VM_DISKS_MAX][256]; /* paths on the VM's own volume */
	char append[2048];	      /* the kernel's command line */
	bool has_kernel, has_initrd;
	char created[40];
};

/* Paths on the volume; owned by the caller. `part` as "vm", "kernel", or NULL for the directory. */
char *vm_path(const char *name, const char *part);
/* -EINVAL for what no VM can be called. */
int vm_check_name(const char *name);
/* Values a VM can have: memory, CPUs. -EINVAL in words. */
int vm_def_check(const struct vm_def *def, const char *name);
/* As it is stored; a new reference. -EUCLEAN for what is none. */
json_t *vm_def_record(const struct vm_def *def);
int vm_def_parse(json_t *doc, const char *name, struct vm_def *out);
int vm_def_load(struct cfs *fs, const char *name, struct vm_def *out);
/* Writes it to `path`: durable, all or nothing. */
int vm_def_store(struct cfs *fs, const char *path, const struct vm_def *def);
/* The definition's part of `vm show`, with disks as VOLUME:/path. */
json_t *vm_def_json(const struct vm_def *def, const char *volume);

#endif
