// SPDX-License-Identifier: Apache-2.0
/*
 * stock.c: units taken ahead, so that a first write waits for no lock and no read. A stock has one
 * user; the groups mutex is held for a few instructions only.
 */
#include "clusterfs/groups.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/err.h"
#include "base/loop.h"

#define STOCK_RUNS  64u
#define STOCK_UNITS 512u /* 32 MiB ahead, less on small volumes */

struct run {
	uint64_t vbn;
	uint32_t units;
};

struct stock_waiter {
	struct list link;
	struct loop *loop;
	struct loop_work *work;
};

struct cfs_stock {
	struct cfs *fs;
	struct list link;
	struct run run[STOCK_RUNS];
	unsigned runs;
	uint32_t units, target;
	bool refilling, full;
	bool visited, busy; /* the groups' thread is at it, with the mutex let go */
	struct list waiters;
};

int cfs_stock_create(struct cfs *fs, struct cfs_stock **out)
{
	struct cfs_stock *s = xcalloc(1, sizeof(*s));

	s->fs = fs;
	s->target = MIN(STOCK_UNITS, MAX(fs->group_units / 8, 8u));
	list_init(&s->waiters);
	pthread_mutex_lock(&fs->groups->lock);
	list_add_tail(&fs->groups->stocks, &s->link);
	pthread_mutex_unlock(&fs->groups->lock);
	*out = s;
	return 0;
}

static void untake_run(struct cfs *fs, const struct run *r)
{
	struct group *g = group_at(fs, r->vbn);

	group_untake(g, group_unit(g, r->vbn), r->units);
	atomic_fetch_sub(&g->out, r->units);
}

void cfs_stock_destroy(struct cfs_stock *stock)
{
	struct cfs *fs = stock->fs;

	pthread_mutex_lock(&fs->groups->lock);
	while (stock->busy)
		pthread_cond_wait(&fs->groups->filled, &fs->groups->lock);
	for (unsigned i = 0; i < stock->runs; i++)
		untake_run(fs, &stock->run[i]);
	list_del(&stock->link);
	while (!list_empty(&stock->waiters)) {
		struct stock_waiter *w = list_first(&stock->waiters, struct stock_waiter, link);

		list_del(&w->link);
		free(w);
	}
	pthread_mutex_unlock(&fs->groups->lock);
	free(stock);
}

static void remove_run(struct cfs_stock *s, unsigned i)
{
	memmove(&s->run[i], &s->run[i + 1], (s->runs - i - 1) * sizeof(s->run[0]));
	s->runs--;
}

uint32_t cfs_stock_take(struct cfs_stock *stock, uint64_t near, uint32_t want, uint64_t *vbn)
{
	struct cfs_groups *gs = stock->fs->groups;
	uint32_t n = 0;
	unsigned i;

	pthread_mutex_lock(&gs->lock);
	for (i = 0; near && i < stock->runs; i++) {
		if (stock->run[i].vbn == near)
			break;
	}
	if (!near || i == stock->runs)
		i = 0;
	if (stock->runs > 0) {
		struct run *r = &stock->run[i];

		n = MIN(want, r->units);
		*vbn = r->vbn;
		r->vbn += (uint64_t)n * CFS_UNIT_BLOCKS;
		r->units -= n;
		stock->units -= n;
		if (r->units == 0)
			remove_run(stock, i);
	}
	if (stock->units < stock->target / 2 && !stock->refilling) {
		stock->refilling = true;
		pthread_cond_signal(&gs->work);
	}
	pthread_mutex_unlock(&gs->lock);
	return n;
}

/* Groups mutex held. */
static bool add_run(struct cfs_stock *s, uint64_t vbn, uint32_t units)
{
	if (s->runs == STOCK_RUNS)
		return false;
	s->run[s->runs].vbn = vbn;
	s->run[s->runs++].units = units;
	s->units += units;
	return true;
}

void cfs_stock_return(struct cfs_stock *stock, uint64_t vbn, uint32_t units)
{
	struct cfs_groups *gs = stock->fs->groups;
	struct run r = {vbn, units};

	pthread_mutex_lock(&gs->lock);
	if (group_at(stock->fs, vbn)->wished || !add_run(stock, vbn, units))
		untake_run(stock->fs, &r);
	pthread_mutex_unlock(&gs->lock);
}

