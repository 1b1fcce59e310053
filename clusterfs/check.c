// SPDX-License-Identifier: Apache-2.0
/*
 * check.c: `volume check`: the order of the passes (check.h says why), labels, slots and journals. It takes
 * a slot, with a claim that mounts honour, and recovers dead hosts first: on the medium with --repair, in
 * memory without.
 */
#include "clusterfs/check.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "clusterfs/label.h"
#include "clusterfs/lock.h"
#include "clusterfs/mount.h"
#include "clusterfs/slot.h"
#include "clusterfs/txn.h"

/* --- labels ---------------------------------------------------------------------------------------- */

/* Both copies on each extent say the same but for the extent's number. */
static int check_labels(struct check *c)
{
	struct cfs_label *l = xaligned(CFS_BLOCK, sizeof(*l));
	const struct cfs_label *best = &c->fs->label;
	char what[64];
	int rc = 0;

	for (unsigned i = 0; i < 2 * c->fs->extents && rc == 0; i++) {
		unsigned e = i / 2;
		uint64_t block = i % 2 ? CFS_LABEL_B : CFS_LABEL_A, vbn = cfs_vbn(e, block);
		size_t from = offsetof(struct cfs_label, head.sequence);

		rc = cfs_read(c->fs, vbn, l, sizeof(*l));
		if (rc < 0)
			break;
		rc = cfs_block_check(l, CFS_T_LABEL, c->fs->id, vbn);
		if (rc == 0 && le16_get(l->extent) == e) {
			l->extent = best->extent;
			if (memcmp((uint8_t *)l + from, (const uint8_t *)best + from,
				   sizeof(*l) - from) == 0)
				continue;
		}
		rc = 0;
		snprintf(what, sizeof(what), "label %c of extent %u", i % 2 ? 'B' : 'A', e);
		check_found(c, true, what, "damaged or older than the other copies");
		if (c->repair)
			rc = cfs_label_write_copy(c->fs->extent[e], best, e, block, 0);
	}
	err_clear();
	free(l);
	return rc;
}

/* --- slots and journals -------------------------------------------------------------------------------- */

/*
 * A claim that cannot be read: nobody can live there. Its epoch never comes again: the beat knows one
 * that is not older. Where its journal was is not known any more.
 */
static int new_claim(struct check *c, unsigned slot, const char *why)
{
	uint8_t *block = xaligned(CFS_BLOCK, CFS_BLOCK);
	struct cfs_claim_record *claim = (void *)block;
	struct cfs_beat_record beat;
	char what[64], ignored[256];
	int rc = check_record(c, cfs_vbn(0, CFS_BEATS + slot), CFS_T_BEAT, &beat, ignored);

	snprintf(what, sizeof(what), "slot %u", slot);
	check_found(c, true, what, "%s; the slot is free now", why);
	claim->slot = le16_of((uint16_t)slot);
	claim->epoch = le32_of(rc == 0 ? le32_get(beat.epoch) + 1 : 1u << 16);
	c->epochs[slot] = le32_get(claim->epoch);
	random_bytes(claim->token, sizeof(claim->token));
	if (rc >= 0)
		rc = check_swap(c, cfs_vbn(0, CFS_CLAIMS + slot), CFS_T_CLAIM, claim);
	free(block);
	return rc;
}

static int check_beat(struct check *c, unsigned slot, uint32_t epoch)
{
	uint64_t vbn = cfs_vbn(0, CFS_BEATS + slot);
	struct cfs_beat_record beat;
	char what[64], why[256];
	int rc = check_record(c, vbn, CFS_T_BEAT, &beat, why);

	if (rc == 0 && le16_get(beat.slot) != slot) {
		snprintf(why, sizeof(why), "its beat names slot %u", le16_get(beat.slot));
		rc = 1;
	}
	if (rc <= 0)
		return rc;
	snprintf(what, sizeof(what), "slot %u", slot);
	check_found(c, true, what, "%s; the beat is made anew", why);
	memset(&beat, 0, sizeof(beat));
	beat.slot = le16_of((uint16_t)slot);
	beat.epoch = le32_of(epoch);
	return check_swap(c, vbn, CFS_T_BEAT, &beat);
}

