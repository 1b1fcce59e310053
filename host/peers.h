// SPDX-License-Identifier: Apache-2.0
/*
 * peers.h (private to host): the other hosts of our volumes, over the network.
 *
 * They are found in the beat blocks, known by the volume's secret, and only make things quicker or
 * more comfortable: nothing that happens here decides who holds a lock, a slot or a VM, and a host
 * without a network works in everything but `--on`.
 *
 * One thread with a loop of its own does all of it. A connection stands on one volume and carries
 * the requests of the side that opened it; it is opened when it is first needed and kept while the
 * other host beats; one that fails is tried again after a pause that doubles. Whoever calls here
 * never waits for a peer: calls are answered by a callback.
 */
#ifndef HOST_PEERS_H
#define HOST_PEERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <jansson.h>

#define HOST_PEERS_PORT 7700u /* where --listen names none */

struct cfs;
struct cfs_host_info;
struct host;
struct host_call;
struct host_peers;

/*
 * Begins to listen at `listen` ("ADDR:PORT"; port 0: any; NULL or "": nowhere, so that others cannot
 * reach this host, but it them). An address that is taken is tried again later. -EINVAL.
 */
int host_peers_create(struct host *host, const char *listen, struct host_peers **out);
/* Where others reach this host; what the beat says. "" when nowhere, or not yet. */
const char *host_peers_address(const struct host_peers *peers);
/* No more calls, either way: those under way end, others' are done first. */
void host_peers_quiesce(struct host_peers *peers);
void host_peers_destroy(struct host_peers *peers);

/* A volume was mounted; `fs` is used until host_peers_leave, which is over when nothing does any more. */
void host_peers_join(struct host_peers *peers, struct cfs *fs);
void host_peers_leave(struct host_peers *peers, struct cfs *fs);

/*
 * The volume (its id as text) is tried, or was let go just now: for a minute it is no stranger who names
 * it. Until host_peers_settled, when what is remembered was tried once, that is so for all volumes.
 */
void host_peers_await(struct host_peers *peers, const char *id);
void host_peers_settled(struct host_peers *peers);

/*
 * Tells the hosts in `slots` (a bit each) of the volume, those that can be reached; connects where it was
 * not needed before. From any thread; never blocks; what is too much is thrown away. For cfs_options.
 */
struct cfs_hint;
void host_peers_hint(struct host_peers *peers, struct cfs *fs, uint64_t slots,
		     const struct cfs_hint *hint);

/*
 * Fills "connection": "self", "none" (no address), "idle" (not needed yet), "connecting",
 * "connected", "failed"; and "connection_error" for the last. For `host list`.
 */
void host_peers_describe(struct host_peers *peers, struct cfs *fs, const struct cfs_host_info *h,
			 json_t *into);

/* --- streams for bulk (peer_streams.c) ------------------------------------------------------------- */

struct peer_stream;
/*
 * Opens one to the host named `on` (its name, or its id) over the volume `fs`. Blocks, some seconds at most;
 * for pools and threads of their own. *out is the caller's to end; it outlives `peers`, and the volume must
 * not be left meanwhile. -ENOENT, -EINVAL, -EHOSTUNREACH, -EPROTONOSUPPORT (too old), in words.
 */
int host_peers_stream(struct host_peers *peers, struct cfs *fs, const char *on,
		      struct peer_stream **out);

/* --- relayed calls (peer_call.c) ----------------------------------------------------------------- */

/* An answer, as the API gives it: HTTP status and text, or bytes. */
struct host_answer {
	unsigned status;
	bool bytes; /* no JSON: a file's content */
	const void *data;
	size_t n;
};
/*
 * Has the verb run by the host named `on` (its name, or its id), which refuses to pass it on. `done`
 * comes once, from the peers' thread, and must not block: err 0 and the answer (borrowed), whatever
 * that host said; or a negative errno in words: -ENOENT no such host, -EINVAL two of them,
 * -EHOSTUNREACH not reached, or lost meanwhile. `call` is borrowed until this returns.
 */
void host_peers_call(struct host_peers *peers, const char *on, struct host_call *call,
		     void (*done)(void *arg, int err, const struct host_answer *answer), void *arg);
/* Whether `on` names this host itself. -EINVAL: it is its name, and that of a member, too. */
int host_peers_is_self(const struct host *host, const char *on, bool *self);

/*
 * A CALL's body taken apart: fills verb, args, who asks and the body's bytes (borrowed). -ENOENT,
 * -EINVAL (no request, or one to be passed on). For tests and fuzzing too.
 */
int host_peer_call_parse(const void *data, size_t n, struct host_call *call, const void **body,
			 size_t *body_bytes);

#endif
