// SPDX-License-Identifier: Apache-2.0
/*
 * Assembly of a machine. PCI slots: 0 host bridge, 1 kept free for an ISA bridge, 2 pvpanic, 3 and
 * on the configured devices in their order (addresses stay the same across hosts and starts).
 */
#include "hv/machine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/log.h"
#include "base/util.h"
#include "hv/acpi.h"
#include "hv/agent.h"
#include "hv/balloon.h"
#include "hv/boot.h"
#include "hv/bus.h"
#include "hv/chips.h"
#include "hv/fwcfg.h"
#include "hv/gmem.h"
#include "hv/kvm.h"
#include "hv/lease.h"
#include "hv/net.h"
#include "hv/pci.h"
#include "hv/power.h"
#include "hv/pvpanic.h"
#include "hv/rng.h"
#include "hv/rtc.h"
#include "hv/serial.h"
#include "hv/state.h"
#include "hv/vcpu.h"
#include "hv/vhost.h"
#include "hv/virtio_pci.h"
#include "hv/watchdog.h"

#define SLOT_PVPANIC 2
#define SLOT_DEVICES 3
_Static_assert(SLOT_DEVICES + VMCTL_DEVICES_MAX <= HV_PCI_SLOTS, "slots");

struct hv_machine {
	struct hv_machine_config c;
	struct hv_kvm *kvm;
	struct hv_bus ports, mmio;
	struct hv_pci *pci;
	struct hv_power *power;
	struct hv_serial *serial;
	struct hv_rtc *rtc;
	struct hv_pvpanic *pvpanic;
	struct hv_watchdog *watchdog; /* NULL: switched off */
	struct hv_fwcfg *fwcfg;	      /* NULL: no firmware */
	uint64_t rom_bytes;	      /* the firmware's, right below 1 MiB and 4 GiB; 0: none */
	struct hv_rng *rng[VMCTL_DEVICES_MAX];
	struct hv_balloon *balloon; /* NULL: none was configured */
	struct hv_net *net[VMCTL_DEVICES_MAX];
	struct hv_virtio *virtio[VMCTL_DEVICES_MAX];
	struct hv_virtio_pci *transport[VMCTL_DEVICES_MAX];
	struct hv_vcpus *vcpus;
};

/* --- what processors ask ----------------------------------------------------------------------- */

static void access_bus(struct hv_machine *m, struct hv_bus *bus, bool write, uint64_t address,
		       void *data, unsigned size)
{
	uint64_t value = 0;

	pthread_mutex_lock(m->c.lock);
	if (write) {
		memcpy(&value, data, size);
		hv_bus_write(bus, address, size, value);
	} else {
		value = hv_bus_read(bus, address, size);
		memcpy(data, &value, size);
	}
	pthread_mutex_unlock(m->c.lock);
}

static void vcpu_pio(void *opaque, bool write, uint16_t port, void *data, unsigned size)
{
	struct hv_machine *m = opaque;

	access_bus(m, &m->ports, write, port, data, size);
}

static void vcpu_mmio(void *opaque, bool write, uint64_t address, void *data, unsigned size)
{
	struct hv_machine *m = opaque;

	access_bus(m, &m->mmio, write, address, data, size);
}

static uint64_t vcpu_runs_until(void *opaque)
{
	struct hv_machine *m = opaque;

	return hv_lease_end(m->c.lease);
}

static void vcpu_frozen(void *opaque)
{
	struct hv_machine *m = opaque;

	m->c.ops->frozen(m->c.opaque);
}

static void vcpu_shutdown(void *opaque)
{
	struct hv_machine *m = opaque;

	log_warn("machine", "a processor has shut down (a triple fault): the guest is reset");
	m->c.ops->reset(m->c.opaque);
}

static void vcpu_failed(void *opaque, const char *why)
{
	struct hv_machine *m = opaque;

	m->c.ops->crashed(m->c.opaque, why);
}

static const struct hv_vcpu_ops vcpu_ops = {
	.pio = vcpu_pio,
	.mmio = vcpu_mmio,
	.runs_until = vcpu_runs_until,
	.frozen = vcpu_frozen,
	.shutdown = vcpu_shutdown,
	.failed = vcpu_failed,
};

/* --- what devices tell ------------------------------------------------------------------------- */

static void power_off(void *opaque)
{
	struct hv_machine *m = opaque;

	hv_vcpus_stop(m->vcpus, HV_STOP_END);
	m->c.ops->power_off(m->c.opaque);
}

