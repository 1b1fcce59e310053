// SPDX-License-Identifier: Apache-2.0
/*
 * A running VM's lock, and its disks, go from host to host: offered, taken up, taken back; with races, lost
 * answers, deaths on either side, and journals that are replayed long after.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#undef fail /* base/err.h has its own */

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/util.h"
#include "blockdev/fault.h"
#include "clusterfs/handover.h"
#include "tests/lib/lun.h"
#include "tests/lib/vol.h"

#define SIZE	  (256 * MiB)
#define DISK	  (24 * MiB)
#define DISKS_MAX 64u
#define CHUNK	  (64 * KiB)
#define A	  0u
#define B	  1u
#define C	  2u

#define ok(call)                                                          \
	do {                                                              \
		int rc_ = (int)(call);                                    \
		if (rc_ < 0)                                              \
			print_error("%s: %s\n", #call, err_message(rc_)); \
		assert_true(rc_ >= 0);                                    \
	} while (0)

struct world {
	struct vol *v;
	unsigned disks;
	struct cfs_vm_lock *vm[VOL_HOSTS];
	struct cfs_file *file[VOL_HOSTS][DISKS_MAX];
	uint64_t round; /* of what was written last, to each disk */
};

static struct cfs *fs_of(struct world *w, unsigned i)
{
	return w->v->fs[i];
}

static void path_of(unsigned disk, char path[32])
{
	(void)str_format(path, 32, "/d%u", disk);
}

static void open_disks(struct world *w, unsigned i)
{
	char path[32];

	for (unsigned d = 0; d < w->disks; d++) {
		path_of(d, path);
		ok(cfs_open(fs_of(w, i), path, CFS_OPEN_WRITE, cfs_vm_lock_vbn(w->vm[i]),
			    &w->file[i][d]));
	}
}

static void close_disks(struct world *w, unsigned i)
{
	for (unsigned d = 0; d < w->disks; d++)
		ok(cfs_close(w->file[i][d]));
}

/* What round `r` leaves at chunk `n` of a disk: each third chunk is written anew, and there are new ones. */
static uint64_t seed(uint64_t r, unsigned d, uint64_t n)
{
	return r * 1000003 + d * 1009 + n;
}

static uint64_t chunk_at(uint64_t n)
{
	return n * 5 * CHUNK % (DISK - CHUNK) / CHUNK * CHUNK;
}

static void write_round(struct world *w, unsigned i)
{
	uint8_t *buf = xmalloc(CHUNK);

	w->round++;
	for (unsigned d = 0; d < w->disks; d++) {
		for (uint64_t n = 0; n < 3; n++) {
			lun_pattern(buf, CHUNK, seed(w->round, d, n));
			ok(cfs_pwrite(w->file[i][d], buf, CHUNK, chunk_at(w->round + n * 7)));
		}
		ok(cfs_fsync(w->file[i][d]));
	}
	free(buf);
}

/* The newest of all rounds stands at each chunk. */
static void read_back(struct world *w, unsigned i)
{
	uint8_t *want = xmalloc(CHUNK), *got = xmalloc(CHUNK);
	uint64_t at[DISK / CHUNK] = {0};

	for (unsigned d = 0; d < w->disks; d++) {
		memset(at, 0, sizeof(at));
		for (uint64_t r = 1; r <= w->round; r++)
			for (uint64_t n = 0; n < 3; n++)
				at[chunk_at(r + n * 7) / CHUNK] = seed(r, d, n);
		for (unsigned k = 0; k < DISK / CHUNK; k++) {
			memset(want, 0, CHUNK);
			if (at[k])
				lun_pattern(want, CHUNK, at[k]);
			ok(cfs_pread(w->file[i][d], got, CHUNK, k * CHUNK));
			assert_memory_equal(want, got, CHUNK);
		}
	}
	free(want);
	free(got);
}

static void set_up_as(struct world *w, unsigned disks, unsigned hosts, bool faulty)
{
	char path[32];

	log_set_level(LOG_ERROR);
	memset(w, 0, sizeof(*w));
	w->v = vol_make_patient(SIZE);
	w->disks = disks;
	for (unsigned i = 0; i < hosts; i++) {
		w->v->faulty[i] = faulty && i != C;
		ok(vol_mount(w->v, i, NULL));
	}
	ok(cfs_create(fs_of(w, A), "/vm", CFS_VM, 0));
	for (unsigned d = 0; d < disks; d++) {
		path_of(d, path);
		ok(cfs_create(fs_of(w, A), path, CFS_DISK, DISK));
	}
	ok(cfs_vm_lock(fs_of(w, A), "/vm", 0, &w->vm[A]));
	open_disks(w, A);
	write_round(w, A);
}

static void set_up(struct world *w, unsigned disks, unsigned hosts)
{
	set_up_as(w, disks, hosts, false);
}

static void clean(struct world *w)
{
	struct cfs_check_result r;

	ok(vol_check(w->v, false, true, &r));
	assert_int_equal(r.findings, 0);
}

/* It runs on `i`: ends well, and what is on the disks is whole. */
static void tear_down(struct world *w, unsigned i)
{
	read_back(w, i);
	write_round(w, i);
	close_disks(w, i);
	ok(cfs_vm_unlock(w->vm[i]));
	for (unsigned h = 0; h < VOL_HOSTS; h++)
		if (w->v->fs[h])
			ok(vol_unmount(w->v, h));
	clean(w);
	ok(vol_mount(w->v, C, NULL));
	ok(cfs_vm_lock(fs_of(w, C), "/vm", 20000, &w->vm[C]));
	open_disks(w, C);
	read_back(w, C);
	close_disks(w, C);
	ok(cfs_vm_unlock(w->vm[C]));
	vol_free(w->v);
}

static int offer(struct world *w, unsigned from, unsigned to)
{
	uint32_t epoch;
	unsigned slot;

	cfs_life(fs_of(w, to), &slot, &epoch);
	return cfs_vm_offer(w->vm[from], slot, epoch);
}

static int accept_with(struct world *w, unsigned from, unsigned to, const void *baggage,
		       size_t size)
{
	uint32_t epoch;
	unsigned slot;

	cfs_life(fs_of(w, from), &slot, &epoch);
	return cfs_vm_accept(fs_of(w, to), "/vm", slot, epoch, baggage, size, &w->vm[to]);
}

static int take_up(struct world *w, unsigned from, unsigned to)
{
	return accept_with(w, from, to, NULL, 0);
}

static void lost(struct world *w, unsigned i)
{
	assert_int_equal(cfs_vm_retract(w->vm[i]), -ENOENT);
	cfs_vm_forget(w->vm[i]);
	w->vm[i] = NULL;
}

/* The whole way; with baggage where it pleases. */
static void hand_over(struct world *w, unsigned from, unsigned to, bool with_baggage)
{
	void *baggage = NULL;
	size_t size = 0;

	ok(cfs_vm_checkpoint(w->vm[from]));
	ok(offer(w, from, to));
	if (with_baggage)
		ok(cfs_vm_baggage(w->vm[from], 4 * MiB, &baggage, &size));
	ok(accept_with(w, from, to, baggage, size));
	free(baggage);
	open_disks(w, to);
	lost(w, from);
}

static void assert_where(struct world *w, enum cfs_vm_state state, const char *host, const char *to)
{
	for (unsigned i = 0; i < VOL_HOSTS; i++) {
		struct cfs_vm_where where;

		if (!w->v->fs[i])
			continue;
		ok(cfs_vm_where(fs_of(w, i), "/vm", &where));
		assert_int_equal(where.state, state);
		assert_string_equal(where.host, host);
		assert_string_equal(where.to, to);
		assert_int_equal(where.here, host[0] && (unsigned)(host[4] - '0') == i);
	}
}

/* --- the ways it can go ------------------------------------------------------------------------------ */

static void test_there(void **state)
{
	struct cfs_vm_lock *other;
	struct err_info e;
	struct world w;
	char host[64];
	int rc;

	(void)state;
	set_up(&w, 3, 3);
	assert_where(&w, CFS_VM_RUNS, "host0", "");
	ok(offer(&w, A, B));
	assert_where(&w, CFS_VM_OFFERED, "host0", "host1");
	ok(cfs_vm_owner(fs_of(&w, C), "/vm", host, sizeof(host)));
	assert_string_equal(host, "host0");
	/* Nobody else gets it: not a third one, not the target by starting it, not the source twice. */
	for (unsigned i = 0; i < 3; i++) {
		rc = cfs_vm_lock(fs_of(&w, i), "/vm", 0, &other);
		assert_int_equal(rc, -EBUSY);
		err_save(&e, rc);
		assert_non_null(strstr(e.holder, "host0"));
	}
	assert_int_equal(take_up(&w, A, C), -ENOENT);
	assert_int_equal(take_up(&w, C, B), -ENOENT);
	assert_int_equal(cfs_vm_decline(fs_of(&w, C), "/vm"), -ENOENT);
	assert_int_equal(cfs_vm_adopt(fs_of(&w, B), "/vm", &other), -ENOENT);
	/* Under an offer nothing is opened in the VM's name. */
	assert_int_equal(cfs_open(fs_of(&w, A), "/d0", CFS_OPEN_WRITE, cfs_vm_lock_vbn(w.vm[A]),
				  &w.file[C][0]),
			 -EPERM);
	ok(take_up(&w, A, B));
	assert_where(&w, CFS_VM_RUNS, "host1", "");
	assert_int_equal(take_up(&w, A, B), -EBUSY);
	assert_int_equal(cfs_vm_decline(fs_of(&w, B), "/vm"), -EALREADY);
	open_disks(&w, B);
	read_back(&w, B);
	lost(&w, A);
	/* What is left on the source is nothing: it may be mounted away, and can't have the disks. */
	assert_int_equal(cfs_open(fs_of(&w, A), "/d0", 0, 0, &w.file[A][0]), -EBUSY);
	write_round(&w, B);
	tear_down(&w, B);
}

static void test_back(void **state)
{
	struct world w;
	uint32_t epoch;
	unsigned slot;

	(void)state;
	set_up(&w, 2, 3);
	ok(cfs_vm_retract(w.vm[A])); /* before any offer: does no harm */
	ok(offer(&w, A, B));
	ok(cfs_vm_retract(w.vm[A]));
	assert_where(&w, CFS_VM_RUNS, "host0", "");
	assert_int_equal(take_up(&w, A, B), -ENOENT);
	assert_int_equal(cfs_vm_decline(fs_of(&w, B), "/vm"), -ENOENT);
	write_round(&w, A);
	/* Declined: the source's again, and it has only to look. */
	ok(offer(&w, A, C));
	ok(cfs_vm_decline(fs_of(&w, C), "/vm"));
	assert_where(&w, CFS_VM_RUNS, "host0", "");
	ok(cfs_vm_retract(w.vm[A]));
	write_round(&w, A);
	/* To hosts that are none: refused, and taken back as any. */
	cfs_life(fs_of(&w, A), &slot, &epoch);
	assert_int_equal(cfs_vm_offer(w.vm[A], slot, epoch), -EINVAL);
	cfs_life(fs_of(&w, B), &slot, &epoch);
	assert_int_equal(cfs_vm_offer(w.vm[A], slot, epoch + 1), -ENOENT);
	assert_int_equal(cfs_vm_offer(w.vm[A], 63, 1), -ENOENT);
	assert_int_equal(cfs_vm_offer(w.vm[A], 64, 1), -EINVAL);
	ok(cfs_vm_retract(w.vm[A]));
	ok(offer(&w, A, B));
	assert_int_equal(offer(&w, A, C), -EBUSY); /* one at a time */
	ok(take_up(&w, A, B));
	open_disks(&w, B);
	lost(&w, A);
	tear_down(&w, B);
}

static void test_to_and_fro(void **state)
{
	struct world w;

	(void)state;
	set_up(&w, 2, 2);
	for (unsigned i = 0; i < 8; i++) {
		unsigned from = i % 2, to = 1 - from;

		hand_over(&w, from, to, i & 2);
		read_back(&w, to);
		if (i != 3) /* once nothing changes in between */
			write_round(&w, to);
	}
	tear_down(&w, A);
}

/* --- races ------------------------------------------------------------------------------------------- */

struct racer {
	struct world *w;
	pthread_barrier_t *start;
	unsigned delay_us;
	int rc;
};

static void *race_accept(void *arg)
{
	struct racer *r = arg;

	pthread_barrier_wait(r->start);
	usleep(r->delay_us);
	r->rc = take_up(r->w, A, B);
	return NULL;
}

static void test_race(void **state)
{
	unsigned won[2] = {0, 0};
	pthread_barrier_t start;
	struct world w;

	(void)state;
	set_up(&w, 1, 2);
	pthread_barrier_init(&start, NULL, 2);
	for (unsigned i = 0; i < 200; i++) {
		struct racer r = {.w = &w, .start = &start, .delay_us = i * 7 % 200};
		pthread_t thread;
		int rc;

		ok(offer(&w, A, B));
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
		open_disks(&w, B);
		if (i % 16 == 0)
			write_round(&w, B);
		ok(offer(&w, B, A)); /* and home again */
		ok(take_up(&w, B, A));
		open_disks(&w, A);
		lost(&w, B);
	}
	print_message("taken up %u, taken back %u\n", won[0], won[1]);
	assert_true(won[0] > 0 && won[1] > 0);
	pthread_barrier_destroy(&start);
	tear_down(&w, A);
}

/* --- answers that get lost --------------------------------------------------------------------------- */

/* `ms` 0: three times; else so long. */
static unsigned strike(struct world *w, enum fault_kind kind, unsigned value, unsigned ms,
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
static int surely_retract(struct world *w)
{
	int rc;

	do
		rc = cfs_vm_retract(w->vm[A]);
	while (again(rc));
	return rc;
}

static int surely_accept(struct world *w)
{
	int rc;

	do
		rc = take_up(w, A, B);
	while (again(rc));
	return rc;
}

/* The target has lost its patience after the first try. */
static int accept_or_decline(struct world *w)
{
	int rc = take_up(w, A, B);

	while (again(rc)) {
		rc = cfs_vm_decline(fs_of(w, B), "/vm");
		if (rc == 0)
			return -ENOENT;
		if (rc == -EALREADY)
			return cfs_vm_adopt(fs_of(w, B), "/vm", &w->vm[B]);
	}
	return rc;
}

/* One way from A to B, whatever is lost: it ends on exactly one of them. True: on B. */
static bool one_way(struct world *w, unsigned i)
{
	int made = offer(w, A, B), taken = -ENOENT, back;
	struct cfs_vm_where where;

	if (made == 0 || i % 5 == 0) /* else the target has not heard of it */
		taken = i % 3 ? surely_accept(w) : accept_or_decline(w);
	assert_true(taken == 0 || taken == -ENOENT);
	back = surely_retract(w);
	assert_int_equal(back, taken == 0 ? -ENOENT : 0);
	ok(cfs_vm_where(fs_of(w, C), "/vm", &where));
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
	unsigned went = 0, turns = 20;
	struct world w;

	(void)state;
	set_up_as(&w, 1, 3, true);
	for (unsigned i = 0; i < turns; i++) {
		unsigned k = i % ARRAY_SIZE(faults), id;
		bool gone;

		id = strike(&w, faults[k].kind, faults[k].value, faults[k].ms, i + 1);
		gone = one_way(&w, i);
		fault_clear(id);
		went += gone;
		if (!gone) {
			write_round(&w, A);
			continue;
		}
		cfs_vm_forget(w.vm[A]);
		open_disks(&w, B);
		write_round(&w, B);
		hand_over(&w, B, A, false);
	}
	print_message("%u of %u went over\n", went, turns);
	assert_true(went > 0 && went < turns);
	tear_down(&w, A);
}

/* --- deaths ------------------------------------------------------------------------------------------ */

static void die(struct world *w, unsigned i)
{
	struct cfs_vm_lock *vm = w->vm[i];

	vol_abandon(w->v, i);
	if (vm)
		free(vm->held);
	free(vm);
	w->vm[i] = NULL;
}

static void wait_over(struct world *w, unsigned who, unsigned slot, uint32_t epoch)
{
	uint64_t end = clock_boot_ms() + 30000;

	while (!cfs_life_over(fs_of(w, who), slot, epoch) && clock_boot_ms() < end)
		sleep_ms(20);
	assert_true(cfs_life_over(fs_of(w, who), slot, epoch));
}

/* The source dies when it has offered: the target goes on, though its journal is replayed around it. */
static void test_source_dies(void **state)
{
	struct world w;
	uint32_t epoch;
	unsigned slot;

	(void)state;
	for (unsigned late = 0; late < 2; late++) {
		set_up(&w, 2, 3);
		cfs_life(fs_of(&w, A), &slot, &epoch);
		ok(offer(&w, A, B));
		die(&w, A);
		if (late) /* taken over and replayed before the target takes it up */
			wait_over(&w, B, slot, epoch);
		ok(cfs_vm_accept(fs_of(&w, B), "/vm", slot, epoch, NULL, 0, &w.vm[B]));
		open_disks(&w, B);
		write_round(&w, B);
		wait_over(&w, C, slot, epoch);
		tear_down(&w, B);
	}
}

/* And when the target is never heard of again, anybody starts it. */
static void test_source_dies_for_good(void **state)
{
	struct world w;
	uint32_t epoch;
	unsigned slot;

	(void)state;
	for (unsigned both = 0; both < 2; both++) {
		set_up(&w, 2, 3);
		cfs_life(fs_of(&w, A), &slot, &epoch);
		ok(offer(&w, A, B));
		die(&w, A);
		if (both)
			die(&w, B);
		ok(cfs_vm_lock(fs_of(&w, C), "/vm", 30000, &w.vm[C]));
		if (!both)
			assert_int_equal(
				cfs_vm_accept(fs_of(&w, B), "/vm", slot, epoch, NULL, 0, &w.vm[B]),
				-ENOENT);
		open_disks(&w, C);
		tear_down(&w, C);
	}
}

struct starter {
	struct world *w;
	int rc;
};

static void *start_cold(void *arg)
{
	struct starter *s = arg;

	s->rc = cfs_vm_lock(fs_of(s->w, C), "/vm", 30000, &s->w->vm[C]);
	return NULL;
}

/* Both want it at once: one gets it. */
static void test_accept_or_start(void **state)
{
	struct starter s;
	struct world w;
	pthread_t thread;
	uint32_t epoch;
	unsigned slot;
	int rc;

	(void)state;
	set_up(&w, 1, 3);
	cfs_life(fs_of(&w, A), &slot, &epoch);
	ok(offer(&w, A, B));
	die(&w, A);
	s.w = &w;
	assert_int_equal(pthread_create(&thread, NULL, start_cold, &s), 0);
	wait_over(&w, B, slot, epoch);
	sleep_ms(1500); /* about when its lease is over: either may be first */
	rc = cfs_vm_accept(fs_of(&w, B), "/vm", slot, epoch, NULL, 0, &w.vm[B]);
	pthread_join(thread, NULL);
	assert_true((rc == 0) != (s.rc == 0));
	open_disks(&w, rc == 0 ? B : C);
	tear_down(&w, rc == 0 ? B : C);
}

static void test_target_dies(void **state)
{
	struct world w;

	(void)state;
	for (unsigned over = 0; over < 2; over++) {
		uint32_t epoch;
		unsigned slot;

		set_up(&w, 2, 3);
		cfs_life(fs_of(&w, B), &slot, &epoch);
		ok(offer(&w, A, B));
		die(&w, B);
		if (over) {
			wait_over(&w, A, slot, epoch);
			assert_where(&w, CFS_VM_OFFERED, "host0", "host1");
		}
		ok(cfs_vm_retract(w.vm[A]));
		write_round(&w, A);
		tear_down(&w, A);
	}
}

/* The daemons are killed and come back in the same epoch: each finds out by what the lock says. */
static void test_restarts(void **state)
{
	struct cfs_vm_lock *vm;
	struct world w;
	uint32_t epoch;
	unsigned slot;

	(void)state;
	set_up(&w, 2, 3);
	cfs_life(fs_of(&w, A), &slot, &epoch);
	/* The source, with an offer that nobody has taken up. */
	ok(offer(&w, A, B));
	die(&w, A);
	ok(vol_mount(w.v, A, NULL));
	assert_where(&w, CFS_VM_OFFERED, "host0", "host1");
	assert_int_equal(cfs_vm_lock(fs_of(&w, A), "/vm", 0, &vm), -EBUSY);
	ok(cfs_vm_adopt(fs_of(&w, A), "/vm", &w.vm[A]));
	open_disks(&w, A);
	assert_int_equal(cfs_vm_accept(fs_of(&w, B), "/vm", slot, epoch, NULL, 0, &vm), -ENOENT);
	write_round(&w, A);
	/* With one that was. */
	ok(offer(&w, A, B));
	die(&w, A);
	ok(cfs_vm_accept(fs_of(&w, B), "/vm", slot, epoch, NULL, 0, &w.vm[B]));
	open_disks(&w, B);
	write_round(&w, B);
	ok(vol_mount(w.v, A, NULL));
	assert_int_equal(cfs_vm_adopt(fs_of(&w, A), "/vm", &vm), -ENOENT);
	/* The target, right after. */
	die(&w, B);
	ok(vol_mount(w.v, B, NULL));
	ok(cfs_vm_adopt(fs_of(&w, B), "/vm", &w.vm[B]));
	open_disks(&w, B);
	read_back(&w, B);
	write_round(&w, B);
	/* The target, before: what was offered to it is not its own; it gives it back. */
	ok(offer(&w, B, A));
	die(&w, A);
	ok(vol_mount(w.v, A, NULL));
	assert_int_equal(cfs_vm_adopt(fs_of(&w, A), "/vm", &vm), -ENOENT);
	ok(cfs_vm_decline(fs_of(&w, A), "/vm"));
	ok(cfs_vm_retract(w.vm[B]));
	write_round(&w, B);
	tear_down(&w, B);
}

/* --- journals that are replayed later ------------------------------------------------------------------- */

/*
 * What the source did under these locks is still in its journal, held back by another object, when it dies:
 * whoever replays it leaves alone what is the target's since.
 */
static void test_replay_after(void **state)
{
	struct world w;
	uint32_t epoch;
	unsigned slot;

	(void)state;
	set_up(&w, 3, 3);
	cfs_life(fs_of(&w, A), &slot, &epoch);
	ok(cfs_mkdir(fs_of(&w, A), "/old")); /* never checkpointed: keeps the journal's tail */
	for (unsigned i = 0; i < 5; i++)
		write_round(&w, A);
	hand_over(&w, A, B, true);
	for (unsigned i = 0; i < 5; i++)
		write_round(&w, B);
	ok(cfs_vm_checkpoint(w.vm[B])); /* in place: replay would write over it */
	die(&w, A);
	wait_over(&w, B, slot, epoch);
	read_back(&w, B);
	write_round(&w, B);
	/* Read anew: from the medium, as the replay has left it. */
	close_disks(&w, B);
	open_disks(&w, B);
	tear_down(&w, B);
}

/* There and back, and then the crash: what came after the return is replayed, what came before is not. */
static void test_back_and_crash(void **state)
{
	struct world w;
	uint32_t epoch;
	unsigned slot;

	(void)state;
	for (unsigned how = 0; how < 3; how++) {
		set_up(&w, 2, 3);
		cfs_life(fs_of(&w, A), &slot, &epoch);
		ok(cfs_mkdir(fs_of(&w, A), "/old"));
		write_round(&w, A);
		hand_over(&w, A, B, true);
		write_round(&w, B);
		hand_over(&w, B, A, true);
		for (unsigned i = 0; i < how; i++)
			write_round(&w, A);
		die(&w, A);
		if (how == 2) { /* B's journal too */
			cfs_life(fs_of(&w, B), &slot, &epoch);
			die(&w, B);
		}
		wait_over(&w, C, slot, epoch);
		ok(cfs_vm_lock(fs_of(&w, C), "/vm", 30000, &w.vm[C]));
		open_disks(&w, C);
		tear_down(&w, C);
	}
}

/* --- baggage ------------------------------------------------------------------------------------------- */

static uint64_t commands(const struct world *w, unsigned i)
{
	struct blk_stats s;
	uint64_t n = 0;

	blk_get_stats(w->v->blk[i], &s);
	for (unsigned op = 0; op < BLK_OPS; op++)
		n += s.ops[op];
	return n;
}

/* Whatever is done to it: the VM goes over, and finds its disks as they are. */
static void test_bad_baggage(void **state)
{
	uint64_t rnd = 88172645463325252ULL;
	struct world w;

	(void)state;
	set_up(&w, 2, 2);
	for (unsigned i = 0; i < 60; i++) {
		unsigned from = i % 2, to = 1 - from;
		uint8_t *bytes;
		size_t size;

		ok(offer(&w, from, to));
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
		ok(accept_with(&w, from, to, bytes, size));
		free(bytes);
		open_disks(&w, to);
		lost(&w, from);
		read_back(&w, to);
		write_round(&w, to);
	}
	/* An old one, of an offer that was taken back. */
	{
		void *old;
		size_t size;

		ok(offer(&w, A, B));
		ok(cfs_vm_baggage(w.vm[A], MiB, &old, &size));
		ok(cfs_vm_retract(w.vm[A]));
		write_round(&w, A);
		ok(offer(&w, A, B));
		ok(accept_with(&w, A, B, old, size));
		free(old);
		open_disks(&w, B);
		lost(&w, A);
	}
	tear_down(&w, B);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_there),
		cmocka_unit_test(test_back),
		cmocka_unit_test(test_to_and_fro),
		cmocka_unit_test(test_race),
		cmocka_unit_test(test_lost_answers),
		cmocka_unit_test(test_source_dies),
		cmocka_unit_test(test_source_dies_for_good),
		cmocka_unit_test(test_accept_or_start),
		cmocka_unit_test(test_target_dies),
		cmocka_unit_test(test_restarts),
		cmocka_unit_test(test_replay_after),
		cmocka_unit_test(test_back_and_crash),
		cmocka_unit_test(test_bad_baggage),
	};

	(void)commands;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
