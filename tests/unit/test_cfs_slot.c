// SPDX-License-Identifier: Apache-2.0
/* Slots: taking, leaving, going on, the lease and its end, silence, wishes, takeover. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#undef fail /* base/err.h has its own */

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "base/err.h"
#include "clusterfs/locks.h"
#include "clusterfs/slot.h"
#include "clusterfs/txn.h"
#include "tests/lib/bare.h"
#include "tests/lib/lun.h"

#define BEAT  100u
#define QUIET 3u
#define LEASE 600u

/* In the place of journal replay: notes what was asked for, and fails when told so. */
static struct {
	unsigned calls, slot;
	uint32_t epoch;
	int rc;
} replayed;
int cfs_label_refresh(struct cfs *fs)
{
	(void)fs;
	return 0;
}
/* No locks here: hints for them go nowhere. */
struct cfs_lock *cfs_locks_find(struct cfs_locks *t, uint64_t vbn)
{
	(void)t;
	(void)vbn;
	return NULL;
}

int cfs_replay(struct cfs *fs, unsigned slot, uint32_t epoch, uint64_t vbn, uint32_t blocks,
	       int (*apply)(void *arg, uint64_t vbn, const void *block), void *arg)
{
	struct cfs_slot_view v;

	(void)vbn;
	(void)blocks;
	(void)apply;
	(void)arg;
	replayed.calls++;
	replayed.slot = slot;
	replayed.epoch = epoch;
	/* INV-HA-2: claimed before it is replayed. */
	assert_int_equal(cfs_slot_wait_beat(fs, 1000), 0);
	cfs_slot_view(fs, slot, &v);
	assert_int_equal(v.claim.state, CFS_SLOT_RECOVERING);
	assert_int_equal(cfs_slot_life(fs, slot, epoch), CFS_LIFE_RECOVERING);
	return replayed.rc < 0 ? fail(replayed.rc, "replay: told to fail") : 0;
}

static int setup(void **state)
{
	memset(&replayed, 0, sizeof(replayed));
	*state = bare_volume_make(256 * MiB, BEAT, QUIET, LEASE);
	return 0;
}

/* Nobody is silent in it, however busy the machine is. */
static int setup_patient(void **state)
{
	memset(&replayed, 0, sizeof(replayed));
	*state = bare_volume_make(256 * MiB, BEAT, 100, 12000);
	return 0;
}

static int teardown(void **state)
{
	bare_volume_remove(*state);
	return 0;
}

static struct bare_host *open_host(struct bare_volume *v, const char *name)
{
	return bare_host_open(v->path, v->state_dir, name);
}

static struct bare_host *take(struct bare_volume *v, const char *name, bool expect_resumed)
{
	struct bare_host *h = open_host(v, name);
	bool resumed;
	int rc = cfs_slot_take(&h->fs, false, &resumed);

	if (rc < 0)
		print_message("%s\n", err_message(rc));
	assert_int_equal(rc, 0);
	assert_int_equal(resumed, expect_resumed);
	return h;
}

static void leave(struct bare_host *h)
{
	assert_int_equal(cfs_slot_leave(&h->fs), 0);
	bare_host_close(h);
}

static void abandon(struct bare_host *h)
{
	cfs_slot_abandon(&h->fs);
	bare_host_close(h);
}

static int write_some(struct bare_host *h)
{
	uint8_t buf[CFS_BLOCK] = {1};

	return blk_write(h->blk, 202 * MiB, buf, sizeof(buf), 0);
}

static void beats(struct bare_host *h, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		assert_int_equal(cfs_slot_wait_beat(&h->fs, 2000), 0);
}

/* An event may be told a moment after its cause shows. */
static void wait_heard(struct bare_host *h, const char *kind)
{
	uint64_t end = clock_boot_ms() + 20000;

	while (!bare_host_heard(h, kind) && clock_boot_ms() < end)
		sleep_ms(5);
	assert_true(bare_host_heard(h, kind));
}

