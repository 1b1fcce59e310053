// SPDX-License-Identifier: Apache-2.0
/*
 * lun.c: the registry of LUNs and the `lun` verbs. The mutex is never held while a LUN is opened
 * (a login may take seconds): two who open the same one at once settle it afterwards, by id.
 */
#include "host/lun.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/util.h"
#include "blockdev/blk.h"
#include "blockdev/discover.h"
#include "host/daemon.h"
#include "host/db.h"
#include "host/event.h"
#include "host/verbs.h"
#include "host/vm_pass.h"

#define LUNS_MAX     64	  /* of one request */
#define PATH_NEWS_MS 5000 /* a session's answer tells that long of the whole path: some beats */

struct host_lun {
	struct list link;
	struct blk *blk; /* NULL: remembered, not open */
	char name[256];	 /* as it was given, absolute when a path */
	char id[80];	 /* empty until it was open once */
	char user[80];	 /* "volume v1" or empty */
	char chap[256];	 /* file, or empty */
	char error[256]; /* why it is not open */
	unsigned uses;	 /* host_lun_get without put */
	bool remembered; /* in the inventory */
	bool read_only;
	uint64_t opened_ns; /* wall time */
};

struct host_luns {
	struct host *host;
	pthread_mutex_t lock; /* guards the list and all fields but blk, which a use keeps alive */
	struct list list;
};

struct blk *host_lun_blk(struct host_lun *lun)
{
	return lun->blk;
}

const char *host_lun_name(const struct host_lun *lun)
{
	return lun->name;
}

/* A path becomes absolute and free of links, so that one LUN has one name. */
static void whole_name(const char *name, char *dst, size_t size)
{
	cleanup_free char *real = strstr(name, "://") ? NULL : realpath(name, NULL);

	(void)str_format(dst, size, "%s", real ? real : name);
}

/* Caller holds the lock. */
static struct host_lun *find(struct host_luns *luns, const char *name)
{
	struct host_lun *lun;

	list_for_each (lun, &luns->list, link)
		if (!strcmp(lun->name, name) || (lun->id[0] && !strcmp(lun->id, name)))
			return lun;
	return NULL;
}

static int remember(struct host_luns *luns, const struct host_lun *lun, bool yes)
{
	json_t *v = NULL;
	int rc;

	if (!luns->host->db)
		return 0;
	if (yes)
		v = json_pack("{s:s, s:s}", "id", lun->id, "chap_file", lun->chap);
	rc = host_db_put(luns->host->db, HOST_LUNS, lun->name, v);
	json_decref(v);
	return rc;
}

static int open_blk(struct host_luns *luns, const char *name, const char *chap, bool read_only,
		    struct blk **out)
{
	cleanup_free char *own_chap = NULL;
	struct blk_options options = {.read_only = read_only};
	struct host *host = luns->host;
	struct blk *blk;
	int rc;

	if (!host->offline) {
		options.initiator = host->state.initiator;
		options.isid = host->state.isid;
		own_chap = xasprintf("%s/chap", host->state.dir);
		if (access(own_chap, R_OK) == 0)
			options.chap_file = own_chap;
	}
	if (chap && *chap)
		options.chap_file = chap;
	rc = blk_open(name, &options, &blk);
	if (rc < 0)
		return rc;
	rc = blk_fault_wrap(blk, out);
	if (rc < 0)
		blk_close(blk);
	return rc;
}

/* Caller holds the lock: a freshly opened blk finds its place; a second opening of it is closed. */
static struct host_lun *settle(struct host_luns *luns, const char *name, struct blk **blk,
			       bool read_only)
{
	const struct blk_info *info = blk_info(*blk);
	struct host_lun *lun = find(luns, info->id);

	if (!lun)
		lun = find(luns, name);
	if (!lun) {
		lun = xcalloc(1, sizeof(*lun));
		(void)str_format(lun->name, sizeof(lun->name), "%s", name);
		list_add_tail(&luns->list, &lun->link);
	}
	if (!lun->blk) {
		lun->blk = *blk;
		lun->read_only = read_only;
		lun->opened_ns = clock_wall_ns();
		lun->error[0] = 0;
		(void)str_format(lun->id, sizeof(lun->id), "%s", info->id);
		*blk = NULL;
	}
	return lun;
}

