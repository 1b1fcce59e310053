// SPDX-License-Identifier: Apache-2.0
/* The device's side of a ring: what a driver may write, and what it must not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/guest_mem.h"
#include "base/util.h"
#include "base/vhost_user.h"
#include "base/vring.h"

#define SIZE 8u
#define BASE 0x100000u

/* 64 KiB of guest memory in two adjacent regions of 32 KiB, a ring in the first page. */
struct world {
	uint8_t *ram;
	struct guest_mem mem;
	struct vring_dev ring;
	struct vring_desc *desc;
	struct vring_avail *avail;
	struct vring_used *used;
	struct iovec iov[16];
	struct vring_chain chain;
};

static int setup(void **state)
{
	struct world *w = xcalloc(1, sizeof(*w));

	w->ram = xaligned(4096, 65536);
	for (unsigned i = 0; i < 2; i++) {
		struct guest_region r = {.gpa = BASE + i * 32768,
					 .size = 32768,
					 .user_addr = 0x7f0000000000 + i * 32768,
					 .host = w->ram + i * 32768};

		assert_int_equal(guest_mem_add(&w->mem, &r), 0);
	}
	w->desc = (void *)w->ram;
	w->avail = (void *)(w->ram + 1024);
	w->used = (void *)(w->ram + 2048);
	assert_int_equal(vring_start(&w->ring, SIZE, w->desc, w->avail, w->used, 0, false), 0);
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	free(w->ram);
	free(w);
	return 0;
}

static void offer(struct world *w, uint16_t head)
{
	w->avail->ring[w->avail->idx % SIZE] = head;
	w->avail->idx++;
}

static void set(struct vring_desc *d, uint64_t addr, uint32_t len, uint16_t flags, uint16_t next)
{
	*d = (struct vring_desc){addr, len, flags, next};
}

static int walk(struct world *w, uint16_t head)
{
	return vring_read_chain(&w->ring, &w->mem, head, w->iov, ARRAY_SIZE(w->iov), &w->chain);
}

static void test_pop_and_push(void **state)
{
	struct world *w = *state;
	uint16_t head;

	assert_int_equal(vring_pop(&w->ring, &head), 0);
	set(&w->desc[3], BASE + 4096, 16, VRING_DESC_F_NEXT, 5);
	set(&w->desc[5], BASE + 8192, 512, VRING_DESC_F_WRITE, 0);
	offer(w, 3);
	assert_int_equal(vring_pop(&w->ring, &head), 1);
	assert_int_equal(head, 3);
	assert_int_equal(walk(w, head), 0);
	assert_int_equal(w->chain.out, 1);
	assert_int_equal(w->chain.in, 1);
	assert_int_equal(w->chain.out_bytes, 16);
	assert_int_equal(w->chain.in_bytes, 512);
	assert_ptr_equal(w->iov[1].iov_base, w->ram + 8192);
	vring_push(&w->ring, head, 512);
	assert_int_equal(w->used->idx, 0); /* not before it is published */
	assert_true(vring_publish(&w->ring, &w->mem));
	assert_int_equal(w->used->idx, 1);
	assert_int_equal(w->used->ring[0].id, 3);
	assert_int_equal(w->used->ring[0].len, 512);
	assert_false(vring_publish(&w->ring, &w->mem));
}

static void test_calls_are_suppressed(void **state)
{
	struct world *w = *state;
	uint16_t head;

	w->avail->flags = VRING_AVAIL_F_NO_INTERRUPT;
	offer(w, 0);
	assert_int_equal(vring_pop(&w->ring, &head), 1);
	vring_push(&w->ring, head, 0);
	assert_false(vring_publish(&w->ring, &w->mem));

	assert_int_equal(vring_start(&w->ring, SIZE, w->desc, w->avail, w->used, 1, true), 0);
	for (unsigned i = 0; i < 4; i++) { /* wants a call when index 3 is passed */
		w->avail->ring[SIZE] = 3;
		offer(w, (uint16_t)i);
		assert_int_equal(vring_pop(&w->ring, &head), 1);
		vring_push(&w->ring, head, 0);
		assert_int_equal(vring_publish(&w->ring, &w->mem), i == 0 || i == 2);
	}
	assert_false(vring_want_kicks(&w->ring, &w->mem));
	assert_memory_equal(&w->used->ring[SIZE], &w->ring.next_avail, 2);
	offer(w, 1);
	assert_true(vring_want_kicks(&w->ring, &w->mem));
}

