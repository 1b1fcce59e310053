// SPDX-License-Identifier: Apache-2.0
/*
 * peer_conn.c: a connection's life on the loop. One watch on the socket; one timer for the time it
 * may take to open, for pings and for the silence of the other side; one buffer each way. It is freed
 * when the kernel has let go of the watch, so that callbacks may close it at any point.
 */
#include "base/peer_conn.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/loop.h"
#include "base/peer_stream.h"

#define TICK_MS	   500u
#define READ_TURN  (256u * 1024) /* bytes taken in one turn; then others have theirs */
#define IN_FIRST   (4u * 1024)
#define IN_STEP	   (64u * 1024)
#define KEEP_BYTES (1024u * 1024) /* a larger buffer is given back when it is empty */

enum state { CONNECTING, WAITING, HANDSHAKE, HELLO, OPEN, CLOSING };

struct slot {
	struct peer_request *req;
	uint64_t life; /* so that a late answer meets no later request */
};

struct peer_conn {
	struct loop *loop;
	const struct peer_conn_events *events;
	void *arg;
	enum state state;
	bool client, paused, full;
	int fd;
	struct tls *tls;
	char identity[TLS_IDENTITY_BYTES];
	uint8_t key[TLS_KEY_BYTES]; /* client: until the handshake begins */
	char address[NETADDR_TEXT];
	struct peer_hello mine, theirs;
	struct loop_watch watch;
	struct loop_timer timer, resume;
	struct loop_work flush_work, end_work;
	void (*taken)(void *arg, struct peer_stream *stream);
	uint64_t wait_until_ns, open_until_ns, heard_ns, sent_ns;
	uint64_t their_clock_ns, arrived_ns;
	uint8_t *in;
	size_t in_bytes, in_room;
	uint8_t *out; /* out[out_at..out_bytes) waits */
	size_t out_at, out_bytes, out_room;
	uint64_t total_in, total_out;
	struct slot *slots;
	unsigned requests, next_slot;
	uint64_t lives;
	struct err_info why;
};

static void read_in(struct peer_conn *c);

/* --- ending ---------------------------------------------------------------------------------------- */

static void watch_closed(struct loop_watch *watch)
{
	struct peer_conn *c = container_of(watch, struct peer_conn, watch);

	free(c->slots);
	free(c->in);
	free(c->out);
	explicit_bzero(c->key, sizeof(c->key));
	free(c);
}

static void end_requests(struct peer_conn *c)
{
	for (unsigned i = 0; c->slots && i < PEER_REQUESTS_MAX; i++) {
		struct peer_request *req = c->slots[i].req;

		if (!req)
			continue;
		c->slots[i].req = NULL;
		req->done(
			req,
			fail(-ECONNRESET,
			     "the connection to %s ended: %.300s; whether it was done is not known",
			     c->address, c->why.message),
			NULL);
	}
}

static void end_posted(struct loop_work *work)
{
	struct peer_conn *c = container_of(work, struct peer_conn, end_work);

	end_requests(c);
	c->events->closed(c->arg, c, c->why.err, c->why.message);
	loop_timer_cancel(&c->timer);
	loop_timer_cancel(&c->resume);
	tls_destroy(c->tls);
	c->tls = NULL;
	loop_watch_remove(&c->watch, watch_closed);
	close(c->fd);
	c->fd = -1;
}

static void detach_posted(struct loop_work *work)
{
	struct peer_conn *c = container_of(work, struct peer_conn, end_work);
	struct peer_stream_parts parts = {
		.fd = c->fd,
		.tls = c->tls,
		.in = c->in,
		.in_bytes = c->in_bytes,
		.out = c->out ? c->out + c->out_at : NULL,
		.out_bytes = c->out_bytes - c->out_at,
		.theirs = &c->theirs,
		.address = c->address,
	};

	end_requests(c);
	loop_timer_cancel(&c->timer);
	loop_timer_cancel(&c->resume);
	loop_watch_remove(&c->watch, watch_closed);
	c->fd = -1;
	c->tls = NULL;
	c->taken(c->arg, peer_stream_create(&parts));
	c->events->closed(c->arg, c, 0, "it goes on as a stream");
}

