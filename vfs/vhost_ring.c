// SPDX-License-Identifier: Apache-2.0
/*
 * vhost_ring.c: rings at work. A kick, or an answer, leads to one piece of deferred work a turn of
 * the loop: publish what was answered with one index update and at most one call, then take what
 * is new. Requests of a turn go to the disks with one system call, their answers come in batches.
 *
 * Descriptors for kicks and calls are the client's: both are used through io_uring only, so one
 * that blocks, blocks nobody here. Kicks are watched with a multishot poll, which reports each
 * write to an eventfd; its counter is never read (it starts at an event that was not heard).
 */
#include "vfs/vhost_ring.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "base/log.h"

struct vhost_kick {
	struct loop_op op;
	struct vhost_session *session;
	struct vhost_ring *ring; /* NULL: not wanted any more */
	int fd;
};

static struct loop *ring_loop(const struct vhost_ring *ring)
{
	return ring->session->dev->loop;
}

unsigned vhost_ring_index(const struct vhost_ring *ring)
{
	return ring->index;
}

struct vhost_device *vhost_req_device(const struct vhost_req *req)
{
	return req->ring->session->dev;
}

static void note_cut(struct vhost_req *req, void *base, size_t len)
{
	MUST(req->cuts < ARRAY_SIZE(req->cut));
	req->cut[req->cuts++] = (struct iovec){base, len};
}

bool vhost_trim_front(struct vhost_req *req, struct iovec **iov, unsigned *n, size_t bytes)
{
	while (*n && bytes >= (*iov)->iov_len) {
		bytes -= (*iov)->iov_len;
		(*iov)++;
		(*n)--;
	}
	if (bytes && !*n)
		return false;
	if (bytes) {
		note_cut(req, (*iov)->iov_base, bytes);
		(*iov)->iov_base = (uint8_t *)(*iov)->iov_base + bytes;
		(*iov)->iov_len -= bytes;
	}
	return true;
}

bool vhost_trim_back(struct vhost_req *req, struct iovec *iov, unsigned *n, size_t bytes)
{
	while (*n && bytes >= iov[*n - 1].iov_len) {
		bytes -= iov[*n - 1].iov_len;
		(*n)--;
	}
	if (bytes && !*n)
		return false;
	if (bytes) {
		iov[*n - 1].iov_len -= bytes;
		note_cut(req, (uint8_t *)iov[*n - 1].iov_base + iov[*n - 1].iov_len, bytes);
	}
	return true;
}

size_t vhost_pieces_bytes(const struct iovec *iov, unsigned n)
{
	size_t bytes = 0;

	for (unsigned i = 0; i < n; i++)
		bytes += iov[i].iov_len;
	return bytes;
}

static bool ring_runs(const struct vhost_ring *ring)
{
	return ring->started && ring->enabled && !ring->broken && !ring->session->dead;
}

void vhost_close_fd(struct loop *loop, int *fd)
{
	if (*fd < 0)
		return;
	/* Behind writes and polls queued on it: a number that is used again must not get them. */
	io_uring_prep_close(loop_sqe(loop, NULL), *fd);
	*fd = -1;
}

/* --- kicks and calls --------------------------------------------------------------------------- */

static void kick_arm(struct vhost_kick *kick)
{
	io_uring_prep_poll_multishot(loop_sqe(kick->session->dev->loop, &kick->op), kick->fd,
				     POLLIN);
}

static void kick_remove(struct vhost_kick *kick)
{
	io_uring_prep_poll_remove(loop_sqe(kick->session->dev->loop, NULL),
				  (__u64)(uintptr_t)&kick->op);
}

static void kick_done(struct loop_op *op, int res)
{
	struct vhost_kick *kick = container_of(op, struct vhost_kick, op);
	bool more = op->flags & IORING_CQE_F_MORE;

	if (kick->ring && res > 0 && !(res & (POLLERR | POLLNVAL)))
		vhost_ring_poke(kick->ring);
	if (more) {
		/* A removal that met an event on its way (-EALREADY) has to be asked for again. */
		if (!kick->ring)
			kick_remove(kick);
		return;
	}
	if (kick->ring && res > 0 && !(res & (POLLERR | POLLHUP | POLLNVAL))) {
		kick_arm(kick); /* the kernel dropped it: its completion queue was full */
		return;
	}
	if (kick->ring)
		kick->ring->kick = NULL;
	vhost_close_fd(kick->session->dev->loop, &kick->fd);
	vhost_session_unref(kick->session);
	free(kick);
}

