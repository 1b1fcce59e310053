// SPDX-License-Identifier: Apache-2.0
/*
 * roam.h: a VM's lock "/vm" and its disks, without the VM, that go from host to host of one volume. The disks are
 * written in rounds, each synced; what they must hold follows from how many there were. What fails, aborts.
 */
#ifndef TESTS_LIB_ROAM_H
#define TESTS_LIB_ROAM_H

#include "base/util.h"
#include "tests/lib/vol.h"

#define ROAM_DISKS 64u
#define ROAM_DISK  (24 * MiB)
#define ROAM_CHUNK (64 * KiB)
enum { A, B, C }; /* hosts */

struct roam {
	struct vol *v;
	unsigned disks;
	struct cfs_vm_lock *vm[VOL_HOSTS];
	struct cfs_file *file[VOL_HOSTS][ROAM_DISKS];
	uint64_t round; /* of what was written last, to each disk */
};

/* On A, with one round; `hosts` have mounted the volume, which is made unless `v` is one. */
void roam_make(struct roam *w, unsigned disks, unsigned hosts);
/* `faulty`: faults strike all hosts but C. */
void roam_make_as(struct roam *w, struct vol *v, unsigned disks, unsigned hosts, bool faulty);
/* It runs on `i`: all ends well, what is on the disks is whole, for C, too. */
void roam_end(struct roam *w, unsigned i);

struct cfs *roam_fs(struct roam *w, unsigned i);
void roam_open_disks(struct roam *w, unsigned i);
void roam_close_disks(struct roam *w, unsigned i);
void roam_write_round(struct roam *w, unsigned i);
void roam_read_back(struct roam *w, unsigned i);
/* They hold what the rounds up to `durable` left, or, sector by sector, something newer. */
bool roam_right(struct roam *w, unsigned i, uint64_t durable);

int roam_offer(struct roam *w, unsigned from, unsigned to);
int roam_accept(struct roam *w, unsigned from, unsigned to, const void *baggage, size_t size);
int roam_take_up(struct roam *w, unsigned from, unsigned to); /* without baggage */
/* `i` finds that it is lost. */
void roam_forget(struct roam *w, unsigned i);
/* The whole way; with baggage where it pleases. */
void roam_hand_over(struct roam *w, unsigned from, unsigned to, bool with_baggage);

/* All hosts that have the volume see the lock so: on `host`, on its way to `to`. What one sees else is printed. */
bool roam_is_everywhere(struct roam *w, enum cfs_vm_state state, const char *host, const char *to);

/* As a crash of that host's daemon; and until `who` knows that a life is over and replayed. */
void roam_die(struct roam *w, unsigned i);
void roam_wait_over(struct roam *w, unsigned who, unsigned slot, uint32_t epoch);

#endif
