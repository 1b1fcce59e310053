// SPDX-License-Identifier: Apache-2.0
/* iothread.c: a thread that runs a loop, and calls into it from others. */
#include "vfs/iothread.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"

struct iothread {
	struct loop *loop;
	pthread_t thread;
	char name[16];
};

static void *run(void *arg)
{
	struct iothread *t = arg;
	int rc = loop_run(t->loop);

	/* A ring of our own that fails leaves every guest of this thread stuck: say it and die. */
	if (rc < 0)
		log_error("iothread", "%s: %s", t->name, err_message(rc));
	MUST(rc == 0);
	return NULL;
}

int iothread_create(struct iothread **out, const char *name, unsigned entries)
{
	struct iothread *t = xcalloc(1, sizeof(*t));
	sigset_t all, old;
	int rc;

	(void)str_format(t->name, sizeof(t->name), "%s", name);
	rc = loop_create(&t->loop, entries);
	if (rc < 0) {
		free(t);
		return rc;
	}
	/* Signals are the control thread's; SIGBUS is synchronous and cannot be blocked usefully. */
	sigfillset(&all);
	sigdelset(&all, SIGBUS);
	sigdelset(&all, SIGSEGV);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	rc = -pthread_create(&t->thread, NULL, run, t);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (rc < 0) {
		loop_destroy(t->loop);
		free(t);
		return fail(rc, "thread %s: %s", name, strerror(-rc));
	}
	pthread_setname_np(t->thread, t->name);
	*out = t;
	return 0;
}

void iothread_destroy(struct iothread *t)
{
	if (!t)
		return;
	loop_stop(t->loop);
	pthread_join(t->thread, NULL);
	loop_destroy(t->loop);
	free(t);
}

struct loop *iothread_loop(struct iothread *t)
{
	return t->loop;
}

struct call {
	struct loop_work work;
	int (*fn)(void *arg);
	void *arg;
	int rc;
	struct err_info err; /* the words cross over to the caller's thread */
	bool done;
	pthread_mutex_t lock;
	pthread_cond_t cond;
};

static void call_run(struct loop_work *work)
{
	struct call *c = container_of(work, struct call, work);
	int rc = c->fn(c->arg);

	pthread_mutex_lock(&c->lock);
	c->rc = rc;
	if (rc < 0)
		err_save(&c->err, rc);
	c->done = true;
	pthread_cond_signal(&c->cond);
	pthread_mutex_unlock(&c->lock);
}

int iothread_call(struct iothread *t, int (*fn)(void *arg), void *arg)
{
	struct call c = {.work.fn = call_run, .fn = fn, .arg = arg};

	if (pthread_equal(pthread_self(), t->thread))
		return fn(arg);
	pthread_mutex_init(&c.lock, NULL);
	pthread_cond_init(&c.cond, NULL);
	loop_post(t->loop, &c.work);
	pthread_mutex_lock(&c.lock);
	while (!c.done)
		pthread_cond_wait(&c.cond, &c.lock);
	pthread_mutex_unlock(&c.lock);
	pthread_cond_destroy(&c.cond);
	pthread_mutex_destroy(&c.lock);
	return c.rc < 0 ? err_restore(&c.err) : c.rc;
}
