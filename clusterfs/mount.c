// SPDX-License-Identifier: Apache-2.0
/*
 * mount.c: joining and leaving a volume: the order in which its parts come up and go down.
 *
 *	label - lease page - slot (fence, claim, beat) - cache - locks - groups - recovery -
 *	[journal's place] - journal (replay) - trash - janitor
 *
 * Down it goes in reverse; what holds locks goes before the locks, the locks before the journal
 * (each leaves with a record in it), the journal before the slot.
 */
#include "clusterfs/mount.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/err.h"
#include "base/log.h"
#include "clusterfs/group.h"
#include "clusterfs/handover.h"
#include "clusterfs/janitor.h"
#include "clusterfs/label.h"
#include "clusterfs/lock.h"
#include "clusterfs/names.h"
#include "clusterfs/slot.h"
#include "clusterfs/txn.h"

#define CACHE_BYTES (64 * MiB)

static void copy_options(struct cfs *fs, const struct cfs_options *o)
{
	fs->options = *o;
	fs->options.host_name = xstrdup(o->host_name ? o->host_name : "");
	fs->options.state_dir = xstrdup(o->state_dir ? o->state_dir : ".");
	fs->options.address = xstrdup(o->address ? o->address : "");
	fs->options.initiator = xstrdup(o->initiator ? o->initiator : "");
}

static int lease_page(struct cfs *fs)
{
	void *page;

	fs->lease_fd = memfd_create("perilune-lease", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fs->lease_fd < 0 || ftruncate(fs->lease_fd, 4096) < 0)
		return fail(-errno, "memfd for the lease: %s", strerror(errno));
	page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fs->lease_fd, 0);
	if (page == MAP_FAILED)
		return fail(-errno, "memfd for the lease: %s", strerror(errno));
	fs->lease_end = page;
	return 0;
}

struct cfs *cfs_volume_create(const struct cfs_options *options)
{
	struct cfs *fs = xcalloc(1, sizeof(*fs));

	copy_options(fs, options);
	pthread_mutex_init(&fs->label_lock, NULL);
	pthread_mutex_init(&fs->files_lock, NULL);
	fs->lease_fd = -1;
	return fs;
}

int cfs_volume_open(struct cfs *fs, struct blk **blks, unsigned n)
{
	int rc = cfs_label_load(blks, n, &fs->label, fs->extent);

	if (rc < 0)
		return rc;
	cfs_label_begin(fs);
	return lease_page(fs);
}

/* A lease that is over: nothing is written through the LUNs of a life that ended badly. */
static const _Atomic uint64_t never;

void cfs_volume_free(struct cfs *fs)
{
	for (unsigned e = 0; e < fs->extents && fs->lease_end; e++)
		blk_set_lease(fs->extent[e], fs->abandoned ? &never : NULL);
	if (fs->lease_end)
		munmap((void *)fs->lease_end, 4096);
	if (fs->lease_fd >= 0)
		close(fs->lease_fd);
	cfs_label_end(fs);
	free((char *)fs->options.host_name);
	free((char *)fs->options.state_dir);
	free((char *)fs->options.address);
	free((char *)fs->options.initiator);
	pthread_mutex_destroy(&fs->label_lock);
	pthread_mutex_destroy(&fs->files_lock);
	free(fs);
}

/* A slot's first mount: a journal is made, then named in the claim; a crash in between only leaks. */
static int start_journal(struct cfs *fs, bool resumed)
{
	uint64_t vbn;
	uint32_t blocks;
	unsigned group = 0;
	bool placed = false;
	int rc = 0;

	cfs_slot_journal(fs, fs->slot, &vbn, &blocks);
	if (vbn == 0) {
		blocks = cfs_journal_blocks(fs);
		rc = cfs_groups_place_journal(fs, blocks, &vbn);
		if (rc < 0)
			return rc;
		group = cfs_group_of(fs,
				     vbn); /* comes held: its lock cannot leave without a journal */
		placed = true;
		rc = cfs_slot_set_journal(fs, vbn, blocks);
	}
	if (rc == 0)
		rc = cfs_journal_start(fs, resumed);
	if (placed)
		cfs_group_unhold(fs, group);
	return rc;
}

