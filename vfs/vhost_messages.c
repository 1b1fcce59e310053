// SPDX-License-Identifier: Apache-2.0
/*
 * vhost_messages.c: the requests of the vhost-user spec, one function each, in a table with the
 * payload they need. The client is not trusted: sizes, indices, addresses, descriptors are checked.
 */
#include "vfs/vhost_messages.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <linux/virtio_config.h>

#include "base/err.h"
#include "base/log.h"

#define BIT(n) (1ULL << (n))

#define TRANSPORT_FEATURES                                                                    \
	(BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_RING_F_INDIRECT_DESC) |                         \
	 BIT(VIRTIO_RING_F_EVENT_IDX) | BIT(VIRTIO_F_ANY_LAYOUT) | BIT(VHOST_F_LOG_ALL_BIT) | \
	 BIT(VHOST_USER_F_PROTOCOL_FEATURES_BIT))

/*
 * Not CONFIGURE_MEM_SLOTS: front-ends then take regions out before they put new ones in, with
 * rings running in them; SET_MEM_TABLE changes all at once.
 */
#define PROTOCOL_FEATURES                                                                \
	(BIT(VHOST_USER_PROTOCOL_F_MQ) | BIT(VHOST_USER_PROTOCOL_F_LOG_SHMFD) |          \
	 BIT(VHOST_USER_PROTOCOL_F_REPLY_ACK) | BIT(VHOST_USER_PROTOCOL_F_BACKEND_REQ) | \
	 BIT(VHOST_USER_PROTOCOL_F_CONFIG) | BIT(VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD) | \
	 BIT(VHOST_USER_PROTOCOL_F_RESET_DEVICE))

static struct vhost_ring *ring_at(struct vhost_session *s, uint64_t index)
{
	if (index < s->dev->rings)
		return &s->ring[index];
	fail(-EINVAL, "ring %llu: there are %u", (unsigned long long)index, s->dev->rings);
	return NULL;
}

/* --- features ---------------------------------------------------------------------------------- */

static uint64_t offered(const struct vhost_session *s)
{
	return TRANSPORT_FEATURES | s->dev->ops->features;
}

static int get_features(struct vhost_session *s, struct vhost_user_msg *msg,
			struct vhost_user_msg *reply)
{
	(void)msg;
	reply->payload.u64 = offered(s);
	return VHOST_ANSWERED;
}

void vhost_session_update_log(struct vhost_session *s)
{
	bool on = s->log && (s->features >> VHOST_F_LOG_ALL_BIT & 1);

	if (!s->memory)
		return;
	s->memory->mem.log = on ? s->log : NULL;
	s->memory->mem.log_bytes = on ? s->log_bytes : 0;
	s->memory->mem.file_log = s->dev->file_log;
	s->memory->mem.file_log_bits = s->dev->file_log_bits;
	/* A huge page that is made of a few small ones would bring zeroes for those that are to come. */
	for (unsigned i = 0; i < s->memory->mem.count && s->dev->present != s->memory->mem.present;
	     i++)
		(void)madvise(s->memory->map[i].base, s->memory->map[i].size,
			      s->dev->present ? MADV_NOHUGEPAGE : MADV_HUGEPAGE);
	s->memory->mem.present = s->dev->present;
	for (unsigned i = 0; i < s->dev->rings; i++)
		vhost_ring_update_log(&s->ring[i]);
}

static int set_features(struct vhost_session *s, struct vhost_user_msg *msg,
			struct vhost_user_msg *reply)
{
	uint64_t extra = msg->payload.u64 & ~offered(s);

	(void)reply;
	if (extra)
		return fail(-EINVAL, "features %#llx were not offered", (unsigned long long)extra);
	s->features = msg->payload.u64;
	vhost_session_update_log(s);
	/* Without protocol features rings are enabled as soon as they are started. */
	if (!(s->features >> VHOST_USER_F_PROTOCOL_FEATURES_BIT & 1))
		for (unsigned i = 0; i < s->dev->rings; i++)
			s->ring[i].enabled = true;
	if (s->dev->ops->set_features)
		s->dev->ops->set_features(s->dev, s->features);
	return VHOST_DONE;
}

static int get_protocol_features(struct vhost_session *s, struct vhost_user_msg *msg,
				 struct vhost_user_msg *reply)
{
	(void)s;
	(void)msg;
	reply->payload.u64 = PROTOCOL_FEATURES;
	return VHOST_ANSWERED;
}

