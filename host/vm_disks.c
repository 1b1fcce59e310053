// SPDX-License-Identifier: Apache-2.0
/*
 * vm_disks.c: a VM's disks: opened under the VM's lock, bound with its one controller to one I/O
 * thread. Channels of a volume are shared by all VMs on a thread.
 */
#include <errno.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/pool.h"
#include "base/util.h"
#include "clusterfs/cfs.h"
#include "host/daemon.h"
#include "host/vm_pass.h"
#include "host/vm_run.h"
#include "host/volume.h"
#include "vfs/chans.h"
#include "vfs/controller.h"
#include "vfs/disk.h"
#include "vfs/iothread.h"
#include "vfs/thin.h"

#define IO_ENTRIES   1024
#define POOL_THREADS 4
#define INSIST_MS    250

struct shared_chans {
	struct list link;
	struct host_volume *volume;
	unsigned io, users;
	struct vfs_chans *chans;
};

/* Caller holds the lock. The thread with the fewest VMs; more threads only where there are CPUs. */
static int pick_io(struct host_vms *all, unsigned *out)
{
	unsigned limit = MAX(1, MIN((unsigned)CPU_COUNT(&all->cpus), VM_IO_THREADS)), best = 0;
	char name[16];

	for (unsigned i = 1; i < limit; i++)
		if (all->io_vms[i] < all->io_vms[best])
			best = i;
	*out = best;
	if (!all->pool) {
		int rc = pool_create(&all->pool, "meta", POOL_THREADS);

		if (rc < 0)
			return rc;
	}
	(void)str_format(name, sizeof(name), "io/%u", best);
	return all->io[best] ? 0 : iothread_create(&all->io[best], name, IO_ENTRIES);
}

static struct shared_chans *find_chans(struct host_vms *all, struct host_volume *volume,
				       unsigned io)
{
	struct shared_chans *s;

	list_for_each (s, &all->chans, link)
		if (s->volume == volume && s->io == io)
			return s;
	return NULL;
}

/* The lock is held across the logins: VMs start one after the other here, which is rare enough. No lease waits. */
static int chans_get(struct host_vm *vm)
{
	struct host_vms *all = vm->all;
	struct shared_chans *s;
	int rc;

	pthread_mutex_lock(&all->lock);
	rc = pick_io(all, &vm->io);
	s = rc < 0 ? NULL : find_chans(all, vm->volume, vm->io);
	if (rc == 0 && !s) {
		s = xcalloc(1, sizeof(*s));
		s->volume = vm->volume;
		s->io = vm->io;
		rc = vfs_chans_open(host_volume_fs(vm->volume), iothread_loop(all->io[vm->io]),
				    all->pool, &s->chans);
		if (rc == 0)
			list_add(&all->chans, &s->link);
		else
			free(s);
	}
	if (rc == 0) {
		s->users++;
		all->io_vms[vm->io]++;
		vm->chans = s->chans;
	}
	pthread_mutex_unlock(&all->lock);
	return rc;
}

static void chans_put(struct host_vm *vm)
{
	struct host_vms *all = vm->all;
	struct shared_chans *s;
	struct vfs_chans *last = NULL;

	if (!vm->chans)
		return;
	pthread_mutex_lock(&all->lock);
	s = find_chans(all, vm->volume, vm->io);
	MUST(s);
	all->io_vms[vm->io]--;
	if (--s->users == 0) {
		last = s->chans;
		list_del(&s->link);
		free(s);
	}
	pthread_mutex_unlock(&all->lock);
	if (last)
		vfs_chans_close(last);
	vm->chans = NULL;
}

/* --- the controller's events, in the I/O thread --------------------------------------------------- */

static void on_gone(void *arg, const char *why)
{
	struct host_vm *vm = arg;

	(void)why;
	atomic_store(&vm->gone, true);
	vm_wake(vm);
}

static void on_full(void *arg, struct vfs_disk *disk, bool is_full)
{
	struct host_vm *vm = arg;

	(void)disk;
	atomic_fetch_add(&vm->full, is_full ? 1 : -1);
	vm_wake(vm);
}

static const struct controller_events events = {.gone = on_gone, .full = on_full};

int vm_disk_open(struct host_vm *vm, unsigned i)
{
	const char *path = vm->def.disk[i].path;
	cleanup_free char *name = xasprintf("%s:%s", host_volume_name(vm->volume), path);
	struct vm_open_disk *open = &vm->open[i];
	int rc;

	if (vm->def.disk[i].pass)
		return vm_pass_open(vm, i);
	rc = cfs_open(host_volume_fs(vm->volume), path, CFS_OPEN_WRITE,
		      cfs_vm_lock_vbn(vm->vm_lock), &open->file);
	if (rc < 0) {
		open->file = NULL;
		return fail_prefix(rc, "vm %s: disk %s", vm->name, name);
	}
	rc = vfs_thin_open(vm->chans, open->file, name, &open->disk);
	if (rc < 0)
		open->disk = NULL;
	return rc;
}

/*
 * What the disk's file keeps. A start is a loss of power to the disk: without APTPL nothing is left then, nor may
 * it come back with the next daemon.
 */
