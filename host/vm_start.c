// SPDX-License-Identifier: Apache-2.0
/*
 * vm_start.c: how a VM comes up, in its supervisor: inventory, lock, disks, VMM, inventory (with the
 * pid), guest; or how the VMM of a former daemon is taken up.
 */
#include "host/vm_run.h"

#include <errno.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "clusterfs/cfs.h"
#include "host/daemon.h"
#include "host/vm_cpu.h"
#include "host/vm_move.h"
#include "host/vm_net.h"
#include "host/vm_saved.h"
#include "host/volume.h"

#define LOCK_MS	    60000 /* a dead host's lease, its takeover and replay */
#define LOCK_TRY_MS 250

static int given_up(struct host_vm *vm)
{
	bool killed;

	pthread_mutex_lock(&vm->lock);
	killed = vm->killed;
	pthread_mutex_unlock(&vm->lock);
	return killed ? fail(-ECANCELED, "vm %s: the start was given up", vm->name) : 0;
}

/* Who has the lock runs the VM, unless it is only being edited, or its host is silent. */
static int name_owner(struct host_vm *vm, const char *path, int rc)
{
	struct err_info why;
	char owner[64], object[200];

	err_save(&why, rc);
	if (vm_is_saved(host_volume_fs(vm->volume), vm->name))
		return vm_say_saved(vm->volume, vm->name);
	if (cfs_vm_owner(host_volume_fs(vm->volume), path, owner, sizeof(owner)) < 0)
		return err_restore(&why);
	rc = fail(-EBUSY, "vm %s: runs on host %s; stop it there first", vm->name, owner);
	err_object("%s", vm_object(vm, object));
	err_holder("host %s", owner);
	return rc;
}

/*
 * The definition may have been changed by who held the lock before; that of a guest that runs tells which
 * disks it has, since it may have got and lost some, and its share of the host, but is otherwise for its next
 * start.
 */
static int load_def(struct host_vm *vm)
{
	struct vm_def *def = xmalloc(sizeof(*def));
	int rc = vm_def_load(host_volume_fs(vm->volume), vm->name, def);

	if (rc == 0) {
		pthread_mutex_lock(&vm->lock);
		if (vm->adopt) {
			vm_def_take_disks(&vm->def, def);
			if (vm->def.memory == def->memory)
				vm->def.share = def->share;
		} else {
			vm->def = *def;
		}
		pthread_mutex_unlock(&vm->lock);
	}
	free(def);
	return rc;
}

static int take_lock(struct host_vm *vm)
{
	cleanup_free char *path = vm_path(vm->name, "vm");
	struct cfs *fs = host_volume_fs(vm->volume);
	int rc = 0;

	if (!vm->vm_lock)
		rc = vm->adopt ? cfs_vm_adopt(fs, path, &vm->vm_lock)
			       : cfs_vm_lock(fs, path, LOCK_MS, &vm->vm_lock);
	if (rc == -EBUSY)
		rc = name_owner(vm, path, rc);
	return rc < 0 ? rc : load_def(vm);
}

/* Of a VMM that lives: storage that fails for a while is no reason to end it, or to leave its lock behind. */
static int take_lock_surely(struct host_vm *vm)
{
	bool said = false, leave;

	for (;;) {
		int rc = take_lock(vm);

		vm_note_waiting(vm, rc);
		pthread_mutex_lock(&vm->lock);
		leave = vm->ask == VM_ASK_LET_GO || atomic_load(&vm->all->host->ending);
		pthread_mutex_unlock(&vm->lock);
		if (rc == 0 || rc == -ENOENT || rc == -EBUSY || leave || atomic_load(&vm->lost))
			return rc;
		if (!said)
			log_warn("host", "vm %s: not known yet who has its lock: %s", vm->name,
				 err_message(rc));
		said = true;
		sleep_ms(LOCK_TRY_MS);
	}
}

static int boot(struct host_vm *vm)
{
	struct vmctl_config *config = xcalloc(1, sizeof(*config));
	int rc;

	vm_set_step(vm, "loading the kernel");
	rc = vm_load_kernel(vm, config);
	if (rc == 0)
		rc = vm_configure(vm, config);
	free(config);
	if (rc == 0)
		rc = vm_cpu_begin(vm);
	if (rc == 0)
		rc = vm_nets_open(vm);
	if (rc == 0 && vm->def.nets) /* with its taps */
		rc = vm_remember(vm);
	if (rc == 0)
		rc = vm_connect_disks(vm);
	vm_set_step(vm, "starting the guest");
	return rc < 0 ? rc : vm_call_plain(vm, VMCTL_START, VM_START_MS);
}

