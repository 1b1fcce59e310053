// SPDX-License-Identifier: Apache-2.0
/*
 * iopath.h: what the I/O thread of a disk needs of a volume (cfs.h is for everything else): where the grains
 * of an open file lie, units for first writes, transactions that name them, commits.
 *
 * But for what says "blocking", calls never wait for I/O or other hosts; the few locks they take are held
 * for hundreds of nanoseconds. The map of a file that is open for writing is changed by one thread, the
 * disk's; a leaf is looked at there without a lock for as long as it is referenced. But a commit may make
 * grains zero (see carriers): who sets an entry looks at it in the same transaction.
 *
 * A first write: units from the stock - the data written to them - a transaction with cfs_units_use,
 * cfs_map_set and cfs_fresh_add - the answer (INV-FS-2: nothing is named before it is written; INV-FS-3: a transaction that
 * has ended survives the daemon). A guest's flush: cfs_commit.
 */
#ifndef CLUSTERFS_IOPATH_H
#define CLUSTERFS_IOPATH_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/util.h"
#include "clusterfs/cfs_format.h"

struct blk;
struct blk_chan;
struct cfs;
struct cfs_buf; /* a metadata block in memory: a leaf of a map */
struct cfs_file;
struct cfs_map;
struct cfs_stock;
struct loop;
struct loop_work;

/* --- the volume (io.c) ------------------------------------------------------------------------------ */

/* Its LUNs now; they only become more. Extent `e` of a block number is LUN `e`. */
unsigned cfs_luns(const struct cfs *fs);
struct blk *cfs_lun(const struct cfs *fs, unsigned e);
uint32_t cfs_logical_block(const struct cfs *fs); /* bytes */
/* How long a command may be under way whose answer is lost. */
uint32_t cfs_flight_ms(const struct cfs *fs);
/* False for what no block can have: other extents, behind the end, before the groups. */
bool cfs_vbn_valid(const struct cfs *fs, uint64_t vbn);
/* An event, as cfs_options.event gets them. */
void cfs_tell(const struct cfs *fs, const char *kind, const char *text);

/* --- a file's map (map.c) --------------------------------------------------------------------------- */

struct cfs_entry {	       /* of a leaf: where a unit's grains are */
	uint64_t block, below; /* vbns; 0: none */
	uint32_t birth, below_birth;
	uint32_t state; /* two bits a grain */
	uint16_t flags;
};
static inline enum cfs_grain cfs_entry_grain(const struct cfs_entry *e, unsigned grain)
{
	return (enum cfs_grain)(e->state >> (2 * grain) & 3);
}

/* The map of an open file: in the hands of the disk's I/O thread from then on. Lives as long as `file`. */
struct cfs_map *cfs_file_map(struct cfs_file *file);
/* Units for it; NULL: it was opened for reading. */
struct cfs_stock *cfs_map_stock(const struct cfs_map *map);
/* What an entry that is changed says in `birth`. */
uint32_t cfs_map_generation(const struct cfs_map *map);
/*
 * Leaf `index` (disk offset / CFS_UNIT / CFS_LEAF_ENTRIES), +1 reference. Blocking. `create` false: *out
 * is NULL when nothing is mapped there. `create` true: makes it (and nodes above) in a transaction of its own.
 */
int cfs_map_leaf(struct cfs_map *map, uint64_t index, bool create, struct cfs_buf **out);
/* Only from memory: 0 with *out (NULL: known to be a hole), -EAGAIN when it must be read. */
int cfs_map_leaf_peek(struct cfs_map *map, uint64_t index, struct cfs_buf **out);
void cfs_buf_put(struct cfs *fs, struct cfs_buf *buf);
void cfs_leaf_entry(const struct cfs_buf *leaf, unsigned slot, struct cfs_entry *out);
/*
 * Frees units that entries `slot[0..n)` of a leaf still name while all their grains are zero: takes
 * each group, one transaction a group. Blocking, pool. The caller guarantees that no I/O to those units
 * is in flight (INV-FS-4) and that nobody changes those entries meanwhile.
 */
int cfs_map_reap(struct cfs_map *map, struct cfs_buf *leaf, const uint8_t *slot, unsigned n);

/* --- units (stock.c) --------------------------------------------------------------------------------- */

/*
 * A stock holds units that are taken in memory only, ahead of their use. Up to `want` units that lie
 * together (`near` = vbn they should follow, 0: anywhere): returns how many (0: empty, a refill is under
 * way), *vbn the first.
 */
uint32_t cfs_stock_take(struct cfs_stock *stock, uint64_t near, uint32_t want, uint64_t *vbn);
/* Units taken but not used after all. */
void cfs_stock_return(struct cfs_stock *stock, uint64_t vbn, uint32_t units);
/* Posts `work` to `loop` when the stock has units again, or is known to be full (then *full). */
void cfs_stock_when_ready(struct cfs_stock *stock, struct loop *loop, struct loop_work *work);
bool cfs_stock_full(struct cfs_stock *stock); /* the whole volume has no space */

/* --- transactions (txn.c), commits (journal.c) ------------------------------------------------------ */

struct cfs_txn { /* on the stack of who runs it */
	struct cfs *fs;
	uint64_t sequence;
	/* private */
	uint32_t records;
	struct list touched; /* buffers it changed */
};
/*
 * Until cfs_txn_end it holds the journal mutex: no I/O, no waiting in between. -EAGAIN (nothing taken) when
 * the tail or the journal has no room: ask cfs_journal_when_room.
 */
