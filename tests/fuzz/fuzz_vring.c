// SPDX-License-Identifier: Apache-2.0
/*
 * Rings made of garbage: the input is the guest's memory, with avail and descriptors at its start. Whatever is
 * in there, heads, pieces and answers stay inside of the memory, and it comes to an end.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/guest_mem.h"
#include "base/util.h"
#include "base/vring.h"

#define RAM 8192u

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	static uint8_t log[16];
	struct guest_mem mem = {.log = log, .log_bytes = sizeof(log)};
	struct iovec iov[64];
	struct vring_dev ring;
	unsigned entries, turns = 0;
	uint8_t *ram;
	uint16_t head;

	if (size < 4)
		return 0;
	ram = xaligned(4096, RAM);
	memcpy(ram, bytes + 4, MIN(size - 4, (size_t)RAM));
	/* Two regions with a hole in the addresses between them. */
	MUST(guest_mem_add(&mem,
			   &(struct guest_region){.gpa = 0x1000, .size = 4096, .host = ram}) == 0);
	MUST(guest_mem_add(&mem, &(struct guest_region){.gpa = 0x2000 + 4096 * (bytes[0] & 1),
							.size = 4096,
							.user_addr = 1 << 20,
							.host = ram + 4096}) == 0);
	entries = 1u << (bytes[1] % 6);
	MUST(vring_start(&ring, entries, ram + 128, ram, ram + 2048, bytes[2], bytes[0] & 2) == 0);
	ring.log_used = bytes[0] & 4;
	ring.used_gpa = 0x1000 + 2048;
	while (turns++ < 100 && vring_pop(&ring, &head) > 0) {
		struct vring_chain chain;
		int rc = vring_read_chain(&ring, &mem, head, iov, ARRAY_SIZE(iov), &chain);

		MUST(head < entries && chain.out + chain.in <= ARRAY_SIZE(iov));
		for (unsigned i = 0; i < chain.out + chain.in; i++) {
			uint8_t *at = iov[i].iov_base;

			MUST(at >= ram && iov[i].iov_len && at + iov[i].iov_len <= ram + RAM);
			if (rc == 0 && i >= chain.out && bytes[3] & 1)
				memset(at, bytes[3], iov[i].iov_len); /* over the ring, maybe */
		}
		vring_push(&ring, head, (uint32_t)chain.in_bytes);
		if (bytes[3] & 2)
			vring_publish(&ring, &mem);
	}
	vring_publish(&ring, &mem);
	vring_no_kicks(&ring);
	vring_want_kicks(&ring, &mem);
	free(ram);
	return 0;
}
