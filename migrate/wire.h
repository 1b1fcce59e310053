// SPDX-License-Identifier: Apache-2.0
/*
 * wire.h: the bodies of migration's frames (base/frame.h, MIG_...), and how a migration is spoken.
 *
 *	source                                     target
 *	control stream:
 *	MIG_BEGIN {VM, definition, what it needs}  refuses in words, or answers {token}; a VMM is there,
 *	                                           configured, nothing runs
 *	data streams, each:
 *	MIG_JOIN {token, number}                   answers
 *	MIG_PAGES, MIG_ABSENT ...                  puts them into the guest's memory
 *	MIG_ROUND {n}                              answers, when what came before on this stream is in place
 *	control stream, the guest standing still:
 *	MIG_STATE {last round, state}              when all streams have had that round: loads; answers
 *	   compare-and-write: the lock is offered
 *	MIG_OFFERED {what is known of the disks}   compare-and-write: the lock is accepted; disks, guest
 *	                                           resumed; answers {requests to LUNs that took, one
 *	                                           after the other, and MIG_STANDS if it was not}
 *
 * network stream, if the VM has a network (host/vm_frames.h):
 *	MIG_NET {the VM's name}                    answers
 *	MIG_FRAME, after all that                  puts it into the VM's tap
 *
 * Post-copy, when it is allowed (BEGIN says so): two more streams, joined behind the data streams, one for pages that
 * somebody waits for, one for asking for them. The guest standing still, in place of its last pages:
 *	control stream:
 *	MIG_STALE ...                              what is to come later
 *	MIG_POST {pages}                           answers, when nobody can touch these any more
 *	MIG_STATE, MIG_OFFERED                     as above
 *	stream for asking:                         MIG_WANT {pages}, from then on
 *	stream for those pages, data streams:
 *	MIG_PAGES, MIG_ABSENT                      each page once
 *	stream for asking:                         MIG_WHOLE: all are there, the source may forget them
 * A stream that breaks before MIG_WHOLE ends the VM, there; its disks are as after a crash.
 *
 * Either side ends it before the offer by a BYE on the control stream, or by hanging up. After the offer only
 * the lock tells who runs the VM; the last answer may be lost.
 *
 * Ranges are of the guest's memory as a file (vmctl.h), in whole pages of MIG_PAGE.
 */
#ifndef MIGRATE_WIRE_H
#define MIGRATE_WIRE_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/frame.h"
#include "base/util.h"

#define MIG_VERSION	 1
#define MIG_PAGE	 4096u
#define MIG_RANGES_MAX	 1024u	       /* in one frame */
#define MIG_DATA_MAX	 (256u * 1024) /* bytes of pages in one frame */
#define MIG_STREAMS_MAX	 16u	       /* data streams of a migration */
#define MIG_TOKEN_BYTES	 16u
#define MIG_POST_STREAMS 2u /* more, for post-copy */
/* In OFFERED's answer: the VM is there, but was not let run yet, though it should. */
#define MIG_STANDS (1ULL << 63)

struct mig_ranges_head { /* MIG_PAGES and MIG_ABSENT begin so; n struct mig_wire_range; the bytes */
	le32 n;		 /* 0x00 1 to MIG_RANGES_MAX */
	le32 reserved;	 /* 0x04 0 */
};
struct mig_wire_range {
	le64 offset; /* 0x00 */
	le64 bytes;  /* 0x08 */
};
static_assert(sizeof(struct mig_ranges_head) == 8 && sizeof(struct mig_wire_range) == 16, "ranges");

struct mig_join {
	uint8_t token[MIG_TOKEN_BYTES]; /* 0x00 from MIG_BEGIN's answer */
	le32 stream;			/* 0x10 0 to streams - 1 */
	uint8_t reserved[12];		/* 0x14 0 */
};
static_assert(sizeof(struct mig_join) == 32, "join");

struct mig_state_head { /* the state's bytes follow */
	le64 round;	/* 0x00 the last */
	le64 checksum;	/* 0x08 mig_memory_checksum, with MIG_STATE_CHECKSUM */
	le32 flags;	/* 0x10 MIG_STATE_... */
	le32 reserved;	/* 0x14 0 */
};
static_assert(sizeof(struct mig_state_head) == 24, "state");
#define MIG_STATE_CHECKSUM 1u

struct mig_frame_head { /* MIG_FRAME; the frame's bytes follow, a header of <linux/virtio_net.h> first */
	le32 net;	/* 0x00 which of the VM's network devices */
	le32 bytes; /* 0x04 */
};
static_assert(sizeof(struct mig_frame_head) == 8, "frame");

struct mig_net_frame {
	unsigned net;
	const uint8_t *bytes; /* in the frame */
	uint32_t n;
};
int mig_frame_decode(const struct frame *f, struct mig_net_frame *out);

struct mig_range {
	uint64_t offset, bytes;
};
/*
 * PAGES and ABSENT of a guest with `memory` bytes: fills `out` (MIG_RANGES_MAX of them) and *data (PAGES:
 * the ranges' bytes, one after the other). Returns how many, or -EBADMSG.
 */
int mig_ranges_decode(const struct frame *f, uint64_t memory, struct mig_range *out,
		      const uint8_t **data);
/* Writes head and table to `out`; returns their length. */
uint32_t mig_ranges_encode(const struct mig_range *ranges, unsigned n, uint8_t *out);
#define MIG_TABLE_BYTES(n) \
	(sizeof(struct mig_ranges_head) + (size_t)(n) * sizeof(struct mig_wire_range))

int mig_join_decode(const struct frame *f, uint8_t token[MIG_TOKEN_BYTES], unsigned *stream);
void mig_join_encode(const uint8_t token[MIG_TOKEN_BYTES], unsigned stream, struct mig_join *out);

/* MIG_OFFERED: le64 0, then the baggage (clusterfs/cfs.h), which may be nothing. */
int mig_offered_decode(const struct frame *f, const uint8_t **baggage, uint32_t *n);

/* MIG_WANT: fills `out` (PEER_MIG_WANTS_MAX), returns how many, 0: a sign of life; or -EBADMSG. */
int mig_want_decode(const struct frame *f, uint64_t memory, uint64_t *out);
int mig_round_decode(const struct frame *f, uint64_t *round);

struct mig_state {
	uint64_t checksum;
	bool has_checksum;
	const uint8_t *bytes; /* in the frame */
	uint32_t n;
};
int mig_state_decode(const struct frame *f, struct mig_state *out);
void mig_state_encode(const struct mig_state *state, struct mig_state_head *out);

#endif
