// SPDX-License-Identifier: Apache-2.0
/* vm_def.h (private to host): a VM's definition as it lies on the volume. Calls block. */
#ifndef HOST_VM_DEF_H
#define HOST_VM_DEF_H

#include <stdbool.h>
#include <stdint.h>
#include <jansson.h>

#include "base/cpu_table.h"
#include "base/vmctl.h"
#include "host/vm_share.h"

struct cfs;

#define VM_NAME_MAX  100
#define VM_DISKS_MAX 256
#define VM_LUNS	     1024 /* addresses of disks in the guest; those that were freed rest a while */
#define VM_CPUS_MAX  64
#define VM_NETS_MAX  8
#define VM_DIR	     "/vms"
#define VM_IQN_BYTES 80

struct vm_def_disk {
	char path[256]; /* on the VM's own volume; of a LUN that is passed through: its id */
	unsigned lun;	/* its address in the guest */
	/* Coming or going: not the VM's, but its lock may name the VM. See vm_hotplug.c. */
	bool pending;
	/* A LUN that is passed through, see vm_pass.h. */
	bool pass;
	bool shared;	 /* other VMs may have it too */
	bool unfiltered; /* commands that harm more than its blocks are let through */
	bool drains;	 /* a login by the same name and ISID ends the old session */
	char name[256];	 /* a path, or an iscsi:// URL */
	uint32_t isid;	 /* 24 bits, with the VM's own initiator name */
	uint32_t block;	 /* bytes, logical */
};

/* A network device: a tap that is made for it, in a bridge of the host's; or one that is there. */
struct vm_def_net {
	char bridge[16]; /* or "" and */
	char tap[16];	 /* an interface's name */
	unsigned vlan;	 /* 0: as the bridge has it */
	unsigned queues; /* pairs */
	bool no_vhost;	 /* its frames pass through the VMM even where the kernel has vhost-net */
	uint8_t mac[6];	 /* never changes */
};

struct vm_def {
	char id[40];	 /* a uuid's text; never changes */
	uint64_t memory; /* its maximum: what the guest sees, the size of its memfd */
	struct vm_share share;
	unsigned cpus;
	unsigned disks;
	struct vm_def_disk disk[VM_DISKS_MAX];
	unsigned freed; /* addresses that a running guest had and lost, the longest free first */
	uint16_t freed_lun[VM_LUNS];
	unsigned nets;
	struct vm_def_net net[VM_NETS_MAX];
	char append[2048]; /* the kernel's command line */
	/*
	 * The processor it sees: "" what its host can; a level (base/cpu_level.h); or what named hosts had in
	 * common when they were asked: their names, and the table.
	 */
	char cpu[256];
	struct cpu_table cpu_common; /* no leaves: none */
	bool has_kernel, has_initrd;
	bool firmware; /* boots from its disk */
	bool nested;   /* its guest may run guests */
	enum vmctl_watchdog watchdog;
	char created[40];
};

/* Paths on the volume; owned by the caller. `part` as "vm", "kernel", or NULL for the directory. */
char *vm_path(const char *name, const char *part);
/* -EINVAL for what no VM can be called. */
int vm_check_name(const char *name);
/* Values a VM can have: memory, CPUs. -EINVAL in words. */
int vm_def_check(const struct vm_def *def, const char *name);
/* "off", "reset", "report"; -EINVAL for another word. */
const char *vm_watchdog_name(enum vmctl_watchdog watchdog);
int vm_watchdog_parse(const char *text, enum vmctl_watchdog *out);
/* As it is stored; a new reference. -EUCLEAN for what is none. */
json_t *vm_def_record(const struct vm_def *def);
int vm_def_parse(json_t *doc, const char *name, struct vm_def *out);
int vm_def_load(struct cfs *fs, const char *name, struct vm_def *out);
/* Makes the file `path` with it; durable. */
int vm_def_store(struct cfs *fs, const char *path, const struct vm_def *def);
/* Puts it in the place of the VM's former one; durable, all or nothing. The VM's lock is held. */
int vm_def_replace(struct cfs *fs, const char *name, const struct vm_def *def);
/* Takes over `from`'s disks and freed addresses. */
void vm_def_take_disks(struct vm_def *def, const struct vm_def *from);
/* Its name as an iSCSI initiator, to LUNs that are passed through: the same on each host. */
void vm_def_initiator(const struct vm_def *def, char name[VM_IQN_BYTES]);
/* What people call it: "VOLUME:/path", or the LUN's name; owned by the caller. */
char *vm_def_disk_name(const struct vm_def_disk *disk, const char *volume);
/* The disk's index, or -ENOENT; `path` as on the volume, or a LUN's id. */
int vm_def_find(const struct vm_def *def, const char *path);
/*
 * An address for another disk: the lowest one that is neither used nor rests; if there is none the one that
 * rests longest. With `want` >= 0 that one: -EBUSY it is used, -EPERM it rests.
 */
int vm_def_pick_lun(const struct vm_def *def, const char *name, int want, unsigned *lun);
/* Adds a disk at the end. -EINVAL: too many, the path too long. */
int vm_def_add(struct vm_def *def, const char *name, const char *path, unsigned lun);
/* Removes it; `rest`: its address is not used again soon. */
void vm_def_remove(struct vm_def *def, unsigned index, bool rest);
/* The definition's part of `vm show`, with disks as VOLUME:/path. */
json_t *vm_def_json(const struct vm_def *def, const char *volume);

#endif
