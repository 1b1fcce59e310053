// SPDX-License-Identifier: Apache-2.0
/*
 * beat.c: the thread that keeps the lease. INV-HA-1: it writes its beat block, then reads all claims
 * and beats; if its own claim still stands the lease runs from the write's submission. A loop of
 * its own and a channel of its own, nothing waited for but the LUN, so that no other work of the
 * daemon can be late for it.
 *
 *	us	beat ----------> look: claim stands, lease runs from the beat
 *	other		claims {recovering}			(after that our look fails)
 *	other			fences, or waits lease + flight: our last lease is over by then
 */
#include "clusterfs/beat.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"

#define FIRST_BEAT_MS 30000u /* a mount gives up when its first beat is not confirmed by then */
#define LOOP_ENTRIES  64u
/*
 * While locks are wished for, beats carry the news: quicker, but so that all hosts together read the
 * beats no more often than each QUICK_SHARE_MS.
 */
#define QUICK_MS       50u
#define QUICK_SHARE_MS 12u
#define QUICK_FOR_MS   2000u

enum step { IDLE, WRITING, READING };

struct cfs_beat {
	struct cfs *fs;
	struct loop *loop;
	struct blk_chan *chan;
	pthread_t thread;
	struct loop_timer tick, lapse;
	struct loop_work stop_work, hurry_work;
	_Atomic bool hurrying; /* hurry_work is posted */
	enum step step;
	bool stop;
	bool lapsed; /* told so */
	bool failing;
	int write_res;	       /* of the beat under way */
	uint64_t submitted_ns; /* of the beat under way */
	uint64_t confirmed_ns; /* submission of the last confirmed one */
	uint64_t next_ns;      /* when the next is due */
	uint64_t counted_ns;   /* submission of the last one that counted for the others' silence */
	uint8_t *block, *area;
	struct iovec iov;
	struct blk_req req;
};

