// SPDX-License-Identifier: Apache-2.0
/* front.c: a small vhost-user front-end. */
#include "tests/lib/front.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <linux/virtio_config.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/util.h"

#define CHAIN	4
#define TIMEOUT 30000

static struct vhost_user_msg message(uint32_t request, uint32_t size)
{
	return (struct vhost_user_msg){
		.request = request, .flags = VHOST_USER_VERSION, .size = size};
}

static uint64_t ring_bytes(unsigned size)
{
	return ROUND_UP(16ULL * size, 4096) + ROUND_UP(6 + 2ULL * size, 4096) +
	       ROUND_UP(6 + 8ULL * size, 4096);
}

static void queue_init(struct front *f, unsigned i, unsigned size, uint64_t at)
{
	struct front_queue *q = &f->q[i];

	q->index = i;
	q->size = size;
	q->ring_offset = at + i * ring_bytes(size);
	q->desc = (void *)(f->mem + q->ring_offset);
	q->avail = (void *)((uint8_t *)q->desc + ROUND_UP(16ULL * size, 4096));
	q->used = (void *)((uint8_t *)q->avail + ROUND_UP(6 + 2ULL * size, 4096));
	q->free = xcalloc(size / CHAIN, sizeof(*q->free));
	for (unsigned c = 0; c < size / CHAIN; c++)
		q->free[q->free_count++] = (uint16_t)(size - (c + 1) * CHAIN);
	q->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	q->call_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
}

void front_init_in(struct front *f, unsigned queues, unsigned size, int mem_fd, uint8_t *mem,
		   uint64_t mem_bytes, uint64_t at)
{
	memset(f, 0, sizeof(*f));
	f->fd = f->inflight_fd = -1;
	f->queues = queues;
	f->mem_fd = mem_fd;
	f->mem = mem;
	f->mem_bytes = mem_bytes;
	f->borrowed = true;
	for (unsigned i = 0; i < queues; i++)
		queue_init(f, i, size, at);
	f->data_offset = ROUND_UP(at + queues * ring_bytes(size), 65536);
	f->features = 1ULL << VIRTIO_F_VERSION_1 | 1ULL << VIRTIO_RING_F_EVENT_IDX |
		      1ULL << VHOST_USER_F_PROTOCOL_FEATURES_BIT | 1ULL << VIRTIO_BLK_F_FLUSH;
	f->protocol = 1ULL << VHOST_USER_PROTOCOL_F_MQ | 1ULL << VHOST_USER_PROTOCOL_F_CONFIG |
		      1ULL << VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD |
		      1ULL << VHOST_USER_PROTOCOL_F_LOG_SHMFD |
		      1ULL << VHOST_USER_PROTOCOL_F_REPLY_ACK |
		      1ULL << VHOST_USER_PROTOCOL_F_RESET_DEVICE;
}

