// SPDX-License-Identifier: Apache-2.0
/*
 * slot.c: taking a place on the volume and giving it back; what the beats showed, for others to ask.
 *
 * A claim is changed by compare-and-write only. ACTIVE with epoch e is one life; FREE keeps the epoch
 * (so that it never comes again) and the journal's place; RECOVERING is recover.c's. A free claim
 * means that nothing of its epoch is left to replay.
 */
#include "clusterfs/slot.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "clusterfs/beat.h"
#include "clusterfs/record.h"

#define CLAIM_WAIT_MS	    10000u /* an unknown change of the claim is settled by then */
#define PREDECESSOR_WAIT_MS 10000u /* for I/O of a dead daemon of ours to end */
#define SPARE_SESSIONS	    8u	   /* claimed ahead, so that a new session is covered at once */

/* The lease's page is the mount's; from here on it decides. It says 0 until a beat is confirmed. */
static void lease_begin(struct cfs *fs)
{
	atomic_store(fs->lease_end, 0);
	for (unsigned i = 0; i < fs->extents; i++)
		blk_set_lease(fs->extent[i], fs->lease_end);
}

/* --- host locks of file LUNs ----------------------------------------------------------------------- */

static void unlock_host(struct cfs *fs)
{
	for (unsigned i = 0; i < fs->extents; i++)
		if (fs->slots->held & 1u << i)
			blk_host_unlock(fs->extent[i], fs->slot);
	fs->slots->held = 0;
}

/*
 * The lock of our slot on each file LUN, before the claim: once we have it, whoever had the slot is
 * dead and the last of his I/O has ended. Waits for that up to `wait_ms`. -EBUSY.
 */
static int lock_host(struct cfs *fs, unsigned slot, unsigned wait_ms)
{
	uint64_t end = clock_boot_ms() + wait_ms;
	int rc = 0;

	fs->slot = slot;
	for (unsigned i = 0; i < fs->extents && rc == 0; i++) {
		if (blk_info(fs->extent[i])->kind != BLK_FILE)
			continue;
		rc = blk_host_lock(fs->extent[i], slot);
		while (rc == -EBUSY && clock_boot_ms() < end) {
			sleep_ms(10);
			rc = blk_host_lock(fs->extent[i], slot);
		}
		if (rc == 0)
			fs->slots->held |= 1u << i;
	}
	if (rc < 0)
		unlock_host(fs);
	return rc;
}

int cfs_slot_join_extent(struct cfs *fs, unsigned extent)
{
	int rc = 0;

	if (blk_info(fs->extent[extent])->kind == BLK_FILE) {
		rc = blk_host_lock(fs->extent[extent], fs->slot);
		if (rc == 0)
			fs->slots->held |= 1u << extent;
	}
	return rc < 0 ? rc : cfs_fence_join_extent(fs, extent);
}

void cfs_slot_leave_extent(struct cfs *fs, unsigned extent)
{
	if (fs->slots->held & 1u << extent)
		blk_host_unlock(fs->extent[extent], fs->slot);
	fs->slots->held &= ~(1u << extent);
	cfs_fence_leave_extent(fs, extent);
}

/* --- the own claim ------------------------------------------------------------------------------------ */

static unsigned sessions_now(const struct cfs *fs)
{
	unsigned n = 0;

	for (unsigned i = 0; i < fs->extents; i++)
		n = MAX(n, blk_sessions(fs->extent[i]));
	return n;
}

/* Changes the claim of `slot` from `old` to `new`: 0, -EILSEQ, or an error that tells nothing. */
static int swap_claim(struct cfs *fs, unsigned slot, const struct cfs_claim_record *old,
		      struct cfs_claim_record *new)
{
	struct cfs_swap swap = {.vbn = cfs_vbn(0, CFS_CLAIMS + slot),
				.type = CFS_T_CLAIM,
				.token_at = offsetof(struct cfs_claim_record, token),
				.flags = BLK_UNGATED,
				.deadline_ns = clock_boot_ns() + CLAIM_WAIT_MS * NS_PER_MS};

	return cfs_record_swap(fs, &swap, old, new);
}

