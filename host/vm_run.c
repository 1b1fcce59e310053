// SPDX-License-Identifier: Apache-2.0
/*
 * vm_run.c: a VM's supervisor: it comes up (vm_start.c), runs (vm_turn.c), is taken apart. One thread a
 * VM; it may block, nobody waits for it but who asked.
 *
 * Taking apart is a start backwards. The next daemon finds in the inventory whatever this one had begun.
 */
#include "host/vm_run.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/log.h"
#include "clusterfs/cfs.h"
#include "host/admission.h"
#include "host/daemon.h"
#include "host/vm_lazy.h"
#include "host/vm_move.h"
#include "host/volume.h"

/* --- its end -------------------------------------------------------------------------------------- */

static void take_apart(struct host_vm *vm)
{
	int rc;

	vm_move_break(vm, "the VM ended");
	if (vm->conn && !vm_process_ended(vm))
		(void)vm_call_plain(vm, VMCTL_KILL, 1000); /* its last words; then it is killed */
	vm_kill_process(vm);
	vm_lazy_stop(vm);
	vm_move_end(vm, "the VM ended"); /* which may wait for storage, and reads the memory */
	vm_end_process(vm);
	vm_disks_close(vm, true);
	vm_lazy_free(vm);
	rc = vm->vm_lock ? cfs_vm_unlock(vm->vm_lock) : 0;
	vm->vm_lock = NULL;
	if (rc < 0) {
		cleanup_free char *text = xasprintf(
			"its lock is not given up yet, that is tried again: %s", err_message(rc));

		vm_tell(vm, text);
		(void)vm_remember(vm); /* should the next daemon have to do it */
	} else {
		vm_forget(vm);
	}
}

/* Another host runs it: what is here goes without a word to the volume. */
static void part_with(struct host_vm *vm)
{
	pthread_mutex_lock(&vm->all->lock);
	vm->departed = !vm->orphan && !vm->saved;
	pthread_mutex_unlock(&vm->all->lock);
	vm_kill_process(vm);
	vm_lazy_stop(vm);
	vm_move_end(vm, "the VM is another host's");
	vm_end_process(vm);
	vm_disks_close(vm, false);
	vm_lazy_free(vm);
	if (vm->vm_lock)
		cfs_vm_forget(vm->vm_lock);
	vm->vm_lock = NULL;
	vm_forget(vm);
}

static void note_end(struct host_vm *vm, int rc, bool came_up)
{
	struct host_vms *all = vm->all;
	cleanup_free char *moved = xasprintf("moved to host %s", vm->move_to);
	const char *why = vm->moved ? "it is another host's, or nobody's" : "stopped";

	if (vm->saved)
		why = "stopped: it is saved";
	else if (rc < 0)
		why = err_message(rc);
	else if (vm->moved && vm->move_to[0])
		why = moved;
	if (came_up || rc == 0)
		vm_tell_error(vm, why);
	came_up &= !vm->moved || vm->orphan;
	pthread_mutex_lock(&all->lock);
	if (rc < 0 && came_up)
		json_object_set_new(all->crashes, vm->def.id, json_string(why));
	list_del(&vm->link);
	pthread_mutex_unlock(&all->lock);
}

static void end(struct host_vm *vm, const struct err_info *why)
{
	pthread_mutex_lock(&vm->lock);
	vm->ended = *why;
	vm->phase = VM_ENDED;
	for (unsigned i = 0; i < CONSOLE_CLIENTS; i++)
		if (vm->client[i] >= 0)
			close(vm->client[i]);
	pthread_cond_broadcast(&vm->changed);
	pthread_mutex_unlock(&vm->lock);
}

struct launch {
	struct host_vm *vm;
	json_t *record;
	struct vm_arrival *arrival;
};

static int come_up(struct launch *l)
{
	if (l->arrival)
		return vm_arrive(l->vm, l->arrival);
	return l->record ? vm_adopt(l->vm, l->record) : vm_bring_up(l->vm);
}

