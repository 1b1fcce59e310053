// SPDX-License-Identifier: Apache-2.0
/* vol.c: volumes for tests. */
#include "tests/lib/vol.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "base/util.h"
#include "tests/lib/lun.h"

static struct blk *open_lun(const char *path, const char *log)
{
	struct blk_options options = {.force_id = "file.test"}; /* a copy is the same LUN */
	struct blk *blk, *filter;

	MUST(blk_open(path, &options, &blk) == 0);
	if (!log)
		return blk;
	MUST(blk_record_wrap(blk, log, &filter) == 0);
	return filter;
}

struct vol *vol_make(uint64_t size)
{
	/* silence and lease are long enough for a busy machine, short enough for a test */
	struct cfs_format_options options = {.name = "test",
					     .beat_ms = 50,
					     .silence_beats = 6,
					     .lease_ms = 1500,
					     .flight_ms = 200};
	struct vol *v = xcalloc(1, sizeof(*v));
	struct blk *blk;

	v->lun = lun_make(size);
	v->dir = xasprintf("%s.state", v->lun);
	MUST(mkdir(v->dir, 0700) == 0);
	blk = open_lun(v->lun, NULL);
	MUST(cfs_format(&blk, 1, &options) == 0);
	blk_close(blk);
	return v;
}

struct vol *vol_open(const char *path)
{
	struct vol *v = xcalloc(1, sizeof(*v));

	v->lun = xstrdup(path);
	v->dir = xasprintf("%s.state", v->lun);
	MUST(mkdir(v->dir, 0700) == 0);
	return v;
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
	v->blk[i] = open_lun(v->lun, log);
	rc = cfs_mount(&v->blk[i], 1, &options, &v->fs[i]);
	if (rc < 0) {
		blk_close(v->blk[i]);
		v->blk[i] = NULL;
		v->fs[i] = NULL;
	}
	return rc;
}

static void close_blk(struct vol *v, unsigned i)
{
	v->fs[i] = NULL;
	blk_close(v->blk[i]);
	v->blk[i] = NULL;
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

int vol_check(struct vol *v, bool repair, bool print, struct cfs_check_result *result)
{
	struct told told = {print};
	struct cfs_check_options options = {
		.repair = repair, .host_name = "checker", .finding = tell, .arg = &told};
	struct blk *blk = open_lun(v->lun, NULL);
	int rc;

	memset(result, 0, sizeof(*result));
	rc = cfs_check(&blk, 1, &options, result);
	if (rc < 0 && print)
		fprintf(stderr, "check: %s\n", err_message(rc));
	blk_close(blk);
	return rc;
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
	lun_remove(v->lun);
	free(v->dir);
	free(v);
}
