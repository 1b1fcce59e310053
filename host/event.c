// SPDX-License-Identifier: Apache-2.0
/*
 * event.c: a ring of events under a mutex that is never held across I/O, and a thread that carries
 * new ones to the inventory in batches.
 */
#include "host/event.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/util.h"
#include "host/call.h"
#include "host/db.h"

/* One batch to the inventory. */
#define BATCH 64

struct host_events {
	struct host_db *db;
	pthread_mutex_t lock; /* guards all below */
	pthread_cond_t more;
	uint64_t next;	/* number of the next event, from 1 */
	uint64_t saved; /* all below are in the inventory */
	bool ending;
	pthread_t thread;
	json_t *ring[HOST_EVENTS_KEPT]; /* number % HOST_EVENTS_KEPT */
};

static void loaded(void *arg, const char *key, uint64_t number, json_t *value)
{
	struct host_events *e = arg;
	json_t **slot = &e->ring[number % HOST_EVENTS_KEPT];

	(void)key;
	json_decref(*slot);
	*slot = json_incref(value);
	e->next = MAX(e->next, number + 1);
}

/* Caller holds the lock; gives it up while it writes. */
static void save_batch(struct host_events *e)
{
	uint64_t keys[BATCH];
	json_t *values[BATCH];
	unsigned n = 0;

	/* A burst longer than the ring: what was overwritten is gone. */
	if (e->next - e->saved > HOST_EVENTS_KEPT)
		e->saved = e->next - HOST_EVENTS_KEPT;
	for (; n < BATCH && e->saved + n < e->next; n++) {
		keys[n] = e->saved + n;
		values[n] = json_incref(e->ring[keys[n] % HOST_EVENTS_KEPT]);
	}
	e->saved += n;
	pthread_mutex_unlock(&e->lock);
	if (host_db_append(e->db, HOST_EVENTS, keys, values, n, HOST_EVENTS_KEPT) < 0)
		log_warn("host", "%u events could not be kept in the inventory", n);
	pthread_mutex_lock(&e->lock);
	for (unsigned i = 0; i < n; i++)
		json_decref(values[i]);
}

static void *writer(void *arg)
{
	struct host_events *e = arg;

	pthread_mutex_lock(&e->lock);
	for (;;) {
		if (e->saved < e->next)
			save_batch(e);
		else if (e->ending)
			break;
		else
			pthread_cond_wait(&e->more, &e->lock);
	}
	pthread_mutex_unlock(&e->lock);
	return NULL;
}

int host_events_create(struct host_db *db, struct host_events **out)
{
	struct host_events *e = xcalloc(1, sizeof(*e));
	int rc;

	e->db = db;
	e->next = 1;
	pthread_mutex_init(&e->lock, NULL);
	pthread_cond_init(&e->more, NULL);
	rc = host_db_each(db, HOST_EVENTS, loaded, e);
	e->saved = e->next;
	if (rc < 0) {
		free(e);
		return rc;
	}
	MUST(pthread_create(&e->thread, NULL, writer, e) == 0);
	pthread_setname_np(e->thread, "events");
	*out = e;
	return 0;
}

void host_events_destroy(struct host_events *e)
{
	if (!e)
		return;
	pthread_mutex_lock(&e->lock);
	e->ending = true;
	pthread_cond_signal(&e->more);
	pthread_mutex_unlock(&e->lock);
	pthread_join(e->thread, NULL);
	for (unsigned i = 0; i < HOST_EVENTS_KEPT; i++)
		json_decref(e->ring[i]);
	free(e);
}

void host_event(struct host_events *e, const char *kind, const char *object, const char *fmt, ...)
{
	char text[512];
	va_list ap;
	json_t *v, **slot;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	log_info("host", "%s %s: %s", kind, object, text);
	if (!e)
		return;
	v = json_pack("{s:o, s:s, s:s, s:s}", "time", host_json_time(clock_wall_ns()), "kind", kind,
		      "object", object, "text", text);
	if (!v) /* not UTF-8 */
		return;
	pthread_mutex_lock(&e->lock);
	json_object_set_new(v, "id", json_integer((json_int_t)e->next));
	slot = &e->ring[e->next++ % HOST_EVENTS_KEPT];
	json_decref(*slot);
	*slot = v;
	pthread_cond_signal(&e->more);
	pthread_mutex_unlock(&e->lock);
}

json_t *host_events_list(struct host_events *e, uint64_t since, unsigned limit)
{
	json_t *list = json_array();
	uint64_t n;

	limit = MIN(limit, HOST_EVENTS_KEPT);
	pthread_mutex_lock(&e->lock);
	n = e->next > limit ? e->next - limit : 1;
	for (n = MAX(n, since + 1); n < e->next; n++) {
		json_t *v = e->ring[n % HOST_EVENTS_KEPT];

		if (v)
			json_array_append_new(list, json_deep_copy(v));
	}
	pthread_mutex_unlock(&e->lock);
	return list;
}
