// SPDX-License-Identifier: Apache-2.0
/*
 * fileio.c: blocking reads and writes of any alignment through a file's map, for import, export and
 * small files. A write goes chunk by chunk: plan the units it touches (taking new ones from the
 * stock), complete partial grains, write the data, then log the map and the size in one transaction
 * (INV-FS-2: a record is never durable before its data; fresh.h). All data passes an aligned buffer.
 *
 * Small files lie in their inode until they outgrow it; `inline_bytes` decides, so a crash between
 * making the map and moving the content leaves the content where it was.
 */
#include "clusterfs/fileio.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "clusterfs/fresh.h"
#include "clusterfs/group.h"

#define GRAINS	    16u
#define CHUNK_UNITS (CFS_CHUNK / CFS_UNIT + 1)
#define UNIT_IMAGES 8u /* header, bitmap, reclaim bitmap, leaf, inode; its last changes; patches */

static uint8_t *bounce(struct cfs_file *file)
{
	if (!file->bounce)
		file->bounce = xaligned(CFS_BLOCK, CFS_CHUNK + 2 * CFS_UNIT);
	return file->bounce;
}

/* --- reading ------------------------------------------------------------------------------------- */

/* Where a grain of an entry lies: 0 is a hole. */
static uint64_t grain_vbn(const struct cfs_entry *e, unsigned grain)
{
	switch (cfs_entry_grain(e, grain)) {
	case CFS_GRAIN_BLOCK:
		return e->block + grain;
	case CFS_GRAIN_BELOW:
		return e->below + grain;
	case CFS_GRAIN_ZERO:
		break;
	}
	return 0;
}

static int check_entry(struct cfs_file *file, const struct cfs_entry *e)
{
	struct cfs *fs = file->fs;

	if ((!e->block || (e->block % CFS_UNIT_BLOCKS == 0 && cfs_vbn_valid(fs, e->block))) &&
	    (!e->below || (e->below % CFS_UNIT_BLOCKS == 0 && cfs_vbn_valid(fs, e->below))) &&
	    !(e->flags & CFS_ENTRY_REPOSITORY))
		return 0;
	return fail(-EUCLEAN,
		    "%s:%.200s: its map names a block outside of the volume; run volume check",
		    fs->name, file->path);
}

/* The run in one leaf; `first` is the leaf's first byte in the file. */
static int run_in_leaf(struct cfs_file *file, const struct cfs_buf *leaf, uint64_t in_leaf,
		       uint64_t length, struct cfs_run *run)
{
	uint64_t grain = in_leaf / CFS_BLOCK, end = DIV_ROUND_UP(in_leaf + length, CFS_BLOCK);
	uint64_t start = grain;
	struct cfs_entry e = {0};
	unsigned at = UINT32_MAX;

	run->skip = (unsigned)(in_leaf % CFS_BLOCK);
	for (; grain < end; grain++) {
		uint64_t vbn;

		if (grain / GRAINS != at) {
			int rc;

			at = (unsigned)(grain / GRAINS);
			cfs_leaf_entry(leaf, at, &e);
			rc = check_entry(file, &e);
			if (rc < 0)
				return rc;
		}
		vbn = grain_vbn(&e, grain % GRAINS);
		if (grain == start)
			run->vbn = vbn;
		else if (run->vbn ? vbn != run->vbn + (grain - start) : vbn != 0)
			break;
	}
	run->length = MIN(length, grain * CFS_BLOCK - in_leaf);
	return 0;
}

int cfs_file_run(struct cfs_file *file, uint64_t offset, uint64_t length, struct cfs_run *run)
{
	uint64_t index = offset / CFS_LEAF_BYTES, in_leaf = offset % CFS_LEAF_BYTES;
	struct cfs_buf *leaf;
	int rc = cfs_map_leaf(&file->map, index, false, &leaf);

	if (rc < 0)
		return rc;
	length = MIN(length, CFS_LEAF_BYTES - in_leaf);
	*run = (struct cfs_run){.length = length};
	if (!leaf)
		return 0;
	rc = run_in_leaf(file, leaf, in_leaf, length, run);
	cfs_buf_put(file->fs, leaf);
	return rc;
}