static void test_take_leave(void **state)
{
	struct bare_host *a = take(*state, "alpha", false), *b = take(*state, "beta", false);
	struct cfs_slot_view v;
	const _Atomic uint64_t *page;
	unsigned slot = a->fs.slot;

	assert_int_not_equal(a->fs.slot, b->fs.slot);
	assert_int_equal(a->fs.epoch, 1);
	/* The lease is in memory that others map, and runs ahead of now by less than itself. */
	page = mmap(NULL, 4096, PROT_READ, MAP_SHARED, a->fs.lease_fd, 0);
	assert_ptr_not_equal(page, MAP_FAILED);
	assert_true(*page > clock_boot_ns());
	assert_true(*page <= clock_boot_ns() + LEASE * NS_PER_MS);
	assert_int_equal(write_some(a), 0);
	beats(a, 2);
	cfs_slot_view(&a->fs, b->fs.slot, &v);
	assert_int_equal(v.claim.state, CFS_SLOT_ACTIVE);
	assert_string_equal(v.claim.name, "beta");
	assert_true(v.beat_valid);
	assert_int_equal(cfs_slot_life(&a->fs, b->fs.slot, 1), CFS_LIFE_ALIVE);
	leave(b);
	beats(a, 2);
	cfs_slot_view(&a->fs, v.claim.slot.b[0], &v);
	assert_int_equal(v.claim.state, CFS_SLOT_FREE);
	assert_int_equal(cfs_slot_life(&a->fs, le16_get(v.claim.slot), 1), CFS_LIFE_DEAD);
	assert_int_equal(cfs_slot_leave(&a->fs), 0);
	assert_int_equal(*page, 0); /* whoever maps it stops */
	munmap((void *)page, 4096);
	bare_host_close(a);
	/* The own old slot again, with the next epoch. */
	a = take(*state, "alpha", false);
	assert_int_equal(a->fs.slot, slot);
	assert_int_equal(a->fs.epoch, 2);
	leave(a);
}

static void test_twice(void **state)
{
	struct bare_host *a = take(*state, "alpha", false), *b = open_host(*state, "alpha");
	bool resumed;

	assert_int_equal(cfs_slot_take(&b->fs, false, &resumed), -EBUSY);
	assert_non_null(strstr(err_message(-EBUSY), "already mounted"));
	bare_host_close(b);
	leave(a);
}

static void test_resume(void **state)
{
	struct bare_host *a = take(*state, "alpha", false);
	struct cfs_claim_record before, after;
	struct cfs_slot_view v;
	unsigned slot = a->fs.slot;

	assert_int_equal(cfs_slot_set_journal(&a->fs, 4711, 64), 0);
	beats(a, 2);
	cfs_slot_view(&a->fs, slot, &v);
	before = v.claim;
	assert_int_equal(le64_get(before.journal), 4711);
	cfs_slot_abandon(&a->fs);
	assert_int_equal(write_some(a), -ESTALE); /* nothing more under the abandoned mount */
	bare_host_close(a);

	a = take(*state, "alpha", true);
	assert_int_equal(a->fs.slot, slot);
	assert_int_equal(a->fs.epoch, 1);
	beats(a, 1);
	cfs_slot_view(&a->fs, slot, &v);
	after = v.claim;
	assert_memory_not_equal(before.token, after.token, 16); /* renewed */
	assert_int_equal(le64_get(after.journal), 4711);
	leave(a);
	/* The journal's place outlives the epoch. */
	a = take(*state, "alpha", false);
	{
		uint64_t vbn;
		uint32_t blocks;

		cfs_slot_journal(&a->fs, a->fs.slot, &vbn, &blocks);
		assert_int_equal(vbn, 4711);
		assert_int_equal(blocks, 64);
	}
	leave(a);
}

static void test_wishes(void **state)
{
	struct bare_host *a = take(*state, "alpha", false), *b = take(*state, "beta", false);
	struct cfs_slot_view v;

	for (uint64_t i = 1; i <= 9; i++)
		cfs_slot_wish(&a->fs, i);
	cfs_slot_unwish(&a->fs, 5);
	cfs_slot_refuse(&a->fs, 63, 7);
	beats(a, 2);
	beats(b, 2);
	cfs_slot_view(&b->fs, a->fs.slot, &v);
	assert_int_equal(le64_get(v.beat.wishes[0]), 9); /* the oldest was dropped */
	assert_int_equal(le64_get(v.beat.wishes[4]), 0);
	assert_int_equal(le64_get(v.beat.wishes[7]), 8);
	assert_int_equal(le32_get(v.beat.refused[63]), 7);
	assert_int_equal(le64_get(v.beat.label_sequence), 1);
	leave(a);
	leave(b);
}

