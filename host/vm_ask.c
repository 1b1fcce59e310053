// SPDX-License-Identifier: Apache-2.0
/* vm_ask.c: a VM as other threads see it: its state in words, requests to its supervisor, waits. */
#include "host/vm_run.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "host/daemon.h"
#include "host/event.h"
#include "host/vm_move.h"
#include "host/volume.h"

const char *vm_object(struct host_vm *vm, char dst[200])
{
	(void)str_format(dst, 200, "%s:%s", host_volume_name(vm->volume), vm->name);
	return dst;
}

void vm_tell(struct host_vm *vm, const char *text)
{
	char object[200];

	host_event(vm->all->host->events, "vm", vm_object(vm, object), "%s", text);
}

void vm_tell_error(struct host_vm *vm, const char *words)
{
	cleanup_free char *name = xasprintf("vm %s: ", vm->name);
	size_t n = strlen(name);

	vm_tell(vm, strncmp(words, name, n) ? words : words + n);
}

void vm_set_phase(struct host_vm *vm, enum vm_phase phase)
{
	pthread_mutex_lock(&vm->lock);
	vm->phase = phase;
	pthread_cond_broadcast(&vm->changed);
	pthread_mutex_unlock(&vm->lock);
}

void vm_set_step(struct host_vm *vm, const char *step)
{
	pthread_mutex_lock(&vm->lock);
	vm->step = step;
	pthread_mutex_unlock(&vm->lock);
}

/* The lock is held. A guest that lives, but not its own life yet: it was told to stand still, or not yet to run. */
static bool stands_still(const struct host_vm *vm)
{
	return vm->phase == VM_STARTING && vm->adopt && (vm->stands || vm->held);
}

