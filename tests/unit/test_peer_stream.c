// SPDX-License-Identifier: Apache-2.0
/* Streams between hosts: frames both ways, what ends them, and who waits for whom. */
#include <stdarg.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <errno.h>
#include <pthread.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/peer_stream.h"
#include "tests/lib/streams.h"

#include <cmocka.h>

#define MANY 400u

struct world {
	struct peer_stream *client, *server;
	pthread_t thread;
	int rc;
	char why[512];
	uint64_t bytes;
	unsigned frames;
};

static int setup(void **state)
{
	struct world *w = xcalloc(1, sizeof(*w));

	streams_pair(&w->client, &w->server);
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	peer_stream_end(w->client, 0);
	peer_stream_end(w->server, 0);
	free(w);
	return 0;
}

/* The server's thread: counts pages, answers rounds, until an error. */
static void *serve(void *arg)
{
	struct world *w = arg;
	struct frame f;

	while ((w->rc = peer_stream_receive(w->server, &f, 20000)) == 0) {
		if (f.type == FRAME_MIG_PAGES) {
			assert_int_equal(f.body[f.bytes - 1], f.tag % 251);
			w->frames++;
			w->bytes += f.bytes;
		} else if (f.type == FRAME_MIG_ROUND) {
			assert_int_equal(peer_stream_send(w->server, f.type, FRAME_ANSWER, f.tag,
							  f.body, f.bytes, NULL, 0),
					 0);
		} else if (f.type == FRAME_MIG_STATE) {
			assert_int_equal(peer_stream_refuse(w->server, &f,
							    (fail)(-ENOSPC, "no memory for it")),
					 0);
		}
	}
	(void)str_format(w->why, sizeof(w->why), "%s", err_message(w->rc));
	return NULL;
}

static void test_to_and_fro(void **state)
{
	static uint8_t body[PEER_MIG_PAGES_MAX];
	struct world *w = *state;
	struct frame answer;
	uint64_t in, out, total = 0;
	le64 round = le64_of(77);
	uint32_t n;
	int rc;

	assert_string_equal(peer_stream_theirs(w->client)->name, "server");
	assert_int_equal(peer_stream_theirs(w->server)->epoch, 7);
	pthread_create(&w->thread, NULL, serve, w);
	for (unsigned i = 0; i < MANY; i++) {
		n = 1 + i * 7919 % sizeof(body);
		memset(body, (int)(i % 251), n);
		assert_int_equal(peer_stream_send(w->client, FRAME_MIG_PAGES, 0, i, body, n / 2,
						  body + n / 2, n - n / 2),
				 0);
		total += n;
		if (i % 50 == 0)
			assert_int_equal(peer_stream_ping(w->client), 0);
	}
	assert_int_equal(
		peer_stream_call(w->client, FRAME_MIG_ROUND, &round, 8, NULL, 0, 20000, &answer),
		0);
	assert_int_equal(answer.bytes, 8);
	assert_memory_equal(answer.body, &round, 8);
	assert_int_equal(w->frames, MANY);
	assert_int_equal(w->bytes, total);
	rc = peer_stream_call(w->client, FRAME_MIG_STATE, body, 100, NULL, 0, 20000, &answer);
	assert_int_equal(rc, -ENOSPC);
	assert_non_null(strstr(err_message(rc), "no memory for it"));
	peer_stream_traffic(w->client, &in, &out);
	assert_true(out > total && in > 40);
	peer_stream_end(w->client, (fail)(-ESHUTDOWN, "that is all"));
	w->client = NULL;
	pthread_join(w->thread, NULL);
	assert_int_equal(w->rc, -ESHUTDOWN);
	assert_non_null(strstr(w->why, "that is all"));
	assert_non_null(strstr(w->why, "host client"));
}

static void test_silence(void **state)
{
	struct world *w = *state;
	struct frame f;

	assert_int_equal(peer_stream_receive(w->client, &f, 20), -ETIMEDOUT);
	assert_int_equal(peer_stream_ping(w->server), 0);
	assert_int_equal(peer_stream_receive(w->client, &f, 20), -ETIMEDOUT);
	assert_int_equal(peer_stream_send(w->server, FRAME_MIG_ROUND, 0, 5, "12345678", 8, NULL, 0),
			 0);
	assert_int_equal(peer_stream_flush(w->server), 0);
	assert_int_equal(peer_stream_receive(w->client, &f, 20000), 0); /* it lives */
	assert_int_equal(f.tag, 5);
	assert_int_equal(peer_stream_answer(w->client, FRAME_MIG_ROUND, 5, 20, &f), -ETIMEDOUT);
}

static void test_hung_up(void **state)
{
	struct world *w = *state;
	struct frame f;

	peer_stream_end(w->server, 0);
	w->server = NULL;
	assert_int_equal(peer_stream_receive(w->client, &f, 20000), -ECONNRESET);
	assert_int_equal(peer_stream_ping(w->client), -ECONNRESET); /* for good */
}

static void *cancel_soon(void *arg)
{
	struct world *w = arg;

	sleep_ms(30);
	peer_stream_cancel(w->client);
	return NULL;
}

static void test_cancelled(void **state)
{
	static uint8_t body[PEER_MIG_PAGES_MAX];
	struct world *w = *state;
	struct frame f;
	int rc = 0;

	pthread_create(&w->thread, NULL, cancel_soon, w);
	while (rc == 0) /* nobody reads: it waits for room sooner or later */
		rc = peer_stream_send(w->client, FRAME_MIG_PAGES, 0, 0, body, sizeof(body), NULL,
				      0);
	assert_int_equal(rc, -ECANCELED);
	assert_int_equal(peer_stream_receive(w->client, &f, 20000), -ECANCELED);
	pthread_join(w->thread, NULL);
}

/* Who is cut off in the middle of a frame says why behind its rest. */
static void test_last_words(void **state)
{
	static uint8_t body[PEER_MIG_PAGES_MAX];
	struct world *w = *state;
	int rc = 0;

	pthread_create(&w->thread, NULL, cancel_soon, w);
	while (rc == 0)
		rc = peer_stream_send(w->client, FRAME_MIG_PAGES, 0, 0, body, sizeof(body), NULL,
				      0);
	pthread_join(w->thread, NULL);
	pthread_create(&w->thread, NULL, serve, w);
	peer_stream_end(w->client, (fail)(-EINTR, "somebody changed his mind"));
	w->client = NULL;
	pthread_join(w->thread, NULL);
	assert_int_equal(w->rc, -EINTR);
	assert_non_null(strstr(w->why, "changed his mind"));
}

static void test_wrong_answers(void **state)
{
	struct world *w = *state;
	struct frame f;

	assert_int_equal(peer_stream_send(w->server, FRAME_MIG_ROUND, FRAME_ANSWER, 99, "12345678",
					  8, NULL, 0),
			 0);
	assert_int_equal(peer_stream_flush(w->server), 0);
	assert_int_equal(
		peer_stream_call(w->client, FRAME_MIG_ROUND, "12345678", 8, NULL, 0, 20000, &f),
		-EBADMSG);
	assert_int_equal(peer_stream_ping(w->client), -EBADMSG);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_to_and_fro, setup, teardown),
		cmocka_unit_test_setup_teardown(test_silence, setup, teardown),
		cmocka_unit_test_setup_teardown(test_hung_up, setup, teardown),
		cmocka_unit_test_setup_teardown(test_cancelled, setup, teardown),
		cmocka_unit_test_setup_teardown(test_last_words, setup, teardown),
		cmocka_unit_test_setup_teardown(test_wrong_answers, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
