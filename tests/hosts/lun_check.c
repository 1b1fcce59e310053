// SPDX-License-Identifier: Apache-2.0
/*
 * lun_check.c: checks of one LUN of any kind, run by test_iscsi.py, test_kernel.py and in the lab.
 *
 *   lun_check info LUN             what was probed, a `name value` a line
 *   lun_check data LUN             reads, writes, splits, depth, discards, zeroes, lease (overwrites!)
 *   lun_check cas LUN              compare-and-write
 *   lun_check idle LUN SECONDS     a session that nobody uses stays up
 *   lun_check stopped LUN PID      stops the target's process: time-outs, then it all comes back
 *   lun_check reset LUN            sessions dropped under load: every request answered once
 *   lun_check look LUN             registers; each session that comes up looks before it is used
 *   lun_check fence LUN            two hosts, one preempts the other
 *
 * Options before the verb: --chap-file F, --timeout MS. Exit 0: as it must be.
 */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/loop.h"
#include "blockdev/blk.h"
#include "tests/lib/lun.h"

#define EXPECT(what, want)                                                                        \
	do {                                                                                      \
		long long got_ = (long long)(what), want_ = (long long)(want);                    \
		if (got_ != want_) {                                                              \
			fprintf(stderr, "%s:%d: %s is %lld, not %lld (%s)\n", __FILE__, __LINE__, \
				#what, got_, want_, got_ < 0 ? err_message((int)got_) : "");      \
			exit(1);                                                                  \
		}                                                                                 \
	} while (0)
#define CHECK(what) EXPECT(!!(what), 1)

static struct blk_options options;
static const char *lun;

static struct blk *open_lun(void)
{
	struct blk *blk;

	EXPECT(blk_open(lun, &options, &blk), 0);
	return blk;
}

static void info(void)
{
	struct blk *blk = open_lun();
	const struct blk_info *i = blk_info(blk);
	const char *cas = blk_cas_name(i->cas);

	printf("id %s\nsize %llu\nblock_size %u\nphysical_block_size %u\ncas %s\n", i->id,
	       (unsigned long long)i->size, i->block_size, i->physical_block_size,
	       cas ? cas : "none");
	printf("reservations %d\npreempt_abort %d\nunmap %d\nwrite_same %d\nzeroes_after_unmap "
	       "%d\n",
	       i->reservations, i->preempt_abort, i->unmap, i->write_same, i->zeroes_after_unmap);
	printf("write_cache %d\nreinstatement %d\nmax_transfer %u\ndiscard_granularity %u\n",
	       i->write_cache, i->reinstatement, i->max_transfer, i->discard_granularity);
	blk_close(blk);
}

static void compare(struct blk *blk, uint64_t offset, const uint8_t *want, size_t n)
{
	uint8_t *got = xaligned(4096, n);

	EXPECT(blk_read(blk, offset, got, n), 0);
	EXPECT(memcmp(got, want, n), 0);
	free(got);
}

struct many {
	struct blk_req req;
	struct iovec iov[2];
	unsigned *left;
	int res;
};

static void many_done(struct blk_req *req, int res)
{
	struct many *m = container_of(req, struct many, req);

	CHECK(*m->left > 0);
	(*m->left)--;
	m->res = res;
}

static void submit_many(struct blk_chan *chan, struct many *many, unsigned n, uint8_t *buf,
			enum blk_op op, unsigned *left)
{
	*left = n;
	for (unsigned i = 0; i < n; i++) {
		struct many *m = &many[i];

		m->iov[0] = (struct iovec){buf + i * 8192, 4096};
		m->iov[1] = (struct iovec){buf + i * 8192 + 4096, 4096};
		m->left = left;
		m->req.done = many_done;
		blk_prep_rw(&m->req, op, (uint64_t)i * 8192, m->iov, 2, 8192, 0);
		blk_submit(chan, &m->req);
	}
}

static void depth(struct blk *blk)
{
	enum { N = 600 };
	uint8_t *a = xaligned(4096, N * 8192), *b = xaligned(4096, N * 8192);
	struct many *many = xcalloc(N, sizeof(*many));
	struct blk_chan *chan;
	struct loop *loop;
	unsigned left;

	lun_pattern(a, N * 8192, 5);
	EXPECT(loop_create(&loop, 64), 0);
	EXPECT(blk_chan_open(blk, loop, BLK_CHAN_DATA, &chan), 0);
	for (int round = 0; round < 2; round++) {
		submit_many(chan, many, N, round ? b : a, round ? BLK_READ : BLK_WRITE, &left);
		while (left)
			EXPECT(loop_turn(loop, UINT64_MAX), 0);
		for (unsigned i = 0; i < N; i++)
			EXPECT(many[i].res, 0);
	}
	EXPECT(memcmp(a, b, N * 8192), 0);
	blk_chan_close(chan);
	EXPECT(loop_turn(loop, 0), 0);
	EXPECT(loop_turn(loop, 0), 0);
	loop_destroy(loop);
	free(many);
	free(a);
	free(b);
}

static void data(void)
{
	struct blk *blk = open_lun();
	size_t n = 11 * MiB;
	uint8_t *a = xaligned(4096, n);
	_Atomic uint64_t end = clock_boot_ns();

	lun_pattern(a, n, 1);
	EXPECT(blk_write(blk, 4096, a, n, 0), 0);
	compare(blk, 4096, a, n);
	EXPECT(blk_write(blk, 0, a + 1, 8192, BLK_FUA), 0);
	compare(blk, 0, a + 1, 8192);
	EXPECT(blk_flush(blk), 0);
	memset(a, 0, 4 * MiB);
	EXPECT(blk_write_zeroes(blk, 0, 4 * MiB, BLK_FUA), 0);
	compare(blk, 0, a, 4 * MiB);
	EXPECT(blk_discard(blk, 8 * MiB, 4 * MiB), blk_info(blk)->unmap ? 0 : -EOPNOTSUPP);
	if (blk_info(blk)->zeroes_after_unmap)
		compare(blk, 8 * MiB, a, 4 * MiB);
	depth(blk);
	blk_set_lease(blk, &end);
	EXPECT(blk_write(blk, 0, a, 4096, 0), -ESTALE);
	EXPECT(blk_write(blk, 0, a, 4096, BLK_UNGATED), 0);
	blk_set_lease(blk, NULL);
	EXPECT(blk_rescan(blk), 0);
	blk_close(blk);
	free(a);
}

static void cas(void)
{
	struct blk *blk = open_lun();
	uint32_t n = blk_info(blk)->block_size;
	uint8_t *zero = xaligned(4096, n), *one = xaligned(4096, n), *found = xaligned(4096, n);
	bool maybe = true;

	lun_pattern(one, n, 3);
	EXPECT(blk_write(blk, 3 * n, zero, n, 0), 0);
	EXPECT(blk_cas(blk, 3 * n, zero, one, NULL, 0, &maybe), 0);
	CHECK(!maybe);
	EXPECT(blk_cas(blk, 3 * n, zero, one, found, 0, &maybe), -EILSEQ);
	EXPECT(memcmp(found, one, n), 0);
	EXPECT(blk_cas(blk, 3 * n, one, zero, NULL, 0, NULL), 0);
	compare(blk, 3 * n, zero, n);
	blk_close(blk);
	free(zero);
	free(one);
	free(found);
}

static void idle(unsigned seconds)
{
	struct blk *blk = open_lun();
	uint8_t *buf = xaligned(4096, 4096);
	uint64_t power;

	EXPECT(blk_read(blk, 0, buf, 4096), 0);
	power = blk_power_count(blk);
	sleep_ms(seconds * 1000);
	EXPECT(blk_read(blk, 0, buf, 4096), 0);
	EXPECT(blk_power_count(blk), power);
	blk_close(blk);
	free(buf);
}

static void stopped(pid_t pid)
{
	struct blk *blk;
	uint8_t *buf = xaligned(4096, 4096);
	uint64_t power, start;
	bool maybe = false;
	int rc;

	options.timeout_ms = 500;
	blk = open_lun();
	EXPECT(blk_write(blk, 0, buf, 4096, 0), 0);
	power = blk_power_count(blk);
	EXPECT(kill(pid, SIGSTOP), 0);
	start = clock_boot_ns();
	EXPECT(blk_write(blk, 0, buf, 4096, 0), -ETIMEDOUT);
	CHECK(clock_boot_ns() - start < 2 * NS_PER_S);
	EXPECT(blk_power_count(blk), power + 1);
	rc = blk_flush(blk); /* a new session does not come up */
	CHECK(rc == -ETIMEDOUT || rc == -ENOTCONN);
	rc = blk_cas(blk, 0, buf, buf, NULL, 0, &maybe);
	CHECK(rc == -ETIMEDOUT || rc == -ENOTCONN);
	CHECK(clock_boot_ns() - start < 6 * NS_PER_S);
	EXPECT(kill(pid, SIGCONT), 0);
	start = clock_boot_ns();
	while ((rc = blk_write(blk, 0, buf, 4096, 0)) != 0)
		CHECK(clock_boot_ns() - start < 10 * NS_PER_S);
	EXPECT(blk_flush(blk), 0);
	blk_close(blk);
	free(buf);
}

static void reset(void)
{
	enum { N = 200, ROUNDS = 20 };
	struct blk *blk = open_lun();
	uint8_t *buf = xaligned(4096, N * 8192);
	struct many *many = xcalloc(N, sizeof(*many));
	unsigned left, lost = 0, good = 0;
	struct blk_chan *chan;
	struct loop *loop;

	EXPECT(loop_create(&loop, 64), 0);
	EXPECT(blk_chan_open(blk, loop, BLK_CHAN_DATA, &chan), 0);
	for (int round = 0; round < ROUNDS; round++) {
		submit_many(chan, many, N, buf, BLK_WRITE, &left);
		for (int i = 0; i < round % 5; i++)
			EXPECT(loop_turn(loop, clock_boot_ns() + NS_PER_MS), 0);
		blk_reset(blk);
		while (left)
			EXPECT(loop_turn(loop, UINT64_MAX), 0);
		for (unsigned i = 0; i < N; i++) {
			CHECK(many[i].res == 0 || many[i].res == -ENOTCONN);
			lost += many[i].res != 0;
			good += many[i].res == 0;
		}
	}
	printf("lost %u good %u power %llu\n", lost, good,
	       (unsigned long long)blk_power_count(blk));
	CHECK(lost > 0);
	EXPECT(blk_read(blk, 0, buf, 4096), 0);
	blk_chan_close(chan);
	EXPECT(loop_turn(loop, 0), 0);
	EXPECT(loop_turn(loop, 0), 0);
	loop_destroy(loop);
	blk_close(blk);
	free(many);
	free(buf);
}

struct looker {
	struct blk *blk;
	int calls, verdict;
};

static int look(void *arg)
{
	struct looker *l = arg;
	uint8_t *buf = xaligned(4096, 4096);

	EXPECT(blk_read(l->blk, 0, buf, 4096), 0); /* over the session that comes up */
	free(buf);
	l->calls++;
	return l->verdict;
}

static void look_check(void)
{
	struct looker l = {.blk = open_lun()};
	struct blk_pr_state *st = xcalloc(1, sizeof(*st));
	uint8_t *buf = xaligned(4096, 4096);

	EXPECT(blk_pr_register(l.blk, 0x77, look, &l), 0);
	EXPECT(l.calls, 0);
	EXPECT(blk_pr_read(l.blk, st), 0);
	EXPECT(st->keys, 1);
	EXPECT(st->key[0], 0x77);
	blk_reset(l.blk);
	while (blk_write(l.blk, 0, buf, 4096, 0) != 0)
		sleep_ms(10);
	EXPECT(l.calls, 1);
	l.verdict = 1; /* fenced meanwhile: not used, nothing written */
	blk_reset(l.blk);
	sleep_ms(50);
	EXPECT(blk_write(l.blk, 0, buf, 4096, 0), -ESTALE);
	CHECK(l.calls >= 2);
	l.verdict = 0;
	sleep_ms(150);
	EXPECT(blk_write(l.blk, 0, buf, 4096, 0), 0);
	EXPECT(blk_pr_unregister(l.blk), 0);
	blk_close(l.blk);
	free(st);
	free(buf);
}

static bool has(const struct blk_pr_state *st, uint64_t key)
{
	for (unsigned i = 0; i < st->keys; i++)
		if (st->key[i] == key)
			return true;
	return false;
}

static void fence(void)
{
	struct blk *a = open_lun(), *b = open_lun(), *stranger = open_lun();
	struct blk_pr_state *st = xcalloc(1, sizeof(*st));
	uint32_t n = blk_info(a)->block_size;
	uint8_t *buf = xaligned(4096, 4096), *other = xaligned(4096, 4096);
	enum blk_pr_type type = blk_info(a)->cas == BLK_CAS_BATON ? BLK_PR_WE_REGISTRANTS_ONLY
								  : BLK_PR_WE_ALL_REGISTRANTS;
	int rc;

	memset(other, 9, 4096);
	EXPECT(blk_write(stranger, 0, buf, 4096, 0), 0);
	EXPECT(blk_pr_register(a, 0xaaaa, NULL, NULL), 0);
	EXPECT(blk_pr_register(b, 0xbbbb, NULL, NULL), 0);
	EXPECT(blk_pr_reserve(a, type), 0);
	EXPECT(blk_pr_reserve(b, type), 0);
	EXPECT(blk_write(a, 0, buf, 4096, 0), 0);
	EXPECT(blk_write(b, 0, buf, 4096, 0), 0);
	EXPECT(blk_write(stranger, 0, other, 4096, 0), -EBADE);
	EXPECT(blk_read(stranger, 0, buf, 4096), 0);
	EXPECT(blk_pr_read(b, st), 0);
	EXPECT(st->type, type);
	CHECK(has(st, 0xaaaa) && has(st, 0xbbbb));
	for (unsigned i = 0; i < st->keys; i++) /* nothing of blockdev's own is shown */
		CHECK(st->key[i] == 0xaaaa || st->key[i] == 0xbbbb);
	EXPECT(blk_pr_preempt(b, type, 0xaaaa), 0);
	EXPECT(blk_pr_preempt(b, type, 0xaaaa), 0); /* absent: success */
	EXPECT(blk_pr_read(b, st), 0);
	CHECK(!has(st, 0xaaaa) && has(st, 0xbbbb));
	EXPECT(blk_write(a, 0, other, 4096, 0), -EBADE);
	EXPECT(blk_write(b, 0, buf, 4096, 0), 0);
	EXPECT(blk_cas(b, 0, buf, other, NULL, 0, NULL), 0);
	EXPECT(blk_read(a, 0, buf, n), 0);
	EXPECT(memcmp(buf, other, n), 0);
	rc = blk_drain_foreign(b, "iqn.2026-01.org.perilune:nobody", 0x123456, 2);
	EXPECT(rc, blk_info(b)->reinstatement ? 0 : -EOPNOTSUPP);
	CHECK(blk_sessions(b) >= 1);
	EXPECT(blk_pr_unregister(b), 0);
	EXPECT(blk_pr_read(b, st), 0);
	CHECK(!has(st, 0xbbbb));
	blk_close(a);
	blk_close(b);
	blk_close(stranger);
	free(st);
	free(buf);
	free(other);
}

int main(int argc, char **argv)
{
	static struct option longs[] = {
		{"chap-file", 1, NULL, 'c'}, {"timeout", 1, NULL, 't'}, {NULL, 0, NULL, 0}};
	const char *verb, *extra;
	int c;

	signal(SIGPIPE, SIG_IGN); /* blk.h */
	while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1)
		if (c == 'c')
			options.chap_file = optarg;
		else if (c == 't')
			options.timeout_ms = (unsigned)atoi(optarg);
		else
			return 2;
	if (argc - optind < 2) {
		fprintf(stderr, "usage: lun_check [OPTIONS] VERB LUN [ARG]\n");
		return 2;
	}
	verb = argv[optind];
	lun = argv[optind + 1];
	extra = argc - optind > 2 ? argv[optind + 2] : "0";
	if (strcmp(verb, "info") == 0)
		info();
	else if (strcmp(verb, "data") == 0)
		data();
	else if (strcmp(verb, "cas") == 0)
		cas();
	else if (strcmp(verb, "idle") == 0)
		idle((unsigned)atoi(extra));
	else if (strcmp(verb, "stopped") == 0)
		stopped(atoi(extra));
	else if (strcmp(verb, "reset") == 0)
		reset();
	else if (strcmp(verb, "look") == 0)
		look_check();
	else if (strcmp(verb, "fence") == 0)
		fence();
	else
		return 2;
	return 0;
}
