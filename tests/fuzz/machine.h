// SPDX-License-Identifier: Apache-2.0
/*
 * machine.h: a machine of the VMM's devices without KVM and processors, for fuzz targets: the calls of
 * hv/kvm.h are answered here (the linker takes these, not hv/kvm.c).
 */
#ifndef TESTS_FUZZ_MACHINE_H
#define TESTS_FUZZ_MACHINE_H

#include <pthread.h>

#include "base/util.h"
#include "hv/agent.h"
#include "hv/balloon.h"
#include "hv/bus.h"
#include "hv/fwcfg.h"
#include "hv/gmem.h"
#include "hv/pci.h"
#include "hv/power.h"
#include "hv/pvpanic.h"
#include "hv/rng.h"
#include "hv/rtc.h"
#include "hv/serial.h"
#include "hv/state.h"
#include "hv/vhost.h"
#include "hv/virtio_pci.h"
#include "hv/watchdog.h"

#define MACHINE_MEMORY (2 * MiB)

/* The devices in slots 3 and on; a device's own index is its instance in a saved state. */
enum { MACHINE_RNG, MACHINE_DISK, MACHINE_BALLOON, MACHINE_AGENT, MACHINE_DEVICES };
#define MACHINE_BAR(device) (0xc0008000u + 0x8000u * (device)) /* its registers, at first */

struct machine {
	/* For all inputs: what outlives machines in a VMM, too. No back-end ever comes for the disk. */
	struct hv_gmem *gmem;
	struct hv_vhost *disk;
	struct hv_agent *agent;
	pthread_mutex_t lock;

	/* One input's. */
	struct hv_bus ports, mmio;
	struct hv_pci *pci;
	struct hv_power *power;
	struct hv_serial *serial;
	struct hv_rtc *rtc;
	struct hv_pvpanic *pvpanic;
	struct hv_watchdog *watchdog;
	struct hv_fwcfg *fwcfg;
	struct hv_rng *rng;
	struct hv_balloon *balloon;
	struct hv_virtio *virtio[MACHINE_DEVICES];
	struct hv_virtio_pci *transport[MACHINE_DEVICES];
};

/* The one of this process, made at the first call. */
struct machine *machine_get(void);
/* Begins and ends an input, the lock held in between. */
void machine_make(struct machine *m);
void machine_unmake(struct machine *m);
/* Every queue that the VMM serves. */
void machine_serve(struct machine *m);
/*
 * All devices' sections, as hv/machine.c does it; but on after an error, so that one bad section hides no other. False:
 * one was refused.
 */
bool machine_load(struct machine *m, struct hv_state_reader *r);
void machine_save(struct machine *m, struct hv_state_writer *w);

#endif