/* Is the head right, so that the slot's next host can begin? 1: no, `why`. */
static int journal_head(struct check *c, uint64_t vbn, unsigned slot, char why[256])
{
	struct cfs_journal_head *h = xmalloc(sizeof(*h));
	int rc = check_block(c, vbn, CFS_T_JOURNAL_HEAD, h, why);

	if (rc == 0 && le16_get(h->slot) != slot) {
		snprintf(why, 256, "its journal's head names slot %u", le16_get(h->slot));
		rc = 1;
	}
	free(h);
	return rc;
}

/* A slot without a usable journal gets a new one at its next mount; the old blocks are freed as lost. */
static int check_journal(struct check *c, struct cfs_claim_record *claim, unsigned slot)
{
	uint64_t vbn = le64_get(claim->journal);
	uint32_t blocks = le32_get(claim->journal_blocks);
	char what[64], why[256] = "its journal cannot be where its claim says";
	int rc = 1;

	if (!vbn)
		return 0;
	if (blocks >= 16 && blocks <= CFS_MAX_GROUP / CFS_BLOCK && vbn % CFS_UNIT_BLOCKS == 0 &&
	    check_group_at(c, vbn))
		rc = journal_head(c, vbn, slot, why);
	if (rc == 0 &&
	    check_claim_units(c, vbn, (uint32_t)DIV_ROUND_UP(blocks, CFS_UNIT_BLOCKS)) == CHECK_NEW)
		return 0;
	if (rc < 0)
		return rc;
	snprintf(what, sizeof(what), "slot %u", slot);
	check_found(c, true, what, "%s; it gets a new journal", why);
	if (c->repair && slot == c->fs->slot) /* who lives there must know */
		return cfs_slot_set_journal(c->fs, 0, 0);
	claim->journal = le64_of(0);
	claim->journal_blocks = le32_of(0);
	return check_swap(c, cfs_vbn(0, CFS_CLAIMS + slot), CFS_T_CLAIM, claim);
}

/* Claims of all slots: epochs for the locks, before anything else; journals once groups are known. */
static int check_claims(struct check *c, bool journals)
{
	int rc = 0;

	for (unsigned i = 0; i < CFS_MAX_SLOTS && rc == 0; i++) {
		struct cfs_claim_record claim;
		char why[256];

		if (i == c->fs->slot) { /* our own moves under our hands */
			struct cfs_slot_view v;

			cfs_slot_view(c->fs, i, &v);
			claim = v.claim;
			rc = cfs_read(c->fs, cfs_vbn(0, CFS_CLAIMS + i), c->cache, CFS_BLOCK);
			c->cached_unit[0] = 0;
			if (rc == 0)
				memcpy(&claim, c->cache, sizeof(claim));
		} else {
			rc = check_record(c, cfs_vbn(0, CFS_CLAIMS + i), CFS_T_CLAIM, &claim, why);
			if (rc == 0 && le16_get(claim.slot) != i) {
				snprintf(why, sizeof(why), "its claim names slot %u",
					 le16_get(claim.slot));
				rc = 1;
			}
			if (rc == 1) {
				rc = new_claim(c, i, why);
				continue;
			}
			if (rc == 0 && !journals)
				rc = check_beat(c, i, le32_get(claim.epoch));
		}
		c->epochs[i] = le32_get(claim.epoch);
		if (rc == 0 && journals)
			rc = check_journal(c, &claim, i);
	}
	return rc;
}

/* --- dead hosts ------------------------------------------------------------------------------------------- */

