// SPDX-License-Identifier: Apache-2.0
/*
 * vm_turn.c: what may happen while a VM runs, in its supervisor: what the VMM says, what others ask
 * for, pauses for space and for the lease, consoles.
 */
#include "host/vm_run.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/util.h"
#include "host/vm_lazy.h"
#include "host/vm_move.h"

#define TURN_MS	     1000
#define FROZEN_MS    50	  /* looks that often whether the lease runs again */
#define RECONNECT_MS 1000 /* between attempts to connect a device that was dropped */

#define HAS(vm, kind) ((vm)->events & 1u << (kind))

#define EVICTED "another host took over this host's place on the volume"

enum { GO_ON = 1 }; /* below: it is over, with 0 or an error */

void vm_catch_up(struct host_vm *vm, const struct vmctl_status *s)
{
	switch (s->state) {
	case VMCTL_STATE_FROZEN:
		vm->events |= 1u << VMCTL_EVENT_FROZEN;
		break;
	case VMCTL_STATE_RESET:
		vm->events |= 1u << VMCTL_EVENT_RESET;
		break;
	case VMCTL_STATE_POWERED_OFF:
		vm->events |= 1u << VMCTL_EVENT_POWERED_OFF;
		break;
	case VMCTL_STATE_CRASHED:
		vm->events |= 1u << VMCTL_EVENT_CRASHED;
		(void)str_format(vm->event_text, sizeof(vm->event_text), "%s", s->text);
		break;
	case VMCTL_STATE_PAUSED: /* for a full volume: the disks will say if it is so still */
	case VMCTL_STATE_RUNNING:
	case VMCTL_STATE_NEW:
	case VMCTL_STATE_CONFIGURED:
		break;
	}
	vm->panicked = s->panicked;
}

static int over(struct host_vm *vm, const char *what)
{
	return fail(-ECANCELED, "vm %s: %s%s%s", vm->name, what, vm->event_text[0] ? ": " : "",
		    vm->event_text);
}

static int set_held(struct host_vm *vm, bool held)
{
	pthread_mutex_lock(&vm->lock);
	vm->held = held;
	pthread_mutex_unlock(&vm->lock);
	return vm_remember(vm);
}

/* The guest rebooted: its memory is ours to write now. One that was held still runs again. */
static int reboot(struct host_vm *vm)
{
	struct vmctl_config *config = xcalloc(1, sizeof(*config));
	int rc = vm_load_kernel(vm, config);

	/* Its VMM never had a kernel; or its disks may be others now. */
	if (rc == 0 && (vm->loaded || config->boot == VMCTL_BOOT_FIRMWARE))
		rc = vm_configure(vm, config);
	free(config);
	if (rc == 0 && vm->held)
		rc = set_held(vm, false);
	vm->panicked = false;
	vm_addresses_rested(vm);
	vm_tell(vm, "the guest rebooted");
	return rc < 0 ? rc : vm_call_plain(vm, VMCTL_START, VM_START_MS);
}

/* Its device lost its back-end, or threw it out: connected again, not too often. */
static void reconnect_disks(struct host_vm *vm)
{
	int rc;

	if (clock_boot_ms() < vm->retry_ms)
		return;
	vm->retry_ms = clock_boot_ms() + RECONNECT_MS;
	rc = vm_connect_disks(vm);
	if (rc < 0)
		log_warn("host", "vm %s: its disks are not connected: %s", vm->name,
			 err_message(rc));
	else
		atomic_store(&vm->gone, false);
}

