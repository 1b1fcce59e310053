// SPDX-License-Identifier: Apache-2.0
/*
 * vm_lease.c: the end of the volume's lease, as each VMM sees it (INV-HA-1: a VMM whose lease ends
 * stops its vCPUs by itself, daemon or no daemon).
 *
 * The volume's own page lives as long as the mount; a VMM lives longer. So each VMM has a page in a
 * file of this host that the next daemon finds again, and a thread copies. A copy that comes late
 * is an earlier end: safe.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/util.h"
#include "clusterfs/cfs.h"
#include "host/vm_run.h"
#include "host/volume.h"

#define COPY_MS 50 /* a small part of any lease */

static char *lease_path(const struct host_vm *vm)
{
	return xasprintf("%s.lease", vm->base);
}

static int open_page(const char *path, bool create, int *out)
{
	int fd = open(path, O_RDWR | O_CLOEXEC | (create ? O_CREAT | O_EXCL : 0), 0600);

	if (fd < 0)
		return fail(-errno, "%s: %s", path, strerror(errno));
	if (create && posix_fallocate(fd, 0, VMCTL_LEASE_BYTES)) {
		close(fd);
		return fail(-ENOSPC, "%s: no space for a page", path);
	}
	*out = fd;
	return 0;
}

int vm_lease_map(struct host_vm *vm, bool create, int *fd)
{
	cleanup_free char *path = lease_path(vm);
	cleanup_fd int page = -1;
	void *from, *to;
	int rc;

	if (create)
		(void)unlink(path);
	rc = open_page(path, create, &page);
	if (rc < 0)
		return rc;
	if (fd) {
		*fd = open(path, O_RDONLY | O_CLOEXEC);
		if (*fd < 0)
			return fail(-errno, "%s: %s", path, strerror(errno));
	}
	from = mmap(NULL, VMCTL_LEASE_BYTES, PROT_READ, MAP_SHARED,
		    cfs_lease_fd(host_volume_fs(vm->volume)), 0);
	to = mmap(NULL, VMCTL_LEASE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, page, 0);
	if (from == MAP_FAILED || to == MAP_FAILED) {
		rc = fail(-errno, "vm %s: cannot map its lease: %s", vm->name, strerror(errno));
		if (from != MAP_FAILED)
			munmap(from, VMCTL_LEASE_BYTES);
		if (to != MAP_FAILED)
			munmap(to, VMCTL_LEASE_BYTES);
		return rc;
	}
	atomic_store((_Atomic uint64_t *)to, atomic_load((const _Atomic uint64_t *)from));
	pthread_mutex_lock(&vm->all->lease_lock);
	vm->volume_end = from;
	vm->vmm_end = to;
	list_add(&vm->all->leases, &vm->lease_link);
	pthread_mutex_unlock(&vm->all->lease_lock);
	return 0;
}

void vm_lease_unmap(struct host_vm *vm)
{
	void *from, *to;

	pthread_mutex_lock(&vm->all->lease_lock);
	from = (void *)vm->volume_end;
	to = (void *)vm->vmm_end;
	vm->volume_end = NULL;
	vm->vmm_end = NULL;
	if (to)
		list_del(&vm->lease_link);
	pthread_mutex_unlock(&vm->all->lease_lock);
	if (from)
		munmap(from, VMCTL_LEASE_BYTES);
	if (to)
		munmap(to, VMCTL_LEASE_BYTES);
}

bool vm_lease_runs(const struct host_vm *vm)
{
	return vm->volume_end && atomic_load(vm->volume_end) > clock_boot_ns();
}

int vm_let_run(struct host_vm *vm)
{
	int rc;

	pthread_mutex_lock(&vm->all->lease_lock);
	if (vm->vmm_end)
		atomic_store(vm->vmm_end, atomic_load(vm->volume_end));
	pthread_mutex_unlock(&vm->all->lease_lock);
	rc = vm_call_plain(vm, VMCTL_RESUME, VM_CALL_MS);
	pthread_mutex_lock(&vm->lock);
	(void)str_format(vm->refused, sizeof(vm->refused), "%.150s", rc < 0 ? err_message(rc) : "");
	pthread_mutex_unlock(&vm->lock);
	return rc;
}

static void *copier(void *arg)
{
	struct host_vms *all = arg;
	bool ending = false;
	struct host_vm *vm;

	while (!ending) {
		pthread_mutex_lock(&all->lease_lock);
		list_for_each (vm, &all->leases, lease_link)
			atomic_store(vm->vmm_end, atomic_load(vm->volume_end));
		ending = all->leases_end;
		pthread_mutex_unlock(&all->lease_lock);
		sleep_ms(COPY_MS);
	}
	return NULL;
}

int vm_lease_start(struct host_vms *all)
{
	int rc = -pthread_create(&all->lease_thread, NULL, copier, all);

	if (rc < 0)
		return fail(rc, "thread: %s", strerror(-rc));
	pthread_setname_np(all->lease_thread, "leases");
	all->lease_thread_runs = true;
	return 0;
}

void vm_lease_stop(struct host_vms *all)
{
	if (!all->lease_thread_runs)
		return;
	pthread_mutex_lock(&all->lease_lock);
	all->leases_end = true;
	pthread_mutex_unlock(&all->lease_lock);
	pthread_join(all->lease_thread, NULL);
	all->lease_thread_runs = false;
}
