// SPDX-License-Identifier: Apache-2.0
/*
 * Connections between hosts: two ends on one loop over a real socket, and strangers: wrong secrets,
 * garbage, cut streams, too much, too slow.
 */
#include <stdarg.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <errno.h>
#include <poll.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/loop.h"
#include "base/peer_conn.h"

#include <cmocka.h>

#define LIMIT_MS 20000u
#define VOLUME	 "6f1c7f5e-0000-4000-8000-0123456789ab"

static const uint8_t secret[32] = "0123456789abcdef0123456789abcde";

struct end {
	struct peer_conn *conn;
	bool opened, closed, room, refuse, hold;
	int err;
	char why[512];
	unsigned frames;
	uint64_t bytes;
	struct frame held[300]; /* requests, answered later; no bodies */
	unsigned holds;
};

struct world {
	struct loop *loop;
	int listen_fd;
	struct netaddr addr;
	struct end client, server;
};

struct ask {
	struct peer_request req;
	int err;
	unsigned done;
	char text[64];
};

/* --- both ends' callbacks -------------------------------------------------------------------------- */

static int on_key(void *arg, const char *identity, uint8_t key[TLS_KEY_BYTES])
{
	(void)arg;
	if (strcmp(identity, VOLUME))
		return -ENOENT;
	return tls_derive_key(secret, identity, key);
}

static int on_hello(void *arg, struct peer_conn *conn, const char *identity,
		    const struct peer_hello *theirs, struct peer_hello *mine)
{
	struct end *e = arg;

	(void)conn;
	(void)theirs;
	if (e->refuse)
		return (fail)(-EPERM, "slot 3 is not wanted here");
	if (!mine->name[0]) { /* the server */
		assert_string_equal(identity, VOLUME);
		*mine = (struct peer_hello){.version_min = 1,
					    .version_max = 1,
					    .purpose = PEER_CONTROL,
					    .features = PEER_F_CALLS | 1ull << 40,
					    .slot = 2,
					    .epoch = 9,
					    .name = "server"};
		memcpy(mine->volume, "volume-16-bytes", 16);
	}
	return 0;
}

static void on_opened(void *arg, struct peer_conn *conn)
{
	struct end *e = arg;

	(void)conn;
	e->opened = true;
}

static int on_frame(void *arg, struct peer_conn *conn, const struct frame *f)
{
	struct end *e = arg;

	e->frames++;
	e->bytes += f->bytes;
	if (f->type != FRAME_CALL)
		return 0;
	if (f->bytes == 5 && !memcmp(f->body, "wrong", 5))
		return peer_conn_answer_error(conn, f, (fail)(-EBUSY, "it is taken"));
	if (e->hold) {
		e->held[e->holds++] = *f;
		return 0;
	}
	return peer_conn_send(conn, FRAME_CALL, FRAME_ANSWER, f->tag, "echo ", 5, f->body,
			      f->bytes);
}

static void on_room(void *arg, struct peer_conn *conn)
{
	struct end *e = arg;

	(void)conn;
	e->room = true;
}

static void on_closed(void *arg, struct peer_conn *conn, int err, const char *why)
{
	struct end *e = arg;

	assert_ptr_equal(conn, e->conn);
	assert_false(e->closed);
	e->closed = true;
	e->conn = NULL;
	e->err = err;
	(void)str_format(e->why, sizeof(e->why), "%s", why);
}

static const struct peer_conn_events events = {
	.key = on_key,
	.hello = on_hello,
	.opened = on_opened,
	.frame = on_frame,
	.room = on_room,
	.closed = on_closed,
};

static void on_answer(struct peer_request *req, int err, const struct frame *answer)
{
	struct ask *a = container_of(req, struct ask, req);

	a->done++;
	a->err = err;
	if (err)
		(void)str_format(a->text, sizeof(a->text), "%s", err_message(err));
	else
		(void)str_format(a->text, sizeof(a->text), "%.*s", (int)MIN(answer->bytes, 60),
				 (const char *)answer->body);
}

