// SPDX-License-Identifier: Apache-2.0
/* Controllers that are held still, tell what they write to the guest's memory, and hand over what it has set. */
#include "base/err.h" /* before cmocka.h, which has a macro fail */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include <linux/virtio_config.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/util.h"
#include "blockdev/blk.h"
#include "clusterfs/cfs.h"
#include "tests/lib/front.h"
#include "tests/lib/lun.h"
#include "tests/lib/memdisk.h"
#include "tests/lib/rig.h"
#include "vfs/controller.h"
#include "vfs/iothread.h"

#define DISK   (4u << 20)
#define MEMORY (2u << 20)
#define PAGES  (MEMORY / 4096)
#define SLOT   16384u /* of memory, a request: its header, its status at 512, data at 4096 */
#define SLOTS  16u
#define RING   1024u /* its used part has three pages */

struct world {
	struct iothread *t;
	struct controller *ctl;
	enum controller_kind kind;
	struct memdisk *m;
	struct front f;
	unsigned ring; /* of requests */
	_Atomic unsigned closed;
	uint64_t rnd;
};

static void make_controller(struct world *w)
{
	struct controller_options o = {.kind = w->kind,
				       .name = "test",
				       .queues = 1,
				       .sealed = true,
				       .thread = w->t,
				       .arg = w};
	struct controller_lun lun = {.lun = 0, .nexus = "the guest itself"};

	assert_int_equal(controller_create(&w->ctl, &o), 0);
	w->m = memdisk_new(iothread_loop(w->t), DISK);
	assert_int_equal(controller_attach(w->ctl, &w->m->disk, &lun), 0);
}

static void set_up(struct world *w, enum controller_kind kind)
{
	memset(w, 0, sizeof(*w));
	log_set_level(LOG_ERROR);
	w->rnd = 88172645463325252ULL;
	w->kind = kind;
	w->ring = kind == CONTROLLER_SCSI ? 2 : 0;
	assert_int_equal(iothread_create(&w->t, "io", 64), 0);
	make_controller(w);
	assert_int_equal(front_init(&w->f, w->ring + 1, RING, MEMORY), 0);
}

static uint64_t rnd(struct world *w)
{
	w->rnd ^= w->rnd << 13;
	w->rnd ^= w->rnd >> 7;
	w->rnd ^= w->rnd << 17;
	return w->rnd;
}

static int plug(struct world *w)
{
	int s[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s), 0);
	assert_int_equal(controller_serve(w->ctl, s[1]), 0);
	return s[0];
}

static void begin(struct world *w)
{
	int rc = front_start(&w->f, plug(w));

	if (rc < 0)
		fail_msg("%s", err_message(rc));
}

static int release_call(void *arg)
{
	memdisk_release(arg);
	return 0;
}

static void release(struct world *w)
{
	iothread_call(w->t, release_call, w->m);
}

static void closed(void *arg)
{
	((struct world *)arg)->closed++;
}

static void close_controller(struct world *w)
{
	unsigned before = w->closed;

	controller_close(w->ctl, closed, w);
	if (w->m->hold)
		release(w);
	for (unsigned i = 0; i < 10000 && w->closed == before; i++)
		sleep_ms(1);
	assert_int_equal(w->closed, before + 1);
	memdisk_free(w->m);
}

static void tear_down(struct world *w)
{
	front_free(&w->f);
	close_controller(w);
	iothread_destroy(w->t);
}

static uint64_t at(const struct world *w, unsigned slot)
{
	return w->f.data_offset + slot * (uint64_t)SLOT;
}

/* --- requests: either kind reads, writes, flushes ---------------------------------------------------- */

enum what { READ, WRITE, FLUSH, JUNK };
#define JOINED 1u /* a shift */

