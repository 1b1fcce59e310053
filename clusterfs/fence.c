// SPDX-License-Identifier: Apache-2.0
/*
 * fence.c: making sure that a dead host writes no more. What a LUN can do decides, LUN by LUN:
 *
 *	file	the host's lock on its slot's byte lies on the open file of its I/O: had by us, the host
 *		is dead and the last of its requests has ended. Not had: kill it, then take it.
 *	PR	one key (slot, epoch) on all its sessions. PREEMPT it, look whether it is gone, then
 *		prove the drain: GOOD from PREEMPT proves nothing (reference: LIO writes landed seconds
 *		after it). INV-PR-1: under the volume's fence lock, one at a time in the cluster.
 *	time	nothing but waiting: lease and flight, from the claim. Only if format said so.
 */
#include "clusterfs/slot.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "clusterfs/beat.h"
#include "clusterfs/lock.h"
#include "clusterfs/record.h"

#define KEY_TAG		   0x50310000ULL /* "P1", then the slot; the epoch below: never 0 */
#define KILL_WAIT_MS	   10000u	 /* for a killed process's last requests to end */
#define FENCE_LOCK_WAIT_MS 30000u

static uint64_t key_of(unsigned slot, uint32_t epoch)
{
	return (KEY_TAG | slot) << 32 | epoch;
}

static enum cfs_fence_kind kind_of(struct cfs *fs, const struct blk *blk)
{
	if (blk_info(blk)->kind == BLK_FILE)
		return CFS_FENCE_BY_FILE;
	if (blk_info(blk)->reservations)
		return CFS_FENCE_BY_PR;
	if (fs->fence_time)
		return CFS_FENCE_BY_TIME;
	return CFS_FENCE_NONE;
}

/* The weakest of the extents decides. */
enum cfs_fence_kind cfs_fence_kind(struct cfs *fs)
{
	enum cfs_fence_kind worst = CFS_FENCE_BY_PR;

	for (unsigned i = 0; i < fs->extents; i++)
		worst = MAX(worst, kind_of(fs, fs->extent[i]));
	return worst;
}

static enum blk_pr_type pr_type(const struct blk *blk)
{
	return blk_info(blk)->cas == BLK_CAS_ATS ? BLK_PR_WE_ALL_REGISTRANTS
						 : BLK_PR_WE_REGISTRANTS_ONLY;
}

/* --- one's own key -------------------------------------------------------------------------------- */

/* "New session, register, look, then use": asked by blockdev in between, for each new session. */
static int look(void *arg)
{
	struct cfs *fs = arg;
	struct cfs_claim_record c;
	int rc;

	if (atomic_load(&fs->dead))
		return -ESTALE;
	if (!atomic_load(&fs->slots->claimed))
		return 0; /* the claim comes after the first registration */
	rc = cfs_record_read(fs, cfs_vbn(0, CFS_CLAIMS + fs->slot), CFS_T_CLAIM, &c);
	if (rc < 0)
		return rc;
	if (c.state == CFS_SLOT_ACTIVE && le32_get(c.epoch) == fs->epoch)
		return 0;
	atomic_store(&fs->slots->gone, true);
	return -ESTALE;
}

static int join_one(struct cfs *fs, struct blk *blk)
{
	struct blk_pr_state *pr = xcalloc(1, sizeof(*pr));
	int rc = blk_pr_register(blk, key_of(fs->slot, fs->epoch), look, fs);

	if (rc == 0)
		rc = blk_pr_read(blk, pr);
	if (rc == 0 && pr->type == BLK_PR_NONE) {
		rc = blk_pr_reserve(blk, pr_type(blk));
		if (rc == -EBADE) /* another host was quicker: its reservation covers us */
			rc = 0;
	}
	free(pr);
	return rc < 0 ? fail_prefix(rc, "LUN %s: joining the fence", blk_info(blk)->name) : 0;
}

