// SPDX-License-Identifier: Apache-2.0
/*
 * vm_lazy.h (private to host): post-copy at the target: a VM that runs here before all of its memory has come
 * (migrate/pager.h). All by its supervisor. Should the rest not come, the VM ends, as with a power cut: nobody
 * else runs it, and what is missing nobody has. Until it has ended its VMM's threads and its controller wait for the
 * pages, they never see others.
 */
#ifndef HOST_VM_LAZY_H
#define HOST_VM_LAZY_H

#include "host/vm_run.h"

struct mig_dirty;
struct mig_target;
struct vm_arrival;

/* Before LOAD: what is in `stale` comes later; a thread asks for what is waited for. Noted in the inventory. */
int vm_lazy_begin(struct host_vm *vm, struct mig_target *target, struct mig_dirty *stale);
/* It runs here: `arrival` is freed with the last page. */
void vm_lazy_keep(struct host_vm *vm, struct vm_arrival *arrival);
/* Each turn: 0; an error: its memory is lost, or its monitor has ended by itself. The monitor is killed. */
int vm_lazy_turn(struct host_vm *vm);
/* One of them has happened: that error, else 0. */
int vm_lazy_lost(const struct host_vm *vm);
/* What is said of one whose pages ended with `why`: a monitor that died first lost no page. */
int vm_lazy_told(const char *name, const struct err_info *why);
/* Waits until it has come, or has not: likewise. */
int vm_lazy_wait(struct host_vm *vm);
/* Nothing comes any more, what waits for pages waits on. Idempotent, as the next. */
void vm_lazy_stop(struct host_vm *vm);
/* After vm_lazy_stop; VMM and controller are gone. */
void vm_lazy_free(struct host_vm *vm);

#endif
