// SPDX-License-Identifier: Apache-2.0
/*
 * What a hostile state can do to a VMM that loads it: head and sections, then every device's own
 * section, without KVM (the calls below stand in its place; what KVM is given, it checks itself).
 * What was loaded is used a little, and saved again.
 *
 * Input: the sections as they are in a file, without the head; that is made here, so that the
 * checksum does not keep the fuzzer out. The first byte: bit 0, leave the checksum wrong.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/checksum.h"
#include "base/log.h"
#include "base/util.h"
#include "base/vmctl.h"
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
#include "hv/state.h"
#include "hv/vhost.h"
#include "hv/virtio_pci.h"

#define MEMORY	   (2 * MiB)
#define HEAD_BYTES 32 /* hv/state.h */

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
	struct hv_virtio_pci *transport[3]; /* rng, disk, balloon */
};

static struct hv_gmem *gmem;
static struct hv_vhost *disk; /* outlives machines, as in the VMM; no back-end ever comes */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

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

static void set_up(void)
{
	static const struct vmctl_device config = {VMCTL_DEVICE_BLK, 2, 128};
	int fd = memfd_create("guest", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	MUST(fd >= 0 && !ftruncate(fd, MEMORY));
	MUST(!fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW));
	MUST(!hv_gmem_create(&gmem, fd));
	MUST(!hv_vhost_create(&disk, 1, &config, gmem, &lock, &vhost_ops, NULL));
	log_set_level(LOG_ERROR);
}

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
	MUST(!hv_virtio_pci_create(&m->transport[0], hv_rng_device(m->rng), m->pci, NULL, 3));
	MUST(!hv_virtio_pci_create(&m->transport[1], hv_vhost_device(disk), m->pci, NULL, 4));
	hv_balloon_create(&m->balloon, gmem, 64);
	MUST(!hv_virtio_pci_create(&m->transport[2], hv_balloon_device(m->balloon), m->pci, NULL,
				   5));
}

static void unmake(struct machine *m)
{
	hv_vhost_stop(disk);
	hv_virtio_pci_destroy(m->transport[0]);
	hv_virtio_pci_destroy(m->transport[1]);
	hv_virtio_pci_destroy(m->transport[2]);
	hv_balloon_destroy(m->balloon);
	hv_rng_destroy(m->rng);
	hv_pvpanic_destroy(m->pvpanic);
	hv_rtc_destroy(m->rtc);
	hv_serial_destroy(m->serial);
	hv_power_destroy(m->power);
	hv_pci_destroy(m->pci);
}

/* As hv/machine.c does; but on after an error, so that one bad section hides no other. */
static bool load_all(struct machine *m, struct hv_state_reader *r)
{
	int bad = hv_pci_load(m->pci, r) != 0;

	bad += hv_power_load(m->power, r) != 0;
	bad += hv_serial_load(m->serial, r) != 0;
	bad += hv_rtc_load(m->rtc, r) != 0;
	bad += hv_pvpanic_load(m->pvpanic, r) != 0;
	bad += hv_virtio_pci_load(m->transport[0], 0, r) != 0;
	bad += hv_rng_load(m->rng, 0, r) != 0;
	bad += hv_virtio_pci_load(m->transport[1], 1, r) != 0;
	bad += hv_vhost_load(disk, r) != 0;
	bad += hv_virtio_pci_load(m->transport[2], 2, r) != 0;
	bad += hv_balloon_load(m->balloon, 2, r) != 0;
	return !bad && !hv_state_close(r);
}

static void save_all(struct machine *m, struct hv_state_writer *w)
{
	hv_pci_save(m->pci, w);
	hv_power_save(m->power, w);
	hv_serial_save(m->serial, w);
	hv_rtc_save(m->rtc, w);
	hv_pvpanic_save(m->pvpanic, w);
	hv_virtio_pci_save(m->transport[0], 0, w);
	hv_rng_save(m->rng, 0, w);
	hv_virtio_pci_save(m->transport[1], 1, w);
	hv_vhost_save(disk, w);
	hv_virtio_pci_save(m->transport[2], 2, w);
	hv_balloon_save(m->balloon, 2, w);
}

/* A guest goes on: each register is read, the rings are served. */
static void use(struct machine *m)
{
	for (uint32_t port = 0; port < 0x1000; port++)
		hv_bus_read(&m->ports, port, 1);
	for (uint32_t at = 0; at < 0x10000; at += 4)
		hv_bus_read(&m->mmio, 0xc0000000u + at, 4);
	hv_serial_input(m->serial, (const uint8_t *)"input", 5);
	hv_rng_serve(m->rng);
	struct hv_virtio *balloon = hv_balloon_device(m->balloon);
	for (unsigned i = 0; i < balloon->queues_n; i++)
		balloon->ops->serve(balloon, i);
	hv_balloon_ask(m->balloon);
	for (unsigned i = 0; i < ARRAY_SIZE(m->transport); i++)
		hv_virtio_pci_call_all(m->transport[i]);
}

/* What was loaded, saved and loaded again is the same: the second state of it is the first. */
static void round_trip(struct machine *m)
{
	static struct hv_state_reader r;
	struct hv_state_writer first, second;
	size_t n, again;

	hv_state_writer_init(&first);
	save_all(m, &first);
	const uint8_t *data = hv_state_finish(&first, &n);
	unmake(m);
	make(m);
	MUST(!hv_state_open(&r, data, n));
	if (load_all(m, &r)) {
		hv_state_writer_init(&second);
		save_all(m, &second);
		hv_state_finish(&second, &again);
		MUST(n == again);
		hv_state_writer_free(&second);
	}
	hv_state_writer_free(&first);
}

static uint8_t *with_head(const uint8_t *data, size_t size, size_t *bytes)
{
	uint8_t *state = xcalloc(1, HEAD_BYTES + size);
	uint32_t sections = 0;

	memcpy(state + HEAD_BYTES, data, size);
	for (size_t at = 0; size - at >= 32; sections++) {
		uint64_t n;
		memcpy(&n, data + at + 24, 8);
		if (n > size - at - 32)
			break;
		at = MIN(at + 32 + ROUND_UP((size_t)n, 8), size);
	}
	*bytes = HEAD_BYTES + size;
	const uint64_t magic = 0x544154534d564c50ULL, format = 1 | (uint64_t)sections << 32,
		       total = *bytes, sum = checksum64(state + HEAD_BYTES, size);
	memcpy(state, &magic, 8);
	memcpy(state + 8, &format, 8);
	memcpy(state + 16, &total, 8);
	memcpy(state + 24, &sum, 8);
	return state;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct hv_state_reader r;
	struct machine m = {0};
	size_t n;

	if (size < 1 || size > 64 * KiB)
		return 0;
	if (!gmem)
		set_up();
	cleanup_free uint8_t *state = with_head(data + 1, size - 1, &n);
	if (data[0] & 1)
		state[24] ^= 1;
	pthread_mutex_lock(&lock);
	make(&m);
	if (!hv_state_open(&r, state, n)) {
		MUST(!(data[0] & 1));
		bool whole = load_all(&m, &r);
		use(&m);
		if (whole)
			round_trip(&m);
	}
	unmake(&m);
	pthread_mutex_unlock(&lock);
	return 0;
}