static void event(struct cfs *fs, const char *kind, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
static void event(struct cfs *fs, const char *kind, const char *fmt, ...)
{
	char text[300];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	log_warn("cfs", "volume %s: %s: %s", fs->name, kind, text);
	cfs_tell(fs, kind, text);
}

static uint64_t beat_ns(const struct cfs *fs)
{
	return fs->beat_ms * NS_PER_MS;
}

/* --- what was seen --------------------------------------------------------------------------------- */

/* Others' silence is counted anew: we could not have seen them. Lock held. */
static void restart_watches(struct cfs_slots *s)
{
	for (unsigned i = 0; i < CFS_MAX_SLOTS; i++)
		s->view[i].silent_beats = 0;
}

/* `counts`: a whole beat has passed since the last look that counted. */
static void see_slot(struct cfs *fs, unsigned slot, const uint8_t *area, uint64_t now_ms,
		     bool counts)
{
	struct cfs_slots *s = fs->slots;
	struct cfs_slot_view *v = &s->view[slot];
	const struct cfs_claim_record *claim = cfs_area_claim(area, slot);
	const struct cfs_beat_record *beat = cfs_area_beat(area, slot);
	bool sound = cfs_record_check(beat, CFS_T_BEAT, fs->id, cfs_vbn(0, CFS_BEATS + slot)) == 0;
	bool changed = memcmp(s->raw[slot], beat, CFS_RECORD) != 0, moved = false;

	/* A claim that cannot be read just now stays what it was. */
	if (cfs_record_check(claim, CFS_T_CLAIM, fs->id, cfs_vbn(0, CFS_CLAIMS + slot)) == 0) {
		moved = memcmp(&v->claim, claim, sizeof(*claim)) != 0;
		if (le32_get(claim->epoch) != le32_get(v->claim.epoch))
			s->epoch_ms[slot] = now_ms;
		v->claim = *claim;
		if (claim->state != CFS_SLOT_ACTIVE)
			s->refused[slot] = MAX(s->refused[slot], le32_get(claim->epoch));
	}
	/* A torn beat is a beat under way; one of another epoch is a dead host's last. */
	if (changed && (!sound || le32_get(beat->epoch) == le32_get(v->claim.epoch)))
		moved = true;
	if (changed)
		s->beat_ms[slot] = now_ms;
	if (sound)
		v->beat = *beat;
	v->beat_valid = sound && le32_get(beat->epoch) == le32_get(v->claim.epoch);
	memcpy(s->raw[slot], beat, CFS_RECORD);
	if (moved) {
		v->silent_beats = 0;
		v->moved_ms = now_ms;
	} else if (counts) {
		v->silent_beats++;
	}
	for (unsigned i = 0; v->beat_valid && i < CFS_WISHES; i++)
		if (le64_get(v->beat.wishes[i]) && v->claim.state == CFS_SLOT_ACTIVE &&
		    now_ms - v->moved_ms < QUICK_FOR_MS)
			s->wished_ms = now_ms;
}

enum own { OWN_STANDS, OWN_UNREADABLE, OWN_GONE };

static enum own look_at_own(const struct cfs *fs, const uint8_t *area)
{
	const struct cfs_claim_record *claim = cfs_area_claim(area, fs->slot);

	if (cfs_record_check(claim, CFS_T_CLAIM, claim->head.volume,
			     cfs_vbn(0, CFS_CLAIMS + fs->slot)) < 0)
		return OWN_UNREADABLE;
	if (memcmp(claim->head.volume, fs->id, sizeof(fs->id)) != 0)
		return OWN_GONE; /* formatted under our feet */
	if (claim->state != CFS_SLOT_ACTIVE || le32_get(claim->epoch) != fs->epoch)
		return OWN_GONE;
	return OWN_STANDS;
}

/* --- the lease ---------------------------------------------------------------------------------------- */

static void reset_extents(struct cfs *fs)
{
	for (unsigned i = 0; i < fs->extents; i++)
		blk_reset(fs->extent[i]);
}

static void end_of_life(struct cfs *fs)
{
	struct cfs_slots *s = fs->slots;

	atomic_store(&fs->dead, true);
	atomic_store(fs->lease_end, 0);
	reset_extents(fs);
	pthread_mutex_lock(&s->lock);
	s->ended = true;
	pthread_cond_broadcast(&s->seen);
	pthread_mutex_unlock(&s->lock);
	event(fs, "evicted", "another host took over slot %u, epoch %u: this mount is over",
	      fs->slot, fs->epoch);
}

static void lapse_fired(struct loop_timer *timer)
{
	struct cfs_beat *b = container_of(timer, struct cfs_beat, lapse);
	struct cfs *fs = b->fs;
	uint64_t end = atomic_load(fs->lease_end);

	if (clock_boot_ns() < end) {
		loop_timer_arm(b->loop, &b->lapse, end);
		return;
	}
	if (b->lapsed || b->stop || atomic_load(&fs->dead))
		return;
	b->lapsed = true;
	/* Writes have stopped by themselves; what is not on the wire is cancelled. */
	reset_extents(fs);
	pthread_mutex_lock(&fs->slots->lock);
	restart_watches(fs->slots);
	pthread_mutex_unlock(&fs->slots->lock);
	event(fs, "frozen", "no beat was confirmed for %u ms: writes stop until one is",
	      fs->slots->lease_ms);
}

/* The beat that was submitted at b->submitted_ns is written, and the look was good. */
static void confirmed(struct cfs_beat *b)
{
	struct cfs *fs = b->fs;
	struct cfs_slots *s = fs->slots;
	uint64_t now = clock_boot_ns(), end = b->submitted_ns + s->lease_ms * NS_PER_MS;
	bool in_time = now < end, in_row, counts;

	/* In a row: not so long after the one before that others may have been kept from theirs. */
	in_row = b->submitted_ns - b->confirmed_ns < 3 * beat_ns(fs);
	counts = b->submitted_ns - b->counted_ns >= beat_ns(fs) * 9 / 10;
	if (counts)
		b->counted_ns = b->submitted_ns;
	if (in_time) /* before anybody hears of the beat */
		atomic_store(fs->lease_end, end);
	pthread_mutex_lock(&s->lock);
	for (unsigned i = 0; i < CFS_MAX_SLOTS; i++)
		see_slot(fs, i, b->area, now / NS_PER_MS, counts);
	if (!in_time || !in_row || b->lapsed)
		restart_watches(s);
	if (in_time) {
		memcpy(s->refuses, s->refusing, sizeof(s->refuses));
		s->confirmed++;
		pthread_cond_broadcast(&s->seen);
	}
	pthread_mutex_unlock(&s->lock);
	if (!in_time)
		return;
	loop_timer_arm(b->loop, &b->lapse, end);
	b->confirmed_ns = b->submitted_ns;
	if (b->lapsed) {
		b->lapsed = false;
		event(fs, "thawed", "a beat is confirmed again: writes go on");
	}
	b->failing = false;
}

/* --- one beat after the other ----------------------------------------------------------------------- */

/* How long after its start the next beat follows. */
static uint64_t period_ns(const struct cfs_beat *b)
{
	struct cfs_slots *s = b->fs->slots;
	uint64_t now_ms = clock_boot_ms(), quick_ms = 0;
	unsigned hosts = 0;

	pthread_mutex_lock(&s->lock);
	for (unsigned i = 0; i < CFS_WISHES; i++)
		if (s->wish[i])
			s->wished_ms = now_ms;
	if (s->wished_ms && now_ms < s->wished_ms + QUICK_FOR_MS) {
		for (unsigned i = 0; i < CFS_MAX_SLOTS; i++)
			hosts += s->view[i].claim.state == CFS_SLOT_ACTIVE;
		quick_ms = MAX(QUICK_MS, QUICK_SHARE_MS * hosts);
	}
	pthread_mutex_unlock(&s->lock);
	return quick_ms ? MIN(quick_ms * NS_PER_MS, beat_ns(b->fs)) : beat_ns(b->fs);
}

static void schedule(struct cfs_beat *b)
{
	uint64_t now = clock_boot_ns();

	b->step = IDLE;
	if (b->stop) {
		loop_stop(b->loop);
		return;
	}
	if (atomic_load(&b->fs->dead))
		return;
	b->next_ns = MAX(b->next_ns + period_ns(b), now);
	loop_timer_arm(b->loop, &b->tick, b->next_ns);
}

static void missed(struct cfs_beat *b, int rc, const char *what)
{
	struct cfs_slots *s = b->fs->slots;

	if (atomic_load(&s->gone)) {
		end_of_life(b->fs);
		schedule(b);
		return;
	}
	if (!b->failing)
		log_warn("cfs", "volume %s: %s: %s", b->fs->name, what, err_message(rc));
	b->failing = true;
	pthread_mutex_lock(&s->lock);
	restart_watches(s);
	pthread_mutex_unlock(&s->lock);
	schedule(b);
}

static void read_done(struct blk_req *req, int res)
{
	struct cfs_beat *b = container_of(req, struct cfs_beat, req);

	if (b->stop) {
		schedule(b);
		return;
	}
	if (res < 0) {
		missed(b, res, "reading claims and beats");
		return;
	}
	switch (look_at_own(b->fs, b->area)) {
	case OWN_STANDS:
		if (b->write_res < 0) {
			missed(b, b->write_res, "writing the beat");
			return;
		}
		confirmed(b);
		break;
	case OWN_UNREADABLE:
		missed(b, -EUCLEAN, "own claim is damaged; run volume check");
		return;
	case OWN_GONE:
		end_of_life(b->fs);
		break;
	}
	schedule(b);
}

static void write_done(struct blk_req *req, int res)
{
	struct cfs_beat *b = container_of(req, struct cfs_beat, req);

	if (b->stop) {
		schedule(b);
		return;
	}
	/* Only now: the look must come after the beat. Also when it was refused: to learn why. */
	b->write_res = res;
	b->step = READING;
	b->iov = (struct iovec){.iov_base = b->area, .iov_len = CFS_AREA_BYTES};
	blk_prep_rw(&b->req, BLK_READ, (uint64_t)CFS_CLAIMS * CFS_BLOCK, &b->iov, 1, CFS_AREA_BYTES,
		    0);
	b->req.done = read_done;
	blk_submit(b->chan, &b->req);
}

/* The label's sequence as we have read it; somebody may be changing it just now. */
static void take_label_sequence(struct cfs *fs)
{
	if (pthread_mutex_trylock(&fs->label_lock) != 0)
		return;
	fs->slots->label_sequence = le64_get(fs->label.head.sequence);
	pthread_mutex_unlock(&fs->label_lock);
}

void cfs_set_address(struct cfs *fs, const char *address)
{
	char *old;

	pthread_mutex_lock(&fs->slots->lock);
	old = (char *)fs->options.address;
	fs->options.address = xstrdup(address);
	pthread_mutex_unlock(&fs->slots->lock);
	free(old);
}

static void fill_block(struct cfs_beat *b)
{
	struct cfs *fs = b->fs;
	struct cfs_slots *s = fs->slots;
	struct cfs_beat_record *r = (void *)b->block;

	memset(b->block, 0, CFS_BLOCK);
	take_label_sequence(fs);
	pthread_mutex_lock(&s->lock);
	r->head.sequence = le64_of(++s->counter);
	for (unsigned i = 0; i < CFS_WISHES; i++)
		r->wishes[i] = le64_of(s->wish[i]);
	for (unsigned i = 0; i < CFS_MAX_SLOTS; i++)
		r->refused[i] = le32_of(s->refused[i]);
	memcpy(s->refusing, s->refused, sizeof(s->refusing));
	r->label_sequence = le64_of(s->label_sequence);
	(void)str_format(r->address, sizeof(r->address), "%s",
			 fs->options.address ? fs->options.address : "");
	pthread_mutex_unlock(&s->lock);
	r->epoch = le32_of(fs->epoch);
	r->slot = le16_of((uint16_t)fs->slot);
	cfs_record_seal(r, CFS_T_BEAT, fs->id, cfs_vbn(0, CFS_BEATS + fs->slot));
}

static void tick_fired(struct loop_timer *timer)
{
	struct cfs_beat *b = container_of(timer, struct cfs_beat, tick);

	if (b->step != IDLE || b->stop || atomic_load(&b->fs->dead))
		return;
	fill_block(b);
	b->step = WRITING;
	b->iov = (struct iovec){.iov_base = b->block, .iov_len = CFS_BLOCK};
	blk_prep_rw(&b->req, BLK_WRITE, (uint64_t)(CFS_BEATS + b->fs->slot) * CFS_BLOCK, &b->iov, 1,
		    CFS_BLOCK, BLK_UNGATED);
	b->req.done = write_done;
	b->submitted_ns = clock_boot_ns();
	blk_submit(b->chan, &b->req);
}

static void hurry_posted(struct loop_work *work)
{
	struct cfs_beat *b = container_of(work, struct cfs_beat, hurry_work);
	uint64_t soon = b->submitted_ns + QUICK_MS * NS_PER_MS;

	b->hurrying = false;
	if (b->step != IDLE || b->stop || soon >= b->next_ns)
		return;
	b->next_ns = MAX(soon, clock_boot_ns());
	loop_timer_arm(b->loop, &b->tick, b->next_ns);
}

void cfs_beat_hurry(struct cfs *fs)
{
	struct cfs_beat *b = fs->slots->beat;

	if (b && !atomic_exchange(&b->hurrying, true))
		loop_post(b->loop, &b->hurry_work);
}

static void stop_posted(struct loop_work *work)
{
	struct cfs_beat *b = container_of(work, struct cfs_beat, stop_work);

	b->stop = true;
	if (b->step == IDLE)
		loop_stop(b->loop);
}

static void *beat_main(void *arg)
{
	struct cfs_beat *b = arg;
	int rc = blk_chan_open(b->fs->extent[0], b->loop, BLK_CHAN_BEAT, &b->chan);

	if (rc < 0) {
		log_warn("cfs", "volume %s: beat: %s", b->fs->name, err_message(rc));
	} else {
		b->next_ns = clock_boot_ns();
		loop_timer_arm(b->loop, &b->tick, b->next_ns);
		rc = loop_run(b->loop);
		MUST(rc == 0);
		loop_timer_cancel(&b->tick);
		loop_timer_cancel(&b->lapse);
		blk_chan_close(b->chan);
		for (int i = 0; i < 4; i++) /* what the channel left to the kernel comes back */
			(void)loop_turn(b->loop, 0);
	}
	pthread_mutex_lock(&b->fs->slots->lock);
	b->fs->slots->ended = true;
	pthread_cond_broadcast(&b->fs->slots->seen);
	pthread_mutex_unlock(&b->fs->slots->lock);
	return NULL;
}

int cfs_beat_start(struct cfs *fs)
{
	struct cfs_beat *b = xcalloc(1, sizeof(*b));
	int rc;

	b->fs = fs;
	b->tick.fn = tick_fired;
	b->lapse.fn = lapse_fired;
	b->stop_work.fn = stop_posted;
	b->hurry_work.fn = hurry_posted;
	b->block = xaligned(CFS_BLOCK, CFS_BLOCK);
	b->area = xaligned(CFS_BLOCK, CFS_AREA_BYTES);
	fs->slots->beat = b;
	rc = loop_create(&b->loop, LOOP_ENTRIES);
	if (rc == 0) {
		rc = -pthread_create(&b->thread, NULL, beat_main, b);
		if (rc < 0)
			rc = fail(rc, "thread: %s", strerror(-rc));
	}
	if (rc < 0) {
		loop_destroy(b->loop);
		b->loop = NULL;
		cfs_beat_stop(fs);
		return rc;
	}
	pthread_setname_np(b->thread, "beat");
	rc = cfs_slot_wait_beat(fs, FIRST_BEAT_MS);
	if (rc < 0) {
		rc = fail(rc == -ESTALE ? -EIO : rc,
			  "volume %s: slot %u: the first beat was not confirmed", fs->name,
			  fs->slot);
		cfs_beat_stop(fs);
	}
	return rc;
}

void cfs_beat_stop(struct cfs *fs)
{
	struct cfs_beat *b = fs->slots->beat;

	if (!b)
		return;
	if (b->loop) {
		loop_post(b->loop, &b->stop_work);
		pthread_join(b->thread, NULL);
		loop_destroy(b->loop);
	}
	atomic_store(fs->lease_end, 0);
	free(b->block);
	free(b->area);
	free(b);
	fs->slots->beat = NULL;
}
