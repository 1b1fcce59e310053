// SPDX-License-Identifier: Apache-2.0
/*
 * vm.c: all VMs of this host: making and ending the module, carrying leases to VMMs, taking up what
 * a former daemon left.
 */
#include "host/vm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/pool.h"
#include "clusterfs/cfs.h"
#include "host/daemon.h"
#include "host/db.h"
#include "host/event.h"
#include "host/vm_run.h"
#include "host/volume.h"
#include "vfs/iothread.h"

/*
 * Each VMM has a lease page of its own, so that it outlives this daemon's mount; the volume's end is
 * copied into it that often. A late copy is an earlier end: safe.
 */
#define LEASE_COPY_MS 100
#define LET_GO_MS     20000

static void *lease_main(void *arg)
{
	struct host_vms *all = arg;
	struct host_vm *vm;

	for (;;) {
		pthread_mutex_lock(&all->lock);
		list_for_each (vm, &all->list, link)
			if (vm->vmm_end)
				atomic_store(vm->vmm_end, atomic_load(vm->volume_end));
		if (all->ending && list_empty(&all->list))
			break;
		pthread_mutex_unlock(&all->lock);
		sleep_ms(LEASE_COPY_MS);
	}
	pthread_mutex_unlock(&all->lock);
	return NULL;
}

int host_vms_create(struct host *host, struct host_vms **out)
{
	struct host_vms *all = xcalloc(1, sizeof(*all));
	cleanup_free char *dir = xasprintf("%s/vm", host->state.dir);
	pthread_condattr_t monotonic;

	all->host = host;
	list_init(&all->list);
	list_init(&all->chans);
	all->crashes = json_object();
	pthread_mutex_init(&all->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&all->changed, &monotonic);
	*out = all;
	if (mkdir(dir, 0700) < 0 && errno != EEXIST)
		return fail(-errno, "%s: %s", dir, strerror(errno));
	MUST(pthread_create(&all->lease_thread, NULL, lease_main, all) == 0);
	pthread_setname_np(all->lease_thread, "lease");
	all->lease_thread_runs = true;
	return 0;
}

static struct host_vm *any(struct host_vms *all)
{
	struct host_vm *vm = NULL;

	pthread_mutex_lock(&all->lock);
	all->ending = true;
	if (!list_empty(&all->list)) {
		vm = list_first(&all->list, struct host_vm, link);
		vm->uses++;
	}
	pthread_mutex_unlock(&all->lock);
	return vm;
}

void host_vms_destroy(struct host_vms *all)
{
	struct host_vm *vm;

	if (!all)
		return;
	while ((vm = any(all))) {
		if (vm_ask(vm, VM_ASK_LET_GO, LET_GO_MS) == -ETIMEDOUT ||
		    vm_wait_ended(vm, LET_GO_MS) < 0) {
			log_warn("host", "vm %s: cannot be let go in order", vm->name);
			_exit(1); /* as kill -9 would: the next daemon takes all up */
		}
		vm_put(vm);
	}
	if (all->lease_thread_runs)
		pthread_join(all->lease_thread, NULL);
	for (unsigned i = 0; i < VM_IO_THREADS; i++)
		if (all->io[i])
			iothread_destroy(all->io[i]);
	pool_destroy(all->pool);
	json_decref(all->crashes);
	free(all);
}

json_t *host_vms_running(struct host_vms *all)
{
	json_t *list = json_array();
	struct host_vm *vm;

	pthread_mutex_lock(&all->lock);
	list_for_each (vm, &all->list, link)
		json_array_append_new(list,
				      json_pack("{s:s, s:s, s:s, s:s}", "name", vm->name, "volume",
						host_volume_name(vm->volume), "state",
						vm_phase_name(vm->phase), "host", all->host->name));
	pthread_mutex_unlock(&all->lock);
	return list;
}

/* --- taking up --------------------------------------------------------------------------------------- */

struct records {
	const char *volume_id;
	json_t *list; /* of [key, record] */
};

static void collect(void *arg, const char *key, uint64_t number, json_t *value)
{
	struct records *r = arg;
	size_t n = strlen(r->volume_id);

	(void)number;
	if (!strncmp(key, r->volume_id, n) && key[n] == '/')
		json_array_append_new(r->list, json_pack("[s, O]", key, value));
}

static void take_up(struct host_vms *all, struct host_volume *volume, const char *key,
		    json_t *record)
{
	const char *name = strchr(key, '/') + 1;
	struct host_volume *held;
	struct host_vm *vm;
	struct vm_def def;
	int rc;

	if (json_integer_value(json_object_get(record, "pid")) <= 0)
		vm_end_stray(key);
	rc = host_volume_get(all->host->volumes, host_volume_name(volume), &held);
	if (rc < 0)
		return;
	rc = vm_def_load(host_volume_fs(volume), name, &def);
	if (rc < 0) {
		/* Without a definition it cannot be served: its process must not run on. */
		log_warn("host", "vm %s: %s", name, err_message(rc));
		vm_end_stray(key);
		host_volume_put(held);
		return;
	}
	rc = vm_launch(all, held, name, &def, record, &vm);
	if (rc == 0) {
		vm_put(vm);
		return;
	}
	host_event(all->host->events, "vm", name, "not taken up: %s", err_message(rc));
	(void)host_db_put(all->host->db, HOST_VMS, key, NULL);
}

static int add_name(void *arg, const char *name, const struct cfs_stat *st)
{
	if (st->kind == CFS_DIR)
		json_array_append_new(arg, json_string(name));
	return 0;
}

/* Locks of this very life that no VM of ours stands behind: a daemon died between two steps. */
static void drop_stray_locks(struct host_vms *all, struct host_volume *volume)
{
	struct cfs *fs = host_volume_fs(volume);
	json_t *names = json_array(), *name;
	size_t i;

	if (cfs_readdir(fs, VM_DIR, add_name, names) < 0)
		err_clear();
	json_array_foreach(names, i, name)
	{
		cleanup_free char *object = vm_path(json_string_value(name), "vm");
		struct host_vm *vm = vm_find(all, volume, json_string_value(name));
		struct cfs_vm_lock *lock;

		if (vm) {
			vm_put(vm);
			continue;
		}
		if (cfs_vm_adopt(fs, object, &lock) == 0) {
			host_event(all->host->events, "vm", json_string_value(name),
				   "its VMM is gone: it is stopped");
			if (cfs_vm_unlock(lock) < 0)
				log_warn("host", "vm %s: its lock stays", json_string_value(name));
		}
		err_clear();
	}
	json_decref(names);
}

void host_vms_adopt(struct host_vms *all, struct host_volume *volume)
{
	struct cfs_info *info = xcalloc(1, sizeof(*info));
	struct records r = {.volume_id = info->id, .list = json_array()};
	json_t *pair;
	size_t i;

	if (cfs_info(host_volume_fs(volume), info) == 0)
		(void)host_db_each(all->host->db, HOST_VMS, collect, &r);
	json_array_foreach(r.list, i, pair) take_up(
		all, volume, json_string_value(json_array_get(pair, 0)), json_array_get(pair, 1));
	json_decref(r.list);
	free(info);
	drop_stray_locks(all, volume);
}
