// SPDX-License-Identifier: Apache-2.0
/* thin_sums.c: checksums of what a piece has written, sector by sector. */
#include "vfs/thin_sums.h"

/* The next sector of what was written: no buffer ends within one. */
static const void *next_sector(const struct piece *p, int *index, size_t *at)
{
	const struct iovec *v = &p->iov[*index];
	const void *sector = (uint8_t *)v->iov_base + *at;

	*at += CFS_SECTOR;
	if (*at == v->iov_len) {
		++*index;
		*at = 0;
	}
	return sector;
}

/* Sectors [from, end) of a unit, which come next in the piece. */
static void take_sums(const struct piece *p, int *index, size_t *at, unsigned from, unsigned end,
		      struct cfs_sums *out)
{
	MUST(from <= end && end <= CFS_UNIT / CFS_SECTOR);
	cfs_sums_init(out);
	for (unsigned s = from; s < end; s++)
		cfs_sums_add(out, s, next_sector(p, index, at));
}

void piece_grains(const struct piece *p, unsigned i, unsigned *from, unsigned *end)
{
	uint64_t unit = p->leaf->index * CFS_LEAF_ENTRIES + p->slot + i,
		 first = unit * CFS_UNIT_BLOCKS;

	*from = (unsigned)(MAX(p->grain, first) - first);
	*end = (unsigned)(MIN(p->grain + p->grains, first + CFS_UNIT_BLOCKS) - first);
}

struct cfs_sums *piece_sums(const struct piece *p)
{
	struct cfs_sums *sums = xmalloc(p->entries * sizeof(*sums));
	unsigned from, end;
	size_t at = 0;
	int index = 0;

	for (unsigned i = 0; i < p->entries; i++) {
		piece_grains(p, i, &from, &end);
		take_sums(p, &index, &at, from * CFS_GRAIN_SECTORS, end * CFS_GRAIN_SECTORS,
			  &sums[i]);
	}
	return sums;
}

void piece_tell_again(const struct piece *p)
{
	uint64_t from = p->blk.offset, end = p->blk.offset + p->blk.length;
	struct cfs_sums sums;
	size_t at = 0;
	int index = 0;

	for (unsigned i = 0; i < p->entries; i++) {
		struct cfs_entry e;
		uint64_t unit, a, b;

		leaf_entry(p->leaf, p->slot + i, &e);
		unit = cfs_vbn_block(e.block) * CFS_BLOCK;
		a = MAX(from, unit) - unit;
		b = MIN(end, unit + CFS_UNIT) - unit;
		take_sums(p, &index, &at, (unsigned)(a / CFS_SECTOR), (unsigned)(b / CFS_SECTOR),
			  &sums);
		cfs_fresh_again(p->thin->fs, p->extent, e.block, &sums);
	}
}