int cfs_fence_join_extent(struct cfs *fs, unsigned extent)
{
	struct blk *blk = fs->extent[extent];

	return kind_of(fs, blk) == CFS_FENCE_BY_PR ? join_one(fs, blk) : 0;
}

void cfs_fence_leave_extent(struct cfs *fs, unsigned extent)
{
	if (kind_of(fs, fs->extent[extent]) == CFS_FENCE_BY_PR)
		(void)blk_pr_unregister(fs->extent[extent]);
}

int cfs_fence_join(struct cfs *fs)
{
	int rc = 0;

	for (unsigned i = 0; i < fs->extents && rc == 0; i++)
		rc = cfs_fence_join_extent(fs, i);
	return rc;
}

int cfs_fence_leave(struct cfs *fs)
{
	int rc = 0;

	for (unsigned i = 0; i < fs->extents; i++) {
		int one = 0;

		if (kind_of(fs, fs->extent[i]) == CFS_FENCE_BY_PR)
			one = blk_pr_unregister(fs->extent[i]);
		rc = rc < 0 ? rc : one;
	}
	return rc;
}

/* --- file ------------------------------------------------------------------------------------------ */

/* Kills the claim's process if it is on this machine, on this boot, and the same one still. */
static int kill_process(struct cfs *fs, const struct cfs_claim_record *claim)
{
	const struct cfs_self *self = &fs->slots->self;
	pid_t pid = (pid_t)le32_get(claim->pid);
	uint64_t start;
	int fd, rc = 0;

	if (memcmp(claim->machine, self->machine, 16) != 0)
		return fail(-EPERM,
			    "host %.63s holds a file LUN on another machine: it cannot be fenced; "
			    "use a LUN with reservations",
			    claim->name);
	if (memcmp(claim->boot, self->boot, 16) != 0 || pid <= 0)
		return 0; /* not of this boot: whoever holds the lock is about to end */
	if (pid == getpid())
		return fail(-EBUSY, "host %.63s is a mount of this very process", claim->name);
	fd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (fd < 0)
		return errno == ESRCH ? 0 : fail(-errno, "pid %d: %s", pid, strerror(errno));
	/* Looked at after the descriptor was had: it cannot become another process any more. */
	if (cfs_process_start(pid, &start) == 0 && start == le64_get(claim->start_time)) {
		log_warn("cfs", "volume %s: host %.63s does not beat but lives: killing pid %d",
			 fs->name, claim->name, (int)pid);
		if (syscall(SYS_pidfd_send_signal, fd, SIGKILL, NULL, 0) < 0 && errno != ESRCH)
			rc = fail(-errno, "killing pid %d: %s", (int)pid, strerror(errno));
	}
	close(fd);
	return rc;
}

static int fence_file(struct cfs *fs, struct blk *blk, const struct cfs_claim_record *claim)
{
	unsigned slot = le16_get(claim->slot);
	uint64_t end = clock_boot_ms() + KILL_WAIT_MS;
	int rc = blk_host_lock(blk, slot);

	if (rc == -EBUSY) {
		rc = kill_process(fs, claim);
		if (rc < 0)
			return rc;
		rc = blk_host_lock(blk, slot);
	}
	while (rc == -EBUSY && clock_boot_ms() < end) {
		sleep_ms(5);
		rc = blk_host_lock(blk, slot);
	}
	/* Dead and drained; nobody else takes this byte before the claim is free. */
	if (rc == 0)
		blk_host_unlock(blk, slot);
	return rc;
}

/* --- reservations ---------------------------------------------------------------------------------- */

static int key_present(struct blk *blk, struct blk_pr_state *pr, uint64_t key)
{
	int rc = blk_pr_read(blk, pr);

	for (unsigned i = 0; rc == 0 && i < pr->keys; i++)
		if (pr->key[i] == key)
			return 1;
	return rc;
}

