// SPDX-License-Identifier: Apache-2.0
/*
 * thin_impl.h (private to thin*.c): the parts of a thin disk. All in the disk's loop but what says so.
 *
 * A request walks over its range piece by piece. Where it cannot go on (a leaf must be read, an entry is
 * being changed, no space, no room in the journal) it is put on that thing's waiting list and walks
 * on from where it stood when it is called again. A piece is one request to the LUN.
 */
#ifndef VFS_THIN_IMPL_H
#define VFS_THIN_IMPL_H

#include "base/loop.h"
#include "base/pool.h"
#include "blockdev/blk.h"
#include "clusterfs/iopath.h"
#include "vfs/chans.h"
#include "vfs/thin.h"
#include "vfs/unflushed.h"

#define THIN_LEAVES	  2048u /* leaves a disk keeps at hand: 8 MiB; fewer where there are many disks */
#define THIN_LEAVES_ALL	  32768u /* all disks on a volume and a thread, together */
#define THIN_LEAVES_LEAST 64u
#define THIN_BUCKETS	  1024u
#define THIN_RUN_BYTES	  (1u * MiB) /* the longest piece */
#define THIN_PIECE_IOV	  24u	     /* iovecs a piece has room for; more ends the run there */
#define THIN_RETRY_MS	  100u
#define THIN_LATER_MS \
	1000u /* between attempts to find space for the map: each looks at all groups */
#define THIN_GRAIN CFS_BLOCK

struct thin;

/* What there is no space for: data on the volume, data on a thin array under it, the map. */
enum thin_full { THIN_FULL_UNITS = 1, THIN_FULL_LUN = 2, THIN_FULL_MAP = 4 };

struct leaf {
	struct list hash, lru;
	uint64_t index;
	struct cfs_buf *buf; /* NULL: a hole (nothing mapped) once loaded */
	bool loading;	     /* a job is reading or making it */
	unsigned users;	     /* pieces and jobs that need it to stay */
	struct list waiters; /* requests: for the load, or for an entry */
	uint8_t busy[DIV_ROUND_UP(CFS_LEAF_ENTRIES, 8)]; /* entries under structural change */
	uint8_t reap[DIV_ROUND_UP(CFS_LEAF_ENTRIES, 8)]; /* all zero, unit still named */
	uint8_t gone[DIV_ROUND_UP(CFS_LEAF_ENTRIES, 8)]; /* a job takes the unit away just now */
	uint16_t io[CFS_LEAF_ENTRIES];			 /* pieces in flight to the entry's unit */
	struct list reap_link;
	int error; /* of the load, while those who waited for it are called */
};

struct thin {
	struct vfs_disk disk;
	struct vfs_chans *chans;
	struct cfs *fs;
	struct cfs_file *file;
	struct cfs_map *map;
	struct cfs_stock *stock; /* of the map; NULL: read only */
	struct list bucket[THIN_BUCKETS], lru;
	unsigned leaves;
	struct leaf *last; /* the one found last */
	struct list free_pieces;
	struct list no_space;  /* requests that wait for units */
	struct list no_room;   /* pieces that wait for room in the journal */
	struct list zero_room; /* requests that wait for it */
	struct unflushed *unflushed;
	struct way *way[CFS_MAX_EXTENTS]; /* NULL: not used yet */
	unsigned ways;			  /* the last one that was, plus one */
	struct list unsure;		  /* requests that wait for a commit: see thin_suspect */
	struct cfs_commit settle_commit;
	struct loop_work settle_work;
	bool settling;	     /* it is under way */
	bool last_commit;    /* the one before closing has begun */
	int settled;	     /* how it ended */
	struct list flushes; /* flushes, and commits of FUA writes, that are to be tried again */
	struct list later;   /* requests that found no space for the map, or no lease */
	uint64_t later_ns;   /* not before: when they walk on */
	struct list stalled; /* pieces to be sent again: lease over, session lost, array full */
	struct loop_work space_work, room_work;
	bool space_waiting, room_waiting;
	unsigned full; /* bit per enum thin_full: the guest is paused while there is any */
	struct loop_timer retry;
	struct list reap; /* leaves with something to reap */
	bool reap_running;
	unsigned in_flight; /* requests, pieces and jobs */
	unsigned sheds;	    /* how often what waited was given up */
	uint64_t flight_ns; /* of the volume */
	bool thick;	    /* keeps its units, whatever is discarded */
	bool resting;	    /* begins no work of its own */
	void (*closed)(void *arg);
	void *closed_arg;
	struct loop_work close_work;
};

/* The way of its data to an extent. */
struct way {
	struct cfs_carrier carrier;
	struct thin *thin;
	struct loop_work work;
	struct blk_req proof;
};

/* In vfs_req.priv. */
struct thin_req {
	struct thin *thin;
	struct list wait; /* on one waiting list at most */
	uint64_t at;	  /* how far it has walked: disk offset */
	unsigned pending; /* pieces in flight, plus one while it walks */
	unsigned sheds;	  /* of the disk, when it came */
	bool anew;	  /* what was read may be a stranger's: it walks again from its beginning */
	int res;
	unsigned iov_index; /* where `at` lies in the iovec */
	size_t iov_offset;
	struct cfs_commit commit;
	struct loop_work commit_work;
	struct unflushed_mark mark; /* FLUSH, FUA: what is to be durable */
	uint64_t power;		    /* thin_losses, before it looked at the map */
};

enum piece_kind { PIECE_PLAIN, PIECE_FIRST };

