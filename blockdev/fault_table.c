// SPDX-License-Identifier: Apache-2.0
/*
 * fault_table.c: the table of faults and their words. The one place with state of the process: a
 * fault is added by name, from outside, before or after the LUN that it concerns is opened.
 */
#include "blockdev/fault.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/util.h"
#include "blockdev/fault_table.h"

#define FAULT_MAX 64 /* drills are few; a bound for the scan of each request under fault */

struct entry {
	struct fault fault;
	uint64_t since_ns, until_ns;
	uint64_t random;
};

static struct {
	pthread_mutex_t lock; /* entries; innermost, never held across I/O */
	_Atomic unsigned n;
	unsigned next_id;
	struct entry entry[FAULT_MAX];
	pthread_mutex_t members; /* nodes; taken before `lock`; held while keys are forgotten */
	struct list nodes;	 /* struct fault_node.link */
} table = {
	.lock = PTHREAD_MUTEX_INITIALIZER,
	.members = PTHREAD_MUTEX_INITIALIZER,
	.nodes = LIST_INIT(table.nodes),
};

static const char *const kind_names[FAULT_KINDS] = {
	[FAULT_FAIL] = "fail",
	[FAULT_HANG] = "hang",
	[FAULT_DELAY] = "delay",
	[FAULT_DROP] = "drop",
	[FAULT_FLAP] = "flap",
	[FAULT_CORRUPT] = "corrupt",
	[FAULT_TEAR] = "tear",
	[FAULT_LOST_ANSWER] = "lost-answer",
	[FAULT_LATE_WRITE] = "late-write",
	[FAULT_FORGET_KEYS] = "forget-keys",
	[FAULT_VOLATILE] = "volatile",
	[FAULT_POWER_LOSS] = "power-loss",
	[FAULT_NO_RESERVATIONS] = "no-reservations",
	[FAULT_NO_SPACE] = "no-space",
};

static const struct {
	const char *name;
	unsigned ops;
} op_names[] = {
	{"read", FAULT_READ},	{"write", FAULT_WRITE}, {"cas", FAULT_CAS},
	{"flush", FAULT_FLUSH}, {"all", FAULT_ALL},
};

/* --- words ------------------------------------------------------------------------------------ */

static bool takes_value(enum fault_kind kind)
{
	return kind == FAULT_DELAY || kind == FAULT_DROP || kind == FAULT_FLAP ||
	       kind == FAULT_LATE_WRITE || kind == FAULT_LOST_ANSWER;
}

/* What stands for no value; 0: there must be one. */
static unsigned default_value(enum fault_kind kind)
{
	if (kind == FAULT_LATE_WRITE)
		return 1000;
	return kind == FAULT_LOST_ANSWER ? 100 : 0;
}

static int parse_kind(struct fault *out, const char *kind)
{
	size_t n = strcspn(kind, "=");
	unsigned long value;
	char *end;

	out->kind = FAULT_KINDS;
	for (unsigned i = 0; i < FAULT_KINDS; i++)
		if (strlen(kind_names[i]) == n && memcmp(kind, kind_names[i], n) == 0)
			out->kind = (enum fault_kind)i;
	if (out->kind == FAULT_KINDS)
		return fail(-EINVAL, "fault: kind %s is unknown; see perilune fault add --help",
			    kind);
	out->value = default_value(out->kind);
	if (!kind[n]) {
		if (takes_value(out->kind) && !out->value)
			return fail(-EINVAL, "fault: %s needs a number, as in %s=50", kind, kind);
		return 0;
	}
	value = strtoul(kind + n + 1, &end, 10);
	if (!takes_value(out->kind) || *end || end == kind + n + 1 || value == 0 ||
	    value > (out->kind == FAULT_DROP || out->kind == FAULT_LOST_ANSWER ? 100 : 3600000))
		return fail(-EINVAL, "fault: %s: not a value for it", kind);
	out->value = (unsigned)value;
	return 0;
}

static int parse_range(struct fault *out, const char *range)
{
	char from[32];
	size_t n = strcspn(range, "-");

	if (range[n] != '-' || n >= sizeof(from))
		return -EINVAL;
	memcpy(from, range, n);
	from[n] = 0;
	if (parse_size(from, &out->from) < 0 || parse_size(range + n + 1, &out->to) < 0)
		return -EINVAL;
	return out->from < out->to ? 0 : -EINVAL;
}

