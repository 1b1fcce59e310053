// SPDX-License-Identifier: Apache-2.0
/*
 * A running VM's lock, and its disks, go from host to host: offered, taken up, taken back; with races, lost
 * answers, baggage that is no good.
 */
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "blockdev/fault.h"
#include "blockdev/record.h"
#include "clusterfs/cfs_format.h"
#include "clusterfs/handover.h"
#include "tests/lib/check.h"
#include "tests/lib/lun.h"
#include "tests/lib/roam.h"

/* --- the ways it can go ------------------------------------------------------------------------------ */

static void test_there(void **state)
{
	struct cfs_vm_lock *other;
	struct err_info e;
	struct roam w;
	char host[64];
	int rc;

	(void)state;
	roam_make(&w, 3, 3);
	assert_true(roam_is_everywhere(&w, CFS_VM_RUNS, "host0", ""));
	ok(roam_offer(&w, A, B));
	assert_true(roam_is_everywhere(&w, CFS_VM_OFFERED, "host0", "host1"));
	ok(cfs_vm_owner(roam_fs(&w, C), "/vm", host, sizeof(host)));
	assert_string_equal(host, "host0");
	/* Nobody else gets it: not a third one, not the target by starting it, not the source twice. */
	for (unsigned i = 0; i < 3; i++) {
		rc = cfs_vm_lock(roam_fs(&w, i), "/vm", 0, &other);
		assert_int_equal(rc, -EBUSY);
		err_save(&e, rc);
		assert_non_null(strstr(e.holder, "host0"));
	}
	assert_int_equal(roam_take_up(&w, A, C), -ENOENT);
	assert_int_equal(roam_take_up(&w, C, B), -ENOENT);
	assert_int_equal(cfs_vm_decline(roam_fs(&w, C), "/vm"), -ENOENT);
	assert_int_equal(cfs_vm_adopt(roam_fs(&w, B), "/vm", &other), -ENOENT);
	/* Under an offer nothing is opened in the VM's name. */
	assert_int_equal(cfs_open(roam_fs(&w, A), "/d0", CFS_OPEN_WRITE, cfs_vm_lock_vbn(w.vm[A]),
				  &w.file[C][0]),
			 -EPERM);
	ok(roam_take_up(&w, A, B));
	assert_true(roam_is_everywhere(&w, CFS_VM_RUNS, "host1", ""));
	assert_int_equal(roam_take_up(&w, A, B), -EBUSY);
	assert_int_equal(cfs_vm_decline(roam_fs(&w, B), "/vm"), -EALREADY);
	roam_open_disks(&w, B);
	roam_read_back(&w, B);
	roam_forget(&w, A);
	/* What is left on the source is nothing: it may be mounted away, and can't have the disks. */
	assert_int_equal(cfs_open(roam_fs(&w, A), "/d0", 0, 0, &w.file[A][0]), -EBUSY);
	roam_write_round(&w, B);
	roam_end(&w, B);
}

static unsigned unused_slot(struct roam *w)
{
	struct cfs_host_info host[64];
	unsigned n = cfs_hosts(roam_fs(w, A), host), slot = 0;

	for (unsigned i = 0; i < n; i++)
		if (host[i].slot == slot) { /* begin again with the next */
			slot++;
			i = UINT_MAX;
		}
	return slot;
}

static void test_back(void **state)
{
	struct roam w;
	uint32_t epoch;
	unsigned slot;

	(void)state;
	roam_make(&w, 2, 3);
	ok(cfs_vm_retract(w.vm[A])); /* before any offer: does no harm */
	ok(roam_offer(&w, A, B));
	ok(cfs_vm_retract(w.vm[A]));
	assert_true(roam_is_everywhere(&w, CFS_VM_RUNS, "host0", ""));
	assert_int_equal(roam_take_up(&w, A, B), -ENOENT);
	assert_int_equal(cfs_vm_decline(roam_fs(&w, B), "/vm"), -ENOENT);
	roam_write_round(&w, A);
	/* Declined: the source's again, and it has only to look. */
	ok(roam_offer(&w, A, C));
	ok(cfs_vm_decline(roam_fs(&w, C), "/vm"));
	assert_true(roam_is_everywhere(&w, CFS_VM_RUNS, "host0", ""));
	ok(cfs_vm_retract(w.vm[A]));
	roam_write_round(&w, A);
	/* To hosts that are none: refused, and taken back as any. */
	cfs_life(roam_fs(&w, A), &slot, &epoch);
	assert_int_equal(cfs_vm_offer(w.vm[A], slot, epoch), -EINVAL);
	cfs_life(roam_fs(&w, B), &slot, &epoch);
	assert_int_equal(cfs_vm_offer(w.vm[A], slot, epoch + 1), -ENOENT);
	assert_int_equal(cfs_vm_offer(w.vm[A], unused_slot(&w), 1), -ENOENT);
	assert_int_equal(cfs_vm_offer(w.vm[A], 64, 1), -EINVAL);
	ok(cfs_vm_retract(w.vm[A]));
	ok(roam_offer(&w, A, B));
	assert_int_equal(roam_offer(&w, A, C), -EBUSY); /* one at a time */
	ok(roam_take_up(&w, A, B));
	roam_open_disks(&w, B);
	roam_forget(&w, A);
	roam_end(&w, B);
}

