// SPDX-License-Identifier: Apache-2.0
/*
 * What a hostile guest can do to the VMM's devices: any access of any size to any port and device
 * address, with any bytes in its memory. KVM is not asked: the calls below stand in its place.
 *
 * Input: records of 14 bytes: what (1), address (4), size (1; bits 2 and 3: which device), value (8).
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/log.h"
#include "base/util.h"
#include "hv/balloon.h"
#include "hv/bus.h"
#include "hv/gmem.h"
#include "hv/kvm.h"
#include "hv/pci.h"
#include "hv/power.h"
#include "hv/pvpanic.h"
#include "hv/rng.h"
#include "hv/rtc.h"
#include "hv/serial.h"
#include "hv/vhost.h"
#include "hv/virtio_pci.h"

#define MEMORY	     (2 * MiB)
#define RECORD_BYTES 14
#define RECORDS_MAX  512
#define DEVICES	     2 /* rng, balloon; their registers lie behind each other */
#define FIRST_BAR    0xc0008000u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* --- in KVM's place: the linker takes these, not hv/kvm.c ---------------------------------------- */

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

/* --- a machine without processors ---------------------------------------------------------------- */

struct machine {
	struct hv_bus ports, mmio;
	struct hv_pci *pci;
	struct hv_power *power;
	struct hv_serial *serial;
	struct hv_rtc *rtc;
	struct hv_pvpanic *pvpanic;
	struct hv_rng *rng;
	struct hv_balloon *balloon;
	struct hv_virtio *device[DEVICES];
	struct hv_virtio_pci *transport[DEVICES];
};

static struct hv_gmem *gmem;

static void output(void *opaque, uint8_t byte)
{
	(void)opaque;
	(void)byte;
}

static void nothing(void *opaque)
{
	(void)opaque;
}

static const struct hv_power_ops power_ops = {.power_off = nothing, .reset = nothing};

static void make(struct machine *m)
{
	next_gsi = 24;
	hv_bus_init(&m->ports);
	hv_bus_init(&m->mmio);
	hv_pci_create(&m->pci, &m->ports, &m->mmio);
	hv_power_create(&m->power, &m->ports, NULL, &power_ops, NULL);
	hv_serial_create(&m->serial, &m->ports, NULL, output, NULL);
	hv_rtc_create(&m->rtc, &m->ports, MEMORY, 1);
	hv_pvpanic_create(&m->pvpanic, m->pci, 2, nothing, NULL);
	hv_rng_create(&m->rng, gmem, 64);
	hv_balloon_create(&m->balloon, gmem, 64);
	m->device[0] = hv_rng_device(m->rng);
	m->device[1] = hv_balloon_device(m->balloon);
	for (unsigned i = 0; i < DEVICES; i++)
		MUST(!hv_virtio_pci_create(&m->transport[i], m->device[i], m->pci, NULL, 3 + i));
	/* As a kernel leaves it: the devices answer. The input may undo that. */
	for (uint32_t slot = 2; slot < 3 + DEVICES; slot++) {
		hv_bus_write(&m->ports, 0xcf8, 4, 0x80000004 | slot << 11);
		hv_bus_write(&m->ports, 0xcfc, 2, 7);
	}
}

static void unmake(struct machine *m)
{
	for (unsigned i = 0; i < DEVICES; i++)
		hv_virtio_pci_destroy(m->transport[i]);
	hv_balloon_destroy(m->balloon);
	hv_rng_destroy(m->rng);
	hv_pvpanic_destroy(m->pvpanic);
	hv_rtc_destroy(m->rtc);
	hv_serial_destroy(m->serial);
	hv_power_destroy(m->power);
	hv_pci_destroy(m->pci);
}

/* Its queues are served; the daemon asks, too. */
static void serve(struct machine *m, const uint8_t *r)
{
	struct hv_virtio *v = m->device[r[5] >> 2 & 1];
	struct vmctl_balloon balloon;
	uint64_t target;

	memcpy(&target, r + 6, 8);
	for (unsigned q = 0; q < v->queues_n; q++)
		v->ops->serve(v, q);
	hv_balloon_get(m->balloon, &balloon);
	hv_balloon_ask(m->balloon);
	hv_balloon_set_target(m->balloon, target);
}

static void step(struct machine *m, const uint8_t *r)
{
	unsigned size = 1u << (r[5] & 3);
	uint32_t address;
	uint64_t value;

	memcpy(&address, r + 1, 4);
	memcpy(&value, r + 6, 8);
	switch (r[0] % 8) {
	case 0:
		hv_bus_read(&m->ports, address & 0xffff, MIN(size, 4));
		break;
	case 1:
		hv_bus_write(&m->ports, address & 0xffff, MIN(size, 4), value);
		break;
	case 2:
		hv_bus_read(&m->mmio, address, size);
		break;
	case 3:
		hv_bus_write(&m->mmio, address, size, value);
		break;
	case 4: /* the device's own registers, wherever the guest put them: at first here */
		hv_bus_write(&m->mmio, FIRST_BAR + (r[5] >> 2 & 1) * 0x8000u + (address & 0x7fff),
			     size, value);
		break;
	case 5: /* what the guest has in memory */
		hv_gmem_write(gmem, address % MEMORY, &value, size);
		break;
	case 6:
		hv_serial_input(m->serial, r + 6, 8);
		hv_power_button(m->power);
		break;
	default:
		serve(m, r);
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct machine m = {0};

	if (!gmem) {
		int fd = memfd_create("guest", MFD_CLOEXEC | MFD_ALLOW_SEALING);
		MUST(fd >= 0 && !ftruncate(fd, MEMORY));
		MUST(!fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW));
		MUST(!hv_gmem_create(&gmem, fd));
		log_set_level(LOG_ERROR);
	}
	make(&m);
	for (size_t i = 0; i < RECORDS_MAX && (i + 1) * RECORD_BYTES <= size; i++)
		step(&m, data + i * RECORD_BYTES);
	unmake(&m);
	return 0;
}
