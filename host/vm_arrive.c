// SPDX-License-Identifier: Apache-2.0
/*
 * vm_arrive.c: a VM comes from another host. Refusals first, each in words, before anything moves; then a
 * VMM that has nothing to run, memory into it, its state, and, when the source has offered the lock, the
 * compare-and-write by which the VM is ours. Only then are its disks opened and the VMM told to resume.
 */
#include "host/vm_move.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/cpu_table.h"
#include "base/err.h"
#include "base/log.h"
#include "base/peer_stream.h"
#include "clusterfs/cfs.h"
#include "host/admission.h"
#include "host/daemon.h"
#include "host/migrations.h"
#include "host/vm_cpu.h"
#include "host/vm_lazy.h"
#include "host/vm_net.h"
#include "host/vm_pass.h"
#include "host/vm_process.h"
#include "host/volume.h"
#include "migrate/memory.h"
#include "migrate/target.h"
#include "vfs/controller.h"

#define ACCEPT_MS 50 /* between tries to find out who has the lock */

struct vm_arrival {
	struct host *host;
	struct host_stream *stream;
	struct peer_stream *control;
	uint64_t tag; /* of BEGIN */
	unsigned slot, streams;
	bool post; /* post-copy is allowed */
	uint32_t epoch;
	char from[64];
	uint64_t started_ns;
	uint64_t
		used; /* bytes of memory that its guest has there; 0: a release that does not tell */
	bool here;    /* from another daemon on this machine */
	bool held;    /* it stands still, and is to do so here */
	struct cpu_table cpu;
	struct mig_target *target;
	struct host_vm *vm;
	struct vm_loaded loaded;
};

static void step(struct vm_arrival *a, const char *name)
{
	host_step(a->host, name);
}

/* --- what was asked for -------------------------------------------------------------------------------- */

static int parse(struct vm_arrival *a, json_t *doc, const char **name, struct vm_def *def)
{
	json_int_t version = json_integer_value(json_object_get(doc, "version"));
	json_int_t streams = json_integer_value(json_object_get(doc, "streams"));
	const char *theirs;
	char boot[40];
	int rc;

	*name = json_string_value(json_object_get(doc, "name"));
	if (version != MIG_VERSION)
		return fail(-EPROTONOSUPPORT,
			    "host %s moves VMs by version %lld, this one by %d; bring both to one "
			    "release",
			    a->from, (long long)version, MIG_VERSION);
	if (!*name || streams < 1 || streams > MIG_STREAMS_MAX)
		return fail(-EBADMSG, "a migration without a name, or with %lld streams",
			    (long long)streams);
	a->streams = (unsigned)streams;
	a->post = json_is_true(json_object_get(doc, "postcopy"));
	a->started_ns = (uint64_t)json_integer_value(json_object_get(doc, "started_ns"));
	a->used = (uint64_t)MAX(json_integer_value(json_object_get(doc, "memory_used")), 0);
	a->held = json_is_true(json_object_get(doc, "held"));
	process_boot(boot);
	theirs = json_string_value(json_object_get(doc, "boot"));
	a->here = theirs && !strcmp(theirs, boot);
	rc = vm_check_name(*name);
	if (rc == 0)
		rc = vm_cpu_parse(json_string_value(json_object_get(doc, "cpu")), &a->cpu);
	return rc < 0 ? rc : vm_def_parse(json_object_get(doc, "definition"), *name, def);
}

/* --- refusals ------------------------------------------------------------------------------------------- */

/*
 * What is reserved for others counts when it is made known (host_admit). What it has in use without a reservation it
 * would have here, too, and others would be killed for it.
 */
static int check_memory(struct vm_arrival *a, const char *name, const struct vm_def *def)
{
	uint64_t total, there = 0, wants = vm_share_reserved(&def->share);
	int rc = host_memory_info(a->host, &total, &there);

	if (rc == 0 && there < wants)
		rc = fail(-ENOSPC, "%llu MiB of memory are free, the VM has %llu reserved",
			  (unsigned long long)(there / MiB), (unsigned long long)(wants / MiB));
	if (rc == 0 && there < a->used)
		rc = fail(-ENOSPC,
			  "vm %s: its guest has %llu MiB of memory in use, %llu MiB are free here;"
			  " make room, or have it give some back (vm set --memory)",
			  name, (unsigned long long)DIV_ROUND_UP(a->used, MiB),
			  (unsigned long long)(there / MiB));
	return rc;
}

