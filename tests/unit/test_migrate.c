// SPDX-License-Identifier: Apache-2.0
/* Memory that moves between two processes' worth of threads while it is written to; what is checked, when it ends. */
#include <stdarg.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/peer_stream.h"
#include "host/vm_lazy.h"
#include "migrate/estimate.h"
#include "migrate/memory.h"
#include "migrate/pager.h"
#include "migrate/source.h"
#include "migrate/target.h"
#include "tests/lib/streams.h"

#include <cmocka.h>

#define MEMORY	(24 * MiB)
#define PAGES	(MEMORY / MIG_PAGE)
#define STREAMS 2u
#define LIMIT	20000u
#define LARGE	(320 * MiB) /* more than a sender's queue holds */
#define SILENCE (PEER_STREAM_MS + PEER_STREAM_PING)

struct side {
	int fd;
	uint8_t *map;
};

struct world {
	struct side from, to;
	uint64_t memory, bandwidth, first_remaining;
	struct peer_stream *control[2], *data[STREAMS][2]; /* source's, target's end */
	struct mig_target *target;
	struct mig_source *source;
	uint64_t *log;
	pthread_t control_thread, lane_thread[STREAMS], guest;
	atomic_bool guest_runs, stop_guest;
	bool control_over; /* joined already */
	bool all_dirty;	   /* until it is throttled, however rarely its thread runs */
	_Atomic unsigned guest_pause_us;
	unsigned syncs, loads, accepts, throttled, cancel_at, looks, sync_ms;
	int target_rc, load_rc;
	char state[100];
};

static void side_init(struct side *s, uint64_t memory)
{
	s->fd = memfd_create("guest", MFD_CLOEXEC);
	assert_int_equal(ftruncate(s->fd, (off_t)memory), 0);
	s->map = mmap(NULL, memory, PROT_READ | PROT_WRITE, MAP_SHARED, s->fd, 0);
	assert_ptr_not_equal(s->map, MAP_FAILED);
}

/* A guest that writes pages, wipes pages, and tells the log. */
static void *guest_main(void *arg)
{
	struct world *w = arg;
	uint64_t x = 88172645463325252ull;

	while (!atomic_load(&w->stop_guest)) {
		uint64_t page;

		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		page = x % PAGES;
		if (x >> 40 & 3)
			memset(w->from.map + page * MIG_PAGE, (int)(x >> 50), 1 + x % MIG_PAGE);
		else
			memset(w->from.map + page * MIG_PAGE, 0, MIG_PAGE);
		__atomic_fetch_or(&w->log[page / 64], 1ULL << page % 64, __ATOMIC_RELEASE);
		if (w->guest_pause_us)
			usleep(w->guest_pause_us);
	}
	return NULL;
}

static void stop_guest(struct world *w)
{
	atomic_store(&w->stop_guest, true);
	if (atomic_exchange(&w->guest_runs, false))
		pthread_join(w->guest, NULL);
}

static int on_sync(void *arg)
{
	struct world *w = arg;

	if (w->syncs++ == 0)
		sleep_ms(w->sync_ms);
	if (w->all_dirty && !w->throttled)
		memset(w->log, 0xff, PAGES / 8);
	return 0;
}

static int on_progress(void *arg, const struct mig_progress *p)
{
	struct world *w = arg;

	assert_true(p->remaining <= w->memory);
	if (w->looks++ == 0)
		w->first_remaining = p->remaining;
	return w->cancel_at && w->syncs >= w->cancel_at ? (fail)(-ECANCELED, "enough") : 0;
}

static int on_throttle(void *arg, unsigned percent)
{
	struct world *w = arg;

	w->throttled = percent;
	w->guest_pause_us = 200 * percent;
	return 0;
}

static const struct mig_source_ops source_ops = {
	.sync = on_sync, .progress = on_progress, .throttle = on_throttle};

static int on_load(void *arg, const struct mig_state *s)
{
	struct world *w = arg;
	uint64_t sum;

	w->loads++;
	assert_int_equal(mig_memory_checksum(w->to.fd, MEMORY, &sum), 0);
	assert_true(s->has_checksum);
	if (s->checksum != sum)
		return (fail)(-EILSEQ, "the memory differs");
	assert_int_equal(s->n, sizeof(w->state));
	assert_memory_equal(s->bytes, w->state, s->n);
	return w->load_rc ? (fail)(w->load_rc, "this state makes no sense") : 0;
}

