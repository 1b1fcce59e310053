// SPDX-License-Identifier: Apache-2.0
/*
 * vm_run.c: a VM's supervisor: how it comes up, what may happen while it runs, how it is taken
 * apart. One thread a VM; it may block, nobody waits for it but who asked.
 *
 * Order of a start: inventory, lock, disks, VMM, inventory (with the pid), guest. Taking apart is the
 * same backwards. The next daemon finds in the inventory whatever this one had begun.
 */
#include "host/vm_run.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "clusterfs/cfs.h"
#include "host/daemon.h"
#include "host/event.h"
#include "host/volume.h"

#define LOCK_MS	     60000 /* a dead host's lease, its takeover and replay */
#define DYING_MS     500   /* from the sockets' end to the process's */
#define CALL_MS	     10000
#define START_MS     30000 /* the VMM waits for its back-end */
#define TURN_MS	     1000
#define FROZEN_MS    50	  /* looks that often whether the lease runs again */
#define RECONNECT_MS 1000 /* between attempts to connect a device that was dropped */

#define HAS(vm, kind) ((vm)->events & 1u << (kind))

/* --- what others see ------------------------------------------------------------------------------ */

static const char *object_of(struct host_vm *vm, char dst[200])
{
	(void)str_format(dst, 200, "%s:%s", host_volume_name(vm->volume), vm->name);
	return dst;
}

static void set_phase(struct host_vm *vm, enum vm_phase phase)
{
	pthread_mutex_lock(&vm->lock);
	vm->phase = phase;
	pthread_cond_broadcast(&vm->changed);
	pthread_mutex_unlock(&vm->lock);
}

static void set_step(struct host_vm *vm, const char *step)
{
	pthread_mutex_lock(&vm->lock);
	vm->step = step;
	pthread_mutex_unlock(&vm->lock);
}

const char *vm_state_name(struct host_vm *vm)
{
	const char *name = "running";

	pthread_mutex_lock(&vm->lock);
	switch (vm->phase) {
	case VM_STARTING:
		name = vm->adopt ? "running" : "starting";
		break;
	case VM_RUNNING:
		name = vm->panicked ? "crashed" : "running";
		break;
	case VM_PAUSED:
		name = "paused";
		break;
	case VM_FROZEN:
		name = "frozen";
		break;
	case VM_ENDED:
		name = vm->ended.err ? "crashed" : "stopped";
		break;
	}
	pthread_mutex_unlock(&vm->lock);
	return name;
}

const char *vm_state_why(struct host_vm *vm)
{
	const char *why = NULL;

	pthread_mutex_lock(&vm->lock);
	if (vm->phase == VM_PAUSED)
		why = "no space for its writes: grow the volume or delete something, then it goes"
		      " on by itself";
	else if (vm->phase == VM_FROZEN)
		why = "the volume's lease is over; it goes on by itself when that runs again";
	else if (vm->phase == VM_RUNNING && vm->panicked)
		why = "the guest's kernel panicked";
	pthread_mutex_unlock(&vm->lock);
	return why;
}

void vm_wake(struct host_vm *vm)
{
	(void)eventfd_write(vm->wake_fd, 1);
}

static void until_ms(struct timespec *ts, unsigned ms)
{
	clock_gettime(CLOCK_MONOTONIC, ts);
	ts->tv_sec += ms / 1000;
	ts->tv_nsec += (long)(ms % 1000) * 1000000;
	if (ts->tv_nsec >= 1000000000) {
		ts->tv_sec++;
		ts->tv_nsec -= 1000000000;
	}
}