static void change_claim(struct bare_host *h, unsigned slot, uint8_t state, uint32_t epoch)
{
	uint8_t buf[CFS_BLOCK];
	struct cfs_claim_record *c = (void *)buf;
	uint64_t vbn = cfs_vbn(0, CFS_CLAIMS + slot);

	assert_int_equal(blk_read(h->blk, vbn * CFS_BLOCK, buf, CFS_BLOCK), 0);
	c->state = state;
	c->epoch = le32_of(epoch);
	cfs_record_seal(buf, CFS_T_CLAIM, h->fs.id, vbn);
	assert_int_equal(blk_write(h->blk, vbn * CFS_BLOCK, buf, CFS_BLOCK, BLK_UNGATED), 0);
}

/* INV-HA-1: the look after the beat finds the claim gone: this life writes nothing more. */
static void test_evicted(void **state)
{
	for (int kind = 0; kind < 2; kind++) {
		struct bare_host *a = take(*state, "alpha", false);

		change_claim(a, a->fs.slot, kind ? CFS_SLOT_ACTIVE : CFS_SLOT_RECOVERING,
			     a->fs.epoch + (uint32_t)kind);
		while (!atomic_load(&a->fs.dead))
			sleep_ms(10);
		assert_int_equal(atomic_load(a->fs.lease_end), 0);
		assert_int_equal(write_some(a), -ESTALE);
		assert_int_equal(cfs_slot_wait_beat(&a->fs, 1000), -ESTALE);
		wait_heard(a, "evicted");
		assert_int_equal(cfs_slot_leave(&a->fs), -ESTALE);
		change_claim(a, a->fs.slot, CFS_SLOT_FREE, 10);
		bare_host_close(a);
	}
}

/* A damaged claim confirms nothing: the lease runs out, and comes back when the claim does. */
static void test_lapse(void **state)
{
	struct bare_host *a = take(*state, "alpha", false);
	uint64_t vbn = cfs_vbn(0, CFS_CLAIMS + a->fs.slot);
	uint8_t good[CFS_BLOCK], bad[CFS_BLOCK];
	uint64_t end = clock_boot_ms() + 20000;
	int rc;

	assert_int_equal(blk_read(a->blk, vbn * CFS_BLOCK, good, CFS_BLOCK), 0);
	memcpy(bad, good, CFS_BLOCK);
	bad[0x60] ^= 1;
	assert_int_equal(blk_write(a->blk, vbn * CFS_BLOCK, bad, CFS_BLOCK, BLK_UNGATED), 0);
	sleep_ms(LEASE + 2 * BEAT);
	assert_int_equal(write_some(a), -ESTALE);
	wait_heard(a, "frozen");
	assert_false(atomic_load(&a->fs.dead));
	assert_int_equal(blk_write(a->blk, vbn * CFS_BLOCK, good, CFS_BLOCK, BLK_UNGATED), 0);
	wait_heard(a, "thawed");
	do { /* so short a lease may be over again before the write */
		beats(a, 1);
		rc = write_some(a);
	} while (rc == -ESTALE && clock_boot_ms() < end);
	assert_int_equal(rc, 0);
	leave(a);
}

