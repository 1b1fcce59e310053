// SPDX-License-Identifier: Apache-2.0
/*
 * bench.c: `depth` requests that are submitted again as soon as they are answered. Latencies go into
 * a histogram of 64 steps an octave, so that nothing is sorted.
 */
#include "vfs/bench.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/loop.h"
#include "base/util.h"
#include "vfs/iothread.h"

#define STEPS 64u
#define SLOTS (40u * STEPS)
#define HUGE  (2 * MiB)

struct bench;

struct lane {
	struct vfs_req req;
	struct iovec iov;
	struct bench *bench;
	uint64_t submitted_ns;
	bool inside;		/* of vfs_submit */
	struct loop_work again; /* answered at once: goes on in the loop, not deeper on the stack */
};

struct bench {
	struct vfs_disk *disk;
	struct vfs_bench_options o;
	struct vfs_bench_result *result;
	struct lane *lanes;
	uint8_t *buffers;
	size_t buffer_bytes;
	uint64_t blocks, next, started, end_ns, state;
	unsigned in_flight, waiting; /* waiting: answered at once, looked at again by the loop */
	bool ending;
	uint64_t *histogram;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	bool done;
};

/* xorshift64*, enough for an order of blocks. */
static uint64_t draw(struct bench *b)
{
	b->state ^= b->state >> 12;
	b->state ^= b->state << 25;
	b->state ^= b->state >> 27;
	return b->state * 0x2545f4914f6cdd1dULL;
}

static uint64_t next_offset(struct bench *b)
{
	uint64_t offset;

	if (b->o.order == VFS_BENCH_RANDOM)
		return draw(b) % b->blocks * b->o.block;
	offset = b->next; /* as qemu-img bench does: whole blocks stay whole when it begins anew */
	b->next = (b->next + b->o.stride) % b->disk->info.size;
	if (b->next + b->o.block > b->disk->info.size)
		b->next = 0;
	return offset;
}

static unsigned slot_of(uint64_t ns)
{
	unsigned octave = ns ? 63u - (unsigned)__builtin_clzll(ns) : 0;
	unsigned step = octave >= 6 ? (unsigned)(ns >> (octave - 6)) & (STEPS - 1) : 0;

	return MIN(octave * STEPS + step, SLOTS - 1);
}

static uint64_t slot_ns(unsigned slot)
{
	unsigned octave = slot / STEPS, step = slot % STEPS;

	return octave >= 6 ? ((uint64_t)STEPS + step) << (octave - 6) : 1ull << octave;
}

static void percentile(struct bench *b, unsigned percent, uint64_t *out)
{
	uint64_t want = b->result->requests * percent / 100, seen = 0;

	for (unsigned i = 0; i < SLOTS; i++) {
		seen += b->histogram[i];
		if (seen > want) {
			*out = slot_ns(i);
			return;
		}
	}
}

static void finish(struct bench *b)
{
	b->result->elapsed_ns = clock_boot_ns() - b->started;
	b->result->cpu_ns = clock_thread_ns() - b->result->cpu_ns;
	percentile(b, 50, &b->result->latency_p50_ns);
	percentile(b, 99, &b->result->latency_p99_ns);
	pthread_mutex_lock(&b->lock);
	b->done = true;
	pthread_cond_signal(&b->cond);
	pthread_mutex_unlock(&b->lock);
}

static void submit(struct lane *lane)
{
	struct bench *b = lane->bench;

	lane->req.op = b->o.op;
	lane->req.flags = 0;
	lane->req.offset = next_offset(b);
	lane->req.length = b->o.block;
	lane->req.iov = &lane->iov;
	lane->req.iovcnt = 1;
	lane->submitted_ns = clock_boot_ns();
	b->in_flight++;
	lane->inside = true;
	vfs_submit(b->disk, &lane->req);
	lane->inside = false;
}

static void go_on(struct lane *lane)
{
	struct bench *b = lane->bench;

	if (!b->ending)
		submit(lane);
	else if (b->in_flight + b->waiting == 0)
		finish(b);
}

static void submit_again(struct loop_work *work)
{
	struct lane *lane = container_of(work, struct lane, again);

	lane->bench->waiting--;
	go_on(lane);
}

