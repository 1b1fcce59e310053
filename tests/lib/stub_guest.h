// SPDX-License-Identifier: Apache-2.0
/*
 * stub_guest.h: a "guest" without a processor: a program whose state lies in guest memory, so that it
 * moves with it. It writes pages and remembers how often, writes and reads blocks of disk 0 through a
 * driver of its own, and says "bad ..." when a page or a block is not what it was left as. What it
 * was told of its disk is in a book (stub_book.h) with which it compares what it finds when it boots.
 */
#ifndef TESTS_LIB_STUB_GUEST_H
#define TESTS_LIB_STUB_GUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tests/lib/front.h"
#include "tests/lib/stub_book.h"

#define STUB_QUEUES	3  /* control, event, one for requests */
#define STUB_QUEUE_SIZE 64 /* descriptors */
#define STUB_MEMORY_MIN (16u << 20)
#define STUB_RINGS_AT	(4u << 20) /* up to front.data_offset */

struct stub_guest {
	uint8_t *mem;
	uint64_t bytes;
	struct front front;
	struct stub_book *book;
	uint64_t *written; /* what it wrote, a bit a page; NULL: nobody wants to know */
	void (*say)(void *arg, const char *text);
	void *arg;
};

void stub_guest_init(struct stub_guest *g, int mem_fd, uint8_t *mem, uint64_t bytes);
/* A boot: all of its memory is as it was, its knowledge of it is gone. */
void stub_guest_boot(struct stub_guest *g);
/* One step of its life; it may be stopped between any two. Returns how long it would sleep, us. */
unsigned stub_guest_step(struct stub_guest *g);
/* How many pages it writes a second, about; 0: none. */
void stub_guest_rate(struct stub_guest *g, unsigned pages);
/* A write of the machine's, as saving one dirties memory. */
void stub_guest_touch(struct stub_guest *g);

/* The driver's part that is not in guest memory. */
#define STUB_DRIVER_BYTES 4096u
void stub_guest_save(const struct stub_guest *g, uint8_t state[STUB_DRIVER_BYTES]);
int stub_guest_load(struct stub_guest *g, const uint8_t state[STUB_DRIVER_BYTES]);

#endif