static void fill_claim(const struct cfs *fs, struct cfs_claim_record *c, uint32_t epoch, bool check)
{
	const struct cfs_self *self = &fs->slots->self;
	const struct cfs_options *o = &fs->options;
	uint32_t lease = fs->slots->lease_ms;

	c->state = CFS_SLOT_ACTIVE;
	c->flags = check ? CFS_CLAIM_CHECK : 0;
	c->epoch = le32_of(epoch);
	c->by_slot = le16_of(0);
	c->by_epoch = le32_of(0);
	c->sessions = le16_of((uint16_t)(sessions_now(fs) + SPARE_SESSIONS));
	memcpy(c->machine, self->machine, 16);
	memcpy(c->boot, self->boot, 16);
	memcpy(c->host, self->host, 16);
	c->pid = le32_of(self->pid);
	c->start_time = le64_of(self->start_time);
	c->lease_ms = le32_of(lease > fs->lease_ms ? lease : 0);
	c->isid = le32_of(o->isid);
	memset(c->name, 0, sizeof(c->name));
	memset(c->initiator, 0, sizeof(c->initiator));
	(void)str_format(c->name, sizeof(c->name), "%s", o->host_name);
	(void)str_format(c->initiator, sizeof(c->initiator), "%s",
			 o->initiator ? o->initiator : "");
}

/* Changes the own claim: `change` edits a copy. -ESTALE when it is not ours any more. */
static int change_own(struct cfs *fs, void (*change)(struct cfs_claim_record *c, const void *arg),
		      const void *arg)
{
	struct cfs_slots *s = fs->slots;
	struct cfs_claim_record next;
	int rc;

	pthread_mutex_lock(&s->claim_lock);
	next = s->own;
	change(&next, arg);
	rc = swap_claim(fs, fs->slot, &s->own, &next);
	if (rc == 0)
		s->own = next;
	pthread_mutex_unlock(&s->claim_lock);
	if (rc == -EILSEQ)
		rc = fail(-ESTALE, "volume %s: slot %u was taken over by another host", fs->name,
			  fs->slot);
	return rc;
}

struct journal_place {
	uint64_t vbn;
	uint32_t blocks;
};

static void put_journal(struct cfs_claim_record *c, const void *arg)
{
	const struct journal_place *j = arg;

	c->journal = le64_of(j->vbn);
	c->journal_blocks = le32_of(j->blocks);
}

int cfs_slot_set_journal(struct cfs *fs, uint64_t vbn, uint32_t blocks)
{
	struct journal_place j = {.vbn = vbn, .blocks = blocks};

	return change_own(fs, put_journal, &j);
}

void cfs_slot_journal(struct cfs *fs, unsigned slot, uint64_t *vbn, uint32_t *blocks)
{
	struct cfs_slots *s = fs->slots;
	struct cfs_claim_record c;

	if (slot == fs->slot) {
		pthread_mutex_lock(&s->claim_lock);
		c = s->own;
		pthread_mutex_unlock(&s->claim_lock);
	} else {
		pthread_mutex_lock(&s->lock);
		c = s->view[slot].claim;
		pthread_mutex_unlock(&s->lock);
	}
	*vbn = le64_get(c.journal);
	*blocks = le32_get(c.journal_blocks);
}

static void put_sessions(struct cfs_claim_record *c, const void *arg)
{
	c->sessions = le16_of((uint16_t)(*(const unsigned *)arg + SPARE_SESSIONS));
}

int cfs_slot_update_sessions(struct cfs *fs)
{
	unsigned now = sessions_now(fs);
	bool enough;

	pthread_mutex_lock(&fs->slots->claim_lock);
	enough = now <= le16_get(fs->slots->own.sessions);
	pthread_mutex_unlock(&fs->slots->claim_lock);
	return enough ? 0 : change_own(fs, put_sessions, &now);
}

/* --- taking ------------------------------------------------------------------------------------------- */

static int read_area(struct cfs *fs, uint8_t *area)
{
	return cfs_read(fs, cfs_vbn(0, CFS_CLAIMS), area, CFS_AREA_BYTES);
}

/* The claim of `slot` if it is whole; a damaged one is nobody's to take. */
static const struct cfs_claim_record *sound_claim(struct cfs *fs, const uint8_t *area,
						  unsigned slot)
{
	const struct cfs_claim_record *c = cfs_area_claim(area, slot);

	if (cfs_record_check(c, CFS_T_CLAIM, fs->id, cfs_vbn(0, CFS_CLAIMS + slot)) < 0)
		return NULL;
	return c;
}

