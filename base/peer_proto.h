// SPDX-License-Identifier: Apache-2.0
/*
 * peer_proto.h: the bodies of frames (frame.h): how they lie on the wire and what they are in memory.
 *
 * Each side's first frame is its HELLO. The client's says which versions it speaks, who it is and
 * whom it wants; the server's answer names the version that both will speak, the features that both
 * have, and who it is: a client that reached another life than it wanted hangs up. What a decoder
 * refuses is -EBADMSG, in words; texts that come are printable afterwards.
 *
 * Nothing said here decides anything: who owns a lock, a slot or a VM is decided by
 * compare-and-write on the LUN. Hints may be lost, doubled, late or false.
 */
#ifndef BASE_PEER_PROTO_H
#define BASE_PEER_PROTO_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/util.h"

struct frame;

#define PEER_VERSION_MIN 1u
#define PEER_VERSION_MAX 1u

/* Features of this side; what both have is spoken. */
#define PEER_F_HINTS   1ull /* WISH, FREED, EVICT, EVICTED */
#define PEER_F_CALLS   2ull /* CALL */
#define PEER_F_MIGRATE 4ull /* connections of purpose STREAM, MIG_... */
#define PEER_FEATURES  (PEER_F_HINTS | PEER_F_CALLS | PEER_F_MIGRATE)

/* What a connection is for: bulk streams have connections of their own. */
enum peer_purpose { PEER_CONTROL = 1, PEER_STREAM = 2 };

#define PEER_HINTS_MAX	   64u		       /* locks in one WISH or FREED */
#define PEER_CALL_MAX	   (16u * 1024 * 1024) /* bytes of a CALL */
#define PEER_MIG_BEGIN_MAX (512u * 1024)
#define PEER_MIG_PAGES_MAX (320u * 1024)
#define PEER_MIG_WANTS_MAX 256u
#define PEER_MIG_STATE_MAX (16u * 1024 * 1024)
#define PEER_MIG_NET_MAX   256u
#define PEER_MIG_FRAME_MAX (68u * 1024)

struct frame_hello {
	le16 version_min;   /* 0x00 the server's: both the version chosen */
	le16 version_max;   /* 0x02 */
	le32 purpose;	    /* 0x04 enum peer_purpose */
	le64 features;	    /* 0x08 the server's: those of both */
	uint8_t volume[16]; /* 0x10 the volume whose secret the connection stands on */
	le16 slot;	    /* 0x20 who speaks */
	le16 to_slot;	    /* 0x22 who is wanted, in the client's; the server's: the client */
	le32 epoch;	    /* 0x24 */
	le32 to_epoch;	    /* 0x28 */
	le32 reserved;	    /* 0x2c 0 */
	le64 clock;	    /* 0x30 CLOCK_BOOTTIME ns of the speaker */
	char name[64];	    /* 0x38 host name, zero padded */
	uint8_t more[136];  /* 0x78 zero; not looked at */
};
static_assert(sizeof(struct frame_hello) == 0x100, "hello");
static_assert(offsetof(struct frame_hello, name) == 0x38, "hello.name");

struct frame_error {
	le32 err;	   /* 0x000 errno of Linux on x86-64, positive */
	le32 reserved;	   /* 0x004 0 */
	char message[512]; /* 0x008 zero padded */
	char object[192];  /* 0x208 */
	char holder[128];  /* 0x2c8 */
};
static_assert(sizeof(struct frame_error) == 0x348, "error");

struct frame_evict {
	le16 slot;     /* 0x00 */
	le16 reserved; /* 0x02 0 */
	le32 epoch;    /* 0x04 */
};
static_assert(sizeof(struct frame_evict) == 8, "evict");

struct peer_hello {
	unsigned version_min, version_max;
	enum peer_purpose purpose;
	uint64_t features;
	uint8_t volume[16];
	unsigned slot, to_slot;
	uint32_t epoch, to_epoch;
	uint64_t clock_ns;
	char name[64];
};

void peer_hello_encode(const struct peer_hello *hello, struct frame_hello *out);
int peer_hello_decode(const struct frame *frame, struct peer_hello *out);
/*
 * The server's part: `mine` (versions and features of this side, who it is) becomes the answer to
 * `theirs`. -EPROTONOSUPPORT when there is no version of both; -EBADMSG.
 */
int peer_hello_answer(struct peer_hello *mine, const struct peer_hello *theirs);

void peer_error_encode(const struct err_info *info, struct frame_error *out);
/* Fills `out`; returns 0, or -EBADMSG. The errno is one of ours, negative. */
int peer_error_decode(const struct frame *frame, struct err_info *out);

/* WISH and FREED: returns how many, at most PEER_HINTS_MAX, or -EBADMSG. */
int peer_hints_decode(const struct frame *frame, uint64_t out[PEER_HINTS_MAX]);
/* `out` holds 8 * n bytes. */
void peer_hints_encode(const uint64_t *vbns, unsigned n, le64 *out);

void peer_evict_encode(unsigned slot, uint32_t epoch, struct frame_evict *out);
int peer_evict_decode(const struct frame *frame, unsigned *slot, uint32_t *epoch);

#endif
