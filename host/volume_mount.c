// SPDX-License-Identifier: Apache-2.0
/*
 * volume_mount.c: mounting. A search finds the volume's LUNs, by their names or by its own; what it
 * found is checked, claimed, and mounted.
 */
#include "host/volume_impl.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "blockdev/blk.h"
#include "clusterfs/cfs.h"
#include "host/daemon.h"
#include "host/event.h"
#include "host/peers.h"
#include "host/promised.h"
#include "host/vm.h"
#include "host/vm_pass.h"

/* --- finding its LUNs ------------------------------------------------------------------------------- */

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
	struct volume_missing *m;
	unsigned n = 0;
	int rc;

	/* Remembered LUNs need not be connected ones. */
	pthread_mutex_lock(&s->all->lock);
	m = volume_missing_find(s->all, name);
	for (; m && n < m->luns; n++)
		luns[n] = m->lun[n];
	pthread_mutex_unlock(&s->all->lock);
	if (m) /* stays: `mounting` is held */
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

/* --- checks ----------------------------------------------------------------------------------------- */

/* The one in `list` that has a LUN of what was found. The lock is held. */
static void name_user(struct list *list, const struct search *s, char name[64])
{
	struct host_volume *v;

	list_for_each (v, list, link)
		for (unsigned i = 0; i < v->luns; i++)
			for (unsigned k = 0; k < s->n; k++)
				if (v->lun[i] == s->lun[k])
					memcpy(name, v->name, 64);
}

static int check_not_mounted(struct host_volumes *all, struct search *s)
{
	char mounted[64] = "", leaving[64] = "";

	pthread_mutex_lock(&all->lock);
	name_user(&all->list, s, mounted);
	name_user(&all->leaving, s, leaving);
	pthread_mutex_unlock(&all->lock);
	if (!mounted[0] && !leaving[0])
		return 0;
	if (mounted[0])
		(void)fail(-EBUSY, "volume %s: mounted here already", mounted);
	else
		(void)fail(-EBUSY, "volume %s: is being unmounted here; wait for that", leaving);
	err_object("%s", mounted[0] ? mounted : leaving);
	err_holder("%s", all->host->name);
	return -EBUSY;
}

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
		list_for_each (v, &all->leaving, link)
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

/* A LUN that is a VM's is nobody else's; claimed first, so that no VM gets it from now on. */
static int check_no_vms(struct host_volumes *all, struct search *s)
{
	int rc = 0;

	for (unsigned i = 0; i < s->n && rc == 0; i++)
		rc = vm_pass_check_free(all->host, blk_info(host_lun_blk(s->lun[i]))->id,
					host_lun_name(s->lun[i]));
	return rc;
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
	v->changed |= !strcmp(kind, "label");
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
	volume_missing_drop(all, v->id);
	pthread_mutex_unlock(&all->lock);
	*out = v;
	return 0;
}

int host_volume_mount(struct host_volumes *all, const char *const *names, unsigned n,
		      const char *chap_file, bool new_identity, bool again, char name[64])
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
		rc = again ? 0 : check_no_vms(all, &s);
		if (rc == 0)
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
