// SPDX-License-Identifier: Apache-2.0
/*
 * task.c: tasks, newest last in one list under a mutex. A task's document is made anew for each
 * look, so that no reference counts are shared between threads.
 */
#include "host/task.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/pool.h"
#include "base/util.h"
#include "host/call.h"
#include "host/db.h"

enum state { QUEUED, RUNNING, DONE, FAILED, CANCELLED, LOST };
static const char *const state_names[] = {"queued", "running",	 "done",
					  "failed", "cancelled", "lost"};

struct host_task {
	struct list link;
	struct host_tasks *all;
	struct pool_job job;
	struct host_call *call; /* until it ended */
	uint64_t id;
	enum state state;
	bool cancel;
	uint64_t done, total;
	char what[96];
	json_t *old;  /* of a former daemon: its document as it is; then only id and state count */
	json_t *head; /* noun, verb, args, started: never changes */
	json_t *result; /* when it ended */
	json_t *error;
	uint64_t ended_ns;
};

struct host_tasks {
	struct host_db *db;
	struct pool *pool;
	pthread_mutex_t lock; /* guards all below, and every task but its `call` */
	struct list list;
	unsigned kept, open;
	uint64_t next;
};

/* Caller holds the lock. A document that shares nothing with the task. */
static json_t *describe(const struct host_task *t)
{
	json_t *d = json_deep_copy(t->old ? t->old : t->head);

	if (t->old)
		return d;

	json_object_set_new(d, "id", json_integer((json_int_t)t->id));
	json_object_set_new(d, "state", json_string(state_names[t->state]));
	json_object_set_new(d, "progress",
			    json_pack("{s:I, s:I, s:s}", "done", (json_int_t)t->done, "total",
				      (json_int_t)t->total, "what", t->what));
	json_object_set_new(d, "ended", host_json_time(t->ended_ns));
	json_object_set_new(d, "result", t->result ? json_deep_copy(t->result) : json_null());
	json_object_set_new(d, "error", t->error ? json_deep_copy(t->error) : json_null());
	return d;
}

static void task_free(struct host_task *t)
{
	list_del(&t->link);
	json_decref(t->old);
	json_decref(t->head);
	json_decref(t->result);
	json_decref(t->error);
	free(t);
}

/* Caller holds the lock: ended tasks beyond the limit go, oldest first. */
static void forget_old(struct host_tasks *all)
{
	struct host_task *t, *tmp;

	list_for_each_safe (t, tmp, &all->list, link) {
		if (all->kept <= HOST_TASKS_KEPT)
			break;
		if (t->state == QUEUED || t->state == RUNNING)
			continue;
		task_free(t);
		all->kept--;
	}
}

static void save(struct host_tasks *all, uint64_t id, json_t *d)
{
	if (host_db_append(all->db, HOST_TASKS, &id, &d, 1, HOST_TASKS_KEPT) < 0)
		log_warn("host", "task %llu: not kept in the inventory", (unsigned long long)id);
	json_decref(d);
}

static void loaded(void *arg, const char *key, uint64_t number, json_t *value)
{
	struct host_tasks *all = arg;
	const char *state = json_string_value(json_object_get(value, "state"));
	struct host_task *t;

	(void)key;
	all->next = MAX(all->next, number + 1);
	if (!state)
		return;
	t = xcalloc(1, sizeof(*t));
	t->all = all;
	t->id = number;
	t->state = LOST;
	for (unsigned i = DONE; i < ARRAY_SIZE(state_names); i++)
		if (!strcmp(state, state_names[i]))
			t->state = (enum state)i;
	t->old = json_incref(value);
	if (t->state == LOST && strcmp(state, state_names[LOST])) {
		json_object_set_new(value, "state", json_string(state_names[LOST]));
		json_object_set_new(
			value, "error",
			json_pack("{s:i, s:s, s:s}", "code", 1, "name", "failed", "message",
				  "the daemon ended before the task did; run it again"));
	}
	list_add_tail(&all->list, &t->link);
	all->kept++;
}

int host_tasks_create(struct host_db *db, struct host_tasks **out)
{
	struct host_tasks *all = xcalloc(1, sizeof(*all));
	int rc;

	all->db = db;
	all->next = 1;
	list_init(&all->list);
	pthread_mutex_init(&all->lock, NULL);
	rc = host_db_each(db, HOST_TASKS, loaded, all);
	if (rc == 0)
		rc = pool_create(&all->pool, "task", HOST_TASKS_AT_ONCE);
	if (rc < 0) {
		host_tasks_destroy(all);
		return rc;
	}
	*out = all;
	return 0;
}

void host_tasks_cancel_all(struct host_tasks *all)
{
	struct host_task *t;

	if (!all)
		return;
	pthread_mutex_lock(&all->lock);
	list_for_each (t, &all->list, link)
		t->cancel = true;
	pthread_mutex_unlock(&all->lock);
}

