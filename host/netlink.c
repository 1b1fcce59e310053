// SPDX-License-Identifier: Apache-2.0
/* netlink.c: requests to the kernel's routing socket, one at a time, each acknowledged. */
#include "host/netlink.h"

#include <errno.h>
#include <linux/if_bridge.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/err.h"
#include "base/util.h"

#define REQUEST_BYTES 512
#define ANSWER_BYTES  16384 /* one link with all that is said of it */

struct request {
	struct nlmsghdr head;
	struct ifinfomsg link;
	uint8_t attrs[REQUEST_BYTES];
};

static void begin(struct request *r, unsigned type, unsigned flags, int family, int index)
{
	memset(r, 0, sizeof(*r));
	r->head.nlmsg_len = NLMSG_LENGTH(sizeof(r->link));
	r->head.nlmsg_type = (uint16_t)type;
	r->head.nlmsg_flags = (uint16_t)(NLM_F_REQUEST | flags);
	r->link.ifi_family = (uint8_t)family;
	r->link.ifi_index = index;
}

static struct rtattr *add(struct request *r, unsigned type, const void *data, size_t n)
{
	struct rtattr *a = (void *)((uint8_t *)r + NLMSG_ALIGN(r->head.nlmsg_len));

	MUST(NLMSG_ALIGN(r->head.nlmsg_len) + RTA_SPACE(n) <= sizeof(*r));
	a->rta_type = (uint16_t)type;
	a->rta_len = (uint16_t)RTA_LENGTH(n);
	if (n)
		memcpy(RTA_DATA(a), data, n);
	r->head.nlmsg_len = NLMSG_ALIGN(r->head.nlmsg_len) + (uint32_t)RTA_SPACE(n);
	return a;
}

/* Attributes that were added since `nest` are inside of it. */
static void close_nest(struct request *r, struct rtattr *nest)
{
	nest->rta_len = (uint16_t)((uint8_t *)r + r->head.nlmsg_len - (uint8_t *)nest);
}