int fault_parse(struct fault *out, const char *target, const char *kind, const char *op,
		const char *range, const char *seconds)
{
	int rc;

	memset(out, 0, sizeof(*out));
	if (str_format(out->target, sizeof(out->target), "%s", target) < 0)
		return fail(-EINVAL, "fault: the target's name is too long");
	rc = parse_kind(out, kind);
	if (rc < 0)
		return rc;
	for (size_t i = 0; i < ARRAY_SIZE(op_names); i++)
		if (strcmp(op ? op : "all", op_names[i].name) == 0)
			out->ops = op_names[i].ops;
	if (!out->ops)
		return fail(-EINVAL, "fault: operation %s; read, write, cas, flush or all", op);
	if (range && parse_range(out, range) < 0)
		return fail(-EINVAL, "fault: range %s; as in 0-1M, the end not included", range);
	if (seconds) {
		char *end;
		double s = strtod(seconds, &end);

		if (*end || end == seconds || !(s > 0 && s < 1e9))
			return fail(-EINVAL, "fault: --for %s: not a number of seconds", seconds);
		out->for_ms = (uint64_t)(s * 1000);
	}
	return 0;
}

int fault_print(const struct fault *f, char *dst, size_t size)
{
	const char *op = "all";
	char value[16] = "", range[64] = "", secs[32] = "";

	for (size_t i = 0; i < ARRAY_SIZE(op_names); i++)
		if (op_names[i].ops == f->ops)
			op = op_names[i].name;
	if (takes_value(f->kind) && f->value != default_value(f->kind))
		(void)str_format(value, sizeof(value), "=%u", f->value);
	if (f->to)
		(void)str_format(range, sizeof(range), " range %" PRIu64 "-%" PRIu64, f->from,
				 f->to);
	if (f->for_ms)
		(void)str_format(secs, sizeof(secs), " for %g s", (double)f->for_ms / 1000);
	return str_format(dst, size, "%s %s%s op %s%s%s", f->target, kind_names[f->kind], value, op,
			  range, secs);
}

/* --- the table: callers hold table.lock ------------------------------------------------------- */

static void drop(unsigned i)
{
	unsigned n = table.n - 1;

	memmove(&table.entry[i], &table.entry[i + 1], (n - i) * sizeof(table.entry[0]));
	table.n = n;
}

static void expire(void)
{
	uint64_t now = clock_boot_ns();

	for (unsigned i = 0; i < table.n;)
		if (table.entry[i].until_ns && table.entry[i].until_ns <= now)
			drop(i);
		else
			i++;
}

static bool concerns(const struct fault *f, const struct fault_node *node)
{
	return strcmp(f->target, node->name) == 0 || strcmp(f->target, node->id) == 0;
}

static uint64_t random_next(struct entry *e)
{
	e->random ^= e->random << 13;
	e->random ^= e->random >> 7;
	e->random ^= e->random << 17;
	return e->random;
}

static bool strikes(struct entry *e, unsigned op, uint64_t offset, uint64_t length, uint64_t now)
{
	const struct fault *f = &e->fault;

	if (!(f->ops & op) || (f->times && e->fault.hits >= f->times))
		return false;
	if (f->to && (op == FAULT_FLUSH || offset >= f->to || offset + length <= f->from))
		return false;
	if (f->kind == FAULT_FORGET_KEYS || f->kind == FAULT_NO_RESERVATIONS)
		return false;
	if (f->kind == FAULT_DROP || f->kind == FAULT_LOST_ANSWER)
		return random_next(e) % 100 < f->value;
	if (f->kind == FAULT_FLAP)
		return (now - e->since_ns) / NS_PER_MS / f->value % 2 == 1;
	if (f->kind == FAULT_CORRUPT)
		return op == FAULT_READ;
	if (f->kind == FAULT_TEAR || f->kind == FAULT_NO_SPACE)
		return op == FAULT_WRITE;
	if (f->kind == FAULT_VOLATILE)
		return op != FAULT_READ;
	if (f->kind == FAULT_LATE_WRITE)
		return op == FAULT_WRITE || op == FAULT_CAS;
	return true;
}

bool fault_table_any(void)
{
	return atomic_load_explicit(&table.n, memory_order_relaxed) > 0;
}

bool fault_table_strike(const struct fault_node *node, unsigned op, uint64_t offset,
			uint64_t length, struct fault_strike *out)
{
	uint64_t now = clock_boot_ns();
	bool found = false;

	pthread_mutex_lock(&table.lock);
	expire();
	for (unsigned i = 0; i < table.n && !found; i++) {
		struct entry *e = &table.entry[i];

		if (!concerns(&e->fault, node) || !strikes(e, op, offset, length, now))
			continue;
		e->fault.hits++;
		*out = (struct fault_strike){.id = e->fault.id,
					     .kind = e->fault.kind,
					     .value = e->fault.value,
					     .random = random_next(e)};
		found = true;
	}
	pthread_mutex_unlock(&table.lock);
	return found;
}

