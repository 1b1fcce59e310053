// SPDX-License-Identifier: Apache-2.0
/*
 * cfs_worker.c: a host for chaos tests: mounts a volume and works on it at random, writing down what it
 * did in a history that survives its own kill -9; or reads everything back and judges it by histories.
 *
 *	cfs_worker work LUN STATE NAME SEED SECONDS HISTORY
 *	cfs_worker verify LUN STATE NAME flushed|answered HISTORY...
 *	cfs_worker format LUN NAME
 *
 * Each 4 KiB carries file, block, counter and a checksum. History, a line an event:
 *	c PATH SIZE	created, durable		x PATH	deletion begins		X PATH	deleted, durable
 *	w PATH BLOCK N COUNTER	will be written		a PATH BLOCK N COUNTER	was answered
 *	f PATH COUNTER	what was answered up to COUNTER is flushed
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/checksum.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/util.h"
#include "blockdev/blk.h"
#include "clusterfs/cfs.h"

#define BLOCK	  4096u
#define FILES	  6u
#define MAX_RUN	  24u
#define FILE_SIZE (24 * MiB)

struct stamp {
	uint64_t magic, file, block, counter, sum;
};
#define STAMP_MAGIC 0x73756f6863ULL

static uint64_t hash_name(const char *path)
{
	return checksum64(path, strlen(path));
}

static void fill(uint8_t *dst, const char *path, uint64_t block, uint64_t counter)
{
	struct stamp s = {STAMP_MAGIC, hash_name(path), block, counter, 0};

	for (size_t i = 0; i < BLOCK; i += 8) {
		uint64_t v = counter * 0x9e3779b97f4a7c15ULL + block + i;

		memcpy(dst + i, &v, 8);
	}
	memcpy(dst, &s, sizeof(s));
	s.sum = checksum64(dst, BLOCK);
	memcpy(dst, &s, sizeof(s));
}

/* 0: zeroes; >0: the counter; -EUCLEAN: neither. */
static int64_t judge(const uint8_t *src, const char *path, uint64_t block)
{
	static const uint8_t zero[BLOCK];
	uint8_t copy[BLOCK];
	struct stamp s, z;

	if (memcmp(src, zero, BLOCK) == 0)
		return 0;
	memcpy(copy, src, BLOCK);
	memcpy(&s, copy, sizeof(s));
	z = s;
	z.sum = 0;
	memcpy(copy, &z, sizeof(z));
	if (s.magic != STAMP_MAGIC || s.file != hash_name(path) || s.block != block ||
	    s.sum != checksum64(copy, BLOCK))
		return -EUCLEAN;
	return (int64_t)s.counter;
}

static void die(const char *what, int rc)
{
	fprintf(stderr, "cfs_worker: %s: %s\n", what, err_message(rc));
	exit(1);
}

static struct blk *open_lun(const char *lun, const char *name)
{
	char initiator[128];
	struct blk_options o = {.initiator = initiator, .isid = (uint32_t)hash_name(name)};
	struct blk *blk;
	int rc;

	(void)str_format(initiator, sizeof(initiator), "iqn.2026-11.io.perilune:%s", name);
	rc = blk_open(lun, &o, &blk);
	if (rc < 0)
		die(lun, rc);
	rc = blk_fault_wrap(blk, &blk);
	if (rc < 0)
		die(lun, rc);
	return blk;
}

static struct cfs *mount_lun(struct blk *blk, const char *state, const char *name)
{
	char initiator[128];
	struct cfs_options o = {.host_name = name,
				.state_dir = state,
				.initiator = initiator,
				.isid = (uint32_t)hash_name(name)};
	struct cfs *fs;
	int rc;

	(void)str_format(initiator, sizeof(initiator), "iqn.2026-11.io.perilune:%s", name);
	rc = cfs_mount(&blk, 1, &o, &fs);
	if (rc < 0)
		die("mount", rc);
	return fs;
}

/* --- work -------------------------------------------------------------------------------------------- */

struct worker {
	struct cfs *fs;
	const char *name;
	int history;
	unsigned seed;
	uint64_t counter;
	struct {
		char path[128];
		struct cfs_file *file;
	} open[FILES];
	uint64_t operations;
};

static void note(struct worker *w, const char *fmt, ...)
{
	char line[512];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	MUST(n > 0 && write(w->history, line, (size_t)n) == n);
}

static unsigned dice(struct worker *w, unsigned n)
{
	return (unsigned)rand_r(&w->seed) % n;
}

/* The lease ran out or the slot is gone: what a host does then is stop. */
static bool over(int rc)
{
	return rc == -ESTALE;
}

static int make_file(struct worker *w, unsigned i)
{
	int rc;

	(void)str_format(w->open[i].path, sizeof(w->open[i].path), "/%s/d%llu", w->name,
			 (unsigned long long)++w->counter);
	rc = cfs_create(w->fs, w->open[i].path, CFS_DISK, FILE_SIZE);
	if (rc == 0)
		rc = cfs_open(w->fs, w->open[i].path, CFS_OPEN_WRITE, 0, &w->open[i].file);
	if (rc == 0)
		rc = cfs_sync(w->fs);
	if (rc == 0)
		note(w, "c %s %llu\n", w->open[i].path, FILE_SIZE);
	return rc;
}