struct piece {
	struct blk_req blk;
	struct list link;
	struct vfs_req *req;
	struct thin *thin;
	struct leaf *leaf;
	enum piece_kind kind;
	unsigned extent;
	unsigned slot, entries; /* of the leaf */
	uint64_t power;		/* FIRST: of its session, before it was sent */
	uint64_t new_vbn;	/* FIRST: units from the stock, 0: the entry's own */
	uint64_t grain, grains; /* FIRST: what is written, in grains of the disk */
	uint64_t not_before_ns; /* stalled: when to send it again */
	bool lun_full;		/* it was refused for want of space */
	struct iovec iov[THIN_PIECE_IOV];
};

static inline struct thin_req *thin_req(struct vfs_req *req)
{
	return (struct thin_req *)(void *)req->priv;
}
static inline struct vfs_req *req_of(struct thin_req *t)
{
	return container_of((uint8_t *)t, struct vfs_req, priv);
}
/* Whoever asked for it is gone: it ends as soon as nothing of it can land any more. */
static inline bool thin_gone(struct vfs_req *req)
{
	struct thin_req *t = thin_req(req);

	return t->thin->closed || t->sheds != t->thin->sheds;
}
static inline bool bitmap_get(const uint8_t *bits, unsigned i)
{
	return bits[i / 8] >> (i % 8) & 1;
}
static inline void bitmap_put(uint8_t *bits, unsigned i, bool on)
{
	if (on)
		bits[i / 8] |= (uint8_t)(1u << (i % 8));
	else
		bits[i / 8] &= (uint8_t) ~(1u << (i % 8));
}

/* --- thin.c ----------------------------------------------------------------------------------------- */

/* Walks on; the request may be answered (and gone) when this returns. */
void thin_walk(struct vfs_req *req);
/* One of its pieces has ended, or its walk has. */
void thin_part_done(struct vfs_req *req, int res);
/* What was answered so far becomes durable; then the request is answered. */
void thin_commit(struct vfs_req *req);
void thin_answer(struct vfs_req *req, int res);
void thin_wait(struct list *queue, struct vfs_req *req);
/* Walks on with all that wait there. */
void thin_wake(struct list *queue);
/*
 * Rises when a cache may be lost, and when something is undone for it. What was read is what the map named, and
 * what was written is there (or a flush will tell), if it is the same before and after.
 */
uint64_t thin_losses(const struct thin *thin);
void thin_idle(struct thin *thin); /* something ended: closes if that was asked for */

/* --- thin_way.c -------------------------------------------------------------------------------------- */

/* Made when `chan` is used first. */
struct way *thin_way(struct thin *thin, unsigned extent, struct blk_chan *chan);
/*
 * Before the end: while the sessions can be asked, a commit says whether first writes are lost. One try: no array
 * is waited for. False: it has begun, and ends with thin_idle.
 */
bool thin_ways_commit(struct thin *thin);
/* At the end; false: one is being proved yet. */
bool thin_ways_leave(struct thin *thin);
/* How often first writes of the disk, and overwrites of them, were undone. */
uint64_t thin_undone(const struct thin *thin);
/* Grains may be a stranger's: requests wait in `unsure`, and thin_settle is called. */
bool thin_suspect(const struct thin *thin);
void thin_settle(struct thin *thin);

/* --- thin_leaf.c -------------------------------------------------------------------------------------- */

enum step { STEP_MORE, STEP_WAIT };
/* STEP_MORE: *out is loaded. STEP_WAIT: the request waits for it. `create`: a hole will not do. */
int leaf_get(struct thin *thin, uint64_t index, bool create, struct vfs_req *req,
	     struct leaf **out);
void leaf_use(struct leaf *leaf);
void leaf_unuse(struct thin *thin, struct leaf *leaf);
void leaf_forget_all(struct thin *thin);
/* One that a job is taking away is not looked at: it is all zero, and busy. */
static inline void leaf_entry(const struct leaf *leaf, unsigned slot, struct cfs_entry *out)
{
	if (bitmap_get(leaf->gone, slot))
		*out = (struct cfs_entry){0};
	else
		cfs_leaf_entry(leaf->buf, slot, out);
}
/* The entry's unit has no more I/O, or became all zero: may be reaped. */
void leaf_reap_later(struct thin *thin, struct leaf *leaf, unsigned slot);
void leaf_reap_run(struct thin *thin);

/* --- thin_io.c ------------------------------------------------------------------------------------------ */

struct piece *piece_new(struct thin *thin, struct vfs_req *req, struct leaf *leaf);
void piece_submit(struct piece *piece);
void pieces_free(struct thin *thin);
/* Each does what it can from req's position on, moves it, and says: more, or wait, or an error. */
int thin_step_read(struct vfs_req *req);
int thin_step_write(struct vfs_req *req);
/* Zeroes `bytes` (at most THIN_GRAIN) of a unit that is there, at the request's position. */
void thin_write_zeroes(struct vfs_req *req, struct leaf *leaf, unsigned slot, uint64_t vbn,
		       size_t bytes);
/* The request's buffers move on by `bytes`; the position too. */
void thin_skip(struct vfs_req *req, uint64_t bytes);
void thin_retry_stalled(struct loop_timer *timer);
void thin_ask_room(struct thin *thin);
/* The request waits for units. */
void thin_no_space(struct thin *thin, struct vfs_req *req);
void thin_space(struct loop_work *work);
/* The request met an error of its map's leaf: no space for it, no lease. It walks on later. */
void thin_walk_later(struct thin *thin, struct vfs_req *req, int error);
/* There is none of `what` (then the guest is paused), or there is again. */
void thin_set_full(struct thin *thin, enum thin_full what, bool full);
/* What waits for a lease, a session, space is answered with an error: nobody wants it any more. */
void thin_give_up_stalled(struct thin *thin);
void thin_room(struct loop_work *work);

/* --- thin_zero.c ------------------------------------------------------------------------------------------- */

int thin_step_zero(struct vfs_req *req); /* DISCARD and WRITE_ZEROES */

#endif
