// SPDX-License-Identifier: Apache-2.0
/*
 * agent.h: the guest agent's channel: virtio-console with one port (virtio 1.2, 5.3), named as
 * qemu-guest-agent looks for it, and the daemon's connection that its bytes come from and go to.
 *
 * Nothing of the bytes is understood here, nothing is kept for long: a side that does not read makes the
 * other one wait. What the daemon says while the guest has not opened the port is thrown away, lest
 * an agent obeys what was meant for its predecessor; when the guest closes it, the daemon's connection is
 * closed, so that it need not wait for an answer.
 *
 * The guest is told that the port is open while a daemon is connected. With `thaws` a daemon asks for one
 * more thing: should it go away, the guest is told to thaw its file systems. That is the one request that
 * is made here: a VMM outlives its daemon, and nobody else is left who could.
 *
 * The object lives as long as the VMM; machines come and go on it. All under the machine's lock.
 */
#ifndef HV_AGENT_H
#define HV_AGENT_H

#include "hv/virtio.h"

struct hv_agent;
struct hv_gmem;
struct hv_state_reader;
struct hv_state_writer;
struct pollfd;

void hv_agent_create(struct hv_agent **out, struct hv_gmem *gmem, uint16_t queue_size);
void hv_agent_destroy(struct hv_agent *agent);
/* The device, fresh, for a new machine. */
struct hv_virtio *hv_agent_device(struct hv_agent *agent);
/* The machine ends, before its transport does. */
void hv_agent_stop(struct hv_agent *agent);

/* Takes the socket of a new daemon, whose predecessor is dropped. */
void hv_agent_connect(struct hv_agent *agent, int fd, bool thaws);
bool hv_agent_connected(const struct hv_agent *agent);
/* What to poll the daemon's socket for, while the guest runs; fd -1: for nothing. */
void hv_agent_poll(const struct hv_agent *agent, struct pollfd *out);
/* After it: takes and sends what there is. */
void hv_agent_serve_daemon(struct hv_agent *agent, const struct pollfd *polled);

/*
 * Section "agent": what guest and device have told each other, and the rings; bytes on their way are
 * lost, as by a lost connection. To be loaded after its transport.
 */
void hv_agent_save(const struct hv_agent *agent, unsigned instance, struct hv_state_writer *w);
int hv_agent_load(struct hv_agent *agent, unsigned instance, struct hv_state_reader *r);

#endif
