// SPDX-License-Identifier: Apache-2.0
/*
 * group.c: which groups this host holds, what is free in them, bits in transactions; and the thread
 * that refills stocks and gives groups back that others wish for.
 */
#include "clusterfs/groups.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"

#define AHEAD_AGAIN_MS 1000u /* no free group was found: not in a tight loop */

/* --- where things lie ---------------------------------------------------------------------------------- */

struct group *group_at(struct cfs *fs, uint64_t vbn)
{
	return group_nth(fs->groups, cfs_group_of(fs, vbn));
}

uint32_t group_unit(const struct group *g, uint64_t vbn)
{
	uint64_t unit = (vbn - g->vbn) / CFS_UNIT_BLOCKS;

	MUST(vbn >= g->vbn && unit < g->units);
	return (uint32_t)unit;
}

uint64_t group_unit_vbn(const struct group *g, uint32_t unit)
{
	return g->vbn + (uint64_t)unit * CFS_UNIT_BLOCKS;
}

static unsigned extent_groups(const struct cfs *fs, unsigned e)
{
	return (unsigned)(fs->span[e].groups >> 32);
}

unsigned cfs_group_count(struct cfs *fs)
{
	unsigned n = 0;

	for (unsigned e = 0; e < fs->extents; e++)
		n += extent_groups(fs, e);
	return n;
}

void cfs_group_place(struct cfs *fs, unsigned g, uint64_t *vbn, uint32_t *units)
{
	for (unsigned e = 0; e < fs->extents; e++) {
		uint64_t groups = fs->span[e].groups;
		unsigned n = (unsigned)(groups >> 32);

		if (g < n) {
			*vbn = cfs_vbn(e, CFS_GROUPS +
						  (uint64_t)g * fs->group_units * CFS_UNIT_BLOCKS);
			*units = g == n - 1 ? (uint32_t)groups : fs->group_units;
			return;
		}
		g -= n;
	}
	MUST(!"a group that is there");
}

unsigned cfs_group_of(struct cfs *fs, uint64_t vbn)
{
	unsigned first = 0, extent = cfs_vbn_extent(vbn);

	for (unsigned e = 0; e < extent; e++)
		first += extent_groups(fs, e);
	return first + (unsigned)((cfs_vbn_block(vbn) - CFS_GROUPS) /
				  ((uint64_t)fs->group_units * CFS_UNIT_BLOCKS));
}

/* --- memory: taken or not -------------------------------------------------------------------------------- */

uint32_t group_take_run(struct group *g, uint32_t want, uint32_t keep, uint32_t *unit)
{
	uint32_t i = g->hint < g->units ? g->hint : 0, seen = 0, n = 0;

	if (g->mem_free <= keep)
		return 0;
	want = MIN(want, g->mem_free - keep);
	while (seen < g->units && bit_get(g->taken, i)) {
		if (i % 8 == 0 && g->taken[i / 8] == 0xff && i + 8 <= g->units) {
			i += 8;
			seen += 8;
		} else {
			i++;
			seen++;
		}
		if (i >= g->units)
			i = 0;
	}
	if (seen >= g->units)
		return 0;
	*unit = i;
	while (n < want && i < g->units && !bit_get(g->taken, i)) {
		bit_put(g->taken, i++, true);
		n++;
	}
	g->mem_free -= n;
	g->hint = i;
	return n;
}

void group_untake(struct group *g, uint32_t unit, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		MUST(bit_get(g->taken, unit + i));
		bit_put(g->taken, unit + i, false);
	}
	g->mem_free += n;
}

/* --- the disk: bits in transactions ------------------------------------------------------------------------ */