static int write_some(struct worker *w, unsigned i)
{
	static uint8_t buf[MAX_RUN * BLOCK] __attribute__((aligned(4096)));
	unsigned n = 1 + dice(w, MAX_RUN);
	uint64_t block = dice(w, FILE_SIZE / BLOCK - MAX_RUN), counter = ++w->counter;
	int64_t rc;

	for (unsigned b = 0; b < n; b++)
		fill(buf + b * BLOCK, w->open[i].path, block + b, counter);
	note(w, "w %s %llu %u %llu\n", w->open[i].path, (unsigned long long)block, n,
	     (unsigned long long)counter);
	rc = cfs_pwrite(w->open[i].file, buf, n * BLOCK, block * BLOCK);
	if (rc < 0)
		return (int)rc;
	note(w, "a %s %llu %u %llu\n", w->open[i].path, (unsigned long long)block, n,
	     (unsigned long long)counter);
	return 0;
}

static int flush_file(struct worker *w, unsigned i)
{
	uint64_t counter = w->counter;
	int rc = cfs_fsync(w->open[i].file);

	if (rc == 0)
		note(w, "f %s %llu\n", w->open[i].path, (unsigned long long)counter);
	return rc;
}

static int remove_file(struct worker *w, unsigned i)
{
	int rc = cfs_close(w->open[i].file);

	w->open[i].file = NULL;
	note(w, "x %s\n", w->open[i].path);
	if (rc == 0)
		rc = cfs_unlink(w->fs, w->open[i].path);
	if (rc == 0)
		rc = cfs_sync(w->fs);
	if (rc == 0)
		note(w, "X %s\n", w->open[i].path);
	return rc;
}

/* Names that all hosts fight for: any of these errors may be, but no damage. */
static int share(struct worker *w)
{
	char a[64], b[64];
	int rc;

	(void)str_format(a, sizeof(a), "/shared/n%u", dice(w, 20));
	(void)str_format(b, sizeof(b), "/shared/n%u", dice(w, 20));
	switch (dice(w, 3)) {
	case 0:
		rc = cfs_create(w->fs, a, CFS_FILE, 0);
		break;
	case 1:
		rc = cfs_unlink(w->fs, a);
		break;
	default:
		rc = cfs_rename(w->fs, a, b);
	}
	return rc == -EEXIST || rc == -ENOENT || rc == -EBUSY || rc == -EINVAL ? 0 : rc;
}

static int one(struct worker *w)
{
	unsigned i = dice(w, FILES), what = dice(w, 100);

	if (!w->open[i].file)
		return make_file(w, i);
	if (what < 70)
		return write_some(w, i);
	if (what < 85)
		return flush_file(w, i);
	if (what < 90)
		return remove_file(w, i);
	return share(w);
}

