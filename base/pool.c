// SPDX-License-Identifier: Apache-2.0
/* pool.c: threads that take jobs from one queue. The mutex guards the queue only. */
#include "base/pool.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/util.h"

struct pool {
	pthread_mutex_t lock;
	pthread_cond_t more;
	struct pool_job *first, **last;
	bool ending;
	unsigned n;
	pthread_t threads[];
};

static void *pool_main(void *arg)
{
	struct pool *pool = arg;
	struct pool_job *job;

	pthread_mutex_lock(&pool->lock);
	for (;;) {
		while (!pool->first && !pool->ending)
			pthread_cond_wait(&pool->more, &pool->lock);
		job = pool->first;
		if (!job)
			break;
		pool->first = job->next;
		if (!pool->first)
			pool->last = &pool->first;
		pthread_mutex_unlock(&pool->lock);
		err_clear();
		job->fn(job);
		pthread_mutex_lock(&pool->lock);
	}
	pthread_mutex_unlock(&pool->lock);
	return NULL;
}

int pool_create(struct pool **out, const char *name, unsigned threads)
{
	struct pool *pool = xcalloc(1, sizeof(*pool) + threads * sizeof(pthread_t));
	char title[16];

	pthread_mutex_init(&pool->lock, NULL);
	pthread_cond_init(&pool->more, NULL);
	pool->last = &pool->first;
	for (; pool->n < threads; pool->n++) {
		int rc = pthread_create(&pool->threads[pool->n], NULL, pool_main, pool);

		if (rc) {
			pool_destroy(pool);
			return fail(-rc, "pool %s: cannot start a thread: %s", name, strerror(rc));
		}
		(void)str_format(title, sizeof(title), "%.10s/%u", name, pool->n);
		pthread_setname_np(pool->threads[pool->n], title);
	}
	*out = pool;
	return 0;
}

void pool_destroy(struct pool *pool)
{
	if (!pool)
		return;
	pthread_mutex_lock(&pool->lock);
	pool->ending = true;
	pthread_cond_broadcast(&pool->more);
	pthread_mutex_unlock(&pool->lock);
	for (unsigned i = 0; i < pool->n; i++)
		pthread_join(pool->threads[i], NULL);
	pthread_cond_destroy(&pool->more);
	pthread_mutex_destroy(&pool->lock);
	free(pool);
}

void pool_submit(struct pool *pool, struct pool_job *job)
{
	job->next = NULL;
	pthread_mutex_lock(&pool->lock);
	MUST(!pool->ending);
	*pool->last = job;
	pool->last = &job->next;
	pthread_cond_signal(&pool->more);
	pthread_mutex_unlock(&pool->lock);
}
