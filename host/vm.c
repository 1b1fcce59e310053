// SPDX-License-Identifier: Apache-2.0
/* vm.c: all VMs of this host: the table, and the daemon's beginning and end as VMs see them. */
#include "host/vm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/pool.h"
#include "base/util.h"
#include "clusterfs/cfs.h"
#include "host/daemon.h"
#include "host/db.h"
#include "host/event.h"
#include "host/notify.h"
#include "host/vm_move.h"
#include "host/vm_run.h"
#include "host/volume.h"
#include "vfs/iothread.h"

#define ADOPT_MS     5000  /* a mount waits that long for its VMs to be served again */
#define GROW_MS	     60000 /* it may be starting */
#define LET_GO_MS    10000 /* requests on their way to the LUN */
#define STOP_LOOK_MS 20
#define STOP_TELL_MS 5000 /* who started us is told that often that it takes longer: */
#define STOP_MORE_S  60	  /* so long, from then on */
#define STOP_SAY_MS  30000
#define SHMEM_THP    "/sys/kernel/mm/transparent_hugepage/shmem_enabled"

/*
 * Guest memory is shared memory: without huge pages for it guests take a thousand times the page
 * faults. Debian's default is "never"; "advise" changes nothing for who does not ask.
 */
static void allow_huge_pages(void)
{
	cleanup_fd int fd = open(SHMEM_THP, O_RDWR | O_CLOEXEC);
	char text[128] = "";

	if (fd < 0 || read(fd, text, sizeof(text) - 1) < 0 || !strstr(text, "[never]"))
		return;
	if (pwrite(fd, "advise", 6, 0) < 0)
		log_warn("host", "guests get no huge pages: write advise to " SHMEM_THP);
}

int host_vms_create(struct host *host, struct host_vms **out)
{
	struct host_vms *all = xcalloc(1, sizeof(*all));
	cleanup_free char *dir = xasprintf("%s/vm", host->state.dir);

	all->host = host;
	if (sched_getaffinity(0, sizeof(all->cpus), &all->cpus) < 0) /* more than a set can name */
		(void)vm_share_cpus("", &all->cpus);
	all->crashes = json_object();
	list_init(&all->list);
	list_init(&all->chans);
	list_init(&all->leases);
	pthread_mutex_init(&all->lock, NULL);
	pthread_mutex_init(&all->lease_lock, NULL);
	pthread_cond_init(&all->changed, NULL);
	*out = all;
	if (mkdir(dir, 0700) < 0 && errno != EEXIST)
		return fail(-errno, "%s: %s", dir, strerror(errno));
	allow_huge_pages();
	return vm_lease_start(all);
}

/* The next VM that is there, used; NULL at the end. */
static struct host_vm *nth(struct host_vms *all, unsigned n)
{
	struct host_vm *vm, *hit = NULL;

	pthread_mutex_lock(&all->lock);
	list_for_each (vm, &all->list, link)
		if (n-- == 0) {
			vm->uses++;
			hit = vm;
			break;
		}
	pthread_mutex_unlock(&all->lock);
	return hit;
}

/* All of them are used first: the list changes as they go, and none is to be passed over. Caller holds the lock. */
static struct host_vm **use_all(struct host_vms *all, unsigned *n)
{
	struct host_vm **vms = xcalloc(all->count + 1, sizeof(struct host_vm *)), *vm;

	*n = 0;
	list_for_each (vm, &all->list, link) {
		vm->uses++;
		vms[(*n)++] = vm;
	}
	return vms;
}

static void let_all_go(struct host_vms *all)
{
	struct host_vm **vms;
	unsigned n;

	pthread_mutex_lock(&all->lock);
	all->ending = true;
	vms = use_all(all, &n);
	pthread_mutex_unlock(&all->lock);
	for (unsigned i = 0; i < n; i++) {
		if (vm_ask(vms[i], VM_ASK_LET_GO, LET_GO_MS) < 0)
			log_warn("host", "vm %s: left as a crash would leave it", vms[i]->name);
		vm_put(vms[i]);
	}
	free(vms);
}