static void *open_late(void *arg)
{
	struct roam *w = arg;

	ok(cfs_open(roam_fs(w, A), "/late", CFS_OPEN_WRITE, cfs_vm_lock_vbn(w->vm[A]),
		    &w->file[A][1]));
	return NULL;
}

/* A disk whose lock is on its way to the VM when that is offered goes along. */
static void test_open_meanwhile(void **state)
{
	struct fault f = {
		.kind = FAULT_DELAY, .value = 500, .ops = FAULT_CAS, .target = "file.test"};
	struct fault now;
	struct cfs_stat st;
	pthread_t thread;
	struct roam w;
	unsigned id;

	(void)state;
	roam_make_as(&w, NULL, 1, 3, true);
	ok(cfs_create(roam_fs(&w, C), "/late", CFS_DISK, MiB));
	ok(cfs_stat(roam_fs(&w, C), "/late", &st));
	ok(vol_unmount(w.v, C));
	f.from = (st.inode - 1) * CFS_BLOCK;
	f.to = f.from + CFS_BLOCK;
	ok(fault_add(&f, &id));
	assert_int_equal(pthread_create(&thread, NULL, open_late, &w), 0);
	do
		assert_int_equal(fault_list(&now, 1), 1);
	while (!now.hits);
	ok(roam_offer(&w, A, B));
	assert_int_equal(w.vm[A]->n, 3);
	pthread_join(thread, NULL);
	fault_clear(id);
	ok(roam_take_up(&w, A, B));
	roam_open_disks(&w, B);
	roam_forget(&w, A);
	roam_end(&w, B);
}

static void test_to_and_fro(void **state)
{
	struct roam w;

	(void)state;
	roam_make(&w, 2, 2);
	for (unsigned i = 0; i < 8; i++) {
		unsigned from = i % 2, to = 1 - from;

		roam_hand_over(&w, from, to, i & 2);
		roam_read_back(&w, to);
		if (i != 3) /* once nothing changes in between */
			roam_write_round(&w, to);
	}
	roam_end(&w, A);
}

/* --- races ------------------------------------------------------------------------------------------- */

struct racer {
	struct roam *w;
	pthread_barrier_t *start;
	unsigned delay_us;
	int rc;
};

static void *race_accept(void *arg)
{
	struct racer *r = arg;

	pthread_barrier_wait(r->start);
	usleep(r->delay_us);
	r->rc = roam_take_up(r->w, A, B);
	return NULL;
}

static void test_race(void **state)
{
	unsigned won[2] = {0, 0};
	pthread_barrier_t start;
	struct roam w;

	(void)state;
	roam_make(&w, 1, 2);
	pthread_barrier_init(&start, NULL, 2);
	for (unsigned i = 0; i < 200; i++) {
		struct racer r = {.w = &w, .start = &start, .delay_us = i * 7 % 200};
		pthread_t thread;
		int rc;

		ok(roam_offer(&w, A, B));
		assert_int_equal(pthread_create(&thread, NULL, race_accept, &r), 0);
		pthread_barrier_wait(&start);
		usleep(i * 13 % 200);
		rc = cfs_vm_retract(w.vm[A]);
		pthread_join(thread, NULL);
		assert_true(rc == 0 || rc == -ENOENT);
		assert_int_equal(r.rc, rc == 0 ? -ENOENT : 0); /* exactly one */
		won[rc == 0]++;
		if (rc == 0)
			continue;
		cfs_vm_forget(w.vm[A]);
		roam_open_disks(&w, B);
		if (i % 16 == 0)
			roam_write_round(&w, B);
		ok(roam_offer(&w, B, A)); /* and home again */
		ok(roam_take_up(&w, B, A));
		roam_open_disks(&w, A);
		roam_forget(&w, B);
	}
	print_message("taken up %u, taken back %u\n", won[0], won[1]);
	assert_true(won[0] > 0 && won[1] > 0);
	pthread_barrier_destroy(&start);
	roam_end(&w, A);
}

/* --- answers that get lost --------------------------------------------------------------------------- */

