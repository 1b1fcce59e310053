// SPDX-License-Identifier: Apache-2.0
/*
 * The vhost-user front-end (spec: docs/interop/vhost-user.rst of QEMU).
 *
 *	guest, under the lock                  the device's thread
 *	DRIVER_OK: want_run = true, wake       takes a snapshot of the queues, active = true,
 *	                                       gives memory and rings to the back-end
 *	status 0:  want_run = false, wake      GET_VRING_BASE for each ring (the back-end drains);
 *	           (not active: done at once)  active = false, hv_virtio_reset_done
 *
 * `active` means: a back-end has, or may have, rings of ours. It outlives a connection that breaks.
 */
#include "hv/vhost.h"

#include <errno.h>
#include <limits.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_ring.h>
#include <linux/virtio_scsi.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/err.h"
#include "base/log.h"
#include "base/util.h"
#include "base/vhost_user.h"
#include "base/vmctl.h"
#include "base/vring.h"
#include "hv/gmem.h"
#include "hv/state.h"
#include "hv/vhost_ask.h"

#define DRAIN_MS	      INT_MAX /* as long as the storage takes; a new connection cuts it short */
#define STACK_BYTES	      (128 * 1024)
#define BLK_CONFIG_BYTES      60 /* struct virtio_blk_config up to the write-zeroes fields */
#define SCSI_SEGMENTS_MAX     126
#define SCSI_COMMANDS_PER_LUN 128
#define SCSI_LUN_MAX	      16383

#define BIT(n) (1ULL << (n))
#define RING_FEATURES \
	(BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_RING_F_EVENT_IDX) | BIT(VIRTIO_RING_F_INDIRECT_DESC))
#define SCSI_FEATURES \
	(BIT(VIRTIO_SCSI_F_INOUT) | BIT(VIRTIO_SCSI_F_HOTPLUG) | BIT(VIRTIO_SCSI_F_CHANGE))
#define BLK_FEATURES                                                                         \
	(BIT(VIRTIO_BLK_F_SEG_MAX) | BIT(VIRTIO_BLK_F_GEOMETRY) | BIT(VIRTIO_BLK_F_RO) |     \
	 BIT(VIRTIO_BLK_F_BLK_SIZE) | BIT(VIRTIO_BLK_F_FLUSH) | BIT(VIRTIO_BLK_F_TOPOLOGY) | \
	 BIT(VIRTIO_BLK_F_MQ) | BIT(VIRTIO_BLK_F_DISCARD) | BIT(VIRTIO_BLK_F_WRITE_ZEROES))
#define PROTOCOL_FEATURES                                                       \
	(BIT(VHOST_USER_PROTOCOL_F_MQ) | BIT(VHOST_USER_PROTOCOL_F_REPLY_ACK) | \
	 BIT(VHOST_USER_PROTOCOL_F_CONFIG) | BIT(VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD))

/* What the thread needs of a queue; the guest cannot change it while the queue is enabled. */
struct ring {
	bool enabled;
	bool given; /* to the back-end, whole */
	uint16_t size;
	uint64_t desc, avail, used;
	bool based; /* it was taken back, whole, at this index */
	uint16_t base;
	int kick_fd,
		call_fd; /* borrowed: the machine waits for hv_vhost_idle before it closes them */
};

struct hv_vhost {
	struct hv_virtio virtio;
	unsigned index;
	enum vmctl_device_kind kind;
	uint16_t queues, queue_size; /* as configured: request queues */
	struct hv_gmem *gmem;
	const struct hv_vhost_ops *ops;
	void *opaque;
	pthread_t thread;
	int wake_fd;

	/* Under the machine's lock. */
	pthread_mutex_t *lock;
	int new_fd;	/* a connection that the thread has not taken yet */
	int current_fd; /* the thread's socket, only to shut it down */
	bool ending, want_run, active, connected;
	bool suspend; /* want_run or not, no back-end is to have rings */
	bool based;   /* they were taken back at `base`, and not given since */
	uint16_t base[HV_VIRTIO_QUEUES];
	uint64_t features; /* the back-end's */
	uint8_t blk_config[BLK_CONFIG_BYTES];