static unsigned head_blk(struct world *w, unsigned slot, enum what what, uint32_t sector)
{
	static const uint32_t type[] = {[READ] = VIRTIO_BLK_T_IN,
					[WRITE] = VIRTIO_BLK_T_OUT,
					[FLUSH] = VIRTIO_BLK_T_FLUSH,
					[JUNK] = VIRTIO_BLK_T_GET_ID};
	struct virtio_blk_outhdr *h = (void *)(w->f.mem + at(w, slot));

	*h = (struct virtio_blk_outhdr){.type = type[what], .sector = sector};
	return sizeof(*h);
}

static unsigned head_scsi(struct world *w, unsigned slot, enum what what, uint32_t sector,
			  uint32_t bytes)
{
	static const uint8_t code[] = {
		[READ] = 0x28, [WRITE] = 0x2a, [FLUSH] = 0x35, [JUNK] = 0x12};
	struct virtio_scsi_cmd_req *h = (void *)(w->f.mem + at(w, slot));

	memset(h, 0, sizeof(*h));
	h->lun[0] = 1;
	h->cdb[0] = code[what];
	if (what == JUNK) {
		h->cdb[4] = (uint8_t)bytes;
	} else if (what != FLUSH) {
		h->cdb[4] = (uint8_t)(sector >> 8);
		h->cdb[5] = (uint8_t)sector;
		h->cdb[7] = (uint8_t)(bytes / 512 >> 8);
		h->cdb[8] = (uint8_t)(bytes / 512);
	}
	return sizeof(*h);
}

/* Status and data in one piece: on a page of its own lies what a request only begins, or ends, with. */
static void join(struct world *w, unsigned slot, bool scsi, struct front_piece *status,
		 struct front_piece *data)
{
	uint64_t page = at(w, slot) + 8192;

	if (scsi) {
		status->offset = page - status->bytes;
		status->bytes += data->bytes;
	} else {
		status->offset = page - data->bytes;
		status->bytes += data->bytes;
	}
	data->bytes = 0;
}

/* `shift`: the data begin so far from where they should: bounced. No kick. Returns the chain's head. */
static int submit(struct world *w, unsigned slot, enum what what, uint32_t sector, uint32_t bytes,
		  uint32_t shift)
{
	bool scsi = w->kind == CONTROLLER_SCSI;
	struct front_piece p[3], status = {at(w, slot) + 512, 1};
	struct front_piece data = {at(w, slot) + 4096 + shift, bytes};
	unsigned n = 0, out;

	p[n].offset = at(w, slot);
	p[n++].bytes = scsi ? head_scsi(w, slot, what, sector, bytes)
			    : head_blk(w, slot, what, sector);
	if (scsi)
		status.bytes = sizeof(struct virtio_scsi_cmd_resp);
	if (what == WRITE)
		p[n++] = data;
	out = n;
	if (what == READ && shift == JOINED)
		join(w, slot, scsi, &status, &data);
	memset(w->f.mem + status.offset, 0xee, status.bytes);
	if (scsi)
		p[n++] = status;
	if ((what == READ || what == JUNK) && data.bytes)
		p[n++] = data;
	if (!scsi)
		p[n++] = status;
	return front_add(&w->f, w->ring, p, out, n - out);
}

static bool good(const struct world *w, unsigned slot)
{
	const uint8_t *status = w->f.mem + at(w, slot) + 512;
	struct virtio_scsi_cmd_resp resp;

	if (w->kind == CONTROLLER_BLK)
		return *status == VIRTIO_BLK_S_OK;
	memcpy(&resp, status, sizeof(resp));
	return resp.response == 0 && resp.status == 0;
}

static void kick(struct world *w)
{
	front_kick_always(&w->f, w->ring);
}

/* Waits for `n` answers; without a word to the guest's memory. */
static void answers(struct world *w, unsigned n)
{
	uint64_t end = clock_boot_ms() + 30000;

	while (n && clock_boot_ms() < end) {
		int head = front_get(&w->f, w->ring, NULL);

		if (head >= 0)
			n--;
		else
			sleep_ms(1);
	}
	assert_int_equal(n, 0);
}

