// SPDX-License-Identifier: Apache-2.0
/* io.c: plain I/O of metadata by volume block number, blocking; and what it goes to. */
#include "clusterfs/volume.h"

#include <errno.h>

#include "base/clock.h"
#include "base/err.h"

#define READ_TRIES    3u
#define READ_AGAIN_MS 50u
#define FLUSH_TRIES   3u

unsigned cfs_luns(const struct cfs *fs)
{
	return fs->extents;
}

struct blk *cfs_lun(const struct cfs *fs, unsigned e)
{
	MUST(e < fs->extents);
	return fs->extent[e];
}

uint32_t cfs_logical_block(const struct cfs *fs)
{
	return fs->logical_block;
}

uint32_t cfs_flight_ms(const struct cfs *fs)
{
	return fs->flight_ms;
}

void cfs_tell(const struct cfs *fs, const char *kind, const char *text)
{
	if (fs->options.event)
		fs->options.event(fs->options.arg, kind, text);
}

bool cfs_vbn_valid(const struct cfs *fs, uint64_t vbn)
{
	unsigned e = cfs_vbn_extent(vbn);

	return vbn < CFS_VBN_MAX && e < fs->extents && cfs_vbn_block(vbn) >= CFS_GROUPS &&
	       cfs_vbn_block(vbn) < fs->span[e].blocks;
}

struct blk *cfs_locate(struct cfs *fs, uint64_t vbn, uint64_t *offset)
{
	unsigned e = cfs_vbn_extent(vbn);

	MUST(e < fs->extents && fs->extent[e]);
	*offset = cfs_vbn_block(vbn) * CFS_BLOCK;
	return fs->extent[e];
}

/* Its sessions come up no more: nobody waits for that, request by request. */
static int check_alive(struct cfs *fs)
{
	return fs->dead
		       ? fail(-ESTALE, "volume %s: this mount is over: another host took its place",
			      fs->name)
		       : 0;
}

int cfs_read(struct cfs *fs, uint64_t vbn, void *buf, size_t bytes)
{
	uint64_t offset;
	struct blk *blk = cfs_locate(fs, vbn, &offset);
	int rc = check_alive(fs);

	if (rc == 0)
		rc = blk_read(blk, offset, buf, bytes);

	/* A session that was reset (a lapse of the lease, a lost path) takes its reads along. */
	for (unsigned i = 0; i < READ_TRIES && (rc == -ENOTCONN || rc == -ETIMEDOUT) && !fs->dead;
	     i++) {
		sleep_ms(READ_AGAIN_MS);
		rc = blk_read(blk, offset, buf, bytes);
	}
	return rc < 0 ? fail_prefix(rc, "volume %s: reading block %llu", fs->name,
				    (unsigned long long)vbn)
		      : 0;
}

int cfs_write(struct cfs *fs, uint64_t vbn, const void *buf, size_t bytes, unsigned flags)
{
	uint64_t offset;
	struct blk *blk = cfs_locate(fs, vbn, &offset);
	int rc = check_alive(fs);

	if (rc == 0)
		rc = blk_write(blk, offset, buf, bytes, flags);
	/*
	 * INV-BLK-1: who is told of the failure writes something else there. The session that comes next
	 * ends what the lost one left at the target; where it does not, only time helps.
	 */
	if (rc < 0 && !blk_info(blk)->reinstatement)
		cfs_let_land(fs, rc);
	return rc < 0 ? fail_prefix(rc, "volume %s: writing block %llu", fs->name,
				    (unsigned long long)vbn)
		      : 0;
}

int cfs_write_parts(struct cfs *fs, unsigned extent, const struct blk_part *part, size_t n)
{
	bool maybe_done;
	int rc = blk_write_parts(fs->extent[extent], part, n, 0, &maybe_done);

	/* As above; a part may have been refused (-ESTALE) while others were under way. */
	if (rc < 0 && !blk_info(fs->extent[extent])->reinstatement)
		cfs_let_land(fs, maybe_done ? -ETIMEDOUT : rc);
	return rc < 0 ? fail_prefix(rc, "volume %s: writing metadata", fs->name) : 0;
}

void cfs_let_land(struct cfs *fs, int rc)
{
	if (rc == -ETIMEDOUT || rc == -ENOTCONN)
		sleep_ms(fs->flight_ms);
}

uint64_t cfs_power(const struct cfs *fs)
{
	uint64_t n = 0;

	for (unsigned e = 0; e < fs->extents; e++)
		if (blk_info(fs->extent[e])->write_cache)
			n += blk_power_count(fs->extent[e]);
	return n;
}

int cfs_flush_since(struct cfs *fs, uint64_t power)
{
	int rc = cfs_flush(fs);

	if (rc == 0 && power != cfs_power(fs))
		rc = fail(-EIO, "volume %s: a LUN may have lost its write cache", fs->name);
	return rc;
}

/* The flush of a session that was lost meanwhile says nothing: the next one does it. */
static int flush_one(struct cfs *fs, struct blk *blk)
{
	uint64_t power = blk_power_count(blk);
	int rc = blk_flush(blk);

	for (unsigned i = 0; i < FLUSH_TRIES && rc < 0 && !fs->dead; i++) {
		if (rc != -ENOTCONN && rc != -ETIMEDOUT && power == blk_power_count(blk))
			break;
		sleep_ms(READ_AGAIN_MS);
		power = blk_power_count(blk);
		rc = blk_flush(blk);
	}
	return rc;
}

int cfs_flush(struct cfs *fs)
{
	int rc = check_alive(fs);

	for (unsigned e = 0; e < fs->extents && rc == 0; e++) {
		rc = flush_one(fs, fs->extent[e]);
		if (rc < 0)
			return fail_prefix(rc, "volume %s: flushing %s", fs->name,
					   blk_info(fs->extent[e])->name);
	}
	return rc;
}