int cfs_txn_begin(struct cfs *fs, struct cfs_txn *txn);
/* Returns the stream position behind this transaction: durable once cfs_durable() >= it. */
uint64_t cfs_txn_end(struct cfs_txn *txn);
/* In one: marks units of a stock as taken on the disk (with the entry that names them). */
void cfs_units_use(struct cfs_txn *txn, uint64_t vbn, uint32_t units);
/* In one: entry `slot` of the leaf becomes `e`; keeps the inode's `allocated` right. */
void cfs_map_set(struct cfs_txn *txn, struct cfs_map *map, struct cfs_buf *leaf, unsigned slot,
		 const struct cfs_entry *e);
/* Any thread: `work->fn` is posted to `loop` when there may be room again. */
void cfs_journal_when_room(struct cfs *fs, struct loop *loop, struct loop_work *work);

struct cfs_commit {
	void (*done)(struct cfs_commit *commit, int res); /* in the commit thread: only post */
	struct cfs_commit *next;
};
/*
 * A FLUSH: everything answered before is durable when `done` says 0. Never blocks; gathers with
 * others (one flush in flight, one gathering). Without records it is just the extents' flush.
 */
void cfs_commit(struct cfs *fs, struct cfs_commit *commit);

/* --- carriers: sessions by which first writes go (fresh.c) ------------------------------------------- */

/*
 * Were the data of a first write lost with an array's volatile cache, its entry would show what the unit held
 * before. So a commit asks whether the session that carried them was lost since. If it was, it reads them
 * back and compares checksums, and makes those grains zero again that are not what was written, before any
 * record of them is durable. Until it has, the entry is not to be believed.
 */
struct cfs_carrier {
	struct cfs *fs;
	unsigned extent;
	struct blk_chan *chan; /* NULL: the session of the blocking calls, which flushes too */
	/*
	 * Starts a flush over `chan`; cfs_carrier_proved says how it ended. Called with the journal mutex
	 * held: only posts.
	 */
	void (*prove)(struct cfs_carrier *c);
	/* private to fresh.c: the journal mutex */
	_Atomic uint64_t waiting; /* 0: nothing; else 1 + the count under which the oldest went */
	_Atomic uint64_t undone;
	uint64_t next;
	uint64_t witness; /* of the flushing session, up to which all is known */
};
/* `c` zeroed. */
void cfs_carrier_init(struct cfs_carrier *c, struct cfs *fs, unsigned extent, struct blk_chan *chan,
		      void (*prove)(struct cfs_carrier *c));
/*
 * Its channel is about to be closed: what it carried is believed only if the flushing session stands until
 * the next commit. False while a proof is under way, whose end is to be waited for.
 */
bool cfs_carrier_leave(struct cfs_carrier *c);
void cfs_carrier_proved(struct cfs_carrier *c, int res);
/* The count of losses of its session. Any thread. */
uint64_t cfs_carrier_power(const struct cfs_carrier *c);
/* Whether something that it carried is not known to be durable. Any thread. */
static inline bool cfs_carrier_waits(const struct cfs_carrier *c)
{
	return atomic_load_explicit(&c->waiting, memory_order_acquire);
}
/* Whether it may even be lost, and a commit has not settled that yet. Any thread. */
static inline bool cfs_carrier_suspect(const struct cfs_carrier *c)
{
	uint64_t waiting = atomic_load_explicit(&c->waiting, memory_order_acquire);

	return waiting && waiting != 1 + cfs_carrier_power(c);
}
/* Rises when first writes were undone: overwrites of them are gone with them. Any thread. */
static inline uint64_t cfs_carrier_undone(const struct cfs_carrier *c)
{
	return atomic_load_explicit(&c->undone, memory_order_acquire);
}
/*
 * Checksums of sectors of one unit, by which they are known again (fresh.c): the smallest that an overwrite
 * changes. `n` of them, added in ascending order; `have` has a bit for each.
 */
#define CFS_SECTOR	  512u
#define CFS_GRAIN_SECTORS (CFS_BLOCK / CFS_SECTOR)
#define CFS_UNIT_SECTORS  (CFS_UNIT_BLOCKS * CFS_GRAIN_SECTORS)
struct cfs_sums {
	uint64_t have[CFS_UNIT_SECTORS / 64];
	unsigned n;
	uint64_t sum[CFS_UNIT_SECTORS];
};
/* Empty, without touching all of it. */
static inline void cfs_sums_init(struct cfs_sums *s)
{
	s->have[0] = s->have[1] = 0;
	s->n = 0;
}
void cfs_sums_add(struct cfs_sums *s, unsigned sector, const void *data);
/* Whether first writes that LUN `extent` may lose need sums at all. */
bool cfs_fresh_matters(const struct cfs *fs, unsigned extent);
/*
 * In the transaction that sets entry `slot` of a leaf: the grains of unit `block` that `state` names as data
 * (CFS_GRAIN_BLOCK) were written by `c`, whose count was `power` before that was sent. `sums` of all their sectors
 * at least; not looked at where cfs_fresh_matters says no.
 */
void cfs_fresh_add(struct cfs_txn *txn, struct cfs_carrier *c, uint64_t power, struct cfs_buf *leaf,
		   unsigned slot, uint64_t block, uint32_t state, const struct cfs_sums *sums);
/* Whether the leaf may have first writes that are not durable; then overwrites of its units are told. */
bool cfs_fresh_leaf(const struct cfs *fs, const struct cfs_buf *leaf);
/* Those sectors of unit `block`, written before, hold this now, or may, by a write that is about to begin. */
void cfs_fresh_again(struct cfs *fs, unsigned extent, uint64_t block, const struct cfs_sums *sums);

#endif