/* The first command of a guest hears of the power-on. */
static void warm_up(struct world *w)
{
	submit(w, 0, READ, 0, 512, 0);
	kick(w);
	answers(w, 1);
	submit(w, 0, WRITE, 0, 512, 0);
	kick(w);
	answers(w, 1);
	assert_true(good(w, 0));
}

/* --- still ------------------------------------------------------------------------------------------- */

static void assert_silent(struct world *w)
{
	unsigned reads = w->m->reads + w->m->writes + w->m->flushes;

	kick(w);
	sleep_ms(10);
	assert_int_equal(front_get(&w->f, w->ring, NULL), -EAGAIN);
	assert_int_equal(w->m->reads + w->m->writes + w->m->flushes, reads);
}

static void test_still(void **state)
{
	struct controller_stats st;
	struct world w;

	(void)state;
	for (int kind = 0; kind < 2; kind++) {
		set_up(&w, kind ? CONTROLLER_SCSI : CONTROLLER_BLK);
		assert_int_equal(controller_quiesce(w.ctl, 1000), 0); /* nobody is there */
		begin(&w);
		submit(&w, 0, READ, 0, 512, 0);
		assert_silent(&w);
		controller_unquiesce(w.ctl);
		answers(&w, 1);
		warm_up(&w);
		/* What is held at the disk keeps it from being quiet; and everything goes on. */
		w.m->hold = true;
		submit(&w, 0, WRITE, 8, 4096, 0);
		kick(&w);
		while (!w.m->held_count)
			sleep_ms(1);
		assert_int_equal(controller_quiesce(w.ctl, 50), -ETIMEDOUT);
		submit(&w, 1, WRITE, 16, 4096, 0);
		kick(&w);
		while (w.m->held_count < 2)
			sleep_ms(1);
		release(&w);
		answers(&w, 2);
		/* Quiet: what comes stays in the ring, whatever is done with it. */
		assert_int_equal(controller_quiesce(w.ctl, 30000), 0);
		assert_int_equal(controller_quiesce(w.ctl, 1000), -EBUSY);
		submit(&w, 2, READ, 8, 4096, 0);
		assert_silent(&w);
		assert_int_equal(front_stop_ring(&w.f, w.ring), kind ? 5 : 5);
		for (unsigned i = 0; i < w.ring; i++)
			assert_true(front_stop_ring(&w.f, i) >= 0);
		assert_int_equal(front_start(&w.f, dup(w.f.fd)), 0);
		assert_silent(&w);
		controller_stats(w.ctl, &st);
		assert_int_equal(st.in_flight, 0);
		controller_unquiesce(w.ctl);
		controller_unquiesce(w.ctl);
		answers(&w, 1);
		assert_true(good(&w, 2));
		/* It may be closed while it is quiet, or while somebody waits for that. */
		assert_int_equal(controller_quiesce(w.ctl, 30000), 0);
		tear_down(&w);
	}
}

static int seconds_quiesce(struct world *w)
{
	int rc = -ETIMEDOUT;

	for (unsigned i = 0; i < 30 && rc == -ETIMEDOUT; i++)
		rc = controller_quiesce(w->ctl, 2000);
	return rc;
}

