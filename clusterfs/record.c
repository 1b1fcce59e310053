// SPDX-License-Identifier: Apache-2.0
/*
 * record.c: reading records and changing them by compare-and-write, with the unknown settled.
 *
 * All attempts of one change share twelve random bytes of their tokens; the other four count. So
 * what is found later can be told to be ours, whichever attempt it was.
 */
#include "clusterfs/record.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "clusterfs/lock.h"

#define TOKEN_SHARED 12u
#define RETRY_MS     50u
#define READ_TRIES   3u

int cfs_record_read(struct cfs *fs, uint64_t vbn, enum cfs_type type, void *record)
{
	uint64_t offset;
	struct blk *blk = cfs_locate(fs, vbn, &offset);
	uint8_t *buf = xaligned(CFS_BLOCK, fs->logical_block);
	int rc = blk_read(blk, offset, buf, fs->logical_block);

	/* A session that was reset takes its reads along; the next one is new. */
	for (unsigned i = 0;
	     i < READ_TRIES && (rc == -ENOTCONN || rc == -ETIMEDOUT) && !atomic_load(&fs->dead);
	     i++) {
		sleep_ms(RETRY_MS);
		rc = blk_read(blk, offset, buf, fs->logical_block);
	}
	if (rc == 0)
		rc = cfs_record_check(buf, type, fs->id, vbn);
	if (rc == 0)
		memcpy(record, buf, CFS_RECORD);
	free(buf);
	return rc;
}

struct attempt {
	struct cfs *fs;
	struct cfs_swap *swap;
	struct blk *blk;
	uint64_t offset;
	uint8_t *expect, *write; /* a logical block each: the record, then zeroes */
	uint32_t count;
};

static void stamp(struct attempt *a, const struct cfs_record_head *old)
{
	struct cfs_record_head *head = (void *)a->write;
	le32 count = le32_of(a->count++);

	memcpy(a->write + a->swap->token_at + TOKEN_SHARED, &count, sizeof(count));
	head->sequence = le64_of(le64_get(old->sequence) + 1);
	cfs_record_seal(a->write, a->swap->type, a->fs->id, a->swap->vbn);
}

/* The compare failed, and an earlier attempt was unknown: was it that one that succeeded? */
static int look_for_ours(struct attempt *a)
{
	uint8_t found[CFS_RECORD];
	int rc = cfs_record_read(a->fs, a->swap->vbn, a->swap->type, found);

	if (rc == -EUCLEAN)
		return -EILSEQ;
	if (rc < 0)
		return rc;
	if (memcmp(found + a->swap->token_at, a->write + a->swap->token_at, TOKEN_SHARED) != 0)
		return -EILSEQ;
	memcpy(a->write, found, CFS_RECORD);
	return 0;
}

static int try_once(struct attempt *a, const void *old)
{
	bool maybe = false;
	int rc;

	stamp(a, old);
	rc = blk_cas(a->blk, a->offset, a->expect, a->write, NULL, a->swap->flags | BLK_FUA,
		     &maybe);
	if (rc == -EILSEQ && a->swap->unsettled)
		rc = look_for_ours(a);
	if (rc == 0 || rc == -EILSEQ)
		a->swap->unsettled = false;
	else if (maybe)
		a->swap->unsettled = true;
	return rc;
}

/* Errors that time may cure. -ESTALE may: the lease comes back when beats are confirmed again. */
static bool may_pass(int rc)
{
	return rc == -EIO || rc == -ETIMEDOUT || rc == -ENOTCONN || rc == -EAGAIN || rc == -EBUSY ||
	       rc == -ESTALE;
}

int cfs_record_swap(struct cfs *fs, struct cfs_swap *swap, const void *old, void *new)
{
	struct attempt a = {.fs = fs, .swap = swap};
	int rc;

	a.blk = cfs_locate(fs, swap->vbn, &a.offset);
	a.expect = xaligned(CFS_BLOCK, fs->logical_block);
	a.write = xaligned(CFS_BLOCK, fs->logical_block);
	memcpy(a.expect, old, CFS_RECORD);
	memcpy(a.write, new, CFS_RECORD);
	random_bytes(a.write + swap->token_at, TOKEN_SHARED);
	swap->unsettled = false;
	rc = try_once(&a, old);
	while (rc < 0 && may_pass(rc) && clock_boot_ns() < swap->deadline_ns &&
	       !atomic_load(&fs->dead)) {
		sleep_ms(RETRY_MS);
		rc = try_once(&a, old);
	}
	memcpy(new, a.write, CFS_RECORD);
	free(a.expect);
	free(a.write);
	if (rc == -EILSEQ)
		return rc; /* an answer, not a failure: no words */
	return rc < 0 ? fail_prefix(rc, "%s %llu", cfs_type_name(swap->type),
				    (unsigned long long)swap->vbn)
		      : 0;
}

void cfs_lock_init_block(void *block, const uint8_t volume[16], uint64_t vbn, uint64_t object)
{
	struct cfs_lock_record *lock = block;

	memset(block, 0, CFS_BLOCK);
	lock->mode = CFS_LOCK_FREE;
	lock->object = le64_of(object);
	lock->head.sequence = le64_of(1);
	random_bytes(lock->token, sizeof(lock->token));
	cfs_record_seal(lock, CFS_T_LOCK, volume, vbn);
}