/* Sets bits [unit, unit+n) of a row of bitmap blocks; counts those that changed. */
static uint32_t mark_bits(struct cfs_txn *txn, struct cfs_buf **row, uint32_t unit, uint32_t n,
			  bool on)
{
	uint32_t changed = 0;

	while (n > 0) {
		struct cfs_buf *buf = row[unit / CFS_BITMAP_BITS];
		struct cfs_bitmap *map = (struct cfs_bitmap *)buf->data;
		uint32_t first = unit % CFS_BITMAP_BITS, k = MIN(n, CFS_BITMAP_BITS - first);
		uint32_t before = changed;

		for (uint32_t i = first; i < first + k; i++) {
			if (bit_get(map->bits, i) != on) {
				bit_put(map->bits, i, on);
				changed++;
			}
		}
		if (changed != before)
			cfs_txn_patch(txn, buf, &map->bits[first / 8],
				      (first + k - 1) / 8 - first / 8 + 1);
		unit += k;
		n -= k;
	}
	return changed;
}

static void add_to(le32 *field, int64_t delta)
{
	*field = le32_of((uint32_t)((int64_t)le32_get(*field) + delta));
}

void group_mark(struct cfs_txn *txn, struct group *g, uint32_t unit, uint32_t n, bool taken)
{
	struct cfs_group *h = group_header(g);
	uint32_t changed = mark_bits(txn, g->bitmap, unit, n, taken), reclaim;

	MUST(changed == n); /* a unit has one owner: it is set once, cleared once */
	reclaim = mark_bits(txn, g->reclaim, unit, n, !taken);
	add_to(&h->free_units, taken ? -(int64_t)n : n);
	add_to(&h->reclaim_units, taken ? -(int64_t)reclaim : reclaim);
	cfs_txn_patch(txn, g->header, &h->free_units, 8);
}

void group_pend(struct cfs_txn *txn, uint64_t vbn, uint32_t units, enum cfs_slab_type slab)
{
	struct cfs_groups *gs = txn->fs->groups;
	struct pending *p = xcalloc(1, sizeof(*p));

	p->stream = txn->fs->journal->head;
	p->vbn = vbn;
	p->units = units;
	p->slab = slab;
	pthread_mutex_lock(&gs->pending_lock);
	list_add_tail(&gs->pending, &p->link);
	pthread_mutex_unlock(&gs->pending_lock);
}

void cfs_units_use(struct cfs_txn *txn, uint64_t vbn, uint32_t units)
{
	struct group *g = group_at(txn->fs, vbn);

	MUST(g->held && g->out >= units);
	group_mark(txn, g, group_unit(g, vbn), units, true);
	atomic_fetch_sub(&g->out, units);
}

void cfs_units_free(struct cfs_txn *txn, uint64_t vbn, uint32_t units)
{
	struct group *g = group_at(txn->fs, vbn);

	MUST(g->held && g->out > 0);
	group_mark(txn, g, group_unit(g, vbn), units, false);
	group_pend(txn, vbn, units, CFS_SLAB_FREE);
}

void groups_settle(struct cfs *fs)
{
	struct cfs_groups *gs = fs->groups;
	uint64_t durable = cfs_durable(fs), passed = cfs_journal_passed(fs);
	struct list done = LIST_INIT(done);
	struct pending *p, *tmp;

	pthread_mutex_lock(&gs->lock);
	pthread_mutex_lock(&gs->pending_lock);
	list_for_each_safe (p, tmp, &gs->pending, link) {
		if (p->stream < (p->units ? durable : passed)) {
			list_del(&p->link);
			list_add_tail(&done, &p->link);
		}
	}
	pthread_mutex_unlock(&gs->pending_lock);
	list_for_each_safe (p, tmp, &done, link) {
		struct group *g = group_at(fs, p->vbn);
		uint32_t unit = group_unit(g, p->vbn);

		if (g->held && p->units) {
			group_untake(g, unit, p->units);
		} else if (g->held) {
			cfs_meta_unreserve_locked(g, p->slab, p->vbn);
		}
		free(p);
	}
	pthread_mutex_unlock(&gs->lock);
}

/* --- holding ------------------------------------------------------------------------------------------------- */

static void on_wish(void *arg)
{
	struct group *g = arg;
	struct cfs_groups *gs = g->fs->groups;

	g->wished = true;
	pthread_mutex_lock(&gs->lock);
	pthread_cond_signal(&gs->work);
	pthread_mutex_unlock(&gs->lock);
}