/* Some of a guest's memory is on its way, and nowhere else: to here, or from here. */
static unsigned on_their_way(struct host_vms *all)
{
	struct host_vm *vm;
	unsigned n = 0;

	pthread_mutex_lock(&all->lock);
	list_for_each (vm, &all->list, link) {
		pthread_mutex_lock(&vm->lock);
		n += vm->phase != VM_ENDED &&
		     (atomic_load(&vm->incomplete) || (vm->move && vm->move->post));
		pthread_mutex_unlock(&vm->lock);
	}
	pthread_mutex_unlock(&all->lock);
	return n;
}

void host_vms_await_memory(struct host_vms *all)
{
	uint64_t said_ms = 0, told_ms = 0;
	unsigned n, before = 0;

	while (all && (n = on_their_way(all))) {
		uint64_t now = clock_boot_ms();

		if (now >= told_ms) {
			host_stop_takes(STOP_MORE_S);
			told_ms = now + STOP_TELL_MS;
		}
		if (!before)
			host_event(all->host->events, "daemon", all->host->name,
				   "stops when all memory of %u VMs that moved has come: they would"
				   " end with it",
				   n);
		if (now >= said_ms || n != before) {
			log_info("host", "stops when all memory of VMs that moved has come: %u", n);
			said_ms = now + STOP_SAY_MS;
		}
		before = n;
		sleep_ms(STOP_LOOK_MS);
	}
}

void host_vms_destroy(struct host_vms *all)
{
	if (!all)
		return;
	let_all_go(all);
	vm_lease_stop(all);
	pthread_mutex_lock(&all->lock);
	if (all->count) { /* one hangs in its storage: the process ends around it */
		pthread_mutex_unlock(&all->lock);
		return;
	}
	pthread_mutex_unlock(&all->lock);
	for (unsigned i = 0; i < VM_IO_THREADS; i++)
		iothread_destroy(all->io[i]);
	if (all->pool)
		pool_destroy(all->pool);
	json_decref(all->crashes);
	free(all);
}

/* --- after a restart ------------------------------------------------------------------------------ */

struct found {
	char prefix[48]; /* "VOLUME-ID/" */
	json_t *records;
};

static void find_record(void *arg, const char *key, uint64_t number, json_t *value)
{
	struct found *f = arg;

	(void)number;
	if (!strncmp(key, f->prefix, strlen(f->prefix)))
		json_object_set(f->records, key, value);
}

static void adopt_one(struct host_vms *all, struct host_volume *volume, const char *key,
		      json_t *record)
{
	const char *name = json_string_value(json_object_get(record, "name"));
	struct vm_def *def = xcalloc(1, sizeof(*def));
	struct host_volume *use;
	struct host_vm *vm;
	int rc = name ? vm_def_parse(json_object_get(record, "definition"), name, def)
		      : fail(-EUCLEAN, "inventory: %s: no name", key);

	if (rc == 0)
		rc = host_volume_get(all->host->volumes, host_volume_name(volume), &use);
	if (rc == 0)
		rc = vm_launch(all, use, name, def, VM_HOW_ANY, NULL, record, &vm);
	if (rc == 0)
		vm_put(vm);
	else if (rc != -EBUSY)
		host_event(all->host->events, "vm", key, "not taken up: %s", err_message(rc));
	free(def);
}

/* --- locks that a verb had for a moment ------------------------------------------------------------ */

static int add_name(void *arg, const char *name, const struct cfs_stat *stat)
{
	if (stat->kind == CFS_DIR)
		json_array_append_new(arg, json_string(name));
	return 0;
}

/*
 * Who changes, renames or deletes a VM that is off has its lock meanwhile. Such a verb that died with its daemon
 * leaves a lock that names us, and no record: a VM that runs has one from before it has its lock until after
 * that. What this daemon has taken itself is -EBUSY.
 */
static void give_up_stray(struct cfs *fs, const char *name)
{
	cleanup_free char *path = vm_path(name, "vm");
	struct cfs_vm_where where;
	struct cfs_vm_lock *lock;
	int rc = cfs_vm_where(fs, path, &where);

	if (rc == 0 && !where.here)
		return;
	if (rc == 0)
		rc = cfs_vm_adopt(fs, path, &lock);
	if (rc == 0)
		rc = cfs_vm_unlock(lock);
	if (rc == 0)
		log_info("host", "vm %s: given up: a verb that died with its daemon had it", name);
	else if (rc != -EBUSY && rc != -ENOENT)
		log_warn("host", "vm %s: its lock: %s", name, err_message(rc));
	err_clear();
}

