// SPDX-License-Identifier: Apache-2.0
/*
 * replay.c: the redo log of a life that ended.
 *
 * Two passes over the stream of whole batches. The first notes where locks were released and blocks
 * freed (as jbd's revoke): what lies before that, under that lock, is somebody else's by now. The second builds each
 * block: from the medium or an image, patches on top, only those whose sequence is newer than what the
 * medium holds. Then the blocks are written in place and flushed. Doing it twice does no harm.
 */
#include "clusterfs/journal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/checksum.h"
#include "base/err.h"
#include "base/log.h"

#define READ_CHUNK 64u /* journal blocks read at once */

/* --- reading batches ------------------------------------------------------------------------------------ */

struct reader {
	struct cfs *fs;
	unsigned slot;
	uint32_t epoch;
	uint64_t vbn;
	uint32_t blocks;
	uint8_t *chunk;
	uint64_t chunk_first; /* number of the first block in it */
	unsigned chunk_n;
};

static int get_block(struct reader *r, uint64_t number, const struct cfs_journal_block **out)
{
	uint64_t ring = r->blocks - 1, at = number % ring;

	if (number < r->chunk_first || number >= r->chunk_first + r->chunk_n) {
		int rc;

		r->chunk_n = (unsigned)MIN(READ_CHUNK, ring - at);
		r->chunk_first = number;
		rc = cfs_read(r->fs, r->vbn + 1 + at, r->chunk, r->chunk_n * CFS_BLOCK);
		if (rc < 0) {
			r->chunk_n = 0;
			return rc;
		}
	}
	*out = (const void *)(r->chunk + (number - r->chunk_first) * CFS_BLOCK);
	return 0;
}

/* Is this the block that has to come next? */
static bool is_next(const struct reader *r, const struct cfs_journal_block *b, uint64_t number,
		    uint64_t stream)
{
	uint64_t vbn = r->vbn + 1 + number % (r->blocks - 1);

	if (cfs_block_check(b, CFS_T_JOURNAL, r->fs->id, vbn) < 0) {
		err_clear();
		return false;
	}
	return le64_get(b->head.sequence) == number && le32_get(b->epoch) == r->epoch &&
	       le16_get(b->slot) == r->slot && le64_get(b->stream) == stream &&
	       le16_get(b->used) > 0 && le16_get(b->used) <= CFS_JOURNAL_PAYLOAD;
}

/* Appends whole batches to log->stream until the first block that is not the next one. */
static int read_batches(struct reader *r, struct cfs_log *log)
{
	uint64_t number = log->next_block, stream = log->start;
	size_t used = 0, size = 0;
	int rc;

	while (number - log->next_block < r->blocks) {
		const struct cfs_journal_block *b;
		uint16_t n;

		rc = get_block(r, number, &b);
		if (rc < 0)
			return rc;
		if (!is_next(r, b, number, stream))
			break;
		n = le16_get(b->used);
		if (used + n > size) {
			size = MAX(2 * size, used + n + 65536);
			log->stream = xrealloc(log->stream, size);
		}
		memcpy(log->stream + used, b->payload, n);
		used += n;
		stream += n;
		number++;
		if (le16_get(b->flags) & CFS_JOURNAL_END) {
			log->bytes = used;
			log->next_block = number;
		}
	}
	return 0;
}

int cfs_log_read(struct cfs *fs, unsigned slot, uint32_t epoch, uint64_t vbn, uint32_t blocks,
		 struct cfs_log *log)
{
	struct reader r = {.fs = fs, .slot = slot, .epoch = epoch, .vbn = vbn, .blocks = blocks};
	struct cfs_journal_head *h = xaligned(CFS_BLOCK, sizeof(*h));
	int rc;

	memset(log, 0, sizeof(*log));
	if (blocks < 16 || !cfs_vbn_valid(fs, vbn) || !cfs_vbn_valid(fs, vbn + blocks - 1) ||
	    cfs_vbn_extent(vbn) != cfs_vbn_extent(vbn + blocks - 1)) {
		free(h);
		return fail(-EUCLEAN, "slot %u: no journal can be at block %llu; run volume check",
			    slot, (unsigned long long)vbn);
	}
	rc = cfs_read(fs, vbn, h, sizeof(*h));
	if (rc == 0)
		rc = cfs_block_check(h, CFS_T_JOURNAL_HEAD, fs->id, vbn);
	if (rc == 0 && le16_get(h->slot) != slot)
		rc = fail(-EUCLEAN, "slot %u: its journal's head names slot %u; run volume check",
			  slot, le16_get(h->slot));
	if (rc < 0) {
		free(h);
		return rc;
	}
	log->start = le64_get(h->stream);
	log->next_block = le64_get(h->tail);
	if (le32_get(h->epoch) == epoch) { /* else that life never began to write */
		r.chunk = xaligned(CFS_BLOCK, READ_CHUNK * CFS_BLOCK);
		rc = read_batches(&r, log);
		free(r.chunk);
	}
	free(h);
	return rc;
}