/* The epoch's predecessor was this state directory's daemon, on this boot, and is dead. */
static bool may_resume(const struct cfs_slots *s, const struct cfs_claim_record *c)
{
	uint64_t start;

	if (c->state != CFS_SLOT_ACTIVE || (c->flags & CFS_CLAIM_CHECK) ||
	    memcmp(c->host, s->self.host, 16) != 0 || memcmp(c->boot, s->self.boot, 16) != 0)
		return false;
	/* Our own process: an abandoned mount, whose threads have ended. */
	if (le32_get(c->pid) == s->self.pid && le64_get(c->start_time) == s->self.start_time)
		return true;
	return cfs_process_start((pid_t)le32_get(c->pid), &start) < 0 ||
	       start != le64_get(c->start_time);
}

/*
 * Makes the claim of `slot` ours. Registered and locked before it, so that from its first moment
 * whoever fences it hits us. -EILSEQ: somebody was quicker.
 */
static int claim_slot(struct cfs *fs, unsigned slot, const struct cfs_claim_record *old,
		      uint32_t epoch, bool check, unsigned wait_ms)
{
	struct cfs_slots *s = fs->slots;
	struct cfs_claim_record next = *old;
	const struct cfs_beat_record *beat;
	uint8_t *block;
	int rc = lock_host(fs, slot, wait_ms);

	if (rc < 0)
		return rc;
	fs->epoch = epoch;
	rc = cfs_fence_join(fs);
	s->joined = rc == 0;
	if (rc == 0) {
		fill_claim(fs, &next, epoch, check);
		rc = swap_claim(fs, slot, old, &next);
	}
	if (rc == 0) {
		s->own = next;
		s->claimed = true;
		block = xaligned(CFS_BLOCK, CFS_BLOCK);
		rc = cfs_read(fs, cfs_vbn(0, CFS_BEATS + slot), block, CFS_BLOCK);
		beat = (const void *)block;
		if (rc == 0 &&
		    cfs_record_check(beat, CFS_T_BEAT, fs->id, cfs_vbn(0, CFS_BEATS + slot)) == 0)
			s->counter = le64_get(beat->head.sequence);
		free(block);
	}
	if (rc < 0)
		unlock_host(fs);
	return rc;
}

/* Which free slot: the one that was ours, else from a place of our own on, so that 64 don't collide. */
static int pick_free(struct cfs *fs, const uint8_t *area, unsigned attempt)
{
	const struct cfs_self *self = &fs->slots->self;
	unsigned first = (self->host[0] + 7 * attempt) % CFS_MAX_SLOTS;

	for (unsigned i = 0; !attempt && i < CFS_MAX_SLOTS; i++) {
		const struct cfs_claim_record *c = sound_claim(fs, area, i);

		if (c && c->state == CFS_SLOT_FREE && le32_get(c->epoch) &&
		    memcmp(c->host, self->host, 16) == 0)
			return (int)i;
	}
	for (unsigned i = 0; i < CFS_MAX_SLOTS; i++) {
		unsigned slot = (first + i) % CFS_MAX_SLOTS;
		const struct cfs_claim_record *c = sound_claim(fs, area, slot);

		if (c && c->state == CFS_SLOT_FREE)
			return (int)slot;
	}
	return -1;
}

static int take_once(struct cfs *fs, uint8_t *area, unsigned attempt, bool check, bool *resumed)
{
	struct cfs_slots *s = fs->slots;
	const struct cfs_claim_record *c;
	int slot, rc = read_area(fs, area);

	if (rc < 0)
		return rc;
	for (unsigned i = 0; !check && i < CFS_MAX_SLOTS; i++) {
		c = sound_claim(fs, area, i);
		if (!c || !may_resume(s, c))
			continue;
		rc = claim_slot(fs, i, c, le32_get(c->epoch), false, PREDECESSOR_WAIT_MS);
		*resumed = rc == 0;
		return rc;
	}
	slot = pick_free(fs, area, attempt);
	if (slot < 0)
		return fail(-EBUSY, "volume %s: all %u slots are taken", fs->name, CFS_MAX_SLOTS);
	c = sound_claim(fs, area, (unsigned)slot);
	return claim_slot(fs, (unsigned)slot, c, le32_get(c->epoch) + 1, check, 0);
}