static struct cfs_carrier *carrier_of(struct cfs *fs, uint64_t vbn)
{
	return cfs_carrier_service(fs, cfs_vbn_extent(vbn));
}

/* What the map named is what was read, if this is the same before and after. */
static uint64_t losses_of(const struct cfs *fs)
{
	return cfs_power(fs) + cfs_fresh_undone(fs);
}

/*
 * -EAGAIN: what was read may be a stranger's, in the place of data that are lost; the map has changed, or it did
 * since `losses`: a read that failed with a lost session goes over the next one.
 */
static int read_run(struct cfs_file *file, uint8_t *dst, const struct cfs_run *run, uint64_t losses)
{
	uint64_t span = ROUND_UP(run->skip + run->length, CFS_BLOCK);
	uint8_t *buf = xaligned(CFS_BLOCK, span);
	int rc = cfs_read(file->fs, run->vbn, buf, span);

	if (rc == 0 && cfs_carrier_suspect(carrier_of(file->fs, run->vbn))) {
		rc = cfs_commit_wait(file->fs);
		rc = rc < 0 ? rc : -EAGAIN;
	}
	if (rc == 0 && losses != losses_of(file->fs))
		rc = -EAGAIN;
	if (rc == 0)
		memcpy(dst, buf + run->skip, run->length);
	free(buf);
	return rc;
}

/* Reads [offset, offset+n) of the map, n <= CFS_CHUNK, whatever the size says. */
static int read_map(struct cfs_file *file, uint8_t *dst, uint64_t n, uint64_t offset)
{
	while (n) {
		uint64_t losses = losses_of(file->fs);
		struct cfs_run run;
		int rc = cfs_file_run(file, offset, n, &run);

		if (rc < 0)
			return rc;
		if (run.vbn) {
			rc = read_run(file, dst, &run, losses);
			if (rc == -EAGAIN)
				continue;
			if (rc < 0)
				return rc;
		} else {
			memset(dst, 0, run.length);
		}
		dst += run.length;
		offset += run.length;
		n -= run.length;
	}
	return 0;
}

static void read_inline(const struct cfs_inode_block *ino, uint8_t *dst, size_t n, uint64_t offset)
{
	unsigned inl = le16_get(ino->inline_bytes);
	size_t have = offset < inl ? MIN(n, inl - offset) : 0;

	if (have)
		memcpy(dst, ino->inline_data + offset, have);
	memset(dst + have, 0, n - have);
}

int64_t cfs_pread(struct cfs_file *file, void *dst, size_t n, uint64_t offset)
{
	const struct cfs_inode_block *ino = cfs_file_inode(file);
	uint64_t size;
	size_t done = 0;
	int rc = 0;

	pthread_mutex_lock(&file->io);
	size = le64_get(ino->size);
	if (offset >= size)
		n = 0;
	n = (size_t)MIN((uint64_t)n, size - MIN(offset, size));
	if (le16_get(ino->inline_bytes)) {
		read_inline(ino, dst, n, offset);
		done = n;
	}
	while (rc == 0 && done < n) {
		size_t k = MIN(n - done, CFS_CHUNK);

		rc = read_map(file, (uint8_t *)dst + done, k, offset + done);
		if (rc == 0)
			done += k;
	}
	pthread_mutex_unlock(&file->io);
	return rc < 0 ? rc : (int64_t)done;
}

/* --- writing -------------------------------------------------------------------------------------- */

