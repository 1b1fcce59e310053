// SPDX-License-Identifier: Apache-2.0
/* The daemon and a guest's agent: one that answers, and guests that do anything else. */
#include "base/err.h" /* before cmocka.h, which has a macro fail */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/util.h"
#include "host/agent_talk.h"
#include "host/agent_words.h"
#include "host/vm_agent.h"

#define WAIT_MS 30000 /* for what must come */

enum mode {
	ANSWERS,
	SILENT,
	GARBAGE,
	ONE_LINE,
	MANY_LINES,
	HUGE_ANSWER,
	DEEP,
	REFUSES,
	LEAVES,
	NO_ANSWER
};

/* A guest, with what is left of a VMM: who went away having frozen is thawed for. */
struct guest {
	pthread_mutex_t lock;
	_Atomic int mode;
	_Atomic bool runs, frozen;
	_Atomic unsigned thaws, connections, told, last_words;
	char before[256]; /* said as soon as somebody comes */
	unsigned links;
	struct link {
		struct guest *g;
		int fd;
		bool thaws;
		pthread_t thread;
	} link[64];
};

static const char osinfo[] = "{\"return\": {\"pretty-name\": \"Payload\\u0007 1\\n\"}}\n";
static const char interfaces[] =
	"{\"return\": [{\"name\": \"lo\", \"ip-addresses\": [{\"ip-address\": \"127.0.0.1\"}, "
	"{\"ip-address\": \"::1\"}]}, {\"name\": \"e\\u001bth0\", \"hardware-address\": "
	"\"52:54:00:00:00:01\", "
	"\"ip-addresses\": [{\"ip-address\": \"10.1.2.3\"}, {\"ip-address\": \"fe80::1\"}, "
	"{\"ip-address\": "
	"\"2001:DB8::0001\"}, {\"ip-address\": \"10.1.2.3; rm -rf\"}, {\"ip-address\": 7}, null, "
	"[]]}, 3]}\n";
static const char filesystems[] = "{\"return\": [{\"mountpoint\": \"/\", \"disk\": [{\"bus-type\": "
				  "\"virtio\", \"target\": 0, \"unit\": 2}]}, "
				  "{\"mountpoint\": \"/da\\u0001ta\"}, {\"mountpoint\": \"/data\", "
				  "\"disk\": [{\"bus-type\": \"scsi\", "
				  "\"target\": 0, \"unit\": 2}, {\"bus-type\": \"scsi\", "
				  "\"target\": 0, \"unit\": 16684}]}, 7]}\n";

static void say(int fd, const char *text, size_t n)
{
	while (n) {
		ssize_t w = send(fd, text, n, MSG_NOSIGNAL);

		if (w <= 0)
			return;
		text += w;
		n -= (size_t)w;
	}
}

static void say_text(int fd, const char *text)
{
	say(fd, text, strlen(text));
}

static void answer(struct guest *g, int fd, const char *request)
{
	const char *id = strstr(request, "\"id\":");

	if (strstr(request, "guest-sync-delimited")) {
		cleanup_free char *text = xasprintf("\xff{\"return\": %d}\n",
						    id ? atoi(id + 5) : 0);
		say_text(fd, text);
	} else if (strstr(request, "guest-get-osinfo")) {
		say_text(fd, osinfo);
	} else if (strstr(request, "guest-network")) {
		say_text(fd, interfaces);
	} else if (strstr(request, "guest-get-fsinfo")) {
		say_text(fd, filesystems);
	} else if (strstr(request, "fsfreeze-status")) {
		say_text(fd,
			 g->frozen ? "{\"return\": \"frozen\"}\n" : "{\"return\": \"thawed\"}\n");
	} else if (strstr(request, "fsfreeze-freeze")) {
		g->frozen = true;
		say_text(fd, "{\"return\": 3}\n");
	} else if (strstr(request, "fsfreeze-thaw")) {
		g->frozen = false;
		g->thaws++;
		say_text(fd, "{\"return\": 3}\n");
	} else if (!strstr(request, "guest-shutdown")) {
		say_text(fd, "{\"return\": {}}\n");
	}
}