static void *supervisor(void *arg)
{
	struct launch *launch = arg;
	struct host_vm *vm = launch->vm;
	struct err_info why = {0};
	bool let_go = false, came_up;
	bool arrives = launch->arrival;
	int rc = come_up(launch);

	/* A guest that had run before is missed; one that was never started is not. */
	came_up = rc >= 0 ||
		  (arrives ? vm->vm_lock != NULL
			   : json_integer_value(json_object_get(launch->record, "pid")) &&
				     (vm->vm_lock ||
				      !json_is_true(json_object_get(launch->record, "arriving"))));
	json_decref(launch->record);
	free(launch);
	if (rc >= 0) {
		if (!arrives)
			vm_tell(vm, vm->came	? "restored: goes on where it was saved"
				    : vm->adopt ? "taken up from the daemon before"
						: "started");
		if (vm->phase == VM_STARTING) /* it stands still, for a reason known already */
			vm_set_phase(vm, vm->held ? VM_PAUSED : VM_RUNNING);
		vm_agent_start(vm->agent, vm->features & VMCTL_F_AGENT, !vm->adopt);
		rc = vm_turns(vm, &let_go);
	}
	if (let_go && (vm->lazy || vm->whole_owed)) { /* the next daemon could not go on with it */
		rc = vm_lazy_wait(vm);
		let_go = rc == 0;
	}
	if (rc < 0)
		err_save(&why, rc);
	vm_agent_stop(vm->agent);
	if (vm->unsettled)
		host_volume_keep(vm->volume);
	let_go |= vm->unsettled;
	if (let_go) {
		pthread_mutex_lock(&vm->lock);
		vm->left = true;
		pthread_mutex_unlock(&vm->lock);
		vm_lazy_stop(vm);
		vm_move_end(vm, "perilund is stopping");
		vm_disks_close(vm, false);
		vm_lazy_free(vm);
		if (vm->vm_lock)
			cfs_vm_leave(vm->vm_lock);
		vm->vm_lock = NULL;
		vm_let_go(vm);
	} else if (vm->moved) {
		part_with(vm);
	} else {
		take_apart(vm);
	}
	if (rc < 0)
		(void)err_restore(&why);
	if (!let_go)
		note_end(vm, rc, came_up);
	vm_console_destroy(vm->console);
	vm->console = NULL;
	end(vm, &why);
	vm_put(vm);
	return NULL;
}

/* --- making one known ------------------------------------------------------------------------------ */

bool vm_is_here(const struct host_vm *vm)
{
	return !vm->arriving && !vm->departed;
}

struct host_vm *vm_find(struct host_vms *all, struct host_volume *volume, const char *name)
{
	struct host_vm *vm, *hit = NULL;

	pthread_mutex_lock(&all->lock);
	list_for_each (vm, &all->list, link)
		if (vm->volume == volume && !strcmp(vm->name, name) && vm_is_here(vm)) {
			vm->uses++;
			hit = vm;
		}
	pthread_mutex_unlock(&all->lock);
	return hit;
}

void vm_put(struct host_vm *vm)
{
	struct host_vms *all = vm->all;
	bool last;

	pthread_mutex_lock(&all->lock);
	last = --vm->uses == 0;
	if (last)
		list_del(&vm->link);
	pthread_mutex_unlock(&all->lock);
	if (!last)
		return;
	host_volume_count_vm(vm->volume, -1);
	host_volume_put(vm->volume);
	pthread_mutex_lock(&all->lock);
	all->count--;
	pthread_cond_broadcast(&all->changed);
	pthread_mutex_unlock(&all->lock);
	close(vm->wake_fd);
	vm_agent_destroy(vm->agent);
	pthread_mutex_destroy(&vm->lock);
	pthread_cond_destroy(&vm->changed);
	free(vm);
}

static int agent_connect(void *arg, bool thaws)
{
	return vm_connect_agent(arg, thaws);
}

static bool agent_runs(void *arg)
{
	struct host_vm *vm = arg;
	bool runs;

	pthread_mutex_lock(&vm->lock);
	runs = vm->phase == VM_RUNNING;
	pthread_mutex_unlock(&vm->lock);
	return runs;
}

static void agent_tell(void *arg, const char *text)
{
	vm_tell(arg, text);
}

static const struct vm_agent_ops agent_ops = {
	.connect = agent_connect, .runs = agent_runs, .tell = agent_tell};