static void put_bufs(struct group *g)
{
	struct cfs *fs = g->fs;

	for (unsigned i = 0; i < g->maps; i++) {
		if (g->bitmap)
			cfs_buf_put(fs, g->bitmap[i]);
		if (g->reclaim)
			cfs_buf_put(fs, g->reclaim[i]);
	}
	cfs_buf_put(fs, g->header);
	free(g->bitmap);
	free(g->reclaim);
	free(g->taken);
	g->header = NULL;
	g->bitmap = g->reclaim = NULL;
	g->taken = NULL;
}

static int check_header(const struct group *g)
{
	const struct cfs_group *h = group_header(g);

	if (le32_get(h->units) > g->units || le32_get(h->meta_units) != g->meta_units ||
	    le32_get(h->free_units) > g->units || le16_get(h->slabs) > CFS_SLABS)
		return fail(-EUCLEAN, "group %u: its header says what cannot be; run volume check",
			    g->number);
	return 0;
}

/*
 * The last group of an extent that grew: its header says less than the label until somebody takes it.
 * Lock's use mutex held. Before the journal is there it stays as it is.
 */
static int extend_header(struct group *g)
{
	struct cfs_group *h = group_header(g);
	uint32_t more = g->units - le32_get(h->units);
	struct cfs_txn txn;
	int rc;

	if (!more)
		return 0;
	if (!cfs_locks_serving(g->fs)) {
		g->units = le32_get(h->units);
		return 0;
	}
	rc = cfs_txn_begin_wait(g->fs, &txn);
	if (rc < 0)
		return rc;
	h->units = le32_of(g->units);
	h->free_units = le32_of(le32_get(h->free_units) + more);
	cfs_txn_patch(&txn, g->header, &h->units, sizeof(h->units));
	cfs_txn_patch(&txn, g->header, &h->free_units, sizeof(h->free_units));
	cfs_txn_end(&txn);
	return 0;
}

static int load_bufs(struct group *g)
{
	struct cfs *fs = g->fs;
	uint64_t at = g->vbn + 2;
	int rc;

	g->bitmap = xcalloc(g->maps, sizeof(*g->bitmap));
	g->reclaim = xcalloc(g->maps, sizeof(*g->reclaim));
	rc = cfs_buf_get(fs, g->vbn + 1, CFS_T_GROUP, g->vbn, &g->header);
	if (rc == 0)
		rc = check_header(g);
	for (unsigned i = 0; i < g->maps && rc == 0; i++)
		rc = cfs_buf_get(fs, at + i, CFS_T_BITMAP, g->vbn, &g->bitmap[i]);
	for (unsigned i = 0; i < g->maps && rc == 0; i++)
		rc = cfs_buf_get(fs, at + g->maps + i, CFS_T_RECLAIM, g->vbn, &g->reclaim[i]);
	return rc;
}

static void load_memory(struct group *g)
{
	const struct cfs_group *h = group_header(g);

	g->taken = xcalloc(1, DIV_ROUND_UP(g->units, 8u));
	g->mem_free = 0;
	for (uint32_t i = 0; i < g->units; i++) {
		const struct cfs_bitmap *map = (const void *)g->bitmap[i / CFS_BITMAP_BITS]->data;
		bool set = bit_get(map->bits, i % CFS_BITMAP_BITS);

		bit_put(g->taken, i, set);
		g->mem_free += !set;
	}
	memset(g->slab_taken, 0, sizeof(g->slab_taken));
	memset(g->slab_hint, 0, sizeof(g->slab_hint));
	for (unsigned i = 0; i < le16_get(h->slabs); i++)
		g->slab_taken[i] = le16_get(h->slab[i].used);
	g->hint = 0;
}

/*
 * What was freed and is not durable yet stays taken when a group is loaded again. A block that the header calls used
 * has another life: others had the group and the inode's lock, and made it a new one, which may be dirty here by now.
 */