static int load_reservations(struct vm_open_disk *open, bool goes_on, struct controller_lun *lun,
			     void *bytes)
{
	size_t n = cfs_reservations(open->file, bytes);
	int rc = 0;

	if (n && !goes_on && !controller_pr_lasts(bytes, n)) {
		n = 0;
		rc = cfs_store_reservations(open->file, NULL, 0);
	}
	lun->pr = bytes;
	lun->pr_bytes = n;
	lun->pr_store = vfs_thin_store_reservations;
	return rc;
}

int vm_disk_show(struct host_vm *vm, unsigned i, bool goes_on)
{
	struct controller_lun lun = {.lun = vm->def.disk[i].lun};
	uint8_t reservations[CONTROLLER_PR_BYTES];
	int rc;

	/* Those of a LUN that is passed through are the array's. */
	if (vm->open[i].file && cfs_keeps_reservations(host_volume_fs(vm->volume))) {
		rc = load_reservations(&vm->open[i], goes_on, &lun, reservations);
		if (rc < 0)
			return fail_prefix(rc, "vm %s: disk %s: reservations", vm->name,
					   vm->def.disk[i].path);
	}
	memcpy(lun.nexus, vm->def.id, sizeof(lun.nexus));
	return controller_attach(vm->controller, vm->open[i].disk, &lun);
}

static void closed(void *arg)
{
	sem_post(arg);
}

static void wait_closed(sem_t *done)
{
	while (sem_wait(done) < 0)
		;
	sem_destroy(done);
}

int vm_disk_hide(struct host_vm *vm, unsigned i)
{
	sem_t done;
	int rc;

	if (!vm->open[i].disk)
		return 0;
	sem_init(&done, 0, 0);
	rc = controller_detach(vm->controller, vm->def.disk[i].lun, closed, &done);
	if (rc < 0) {
		sem_destroy(&done);
		return rc;
	}
	wait_closed(&done);
	vm->open[i].disk = NULL;
	return 0;
}

struct closing {
	struct vfs_disk *disk;
	sem_t done;
};

static int close_in_thread(void *arg)
{
	struct closing *c = arg;

	vfs_close(c->disk, closed, &c->done);
	return 0;
}

int vm_disk_close(struct host_vm *vm, unsigned i)
{
	struct vm_open_disk *open = &vm->open[i];
	struct closing c = {.disk = open->disk};
	int rc;

	if (c.disk) { /* one that was never shown */
		sem_init(&c.done, 0, 0);
		(void)iothread_call(vm->all->io[vm->io], close_in_thread, &c);
		wait_closed(&c.done);
		open->disk = NULL;
	}
	rc = open->file ? cfs_close(open->file) : 0;
	open->file = NULL;
	vm_pass_close(vm, i);
	return rc;
}

struct grown {
	struct vfs_disk *disk;
	uint64_t size;
};

static int set_size_in_thread(void *arg)
{
	struct grown *g = arg;

	vfs_thin_set_size(g->disk, g->size);
	return 0;
}

int vm_disk_grow(struct host_vm *vm, unsigned disk, uint64_t size)
{
	struct grown grown = {.disk = vm->open[disk].disk, .size = size};
	struct cfs_file *file = vm->open[disk].file;
	struct cfs_stat now;
	int rc = 0;

	cfs_file_stat(file, &now); /* what the caller knew of it may be old */
	if (size < now.size)
		return fail(-EPERM,
			    "vm %s: disk %s:%s has %llu bytes by now; it gets no smaller while the"
			    " VM runs",
			    vm->name, host_volume_name(vm->volume), vm->def.disk[disk].path,
			    (unsigned long long)now.size);
	if (size > now.size)
		rc = cfs_truncate(file, size);
	if (rc == 0)
		rc = cfs_sync_names(host_volume_fs(vm->volume));
	return rc < 0 ? rc : iothread_call(vm->all->io[vm->io], set_size_in_thread, &grown);
}

/* --- all of them ---------------------------------------------------------------------------------- */

int vm_disk_settle(struct cfs *fs, const struct vm_def_disk *disk, uint64_t owner)
{
	struct cfs_file *file;
	int rc = disk->pass ? -ENOENT /* it has no lock of ours */
			    : cfs_open(fs, disk->path, CFS_OPEN_WRITE, owner, &file);

	if (rc == 0)
		return cfs_close(file);
	return rc == -EBUSY || rc == -ENOENT ? 0 : rc; /* somebody else's by now, or gone */
}

void vm_set_disks(struct host_vm *vm, const struct vm_def *def)
{
	struct vm_open_disk open[VM_DISKS_MAX] = {0};

	for (unsigned i = 0; i < def->disks; i++) {
		int was = vm_def_find(&vm->def, def->disk[i].path);

		if (was >= 0)
			open[i] = vm->open[was];
	}
	pthread_mutex_lock(&vm->lock);
	vm_def_take_disks(&vm->def, def);
	memcpy(vm->open, open, sizeof(open));
	pthread_mutex_unlock(&vm->lock);
}

