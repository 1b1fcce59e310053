// SPDX-License-Identifier: Apache-2.0
/* volume_missing.c: volumes that are remembered and not mounted: what the inventory names, and why not. */
#include "host/volume_impl.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "host/daemon.h"
#include "host/db.h"
#include "host/event.h"

static void remembered(void *arg, const char *key, uint64_t number, json_t *value)
{
	struct host_volumes *all = arg;
	struct volume_missing *m = xcalloc(1, sizeof(*m));
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

int volume_missing_load(struct host_volumes *all)
{
	return host_db_each(all->host->db, HOST_VOLUMES, remembered, all);
}

void volume_missing_add(struct host_volumes *all, struct host_volume *v, const char *why)
{
	struct volume_missing *m = xcalloc(1, sizeof(*m));

	memcpy(m->id, v->id, sizeof(m->id));
	memcpy(m->name, v->name, sizeof(m->name));
	(void)str_format(m->error, sizeof(m->error), "%s", why);
	for (; m->luns < v->luns; m->luns++)
		(void)str_format(m->lun[m->luns], sizeof(m->lun[0]), "%s",
				 host_lun_name(v->lun[m->luns]));
	list_add_tail(&all->missing, &m->link);
}

struct volume_missing *volume_missing_find(struct host_volumes *all, const char *name)
{
	struct volume_missing *m, *hit = NULL;

	list_for_each (m, &all->missing, link)
		if (!strcmp(m->name, name) || !strcmp(m->id, name))
			hit = m;
	return hit;
}

static void list_one(json_t *list, const char *name, const char *id, const char *state,
		     const char *error)
{
	json_t *d = json_pack("{s:s, s:s, s:n, s:n, s:s, s:s}", "name", name, "id", id, "size",
			      "free", "state", state, "error", error);

	if (d)
		json_array_append_new(list, d);
}

void host_volumes_missing(struct host_volumes *all, json_t *list)
{
	struct volume_missing *m;
	struct host_volume *v;

	pthread_mutex_lock(&all->lock);
	list_for_each (m, &all->missing, link)
		list_one(list, m->name, m->id, "missing", m->error);
	list_for_each (v, &all->leaving, link)
		if (!v->lost) /* else it is missing */
			list_one(list, v->name, v->id, "unmounting",
				 "its locks are given up; it is not used any more");
	pthread_mutex_unlock(&all->lock);
}

void volume_missing_drop(struct host_volumes *all, const char *id)
{
	struct volume_missing *m, *tmp;

	list_for_each_safe (m, tmp, &all->missing, link) {
		if (strcmp(m->id, id) && strcmp(m->name, id))
			continue;
		list_del(&m->link);
		free(m);
	}
}

void volume_missing_note(struct host_volumes *all, const char *id, const char *why)
{
	struct volume_missing *m;
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

int volume_missing_forget(struct host_volumes *all, const char *name)
{
	struct volume_missing *m;
	char id[40] = "";

	pthread_mutex_lock(&all->lock);
	m = volume_missing_find(all, name);
	if (m) {
		memcpy(id, m->id, sizeof(id));
		volume_missing_drop(all, id);
	}
	pthread_mutex_unlock(&all->lock);
	if (!id[0])
		return fail(-ENOENT, "volume %s: not mounted here; see perilune volume list", name);
	return host_db_put(all->host->db, HOST_VOLUMES, id, NULL);
}

void volume_missing_free(struct host_volumes *all)
{
	struct volume_missing *m, *tmp;

	list_for_each_safe (m, tmp, &all->missing, link)
		free(m);
}