/* --- the world ------------------------------------------------------------------------------------- */

static int setup(void **state)
{
	struct world *w = xcalloc(1, sizeof(*w));

	assert_int_equal(loop_create(&w->loop, 64), 0);
	assert_int_equal(netaddr_parse("127.0.0.1:0", 7700, &w->addr), 0);
	w->listen_fd = netaddr_listen(&w->addr);
	assert_true(w->listen_fd >= 0);
	assert_true(netaddr_port(&w->addr) > 0);
	*state = w;
	return 0;
}

static void turn(struct world *w)
{
	assert_int_equal(loop_turn(w->loop, clock_boot_ns() + 20 * NS_PER_MS), 0);
}

#define UNTIL(w, cond)                                                      \
	do {                                                                \
		uint64_t end_ms_ = clock_boot_ms() + LIMIT_MS;              \
		while (!(cond)) {                                           \
			turn(w);                                            \
			assert_true(clock_boot_ms() < end_ms_ && #cond[0]); \
		}                                                           \
	} while (0)

static int teardown(void **state)
{
	struct world *w = *state;

	if (w->client.conn)
		peer_conn_close(w->client.conn, -ESHUTDOWN, "the test is over");
	if (w->server.conn)
		peer_conn_close(w->server.conn, -ESHUTDOWN, "the test is over");
	UNTIL(w, !w->client.conn && !w->server.conn);
	for (int i = 0; i < 8; i++)
		(void)loop_turn(w->loop, 0);
	close(w->listen_fd);
	loop_destroy(w->loop);
	free(w);
	return 0;
}

static void accept_one(struct world *w)
{
	struct pollfd p = {.fd = w->listen_fd, .events = POLLIN};
	int fd;

	assert_int_equal(poll(&p, 1, LIMIT_MS), 1);
	fd = accept4(w->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	assert_true(fd >= 0);
	assert_int_equal(peer_conn_accept(&w->server.conn, w->loop, fd, 0, &events, &w->server), 0);
}

static void begin(struct world *w, const char *identity, const uint8_t *their_secret)
{
	struct peer_hello hello = {.version_min = 1,
				   .version_max = 3,
				   .purpose = PEER_CONTROL,
				   .features = PEER_FEATURES,
				   .slot = 1,
				   .to_slot = 2,
				   .name = "client"};
	uint8_t key[TLS_KEY_BYTES];

	memcpy(hello.volume, "volume-16-bytes", 16);
	assert_int_equal(tls_derive_key(their_secret, identity, key), 0);
	assert_int_equal(peer_conn_connect(&w->client.conn, w->loop, &w->addr, identity, key,
					   &hello, &events, &w->client),
			 0);
	accept_one(w);
}

static void open_both(struct world *w)
{
	begin(w, VOLUME, secret);
	UNTIL(w, w->client.opened && w->server.opened);
}

/* A stranger: a plain socket to the server. */
static int stranger(struct world *w)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&w->addr.sa, w->addr.bytes), 0);
	accept_one(w);
	return fd;
}

/* TLS by hand, with the right key: what a member with a bug can send. */
static struct tls *insider(struct world *w, int fd)
{
	uint8_t key[TLS_KEY_BYTES];
	struct tls *t;
	int rc;

	assert_int_equal(tls_derive_key(secret, VOLUME, key), 0);
	assert_int_equal(tls_client(&t, fd, VOLUME, key, true), 0);
	while ((rc = tls_handshake(t)) == -EAGAIN)
		turn(w);
	assert_int_equal(rc, 0);
	return t;
}

static void say(struct world *w, struct tls *t, const void *data, size_t n)
{
	const uint8_t *p = data;

	while (n && !w->server.closed) {
		ssize_t done = tls_send(t, p, n);

		if (done > 0) {
			p += done;
			n -= (size_t)done;
		}
		turn(w);
	}
	(void)tls_flush(t);
}

