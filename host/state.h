// SPDX-License-Identifier: Apache-2.0
/*
 * state.h (private to host): the state directory: whose it is, and the names this host keeps for
 * its whole life. Files: `lock`, `host-id`, `initiator`, `isid`, `inventory*` (LMDB), `chap`,
 * `vm/` (sockets and consoles of VMs run here), `api.sock`.
 */
#ifndef HOST_STATE_H
#define HOST_STATE_H

#include <stdint.h>

struct host_state {
	char dir[200]; /* absolute; short, since socket paths end at 107 bytes */
	char id[40];   /* a uuid's text: names this host to others */
	char initiator[224];
	uint32_t isid; /* first four bytes of all ISIDs of this host (RFC 7143 10.12.5: random) */
	int lock_fd;
};

/*
 * Makes the directory if there is none (mode 0700), takes the lock, reads or makes the names.
 * -EBUSY with err_holder when another daemon holds it; a dying one is waited for.
 */
int host_state_open(struct host_state *state, const char *dir);
void host_state_close(struct host_state *state);
/* Writes a small file durably under `dir`/name: new file, fsync, rename, fsync of the directory. */
int host_state_write(const struct host_state *state, const char *name, const char *text,
		     unsigned mode);
/* Reads at most `size` - 1 bytes, without the last newline. -ENOENT. */
int host_state_read(const struct host_state *state, const char *name, char *dst, unsigned size);

#endif
