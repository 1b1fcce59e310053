// SPDX-License-Identifier: Apache-2.0
/*
 * net.h: virtio-net (virtio 1.2, 5.1) on a tap of the daemon's, which comes as descriptors, one a
 * queue pair: IFF_NO_PI, IFF_VNET_HDR with a header of HV_NET_HEADER bytes (TUNSETVNETHDRSZ), non-blocking.
 *
 * Each pair has a thread that copies frames, or the kernel does (vhost-net, while there is no log); the first one's serves the control queue, too. The threads
 * never take the machine's lock. Checksums and segmentation are the tap's when the driver agreed to them
 * (TUNSETOFFLOAD). A ring that makes no sense is left alone until the guest resets the device.
 *
 * While it is held (from its creation, and whenever the processors stand still) no frame moves and no guest
 * memory is written; what comes waits in the tap. After a load it announces itself when it is let go: RARP
 * frames as qemu and others send them, and VIRTIO_NET_F_GUEST_ANNOUNCE where the driver knows that.
 */
#ifndef HV_NET_H
#define HV_NET_H

#include <stdint.h>

#include "base/vmctl.h"
#include "hv/virtio.h"

struct hv_gmem;
struct hv_net;
struct hv_state_reader;
struct hv_state_writer;

#define HV_NET_HEADER 12 /* struct virtio_net_hdr_v1 */

/* What the daemon says of one device (VMCTL_NET). */
struct hv_net_link {
	struct vmctl_net how;
	unsigned taps; /* descriptors; 0: there is no link */
	int tap[VMCTL_NET_PAIRS_MAX];
	unsigned vhosts; /* as many as taps, or none: /dev/vhost-net, a descriptor a pair */
	int vhost[VMCTL_NET_PAIRS_MAX];
};

/* `pairs` queue pairs. Borrows `gmem` and the link's descriptors; the link may be NULL. */
int hv_net_create(struct hv_net **out, unsigned index, unsigned pairs, uint16_t queue_size,
		  struct hv_gmem *gmem, const struct hv_net_link *link);
/* Starts the threads. */
int hv_net_start(struct hv_net *net);
/* Ends the threads: before its transport goes, whose descriptors they wait for. */
void hv_net_end(struct hv_net *net);
void hv_net_destroy(struct hv_net *net);
struct hv_virtio *hv_net_device(struct hv_net *net);
/* Other taps, while it lives; when this returns the former ones are used no more. Under the lock. */
void hv_net_set_link(struct hv_net *net, const struct hv_net_link *link);

/* When this returns nothing of it touches guest memory. Any thread, with or without the lock. */
void hv_net_hold(struct hv_net *net);
void hv_net_go(struct hv_net *net);
/* What it writes is to be in the log from when this returns (or need not be any more). */
void hv_net_log(struct hv_net *net, bool on);

/* Section "net"; held. To be loaded after its transport; -EINVAL when its rings are none. */
void hv_net_save(const struct hv_net *net, unsigned instance, struct hv_state_writer *w);
int hv_net_load(struct hv_net *net, unsigned instance, struct hv_state_reader *r);

#endif