static int on_accept(void *arg, const uint8_t *baggage, uint32_t n, uint64_t *word)
{
	struct world *w = arg;

	assert_int_equal(n, 5);
	assert_memory_equal(baggage, "disks", 5);
	w->accepts++;
	*word = 4711;
	return 0;
}

static const struct mig_target_ops target_ops = {.load = on_load, .accept = on_accept};

static void *control_main(void *arg)
{
	struct world *w = arg;

	w->target_rc = mig_target_run(w->target, &target_ops, w);
	mig_target_close(w->target);
	peer_stream_end(w->control[1], w->target_rc);
	return NULL;
}

struct lane {
	struct world *w;
	unsigned n;
};

static void *lane_main(void *arg)
{
	struct lane *l = arg;
	uint8_t token[MIG_TOKEN_BYTES];
	struct frame f;
	unsigned index;
	int rc = peer_stream_receive(l->w->data[l->n][1], &f, LIMIT);

	if (rc == 0)
		rc = mig_join_decode(&f, token, &index);
	if (rc == 0) {
		assert_memory_equal(token, mig_target_token(l->w->target), sizeof(token));
		rc = mig_target_lane(l->w->target, l->w->data[l->n][1], index, f.tag);
	}
	peer_stream_end(l->w->data[l->n][1], rc);
	free(l);
	return NULL;
}

static int setup_with(void **state, uint64_t memory)
{
	struct world *w = xcalloc(1, sizeof(*w));

	w->memory = memory;
	side_init(&w->from, memory);
	side_init(&w->to, memory);
	random_bytes(w->state, sizeof(w->state));
	for (uint64_t p = 0; p < PAGES * 2 / 3;
	     p += 1 + p % 5) /* with holes in between, and a large one */
		memset(w->from.map + p * MIG_PAGE, (int)(p % 250), MIG_PAGE);
	w->log = xcalloc(memory / MIG_PAGE / 64, 8);
	streams_pair(&w->control[0], &w->control[1]);
	assert_int_equal(
		mig_target_create(&w->target, w->to.fd, memory, STREAMS, false, w->control[1]), 0);
	for (unsigned i = 0; i < STREAMS; i++) {
		struct lane *l = xcalloc(1, sizeof(*l));

		*l = (struct lane){w, i};
		streams_pair(&w->data[i][0], &w->data[i][1]);
		pthread_create(&w->lane_thread[i], NULL, lane_main, l);
	}
	pthread_create(&w->control_thread, NULL, control_main, w);
	*state = w;
	return 0;
}

static int setup(void **state)
{
	return setup_with(state, MEMORY);
}

static int setup_large(void **state)
{
	return setup_with(state, LARGE);
}

static void begin(struct world *w, uint64_t max_downtime_ms, bool busy)
{
	struct mig_source_options o = {
		.memory_fd = w->from.fd,
		.memory = w->memory,
		.bandwidth = w->bandwidth,
		.log = w->log,
		.control = w->control[0],
		.streams_n = STREAMS,
		.max_downtime_ms = max_downtime_ms,
		.constant_ns = 5 * NS_PER_MS,
		.ops = &source_ops,
		.arg = w,
	};
	struct mig_join join;
	struct frame answer;

	for (unsigned i = 0; i < STREAMS; i++) {
		mig_join_encode(mig_target_token(w->target), i, &join);
		assert_int_equal(peer_stream_call(w->data[i][0], FRAME_MIG_JOIN, &join,
						  sizeof(join), NULL, 0, LIMIT, &answer),
				 0);
		o.streams[i] = w->data[i][0];
	}
	assert_int_equal(mig_source_create(&w->source, &o), 0);
	if (busy) {
		atomic_store(&w->guest_runs, true);
		pthread_create(&w->guest, NULL, guest_main, w);
	}
}

