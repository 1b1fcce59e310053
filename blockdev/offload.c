// SPDX-License-Identifier: Apache-2.0
/* offload.c: a queue and a thread. */
#include "blockdev/offload.h"

#include <stdlib.h>
#include <string.h>

#include "base/err.h"

struct offload {
	int (*run)(struct blk_chan *chan, struct blk_req *req);
	pthread_t thread;
	pthread_mutex_t lock; /* jobs, ending; never held across I/O */
	pthread_cond_t more;
	struct list jobs;
	bool ending;
};

struct job {
	struct loop_work work;
	struct list link;
	struct blk_req *req;
	int res;
};

static void deliver(struct loop_work *work)
{
	struct job *job = container_of(work, struct job, work);

	blk_complete(job->req, job->res);
}

static void *offload_main(void *arg)
{
	struct offload *o = arg;

	pthread_mutex_lock(&o->lock);
	for (;;) {
		struct blk_chan *chan;
		struct job *job;

		while (list_empty(&o->jobs) && !o->ending)
			pthread_cond_wait(&o->more, &o->lock);
		if (list_empty(&o->jobs))
			break;
		job = list_first(&o->jobs, struct job, link);
		list_del(&job->link);
		pthread_mutex_unlock(&o->lock);
		chan = blk_priv(job->req)->chan;
		job->res = o->run(chan, job->req);
		loop_post(chan->loop, &job->work);
		pthread_mutex_lock(&o->lock);
	}
	pthread_mutex_unlock(&o->lock);
	return NULL;
}

int offload_create(struct offload **out, int (*run)(struct blk_chan *chan, struct blk_req *req))
{
	struct offload *o = xcalloc(1, sizeof(*o));
	int rc;

	o->run = run;
	list_init(&o->jobs);
	pthread_mutex_init(&o->lock, NULL);
	pthread_cond_init(&o->more, NULL);
	rc = -pthread_create(&o->thread, NULL, offload_main, o);
	if (rc < 0) {
		free(o);
		return fail(rc, "thread: %s", strerror(-rc));
	}
	pthread_setname_np(o->thread, "blk-offload");
	*out = o;
	return 0;
}

void offload_destroy(struct offload *o)
{
	if (!o)
		return;
	pthread_mutex_lock(&o->lock);
	o->ending = true;
	pthread_cond_signal(&o->more);
	pthread_mutex_unlock(&o->lock);
	pthread_join(o->thread, NULL);
	pthread_cond_destroy(&o->more);
	pthread_mutex_destroy(&o->lock);
	free(o);
}

void offload_submit(struct offload *o, struct blk_req *req)
{
	struct job *job = BLK_BACKEND(struct job, req);

	job->work.fn = deliver;
	job->req = req;
	pthread_mutex_lock(&o->lock);
	list_add_tail(&o->jobs, &job->link);
	pthread_cond_signal(&o->more);
	pthread_mutex_unlock(&o->lock);
}
