// SPDX-License-Identifier: Apache-2.0
/*
 * vhost_ask.h (private to hv): the plain messages of a vhost-user front-end, over a connected socket. Errors are
 * those of vhost_user_call: the connection is of no use any more.
 */
#ifndef HV_VHOST_ASK_H
#define HV_VHOST_ASK_H

#include <stdint.h>

#include "base/vhost_user.h"

#define HV_VHOST_ANSWER_MS 10000 /* to any question but the drain */

/* Fills in the version; nobody answers these. */
int hv_vhost_tell(int socket, struct vhost_user_msg *msg);
int hv_vhost_tell_u64(int socket, uint32_t request, uint64_t value);
int hv_vhost_tell_state(int socket, uint32_t request, unsigned index, uint32_t num);
/* `fd` for ring `index`. */
int hv_vhost_tell_fd(int socket, uint32_t request, unsigned index, int fd);
/* Waits HV_VHOST_ANSWER_MS for a number. */
int hv_vhost_ask_u64(int socket, uint32_t request, uint64_t *value);

#endif
