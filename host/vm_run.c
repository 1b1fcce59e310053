// SPDX-License-Identifier: Apache-2.0
/*
 * vm_run.c: the supervisor of a VM: starts or takes up its VMM, serves events, requests and
 * consoles, takes it apart. One thread a VM, blocking code; what the VMM says is checked (vmctl
 * decodes nothing else), what it does not say in time is its end.
 */
#include "host/vm_run.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "clusterfs/cfs.h"
#include "host/daemon.h"
#include "host/event.h"
#include "host/volume.h"
#include "vfs/controller.h"

#define REPLY_MS	 10000 /* a VMM that says nothing for that long is given up */
#define START_MS	 20000 /* back-ends come up meanwhile */
#define TAKEOVER_WAIT_MS 60000 /* a dead host's lease, fence and replay end before that */
#define TICK_MS		 200
#define LOST_CHECK_MS	 2000

static int boot_again(struct host_vm *vm);

const char *vm_phase_name(enum vm_phase phase)
{
	switch (phase) {
	case VM_STARTING:
	case VM_RUNNING:
		return "running";
	case VM_PAUSED:
		return "paused";
	case VM_FROZEN:
		return "frozen";
	case VM_ENDED:
		return "stopped";
	}
	return "unknown";
}

void vm_set_phase(struct host_vm *vm, enum vm_phase phase)
{
	vm->phase = phase;
	pthread_cond_broadcast(&vm->changed);
}

static void set_phase(struct host_vm *vm, enum vm_phase phase)
{
	pthread_mutex_lock(&vm->lock);
	vm_set_phase(vm, phase);
	pthread_mutex_unlock(&vm->lock);
}

static enum vm_phase get_phase(struct host_vm *vm)
{
	enum vm_phase phase;

	pthread_mutex_lock(&vm->lock);
	phase = vm->phase;
	pthread_mutex_unlock(&vm->lock);
	return phase;
}

static void tell(struct host_vm *vm, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void tell(struct host_vm *vm, const char *fmt, ...)
{
	char object[200], text[400];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	(void)str_format(object, sizeof(object), "%s:%s", host_volume_name(vm->volume), vm->name);
	host_event(vm->all->host->events, "vm", object, "%s", text);
}

void vm_wake(struct host_vm *vm)
{
	uint64_t one = 1;

	MUST(write(vm->wake_fd, &one, sizeof(one)) == sizeof(one) || errno == EAGAIN);
}

/* --- talking to the VMM --------------------------------------------------------------------------- */

static int connect_socket(struct host_vm *vm, int *out)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	(void)str_format(addr.sun_path, sizeof(addr.sun_path), "%s", vm->socket);
	if (fd < 0 || connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
		int err = -errno;

		if (fd >= 0)
			close(fd);
		return fail(-EIO, "vm %s: its VMM does not listen at %s: %s", vm->name, vm->socket,
			    strerror(-err));
	}
	*out = fd;
	return 0;
}

static int say_hello(struct host_vm *vm, enum vmctl_kind kind, uint32_t device,
		     struct vmctl_conn **out)
{
	struct vmctl_msg msg = {
		.type = VMCTL_HELLO,
		.hello = {.version = VMCTL_VERSION, .kind = kind, .device = device}};
	int fd = -1, rc = connect_socket(vm, &fd);

	if (rc == 0)
		rc = vmctl_conn_create(out, fd);
	if (rc == 0)
		rc = vmctl_conn_send(*out, &msg);
	return rc;
}

static void on_message(struct host_vm *vm, struct vmctl_msg *msg)
{
	for (unsigned i = 0; i < msg->fds_n; i++)
		close(msg->fds[i]); /* none is expected */
	switch (msg->type) {
	case VMCTL_CONSOLE_OUTPUT:
		vm_console_output(vm->console, msg->console.data, msg->console.bytes);
		break;
	case VMCTL_EVENT:
		vm->events |= 1u << msg->event.kind;
		if (msg->event.kind == VMCTL_EVENT_CRASHED || msg->event.kind == VMCTL_EVENT_DEVICE)
			memcpy(vm->event_text, msg->event.text, sizeof(vm->event_text));
		break;
	case VMCTL_HELLO:
	case VMCTL_CONFIG:
	case VMCTL_START:
	case VMCTL_PAUSE:
	case VMCTL_RESUME:
	case VMCTL_POWER_BUTTON:
	case VMCTL_RESET:
	case VMCTL_KILL:
	case VMCTL_CONSOLE_INPUT:
	case VMCTL_GET_STATUS:
	case VMCTL_READY:
	case VMCTL_STATUS:
	case VMCTL_REPLY:
		break; /* late answers of requests that were given up */
	}
}

