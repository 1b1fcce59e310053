// SPDX-License-Identifier: Apache-2.0
/* vm_throttle.c: less processor time for a VM whose memory changes faster than it can be sent. */
#include <errno.h>

#include "base/clock.h"
#include "base/err.h"
#include "host/vm_move.h"
#include "host/vm_process.h"

int vm_throttle(struct host_vm *vm, unsigned percent)
{
	int rc = process_cpu_share(vm->id, vm->def.cpus, 100 - percent);

	return rc == -ENOENT ? fail(-EOPNOTSUPP,
				    "vm %s: it writes faster than can be sent, and this host has "
				    "no cgroup "
				    "for its CPU time",
				    vm->name)
			     : rc;
}
