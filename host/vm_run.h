// SPDX-License-Identifier: Apache-2.0
/*
 * vm_run.h (private to host): a VM that runs here. Its supervisor thread owns the control
 * connection and does all that blocks: starting, loading a kernel again when the guest reboots,
 * taking apart. Others post requests and wait.
 */
#ifndef HOST_VM_RUN_H
#define HOST_VM_RUN_H

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <jansson.h>

#include "base/err.h"
#include "base/util.h"
#include "base/vmctl.h"
#include "clusterfs/cfs.h"
#include "host/vm.h"
#include "host/vm_agent.h"
#include "host/vm_console.h"
#include "host/vm_def.h"
#include "host/vm_sweep.h"
#include "host/vm_usage.h"

struct blk;
struct cfs;
struct cfs_file;
struct cfs_vm_lock;
struct host_call;
struct controller;
struct iothread;
struct pool;
struct vfs_chans;
struct vfs_disk;

#define VM_IO_THREADS 4
#define VM_QUEUES_MAX 4	    /* request queues of a VM's controller: one a CPU up to that */
#define VM_QUEUE_SIZE 256   /* descriptors */
#define VM_CALL_MS    10000 /* the VMM answers */
#define VM_START_MS   30000 /* the VMM waits for its back-end */

enum vm_phase { VM_STARTING, VM_RUNNING, VM_PAUSED, VM_FROZEN, VM_ENDED };

/* A request of another thread to the supervisor. LET_GO: the daemon ends, the VM runs on. */
enum vm_ask {
	VM_ASK_NONE,
	VM_ASK_BUTTON,
	VM_ASK_RESET,
	VM_ASK_PAUSE,
	VM_ASK_RESUME,
	VM_ASK_LET_GO,
	VM_ASK_DO,
};

/* How a VM is to begin that may be saved on its volume (vm_saved.h). */
enum vm_how {
	VM_HOW_ANY,	/* where it was saved; else anew */
	VM_HOW_RESTORE, /* where it was saved, or not at all */
	VM_HOW_DISCARD, /* anew: what was saved is thrown away */
};

#define VM_WHOLE_RECORD	 1u /* the inventory */
#define VM_WHOLE_MONITOR 2u

struct host_vm;
struct vm_move;

struct host_vm {
	struct list link; /* in host_vms; guarded by its lock */
	struct host_vms *all;
	struct host_volume *volume; /* used */
	char name[VM_NAME_MAX + 1];
	char key[160]; /* "VOLUME-ID/NAME": the inventory's */
	char id[256];  /* "STATE:VOLUME:NAME": what the VMM's command line says */
	char base[96]; /* "STATE/vm/HASH": its files are this with a suffix */
	struct vm_def def;
	bool adopt; /* a VMM of a former daemon is taken up */
	bool came;  /* ... or one that comes from another host, or a file, which has quiesced it */
	enum vm_how how;
	struct cfs_saved only; /* with RESTORE: this state, no other; inode 0: whichever there is */
	pthread_t thread;
	unsigned uses; /* guarded by host_vms's lock, as `link` */

