// SPDX-License-Identifier: Apache-2.0
/*
 * bench.c: `disk bench`: load on a disk through the same entry point as a guest's requests, on an
 * I/O thread of its own.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/pool.h"
#include "base/util.h"
#include "clusterfs/cfs.h"
#include "host/daemon.h"
#include "host/holder.h"
#include "host/names.h"
#include "host/verbs.h"
#include "host/volume.h"
#include "vfs/bench.h"
#include "vfs/chans.h"
#include "vfs/iothread.h"
#include "vfs/thin.h"

#define IO_ENTRIES   2048
#define DEPTH_MAX    1024
#define BLOCK_MAX    (16 * MiB)
#define SECONDS_MAX  3600
#define SECONDS	     5
#define POOL_THREADS 2

struct stage {
	struct iothread *thread;
	struct pool *pool;
	struct vfs_chans *chans;
	struct cfs_file *file;
	struct vfs_disk *disk;
};

static int take_words(struct host_call *call, struct vfs_bench_options *o)
{
	const char *op = host_arg(call, "op"), *pattern = host_arg(call, "pattern");

	if (op && strcmp(op, "read") && strcmp(op, "write"))
		return fail(-EINVAL, "--op %s: say read or write", op);
	if (pattern && strcmp(pattern, "random") && strcmp(pattern, "stride"))
		return fail(-EINVAL, "--pattern %s: say random or stride", pattern);
	o->op = op && !strcmp(op, "write") ? VFS_WRITE : VFS_READ;
	o->order = pattern && !strcmp(pattern, "stride") ? VFS_BENCH_STRIDE : VFS_BENCH_RANDOM;
	return 0;
}

static int take_numbers(struct host_call *call, struct vfs_bench_options *o)
{
	uint64_t depth, block, seconds;
	int rc = host_arg_u64(call, "depth", 32, &depth);

	if (rc == 0)
		rc = host_arg_u64(call, "bs", 4096, &block);
	if (rc == 0)
		rc = host_arg_u64(call, "requests", 0, &o->requests);
	if (rc == 0)
		rc = host_arg_u64(call, "seconds", o->requests ? 0 : SECONDS, &seconds);
	if (rc == 0)
		rc = host_arg_u64(call, "stride", block, &o->stride);
	if (rc == 0)
		rc = host_arg_u64(call, "seed", 1, &o->seed);
	if (rc < 0)
		return rc;
	if (depth < 1 || depth > DEPTH_MAX)
		return fail(-EINVAL, "--depth: 1 to %d", DEPTH_MAX);
	if (block < 512 || block > BLOCK_MAX || block % 512 || o->stride % 512 || !o->stride)
		return fail(-EINVAL, "--bs, --stride: multiples of 512, --bs at most 16M");
	if (seconds > SECONDS_MAX)
		return fail(-EINVAL, "--seconds: at most %d", SECONDS_MAX);
	o->depth = (unsigned)depth;
	o->block = (uint32_t)block;
	o->duration_ms = 1000 * seconds;
	return 0;
}

struct closing {
	struct vfs_disk *disk;
	pthread_mutex_t lock;
	pthread_cond_t done;
	bool closed;
};

static void disk_closed(void *arg)
{
	struct closing *c = arg;

	pthread_mutex_lock(&c->lock);
	c->closed = true;
	pthread_cond_signal(&c->done);
	pthread_mutex_unlock(&c->lock);
}

static int close_disk(void *arg)
{
	struct closing *c = arg;

	vfs_close(c->disk, disk_closed, c);
	return 0;
}

static int stage_end(struct stage *s)
{
	struct closing c = {s->disk, PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false};
	int rc = 0;

	if (s->disk) {
		(void)iothread_call(s->thread, close_disk, &c);
		pthread_mutex_lock(&c.lock);
		while (!c.closed)
			pthread_cond_wait(&c.done, &c.lock);
		pthread_mutex_unlock(&c.lock);
	}
	if (s->file)
		rc = cfs_close(s->file);
	if (s->chans)
		vfs_chans_close(s->chans);
	if (s->thread)
		iothread_destroy(s->thread);
	pool_destroy(s->pool);
	return rc;
}

static int stage_begin(struct stage *s, struct cfs *fs, const char *path, bool write)
{
	int rc = cfs_open(fs, path, write ? CFS_OPEN_WRITE : 0, 0, &s->file);

	if (rc == 0)
		rc = pool_create(&s->pool, "bench", POOL_THREADS);
	if (rc == 0)
		rc = iothread_create(&s->thread, "io/bench", IO_ENTRIES);
	if (rc == 0)
		rc = vfs_chans_open(fs, iothread_loop(s->thread), s->pool, &s->chans);
	if (rc == 0)
		rc = vfs_thin_open(s->chans, s->file, path, &s->disk);
	return rc;
}

static json_t *describe(const struct vfs_bench_options *o, const struct vfs_bench_result *r)
{
	double seconds = (double)r->elapsed_ns / 1e9;
	double n = r->requests ? (double)r->requests : 1;

	return json_pack(
		"{s:s, s:s, s:i, s:i, s:I, s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "op",
		o->op == VFS_WRITE ? "write" : "read", "pattern",
		o->order == VFS_BENCH_STRIDE ? "stride" : "random", "bs", (int)o->block, "depth",
		(int)o->depth, "requests", (json_int_t)r->requests, "errors", (json_int_t)r->errors,
		"seconds", seconds, "iops", (double)r->requests / seconds, "bytes_per_second",
		(double)r->requests * o->block / seconds, "p50_us", (double)r->latency_p50_ns / 1e3,
		"p99_us", (double)r->latency_p99_ns / 1e3, "max_us",
		(double)r->latency_max_ns / 1e3, "cpu_us_per_request", (double)r->cpu_ns / 1e3 / n);
}

static int disk_bench(struct host_call *call)
{
	struct vfs_bench_options o = {0};
	struct vfs_bench_result r = {0};
	struct stage stage = {0};
	struct host_volume *v;
	struct err_info why;
	const char *path;
	int rc = take_words(call, &o), end;

	if (rc == 0)
		rc = take_numbers(call, &o);
	if (rc == 0)
		rc = host_need_object(call, "path", &v, &path);
	if (rc < 0)
		return rc;
	rc = stage_begin(&stage, host_volume_fs(v), path, o.op == VFS_WRITE);
	if (rc == 0)
		rc = host_progress(call, 0, 0, "measuring");
	if (rc == 0)
		rc = vfs_bench(stage.thread, stage.disk, &o, &r);
	err_save(&why, rc);
	end = stage_end(&stage);
	rc = rc < 0 ? err_restore(&why) : end;
	rc = host_name_holder(v, path, rc);
	host_volume_put(v);
	if (rc == 0)
		call->result = describe(&o, &r);
	return rc;
}

const struct host_verb host_bench_verbs[] = {
	{"disk", "bench", HOST_CHANGES | HOST_TASK, disk_bench},
	{NULL, NULL, 0, NULL},
};
