// SPDX-License-Identifier: Apache-2.0
/*
 * gaps.c: an outside observer of a guest that sends a datagram each 2 ms (guest/beats.c).
 *
 *	gaps ADDRESS RATE DISK
 *
 * lets the guest begin, says "first" when something came, and answers each line with a number N on standard input,
 * as soon as N more datagrams came, with
 *
 *	longest US
 *
 * the longest time between two datagrams since the last answer, by the kernel's clock of their arrival. At the end of
 * its input it stops the guest. Exit 1: the guest does not begin, or nothing came for a minute.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PORT	  7000
#define TRY_MS	  200
#define TRIES	  150
#define SILENT_MS 60000
#define QUIET_MS  300 /* the guest has heard that it is to stop */

struct observer {
	int fd;
	uint64_t last_ns, longest_ns;
	unsigned long wanted; /* datagrams until the next answer; 0: none is asked for */
};

static int die(const char *what)
{
	printf("gaps: %s: %s\n", what, strerror(errno));
	return 1;
}

/* When the next datagram came; 0: none is there. */
static uint64_t arrival(int fd)
{
	char bytes[64], control[CMSG_SPACE(sizeof(struct timespec))];
	struct iovec iov = {bytes, sizeof(bytes)};
	struct msghdr msg = {.msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = control,
			     .msg_controllen = sizeof(control)};
	struct timespec ts;

	if (recvmsg(fd, &msg, MSG_DONTWAIT) < 0)
		return 0;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_TIMESTAMPNS)
			continue;
		memcpy(&ts, CMSG_DATA(c), sizeof(ts));
		return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
	}
	return 0;
}

static int wait_for(int fd, int ms)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	return poll(&p, 1, ms) == 1;
}

static void hear(struct observer *o)
{
	uint64_t ns;

	while ((ns = arrival(o->fd))) {
		if (o->last_ns && ns - o->last_ns > o->longest_ns)
			o->longest_ns = ns - o->last_ns;
		o->last_ns = ns;
		if (!o->wanted || --o->wanted)
			continue;
		printf("longest %llu\n", (unsigned long long)(o->longest_ns / 1000));
		fflush(stdout);
		o->longest_ns = 0;
	}
}

static int observe(struct observer *o)
{
	struct pollfd p[] = {{.fd = o->fd, .events = POLLIN}, {.fd = 0, .events = POLLIN}};

	for (;;) {
		char line[32];

		if (poll(p, 2, SILENT_MS) == 0 || !(p[0].revents | p[1].revents))
			return die("nothing came for a minute");
		hear(o);
		if (!p[1].revents)
			continue;
		ssize_t n = read(0, line, sizeof(line) - 1);
		if (n <= 0)
			return 0;
		line[n] = 0;
		o->wanted = strtoul(line, NULL, 10);
	}
}

int main(int argc, char **argv)
{
	struct observer o = {.fd = socket(AF_INET, SOCK_DGRAM, 0)};
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(PORT)};
	const int on = 1;
	char go[64];
	int n, tries = 0;

	if (argc != 4 || inet_pton(AF_INET, argv[1], &to.sin_addr) != 1) {
		fprintf(stderr, "usage: gaps ADDRESS RATE DISK\n");
		return 2;
	}
	if (o.fd < 0 || setsockopt(o.fd, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof(on)) ||
	    connect(o.fd, (void *)&to, sizeof(to)))
		return die("socket");
	n = snprintf(go, sizeof(go), "go %s %s", argv[2], argv[3]);
	do {
		if (tries++ == TRIES)
			return die("the guest does not begin");
		(void)send(o.fd, go, (size_t)n, 0);
	} while (!wait_for(o.fd, TRY_MS));
	puts("first");
	fflush(stdout);
	n = observe(&o);
	for (tries = 0; tries < TRIES; tries++) {
		(void)send(o.fd, "stop", 4, 0);
		usleep(QUIET_MS * 1000);
		if (!arrival(o.fd))
			break;
		while (arrival(o.fd))
			;
	}
	return n;
}
