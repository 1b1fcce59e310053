// SPDX-License-Identifier: Apache-2.0
/*
 * post.h: post-copy at the source: the guest runs elsewhere, what is older there is still to go. A thread of its own
 * sends what is asked for at once, and the rest, when it is let, through the data streams. Each page goes once.
 */
#ifndef MIGRATE_POST_H
#define MIGRATE_POST_H

#include <stdint.h>

struct mig_dirty;
struct mig_post;
struct mig_sender;
struct peer_stream;

struct mig_post_options {
	int memory_fd;
	uint64_t memory;
	struct mig_dirty *dirty; /* what is to go; emptied */
	struct mig_sender *sender;
	struct peer_stream *wants, *urgent;
};

/* All of it is borrowed, and nobody else's, until mig_post_destroy. */
int mig_post_create(struct mig_post **out, const struct mig_post_options *options);
/* The rest may go. */
void mig_post_push(struct mig_post *p);
/* 0: all is there, they said; 1: not after `wait_ms`; its error. */
int mig_post_wait(struct mig_post *p, unsigned wait_ms);
uint64_t mig_post_left(struct mig_post *p); /* bytes that were not sent yet */
/* Ends the thread, and cancels the streams. */
void mig_post_destroy(struct mig_post *p);

#endif