/* Full slots may hold dead hosts that others take over just now; so it waits for that. */
static int take_any(struct cfs *fs, bool check, bool *resumed)
{
	uint64_t end = clock_boot_ms() + (uint64_t)fs->beat_ms * (fs->silence_beats + 2) +
		       fs->lease_ms + fs->flight_ms + CLAIM_WAIT_MS;
	uint8_t *area = xaligned(CFS_BLOCK, CFS_AREA_BYTES);
	unsigned attempt = 0;
	int rc = take_once(fs, area, attempt, check, resumed);

	while ((rc == -EILSEQ || rc == -EBUSY) && clock_boot_ms() < end) {
		sleep_ms(10 + fs->slots->self.host[1] % 32);
		rc = take_once(fs, area, ++attempt, check, resumed);
	}
	free(area);
	return rc == -EILSEQ ? fail(-EBUSY, "volume %s: no slot could be claimed", fs->name) : rc;
}

static int rival(struct cfs *fs, unsigned slot, const struct cfs_claim_record *c)
{
	bool checks = c->flags & CFS_CLAIM_CHECK;
	int rc = fail(-EBUSY, "volume %s: %s host %.63s (slot %u)", fs->name,
		      checks ? "volume check is running on" : "it is mounted by", c->name, slot);

	err_holder("host %.63s", c->name);
	return rc;
}

/*
 * `volume check` and mounts exclude each other: each claims first and looks afterwards, so at least
 * one sees the other. Silent claims are no hindrance, they will be taken over.
 */
static int wait_for_rivals(struct cfs *fs, bool check)
{
	uint32_t silence = fs->silence_beats;
	uint64_t first[CFS_MAX_SLOTS] = {0};
	struct cfs_slot_view v;
	bool watched = true;
	int rc = 0;

	while (watched && rc == 0) {
		watched = false;
		for (unsigned i = 0; i < CFS_MAX_SLOTS; i++) {
			cfs_slot_view(fs, i, &v);
			if (i == fs->slot || v.claim.state != CFS_SLOT_ACTIVE ||
			    (!check && !(v.claim.flags & CFS_CLAIM_CHECK)))
				continue;
			if (!first[i])
				first[i] = v.moved_ms;
			else if (v.moved_ms != first[i]) /* it moves: it lives */
				return rival(fs, i, &v.claim);
			watched |= v.silent_beats < silence;
		}
		if (watched)
			rc = cfs_slot_wait_beat(fs, 2 * fs->slots->lease_ms);
	}
	return rc;
}

static void slots_free(struct cfs *fs)
{
	struct cfs_slots *s = fs->slots;

	atomic_store(fs->lease_end, 0);
	if (s->state_fd >= 0)
		close(s->state_fd);
	pthread_mutex_destroy(&s->claim_lock);
	pthread_mutex_destroy(&s->lock);
	pthread_cond_destroy(&s->seen);
	free(s);
	fs->slots = NULL;
}

static struct cfs_slots *slots_new(const struct cfs *fs)
{
	struct cfs_slots *s = xcalloc(1, sizeof(*s));
	pthread_condattr_t attr;

	s->state_fd = -1;
	s->lease_ms = fs->lease_ms;
	pthread_mutex_init(&s->claim_lock, NULL);
	pthread_mutex_init(&s->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&s->seen, &attr);
	pthread_condattr_destroy(&attr);
	return s;
}

/*
 * INV-BLK-1: a dead daemon's commands may still be on their way. A file's host lock fell with the last of
 * them; where a login with the old names ends them (reinstatement) ours just did; else the flight time
 * has to pass, while we beat already, before the journal is read and anything is written.
 */
static void outlive_predecessor(struct cfs *fs)
{
	for (unsigned e = 0; e < fs->extents; e++) {
		const struct blk_info *info = blk_info(fs->extent[e]);

		if (info->kind == BLK_ISCSI && !info->reinstatement) {
			sleep_ms(fs->flight_ms);
			return;
		}
	}
}

int cfs_slot_take(struct cfs *fs, bool check, bool *resumed)
{
	struct cfs_slots *s = slots_new(fs);
	int rc;

	*resumed = false;
	fs->slots = s;
	atomic_store(&fs->dead, false);
	rc = cfs_self_get(fs->options.state_dir, &s->self);
	if (rc == 0)
		rc = s->state_fd = cfs_state_lock(fs->options.state_dir, fs->id, fs->name);
	if (rc >= 0) {
		lease_begin(fs);
		rc = take_any(fs, check, resumed);
	}
	if (rc < 0) {
		if (s->joined)
			(void)cfs_fence_leave(fs);
		slots_free(fs);
		return rc;
	}
	rc = cfs_beat_start(fs);
	if (rc == 0)
		rc = wait_for_rivals(fs, check);
	if (rc < 0) {
		struct err_info why;

		err_save(&why, rc);
		(void)cfs_slot_leave(fs);
		return err_restore(&why);
	}
	if (*resumed)
		outlive_predecessor(fs);
	log_info("cfs", "volume %s: slot %u, epoch %u%s", fs->name, fs->slot, fs->epoch,
		 *resumed ? " (goes on)" : "");
	return 0;
}

