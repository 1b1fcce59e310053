// SPDX-License-Identifier: Apache-2.0
/* vm_processors.c: its group's weight and limit, its pool, and which processors its threads may use. */
#include <dirent.h>
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "host/cgroup.h"
#include "host/pool.h"
#include "host/vm_move.h"
#include "host/vm_run.h"

static void get_share(struct host_vm *vm, struct vm_share *share, unsigned *cpus)
{
	pthread_mutex_lock(&vm->lock);
	*share = vm->def.share;
	*cpus = vm->def.cpus;
	pthread_mutex_unlock(&vm->lock);
}

int vm_cpu_time(struct host_vm *vm, unsigned percent)
{
	struct vm_share share;
	unsigned cpus;

	get_share(vm, &share, &cpus);
	/* Groups know proportions only: a reservation is kept by a weight that is no smaller. */
	struct cgroup_cpu cpu = {.weight = MAX(share.cpu_weight, share.cpu_reserved),
				 .limit = share.cpu_limit};
	if (percent < 100)
		cpu.limit = MAX(1u, (cpu.limit ? cpu.limit : 100 * cpus) * percent / 100);
	return cgroup_cpu(&(struct cgroup){vm->pool, vm->id}, &cpu);
}

/* --- where its threads run ------------------------------------------------------------------------- */

/* Where it is not said, the daemon's own: not those that the kernel or the service keeps for others. */
static int set_affinity(struct host_vm *vm, const struct vm_share *share)
{
	cleanup_free char *path = xasprintf("/proc/%d/task", (int)vm->pid);
	DIR *tasks = opendir(path);
	struct dirent *e;
	cpu_set_t set = vm->all->cpus;
	int rc = share->cpus_allowed[0] ? vm_share_cpus(share->cpus_allowed, &set) : 0;

	/* Threads that come later inherit it. */
	while (rc == 0 && tasks && (e = readdir(tasks))) {
		pid_t tid = (pid_t)atoi(e->d_name);

		if (tid > 0 && sched_setaffinity(tid, sizeof(set), &set) < 0 && errno != ESRCH)
			rc = fail(-EINVAL, "vm %s: this host has no processor of %s", vm->name,
				  share->cpus_allowed[0] ? share->cpus_allowed : "its daemon's");
	}
	if (tasks)
		closedir(tasks);
	return rc;
}

/* The pool is another one than its process is in. */
static int change_pool(struct host_vm *vm, const struct vm_share *share)
{
	struct cgroup old = {vm->pool, vm->id}, now = {share->pool, vm->id};

	if (!strcmp(vm->pool, share->pool))
		return 0;
	if (cgroup_move(&now, vm->pid) < 0)
		return -ENOENT;
	cgroup_forget(&old);
	(void)str_format(vm->pool, sizeof(vm->pool), "%s", share->pool);
	return 0;
}

int vm_apply_cpus(struct host_vm *vm)
{
	struct err_info why;
	struct vm_share share;
	unsigned cpus;
	int rc, placed;

	get_share(vm, &share, &cpus);
	rc = change_pool(vm, &share);
	if (rc == 0)
		rc = host_pool_apply(vm->all->host, vm->pool);
	if (rc == 0)
		rc = vm_cpu_time(vm, 100);
	if (rc == -ENOENT)
		rc = fail(
			-EOPNOTSUPP,
			"vm %s: this host has no control group that shares processors, so weights, "
			"limits and "
			"pools are not kept here; see perilune host check",
			vm->name);
	err_save(&why, rc);
	placed = set_affinity(vm, &share); /* needs no group */
	return rc < 0 ? err_restore(&why) : placed;
}

void vm_try_cpus(struct host_vm *vm)
{
	int rc = vm_apply_cpus(vm);

	if (rc < 0) {
		log_warn("host", "%s", err_message(rc));
		vm_tell_error(vm, err_message(rc));
	}
}