struct unit {			/* one unit that a chunk touches */
	struct cfs_entry entry; /* as it will be */
	unsigned slot;		/* in the leaf */
	unsigned from, to;	/* grains to be written: [from, to) */
	bool fresh;		/* taken from the stock now */
	bool changed;		/* the entry must be logged */
	uint32_t grains;	/* the state of those in [from, to) */
	uint32_t again;		/* of these, what is there: written over in place */
	uint64_t power;		/* of the session, before they were written */
};

struct chunk {
	struct cfs_file *file;
	struct cfs_buf *leaf;
	uint64_t start; /* first byte of the first grain, in the file */
	uint64_t bytes; /* whole grains */
	unsigned units;
	struct unit unit[CHUNK_UNITS];
	uint8_t *data; /* `bytes` */
};

static void return_units(struct chunk *c)
{
	for (unsigned i = 0; i < c->units; i++) {
		if (c->unit[i].fresh)
			cfs_stock_return(c->file->map.stock, c->unit[i].entry.block, 1);
	}
}

static int take_unit(struct chunk *c, uint64_t near, uint64_t *vbn)
{
	struct cfs_stock *stock = c->file->map.stock;

	while (cfs_stock_take(stock, near, 1, vbn) == 0) {
		int rc = cfs_stock_fill(stock, 1);

		if (rc < 0)
			return rc;
	}
	return 0;
}

/*
 * A unit that the head owns is written in place. Else a new one is taken; what a frozen one holds is
 * brought along whole: simpler than a layer below, and this is not the data path.
 */
static int plan_unit(struct chunk *c, struct unit *u, uint64_t near)
{
	uint32_t generation = c->file->map.generation, state;
	int rc;

	cfs_leaf_entry(c->leaf, u->slot, &u->entry);
	rc = check_entry(c->file, &u->entry);
	if (rc < 0)
		return rc;
	state = u->entry.state;
	if (!u->entry.block || u->entry.birth != generation) {
		uint64_t vbn;

		rc = take_unit(c, near, &vbn);
		if (rc < 0)
			return rc;
		u->fresh = true;
		if (state) { /* frozen content */
			u->from = 0;
			u->to = GRAINS;
		}
		u->entry = (struct cfs_entry){.block = vbn, .birth = generation};
	}
	for (unsigned g = u->from; g < u->to; g++)
		u->grains |= (uint32_t)CFS_GRAIN_BLOCK << (2 * g);
	if (!u->fresh)
		u->again = u->grains & state;
	u->entry.state = (u->entry.state & ~(u->grains | u->grains << 1)) | u->grains;
	u->changed = u->fresh || u->entry.state != state;
	u->power = blk_power_count(c->file->fs->extent[cfs_vbn_extent(u->entry.block)]);
	return 0;
}

/* Which units and grains [offset, offset+n) touches; frozen units widen the ends. */
static int plan_chunk(struct chunk *c, uint64_t offset, uint64_t n)
{
	uint64_t grain = offset / CFS_BLOCK, end = DIV_ROUND_UP(offset + n, CFS_BLOCK), near = 0;
	struct unit *u;

	while (grain < end) {
		int rc;

		u = &c->unit[c->units];
		*u = (struct unit){.slot = (unsigned)(grain / GRAINS % CFS_LEAF_ENTRIES),
				   .from = (unsigned)(grain % GRAINS)};
		u->to = (unsigned)MIN((uint64_t)GRAINS, u->from + (end - grain));
		grain += u->to - u->from;
		rc = plan_unit(c, u, near);
		if (rc < 0)
			return rc;
		c->units++;
		near = u->entry.block + CFS_UNIT_BLOCKS;
	}
	u = &c->unit[0];
	c->start = ROUND_DOWN(offset, CFS_UNIT) + u->from * CFS_BLOCK;
	u = &c->unit[c->units - 1];
	c->bytes = ROUND_DOWN(offset + n - 1, CFS_UNIT) + u->to * CFS_BLOCK - c->start;
	return 0;
}

