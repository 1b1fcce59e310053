// SPDX-License-Identifier: Apache-2.0
/*
 * journal.c: commit. One thread writes what transactions have put into the tail to journal blocks.
 *
 * INV-FS-2: a commit takes the head of the stream, flushes every extent (so the data of every
 * completed write whose record lies before that head is durable, or went with an array's cache, and then its
 * record is undone: fresh.h), and only then writes the records, with FUA. One flush in flight, one gathering: requests that come meanwhile wait for the next.
 * A journal block is written once a lap; each commit begins a new one.
 */
#include "clusterfs/journal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "clusterfs/fresh.h"
#include "clusterfs/slot.h"

#define COMMIT_INTERVAL_MS 1000u /* a record waits at most that long when nobody flushes */
#define WRITE_CHUNK	   64u	 /* journal blocks in one write */

static uint64_t ring_vbn(const struct cfs_journal *j, uint64_t number)
{
	return j->vbn + 1 + number % (j->blocks - 1);
}

int cfs_journal_write_head(struct cfs *fs, uint64_t tail_block, uint64_t tail_stream)
{
	struct cfs_journal *j = fs->journal;
	struct cfs_journal_head *h = xaligned(CFS_BLOCK, sizeof(*h));
	int rc;

	h->slot = le16_of((uint16_t)fs->slot);
	h->epoch = le32_of(fs->epoch);
	h->tail = le64_of(tail_block);
	h->stream = le64_of(tail_stream);
	cfs_block_seal(h, CFS_T_JOURNAL_HEAD, fs->id, j->vbn);
	rc = cfs_write(fs, j->vbn, h, sizeof(*h), BLK_FUA);
	free(h);
	return rc;
}

/* --- one batch -------------------------------------------------------------------------------------- */

static void fill_block(struct cfs *fs, struct cfs_journal_block *b, uint64_t number, uint64_t first,
		       uint64_t stream, size_t used, bool last)
{
	struct cfs_journal *j = fs->journal;

	memset(b, 0, sizeof(*b));
	b->head.sequence = le64_of(number);
	b->epoch = le32_of(fs->epoch);
	b->slot = le16_of((uint16_t)fs->slot);
	b->flags = le16_of(last ? CFS_JOURNAL_END : 0);
	b->used = le16_of((uint16_t)used);
	b->stream = le64_of(stream);
	b->batch = le64_of(first);
	cfs_tail_get(&j->tail, stream, b->payload, used);
	cfs_block_seal(b, CFS_T_JOURNAL, fs->id, ring_vbn(j, number));
}

/* Writes the stream's bytes [from, to) as one batch; *blocks counts what it took. */
static int write_batch(struct cfs *fs, uint64_t from, uint64_t to, uint64_t *blocks)
{
	struct cfs_journal *j = fs->journal;
	struct cfs_journal_block *chunk = xaligned(CFS_BLOCK, WRITE_CHUNK * CFS_BLOCK);
	uint64_t first = j->next_block, number = first;
	int rc = 0;

	while (from < to && rc == 0) {
		uint64_t vbn = ring_vbn(j, number);
		unsigned n = 0;

		while (from < to && n < WRITE_CHUNK && ring_vbn(j, number) == vbn + n) {
			size_t used = (size_t)MIN(to - from, CFS_JOURNAL_PAYLOAD);

			fill_block(fs, &chunk[n++], number++, first, from, used, from + used == to);
			from += used;
		}
		rc = cfs_write(fs, vbn, chunk, n * CFS_BLOCK, BLK_FUA);
	}
	free(chunk);
	*blocks = number - first;
	return rc;
}

/* Journal mutex held. */
static void wake_waiters(struct cfs_journal *j)
{
	pthread_cond_broadcast(&j->room);
	while (!list_empty(&j->room_waiters)) {
		struct cfs_room_waiter *w = list_first(&j->room_waiters, struct cfs_room_waiter,
						       link);

		list_del(&w->link);
		loop_post(w->loop, w->work);
		free(w);
	}
}

/* Journal mutex held. */
static void wake_room(struct cfs_journal *j)
{
	if (cfs_journal_has_room(j))
		wake_waiters(j);
}

/* Journal mutex held on entry and return; not in between. */
static int commit_once(struct cfs *fs)
{
	struct cfs_journal *j = fs->journal;
	uint64_t from = j->durable, to, blocks = 0;
	int rc;

	do {
		to = j->head;
		pthread_mutex_unlock(&j->lock);
		rc = cfs_flush(fs);
		if (rc == 0)
			rc = cfs_fresh_settle(fs, to);
		pthread_mutex_lock(&j->lock);
	} while (rc == -EAGAIN);
	if (rc == 0 && to > from) {
		pthread_mutex_unlock(&j->lock);
		rc = write_batch(fs, from, to, &blocks);
		pthread_mutex_lock(&j->lock);
	}
	if (rc < 0 || to == from)
		return rc;
	struct cfs_batch *batch = xcalloc(1, sizeof(*batch));

	batch->stream = from;
	batch->block = j->next_block;
	list_add_tail(&j->batches, &batch->link);
	j->next_block += blocks;
	j->durable = to;
	atomic_store(&j->tail.page->durable, to);
	wake_room(j);
	return 0;
}

