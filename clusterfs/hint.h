// SPDX-License-Identifier: Apache-2.0
/*
 * hint.h (private): what other hosts are told over the network at once, and by beats anyway. A hint
 * is never waited for and never believed: it only moves a look, or a lock's leaving, which is always
 * allowed, to now.
 */
#ifndef CLUSTERFS_HINT_H
#define CLUSTERFS_HINT_H

#include "clusterfs/volume.h"

/* Tells the hosts of `slots`, a bit each. Caller holds no mutex; never blocks. */
void cfs_hint_out(struct cfs *fs, uint64_t slots, const struct cfs_hint *hint);

#endif