static void reset(void *opaque)
{
	struct hv_machine *m = opaque;

	hv_vcpus_stop(m->vcpus, HV_STOP_END);
	m->c.ops->reset(m->c.opaque);
}

static void watchdog_expired(void *opaque)
{
	struct hv_machine *m = opaque;

	m->c.ops->watchdog(m->c.opaque);
	if (m->c.options->watchdog == VMCTL_WATCHDOG_RESET)
		reset(m);
}

static const struct hv_power_ops power_ops = {.power_off = power_off, .reset = reset};

/* --- assembly ---------------------------------------------------------------------------------- */

static int add_device(struct hv_machine *m, unsigned i)
{
	const struct vmctl_device *d = &m->c.config->devices[i];
	int rc;

	switch (d->kind) {
	case VMCTL_DEVICE_SCSI:
	case VMCTL_DEVICE_BLK:
		m->virtio[i] = hv_vhost_device(m->c.vhost[i]);
		break;
	case VMCTL_DEVICE_RNG:
		hv_rng_create(&m->rng[i], m->c.gmem, d->queue_size);
		m->virtio[i] = hv_rng_device(m->rng[i]);
		break;
	case VMCTL_DEVICE_BALLOON:
		if (m->balloon)
			return fail(-EINVAL, "device %u: a second balloon", i);
		hv_balloon_create(&m->balloon, m->c.gmem, d->queue_size);
		m->virtio[i] = hv_balloon_device(m->balloon);
		break;
	case VMCTL_DEVICE_AGENT:
		m->virtio[i] = hv_agent_device(m->c.agent);
		break;
	case VMCTL_DEVICE_NET:
		rc = hv_net_create(&m->net[i], i, d->queues, d->queue_size, m->c.gmem, m->c.net[i]);
		if (rc)
			return rc;
		m->virtio[i] = hv_net_device(m->net[i]);
		break;
	}
	rc = hv_virtio_pci_create(&m->transport[i], m->virtio[i], m->pci, m->kvm, SLOT_DEVICES + i);
	return rc || !m->net[i] ? rc : hv_net_start(m->net[i]);
}

static int add_devices(struct hv_machine *m)
{
	const struct vmctl_config *config = m->c.config;
	int rc = 0;

	hv_bus_init(&m->ports);
	hv_bus_init(&m->mmio);
	/* PCI before power: where both answer, at 0xcf9, the newer one wins. */
	hv_pci_create(&m->pci, &m->ports, &m->mmio);
	hv_power_create(&m->power, &m->ports, m->kvm, &power_ops, m);
	hv_serial_create(&m->serial, &m->ports, m->kvm, m->c.ops->console, m->c.opaque);
	hv_rtc_create(&m->rtc, &m->ports, config->memory_bytes, config->cpus);
	hv_pvpanic_create(&m->pvpanic, m->pci, SLOT_PVPANIC, m->c.ops->panicked, m->c.opaque);
	if (m->c.options->watchdog)
		rc = hv_watchdog_create(&m->watchdog, &m->ports, m->c.watchdog_ran_out,
					watchdog_expired, m);
	pthread_mutex_lock(m->c.lock);
	for (unsigned i = 0; i < config->devices_n && !rc; i++)
		rc = add_device(m, i);
	pthread_mutex_unlock(m->c.lock);
	return rc;
}

static int add_firmware(struct hv_machine *m, uint64_t rom_bytes)
{
	hv_fwcfg_create(&m->fwcfg, &m->ports, m->c.config->cpus);
	m->rom_bytes = rom_bytes;
	return hv_kvm_map_rom(m->kvm, m->c.gmem, MiB - rom_bytes, rom_bytes);
}

/* Processors come up at the reset vector by themselves. */
static int prepare_firmware(struct hv_machine *m, const struct hv_acpi *acpi)
{
	const struct vmctl_config *config = m->c.config;
	int rc = add_firmware(m, config->setup_bytes);

	hv_fwcfg_fill(m->fwcfg, config->memory_bytes, acpi, config->cmdline);
	return rc;
}

