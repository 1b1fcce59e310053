// SPDX-License-Identifier: Apache-2.0
/*
 * States of a VM. How a reboot goes: a vCPU's write (or the daemon's RESET) stops the processors
 * for good; each back-end gives the rings back; when the last one has, the machine is taken apart
 * and EVENT reset asks the daemon for a fresh kernel. Only then may guest memory be written.
 *
 * Locks: `life` (machine is there), then `lock` (devices).
 */
#include "hv/vmm.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/util.h"
#include "hv/console.h"
#include "hv/gmem.h"
#include "hv/lease.h"
#include "hv/state.h"
#include "hv/vcpu.h"
#include "hv/vhost.h"

enum post {
	POST_CONSOLE = 1,
	POST_PANICKED = 2,
	POST_POWER_OFF = 4,
	POST_RESET = 8,
	POST_CRASHED = 16,
	POST_FROZEN = 32,
	POST_VHOST = 64,
	POST_DROPPED = 128,
};

struct hv_vmm {
	int kvm_fd, wake_fd;
	struct hv_gmem *gmem;
	struct hv_lease *lease;
	const struct hv_vmm_ops *ops;
	void *opaque;
	atomic_uint posted;

	/* The main thread's. */
	enum vmctl_state state;
	struct vmctl_config config;
	struct hv_vhost *vhost[VMCTL_DEVICES_MAX];
	bool start_waits;	    /* for back-ends */
	bool save_waits;	    /* for back-ends to give rings back */
	int save_fd;		    /* of the SAVE that waits, -1: none */
	struct cpu_table *baseline; /* NULL: none was set */
	bool resetting;		    /* the processors are stopped, rings are on their way back */
	bool machine_ends;	    /* to be taken apart as soon as no back-end has rings */
	uint32_t boots;
	uint64_t start_ns;
	char why[VMCTL_TEXT_MAX + 1]; /* of CRASHED */

	pthread_mutex_t life;
	struct hv_machine *machine;

	pthread_mutex_t lock; /* the machine's; what follows is written under it by any thread */
	struct hv_console console;
	uint64_t first_output_ns;
	bool panicked;
	char crash[VMCTL_TEXT_MAX + 1];
	char drop_why[VMCTL_TEXT_MAX + 1];
	unsigned drop_device;
};

static void post(struct hv_vmm *vmm, enum post bit)
{
	if (!(atomic_fetch_or(&vmm->posted, bit) & bit))
		eventfd_write(vmm->wake_fd, 1);
}

/* --- from other threads ------------------------------------------------------------------------ */

static void machine_console(void *opaque, uint8_t byte)
{
	struct hv_vmm *vmm = opaque;

	if (!vmm->first_output_ns)
		vmm->first_output_ns = clock_boot_ns();
	hv_console_put(&vmm->console, byte);
	post(vmm, POST_CONSOLE);
}

static void machine_panicked(void *opaque)
{
	struct hv_vmm *vmm = opaque;

	vmm->panicked = true;
	post(vmm, POST_PANICKED);
}

static void machine_power_off(void *opaque)
{
	post(opaque, POST_POWER_OFF);
}

static void machine_reset(void *opaque)
{
	post(opaque, POST_RESET);
}

static void machine_frozen(void *opaque)
{
	post(opaque, POST_FROZEN);
}

static void machine_crashed(void *opaque, const char *why)
{
	struct hv_vmm *vmm = opaque;

	pthread_mutex_lock(&vmm->lock);
	(void)str_format(vmm->crash, sizeof(vmm->crash), "%s", why);
	pthread_mutex_unlock(&vmm->lock);
	post(vmm, POST_CRASHED);
}

static const struct hv_machine_ops machine_ops = {
	.console = machine_console,
	.panicked = machine_panicked,
	.power_off = machine_power_off,
	.reset = machine_reset,
	.frozen = machine_frozen,
	.crashed = machine_crashed,
};

static void vhost_changed(void *opaque)
{
	post(opaque, POST_VHOST);
}