static int handle_events(struct host_vm *vm)
{
	unsigned events = vm->events;

	if (HAS(vm, VMCTL_EVENT_PANICKED)) {
		vm_tell(vm, "the guest's kernel panicked");
		pthread_mutex_lock(&vm->lock);
		vm->panicked = true;
		pthread_mutex_unlock(&vm->lock);
	}
	if (HAS(vm, VMCTL_EVENT_WATCHDOG))
		vm_tell(vm, vm->def.watchdog == VMCTL_WATCHDOG_RESET
				    ? "the guest's watchdog ran out: it is reset"
				    : "the guest's watchdog ran out");
	if (HAS(vm, VMCTL_EVENT_RESET))
		vm_move_break(vm, "the guest rebooted");
	if (HAS(vm, VMCTL_EVENT_POWERED_OFF))
		return 0;
	if (HAS(vm, VMCTL_EVENT_CRASHED))
		return over(vm, "it crashed");
	if (HAS(vm, VMCTL_EVENT_DEVICE))
		atomic_store(&vm->gone, true);
	if (HAS(vm, VMCTL_EVENT_FROZEN) && vm->phase != VM_FROZEN) {
		vm_tell(vm, "frozen: the volume's lease is over");
		vm_set_phase(vm, VM_FROZEN);
	}
	vm->events &= ~events | 1u << VMCTL_EVENT_RESET;
	/* No byte is written to memory that is coming still. */
	if (HAS(vm, VMCTL_EVENT_RESET) && vm_lease_runs(vm) && !vm->lazy) {
		int rc;

		vm->events &= ~(1u << VMCTL_EVENT_RESET);
		vm->resetting = false;
		rc = reboot(vm);
		if (rc < 0)
			return rc;
		vm_set_phase(vm, VM_RUNNING);
	}
	return GO_ON;
}

static void paused(struct host_vm *vm)
{
	char why[VM_WHY_MAX];
	cleanup_free char *text = xasprintf("paused: %s", vm_state_why(vm, why));

	vm_tell(vm, text);
}

static int run_again(struct host_vm *vm)
{
	int rc = vm_let_run(vm);

	if (rc == 0) {
		vm_tell(vm, "running again");
		vm_set_phase(vm, VM_RUNNING);
	}
	return rc;
}

void vm_run_on(struct host_vm *vm)
{
	int rc = vm->held || vm_process_ended(vm) ? 0 : vm_let_run(vm);

	pthread_mutex_lock(&vm->lock);
	vm->stands = false; /* from here on the phase tells */
	pthread_mutex_unlock(&vm->lock);
	if (rc == 0)
		return;
	log_warn("host", "vm %s: does not run on yet: %s", vm->name, err_message(rc));
	if (vm->conn)
		vm_set_phase(vm, vm_lease_runs(vm) ? VM_PAUSED : VM_FROZEN);
	err_clear();
}

/*
 * One that does not answer may stand still all the same, or do so later: it is told to run again when
 * nothing is against it. With the connection lost: see vm_run_on.
 */
static int pause_guest(struct host_vm *vm)
{
	int rc = vm_call_plain(vm, VMCTL_PAUSE, VM_CALL_MS);

	if (rc == 0 || (rc != -EINVAL && vm->conn)) /* neither refused nor lost */
		vm_set_phase(vm, VM_PAUSED);
	return rc;
}

/* As somebody said; durable first, so that the next daemon knows. */
static int hold(struct host_vm *vm)
{
	int rc = vm->held ? 0 : set_held(vm, true);

	if (rc == 0 && vm->phase == VM_RUNNING) {
		rc = pause_guest(vm);
		if (rc == 0) {
			vm_tell(vm, "paused, as somebody said");
		} else {
			struct err_info why;

			err_save(&why, rc);
			(void)set_held(vm, false);
			rc = err_restore(&why);
		}
	}
	return rc;
}

static int hold_no_more(struct host_vm *vm)
{
	int rc = vm->held ? set_held(vm, false) : 0;

	/* Should it stand still for another reason, too, it goes on when that is over. */
	if (rc == 0 && vm->phase == VM_PAUSED && !atomic_load(&vm->full) && !vm->resetting)
		rc = run_again(vm);
	return rc;
}

