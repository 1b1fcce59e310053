// SPDX-License-Identifier: Apache-2.0
/* peer_stream.c: one buffer each way around TLS on a non-blocking socket; poll(2) where it waits. */
#include "base/peer_stream.h"

#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/netaddr.h"
#include "base/tls.h"

#define OUT_MUCH (128u * 1024) /* gathered; then it goes */
#define IN_STEP	 (64u * 1024)
#define LAST_MS	 500u /* for the other side to hear why */

struct peer_stream {
	int fd, cancel_fd;
	struct tls *tls;
	atomic_bool cancelled;
	bool refused;		/* BYE came */
	struct err_info broken; /* .err 0: it is not */
	struct peer_hello theirs;
	char address[NETADDR_TEXT];
	uint8_t *in; /* in[in_at..in_bytes) came and was not handed out */
	size_t in_at, in_bytes, in_room;
	uint8_t *out;
	size_t out_bytes, out_room;
	uint64_t tag;
	atomic_uint_fast64_t total_in, total_out;
};

struct peer_stream *peer_stream_create(const struct peer_stream_parts *p)
{
	struct peer_stream *s = xcalloc(1, sizeof(*s));

	s->fd = p->fd;
	s->tls = p->tls;
	s->theirs = *p->theirs;
	(void)str_format(s->address, sizeof(s->address), "%s", p->address);
	s->in_room = MAX(p->in_bytes, IN_STEP);
	s->in = xmalloc(s->in_room);
	s->in_bytes = p->in_bytes;
	s->out_room = MAX(p->out_bytes, OUT_MUCH);
	s->out = xmalloc(s->out_room);
	s->out_bytes = p->out_bytes;
	if (p->in_bytes)
		memcpy(s->in, p->in, p->in_bytes);
	if (p->out_bytes)
		memcpy(s->out, p->out, p->out_bytes);
	s->cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	MUST(s->cancel_fd >= 0);
	return s;
}

void peer_stream_cancel(struct peer_stream *s)
{
	atomic_store(&s->cancelled, true);
	(void)eventfd_write(s->cancel_fd, 1);
}

bool peer_stream_refused(const struct peer_stream *s)
{
	return s->refused;
}

const struct peer_hello *peer_stream_theirs(const struct peer_stream *s)
{
	return &s->theirs;
}

void peer_stream_traffic(const struct peer_stream *s, uint64_t *in, uint64_t *out)
{
	*in = atomic_load(&s->total_in);
	*out = atomic_load(&s->total_out);
}

/* --- waiting and ending -------------------------------------------------------------------------- */

/* It is over: the words of the first error stay. */
static int broke(struct peer_stream *s, int err)
{
	if (!s->broken.err) {
		(void)fail_prefix(err, "host %s", s->theirs.name);
		err_save(&s->broken, err);
	}
	return err_restore(&s->broken);
}

static int check(struct peer_stream *s)
{
	if (atomic_load(&s->cancelled) && !s->broken.err)
		return broke(s, fail(-ECANCELED, "the stream was cancelled"));
	return s->broken.err ? err_restore(&s->broken) : 0;
}

/* 1: the socket is ready; 0: not until `deadline_ns`; -ECANCELED. */
static int await(struct peer_stream *s, short events, uint64_t deadline_ns)
{
	struct pollfd p[2] = {{.fd = s->fd, .events = events},
			      {.fd = s->cancel_fd, .events = POLLIN}};

	for (;;) {
		uint64_t now = clock_boot_ns();
		uint64_t ms = now < deadline_ns ? DIV_ROUND_UP(deadline_ns - now, NS_PER_MS) : 0;
		int n = poll(p, 2, (int)MIN(ms, 60000));

		if (atomic_load(&s->cancelled))
			return check(s);
		if (n > 0)
			return 1;
		if (now >= deadline_ns)
			return 0;
	}
}

/* --- receiving ----------------------------------------------------------------------------------- */

/* Room for some of the `want` bytes that the next frame lacks: it grows with what has come. */
static void make_room(struct peer_stream *s, size_t want)
{
	size_t have = s->in_bytes - s->in_at, room;

	if (s->in_at) {
		memmove(s->in, s->in + s->in_at, have);
		s->in_at = 0;
		s->in_bytes = have;
	}
	room = have + MIN(want, MAX(have, IN_STEP));
	if (room > s->in_room) {
		s->in = xrealloc(s->in, room);
		s->in_room = room;
	}
}