static void test_takeover(void **state)
{
	struct bare_host *a = take(*state, "alpha", false), *b = take(*state, "beta", false);
	unsigned slot = a->fs.slot;
	uint32_t epoch = a->fs.epoch;
	uint64_t start, over, seen;

	assert_int_equal(cfs_fence_kind(&b->fs), CFS_FENCE_BY_FILE);
	assert_int_equal(cfs_slot_set_journal(&a->fs, 4711, 64), 0);
	assert_int_equal(cfs_recover_start(&b->fs), 0);
	beats(b, 2 * QUIET);
	assert_int_equal(replayed.calls, 0); /* it lives */
	assert_int_equal(cfs_slot_lease_over_ms(&b->fs, slot, epoch), UINT64_MAX);
	start = clock_boot_ms();
	abandon(a);
	beats(b, 2); /* the second one's look began after the last beat of all */
	seen = clock_boot_ms();
	while (cfs_slot_life(&b->fs, slot, epoch) != CFS_LIFE_DEAD &&
	       clock_boot_ms() < start + 5000)
		sleep_ms(10);
	assert_int_equal(cfs_slot_life(&b->fs, slot, epoch), CFS_LIFE_DEAD);
	assert_int_equal(replayed.calls, 1);
	assert_int_equal(replayed.slot, slot);
	assert_int_equal(replayed.epoch, epoch);
	wait_heard(b, "recovered");
	over = cfs_slot_lease_over_ms(&b->fs, slot, epoch);
	assert_true(over >= start + LEASE - BEAT);
	assert_true(over <= seen + LEASE);
	cfs_recover_stop(&b->fs);

	/* Its next life is a new one, in the old slot. */
	a = take(*state, "alpha", false);
	assert_int_equal(a->fs.slot, slot);
	assert_int_equal(a->fs.epoch, epoch + 1);
	assert_int_equal(cfs_slot_life(&a->fs, slot, epoch), CFS_LIFE_DEAD);
	leave(a);
	leave(b);
}

/* A takeover that fails is tried again; one whose recoverer died is superseded. */
static void test_recoverer_dies(void **state)
{
	struct bare_host *a = take(*state, "alpha", false), *b = take(*state, "beta", false), *c;
	unsigned slot_a = a->fs.slot, slot_b = b->fs.slot;
	struct cfs_slot_view v;
	uint64_t start;

	assert_int_equal(cfs_slot_set_journal(&a->fs, 4711, 64), 0);
	beats(b, 1);
	abandon(a);
	replayed.rc = -EIO;
	assert_int_equal(cfs_recover_slot(&b->fs, slot_a), -EIO);
	replayed.rc = 0;
	c = take(*state, "gamma", false);
	cfs_slot_view(&c->fs, slot_a, &v);
	assert_int_equal(v.claim.state, CFS_SLOT_RECOVERING);
	assert_int_equal(cfs_recover_slot(&c->fs, slot_a), -EBUSY); /* beta lives and is at it */
	abandon(b);
	assert_int_equal(cfs_recover_start(&c->fs), 0);
	start = clock_boot_ms();
	while (cfs_slot_life(&c->fs, slot_a, 1) != CFS_LIFE_DEAD && clock_boot_ms() < start + 5000)
		sleep_ms(10);
	assert_int_equal(cfs_slot_life(&c->fs, slot_a, 1), CFS_LIFE_DEAD);
	assert_int_equal(cfs_slot_life(&c->fs, slot_b, 1), CFS_LIFE_DEAD);
	assert_int_equal(replayed.calls, 2);
	cfs_recover_stop(&c->fs);
	leave(c);
}

static _Atomic unsigned said[5]; /* hints, by kind */
static struct cfs_hint last_evicted;

static void say_hint(void *arg, struct cfs *fs, uint64_t slots, const struct cfs_hint *hint)
{
	(void)arg;
	assert_false(slots >> fs->slot & 1);
	if (hint->kind == CFS_HINT_EVICTED)
		last_evicted = *hint;
	said[hint->kind]++;
}

