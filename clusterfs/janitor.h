// SPDX-License-Identifier: Apache-2.0
/* janitor.h (private): freed space goes back to the array in the background, a little at a time. */
#ifndef CLUSTERFS_JANITOR_H
#define CLUSTERFS_JANITOR_H

#include "clusterfs/volume.h"

struct cfs_janitor;

int cfs_janitor_start(struct cfs *fs);
void cfs_janitor_stop(struct cfs *fs);

#endif
