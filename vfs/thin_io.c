// SPDX-License-Identifier: Apache-2.0
/*
 * thin_io.c: reads, overwrites and first writes: the way of a request from the map to the LUN.
 *
 * First write: units from the stock - data written, with zeroes around it up to whole grains - one
 * transaction (bits, entry) - answer. Until the transaction nothing names the units, so a crash leaves
 * the old content; after it the tail file keeps it (INV-FS-3).
 */
#include "vfs/thin_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "vfs/thin_sums.h"

static const uint8_t zero_page[CFS_BLOCK] __attribute__((aligned(CFS_BLOCK)));

/* --- the request's buffers ---------------------------------------------------------------------------- */

void thin_skip(struct vfs_req *req, uint64_t bytes)
{
	struct thin_req *t = thin_req(req);

	t->at += bytes;
	if (req->op != VFS_READ && req->op != VFS_WRITE)
		return;
	while (bytes > 0) {
		size_t left = req->iov[t->iov_index].iov_len - t->iov_offset;

		if (bytes < left) {
			t->iov_offset += (size_t)bytes;
			return;
		}
		bytes -= left;
		t->iov_index++;
		t->iov_offset = 0;
	}
}

static void fill_zero(struct vfs_req *req, uint64_t bytes)
{
	struct thin_req *t = thin_req(req);

	while (bytes > 0) {
		const struct iovec *v = &req->iov[t->iov_index];
		size_t n = (size_t)MIN(bytes, v->iov_len - t->iov_offset);

		memset((uint8_t *)v->iov_base + t->iov_offset, 0, n);
		bytes -= n;
		thin_skip(req, n);
	}
}

/*
 * Puts the next `bytes` of the request's buffers behind what the piece has already, as far as `room`
 * iovecs go; moves the request on; returns how many bytes went in.
 */
static uint64_t take_iov(struct vfs_req *req, struct piece *p, uint64_t bytes, int room)
{
	struct thin_req *t = thin_req(req);
	uint64_t done = 0;

	while (done < bytes && room-- > 0) {
		const struct iovec *v = &req->iov[t->iov_index];
		size_t n = (size_t)MIN(bytes - done, v->iov_len - t->iov_offset);

		p->iov[p->blk.iovcnt].iov_base = (uint8_t *)v->iov_base + t->iov_offset;
		p->iov[p->blk.iovcnt++].iov_len = n;
		done += n;
		thin_skip(req, n);
	}
	return done;
}

static void add_zeroes(struct piece *p, size_t bytes)
{
	if (!bytes)
		return;
	p->iov[p->blk.iovcnt].iov_base = (void *)(uintptr_t)zero_page;
	p->iov[p->blk.iovcnt++].iov_len = bytes;
}

/* --- pieces --------------------------------------------------------------------------------------------- */

static void piece_done(struct blk_req *blk, int res);

struct piece *piece_new(struct thin *thin, struct vfs_req *req, struct leaf *leaf)
{
	struct piece *p;

	if (list_empty(&thin->free_pieces)) {
		p = xcalloc(1, sizeof(*p));
	} else {
		p = list_first(&thin->free_pieces, struct piece, link);
		list_del(&p->link);
	}
	list_init(&p->link);
	p->thin = thin;
	p->req = req;
	p->leaf = leaf;
	p->blk.done = piece_done;
	p->blk.iov = p->iov;
	p->blk.iovcnt = 0;
	p->blk.flags = 0;
	p->new_vbn = 0;
	p->lun_full = false;
	return p;
}

void pieces_free(struct thin *thin)
{
	while (!list_empty(&thin->free_pieces)) {
		struct piece *p = list_first(&thin->free_pieces, struct piece, link);

		list_del(&p->link);
		free(p);
	}
}

