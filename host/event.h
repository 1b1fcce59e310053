// SPDX-License-Identifier: Apache-2.0
/*
 * event.h (private to host): what happened on this host, for people and scripts: the newest
 * HOST_EVENTS_KEPT, in memory and, a moment later, in the inventory. Posting never blocks on
 * storage, so threads of a volume and VM supervisors may post.
 *
 * Kinds in use: daemon, lun, volume, vm, host, fault, task.
 */
#ifndef HOST_EVENT_H
#define HOST_EVENT_H

#include <stdint.h>
#include <jansson.h>

#define HOST_EVENTS_KEPT 2000

struct host_db;
struct host_events;

int host_events_create(struct host_db *db, struct host_events **out);
/* Writes what is left, ends the thread. */
void host_events_destroy(struct host_events *events);
/* `kind` names the sort, `object` the thing ("VOLUME:NAME" of a VM, ...). NULL events: only logs. */
void host_event(struct host_events *events, const char *kind, const char *object, const char *fmt,
		...) __attribute__((format(printf, 4, 5)));
/* Those after number `since`, oldest first, the newest `limit` of them; a new reference. */
json_t *host_events_list(struct host_events *events, uint64_t since, unsigned limit);

#endif
