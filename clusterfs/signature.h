// SPDX-License-Identifier: Apache-2.0
/* signature.h (private): what somebody else's content on a LUN looks like. */
#ifndef CLUSTERFS_SIGNATURE_H
#define CLUSTERFS_SIGNATURE_H

struct blk;

/* *what: "an ext2/3/4 file system" and the like, or NULL when nothing known lies there. */
int cfs_signature_find(struct blk *blk, const char **what);

#endif