static int prepare_boot(struct hv_machine *m)
{
	const struct vmctl_config *config = m->c.config;
	cleanup_free struct hv_acpi *acpi = xmalloc(sizeof(*acpi));
	struct hv_entry entry;

	hv_acpi_build(acpi, config->cpus, m->watchdog);
	if (config->boot == VMCTL_BOOT_FIRMWARE)
		return prepare_firmware(m, acpi);
	int rc = hv_acpi_write(m->c.gmem, acpi);
	if (rc)
		return fail(rc, "acpi: the guest's memory is too small for the tables");
	rc = hv_boot_linux(m->c.gmem, config, HV_ACPI_GPA, &entry);
	return rc ? rc : hv_vcpus_set_entry(m->vcpus, &entry);
}

/* --- saved state ------------------------------------------------------------------------------- */

static void save_machine(struct hv_machine *m, struct hv_state_writer *w)
{
	const struct vmctl_config *config = m->c.config;

	hv_state_begin(w, "machine", 0, 1);
	hv_state_put32(w, config->cpus);
	hv_state_put64(w, config->memory_bytes);
	hv_state_put32(w, config->devices_n);
	for (unsigned i = 0; i < config->devices_n; i++) {
		hv_state_put16(w, (uint16_t)config->devices[i].kind);
		hv_state_put16(w, config->devices[i].queues);
		hv_state_put16(w, config->devices[i].queue_size);
	}
}

/* Is it this machine's? */
static int load_machine(struct hv_machine *m, struct hv_state_reader *r)
{
	const struct vmctl_config *config = m->c.config;
	int rc = hv_state_section(r, "machine", 0, 1);
	bool same;

	if (rc < 0)
		return rc;
	same = hv_state_get32(r) == config->cpus && hv_state_get64(r) == config->memory_bytes &&
	       hv_state_get32(r) == config->devices_n;
	for (unsigned i = 0; same && i < config->devices_n; i++)
		same = hv_state_get16(r) == config->devices[i].kind &&
		       hv_state_get16(r) == config->devices[i].queues &&
		       hv_state_get16(r) == config->devices[i].queue_size;
	if (!same)
		return hv_state_refuse(r, "another vm was saved: cpus, memory or devices differ");
	return hv_state_done(r);
}

static int load_device(struct hv_machine *m, struct hv_state_reader *r, unsigned i)
{
	int rc = hv_virtio_pci_load(m->transport[i], i, r);

	if (rc)
		return rc;
	switch (m->c.config->devices[i].kind) {
	case VMCTL_DEVICE_SCSI:
	case VMCTL_DEVICE_BLK:
		return hv_vhost_load(m->c.vhost[i], r);
	case VMCTL_DEVICE_RNG:
		return hv_rng_load(m->rng[i], i, r);
	case VMCTL_DEVICE_BALLOON:
		return hv_balloon_load(m->balloon, i, r);
	case VMCTL_DEVICE_AGENT:
		return hv_agent_load(m->c.agent, i, r);
	case VMCTL_DEVICE_NET:
		return hv_net_load(m->net[i], i, r);
	}
	return 0;
}

static void save_device(struct hv_machine *m, struct hv_state_writer *w, unsigned i)
{
	hv_virtio_pci_save(m->transport[i], i, w);
	switch (m->c.config->devices[i].kind) {
	case VMCTL_DEVICE_SCSI:
	case VMCTL_DEVICE_BLK:
		hv_vhost_save(m->c.vhost[i], w);
		break;
	case VMCTL_DEVICE_RNG:
		hv_rng_save(m->rng[i], i, w);
		break;
	case VMCTL_DEVICE_BALLOON:
		hv_balloon_save(m->balloon, i, w);
		break;
	case VMCTL_DEVICE_AGENT:
		hv_agent_save(m->c.agent, i, w);
		break;
	case VMCTL_DEVICE_NET:
		hv_net_save(m->net[i], i, w);
		break;
	}
}

static void save_firmware(struct hv_machine *m, struct hv_state_writer *w)
{
	hv_state_begin(w, "rom", 0, 1);
	hv_state_put64(w, m->rom_bytes);
	hv_fwcfg_save(m->fwcfg, w);
}

static int load_firmware(struct hv_machine *m, struct hv_state_reader *r)
{
	int rc = hv_state_section(r, "rom", 0, 1);

	if (rc < 0)
		return rc;
	uint64_t bytes = hv_state_get64(r);
	if (bytes < VMCTL_FIRMWARE_MIN || bytes > VMCTL_FIRMWARE_MAX || bytes % VMCTL_LOG_PAGE)
		return hv_state_refuse(r, "firmware of a size that cannot be");
	rc = hv_state_done(r);
	if (!rc)
		rc = add_firmware(m, bytes);
	return rc ? rc : hv_fwcfg_load(m->fwcfg, r);
}

