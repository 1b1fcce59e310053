// SPDX-License-Identifier: Apache-2.0
/* balancer.c: looks, moves targets, saves and brings back. VMs are used while they are worked on. */
#include "host/balancer.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <jansson.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/util.h"
#include "host/admission.h"
#include "host/balance.h"
#include "host/daemon.h"
#include "host/db.h"
#include "host/event.h"
#include "host/vm_run.h"
#include "host/vm_saved.h"
#include "host/vm_sweep.h"
#include "host/volume.h"

#define LOOK_MS	    2000
#define DRILL_MS    200	  /* the same, where a test says what memory there is */
#define SWEEP_MS    1000  /* of a look, for pages of zeroes; the next look goes on */
#define ROUNDS	    4	  /* standstills of a VM for its pages of zeroes, in a look */
#define RUN_MS	    100	  /* it runs at least, between two of them */
#define REST_MS	    60000 /* one whose memory was looked at to its end is left alone */
#define AGAIN_MS    4000 /* one that could not be held still; twice that the next time, and so on */
#define AGAIN_TWICE 4	 /* ... so often */
#define VMS_MAX	    512
#define UNSAVED_MS \
	300000		 /* one that could not be saved is left out for so long: others are tried */
#define ASKED_MS   20000 /* a guest gives what it was asked for within that, or it counts no more */
#define LAST_PART  4	 /* of `low`: below that memory all but runs out */
#define LAST_LOOKS 5	 /* so often in a row, and nobody can give: the last resort */
#define BACK_LOOKS 5	 /* room for one that was saved, so often in a row */
#define BACK_AGAIN \
	5 /* looks, then one that could not be restored is tried again; twice that then */
#define BACK_TWICE 5 /* ... so often: then each five minutes or so */

struct host_balancer {
	struct host *host;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool stop; /* guarded by lock */

	/* The thread's. */
	bool lacks;
	unsigned hopeless, room; /* looks in a row */
	json_t *later; /* saved ones that could not be restored: object to {"at" BOOTTIME ns, "tries", "why"} */
	struct host_vm *vm[VMS_MAX];
	struct balance_vm b[VMS_MAX];
	unsigned n;
	unsigned swept; /* one of the VMs: it comes first in the next sweep */
};

/* --- the VMs that are here -------------------------------------------------------------------------- */

static void use_all(struct host_balancer *m)
{
	struct host_vms *all = m->host->vms;
	struct host_vm *vm;

	m->n = 0;
	pthread_mutex_lock(&all->lock);
	list_for_each (vm, &all->list, link) {
		if (!vm_is_here(vm) || m->n == VMS_MAX)
			continue;
		vm->uses++;
		m->vm[m->n++] = vm;
	}
	pthread_mutex_unlock(&all->lock);
}

static void put_all(struct host_balancer *m)
{
	for (unsigned i = 0; i < m->n; i++)
		vm_put(m->vm[i]);
	m->n = 0;
}

static void measure(struct host_vm *vm, struct balance_vm *b)
{
	uint64_t now = clock_boot_ns(), target = vm_memory_target(vm);

	pthread_mutex_lock(&vm->lock);
	*b = (struct balance_vm){
		.memory = vm->def.share.memory,
		.reserved = vm_share_reserved(&vm->def.share),
		.target = target,
		.used = vm->usage.memory,
		.shares = MAX(vm->def.share.memory_shares, 1u),
		.obeys = vm->usage.balloon_ns && vm->usage.balloon.ready &&
			 vm->phase == VM_RUNNING && !vm->move,
		.asked = vm->asked_ns && now - vm->asked_ns < ASKED_MS * NS_PER_MS,
		.stays = vm->move || atomic_load(&vm->incomplete) ||
			 (vm->unsaved_ns && now - vm->unsaved_ns < UNSAVED_MS * NS_PER_MS),
	};
	pthread_mutex_unlock(&vm->lock);
}

static void give_target(struct host_vm *vm, const struct balance_vm *b)
{
	if (b->want == b->target)
		return;
	pthread_mutex_lock(&vm->lock);
	/* All that it is to have: no target of ours any more. */
	vm->balance_target = b->want >= b->memory ? 0 : b->want;
	if (b->want < b->target)
		vm->asked_ns = clock_boot_ns();
	pthread_mutex_unlock(&vm->lock);
	vm_wake(vm);
}

/* --- which VM it is that was saved for want of memory -------------------------------------------------- */

struct parked {
	struct host_balancer *m;
	char object[200]; /* the smallest of them; "": none */
	char state[VM_STATE_TEXT];
	uint64_t memory;
};

static int volume_of(struct host_balancer *m, const char *object, struct host_volume **out)
{
	char name[64];

	if (str_format(name, sizeof(name), "%.*s", (int)strcspn(object, ":"), object) < 0)
		return -ENOENT;
	return host_volume_get(m->host->volumes, name, out);
}

