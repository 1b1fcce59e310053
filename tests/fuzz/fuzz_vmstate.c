// SPDX-License-Identifier: Apache-2.0
/*
 * What a hostile state can do to a VMM that loads it: head and sections, then every device's own
 * section, without KVM (the calls below stand in its place; what KVM is given, it checks itself).
 * What was loaded is used a little, and saved again.
 *
 * Input: the sections as they are in a file, without the head; that is made here, so that the
 * checksum does not keep the fuzzer out. The first byte: bit 0, leave the checksum wrong.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/checksum.h"
#include "tests/fuzz/machine.h"

#define HEAD_BYTES 32 /* hv/state.h */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A guest goes on: each register is read, the rings are served. */
static void use(struct machine *m)
{
	for (uint32_t port = 0; port < 0x1000; port++)
		hv_bus_read(&m->ports, port, 1);
	for (uint32_t at = 0; at < 0x10000; at += 4)
		hv_bus_read(&m->mmio, 0xc0000000u + at, 4);
	hv_serial_input(m->serial, (const uint8_t *)"input", 5);
	machine_serve(m);
	hv_balloon_ask(m->balloon);
	for (unsigned i = 0; i < MACHINE_DEVICES; i++)
		hv_virtio_pci_call_all(m->transport[i]);
}

/* What was loaded, saved and loaded again is the same: the second state of it is the first. */
static void round_trip(struct machine *m)
{
	static struct hv_state_reader r;
	struct hv_state_writer first, second;
	size_t n, again;

	hv_state_writer_init(&first);
	machine_save(m, &first);
	const uint8_t *data = hv_state_finish(&first, &n);
	machine_unmake(m);
	machine_make(m);
	MUST(!hv_state_open(&r, data, n));
	if (machine_load(m, &r)) {
		hv_state_writer_init(&second);
		machine_save(m, &second);
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
	struct machine *m = machine_get();
	size_t n;

	if (size < 1 || size > 64 * KiB)
		return 0;
	cleanup_free uint8_t *state = with_head(data + 1, size - 1, &n);
	if (data[0] & 1)
		state[24] ^= 1;
	machine_make(m);
	if (!hv_state_open(&r, state, n)) {
		MUST(!(data[0] & 1));
		bool whole = machine_load(m, &r);
		use(m);
		if (whole)
			round_trip(m);
	}
	machine_unmake(m);
	return 0;
}
