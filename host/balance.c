// SPDX-License-Identifier: Apache-2.0
/* balance.c: see balance.h. */
#include "host/balance.h"

#include "base/util.h"

#define LOW_PART 16
#define LOW_MIN	 (64 * MiB)
#define STEP	 MiB /* targets are multiples of it */

void balance_marks(uint64_t total, struct balance_host *h)
{
	h->low = MAX(total / LOW_PART, LOW_MIN);
	h->high = 2 * h->low;
}

/* What it would give at most: of what it has, not of what it may have and does not use. */
static uint64_t has_to_give(const struct balance_vm *v)
{
	uint64_t has = MIN(v->want, v->used), keeps = v->reserved;

	return v->obeys && has > keeps ? has - keeps : 0;
}

static uint64_t room_of(const struct balance_vm *v)
{
	return v->memory - MIN(v->memory, v->want);
}

/* Each gets or gives `part` in proportion; what one cannot take is the others' in the next round. */
static uint64_t share_out(struct balance_vm *vm, unsigned n, uint64_t amount, bool give)
{
	for (unsigned round = 0; amount >= STEP && round < 64; round++) {
		uint64_t left = amount;
		double sum = 0;

		for (unsigned i = 0; i < n; i++)
			sum += give ? (double)has_to_give(&vm[i]) / vm[i].shares
				    : (room_of(&vm[i]) ? vm[i].shares : 0);
		if (sum <= 0)
			return amount;
		for (unsigned i = 0; i < n && left; i++) {
			struct balance_vm *v = &vm[i];
			uint64_t most = give ? has_to_give(v) : room_of(v), part;
			double weight = give ? (double)most / v->shares : most ? v->shares : 0;

			part = (uint64_t)((double)amount * weight / sum);
			part = MIN(MIN(ROUND_UP(part, STEP), most), left);
			if (!part)
				continue;
			v->want = give ? MIN(v->want, v->used) - part : v->want + part;
			left -= part;
		}
		if (left == amount)
			return amount;
		amount = left;
	}
	return amount < STEP ? 0 : amount;
}

uint64_t balance(const struct balance_host *h, struct balance_vm *vm, unsigned n)
{
	uint64_t available = h->available;

	for (unsigned i = 0; i < n; i++) {
		struct balance_vm *v = &vm[i];

		v->want = MIN(v->target, v->memory);
		v->reserved = MIN(v->reserved, v->memory);
		/* Reservations grow, too: what is reserved it has at once. */
		v->want = MAX(v->want, v->reserved);
		if (v->obeys && v->asked && v->used > v->want)
			available += v->used - v->want;
	}
	if (available < h->low)
		return share_out(vm, n, h->high - available, true);
	if (available >
	    h->high) /* half of it: what they get they use, and that is seen next time */
		(void)share_out(vm, n, (available - h->high) / 2, false);
	return 0;
}

int balance_last_resort(const struct balance_vm *vm, unsigned n)
{
	int least = -1;

	for (unsigned i = 0; i < n; i++) {
		const struct balance_vm *v = &vm[i];

		if (v->reserved >= v->memory || v->stays)
			continue;
		if (least < 0 || v->shares < vm[least].shares ||
		    (v->shares == vm[least].shares && v->used > vm[least].used))
			least = (int)i;
	}
	return least;
}