/* Paused while a disk waits for space, or it is held; running again when nothing is against it and the lease runs. */
static int handle_pauses(struct host_vm *vm)
{
	bool full = atomic_load(&vm->full) > 0;
	int rc = 0;

	if ((full || vm->held) && vm->phase == VM_RUNNING) {
		rc = pause_guest(vm);
		if (rc == 0)
			paused(vm);
	} else if (vm->resetting) { /* runs again as soon as it has its kernel */
	} else if (vm->held) {
		if (vm->phase == VM_FROZEN && vm_lease_runs(vm) && !HAS(vm, VMCTL_EVENT_RESET))
			vm_set_phase(vm, VM_PAUSED);
	} else if ((vm->phase == VM_PAUSED && !full) ||
		   (vm->phase == VM_FROZEN && vm_lease_runs(vm) && !HAS(vm, VMCTL_EVENT_RESET))) {
		rc = run_again(vm);
	}
	if (rc < 0) /* tried again at the next turn; a VMM that is dead or deaf is seen elsewhere */
		log_warn("host", "vm %s: %s", vm->name, err_message(rc));
	return GO_ON;
}

/* Who asked may have given up, and another may ask by now. */
static void answer(struct host_vm *vm, uint64_t number, int rc)
{
	pthread_mutex_lock(&vm->lock);
	vm->doing = false;
	if (vm->ask != VM_ASK_NONE && vm->ask_number == number) {
		memset(&vm->answer, 0, sizeof(vm->answer));
		if (rc < 0)
			err_save(&vm->answer, rc);
		vm->answered = true;
		pthread_cond_broadcast(&vm->changed);
	}
	pthread_mutex_unlock(&vm->lock);
}

/* Work of a task's thread on what is the supervisor's. GO_ON: who wanted it has gone. */
static int do_it(struct host_vm *vm, uint64_t number)
{
	int (*fn)(struct host_vm *, void *) = NULL;
	void *arg = NULL;
	int rc;

	pthread_mutex_lock(&vm->lock);
	if (vm->ask == VM_ASK_DO && vm->ask_number == number) {
		vm->doing = true;
		fn = vm->do_fn;
		arg = vm->do_arg;
	}
	pthread_mutex_unlock(&vm->lock);
	if (!fn)
		return GO_ON;
	rc = fn(vm, arg);
	return MIN(rc, 0);
}

static int handle_ask(struct host_vm *vm, bool *let_go)
{
	enum vm_ask ask;
	uint64_t number;
	bool fresh, killed;
	int rc;

	pthread_mutex_lock(&vm->lock);
	ask = vm->ask;
	number = vm->ask_number;
	killed = vm->killed;
	fresh = ask != VM_ASK_NONE && !vm->answered;
	pthread_mutex_unlock(&vm->lock);
	if (killed) {
		vm_tell(vm, "killed");
		return 0;
	}
	if (!fresh)
		return GO_ON;
	switch (ask) {
	case VM_ASK_NONE:
		break;
	case VM_ASK_BUTTON:
		answer(vm, number, vm_call_plain(vm, VMCTL_POWER_BUTTON, VM_CALL_MS));
		break;
	case VM_ASK_RESET:
		rc = vm_call_plain(vm, VMCTL_RESET, VM_CALL_MS);
		vm->resetting = rc == 0;
		answer(vm, number, rc);
		break;
	case VM_ASK_DO:
		rc = do_it(vm, number);
		if (rc != GO_ON)
			answer(vm, number, rc);
		break;
	case VM_ASK_PAUSE:
		answer(vm, number, hold(vm));
		break;
	case VM_ASK_RESUME:
		answer(vm, number, hold_no_more(vm));
		break;
	case VM_ASK_LET_GO:
		*let_go = true;
		return 0;
	}
	if (vm->unsettled) {
		*let_go = true;
		return 0;
	}
	if (vm->orphan)
		return over(vm, EVICTED);
	return vm->moved ? 0 : GO_ON;
}

static void take_clients(struct host_vm *vm)
{
	pthread_mutex_lock(&vm->lock);
	for (unsigned i = 0; i < CONSOLE_CLIENTS; i++) {
		if (vm->client[i] >= 0)
			vm_console_attach(vm->console, vm->client[i]);
		vm->client[i] = -1;
	}
	pthread_mutex_unlock(&vm->lock);
}