void peer_conn_detach(struct peer_conn *c, void (*taken)(void *arg, struct peer_stream *stream))
{
	MUST(c->state == OPEN);
	err_save(&c->why, fail(-ECANCELED, "it goes on as a stream"));
	c->state = CLOSING;
	c->taken = taken;
	c->end_work.fn = detach_posted;
	loop_defer(c->loop, &c->end_work);
}

/* The reason is this thread's error for `err`. `tell` the other side. */
static void end(struct peer_conn *c, int err, bool tell)
{
	if (c->state == CLOSING)
		return;
	err_save(&c->why, err);
	if (tell && c->state >= HELLO) {
		struct frame_error bye;
		struct {
			struct frame_head head;
			struct frame_error body;
		} f;

		peer_error_encode(&c->why, &bye);
		frame_seal(&f.head, FRAME_BYE, 0, 0, &bye, sizeof(bye));
		f.body = bye;
		/* What waits goes first; what the socket does not take is not said. */
		while (c->out_at < c->out_bytes) {
			ssize_t n = tls_send(c->tls, c->out + c->out_at, c->out_bytes - c->out_at);

			if (n < 0)
				break;
			c->out_at += (size_t)n;
		}
		if (c->out_at == c->out_bytes && tls_send(c->tls, &f, sizeof(f)) > 0)
			(void)tls_flush(c->tls);
		(void)err_restore(&c->why);
	}
	c->state = CLOSING;
	c->end_work.fn = end_posted;
	loop_defer(c->loop, &c->end_work);
}

void peer_conn_close(struct peer_conn *c, int err, const char *why)
{
	if (c->state != CLOSING)
		end(c, fail(err, "%s", why), true);
}

/* --- sending --------------------------------------------------------------------------------------- */

static void watch_events(struct peer_conn *c)
{
	unsigned events = 0;

	switch (c->state) {
	case CONNECTING:
		events = POLLOUT;
		break;
	case HANDSHAKE:
		events = tls_wants_write(c->tls) ? POLLOUT : POLLIN;
		break;
	case HELLO:
	case OPEN:
		events = (c->paused ? 0 : POLLIN) |
			 (c->out_at < c->out_bytes || tls_wants_write(c->tls) ? POLLOUT : 0);
		break;
	case WAITING:
	case CLOSING:
		break;
	}
	loop_watch_set(&c->watch, events);
}

static void flush_out(struct peer_conn *c)
{
	ssize_t n = 0;

	while (c->out_at < c->out_bytes) {
		n = tls_send(c->tls, c->out + c->out_at, c->out_bytes - c->out_at);
		if (n < 0)
			break;
		c->out_at += (size_t)n;
		c->total_out += (uint64_t)n;
		c->sent_ns = clock_boot_ns();
	}
	if (n >= 0)
		n = tls_flush(c->tls);
	if (n < 0 && n != -EAGAIN) {
		end(c, (int)n, false);
		return;
	}
	if (c->out_at == c->out_bytes) {
		c->out_at = c->out_bytes = 0;
		if (c->out_room > KEEP_BYTES) {
			free(c->out);
			c->out = NULL;
			c->out_room = 0;
		}
	}
	watch_events(c);
	if (c->full && c->out_bytes - c->out_at <= PEER_OUT_MAX / 2) {
		c->full = false;
		if (c->events->room && c->state == OPEN)
			c->events->room(c->arg, c);
	}
}

static void flush_deferred(struct loop_work *work)
{
	struct peer_conn *c = container_of(work, struct peer_conn, flush_work);

	if (c->state == HELLO || c->state == OPEN)
		flush_out(c);
}

/* Room for `n` more bytes at the end. */
static uint8_t *out_room(struct peer_conn *c, size_t n)
{
	if (c->out_at && c->out_bytes + n > c->out_room) {
		memmove(c->out, c->out + c->out_at, c->out_bytes - c->out_at);
		c->out_bytes -= c->out_at;
		c->out_at = 0;
	}
	if (c->out_bytes + n > c->out_room) {
		c->out_room = MAX(c->out_bytes + n, 2 * c->out_room);
		c->out = xrealloc(c->out, c->out_room);
	}
	return c->out + c->out_bytes;
}

