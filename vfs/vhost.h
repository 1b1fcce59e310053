// SPDX-License-Identifier: Apache-2.0
/*
 * vhost.h: the vhost-user back-end, private to vfs/: one session is one client's connection. It
 * parses messages, maps the client's memory, runs rings; what requests mean is the device's
 * (vhost_blk.h, vhost_scsi.h). All of it lives in one loop.
 *
 * A session that ends stops taking requests at once and is freed when the last one in flight has
 * ended: buffers stay mapped until then, and what ends late is not published any more. It stays
 * marked in the in-flight region and is done again for the next session.
 */
#ifndef VFS_VHOST_H
#define VFS_VHOST_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/guest_mem.h"
#include "base/loop.h"
#include "base/vhost_user.h"
#include "base/vring.h"
#include "vfs/controller.h"
#include "vfs/guard.h"
#include "vfs/inflight.h"

#define VHOST_RINGS	64u   /* of one controller */
#define VHOST_RING_SIZE 1024u /* entries; QEMU's own limit too */

struct vhost_session;
struct vhost_ring;

/* One table of memory. A new table takes its place at once; an old one stays for its requests. */
struct vhost_memory {
	unsigned refs;
	struct guest_mem mem;
	struct guard_map map[GUEST_MEM_REGIONS];
};
struct vhost_memory *vhost_memory_new(void);
/* Maps a region of the client's table; `fd` stays the caller's. */
int vhost_memory_add(struct vhost_memory *m, const struct vhost_user_mem_region *region, int fd,
		     bool sealed);
void vhost_memory_put(struct vhost_memory *m);
bool vhost_memory_was_hit(const struct vhost_memory *m);

#define VHOST_SMALL 6 /* pieces a request holds without allocating */

/* The head of a device's request. */
struct vhost_req {
	struct vhost_ring *ring;
	struct vhost_memory *memory;
	uint16_t head;
	bool busy;
	bool replay;	   /* taken before the daemon was restarted */
	unsigned out, in;  /* iov[0..out): from the guest, iov[out..out+in): to it */
	struct iovec *iov; /* the device may trim them */
	unsigned cuts;
	struct iovec cut[2]; /* parts trimmed off a piece, for the dirty log */
	struct iovec small[VHOST_SMALL];
};

struct vhost_device;
struct vhost_device_ops {
	uint64_t features;   /* virtio ones of the device's own */
	size_t request_size; /* bytes of its struct that begins with a vhost_req */
	unsigned max_rings;  /* 0: as configured */
	/* A request was taken; answer it once with vhost_req_done, at once or later. */
	void (*request)(struct vhost_device *dev, struct vhost_session *s, struct vhost_req *req);
	/* The chain of a request made no sense; it is answered with nothing written. May be NULL. */
	void (*bad_request)(struct vhost_device *dev);
	/* Config space: fills / changes; set returns -EINVAL for what cannot be changed. */
	void (*get_config)(struct vhost_device *dev, uint8_t data[VHOST_USER_CONFIG_SIZE]);
	int (*set_config)(struct vhost_device *dev, unsigned offset, const uint8_t *data,
			  unsigned size);
	/*
	 * The guest acknowledged features; a ring runs now (`fresh`: its driver just began with it);
	 * the device is reset. May be NULL.
	 */
	void (*set_features)(struct vhost_device *dev, uint64_t features);
	void (*ring_started)(struct vhost_device *dev, struct vhost_ring *ring, bool fresh);
	void (*reset)(struct vhost_device *dev);
	/* A ring is taken back for good: requests that wait for space are ended. May be NULL. */
	void (*shed)(struct vhost_device *dev);
	/* True: requests of this ring are taken by vhost_ring_take only. May be NULL. */
	bool (*manual_ring)(struct vhost_device *dev, unsigned index);
	/* A manual ring was kicked. */
	void (*kicked)(struct vhost_device *dev, unsigned index);
};
/* Embedded in blk's and scsi's own. */
struct vhost_device {
	const struct vhost_device_ops *ops;
	struct loop *loop;
	const char *name;
	unsigned rings; /* offered */
	bool sealed;	/* only sealed memory is taken */
	bool read_only;
	struct vhost_session *session; /* the client, or NULL */
	bool quiet;		       /* no new requests are taken; those of a replay are */
	/* Something has ended while it is quiet. May be NULL. */
	void (*quieter)(struct vhost_device *dev);
	uint64_t *file_log; /* the host's dirty log (guest_mem.h), or NULL */
	uint64_t file_log_bits;
	const uint64_t *present; /* pages that are there (guest_mem.h), or NULL: all */
	/* Somebody waits for the page at this offset. */
	void (*want)(void *arg, uint64_t offset);
	void *want_arg;
	struct controller_stats stats; /* what requests add to */
};

/* Answers a request; `written`: bytes written to the guest, all in all. */
void vhost_req_done(struct vhost_req *req, uint32_t written);
/* A manual ring: takes the next request, NULL when there is none (or the ring does not run). */
struct vhost_req *vhost_ring_take(struct vhost_session *s, unsigned index);
struct vhost_device *vhost_req_device(const struct vhost_req *req);
unsigned vhost_ring_index(const struct vhost_ring *ring);
/*
 * Cuts `bytes` from the front (or the end) of pieces of the request, in place, once each; false
 * when there are fewer.
 */
bool vhost_trim_front(struct vhost_req *req, struct iovec **iov, unsigned *n, size_t bytes);
bool vhost_trim_back(struct vhost_req *req, struct iovec *iov, unsigned *n, size_t bytes);
size_t vhost_pieces_bytes(const struct iovec *iov, unsigned n);

/*
 * Starts on a connected socket, which it takes; sets dev->session. `ended(arg, why)` runs once, in
 * the loop, when the session is over and freed; dev->session is NULL then.
 */
int vhost_session_start(struct vhost_device *dev, int fd, void (*ended)(void *arg, const char *why),
			void *arg);
/* Ends it; `ended` comes later. Idempotent. */
void vhost_session_kill(struct vhost_session *s, const char *why);
/* The peer hung up already, though nobody has told us yet. */
bool vhost_session_hung_up(const struct vhost_session *s);
bool vhost_session_dead(const struct vhost_session *s);
/* Nothing of it is in flight, unpublished, or to be taken again. */
bool vhost_session_idle(const struct vhost_session *s);
/* The device takes requests again. */
void vhost_session_go_on(struct vhost_session *s);
/* Pages have come: requests that waited for some are looked at again. */
void vhost_session_pages_came(struct vhost_session *s);
/* The device's logs, or the map of pages that are there, have changed. */
void vhost_session_update_log(struct vhost_session *s);
unsigned vhost_session_in_flight(const struct vhost_session *s);
uint64_t vhost_session_features(const struct vhost_session *s);
/*
 * VHOST_KEPT bytes that the client keeps for the device across a restart of the daemon, zeroes at
 * first; they lie behind the in-flight region. NULL: there are none, or the session is dead and they
 * belong to the daemon that comes next. Not to be trusted.
 */
#define VHOST_KEPT 256u
void *vhost_session_kept(struct vhost_session *s);
/* Tells the guest that config space changed; without a way to say so nothing happens. */
void vhost_session_config_changed(struct vhost_session *s);

#endif
