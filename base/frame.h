// SPDX-License-Identifier: Apache-2.0
/*
 * frame.h: what hosts say to each other, cut into frames. Bytes in, frames out; no sockets here.
 *
 * A frame is a head of 40 bytes and a body. The head has a checksum of its own, so that a length is
 * believed only when it is one; the body's stands in the head. (TLS guards against forgers, XXH3
 * against our own mistakes and bad memory between the two ends.)
 *
 * A frame with FRAME_ANSWER answers the request of the same tag that went the other way; with
 * FRAME_ERROR beside it its body is a struct frame_error. Tags belong to who asks. Each type has its
 * own largest body (frame_type_max); what is unknown or too large ends the connection, so new
 * types are spoken only where both sides' hello has the feature bit (peer_proto.h).
 */
#ifndef BASE_FRAME_H
#define BASE_FRAME_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#include "base/util.h"

#define FRAME_MAGIC    0x31464c50u /* "PLF1" */
#define FRAME_BODY_MAX (16u * 1024 * 1024)

/* Numbers never change their meaning. Room is left for what comes: 64 blocks. */
enum frame_type {
	FRAME_HELLO = 1, /* first frame of each side: struct frame_hello */
	FRAME_BYE = 2,	 /* last: why, a struct frame_error */
	FRAME_PING =
		3, /* sent when nothing else was for a while: le64, sender's CLOCK_BOOTTIME ns */
	FRAME_WISH = 16,    /* le64 each: locks that the sender waits for; only a hint */
	FRAME_FREED = 17,   /* le64 each: locks that the sender gave up; only a hint */
	FRAME_EVICT = 18,   /* struct frame_evict: look at that claim; only a hint */
	FRAME_EVICTED = 19, /* struct frame_evict: my beat says so; only a hint */
	FRAME_CALL = 32,    /* request: JSON, a verb to run; answer: le32 HTTP status, text */
	/* Migration, on connections of purpose STREAM only (peer_stream.h); bodies: migrate/wire.h. */
	FRAME_MIG_BEGIN = 96,  /* request, first on a control stream: JSON; answer: JSON */
	FRAME_MIG_JOIN = 97,   /* request, first on a data stream: whose it is; answer: le64 0 */
	FRAME_MIG_PAGES = 98,  /* ranges of memory and their bytes */
	FRAME_MIG_ABSENT = 99, /* ranges that are zero */
	FRAME_MIG_ROUND = 100, /* request: le64 round, all sent; answer: the same, all in place */
	FRAME_MIG_STATE = 101, /* request: the machine's state; answer, when it is loaded: le64 0 */
	FRAME_MIG_OFFERED =
		102, /* the lock is offered, what is known of it; answer, when it runs: le64 */
	FRAME_MIG_NET = 112,   /* request, first on a stream: a VM's name; answer: le64 0 */
	FRAME_MIG_FRAME = 113, /* what came for its network, see migrate/wire.h */
	/* Post-copy */
	FRAME_MIG_STALE = 104, /* ranges of memory that are older there than here */
	FRAME_MIG_POST =
		105, /* request: le64, pages of these; answer: the same, nobody touches them */
	FRAME_MIG_WANT = 106,  /* le64 each: offsets of pages that somebody waits for */
	FRAME_MIG_WHOLE = 107, /* le64 0: all pages are there */
};

#define FRAME_ANSWER 1u
#define FRAME_ERROR  2u

struct frame_head {
	le32 magic;	    /* 0x00 */
	le16 type;	    /* 0x04 enum frame_type */
	le16 flags;	    /* 0x06 FRAME_ANSWER, FRAME_ERROR; others 0 */
	le32 bytes;	    /* 0x08 of the body */
	le32 reserved;	    /* 0x0c 0 */
	le64 tag;	    /* 0x10 names a request; 0 where there is no answer */
	le64 body_checksum; /* 0x18 XXH3 of the body */
	le64 head_checksum; /* 0x20 XXH3 of the 32 bytes before */
};
static_assert(sizeof(struct frame_head) == 40, "frame head");
#define FRAME_HEAD_BYTES sizeof(struct frame_head)

/* A frame that was read; `body` lies in the reader's buffer. */
struct frame {
	enum frame_type type;
	unsigned flags;
	uint64_t tag;
	const uint8_t *body;
	uint32_t bytes;
};

/* Fills `head` for a body. The body must be within frame_type_max. */
void frame_seal(struct frame_head *head, enum frame_type type, unsigned flags, uint64_t tag,
		const void *body, uint32_t bytes);
/* The largest body of a type with these flags; 0 for types without one and for unknown ones. */
uint32_t frame_type_max(uint16_t type, unsigned flags);
/*
 * Looks at `n` bytes: >0 the length of the whole frame at their start, once its head is there (the
 * body may be missing still); 0 the head is not complete; -EBADMSG, in words, for what is none.
 */
int64_t frame_length(const void *bytes, size_t n);
/* `n` bytes that are exactly one frame. -EBADMSG when the body's checksum differs. */
int frame_parse(const void *bytes, size_t n, struct frame *out);

#endif