static void give_up_strays(struct host_volume *volume, const struct found *f)
{
	struct cfs *fs = host_volume_fs(volume);
	json_t *names = json_array(), *name;
	size_t i;

	(void)cfs_readdir(fs, VM_DIR, add_name, names);
	err_clear();
	json_array_foreach(names, i, name)
	{
		cleanup_free char *key = xasprintf("%s%s", f->prefix, json_string_value(name));

		if (!json_object_get(f->records, key))
			give_up_stray(fs, json_string_value(name));
	}
	json_decref(names);
}

/* All at once: each in its own thread. */
void host_vms_adopt(struct host_vms *all, struct host_volume *volume)
{
	char volume_name[64], id[40];
	struct found f = {.records = json_object()};
	struct host_vm *vm;
	const char *key;
	json_t *record;

	if (all) {
		cfs_names(host_volume_fs(volume), volume_name, id);
		(void)str_format(f.prefix, sizeof(f.prefix), "%s/", id);
		(void)host_db_each(all->host->db, HOST_VMS, find_record, &f);
		json_object_foreach(f.records, key, record) adopt_one(all, volume, key, record);
		if (cfs_resumed(host_volume_fs(volume)))
			give_up_strays(volume, &f);
		for (unsigned i = 0; json_object_size(f.records) && (vm = nth(all, i)); i++) {
			if (vm->volume == volume)
				(void)vm_wait_started(vm, ADOPT_MS);
			vm_put(vm);
		}
	}
	json_decref(f.records);
}

void host_vms_lost(struct host_vms *all, struct host_volume *volume)
{
	struct host_vm *vm;

	if (!all)
		return;
	pthread_mutex_lock(&all->lock);
	list_for_each (vm, &all->list, link)
		if (vm->volume == volume) {
			atomic_store(&vm->lost, true);
			vm_wake(vm);
		}
	pthread_mutex_unlock(&all->lock);
}

static bool is_here(struct host_vm *vm)
{
	bool yes;

	pthread_mutex_lock(&vm->all->lock);
	yes = vm_is_here(vm);
	pthread_mutex_unlock(&vm->all->lock);
	return yes;
}

static json_t *summary(struct host_vm *vm)
{
	char text[VM_WHY_MAX];
	const char *why = vm_state_why(vm, text);
	json_t *d = json_pack("{s:s, s:s, s:s, s:s}", "name", vm->name, "volume",
			      host_volume_name(vm->volume), "state", vm_state_name(vm), "host",
			      vm->all->host->name);

	if (why)
		json_object_set_new(d, "why", json_string(why));
	return d;
}

json_t *host_vms_running(struct host_vms *all)
{
	json_t *list = json_array();
	struct host_vm **vms;
	unsigned n;

	if (!all)
		return list;
	pthread_mutex_lock(&all->lock);
	vms = use_all(all, &n);
	pthread_mutex_unlock(&all->lock);
	for (unsigned i = 0; i < n; i++) {
		if (is_here(vms[i]))
			json_array_append_new(list, summary(vms[i]));
		vm_put(vms[i]);
	}
	free(vms);
	return list;
}

unsigned host_vms_between(struct host_vms *all)
{
	struct host_vm *vm;
	unsigned n = 0;

	pthread_mutex_lock(&all->lock);
	list_for_each (vm, &all->list, link)
		n += !vm_is_here(vm);
	pthread_mutex_unlock(&all->lock);
	return n;
}

int host_vms_grow_disk(struct host_vms *all, struct host_volume *volume, const char *path,
		       uint64_t size)
{
	struct host_vm *vm;
	int rc = -ENOENT;

	for (unsigned i = 0; rc == -ENOENT && (vm = nth(all, i)); i++) {
		if (vm->volume == volume && is_here(vm) && vm_has_disk(vm, path))
			rc = vm_grow(vm, path, size, GROW_MS);
		vm_put(vm);
	}
	return rc;
}