static void test_bad_chains_are_refused(void **state)
{
	struct world *w = *state;

	set(&w->desc[0], BASE, 16, VRING_DESC_F_NEXT, 1); /* a loop */
	set(&w->desc[1], BASE, 16, VRING_DESC_F_NEXT, 0);
	assert_true(walk(w, 0) < 0);
	set(&w->desc[1], BASE, 16, VRING_DESC_F_NEXT, SIZE); /* next beyond the table */
	assert_int_equal(walk(w, 0), -EINVAL);
	set(&w->desc[0], BASE + 65536 - 8, 16, 0, 0); /* reaches past the memory */
	assert_int_equal(walk(w, 0), -EINVAL);
	set(&w->desc[0], BASE - 1, 16, 0, 0);
	assert_int_equal(walk(w, 0), -EINVAL);
	set(&w->desc[0], UINT64_MAX - 4, 16, 0, 0);
	assert_int_equal(walk(w, 0), -EINVAL);
	set(&w->desc[0], BASE, UINT32_MAX, 0, 0);
	assert_int_equal(walk(w, 0), -EINVAL);
	set(&w->desc[0], BASE, 16, VRING_DESC_F_WRITE | VRING_DESC_F_NEXT, 1); /* order */
	set(&w->desc[1], BASE, 16, 0, 0);
	assert_int_equal(walk(w, 0), -EINVAL);
}

static void test_neighbouring_regions_are_one(void **state)
{
	struct world *w = *state;

	set(&w->desc[0], BASE + 32768 - 512, 1024, 0, 0);
	assert_int_equal(walk(w, 0), 0);
	assert_int_equal(w->chain.out, 2);
	assert_int_equal(w->iov[0].iov_len, 512);
	assert_int_equal(w->iov[1].iov_len, 512);
}

static void test_indirect(void **state)
{
	struct world *w = *state;
	struct vring_desc *table = (void *)(w->ram + 4096);

	for (unsigned i = 0; i < 16; i++)
		set(&table[i], BASE + 8192 + i * 512, 512, VRING_DESC_F_NEXT, (uint16_t)(i + 1));
	table[11].flags = VRING_DESC_F_WRITE;
	set(&w->desc[2], BASE + 4096, 16 * 12, VRING_DESC_F_INDIRECT, 0);
	assert_int_equal(walk(w, 2), 0);
	assert_int_equal(w->chain.out, 11);
	assert_int_equal(w->chain.in, 1);
	table[11].flags |= VRING_DESC_F_NEXT; /* runs out of the table */
	assert_int_equal(walk(w, 2), -EINVAL);
	table[11].flags = VRING_DESC_F_INDIRECT; /* a table in a table */
	assert_int_equal(walk(w, 2), -EINVAL);
	w->desc[2].flags |= VRING_DESC_F_NEXT;
	table[11].flags = 0;
	assert_int_equal(walk(w, 2), -EINVAL);
	set(&w->desc[2], BASE + 4096, 17, VRING_DESC_F_INDIRECT, 0);
	assert_int_equal(walk(w, 2), -EINVAL);
	set(&w->desc[2], BASE + 65536, 32, VRING_DESC_F_INDIRECT, 0);
	assert_int_equal(walk(w, 2), -EINVAL);
	for (unsigned i = 0; i < 20; i++) /* more pieces than there is room for */
		set(&table[i], BASE, 512, VRING_DESC_F_NEXT, (uint16_t)(i + 1));
	table[19].flags = 0;
	set(&w->desc[2], BASE + 4096, 16 * 20, VRING_DESC_F_INDIRECT, 0);
	assert_int_equal(walk(w, 2), -E2BIG);
}

static void test_broken_indices(void **state)
{
	struct world *w = *state;
	uint16_t head;

	w->avail->idx = SIZE + 1;
	assert_int_equal(vring_pop(&w->ring, &head), -EINVAL);
	w->avail->idx = 0;
	offer(w, SIZE);
	assert_int_equal(vring_pop(&w->ring, &head), -EINVAL);
	/* A driver that offers more than it has without waiting for answers. */
	assert_int_equal(vring_start(&w->ring, SIZE, w->desc, w->avail, w->used, 1, false), 0);
	for (unsigned i = 0; i < SIZE; i++) {
		offer(w, 0);
		assert_int_equal(vring_pop(&w->ring, &head), 1);
	}
	offer(w, 0);
	assert_int_equal(vring_pop(&w->ring, &head), -EINVAL);
	assert_int_equal(vring_start(&w->ring, 6, w->desc, w->avail, w->used, 0, false), -EINVAL);
	assert_int_equal(vring_start(&w->ring, 0, w->desc, w->avail, w->used, 0, false), -EINVAL);
	assert_int_equal(vring_start(&w->ring, 8, w->ram + 8, w->avail, w->used, 0, false),
			 -EINVAL);
}