/* *gone: somebody else started it, threw it away, or saved it anew, and did so on purpose. */
static bool still_saved(struct host_balancer *m, const struct parked *p, bool *gone)
{
	const char *colon = strchr(p->object, ':');
	cleanup_free char *path = vm_path(colon ? colon + 1 : "", "vm");
	struct host_volume *volume;
	struct cfs_vm_where where;
	char text[VM_STATE_TEXT];
	int rc = volume_of(m, p->object, &volume);
	bool saved;

	if (rc < 0)
		return false;
	rc = cfs_vm_where(host_volume_fs(volume), path, &where);
	host_volume_put(volume);
	saved = rc == 0 && where.state == CFS_VM_SAVED;
	if (saved) {
		vm_saved_text(&where.saved, text);
		saved = !strcmp(text, p->state);
	}
	*gone = !saved && (rc == 0 || rc == -ENOENT);
	return saved;
}

/* --- pages of zeroes ----------------------------------------------------------------------------------- */

/* What it has beyond its reservation. */
static uint64_t beyond(const struct balance_vm *b)
{
	return b->reserved < b->memory && b->used > b->reserved ? b->used - b->reserved : 0;
}

static bool can_be_swept(struct host_vm *vm, const struct balance_vm *b)
{
	uint64_t now = clock_boot_ns();
	bool can;

	pthread_mutex_lock(&vm->lock);
	can = vm->phase == VM_RUNNING && !vm->changing && !vm->closing && !vm->def.nested &&
	      !atomic_load(&vm->incomplete) && beyond(b) >= VM_SWEEP_WORTH &&
	      now >= vm->sweep.rests_ns;
	pthread_mutex_unlock(&vm->lock);
	return can;
}

static void sweep_ended(struct host_balancer *m, struct host_vm *vm)
{
	char object[200];

	if (vm->sweep.punched)
		host_event(m->host->events, "memory", vm_object(vm, object),
			   "%llu MiB that held nothing but zeroes are the host's again",
			   (unsigned long long)(vm->sweep.punched / MiB));
	vm->sweep = (struct vm_sweep){.rests_ns = clock_boot_ns() + REST_MS * NS_PER_MS};
}

/* True: there is more to look at, soon. */
static bool sweep_one(struct host_balancer *m, struct host_vm *vm, const struct balance_vm *b)
{
	int rc = vm_sweep(vm, b->reserved);

	if (rc < 0) {
		vm->sweep.rests_ns = clock_boot_ns() + (AGAIN_MS * NS_PER_MS << vm->sweep.failed);
		vm->sweep.failed = MIN(vm->sweep.failed + 1, AGAIN_TWICE);
		log_info("balance", "vm %s: its pages of zeroes stay for now: %s", vm->name,
			 err_message(rc));
		return false;
	}
	vm->sweep.failed = 0;
	if (rc == 0)
		sweep_ended(m, vm);
	return rc > 0;
}

static bool lacks_memory(struct host_balancer *m, struct balance_host *h)
{
	uint64_t total;

	(void)host_memory_info(m->host, &total, &h->available);
	return h->available < h->low;
}

/*
 * What costs the guests least, as long as the host lacks memory: h->available is what there is afterwards. Bounded: what
 * else can be done must not come too late.
 */
static void sweep(struct host_balancer *m, struct balance_host *h)
{
	uint64_t until = clock_boot_ns() + SWEEP_MS * NS_PER_MS;
	bool more = h->available < h->low;

	for (unsigned round = 0; more && round < ROUNDS; round++) {
		if (round)
			sleep_ms(RUN_MS);
		more = false;
		for (unsigned i = 0, first = m->swept; i < m->n; i++) {
			unsigned at = (first + i) % m->n;

			if (!can_be_swept(m->vm[at], &m->b[at]))
				continue;
			if (clock_boot_ns() >= until || atomic_load(&m->host->ending) ||
			    !lacks_memory(m, h))
				return;
			m->swept = at + 1;
			more |= sweep_one(m, m->vm[at], &m->b[at]);
		}
	}
	(void)lacks_memory(m, h);
}

/* --- the last resort --------------------------------------------------------------------------------- */

/*
 * This very state is what comes back: one that somebody saves later, here or elsewhere, is none of ours. Right before
 * the lock names it, so that a daemon that dies then has it remembered; a record whose state no lock names is nothing.
 */
static void remember(void *arg, const struct cfs_saved *state)
{
	struct parked *p = arg;
	json_t *value;
	int rc;

	vm_saved_text(state, p->state);
	value = json_pack("{s:I, s:s}", "memory", (json_int_t)p->memory, "state", p->state);
	rc = host_db_put(p->m->host->db, HOST_PARKED, p->object, value);
	json_decref(value);
	if (rc < 0)
		log_warn("balance", "vm %s: not remembered, start it by hand: %s", p->object,
			 err_message(rc));
}