/* A guest that keeps on sending: stopped and let go at any moment, each request is answered once. */
static void test_nothing_lost(void **state)
{
	struct world w;

	(void)state;
	for (int kind = 0; kind < 2; kind++) {
		unsigned sent = 0, heard = 0;

		set_up(&w, kind ? CONTROLLER_SCSI : CONTROLLER_BLK);
		begin(&w);
		warm_up(&w);
		for (unsigned i = 0; i < 400; i++) {
			unsigned n = (unsigned)(rnd(&w) % 5);
			bool quiet = rnd(&w) % 3 == 0;

			for (unsigned k = 0; k < n; k++)
				sent += submit(&w, (sent + k) % SLOTS, (enum what)(rnd(&w) % 3),
					       (uint32_t)(rnd(&w) % 64), 4096, 0) >= 0;
			kick(&w);
			if (!quiet) {
				while (front_get(&w.f, w.ring, NULL) >= 0)
					heard++;
				continue;
			}
			assert_int_equal(seconds_quiesce(&w), 0);
			while (front_get(&w.f, w.ring, NULL) >= 0)
				heard++;
			sent += submit(&w, sent % SLOTS, READ, 0, 512, 0) >= 0;
			kick(&w);
			if (rnd(&w) % 4 == 0) { /* as a failed migration does */
				for (unsigned r = 0; r <= w.ring; r++)
					assert_true(front_stop_ring(&w.f, r) >= 0);
				assert_int_equal(front_start(&w.f, dup(w.f.fd)), 0);
			}
			assert_int_equal(front_get(&w.f, w.ring, NULL), -EAGAIN);
			controller_unquiesce(w.ctl);
		}
		assert_true(sent > heard || sent > 400);
		answers(&w, sent - heard);
		sleep_ms(5);
		assert_int_equal(front_get(&w.f, w.ring, NULL), -EAGAIN);
		assert_int_equal(w.f.q[w.ring].free_count, w.f.q[w.ring].size / 4);
		tear_down(&w);
	}
}

struct waiter {
	struct world *w;
	int rc;
};

static void *quiesce_main(void *arg)
{
	struct waiter *x = arg;

	x->rc = seconds_quiesce(x->w);
	return NULL;
}

/* Of a client that is gone nobody knows what it has not heard: it comes back, that is done, then it is quiet. */
static void test_client_away(void **state)
{
	struct waiter x;
	pthread_t thread;
	struct world w;

	(void)state;
	set_up(&w, CONTROLLER_BLK);
	begin(&w);
	warm_up(&w);
	w.m->hold = true;
	for (unsigned i = 0; i < 3; i++)
		submit(&w, i, WRITE, 8 * i, 4096, 0);
	kick(&w);
	while (w.m->held_count < 3)
		sleep_ms(1);
	front_disconnect(&w.f);
	release(&w);			 /* done, and heard by nobody */
	submit(&w, 3, READ, 0, 4096, 0); /* new ones wait */
	assert_int_equal(controller_quiesce(w.ctl, 50), -ETIMEDOUT);
	x.w = &w;
	assert_int_equal(pthread_create(&thread, NULL, quiesce_main, &x), 0);
	sleep_ms(20);
	assert_int_equal(front_start(&w.f, plug(&w)), 0);
	pthread_join(thread, NULL);
	assert_int_equal(x.rc, 0);
	answers(&w, 3);
	assert_silent(&w);
	controller_unquiesce(w.ctl);
	answers(&w, 1);
	tear_down(&w);
}

/* --- the log ------------------------------------------------------------------------------------------- */

static bool logged(const uint64_t *words, unsigned page)
{
	/* The I/O thread may be setting others. */
	return __atomic_load_n(&words[page / 64], __ATOMIC_ACQUIRE) >> page % 64 & 1;
}

static void clear_log(uint64_t *words)
{
	for (unsigned i = 0; i < PAGES / 64; i++)
		__atomic_store_n(&words[i], 0, __ATOMIC_RELEASE);
}

