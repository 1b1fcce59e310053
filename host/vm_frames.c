// SPDX-License-Identifier: Apache-2.0
/* vm_frames.c: the frames left in a source's taps, on their way to the target's. */
#include "host/vm_frames.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/peer_stream.h"
#include "host/daemon.h"
#include "host/peers.h"
#include "host/tap.h"
#include "host/vm_net.h"
#include "host/vm_run.h"
#include "host/volume.h"
#include "migrate/wire.h"

#define OPEN_MS	      10000
#define QUIET_MS      60   /* nothing for the guest for so long: they all know where it is now */
#define LISTEN_MS     120  /* so long at least: an announcement may be under way */
#define LISTEN_MAX_MS 1000 /* somebody who does not hear announcements */
#define BATCH_FRAMES  64
#define IDLE_MAX_MS   (24ull * 3600 * 1000)

/* --- the source ----------------------------------------------------------------------------------------- */

struct peer_stream *vm_frames_open(struct host_peers *peers, struct cfs *fs, const char *to,
				   const char *name)
{
	struct peer_stream *stream = NULL;
	struct frame answer;
	int rc = host_peers_stream(peers, fs, to, &stream);

	if (rc == 0)
		rc = peer_stream_call(stream, FRAME_MIG_NET, name, (uint32_t)strlen(name), NULL, 0,
				      OPEN_MS, &answer);
	if (rc == 0)
		return stream;
	log_warn("migrate", "vm %s: what comes for it while it stands still is lost: %s", name,
		 err_message(rc));
	if (stream)
		peer_stream_end(stream, 0);
	return NULL;
}

struct source {
	struct host_vm *vm;
	struct peer_stream *stream;
	unsigned taps;
	struct {
		int fd;
		unsigned net;
	} tap[VM_NETS_MAX * TAP_QUEUES_MAX];
	bool runs_there; /* frames to all come there by themselves */
	unsigned sent;
	uint8_t frame[TAP_HEADER + 65536 + 64];
};

/* What the VMM hands over is a queue of that very tap, and nothing that could hold us. */
static bool is_tap(struct host_vm *vm, unsigned net, int fd)
{
	struct ifreq r = {0};
	int flags = fcntl(fd, F_GETFL);

	return ioctl(fd, TUNGETIFF, &r) == 0 && vm->tap[net][0] &&
	       !strncmp(r.ifr_name, vm->tap[net], sizeof(r.ifr_name)) && flags >= 0 &&
	       fcntl(fd, F_SETFL, flags | O_NONBLOCK) == 0;
}

static void take_taps(struct source *s)
{
	struct vmctl_msg *msg = xcalloc(2, sizeof(*msg));

	for (unsigned i = 0; i < s->vm->def.nets; i++) {
		msg[0] = (struct vmctl_msg){.type = VMCTL_NET_TAKE};
		msg[0].net.device = s->vm->net_device + i;
		msg[1].fds_n = 0;
		bool good = vm_call_for(s->vm, &msg[0], VMCTL_NET_TAPS, &msg[1], VM_CALL_MS) == 0;
		for (unsigned k = 0; k < msg[1].fds_n; k++) {
			if (!good || s->taps == ARRAY_SIZE(s->tap) ||
			    !is_tap(s->vm, i, msg[1].fds[k])) {
				close(msg[1].fds[k]);
				continue;
			}
			s->tap[s->taps].fd = msg[1].fds[k];
			s->tap[s->taps++].net = i;
		}
	}
	free(msg);
}

/* True: it is for the guest alone, and was sent. */
static bool pass_on(struct source *s, unsigned net, uint32_t bytes)
{
	const uint8_t *to = s->frame + TAP_HEADER;
	bool ours = !memcmp(to, s->vm->def.net[net].mac, 6);
	struct mig_frame_head head = {.net = le32_of(net), .bytes = le32_of(bytes)};

	if (!ours && (!(to[0] & 1) || s->runs_there))
		return false;
	if (peer_stream_send(s->stream, FRAME_MIG_FRAME, 0, 0, &head, sizeof(head), s->frame,
			     bytes) == 0)
		s->sent++;
	return ours;
}

/*
 * What waits, but no longer than that: frames may come faster than they go. True: there was something for the guest
 * alone.
 */
static bool drain(struct source *s, uint64_t until_ms)
{
	bool any = false;

	for (unsigned i = 0; i < s->taps; i++) {
		ssize_t n = 1;

		while (n > 0 && clock_boot_ms() < until_ms) {
			n = read(s->tap[i].fd, s->frame, sizeof(s->frame));
			if (n > TAP_HEADER + ETH_HLEN)
				any = pass_on(s, s->tap[i].net, (uint32_t)n) || any;
		}
	}
	(void)peer_stream_flush(s->stream);
	return any;
}

static void listen_on(struct source *s)
{
	uint64_t begin = clock_boot_ms(), last = begin, now = begin;
	struct pollfd p[ARRAY_SIZE(s->tap)];

	while (now < begin + LISTEN_MAX_MS && (now < begin + LISTEN_MS || now < last + QUIET_MS)) {
		for (unsigned i = 0; i < s->taps; i++)
			p[i] = (struct pollfd){.fd = s->tap[i].fd, .events = POLLIN};
		(void)poll(p, s->taps, QUIET_MS / 4);
		now = clock_boot_ms();
		if (drain(s, begin + LISTEN_MAX_MS))
			last = now;
	}
}