static int teardown(void **state)
{
	struct world *w = *state;

	stop_guest(w);
	mig_source_destroy(w->source);
	for (unsigned i = 0; i < STREAMS; i++)
		peer_stream_end(w->data[i][0], 0);
	peer_stream_end(w->control[0], 0);
	if (!w->control_over)
		pthread_join(w->control_thread, NULL);
	for (unsigned i = 0; i < STREAMS; i++)
		pthread_join(w->lane_thread[i], NULL);
	mig_target_destroy(w->target);
	munmap(w->from.map, w->memory);
	munmap(w->to.map, w->memory);
	close(w->from.fd);
	close(w->to.fd);
	free(w->log);
	free(w);
	return 0;
}

static void finish(struct world *w)
{
	assert_int_equal(mig_source_last_pages(w->source), 0);
	/* What saving dirties, among it pages of the last round. */
	for (uint64_t p = 1; p < 40; p++) {
		memset(w->from.map + p * MIG_PAGE, 0xe7, MIG_PAGE);
		w->log[0] |= 1ULL << p;
	}
	assert_int_equal(mig_source_state(w->source, w->state, sizeof(w->state), true, LIMIT), 0);
	assert_int_equal(mig_source_offered(w->source, "disks", 5, LIMIT), 0);
	assert_int_equal(mig_source_word(w->source), 4711);
	assert_int_equal(w->loads, 1);
	assert_int_equal(w->accepts, 1);
	assert_memory_equal(w->from.map, w->to.map, MEMORY);
}

static void test_idle(void **state)
{
	struct world *w = *state;
	struct mig_progress p;
	struct stat st;

	begin(w, 300, false);
	assert_int_equal(mig_source_rounds(w->source), 0);
	assert_int_equal(fstat(w->to.fd, &st), 0);
	mig_source_progress(w->source, &p);
	assert_true(p.sent > 0 && p.sent < MEMORY);	    /* holes are not sent ... */
	assert_true((uint64_t)st.st_blocks * 512 < MEMORY); /* ... and stay such */
	finish(w);
}

static void test_busy(void **state)
{
	struct world *w = *state;

	w->guest_pause_us = 50;
	begin(w, 300, true);
	assert_int_equal(mig_source_rounds(w->source), 0);
	stop_guest(w);
	finish(w);
}

/* It could not be stopped at first: more rounds, then it could. */
static void test_again(void **state)
{
	struct world *w = *state;

	w->guest_pause_us = 50;
	begin(w, 300, true);
	assert_int_equal(mig_source_rounds(w->source), 0);
	assert_int_equal(mig_source_rounds(w->source), 0);
	stop_guest(w);
	memset(w->from.map, 0x11, MEMORY); /* so much that the streams take it */
	memset(w->log, 0xff, PAGES / 8);
	finish(w);
}

static void test_never_ends(void **state)
{
	struct world *w = *state;
	int rc;

	w->all_dirty = true;
	w->guest_pause_us = 0;
	begin(w, 6, true); /* a millisecond for pages */
	rc = mig_source_rounds(w->source);
	if (rc == 0) /* throttled enough after all */
		assert_true(w->throttled >= MIG_THROTTLE_FIRST);
	else
		assert_int_equal(rc, -ETIMEDOUT);
	assert_true(w->throttled >= MIG_THROTTLE_FIRST);
}

static void test_cancelled(void **state)
{
	struct world *w = *state;

	w->cancel_at = 1;
	w->all_dirty = true;
	w->guest_pause_us = 20;
	begin(w, 6, true);
	assert_int_equal(mig_source_rounds(w->source), -ECANCELED);
}

/* All of a large memory is there, as one range: progress is told, and a cancel heard, from the beginning. */
static void test_large(void **state)
{
	struct world *w = *state;

	memset(w->from.map, 0, LARGE);
	w->bandwidth = 32 * MiB;
	w->cancel_at = 1;
	w->syncs = 1;
	begin(w, 300, false);
	assert_int_equal(mig_source_rounds(w->source), -ECANCELED);
	assert_int_equal(w->looks, 1);
	assert_true(w->first_remaining > LARGE * 9 / 10);
}

/* A checkpoint that takes longer than the target's patience: the data streams say that the source lives. */
static void test_slow_storage(void **state)
{
	struct world *w = *state;

	w->sync_ms = SILENCE;
	begin(w, 300, false);
	assert_int_equal(mig_source_rounds(w->source), 0);
	finish(w);
}

