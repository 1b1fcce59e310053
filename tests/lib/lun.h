// SPDX-License-Identifier: Apache-2.0
/* lun.h: file LUNs for tests: made in the build's file system (O_DIRECT), gone with lun_remove. */
#ifndef TESTS_LIB_LUN_H
#define TESTS_LIB_LUN_H

#include <stdint.h>

/* Makes an empty file of `size` bytes; returns its path (to free with lun_remove). Never NULL. */
char *lun_make(uint64_t size);
void lun_remove(char *path);
/* Fills `n` bytes (a multiple of 8) with a pattern that depends on `seed`. */
void lun_pattern(void *buf, uint64_t n, uint64_t seed);

/* For record_replay: writes `length` bytes (`data` NULL: zeroes) at `offset` of descriptor *fd. -EIO. */
int lun_put(void *fd, uint64_t offset, const void *data, uint64_t length);

#endif
