// SPDX-License-Identifier: Apache-2.0
/*
 * peer_conn.h: one connection between two hosts: TCP, TLS, hello, frames; on the loop of one thread.
 *
 *	connecting/accepted - handshake - hello both ways - open ... closed (once, with a reason)
 *
 * Until it is open nothing but those few bytes is taken from the other side, and not for longer than
 * PEER_OPEN_MS. Afterwards both sides send whole frames; what is not one ends the connection with a
 * BYE that says why. Silence of PEER_DEAD_MS ends it too: who has nothing to say pings.
 *
 * Any number of requests is under way at once, each with a tag (at most PEER_REQUESTS_MAX); answers
 * come in any order. When the connection ends each of them ends with it: whether the other side did
 * what it was asked is unknown then.
 *
 * Bounds. What waits to be sent is at most PEER_OUT_MAX and one frame: peer_conn_send says -EAGAIN
 * beyond, and the `room` callback tells when half of it is gone. Who cannot take more frames now
 * pauses the connection; the other side's socket then fills, and its bound holds it. Memory for a
 * frame that comes grows with what has come of it, not with what its head promises.
 *
 * All calls and callbacks in the loop's thread. Callbacks may call anything here, for any connection.
 */
#ifndef BASE_PEER_CONN_H
#define BASE_PEER_CONN_H

#include <stdbool.h>
#include <stdint.h>

#include "base/frame.h"
#include "base/netaddr.h"
#include "base/peer_proto.h"
#include "base/tls.h"

struct loop;
struct peer_conn;
struct peer_stream;

#define PEER_OPEN_MS	  6000u /* from the first byte to open */
#define PEER_PING_MS	  2000u
#define PEER_DEAD_MS	  8000u /* also the socket's TCP_USER_TIMEOUT */
#define PEER_OUT_MAX	  (4u * 1024 * 1024)
#define PEER_REQUESTS_MAX 1024u

/* A request under way; memory of who asks, until `done` ran. */
struct peer_request {
	/*
	 * The answer: `err` 0 and a frame that lies there during the call, or a negative errno in
	 * words: the other side's error, or the connection's end (-ECONNRESET: not known whether it
	 * was done).
	 */
	void (*done)(struct peer_request *req, int err, const struct frame *answer);
	uint64_t tag; /* private */
};

struct peer_conn_events {
	/* Server, during the handshake: as tls_key_fn. */
	int (*key)(void *arg, const char *identity, uint8_t key[TLS_KEY_BYTES]);
	/*
	 * A hello came. Server: fill `mine` (its volume is that of `identity`) to answer. Client: `mine`
	 * is what was sent. 0, or a negative errno in words, which are told the other side.
	 */
	int (*hello)(void *arg, struct peer_conn *conn, const char *identity,
		     const struct peer_hello *theirs, struct peer_hello *mine);
	void (*opened)(void *arg, struct peer_conn *conn);
	/* A frame that is no answer. 0; a negative errno in words ends the connection. */
	int (*frame)(void *arg, struct peer_conn *conn, const struct frame *frame);
	void (*room)(void *arg, struct peer_conn *conn); /* may be NULL */
	/* The last word; `conn` is gone after it. `err` tells why (negative), in words; -EACCES: it
	 * did not know the secret; 0: it was detached. */
	void (*closed)(void *arg, struct peer_conn *conn, int err, const char *why);
};

/* Begins to connect; `hello` (copied) is said after the handshake. Callbacks come later. -errno. */
int peer_conn_connect(struct peer_conn **out, struct loop *loop, const struct netaddr *to,
		      const char *identity, const uint8_t key[TLS_KEY_BYTES],
		      const struct peer_hello *hello, const struct peer_conn_events *events,
		      void *arg);
/* Takes `fd`, a connected socket. The handshake begins `wait_ms` from now. */
int peer_conn_accept(struct peer_conn **out, struct loop *loop, int fd, unsigned wait_ms,
		     const struct peer_conn_events *events, void *arg);
/*
 * The connection, open, leaves its loop: in this turn or the next `taken` gets socket, TLS and what
 * was read beyond the last frame that was handed out, as a stream of its own; then `closed` with 0.
 * Requests under way end as with any other end.
 */
void peer_conn_detach(struct peer_conn *conn, void (*taken)(void *arg, struct peer_stream *stream));
/* Ends it: a BYE with the reason, then `closed` in this turn or the next. Idempotent. */
void peer_conn_close(struct peer_conn *conn, int err, const char *why);

bool peer_conn_is_open(const struct peer_conn *conn);
/* What both sides agreed on, once open: features, version; who the other side is. */
const struct peer_hello *peer_conn_theirs(const struct peer_conn *conn);
uint64_t peer_conn_features(const struct peer_conn *conn);
void *peer_conn_arg(const struct peer_conn *conn);
const char *peer_conn_address(const struct peer_conn *conn);
/* Bytes each way, since it is there. */
void peer_conn_traffic(const struct peer_conn *conn, uint64_t *in, uint64_t *out);
/* The other side's CLOCK_BOOTTIME as it last said it, and ours when that came: ns. */
void peer_conn_clock(const struct peer_conn *conn, uint64_t *theirs, uint64_t *arrived);

/*
 * Sends a frame; the body is two parts (the second may be NULL) and copied. -EAGAIN: too much waits;
 * -ENOTCONN: not open.
 */
int peer_conn_send(struct peer_conn *conn, enum frame_type type, unsigned flags, uint64_t tag,
		   const void *a, uint32_t a_bytes, const void *b, uint32_t b_bytes);
/* Sends a request; `done` comes once, unless this fails: -EAGAIN, -ENOTCONN, -EBUSY (too many). */
int peer_conn_request(struct peer_conn *conn, struct peer_request *req, enum frame_type type,
		      const void *a, uint32_t a_bytes, const void *b, uint32_t b_bytes);
/* Answers a request with this thread's error for `err`. */
int peer_conn_answer_error(struct peer_conn *conn, const struct frame *request, int err);
/* `done` will not come; a late answer is thrown away. */
void peer_conn_forget(struct peer_conn *conn, struct peer_request *req);
/* No more frames are taken from the other side until it is called with false. */
void peer_conn_pause(struct peer_conn *conn, bool paused);

#endif