	/* The thread's own. */
	int socket;
	bool running; /* rings were given to this connection */
	bool resumed; /* they had been given to an earlier one, and not been taken back */
	uint64_t protocol, accepted;
	struct ring ring[HV_VIRTIO_QUEUES];
	int inflight_fd;
	struct vhost_user_inflight inflight;
};

static void wake(struct hv_vhost *v)
{
	eventfd_write(v->wake_fd, 1);
}

/* --- the device, as the transport sees it ------------------------------------------------------ */

static uint64_t device_features(struct hv_virtio *d)
{
	struct hv_vhost *v = container_of(d, struct hv_vhost, virtio);
	uint64_t mask = v->kind == VMCTL_DEVICE_SCSI ? SCSI_FEATURES : BLK_FEATURES;

	return v->features & (RING_FEATURES | mask);
}

static void fill_scsi_config(const struct hv_vhost *v, struct virtio_scsi_config *c)
{
	*c = (struct virtio_scsi_config){
		.num_queues = htole32(v->queues),
		.seg_max = htole32(MIN(v->queue_size - 2u, SCSI_SEGMENTS_MAX)),
		.max_sectors = htole32(0xffff),
		.cmd_per_lun = htole32(MIN(v->queue_size, SCSI_COMMANDS_PER_LUN)),
		.event_info_size = htole32(sizeof(struct virtio_scsi_event)),
		.sense_size = htole32(VIRTIO_SCSI_SENSE_DEFAULT_SIZE),
		.cdb_size = htole32(VIRTIO_SCSI_CDB_DEFAULT_SIZE),
		.max_channel = 0,
		.max_target = 0, /* one target, many LUNs: no scan of 256 */
		.max_lun = htole32(SCSI_LUN_MAX),
	};
}

static void device_config_read(struct hv_virtio *d, uint32_t offset, void *dst, unsigned size)
{
	struct hv_vhost *v = container_of(d, struct hv_vhost, virtio);
	uint8_t config[64] = {0};
	struct virtio_scsi_config scsi;

	if (v->kind == VMCTL_DEVICE_SCSI) {
		fill_scsi_config(v, &scsi);
		memcpy(config, &scsi, sizeof(scsi));
	} else {
		memcpy(config, v->blk_config, sizeof(v->blk_config));
	}
	memset(dst, 0, size);
	if (offset < sizeof(config))
		memcpy(dst, config + offset, MIN(size, sizeof(config) - offset));
}

static void device_run(struct hv_virtio *d)
{
	struct hv_vhost *v = container_of(d, struct hv_vhost, virtio);

	v->want_run = true;
	wake(v);
}

static void device_reset(struct hv_virtio *d)
{
	struct hv_vhost *v = container_of(d, struct hv_vhost, virtio);

	v->want_run = v->based = false;
	if (v->active)
		wake(v);
	else
		hv_virtio_reset_done(d);
}

static const struct hv_virtio_ops device_ops = {
	.features = device_features,
	.config_read = device_config_read,
	.run = device_run,
	.reset = device_reset,
};

/* --- a new connection -------------------------------------------------------------------------- */

static int ask_features(struct hv_vhost *v, uint64_t *features)
{
	int rc = hv_vhost_ask_u64(v->socket, VHOST_USER_GET_FEATURES, features);

	if (rc)
		return rc;
	if (!(*features & BIT(VIRTIO_F_VERSION_1)) ||
	    !(*features & BIT(VHOST_USER_F_PROTOCOL_FEATURES_BIT)))
		return fail(-EPROTO, "the back-end offers no virtio 1.0 or no protocol features");
	rc = hv_vhost_ask_u64(v->socket, VHOST_USER_GET_PROTOCOL_FEATURES, &v->protocol);
	if (rc)
		return rc;
	v->protocol &= PROTOCOL_FEATURES;
	if (v->kind == VMCTL_DEVICE_BLK && !(v->protocol & BIT(VHOST_USER_PROTOCOL_F_CONFIG)))
		return fail(-EPROTO, "the back-end of a blk device has no configuration space");
	rc = hv_vhost_tell_u64(v->socket, VHOST_USER_SET_PROTOCOL_FEATURES, v->protocol);
	return rc ? rc : hv_vhost_tell_u64(v->socket, VHOST_USER_SET_OWNER, 0);
}

