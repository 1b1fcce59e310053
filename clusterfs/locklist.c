// SPDX-License-Identifier: Apache-2.0
/* locklist.c: the locks that this host holds, in words, for `volume locks`. */
#include "clusterfs/locks.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "clusterfs/label.h"

struct row {
	struct cfs_lock_record rec;
	struct cfs_lock_info info;
};

/* "group 3", or the name that the inode behind the lock gives itself; its medium's copy will do. */
static void describe(struct cfs *fs, struct row *row)
{
	struct cfs_lock_info *info = &row->info;
	uint64_t block = cfs_vbn_block(info->vbn) - CFS_GROUPS;
	uint64_t group_blocks = (uint64_t)fs->group_units * CFS_UNIT_BLOCKS;
	struct cfs_inode_block *inode;
	char name[256];

	if (block % group_blocks == 0) {
		(void)str_format(info->what, sizeof(info->what), "group %llu of extent %u",
				 (unsigned long long)(block / group_blocks),
				 cfs_vbn_extent(info->vbn));
		return;
	}
	inode = xaligned(CFS_BLOCK, CFS_BLOCK);
	if (cfs_vbn_valid(fs, info->object) && cfs_read(fs, info->object, inode, CFS_BLOCK) == 0 &&
	    cfs_block_check(inode, CFS_T_INODE, fs->id, info->object) == 0) {
		cfs_text_copy(name, sizeof(name), inode->name, sizeof(inode->name));
		(void)str_format(info->what, sizeof(info->what), "%s", name);
	} else {
		(void)str_format(info->what, sizeof(info->what), "block %llu",
				 (unsigned long long)info->object);
	}
	free(inode);
}

static void fill(struct cfs *fs, struct row *row)
{
	describe(fs, row);
	(void)str_format(row->info.mode, sizeof(row->info.mode), "%s",
			 row->rec.mode == CFS_LOCK_SHARED ? "shared" : "exclusive");
	if (row->rec.mode == CFS_LOCK_SHARED)
		(void)str_format(row->info.holder, sizeof(row->info.holder), "host %.63s",
				 fs->options.host_name);
	else
		cfs_lock_holder(fs, &row->rec, row->info.holder, sizeof(row->info.holder));
}

int cfs_locks_list(struct cfs *fs, void (*fn)(void *arg, const struct cfs_lock_info *), void *arg)
{
	struct cfs_locks *t = fs->locks;
	struct cfs_lock *l;
	struct row *row;
	unsigned n = 0;

	pthread_mutex_lock(&t->mutex);
	row = xcalloc(t->count + 1, sizeof(*row));
	list_for_each (l, &t->lru, lru) {
		if (l->held == CFS_LOCK_FREE)
			continue;
		row[n].rec = l->rec;
		row[n].info.vbn = l->vbn;
		row[n].info.object = le64_get(l->rec.object);
		row[n].info.wanted = l->wished;
		n++;
	}
	pthread_mutex_unlock(&t->mutex);
	for (unsigned i = 0; i < n; i++) {
		fill(fs, &row[i]);
		fn(arg, &row[i].info);
	}
	free(row);
	return 0;
}
