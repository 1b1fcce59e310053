// SPDX-License-Identifier: Apache-2.0
/*
 * pager.h: post-copy at the target: a guest runs here before all of its memory has come.
 *
 * A map says which pages are there; it is shared with the controller, which touches no others (a page that is touched
 * through the daemon's own mapping would be made, full of zeroes). Threads of the VMM that touch one wait in the
 * kernel (userfaultfd(2)) until it is put in place here, in one step. Pages come in any thread; one thread asks for
 * those that somebody waits for, and resolves what needs no asking (holes).
 */
#ifndef MIGRATE_PAGER_H
#define MIGRATE_PAGER_H

#include <stdbool.h>
#include <stdint.h>

#include "migrate/wire.h"

struct mig_dirty;
struct mig_pager;

struct mig_pager_ops {
	/* Pages to ask the source for, at most PEER_MIG_WANTS_MAX; n 0: only that we live. From mig_pager_run. */
	int (*ask)(void *arg, const uint64_t *offsets, unsigned n);
};

/*
 * The pages of `stale`, which is emptied, are not there: their old bytes go, and nobody touches them from now on but
 * through `faults` (taken, a userfaultfd that covers all of the memory, `base` being its first byte in its
 * process). -EAGAIN: the kernel does not let go of some.
 */
int mig_pager_create(struct mig_pager **out, int memory_fd, uint64_t memory, int faults,
		     uint64_t base, struct mig_dirty *stale);
/* No thread is in here any more. Who waits in the VMM, waits on. */
void mig_pager_destroy(struct mig_pager *p);
/* The map: bit n: page n is there. Valid until mig_pager_destroy. */
const uint64_t *mig_pager_present(const struct mig_pager *p);
/* Any thread: `came(arg)` is called after pages were put in place. Set before any come. */
void mig_pager_listen(struct mig_pager *p, void (*came)(void *arg), void *arg);

/*
 * Ranges that mig_ranges_decode let through; `data` NULL: zeroes. Pages that came already stay. -EEXIST: somebody has
 * made one that had not come, past `faults`: the memory is lost. -ESRCH, of mig_pager_run as well: the process whose
 * memory it is has ended, and nothing is wrong with the memory.
 */
int mig_pager_place(struct mig_pager *p, const struct mig_range *ranges, unsigned n,
		    const uint8_t *data);
/* Any thread, waits for nothing: somebody waits for the page at `offset`. */
void mig_pager_want(struct mig_pager *p, uint64_t offset);
/* In one thread, until all pages are there, and nobody waits for any any more: 0; or until `ask` fails, or mig_pager_stop: its error. */
int mig_pager_run(struct mig_pager *p, const struct mig_pager_ops *ops, void *arg);
/* Any thread: mig_pager_run ends with the error, if it has not ended well by then. */
void mig_pager_stop(struct mig_pager *p, int err);
uint64_t mig_pager_left(const struct mig_pager *p); /* pages */

#endif
