// SPDX-License-Identifier: Apache-2.0
/*
 * A VM's lock that keeps a saved state: laid down by one host, taken up by one; races, lost answers, dead hosts,
 * volume check. The state is an empty file here.
 */
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "blockdev/fault.h"
#include "clusterfs/cfs_format.h"
#include "clusterfs/handover.h"
#include "tests/lib/check.h"
#include "tests/lib/roam.h"

static void make_state(struct roam *w, unsigned i, const char *path, struct cfs_saved *out)
{
	struct cfs_stat st;

	ok(cfs_create(roam_fs(w, i), path, CFS_FILE, 0));
	ok(cfs_sync(roam_fs(w, i)));
	ok(cfs_stat(roam_fs(w, i), path, &st));
	out->inode = st.inode;
	memcpy(out->id, st.id, sizeof(out->id));
}

static void assert_saved(struct roam *w, const struct cfs_saved *state)
{
	struct cfs_vm_where where;

	for (unsigned i = 0; i < VOL_HOSTS; i++) {
		if (!w->v->fs[i])
			continue;
		ok(cfs_vm_where(roam_fs(w, i), "/vm", &where));
		assert_int_equal(where.state, CFS_VM_SAVED);
		assert_false(where.here);
		assert_memory_equal(&where.saved, state, sizeof(*state));
	}
}

static void save(struct roam *w, unsigned i, const struct cfs_saved *state)
{
	ok(cfs_vm_save(w->vm[i], state));
	roam_forget(w, i);
}

static void wake(struct roam *w, unsigned i, const struct cfs_saved *state)
{
	bool tried = false;

	ok(cfs_vm_restore(roam_fs(w, i), "/vm", state, &tried, &w->vm[i]));
	roam_open_disks(w, i);
	roam_read_back(w, i);
	roam_write_round(w, i);
}

static void test_there_and_back(void **state)
{
	bool tried = false;
	struct cfs_saved s, other;
	struct cfs_vm_lock *vm;
	struct cfs_file *file;
	struct roam w;
	char host[64];

	(void)state;
	roam_make(&w, 3, 3);
	make_state(&w, A, "/s1", &s);
	make_state(&w, A, "/s2", &other);
	save(&w, A, &s);
	assert_saved(&w, &s);
	/* Nobody has it by starting, adopting, accepting it; nor its disks, to read or to write. */
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(cfs_vm_lock(roam_fs(&w, i), "/vm", 0, &vm), -EBUSY);
		assert_int_equal(cfs_vm_adopt(roam_fs(&w, i), "/vm", &vm), -ENOENT);
		assert_int_equal(cfs_vm_owner(roam_fs(&w, i), "/vm", host, sizeof(host)), -ENOENT);
		assert_int_equal(cfs_vm_decline(roam_fs(&w, i), "/vm"), -ENOENT);
		assert_int_equal(cfs_open(roam_fs(&w, i), "/d0", 0, 0, &file), -EBUSY);
		assert_int_equal(cfs_open(roam_fs(&w, i), "/d0", CFS_OPEN_WRITE, 0, &file), -EBUSY);
		assert_int_equal(cfs_unlink(roam_fs(&w, i), "/d0"), -EBUSY);
	}
	assert_int_equal(roam_take_up(&w, A, B), -ENOENT);
	/* Only with the state it was saved with. */
	assert_int_equal(cfs_vm_restore(roam_fs(&w, B), "/vm", &other, &tried, &vm), -ENOENT);
	wake(&w, B, &s);
	assert_int_equal(cfs_vm_restore(roam_fs(&w, B), "/vm", &s, &tried, &vm), -EBUSY);
	assert_int_equal(cfs_vm_restore(roam_fs(&w, A), "/vm", &s, &tried, &vm), -ENOENT);
	/* A second state; the first is nothing any more. */
	save(&w, B, &other);
	assert_int_equal(cfs_vm_restore(roam_fs(&w, A), "/vm", &s, &tried, &vm), -ENOENT);
	assert_saved(&w, &other);
	wake(&w, A, &other);
	roam_end(&w, A);
}

/* Not ours any more, not yet, or twice. */
static void test_take_back(void **state)
{
	struct cfs_saved s;
	struct roam w;

	(void)state;
	roam_make(&w, 2, 2);
	make_state(&w, A, "/s", &s);
	ok(roam_offer(&w, A, B));
	assert_int_equal(cfs_vm_save(w.vm[A], &s), -EBUSY); /* being handed over */
	ok(cfs_vm_retract(w.vm[A]));
	roam_write_round(&w, A);
	ok(cfs_vm_save(w.vm[A], &s));
	assert_int_equal(cfs_vm_retract(w.vm[A]), -ENOENT); /* saved is saved */
	assert_saved(&w, &s);
	roam_forget(&w, A);
	wake(&w, A, &s);
	roam_end(&w, A);
}