/* Requests of all sorts, good and bad: whatever page has another content after it, has its bit. */
static void one_round(struct world *w, uint64_t *words, uint8_t *before, bool reconnect)
{
	unsigned n = 1 + (unsigned)(rnd(w) % SLOTS), sent = 0;

	for (unsigned i = 0; i < n; i++) {
		uint32_t shift = rnd(w) % 3 ? (uint32_t)(rnd(w) % 2) : (uint32_t)(rnd(w) % 5000);
		uint32_t bytes = rnd(w) % 4 ? 4096 : 512 * (uint32_t)(1 + rnd(w) % 12);
		enum what what = (enum what)(rnd(w) % 4);

		if (what == JUNK)
			bytes = 20 + (uint32_t)(rnd(w) % 80);
		sent += submit(w, i, what, (uint32_t)(rnd(w) % 8200), bytes, shift) >= 0;
		if (what == READ && shift != JOINED) /* so that what is read is new there */
			memset(w->f.mem + at(w, i) + 4096 + shift, (int)rnd(w), bytes);
	}
	w->m->fail = rnd(w) % 5 ? 0 : -EIO;
	memcpy(before, w->f.mem, MEMORY);
	clear_log(words);
	if (reconnect) {
		controller_log(w->ctl, NULL, 0);
		controller_log(w->ctl, words, PAGES);
	}
	kick(w);
	if (rnd(w) % 2)
		answers(w, sent);
	assert_int_equal(seconds_quiesce(w), 0);
	for (unsigned p = 0; p < PAGES; p++)
		if (memcmp(before + p * 4096, w->f.mem + p * 4096, 4096) != 0 && !logged(words, p))
			fail_msg("page %u has changed without a word", p);
	controller_unquiesce(w->ctl);
	while (front_get(&w->f, w->ring, NULL) >= 0)
		;
	w->m->fail = 0;
	sleep_ms(1);
	while (w->f.q[w->ring].free_count < w->f.q[w->ring].size / 4)
		(void)front_get(&w->f, w->ring, NULL);
}

static void test_log(void **state)
{
	uint64_t *words = xcalloc(PAGES / 64, 8);
	uint8_t *before = xmalloc(MEMORY);
	struct world w;

	(void)state;
	for (int kind = 0; kind < 4; kind++) {
		unsigned marked = 0;

		set_up(&w, kind & 1 ? CONTROLLER_SCSI : CONTROLLER_BLK);
		if (kind & 2)
			w.f.features &= ~(1ULL << VIRTIO_RING_F_EVENT_IDX);
		for (unsigned i = 0; i < DISK; i++)
			w.m->data[i] = (uint8_t)(i * 31 >> 3);
		controller_log(w.ctl, words, PAGES); /* before a client comes, too */
		begin(&w);
		warm_up(&w);
		for (unsigned i = 0; i < 150; i++)
			one_round(&w, words, before, i % 10 == 0);
		for (unsigned p = 0; p < PAGES; p++)
			marked += logged(words, p);
		assert_true(marked > 0 && marked < PAGES / 2);
		controller_log(w.ctl, NULL, 0);
		clear_log(words);
		warm_up(&w);
		for (unsigned p = 0; p < PAGES; p++)
			assert_false(logged(words, p));
		/* A log that is shorter than the memory: nothing behind its end is touched. */
		controller_log(w.ctl, words, 64);
		warm_up(&w);
		for (unsigned p = 64; p < PAGES; p++)
			assert_false(logged(words, p));
		tear_down(&w);
	}
	free(words);
	free(before);
}

/* --- state --------------------------------------------------------------------------------------------- */

static int scsi(struct world *w, const uint8_t *cdb, size_t n, const void *out, uint32_t out_bytes,
		uint32_t in_bytes)
{
	uint64_t data = at(w, 1);
	struct front_scsi s = {.lun = {1}, .out_bytes = out_bytes, .in_bytes = in_bytes};

	memcpy(s.cdb, cdb, n);
	if (out_bytes)
		memcpy(w->f.mem + data, out, out_bytes);
	assert_int_equal(front_scsi(&w->f, &s, data), 0);
	return s.resp.status == 2 ? s.resp.sense[12] << 8 | s.resp.sense[13] : s.resp.status;
}

#define SCSI(w, out, out_bytes, in_bytes, ...)                                               \
	scsi(w, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}), out, \
	     out_bytes, in_bytes)

/* WCE in the caching mode page, as the guest sees it. */
static bool write_cache(struct world *w)
{
	assert_int_equal(SCSI(w, NULL, 0, 192, 0x1a, 8, 8, 0, 192, 0), 0);
	return w->f.mem[at(w, 1) + 4 + 2] & 4;
}