static size_t hello_bytes(uint8_t *buf)
{
	struct peer_hello hello = {.version_min = 1,
				   .version_max = 1,
				   .purpose = PEER_CONTROL,
				   .features = PEER_FEATURES};
	struct frame_hello body;
	struct frame_head head;

	memcpy(hello.volume, "volume-16-bytes", 16);
	peer_hello_encode(&hello, &body);
	frame_seal(&head, FRAME_HELLO, 0, 0, &body, sizeof(body));
	memcpy(buf, &head, sizeof(head));
	memcpy(buf + sizeof(head), &body, sizeof(body));
	return sizeof(head) + sizeof(body);
}

/* --- tests ------------------------------------------------------------------------------------------ */

static void both_agree_and_talk(void **state)
{
	struct world *w = *state;
	struct ask ask[200] = {0}, wrong = {.req.done = on_answer};
	uint64_t theirs, arrived;
	char text[32];

	open_both(w);
	assert_string_equal(peer_conn_theirs(w->client.conn)->name, "server");
	assert_string_equal(peer_conn_theirs(w->server.conn)->name, "client");
	assert_int_equal(peer_conn_theirs(w->client.conn)->epoch, 9);
	assert_int_equal(peer_conn_theirs(w->client.conn)->version_max, 1);
	/* what both have, and nothing else */
	assert_int_equal(peer_conn_features(w->client.conn), PEER_F_CALLS);
	assert_int_equal(peer_conn_features(w->server.conn), PEER_F_CALLS);
	peer_conn_clock(w->client.conn, &theirs, &arrived);
	assert_true(theirs && arrived && theirs <= arrived);
	for (unsigned i = 0; i < ARRAY_SIZE(ask); i++) {
		int n = str_format(text, sizeof(text), "number %u", i);

		ask[i].req.done = on_answer;
		assert_int_equal(peer_conn_request(w->client.conn, &ask[i].req, FRAME_CALL, text,
						   (uint32_t)n, NULL, 0),
				 0);
	}
	assert_int_equal(
		peer_conn_request(w->client.conn, &wrong.req, FRAME_CALL, "wr", 2, "ong", 3), 0);
	UNTIL(w, wrong.done);
	for (unsigned i = 0; i < ARRAY_SIZE(ask); i++) {
		(void)str_format(text, sizeof(text), "echo number %u", i);
		assert_int_equal(ask[i].done, 1);
		assert_int_equal(ask[i].err, 0);
		assert_string_equal(ask[i].text, text);
	}
	assert_int_equal(wrong.err, -EBUSY);
	assert_string_equal(wrong.text, "it is taken");
}

static void answers_in_any_order(void **state)
{
	struct world *w = *state;
	struct ask ask[50] = {0};
	char text[32];

	w->server.hold = true;
	open_both(w);
	for (unsigned i = 0; i < ARRAY_SIZE(ask); i++) {
		ask[i].req.done = on_answer;
		assert_int_equal(
			peer_conn_request(w->client.conn, &ask[i].req, FRAME_CALL, "x", 1, NULL, 0),
			0);
	}
	UNTIL(w, w->server.holds == ARRAY_SIZE(ask));
	peer_conn_forget(w->client.conn, &ask[7].req);
	for (unsigned i = ARRAY_SIZE(ask); i-- > 0;) {
		int n = str_format(text, sizeof(text), "answer %u", i);

		assert_int_equal(peer_conn_send(w->server.conn, FRAME_CALL, FRAME_ANSWER,
						w->server.held[i].tag, text, (uint32_t)n, NULL, 0),
				 0);
		/* twice: the second answers nothing */
		assert_int_equal(peer_conn_send(w->server.conn, FRAME_CALL, FRAME_ANSWER,
						w->server.held[i].tag, "again", 5, NULL, 0),
				 0);
	}
	UNTIL(w, ask[0].done);
	for (unsigned i = 0; i < 3; i++)
		turn(w);
	for (unsigned i = 0; i < ARRAY_SIZE(ask); i++) {
		(void)str_format(text, sizeof(text), "answer %u", i);
		assert_int_equal(ask[i].done, i != 7);
		assert_string_equal(ask[i].text, i == 7 ? "" : text);
	}
}

