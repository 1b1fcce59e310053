// SPDX-License-Identifier: Apache-2.0
/*
 * pinger.c: an outside observer. pinger ADDRESS INTERVAL_MS WAIT_MS [N]: sends an ICMP echo request each interval, N in
 * all, until standard input ends or a line comes, waits that long for the last answers, then says
 *
 *	sent N lost N longest MS
 *
 * (`longest`: ms between two answers, as they came; requests before the first that was answered do not count.) Says
 * "first" as soon as one answer came. Needs
 * CAP_NET_RAW; 60000 requests at most, each is known by its number.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/ip.h>
#include <netinet/ip_icmp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SENT_MAX 60000u

struct pinger {
	int fd;
	uint16_t id;
	unsigned sent, answered, first; /* the number of what was answered first */
	bool all;			/* count from number 0 */
	bool seen[SENT_MAX];
	uint64_t last_ns, longest_ns;
};

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static uint16_t checksum(const uint16_t *p, size_t words)
{
	uint32_t sum = 0;

	while (words--)
		sum += *p++;
	sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t) ~(sum + (sum >> 16));
}

static void send_one(struct pinger *p)
{
	uint8_t bytes[64] = {0};
	struct icmphdr *h = (void *)bytes;

	h->type = ICMP_ECHO;
	h->un.echo.id = p->id;
	h->un.echo.sequence = htons((uint16_t)p->sent++);
	h->checksum = checksum((void *)bytes, sizeof(bytes) / 2);
	/* A route that is gone for a while is a request that is lost. */
	(void)!send(p->fd, bytes, sizeof(bytes), 0);
}

static void receive_all(struct pinger *p)
{
	uint8_t bytes[2048];
	ssize_t n;

	while ((n = recv(p->fd, bytes, sizeof(bytes), MSG_DONTWAIT)) > 0) {
		size_t head = (bytes[0] & 15u) * 4u;
		struct icmphdr h;
		uint64_t now = now_ns();
		unsigned number;

		if ((size_t)n < head + sizeof(h))
			continue;
		memcpy(&h, bytes + head, sizeof(h));
		number = ntohs(h.un.echo.sequence);
		if (h.type != ICMP_ECHOREPLY || h.un.echo.id != p->id || number >= p->sent ||
		    p->seen[number] || (p->answered && number < p->first))
			continue;
		p->seen[number] = true;
		if (!p->answered++) {
			p->first = p->all ? 0 : number;
			puts("first");
			fflush(stdout);
		} else if (now - p->last_ns > p->longest_ns) {
			p->longest_ns = now - p->last_ns;
		}
		p->last_ns = now;
	}
}

/* Until `end`, or until something comes on standard input: true then. */
static bool wait_until(struct pinger *p, uint64_t end, bool hear)
{
	for (;;) {
		struct pollfd f[2] = {{.fd = p->fd, .events = POLLIN},
				      {.fd = hear ? 0 : -1, .events = POLLIN}};
		uint64_t now = now_ns();
		struct timespec left = {0, 0};

		if (now >= end)
			return false;
		left.tv_sec = (time_t)((end - now) / 1000000000);
		left.tv_nsec = (long)((end - now) % 1000000000);
		if (ppoll(f, 2, &left, NULL) < 0 && errno != EINTR)
			return true;
		if (f[0].revents)
			receive_all(p);
		if (f[1].revents)
			return true;
	}
}

int main(int argc, char **argv)
{
	struct sockaddr_in to = {.sin_family = AF_INET};
	static struct pinger p;
	uint64_t interval, next;
	unsigned most = argc == 5 ? (unsigned)atoi(argv[4]) : SENT_MAX;
	const int buffer = 16 << 20;
	bool stopped;

	if (argc < 4 || argc > 5 || most > SENT_MAX ||
	    inet_pton(AF_INET, argv[1], &to.sin_addr) != 1) {
		fputs("usage: pinger ADDRESS INTERVAL_MS WAIT_MS [N]\n", stderr);
		return 2;
	}
	interval = strtoull(argv[2], NULL, 10) * 1000000;
	p.fd = socket(AF_INET, SOCK_RAW, IPPROTO_ICMP);
	p.id = (uint16_t)getpid();
	if (p.fd < 0 || connect(p.fd, (void *)&to, sizeof(to)) < 0) {
		perror("pinger");
		return 1;
	}
	(void)setsockopt(p.fd, SOL_SOCKET, SO_RCVBUFFORCE, &buffer, sizeof(buffer));
	p.all = argc == 5;
	next = now_ns();
	do {
		send_one(&p);
		next += interval;
		stopped = wait_until(&p, next, true);
	} while (!stopped && p.sent < most);
	if (!stopped && most < SENT_MAX)
		(void)wait_until(&p, UINT64_MAX, true);
	next = now_ns() + strtoull(argv[3], NULL, 10) * 1000000;
	while (p.answered < p.sent - p.first && now_ns() < next)
		wait_until(&p, now_ns() + 10000000, false);
	p.sent -= p.first;
	printf("sent %u lost %u longest %llu\n", p.sent, p.sent - p.answered,
	       (unsigned long long)(p.longest_ns / 1000000));
	return 0;
}