bool fault_table_stands(unsigned id)
{
	bool found = false;

	pthread_mutex_lock(&table.lock);
	expire();
	for (unsigned i = 0; i < table.n; i++)
		found |= table.entry[i].fault.id == id;
	pthread_mutex_unlock(&table.lock);
	return found;
}

bool fault_table_hides_reservations(const struct fault_node *node)
{
	bool found = false;

	if (!fault_table_any())
		return false;
	pthread_mutex_lock(&table.lock);
	expire();
	for (unsigned i = 0; i < table.n; i++)
		found |= table.entry[i].fault.kind == FAULT_NO_RESERVATIONS &&
			 concerns(&table.entry[i].fault, node);
	pthread_mutex_unlock(&table.lock);
	return found;
}

void fault_table_join(struct fault_node *node)
{
	pthread_mutex_lock(&table.members);
	list_add_tail(&table.nodes, &node->link);
	pthread_mutex_unlock(&table.members);
}

void fault_table_leave(struct fault_node *node)
{
	pthread_mutex_lock(&table.members);
	list_del(&node->link);
	pthread_mutex_unlock(&table.members);
}

/* --- public ----------------------------------------------------------------------------------- */

/* What strikes once, and at once. */
static int strike_now(const struct fault *fault)
{
	struct fault_node *node;
	bool any = false;
	int rc = 0, one;

	pthread_mutex_lock(&table.members);
	list_for_each (node, &table.nodes, link)
		if (concerns(fault, node)) {
			any = true;
			one = fault->kind == FAULT_POWER_LOSS ? node->power_loss(node)
							      : node->forget_keys(node);
			rc = rc ? rc : one;
		}
	pthread_mutex_unlock(&table.members);
	return any ? rc : fail(-ENOENT, "fault: no LUN %s is open here", fault->target);
}

bool fault_concerns_any(const struct fault *fault)
{
	struct fault_node *node;
	bool any = false;

	pthread_mutex_lock(&table.members);
	list_for_each (node, &table.nodes, link)
		any |= concerns(fault, node);
	pthread_mutex_unlock(&table.members);
	return any;
}

/* Nodes that the fault concerns look again whether their reservations are hidden. */
static void look_again(const struct fault *fault)
{
	struct fault_node *node;

	if (fault->kind != FAULT_NO_RESERVATIONS)
		return;
	pthread_mutex_lock(&table.members);
	list_for_each (node, &table.nodes, link)
		if (concerns(fault, node))
			node->hide(node, fault_table_hides_reservations(node));
	pthread_mutex_unlock(&table.members);
}

static int add_entry(const struct fault *fault, unsigned *id)
{
	struct entry *e;

	expire();
	if (table.n == FAULT_MAX)
		return fail(-ENOSPC, "fault: %u faults are set already; clear some", FAULT_MAX);
	e = &table.entry[table.n];
	*e = (struct entry){.fault = *fault, .since_ns = clock_boot_ns()};
	e->fault.id = ++table.next_id;
	e->fault.hits = 0;
	e->random = (fault->seed + 1) * 0x9e3779b97f4a7c15ULL;
	if (fault->for_ms)
		e->until_ns = e->since_ns + fault->for_ms * NS_PER_MS;
	if (id)
		*id = e->fault.id;
	table.n++;
	return 0;
}

int fault_add(const struct fault *fault, unsigned *id)
{
	int rc;

	if (fault->kind == FAULT_FORGET_KEYS || fault->kind == FAULT_POWER_LOSS)
		return strike_now(fault);
	pthread_mutex_lock(&table.lock);
	rc = add_entry(fault, id);
	pthread_mutex_unlock(&table.lock);
	if (rc == 0)
		look_again(fault);
	return rc;
}

unsigned fault_list(struct fault *out, unsigned max)
{
	unsigned n;

	pthread_mutex_lock(&table.lock);
	expire();
	n = MIN(max, table.n);
	for (unsigned i = 0; i < n; i++)
		out[i] = table.entry[i].fault;
	pthread_mutex_unlock(&table.lock);
	return n;
}

static bool take_entry(unsigned id, struct fault *out)
{
	bool found = false;

	pthread_mutex_lock(&table.lock);
	for (unsigned i = table.n; i-- > 0 && !found;)
		if (!id || table.entry[i].fault.id == id) {
			*out = table.entry[i].fault;
			drop(i);
			found = true;
		}
	pthread_mutex_unlock(&table.lock);
	return found;
}

int fault_clear(unsigned id)
{
	struct fault fault;
	bool any = id == 0;

	while (take_entry(id, &fault)) {
		any = true;
		look_again(&fault);
	}
	return any ? 0 : fail(-ENOENT, "fault %u: no such fault; see perilune fault list", id);
}