/* Takes messages until one of `type` with `tag` comes. */
static int await(struct host_vm *vm, enum vmctl_type type, uint32_t tag, unsigned ms,
		 struct vmctl_msg *msg)
{
	uint64_t deadline = clock_boot_ns() + ms * NS_PER_MS;

	for (;;) {
		int rc = vmctl_conn_wait(vm->conn, msg, deadline);

		if (rc < 0)
			return rc == -ETIMEDOUT
				       ? fail(rc, "vm %s: its VMM does not answer", vm->name)
				       : rc;
		if (msg->type == type && msg->tag == tag)
			return 0;
		on_message(vm, msg);
	}
}

static int request(struct host_vm *vm, struct vmctl_msg *msg, unsigned ms)
{
	static const char *const words[] = {
		[VMCTL_CONFIG] = "configure",
		[VMCTL_START] = "start",
		[VMCTL_PAUSE] = "pause",
		[VMCTL_RESUME] = "resume",
		[VMCTL_POWER_BUTTON] = "press the power button",
		[VMCTL_RESET] = "reset",
		[VMCTL_KILL] = "kill",
	};
	enum vmctl_type type = msg->type;
	int rc;

	msg->tag = ++vm->tag;
	rc = vmctl_conn_send(vm->conn, msg);
	if (rc == 0)
		rc = await(vm, VMCTL_REPLY, vm->tag, ms, msg);
	if (rc == 0 && msg->reply.err)
		rc = fail(msg->reply.err, "vm %s: cannot %s: %s", vm->name, words[type],
			  msg->reply.text);
	return rc;
}

static int request_plain(struct host_vm *vm, enum vmctl_type type, unsigned ms)
{
	struct vmctl_msg msg = {.type = type};

	return request(vm, &msg, ms);
}

/* Connects control; `status` is what READY says. */
static int open_control(struct host_vm *vm, struct vmctl_status *status)
{
	struct vmctl_msg msg;
	int rc = say_hello(vm, VMCTL_KIND_CONTROL, 0, &vm->conn);

	if (rc == 0)
		rc = await(vm, VMCTL_READY, 0, REPLY_MS, &msg);
	if (rc == 0)
		*status = msg.status;
	return rc;
}

static int open_disks(struct host_vm *vm)
{
	struct vmctl_conn *conn = NULL;
	int rc = say_hello(vm, VMCTL_KIND_VHOST_USER, 0, &conn), fd;

	if (rc == 0) {
		fd = vmctl_conn_detach(conn);
		rc = fd < 0 ? fd : controller_serve(vm->controller, fd);
	} else if (conn) {
		vmctl_conn_destroy(conn);
	}
	return rc;
}

/* --- starting ---------------------------------------------------------------------------------------- */

static int configure(struct host_vm *vm)
{
	struct vmctl_msg msg = {.type = VMCTL_CONFIG};
	struct vmctl_config *c = &msg.config;
	int rc = vm_load_kernel(vm, c);

	if (rc < 0)
		return rc;
	c->cpus = vm->def.cpus;
	c->memory_bytes = vm->def.memory;
	c->devices[0] = (struct vmctl_device){.kind = VMCTL_DEVICE_SCSI,
					      .queues = (uint16_t)MIN(vm->def.cpus, 4),
					      .queue_size = 256};
	c->devices[1] =
		(struct vmctl_device){.kind = VMCTL_DEVICE_RNG, .queues = 1, .queue_size = 64};
	c->devices_n = 2;
	(void)str_format(c->cmdline, sizeof(c->cmdline), "%s", vm->def.append);
	return request(vm, &msg, REPLY_MS);
}

