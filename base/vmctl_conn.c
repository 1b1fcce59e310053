// SPDX-License-Identifier: Apache-2.0
/*
 * A control connection: a stream socket with a buffer each way, never blocking, for both the
 * daemon's event loop and the VMM's poll loop. Descriptors that come along wait in order of arrival
 * and go with the next message that is decoded (both sides send them with a message's first byte).
 */
#include "base/vmctl.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"

#define OUT_MAX (256 * 1024) /* queued for a peer that does not read; it is refused then */
#define IN_MAX	(VMCTL_HEADER_BYTES + VMCTL_PAYLOAD_MAX)

struct vmctl_conn {
	int fd;
	uint8_t in[IN_MAX];
	size_t in_bytes;
	uint8_t *out; /* out[out_sent..out_bytes) waits for the socket */
	size_t out_bytes, out_sent;
	int fds[VMCTL_FDS_MAX]; /* came, not yet given out */
	unsigned fds_n;
};

static int set_blocking(int fd, bool blocking)
{
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0)
		return -errno;
	flags = blocking ? flags & ~O_NONBLOCK : flags | O_NONBLOCK;
	return fcntl(fd, F_SETFL, flags) < 0 ? -errno : 0;
}

int vmctl_conn_create(struct vmctl_conn **out, int fd)
{
	int rc = set_blocking(fd, false);

	if (rc) {
		close(fd);
		return fail(rc, "control connection: fcntl: %s", strerror(-rc));
	}
	struct vmctl_conn *conn = xcalloc(1, sizeof(*conn));
	conn->fd = fd;
	*out = conn;
	return 0;
}

void vmctl_conn_destroy(struct vmctl_conn *conn)
{
	if (!conn)
		return;
	for (unsigned i = 0; i < conn->fds_n; i++)
		close(conn->fds[i]);
	close(conn->fd);
	free(conn->out);
	free(conn);
}

int vmctl_conn_detach(struct vmctl_conn *conn)
{
	int fd = conn->fd;

	if (conn->in_bytes || conn->fds_n || vmctl_conn_pending(conn))
		return fail(-EPROTO, "control connection: bytes beyond the HELLO");
	int rc = set_blocking(fd, true);
	if (rc)
		return fail(rc, "control connection: fcntl: %s", strerror(-rc));
	free(conn->out);
	free(conn);
	return fd;
}

int vmctl_conn_fd(const struct vmctl_conn *conn)
{
	return conn->fd;
}

bool vmctl_conn_pending(const struct vmctl_conn *conn)
{
	return conn->out_sent < conn->out_bytes;
}

/* --- sending ----------------------------------------------------------------------------------- */

/* The bytes sent, 0 when the socket is full, -EPIPE. Descriptors go with the first byte. */
static ssize_t send_some(int fd, const uint8_t *p, size_t n, const int *fds, unsigned fds_n)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(sizeof(int) * VMCTL_FDS_MAX)];
	} control;
	struct iovec iov = {.iov_base = (void *)(uintptr_t)p, .iov_len = n};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

	if (fds_n) {
		memset(&control, 0, sizeof(control));
		msg.msg_control = control.buf;
		msg.msg_controllen = CMSG_SPACE(sizeof(int) * fds_n);
		struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int) * fds_n);
		memcpy(CMSG_DATA(c), fds, sizeof(int) * fds_n);
	}
	for (;;) {
		ssize_t sent = sendmsg(fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (sent >= 0)
			return sent;
		if (errno == EAGAIN)
			return 0;
		if (errno != EINTR)
			return -EPIPE;
	}
}

int vmctl_conn_flush(struct vmctl_conn *conn)
{
	while (vmctl_conn_pending(conn)) {
		ssize_t n = send_some(conn->fd, conn->out + conn->out_sent,
				      conn->out_bytes - conn->out_sent, NULL, 0);
		if (n < 0)
			return fail(-EPIPE, "control connection: the other side is gone");
		if (n == 0)
			return -EAGAIN;
		conn->out_sent += (size_t)n;
	}
	free(conn->out);
	conn->out = NULL;
	conn->out_bytes = conn->out_sent = 0;
	return 0;
}

static void queue(struct vmctl_conn *conn, const uint8_t *p, size_t n)
{
	conn->out = xrealloc(conn->out, conn->out_bytes + n);
	memcpy(conn->out + conn->out_bytes, p, n);
	conn->out_bytes += n;
}

