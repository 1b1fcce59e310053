// SPDX-License-Identifier: Apache-2.0
/* stub_guest.c: the program of a guest without a processor. */
#include "tests/lib/stub_guest.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <scsi/scsi.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/util.h"

#define PAGE	 4096u
#define BRAIN_AT (2u << 20) /* behind what a kernel takes */
#define DATA_AT	 (6u << 20) /* a page of request and answer, and one of data, for each slot */
#define PAGES_AT (8u << 20)
#define SLOTS	 8u
#define MAGIC	 0x5475626953657267ull
#define WRITER	 0xd15cu
#define SAY_NS	 (200 * NS_PER_MS)
#define FLUSHES	 64u	    /* steps from one flush to the next */
#define UNKNOWN	 UINT32_MAX /* a block that was not read since the boot */

enum kind { IDLE, CAPACITY, WRITE, READ, FLUSH };

struct slot {
	uint32_t kind, block, count, head;
};

/* At BRAIN_AT. */
struct brain {
	uint64_t magic, random, steps, said_ns;
	uint64_t pages_written, reads, writes, touched;
	uint32_t boots, rate, disk, broken; /* disk: 0 not asked yet, 1 is there, 2 none */
	uint32_t attentions, asked;	    /* asked: blocks that were to be read since the boot */
	struct slot slot[SLOTS];
	uint32_t block[STUB_BLOCKS];	/* how often it was written; acknowledged */
	uint32_t flushing[STUB_BLOCKS]; /* as the book was when the flush began */
	uint32_t page[];		/* how often it was written since the boot; 0: never */
};

static struct brain *brain(const struct stub_guest *g)
{
	return (struct brain *)(g->mem + BRAIN_AT);
}

static uint64_t pages_of(const struct stub_guest *g)
{
	uint64_t known = (STUB_RINGS_AT - BRAIN_AT - sizeof(struct brain)) / sizeof(uint32_t);

	return MIN((g->bytes - PAGES_AT) / PAGE, known);
}

/* After the write, as the log wants it. */
static void wrote(struct stub_guest *g, const void *p, uint64_t n)
{
	uint64_t at = (uint64_t)((const uint8_t *)p - g->mem);

	if (!g->written)
		return;
	for (uint64_t page = at / PAGE; page <= (at + n - 1) / PAGE; page++)
		g->written[page / 64] |= 1ULL << page % 64;
}

static uint64_t next_random(struct brain *b)
{
	b->random ^= b->random << 13;
	b->random ^= b->random >> 7;
	b->random ^= b->random << 17;
	return b->random;
}

static void bad(struct stub_guest *g, const char *what, uint64_t which, uint64_t want, uint64_t got)
{
	char text[128];

	if (brain(g)->broken++ > 4)
		return;
	(void)snprintf(text, sizeof(text), "bad %s %llu: %llx in place of %llx\n", what,
		       (unsigned long long)which, (unsigned long long)got,
		       (unsigned long long)want);
	g->say(g->arg, text);
}

/* --- contents ------------------------------------------------------------------------------------ */

static uint64_t word_of(uint64_t what, uint64_t which, uint64_t count, unsigned i)
{
	uint64_t x = (what << 48 ^ which << 24 ^ count << 8 ^ i) * 0x9e3779b97f4a7c15ull;

	return x ^ x >> 29;
}

/* Every eighth time it is zeroes, as before the first. */
static bool zeroes(uint32_t count)
{
	return !count || count % 8 == 7;
}

static uint64_t holds(uint64_t what, uint64_t which, uint32_t count, unsigned i)
{
	return zeroes(count) ? 0 : word_of(what, which, count, i);
}

static void fill(void *page, uint64_t what, uint64_t which, uint32_t count)
{
	uint64_t *w = page;

	for (unsigned i = 0; i < PAGE / 8; i++)
		w[i] = holds(what, which, count, i);
}

static bool is(const void *page, uint64_t what, uint64_t which, uint32_t count)
{
	const uint64_t *w = page;

	for (unsigned i = 0; i < PAGE / 8; i++)
		if (w[i] != holds(what, which, count, i))
			return false;
	return true;
}