static int start_new(struct host_vm *vm)
{
	cleanup_free char *object = vm_path(vm->name, "vm");
	struct vmctl_status status;
	int rc = cfs_vm_lock(host_volume_fs(vm->volume), object, TAKEOVER_WAIT_MS, &vm->vm_lock);

	if (rc == 0) /* again, now that nobody else can change it */
		rc = vm_def_load(host_volume_fs(vm->volume), vm->name, &vm->def);
	if (rc == 0)
		rc = vm_disks_open(vm);
	if (rc == 0)
		rc = vm_spawn(vm);
	if (rc == 0)
		rc = open_control(vm, &status);
	if (rc == 0)
		rc = configure(vm);
	if (rc == 0)
		rc = open_disks(vm);
	if (rc == 0)
		rc = request_plain(vm, VMCTL_START, START_MS);
	if (rc < 0)
		return rc;
	vm->started_ns = clock_wall_ns();
	rc = vm_remember(vm);
	if (rc == 0) {
		tell(vm, "started, pid %d", (int)vm->pid);
		set_phase(vm, VM_RUNNING);
	}
	return rc;
}

/* The state a former daemon left it in, from READY. */
static int go_on(struct host_vm *vm, const struct vmctl_status *status)
{
	switch (status->state) {
	case VMCTL_STATE_NEW:
	case VMCTL_STATE_CONFIGURED:
		return fail(-ESRCH, "vm %s: its daemon died while it was starting", vm->name);
	case VMCTL_STATE_RUNNING:
		set_phase(vm, VM_RUNNING);
		return 0;
	case VMCTL_STATE_PAUSED:
		set_phase(vm, VM_RUNNING);
		return request_plain(vm, VMCTL_RESUME, REPLY_MS);
	case VMCTL_STATE_FROZEN:
		set_phase(vm, VM_FROZEN);
		return 0;
	case VMCTL_STATE_RESET:
		set_phase(vm, VM_RUNNING);
		return boot_again(vm);
	case VMCTL_STATE_POWERED_OFF:
		set_phase(vm, VM_RUNNING);
		vm->events |= 1u << VMCTL_EVENT_POWERED_OFF;
		return 0;
	case VMCTL_STATE_CRASHED:
		set_phase(vm, VM_RUNNING);
		memcpy(vm->event_text, status->text, sizeof(vm->event_text));
		vm->events |= 1u << VMCTL_EVENT_CRASHED;
		return 0;
	}
	return fail(-EPROTO, "vm %s: its VMM is in no known state", vm->name);
}

/* A VMM that lives on from a former daemon; vm_take_up has found it, the lock is adopted. */
static int start_adopted(struct host_vm *vm)
{
	struct vmctl_status status;
	int rc = vm_disks_open(vm);

	if (rc == 0)
		rc = open_control(vm, &status);
	if (rc == 0)
		rc = open_disks(vm);
	if (rc == 0)
		rc = go_on(vm, &status);
	if (rc == 0)
		tell(vm, "taken up again, pid %d, %s", (int)vm->pid,
		     vmctl_state_name(status.state));
	return rc;
}

static int boot_again(struct host_vm *vm)
{
	struct vmctl_config config;
	int rc = vm_load_kernel(vm, &config);

	return rc < 0 ? rc : request_plain(vm, VMCTL_START, START_MS);
}

/* --- serving -------------------------------------------------------------------------------------------- */

static bool came(struct host_vm *vm, enum vmctl_event_kind kind)
{
	bool yes = vm->events & 1u << kind;

	vm->events &= ~(1u << kind);
	return yes;
}

/* 0: goes on; 1: over, as it should; negative: over, by a failure. */
static int do_events(struct host_vm *vm)
{
	if (came(vm, VMCTL_EVENT_PANICKED)) {
		pthread_mutex_lock(&vm->lock);
		vm->panicked = true;
		pthread_mutex_unlock(&vm->lock);
		tell(vm, "the guest's kernel panicked");
	}
	if (came(vm, VMCTL_EVENT_CRASHED))
		return fail(-EIO, "vm %s: crashed: %s", vm->name, vm->event_text);
	if (came(vm, VMCTL_EVENT_POWERED_OFF)) {
		tell(vm, "powered off");
		return 1;
	}
	if (came(vm, VMCTL_EVENT_RESET)) {
		tell(vm, "the guest rebooted");
		return boot_again(vm);
	}
	if (came(vm, VMCTL_EVENT_FROZEN)) {
		tell(vm, "frozen: the volume's lease ran out; it goes on when the lease does");
		set_phase(vm, VM_FROZEN);
	}
	if (came(vm, VMCTL_EVENT_DEVICE)) {
		tell(vm, "disks were disconnected: %s", vm->event_text);
		atomic_store(&vm->gone, true);
	}
	return 0;
}