static void load_pending(struct group *g)
{
	struct cfs_groups *gs = g->fs->groups;
	struct pending *p, *tmp;

	pthread_mutex_lock(&gs->pending_lock);
	list_for_each_safe (p, tmp, &gs->pending, link) {
		if (group_at(g->fs, p->vbn) != g)
			continue;
		for (uint32_t i = 0; i < p->units; i++) {
			MUST(!bit_get(g->taken, group_unit(g, p->vbn) + i));
			bit_put(g->taken, group_unit(g, p->vbn) + i, true);
			g->mem_free--;
		}
		if (p->units)
			continue;
		if (cfs_meta_used(g, p->slab, p->vbn)) {
			list_del(&p->link);
			free(p);
			continue;
		}
		cfs_meta_reserve_locked(g, p->slab, p->vbn);
	}
	pthread_mutex_unlock(&gs->pending_lock);
}

/*
 * A freed inode that is not in place yet: we hold its lock still, so nobody else can have made it a new
 * one; nor may we before it is in place.
 */
static bool inode_stays(struct cfs *fs, const struct pending *p)
{
	struct cfs_buf *buf;
	bool dirty;

	if (p->units || p->slab != CFS_SLAB_INODE)
		return false;
	buf = cfs_buf_peek(fs, p->vbn);
	dirty = buf && buf->dirty;
	cfs_buf_put(fs, buf);
	return dirty;
}

/*
 * Another host had the group meanwhile, so all that was freed here is durable (INV-FS-5), and it may
 * have taken it again: what the bitmaps say counts.
 */
static void drop_pending(struct group *g)
{
	struct cfs_groups *gs = g->fs->groups;
	struct pending *p, *tmp;

	pthread_mutex_lock(&gs->pending_lock);
	list_for_each_safe (p, tmp, &gs->pending, link) {
		if (group_at(g->fs, p->vbn) != g || inode_stays(g->fs, p))
			continue;
		list_del(&p->link);
		free(p);
	}
	pthread_mutex_unlock(&gs->pending_lock);
}

int group_acquire(struct group *g, unsigned wait_ms)
{
	struct cfs_groups *gs = g->fs->groups;
	struct cfs_lock *lock;
	uint64_t vbn; /* stays what it is */
	bool held;
	int rc = cfs_lock_get(g->fs, g->vbn, CFS_LOCK_EXCLUSIVE, wait_ms, &lock);

	if (rc < 0)
		return rc;
	pthread_mutex_lock(&gs->lock); /* it may be given back just now */
	held = g->held;
	if (held) /* another thread was faster */
		atomic_fetch_add(&g->out, 1);
	pthread_mutex_unlock(&gs->lock);
	if (held) {
		cfs_lock_put(lock);
		return 0;
	}
	if (cfs_lock_fresh(lock))
		drop_pending(g);
	cfs_group_place(g->fs, g->number, &vbn, &g->units); /* it may have grown */
	rc = load_bufs(g);
	if (rc == 0)
		rc = extend_header(g);
	if (rc < 0) {
		put_bufs(g);
		cfs_lock_put(lock);
		return rc;
	}
	pthread_mutex_lock(&gs->lock);
	load_memory(g);
	load_pending(g);
	g->lock = lock;
	g->wished = false;
	g->held = true;
	atomic_fetch_add(&g->out, 1);
	pthread_mutex_unlock(&gs->lock);
	cfs_lock_pin(lock);
	cfs_lock_on_wish(lock, on_wish, g);
	cfs_lock_put(lock);
	return 0;
}

/* Groups mutex held: gives the group back when nothing keeps it. */
static bool try_give_back(struct group *g)
{
	struct cfs_lock *lock = g->lock;

	if (!g->held || g->out != 0)
		return false;
	g->known_free = le32_get(group_header(g)->free_units);
	g->held = false;
	g->wished = false;
	g->lock = NULL;
	put_bufs(g);
	cfs_lock_unpin(lock);
	return true;
}

