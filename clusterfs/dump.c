// SPDX-License-Identifier: Apache-2.0
/*
 * dump.c: reads a volume that need not be mounted, or sound, and tells what is there. Reads only.
 */
#include "clusterfs/cfs.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "clusterfs/group.h"
#include "clusterfs/label.h"
#include "clusterfs/print.h"
#include "clusterfs/validate.h"

struct dump {
	struct cfs_printer p;
	struct cfs_label label;
	struct blk *extent[CFS_MAX_EXTENTS];
	unsigned extents;
	uint8_t *block; /* CFS_BLOCK bytes */
};

static int read_block(struct dump *d, uint64_t vbn)
{
	unsigned e = cfs_vbn_extent(vbn);

	if (vbn >= CFS_VBN_MAX || e >= d->extents || !d->extent[e] ||
	    (cfs_vbn_block(vbn) + 1) * CFS_BLOCK > blk_info(d->extent[e])->size)
		return fail(-EINVAL, "block %llu: outside of the volume; it has %u extents",
			    (unsigned long long)vbn, d->extents);
	return blk_read(d->extent[e], cfs_vbn_block(vbn) * CFS_BLOCK, d->block, CFS_BLOCK);
}

/* A block that is right, or a line that says why not. */
static bool good(struct dump *d, uint64_t vbn, enum cfs_type type, bool record)
{
	int rc = read_block(d, vbn);

	if (rc == 0)
		rc = record ? cfs_record_check(d->block, type, d->label.head.volume, vbn)
			    : cfs_block_check(d->block, type, d->label.head.volume, vbn);
	if (rc == 0)
		rc = cfs_block_validate(d->block, type);
	if (rc < 0)
		cfs_print(&d->p, "DAMAGED: %s", err_message(rc));
	return rc == 0;
}

static void dump_slots(struct dump *d)
{
	static const char *const states[] = {"free", "active", "recovering"};

	for (unsigned i = 0; i < CFS_MAX_SLOTS; i++) {
		const struct cfs_claim_record *claim = (const void *)d->block;
		const struct cfs_beat_record *beat = (const void *)d->block;
		char name[64], at[64], address[64];

		if (!good(d, cfs_vbn(0, CFS_CLAIMS + i), CFS_T_CLAIM, true))
			continue;
		if (claim->state == CFS_SLOT_FREE && le32_get(claim->epoch) == 0)
			continue; /* never used */
		cfs_text_copy(name, sizeof(name), claim->name, sizeof(claim->name));
		cfs_print(&d->p, "slot %u: %s, epoch %u, host \"%s\", journal %s, %u blocks", i,
			  states[claim->state], le32_get(claim->epoch), name,
			  cfs_print_vbn(le64_get(claim->journal), at),
			  le32_get(claim->journal_blocks));
		if (claim->state == CFS_SLOT_FREE)
			continue;
		if (!good(d, cfs_vbn(0, CFS_BEATS + i), CFS_T_BEAT, true))
			continue;
		cfs_text_copy(address, sizeof(address), beat->address, sizeof(beat->address));
		cfs_print(&d->p, "slot %u: beat %llu of epoch %u, address \"%s\"", i,
			  (unsigned long long)le64_get(beat->head.sequence), le32_get(beat->epoch),
			  address);
	}
}

static void dump_groups(struct dump *d)
{
	uint32_t whole = le32_get(d->label.group_units);

	for (unsigned e = 0; e < d->extents; e++) {
		for (uint32_t g = 0; g < le32_get(d->label.extent_table[e].groups); g++) {
			uint64_t vbn = cfs_vbn(e,
					       CFS_GROUPS + (uint64_t)g * whole * CFS_UNIT_BLOCKS);
			const struct cfs_group *h = (const void *)d->block;

			if (!good(d, vbn + 1, CFS_T_GROUP, false))
				continue;
			cfs_print(&d->p,
				  "group %u of extent %u at %llu: %u units, %u free, %u slabs", g,
				  e, (unsigned long long)vbn, le32_get(h->units),
				  le32_get(h->free_units), le16_get(h->slabs));
		}
	}
}

static void dump_labels(struct dump *d)
{
	for (unsigned e = 0; e < d->extents; e++) {
		for (unsigned copy = 0; copy < 2; copy++) {
			uint64_t vbn = cfs_vbn(e, copy ? CFS_LABEL_B : CFS_LABEL_A);

			if (e == 0 && copy == 0) {
				if (read_block(d, vbn) == 0)
					cfs_print_block(&d->p, d->block, vbn);
			} else if (good(d, vbn, CFS_T_LABEL, false)) {
				cfs_print(&d->p, "label, extent %u, copy %c: right", e, 'A' + copy);
			}
		}
	}
}

int cfs_dump(struct blk **blks, unsigned n, uint64_t vbn, void (*line)(void *arg, const char *text),
	     void *arg)
{
	struct dump *d = xcalloc(1, sizeof(*d));
	int rc;

	d->p = (struct cfs_printer){.line = line, .arg = arg};
	d->block = xaligned(CFS_BLOCK, CFS_BLOCK);
	d->extents = n;
	rc = cfs_label_load(blks, n, &d->label, d->extent);
	if (rc < 0 && vbn != UINT64_MAX) { /* a single block can be read without a label */
		cfs_print(&d->p, "DAMAGED: %s; extents are taken in the order given",
			  err_message(rc));
		memcpy(d->extent, blks, MIN(n, CFS_MAX_EXTENTS) * sizeof(*blks));
		rc = 0;
	}
	if (rc == 0 && vbn != UINT64_MAX) {
		rc = read_block(d, vbn);
		if (rc == 0)
			cfs_print_block(&d->p, d->block, vbn);
	} else if (rc == 0) {
		dump_labels(d);
		dump_slots(d);
		dump_groups(d);
	}
	free(d->block);
	free(d);
	return rc;
}
