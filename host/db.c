// SPDX-License-Identifier: Apache-2.0
/*
 * db.c: the inventory on LMDB. Writers take LMDB's own writer mutex, one transaction a call.
 * Numbers are stored big-endian, so that LMDB's order is theirs.
 */
#include "host/db.h"

#include <errno.h>
#include <lmdb.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/log.h"
#include "base/util.h"

/* Address space only; the file grows as it is used. Ring limits keep it far below. */
#define MAP_BYTES (256 * MiB)

static const char *const table_names[HOST_TABLES] = {
	[HOST_LUNS] = "luns",	  [HOST_VOLUMES] = "volumes", [HOST_VMS] = "vms",
	[HOST_TASKS] = "tasks",	  [HOST_EVENTS] = "events",   [HOST_POOLS] = "pools",
	[HOST_PARKED] = "parked",
};

struct host_db {
	MDB_env *env;
	MDB_dbi table[HOST_TABLES];
};

static int db_fail(int rc, const char *what)
{
	int err = rc > 0 ? -rc : rc == MDB_MAP_FULL ? -ENOSPC : -EIO;

	return fail(err, "inventory: %s: %s", what, mdb_strerror(rc));
}

int host_db_open(const char *dir, struct host_db **out)
{
	struct host_db *db = xcalloc(1, sizeof(*db));
	cleanup_free char *path = xasprintf("%s/inventory", dir);
	MDB_txn *txn = NULL;
	int rc = mdb_env_create(&db->env);

	if (rc == 0)
		rc = mdb_env_set_mapsize(db->env, MAP_BYTES);
	if (rc == 0)
		rc = mdb_env_set_maxdbs(db->env, HOST_TABLES);
	if (rc == 0) /* threads come and go: no reader slot may stick to one */
		rc = mdb_env_open(db->env, path, MDB_NOSUBDIR | MDB_NOTLS, 0600);
	if (rc == 0)
		rc = mdb_txn_begin(db->env, NULL, 0, &txn);
	for (int t = 0; rc == 0 && t < HOST_TABLES; t++)
		rc = mdb_dbi_open(txn, table_names[t], MDB_CREATE, &db->table[t]);
	if (rc == 0)
		rc = mdb_txn_commit(txn);
	else if (txn)
		mdb_txn_abort(txn);
	if (rc) {
		host_db_close(db);
		return db_fail(rc, path);
	}
	*out = db;
	return 0;
}

void host_db_close(struct host_db *db)
{
	if (!db)
		return;
	if (db->env)
		mdb_env_close(db->env);
	free(db);
}

static int put_text(MDB_txn *txn, MDB_dbi dbi, MDB_val *key, json_t *value)
{
	cleanup_free char *text = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
	MDB_val v;

	if (!text)
		return EINVAL;
	v.mv_data = text;
	v.mv_size = strlen(text);
	return mdb_put(txn, dbi, key, &v, 0);
}

int host_db_put(struct host_db *db, enum host_table table, const char *key, json_t *value)
{
	MDB_val k = {strlen(key), (void *)key};
	MDB_txn *txn;
	int rc = mdb_txn_begin(db->env, NULL, 0, &txn);

	if (rc)
		return db_fail(rc, table_names[table]);
	rc = value ? put_text(txn, db->table[table], &k, value)
		   : mdb_del(txn, db->table[table], &k, NULL);
	if (rc == MDB_NOTFOUND && !value)
		rc = 0;
	if (rc == 0)
		rc = mdb_txn_commit(txn);
	else
		mdb_txn_abort(txn);
	return rc ? db_fail(rc, key) : 0;
}

/* Deletes the oldest until `limit` are left. */
static int trim(MDB_txn *txn, MDB_dbi dbi, unsigned limit)
{
	MDB_cursor *cursor;
	MDB_stat stat;
	MDB_val k, v;
	int rc = mdb_stat(txn, dbi, &stat);

	if (rc || stat.ms_entries <= limit)
		return rc;
	rc = mdb_cursor_open(txn, dbi, &cursor);
	for (size_t n = stat.ms_entries - limit; rc == 0 && n > 0; n--) {
		rc = mdb_cursor_get(cursor, &k, &v, MDB_FIRST);
		if (rc == 0)
			rc = mdb_cursor_del(cursor, 0);
	}
	mdb_cursor_close(cursor);
	return rc;
}

int host_db_append(struct host_db *db, enum host_table table, const uint64_t *keys,
		   json_t *const *values, unsigned n, unsigned limit)
{
	MDB_txn *txn;
	int rc = mdb_txn_begin(db->env, NULL, 0, &txn);

	if (rc)
		return db_fail(rc, table_names[table]);
	for (unsigned i = 0; rc == 0 && i < n; i++) {
		uint64_t number = htobe64(keys[i]);
		MDB_val k = {sizeof(number), &number};

		rc = put_text(txn, db->table[table], &k, values[i]);
	}
	if (rc == 0)
		rc = trim(txn, db->table[table], limit);
	if (rc == 0)
		rc = mdb_txn_commit(txn);
	else
		mdb_txn_abort(txn);
	return rc ? db_fail(rc, table_names[table]) : 0;
}

int host_db_each(struct host_db *db, enum host_table table,
		 void (*fn)(void *arg, const char *key, uint64_t number, json_t *value), void *arg)
{
	bool numbered = table == HOST_TASKS || table == HOST_EVENTS;
	MDB_cursor *cursor;
	MDB_txn *txn;
	MDB_val k, v;
	int rc = mdb_txn_begin(db->env, NULL, MDB_RDONLY, &txn);

	if (rc)
		return db_fail(rc, table_names[table]);
	rc = mdb_cursor_open(txn, db->table[table], &cursor);
	if (rc) {
		mdb_txn_abort(txn);
		return db_fail(rc, table_names[table]);
	}
	while ((rc = mdb_cursor_get(cursor, &k, &v, MDB_NEXT)) == 0) {
		json_t *value = json_loadb(v.mv_data, v.mv_size, JSON_DECODE_ANY, NULL);
		cleanup_free char *key = numbered ? NULL : strndup(k.mv_data, k.mv_size);

		if (value)
			fn(arg, key, k.mv_size == 8 ? be64_get(k.mv_data) : 0, value);
		else
			log_warn("host", "inventory: a damaged entry in %s is left out",
				 table_names[table]);
		json_decref(value);
	}
	mdb_cursor_close(cursor);
	mdb_txn_abort(txn);
	return rc == MDB_NOTFOUND ? 0 : db_fail(rc, table_names[table]);
}
