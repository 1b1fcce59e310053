// SPDX-License-Identifier: Apache-2.0
/*
 * vm_run.h (private to host): a VM that runs here. Its supervisor thread owns the control
 * connection and does all that blocks: starting, loading a kernel again when the guest reboots,
 * taking apart. Others post requests and wait.
 */
#ifndef HOST_VM_RUN_H
#define HOST_VM_RUN_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <jansson.h>

#include "base/err.h"
#include "base/util.h"
#include "base/vmctl.h"
#include "host/vm.h"
#include "host/vm_console.h"
#include "host/vm_def.h"

struct cfs_file;
struct cfs_vm_lock;
struct controller;
struct iothread;
struct pool;
struct vfs_chans;

#define VM_IO_THREADS 4

enum vm_phase { VM_STARTING, VM_RUNNING, VM_PAUSED, VM_FROZEN, VM_ENDED };

/* A request of another thread to the supervisor. */
enum vm_ask { VM_ASK_NONE, VM_ASK_BUTTON, VM_ASK_RESET, VM_ASK_KILL, VM_ASK_LET_GO };

struct host_vm {
	struct list link; /* in host_vms; guarded by its lock */
	struct host_vms *all;
	struct host_volume *volume; /* used */
	char name[VM_NAME_MAX + 1];
	char key[160]; /* "VOLUME-ID/NAME": the inventory's, and the VMM's --id */
	struct vm_def def;
	bool adopt; /* a VMM of a former daemon is taken up */
	pthread_t thread;

	pthread_mutex_t lock; /* guards from here to `clients` */
	pthread_cond_t changed;
	enum vm_phase phase;
	enum vm_ask ask;
	bool answered;
	struct err_info answer; /* of the request; .err 0: done */
	struct err_info ended;	/* why it is over: .err 0 a power-off or kill */
	bool crashed, panicked, full_paused;
	int new_client; /* a console's socket for the supervisor, -1 */
	uint64_t started_ns;
	unsigned uses;

	int wake_fd;	  /* eventfd: look at ask, new_client, full */
	atomic_int full;  /* disks that wait for space */
	atomic_bool gone; /* the vhost-user client went */

	/* The supervisor's alone. */
	struct cfs_vm_lock *vm_lock;
	struct cfs_file *file[VM_DISKS_MAX];
	unsigned files;
	unsigned io; /* index of the I/O thread */
	struct vfs_chans *chans;
	struct controller *controller;
	int memory_fd, lease_fd, pid_fd;
	pid_t pid;
	uint64_t pid_start; /* field 22 of /proc/PID/stat */
	unsigned uid_index;
	char socket[108];
	struct vmctl_conn *conn;
	uint32_t tag;
	unsigned events; /* bit per enum vmctl_event_kind that came */
	char event_text[VMCTL_TEXT_MAX + 1];
	struct vm_console *console;
	const _Atomic uint64_t *volume_end; /* the volume's lease, mapped */
	_Atomic uint64_t *vmm_end;	    /* the VMM's page, mapped; the lease thread writes it */
};

struct host_vms {
	struct host *host;
	pthread_mutex_t lock; /* guards all below, and VMs' links and uses */
	pthread_cond_t changed;
	struct list list;
	struct iothread *io[VM_IO_THREADS];
	unsigned io_vms[VM_IO_THREADS];
	struct pool *pool; /* metadata work of thin disks */
	struct list chans;
	bool ending;
	bool lease_thread_runs;
	pthread_t lease_thread;
	json_t *crashes; /* key to words, until the next start */
};

/* --- vm_run.c --------------------------------------------------------------------------------- */

/* Makes it known and starts its supervisor; takes `volume`'s use. `vm_lock` may be NULL: take it. */
int vm_launch(struct host_vms *all, struct host_volume *volume, const char *name,
	      const struct vm_def *def, json_t *record, struct host_vm **out);
/* A use; NULL when it does not run here. */
struct host_vm *vm_find(struct host_vms *all, struct host_volume *volume, const char *name);
void vm_put(struct host_vm *vm);
/* Posts and waits for the answer, at most `timeout_ms`. */
int vm_ask(struct host_vm *vm, enum vm_ask ask, unsigned timeout_ms);
/* Waits until it has left VM_STARTING, or has ended; 0, its error, -ETIMEDOUT. */
int vm_wait_started(struct host_vm *vm, unsigned timeout_ms);
int vm_wait_ended(struct host_vm *vm, unsigned timeout_ms);
void vm_wake(struct host_vm *vm);
/* Caller holds vm->lock. */
void vm_set_phase(struct host_vm *vm, enum vm_phase phase);
const char *vm_phase_name(enum vm_phase phase);

/* --- vm_disks.c ------------------------------------------------------------------------------- */

/* Opens the disks, the VM's lock being held, and makes the controller. */
int vm_disks_open(struct host_vm *vm);
/* Disconnects, waits for what is in flight; `give_up`: the disks' locks too. */
void vm_disks_close(struct host_vm *vm, bool give_up);

/* --- vm_spawn.c ------------------------------------------------------------------------------- */

/* Makes memory, lease page and socket, starts the VMM. */
int vm_spawn(struct host_vm *vm);
/* Takes up the VMM of the inventory's record: -ESRCH when it does not live. */
int vm_take_up(struct host_vm *vm, json_t *record);
/* Ends the VMM whatever it does, waits for its end. */
void vm_end_process(struct host_vm *vm);
/* Ends a VMM that a former daemon had just started and not yet noted down. */
void vm_end_stray(const char *key);
int vm_remember(struct host_vm *vm);
void vm_forget(struct host_vm *vm);
int vm_map_lease(struct host_vm *vm);

/* --- vm_boot.c -------------------------------------------------------------------------------- */

/* Reads kernel and initrd from the volume into guest memory; fills in their places. */
int vm_load_kernel(struct host_vm *vm, struct vmctl_config *config);
/* Checks at creation that `fd` (of `bytes`) is a kernel that fits. */
int vm_check_kernel(int fd, uint64_t bytes, uint64_t initrd_bytes, uint64_t memory,
		    const char *name);

#endif
