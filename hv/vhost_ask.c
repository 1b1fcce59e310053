// SPDX-License-Identifier: Apache-2.0
/* vhost_ask.c: messages of one number, state or descriptor. */
#include "hv/vhost_ask.h"

#include <errno.h>

#include "base/err.h"

int hv_vhost_tell(int socket, struct vhost_user_msg *msg)
{
	msg->flags = VHOST_USER_VERSION;
	return vhost_user_call(socket, msg, NULL, 0);
}

int hv_vhost_tell_u64(int socket, uint32_t request, uint64_t value)
{
	struct vhost_user_msg msg = {.request = request, .size = 8, .payload.u64 = value};

	return hv_vhost_tell(socket, &msg);
}

int hv_vhost_tell_state(int socket, uint32_t request, unsigned index, uint32_t num)
{
	struct vhost_user_msg msg = {
		.request = request,
		.size = sizeof(msg.payload.state),
		.payload.state = {.index = index, .num = num},
	};

	return hv_vhost_tell(socket, &msg);
}

int hv_vhost_tell_fd(int socket, uint32_t request, unsigned index, int fd)
{
	struct vhost_user_msg msg = {
		.request = request,
		.size = 8,
		.payload.u64 = index,
		.fds = {fd},
		.fd_count = 1,
	};

	return hv_vhost_tell(socket, &msg);
}

int hv_vhost_ask_u64(int socket, uint32_t request, uint64_t *value)
{
	struct vhost_user_msg msg = {.request = request, .flags = VHOST_USER_VERSION}, reply;
	int rc = vhost_user_call(socket, &msg, &reply, HV_VHOST_ANSWER_MS);

	if (rc)
		return rc;
	*value = reply.payload.u64;
	rc = reply.size == 8 ? 0
			     : fail(-EPROTO, "vhost-user: %s answered with %u bytes",
				    vhost_user_request_name(request), reply.size);
	vhost_user_close_fds(&reply);
	return rc;
}