/* Beats say who serves a dead life no more; hints only say when to look. */
static void test_evict_is_said(void **state)
{
	struct bare_host *a = take(*state, "alpha", false), *b = take(*state, "beta", false),
			 *c = take(*state, "gamma", false);
	unsigned slot = a->fs.slot;
	uint32_t epoch = a->fs.epoch;
	struct cfs_hint evict = {.kind = CFS_HINT_EVICT, .slot = slot, .epoch = epoch};
	struct cfs_slot_view v;
	uint64_t start;

	b->fs.options.hint = c->fs.options.hint = say_hint;
	assert_int_equal(cfs_slot_set_journal(&a->fs, 4711, 64), 0);
	assert_int_equal(cfs_recover_start(&c->fs), 0);
	/* A false hint: it lives, and is served on. */
	cfs_hint(&c->fs, b->fs.slot, &evict);
	beats(c, 4);
	beats(b, 4);
	cfs_slot_view(&b->fs, c->fs.slot, &v);
	assert_int_equal(le32_get(v.beat.refused[slot]), 0);
	assert_false(cfs_slot_evicted(&b->fs, slot, epoch));
	abandon(a);
	replayed.rc = -EIO; /* it stays in recovery */
	assert_int_equal(cfs_recover_slot(&b->fs, slot), -EIO);
	assert_int_equal(said[CFS_HINT_EVICT], 1);
	start = clock_boot_ms();
	while ((!cfs_slot_evicted(&b->fs, slot, epoch) || !said[CFS_HINT_EVICTED]) &&
	       clock_boot_ms() < start + 10000)
		sleep_ms(10);
	assert_true(cfs_slot_evicted(&b->fs, slot, epoch));
	assert_false(cfs_slot_evicted(&b->fs, slot, epoch + 1));
	assert_int_equal(said[CFS_HINT_EVICTED], 1);
	assert_int_equal(last_evicted.slot, slot);
	assert_int_equal(last_evicted.epoch, epoch);
	cfs_slot_view(&b->fs, c->fs.slot, &v);
	assert_int_equal(le32_get(v.beat.refused[slot]), epoch);
	assert_int_equal(le32_get(v.beat.refused[b->fs.slot]), 0);
	replayed.rc = 0;
	assert_int_equal(cfs_recover_slot(&b->fs, slot), 0);
	cfs_recover_stop(&c->fs);
	leave(c);
	leave(b);
}

static void test_check(void **state)
{
	struct bare_host *a = take(*state, "alpha", false), *b = open_host(*state, "beta");
	bool resumed;

	assert_int_equal(cfs_slot_take(&b->fs, true, &resumed), -EBUSY);
	assert_non_null(strstr(err_message(-EBUSY), "alpha"));
	abandon(a); /* a silent host is no hindrance */
	assert_int_equal(cfs_slot_take(&b->fs, true, &resumed), 0);
	a = open_host(*state, "gamma");
	assert_int_equal(cfs_slot_take(&a->fs, false, &resumed), -EBUSY);
	assert_non_null(strstr(err_message(-EBUSY), "volume check"));
	bare_host_close(a);
	leave(b);
}

#define MANY 64
struct many {
	struct bare_volume *v;
	struct bare_host *h[MANY];
	pthread_t thread[MANY];
	_Atomic unsigned next;
	_Atomic unsigned ok;
};

static void *many_main(void *arg)
{
	struct many *m = arg;
	unsigned i = m->next++;
	char name[16];
	bool resumed;

	(void)str_format(name, sizeof(name), "h%u", i);
	m->h[i] = open_host(m->v, name);
	if (cfs_slot_take(&m->h[i]->fs, false, &resumed) == 0)
		m->ok++;
	return NULL;
}

static void test_64(void **state)
{
	struct many *m = xcalloc(1, sizeof(*m));
	uint64_t taken = 0;

	bare_volume_remove(*state);
	*state = m->v = bare_volume_make(256 * MiB, 1000, 2, 6000);
	for (unsigned i = 0; i < MANY; i++)
		assert_int_equal(pthread_create(&m->thread[i], NULL, many_main, m), 0);
	for (unsigned i = 0; i < MANY; i++)
		pthread_join(m->thread[i], NULL);
	assert_int_equal(m->ok, MANY);
	for (unsigned i = 0; i < MANY; i++)
		taken |= 1ULL << m->h[i]->fs.slot;
	assert_int_equal(taken, UINT64_MAX);
	for (unsigned i = 0; i < MANY; i++)
		leave(m->h[i]);
	free(m);
}

int main(void)
{
#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_take_leave),
		T(test_twice),
		T(test_resume),
		T(test_wishes),
		T(test_evicted),
		T(test_lapse),
		T(test_takeover),
		T(test_recoverer_dies),
		T(test_check),
		T(test_64),
		cmocka_unit_test_setup_teardown(test_evict_is_said, setup_patient, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
