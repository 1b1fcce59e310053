// SPDX-License-Identifier: Apache-2.0
/* vhost_messages.h: what each message of a front-end does, private to vhost_*.c. */
#ifndef VFS_VHOST_MESSAGES_H
#define VFS_VHOST_MESSAGES_H

#include "vfs/vhost_ring.h"

enum vhost_outcome {
	VHOST_DONE = 0,	    /* acknowledge it if that was asked for */
	VHOST_ANSWERED = 1, /* `reply` is its answer (8 bytes of payload unless changed) */
	VHOST_HELD = 2,	    /* it waits for rings to drain and is to be handled again then */
};
/* An outcome or -errno. Takes from msg->fds what it keeps. Descriptors in `reply` are closed. */
int vhost_message(struct vhost_session *s, struct vhost_user_msg *msg,
		  struct vhost_user_msg *reply);

#endif