static int check_queues(struct hv_vhost *v)
{
	uint64_t n = 1;

	if (v->protocol & BIT(VHOST_USER_PROTOCOL_F_MQ)) {
		int rc = hv_vhost_ask_u64(v->socket, VHOST_USER_GET_QUEUE_NUM, &n);
		if (rc)
			return rc;
	}
	if (n < v->virtio.queues_n)
		return fail(-EPROTO, "the back-end serves %llu queues, the device has %u",
			    (unsigned long long)n, v->virtio.queues_n);
	return 0;
}

static int ask_blk_config(struct hv_vhost *v, uint8_t *config)
{
	struct vhost_user_msg reply, msg = {
					     .request = VHOST_USER_GET_CONFIG,
					     .flags = VHOST_USER_VERSION,
					     .size = VHOST_USER_CONFIG_HEADER + BLK_CONFIG_BYTES,
					     .payload.config = {.size = BLK_CONFIG_BYTES},
				     };
	int rc = vhost_user_call(v->socket, &msg, &reply, HV_VHOST_ANSWER_MS);

	if (rc)
		return rc;
	vhost_user_close_fds(&reply);
	if (reply.size != msg.size)
		return fail(-EPROTO, "the back-end answered GET_CONFIG with %u bytes", reply.size);
	memcpy(config, reply.payload.config.data, BLK_CONFIG_BYTES);
	const uint16_t queues = htole16(v->queues);
	memcpy(config + offsetof(struct virtio_blk_config, num_queues), &queues, 2);
	return 0;
}

static void drop(struct hv_vhost *v, const char *why)
{
	if (v->socket < 0)
		return;
	pthread_mutex_lock(v->lock);
	v->connected = false;
	v->current_fd = -1;
	pthread_mutex_unlock(v->lock);
	close(v->socket);
	v->socket = -1;
	v->running = false;
	if (why)
		v->ops->dropped(v->opaque, v->index, why);
	v->ops->changed(v->opaque);
}

/* A connection that closed is a daemon that restarts; anything else is worth an event. */
static void drop_for(struct hv_vhost *v, int rc)
{
	bool gone = rc == -ECONNRESET || rc == -EPIPE;

	log_info("vhost", "device %u: %s", v->index, err_message(rc));
	drop(v, gone ? NULL : err_message(rc));
}

static int handshake(struct hv_vhost *v)
{
	uint8_t config[BLK_CONFIG_BYTES] = {0};
	uint64_t features;
	int rc = ask_features(v, &features);

	if (!rc)
		rc = check_queues(v);
	if (!rc && v->kind == VMCTL_DEVICE_BLK)
		rc = ask_blk_config(v, config);
	if (rc)
		return rc;
	pthread_mutex_lock(v->lock);
	if (v->want_run && v->virtio.driver_features & ~(features | BIT(VIRTIO_F_VERSION_1)))
		rc = fail(-EPROTO, "the back-end lacks features %#llx that the guest uses",
			  (unsigned long long)(v->virtio.driver_features & ~features));
	if (!rc) {
		v->features = features;
		memcpy(v->blk_config, config, sizeof(config));
		v->connected = true;
	}
	pthread_mutex_unlock(v->lock);
	return rc;
}

static void take_connection(struct hv_vhost *v, int fd)
{
	struct timeval timeout = {.tv_sec = HV_VHOST_ANSWER_MS / 1000};

	drop(v, NULL);
	v->socket = fd;
	/* A peer that does not even read must not hold the thread in send() for good. */
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
	pthread_mutex_lock(v->lock);
	v->current_fd = fd;
	pthread_mutex_unlock(v->lock);
	int rc = handshake(v);
	if (rc)
		drop_for(v, rc);
	else
		v->ops->changed(v->opaque);
}

/* --- giving the rings -------------------------------------------------------------------------- */

