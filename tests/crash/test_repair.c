// SPDX-License-Identifier: Apache-2.0
/*
 * Damages a volume in one place, repairs it, and looks: the repair must end, a second check must find
 * nothing, the volume must mount and be read. Where the damage is one byte that the checksum shows,
 * everything must be as it was; otherwise what differs must have been told.
 *
 *	TEST_SEED=n TEST_CASES=n TEST_ONLY=0..2 build/tests/crash/test_repair	another, or a longer, run
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/checksum.h"
#include "base/clock.h"
#include "base/log.h"
#include "blockdev/record.h"
#include "clusterfs/volume.h"
#include "tests/lib/check.h"
#include "tests/lib/lun.h"
#include "tests/lib/shot.h"
#include "tests/lib/vol.h"

#define SIZE (256 * MiB)

struct spot { /* a metadata block */
	unsigned lun;
	uint64_t block; /* there */
	unsigned type;
};
struct world {
	struct vol *v;
	char *base[VOL_LUNS]; /* the images before the damage */
	struct shot before;
	size_t n;
	struct spot *spot;
	uint64_t seed;
};

static uint64_t next(struct world *w)
{
	w->seed ^= w->seed << 13;
	w->seed ^= w->seed >> 7;
	w->seed ^= w->seed << 17;
	return w->seed;
}

static uint64_t below(struct world *w, uint64_t n)
{
	return next(w) % n;
}

static uint64_t number(const char *name, uint64_t otherwise)
{
	const char *s = getenv(name);

	return s ? strtoull(s, NULL, 0) : otherwise;
}

/* --- the volume --------------------------------------------------------------------------------------- */

static void write_file(struct cfs *fs, const char *path, enum cfs_file_kind kind, uint64_t size,
		       const uint64_t *at, const uint64_t *n, unsigned pieces)
{
	uint8_t *buf = xcalloc(1, 4 * MiB);
	struct cfs_file *f;

	ok(cfs_create(fs, path, kind, size));
	ok(cfs_open(fs, path, CFS_OPEN_WRITE, 0, &f));
	for (unsigned i = 0; i < pieces; i++) {
		lun_pattern(buf, ROUND_UP(n[i], 8), at[i] + checksum64(path, strlen(path)));
		assert_int_equal(cfs_pwrite(f, buf, n[i], at[i]), n[i]);
	}
	ok(cfs_close(f));
	free(buf);
}

static void populate(struct cfs *fs)
{
	static const uint64_t at[] = {0, 3 * MiB, 11 * MiB + 512, 25 * MiB},
			      n[] = {70000, 300, 2 * MiB, 1 * MiB};
	char path[128];

	ok(cfs_mkdir(fs, "/many"));
	for (unsigned i = 0; i < 150; i++) {
		snprintf(path, sizeof(path), "/many/file-with-a-longer-name-%u", i);
		ok(cfs_create(fs, path, CFS_FILE, 0));
	}
	ok(cfs_mkdir(fs, "/deep"));
	ok(cfs_mkdir(fs, "/deep/er"));
	ok(cfs_mkdir(fs, "/deep/er/empty"));
	write_file(fs, "/deep/er/small", CFS_FILE, 0, at, (uint64_t[]){700}, 1);
	write_file(fs, "/deep/vm", CFS_VM, 0, at, (uint64_t[]){300}, 1);
	write_file(fs, "/deep/big", CFS_FILE, 0, at, n, 4);
	write_file(fs, "/disk", CFS_DISK, 40 * MiB, at, n, 4);
	write_file(fs, "/disk2", CFS_DISK, 2 * GiB, at, n, 3);
}