static void kick_cancel(struct vhost_ring *ring)
{
	struct vhost_kick *kick = ring->kick;

	if (!kick)
		return;
	kick->ring = NULL;
	ring->kick = NULL;
	kick_remove(kick);
}

int vhost_ring_kick_fd(struct vhost_ring *ring, int fd)
{
	struct vhost_kick *kick;
	int rc;

	if (fd < 0)
		return fail(-EINVAL, "ring %u: rings without a kick descriptor are not served",
			    ring->index);
	kick_cancel(ring);
	kick = xcalloc(1, sizeof(*kick));
	kick->op.done = kick_done;
	kick->session = ring->session;
	kick->ring = ring;
	kick->fd = fd;
	ring->kick = kick;
	vhost_session_ref(ring->session);
	kick_arm(kick);
	rc = vhost_ring_resolve(ring);
	if (rc == 0)
		vhost_ring_poke(ring);
	return rc;
}

static void call_send(struct vhost_ring *ring)
{
	ring->call_busy = true;
	ring->call_again = false;
	ring->one = 1;
	vhost_session_ref(ring->session);
	io_uring_prep_write(loop_sqe(ring_loop(ring), &ring->call_op), ring->call_fd, &ring->one, 8,
			    0);
}

static void call_done(struct loop_op *op, int res)
{
	struct vhost_ring *ring = container_of(op, struct vhost_ring, call_op);

	(void)res; /* -EAGAIN: its counter is full, so the guest has been called anyway */
	ring->call_busy = false;
	if (ring->call_again && ring->call_fd >= 0 && !ring->session->dead)
		call_send(ring);
	vhost_session_unref(ring->session);
}

static void call(struct vhost_ring *ring)
{
	if (ring->call_fd < 0)
		return;
	if (ring->call_busy)
		ring->call_again = true;
	else
		call_send(ring);
}

void vhost_ring_break(struct vhost_ring *ring, int why)
{
	if (ring->broken)
		return;
	ring->broken = true;
	log_warn("vhost", "%s: ring %u: %s; it stands still until the guest resets it",
		 ring->session->dev->name, ring->index, err_message(why));
	if (ring->err_fd >= 0) {
		ring->one = 1;
		io_uring_prep_write(loop_sqe(ring_loop(ring), NULL), ring->err_fd, &ring->one, 8,
				    0);
	}
}

/* --- requests ---------------------------------------------------------------------------------- */

static struct vhost_req *request_of(struct vhost_ring *ring, uint16_t head)
{
	return (struct vhost_req *)(void *)(ring->requests +
					    ring->session->dev->ops->request_size * head);
}

/* The pieces of a chain lie in the session's scratch; a request keeps its own copy. */
static void keep_pieces(struct vhost_req *req, const struct iovec *iov,
			const struct vring_chain *chain)
{
	unsigned n = chain->out + chain->in;

	req->cuts = 0;
	req->out = chain->out;
	req->in = chain->in;
	req->iov = n <= VHOST_SMALL ? req->small : xmalloc(n * sizeof(*iov));
	memcpy(req->iov, iov, n * sizeof(*iov));
}

static void park(struct vhost_ring *ring, uint16_t head, bool replay, uint64_t absent)
{
	struct vhost_device *dev = ring->session->dev;

	if (!ring->parked)
		ring->parked = xcalloc(ring->size, sizeof(*ring->parked));
	MUST(ring->parked_n < ring->size); /* no head is there twice */
	ring->parked[ring->parked_n++] = (struct vhost_parked){head, replay};
	if (dev->want)
		dev->want(dev->want_arg, absent);
}

/* Begins with a head that was taken; NULL: it was answered already, or waits. */
static struct vhost_req *begin(struct vhost_ring *ring, uint16_t head, bool replay)
{
	struct vhost_session *s = ring->session;
	struct vhost_req *req = request_of(ring, head);
	struct vring_chain chain;
	int rc;

	rc = vring_read_chain(&ring->q, &s->memory->mem, head, s->scratch, ARRAY_SIZE(s->scratch),
			      &chain);
	if (rc == -EAGAIN) {
		park(ring, head, replay, chain.absent);
		return NULL;
	}
	req->ring = ring;
	req->memory = s->memory;
	req->head = head;
	req->busy = true;
	req->replay = replay;
	s->memory->refs++;
	s->in_flight++;
	ring->in_flight++;
	vhost_session_ref(s);
	if (rc < 0) {
		chain.out = chain.in = 0;
		keep_pieces(req, s->scratch, &chain);
		if (s->dev->ops->bad_request)
			s->dev->ops->bad_request(s->dev);
		vhost_req_done(req, 0);
		return NULL;
	}
	keep_pieces(req, s->scratch, &chain);
	return req;
}