int vm_ask(struct host_vm *vm, enum vm_ask ask, unsigned timeout_ms)
{
	struct timespec until;
	int rc = 0;

	until_ms(&until, timeout_ms);
	pthread_mutex_lock(&vm->lock);
	while (rc == 0 && vm->ask != VM_ASK_NONE && vm->phase != VM_ENDED)
		rc = pthread_cond_timedwait(&vm->changed, &vm->lock, &until);
	if (rc == 0 && vm->phase != VM_ENDED) {
		vm->ask = ask;
		vm->ask_number++;
		vm->answered = false;
		vm_wake(vm);
		while (rc == 0 && !vm->answered && vm->phase != VM_ENDED)
			rc = pthread_cond_timedwait(&vm->changed, &vm->lock, &until);
		if (vm->answered)
			rc = vm->answer.err ? err_restore(&vm->answer) : 0;
		vm->ask = VM_ASK_NONE;
		pthread_cond_broadcast(&vm->changed);
	}
	pthread_mutex_unlock(&vm->lock);
	return rc <= 0 ? rc /* one that has ended is as was asked for */
		       : fail(-ETIMEDOUT, "vm %s: no answer within %u s; it may still be obeyed",
			      vm->name, timeout_ms / 1000);
}

void vm_kill_soon(struct host_vm *vm)
{
	pthread_mutex_lock(&vm->lock);
	vm->killed = true;
	pthread_mutex_unlock(&vm->lock);
	vm_wake(vm);
}

int vm_grow(struct host_vm *vm, unsigned disk, uint64_t size, unsigned timeout_ms)
{
	struct timespec until;
	int rc = 0;

	until_ms(&until, timeout_ms);
	pthread_mutex_lock(&vm->lock);
	while (rc == 0 && vm->phase != VM_ENDED &&
	       (vm->phase == VM_STARTING || vm->growing || vm->closing))
		rc = pthread_cond_timedwait(&vm->changed, &vm->lock, &until);
	if (rc == 0 && vm->phase == VM_ENDED)
		rc = -ENOENT;
	else if (rc)
		rc = fail(-ETIMEDOUT,
			  "vm %s: does not serve its disks within %u s; nothing changed", vm->name,
			  timeout_ms / 1000);
	vm->growing |= rc == 0;
	pthread_mutex_unlock(&vm->lock);
	if (rc < 0)
		return rc;
	rc = vm_disk_grow(vm, disk, size);
	pthread_mutex_lock(&vm->lock);
	vm->growing = false;
	pthread_cond_broadcast(&vm->changed);
	pthread_mutex_unlock(&vm->lock);
	return rc;
}

int vm_wait_started(struct host_vm *vm, unsigned timeout_ms)
{
	struct timespec until;
	int rc = 0;

	until_ms(&until, timeout_ms);
	pthread_mutex_lock(&vm->lock);
	while (rc == 0 && vm->phase == VM_STARTING)
		rc = pthread_cond_timedwait(&vm->changed, &vm->lock, &until);
	if (vm->phase == VM_ENDED)
		rc = vm->ended.err ? err_restore(&vm->ended) : 0;
	else if (vm->phase != VM_STARTING)
		rc = 0;
	pthread_mutex_unlock(&vm->lock);
	return rc <= 0 ? rc : -ETIMEDOUT;
}

int vm_wait_ended(struct host_vm *vm, unsigned timeout_ms)
{
	struct timespec until;
	int rc = 0;

	until_ms(&until, timeout_ms);
	pthread_mutex_lock(&vm->lock);
	while (rc == 0 && vm->phase != VM_ENDED)
		rc = pthread_cond_timedwait(&vm->changed, &vm->lock, &until);
	rc = vm->phase == VM_ENDED ? 0 : -ETIMEDOUT;
	pthread_mutex_unlock(&vm->lock);
	return rc;
}

void vm_give_client(struct host_vm *vm, int fd)
{
	pthread_mutex_lock(&vm->lock);
	for (unsigned i = 0; i < CONSOLE_CLIENTS && fd >= 0; i++) {
		if (vm->client[i] >= 0 || vm->phase == VM_ENDED)
			continue;
		vm->client[i] = fd;
		fd = -1;
	}
	pthread_mutex_unlock(&vm->lock);
	if (fd >= 0)
		close(fd);
	vm_wake(vm);
}

