// SPDX-License-Identifier: Apache-2.0
/* estimate.c: when the guest is stopped. */
#include "migrate/estimate.h"

#include "base/clock.h"
#include "base/util.h"

#define RATE_UNKNOWN  (64 * MiB)
#define RATE_LEAST    (1 * MiB)	  /* bytes that make a rate */
#define SETTLED_BYTES (512 * KiB) /* fewer are not worth a round */
#define POLISH_ROUNDS 8u	  /* that much is done for a shorter blackout than was asked for */

void mig_estimate_init(struct mig_estimate *e, uint64_t max_downtime_ns, uint64_t constant_ns)
{
	*e = (struct mig_estimate){
		.max_downtime_ns = max_downtime_ns,
		.constant_ns = constant_ns,
		.best = UINT64_MAX,
		.last = UINT64_MAX,
	};
}

void mig_estimate_round(struct mig_estimate *e, uint64_t bytes, uint64_t ns)
{
	uint64_t rate;

	e->rounds++;
	if (bytes < RATE_LEAST)
		return;
	rate = (uint64_t)((double)bytes * (double)NS_PER_S / (double)MAX(ns, 1));
	e->rate = e->rate ? (e->rate + rate) / 2 : rate;
}

uint64_t mig_estimate_blackout(const struct mig_estimate *e, uint64_t remaining)
{
	uint64_t rate = e->rate ? e->rate : RATE_UNKNOWN;

	return e->constant_ns + (uint64_t)((double)remaining * (double)NS_PER_S / (double)rate);
}

static enum mig_verdict slow_down(struct mig_estimate *e)
{
	e->stalls = 0;
	e->best = UINT64_MAX;
	if (e->throttle >= MIG_THROTTLE_MAX)
		return MIG_GIVE_UP;
	e->throttle = e->throttle ? MIN(e->throttle + MIG_THROTTLE_STEP, MIG_THROTTLE_MAX)
				  : MIG_THROTTLE_FIRST;
	return MIG_THROTTLE;
}

enum mig_verdict mig_estimate_decide(struct mig_estimate *e, uint64_t remaining)
{
	uint64_t last = e->last;

	e->slow = e->constant_ns > e->max_downtime_ns ? e->slow + 1 : 0;
	if (e->slow) /* neither pages that are sent nor a throttle make that less */
		return e->slow >= MIG_SLOW ? MIG_GIVE_UP : MIG_ROUND;
	e->last = remaining;
	if (mig_estimate_blackout(e, remaining) <= e->max_downtime_ns) {
		/* Short enough; shorter yet while a round still halves it. */
		if (remaining <= SETTLED_BYTES || remaining > last / 2 ||
		    e->rounds >= POLISH_ROUNDS)
			return MIG_GO;
		return MIG_ROUND;
	}
	if (remaining < e->best) {
		e->best = remaining;
		e->stalls = 0;
		return MIG_ROUND;
	}
	return ++e->stalls >= MIG_STALLS ? slow_down(e) : MIG_ROUND;
}