/* The saver is dead, its journal replayed by another: the disks are as they were at the save. */
static void test_dead_saver(void **state)
{
	struct cfs_saved s;
	struct roam w;
	uint32_t epoch;
	unsigned slot;

	(void)state;
	roam_make(&w, 2, 3);
	make_state(&w, A, "/s", &s);
	cfs_life(roam_fs(&w, A), &slot, &epoch);
	ok(cfs_vm_save(w.vm[A], &s)); /* and no word more from there */
	roam_die(&w, A);
	wake(&w, B, &s); /* while it is taken over, or before */
	roam_wait_over(&w, C, slot, epoch);
	roam_read_back(&w, B);
	roam_write_round(&w, B);
	roam_end(&w, B);
}

/* A restorer that dies: stale as any VM's lock, and without the state. */
static void test_dead_restorer(void **state)
{
	bool tried = false;
	struct cfs_saved s;
	struct cfs_vm_lock *vm;
	struct cfs_vm_where where;
	struct roam w;
	uint32_t epoch;
	unsigned slot;

	(void)state;
	roam_make(&w, 1, 3);
	make_state(&w, A, "/s", &s);
	save(&w, A, &s);
	wake(&w, B, &s);
	cfs_life(roam_fs(&w, B), &slot, &epoch);
	roam_die(&w, B);
	roam_wait_over(&w, C, slot, epoch);
	ok(cfs_vm_where(roam_fs(&w, C), "/vm", &where));
	assert_int_equal(where.state, CFS_VM_STOPPED);
	assert_int_equal(cfs_vm_restore(roam_fs(&w, C), "/vm", &s, &tried, &vm), -ENOENT);
	ok(cfs_vm_lock(roam_fs(&w, C), "/vm", 20000, &w.vm[C]));
	roam_open_disks(&w, C);
	roam_read_back(&w, C);
	roam_end(&w, C);
}

/* --- races ------------------------------------------------------------------------------------------- */

struct racer {
	struct roam *w;
	pthread_barrier_t *start;
	const struct cfs_saved *state;
	unsigned delay_us;
	int rc;
};

static void *race_restore(void *arg)
{
	struct racer *r = arg;
	bool tried = false;

	pthread_barrier_wait(r->start);
	usleep(r->delay_us);
	r->rc = cfs_vm_restore(roam_fs(r->w, B), "/vm", r->state, &tried, &r->w->vm[B]);
	return NULL;
}

static void test_race(void **state)
{
	unsigned won[2] = {0, 0};
	pthread_barrier_t start;
	struct cfs_saved s;
	struct roam w;

	(void)state;
	roam_make(&w, 1, 2);
	make_state(&w, A, "/s", &s);
	pthread_barrier_init(&start, NULL, 2);
	for (unsigned i = 0; i < 100; i++) {
		struct racer r = {.w = &w, .start = &start, .state = &s, .delay_us = i * 7 % 200};
		pthread_t thread;
		bool tried = false;
		int rc;

		s.id[0] = (uint8_t)i; /* as if another file each time */
		save(&w, A, &s);
		assert_int_equal(pthread_create(&thread, NULL, race_restore, &r), 0);
		pthread_barrier_wait(&start);
		usleep(i * 13 % 200);
		rc = cfs_vm_restore(roam_fs(&w, A), "/vm", &s, &tried, &w.vm[A]);
		pthread_join(thread, NULL);
		assert_true(rc == 0 || rc == -ENOENT);
		assert_int_equal(r.rc, rc == 0 ? -ENOENT : 0); /* exactly one */
		won[rc == 0]++;
		if (rc == 0) {
			roam_open_disks(&w, A);
			continue;
		}
		roam_open_disks(&w, B);
		roam_hand_over(&w, B, A, false);
	}
	print_message("by the saver %u, by the other %u\n", won[1], won[0]);
	assert_true(won[0] > 0 && won[1] > 0);
	pthread_barrier_destroy(&start);
	roam_end(&w, A);
}

/* --- answers that get lost --------------------------------------------------------------------------- */

