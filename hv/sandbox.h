// SPDX-License-Identifier: Apache-2.0
/*
 * sandbox.h: locks this process up, for good: whoever breaks out of the guest finds no files, no
 * network, no other processes, and only the system calls that a VMM needs.
 *
 * In this order: every descriptor but those named is closed (standard input and output become
 * /dev/null); namespaces of its own for network, mounts, IPC and host name (as root); all
 * capabilities dropped; another user; no new privileges; no core dumps; a seccomp filter that ends
 * the process at any other call. open, socket, connect and execve are among the others.
 */
#ifndef HV_SANDBOX_H
#define HV_SANDBOX_H

#include <stdbool.h>
#include <sys/types.h>

struct hv_sandbox {
	const int *keep; /* descriptors, beside standard error */
	unsigned keep_n;
	bool change_user;
	uid_t uid;
	gid_t gid;
};

/* Before the first thread. -errno: the process must end, it is locked up only in part. */
int hv_sandbox_enter(const struct hv_sandbox *sandbox);

#endif
