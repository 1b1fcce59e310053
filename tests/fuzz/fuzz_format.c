// SPDX-License-Identifier: Apache-2.0
/*
 * fuzz_format.c: on-disk structures made of garbage. The first byte names a type, the second what is done
 * to the head; the rest is the block. Whatever validate lets through must be safe for all who read it: the
 * printer, the directory's leaf functions, the map's entries; and a leaf that is changed stays valid.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "clusterfs/map.h"
#include "clusterfs/print.h"
#include "clusterfs/dirleaf.h"
#include "clusterfs/validate.h"
#include "clusterfs/volume.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void no_line(void *arg, const char *text)
{
	*(size_t *)arg += strlen(text);
}

static bool is_record(enum cfs_type type)
{
	return type == CFS_T_LOCK || type == CFS_T_CLAIM || type == CFS_T_BEAT;
}

static void use_dir_leaf(struct cfs_dir_leaf *leaf, unsigned salt)
{
	struct cfs_dirent e, x;
	char name[256];
	unsigned at = 0, n = 0, next;
	bool found;

	while ((next = cfs_dirleaf_entry(leaf, at, &x))) {
		MUST(cfs_dirleaf_find(leaf, &x, &found) == at && found);
		at = next;
		n++;
	}
	MUST(n == le16_get(leaf->entries));
	memset(name, 'a' + (int)(salt % 26), sizeof(name));
	cfs_dirent_set(&e, name, 1 + salt % 255, CFS_KIND_FILE, 17);
	cfs_dirleaf_find(leaf, &e, &found);
	if (!found && cfs_dirleaf_fits(leaf, &e)) {
		cfs_dirleaf_insert(leaf, &e);
	} else if (!found && cfs_dirleaf_split_at(leaf, &e, &at)) {
		struct cfs_dir_leaf *right = calloc(1, sizeof(*right));

		cfs_dirleaf_split(leaf, right, at);
		MUST(cfs_block_validate(right, CFS_T_DIR_LEAF) == 0);
		free(right);
	}
	MUST(cfs_block_validate(leaf, CFS_T_DIR_LEAF) == 0);
	if (le16_get(leaf->entries)) {
		cfs_dirleaf_remove(leaf, 0);
		MUST(cfs_block_validate(leaf, CFS_T_DIR_LEAF) == 0);
	}
}

static void use_map_leaf(const struct cfs_map_leaf *leaf)
{
	for (unsigned i = 0; i < CFS_LEAF_ENTRIES; i++) {
		struct cfs_map_entry back;
		struct cfs_entry e;

		cfs_entry_decode(&leaf->entry[i], &e);
		cfs_entry_encode(&e, &back);
		MUST(memcmp(&back, &leaf->entry[i], sizeof(back)) == 0);
		for (unsigned g = 0; g < 16; g++) {
			MUST(cfs_entry_grain(&e, g) != CFS_GRAIN_BLOCK || e.block);
			MUST(cfs_entry_grain(&e, g) != CFS_GRAIN_BELOW || e.below);
		}
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint8_t volume[16] = "fuzzed volume id";
	uint8_t *block;
	enum cfs_type type;
	size_t printed = 0;
	struct cfs_printer p = {no_line, &printed};

	if (size < 2)
		return 0;
	type = (enum cfs_type)(data[0] % (CFS_T_END + 1));
	block = calloc(1, CFS_BLOCK);
	memcpy(block, data + 2, MIN(size - 2, CFS_BLOCK));
	if (data[1] & 1) { /* a right head: content is looked at */
		if (is_record(type))
			cfs_record_seal(block, type, volume, 4711);
		else
			cfs_block_seal(block, type, volume, 4711);
	}
	cfs_print_block(&p, block, 4711);
	MUST(printed > 0);
	if (cfs_block_validate(block, type) == 0) {
		if (type == CFS_T_DIR_LEAF)
			use_dir_leaf((struct cfs_dir_leaf *)block, data[1]);
		if (type == CFS_T_MAP_LEAF)
			use_map_leaf((struct cfs_map_leaf *)block);
	}
	free(block);
	return 0;
}
