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
#include <poll.h>
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
#include "hv/agent.h"
#include "hv/gmem.h"
#include "hv/lease.h"
#include "hv/net.h"
#include "hv/vhost.h"
#include "hv/vmm_impl.h"

enum post {
	POST_CONSOLE = 1,
	POST_PANICKED = 2,
	POST_POWER_OFF = 4,
	POST_RESET = 8,
	POST_CRASHED = 16,
	POST_FROZEN = 32,
	POST_VHOST = 64,
	POST_DROPPED = 128,
	POST_WATCHDOG = 256,
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

static void machine_watchdog(void *opaque)
{
	struct hv_vmm *vmm = opaque;

	vmm->watchdog_ran_out = true;
	post(vmm, POST_WATCHDOG);
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
	.watchdog = machine_watchdog,
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

/* Stops the processors for good and asks for the rings. */
void hv_vmm_end_machine(struct hv_vmm *vmm)
{
	hv_vmm_cancel_save(vmm, "it ended");
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

void hv_vmm_take_machine_apart(struct hv_vmm *vmm)
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

bool hv_vmm_alive(const struct hv_vmm *vmm)
{
	return vmm->machine && !vmm->machine_ends;
}

static void on_crash(struct hv_vmm *vmm)
{
	if (!hv_vmm_alive(vmm))
		return;
	vmm->state = VMCTL_STATE_CRASHED;
	pthread_mutex_lock(&vmm->lock);
	memcpy(vmm->why, vmm->crash, sizeof(vmm->why));
	pthread_mutex_unlock(&vmm->lock);
	tell(vmm, VMCTL_EVENT_CRASHED, 0, vmm->why);
	hv_vmm_end_machine(vmm);
}

static void on_frozen(struct hv_vmm *vmm)
{
	if (!hv_vmm_alive(vmm) || !hv_machine_frozen(vmm->machine) ||
	    vmm->state == VMCTL_STATE_FROZEN)
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
int hv_vmm_create_machine(struct hv_vmm *vmm, struct hv_state_reader *state, uint64_t elapsed_ns)
{
	const struct hv_machine_config config = {
		.kvm_fd = vmm->kvm_fd,
		.gmem = vmm->gmem,
		.lease = vmm->lease,
		.config = &vmm->config,
		.baseline = vmm->baseline,
		.options = &vmm->options,
		.watchdog_ran_out = vmm->watchdog_ran_out,
		.state = state,
		.elapsed_ns = elapsed_ns,
		.vhost = vmm->vhost,
		.agent = vmm->agent,
		.net = vmm->net,
		.lock = &vmm->lock,
		.ops = &machine_ops,
		.opaque = vmm,
	};
	struct hv_machine *machine;

	vmm->start_ns = clock_boot_ns();
	vmm->first_output_ns = 0;
	vmm->panicked = vmm->watchdog_ran_out = false;
	int rc = hv_machine_create(&machine, &config);
	if (rc)
		return rc;
	pthread_mutex_lock(&vmm->lock);
	if (vmm->balloon_target)
		hv_machine_set_balloon(machine, vmm->balloon_target);
	pthread_mutex_unlock(&vmm->lock);
	pthread_mutex_lock(&vmm->life);
	vmm->machine = machine;
	pthread_mutex_unlock(&vmm->life);
	return 0;
}

static int boot_machine(struct hv_vmm *vmm)
{
	if (!hv_lease_runs(vmm->lease))
		return fail(-EPERM, "the lease has ended; the vm starts when it is renewed");
	int rc = hv_vmm_create_machine(vmm, NULL, 0);
	if (rc)
		return rc;
	rc = hv_machine_resume(vmm->machine);
	if (rc) {
		hv_vmm_take_machine_apart(vmm);
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

static void on_vhost(struct hv_vmm *vmm)
{
	if (vmm->machine_ends && all_vhost(vmm, hv_vhost_idle))
		hv_vmm_take_machine_apart(vmm);
	if (vmm->start_waits && all_vhost(vmm, hv_vhost_connected)) {
		vmm->start_waits = false;
		vmm->ops->started(vmm->opaque, boot_machine(vmm));
	}
	if (vmm->save_waits)
		hv_vmm_save_if_rings_are_back(vmm);
}

void hv_vmm_turn(struct hv_vmm *vmm)
{
	eventfd_t n;

	eventfd_read(vmm->wake_fd, &n);
	unsigned bits = atomic_exchange(&vmm->posted, 0);
	if (bits & POST_PANICKED)
		tell(vmm, VMCTL_EVENT_PANICKED, 0, "");
	if (bits & POST_WATCHDOG)
		tell(vmm, VMCTL_EVENT_WATCHDOG, 0,
		     vmm->options.watchdog == VMCTL_WATCHDOG_RESET ? "the guest is reset" : "");
	if (bits & POST_CRASHED)
		on_crash(vmm);
	if (bits & POST_POWER_OFF && hv_vmm_alive(vmm)) {
		vmm->state = VMCTL_STATE_POWERED_OFF;
		tell(vmm, VMCTL_EVENT_POWERED_OFF, 0, "");
		hv_vmm_end_machine(vmm);
	}
	if (bits & POST_RESET && hv_vmm_alive(vmm)) {
		vmm->resetting = true;
		hv_vmm_end_machine(vmm);
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
		const enum vmctl_device_kind kind = config->devices[i].kind;
		if (kind == VMCTL_DEVICE_AGENT && vmm->agent)
			rc = fail(-EINVAL, "vm: it can have one agent, not two");
		else if (kind == VMCTL_DEVICE_AGENT)
			hv_agent_create(&vmm->agent, vmm->gmem, config->devices[i].queue_size);
		if (kind != VMCTL_DEVICE_SCSI && kind != VMCTL_DEVICE_BLK)
			continue;
		rc = hv_vhost_create(&vmm->vhost[i], i, &config->devices[i], vmm->gmem, &vmm->lock,
				     &vhost_ops, vmm);
	}
	if (rc)
		return rc;
	vmm->state = VMCTL_STATE_CONFIGURED;
	return 0;
}

/* Its processor table is what GET_CPU says from now on. */
int hv_vmm_set_machine(struct hv_vmm *vmm, const struct vmctl_machine *options)
{
	if (vmm->machine || vmm->start_waits)
		return fail(-EBUSY, "vm: what is in its machine is said before it starts");
	vmm->options = *options;
	return 0;
}

int hv_vmm_need_machine(struct hv_vmm *vmm)
{
	if (hv_vmm_alive(vmm))
		return 0;
	return fail(-EINVAL, "vm: it is %s and does not run",
		    vmm->resetting ? "being reset" : vmctl_state_name(vmm->state));
}

int hv_vmm_pause(struct hv_vmm *vmm)
{
	int rc = hv_vmm_need_machine(vmm);

	if (rc)
		return rc;
	hv_machine_pause(vmm->machine);
	if (vmm->state == VMCTL_STATE_RUNNING)
		vmm->state = VMCTL_STATE_PAUSED;
	return 0;
}

int hv_vmm_resume(struct hv_vmm *vmm)
{
	int rc = hv_vmm_need_machine(vmm);

	if (!rc && !hv_lease_runs(vmm->lease))
		rc = fail(-EPERM, "the lease has ended; the vm runs when it is renewed");
	if (rc)
		return rc;
	hv_vmm_cancel_save(vmm, "it runs again");
	hv_vmm_resume_devices(vmm);
	rc = hv_machine_resume(vmm->machine);
	if (!rc)
		vmm->state = VMCTL_STATE_RUNNING;
	return rc;
}

int hv_vmm_reset(struct hv_vmm *vmm)
{
	int rc = hv_vmm_need_machine(vmm);

	if (rc)
		return rc;
	vmm->resetting = true;
	hv_vmm_end_machine(vmm);
	post(vmm, POST_VHOST); /* EVENT reset comes after the REPLY */
	return 0;
}

int hv_vmm_power_button(struct hv_vmm *vmm)
{
	int rc = hv_vmm_need_machine(vmm);

	if (rc)
		return rc;
	pthread_mutex_lock(&vmm->lock);
	hv_machine_power_button(vmm->machine);
	pthread_mutex_unlock(&vmm->lock);
	return 0;
}

static int need_balloon(struct hv_vmm *vmm)
{
	for (unsigned i = 0; i < vmm->config.devices_n; i++) {
		if (vmm->config.devices[i].kind == VMCTL_DEVICE_BALLOON)
			return 0;
	}
	return fail(-EINVAL, "vm: it was configured without a balloon");
}

int hv_vmm_set_balloon(struct hv_vmm *vmm, uint64_t target)
{
	int rc = need_balloon(vmm);

	if (rc)
		return rc;
	if (target < VMCTL_MEMORY_MIN || target > vmm->config.memory_bytes)
		return fail(-EINVAL, "vm: %llu bytes of memory; it can have 2 MiB to %llu",
			    (unsigned long long)target,
			    (unsigned long long)vmm->config.memory_bytes);
	vmm->balloon_target = target;
	pthread_mutex_lock(&vmm->lock);
	if (vmm->machine)
		hv_machine_set_balloon(vmm->machine, target);
	pthread_mutex_unlock(&vmm->lock);
	return 0;
}

int hv_vmm_get_balloon(struct hv_vmm *vmm, struct vmctl_balloon *out)
{
	int rc = need_balloon(vmm);

	*out = (struct vmctl_balloon){
		.target = vmm->balloon_target ? vmm->balloon_target : vmm->config.memory_bytes,
		.age_ns = UINT64_MAX,
	};
	memset(out->stat, 0xff, sizeof(out->stat));
	pthread_mutex_lock(&vmm->lock);
	if (!rc && vmm->machine)
		hv_machine_get_balloon(vmm->machine, out, vmm->state == VMCTL_STATE_RUNNING);
	pthread_mutex_unlock(&vmm->lock);
	return rc;
}

static bool is_net(const struct hv_vmm *vmm, unsigned device)
{
	return device < vmm->config.devices_n &&
	       vmm->config.devices[device].kind == VMCTL_DEVICE_NET;
}

static void close_link(struct hv_net_link *link)
{
	for (unsigned i = 0; link && i < link->taps; i++)
		close(link->tap[i]);
	for (unsigned i = 0; link && i < link->vhosts; i++)
		close(link->vhost[i]);
	free(link);
}

int hv_vmm_net(struct hv_vmm *vmm, const struct vmctl_net *how, const int *fds, unsigned n)
{
	struct hv_net_link *link = xcalloc(1, sizeof(*link)), *old;

	link->how = *how;
	link->taps = n;
	memcpy(link->tap, fds, n * sizeof(*fds));
	if (!is_net(vmm, how->device) || (n && n != vmm->config.devices[how->device].queues)) {
		close_link(link);
		return fail(-EINVAL, "vm: device %u is no network device of %u queue pairs",
			    how->device, n);
	}
	pthread_mutex_lock(&vmm->lock);
	old = vmm->net[how->device];
	vmm->net[how->device] = link;
	if (vmm->machine)
		hv_machine_set_link(vmm->machine, how->device, link);
	pthread_mutex_unlock(&vmm->lock);
	close_link(old);
	return 0;
}

int hv_vmm_net_vhost(struct hv_vmm *vmm, unsigned device, const int *fds, unsigned n)
{
	struct hv_net_link *link = is_net(vmm, device) ? vmm->net[device] : NULL;

	if (!link || n != link->taps || link->vhosts || vmm->machine) {
		for (unsigned i = 0; i < n; i++)
			close(fds[i]);
		return fail(-EINVAL, "vm: device %u takes no vhost-net now", device);
	}
	link->vhosts = n;
	memcpy(link->vhost, fds, n * sizeof(*fds));
	return 0;
}

int hv_vmm_net_take(struct hv_vmm *vmm, unsigned device, int fds[VMCTL_FDS_MAX])
{
	const struct hv_net_link *link = is_net(vmm, device) ? vmm->net[device] : NULL;

	if (!link || vmm->state != VMCTL_STATE_PAUSED)
		return fail(-EINVAL, "vm: device %u has no tap, or the vm is not paused", device);
	memcpy(fds, link->tap, link->taps * sizeof(*fds));
	return (int)link->taps;
}

void hv_vmm_status(struct hv_vmm *vmm, struct vmctl_status *out)
{
	*out = (struct vmctl_status){
		.version = VMCTL_VERSION,
		.features = VMCTL_F_STATE | VMCTL_F_NET | VMCTL_F_BALLOON | VMCTL_F_AGENT |
			    VMCTL_F_FIRMWARE | VMCTL_F_WATCHDOG |
			    (vmm->uffd >= 0 ? VMCTL_F_POSTCOPY : 0),
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
		if (vmm->config.devices[i].kind == VMCTL_DEVICE_AGENT)
			there = hv_agent_connected(vmm->agent);
		if (is_net(vmm, i))
			there = vmm->net[i];
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

int hv_vmm_connect_agent(struct hv_vmm *vmm, unsigned device, int fd, bool thaws)
{
	if (device >= vmm->config.devices_n ||
	    vmm->config.devices[device].kind != VMCTL_DEVICE_AGENT) {
		close(fd);
		return fail(-EINVAL, "vm: device %u is no agent", device);
	}
	pthread_mutex_lock(&vmm->lock);
	hv_agent_connect(vmm->agent, fd, thaws);
	pthread_mutex_unlock(&vmm->lock);
	return 0;
}

int hv_vmm_wake_fd(const struct hv_vmm *vmm)
{
	return vmm->wake_fd;
}

unsigned hv_vmm_polls(struct hv_vmm *vmm, struct pollfd p[HV_VMM_POLLS])
{
	int fds[HV_MACHINE_POLLS];

	/* A guest that stands still may be copied: what it asked for waits in its ring until it runs. */
	if (!vmm->machine || vmm->state != VMCTL_STATE_RUNNING)
		return 0;
	unsigned n = hv_machine_poll_fds(vmm->machine, fds);
	for (unsigned i = 0; i < n; i++)
		p[i] = (struct pollfd){.fd = fds[i], .events = POLLIN};
	if (vmm->agent)
		hv_agent_poll(vmm->agent, &p[n++]);
	return n;
}

void hv_vmm_serve(struct hv_vmm *vmm, const struct pollfd *p)
{
	if (!vmm->machine || vmm->state != VMCTL_STATE_RUNNING)
		return;
	pthread_mutex_lock(&vmm->lock);
	hv_machine_serve(vmm->machine, p->fd);
	if (vmm->agent)
		hv_agent_serve_daemon(vmm->agent, p);
	pthread_mutex_unlock(&vmm->lock);
}

/* --- creation ---------------------------------------------------------------------------------- */

int hv_vmm_create(struct hv_vmm **out, int kvm_fd, int memory_fd, int lease_fd, int uffd,
		  const struct hv_vmm_ops *ops, void *opaque)
{
	struct hv_vmm *vmm = xcalloc(1, sizeof(*vmm));

	*vmm = (struct hv_vmm){
		.kvm_fd = kvm_fd, .uffd = uffd, .save_fd = -1, .ops = ops, .opaque = opaque};
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
