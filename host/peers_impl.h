// SPDX-License-Identifier: Apache-2.0
/*
 * peers_impl.h (private to peers.c, peer_link.c, peer_serve.c, peer_call.c): the parts in memory.
 *
 * `lock` guards everything here. The loop's callbacks take it; it is never held while something
 * blocks. peer_conn's functions call nobody back before the next turn of the loop, so they may be
 * called with the lock held; only the loop's thread calls them.
 */
#ifndef HOST_PEERS_IMPL_H
#define HOST_PEERS_IMPL_H

#include <pthread.h>

#include "base/loop.h"
#include "base/peer_conn.h"
#include "clusterfs/cfs.h"
#include "host/peers.h"

#define PEER_SLOTS	   64u
#define PEER_SERVED_MAX	   256u /* connections from others, volumes together */
#define PEER_CALLS_MAX	   64u	/* calls of ours under way */
#define PEER_SERVES_CALLS  32u	/* calls of one connection under way here; more are refused */
#define PEER_WORKERS	   8u	/* calls of others that wait for storage at once */
#define PEER_QUICK_WORKERS 2u
#define PEER_AWAITED	   64u	  /* volumes that may be mounted any time now ... */
#define PEER_AWAITED_MS	   60000u /* ... or were of late */
#define PEER_LOOK_MS	   1000u  /* how often the hosts in the beats are looked through */
#define PEER_UNSEEN_MS	   60000u /* a life that connected before its first beat was read: that long */
#define PEER_RETRY_MS	   250u /* after a failure; doubles */
#define PEER_RETRY_MAX_MS  10000u
#define PEER_HINTS_QUEUED  64u	 /* of a volume, for the peers' thread */
#define PEER_HINTS_WAITING 8u	 /* of a link that is not open yet */
#define PEER_HINT_OLD_MS   1000u /* by then the beats have told it */

struct host_peers;
struct peer_stream;
struct peer_volume;
struct strangers;

/* Our connection to one slot of one volume. */
struct peer_link {
	struct peer_volume *volume;
	unsigned slot;
	uint32_t epoch; /* of the host that is meant; 0: nobody */
	char name[64], id[40], address[64];
	struct peer_conn *conn; /* NULL: none */
	bool open;
	bool dropped;				   /* by us: no failure */
	uint64_t retry_ms;			   /* BOOTTIME: not before */
	unsigned failures;			   /* in a row */
	char error[256];			   /* why it failed last; "" it did not */
	struct list calls;			   /* struct peer_call, until it is open */
	struct cfs_hint hints[PEER_HINTS_WAITING]; /* until it is open */
	unsigned hints_n;
	uint64_t hints_ms; /* of the first */
};

struct peer_volume {
	struct list link;
	struct host_peers *peers;
	struct cfs *fs; /* NULL: left; freed when no connection stands on it any more */
	char identity[TLS_IDENTITY_BYTES];
	uint8_t id[16], key[TLS_KEY_BYTES];
	unsigned slot;
	uint32_t epoch;
	unsigned conns;
	struct {
		uint64_t slots;
		struct cfs_hint hint;
	} hints[PEER_HINTS_QUEUED];
	unsigned hints_n;
	struct peer_link to[PEER_SLOTS];
};

/* A connection from another host, or from a stranger. */
struct peer_served {
	struct list link;
	struct host_peers *peers;
	struct peer_conn *conn;	    /* NULL: gone, but calls of it still run */
	struct peer_volume *volume; /* once it has proved itself, as that life on it: */
	unsigned slot;
	uint32_t epoch;
	uint64_t unseen_ms; /* BOOTTIME: the beats did not show it yet; 0: they did */
	struct netaddr from;
	bool proved;
	bool early;	     /* it named a volume that is not mounted at this moment only */
	unsigned calls;	     /* struct served_call that name it */
	struct list answers; /* ... whose answer waits for room */
};

struct host_peers {
	struct host *host;
	struct loop *loop;
	pthread_t thread;
	_Atomic bool stopping; /* read without the lock, too */
	bool started, stopped, no_calls, leaving, hinting;
	struct netaddr listen;
	char listen_text[NETADDR_TEXT];
	char address[NETADDR_TEXT]; /* never changes once `known` */
	_Atomic bool known;	    /* set under the lock */
	bool listens;
	int listen_fd;
	struct loop_watch listen_watch;
	struct loop_timer look;
	struct loop_work stop_work, leave_work, finish_work, hint_work;
	struct list finished;	     /* struct peer_call that ended without an answer */
	struct list streams;	     /* struct stream_ask that connect */
	struct strangers *strangers; /* loop's thread only */
	struct pool *workers, *quick;