static void find_spots(struct world *w, unsigned lun)
{
	uint8_t *block = xmalloc(CFS_BLOCK);
	int fd = open(w->base[lun], O_RDONLY);

	assert_true(fd >= 0);
	for (uint64_t b = 256; b < SIZE / CFS_BLOCK; b++) {
		const struct cfs_head *h = (const void *)block;

		assert_int_equal(pread(fd, block, CFS_BLOCK, (off_t)(b * CFS_BLOCK)), CFS_BLOCK);
		if (le32_get(h->magic) != CFS_MAGIC || le64_get(h->self) != cfs_vbn(lun, b) ||
		    le16_get(h->type) >= CFS_T_END)
			continue;
		w->spot = xrealloc(w->spot, (w->n + 1) * sizeof(*w->spot));
		w->spot[w->n++] = (struct spot){lun, b, le16_get(h->type)};
	}
	close(fd);
	free(block);
}

static void copy_image(const char *from, const char *to)
{
	char *cmd = xasprintf("cp --sparse=always '%s' '%s'", from, to);

	assert_int_equal(system(cmd), 0);
	free(cmd);
}

static void copy_all(struct world *w)
{
	for (unsigned e = 0; e < w->v->luns; e++)
		copy_image(w->base[e], w->v->path[e]);
}

static int prepare(void **state, unsigned luns, uint32_t block_size)
{
	struct world *w = xcalloc(1, sizeof(*w));
	char path[16];

	log_set_level(getenv("TEST_VERBOSE") ? LOG_INFO : LOG_ERROR);
	*state = w;
	w->v = vol_make_as(SIZE, luns, block_size);
	ok(vol_mount(w->v, 0, NULL));
	populate(w->v->fs[0]);
	for (unsigned e = 1; e < luns; e++) { /* units and metadata on all of them */
		struct cfs_file *f;

		snprintf(path, sizeof(path), "/thick%u", e);
		ok(cfs_create(w->v->fs[0], path, CFS_DISK, 220 * MiB));
		ok(cfs_open(w->v->fs[0], path, CFS_OPEN_WRITE, 0, &f));
		ok(cfs_allocate(f, 0, 220 * MiB));
		ok(cfs_close(f));
	}
	ok(shot_take(w->v->fs[0], &w->before));
	ok(vol_unmount(w->v, 0));
	for (unsigned e = 0; e < luns; e++) {
		w->base[e] = xasprintf("%s.base", w->v->path[e]);
		copy_image(w->v->path[e], w->base[e]);
		find_spots(w, e);
	}
	assert_true(w->n > 300);
	return 0;
}

static int setup(void **state)
{
	return prepare(state, 1, 0);
}

static int setup_many(void **state)
{
	return prepare(state, VOL_LUNS, 4096);
}

static int teardown(void **state)
{
	struct world *w = *state;

	for (unsigned e = 0; e < w->v->luns; e++) {
		unlink(w->base[e]);
		free(w->base[e]);
	}
	shot_free(&w->before);
	vol_free(w->v);
	free(w->spot);
	free(w);
	return 0;
}

/* --- damage ------------------------------------------------------------------------------------------------ */

enum damage { FLIP, FLIP_SEALED, BYTE_SEALED, SECTOR, BLOCK, DAMAGES };
static const char *const damage_names[] = {"a bit", "a bit, sealed", "a byte, sealed", "a sector",
					   "the block"};

static bool is_record(unsigned type)
{
	return type == CFS_T_LOCK || type == CFS_T_CLAIM || type == CFS_T_BEAT;
}

/* Mostly heads and the first fields, where the meaning is dense. */
static unsigned pick_offset(struct world *w, unsigned type)
{
	unsigned end = is_record(type) ? CFS_RECORD : CFS_BLOCK;

	switch (below(w, 4)) {
	case 0:
		return (unsigned)below(w, 0x40);
	case 1:
		return 0x40 + (unsigned)below(w, 0x40);
	case 2:
		return 0x80 + (unsigned)below(w, 0x100);
	default:
		return (unsigned)below(w, end);
	}
}

/* One block of a random type, so that rare types are met as often as frequent ones. */
static const struct spot *pick_spot(struct world *w)
{
	for (;;) {
		unsigned type = 1 + (unsigned)below(w, CFS_T_END - 1);
		size_t from = below(w, w->n);

		for (size_t i = 0; i < w->n; i++) {
			const struct spot *s = &w->spot[(from + i) % w->n];

			if (s->type == type)
				return s;
		}
	}
}

