// SPDX-License-Identifier: Apache-2.0
/*
 * Runs a workload on a volume and records what reaches the LUN; then for many moments, and legal outcomes of
 * what was in flight then, builds the LUN as a power cut would have left it. Each must check clean in memory,
 * mount on another host, hold every file as it was at the last fsync (if it was not touched since; if it
 * was: only what had been written to it), and check clean again.
 *
 * With two hosts: both record into one log while they change the same directories; then one dies, with changes
 * that nobody synced, the other replays its journal and goes on. A power cut may strike before, in, or after that.
 *
 *	TEST_SEED=n TEST_POINTS=n TEST_SECONDS=n build/tests/crash/test_crash	another, or a longer, run
 *	TEST_ONLY=1 TEST_POINT=n TEST_CHOICE=n TEST_CHOICE_SEED=n ...		one point of the second test again
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/checksum.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/util.h"
#include "blockdev/record.h"
#include "tests/lib/check.h"
#include "tests/lib/lun.h"
#include "tests/lib/shot.h"
#include "tests/lib/vol.h"

#define NAMES	 4096u
#define SIZE	 (256 * MiB)
#define FILES	 24u
#define GRAINS	 160u /* of a file at most */
#define GRAIN	 4096u
#define IN_GRAIN (GRAIN / SHOT_SECTOR)
#define MARKS	 200u
#define WORKERS	 4u
#define LATER	 2u /* the host that comes after the crash */

struct file { /* of the model */
	bool there;
	unsigned id; /* of this one life */
	enum cfs_file_kind kind;
	char path[64];
	uint64_t size;
	uint64_t sector[GRAINS * IN_GRAIN];
};
struct mark { /* everything before it is durable */
	unsigned event;
	struct file file[FILES];
	bool touched[FILES]; /* after it, until the next */
	bool gone[FILES];    /* after it its name was taken away */
};
#define SEEN (1u << 20)
struct world {
	struct vol *v;
	unsigned hosts, at; /* how many, and whose turn it is */
	bool alone;	    /* the first host is dead */
	bool lost[FILES];   /* its last changes to it: who knows */
	char *base, *log;
	struct file file[FILES];
	unsigned marks;
	struct mark *mark;
	uint64_t *seen; /* hash set of (file, sector) that have been */
	uint64_t rnd, writes;
	unsigned names, ids;
	unsigned owner[NAMES]; /* of each name, which is used once, the file */
};

static uint64_t next(struct world *w)
{
	w->rnd ^= w->rnd << 13;
	w->rnd ^= w->rnd >> 7;
	w->rnd ^= w->rnd << 17;
	return w->rnd;
}

static unsigned below(struct world *w, unsigned n)
{
	return (unsigned)(next(w) % n);
}

static uint64_t number(const char *name, uint64_t otherwise)
{
	const char *s = getenv(name);

	return s ? strtoull(s, NULL, 0) : otherwise;
}

/* --- what a file ever held -------------------------------------------------------------------------- */

static uint64_t pair(unsigned id, uint64_t sector)
{
	return ((uint64_t)id << 48 ^ sector * 0x9e3779b97f4a7c15ULL) | 1;
}

/* Names are /a/nNUMBER: data is written in place, also under a name that is not durable yet. */
static bool was(const struct world *w, const char *path, uint64_t sector)
{
	unsigned long name = strlen(path) > 4 ? strtoul(path + 4, NULL, 10) : NAMES;
	uint64_t key = pair(name < NAMES ? w->owner[name] : 0, sector), i = key >> 20 & (SEEN - 1);

	while (w->seen[i] && w->seen[i] != key)
		i = (i + 1) & (SEEN - 1);
	return w->seen[i] == key;
}

static void note(struct world *w, unsigned id, uint64_t sector)
{
	uint64_t key = pair(id, sector), i = key >> 20 & (SEEN - 1);

	while (w->seen[i] && w->seen[i] != key)
		i = (i + 1) & (SEEN - 1);
	w->seen[i] = key;
}

/* --- the workload -------------------------------------------------------------------------------------- */

static struct cfs *fs_of(struct world *w)
{
	return w->v->fs[w->at];
}

static void touch(struct world *w, unsigned i)
{
	w->mark[w->marks - 1].touched[i] = true;
}

/* Its name goes, too. */
static void take_away(struct world *w, unsigned i)
{
	w->mark[w->marks - 1].gone[i] = true;
}

