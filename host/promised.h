// SPDX-License-Identifier: Apache-2.0
/*
 * promised.h (private to host): how much the disks of a volume may grow to: the sum of their sizes.
 * Nobody keeps it on the disk; it is counted in a thread when somebody asked and the last count is
 * old. Asking waits a moment for a count that is under way, and not at all once that took long.
 */
#ifndef HOST_PROMISED_H
#define HOST_PROMISED_H

#include <stdbool.h>
#include <stdint.h>

struct cfs;
struct host_promised;

struct host_promised *host_promised_create(struct cfs *fs);
/* Ends a count that is under way, waits for it; before the volume is unmounted. */
void host_promised_destroy(struct host_promised *promised);
/* A disk was made, resized or deleted here: the last count is no good any more. */
void host_promised_stale(struct host_promised *promised);
/* The last count in bytes, UINT64_MAX: none yet, or too many names to count. `wait`: for one under way. */
uint64_t host_promised_get(struct host_promised *promised, bool wait);

#endif