static struct host_vm *create(struct host_vms *all, struct host_volume *volume, const char *name,
			      const char *volume_id, const struct vm_def *def, bool adopt)
{
	struct host_vm *vm = xcalloc(1, sizeof(*vm));
	cleanup_free char *log = NULL;
	pthread_condattr_t monotonic;

	vm->all = all;
	vm->volume = volume;
	vm->def = *def;
	vm->adopt = adopt;
	vm->memory_fd = vm->pid_fd = -1;
	vm->phase = VM_STARTING;
	vm->step = "waiting";
	vm->uses = 2; /* the supervisor's and the caller's */
	(void)str_format(vm->name, sizeof(vm->name), "%s", name);
	vm_name_files(vm, volume_id);
	for (unsigned i = 0; i < CONSOLE_CLIENTS; i++)
		vm->client[i] = -1;
	pthread_mutex_init(&vm->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&vm->changed, &monotonic);
	vm->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	MUST(vm->wake_fd >= 0);
	log = vm_console_path(all->host, volume_id, name);
	vm->console = vm_console_create(log);
	vm->agent = vm_agent_create(vm->name, &agent_ops, vm);
	list_init(&vm->link);
	list_init(&vm->lease_link);
	return vm;
}

/* Caller holds the lock. */
static int check_free(struct host_vms *all, struct host_volume *volume, const char *name)
{
	struct host_vm *vm;

	list_for_each (vm, &all->list, link) {
		if (vm->volume != volume || strcmp(vm->name, name))
			continue;
		(void)fail(-EBUSY,
			   vm->arriving	  ? "vm %s: is on its way to this host, %s; if that came to"
					    " nothing, try again in a few seconds"
			   : vm->departed ? "vm %s: has left this host, %s, for another one, where"
					    " not all of it is yet; if that came to nothing, try"
					    " again in a few seconds"
					  : "vm %s: runs on this host, %s, already",
			   name, all->host->name);
		err_object("%s:%s", host_volume_name(volume), name);
		if (vm_is_here(vm))
			err_holder("host %s", all->host->name);
		return -EBUSY;
	}
	return 0;
}

static int launch_it(struct host_vms *all, struct host_volume *volume, const char *name,
		     const struct vm_def *def, enum vm_how how, const struct cfs_saved *only,
		     json_t *record, struct vm_arrival *arrival, struct host_vm **out)
{
	char volume_name[64], id[40];
	struct launch *launch = xcalloc(1, sizeof(*launch));
	struct host_vm *vm;
	int rc;

	cfs_names(host_volume_fs(volume), volume_name, id);
	vm = create(all, volume, name, id, def, record != NULL || arrival);
	vm->arriving = vm->came = arrival;
	vm->stands = arrival || json_is_true(json_object_get(record, "arriving"));
	vm->how = how;
	if (only)
		vm->only = *only;
	pthread_mutex_lock(&all->lock);
	rc = all->ending ? fail(-ENOTCONN, "perilund is stopping") : check_free(all, volume, name);
	if (rc == 0 && !record) /* here as well: who empties this host looks at the list */
		rc = host_maintenance_check(all->host);
	if (rc == 0 && !record) /* one that is taken up runs already */
		rc = host_admit(all, &def->share, name, NULL);
	if (rc == 0) {
		list_add_tail(&all->list, &vm->link);
		all->count++;
		json_object_del(all->crashes, def->id);
		host_volume_count_vm(volume, 1);
	}
	pthread_mutex_unlock(&all->lock);
	if (rc < 0) {
		vm_console_destroy(vm->console);
		vm_agent_destroy(vm->agent);
		close(vm->wake_fd);
		free(vm);
		free(launch);
		host_volume_put(volume);
		return rc;
	}
	launch->vm = vm;
	launch->record = json_incref(record);
	launch->arrival = arrival;
	MUST(pthread_create(&vm->thread, NULL, supervisor, launch) == 0);
	pthread_detach(vm->thread);
	pthread_setname_np(vm->thread, "vm");
	*out = vm;
	return 0;
}

int vm_launch(struct host_vms *all, struct host_volume *volume, const char *name,
	      const struct vm_def *def, enum vm_how how, const struct cfs_saved *only,
	      json_t *record, struct host_vm **out)
{
	return launch_it(all, volume, name, def, how, only, record, NULL, out);
}

int vm_launch_arrival(struct host_vms *all, struct host_volume *volume, const char *name,
		      const struct vm_def *def, struct vm_arrival *arrival)
{
	struct host_vm *vm;
	int rc = launch_it(all, volume, name, def, VM_HOW_ANY, NULL, NULL, arrival, &vm);

	if (rc == 0)
		vm_put(vm);
	return rc;
}

void vm_arrived(struct host_vm *vm)
{
	pthread_mutex_lock(&vm->all->lock);
	vm->arriving = false;
	pthread_mutex_unlock(&vm->all->lock);
}
