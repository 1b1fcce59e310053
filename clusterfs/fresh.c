// SPDX-License-Identifier: Apache-2.0
/* fresh.c: a list of first writes in the order of the stream, and what a commit does with it. */
#include "clusterfs/fresh.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/checksum.h"
#include "base/err.h"
#include "base/log.h"
#include "clusterfs/journal.h"
#include "clusterfs/map.h"

/* A record of an entry, and its share of the transaction it lies in. */
#define UNDO_BYTES (sizeof(struct cfs_record) + sizeof(struct cfs_map_entry) + 8)
/* So many, and a commit is begun: a pass over them takes the journal mutex. */
#define MANY 8192u

struct first {
	struct cfs_carrier *carrier; /* NULL: it has left */
	uint64_t power;
	uint64_t witness;     /* once it has left */
	uint64_t stream;      /* where its transaction begins */
	uint64_t leaf, block; /* vbns; the leaf is dirty, so it is in memory */
	uint32_t state;	      /* the grains */
	uint8_t slot, extent;
	bool settled;  /* in this commit: it goes from the list */
	bool again;    /* no first write: what is in those sectors since */
	bool checked;  /* it was there when the flushing session's count was `witness` */
	uint32_t lost; /* of `state`, what was not */
	uint64_t have[CFS_UNIT_SECTORS / 64]; /* sectors, a bit each */
	uint64_t *sum;			      /* theirs, in order */
};

struct cfs_fresh {
	struct cfs_carrier *proving; /* NULL: none, or its answer is there */
	uint64_t witness, power;     /* before that began */
	int proof;		     /* how it ended */
	pthread_cond_t proved;
	struct first *v;
	size_t n, size, firsts;
	_Atomic uint64_t undone;
	_Atomic uint64_t rounds; /* commits that settled what was logged before them */
	struct cfs_carrier service[CFS_MAX_EXTENTS];
};

void cfs_fresh_create(struct cfs *fs, struct cfs_fresh **out)
{
	struct cfs_fresh *f = xcalloc(1, sizeof(*f));

	pthread_cond_init(&f->proved, NULL);
	for (unsigned e = 0; e < CFS_MAX_EXTENTS; e++)
		cfs_carrier_init(&f->service[e], fs, e, NULL, NULL);
	*out = f;
}

void cfs_fresh_destroy(struct cfs_fresh *f)
{
	pthread_cond_destroy(&f->proved);
	for (size_t i = 0; i < f->n; i++)
		free(f->v[i].sum);
	free(f->v);
	free(f);
}

uint64_t cfs_fresh_room(const struct cfs_fresh *f)
{
	return f->firsts * UNDO_BYTES;
}

bool cfs_fresh_many(const struct cfs_fresh *f)
{
	return f->n > MANY;
}

uint64_t cfs_fresh_undone(const struct cfs *fs)
{
	return atomic_load(&fs->journal->fresh->undone);
}

/* --- carriers --------------------------------------------------------------------------------------- */

void cfs_carrier_init(struct cfs_carrier *c, struct cfs *fs, unsigned extent, struct blk_chan *chan,
		      void (*prove)(struct cfs_carrier *c))
{
	c->fs = fs;
	c->extent = extent;
	c->chan = chan;
	c->prove = prove;
	if (chan)
		c->witness = blk_session_count(fs->extent[extent]);
}

struct cfs_carrier *cfs_carrier_service(const struct cfs *fs, unsigned extent)
{
	return &fs->journal->fresh->service[extent];
}

uint64_t cfs_carrier_power(const struct cfs_carrier *c)
{
	return c->chan ? blk_chan_power_count(c->chan) : blk_power_count(c->fs->extent[c->extent]);
}

bool cfs_carrier_leave(struct cfs_carrier *c)
{
	struct cfs_journal *j = c->fs->journal;
	uint64_t power;
	bool free_to_go;

	pthread_mutex_lock(&j->lock);
	free_to_go = j->fresh->proving != c;
	power = cfs_carrier_power(c);
	for (size_t i = 0; i < j->fresh->n && free_to_go; i++) {
		struct first *w = &j->fresh->v[i];

		if (w->carrier != c)
			continue;
		w->carrier = NULL;
		w->witness = w->power == power ? c->witness : UINT64_MAX; /* lost already */
	}
	pthread_mutex_unlock(&j->lock);
	return free_to_go;
}