static void put_frame(struct peer_conn *c, enum frame_type type, unsigned flags, uint64_t tag,
		      const void *a, uint32_t a_bytes, const void *b, uint32_t b_bytes)
{
	size_t whole = FRAME_HEAD_BYTES + a_bytes + b_bytes;
	uint8_t *p = out_room(c, whole), *body = p + FRAME_HEAD_BYTES;
	struct frame_head head;

	if (a_bytes)
		memcpy(body, a, a_bytes);
	if (b_bytes)
		memcpy(body + a_bytes, b, b_bytes);
	frame_seal(&head, type, flags, tag, body, a_bytes + b_bytes);
	memcpy(p, &head, sizeof(head));
	c->out_bytes += whole;
	loop_defer(c->loop, &c->flush_work);
}

int peer_conn_send(struct peer_conn *c, enum frame_type type, unsigned flags, uint64_t tag,
		   const void *a, uint32_t a_bytes, const void *b, uint32_t b_bytes)
{
	if (c->state != OPEN)
		return fail(-ENOTCONN, "host at %s: not connected", c->address);
	if (c->out_bytes - c->out_at >= PEER_OUT_MAX) {
		c->full = true;
		return fail(-EAGAIN, "host at %s: too much waits to be sent", c->address);
	}
	put_frame(c, type, flags, tag, a, a_bytes, b, b_bytes);
	return 0;
}

int peer_conn_request(struct peer_conn *c, struct peer_request *req, enum frame_type type,
		      const void *a, uint32_t a_bytes, const void *b, uint32_t b_bytes)
{
	unsigned at = c->next_slot;
	int rc;

	if (c->requests == PEER_REQUESTS_MAX)
		return fail(-EBUSY, "host at %s: %u requests are under way", c->address,
			    PEER_REQUESTS_MAX);
	if (!c->slots)
		c->slots = xcalloc(PEER_REQUESTS_MAX, sizeof(*c->slots));
	while (c->slots[at].req)
		at = (at + 1) % PEER_REQUESTS_MAX;
	req->tag = (c->lives + 1) * PEER_REQUESTS_MAX + at;
	rc = peer_conn_send(c, type, 0, req->tag, a, a_bytes, b, b_bytes);
	if (rc < 0)
		return rc;
	c->slots[at] = (struct slot){.req = req, .life = ++c->lives};
	c->next_slot = (at + 1) % PEER_REQUESTS_MAX;
	c->requests++;
	return 0;
}

/* The request of a tag, which is over with that; NULL: none, or none any more. */
static struct peer_request *take_request(struct peer_conn *c, uint64_t tag)
{
	struct slot *s = c->slots ? &c->slots[tag % PEER_REQUESTS_MAX] : NULL;
	struct peer_request *req = s ? s->req : NULL;

	if (!req || s->life != tag / PEER_REQUESTS_MAX)
		return NULL;
	s->req = NULL;
	c->requests--;
	return req;
}

void peer_conn_forget(struct peer_conn *c, struct peer_request *req)
{
	(void)take_request(c, req->tag);
}

int peer_conn_answer_error(struct peer_conn *c, const struct frame *request, int err)
{
	struct frame_error body;
	struct err_info info;

	err_save(&info, err);
	peer_error_encode(&info, &body);
	return peer_conn_send(c, request->type, FRAME_ANSWER | FRAME_ERROR, request->tag, &body,
			      sizeof(body), NULL, 0);
}

/* --- opening --------------------------------------------------------------------------------------- */

static void say_hello(struct peer_conn *c)
{
	struct frame_hello h;

	peer_hello_encode(&c->mine, &h);
	put_frame(c, FRAME_HELLO, 0, 0, &h, sizeof(h), NULL, 0);
}

static void handshake(struct peer_conn *c)
{
	int rc = tls_handshake(c->tls);

	if (rc == -EAGAIN) {
		watch_events(c);
		return;
	}
	if (rc < 0) {
		end(c, rc, false);
		return;
	}
	(void)str_format(c->identity, sizeof(c->identity), "%s", tls_identity(c->tls));
	c->state = HELLO;
	if (c->client)
		say_hello(c);
	watch_events(c);
	read_in(c);
}

static int key_of(void *arg, const char *identity, uint8_t key[TLS_KEY_BYTES])
{
	struct peer_conn *c = arg;

	return c->events->key(c->arg, identity, key);
}