/* `sync`: what is asked is a sync, which some modes answer. */
static void misbehave(struct guest *g, int fd, const char *request)
{
	bool sync = strstr(request, "guest-sync");
	char *big;

	switch ((enum mode)g->mode) {
	case ANSWERS:
		answer(g, fd, request);
		break;
	case NO_ANSWER:
		if (strstr(request, "freeze-freeze"))
			g->frozen = true;
		else if (!strstr(request, "thaw"))
			answer(g, fd, request);
		break;
	case SILENT:
		break;
	case LEAVES:
		shutdown(fd, SHUT_RDWR);
		break;
	case GARBAGE:
		say(fd, "\xff\xff}{\n\xff\n\0\n\xff[1]\n{\"return\"\n", 24);
		break;
	case REFUSES:
		if (sync)
			answer(g, fd, request);
		else
			say_text(fd,
				 "{\"error\": {\"class\": \"X\", \"desc\": \"never\\nheard\"}}\n");
		break;
	case ONE_LINE:
	case HUGE_ANSWER:
		if (sync && g->mode == HUGE_ANSWER) {
			answer(g, fd, request);
			break;
		}
		big = xcalloc(1, AGENT_HEARD_MAX * 2);
		memset(big, 'x', AGENT_HEARD_MAX * 2);
		say(fd, big, AGENT_HEARD_MAX * 2);
		free(big);
		break;
	case MANY_LINES:
		big = xcalloc(1, AGENT_HEARD_MAX * 2);
		for (size_t i = 0; i < AGENT_HEARD_MAX; i++)
			memcpy(big + 2 * i, "\xff\n", 2);
		say(fd, big, AGENT_HEARD_MAX * 2);
		free(big);
		break;
	case DEEP:
		if (sync) {
			answer(g, fd, request);
			break;
		}
		big = xcalloc(1, 500001);
		memset(big, '[', 500000);
		big[500000] = '\n';
		say(fd, big, 500001);
		free(big);
		break;
	}
}

static void *link_main(void *arg)
{
	struct link *l = arg;
	char line[4096];
	size_t n = 0;

	say_text(l->fd, l->g->before);
	while (recv(l->fd, line + n, 1, 0) == 1) {
		if (line[n] == '\xff')
			n = 0;
		else if (line[n] != '\n')
			n = MIN(n + 1, sizeof(line) - 2);
		else {
			line[n + 1] = 0;
			misbehave(l->g, l->fd, line);
			n = 0;
		}
	}
	pthread_mutex_lock(&l->g->lock);
	if (l->thaws) { /* as hv/agent.c does */
		l->g->frozen = false;
		l->g->last_words++;
	}
	pthread_mutex_unlock(&l->g->lock);
	return NULL;
}

static int guest_connect(void *arg, bool thaws)
{
	struct guest *g = arg;
	struct link *l;
	int s[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s), 0);
	pthread_mutex_lock(&g->lock);
	assert_true(g->links < ARRAY_SIZE(g->link));
	if (g->links) /* replaced: who comes sees to it */
		g->link[g->links - 1].thaws = false;
	l = &g->link[g->links++];
	pthread_mutex_unlock(&g->lock);
	*l = (struct link){.g = g, .fd = s[1], .thaws = thaws};
	g->connections++;
	assert_int_equal(pthread_create(&l->thread, NULL, link_main, l), 0);
	return s[0];
}

static bool guest_runs(void *arg)
{
	return ((struct guest *)arg)->runs;
}

static void guest_tell(void *arg, const char *text)
{
	(void)text;
	((struct guest *)arg)->told++;
}

static const struct vm_agent_ops ops = {
	.connect = guest_connect, .runs = guest_runs, .tell = guest_tell};

static struct guest *guest_new(enum mode mode)
{
	struct guest *g = xcalloc(1, sizeof(*g));

	pthread_mutex_init(&g->lock, NULL);
	g->mode = mode;
	g->runs = true;
	return g;
}

