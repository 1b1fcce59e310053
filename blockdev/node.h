// SPDX-License-Identifier: Apache-2.0
/*
 * node.h: what a backend or filter implements; private to blockdev.
 *
 * A backend embeds struct blk and struct blk_chan as their first members and gives a table of
 * operations. The node (node.c) keeps the seam: it checks, gates, splits and counts, then calls
 * ops->submit; the backend answers each request once through blk_complete.
 */
#ifndef BLOCKDEV_NODE_H
#define BLOCKDEV_NODE_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/loop.h"
#include "blockdev/blk.h"

struct blk_service;

/* Filters leave NULL what they pass on as it is; backends leave NULL what they cannot (-EOPNOTSUPP). */
struct blk_ops {
	size_t chan_size; /* of the struct that begins with struct blk_chan */
	/* Gives back what the backend holds; the node frees the struct. */
	void (*close)(struct blk *blk);
	int (*rescan)(struct blk *blk); /* fills blk->info.size and what changed with it */
	/* Both may be NULL; the node allocates, opens and closes a filter's `lower`, and frees. */
	int (*chan_open)(struct blk_chan *chan);
	void (*chan_close)(struct blk_chan *chan);
	void (*submit)(struct blk_chan *chan, struct blk_req *req);
	void (*reset)(struct blk *blk);
	int (*host_lock)(struct blk *blk, unsigned slot, bool lock);
	int (*pr_register)(struct blk *blk, uint64_t key, int (*look)(void *arg), void *arg);
	int (*pr_unregister)(struct blk *blk);
	int (*pr_reserve)(struct blk *blk, enum blk_pr_type type);
	int (*pr_preempt)(struct blk *blk, enum blk_pr_type type, uint64_t victim_key);
	int (*pr_read)(struct blk *blk, struct blk_pr_state *out);
	int (*pr_clear)(struct blk *blk); /* for fault: as an array that lost its keys */
	int (*drain_foreign)(struct blk *blk, const char *initiator, uint32_t isid, unsigned n);
	unsigned (*sessions)(const struct blk *blk);
	/* In a look (blk_pr_register): reads over the session that is being looked at; true if so. */
	bool (*look_read)(struct blk *blk, uint64_t offset, void *buf, size_t length, int *rc);
};

struct blk {
	const struct blk_ops *ops;
	struct blk_info info;
	struct blk_options options; /* strings owned */
	struct blk *lower;	    /* filters: what they stand on; NULL in a backend */
	uint64_t max_discard;	    /* bytes of one discard or write-zeroes; 0: no limit */
	_Atomic(const _Atomic uint64_t *) lease;
	_Atomic uint64_t power_count; /* what all channels count (a kernel device, a fault) */
	struct blk_service *service;  /* of the lowest node, shared by the filters above it */
	struct blk_chan *service_chan;
	pthread_mutex_t lock; /* chans, closed_stats; never held across I/O */
	struct list chans;    /* struct blk_chan.link */
	struct blk_stats closed_stats;
};

struct blk_chan {
	struct blk *blk;
	struct loop *loop;
	struct blk_chan *lower; /* filters: the channel under this one */
	bool borrowed;		/* `lower` is the lower node's own service channel */
	enum blk_chan_kind kind;
	unsigned index;		      /* counts the channels of this blk, from 0 */
	unsigned turn;		      /* counts requests, for sampling the latency */
	bool answerless;	      /* requests were sent since the last answer */
	_Atomic uint64_t power_count; /* its session's, once that stands */
	_Atomic uint64_t came_up;     /* its sessions after the first */
	struct list link;
	struct blk_stats stats; /* written by the loop's thread */
};

/* The node's part of blk_req.priv; the backend's follows. */
struct blk_priv {
	struct blk_chan *chan;
	uint64_t start_ns; /* when sampled, else 0 */
	int call_res;	   /* blk_call */
	bool call_done;
	uint8_t backend[192 - 32] __attribute__((aligned(8)));
};
_Static_assert(sizeof(struct blk_priv) <= sizeof(((struct blk_req *)0)->priv), "priv is too small");

/* A LUN that grew: its size is the one thing of `info` that changes while others read it. */
static inline void blk_set_size(struct blk *blk, uint64_t size)
{
	__atomic_store_n(&blk->info.size, size, __ATOMIC_RELAXED);
}

static inline struct blk_priv *blk_priv(struct blk_req *req)
{
	return (struct blk_priv *)req->priv;
}
#define BLK_BACKEND(type, req)                                                               \
	({                                                                                   \
		_Static_assert(sizeof(type) <= sizeof(((struct blk_priv *)0)->backend), ""); \
		(type *)blk_priv(req)->backend;                                              \
	})

/* The opening functions of the backends: name, options, -errno. They end with blk_node_start. */
int blk_file_open(const char *name, const struct blk_options *options, struct blk **out);
int blk_kernel_open(const char *name, const struct blk_options *options, struct blk **out);
int blk_iscsi_open(const char *name, const struct blk_options *options, struct blk **out);

/* `blk` zeroed, the first member of what the backend allocated: fills in the common part. */
void blk_node_init(struct blk *blk, const struct blk_ops *ops, const char *name,
		   const struct blk_options *options);
/* Starts the service thread with a channel of its own; on failure blk_node_free is left to do. */
int blk_node_start(struct blk *blk);
/* Ends the service, calls ops->close and frees. */
void blk_node_free(struct blk *blk);
/* A filter over `lower`, which it owns when this succeeded. */
int blk_filter_start(struct blk *blk, const struct blk_ops *ops, struct blk *lower);
/* For a filter that fails after blk_filter_start: `lower` is the caller's again. */
void blk_filter_stop(struct blk *blk);
/* Hands a request to the channel below, unchanged: its answer does not come by here. */
static inline void blk_pass(struct blk_chan *chan, struct blk_req *req)
{
	blk_submit(chan->lower, req);
}

/* Answers a request: `res` is 0 or -errno; maybe_done was set by the backend. Loop's thread. */
void blk_complete(struct blk_req *req, int res);
/* How long a request of this channel may go unanswered: a beat's time-out is short. */
unsigned blk_chan_timeout_ms(const struct blk_chan *chan);
bool blk_op_changes(enum blk_op op);
/* True when `req` may not be sent any more: the lease is over. Any thread. */
bool blk_gate_shut(struct blk *blk, const struct blk_req *req);
struct blk *blk_lowest(struct blk *blk);

/* service.c */
int blk_service_create(struct blk_service **out);
void blk_service_destroy(struct blk_service *service);
struct loop *blk_service_loop(struct blk_service *service);
/* Runs fn(arg) in the service's thread and waits for its result. */
int blk_service_run(struct blk_service *service, int (*fn)(void *arg), void *arg);

/* split.c: sends `req` as several of at most `max` bytes; its answer is the first error. */
void blk_split(struct blk_chan *chan, struct blk_req *req, uint64_t max);
/* As above, WRITE_ZEROES by writing zeroes. */
void blk_write_zeroes_plainly(struct blk_chan *chan, struct blk_req *req);

/* One request of a backend takes at most so many iovecs (the kernel's UIO_MAXIOV). */
#define BLK_IOV_MAX 1024

/* Takes bytes [skip, skip+length) of an iovec list; returns the number written to `out`. */
int blk_iov_slice(struct iovec *out, const struct iovec *iov, int iovcnt, uint64_t skip,
		  uint64_t length);

#endif
