// SPDX-License-Identifier: Apache-2.0
/*
 * blk.h: a LUN, reached over paths.
 *
 * A `blk` is an opened LUN; it is reached through channels. A channel belongs to one loop (one
 * thread) and has a queue (file, kernel) or a session (iscsi) of its own: submitting takes no lock.
 * Threads that may block use blk_read() and its kin, which go through a service thread inside of
 * the blk, or blk_call() on a channel whose loop they run themselves.
 *
 * One seam: every request passes blk_submit's checks: range and alignment (MUST), the lease
 * (-ESTALE), faults, trace; and every answer passes one place on its way back.
 *
 * INV-BLK-1: a command is sent again only when its first copy can do no harm any more. Nothing in
 * here resends by itself; what a lost session leaves open is reported as `maybe_done`.
 * INV-BLK-2: an unknown compare-and-write is settled by another compare-and-write, never by a read.
 *
 * Offsets and lengths are bytes, multiples of the logical block unless said otherwise. Errors are
 * negative errno: -ESTALE the lease is over (nothing was sent), -EILSEQ compare-and-write found
 * something else (nothing was written), -EBADE reservation conflict, -ENOSPC the array is full,
 * -EIO medium or permanent, -ETIMEDOUT no answer, -ENOTCONN the session is lost, -EOPNOTSUPP.
 */
#ifndef BLOCKDEV_BLK_H
#define BLOCKDEV_BLK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/util.h"

struct loop;
struct blk;
struct blk_chan;

/* How compare-and-write is done here; found by probing, never believed from a list of opcodes. */
enum blk_cas {
	BLK_CAS_NONE,
	BLK_CAS_ATS,   /* COMPARE AND WRITE, SBC-4 5.3, FUA */
	BLK_CAS_BATON, /* a mutex made of a registration key, see baton.h */
	BLK_CAS_FILE,  /* process mutex and OFD lock around read-modify-write */
};
const char *blk_cas_name(enum blk_cas cas); /* "ats", "baton", "file", or NULL */

enum blk_kind { BLK_FILE, BLK_KERNEL, BLK_ISCSI };

struct blk_info {
	char id[80];	/* "naa.6001405...", "eui...", "file.DEV-INO" : the same on every path */
	char name[256]; /* as it was opened, without secrets */
	enum blk_kind kind;
	uint64_t size;		      /* bytes */
	uint32_t block_size;	      /* logical, bytes: 512 or 4096 */
	uint32_t physical_block_size; /* bytes */
	uint32_t max_transfer;	      /* bytes of one read or write; a longer one is split inside */
	enum blk_cas cas;
	bool reservations, preempt_abort, unmap, write_same;
	bool zeroes_after_unmap;      /* LBPRZ: only then is a discarded range known to read zero */
	bool write_cache;	      /* WCE: a flush is needed for durability */
	uint32_t discard_granularity; /* bytes, 0 without unmap */
	bool reinstatement;	      /* a login with a session's name and ISID drains it (iscsi) */
};

struct blk_options {
	const char
		*initiator; /* iscsi: the host's initiator name; NULL: a made-up one for probing */
	uint32_t isid;	    /* iscsi: first four bytes shared by all of the host's sessions */
	const char *chap_file; /* iscsi: "user password" on one line, or NULL */
	/*
	 * iscsi: a request without an answer for that long fails and takes its session along;
	 * 0: 5000. A file or kernel device gives a request back when the kernel does: its buffers
	 * are the kernel's until then.
	 */
	unsigned timeout_ms;
	/*
	 * For a LUN that is passed through to one user (BLK_SCSI). iscsi: nothing is probed and nothing is
	 * sent but what the user sends; blk_info is empty but for the name, and there is one channel and one
	 * session, by `initiator` and `isid`, and no blocking call. Kernel devices: as ever. Others: -EINVAL.
	 */
	bool pass;
	bool lazy;   /* ... the channel may be opened while the target is out of reach */
	bool drains; /* ... what blk_info.reinstatement said when it was probed */
	/*
	 * ... asked before each login but the first, and between login and first use of each: other than 0
	 * keeps the session from being used, until asked again. May block. `look_arg` is for it.
	 */
	int (*look)(void *arg);
	void *look_arg;
	const char *force_id; /* names a LUN that has no identity of its own, or NULL */
	bool read_only;	      /* whatever changes the medium is answered -EROFS */
	uint32_t
		block_size; /* file: a logical block of 512 or 4096; 0: what the file system asks */
};