static int load_devices(struct hv_machine *m, struct hv_state_reader *r)
{
	int rc = hv_pci_load(m->pci, r);

	if (!rc)
		rc = hv_power_load(m->power, r);
	if (!rc)
		rc = hv_serial_load(m->serial, r);
	if (!rc)
		rc = hv_rtc_load(m->rtc, r);
	if (!rc)
		rc = hv_pvpanic_load(m->pvpanic, r);
	/* It was saved by a release, or with options, that had none. */
	if (!rc && m->watchdog && hv_state_count(r, "watchdog"))
		rc = hv_watchdog_load(m->watchdog, r);
	if (!rc && hv_state_count(r, "rom"))
		rc = load_firmware(m, r);
	for (unsigned i = 0; i < m->c.config->devices_n && !rc; i++)
		rc = load_device(m, r, i);
	return rc;
}

/* Chips before processors: the clock is set before any of them runs. */
static int load(struct hv_machine *m, struct hv_state_reader *r)
{
	int rc = load_machine(m, r);

	pthread_mutex_lock(m->c.lock);
	if (!rc)
		rc = load_devices(m, r);
	if (!rc)
		rc = hv_chips_load(m->kvm, r, m->c.elapsed_ns);
	if (!rc)
		rc = hv_vcpus_load(m->vcpus, r, m->c.elapsed_ns);
	for (unsigned i = 0; i < m->c.config->devices_n && !rc; i++)
		hv_virtio_pci_call_all(m->transport[i]);
	pthread_mutex_unlock(m->c.lock);
	return rc;
}

int hv_machine_save(struct hv_machine *m, struct hv_state_writer *w)
{
	pthread_mutex_lock(m->c.lock);
	save_machine(m, w);
	hv_pci_save(m->pci, w);
	hv_power_save(m->power, w);
	hv_serial_save(m->serial, w);
	hv_rtc_save(m->rtc, w);
	hv_pvpanic_save(m->pvpanic, w);
	if (m->watchdog)
		hv_watchdog_save(m->watchdog, w);
	if (m->fwcfg)
		save_firmware(m, w);
	for (unsigned i = 0; i < m->c.config->devices_n; i++)
		save_device(m, w, i);
	int rc = hv_chips_save(m->kvm, w);
	if (!rc)
		rc = hv_vcpus_save(m->vcpus, w);
	pthread_mutex_unlock(m->c.lock);
	return rc;
}

int hv_machine_can_save(struct hv_machine *m)
{
	return hv_vcpus_can_save(m->vcpus);
}

int hv_machine_log(struct hv_machine *m, bool on)
{
	for (unsigned i = 0; i < m->c.config->devices_n; i++) {
		if (m->net[i])
			hv_net_log(m->net[i], on);
	}
	return hv_kvm_log(m->kvm, m->c.gmem, on);
}

int hv_machine_log_sync(struct hv_machine *m)
{
	return hv_kvm_log_sync(m->kvm, m->c.gmem);
}

int hv_machine_cpu_table(struct hv_machine *m, struct cpu_table *out)
{
	return hv_vcpus_table(m->vcpus, out);
}

/* --- life -------------------------------------------------------------------------------------- */

int hv_machine_create(struct hv_machine **out, const struct hv_machine_config *config)
{
	struct hv_machine *m = xcalloc(1, sizeof(*m));

	m->c = *config;
	int rc = hv_kvm_create(&m->kvm, config->kvm_fd, config->gmem);
	if (!rc)
		rc = add_devices(m);
	if (!rc)
		rc = hv_vcpus_create(&m->vcpus, m->kvm, config->config->cpus, config->baseline,
				     config->options->nested, &vcpu_ops, m);
	if (!rc)
		rc = config->state ? load(m, config->state) : prepare_boot(m);
	if (rc) {
		pthread_mutex_lock(m->c.lock);
		for (unsigned i = 0; i < config->config->devices_n; i++) {
			if (config->vhost[i])
				hv_vhost_stop(config->vhost[i]); /* what was loaded of it */
		}
		pthread_mutex_unlock(m->c.lock);
		hv_machine_destroy(m);
		return rc;
	}
	*out = m;
	return 0;
}