static bool is_parked(const struct vhost_ring *ring, uint16_t head)
{
	for (unsigned i = 0; i < ring->parked_n; i++)
		if (ring->parked[i].head == head)
			return true;
	return false;
}

/* Takes a head that was popped (or one that the daemon before had taken); NULL as above. */
static struct vhost_req *take_up(struct vhost_ring *ring, uint16_t head, bool replay)
{
	if (request_of(ring, head)->busy || is_parked(ring, head)) {
		/* Twice the same: the first is still under way and will be answered too. */
		log_warn("vhost", "%s: ring %u: head %u is offered twice", ring->session->dev->name,
			 ring->index, head);
		vring_push(&ring->q, head, 0);
		loop_defer(ring_loop(ring), &ring->work);
		return NULL;
	}
	if (!replay)
		inflight_take(&ring->inflight, head);
	return begin(ring, head, replay);
}

/* The next of those that waited for pages. */
static struct vhost_req *take_parked(struct vhost_ring *ring)
{
	struct vhost_req *req = NULL;

	while (!req && ring->parked_ready) {
		struct vhost_parked p = ring->parked[0];

		ring->parked_ready--;
		ring->parked_n--;
		memmove(ring->parked, ring->parked + 1, ring->parked_n * sizeof(p));
		req = begin(ring, p.head, p.replay);
	}
	return req;
}

static void log_pieces(const struct vhost_session *s, const struct vhost_req *req,
		       const struct iovec *iov, unsigned n)
{
	uint64_t gpa;

	for (unsigned i = 0; i < n; i++)
		if (guest_mem_gpa(&req->memory->mem, iov[i].iov_base, &gpa))
			guest_mem_log(&s->memory->mem, gpa, iov[i].iov_len);
}

void vhost_req_done(struct vhost_req *req, uint32_t written)
{
	struct vhost_ring *ring = req->ring;
	struct vhost_session *s = ring->session;

	MUST(req->busy);
	if (guest_mem_logs(&s->memory->mem)) { /* one that failed may have written, too */
		log_pieces(s, req, req->iov + req->out, req->in);
		log_pieces(s, req, req->cut, req->cuts);
	}
	if (req->iov != req->small)
		free(req->iov);
	vhost_memory_put(req->memory);
	req->busy = false;
	ring->in_flight--;
	s->in_flight--;
	if (!s->dead) {
		inflight_put(&ring->inflight, req->head);
		vring_push(&ring->q, req->head, written);
		if (!ring->taking)
			ring->want_take = true; /* the guest is likely to have more by now */
		loop_defer(ring_loop(ring), &ring->work);
	}
	vhost_session_unref(s);
}

/* --- work -------------------------------------------------------------------------------------- */

static void publish(struct vhost_ring *ring)
{
	if (!ring->q.unpublished)
		return;
	if (vring_publish(&ring->q, &ring->session->memory->mem))
		call(ring);
	inflight_published(&ring->inflight, ring->q.used_idx);
}

static struct vhost_req *take_next(struct vhost_ring *ring)
{
	struct vhost_req *req = take_parked(ring);
	uint16_t head;

	while (!req && ring->replay_at < ring->replay_count) {
		head = ring->replay[ring->replay_at++];
		req = take_up(ring, head, true);
	}
	while (!req && !ring->session->dev->quiet) {
		int rc = vring_pop(&ring->q, &head);

		if (rc < 0)
			vhost_ring_break(ring, rc);
		if (rc <= 0)
			return NULL;
		req = take_up(ring, head, false);
	}
	return req;
}

static void no_kicks(struct vhost_ring *ring)
{
	vring_no_kicks(&ring->q);
	if (ring->q.log_used)
		guest_mem_log(&ring->session->memory->mem, ring->q.used_gpa, 2);
}

/*
 * Takes what waits, at most a ring's worth in one turn, so that a guest that is always ready
 * leaves the thread to others. True: there is more.
 */
