// SPDX-License-Identifier: Apache-2.0
/*
 * bench.h: load on a disk at the entry point of a vring request (vfs_submit), in its own I/O thread.
 */
#ifndef VFS_BENCH_H
#define VFS_BENCH_H

#include "vfs/disk.h"

struct iothread;

enum vfs_bench_order {
	VFS_BENCH_RANDOM, /* blocks drawn from the whole disk, seeded */
	VFS_BENCH_STRIDE, /* 0, stride, 2*stride, ... modulo the disk, as `qemu-img bench -S` */
};

struct vfs_bench_options {
	enum vfs_op op; /* VFS_READ or VFS_WRITE */
	enum vfs_bench_order order;
	unsigned depth;	      /* requests in flight, 1 to 1024 */
	uint32_t block;	      /* bytes of a request */
	uint64_t stride;      /* bytes; STRIDE: block for sequential */
	uint64_t requests;    /* ends after that many, 0: no such end */
	uint64_t duration_ms; /* or after that time, 0: no such end */
	uint64_t seed;
};

struct vfs_bench_result {
	uint64_t requests, errors;
	uint64_t elapsed_ns;
	uint64_t cpu_ns; /* of the I/O thread, user and system */
	uint64_t latency_p50_ns, latency_p99_ns, latency_max_ns;
};

/* Blocks until the last request is answered. -EINVAL. Not from the I/O thread. */
int vfs_bench(struct iothread *thread, struct vfs_disk *disk,
	      const struct vfs_bench_options *options, struct vfs_bench_result *result);

#endif
