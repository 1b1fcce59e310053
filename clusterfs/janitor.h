// SPDX-License-Identifier: Apache-2.0
/*
 * janitor.h (private): background work of a mounted volume: deletions that were begun (by this host
 * or a dead one) go on, and freed space goes back to the array.
 */
#ifndef CLUSTERFS_JANITOR_H
#define CLUSTERFS_JANITOR_H

#include "clusterfs/volume.h"

struct cfs_janitor;

int cfs_janitor_start(struct cfs *fs);
void cfs_janitor_stop(struct cfs *fs);
/* Soon: something was deleted, or a host was recovered. */
void cfs_janitor_wake(struct cfs *fs);

/* Long work looks here between transactions. */
bool cfs_janitor_stopping(struct cfs *fs);

#endif
