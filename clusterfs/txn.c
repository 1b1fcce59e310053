// SPDX-License-Identifier: Apache-2.0
/*
 * txn.c: transactions. Built in a scratch buffer under the journal mutex, then put into the tail as
 * one: whoever reads the tail after a crash of the daemon finds whole transactions only.
 */
#include "clusterfs/journal.h"

#include <errno.h>
#include <string.h>

#include "base/checksum.h"
#include "base/err.h"
#include "clusterfs/fresh.h"
#include "clusterfs/lock.h"

/* Blocks kept back so that a checkpoint always has room to commit what it must first. */
#define RESERVE_BLOCKS 4u
/*
 * Dirty blocks cannot leave the cache: however long the journal, a checkpoint begins at 4 MiB of them,
 * and at 16 MiB transactions wait for it.
 */
#define DIRTY_MAX  1024u
#define DIRTY_FULL 4096u

uint64_t cfs_journal_free_blocks(const struct cfs_journal *j)
{
	return (j->blocks - 1) - (j->next_block - j->tail_block);
}

bool cfs_journal_has_room(const struct cfs_journal *j)
{
	uint64_t pending = j->head - j->durable + CFS_TXN_MAX_BYTES + cfs_fresh_room(j->fresh);

	return pending <= CFS_TAIL_BYTES && j->dirty_count < DIRTY_FULL &&
	       DIV_ROUND_UP(pending, CFS_JOURNAL_PAYLOAD) + RESERVE_BLOCKS <=
		       cfs_journal_free_blocks(j);
}

static void start(struct cfs *fs, struct cfs_txn *txn)
{
	struct cfs_journal *j = fs->journal;

	txn->fs = fs;
	txn->sequence = atomic_fetch_add(&fs->sequence, 1) + 1;
	txn->records = 0;
	list_init(&txn->touched);
	j->scratch_used = sizeof(struct cfs_txn_header);
}

void cfs_journal_lock(struct cfs *fs)
{
	pthread_mutex_lock(&fs->journal->lock);
}

void cfs_journal_unlock(struct cfs *fs)
{
	pthread_mutex_unlock(&fs->journal->lock);
}

int cfs_txn_begin(struct cfs *fs, struct cfs_txn *txn)
{
	struct cfs_journal *j = fs->journal;

	pthread_mutex_lock(&j->lock);
	if (!cfs_journal_has_room(j)) {
		j->want_commit = j->want_checkpoint = true;
		pthread_cond_signal(&j->wake_commit);
		pthread_cond_signal(&j->wake_checkpoint);
		pthread_mutex_unlock(&j->lock);
		return -EAGAIN;
	}
	start(fs, txn);
	return 0;
}

int cfs_txn_begin_wait(struct cfs *fs, struct cfs_txn *txn)
{
	struct cfs_journal *j = fs->journal;

	pthread_mutex_lock(&j->lock);
	while (!cfs_journal_has_room(j)) {
		if (fs->dead || j->stopping) {
			pthread_mutex_unlock(&j->lock);
			return fail(-ESTALE, "volume %s: this host's lease is over", fs->name);
		}
		j->want_commit = j->want_checkpoint = true;
		pthread_cond_signal(&j->wake_commit);
		pthread_cond_signal(&j->wake_checkpoint);
		pthread_cond_wait(&j->room, &j->lock);
	}
	start(fs, txn);
	return 0;
}

void cfs_txn_begin_kept(struct cfs *fs, struct cfs_txn *txn)
{
	start(fs, txn);
}

static void add_record(struct cfs_txn *txn, enum cfs_record_type type, uint64_t vbn, uint64_t owner,
		       size_t offset, const void *data, size_t bytes)
{
	struct cfs_journal *j = txn->fs->journal;
	struct cfs_record r = {
		.type = le16_of((uint16_t)type),
		.offset = le16_of((uint16_t)offset),
		.bytes = le32_of((uint32_t)bytes),
		.vbn = le64_of(vbn),
		.owner = le64_of(owner),
	};
	size_t padded = ROUND_UP(bytes, 8u);

	MUST(j->scratch_used + sizeof(r) + padded <= CFS_TXN_MAX_BYTES);
	memcpy(j->scratch + j->scratch_used, &r, sizeof(r));
	if (bytes)
		memcpy(j->scratch + j->scratch_used + sizeof(r), data, bytes);
	memset(j->scratch + j->scratch_used + sizeof(r) + bytes, 0, padded - bytes);
	j->scratch_used += sizeof(r) + padded;
	txn->records++;
}

bool cfs_txn_fits(const struct cfs_txn *txn, unsigned images)
{
	size_t bytes = images * (sizeof(struct cfs_record) + CFS_BLOCK);

	return txn->fs->journal->scratch_used + bytes <= CFS_TXN_MAX_BYTES;
}