/* A full volume: the guest waits, and never sees an error. */
static int do_full(struct host_vm *vm)
{
	bool full = atomic_load(&vm->full) > 0;
	int rc = 0;

	if (full && get_phase(vm) == VM_RUNNING) {
		rc = request_plain(vm, VMCTL_PAUSE, REPLY_MS);
		if (rc == 0)
			tell(vm,
			     "paused: volume %s is full; it goes on when there is space (volume"
			     " grow, disk delete)",
			     host_volume_name(vm->volume));
	} else if (!full && get_phase(vm) == VM_PAUSED) {
		rc = request_plain(vm, VMCTL_RESUME, REPLY_MS);
		if (rc == 0)
			tell(vm, "goes on: volume %s has space again",
			     host_volume_name(vm->volume));
	} else {
		return 0;
	}
	if (rc == 0)
		set_phase(vm, full ? VM_PAUSED : VM_RUNNING);
	/* Frozen or rebooting just now: looked at again with the next tick. */
	return rc == -EIO || rc == -ECONNRESET || rc == -EPROTO ? rc : 0;
}

/* A frozen VM goes on when the lease does; when its lock is another's, it is over. */
static int do_frozen(struct host_vm *vm, uint64_t *next_look_ms)
{
	cleanup_free char *object = NULL;
	char owner[80];
	int rc;

	if (get_phase(vm) != VM_FROZEN)
		return 0;
	if (atomic_load(vm->volume_end) > clock_boot_ns() + TICK_MS * NS_PER_MS) {
		atomic_store(vm->vmm_end, atomic_load(vm->volume_end));
		rc = request_plain(vm, VMCTL_RESUME, REPLY_MS);
		if (rc == 0) {
			tell(vm, "goes on: the lease is renewed");
			set_phase(vm, VM_RUNNING);
		}
		return rc == -ECONNRESET || rc == -EPROTO ? rc : 0;
	}
	if (clock_boot_ms() < *next_look_ms)
		return 0;
	*next_look_ms = clock_boot_ms() + LOST_CHECK_MS;
	object = vm_path(vm->name, "vm");
	rc = cfs_vm_owner(host_volume_fs(vm->volume), object, owner, sizeof(owner));
	if (rc == -ENOENT || (rc == 0 && strcmp(owner, vm->all->host->name)))
		return fail(-ESTALE, "vm %s: another host took this one's place; ended here",
			    vm->name);
	return 0;
}

static void do_gone(struct host_vm *vm)
{
	if (!atomic_exchange(&vm->gone, false))
		return;
	if (open_disks(vm) < 0) {
		tell(vm, "disks cannot be connected again: %s; tried again", err_message(-EIO));
		atomic_store(&vm->gone, true);
	}
}

static void answer(struct host_vm *vm, int rc)
{
	pthread_mutex_lock(&vm->lock);
	err_save(&vm->answer, rc);
	vm->answered = true;
	vm->ask = VM_ASK_NONE;
	pthread_cond_broadcast(&vm->changed);
	pthread_mutex_unlock(&vm->lock);
}

/* As do_events. */
static int do_ask(struct host_vm *vm)
{
	enum vm_ask ask;
	int client;

	pthread_mutex_lock(&vm->lock);
	ask = vm->ask;
	client = vm->new_client;
	vm->new_client = -1;
	pthread_mutex_unlock(&vm->lock);
	if (client >= 0)
		vm_console_attach(vm->console, client);
	switch (ask) {
	case VM_ASK_NONE:
		return 0;
	case VM_ASK_BUTTON:
		answer(vm, request_plain(vm, VMCTL_POWER_BUTTON, REPLY_MS));
		return 0;
	case VM_ASK_RESET:
		answer(vm, request_plain(vm, VMCTL_RESET, REPLY_MS));
		return 0;
	case VM_ASK_KILL:
		tell(vm, "killed");
		answer(vm, 0);
		return 1;
	case VM_ASK_LET_GO:
		answer(vm, 0);
		return 2;
	}
	return 0;
}

