// SPDX-License-Identifier: Apache-2.0
/*
 * A client made of garbage: messages, with and without descriptors, kicks, writes into shared
 * memory, hang-ups. The controller lives, answers what it answers within bounds, and can be closed.
 *
 * Input: steps of {what, request, payload size, payload}. Descriptors are eventfds or the memfd.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "base/loop.h"
#include "base/util.h"
#include "base/vhost_user.h"
#include "vfs/disk.h"
#include "vfs/guard.h"
#include "vfs/vhost_blk.h"
#include "vfs/vhost_scsi.h"

#define RAM  65536u
#define USER 0x10000u

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

struct state {
	struct loop *loop;
	union {
		struct vhost_device dev;
		struct vhost_blk blk;
		struct vhost_scsi scsi;
	};
	struct vfs_disk disk;
	int mem_fd, event_fd, sock;
	uint8_t *ram;
	bool ended;
};

static struct loop *the_loop; /* set-up of a ring is slow: one for all runs */

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	log_set_level(getenv("FUZZ_DEBUG") ? LOG_DEBUG : LOG_ERROR - 1);
	guard_install();
	MUST(loop_create(&the_loop, 64) == 0);
	return 0;
}

static void disk_submit(struct vfs_disk *disk, struct vfs_req *req)
{
	bool inside = req->op == VFS_FLUSH || (req->length && req->offset < disk->info.size &&
					       req->length <= disk->info.size - req->offset);

	MUST(inside);
	for (int i = 0; req->op == VFS_READ && i < req->iovcnt; i++)
		memset(req->iov[i].iov_base, 0x11, req->iov[i].iov_len);
	req->done(req, 0);
}

static void ended(void *arg, const char *why)
{
	(void)why;
	((struct state *)arg)->ended = true;
}

static void turns(struct state *st, unsigned n)
{
	while (n--)
		MUST(loop_turn(st->loop, 0) == 0);
}

static void connect_client(struct state *st)
{
	int s[2];

	MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, s) == 0);
	st->sock = s[0];
	st->ended = false;
	MUST(vhost_session_start(&st->dev, s[1], ended, st) == 0);
}

static void hang_up(struct state *st)
{
	close(st->sock);
	for (unsigned i = 0; !st->ended; i++) {
		turns(st, 1);
		MUST(i < 100000);
	}
}

static void send_fd(struct state *st, uint32_t request, const void *payload, uint32_t n, int fd)
{
	struct vhost_user_msg msg = {.request = request, .flags = VHOST_USER_VERSION, .size = n};

	memcpy(&msg.payload, payload, n);
	if (fd >= 0) {
		msg.fds[0] = fd;
		msg.fd_count = 1;
	}
	vhost_user_send(st->sock, &msg);
}

/* What a client that behaves sends, so that the rest of the input meets running rings. */
static void start_ring(struct state *st, unsigned i)
{
	uint64_t features = 1ULL << 32 | 1ULL << VIRTIO_RING_F_EVENT_IDX, index = i;
	struct vhost_user_memory mem = {.count = 1,
					.region[0] = {.gpa = 0, .size = RAM, .user_addr = USER}};
	struct vhost_user_vring_state num = {i, 16}, base = {i, 0};
	struct vhost_user_vring_addr addr = {
		.index = i, .desc = USER, .avail = USER + 1024, .used = USER + 2048};

	send_fd(st, VHOST_USER_SET_FEATURES, &features, 8, -1);
	send_fd(st, VHOST_USER_SET_MEM_TABLE, &mem, 40, st->mem_fd);
	send_fd(st, VHOST_USER_SET_VRING_NUM, &num, 8, -1);
	send_fd(st, VHOST_USER_SET_VRING_BASE, &base, 8, -1);
	send_fd(st, VHOST_USER_SET_VRING_ADDR, &addr, 40, -1);
	send_fd(st, VHOST_USER_SET_VRING_CALL, &index, 8, st->event_fd);
	send_fd(st, VHOST_USER_SET_VRING_KICK, &index, 8, st->event_fd);
	turns(st, 2);
}

static void step(struct state *st, const uint8_t *b, size_t n)
{
	struct vhost_user_msg msg = {.request = b[1], .flags = VHOST_USER_VERSION};
	uint8_t sink[4096];

	switch (b[0] & 7) {
	case 0:
	case 1: /* a message */
		msg.size = (uint32_t)MIN(n - 2, sizeof(msg.payload));
		memcpy(&msg.payload, b + 2, msg.size);
		if (b[0] & 8)
			msg.flags |= VHOST_USER_NEED_REPLY;
		for (unsigned i = 0; i < (b[0] >> 4 & 3u); i++)
			msg.fds[msg.fd_count++] = b[0] & 0x40 ? st->mem_fd : st->event_fd;
		vhost_user_send(st->sock, &msg);
		break;
	case 2: /* bytes that may be no message */
		(void)!send(st->sock, b + 1, n - 1, MSG_NOSIGNAL);
		break;
	case 3: /* memory and a kick */
	case 4:
		memcpy(st->ram + (b[1] * 64u) % RAM, b + 2, MIN(n - 2, (size_t)2048));
		eventfd_write(st->event_fd, 1);
		break;
	case 5:
		start_ring(st, b[1] % 4);
		break;
	case 6:
		hang_up(st);
		connect_client(st);
		break;
	case 7:
		if (b[1] == 0x77) /* the memory goes, and comes back empty */
			MUST(ftruncate(st->mem_fd, 0) == 0 && ftruncate(st->mem_fd, RAM) == 0);
		break;
	}
	turns(st, 2);
	while (recv(st->sock, sink, sizeof(sink), MSG_DONTWAIT) > 0)
		;
	if (st->ended) {
		close(st->sock);
		connect_client(st);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	static const struct vfs_disk_ops ops = {.submit = disk_submit};
	struct controller_lun lun = {.lun = 0};
	struct vfs_disk *disk;
	struct state *st;
	bool scsi;

	if (size < 2)
		return 0;
	scsi = bytes[0] & 1;
	bytes++;
	size--;
	st = xaligned(64, sizeof(*st));
	st->loop = st->dev.loop = the_loop;
	st->dev.name = "fuzz";
	st->dev.rings = 4;
	st->disk.ops = &ops;
	st->disk.info = (struct vfs_disk_info){
		.size = 1 << 20, .block_size = 512, .grain = 4096, .discard_unit = 65536};
	st->mem_fd = memfd_create("fuzz", MFD_CLOEXEC);
	st->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	MUST(ftruncate(st->mem_fd, RAM) == 0);
	st->ram = mmap(NULL, RAM, PROT_READ | PROT_WRITE, MAP_SHARED, st->mem_fd, 0);
	if (scsi) {
		vhost_scsi_init(&st->scsi);
		MUST(vhost_scsi_attach(&st->scsi, &st->disk, &lun) == 0);
	} else {
		vhost_blk_init(&st->blk);
		vhost_blk_set_disk(&st->blk, &st->disk);
	}
	connect_client(st);
	while (size >= 3) {
		size_t n = MIN((size_t)bytes[0] * 4 + 2, size - 1);

		step(st, bytes + 1, n);
		bytes += n + 1;
		size -= n + 1;
	}
	hang_up(st);
	if (scsi) {
		MUST(vhost_scsi_detach(&st->scsi, 0, &disk) == 0 && disk == &st->disk);
		vhost_scsi_destroy(&st->scsi);
	}
	turns(st, 2);
	munmap(st->ram, RAM);
	close(st->mem_fd);
	close(st->event_fd);
	free(st);
	return 0;
}
