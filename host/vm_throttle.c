// SPDX-License-Identifier: Apache-2.0
/*
 * vm_throttle.c: less processor time for a VM whose memory changes faster than it can be sent. By its control group,
 * where there is one; else its supervisor lets it stand still and run in turns. Its clocks go on meanwhile, as they do
 * for a guest whose processor is somebody else's.
 */
#include <errno.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "host/vm_move.h"

#define PERIOD_MS 100u
#define LEAST_MS \
	5u /* of each period it runs, whatever is asked for: its timers and its network live */

int vm_throttle(struct host_vm *vm, unsigned percent)
{
	int rc = vm_cpu_time(vm, 100 - percent);

	atomic_store(&vm->slow, rc == -ENOENT ? percent : 0);
	vm_wake(vm);
	return rc == -ENOENT ? 0 : rc;
}

int vm_slow_wait_ms(struct host_vm *vm)
{
	uint64_t now = clock_boot_ms();

	if (!atomic_load(&vm->slow) && !vm->slow_stands)
		return -1;
	return vm->slow_ms > now ? (int)(vm->slow_ms - now) : 0;
}

void vm_slow_turn(struct host_vm *vm)
{
	unsigned percent = MIN(atomic_load(&vm->slow), 100u), stand, run;
	uint64_t now = clock_boot_ms();
	int rc = 0;

	if (vm->phase != VM_RUNNING ||
	    vm->resetting) { /* it stands for another reason, which ends that */
		vm->slow_stands = false;
		vm->slow_ms = now + PERIOD_MS;
		return;
	}
	stand = MIN(PERIOD_MS * percent / 100, PERIOD_MS - LEAST_MS);
	run = PERIOD_MS - stand;
	if (now < vm->slow_ms && percent)
		return;
	if (vm->slow_stands) {
		vm_run_on(vm);
		vm->slow_stands = false;
		vm->slow_ms = now + run;
	} else if (percent) {
		rc = vm_call_plain(vm, VMCTL_PAUSE, VM_CALL_MS);
		vm->slow_stands = rc != -EINVAL; /* no answer: it may be obeyed late */
		vm->slow_ms = now + stand;
	}
	if (rc < 0)
		log_warn("migrate", "vm %s: slowing it down: %s", vm->name, err_message(rc));
}
