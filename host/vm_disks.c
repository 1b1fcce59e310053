// SPDX-License-Identifier: Apache-2.0
/*
 * vm_disks.c: a VM's disks: opened under the VM's lock, bound with its one controller to one I/O
 * thread. Channels of a volume are shared by all VMs on a thread.
 */
#include <errno.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>

#include "base/err.h"
#include "base/log.h"
#include "base/pool.h"
#include "base/util.h"
#include "clusterfs/cfs.h"
#include "host/daemon.h"
#include "host/vm_run.h"
#include "host/volume.h"
#include "vfs/chans.h"
#include "vfs/controller.h"
#include "vfs/disk.h"
#include "vfs/iothread.h"
#include "vfs/thin.h"

#define IO_ENTRIES   1024
#define POOL_THREADS 4

struct shared_chans {
	struct list link;
	struct host_volume *volume;
	unsigned io, users;
	struct vfs_chans *chans;
};

/* Caller holds the lock. The thread with the fewest VMs; more threads only where there are CPUs. */
static int pick_io(struct host_vms *all, unsigned *out)
{
	unsigned limit = MAX(1, MIN((unsigned)get_nprocs(), VM_IO_THREADS)), best = 0;
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

/* The lock is held across the logins: VMs start one after the other here, which is rare enough. */
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

static int attach_disk(struct host_vm *vm, unsigned i, uint64_t owner)
{
	cleanup_free char *name = xasprintf("%s:%s", host_volume_name(vm->volume), vm->def.disk[i]);
	struct controller_lun lun = {.lun = i};
	struct vfs_disk *disk;
	int rc = cfs_open(host_volume_fs(vm->volume), vm->def.disk[i], CFS_OPEN_WRITE, owner,
			  &vm->file[vm->files]);

	if (rc < 0)
		return fail_prefix(rc, "vm %s: disk %s", vm->name, name);
	vm->files++;
	memcpy(lun.nexus, vm->def.id, sizeof(lun.nexus));
	rc = vfs_thin_open(vm->chans, vm->file[i], name, &disk);
	if (rc == 0)
		rc = controller_attach(vm->controller, disk, &lun);
	vm->disk[i] = disk;
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
	struct grown grown = {.disk = vm->disk[disk], .size = size};
	struct cfs_stat now;
	int rc = 0;

	cfs_file_stat(vm->file[disk], &now); /* what the caller knew of it may be old */
	if (size < now.size)
		return fail(-EPERM,
			    "vm %s: disk %s:%s has %llu bytes by now; it gets no smaller while the"
			    " VM runs",
			    vm->name, host_volume_name(vm->volume), vm->def.disk[disk],
			    (unsigned long long)now.size);
	if (size > now.size)
		rc = cfs_truncate(vm->file[disk], size);
	if (rc == 0)
		rc = cfs_sync(host_volume_fs(vm->volume));
	return rc < 0 ? rc : iothread_call(vm->all->io[vm->io], set_size_in_thread, &grown);
}

int vm_disks_open(struct host_vm *vm)
{
	struct controller_options options = {
		.kind = CONTROLLER_SCSI,
		.name = vm->name,
		.queues = MIN(vm->def.cpus, VM_QUEUES_MAX),
		.sealed = true,
		.events = &events,
		.arg = vm,
	};
	uint64_t owner = cfs_vm_lock_vbn(vm->vm_lock);
	int rc = chans_get(vm);

	if (rc < 0)
		return rc;
	options.thread = vm->all->io[vm->io];
	rc = controller_create(&vm->controller, &options);
	for (unsigned i = 0; i < vm->def.disks && rc == 0; i++)
		rc = attach_disk(vm, i, owner);
	return rc; /* vm_disks_close takes apart what is there */
}

static void closed(void *arg)
{
	sem_post(arg);
}

void vm_disks_close(struct host_vm *vm, bool give_up)
{
	sem_t done;

	pthread_mutex_lock(&vm->lock);
	vm->closing = true;
	while (vm->growing)
		pthread_cond_wait(&vm->changed, &vm->lock);
	pthread_mutex_unlock(&vm->lock);
	if (vm->controller) {
		sem_init(&done, 0, 0);
		controller_close(vm->controller, closed, &done);
		while (sem_wait(&done) < 0)
			;
		vm->controller = NULL;
	}
	chans_put(vm);
	for (unsigned i = 0; i < vm->files && give_up; i++) {
		int rc = cfs_close(vm->file[i]);

		if (rc < 0)
			log_warn("host", "vm %s: disk %s: %s", vm->name, vm->def.disk[i],
				 err_message(rc));
	}
	vm->files = 0;
}
