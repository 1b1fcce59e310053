// SPDX-License-Identifier: Apache-2.0
/*
 * disk.h: a virtual disk as exports see it: a linear range of bytes with asynchronous requests.
 *
 * A disk is bound to one loop (the I/O thread of the controller it belongs to): it is submitted to,
 * and completes, in that thread only. Kinds: thin.h (a file on a volume, through its map) and raw.h
 * (a whole LUN, for tests and as the floor of benchmarks). Requests carry the guest's own memory;
 * it is never copied but where a request does not fill whole grains.
 *
 * Answers: 0 or a negative errno. -ENOSPC never reaches an export: a full volume parks the request
 * (see vfs_disk_full). -EIO: the medium; -ESTALE: the lease is over and the request was not sent;
 * it stays parked until the disk is closed or the lease runs again.
 */
#ifndef VFS_DISK_H
#define VFS_DISK_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

struct loop;
struct vfs_disk;

enum vfs_op { VFS_READ, VFS_WRITE, VFS_FLUSH, VFS_DISCARD, VFS_WRITE_ZEROES };

#define VFS_FUA	      1u /* WRITE, WRITE_ZEROES: durable when answered */
#define VFS_MAY_UNMAP 2u /* WRITE_ZEROES: the space may be given back */

/* Caller's memory, as the iovec and the buffers, until `done` ran; exactly once, may free it. */
struct vfs_req {
	enum vfs_op op;
	unsigned flags;
	uint64_t offset,
		length; /* bytes, multiples of 512, inside of the disk (checked: -EINVAL) */
	const struct iovec *iov; /* READ, WRITE: sums up to length; each part a multiple of 512 long
				  * and aligned to 512: else the export bounces it */
	int iovcnt;
	void (*done)(struct vfs_req *req, int res);
	uint8_t priv[384] __attribute__((aligned(16))); /* the disk's */
};

struct vfs_disk_info {
	uint64_t size;	       /* bytes */
	uint32_t block_size;   /* logical, bytes: 512 */
	uint32_t grain;	       /* bytes that are cheap to write as one: physical block, 4096 */
	uint32_t discard_unit; /* bytes that free space when discarded as one: 65536 */
	uint8_t id[16];	       /* the same for this disk on every host and for its whole life */
	char name[256];	       /* "VOLUME:/path" */
	bool read_only;
};

/* A SCSI command for a disk that is a LUN (pass.h). The caller's, as its data, until `done` ran, once. */
struct vfs_scsi {
	const uint8_t *cdb;
	unsigned cdb_length; /* at most 16 */
	bool to_guest;	     /* the direction of its data */
	const struct iovec *iov;
	unsigned iovcnt;
	uint64_t bytes; /* sum of iov; 0: no data */
	/* `res` 0: there is a status; else -errno as BLK_SCSI (blockdev/blk.h) */
	void (*done)(struct vfs_scsi *s, int res);
	/* the answer */
	uint8_t status;
	uint8_t *sense; /* 96 bytes, the caller's */
	unsigned sense_bytes;
	uint64_t moved;
	bool overrun;
};

struct vfs_disk_ops {
	void (*submit)(struct vfs_disk *disk, struct vfs_req *req);
	/* Ends when nothing is in flight; then calls `closed` and frees the disk. */
	void (*close)(struct vfs_disk *disk, void (*closed)(void *arg), void *arg);
	/*
	 * Requests that wait for space or for a lease, and have touched nothing, are ended with an error at
	 * once: the guest that asked for them is gone. May be NULL: none ever waits.
	 */
	void (*shed)(struct vfs_disk *disk);
	/*
	 * on: begins nothing by itself (giving back space) until off. Returns what keeps it from being at rest:
	 * VFS_BUSY, then `rested` is told when that is over; VFS_UNFLUSHED; 0: nothing.
	 */
	unsigned (*rest)(struct vfs_disk *disk, bool on);
	/* NULL: no LUN, the SCSI is ours. */
	void (*scsi)(struct vfs_disk *disk, struct vfs_scsi *s);
};
#define VFS_BUSY      1u /* requests, or work of its own, are under way */
#define VFS_UNFLUSHED 2u /* what was written may lie in a volatile cache still */

/* What is so of a disk with ops->scsi. */
struct vfs_pass {
	bool by_requests;      /* READ and WRITE are submitted, not sent as commands */
	bool unfiltered;       /* any command may be sent */
	uint32_t max_transfer; /* bytes of one command */
};

/* The head of every kind of disk. */
struct vfs_disk {
	const struct vfs_disk_ops *ops;
	struct vfs_disk_info info;
	struct vfs_pass pass;
	struct loop *loop;
	/*
	 * Told by the disk, in its loop: the volume is full (true) and requests are parked, or space
	 * came back (false) and they go on. The VM is paused meanwhile. May be NULL.
	 */
	void (*full)(struct vfs_disk *disk, bool is_full);
	bool is_full; /* the export's: what it was told last */
	/* Told when the size changed; the export signals it to the guest. May be NULL. */
	void (*resized)(struct vfs_disk *disk);
	/* Told while it is to rest: nothing is under way any more. May be NULL. */
	void (*rested)(struct vfs_disk *disk);
	bool owes_loss; /* the export's: a flush of its own failed, which the guest has to hear of */
	void *owner;	/* the export's */
};

static inline void vfs_submit(struct vfs_disk *disk, struct vfs_req *req)
{
	disk->ops->submit(disk, req);
}
static inline void vfs_close(struct vfs_disk *disk, void (*closed)(void *arg), void *arg)
{
	disk->ops->close(disk, closed, arg);
}
static inline unsigned vfs_rest(struct vfs_disk *disk, bool on)
{
	return disk->ops->rest ? disk->ops->rest(disk, on) : 0;
}
static inline void vfs_shed(struct vfs_disk *disk)
{
	if (disk->ops->shed)
		disk->ops->shed(disk);
}

#endif