/* --- coming up ------------------------------------------------------------------------------------ */

static int given_up(struct host_vm *vm)
{
	bool killed;

	pthread_mutex_lock(&vm->lock);
	killed = vm->killed;
	pthread_mutex_unlock(&vm->lock);
	return killed ? fail(-ECANCELED, "vm %s: the start was given up", vm->name) : 0;
}

static int call_plain(struct host_vm *vm, enum vmctl_type type, unsigned timeout_ms)
{
	struct vmctl_msg *msg = xcalloc(1, sizeof(*msg));
	int rc;

	msg->type = type;
	rc = vm_call(vm, msg, timeout_ms);
	free(msg);
	return rc;
}

/* Who has the lock runs the VM, unless it is only being edited, or its host is silent. */
static int name_owner(struct host_vm *vm, const char *path, int rc)
{
	struct err_info why;
	char owner[64], object[200];

	err_save(&why, rc);
	if (cfs_vm_owner(host_volume_fs(vm->volume), path, owner, sizeof(owner)) < 0)
		return err_restore(&why);
	rc = fail(-EBUSY, "vm %s: runs on host %s; stop it there first", vm->name, owner);
	err_object("%s", object_of(vm, object));
	err_holder("host %s", owner);
	return rc;
}

static int take_lock(struct host_vm *vm)
{
	cleanup_free char *path = vm_path(vm->name, "vm");
	struct cfs *fs = host_volume_fs(vm->volume);
	int rc = vm->adopt ? cfs_vm_adopt(fs, path, &vm->vm_lock)
			   : cfs_vm_lock(fs, path, LOCK_MS, &vm->vm_lock);

	if (rc == -EBUSY)
		rc = name_owner(vm, path, rc);
	/* A definition may have been changed by who held the lock before. */
	return rc < 0 || vm->adopt ? rc : vm_def_load(fs, vm->name, &vm->def);
}

static int boot(struct host_vm *vm)
{
	struct vmctl_config *config = xcalloc(1, sizeof(*config));
	int rc;

	set_step(vm, "loading the kernel");
	rc = vm_load_kernel(vm, config);
	if (rc == 0)
		rc = vm_configure(vm, config);
	free(config);
	if (rc == 0)
		rc = vm_connect_disks(vm);
	set_step(vm, "starting the guest");
	return rc < 0 ? rc : call_plain(vm, VMCTL_START, START_MS);
}

static int bring_up(struct host_vm *vm)
{
	int rc = vm_remember(vm);

	set_step(vm, "waiting for the VM's lock");
	if (rc == 0)
		rc = take_lock(vm);
	if (rc == 0)
		rc = given_up(vm);
	set_step(vm, "opening the disks");
	if (rc == 0)
		rc = vm_disks_open(vm);
	set_step(vm, "starting the monitor");
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
	return rc < 0 ? rc : given_up(vm);
}

/* What READY says happened while no daemon was there becomes the events that were missed. */
static void catch_up(struct host_vm *vm, const struct vmctl_status *s)
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

/* No VMM: what it held is taken once more, so that it can be given up in order. */
static int take_remains(struct host_vm *vm, int why)
{
	struct err_info saved;

	err_save(&saved, why);
	vm_end_strays(vm->id);
	if (take_lock(vm) == 0)
		(void)vm_disks_open(vm);
	return err_restore(&saved);
}

/* Lock and disks are ours still, by the epoch we go on in: INV-FS-3's restart, at the VM's level. */
static int take_up(struct host_vm *vm, json_t *record)
{
	struct vmctl_status status = {0};
	int rc = vm_take_up(vm, record);

	/* Dead, dying, or not to be trusted: ended for sure, and then its lock is given up. */
	if (rc < 0) {
		struct err_info why;

		err_save(&why, rc);
		vm_end_process(vm);
		return take_remains(vm, err_restore(&why));
	}
	rc = take_lock(vm);
	if (rc == 0)
		rc = vm_disks_open(vm);
	if (rc == 0)
		rc = vm_connect(vm, &status);
	if (rc == 0 && (status.state == VMCTL_STATE_NEW || status.state == VMCTL_STATE_CONFIGURED))
		rc = fail(-ECANCELED, "vm %s: the daemon ended while it was being started",
			  vm->name);
	if (rc == 0)
		rc = vm_connect_disks(vm);
	if (rc == 0 && status.state == VMCTL_STATE_PAUSED)
		rc = call_plain(vm, VMCTL_RESUME, CALL_MS);
	if (rc == 0)
		catch_up(vm, &status);
	return rc;
}

