// SPDX-License-Identifier: Apache-2.0
/*
 * record.h (private): records that are changed by compare-and-write only (INV-FS-1): claims, locks.
 *
 * INV-BLK-2: an attempt whose answer was lost may have been executed, or may still be. It is settled
 * by another compare-and-write with a fresh token, after which a late copy can only miscompare.
 */
#ifndef CLUSTERFS_RECORD_H
#define CLUSTERFS_RECORD_H

#include "clusterfs/volume.h"

/* Reads and validates the record at `vbn` (CFS_RECORD bytes). */
int cfs_record_read(struct cfs *fs, uint64_t vbn, enum cfs_type type, void *record);

struct cfs_swap {
	uint64_t vbn;
	enum cfs_type type;
	size_t token_at;      /* offset of its 16-byte token in the record */
	unsigned flags;	      /* BLK_UNGATED for claims */
	uint64_t deadline_ns; /* BOOTTIME: tries to settle until then */
	bool unsettled;	      /* out, with an error: it may have been, or may still be, executed */
};
/*
 * Puts `new` where `old` (as it was read) stands: fills in its sequence, a fresh token and the
 * checksum for each attempt. 0: `new` is what stands there. -EILSEQ: something else stood there, and
 * nothing of ours will ever be. Any other error: see `unsettled`. One attempt is always made.
 */
int cfs_record_swap(struct cfs *fs, struct cfs_swap *swap, const void *old, void *new);

#endif
