// SPDX-License-Identifier: Apache-2.0
/*
 * source.h: the sending side of a migration: rounds while the guest runs, then, called by who stopped
 * it, the last pages, the state, the offer (wire.h). Pausing, draining and the lock are the caller's.
 */
#ifndef MIGRATE_SOURCE_H
#define MIGRATE_SOURCE_H

#include <stdbool.h>
#include <stdint.h>

#include "migrate/wire.h"

struct mig_source;
struct peer_stream;

struct mig_progress {
	unsigned round, throttle; /* throttle: per cent */
	uint64_t total;		  /* bytes that were there at the beginning */
	uint64_t sent, zeroes;	  /* bytes: of pages that were sent, of those that need not be */
	uint64_t remaining;	  /* bytes that are to be sent, as far as known */
	uint64_t rate;		  /* bytes a second */
	uint64_t eta_ms;	  /* UINT64_MAX: not known */
	uint64_t blackout_ms;	  /* as estimated */
};
struct mig_source_ops {
	/* KVM's log into the shared one: VMCTL_LOG_SYNC. */
	int (*sync)(void *arg);
	/* Several times a second; an error (-ECANCELED) ends it. */
	int (*progress)(void *arg, const struct mig_progress *p);
	/* vCPUs shall have `percent` less of the time; 0: all of it. */
	int (*throttle)(void *arg, unsigned percent);
};
struct mig_source_options {
	int memory_fd;
	uint64_t memory;
	uint64_t *log; /* mapped; from before the first round on */
	struct peer_stream *control,
		*streams[MIG_STREAMS_MAX]; /* BEGIN is answered, these have joined */
	unsigned streams_n;
	/*
	 * Post-copy is asked for: two more streams that have joined behind these, for wishes and for what they are for;
	 * else NULL.
	 */
	struct peer_stream *wants, *urgent;
	uint64_t bandwidth; /* bytes a second, 0: as fast as it goes */
	uint64_t max_downtime_ms;
	uint64_t constant_ns; /* of the blackout, without pages */
	const struct mig_source_ops *ops;
	void *arg;
};

/* All of the options but the struct itself is borrowed until mig_source_destroy. */
int mig_source_create(struct mig_source **out, const struct mig_source_options *options);
void mig_source_destroy(struct mig_source *s);
/* Any thread: what waits, or will wait, in here returns -ECANCELED. */
void mig_source_cancel(struct mig_source *s);

/* As in the options, for the rounds to come. */
void mig_source_max_downtime(struct mig_source *s, uint64_t ms);
/* What the blackout takes besides pages was measured anew: for the rounds to come. */
void mig_source_constant(struct mig_source *s, uint64_t ns);

/*
 * Rounds, until stopping the guest would be short enough; called again when it could not be stopped.
 * -ETIMEDOUT: it writes faster than it can be sent, at whatever share of the time. MIG_SOURCE_POST: post-copy was asked
 * for, all was sent once, and much of it was written since.
 */
#define MIG_SOURCE_POST 1
int mig_source_rounds(struct mig_source *s);
/* Whether the rounds ended by that -ETIMEDOUT. */
bool mig_source_outrun(const struct mig_source *s);

/* The guest stands still already: all that is there, in place of rounds; what was sent before is not sent again. */
int mig_source_all(struct mig_source *s);

/* The guest stands still, nothing of its controller is under way, the log is synced: the last pages go. */
int mig_source_last_pages(struct mig_source *s);
/*
 * The same again for what saving dirtied (the log is synced), then the state and, with `verify`, a checksum
 * over all memory. 0: it is loaded there.
 */
int mig_source_state(struct mig_source *s, const void *state, uint32_t bytes, bool verify,
		     unsigned timeout_ms);
/*
 * Post-copy, in place of the last pages, when the state is saved and the log synced: what is left goes later, and no
 * page that is written from now on goes at all. 0: the target waits for them, and gets what it asks for.
 */
int mig_source_post(struct mig_source *s, unsigned timeout_ms);
/* The VM runs there: the rest goes. 0: all is there. */
int mig_source_rest(struct mig_source *s);
/* The lock is offered. 0: the VM runs there, they say. Only the lock knows. */
int mig_source_offered(struct mig_source *s, const void *baggage, uint32_t bytes,
		       unsigned timeout_ms);
/* Waits for that once more, after -ETIMEDOUT. */
int mig_source_runs(struct mig_source *s, unsigned timeout_ms);
/* What else the target said then (wire.h, MIG_OFFERED's answer); 0 before. */
uint64_t mig_source_word(const struct mig_source *s);
/* ... and that it took the VM, and could not let it run yet. */
bool mig_source_stands(const struct mig_source *s);
void mig_source_progress(struct mig_source *s, struct mig_progress *out);

#endif