/* The lock says that they run it; its disks are on the volume. */
static int check_volume(struct vm_arrival *a, struct host_volume *volume, const char *name,
			const struct vm_def *def)
{
	cleanup_free char *path = vm_path(name, "vm");
	struct cfs *fs = host_volume_fs(volume);
	struct cfs_vm_where where;
	struct cfs_stat st;
	int rc = cfs_vm_where(fs, path, &where);

	if (rc == 0 &&
	    (where.state != CFS_VM_RUNS || where.slot != a->slot || where.epoch != a->epoch))
		rc = fail(-EPERM, "vm %s: its lock does not say that host %s runs it", name,
			  a->from);
	for (unsigned i = 0; i < def->disks && rc == 0; i++) {
		if (def->disk[i].pass) {
			rc = vm_pass_check(a->host, def, &def->disk[i], a->here);
			continue;
		}
		rc = cfs_stat(fs, def->disk[i].path, &st);
		if (rc < 0 && !def->disk[i].pending)
			rc = fail_prefix(rc, "disk %s:%s", host_volume_name(volume),
					 def->disk[i].path);
		else
			rc = 0;
	}
	return rc;
}

int vm_arrival_begin(struct host *host, const char *volume_id, struct host_stream *stream,
		     const struct frame *f)
{
	struct vm_arrival *a = xcalloc(1, sizeof(*a));
	struct vm_def *def = xcalloc(1, sizeof(*def));
	const struct peer_hello *theirs = peer_stream_theirs(host_stream_of(stream));
	struct host_volume *volume = NULL;
	json_t *doc = json_loadb((const char *)f->body, f->bytes, JSON_REJECT_DUPLICATES, NULL);
	const char *name = NULL;
	int rc;

	a->host = host;
	a->stream = stream;
	a->control = host_stream_of(stream);
	a->tag = f->tag;
	a->slot = theirs->slot;
	a->epoch = theirs->epoch;
	memcpy(a->from, theirs->name, sizeof(a->from));
	rc = doc ? parse(a, doc, &name, def) : fail(-EBADMSG, "a migration that is no JSON");
	step(a, "target.asked");
	if (rc == 0)
		rc = host_maintenance_check(host);
	if (rc == 0)
		rc = host_volume_get(host->volumes, volume_id, &volume);
	if (rc == 0)
		rc = check_memory(a, name, def);
	if (rc == 0 && def->firmware)
		rc = vm_check_firmware(host);
	if (rc == 0)
		rc = vm_nets_check(def, name);
	if (rc == 0)
		rc = check_volume(a, volume, name, def);
	if (rc == 0) { /* takes the use of the volume */
		rc = vm_launch_arrival(host->vms, volume, name, def, a);
		volume = NULL;
	}
	if (volume)
		host_volume_put(volume);
	json_decref(doc);
	free(def);
	if (rc < 0)
		free(a);
	return rc;
}

void vm_arrival_free(struct vm_arrival *a, int err)
{
	struct err_info why;

	err_save(&why, err);
	if (a->target) {
		host_migrations_forget(a->host->migrations, a->target);
		mig_target_destroy(a->target);
	}
	free(a->loaded.controller);
	(void)err_restore(&why);
	host_stream_end(a->stream, err);
	(void)err_restore(&why);
	free(a);
}

/* --- a VMM with nothing to run ---------------------------------------------------------------------------- */

int vm_load_machine(struct host_vm *vm, const struct cpu_table *cpu)
{
	struct vmctl_config *config = xcalloc(1, sizeof(*config));
	struct vmctl_status status = {0};
	int rc = vm_remember_arrival(vm);

	config->boot = VMCTL_BOOT_NONE;
	if (rc == 0)
		rc = vm_spawn(vm);
	if (rc == 0)
		rc = vm_remember_arrival(vm);
	if (rc == 0)
		rc = vm_connect(vm, &status);
	if (rc == 0 && !(status.features & VMCTL_F_STATE))
		rc = fail(-EPROTONOSUPPORT, "its monitor is too old for moving VMs");
	vm->can_postcopy = status.features & VMCTL_F_POSTCOPY;
	if (rc == 0)
		rc = vm_configure(vm, config);
	if (rc == 0)
		rc = vm_cpu_take(vm, cpu);
	if (rc == 0)
		rc = vm_nets_open(vm);
	if (rc == 0 && vm->def.nets) /* with its taps */
		rc = vm_remember_arrival(vm);
	if (rc == 0)
		rc = vm_disks_prepare(vm);
	free(config);
	return rc;
}

