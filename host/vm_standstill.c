// SPDX-License-Identifier: Apache-2.0
/*
 * vm_standstill.c: the guest that leaves stands still: drained, its last pages and its state sent, its lock offered,
 * until it is known whose it is. All of it is one piece of work of the supervisor.
 */
#include "host/vm_leaving.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/peer_stream.h"
#include "clusterfs/cfs.h"
#include "host/daemon.h"
#include "host/vm_frames.h"
#include "host/vm_pass.h"
#include "host/volume.h"
#include "vfs/controller.h"

#define LOADED_MS  4000 /* and twice the standstill that is allowed: the guest stands still */
#define RUNNING_MS 2000 /* then the lock is asked */
#define WORD_MS \
	15000 /* for the target's word, when it has the lock: it opens disks, or ends the VM */
#define LISTEN_MS     500 /* of that, between looks at the lock */
#define SETTLE_MS     50  /* between looks at who has the lock */
#define BAGGAGE_BYTES (256 * KiB)
#define BAGGAGE_DISK \
	(16 * KiB) /* more for each disk: its inode and map, or the target reads them one by one */

/* --- tried while it runs ------------------------------------------------------------------------------------ */

int vm_try_drain(struct host_vm *vm, void *arg)
{
	struct leaving *l = arg;
	uint64_t before = clock_boot_ns();
	int rc = controller_quiesce(vm->controller,
				    (unsigned)MIN(l->max_downtime, LEAVING_DRAIN_MS));

	if (rc == 0)
		controller_unquiesce(vm->controller);
	l->drain_ns = clock_boot_ns() - before;
	return rc == -ETIMEDOUT ? 0 : rc;
}

int vm_log_sync(struct host_vm *vm, void *arg)
{
	struct leaving *l = arg;
	uint64_t before = clock_boot_ns();
	int rc = vm_call_plain(vm, VMCTL_LOG_SYNC, VM_CALL_MS);

	l->log_ns = clock_boot_ns() - before;
	return rc;
}

/* --- state ---------------------------------------------------------------------------------------------------- */

static int save(struct host_vm *vm, int fd, uint32_t *bytes)
{
	struct vmctl_msg *msg = xcalloc(2, sizeof(*msg));
	int rc;

	msg->type = VMCTL_SAVE;
	msg->fds[0] = fd;
	msg->fds_n = 1;
	rc = vm_call_for(vm, msg, VMCTL_REPLY, msg + 1, VM_CALL_MS);
	*bytes = msg[1].reply.value;
	free(msg);
	return rc;
}

int vm_make_state(struct host_vm *vm, uint8_t **out, uint32_t *bytes)
{
	cleanup_fd int fd = memfd_create("state", MFD_CLOEXEC);
	struct vm_state_head head;
	uint32_t vmm = 0;
	uint8_t *state;
	int rc, n;

	if (fd < 0 || ftruncate(fd, VMCTL_STATE_MAX) < 0)
		return fail(-errno, "vm %s: its state: %s", vm->name, strerror(errno));
	rc = save(vm, fd, &vmm);
	if (rc < 0)
		return rc;
	if (!vmm || vmm > VMCTL_STATE_MAX)
		return fail(-EPROTO, "vm %s: a state of %u bytes", vm->name, vmm);
	state = xmalloc(sizeof(head) + vmm + CONTROLLER_STATE_MAX);
	n = controller_save(vm->controller, state + sizeof(head) + vmm, CONTROLLER_STATE_MAX);
	if (n < 0 || pread(fd, state + sizeof(head), vmm, 0) != (ssize_t)vmm) {
		free(state);
		return n < 0 ? n : fail(-EIO, "vm %s: its state cannot be read", vm->name);
	}
	head = (struct vm_state_head){.vmm_bytes = le32_of(vmm),
				      .controller_bytes = le32_of((uint32_t)n)};
	memcpy(state, &head, sizeof(head));
	*out = state;
	*bytes = (uint32_t)sizeof(head) + vmm + (uint32_t)n;
	return 0;
}

/* Time since the last one. */
static uint64_t lap(struct leaving *l)
{
	uint64_t before = l->lap_ns;

	l->lap_ns = clock_boot_ns();
	return l->lap_ns - before;
}

