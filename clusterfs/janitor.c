// SPDX-License-Identifier: Apache-2.0
/* janitor.c: one thread, in no hurry. */
#include "clusterfs/janitor.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "base/err.h"
#include "base/log.h"
#include "clusterfs/group.h"
#include "clusterfs/names.h"

#define ROUND_S	    30u		/* without being woken */
#define ROUND_BYTES (256 * MiB) /* returned to the array in one round */

struct cfs_janitor {
	pthread_mutex_t lock;
	pthread_cond_t wake;
	pthread_t thread;
	bool stopping, woken;
};

static void work(struct cfs *fs)
{
	uint64_t done;
	int rc = cfs_trash_resume(fs);

	if (rc < 0)
		log_warn("cfs", "volume %s: deleting: %s; tried again later", fs->name,
			 err_message(rc));
	err_clear();
	rc = cfs_groups_reclaim_held(fs, ROUND_BYTES, &done);
	if (rc < 0)
		log_warn("cfs", "volume %s: returning space: %s; tried again later", fs->name,
			 err_message(rc));
}

static void *janitor_main(void *arg)
{
	struct cfs *fs = arg;
	struct cfs_janitor *j = fs->janitor;

	pthread_mutex_lock(&j->lock);
	while (!j->stopping) {
		struct timespec until;

		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_sec += ROUND_S;
		while (!j->stopping && !j->woken)
			if (pthread_cond_timedwait(&j->wake, &j->lock, &until) == ETIMEDOUT)
				break;
		j->woken = false;
		if (j->stopping)
			break;
		pthread_mutex_unlock(&j->lock);
		work(fs);
		pthread_mutex_lock(&j->lock);
	}
	pthread_mutex_unlock(&j->lock);
	return NULL;
}

int cfs_janitor_start(struct cfs *fs)
{
	struct cfs_janitor *j = xcalloc(1, sizeof(*j));

	pthread_mutex_init(&j->lock, NULL);
	pthread_cond_init(&j->wake, NULL);
	j->woken = true; /* what an earlier life left */
	fs->janitor = j;
	MUST(pthread_create(&j->thread, NULL, janitor_main, fs) == 0);
	return 0;
}

void cfs_janitor_wake(struct cfs *fs)
{
	struct cfs_janitor *j = fs->janitor;

	if (!j)
		return;
	pthread_mutex_lock(&j->lock);
	j->woken = true;
	pthread_cond_signal(&j->wake);
	pthread_mutex_unlock(&j->lock);
}

bool cfs_janitor_stopping(struct cfs *fs)
{
	return fs->janitor && fs->janitor->stopping;
}

void cfs_janitor_stop(struct cfs *fs)
{
	struct cfs_janitor *j = fs->janitor;

	if (!j)
		return;
	pthread_mutex_lock(&j->lock);
	j->stopping = true;
	pthread_cond_signal(&j->wake);
	pthread_mutex_unlock(&j->lock);
	pthread_join(j->thread, NULL);
	fs->janitor = NULL;
	free(j);
}
