// SPDX-License-Identifier: Apache-2.0
/* volume.c: the volumes that are mounted here: finding and using them, and letting them go. */
#include "host/volume_impl.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/util.h"
#include "blockdev/blk.h"
#include "clusterfs/cfs.h"
#include "host/call.h"
#include "host/daemon.h"
#include "host/db.h"
#include "host/event.h"
#include "host/lun.h"
#include "host/peers.h"
#include "host/promised.h"

#define GIVE_WAY_S 1
#define LOOK_MS	   400 /* a status waits so long for a look at the other hosts */
/* An unmount waits so long for uses to end: who only looks is gone by then. */
#define IDLE_MS 3000
/* And so long for our own cleaning to end, which is no reason to say busy; it is tried again later. */
#define CLEANER_MS 60000

/* An unmount that waits: until when for those who use the volume, and for our own work on it. */
struct patience {
	struct list link;
	const char *name;
	struct timespec users, cleaner;
};

struct cfs *host_volume_fs(struct host_volume *volume)
{
	return volume->fs;
}

const char *host_volume_name(const struct host_volume *volume)
{
	return volume->name;
}

void host_volume_disks_changed(struct host_volume *v)
{
	host_promised_stale(v->promised);
}

/* Somebody waits to unmount it. Caller holds the lock. */
static bool is_awaited(const struct host_volume *v)
{
	const struct patience *p;

	list_for_each (p, &v->all->awaited, link)
		if (!strcmp(v->name, p->name) || !strcmp(v->id, p->name))
			return true;
	return false;
}

int host_volume_info(struct host_volume *v, struct cfs_info *out)
{
	bool waited_for;
	int rc;

	pthread_mutex_lock(&v->all->lock);
	waited_for = is_awaited(v);
	pthread_mutex_unlock(&v->all->lock);
	if (!waited_for)
		cfs_look(v->fs, LOOK_MS);
	rc = cfs_info(v->fs, out);
	out->promised = host_promised_get(v->promised, !waited_for);
	return rc;
}

/* --- finding ------------------------------------------------------------------------------------ */

/* Caller holds the lock. */
static struct host_volume *find(struct host_volumes *all, const char *name)
{
	struct host_volume *v;

	list_for_each (v, &all->list, link)
		if (!strcmp(v->name, name) || !strcmp(v->id, name))
			return v;
	return NULL;
}

int host_volume_get(struct host_volumes *all, const char *name, struct host_volume **out)
{
	struct host_volume *v;
	int rc = -ENOENT;

	pthread_mutex_lock(&all->lock);
	v = find(all, name);
	if (v) {
		v->uses++;
		*out = v;
		rc = 0;
	}
	pthread_mutex_unlock(&all->lock);
	if (rc < 0) {
		(void)fail(rc,
			   "volume %s: not mounted here; see perilune volume list, then volume"
			   " mount",
			   name);
		err_object("%s", name);
	}
	return rc;
}

void host_volume_put(struct host_volume *v)
{
	pthread_mutex_lock(&v->all->lock);
	MUST(v->uses > 0);
	v->uses--;
	if (v->uses <= 1)
		pthread_cond_broadcast(&v->all->idle);
	if (v->lost && !v->uses)
		pthread_cond_broadcast(&v->all->wake);
	pthread_mutex_unlock(&v->all->lock);
}

int host_volume_of(struct host_volumes *all, const char *name, struct host_volume **volume,
		   const char **path)
{
	char text[64];
	int rc = host_split_name(name, text, path);

	return rc < 0 ? rc : host_volume_get(all, text, volume);
}

/*
 * NULL: it is not there any more. Who goes through all volumes lets an unmount that waits go first, or those who
 * only look, one after the other, would keep it in use; but not for long.
 */
static struct host_volume *get_by_id(struct host_volumes *all, const char *id)
{
	struct host_volume *hit;
	struct timespec until = clock_in_ms(GIVE_WAY_S * 1000);
	int rc = 0;

	pthread_mutex_lock(&all->lock);
	while ((hit = find(all, id)) && is_awaited(hit) && rc == 0)
		rc = pthread_cond_timedwait(&all->idle, &all->lock, &until);
	if (hit)
		hit->uses++;
	pthread_mutex_unlock(&all->lock);
	return hit;
}