static void guest_free(struct guest *g)
{
	for (unsigned i = 0; i < g->links; i++) {
		pthread_join(g->link[i].thread, NULL);
		close(g->link[i].fd);
	}
	pthread_mutex_destroy(&g->lock);
	free(g);
}

/* --- words ----------------------------------------------------------------------------------------- */

static uint64_t soon(unsigned ms)
{
	return clock_boot_ns() + ms * NS_PER_MS;
}

static void answers_come_to_their_requests(void **state)
{
	struct guest *g = guest_new(ANSWERS);
	int stop = eventfd(0, 0);
	struct agent_talk *t;
	json_t *result = NULL;

	(void)state;
	/* What a predecessor had asked, answers to it, half an answer, another's sync. */
	memcpy(g->before, "{\"return\": 7}\n\xff{\"return\": 1}\n{\"ret\xff\xff{\"return\": {}}\n{",
	       52);
	t = agent_talk_create(guest_connect(g, false), stop);
	assert_int_equal(agent_talk_sync(t, soon(WAIT_MS)), 0);
	assert_int_equal(agent_talk_call(t, "guest-ping", NULL, soon(WAIT_MS), &result), 0);
	assert_true(json_is_object(result));
	json_decref(result);
	result = NULL;
	g->mode = REFUSES;
	assert_int_equal(agent_talk_call(t, "guest-ping", NULL, soon(WAIT_MS), &result),
			 -EREMOTEIO);
	assert_non_null(strstr(err_message(-EREMOTEIO), "never?heard"));
	assert_null(result);
	g->mode = SILENT;
	assert_int_equal(agent_talk_call(t, "guest-ping", NULL, soon(50), &result), -ETIMEDOUT);
	assert_int_equal(eventfd_write(stop, 1), 0);
	assert_int_equal(agent_talk_call(t, "guest-ping", NULL, soon(WAIT_MS), &result),
			 -ECANCELED);
	agent_talk_destroy(t);
	guest_free(g);
	close(stop);
}

static void nonsense_ends_the_conversation(void **state)
{
	static const struct {
		enum mode mode;
		int sync, call;
	} cases[] = {
		{SILENT, -ETIMEDOUT, 0}, {LEAVES, -ECONNRESET, 0}, {GARBAGE, -ETIMEDOUT, 0},
		{ONE_LINE, -EPROTO, 0},	 {MANY_LINES, -EPROTO, 0}, {HUGE_ANSWER, 0, -EPROTO},
		{DEEP, 0, -EPROTO},
	};
	int stop = eventfd(0, 0);

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct guest *g = guest_new(cases[i].mode);
		struct agent_talk *t = agent_talk_create(guest_connect(g, false), stop);
		unsigned ms = cases[i].sync == -ETIMEDOUT ? 200 : WAIT_MS;

		assert_int_equal(agent_talk_sync(t, soon(ms)), cases[i].sync);
		if (!cases[i].sync)
			assert_int_equal(agent_talk_call(t, "guest-ping", NULL, soon(ms), NULL),
					 cases[i].call);
		agent_talk_destroy(t);
		guest_free(g);
	}
	close(stop);
}

static void texts_are_for_people(void **state)
{
	char text[8];
	json_t *s = json_string("a\n\x1b\xc3\xa4\xc3\xa4\xc3\xa4");

	(void)state;
	agent_text(s, text, sizeof(text));
	assert_string_equal(text, "a??\xc3\xa4\xc3\xa4"); /* no half character */
	agent_text(NULL, text, sizeof(text));
	assert_string_equal(text, "");
	json_decref(s);
}

/* --- an agent -------------------------------------------------------------------------------------- */

static bool has_state(struct vm_agent *a, const char *want)
{
	json_t *d = json_object();
	bool is;

	vm_agent_show(a, d);
	is = !strcmp(json_string_value(json_object_get(json_object_get(d, "agent"), "state")),
		     want);
	json_decref(d);
	return is;
}

#define UNTIL(what)                                             \
	do {                                                    \
		uint64_t end_ms_ = clock_boot_ms() + WAIT_MS;   \
		while (!(what)) {                               \
			assert_true(clock_boot_ms() < end_ms_); \
			sleep_ms(5);                            \
		}                                               \
	} while (0)