/* --- leaving ------------------------------------------------------------------------------------------- */

static void put_free(struct cfs_claim_record *c, const void *arg)
{
	(void)arg;
	c->state = CFS_SLOT_FREE;
	c->flags = 0;
	c->pid = le32_of(0);
}

int cfs_slot_leave(struct cfs *fs)
{
	int rc, rc_fence = 0;

	cfs_beat_stop(fs); /* the lease is 0 from here on: nothing more is written */
	rc = change_own(fs, put_free, NULL);
	/* Without the free claim the key stays: whoever takes over preempts it. */
	if (rc == 0 && fs->slots->joined)
		rc_fence = cfs_fence_leave(fs);
	unlock_host(fs);
	slots_free(fs);
	return rc < 0 ? rc : rc_fence;
}

void cfs_slot_abandon(struct cfs *fs)
{
	if (!fs->slots)
		return;
	cfs_beat_stop(fs);
	unlock_host(fs);
	slots_free(fs);
}

/* --- asking ----------------------------------------------------------------------------------------------- */

void cfs_slot_view(struct cfs *fs, unsigned slot, struct cfs_slot_view *out)
{
	MUST(slot < CFS_MAX_SLOTS);
	pthread_mutex_lock(&fs->slots->lock);
	*out = fs->slots->view[slot];
	pthread_mutex_unlock(&fs->slots->lock);
}

enum cfs_life cfs_slot_life(struct cfs *fs, unsigned slot, uint32_t epoch)
{
	struct cfs_slot_view v;
	uint32_t now;

	if (slot >= CFS_MAX_SLOTS)
		return CFS_LIFE_ALIVE; /* no such host: nothing may be concluded */
	if (slot == fs->slot && epoch == fs->epoch)
		return CFS_LIFE_ALIVE;
	cfs_slot_view(fs, slot, &v);
	now = le32_get(v.claim.epoch);
	/* A later life begins only when the earlier one's journal is replayed, or was empty. */
	if (now > epoch || (now == epoch && v.claim.state == CFS_SLOT_FREE))
		return CFS_LIFE_DEAD;
	if (now == epoch && v.claim.state == CFS_SLOT_RECOVERING)
		return CFS_LIFE_RECOVERING;
	return CFS_LIFE_ALIVE; /* also when it began after our last look */
}

uint64_t cfs_slot_lease_over_ms(struct cfs *fs, unsigned slot, uint32_t epoch)
{
	struct cfs_slots *s = fs->slots;
	uint64_t since = UINT64_MAX, lease = s->lease_ms;
	const struct cfs_claim_record *c;

	MUST(slot < CFS_MAX_SLOTS);
	pthread_mutex_lock(&s->lock);
	c = &s->view[slot].claim;
	lease = MAX(lease, le32_get(c->lease_ms));
	if (le32_get(c->epoch) > epoch)
		since = s->epoch_ms[slot];
	else if (le32_get(c->epoch) == epoch && c->state != CFS_SLOT_ACTIVE)
		since = s->beat_ms[slot];
	pthread_mutex_unlock(&s->lock);
	return since == UINT64_MAX ? since : since + lease;
}

int cfs_slot_wait_beat_or(struct cfs *fs, unsigned wait_ms, const _Atomic bool *stop)
{
	struct cfs_slots *s = fs->slots;
	struct timespec end;
	uint64_t start;
	int rc = 0;

	end = clock_in_ms(wait_ms);
	pthread_mutex_lock(&s->lock);
	start = s->confirmed;
	while (s->confirmed == start && !s->ended && rc == 0 && !(stop && *stop))
		rc = pthread_cond_timedwait(&s->seen, &s->lock, &end);
	if (stop && *stop)
		rc = -ECANCELED;
	else if (s->confirmed != start)
		rc = 0;
	else
		rc = s->ended ? -ESTALE : -ETIMEDOUT;
	pthread_mutex_unlock(&s->lock);
	if (rc < 0)
		return fail(rc, "volume %s: %s", fs->name,
			    rc == -ESTALE ? "this host's slot is lost; mount again"
					  : "no beat was confirmed in time");
	return 0;
}