static void save_one(struct host_balancer *m, struct host_vm *vm, uint64_t used)
{
	struct parked p = {.m = m, .memory = used};
	uint64_t bytes = 0;
	bool gone = false;
	int rc;

	vm_tell(vm,
		"the host is about to run out of memory, and this VM has the least shares of it: "
		"it is being saved to its volume");
	(void)vm_object(vm, p.object);
	rc = vm_save_it(vm, NULL, remember, &p, &bytes);
	if (rc == 0) {
		json_object_del(m->later, p.object);
		vm_tell(vm, "saved, since the host lacks memory; it comes back by itself");
		return;
	}
	host_event(m->host->events, "vm", p.object, "not saved: %s", err_message(rc));
	pthread_mutex_lock(&vm->lock);
	vm->unsaved_ns = clock_boot_ns(); /* the next one, next time */
	pthread_mutex_unlock(&vm->lock);
	if (p.state[0] && !still_saved(m, &p, &gone) && gone)
		(void)host_db_put(m->host->db, HOST_PARKED, p.object, NULL);
	err_clear();
}

static void last_resort(struct host_balancer *m, const struct balance_host *h, uint64_t missing)
{
	int least;

	m->hopeless = missing && h->available < h->low / LAST_PART ? m->hopeless + 1 : 0;
	if (m->hopeless < LAST_LOOKS)
		return;
	m->hopeless = 0;
	least = balance_last_resort(m->b, m->n);
	if (least >= 0)
		save_one(m, m->vm[least], m->b[least].used);
}

/* --- and back ----------------------------------------------------------------------------------------- */

/* Of those whose volumes are mounted, and whose time it is. */
static void find_smallest(void *arg, const char *key, uint64_t number, json_t *value)
{
	struct parked *p = arg;
	uint64_t memory = (uint64_t)json_integer_value(json_object_get(value, "memory"));
	json_t *later = json_object_get(p->m->later, key);
	const char *state = json_string_value(json_object_get(value, "state"));
	struct host_volume *volume;

	(void)number;
	if (later && clock_boot_ns() < (uint64_t)json_integer_value(json_object_get(later, "at")))
		return;
	if ((p->object[0] && p->memory <= memory) || volume_of(p->m, key, &volume) < 0) {
		err_clear();
		return;
	}
	host_volume_put(volume);
	if (str_format(p->object, sizeof(p->object), "%s", key) < 0 ||
	    str_format(p->state, sizeof(p->state), "%s", state ? state : "") < 0)
		p->object[0] = 0;
	else
		p->memory = memory;
}

static unsigned look_ms(const struct host_balancer *m)
{
	return host_memory_is_drill(m->host) ? DRILL_MS : LOOK_MS;
}

/* It stays saved; whatever was in the way may go. The same reason is not told again and again. */
static void try_later(struct host_balancer *m, const struct parked *p, const char *why)
{
	json_t *before = json_object_get(m->later, p->object);
	const char *said = json_string_value(json_object_get(before, "why"));
	json_int_t tries = json_integer_value(json_object_get(before, "tries"));
	uint64_t wait_ms = (uint64_t)look_ms(m) * BACK_AGAIN << MIN(tries, BACK_TWICE);

	if (!said || strcmp(said, why))
		host_event(m->host->events, "vm", p->object,
			   "not started again yet, that is tried again: %s", why);
	json_object_set_new(m->later, p->object,
			    json_pack("{s:I, s:I, s:s}", "at",
				      (json_int_t)(clock_boot_ns() + wait_ms * NS_PER_MS), "tries",
				      tries + 1, "why", why));
}

/* Nothing comes back by itself any more. */
static void forget(struct host_balancer *m, const struct parked *p)
{
	json_object_del(m->later, p->object);
	(void)host_db_put(m->host->db, HOST_PARKED, p->object, NULL);
}

/* What was looked at may have changed since: the state is named again. */
static int restore(struct host_balancer *m, const struct parked *p)
{
	json_t *args = json_pack("{s:s, s:s}", "name", p->object, "state", p->state);
	json_t *result = NULL;
	int rc = host_call_local(m->host, "vm", "restore", args, NULL, NULL, &result);

	json_decref(result);
	json_decref(args);
	return rc;
}

/*
 * It is forgotten when it is back, when its state is for sure nobody's to go on with any more, or is damaged: somebody
 * has to look after it then. All else may be over the next time.
 */
