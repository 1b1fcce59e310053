// SPDX-License-Identifier: Apache-2.0
/*
 * fileio.h (private to file.c and fileio.c): an open file, and blocking I/O through its map.
 */
#ifndef CLUSTERFS_FILEIO_H
#define CLUSTERFS_FILEIO_H

#include "clusterfs/map.h"
#include "clusterfs/names.h"

struct cfs_file {
	struct cfs *fs;
	struct cfs_file *next; /* in fs->files */
	struct cfs_lock *lock; /* pinned */
	struct cfs_map map;
	unsigned flags;
	uint64_t vm;
	char *path; /* as it was opened, for messages */
	struct cfs_unflushed unflushed;
	pthread_mutex_t io; /* one call at a time; guards `bounce` */
	uint8_t *bounce;    /* CFS_CHUNK bytes, aligned for O_DIRECT; made at first use */
};
#define CFS_CHUNK (1u << 20)

static inline struct cfs_inode_block *cfs_file_inode(const struct cfs_file *file)
{
	return (struct cfs_inode_block *)file->map.inode_buf->data;
}
/* Closes it without a word to the disk: its lock is another host's by now, or goes with the volume. */
void cfs_file_forget(struct cfs_file *file);
/* 0, or -EPERM when it was opened for reading. */
int cfs_file_writable(const struct cfs_file *file);

/* From an offset on: bytes that lie together on one extent, or that are a hole. `io` held. */
struct cfs_run {
	uint64_t length; /* bytes, at most what was asked for; may end early, then ask again */
	uint64_t vbn;	 /* block the first byte lies in; 0: zeroes */
	unsigned skip;	 /* bytes in front of it in that block */
};
int cfs_file_run(struct cfs_file *file, uint64_t offset, uint64_t length, struct cfs_run *run);

/* Makes zero what lies behind `size` in its unit. `io` held, or nobody else has the file yet. */
int cfs_file_zero_tail(struct cfs_file *file, uint64_t size);
int cfs_file_finish_shrink(struct cfs_file *file);

#endif