static void requests_end_with_the_connection(void **state)
{
	struct world *w = *state;
	struct ask ask[3] = {0};

	w->server.hold = true;
	open_both(w);
	for (unsigned i = 0; i < 3; i++) {
		ask[i].req.done = on_answer;
		assert_int_equal(
			peer_conn_request(w->client.conn, &ask[i].req, FRAME_CALL, "x", 1, NULL, 0),
			0);
	}
	UNTIL(w, w->server.holds == 3);
	peer_conn_close(w->server.conn, -ESHUTDOWN, "perilund is stopping");
	UNTIL(w, w->client.closed && w->server.closed);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(ask[i].done, 1);
		assert_int_equal(ask[i].err, -ECONNRESET);
	}
	/* the reason was told */
	assert_int_equal(w->client.err, -ESHUTDOWN);
	assert_string_equal(w->client.why, "perilund is stopping");
}

static void a_wrong_secret_is_refused(void **state)
{
	struct world *w = *state;
	const uint8_t other[32] = "another secret, of another LUN";

	begin(w, VOLUME, other);
	UNTIL(w, w->client.closed && w->server.closed);
	assert_int_equal(w->server.err, -EACCES);
	assert_non_null(strstr(w->server.why, "secret"));
	assert_int_equal(w->client.err, -EACCES);
	assert_false(w->client.opened || w->server.opened);
}

static void an_unknown_volume_is_refused(void **state)
{
	struct world *w = *state;

	begin(w, "6f1c7f5e-0000-4000-8000-000000000000", secret);
	UNTIL(w, w->client.closed && w->server.closed);
	assert_int_equal(w->server.err, -EACCES);
	assert_non_null(strstr(w->server.why, "volume"));
	assert_false(w->client.opened || w->server.opened);
}

static void garbage_gets_nowhere(void **state)
{
	struct world *w = *state;
	static const char *const lines[] = {"GET / HTTP/1.1\r\n\r\n", "\x16\x03\x01\xff\xff\x01"};
	uint8_t noise[4096];

	for (unsigned i = 0; i < 12; i++) {
		int fd = stranger(w);

		random_bytes(noise, sizeof(noise));
		if (i < ARRAY_SIZE(lines))
			assert_true(write(fd, lines[i], strlen(lines[i])) > 0);
		else
			assert_true(write(fd, noise, sizeof(noise)) > 0);
		shutdown(fd, SHUT_WR);
		UNTIL(w, w->server.closed);
		assert_true(w->server.err < 0 && !w->server.opened);
		close(fd);
		memset(&w->server, 0, sizeof(w->server));
	}
}

static void a_cut_handshake_ends(void **state)
{
	struct world *w = *state;
	int fd = stranger(w);
	struct tls *t;
	uint8_t key[TLS_KEY_BYTES];

	assert_int_equal(tls_derive_key(secret, VOLUME, key), 0);
	assert_int_equal(tls_client(&t, fd, VOLUME, key, true), 0);
	assert_int_equal(tls_handshake(t), -EAGAIN);
	for (int i = 0; i < 3; i++)
		turn(w);
	close(fd);
	tls_destroy(t);
	UNTIL(w, w->server.closed);
	assert_false(w->server.opened);
}

