// SPDX-License-Identifier: Apache-2.0
/* janitor.c: one thread, in no hurry, over the groups that this host holds anyway. */
#include "clusterfs/janitor.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "clusterfs/group.h"

#define ROUND_S	    30u		/* without being woken */
#define ROUND_BYTES (256 * MiB) /* returned to the array in one round */

struct cfs_janitor {
	pthread_mutex_t lock;
	pthread_cond_t wake;
	pthread_t thread;
	bool stopping;
};

static void work(struct cfs *fs)
{
	uint64_t done;
	int rc = cfs_groups_reclaim_held(fs, ROUND_BYTES, &done);

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
		struct timespec until = clock_in_ms(ROUND_S * 1000);

		while (!j->stopping)
			if (pthread_cond_clockwait(&j->wake, &j->lock, CLOCK_MONOTONIC, &until) ==
			    ETIMEDOUT)
				break;
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
	fs->janitor = j;
	MUST(pthread_create(&j->thread, NULL, janitor_main, fs) == 0);
	return 0;
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