int host_volumes_each(struct host_volumes *all, int (*fn)(void *arg, struct host_volume *volume),
		      void *arg)
{
	char id[64][40];
	struct host_volume *v;
	unsigned n = 0;
	int rc = 0;

	pthread_mutex_lock(&all->lock);
	list_for_each (v, &all->list, link)
		if (n < ARRAY_SIZE(id))
			memcpy(id[n++], v->id, sizeof(id[0]));
	pthread_mutex_unlock(&all->lock);
	/* One use at a time: nobody waits for us with one volume because we look at another. */
	for (unsigned i = 0; i < n && rc == 0; i++) {
		v = get_by_id(all, id[i]);
		if (!v)
			continue;
		rc = fn(arg, v);
		host_volume_put(v);
	}
	return rc;
}

void host_volume_count_vm(struct host_volume *v, int change)
{
	pthread_mutex_lock(&v->all->lock);
	v->vms = (unsigned)((int)v->vms + change);
	pthread_mutex_unlock(&v->all->lock);
}

void host_volume_keep(struct host_volume *v)
{
	pthread_mutex_lock(&v->all->lock);
	v->keep = true;
	pthread_mutex_unlock(&v->all->lock);
}

unsigned host_volume_luns(struct host_volume *v, struct host_lun **out)
{
	memcpy(out, v->lun, v->luns * sizeof(*out));
	return v->luns;
}

static struct blk_stats stats_of(struct host_volume *v)
{
	struct blk_stats all = {0}, s;

	for (unsigned i = 0; i < v->luns; i++) {
		blk_get_stats(host_lun_blk(v->lun[i]), &s);
		all.steps += s.steps;
		all.latency_ns = MAX(all.latency_ns, s.latency_ns);
	}
	return all;
}

uint64_t host_volume_steps(struct host_volume *v)
{
	return stats_of(v).steps;
}

uint64_t host_volume_latency(struct host_volume *v)
{
	return stats_of(v).latency_ns;
}

/* --- the inventory ------------------------------------------------------------------------------- */

int host_volume_remember(struct host_volume *v)
{
	char name[64], id[40];
	json_t *luns = json_array(), *doc;
	int rc;

	cfs_names(v->fs, name, id);
	pthread_mutex_lock(&v->all->lock);
	memcpy(v->name, name, sizeof(v->name));
	memcpy(v->id, id, sizeof(v->id));
	pthread_mutex_unlock(&v->all->lock);
	for (unsigned i = 0; i < v->luns; i++)
		json_array_append_new(luns, json_string(host_lun_name(v->lun[i])));
	doc = json_pack("{s:s, s:o}", "name", name, "luns", luns);
	rc = host_db_put(v->all->host->db, HOST_VOLUMES, id, doc);
	json_decref(doc);
	return rc;
}

/* --- its LUNs --------------------------------------------------------------------------------------- */

void volume_luns_release(struct host_volumes *all, struct host_lun **luns, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		host_lun_set_user(all->host->luns, luns[i], NULL);
		host_lun_put(all->host->luns, luns[i]);
	}
}

int host_volume_add_luns(struct host_volume *v, struct host_lun **luns, unsigned n)
{
	char user[80];

	(void)str_format(user, sizeof(user), "volume %s", v->name);
	pthread_mutex_lock(&v->all->lock);
	for (unsigned i = 0; i < n && v->luns < HOST_EXTENTS_MAX; i++)
		v->lun[v->luns++] = luns[i];
	pthread_mutex_unlock(&v->all->lock);
	for (unsigned i = 0; i < n; i++)
		host_lun_set_user(v->all->host->luns, luns[i], user);
	return host_volume_remember(v);
}

/* --- letting go ---------------------------------------------------------------------------------------- */

static int busy(struct host_volume *v, const char *with)
{
	(void)fail(-EBUSY, "volume %s: in use by %s; stop that first", v->name, with);
	err_object("%s", v->name);
	err_holder("%s", v->all->host->name);
	return -EBUSY;
}

static void patience_for_users(struct patience *p)
{
	p->users = clock_in_ms(IDLE_MS);
}

static void begin_waiting(struct patience *p, const char *name)
{
	p->name = name;
	patience_for_users(p);
	p->cleaner = clock_in_ms(CLEANER_MS);
}

/*
 * Nobody uses it, or somebody will go on to, or it is not there. Holds nothing: the volume may be frozen, and no
 * other mount is to wait for that. False: too long.
 */
static bool wait_idle(struct host_volumes *all, const char *name, struct patience *p)
{
	struct host_volume *v;
	int rc = 0;

	pthread_mutex_lock(&all->lock);
	list_add(&all->awaited, &p->link);
	while (rc == 0 && (v = find(all, name)) && !v->vms && v->uses) {
		bool cleaning = v->cleaning;

		rc = pthread_cond_timedwait(&all->idle, &all->lock,
					    cleaning ? &p->cleaner : &p->users);
		if (cleaning)
			patience_for_users(p);
	}
	list_del(&p->link);
	pthread_cond_broadcast(&all->idle);
	pthread_mutex_unlock(&all->lock);
	return rc == 0;
}

