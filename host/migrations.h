// SPDX-License-Identifier: Apache-2.0
/*
 * migrations.h (private to host): streams that other hosts open for migrations to here: who they belong
 * to, and their end when the daemon stops. Each has a thread until it says what it is for: MIG_BEGIN, and a
 * VM arrives on it (vm_arrive.c); MIG_JOIN, and it carries pages for one that does; MIG_NET, and what came for its network
 * follows (vm_frames.h).
 */
#ifndef HOST_MIGRATIONS_H
#define HOST_MIGRATIONS_H

struct host;
struct host_migrations;
struct host_stream;
struct mig_target;
struct peer_stream;

int host_migrations_create(struct host *host, struct host_migrations **out);
/* No more are taken from now on; those that are here go on. */
void host_migrations_refuse(struct host_migrations *m);
/* No more are taken, all are cancelled; returns when the last has ended. */
void host_migrations_quiesce(struct host_migrations *m);
void host_migrations_destroy(struct host_migrations *m);

/* A peer's stream, on the volume with this id, is ours now. Never blocks. `m` may be NULL. */
void host_migrations_serve(struct host_migrations *m, const char *volume_id,
			   struct peer_stream *stream);

/* --- for who serves one ---------------------------------------------------------------------------- */

struct peer_stream *host_stream_of(struct host_stream *s);
/* Ends it, telling this thread's words for `err` if that is negative. */
void host_stream_end(struct host_stream *s, int err);
/* Data streams may join `t`, by its token. */
void host_migrations_expect(struct host_migrations *m, struct mig_target *t);
/* None may, and those that had are gone; then it can be destroyed. */
void host_migrations_forget(struct host_migrations *m, struct mig_target *t);

#endif
