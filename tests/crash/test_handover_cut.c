// SPDX-License-Identifier: Apache-2.0
/*
 * A VM is handed over, and back; both hosts' commands are recorded. Then, for each moment of the hand-overs, the
 * LUN is built as a power cut of everything would have left it: it checks clean, a third host starts the VM,
 * and the disks hold what was synced, or something newer.
 *
 * What was in flight then has landed all, or nothing of it, or some, in turn.
 *
 *	TEST_ALL=1 build/tests/crash/test_handover_cut		each of them at each moment
 *	TEST_POINT=n TEST_CHOICE=n build/tests/crash/test_handover_cut	one point again
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "blockdev/record.h"
#include "tests/lib/check.h"
#include "tests/lib/lun.h"
#include "tests/lib/roam.h"

#define SIZE	(256 * MiB)
#define WORKERS 16u /* they mostly wait for leases to end */
#define MARKS	16u

struct world {
	struct roam w;
	char *base, *log;
	struct {
		unsigned event;
		uint64_t round;
	} mark[MARKS]; /* from that event on, the round is durable */
	unsigned marks, from, to;
};

static void copy_image(const char *from, const char *to)
{
	char *cmd = xasprintf("cp --sparse=always '%s' '%s'", from, to);

	assert_int_equal(system(cmd), 0);
	free(cmd);
}

static unsigned events(const struct world *x)
{
	struct record_log *log;
	unsigned n;

	ok(record_open(x->log, &log));
	n = record_events(log);
	record_close(log);
	return n;
}

static void mark(struct world *x)
{
	MUST(x->marks < MARKS);
	x->mark[x->marks].event = events(x);
	x->mark[x->marks++].round = x->w.round;
}

static void write_round(struct world *x, unsigned host)
{
	roam_write_round(&x->w, host);
	mark(x);
}

/* The volume with the VM's disks, all at rest, is the base; then everything is recorded. */
static int setup(void **state)
{
	struct world *x = xcalloc(1, sizeof(*x));
	struct roam *w = &x->w;

	*state = x;
	log_set_level(LOG_ERROR);
	roam_make_as(w, vol_make_patient(SIZE), 2, 2, false);
	roam_close_disks(w, A);
	ok(cfs_vm_unlock(w->vm[A]));
	ok(vol_unmount(w->v, A));
	ok(vol_unmount(w->v, B));
	x->base = xasprintf("%s.base", w->v->lun);
	x->log = xasprintf("%s.log", w->v->lun);
	copy_image(w->v->lun, x->base);
	vol_hurry(x->base);
	w->v->log = x->log;
	ok(vol_mount(w->v, A, NULL));
	ok(vol_mount(w->v, B, NULL));
	ok(cfs_vm_lock(roam_fs(w, A), "/vm", 20000, &w->vm[A]));
	roam_open_disks(w, A);
	ok(cfs_mkdir(roam_fs(w, A), "/old")); /* keeps the journal's tail */
	mark(x);
	write_round(x, A);
	x->from = events(x);
	roam_hand_over(w, A, B, true);
	write_round(x, B);
	roam_hand_over(w, B, A, false);
	write_round(x, A);
	x->to = events(x);
	roam_die(w, A);
	roam_die(w, B);
	return 0;
}

static int teardown(void **state)
{
	struct world *x = *state;

	unlink(x->base);
	unlink(x->log);
	free(x->base);
	free(x->log);
	vol_free(x->w.v);
	free(x);
	return 0;
}

static bool clean(struct vol *v, const char *when)
{
	struct cfs_check_result r;
	int rc = vol_check(v, false, true, &r);

	if (rc == 0 && r.findings == 0)
		return true;
	fprintf(stderr, "check %s: %d, %llu findings\n", when, rc, (unsigned long long)r.findings);
	return false;
}

static bool start(struct world *x, struct vol *v, uint64_t durable)
{
	struct roam w = {.v = v, .disks = x->w.disks, .round = x->w.round};
	bool right;

	ok(vol_mount(v, C, NULL));
	ok(cfs_vm_lock(roam_fs(&w, C), "/vm", 30000, &w.vm[C]));
	roam_open_disks(&w, C);
	right = roam_right(&w, C, durable);
	roam_close_disks(&w, C);
	ok(cfs_vm_unlock(w.vm[C]));
	ok(vol_unmount(v, C));
	return right;
}

static bool one_point(struct world *x, const struct record_log *log, const char *path,
		      unsigned point, enum record_choice choice)
{
	uint64_t durable = x->mark[0].round;
	struct vol *v;
	bool good;
	int fd;

	copy_image(x->base, path);
	fd = open(path, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	ok(record_replay(log, point, choice, point, lun_put, &fd));
	close(fd);
	for (unsigned i = 0; i < x->marks && x->mark[i].event <= point; i++)
		durable = x->mark[i].round;
	v = vol_open(path);
	good = clean(v, "in memory") && start(x, v, durable) && clean(v, "afterwards");
	if (!good)
		fprintf(stderr, "point %u (from %u to %u), choice %d\n", point, x->from, x->to,
			(int)choice);
	vol_free(v);
	return good;
}

static int worker(struct world *x, unsigned me)
{
	char *path = xasprintf("%s.%u", x->w.v->lun, me);
	unsigned choices = getenv("TEST_ALL") ? 3 : 1;
	unsigned n = choices * (x->to - x->from);
	struct record_log *log;
	bool good = true;

	ok(record_open(x->log, &log));
	if (getenv("TEST_POINT"))
		good = one_point(x, log, path, (unsigned)atoi(getenv("TEST_POINT")),
				 (enum record_choice)atoi(getenv("TEST_CHOICE")));
	for (unsigned i = me; i < n && good && !getenv("TEST_POINT"); i += WORKERS)
		good = one_point(x, log, path, x->from + i / choices, (enum record_choice)(i % 3));
	record_close(log);
	free(path);
	return good ? 0 : 1;
}

static void test_cuts(void **state)
{
	struct world *x = *state;
	pid_t pid[WORKERS];
	int failed = 0;

	print_message("%u moments\n", x->to - x->from);
	assert_true(x->to > x->from + 20);
	for (unsigned i = 0; i < WORKERS; i++) {
		pid[i] = fork();
		assert_true(pid[i] >= 0);
		if (pid[i] == 0)
			_exit(worker(x, i));
	}
	for (unsigned i = 0; i < WORKERS; i++) {
		int status;

		assert_int_equal(waitpid(pid[i], &status, 0), pid[i]);
		failed += !WIFEXITED(status) || WEXITSTATUS(status) != 0;
	}
	assert_int_equal(failed, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_cuts, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
