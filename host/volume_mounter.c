// SPDX-License-Identifier: Apache-2.0
/*
 * volume_mounter.c: the thread that mounts what is missing, lets go of what another host took over, and
 * looks for what dead daemons left on a volume.
 */
#include "host/volume_impl.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "clusterfs/cfs.h"
#include "host/daemon.h"
#include "host/peers.h"
#include "host/promised.h"
#include "host/vm_tree.h"

/* How often a remembered volume that is not there is tried again. */
#define RETRY_MS 2000
/* The longest pause between two looks for leftovers; a host that died is looked at at once. */
#define CLEAN_LAST_MS 30000

/* Caller holds the lock. */
static bool is_lost(struct host_volumes *all, const char *id)
{
	struct host_volume *v;

	list_for_each (v, &all->lost, link)
		if (!strcmp(v->id, id))
			return true;
	return false;
}

static bool next_missing(struct host_volumes *all, unsigned at, char id[40])
{
	struct volume_missing *m;
	unsigned n = 0;

	pthread_mutex_lock(&all->lock);
	id[0] = 0;
	if (!all->ending)
		list_for_each (m, &all->missing, link)
			if (!is_lost(all, m->id) && n++ == at)
				memcpy(id, m->id, 40);
	pthread_mutex_unlock(&all->lock);
	return id[0] != 0;
}

/* Caller holds the lock. An evicted volume is missing from now on, whoever still works with it here. */
static void note_lost(struct host_volumes *all, struct host_volume *v)
{
	list_del(&v->link);
	list_add_tail(&all->lost, &v->link);
	volume_missing_add(all, v, "another host took over this host's place; it is mounted anew");
}

/* Caller holds the lock; one that is lost and used by nobody any more: it leaves from now on. */
static struct host_volume *take_lost(struct host_volumes *all)
{
	struct host_volume *v, *tmp;

	list_for_each_safe (v, tmp, &all->list, link)
		if (v->lost && !v->vms)
			note_lost(all, v);
	list_for_each (v, &all->lost, link)
		if (!v->uses) {
			list_del(&v->link);
			list_add_tail(&all->leaving, &v->link);
			return v;
		}
	return NULL;
}

/* A life that is over is let go without a word to the disk; false: there is none. */
static bool renew_lost(struct host_volumes *all)
{
	struct host_volume *v;

	pthread_mutex_lock(&all->lock);
	v = take_lost(all);
	pthread_mutex_unlock(&all->lock);
	if (v) {
		host_promised_destroy(v->promised);
		host_peers_leave(all->host->peers, v->fs);
		cfs_abandon(v->fs);
		volume_gone(all, v);
	}
	return v != NULL;
}

/* Names that others gave to volumes: here, and in the inventory. */
static void learn_names(struct host_volumes *all)
{
	struct host_volume *v, *hit;

	do {
		hit = NULL;
		pthread_mutex_lock(&all->lock);
		list_for_each (v, &all->list, link)
			if (v->changed && !hit)
				hit = v;
		if (hit) {
			hit->changed = false;
			hit->uses++;
		}
		pthread_mutex_unlock(&all->lock);
		if (hit) {
			int rc = host_volume_remember(hit);

			if (rc < 0)
				log_warn("host", "volume %s: %s", hit->name, err_message(rc));
			host_volume_put(hit);
		}
	} while (hit);
}

/* Caller holds the lock. The one whose turn was longest ago, used. */
static struct host_volume *next_to_clean(struct host_volumes *all)
{
	uint64_t now = clock_boot_ms();
	struct host_volume *v, *hit = NULL;

	list_for_each (v, &all->list, link)
		if (v->clean && !v->lost && v->clean_ms <= now &&
		    (!hit || v->clean_ms < hit->clean_ms))
			hit = v;
	if (!hit || all->ending)
		return NULL;
	hit->uses++;
	hit->clean = false;
	hit->cleaning = true;
	return hit;
}

/* A walk through a volume whose lease does not run would wait on it. */
static bool lease_runs(struct host_volume *v)
{
	struct cfs_info *info = xcalloc(1, sizeof(*info));
	bool yes = cfs_info(v->fs, info) == 0 && strcmp(info->state, "frozen");

	err_clear();
	free(info);
	return yes;
}

/* No other volume's mount or unmount waits for it; what fails is tried again with growing pauses. */
static void clean_one(struct host_volumes *all)
{
	struct host_volume *v;
	bool done;

	pthread_mutex_lock(&all->lock);
	v = next_to_clean(all);
	pthread_mutex_unlock(&all->lock);
	if (!v)
		return;
	done = lease_runs(v) && vm_tree_clean(all->host, v);
	pthread_mutex_lock(&all->lock);
	v->clean_pause_ms = done ? 0 : MIN(MAX(2 * v->clean_pause_ms, RETRY_MS), CLEAN_LAST_MS);
	v->clean_ms = clock_boot_ms() + v->clean_pause_ms;
	v->clean |= !done;
	v->cleaning = false;
	pthread_cond_broadcast(&all->idle);
	pthread_mutex_unlock(&all->lock);
	host_volume_put(v);
}

static void *mounter(void *arg)
{
	struct host_volumes *all = arg;
	struct timespec until;
	char id[40], name[64];
	const char *names[1] = {id};
	bool first;

	for (;;) {
		while (renew_lost(all))
			;
		learn_names(all);
		for (unsigned at = 0; next_missing(all, at, id);) {
			int rc;

			host_peers_await(all->host->peers, id);
			rc = host_volume_mount(all, names, 1, NULL, false, true, name);

			if (rc < 0) {
				volume_missing_note(all, id, err_message(rc));
				at++;
			}
		}
		pthread_mutex_lock(&all->lock);
		first = !all->first_done;
		all->first_done = true;
		pthread_cond_broadcast(&all->tried);
		pthread_mutex_unlock(&all->lock);
		if (first)
			host_peers_settled(all->host->peers);
		clean_one(all);
		pthread_mutex_lock(&all->lock);
		until = clock_in_ms(RETRY_MS);
		if (!all->ending)
			pthread_cond_timedwait(&all->wake, &all->lock, &until);
		if (all->ending)
			break;
		pthread_mutex_unlock(&all->lock);
	}
	pthread_mutex_unlock(&all->lock);
	return NULL;
}

/* --- its beginning and end ------------------------------------------------------------ */

void host_volumes_restore(struct host_volumes *all, unsigned wait_ms)
{
	struct timespec until;

	MUST(pthread_create(&all->thread, NULL, mounter, all) == 0);
	pthread_setname_np(all->thread, "mounter");
	all->started = true;
	until = clock_in_ms(wait_ms);
	pthread_mutex_lock(&all->lock);
	while (!all->first_done)
		if (pthread_cond_timedwait(&all->tried, &all->lock, &until))
			break;
	pthread_mutex_unlock(&all->lock);
}

void host_volumes_quiesce(struct host_volumes *all)
{
	if (!all)
		return;
	pthread_mutex_lock(&all->lock);
	all->ending = true;
	pthread_cond_broadcast(&all->wake);
	pthread_mutex_unlock(&all->lock);
	if (all->started)
		pthread_join(all->thread, NULL);
	all->started = false;
}

bool host_volumes_ending(struct host_volumes *all)
{
	bool yes;

	pthread_mutex_lock(&all->lock);
	yes = all->ending;
	pthread_mutex_unlock(&all->lock);
	return yes;
}
