// SPDX-License-Identifier: Apache-2.0
/*
 * reservations.c: a disk's persistent reservations, in its inode, where a small file has its content: they go
 * where the disk goes, and outlive what exports it.
 */
#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "clusterfs/fileio.h"
#include "clusterfs/label.h"

#define AGAIN_MS 200u
#define TRIES	 150u /* half a minute: who asked waits */

static_assert(CFS_RESERVATIONS <= CFS_INODE_INLINE, "reservations");

bool cfs_keeps_reservations(struct cfs *fs)
{
	bool keeps;

	pthread_mutex_lock(&fs->label_lock);
	keeps = le32_get(fs->label.features_ro) & CFS_RO_RESERVATIONS;
	pthread_mutex_unlock(&fs->label_lock);
	return keeps;
}

size_t cfs_reservations(struct cfs_file *file, void *dst)
{
	const struct cfs_inode_block *n = cfs_file_inode(file);
	size_t bytes;

	cfs_journal_lock(file->fs);
	bytes = n->kind == CFS_KIND_DISK ? le16_get(n->reservation_bytes) : 0;
	memcpy(dst, n->inline_data, bytes);
	cfs_journal_unlock(file->fs);
	return bytes;
}

static int store(struct cfs_file *file, const void *bytes, size_t size)
{
	struct cfs_inode_block *n = cfs_file_inode(file);
	size_t before = le16_get(n->reservation_bytes);
	struct cfs_txn txn;
	int rc = cfs_txn_begin_wait(file->fs, &txn);

	if (rc < 0)
		return rc;
	if (size)
		memcpy(n->inline_data, bytes, size);
	if (before > size)
		memset(n->inline_data + size, 0, before - size);
	n->reservation_bytes = le16_of((uint16_t)size);
	cfs_txn_patch(&txn, file->map.inode_buf, &n->reservation_bytes,
		      sizeof(n->reservation_bytes));
	cfs_txn_patch(&txn, file->map.inode_buf, n->inline_data, MAX(MAX(before, size), 8u));
	cfs_txn_end(&txn);
	return 0;
}

int cfs_store_reservations(struct cfs_file *file, const void *bytes, size_t size)
{
	int rc = cfs_file_writable(file);

	if (rc == 0 && (cfs_file_inode(file)->kind != CFS_KIND_DISK || size > CFS_RESERVATIONS))
		rc = fail(-EINVAL, "%s: keeps no reservations of %zu bytes", file->path, size);
	if (rc == 0 && !cfs_keeps_reservations(file->fs))
		rc = fail(-EOPNOTSUPP, "volume %s: its format keeps no disk's reservations",
			  file->fs->name);
	if (rc == 0)
		rc = store(file, bytes, size);
	if (rc < 0)
		return rc;
	/* They are in the stream: what is lost now is the word that they are durable. */
	rc = cfs_commit_wait(file->fs);
	for (unsigned i = 0; i < TRIES && rc < 0 && !cfs_evicted(file->fs); i++) {
		sleep_ms(AGAIN_MS);
		rc = cfs_commit_wait(file->fs);
	}
	return rc;
}