/* >0 bytes came; -EAGAIN. */
static ssize_t read_some(struct peer_stream *s, size_t want)
{
	ssize_t n;

	make_room(s, want);
	n = tls_receive(s->tls, s->in + s->in_bytes, s->in_room - s->in_bytes);
	if (n > 0) {
		s->in_bytes += (size_t)n;
		atomic_fetch_add(&s->total_in, (uint64_t)n);
	}
	return n;
}

/* 1: a whole frame; 0: it needs *want bytes more at least. */
static int take(struct peer_stream *s, struct frame *out, size_t *want)
{
	size_t have = s->in_bytes - s->in_at;
	int64_t n = have ? frame_length(s->in + s->in_at, have) : 0;
	int rc;

	if (n < 0)
		return (int)n;
	*want = n ? (size_t)n - MIN(have, (size_t)n) : FRAME_HEAD_BYTES - have;
	if (n == 0 || *want)
		return 0;
	rc = frame_parse(s->in + s->in_at, (size_t)n, out);
	s->in_at += (size_t)n;
	return rc < 0 ? rc : 1;
}

static int heard_bye(struct peer_stream *s, const struct frame *f)
{
	struct err_info info;
	int rc = peer_error_decode(f, &info);

	s->refused = true;

	return rc < 0 ? rc : err_restore(&info);
}

static int receive(struct peer_stream *s, struct frame *out, unsigned silence_ms)
{
	uint64_t deadline = clock_boot_ns() + silence_ms * NS_PER_MS;
	size_t want = 0;

	for (;;) {
		int rc = take(s, out, &want);
		ssize_t n;

		if (rc < 0)
			return rc;
		if (rc == 1 && out->type == FRAME_PING)
			continue;
		if (rc == 1 && out->type == FRAME_BYE && !out->flags)
			return heard_bye(s, out);
		if (rc == 1)
			return 0;
		n = read_some(s, want);
		if (n > 0)
			deadline = clock_boot_ns() + silence_ms * NS_PER_MS;
		if (n >= 0)
			continue;
		if (n != -EAGAIN)
			return (int)n;
		rc = await(s, POLLIN, deadline);
		if (rc < 0)
			return rc;
		if (rc == 0)
			return -ETIMEDOUT;
	}
}

int peer_stream_receive(struct peer_stream *s, struct frame *out, unsigned silence_ms)
{
	int rc = peer_stream_flush(s);

	if (rc < 0)
		return rc;
	rc = receive(s, out, silence_ms);
	if (rc == -ETIMEDOUT)
		return fail(rc, "host %s: says nothing for %u ms", s->theirs.name, silence_ms);
	return rc < 0 ? broke(s, rc) : 0;
}

/* --- sending ------------------------------------------------------------------------------------- */

/* Why it ended, if the other side said so before: better words than the socket's. */
static int last_words(struct peer_stream *s, int err)
{
	struct err_info mine;
	struct frame f;
	int rc;

	err_save(&mine, err);
	if (err != -ECONNRESET && err != -EPIPE)
		return err;
	do
		rc = receive(s, &f, 0);
	while (rc == 0);
	return rc == -ETIMEDOUT || rc == -EPIPE || rc == -ECONNRESET ? err_restore(&mine) : rc;
}

/* One step further; a peer that takes nothing for long is gone. */
static int await_room(struct peer_stream *s)
{
	int rc = await(s, POLLOUT, clock_boot_ns() + PEER_STREAM_MS * NS_PER_MS);

	return rc ? MIN(rc, 0)
		  : fail(-ETIMEDOUT, "takes nothing for %u ms", (unsigned)PEER_STREAM_MS);
}

static int push(struct peer_stream *s)
{
	size_t at = 0;
	int rc = 0;

	while (rc == 0 && at < s->out_bytes) {
		ssize_t n = tls_send(s->tls, s->out + at, s->out_bytes - at);

		if (n > 0) {
			at += (size_t)n;
			atomic_fetch_add(&s->total_out, (uint64_t)n);
		} else {
			rc = n == -EAGAIN ? await_room(s) : (int)n;
		}
	}
	s->out_bytes -= at;
	memmove(s->out, s->out + at, s->out_bytes); /* cut off: no frame may begin in its middle */
	while (rc == 0 && (rc = tls_flush(s->tls)) == -EAGAIN)
		rc = await_room(s);
	return rc;
}

int peer_stream_flush(struct peer_stream *s)
{
	int rc = check(s);

	if (rc < 0 || !s->out_bytes)
		return rc;
	rc = push(s);
	return rc < 0 ? broke(s, last_words(s, rc)) : 0;
}