/* --- while it runs -------------------------------------------------------------------------------- */

enum { GO_ON = 1 }; /* below: it is over, with 0 or an error */

static void tell(struct host_vm *vm, const char *text)
{
	char object[200];

	host_event(vm->all->host->events, "vm", object_of(vm, object), "%s", text);
}

static int over(struct host_vm *vm, const char *what)
{
	return fail(-ECANCELED, "vm %s: %s%s%s", vm->name, what, vm->event_text[0] ? ": " : "",
		    vm->event_text);
}

/* The guest rebooted: its memory is ours to write now. */
static int reboot(struct host_vm *vm)
{
	struct vmctl_config *config = xcalloc(1, sizeof(*config));
	int rc = vm_load_kernel(vm, config);

	free(config);
	vm->panicked = false;
	tell(vm, "the guest rebooted");
	return rc < 0 ? rc : call_plain(vm, VMCTL_START, START_MS);
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
		tell(vm, "the guest's kernel panicked");
		pthread_mutex_lock(&vm->lock);
		vm->panicked = true;
		pthread_mutex_unlock(&vm->lock);
	}
	if (HAS(vm, VMCTL_EVENT_POWERED_OFF))
		return 0;
	if (HAS(vm, VMCTL_EVENT_CRASHED))
		return over(vm, "it crashed");
	if (HAS(vm, VMCTL_EVENT_DEVICE))
		atomic_store(&vm->gone, true);
	if (HAS(vm, VMCTL_EVENT_FROZEN) && vm->phase != VM_FROZEN) {
		tell(vm, "frozen: the volume's lease is over");
		set_phase(vm, VM_FROZEN);
	}
	vm->events &= ~events | 1u << VMCTL_EVENT_RESET;
	if (HAS(vm, VMCTL_EVENT_RESET) && vm_lease_runs(vm)) {
		int rc;

		vm->events &= ~(1u << VMCTL_EVENT_RESET);
		vm->resetting = false;
		rc = reboot(vm);
		if (rc < 0)
			return rc;
		set_phase(vm, VM_RUNNING);
	}
	return GO_ON;
}

static void paused(struct host_vm *vm)
{
	cleanup_free char *text = xasprintf("paused: %s", vm_state_why(vm));

	tell(vm, text);
}

/* Paused while a disk waits for space; running again when none does and the lease runs. */
static int handle_pauses(struct host_vm *vm)
{
	bool full = atomic_load(&vm->full) > 0;
	int rc = 0;

	if (full && vm->phase == VM_RUNNING) {
		rc = call_plain(vm, VMCTL_PAUSE, CALL_MS);
		if (rc == 0) {
			set_phase(vm, VM_PAUSED);
			paused(vm);
		}
	} else if (vm->resetting) { /* runs again as soon as it has its kernel */
	} else if ((vm->phase == VM_PAUSED && !full) ||
		   (vm->phase == VM_FROZEN && vm_lease_runs(vm) && !HAS(vm, VMCTL_EVENT_RESET))) {
		rc = call_plain(vm, VMCTL_RESUME, CALL_MS);
		if (rc == 0) {
			tell(vm, "running again");
			set_phase(vm, VM_RUNNING);
		}
	}
	if (rc < 0) /* tried again at the next turn; a VMM that is dead or deaf is seen elsewhere */
		log_warn("host", "vm %s: %s", vm->name, err_message(rc));
	return GO_ON;
}

