// SPDX-License-Identifier: Apache-2.0
/*
 * vm_sweep.h (private to host): pages of a guest that are all zeroes go back to the host, which has to make them again
 * only when they are touched. For guests that do not report what they free.
 *
 * They are looked for while the guest runs. Then nobody may write to its memory for a moment: its controller is
 * quiesced (data of reads, used rings), its VMM is paused (processors, its own devices, vhost-net), these pages are
 * looked at once more, and punched out of the memfd where they are zero still. To those who read them nothing changes:
 * no log of written pages has to know.
 */
#ifndef HOST_VM_SWEEP_H
#define HOST_VM_SWEEP_H

#include <stdint.h>

struct host_vm;

#define VM_SWEEP_PAGE  4096u
#define VM_SWEEP_WORTH (16u << 20)  /* fewer bytes are not worth that the guest stands still */
#define VM_SWEEP_MOST  (32u << 20)  /* nor is it held for more */
#define VM_SWEEP_LOOK  (512u << 20) /* of its memory are looked at at a time */

/* host_vm's; the balancer's alone. */
struct vm_sweep {
	uint64_t at;	   /* offset in its memory: what is before it was looked at */
	uint64_t punched;  /* bytes, since it was 0 */
	uint64_t rests_ns; /* left alone until then, BOOTTIME */
	unsigned failed;   /* tries in a row */
};

/*
 * Goes on from vm->sweep.at, with one standstill if it is worth it; `keep` bytes stay in use in any case. 1: there is
 * more to look at; 0: that was the end. An error: not now (it moves, its storage is slow). Waits for the supervisor, not for
 * one that is busy with something else.
 */
int vm_sweep(struct host_vm *vm, uint64_t keep);

/* --- the parts, for tests ------------------------------------------------------------------------------ */

struct vm_sweep_found {
	uint64_t from, end;				   /* bytes: looked at up to there */
	uint64_t pages;					   /* found */
	uint64_t bits[VM_SWEEP_LOOK / VM_SWEEP_PAGE / 64]; /* bit n: the page at from + n pages */
};

/*
 * Pages of `fd` (`bytes` long) that are there and zero, from out->from on, until there may be `most`
 * bytes of them. Makes none. Of 2 MiB that hold few of them none are found: a huge page would be split for little.
 */
void vm_sweep_find(int fd, uint64_t bytes, uint64_t most, struct vm_sweep_found *out);
/*
 * Nobody writes meanwhile. Those that are zero still are punched; returns bytes. Ends at `until_ns` (BOOTTIME), and
 * sets f->end then.
 */
uint64_t vm_sweep_punch(int fd, struct vm_sweep_found *f, uint64_t until_ns);

#endif