struct hit {
	const struct spot *spot;
	enum damage damage;
	unsigned at;
};

static void strike(struct world *w, const struct hit *h)
{
	uint8_t *block = xmalloc(CFS_BLOCK), *was = xmalloc(CFS_BLOCK);
	off_t at = (off_t)(h->spot->block * CFS_BLOCK);
	struct cfs_head *head = (void *)block;
	int fd = open(w->v->path[h->spot->lun], O_RDWR);

	assert_int_equal(pread(fd, block, CFS_BLOCK, at), CFS_BLOCK);
	memcpy(was, block, CFS_BLOCK);
	switch (h->damage) {
	case FLIP:
	case FLIP_SEALED:
		block[h->at] ^= (uint8_t)(1u << below(w, 8));
		break;
	case BYTE_SEALED:
		block[h->at] ^= (uint8_t)(1 + below(w, 255));
		break;
	case SECTOR:
		lun_pattern(block + h->at / 512 * 512, 512, next(w));
		break;
	case BLOCK:
	case DAMAGES:
		memset(block, below(w, 2) ? 0 : 0xa5, CFS_BLOCK);
		break;
	}
	if (h->damage == FLIP_SEALED || h->damage == BYTE_SEALED)
		head->checksum = le64_of(checksum64_with_hole(
			block, is_record(h->spot->type) ? CFS_RECORD : CFS_BLOCK, CFS_CHECKSUM_AT));
	assert_int_equal(pwrite(fd, block, CFS_BLOCK, at), CFS_BLOCK);
	close(fd);
	free(block);
	free(was);
}

/* The repair has ended: nothing is left to be found, and all is there, or it was told. */
static void look(struct world *w, const struct hit *h, bool told)
{
	struct cfs_check_result second, third;
	struct shot after;
	int rc;

	ok(vol_check(w->v, false, true, &second));
	assert_int_equal(second.findings, 0);
	ok(vol_mount(w->v, 0, NULL));
	rc = shot_take(w->v->fs[0], &after);
	if (rc < 0)
		print_error("after the repair: %s\n", err_message(rc));
	assert_int_equal(rc, 0);
	if (h->damage == FLIP)
		assert_true(shot_same(&w->before, &after, true));
	else if (!shot_same(&w->before, &after, false))
		assert_true(told);
	shot_free(&after);
	ok(vol_unmount(w->v, 0));
	ok(vol_check(w->v, false, true, &third));
	assert_int_equal(third.findings, 0);
}

static void one_case(struct world *w, const struct hit *h)
{
	struct cfs_check_result first;

	copy_all(w);
	strike(w, h);
	ok(vol_check(w->v, true, getenv("TEST_VERBOSE") != NULL, &first));
	assert_int_equal(first.mended, first.findings);
	look(w, h, first.findings > 0);
}

/*
 * The repair writes in place and has no journal: it is cut off at some moment of its own, with any legal outcome
 * of what was in flight, and run again. That must end as if it had not been cut off.
 */
static void one_cut(struct world *w, const struct hit *h)
{
	char *struck = xasprintf("%s.struck", w->v->lun), *log = xasprintf("%s.log", w->v->lun);
	struct cfs_check_result first, again;
	struct record_log *events;

	copy_all(w);
	strike(w, h);
	copy_image(w->v->lun, struck);
	ok(vol_check_recorded(w->v, true, log, &first));
	ok(record_open(log, &events));
	for (unsigned i = 0; i < 2; i++) {
		unsigned point = (unsigned)below(w, record_events(events) + 1);
		uint64_t choice = next(w);
		int fd;

		copy_image(struck, w->v->lun);
		fd = open(w->v->lun, O_RDWR);
		assert_true(fd >= 0);
		ok(record_replay(events, point, choice % 3 ? RECORD_RANDOM : RECORD_ALL, choice,
				 lun_put, &fd));
		close(fd);
		if (getenv("TEST_VERBOSE"))
			fprintf(stderr, "cut at %u of %u\n", point, record_events(events));
		ok(vol_check(w->v, true, getenv("TEST_VERBOSE") != NULL, &again));
		assert_int_equal(again.mended, again.findings);
		look(w, h, first.findings > 0);
	}
	record_close(events);
	unlink(log);
	unlink(struck);
	free(log);
	free(struck);
}