static void test_dirty_log(void **state)
{
	struct world *w = *state;
	uint8_t log[(BASE + 65536) / 4096 / 8] = {0};
	uint16_t head;

	w->mem.log = log;
	w->mem.log_bytes = sizeof(log);
	guest_mem_log_host(&w->mem, w->ram + 3 * 4096 - 1, 2);
	assert_int_equal(log[BASE / 32768], 0xc);	   /* pages 2 and 3 */
	guest_mem_log(&w->mem, BASE + 1048576 * 64, 4096); /* beyond the log: nothing */
	guest_mem_log(&w->mem, UINT64_MAX - 3, 4096);
	memset(log, 0, sizeof(log));
	w->ring.log_used = true;
	w->ring.used_gpa = BASE + 2048;
	offer(w, 0);
	assert_int_equal(vring_pop(&w->ring, &head), 1);
	vring_push(&w->ring, head, 0);
	vring_publish(&w->ring, &w->mem);
	assert_int_equal(log[BASE / 32768], 1);
}

static void test_regions(void **state)
{
	struct world *w = *state;
	struct guest_region r = {.gpa = BASE + 65535, .size = 10};

	assert_int_equal(guest_mem_add(&w->mem, &r), -EINVAL);
	r.gpa = UINT64_MAX - 5;
	assert_int_equal(guest_mem_add(&w->mem, &r), -EINVAL);
	assert_ptr_equal(guest_mem_at_user(&w->mem, 0x7f0000000010, 16), w->ram + 16);
	assert_null(guest_mem_at_user(&w->mem, 0x7f0000000010, 32768));
	assert_null(guest_mem_at(&w->mem, BASE + 32767, 2));
}

static void test_iov(void **state)
{
	uint8_t a[3] = {1, 2, 3}, b[4] = {4, 5, 6, 7}, out[8] = {0};
	struct iovec iov[] = {{a, 3}, {b, 4}}, dst[2];

	(void)state;
	assert_int_equal(iov_read(iov, 2, 2, out, 8), 5);
	assert_memory_equal(out, "\3\4\5\6\7", 5);
	assert_int_equal(iov_write(iov, 2, 6, "xy", 2), 1);
	assert_int_equal(b[3], 'x');
	assert_int_equal(iov_zero(iov, 2, 2, 2), 2);
	assert_int_equal(a[2] + b[0], 0);
	assert_int_equal(iov_slice(dst, iov, 2, 1, 4), 2);
	assert_ptr_equal(dst[0].iov_base, a + 1);
	assert_int_equal(dst[1].iov_len, 2);
}

static void test_messages(void **state)
{
	struct vhost_user_msg m = {.request = VHOST_USER_SET_VRING_NUM,
				   .flags = VHOST_USER_VERSION,
				   .size = 8},
			      got = {0};
	int s[2], p[2];

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s), 0);
	assert_int_equal(pipe(p), 0);
	assert_int_equal(vhost_user_receive(s[1], &got, false), 0);
	assert_int_equal(write(s[0], &m, 5), 5); /* in pieces */
	assert_int_equal(vhost_user_receive(s[1], &got, false), 0);
	assert_int_equal(write(s[0], (char *)&m + 5, 7), 7);
	assert_int_equal(vhost_user_receive(s[1], &got, false), 0);
	assert_int_equal(write(s[0], "\1\0\0\0\2\0\0\0", 8), 8);
	assert_int_equal(vhost_user_receive(s[1], &got, false), 1);
	assert_int_equal(got.payload.state.index, 1);
	assert_int_equal(got.payload.state.num, 2);
	m.fd_count = 1; /* with a descriptor */
	m.fds[0] = p[1];
	memset(&got, 0, sizeof(got));
	assert_int_equal(vhost_user_send(s[0], &m), 0);
	assert_int_equal(vhost_user_receive(s[1], &got, true), 1);
	assert_int_equal(got.fd_count, 1);
	assert_int_equal(write(got.fds[0], "x", 1), 1);
	vhost_user_close_fds(&got);
	m.fd_count = 0; /* no message */
	m.flags = 0;
	memset(&got, 0, sizeof(got));
	assert_int_equal(vhost_user_send(s[0], &m), 0);
	assert_int_equal(vhost_user_receive(s[1], &got, true), -EPROTO);
	close(s[0]);
	memset(&got, 0, sizeof(got));
	while (read(s[1], &got, 20) > 0)
		;
	memset(&got, 0, sizeof(got));
	assert_int_equal(vhost_user_receive(s[1], &got, true), -ECONNRESET);
	close(s[1]);
	close(p[0]);
	close(p[1]);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_pop_and_push),
		T(test_calls_are_suppressed),
		T(test_bad_chains_are_refused),
		T(test_neighbouring_regions_are_one),
		T(test_indirect),
		T(test_broken_indices),
		T(test_dirty_log),
		T(test_regions),
		cmocka_unit_test(test_iov),
		cmocka_unit_test(test_messages),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