static int recover_all(struct check *c)
{
	int rc = 0;

	for (unsigned i = 0; i < CFS_MAX_SLOTS && rc == 0; i++) {
		struct cfs_slot_view v;
		uint64_t journal;
		uint32_t blocks;

		cfs_slot_view(c->fs, i, &v);
		if (i == c->fs->slot || v.claim.state == CFS_SLOT_FREE)
			continue;
		if (c->repair) {
			rc = cfs_recover_slot(c->fs, i);
		} else {
			cfs_slot_journal(c->fs, i, &journal, &blocks);
			rc = cfs_replay(c->fs, i, le32_get(v.claim.epoch), journal, blocks,
					check_overlay_put, c);
		}
		if (rc == -EUCLEAN) { /* what cannot be replayed is lost; the rest is looked at */
			char what[64];

			snprintf(what, sizeof(what), "slot %u", i);
			check_found(c, false, what, "%s", err_message(rc));
			err_clear();
			rc = 0;
		}
	}
	return rc;
}

/* --- everything -------------------------------------------------------------------------------------------- */

static int run_passes(struct check *c)
{
	int rc = check_labels(c);

	if (rc == 0)
		rc = check_claims(c, false);
	if (rc == 0)
		rc = check_lock(c, cfs_vbn(0, CFS_LABEL_LOCK), cfs_vbn(0, CFS_LABEL_A),
				"label lock");
	if (rc == 0)
		rc = check_lock(c, cfs_vbn(0, CFS_FENCE_LOCK), 0, "fence lock");
	if (rc == 0)
		rc = check_groups_load(c);
	if (rc == 0)
		rc = check_claims(c, true);
	if (rc == 0)
		rc = check_names(c);
	if (rc == 0)
		rc = check_lost(c);
	if (rc == 0)
		rc = check_map_later(c);
	if (rc == 0)
		rc = check_rebuild(c);
	if (rc == 0 && c->repair)
		rc = cfs_flush_since(c->fs, c->power);
	if (rc == 0)
		rc = check_groups_store(c);
	if (rc == 0 && c->repair)
		rc = cfs_flush_since(c->fs, c->power);
	return rc;
}

static int check_taken(struct cfs *fs, const struct cfs_check_options *options,
		       struct cfs_check_result *result)
{
	struct check *c = xcalloc(1, sizeof(*c));
	int rc;

	c->fs = fs;
	c->options = options;
	c->result = result;
	c->repair = options->repair;
	c->power = cfs_power(fs);
	rc = check_io_start(c);
	if (rc == 0)
		rc = recover_all(c);
	if (rc == 0)
		rc = run_passes(c);
	check_map_drop(c);
	check_names_free(c);
	check_dirs_free(c);
	check_groups_free(c);
	check_io_stop(c);
	free(c);
	return rc;
}

/* The state directory of this one run. */
static void forget_state(const char *dir)
{
	DIR *d = opendir(dir);
	struct dirent *e;

	while (d && (e = readdir(d))) {
		if (e->d_name[0] != '.')
			unlinkat(dirfd(d), e->d_name, 0);
	}
	if (d)
		closedir(d);
	rmdir(dir);
}

int cfs_check(struct blk **blks, unsigned n, const struct cfs_check_options *options,
	      struct cfs_check_result *result)
{
	char dir[] = "/tmp/perilune-check-XXXXXX";
	struct cfs_options mount = {.host_name = options->host_name, .state_dir = dir};
	struct err_info why = {0};
	bool resumed;
	struct cfs *fs;
	int rc, rc2;

	memset(result, 0, sizeof(*result));
	if (!mkdtemp(dir))
		return fail(-errno, "%s: %s", dir, strerror(errno));
	fs = cfs_volume_create(&mount);
	rc = cfs_volume_open(fs, blks, n);
	if (rc == 0) {
		rc = cfs_slot_take(fs, true, &resumed);
		if (rc == 0) {
			rc = check_taken(fs, options, result);
			if (rc < 0)
				err_save(&why, rc);
			rc2 = cfs_slot_leave(fs);
			if (rc == 0)
				rc = rc2;
			else
				err_restore(&why);
		}
	}
	if (rc < 0)
		err_save(&why, rc);
	cfs_volume_free(fs);
	forget_state(dir);
	return rc < 0 ? err_restore(&why) : 0;
}
