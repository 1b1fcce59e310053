// SPDX-License-Identifier: Apache-2.0
/*
 * api.h (private to host): HTTP on a unix socket (libmicrohttpd). One thread speaks HTTP; calls
 * run in a bounded pool while their connections are suspended, quick ones in a pool of their own,
 * long ones as tasks. What is no request is answered 4xx; nothing a client sends ends the daemon.
 */
#ifndef HOST_API_H
#define HOST_API_H

#include <stddef.h>
#include <jansson.h>

struct host;
struct host_api;
struct host_call;

#define HOST_API_BODY_MAX	 (1024 * 1024)		/* bytes of JSON */
#define HOST_API_UPLOAD_MAX	 (256ULL * 1024 * 1024) /* bytes of a file */
#define HOST_API_CONNECTIONS_MAX 200

/*
 * Makes the socket `path` (mode 0600; 0660 when `group` is given and exists). An old one is taken
 * away: the caller holds the state directory's lock.
 */
int host_api_start(struct host *host, const char *path, const char *group, struct host_api **out);
/* No new connections; waits for calls under way. */
void host_api_stop(struct host_api *api);

/*
 * The part without sockets, for tests and fuzzing: takes a method, an address, the keys after '?',
 * and a body; fills `call` with verb and arguments, or answers -ENOENT, -EINVAL, -ENOSYS (method).
 */
int host_api_parse(const char *method, const char *url, json_t *query, const char *body,
		   size_t body_bytes, struct host_call *call);

/*
 * Runs the verb of *call, or starts it as a task, which takes the call (*call is NULL then). `text` (owned
 * by the caller) is the answer's JSON, `status` HTTP's; call->answer_fd and upgrade as the verb left
 * them. Blocks as the verb does.
 */
void host_api_run(struct host_call **call, unsigned *status, char **text);
/* This thread's error for `err` as an answer. */
void host_api_error(int err, unsigned *status, char **text);

#endif