static void vhost_dropped(void *opaque, unsigned index, const char *why)
{
	struct hv_vmm *vmm = opaque;

	pthread_mutex_lock(&vmm->lock);
	vmm->drop_device = index;
	(void)str_format(vmm->drop_why, sizeof(vmm->drop_why), "%s", why);
	pthread_mutex_unlock(&vmm->lock);
	post(vmm, POST_DROPPED);
}

static const struct hv_vhost_ops vhost_ops = {.changed = vhost_changed, .dropped = vhost_dropped};

/* The lease's thread: stops the guest by itself, then tells. */
static void lease_ended(void *opaque)
{
	struct hv_vmm *vmm = opaque;

	pthread_mutex_lock(&vmm->life);
	if (vmm->machine)
		hv_machine_freeze(vmm->machine);
	pthread_mutex_unlock(&vmm->life);
	post(vmm, POST_FROZEN);
}

/* --- events ------------------------------------------------------------------------------------ */

static void tell(struct hv_vmm *vmm, enum vmctl_event_kind kind, uint32_t code, const char *text)
{
	struct vmctl_event event = {.kind = kind, .code = code};

	(void)str_format(event.text, sizeof(event.text), "%s", text);
	log_info("vmm", "%s%s%s", vmctl_event_name(kind), *text ? ": " : "", text);
	vmm->ops->event(vmm->opaque, &event);
}

static void end_save(struct hv_vmm *vmm, int rc, uint32_t bytes)
{
	vmm->save_waits = false;
	util_close(&vmm->save_fd);
	vmm->save_fd = -1;
	vmm->ops->saved(vmm->opaque, rc, bytes);
}

/* One that waits: something else came first. */
static void cancel_save(struct hv_vmm *vmm, const char *why)
{
	if (vmm->save_waits)
		end_save(vmm, fail(-ECANCELED, "vm: %s, and was not saved", why), 0);
}

/* Stops the processors for good and asks for the rings. */
static void end_machine(struct hv_vmm *vmm)
{
	cancel_save(vmm, "it ended");
	hv_machine_end(vmm->machine);
	vmm->machine_ends = true;
	pthread_mutex_lock(&vmm->lock);
	for (unsigned i = 0; i < vmm->config.devices_n; i++) {
		if (vmm->vhost[i])
			hv_vhost_stop(vmm->vhost[i]);
	}
	pthread_mutex_unlock(&vmm->lock);
}

static bool all_vhost(struct hv_vmm *vmm, bool (*is)(const struct hv_vhost *))
{
	bool all = true;

	pthread_mutex_lock(&vmm->lock);
	for (unsigned i = 0; i < vmm->config.devices_n; i++)
		all = all && (!vmm->vhost[i] || is(vmm->vhost[i]));
	pthread_mutex_unlock(&vmm->lock);
	return all;
}

static void take_machine_apart(struct hv_vmm *vmm)
{
	pthread_mutex_lock(&vmm->lock);
	hv_gmem_log_stop(vmm->gmem); /* KVM's part of it goes with the machine */
	pthread_mutex_unlock(&vmm->lock);
	pthread_mutex_lock(&vmm->life);
	hv_machine_destroy(vmm->machine);
	vmm->machine = NULL;
	vmm->machine_ends = false;
	pthread_mutex_unlock(&vmm->life);
	if (!vmm->resetting)
		return;
	vmm->resetting = false;
	vmm->state = VMCTL_STATE_RESET;
	tell(vmm, VMCTL_EVENT_RESET, 0, "");
}

static bool alive(const struct hv_vmm *vmm)
{
	return vmm->machine && !vmm->machine_ends;
}

static void on_crash(struct hv_vmm *vmm)
{
	if (!alive(vmm))
		return;
	vmm->state = VMCTL_STATE_CRASHED;
	pthread_mutex_lock(&vmm->lock);
	memcpy(vmm->why, vmm->crash, sizeof(vmm->why));
	pthread_mutex_unlock(&vmm->lock);
	tell(vmm, VMCTL_EVENT_CRASHED, 0, vmm->why);
	end_machine(vmm);
}

static void on_frozen(struct hv_vmm *vmm)
{
	if (!alive(vmm) || !hv_machine_frozen(vmm->machine) || vmm->state == VMCTL_STATE_FROZEN)
		return;
	hv_machine_freeze(vmm->machine); /* a vCPU saw it first: until all stand still */
	vmm->state = VMCTL_STATE_FROZEN;
	tell(vmm, VMCTL_EVENT_FROZEN, 0, "the lease has ended");
}