static void begin_tls(struct peer_conn *c)
{
	int one = 1, dead = PEER_DEAD_MS, rc;

	(void)setsockopt(c->fd, SOL_TCP, TCP_NODELAY, &one, sizeof(one));
	(void)setsockopt(c->fd, SOL_TCP, TCP_USER_TIMEOUT, &dead, sizeof(dead));
	rc = c->client ? tls_client(&c->tls, c->fd, c->identity, c->key,
				    c->mine.purpose == PEER_STREAM)
		       : tls_server(&c->tls, c->fd, key_of, c);
	explicit_bzero(c->key, sizeof(c->key));
	if (rc < 0) {
		end(c, rc, false);
		return;
	}
	c->state = HANDSHAKE;
	handshake(c);
}

static void connected(struct peer_conn *c)
{
	int err = 0;
	socklen_t n = sizeof(err);

	if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &err, &n) < 0)
		err = errno;
	if (err)
		end(c, fail(-err, "%s: %s", c->address, strerror(err)), false);
	else
		begin_tls(c);
}

static int take_hello(struct peer_conn *c, const struct frame *f)
{
	int rc = peer_hello_decode(f, &c->theirs);

	if (rc == 0)
		rc = c->events->hello(c->arg, c, c->identity, &c->theirs, &c->mine);
	if (rc == 0 && !c->client) {
		rc = peer_hello_answer(&c->mine, &c->theirs);
		if (rc == 0)
			say_hello(c);
	} else if (rc == 0) {
		if (c->theirs.version_min < c->mine.version_min ||
		    c->theirs.version_max > c->mine.version_max)
			rc = fail(-EPROTONOSUPPORT, "host %s chose peer version %u", c->theirs.name,
				  c->theirs.version_max);
		c->mine.features &= c->theirs.features;
	}
	if (rc < 0)
		return rc;
	c->their_clock_ns = c->theirs.clock_ns;
	c->arrived_ns = c->heard_ns;
	c->state = OPEN;
	c->events->opened(c->arg, c);
	return 0;
}

/* --- receiving ------------------------------------------------------------------------------------- */

static int take_answer(struct peer_conn *c, const struct frame *f)
{
	struct peer_request *req = take_request(c, f->tag);
	struct err_info info;
	int rc;

	if (f->flags & FRAME_ERROR) {
		rc = peer_error_decode(f, &info);
		if (rc < 0)
			return rc;
		if (req)
			req->done(req, err_restore(&info), NULL);
	} else if (req) {
		req->done(req, 0, f);
	}
	return 0;
}

static int take_frame(struct peer_conn *c, const struct frame *f)
{
	struct err_info info;
	le64 clock;
	int rc;

	if (f->type == FRAME_BYE && !f->flags) {
		rc = peer_error_decode(f, &info);
		end(c, rc < 0 ? rc : err_restore(&info), false);
		return 0;
	}
	if (c->state == HELLO)
		return take_hello(c, f);
	if (f->flags & FRAME_ANSWER)
		return take_answer(c, f);
	if (f->type == FRAME_HELLO)
		return fail(-EBADMSG, "a second hello");
	if (f->type == FRAME_PING) {
		if (f->bytes != sizeof(clock))
			return fail(-EBADMSG, "a ping of %u bytes", f->bytes);
		memcpy(&clock, f->body, sizeof(clock));
		c->their_clock_ns = le64_get(clock);
		c->arrived_ns = c->heard_ns;
		return 0;
	}
	return c->events->frame(c->arg, c, f);
}

/* Whole frames at the start of what came; `want` is how much more the next one needs, at least. */
static int take_frames(struct peer_conn *c, size_t *want)
{
	size_t at = 0;
	int rc = 0;

	*want = 1;
	while (rc == 0 && !c->paused && c->state != CLOSING && at < c->in_bytes) {
		int64_t n = frame_length(c->in + at, c->in_bytes - at);
		struct frame f;

		if (n > 0 && c->state == HELLO &&
		    (size_t)n > FRAME_HEAD_BYTES + sizeof(struct frame_error))
			n = fail(-EBADMSG, "a frame before the hello");
		if (n < 0)
			return (int)n;
		if (n == 0 || (size_t)n > c->in_bytes - at) {
			*want = n ? (size_t)n - (c->in_bytes - at) : FRAME_HEAD_BYTES;
			break;
		}
		rc = frame_parse(c->in + at, (size_t)n, &f);
		if (rc == 0)
			rc = take_frame(c, &f);
		at += (size_t)n;
	}
	if (at) {
		memmove(c->in, c->in + at, c->in_bytes - at);
		c->in_bytes -= at;
	}
	return rc;
}