/* The chunk's data: what is there already where the write does not cover a grain, then the write. */
static int fill_chunk(struct chunk *c, const uint8_t *src, uint64_t n, uint64_t offset)
{
	uint64_t head = offset - c->start, tail = c->start + c->bytes - (offset + n);
	int rc = 0;

	c->data = bounce(c->file);
	if (head)
		rc = read_map(c->file, c->data, ROUND_UP(head, CFS_BLOCK), c->start);
	if (rc == 0 && tail) {
		uint64_t from = ROUND_DOWN(head + n, CFS_BLOCK);

		rc = read_map(c->file, c->data + from, c->bytes - from, c->start + from);
	}
	memcpy(c->data + head, src, n);
	return rc;
}

static void sums_of(const struct unit *u, const uint8_t *data, struct cfs_sums *out)
{
	cfs_sums_init(out);
	for (unsigned s = u->from * CFS_GRAIN_SECTORS; s < u->to * CFS_GRAIN_SECTORS;
	     s++, data += CFS_SECTOR)
		cfs_sums_add(out, s, data);
}

/*
 * A commit that reads first writes back is to know them again, though they are written over: in part, or whole. Told
 * before that is done, so that it does, whenever it looks.
 */
static void tell_again(struct chunk *c)
{
	struct cfs *fs = c->file->fs;
	const uint8_t *data = c->data;
	struct cfs_sums sums;

	if (!cfs_fresh_leaf(fs, c->leaf))
		return;
	for (unsigned i = 0; i < c->units; i++) {
		const struct unit *u = &c->unit[i];
		unsigned extent = cfs_vbn_extent(u->entry.block);

		if (u->again && cfs_fresh_matters(fs, extent)) {
			sums_of(u, data, &sums);
			cfs_fresh_again(fs, extent, u->entry.block, &sums);
		}
		data += (size_t)(u->to - u->from) * CFS_BLOCK;
	}
}

/* One write for each run of grains that lie together. */
static int write_data(struct chunk *c)
{
	uint64_t at = 0;

	for (unsigned i = 0; i < c->units;) {
		uint64_t vbn = c->unit[i].entry.block + c->unit[i].from;
		uint64_t grains = c->unit[i].to - c->unit[i].from;
		int rc;

		while (++i < c->units && c->unit[i].entry.block + c->unit[i].from == vbn + grains)
			grains += c->unit[i].to - c->unit[i].from;
		rc = cfs_write_data(c->file->fs, &c->file->unflushed, vbn, c->data + at,
				    grains * CFS_BLOCK);
		if (rc < 0)
			return rc;
		at += grains * CFS_BLOCK;
	}
	return 0;
}

static void touch(struct cfs_txn *txn, struct cfs_file *file, uint64_t end)
{
	struct cfs_inode_block *ino = cfs_file_inode(file);

	if (end > le64_get(ino->size)) {
		ino->size = le64_of(end);
		cfs_txn_patch(txn, file->map.inode_buf, &ino->size, sizeof(ino->size));
	}
	ino->modified = le64_of(clock_wall_ns());
	cfs_txn_patch(txn, file->map.inode_buf, &ino->modified, sizeof(ino->modified));
}

/* `data`: what was written. What a commit has undone since the entry was looked at stays undone. */
static void log_unit(struct cfs_txn *txn, struct chunk *c, struct unit *u, const uint8_t *data)
{
	struct cfs_map *map = &c->file->map;
	uint32_t made = u->grains;
	struct cfs_sums sums;

	if (!u->fresh) {
		cfs_leaf_entry(c->leaf, u->slot, &u->entry);
		made &= ~u->entry.state;
		u->entry.state = (u->entry.state & ~(u->grains | u->grains << 1)) | u->grains;
	}
	cfs_map_set(txn, map, c->leaf, u->slot, &u->entry);
	sums_of(u, data, &sums);
	cfs_fresh_add(txn, carrier_of(c->file->fs, u->entry.block), u->power, c->leaf, u->slot,
		      u->entry.block, made, &sums);
}