static void on_dropped(struct hv_vmm *vmm)
{
	char why[VMCTL_TEXT_MAX + 1];

	pthread_mutex_lock(&vmm->lock);
	unsigned device = vmm->drop_device;
	memcpy(why, vmm->drop_why, sizeof(why));
	pthread_mutex_unlock(&vmm->lock);
	tell(vmm, VMCTL_EVENT_DEVICE, device, why);
}

/* --- start ------------------------------------------------------------------------------------- */

/* Booted, or from `state`. */
static int create_machine(struct hv_vmm *vmm, struct hv_state_reader *state)
{
	const struct hv_machine_config config = {
		.kvm_fd = vmm->kvm_fd,
		.gmem = vmm->gmem,
		.lease = vmm->lease,
		.config = &vmm->config,
		.baseline = vmm->baseline,
		.state = state,
		.vhost = vmm->vhost,
		.lock = &vmm->lock,
		.ops = &machine_ops,
		.opaque = vmm,
	};
	struct hv_machine *machine;

	vmm->start_ns = clock_boot_ns();
	vmm->first_output_ns = 0;
	vmm->panicked = false;
	int rc = hv_machine_create(&machine, &config);
	if (rc)
		return rc;
	pthread_mutex_lock(&vmm->life);
	vmm->machine = machine;
	pthread_mutex_unlock(&vmm->life);
	return 0;
}

static int boot_machine(struct hv_vmm *vmm)
{
	if (!hv_lease_runs(vmm->lease))
		return fail(-EPERM, "the lease has ended; the vm starts when it is renewed");
	int rc = create_machine(vmm, NULL);
	if (rc)
		return rc;
	rc = hv_machine_resume(vmm->machine);
	if (rc) {
		take_machine_apart(vmm);
		return rc;
	}
	vmm->boots++;
	vmm->state = VMCTL_STATE_RUNNING;
	return 0;
}

int hv_vmm_start(struct hv_vmm *vmm)
{
	if (vmm->state != VMCTL_STATE_CONFIGURED && vmm->state != VMCTL_STATE_RESET)
		return fail(-EBUSY, "vm: it is %s and cannot be started",
			    vmctl_state_name(vmm->state));
	if (vmm->start_waits)
		return fail(-EBUSY, "vm: it is being started already");
	if (vmm->config.boot == VMCTL_BOOT_NONE)
		return fail(-EINVAL, "vm: it was configured without a kernel");
	if (all_vhost(vmm, hv_vhost_connected))
		return boot_machine(vmm);
	vmm->start_waits = true;
	return 1;
}

void hv_vmm_forget(struct hv_vmm *vmm)
{
	vmm->start_waits = vmm->save_waits = false;
	util_close(&vmm->save_fd);
	vmm->save_fd = -1;
}

/* --- saving ------------------------------------------------------------------------------------ */

/* Plain write(2): a memfd that shrinks meanwhile is an error, and no signal. */
static int write_all(int fd, const uint8_t *data, size_t n)
{
	if (lseek(fd, 0, SEEK_SET) < 0)
		return fail(-errno, "saved state: %s", strerror(errno));
	while (n) {
		ssize_t done = write(fd, data, n);
		if (done <= 0)
			return fail(done ? -errno : -EIO, "saved state: cannot be written: %s",
				    strerror(done ? errno : EIO));
		data += done;
		n -= (size_t)done;
	}
	return 0;
}

static int write_state(struct hv_vmm *vmm, int fd, uint32_t *bytes)
{
	struct hv_state_writer w;
	size_t n = 0;

	hv_state_writer_init(&w);
	hv_state_begin(&w, "vmm", 0, 1);
	hv_state_put32(&w, vmm->boots);
	hv_state_put8(&w, vmm->panicked);
	int rc = hv_machine_save(vmm->machine, &w);
	const uint8_t *data = hv_state_finish(&w, &n);
	off_t limit = lseek(fd, 0, SEEK_END);
	if (!rc && (n > VMCTL_STATE_MAX || limit < (off_t)n))
		rc = fail(-ENOSPC, "saved state: its %zu bytes have no room", n);
	if (!rc)
		rc = write_all(fd, data, n);
	hv_state_writer_free(&w);
	*bytes = rc ? 0 : (uint32_t)n;
	return rc;
}

