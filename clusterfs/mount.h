// SPDX-License-Identifier: Apache-2.0
/*
 * mount.h (private): a volume in memory without its threads, for mount, check and dump.
 */
#ifndef CLUSTERFS_MOUNT_H
#define CLUSTERFS_MOUNT_H

#include "clusterfs/volume.h"

struct cfs *cfs_volume_create(const struct cfs_options *options);
/* Loads the label and fills in what follows from it. On failure the caller frees. */
int cfs_volume_open(struct cfs *fs, struct blk **blks, unsigned n);
void cfs_volume_free(struct cfs *fs);

enum cfs_down { CFS_DOWN_LEAVE, CFS_DOWN_ABANDON };
int cfs_bring_down(struct cfs *fs, enum cfs_down how);

#endif