/* Aims the piece at a unit's byte and counts it in; `entries` of its leaf from `slot` on. */
static void piece_aim(struct piece *p, enum blk_op op, uint64_t vbn, uint64_t in_unit,
		      unsigned slot, unsigned entries)
{
	p->blk.op = op;
	p->extent = cfs_vbn_extent(vbn);
	p->blk.offset = cfs_vbn_block(vbn) * CFS_BLOCK + in_unit;
	p->slot = slot;
	p->entries = entries;
	leaf_use(p->leaf);
	for (unsigned i = 0; i < entries; i++)
		p->leaf->io[slot + i]++;
	thin_req(p->req)->pending++;
	p->thin->in_flight++;
}

static void stall(struct piece *p, uint64_t wait_ns)
{
	struct thin *thin = p->thin;
	uint64_t now = clock_boot_ns();

	p->not_before_ns = now + wait_ns;
	list_add_tail(&thin->stalled, &p->link);
	if (!thin->retry.armed)
		loop_timer_arm(thin->disk.loop, &thin->retry, now + THIN_RETRY_MS * NS_PER_MS);
}

static void piece_end(struct piece *p, int res)
{
	struct thin *thin = p->thin;
	struct leaf *leaf = p->leaf;
	struct vfs_req *req = p->req;

	for (unsigned i = p->slot; i < p->slot + p->entries; i++) {
		if (--leaf->io[i] == 0 && bitmap_get(leaf->reap, i))
			leaf_reap_later(thin, leaf, i);
	}
	leaf_unuse(thin, leaf);
	list_add(&thin->free_pieces, &p->link);
	thin_part_done(req, res);
	thin->in_flight--;
	if (!list_empty(&thin->reap))
		leaf_reap_run(thin);
	thin_idle(thin);
}

/* What the map said is not believed any more: the request looks again when that is settled. */
static void walk_anew(struct piece *p)
{
	thin_req(p->req)->anew = true;
	piece_end(p, 0);
}

/*
 * Whether what the map named, when the request looked, may be a stranger's by now: a cache was lost since, and
 * perhaps a commit has undone it already. In this order: it undoes before it stops being suspect.
 */
static bool doubtful(const struct piece *p, const struct way *way)
{
	return cfs_carrier_suspect(&way->carrier) ||
	       thin_req(p->req)->power != thin_losses(p->thin);
}

static void send_piece(struct piece *p)
{
	struct thin *thin = p->thin;
	struct blk_chan *chan = vfs_chan(thin->chans, p->extent);
	struct way *way;

	if (!chan) { /* the volume has grown just now */
		p->blk.maybe_done = false;
		stall(p, 0);
		return;
	}
	way = thin_way(thin, p->extent, chan);
	if (p->blk.op == BLK_READ) {
		if (doubtful(p, way)) {
			walk_anew(p);
			return;
		}
		p->blk.flags = cfs_carrier_waits(&way->carrier) ? BLK_STANDING : 0;
	}
	p->power = cfs_carrier_power(&way->carrier);
	blk_submit(chan, &p->blk);
}

void piece_submit(struct piece *p)
{
	p->blk.length = 0;
	for (int i = 0; i < p->blk.iovcnt; i++)
		p->blk.length += p->iov[i].iov_len;
	send_piece(p);
}

/* --- first writes end in a transaction --------------------------------------------------------------------- */

static uint32_t grains_of(const struct piece *p, unsigned i)
{
	unsigned from, end;
	uint32_t state = 0;

	piece_grains(p, i, &from, &end);
	for (unsigned g = from; g < end; g++)
		state |= (uint32_t)CFS_GRAIN_BLOCK << (2 * g);
	return state;
}

static void log_first(struct cfs_txn *txn, struct piece *p, const struct cfs_sums *sums)
{
	struct thin *thin = p->thin;

	if (p->new_vbn)
		cfs_units_use(txn, p->new_vbn, p->entries);
	for (unsigned i = 0; i < p->entries; i++) {
		struct cfs_entry e;

		leaf_entry(p->leaf, p->slot + i, &e);
		if (p->new_vbn)
			e.block = p->new_vbn + (uint64_t)i * CFS_UNIT_BLOCKS;
		e.birth = cfs_map_generation(thin->map);
		e.state |= grains_of(p, i); /* those grains were zero: 00 */
		cfs_map_set(txn, thin->map, p->leaf->buf, p->slot + i, &e);
		cfs_fresh_add(txn, &thin->way[p->extent]->carrier, p->power, p->leaf->buf,
			      p->slot + i, e.block, grains_of(p, i), sums ? &sums[i] : NULL);
	}
}

