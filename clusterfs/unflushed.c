// SPDX-License-Identifier: Apache-2.0
/* unflushed.c: files' data that are written and not durable yet, and whether a cache was lost with them. */
#include "clusterfs/txn.h"

#include <errno.h>

#include "base/err.h"
#include "clusterfs/fresh.h"

/* With the first writes that were undone overwrites of them went too, even later ones. */
static uint64_t losses(const struct cfs *fs)
{
	uint64_t n = cfs_power(fs);

	for (unsigned e = 0; e < fs->extents; e++)
		n += cfs_carrier_undone(cfs_carrier_service(fs, e));
	return n;
}

static void wrote(struct cfs *fs, struct cfs_unflushed *u)
{
	if (!u->any)
		u->power = losses(fs);
	u->any = true;
	u->writing++;
	u->writes++;
}

int cfs_write_data(struct cfs *fs, struct cfs_unflushed *file, uint64_t vbn, const void *buf,
		   size_t bytes)
{
	int rc;

	pthread_mutex_lock(&fs->files_lock);
	wrote(fs, file);
	wrote(fs, &fs->unflushed);
	pthread_mutex_unlock(&fs->files_lock);
	rc = cfs_write(fs, vbn, buf, bytes, 0);
	pthread_mutex_lock(&fs->files_lock);
	file->writing--;
	fs->unflushed.writing--;
	pthread_mutex_unlock(&fs->files_lock);
	return rc;
}

/* Before a commit and after it, mutex held: nothing is left when nobody wrote meanwhile. */
static uint64_t quiet_at(const struct cfs_unflushed *u)
{
	return u->writing ? UINT64_MAX : u->writes;
}

static void retire(struct cfs_unflushed *u, uint64_t quiet)
{
	if (u->writes == quiet)
		u->any = false;
}

int cfs_commit_data(struct cfs *fs, struct cfs_unflushed *u)
{
	struct cfs_unflushed *all = &fs->unflushed;
	uint64_t quiet, all_quiet, turn;
	int rc;

	pthread_mutex_lock(&fs->files_lock);
	quiet = quiet_at(u);
	all_quiet = quiet_at(all);
	turn = ++u->turns;
	pthread_mutex_unlock(&fs->files_lock);
	rc = cfs_commit_wait(fs);
	if (rc < 0)
		return rc;
	pthread_mutex_lock(&fs->files_lock);
	if (turn > u->failed && u->any && u->power != losses(fs)) {
		u->failed = u->turns; /* told to those who wait for it now; then a new count */
		u->power = losses(fs);
	}
	if (turn <= u->failed)
		rc = -EIO;
	else
		retire(u, quiet);
	/* The flush was the whole volume's: a loss after it is none to who syncs that. */
	if (u != all && all->power == losses(fs))
		retire(all, all_quiet);
	pthread_mutex_unlock(&fs->files_lock);
	return rc < 0 ? fail(rc,
			     "volume %s: a LUN may have lost its write cache, and with it data "
			     "that "
			     "were not flushed yet; write them again",
			     fs->name)
		      : 0;
}