/* Everything is there, and loaded. Nothing of it decides anything. */
static int hand_state_over(struct leaving *l)
{
	struct host_vm *vm = l->vm;
	struct vm_state_head *head;
	uint8_t *state = NULL;
	uint32_t bytes = 0;
	uint64_t saved_ns;
	int rc = vm_log_sync(vm, l);

	if (rc == 0 && !l->post)
		rc = mig_source_last_pages(l->move.source);
	l->stood.pages = lap(l);
	if (rc == 0)
		rc = vm_make_state(vm, &state, &bytes);
	saved_ns = clock_boot_ns();
	vm_leaving_step(l, "source.saved");
	if (rc == 0) /* once more what that has written */
		rc = vm_log_sync(vm, l);
	if (rc == 0) {
		head = (struct vm_state_head *)state;
		head->age_ns = le64_of(clock_boot_ns() - saved_ns);
	}
	if (rc == 0 && l->post)
		rc = mig_source_post(l->move.source, LOADED_MS);
	vm_leaving_step(l, "source.post");
	if (rc == 0)
		rc = mig_source_state(l->move.source, state, bytes, l->verify && !l->post,
				      LOADED_MS + 2 * (unsigned)l->max_downtime);
	free(state);
	return rc;
}

static void note_word(struct leaving *l, int rc)
{
	if (rc < 0)
		err_save(&l->word, rc);
	else
		l->word.err = 0;
}

static void offer(struct leaving *l)
{
	void *baggage = NULL;
	size_t size = 0;
	int rc = cfs_vm_offer(l->vm->vm_lock, l->slot, l->epoch);

	vm_leaving_step(l, "source.offered");
	if (rc == 0 &&
	    cfs_vm_baggage(l->vm->vm_lock, BAGGAGE_BYTES + l->vm->def.disks * BAGGAGE_DISK,
			   &baggage, &size) < 0)
		size = 0;
	if (rc == 0)
		rc = mig_source_offered(l->move.source, baggage, (uint32_t)MIN(size, UINT32_MAX),
					RUNNING_MS);
	free(baggage);
	if (rc < 0)
		log_info("migrate",
			 "vm %s: host %s has not said that it runs: %s; its lock will tell",
			 l->vm->name, l->to, err_message(rc));
	note_word(l, rc);
	vm_leaving_step(l, "source.told");
}

int vm_settle(struct host_vm *vm)
{
	bool said = false;
	int rc;

	for (;;) {
		rc = cfs_vm_retract(vm->vm_lock);
		if (rc == 0 || rc == -ENOENT)
			return rc;
		if (atomic_load(&vm->lost))
			return -ESTALE;
		if (atomic_load(&vm->all->host->ending)) {
			vm->unsettled = true;
			return fail(-ESHUTDOWN,
				    "vm %s: perilund is stopping, and it is not known who has the"
				    " VM; its next start finds out",
				    vm->name);
		}
		if (!said)
			log_warn("migrate",
				 "vm %s: stands still: not known yet who has its lock: %s",
				 vm->name, err_message(rc));
		said = true;
		sleep_ms(SETTLE_MS);
	}
}

static bool is_theirs(const struct leaving *l, const struct cfs_vm_where *where)
{
	return where->state != CFS_VM_STOPPED && where->slot == l->slot && where->epoch == l->epoch;
}

/*
 * The lock is not ours any more. 0: it is the target's, which runs the VM if it said so (l->word, l->stands). Else it
 * took the VM and could not run it, or never got it: a host that is evicted loses it to whoever starts it.
 */
static int went_there(struct leaving *l)
{
	struct host_vm *vm = l->vm;
	cleanup_free char *path = vm_path(vm->name, "vm");
	uint64_t end = clock_boot_ms() + WORD_MS;
	struct cfs_vm_where where;
	bool refused = false;
	int rc = 0;

	while (l->word.err) {
		refused = peer_stream_refused(l->control);
		rc = cfs_vm_where(host_volume_fs(vm->volume), path, &where);
		if (clock_boot_ms() > end || atomic_load(&vm->all->host->ending) ||
		    (rc == 0 && !is_theirs(l, &where)))
			break;
		if (!refused && l->word.err == -ETIMEDOUT)
			note_word(l, mig_source_runs(l->move.source, LISTEN_MS));
		else if (!refused && rc == 0)
			break;
		else
			sleep_ms(SETTLE_MS);
	}
	if (!l->word.err || (rc == 0 && is_theirs(l, &where) && !refused))
		return 0;
	if (rc < 0 && l->post &&
	    !refused) /* if it is they, they take the rest; else the streams are over */
		return 0;
	if (rc < 0)
		return fail_prefix(rc, "vm %s: it is not known who runs it", vm->name);
	if (where.state == CFS_VM_STOPPED)
		return fail(-EHOSTUNREACH, "vm %s: is stopped, host %s could not run it: %s",
			    vm->name, l->to, l->word.message);
	return fail(-EHOSTUNREACH, "vm %s: host %s has it now: %s", vm->name, where.host,
		    l->word.message);
}