static int bring_up(struct cfs *fs)
{
	bool resumed = false;
	size_t cache = fs->options.cache_bytes ? fs->options.cache_bytes : CACHE_BYTES;
	int rc = cfs_slot_take(fs, false, &resumed);

	if (rc < 0)
		return rc;
	fs->resumed = resumed;
	rc = cfs_label_refresh(fs); /* it may have changed before our claim was seen */
	if (rc == 0)
		rc = cfs_cache_create(fs, cache);
	if (rc == 0)
		rc = cfs_locks_start(fs);
	if (rc == 0)
		rc = cfs_groups_start(fs);
	/* Now already: what the journal's place needs, a dead host may hold. */
	if (rc == 0)
		rc = cfs_recover_start(fs);
	if (rc == 0)
		rc = start_journal(fs, resumed);
	if (rc == 0)
		cfs_locks_serve(fs);
	if (rc == 0)
		rc = cfs_trash_start(fs);
	if (rc == 0)
		rc = cfs_janitor_start(fs);
	if (rc < 0) {
		struct err_info why;

		err_save(&why, rc);
		cfs_bring_down(fs, CFS_DOWN_ABANDON);
		err_restore(&why);
	}
	return rc;
}

int cfs_bring_down(struct cfs *fs, enum cfs_down how)
{
	bool abandon = how == CFS_DOWN_ABANDON;
	int rc = 0, rc2;

	cfs_janitor_stop(fs);
	cfs_recover_stop(fs);
	cfs_trash_stop(fs);
	cfs_groups_stop(fs);
	if (fs->locks)
		rc = cfs_locks_stop(fs, !abandon);
	rc2 = cfs_journal_stop(fs, abandon || rc < 0);
	rc = rc < 0 ? rc : rc2;
	fs->abandoned = abandon || rc < 0;
	if (fs->abandoned)
		cfs_slot_abandon(fs);
	else
		rc = cfs_slot_leave(fs);
	cfs_cache_destroy(fs);
	return rc;
}

int cfs_mount(struct blk **blks, unsigned n, const struct cfs_options *options, struct cfs **out)
{
	struct cfs *fs;
	int rc;

	if (options->new_identity) {
		rc = cfs_label_new_identity(blks, n);
		if (rc < 0)
			return rc;
	}
	fs = cfs_volume_create(options);
	rc = cfs_volume_open(fs, blks, n);
	if (rc == 0)
		rc = bring_up(fs);
	if (rc < 0) {
		cfs_volume_free(fs);
		return rc;
	}
	log_info("cfs", "volume %s: mounted as %s in slot %u, epoch %u", fs->name,
		 fs->options.host_name, fs->slot, fs->epoch);
	*out = fs;
	return 0;
}

int cfs_unmount(struct cfs *fs)
{
	unsigned open_files = cfs_files_open(fs);
	int rc;

	if (open_files)
		return fail(-EBUSY, "volume %s: %u files or disks are open; close them first",
			    fs->name, open_files);
	if (cfs_vm_any(fs))
		return fail(-EBUSY, "volume %s: VMs run on it; stop them first", fs->name);
	rc = cfs_bring_down(fs, CFS_DOWN_LEAVE);
	if (rc == -EBUSY) { /* that would say that it is there still */
		struct err_info why;

		err_save(&why, rc);
		rc = fail(-EIO, "volume %s: %s", fs->name, why.message);
	}
	log_info("cfs", "volume %s: unmounted%s", fs->name,
		 rc < 0 ? ", but not cleanly: another host will replay the journal" : "");
	cfs_volume_free(fs);
	return rc;
}

void cfs_abandon(struct cfs *fs)
{
	cfs_files_abandon(fs);
	cfs_bring_down(fs, CFS_DOWN_ABANDON);
	cfs_volume_free(fs);
}

int cfs_lease_fd(struct cfs *fs)
{
	return fs->lease_fd;
}
