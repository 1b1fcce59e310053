// SPDX-License-Identifier: Apache-2.0
/*
 * record_read.c: reads a log and makes media out of it. Each request is given an instant between
 * its submission and its answer at which it took effect; sorted by those, any assignment is a
 * history that the LUN's contract allows, and with blocks left out that no flush had made durable,
 * any of the media that a crash may leave. But for compare-and-writes of one block: a host may see
 * what another's wrote, and compare with it, before that one's answer is logged. So their instants
 * and their answers may contradict their compares; their submissions cannot.
 */
#include "blockdev/record.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checksum.h"
#include "base/err.h"
#include "blockdev/record_format.h"

#define NOT_ANSWERED UINT32_MAX

struct request {
	unsigned submit, answer; /* events */
	uint64_t writer, number;
};

struct record_log {
	uint8_t *map;
	size_t map_length;
	uint64_t size;
	uint32_t block_size;
	struct record_event *event;
	unsigned n;
	struct request *request;
	unsigned requests;
};

static uint64_t xorshift(uint64_t *x)
{
	*x ^= *x << 13;
	*x ^= *x >> 7;
	*x ^= *x << 17;
	return *x;
}

/* --- reading ---------------------------------------------------------------------------------- */

static bool entry_good(const uint8_t *p, size_t left, struct record_entry *e)
{
	struct record_entry copy;

	if (left < sizeof(*e))
		return false;
	memcpy(e, p, sizeof(*e));
	copy = *e;
	copy.checksum = le64_of(0);
	return le64_get(e->checksum) == checksum64(&copy, sizeof(copy)) &&
	       le32_get(e->data_length) <= left - sizeof(*e) && le32_get(e->op) < BLK_OPS;
}

static struct request *find_open(struct record_log *log, uint64_t writer, uint64_t number)
{
	for (unsigned i = log->requests; i-- > 0;)
		if (log->request[i].writer == writer && log->request[i].number == number)
			return &log->request[i];
	return NULL;
}

static int take_entry(struct record_log *log, const struct record_entry *e, const uint8_t *data)
{
	struct record_event *ev = &log->event[log->n];
	struct request *request;

	*ev = (struct record_event){.answer = le32_get(e->kind) == RECORD_ANSWER,
				    .op = (enum blk_op)le32_get(e->op),
				    .flags = le32_get(e->flags),
				    .offset = le64_get(e->offset),
				    .length = le64_get(e->length),
				    .res = (int)le32_get(e->res),
				    .maybe_done = le32_get(e->maybe_done) != 0};
	if (ev->answer) {
		request = find_open(log, le64_get(e->writer), le64_get(e->number));
		if (!request || request->answer != NOT_ANSWERED)
			return fail(-EUCLEAN, "record: an answer without its request");
		request->answer = log->n++;
		ev->submit = request->submit;
		return 0;
	}
	if (ev->op == BLK_WRITE || ev->op == BLK_CAS) {
		uint64_t want = ev->op == BLK_CAS ? 2 * ev->length : ev->length;

		if (le32_get(e->data_length) != want)
			return fail(-EUCLEAN, "record: a write without its data");
		ev->compare = ev->op == BLK_CAS ? data : NULL;
		ev->data = ev->op == BLK_CAS ? data + ev->length : data;
	}
	ev->submit = log->n;
	log->request[log->requests++] = (struct request){.submit = log->n,
							 .answer = NOT_ANSWERED,
							 .writer = le64_get(e->writer),
							 .number = le64_get(e->number)};
	log->n++;
	return 0;
}

static int parse(struct record_log *log)
{
	struct record_head head;
	struct record_entry e;
	size_t at = sizeof(head), room = 0;

	if (log->map_length < sizeof(head))
		return fail(-EUCLEAN, "record: too short for a log");
	memcpy(&head, log->map, sizeof(head));
	if (le64_get(head.magic) != RECORD_MAGIC || le32_get(head.block_size) < 512)
		return fail(-EUCLEAN, "record: not a log");
	log->size = le64_get(head.size);
	log->block_size = le32_get(head.block_size);
	while (entry_good(log->map + at, log->map_length - at, &e)) {
		int rc;

		if (log->n == room) {
			room = room ? 2 * room : 1024;
			log->event = xrealloc(log->event, room * sizeof(*log->event));
			log->request = xrealloc(log->request, room * sizeof(*log->request));
		}
		rc = take_entry(log, &e, log->map + at + sizeof(e));
		if (rc < 0)
			return rc;
		at += sizeof(e) + le32_get(e.data_length);
	}
	return 0;
}