/* `ms` 0: three times; else so long. */
static unsigned strike(struct roam *w, enum fault_kind kind, unsigned value, unsigned ms,
		       uint64_t seed_)
{
	uint64_t at = cfs_vm_lock_vbn(w->vm[A] ? w->vm[A] : w->vm[B]) * CFS_BLOCK;
	struct fault f = {.kind = kind,
			  .value = value,
			  .ops = FAULT_CAS,
			  .from = at,
			  .to = at + CFS_BLOCK,
			  .times = ms ? 0 : 3,
			  .for_ms = ms,
			  .seed = seed_};
	unsigned id;

	(void)str_format(f.target, sizeof(f.target), "file.test");
	ok(fault_add(&f, &id));
	return id;
}

static int again(int rc)
{
	return rc == -EIO || rc == -ETIMEDOUT || rc == -ENOTCONN || rc == -EAGAIN;
}

/* Until it is known. */
static int surely_retract(struct roam *w)
{
	int rc;

	do
		rc = cfs_vm_retract(w->vm[A]);
	while (again(rc));
	return rc;
}

static int surely_accept(struct roam *w)
{
	int rc;

	do
		rc = roam_take_up(w, A, B);
	while (again(rc));
	return rc;
}

/* The target has lost its patience after the first try. */
static int accept_or_decline(struct roam *w)
{
	int rc = roam_take_up(w, A, B);

	while (again(rc)) {
		rc = cfs_vm_decline(roam_fs(w, B), "/vm");
		if (rc == 0)
			return -ENOENT;
		if (rc == -EALREADY)
			return cfs_vm_adopt(roam_fs(w, B), "/vm", &w->vm[B]);
	}
	return rc;
}

/* One way from A to B, whatever is lost: it ends on exactly one of them. True: on B. */
static bool one_way(struct roam *w, unsigned i)
{
	int made = roam_offer(w, A, B), taken = -ENOENT, back;
	struct cfs_vm_where where;

	if (made == 0 || i % 5 == 0) /* else the target has not heard of it */
		taken = i % 3 ? surely_accept(w) : accept_or_decline(w);
	assert_true(taken == 0 || taken == -ENOENT);
	back = surely_retract(w);
	assert_int_equal(back, taken == 0 ? -ENOENT : 0);
	ok(cfs_vm_where(roam_fs(w, C), "/vm", &where));
	assert_int_equal(where.state, CFS_VM_RUNS);
	assert_string_equal(where.host, taken == 0 ? "host1" : "host0");
	return taken == 0;
}

/* Each call may lose its answers, be cut off, or land late; called until it knows, one of them has it. */
static void test_lost_answers(void **state)
{
	static const struct {
		enum fault_kind kind;
		unsigned value;
		unsigned ms; /* so long each time; more than a call tries: its outcome is unknown */
	} faults[] = {{FAULT_LOST_ANSWER, 60, 0},
		      {FAULT_LATE_WRITE, 150, 0},
		      {FAULT_DROP, 60, 0},
		      {FAULT_LOST_ANSWER, 100, 2500},
		      {FAULT_HANG, 100, 2500}};
	unsigned went = 0, turns = 10;
	struct roam w;

	(void)state;
	roam_make_as(&w, NULL, 1, 3, true);
	for (unsigned i = 0; i < turns; i++) {
		unsigned k = i % ARRAY_SIZE(faults), id;
		bool gone;

		id = strike(&w, faults[k].kind, faults[k].value, faults[k].ms, i + 1);
		gone = one_way(&w, i);
		fault_clear(id);
		went += gone;
		if (!gone) {
			roam_write_round(&w, A);
			continue;
		}
		cfs_vm_forget(w.vm[A]);
		roam_open_disks(&w, B);
		roam_write_round(&w, B);
		roam_hand_over(&w, B, A, false);
	}
	print_message("%u of %u went over\n", went, turns);
	assert_true(went > 0 && went < turns);
	roam_end(&w, A);
}

/* --- baggage ------------------------------------------------------------------------------------------- */

/* Whatever is done to it: the VM goes over, and finds its disks as they are. */
static void test_bad_baggage(void **state)
{
	uint64_t rnd = 88172645463325252ULL;
	struct roam w;

	(void)state;
	roam_make(&w, 2, 2);
	for (unsigned i = 0; i < 36; i++) {
		unsigned from = i % 2, to = 1 - from;
		uint8_t *bytes;
		size_t size;

		ok(roam_offer(&w, from, to));
		ok(cfs_vm_baggage(w.vm[from], MiB, (void **)&bytes, &size));
		for (unsigned k = 0; k < 1 + i % 7; k++) {
			rnd ^= rnd << 13;
			rnd ^= rnd >> 7;
			rnd ^= rnd << 17;
			if (i % 3 == 0)
				size -= rnd % (size / 2 + 1);
			else
				bytes[rnd % MIN(size, i % 3 == 1 ? size : 64)] ^= (uint8_t)(1 + i);
		}
		ok(roam_accept(&w, from, to, bytes, size));
		free(bytes);
		roam_open_disks(&w, to);
		roam_forget(&w, from);
		roam_read_back(&w, to);
		roam_write_round(&w, to);
	}
	/* An old one, of an offer that was taken back. */
	{
		void *old;
		size_t size;

		ok(roam_offer(&w, A, B));
		ok(cfs_vm_baggage(w.vm[A], MiB, &old, &size));
		ok(cfs_vm_retract(w.vm[A]));
		roam_write_round(&w, A);
		ok(roam_offer(&w, A, B));
		ok(roam_accept(&w, A, B, old, size));
		free(old);
		roam_open_disks(&w, B);
		roam_forget(&w, A);
	}
	roam_end(&w, B);
}