int cfs_slot_wait_beat(struct cfs *fs, unsigned wait_ms)
{
	return cfs_slot_wait_beat_or(fs, wait_ms, NULL);
}

void cfs_look(struct cfs *fs, unsigned wait_ms)
{
	/* Of the first, only the beat may have been ahead; its look was begun before we asked. */
	for (unsigned i = 0; i < 2 && !atomic_load(&fs->dead); i++) {
		cfs_beat_hurry(fs);
		if (cfs_slot_wait_beat(fs, wait_ms / 2) < 0)
			break;
	}
	err_clear();
}

void cfs_slot_wake(struct cfs *fs)
{
	pthread_mutex_lock(&fs->slots->lock);
	pthread_cond_broadcast(&fs->slots->seen);
	pthread_mutex_unlock(&fs->slots->lock);
}

void cfs_slot_wish(struct cfs *fs, uint64_t lock_vbn)
{
	struct cfs_slots *s = fs->slots;
	unsigned at = CFS_WISHES;
	bool stands = false;

	pthread_mutex_lock(&s->lock);
	for (unsigned i = 0; i < CFS_WISHES; i++) {
		stands |= s->wish[i] == lock_vbn;
		if (!s->wish[i] && at == CFS_WISHES)
			at = i;
	}
	if (!stands)
		s->wish[at < CFS_WISHES ? at : s->next_wish++ % CFS_WISHES] = lock_vbn;
	pthread_mutex_unlock(&s->lock);
	if (!stands)
		cfs_beat_hurry(fs);
}

void cfs_slot_unwish(struct cfs *fs, uint64_t lock_vbn)
{
	struct cfs_slots *s = fs->slots;

	pthread_mutex_lock(&s->lock);
	for (unsigned i = 0; i < CFS_WISHES; i++)
		if (s->wish[i] == lock_vbn)
			s->wish[i] = 0;
	pthread_mutex_unlock(&s->lock);
}

void cfs_slot_refuse(struct cfs *fs, unsigned slot, uint32_t epoch)
{
	struct cfs_slots *s = fs->slots;

	MUST(slot < CFS_MAX_SLOTS);
	pthread_mutex_lock(&s->lock);
	if (epoch > s->refused[slot])
		s->refused[slot] = epoch;
	pthread_mutex_unlock(&s->lock);
}

bool cfs_slot_evicted(struct cfs *fs, unsigned slot, uint32_t epoch)
{
	struct cfs_slots *s = fs->slots;
	bool all = true;

	pthread_mutex_lock(&s->lock);
	for (unsigned i = 0; i < CFS_MAX_SLOTS; i++) {
		const struct cfs_slot_view *v = &s->view[i];

		if (i == slot || i == fs->slot || v->claim.state != CFS_SLOT_ACTIVE)
			continue;
		all = all && v->beat_valid && le32_get(v->beat.refused[slot]) >= epoch;
	}
	pthread_mutex_unlock(&s->lock);
	return all;
}

bool cfs_slot_next_evicted(struct cfs *fs, unsigned *slot, uint32_t *epoch, unsigned *by)
{
	struct cfs_slots *s = fs->slots;
	bool found = false;

	pthread_mutex_lock(&s->lock);
	for (unsigned i = 0; i < CFS_MAX_SLOTS && !found; i++) {
		const struct cfs_claim_record *claim = &s->view[i].claim;

		if (s->refuses[i] == s->evicted[i])
			continue;
		s->evicted[i] = s->refuses[i];
		*slot = i;
		*epoch = s->refuses[i];
		*by = le16_get(claim->by_slot);
		found = claim->state == CFS_SLOT_RECOVERING && le32_get(claim->epoch) == *epoch &&
			*by != fs->slot && *by < CFS_MAX_SLOTS;
	}
	pthread_mutex_unlock(&s->lock);
	return found;
}

void cfs_slot_look_soon(struct cfs *fs)
{
	pthread_mutex_lock(&fs->slots->lock);
	fs->slots->wished_ms = clock_boot_ms();
	pthread_mutex_unlock(&fs->slots->lock);
	cfs_beat_hurry(fs);
}