/* Its state is refused: the words come over. */
static void test_refused(void **state)
{
	struct world *w = *state;
	int rc;

	w->load_rc = -EUCLEAN;
	begin(w, 300, false);
	assert_int_equal(mig_source_rounds(w->source), 0);
	assert_int_equal(mig_source_last_pages(w->source), 0);
	rc = mig_source_state(w->source, w->state, sizeof(w->state), true, LIMIT);
	assert_int_equal(rc, -EUCLEAN);
	assert_non_null(strstr(err_message(rc), "makes no sense"));
	assert_int_equal(w->accepts, 0);
}

/* One data stream is cut: all ends, on both sides. */
static void test_lane_lost(void **state)
{
	struct world *w = *state;
	int rc = 0;

	w->guest_pause_us = 20;
	begin(w, 6, true);
	peer_stream_cancel(w->data[1][0]);
	rc = mig_source_rounds(w->source);
	assert_true(rc < 0);
	pthread_join(w->control_thread, NULL);
	assert_true(w->target_rc < 0);
	assert_int_equal(w->loads, 0);
	w->control_over = true;
}

/* A member with a bug: what makes no sense, and where it makes none, ends all, in words; nothing is loaded. */
static void test_nonsense(void **state)
{
	static const struct {
		enum frame_type type;
		unsigned flags, pages;
		struct mig_range range;
		bool control;
	} cases[] = {
		{FRAME_MIG_PAGES, 0, 1, {MEMORY, 4096}, false}, /* beyond the memory */
		{FRAME_MIG_PAGES, 0, 1, {0, 8192}, false},	/* cut */
		{FRAME_MIG_PAGES, 0, 3, {0, 8192}, false},	/* stretched */
		{FRAME_MIG_ABSENT, 0, 0, {4096, MEMORY}, false},
		{FRAME_MIG_PAGES, 0, 1, {17, 4096}, false}, /* not on a page */
		{FRAME_MIG_BEGIN, 0, 0, {0, 4096}, false},
		{FRAME_MIG_STATE, 0, 0, {0, 4096}, false}, /* on a data stream */
		{FRAME_MIG_ROUND, FRAME_ANSWER, 0, {0, 0}, false},
		{FRAME_CALL, 0, 0, {0, 4096}, false},
		{FRAME_MIG_OFFERED, 0, 0, {0, 4096}, true}, /* before the state */
		{FRAME_MIG_JOIN, 0, 0, {0, 4096}, true},
	};

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		uint8_t body[MIG_TABLE_BYTES(1) + 3 * MIG_PAGE] = {0};
		struct peer_stream *s;
		struct world *w;
		struct frame f;
		uint32_t n = 8;
		int rc = 0;

		(void)setup((void **)&w);
		begin(w, 300, false);
		s = cases[i].control ? w->control[0] : w->data[1][0];
		if (cases[i].range.bytes)
			n = mig_ranges_encode(&cases[i].range, 1, body) + cases[i].pages * MIG_PAGE;
		assert_int_equal(peer_stream_send(s, cases[i].type, cases[i].flags, 1, body,
						  MIN(n, frame_type_max((uint16_t)cases[i].type,
									cases[i].flags)),
						  NULL, 0),
				 0);
		assert_int_equal(peer_stream_flush(s), 0);
		while (rc == 0)
			rc = peer_stream_receive(w->control[0], &f, LIMIT);
		assert_int_equal(rc, -EBADMSG);
		pthread_join(w->control_thread, NULL);
		w->control_over = true;
		assert_int_equal(w->target_rc, -EBADMSG);
		assert_int_equal(w->loads + w->accepts, 0);
		(void)teardown((void **)&w);
	}
	(void)state;
}

/* --- parts ------------------------------------------------------------------------------------------- */