/* What the guest has set is so on the other host: no cache, its reservation, and it hears of nothing twice. */
static void test_state(void **state)
{
	static const uint8_t off[24] = {[4] = 8, [5] = 18};
	static const uint8_t key[24] = {[15] = 42};
	uint8_t *saved = xmalloc(CONTROLLER_STATE_MAX);
	struct world w;
	int n;

	(void)state;
	set_up(&w, CONTROLLER_SCSI);
	begin(&w);
	assert_int_equal(SCSI(&w, NULL, 0, 0, 0), 0x2900);
	assert_true(write_cache(&w));
	assert_int_equal(SCSI(&w, off, 24, 0, 0x15, 0x10, 0, 0, 24, 0), 0);
	assert_false(write_cache(&w));
	assert_int_equal(SCSI(&w, key, 24, 0, 0x5f, 0, 0, 0, 0, 0, 0, 0, 24, 0), 0);
	assert_int_equal(controller_quiesce(w.ctl, 30000), 0);
	assert_int_equal(controller_save(w.ctl, saved, 20), -ENOSPC);
	n = controller_save(w.ctl, saved, CONTROLLER_STATE_MAX);
	assert_true(n > 0);
	for (unsigned i = 0; i <= w.ring; i++)
		assert_true(front_stop_ring(&w.f, i) >= 0);
	/* The other host. */
	front_disconnect(&w.f);
	close(w.f.inflight_fd);
	w.f.inflight_fd = -1;
	close_controller(&w);
	make_controller(&w);
	for (int i = 0; i < n; i++)
		assert_int_equal(controller_load(w.ctl, saved, (size_t)i), -EINVAL);
	for (int i = 0; i < n; i++)
		assert_int_equal(controller_check_state(saved, (size_t)i), -EINVAL);
	assert_int_equal(controller_check_state(saved, (size_t)n), 0);
	saved[8] ^= 1; /* another LUN */
	assert_int_equal(controller_load(w.ctl, saved, (size_t)n), -EINVAL);
	saved[8] ^= 1;
	assert_int_equal(controller_load(w.ctl, saved, (size_t)n), 0);
	begin(&w);
	assert_int_equal(SCSI(&w, NULL, 0, 0, 0), 0);
	assert_false(write_cache(&w));
	assert_int_equal(SCSI(&w, NULL, 0, 64, 0x5e, 0, 0, 0, 0, 0, 0, 0, 64, 0), 0);
	assert_int_equal(w.f.mem[at(&w, 1) + 15], 42);
	/* And when the daemon there is stopped with a request on its way, and started again, it is so still. */
	w.m->hold = true;
	submit(&w, 2, READ, 8, 4096, 0);
	kick(&w);
	while (!w.m->held_count)
		sleep_ms(1);
	close_controller(&w);
	make_controller(&w);
	begin(&w);
	answers(&w, 1);
	(void)SCSI(&w, NULL, 0, 0, 0);
	assert_false(write_cache(&w));
	tear_down(&w);
	free(saved);
}

static bool flush(struct world *w)
{
	assert_true(submit(w, 0, FLUSH, 0, 0, 0) >= 0);
	kick(w);
	answers(w, 1);
	return good(w, 0);
}

/* The flush of a move that failed finds a loss, the guest moves with the next: its own flush tells of it, once. */
static void test_loss_goes_along(void **state)
{
	uint8_t *saved = xmalloc(CONTROLLER_STATE_MAX);
	struct world w;
	int n;

	(void)state;
	for (int kind = 0; kind < 2; kind++) {
		set_up(&w, kind ? CONTROLLER_SCSI : CONTROLLER_BLK);
		begin(&w);
		warm_up(&w);
		assert_true(flush(&w));
		w.m->unflushed = true;
		w.m->fail = -EIO;
		assert_int_equal(controller_quiesce(w.ctl, 30000), -EIO);
		w.m->fail = 0;
		w.m->unflushed = false; /* it told its loss */
		assert_int_equal(controller_quiesce(w.ctl, 30000), 0);
		n = controller_save(w.ctl, saved, CONTROLLER_STATE_MAX);
		assert_true(n > 0);
		for (unsigned i = 0; i <= w.ring; i++)
			assert_true(front_stop_ring(&w.f, i) >= 0);
		front_disconnect(&w.f);
		close(w.f.inflight_fd);
		w.f.inflight_fd = -1;
		close_controller(&w);
		make_controller(&w);
		for (int i = 1; i < n; i++)
			assert_int_equal(controller_load(w.ctl, saved, (size_t)i), -EINVAL);
		assert_int_equal(controller_load(w.ctl, saved, (size_t)n), 0);
		begin(&w);
		assert_false(flush(&w));
		assert_true(flush(&w));
		tear_down(&w);
	}
	free(saved);
}