static int answer_begin(struct vm_arrival *a)
{
	char token[2 * MIG_TOKEN_BYTES + 1], *at = token, *text;
	json_t *doc;
	int rc;

	for (unsigned i = 0; i < MIG_TOKEN_BYTES; i++)
		at += str_format(at, 3, "%02x", mig_target_token(a->target)[i]);
	doc = json_pack("{s:s}", "token", token);
	text = json_dumps(doc, JSON_COMPACT);
	json_decref(doc);
	rc = peer_stream_send(a->control, FRAME_MIG_BEGIN, FRAME_ANSWER, a->tag, text,
			      (uint32_t)strlen(text), NULL, 0);
	free(text);
	return rc < 0 ? rc : peer_stream_flush(a->control);
}

/* --- what comes --------------------------------------------------------------------------------------------- */

static int check_sum(struct vm_arrival *a, const struct mig_state *s)
{
	uint64_t sum;
	int rc = mig_memory_checksum(a->vm->memory_fd, a->vm->def.memory, &sum);

	if (rc == 0 && sum != s->checksum)
		rc = fail(-EILSEQ, "the memory that came is not that of the source");
	return rc;
}

static int load_vmm(struct host_vm *vm, const uint8_t *state, uint32_t bytes, uint64_t age_ns)
{
	cleanup_fd int fd = memfd_create("state", MFD_CLOEXEC);
	struct vmctl_msg *msg;
	int rc;

	if (fd < 0 || write(fd, state, bytes) != (ssize_t)bytes)
		return fail(-errno, "no place for the state: %s", strerror(errno));
	msg = xcalloc(1, sizeof(*msg));
	msg->type = VMCTL_LOAD;
	msg->load.bytes = bytes;
	msg->load.elapsed_ns = MIN(age_ns, VMCTL_ELAPSED_MAX);
	msg->fds[0] = fd;
	msg->fds_n = 1;
	rc = vm_call(vm, msg, VM_CALL_MS);
	free(msg);
	return rc;
}

/* One that has panicked is a crashed one here, too. */
static int take_status(struct host_vm *vm)
{
	struct vmctl_msg *msg = xcalloc(2, sizeof(*msg));
	int rc;

	msg->type = VMCTL_GET_STATUS;
	rc = vm_call_for(vm, msg, VMCTL_STATUS, msg + 1, VM_CALL_MS);
	pthread_mutex_lock(&vm->lock);
	vm->panicked = rc == 0 && msg[1].status.panicked;
	pthread_mutex_unlock(&vm->lock);
	free(msg);
	return rc;
}

int vm_load_state(struct host_vm *vm, const uint8_t *bytes, uint32_t n, uint64_t came_ns,
		  struct vm_loaded *out)
{
	struct vm_state_head head;
	uint32_t vmm;
	int rc;

	if (n <= sizeof(head))
		return fail(-EBADMSG, "a state of %u bytes", n);
	memcpy(&head, bytes, sizeof(head));
	vmm = le32_get(head.vmm_bytes);
	out->controller_bytes = le32_get(head.controller_bytes);
	if (!vmm || vmm > VMCTL_STATE_MAX || out->controller_bytes > CONTROLLER_STATE_MAX ||
	    (uint64_t)sizeof(head) + vmm + out->controller_bytes != n)
		return fail(-EBADMSG, "a state of %u and %u in %u bytes", vmm,
			    out->controller_bytes, n);
	free(out->controller);
	out->controller = xmalloc(out->controller_bytes + 1);
	memcpy(out->controller, bytes + sizeof(head) + vmm, out->controller_bytes);
	rc = controller_check_state(out->controller, out->controller_bytes);
	if (rc == 0)
		rc = load_vmm(vm, bytes + sizeof(head), vmm,
			      came_ns ? le64_get(head.age_ns) + clock_boot_ns() - came_ns : 0);
	return rc < 0 ? rc : take_status(vm);
}

static int on_load(void *arg, const struct mig_state *s)
{
	struct vm_arrival *a = arg;
	uint64_t came_ns = clock_boot_ns();
	int rc;

	step(a, "target.state");
	rc = host_maintenance_check(a->host); /* it may have begun meanwhile */
	if (rc == 0 && s->has_checksum)
		rc = check_sum(a, s);
	if (rc == 0)
		rc = vm_load_state(a->vm, s->bytes, s->n, came_ns, &a->loaded);
	step(a, "target.loaded");
	return rc;
}

/* 0: the VM is ours; else it is not, for sure, or (unsettled) the next daemon asks. Nothing runs meanwhile. */
static int accept_lock(struct vm_arrival *a, const uint8_t *baggage, uint32_t n)
{
	struct host_vm *vm = a->vm;
	cleanup_free char *path = vm_path(vm->name, "vm");
	bool said = false;
	int rc;

	for (;;) {
		rc = cfs_vm_accept(host_volume_fs(vm->volume), path, a->slot, a->epoch,
				   n ? baggage : NULL, n, &vm->vm_lock);
		if (rc == 0 || rc == -ENOENT || atomic_load(&vm->lost))
			return rc;
		if (atomic_load(&a->host->ending)) {
			vm->unsettled = true;
			return rc;
		}
		if (!said)
			log_warn("migrate", "vm %s: not known yet who has its lock: %s", vm->name,
				 err_message(rc));
		said = true;
		sleep_ms(ACCEPT_MS);
	}
}