static void log_image(struct cfs_txn *txn, struct cfs_buf *buf)
{
	struct cfs_journal *j = txn->fs->journal;
	size_t bytes = CFS_BLOCK;

	while (bytes > sizeof(struct cfs_head) && buf->data[bytes - 1] == 0)
		bytes--; /* what is missing behind is zero */
	buf->imaged = true;
	buf->image_stream = j->head;
	if (!buf->dirty) {
		buf->first_stream = j->head;
		list_add_tail(&j->dirty, &buf->dirty_link);
		j->dirty_count++;
		cfs_buf_set_dirty(txn->fs, buf, true);
	}
	add_record(txn, CFS_R_IMAGE, buf->vbn, buf->owner, 0, buf->data, bytes);
}

static void touch(struct cfs_txn *txn, struct cfs_buf *buf)
{
	((struct cfs_head *)buf->data)->sequence = le64_of(txn->sequence);
	cfs_lock_touched(txn->fs, buf->owner, txn->sequence);
	if (list_empty(&buf->touched_link))
		list_add_tail(&txn->touched, &buf->touched_link);
}

void cfs_txn_image(struct cfs_txn *txn, struct cfs_buf *buf)
{
	MUST(buf->refs > 0);
	touch(txn, buf);
	log_image(txn, buf);
}

void cfs_txn_patch(struct cfs_txn *txn, struct cfs_buf *buf, const void *p, size_t bytes)
{
	size_t offset = (size_t)((const uint8_t *)p - buf->data);

	MUST(buf->refs > 0 && offset + bytes <= CFS_BLOCK && offset >= sizeof(struct cfs_head));
	touch(txn, buf);
	if (!buf->imaged)
		log_image(txn, buf);
	else
		add_record(txn, CFS_R_PATCH, buf->vbn, buf->owner, offset, p, bytes);
}

void cfs_txn_patch_dirty(struct cfs_txn *txn, struct cfs_buf *buf, const void *p, size_t bytes)
{
	size_t offset = (size_t)((const uint8_t *)p - buf->data);

	MUST(buf->refs > 0 && buf->dirty && offset + bytes <= CFS_BLOCK);
	touch(txn, buf);
	add_record(txn, CFS_R_PATCH, buf->vbn, buf->owner, offset, p, bytes);
}

void cfs_txn_forget(struct cfs_txn *txn, struct cfs_buf *buf)
{
	touch(txn, buf); /* last_stream becomes this transaction's end: see checkpoint.c */
	buf->imaged = false;
	buf->freed = buf->dirty;
	add_record(txn, CFS_R_FREED, buf->vbn, buf->owner, 0, NULL, 0);
}

void cfs_txn_released(struct cfs_txn *txn, uint64_t lock_vbn)
{
	add_record(txn, CFS_R_RELEASED, lock_vbn, lock_vbn, 0, NULL, 0);
}

uint64_t cfs_txn_end(struct cfs_txn *txn)
{
	struct cfs *fs = txn->fs;
	struct cfs_journal *j = fs->journal;
	struct cfs_txn_header h = {
		.magic = le32_of(CFS_TXN_MAGIC),
		.bytes = le32_of((uint32_t)j->scratch_used),
		.stream = le64_of(j->head),
		.sequence = le64_of(txn->sequence),
		.records = le32_of(txn->records),
		.epoch = le32_of(fs->epoch),
	};
	uint64_t end = j->head;

	if (txn->records > 0) {
		end = j->head + j->scratch_used;
		memcpy(j->scratch, &h, sizeof(h));
		h.checksum = le64_of(checksum64_with_hole(
			j->scratch, j->scratch_used, offsetof(struct cfs_txn_header, checksum)));
		memcpy(j->scratch, &h, sizeof(h));
		cfs_tail_put(&j->tail, j->head, j->scratch, j->scratch_used);
		j->head = end;
		atomic_store(&j->tail.page->head, end); /* from here on it survives the daemon */
	}
	while (!list_empty(&txn->touched)) {
		struct cfs_buf *b = list_first(&txn->touched, struct cfs_buf, touched_link);

		list_del(&b->touched_link);
		b->last_stream = end;
	}
	if (!j->want_commit &&
	    (end - j->durable > CFS_TAIL_BYTES / 4 || cfs_fresh_many(j->fresh))) {
		j->want_commit = true;
		pthread_cond_signal(&j->wake_commit);
	}
	if (!j->want_checkpoint &&
	    (cfs_journal_free_blocks(j) < j->blocks / 2 || j->dirty_count > DIRTY_MAX)) {
		j->want_checkpoint = true;
		pthread_cond_signal(&j->wake_checkpoint);
	}
	pthread_mutex_unlock(&j->lock);
	return end;
}
