// SPDX-License-Identifier: Apache-2.0
/*
 * volume.c: mounting, remembering and letting go of volumes. One mutex serialises mounts and
 * unmounts (they are rare and long); another, never held across I/O, guards the list.
 */
#include "host/volume.h"

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
#include "host/daemon.h"
#include "host/db.h"
#include "host/event.h"
#include "host/lun.h"
#include "host/peers.h"
#include "host/promised.h"
#include "host/call.h"
#include "host/vm.h"
#include "host/vm_tree.h"

/* How often a remembered volume that is not there is tried again. */
#define RETRY_MS 2000
#define LOOK_MS	 400 /* a status waits so long for a look at the other hosts */
/* An unmount waits so long for uses to end: who only looks is gone by then. */
#define IDLE_MS 3000
/* The longest pause between two looks for leftovers; a host that died is looked at at once. */
#define CLEAN_LAST_MS 30000

struct host_volume {
	struct list link;
	struct host_volumes *all;
	struct cfs *fs;
	char name[64], id[40];
	struct host_lun *lun[HOST_EXTENTS_MAX];
	unsigned luns;
	struct host_promised *promised;
	unsigned uses, vms;
	bool clean; /* leftovers of dead daemons may lie on it: looked at from clean_ms on */
	bool cleaning;
	uint64_t clean_ms, clean_pause_ms;
	bool lost; /* another host took our slot: mounted anew when nothing uses it any more */
};

struct missing {
	struct list link;
	char id[40], name[64], error[256];
	char lun[HOST_EXTENTS_MAX][256];
	unsigned luns;
};

struct host_volumes {
	struct host *host;
	pthread_mutex_t mounting; /* one mount or unmount at a time; taken before `lock` */
	pthread_mutex_t lock;	  /* guards all below */
	struct list list, missing;
	struct list lost; /* evicted, still used: nobody finds them any more; each is missing too */
	pthread_cond_t wake, tried, idle; /* idle: a volume has one use or none */
	bool ending, started, first_done;
	pthread_t thread;
};

static void uuid_text(const uint8_t b[16], char text[40])
{
	char *p = text;

	for (unsigned i = 0; i < 16; i++) {
		if (i == 4 || i == 6 || i == 8 || i == 10)
			*p++ = '-';
		(void)str_format(p, 3, "%02x", b[i]);
		p += 2;
	}
}

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

int host_volume_info(struct host_volume *v, struct cfs_info *out)
{
	int rc;

	cfs_look(v->fs, LOOK_MS);
	rc = cfs_info(v->fs, out);

	out->promised = host_promised_get(v->promised);
	return rc;
}

/* --- finding ------------------------------------------------------------------------------------ */