int vm_bring_up(struct host_vm *vm)
{
	int rc = vm_remember(vm);

	if (rc == 0)
		rc = vm_saved_begin(vm);
	if (rc == VM_SAVED_RUNS)
		return 0;
	vm_set_step(vm, "waiting for the VM's lock");
	if (rc == 0)
		rc = take_lock(vm);
	if (rc == 0)
		rc = given_up(vm);
	if (rc == 0)
		vm_saved_remove(vm); /* what a save, or a restore, that was cut off left */
	if (rc == 0)
		rc = vm_nets_check(&vm->def, vm->name);
	vm_set_step(vm, "opening the disks");
	if (rc == 0)
		rc = vm_disks_open(vm);
	vm_set_step(vm, "starting the monitor");
	if (rc == 0)
		rc = vm_spawn(vm);
	if (rc == 0) {
		vm->started_ns = clock_wall_ns();
		rc = vm_remember(vm);
	}
	if (rc == 0)
		rc = vm_connect(vm, NULL);
	if (rc == 0)
		rc = boot(vm);
	if (rc == 0) /* the lock is ours: what lies there is left over */
		vm_saved_remove(vm);
	return rc < 0 ? rc : given_up(vm);
}

static int not_ours(struct host_vm *vm, int why)
{
	cleanup_free char *path = vm_path(vm->name, "vm");
	struct err_info saved;

	err_save(&saved, why);
	vm_end_process(vm);
	(void)cfs_vm_decline(host_volume_fs(vm->volume), path); /* if it was on its way to here */
	if (cfs_vm_owner(host_volume_fs(vm->volume), path, vm->move_to, sizeof(vm->move_to)) < 0)
		vm->move_to[0] = 0;
	vm->saved = vm_is_saved(host_volume_fs(vm->volume), vm->name);
	vm->moved = true;
	return err_restore(&saved);
}

/* No VMM: what it held is taken once more, so that it can be given up in order. */
static int take_remains(struct host_vm *vm, int why)
{
	struct err_info saved;
	int rc;

	err_save(&saved, why);
	vm_end_strays(vm->id);
	host_step(vm->all->host, "adopt.remains");
	rc = take_lock_surely(vm);
	if (rc == 0)
		(void)vm_disks_open(vm);
	/* Else the daemon ends, with our life not over: the next one takes them. */
	vm->unsettled = rc < 0 && rc != -ENOENT && rc != -EBUSY && !atomic_load(&vm->lost);
	return rc == -ENOENT ? not_ours(vm, err_restore(&saved)) : err_restore(&saved);
}

/* Lock and disks are ours still, by the epoch we go on in: INV-FS-3's restart, at the VM's level. */
int vm_adopt(struct host_vm *vm, json_t *record)
{
	struct vmctl_status status = {0};
	int rc = vm_take_up(vm, record);

	if (rc == 0 && json_is_true(json_object_get(record, "incomplete")))
		rc = fail(-EIO,
			  "vm %s: the daemon ended before all of its memory had come; its disks "
			  "are as after a"
			  " power cut, start it again",
			  vm->name);
	/* Dead, dying, or not to be trusted: ended for sure, and then its lock is given up. */
	if (rc < 0) {
		struct err_info why;

		err_save(&why, rc);
		vm_end_process(vm);
		return take_remains(vm, err_restore(&why));
	}
	host_step(vm->all->host, "adopt.begun");
	rc = take_lock_surely(vm);
	if (rc == -ENOENT &&
	    !vm->vm_lock) /* it moved, or another host started it: nothing of it is ours */
		return not_ours(vm, rc);
	if (rc ==
	    0) { /* its definition is read: the daemon may have ended in the middle of vm set */
		vm_try_cpus(vm);
		rc = vm_disks_insist(vm);
	}
	if (rc < 0 && vm_is_ending(vm) && !atomic_load(&vm->lost))
		return 0; /* as the supervisor's first turn finds it: killed, let go, dead */
	if (rc == 0)
		rc = vm_connect(vm, &status);
	if (rc == 0 &&
	    status.state != VMCTL_STATE_PAUSED) { /* it was let run, that was not noted */
		pthread_mutex_lock(&vm->lock);
		vm->stands = false;
		pthread_mutex_unlock(&vm->lock);
	}
	if (rc == 0 &&
	    status.features & VMCTL_F_STATE) /* of a migration that ended with the daemon */
		(void)vm_call_plain(vm, VMCTL_LOG_STOP, VM_CALL_MS);
	if (rc == 0 && status.features & VMCTL_F_POSTCOPY) /* the daemon before may not have */
		vm->whole_owed = VM_WHOLE_MONITOR;
	if (rc == 0 && (status.state == VMCTL_STATE_NEW || status.state == VMCTL_STATE_CONFIGURED))
		rc = fail(-ECANCELED, "vm %s: the daemon ended while it was being started",
			  vm->name);
	if (rc == 0)
		rc = vm_connect_disks(vm);
	if (rc == 0 && status.state == VMCTL_STATE_PAUSED)
		vm_run_on(vm);
	if (rc == 0 && json_is_true(json_object_get(record, "arriving"))) {
		vm->loaded = true;
		(void)vm_remember(vm);
	}
	if (rc == 0 && status.state == VMCTL_STATE_RUNNING && vm->held)
		rc = vm_call_plain(vm, VMCTL_PAUSE, VM_CALL_MS);
	if (rc == 0)
		vm_catch_up(vm, &status);
	if (rc == 0)
		vm_saved_remove(vm); /* if it came from there, or was being saved */
	return rc;
}