	pthread_mutex_t lock; /* guards from here to `client` */
	pthread_cond_t changed;
	enum vm_phase phase;
	const char *step; /* what a start is doing, for its progress */
	enum vm_ask ask;
	uint64_t ask_number; /* an answer is to this one alone */
	bool answered;
	struct err_info answer; /* of the request; .err 0: done */
	struct err_info ended;	/* why it is over: .err 0 a power-off or kill */
	char refused[160];	/* what its monitor said when it was told to run; "": it obeyed */
	char waits
		[160]; /* what its storage said, which a guest that lives waits for; "": nothing */
	bool stands;   /* STARTING, and it came: it has not been let run here */
	bool panicked;
	bool held;	      /* `vm pause`: stands still until `vm resume`, whatever else */
	bool killed;	      /* it is to end: also a start that waits is given up */
	bool committed;	      /* ... not any more: it goes on from a state that is used up now */
	const char *changing; /* what works on its disks or definition, in words: vm_change_begin */
	bool lasting;	      /* ... and others do not wait for it */
	bool closing;	      /* its disks are being closed, for good */
	bool saved;	      /* it ended because its state lies on the volume now */
	bool left;	      /* it has not ended: the daemon does, and leaves it to the next one */
	int (*do_fn)(struct host_vm *vm, void *arg); /* VM_ASK_DO: vm_do, vm_move.h */
	void *do_arg;
	bool doing;	      /* ... has begun */
	struct vm_move *move; /* it moves to another host; NULL: it does not */
	char move_to[64];     /* where to */
	uint64_t started_ns;
	char tap[VM_NETS_MAX][16];   /* the interfaces of its network devices; "": none yet */
	struct vm_usage usage;	     /* as of the supervisor's last look */
	uint64_t balance_target;     /* bytes at most, since the host lacks memory; 0: its own */
	uint64_t asked_ns;	     /* when that was lowered last */
	struct vm_sweep sweep;	     /* the balancer's alone: its pages of zeroes */
	uint64_t unsaved_ns;	     /* when saving it for want of memory failed last; 0: never */
	int client[CONSOLE_CLIENTS]; /* consoles' sockets for the supervisor; -1 */

	int wake_fd;		/* eventfd: look at ask, killed, client, full, gone, lost */
	atomic_int full;	/* disks that wait for space */
	atomic_bool gone;	/* the vhost-user client went */
	atomic_bool lost;	/* the volume's epoch is over: it must end */
	atomic_uint slow;	/* per cent of its time that it is to stand still: vm_throttle.c */
	atomic_bool incomplete; /* its memory is coming still: nobody may copy it */

	bool arriving; /* guarded by host_vms's lock: another host runs it still */
	bool departed; /* likewise: by now; what is here of it is taken apart, or follows it */
	struct {
		uint64_t memory; /* bytes */
		unsigned cpu;	 /* per cent of a processor */
	} claim; /* guarded by host_vms's lock: `vm set` gives it a higher reservation; 0: it does not */

	/* The supervisor's alone. */
	bool loaded;	/* it came from another host, and its VMM has never had a kernel */
	bool moved;	/* its lock is another host's: nothing is given up any more */
	bool unsettled; /* the daemon ends, and it is not known whose it is: left for the next one */
	bool orphan; /* moved, too, but nobody here can say to whom: our life on the volume is over */
	struct cfs_vm_lock *vm_lock;
	bool can_postcopy;
	struct vm_lazy *lazy; /* its memory is coming still (vm_lazy.h); NULL: all is here */
	unsigned whole_owed;  /* ... who has not been told yet that it is, VM_WHOLE_... */
	uint64_t whole_ms;    /* not before: the next attempt */
	/*
	 * What is open of def.disk[i]; NULL: not, or not yet. Changed by the supervisor, and by who has
	 * begun a change; def's disks likewise, but with the lock held, since others look at them.
	 */
	struct vm_open_disk {
		struct cfs_file *file;
		struct vfs_disk *disk; /* the controller's */
		struct blk *blk;       /* of a LUN that is passed through */
		void *lease;	       /* ... the volume's, mapped: it gates the LUN too */
		bool claimed;	       /* ... by the kernel: nobody else here may have it, as */
		int claim;	       /* long as this descriptor is open */
	} open[VM_DISKS_MAX];
	unsigned io; /* index of the I/O thread */
	struct vfs_chans *chans;
	struct controller *controller;
	int memory_fd, pid_fd;
	int memory_number;   /* the memory's descriptor in the VMM */
	uint64_t memory_ino; /* and its inode */
	pid_t pid;	     /* 0: no VMM */
	uint64_t pid_start;  /* field 22 of /proc/PID/stat */
	struct vmctl_conn *conn;
	uint64_t features;	/* VMCTL_F_..., as its VMM said last */
	uint64_t target_told;	/* to this VMM, of its balloon; 0: nothing */
	struct vm_agent *agent; /* as long as this lives; started and stopped by the supervisor */
	char pool[VM_POOL_MAX + 1]; /* whose group its process is in */
	uint32_t tag;
	unsigned events; /* bit per enum vmctl_event_kind that came */
	char event_text[VMCTL_TEXT_MAX + 1];
	unsigned net_device; /* the first of CONFIG's network devices; the others follow */
	bool slow_stands;    /* ... slowed down, and stands still now; it counts as running */
	uint64_t slow_ms;    /* until then */
	bool resetting;	     /* RESET was obeyed, its event has not come */
	uint64_t retry_ms;   /* not before: the next attempt to connect the VMM's device again */
	struct vm_console *console;
	struct list lease_link; /* in host_vms, while these are mapped; guarded by its lease lock */
	const _Atomic uint64_t *volume_end; /* the volume's lease, mapped */
	_Atomic uint64_t *vmm_end;	    /* the VMM's page, mapped; the lease thread writes it */
};

