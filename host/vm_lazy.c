// SPDX-License-Identifier: Apache-2.0
/* vm_lazy.c: the rest of a VM's memory comes while it runs. */
#include "host/vm_lazy.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "host/daemon.h"
#include "host/vm_move.h"
#include "migrate/memory.h"
#include "migrate/pager.h"
#include "migrate/target.h"
#include "vfs/controller.h"

#define AGAIN_MS     1000
#define RECORD_TRIES 10 /* at the daemon's end */

enum { COMING, WHOLE, LOST };

struct vm_lazy {
	struct host_vm *vm;
	struct mig_target *target;
	struct mig_pager *pager;
	struct vm_arrival *arrival; /* NULL: its owner's still */
	pthread_t thread;
	bool runs, stopped;
	atomic_bool stopping; /* nobody wants the rest any more */
	struct err_info why;  /* the thread's, until it is joined */
	atomic_int state;
};

static void *pages_main(void *arg)
{
	struct vm_lazy *l = arg;
	int rc = mig_target_pages(l->target, l->pager);

	if (rc < 0)
		err_save(&l->why, rc);
	atomic_store(&l->state, rc < 0 ? LOST : WHOLE);
	if (rc < 0 &&
	    !atomic_load(&l->stopping)) /* the supervisor may wait for it, and it for a page */
		vm_kill_process(l->vm);
	vm_wake(l->vm);
	return NULL;
}

static void want(void *arg, uint64_t offset)
{
	mig_pager_want(arg, offset);
}

static void came(void *arg)
{
	controller_pages_came(arg);
}

static int make_pager(struct vm_lazy *l, struct mig_dirty *stale)
{
	struct host_vm *vm = l->vm;
	struct vmctl_msg *msg = xcalloc(2, sizeof(*msg));
	int rc;

	msg->type = VMCTL_POSTCOPY;
	rc = vm_call_for(vm, msg, VMCTL_FAULTS, msg + 1, VM_CALL_MS);
	if (rc == 0 && msg[1].fds_n != 1) {
		for (unsigned i = 0; i < msg[1].fds_n; i++)
			close(msg[1].fds[i]);
		rc = fail(-EPROTO, "vm %s: its VMM sends %u descriptors", vm->name, msg[1].fds_n);
	}
	if (rc == 0)
		rc = mig_pager_create(&l->pager, vm->memory_fd, vm->def.memory, msg[1].fds[0],
				      msg[1].faults.base, stale);
	free(msg);
	return rc;
}

int vm_lazy_begin(struct host_vm *vm, struct mig_target *target, struct mig_dirty *stale)
{
	struct vm_lazy *l = xcalloc(1, sizeof(*l));
	int rc;

	MUST(!vm->lazy);
	l->vm = vm;
	l->target = target;
	rc = make_pager(l, stale);
	if (rc < 0) {
		free(l);
		return rc;
	}
	vm->lazy = l;
	atomic_store(&vm->incomplete, true);
	rc = vm_remember_arrival(vm); /* a daemon that is started anew could not go on with it */
	if (rc < 0)
		return rc;
	controller_lazy(vm->controller, mig_pager_present(l->pager), want, l->pager);
	mig_pager_listen(l->pager, came, vm->controller);
	mig_target_lazy(target, l->pager);
	rc = -pthread_create(&l->thread, NULL, pages_main, l);
	l->runs = rc == 0;
	return rc < 0 ? fail(rc, "vm %s: no thread for its memory", vm->name) : 0;
}

void vm_lazy_keep(struct host_vm *vm, struct vm_arrival *arrival)
{
	vm->lazy->arrival = arrival;
}

static void join(struct vm_lazy *l)
{
	if (l->runs)
		pthread_join(l->thread, NULL);
	l->runs = false;
	if (l->arrival)
		vm_arrival_free(l->arrival, 0);
	l->arrival = NULL;
	l->stopped = true;
}

/*
 * The inventory says so, or the next daemon would end it in vain; and its monitor knows, which makes huge pages again
 * then. What fails is tried again.
 */
static int tell_whole(struct host_vm *vm)
{
	int rc = 0;

	if (vm->whole_owed & VM_WHOLE_RECORD)
		rc = vm_remember(vm);
	if (rc == 0)
		vm->whole_owed &= ~VM_WHOLE_RECORD;
	if (rc == 0)
		rc = vm_call_plain(vm, VMCTL_POSTCOPY_END, VM_CALL_MS);
	if (rc == -EINVAL) /* it knows: an answer came too late, or went to the daemon before */
		rc = 0;
	if (rc == 0)
		vm->whole_owed = 0;
	vm->whole_ms = clock_boot_ms() + AGAIN_MS;
	return rc;
}

/* Its VMM waits for nothing any more, and is one like all others. */
static int finish(struct host_vm *vm)
{
	struct vm_lazy *l = vm->lazy;
	int rc;

	join(l);
	controller_lazy(vm->controller, NULL, NULL, NULL);
	atomic_store(&vm->incomplete, false);
	vm_lazy_free(vm);
	vm->whole_owed = VM_WHOLE_RECORD | VM_WHOLE_MONITOR;
	rc = tell_whole(vm);
	if (rc < 0)
		log_warn("migrate", "vm %s: all of its memory has come, that is not noted yet: %s",
			 vm->name, err_message(rc));
	vm_tell(vm, "all of its memory has come");
	return 0;
}

int vm_lazy_turn(struct host_vm *vm)
{
	struct vm_lazy *l = vm->lazy;
	int state = l ? atomic_load(&l->state) : COMING;

	if (vm->whole_owed && clock_boot_ms() >= vm->whole_ms)
		(void)tell_whole(vm);
	if (state == COMING || l->stopped)
		return 0;
	if (state == WHOLE)
		return finish(vm);
	vm_kill_process(vm);
	join(l);
	return vm_lazy_lost(vm);
}

int vm_lazy_told(const char *name, const struct err_info *why)
{
	if (why->err == -ESRCH) /* which is why no page could be put in place */
		return vm_died(name);
	return fail_prefix(
		err_restore(why),
		"vm %s: its memory did not come whole; its disks are as after a power cut,"
		" start it again",
		name);
}

int vm_lazy_lost(const struct host_vm *vm)
{
	const struct vm_lazy *l = vm->lazy;

	if (!l || atomic_load(&l->state) != LOST)
		return 0;
	return vm_lazy_told(vm->name, &l->why);
}

int vm_lazy_wait(struct host_vm *vm)
{
	int rc;

	vm->whole_ms = 0;
	if (vm->lazy && vm->lazy->runs) {
		pthread_join(vm->lazy->thread, NULL);
		vm->lazy->runs = false;
	}
	rc = vm_lazy_turn(vm);
	for (unsigned i = 0; rc == 0 && vm->whole_owed & VM_WHOLE_RECORD && i < RECORD_TRIES; i++) {
		sleep_ms(AGAIN_MS);
		(void)tell_whole(vm);
	}
	return rc;
}

void vm_lazy_stop(struct host_vm *vm)
{
	static const struct err_info over = {.err = -ECANCELED, .message = "the VM ended"};

	if (!vm->lazy || vm->lazy->stopped)
		return;
	atomic_store(&vm->lazy->stopping, true);
	mig_pager_stop(vm->lazy->pager, err_restore(&over));
	join(vm->lazy);
}

void vm_lazy_free(struct host_vm *vm)
{
	if (!vm->lazy)
		return;
	MUST(vm->lazy->stopped);
	mig_pager_destroy(vm->lazy->pager);
	free(vm->lazy);
	vm->lazy = NULL;
}