static void test_ranges(void **state)
{
	const struct mig_range r[3] = {{0, 4096}, {8192, 8192}, {MEMORY - 4096, 4096}};
	static uint8_t body[PEER_MIG_PAGES_MAX];
	struct mig_range out[MIG_RANGES_MAX];
	struct frame f = {.type = FRAME_MIG_PAGES, .body = body};
	const uint8_t *data;

	(void)state;
	f.bytes = mig_ranges_encode(r, 3, body) + 4 * 4096;
	assert_int_equal(mig_ranges_decode(&f, MEMORY, out, &data), 3);
	assert_memory_equal(out, r, sizeof(r));
	assert_ptr_equal(data, body + MIG_TABLE_BYTES(3));
	assert_int_equal(mig_ranges_decode(&f, MEMORY - 4096, out, &data), -EBADMSG);
	f.bytes--;
	assert_int_equal(mig_ranges_decode(&f, MEMORY, out, &data), -EBADMSG);
	f.bytes++;
	f.type = FRAME_MIG_ABSENT;
	assert_int_equal(mig_ranges_decode(&f, MEMORY, out, &data), -EBADMSG);
	f.bytes -= 4 * 4096;
	assert_int_equal(mig_ranges_decode(&f, MEMORY, out, &data), 3);
	body[8] = 1; /* not on a page */
	assert_int_equal(mig_ranges_decode(&f, MEMORY, out, &data), -EBADMSG);
	f.bytes = 4;
	assert_int_equal(mig_ranges_decode(&f, MEMORY, out, &data), -EBADMSG);
}

static void test_dirty(void **state)
{
	const uint64_t memory = 100 * MIG_PAGE;
	uint64_t log[2] = {1ULL << 3 | 1ULL << 63, ~0ULL};
	struct mig_dirty d;
	struct mig_range r;

	(void)state;
	mig_dirty_init(&d, memory);
	mig_dirty_take(&d, log);
	assert_int_equal(d.count, 2 + 36); /* bits beyond the memory are none */
	assert_int_equal(log[0] | log[1], 0);
	assert_true(mig_dirty_next(&d, 10 * MIG_PAGE, &r));
	assert_true(r.offset == 3 * MIG_PAGE && r.bytes == MIG_PAGE);
	assert_true(mig_dirty_next(&d, 10 * MIG_PAGE, &r));
	assert_true(r.offset == 63 * MIG_PAGE && r.bytes == 10 * MIG_PAGE);
	log[0] = 1;
	mig_dirty_take(&d, log); /* what was left stays */
	assert_int_equal(d.count, 1 + 27);
	assert_true(mig_dirty_next(&d, MEMORY, &r) && r.offset == 0);
	assert_true(mig_dirty_next(&d, MEMORY, &r) && r.bytes == 27 * MIG_PAGE);
	assert_false(mig_dirty_next(&d, MEMORY, &r));
	mig_dirty_free(&d);
}

static void test_estimate(void **state)
{
	struct mig_estimate e;

	(void)state;
	mig_estimate_init(&e, 300 * NS_PER_MS, 30 * NS_PER_MS);
	mig_estimate_round(&e, 100 * MiB, NS_PER_S);
	assert_int_equal(mig_estimate_decide(&e, 50 * MiB), MIG_ROUND); /* half a second */
	mig_estimate_round(&e, 50 * MiB, NS_PER_S / 2);
	assert_int_equal(mig_estimate_decide(&e, 20 * MiB),
			 MIG_ROUND); /* short enough; shorter is possible */
	mig_estimate_round(&e, 20 * MiB, NS_PER_S / 5);
	assert_int_equal(mig_estimate_decide(&e, 15 * MiB), MIG_GO); /* it no longer halves */
	mig_estimate_init(&e, 300 * NS_PER_MS, 30 * NS_PER_MS);
	mig_estimate_round(&e, 100 * MiB, NS_PER_S);
	assert_int_equal(mig_estimate_decide(&e, 100 * KiB), MIG_GO);
	mig_estimate_init(&e, 300 * NS_PER_MS, 30 * NS_PER_MS);
	mig_estimate_round(&e, 100 * MiB, NS_PER_S);
	assert_int_equal(mig_estimate_decide(&e, 90 * MiB), MIG_ROUND);
	for (unsigned want = MIG_THROTTLE_FIRST;;
	     want = MIN(want + MIG_THROTTLE_STEP, MIG_THROTTLE_MAX)) {
		enum mig_verdict v = MIG_ROUND;

		for (int i = 0; v == MIG_ROUND; i++) {
			assert_true(i < 10);
			v = mig_estimate_decide(&e, 90 * MiB);
		}
		if (v == MIG_GIVE_UP)
			break;
		assert_int_equal(v, MIG_THROTTLE);
		assert_int_equal(e.throttle, want);
	}
	assert_int_equal(e.throttle, MIG_THROTTLE_MAX);
}

