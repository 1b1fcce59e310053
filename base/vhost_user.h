// SPDX-License-Identifier: Apache-2.0
/*
 * vhost_user.h: messages of the vhost-user protocol, for both sides: the daemon is a back-end, the
 * VMM a front-end. Source of all numbers and layouts: docs/interop/vhost-user.rst of QEMU ("the
 * spec"). Integers are in the machine's byte order (x86: little-endian).
 *
 * A stream socket carries messages of a header and a payload; descriptors travel as SCM_RIGHTS
 * with the first byte.
 */
#ifndef BASE_VHOST_USER_H
#define BASE_VHOST_USER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bits of GET_FEATURES beside the virtio ones. */
#define VHOST_F_LOG_ALL_BIT		   26 /* mark what is written in the log */
#define VHOST_USER_F_PROTOCOL_FEATURES_BIT 30

enum vhost_user_protocol_feature { /* bits of GET_PROTOCOL_FEATURES */
				   VHOST_USER_PROTOCOL_F_MQ = 0,
				   VHOST_USER_PROTOCOL_F_LOG_SHMFD = 1,
				   VHOST_USER_PROTOCOL_F_REPLY_ACK = 3,
				   VHOST_USER_PROTOCOL_F_BACKEND_REQ = 5,
				   VHOST_USER_PROTOCOL_F_CONFIG = 9,
				   VHOST_USER_PROTOCOL_F_BACKEND_SEND_FD = 10,
				   VHOST_USER_PROTOCOL_F_HOST_NOTIFIER = 11,
				   VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD = 12,
				   VHOST_USER_PROTOCOL_F_RESET_DEVICE = 13,
				   VHOST_USER_PROTOCOL_F_INBAND_NOTIFICATIONS = 14,
				   VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS = 15,
				   VHOST_USER_PROTOCOL_F_STATUS = 16,
};

enum vhost_user_request { /* front-end to back-end */
			  VHOST_USER_GET_FEATURES = 1,
			  VHOST_USER_SET_FEATURES = 2,
			  VHOST_USER_SET_OWNER = 3,
			  VHOST_USER_RESET_OWNER = 4, /* deprecated: disables all rings */
			  VHOST_USER_SET_MEM_TABLE = 5,
			  VHOST_USER_SET_LOG_BASE = 6,
			  VHOST_USER_SET_LOG_FD = 7,
			  VHOST_USER_SET_VRING_NUM = 8,
			  VHOST_USER_SET_VRING_ADDR = 9,
			  VHOST_USER_SET_VRING_BASE = 10,
			  VHOST_USER_GET_VRING_BASE = 11,
			  VHOST_USER_SET_VRING_KICK = 12,
			  VHOST_USER_SET_VRING_CALL = 13,
			  VHOST_USER_SET_VRING_ERR = 14,
			  VHOST_USER_GET_PROTOCOL_FEATURES = 15,
			  VHOST_USER_SET_PROTOCOL_FEATURES = 16,
			  VHOST_USER_GET_QUEUE_NUM = 17,
			  VHOST_USER_SET_VRING_ENABLE = 18,
			  VHOST_USER_SET_BACKEND_REQ_FD = 21,
			  VHOST_USER_GET_CONFIG = 24,
			  VHOST_USER_SET_CONFIG = 25,
			  VHOST_USER_GET_INFLIGHT_FD = 31,
			  VHOST_USER_SET_INFLIGHT_FD = 32,
			  VHOST_USER_RESET_DEVICE = 34,
			  VHOST_USER_GET_MAX_MEM_SLOTS = 36,
			  VHOST_USER_ADD_MEM_REG = 37,
			  VHOST_USER_REM_MEM_REG = 38,
			  VHOST_USER_SET_STATUS = 39,
			  VHOST_USER_GET_STATUS = 40,
			  VHOST_USER_REQUESTS,
};
/* "SET_MEM_TABLE", or "?" for a number that is none. */
const char *vhost_user_request_name(uint32_t request);

enum vhost_user_backend_request { /* the other way, over the SET_BACKEND_REQ_FD socket */
				  VHOST_USER_BACKEND_CONFIG_CHANGE_MSG = 2,
};

