// SPDX-License-Identifier: Apache-2.0
/*
 * vm_leaving.h (private to vm_migrate.c and vm_standstill.c): a VM on its way to another host, as its source sees it.
 */
#ifndef HOST_VM_LEAVING_H
#define HOST_VM_LEAVING_H

#include <stdint.h>

#include "base/cpu_table.h"
#include "base/err.h"
#include "host/vm_move.h"
#include "migrate/source.h"

#define LEAVING_DRAIN_MS 1000u /* a longer drain, and the guest runs on for another round */

/* Where a standstill's time went, ns. */
struct standstill {
	uint64_t pause, drain, pages, state, offer; /* one after the other */
	uint64_t all;
};

struct leaving {
	struct host_call *call;
	struct host_vm *vm;
	struct vm_move move;
	const char *to;
	uint64_t max_downtime, bandwidth, streams_n;
	bool verify, postcopy; /* postcopy: it is asked for */
	bool post;	       /* ... and so it goes */
	bool precopy;	       /* never so */
	bool outrun;	       /* the rounds ended since the guest writes faster than can be sent */
	bool quick;	       /* all of its memory goes while it stands still */
	bool held;	       /* it stands still anyway (`vm pause`), and will there */
	struct cpu_table cpu;
	unsigned slot; /* the target's life */
	uint32_t epoch;
	struct peer_stream *control, *streams[MIG_STREAMS_MAX];
	struct peer_stream *frames; /* for what comes for its network meanwhile, or NULL */
	uint8_t token[MIG_TOKEN_BYTES];
	int log_fd;
	uint64_t *log;
	uint64_t log_bytes;
	unsigned throttled, slow;  /* slow: syncs that alone took longer than it may stand still */
	bool strict;		   /* max_downtime is what somebody said */
	uint64_t drain_ns, log_ns; /* of the last round */
	struct err_info word;	   /* what the target said to the offer; .err 0: the VM is there */
	bool stands; /* the lock is the target's, which has not said that the VM runs */
	uint64_t began_ns, lap_ns, moved_ns;
	struct standstill stood;
	uint64_t
		lun_steps; /* requests to LUNs one after the other while it stood still, here and there */
	struct mig_progress last;
};

/* Its error when the move is to end. */
int vm_leaving_stop(struct leaving *l);
void vm_leaving_step(struct leaving *l, const char *name);

/* --- vm_standstill.c: in the supervisor ------------------------------------------------------------ */

/*
 * The last part, arg: struct leaving. 0: it is the other host's. -EAGAIN: it could not be stopped now. Else it
 * runs on here.
 */
int vm_stand_still(struct host_vm *vm, void *arg);
/* It is the other host's, and l->stands: once more, whether they have said that it runs. The task's thread. */
void vm_leaving_listen(struct leaving *l);
/*
 * What a standstill waits for besides pages, tried while the guest runs: the drain, for as long as the guest may
 * stand still at the most. l->drain_ns is what it took.
 */
int vm_try_drain(struct host_vm *vm, void *arg);
/* The vCPUs' log into the shared one. l->log_ns is what it took. */
int vm_log_sync(struct host_vm *vm, void *arg);

#endif