static void answered(struct vfs_req *req, int res)
{
	struct lane *lane = container_of(req, struct lane, req);
	struct bench *b = lane->bench;
	uint64_t now = clock_boot_ns(), took = now - lane->submitted_ns;

	b->in_flight--;
	b->result->requests++;
	b->result->errors += res < 0;
	b->histogram[slot_of(took)]++;
	b->result->latency_max_ns = MAX(b->result->latency_max_ns, took);
	if ((b->o.requests && b->result->requests + b->in_flight >= b->o.requests) ||
	    now >= b->end_ns)
		b->ending = true;
	if (lane->inside) {
		b->waiting++;
		loop_defer(b->disk->loop, &lane->again);
	} else {
		go_on(lane);
	}
}

static int begin(void *arg)
{
	struct bench *b = arg;

	b->started = clock_boot_ns();
	b->end_ns = b->o.duration_ms ? b->started + b->o.duration_ms * NS_PER_MS : UINT64_MAX;
	b->result->cpu_ns = clock_thread_ns();
	b->in_flight++; /* so that answers in between do not end it */
	for (unsigned i = 0; i < b->o.depth && !b->ending; i++)
		submit(&b->lanes[i]);
	if (--b->in_flight + b->waiting == 0)
		finish(b);
	return 0;
}

static int check(const struct vfs_disk *disk, const struct vfs_bench_options *o)
{
	if ((o->op != VFS_READ && o->op != VFS_WRITE) || o->depth < 1 || o->depth > 1024 ||
	    o->block == 0 || o->block % disk->info.block_size || o->block > 16 * MiB ||
	    o->block > disk->info.size || (!o->requests && !o->duration_ms) ||
	    (o->order == VFS_BENCH_STRIDE && (!o->stride || o->stride % disk->info.block_size)))
		return fail(
			-EINVAL,
			"bench: depth 1 to 1024, block a multiple of %u up to 16M, an end by time "
			"or count",
			disk->info.block_size);
	return 0;
}

/*
 * Huge pages, as guests' memory is made of: in scattered ones a request of 1 MiB has more segments than
 * some devices take, and the kernel's scheduler no longer joins requests that lie together.
 */
static uint8_t *map_buffers(size_t bytes)
{
	uint8_t *map = mmap(NULL, bytes + HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			    -1, 0),
		*at;

	if (map == MAP_FAILED)
		return NULL;
	at = (uint8_t *)ROUND_UP((uintptr_t)map, (uintptr_t)HUGE);
	if (at > map)
		munmap(map, (size_t)(at - map));
	if (map + HUGE > at)
		munmap(at + bytes, (size_t)(map + HUGE - at));
	(void)madvise(at, bytes, MADV_HUGEPAGE);
	return at;
}

int vfs_bench(struct iothread *thread, struct vfs_disk *disk,
	      const struct vfs_bench_options *options, struct vfs_bench_result *result)
{
	struct bench b = {.disk = disk, .o = *options, .result = result};
	int rc = check(disk, options);

	if (rc < 0)
		return rc;
	b.buffer_bytes = ROUND_UP((size_t)options->depth * options->block, (size_t)HUGE);
	b.buffers = map_buffers(b.buffer_bytes);
	if (!b.buffers)
		return fail(-ENOMEM, "bench: no memory for %u buffers of %u bytes", options->depth,
			    options->block);
	random_bytes(b.buffers, b.buffer_bytes);
	memset(result, 0, sizeof(*result));
	pthread_mutex_init(&b.lock, NULL);
	pthread_cond_init(&b.cond, NULL);
	b.state = options->seed * 2 + 0x9e3779b97f4a7c15ULL;
	b.blocks = disk->info.size / options->block;
	b.histogram = xcalloc(SLOTS, sizeof(*b.histogram));
	b.lanes = xaligned(64, options->depth * sizeof(*b.lanes));
	for (unsigned i = 0; i < options->depth; i++) {
		b.lanes[i].bench = &b;
		b.lanes[i].req.done = answered;
		b.lanes[i].again.fn = submit_again;
		b.lanes[i].iov.iov_base = b.buffers + (size_t)i * options->block;
		b.lanes[i].iov.iov_len = options->block;
	}
	iothread_call(thread, begin, &b);
	pthread_mutex_lock(&b.lock);
	while (!b.done)
		pthread_cond_wait(&b.cond, &b.lock);
	pthread_mutex_unlock(&b.lock);
	free(b.histogram);
	free(b.lanes);
	munmap(b.buffers, b.buffer_bytes);
	return 0;
}
