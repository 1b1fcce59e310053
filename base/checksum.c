// SPDX-License-Identifier: Apache-2.0
/* checksum.c: XXH3 over whole buffers and over blocks that carry their own checksum. */
#include "base/checksum.h"

#define XXH_STATIC_LINKING_ONLY /* the state on the stack */
#include <xxhash.h>

#include "base/util.h"

uint64_t checksum64(const void *data, size_t n)
{
	return XXH3_64bits(data, n);
}

uint64_t checksum64_with_hole(const void *data, size_t n, size_t hole)
{
	static const uint8_t zeroes[8];
	const uint8_t *p = data;
	XXH3_state_t state;

	MUST(hole + 8 <= n);
	XXH3_64bits_reset(&state);
	XXH3_64bits_update(&state, p, hole);
	XXH3_64bits_update(&state, zeroes, 8);
	XXH3_64bits_update(&state, p + hole + 8, n - hole - 8);
	return XXH3_64bits_digest(&state);
}