static int work(char **av)
{
	struct worker w = {.name = av[2], .seed = (unsigned)atoi(av[3])};
	struct blk *blk = open_lun(av[0], av[2]);
	uint64_t end;
	char dir[80];
	int rc;

	w.history = open(av[5], O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	MUST(w.history >= 0);
	w.counter = (clock_boot_ms() << 12) + 1; /* above any earlier life's */
	w.fs = mount_lun(blk, av[1], av[2]);
	(void)str_format(dir, sizeof(dir), "/%s", w.name);
	rc = cfs_mkdir(w.fs, dir);
	if (rc < 0 && rc != -EEXIST)
		die(dir, rc);
	rc = cfs_mkdir(w.fs, "/shared");
	if (rc < 0 && rc != -EEXIST)
		die("/shared", rc);
	printf("mounted\n");
	fflush(stdout);
	end = clock_boot_ms() + 1000 * (uint64_t)atoi(av[4]);
	rc = 0;
	while (clock_boot_ms() < end && rc == 0) {
		err_clear();
		rc = one(&w);
		if (rc == -ENOSPC)
			rc = 0;
		w.operations++;
	}
	printf("%llu operations\n", (unsigned long long)w.operations);
	if (over(rc)) {
		printf("the lease is over\n");
		fflush(stdout);
		_exit(3);
	}
	if (rc < 0)
		die("work", rc);
	for (unsigned i = 0; i < FILES; i++) {
		if (w.open[i].file) {
			rc = flush_file(&w, i);
			if (rc == 0)
				rc = cfs_close(w.open[i].file);
			if (rc < 0)
				die("close", rc);
		}
	}
	rc = cfs_unmount(w.fs);
	if (rc < 0)
		die("unmount", rc);
	blk_close(blk);
	return 0;
}

/* --- verify --------------------------------------------------------------------------------------------- */

struct known {
	char path[128];
	bool maybe_gone, gone;
	/* For each block: newest counter written, answered, flushed; all counters are rising. */
	uint64_t *written, *answered, *flushed;
	struct known *next;
};

static struct known *find(struct known **all, const char *path)
{
	struct known *k;

	for (k = *all; k; k = k->next)
		if (strcmp(k->path, path) == 0)
			return k;
	k = xcalloc(1, sizeof(*k));
	(void)str_format(k->path, sizeof(k->path), "%s", path);
	k->written = xcalloc(FILE_SIZE / BLOCK, 8);
	k->answered = xcalloc(FILE_SIZE / BLOCK, 8);
	k->flushed = xcalloc(FILE_SIZE / BLOCK, 8);
	k->next = *all;
	*all = k;
	return k;
}

static void read_history(const char *path, struct known **all)
{
	FILE *f = fopen(path, "r");
	char line[512], name[128];
	unsigned long long block, counter;
	unsigned n;

	MUST(f);
	while (fgets(line, sizeof(line), f)) {
		struct known *k;

		if (sscanf(line + 1, " %127s", name) != 1)
			continue;
		k = find(all, name);
		if (line[0] == 'x')
			k->maybe_gone = true;
		if (line[0] == 'X')
			k->gone = true;
		if (line[0] == 'f' && sscanf(line, "f %*s %llu", &counter) == 1)
			memcpy(k->flushed, k->answered, FILE_SIZE / BLOCK * 8);
		if ((line[0] == 'w' || line[0] == 'a') &&
		    sscanf(line + 1, " %*s %llu %u %llu", &block, &n, &counter) == 3) {
			for (unsigned i = 0; i < n; i++)
				(line[0] == 'w' ? k->written : k->answered)[block + i] = counter;
		}
	}
	fclose(f);
}

static unsigned verify_file(struct cfs *fs, struct known *k, bool answered)
{
	static uint8_t buf[256 * BLOCK] __attribute__((aligned(4096)));
	struct cfs_file *file;
	unsigned bad = 0;
	int rc = cfs_open(fs, k->path, 0, 0, &file);

	if (rc == -ENOENT && (k->gone || k->maybe_gone))
		return 0;
	if (rc < 0) {
		fprintf(stderr, "%s: %s\n", k->path, err_message(rc));
		return 1;
	}
	if (k->gone) {
		fprintf(stderr, "%s: deleted, and still there\n", k->path);
		bad++;
	}
	for (uint64_t at = 0; at < FILE_SIZE / BLOCK; at += 256) {
		int64_t got = cfs_pread(file, buf, sizeof(buf), at * BLOCK);

		if (got != (int64_t)sizeof(buf)) {
			fprintf(stderr, "%s: read at %llu: %s\n", k->path, (unsigned long long)at,
				err_message((int)got));
			return bad + 1;
		}
		for (unsigned i = 0; i < 256; i++) {
			uint64_t b = at + i, least = (answered ? k->answered : k->flushed)[b];
			int64_t c = judge(buf + i * BLOCK, k->path, b);

			if (c < 0 || (uint64_t)c < least || (uint64_t)c > k->written[b]) {
				fprintf(stderr,
					"%s: block %llu: counter %lld, at least %llu was %s, at "
					"most %llu was written\n",
					k->path, (unsigned long long)b, (long long)c,
					(unsigned long long)least,
					answered ? "answered" : "flushed",
					(unsigned long long)k->written[b]);
				if (++bad > 10)
					return bad;
			}
		}
	}
	rc = cfs_close(file);
	return bad + (rc < 0);
}

static int verify(char **av)
{
	struct blk *blk = open_lun(av[0], av[2]);
	struct cfs *fs = mount_lun(blk, av[1], av[2]);
	bool answered = strcmp(av[3], "answered") == 0;
	struct known *all = NULL;
	unsigned bad = 0, files = 0;
	int rc;

	for (char **h = av + 4; *h; h++)
		read_history(*h, &all);
	for (struct known *k = all; k; k = k->next, files++)
		bad += verify_file(fs, k, answered);
	while (all) {
		struct known *next = all->next;

		free(all->written);
		free(all->answered);
		free(all->flushed);
		free(all);
		all = next;
	}
	printf("%u files, %u bad\n", files, bad);
	rc = cfs_unmount(fs);
	if (rc < 0)
		die("unmount", rc);
	blk_close(blk);
	return bad ? 1 : 0;
}

/* --- the rest ---------------------------------------------------------------------------------------------- */

static int format(char **av)
{
	struct cfs_format_options o = {.name = av[1], .overwrite = true};
	struct blk *blk = open_lun(av[0], "format");
	int rc = cfs_format(&blk, 1, &o);

	if (rc < 0)
		die("format", rc);
	blk_close(blk);
	return 0;
}

int main(int ac, char **av)
{
	signal(SIGPIPE, SIG_IGN); /* blk.h */
	log_set_level(getenv("CFS_DEBUG") ? LOG_DEBUG : LOG_INFO);
	if (ac == 8 && strcmp(av[1], "work") == 0)
		return work(av + 2);
	if (ac >= 7 && strcmp(av[1], "verify") == 0)
		return verify(av + 2);
	if (ac == 4 && strcmp(av[1], "format") == 0)
		return format(av + 2);
	fprintf(stderr, "usage: see the top of cfs_worker.c\n");
	return 2;
}