#define VHOST_USER_VERSION	  1u
#define VHOST_USER_VERSION_MASK	  3u
#define VHOST_USER_REPLY	  (1u << 2)
#define VHOST_USER_NEED_REPLY	  (1u << 3) /* with REPLY_ACK: answer a u64, 0 for success */
#define VHOST_USER_MEM_REGIONS	  8	    /* of one SET_MEM_TABLE */
#define VHOST_USER_FDS		  8	    /* descriptors of one message */
#define VHOST_USER_CONFIG_SIZE	  256	    /* bytes of config space in one message */
#define VHOST_USER_CONFIG_HEADER  12
#define VHOST_USER_VRING_INDEX	  0xffu
#define VHOST_USER_VRING_NOFD	  (1u << 8) /* SET_VRING_KICK/CALL/ERR without descriptor */
#define VHOST_USER_VRING_LOG_FLAG 1u	    /* of vring_addr.flags: log the used ring */

struct vhost_user_vring_state {
	uint32_t index, num;
};
struct vhost_user_vring_addr {
	uint32_t index, flags;
	uint64_t desc, used, avail; /* the front-end's own addresses */
	uint64_t log;		    /* guest physical address of the used ring, for the log */
};
struct vhost_user_mem_region {
	uint64_t gpa, size, user_addr, mmap_offset;
};
struct vhost_user_memory {
	uint32_t count, padding;
	struct vhost_user_mem_region region[VHOST_USER_MEM_REGIONS];
};
struct vhost_user_mem_reg {
	uint64_t padding;
	struct vhost_user_mem_region region;
};
struct vhost_user_log {
	uint64_t mmap_size, mmap_offset;
};
struct vhost_user_config {
	uint32_t offset, size, flags;
	uint8_t data[VHOST_USER_CONFIG_SIZE];
};
struct vhost_user_inflight {
	uint64_t mmap_size, mmap_offset;
	uint16_t num_queues, queue_size;
	uint32_t padding;
};
union vhost_user_payload {
	uint64_t u64;
	struct vhost_user_vring_state state;
	struct vhost_user_vring_addr addr;
	struct vhost_user_memory memory;
	struct vhost_user_mem_reg mem_reg;
	struct vhost_user_log log;
	struct vhost_user_config config;
	struct vhost_user_inflight inflight;
};

#define VHOST_USER_HEADER 12
struct vhost_user_msg {
	uint32_t request, flags, size; /* the header; size: bytes of payload */
	uint32_t unused;
	union vhost_user_payload payload;
	int fds[VHOST_USER_FDS];
	unsigned fd_count;
	unsigned have; /* private to receiving: bytes so far, header included */
};

/* --- in-flight tracking, split rings (spec, "Inflight I/O tracking") --------------------------- */

#define VHOST_USER_INFLIGHT_VERSION 1
struct vhost_user_desc_state {
	uint8_t inflight; /* taken and not answered */
	uint8_t padding[5];
	uint16_t next;	  /* of the last batch */
	uint64_t counter; /* order of taking */
};
struct vhost_user_inflight_ring {
	uint64_t features;
	uint16_t version; /* 0: fresh memory */
	uint16_t desc_num;
	uint16_t last_batch_head;
	uint16_t used_idx;
	struct vhost_user_desc_state desc[];
};
/* Bytes of one ring's region, rounded up so that rings do not share a cache line. */
static inline uint64_t vhost_user_inflight_bytes(unsigned queue_size)
{
	return (sizeof(struct vhost_user_inflight_ring) +
		sizeof(struct vhost_user_desc_state) * (uint64_t)queue_size + 63) &
	       ~63ULL;
}

/* --- sending and receiving ---------------------------------------------------------------------- */

/*
 * Receives into `msg`, which the caller zeroed before the first call for a message: 1 it is whole,
 * 0 there is nothing more for now (only where the socket or MSG_DONTWAIT says so), -errno: close
 * the connection (-ECONNRESET: the peer closed it; -EPROTO: bytes that are no message). The
 * message's descriptors are the caller's, also after an error: vhost_user_close_fds.
 */
int vhost_user_receive(int socket, struct vhost_user_msg *msg, bool wait);
/* Sends with its descriptors (they stay the caller's); -EAGAIN when the peer does not read. */
int vhost_user_send(int socket, const struct vhost_user_msg *msg);
/* Closes what is left in msg->fds. */
void vhost_user_close_fds(struct vhost_user_msg *msg);
/* Takes the i-th descriptor out of the message: the caller's now; -1 when there is none. */
int vhost_user_take_fd(struct vhost_user_msg *msg, unsigned i);

/*
 * Front-end's help: sends, and, for a request that has an answer (or flagged NEED_REPLY), waits up
 * to timeout_ms for it in *reply (may be NULL with NEED_REPLY). -ETIMEDOUT, -EPROTO (another
 * request's answer), -EREMOTEIO (NEED_REPLY answered non-zero), or as above.
 */
int vhost_user_call(int socket, const struct vhost_user_msg *msg, struct vhost_user_msg *reply,
		    int timeout_ms);

#endif