int record_open(const char *path, struct record_log **out)
{
	struct record_log *log = xcalloc(1, sizeof(*log));
	int fd = open(path, O_RDONLY | O_CLOEXEC), rc = 0;
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0) {
		rc = fail(-errno, "record: %s: %s", path, strerror(errno));
	} else if (st.st_size) {
		log->map_length = (size_t)st.st_size;
		log->map = mmap(NULL, log->map_length, PROT_READ, MAP_PRIVATE, fd, 0);
		if (log->map == MAP_FAILED) {
			log->map = NULL;
			rc = fail(-errno, "record: %s: %s", path, strerror(errno));
		}
	}
	if (fd >= 0)
		close(fd);
	if (rc == 0)
		rc = parse(log);
	if (rc < 0) {
		record_close(log);
		return rc;
	}
	*out = log;
	return 0;
}

void record_close(struct record_log *log)
{
	if (!log)
		return;
	if (log->map)
		munmap(log->map, log->map_length);
	free(log->event);
	free(log->request);
	free(log);
}

unsigned record_events(const struct record_log *log)
{
	return log->n;
}

const struct record_event *record_event(const struct record_log *log, unsigned n)
{
	return n < log->n ? &log->event[n] : NULL;
}

uint32_t record_block_size(const struct record_log *log)
{
	return log->block_size;
}

uint64_t record_size(const struct record_log *log)
{
	return log->size;
}

/* --- replaying -------------------------------------------------------------------------------- */

struct effect {
	uint64_t instant; /* event number << 32 | fraction */
	const struct record_event *event;
	bool durable;
	bool uncertain; /* nobody was told that it was done */
};

/* What compare-and-write blocks hold by now, so that a late one can miscompare. */
struct known {
	uint64_t offset;
	const uint8_t *data; /* NULL: zeroes; of the log */
	bool set;
	unsigned sure; /* the latest submission that surely succeeded and was put there; 0: none */
};

struct replay {
	const struct record_log *log;
	struct effect *effect;
	unsigned n;
	struct known *known;
	unsigned knowns;
	int (*apply)(void *arg, uint64_t offset, const void *data, uint64_t length);
	void *arg;
};

static int by_instant(const void *a, const void *b)
{
	const struct effect *x = a, *y = b;

	return x->instant < y->instant ? -1 : x->instant > y->instant;
}

/* The latest submission of a flush that was answered well before `point`; 0: none (nothing before). */
static unsigned last_flush(const struct record_log *log, unsigned point)
{
	unsigned last = 0;

	for (unsigned i = 0; i < log->requests; i++) {
		const struct request *r = &log->request[i];

		if (log->event[r->submit].op == BLK_FLUSH && r->answer < point &&
		    log->event[r->answer].res == 0)
			last = MAX(last, r->submit);
	}
	return last;
}

static bool collect(const struct record_log *log, const struct request *r, unsigned point,
		    unsigned flushed, struct effect *out)
{
	const struct record_event *submit = &log->event[r->submit];
	bool answered = r->answer < point; /* NOT_ANSWERED is never */
	int res = answered ? log->event[r->answer].res : 0;

	if (submit->op == BLK_FLUSH || submit->op == BLK_READ || r->submit >= point)
		return false;
	if (answered && res < 0 && !log->event[r->answer].maybe_done)
		return false;
	*out = (struct effect){.event = submit, .uncertain = !answered || res < 0};
	if (!out->uncertain)
		out->durable = (submit->flags & BLK_FUA) || r->answer < flushed;
	return true;
}

/*
 * Instants: within [submission, answer]; what nobody was told about, until the crash. RECORD_ALL and
 * RECORD_DURABLE take the order of answers.
 */
static uint64_t instant(const struct request *r, unsigned point, bool uncertain,
			enum record_choice choice, uint64_t *x)
{
	uint64_t from = (uint64_t)r->submit << 32;
	uint64_t to = (uint64_t)(uncertain ? point : r->answer) << 32;

	if (choice != RECORD_RANDOM)
		return uncertain ? to + r->submit : to;
	return from + xorshift(x) % (to - from);
}

