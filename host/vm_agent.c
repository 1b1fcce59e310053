// SPDX-License-Identifier: Apache-2.0
/*
 * vm_agent.c: two locks: `call` is held while the agent is asked, by whichever thread does; `lock` for a moment,
 * over what is known of it.
 *
 * Thawing is insisted on four times over: by who froze; by the thread here when time is over; by the VMM when the
 * connection breaks (VMCTL_HELLO_THAWS); by the next daemon that talks to the agent, of this host or another.
 */
#include "host/vm_agent.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/util.h"
#include "host/agent_talk.h"
#include "host/agent_words.h"

#define SYNC_MS \
	2000 /* an agent that is there answers so soon; one on a busy host at the next try */
#define ASK_MS	    5000  /* what is asked for by the thread itself */
#define THAW_MS	    10000 /* writes wait for it, nothing is won by giving up early */
#define ABSENT_MS   3000  /* between looks for one */
#define REFRESH_MS  10000 /* between looks at one that answers */
#define SHUTDOWN_MS 1000  /* for a refusal: who obeys does not answer */

enum state { AGENT_UNKNOWN, AGENT_ABSENT, AGENT_RUNNING, AGENT_FROZEN };

static const char *const state_names[] = {
	[AGENT_UNKNOWN] = "unknown",
	[AGENT_ABSENT] = "absent",
	[AGENT_RUNNING] = "running",
	[AGENT_FROZEN] = "frozen",
};

struct vm_agent {
	const char *name;
	const struct vm_agent_ops *ops;
	void *arg;
	int wake_fd, stop_fd;
	pthread_t thread;
	bool runs; /* the supervisor's */

	pthread_mutex_t call; /* guards the next three; held for as long as a deadline */
	struct agent_talk *talk;
	bool told; /* in this conversation it was asked what does not change */
	bool over; /* the thread was ended: nothing new begins */

	pthread_mutex_t lock; /* guards what follows; within `call` */
	enum state state;
	uint64_t thaw_ms; /* FROZEN: when it is over */
	char os[AGENT_TEXT_MAX + 1];
	json_t *addresses, *interfaces;
};

struct vm_agent *vm_agent_create(const char *name, const struct vm_agent_ops *ops, void *arg)
{
	struct vm_agent *a = xcalloc(1, sizeof(*a));

	a->name = name;
	a->ops = ops;
	a->arg = arg;
	a->over = true;
	a->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	a->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	MUST(a->wake_fd >= 0 && a->stop_fd >= 0);
	pthread_mutex_init(&a->call, NULL);
	pthread_mutex_init(&a->lock, NULL);
	a->addresses = json_array();
	a->interfaces = json_array();
	return a;
}

void vm_agent_destroy(struct vm_agent *a)
{
	close(a->wake_fd);
	close(a->stop_fd);
	pthread_mutex_destroy(&a->call);
	pthread_mutex_destroy(&a->lock);
	json_decref(a->addresses);
	json_decref(a->interfaces);
	free(a);
}

/* --- what is known ------------------------------------------------------------------------------- */

static enum state state_of(struct vm_agent *a)
{
	enum state state;

	pthread_mutex_lock(&a->lock);
	state = a->state;
	pthread_mutex_unlock(&a->lock);
	return state;
}

static void set_state(struct vm_agent *a, enum state state)
{
	pthread_mutex_lock(&a->lock);
	if (state == AGENT_ABSENT) {
		a->os[0] = 0;
		json_array_clear(a->addresses);
		json_array_clear(a->interfaces);
	}
	a->state = state;
	pthread_mutex_unlock(&a->lock);
}

static void take_os(struct vm_agent *a, json_t *info)
{
	char os[AGENT_TEXT_MAX + 1];

	agent_os(info, os, sizeof(os));
	pthread_mutex_lock(&a->lock);
	memcpy(a->os, os, sizeof(os));
	pthread_mutex_unlock(&a->lock);
}

static void take_interfaces(struct vm_agent *a, json_t *list)
{
	json_t *all = json_array(), *interfaces = agent_interfaces(list, all);

	pthread_mutex_lock(&a->lock);
	json_decref(a->addresses);
	json_decref(a->interfaces);
	a->addresses = all;
	a->interfaces = interfaces;
	pthread_mutex_unlock(&a->lock);
}