static void console_input(struct host_vm *vm, const struct pollfd *fds, unsigned n)
{
	struct vmctl_msg msg = {.type = VMCTL_CONSOLE_INPUT};

	msg.console.bytes = (uint32_t)vm_console_serve(vm->console, fds, n, msg.console.data,
						       sizeof(msg.console.data));
	if (msg.console.bytes)
		(void)vmctl_conn_send(vm->conn, &msg); /* too much typed at once is lost */
}

/* Messages that are there. -errno: the connection is over. */
static int take_messages(struct host_vm *vm)
{
	struct vmctl_msg msg;
	int rc;

	while ((rc = vmctl_conn_receive(vm->conn, &msg)) == 1)
		on_message(vm, &msg);
	if (rc == 0)
		rc = vmctl_conn_flush(vm->conn);
	if (rc == 0 || rc == -EAGAIN)
		return 0;
	return fail(-EIO, "vm %s: its VMM ended", vm->name);
}

static int serve(struct host_vm *vm)
{
	uint64_t next_look_ms = 0, drain;
	int rc = 0;

	while (rc == 0) {
		struct pollfd fds[3 + CONSOLE_CLIENTS] = {
			{.fd = vmctl_conn_fd(vm->conn),
			 .events = (short)(POLLIN | (vmctl_conn_pending(vm->conn) ? POLLOUT : 0))},
			{.fd = vm->pid_fd, .events = POLLIN},
			{.fd = vm->wake_fd, .events = POLLIN},
		};
		unsigned n = vm_console_polls(vm->console, fds + 3);
		bool slow = get_phase(vm) != VM_RUNNING || atomic_load(&vm->gone) ||
			    atomic_load(&vm->full) > 0;

		(void)poll(fds, 3 + n, vm->events ? 0 : slow ? TICK_MS : -1);
		if (fds[2].revents)
			(void)!read(vm->wake_fd, &drain, sizeof(drain));
		if (fds[0].revents)
			rc = take_messages(vm);
		else if (fds[1].revents)
			rc = fail(-EIO, "vm %s: its VMM ended", vm->name);
		if (rc < 0) { /* its last words may say why */
			int last = vm->events ? do_events(vm) : 0;

			return last ? last : rc;
		}
		console_input(vm, fds + 3, n);
		do_gone(vm);
		rc = do_events(vm);
		if (rc == 0)
			rc = do_ask(vm);
		if (rc == 0)
			rc = do_full(vm);
		if (rc == 0)
			rc = do_frozen(vm, &next_look_ms);
	}
	return rc;
}

/* --- the end ------------------------------------------------------------------------------------------------ */

static void unmap_lease(struct host_vm *vm)
{
	pthread_mutex_lock(&vm->all->lock);
	if (vm->vmm_end)
		munmap((void *)vm->vmm_end, VMCTL_LEASE_BYTES);
	if (vm->volume_end)
		munmap((void *)vm->volume_end, VMCTL_LEASE_BYTES);
	vm->vmm_end = NULL;
	vm->volume_end = NULL;
	pthread_mutex_unlock(&vm->all->lock);
}

/* `rc` 2: it runs on without us. */
static void take_apart(struct host_vm *vm, int rc)
{
	if (rc != 2)
		vm_end_process(vm);
	vm_disks_close(vm, rc != 2);
	if (vm->conn)
		vmctl_conn_destroy(vm->conn);
	vm->conn = NULL;
	if (rc != 2 && vm->vm_lock && cfs_vm_unlock(vm->vm_lock) < 0)
		log_warn("host", "vm %s: its lock: %s", vm->name, err_message(-EIO));
	if (rc != 2)
		vm_forget(vm);
	unmap_lease(vm);
	if (vm->memory_fd >= 0)
		close(vm->memory_fd);
	if (vm->lease_fd >= 0)
		close(vm->lease_fd);
	if (vm->pid_fd >= 0)
		close(vm->pid_fd);
	vm->memory_fd = vm->lease_fd = vm->pid_fd = -1;
	vm_console_destroy(vm->console);
	vm->console = NULL;
}

