// SPDX-License-Identifier: Apache-2.0
/*
 * cgroup.h (private to host): the control groups of VMs: ROOT/perilune/[POOL/]ID in each hierarchy there is,
 * version 2 (where all of it works) or version 1. A machine without them runs VMs too; -ENOENT then says
 * that what was asked for cannot be kept here. System calls alone: any thread.
 */
#ifndef HOST_CGROUP_H
#define HOST_CGROUP_H

#include <stdbool.h>
#include <sys/types.h>

#define CGROUPS	    5
#define CGROUP_PATH 512

/* A VM's group (its id as on the VMM's command line), or with `id` NULL a pool's. */
struct cgroup {
	const char *pool; /* "" : none */
	const char *id;
};

/* What a group gets of its parent's processors. */
struct cgroup_cpu {
	unsigned weight; /* 1 to 10000, beside its neighbours; 100 is the usual one */
	unsigned limit;	 /* percent of one processor; 0: none */
};

/* Makes the group; files[i]: where to write a pid, or "". */
void cgroup_make(const struct cgroup *g, char files[CGROUPS][CGROUP_PATH]);
/* Moves a process into it, made if need be. -ENOENT: nowhere. */
int cgroup_move(const struct cgroup *g, pid_t pid);
/* An empty one goes, and its pool's if that is empty then; others stay. */
void cgroup_forget(const struct cgroup *g);
/* -ENOENT: there is no such group with a say over processors, though more than the usual was wanted. */
int cgroup_cpu(const struct cgroup *g, const struct cgroup_cpu *cpu);
/* What this machine has: "v2", "v1", or NULL: no group that processors can be shared by. */
const char *cgroup_kind(void);

#endif