/* Sends it and takes the answer: an acknowledgement, or, with `answer`, a message. */
static int talk(struct request *r, void *answer, size_t size)
{
	cleanup_fd int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	const struct timeval timeout = {.tv_sec = 5};
	uint8_t ack[1024] __attribute__((aligned(NLMSG_ALIGNTO)));
	struct nlmsghdr *h = answer ? answer : (void *)ack;
	ssize_t n;

	if (fd < 0)
		return -errno;
	(void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
	if (!answer)
		r->head.nlmsg_flags |= NLM_F_ACK;
	if (send(fd, r, r->head.nlmsg_len, 0) < 0)
		return -errno;
	n = recv(fd, h, answer ? size : sizeof(ack), 0);
	if (n < 0)
		return -errno;
	if (!NLMSG_OK(h, n))
		return -EBADMSG;
	if (h->nlmsg_type == NLMSG_ERROR) {
		if (h->nlmsg_len < NLMSG_LENGTH(sizeof(struct nlmsgerr)))
			return -EBADMSG;
		return ((struct nlmsgerr *)NLMSG_DATA(h))->error;
	}
	return answer ? 0 : -EBADMSG;
}

/* --- looking ---------------------------------------------------------------------------------------- */

static void take_bridge(const struct rtattr *data, struct net_link *out)
{
	int left = (int)RTA_PAYLOAD(data);

	for (const struct rtattr *a = RTA_DATA(data); RTA_OK(a, left); a = RTA_NEXT(a, left)) {
		if (a->rta_type == IFLA_BR_VLAN_FILTERING && RTA_PAYLOAD(a) >= 1)
			out->filters_vlans = *(const uint8_t *)RTA_DATA(a);
		if (a->rta_type == IFLA_BR_VLAN_DEFAULT_PVID && RTA_PAYLOAD(a) >= 2)
			memcpy(&out->default_pvid, RTA_DATA(a), 2);
	}
}

static void take_info(const struct rtattr *info, struct net_link *out)
{
	const struct rtattr *data = NULL;
	int left = (int)RTA_PAYLOAD(info);

	for (const struct rtattr *a = RTA_DATA(info); RTA_OK(a, left); a = RTA_NEXT(a, left)) {
		if (a->rta_type == IFLA_INFO_KIND)
			(void)str_format(out->kind, sizeof(out->kind), "%.*s", (int)RTA_PAYLOAD(a),
					 (const char *)RTA_DATA(a));
		if (a->rta_type == IFLA_INFO_DATA)
			data = a;
	}
	if (data && !strcmp(out->kind, "bridge"))
		take_bridge(data, out);
}

static void take_link(const struct nlmsghdr *h, struct net_link *out)
{
	const struct ifinfomsg *link = NLMSG_DATA(h);
	int left = (int)IFLA_PAYLOAD(h);

	out->index = link->ifi_index;
	out->up = link->ifi_flags & IFF_UP;
	for (const struct rtattr *a = IFLA_RTA(link); RTA_OK(a, left); a = RTA_NEXT(a, left)) {
		if (a->rta_type == IFLA_MTU && RTA_PAYLOAD(a) >= 4)
			memcpy(&out->mtu, RTA_DATA(a), 4);
		if (a->rta_type == IFLA_MASTER && RTA_PAYLOAD(a) >= 4)
			memcpy(&out->master, RTA_DATA(a), 4);
		if (a->rta_type == IFLA_LINKINFO)
			take_info(a, out);
	}
}

int net_link_get(const char *name, struct net_link *out)
{
	uint8_t answer[ANSWER_BYTES] __attribute__((aligned(NLMSG_ALIGNTO)));
	const struct nlmsghdr *h = (void *)answer;
	struct request r;
	int rc;

	memset(out, 0, sizeof(*out));
	begin(&r, RTM_GETLINK, 0, AF_UNSPEC, 0);
	add(&r, IFLA_IFNAME, name, strlen(name) + 1);
	rc = talk(&r, answer, sizeof(answer));
	if (rc == 0 &&
	    (h->nlmsg_type != RTM_NEWLINK || h->nlmsg_len < NLMSG_LENGTH(sizeof(struct ifinfomsg))))
		rc = -EBADMSG;
	if (rc < 0)
		return rc == -ENODEV ? -ENOENT : rc;
	take_link(h, out);
	return 0;
}

/* --- changing ----------------------------------------------------------------------------------------- */

int net_link_prepare(int index, const uint8_t mac[6], unsigned mtu, unsigned frames)
{
	const uint8_t none = IN6_ADDR_GEN_MODE_NONE;
	struct rtattr *families, *inet6;
	struct request r;
	int rc;

	begin(&r, RTM_SETLINK, 0, AF_UNSPEC, index);
	add(&r, IFLA_ADDRESS, mac, 6);
	add(&r, IFLA_MTU, &mtu, sizeof(mtu));
	add(&r, IFLA_TXQLEN, &frames, sizeof(frames));
	rc = talk(&r, NULL, 0);
	if (rc < 0)
		return rc;
	begin(&r, RTM_SETLINK, 0, AF_UNSPEC, index);
	families = add(&r, IFLA_AF_SPEC, NULL, 0);
	inet6 = add(&r, AF_INET6, NULL, 0);
	add(&r, IFLA_INET6_ADDR_GEN_MODE, &none, sizeof(none));
	close_nest(&r, inet6);
	close_nest(&r, families);
	(void)talk(&r, NULL, 0); /* a host without IPv6 */
	return 0;
}

int net_link_master(int index, int bridge)
{
	struct request r;

	begin(&r, RTM_SETLINK, 0, AF_UNSPEC, index);
	add(&r, IFLA_MASTER, &bridge, sizeof(bridge));
	return talk(&r, NULL, 0);
}

int net_link_up(int index)
{
	struct request r;

	begin(&r, RTM_SETLINK, 0, AF_UNSPEC, index);
	r.link.ifi_flags = r.link.ifi_change = IFF_UP;
	return talk(&r, NULL, 0);
}

static int change_vlan(int index, unsigned type, unsigned vlan, unsigned flags)
{
	const struct bridge_vlan_info info = {.flags = (uint16_t)flags, .vid = (uint16_t)vlan};
	struct rtattr *spec;
	struct request r;

	begin(&r, type, 0, AF_BRIDGE, index);
	spec = add(&r, IFLA_AF_SPEC | NLA_F_NESTED, NULL, 0);
	add(&r, IFLA_BRIDGE_VLAN_INFO, &info, sizeof(info));
	close_nest(&r, spec);
	return talk(&r, NULL, 0);
}

int net_link_vlan(int index, unsigned vlan, unsigned instead)
{
	int rc = change_vlan(index, RTM_SETLINK, vlan,
			     BRIDGE_VLAN_INFO_PVID | BRIDGE_VLAN_INFO_UNTAGGED);

	if (rc == 0 && instead && instead != vlan)
		rc = change_vlan(index, RTM_DELLINK, instead, 0);
	return rc;
}