	pthread_mutex_t lock;
	pthread_cond_t idle;
	struct list volumes, served;
	unsigned served_n;
	bool settled; /* what is remembered was tried once */
	struct {
		char identity[TLS_IDENTITY_BYTES];
		uint64_t until_ms; /* BOOTTIME */
	} awaited[PEER_AWAITED];
	unsigned calls; /* of ours, under way; streams that connect, too */
	unsigned runs;	/* of others, in the pools */
};

/* peers.c, lock held. Reads who is in the slots, from the last beat: */
void peers_look(struct host_peers *p);
struct peer_volume *peers_volume(struct host_peers *p, const char *identity);
/* It is no volume of this host at this moment, but may be at the next, or was at the last. */
bool peers_awaits(struct host_peers *p, const char *identity);
/* What the last beat says of another host's life: over (or being taken over), or not seen yet. */
enum peer_life { PEER_LIFE_SEEN, PEER_LIFE_UNSEEN, PEER_LIFE_OVER };
enum peer_life peers_life(struct peer_volume *v, const struct cfs_host_info *hosts, unsigned n,
			  unsigned slot, uint32_t epoch);
/* Stopping and all is closed: the thread may end. */
void peers_check_end(struct host_peers *p);
void peers_volume_put(struct peer_volume *v); /* a connection that stood on it is gone */

/* peer_link.c: loop's thread, lock held. */
void peer_link_init(struct peer_link *l, struct peer_volume *v, unsigned slot);
/* The beats show this host in the slot; NULL: nobody. */
void peer_link_set(struct peer_link *l, const struct cfs_host_info *h);
/* Connects if it is not; false: not now (`error` says why). `insist`: before its time, too. */
bool peer_link_need(struct peer_link *l, bool insist);
/* A connection for `purpose` to the host of the link, which counts with its volume then. -errno in words. */
int peer_link_connect(struct peer_link *l, enum peer_purpose purpose,
		      const struct peer_conn_events *events, void *arg, struct peer_conn **out);
/* What this host says of itself on a connection for the volume. */
void peer_hello_fill(const struct peer_volume *v, enum peer_purpose purpose,
		     struct peer_hello *out);
void peer_link_drop(struct peer_link *l, int err, const char *why);

/* peer_hint.c: loop's thread, lock held. */
void peer_hints_init(struct host_peers *p);
void peer_hints_go(struct peer_link *l); /* the link is open */
int peer_hint_serve(struct peer_served *s, const struct frame *f);

/* peer_serve.c: loop's thread. */
void peer_served_accept(struct host_peers *p, int fd);
void peer_served_sweep(struct host_peers *p);
/* Lock held; `hosts` as the beats of `v` show them: who is no member any more is hung up on. */
void peer_served_look(struct peer_volume *v, const struct cfs_host_info *hosts, unsigned n);
void peer_served_close_all(struct host_peers *p, struct peer_volume *only, const char *why);
void peer_served_put(struct peer_served *s); /* lock held: frees it if nothing names it */

/* peer_streams.c: loop's thread, lock held. */
void peer_streams_init(struct host_peers *p);
void peer_streams_stop(struct host_peers *p);
/* A served connection of purpose STREAM is open: it is handed on, without the lock. */
void peer_stream_serve(struct peer_served *s, struct peer_stream *stream);

/* peer_call.c: loop's thread, lock held. */
struct peer_call;
/* The best of the links to a host of that name, on any volume or that of `fs`: one that is open, else one that could be. */
int peer_link_find(struct host_peers *p, const struct cfs *fs, const char *on,
		   struct peer_link **out);
void peer_calls_init(struct host_peers *p);
/* The link is open, or failed: its waiting calls go out, or end. */
void peer_calls_go(struct peer_link *l);
void peer_calls_fail(struct peer_link *l, int err, const char *why);
/* A CALL came; an error of this is answered. */
int peer_call_serve(struct peer_served *s, const struct frame *f);
/* There is room again for answers, or nobody to tell. May free `s`. */
void peer_answers_go(struct peer_served *s);

#endif