/* A checkpoint that is slow once, twice, ends nothing and slows nobody down; one that stays slow does end it. */
static void test_slow_checkpoint(void **state)
{
	struct mig_estimate e;

	(void)state;
	mig_estimate_init(&e, 300 * NS_PER_MS, 30 * NS_PER_MS);
	for (unsigned i = 0; i < 4; i++) {
		mig_estimate_round(&e, 100 * MiB, NS_PER_S);
		e.constant_ns = (i < 3 ? 5000 : 30) * NS_PER_MS;
		assert_int_equal(mig_estimate_decide(&e, 100 * KiB), i < 3 ? MIG_ROUND : MIG_GO);
	}
	e.constant_ns = 5000 * NS_PER_MS;
	for (unsigned i = 1; i <= MIG_SLOW; i++)
		assert_int_equal(mig_estimate_decide(&e, 100 * KiB),
				 i < MIG_SLOW ? MIG_ROUND : MIG_GIVE_UP);
	assert_int_equal(e.throttle, 0);
}

/* --- post-copy ---------------------------------------------------------------------------------------- */

/* A page comes twice: the first counts. One that somebody has made past the pager is not taken for what came. */
static void test_pages_that_are_there_already(void **state)
{
	enum { N = 8 };
	struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_MISSING_SHMEM};
	struct uffdio_register reg = {.mode = UFFDIO_REGISTER_MODE_MISSING};
	struct mig_range r[2] = {{0, 2 * MIG_PAGE}, {4 * MIG_PAGE, MIG_PAGE}};
	uint8_t *data = xmalloc(N * MIG_PAGE), *map;
	int fd = memfd_create("guest", MFD_CLOEXEC);
	int faults = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	struct mig_dirty stale;
	struct mig_pager *p;

	(void)state;
	if (faults < 0 || ioctl(faults, UFFDIO_API, &api) < 0)
		skip(); /* no userfaultfd(2) for shared memory here */
	assert_int_equal(ftruncate(fd, N * MIG_PAGE), 0);
	map = mmap(NULL, N * MIG_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(map, MAP_FAILED);
	memset(map, 9, N * MIG_PAGE);
	reg.range.start = (uintptr_t)map;
	reg.range.len = N * MIG_PAGE;
	assert_int_equal(ioctl(faults, UFFDIO_REGISTER, &reg), 0);
	mig_dirty_init(&stale, N * MIG_PAGE);
	mig_dirty_set(&stale, &(struct mig_range){0, 6 * MIG_PAGE});
	assert_int_equal(mig_pager_create(&p, fd, N * MIG_PAGE, faults, (uintptr_t)map, &stale), 0);
	assert_int_equal(mig_pager_left(p), 6);
	memset(data, 1, N * MIG_PAGE);
	assert_int_equal(mig_pager_place(p, r, 2, data), 0);
	memset(data, 2, N * MIG_PAGE);
	assert_int_equal(mig_pager_place(p, r, 2, data), 0);
	assert_int_equal(mig_pager_place(p, r, 1, NULL), 0);
	assert_int_equal(mig_pager_left(p), 3);
	assert_true(map[0] == 1 && map[2 * MIG_PAGE - 1] == 1 && map[4 * MIG_PAGE] == 1);
	/* Zeroes, as of somebody's other mapping that was read; then what is no zero. */
	assert_int_equal(pwrite(fd, "", 1, 2 * MIG_PAGE), 1);
	assert_int_equal(mig_pager_place(p, &(struct mig_range){2 * MIG_PAGE, MIG_PAGE}, 1, data),
			 -EEXIST);
	assert_int_equal(pwrite(fd, "x", 1, 3 * MIG_PAGE), 1);
	assert_int_equal(mig_pager_place(p, &(struct mig_range){3 * MIG_PAGE, MIG_PAGE}, 1, NULL),
			 -EEXIST);
	assert_int_equal(mig_pager_left(p), 3);
	assert_int_equal(*mig_pager_present(p) & 0xff, 0xd3);
	mig_pager_destroy(p);
	mig_dirty_free(&stale);
	munmap(map, N * MIG_PAGE);
	close(fd);
	free(data);
}