/* 0: no back-end has rings; 1: one still has; -ENOTCONN: and will not give them. */
static int rings_back(struct hv_vmm *vmm)
{
	int rc = 0, out = 0;

	pthread_mutex_lock(&vmm->lock);
	for (unsigned i = 0; i < vmm->config.devices_n && !rc; i++) {
		if (vmm->vhost[i] && !hv_vhost_suspended(vmm->vhost[i], &rc))
			out = 1;
	}
	pthread_mutex_unlock(&vmm->lock);
	return rc ? rc : out;
}

static void resume_devices(struct hv_vmm *vmm)
{
	pthread_mutex_lock(&vmm->lock);
	for (unsigned i = 0; i < vmm->config.devices_n; i++) {
		if (vmm->vhost[i])
			hv_vhost_resume(vmm->vhost[i]);
	}
	pthread_mutex_unlock(&vmm->lock);
}

static int suspend_devices(struct hv_vmm *vmm)
{
	int rc = 0;

	pthread_mutex_lock(&vmm->lock);
	for (unsigned i = 0; i < vmm->config.devices_n && !rc; i++) {
		if (vmm->vhost[i])
			rc = hv_vhost_suspend(vmm->vhost[i]);
	}
	pthread_mutex_unlock(&vmm->lock);
	return rc ? rc : rings_back(vmm);
}

int hv_vmm_save(struct hv_vmm *vmm, int fd, uint32_t *bytes)
{
	int rc = 0;

	*bytes = 0;
	hv_vmm_turn(vmm); /* what the last exits before the pause asked for: power-off, reset */
	if (vmm->state != VMCTL_STATE_PAUSED || !alive(vmm))
		rc = fail(-EINVAL, "vm: it is %s; only a paused one can be saved",
			  vmm->resetting ? "being reset" : vmctl_state_name(vmm->state));
	else if (vmm->save_waits)
		rc = fail(-EBUSY, "vm: it is being saved already");
	if (!rc)
		rc = suspend_devices(vmm);
	if (rc == 1) {
		vmm->save_waits = true;
		vmm->save_fd = fd;
		return 1;
	}
	if (!rc)
		rc = write_state(vmm, fd, bytes);
	close(fd);
	return rc;
}

static void save_if_rings_are_back(struct hv_vmm *vmm)
{
	uint32_t bytes = 0;
	int rc = rings_back(vmm);

	if (rc == 1)
		return;
	if (!rc)
		rc = write_state(vmm, vmm->save_fd, &bytes);
	end_save(vmm, rc, bytes);
}

/* --- loading ----------------------------------------------------------------------------------- */

static int load_own(struct hv_vmm *vmm, struct hv_state_reader *r)
{
	int rc = hv_state_section(r, "vmm", 0, 1);

	if (rc < 0)
		return rc;
	vmm->boots = hv_state_get32(r);
	vmm->panicked = hv_state_get8(r) & 1;
	rc = hv_state_done(r);
	return rc ? rc : hv_state_close(r);
}

static int load_state(struct hv_vmm *vmm, const uint8_t *data, size_t bytes)
{
	cleanup_free struct hv_state_reader *r = xcalloc(1, sizeof(*r));
	int rc = hv_state_open(r, data, bytes);

	if (!rc)
		rc = create_machine(vmm, r);
	if (rc)
		return rc;
	rc = load_own(vmm, r);
	if (!rc) {
		vmm->state = VMCTL_STATE_PAUSED;
		return 0;
	}
	end_machine(vmm);
	take_machine_apart(vmm);
	return rc;
}