static void finish(struct cfs_commit *first, int rc)
{
	while (first) {
		struct cfs_commit *next = first->next;

		first->done(first, rc);
		first = next;
	}
}

static bool wait_work(struct cfs_journal *j)
{
	struct timespec until = clock_in_ms(COMMIT_INTERVAL_MS);

	while (!j->commits && !j->want_commit && !j->stopping) {
		if (pthread_cond_clockwait(&j->wake_commit, &j->lock, CLOCK_MONOTONIC, &until) ==
		    ETIMEDOUT)
			return j->head != j->durable;
	}
	return j->commits || j->want_commit || j->head != j->durable;
}

static void *commit_main(void *arg)
{
	struct cfs *fs = arg;
	struct cfs_journal *j = fs->journal;

	pthread_mutex_lock(&j->lock);
	for (;;) {
		struct cfs_commit *commits;
		int rc;

		if (atomic_load(&fs->dead)) /* no room will come: who waits for it gives up */
			wake_waiters(j);
		if (!wait_work(j)) {
			if (j->stopping)
				break;
			continue;
		}
		commits = j->commits;
		j->commits = NULL;
		j->commits_last = &j->commits;
		j->want_commit = false;
		j->commits_begun++;
		rc = commit_once(fs);
		j->commits_ended = j->commits_begun;
		j->error = rc;
		pthread_cond_broadcast(&j->committed);
		pthread_mutex_unlock(&j->lock);
		if (rc < 0)
			log_warn("cfs", "volume %s: commit: %s", fs->name, err_message(rc));
		finish(commits, rc);
		if (rc < 0 && !j->stopping)
			sleep_ms(100); /* a lapsed lease, a lost path: not in a tight loop */
		pthread_mutex_lock(&j->lock);
		if (rc < 0 && j->stopping)
			break;
	}
	pthread_mutex_unlock(&j->lock);
	return NULL;
}

/* --- asking for commits --------------------------------------------------------------------------------- */

void cfs_commit(struct cfs *fs, struct cfs_commit *commit)
{
	struct cfs_journal *j = fs->journal;

	commit->next = NULL;
	pthread_mutex_lock(&j->lock);
	*j->commits_last = commit;
	j->commits_last = &commit->next;
	pthread_cond_signal(&j->wake_commit);
	pthread_mutex_unlock(&j->lock);
}

int cfs_commit_wait(struct cfs *fs)
{
	struct cfs_journal *j = fs->journal;
	uint64_t mine;
	int rc;

	pthread_mutex_lock(&j->lock);
	mine = j->commits_begun + 1; /* the next to begin covers all that was answered before */
	j->want_commit = true;
	pthread_cond_signal(&j->wake_commit);
	while (j->commits_ended < mine && j->threads && !fs->dead)
		pthread_cond_wait(&j->committed, &j->lock);
	rc = j->commits_ended < mine ? -ESTALE : j->error;
	pthread_mutex_unlock(&j->lock);
	return rc < 0 ? fail(rc, "volume %s: cannot commit: %s", fs->name, strerror(-rc)) : 0;
}

uint64_t cfs_durable(struct cfs *fs)
{
	struct cfs_journal *j = fs->journal;
	uint64_t at;

	pthread_mutex_lock(&j->lock);
	at = j->durable;
	pthread_mutex_unlock(&j->lock);
	return at;
}

uint64_t cfs_journal_passed(struct cfs *fs)
{
	struct cfs_journal *j = fs->journal;
	uint64_t at;

	pthread_mutex_lock(&j->lock);
	at = j->tail_stream;
	pthread_mutex_unlock(&j->lock);
	return at;
}

void cfs_journal_when_room(struct cfs *fs, struct loop *loop, struct loop_work *work)
{
	struct cfs_journal *j = fs->journal;
	struct cfs_room_waiter *w = xcalloc(1, sizeof(*w));

	w->loop = loop;
	w->work = work;
	pthread_mutex_lock(&j->lock);
	list_add_tail(&j->room_waiters, &w->link);
	wake_room(j); /* there may be room by now */
	pthread_mutex_unlock(&j->lock);
}

/* --- the tail of the journal ------------------------------------------------------------------------------- */