/* --- walking records -------------------------------------------------------------------------------------- */

struct walk {
	const struct cfs_log *log;
	size_t at, end;	   /* in log->stream; end of the transaction */
	uint64_t sequence; /* of the transaction */
	uint64_t stream;   /* its position */
};

/* The next transaction's header; false at the end of what is whole. */
static bool next_txn(struct walk *w)
{
	struct cfs_txn_header h;
	uint32_t bytes;

	w->at = w->end;
	if (w->log->bytes - w->at < sizeof(h))
		return false;
	memcpy(&h, w->log->stream + w->at, sizeof(h));
	bytes = le32_get(h.bytes);
	if (le32_get(h.magic) != CFS_TXN_MAGIC || bytes < sizeof(h) || bytes % 8 ||
	    bytes > CFS_TXN_MAX_BYTES || bytes > w->log->bytes - w->at ||
	    le64_get(h.stream) != w->log->start + w->at ||
	    le64_get(h.checksum) != checksum64_with_hole(w->log->stream + w->at, bytes,
							 offsetof(struct cfs_txn_header, checksum)))
		return false;
	w->end = w->at + bytes;
	w->sequence = le64_get(h.sequence);
	w->stream = le64_get(h.stream);
	w->at += sizeof(h);
	return true;
}

/* The next record of the transaction, with its data; false at its end. */
static bool next_record(struct walk *w, struct cfs_record *r, const uint8_t **data)
{
	uint32_t bytes;

	if (w->end - w->at < sizeof(*r))
		return false;
	memcpy(r, w->log->stream + w->at, sizeof(*r));
	bytes = le32_get(r->bytes);
	if (bytes > CFS_BLOCK || ROUND_UP(bytes, 8u) > w->end - w->at - sizeof(*r) ||
	    le16_get(r->offset) + bytes > CFS_BLOCK)
		return false;
	*data = w->log->stream + w->at + sizeof(*r);
	w->at += sizeof(*r) + ROUND_UP(bytes, 8u);
	return true;
}

/* --- the two passes ------------------------------------------------------------------------------------------ */

struct node { /* of a hash table: blocks, and released locks */
	struct node *next;
	uint64_t vbn;
	uint64_t released; /* stream position of the last RELEASED */
	uint64_t base;	   /* sequence on the medium before replay */
	bool changed, have_base;
	bool missing; /* damaged, and no image of it was met yet */
	uint8_t *data;
};

#define TABLE 4096u
struct table {
	struct node *bucket[TABLE];
	size_t n;
};

static struct node *find(struct table *t, uint64_t vbn, bool create)
{
	struct node **head = &t->bucket[(vbn * 0x9e3779b97f4a7c15ULL) >> 52], *n;

	for (n = *head; n; n = n->next) {
		if (n->vbn == vbn)
			return n;
	}
	if (!create)
		return NULL;
	n = xcalloc(1, sizeof(*n));
	n->vbn = vbn;
	n->next = *head;
	*head = n;
	t->n++;
	return n;
}

static void table_free(struct table *t)
{
	for (unsigned i = 0; i < TABLE; i++) {
		while (t->bucket[i]) {
			struct node *n = t->bucket[i];

			t->bucket[i] = n->next;
			free(n->data);
			free(n);
		}
	}
	free(t);
}

/* What the medium holds: any valid metadata block of the volume counts, whatever its type was. */
static int load_base(struct cfs *fs, struct node *n)
{
	const struct cfs_head *h;
	int rc;

	if (n->data)
		return 0;
	n->data = xaligned(CFS_BLOCK, CFS_BLOCK);
	rc = cfs_read(fs, n->vbn, n->data, CFS_BLOCK);
	if (rc < 0)
		return rc;
	h = (const void *)n->data;
	n->have_base = cfs_block_check(n->data, (enum cfs_type)le16_get(h->type), fs->id, n->vbn) ==
		       0;
	n->base = n->have_base ? le64_get(h->sequence) : 0;
	err_clear();
	return 0;
}

static int apply_record(struct cfs *fs, struct node *n, const struct walk *w,
			const struct cfs_record *r, const uint8_t *data)
{
	uint32_t bytes = le32_get(r->bytes);
	struct cfs_head *h;
	int rc = load_base(fs, n);

	if (rc < 0)
		return rc;
	if (n->have_base && w->sequence <= n->base)
		return 0; /* the medium is as new or newer */
	h = (struct cfs_head *)n->data;
	if (le16_get(r->type) == CFS_R_IMAGE) {
		if (bytes < sizeof(*h))
			return fail(-EUCLEAN, "journal: an image of %u bytes; run volume check",
				    bytes);
		memset(n->data, 0, CFS_BLOCK);
		memcpy(n->data, data, bytes);
		n->missing = false;
	} else if (n->have_base || n->changed) {
		memcpy(n->data + le16_get(r->offset), data, bytes);
	} else {
		/* Torn, by a later checkpoint, and from before the image that follows (the tail lies
		 * in front of what the checkpoint before that one still saw). */
		n->missing = true;
		return 0;
	}
	h->sequence = le64_of(w->sequence);
	n->changed = true;
	return 0;
}