/* The queues as they are now. False: the guest reset the device meanwhile, or it is to be suspended. */
static bool snapshot(struct hv_vhost *v)
{
	pthread_mutex_lock(v->lock);
	/* Active: what a dead back-end left undone is to be ended before there can be a stop. */
	bool go = v->want_run && (!v->suspend || v->active);
	for (unsigned i = 0; go && i < v->virtio.queues_n; i++) {
		const struct hv_virtio_queue *q = &v->virtio.queue[i];
		v->ring[i] = (struct ring){
			.enabled = q->enabled,
			.size = q->size,
			.desc = q->desc,
			.avail = q->driver,
			.used = q->device,
			.kick_fd = q->kick_fd,
			.call_fd = q->call_fd,
			.based = v->based,
			.base = v->base[i],
		};
	}
	if (go) {
		v->active = true;
		v->based = false;
		v->accepted = v->virtio.driver_features;
	}
	pthread_mutex_unlock(v->lock);
	return go;
}

static int give_memory(struct hv_vhost *v)
{
	const struct guest_mem *banks = hv_gmem_banks(v->gmem);
	struct vhost_user_msg msg = {
		.request = VHOST_USER_SET_MEM_TABLE,
		.flags = VHOST_USER_VERSION,
		.size = 8 + banks->count * sizeof(struct vhost_user_mem_region),
		.payload.memory = {.count = banks->count},
		.fd_count = banks->count,
	};
	uint64_t offset = 0;

	if (v->protocol & BIT(VHOST_USER_PROTOCOL_F_REPLY_ACK))
		msg.flags |= VHOST_USER_NEED_REPLY;
	for (unsigned i = 0; i < banks->count; i++) {
		const struct guest_region *r = &banks->region[i];
		msg.payload.memory.region[i] = (struct vhost_user_mem_region){
			.gpa = r->gpa,
			.size = r->size,
			.user_addr = r->user_addr,
			.mmap_offset = offset,
		};
		msg.fds[i] = hv_gmem_fd(v->gmem);
		offset += r->size;
	}
	return vhost_user_call(v->socket, &msg, NULL, HV_VHOST_ANSWER_MS);
}

static int ask_inflight(struct hv_vhost *v)
{
	struct vhost_user_msg reply,
		msg = {
			.request = VHOST_USER_GET_INFLIGHT_FD,
			.flags = VHOST_USER_VERSION,
			.size = sizeof(msg.payload.inflight),
			.payload.inflight = {.num_queues = (uint16_t)v->virtio.queues_n,
					     .queue_size = v->queue_size},
		};
	int rc = vhost_user_call(v->socket, &msg, &reply, HV_VHOST_ANSWER_MS);

	if (rc)
		return rc;
	v->inflight = reply.payload.inflight;
	v->inflight_fd = vhost_user_take_fd(&reply, 0);
	vhost_user_close_fds(&reply);
	if (reply.size != msg.size || v->inflight_fd < 0)
		return fail(-EPROTO, "the back-end gave no in-flight area");
	v->inflight.num_queues = (uint16_t)v->virtio.queues_n;
	v->inflight.queue_size = v->queue_size;
	return 0;
}

/* The area of an earlier connection where there is one, else a new one. */
static int give_inflight(struct hv_vhost *v)
{
	if (!(v->protocol & BIT(VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD)))
		return 0;
	int rc = v->inflight_fd < 0 ? ask_inflight(v) : 0;
	if (rc)
		return rc;
	struct vhost_user_msg msg = {
		.request = VHOST_USER_SET_INFLIGHT_FD,
		.size = sizeof(msg.payload.inflight),
		.payload.inflight = v->inflight,
		.fds = {v->inflight_fd},
		.fd_count = 1,
	};
	return hv_vhost_tell(v->socket, &msg);
}

/*
 * Where the back-end goes on: at the start for a fresh ring; where it was taken back; at the used
 * index for one whose back-end died (what it had taken and not answered stands in the in-flight
 * area).
 */
static int ring_base(const struct hv_vhost *v, const struct ring *r, uint16_t *base)
{
	const struct vring_used *used = hv_gmem_at(v->gmem, r->used, vring_used_bytes(r->size));

	if (!used)
		return fail(-EFAULT, "the guest's ring lies outside of its memory");
	if (r->based)
		*base = r->base;
	else
		*base = v->resumed ? le16toh(__atomic_load_n(&used->idx, __ATOMIC_ACQUIRE)) : 0;
	return 0;
}