int host_lun_get(struct host_luns *luns, const char *name, const char *chap_file, bool read_only,
		 struct host_lun **out)
{
	char whole[256], open_name[256], chap[256] = "";
	struct blk *blk = NULL, *idle = NULL;
	struct host_lun *lun;
	int rc;

	if (chap_file)
		(void)str_format(chap, sizeof(chap), "%s", chap_file);
	whole_name(name, whole, sizeof(whole));
	pthread_mutex_lock(&luns->lock);
	lun = find(luns, whole);
	if (lun && lun->blk && lun->read_only && !read_only && !lun->uses) {
		idle = lun->blk; /* open for looking only: once more, to write */
		lun->blk = NULL;
	}
	if (lun && lun->blk) {
		lun->uses++;
		pthread_mutex_unlock(&luns->lock);
		*out = lun;
		return 0;
	}
	(void)str_format(open_name, sizeof(open_name), "%s", lun ? lun->name : whole);
	if (lun && !chap[0])
		(void)str_format(chap, sizeof(chap), "%s", lun->chap);
	pthread_mutex_unlock(&luns->lock);
	if (idle)
		blk_close(idle);

	rc = open_blk(luns, open_name, chap, read_only, &blk);
	pthread_mutex_lock(&luns->lock);
	if (rc < 0) {
		lun = find(luns, whole);
		if (lun)
			(void)str_format(lun->error, sizeof(lun->error), "%s", err_message(rc));
		pthread_mutex_unlock(&luns->lock);
		err_object("%s", name);
		return rc;
	}
	lun = settle(luns, open_name, &blk, read_only);
	if (chap[0])
		(void)str_format(lun->chap, sizeof(lun->chap), "%s", chap);
	lun->uses++;
	pthread_mutex_unlock(&luns->lock);
	if (blk)
		blk_close(blk);
	*out = lun;
	return 0;
}

void host_lun_put(struct host_luns *luns, struct host_lun *lun)
{
	struct blk *blk = NULL;

	pthread_mutex_lock(&luns->lock);
	MUST(lun->uses > 0);
	if (--lun->uses == 0 && !lun->remembered) {
		list_del(&lun->link);
		blk = lun->blk;
	} else {
		lun = NULL;
	}
	pthread_mutex_unlock(&luns->lock);
	if (blk)
		blk_close(blk);
	free(lun);
}

int host_lun_claim(struct host_luns *luns, struct host_lun *lun, const char *user)
{
	char other[80];

	pthread_mutex_lock(&luns->lock);
	memcpy(other, lun->user, sizeof(other));
	if (!other[0])
		(void)str_format(lun->user, sizeof(lun->user), "%s", user);
	pthread_mutex_unlock(&luns->lock);
	if (!other[0])
		return 0;
	(void)fail(-EBUSY, "%s: in use here by %s; unmount or wait for that first", lun->name,
		   other);
	err_object("%s", lun->name);
	err_holder("%s, %s", luns->host->name, other);
	return -EBUSY;
}

void host_lun_set_user(struct host_luns *luns, struct host_lun *lun, const char *user)
{
	pthread_mutex_lock(&luns->lock);
	(void)str_format(lun->user, sizeof(lun->user), "%s", user ? user : "");
	pthread_mutex_unlock(&luns->lock);
}

bool host_luns_user(struct host_luns *luns, const char *name, char user[80])
{
	struct host_lun *lun;

	pthread_mutex_lock(&luns->lock);
	lun = find(luns, name);
	(void)str_format(user, 80, "%s", lun ? lun->user : "");
	pthread_mutex_unlock(&luns->lock);
	return user[0] != 0;
}

int host_luns_each(struct host_luns *luns, int (*fn)(void *arg, struct host_lun *lun), void *arg)
{
	struct host_lun *held[256], *lun;
	unsigned n = 0;
	int rc = 0;

	pthread_mutex_lock(&luns->lock);
	list_for_each (lun, &luns->list, link)
		if (lun->blk && n < ARRAY_SIZE(held)) {
			lun->uses++;
			held[n++] = lun;
		}
	pthread_mutex_unlock(&luns->lock);
	for (unsigned i = 0; i < n; i++) {
		if (rc == 0)
			rc = fn(arg, held[i]);
		host_lun_put(luns, held[i]);
	}
	return rc;
}