int hv_vmm_load(struct hv_vmm *vmm, int fd, uint64_t bytes)
{
	size_t have = 0;

	if (vmm->state != VMCTL_STATE_CONFIGURED || vmm->start_waits)
		return fail(-EBUSY, "vm: it is %s; a state is loaded in place of a start",
			    vmm->start_waits ? "being started" : vmctl_state_name(vmm->state));
	if (bytes > VMCTL_STATE_MAX || lseek(fd, 0, SEEK_SET) < 0)
		return fail(-EINVAL, "saved state: it cannot be read");
	cleanup_free uint8_t *data = xmalloc((size_t)bytes);
	while (have < bytes) {
		ssize_t n = read(fd, data + have, (size_t)bytes - have);
		if (n <= 0)
			return fail(-EINVAL, "saved state: it is cut off at %zu bytes", have);
		have += (size_t)n;
	}
	return load_state(vmm, data, have);
}

static void on_vhost(struct hv_vmm *vmm)
{
	if (vmm->machine_ends && all_vhost(vmm, hv_vhost_idle))
		take_machine_apart(vmm);
	if (vmm->start_waits && all_vhost(vmm, hv_vhost_connected)) {
		vmm->start_waits = false;
		vmm->ops->started(vmm->opaque, boot_machine(vmm));
	}
	if (vmm->save_waits)
		save_if_rings_are_back(vmm);
}

void hv_vmm_turn(struct hv_vmm *vmm)
{
	eventfd_t n;

	eventfd_read(vmm->wake_fd, &n);
	unsigned bits = atomic_exchange(&vmm->posted, 0);
	if (bits & POST_PANICKED)
		tell(vmm, VMCTL_EVENT_PANICKED, 0, "");
	if (bits & POST_CRASHED)
		on_crash(vmm);
	if (bits & POST_POWER_OFF && alive(vmm)) {
		vmm->state = VMCTL_STATE_POWERED_OFF;
		tell(vmm, VMCTL_EVENT_POWERED_OFF, 0, "");
		end_machine(vmm);
	}
	if (bits & POST_RESET && alive(vmm)) {
		vmm->resetting = true;
		end_machine(vmm);
	}
	if (bits & POST_FROZEN)
		on_frozen(vmm);
	if (bits & POST_DROPPED)
		on_dropped(vmm);
	on_vhost(vmm);
}

/* --- requests ---------------------------------------------------------------------------------- */

/* After a reset: another kernel, or the first for a guest that was loaded. */
static int reconfigure(struct hv_vmm *vmm, const struct vmctl_config *config)
{
	const struct vmctl_config *old = &vmm->config;

	if (config->cpus != old->cpus || config->memory_bytes != old->memory_bytes ||
	    config->devices_n != old->devices_n)
		return fail(-EINVAL, "vm: cpus, memory and devices stay as they were configured");
	for (unsigned i = 0; i < old->devices_n; i++) {
		const struct vmctl_device *a = &old->devices[i], *b = &config->devices[i];
		if (a->kind != b->kind || a->queues != b->queues || a->queue_size != b->queue_size)
			return fail(-EINVAL, "vm: device %u stays as it was configured", i);
	}
	vmm->config = *config;
	return 0;
}

int hv_vmm_configure(struct hv_vmm *vmm, const struct vmctl_config *config)
{
	int rc = 0;

	if (vmm->state == VMCTL_STATE_RESET && !vmm->start_waits)
		return reconfigure(vmm, config);
	if (vmm->state != VMCTL_STATE_NEW)
		return fail(-EBUSY, "vm: it is configured already");
	if (config->memory_bytes != hv_gmem_bytes(vmm->gmem))
		return fail(-EINVAL,
			    "vm: the configuration says %llu bytes of memory, the memfd "
			    "has %llu",
			    (unsigned long long)config->memory_bytes,
			    (unsigned long long)hv_gmem_bytes(vmm->gmem));
	vmm->config = *config;
	for (unsigned i = 0; i < config->devices_n && !rc; i++) {
		if (config->devices[i].kind == VMCTL_DEVICE_RNG)
			continue;
		rc = hv_vhost_create(&vmm->vhost[i], i, &config->devices[i], vmm->gmem, &vmm->lock,
				     &vhost_ops, vmm);
	}
	if (rc)
		return rc;
	vmm->state = VMCTL_STATE_CONFIGURED;
	return 0;
}