static struct vm_agent *begin(struct guest *g, const char *want)
{
	struct vm_agent *a = vm_agent_create("test", &ops, g);

	vm_agent_start(a, true, false);
	UNTIL(has_state(a, want));
	return a;
}

static void end(struct vm_agent *a, struct guest *g)
{
	vm_agent_stop(a);
	vm_agent_destroy(a);
	guest_free(g);
}

static bool knows_addresses(struct vm_agent *a)
{
	json_t *d = json_object();
	bool is;

	vm_agent_show(a, d);
	is = json_array_size(json_object_get(d, "addresses")) != 0;
	json_decref(d);
	return is;
}

static void what_it_tells_is_shown(void **state)
{
	struct guest *g = guest_new(ANSWERS);
	struct vm_agent *a = begin(g, "running");
	json_t *d = json_object(), *want;

	(void)state;
	UNTIL(knows_addresses(a));
	vm_agent_show(a, d);
	want = json_pack("{s:{s:s, s:s, s:[{s:s, s:s, s:[s, s]}, {s:s, s:s, s:[s, s, s]}, {s:s, "
			 "s:s, s:[]}]}, "
			 "s:[s, s]}",
			 "agent", "state", "running", "os", "Payload? 1?", "interfaces", "name",
			 "lo", "mac", "", "addresses", "127.0.0.1", "::1", "name", "e?th0", "mac",
			 "52:54:00:00:00:01", "addresses", "10.1.2.3", "fe80::1", "2001:db8::1",
			 "name", "", "mac", "", "addresses", "addresses", "10.1.2.3",
			 "2001:db8::1");
	assert_non_null(want);
	assert_true(json_equal(d, want));
	json_decref(want);
	json_decref(d);
	assert_int_equal(g->told, 0);
	end(a, g);
}

static void an_agent_that_is_not_there_costs_nothing(void **state)
{
	struct guest *g = guest_new(SILENT);
	struct vm_agent *a = begin(g, "absent");
	char where[32];
	unsigned n;

	(void)state;
	assert_int_equal(vm_agent_shutdown(a, WAIT_MS), -ENOTCONN);
	assert_int_equal(vm_agent_mounted(a, 2, where, sizeof(where), WAIT_MS), -ENOTCONN);
	assert_int_equal(vm_agent_freeze(a, WAIT_MS, &n), -ENOTCONN);
	g->mode = ANSWERS; /* it comes later */
	UNTIL(has_state(a, "running"));
	g->mode = ONE_LINE;
	assert_int_equal(vm_agent_mounted(a, 2, where, sizeof(where), WAIT_MS), -EPROTO);
	assert_true(has_state(a, "absent"));
	assert_false(knows_addresses(a));
	end(a, g);
}

static void it_says_what_is_mounted(void **state)
{
	struct guest *g = guest_new(ANSWERS);
	struct vm_agent *a = begin(g, "running");
	char where[32] = "";

	(void)state;
	assert_int_equal(vm_agent_mounted(a, 0, where, sizeof(where), WAIT_MS), 0);
	assert_int_equal(vm_agent_mounted(a, 2, where, sizeof(where), WAIT_MS), 1);
	assert_string_equal(where, "/data");
	assert_int_equal(vm_agent_mounted(a, 300, where, sizeof(where), WAIT_MS), 1);
	g->runs = false;
	assert_int_equal(vm_agent_mounted(a, 2, where, sizeof(where), WAIT_MS), -ENOTCONN);
	g->runs = true;
	g->mode = REFUSES;
	assert_int_equal(vm_agent_mounted(a, 2, where, sizeof(where), WAIT_MS), -EREMOTEIO);
	end(a, g);
}

static void it_shuts_down_without_a_word(void **state)
{
	struct guest *g = guest_new(ANSWERS);
	struct vm_agent *a = begin(g, "running");

	(void)state;
	assert_int_equal(vm_agent_shutdown(a, WAIT_MS), 0);
	g->mode = REFUSES;
	assert_int_equal(vm_agent_shutdown(a, WAIT_MS), -EREMOTEIO);
	end(a, g);
}