int peer_stream_send(struct peer_stream *s, enum frame_type type, unsigned flags, uint64_t tag,
		     const void *a, uint32_t a_bytes, const void *b, uint32_t b_bytes)
{
	size_t whole = FRAME_HEAD_BYTES + a_bytes + b_bytes;
	struct frame_head head;
	uint8_t *body;

	if (s->out_bytes + whole > s->out_room) {
		s->out_room = s->out_bytes + whole;
		s->out = xrealloc(s->out, s->out_room);
	}
	body = s->out + s->out_bytes + FRAME_HEAD_BYTES;
	if (a_bytes)
		memcpy(body, a, a_bytes);
	if (b_bytes)
		memcpy(body + a_bytes, b, b_bytes);
	frame_seal(&head, type, flags, tag, body, a_bytes + b_bytes);
	memcpy(s->out + s->out_bytes, &head, sizeof(head));
	s->out_bytes += whole;
	return s->out_bytes >= OUT_MUCH ? peer_stream_flush(s) : check(s);
}

int peer_stream_ping(struct peer_stream *s)
{
	le64 clock = le64_of(clock_boot_ns());
	int rc = peer_stream_send(s, FRAME_PING, 0, 0, &clock, sizeof(clock), NULL, 0);

	return rc < 0 ? rc : peer_stream_flush(s);
}

/* --- requests ------------------------------------------------------------------------------------ */

int peer_stream_answer(struct peer_stream *s, enum frame_type type, uint64_t tag,
		       unsigned timeout_ms, struct frame *answer)
{
	struct err_info info;
	int rc = peer_stream_receive(s, answer, timeout_ms);

	if (rc < 0)
		return rc;
	if (answer->type != type || !(answer->flags & FRAME_ANSWER) || answer->tag != tag)
		return broke(s, fail(-EBADMSG, "a frame of type %u in place of the answer to %u",
				     answer->type, type));
	if (!(answer->flags & FRAME_ERROR))
		return 0;
	rc = peer_error_decode(answer, &info);
	return rc < 0 ? broke(s, rc) : err_restore(&info);
}

int peer_stream_call(struct peer_stream *s, enum frame_type type, const void *a, uint32_t a_bytes,
		     const void *b, uint32_t b_bytes, unsigned timeout_ms, struct frame *answer)
{
	uint64_t tag = ++s->tag;
	int rc = peer_stream_send(s, type, 0, tag, a, a_bytes, b, b_bytes);

	return rc < 0 ? rc : peer_stream_answer(s, type, tag, timeout_ms, answer);
}

int peer_stream_refuse(struct peer_stream *s, const struct frame *request, int err)
{
	struct frame_error body;
	struct err_info info;
	int rc;

	err_save(&info, err);
	peer_error_encode(&info, &body);
	rc = peer_stream_send(s, request->type, FRAME_ANSWER | FRAME_ERROR, request->tag, &body,
			      sizeof(body), NULL, 0);
	return rc < 0 ? rc : peer_stream_flush(s);
}

/* A socket that closes on unread bytes resets the connection, and our last words with it. */
static void say_bye(struct peer_stream *s, int err)
{
	uint64_t until = clock_boot_ns() + LAST_MS * NS_PER_MS;
	struct pollfd p = {.fd = s->fd, .events = POLLOUT};
	struct frame_error body;
	struct err_info info;
	char waste[4096];
	ssize_t n = -EAGAIN;

	err_save(&info, err);
	peer_error_encode(&info, &body);
	if (peer_stream_send(s, FRAME_BYE, 0, 0, &body, sizeof(body), NULL, 0) < 0)
		return;
	for (size_t at = 0; at < s->out_bytes || n == -EAGAIN;) {
		n = at < s->out_bytes ? tls_send(s->tls, s->out + at, s->out_bytes - at)
				      : tls_flush(s->tls);
		if (n > 0)
			at += (size_t)n;
		else if (n < 0 && (n != -EAGAIN || clock_boot_ns() >= until || poll(&p, 1, 50) < 0))
			return;
	}
	(void)shutdown(s->fd, SHUT_WR);
	p.events = POLLIN;
	while (clock_boot_ns() < until && poll(&p, 1, 50) >= 0) {
		n = recv(s->fd, waste, sizeof(waste), MSG_DONTWAIT);
		if (n == 0 || (n < 0 && errno != EAGAIN))
			break;
	}
}

void peer_stream_end(struct peer_stream *s, int err)
{
	if (!s)
		return;
	if (err < 0 && (!s->broken.err || s->broken.err == -ECANCELED)) {
		s->broken.err = 0;
		atomic_store(&s->cancelled, false);
		say_bye(s, err);
	}
	tls_destroy(s->tls);
	close(s->fd);
	close(s->cancel_fd);
	free(s->in);
	free(s->out);
	free(s);
}