int front_init(struct front *f, unsigned queues, unsigned size, uint64_t mem_bytes)
{
	int mem_fd = memfd_create("front", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	uint8_t *mem;

	if (mem_fd < 0 || ftruncate(mem_fd, (off_t)mem_bytes) < 0)
		return fail(-errno, "memfd: %s", strerror(errno));
	fcntl(mem_fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW);
	mem = mmap(NULL, mem_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, mem_fd, 0);
	if (mem == MAP_FAILED)
		return fail(-errno, "mmap: %s", strerror(errno));
	front_init_in(f, queues, size, mem_fd, mem, mem_bytes, 0);
	f->gpa = FRONT_GPA;
	f->borrowed = false;
	return 0;
}

void front_disconnect(struct front *f)
{
	if (f->fd >= 0)
		close(f->fd);
	f->fd = -1;
}

void front_free(struct front *f)
{
	front_disconnect(f);
	for (unsigned i = 0; i < f->queues; i++) {
		close(f->q[i].kick_fd);
		close(f->q[i].call_fd);
		free(f->q[i].free);
	}
	if (f->inflight_fd >= 0)
		close(f->inflight_fd);
	if (f->borrowed)
		return;
	munmap(f->mem, f->mem_bytes);
	close(f->mem_fd);
}

int front_call(struct front *f, struct vhost_user_msg *msg, struct vhost_user_msg *reply)
{
	if (!reply && f->protocol >> VHOST_USER_PROTOCOL_F_REPLY_ACK & 1)
		msg->flags |= VHOST_USER_NEED_REPLY;
	return vhost_user_call(f->fd, msg, reply, TIMEOUT);
}

static int get_u64(struct front *f, uint32_t request, uint64_t *value)
{
	struct vhost_user_msg msg = message(request, 0), reply;
	int rc = vhost_user_call(f->fd, &msg, &reply, TIMEOUT);

	*value = rc == 0 ? reply.payload.u64 : 0;
	return rc;
}

static int set_u64(struct front *f, uint32_t request, uint64_t value)
{
	struct vhost_user_msg msg = message(request, 8);

	msg.payload.u64 = value;
	return vhost_user_send(f->fd, &msg);
}

static int negotiate(struct front *f)
{
	uint64_t protocol;
	int rc = get_u64(f, VHOST_USER_GET_FEATURES, &f->offered);

	if (rc < 0)
		return rc;
	f->features &= f->offered;
	rc = get_u64(f, VHOST_USER_GET_PROTOCOL_FEATURES, &protocol);
	if (rc < 0)
		return rc;
	f->protocol &= protocol;
	rc = set_u64(f, VHOST_USER_SET_PROTOCOL_FEATURES, f->protocol);
	if (rc < 0)
		return rc;
	rc = set_u64(f, VHOST_USER_SET_OWNER, 0);
	if (rc < 0)
		return rc;
	f->event_idx = f->features >> VIRTIO_RING_F_EVENT_IDX & 1;
	return set_u64(f, VHOST_USER_SET_FEATURES, f->features);
}

static int share_inflight(struct front *f)
{
	struct vhost_user_msg msg = message(VHOST_USER_GET_INFLIGHT_FD, 24), reply;
	int rc;

	if (!(f->protocol >> VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD & 1))
		return 0;
	msg.payload.inflight.num_queues = (uint16_t)f->queues;
	msg.payload.inflight.queue_size = (uint16_t)f->q[0].size;
	if (f->inflight_fd < 0) {
		rc = vhost_user_call(f->fd, &msg, &reply, TIMEOUT);
		if (rc < 0)
			return rc;
		f->inflight = reply.payload.inflight;
		f->inflight_fd = vhost_user_take_fd(&reply, 0);
	}
	msg = message(VHOST_USER_SET_INFLIGHT_FD, 24);
	msg.payload.inflight = f->inflight;
	msg.fds[0] = f->inflight_fd;
	msg.fd_count = 1;
	return front_call(f, &msg, NULL);
}

static int share_memory(struct front *f)
{
	struct vhost_user_msg msg = message(VHOST_USER_SET_MEM_TABLE, 40);

	msg.payload.memory.count = 1;
	msg.payload.memory.region[0] = (struct vhost_user_mem_region){
		.gpa = f->gpa, .size = f->mem_bytes, .user_addr = (uintptr_t)f->mem};
	msg.fds[0] = f->mem_fd;
	msg.fd_count = 1;
	return front_call(f, &msg, NULL);
}

static int send_state(struct front *f, uint32_t request, unsigned index, uint32_t num)
{
	struct vhost_user_msg msg = message(request, 8);

	msg.payload.state.index = index;
	msg.payload.state.num = num;
	return front_call(f, &msg, NULL);
}

static int send_fd(struct front *f, uint32_t request, unsigned index, int fd)
{
	struct vhost_user_msg msg = message(request, 8);

	msg.payload.u64 = index;
	msg.fds[0] = fd;
	msg.fd_count = 1;
	return front_call(f, &msg, NULL);
}

static int start_ring(struct front *f, struct front_queue *q)
{
	struct vhost_user_msg msg = message(VHOST_USER_SET_VRING_ADDR, 40);
	int rc;

	msg.payload.addr = (struct vhost_user_vring_addr){
		.index = q->index,
		.desc = (uintptr_t)q->desc,
		.avail = (uintptr_t)q->avail,
		.used = (uintptr_t)q->used,
		.log = f->gpa + (uint64_t)((uint8_t *)q->used - f->mem),
	};
	rc = send_state(f, VHOST_USER_SET_VRING_NUM, q->index, q->size);
	if (rc == 0) /* as QEMU after a lost connection: where the answers stand */
		rc = send_state(f, VHOST_USER_SET_VRING_BASE, q->index, q->used->idx);
	if (rc == 0)
		rc = front_call(f, &msg, NULL);
	if (rc == 0)
		rc = send_fd(f, VHOST_USER_SET_VRING_CALL, q->index, q->call_fd);
	if (rc == 0)
		rc = send_fd(f, VHOST_USER_SET_VRING_KICK, q->index, q->kick_fd);
	if (rc == 0)
		rc = send_state(f, VHOST_USER_SET_VRING_ENABLE, q->index, 1);
	return rc;
}

int front_start_rings(struct front *f)
{
	int rc = 0;

	for (unsigned i = 0; rc == 0 && i < f->queues; i++)
		rc = start_ring(f, &f->q[i]);
	return rc;
}

int front_negotiate(struct front *f, int fd)
{
	int rc;

	front_disconnect(f);
	f->fd = fd;
	rc = negotiate(f);
	if (rc == 0)
		rc = share_memory(f);
	if (rc == 0)
		rc = share_inflight(f);
	return rc;
}

int front_start(struct front *f, int fd)
{
	int rc = front_negotiate(f, fd);

	return rc < 0 ? rc : front_start_rings(f);
}

int front_connect(struct front *f, const char *path, int timeout_ms)
{
	uint64_t end = clock_boot_ms() + (uint64_t)timeout_ms;
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int rc;

	(void)str_format(addr.sun_path, sizeof(addr.sun_path), "%s", path);
	for (;;) {
		int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

		if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0) {
			rc = front_start(f, fd);
			if (rc != -ECONNRESET && rc != -EPIPE)
				return rc;
			fd = -1; /* the server went away meanwhile */
			f->fd = -1;
		} else {
			rc = -errno;
			close(fd);
		}
		if (clock_boot_ms() > end)
			return fail(rc, "%s: %s", path, strerror(-rc));
		sleep_ms(5);
	}
}