void vm_agent_show(struct vm_agent *a, json_t *d)
{
	if (!a) {
		json_object_set_new(d, "agent", json_null());
		json_object_set_new(d, "addresses", json_array());
		return;
	}
	pthread_mutex_lock(&a->lock);
	json_object_set_new(d, "agent",
			    json_pack("{s:s, s:o, s:o}", "state", state_names[a->state], "os",
				      a->os[0] ? json_string(a->os) : json_null(), "interfaces",
				      json_deep_copy(a->interfaces)));
	json_object_set_new(d, "addresses", json_deep_copy(a->addresses));
	pthread_mutex_unlock(&a->lock);
}

/* --- talking: `call` is held --------------------------------------------------------------------- */

static uint64_t in_ms(unsigned ms)
{
	return clock_boot_ns() + ms * NS_PER_MS;
}

static void hang_up(struct vm_agent *a)
{
	agent_talk_destroy(a->talk);
	a->talk = NULL;
	a->told = false;
}

/* Whatever ends the conversation; the guest's refusal does not. */
static int judge(struct vm_agent *a, int rc)
{
	if (rc == 0 || rc == -EREMOTEIO)
		return rc;
	hang_up(a);
	set_state(a, AGENT_ABSENT);
	(void)eventfd_write(a->wake_fd, 1); /* it looks sooner than at one that answers */
	return rc;
}

/* A new connection in the place of the one there is, if any. */
static int connect_anew(struct vm_agent *a, bool thaws)
{
	struct agent_talk *talk;
	int fd = a->ops->connect(a->arg, thaws), rc;

	if (fd < 0)
		return judge(a, fd);
	talk = agent_talk_create(fd, a->stop_fd);
	/* That it answers says that the VMM has it in place of the old one, which may be closed only then. */
	rc = agent_talk_sync(talk, in_ms(SYNC_MS));
	hang_up(a);
	a->talk = talk;
	return judge(a, rc);
}

static int ask(struct vm_agent *a, const char *command, json_t *arguments, uint64_t deadline_ns,
	       json_t **result)
{
	return judge(a, agent_talk_call(a->talk, command, arguments, deadline_ns, result));
}

/* Nobody of this daemon has frozen anything. */
static int thaw_remains(struct vm_agent *a)
{
	json_t *status = NULL;
	int rc = ask(a, "guest-fsfreeze-status", NULL, in_ms(ASK_MS), &status);
	const char *said = json_string_value(status);

	if (rc == 0 && said && !strcmp(said, "frozen")) {
		a->ops->tell(a->arg,
			     "the guest's file systems were frozen by nobody who is left; they are "
			     "thawed");
		rc = ask(a, "guest-fsfreeze-thaw", NULL, in_ms(THAW_MS), NULL);
	}
	json_decref(status);
	return rc == -EREMOTEIO ? 0 : rc; /* it cannot freeze either */
}

/* It is there, listens, and its next answer is to the next request. */
static int reach(struct vm_agent *a)
{
	int rc;

	if (a->over)
		return fail(-ENOTCONN, "vm %s: the guest's agent cannot be reached", a->name);
	if (a->talk)
		return judge(a, agent_talk_sync(a->talk, in_ms(SYNC_MS)));
	rc = connect_anew(a, false);
	if (rc == 0)
		rc = thaw_remains(a);
	if (rc == 0)
		set_state(a, AGENT_RUNNING);
	return rc;
}

static int thaw(struct vm_agent *a)
{
	int rc = ask(a, "guest-fsfreeze-thaw", NULL, in_ms(THAW_MS), NULL);

	if (rc == -EREMOTEIO) {
		hang_up(a); /* the VMM tries again, and so do we */
		set_state(a, AGENT_ABSENT);
	}
	if (rc == 0) {
		set_state(a, AGENT_RUNNING);
		if (connect_anew(a, false) < 0)
			err_clear();
	}
	return rc;
}

/* --- the thread ---------------------------------------------------------------------------------- */

