// SPDX-License-Identifier: Apache-2.0
/*
 * controller.h: a virtual storage controller that a VMM reaches over vhost-user, with its disks.
 *
 * A controller is bound to one I/O thread, all its rings and disks with it. It has one client at a
 * time: our own VMM (controller_serve on a connected socket) or any vhost-user front-end that
 * connects to a socket of ours (controller_listen), QEMU for one. A client that goes may come
 * back; what it had in flight is ended before the next one is heard.
 *
 * After a restart of the daemon the client gives the in-flight region back and every request it
 * was not answered is done again: READ, WRITE, UNMAP, WRITE SAME, SYNCHRONIZE CACHE; any other
 * SCSI command is answered UNIT ATTENTION 29/00. The caller sees to it that nothing of the former
 * daemon is on its way any more before it serves.
 *
 * Functions are called from any thread but the I/O thread, and wait for it shortly (never for
 * I/O). Callbacks run in the I/O thread and must not block.
 */
#ifndef VFS_CONTROLLER_H
#define VFS_CONTROLLER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct controller;
struct iothread;
struct vfs_disk;

enum controller_kind {
	CONTROLLER_BLK,	 /* vhost-user-blk: one disk, attached before a client comes, as LUN 0 */
	CONTROLLER_SCSI, /* vhost-user-scsi: target 0 with LUNs 0 to CONTROLLER_LUNS - 1 */
};
#define CONTROLLER_LUNS	      1024u
#define CONTROLLER_QUEUES_MAX 62u

struct controller_events {
	/* A client connected; it went (`why` in words, for the log). May be NULL. */
	void (*connected)(void *arg);
	void (*gone)(void *arg, const char *why);
	/* A disk is full, its requests are parked (true), or goes on (false). May be NULL. */
	void (*full)(void *arg, struct vfs_disk *disk, bool is_full);
};

struct controller_options {
	enum controller_kind kind;
	struct iothread *thread;
	const char *name; /* in messages: the VM's or the export's */
	unsigned queues;  /* request queues offered; 0: 1, at most CONTROLLER_QUEUES_MAX */
	bool sealed;	  /* our own VMM: memory that can shrink is refused */
	bool read_only;	  /* whatever the disks say */
	const struct controller_events *events; /* may be NULL */
	void *arg;				/* of the events */
};

int controller_create(struct controller **out, const struct controller_options *options);
/*
 * Disconnects the client and closes all disks, which ends what is in flight or parked (nothing of
 * it is answered: it stays marked in the in-flight region), then calls closed(arg) in the I/O
 * thread; the controller is gone then.
 */
void controller_close(struct controller *ctl, void (*closed)(void *arg), void *arg);

/* How a LUN remembers its persistent reservations: at most that many bytes. */
#define CONTROLLER_PR_BYTES 1024u
struct controller_lun {
	unsigned lun;
	uint8_t nexus[16]; /* names the VM in persistent reservations; the same for all its life */
	/*
	 * Persistent reservations as stored before (`pr_bytes` 0: none), and where to store them:
	 * `stored(op, 0)` must be called, in the I/O thread, when they are durable; or with an
	 * error. The bytes are valid until then. NULL: they last as long as the controller.
	 */
	const void *pr;
	size_t pr_bytes;
	void (*pr_store)(struct vfs_disk *disk, const void *pr, size_t pr_bytes,
			 void (*stored)(void *op, int res), void *op);
};

/* Whether stored reservations are to last through a loss of power (APTPL), such as a VM's start anew. */
bool controller_pr_lasts(const void *pr, size_t pr_bytes);

/*
 * Takes the disk, which is bound to the same I/O thread (its full, resized and owner are ours from
 * now on). A guest that runs is told. -EBUSY: the LUN is taken.
 */
int controller_attach(struct controller *ctl, struct vfs_disk *disk,
		      const struct controller_lun *options);
/*
 * The LUN is gone for the guest at once (it is told, unless controller_leave has; commands are answered
 * 25/00), the disk is closed, which ends its requests, then detached(arg) is called in the I/O thread. -ENOENT; blk:
 * -EBUSY while there is a client.
 */
int controller_detach(struct controller *ctl, unsigned lun, void (*detached)(void *arg), void *arg);