static void unbusy(struct piece *p)
{
	for (unsigned i = 0; i < p->entries; i++)
		bitmap_put(p->leaf->busy, p->slot + i, false);
}

static void first_end(struct piece *p, int res)
{
	struct thin *thin = p->thin;
	struct leaf *leaf = p->leaf;

	/*
	 * A write that failed and may still land keeps its units out of everybody's reach until the
	 * volume is mounted anew: nothing names them, but somebody else's data must not go there.
	 */
	if (res < 0 && p->new_vbn && !p->blk.maybe_done)
		cfs_stock_return(thin->stock, p->new_vbn, p->entries);
	unbusy(p);
	leaf_use(leaf);
	piece_end(p, res);
	thin_wake(&leaf->waiters);
	leaf_unuse(thin, leaf);
}

void thin_ask_room(struct thin *thin)
{
	if (thin->room_waiting)
		return;
	thin->room_waiting = true;
	cfs_journal_when_room(thin->fs, thin->disk.loop, &thin->room_work);
}

static void first_log(struct piece *p)
{
	cleanup_free struct cfs_sums *sums = NULL;
	struct cfs_txn txn;

	if (cfs_fresh_matters(p->thin->fs, p->extent))
		sums = piece_sums(p);
	if (cfs_txn_begin(p->thin->fs, &txn) < 0) {
		if (p->thin->closed) { /* perhaps there never will be room: this life may be over */
			first_end(p, -ESTALE);
			return;
		}
		list_add_tail(&p->thin->no_room, &p->link);
		thin_ask_room(p->thin);
		return;
	}
	log_first(&txn, p, sums);
	cfs_txn_end(&txn);
	first_end(p, 0);
}

void thin_room(struct loop_work *work)
{
	struct thin *thin = container_of(work, struct thin, room_work);
	struct list now;

	thin->room_waiting = false;
	list_init(&now);
	list_splice_tail(&now, &thin->no_room);
	while (!list_empty(&now)) {
		struct piece *p = list_first(&now, struct piece, link);

		list_del(&p->link);
		first_log(p);
	}
	thin_wake(&thin->zero_room);
	thin_idle(thin);
}

/* --- answers ---------------------------------------------------------------------------------------------------- */

void thin_set_full(struct thin *thin, enum thin_full what, bool full)
{
	unsigned before = thin->full;

	thin->full = full ? before | what : before & ~(unsigned)what;
	if (!before != !thin->full && thin->disk.full)
		thin->disk.full(&thin->disk, full);
}

/* A write without an answer: until the flight time is over nobody may come to own, or use, its place. */
static bool may_land(const struct piece *p)
{
	return p->blk.op != BLK_READ && p->blk.maybe_done;
}

/*
 * What is not the guest's to know is tried again: INV-BLK-1, a write that may have been executed only
 * when the flight time is over, so that its first copy cannot land after whatever follows.
 */
static bool try_again(struct piece *p, int res)
{
	struct thin *thin = p->thin;
	uint64_t wait_ns = THIN_RETRY_MS * NS_PER_MS;

	if (thin_gone(p->req) && !may_land(p))
		return false;
	switch (-res) {
	case ESTALE:
		break;
	case ENOSPC:
		if (!thin_gone(p->req)) { /* else nobody is to be paused for it */
			p->lun_full = true;
			thin_set_full(thin, THIN_FULL_LUN, true);
		}
		wait_ns = NS_PER_S;
		break;
	case ENOTCONN:
	case ETIMEDOUT:
	case ECONNRESET:
	case EBADE:
		if (may_land(p))
			wait_ns = thin->flight_ns;
		break;
	default:
		return false;
	}
	stall(p, wait_ns);
	return true;
}