/*
 * Opens and probes `name`: a path of a file or block device, or an iscsi://PORTAL/IQN/LUN URL.
 * libiscsi writes to sockets that a target may have closed: the process has to ignore SIGPIPE.
 * Blocking. -ENOENT, -EACCES, -ECONNREFUSED, -EINVAL (no identity), ...
 */
int blk_open(const char *name, const struct blk_options *options, struct blk **out);
/* All channels must be closed. */
void blk_close(struct blk *blk);
const struct blk_info *blk_info(const struct blk *blk);
/* Reads the size again (a LUN may have grown); updates blk_info. */
int blk_rescan(struct blk *blk);

/*
 * The lease: from now on whatever changes the medium is refused with -ESTALE at the lowest submit
 * when CLOCK_BOOTTIME (ns) has reached *end_ns, unless flagged BLK_UNGATED. NULL: no lease.
 */
void blk_set_lease(struct blk *blk, const _Atomic uint64_t *end_ns);
/*
 * Cancels what is not on the wire and drops every session of every channel of this blk; they come
 * up again by themselves (new session, registered) with the next request. For a lost lease.
 */
void blk_reset(struct blk *blk);
/*
 * How often the array may have lost its volatile cache, as the session of the blocking calls below
 * knows: it was lost (many targets never report a power-on), or it was told of a power-on or reset
 * (29h) while it stood. What a new session hears at its login is innocent (tgt says 29h to each). What
 * was written, unflushed, before a change may be gone, though each flush afterwards succeeds.
 * Of no interest where info->write_cache is false. Any thread.
 */
uint64_t blk_power_count(const struct blk *blk);
/*
 * Rises with that count, and when a session comes up in the place of one that was lost. So if it was the
 * same before and after a blocking call that succeeded, one session stood all the while.
 */
uint64_t blk_session_count(const struct blk *blk);

/* --- channels -------------------------------------------------------------------------------- */

enum blk_op {
	BLK_READ,
	BLK_WRITE,
	BLK_FLUSH,
	BLK_DISCARD,
	BLK_WRITE_ZEROES,
	BLK_CAS,
	BLK_SCSI,
	BLK_OPS,
};

/*
 * BLK_SCSI: a command as it is, and its answer as it is, attentions, BUSY and conflicts included: nothing is
 * sent again. `iov` of the request is its data, `length` their bytes; `offset` is 0. -EOPNOTSUPP: no SCSI here.
 * A command whose session is lost is answered -ENOTCONN once nothing of it can happen any more: the session is up
 * again by the same name and ISID, and where that does not drain the old one, the flight time is over. One
 * that was not sent waits for the session. It has changed the medium or not.
 */
#define BLK_SENSE_MAX 96u
enum blk_data { BLK_DATA_NONE, BLK_DATA_IN, BLK_DATA_OUT };
struct blk_scsi {
	uint8_t cdb[16];
	unsigned cdb_length;
	enum blk_data data;
	/* the answer */
	uint8_t status;
	uint8_t sense[BLK_SENSE_MAX];
	unsigned sense_bytes;
	uint64_t moved; /* bytes of data transferred */
	bool overrun;	/* there was more */
};

#define BLK_FUA	    1u /* WRITE, CAS: durable when answered */
#define BLK_UNGATED 2u /* the lease does not apply: beats, claims, format, recovery's proofs */
/*
 * READ: only over the session there is now. Were it lost before this is sent, -ESTALE: with the array's cache
 * something else may be there now.
 */
#define BLK_STANDING 4u