struct host_vms {
	struct host *host;
	cpu_set_t cpus;	      /* the daemon's own, when it started: VMs' and I/O threads' */
	pthread_mutex_t lock; /* guards all below, VMs' links and uses */
	pthread_cond_t changed;
	struct list list;
	unsigned count; /* VMs that are not freed yet */
	struct iothread *io[VM_IO_THREADS];
	unsigned io_vms[VM_IO_THREADS];
	struct pool *pool; /* metadata work of thin disks */
	struct list chans;
	bool ending;
	bool lease_thread_runs;
	pthread_t lease_thread;
	/* Never held for longer than a copy: a VMM whose copy is late stops. */
	pthread_mutex_t lease_lock; /* guards the two below, lease mappings and links */
	struct list leases;
	bool leases_end;
	json_t *crashes; /* a VM's id to words, until it is known to have run again, here or elsewhere */
};

/* --- vm_run.c --------------------------------------------------------------------------------- */

/*
 * Makes it known and starts its supervisor; takes `volume`'s use, also when it fails. With `record`
 * (the inventory's) its VMM is taken up. `only` (may be NULL): the state that is to be restored. -EBUSY: it runs
 * here or is being started. *out is a use.
 */
int vm_launch(struct host_vms *all, struct host_volume *volume, const char *name,
	      const struct vm_def *def, enum vm_how how, const struct cfs_saved *only,
	      json_t *record, struct host_vm **out);
/* A use; NULL when it does not run here, or not yet, or not any more. */
struct host_vm *vm_find(struct host_vms *all, struct host_volume *volume, const char *name);
/* No other host runs it still, or by now. The lock of host_vms is held. */
bool vm_is_here(const struct host_vm *vm);
void vm_put(struct host_vm *vm);

/* --- vm_ask.c: for other threads -------------------------------------------------------------- */

/*
 * Posts and waits for the answer, at most `timeout_ms`: 0, its error, -ETIMEDOUT; VM_ASK_ENDED: the VM's supervisor
 * ended and had not obeyed.
 */
enum { VM_ASK_ENDED = 1 };
int vm_ask(struct host_vm *vm, enum vm_ask ask, unsigned timeout_ms);
/* It ends as soon as its supervisor does not wait for something else; see vm_wait_ended. */
void vm_kill_soon(struct host_vm *vm);
/* Nobody waits for its start any more: the same, unless it goes on from a state that nobody else has by now. */
void vm_give_up_soon(struct host_vm *vm);
/*
 * One at a time works on a VM's disks or its definition: `what` says so in words ("a disk is being
 * attached") and is constant. It is begun and ended in any thread, which waits at most `timeout_ms` for a
 * start or for another's work. One that is `lasting` (a migration) is not waited for: -EBUSY, naming it,
 * at once; and its VM's memory must all be here, and its disks may be closed under it, while all others' end is waited for. -ENOENT: it has
 * ended; -ETIMEDOUT.
 */