static void piece_done(struct blk_req *blk, int res)
{
	struct piece *p = container_of(blk, struct piece, blk);

	if (res < 0 && try_again(p, res))
		return;
	if (p->lun_full) /* others, that overwrite, prove nothing */
		thin_set_full(p->thin, THIN_FULL_LUN, false);
	if (res < 0) {
		log_warn("vfs", "%s: %s at %llu of its LUN: %s", p->thin->disk.info.name,
			 blk->op == BLK_READ ? "read" : "write", (unsigned long long)blk->offset,
			 strerror(-res));
		res = -EIO;
	} else if (blk->op == BLK_WRITE && (p->req->flags & VFS_FUA)) {
		unflushed_wrote_fua(p->thin->unflushed, p->extent);
	} else if (blk->op == BLK_WRITE) {
		unflushed_wrote(p->thin->unflushed, p->extent);
	}
	if (blk->op == BLK_READ && doubtful(p, p->thin->way[p->extent])) {
		walk_anew(p);
	} else if (p->kind == PIECE_PLAIN) {
		if (blk->op == BLK_WRITE && res >= 0 && cfs_fresh_leaf(p->thin->fs, p->leaf->buf))
			piece_tell_again(p);
		piece_end(p, res);
	} else if (res < 0) {
		first_end(p, res);
	} else {
		first_log(p);
	}
}

static void give_up(struct piece *p)
{
	p->blk.maybe_done = false; /* its time is over */
	if (p->kind == PIECE_PLAIN)
		piece_end(p, -ESTALE);
	else
		first_end(p, -ESTALE);
}

void thin_retry_stalled(struct loop_timer *timer)
{
	struct thin *thin = container_of(timer, struct thin, retry);
	uint64_t now = clock_boot_ns();
	struct list again, flushes, later;
	struct piece *p, *tmp;

	list_init(&again);
	list_init(&flushes);
	list_init(&later);
	list_for_each_safe (p, tmp, &thin->stalled, link) {
		if (p->not_before_ns <= now) {
			list_del(&p->link);
			list_add_tail(&again, &p->link);
		}
	}
	list_splice_tail(&flushes, &thin->flushes);
	thin_settle(thin);
	if (thin->later_ns <= now)
		list_splice_tail(&later, &thin->later);
	if (!list_empty(&thin->stalled) || !list_empty(&thin->later))
		loop_timer_arm(thin->disk.loop, timer, now + THIN_RETRY_MS * NS_PER_MS);
	while (!list_empty(&again)) {
		p = list_first(&again, struct piece, link);
		list_del(&p->link);
		if (thin_gone(p->req)) {
			give_up(p);
			continue;
		}
		send_piece(p);
	}
	while (!list_empty(&flushes)) {
		struct thin_req *t = list_first(&flushes, struct thin_req, wait);

		list_del(&t->wait);
		t->res = 0;
		thin_commit(req_of(t));
	}
	thin_wake(&later);
}

void thin_give_up_stalled(struct thin *thin)
{
	struct list pieces, requests, flushes;

	list_init(&pieces);
	list_init(&requests);
	list_splice_tail(&pieces, &thin->stalled);
	list_init(&flushes);
	list_splice_tail(&flushes, &thin->flushes);
	list_splice_tail(&requests, &thin->no_space);
	list_splice_tail(&requests, &thin->later);
	list_splice_tail(&requests, &thin->unsure);
	while (!list_empty(&pieces)) {
		struct piece *p = list_first(&pieces, struct piece, link);

		list_del(&p->link);
		if (may_land(p)) /* the timer that is armed ends it when its time has come */
			list_add_tail(&thin->stalled, &p->link);
		else
			give_up(p);
	}
	while (!list_empty(&requests)) {
		struct thin_req *t = list_first(&requests, struct thin_req, wait);

		list_del(&t->wait);
		thin_part_done(req_of(t), -ESTALE);
	}
	while (!list_empty(&flushes)) {
		struct thin_req *t = list_first(&flushes, struct thin_req, wait);

		list_del(&t->wait);
		thin_answer(req_of(t), -ESTALE);
	}
}

/* --- space -------------------------------------------------------------------------------------------------------- */