/* Fence lock held. No key, no type: the array forgot; ours goes in again before anything else. */
static int preempt_one(struct cfs *fs, struct blk *blk, uint64_t victim)
{
	struct blk_pr_state *pr = xcalloc(1, sizeof(*pr));
	int rc = key_present(blk, pr, victim);

	if (rc >= 0 && pr->type == BLK_PR_NONE) {
		rc = join_one(fs, blk);
		if (rc == 0)
			rc = key_present(blk, pr, victim);
	}
	if (rc > 0 && clock_boot_ns() >= atomic_load(fs->lease_end))
		rc = fail(-ESTALE, "volume %s: no lease", fs->name);
	if (rc > 0) {
		rc = blk_pr_preempt(blk, pr->type, victim);
		/* A lost answer shows as "no such key": what counts is what is there now. */
		if (rc == 0 || rc == -EBADE || rc == -ETIMEDOUT || rc == -ENOTCONN)
			rc = key_present(blk, pr, victim);
		if (rc > 0)
			rc = fail(-EIO, "LUN %s: key %#llx is still there after PREEMPT",
				  blk_info(blk)->name, (unsigned long long)victim);
	}
	free(pr);
	return rc;
}

/* On every extent before anything is replayed. */
static int preempt_all(struct cfs *fs, uint64_t victim)
{
	int rc = cfs_plain_lock(fs, cfs_vbn(0, CFS_FENCE_LOCK), FENCE_LOCK_WAIT_MS), unlock;

	if (rc < 0)
		return rc;
	for (unsigned i = 0; i < fs->extents && rc == 0; i++)
		if (kind_of(fs, fs->extent[i]) == CFS_FENCE_BY_PR)
			rc = preempt_one(fs, fs->extent[i], victim);
	unlock = cfs_plain_unlock(fs, cfs_vbn(0, CFS_FENCE_LOCK));
	return rc < 0 ? rc : unlock;
}

/* True when every session that the host can have had is proven to be drained. */
static bool drained(struct cfs *fs, const struct cfs_claim_record *claim)
{
	char initiator[sizeof(claim->initiator) + 1] = {0};

	memcpy(initiator, claim->initiator, sizeof(claim->initiator));
	if (!initiator[0])
		return false;
	for (unsigned i = 0; i < fs->extents; i++)
		if (kind_of(fs, fs->extent[i]) == CFS_FENCE_BY_PR &&
		    (!blk_info(fs->extent[i])->reinstatement ||
		     blk_drain_foreign(fs->extent[i], initiator, le32_get(claim->isid),
				       le16_get(claim->sessions)) < 0))
			return false;
	return true;
}

/* --- all of it ---------------------------------------------------------------------------------------- */

int cfs_fence_host(struct cfs *fs, const struct cfs_claim_record *claim)
{
	uint64_t claimed = clock_boot_ms(), until = 0;
	uint32_t flight = fs->flight_ms;
	uint32_t lease = MAX(fs->slots->lease_ms, le32_get(claim->lease_ms));
	bool pr = false;
	int rc = 0;

	for (unsigned i = 0; i < fs->extents && rc == 0; i++) {
		switch (kind_of(fs, fs->extent[i])) {
		case CFS_FENCE_BY_FILE:
			rc = fence_file(fs, fs->extent[i], claim);
			break;
		case CFS_FENCE_BY_PR:
			pr = true;
			break;
		case CFS_FENCE_BY_TIME:
			until = claimed + lease + flight;
			break;
		case CFS_FENCE_NONE:
			rc = fail(-EPERM,
				  "volume %s: LUN %s has no reservations: host %.63s cannot be "
				  "fenced; power it off and say so, or format with --fence=time",
				  fs->name, blk_info(fs->extent[i])->name, claim->name);
			break;
		}
	}
	if (rc == 0 && pr) {
		rc = preempt_all(fs, key_of(le16_get(claim->slot), le32_get(claim->epoch)));
		if (rc == 0 && !drained(fs, claim))
			until = MAX(until, clock_boot_ms() + flight);
	}
	if (rc == 0 && until > clock_boot_ms())
		sleep_ms(until - clock_boot_ms());
	return rc;
}