static int set_protocol_features(struct vhost_session *s, struct vhost_user_msg *msg,
				 struct vhost_user_msg *reply)
{
	(void)reply;
	s->protocol_features = msg->payload.u64 & PROTOCOL_FEATURES;
	return VHOST_DONE;
}

static int get_queue_num(struct vhost_session *s, struct vhost_user_msg *msg,
			 struct vhost_user_msg *reply)
{
	(void)msg;
	reply->payload.u64 = s->dev->rings;
	return VHOST_ANSWERED;
}

static int nothing(struct vhost_session *s, struct vhost_user_msg *msg,
		   struct vhost_user_msg *reply)
{
	(void)s;
	(void)msg;
	(void)reply;
	return VHOST_DONE;
}

/* --- memory ------------------------------------------------------------------------------------ */

/* Puts a new table in place of the old one: rings that run go on in it. */
static int use_memory(struct vhost_session *s, struct vhost_memory *m)
{
	vhost_memory_put(s->memory);
	s->memory = m;
	vhost_session_update_log(s);
	for (unsigned i = 0; i < s->dev->rings; i++) {
		int rc = s->ring[i].started ? vhost_ring_resolve(&s->ring[i]) : 0;

		if (rc < 0) {
			vhost_session_kill(s, err_message(rc)); /* its pointers are gone */
			return rc;
		}
	}
	return VHOST_DONE;
}

static int set_mem_table(struct vhost_session *s, struct vhost_user_msg *msg,
			 struct vhost_user_msg *reply)
{
	const struct vhost_user_memory *table = &msg->payload.memory;
	struct vhost_memory *m;

	(void)reply;
	if (table->count > VHOST_USER_MEM_REGIONS || table->count != msg->fd_count ||
	    msg->size < 8 + table->count * sizeof(table->region[0]))
		return fail(-EINVAL, "%u regions with %u descriptors in %u bytes", table->count,
			    msg->fd_count, msg->size);
	m = vhost_memory_new();
	for (unsigned i = 0; i < table->count; i++) {
		int rc = vhost_memory_add(m, &table->region[i], msg->fds[i], s->dev->sealed);

		if (rc < 0) {
			vhost_memory_put(m);
			return rc;
		}
	}
	return use_memory(s, m);
}

static int set_log_base(struct vhost_session *s, struct vhost_user_msg *msg,
			struct vhost_user_msg *reply)
{
	const struct vhost_user_log *log = &msg->payload.log;
	struct guard_map map = {0};
	int rc;

	if (msg->fd_count != 1 || log->mmap_offset + log->mmap_size < log->mmap_size)
		return fail(-EINVAL, "a log of %llu bytes with %u descriptors",
			    (unsigned long long)log->mmap_size, msg->fd_count);
	rc = guard_map(&map, msg->fds[0], log->mmap_offset + log->mmap_size, false);
	if (rc < 0)
		return rc;
	guard_unmap(&s->log_map);
	s->log_map = map;
	s->log = map.base + log->mmap_offset;
	s->log_bytes = log->mmap_size;
	vhost_session_update_log(s);
	reply->payload.u64 = 0;
	return VHOST_ANSWERED;
}

/* --- in-flight memory -------------------------------------------------------------------------- */

static int get_inflight(struct vhost_session *s, struct vhost_user_msg *msg,
			struct vhost_user_msg *reply)
{
	const struct vhost_user_inflight *want = &msg->payload.inflight;
	uint64_t bytes;
	int fd;

	if (!want->num_queues || want->num_queues > s->dev->rings || !want->queue_size ||
	    want->queue_size > VHOST_RING_SIZE)
		return fail(-EINVAL, "%u queues of %u", want->num_queues, want->queue_size);
	bytes = want->num_queues * vhost_user_inflight_bytes(want->queue_size);
	bytes = ROUND_UP(bytes + VHOST_KEPT, 4096);
	fd = memfd_create("perilune-inflight", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0 || ftruncate(fd, (off_t)bytes) < 0 ||
	    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0) {
		int rc = -errno;

		if (fd >= 0)
			close(fd);
		return fail(rc, "in-flight region: %s", strerror(-rc));
	}
	reply->payload.inflight = *want;
	reply->payload.inflight.mmap_size = bytes;
	reply->payload.inflight.mmap_offset = 0;
	reply->size = sizeof(reply->payload.inflight);
	reply->fds[0] = fd;
	reply->fd_count = 1;
	return VHOST_ANSWERED;
}