static bool check(struct stub_guest *g, const void *page, uint64_t what, uint64_t which,
		  uint32_t count, const char *name)
{
	const uint64_t *w = page;

	for (unsigned i = 0; i < PAGE / 8; i++) {
		uint64_t want = holds(what, which, count, i);

		if (w[i] != want) {
			bad(g, name, which, want, w[i]);
			return false;
		}
	}
	return true;
}

static void write_page(struct stub_guest *g, uint64_t page)
{
	struct brain *b = brain(g);
	uint8_t *at = g->mem + PAGES_AT + page * PAGE;

	if (b->page[page])
		(void)check(g, at, 1, page, b->page[page], "page");
	b->page[page]++;
	fill(at, 1, page, b->page[page]);
	wrote(g, at, PAGE);
	wrote(g, &b->page[page], sizeof(b->page[page]));
	b->pages_written++;
}

/* --- the disk ------------------------------------------------------------------------------------ */

static uint64_t slot_at(unsigned i)
{
	return DATA_AT + i * 2ull * PAGE;
}

static int submit(struct stub_guest *g, unsigned i, const uint8_t *cdb, unsigned out, unsigned in)
{
	uint64_t at = slot_at(i);
	struct virtio_scsi_cmd_req *req = (void *)(g->mem + at);
	struct front_piece p[4] = {{at, sizeof(*req)}};
	unsigned n = 1;
	int head;

	memset(req, 0, sizeof(*req));
	req->lun[0] = 1;
	memcpy(req->cdb, cdb, 16);
	memset(g->mem + at + 512, 0xee, sizeof(struct virtio_scsi_cmd_resp));
	if (out)
		p[n++] = (struct front_piece){at + PAGE, out};
	p[n++] = (struct front_piece){at + 512, sizeof(struct virtio_scsi_cmd_resp)};
	if (in)
		p[n++] = (struct front_piece){at + PAGE, in};
	head = front_add(&g->front, 2, p, out ? 2 : 1, in ? 2 : 1);
	wrote(g, req, 2 * PAGE);
	return head;
}

/* Which writes are durable when they are answered. */
static bool forced(uint32_t count)
{
	return count % 32 == 5;
}

/* Zeroes are written by WRITE SAME, unmapped: the next time is a first one again. Returns the bytes that it takes. */
static unsigned make_cdb(uint8_t cdb[16], enum kind kind, uint32_t block, uint32_t count)
{
	static const uint8_t command[] = {[CAPACITY] = READ_CAPACITY,
					  [WRITE] = WRITE_10,
					  [READ] = READ_10,
					  [FLUSH] = SYNCHRONIZE_CACHE};
	bool same = kind == WRITE && zeroes(count);

	cdb[0] = same ? WRITE_SAME : command[kind];
	if (kind == CAPACITY || kind == FLUSH)
		return 0;
	cdb[1] = same || (kind == WRITE && forced(count)) ? 8 : 0; /* UNMAP; FUA */
	be32_put(cdb + 2, block * (PAGE / 512));
	be16_put(cdb + 7, PAGE / 512);
	return kind == READ ? 0 : same ? 512 : PAGE;
}

static void begin(struct stub_guest *g, unsigned i, enum kind kind, uint32_t block)
{
	struct brain *b = brain(g);
	struct slot *s = &b->slot[i];
	uint8_t cdb[16] = {0};
	uint32_t count = b->block[block] + 1;
	unsigned out = make_cdb(cdb, kind, block, count);
	int head;

	if (kind == FLUSH)
		memcpy(b->flushing, g->book->answered, sizeof(b->flushing));
	if (kind == WRITE) {
		stub_book_begins(g->book, block, count);
		fill(g->mem + slot_at(i) + PAGE, WRITER, block, count);
	} else {
		memset(g->mem + slot_at(i) + PAGE, 0xdd, PAGE);
	}
	head = submit(g, i, cdb, out, kind == READ ? PAGE : kind == CAPACITY ? 8 : 0);
	if (head >= 0)
		*s = (struct slot){(uint32_t)kind, block, b->block[block], (uint32_t)head};
}

static bool busy(const struct brain *b, uint32_t block)
{
	for (unsigned i = 0; i < SLOTS; i++)
		if ((b->slot[i].kind == WRITE || b->slot[i].kind == READ) &&
		    b->slot[i].block == block)
			return true;
	return false;
}