void vm_frames_send(struct host_vm *vm, struct peer_stream *stream)
{
	struct source *s = xcalloc(1, sizeof(*s));

	s->vm = vm;
	s->stream = stream;
	take_taps(s);
	if (s->taps) {
		(void)drain(s, clock_boot_ms() + LISTEN_MAX_MS);
		s->runs_there = true;
		listen_on(s);
		for (unsigned i = 0; i < vm->def.nets; i++)
			if (vm->def.net[i].bridge[0] && vm->tap[i][0])
				(void)tap_leave(vm->tap[i]);
		(void)drain(s, clock_boot_ms() + LISTEN_MAX_MS);
	}
	log_info("migrate", "vm %s: %u frames were sent after it", vm->name, s->sent);
	for (unsigned i = 0; i < s->taps; i++)
		close(s->tap[i].fd);
	free(s);
}

/* --- the target ----------------------------------------------------------------------------------------- */

struct target {
	struct host *host;
	const char *volume;
	char name[VM_NAME_MAX + 1];
	int fd;			/* a packet socket */
	int index[VM_NETS_MAX]; /* of the taps' interfaces; 0: none */
	bool known;
};

/* They come when the VM is here; before that it is nobody's business. */
static int find_taps(struct target *t)
{
	struct host_volume *volume;
	struct host_vm *vm;
	int rc = host_volume_get(t->host->volumes, t->volume, &volume);

	if (rc < 0)
		return rc;
	vm = vm_find(t->host->vms, volume, t->name);
	host_volume_put(volume);
	if (!vm)
		return fail(-ENOENT, "vm %s: does not run here", t->name);
	pthread_mutex_lock(&vm->lock);
	for (unsigned i = 0; i < vm->def.nets; i++)
		t->index[i] = vm->tap[i][0] ? (int)if_nametoindex(vm->tap[i]) : 0;
	pthread_mutex_unlock(&vm->lock);
	vm_put(vm);
	t->known = true;
	return 0;
}

static int open_socket(struct target *t)
{
	const int on = 1;

	t->fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0); /* receives nothing */
	if (t->fd < 0 || setsockopt(t->fd, SOL_PACKET, PACKET_VNET_HDR, &on, sizeof(on)) < 0)
		return fail(-errno, "a packet socket: %s", strerror(errno));
	return 0;
}

/* From the outside into the tap: the guest receives it. The socket's header is two bytes shorter. */
static void put_in(struct target *t, const struct mig_net_frame *f)
{
	struct sockaddr_ll to = {.sll_family = AF_PACKET, .sll_halen = 6};
	struct iovec iov[2] = {
		{(void *)(uintptr_t)f->bytes, sizeof(struct virtio_net_hdr)},
		{(void *)(uintptr_t)(f->bytes + TAP_HEADER), f->n - TAP_HEADER},
	};
	const struct msghdr msg = {
		.msg_name = &to, .msg_namelen = sizeof(to), .msg_iov = iov, .msg_iovlen = 2};

	if (f->net >= VM_NETS_MAX || f->n < TAP_HEADER + ETH_HLEN || !t->index[f->net])
		return;
	to.sll_ifindex = t->index[f->net];
	memcpy(&to.sll_protocol, f->bytes + TAP_HEADER + 12, 2);
	memcpy(to.sll_addr, f->bytes + TAP_HEADER, 6);
	if (sendmsg(t->fd, &msg, MSG_DONTWAIT) < 0)
		log_debug("migrate", "vm %s: a frame that came after is lost: %s", t->name,
			  strerror(errno));
}

static int serve(struct target *t, struct peer_stream *stream)
{
	uint64_t end = clock_boot_ms() + IDLE_MAX_MS;
	int rc = 0;

	while (rc == 0 && clock_boot_ms() < end) {
		struct mig_net_frame frame;
		struct frame f;

		rc = peer_stream_receive(stream, &f, PEER_STREAM_MS);
		if (rc == -ETIMEDOUT) {
			rc = 0;
			continue;
		}
		if (rc == 0 && (f.type != FRAME_MIG_FRAME || f.flags))
			rc = fail(-EBADMSG, "a frame of type %u among a guest's", f.type);
		if (rc == 0)
			rc = mig_frame_decode(&f, &frame);
		if (rc == 0 && !t->known)
			rc = find_taps(t);
		if (rc == 0)
			put_in(t, &frame);
	}
	return rc;
}

int vm_frames_serve(struct host *host, const char *volume_id, struct peer_stream *stream,
		    const struct frame *first)
{
	struct target t = {.host = host, .volume = volume_id, .fd = -1};
	const le64 done = le64_of(0);
	int rc;

	if (!first->bytes ||
	    str_format(t.name, sizeof(t.name), "%.*s", (int)first->bytes, first->body) < 0 ||
	    vm_check_name(t.name) < 0)
		return fail(-EBADMSG, "frames for a VM without a name");
	rc = open_socket(&t);
	if (rc == 0)
		rc = peer_stream_send(stream, FRAME_MIG_NET, FRAME_ANSWER, first->tag, &done,
				      sizeof(done), NULL, 0);
	if (rc == 0)
		rc = peer_stream_flush(stream);
	if (rc == 0)
		rc = serve(&t, stream);
	if (t.fd >= 0)
		close(t.fd);
	return rc;
}