/* The lock has told that it is there; what they said tells whether it runs. */
static void note_standing(struct leaving *l)
{
	l->stands = l->word.err || mig_source_stands(l->move.source);
}

void vm_leaving_listen(struct leaving *l)
{
	if (l->word.err == -ETIMEDOUT)
		note_word(l, mig_source_runs(l->move.source, LISTEN_MS));
	note_standing(l);
}

/* It stays here: everything as before. */
static int stays(struct leaving *l, int why)
{
	struct err_info saved;

	err_save(&saved, why);
	controller_unquiesce(l->vm->controller);
	vm_run_on(l->vm);
	if (l->throttled)
		(void)vm_throttle(l->vm, l->throttled);
	vm_pass_stay(l->vm);
	return err_restore(&saved);
}

/* What the guest did meanwhile is handled in the next turn, as always. No answer: it may stand still, or will. */
static int not_paused(struct leaving *l, int rc)
{
	struct host_vm *vm = l->vm;

	rc = rc == -EINVAL ? rc : stays(l, rc);
	if (vm->events & 1u << VMCTL_EVENT_RESET)
		return fail(-EINTR, "vm %s: not moved: the guest rebooted", vm->name);
	if (vm->events & (1u << VMCTL_EVENT_POWERED_OFF | 1u << VMCTL_EVENT_CRASHED))
		return fail(-EINTR, "vm %s: not moved: the VM ended", vm->name);
	return rc;
}

static int give_over(struct leaving *l)
{
	struct host_vm *vm = l->vm;
	uint64_t steps = host_volume_steps(vm->volume);
	int rc;

	if (l->post) { /* from here on nobody breaks the streams: the rest may be all that the guest has */
		pthread_mutex_lock(&vm->lock);
		l->move.post = !l->move.stop;
		rc = l->move.post ? 0 : -EINTR;
		pthread_mutex_unlock(&vm->lock);
		if (rc < 0)
			return stays(l, vm_leaving_stop(l));
	}
	vm_pass_leave(vm);
	offer(l);
	l->stood.offer = lap(l);
	l->stood.all = l->lap_ns - l->stood.all;
	l->lun_steps += host_volume_steps(vm->volume) - steps + mig_source_word(l->move.source);
	rc = vm_settle(vm);
	if (rc == 0 && l->post) {
		pthread_mutex_lock(&vm->lock);
		l->move.post = false;
		pthread_mutex_unlock(&vm->lock);
	}
	if (rc == 0)
		return stays(l,
			     fail(-EHOSTUNREACH, "vm %s: host %s did not take it; it runs on here",
				  vm->name, l->to));
	if (vm->unsettled)
		return rc;
	vm->moved = true;
	vm->orphan = rc != -ENOENT;
	vm_leaving_step(l, "source.moved");
	if (rc != -ENOENT)
		return fail(rc, "vm %s: this host lost its place on the volume", vm->name);
	rc = went_there(l);
	if (rc == 0)
		note_standing(l);
	l->moved_ns = clock_boot_ns();
	if (rc == 0 && l->frames)
		vm_frames_send(vm, l->frames);
	return rc;
}

int vm_stand_still(struct host_vm *vm, void *arg)
{
	struct leaving *l = arg;
	uint64_t steps = host_volume_steps(vm->volume);
	int rc = vm_leaving_stop(l);

	if (rc < 0)
		return rc;
	if (vm->phase != (l->held ? VM_PAUSED : VM_RUNNING) || vm->held != l->held || vm->resetting)
		return fail(-EINVAL, "vm %s: is %s now; not moved", vm->name,
			    vm->resetting ? "being reset" : vm_state_name(vm));
	l->stood = (struct standstill){.all = l->lap_ns = clock_boot_ns()};
	if (l->throttled) /* its monitor's own work is in that group, too */
		(void)vm_throttle(vm, 0);
	rc = vm_call_plain(vm, VMCTL_PAUSE, VM_CALL_MS);
	if (rc < 0)
		return not_paused(l, rc);
	vm->slow_stands = false;
	l->stood.pause = lap(l);
	vm_leaving_step(l, "source.paused");
	rc = controller_quiesce(vm->controller, LEAVING_DRAIN_MS);
	if (rc < 0)
		return stays(l, rc == -ETIMEDOUT ? -EAGAIN : rc);
	l->stood.drain = lap(l);
	vm_leaving_step(l, "source.drained");
	rc = l->quick ? mig_source_all(l->move.source) : 0;
	if (rc == 0)
		rc = hand_state_over(l);
	vm_leaving_step(l, "source.loaded");
	if (rc < 0)
		return stays(l, rc);
	l->stood.state = lap(l);
	l->lun_steps = host_volume_steps(vm->volume) - steps;
	return give_over(l);
}