int cfs_group_hold(struct cfs *fs, unsigned number)
{
	struct cfs_groups *gs = fs->groups;
	struct group *g = group_nth(gs, number);

	pthread_mutex_lock(&gs->lock);
	if (g->held) {
		atomic_fetch_add(&g->out, 1);
		pthread_mutex_unlock(&gs->lock);
		return 0;
	}
	pthread_mutex_unlock(&gs->lock);
	return group_acquire(g, CFS_LOCK_WAIT_MS);
}

void cfs_group_unhold(struct cfs *fs, unsigned number)
{
	struct group *g = group_nth(fs->groups, number);

	MUST(g->out > 0);
	if (atomic_fetch_sub(&g->out, 1) == 1 && g->wished) {
		pthread_mutex_lock(&fs->groups->lock);
		pthread_cond_signal(&fs->groups->work);
		pthread_mutex_unlock(&fs->groups->lock);
	}
}

/* Tries groups from this host's own part of the volume on; those known to be full come last. */
static int acquire_round(struct cfs *fs, uint32_t need, unsigned wait_ms, bool for_meta,
			 bool *again)
{
	struct cfs_groups *gs = fs->groups;
	unsigned start = (unsigned)((uint64_t)fs->slot * gs->count / CFS_MAX_SLOTS);

	for (unsigned i = 0; i < gs->count; i++) {
		struct group *g = group_nth(gs, (start + i) % gs->count);
		uint32_t keep = for_meta ? 0 : group_reserve(g);
		int rc;

		if (g->held || g->known_free < need + keep)
			continue;
		rc = group_acquire(g, wait_ms);
		if (rc == -EBUSY) {
			*again = true;
			continue;
		}
		if (rc == -EUCLEAN) { /* one damaged group does not stop the volume */
			log_error("cfs", "volume %s: group %u is left alone: %s", fs->name,
				  g->number, err_message(rc));
			g->known_free = 0;
			continue;
		}
		if (rc < 0)
			return rc;
		bool enough = g->mem_free >= need + keep;

		cfs_group_unhold(fs, g->number);
		if (enough)
			return 0;
	}
	return -ENOSPC;
}

/* Reads the headers of groups that others hold: what they freed shows there. */
static void refresh_known(struct cfs *fs)
{
	struct cfs_groups *gs = fs->groups;
	struct cfs_group *h = xaligned(CFS_BLOCK, CFS_BLOCK);

	for (unsigned i = 0; i < gs->count; i++) {
		struct group *g = group_nth(gs, i);

		if (g->held)
			continue;
		if (cfs_read(fs, g->vbn + 1, h, CFS_BLOCK) == 0 &&
		    cfs_block_check(h, CFS_T_GROUP, fs->id, g->vbn + 1) == 0)
			g->known_free = le32_get(h->free_units);
		err_clear();
	}
	free(h);
}

int group_acquire_any(struct cfs *fs, uint32_t need, bool for_meta)
{
	struct cfs_groups *gs = fs->groups;
	bool again = false;
	int rc;

	pthread_mutex_lock(&gs->acquire_lock);
	rc = acquire_round(fs, need, 0, for_meta, &again);
	if (rc == -ENOSPC) {
		refresh_known(fs);
		rc = acquire_round(fs, need, again ? 3000 : 0, for_meta, &again);
	}
	pthread_mutex_unlock(&gs->acquire_lock);
	return rc < 0 && rc == -ENOSPC
		       ? fail(rc, "volume %s: full; grow it or delete something", fs->name)
		       : rc;
}

/* --- the thread -------------------------------------------------------------------------------------------------- */

/* Groups mutex held. */
static bool give_back_wished(struct cfs *fs)
{
	struct cfs_groups *gs = fs->groups;
	bool left = false;

	for (unsigned i = 0; i < gs->count; i++) {
		struct group *g = group_nth(gs, i);

		if (!g->held || !g->wished)
			continue;
		stocks_give_back(fs, g);
		if (!try_give_back(g))
			left = true;
	}
	return left;
}

/*
 * What is left in the groups this host holds will not do for the next refill: takes one more now, while
 * the stocks still last, so that a first write waits for no lock. Only a group that nobody has.
 */