static void bring_back(struct host_balancer *m, const struct parked *p)
{
	bool gone = false, damaged;
	struct err_info why = {0};
	int rc = -EAGAIN;

	if (still_saved(m, p, &gone)) {
		rc = restore(m, p);
		err_save(&why, rc);
		if (rc < 0)
			(void)still_saved(m, p, &gone);
	} else if (!gone) {
		err_save(&why, fail(-EIO, "it is not known whether it is saved still"));
	}
	damaged = rc == -EUCLEAN;
	if (atomic_load(&m->host->ending)) /* the next daemon's */
		return;
	if (rc == 0)
		host_event(m->host->events, "vm", p->object,
			   "the host has memory again: it goes on where it was saved");
	else if (gone && !why.err)
		host_event(
			m->host->events, "vm", p->object,
			"does not come back by itself: it was started, saved anew or thrown away "
			"meanwhile");
	else if (gone || damaged)
		host_event(m->host->events, "vm", p->object, "does not come back by itself: %s",
			   why.message);
	if (rc == 0 || gone || damaged)
		forget(m, p);
	else
		try_later(m, p, why.message);
	err_clear();
}

static void look_for_room(struct host_balancer *m, const struct balance_host *h)
{
	struct parked p = {.m = m};

	if (h->available > h->high && !m->host->maintenance)
		(void)host_db_each(m->host->db, HOST_PARKED, find_smallest, &p);
	m->room = p.object[0] && h->available - h->high >= p.memory ? m->room + 1 : 0;
	if (m->room < BACK_LOOKS)
		return;
	m->room = 0;
	bring_back(m, &p);
}

/* --- looks -------------------------------------------------------------------------------------------- */

static void tell(struct host_balancer *m, const struct balance_host *h)
{
	bool lacks = h->available<h->low, back = h->available> h->high;
	uint64_t asked = 0;
	unsigned of = 0;

	for (unsigned i = 0; i < m->n; i++) {
		if (m->b[i].want >= m->b[i].target)
			continue;
		asked += m->b[i].target - m->b[i].want;
		of++;
	}
	if (lacks && !m->lacks)
		host_event(m->host->events, "memory", m->host->name,
			   "%llu MiB are available, fewer than %llu: %u VMs are asked for %llu MiB",
			   (unsigned long long)(h->available / MiB),
			   (unsigned long long)(h->low / MiB), of,
			   (unsigned long long)(asked / MiB));
	if (back && m->lacks)
		host_event(m->host->events, "memory", m->host->name,
			   "%llu MiB are available again: VMs get back what they gave",
			   (unsigned long long)(h->available / MiB));
	if (lacks || back)
		m->lacks = lacks;
}

static void look(struct host_balancer *m)
{
	struct balance_host h;
	uint64_t total, missing;

	if (host_memory_info(m->host, &total, &h.available) < 0)
		return;
	balance_marks(total, &h);
	use_all(m);
	for (unsigned i = 0; i < m->n; i++)
		measure(m->vm[i], &m->b[i]);
	missing = balance(&h, m->b, m->n);
	for (unsigned i = 0; i < m->n; i++)
		give_target(m->vm[i], &m->b[i]);
	tell(m, &h);
	sweep(m, &h);
	last_resort(m, &h, missing);
	put_all(m);
	look_for_room(m, &h);
}

/* False: it is to end. */
static bool wait_a_look(struct host_balancer *m)
{
	struct timespec until;
	bool stop;

	until = clock_in_ms(look_ms(m));
	pthread_mutex_lock(&m->lock);
	while (!m->stop && pthread_cond_timedwait(&m->changed, &m->lock, &until) != ETIMEDOUT)
		;
	stop = m->stop;
	pthread_mutex_unlock(&m->lock);
	return !stop;
}

static void *balancer_main(void *arg)
{
	struct host_balancer *m = arg;

	while (wait_a_look(m))
		look(m);
	return NULL;
}

int host_balancer_start(struct host *host, struct host_balancer **out)
{
	struct host_balancer *m = xcalloc(1, sizeof(*m));
	pthread_condattr_t monotonic;
	int rc;

	m->host = host;
	m->later = json_object();
	pthread_mutex_init(&m->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&m->changed, &monotonic);
	rc = -pthread_create(&m->thread, NULL, balancer_main, m);
	if (rc < 0) {
		json_decref(m->later);
		free(m);
		return fail(rc, "cannot start a thread: %s", strerror(-rc));
	}
	pthread_setname_np(m->thread, "balance");
	*out = m;
	return 0;
}

void host_balancer_stop(struct host_balancer *m)
{
	if (!m)
		return;
	pthread_mutex_lock(&m->lock);
	m->stop = true;
	pthread_cond_broadcast(&m->changed);
	pthread_mutex_unlock(&m->lock);
	pthread_join(m->thread, NULL);
	pthread_mutex_destroy(&m->lock);
	pthread_cond_destroy(&m->changed);
	json_decref(m->later);
	free(m);
}