static void mark(struct world *w)
{
	struct record_log *log;
	struct mark *m;

	for (unsigned h = 0; h < w->hosts; h++)
		if (w->v->fs[h])
			ok(cfs_sync(w->v->fs[h]));
	if (w->marks == MARKS)
		return;
	m = &w->mark[w->marks];
	memset(m, 0, sizeof(*m));
	memcpy(m->file, w->file, sizeof(m->file));
	memcpy(m->touched, w->lost, sizeof(m->touched));
	memcpy(m->gone, w->lost, sizeof(m->gone));
	if (w->marks) {
		ok(record_open(w->log, &log));
		m->event = record_events(log);
		record_close(log);
	}
	w->marks++;
}

static void new_name(struct world *w, unsigned id, char kind, char path[64])
{
	MUST(w->names < NAMES);
	snprintf(path, 64, "/%s/%c%u", below(w, 2) ? "a" : "b", kind, w->names);
	w->owner[w->names++] = id;
}

static void make(struct world *w, unsigned i)
{
	struct file *f = &w->file[i];

	memset(f, 0, sizeof(*f));
	f->kind = below(w, 4) ? CFS_FILE : CFS_DISK;
	f->there = true;
	f->size = f->kind == CFS_DISK ? GRAINS * (uint64_t)GRAIN : 0;
	f->id = ++w->ids;
	new_name(w, f->id, 'n', f->path);
	ok(cfs_create(fs_of(w), f->path, f->kind, f->size));
}

/*
 * What lay in the inode moves to a grain, and that is written in place: a crash in between leaves the new content
 * under the old size, which ends within a sector.
 */
static void note_cut(struct world *w, const struct file *f, const uint8_t *sector)
{
	uint8_t cut[SHOT_SECTOR] = {0};

	memcpy(cut, sector, f->size % SHOT_SECTOR);
	note(w, f->id, shot_hash(cut));
}

/* Whole grains, or, in a small file, its only content. */
static void fill(struct world *w, unsigned i, unsigned first, unsigned n)
{
	struct file *f = &w->file[i];
	uint64_t bytes = (uint64_t)n * GRAIN;
	uint8_t *buf = xcalloc(n, GRAIN);
	struct cfs_file *file;

	if (f->kind == CFS_DISK) { /* does not grow */
		first %= (unsigned)(f->size / GRAIN);
		n = (unsigned)MIN((uint64_t)n, f->size / GRAIN - first);
		bytes = (uint64_t)n * GRAIN;
	}
	if (f->kind == CFS_FILE && f->size < GRAIN && below(w, 2)) { /* in the inode */
		first = 0;
		n = 1;
		bytes = 8 * (1 + below(w, 380));
	}
	lun_pattern(buf, bytes, ++w->writes * 77);
	if (bytes < GRAIN) /* what is longer there already stays */
		bytes = MAX(bytes, f->size);
	ok(cfs_open(fs_of(w), f->path, CFS_OPEN_WRITE, 0, &file));
	assert_int_equal(cfs_pwrite(file, buf, bytes, (uint64_t)first * GRAIN), bytes);
	for (unsigned g = 0; g < n * IN_GRAIN; g++) {
		f->sector[first * IN_GRAIN + g] = shot_hash(buf + (size_t)g * SHOT_SECTOR);
		note(w, f->id, f->sector[first * IN_GRAIN + g]);
	}
	if (f->size % SHOT_SECTOR && first == 0 && bytes >= GRAIN)
		note_cut(w, f, buf + f->size / SHOT_SECTOR * SHOT_SECTOR);
	f->size = MAX(f->size, (uint64_t)first * GRAIN + bytes);
	if (below(w, 3) == 0)
		ok(cfs_fsync(file));
	ok(cfs_close(file));
	free(buf);
}

static void cut(struct world *w, unsigned i)
{
	struct file *f = &w->file[i];
	struct cfs_file *file;
	uint64_t size = (1 + below(w, GRAINS - 1)) * (uint64_t)GRAIN;

	ok(cfs_open(fs_of(w), f->path, CFS_OPEN_WRITE, 0, &file));
	if (f->size % GRAIN == 0) {
		ok(cfs_truncate(file, size));
		for (uint64_t g = size / SHOT_SECTOR; g < GRAINS * IN_GRAIN; g++)
			f->sector[g] = 0;
		f->size = size;
	} else if (below(w, 2)) {
		ok(cfs_allocate(file, 0, f->size));
	}
	ok(cfs_close(file));
}