static void acquire_ahead(struct cfs *fs, uint32_t target)
{
	struct cfs_groups *gs = fs->groups;
	uint64_t left = 0;
	bool again = false;
	int rc;

	pthread_mutex_lock(&gs->lock);
	for (unsigned i = 0; i < gs->count; i++) {
		const struct group *g = group_nth(gs, i);

		if (g->held && !g->wished && g->mem_free > group_reserve(g))
			left += g->mem_free - group_reserve(g);
	}
	pthread_mutex_unlock(&gs->lock);
	if (left >= target || clock_boot_ns() < gs->ahead_ns)
		return;
	pthread_mutex_lock(&gs->acquire_lock);
	rc = acquire_round(fs, 1, 0, false, &again);
	pthread_mutex_unlock(&gs->acquire_lock);
	if (rc < 0) {
		gs->ahead_ns = clock_boot_ns() + AHEAD_AGAIN_MS * NS_PER_MS;
		err_clear();
	}
}

static void *groups_main(void *arg)
{
	struct cfs *fs = arg;
	struct cfs_groups *gs = fs->groups;
	bool left = false;

	pthread_mutex_lock(&gs->lock);
	while (!gs->stopping) {
		struct timespec until;

		if (!stocks_hungry(fs)) {
			until = clock_in_ms(left ? 20 : 500);
			pthread_cond_clockwait(&gs->work, &gs->lock, CLOCK_MONOTONIC, &until);
			if (gs->stopping)
				break;
		}
		left = give_back_wished(fs);
		pthread_mutex_unlock(&gs->lock);
		if (cfs_locks_serving(fs)) { /* else the journal is not there yet */
			uint32_t target;

			groups_settle(fs);
			target = stocks_refill(fs);
			if (target)
				acquire_ahead(fs, target);
		}
		pthread_mutex_lock(&gs->lock);
	}
	pthread_mutex_unlock(&gs->lock);
	return NULL;
}

static void describe(struct cfs *fs, unsigned number)
{
	struct cfs_groups *gs = fs->groups;
	struct group *g;

	MUST(number < GROUPS_MAX);
	if (number % GROUPS_PIECE == 0)
		gs->piece[number / GROUPS_PIECE] = xcalloc(GROUPS_PIECE, sizeof(*g));
	g = group_nth(gs, number);
	g->fs = fs;
	g->number = number;
	cfs_group_place(fs, number, &g->vbn, &g->units);
	/* As a whole group's, in a shorter last one too: it can grow. */
	g->maps = cfs_group_bitmap_blocks(fs->group_units);
	g->meta_units = cfs_group_meta_units(fs->group_units);
	g->known_free = g->units;
}

int cfs_groups_start(struct cfs *fs)
{
	struct cfs_groups *gs = xcalloc(1, sizeof(*gs));

	pthread_mutex_init(&gs->lock, NULL);
	pthread_mutex_init(&gs->pending_lock, NULL);
	pthread_mutex_init(&gs->acquire_lock, NULL);
	pthread_cond_init(&gs->work, NULL);
	pthread_cond_init(&gs->filled, NULL);
	list_init(&gs->stocks);
	list_init(&gs->pending);
	gs->last_free = gs->last_reclaim = UINT64_MAX;
	fs->groups = gs;
	for (unsigned i = 0; i < cfs_group_count(fs); i++)
		describe(fs, i);
	gs->count = cfs_group_count(fs);
	MUST(pthread_create(&gs->thread, NULL, groups_main, fs) == 0);
	return 0;
}

void cfs_groups_stop(struct cfs *fs)
{
	struct cfs_groups *gs = fs->groups;

	if (!gs)
		return;
	pthread_mutex_lock(&gs->lock);
	gs->stopping = true;
	pthread_cond_broadcast(&gs->work);
	pthread_cond_broadcast(&gs->filled);
	pthread_mutex_unlock(&gs->lock);
	pthread_join(gs->thread, NULL);
	for (unsigned i = 0; i < gs->count; i++) {
		group_nth(gs, i)->out = 0;
		try_give_back(group_nth(gs, i));
	}
	while (!list_empty(&gs->pending)) {
		struct pending *p = list_first(&gs->pending, struct pending, link);

		list_del(&p->link);
		free(p);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(gs->piece); i++)
		free(gs->piece[i]);
	free(gs);
	fs->groups = NULL;
}