int vmctl_conn_send(struct vmctl_conn *conn, const struct vmctl_msg *msg)
{
	uint8_t buf[VMCTL_HEADER_BYTES + VMCTL_PAYLOAD_MAX];
	int n = vmctl_encode(msg, buf, sizeof(buf));

	if (n < 0)
		return n;
	MUST(msg->fds_n <= VMCTL_FDS_MAX);
	int rc = vmctl_conn_flush(conn);
	if (rc == -EPIPE)
		return rc;
	if (rc == -EAGAIN) {
		/* Descriptors cannot wait in the queue: their owner closes them after the call. */
		if (msg->fds_n || conn->out_bytes - conn->out_sent > OUT_MAX)
			return -EAGAIN;
		queue(conn, buf, (size_t)n);
		return 0;
	}
	ssize_t sent = send_some(conn->fd, buf, (size_t)n, msg->fds, msg->fds_n);
	if (sent < 0)
		return fail(-EPIPE, "control connection: the other side is gone");
	if (sent == 0 && msg->fds_n)
		return -EAGAIN;
	if (sent < n)
		queue(conn, buf + sent, (size_t)(n - sent));
	return 0;
}

/* --- receiving --------------------------------------------------------------------------------- */

static int take_fds(struct vmctl_conn *conn, struct msghdr *msg)
{
	int rc = msg->msg_flags & MSG_CTRUNC ? -EPROTO : 0;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < n; i++) {
			int fd;
			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
			if (conn->fds_n < VMCTL_FDS_MAX) {
				conn->fds[conn->fds_n++] = fd;
			} else {
				close(fd);
				rc = -EPROTO;
			}
		}
	}
	return rc ? fail(rc, "control connection: too many descriptors") : 0;
}

/* Fills `in`. 1: something came; 0: nothing there. */
static int fill(struct vmctl_conn *conn)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(sizeof(int) * VMCTL_FDS_MAX)];
	} control;
	/* Once a header is there, exactly its message: what follows it may be another protocol. */
	size_t want = VMCTL_HEADER_BYTES;
	if (conn->in_bytes >= VMCTL_HEADER_BYTES) {
		uint32_t payload;
		memcpy(&payload, conn->in + 8, sizeof(payload));
		want += le32toh(payload);
	}
	MUST(want > conn->in_bytes && want <= IN_MAX);
	struct iovec iov = {.iov_base = conn->in + conn->in_bytes,
			    .iov_len = want - conn->in_bytes};
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.buf,
		.msg_controllen = sizeof(control.buf),
	};
	ssize_t n;
	do
		n = recvmsg(conn->fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n < 0 && errno == EAGAIN)
		return 0;
	if (n <= 0)
		return fail(-ECONNRESET, "control connection: the other side is gone");
	conn->in_bytes += (size_t)n;
	int rc = take_fds(conn, &msg);
	return rc ? rc : 1;
}

int vmctl_conn_receive(struct vmctl_conn *conn, struct vmctl_msg *msg)
{
	for (;;) {
		int n = vmctl_decode(conn->in, conn->in_bytes, msg);
		if (n < 0)
			return n;
		if (n > 0) {
			MUST((size_t)n == conn->in_bytes);
			conn->in_bytes = 0;
			msg->fds_n = conn->fds_n;
			memcpy(msg->fds, conn->fds, sizeof(int) * conn->fds_n);
			conn->fds_n = 0;
			return 1;
		}
		int rc = fill(conn);
		if (rc <= 0)
			return rc;
	}
}

int vmctl_conn_wait(struct vmctl_conn *conn, struct vmctl_msg *msg, uint64_t deadline_ns)
{
	for (;;) {
		int rc = vmctl_conn_flush(conn);
		if (rc == -EPIPE)
			return rc;
		rc = vmctl_conn_receive(conn, msg);
		if (rc)
			return rc;
		uint64_t now = clock_boot_ns();
		if (now >= deadline_ns)
			return fail(-ETIMEDOUT, "control connection: no answer in time");
		struct pollfd p = {
			.fd = conn->fd,
			.events = (short)(POLLIN | (vmctl_conn_pending(conn) ? POLLOUT : 0)),
		};
		uint64_t ms = DIV_ROUND_UP(deadline_ns - now, NS_PER_MS);
		poll(&p, 1, (int)MIN(ms, 60000));
	}
}
