// SPDX-License-Identifier: Apache-2.0
/* vhost_user.c: messages over a stream socket, descriptors as SCM_RIGHTS. */
#include "base/vhost_user.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/util.h"

_Static_assert(offsetof(struct vhost_user_msg, size) == 8, "header");
_Static_assert(sizeof(struct vhost_user_vring_addr) == 40, "spec");
_Static_assert(sizeof(struct vhost_user_memory) == 8 + 8 * 32, "spec");
_Static_assert(sizeof(struct vhost_user_mem_reg) == 40, "spec");
_Static_assert(sizeof(struct vhost_user_inflight) == 24, "as QEMU sends it");
_Static_assert(sizeof(struct vhost_user_desc_state) == 16, "spec");
_Static_assert(sizeof(struct vhost_user_inflight_ring) == 16, "spec");

static const char *const request_names[VHOST_USER_REQUESTS] = {
	[VHOST_USER_GET_FEATURES] = "GET_FEATURES",
	[VHOST_USER_SET_FEATURES] = "SET_FEATURES",
	[VHOST_USER_SET_OWNER] = "SET_OWNER",
	[VHOST_USER_RESET_OWNER] = "RESET_OWNER",
	[VHOST_USER_SET_MEM_TABLE] = "SET_MEM_TABLE",
	[VHOST_USER_SET_LOG_BASE] = "SET_LOG_BASE",
	[VHOST_USER_SET_LOG_FD] = "SET_LOG_FD",
	[VHOST_USER_SET_VRING_NUM] = "SET_VRING_NUM",
	[VHOST_USER_SET_VRING_ADDR] = "SET_VRING_ADDR",
	[VHOST_USER_SET_VRING_BASE] = "SET_VRING_BASE",
	[VHOST_USER_GET_VRING_BASE] = "GET_VRING_BASE",
	[VHOST_USER_SET_VRING_KICK] = "SET_VRING_KICK",
	[VHOST_USER_SET_VRING_CALL] = "SET_VRING_CALL",
	[VHOST_USER_SET_VRING_ERR] = "SET_VRING_ERR",
	[VHOST_USER_GET_PROTOCOL_FEATURES] = "GET_PROTOCOL_FEATURES",
	[VHOST_USER_SET_PROTOCOL_FEATURES] = "SET_PROTOCOL_FEATURES",
	[VHOST_USER_GET_QUEUE_NUM] = "GET_QUEUE_NUM",
	[VHOST_USER_SET_VRING_ENABLE] = "SET_VRING_ENABLE",
	[VHOST_USER_SET_BACKEND_REQ_FD] = "SET_BACKEND_REQ_FD",
	[VHOST_USER_GET_CONFIG] = "GET_CONFIG",
	[VHOST_USER_SET_CONFIG] = "SET_CONFIG",
	[VHOST_USER_GET_INFLIGHT_FD] = "GET_INFLIGHT_FD",
	[VHOST_USER_SET_INFLIGHT_FD] = "SET_INFLIGHT_FD",
	[VHOST_USER_RESET_DEVICE] = "RESET_DEVICE",
	[VHOST_USER_GET_MAX_MEM_SLOTS] = "GET_MAX_MEM_SLOTS",
	[VHOST_USER_ADD_MEM_REG] = "ADD_MEM_REG",
	[VHOST_USER_REM_MEM_REG] = "REM_MEM_REG",
	[VHOST_USER_SET_STATUS] = "SET_STATUS",
	[VHOST_USER_GET_STATUS] = "GET_STATUS",
};

const char *vhost_user_request_name(uint32_t request)
{
	return request < VHOST_USER_REQUESTS && request_names[request] ? request_names[request]
								       : "?";
}

/* Keeps the descriptors of a control message; -EPROTO when there are more than a message has. */
static int keep_fds(struct vhost_user_msg *msg, struct msghdr *mh)
{
	int rc = mh->msg_flags & MSG_CTRUNC ? -EPROTO : 0;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(mh); c; c = CMSG_NXTHDR(mh, c)) {
		unsigned n;
		int fd;

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		n = (unsigned)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		for (unsigned i = 0; i < n; i++) {
			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
			if (msg->fd_count < VHOST_USER_FDS) {
				msg->fds[msg->fd_count++] = fd;
			} else {
				close(fd);
				rc = -EPROTO;
			}
		}
	}
	return rc;
}

static ssize_t receive_some(int socket, struct vhost_user_msg *msg, void *dst, size_t len,
			    bool wait)
{
	union {
		struct cmsghdr align;
		uint8_t bytes[CMSG_SPACE(VHOST_USER_FDS * sizeof(int))];
	} control;
	struct iovec iov = {dst, len};
	struct msghdr mh = {.msg_iov = &iov,
			    .msg_iovlen = 1,
			    .msg_control = control.bytes,
			    .msg_controllen = sizeof(control.bytes)};
	ssize_t n;
	int rc;

	do
		n = recvmsg(socket, &mh, MSG_CMSG_CLOEXEC | (wait ? 0 : MSG_DONTWAIT));
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	rc = keep_fds(msg, &mh);
	if (rc)
		return rc;
	return n ? n : -ECONNRESET;
}

