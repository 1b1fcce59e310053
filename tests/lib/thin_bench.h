// SPDX-License-Identifier: Apache-2.0
/*
 * thin_bench.h: a rig (rig.h) on a file LUN of its own, with faults over it, for tests; and random requests of
 * several lanes against a model in memory. What goes wrong fails the test that runs.
 */
#ifndef TESTS_LIB_THIN_BENCH_H
#define TESTS_LIB_THIN_BENCH_H

#include <stdbool.h>
#include <stdint.h>

#include "base/util.h"
#include "tests/lib/rig.h"
#include "vfs/disk.h"

#define THIN_BENCH_SIZE (48 * MiB) /* of the disk */

struct thin_bench {
	struct rig rig;
	char *lun, state[64];
	struct blk *blk;
	unsigned timeout_ms; /* of the LUN, from the next thin_bench_open on; 0: as ever */
};
static inline struct thin_bench *thin_bench_of(struct rig *r)
{
	return container_of(r, struct thin_bench, rig);
}

#define THIN_BENCH_STRANGER 0xee /* what a used LUN held before */
/* Formats a LUN of `lun_bytes`, and opens. */
struct rig *thin_bench_setup(uint64_t lun_bytes, bool used);
void thin_bench_teardown(struct rig *r);
/* The LUN, the volume, the disk. */
void thin_bench_open(struct rig *r);
void thin_bench_close(struct rig *r);

#define THIN_BENCH_LANES 8u /* requests in flight, each in its own eighth of the disk */
/* Starts one of any kind in a lane; `buf` of 1 MiB. The model is as it will be. */
void thin_bench_random(struct rig_job *j, struct rig *r, unsigned lane, unsigned *seed,
		       uint8_t *model, uint8_t *buf, enum vfs_op *op);

#endif