void thin_no_space(struct thin *thin, struct vfs_req *req)
{
	if (thin_gone(req)) { /* it will not be called again */
		thin_req(req)->res = -ESTALE;
		thin_part_done(req, -ESTALE);
		return;
	}
	thin_wait(&thin->no_space, req);
	if (thin->space_waiting)
		return;
	thin->space_waiting = true;
	cfs_stock_when_ready(thin->stock, thin->disk.loop, &thin->space_work);
}

void thin_walk_later(struct thin *thin, struct vfs_req *req, int error)
{
	if (thin_gone(req)) {
		thin_part_done(req, -ESTALE);
		return;
	}
	if (error == -ENOSPC)
		thin_set_full(thin, THIN_FULL_MAP, true);
	thin->later_ns = clock_boot_ns() +
			 (error == -ENOSPC ? THIN_LATER_MS : THIN_RETRY_MS) * NS_PER_MS;
	thin_wait(&thin->later, req);
	if (!thin->retry.armed)
		loop_timer_arm(thin->disk.loop, &thin->retry,
			       clock_boot_ns() + THIN_RETRY_MS * NS_PER_MS);
}

void thin_space(struct loop_work *work)
{
	struct thin *thin = container_of(work, struct thin, space_work);

	thin->space_waiting = false;
	if (thin->closed) {
		thin_give_up_stalled(thin);
		thin_idle(thin);
		return;
	}
	if (list_empty(&thin->no_space)) { /* given up meanwhile */
		thin_set_full(thin, THIN_FULL_UNITS, false);
		return;
	}
	if (cfs_stock_full(thin->stock)) {
		/* The guest is paused; asked again until there is some. */
		thin_set_full(thin, THIN_FULL_UNITS, true);
		thin->space_waiting = true;
		cfs_stock_when_ready(thin->stock, thin->disk.loop, &thin->space_work);
		return;
	}
	thin_set_full(thin, THIN_FULL_UNITS, false);
	thin_wake(&thin->no_space);
}

/* --- steps ----------------------------------------------------------------------------------------------------------- */

struct place {		  /* where a request stands */
	uint64_t index;	  /* leaf */
	unsigned slot;	  /* entry in it */
	uint64_t in_unit; /* bytes */
	uint64_t left;	  /* bytes of the request */
};

static struct place place_of(struct vfs_req *req)
{
	struct thin_req *t = thin_req(req);
	uint64_t unit = t->at / CFS_UNIT;

	return (struct place){unit / CFS_LEAF_ENTRIES, (unsigned)(unit % CFS_LEAF_ENTRIES),
			      t->at % CFS_UNIT, req->offset + req->length - t->at};
}

static int check_entry(struct thin *thin, const struct cfs_entry *e)
{
	if ((!e->block || (cfs_vbn_valid(thin->fs, e->block) && e->block % CFS_UNIT_BLOCKS == 0)) &&
	    (!e->below || (cfs_vbn_valid(thin->fs, e->below) && e->below % CFS_UNIT_BLOCKS == 0)))
		return 0;
	log_error("vfs", "%s: its map names blocks outside of the volume; run volume check",
		  thin->disk.info.name);
	return -EIO;
}

/*
 * How many bytes from `p` on are in state `want` and lie together on the LUN. Bounded by the request, the leaf
 * and THIN_RUN_BYTES.
 */
static uint64_t run_length(struct thin *thin, const struct leaf *leaf, const struct place *p,
			   enum cfs_grain want)
{
	uint64_t max = MIN(p->left, THIN_RUN_BYTES), n = 0, in_unit = p->in_unit, expect = 0;

	for (unsigned slot = p->slot; slot < CFS_LEAF_ENTRIES && n < max; slot++) {
		struct cfs_entry e;
		uint64_t vbn;

		leaf_entry(leaf, slot, &e);
		vbn = want == CFS_GRAIN_BELOW ? e.below : e.block;
		if (slot > p->slot && want != CFS_GRAIN_ZERO &&
		    (vbn != expect || check_entry(thin, &e) < 0))
			break;
		expect = vbn + CFS_UNIT_BLOCKS;
		while (in_unit < CFS_UNIT && n < max &&
		       cfs_entry_grain(&e, (unsigned)(in_unit / THIN_GRAIN)) == want) {
			uint64_t step = THIN_GRAIN - in_unit % THIN_GRAIN;

			in_unit += step;
			n += step;
		}
		if (in_unit < CFS_UNIT)
			break;
		in_unit = 0;
	}
	return MIN(n, max);
}