/*
 * A request. Caller's memory, untouched until `done`; so are the buffers. Fill it with blk_prep_*
 * or by hand; `done` runs in the channel's loop, exactly once, and may free or reuse it.
 */
struct blk_req {
	enum blk_op op;
	unsigned flags;
	uint64_t offset, length; /* CAS: one logical block */
	const struct iovec *iov; /* READ, WRITE: any alignment that O_DIRECT takes: 512 bytes */
	int iovcnt;		 /* CAS: iov[0] is compared, iov[1] written */
	struct blk_scsi *scsi;	 /* SCSI */
	void (*done)(struct blk_req *req, int res); /* 0 or -errno as above */
	bool maybe_done; /* on error: the command may have been executed, or may still be */
	uint8_t priv[192] __attribute__((aligned(8))); /* the backend's */
};

static inline void blk_prep_rw(struct blk_req *req, enum blk_op op, uint64_t offset,
			       const struct iovec *iov, int iovcnt, uint64_t length, unsigned flags)
{
	req->op = op;
	req->flags = flags;
	req->offset = offset;
	req->length = length;
	req->iov = iov;
	req->iovcnt = iovcnt;
}
static inline void blk_prep_flush(struct blk_req *req)
{
	blk_prep_rw(req, BLK_FLUSH, 0, NULL, 0, 0, 0);
}
static inline void blk_prep_discard(struct blk_req *req, uint64_t offset, uint64_t length)
{
	blk_prep_rw(req, BLK_DISCARD, offset, NULL, 0, length, 0);
}

enum blk_chan_kind {
	BLK_CHAN_DATA,
	BLK_CHAN_BEAT, /* a session of its own and a short time-out */
};

/*
 * Opens a channel for `loop`; blocks for a login, so call it from a thread that may (not the
 * loop's). The channel is used and closed in the loop's thread only.
 */
int blk_chan_open(struct blk *blk, struct loop *loop, enum blk_chan_kind kind,
		  struct blk_chan **out);
/* Nothing may be in flight. */
void blk_chan_close(struct blk_chan *chan);
/*
 * As blk_power_count, of the channel's own session. It rises before the requests that were in flight
 * are answered; a loss while nothing is in flight shows at the latest when a request has been answered.
 */
uint64_t blk_chan_power_count(const struct blk_chan *chan);
/* Never blocks; `done` may run before it returns. */
void blk_submit(struct blk_chan *chan, struct blk_req *req);
/* Submits and runs the loop of the calling thread until the answer is there; returns it. */
int blk_call(struct blk_chan *chan, struct blk_req *req);

/* What the channels of a blk have done since it was opened; for `volume paths`. */
struct blk_stats {
	uint64_t ops[BLK_OPS];
	uint64_t bytes_read, bytes_written;
	uint64_t errors; /* answers that were none of 0, -EILSEQ, -ESTALE */
	/*
	 * How many were done one after the other: a request counts that was sent when its channel had got an answer
	 * since the last that counted. Of all channels together, those for beats left out.
	 */
	uint64_t steps;
	uint64_t latency_ns; /* a moving average of the busiest channel, every eighth request */
	/*
	 * Whether it is reached, CLOCK_BOOTTIME. A channel is lost from a request that found no session, or
	 * no answer in time, until one is answered again. `lost_ns`: the newest such request of a channel
	 * that is lost still, 0: none is; `lost_since_ns`: when the first of these was lost; `good_ns`: a
	 * late answer of any; `back_ns`: when a lost one came back last, 0: none was lost.
	 */
	uint64_t lost_ns, lost_since_ns, good_ns, back_ns;
};
void blk_get_stats(struct blk *blk, struct blk_stats *out);

/*
 * --- blocking, any thread that may block: not from a callback of a channel. Any buffer will do; one
 * that is not aligned to 512 bytes is copied. ---
 */