static void an_insider_with_a_bug(void **state)
{
	struct world *w = *state;
	uint8_t buf[1024], noise[3000];
	struct frame_head head;

	for (unsigned kind = 0; kind < 7; kind++) {
		int fd = stranger(w);
		struct tls *t = insider(w, fd);
		size_t n = hello_bytes(buf);

		if (kind == 0) { /* no hello, but a request */
			frame_seal(&head, FRAME_CALL, 0, 5, "x", 1);
			memcpy(buf, &head, sizeof(head));
			buf[sizeof(head)] = 'x';
			n = sizeof(head) + 1;
		} else if (kind == 1) { /* a bit flipped in the body */
			buf[60] ^= 4;
		} else if (kind == 2) { /* in the head */
			buf[9] ^= 4;
		}
		say(w, t, buf, n);
		memset(noise, 'n', sizeof(noise));
		frame_seal(&head, FRAME_PING, 0, 0, noise, 8);
		if (kind == 3) { /* a length beyond the type's bound, well sealed */
			frame_seal(&head, FRAME_CALL, FRAME_ANSWER, 1, noise, sizeof(noise));
			head.type = le16_of(FRAME_PING);
			head.flags = le16_of(0);
		} else if (kind == 4) { /* a second hello */
			frame_seal(&head, FRAME_HELLO, 0, 0, noise, sizeof(struct frame_hello));
		} else if (kind ==
			   5) { /* an answer nobody waits for is harmless, a bad BYE is not */
			frame_seal(&head, FRAME_CALL, FRAME_ANSWER, 77, noise, 10);
			say(w, t, &head, sizeof(head));
			say(w, t, noise, 10);
			assert_false(w->server.closed);
			frame_seal(&head, FRAME_BYE, 0, 0, noise, 3);
		}
		if (kind == 6) {
			say(w, t, noise, sizeof(noise));
		} else if (kind >= 3) {
			say(w, t, &head, sizeof(head));
			say(w, t, noise, le32_get(head.bytes));
		}
		UNTIL(w, w->server.closed);
		assert_int_equal(w->server.err, -EBADMSG);
		assert_int_equal(w->server.opened, kind >= 3);
		tls_destroy(t);
		close(fd);
		memset(&w->server, 0, sizeof(w->server));
	}
}

static void a_slow_side_holds_the_other(void **state)
{
	struct world *w = *state;
	enum { PIECE = 100 * 1024 };
	uint8_t *piece = xcalloc(1, PIECE);
	unsigned sent = 0;
	int rc;

	w->server.hold = true;
	open_both(w);
	peer_conn_pause(w->server.conn, true);
	while ((rc = peer_conn_send(w->client.conn, FRAME_CALL, 0, 1000 + sent, piece, PIECE, NULL,
				    0)) == 0) {
		sent++;
		turn(w);
		assert_true(sent < 250);
	}
	assert_int_equal(rc, -EAGAIN);
	assert_true((uint64_t)sent * PIECE >= PEER_OUT_MAX);
	assert_int_equal(w->server.frames, 0);
	assert_false(w->client.room);
	peer_conn_pause(w->server.conn, false);
	UNTIL(w, w->client.room);
	assert_int_equal(peer_conn_send(w->client.conn, FRAME_CALL, 0, 7, piece, PIECE, NULL, 0),
			 0);
	UNTIL(w, w->server.frames == sent + 1);
	assert_int_equal(w->server.bytes, (uint64_t)(sent + 1) * PIECE);
	for (unsigned i = 0; i < sent; i++)
		assert_int_equal(w->server.held[i].tag, 1000 + i);
	free(piece);
}

static void a_large_answer_comes_whole(void **state)
{
	struct world *w = *state;
	struct ask ask = {.req.done = on_answer};
	size_t n = FRAME_BODY_MAX;
	uint8_t *big = xcalloc(1, n);

	w->server.hold = true;
	open_both(w);
	memcpy(big, "big", 3);
	assert_int_equal(peer_conn_request(w->client.conn, &ask.req, FRAME_CALL, "x", 1, NULL, 0),
			 0);
	UNTIL(w, w->server.holds == 1);
	assert_int_equal(peer_conn_send(w->server.conn, FRAME_CALL, FRAME_ANSWER,
					w->server.held[0].tag, big, (uint32_t)n, NULL, 0),
			 0);
	UNTIL(w, ask.done);
	assert_int_equal(ask.err, 0);
	assert_string_equal(ask.text, "big");
	free(big);
}

