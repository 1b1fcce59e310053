// SPDX-License-Identifier: Apache-2.0
/*
 * self.h (private): who we are, as a claim says it: machine, boot, state directory, process.
 */
#ifndef CLUSTERFS_SELF_H
#define CLUSTERFS_SELF_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct cfs_self {
	uint8_t machine[16]; /* /etc/machine-id, zeroes where there is none */
	uint8_t boot[16];
	uint8_t host[16]; /* of the state directory; made at first use */
	uint32_t pid;
	uint64_t start_time; /* field 22 of /proc/PID/stat */
};
int cfs_self_get(const char *state_dir, struct cfs_self *out);
/* When a process was started; -ENOENT when there is none (or it is a zombie, which writes nothing). */
int cfs_process_start(pid_t pid, uint64_t *start_time);
/* One mount of a volume per state directory: an open descriptor to close; -EBUSY. */
int cfs_state_lock(const char *state_dir, const uint8_t volume[16], const char *name);

#endif
