// SPDX-License-Identifier: Apache-2.0
/*
 * agent_talk.h (private to host): the words of a guest's agent (QEMU's guest agent protocol: JSON, a
 * request or answer a line, https://www.qemu.org/docs/master/interop/qemu-ga-ref.html) on a connection
 * whose other end is a guest: nothing it says is believed, nor waited for beyond a deadline.
 *
 * One thread at a time. Deadlines are on CLOCK_BOOTTIME, in ns. Errors: -EREMOTEIO the agent refuses, in its
 * words; anything else is the end of this connection, whose next answer might be another request's:
 * -ETIMEDOUT, -ECONNRESET, -EPROTO it makes no sense or never ends, -ECANCELED `stop_fd` is readable.
 */
#ifndef HOST_AGENT_TALK_H
#define HOST_AGENT_TALK_H

#include <stddef.h>
#include <stdint.h>
#include <jansson.h>

#define AGENT_ANSWER_MAX (1024 * 1024)	   /* bytes of one answer */
#define AGENT_HEARD_MAX	 (4 * 1024 * 1024) /* and of all that is read while waiting for it */

struct agent_talk;

/* Takes `fd`, a connected stream socket; borrows `stop_fd`, an eventfd. */
struct agent_talk *agent_talk_create(int fd, int stop_fd);
void agent_talk_destroy(struct agent_talk *talk);
/* The agent is there, and the next answer is the next request's, whatever was said before. */
int agent_talk_sync(struct agent_talk *talk, uint64_t deadline_ns);
/*
 * Takes the reference `arguments` (NULL: none); *result (may be NULL) is a new one, of whatever type. Only
 * after a sync.
 */
int agent_talk_call(struct agent_talk *talk, const char *command, json_t *arguments,
		    uint64_t deadline_ns, json_t **result);

#endif