const char *vm_state_name(struct host_vm *vm)
{
	const char *name = "running";

	pthread_mutex_lock(&vm->lock);
	switch (vm->phase) {
	case VM_STARTING:
		name = stands_still(vm) ? "paused" : vm->adopt ? "running" : "starting";
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

/* The lock is held. */
static void why_paused(struct host_vm *vm, char dst[VM_WHY_MAX])
{
	if (vm->waits[0])
		(void)str_format(dst, VM_WHY_MAX,
				 "its storage is waited for: %s; then it goes on by itself;"
				 " perilune vm kill ends it",
				 vm->waits);
	else if (vm->held)
		(void)str_format(dst, VM_WHY_MAX,
				 "somebody said vm pause; perilune vm resume lets it go on");
	else if (atomic_load(&vm->full) > 0)
		(void)str_format(dst, VM_WHY_MAX,
				 "no space for its writes: grow the volume or delete something, or"
				 " make room on its array; then it goes on by itself");
	else if (vm->refused[0])
		(void)str_format(
			dst, VM_WHY_MAX,
			"its monitor did not let it run: %s; it is asked again each second,"
			" perilune vm kill ends it",
			vm->refused);
	else
		(void)str_format(dst, VM_WHY_MAX, "it goes on by itself in a moment");
}

const char *vm_state_why(struct host_vm *vm, char dst[VM_WHY_MAX])
{
	dst[0] = 0;
	pthread_mutex_lock(&vm->lock);
	if (vm->phase == VM_PAUSED || stands_still(vm))
		why_paused(vm, dst);
	else if (vm->phase == VM_STARTING && vm->waits[0])
		(void)str_format(dst, VM_WHY_MAX,
				 "its storage is waited for, and no disk answers until then: %s;"
				 " perilune vm kill ends it",
				 vm->waits);
	else if (vm->phase == VM_FROZEN)
		(void)str_format(dst, VM_WHY_MAX,
				 "the volume's lease is over; it goes on by itself when that runs"
				 " again");
	else if (vm->phase == VM_RUNNING && vm->panicked)
		(void)str_format(dst, VM_WHY_MAX, "the guest's kernel panicked");
	pthread_mutex_unlock(&vm->lock);
	return dst[0] ? dst : NULL;
}

void vm_wake(struct host_vm *vm)
{
	(void)eventfd_write(vm->wake_fd, 1);
}

int vm_ask(struct host_vm *vm, enum vm_ask ask, unsigned timeout_ms)
{
	struct timespec until = clock_in_ms(timeout_ms);
	bool ended = false;
	int rc = 0;

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
		else if (rc == 0)
			ended = true;
		vm->ask = VM_ASK_NONE;
		pthread_cond_broadcast(&vm->changed);
	} else {
		ended = rc == 0;
	}
	pthread_mutex_unlock(&vm->lock);
	if (ended)
		return VM_ASK_ENDED;
	return rc <= 0 ? rc
		       : fail(-ETIMEDOUT, "vm %s: no answer within %u s; it may still be obeyed",
			      vm->name, timeout_ms / 1000);
}

/* The lock is held. Nobody will do what was asked for. */
static bool nobody_does(const struct host_vm *vm)
{
	return vm->phase == VM_ENDED ||
	       (!vm->doing && (vm->closing || (vm->move && vm->move->waited_for)));
}

/* The lock is held. Until something changes; false: it is `until`. */
static bool await_change(struct host_vm *vm, const struct timespec *until)
{
	if (until)
		return pthread_cond_timedwait(&vm->changed, &vm->lock, until) != ETIMEDOUT;
	pthread_cond_wait(&vm->changed, &vm->lock);
	return true;
}

static int do_it(struct host_vm *vm, int (*fn)(struct host_vm *vm, void *arg), void *arg,
		 const struct timespec *until)
{
	bool late = false;
	int rc = 0;

	pthread_mutex_lock(&vm->lock);
	while (vm->ask != VM_ASK_NONE && !nobody_does(vm) && !late)
		late = !await_change(vm, until);
	if (!nobody_does(vm) && !late) {
		vm->ask = VM_ASK_DO;
		vm->do_fn = fn;
		vm->do_arg = arg;
		vm->ask_number++;
		vm->answered = false;
		vm_wake(vm);
		/* What has begun is waited for: it uses what is the caller's. */
		while (!vm->answered && !nobody_does(vm) && (!late || vm->doing))
			late = !await_change(vm, late ? NULL : until);
		if (vm->answered)
			rc = vm->answer.err ? err_restore(&vm->answer) : 0;
		else
			rc = -ECANCELED;
		vm->ask = VM_ASK_NONE;
		pthread_cond_broadcast(&vm->changed);
	} else {
		rc = -ECANCELED;
	}
	if (rc == -ECANCELED && vm->move && vm->move->why.err)
		rc = err_restore(&vm->move->why);
	else if (rc == -ECANCELED && late)
		rc = fail(-ETIMEDOUT, "vm %s: its supervisor is busy", vm->name);
	pthread_mutex_unlock(&vm->lock);
	return rc;
}

int vm_do(struct host_vm *vm, int (*fn)(struct host_vm *vm, void *arg), void *arg)
{
	return do_it(vm, fn, arg, NULL);
}

int vm_do_soon(struct host_vm *vm, int (*fn)(struct host_vm *vm, void *arg), void *arg,
	       unsigned begin_ms)
{
	struct timespec until = clock_in_ms(begin_ms);

	return do_it(vm, fn, arg, &until);
}

void vm_kill_soon(struct host_vm *vm)
{
	pthread_mutex_lock(&vm->lock);
	vm->killed = true;
	pthread_mutex_unlock(&vm->lock);
	vm_wake(vm);
}

void vm_give_up_soon(struct host_vm *vm)
{
	pthread_mutex_lock(&vm->lock);
	vm->killed |= !vm->committed;
	pthread_mutex_unlock(&vm->lock);
	vm_wake(vm);
}

/* --- changes ---------------------------------------------------------------------------------- */

/* The lock is held. */
static int in_the_way(struct host_vm *vm)
{
	char object[200];

	(void)fail(-EBUSY, "vm %s: %s; wait until that is over", vm->name, vm->changing);
	err_object("%s", vm_object(vm, object));
	err_holder("%s", vm->changing);
	return -EBUSY;
}

int vm_change_begin(struct host_vm *vm, const char *what, bool lasting, unsigned timeout_ms)
{
	struct timespec until = clock_in_ms(timeout_ms);
	int rc = 0;

	pthread_mutex_lock(&vm->lock);
	while (rc == 0 && vm->phase != VM_ENDED &&
	       (vm->phase == VM_STARTING || vm->closing || (vm->changing && !vm->lasting)))
		rc = pthread_cond_timedwait(&vm->changed, &vm->lock, &until);
	if (vm->phase == VM_ENDED)
		rc = -ENOENT;
	else if (vm->changing)
		rc = in_the_way(vm);
	else if (lasting && atomic_load(&vm->incomplete)) /* what is lasting copies its memory */
		rc = fail(-EBUSY, "vm %s: its memory is coming still; wait until all is here",
			  vm->name);
	else if (rc)
		rc = fail(-ETIMEDOUT,
			  "vm %s: does not serve its disks within %u s; nothing changed", vm->name,
			  timeout_ms / 1000);
	if (rc == 0) {
		vm->changing = what;
		vm->lasting = lasting;
	}
	pthread_mutex_unlock(&vm->lock);
	return rc;
}

void vm_change_end(struct host_vm *vm)
{
	pthread_mutex_lock(&vm->lock);
	vm->changing = NULL;
	vm->lasting = false;
	pthread_cond_broadcast(&vm->changed);
	pthread_mutex_unlock(&vm->lock);
}

bool vm_change_stop(struct host_vm *vm)
{
	bool stop;

	pthread_mutex_lock(&vm->lock);
	stop = vm->closing || vm->killed || vm->phase == VM_ENDED;
	pthread_mutex_unlock(&vm->lock);
	return stop;
}

void vm_get_def(struct host_vm *vm, struct vm_def *out)
{
	pthread_mutex_lock(&vm->lock);
	*out = vm->def;
	pthread_mutex_unlock(&vm->lock);
}

bool vm_has_disk(struct host_vm *vm, const char *path)
{
	bool has;

	pthread_mutex_lock(&vm->lock);
	has = vm_def_find(&vm->def, path) >= 0;
	pthread_mutex_unlock(&vm->lock);
	return has;
}

int vm_grow(struct host_vm *vm, const char *path, uint64_t size, unsigned timeout_ms)
{
	int rc = vm_change_begin(vm, "a disk of it grows", false, timeout_ms), index;

	if (rc < 0)
		return rc;
	index = vm_def_find(&vm->def, path);
	rc = index < 0 || !vm->open[index].disk ? -ENOENT : vm_disk_grow(vm, (unsigned)index, size);
	vm_change_end(vm);
	return rc;
}

/* --- waiting ---------------------------------------------------------------------------------- */

int vm_wait_started(struct host_vm *vm, unsigned timeout_ms)
{
	struct timespec until = clock_in_ms(timeout_ms);
	int rc = 0;

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
	struct timespec until = clock_in_ms(timeout_ms);
	int rc = 0;

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