void cfs_carrier_proved(struct cfs_carrier *c, int res)
{
	struct cfs_journal *j = c->fs->journal;
	struct cfs_fresh *f = j->fresh;

	pthread_mutex_lock(&j->lock);
	MUST(f->proving == c);
	if (res == 0)
		c->witness = f->witness;
	/* Whether it is lost is known now; then there is no need to ask again. */
	f->proof = f->power == cfs_carrier_power(c) ? res : 0;
	f->proving = NULL;
	pthread_cond_broadcast(&f->proved);
	pthread_mutex_unlock(&j->lock);
}

/* Of two values of cfs_carrier.waiting. */
static uint64_t older(uint64_t a, uint64_t b)
{
	return a && a < b ? a : b;
}

/* --- what is told ---------------------------------------------------------------------------------- */

void cfs_sums_add(struct cfs_sums *s, unsigned sector, const void *data)
{
	s->have[sector / 64] |= 1ULL << (sector % 64);
	s->sum[s->n++] = checksum64(data, CFS_SECTOR);
}

static void keep_sums(struct first *w, const struct cfs_sums *sums)
{
	static_assert(sizeof(w->have) == sizeof(sums->have), "sectors");
	memcpy(w->have, sums->have, sizeof(w->have));
	w->sum = xmalloc((sums->n + 1) * sizeof(*w->sum));
	memcpy(w->sum, sums->sum, sums->n * sizeof(*w->sum));
}

/* What it says is in sector `s`. */
static bool says(const struct first *w, unsigned s, uint64_t sum)
{
	unsigned word = s / 64, rank = 0;
	uint64_t bit = 1ULL << (s % 64);

	if (!(w->have[word] & bit))
		return false;
	for (unsigned i = 0; i < word; i++)
		rank += (unsigned)__builtin_popcountll(w->have[i]);
	rank += (unsigned)__builtin_popcountll(w->have[word] & (bit - 1));
	return w->sum[rank] == sum;
}

bool cfs_fresh_matters(const struct cfs *fs, unsigned extent)
{
	return blk_info(fs->extent[extent])->write_cache;
}

/* Journal mutex held. */
static void append(struct cfs_fresh *f, const struct first *w)
{
	if (f->n == f->size) {
		f->size = f->size ? 2 * f->size : 256;
		f->v = xrealloc(f->v, f->size * sizeof(*f->v));
	}
	f->v[f->n++] = *w;
	f->firsts += !w->again;
}

void cfs_fresh_add(struct cfs_txn *txn, struct cfs_carrier *c, uint64_t power, struct cfs_buf *leaf,
		   unsigned slot, uint64_t block, uint32_t state, const struct cfs_sums *sums)
{
	struct cfs_journal *j = txn->fs->journal;
	struct cfs_fresh *f = j->fresh;
	struct first w = {
		.carrier = c,
		.power = power,
		.stream = j->head,
		.leaf = leaf->vbn,
		.block = block,
		.state = state,
		.slot = (uint8_t)slot,
		.extent = (uint8_t)c->extent,
	};

	if (!state || !cfs_fresh_matters(txn->fs, c->extent))
		return;
	keep_sums(&w, sums);
	append(f, &w);
	atomic_store(&leaf->fresh, 1 + atomic_load(&f->rounds));
	/* Not always in the order of counts: one that was under way when a cache was lost comes late. */
	atomic_store(&c->waiting, older(atomic_load(&c->waiting), 1 + power));
}

/* One round may have begun before it was logged; the next one settles it. */
bool cfs_fresh_leaf(const struct cfs *fs, const struct cfs_buf *leaf)
{
	uint64_t since = atomic_load_explicit(&leaf->fresh, memory_order_relaxed);

	return since && 1 + atomic_load(&fs->journal->fresh->rounds) - since < 2;
}

void cfs_fresh_again(struct cfs *fs, unsigned extent, uint64_t block, const struct cfs_sums *sums)
{
	struct cfs_journal *j = fs->journal;
	struct first w = {.block = block, .extent = (uint8_t)extent, .again = true};

	keep_sums(&w, sums);
	pthread_mutex_lock(&j->lock);
	w.stream = j->head;
	append(j->fresh, &w);
	if (!j->want_commit && cfs_fresh_many(j->fresh)) {
		j->want_commit = true;
		pthread_cond_signal(&j->wake_commit);
	}
	pthread_mutex_unlock(&j->lock);
}

/* --- a commit ----------------------------------------------------------------------------------------- */