static bool take(struct vhost_ring *ring)
{
	struct vhost_device *dev = ring->session->dev;
	unsigned budget = ring->size;
	struct vhost_req *req;

	do {
		no_kicks(ring);
		while (budget && (req = take_next(ring))) {
			dev->ops->request(dev, ring->session, req);
			budget--;
			if (!ring_runs(ring))
				return false;
		}
		/* Quiet: what waits is looked at when that is over. */
		if (!ring_runs(ring) || (dev->quiet && ring->replay_at == ring->replay_count))
			return false;
	} while (budget && vring_want_kicks(&ring->q, &ring->session->memory->mem));
	return !budget;
}

static void again_done(struct loop_op *op, int res)
{
	struct vhost_ring *ring = container_of(op, struct vhost_ring, again_op);

	(void)res;
	ring->again_busy = false;
	vhost_ring_poke(ring);
	vhost_session_unref(ring->session);
}

static void again(struct vhost_ring *ring)
{
	if (ring->again_busy)
		return;
	ring->again_busy = true;
	vhost_session_ref(ring->session);
	io_uring_prep_nop(loop_sqe(ring_loop(ring), &ring->again_op));
}

/* A ring that was taken back: what it had taken is done, but what only waits for events needs no buffers. */
static void take_last(struct vhost_ring *ring)
{
	struct vhost_device *dev = ring->session->dev;
	struct vhost_req *req;

	if (dev->ops->manual_ring && dev->ops->manual_ring(dev, ring->index)) {
		ring->parked_n = ring->parked_ready = 0;
		return;
	}
	while ((req = take_parked(ring)))
		dev->ops->request(dev, ring->session, req);
}

static void ring_work(struct loop_work *work)
{
	struct vhost_ring *ring = container_of(work, struct vhost_ring, work);
	struct vhost_session *s = ring->session;
	struct vhost_device *dev = s->dev;

	if (s->dead || !s->memory)
		return;
	publish(ring);
	if (ring_runs(ring) && ring->want_take) {
		ring->want_take = false;
		ring->taking = true;
		if (dev->quiet && ring->replay_at == ring->replay_count && !ring->parked_ready) {
			ring->want_take = true;
		} else if (dev->ops->manual_ring && dev->ops->manual_ring(dev, ring->index)) {
			vring_want_kicks(&ring->q, &s->memory->mem);
			dev->ops->kicked(dev, ring->index);
		} else if (take(ring)) {
			again(ring);
		}
		ring->taking = false;
		publish(ring); /* what was answered at once */
	}
	if (!ring->started && ring->parked_ready) { /* it is to be drained */
		take_last(ring);
		publish(ring);
	}
	/* What was read since may have been the zeroes that the guard put there. */
	if (vhost_session_check_memory(s))
		return;
	if (!ring->started && vhost_ring_idle(ring))
		vhost_session_drained(s);
	if (dev->quiet && dev->quieter)
		dev->quieter(dev);
}

void vhost_ring_poke(struct vhost_ring *ring)
{
	ring->want_take = true;
	if (ring->session->memory)
		loop_defer(ring_loop(ring), &ring->work);
}

struct vhost_req *vhost_ring_take(struct vhost_session *s, unsigned index)
{
	struct vhost_ring *ring;
	struct vhost_req *req;

	if (!s || index >= VHOST_RINGS)
		return NULL;
	ring = &s->ring[index];
	if (!ring_runs(ring))
		return NULL;
	req = take_next(ring);
	/* None left: the driver is to kick with the next, wherever the last kick found the ring. */
	if (!req && ring_runs(ring) && vring_want_kicks(&ring->q, &s->memory->mem))
		req = take_next(ring);
	return req;
}

/* --- starting and stopping --------------------------------------------------------------------- */

void vhost_ring_init(struct vhost_ring *ring, struct vhost_session *s, unsigned index)
{
	memset(ring, 0, sizeof(*ring));
	ring->session = s;
	ring->index = index;
	ring->call_fd = ring->err_fd = -1;
	ring->work.fn = ring_work;
	ring->call_op.done = call_done;
	ring->again_op.done = again_done;
}

/* Goes on where the region says that the former daemon stood; without one at the client's base. */
static int begin_tracking(struct vhost_ring *ring)
{
	struct vhost_session *s = ring->session;
	uint8_t *region = s->inflight_map.base;
	bool resumed;
	int n;

	if (ring->index >= s->inflight.num_queues || ring->size > s->inflight.queue_size)
		return 0;
	region += s->inflight_offset +
		  ring->index * vhost_user_inflight_bytes(s->inflight.queue_size);
	ring->replay = xcalloc(ring->size, sizeof(*ring->replay));
	n = inflight_start(&ring->inflight, region, ring->size, ring->q.used_idx, ring->replay,
			   &resumed);
	if (n < 0)
		return n;
	ring->replay_count = (unsigned)n;
	if (resumed)
		ring->q.next_avail = (uint16_t)(ring->q.used_idx + n);
	for (int i = 0; i < n; i++)
		MUST(vring_retake(&ring->q) == 0);
	if (n)
		log_info("vhost", "%s: ring %u: %d requests were in flight, doing them again",
			 s->dev->name, ring->index, n);
	return 0;
}