/* Logs the entries that changed, the size, and that the content is inline no more. */
static int log_chunk(struct chunk *c, uint64_t end, bool leave_inline)
{
	struct cfs_file *file = c->file;
	struct cfs_inode_block *ino = cfs_file_inode(file);
	bool any = leave_inline || end > le64_get(ino->size);
	const uint8_t *data = c->data;
	struct cfs_txn txn;
	int rc;

	for (unsigned i = 0; i < c->units; i++)
		any |= c->unit[i].changed;
	if (!any)
		return 0;
	rc = cfs_txn_begin_wait(file->fs, &txn);
	if (rc < 0)
		return rc;
	for (unsigned i = 0; i < c->units; i++) {
		struct unit *u = &c->unit[i];

		if (!cfs_txn_fits(&txn,
				  UNIT_IMAGES)) { /* units of many groups; each stands alone */
			cfs_txn_end(&txn);
			rc = cfs_txn_begin_wait(file->fs, &txn);
			if (rc < 0)
				return rc;
		}
		if (u->fresh)
			cfs_units_use(&txn, u->entry.block, 1);
		if (u->changed)
			log_unit(&txn, c, u, data);
		data += (size_t)(u->to - u->from) * CFS_BLOCK;
		u->fresh = false; /* the map's now */
	}
	if (leave_inline) {
		memset(ino->inline_data, 0, sizeof(ino->inline_data));
		ino->inline_bytes = le16_of(0);
		cfs_txn_patch(&txn, file->map.inode_buf, &ino->inline_bytes, 2);
		cfs_txn_patch(&txn, file->map.inode_buf, ino->inline_data,
			      sizeof(ino->inline_data));
	}
	touch(&txn, file, end);
	cfs_txn_end(&txn);
	return 0;
}

/* At most CFS_CHUNK bytes, all in one leaf. `end`: the size is at least that afterwards. */
static int write_chunk(struct cfs_file *file, const uint8_t *src, uint64_t n, uint64_t offset,
		       uint64_t end, bool leave_inline)
{
	struct chunk *c = xcalloc(1, sizeof(*c));
	int rc = cfs_map_leaf(&file->map, offset / CFS_LEAF_BYTES, true, &c->leaf);

	c->file = file;
	if (rc == 0) {
		rc = plan_chunk(c, offset, n);
		if (rc == 0)
			rc = fill_chunk(c, src, n, offset);
		if (rc == 0) {
			tell_again(c);
			rc = write_data(c);
			cfs_let_land(file->fs, rc); /* not upon who gets these units next */
		}
		if (rc == 0)
			rc = log_chunk(c, end, leave_inline);
		if (rc < 0)
			return_units(c);
		cfs_buf_put(file->fs, c->leaf);
	}
	free(c);
	return rc;
}

static int write_inline(struct cfs_file *file, const uint8_t *src, size_t n, uint64_t offset)
{
	struct cfs_inode_block *ino = cfs_file_inode(file);
	unsigned inl = le16_get(ino->inline_bytes);
	struct cfs_txn txn;
	int rc = cfs_txn_begin_wait(file->fs, &txn);

	if (rc < 0)
		return rc;
	memcpy(ino->inline_data + offset, src, n);
	cfs_txn_patch(&txn, file->map.inode_buf, ino->inline_data + offset, n);
	if (offset + n > inl) {
		ino->inline_bytes = le16_of((uint16_t)(offset + n));
		cfs_txn_patch(&txn, file->map.inode_buf, &ino->inline_bytes, 2);
	}
	touch(&txn, file, offset + n);
	cfs_txn_end(&txn);
	return 0;
}