int front_stop_ring(struct front *f, unsigned index)
{
	struct vhost_user_msg msg = message(VHOST_USER_GET_VRING_BASE, 8), reply;
	int rc;

	msg.payload.state.index = index;
	rc = vhost_user_call(f->fd, &msg, &reply, TIMEOUT);
	return rc < 0 ? rc : (int)reply.payload.state.num;
}

/* --- rings ------------------------------------------------------------------------------------- */

int front_add(struct front *f, unsigned queue, const struct front_piece *pieces, unsigned out,
	      unsigned in)
{
	struct front_queue *q = &f->q[queue];
	uint16_t head;

	if (!q->free_count || out + in > CHAIN)
		return -EBUSY;
	head = q->free[--q->free_count];
	for (unsigned i = 0; i < out + in; i++) {
		struct vring_desc *d = &q->desc[head + i];

		d->addr = f->gpa + pieces[i].offset;
		d->len = pieces[i].bytes;
		d->flags = (uint16_t)((i < out ? 0 : VRING_DESC_F_WRITE) |
				      (i + 1 < out + in ? VRING_DESC_F_NEXT : 0));
		d->next = (uint16_t)(head + i + 1);
	}
	q->avail->ring[q->avail_idx % q->size] = head;
	q->avail_idx++;
	__atomic_store_n(&q->avail->idx, q->avail_idx, __ATOMIC_RELEASE);
	return head;
}

void front_kick(struct front *f, unsigned queue, uint16_t old)
{
	struct front_queue *q = &f->q[queue];
	uint16_t event;

	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	memcpy(&event, (uint8_t *)q->used + 4 + 8 * q->size, 2);
	if (f->event_idx ? vring_need_event(event, q->avail_idx, old)
			 : !(q->used->flags & VRING_USED_F_NO_NOTIFY))
		eventfd_write(q->kick_fd, 1);
}

void front_kick_always(struct front *f, unsigned queue)
{
	eventfd_write(f->q[queue].kick_fd, 1);
}

int front_get(struct front *f, unsigned queue, uint32_t *written)
{
	struct front_queue *q = &f->q[queue];
	struct vring_used_elem *e;

	if (__atomic_load_n(&q->used->idx, __ATOMIC_ACQUIRE) == q->seen_used)
		return -EAGAIN;
	e = &q->used->ring[q->seen_used++ % q->size];
	if (written)
		*written = e->len;
	if (e->id >= q->size || e->id % CHAIN)
		return fail(-EPROTO, "the device answered head %u", e->id);
	q->free[q->free_count++] = (uint16_t)e->id;
	return (int)e->id;
}

int front_wait(struct front *f, unsigned queue, uint32_t *written, int timeout_ms)
{
	struct front_queue *q = &f->q[queue];
	uint64_t end = clock_boot_ms() + (uint64_t)timeout_ms;

	for (;;) {
		struct pollfd p = {.fd = q->call_fd, .events = POLLIN};
		uint64_t now;
		eventfd_t n;
		int head = front_get(f, queue, written);

		if (head != -EAGAIN)
			return head;
		q->avail->ring[q->size] = q->seen_used; /* call at the next one */
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
		head = front_get(f, queue, written);
		if (head != -EAGAIN)
			return head;
		now = clock_boot_ms();
		if (now >= end)
			return fail(-ETIMEDOUT, "no answer for %d ms", timeout_ms);
		if (poll(&p, 1, (int)(end - now)) == 1)
			eventfd_read(q->call_fd, &n);
	}
}

int front_scsi(struct front *f, struct front_scsi *s, uint64_t data)
{
	struct virtio_scsi_cmd_req *req = (void *)(f->mem + f->data_offset);
	uint64_t at = f->data_offset;
	struct front_piece p[4] = {{at, sizeof(*req)}};
	unsigned out = 1, in = 1;
	uint16_t old = f->q[2].avail_idx;
	int rc;

	memset(req, 0, sizeof(*req));
	memcpy(req->lun, s->lun, 8);
	memcpy(req->cdb, s->cdb, 32);
	memset(f->mem + at + 512, 0xee, sizeof(s->resp));
	if (s->out_bytes)
		p[out++] = (struct front_piece){data, s->out_bytes};
	p[out] = (struct front_piece){at + 512, sizeof(s->resp)};
	if (s->in_bytes)
		p[out + in++] = (struct front_piece){data, s->in_bytes};
	rc = front_add(f, 2, p, out, in);
	if (rc < 0)
		return rc;
	front_kick(f, 2, old);
	rc = front_wait(f, 2, NULL, TIMEOUT);
	memcpy(&s->resp, f->mem + at + 512, sizeof(s->resp));
	return rc < 0 ? rc : 0;
}
