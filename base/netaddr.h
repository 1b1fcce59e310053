// SPDX-License-Identifier: Apache-2.0
/*
 * netaddr.h: "ADDR:PORT" as text and as a socket's address. IPv6 addresses stand in brackets. Only
 * numbers are taken: a name would ask a server, and wait for it.
 */
#ifndef BASE_NETADDR_H
#define BASE_NETADDR_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

#define NETADDR_TEXT 64u /* bytes of "ADDR:PORT" with its end */

struct netaddr {
	struct sockaddr_storage sa;
	socklen_t bytes;
};

/* "10.0.0.5:7700", "[fd00::5]:7700", "10.0.0.5" (then `port`), ":7700" (all addresses). -EINVAL. */
int netaddr_parse(const char *text, unsigned port, struct netaddr *out);
void netaddr_format(const struct netaddr *addr, char text[NETADDR_TEXT]);
/* The same without the port; what a stranger is known by. */
void netaddr_format_host(const struct netaddr *addr, char text[NETADDR_TEXT]);
/* All addresses of the machine. */
bool netaddr_is_any(const struct netaddr *addr);
unsigned netaddr_port(const struct netaddr *addr);
void netaddr_set_port(struct netaddr *addr, unsigned port);
/* For a socket that listens on all: this machine's first address that others can reach. -ENOENT. */
int netaddr_reachable(struct netaddr *addr);

/*
 * A non-blocking listening socket; an address that the machine does not have yet is taken too
 * (IP_FREEBIND). `addr` gets the port that the kernel chose for 0. The descriptor, or -errno.
 */
int netaddr_listen(struct netaddr *addr);

#endif