/* The first read of a block since the boot: what the book says, or what was on its way then. */
static void recognize(struct stub_guest *g, uint32_t block, const uint8_t *data)
{
	uint32_t count = g->book->begun[block];

	while (count > g->book->answered[block] && !is(data, WRITER, block, count))
		count--;
	(void)check(g, data, WRITER, block, count, "block at the boot");
	brain(g)->block[block] = count;
	stub_book_found(g->book, block, count);
}

static void ended(struct stub_guest *g, unsigned i)
{
	const struct virtio_scsi_cmd_resp *r = (void *)(g->mem + slot_at(i) + 512);
	const uint8_t *data = g->mem + slot_at(i) + PAGE;
	struct brain *b = brain(g);
	struct slot s = b->slot[i];

	b->slot[i] = (struct slot){0};
	if (r->response || r->status) {
		/* Something happened to the device: begun again. No such disk: none is used. */
		if (!r->response && r->status == 2 && (r->sense[2] & 15) == 6)
			b->attentions++;
		else if (s.kind == CAPACITY)
			b->disk = 2;
		else
			bad(g, "status of block", s.block, 0,
			    (uint64_t)r->response << 8 | r->status);
		if (s.kind != WRITE)
			return;
		/* It was done or not: written again, with the same content, before anybody reads it. */
		b->block[s.block] = s.count;
		begin(g, i, WRITE, s.block);
		return;
	}
	if (s.kind == CAPACITY) {
		b->disk = (uint64_t)be32_get(data) + 1 >= STUB_BLOCKS * PAGE / 512 ? 1 : 2;
	} else if (s.kind == WRITE) {
		b->block[s.block] = s.count + 1;
		stub_book_answered(g->book, s.block, s.count + 1, forced(s.count + 1));
		b->writes++;
	} else if (s.kind == FLUSH) {
		stub_book_flushed(g->book, b->flushing);
	} else {
		b->reads++;
		if (s.count == UNKNOWN)
			recognize(g, s.block, data);
		else
			(void)check(g, data, WRITER, s.block, s.count, "block");
	}
}

static bool flushes(const struct brain *b)
{
	for (unsigned i = 0; i < SLOTS; i++)
		if (b->slot[i].kind == FLUSH)
			return true;
	return false;
}

/* All blocks are read first. */
static void think(struct stub_guest *g, unsigned i)
{
	struct brain *b = brain(g);
	uint64_t r = next_random(b);
	uint32_t block = b->asked < STUB_BLOCKS ? b->asked++ : (uint32_t)(r % STUB_BLOCKS);

	if (!busy(b, block))
		begin(g, i, r >> 40 & 1 && b->block[block] != UNKNOWN ? WRITE : READ, block);
}

static void disk_step(struct stub_guest *g)
{
	uint16_t old = g->front.q[2].avail_idx;
	struct brain *b = brain(g);
	int head;

	while ((head = front_get(&g->front, 2, NULL)) >= 0)
		for (unsigned i = 0; i < SLOTS; i++)
			if (b->slot[i].kind && b->slot[i].head == (uint32_t)head)
				ended(g, i);
	for (unsigned i = 0; i < SLOTS && b->disk != 2; i++) {
		if (b->slot[i].kind || (!b->disk && i))
			continue;
		if (!b->disk)
			begin(g, i, CAPACITY, 0);
		else if (b->steps % FLUSHES == 0 && !flushes(b))
			begin(g, i, FLUSH, 0);
		else
			think(g, i);
	}
	/* The ring's event field: no interrupts are waited for, it looks by itself. */
	wrote(g, g->mem + STUB_RINGS_AT, g->front.data_offset - STUB_RINGS_AT);
	if (g->front.q[2].avail_idx != old)
		front_kick(&g->front, 2, old);
}

/* --- its life ------------------------------------------------------------------------------------ */

static void speak(struct stub_guest *g)
{
	struct brain *b = brain(g);
	uint64_t now = clock_boot_ns();
	char text[160];

	if (now < b->said_ns + SAY_NS && now > b->said_ns)
		return;
	b->said_ns = now;
	(void)snprintf(text, sizeof(text), "n %llu pages %llu writes %llu reads %llu\n",
		       (unsigned long long)b->steps, (unsigned long long)b->pages_written,
		       (unsigned long long)b->writes, (unsigned long long)b->reads);
	g->say(g->arg, text);
}