static void look(struct vm_agent *a)
{
	json_t *info = NULL, *interfaces = NULL;
	int rc = reach(a);

	if (rc == 0 && !a->told) {
		rc = ask(a, "guest-get-osinfo", NULL, in_ms(ASK_MS), &info);
		a->told = rc == 0 || rc == -EREMOTEIO;
		if (rc == 0)
			take_os(a, info);
	}
	if (rc == 0 || rc == -EREMOTEIO)
		rc = ask(a, "guest-network-get-interfaces", NULL, in_ms(ASK_MS), &interfaces);
	if (rc == 0)
		take_interfaces(a, interfaces);
	json_decref(info);
	json_decref(interfaces);
	err_clear();
}

/* When the thread is to look again. */
static int wait_ms(struct vm_agent *a)
{
	uint64_t now = clock_boot_ms(), thaw_ms;
	enum state state;

	pthread_mutex_lock(&a->lock);
	state = a->state;
	thaw_ms = a->thaw_ms;
	pthread_mutex_unlock(&a->lock);
	switch (state) {
	case AGENT_FROZEN:
		return thaw_ms > now ? (int)MIN(thaw_ms - now, (uint64_t)REFRESH_MS) : 0;
	case AGENT_RUNNING:
		return REFRESH_MS;
	case AGENT_UNKNOWN:
	case AGENT_ABSENT:
		break;
	}
	return ABSENT_MS;
}

/* True when frozen file systems were frozen for long enough. */
static bool time_is_over(struct vm_agent *a)
{
	bool over;

	pthread_mutex_lock(&a->lock);
	over = a->state == AGENT_FROZEN && clock_boot_ms() >= a->thaw_ms;
	pthread_mutex_unlock(&a->lock);
	return over;
}

static void turn(struct vm_agent *a)
{
	pthread_mutex_lock(&a->call);
	if (time_is_over(a)) {
		int rc = thaw(a);

		a->ops->tell(a->arg,
			     rc < 0 ? "the guest's file systems were frozen for too long, and its "
				      "agent does not thaw them; its channel is reset"
				    : "the guest's file systems were frozen for too long; thawed");
		err_clear();
	} else if (state_of(a) != AGENT_FROZEN && a->ops->runs(a->arg)) {
		look(a);
	}
	pthread_mutex_unlock(&a->call);
}

static void *agent_main(void *arg)
{
	struct vm_agent *a = arg;
	struct pollfd p[2] = {{.fd = a->wake_fd, .events = POLLIN},
			      {.fd = a->stop_fd, .events = POLLIN}};
	eventfd_t n;

	for (;;) {
		turn(a);
		(void)eventfd_read(a->wake_fd, &n); /* what it was for is in the state */
		(void)poll(p, 2, wait_ms(a));
		if (p[1].revents)
			return NULL;
	}
}

void vm_agent_start(struct vm_agent *a, bool possible, bool fresh)
{
	set_state(a, possible && !fresh ? AGENT_UNKNOWN : AGENT_ABSENT);
	if (!possible)
		return;
	pthread_mutex_lock(&a->call);
	a->over = false;
	pthread_mutex_unlock(&a->call);
	MUST(pthread_create(&a->thread, NULL, agent_main, a) == 0);
	pthread_setname_np(a->thread, "agent");
	a->runs = true;
}

void vm_agent_stop(struct vm_agent *a)
{
	if (!a->runs)
		return;
	(void)eventfd_write(a->stop_fd, 1);
	(void)pthread_join(a->thread, NULL);
	pthread_mutex_lock(&a->call);
	a->over = true;
	hang_up(a);
	set_state(a, AGENT_ABSENT);
	pthread_mutex_unlock(&a->call);
	a->runs = false;
}

/* --- for other threads --------------------------------------------------------------------------- */