/* Who asked may have given up, and another may ask by now. */
static void answer(struct host_vm *vm, uint64_t number, int rc)
{
	pthread_mutex_lock(&vm->lock);
	if (vm->ask != VM_ASK_NONE && vm->ask_number == number) {
		memset(&vm->answer, 0, sizeof(vm->answer));
		if (rc < 0)
			err_save(&vm->answer, rc);
		vm->answered = true;
		pthread_cond_broadcast(&vm->changed);
	}
	pthread_mutex_unlock(&vm->lock);
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
		tell(vm, "killed");
		return 0;
	}
	if (!fresh)
		return GO_ON;
	switch (ask) {
	case VM_ASK_NONE:
		break;
	case VM_ASK_BUTTON:
		answer(vm, number, call_plain(vm, VMCTL_POWER_BUTTON, CALL_MS));
		break;
	case VM_ASK_RESET:
		rc = call_plain(vm, VMCTL_RESET, CALL_MS);
		vm->resetting = rc == 0;
		answer(vm, number, rc);
		break;
	case VM_ASK_LET_GO:
		*let_go = true;
		return 0;
	}
	return GO_ON;
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

/*
 * The control connection broke while the VMM lives: once more, then it is given up. One that dies loses
 * its sockets a moment before it is seen to have ended.
 */
static int hear(struct host_vm *vm)
{
	struct pollfd dying = {.fd = vm->pid_fd, .events = POLLIN};
	struct vmctl_status status = {0};
	int rc = vm_hear(vm);

	if (rc >= 0)
		return GO_ON;
	(void)poll(&dying, 1, DYING_MS);
	if (vm_process_ended(vm))
		return GO_ON;
	rc = vm_connect(vm, &status);
	if (rc == 0)
		catch_up(vm, &status);
	return rc < 0 ? rc : GO_ON;
}

enum { P_WAKE, P_PROCESS, P_CONTROL, P_CLIENTS, POLLS = P_CLIENTS + CONSOLE_CLIENTS };

static void wait_for_something(struct host_vm *vm)
{
	struct pollfd p[POLLS];
	uint8_t typed[VMCTL_CONSOLE_CHUNK];
	int timeout = vm->phase == VM_FROZEN ? FROZEN_MS : TURN_MS;
	unsigned clients;
	eventfd_t n;

	p[P_WAKE] = (struct pollfd){.fd = vm->wake_fd, .events = POLLIN};
	p[P_PROCESS] = (struct pollfd){.fd = vm->pid_fd, .events = POLLIN};
	p[P_CONTROL] = (struct pollfd){
		.fd = vm->conn ? vmctl_conn_fd(vm->conn) : -1,
		.events = (short)(POLLIN |
				  (vm->conn && vmctl_conn_pending(vm->conn) ? POLLOUT : 0))};
	clients = vm_console_polls(vm->console, p + P_CLIENTS);
	if (vm->events)
		timeout = MIN(timeout, FROZEN_MS);
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
	if (rc == GO_ON && vm_process_ended(vm))
		rc = over(vm, "its VMM died");
	if (rc == GO_ON && atomic_load(&vm->lost))
		rc = over(vm, "another host took over this host's place on the volume");
	if (rc == GO_ON)
		rc = handle_ask(vm, let_go);
	if (rc == GO_ON && atomic_load(&vm->gone))
		reconnect_disks(vm);
	if (rc == GO_ON)
		rc = handle_pauses(vm);
	return rc;
}

static int run(struct host_vm *vm, bool *let_go)
{
	int rc = GO_ON;

	while (rc == GO_ON) {
		wait_for_something(vm);
		take_clients(vm);
		rc = turn(vm, let_go);
	}
	return rc;
}

/* --- its end -------------------------------------------------------------------------------------- */

