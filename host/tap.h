// SPDX-License-Identifier: Apache-2.0
/*
 * tap.h (private to host): the host's end of a VM's network device: an interface of the kernel's
 * (Documentation/networking/tuntap.rst), made for the VM and put into a bridge, or one that somebody
 * made before. One that we make lives as long as somebody has it open, so it is gone with its VMM, whatever
 * becomes of this daemon.
 */
#ifndef HOST_TAP_H
#define HOST_TAP_H

#include <stdbool.h>
#include <stdint.h>

#define TAP_NAME_BYTES 16 /* IFNAMSIZ */
#define TAP_QUEUES_MAX 4
#define TAP_HEADER     12 /* of each frame: struct virtio_net_hdr_v1 */

struct tap_place {
	const char *bridge; /* or NULL: */
	const char *tap;    /* the one that is there */
	unsigned vlan;	    /* of a bridge that filters VLANs; 0: as the bridge has it */
};
struct tap {
	char name[TAP_NAME_BYTES];
	unsigned mtu;
	unsigned queues;
	int fd[TAP_QUEUES_MAX]; /* the caller's */
};

/* A word that the kernel takes for an interface. */
bool tap_good_name(const char *name);
/* The place is there, and of use: -ENOENT, -EINVAL, in words that name it. */
int tap_check(const struct tap_place *place);
/*
 * `mac` is the guest's; -EBUSY: somebody has it open. It is up, and a port of the bridge. An interface that
 * was there takes as many queues as it was made for.
 */
int tap_open(const struct tap_place *place, const uint8_t mac[6], unsigned queues, struct tap *out);
void tap_close(struct tap *tap);
/* Up, and a port of its bridge if it has one. */
bool tap_is_connected(const struct tap_place *place, const char *name);
/* It is no port any more. */
int tap_leave(const char *name);

#endif
