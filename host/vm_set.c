// SPDX-License-Identifier: Apache-2.0
/*
 * vm_set.c: `vm set`: what a VM gets of its host and what is in its machine, changed in its definition, and at once where it runs. The
 * definition comes first: a daemon that dies in between is followed by one that reads it.
 */
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/util.h"
#include "clusterfs/cfs.h"
#include "host/admission.h"
#include "host/cgroup.h"
#include "host/daemon.h"
#include "host/event.h"
#include "host/verbs.h"
#include "host/vm_cpu.h"
#include "host/vm_move.h"
#include "host/vm_run.h"
#include "host/vm_share.h"
#include "host/volume.h"

#define CHANGE_MS 60000 /* it may be starting */

struct change {
	struct host_call *call;
	struct host_volume *volume;
	const char *name;
	uint64_t memory_max; /* 0: not said */
};

static int apply(struct change *c, struct vm_def *def)
{
	bool changed = c->memory_max != 0;
	bool all = def->share.memory == def->memory, machine;
	int rc = vm_machine_args(def, c->call, c->name, &machine);

	if (rc < 0)
		return rc;
	changed = changed || machine;

	if (c->memory_max)
		def->memory = c->memory_max;
	rc = vm_share_args(&def->share, c->call, &changed);
	if (rc == 0 && host_arg(c->call, "cpu")) {
		rc = vm_cpu_option(c->call, def, c->name);
		changed = true;
	}
	/* One that had all of its maximum has all of the new one, if nothing else is said. */
	if (c->memory_max && all && !host_arg(c->call, "memory") &&
	    !json_object_get(c->call->args, "memory"))
		def->share.memory = def->memory;
	if (rc == 0 && !changed)
		rc = fail(-EINVAL, "vm set: nothing to change; see perilune vm set --help");
	if (rc == 0 && def->firmware && def->disks == 0)
		rc = fail(-EINVAL, "vm %s: has no disk to boot from", c->name);
	if (rc == 0 && !def->firmware && !def->has_kernel && host_arg(c->call, "boot"))
		rc = fail(-EINVAL, "vm %s: has no kernel; it was not made with --kernel", c->name);
	return rc < 0 ? rc : vm_def_check(def, c->name);
}

/* --- one that runs here ---------------------------------------------------------------------------- */

/* What this host could not do is refused before anything is changed. */
static int check_groups(const struct vm_def *def)
{
	const struct vm_share *s = &def->share;

	if (cgroup_kind() || (s->cpu_weight == VM_SHARES_DEFAULT && !s->cpu_limit && !s->pool[0]))
		return 0;
	return fail(-EOPNOTSUPP,
		    "vm set: this host has no control group that shares processors: no "
		    "weights, limits and pools here; see perilune host check");
}

/* The kernel takes what has one processor at least that is there and may be used: this thread tries it. */
static int check_processors(const struct vm_def *def, const char *name)
{
	cpu_set_t own, wanted;
	int rc = vm_share_cpus(def->share.cpus_allowed, &wanted);

	if (rc < 0 || !def->share.cpus_allowed[0] || sched_getaffinity(0, sizeof(own), &own) < 0)
		return rc;
	if (sched_setaffinity(0, sizeof(wanted), &wanted) < 0)
		return fail(-EINVAL, "vm %s: this host has no processor of %s", name,
			    def->share.cpus_allowed);
	(void)sched_setaffinity(0, sizeof(own), &own);
	return 0;
}

static bool same_cpus(const struct vm_share *a, const struct vm_share *b)
{
	return a->cpu_weight == b->cpu_weight && a->cpu_limit == b->cpu_limit &&
	       a->cpu_reserved == b->cpu_reserved && !strcmp(a->pool, b->pool) &&
	       !strcmp(a->cpus_allowed, b->cpus_allowed);
}

static int do_cpus(struct host_vm *vm, void *arg)
{
	int rc = vm_apply_cpus(vm);

	(void)arg;
	return rc == 0 ? vm_remember(vm) : rc; /* the next daemon looks for it in its pool */
}

