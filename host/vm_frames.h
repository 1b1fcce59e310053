// SPDX-License-Identifier: Apache-2.0
/*
 * vm_frames.h (private to host): what came for a VM's network devices while it stood still for a move. It waits in the
 * source's taps, and is sent after on a stream of its own once the VM runs there, so that nothing is lost but time.
 *
 *	other hosts     source's tap                                target's tap
 *	frame           queued; the guest stands still              what waits there is thrown away at LOAD
 *	frame           queued                                      the VM runs, and announces itself
 *	                read, sent, until a while is quiet          put in behind what came there
 *	                leaves its bridge; read once more; gone
 *
 * Until they know of the announcement the switches send to the source, so it listens on for a while. Frames to all come
 * to both taps once the VM runs there: from then on the source sends only those that are the guest's alone.
 */
#ifndef HOST_VM_FRAMES_H
#define HOST_VM_FRAMES_H

#include <stdint.h>

struct cfs;
struct frame;
struct host;
struct host_peers;
struct host_vm;
struct peer_stream;

/* Source: a stream to the host `to` for `vm`'s frames; NULL: there is none, and they are lost. In a task's thread. */
struct peer_stream *vm_frames_open(struct host_peers *peers, struct cfs *fs, const char *to,
				   const char *name);
/* Source's supervisor: the VM runs there, its VMM here stands still. Until all is sent. */
void vm_frames_send(struct host_vm *vm, struct peer_stream *stream);
/* Target: a MIG_NET came on `stream`; answers, and serves it until it ends, in its own thread. */
int vm_frames_serve(struct host *host, const char *volume_id, struct peer_stream *stream,
		    const struct frame *first);

#endif