/* --- how long the guest stands still --------------------------------------------------------------------- */

static bool is_beat(const struct record_event *e)
{
	return e->op == BLK_WRITE && e->offset >= CFS_BEATS * CFS_BLOCK &&
	       e->offset < (CFS_BEATS + CFS_MAX_SLOTS) * CFS_BLOCK;
}

/*
 * Commands of both hosts that were sent one after the other: the longest row of them, each sent when the one before
 * it was answered. What other work has under way meanwhile makes it no shorter.
 */
static unsigned serial(const char *path, unsigned from)
{
	struct record_log *log;
	unsigned n = 0;

	ok(record_open(path, &log));
	for (unsigned i = from; i < record_events(log); i++) {
		const struct record_event *e = record_event(log, i);

		if (!e->answer || e->submit < from || is_beat(record_event(log, e->submit)))
			continue;
		n++;
		from = i + 1;
	}
	record_close(log);
	return n;
}

static unsigned events(const char *path)
{
	struct record_log *log;
	unsigned n;

	ok(record_open(path, &log));
	n = record_events(log);
	record_close(log);
	return n;
}

static uint64_t reads(struct roam *w)
{
	struct blk_stats s;
	uint64_t n = 0;

	for (unsigned i = 0; i < 2; i++) {
		blk_get_stats(w->v->blk[i], &s);
		n += s.ops[BLK_READ];
	}
	return n;
}

struct count {
	unsigned serial;
	uint64_t reads;
};

/*
 * What the hand-over takes, with the disks opened. Beats, and what was still to do from before, fall into some: there
 * and back until one took no more than `most` commands and a read, or there was none.
 */
static struct count measure(struct roam *w, const char *log, bool busy, unsigned most)
{
	struct count best = {UINT32_MAX, UINT64_MAX};
	bool good = false;

	for (unsigned i = 0; i % 2 || (i < 24 && !good); i++) {
		unsigned from = i % 2, to = 1 - from, before;
		struct count took;
		void *baggage;
		uint64_t read;
		size_t size;

		ok(cfs_vm_checkpoint(w->vm[from]));
		ok(cfs_sync(roam_fs(w, from)));
		if (busy)
			roam_write_round(w, from);
		before = events(log);
		read = reads(w);
		ok(roam_offer(w, from, to));
		ok(cfs_vm_baggage(w->vm[from], 4 * MiB, &baggage, &size));
		ok(roam_accept(w, from, to, baggage, size));
		roam_open_disks(w, to);
		free(baggage);
		took = (struct count){serial(log, before), reads(w) - read};
		if (!good)
			best = took;
		good |= took.serial <= most && took.reads <= 1;
		roam_forget(w, from);
	}
	roam_read_back(w, A);
	return best;
}

/* The guest's pause: the same few commands for one disk and for 64, none of them a read. */
static void test_commands(void **state)
{
	(void)state;
	for (unsigned k = 0; k < 2; k++) {
		struct vol *v = vol_make_calm(512 * MiB);
		char *log = xasprintf("%s.log", v->lun);
		struct count idle, busy;
		struct roam w;

		v->log = log;
		roam_make_as(&w, v, k ? 64 : 1, 2, false);
		idle = measure(&w, log, false, 2); /* the offer and its acceptance */
		busy = measure(&w, log, true, 8);
		print_message(
			"%u disks: %u serial commands and %llu reads, %u and %llu when busy\n",
			w.disks, idle.serial, (unsigned long long)idle.reads, busy.serial,
			(unsigned long long)busy.reads);
		assert_true(idle.serial == 2 && idle.reads <= 1);
		assert_true(busy.serial <= 8 && busy.reads <= 1);
		roam_end(&w, A);
		unlink(log);
		free(log);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_there),	    cmocka_unit_test(test_back),
		cmocka_unit_test(test_to_and_fro),  cmocka_unit_test(test_open_meanwhile),
		cmocka_unit_test(test_race),	    cmocka_unit_test(test_lost_answers),
		cmocka_unit_test(test_bad_baggage), cmocka_unit_test(test_commands),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