/* In a process of its own: registers the memory, tells where it is, lives until `end` is closed. */
static void owner(int fd, int faults, int tell, int end)
{
	struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_MISSING_SHMEM};
	struct uffdio_register reg = {.mode = UFFDIO_REGISTER_MODE_MISSING};
	char c;

	reg.range.len = 4 * MIG_PAGE;
	reg.range.start = (uintptr_t)mmap(NULL, 4 * MIG_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED,
					  fd, 0);
	if (ioctl(faults, UFFDIO_API, &api) < 0 || ioctl(faults, UFFDIO_REGISTER, &reg) < 0)
		_exit(1);
	if (write(tell, &reg.range.start, 8) != 8 || write(tell, &faults, 4) != 4)
		_exit(1);
	_exit(read(end, &c, 1) != 0);
}

/* A process whose memory it is ends while pages come: that is said, and no loss. */
static void test_its_process_has_ended(void **state)
{
	int fd = memfd_create("guest", MFD_CLOEXEC), tell[2], end[2], number, status;
	struct mig_range r[2] = {{0, MIG_PAGE}, {MIG_PAGE, MIG_PAGE}};
	static const uint8_t data[MIG_PAGE] = {7};
	struct mig_dirty stale;
	struct mig_pager *p;
	struct err_info why;
	uint64_t base;
	pid_t pid;

	(void)state;
	assert_int_equal(ftruncate(fd, 4 * MIG_PAGE), 0);
	assert_int_equal(pipe2(tell, O_CLOEXEC) | pipe2(end, O_CLOEXEC), 0);
	pid = fork();
	if (pid == 0) {
		close(end[1]);
		owner(fd, (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK), tell[1], end[0]);
	}
	close(tell[1]);
	close(end[0]);
	if (read(tell[0], &base, 8) != 8) {
		waitpid(pid, NULL, 0);
		skip(); /* no userfaultfd(2) for shared memory here */
	}
	assert_int_equal(read(tell[0], &number, 4), 4);
	int process = (int)syscall(SYS_pidfd_open, pid, 0);
	int faults = (int)syscall(SYS_pidfd_getfd, process, number, 0);
	assert_true(faults >= 0);
	mig_dirty_init(&stale, 4 * MIG_PAGE);
	mig_dirty_set(&stale, &(struct mig_range){0, 3 * MIG_PAGE});
	assert_int_equal(mig_pager_create(&p, fd, 4 * MIG_PAGE, faults, base, &stale), 0);
	assert_int_equal(mig_pager_place(p, r, 1, data), 0);
	close(end[1]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	for (unsigned zero = 0; zero < 2; zero++) {
		r[1].offset = (1 + zero) * MIG_PAGE;
		assert_int_equal(mig_pager_place(p, r + 1, 1, zero ? NULL : data), -ESRCH);
		assert_non_null(strstr(err_message(-ESRCH), "its process has ended"));
	}
	err_save(&why, -ESRCH);
	assert_int_equal(vm_lazy_told("g", &why), -EHOSTDOWN);
	assert_string_equal(err_message(-EHOSTDOWN), "vm g: its monitor died");
	why = (struct err_info){.err = -ECONNRESET, .message = "the source hung up"};
	assert_non_null(strstr(err_message(vm_lazy_told("g", &why)), "did not come whole"));
	assert_int_equal(mig_pager_left(p), 2);
	mig_pager_destroy(p);
	mig_dirty_free(&stale);
	close(process);
	close(tell[0]);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_idle, setup, teardown),
		cmocka_unit_test_setup_teardown(test_busy, setup, teardown),
		cmocka_unit_test_setup_teardown(test_again, setup, teardown),
		cmocka_unit_test_setup_teardown(test_never_ends, setup, teardown),
		cmocka_unit_test_setup_teardown(test_cancelled, setup, teardown),
		cmocka_unit_test_setup_teardown(test_large, setup_large, teardown),
		cmocka_unit_test_setup_teardown(test_slow_storage, setup, teardown),
		cmocka_unit_test_setup_teardown(test_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(test_lane_lost, setup, teardown),
		cmocka_unit_test(test_nonsense),
		cmocka_unit_test(test_ranges),
		cmocka_unit_test(test_dirty),
		cmocka_unit_test(test_estimate),
		cmocka_unit_test(test_slow_checkpoint),
		cmocka_unit_test(test_pages_that_are_there_already),
		cmocka_unit_test(test_its_process_has_ended),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