static void move(struct world *w, unsigned i)
{
	struct file *f = &w->file[i];
	char to[64];

	new_name(w, f->id, 'm', to);
	ok(cfs_rename(fs_of(w), f->path, to));
	memcpy(f->path, to, sizeof(to));
}

/* Another file with a new content takes its name. */
static void replace(struct world *w, unsigned i)
{
	struct file *f = &w->file[i];
	char path[64];

	memcpy(path, f->path, sizeof(path));
	snprintf(f->path, sizeof(f->path), "/%.1s/r%u", path + 1, w->names);
	MUST(w->names < NAMES);
	w->owner[w->names++] = f->id;
	ok(cfs_create(fs_of(w), f->path, f->kind, 0));
	memset(f->sector, 0, sizeof(f->sector));
	f->size = 0;
	fill(w, i, 0, 1 + below(w, 8));
	ok(cfs_replace(fs_of(w), f->path, path));
	memcpy(f->path, path, sizeof(path));
}

static void step(struct world *w)
{
	unsigned i = below(w, FILES);
	struct file *f = &w->file[i];
	unsigned first = below(w, GRAINS - 1), most;

	if (w->lost[i])
		return;
	/* Each host has its files, and now and then one of the other's. */
	w->at = w->alone ? 1 : (i + (below(w, 8) == 0)) % w->hosts;
	touch(w, i);
	if (!f->there) {
		make(w, i);
		return;
	}
	switch (below(w, 10)) {
	case 0:
		take_away(w, i);
		ok(cfs_unlink(fs_of(w), f->path));
		f->there = false;
		break;
	case 1:
	case 2:
		take_away(w, i);
		move(w, i);
		break;
	case 4:
		if (f->kind == CFS_FILE)
			replace(w, i);
		break;
	case 3:
		cut(w, i);
		break;
	default:
		most = below(w, 4) ? 8 : 200;
		fill(w, i, first, 1 + below(w, MIN(GRAINS - first, most)));
		break;
	}
}

static void copy_image(const char *from, const char *to)
{
	char *cmd = xasprintf("cp --sparse=always '%s' '%s'", from, to);

	assert_int_equal(system(cmd), 0);
	free(cmd);
}

static void work(struct world *w, uint64_t steps)
{
	for (uint64_t i = 0; i < steps; i++) {
		step(w);
		if (below(w, 8) == 0)
			mark(w);
	}
}

/* The first host dies in the middle of things; the second one finds out, and goes on. */
static void go_on_alone(struct world *w, uint64_t steps)
{
	uint64_t end;
	int rc;

	mark(w);
	for (unsigned i = 0; i < 6; i++)
		step(w);
	memcpy(w->lost, w->mark[w->marks - 1].touched, sizeof(w->lost));
	vol_abandon(w->v, 0);
	w->alone = true;
	w->at = 1;
	end = clock_boot_ms() + 60000;
	do { /* until its locks can be had */
		rc = cfs_mkdir(fs_of(w), "/a/went");
		if (rc == -EBUSY)
			sleep_ms(50);
	} while (rc == -EBUSY && clock_boot_ms() < end);
	ok(rc);
	ok(cfs_rename(fs_of(w), "/a/went", "/b/went"));
	ok(cfs_unlink(fs_of(w), "/b/went"));
	mark(w);
	work(w, steps);
}

static int prepare(void **state, unsigned hosts, uint64_t steps, uint64_t seed)
{
	struct world *w = xcalloc(1, sizeof(*w));

	log_set_level(getenv("TEST_VERBOSE") ? LOG_INFO : LOG_ERROR);
	*state = w;
	w->rnd = number("TEST_SEED", seed) * 0x9e3779b97f4a7c15ULL | 1;
	w->mark = xcalloc(MARKS, sizeof(*w->mark));
	w->seen = xcalloc(SEEN, sizeof(*w->seen));
	w->v = hosts > 1 ? vol_make_patient(SIZE) : vol_make(SIZE);
	w->base = xasprintf("%s.base", w->v->lun);
	w->log = xasprintf("%s.log", w->v->lun);
	w->hosts = 1;
	/*
	 * Each slot's journal has its place: a crash while it is given one only leaks (DESIGN 6). Hosts come again to
	 * the slot they had; they have one each as they are there together.
	 */
	for (unsigned h = 0; h < hosts; h++)
		ok(vol_mount(w->v, h, NULL));
	for (unsigned h = 1; h < hosts; h++)
		ok(vol_unmount(w->v, h));
	ok(cfs_mkdir(fs_of(w), "/a"));
	ok(cfs_mkdir(fs_of(w), "/b"));
	w->marks = 1; /* only for touch() */
	for (unsigned i = 0; i < 40; i++)
		step(w);
	ok(vol_unmount(w->v, 0));
	copy_image(w->v->lun, w->base);
	if (hosts > 1)
		vol_hurry(w->base);
	w->hosts = hosts;
	for (unsigned h = 0; h < hosts; h++)
		ok(vol_mount(w->v, h, w->log));
	w->marks = 0;
	mark(w);
	work(w, steps);
	if (hosts > 1)
		go_on_alone(w, steps / 4);
	mark(w);
	vol_abandon(w->v, hosts - 1);
	return 0;
}