int vm_change_begin(struct host_vm *vm, const char *what, bool lasting, unsigned timeout_ms);
void vm_change_end(struct host_vm *vm);
/* Whoever waits within a change is to give up: the VM is going. */
bool vm_change_stop(struct host_vm *vm);
/* Its definition as it is now. */
void vm_get_def(struct host_vm *vm, struct vm_def *out);
bool vm_has_disk(struct host_vm *vm, const char *path);
/*
 * Its disk `path` gets `size` bytes, no fewer than it has; the guest is told. A change, see above. -ENOENT
 * also when it has no such disk.
 */
int vm_grow(struct host_vm *vm, const char *path, uint64_t size, unsigned timeout_ms);
/* Waits until it has left VM_STARTING: 0, the error of the start, -ETIMEDOUT. */
int vm_wait_started(struct host_vm *vm, unsigned timeout_ms);
/* Waits until it is over: 0, -ETIMEDOUT. */
int vm_wait_ended(struct host_vm *vm, unsigned timeout_ms);
void vm_wake(struct host_vm *vm);
/* Hands a console's socket to the supervisor. */
void vm_give_client(struct host_vm *vm, int fd);
/* "running", "paused", "frozen", "crashed", "starting" of a VM that is here. */
const char *vm_state_name(struct host_vm *vm);
/* Why it does not run as it should, and the cure, into `dst`; NULL: nothing is wrong. */
#define VM_WHY_MAX 320
const char *vm_state_why(struct host_vm *vm, char dst[VM_WHY_MAX]);
/* "VOLUME:NAME", into `dst`, which it returns. */
const char *vm_object(struct host_vm *vm, char dst[200]);
/* An event of the VM's. */
void vm_tell(struct host_vm *vm, const char *text);
/* The same of an error's words, without the "vm NAME: " that they begin with: events name the VM. */
void vm_tell_error(struct host_vm *vm, const char *words);
/* From the supervisor, for who waits or looks. */
void vm_set_phase(struct host_vm *vm, enum vm_phase phase);
void vm_set_step(struct host_vm *vm, const char *step);

/* --- vm_start.c: from the supervisor ------------------------------------------------------------ */

/* From nothing to a guest that runs. What an error leaves is taken apart by the caller. */
int vm_bring_up(struct host_vm *vm);
/* The VMM of the inventory's record is served again; likewise. */
int vm_adopt(struct host_vm *vm, json_t *record);

/* --- vm_turn.c: from the supervisor ------------------------------------------------------------- */

/* Until it is over: 0 (a power-off, a kill, or *let_go: the daemon ends), or why it must end. */
int vm_turns(struct host_vm *vm, bool *let_go);
/* What READY says happened while nobody listened becomes the events that were missed. */
void vm_catch_up(struct host_vm *vm, const struct vmctl_status *status);
/*
 * RESUME of a guest that was to stand still for a moment only; one that is held stays as it is. Refused, or not answered:
 * it is paused, or frozen, and told again each turn until it runs. With the connection lost nobody knows: the phase stays
 * what it was, and the next connection's READY tells, in the next turn.
 */
void vm_run_on(struct host_vm *vm);

/* --- vm_verbs.c: for other verbs ------------------------------------------------------------------ */

struct host_call;
/* Argument "name" as a VM that runs here, used; -EINVAL: it does not run; -EBUSY: it runs elsewhere. */
int vm_need_running(struct host_call *call, struct host_vm **out);
/* vm_migrate.c */
int vm_migrate(struct host_call *call);

/* --- vm_control.c: talking to the VMM, from the supervisor -------------------------------------- */

/* Connects the control socket; *status (may be NULL) is what READY said. */
int vm_connect(struct host_vm *vm, struct vmctl_status *status);
/*
 * Sends a request and waits for its REPLY; events and console output that come are taken. An error with vm->conn NULL: the
 * connection is lost, the only sign of it (errors may be the VMM's answer). The request was obeyed, or not.
 */
