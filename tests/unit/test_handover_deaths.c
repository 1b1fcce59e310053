// SPDX-License-Identifier: Apache-2.0
/*
 * A VM that is handed over, and hosts that die or are started again before, during and after; journals that are
 * replayed long after.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#undef fail /* base/err.h has its own */

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "tests/lib/lun.h"
#include "tests/lib/roam.h"

#define ok(call)                                                          \
	do {                                                              \
		int rc_ = (int)(call);                                    \
		if (rc_ < 0)                                              \
			print_error("%s: %s\n", #call, err_message(rc_)); \
		assert_true(rc_ >= 0);                                    \
	} while (0)

static void assert_where(struct roam *w, enum cfs_vm_state state, const char *host, const char *to)
{
	for (unsigned i = 0; i < VOL_HOSTS; i++) {
		struct cfs_vm_where where;

		if (!w->v->fs[i])
			continue;
		ok(cfs_vm_where(roam_fs(w, i), "/vm", &where));
		assert_int_equal(where.state, state);
		assert_string_equal(where.host, host);
		assert_string_equal(where.to, to);
		assert_int_equal(where.here, host[0] && (unsigned)(host[4] - '0') == i);
	}
}

/* --- deaths ------------------------------------------------------------------------------------------ */

/* The source dies when it has offered: the target goes on, though its journal is replayed around it. */
static void test_source_dies(void **state)
{
	struct roam w;
	uint32_t epoch;
	unsigned slot;

	(void)state;
	for (unsigned late = 0; late < 2; late++) {
		roam_make(&w, 2, 3);
		cfs_life(roam_fs(&w, A), &slot, &epoch);
		ok(roam_offer(&w, A, B));
		roam_die(&w, A);
		if (late) /* taken over and replayed before the target takes it up */
			roam_wait_over(&w, B, slot, epoch);
		ok(cfs_vm_accept(roam_fs(&w, B), "/vm", slot, epoch, NULL, 0, &w.vm[B]));
		roam_open_disks(&w, B);
		roam_write_round(&w, B);
		roam_wait_over(&w, C, slot, epoch);
		roam_end(&w, B);
	}
}

/* And when the target is never heard of again, anybody starts it. */
static void test_source_dies_for_good(void **state)
{
	struct roam w;
	uint32_t epoch;
	unsigned slot;

	(void)state;
	for (unsigned both = 0; both < 2; both++) {
		roam_make(&w, 2, 3);
		cfs_life(roam_fs(&w, A), &slot, &epoch);
		ok(roam_offer(&w, A, B));
		roam_die(&w, A);
		if (both)
			roam_die(&w, B);
		ok(cfs_vm_lock(roam_fs(&w, C), "/vm", 30000, &w.vm[C]));
		if (!both)
			assert_int_equal(cfs_vm_accept(roam_fs(&w, B), "/vm", slot, epoch, NULL, 0,
						       &w.vm[B]),
					 -ENOENT);
		roam_open_disks(&w, C);
		roam_end(&w, C);
	}
}

struct starter {
	struct roam *w;
	int rc;
};

static void *start_cold(void *arg)
{
	struct starter *s = arg;

	s->rc = cfs_vm_lock(roam_fs(s->w, C), "/vm", 30000, &s->w->vm[C]);
	return NULL;
}

/* Both want it at once: one gets it. */
static void test_accept_or_start(void **state)
{
	struct starter s;
	struct roam w;
	pthread_t thread;
	uint32_t epoch;
	unsigned slot;
	int rc;

	(void)state;
	roam_make(&w, 1, 3);
	cfs_life(roam_fs(&w, A), &slot, &epoch);
	ok(roam_offer(&w, A, B));
	roam_die(&w, A);
	s.w = &w;
	assert_int_equal(pthread_create(&thread, NULL, start_cold, &s), 0);
	roam_wait_over(&w, B, slot, epoch);
	sleep_ms(1500); /* about when its lease is over: either may be first */
	rc = cfs_vm_accept(roam_fs(&w, B), "/vm", slot, epoch, NULL, 0, &w.vm[B]);
	pthread_join(thread, NULL);
	assert_true((rc == 0) != (s.rc == 0));
	roam_open_disks(&w, rc == 0 ? B : C);
	roam_end(&w, rc == 0 ? B : C);
}

static void test_target_dies(void **state)
{
	struct roam w;

	(void)state;
	for (unsigned over = 0; over < 2; over++) {
		uint32_t epoch;
		unsigned slot;

		roam_make(&w, 2, 3);
		cfs_life(roam_fs(&w, B), &slot, &epoch);
		ok(roam_offer(&w, A, B));
		roam_die(&w, B);
		if (over) {
			roam_wait_over(&w, A, slot, epoch);
			assert_where(&w, CFS_VM_OFFERED, "host0", "host1");
		}
		ok(cfs_vm_retract(w.vm[A]));
		roam_write_round(&w, A);
		roam_end(&w, A);
	}
}

/* The daemons are killed and come back in the same epoch: each finds out by what the lock says. */
static void test_restarts(void **state)
{
	struct cfs_vm_lock *vm;
	struct roam w;
	uint32_t epoch;
	unsigned slot;

	(void)state;
	roam_make(&w, 2, 3);
	cfs_life(roam_fs(&w, A), &slot, &epoch);
	/* The source, with an offer that nobody has taken up. */
	ok(roam_offer(&w, A, B));
	roam_die(&w, A);
	ok(vol_mount(w.v, A, NULL));
	assert_where(&w, CFS_VM_OFFERED, "host0", "host1");
	assert_int_equal(cfs_vm_lock(roam_fs(&w, A), "/vm", 0, &vm), -EBUSY);
	ok(cfs_vm_adopt(roam_fs(&w, A), "/vm", &w.vm[A]));
	roam_open_disks(&w, A);
	assert_int_equal(cfs_vm_accept(roam_fs(&w, B), "/vm", slot, epoch, NULL, 0, &vm), -ENOENT);
	roam_write_round(&w, A);
	/* With one that was. */
	ok(roam_offer(&w, A, B));
	roam_die(&w, A);
	ok(cfs_vm_accept(roam_fs(&w, B), "/vm", slot, epoch, NULL, 0, &w.vm[B]));
	roam_open_disks(&w, B);
	roam_write_round(&w, B);
	ok(vol_mount(w.v, A, NULL));
	assert_int_equal(cfs_vm_adopt(roam_fs(&w, A), "/vm", &vm), -ENOENT);
	/* The target, right after. */
	roam_die(&w, B);
	ok(vol_mount(w.v, B, NULL));
	ok(cfs_vm_adopt(roam_fs(&w, B), "/vm", &w.vm[B]));
	roam_open_disks(&w, B);
	roam_read_back(&w, B);
	roam_write_round(&w, B);
	/* The target, before: what was offered to it is not its own; it gives it back. */
	ok(roam_offer(&w, B, A));
	roam_die(&w, A);
	ok(vol_mount(w.v, A, NULL));
	assert_int_equal(cfs_vm_adopt(roam_fs(&w, A), "/vm", &vm), -ENOENT);
	ok(cfs_vm_decline(roam_fs(&w, A), "/vm"));
	ok(cfs_vm_retract(w.vm[B]));
	roam_write_round(&w, B);
	roam_end(&w, B);
}

/* --- journals that are replayed later ------------------------------------------------------------------- */

/*
 * What the source did under these locks is still in its journal, held back by another object, when it dies:
 * whoever replays it leaves alone what is the target's since.
 */
static void test_replay_after(void **state)
{
	struct roam w;
	uint32_t epoch;
	unsigned slot;

	(void)state;
	roam_make(&w, 3, 3);
	cfs_life(roam_fs(&w, A), &slot, &epoch);
	ok(cfs_mkdir(roam_fs(&w, A), "/old")); /* never checkpointed: keeps the journal's tail */
	for (unsigned i = 0; i < 5; i++)
		roam_write_round(&w, A);
	roam_hand_over(&w, A, B, true);
	for (unsigned i = 0; i < 5; i++)
		roam_write_round(&w, B);
	ok(cfs_vm_checkpoint(w.vm[B])); /* in place: replay would write over it */
	roam_die(&w, A);
	roam_wait_over(&w, B, slot, epoch);
	roam_read_back(&w, B);
	roam_write_round(&w, B);
	/* Read anew: from the medium, as the replay has left it. */
	roam_close_disks(&w, B);
	roam_open_disks(&w, B);
	roam_end(&w, B);
}

/* There and back, and then the crash: what came after the return is replayed, what came before is not. */
static void test_back_and_crash(void **state)
{
	struct roam w;
	uint32_t epoch;
	unsigned slot;

	(void)state;
	for (unsigned how = 0; how < 3; how++) {
		roam_make(&w, 2, 3);
		cfs_life(roam_fs(&w, A), &slot, &epoch);
		ok(cfs_mkdir(roam_fs(&w, A), "/old"));
		roam_write_round(&w, A);
		roam_hand_over(&w, A, B, true);
		roam_write_round(&w, B);
		roam_hand_over(&w, B, A, true);
		for (unsigned i = 0; i < how; i++)
			roam_write_round(&w, A);
		roam_die(&w, A);
		if (how == 2) { /* B's journal too */
			cfs_life(roam_fs(&w, B), &slot, &epoch);
			roam_die(&w, B);
		}
		roam_wait_over(&w, C, slot, epoch);
		ok(cfs_vm_lock(roam_fs(&w, C), "/vm", 30000, &w.vm[C]));
		roam_open_disks(&w, C);
		roam_end(&w, C);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_source_dies),	cmocka_unit_test(test_source_dies_for_good),
		cmocka_unit_test(test_accept_or_start), cmocka_unit_test(test_target_dies),
		cmocka_unit_test(test_restarts),	cmocka_unit_test(test_replay_after),
		cmocka_unit_test(test_back_and_crash),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