/* A call that was lost with the connection left the phase as it was, and was obeyed all the same, or not. */
static void as_it_says(struct host_vm *vm, enum vmctl_state state)
{
	if (vm->resetting)
		return;
	if (state == VMCTL_STATE_RUNNING && (vm->phase == VM_PAUSED || vm->phase == VM_FROZEN)) {
		vm_tell(vm, "running again");
		vm_set_phase(vm, VM_RUNNING);
	} else if (state == VMCTL_STATE_PAUSED && vm->phase == VM_RUNNING && !vm->slow_stands &&
		   !atomic_load(&vm->full)) {
		vm_run_on(vm);
	}
}

/*
 * The control connection broke while the VMM lives: once more, then it is given up.
 */
static int hear(struct host_vm *vm)
{
	struct vmctl_status status = {0};
	int rc = vm_hear(vm);

	if (rc >= 0)
		return GO_ON;
	if (vm_process_dying(vm))
		return GO_ON;
	rc = vm_connect(vm, &status);
	if (rc == 0) {
		vm_catch_up(vm, &status);
		as_it_says(vm, status.state);
	}
	return rc < 0 ? rc : GO_ON;
}

enum { P_WAKE, P_PROCESS, P_CONTROL, P_CLIENTS, POLLS = P_CLIENTS + CONSOLE_CLIENTS };

static void wait_for_something(struct host_vm *vm)
{
	struct pollfd p[POLLS];
	uint8_t typed[VMCTL_CONSOLE_CHUNK];
	int timeout = vm->phase == VM_FROZEN ? FROZEN_MS : TURN_MS, slow = vm_slow_wait_ms(vm);
	unsigned clients;
	eventfd_t n;

	p[P_WAKE] = (struct pollfd){.fd = vm->wake_fd, .events = POLLIN};
	p[P_PROCESS] = (struct pollfd){.fd = vm->pid_fd, .events = POLLIN};
	p[P_CONTROL] = (struct pollfd){
		.fd = vm->conn ? vmctl_conn_fd(vm->conn) : -1,
		.events = (short)(POLLIN |
				  (vm->conn && vmctl_conn_pending(vm->conn) ? POLLOUT : 0))};
	clients = vm_console_polls(vm->console, p + P_CLIENTS);
	if (!vm->conn) /* a call has lost it */
		timeout = 0;
	if (vm->events)
		timeout = MIN(timeout, FROZEN_MS);
	if (slow >= 0)
		timeout = MIN(timeout, slow);
	if (poll(p, P_CLIENTS + clients, timeout) <= 0)
		return;
	if (p[P_WAKE].revents)
		(void)eventfd_read(vm->wake_fd, &n);
	vm_say_console(vm, typed,
		       vm_console_serve(vm->console, p + P_CLIENTS, clients, typed, sizeof(typed)));
}

/* One turn: GO_ON, or how it ended. */
static int turn(struct host_vm *vm, bool *let_go)
{
	int rc = hear(vm);

	if (rc == GO_ON)
		rc = handle_events(vm);
	if (rc == GO_ON && vm_process_ended(vm)) {
		/* Then we have ended it, or its death was seen there first. */
		rc = vm_lazy_lost(vm);
		rc = rc < 0 ? rc : vm_died(vm->name);
	}
	if (rc == GO_ON && atomic_load(&vm->lost))
		rc = over(vm, EVICTED);
	if (rc == GO_ON) {
		rc = vm_lazy_turn(vm);
		rc = rc < 0 ? rc : GO_ON;
	}
	if (rc == GO_ON)
		rc = handle_ask(vm, let_go);
	if (rc == GO_ON && atomic_load(&vm->gone))
		reconnect_disks(vm);
	if (rc == GO_ON)
		rc = handle_pauses(vm);
	if (rc == GO_ON)
		vm_slow_turn(vm);
	if (rc == GO_ON)
		vm_usage_turn(vm);
	return rc;
}

int vm_turns(struct host_vm *vm, bool *let_go)
{
	int rc = GO_ON;

	while (rc == GO_ON) {
		wait_for_something(vm);
		take_clients(vm);
		rc = turn(vm, let_go);
	}
	return rc;
}
