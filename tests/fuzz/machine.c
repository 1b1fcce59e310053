// SPDX-License-Identifier: Apache-2.0
#include "tests/fuzz/machine.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/log.h"
#include "base/vmctl.h"
#include "hv/acpi.h"
#include "hv/kvm.h"

/* --- in KVM's place ------------------------------------------------------------------------------ */

static unsigned next_gsi;

void hv_kvm_irq_line(struct hv_kvm *kvm, unsigned gsi, bool level)
{
	(void)kvm;
	(void)level;
	MUST(gsi < 24);
}

int hv_kvm_gsi_alloc(struct hv_kvm *kvm)
{
	(void)kvm;
	return (int)next_gsi++;
}

int hv_kvm_msi_route(struct hv_kvm *kvm, unsigned gsi, uint64_t address, uint32_t value)
{
	(void)kvm;
	(void)address;
	(void)value;
	MUST(gsi >= 24 && gsi < next_gsi);
	return 0;
}

int hv_kvm_irqfd(struct hv_kvm *kvm, int fd, unsigned gsi, bool on)
{
	(void)kvm;
	(void)on;
	MUST(fd >= 0 && gsi < next_gsi);
	return 0;
}

int hv_kvm_ioeventfd(struct hv_kvm *kvm, int fd, bool pio, uint64_t address, int match, bool on)
{
	(void)kvm;
	(void)match;
	(void)on;
	MUST(fd >= 0 && address && (!pio || address <= 0xffff));
	return 0;
}

/* --- the machine --------------------------------------------------------------------------------- */

static void output(void *opaque, uint8_t byte)
{
	(void)opaque;
	(void)byte;
}

static void nothing(void *opaque)
{
	(void)opaque;
}

static void dropped(void *opaque, unsigned index, const char *why)
{
	(void)opaque;
	(void)index;
	(void)why;
}

static const struct hv_power_ops power_ops = {.power_off = nothing, .reset = nothing};
static const struct hv_vhost_ops vhost_ops = {.changed = nothing, .dropped = dropped};

struct machine *machine_get(void)
{
	static const struct vmctl_device config = {VMCTL_DEVICE_BLK, 2, 128};
	static struct machine m;
	int fd;

	if (m.gmem)
		return &m;
	fd = memfd_create("guest", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	MUST(fd >= 0 && !ftruncate(fd, MACHINE_MEMORY));
	MUST(!fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW));
	MUST(!hv_gmem_create(&m.gmem, fd));
	pthread_mutex_init(&m.lock, NULL);
	MUST(!hv_vhost_create(&m.disk, MACHINE_DISK, &config, m.gmem, &m.lock, &vhost_ops, NULL));
	hv_agent_create(&m.agent, m.gmem, 64);
	log_set_level(LOG_ERROR);
	return &m;
}

static void make_firmware(struct machine *m)
{
	static struct hv_acpi acpi;

	MUST(!hv_watchdog_create(&m->watchdog, &m->ports, false, nothing, NULL));
	hv_acpi_build(&acpi, 1, true);
	hv_fwcfg_create(&m->fwcfg, &m->ports, 1);
	hv_fwcfg_fill(m->fwcfg, MACHINE_MEMORY, &acpi, "disk");
}

void machine_make(struct machine *m)
{
	pthread_mutex_lock(&m->lock);
	next_gsi = 24;
	hv_bus_init(&m->ports);
	hv_bus_init(&m->mmio);
	hv_pci_create(&m->pci, &m->ports, &m->mmio);
	hv_power_create(&m->power, &m->ports, NULL, &power_ops, NULL);
	hv_serial_create(&m->serial, &m->ports, NULL, output, NULL);
	hv_rtc_create(&m->rtc, &m->ports, MACHINE_MEMORY, 1);
	hv_pvpanic_create(&m->pvpanic, m->pci, 2, nothing, NULL);
	make_firmware(m);
	hv_rng_create(&m->rng, m->gmem, 64);
	hv_balloon_create(&m->balloon, m->gmem, 64);
	m->virtio[MACHINE_RNG] = hv_rng_device(m->rng);
	m->virtio[MACHINE_DISK] = hv_vhost_device(m->disk);
	m->virtio[MACHINE_BALLOON] = hv_balloon_device(m->balloon);
	m->virtio[MACHINE_AGENT] = hv_agent_device(m->agent);
	for (unsigned i = 0; i < MACHINE_DEVICES; i++)
		MUST(!hv_virtio_pci_create(&m->transport[i], m->virtio[i], m->pci, NULL, 3 + i));
}

void machine_unmake(struct machine *m)
{
	hv_vhost_stop(m->disk);
	hv_agent_stop(m->agent);
	for (unsigned i = 0; i < MACHINE_DEVICES; i++)
		hv_virtio_pci_destroy(m->transport[i]);
	hv_balloon_destroy(m->balloon);
	hv_rng_destroy(m->rng);
	hv_fwcfg_destroy(m->fwcfg);
	hv_watchdog_destroy(m->watchdog);
	hv_pvpanic_destroy(m->pvpanic);
	hv_rtc_destroy(m->rtc);
	hv_serial_destroy(m->serial);
	hv_power_destroy(m->power);
	hv_pci_destroy(m->pci);
	pthread_mutex_unlock(&m->lock);
}

void machine_serve(struct machine *m)
{
	for (unsigned i = 0; i < MACHINE_DEVICES; i++) {
		struct hv_virtio *v = m->virtio[i];

		for (unsigned q = 0; v->ops->serve && q < v->queues_n; q++)
			v->ops->serve(v, q);
	}
}

bool machine_load(struct machine *m, struct hv_state_reader *r)
{
	int bad = hv_pci_load(m->pci, r) != 0;

	bad += hv_power_load(m->power, r) != 0;
	bad += hv_serial_load(m->serial, r) != 0;
	bad += hv_rtc_load(m->rtc, r) != 0;
	bad += hv_pvpanic_load(m->pvpanic, r) != 0;
	bad += hv_state_count(r, "watchdog") && hv_watchdog_load(m->watchdog, r);
	bad += hv_state_count(r, "fwcfg") && hv_fwcfg_load(m->fwcfg, r);
	for (unsigned i = 0; i < MACHINE_DEVICES; i++)
		bad += hv_virtio_pci_load(m->transport[i], i, r) != 0;
	bad += hv_rng_load(m->rng, MACHINE_RNG, r) != 0;
	bad += hv_vhost_load(m->disk, r) != 0;
	bad += hv_balloon_load(m->balloon, MACHINE_BALLOON, r) != 0;
	bad += hv_agent_load(m->agent, MACHINE_AGENT, r) != 0;
	return !bad && !hv_state_close(r);
}

void machine_save(struct machine *m, struct hv_state_writer *w)
{
	hv_pci_save(m->pci, w);
	hv_power_save(m->power, w);
	hv_serial_save(m->serial, w);
	hv_rtc_save(m->rtc, w);
	hv_pvpanic_save(m->pvpanic, w);
	hv_watchdog_save(m->watchdog, w);
	hv_fwcfg_save(m->fwcfg, w);
	for (unsigned i = 0; i < MACHINE_DEVICES; i++)
		hv_virtio_pci_save(m->transport[i], i, w);
	hv_rng_save(m->rng, MACHINE_RNG, w);
	hv_vhost_save(m->disk, w);
	hv_balloon_save(m->balloon, MACHINE_BALLOON, w);
	hv_agent_save(m->agent, MACHINE_AGENT, w);
}