static void restored(void *arg, const char *key, uint64_t number, json_t *value)
{
	struct host_luns *luns = arg;
	struct host_lun *lun = xcalloc(1, sizeof(*lun));
	const char *id = json_string_value(json_object_get(value, "id"));
	const char *chap = json_string_value(json_object_get(value, "chap_file"));

	(void)number;
	(void)str_format(lun->name, sizeof(lun->name), "%s", key);
	(void)str_format(lun->id, sizeof(lun->id), "%s", id ? id : "");
	(void)str_format(lun->chap, sizeof(lun->chap), "%s", chap ? chap : "");
	lun->remembered = true;
	list_add_tail(&luns->list, &lun->link);
}

int host_luns_create(struct host *host, struct host_luns **out)
{
	struct host_luns *luns = xcalloc(1, sizeof(*luns));

	luns->host = host;
	list_init(&luns->list);
	pthread_mutex_init(&luns->lock, NULL);
	*out = luns;
	return host->db ? host_db_each(host->db, HOST_LUNS, restored, luns) : 0;
}

void host_luns_restore(struct host_luns *luns)
{
	char names[LUNS_MAX][256];
	struct host_lun *lun;
	unsigned n = 0;

	pthread_mutex_lock(&luns->lock);
	list_for_each (lun, &luns->list, link)
		if (!lun->blk && n < LUNS_MAX)
			(void)str_format(names[n++], sizeof(names[0]), "%s", lun->name);
	pthread_mutex_unlock(&luns->lock);
	for (unsigned i = 0; i < n; i++) {
		int rc = host_lun_get(luns, names[i], NULL, false, &lun);

		if (rc < 0)
			host_event(luns->host->events, "lun", names[i], "cannot be reached: %s",
				   err_message(rc));
		else
			host_lun_put(luns, lun);
	}
}

void host_luns_destroy(struct host_luns *luns)
{
	struct host_lun *lun, *tmp;

	if (!luns)
		return;
	list_for_each_safe (lun, tmp, &luns->list, link) {
		if (lun->blk && !lun->uses)
			blk_close(lun->blk);
		free(lun);
	}
	free(luns);
}

void host_luns_release(struct host_call *call, struct host_lun **luns, unsigned n, bool read_only)
{
	for (unsigned i = 0; i < n; i++) {
		if (!read_only)
			host_lun_set_user(call->host->luns, luns[i], NULL);
		host_lun_put(call->host->luns, luns[i]);
	}
}

static int hold_one(struct host_call *call, const char *name, bool read_only, struct host_lun **out)
{
	struct host_luns *all = call->host->luns;
	cleanup_free char *user = xasprintf("%s %s", call->verb->noun, call->verb->verb);
	int rc = host_lun_get(all, name, host_arg(call, "chap_file"), read_only, out);

	if (rc < 0 || read_only)
		return rc;
	rc = vm_pass_check_free(call->host, blk_info(host_lun_blk(*out))->id, name);
	if (rc == 0)
		rc = host_lun_claim(all, *out, user);
	if (rc < 0)
		host_lun_put(all, *out);
	return rc;
}

int host_luns_hold(struct host_call *call, const char *const *names, unsigned n, bool read_only,
		   struct host_lun **luns, struct blk **blks)
{
	for (unsigned i = 0; i < n; i++) {
		int rc = hold_one(call, names[i], read_only, &luns[i]);

		if (rc < 0) {
			struct err_info why;

			err_save(&why, rc);
			for (unsigned k = 0; k < i; k++) {
				if (strcmp(names[k], names[i]))
					continue;
				memset(&why, 0, sizeof(why));
				why.err = -EINVAL;
				(void)str_format(why.message, sizeof(why.message),
						 "%s: named twice", names[i]);
			}
			host_luns_release(call, luns, i, read_only);
			return err_restore(&why);
		}
		blks[i] = host_lun_blk(luns[i]);
	}
	return 0;
}

/* --- verbs --------------------------------------------------------------------------------------- */

static const char *kind_name(enum blk_kind kind)
{
	switch (kind) {
	case BLK_FILE:
		return "file";
	case BLK_KERNEL:
		return "kernel";
	case BLK_ISCSI:
		return "iscsi";
	}
	return "unknown";
}

