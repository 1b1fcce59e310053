// SPDX-License-Identifier: Apache-2.0
/*
 * recover.c: taking over dead hosts. INV-HA-2:
 *
 *	claim	{ACTIVE, e} -> {RECOVERING, e, by us}, by compare-and-write: one recoverer
 *	fence	nothing of epoch e reaches the medium any more (fence.c)
 *	evict	no peer serves epoch e any more: all say so in their beats (peers serve nothing yet, so
 *		nobody waits for that); told over the network, to be looked at sooner
 *	replay	its journal, in place, flushed; nothing of it goes into ours
 *	free	{RECOVERING, e, by us} -> {FREE, e}: from now on its locks may be broken
 *
 * It can end anywhere: who finds {RECOVERING} by a life that is dead itself begins again. A thread of
 * its own, because whoever waits for a lock of the dead host waits for this.
 */
#include "clusterfs/slot.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "clusterfs/beat.h"
#include "clusterfs/hint.h"
#include "clusterfs/record.h"
#include "clusterfs/txn.h"

#define CLAIM_WAIT_MS 10000u

struct cfs_recovery {
	pthread_t thread;
	_Atomic bool stop;
	uint32_t told[CFS_MAX_SLOTS]; /* epoch for which a failure was said already */
};

static void tell(struct cfs *fs, const char *kind, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
static void tell(struct cfs *fs, const char *kind, const char *fmt, ...)
{
	char text[600];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	log_info("cfs", "volume %s: %s: %s", fs->name, kind, text);
	cfs_tell(fs, kind, text);
}

/* As swap_claim in slot.c, but only while our own lease runs: a frozen host takes over nobody. */
static int swap_foreign(struct cfs *fs, unsigned slot, const struct cfs_claim_record *old,
			struct cfs_claim_record *new)
{
	struct cfs_swap swap = {.vbn = cfs_vbn(0, CFS_CLAIMS + slot),
				.type = CFS_T_CLAIM,
				.token_at = offsetof(struct cfs_claim_record, token),
				.deadline_ns = clock_boot_ns() + CLAIM_WAIT_MS * NS_PER_MS};
	int rc = cfs_record_swap(fs, &swap, old, new);

	return rc == -EILSEQ ? fail(-EBUSY, "slot %u: another host takes it over", slot) : rc;
}

static bool by_us(const struct cfs *fs, const struct cfs_claim_record *c)
{
	return le16_get(c->by_slot) == fs->slot && le32_get(c->by_epoch) == fs->epoch;
}

/* The recoverer that the claim names is ours (a try that failed), or dead, fenced and replayed. */
static bool may_supersede(struct cfs *fs, const struct cfs_claim_record *c)
{
	return by_us(fs, c) ||
	       cfs_slot_life(fs, le16_get(c->by_slot), le32_get(c->by_epoch)) == CFS_LIFE_DEAD;
}

static int claim_dead(struct cfs *fs, unsigned slot, struct cfs_claim_record *out)
{
	struct cfs_claim_record old;
	int rc = cfs_record_read(fs, cfs_vbn(0, CFS_CLAIMS + slot), CFS_T_CLAIM, &old);

	if (rc < 0)
		return rc;
	*out = old;
	if (old.state == CFS_SLOT_FREE)
		return 0;
	if (old.state == CFS_SLOT_RECOVERING && !may_supersede(fs, &old))
		return fail(-EBUSY, "slot %u: host in slot %u takes it over", slot,
			    le16_get(old.by_slot));
	if (cfs_fence_kind(fs) == CFS_FENCE_NONE)
		return fail(-EPERM,
			    "host %.63s is silent and its LUNs cannot be fenced; power it off and "
			    "say so, or use LUNs with reservations",
			    old.name);
	out->state = CFS_SLOT_RECOVERING;
	out->by_slot = le16_of((uint16_t)fs->slot);
	out->by_epoch = le32_of(fs->epoch);
	return swap_foreign(fs, slot, &old, out);
}

static int free_claim(struct cfs *fs, unsigned slot, const struct cfs_claim_record *claim)
{
	struct cfs_claim_record next = *claim;

	next.state = CFS_SLOT_FREE;
	next.flags = 0;
	next.pid = le32_of(0);
	next.by_slot = le16_of(0);
	next.by_epoch = le32_of(0);
	return swap_foreign(fs, slot, claim, &next);
}

int cfs_recover_slot(struct cfs *fs, unsigned slot)
{
	struct cfs_claim_record claim;
	uint64_t start = clock_boot_ms();
	uint32_t epoch;
	int rc;

	MUST(slot < CFS_MAX_SLOTS && slot != fs->slot);
	rc = claim_dead(fs, slot, &claim);
	if (rc < 0 || claim.state == CFS_SLOT_FREE)
		return rc;
	epoch = le32_get(claim.epoch);
	tell(fs, "recovering", "host %.63s (slot %u, epoch %u) is silent; taking it over",
	     claim.name, slot, epoch);
	cfs_hint_out(fs, ~(1ULL << slot),
		     &(struct cfs_hint){.kind = CFS_HINT_EVICT, .slot = slot, .epoch = epoch});
	rc = cfs_fence_host(fs, &claim);
	if (rc == 0)
		cfs_slot_refuse(fs, slot, epoch);
	if (rc == 0 && le64_get(claim.journal))
		rc = cfs_replay(fs, slot, epoch, le64_get(claim.journal),
				le32_get(claim.journal_blocks), NULL, NULL);
	if (rc == 0)
		rc = cfs_flush(fs);
	if (rc == 0)
		rc = free_claim(fs, slot, &claim);
	if (rc == 0)
		atomic_store(&fs->took_over, true);
	if (rc == 0)
		tell(fs, "recovered", "host %.63s (slot %u, epoch %u) was taken over in %llu ms",
		     claim.name, slot, epoch, (unsigned long long)(clock_boot_ms() - start));
	return rc;
}

/* --- the thread ------------------------------------------------------------------------------------------ */

static bool needs_us(struct cfs *fs, const struct cfs_slot_view *v)
{
	switch ((enum cfs_slot_state)v->claim.state) {
	case CFS_SLOT_FREE:
		return false;
	case CFS_SLOT_ACTIVE:
		return v->silent_beats >= fs->silence_beats;
	case CFS_SLOT_RECOVERING:
		return may_supersede(fs, &v->claim);
	}
	return false;
}

static void watch_slots(struct cfs *fs, struct cfs_recovery *r)
{
	for (unsigned slot = 0; slot < CFS_MAX_SLOTS && !r->stop; slot++) {
		struct cfs_slot_view v;
		uint32_t epoch;
		int rc;

		cfs_slot_view(fs, slot, &v);
		if (slot == fs->slot || !needs_us(fs, &v))
			continue;
		epoch = le32_get(v.claim.epoch);
		rc = cfs_recover_slot(fs, slot);
		if (rc < 0 && rc != -EBUSY && r->told[slot] != epoch) {
			r->told[slot] = epoch;
			tell(fs, rc == -EPERM ? "unfenced" : "recovery-failed", "%s",
			     err_message(rc));
		}
	}
}

/* Whoever takes somebody over is told that our beat says what he waits for. */
static void tell_evicted(struct cfs *fs)
{
	struct cfs_hint hint = {.kind = CFS_HINT_EVICTED};
	unsigned by;

	while (cfs_slot_next_evicted(fs, &hint.slot, &hint.epoch, &by))
		cfs_hint_out(fs, 1ULL << by, &hint);
}

/* Somebody's beat says that the label is newer than ours. */
static void watch_label(struct cfs *fs)
{
	uint64_t ours, newest;
	int rc;

	if (pthread_mutex_trylock(&fs->label_lock) != 0)
		return; /* it is being changed just now; the next beat asks again */
	ours = newest = le64_get(fs->label.head.sequence);
	pthread_mutex_unlock(&fs->label_lock);
	for (unsigned slot = 0; slot < CFS_MAX_SLOTS; slot++) {
		struct cfs_slot_view v;

		cfs_slot_view(fs, slot, &v);
		if (slot != fs->slot && v.claim.state == CFS_SLOT_ACTIVE && v.beat_valid)
			newest = MAX(newest, le64_get(v.beat.label_sequence));
	}
	if (newest == ours)
		return;
	rc = cfs_label_refresh(fs);
	if (rc < 0)
		log_warn("cfs", "volume %s: its label has changed: %s", fs->name, err_message(rc));
	else
		tell(fs, "label", "the volume was changed by another host");
}

static void *recovery_main(void *arg)
{
	struct cfs *fs = arg;
	struct cfs_recovery *r = fs->slots->recovery;
	uint32_t beat_ms = fs->beat_ms;

	while (!r->stop && !atomic_load(&fs->dead)) {
		int rc = cfs_slot_wait_beat_or(fs, beat_ms, &r->stop);

		if (rc == -ESTALE || rc == -ECANCELED)
			break;
		if (rc < 0)
			continue;
		tell_evicted(fs);
		watch_slots(fs, r);
		watch_label(fs);
		if (!r->stop)
			(void)cfs_slot_update_sessions(fs);
	}
	return NULL;
}

int cfs_recover_start(struct cfs *fs)
{
	struct cfs_recovery *r = xcalloc(1, sizeof(*r));
	int rc;

	MUST(!fs->slots->recovery);
	fs->slots->recovery = r;
	rc = -pthread_create(&r->thread, NULL, recovery_main, fs);
	if (rc < 0) {
		fs->slots->recovery = NULL;
		free(r);
		return fail(rc, "thread: %s", strerror(-rc));
	}
	pthread_setname_np(r->thread, "recover");
	return 0;
}

void cfs_recover_stop(struct cfs *fs)
{
	struct cfs_recovery *r = fs->slots ? fs->slots->recovery : NULL;

	if (!r)
		return;
	r->stop = true;
	cfs_slot_wake(fs);
	pthread_join(r->thread, NULL);
	fs->slots->recovery = NULL;
	free(r);
}