/* Twice as much each time, so that a head's promise alone takes no memory. */
static void make_room(struct peer_conn *c, size_t want)
{
	size_t room = c->in_bytes + MIN(want, MAX(c->in_bytes, IN_STEP));

	if (c->in_bytes == 0 && c->in_room > KEEP_BYTES) {
		free(c->in);
		c->in = NULL;
		c->in_room = 0;
	}
	if (c->in_room - c->in_bytes >= MIN(want, IN_FIRST))
		return;
	room = MAX(room, c->state == OPEN ? IN_STEP : IN_FIRST);
	if (room > c->in_room) {
		c->in = xrealloc(c->in, room);
		c->in_room = room;
	}
}

static void read_in(struct peer_conn *c)
{
	size_t turn = 0, want;
	int rc;

	for (;;) {
		ssize_t n;

		rc = take_frames(c, &want);
		if (rc < 0 || c->paused || (c->state != HELLO && c->state != OPEN))
			break;
		if (turn >= READ_TURN) {
			loop_timer_arm(c->loop, &c->resume, clock_boot_ns());
			break;
		}
		make_room(c, want);
		n = tls_receive(c->tls, c->in + c->in_bytes, c->in_room - c->in_bytes);
		if (n < 0) {
			rc = n == -EAGAIN ? 0 : (int)n;
			break;
		}
		c->in_bytes += (size_t)n;
		turn += (size_t)n;
		c->total_in += (uint64_t)n;
		c->heard_ns = clock_boot_ns();
	}
	if (rc < 0)
		end(c, rc,
		    rc == -EBADMSG || rc == -EPROTONOSUPPORT || rc == -EACCES || rc == -ESTALE ||
			    rc == -EPERM);
	else if (c->state == HELLO || c->state == OPEN)
		watch_events(c);
}

static void resume_fired(struct loop_timer *timer)
{
	struct peer_conn *c = container_of(timer, struct peer_conn, resume);

	if (c->state == HELLO || c->state == OPEN)
		read_in(c);
}

void peer_conn_pause(struct peer_conn *c, bool paused)
{
	if (c->state != OPEN || c->paused == paused)
		return;
	c->paused = paused;
	c->heard_ns = clock_boot_ns();
	if (!paused)
		loop_timer_arm(c->loop, &c->resume, c->heard_ns);
	watch_events(c);
}

static void on_socket(struct loop_watch *watch, unsigned events)
{
	struct peer_conn *c = container_of(watch, struct peer_conn, watch);

	switch (c->state) {
	case CONNECTING:
		connected(c);
		break;
	case WAITING:
		if (events & (POLLHUP | POLLERR))
			end(c, fail(-ECONNRESET, "the other side hung up"), false);
		break;
	case HANDSHAKE:
		handshake(c);
		break;
	case HELLO:
	case OPEN:
		if (events & POLLOUT)
			flush_out(c);
		if (c->state != CLOSING && c->paused && events & (POLLHUP | POLLERR))
			end(c, fail(-ECONNRESET, "the other side hung up"), false);
		else if (c->state != CLOSING && !c->paused)
			read_in(c);
		break;
	case CLOSING:
		break;
	}
}

/* --- time ------------------------------------------------------------------------------------------- */

static void tick(struct loop_timer *timer)
{
	struct peer_conn *c = container_of(timer, struct peer_conn, timer);
	uint64_t now = clock_boot_ns(), next = now + TICK_MS * NS_PER_MS;
	le64 clock = le64_of(now);

	if (c->state == CLOSING)
		return;
	if (c->state == WAITING) {
		if (now >= c->wait_until_ns)
			begin_tls(c);
		else
			next = MIN(next, c->wait_until_ns);
	} else if (c->state != OPEN) {
		if (now >= c->open_until_ns)
			end(c,
			    fail(-ETIMEDOUT, "%s: no answer within %u ms", c->address,
				 PEER_OPEN_MS),
			    false);
	} else if (!c->paused && now >= c->heard_ns + PEER_DEAD_MS * NS_PER_MS) {
		end(c, fail(-ETIMEDOUT, "%s: not heard for %u ms", c->address, PEER_DEAD_MS),
		    false);
	} else if (now >= c->sent_ns + PEER_PING_MS * NS_PER_MS && c->out_at == c->out_bytes) {
		put_frame(c, FRAME_PING, 0, 0, &clock, sizeof(clock), NULL, 0);
	}
	if (c->state != CLOSING)
		loop_timer_arm(c->loop, timer, next);
}

