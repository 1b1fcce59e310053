// SPDX-License-Identifier: Apache-2.0
/*
 * peer_stream.h: a connection between two hosts for bulk: a peer_conn that has left its loop
 * (peer_conn_detach). Frames over the same TLS, blocking, in whatever thread uses it; one thread at
 * a time, but for peer_stream_cancel and peer_stream_traffic.
 *
 * What is sent is gathered and goes out when it is much, or before the next wait for something to
 * come. Nothing waits for good: a peer that takes nothing, or says nothing, ends the stream with
 * -ETIMEDOUT. After an error nothing more can be done with it but peer_stream_end. Errors are in
 * words; the other side's own, when it said why it ends (BYE).
 */
#ifndef BASE_PEER_STREAM_H
#define BASE_PEER_STREAM_H

#include <stdbool.h>
#include <stdint.h>

#include "base/frame.h"
#include "base/peer_proto.h"

struct peer_stream;
struct tls;

#define PEER_STREAM_MS	 8000u /* nothing goes for that long: the other side is gone */
#define PEER_STREAM_PING 2000u /* ms; who waits long keeps the other side informed */

/* By peer_conn.c: takes `fd` and `tls`, copies the rest. */
struct peer_stream_parts {
	int fd;
	struct tls *tls;
	const uint8_t *in, *out; /* came, not looked at; not sent yet */
	size_t in_bytes, out_bytes;
	const struct peer_hello *theirs;
	const char *address;
};
struct peer_stream *peer_stream_create(const struct peer_stream_parts *parts);
/*
 * Ends it and frees it. `err` negative: the other side hears this thread's words for it, if it still
 * listens (waits for that half a second at most).
 */
void peer_stream_end(struct peer_stream *s, int err);
/* Any thread, while it is not ended: what waits, or will wait, returns -ECANCELED. For good. */
void peer_stream_cancel(struct peer_stream *s);

/* Who the other side is. */
const struct peer_hello *peer_stream_theirs(const struct peer_stream *s);
/* The other side has said that it ends, and why: those are the words of the error that it ended with here. */
bool peer_stream_refused(const struct peer_stream *s);
/* Bytes of frames each way. */
void peer_stream_traffic(const struct peer_stream *s, uint64_t *in, uint64_t *out);

/* Body in two parts, copied; the second may be NULL. */
int peer_stream_send(struct peer_stream *s, enum frame_type type, unsigned flags, uint64_t tag,
		     const void *a, uint32_t a_bytes, const void *b, uint32_t b_bytes);
/* Nothing of what was sent waits here any more. */
int peer_stream_flush(struct peer_stream *s);
int peer_stream_ping(struct peer_stream *s);
/*
 * The next frame, which lies there until the next call. -ETIMEDOUT: nothing came for `silence_ms`
 * (pings count, and are thrown away); that alone breaks nothing, it may be called again.
 */
int peer_stream_receive(struct peer_stream *s, struct frame *out, unsigned silence_ms);
/* Sends a request and waits for its answer; an error that is answered is returned, the stream lives. */
int peer_stream_call(struct peer_stream *s, enum frame_type type, const void *a, uint32_t a_bytes,
		     const void *b, uint32_t b_bytes, unsigned timeout_ms, struct frame *answer);
/* Waits for the answer of a request that was sent with `tag`. */
int peer_stream_answer(struct peer_stream *s, enum frame_type type, uint64_t tag,
		       unsigned timeout_ms, struct frame *answer);
/* Answers a request with this thread's error for `err`, at once. */
int peer_stream_refuse(struct peer_stream *s, const struct frame *request, int err);

#endif
