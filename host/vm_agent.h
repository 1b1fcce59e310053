// SPDX-License-Identifier: Apache-2.0
/*
 * vm_agent.h (private to host): the agent in a VM's guest, if there is one. A thread a VM looks for it, keeps
 * what it tells for whoever wants to see it, and thaws what was frozen for too long. No call waits for a
 * guest longer than it says; the supervisor never does.
 *
 * An agent is asked one thing at a time. After an answer that is late or makes no sense the connection is
 * given up: what the guest does late is found out when the next one begins (frozen file systems, by this
 * daemon or one before it, are thawed then).
 */
#ifndef HOST_VM_AGENT_H
#define HOST_VM_AGENT_H

#include <stdbool.h>
#include <stddef.h>
#include <jansson.h>

struct vm_agent;

/* What it needs of its VM; from any thread, with locks of its own held. */
struct vm_agent_ops {
	/* A new connection in place of the one before (base/vmctl.h, AGENT): its socket, or -errno. */
	int (*connect)(void *arg, bool thaws);
	/* The guest runs, and can answer. */
	bool (*runs)(void *arg);
	/* Something happened that somebody may look for. */
	void (*tell)(void *arg, const char *text);
};

/* `name` and `arg` are borrowed. */
struct vm_agent *vm_agent_create(const char *name, const struct vm_agent_ops *ops, void *arg);
void vm_agent_destroy(struct vm_agent *agent);
/*
 * From the supervisor. `possible`: its VMM has a channel for one. `fresh`: the guest has only begun, so nobody is to
 * wait for what is not there yet.
 */
void vm_agent_start(struct vm_agent *agent, bool possible, bool fresh);
/* The connection is closed, the thread ended; whoever waits for an answer gets -ECANCELED. */
void vm_agent_stop(struct vm_agent *agent);

/*
 * For any thread. -ENOTCONN: there is no agent that answers, at once where that is known; -ETIMEDOUT: not
 * within `timeout_ms`; -EREMOTEIO: it refuses.
 */

/* Asked to power off. 0: it was told, and has not refused; the guest may still not do it. */
int vm_agent_shutdown(struct vm_agent *agent, unsigned timeout_ms);
/*
 * The guest has file systems of the disk at address `lun` mounted: 1, with one of the places in `where`; 0: it
 * has none. A disk may be in use all the same (swap, a raw device).
 */
int vm_agent_mounted(struct vm_agent *agent, unsigned lun, char *where, size_t size,
		     unsigned timeout_ms);
/*
 * Freezes all file systems of the guest, for at most `hold_ms` from now on, the freezing included: whatever
 * happens, this daemon's death too, they are thawed then. *count: how many. -EBUSY: they are frozen already.
 */
int vm_agent_freeze(struct vm_agent *agent, unsigned hold_ms, unsigned *count);
/* -ETIMEDOUT: they were thawed before, it took too long; what was read meanwhile is not of one moment. */
int vm_agent_thaw(struct vm_agent *agent);
/* Members "agent" and "addresses" of `vm show`; NULL agent: the VM is not here. */
void vm_agent_show(struct vm_agent *agent, json_t *d);

#endif
