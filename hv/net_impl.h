// SPDX-License-Identifier: Apache-2.0
/*
 * net_impl.h (private to hv/net.c and hv/net_pair.c): a network device and its queue pairs.
 *
 * Locks: the machine's, then pairs' by number. A pair's thread holds its own, for one turn. Who else wants it
 * says so in `wanted`, and the thread lets it pass: it would take the lock again at once otherwise.
 */
#ifndef HV_NET_IMPL_H
#define HV_NET_IMPL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/vring.h"
#include "hv/net.h"

#define NET_FRAME_MAX (HV_NET_HEADER + 65536 + 64) /* what a tap gives or takes at once */
#define NET_SEGMENTS  1024 /* of one frame: what writev takes, and vring.h allows */

struct net_ring {
	bool on; /* a ring of the guest's that is served */
	struct vring_dev vring;
	int kick_fd, call_fd; /* the transport's */
};

struct net_pair {
	struct hv_net *net;
	unsigned index;
	pthread_t thread;
	int wake_fd;
	atomic_uint wanted;

	pthread_mutex_t lock; /* all below */
	bool started, ending;
	bool attached;	/* the tap's queue is, or it would give nothing but errors */
	int tap;	/* -1: none */
	int vhost_fd;	/* the kernel's, that could serve it; -1: none */
	bool by_kernel; /* it does: rings and tap are not ours meanwhile */
	struct net_ring rx, tx;
	bool starved;	  /* rx has no room: its kick is waited for, not the tap */
	uint32_t frame_n; /* bytes of a frame that waits for room in rx */
	struct iovec iov[NET_SEGMENTS];
	uint8_t frame[NET_FRAME_MAX];
};

struct hv_net {
	struct hv_virtio virtio;
	unsigned index, pairs;
	struct hv_gmem *gmem;
	struct vmctl_net how; /* written under pair 0's lock */
	atomic_bool held;
	atomic_bool logged; /* what is written is to be in the log */
	atomic_bool linked; /* there are taps */
	atomic_bool
		announcing; /* the driver was asked to announce itself, and has not said that it did */

	/* Under pair 0's lock. */
	struct net_ring ctrl;
	bool mergeable; /* written before rings are on, read by pairs */
	bool can_announce;
	uint64_t offloads;	/* GUEST_ bits in force; written under pair 0's lock */
	unsigned used_pairs;	/* as the driver said; 1 at first */
	unsigned announcements; /* still to be made */
	uint64_t announce_ns;	/* the next one */
	struct net_pair pair[VMCTL_NET_PAIRS_MAX];
};

/* --- net_pair.c -------------------------------------------------------------------------------- */

int net_pair_init(struct net_pair *p);
int net_pair_start(struct net_pair *p);
/* What its thread does when something is to be done; true: there is more. The pair's lock is held. */
bool net_pair_turn(struct net_pair *p);
void net_pair_end(struct net_pair *p);
void net_pair_lock(struct net_pair *p);
void net_pair_unlock(struct net_pair *p);
/* Look again; any thread. */
void net_pair_wake(struct net_pair *p);
/*
 * The end of a turn: publishes, calls the guest, asks for kicks. True: more came meanwhile than the `seen`
 * heads that wait already.
 */
bool net_ring_end_turn(struct hv_net *net, struct net_ring *r, unsigned seen);
/* The guest's ring makes no sense. */
void net_ring_break(struct hv_net *net, struct net_ring *r, const char *what);
/* Throws away what waits in the tap. The pair's lock is held. */
void net_pair_discard(struct net_pair *p);

/* --- net_vhost.c -------------------------------------------------------------------------------- */

/* Whoever changed something that decides who serves the pair calls it, the pair's lock held. */
void net_vhost_settle(struct net_pair *p);

/* --- net.c, for pair 0's thread, its lock held --------------------------------------------------- */

/* True: more came meanwhile. */
bool net_serve_ctrl(struct hv_net *net);
/* Announces when it is time to; returns ms until it is again, -1: it is not. */
int net_announce(struct hv_net *net);

#endif
