// SPDX-License-Identifier: Apache-2.0
/*
 * netlink.h (private to host): network interfaces, looked at and changed by rtnetlink(7). Each call is a
 * conversation of its own. Errors: -errno as the kernel says it, in the caller's words; -ENOENT: no such
 * interface. Sources: <linux/rtnetlink.h>, <linux/if_link.h>, <linux/if_bridge.h>.
 */
#ifndef HOST_NETLINK_H
#define HOST_NETLINK_H

#include <stdbool.h>
#include <stdint.h>

struct net_link {
	int index;
	unsigned mtu;
	int master; /* index of the bridge it is a port of; 0: none */
	bool up;
	char kind[16]; /* "bridge", "tun"; "" for hardware and what has none */
	/* Of a bridge. */
	bool filters_vlans;
	unsigned default_pvid; /* what a new port gets; 0: nothing */
};
int net_link_get(const char *name, struct net_link *out);

/* Address, MTU, how many frames may wait in it, and no addresses of this host's own (it is the guest's end of a cable). */
int net_link_prepare(int index, const uint8_t mac[6], unsigned mtu, unsigned frames);
/* Becomes a port of the bridge; 0: of none. */
int net_link_master(int index, int bridge);
int net_link_up(int index);
/* The VLAN of a port's untagged frames is `vlan`, and it has no other: in place of `instead`, 0: of nothing. */
int net_link_vlan(int index, unsigned vlan, unsigned instead);

#endif