void host_tasks_destroy(struct host_tasks *all)
{
	struct host_task *t, *tmp;

	if (!all)
		return;
	host_tasks_cancel_all(all);
	pool_destroy(all->pool);
	list_for_each_safe (t, tmp, &all->list, link)
		task_free(t);
	free(all);
}

static void run(struct pool_job *job)
{
	struct host_task *t = container_of(job, struct host_task, job);
	struct host_tasks *all = t->all;
	struct host_call *call = t->call;
	bool cancelled;
	json_t *d;
	int rc;

	pthread_mutex_lock(&all->lock);
	t->state = RUNNING;
	cancelled = t->cancel;
	pthread_mutex_unlock(&all->lock);
	rc = cancelled ? -ECANCELED : call->verb->run(call);
	pthread_mutex_lock(&all->lock);
	if (rc < 0)
		t->error = host_error_json(rc);
	if (call->result) /* also of one that failed: what it did all the same */
		t->result = json_incref(call->result);
	else if (rc >= 0)
		t->result = json_object();
	t->state = rc >= 0 ? DONE : rc == -ECANCELED && t->cancel ? CANCELLED : FAILED;
	t->ended_ns = clock_wall_ns();
	t->call = NULL;
	all->open--;
	d = describe(t);
	pthread_mutex_unlock(&all->lock);
	host_call_free(call);
	/* From here on `t` may be gone. */
	save(all, (uint64_t)json_integer_value(json_object_get(d, "id")), d);
}

int host_task_start(struct host_tasks *all, struct host_call *call, uint64_t *id)
{
	struct host_task *t;
	json_t *d;

	pthread_mutex_lock(&all->lock);
	if (all->open >= HOST_TASKS_WAITING) {
		pthread_mutex_unlock(&all->lock);
		return fail(-EBUSY, "task: %u tasks wait already; wait for some or cancel them",
			    HOST_TASKS_WAITING);
	}
	t = xcalloc(1, sizeof(*t));
	t->all = all;
	t->call = call;
	t->id = *id = all->next++;
	t->job.fn = run;
	t->head = json_pack("{s:s, s:s, s:o, s:o}", "noun", call->verb->noun, "verb",
			    call->verb->verb, "args", json_deep_copy(call->args), "started",
			    host_json_time(clock_wall_ns()));
	call->task = t;
	list_add_tail(&all->list, &t->link);
	all->kept++;
	all->open++;
	forget_old(all);
	d = describe(t);
	pthread_mutex_unlock(&all->lock);
	save(all, *id, d);
	pool_submit(all->pool, &t->job);
	return 0;
}

int host_task_progress(struct host_task *t, uint64_t done, uint64_t total, const char *what)
{
	bool cancel;

	pthread_mutex_lock(&t->all->lock);
	t->done = done;
	t->total = total;
	if (what && strcmp(t->what, what))
		(void)str_format(t->what, sizeof(t->what), "%s", what);
	cancel = t->cancel;
	pthread_mutex_unlock(&t->all->lock);
	return cancel ? fail(-ECANCELED, "task %llu: cancelled", (unsigned long long)t->id) : 0;
}

json_t *host_tasks_list(struct host_tasks *all)
{
	json_t *list = json_array();
	struct host_task *t;

	pthread_mutex_lock(&all->lock);
	list_for_each (t, &all->list, link)
		json_array_append_new(list, describe(t));
	pthread_mutex_unlock(&all->lock);
	return list;
}

/* Caller holds the lock. */
static struct host_task *find(struct host_tasks *all, uint64_t id)
{
	struct host_task *t;

	list_for_each (t, &all->list, link)
		if (t->id == id)
			return t;
	return NULL;
}

int host_tasks_show(struct host_tasks *all, uint64_t id, json_t **out)
{
	struct host_task *t;

	pthread_mutex_lock(&all->lock);
	t = find(all, id);
	*out = t ? describe(t) : NULL;
	pthread_mutex_unlock(&all->lock);
	if (!t)
		return fail(-ENOENT, "task %llu: there is none; see perilune task list",
			    (unsigned long long)id);
	return 0;
}

int host_tasks_cancel(struct host_tasks *all, uint64_t id)
{
	struct host_task *t;
	int rc = 0;

	pthread_mutex_lock(&all->lock);
	t = find(all, id);
	if (!t)
		rc = -ENOENT;
	else if (t->state != QUEUED && t->state != RUNNING)
		rc = -EINVAL;
	else
		t->cancel = true;
	pthread_mutex_unlock(&all->lock);
	if (rc == -ENOENT)
		return fail(rc, "task %llu: there is none; see perilune task list",
			    (unsigned long long)id);
	return rc ? fail(rc, "task %llu: has ended already", (unsigned long long)id) : 0;
}

unsigned host_tasks_running(struct host_tasks *all)
{
	unsigned n;

	pthread_mutex_lock(&all->lock);
	n = all->open;
	pthread_mutex_unlock(&all->lock);
	return n;
}