static bool is_lost(struct cfs *fs, const struct first *w)
{
	if (w->again)
		return false;
	if (w->carrier && !w->checked)
		return w->power != cfs_carrier_power(w->carrier);
	return w->witness != blk_session_count(fs->extent[w->extent]);
}

/* The flush went by another session, which did not stand all the while. */
static bool wants_proof(struct cfs *fs, const struct first *w)
{
	return w->carrier && !w->checked && w->carrier->chan &&
	       w->carrier->witness != blk_session_count(fs->extent[w->extent]);
}

/* Mutex held; let go while the flush is under way. The carrier may be gone afterwards. */
static int prove(struct cfs *fs, struct cfs_carrier *c)
{
	struct cfs_journal *j = fs->journal;
	struct cfs_fresh *f = j->fresh;

	f->witness = blk_session_count(fs->extent[c->extent]);
	f->power = cfs_carrier_power(c);
	f->proving = c;
	c->prove(c);
	while (f->proving)
		pthread_cond_wait(&f->proved, &j->lock);
	return f->proof;
}

/* --- what may be lost is read back ------------------------------------------------------------------- */

/* Whether a write that has ended left this in the sector: the first one, or one since. */
static bool is_known(const struct first *v, size_t n, const struct first *w, unsigned s,
		     const uint8_t *data)
{
	uint64_t sum = checksum64(data, CFS_SECTOR);

	if (says(w, s, sum))
		return true;
	for (size_t i = 0; i < n; i++)
		if (v[i].block == w->block && v[i].again && says(&v[i], s, sum))
			return true;
	return false;
}

static bool is_grain_known(const struct first *v, size_t n, const struct first *w, unsigned g,
			   const uint8_t *unit)
{
	for (unsigned s = g * CFS_GRAIN_SECTORS; s < (g + 1) * CFS_GRAIN_SECTORS; s++)
		if (!is_known(v, n, w, s, unit + (size_t)s * CFS_SECTOR))
			return false;
	return true;
}

/* The grains that are not what was written; `unit` is room for one. */
static int read_back(struct cfs *fs, const struct first *v, size_t n, const struct first *w,
		     uint8_t *unit, uint32_t *lost)
{
	int rc = blk_read(fs->extent[w->extent], cfs_vbn_block(w->block) * CFS_BLOCK, unit,
			  (size_t)CFS_UNIT_BLOCKS * CFS_BLOCK);

	*lost = rc == -EIO ? w->state : 0; /* a bad medium: whatever it was, it is not there */
	for (unsigned g = 0; g < CFS_UNIT_BLOCKS && rc == 0; g++) {
		uint32_t bit = (uint32_t)CFS_GRAIN_BLOCK << (2 * g);

		if ((w->state & bit) && !is_grain_known(v, n, w, g, unit))
			*lost |= bit;
	}
	return rc == -EIO ? 0 : rc;
}

/* Mutex held, let go while reading; only this thread takes from the list. */
static int check_one(struct cfs *fs, const struct first *v, size_t n, size_t i, uint8_t *unit)
{
	struct cfs_journal *j = fs->journal;
	struct cfs_fresh *f = j->fresh;
	uint64_t witness = blk_session_count(fs->extent[f->v[i].extent]);
	uint64_t power = f->v[i].carrier ? cfs_carrier_power(f->v[i].carrier) : 0;
	struct first w = f->v[i];
	uint32_t lost;
	int rc;

	pthread_mutex_unlock(&j->lock);
	rc = read_back(fs, v, n, &w, unit, &lost);
	pthread_mutex_lock(&j->lock);
	if (rc < 0)
		return rc;
	f->v[i].lost = lost;
	f->v[i].checked = true;
	f->v[i].witness = witness;
	f->v[i].power = power;
	return 0;
}

/*
 * Mutex held, let go meanwhile. What may be lost and is there is from now on as good as written by the flushing
 * session; the rest is marked. How many, or an error: not known yet.
 */
static int check_lost(struct cfs *fs)
{
	struct cfs_fresh *f = fs->journal->fresh;
	size_t n = f->n;
	struct first *v = NULL;
	uint8_t *unit = NULL;
	int rc = 0, checked = 0;

	for (size_t i = 0; i < n && rc == 0; i++) {
		if (f->v[i].lost || !is_lost(fs, &f->v[i]))
			continue;
		if (!v) {
			unit = xaligned(CFS_BLOCK, (size_t)CFS_UNIT_BLOCKS * CFS_BLOCK);
			v = xmalloc(n * sizeof(*v));
			memcpy(v, f->v, n * sizeof(*v));
		}
		rc = check_one(fs, v, n, i, unit);
		checked++;
	}
	free(v);
	free(unit);
	return rc < 0 ? rc : checked;
}