static int setup(void **state)
{
	return prepare(state, 1, number("TEST_STEPS", 220), 1);
}

static int setup_two(void **state)
{
	return prepare(state, 2, number("TEST_STEPS", 60), 1);
}

/* In this work an inode that one host freed is made anew by the other and then changed by the first, all soon. */
static int setup_freed_and_back(void **state)
{
	return prepare(state, 2, 60, 332);
}

static int teardown(void **state)
{
	struct world *w = *state;

	unlink(w->base);
	unlink(w->log);
	free(w->base);
	free(w->log);
	free(w->mark);
	free(w->seen);
	vol_free(w->v);
	free(w);
	return 0;
}

/* --- after the crash -------------------------------------------------------------------------------------- */

/* For the message: where else that content was. */
static const char *whose(const struct world *w, uint64_t sector)
{
	for (unsigned m = 0; m < w->marks; m++) {
		for (unsigned i = 0; i < FILES; i++) {
			const struct file *f = &w->mark[m].file[i];

			for (unsigned g = 0; g < GRAINS * IN_GRAIN; g++) {
				if (f->sector[g] == sector)
					return f->path;
			}
		}
	}
	return "nobody's";
}

static bool differs(const char *path, const char *what)
{
	fprintf(stderr, "crash: %s: %s\n", path, what);
	return false;
}

/* What was durable is there; what was touched since holds only what it ever held. */
static bool right(const struct world *w, const struct mark *m, const struct shot *s)
{
	for (unsigned i = 0; i < FILES; i++) {
		const struct file *f = &m->file[i];
		const struct shot_file *x = shot_find(s, f->path);

		if (m->gone[i] || !f->there)
			continue;
		if (!x)
			return differs(f->path, "was durable, is gone");
		if (m->touched[i])
			continue;
		if (x->stat.kind != f->kind || x->stat.size != f->size)
			return differs(f->path, "was durable, has another kind or size");
		if (memcmp(x->sector, f->sector, x->sectors * sizeof(*x->sector)) != 0)
			return differs(f->path, "was durable, has another content");
	}
	for (size_t i = 0; i < s->n; i++) {
		const struct shot_file *x = &s->file[i];

		for (size_t g = 0; g < x->sectors; g++) {
			if (!x->sector[g] || was(w, x->path, x->sector[g]))
				continue;
			fprintf(stderr, "crash: sector %zu of %zu: %s\n", g, x->sectors,
				whose(w, x->sector[g]));
			return differs(x->path, "holds what was never written to it");
		}
	}
	return true;
}

/* The dead host's locks are free once its slot was taken over: a file held by it is tried again. */
static int take_shot(struct cfs *fs, struct shot *s)
{
	uint64_t end = clock_boot_ms() + 30000;
	int rc = -EBUSY;

	while (rc == -EBUSY && clock_boot_ms() < end) {
		if (s->n) {
			shot_free(s);
			sleep_ms(100);
		}
		rc = shot_take(fs, s);
	}
	return rc;
}

static bool clean(struct vol *v, const char *when)
{
	struct cfs_check_result r;
	int rc = vol_check(v, false, true, &r);

	if (rc == 0 && r.findings == 0)
		return true;
	fprintf(stderr, "crash: check %s: %d, %llu findings\n", when, rc,
		(unsigned long long)r.findings);
	return false;
}

