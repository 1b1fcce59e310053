// SPDX-License-Identifier: Apache-2.0
/*
 * cas_incr.c: one host of the lock test. `cas_incr [OPTIONS] LUN COUNT` adds 1 to a counter COUNT
 * times, each time under a lock made of compare-and-write; several at once must lose no update.
 *
 *   --offset BYTES     of the lock block; the counter's lies 4096 bytes behind it (1 MiB)
 *   --initiator NAME   iscsi (a made-up one)
 *   --timeout MS       of a request (5000)
 *   --fault KIND[,N]   as `perilune fault add --kind`, on compare-and-writes, N times; may be given
 *                      often
 *   --seed N           of the faults
 *   --register KEY     registers KEY and, with the baton or ATS, reserves
 *   --hold MS          sleeps inside of each section
 *   --rest MS          sleeps between its sections, which lets others into theirs
 *   --print            prints the counter only
 *
 * SIGTERM ends it behind the round that it is in; it says how many it did.
 *
 * The lock block holds {magic, owner, token}; tokens are fresh for each attempt, so no state comes
 * twice and what is late can only miscompare (INV-BLK-2): an unknown compare-and-write is settled by
 * one that changes the state it may find.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "blockdev/blk.h"
#include "blockdev/fault.h"

#define MAGIC 0x4b434f4c54534554ULL

struct lock_block {
	uint64_t magic, owner, token;
};

struct host {
	struct blk *blk;
	uint64_t offset, me;
	uint32_t n;
	uint8_t *old, *new; /* lock blocks */
	uint64_t *counter;
	unsigned unknown, settled, busy;
};

static void die(const char *what, int rc)
{
	fprintf(stderr, "cas_incr: %s: %s (%d)\n", what, err_message(rc), rc);
	exit(1);
}

static struct lock_block get(const uint8_t *p)
{
	struct lock_block b;

	memcpy(&b, p, sizeof(b));
	if (b.magic != MAGIC)
		b.owner = 0;
	return b;
}

static void make(struct host *h, uint64_t owner)
{
	struct lock_block b = {.magic = MAGIC, .owner = owner};

	random_bytes(&b.token, sizeof(b.token));
	memset(h->new, 0, h->n);
	memcpy(h->new, &b, sizeof(b));
}

static bool lost(int rc)
{
	return rc == -ETIMEDOUT || rc == -ENOTCONN || rc == -EIO;
}

static void read_lock(struct host *h)
{
	int rc;

	while (lost(rc = blk_read(h->blk, h->offset, h->old, h->n)))
		sleep_ms(10);
	if (rc < 0)
		die("read", rc);
}

/* 0 swapped, 1 something else was there, 2 unknown. */
static int swap(struct host *h)
{
	bool maybe = false;
	int rc = blk_cas(h->blk, h->offset, h->old, h->new, NULL, 0, &maybe);

	if (rc == 0)
		return 0;
	if (rc == -EILSEQ || (lost(rc) && !maybe))
		return 1;
	if (!lost(rc))
		die("compare-and-write", rc);
	h->unknown++;
	return 2;
}

/*
 * After an unknown: brings the block into a state that is known, from which nothing late leads away,
 * or sees that it is in one. `first`: the state that the unknown one started from.
 */
static void settle(struct host *h, const uint8_t *first)
{
	for (;;) {
		bool ours;

		read_lock(h);
		ours = get(h->old).owner == h->me;
		if (!ours && memcmp(h->old, first, h->n) != 0)
			break; /* that state is gone for good: the late one miscompares */
		make(h, ours ? h->me : 0);
		if (swap(h) == 0)
			break;
	}
	h->settled++;
}

static void lock(struct host *h)
{
	uint8_t *first = xmalloc(h->n);

	for (;;) {
		int rc;

		read_lock(h);
		if (get(h->old).owner == h->me)
			break; /* settled below: it is ours */
		if (get(h->old).owner != 0) {
			h->busy++;
			sleep_ms(1);
			continue;
		}
		memcpy(first, h->old, h->n);
		make(h, h->me);
		rc = swap(h);
		if (rc == 0)
			break;
		if (rc == 2)
			settle(h, first);
	}
	free(first);
}

static void unlock(struct host *h)
{
	for (;;) {
		read_lock(h);
		if (get(h->old).owner != h->me)
			return; /* nobody but us can have done that */
		make(h, 0);
		if (swap(h) == 0)
			return;
	}
}

static void add(struct host *h, unsigned hold_ms)
{
	uint64_t at = h->offset + 4096, length = MAX(h->n, 512u);
	int rc;

	while (lost(rc = blk_read(h->blk, at, h->counter, length)))
		;
	if (rc < 0)
		die("read of the counter", rc);
	(*h->counter)++;
	if (hold_ms)
		sleep_ms(hold_ms);
	while (lost(rc = blk_write(h->blk, at, h->counter, length, BLK_FUA)))
		;
	if (rc < 0)
		die("write of the counter", rc);
}

