// SPDX-License-Identifier: Apache-2.0
/*
 * What a hostile guest can do to the VMM's devices: any access of any size to any port and device
 * address, with any bytes in its memory. KVM is not asked: the calls below stand in its place.
 *
 * Input: records of 14 bytes: what (1), address (4), size (1; bits 2 and 3: which device), value (8).
 */
#include <poll.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/fuzz/machine.h"

#define RECORD_BYTES 14
#define RECORDS_MAX  512

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The agent's daemon: comes, speaks, reads, or does not, and goes. */
static void play_daemon(struct machine *m, int *daemon, const uint8_t *r)
{
	static uint8_t sink[65536];
	struct pollfd p;
	int s[2];

	if (*daemon < 0 || r[1] % 8 == 0) {
		if (*daemon >= 0)
			close(*daemon);
		MUST(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, s));
		hv_agent_connect(m->agent, s[0], r[2] & 1);
		*daemon = s[1];
	} else if (r[1] % 8 == 1) {
		close(*daemon);
		*daemon = -1;
	} else if (r[1] % 8 == 2) {
		while (recv(*daemon, sink, sizeof(sink), MSG_DONTWAIT) > 0)
			;
	} else {
		(void)send(*daemon, r + 6, 8, MSG_DONTWAIT | MSG_NOSIGNAL);
	}
	hv_agent_poll(m->agent, &p);
	if (poll(&p, 1, 0) > 0)
		hv_agent_serve_daemon(m->agent, &p);
}

/* All queues are served; the daemon asks for memory, too, and now and then for statistics. */
static void serve(struct machine *m, uint64_t target)
{
	struct vmctl_balloon balloon;

	machine_serve(m);
	hv_balloon_get(m->balloon, &balloon);
	if (target & 1)
		hv_balloon_ask(m->balloon);
	hv_balloon_set_target(m->balloon, target);
}

static void step(struct machine *m, int *daemon, const uint8_t *r)
{
	static const unsigned devices[4] = {MACHINE_RNG, MACHINE_BALLOON, MACHINE_AGENT,
					    MACHINE_DISK};
	unsigned size = 1u << (r[5] & 3);
	uint32_t address;
	uint64_t value;

	memcpy(&address, r + 1, 4);
	memcpy(&value, r + 6, 8);
	switch (r[0] % 9) {
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
		hv_bus_write(&m->mmio, MACHINE_BAR(devices[r[5] >> 2 & 3]) + (address & 0x7fff),
			     size, value);
		break;
	case 5: /* what the guest has in memory */
		hv_gmem_write(m->gmem, address % MACHINE_MEMORY, &value, size);
		break;
	case 6:
		hv_serial_input(m->serial, r + 6, 8);
		hv_power_button(m->power);
		hv_watchdog_tick(m->watchdog);
		break;
	case 7:
		serve(m, value);
		break;
	default:
		play_daemon(m, daemon, r);
		break;
	}
}

/* Whatever a guest did to its devices, it can be saved, and goes on elsewhere. */
static void move(struct machine *m)
{
	static struct hv_state_reader r;
	struct hv_state_writer w;
	size_t n;

	MUST(!hv_vhost_suspend(m->disk));
	hv_state_writer_init(&w);
	machine_save(m, &w);
	const uint8_t *state = hv_state_finish(&w, &n);
	machine_unmake(m);
	machine_make(m);
	MUST(!hv_state_open(&r, state, n));
	MUST(machine_load(m, &r));
	hv_vhost_resume(m->disk);
	hv_state_writer_free(&w);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct machine *m = machine_get();
	int daemon = -1;

	machine_make(m);
	/* As a kernel leaves it: the devices answer. The input may undo that. */
	for (uint32_t slot = 2; slot < 3 + MACHINE_DEVICES; slot++) {
		hv_bus_write(&m->ports, 0xcf8, 4, 0x80000004 | slot << 11);
		hv_bus_write(&m->ports, 0xcfc, 2, 7);
	}
	for (size_t i = 0; i < RECORDS_MAX && (i + 1) * RECORD_BYTES <= size; i++)
		step(m, &daemon, data + i * RECORD_BYTES);
	move(m);
	machine_unmake(m);
	if (daemon >= 0)
		close(daemon);
	return 0;
}