static void a_refused_hello_says_why(void **state)
{
	struct world *w = *state;

	w->server.refuse = true;
	begin(w, VOLUME, secret);
	UNTIL(w, w->client.closed && w->server.closed);
	assert_int_equal(w->client.err, -EPERM);
	assert_string_equal(w->client.why, "slot 3 is not wanted here");
	assert_false(w->client.opened);
}

static void nobody_listens(void **state)
{
	struct world *w = *state;
	struct peer_hello hello = {.version_min = 1, .version_max = 1, .name = "client"};
	uint8_t key[TLS_KEY_BYTES] = {0};

	close(w->listen_fd);
	w->listen_fd = -1;
	assert_int_equal(peer_conn_connect(&w->client.conn, w->loop, &w->addr, VOLUME, key, &hello,
					   &events, &w->client),
			 0);
	UNTIL(w, w->client.closed);
	assert_int_equal(w->client.err, -ECONNREFUSED);
}

static void silence_is_noticed(void **state)
{
	struct world *w = *state;
	int fd = stranger(w), fd2;
	struct end silent;
	struct tls *t = insider(w, fd);
	uint8_t buf[1024];
	uint64_t start = clock_boot_ms();

	/* one that opens and then says nothing, one that never says anything */
	say(w, t, buf, hello_bytes(buf));
	UNTIL(w, w->server.opened);
	silent = w->server;
	peer_conn_close(w->server.conn, -ESHUTDOWN, "once more");
	UNTIL(w, w->server.closed);
	assert_true(silent.opened);
	memset(&w->server, 0, sizeof(w->server));
	fd2 = stranger(w);
	UNTIL(w, w->server.closed);
	assert_int_equal(w->server.err, -ETIMEDOUT);
	assert_true(clock_boot_ms() - start >= PEER_OPEN_MS - 100);
	tls_destroy(t);
	close(fd);
	close(fd2);
}

static void addresses(void **state)
{
	static const char *const good[][2] = {{"127.0.0.1:81", "127.0.0.1:81"},
					      {"10.0.0.5", "10.0.0.5:7700"},
					      {":99", "0.0.0.0:99"},
					      {"[::1]:5", "[::1]:5"},
					      {"[fd00::5]", "[fd00::5]:7700"},
					      {"fd00::5", "[fd00::5]:7700"}};
	static const char *const bad[] = {
		"",	  "host:1", "1.2.3.4:", "1.2.3.4:x",  "1.2.3.4:70000", "[::1",
		"[::1]x", "::g",    "1.2.3",	"1.2.3.4:-1", "[1]:2:3",       "1.2.3.4:1 "};
	char text[NETADDR_TEXT];
	struct netaddr a;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		assert_int_equal(netaddr_parse(good[i][0], 7700, &a), 0);
		netaddr_format(&a, text);
		assert_string_equal(text, good[i][1]);
	}
	for (size_t i = 1; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(netaddr_parse(bad[i], 7700, &a), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(both_agree_and_talk, setup, teardown),
		cmocka_unit_test_setup_teardown(answers_in_any_order, setup, teardown),
		cmocka_unit_test_setup_teardown(requests_end_with_the_connection, setup, teardown),
		cmocka_unit_test_setup_teardown(a_wrong_secret_is_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(an_unknown_volume_is_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(garbage_gets_nowhere, setup, teardown),
		cmocka_unit_test_setup_teardown(a_cut_handshake_ends, setup, teardown),
		cmocka_unit_test_setup_teardown(an_insider_with_a_bug, setup, teardown),
		cmocka_unit_test_setup_teardown(a_slow_side_holds_the_other, setup, teardown),
		cmocka_unit_test_setup_teardown(a_large_answer_comes_whole, setup, teardown),
		cmocka_unit_test_setup_teardown(a_refused_hello_says_why, setup, teardown),
		cmocka_unit_test_setup_teardown(nobody_listens, setup, teardown),
		cmocka_unit_test_setup_teardown(silence_is_noticed, setup, teardown),
		cmocka_unit_test(addresses),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