static int give_ring(struct hv_vhost *v, unsigned i)
{
	const struct ring *r = &v->ring[i];
	struct vhost_user_msg addr = {
		.request = VHOST_USER_SET_VRING_ADDR,
		.size = sizeof(addr.payload.addr),
		.payload.addr = {.index = i, .desc = r->desc, .avail = r->avail, .used = r->used},
	};
	uint16_t base = 0;
	int rc;

	/* In post-copy they may be on their way: the back-end's own mapping would show zeroes. */
	hv_gmem_await(v->gmem, r->desc, vring_desc_bytes(r->size));
	hv_gmem_await(v->gmem, r->avail, vring_avail_bytes(r->size));
	hv_gmem_await(v->gmem, r->used, vring_used_bytes(r->size));
	rc = ring_base(v, r, &base);
	if (!rc)
		rc = hv_vhost_tell_state(v->socket, VHOST_USER_SET_VRING_NUM, i, r->size);
	if (!rc)
		rc = hv_vhost_tell_state(v->socket, VHOST_USER_SET_VRING_BASE, i, base);
	if (!rc)
		rc = hv_vhost_tell(v->socket, &addr);
	if (!rc)
		rc = hv_vhost_tell_fd(v->socket, VHOST_USER_SET_VRING_CALL, i, r->call_fd);
	if (!rc)
		rc = hv_vhost_tell_fd(v->socket, VHOST_USER_SET_VRING_KICK, i, r->kick_fd);
	return rc ? rc : hv_vhost_tell_state(v->socket, VHOST_USER_SET_VRING_ENABLE, i, 1);
}

static int give_all(struct hv_vhost *v)
{
	uint64_t features = v->accepted | BIT(VHOST_USER_F_PROTOCOL_FEATURES_BIT);
	int rc = hv_vhost_tell_u64(v->socket, VHOST_USER_SET_FEATURES, features);

	if (!rc)
		rc = give_memory(v);
	if (!rc)
		rc = give_inflight(v);
	for (unsigned i = 0; i < v->virtio.queues_n && !rc; i++) {
		if (!v->ring[i].enabled)
			continue;
		rc = give_ring(v, i);
		v->ring[i].given = !rc;
	}
	return rc;
}

static void start(struct hv_vhost *v)
{
	if (!snapshot(v))
		return;
	int rc = give_all(v);
	v->resumed = true;
	/* Addresses that a guest made up are its own fault: the device does not work, that is all. */
	if (rc == -EFAULT) {
		log_warn("vhost", "device %u: %s", v->index, err_message(rc));
		v->running = true;
		return;
	}
	if (rc) {
		drop_for(v, rc);
		return;
	}
	v->running = true;
	log_debug("vhost", "device %u: rings given to the back-end", v->index);
	/* What the guest asked for while nobody listened. */
	for (unsigned i = 0; i < v->virtio.queues_n; i++) {
		if (v->ring[i].enabled)
			eventfd_write(v->ring[i].kick_fd, 1);
	}
}

/* --- taking them back -------------------------------------------------------------------------- */

static int take_ring(struct hv_vhost *v, unsigned i, uint16_t *base)
{
	struct vhost_user_msg reply, msg = {
					     .request = VHOST_USER_GET_VRING_BASE,
					     .flags = VHOST_USER_VERSION,
					     .size = sizeof(msg.payload.state),
					     .payload.state = {.index = i},
				     };
	int rc = vhost_user_call(v->socket, &msg, &reply, DRAIN_MS);

	if (rc)
		return rc;
	vhost_user_close_fds(&reply);
	*base = (uint16_t)reply.payload.state.num;
	return reply.size == msg.size ? 0
				      : fail(-EPROTO,
					     "the back-end answered GET_VRING_BASE with "
					     "%u bytes",
					     reply.size);
}

/* False: the back-end did not give them, and was dropped. True: all requests have ended. */
static bool take_rings(struct hv_vhost *v, uint16_t base[HV_VIRTIO_QUEUES])
{
	int rc = 0;

	for (unsigned i = 0; v->running && i < v->virtio.queues_n && !rc; i++) {
		if (v->ring[i].given)
			rc = take_ring(v, i, &base[i]);
	}
	if (rc) {
		drop_for(v, rc);
		return false;
	}
	v->running = v->resumed = false;
	util_close(&v->inflight_fd);
	v->inflight_fd = -1;
	return true;
}