unsigned stub_guest_step(struct stub_guest *g)
{
	struct brain *b = brain(g);
	unsigned n = MAX(1, b->rate / 1000);

	for (unsigned i = 0; i < n && b->rate; i++)
		write_page(g, next_random(b) % pages_of(g));
	disk_step(g);
	b->steps++;
	speak(g);
	wrote(g, b, sizeof(*b));
	return 1000;
}

void stub_guest_rate(struct stub_guest *g, unsigned pages)
{
	brain(g)->rate = pages;
	wrote(g, brain(g), sizeof(struct brain));
}

void stub_guest_touch(struct stub_guest *g)
{
	brain(g)->touched++;
	wrote(g, brain(g), sizeof(struct brain));
}

void stub_guest_init(struct stub_guest *g, int mem_fd, uint8_t *mem, uint64_t bytes)
{
	g->mem = mem;
	g->bytes = bytes;
	front_init_in(&g->front, STUB_QUEUES, STUB_QUEUE_SIZE, mem_fd, mem, bytes, STUB_RINGS_AT);
	MUST(g->front.data_offset <= DATA_AT);
}

void stub_guest_boot(struct stub_guest *g)
{
	struct brain *b = brain(g);
	uint32_t boots = b->magic == MAGIC ? b->boots : 0;
	char text[64];

	memset(b, 0, STUB_RINGS_AT - BRAIN_AT);
	memset(g->mem + STUB_RINGS_AT, 0, PAGES_AT - STUB_RINGS_AT);
	wrote(g, b, PAGES_AT - BRAIN_AT);
	memset(b->block, 0xff, sizeof(b->block)); /* UNKNOWN */
	b->magic = MAGIC;
	b->boots = boots + 1;
	b->random = 88172645463325252ull ^ clock_boot_ns();
	b->rate = 1000;
	for (unsigned i = 0; i < STUB_QUEUES; i++) {
		struct front_queue *q = &g->front.q[i];

		q->avail_idx = q->seen_used = 0;
		q->free_count = 0;
		for (unsigned c = 0; c < q->size / 4; c++)
			q->free[q->free_count++] = (uint16_t)(q->size - (c + 1) * 4);
	}
	(void)snprintf(text, sizeof(text), "boot %u\n", b->boots);
	g->say(g->arg, text);
}

/* --- what is not in its memory --------------------------------------------------------------------- */

struct driver {
	uint64_t features;
	struct {
		uint16_t avail_idx, seen_used, free_count, free[STUB_QUEUE_SIZE / 4];
	} queue[STUB_QUEUES];
};
_Static_assert(sizeof(struct driver) <= STUB_DRIVER_BYTES, "driver");

void stub_guest_save(const struct stub_guest *g, uint8_t state[STUB_DRIVER_BYTES])
{
	struct driver d = {.features = g->front.features};

	for (unsigned i = 0; i < STUB_QUEUES; i++) {
		const struct front_queue *q = &g->front.q[i];

		d.queue[i].avail_idx = q->avail_idx;
		d.queue[i].seen_used = q->seen_used;
		d.queue[i].free_count = (uint16_t)q->free_count;
		memcpy(d.queue[i].free, q->free, q->free_count * sizeof(*q->free));
	}
	memset(state, 0, STUB_DRIVER_BYTES);
	memcpy(state, &d, sizeof(d));
}

int stub_guest_load(struct stub_guest *g, const uint8_t state[STUB_DRIVER_BYTES])
{
	struct driver d;

	memcpy(&d, state, sizeof(d));
	if (brain(g)->magic != MAGIC)
		return fail(-EUCLEAN, "the guest's memory holds no guest");
	for (unsigned i = 0; i < STUB_QUEUES; i++) {
		struct front_queue *q = &g->front.q[i];

		if (d.queue[i].free_count > STUB_QUEUE_SIZE / 4)
			return fail(-EUCLEAN, "a driver with %u chains", d.queue[i].free_count);
		q->avail_idx = d.queue[i].avail_idx;
		q->seen_used = d.queue[i].seen_used;
		q->free_count = d.queue[i].free_count;
		memcpy(q->free, d.queue[i].free, q->free_count * sizeof(*q->free));
	}
	return 0;
}
