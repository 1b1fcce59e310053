// SPDX-License-Identifier: Apache-2.0
/*
 * vm_move.h (private to host): a VM that moves, on either host. See migrate/wire.h for what is said and
 * clusterfs/cfs.h for what decides: a VMM is told to resume only after the compare-and-write that made the
 * VM's lock ours, or left it so.
 *
 * Here (vm_migrate.c): a task's thread sends the memory; what touches VMM or lock is done by the supervisor,
 * the whole standstill in one piece. There (vm_arrive.c): the supervisor does it all; data streams have threads.
 * A daemon that is started again asks the lock, too: ours: the VM goes on; not ours: its VMM is ended.
 */
#ifndef HOST_VM_MOVE_H
#define HOST_VM_MOVE_H

#include <stdbool.h>
#include <stdint.h>
#include <jansson.h>

#include "host/vm_run.h"

struct frame;
struct host_stream;
struct mig_source;
struct vm_arrival;

/* A state on its way: the VMM's (VMCTL_SAVE), then the controller's (controller_save). */
struct vm_state_head {
	le32 vmm_bytes;	       /* 0x00 */
	le32 controller_bytes; /* 0x04 */
	le64 age_ns;	       /* 0x08 from SAVE until it was sent, by the source's own clock */
};

/* What is under way in a task's thread; host_vm.move, guarded by its lock. */
struct vm_move {
	struct mig_source *source; /* NULL: not yet, or no more */
	bool post; /* the VM is gone, the rest of its memory goes: there is no way back */
	bool stop; /* it is to end, for: */
	struct err_info why;
	bool waited_for; /* by the supervisor, which does nothing else any more */
};

/* --- vm_ask.c -------------------------------------------------------------------------------------- */

/*
 * The supervisor runs `fn` and this returns what it returned; -ECANCELED when the VM ends, or the move is
 * to end, and `fn` has not begun.
 */
int vm_do(struct host_vm *vm, int (*fn)(struct host_vm *vm, void *arg), void *arg);
/* -ETIMEDOUT: `fn` has not begun within `begin_ms`, and will not. */
int vm_do_soon(struct host_vm *vm, int (*fn)(struct host_vm *vm, void *arg), void *arg,
	       unsigned begin_ms);

/* --- vm_migrate.c ---------------------------------------------------------------------------------- */

/* Any thread: ends the move, if there is one, for `why`. Waits for nothing; what stands still already goes on. */
void vm_move_break(struct host_vm *vm, const char *why);
/* Supervisor, which takes the VM apart: the same, and waits until it has let go of the VM. */
void vm_move_end(struct host_vm *vm, const char *why);

/* --- vm_standstill.c -------------------------------------------------------------------------------- */

/*
 * What a save does likewise (vm_save.c), in the supervisor. The state of a VM that stands still, quiesced: the VMM's
 * part and the controller's as one, behind a struct vm_state_head. To be freed. Guest memory may be written by it.
 */
int vm_make_state(struct host_vm *vm, uint8_t **out, uint32_t *bytes);
/*
 * After an offer, whatever came of it: only the lock knows. 0: it is ours; -ENOENT: another's, or saved; -ESTALE:
 * nobody here can say any more; -ESHUTDOWN (vm->unsettled): the daemon ends before it is known, the next one asks.
 */
int vm_settle(struct host_vm *vm);

/* --- vm_arrive.c ----------------------------------------------------------------------------------- */

/*
 * A MIG_BEGIN came on `stream`, which stands on the volume with this id: refuses, or makes a VM known whose
 * supervisor has the stream from then on. In the stream's own thread.
 */
int vm_arrival_begin(struct host *host, const char *volume_id, struct host_stream *stream,
		     const struct frame *frame);
/* Supervisor: until it runs here, or does not. Ends the stream. */
int vm_arrive(struct host_vm *vm, struct vm_arrival *arrival);
void vm_arrival_free(struct vm_arrival *arrival, int err);

/*
 * What a restore from a file does likewise (vm_restore.c), in the supervisor. A VMM that has nothing to run, and shows
 * the processor `cpu`, or refuses; the inventory says that the VM arrives.
 */
struct cpu_table;
int vm_load_machine(struct host_vm *vm, const struct cpu_table *cpu);
/* Its memory is complete; here is its state (struct vm_state_head). `came_ns`: then, BOOTTIME; 0: its clock stood still. */
struct vm_loaded {
	uint8_t *controller; /* to be freed */
	uint32_t controller_bytes;
};
int vm_load_state(struct host_vm *vm, const uint8_t *bytes, uint32_t n, uint64_t came_ns,
		  struct vm_loaded *out);
/* Its lock is ours: disks, and it runs, unless it is held. What does not work now is tried again, and ends nothing. */
void vm_load_run(struct host_vm *vm, const struct vm_loaded *loaded, const char *disks_step);

/* --- vm_run.c -------------------------------------------------------------------------------------- */

/* As vm_launch, for one that arrives. Nobody finds it (vm_find) until vm_arrived. Takes `arrival` when 0. */
int vm_launch_arrival(struct host_vms *all, struct host_volume *volume, const char *name,
		      const struct vm_def *def, struct vm_arrival *arrival);
void vm_arrived(struct host_vm *vm);

/* --- vm_throttle.c --------------------------------------------------------------------------------- */

/* The VM's processor time: `percent` less of it, 0: all. Any thread. */
int vm_throttle(struct host_vm *vm, unsigned percent);
/* Supervisor, each turn: where no control group does it. In how many ms it has to come again; -1: for nothing. */
void vm_slow_turn(struct host_vm *vm);
int vm_slow_wait_ms(struct host_vm *vm);

/* --- step.c ---------------------------------------------------------------------------------------- */

/*
 * A place where a test stops this host: when STATE/steps/NAME is there, says so in STATE/steps/NAME.reached
 * and goes on when it is gone, or after two minutes.
 */
void host_step(struct host *host, const char *name);

#endif
