// SPDX-License-Identifier: Apache-2.0
/*
 * blk_bench.c: I/O a second through one channel of a LUN, for comparison with fio and iscsi-perf.
 *
 *   blk_bench LUN read|write DEPTH BYTES SECONDS      random offsets; writes destroy what is there
 *
 * Prints requests a second, and on standard error the CPU time of a request. With --fault the fault
 * filter lies over the LUN, as in the daemon.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/loop.h"
#include "blockdev/blk.h"

struct bench {
	struct blk_chan *chan;
	enum blk_op op;
	uint64_t bytes, slots, random, done, end_ns;
	unsigned left;
};

struct slot {
	struct blk_req req;
	struct iovec iov;
	struct bench *bench;
};

static void next(struct slot *s)
{
	struct bench *b = s->bench;

	b->random ^= b->random << 13;
	b->random ^= b->random >> 7;
	b->random ^= b->random << 17;
	blk_prep_rw(&s->req, b->op, b->random % b->slots * b->bytes, &s->iov, 1, b->bytes, 0);
	blk_submit(b->chan, &s->req);
}

static void slot_done(struct blk_req *req, int res)
{
	struct slot *s = container_of(req, struct slot, req);

	if (res < 0) {
		fprintf(stderr, "blk_bench: error %d\n", res);
		exit(1);
	}
	s->bench->done++;
	if (s->bench->end_ns > clock_boot_ns())
		next(s);
	else
		s->bench->left--;
}

static double cpu_seconds(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
	       (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

int main(int argc, char **argv)
{
	bool fault = argc > 1 && strcmp(argv[1], "--fault") == 0;
	struct bench b = {.random = 88172645463325252ULL};
	unsigned depth, seconds;
	struct slot *slots;
	struct loop *loop;
	struct blk *blk;
	uint64_t start;
	double cpu;
	int rc;

	argv += fault;
	argc -= fault;
	if (argc != 6) {
		fprintf(stderr, "usage: blk_bench [--fault] LUN read|write DEPTH BYTES SECONDS\n");
		return 2;
	}
	b.op = strcmp(argv[2], "write") == 0 ? BLK_WRITE : BLK_READ;
	depth = b.left = (unsigned)atoi(argv[3]);
	b.bytes = strtoull(argv[4], NULL, 0);
	seconds = (unsigned)atoi(argv[5]);
	rc = blk_open(argv[1], NULL, &blk);
	if (rc == 0 && fault)
		rc = blk_fault_wrap(blk, &blk);
	if (rc == 0)
		rc = loop_create(&loop, 256);
	if (rc == 0)
		rc = blk_chan_open(blk, loop, BLK_CHAN_DATA, &b.chan);
	if (rc < 0) {
		fprintf(stderr, "blk_bench: %s\n", err_message(rc));
		return 1;
	}
	b.slots = blk_info(blk)->size / b.bytes;
	slots = xcalloc(depth, sizeof(*slots));
	cpu = cpu_seconds();
	start = clock_boot_ns();
	b.end_ns = start + seconds * NS_PER_S;
	for (unsigned i = 0; i < depth; i++) {
		slots[i].bench = &b;
		slots[i].iov = (struct iovec){xaligned(4096, b.bytes), b.bytes};
		slots[i].req.done = slot_done;
		next(&slots[i]);
	}
	while (b.left)
		if (loop_turn(loop, UINT64_MAX) < 0)
			return 1;
	printf("%.0f\n", (double)b.done / ((double)(clock_boot_ns() - start) / 1e9));
	fprintf(stderr, "%.2f us of CPU a request\n", (cpu_seconds() - cpu) * 1e6 / (double)b.done);
	blk_chan_close(b.chan);
	(void)loop_turn(loop, 0);
	(void)loop_turn(loop, 0);
	loop_destroy(loop);
	blk_close(blk);
	for (unsigned i = 0; i < depth; i++)
		free(slots[i].iov.iov_base);
	free(slots);
	return 0;
}