/* More than before must fit, and counts from now on: others look before the definition is written. */
static int admit(struct host_vm *vm, const struct vm_def *def, const struct vm_share *was)
{
	int rc;

	if (vm_share_reserved(&def->share) <= vm_share_reserved(was) &&
	    def->share.cpu_reserved <= was->cpu_reserved)
		return 0;
	pthread_mutex_lock(&vm->all->lock);
	rc = host_admit(vm->all, &def->share, vm->name, vm);
	if (rc == 0) {
		vm->claim.memory = vm_share_reserved(&def->share);
		vm->claim.cpu = def->share.cpu_reserved;
	}
	pthread_mutex_unlock(&vm->all->lock);
	return rc;
}

/* It has what it was admitted for, or will not. */
static void take(struct host_vm *vm, const struct vm_share *share)
{
	pthread_mutex_lock(&vm->all->lock);
	if (share) {
		pthread_mutex_lock(&vm->lock);
		vm->def.share = *share;
		pthread_mutex_unlock(&vm->lock);
	}
	vm->claim.memory = 0;
	vm->claim.cpu = 0;
	pthread_mutex_unlock(&vm->all->lock);
}

static int change_running(struct change *c, struct host_vm *vm, struct vm_def *def)
{
	struct vm_share was;
	bool machine;
	int rc;

	vm_get_def(vm, def);
	if (vm_machine_args(def, c->call, c->name, &machine) < 0 || machine)
		return fail(-EBUSY,
			    "vm %s: runs; what is in its machine is changed while it is off",
			    c->name);
	if (c->memory_max && c->memory_max != def->memory)
		return fail(-EBUSY,
			    "vm %s: runs; its maximum is what its guest was started with, stop it "
			    "first",
			    c->name);
	if (host_arg(c->call, "cpu"))
		return fail(-EBUSY,
			    "vm %s: runs; its guest keeps the processor it was started with, stop "
			    "it first",
			    c->name);
	was = def->share;
	rc = apply(c, def);
	if (rc == 0)
		rc = check_groups(def);
	if (rc == 0)
		rc = check_processors(def, c->name);
	if (rc == 0)
		rc = admit(vm, def, &was);
	if (rc < 0)
		return rc;
	host_step(c->call->host, "set.admitted");
	rc = vm_def_replace(host_volume_fs(vm->volume), vm->name, def);
	take(vm, rc == 0 ? &def->share : NULL);
	if (rc < 0)
		return rc;
	host_step(c->call->host, "set.written");
	vm_wake(vm);
	return same_cpus(&was, &def->share) ? 0 : vm_do(vm, do_cpus, NULL);
}

static int set_running(struct change *c, struct host_vm *vm)
{
	struct vm_def *def;
	int rc = vm_change_begin(vm, "its share of the host is being changed", false, CHANGE_MS);

	if (rc < 0)
		return rc;
	def = xmalloc(sizeof(*def));
	rc = change_running(c, vm, def);
	free(def);
	vm_change_end(vm);
	return rc;
}

/* --- one that is off ------------------------------------------------------------------------------- */

static int set_stopped(struct change *c)
{
	struct cfs *fs = host_volume_fs(c->volume);
	struct vm_def *def = xmalloc(sizeof(*def));
	struct cfs_vm_lock *lock;
	int rc = vm_hold(c->volume, c->name, &lock);

	if (rc == 0) {
		rc = vm_def_load(fs, c->name, def);
		if (rc == 0)
			rc = apply(c, def);
		if (rc == 0)
			rc = vm_def_replace(fs, c->name, def);
		host_step(c->call->host, "set.held");
		(void)cfs_vm_unlock(lock);
	}
	free(def);
	return rc;
}

static int vm_set(struct host_call *call)
{
	struct change c = {.call = call};
	struct host_vm *vm;
	int rc = host_arg_u64(call, "memory_max", 0, &c.memory_max);

	if (rc == 0)
		rc = vm_named(call, &c.volume, &c.name);
	if (rc < 0)
		return rc;
	vm = vm_find(call->host->vms, c.volume, c.name);
	rc = vm ? set_running(&c, vm) : set_stopped(&c);
	if (vm)
		vm_put(vm);
	if (rc == 0)
		host_event(call->host->events, "vm", c.name, "its definition was changed");
	host_volume_put(c.volume);
	return rc;
}

const struct host_verb host_vm_set_verbs[] = {
	{"vm", "set", HOST_CHANGES, vm_set},
	{NULL, NULL, 0, NULL},
};
