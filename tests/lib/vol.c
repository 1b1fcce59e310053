// SPDX-License-Identifier: Apache-2.0
/* vol.c: volumes for tests. */
#include "tests/lib/vol.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "base/util.h"
#include "clusterfs/label.h"
#include "tests/lib/lun.h"

#define SILENCE 6u /* of vol_make, in beats */
#define LEASE	1500u

static struct blk *open_lun(const struct vol *v, unsigned e, const char *log, bool faulty)
{
	static const char *const ids[VOL_LUNS] = {"file.test", "file.test1", "file.test2"};
	/* A copy is the same LUN. */
	struct blk_options options = {.force_id = ids[e], .block_size = v->block_size};
	struct blk *blk, *filter;

	if (faulty)
		options.timeout_ms = 200;
	MUST(blk_open(v->path[e], &options, &blk) == 0);
	if (!log && !faulty)
		return blk;
	MUST((log ? blk_record_wrap(blk, log, &filter) : blk_fault_wrap(blk, &filter)) == 0);
	return filter;
}

static void open_all(const struct vol *v, struct blk **blks)
{
	for (unsigned e = 0; e < v->luns; e++)
		blks[e] = open_lun(v, e, NULL, false);
}

static void close_all(const struct vol *v, struct blk **blks)
{
	for (unsigned e = 0; e < v->luns; e++)
		blk_close(blks[e]);
}

static struct vol *make(uint64_t size, unsigned luns, uint32_t block_size,
			const struct cfs_format_options *options)
{
	struct vol *v = xcalloc(1, sizeof(*v));
	struct blk *blks[VOL_LUNS];

	MUST(luns <= VOL_LUNS);
	v->luns = luns;
	v->block_size = block_size;
	for (unsigned e = 0; e < luns; e++)
		v->path[e] = lun_make(size);
	v->lun = v->path[0];
	v->dir = xasprintf("%s.state", v->lun);
	MUST(mkdir(v->dir, 0700) == 0);
	open_all(v, blks);
	MUST(cfs_format(blks, luns, options) == 0);
	close_all(v, blks);
	return v;
}

struct vol *vol_make(uint64_t size)
{
	return vol_make_as(size, 1, 0);
}

struct vol *vol_make_patient(uint64_t size)
{
	struct cfs_format_options options = {.name = "test",
					     .beat_ms = 50,
					     .silence_beats = 30,
					     .lease_ms = 2500,
					     .flight_ms = 200};

	return make(size, 1, 0, &options);
}

struct vol *vol_make_calm(uint64_t size)
{
	struct cfs_format_options options = {.name = "test"};

	return make(size, 1, 0, &options);
}

struct vol *vol_make_as(uint64_t size, unsigned luns, uint32_t block_size)
{
	/* silence and lease are long enough for a busy machine, short enough for a test */
	struct cfs_format_options options = {.name = "test",
					     .beat_ms = 50,
					     .silence_beats = SILENCE,
					     .lease_ms = LEASE,
					     .flight_ms = 200};

	return make(size, luns, block_size, &options);
}

void vol_hurry(const char *path)
{
	char *name = xstrdup(path);
	struct vol v = {.luns = 1, .path = {name}};
	struct cfs_label label;
	struct blk *blk;

	open_all(&v, &blk);
	MUST(cfs_label_read(blk, &label) == 0);
	label.silence_beats = le32_of(SILENCE);
	label.lease_ms = le32_of(LEASE);
	MUST(cfs_label_store_next(&blk, 1, &label) == 0);
	close_all(&v, &blk);
	free(name);
}

struct vol *vol_open(const char *path)
{
	struct vol *v = xcalloc(1, sizeof(*v));

	v->luns = 1;
	v->lun = v->path[0] = xstrdup(path);
	v->dir = xasprintf("%s.state", v->lun);
	MUST(mkdir(v->dir, 0700) == 0);
	return v;
}

static void close_blk(struct vol *v, unsigned i)
{
	v->fs[i] = NULL;
	v->more[i][0] = v->blk[i]; /* a test may have wrapped it */
	close_all(v, v->more[i]);
	v->blk[i] = NULL;
}

int vol_mount(struct vol *v, unsigned i, const char *log)
{
	char name[16], state[512];
	struct cfs_options options = {
		.host_name = name, .state_dir = state, .address = "", .initiator = ""};
	int rc;

	snprintf(name, sizeof(name), "host%u", i);
	snprintf(state, sizeof(state), "%s/%u", v->dir, i);
	mkdir(state, 0700);
	/* Times are so short here that a busy machine's first beat may come too late: as a person would. */
	for (unsigned tries = 0; tries < 4; tries++) {
		v->more[i][0] = v->blk[i] = open_lun(v, 0, log ? log : v->log, v->faulty[i]);
		for (unsigned e = 1; e < v->luns; e++)
			v->more[i][e] = open_lun(v, e, NULL, v->faulty[i]);
		rc = cfs_mount(v->more[i], v->luns, &options, &v->fs[i]);
		if (rc < 0)
			close_blk(v, i);
		if (rc != -EIO && rc != -ETIMEDOUT)
			break;
	}
	return rc;
}

int vol_unmount(struct vol *v, unsigned i)
{
	int rc = cfs_unmount(v->fs[i]);

	close_blk(v, i);
	return rc;
}

void vol_abandon(struct vol *v, unsigned i)
{
	cfs_abandon(v->fs[i]);
	close_blk(v, i);
}

struct told {
	bool print;
};

static void tell(void *arg, const char *object, const char *text, bool mended)
{
	const struct told *t = arg;

	if (t->print)
		fprintf(stderr, "check: %s: %s%s\n", object, text, mended ? " (mended)" : "");
}

static int check(struct vol *v, struct blk **blks, bool repair, bool print,
		 struct cfs_check_result *result)
{
	struct told told = {print};
	struct cfs_check_options options = {
		.repair = repair, .host_name = "checker", .finding = tell, .arg = &told};
	int rc;

	memset(result, 0, sizeof(*result));
	rc = cfs_check(blks, v->luns, &options, result);
	if (rc < 0 && print)
		fprintf(stderr, "check: %s\n", err_message(rc));
	close_all(v, blks);
	return rc;
}

int vol_check(struct vol *v, bool repair, bool print, struct cfs_check_result *result)
{
	struct blk *blks[VOL_LUNS];

	open_all(v, blks);
	return check(v, blks, repair, print, result);
}

int vol_check_recorded(struct vol *v, bool repair, const char *log, struct cfs_check_result *result)
{
	struct blk *blk = open_lun(v, 0, log, false);

	MUST(v->luns == 1);
	return check(v, &blk, repair, false, result);
}

void vol_free(struct vol *v)
{
	char *cmd;

	for (unsigned i = 0; i < VOL_HOSTS; i++) {
		if (v->fs[i])
			vol_abandon(v, i);
	}
	cmd = xasprintf("rm -rf '%s'", v->dir);
	MUST(system(cmd) == 0);
	free(cmd);
	for (unsigned e = 0; e < v->luns; e++)
		lun_remove(v->path[e]);
	free(v->dir);
	free(v);
}
