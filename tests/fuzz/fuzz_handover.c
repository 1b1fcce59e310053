// SPDX-License-Identifier: Apache-2.0
/*
 * What a VM's source says to its target: baggage, raw or made of whole pieces with odd content; a controller's
 * state. Nothing is believed that makes no sense, nothing leaks, and what was loaded can be saved again.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "clusterfs/handover.h"
#include "clusterfs/txn.h"
#include "vfs/scsi.h"

#define VM     2000u
#define BLOCKS 4096u
#define PIECES 64u

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

/* --- baggage ----------------------------------------------------------------------------------------- */

struct input {
	const uint8_t *at, *end;
};

static unsigned byte(struct input *in)
{
	return in->at < in->end ? *in->at++ : 0;
}

static void take(struct input *in, uint8_t *dst, size_t n)
{
	size_t got = MIN(n, (size_t)(in->end - in->at));

	memcpy(dst, in->at, got);
	in->at += got;
}

/* Whole pieces: each at some block, under some lock, sealed as its sender would, or nearly. */
static size_t build(struct cfs *fs, struct input *in, uint8_t *out)
{
	size_t used = 40;

	for (unsigned i = 0; i < PIECES && in->at < in->end; i++) {
		unsigned kind = byte(in), vbn = 1100 + byte(in), owner = 1100 + byte(in);
		size_t bytes = kind & 1 ? CFS_RECORD : CFS_BLOCK;
		uint8_t *piece = out + used + 4;
		le32 length = le32_of((uint32_t)bytes);

		memset(piece, 0, bytes);
		if (bytes == CFS_RECORD) {
			struct cfs_lock_record *r = (void *)piece;

			take(in, piece + sizeof(r->head), 48);
			if (kind & 2) {
				r->mode = CFS_LOCK_EXCLUSIVE;
				r->state = CFS_LOCK_ACTIVE;
				r->owner_kind = CFS_OWNER_VM;
				r->vm = le64_of(VM);
			}
			cfs_record_seal(piece, CFS_T_LOCK, fs->id, kind & 4 ? VM : vbn);
		} else {
			struct cfs_head *h = (void *)piece;

			take(in, piece + sizeof(*h), byte(in));
			h->owner = le64_of(owner);
			h->sequence = le64_of(byte(in));
			cfs_block_seal(piece, (enum cfs_type)(kind >> 2 & 15), fs->id, vbn);
		}
		if (kind & 0x40)
			piece[byte(in)] ^= 1;
		memcpy(out + used, &length, 4);
		used += 4 + bytes;
	}
	return used;
}

static void head(uint8_t *out, const struct cfs *fs, size_t used)
{
	le32 magic = le32_of(0x31424c50);
	le64 vm = le64_of(VM), bytes = le64_of(used);

	memset(out, 0, 40);
	memcpy(out, &magic, 4);
	memcpy(out + 8, fs->id, 16);
	memcpy(out + 24, &vm, 8);
	memcpy(out + 32, &bytes, 8);
}

/* What is held now names the VM, and was on its way with it. */
static void look(struct cfs *fs)
{
	unsigned n;
	uint64_t *vbn = cfs_vm_locks(fs, VM, &n);

	for (unsigned i = 0; i < n; i++)
		MUST(vbn[i] != VM && vbn[i] < BLOCKS);
	free(vbn);
}

static void baggage(struct input *in, bool whole)
{
	static struct cfs fs;
	uint8_t *out = xmalloc(64 + PIECES * (CFS_BLOCK + 4));
	struct cfs_lock_record r;
	size_t used;

	memset(&fs, 0, sizeof(fs));
	memcpy(fs.id, "0123456789abcdef", 16);
	fs.extents = 1;
	fs.span[0].blocks = BLOCKS;
	MUST(cfs_locks_start(&fs) == 0 && cfs_cache_create(&fs, MiB) == 0);
	if (whole) {
		used = build(&fs, in, out);
	} else {
		used = 40 + MIN((size_t)(in->end - in->at), (size_t)PIECES * CFS_BLOCK);
		take(in, out + 40, used - 40);
	}
	head(out, &fs, used);
	(void)cfs_baggage_lock(&fs, out, used, VM, &r);
	cfs_baggage_unpack(&fs, out, used, VM);
	look(&fs);
	MUST(cfs_locks_stop(&fs, false) == 0);
	cfs_cache_destroy(&fs);
	free(out);
}

/* --- a controller's state ------------------------------------------------------------------------------ */

static void controller(struct input *in)
{
	static uint8_t first[CONTROLLER_STATE_MAX], second[CONTROLLER_STATE_MAX];
	static const struct vfs_disk_ops ops;
	struct vfs_disk disk[2] = {{.ops = &ops, .info.block_size = 512},
				   {.ops = &ops, .info.block_size = 512}};
	struct vfs_disk *gone;
	struct scsi_target *t = scsi_target_new("fuzz", false);
	int n, m;

	for (unsigned i = 0; i < 2; i++)
		MUST(scsi_attach(t, &disk[i], &(struct controller_lun){.lun = 3 * i}) == 0);
	if (scsi_load(t, in->at, (size_t)(in->end - in->at)) == 0) {
		n = scsi_save(t, first, sizeof(first));
		MUST(n > 0 && scsi_load(t, first, (size_t)n) == 0);
		m = scsi_save(t, second, sizeof(second));
		MUST(m == n && memcmp(first, second, (size_t)n) == 0);
	}
	for (unsigned i = 0; i < 2; i++)
		MUST(scsi_detach(t, 3 * i, &gone) == 0);
	scsi_target_free(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	struct input in = {bytes, bytes + size};
	unsigned what = byte(&in) % 3;

	if (what == 2)
		controller(&in);
	else
		baggage(&in, what);
	return 0;
}
