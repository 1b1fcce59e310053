// SPDX-License-Identifier: Apache-2.0
/*
 * thin_sums.h (private to thin*.c): by what a commit knows a thin disk's first writes again, should the session that
 * carried them have been lost (clusterfs/fresh.h). In the disk's loop.
 */
#ifndef VFS_THIN_SUMS_H
#define VFS_THIN_SUMS_H

#include "vfs/thin_impl.h"

/* A first write's piece: the grains [*from, *end) of its entry `i` are its. */
void piece_grains(const struct piece *p, unsigned i, unsigned *from, unsigned *end);
/* Of each of its entries; the caller's to free. */
struct cfs_sums *piece_sums(const struct piece *p);
/* An overwrite of what may be a first write still has ended: a commit that reads it back must know it. */
void piece_tell_again(const struct piece *p);

#endif
