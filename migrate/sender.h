// SPDX-License-Identifier: Apache-2.0
/*
 * sender.h: the source's data streams: a thread each, which takes ranges from one queue, reads the
 * guest's memory and sends it. Pages of zeroes are told, not sent. One producer; the first error
 * stops all and is what every later call returns. A stream that has nothing to send says that we live.
 */
#ifndef MIGRATE_SENDER_H
#define MIGRATE_SENDER_H

#include <stdbool.h>
#include <stdint.h>

#include "migrate/wire.h"

#define MIG_SENDER_RANGE (1u << 20) /* a longer one is cut, so that all streams have their share */

struct mig_sender;
struct peer_stream;

/*
 * `streams` have joined already; they are borrowed and no longer used after mig_sender_destroy.
 * `bandwidth`: bytes a second of all together, 0: as fast as it goes.
 */
int mig_sender_create(struct mig_sender **out, struct peer_stream **streams, unsigned n,
		      int memory_fd, uint64_t bandwidth);
/* Ends the threads; what they have not sent is not sent. */
void mig_sender_destroy(struct mig_sender *s);
/* Queues a range. `fresh`: nothing of it was sent before, zeroes need not be told. May wait for room. */
int mig_sender_push(struct mig_sender *s, const struct mig_range *range, bool fresh);
/* 0: a range of up to MIG_SENDER_RANGE is queued without a wait; 1: not after `wait_ms`; its error. */
int mig_sender_room(struct mig_sender *s, unsigned wait_ms);
unsigned mig_sender_queued(struct mig_sender *s); /* ranges that no stream has taken yet */
/* The end of a round: told on every stream behind what was queued; returns its number. */
uint64_t mig_sender_mark(struct mig_sender *s);
/* 0: all of the last round is in the target's memory; 1: not after `wait_ms`; its error. */
int mig_sender_wait(struct mig_sender *s, unsigned wait_ms);
void mig_sender_unlimited(struct mig_sender *s); /* from here on as fast as it goes */

struct mig_sent {
	uint64_t bytes; /* of pages, those of zeroes not counted */
	uint64_t zeroes;
	uint64_t waited_ns; /* for the bandwidth's limit */
};
void mig_sender_sent(struct mig_sender *s, struct mig_sent *out);

/*
 * The pages of the ranges as frames on `stream`, in the calling thread: what the threads do, and what a
 * last few pages take. `fresh` as above.
 */
struct mig_packer;
struct mig_packer *mig_packer_create(int memory_fd);
void mig_packer_destroy(struct mig_packer *p);
int mig_packer_send(struct mig_packer *p, struct peer_stream *stream, const struct mig_range *range,
		    bool fresh);
/* What was packed and not sent yet, is. */
int mig_packer_flush(struct mig_packer *p, struct peer_stream *stream);
void mig_packer_sent(const struct mig_packer *p, struct mig_sent *out);

#endif