static void know(struct replay *rp, const struct effect *e, uint64_t from, uint64_t to)
{
	const struct record_event *ev = e->event;

	for (unsigned i = 0; i < rp->knowns; i++) {
		struct known *k = &rp->known[i];

		if (k->offset < from || k->offset >= to)
			continue;
		k->data = ev->data ? (const uint8_t *)ev->data + (k->offset - ev->offset) : NULL;
		k->set = true;
		if (ev->op == BLK_CAS && !e->uncertain)
			k->sure = ev->submit;
	}
}

/*
 * Does that compare-and-write come too late? One that nobody was told about: where it miscompares.
 * One that succeeded: where another stands that compared with what it wrote, or with a follower's;
 * that one was submitted later. (What stands there uncertainly gives way: it cannot have succeeded.)
 */
static bool too_late(const struct replay *rp, const struct effect *e)
{
	static const uint8_t zero[4096];
	const struct record_event *ev = e->event;

	for (unsigned i = 0; i < rp->knowns; i++) {
		const struct known *k = &rp->known[i];

		if (k->offset != ev->offset)
			continue;
		if (!e->uncertain)
			return k->sure > ev->submit;
		return k->set && memcmp(k->data ? k->data : zero, ev->compare, ev->length) != 0;
	}
	return false;
}

static int put(struct replay *rp, const struct effect *e, uint64_t from, uint64_t to)
{
	const struct record_event *ev = e->event;
	const uint8_t *data = ev->data;

	know(rp, e, from, to);
	return rp->apply(rp->arg, from, data ? data + (from - ev->offset) : NULL, to - from);
}

/* Whole, or block by block as the dice fall. */
static int play(struct replay *rp, const struct effect *e, enum record_choice choice, uint64_t *x)
{
	const struct record_event *ev = e->event;
	uint64_t block = rp->log->block_size, end = ev->offset + ev->length;
	int rc = 0;

	if (ev->op == BLK_CAS && too_late(rp, e))
		return 0;
	if (e->durable || choice == RECORD_ALL)
		return put(rp, e, ev->offset, end);
	if (choice == RECORD_DURABLE)
		return 0;
	if (ev->length > 4096 * block) /* a long discard: all or nothing */
		return xorshift(x) & 1 ? put(rp, e, ev->offset, end) : 0;
	switch (xorshift(x) & 3) { /* half of them whole or not at all, others torn */
	case 0:
		return 0;
	case 1:
		return put(rp, e, ev->offset, end);
	}
	for (uint64_t at = ev->offset; at < end && rc == 0; at += block)
		if (xorshift(x) & 1)
			rc = put(rp, e, at, at + block);
	return MIN(rc, 0);
}

static void prepare(struct replay *rp, unsigned point, enum record_choice choice, uint64_t *x)
{
	const struct record_log *log = rp->log;
	unsigned flushed = last_flush(log, point);

	for (unsigned i = 0; i < log->requests; i++) {
		struct effect *e = &rp->effect[rp->n];
		const struct record_event *ev = &log->event[log->request[i].submit];

		if (ev->op == BLK_CAS) { /* offsets may repeat: the first is found */
			unsigned k = 0;

			while (k < rp->knowns && rp->known[k].offset != ev->offset)
				k++;
			if (k == rp->knowns)
				rp->known[rp->knowns++] = (struct known){.offset = ev->offset};
		}
		if (!collect(log, &log->request[i], point, flushed, e))
			continue;
		e->instant = instant(&log->request[i], point, e->uncertain, choice, x);
		rp->n++;
	}
	qsort(rp->effect, rp->n, sizeof(*rp->effect), by_instant);
}

int record_replay(const struct record_log *log, unsigned point, enum record_choice choice,
		  uint64_t seed,
		  int (*apply)(void *arg, uint64_t offset, const void *data, uint64_t length),
		  void *arg)
{
	struct replay rp = {.log = log, .apply = apply, .arg = arg};
	uint64_t x = (seed + 1) * 0x9e3779b97f4a7c15ULL;
	int rc = 0;

	rp.effect = xcalloc(log->requests, sizeof(*rp.effect));
	rp.known = xcalloc(log->requests, sizeof(*rp.known));
	prepare(&rp, MIN(point, log->n), choice, &x);
	for (unsigned i = 0; i < rp.n && rc >= 0; i++)
		rc = play(&rp, &rp.effect[i], choice, &x);
	free(rp.effect);
	free(rp.known);
	return MIN(rc, 0);
}
