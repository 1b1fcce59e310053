// SPDX-License-Identifier: Apache-2.0
/*
 * guest_io.c: random requests to a disk, run inside a guest: the same program under every monitor.
 *
 *	guest_io DEVICE read|write DEPTH BYTES SECONDS
 *
 * O_DIRECT and io_uring, each block anywhere on the device; writes destroy what is there. Prints
 * "iops N". Linked statically, for an initramfs of its own.
 */
#include <fcntl.h>
#include <liburing.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include <linux/fs.h>

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static uint64_t next_block(uint64_t blocks)
{
	static uint64_t x = 88172645463325252ULL;

	x ^= x << 13; /* xorshift64 */
	x ^= x >> 7;
	x ^= x << 17;
	return x % blocks;
}

static void die(const char *what)
{
	printf("guest_io: %s\n", what);
	exit(1);
}

int main(int argc, char **argv)
{
	uint64_t size, blocks, done = 0;
	unsigned depth, bytes, flying = 0;
	struct io_uring ring;
	double begun, end;
	char *buffers;
	int fd, write;

	if (argc != 6)
		die("usage: guest_io DEVICE read|write DEPTH BYTES SECONDS");
	write = !strcmp(argv[2], "write");
	depth = (unsigned)atoi(argv[3]);
	bytes = (unsigned)atoi(argv[4]);
	fd = open(argv[1], O_DIRECT | (write ? O_RDWR : O_RDONLY));
	if (fd < 0 || ioctl(fd, BLKGETSIZE64, &size) < 0 ||
	    io_uring_queue_init(depth, &ring, 0) < 0 ||
	    posix_memalign((void **)&buffers, 4096, (size_t)depth * bytes))
		die("cannot begin");
	memset(buffers, 0x5a, (size_t)depth * bytes);
	blocks = size / bytes;
	begun = now();
	end = begun + atof(argv[5]);
	for (unsigned i = 0, more = 1; more || flying;) {
		struct io_uring_cqe *cqe;
		unsigned head, got = 0;
		uint64_t slots[256];

		/* At first every slot, then those that came back. */
		if (i == 0) {
			for (; i < depth; i++)
				slots[got++] = i;
		} else {
			io_uring_submit_and_wait(&ring, 1);
			io_uring_for_each_cqe(&ring, head, cqe)
			{
				if (cqe->res != (int)bytes)
					die("a request failed");
				slots[got++] = cqe->user_data;
			}
			io_uring_cq_advance(&ring, got);
			done += got;
			flying -= got;
			more = now() < end;
		}
		for (unsigned k = 0; more && k < got; k++) {
			struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);
			char *buffer = buffers + slots[k] * bytes;
			uint64_t at = next_block(blocks) * bytes;

			if (write)
				io_uring_prep_write(sqe, fd, buffer, bytes, at);
			else
				io_uring_prep_read(sqe, fd, buffer, bytes, at);
			sqe->user_data = slots[k];
			flying++;
		}
	}
	begun = now() - begun;
	printf("iops %.0f in %.2f s\n", (double)done / begun, begun);
	return 0;
}
