// SPDX-License-Identifier: Apache-2.0
/* agent_talk.c: sent, read and parsed with a bound on everything; tests/unit/test_agent_talk.c plays guests. */
#include "host/agent_talk.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/util.h"
#include "host/agent_words.h"

#define DELIMITER 0xff /* in no UTF-8: what a parser that is lost begins anew at */
#define CHUNK	  4096

struct agent_talk {
	int fd, stop_fd;
	char *line; /* read, and not yet taken */
	size_t n, room;
	size_t heard; /* in this call */
};

struct agent_talk *agent_talk_create(int fd, int stop_fd)
{
	struct agent_talk *t = xcalloc(1, sizeof(*t));

	t->fd = fd;
	t->stop_fd = stop_fd;
	return t;
}

void agent_talk_destroy(struct agent_talk *t)
{
	if (!t)
		return;
	close(t->fd);
	free(t->line);
	free(t);
}

/* Until the socket can do `events`. */
static int await(struct agent_talk *t, short events, uint64_t deadline_ns)
{
	struct pollfd p[2] = {{.fd = t->fd, .events = events},
			      {.fd = t->stop_fd, .events = POLLIN}};
	uint64_t now = clock_boot_ns(), ms;
	int n;

	if (now >= deadline_ns)
		return fail(-ETIMEDOUT, "the guest's agent does not answer");
	ms = DIV_ROUND_UP(deadline_ns - now, NS_PER_MS);
	n = poll(p, 2, (int)MIN(ms, 60000));
	if (n < 0 && errno != EINTR)
		return fail(-errno, "the guest's agent: poll: %s", strerror(errno));
	return n > 0 && p[1].revents ? fail(-ECANCELED, "the vm ends") : 0;
}

static int gone(void)
{
	return fail(-ECONNRESET, "the guest's agent went away");
}

static int send_all(struct agent_talk *t, const char *data, size_t n, uint64_t deadline_ns)
{
	while (n) {
		ssize_t w = send(t->fd, data, n, MSG_DONTWAIT | MSG_NOSIGNAL);
		int rc = 0;

		if (w > 0) {
			data += w;
			n -= (size_t)w;
		} else if (errno == EAGAIN) {
			rc = await(t, POLLOUT, deadline_ns);
		} else if (errno != EINTR) {
			rc = gone();
		}
		if (rc < 0)
			return rc;
	}
	return 0;
}

static int read_more(struct agent_talk *t, uint64_t deadline_ns)
{
	ssize_t n;
	int rc;

	if (t->heard > AGENT_HEARD_MAX)
		return fail(-EPROTO, "the guest's agent talks without end");
	if (t->n > AGENT_ANSWER_MAX)
		return fail(-EPROTO, "the guest's agent answers with more than %d bytes",
			    AGENT_ANSWER_MAX);
	if (t->room - t->n < CHUNK) {
		t->room = MAX(2 * t->room, (size_t)4 * CHUNK);
		t->line = xrealloc(t->line, t->room);
	}
	rc = await(t, POLLIN, deadline_ns);
	if (rc < 0)
		return rc;
	n = recv(t->fd, t->line + t->n, CHUNK, MSG_DONTWAIT);
	if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
		return gone();
	if (n > 0) {
		t->n += (size_t)n;
		t->heard += (size_t)n;
	}
	return 0;
}

static void drop(struct agent_talk *t, size_t n)
{
	t->n -= n;
	memmove(t->line, t->line + n, t->n);
}

/* Throws away all up to and with the delimiter. */
static int skip_to_delimiter(struct agent_talk *t, uint64_t deadline_ns)
{
	for (;;) {
		const char *at = t->n ? memchr(t->line, DELIMITER, t->n) : NULL;
		int rc;

		if (at) {
			drop(t, (size_t)(at - t->line) + 1);
			return 0;
		}
		t->n = 0;
		rc = read_more(t, deadline_ns);
		if (rc < 0)
			return rc;
	}
}

/* A line, without its end, is t->line[0..*n); to be dropped with one byte more. */
static int read_line(struct agent_talk *t, uint64_t deadline_ns, size_t *n)
{
	size_t looked = 0;

	for (;;) {
		const char *end = t->n > looked ? memchr(t->line + looked, '\n', t->n - looked)
						: NULL;
		int rc;

		if (end) {
			*n = (size_t)(end - t->line);
			return 0;
		}
		looked = t->n;
		rc = read_more(t, deadline_ns);
		if (rc < 0)
			return rc;
	}
}

/* A new reference; NULL: no JSON. */
static json_t *take_answer(struct agent_talk *t, size_t n)
{
	json_t *answer = json_loadb(t->line, n, JSON_DECODE_ANY, NULL);

	drop(t, n + 1);
	return answer;
}

static int say(struct agent_talk *t, const char *before, const char *command, json_t *arguments,
	       uint64_t deadline_ns)
{
	json_t *request = json_pack("{s:s}", "execute", command);
	cleanup_free char *text = NULL, *line = NULL;

	if (arguments)
		json_object_set_new(request, "arguments", arguments);
	text = json_dumps(request, JSON_COMPACT);
	json_decref(request);
	line = xasprintf("%s%s\n", before, text);
	t->heard = 0;
	return send_all(t, line, strlen(line), deadline_ns);
}

int agent_talk_sync(struct agent_talk *t, uint64_t deadline_ns)
{
	uint64_t id = 0;
	int rc;

	random_bytes(&id, sizeof(id));
	id &= INT32_MAX; /* some agents have no more */
	rc = say(t, "\xff", "guest-sync-delimited", json_pack("{s:I}", "id", (json_int_t)id),
		 deadline_ns);
	while (rc == 0) {
		json_t *answer, *number;
		bool is_it;
		size_t n;

		rc = skip_to_delimiter(t, deadline_ns);
		if (rc == 0)
			rc = read_line(t, deadline_ns, &n);
		if (rc < 0)
			break;
		/* A delimiter within: the true answer may begin behind it. */
		if (memchr(t->line, DELIMITER, n))
			continue;
		answer = take_answer(t, n);
		number = json_object_get(answer, "return");
		is_it = json_is_integer(number) && (uint64_t)json_integer_value(number) == id;
		json_decref(answer);
		if (is_it)
			return 0;
	}
	return rc;
}

/* Takes the reference `answer`. */
static int result_of(const char *command, json_t *answer, json_t **result)
{
	json_t *error = json_object_get(answer, "error"),
	       *value = json_object_get(answer, "return");
	char words[AGENT_TEXT_MAX + 1];
	int rc = 0;

	if (error) {
		agent_text(json_object_get(error, "desc"), words, sizeof(words));
		rc = fail(-EREMOTEIO, "the guest's agent refuses %s: %s", command, words);
	} else if (!value) {
		rc = fail(-EPROTO, "the guest's agent answers %s with what is no answer", command);
	} else if (result) {
		*result = json_incref(value);
	}
	json_decref(answer);
	return rc;
}

int agent_talk_call(struct agent_talk *t, const char *command, json_t *arguments,
		    uint64_t deadline_ns, json_t **result)
{
	size_t n;
	int rc = say(t, "", command, arguments, deadline_ns);

	if (rc == 0)
		rc = read_line(t, deadline_ns, &n);
	return rc < 0 ? rc : result_of(command, take_answer(t, n), result);
}
