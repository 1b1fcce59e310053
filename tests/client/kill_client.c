// SPDX-License-Identifier: Apache-2.0
/*
 * kill_client: keeps a vhost-user-blk server busy at full depth while it is killed and started
 * again, and checks every answer.
 *
 *	kill_client SOCKET SECONDS SEED [DEPTH]
 *
 * Blocks of 4 KiB; at most one request a block at a time. A write carries {block, counter} in each
 * 512 bytes; a read must find the last one acknowledged. Every head must be answered exactly once;
 * at the end all blocks are read. Prints "ok WRITES READS RECONNECTS", or what is wrong (exit 1).
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/util.h"
#include "tests/lib/front.h"

#define BLOCKS	4096u
#define BLOCK	4096u
#define RING	256u
#define STUCK_S 40

struct slot {
	bool busy, write;
	unsigned block;
	uint64_t counter;
};
struct client {
	struct front f;
	const char *path;
	unsigned depth;
	uint64_t x, counter;
	uint64_t acked[BLOCKS]; /* counter that was last acknowledged; 0: never written */
	bool busy[BLOCKS];
	struct slot slot[RING];
	int slot_of[RING]; /* by head; -1: nothing is asked */
	uint64_t writes, reads, reconnects;
};

static uint64_t roll(struct client *c)
{
	c->x ^= c->x << 13;
	c->x ^= c->x >> 7;
	c->x ^= c->x << 17;
	return c->x;
}

static uint64_t place(const struct client *c, unsigned slot)
{
	return c->f.data_offset + slot * 8192ULL;
}

static void fill(uint8_t *p, uint64_t block, uint64_t counter)
{
	for (unsigned i = 0; i < BLOCK; i += 16) {
		memcpy(p + i, &block, 8);
		memcpy(p + i + 8, &counter, 8);
	}
}

static int put(struct client *c, unsigned slot, unsigned block, bool write)
{
	uint64_t at = place(c, slot);
	struct virtio_blk_outhdr *h = (void *)(c->f.mem + at);
	struct front_piece p[3] = {{at, 16}, {at + 4096, BLOCK}, {at + 512, 1}};
	int head;

	c->slot[slot] = (struct slot){true, write, block, ++c->counter};
	c->busy[block] = true;
	*h = (struct virtio_blk_outhdr){.type = write, .sector = block * (BLOCK / 512)};
	c->f.mem[at + 512] = 0xff;
	if (write)
		fill(c->f.mem + at + 4096, block, c->counter);
	else
		memset(c->f.mem + at + 4096, 0xaa, BLOCK);
	head = front_add(&c->f, 0, p, write ? 2 : 1, write ? 1 : 2);
	if (head < 0)
		return fail(-EPROTO, "no chain is free for slot %u", slot);
	c->slot_of[head] = (int)slot;
	return 0;
}

static int check(struct client *c, int head)
{
	int n = c->slot_of[head];
	uint8_t expect[BLOCK];
	struct slot *s;

	if (n < 0)
		return fail(-EPROTO, "head %d was answered twice", head);
	s = &c->slot[n];
	c->slot_of[head] = -1;
	c->busy[s->block] = false;
	s->busy = false;
	if (c->f.mem[place(c, (unsigned)n) + 512] != VIRTIO_BLK_S_OK)
		return fail(-EIO, "block %u: status %u", s->block,
			    c->f.mem[place(c, (unsigned)n) + 512]);
	if (s->write) {
		c->acked[s->block] = s->counter;
		c->writes++;
		return 0;
	}
	c->reads++;
	fill(expect, s->block, c->acked[s->block]);
	if (c->acked[s->block] && memcmp(expect, c->f.mem + place(c, (unsigned)n) + 4096, BLOCK))
		return fail(-EILSEQ, "block %u: write %llu was acknowledged and is not there",
			    s->block, (unsigned long long)c->acked[s->block]);
	return 0;
}

/* Takes what is answered; connects again when the server went away. */
static int serve(struct client *c)
{
	struct pollfd p = {.fd = c->f.fd, .events = POLLIN | POLLRDHUP};
	int head, rc;

	head = front_wait(&c->f, 0, NULL, 20);
	while (head >= 0) {
		rc = check(c, head);
		if (rc < 0)
			return rc;
		head = front_get(&c->f, 0, NULL);
	}
	if (head != -EAGAIN && head != -ETIMEDOUT)
		return head;
	if (poll(&p, 1, 0) == 1) {
		c->reconnects++;
		rc = front_connect(&c->f, c->path, 20000);
		if (rc < 0)
			return rc;
		front_kick_always(&c->f, 0);
	}
	return 0;
}

static int drain(struct client *c)
{
	uint64_t end = clock_boot_ns() + STUCK_S * NS_PER_S;

	while (c->f.q[0].free_count < RING / 4) {
		int rc = serve(c);

		if (rc < 0)
			return rc;
		if (clock_boot_ns() > end)
			return fail(-ETIMEDOUT, "%u requests were never answered",
				    RING / 4 - c->f.q[0].free_count);
	}
	return 0;
}

static int storm(struct client *c, uint64_t end)
{
	while (clock_boot_ns() < end) {
		uint16_t old = c->f.q[0].avail_idx;
		int rc;

		for (unsigned i = 0; i < c->depth; i++) {
			unsigned block = (unsigned)(roll(c) % BLOCKS);

			if (c->slot[i].busy || c->busy[block])
				continue;
			rc = put(c, i, block, roll(c) % 3 != 0);
			if (rc < 0)
				return rc;
		}
		front_kick(&c->f, 0, old);
		rc = serve(c);
		if (rc < 0)
			return rc;
	}
	return drain(c);
}

static int read_all(struct client *c)
{
	for (unsigned block = 0; block < BLOCKS; block++) {
		uint16_t old = c->f.q[0].avail_idx;
		int rc = put(c, 0, block, false);

		if (rc < 0)
			return rc;
		front_kick(&c->f, 0, old);
		rc = drain(c);
		if (rc < 0)
			return rc;
	}
	return 0;
}

int main(int argc, char **argv)
{
	struct client *c = xcalloc(1, sizeof(*c));
	int rc;

	if (argc < 4) {
		fprintf(stderr, "usage: kill_client SOCKET SECONDS SEED [DEPTH]\n");
		return 2;
	}
	c->path = argv[1];
	c->x = strtoull(argv[3], NULL, 0) * 0x9e3779b97f4a7c15ULL + 1;
	c->depth = argc > 4 ? (unsigned)atoi(argv[4]) : 32;
	memset(c->slot_of, -1, sizeof(c->slot_of));
	rc = front_init(&c->f, 1, RING, 8 * MiB);
	if (rc == 0)
		rc = front_connect(&c->f, c->path, 20000);
	if (rc == 0)
		rc = storm(c, clock_boot_ns() + (uint64_t)(atof(argv[2]) * 1e9));
	if (rc == 0)
		rc = read_all(c);
	if (rc < 0) {
		printf("failed: %s\n", err_message(rc));
		return 1;
	}
	printf("ok %llu %llu %llu\n", (unsigned long long)c->writes, (unsigned long long)c->reads,
	       (unsigned long long)c->reconnects);
	front_free(&c->f);
	return 0;
}
