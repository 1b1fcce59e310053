// SPDX-License-Identifier: Apache-2.0
/*
 * What a hostile guest can do to the VMM's devices: any access of any size to any port and device
 * address, with any bytes in its memory. KVM is not asked: the calls below stand in its place.
 *
 * Input: records of 14 bytes: what (1), address (4), size (1), value (8).
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
	struct hv_virtio_pci *transport;
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
	MUST(!hv_virtio_pci_create(&m->transport, hv_rng_device(m->rng), m->pci, NULL, 3));
	/* As a kernel leaves it: the devices answer. The input may undo that. */
	for (uint32_t slot = 2; slot <= 3; slot++) {
		hv_bus_write(&m->ports, 0xcf8, 4, 0x80000004 | slot << 11);
		hv_bus_write(&m->ports, 0xcfc, 2, 7);
	}
}

static void unmake(struct machine *m)
{
	hv_virtio_pci_destroy(m->transport);
	hv_rng_destroy(m->rng);
	hv_pvpanic_destroy(m->pvpanic);
	hv_rtc_destroy(m->rtc);
	hv_serial_destroy(m->serial);
	hv_power_destroy(m->power);
	hv_pci_destroy(m->pci);
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
		hv_bus_write(&m->mmio, 0xc0008000u + (address & 0x7fff), size, value);
		break;
	case 5: /* what the guest has in memory */
		hv_gmem_write(gmem, address % MEMORY, &value, size);
		break;
	case 6:
		hv_serial_input(m->serial, r + 6, 8);
		hv_power_button(m->power);
		break;
	default:
		hv_rng_serve(m->rng);
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
