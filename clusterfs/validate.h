// SPDX-License-Identifier: Apache-2.0
/*
 * validate.h (private): is what stands in a block possible at all? Behind the head's own check (block.c),
 * for every type: counts within the block, enums known, entries sorted, states that have a block. Pure
 * functions on bytes: nothing here trusts a field before it was looked at. buf.c asks after each read,
 * check.c of everything, the fuzzer with garbage.
 */
#ifndef CLUSTERFS_VALIDATE_H
#define CLUSTERFS_VALIDATE_H

#include "clusterfs/cfs_format.h"

/* Trees are never higher: 6 levels of 248 over a leaf are more than any volume. */
#define CFS_MAX_HEIGHT 6u

/* 0, or -EUCLEAN in words. `block` has CFS_BLOCK bytes (records: CFS_RECORD). */
int cfs_block_validate(const void *block, enum cfs_type type);

/* A name of `len` bytes: -EINVAL in words when a directory may not hold it. */
int cfs_name_check(const char *name, size_t len);
bool cfs_name_valid(const uint8_t *name, size_t len);
uint64_t cfs_name_hash(const void *name, size_t len);

#endif