int vm_call(struct host_vm *vm, struct vmctl_msg *msg, unsigned timeout_ms);
/*
 * The same, for a request whose answer is a message of type `want`: into `answer`, which may be NULL for a
 * REPLY. Descriptors of FAULTS are the caller's, all others are closed.
 */
int vm_call_for(struct host_vm *vm, struct vmctl_msg *msg, enum vmctl_type want,
		struct vmctl_msg *answer, unsigned timeout_ms);
/* vm_call of a request that is nothing but its type. */
int vm_call_plain(struct host_vm *vm, enum vmctl_type type, unsigned timeout_ms);
/* Takes what has come; -ECONNRESET, -EPROTO: the connection is over (and closed). */
int vm_hear(struct host_vm *vm);
void vm_say_console(struct host_vm *vm, const uint8_t *data, size_t n);
/* Connects the VMM's SCSI device to the controller. */
int vm_connect_disks(struct host_vm *vm);
/* A connection to the guest's agent: its socket, or -errno. Any thread. */
int vm_connect_agent(struct host_vm *vm, bool thaws);
/* CONFIG: what the machine is; `config` holds the kernel's places already. */
int vm_configure(struct host_vm *vm, struct vmctl_config *config);
void vm_disconnect(struct host_vm *vm);

/* --- vm_disks.c ------------------------------------------------------------------------------- */

/*
 * Opens the disks, the VM's lock being held, and makes the controller; after vm_disks_settle.
 */
int vm_disks_open(struct host_vm *vm);
/*
 * The same for a guest that lives already: storage that fails is waited for. An error: vm_is_ending says that
 * it is no use, or a disk is gone for good.
 */
int vm_disks_insist(struct host_vm *vm);
/* For who asks how the VM is: `rc` 0, or why a guest that lives has to wait for its storage. */
void vm_note_waiting(struct host_vm *vm, int rc);
/* Its end is wanted, or the daemon's, or has come: nothing is to be waited for. */
bool vm_is_ending(struct host_vm *vm);
/* Before that, and without the lock: channels and controller, which take their time. */
int vm_disks_prepare(struct host_vm *vm);
/* Opens def.disk[index] alone; the guest does not see it yet. */
int vm_disk_open(struct host_vm *vm, unsigned index);
/* The guest sees it, and is told. `goes_on`: it knows the disk, and what it has reserved holds still. */
int vm_disk_show(struct host_vm *vm, unsigned index, bool goes_on);
/* What the guest sees of it goes at once, its requests end. It stays open. */
int vm_disk_hide(struct host_vm *vm, unsigned index);
/* Gives its lock up. The guest does not see it. */
int vm_disk_close(struct host_vm *vm, unsigned index);
/* The VM has `def`'s disks now; what is open stays so. By who has begun a change, or the supervisor. */
void vm_set_disks(struct host_vm *vm, const struct vm_def *def);
/*
 * What an attach or detach had begun and not ended is put in order, on the volume too. `rest`: the guest may
 * have seen these disks.
 */
int vm_disks_settle(struct host_vm *vm, bool rest);
/* The lock of a disk that was coming or going is given up, should it name the VM whose lock is `owner`. */
int vm_disk_settle(struct cfs *fs, const struct vm_def_disk *disk, uint64_t owner);
/*
 * (By vm_grow.) A disk that the guest uses grows: durable, then the guest hears of it; also when it has `size`
 * already, should a former attempt have ended halfway. -EPERM: it has more.
 */
int vm_disk_grow(struct host_vm *vm, unsigned disk, uint64_t size);
/* Disconnects, waits for what is in flight and for changes; `give_up`: the disks' locks too. */
void vm_disks_close(struct host_vm *vm, bool give_up);

/* --- vm_verbs.c ------------------------------------------------------------------------------- */

/* Argument "name" ("NAME" or "VOLUME:NAME") to a used volume and the VM's name. */
int vm_named(struct host_call *call, struct host_volume **volume, const char **name);
/* Work on a definition that nobody runs meanwhile: its lock is held as a VM's. -EBUSY: it runs. */
int vm_hold(struct host_volume *volume, const char *name, struct cfs_vm_lock **lock);