static void warn(struct host_vm *vm, int rc)
{
	if (rc < 0)
		log_warn("migrate", "vm %s: %s", vm->name, err_message(rc));
}

/* It is ours, and nobody else has it any more: what does not work now is tried again, and ends nothing. */
void vm_load_run(struct host_vm *vm, const struct vm_loaded *loaded, const char *disks_step)
{
	int rc = vm_disks_insist(vm);

	host_step(vm->all->host, disks_step);
	warn(vm, rc);
	if (rc < 0) {
		vm_set_phase(vm, vm_lease_runs(vm) ? VM_PAUSED : VM_FROZEN);
		return;
	}
	warn(vm, controller_load(vm->controller, loaded->controller, loaded->controller_bytes));
	rc = vm_connect_disks(vm);
	atomic_store(&vm->gone, rc < 0);
	warn(vm, rc);
	vm_run_on(vm);
}

/* Though it should run. */
static bool stands(struct host_vm *vm)
{
	bool yes;

	pthread_mutex_lock(&vm->lock);
	yes = !vm->held && (vm->phase == VM_PAUSED || vm->phase == VM_FROZEN);
	pthread_mutex_unlock(&vm->lock);
	return yes;
}

static int on_accept(void *arg, const uint8_t *baggage, uint32_t n, uint64_t *word)
{
	struct vm_arrival *a = arg;
	struct host_vm *vm = a->vm;
	uint64_t steps = host_volume_steps(vm->volume);
	char text[128];
	int rc;

	step(a, "target.called");
	if (vm_process_ended(vm)) /* it lives on where it is */
		return vm_died(vm->name);
	rc = accept_lock(a, baggage, n);
	if (rc < 0)
		return rc;
	step(a, "target.accepted");
	vm->loaded = true;
	vm_arrived(vm);
	vm_load_run(vm, &a->loaded, "target.disks");
	/* Ours, and given up at once: it is not to be said that it runs. */
	if (vm_process_ended(vm) || (!vm->conn && vm_process_dying(vm))) {
		rc = vm_lazy_lost(vm);
		return rc < 0 ? rc : vm_died(vm->name);
	}
	*word = host_volume_steps(vm->volume) - steps;
	if (stands(vm))
		*word |= MIG_STANDS;
	(void)str_format(text, sizeof(text), "came from host %s", a->from);
	vm_tell(vm, text);
	step(a, "target.resumed");
	return 0;
}

static int on_post(void *arg, struct mig_dirty *stale)
{
	struct vm_arrival *a = arg;
	int rc = a->post ? vm_lazy_begin(a->vm, a->target, stale)
			 : fail(-EBADMSG, "a post-copy that was not agreed on");

	step(a, "target.lazy");
	return rc;
}

static const struct mig_target_ops target_ops = {
	.post = on_post, .load = on_load, .accept = on_accept};

int vm_arrive(struct host_vm *vm, struct vm_arrival *a)
{
	struct err_info why;
	int rc;

	a->vm = vm;
	vm->started_ns = a->started_ns;
	pthread_mutex_lock(&vm->lock);
	vm->held = a->held;
	pthread_mutex_unlock(&vm->lock);
	vm_set_step(vm, "arriving");
	rc = vm_load_machine(vm, &a->cpu);
	step(a, "target.configured");
	if (rc == 0 && a->post && !vm->can_postcopy)
		rc = fail(-EOPNOTSUPP, "no post-copy: its kernel has no userfaultfd(2) for it");
	if (rc == 0)
		rc = mig_target_create(&a->target, vm->memory_fd, vm->def.memory, a->streams,
				       a->post, a->control);
	if (rc == 0) {
		host_migrations_expect(a->host->migrations, a->target);
		rc = answer_begin(a);
	}
	if (rc == 0)
		rc = mig_target_run(a->target, &target_ops, a);
	if (rc == 0)
		(void)vm_remember(vm);
	else
		log_info("migrate", "vm %s: did not come from host %s: %s", vm->name, a->from,
			 err_message(rc));
	if (rc == 0 && vm->lazy) {
		vm_lazy_keep(vm, a);
		return 0;
	}
	err_save(&why, rc);
	vm_lazy_stop(vm);
	(void)err_restore(&why);
	vm_arrival_free(a, rc);
	return rc;
}
