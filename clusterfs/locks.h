// SPDX-License-Identifier: Apache-2.0
/*
 * locks.h (private to lock.c, lockdisk.c, release.c): locks in memory.
 *
 * A lock is in the table while it is held on the disk or used, and a while longer. `used` is the use
 * mutex: whoever has it (a thread in cfs_lock_get .. put, or the release thread) may change what is
 * not marked as the table's, and does the I/O on the lock block.
 */
#ifndef CLUSTERFS_LOCKS_H
#define CLUSTERFS_LOCKS_H

#include "clusterfs/lock.h"
#include "clusterfs/record.h"

#define CFS_LOCK_BUCKETS 4096u
#define CFS_LOCKS_KEPT	 32768u /* idle ones beyond that are given up, the oldest first */
#define CFS_TOUCH_SLOTS	 4096u
#define CFS_LOCK_HINTS	 64u

struct cfs_lock {
	struct cfs *fs;
	uint64_t vbn;
	/* the table's: under its mutex */
	struct list hash;
	struct list lru; /* the longest unused first */
	pthread_cond_t free;
	bool used;
	unsigned waiting; /* threads that want the use mutex */
	unsigned pins;
	bool wished;	  /* another host waits for it */
	bool news;	  /* its holder says that it is free: look now */
	uint64_t wishers; /* slots that wish for it, a bit each: to be told */
	bool vm_taken;	  /* a VM's own: this host runs it, in this life of the daemon (vmlock.c) */
	bool owed;	  /* a VM's own, which could not be given up: tried again (vmlock.c) */
	bool owed_long;	  /* ... not at the first try */
	bool leaving;	  /* a VM's own: it is being offered, nothing more is taken in its name */
	unsigned
		taking; /* a VM's own: threads that take a lock in its name; the offer waits for them */
	uint64_t give_way_ms; /* until then another host goes first */
	uint64_t taken_ms;    /* on the disk since then */
	void (*on_wish)(void *arg);
	void *on_wish_arg;
	/* the user's */
	enum cfs_lock_mode held; /* on the disk, by this host */
	bool known;		 /* `rec` is what stood there last, as far as we know */
	struct cfs_lock_record rec;
	uint64_t since; /* transactions up to this number were not under this hold */
	bool fresh;	/* was not ours without a break */
};

struct cfs_locks {
	struct cfs *fs;
	pthread_mutex_t mutex; /* never held across I/O */
	pthread_cond_t work;
	pthread_cond_t news; /* a lock's `news` was set */
	struct {
		uint64_t vbn;
		unsigned slot;
	} hinted[CFS_LOCK_HINTS]; /* wishes told over the network, not looked at yet */
	unsigned hinted_n;
	struct list bucket[CFS_LOCK_BUCKETS];
	struct list lru;
	unsigned count;
	unsigned wished; /* locks that are */
	unsigned owed;	 /* likewise */
	uint64_t owed_ms,
		owed_pause_ms; /* not before: the next attempt; and how long to the one after it */
	pthread_t thread;
	bool threaded, stop;
	_Atomic bool serving;
	/* Number of the last transaction under a lock that hashes here: a filter, may say too much. */
	_Atomic uint64_t touched[CFS_TOUCH_SLOTS];
	struct {
		uint64_t vbn, next_ms;
	} looked[64]; /* wishes for locks that we don't know, and when to look there again */
};

/* lock.c: the table. Mutex held. */
struct cfs_lock *cfs_locks_find(struct cfs_locks *t, uint64_t vbn);
struct cfs_lock *cfs_locks_make(struct cfs_locks *t, uint64_t vbn);
/* The use mutex for this thread, made if need be: NULL when others kept it for `wait_ms`. Not held. */
struct cfs_lock *cfs_locks_use(struct cfs *fs, uint64_t vbn, unsigned wait_ms);
/* Mutex held: takes the use mutex if it is free and nothing is pinned. */
bool cfs_lock_try_use(struct cfs_lock *l);
/* Frees entries that say nothing, when there are many. Mutex held. */
void cfs_locks_shrink(struct cfs_locks *t);

/* lockdisk.c: what stands on the disk. The use mutex is held. */
struct cfs_want {
	enum cfs_lock_mode mode;
	struct cfs_lock_owner owner; /* exclusive only */
	uint64_t deadline_ns;	     /* BOOTTIME */
	/* lockdisk.c: the beat counter that the holder of a VM's lock had when we asked first */
	bool looked;
	uint64_t counter;
	uint64_t
		holders; /* set with -EBUSY: slots that have it and give way to a wish, a bit each */
};
/*
 * One try: 0; -EILSEQ somebody was quicker; -EBUSY (holder named), then *final says that waiting does
 * not help; others.
 */
int cfs_lock_acquire(struct cfs_lock *l, struct cfs_want *want, bool *final);
/* Whether what is held already will do. */
bool cfs_lock_covers(const struct cfs_lock *l, const struct cfs_want *want);
/* The fourth step: the compare-and-write. Afterwards it is not held, or nobody knows. */
int cfs_lock_release(struct cfs_lock *l);
/* A running VM's lock, or that of a disk which belongs to one: not given up for a wish. */
bool cfs_lock_is_vm(const struct cfs_lock_record *r);
bool cfs_lock_is_offered(const struct cfs_lock_record *r);
/* Nobody's: its VM's state lies in a file. No slot, no epoch; not taken but by cfs_lock_wake. */
bool cfs_lock_is_saved(const struct cfs_lock_record *r);
/* Its reference, NULL or all zeroes: none. */
struct cfs_saved;
void cfs_saved_get(const struct cfs_lock_record *r, struct cfs_saved *out);
void cfs_saved_put(const struct cfs_saved *state, struct cfs_lock_record *r);
/* Who holds an exclusive one, by slot and epoch: of an offered one who offers it. */
void cfs_lock_life(const struct cfs_lock_record *r, unsigned *slot, uint32_t *epoch);
/* A change of the lock's record by compare-and-write; an unknown one is settled for a while at least. */
struct cfs_swap cfs_lock_swap(const struct cfs_lock *l, uint64_t deadline_ns);
/* The release thread and `volume locks` look at both, without the use mutex. `rec` NULL: as it is. */
void cfs_lock_note_held(struct cfs_lock *l, enum cfs_lock_mode mode,
			const struct cfs_lock_record *rec);

/* lockoffer.c: a VM's own lock on its way to another host. The use mutex is held. */
int cfs_lock_offer(struct cfs_lock *l, unsigned slot, uint32_t epoch);
int cfs_lock_take_back(struct cfs_lock *l);
/* `seen` (may be NULL): the record as the giver says it stands there; *as_seen: so it did. */
int cfs_lock_take_up(struct cfs_lock *l, unsigned slot, uint32_t epoch,
		     const struct cfs_lock_record *seen, bool *as_seen);
int cfs_lock_decline(struct cfs_lock *l);
/* The same of one that is saved: laid down with its state, and taken up without it. */
int cfs_lock_lay_down(struct cfs_lock *l, const struct cfs_saved *state);
int cfs_lock_wake(struct cfs_lock *l, const struct cfs_saved *state, bool *tried);

/* release.c */
void *cfs_release_main(void *arg);
/* Steps 1 to 3 of INV-FS-5 for locks whose use mutex is held, all at once: only what was changed under. */
int cfs_release_settle(struct cfs *fs, struct cfs_lock **l, unsigned n);
/* All four steps. */
int cfs_release_locks(struct cfs *fs, struct cfs_lock **l, unsigned n);

#endif