static bool one_point(struct world *w, const struct record_log *log, const char *path,
		      unsigned point, enum record_choice choice, uint64_t seed)
{
	const struct mark *m = &w->mark[0];
	struct shot s = {0};
	struct vol *v;
	bool good;
	int fd, rc;

	copy_image(w->base, path);
	fd = open(path, O_RDWR);
	assert_true(fd >= 0);
	ok(record_replay(log, point, choice, seed, lun_put, &fd));
	close(fd);
	for (unsigned i = 0; i < w->marks && w->mark[i].event <= point; i++)
		m = &w->mark[i];
	v = vol_open(path);
	good = clean(v, "in memory");
	if (good) {
		rc = vol_mount(v, LATER, NULL);
		if (rc == 0)
			rc = take_shot(v->fs[LATER], &s);
		if (rc < 0)
			fprintf(stderr, "crash: %s\n", err_message(rc));
		good = rc == 0 && right(w, m, &s);
		if (rc == 0)
			shot_free(&s);
		if (v->fs[LATER])
			good &= vol_unmount(v, LATER) == 0;
		good = good && clean(v, "after recovery");
	}
	if (!good && getenv("TEST_KEEP")) { /* as it was after the cut: look with debug dump */
		copy_image(w->base, getenv("TEST_KEEP"));
		fd = open(getenv("TEST_KEEP"), O_RDWR);
		ok(record_replay(log, point, choice, seed, lun_put, &fd));
		close(fd);
	}
	if (!good)
		fprintf(stderr, "crash: point %u, choice %d, seed %llu, mark %d\n", point, choice,
			(unsigned long long)seed, (int)(m - w->mark));
	vol_free(v);
	return good;
}

static int worker(struct world *w, unsigned me, uint64_t points, uint64_t end_ms)
{
	char *path = xasprintf("%s.%u", w->v->lun, me);
	struct record_log *log;
	uint64_t done = 0;
	bool good = true;

	ok(record_open(w->log, &log));
	for (uint64_t i = me; i < points && good && clock_boot_ms() < end_ms;
	     i += WORKERS, done++) {
		unsigned point;

		w->rnd = (i + 1) * 0x9e3779b97f4a7c15ULL ^ number("TEST_SEED", 1) << 32;
		(void)next(w);
		point = below(w, record_events(log) + 1);
		if (getenv("TEST_POINT"))
			point = (unsigned)number("TEST_POINT", 0);
		good = one_point(
			w, log, path, point,
			(enum record_choice)number("TEST_CHOICE", i % 3 ? RECORD_RANDOM : i % 2),
			number("TEST_CHOICE_SEED", next(w)));
	}
	record_close(log);
	fprintf(stderr, "crash: worker %u: %llu points\n", me, (unsigned long long)done);
	free(path);
	return good && done ? 0 : 1;
}

static void cuts(void **state, uint64_t seconds)
{
	struct world *w = *state;
	uint64_t end = clock_boot_ms() + number("TEST_SECONDS", seconds) * 1000;
	unsigned workers = getenv("TEST_POINT") ? 1 : WORKERS;
	pid_t pid[WORKERS];
	int failed = 0;

	for (unsigned i = 0; i < workers; i++) {
		pid[i] = fork();
		assert_true(pid[i] >= 0);
		if (pid[i] == 0)
			_exit(worker(w, i, workers == 1 ? 1 : number("TEST_POINTS", 400), end));
	}
	for (unsigned i = 0; i < workers; i++) {
		int status;

		assert_int_equal(waitpid(pid[i], &status, 0), pid[i]);
		failed += !WIFEXITED(status) || WEXITSTATUS(status) != 0;
	}
	assert_int_equal(failed, 0);
}

static void test_power_cuts(void **state)
{
	cuts(state, 25);
}

static void test_power_cuts_of_two(void **state)
{
	cuts(state, 20);
}

/* The work itself aborted: the host gave the inode out a second time. */
static void test_freed_and_back(void **state)
{
	struct world *w = *state;

	assert_true(clean(w->v, "after the work"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_power_cuts, setup, teardown),
		cmocka_unit_test_setup_teardown(test_power_cuts_of_two, setup_two, teardown),
		cmocka_unit_test_setup_teardown(test_freed_and_back, setup_freed_and_back,
						teardown),
	};
	unsigned only = getenv("TEST_ONLY") ? (unsigned)number("TEST_ONLY", 0) : 3;

	if (only < 3)
		return _cmocka_run_group_tests("crash", tests + only, 1, NULL, NULL);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
