// SPDX-License-Identifier: Apache-2.0
/* checksum.h: XXH3, 64 bits, seed 0 (libxxhash): guards against corruption, not against forgery. */
#ifndef BASE_CHECKSUM_H
#define BASE_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>

uint64_t checksum64(const void *data, size_t n);
/* Of a block whose own 8-byte checksum field lies at `hole`: that field counts as zeroes. */
uint64_t checksum64_with_hole(const void *data, size_t n, size_t hole);

#endif