/* --- making ------------------------------------------------------------------------------------------ */

static struct peer_conn *create(struct loop *loop, int fd, const struct peer_conn_events *events,
				void *arg)
{
	struct peer_conn *c = xcalloc(1, sizeof(*c));

	c->loop = loop;
	c->fd = fd;
	c->events = events;
	c->arg = arg;
	c->heard_ns = c->sent_ns = clock_boot_ns();
	c->timer.fn = tick;
	c->resume.fn = resume_fired;
	c->flush_work.fn = flush_deferred;
	c->watch.fn = on_socket;
	return c;
}

int peer_conn_connect(struct peer_conn **out, struct loop *loop, const struct netaddr *to,
		      const char *identity, const uint8_t key[TLS_KEY_BYTES],
		      const struct peer_hello *hello, const struct peer_conn_events *events,
		      void *arg)
{
	int fd = socket(to->sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct peer_conn *c;
	int rc = 0;

	if (fd < 0)
		return fail(-errno, "socket: %s", strerror(errno));
	if (connect(fd, (const struct sockaddr *)&to->sa, to->bytes) < 0 && errno != EINPROGRESS) {
		char text[NETADDR_TEXT];

		rc = -errno;
		netaddr_format(to, text);
		close(fd);
		return fail(rc, "%s: %s", text, strerror(-rc));
	}
	c = create(loop, fd, events, arg);
	c->client = true;
	c->state = CONNECTING;
	c->mine = *hello;
	memcpy(c->key, key, sizeof(c->key));
	MUST(str_format(c->identity, sizeof(c->identity), "%s", identity) > 0);
	netaddr_format(to, c->address);
	c->open_until_ns = c->heard_ns + PEER_OPEN_MS * NS_PER_MS;
	loop_watch_add(loop, &c->watch, fd, POLLOUT);
	loop_timer_arm(loop, &c->timer, c->heard_ns + TICK_MS * NS_PER_MS);
	*out = c;
	return 0;
}

int peer_conn_accept(struct peer_conn **out, struct loop *loop, int fd, unsigned wait_ms,
		     const struct peer_conn_events *events, void *arg)
{
	struct peer_conn *c = create(loop, fd, events, arg);
	struct netaddr from = {.bytes = sizeof(from.sa)};

	if (getpeername(fd, (struct sockaddr *)&from.sa, &from.bytes) == 0)
		netaddr_format(&from, c->address);
	c->state = WAITING;
	c->wait_until_ns = c->heard_ns + wait_ms * NS_PER_MS;
	c->open_until_ns = c->wait_until_ns + PEER_OPEN_MS * NS_PER_MS;
	loop_watch_add(loop, &c->watch, fd, 0);
	loop_timer_arm(loop, &c->timer, c->wait_until_ns);
	*out = c;
	return 0;
}

/* --- looking ------------------------------------------------------------------------------------------ */

bool peer_conn_is_open(const struct peer_conn *c)
{
	return c->state == OPEN;
}

const struct peer_hello *peer_conn_theirs(const struct peer_conn *c)
{
	return &c->theirs;
}

uint64_t peer_conn_features(const struct peer_conn *c)
{
	return c->mine.features;
}

void *peer_conn_arg(const struct peer_conn *c)
{
	return c->arg;
}

const char *peer_conn_address(const struct peer_conn *c)
{
	return c->address;
}

void peer_conn_traffic(const struct peer_conn *c, uint64_t *in, uint64_t *out)
{
	*in = c->total_in;
	*out = c->total_out;
}

void peer_conn_clock(const struct peer_conn *c, uint64_t *theirs, uint64_t *arrived)
{
	*theirs = c->their_clock_ns;
	*arrived = c->arrived_ns;
}
