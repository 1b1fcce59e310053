// SPDX-License-Identifier: Apache-2.0
/* streams.c: a client's and a server's connection on one loop, both detached. */
#include "tests/lib/streams.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/loop.h"
#include "base/peer_conn.h"
#include "base/peer_stream.h"

#define VOLUME	 "6f1c7f5e-0000-4000-8000-0123456789ab"
#define LIMIT_MS 20000u

static const uint8_t secret[32] = "0123456789abcdef0123456789abcde";

struct end {
	struct peer_conn *conn;
	struct peer_stream *stream;
	bool closed;
};

static int on_key(void *arg, const char *identity, uint8_t key[TLS_KEY_BYTES])
{
	(void)arg;
	return tls_derive_key(secret, identity, key);
}

static int on_hello(void *arg, struct peer_conn *conn, const char *identity,
		    const struct peer_hello *theirs, struct peer_hello *mine)
{
	(void)arg;
	(void)conn;
	(void)identity;
	if (mine->name[0])
		return 0;
	*mine = (struct peer_hello){.version_min = 1,
				    .version_max = 1,
				    .purpose = theirs->purpose,
				    .features = PEER_FEATURES,
				    .slot = 2,
				    .epoch = 9,
				    .name = "server"};
	memcpy(mine->volume, theirs->volume, sizeof(mine->volume));
	return 0;
}

static void on_taken(void *arg, struct peer_stream *stream)
{
	struct end *e = arg;

	e->stream = stream;
}

static void on_opened(void *arg, struct peer_conn *conn)
{
	(void)arg;
	peer_conn_detach(conn, on_taken);
}

static int on_frame(void *arg, struct peer_conn *conn, const struct frame *f)
{
	(void)arg;
	(void)conn;
	(void)f;
	MUST(!"a frame on a connection that is a stream");
	return -EBADMSG;
}

static void on_closed(void *arg, struct peer_conn *conn, int err, const char *why)
{
	struct end *e = arg;

	(void)conn;
	(void)why;
	MUST(err == 0 && e->stream);
	e->closed = true;
}

static const struct peer_conn_events events = {
	.key = on_key,
	.hello = on_hello,
	.opened = on_opened,
	.frame = on_frame,
	.closed = on_closed,
};

void streams_pair(struct peer_stream **client, struct peer_stream **server)
{
	struct peer_hello hello = {.version_min = 1,
				   .version_max = 1,
				   .purpose = PEER_STREAM,
				   .features = PEER_FEATURES,
				   .slot = 1,
				   .epoch = 7,
				   .to_slot = 2,
				   .name = "client"};
	uint64_t until = clock_boot_ms() + LIMIT_MS;
	struct end c = {0}, s = {0};
	uint8_t key[TLS_KEY_BYTES];
	struct netaddr addr;
	struct pollfd p;
	struct loop *loop;

	memcpy(hello.volume, "volume-16-bytes", 16);
	MUST(loop_create(&loop, 64) == 0 && netaddr_parse("127.0.0.1:0", 7700, &addr) == 0);
	p = (struct pollfd){.fd = netaddr_listen(&addr), .events = POLLIN};
	MUST(p.fd >= 0 && tls_derive_key(secret, VOLUME, key) == 0);
	MUST(peer_conn_connect(&c.conn, loop, &addr, VOLUME, key, &hello, &events, &c) == 0);
	MUST(poll(&p, 1, LIMIT_MS) == 1);
	MUST(peer_conn_accept(&s.conn, loop,
			      accept4(p.fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK), 0, &events,
			      &s) == 0);
	while (!c.closed) {
		MUST(loop_turn(loop, clock_boot_ns() + 20 * NS_PER_MS) == 0);
		/* What the server's loop had still to say goes with the stream. */
		if (s.stream && !c.stream)
			MUST(peer_stream_flush(s.stream) == 0);
		MUST(clock_boot_ms() < until);
	}
	for (int i = 0; i < 8; i++)
		(void)loop_turn(loop, 0);
	close(p.fd);
	loop_destroy(loop);
	*client = c.stream;
	*server = s.stream;
}
