// SPDX-License-Identifier: Apache-2.0
/*
 * lock_pairs.c: how often a second a lock is taken and given up again, nothing dirty under it.
 *
 *	lock_pairs ours LUN DIR SECONDS		a volume of ours: one object's lock; formats LUN
 *	lock_pairs bare LUN DIR SECONDS		two COMPARE AND WRITEs on one session, by libiscsi
 *						alone; destroys LUN's second MiB
 *
 * LUN is iscsi://PORTAL/IQN/LUN. Prints pairs a second. The bare ones carry FUA as ours do, where the LUN
 * has it.
 */
#include <iscsi/iscsi.h>
#include <iscsi/scsi-lowlevel.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/util.h"
#include "blockdev/blk.h"
#include "clusterfs/cfs.h"
#include "clusterfs/lock.h"

#define WAIT_MS 5000u

static void ok(int rc, const char *what)
{
	if (rc < 0) {
		fprintf(stderr, "lock_pairs: %s: %s\n", what, err_message(rc));
		exit(1);
	}
}

static double rate(uint64_t pairs, uint64_t begun)
{
	return (double)pairs * 1e9 / (double)(clock_boot_ns() - begun);
}

/* --- ours -------------------------------------------------------------------------------------- */

static double ours(const char *lun, const char *folder, uint64_t ns)
{
	struct cfs_format_options f = {.name = "bench", .overwrite = true};
	struct cfs_options o = {.host_name = "one", .state_dir = folder};
	struct blk_options b = {0};
	struct cfs_stat st;
	struct cfs_lock *lock;
	uint64_t begun, pairs = 0;
	struct blk *blk;
	struct cfs *fs;
	double found;

	mkdir(folder, 0700);
	ok(blk_open(lun, &b, &blk), lun);
	ok(cfs_format(&blk, 1, &f), "format");
	ok(cfs_mount(&blk, 1, &o, &fs), "mount");
	ok(cfs_create(fs, "/object", CFS_FILE, 0), "create");
	ok(cfs_stat(fs, "/object", &st), "stat");
	ok(cfs_sync(fs), "sync");
	ok(cfs_lock_get(fs, st.inode - 1, CFS_LOCK_EXCLUSIVE, WAIT_MS, &lock), "lock");
	ok(cfs_lock_drop(lock), "unlock");
	begun = clock_boot_ns();
	for (; clock_boot_ns() - begun < ns; pairs++) {
		ok(cfs_lock_get(fs, st.inode - 1, CFS_LOCK_EXCLUSIVE, WAIT_MS, &lock), "lock");
		ok(cfs_lock_drop(lock), "unlock");
	}
	found = rate(pairs, begun);
	ok(cfs_unmount(fs), "unmount");
	blk_close(blk);
	return found;
}

/* --- bare -------------------------------------------------------------------------------------- */

struct bare {
	struct iscsi_context *iscsi;
	int lun, fua;
	uint32_t block;
	uint64_t lba;
	uint8_t *data; /* what is expected, then what is written */
};

static bool swap(struct bare *b)
{
	struct scsi_task *task = iscsi_compareandwrite_sync(
		b->iscsi, b->lun, b->lba, b->data, 2 * b->block, (int)b->block, 0, 0, b->fua, 0, 0);
	bool good = task && task->status == SCSI_STATUS_GOOD;

	if (task)
		scsi_free_scsi_task(task);
	if (good) { /* the next one puts back what was there */
		for (uint32_t i = 0; i < b->block; i++) {
			uint8_t was = b->data[i];

			b->data[i] = b->data[b->block + i];
			b->data[b->block + i] = was;
		}
	}
	return good;
}

static void must(bool good, struct bare *b, const char *what)
{
	if (good)
		return;
	fprintf(stderr, "lock_pairs: %s: %s\n", what, iscsi_get_error(b->iscsi));
	exit(1);
}

static void bare_open(struct bare *b, const char *name)
{
	struct scsi_readcapacity16 *capacity;
	struct iscsi_url *url;
	struct scsi_task *task;

	b->iscsi = iscsi_create_context("iqn.2026-11.io.perilune:bare");
	url = iscsi_parse_full_url(b->iscsi, name);
	must(url, b, name);
	iscsi_set_targetname(b->iscsi, url->target);
	iscsi_set_session_type(b->iscsi, ISCSI_SESSION_NORMAL);
	must(iscsi_full_connect_sync(b->iscsi, url->portal, url->lun) == 0, b, "connecting");
	b->lun = url->lun;
	task = iscsi_readcapacity16_sync(b->iscsi, b->lun);
	capacity = task && task->status == SCSI_STATUS_GOOD ? scsi_datain_unmarshall(task) : NULL;
	must(capacity, b, "READ CAPACITY");
	b->block = capacity->block_length;
	scsi_free_scsi_task(task);
	iscsi_destroy_url(url);
}

static double bare(const char *lun, uint64_t ns)
{
	struct bare b = {.fua = 1};
	uint64_t begun, pairs = 0;
	struct scsi_task *task;

	bare_open(&b, lun);
	b.lba = MiB / b.block;
	b.data = xcalloc(2, b.block);
	task = iscsi_write16_sync(b.iscsi, b.lun, b.lba, b.data, b.block, (int)b.block, 0, 0, 0, 0,
				  0);
	must(task && task->status == SCSI_STATUS_GOOD, &b, "WRITE");
	scsi_free_scsi_task(task);
	random_bytes(b.data + b.block, b.block);
	if (!swap(&b)) {
		b.fua = 0;
		must(swap(&b), &b, "COMPARE AND WRITE");
	}
	must(swap(&b), &b, "COMPARE AND WRITE");
	begun = clock_boot_ns();
	for (; clock_boot_ns() - begun < ns; pairs++) {
		must(swap(&b), &b, "COMPARE AND WRITE");
		must(swap(&b), &b, "COMPARE AND WRITE");
	}
	double found = rate(pairs, begun);

	fprintf(stderr, "lock_pairs: FUA %s\n", b.fua ? "on" : "off: the LUN has none");
	iscsi_logout_sync(b.iscsi);
	iscsi_destroy_context(b.iscsi);
	free(b.data);
	return found;
}

int main(int argc, char **argv)
{
	if (argc != 5 || (strcmp(argv[1], "ours") && strcmp(argv[1], "bare"))) {
		fprintf(stderr, "usage: lock_pairs ours|bare LUN DIR SECONDS\n");
		return 2;
	}
	log_set_level(LOG_WARN);

	uint64_t ns = (uint64_t)(atof(argv[4]) * 1e9);

	printf("%.1f\n", strcmp(argv[1], "ours") ? bare(argv[2], ns) : ours(argv[2], argv[3], ns));
	return 0;
}
