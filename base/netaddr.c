// SPDX-License-Identifier: Apache-2.0
/* netaddr.c: addresses of hosts. */
#include "base/netaddr.h"

#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "base/util.h"

#define BACKLOG 64

static const struct sockaddr_in *v4(const struct netaddr *a)
{
	return (const void *)&a->sa;
}

static const struct sockaddr_in6 *v6(const struct netaddr *a)
{
	return (const void *)&a->sa;
}

static int set(struct netaddr *out, const char *host)
{
	struct sockaddr_in *a4 = (void *)&out->sa;
	struct sockaddr_in6 *a6 = (void *)&out->sa;

	memset(out, 0, sizeof(*out));
	if (inet_pton(AF_INET, *host ? host : "0.0.0.0", &a4->sin_addr) == 1) {
		a4->sin_family = AF_INET;
		out->bytes = sizeof(*a4);
		return 0;
	}
	memset(out, 0, sizeof(*out));
	if (inet_pton(AF_INET6, host, &a6->sin6_addr) != 1)
		return -EINVAL;
	a6->sin6_family = AF_INET6;
	out->bytes = sizeof(*a6);
	return 0;
}

int netaddr_parse(const char *text, unsigned port, struct netaddr *out)
{
	char host[NETADDR_TEXT];
	const char *colon = strrchr(text, ':'), *close = strchr(text, ']'), *begin = text;
	size_t n = strlen(text);
	char *end;

	if (*text == '[' && close) {
		begin = text + 1;
		n = (size_t)(close - begin);
		colon = close[1] == ':' ? close + 1 : NULL;
		if (close[1] && !colon)
			goto bad;
	} else if (colon && strchr(text, ':') == colon) {
		n = (size_t)(colon - text);
	} else {
		colon = NULL; /* none, or a bare IPv6 address */
	}
	if (n >= sizeof(host))
		goto bad;
	memcpy(host, begin, n);
	host[n] = 0;
	if (colon) {
		unsigned long v = strtoul(colon + 1, &end, 10);

		if (colon[1] < '0' || colon[1] > '9' || *end || v > 65535)
			goto bad;
		port = (unsigned)v;
	}
	if (set(out, host) < 0)
		goto bad;
	netaddr_set_port(out, port);
	return 0;
bad:
	return fail(-EINVAL, "%.80s: not an address; write 192.0.2.5:7700 or [2001:db8::5]:7700",
		    text);
}

unsigned netaddr_port(const struct netaddr *a)
{
	return ntohs(a->sa.ss_family == AF_INET6 ? v6(a)->sin6_port : v4(a)->sin_port);
}

void netaddr_set_port(struct netaddr *a, unsigned port)
{
	if (a->sa.ss_family == AF_INET6)
		((struct sockaddr_in6 *)&a->sa)->sin6_port = htons((uint16_t)port);
	else
		((struct sockaddr_in *)&a->sa)->sin_port = htons((uint16_t)port);
}

void netaddr_format_host(const struct netaddr *a, char text[NETADDR_TEXT])
{
	const void *p = a->sa.ss_family == AF_INET6 ? (const void *)&v6(a)->sin6_addr
						    : (const void *)&v4(a)->sin_addr;

	if (!inet_ntop(a->sa.ss_family, p, text, NETADDR_TEXT))
		(void)str_format(text, NETADDR_TEXT, "?");
}

void netaddr_format(const struct netaddr *a, char text[NETADDR_TEXT])
{
	char host[NETADDR_TEXT];

	netaddr_format_host(a, host);
	(void)str_format(text, NETADDR_TEXT,
			 a->sa.ss_family == AF_INET6 ? "[%.50s]:%u" : "%.50s:%u", host,
			 netaddr_port(a));
}

bool netaddr_is_any(const struct netaddr *a)
{
	return a->sa.ss_family == AF_INET6 ? IN6_IS_ADDR_UNSPECIFIED(&v6(a)->sin6_addr)
					   : v4(a)->sin_addr.s_addr == INADDR_ANY;
}

int netaddr_reachable(struct netaddr *addr)
{
	unsigned port = netaddr_port(addr);
	sa_family_t family = addr->sa.ss_family;
	struct ifaddrs *all, *i;
	int rc = -ENOENT;

	if (getifaddrs(&all) < 0)
		return -errno;
	for (i = all; i && rc < 0; i = i->ifa_next) {
		if (!i->ifa_addr || i->ifa_addr->sa_family != family || !(i->ifa_flags & IFF_UP) ||
		    i->ifa_flags & IFF_LOOPBACK)
			continue;
		if (family == AF_INET6 &&
		    IN6_IS_ADDR_LINKLOCAL(&((struct sockaddr_in6 *)(void *)i->ifa_addr)->sin6_addr))
			continue;
		memcpy(&addr->sa, i->ifa_addr, addr->bytes);
		rc = 0;
	}
	freeifaddrs(all);
	netaddr_set_port(addr, port);
	return rc;
}

int netaddr_listen(struct netaddr *addr)
{
	int fd = socket(addr->sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), one = 1;
	char text[NETADDR_TEXT];
	int rc = 0;

	netaddr_format(addr, text);
	if (fd < 0)
		return fail(-errno, "%s: %s", text, strerror(errno));
	(void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	(void)setsockopt(fd, SOL_IP, IP_FREEBIND, &one, sizeof(one));
	if (bind(fd, (struct sockaddr *)&addr->sa, addr->bytes) < 0 || listen(fd, BACKLOG) < 0 ||
	    getsockname(fd, (struct sockaddr *)&addr->sa, &addr->bytes) < 0)
		rc = fail(-errno, "%s: cannot listen there: %s", text, strerror(errno));
	if (rc < 0) {
		close(fd);
		return rc;
	}
	return fd;
}
