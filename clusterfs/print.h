// SPDX-License-Identifier: Apache-2.0
/*
 * print.h (private): any metadata block in words, for `debug dump` and for people who read a damaged
 * volume. Believes nothing: what cannot be is printed as what it is, never followed.
 */
#ifndef CLUSTERFS_PRINT_H
#define CLUSTERFS_PRINT_H

#include "clusterfs/cfs_format.h"

struct cfs_printer {
	void (*line)(void *arg, const char *text);
	void *arg;
};
/* One line. */
void cfs_print(const struct cfs_printer *p, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
/* "1:0x400 (4295968744)"-like: extent, block, in `dst` of at least 64 bytes; "none" for 0. */
const char *cfs_print_vbn(uint64_t vbn, char dst[64]);
/*
 * The block (CFS_BLOCK bytes) read from `vbn`. What its head says and whether that is right, then its
 * content by its type. The cluster's secret is never printed.
 */
void cfs_print_block(const struct cfs_printer *p, const void *block, uint64_t vbn);

#endif
