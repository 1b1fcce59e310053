// SPDX-License-Identifier: Apache-2.0
/*
 * tap.c: taps. The order matters: a port is given its VLAN before it is up, so that no frame of another VLAN
 * passes; offloads stay off until the guest's driver has said what it understands.
 */
#include "host/tap.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/err.h"
#include "base/util.h"
#include "host/netlink.h"

#define TUN	 "/dev/net/tun"
#define TEMPLATE "plnet%d" /* the kernel counts */
/*
 * Frames that wait, in all queues together, while a guest stands still; the kernel's usual are 1000 a queue. Not
 * more: it is the host's memory, and a guest need not ever read them.
 */
#define FRAMES 8000u

bool tap_good_name(const char *name)
{
	size_t n = strlen(name);

	if (!n || n >= TAP_NAME_BYTES || !strcmp(name, ".") || !strcmp(name, ".."))
		return false;
	for (size_t i = 0; i < n; i++)
		if ((unsigned char)name[i] <= ' ' || name[i] == '/' || name[i] == ':' ||
		    name[i] == '%' || name[i] == 0x7f)
			return false;
	return true;
}

static int get_bridge(const struct tap_place *place, struct net_link *out)
{
	int rc = net_link_get(place->bridge, out);

	if (rc == -ENOENT)
		return fail(rc,
			    "bridge %s: there is no such interface on this host; make it:"
			    " ip link add %s type bridge",
			    place->bridge, place->bridge);
	if (rc < 0)
		return fail(rc, "bridge %s: %s", place->bridge, strerror(-rc));
	if (strcmp(out->kind, "bridge"))
		return fail(-EINVAL, "%s: is an interface of this host, but no bridge",
			    place->bridge);
	if (place->vlan && !out->filters_vlans)
		return fail(-EINVAL,
			    "bridge %s: does not filter VLANs, so VLAN %u cannot be; ip link set"
			    " %s type bridge vlan_filtering 1",
			    place->bridge, place->vlan, place->bridge);
	return 0;
}

static int get_tap(const struct tap_place *place, struct net_link *out)
{
	int rc = net_link_get(place->tap, out);

	if (rc == -ENOENT)
		return fail(rc,
			    "tap %s: there is no such interface on this host; make it:"
			    " ip tuntap add %s mode tap vnet_hdr",
			    place->tap, place->tap);
	if (rc < 0)
		return fail(rc, "tap %s: %s", place->tap, strerror(-rc));
	return strcmp(out->kind, "tun") ? fail(-EINVAL,
					       "%s: is an interface of this host, but no"
					       " tap",
					       place->tap)
					: 0;
}

int tap_check(const struct tap_place *place)
{
	struct net_link link;

	if (access(TUN, R_OK | W_OK) < 0)
		return fail(-errno, TUN ": %s; load the module tun", strerror(errno));
	return place->bridge ? get_bridge(place, &link) : get_tap(place, &link);
}

/* --- opening ---------------------------------------------------------------------------------------- */

static int open_queue(const char *name, bool multi, struct tap *t)
{
	struct ifreq ifr = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
	const int header = TAP_HEADER;
	int fd = open(TUN, O_RDWR | O_NONBLOCK | O_CLOEXEC), rc;

	if (fd < 0)
		return fail(-errno, TUN ": %s; load the module tun", strerror(errno));
	if (multi)
		ifr.ifr_flags |= IFF_MULTI_QUEUE;
	memcpy(ifr.ifr_name, name, strnlen(name, IFNAMSIZ - 1));
	if (ioctl(fd, TUNSETIFF, &ifr) < 0 || ioctl(fd, TUNSETVNETHDRSZ, &header) < 0 ||
	    ioctl(fd, TUNSETOFFLOAD, 0) < 0) {
		rc = fail(-errno, "tap %s: cannot be opened: %s", name, strerror(errno));
		close(fd);
		return rc;
	}
	memcpy(t->name, ifr.ifr_name, TAP_NAME_BYTES);
	t->fd[t->queues++] = fd;
	return 0;
}

static int open_queues(const char *name, bool multi, unsigned queues, struct tap *t)
{
	int rc = open_queue(name, multi, t);

	while (rc == 0 && t->queues < queues)
		rc = open_queue(t->name, true, t);
	return rc;
}

/* What is the tap's own is told by what it refuses: it was made for several queues, or for one. */
static int open_given(const struct tap_place *place, unsigned queues, struct tap *t)
{
	struct net_link link;
	int rc = get_tap(place, &link);

	if (rc < 0)
		return rc;
	rc = open_queues(place->tap, queues > 1, queues, t);
	if (rc == -EINVAL && queues == 1)
		rc = open_queues(place->tap, true, queues, t);
	if (rc == -EINVAL)
		rc = fail(rc,
			  "tap %s: cannot be opened with %u queues: it was made for one; ip tuntap"
			  " add %s mode tap vnet_hdr multi_queue",
			  place->tap, queues, place->tap);
	t->mtu = link.mtu;
	return rc == 0 ? net_link_up(link.index) : rc;
}

/* Its own address is none of the lowest: a bridge takes the lowest of its ports' for itself. */
static int join(const struct tap_place *place, const struct net_link *bridge, const uint8_t mac[6],
		struct tap *t)
{
	const uint8_t own[6] = {0xfe, mac[1], mac[2], mac[3], mac[4], mac[5]};
	int index = (int)if_nametoindex(t->name), rc;

	rc = net_link_prepare(index, own, bridge->mtu, FRAMES / t->queues);
	if (rc == 0)
		rc = net_link_master(index, bridge->index);
	if (rc == 0 && place->vlan)
		rc = net_link_vlan(index, place->vlan, bridge->default_pvid);
	if (rc == 0)
		rc = net_link_up(index);
	t->mtu = bridge->mtu;
	return rc < 0 ? fail(rc, "bridge %s: %s cannot become a port of it: %s", place->bridge,
			     t->name, strerror(-rc))
		      : 0;
}

int tap_open(const struct tap_place *place, const uint8_t mac[6], unsigned queues, struct tap *t)
{
	struct net_link bridge;
	int rc;

	MUST(queues >= 1 && queues <= TAP_QUEUES_MAX);
	memset(t, 0, sizeof(*t));
	if (place->bridge) {
		rc = get_bridge(place, &bridge);
		if (rc == 0)
			rc = open_queues(TEMPLATE, queues > 1, queues, t);
		if (rc == 0)
			rc = join(place, &bridge, mac, t);
	} else {
		rc = open_given(place, queues, t);
	}
	if (rc < 0)
		tap_close(t);
	return rc;
}

void tap_close(struct tap *t)
{
	for (unsigned i = 0; i < t->queues; i++)
		close(t->fd[i]);
	t->queues = 0;
}

/* --- afterwards --------------------------------------------------------------------------------------- */

bool tap_is_connected(const struct tap_place *place, const char *name)
{
	struct net_link tap, bridge;

	if (net_link_get(name, &tap) < 0 || !tap.up)
		return false;
	return !place->bridge ||
	       (net_link_get(place->bridge, &bridge) == 0 && tap.master == bridge.index);
}

int tap_leave(const char *name)
{
	struct net_link tap;
	int rc = net_link_get(name, &tap);

	if (rc == 0 && tap.master)
		rc = net_link_master(tap.index, 0);
	return rc < 0 ? fail(rc, "%s: %s", name, strerror(-rc)) : 0;
}
