// SPDX-License-Identifier: Apache-2.0
/*
 * estimate.h: whether it is time to stop the guest. Pure: numbers in, a verdict out.
 *
 * The blackout is what remains at the rate that was measured, and what it takes anyway: the drain, the
 * checkpoint, the state, the hand-over. A round that leaves no less than any before is a stall; three in
 * a row and the vCPUs get less time, in steps, up to MIG_THROTTLE_MAX; then it is given up. So it is when
 * the blackout without pages alone is too long MIG_SLOW times in a row: storage may stall for a moment.
 */
#ifndef MIGRATE_ESTIMATE_H
#define MIGRATE_ESTIMATE_H

#include <stdint.h>

#define MIG_STALLS	   3u
#define MIG_SLOW	   20u
#define MIG_THROTTLE_FIRST 20u /* per cent of the time that is taken from the vCPUs */
#define MIG_THROTTLE_STEP  10u
#define MIG_THROTTLE_MAX   99u

enum mig_verdict { MIG_GO, MIG_ROUND, MIG_THROTTLE, MIG_GIVE_UP };

struct mig_estimate {
	uint64_t max_downtime_ns;
	uint64_t constant_ns; /* of the blackout, without pages */
	uint64_t rate;	      /* bytes a second; 0: not measured yet */
	uint64_t best;	      /* the fewest bytes that remained after a round */
	uint64_t last;	      /* ... after the last one */
	unsigned rounds, stalls, throttle, slow;
};
void mig_estimate_init(struct mig_estimate *e, uint64_t max_downtime_ns, uint64_t constant_ns);
/* A round sent `bytes` in `ns`. */
void mig_estimate_round(struct mig_estimate *e, uint64_t bytes, uint64_t ns);
/* How long the guest would stand still, ns. */
uint64_t mig_estimate_blackout(const struct mig_estimate *e, uint64_t remaining);
/* After a round, with that many bytes written meanwhile. MIG_THROTTLE: e->throttle is what to set. */
enum mig_verdict mig_estimate_decide(struct mig_estimate *e, uint64_t remaining);

#endif
