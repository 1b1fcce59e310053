// SPDX-License-Identifier: Apache-2.0
/*
 * vhost_client: random requests to a vhost-user-blk server, from a driver of its own.
 *
 *	vhost_client SOCKET read|write SECONDS [DEPTH [BYTES [SEED]]]
 *
 * Prints "IOPS REQUESTS". The same seed asks for the same blocks in the same order.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/util.h"
#include "tests/lib/front.h"

struct bench {
	struct front f;
	bool write;
	unsigned depth, bytes;
	uint64_t blocks, x;
	unsigned slot_of[1024]; /* by head */
};

static uint64_t next_block(struct bench *b)
{
	b->x ^= b->x << 13; /* xorshift64 */
	b->x ^= b->x >> 7;
	b->x ^= b->x << 17;
	return b->x % b->blocks;
}

static int submit(struct bench *b, unsigned slot)
{
	uint64_t header = b->f.data_offset + slot * 4096ULL;
	uint64_t data = b->f.data_offset + b->depth * 4096ULL + (uint64_t)slot * b->bytes;
	struct virtio_blk_outhdr *h = (void *)(b->f.mem + header);
	struct front_piece p[3] = {{header, sizeof(*h)}, {data, b->bytes}, {header + 512, 1}};
	int head;

	h->type = b->write ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN;
	h->sector = next_block(b) * (b->bytes / 512);
	b->f.mem[header + 512] = 0xff;
	head = front_add(&b->f, 0, p, b->write ? 2 : 1, b->write ? 1 : 2);
	if (head >= 0)
		b->slot_of[head] = slot;
	return head;
}

static int capacity(struct bench *b)
{
	struct vhost_user_msg msg = {.request = VHOST_USER_GET_CONFIG,
				     .flags = VHOST_USER_VERSION,
				     .size = VHOST_USER_CONFIG_HEADER + 8},
			      reply;
	uint64_t sectors;
	int rc;

	msg.payload.config.size = 8;
	rc = vhost_user_call(b->f.fd, &msg, &reply, 5000);
	if (rc < 0)
		return rc;
	memcpy(&sectors, reply.payload.config.data, 8);
	b->blocks = sectors * 512 / b->bytes;
	return b->blocks ? 0 : fail(-EINVAL, "the disk is empty");
}

static int run(struct bench *b, uint64_t ns, uint64_t *done, uint64_t *took)
{
	uint64_t start = clock_boot_ns(), end = start + ns;
	uint16_t old = b->f.q[0].avail_idx;
	int head;

	for (unsigned i = 0; i < b->depth; i++)
		if (submit(b, i) < 0)
			return fail(-EINVAL, "depth %u does not fit the ring", b->depth);
	front_kick(&b->f, 0, old);
	*done = 0;
	for (;;) {
		bool more = clock_boot_ns() < end;

		old = b->f.q[0].avail_idx;
		head = front_wait(&b->f, 0, NULL, 30000);
		for (; head >= 0; head = front_get(&b->f, 0, NULL)) {
			unsigned slot = b->slot_of[head];

			if (b->f.mem[b->f.data_offset + slot * 4096ULL + 512] != VIRTIO_BLK_S_OK)
				return fail(-EIO, "a request failed");
			(*done)++;
			if (more)
				submit(b, slot);
		}
		if (head != -EAGAIN)
			return head;
		if (more)
			front_kick(&b->f, 0, old);
		else if (b->f.q[0].free_count == b->f.q[0].size / 4)
			break;
	}
	*took = clock_boot_ns() - start;
	return 0;
}

int main(int argc, char **argv)
{
	struct bench b = {.depth = 32, .bytes = 4096, .x = 88172645463325252ULL};
	uint64_t done = 0, took = 1;
	int rc;

	if (argc < 4) {
		fprintf(stderr, "usage: vhost_client SOCKET read|write SECONDS [DEPTH [BYTES "
				"[SEED]]]\n");
		return 2;
	}
	b.write = !strcmp(argv[2], "write");
	if (argc > 4)
		b.depth = (unsigned)atoi(argv[4]);
	if (argc > 5)
		b.bytes = (unsigned)atoi(argv[5]);
	if (argc > 6)
		b.x ^= strtoull(argv[6], NULL, 0) << 32;
	rc = front_init(&b.f, 1, 256, 64 * MiB);
	b.f.protocol &= ~(1ULL << VHOST_USER_PROTOCOL_F_REPLY_ACK);
	if (rc == 0)
		rc = front_connect(&b.f, argv[1], 5000);
	if (rc == 0)
		rc = capacity(&b);
	if (rc == 0)
		rc = run(&b, (uint64_t)(atof(argv[3]) * 1e9), &done, &took);
	if (rc < 0) {
		fprintf(stderr, "vhost_client: %s\n", err_message(rc));
		return 1;
	}
	printf("%.0f %llu\n", (double)done * 1e9 / (double)took, (unsigned long long)done);
	front_free(&b.f);
	return 0;
}
