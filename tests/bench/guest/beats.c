// SPDX-License-Identifier: Apache-2.0
/*
 * beats.c: a guest whose standstill can be seen from outside (gaps.c). Idle until a datagram "go RATE DISK" comes to
 * port 7000: then it sends a datagram with a number to who asked, each 2 ms, until one says "stop". Meanwhile it
 * changes RATE KiB of its memory a second, page after page, and, if DISK is 1, writes 4 KiB blocks to the disk
 * that its command line names, one after the other with 5 ms between them.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PORT	  7000
#define BEAT_NS	  2000000u
#define MEMORY	  (64u << 20)
#define PAGE	  4096u
#define BLOCKS	  1024u
#define CATCH_UP  (25 * BEAT_NS) /* of changes that it was too late for: no more */
#define FORGOTTEN (300u * 500)	 /* beats, and nobody has said stop */

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static void die(const char *what)
{
	printf("beats: %s: %s\n", what, strerror(errno));
	exit(1);
}

/* Stands still until its parent lets it go on. */
static pid_t start_writer(const char *disk)
{
	pid_t pid = fork();

	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	int fd = open(disk, O_WRONLY | O_DIRECT);
	uint8_t *block = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
			      0);

	if (fd < 0)
		die(disk);
	raise(SIGSTOP);
	for (uint64_t n = 0;; n++) {
		memcpy(block, &n, sizeof(n));
		if (pwrite(fd, block, PAGE, (off_t)(n % BLOCKS * PAGE)) != PAGE)
			die("write");
		usleep(5000);
	}
}

struct memory {
	uint8_t *bytes;
	uint64_t at, done_ns;
	double left; /* pages */
};

static void change(struct memory *m, uint64_t rate_kib, uint64_t now)
{
	uint64_t late = now - m->done_ns;

	m->left += (double)(late < CATCH_UP ? late : CATCH_UP) / 1e9 * (double)rate_kib * 1024 /
		   PAGE;
	m->done_ns = now;
	for (; m->left >= 1; m->left--) {
		memcpy(m->bytes + m->at, &now, sizeof(now));
		m->at = (m->at + PAGE) % MEMORY;
	}
}

static void beat(int fd, const struct sockaddr_in *to, struct memory *m, uint64_t rate_kib)
{
	uint64_t next = now_ns();
	char word[64];

	m->done_ns = next;
	for (uint64_t n = 0; n < FORGOTTEN; n++) {
		if (recv(fd, word, sizeof(word), MSG_DONTWAIT) >= 4 && !memcmp(word, "stop", 4))
			return;
		(void)sendto(fd, &n, sizeof(n), 0, (const void *)to, sizeof(*to));
		if (rate_kib)
			change(m, rate_kib, now_ns());
		next += BEAT_NS;
		if (next < now_ns())
			next = now_ns();
		struct timespec until = {(time_t)(next / 1000000000), (long)(next % 1000000000)};
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
	}
}

/* No page of it is one of zeroes. */
static void fill(struct memory *m)
{
	uint64_t *words = (void *)m->bytes, x = 88172645463325252u;

	for (uint64_t i = 0; i < MEMORY / sizeof(x); i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		words[i] = x;
	}
}

int main(int argc, char **argv)
{
	struct sockaddr_in own = {.sin_family = AF_INET, .sin_port = htons(PORT)}, from;
	struct sched_param first = {.sched_priority = 1};
	struct memory m = {.bytes = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE,
					 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)};
	int fd = socket(AF_INET, SOCK_DGRAM, 0), filled = 0;
	pid_t writer = argc == 2 ? start_writer(argv[1]) : -1;

	if (writer < 0 || fd < 0 || bind(fd, (void *)&own, sizeof(own)) || m.bytes == MAP_FAILED)
		die("usage: beats DISK; start");
	sched_setscheduler(0, SCHED_FIFO, &first);
	for (;;) {
		unsigned long rate;
		int disk;
		char word[64] = "";
		socklen_t n = sizeof(from);

		if (recvfrom(fd, word, sizeof(word) - 1, 0, (void *)&from, &n) < 0)
			die("recvfrom");
		if (sscanf(word, "go %lu %d", &rate, &disk) != 2)
			continue;
		if (rate && !filled++)
			fill(&m);
		if (disk)
			kill(writer, SIGCONT);
		beat(fd, &from, &m, rate);
		kill(writer, SIGSTOP);
	}
}