/* Journal mutex held: where replay has to begin; forgets older batches. */
static void find_tail(struct cfs_journal *j, uint64_t *block, uint64_t *stream)
{
	uint64_t needed = j->durable;
	struct cfs_buf *b;

	list_for_each (b, &j->dirty, dirty_link)
		needed = MIN(needed, b->first_stream);
	*block = j->next_block;
	*stream = j->durable;
	for (struct list *l = j->batches.prev; l != &j->batches; l = l->prev) {
		struct cfs_batch *batch = list_entry(l, struct cfs_batch, link);

		if (*stream <= needed)
			break;
		*block = batch->block;
		*stream = batch->stream;
	}
}

int cfs_journal_trim(struct cfs *fs)
{
	struct cfs_journal *j = fs->journal;
	uint64_t block, stream;
	int rc;

	pthread_mutex_lock(&j->lock);
	find_tail(j, &block, &stream);
	wake_room(j); /* fewer blocks are dirty now */
	pthread_mutex_unlock(&j->lock);
	if (block == j->tail_block)
		return 0;
	rc = cfs_journal_write_head(fs, block, stream);
	if (rc < 0)
		return rc;
	pthread_mutex_lock(&j->lock);
	j->tail_block = block;
	j->tail_stream = stream;
	while (!list_empty(&j->batches)) {
		struct cfs_batch *batch = list_first(&j->batches, struct cfs_batch, link);

		if (batch->block >= block)
			break;
		list_del(&batch->link);
		free(batch);
	}
	wake_room(j);
	pthread_mutex_unlock(&j->lock);
	return 0;
}

/* --- life --------------------------------------------------------------------------------------------------- */

uint32_t cfs_journal_blocks(const struct cfs *fs)
{
	uint64_t bytes = 0;

	for (unsigned e = 0; e < fs->extents; e++)
		bytes += fs->span[e].blocks * CFS_BLOCK;
	bytes = MIN(MAX(bytes / 1024, 256 * KiB), 64 * MiB);
	/* In one piece within one group, with room left for that group's own metadata. */
	bytes = MIN(bytes, (uint64_t)fs->group_units * CFS_UNIT / 4);
	return (uint32_t)(ROUND_UP(bytes, CFS_UNIT) / CFS_BLOCK);
}

int cfs_journal_format(struct cfs *fs, uint64_t vbn, uint32_t blocks)
{
	size_t chunk_blocks = MIN(blocks, 256u);
	uint8_t *chunk = xaligned(CFS_BLOCK, chunk_blocks * CFS_BLOCK);
	struct cfs_journal_head *h = (void *)chunk;
	uint64_t power = cfs_power(fs);
	int rc = 0;

	/* Non-zero, so that a thin array has the space and cannot run full under a commit. */
	memset(chunk, 0x4a, chunk_blocks * CFS_BLOCK);
	for (uint32_t b = 0; b < blocks && rc == 0; b += (uint32_t)chunk_blocks)
		rc = cfs_write(fs, vbn + b, chunk, MIN(chunk_blocks, blocks - b) * CFS_BLOCK, 0);
	/* A head of no epoch: who dies before his first one leaves nothing to replay, not damage. */
	memset(h, 0, sizeof(*h));
	h->slot = le16_of((uint16_t)fs->slot);
	cfs_block_seal(h, CFS_T_JOURNAL_HEAD, fs->id, vbn);
	if (rc == 0)
		rc = cfs_write(fs, vbn, h, sizeof(*h), 0);
	free(chunk);
	return rc < 0 ? rc : cfs_flush_since(fs, power);
}

static struct cfs_journal *journal_create(struct cfs *fs, uint64_t vbn, uint32_t blocks)
{
	struct cfs_journal *j = xcalloc(1, sizeof(*j));

	j->fs = fs;
	pthread_mutex_init(&j->lock, NULL);
	pthread_mutex_init(&j->checkpoint_lock, NULL);
	pthread_cond_init(&j->room, NULL);
	pthread_cond_init(&j->committed, NULL);
	pthread_cond_init(&j->wake_commit, NULL);
	pthread_cond_init(&j->wake_checkpoint, NULL);
	list_init(&j->batches);
	list_init(&j->dirty);
	list_init(&j->room_waiters);
	j->commits_last = &j->commits;
	j->scratch = xmalloc(CFS_TXN_MAX_BYTES);
	cfs_fresh_create(fs, &j->fresh);
	j->vbn = vbn;
	j->blocks = blocks;
	return j;
}

static void journal_free(struct cfs_journal *j)
{
	while (!list_empty(&j->batches)) {
		struct cfs_batch *b = list_first(&j->batches, struct cfs_batch, link);

		list_del(&b->link);
		free(b);
	}
	cfs_fresh_destroy(j->fresh);
	free(j->scratch);
	free(j);
}