void hv_machine_destroy(struct hv_machine *m)
{
	if (!m)
		return;
	hv_vcpus_destroy(m->vcpus);
	pthread_mutex_lock(m->c.lock);
	if (m->c.agent)
		hv_agent_stop(m->c.agent);
	for (unsigned i = 0; i < VMCTL_DEVICES_MAX; i++) {
		if (m->net[i])
			hv_net_end(m->net[i]);
		hv_virtio_pci_destroy(m->transport[i]);
		hv_rng_destroy(m->rng[i]);
		hv_net_destroy(m->net[i]);
	}
	hv_balloon_destroy(m->balloon);
	pthread_mutex_unlock(m->c.lock);
	hv_fwcfg_destroy(m->fwcfg);
	hv_watchdog_destroy(m->watchdog);
	hv_pvpanic_destroy(m->pvpanic);
	hv_rtc_destroy(m->rtc);
	hv_serial_destroy(m->serial);
	hv_power_destroy(m->power);
	hv_pci_destroy(m->pci);
	hv_kvm_destroy(m->kvm);
	free(m);
}

/* --- running ----------------------------------------------------------------------------------- */

static void for_nets(struct hv_machine *m, void (*fn)(struct hv_net *net))
{
	for (unsigned i = 0; i < m->c.config->devices_n; i++) {
		if (m->net[i])
			fn(m->net[i]);
	}
}

int hv_machine_resume(struct hv_machine *m)
{
	if (!hv_lease_runs(m->c.lease))
		return fail(-EPERM, "the lease has ended; the vm runs when it is renewed");
	hv_vcpus_allow(m->vcpus, HV_STOP_PAUSE | HV_STOP_LEASE);
	for_nets(m, hv_net_go);
	return 0;
}

void hv_machine_pause(struct hv_machine *m)
{
	hv_vcpus_stop(m->vcpus, HV_STOP_PAUSE);
	hv_vcpus_wait(m->vcpus);
	for_nets(m, hv_net_hold);
}

void hv_machine_freeze(struct hv_machine *m)
{
	hv_vcpus_stop(m->vcpus, HV_STOP_LEASE);
	hv_vcpus_wait(m->vcpus);
	for_nets(m, hv_net_hold);
}

void hv_machine_end(struct hv_machine *m)
{
	hv_vcpus_stop(m->vcpus, HV_STOP_END);
}

bool hv_machine_frozen(struct hv_machine *m)
{
	return hv_vcpus_stopped(m->vcpus) & HV_STOP_LEASE;
}

void hv_machine_set_link(struct hv_machine *m, unsigned device, const struct hv_net_link *link)
{
	hv_net_set_link(m->net[device], link);
}

void hv_machine_power_button(struct hv_machine *m)
{
	hv_power_button(m->power);
}

size_t hv_machine_console_input(struct hv_machine *m, const uint8_t *data, size_t n)
{
	return hv_serial_input(m->serial, data, n);
}

void hv_machine_set_balloon(struct hv_machine *m, uint64_t target)
{
	if (m->balloon)
		hv_balloon_set_target(m->balloon, target);
}

void hv_machine_get_balloon(struct hv_machine *m, struct vmctl_balloon *out, bool runs)
{
	if (!m->balloon)
		return;
	hv_balloon_get(m->balloon, out);
	if (runs)
		hv_balloon_ask(m->balloon);
}

uint64_t hv_machine_devices_ready(struct hv_machine *m)
{
	uint64_t bits = 0;

	for (unsigned i = 0; i < m->c.config->devices_n; i++)
		bits |= (uint64_t)hv_virtio_ready(m->virtio[i]) << i;
	return bits;
}

unsigned hv_machine_poll_fds(struct hv_machine *m, int fds[HV_MACHINE_POLLS])
{
	unsigned n = 0;

	for (unsigned i = 0; i < m->c.config->devices_n; i++) {
		const struct hv_virtio *v = m->virtio[i];
		for (unsigned k = 0; v->ops->serve && k < v->queues_n; k++)
			fds[n++] = v->queue[k].kick_fd;
	}
	if (m->watchdog)
		fds[n++] = hv_watchdog_fd(m->watchdog);
	return n;
}

void hv_machine_serve(struct hv_machine *m, int fd)
{
	if (m->watchdog && hv_watchdog_fd(m->watchdog) == fd)
		hv_watchdog_tick(m->watchdog);
	for (unsigned i = 0; i < m->c.config->devices_n; i++) {
		struct hv_virtio *v = m->virtio[i];
		for (unsigned k = 0; v->ops->serve && k < v->queues_n; k++) {
			if (v->queue[k].kick_fd == fd)
				v->ops->serve(v, k);
		}
	}
}