int host_volume_get(struct host_volumes *all, const char *name, struct host_volume **out)
{
	struct host_volume *v;
	int rc = -ENOENT;

	pthread_mutex_lock(&all->lock);
	list_for_each (v, &all->list, link) {
		if (strcmp(v->name, name) && strcmp(v->id, name))
			continue;
		v->uses++;
		*out = v;
		rc = 0;
		break;
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

/* NULL: it is not there any more. */
static struct host_volume *get_by_id(struct host_volumes *all, const char *id)
{
	struct host_volume *v, *hit = NULL;

	pthread_mutex_lock(&all->lock);
	list_for_each (v, &all->list, link)
		if (!strcmp(v->id, id))
			hit = v;
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

unsigned host_volume_luns(struct host_volume *v, struct host_lun **out)
{
	memcpy(out, v->lun, v->luns * sizeof(*out));
	return v->luns;
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

static void remembered(void *arg, const char *key, uint64_t number, json_t *value)
{
	struct host_volumes *all = arg;
	struct missing *m = xcalloc(1, sizeof(*m));
	const char *name = json_string_value(json_object_get(value, "name"));
	json_t *lun;
	size_t i;

	(void)number;
	(void)str_format(m->id, sizeof(m->id), "%s", key);
	(void)str_format(m->name, sizeof(m->name), "%s", name ? name : "");
	(void)str_format(m->error, sizeof(m->error), "not tried yet");
	json_array_foreach(json_object_get(value, "luns"), i, lun)
	{
		const char *text = json_string_value(lun);

		if (text && m->luns < HOST_EXTENTS_MAX)
			(void)str_format(m->lun[m->luns++], sizeof(m->lun[0]), "%s", text);
	}
	list_add_tail(&all->missing, &m->link);
}

void host_volumes_missing(struct host_volumes *all, json_t *list)
{
	struct missing *m;

	pthread_mutex_lock(&all->lock);
	list_for_each (m, &all->missing, link) {
		json_t *d = json_pack("{s:s, s:s, s:n, s:n, s:s, s:s}", "name", m->name, "id",
				      m->id, "size", "free", "state", "missing", "error", m->error);

		if (d)
			json_array_append_new(list, d);
	}
	pthread_mutex_unlock(&all->lock);
}

/* Caller holds the lock. */
static void forget_missing(struct host_volumes *all, const char *id)
{
	struct missing *m, *tmp;

	list_for_each_safe (m, tmp, &all->missing, link) {
		if (strcmp(m->id, id) && strcmp(m->name, id))
			continue;
		list_del(&m->link);
		free(m);
	}
}

/* --- mounting --------------------------------------------------------------------------------------- */

static void on_event(void *arg, const char *kind, const char *text)
{
	struct host_volume *v = arg;

	host_event(v->all->host->events, "volume", v->name, "%s: %s", kind, text);
	pthread_mutex_lock(&v->all->lock);
	if (!strcmp(kind, "recovered")) {
		v->clean = true;
		v->clean_ms = v->clean_pause_ms = 0;
	}
	v->lost |= !strcmp(kind, "evicted");
	pthread_cond_broadcast(&v->all->wake);
	pthread_mutex_unlock(&v->all->lock);
	if (!strcmp(kind, "evicted"))
		host_vms_lost(v->all->host->vms, v);
}

static void on_hint(void *arg, struct cfs *fs, uint64_t slots, const struct cfs_hint *hint)
{
	struct host_volume *v = arg;

	host_peers_hint(v->all->host->peers, fs, slots, hint);
}

static void luns_release(struct host_volumes *all, struct host_lun **luns, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		host_lun_set_user(all->host->luns, luns[i], NULL);
		host_lun_put(all->host->luns, luns[i]);
	}
}

struct search {
	struct host_volumes *all;
	const char *name; /* of the volume, or NULL: by id */
	uint8_t id[16];
	bool have_id, two;
	struct host_lun *lun[HOST_EXTENTS_MAX];
	unsigned n;
};

/* A known LUN: is it an extent of the volume we look for? Takes a use of its own then. */
static int search_lun(void *arg, struct host_lun *lun)
{
	struct search *s = arg;
	struct cfs_identity *found = xcalloc(1, sizeof(*found));
	struct host_lun *again;

	if (cfs_identify(host_lun_blk(lun), found) == 0 &&
	    (s->name ? !strcmp(found->name, s->name) : !memcmp(found->id, s->id, 16))) {
		if (s->have_id && memcmp(found->id, s->id, 16))
			s->two = true;
		memcpy(s->id, found->id, 16);
		s->have_id = true;
		for (unsigned i = 0; i < s->n; i++)
			if (s->lun[i] == lun)
				goto out;
		if (s->n < HOST_EXTENTS_MAX &&
		    host_lun_get(s->all->host->luns, host_lun_name(lun), NULL, false, &again) == 0)
			s->lun[s->n++] = again;
	}
out:
	err_clear();
	free(found);
	return 0;
}

/* LUNs to a search: opens each, then looks for extents that were not named among the known. */
static int search_by_luns(struct search *s, const char *const *names, unsigned n,
			  const char *chap_file)
{
	struct cfs_identity *first = NULL;
	int rc = 0;

	for (; s->n < n && rc == 0;) {
		rc = host_lun_get(s->all->host->luns, names[s->n], chap_file, false, &s->lun[s->n]);
		if (rc == 0)
			s->n++;
	}
	if (rc < 0)
		return rc;
	first = xcalloc(1, sizeof(*first));
	rc = cfs_identify(host_lun_blk(s->lun[0]), first);
	if (rc == 0 && first->extents > s->n) {
		memcpy(s->id, first->id, 16);
		s->have_id = true;
		rc = host_luns_each(s->all->host->luns, search_lun, s);
	}
	if (rc == 0 && first->extents > s->n)
		rc = fail(-ENOENT, "volume %s: has %u LUNs, %u are known here; name or connect all",
			  first->name, first->extents, s->n);
	free(first);
	return rc;
}

static int search_by_name(struct search *s, const char *name)
{
	const char *luns[HOST_EXTENTS_MAX];
	struct missing *m, *hit = NULL;
	unsigned n = 0;
	int rc;

	/* Remembered LUNs need not be connected ones. */
	pthread_mutex_lock(&s->all->lock);
	list_for_each (m, &s->all->missing, link) {
		if (strcmp(m->name, name) && strcmp(m->id, name))
			continue;
		hit = m;
		for (n = 0; n < m->luns; n++)
			luns[n] = m->lun[n];
	}
	pthread_mutex_unlock(&s->all->lock);
	if (hit) /* stays: `mounting` is held */
		return search_by_luns(s, luns, n, NULL);
	s->name = name;
	rc = host_luns_each(s->all->host->luns, search_lun, s);
	if (rc == 0 && s->two)
		rc = fail(-EINVAL,
			  "volume %s: two volumes have this name; mount by LUN, then"
			  " rename one",
			  name);
	if (rc == 0 && s->n == 0)
		rc = fail(-ENOENT,
			  "volume %s: on no known LUN; connect its LUNs (perilune lun connect) or"
			  " name them",
			  name);
	return rc;
}

static int do_mount(struct host_volumes *all, struct search *s, bool new_identity,
		    struct host_volume **out)
{
	struct host_volume *v = xcalloc(1, sizeof(*v));
	struct host *host = all->host;
	struct blk *blks[HOST_EXTENTS_MAX];
	struct cfs_options options = {
		.host_name = host->name,
		.state_dir = host->state.dir,
		.address = host_peers_address(host->peers),
		.initiator = host->state.initiator,
		.isid = host->state.isid,
		.new_identity = new_identity,
		.event = on_event,
		.hint = on_hint,
		.arg = v,
	};
	char user[80];
	int rc;

	v->all = all;
	v->luns = s->n;
	memcpy(v->lun, s->lun, sizeof(v->lun));
	for (unsigned i = 0; i < s->n; i++)
		blks[i] = host_lun_blk(s->lun[i]);
	(void)str_format(v->name, sizeof(v->name), "%s", s->name ? s->name : "(mounting)");
	rc = cfs_mount(blks, s->n, &options, &v->fs);
	if (rc < 0) {
		free(v);
		return rc;
	}
	rc = host_volume_remember(v);
	if (rc < 0) {
		struct err_info why;

		err_save(&why, rc);
		(void)cfs_unmount(v->fs);
		free(v);
		return err_restore(&why);
	}
	(void)str_format(user, sizeof(user), "volume %s", v->name);
	for (unsigned i = 0; i < s->n; i++)
		host_lun_set_user(host->luns, s->lun[i], user);
	v->promised = host_promised_create(v->fs);
	host_peers_join(host->peers, v->fs);
	pthread_mutex_lock(&all->lock);
	v->clean = true;
	list_add_tail(&all->list, &v->link);
	forget_missing(all, v->id);
	pthread_mutex_unlock(&all->lock);
	*out = v;
	return 0;
}

static int check_not_mounted(struct host_volumes *all, struct search *s)
{
	struct host_volume *v;
	const char *busy = NULL;

	pthread_mutex_lock(&all->lock);
	list_for_each (v, &all->list, link)
		for (unsigned i = 0; i < v->luns; i++)
			for (unsigned k = 0; k < s->n; k++)
				if (v->lun[i] == s->lun[k])
					busy = v->name;
	pthread_mutex_unlock(&all->lock);
	if (busy) {
		(void)fail(-EBUSY, "volume %s: mounted here already", busy);
		err_object("%s", busy);
		err_holder("%s", all->host->name);
		return -EBUSY;
	}
	return 0;
}

/* A clone with an identity of its own still has the original's id in its blocks. */
static int refuse_twin(struct host_volumes *all, struct search *s, bool new_identity)
{
	struct cfs_identity *i = xcalloc(1, sizeof(*i));
	struct host_volume *v;
	bool twin = false;
	char text[40];
	int rc = cfs_identify(host_lun_blk(s->lun[0]), i);

	/* A clone without one is cfs_mount's to refuse, with the cure. */
	if (rc == 0 && (new_identity || !strcmp(i->lun, blk_info(host_lun_blk(s->lun[0]))->id))) {
		uuid_text(i->id, text);
		host_peers_await(all->host->peers, text);
		pthread_mutex_lock(&all->lock);
		list_for_each (v, &all->list, link)
			twin = twin || !strcmp(v->id, text);
		pthread_mutex_unlock(&all->lock);
		if (twin)
			rc = fail(-EBUSY,
				  "volume %s: its original or its clone is mounted here; unmount"
				  " that first, or use another host",
				  i->name);
	}
	free(i);
	return rc;
}

static int claim_all(struct host_volumes *all, struct search *s)
{
	for (unsigned i = 0; i < s->n; i++) {
		int rc = host_lun_claim(all->host->luns, s->lun[i], "volume mount");

		if (rc < 0) {
			for (unsigned k = 0; k < i; k++)
				host_lun_set_user(all->host->luns, s->lun[k], NULL);
			return rc;
		}
	}
	return 0;
}

int host_volume_mount(struct host_volumes *all, const char *const *names, unsigned n,
		      const char *chap_file, bool new_identity, char name[64])
{
	struct search s = {.all = all};
	struct host_volume *v = NULL;
	bool by_name = n == 1 && !strchr(names[0], '/');
	int rc;

	pthread_mutex_lock(&all->mounting);
	rc = by_name ? search_by_name(&s, names[0]) : search_by_luns(&s, names, n, chap_file);
	if (rc == -ENOENT && by_name && s.n == 0) {
		struct err_info why;

		err_save(&why, rc); /* a LUN's id looks like a name */
		rc = search_by_luns(&s, names, n, chap_file);
		if (rc == -ENOENT)
			rc = err_restore(&why);
	}
	if (rc == 0)
		rc = check_not_mounted(all, &s);
	if (rc == 0)
		rc = refuse_twin(all, &s, new_identity);
	if (rc == 0)
		rc = claim_all(all, &s);
	if (rc == 0) {
		rc = do_mount(all, &s, new_identity, &v);
		for (unsigned i = 0; i < s.n && rc < 0; i++)
			host_lun_set_user(all->host->luns, s.lun[i], NULL);
	}
	if (rc == 0) {
		MUST(v);
		memcpy(name, v->name, 64);
		v->uses++;
	} else {
		struct err_info why;

		err_save(&why, rc);
		for (unsigned i = 0; i < s.n; i++)
			host_lun_put(all->host->luns, s.lun[i]);
		rc = err_restore(&why);
	}
	pthread_mutex_unlock(&all->mounting);
	if (rc < 0)
		return rc;
	host_event(all->host->events, "volume", v->name, "mounted");
	host_vms_adopt(all->host->vms, v);
	host_volume_put(v);
	return 0;
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

/* A remembered volume that is not there is only forgotten. */
static int forget(struct host_volumes *all, const char *name)
{
	struct missing *m;
	char id[40] = "";

	pthread_mutex_lock(&all->lock);
	list_for_each (m, &all->missing, link)
		if (!strcmp(m->name, name) || !strcmp(m->id, name))
			(void)str_format(id, sizeof(id), "%s", m->id);
	forget_missing(all, id);
	pthread_mutex_unlock(&all->lock);
	if (!id[0])
		return fail(-ENOENT, "volume %s: not mounted here; see perilune volume list", name);
	return host_db_put(all->host->db, HOST_VOLUMES, id, NULL);
}

static int busy(struct host_volume *v, const char *with)
{
	(void)fail(-EBUSY, "volume %s: in use by %s; stop that first", v->name, with);
	err_object("%s", v->name);
	err_holder("%s", v->all->host->name);
	return -EBUSY;
}

/* Caller holds the lock and one use. */
static void wait_idle(struct host_volume *v)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += IDLE_MS / 1000;
	while (!v->vms && v->uses > 1) {
		if (v->cleaning) /* our own work: it is no reason to say busy */
			pthread_cond_wait(&v->all->idle, &v->all->lock);
		else if (pthread_cond_timedwait(&v->all->idle, &v->all->lock, &until))
			break;
	}
}

int host_volume_unmount(struct host_volumes *all, const char *name)
{
	struct host_volume *v;
	int rc;

	pthread_mutex_lock(&all->mounting);
	rc = host_volume_get(all, name, &v);
	if (rc < 0) {
		rc = forget(all, name);
		goto out;
	}
	pthread_mutex_lock(&all->lock);
	wait_idle(v);
	if (v->vms)
		rc = busy(v, "VMs that run here");
	else if (v->uses > 1)
		rc = busy(v, "tasks of this host");
	else
		list_del(&v->link); /* nobody finds it any more */
	pthread_mutex_unlock(&all->lock);
	if (rc < 0) {
		host_volume_put(v);
		goto out;
	}
	host_promised_destroy(v->promised);
	host_peers_await(all->host->peers, v->id);
	host_peers_leave(all->host->peers, v->fs);
	rc = cfs_unmount(v->fs);
	if (rc < 0) {
		v->promised = host_promised_create(v->fs);
		host_peers_join(all->host->peers, v->fs);
		pthread_mutex_lock(&all->lock);
		list_add_tail(&all->list, &v->link);
		v->uses--;
		pthread_mutex_unlock(&all->lock);
		goto out;
	}
	rc = host_db_put(all->host->db, HOST_VOLUMES, v->id, NULL);
	luns_release(all, v->lun, v->luns);
	host_event(all->host->events, "volume", v->name, "unmounted");
	free(v);
out:
	pthread_mutex_unlock(&all->mounting);
	return rc;
}

/* --- the thread that mounts what is missing ---------------------------------------------------------------- */

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
	struct missing *m;
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

static void note_error(struct host_volumes *all, const char *id, const char *why)
{
	struct missing *m;
	char name[64] = "";
	bool new = false;

	pthread_mutex_lock(&all->lock);
	list_for_each (m, &all->missing, link) {
		if (strcmp(m->id, id))
			continue;
		new = strncmp(m->error, why, sizeof(m->error) - 1) != 0;
		(void)str_format(m->error, sizeof(m->error), "%s", why);
		memcpy(name, m->name, sizeof(name));
	}
	pthread_mutex_unlock(&all->lock);
	if (new) /* once a reason, not once a try */
		host_event(all->host->events, "volume", name, "cannot be mounted: %s", why);
}

/* Caller holds the lock. An evicted volume is missing from now on, whoever still works with it here. */
static void note_lost(struct host_volumes *all, struct host_volume *v)
{
	struct missing *m = xcalloc(1, sizeof(*m));

	list_del(&v->link);
	list_add_tail(&all->lost, &v->link);
	memcpy(m->id, v->id, sizeof(m->id));
	memcpy(m->name, v->name, sizeof(m->name));
	(void)str_format(m->error, sizeof(m->error),
			 "another host took over this host's place; it is mounted anew");
	for (; m->luns < v->luns; m->luns++)
		(void)str_format(m->lun[m->luns], sizeof(m->lun[0]), "%s",
				 host_lun_name(v->lun[m->luns]));
	list_add_tail(&all->missing, &m->link);
}

/* Caller holds the lock; one that is lost and used by nobody any more, out of the list. */
static struct host_volume *take_lost(struct host_volumes *all)
{
	struct host_volume *v, *tmp;

	list_for_each_safe (v, tmp, &all->list, link)
		if (v->lost && !v->vms)
			note_lost(all, v);
	list_for_each (v, &all->lost, link)
		if (!v->uses) {
			list_del(&v->link);
			return v;
		}
	return NULL;
}

/* A life that is over is let go without a word to the disk; false: there is none. */
static bool renew_lost(struct host_volumes *all)
{
	struct host_volume *v;

	pthread_mutex_lock(&all->mounting);
	pthread_mutex_lock(&all->lock);
	v = take_lost(all);
	pthread_mutex_unlock(&all->lock);
	if (v) {
		host_promised_destroy(v->promised);
		host_peers_leave(all->host->peers, v->fs);
		cfs_abandon(v->fs);
		luns_release(all, v->lun, v->luns);
		free(v);
	}
	pthread_mutex_unlock(&all->mounting);
	return v != NULL;
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

static void *restorer(void *arg)
{
	struct host_volumes *all = arg;
	struct timespec until;
	char id[40], name[64];
	const char *names[1] = {id};
	bool first;

	for (;;) {
		while (renew_lost(all))
			;
		for (unsigned at = 0; next_missing(all, at, id);) {
			int rc;

			host_peers_await(all->host->peers, id);
			rc = host_volume_mount(all, names, 1, NULL, false, name);

			if (rc < 0) {
				note_error(all, id, err_message(rc));
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
		clock_gettime(CLOCK_MONOTONIC, &until);
		until.tv_sec += RETRY_MS / 1000;
		if (!all->ending)
			pthread_cond_timedwait(&all->wake, &all->lock, &until);
		if (all->ending)
			break;
		pthread_mutex_unlock(&all->lock);
	}
	pthread_mutex_unlock(&all->lock);
	return NULL;
}

bool host_volumes_ending(struct host_volumes *all)
{
	bool yes;

	pthread_mutex_lock(&all->lock);
	yes = all->ending;
	pthread_mutex_unlock(&all->lock);
	return yes;
}

int host_volumes_create(struct host *host, struct host_volumes **out)
{
	struct host_volumes *all = xcalloc(1, sizeof(*all));
	pthread_condattr_t monotonic;

	all->host = host;
	list_init(&all->list);
	list_init(&all->lost);
	list_init(&all->missing);
	pthread_mutex_init(&all->mounting, NULL);
	pthread_mutex_init(&all->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&all->wake, &monotonic);
	pthread_cond_init(&all->tried, &monotonic);
	pthread_cond_init(&all->idle, &monotonic);
	*out = all;
	return host_db_each(host->db, HOST_VOLUMES, remembered, all);
}

void host_volumes_restore(struct host_volumes *all, unsigned wait_ms)
{
	struct timespec until;

	MUST(pthread_create(&all->thread, NULL, restorer, all) == 0);
	pthread_setname_np(all->thread, "mounter");
	all->started = true;
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += wait_ms / 1000;
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

void host_volumes_destroy(struct host_volumes *all)
{
	struct host_volume *v, *tmp;
	struct missing *m, *mtmp;

	if (!all)
		return;
	list_splice_tail(&all->list, &all->lost);
	list_for_each_safe (v, tmp, &all->list, link) {
		int rc;

		host_promised_destroy(v->promised);
		host_peers_leave(all->host->peers, v->fs);
		rc = v->vms ? -EBUSY : cfs_unmount(v->fs);

		if (rc < 0) { /* the next daemon goes on where this one ends */
			log_info("host", "volume %s: left as it is", v->name);
			cfs_abandon(v->fs);
		}
		luns_release(all, v->lun, v->luns);
		free(v);
	}
	list_for_each_safe (m, mtmp, &all->missing, link)
		free(m);
	free(all);
}