static int start(struct vhost_ring *ring, void *desc, void *avail, void *used)
{
	struct vhost_session *s = ring->session;
	struct vhost_device *dev = s->dev;
	int rc;

	vhost_ring_release(ring, false);
	rc = vring_start(&ring->q, ring->size, desc, avail, used, ring->base,
			 s->features >> VIRTIO_RING_F_EVENT_IDX & 1);
	if (rc < 0)
		return rc;
	rc = begin_tracking(ring);
	if (rc < 0)
		return rc;
	ring->requests = xcalloc(ring->size, dev->ops->request_size);
	ring->started = true;
	ring->broken = false;
	if (dev->ops->ring_started)
		dev->ops->ring_started(dev, ring, !ring->q.next_avail && !ring->q.used_idx);
	return 0;
}

int vhost_ring_resolve(struct vhost_ring *ring)
{
	struct vhost_session *s = ring->session;
	void *desc, *avail, *used;
	int rc;

	if (!s->memory || !ring->size || !ring->have_addr)
		return fail(-EINVAL, "ring %u: started before its memory, size and addresses",
			    ring->index);
	desc = guest_mem_at_user(&s->memory->mem, ring->addr.desc, vring_desc_bytes(ring->size));
	avail = guest_mem_at_user(&s->memory->mem, ring->addr.avail, vring_avail_bytes(ring->size));
	used = guest_mem_at_user(&s->memory->mem, ring->addr.used, vring_used_bytes(ring->size));
	if (!desc || !avail || !used || (uintptr_t)desc % 16 || (uintptr_t)avail % 2 ||
	    (uintptr_t)used % 4)
		return fail(-EINVAL, "ring %u: its addresses are not in the guest's memory",
			    ring->index);
	if (!ring->started) {
		rc = start(ring, desc, avail, used);
		if (rc < 0)
			return rc;
	}
	ring->q.desc = desc;
	ring->q.avail = avail;
	ring->q.used = used;
	vhost_ring_update_log(ring);
	return 0;
}

void vhost_ring_update_log(struct vhost_ring *ring)
{
	const struct vhost_session *s = ring->session;
	bool asked = ring->addr.flags & VHOST_USER_VRING_LOG_FLAG;

	ring->q.log_used = asked;
	ring->q.used_gpa = ring->addr.log;
	if (ring->started && s->dev->file_log && !asked)
		ring->q.log_used = guest_mem_gpa(&s->memory->mem, ring->q.used, &ring->q.used_gpa);
}

void vhost_ring_stop(struct vhost_ring *ring)
{
	kick_cancel(ring);
	ring->started = false;
	/* A call that a hostile client made block must not keep the session. */
	if (ring->call_busy && ring->session->dead)
		io_uring_prep_cancel(loop_sqe(ring_loop(ring), NULL), &ring->call_op, 0);
}

void vhost_ring_call_fd(struct vhost_ring *ring, int fd)
{
	vhost_close_fd(ring_loop(ring), &ring->call_fd);
	ring->call_fd = fd;
	/* Answers may have been published without a call: by a daemon that died, or just now. */
	if (ring->started)
		call(ring);
}

bool vhost_ring_idle(const struct vhost_ring *ring)
{
	return !ring->in_flight && !ring->parked_n && !ring->q.unpublished;
}

void vhost_ring_release(struct vhost_ring *ring, bool clean)
{
	MUST(!ring->started && !ring->in_flight);
	/* What was to be done again and was not taken yet stays marked for the next start. */
	if (clean && ring->replay_at == ring->replay_count)
		inflight_end(&ring->inflight);
	free(ring->requests);
	free(ring->replay);
	free(ring->parked);
	ring->parked = NULL;
	ring->parked_n = ring->parked_ready = 0;
	ring->requests = NULL;
	ring->replay = NULL;
	ring->replay_at = ring->replay_count = 0;
	memset(&ring->q, 0, sizeof(ring->q));
	memset(&ring->inflight, 0, sizeof(ring->inflight));
}