static unsigned strike(uint64_t vm, enum fault_kind kind, unsigned value, unsigned ms)
{
	struct fault f = {.kind = kind,
			  .value = value,
			  .ops = FAULT_CAS,
			  .from = vm * CFS_BLOCK,
			  .to = (vm + 1) * CFS_BLOCK,
			  .times = ms ? 0 : 3,
			  .for_ms = ms,
			  .seed = 7};
	unsigned id;

	(void)str_format(f.target, sizeof(f.target), "file.test");
	ok(fault_add(&f, &id));
	return id;
}

static int again(int rc)
{
	return rc == -EIO || rc == -ETIMEDOUT || rc == -ENOTCONN || rc == -EAGAIN;
}

/* Saved, or as before: known at the end, whatever is lost. True: saved. */
static bool surely_save(struct roam *w, const struct cfs_saved *s)
{
	int rc = cfs_vm_save(w->vm[A], s);

	while (rc < 0 && again(rc = cfs_vm_retract(w->vm[A])))
		;
	if (rc == 0) /* of save, or of retract: the record says which */
	{
		struct cfs_vm_where where;

		ok(cfs_vm_where(roam_fs(w, C), "/vm", &where));
		return where.state == CFS_VM_SAVED;
	}
	assert_int_equal(rc, -ENOENT);
	return true;
}

static void test_lost_answers(void **state)
{
	static const struct {
		enum fault_kind kind;
		unsigned value, ms;
	} faults[] = {{FAULT_LOST_ANSWER, 60, 0},
		      {FAULT_LATE_WRITE, 150, 0},
		      {FAULT_LOST_ANSWER, 100, 2500},
		      {FAULT_HANG, 100, 2500}};
	unsigned saved = 0, turns = 8;
	struct cfs_saved s;
	struct roam w;
	uint64_t vm;

	(void)state;
	roam_make_as(&w, NULL, 1, 3, true);
	make_state(&w, A, "/s", &s);
	vm = cfs_vm_lock_vbn(w.vm[A]);
	for (unsigned i = 0; i < turns; i++) {
		unsigned k = i % ARRAY_SIZE(faults);
		unsigned id = strike(vm, faults[k].kind, faults[k].value, faults[k].ms);
		bool is, tried = false;
		int rc;

		s.id[0] = (uint8_t)i;
		is = surely_save(&w, &s);
		fault_clear(id);
		if (!is) {
			roam_write_round(&w, A);
			continue;
		}
		saved++;
		assert_saved(&w, &s);
		roam_forget(&w, A);
		id = strike(vm, faults[k].kind, faults[k].value, faults[k].ms);
		do
			rc = cfs_vm_restore(roam_fs(&w, A), "/vm", &s, &tried, &w.vm[A]);
		while (again(rc));
		fault_clear(id);
		ok(rc);
		roam_open_disks(&w, A);
		roam_read_back(&w, A);
		roam_write_round(&w, A);
	}
	print_message("%u of %u saved\n", saved, turns);
	assert_true(saved > 0);
	roam_end(&w, A);
}

/* --- volume check -------------------------------------------------------------------------------------- */

static void test_check(void **state)
{
	struct cfs_check_result result;
	struct cfs_saved s;
	struct roam w;

	(void)state;
	roam_make(&w, 2, 2);
	make_state(&w, A, "/s", &s);
	save(&w, A, &s);
	ok(vol_unmount(w.v, A));
	ok(vol_unmount(w.v, B));
	for (unsigned repair = 0; repair < 2; repair++) {
		ok(vol_check(w.v, repair, true, &result));
		assert_int_equal(result.findings, 0);
	}
	ok(vol_mount(w.v, B, NULL));
	assert_saved(&w, &s);
	ok(cfs_unlink(roam_fs(&w, B), "/s")); /* somebody takes it away */
	ok(vol_unmount(w.v, B));
	ok(vol_check(w.v, true, false, &result));
	assert_int_equal(result.findings, 1); /* told, and left to a person */
	assert_int_equal(result.mended, 0);
	ok(vol_mount(w.v, A, NULL));
	assert_saved(&w, &s);
	ok(vol_mount(w.v, B, NULL));
	wake(&w, B, &s); /* as to throw it away does */
	roam_end(&w, B);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_there_and_back), cmocka_unit_test(test_take_back),
		cmocka_unit_test(test_dead_saver),     cmocka_unit_test(test_dead_restorer),
		cmocka_unit_test(test_race),	       cmocka_unit_test(test_lost_answers),
		cmocka_unit_test(test_check),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