/* With `call` held when it is 0; the agent is there, or was a moment ago. */
static int begin(struct vm_agent *a, unsigned timeout_ms)
{
	struct timespec until;
	int rc;

	if (state_of(a) == AGENT_ABSENT)
		return fail(-ENOTCONN, "vm %s: no agent answers in its guest", a->name);
	if (!a->ops->runs(a->arg))
		return fail(-ENOTCONN, "vm %s: the guest stands still, and its agent with it",
			    a->name);
	until = clock_in_ms(timeout_ms);
	rc = pthread_mutex_clocklock(&a->call, CLOCK_MONOTONIC, &until);
	if (rc)
		return fail(-ETIMEDOUT, "vm %s: the guest's agent is busy", a->name);
	if (state_of(a) != AGENT_ABSENT) /* it may have been found to be, meanwhile */
		return 0;
	pthread_mutex_unlock(&a->call);
	return fail(-ENOTCONN, "vm %s: no agent answers in its guest", a->name);
}

/* The same, its file systems not being frozen: then it answers next to nothing. */
static int begin_thawed(struct vm_agent *a, unsigned timeout_ms)
{
	int rc = begin(a, timeout_ms);

	if (rc == 0 && state_of(a) == AGENT_FROZEN)
		rc = fail(-EBUSY, "vm %s: its file systems are frozen at this moment", a->name);
	else if (rc == 0)
		rc = reach(a);
	else
		return rc;
	if (rc < 0)
		pthread_mutex_unlock(&a->call);
	return rc;
}

int vm_agent_shutdown(struct vm_agent *a, unsigned timeout_ms)
{
	uint64_t deadline_ns = in_ms(MIN(timeout_ms, SHUTDOWN_MS));
	int rc = begin_thawed(a, timeout_ms);

	if (rc < 0)
		return rc;
	deadline_ns = MAX(deadline_ns, in_ms(SHUTDOWN_MS));
	rc = agent_talk_call(a->talk, "guest-shutdown", json_pack("{s:s}", "mode", "powerdown"),
			     deadline_ns, NULL);
	/* Who obeys says nothing: the agent, or all of the guest, is gone before. */
	if (rc == -ETIMEDOUT || rc == -ECONNRESET || rc == -ECANCELED) {
		hang_up(a);
		err_clear();
		rc = 0;
	} else {
		rc = judge(a, rc);
	}
	pthread_mutex_unlock(&a->call);
	return rc;
}

int vm_agent_mounted(struct vm_agent *a, unsigned lun, char *where, size_t size,
		     unsigned timeout_ms)
{
	json_t *list = NULL;
	int rc = begin_thawed(a, timeout_ms);

	if (rc < 0)
		return rc;
	rc = ask(a, "guest-get-fsinfo", NULL, in_ms(timeout_ms), &list);
	pthread_mutex_unlock(&a->call);
	if (rc == 0)
		rc = agent_mounted(list, lun, where, size);
	json_decref(list);
	return rc;
}

int vm_agent_freeze(struct vm_agent *a, unsigned hold_ms, unsigned *count)
{
	uint64_t until_ns = in_ms(hold_ms);
	json_t *frozen = NULL;
	int rc = begin_thawed(a, hold_ms);

	if (rc < 0)
		return rc;
	rc = connect_anew(a, true);
	if (rc == 0) {
		rc = ask(a, "guest-fsfreeze-freeze", NULL, until_ns, &frozen);
		if (rc < 0)
			hang_up(a); /* it may do so late, or have done so in part: the VMM thaws */
	}
	if (rc == 0) {
		*count = (unsigned)MAX(json_integer_value(frozen), 0);
		pthread_mutex_lock(&a->lock);
		a->state = AGENT_FROZEN;
		a->thaw_ms = until_ns / NS_PER_MS;
		pthread_mutex_unlock(&a->lock);
		(void)eventfd_write(a->wake_fd, 1);
	}
	json_decref(frozen);
	pthread_mutex_unlock(&a->call);
	return rc;
}

int vm_agent_thaw(struct vm_agent *a)
{
	int rc = begin(a, THAW_MS);

	if (rc < 0)
		return rc == -ENOTCONN ? fail(-ETIMEDOUT,
					      "vm %s: its file systems were thawed before", a->name)
				       : rc;
	if (state_of(a) == AGENT_FROZEN)
		rc = thaw(a);
	else
		rc = fail(-ETIMEDOUT,
			  "vm %s: its file systems were frozen for too long, and thawed", a->name);
	pthread_mutex_unlock(&a->call);
	return rc;
}