static void cases(struct world *w, uint64_t first, uint64_t seconds,
		  void (*one)(struct world *w, const struct hit *h))
{
	uint64_t seed = number("TEST_SEED", first), most = number("TEST_CASES", 60);
	uint64_t end = clock_boot_ms() + number("TEST_SECONDS", seconds) * 1000, done = 0;

	for (uint64_t i = 0; i < most && clock_boot_ms() < end; i++, done++) {
		struct hit h;

		w->seed = (seed + i) * 0x9e3779b97f4a7c15ULL | 1;
		(void)next(w);
		h.spot = pick_spot(w);
		h.damage = (enum damage)below(w, DAMAGES);
		/* A label with a right checksum is believed: nothing else tells what is right. */
		if (h.spot->type == CFS_T_LABEL &&
		    (h.damage == FLIP_SEALED || h.damage == BYTE_SEALED))
			h.damage = FLIP;
		h.at = h.damage == SECTOR && is_record(h.spot->type) ? 0
								     : pick_offset(w, h.spot->type);
		/* told before, so that a crash can be found */
		if (getenv("TEST_VERBOSE"))
			fprintf(stderr,
				"TEST_SEED=%llu TEST_CASES=1: %s of %s at LUN %u %llu+0x%x\n",
				(unsigned long long)(seed + i), damage_names[h.damage],
				cfs_type_name((enum cfs_type)h.spot->type), h.spot->lun,
				(unsigned long long)h.spot->block, h.at);
		one(w, &h);
	}
	print_message("%llu cases\n", (unsigned long long)done);
	assert_true(done > 0);
}

static void test_damage(void **state)
{
	cases(*state, 1, 15, one_case);
}

/* Three LUNs, logical blocks of 4096 bytes. */
static void test_damage_of_many(void **state)
{
	cases(*state, 1001, 10, one_case);
}

/* No claim names a journal that can be one, wherever the check itself lives. */
static void test_no_journals(void **state)
{
	struct world *w = *state;
	struct hit h = {.damage = BLOCK};
	struct cfs_check_result first;
	struct cfs_claim_record claim;
	int fd;

	copy_all(w);
	fd = open(w->v->lun, O_RDWR);
	assert_true(fd >= 0);
	for (unsigned slot = 0; slot < CFS_MAX_SLOTS; slot++) {
		off_t at = (off_t)((CFS_CLAIMS + slot) * CFS_BLOCK);

		assert_int_equal(pread(fd, &claim, sizeof(claim), at), sizeof(claim));
		claim.journal = le64_of(3);
		claim.journal_blocks = le32_of(64);
		claim.head.checksum =
			le64_of(checksum64_with_hole(&claim, CFS_RECORD, CFS_CHECKSUM_AT));
		assert_int_equal(pwrite(fd, &claim, sizeof(claim), at), sizeof(claim));
	}
	close(fd);
	ok(vol_check(w->v, true, false, &first));
	assert_int_equal(first.mended, first.findings);
	assert_true(first.findings >= CFS_MAX_SLOTS);
	look(w, &h, true);
}

static void test_cut_off(void **state)
{
	cases(*state, 2001, 12, one_cut);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_damage, setup, teardown),
		cmocka_unit_test_setup_teardown(test_damage_of_many, setup_many, teardown),
		cmocka_unit_test_setup_teardown(test_cut_off, setup, teardown),
		cmocka_unit_test_setup_teardown(test_no_journals, setup, teardown),
	};
	unsigned only = getenv("TEST_ONLY") ? (unsigned)number("TEST_ONLY", 0)
					    : (unsigned)ARRAY_SIZE(tests);

	if (only < ARRAY_SIZE(tests))
		return _cmocka_run_group_tests("repair", tests + only, 1, NULL, NULL);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