static json_t *describe_probe(struct host_lun *lun)
{
	const struct blk_info *i = blk_info(lun->blk);
	const char *cas = blk_cas_name(i->cas);
	json_t *path = json_pack("{s:s, s:s, s:s}", "path", lun->name, "kind", kind_name(i->kind),
				 "state", "up");

	return json_pack("{s:s, s:s, s:s, s:I, s:i, s:i, s:o, s:b, s:b, s:b, s:b, s:b, s:b, s:b,"
			 " s:[o]}",
			 "id", i->id, "name", lun->name, "kind", kind_name(i->kind), "size",
			 (json_int_t)i->size, "block_size", (int)i->block_size,
			 "physical_block_size", (int)i->physical_block_size, "compare_and_write",
			 cas ? json_string(cas) : json_null(), "reservations", i->reservations,
			 "preempt_abort", i->preempt_abort, "unmap", i->unmap, "write_same",
			 i->write_same, "zeroes_after_unmap", i->zeroes_after_unmap, "write_cache",
			 i->write_cache, "reinstatement", i->reinstatement, "paths", path);
}

/*
 * A path has several sessions. Some are lost while others are answered: "reconnecting". What was lost
 * and not asked for since says nothing. *since: wall time.
 */
static const char *path_state(const struct host_lun *lun, const struct blk_stats *s,
			      uint64_t *since_ns)
{
	uint64_t age_ns = s->lost_ns ? s->lost_since_ns : s->back_ns;

	age_ns = clock_boot_ns() - age_ns;
	*since_ns = s->lost_ns || s->back_ns ? clock_wall_ns() - age_ns : lun->opened_ns;
	if (!s->lost_ns)
		return "up";
	if (s->good_ns > s->lost_ns + PATH_NEWS_MS * NS_PER_MS) {
		*since_ns = s->back_ns ? clock_wall_ns() - (clock_boot_ns() - s->back_ns)
				       : lun->opened_ns;
		return "up";
	}
	return s->good_ns + PATH_NEWS_MS * NS_PER_MS > s->lost_ns ? "reconnecting" : "down";
}

json_t *host_lun_path(struct host_luns *luns, struct host_lun *lun)
{
	const struct blk_info *i = blk_info(lun->blk);
	struct blk_stats stats;
	const char *state;
	uint64_t since_ns;
	json_t *d;

	blk_get_stats(lun->blk, &stats);
	state = path_state(lun, &stats, &since_ns);
	pthread_mutex_lock(&luns->lock);
	d = json_pack("{s:s, s:s, s:s, s:s, s:o, s:i, s:s, s:I, s:I, s:I}", "lun", i->id, "path",
		      lun->name, "kind", kind_name(i->kind), "state", state, "since",
		      host_json_time(since_ns), "group", 0, "policy", "fixed", "errors",
		      (json_int_t)stats.errors, "latency_us", (json_int_t)(stats.latency_ns / 1000),
		      "bytes", (json_int_t)(stats.bytes_read + stats.bytes_written));
	pthread_mutex_unlock(&luns->lock);
	return d;
}

/* One LUN gives an object, several a list of them. */
static int lun_probe(struct host_call *call)
{
	const char *names[LUNS_MAX];
	struct host_luns *luns = call->host->luns;
	int n = host_arg_list(call, "luns", names, LUNS_MAX);
	json_t *list = json_array();

	if (n <= 0) {
		json_decref(list);
		return n < 0 ? n : fail(-EINVAL, "lun probe: name a LUN, as in /srv/lun0.img");
	}
	for (int i = 0; i < n; i++) {
		struct host_lun *lun;
		int rc = host_lun_get(luns, names[i], host_arg(call, "chap_file"), false, &lun);

		if (rc < 0) {
			json_decref(list);
			return rc;
		}
		json_array_append_new(list, describe_probe(lun));
		host_lun_put(luns, lun);
	}
	call->result = n == 1 ? json_incref(json_array_get(list, 0)) : json_incref(list);
	json_decref(list);
	return 0;
}

static void discovered(void *arg, const char *target, const char *url, const char *error)
{
	json_t *d = json_pack("{s:s, s:s?, s:s?}", "target", target, "lun", url, "error", error);

	if (d)
		json_array_append_new(arg, d);
}

static int lun_discover(struct host_call *call)
{
	struct host *host = call->host;
	cleanup_free char *own_chap = NULL;
	const char *portal, *chap = host_arg(call, "chap_file");
	int rc = host_arg_need(call, "portal", &portal);

	if (rc < 0)
		return rc;
	if (!chap && !host->offline) {
		own_chap = xasprintf("%s/chap", host->state.dir);
		chap = access(own_chap, R_OK) == 0 ? own_chap : NULL;
	}
	call->result = json_array();
	return blk_discover(portal, host->offline ? NULL : host->state.initiator, chap, discovered,
			    call->result);
}

