// SPDX-License-Identifier: Apache-2.0
/* admission.c: sums of reservations. */
#include "host/admission.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/err.h"
#include "base/util.h"
#include "host/daemon.h"
#include "host/vm_run.h"

#define HOST_MIN  (128 * MiB) /* of its memory a host keeps that much, or a part: */
#define HOST_PART 32

static char *drill_path(const struct host *host)
{
	return xasprintf("%s/steps/meminfo", host->state.dir);
}

bool host_memory_is_drill(const struct host *host)
{
	cleanup_free char *drill = drill_path(host);

	return access(drill, F_OK) == 0;
}

int host_memory_info(const struct host *host, uint64_t *total, uint64_t *available)
{
	cleanup_free char *drill = drill_path(host);
	unsigned long long all = 0, free_now = 0;
	FILE *f = fopen(drill, "re");
	char line[128];

	if (!f)
		f = fopen("/proc/meminfo", "re");
	while (f && fgets(line, sizeof(line), f)) {
		(void)sscanf(line, "MemTotal: %llu", &all);
		(void)sscanf(line, "MemAvailable: %llu", &free_now);
	}
	if (f)
		fclose(f);
	*total = all * KiB;
	*available = free_now * KiB;
	return all && free_now ? 0 : fail(-EIO, "/proc/meminfo: not understood");
}

uint64_t host_memory_for_vms(uint64_t total)
{
	return total - MIN(total, MAX(HOST_MIN, total / HOST_PART));
}

int host_admit(struct host_vms *all, const struct vm_share *share, const char *name,
	       const struct host_vm *except)
{
	uint64_t total, available, have, taken = 0, cpu = 0, wants = vm_share_reserved(share);
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	struct host_vm *vm;
	int rc = host_memory_info(all->host, &total, &available);

	if (rc < 0)
		return rc;
	list_for_each (vm, &all->list, link) {
		if (vm == except)
			continue;
		pthread_mutex_lock(&vm->lock);
		taken += MAX(vm_share_reserved(&vm->def.share), vm->claim.memory);
		cpu += MAX(vm->def.share.cpu_reserved, vm->claim.cpu);
		pthread_mutex_unlock(&vm->lock);
	}
	have = host_memory_for_vms(total);
	if (wants > have - MIN(have, taken))
		return fail(
			-ENOSPC,
			"vm %s: %llu MiB of memory are reserved for it, host %s has %llu left of"
			" %llu MiB for VMs; stop one, reserve less (vm set --memory-reservation),"
			" or run it elsewhere",
			name, (unsigned long long)(wants / MiB), all->host->name,
			(unsigned long long)((have - MIN(have, taken)) / MiB),
			(unsigned long long)(have / MiB));
	if (share->cpu_reserved && cpu + share->cpu_reserved > 100 * (uint64_t)cpus)
		return fail(
			-ENOSPC,
			"vm %s: %u %% of a processor are reserved for it, host %s has %lld %% left "
			"of its %ld"
			" processors",
			name, share->cpu_reserved, all->host->name,
			(long long)(100 * cpus) - (long long)cpu, cpus);
	return 0;
}
