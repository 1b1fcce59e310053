// SPDX-License-Identifier: Apache-2.0
/*
 * promised.c: a walk through a volume's directories in a thread of its own, which sleeps until
 * somebody asks. A volume whose lease does not run is not walked: the walk would wait on it.
 */
#include "host/promised.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <jansson.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/util.h"
#include "clusterfs/cfs.h"

#define WAIT_MS	  300	/* a caller waits so long for a count */
#define FRESH_MS  5000	/* a count is good for that long */
#define NAMES_MAX 20000 /* a count that meets more is given up: it would disturb others' locks */

struct host_promised {
	struct cfs *fs;
	pthread_t thread;
	pthread_mutex_t lock; /* guards all below */
	pthread_cond_t wake, counted;
	bool wanted, counting, ending;
	bool stale; /* a disk changed since the last count began */
	uint64_t bytes, counted_ms, cost_ms;
};

struct walk {
	struct host_promised *p;
	json_t *dirs;
	const char *dir;
	uint64_t bytes, names;
};

static bool ending(struct host_promised *p)
{
	bool yes;

	pthread_mutex_lock(&p->lock);
	yes = p->ending;
	pthread_mutex_unlock(&p->lock);
	return yes;
}

static int entry(void *arg, const char *name, const struct cfs_stat *st)
{
	struct walk *w = arg;
	cleanup_free char *path = xasprintf("%s%s%s", w->dir, w->dir[1] ? "/" : "", name);

	if (++w->names > NAMES_MAX || ending(w->p))
		return -ECANCELED;
	if (st->kind == CFS_DISK && !st->created_ns) /* another host has not written its size yet */
		return -EAGAIN;
	if (st->kind == CFS_DISK && !st->deleting)
		w->bytes += st->size;
	else if (st->kind == CFS_DIR)
		json_array_append_new(w->dirs, json_string(path));
	return 0;
}

static uint64_t count(struct host_promised *p)
{
	struct walk w = {.p = p, .dirs = json_array()};
	struct cfs_info *info = xcalloc(1, sizeof(*info));
	int rc = cfs_info(p->fs, info);

	if (rc == 0 && strcmp(info->state, "mounted"))
		rc = -ESTALE;
	free(info);
	json_array_append_new(w.dirs, json_string("/"));
	for (size_t i = 0; i < json_array_size(w.dirs) && rc == 0; i++) {
		w.dir = json_string_value(json_array_get(w.dirs, i));
		rc = cfs_readdir(p->fs, w.dir, entry, &w);
		if (rc == -ENOENT && i > 0)
			rc = 0;
	}
	json_decref(w.dirs);
	err_clear();
	return rc < 0 ? UINT64_MAX : w.bytes;
}

static void *counter(void *arg)
{
	struct host_promised *p = arg;

	pthread_mutex_lock(&p->lock);
	while (!p->ending) {
		uint64_t began, bytes;

		if (!p->wanted) {
			pthread_cond_wait(&p->wake, &p->lock);
			continue;
		}
		p->wanted = p->stale = false;
		p->counting = true;
		pthread_mutex_unlock(&p->lock);
		began = clock_boot_ms();
		bytes = count(p);
		pthread_mutex_lock(&p->lock);
		p->bytes = bytes;
		p->counted_ms = clock_boot_ms();
		p->cost_ms = p->counted_ms - began;
		p->counting = false;
		pthread_cond_broadcast(&p->counted);
	}
	pthread_mutex_unlock(&p->lock);
	return NULL;
}

struct host_promised *host_promised_create(struct cfs *fs)
{
	struct host_promised *p = xcalloc(1, sizeof(*p));

	p->fs = fs;
	p->bytes = UINT64_MAX;
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->wake, NULL);
	pthread_cond_init(&p->counted, NULL);
	MUST(pthread_create(&p->thread, NULL, counter, p) == 0);
	pthread_setname_np(p->thread, "promised");
	return p;
}

void host_promised_destroy(struct host_promised *p)
{
	if (!p)
		return;
	pthread_mutex_lock(&p->lock);
	p->ending = true;
	pthread_cond_signal(&p->wake);
	pthread_cond_broadcast(&p->counted);
	pthread_mutex_unlock(&p->lock);
	pthread_join(p->thread, NULL);
	free(p);
}

void host_promised_stale(struct host_promised *p)
{
	pthread_mutex_lock(&p->lock);
	p->stale = true;
	pthread_mutex_unlock(&p->lock);
}

uint64_t host_promised_get(struct host_promised *p, bool wait)
{
	uint64_t bytes, now = clock_boot_ms();
	struct timespec until = clock_in_ms(WAIT_MS);

	pthread_mutex_lock(&p->lock);
	/* Counting takes at most a twentieth of the time. */
	if (!p->counted_ms || p->stale || now > p->counted_ms + MAX(FRESH_MS, 20 * p->cost_ms)) {
		p->wanted = true;
		pthread_cond_signal(&p->wake);
	}
	while (wait && !p->ending && p->cost_ms < WAIT_MS && (p->wanted || p->counting) &&
	       pthread_cond_clockwait(&p->counted, &p->lock, CLOCK_MONOTONIC, &until) == 0)
		;
	bytes = p->bytes;
	pthread_mutex_unlock(&p->lock);
	return bytes;
}