/* --- vm_processors.c: from the supervisor ---------------------------------------------------------- */

/* Its definition's weight, limit, pool and processors, now. -EOPNOTSUPP: not all of it can be kept here. */
int vm_apply_cpus(struct host_vm *vm);
/* The same, where that is no reason to stop: an event tells. */
void vm_try_cpus(struct host_vm *vm);
/* Any thread: `percent` of the time that is its; -ENOENT: no group here keeps that. */
int vm_cpu_time(struct host_vm *vm, unsigned percent);

/* --- vm_hotplug.c ------------------------------------------------------------------------------- */

/* The guest began anew: addresses that were freed under it rest no more. */
void vm_addresses_rested(struct host_vm *vm);

/* --- vm_spawn.c ------------------------------------------------------------------------------- */

/* Names its files: base, id, key. */
void vm_name_files(struct host_vm *vm, const char *volume_id);
/* Where a VM's console is logged on this host; owned by the caller. */
char *vm_console_path(const struct host *host, const char *volume_id, const char *name);
/* Makes memory, lease page and socket, starts the VMM. */
int vm_spawn(struct host_vm *vm);
/* Takes up the VMM of the inventory's record: -ESRCH when it does not live. */
int vm_take_up(struct host_vm *vm, json_t *record);
/* The VMM is dead (a zombie counts). */
bool vm_process_ended(struct host_vm *vm);
/* It has lost its control connection: likewise, waits a moment, since one that dies loses its sockets first. */
bool vm_process_dying(struct host_vm *vm);
/* What is said of a VM whose VMM has ended by itself: -EHOSTDOWN. */
int vm_died(const char *name);
/* Ends the VMM whatever it does. */
void vm_kill_process(struct host_vm *vm);
/* The same, waits for its end, closes what we hold of it, removes its files. */
void vm_end_process(struct host_vm *vm);
/* Closes what we hold of a VMM that runs on. */
void vm_let_go(struct host_vm *vm);
/* Ends VMMs of this id that a former daemon had started and not yet noted down. */
void vm_end_strays(const char *id);
/* The inventory's record, durable: before the VM's lock is taken, and again with the pid. */
int vm_remember(struct host_vm *vm);
/* The same for one that arrives: it is another host's until its lock says else. */
int vm_remember_arrival(struct host_vm *vm);
void vm_forget(struct host_vm *vm);

/* --- vm_lease.c ------------------------------------------------------------------------------- */

/*
 * The page the VMM looks at: a file of ours that outlives the daemon. A thread carries the volume's
 * lease over to it. `create`: a new one; *fd (may be NULL) is read-only, for the VMM.
 */
int vm_lease_map(struct host_vm *vm, bool create, int *fd);
void vm_lease_unmap(struct host_vm *vm);
/* The volume's lease runs now. */
bool vm_lease_runs(const struct host_vm *vm);
/* RESUME, by the lease as it is now; -EPERM: it is over. */
int vm_let_run(struct host_vm *vm);
int vm_lease_start(struct host_vms *all);
void vm_lease_stop(struct host_vms *all);

/* --- vm_boot.c -------------------------------------------------------------------------------- */

/* Reads kernel and initrd from the volume into guest memory; fills in their places. */
int vm_load_kernel(struct host_vm *vm, struct vmctl_config *config);
/* vm_machine.c: --boot, --nested and --watchdog into the definition; *said: one was. */
int vm_machine_args(struct vm_def *def, struct host_call *call, const char *name, bool *said);
/* This host has firmware for a VM that boots from its disk; else -ENOENT in words. */
int vm_check_firmware(const struct host *host);
/* Checks at creation that `fd` (of `bytes`) is a kernel that fits. */
int vm_check_kernel(int fd, uint64_t bytes, uint64_t initrd_bytes, uint64_t memory,
		    const char *name);

#endif