/* Whoever still asks is answered; then the last use frees it. */
static void finish(struct host_vm *vm, const struct err_info *why, bool let_go)
{
	struct host_vms *all = vm->all;

	pthread_mutex_lock(&all->lock);
	list_del(&vm->link);
	if (why->err < 0 && vm->started_ns)
		json_object_set_new(all->crashes, vm->key, json_string(why->message));
	pthread_mutex_unlock(&all->lock);
	if (!let_go)
		host_volume_count_vm(vm->volume, -1);
	host_volume_put(vm->volume);
	pthread_mutex_lock(&vm->lock);
	vm->ended = *why;
	vm->crashed = why->err < 0 && vm->started_ns;
	if (vm->ask != VM_ASK_NONE) {
		vm->answer = *why;
		vm->answered = true;
	}
	if (vm->new_client >= 0)
		close(vm->new_client);
	vm->new_client = -1;
	vm_set_phase(vm, VM_ENDED);
	pthread_mutex_unlock(&vm->lock);
	pthread_mutex_lock(&all->lock);
	pthread_cond_broadcast(&all->changed);
	pthread_mutex_unlock(&all->lock);
	vm_put(vm);
}

static void *supervisor(void *arg)
{
	struct host_vm *vm = arg;
	cleanup_free char *log = xasprintf("%s/vm/%.13s.console", vm->all->host->state.dir,
					   vm->def.id);
	struct err_info why = {0};
	int rc;

	err_clear();
	vm->console = vm_console_create(log);
	rc = vm->adopt ? start_adopted(vm) : start_new(vm);
	if (rc == 0)
		rc = serve(vm);
	if (rc < 0) {
		err_save(&why, rc);
		if (vm->started_ns)
			tell(vm, "ended: %s", why.message);
	}
	take_apart(vm, rc);
	finish(vm, &why, rc == 2);
	return NULL;
}

/* --- other threads --------------------------------------------------------------------------------------------- */

static struct host_vm *vm_new(struct host_vms *all, struct host_volume *volume, const char *name,
			      const struct vm_def *def)
{
	struct host_vm *vm = xcalloc(1, sizeof(*vm));
	struct cfs_info *info = xcalloc(1, sizeof(*info));
	pthread_condattr_t monotonic;

	vm->all = all;
	vm->volume = volume;
	vm->def = *def;
	(void)str_format(vm->name, sizeof(vm->name), "%s", name);
	(void)cfs_info(host_volume_fs(volume), info);
	(void)str_format(vm->key, sizeof(vm->key), "%s/%s", info->id, name);
	free(info);
	vm->memory_fd = vm->lease_fd = vm->pid_fd = vm->new_client = -1;
	vm->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	MUST(vm->wake_fd >= 0);
	pthread_mutex_init(&vm->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&vm->changed, &monotonic);
	vm->uses = 1; /* the supervisor's */
	return vm;
}

static void vm_free(struct host_vm *vm)
{
	close(vm->wake_fd);
	pthread_cond_destroy(&vm->changed);
	pthread_mutex_destroy(&vm->lock);
	free(vm);
}

void vm_put(struct host_vm *vm)
{
	bool last;

	pthread_mutex_lock(&vm->all->lock);
	last = --vm->uses == 0;
	pthread_mutex_unlock(&vm->all->lock);
	if (last)
		vm_free(vm);
}

struct host_vm *vm_find(struct host_vms *all, struct host_volume *volume, const char *name)
{
	struct host_vm *vm, *found = NULL;

	pthread_mutex_lock(&all->lock);
	list_for_each (vm, &all->list, link)
		if (vm->volume == volume && !strcmp(vm->name, name)) {
			vm->uses++;
			found = vm;
			break;
		}
	pthread_mutex_unlock(&all->lock);
	return found;
}

static int running_here(struct host_vm *vm)
{
	(void)fail(-EBUSY, "vm %s: runs on this host, %s", vm->name, vm->all->host->name);
	err_object("%s", vm->name);
	err_holder("%s", vm->all->host->name);
	return -EBUSY;
}

/* What a former daemon left is found before the thread starts, so that errors have their caller. */
static int prepare_adoption(struct host_vm *vm, json_t *record)
{
	cleanup_free char *object = vm_path(vm->name, "vm");
	int rc = vm_take_up(vm, record);

	vm->adopt = true;
	if (rc < 0)
		return rc;
	return cfs_vm_adopt(host_volume_fs(vm->volume), object, &vm->vm_lock);
}

