// SPDX-License-Identifier: Apache-2.0
/*
 * dirleaf.h (private): entries of one directory leaf; pure functions on a validated block, so that
 * packing and splitting are tested without a volume. Positions are byte offsets into `data`.
 */
#ifndef CLUSTERFS_DIRLEAF_H
#define CLUSTERFS_DIRLEAF_H

#include "clusterfs/cfs_format.h"

struct cfs_dirent { /* an entry in memory */
	uint64_t hash, inode;
	enum cfs_kind kind;
	unsigned len;	/* of the name, bytes */
	char name[256]; /* zero terminated */
};
/* Fills name, len and hash; the caller knows that the name is valid. */
void cfs_dirent_set(struct cfs_dirent *e, const char *name, size_t len, enum cfs_kind kind,
		    uint64_t inode);

/* Decodes the entry at `at`; returns where the next one is, or 0 behind the last. */
unsigned cfs_dirleaf_entry(const struct cfs_dir_leaf *leaf, unsigned at, struct cfs_dirent *out);
/* Where `e` (hash and name) is, or where it would go: *found says which. */
unsigned cfs_dirleaf_find(const struct cfs_dir_leaf *leaf, const struct cfs_dirent *e, bool *found);
bool cfs_dirleaf_fits(const struct cfs_dir_leaf *leaf, const struct cfs_dirent *e);
/* It must fit and not be there. Returns its position: from there to `used` the data has changed. */
unsigned cfs_dirleaf_insert(struct cfs_dir_leaf *leaf, const struct cfs_dirent *e);
/* Takes the entry at `at` out; the data from there to the old `used` has changed. */
void cfs_dirleaf_remove(struct cfs_dir_leaf *leaf, unsigned at);
/*
 * Where to split so that `e` fits: as near to the middle as equal hashes, which stay together,
 * allow. False when no place does: too many names with one hash.
 */
bool cfs_dirleaf_split_at(const struct cfs_dir_leaf *leaf, const struct cfs_dirent *e,
			  unsigned *at);
/* Moves what lies from `at` on into the empty leaf `right`. */
void cfs_dirleaf_split(struct cfs_dir_leaf *leaf, struct cfs_dir_leaf *right, unsigned at);

#endif
