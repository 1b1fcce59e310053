// SPDX-License-Identifier: Apache-2.0
/*
 * task.h (private to host): long work. A task runs in a pool of its own; its progress can be
 * looked at, it can be cancelled, and its result is kept in the inventory (the newest
 * HOST_TASKS_KEPT) when the command line, or the daemon, is long gone. Any thread.
 */
#ifndef HOST_TASK_H
#define HOST_TASK_H

#include <stdint.h>
#include <jansson.h>

#define HOST_TASKS_KEPT	   500
#define HOST_TASKS_AT_ONCE 16	/* threads of the pool */
#define HOST_TASKS_WAITING 1000 /* not ended: more are refused */

struct host_db;
struct host_call;
struct host_task;
struct host_tasks;

/* Tasks that the last daemon left unfinished are marked "lost". */
int host_tasks_create(struct host_db *db, struct host_tasks **out);
/* Whoever looks at its progress hears that it is to end. */
void host_tasks_cancel_all(struct host_tasks *tasks);
/* The same, and waits for them. */
void host_tasks_destroy(struct host_tasks *tasks);

/* Takes `call` (freed with host_call_free when it ended) and queues it. -EBUSY: too many. */
int host_task_start(struct host_tasks *tasks, struct host_call *call, uint64_t *id);
/* The task's own thread: notes how far it is. -ECANCELED when somebody cancelled it. */
int host_task_progress(struct host_task *task, uint64_t done, uint64_t total, const char *what);

json_t *host_tasks_list(struct host_tasks *tasks);
/* -ENOENT */
int host_tasks_show(struct host_tasks *tasks, uint64_t id, json_t **out);
/* Asks it to end; -ENOENT, -EINVAL when it has ended. */
int host_tasks_cancel(struct host_tasks *tasks, uint64_t id);
/* How many have not ended. */
unsigned host_tasks_running(struct host_tasks *tasks);

/* call.c's counterpart of making one: closes descriptors, drops references. */
void host_call_free(struct host_call *call);

#endif
