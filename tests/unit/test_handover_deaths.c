// SPDX-License-Identifier: Apache-2.0
/*
 * A VM that is handed over, and hosts that die or are started again before, during and after; journals that are
 * replayed long after.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "blockdev/fault.h"
#include "clusterfs/cfs_format.h"
#include "clusterfs/volume.h"
#include "tests/lib/check.h"
#include "tests/lib/lun.h"
#include "tests/lib/roam.h"

/* What stands at block `vbn` of the first LUN, past all caches: read, or written. */
static void medium(const char *lun, uint64_t vbn, void *block, bool write)
{
	int fd = open(lun, O_RDWR | O_DIRECT | O_CLOEXEC);
	off_t at = (off_t)(cfs_vbn_block(vbn) * CFS_BLOCK);

	assert_true(fd >= 0);
	assert_int_equal(write ? pwrite(fd, block, CFS_BLOCK, at) : pread(fd, block, CFS_BLOCK, at),
			 CFS_BLOCK);
	close(fd);
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

/* Writes a record anew, as another host would; returns what was there, to be put back. */
static uint8_t *change(struct roam *w, uint64_t vbn, enum cfs_type type,
		       void (*fn)(struct roam *w, void *record))
{
	uint8_t *before = xaligned(4096, CFS_BLOCK), *buf = xaligned(4096, CFS_BLOCK);
	const struct cfs_head *head = (const void *)before;

	ok(blk_read(w->v->blk[C], vbn * CFS_BLOCK, before, CFS_BLOCK));
	memcpy(buf, before, CFS_BLOCK);
	fn(w, buf);
	cfs_record_seal(buf, type, head->volume, vbn);
	ok(blk_write(w->v->blk[C], vbn * CFS_BLOCK, buf, CFS_BLOCK, BLK_UNGATED));
	free(buf);
	return before;
}

static void put_back(struct roam *w, uint64_t vbn, uint8_t *before)
{
	ok(blk_write(w->v->blk[C], vbn * CFS_BLOCK, before, CFS_BLOCK, BLK_UNGATED));
	free(before);
}

static void taken_over(struct roam *w, void *record)
{
	struct cfs_claim_record *claim = record;
	uint32_t epoch;
	unsigned slot;

	cfs_life(roam_fs(w, C), &slot, &epoch);
	claim->state = CFS_SLOT_RECOVERING;
	claim->by_slot = le16_of((uint16_t)slot);
	claim->by_epoch = le32_of(epoch);
}

static void runs_on_c(struct roam *w, void *record)
{
	struct cfs_lock_record *r = record;
	uint32_t epoch;
	unsigned slot;

	cfs_life(roam_fs(w, C), &slot, &epoch);
	r->owner_slot = le16_of((uint16_t)slot);
	r->owner_epoch = le32_of(epoch);
}

/*
 * The source loses its life in the standstill, before its metadata are in place. It forgets the VM when it
 * finds that another has it (0), or that it was evicted: while it offers (1), or did nothing of the sort (2).
 */
static void test_source_evicted(void **state)
{
	struct fault f = {.kind = FAULT_FAIL,
			  .ops = FAULT_WRITE | FAULT_CAS | FAULT_FLUSH,
			  .target = "file.test"};

	(void)state;
	for (unsigned way = 0; way < 3; way++) {
		struct roam w;
		uint8_t *before;
		uint32_t epoch;
		uint64_t vbn;
		unsigned id, slot;

		roam_make_as(&w, NULL, 2, 1, true);
		ok(vol_mount(w.v, C, NULL));
		roam_write_round(&w, A);
		cfs_life(roam_fs(&w, A), &slot, &epoch);
		vbn = way ? cfs_vbn(0, CFS_CLAIMS + slot) : cfs_vm_lock_vbn(w.vm[A]);
		if (way == 0) {
			ok(fault_add(&f, &id));
			assert_true(roam_offer(&w, A, C) < 0);
			before = change(&w, vbn, CFS_T_LOCK, runs_on_c);
			assert_int_equal(cfs_vm_retract(w.vm[A]), -ENOENT);
			assert_false(cfs_evicted(roam_fs(&w, A)));
		} else {
			before = change(&w, vbn, CFS_T_CLAIM, taken_over);
			for (unsigned i = 0; i < 3000 && !cfs_evicted(roam_fs(&w, A)); i++)
				sleep_ms(10);
			assert_true(cfs_evicted(roam_fs(&w, A)));
			if (way == 1)
				assert_true(roam_offer(&w, A, C) < 0);
		}
		cfs_vm_forget(w.vm[A]);
		w.vm[A] = NULL;
		if (way == 0)
			put_back(&w, vbn, before);
		else /* C goes on with it when A's process is gone */
			free(before);
		vol_abandon(w.v, A);
		fault_clear(0);
		ok(cfs_vm_lock(roam_fs(&w, C), "/vm", 30000, &w.vm[C]));
		roam_open_disks(&w, C);
		roam_end(&w, C);
	}
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
			assert_true(roam_is_everywhere(&w, CFS_VM_OFFERED, "host0", "host1"));
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
	assert_true(roam_is_everywhere(&w, CFS_VM_OFFERED, "host0", "host1"));
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

/*
 * INV-FS-5's third step: the source's journal holds blocks of the VM's disks still, with their whole images. Whoever
 * replays it may meet such a block in the middle of the target's write, when nothing on the medium says how old
 * it is: only the RELEASED record keeps it from being put back to what it was.
 */
static void test_replay_meets_a_write(void **state)
{
	uint8_t *was = xaligned(CFS_BLOCK, CFS_BLOCK), *torn = xaligned(CFS_BLOCK, CFS_BLOCK),
		*now = xaligned(CFS_BLOCK, CFS_BLOCK);
	struct cfs_stat st;
	struct roam w;
	uint32_t epoch;
	unsigned slot;

	(void)state;
	roam_make(&w, 1, 3);
	cfs_life(roam_fs(&w, A), &slot, &epoch);
	ok(cfs_mkdir(roam_fs(&w, A), "/old")); /* keeps the journal's tail */
	roam_write_round(&w, A);
	roam_hand_over(&w, A, B, true);
	roam_write_round(&w, B);
	cfs_file_stat(w.file[B][0], &st);
	medium(w.v->lun, st.inode, was, false);
	memset(torn, 0xee, CFS_BLOCK);
	medium(w.v->lun, st.inode, torn, true);
	roam_die(&w, A);
	roam_wait_over(&w, C, slot, epoch);
	medium(w.v->lun, st.inode, now, false);
	assert_memory_equal(now, torn, CFS_BLOCK);
	medium(w.v->lun, st.inode, was, true);
	roam_end(&w, B);
	free(was);
	free(torn);
	free(now);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_source_dies),
		cmocka_unit_test(test_source_dies_for_good),
		cmocka_unit_test(test_accept_or_start),
		cmocka_unit_test(test_target_dies),
		cmocka_unit_test(test_restarts),
		cmocka_unit_test(test_replay_after),
		cmocka_unit_test(test_replay_meets_a_write),
		cmocka_unit_test(test_back_and_crash),
		cmocka_unit_test(test_source_evicted),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
