// SPDX-License-Identifier: Apache-2.0
/*
 * stub_book.h: what the disk of a stub's guest must hold, by what the guest was told: how often each of its
 * blocks was written. It lies in a file that all "hosts" of a test map, not in the guest's memory: it outlives
 * the guest, its monitor and their daemon. flushed <= answered <= begun for each block.
 *
 * What a guest finds when it boots lies between `answered` and `begun`: neither a monitor's death nor a daemon's
 * (INV-FS-3) takes an answered write away. If the host that it ran on is lost, between `flushed` and `begun`.
 */
#ifndef TESTS_LIB_STUB_BOOK_H
#define TESTS_LIB_STUB_BOOK_H

#include <stdbool.h>
#include <stdint.h>

#define STUB_BLOCKS 256u

/* Changed only by the guest, of which one runs at a time; each number at once, so that a SIGKILL harms none. */
struct stub_book {
	uint32_t answered[STUB_BLOCKS], flushed[STUB_BLOCKS], begun[STUB_BLOCKS];
	char host[64]; /* where it runs, or ran last */
};

/* Maps the file, made if it is not there: nothing was written yet. NULL: one that nobody shares. */
struct stub_book *stub_book_open(const char *path);
/* It begins anew on `host`; `lost`: the host where it ran before is. */
void stub_book_boots(struct stub_book *book, const char *host, bool lost);
/* It goes on, on `host`: who sent it there has flushed before. */
void stub_book_runs(struct stub_book *book, const char *host);
/* Before a write is given to the disk; after it was answered; what the disk was found to hold. */
void stub_book_begins(struct stub_book *book, uint32_t block, uint32_t count);
void stub_book_answered(struct stub_book *book, uint32_t block, uint32_t count, bool durable);
void stub_book_found(struct stub_book *book, uint32_t block, uint32_t count);
/* A flush began when the blocks stood at `answered`, and has succeeded. */
void stub_book_flushed(struct stub_book *book, const uint32_t answered[STUB_BLOCKS]);

#endif