int cfs_groups_extend(struct cfs *fs)
{
	struct cfs_groups *gs = fs->groups;
	unsigned count = cfs_group_count(fs); /* label lock held: nobody else changes it */

	pthread_mutex_lock(&gs->lock);
	/* A short last group may have become longer: who takes it sees to that; one may be at it now. */
	for (unsigned i = 0; i < gs->count; i++) {
		struct group *g = group_nth(gs, i);
		uint64_t vbn;
		uint32_t units;

		cfs_group_place(fs, i, &vbn, &units);
		if (!g->held && units != g->units)
			g->known_free = units;
	}
	for (unsigned i = gs->count; i < count; i++)
		describe(fs, i);
	gs->count = count;
	pthread_cond_signal(&gs->work);
	pthread_mutex_unlock(&gs->lock);
	return 0;
}

/* Counting reads every group's header: several at once, since each is a trip to the array. */
#define COUNTERS 16u

struct counter {
	struct cfs *fs;
	unsigned first;
	uint64_t free_units, reclaim_units;
	pthread_t thread;
	bool threaded, unread;
};

static void *count_groups(void *arg)
{
	struct counter *c = arg;
	struct cfs_groups *gs = c->fs->groups;
	struct cfs_group *h = xaligned(CFS_BLOCK, CFS_BLOCK);

	for (unsigned i = c->first; i < gs->count; i += COUNTERS) {
		struct group *g = group_nth(gs, i);
		bool held;

		pthread_mutex_lock(&gs->lock);
		held = g->held;
		if (held)
			memcpy(h, g->header->data, CFS_BLOCK);
		pthread_mutex_unlock(&gs->lock);
		if (!held && cfs_read(c->fs, g->vbn + 1, h, CFS_BLOCK) < 0) {
			c->unread = true;
			break; /* out of reach: a time-out a group would take minutes */
		}
		if (!held && cfs_block_check(h, CFS_T_GROUP, c->fs->id, g->vbn + 1) < 0)
			continue; /* damaged: nobody can take anything of it */
		c->free_units += le32_get(h->free_units);
		c->reclaim_units += le32_get(h->reclaim_units);
	}
	err_clear();
	free(h);
	return NULL;
}

uint64_t cfs_groups_free_bytes(struct cfs *fs, uint64_t *reclaim_pending)
{
	struct cfs_groups *gs = fs->groups;
	struct counter c[COUNTERS];
	uint64_t free_units = 0, reclaim = 0;
	bool unread = false;

	pthread_mutex_lock(&gs->lock);
	*reclaim_pending = gs->last_reclaim;
	free_units = gs->last_free;
	pthread_mutex_unlock(&gs->lock);
	/* Lost LUNs would be waited for, group by group. */
	if (clock_boot_ns() >= atomic_load(fs->lease_end))
		return free_units;
	free_units = 0;
	for (unsigned i = 0; i < COUNTERS; i++) {
		c[i] = (struct counter){.fs = fs, .first = i};
		c[i].threaded = pthread_create(&c[i].thread, NULL, count_groups, &c[i]) == 0;
		if (!c[i].threaded)
			count_groups(&c[i]);
	}
	for (unsigned i = 0; i < COUNTERS; i++) {
		if (c[i].threaded)
			pthread_join(c[i].thread, NULL);
		free_units += c[i].free_units;
		reclaim += c[i].reclaim_units;
		unread |= c[i].unread;
	}
	pthread_mutex_lock(&gs->lock);
	if (!unread) {
		gs->last_free = free_units * CFS_UNIT;
		gs->last_reclaim = reclaim * CFS_UNIT;
	}
	*reclaim_pending = gs->last_reclaim;
	free_units = gs->last_free;
	pthread_mutex_unlock(&gs->lock);
	return free_units;
}
