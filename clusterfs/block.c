// SPDX-License-Identifier: Apache-2.0
/*
 * block.c: the head of metadata blocks and records: filled and summed before writing, checked after
 * reading. A block that was written to the wrong address, or belongs to another volume, is damaged.
 */
#include "clusterfs/volume.h"

#include <errno.h>
#include <string.h>

#include "base/checksum.h"
#include "base/err.h"

static const char *const type_names[CFS_T_END] = {
	[CFS_T_LABEL] = "label",
	[CFS_T_LOCK] = "lock",
	[CFS_T_CLAIM] = "claim",
	[CFS_T_BEAT] = "beat",
	[CFS_T_GROUP] = "group header",
	[CFS_T_BITMAP] = "bitmap",
	[CFS_T_RECLAIM] = "reclaim bitmap",
	[CFS_T_INODE] = "inode",
	[CFS_T_MAP_LEAF] = "map leaf",
	[CFS_T_MAP_NODE] = "map node",
	[CFS_T_DIR_LEAF] = "directory leaf",
	[CFS_T_DIR_NODE] = "directory node",
	[CFS_T_JOURNAL_HEAD] = "journal head",
	[CFS_T_JOURNAL] = "journal block",
};

const char *cfs_type_name(enum cfs_type type)
{
	return (unsigned)type < CFS_T_END && type_names[type] ? type_names[type] : "unknown";
}

static void seal(struct cfs_record_head *h, size_t bytes, enum cfs_type type,
		 const uint8_t volume[16], uint64_t vbn)
{
	h->magic = le32_of(CFS_MAGIC);
	h->type = le16_of((uint16_t)type);
	h->version = le16_of(1);
	memcpy(h->volume, volume, 16);
	h->self = le64_of(vbn);
	h->checksum = le64_of(checksum64_with_hole(h, bytes, CFS_CHECKSUM_AT));
}

static int check(const struct cfs_record_head *h, size_t bytes, enum cfs_type type,
		 const uint8_t volume[16], uint64_t vbn)
{
	unsigned long long at = (unsigned long long)vbn;
	const char *name = cfs_type_name(type);

	if (le32_get(h->magic) != CFS_MAGIC)
		return fail(-EUCLEAN, "block %llu: no %s here (magic %08x); run volume check", at,
			    name, le32_get(h->magic));
	if (le16_get(h->type) != type)
		return fail(-EUCLEAN, "block %llu: a %s where a %s belongs; run volume check", at,
			    cfs_type_name((enum cfs_type)le16_get(h->type)), name);
	if (le16_get(h->version) != 1)
		return fail(-EUCLEAN, "block %llu: %s of version %u; a newer perilune is needed",
			    at, name, le16_get(h->version));
	if (memcmp(h->volume, volume, 16) != 0)
		return fail(-EUCLEAN, "block %llu: %s of another volume; run volume check", at,
			    name);
	if (le64_get(h->self) != vbn)
		return fail(-EUCLEAN, "block %llu: %s that belongs at %llu; run volume check", at,
			    name, (unsigned long long)le64_get(h->self));
	if (le64_get(h->checksum) != checksum64_with_hole(h, bytes, CFS_CHECKSUM_AT))
		return fail(-EUCLEAN, "block %llu: %s with a bad checksum; run volume check", at,
			    name);
	return 0;
}

void cfs_block_seal(void *block, enum cfs_type type, const uint8_t volume[16], uint64_t vbn)
{
	seal(block, CFS_BLOCK, type, volume, vbn);
}

int cfs_block_check(const void *block, enum cfs_type type, const uint8_t volume[16], uint64_t vbn)
{
	return check(block, CFS_BLOCK, type, volume, vbn);
}

void cfs_record_seal(void *record, enum cfs_type type, const uint8_t volume[16], uint64_t vbn)
{
	seal(record, CFS_RECORD, type, volume, vbn);
}

int cfs_record_check(const void *record, enum cfs_type type, const uint8_t volume[16], uint64_t vbn)
{
	return check(record, CFS_RECORD, type, volume, vbn);
}