/* What lies at a request's position, and how far that goes. */
struct run {
	struct place p;
	struct leaf *leaf;
	struct cfs_entry e;
	enum cfs_grain state;
	uint64_t bytes;
};

/* STEP_MORE with leaf->buf NULL: nothing is mapped in the whole leaf; only a write makes one. */
static int look(struct vfs_req *req, struct run *r)
{
	struct thin *thin = thin_req(req)->thin;
	int rc;

	r->p = place_of(req);
	rc = leaf_get(thin, r->p.index, req->op == VFS_WRITE, req, &r->leaf);
	if (rc != STEP_MORE || !r->leaf->buf)
		return rc;
	leaf_entry(r->leaf, r->p.slot, &r->e);
	if (check_entry(thin, &r->e) < 0)
		return -EIO;
	r->state = cfs_entry_grain(&r->e, (unsigned)(r->p.in_unit / THIN_GRAIN));
	r->bytes = run_length(thin, r->leaf, &r->p, r->state);
	return STEP_MORE;
}

static void submit_plain(struct vfs_req *req, const struct run *r, uint64_t vbn)
{
	struct thin *thin = thin_req(req)->thin;
	struct piece *piece = piece_new(thin, req, r->leaf);
	uint64_t bytes;

	piece->kind = PIECE_PLAIN;
	/* More buffers than it has room for end it early: it has to do with the entries it reaches alone. */
	bytes = take_iov(req, piece, r->bytes, (int)THIN_PIECE_IOV);
	piece_aim(piece, req->op == VFS_READ ? BLK_READ : BLK_WRITE, vbn, r->p.in_unit, r->p.slot,
		  (unsigned)DIV_ROUND_UP(r->p.in_unit + bytes, CFS_UNIT));
	piece_submit(piece);
}

int thin_step_read(struct vfs_req *req)
{
	struct thin_req *t = thin_req(req);
	struct run r;
	uint64_t vbn;
	int rc = look(req, &r);

	if (rc != STEP_MORE)
		return rc;
	if (!r.leaf->buf) {
		uint64_t rest = (uint64_t)(CFS_LEAF_ENTRIES - r.p.slot) * CFS_UNIT - r.p.in_unit;

		fill_zero(req, MIN(r.p.left, rest));
		return STEP_MORE;
	}
	switch (r.state) {
	case CFS_GRAIN_ZERO:
		fill_zero(req, r.bytes);
		return STEP_MORE;
	case CFS_GRAIN_BLOCK:
	case CFS_GRAIN_BELOW:
		vbn = r.state == CFS_GRAIN_BLOCK ? r.e.block : r.e.below;
		if (!vbn)
			break;
		submit_plain(req, &r, vbn);
		return STEP_MORE;
	}
	log_error("vfs", "%s: its map is damaged at %llu; run volume check",
		  t->thin->disk.info.name, (unsigned long long)t->at);
	return -EIO;
}

/* Entries from `slot` on that have no unit yet, are free of others' changes, and are asked for. */
static unsigned fresh_run(const struct leaf *leaf, const struct place *p)
{
	uint64_t units = DIV_ROUND_UP(MIN(p->in_unit + p->left, THIN_RUN_BYTES), CFS_UNIT);
	unsigned n = 0;

	while (n < units && p->slot + n < CFS_LEAF_ENTRIES) {
		struct cfs_entry e;

		leaf_entry(leaf, p->slot + n, &e);
		if (e.block || e.below || bitmap_get(leaf->busy, p->slot + n))
			break;
		n++;
	}
	return n;
}

