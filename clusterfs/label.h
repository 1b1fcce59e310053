// SPDX-License-Identifier: Apache-2.0
/*
 * label.h (private): a volume's label on its LUNs, before and without a mount.
 */
#ifndef CLUSTERFS_LABEL_H
#define CLUSTERFS_LABEL_H

#include "clusterfs/cfs_format.h"

struct blk;

/*
 * One valid copy of the label on this LUN, the newer one: 0; -ENOENT no label here; -EUCLEAN both
 * copies are damaged; -EPERM of a newer format. The LUN's identity is not looked at.
 */
int cfs_label_read(struct blk *blk, struct cfs_label *out);
/* Seals and writes copy A or B on extent `extent` of a label whose other fields are filled. */
int cfs_label_write_copy(struct blk *blk, const struct cfs_label *label, unsigned extent,
			 uint64_t block, unsigned flags);
/* Gives the label the next sequence and writes it to all `n` extents. */
int cfs_label_store_next(struct blk **extent, unsigned n, struct cfs_label *label);
/*
 * The LUNs are an array's clone: writes their own ids and a fresh identity into the label, and takes
 * out of the claims what would lead a recoverer to the origin's hosts. -EPERM when a host is alive on
 * them, or when they are no clone.
 */
int cfs_label_new_identity(struct blk **blks, unsigned n);
/*
 * Plans `next` (a copy of `old`) for the LUNs as they are now: more of them than `old` has, or the last
 * one larger; writes what is new. `next` is to be stored afterwards. -EINVAL when nothing has grown,
 * -EPERM when a new LUN holds something. (format.c)
 */
int cfs_format_grow(struct cfs_label *next, const struct cfs_label *old, struct blk **blks,
		    unsigned n);
/*
 * Whether somebody is alive on a volume: watches the beats of the slots that are not free, for as
 * long as its label calls silence. `extent0` is its first LUN. -EBUSY (err_holder) or 0.
 */
int cfs_volume_quiet(struct blk *extent0, const struct cfs_label *label);

/* "naa.6001...", made printable: what came from a disk is not trusted to be text. */
void cfs_text_copy(char *dst, size_t size, const char *src, size_t n);

#endif