/*
 * A daemon that goes on in its epoch: the journal first, then what the tail holds behind it
 * (answered, never made durable). Both written in place before anything else happens, but for the data that
 * the tail's records name (INV-FS-2).
 */
static int replay_own(struct cfs *fs, struct cfs_log *log, bool tail_matches)
{
	struct cfs_journal *j = fs->journal;
	uint64_t end = log->start + log->bytes, head = atomic_load(&j->tail.page->head);

	if (tail_matches && head > end && head - end <= CFS_TAIL_BYTES) {
		size_t more = (size_t)(head - end);
		int rc = cfs_flush(fs);

		if (rc < 0)
			return rc;
		log->stream = xrealloc(log->stream, log->bytes + more);
		cfs_tail_get(&j->tail, end, log->stream + log->bytes, more);
		log->bytes += more;
		log_info("cfs", "volume %s: %zu bytes of the tail replayed", fs->name, more);
	}
	return cfs_log_apply(fs, log, NULL, NULL);
}

static int load_journal(struct cfs *fs, bool resumed, uint64_t vbn, uint32_t blocks)
{
	struct cfs_journal *j = fs->journal;
	struct cfs_journal_head *h = xaligned(CFS_BLOCK, sizeof(*h));
	struct cfs_log log = {0};
	bool matches;
	int rc;

	rc = cfs_tail_open(fs, &j->tail, &matches);
	if (rc < 0)
		goto out;
	rc = cfs_read(fs, vbn, h, sizeof(*h));
	if (rc < 0)
		goto out;
	if (cfs_block_check(h, CFS_T_JOURNAL_HEAD, fs->id, vbn) < 0) {
		if (resumed && matches && j->tail.page->head > 0) {
			rc = fail(-EUCLEAN,
				  "volume %s: the journal's head is damaged; run volume check",
				  fs->name);
			goto out;
		}
		err_clear(); /* a fresh journal */
	} else {
		/* Whatever its epoch: recovery replayed it, its numbers go on. */
		rc = cfs_log_read(fs, fs->slot, le32_get(h->epoch), vbn, blocks, &log);
		/* Another epoch's: killed before the first head of this one, nothing is in it. */
		if (rc == 0 && resumed && le32_get(h->epoch) == fs->epoch)
			rc = replay_own(fs, &log, matches);
		j->next_block = log.next_block + blocks; /* never a number that was in use */
		j->head = log.start + log.bytes;
	}
	if (rc == 0) {
		j->durable = j->tail_stream = j->head;
		j->tail_block = j->next_block;
		rc = cfs_journal_write_head(fs, j->tail_block, j->tail_stream);
		atomic_store(&j->tail.page->durable, j->durable);
		atomic_store(&j->tail.page->head, j->head);
	}
out:
	free(log.stream);
	free(h);
	return rc;
}

int cfs_journal_start(struct cfs *fs, bool resumed)
{
	uint64_t vbn;
	uint32_t blocks;
	int rc;

	cfs_slot_journal(fs, fs->slot, &vbn, &blocks);
	MUST(vbn != 0);
	if (blocks < 16 || !cfs_vbn_valid(fs, vbn) || !cfs_vbn_valid(fs, vbn + blocks - 1))
		return fail(-EUCLEAN,
			    "volume %s: slot %u names no journal that can be; run volume check",
			    fs->name, fs->slot);
	fs->journal = journal_create(fs, vbn, blocks);
	rc = load_journal(fs, resumed, vbn, blocks);
	if (rc < 0) {
		cfs_tail_close(&fs->journal->tail, false, fs);
		journal_free(fs->journal);
		fs->journal = NULL;
		return rc;
	}
	fs->journal->threads = true;
	rc = pthread_create(&fs->journal->commit_thread, NULL, commit_main, fs);
	MUST(rc == 0);
	rc = pthread_create(&fs->journal->checkpoint_thread, NULL, cfs_checkpoint_main, fs);
	MUST(rc == 0);
	return 0;
}

int cfs_journal_stop(struct cfs *fs, bool abandon)
{
	struct cfs_journal *j = fs->journal;
	int rc = 0;

	if (!j)
		return 0;
	if (!abandon)
		rc = cfs_checkpoint(fs, NULL, 0);
	pthread_mutex_lock(&j->lock);
	j->stopping = true;
	pthread_cond_broadcast(&j->wake_commit);
	pthread_cond_broadcast(&j->wake_checkpoint);
	pthread_cond_broadcast(&j->room);
	pthread_mutex_unlock(&j->lock);
	pthread_join(j->commit_thread, NULL);
	pthread_join(j->checkpoint_thread, NULL);
	/* Nothing answered is left in the tail once everything is in place. */
	cfs_tail_close(&j->tail, !abandon && rc == 0, fs);
	journal_free(j);
	fs->journal = NULL;
	return rc;
}