static int set_inflight(struct vhost_session *s, struct vhost_user_msg *msg,
			struct vhost_user_msg *reply)
{
	const struct vhost_user_inflight *in = &msg->payload.inflight;
	struct guard_map map = {0};
	int rc;

	(void)reply;
	if (msg->fd_count != 1 || in->mmap_offset + in->mmap_size < in->mmap_size ||
	    in->mmap_offset % 8 || !in->num_queues || in->num_queues > s->dev->rings ||
	    in->queue_size > VHOST_RING_SIZE ||
	    in->mmap_size < in->num_queues * vhost_user_inflight_bytes(in->queue_size))
		return fail(-EINVAL, "%u queues of %u in %llu bytes", in->num_queues,
			    in->queue_size, (unsigned long long)in->mmap_size);
	for (unsigned i = 0; i < s->dev->rings; i++)
		if (s->ring[i].started)
			return fail(-EBUSY, "ring %u runs", i);
	rc = guard_map(&map, msg->fds[0], in->mmap_offset + in->mmap_size, false);
	if (rc < 0)
		return rc;
	guard_unmap(&s->inflight_map);
	s->inflight_map = map;
	s->inflight_offset = in->mmap_offset;
	s->inflight = *in;
	return VHOST_DONE;
}

/* --- rings ------------------------------------------------------------------------------------- */

static int set_vring_num(struct vhost_session *s, struct vhost_user_msg *msg,
			 struct vhost_user_msg *reply)
{
	struct vhost_ring *ring = ring_at(s, msg->payload.state.index);
	uint32_t num = msg->payload.state.num;

	(void)reply;
	if (!ring)
		return -EINVAL;
	if (!num || num > VHOST_RING_SIZE || (num & (num - 1)))
		return fail(-EINVAL, "ring %u: %u entries; a power of two up to %u is served",
			    ring->index, num, VHOST_RING_SIZE);
	if (ring->started)
		return fail(-EBUSY, "ring %u runs", ring->index);
	ring->size = num;
	return VHOST_DONE;
}

static int set_vring_addr(struct vhost_session *s, struct vhost_user_msg *msg,
			  struct vhost_user_msg *reply)
{
	struct vhost_ring *ring = ring_at(s, msg->payload.addr.index);

	(void)reply;
	if (!ring)
		return -EINVAL;
	ring->addr = msg->payload.addr;
	ring->have_addr = true;
	return ring->started ? vhost_ring_resolve(ring) : VHOST_DONE;
}

static int set_vring_base(struct vhost_session *s, struct vhost_user_msg *msg,
			  struct vhost_user_msg *reply)
{
	struct vhost_ring *ring = ring_at(s, msg->payload.state.index);

	(void)reply;
	if (!ring)
		return -EINVAL;
	if (ring->started)
		return fail(-EBUSY, "ring %u runs", ring->index);
	ring->base = (uint16_t)msg->payload.state.num;
	return VHOST_DONE;
}

/*
 * Stops the ring; true when nothing of it is in flight any more. Our own VMM takes rings back only when
 * its guest resets the device or ends: what waits for space on a full volume must not keep it. Others
 * may do so for a pause, and then an error would be the guest's to see: they wait.
 */
static bool stopped(struct vhost_ring *ring)
{
	struct vhost_device *dev = ring->session->dev;

	if (ring->started)
		vhost_ring_stop(ring);
	if (!vhost_ring_idle(ring) && dev->sealed && dev->ops->shed)
		dev->ops->shed(dev);
	return vhost_ring_idle(ring);
}

static int get_vring_base(struct vhost_session *s, struct vhost_user_msg *msg,
			  struct vhost_user_msg *reply)
{
	struct vhost_ring *ring = ring_at(s, msg->payload.state.index);

	if (!ring)
		return -EINVAL;
	if (!stopped(ring))
		return VHOST_HELD;
	if (ring->requests)
		ring->base = ring->q.next_avail;
	vhost_ring_release(ring, true);
	reply->payload.state.index = ring->index;
	reply->payload.state.num = ring->base;
	return VHOST_ANSWERED;
}