/* Moves inline content into the map, size unchanged. */
static int leave_inline(struct cfs_file *file)
{
	struct cfs_inode_block *ino = cfs_file_inode(file);
	uint8_t old[CFS_INODE_INLINE];
	unsigned n = le16_get(ino->inline_bytes);

	memcpy(old, ino->inline_data, n);
	return write_chunk(file, old, n, 0, 0, true);
}

static int check_write(struct cfs_file *file, size_t n, uint64_t offset)
{
	const struct cfs_inode_block *ino = cfs_file_inode(file);
	uint64_t limit = ino->kind == CFS_KIND_DISK ? le64_get(ino->size) : CFS_MAX_VOLUME;
	int rc = cfs_file_writable(file);

	if (rc < 0)
		return rc;
	if (offset > limit || n > limit - offset)
		return fail(-EINVAL, "%s:%.200s: write behind its end", file->fs->name, file->path);
	return 0;
}

/* The first part of a write of `n` bytes: within one leaf and one buffer. */
static size_t chunk_bytes(size_t n, uint64_t offset)
{
	uint64_t in_leaf = CFS_LEAF_BYTES - offset % CFS_LEAF_BYTES;
	uint64_t in_chunk = CFS_CHUNK - offset % CFS_UNIT;

	return (size_t)MIN((uint64_t)n, MIN(in_leaf, in_chunk));
}

int64_t cfs_pwrite(struct cfs_file *file, const void *src, size_t n, uint64_t offset)
{
	struct cfs_inode_block *ino = cfs_file_inode(file);
	size_t done = 0;
	int rc;

	pthread_mutex_lock(&file->io);
	rc = check_write(file, n, offset);
	if (rc == 0 && n && ino->kind != CFS_KIND_DISK) {
		if (!le64_get(ino->root) && offset + n <= CFS_INODE_INLINE) {
			rc = write_inline(file, src, n, offset);
			done = n;
		} else if (le16_get(ino->inline_bytes)) {
			rc = leave_inline(file);
		}
	}
	while (rc == 0 && done < n) {
		size_t k = chunk_bytes(n - done, offset + done);
		uint64_t end = offset + done + k;

		rc = write_chunk(file, (const uint8_t *)src + done, k, offset + done, end, false);
		if (rc == 0)
			done += k;
	}
	pthread_mutex_unlock(&file->io);
	return rc < 0 ? rc : (int64_t)done;
}

int cfs_file_zero_tail(struct cfs_file *file, uint64_t size)
{
	uint64_t index = size / CFS_LEAF_BYTES, in_unit = size % CFS_UNIT;
	unsigned slot = (unsigned)(size / CFS_UNIT % CFS_LEAF_ENTRIES), grain, rest;
	static const uint8_t zeroes[CFS_BLOCK];
	struct cfs_buf *leaf;
	struct cfs_entry e;
	struct cfs_txn txn;
	int rc;

	if (!in_unit)
		return 0;
	rest = (unsigned)(in_unit % CFS_BLOCK);
	if (rest) {
		struct cfs_run run;

		rc = cfs_file_run(file, size, 1, &run);
		if (rc == 0 && run.vbn)
			rc = write_chunk(file, zeroes, CFS_BLOCK - rest, size, 0, false);
		if (rc < 0)
			return rc;
	}
	rc = cfs_map_leaf(&file->map, index, false, &leaf);
	if (rc < 0 || !leaf)
		return rc;
	rc = cfs_txn_begin_wait(file->fs, &txn);
	if (rc == 0) {
		cfs_entry_decode(&((struct cfs_map_leaf *)leaf->data)->entry[slot], &e);
		for (grain = (unsigned)DIV_ROUND_UP(in_unit, CFS_BLOCK); grain < GRAINS; grain++)
			e.state &= ~(3u << (2 * grain));
		cfs_map_set(&txn, &file->map, leaf, slot, &e);
		cfs_txn_end(&txn);
	}
	cfs_buf_put(file->fs, leaf);
	return rc;
}