/* Those that were coming or going when a daemon died, or its storage failed. */
int vm_disks_settle(struct host_vm *vm, bool rest)
{
	struct cfs *fs = host_volume_fs(vm->volume);
	struct vm_def *def = xmalloc(sizeof(*def));
	bool changed = false;
	int rc = 0;

	*def = vm->def;
	for (unsigned i = def->disks; rc == 0 && i-- > 0;) {
		if (!def->disk[i].pending || vm->open[i].file)
			continue;
		rc = vm_disk_settle(fs, &def->disk[i], cfs_vm_lock_vbn(vm->vm_lock));
		if (rc < 0)
			break;
		vm_def_remove(def, i, rest);
		changed = true;
	}
	if (rc == 0 && changed)
		rc = vm_def_replace(fs, vm->name, def);
	if (rc == 0 && changed)
		vm_set_disks(vm, def);
	free(def);
	return rc;
}

int vm_disks_prepare(struct host_vm *vm)
{
	struct controller_options options = {
		.kind = CONTROLLER_SCSI,
		.name = vm->name,
		.queues = MIN(vm->def.cpus, VM_QUEUES_MAX),
		.sealed = true,
		.events = &events,
		.arg = vm,
	};
	int rc = vm->controller ? 0 : chans_get(vm);

	if (rc < 0 || vm->controller)
		return rc;
	options.thread = vm->all->io[vm->io];
	rc = controller_create(&vm->controller, &options);
	if (rc < 0)
		chans_put(vm);
	return rc;
}

/* Those that are open already stay so. */
int vm_disks_open(struct host_vm *vm)
{
	int rc = vm_disks_prepare(vm);

	if (rc < 0)
		return rc;
	rc = vm_disks_settle(vm, vm->adopt);
	if (rc < 0) /* they stay what they are, and are no reason not to run */
		log_warn("host", "vm %s: what was begun with its disks is not put in order: %s",
			 vm->name, err_message(rc));
	if (!vm->adopt)
		vm_addresses_rested(vm);
	rc = 0;
	for (unsigned i = 0; i < vm->def.disks && rc == 0; i++) {
		if (vm->def.disk[i].pending || vm->open[i].disk)
			continue;
		rc = vm_disk_open(vm, i);
		if (rc == 0)
			rc = vm_disk_show(vm, i, vm->adopt || vm->came);
		if (rc < 0) {
			struct err_info why;

			err_save(&why, rc);
			(void)vm_disk_close(vm, i);
			rc = err_restore(&why);
		}
	}
	return rc; /* vm_disks_close takes apart what is there */
}

bool vm_is_ending(struct host_vm *vm)
{
	bool wanted;

	pthread_mutex_lock(&vm->lock);
	wanted = vm->killed || vm->ask == VM_ASK_LET_GO;
	pthread_mutex_unlock(&vm->lock);
	return wanted || atomic_load(&vm->lost) || vm_process_ended(vm);
}

void vm_note_waiting(struct host_vm *vm, int rc)
{
	pthread_mutex_lock(&vm->lock);
	(void)str_format(vm->waits, sizeof(vm->waits), "%.150s", rc < 0 ? err_message(rc) : "");
	pthread_mutex_unlock(&vm->lock);
}

static void tell_waiting(struct host_vm *vm, int rc)
{
	cleanup_free char *text = xasprintf("waits for its disks: %s", err_message(rc));

	log_warn("host", "vm %s: %s", vm->name, text);
	vm_tell(vm, text);
}

/* With one controller: of a post-copy, it knows which pages are there, and is told of those that come. */
int vm_disks_insist(struct host_vm *vm)
{
	bool said = false;

	for (;;) {
		int rc = vm_disks_open(vm);

		vm_note_waiting(vm, rc);
		if (rc == 0 || vm_is_ending(vm) || (rc == -ENOENT && !vm->came))
			return rc;
		if (!said)
			tell_waiting(vm, rc);
		said = true;
		sleep_ms(INSIST_MS);
	}
}

void vm_disks_close(struct host_vm *vm, bool give_up)
{
	sem_t done;

	pthread_mutex_lock(&vm->lock);
	vm->closing = true;
	pthread_cond_broadcast(&vm->changed); /* whose change waits for us in vm_do waits in vain */
	while (vm->changing && !vm->lasting)
		pthread_cond_wait(&vm->changed, &vm->lock);
	pthread_mutex_unlock(&vm->lock);
	if (vm->controller) {
		sem_init(&done, 0, 0);
		controller_close(vm->controller, closed, &done);
		wait_closed(&done);
		vm->controller = NULL;
	}
	chans_put(vm);
	for (unsigned i = 0; i < VM_DISKS_MAX; i++) {
		struct vm_open_disk *open = &vm->open[i];
		int rc = open->file && give_up ? cfs_close(open->file) : 0;

		if (rc < 0)
			log_warn("host", "vm %s: disk %s: %s", vm->name, vm->def.disk[i].path,
				 err_message(rc));
		vm_pass_close(vm, i);
		*open = (struct vm_open_disk){0};
	}
}