/*
 * *out is found by nobody any more, and one of those that leave; NULL: it is not mounted. -EAGAIN: somebody came
 * in between; it is to be waited for, if one is patient still.
 */
static int take_out(struct host_volumes *all, const char *name, bool patient,
		    struct host_volume **out)
{
	struct host_volume *v;
	int rc = 0;

	pthread_mutex_lock(&all->lock);
	v = find(all, name);
	if (v && v->vms) {
		rc = busy(v, "VMs that run here");
	} else if (v && v->uses) {
		rc = patient ? -EAGAIN : busy(v, "tasks of this host");
	} else if (v) {
		list_del(&v->link);
		list_add_tail(&all->leaving, &v->link);
	}
	pthread_mutex_unlock(&all->lock);
	*out = v;
	return rc;
}

static void change_list(struct host_volumes *all, struct host_volume *v, struct list *to)
{
	pthread_mutex_lock(&all->lock);
	list_del(&v->link);
	if (to)
		list_add_tail(to, &v->link);
	pthread_mutex_unlock(&all->lock);
}

void volume_gone(struct host_volumes *all, struct host_volume *v)
{
	volume_luns_release(all, v->lun, v->luns);
	change_list(all, v, NULL);
	free(v);
}

/*
 * One of those that leave. Holds nothing: its LUNs may hang, and are nobody else's until it is over. What cannot be
 * unmounted in order is gone all the same: another host, or our next mount, replays its journal.
 */
static int let_go(struct host_volumes *all, struct host_volume *v)
{
	struct err_info why = {0};
	int rc;

	host_promised_destroy(v->promised);
	host_peers_await(all->host->peers, v->id);
	host_peers_leave(all->host->peers, v->fs);
	rc = cfs_unmount(v->fs);
	if (rc == -EBUSY) {
		v->promised = host_promised_create(v->fs);
		host_peers_join(all->host->peers, v->fs);
		change_list(all, v, &all->list);
		return rc;
	}
	if (rc < 0)
		err_save(&why, rc);
	rc = host_db_put(all->host->db, HOST_VOLUMES, v->id, NULL);
	host_event(all->host->events, "volume", v->name, "unmounted%s%s",
		   why.err ? ", but not in order: " : "", why.err ? why.message : "");
	volume_gone(all, v);
	return why.err ? err_restore(&why) : rc;
}

int host_volume_unmount(struct host_volumes *all, const char *name)
{
	struct patience patience;
	struct host_volume *v;
	int rc;

	begin_waiting(&patience, name);
	do {
		bool patient = wait_idle(all, name, &patience);

		rc = take_out(all, name, patient, &v);
	} while (rc == -EAGAIN);
	if (rc == 0 && v)
		return let_go(all, v);
	if (rc == 0) {
		pthread_mutex_lock(&all->mounting);
		rc = volume_missing_forget(all, name);
		pthread_mutex_unlock(&all->mounting);
	}
	return rc;
}

/* --- all of them ------------------------------------------------------------------------------------------- */

int host_volumes_create(struct host *host, struct host_volumes **out)
{
	struct host_volumes *all = xcalloc(1, sizeof(*all));
	pthread_condattr_t monotonic;

	all->host = host;
	list_init(&all->list);
	list_init(&all->lost);
	list_init(&all->leaving);
	list_init(&all->awaited);
	list_init(&all->missing);
	pthread_mutex_init(&all->mounting, NULL);
	pthread_mutex_init(&all->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&all->wake, &monotonic);
	pthread_cond_init(&all->tried, &monotonic);
	pthread_cond_init(&all->idle, &monotonic);
	*out = all;
	return volume_missing_load(all);
}

void host_volumes_destroy(struct host_volumes *all)
{
	struct host_volume *v, *tmp;

	if (!all)
		return;
	MUST(list_empty(&all->leaving)); /* verbs, and the mounter, are over */
	list_splice_tail(&all->list, &all->lost);
	list_for_each_safe (v, tmp, &all->list, link) {
		int rc;

		host_promised_destroy(v->promised);
		host_peers_leave(all->host->peers, v->fs);
		rc = v->vms || v->keep ? -EBUSY : cfs_unmount(v->fs);

		if (rc == -EBUSY) { /* the next daemon goes on where this one ends */
			log_info("host", "volume %s: left as it is", v->name);
			cfs_abandon(v->fs);
		}
		volume_luns_release(all, v->lun, v->luns);
		free(v);
	}
	volume_missing_free(all);
	free(all);
}
