// SPDX-License-Identifier: Apache-2.0
/*
 * baton.h: compare-and-write out of persistent reservations, for targets that refuse COMPARE AND
 * WRITE; private to blockdev. Over a nexus of its own, in a thread of its own.
 *
 * A WRITE EXCLUSIVE, REGISTRANTS ONLY reservation stands for ever; who holds it with a key other
 * than BATON is inside. Free: the holder is registered as BATON. Enter: PREEMPT(BATON), which one
 * alone can do, since the key is gone for all others (RESERVATION CONFLICT). Leave: REGISTER the own
 * nexus as BATON. All data sessions stay registered and are never refused.
 *
 *	host A				host B
 *	PREEMPT(BATON): GOOD
 *					PREEMPT(BATON): CONFLICT, asks again
 *	look at own claim, read, compare, write, all answered
 *	REGISTER(own -> BATON)
 *					PREEMPT(BATON): GOOD, A's nexus is not registered any more
 *
 * A holder that is silent (the generation of the keys does not move for BATON_SILENT_MS) is taken
 * out by PREEMPT of its key: whoever does that is inside, and what the holder still sends is
 * refused. The keys of control nexuses are BATON_TAG and random bits, a new one for each nexus; they
 * and BATON are this layer's own affair: baton_hide takes them out of what others are shown.
 */
#ifndef BLOCKDEV_BATON_H
#define BLOCKDEV_BATON_H

#include "blockdev/node.h"
#include "blockdev/scsi.h"

#define BATON_KEY	BLK_PR_BATON
#define BATON_TAG	0xba70ULL /* the upper 16 bits of control nexuses' keys */
#define BATON_SILENT_MS 1000

struct baton;

struct baton_ops {
	/* A fresh control nexus; -errno. `close` ends it. */
	int (*open)(struct blk *blk, struct scsi_nexus **out);
	void (*close)(struct blk *blk, struct scsi_nexus *nexus);
	/* Looks at the host's own claim over `nexus`; -ESTALE: fenced. */
	int (*look)(struct blk *blk, struct scsi_nexus *nexus);
	/* Before the first use: the blk's own sessions are, or become, registered. */
	void (*enrol)(struct blk *blk);
};

int baton_create(struct baton **out, struct blk *blk, const struct baton_ops *ops, bool fua);
void baton_destroy(struct baton *baton);
/* Answers in the channel's loop. */
void baton_submit(struct baton *baton, struct blk_chan *chan, struct blk_req *req);
/* Inside of the mutex: PREEMPT of `victim`; absent is 0. Blocking, any thread. */
int baton_preempt(struct baton *baton, uint64_t victim);
void baton_hide(struct blk_pr_state *state);
/* Sees to it that the reservation stands. Blocking. */
int baton_reserve(struct baton *baton);

#endif