/* --- a disk that works by itself --------------------------------------------------------------------------- */

struct rest_call {
	struct vfs_disk *disk;
	bool on;
};

static int call_rest(void *arg)
{
	struct rest_call *c = arg;

	return (int)vfs_rest(c->disk, c->on);
}

static unsigned rest(struct rig *r, bool on)
{
	struct rest_call c = {r->disk, on};

	return (unsigned)iothread_call(r->io, call_rest, &c);
}

static uint64_t work_done(struct blk *blk)
{
	struct blk_stats s;

	blk_get_stats(blk, &s);
	return s.ops[BLK_WRITE] + s.ops[BLK_DISCARD];
}

/* Discards give back space later, in the background: not while the disk is to rest. */
static void test_disk_rests(void **state)
{
	struct cfs_format_options options = {.name = "v"};
	uint64_t size = 64 * MiB, allocated;
	char dir[] = "/var/tmp/perilune-test-XXXXXX";
	uint8_t *buf = xaligned(4096, MiB);
	struct cfs_stat st;
	struct blk *blk;
	struct rig r;
	char *lun = lun_make(512 * MiB);

	(void)state;
	memset(&r, 0, sizeof(r));
	assert_non_null(mkdtemp(dir));
	assert_int_equal(blk_open(lun, NULL, &blk), 0);
	assert_int_equal(cfs_format(&blk, 1, &options), 0);
	assert_int_equal(rig_open(&r, blk, dir, size), 0);
	lun_pattern(buf, MiB, 1);
	for (uint64_t i = 0; i < size; i += MiB)
		assert_int_equal(rig_run(&r, VFS_WRITE, i, MiB, buf, 0), 0);
	assert_int_equal(rig_run(&r, VFS_FLUSH, 0, 0, NULL, 0), 0);
	(void)rest(&r, true);
	cfs_file_stat(r.file, &st);
	allocated = st.allocated;
	assert_int_equal(allocated, size);
	assert_int_equal(rig_run(&r, VFS_DISCARD, 0, size / 2, NULL, 0), 0);
	for (unsigned i = 0; i < 3000 && rest(&r, true) & VFS_BUSY; i++)
		sleep_ms(10);
	assert_int_equal(rest(&r, true) & VFS_BUSY, 0);
	sleep_ms(50);
	cfs_file_stat(r.file, &st);
	assert_int_equal(st.allocated, allocated); /* nothing was given back */
	(void)rest(&r, false);
	for (unsigned i = 0; i < 3000 && st.allocated > size / 2; i++) {
		sleep_ms(10);
		cfs_file_stat(r.file, &st);
	}
	assert_int_equal(st.allocated, size / 2);
	assert_true(work_done(blk) > 0);
	assert_int_equal(rig_close(&r), 0);
	blk_close(blk);
	free(buf);
	lun_remove(lun);
	{
		char *cmd = xasprintf("rm -rf '%s'", dir);

		assert_int_equal(system(cmd), 0);
		free(cmd);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_still),	    cmocka_unit_test(test_nothing_lost),
		cmocka_unit_test(test_client_away), cmocka_unit_test(test_log),
		cmocka_unit_test(test_state),	    cmocka_unit_test(test_loss_goes_along),
		cmocka_unit_test(test_disk_rests),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