static void suspend(struct hv_vhost *v)
{
	uint16_t base[HV_VIRTIO_QUEUES] = {0};

	if (!take_rings(v, base))
		return;
	pthread_mutex_lock(v->lock);
	v->active = false;
	v->based = true;
	memcpy(v->base, base, sizeof(base));
	pthread_mutex_unlock(v->lock);
	v->ops->changed(v->opaque);
}

static void stop(struct hv_vhost *v)
{
	uint16_t base[HV_VIRTIO_QUEUES];

	/* What comes next begins afresh. */
	if (!take_rings(v, base))
		return;
	pthread_mutex_lock(v->lock);
	v->active = false;
	hv_virtio_reset_done(&v->virtio);
	pthread_mutex_unlock(v->lock);
	v->ops->changed(v->opaque);
}

/* --- the thread -------------------------------------------------------------------------------- */

/* True when the back-end's socket has something to say, which is never good unasked. */
static bool wait_for_work(struct hv_vhost *v)
{
	struct pollfd p[2] = {
		{.fd = v->wake_fd, .events = POLLIN},
		{.fd = v->socket, .events = POLLIN},
	};
	eventfd_t n;

	if (poll(p, 2, -1) < 0)
		return false;
	if (p[0].revents)
		eventfd_read(v->wake_fd, &n);
	return v->socket >= 0 && p[1].revents;
}

static void hear_backend(struct hv_vhost *v)
{
	char byte;
	ssize_t n = recv(v->socket, &byte, 1, MSG_PEEK | MSG_DONTWAIT);

	if (n > 0)
		drop(v, "the back-end sent a message that nobody asked for");
	else if (n == 0 || errno != EAGAIN)
		drop(v, NULL);
}

static void *vhost_thread(void *arg)
{
	struct hv_vhost *v = arg;
	char name[16];

	snprintf(name, sizeof(name), "vhost%u", v->index);
	prctl(PR_SET_NAME, name);
	for (;;) {
		bool heard = wait_for_work(v);

		pthread_mutex_lock(v->lock);
		bool ending = v->ending, want = v->want_run, active = v->active;
		bool halt = v->suspend;
		int fd = v->new_fd;
		v->new_fd = -1;
		pthread_mutex_unlock(v->lock);
		if (ending) {
			util_close(&fd);
			return NULL;
		}
		if (fd >= 0)
			take_connection(v, fd);
		else if (heard)
			hear_backend(v);
		if (v->socket < 0)
			continue;
		if (!want && active)
			stop(v);
		else if (want && !v->running && (!halt || active))
			start(v);
		if (halt && v->running)
			suspend(v);
	}
}

/* --- creation ---------------------------------------------------------------------------------- */

static void init_device(struct hv_vhost *v)
{
	bool scsi = v->kind == VMCTL_DEVICE_SCSI;

	v->virtio = (struct hv_virtio){
		.ops = &device_ops,
		.type = scsi ? VIRTIO_ID_SCSI : VIRTIO_ID_BLOCK,
		.pci_class = 0x010000,
		.queues_n = v->queues + (scsi ? 2u : 0u),
	};
	for (unsigned i = 0; i < v->virtio.queues_n; i++)
		v->virtio.queue[i].size_max = v->queue_size;
}

static int start_thread(struct hv_vhost *v)
{
	pthread_attr_t attr;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	int err = pthread_create(&v->thread, &attr, vhost_thread, v);
	pthread_attr_destroy(&attr);
	if (err)
		return fail(-err, "device %u: no thread: %s", v->index, strerror(err));
	return 0;
}

int hv_vhost_create(struct hv_vhost **out, unsigned index, const struct vmctl_device *config,
		    struct hv_gmem *gmem, pthread_mutex_t *lock, const struct hv_vhost_ops *ops,
		    void *opaque)
{
	struct hv_vhost *v = xcalloc(1, sizeof(*v));
	int rc = 0;

	v->index = index;
	v->kind = config->kind;
	v->queues = config->queues;
	v->queue_size = config->queue_size;
	v->gmem = gmem;
	v->lock = lock;
	v->ops = ops;
	v->opaque = opaque;
	v->new_fd = v->current_fd = v->socket = v->inflight_fd = -1;
	init_device(v);
	v->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (v->wake_fd < 0)
		rc = fail(-errno, "device %u: eventfd: %s", index, strerror(errno));
	if (!rc)
		rc = start_thread(v);
	if (rc) {
		util_close(&v->wake_fd);
		free(v);
		return rc;
	}
	*out = v;
	return 0;
}