/* --- freezing -------------------------------------------------------------------------------------- */

static void it_freezes_and_thaws(void **state)
{
	struct guest *g = guest_new(ANSWERS);
	struct vm_agent *a = begin(g, "running");
	char where[32];
	unsigned n = 0;

	(void)state;
	for (int i = 0; i < 3; i++) {
		assert_int_equal(vm_agent_freeze(a, WAIT_MS, &n), 0);
		assert_int_equal(n, 3);
		assert_true(g->frozen && has_state(a, "frozen"));
		assert_int_equal(vm_agent_freeze(a, WAIT_MS, &n), -EBUSY);
		assert_int_equal(vm_agent_mounted(a, 2, where, sizeof(where), WAIT_MS), -EBUSY);
		assert_int_equal(vm_agent_thaw(a), 0);
		assert_true(!g->frozen && has_state(a, "running"));
	}
	assert_int_equal(vm_agent_thaw(a), -ETIMEDOUT);
	assert_int_equal(g->thaws, 3);
	end(a, g);
}

static void time_thaws(void **state)
{
	struct guest *g = guest_new(ANSWERS);
	struct vm_agent *a = begin(g, "running");
	unsigned n;

	(void)state;
	assert_int_equal(vm_agent_freeze(a, 2000, &n), 0);
	UNTIL(!g->frozen);
	UNTIL(has_state(a, "running"));
	assert_int_equal(vm_agent_thaw(a), -ETIMEDOUT);
	assert_int_equal(g->told, 1);
	end(a, g);
}

static void who_ends_leaves_nothing_frozen(void **state)
{
	struct guest *g = guest_new(ANSWERS);
	struct vm_agent *a = begin(g, "running");
	unsigned n;

	(void)state;
	assert_int_equal(vm_agent_freeze(a, 600000, &n), 0);
	assert_int_equal(g->last_words, 0);
	vm_agent_stop(a);
	UNTIL(!g->frozen);
	assert_int_equal(g->last_words, 1);
	vm_agent_destroy(a);
	g->frozen = true; /* as by one that died, where the VMM died, too: the next one looks */
	a = begin(g, "running");
	UNTIL(!g->frozen);
	assert_int_equal(g->told, 1);
	end(a, g);
}

static void a_freeze_that_fails_is_thawed(void **state)
{
	struct guest *g = guest_new(ANSWERS);
	struct vm_agent *a = begin(g, "running");
	unsigned n;

	(void)state;
	g->mode = NO_ANSWER; /* it freezes, and never says so */
	assert_int_equal(vm_agent_freeze(a, 1000, &n), -ETIMEDOUT);
	UNTIL(!g->frozen);
	g->mode = ANSWERS;
	UNTIL(has_state(a, "running"));
	g->mode = REFUSES;
	assert_int_equal(vm_agent_freeze(a, WAIT_MS, &n), -EREMOTEIO);
	assert_false(g->frozen);
	g->mode = ANSWERS;
	assert_int_equal(vm_agent_freeze(a, WAIT_MS, &n), 0);
	g->mode = LEAVES;
	assert_true(vm_agent_thaw(a) < 0);
	g->mode = ANSWERS;
	UNTIL(!g->frozen);
	end(a, g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(answers_come_to_their_requests),
		cmocka_unit_test(nonsense_ends_the_conversation),
		cmocka_unit_test(texts_are_for_people),
		cmocka_unit_test(what_it_tells_is_shown),
		cmocka_unit_test(an_agent_that_is_not_there_costs_nothing),
		cmocka_unit_test(it_says_what_is_mounted),
		cmocka_unit_test(it_shuts_down_without_a_word),
		cmocka_unit_test(it_freezes_and_thaws),
		cmocka_unit_test(time_thaws),
		cmocka_unit_test(who_ends_leaves_nothing_frozen),
		cmocka_unit_test(a_freeze_that_fails_is_thawed),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