static void add_fault(const struct blk *blk, const char *kind, uint64_t seed)
{
	char *word = xstrdup(kind), *times = strchr(word, ',');
	struct fault fault;
	int rc;

	if (times)
		*times++ = 0;
	rc = fault_parse(&fault, blk_info(blk)->name, word, "cas", NULL, NULL);
	fault.seed = seed;
	fault.times = times ? strtoull(times, NULL, 0) : 0;
	free(word);
	if (rc < 0 || (rc = fault_add(&fault, NULL)) < 0)
		die("fault", rc);
}

static void enlist(struct blk *blk, uint64_t key)
{
	enum blk_pr_type type = blk_info(blk)->cas == BLK_CAS_BATON ? BLK_PR_WE_REGISTRANTS_ONLY
								    : BLK_PR_WE_ALL_REGISTRANTS;
	int rc = blk_pr_register(blk, key, NULL, NULL);

	if (rc < 0)
		die("register", rc);
	rc = blk_pr_reserve(blk, type);
	if (rc < 0)
		die("reserve", rc);
}

static struct option options[] = {
	{"offset", 1, NULL, 'o'},   {"initiator", 1, NULL, 'i'}, {"timeout", 1, NULL, 't'},
	{"fault", 1, NULL, 'f'},    {"seed", 1, NULL, 's'},	 {"print", 0, NULL, 'p'},
	{"register", 1, NULL, 'r'}, {"hold", 1, NULL, 'h'},	 {"rest", 1, NULL, 'R'},
	{NULL, 0, NULL, 0},
};

static bool told_to_end(const sigset_t *term)
{
	return sigtimedwait(term, NULL, &(struct timespec){0}) == SIGTERM;
}

int main(int argc, char **argv)
{
	struct blk_options o = {0};
	struct host h = {.offset = MiB};
	const char *kinds[8];
	unsigned nkinds = 0, hold_ms = 0, rest_ms = 0;
	uint64_t seed = 1, key = 0, start;
	bool print = false;
	struct blk *lower;
	unsigned long count, done = 0;
	sigset_t term;
	int c, rc;

	sigemptyset(&term);
	sigaddset(&term, SIGTERM);
	signal(SIGPIPE, SIG_IGN); /* blk.h */
	/* Before there are threads, who inherit it. */
	MUST(pthread_sigmask(SIG_BLOCK, &term, NULL) == 0);

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (c) {
		case 'o':
			h.offset = strtoull(optarg, NULL, 0);
			break;
		case 'i':
			o.initiator = optarg;
			break;
		case 't':
			o.timeout_ms = (unsigned)atoi(optarg);
			break;
		case 'f':
			MUST(nkinds < ARRAY_SIZE(kinds));
			kinds[nkinds++] = optarg;
			break;
		case 's':
			seed = strtoull(optarg, NULL, 0);
			break;
		case 'r':
			key = strtoull(optarg, NULL, 0);
			break;
		case 'h':
			hold_ms = (unsigned)atoi(optarg);
			break;
		case 'R':
			rest_ms = (unsigned)atoi(optarg);
			break;
		case 'p':
			print = true;
			break;
		default:
			return 2;
		}
	}
	if (argc - optind != (print ? 1 : 2)) {
		fprintf(stderr, "usage: cas_incr [OPTIONS] LUN COUNT\n");
		return 2;
	}
	rc = blk_open(argv[optind], &o, &lower);
	if (rc == 0)
		rc = blk_fault_wrap(lower, &h.blk);
	if (rc < 0)
		die("open", rc);
	h.n = blk_info(h.blk)->block_size;
	h.old = xaligned(4096, h.n);
	h.new = xaligned(4096, h.n);
	h.counter = xaligned(4096, 4096);
	random_bytes(&h.me, sizeof(h.me));
	h.me |= 1;
	count = print ? 0 : strtoul(argv[optind + 1], NULL, 0);
	if (key)
		enlist(h.blk, key);
	for (unsigned i = 0; i < nkinds; i++)
		add_fault(h.blk, kinds[i], seed + i);
	start = clock_boot_ns();
	for (; done < count && !told_to_end(&term); done++) {
		lock(&h);
		add(&h, hold_ms);
		unlock(&h);
		sleep_ms(rest_ms);
	}
	if (print) {
		rc = blk_read(h.blk, h.offset + 4096, h.counter, MAX(h.n, 512u));
		if (rc < 0)
			die("read", rc);
		printf("%" PRIu64 "\n", *h.counter);
	} else {
		printf("cas %s rounds %lu unknown %u settled %u busy %u ms %llu\n",
		       blk_cas_name(blk_info(h.blk)->cas), done, h.unknown, h.settled, h.busy,
		       (unsigned long long)((clock_boot_ns() - start) / NS_PER_MS));
	}
	fault_clear(0);
	if (key)
		blk_pr_unregister(h.blk);
	blk_close(h.blk);
	free(h.old);
	free(h.new);
	free(h.counter);
	return 0;
}