int vhost_user_receive(int socket, struct vhost_user_msg *msg, bool wait)
{
	for (;;) {
		size_t want = VHOST_USER_HEADER;
		uint8_t *dst = (uint8_t *)msg + msg->have;
		ssize_t n;

		if (msg->have >= VHOST_USER_HEADER) {
			if (msg->size > sizeof(msg->payload) ||
			    (msg->flags & VHOST_USER_VERSION_MASK) != VHOST_USER_VERSION)
				return fail(-EPROTO,
					    "vhost-user: no message: request %u, flags "
					    "%#x, %u bytes",
					    msg->request, msg->flags, msg->size);
			want += msg->size;
			dst = (uint8_t *)&msg->payload + msg->have - VHOST_USER_HEADER;
		}
		if (msg->have == want)
			return 1;
		n = receive_some(socket, msg, dst, want - msg->have, wait);
		if (n == -EAGAIN)
			return 0;
		if (n < 0)
			return fail((int)n, "vhost-user: receiving: %s", strerror((int)-n));
		msg->have += (unsigned)n;
	}
}

/* The rest of a message after a first part went out; a peer that does not read gets no second try. */
static int send_rest(int socket, const uint8_t *bytes, size_t len)
{
	while (len) {
		ssize_t n = send(socket, bytes, len, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return fail(-errno, "vhost-user: sending: %s", strerror(errno));
		bytes += n;
		len -= (size_t)n;
	}
	return 0;
}

int vhost_user_send(int socket, const struct vhost_user_msg *msg)
{
	uint8_t bytes[VHOST_USER_HEADER + sizeof(msg->payload)];
	union {
		struct cmsghdr align;
		uint8_t bytes[CMSG_SPACE(VHOST_USER_FDS * sizeof(int))];
	} control;
	struct iovec iov = {bytes, VHOST_USER_HEADER + msg->size};
	struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1};
	size_t fd_bytes = msg->fd_count * sizeof(int);
	ssize_t n;

	MUST(msg->size <= sizeof(msg->payload) && msg->fd_count <= VHOST_USER_FDS);
	memcpy(bytes, msg, VHOST_USER_HEADER);
	memcpy(bytes + VHOST_USER_HEADER, &msg->payload, msg->size);
	if (fd_bytes) {
		memset(&control, 0, sizeof(control));
		mh.msg_control = control.bytes;
		mh.msg_controllen = CMSG_SPACE(fd_bytes);
		control.align.cmsg_level = SOL_SOCKET;
		control.align.cmsg_type = SCM_RIGHTS;
		control.align.cmsg_len = CMSG_LEN(fd_bytes);
		memcpy(CMSG_DATA(&control.align), msg->fds, fd_bytes);
	}
	do
		n = sendmsg(socket, &mh, MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return fail(-errno, "vhost-user: sending %s: %s",
			    vhost_user_request_name(msg->request), strerror(errno));
	return send_rest(socket, bytes + n, iov.iov_len - (size_t)n);
}

void vhost_user_close_fds(struct vhost_user_msg *msg)
{
	for (unsigned i = 0; i < msg->fd_count; i++)
		if (msg->fds[i] >= 0)
			close(msg->fds[i]);
	msg->fd_count = 0;
}

int vhost_user_take_fd(struct vhost_user_msg *msg, unsigned i)
{
	int fd;

	if (i >= msg->fd_count)
		return -1;
	fd = msg->fds[i];
	msg->fds[i] = -1;
	return fd;
}

static int await(int socket, struct vhost_user_msg *msg, int timeout_ms)
{
	uint64_t end = clock_boot_ms() + (uint64_t)MAX(timeout_ms, 0);
	int rc;

	memset(msg, 0, sizeof(*msg));
	while ((rc = vhost_user_receive(socket, msg, false)) == 0) {
		struct pollfd p = {.fd = socket, .events = POLLIN};
		uint64_t now = clock_boot_ms();

		if (now >= end)
			return fail(-ETIMEDOUT, "vhost-user: no answer for %d ms", timeout_ms);
		if (poll(&p, 1, (int)(end - now)) < 0 && errno != EINTR)
			return fail(-errno, "vhost-user: poll: %s", strerror(errno));
	}
	return rc < 0 ? rc : 0;
}

int vhost_user_call(int socket, const struct vhost_user_msg *msg, struct vhost_user_msg *reply,
		    int timeout_ms)
{
	struct vhost_user_msg own;
	bool ack = msg->flags & VHOST_USER_NEED_REPLY;
	int rc = vhost_user_send(socket, msg);

	if (rc < 0 || (!reply && !ack))
		return rc;
	if (!reply)
		reply = &own;
	rc = await(socket, reply, timeout_ms);
	if (rc == 0 && (reply->request != msg->request || !(reply->flags & VHOST_USER_REPLY)))
		rc = fail(-EPROTO, "vhost-user: %s is answered with %s",
			  vhost_user_request_name(msg->request),
			  vhost_user_request_name(reply->request));
	if (rc == 0 && reply == &own && (reply->size != 8 || reply->payload.u64))
		rc = fail(-EREMOTEIO, "vhost-user: %s was refused",
			  vhost_user_request_name(msg->request));
	if (rc < 0 || reply == &own)
		vhost_user_close_fds(reply);
	return rc;
}
