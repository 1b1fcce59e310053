// SPDX-License-Identifier: Apache-2.0
/*
 * fault.h: faults on purpose, for tests and for users' drills (`perilune fault`).
 *
 * blk_fault_wrap (blk.h) puts a filter over a LUN; without a fault that concerns it requests pass it
 * unchanged, at the cost of one load. The faults themselves lie in one table of the process, because
 * they are set from outside, by the LUN's name or id, at any time. Any thread; seeded.
 */
#ifndef BLOCKDEV_FAULT_H
#define BLOCKDEV_FAULT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum fault_kind {
	FAULT_FAIL,  /* -EIO, not executed */
	FAULT_HANG,  /* not executed, -ETIMEDOUT after the LUN's time-out; released when cleared */
	FAULT_DELAY, /* value ms later */
	FAULT_DROP,  /* value percent hang */
	FAULT_FLAP,  /* value ms well, value ms -ENOTCONN, and again */
	FAULT_CORRUPT, /* reads: one byte is another */
	FAULT_TEAR,    /* writes: some blocks of it are written, -ETIMEDOUT */
	FAULT_LOST_ANSWER, /* value percent (100) are executed and not answered: -ETIMEDOUT, maybe_done */
	FAULT_LATE_WRITE,  /* -ETIMEDOUT, maybe_done; executed value ms (1000) after that answer */
	FAULT_FORGET_KEYS, /* once: all registrations and the reservation are gone */
	FAULT_VOLATILE,	   /* writes are kept in mind until a flush, for FAULT_POWER_LOSS */
	/* once: sessions are lost, and what was VOLATILE and is not flushed; requests wait meanwhile */
	FAULT_POWER_LOSS,
	FAULT_NO_RESERVATIONS, /* the LUN says that it has none */
	FAULT_NO_SPACE, /* writes to 4 KiB that are all zero: -ENOSPC, as a thin array that is full */
	FAULT_KINDS
};

/* Bits of struct fault.ops. */
#define FAULT_READ  1u
#define FAULT_WRITE 2u /* discard and write-zeroes too */
#define FAULT_CAS   4u
#define FAULT_FLUSH 8u
#define FAULT_ALL   15u

struct fault {
	char target[256]; /* a LUN's name or id */
	enum fault_kind kind;
	unsigned value;
	unsigned ops;
	uint64_t from, to; /* bytes of the LUN, `to` not included; 0, 0: everywhere, flushes too */
	uint64_t for_ms;   /* 0: until it is cleared */
	uint64_t times;	   /* strikes so often, then no more; 0: always */
	uint64_t seed;
	/* told by fault_list: */
	unsigned id;
	uint64_t hits;
};

/*
 * Fills in `out` from words as on the command line: kind "delay=50"; op "read", "write", "cas",
 * "flush", "all" or NULL; range "A-B" in bytes or sizes ("1M-2M") or NULL; seconds or NULL. -EINVAL.
 */
int fault_parse(struct fault *out, const char *target, const char *kind, const char *op,
		const char *range, const char *seconds);
/* As one line: "lun0.img delay=50 op write range 0-1048576 for 3 s". -ENAMETOOLONG. */
int fault_print(const struct fault *fault, char *dst, size_t size);

/*
 * Its id in *id (may be NULL). FORGET_KEYS and POWER_LOSS strike at once, what is open (else -ENOENT), and may block for
 * I/O; the others wait for a LUN of that name to be opened.
 */
int fault_add(const struct fault *fault, unsigned *id);
/* A LUN that it concerns is open. */
bool fault_concerns_any(const struct fault *fault);
/* Those that are in force; returns their number, at most `max`. */
unsigned fault_list(struct fault *out, unsigned max);
/* One, or all with id 0. -ENOENT. */
int fault_clear(unsigned id);

#endif
