// SPDX-License-Identifier: Apache-2.0
/* vm_process.h (private to host): perilune-vmm as a process of this machine. */
#ifndef HOST_VM_PROCESS_H
#define HOST_VM_PROCESS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/*
 * Users of VMMs: each VMM has one of its own from the range that systemd's documentation
 * (UIDS-GIDS) leaves to nobody. Picked by a hash, so that daemons on one machine need no registry.
 */
#define VMM_UID_FIRST 1879048192u /* 0x70000000 */
#define VMM_UIDS      268435456u

struct process_options {
	const char *program;
	const char *id;	  /* on its command line; names its cgroup too */
	const char *pool; /* its cgroup lies in; "": none */
	const char *name; /* the VM's, for its messages */
	const char *log;  /* file for what it says; begun anew */
	uint64_t uid_hash;
	bool postcopy;			  /* its memory may come while it runs */
	int kvm, memory, lease, listener; /* inherited under these numbers, and nothing else */
};
/* *pid_fd is the caller's. A program that cannot be run is this call's error. */
int process_start(const struct process_options *options, pid_t *pid, int *pid_fd);
/* Field 22 of /proc/PID/stat: with the boot, it makes a pid unique. -ESRCH. */
int process_start_time(pid_t pid, uint64_t *out);
/* Processor time of all its threads, guest's included. -ESRCH. */
int process_cpu_ns(pid_t pid, uint64_t *out);
void process_boot(char dst[40]);
/* `pid` is a perilune-vmm with this id. */
bool process_is_vmm(pid_t pid, const char *id);

#endif
