// SPDX-License-Identifier: Apache-2.0
/*
 * shot.h: what is on a mounted volume: every path with its kind, size and the hash of each 512 bytes; for
 * tests that compare a volume with what it was.
 */
#ifndef TESTS_LIB_SHOT_H
#define TESTS_LIB_SHOT_H

#include "clusterfs/cfs.h"

/* Writes are torn at sectors: so finely must be compared. */
#define SHOT_SECTOR 512u
struct shot_file {
	char *path;
	struct cfs_stat stat;
	size_t sectors;
	uint64_t *sector; /* hashes; 0 is one of zeroes */
};
struct shot {
	size_t n;
	struct shot_file *file;
};

/* 0, or the first error; what could not be read has kind 0. */
int shot_take(struct cfs *fs, struct shot *out);
void shot_free(struct shot *shot);
const struct shot_file *shot_find(const struct shot *shot, const char *path);
uint64_t shot_hash(const void *sector);
/* True when both hold the same; else tells the first difference when `say`. */
bool shot_same(const struct shot *a, const struct shot *b, bool say);

#endif