/*
 * The first half of taking a LUN from a guest that runs: it is told that the LUN goes (true) and served
 * still, so that it can write back and let go; or that it is there after all (false). SCSI only. -ENOENT.
 */
int controller_leave(struct controller *ctl, unsigned lun, bool leaving);
/* What the guest does with a LUN meanwhile. */
struct controller_use {
	uint64_t medium;    /* commands taken that read, write or flush */
	uint64_t flushes;   /* SYNCHRONIZE CACHE that succeeded */
	unsigned in_flight; /* commands that have not ended */
	bool listens;	    /* to events of this kind */
	bool told;	    /* no event waits for a buffer of the guest's */
};
int controller_get_use(struct controller *ctl, unsigned lun, struct controller_use *out);

/*
 * Listens on a unix socket at `path` (a stale one is replaced; mode 0600; removed when the
 * controller closes).
 */
int controller_listen(struct controller *ctl, const char *path);
/* Serves a connected socket; takes it. -EBUSY: there is a client. */
int controller_serve(struct controller *ctl, int fd);

/* --- live migration: a guest's memory and disks are held still, and what is written to it is told ------- */

/*
 * Takes no more requests from the rings, and waits until what was taken is answered, the disks have no work of
 * their own under way (giving back space), and what the guest has written is durable (one flush). 0: so it is,
 * and stays until controller_unquiesce; rings stopped meanwhile (GET_VRING_BASE) are answered at once, those
 * started again wait. -ETIMEDOUT: not within `timeout_ms`, e.g. requests are parked; -EIO: a flush has failed
 * (the guest's next one will); both: requests are taken again by themselves. -EBUSY: it is quiesced already.
 */
int controller_quiesce(struct controller *ctl, unsigned timeout_ms);
/* The same without the flush: nothing touches the guest's memory, but what was written may be in caches. */
int controller_hold(struct controller *ctl, unsigned timeout_ms);
/* Requests are taken again. Without a quiesce nothing happens. */
void controller_unquiesce(struct controller *ctl);

/*
 * From now on each write of the controller to the guest's memory (data of reads, used rings, status, events)
 * sets a bit in `words`: bit n of the whole for the page at byte offset n * 4096 *of the memory's file*, whose
 * regions all lie in one file; atomic, after the write. A write that was in flight is told when it ends. Pages
 * beyond `bits` are not. NULL ends it: no bit is set once this has returned. Foreign clients ask for the same,
 * by guest addresses, with SET_LOG_BASE.
 */
void controller_log(struct controller *ctl, uint64_t *words, size_t bits);

/*
 * From now on pages of the guest's memory are touched only if `present` (bits as in controller_log, of all of the
 * memory) says that they are there; a request for others waits, and want(want_arg, offset) is told of the page in the
 * memory's file, in the I/O thread. Before a client comes. NULL: all are there; no bit is read any more when it returns.
 */
void controller_lazy(struct controller *ctl, const uint64_t *present,
		     void (*want)(void *arg, uint64_t offset), void *want_arg);
/* Any thread, the I/O thread too: pages have come. Waits for nothing. */
void controller_pages_came(struct controller *ctl);

/*
 * What the guest has set and a controller elsewhere must know: each LUN's write cache, reservations, pending unit
 * attentions, a loss that its next flush tells of. Of a quiesced controller; at most CONTROLLER_STATE_MAX bytes
 * into `state`, returns how many, or -ENOSPC. Loaded after all disks are attached, before a client comes;
 * -EINVAL: it makes no sense here.
 */
#define CONTROLLER_STATE_MAX (2u << 20)
int controller_save(struct controller *ctl, void *state, size_t size);
int controller_load(struct controller *ctl, const void *state, size_t size);
/* Whether a SCSI controller's state makes sense in itself, whatever disks there are: 0 or -EINVAL. */
int controller_check_state(const void *state, size_t size);

struct controller_stats {
	bool connected;
	unsigned in_flight;
	uint64_t reads, writes, flushes, discards, others; /* requests answered */
	uint64_t read_bytes, write_bytes;
	uint64_t errors; /* answered so: the disk failed, or the request made no sense */
};
void controller_stats(struct controller *ctl, struct controller_stats *out);

#endif
