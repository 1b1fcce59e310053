// SPDX-License-Identifier: Apache-2.0
/*
 * db.h (private to host): the inventory: what this host must remember, in LMDB under the state
 * directory. Tables of JSON documents by name or by number. What is remembered survives the
 * daemon and the machine; when a call returns 0 it is durable. Any thread.
 */
#ifndef HOST_DB_H
#define HOST_DB_H

#include <stdint.h>
#include <jansson.h>

struct host_db;

enum host_table {
	HOST_LUNS,
	HOST_VOLUMES,
	HOST_VMS,
	HOST_TASKS,
	HOST_EVENTS,
	HOST_POOLS,
	HOST_PARKED,
	HOST_TABLES
};

int host_db_open(const char *dir, struct host_db **out);
void host_db_close(struct host_db *db);

/* `value` is borrowed; NULL deletes (and a missing one is no error). */
int host_db_put(struct host_db *db, enum host_table table, const char *key, json_t *value);
/* The same, by number, for several at once: tasks and events. Keeps the newest `limit`. */
int host_db_append(struct host_db *db, enum host_table table, const uint64_t *keys,
		   json_t *const *values, unsigned n, unsigned limit);
/* In order of keys; damaged documents are left out. `key` is NULL in numbered tables. */
int host_db_each(struct host_db *db, enum host_table table,
		 void (*fn)(void *arg, const char *key, uint64_t number, json_t *value), void *arg);

#endif