static void undo(struct cfs_txn *txn, const struct first *w)
{
	struct cfs_buf *leaf = cfs_buf_peek(txn->fs, w->leaf);
	struct cfs_entry e;

	if (leaf && leaf->dirty && !leaf->freed && leaf->type == CFS_T_MAP_LEAF) {
		cfs_leaf_entry(leaf, w->slot, &e);
		/* Both bits of each grain: below a unit of its own a grain cannot be. */
		if (e.block == w->block && (e.state & w->lost))
			cfs_leaf_clear(txn, leaf, w->slot, w->lost | w->lost << 1);
	}
	cfs_buf_put(txn->fs, leaf);
}

/*
 * Mutex held, and again on return. What is lost and fits into one transaction; true if there was any. The
 * room was kept back (cfs_fresh_room).
 */
static bool undo_some(struct cfs *fs)
{
	struct cfs_journal *j = fs->journal;
	struct cfs_fresh *f = j->fresh;
	unsigned n = 0;
	struct cfs_txn txn;

	for (size_t i = 0; i < f->n; i++) {
		struct first *w = &f->v[i];

		if (w->settled || !w->lost)
			continue;
		if (!n)
			cfs_txn_begin_kept(fs, &txn);
		else if (!cfs_txn_fits(&txn, 1))
			break;
		n++;
		undo(&txn, w);
		w->state &= ~w->lost;
		w->lost = 0;
		w->settled = !w->state;
		if (w->carrier)
			atomic_fetch_add(&w->carrier->undone, 1);
	}
	if (!n)
		return false;
	atomic_fetch_add(&f->undone, 1);
	log_warn("cfs", "volume %s: a LUN has lost its write cache: %u first writes are undone",
		 fs->name, n);
	cfs_txn_end(&txn);
	pthread_mutex_lock(&j->lock);
	return true;
}

/* Mutex held: what is settled leaves the list; carriers know what is left of theirs. */
static void retire(struct cfs_fresh *f)
{
	size_t n = 0;

	for (size_t i = 0; i < f->n; i++)
		if (f->v[i].carrier)
			f->v[i].carrier->next = 0;
	for (size_t i = 0; i < f->n; i++)
		if (f->v[i].carrier && !f->v[i].settled)
			f->v[i].carrier->next = older(f->v[i].carrier->next, 1 + f->v[i].power);
	for (size_t i = 0; i < f->n; i++) {
		const struct first *w = &f->v[i];

		if (w->carrier)
			atomic_store(&w->carrier->waiting, w->carrier->next);
		if (!w->settled) {
			f->v[n++] = *w;
			continue;
		}
		f->firsts -= !w->again;
		free(w->sum);
	}
	f->n = n;
}

/* Mutex held: the carrier of something before `to` whose session may be dead, unseen. */
static struct cfs_carrier *unproved(struct cfs *fs, uint64_t to)
{
	const struct cfs_fresh *f = fs->journal->fresh;

	for (size_t i = 0; i < f->n && f->v[i].stream < to; i++)
		if (wants_proof(fs, &f->v[i]) && !is_lost(fs, &f->v[i]))
			return f->v[i].carrier;
	return NULL;
}

int cfs_fresh_settle(struct cfs *fs, uint64_t to)
{
	struct cfs_journal *j = fs->journal;
	struct cfs_fresh *f = j->fresh;
	struct cfs_carrier *c;
	int rc = 0;

	pthread_mutex_lock(&j->lock);
	while (rc == 0 && (c = unproved(fs, to)))
		rc = prove(fs, c);
	if (rc == 0)
		rc = check_lost(fs);
	while (rc > 0 && undo_some(fs))
		;
	for (size_t i = 0; i < f->n && f->v[i].stream < to && rc == 0; i++)
		f->v[i].settled = true;
	if (rc == 0)
		atomic_fetch_add(&f->rounds, 1);
	retire(f);
	pthread_mutex_unlock(&j->lock);
	if (rc < 0)
		return fail_prefix(rc, "volume %s: a session that carried data", fs->name);
	return rc > 0 ? -EAGAIN : 0;
}