static int lun_list(struct host_call *call)
{
	struct host_luns *luns = call->host->luns;
	struct host_lun *lun;

	call->result = json_array();
	pthread_mutex_lock(&luns->lock);
	list_for_each (lun, &luns->list, link) {
		const struct blk_info *i = lun->blk ? blk_info(lun->blk) : NULL;
		json_t *d = json_pack("{s:s, s:s, s:s, s:o, s:b, s:s, s:s}", "id", lun->id, "name",
				      lun->name, "state", lun->blk ? "connected" : "unreachable",
				      "size", i ? json_integer((json_int_t)i->size) : json_null(),
				      "remembered", lun->remembered, "used_by", lun->user, "error",
				      lun->blk ? "" : lun->error);

		if (d)
			json_array_append_new(call->result, d);
	}
	pthread_mutex_unlock(&luns->lock);
	return 0;
}

static int lun_connect(struct host_call *call)
{
	struct host_luns *luns = call->host->luns;
	struct host_lun *lun;
	const char *name;
	int rc = host_arg_need(call, "lun", &name);

	if (rc == 0)
		rc = host_lun_get(luns, name, host_arg(call, "chap_file"), false, &lun);
	if (rc < 0)
		return rc;
	rc = remember(luns, lun, true);
	if (rc == 0) {
		pthread_mutex_lock(&luns->lock);
		lun->remembered = true;
		pthread_mutex_unlock(&luns->lock);
		call->result = describe_probe(lun);
		host_event(call->host->events, "lun", lun->id, "connected as %s", lun->name);
	}
	host_lun_put(luns, lun);
	return rc;
}

static int lun_disconnect(struct host_call *call)
{
	struct host_luns *luns = call->host->luns;
	char whole[256], user[80] = "";
	struct host_lun *lun;
	const char *name;
	int rc = host_arg_need(call, "lun", &name);

	if (rc < 0)
		return rc;
	whole_name(name, whole, sizeof(whole));
	pthread_mutex_lock(&luns->lock);
	lun = find(luns, whole);
	if (lun && lun->user[0])
		(void)str_format(user, sizeof(user), "%s", lun->user);
	else if (lun)
		lun->uses++;
	pthread_mutex_unlock(&luns->lock);
	if (!lun)
		return fail(-ENOENT, "%s: not a connected LUN; see perilune lun list", name);
	if (user[0]) {
		(void)fail(-EBUSY, "%s: in use by %s; unmount that first", name, user);
		err_object("%s", name);
		err_holder("%s", user);
		return -EBUSY;
	}
	rc = remember(luns, lun, false);
	pthread_mutex_lock(&luns->lock);
	if (rc == 0)
		lun->remembered = false;
	pthread_mutex_unlock(&luns->lock);
	if (rc == 0)
		host_event(call->host->events, "lun", lun->id, "disconnected");
	host_lun_put(luns, lun);
	return rc;
}

static int rescan_one(void *arg, struct host_lun *lun)
{
	json_t *list = arg;
	uint64_t old = blk_info(lun->blk)->size;
	int rc = blk_rescan(lun->blk);
	const struct blk_info *i = blk_info(lun->blk);

	json_array_append_new(list,
			      json_pack("{s:s, s:s, s:I, s:I, s:s}", "id", i->id, "name", lun->name,
					"size", (json_int_t)i->size, "old_size", (json_int_t)old,
					"error", rc < 0 ? err_message(rc) : ""));
	return 0;
}

static int lun_rescan(struct host_call *call)
{
	host_luns_restore(call->host->luns);
	call->result = json_array();
	return host_luns_each(call->host->luns, rescan_one, call->result);
}

const struct host_verb host_lun_verbs[] = {
	{"lun", "probe", HOST_OFFLINE, lun_probe},
	{"lun", "discover", HOST_OFFLINE, lun_discover},
	{"lun", "list", HOST_QUICK, lun_list},
	{"lun", "connect", HOST_CHANGES, lun_connect},
	{"lun", "disconnect", HOST_CHANGES, lun_disconnect},
	{"lun", "rescan", HOST_CHANGES, lun_rescan},
	{NULL, NULL, 0, NULL},
};