int vm_launch(struct host_vms *all, struct host_volume *volume, const char *name,
	      const struct vm_def *def, json_t *record, struct host_vm **out)
{
	struct host_vm *vm = vm_new(all, volume, name, def), *other;
	int rc = 0;

	pthread_mutex_lock(&all->lock);
	list_for_each (other, &all->list, link)
		if (!strcmp(other->key, vm->key))
			rc = -EBUSY;
	if (rc == 0 && all->ending)
		rc = -ENOTCONN;
	if (rc == 0) {
		list_add_tail(&all->list, &vm->link);
		json_object_del(all->crashes, vm->key);
	}
	pthread_mutex_unlock(&all->lock);
	if (rc < 0) {
		rc = rc == -EBUSY ? running_here(vm) : fail(rc, "perilund is stopping");
		host_volume_put(volume);
		vm_free(vm);
		return rc;
	}
	host_volume_count_vm(volume, 1);
	rc = record ? prepare_adoption(vm, record) : 0;
	if (rc < 0) {
		struct err_info why;

		err_save(&why, rc);
		take_apart(vm, rc);
		vm->uses++; /* finish() drops one */
		finish(vm, &why, false);
		vm_put(vm);
		return err_restore(&why);
	}
	vm->uses++; /* the caller's */
	MUST(pthread_create(&vm->thread, NULL, supervisor, vm) == 0);
	pthread_setname_np(vm->thread, "vm");
	pthread_detach(vm->thread);
	*out = vm;
	return 0;
}

static struct timespec deadline(unsigned timeout_ms)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	ts.tv_sec += timeout_ms / 1000;
	ts.tv_nsec += (long)(timeout_ms % 1000 * NS_PER_MS);
	if (ts.tv_nsec >= (long)NS_PER_S) {
		ts.tv_nsec -= (long)NS_PER_S;
		ts.tv_sec++;
	}
	return ts;
}

int vm_ask(struct host_vm *vm, enum vm_ask ask, unsigned timeout_ms)
{
	struct timespec until = deadline(timeout_ms);
	int rc = 0;

	pthread_mutex_lock(&vm->lock);
	while (rc == 0 && vm->ask != VM_ASK_NONE && vm->phase != VM_ENDED)
		rc = pthread_cond_timedwait(&vm->changed, &vm->lock, &until);
	if (vm->phase == VM_ENDED) {
		pthread_mutex_unlock(&vm->lock);
		return fail(-ENOENT, "vm %s: does not run", vm->name);
	}
	if (rc == 0) {
		vm->ask = ask;
		vm->answered = false;
		vm_wake(vm);
		while (rc == 0 && !vm->answered)
			rc = pthread_cond_timedwait(&vm->changed, &vm->lock, &until);
	}
	if (rc) {
		pthread_mutex_unlock(&vm->lock);
		return fail(-ETIMEDOUT, "vm %s: is busy and did not answer; try again, or vm kill",
			    vm->name);
	}
	rc = err_restore(&vm->answer);
	pthread_mutex_unlock(&vm->lock);
	return rc;
}

int vm_wait_started(struct host_vm *vm, unsigned timeout_ms)
{
	struct timespec until = deadline(timeout_ms);
	int rc = 0;

	pthread_mutex_lock(&vm->lock);
	while (rc == 0 && vm->phase == VM_STARTING)
		rc = pthread_cond_timedwait(&vm->changed, &vm->lock, &until);
	if (vm->phase == VM_STARTING)
		rc = fail(-ETIMEDOUT, "vm %s: still starting", vm->name);
	else if (vm->phase == VM_ENDED && vm->ended.err < 0)
		rc = err_restore(&vm->ended);
	else
		rc = 0;
	pthread_mutex_unlock(&vm->lock);
	return rc;
}

int vm_wait_ended(struct host_vm *vm, unsigned timeout_ms)
{
	struct timespec until = deadline(timeout_ms);
	int rc = 0;

	pthread_mutex_lock(&vm->lock);
	while (rc == 0 && vm->phase != VM_ENDED)
		rc = pthread_cond_timedwait(&vm->changed, &vm->lock, &until);
	rc = vm->phase == VM_ENDED ? 0 : -ETIMEDOUT;
	pthread_mutex_unlock(&vm->lock);
	return rc;
}