/* A first write of [position, +bytes) into `entries` entries, whose unit(s) begin at `vbn`. */
static void submit_first(struct vfs_req *req, struct leaf *leaf, const struct place *p,
			 uint64_t vbn, bool fresh, uint64_t bytes, unsigned entries)
{
	struct thin *thin = thin_req(req)->thin;
	struct piece *piece = piece_new(thin, req, leaf);
	uint64_t at = thin_req(req)->at, end;
	size_t head = at % THIN_GRAIN;

	piece->kind = PIECE_FIRST;
	piece->new_vbn = fresh ? vbn : 0;
	add_zeroes(piece, head);
	/* Room is kept for the zeroes before and behind. */
	bytes = take_iov(req, piece, bytes, (int)THIN_PIECE_IOV - 2);
	end = at + bytes;
	add_zeroes(piece, (size_t)(ROUND_UP(end, THIN_GRAIN) - end));
	piece->grain = at / THIN_GRAIN;
	piece->grains = DIV_ROUND_UP(end, THIN_GRAIN) - piece->grain;
	if (fresh) { /* fewer iovecs than bytes: units that are not reached go back */
		unsigned reached = (unsigned)(DIV_ROUND_UP(p->in_unit + bytes, CFS_UNIT));

		if (reached < entries)
			cfs_stock_return(thin->stock, vbn + (uint64_t)reached * CFS_UNIT_BLOCKS,
					 entries - reached);
		entries = reached;
	}
	piece_aim(piece, BLK_WRITE, vbn, p->in_unit - head, p->slot, entries);
	for (unsigned i = 0; i < entries; i++)
		bitmap_put(leaf->busy, p->slot + i, true);
	piece_submit(piece);
}

static uint64_t neighbour(const struct leaf *leaf, unsigned slot)
{
	struct cfs_entry e;

	if (slot == 0)
		return 0;
	leaf_entry(leaf, slot - 1, &e);
	return e.block ? e.block + CFS_UNIT_BLOCKS : 0;
}

static int write_fresh(struct vfs_req *req, struct leaf *leaf, const struct place *p)
{
	struct thin *thin = thin_req(req)->thin;
	unsigned want = fresh_run(leaf, p);
	uint64_t vbn;
	uint32_t got = cfs_stock_take(thin->stock, neighbour(leaf, p->slot), want, &vbn);

	if (got == 0) {
		thin_no_space(thin, req);
		return STEP_WAIT;
	}
	submit_first(req, leaf, p, vbn, true, MIN(p->left, (uint64_t)got * CFS_UNIT - p->in_unit),
		     got);
	return STEP_MORE;
}

int thin_step_write(struct vfs_req *req)
{
	struct run r;
	int rc = look(req, &r);

	if (rc != STEP_MORE)
		return rc;
	if (r.state == CFS_GRAIN_BLOCK && r.e.block) {
		submit_plain(req, &r, r.e.block);
		return STEP_MORE;
	}
	if (bitmap_get(r.leaf->busy, r.p.slot)) { /* one structural change of an entry at a time */
		thin_wait(&r.leaf->waiters, req);
		return STEP_WAIT;
	}
	if (r.state == CFS_GRAIN_ZERO && !r.e.block && !r.e.below)
		return write_fresh(req, r.leaf, &r.p);
	if (r.state == CFS_GRAIN_ZERO && r.e.block) {
		submit_first(req, r.leaf, &r.p, r.e.block, false,
			     MIN(r.bytes, CFS_UNIT - r.p.in_unit), 1);
		return STEP_MORE;
	}
	log_error("vfs", "%s: its map has snapshots, which this release cannot write over",
		  thin_req(req)->thin->disk.info.name);
	return -EIO;
}

void thin_write_zeroes(struct vfs_req *req, struct leaf *leaf, unsigned slot, uint64_t vbn,
		       size_t bytes)
{
	struct thin_req *t = thin_req(req);
	struct piece *piece = piece_new(t->thin, req, leaf);

	MUST(bytes <= THIN_GRAIN);
	piece->kind = PIECE_PLAIN;
	add_zeroes(piece, bytes);
	piece_aim(piece, BLK_WRITE, vbn, t->at % CFS_UNIT, slot, 1);
	thin_skip(req, bytes);
	piece_submit(piece);
}