static int need_machine(struct hv_vmm *vmm)
{
	if (alive(vmm))
		return 0;
	return fail(-EINVAL, "vm: it is %s and does not run",
		    vmm->resetting ? "being reset" : vmctl_state_name(vmm->state));
}

int hv_vmm_pause(struct hv_vmm *vmm)
{
	int rc = need_machine(vmm);

	if (rc)
		return rc;
	hv_machine_pause(vmm->machine);
	if (vmm->state == VMCTL_STATE_RUNNING)
		vmm->state = VMCTL_STATE_PAUSED;
	return 0;
}

int hv_vmm_resume(struct hv_vmm *vmm)
{
	int rc = need_machine(vmm);

	if (!rc && !hv_lease_runs(vmm->lease))
		rc = fail(-EPERM, "the lease has ended; the vm runs when it is renewed");
	if (rc)
		return rc;
	cancel_save(vmm, "it runs again");
	resume_devices(vmm);
	rc = hv_machine_resume(vmm->machine);
	if (!rc)
		vmm->state = VMCTL_STATE_RUNNING;
	return rc;
}

int hv_vmm_log_start(struct hv_vmm *vmm, int fd)
{
	int rc = need_machine(vmm);

	if (rc)
		return rc;
	pthread_mutex_lock(&vmm->lock);
	bool again = hv_gmem_logs(vmm->gmem);
	rc = hv_gmem_log_start(vmm->gmem, fd);
	if (!rc && again)
		rc = hv_machine_log(vmm->machine, false); /* so that KVM's starts clean, too */
	if (!rc)
		rc = hv_machine_log(vmm->machine, true);
	if (rc)
		hv_gmem_log_stop(vmm->gmem);
	pthread_mutex_unlock(&vmm->lock);
	return rc;
}

int hv_vmm_log_sync(struct hv_vmm *vmm)
{
	int rc = need_machine(vmm);

	if (rc)
		return rc;
	if (!hv_gmem_logs(vmm->gmem))
		return fail(-EINVAL, "vm: there is no log of its writes");
	pthread_mutex_lock(&vmm->lock);
	rc = hv_machine_log_sync(vmm->machine);
	pthread_mutex_unlock(&vmm->lock);
	return rc;
}

int hv_vmm_log_stop(struct hv_vmm *vmm)
{
	int rc = 0;

	pthread_mutex_lock(&vmm->lock);
	if (hv_gmem_logs(vmm->gmem) && vmm->machine)
		rc = hv_machine_log(vmm->machine, false);
	hv_gmem_log_stop(vmm->gmem);
	pthread_mutex_unlock(&vmm->lock);
	return rc;
}

int hv_vmm_get_cpu(struct hv_vmm *vmm, struct cpu_table *out)
{
	if (vmm->machine)
		return hv_machine_cpu_table(vmm->machine, out);
	return hv_vcpus_offered(vmm->kvm_fd, MAX(vmm->config.cpus, 1u), vmm->baseline, out);
}

int hv_vmm_set_cpu(struct hv_vmm *vmm, const struct cpu_table *baseline)
{
	cleanup_free struct cpu_table *offered = xmalloc(sizeof(*offered));

	if (vmm->state != VMCTL_STATE_CONFIGURED || vmm->start_waits)
		return fail(-EBUSY, "vm: it is %s; its processor is chosen before it starts",
			    vmctl_state_name(vmm->state));
	int rc = hv_vcpus_offered(vmm->kvm_fd, vmm->config.cpus, baseline, offered);
	if (rc)
		return rc;
	if (!vmm->baseline)
		vmm->baseline = xmalloc(sizeof(*vmm->baseline));
	*vmm->baseline = *baseline;
	return 0;
}

int hv_vmm_reset(struct hv_vmm *vmm)
{
	int rc = need_machine(vmm);

	if (rc)
		return rc;
	vmm->resetting = true;
	end_machine(vmm);
	post(vmm, POST_VHOST); /* EVENT reset comes after the REPLY */
	return 0;
}

int hv_vmm_power_button(struct hv_vmm *vmm)
{
	int rc = need_machine(vmm);

	if (rc)
		return rc;
	pthread_mutex_lock(&vmm->lock);
	hv_machine_power_button(vmm->machine);
	pthread_mutex_unlock(&vmm->lock);
	return 0;
}