static void note_released(const struct cfs_log *log, struct table *t)
{
	struct walk w = {.log = log};
	struct cfs_record r;
	const uint8_t *data;

	while (next_txn(&w)) {
		while (next_record(&w, &r, &data)) {
			if (le16_get(r.type) == CFS_R_RELEASED || le16_get(r.type) == CFS_R_FREED)
				find(t, le64_get(r.vbn), true)->released = w.stream;
		}
	}
}

static int redo(struct cfs *fs, const struct cfs_log *log, const struct table *released,
		struct table *blocks)
{
	struct walk w = {.log = log};
	struct cfs_record r;
	const uint8_t *data;

	while (next_txn(&w)) {
		while (next_record(&w, &r, &data)) {
			uint64_t vbn = le64_get(r.vbn);
			struct node *gone;
			int rc;

			if (le16_get(r.type) != CFS_R_IMAGE && le16_get(r.type) != CFS_R_PATCH)
				continue;
			if (!cfs_vbn_valid(fs, vbn))
				return fail(-EUCLEAN,
					    "journal: it names block %llu, outside of the "
					    "volume; run volume check",
					    (unsigned long long)vbn);
			gone = find((struct table *)released, le64_get(r.owner), false);
			if (gone && gone->released > w.stream)
				continue;
			gone = find((struct table *)released, vbn, false);
			if (gone && gone->released > w.stream)
				continue;
			rc = apply_record(fs, find(blocks, vbn, true), &w, &r, data);
			if (rc < 0)
				return rc;
		}
	}
	if (w.end != log->bytes)
		log_warn("cfs", "journal: %zu bytes behind the last whole transaction are dropped",
			 log->bytes - w.end);
	return 0;
}

static int put_block(struct cfs *fs, struct node *n, cfs_apply_fn *apply, void *arg)
{
	enum cfs_type type = (enum cfs_type)le16_get(((struct cfs_head *)n->data)->type);

	/* The type stands in the image (cfs_buf_new); the rest of the head is made here. */
	if (type == 0 || type >= CFS_T_END)
		return fail(-EUCLEAN, "journal: block %llu has no type; run volume check",
			    (unsigned long long)n->vbn);
	cfs_block_seal(n->data, type, fs->id, n->vbn);
	if (apply)
		return apply(arg, n->vbn, n->data);
	return cfs_write(fs, n->vbn, n->data, CFS_BLOCK, 0);
}

int cfs_log_apply(struct cfs *fs, const struct cfs_log *log, cfs_apply_fn *apply, void *arg)
{
	struct table *released = xcalloc(1, sizeof(*released));
	struct table *blocks = xcalloc(1, sizeof(*blocks));
	uint64_t power = cfs_power(fs);
	unsigned written = 0;
	int rc;

	note_released(log, released);
	rc = redo(fs, log, released, blocks);
	for (unsigned i = 0; i < TABLE && rc == 0; i++) {
		for (struct node *n = blocks->bucket[i]; n && rc == 0; n = n->next) {
			if (n->missing)
				rc = fail(-EUCLEAN,
					  "journal: a change of block %llu, which is damaged, "
					  "without an image; run volume check",
					  (unsigned long long)n->vbn);
			if (rc == 0 && n->changed) {
				rc = put_block(fs, n, apply, arg);
				written++;
			}
		}
	}
	if (rc == 0 && !apply && written)
		rc = cfs_flush_since(fs, power);
	if (rc == 0 && written)
		log_info("cfs", "volume %s: journal replayed, %u blocks", fs->name, written);
	table_free(released);
	table_free(blocks);
	return rc;
}

int cfs_replay(struct cfs *fs, unsigned slot, uint32_t epoch, uint64_t vbn, uint32_t blocks,
	       int (*apply)(void *arg, uint64_t vbn, const void *block), void *arg)
{
	struct cfs_log log;
	int rc;

	if (vbn == 0)
		return 0; /* it never got a journal */
	rc = cfs_log_read(fs, slot, epoch, vbn, blocks, &log);
	if (rc == 0)
		rc = cfs_log_apply(fs, &log, apply, arg);
	free(log.stream);
	return rc < 0 ? fail_prefix(rc, "volume %s: replaying slot %u epoch %u", fs->name, slot,
				    epoch)
		      : 0;
}