static void take_apart(struct host_vm *vm)
{
	int rc;

	if (vm->conn && !vm_process_ended(vm))
		(void)call_plain(vm, VMCTL_KILL, 1000); /* its last words; then it is killed */
	vm_end_process(vm);
	vm_disks_close(vm, true);
	rc = vm->vm_lock ? cfs_vm_unlock(vm->vm_lock) : 0;
	if (rc < 0)
		log_warn("host", "vm %s: its lock is not given up: %s", vm->name, err_message(rc));
	vm->vm_lock = NULL;
	vm_forget(vm);
}

static void note_end(struct host_vm *vm, int rc, bool came_up)
{
	struct host_vms *all = vm->all;
	const char *why = rc < 0 ? err_message(rc) : "stopped";

	if (came_up || rc == 0)
		tell(vm, why);
	pthread_mutex_lock(&all->lock);
	if (rc < 0 && came_up)
		json_object_set_new(all->crashes, vm->key, json_string(why));
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
};

static void *supervisor(void *arg)
{
	struct launch *launch = arg;
	struct host_vm *vm = launch->vm;
	struct err_info why = {0};
	bool let_go = false, came_up;
	int rc = launch->record ? take_up(vm, launch->record) : bring_up(vm);

	/* A guest that had run before is missed; one that was never started is not. */
	came_up = rc >= 0 || json_integer_value(json_object_get(launch->record, "pid"));
	json_decref(launch->record);
	free(launch);
	if (rc >= 0) {
		tell(vm, vm->adopt ? "taken up from the daemon before" : "started");
		set_phase(vm, VM_RUNNING);
		rc = run(vm, &let_go);
	}
	if (rc < 0)
		err_save(&why, rc);
	if (let_go) {
		vm_disks_close(vm, false);
		vm_let_go(vm);
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

struct host_vm *vm_find(struct host_vms *all, struct host_volume *volume, const char *name)
{
	struct host_vm *vm, *hit = NULL;

	pthread_mutex_lock(&all->lock);
	list_for_each (vm, &all->list, link)
		if (vm->volume == volume && !strcmp(vm->name, name)) {
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
	pthread_mutex_destroy(&vm->lock);
	pthread_cond_destroy(&vm->changed);
	free(vm);
}

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
	list_init(&vm->link);
	return vm;
}

/* Caller holds the lock. */
static int check_free(struct host_vms *all, struct host_volume *volume, const char *name)
{
	struct host_vm *vm;

	list_for_each (vm, &all->list, link) {
		if (vm->volume != volume || strcmp(vm->name, name))
			continue;
		(void)fail(-EBUSY, "vm %s: runs on this host, %s, already", name, all->host->name);
		err_object("%s:%s", host_volume_name(volume), name);
		err_holder("host %s", all->host->name);
		return -EBUSY;
	}
	return 0;
}

int vm_launch(struct host_vms *all, struct host_volume *volume, const char *name,
	      const struct vm_def *def, json_t *record, struct host_vm **out)
{
	char volume_name[64], id[40];
	struct launch *launch = xcalloc(1, sizeof(*launch));
	struct host_vm *vm;
	int rc;

	cfs_names(host_volume_fs(volume), volume_name, id);
	vm = create(all, volume, name, id, def, record != NULL);
	pthread_mutex_lock(&all->lock);
	rc = all->ending ? fail(-ENOTCONN, "perilund is stopping") : check_free(all, volume, name);
	if (rc == 0) {
		list_add_tail(&all->list, &vm->link);
		all->count++;
		json_object_del(all->crashes, vm->key);
		host_volume_count_vm(volume, 1);
	}
	pthread_mutex_unlock(&all->lock);
	if (rc < 0) {
		vm_console_destroy(vm->console);
		close(vm->wake_fd);
		free(vm);
		free(launch);
		host_volume_put(volume);
		return rc;
	}
	launch->vm = vm;
	launch->record = json_incref(record);
	MUST(pthread_create(&vm->thread, NULL, supervisor, launch) == 0);
	pthread_detach(vm->thread);
	pthread_setname_np(vm->thread, "vm");
	*out = vm;
	return 0;
}