void hv_vhost_destroy(struct hv_vhost *v)
{
	if (!v)
		return;
	pthread_mutex_lock(v->lock);
	v->ending = true;
	if (v->current_fd >= 0)
		shutdown(v->current_fd, SHUT_RDWR);
	pthread_mutex_unlock(v->lock);
	wake(v);
	pthread_join(v->thread, NULL);
	util_close(&v->socket);
	util_close(&v->new_fd);
	util_close(&v->inflight_fd);
	util_close(&v->wake_fd);
	free(v);
}

void hv_vhost_connect(struct hv_vhost *v, int fd)
{
	util_close(&v->new_fd);
	v->new_fd = fd;
	/* The thread may wait for an answer of the one before. */
	if (v->current_fd >= 0)
		shutdown(v->current_fd, SHUT_RDWR);
	wake(v);
}

bool hv_vhost_connected(const struct hv_vhost *v)
{
	return v->connected;
}

struct hv_virtio *hv_vhost_device(struct hv_vhost *v)
{
	MUST(hv_vhost_idle(v));
	init_device(v);
	return &v->virtio;
}

void hv_vhost_stop(struct hv_vhost *v)
{
	v->want_run = v->suspend = v->based = false;
	wake(v);
}

bool hv_vhost_idle(const struct hv_vhost *v)
{
	return !v->active && !v->want_run;
}

/* --- suspended, and saved ---------------------------------------------------------------------- */

static int no_backend(const struct hv_vhost *v)
{
	return fail(-ENOTCONN,
		    "device %u: its back-end is not connected, and cannot give back its rings",
		    v->index);
}

int hv_vhost_suspend(struct hv_vhost *v)
{
	if (v->active && !v->connected)
		return no_backend(v);
	v->suspend = true;
	wake(v);
	return 0;
}

bool hv_vhost_suspended(const struct hv_vhost *v, int *rc)
{
	*rc = 0;
	if (v->suspend && !v->active)
		return true;
	if (!v->connected)
		*rc = no_backend(v);
	return false;
}

void hv_vhost_resume(struct hv_vhost *v)
{
	v->suspend = false;
	wake(v);
}

void hv_vhost_save(const struct hv_vhost *v, struct hv_state_writer *w)
{
	MUST(v->suspend && !v->active);
	hv_state_begin(w, "vhost", v->index, 1);
	hv_state_put64(w, v->features);
	hv_state_put(w, v->blk_config, sizeof(v->blk_config));
	hv_state_put8(w, v->based);
	for (unsigned i = 0; i < v->virtio.queues_n; i++)
		hv_state_put16(w, v->base[i]);
}

/* What a back-end said of itself is believed when it is there already; else the saved one's. */
int hv_vhost_load(struct hv_vhost *v, struct hv_state_reader *r)
{
	uint8_t config[BLK_CONFIG_BYTES];
	int rc = hv_state_section(r, "vhost", v->index, 1);

	if (rc < 0)
		return rc;
	uint64_t features = hv_state_get64(r);
	hv_state_get(r, config, sizeof(config));
	bool based = hv_state_get8(r) & 1;
	for (unsigned i = 0; i < v->virtio.queues_n; i++)
		v->base[i] = hv_state_get16(r);
	rc = hv_state_done(r);
	if (rc)
		return rc;
	if (!v->connected) {
		v->features = features;
		memcpy(v->blk_config, config, sizeof(config));
	}
	v->based = based;
	v->want_run = hv_virtio_ready(&v->virtio);
	v->suspend = true;
	if (v->want_run && v->virtio.driver_features & ~(v->features | BIT(VIRTIO_F_VERSION_1)))
		return hv_state_refuse(r, "the guest uses features that its back-end lacks");
	return 0;
}