/* The descriptor that came with SET_VRING_KICK, CALL or ERR, or -1; other kinds could block. */
static int take_eventfd(struct vhost_user_msg *msg, int *fd)
{
	char link[32], target[64] = "";
	ssize_t n;

	*fd = -1;
	if (msg->payload.u64 & VHOST_USER_VRING_NOFD)
		return 0;
	if (msg->fd_count != 1)
		return fail(-EINVAL, "%u descriptors, one is needed", msg->fd_count);
	(void)str_format(link, sizeof(link), "/proc/self/fd/%d", msg->fds[0]);
	n = readlink(link, target, sizeof(target) - 1);
	if (n < 0 || strncmp(target, "anon_inode:[eventfd]", 20) != 0)
		return fail(-EINVAL, "the descriptor is no eventfd");
	*fd = vhost_user_take_fd(msg, 0);
	/* Writes to it are then done at once or not at all. */
	fcntl(*fd, F_SETFL, O_RDWR | O_NONBLOCK);
	return 0;
}

static int set_vring_kick(struct vhost_session *s, struct vhost_user_msg *msg,
			  struct vhost_user_msg *reply)
{
	struct vhost_ring *ring = ring_at(s, msg->payload.u64 & VHOST_USER_VRING_INDEX);
	int fd, rc;

	(void)reply;
	if (!ring)
		return -EINVAL;
	if (!ring->started && ring->in_flight)
		return VHOST_HELD;
	rc = take_eventfd(msg, &fd);
	return rc < 0 ? rc : vhost_ring_kick_fd(ring, fd);
}

static int set_vring_call(struct vhost_session *s, struct vhost_user_msg *msg,
			  struct vhost_user_msg *reply)
{
	struct vhost_ring *ring = ring_at(s, msg->payload.u64 & VHOST_USER_VRING_INDEX);
	int fd, rc;

	(void)reply;
	if (!ring)
		return -EINVAL;
	rc = take_eventfd(msg, &fd);
	if (rc == 0)
		vhost_ring_call_fd(ring, fd);
	return rc;
}

static int set_vring_err(struct vhost_session *s, struct vhost_user_msg *msg,
			 struct vhost_user_msg *reply)
{
	struct vhost_ring *ring = ring_at(s, msg->payload.u64 & VHOST_USER_VRING_INDEX);
	int fd, rc;

	(void)reply;
	if (!ring)
		return -EINVAL;
	rc = take_eventfd(msg, &fd);
	if (rc == 0) {
		vhost_close_fd(s->dev->loop, &ring->err_fd);
		ring->err_fd = fd;
	}
	return rc;
}

static int set_vring_enable(struct vhost_session *s, struct vhost_user_msg *msg,
			    struct vhost_user_msg *reply)
{
	struct vhost_ring *ring = ring_at(s, msg->payload.state.index);

	(void)reply;
	if (!ring)
		return -EINVAL;
	ring->enabled = msg->payload.state.num;
	if (ring->enabled && ring->started)
		vhost_ring_poke(ring);
	return VHOST_DONE;
}

static int reset_device(struct vhost_session *s, struct vhost_user_msg *msg,
			struct vhost_user_msg *reply)
{
	bool idle = true;

	(void)reply;
	for (unsigned i = 0; i < s->dev->rings; i++) {
		idle &= stopped(&s->ring[i]);
		s->ring[i].enabled = false;
	}
	if (!idle)
		return VHOST_HELD;
	for (unsigned i = 0; i < s->dev->rings; i++)
		vhost_ring_release(&s->ring[i], true);
	if (msg->request == VHOST_USER_RESET_DEVICE && s->dev->ops->reset)
		s->dev->ops->reset(s->dev);
	return VHOST_DONE;
}

/* --- config space ------------------------------------------------------------------------------ */

static int get_config(struct vhost_session *s, struct vhost_user_msg *msg,
		      struct vhost_user_msg *reply)
{
	const struct vhost_user_config *in = &msg->payload.config;
	uint8_t data[VHOST_USER_CONFIG_SIZE] = {0};

	if (in->size > sizeof(data) || in->offset > sizeof(data) - in->size ||
	    !s->dev->ops->get_config) {
		reply->size = 0; /* the spec's way to say no */
		return VHOST_ANSWERED;
	}
	s->dev->ops->get_config(s->dev, data);
	reply->payload.config.offset = in->offset;
	reply->payload.config.size = in->size;
	reply->payload.config.flags = in->flags;
	memcpy(reply->payload.config.data, data + in->offset, in->size);
	reply->size = VHOST_USER_CONFIG_HEADER + in->size;
	return VHOST_ANSWERED;
}