int blk_read(struct blk *blk, uint64_t offset, void *buf, size_t length);
int blk_write(struct blk *blk, uint64_t offset, const void *buf, size_t length, unsigned flags);
/*
 * Writes several places, in no order, some of them at once. Buffers aligned to 512 bytes. The first
 * error, or the first that sets *maybe_done: as in blk_req, for any of the parts.
 */
struct blk_part {
	uint64_t offset, length;
	const struct iovec *iov;
	int iovcnt;
};
int blk_write_parts(struct blk *blk, const struct blk_part *part, size_t n, unsigned flags,
		    bool *maybe_done);
int blk_flush(struct blk *blk);
int blk_discard(struct blk *blk, uint64_t offset, uint64_t length);
int blk_write_zeroes(struct blk *blk, uint64_t offset, uint64_t length, unsigned flags);
/*
 * Compare and write of the logical block at `offset`, FUA. Buffers of one logical block. 0 swapped,
 * -EILSEQ something else is there (then, if `found` is not NULL, what was read afterwards is in it:
 * a hint, it may be newer). Any other error leaves *maybe_done as in blk_req (may be NULL).
 */
int blk_cas(struct blk *blk, uint64_t offset, const void *expect, const void *write, void *found,
	    unsigned flags, bool *maybe_done);

/* --- fencing ---------------------------------------------------------------------------------- */

enum blk_pr_type {
	BLK_PR_NONE = 0,
	BLK_PR_WE_REGISTRANTS_ONLY = 5, /* SPC-4 5.13.3: with baton */
	BLK_PR_WE_ALL_REGISTRANTS = 7,	/* with ATS */
};
#define BLK_PR_MAX_KEYS 1024
#define BLK_PR_BATON	0x4241544f4eULL /* BLK_CAS_BATON: the mutex lies there; no host's key */
struct blk_pr_state {
	uint32_t generation;
	unsigned keys;
	uint64_t key[BLK_PR_MAX_KEYS];
	enum blk_pr_type type; /* of the reservation that is held */
	uint64_t holder; /* its key; 0 with type 7, and with the baton, whose keys are not shown */
};
/*
 * Registers `key` (never 0) on every session this blk has and will have, before its first use:
 * "a path that comes up: new session, register, look, then use". `look` (may be NULL) is asked
 * after each later registration; when it returns non-zero the session is not used (-ESTALE).
 */
int blk_pr_register(struct blk *blk, uint64_t key, int (*look)(void *arg), void *arg);
/* Takes the key off again, session by session. */
int blk_pr_unregister(struct blk *blk);
int blk_pr_reserve(struct blk *blk, enum blk_pr_type type);
/* INV-PR-1: the caller holds the volume's fence lock. A key that is not there any more is success. */
int blk_pr_preempt(struct blk *blk, enum blk_pr_type type, uint64_t victim_key);
int blk_pr_read(struct blk *blk, struct blk_pr_state *out);
/*
 * Proves that nothing of a fenced host's sessions is in flight any more: logs in with their name
 * and ISIDs. -EOPNOTSUPP where reinstatement does not work: wait for the flight time instead.
 */
int blk_drain_foreign(struct blk *blk, const char *initiator, uint32_t isid, unsigned sessions);
/* How many sessions this blk's channels have used so far (for the claim, see above). */
unsigned blk_sessions(const struct blk *blk);

/*
 * File LUNs: the OFD lock on a slot's own byte, held through the same open file as the I/O, so it
 * falls only when the last request in flight has ended. -EBUSY: somebody lives (or his I/O does).
 * Other kinds: -EOPNOTSUPP.
 */
int blk_host_lock(struct blk *blk, unsigned slot);
void blk_host_unlock(struct blk *blk, unsigned slot);

/* --- filters: each takes `lower` and closes it when it is closed itself ------------------------ */

/* Faults that are configured for the blk's name or id (fault.h) strike here. */
int blk_fault_wrap(struct blk *lower, struct blk **out);
/* Appends every write, discard, CAS and flush, as answered, to the log at `path` (record.h). */
int blk_record_wrap(struct blk *lower, const char *path, struct blk **out);

#endif