void cfs_stock_when_ready(struct cfs_stock *stock, struct loop *loop, struct loop_work *work)
{
	struct cfs_groups *gs = stock->fs->groups;
	struct stock_waiter *w = xcalloc(1, sizeof(*w));

	w->loop = loop;
	w->work = work;
	pthread_mutex_lock(&gs->lock);
	if (stock->units > 0) {
		loop_post(loop, work);
		free(w);
	} else {
		list_add_tail(&stock->waiters, &w->link);
		stock->refilling = true;
		pthread_cond_signal(&gs->work);
	}
	pthread_mutex_unlock(&gs->lock);
}

bool cfs_stock_full(struct cfs_stock *stock)
{
	bool full;

	pthread_mutex_lock(&stock->fs->groups->lock);
	full = stock->full && stock->units == 0;
	pthread_mutex_unlock(&stock->fs->groups->lock);
	return full;
}

/* --- filling ---------------------------------------------------------------------------------------------- */

void stocks_give_back(struct cfs *fs, struct group *g)
{
	struct cfs_stock *s;

	list_for_each (s, &fs->groups->stocks, link) {
		for (unsigned i = 0; i < s->runs;) {
			if (group_at(fs, s->run[i].vbn) != g) {
				i++;
				continue;
			}
			untake_run(fs, &s->run[i]);
			s->units -= s->run[i].units;
			remove_run(s, i);
		}
	}
}

bool stocks_hungry(struct cfs *fs)
{
	struct cfs_stock *s;

	list_for_each (s, &fs->groups->stocks, link) {
		if (s->refilling && !s->full)
			return true;
	}
	return false;
}

/* Groups mutex held: from groups this host holds and nobody wishes for. */
static void fill_from_held(struct cfs_stock *s, uint32_t target)
{
	struct cfs_groups *gs = s->fs->groups;

	for (unsigned i = 0; i < gs->count && s->units < target; i++) {
		struct group *g = group_nth(gs, i);
		uint32_t unit, n;

		if (!g->held || g->wished)
			continue;
		while (s->units < target && s->runs < STOCK_RUNS) {
			n = group_take_run(g, target - s->units, group_reserve(g), &unit);
			if (n == 0)
				break;
			atomic_fetch_add(&g->out, n);
			add_run(s, group_unit_vbn(g, unit), n);
		}
	}
}

static void wake_waiters(struct cfs_stock *s)
{
	while (!list_empty(&s->waiters)) {
		struct stock_waiter *w = list_first(&s->waiters, struct stock_waiter, link);

		list_del(&w->link);
		loop_post(w->loop, w->work);
		free(w);
	}
	pthread_cond_broadcast(&s->fs->groups->filled);
}

/* Groups mutex held; let go while another group is looked for. */
static void refill(struct cfs_stock *s)
{
	struct cfs_groups *gs = s->fs->groups;
	int rc = 0;

	fill_from_held(s, s->target);
	while (s->units == 0 && rc == 0 && !gs->stopping) {
		pthread_mutex_unlock(&gs->lock);
		rc = group_acquire_any(s->fs, 1, false);
		groups_settle(s->fs);
		pthread_mutex_lock(&gs->lock);
		fill_from_held(s, s->target);
	}
	s->full = s->units == 0;
	s->refilling = s->full; /* a full one is tried again, now and then */
	wake_waiters(s);
}

uint32_t stocks_refill(struct cfs *fs)
{
	struct cfs_groups *gs = fs->groups;
	struct cfs_stock *s;
	uint32_t largest = 0;

	/* A stock may go while the mutex is let go: begin again after each. */
	pthread_mutex_lock(&gs->lock);
	list_for_each (s, &gs->stocks, link)
		s->visited = false;
again:
	list_for_each (s, &gs->stocks, link) {
		if (!s->refilling || s->visited)
			continue;
		s->visited = true;
		s->busy = true;
		refill(s);
		largest = MAX(largest, s->target);
		s->busy = false;
		pthread_cond_broadcast(&gs->filled);
		goto again;
	}
	pthread_mutex_unlock(&gs->lock);
	return largest;
}

int cfs_stock_fill(struct cfs_stock *stock, uint32_t want)
{
	struct cfs_groups *gs = stock->fs->groups;
	bool full;

	pthread_mutex_lock(&gs->lock);
	while (stock->units < MIN(want, 1u)) {
		stock->full = false;
		stock->refilling = true;
		pthread_cond_signal(&gs->work);
		pthread_cond_wait(&gs->filled, &gs->lock);
		if (stock->full || gs->stopping)
			break;
	}
	full = stock->units == 0;
	pthread_mutex_unlock(&gs->lock);
	return full ? fail(-ENOSPC, "volume %s: full; grow it or delete something", stock->fs->name)
		    : 0;
}