static int set_config(struct vhost_session *s, struct vhost_user_msg *msg,
		      struct vhost_user_msg *reply)
{
	const struct vhost_user_config *in = &msg->payload.config;

	(void)reply;
	if (in->size > VHOST_USER_CONFIG_SIZE || in->offset > VHOST_USER_CONFIG_SIZE - in->size ||
	    msg->size < VHOST_USER_CONFIG_HEADER + in->size)
		return fail(-EINVAL, "config space: %u bytes at %u", in->size, in->offset);
	if (!s->dev->ops->set_config)
		return fail(-EINVAL, "config space: it is read-only");
	return s->dev->ops->set_config(s->dev, in->offset, in->data, in->size);
}

static int set_backend_req_fd(struct vhost_session *s, struct vhost_user_msg *msg,
			      struct vhost_user_msg *reply)
{
	int fd = vhost_user_take_fd(msg, 0);

	(void)reply;
	if (fd < 0)
		return fail(-EINVAL, "no descriptor");
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
	if (s->backend_fd >= 0)
		close(s->backend_fd);
	s->backend_fd = fd;
	return VHOST_DONE;
}

/* --- the table --------------------------------------------------------------------------------- */

static const struct {
	int (*handle)(struct vhost_session *s, struct vhost_user_msg *msg,
		      struct vhost_user_msg *reply);
	unsigned payload; /* bytes at least */
} messages[VHOST_USER_REQUESTS] = {
	[VHOST_USER_GET_FEATURES] = {get_features, 0},
	[VHOST_USER_SET_FEATURES] = {set_features, 8},
	[VHOST_USER_SET_OWNER] = {nothing, 0},
	[VHOST_USER_RESET_OWNER] = {reset_device, 0},
	[VHOST_USER_SET_MEM_TABLE] = {set_mem_table, 8},
	[VHOST_USER_SET_LOG_BASE] = {set_log_base, 16},
	[VHOST_USER_SET_LOG_FD] = {nothing, 0},
	[VHOST_USER_SET_VRING_NUM] = {set_vring_num, 8},
	[VHOST_USER_SET_VRING_ADDR] = {set_vring_addr, 40},
	[VHOST_USER_SET_VRING_BASE] = {set_vring_base, 8},
	[VHOST_USER_GET_VRING_BASE] = {get_vring_base, 8},
	[VHOST_USER_SET_VRING_KICK] = {set_vring_kick, 8},
	[VHOST_USER_SET_VRING_CALL] = {set_vring_call, 8},
	[VHOST_USER_SET_VRING_ERR] = {set_vring_err, 8},
	[VHOST_USER_GET_PROTOCOL_FEATURES] = {get_protocol_features, 0},
	[VHOST_USER_SET_PROTOCOL_FEATURES] = {set_protocol_features, 8},
	[VHOST_USER_GET_QUEUE_NUM] = {get_queue_num, 0},
	[VHOST_USER_SET_VRING_ENABLE] = {set_vring_enable, 8},
	[VHOST_USER_SET_BACKEND_REQ_FD] = {set_backend_req_fd, 0},
	[VHOST_USER_GET_CONFIG] = {get_config, VHOST_USER_CONFIG_HEADER},
	[VHOST_USER_SET_CONFIG] = {set_config, VHOST_USER_CONFIG_HEADER},
	[VHOST_USER_GET_INFLIGHT_FD] = {get_inflight, 20},
	[VHOST_USER_SET_INFLIGHT_FD] = {set_inflight, 20},
	[VHOST_USER_RESET_DEVICE] = {reset_device, 0},
};

int vhost_message(struct vhost_session *s, struct vhost_user_msg *msg, struct vhost_user_msg *reply)
{
	if (msg->request >= VHOST_USER_REQUESTS || !messages[msg->request].handle)
		return fail(-EPROTO, "request %u is not known here", msg->request);
	if (msg->size < messages[msg->request].payload)
		return fail(-EPROTO, "%u bytes of payload are too few", msg->size);
	return messages[msg->request].handle(s, msg, reply);
}