void hv_vmm_status(struct hv_vmm *vmm, struct vmctl_status *out)
{
	*out = (struct vmctl_status){
		.version = VMCTL_VERSION,
		.features = VMCTL_F_STATE,
		.state = vmm->state,
		.pid = (uint32_t)getpid(),
		.boots = vmm->boots,
		.start_ns = vmm->start_ns,
	};
	memcpy(out->text, vmm->why, sizeof(out->text));
	pthread_mutex_lock(&vmm->lock);
	out->panicked = vmm->panicked;
	out->first_output_ns = vmm->first_output_ns;
	out->console_lost = vmm->console.lost;
	if (vmm->machine)
		out->devices_ready = hv_machine_devices_ready(vmm->machine);
	for (unsigned i = 0; i < vmm->config.devices_n; i++) {
		bool there = !vmm->vhost[i] || hv_vhost_connected(vmm->vhost[i]);
		out->devices_connected |= (uint64_t)there << i;
	}
	pthread_mutex_unlock(&vmm->lock);
}

void hv_vmm_console_input(struct hv_vmm *vmm, const struct vmctl_console *input)
{
	if (!vmm->machine)
		return;
	pthread_mutex_lock(&vmm->lock);
	hv_machine_console_input(vmm->machine, input->data, input->bytes);
	pthread_mutex_unlock(&vmm->lock);
}

size_t hv_vmm_console_take(struct hv_vmm *vmm, uint8_t *dst, size_t max)
{
	pthread_mutex_lock(&vmm->lock);
	size_t n = hv_console_take(&vmm->console, dst, max);
	pthread_mutex_unlock(&vmm->lock);
	return n;
}

int hv_vmm_connect(struct hv_vmm *vmm, unsigned device, int fd)
{
	if (device >= vmm->config.devices_n || !vmm->vhost[device]) {
		close(fd);
		return fail(-EINVAL, "vm: device %u has no back-end", device);
	}
	pthread_mutex_lock(&vmm->lock);
	hv_vhost_connect(vmm->vhost[device], fd);
	pthread_mutex_unlock(&vmm->lock);
	return 0;
}

int hv_vmm_wake_fd(const struct hv_vmm *vmm)
{
	return vmm->wake_fd;
}

unsigned hv_vmm_poll_fds(struct hv_vmm *vmm, int fds[HV_MACHINE_POLLS])
{
	return vmm->machine ? hv_machine_poll_fds(vmm->machine, fds) : 0;
}

void hv_vmm_serve(struct hv_vmm *vmm, int fd)
{
	if (!vmm->machine)
		return;
	pthread_mutex_lock(&vmm->lock);
	hv_machine_serve(vmm->machine, fd);
	pthread_mutex_unlock(&vmm->lock);
}

/* --- creation ---------------------------------------------------------------------------------- */

int hv_vmm_create(struct hv_vmm **out, int kvm_fd, int memory_fd, int lease_fd,
		  const struct hv_vmm_ops *ops, void *opaque)
{
	struct hv_vmm *vmm = xcalloc(1, sizeof(*vmm));

	*vmm = (struct hv_vmm){.kvm_fd = kvm_fd, .save_fd = -1, .ops = ops, .opaque = opaque};
	vmm->state = VMCTL_STATE_NEW;
	pthread_mutex_init(&vmm->life, NULL);
	pthread_mutex_init(&vmm->lock, NULL);
	vmm->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	int rc = vmm->wake_fd < 0 ? fail(-errno, "vmm: eventfd: %s", strerror(errno)) : 0;
	if (!rc)
		rc = hv_gmem_create(&vmm->gmem, memory_fd);
	if (!rc)
		rc = hv_lease_create(&vmm->lease, lease_fd, lease_ended, vmm);
	if (rc) {
		hv_gmem_destroy(vmm->gmem);
		util_close(&vmm->wake_fd);
		free(vmm);
		return rc;
	}
	*out = vmm;
	return 0;
}

int hv_vmm_watch(struct hv_vmm *vmm)
{
	return hv_lease_watch(vmm->lease);
}
