// SPDX-License-Identifier: Apache-2.0
/* Controllers over a socket, with a client that behaves, and with some that do not. */
#include "base/err.h" /* before cmocka.h, which has a macro fail */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/util.h"
#include "tests/lib/front.h"
#include "tests/lib/memdisk.h"
#include "vfs/controller.h"
#include "vfs/inflight.h"
#include "vfs/iothread.h"

#define DISK (4u << 20)

struct world {
	struct iothread *t;
	struct controller *ctl;
	struct memdisk *m;
	struct front f;
	_Atomic unsigned gone, closed;
};

static void client_gone(void *arg, const char *why)
{
	struct world *w = arg;

	(void)why;
	w->gone++;
}

static const struct controller_events events = {.gone = client_gone};

static void set_up(struct world *w, enum controller_kind kind, bool sealed)
{
	struct controller_options o = {
		.kind = kind, .name = "test", .queues = 2, .sealed = sealed, .events = &events};
	struct controller_lun lun = {.lun = 0};

	memset(w, 0, sizeof(*w));
	log_set_level(LOG_ERROR);
	assert_int_equal(iothread_create(&w->t, "io", 64), 0);
	o.thread = w->t;
	o.arg = w;
	assert_int_equal(controller_create(&w->ctl, &o), 0);
	w->m = memdisk_new(iothread_loop(w->t), DISK);
	assert_int_equal(controller_attach(w->ctl, &w->m->disk, &lun), 0);
	assert_int_equal(front_init(&w->f, kind == CONTROLLER_SCSI ? 4 : 2, 64, 1 << 20), 0);
}

/* A pair of sockets, the controller has one end of it. */
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

static void closed(void *arg)
{
	((struct world *)arg)->closed++;
}

static bool soon(_Atomic unsigned *n, unsigned value)
{
	for (unsigned i = 0; i < 2000 && *n < value; i++)
		sleep_ms(1);
	return *n >= value;
}

static void tear_down(struct world *w)
{
	front_free(&w->f);
	controller_close(w->ctl, closed, w);
	assert_true(soon(&w->closed, 1));
	assert_true(w->m->closed);
	iothread_destroy(w->t);
	memdisk_free(w->m);
}

static int release_call(void *arg)
{
	memdisk_release(arg);
	return 0;
}

/* A request of virtio-blk: header, data, status; returns the head. */
static int submit(struct world *w, unsigned slot, uint32_t type, uint64_t sector, uint32_t bytes,
		  bool kick)
{
	uint64_t at = w->f.data_offset + slot * 16384ULL;
	struct virtio_blk_outhdr *h = (void *)(w->f.mem + at);
	struct front_piece p[3] = {{at, sizeof(*h)}};
	uint16_t old = w->f.q[0].avail_idx;
	bool out = type != VIRTIO_BLK_T_IN && type != VIRTIO_BLK_T_GET_ID;
	unsigned n = 1;
	int head;

	*h = (struct virtio_blk_outhdr){.type = type, .sector = sector};
	if (bytes)
		p[n++] = (struct front_piece){at + 4096, bytes};
	p[n] = (struct front_piece){at + 512, 1};
	w->f.mem[at + 512] = 0xff;
	head = front_add(&w->f, 0, p, out ? n : 1, out ? 1 : n);
	if (kick)
		front_kick(&w->f, 0, old);
	return head;
}

static uint8_t status(struct world *w, unsigned slot)
{
	return w->f.mem[w->f.data_offset + slot * 16384ULL + 512];
}

static uint8_t *data(struct world *w, unsigned slot)
{
	return w->f.mem + w->f.data_offset + slot * 16384ULL + 4096;
}

static uint8_t run(struct world *w, uint32_t type, uint64_t sector, uint32_t bytes)
{
	int head = submit(w, 0, type, sector, bytes, true);

	assert_true(head >= 0);
	assert_int_equal(front_wait(&w->f, 0, NULL, 5000), head);
	return status(w, 0);
}

static void test_blk(void **state)
{
	struct world w;
	struct virtio_blk_discard_write_zeroes range = {.sector = 0, .num_sectors = 8};
	struct vhost_user_msg msg = {.request = VHOST_USER_GET_CONFIG,
				     .flags = VHOST_USER_VERSION,
				     .size = VHOST_USER_CONFIG_HEADER + 60},
			      reply;
	struct virtio_blk_config config;

	(void)state;
	set_up(&w, CONTROLLER_BLK, true);
	w.f.features |= 1ULL << VIRTIO_BLK_F_DISCARD;
	begin(&w);
	msg.payload.config.size = 60;
	assert_int_equal(front_call(&w.f, &msg, &reply), 0);
	memcpy(&config, reply.payload.config.data, sizeof(config));
	assert_int_equal(config.capacity, DISK / 512);
	assert_int_equal(config.num_queues, 2);
	memset(data(&w, 0), 0x5a, 8192);
	assert_int_equal(run(&w, VIRTIO_BLK_T_OUT, 8, 8192), VIRTIO_BLK_S_OK);
	assert_int_equal(w.m->fua, 0);
	memset(data(&w, 0), 0, 8192);
	assert_int_equal(run(&w, VIRTIO_BLK_T_IN, 16, 4096), VIRTIO_BLK_S_OK);
	assert_int_equal(data(&w, 0)[4095], 0x5a);
	assert_int_equal(data(&w, 0)[4096], 0);
	assert_int_equal(run(&w, VIRTIO_BLK_T_FLUSH, 0, 0), VIRTIO_BLK_S_OK);
	assert_int_equal(w.m->flushes, 1);
	assert_int_equal(run(&w, VIRTIO_BLK_T_GET_ID, 0, 20), VIRTIO_BLK_S_OK);
	assert_memory_equal(data(&w, 0), "123456789abcdef07065", 20);
	range.sector = 16;
	memcpy(data(&w, 0), &range, sizeof(range));
	assert_int_equal(run(&w, VIRTIO_BLK_T_DISCARD, 0, 16), VIRTIO_BLK_S_OK);
	assert_int_equal(w.m->data[16 * 512], 0);
	assert_int_equal(run(&w, VIRTIO_BLK_T_WRITE_ZEROES, 0, 16), VIRTIO_BLK_S_OK);
	/* What no driver should send is answered too. */
	assert_int_equal(run(&w, VIRTIO_BLK_T_DISCARD, 0, 15), VIRTIO_BLK_S_IOERR);
	range.flags = 8;
	memcpy(data(&w, 0), &range, sizeof(range));
	assert_int_equal(run(&w, VIRTIO_BLK_T_WRITE_ZEROES, 0, 16), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(run(&w, 77, 0, 512), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(run(&w, VIRTIO_BLK_T_IN, DISK / 512, 512), VIRTIO_BLK_S_IOERR);
	assert_int_equal(run(&w, VIRTIO_BLK_T_IN, UINT64_MAX / 512, 512), VIRTIO_BLK_S_IOERR);
	assert_int_equal(run(&w, VIRTIO_BLK_T_IN, UINT64_MAX, 512), VIRTIO_BLK_S_IOERR);
	assert_int_equal(run(&w, VIRTIO_BLK_T_IN, 0, 100), VIRTIO_BLK_S_IOERR);
	w.m->fail = -EIO;
	assert_int_equal(run(&w, VIRTIO_BLK_T_IN, 0, 512), VIRTIO_BLK_S_IOERR);
	tear_down(&w);
}

static void test_no_write_cache(void **state)
{
	struct world w;

	(void)state;
	set_up(&w, CONTROLLER_BLK, true);
	w.f.features &= ~(1ULL << VIRTIO_BLK_F_FLUSH);
	begin(&w);
	assert_int_equal(run(&w, VIRTIO_BLK_T_OUT, 0, 512), VIRTIO_BLK_S_OK);
	assert_int_equal(w.m->fua, 1);
	tear_down(&w);
}

/* Pieces that are not aligned are bounced. */
static void test_bounce(void **state)
{
	struct front_piece p[4];
	struct world w;
	uint64_t at;

	(void)state;
	set_up(&w, CONTROLLER_BLK, true);
	begin(&w);
	at = w.f.data_offset;
	memset(w.f.mem + at, 0, 16);
	w.f.mem[at] = VIRTIO_BLK_T_OUT;
	for (unsigned i = 0; i < 1024; i++)
		w.f.mem[at + 4099 + i] = (uint8_t)(i * 7);
	p[0] = (struct front_piece){at, 16};
	p[1] = (struct front_piece){at + 4099, 100};
	p[2] = (struct front_piece){at + 4199, 924};
	p[3] = (struct front_piece){at + 512, 1};
	assert_true(front_add(&w.f, 0, p, 3, 1) >= 0);
	front_kick(&w.f, 0, 0);
	assert_true(front_wait(&w.f, 0, NULL, 5000) >= 0);
	assert_int_equal(w.f.mem[at + 512], VIRTIO_BLK_S_OK);
	assert_memory_equal(w.m->data, w.f.mem + at + 4099, 1024);
	/* Header, data and status in one piece each way, as virtio 1 allows. */
	w.f.mem[at] = VIRTIO_BLK_T_IN;
	p[1] = (struct front_piece){at + 8193, 513};
	assert_true(front_add(&w.f, 0, p, 1, 1) >= 0);
	front_kick(&w.f, 0, 1);
	assert_true(front_wait(&w.f, 0, NULL, 5000) >= 0);
	assert_int_equal(w.f.mem[at + 8193 + 512], VIRTIO_BLK_S_OK);
	assert_memory_equal(w.f.mem + at + 8193, w.m->data, 512);
	tear_down(&w);
}

static void test_bad_requests_are_answered(void **state)
{
	struct front_piece p[2];
	struct world w;
	uint32_t written;
	uint16_t head;

	(void)state;
	set_up(&w, CONTROLLER_BLK, true);
	begin(&w);
	/* Outside of memory; no room for a status; no header. */
	p[0] = (struct front_piece){w.f.mem_bytes - 8, 16};
	p[1] = (struct front_piece){w.f.data_offset, 1};
	assert_true(front_add(&w.f, 0, p, 1, 1) >= 0);
	p[0].offset = w.f.data_offset;
	assert_true(front_add(&w.f, 0, p, 2, 0) >= 0);
	assert_true(front_add(&w.f, 0, p + 1, 0, 1) >= 0);
	front_kick(&w.f, 0, 0);
	assert_true(front_wait(&w.f, 0, &written, 5000) >= 0);
	assert_int_equal(written, 0);
	assert_true(front_wait(&w.f, 0, &written, 5000) >= 0);
	assert_int_equal(written, 0);
	assert_true(front_wait(&w.f, 0, &written, 5000) >= 0);
	assert_int_equal(written, 1);
	assert_int_equal(w.f.mem[w.f.data_offset], VIRTIO_BLK_S_IOERR);
	/* A loop. */
	head = w.f.q[0].free[w.f.q[0].free_count - 1];
	assert_true(front_add(&w.f, 0, p, 1, 1) >= 0);
	w.f.q[0].desc[head].next = head;
	front_kick(&w.f, 0, 3);
	assert_int_equal(front_wait(&w.f, 0, &written, 5000), head);
	/* The same head twice: one answer each. */
	w.m->hold = true;
	assert_int_equal(submit(&w, 0, VIRTIO_BLK_T_IN, 0, 512, true), head);
	w.f.q[0].free_count++;
	assert_int_equal(submit(&w, 0, VIRTIO_BLK_T_IN, 0, 512, true), head);
	assert_int_equal(front_wait(&w.f, 0, &written, 5000), head);
	assert_int_equal(front_get(&w.f, 0, &written), -EAGAIN);
	w.f.q[0].free_count--;
	iothread_call(w.t, release_call, w.m);
	assert_int_equal(front_wait(&w.f, 0, &written, 5000), head);
	/* An index that makes no sense: that ring stands still, the other lives. */
	w.f.q[0].avail->idx = (uint16_t)(w.f.q[0].avail_idx + 1000);
	eventfd_write(w.f.q[0].kick_fd, 1);
	assert_int_equal(front_wait(&w.f, 0, NULL, 50), -ETIMEDOUT);
	w.f.mem[w.f.data_offset] = VIRTIO_BLK_T_FLUSH;
	p[0] = (struct front_piece){w.f.data_offset, 16};
	p[1] = (struct front_piece){w.f.data_offset + 512, 1};
	assert_true(front_add(&w.f, 1, p, 1, 1) >= 0);
	front_kick(&w.f, 1, 0);
	assert_true(front_wait(&w.f, 1, NULL, 5000) >= 0);
	tear_down(&w);
}

/* GET_VRING_BASE is answered when the last request has ended; then the ring starts again. */
static void test_stop_drains(void **state)
{
	struct vhost_user_msg msg = {.request = VHOST_USER_GET_VRING_BASE,
				     .flags = VHOST_USER_VERSION,
				     .size = 8},
			      reply = {0};
	struct pollfd p;
	struct world w;

	(void)state;
	set_up(&w, CONTROLLER_BLK, true);
	begin(&w);
	w.m->hold = true;
	submit(&w, 0, VIRTIO_BLK_T_OUT, 0, 512, true);
	while (!w.m->held_count)
		sleep_ms(1);
	assert_int_equal(vhost_user_send(w.f.fd, &msg), 0);
	p = (struct pollfd){.fd = w.f.fd, .events = POLLIN};
	assert_int_equal(poll(&p, 1, 50), 0);
	iothread_call(w.t, release_call, w.m);
	assert_int_equal(vhost_user_receive(w.f.fd, &reply, true), 1);
	assert_int_equal(reply.payload.state.num, 1);
	assert_true(front_get(&w.f, 0, NULL) >= 0); /* published before the answer */
	assert_int_equal(front_stop_ring(&w.f, 1), 0);
	assert_int_equal(front_start(&w.f, dup(w.f.fd)), 0);
	assert_int_equal(run(&w, VIRTIO_BLK_T_OUT, 0, 512), VIRTIO_BLK_S_OK);
	tear_down(&w);
}

/* What was in flight when the connection broke is done again for the next one, in order, once. */
static void test_reconnect(void **state)
{
	struct world w;

	(void)state;
	set_up(&w, CONTROLLER_BLK, true);
	begin(&w);
	assert_int_equal(run(&w, VIRTIO_BLK_T_OUT, 0, 512), VIRTIO_BLK_S_OK);
	w.m->hold = true;
	for (unsigned i = 1; i < 6; i++) {
		memset(data(&w, i), (int)i, 512);
		submit(&w, i, VIRTIO_BLK_T_OUT, 8, 512, true); /* the same block: order counts */
	}
	while (w.m->held_count < 5)
		sleep_ms(1);
	front_disconnect(&w.f);
	submit(&w, 6, VIRTIO_BLK_T_FLUSH, 0, 0, true); /* while nobody is there */
	sleep_ms(20);
	assert_int_equal(w.gone, 0); /* requests hold it */
	w.f.fd = plug(&w);	     /* waits for its turn */
	iothread_call(w.t, release_call, w.m);
	assert_true(soon(&w.gone, 1));
	assert_int_equal(w.f.q[0].used->idx, 1); /* not published to a client that is gone */
	w.m->writes = 0;
	assert_int_equal(front_start(&w.f, dup(w.f.fd)), 0);
	for (unsigned i = 0; i < 6; i++)
		assert_true(front_wait(&w.f, 0, NULL, 5000) >= 0);
	assert_int_equal(front_wait(&w.f, 0, NULL, 30), -ETIMEDOUT);
	assert_int_equal(w.m->writes, 5);
	assert_int_equal(w.m->data[8 * 512], 5);
	for (unsigned i = 1; i < 7; i++)
		assert_int_equal(status(&w, i), VIRTIO_BLK_S_OK);
	assert_int_equal(w.f.q[0].free_count, w.f.q[0].size / 4);
	tear_down(&w);
}

static void scsi_lun(struct front_scsi *s, uint8_t lun)
{
	memset(s, 0, sizeof(*s));
	s->lun[0] = 1;
	s->lun[3] = lun;
}

/* Requests that are parked (a full volume) do not keep a controller from being closed. */
static void test_close_with_parked_requests(void **state)
{
	struct world w;

	(void)state;
	for (int kind = 0; kind < 2; kind++) {
		set_up(&w, kind ? CONTROLLER_SCSI : CONTROLLER_BLK, true);
		begin(&w);
		w.m->hold = true;
		if (kind) {
			struct virtio_scsi_cmd_req *req = (void *)(w.f.mem + w.f.data_offset);
			struct front_piece p[3] = {{w.f.data_offset, sizeof(*req)},
						   {w.f.data_offset + 512, 108},
						   {w.f.data_offset + 4096, 512}};
			struct front_scsi s;

			scsi_lun(&s, 0);
			assert_int_equal(front_scsi(&w.f, &s, w.f.data_offset + 8192), 0);
			memset(req, 0, sizeof(*req));
			req->lun[0] = 1;
			req->cdb[0] = 0x28;
			req->cdb[8] = 1;
			front_add(&w.f, 2, p, 1, 2);
			front_kick_always(&w.f, 2);
		} else {
			submit(&w, 0, VIRTIO_BLK_T_OUT, 0, 512, true);
		}
		while (!w.m->held_count)
			sleep_ms(1);
		tear_down(&w);
	}
}

static void test_dirty_log(void **state)
{
	struct vhost_user_msg msg = {.request = VHOST_USER_SET_LOG_BASE,
				     .flags = VHOST_USER_VERSION,
				     .size = 16,
				     .fd_count = 1},
			      reply;
	uint64_t bytes = (FRONT_GPA + (1 << 20)) / 4096 / 8, page;
	struct world w;
	uint8_t *log;

	(void)state;
	set_up(&w, CONTROLLER_BLK, true);
	begin(&w);
	msg.fds[0] = memfd_create("log", MFD_CLOEXEC);
	assert_int_equal(ftruncate(msg.fds[0], (off_t)bytes), 0);
	log = mmap(NULL, bytes, PROT_READ, MAP_SHARED, msg.fds[0], 0);
	msg.payload.log.mmap_size = bytes;
	assert_int_equal(front_call(&w.f, &msg, &reply), 0);
	close(msg.fds[0]);
	msg = (struct vhost_user_msg){
		.request = VHOST_USER_SET_FEATURES, .flags = VHOST_USER_VERSION, .size = 8};
	msg.payload.u64 = w.f.features | 1ULL << VHOST_F_LOG_ALL_BIT;
	assert_int_equal(front_call(&w.f, &msg, NULL), 0);
	msg = (struct vhost_user_msg){
		.request = VHOST_USER_SET_VRING_ADDR, .flags = VHOST_USER_VERSION, .size = 40};
	msg.payload.addr.desc = (uintptr_t)w.f.q[0].desc;
	msg.payload.addr.avail = (uintptr_t)w.f.q[0].avail;
	msg.payload.addr.used = (uintptr_t)w.f.q[0].used;
	msg.payload.addr.flags = VHOST_USER_VRING_LOG_FLAG;
	msg.payload.addr.log = FRONT_GPA + (uint64_t)((uint8_t *)w.f.q[0].used - w.f.mem);
	assert_int_equal(front_call(&w.f, &msg, NULL), 0);
	assert_int_equal(run(&w, VIRTIO_BLK_T_IN, 0, 4096), VIRTIO_BLK_S_OK);
	page = (FRONT_GPA + w.f.data_offset) / 4096;
	assert_true(log[page / 8] >> page % 8 & 1); /* the status */
	page++;
	assert_true(log[page / 8] >> page % 8 & 1); /* the data */
	page++;
	assert_false(log[page / 8] >> page % 8 & 1);
	page = msg.payload.addr.log / 4096;
	assert_true(log[page / 8] >> page % 8 & 1); /* the ring */
	munmap(log, bytes);
	tear_down(&w);
}

/* Memory that can shrink: refused from our own VMM; a foreign client that does it just goes. */
static void test_memory_that_shrinks(void **state)
{
	struct world w;
	int fd;

	(void)state;
	for (int own = 0; own < 2; own++) {
		set_up(&w, CONTROLLER_BLK, own);
		fd = w.f.mem_fd;
		w.f.mem_fd = memfd_create("soft", MFD_CLOEXEC);
		assert_int_equal(ftruncate(w.f.mem_fd, 1 << 20), 0);
		munmap(w.f.mem, 1 << 20);
		w.f.mem = mmap(w.f.mem, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
			       w.f.mem_fd, 0);
		close(fd);
		if (own) {
			assert_int_equal(front_start(&w.f, plug(&w)), -EREMOTEIO);
		} else {
			begin(&w);
			assert_int_equal(run(&w, VIRTIO_BLK_T_IN, 0, 512), VIRTIO_BLK_S_OK);
			assert_int_equal(ftruncate(w.f.mem_fd, 0), 0);
			eventfd_write(w.f.q[0].kick_fd, 1);
			assert_true(soon(&w.gone, 1));
		}
		tear_down(&w);
	}
}

static void test_messages_of_garbage(void **state)
{
	static const uint32_t requests[] = {0,	1,  2,	5,  6,	8,  9,	10, 11, 12, 13,
					    14, 18, 21, 24, 25, 31, 32, 34, 36, 99, UINT32_MAX};
	struct world w;

	(void)state;
	set_up(&w, CONTROLLER_BLK, true);
	for (unsigned i = 0; i < ARRAY_SIZE(requests); i++) {
		struct vhost_user_msg msg = {.request = requests[i], .flags = VHOST_USER_VERSION};
		struct pollfd p = {.events = POLLIN};

		p.fd = plug(&w);
		for (msg.size = 0; msg.size <= 48; msg.size += 12) {
			memset(&msg.payload, i % 2 ? 0xff : 0, sizeof(msg.payload));
			if (vhost_user_send(p.fd, &msg) < 0)
				break;
		}
		close(p.fd);
		assert_true(soon(&w.gone, i + 1));
	}
	begin(&w); /* a client that behaves is served */
	assert_int_equal(run(&w, VIRTIO_BLK_T_IN, 0, 512), VIRTIO_BLK_S_OK);
	tear_down(&w);
}

static int tmf(struct world *w, uint32_t subtype, uint8_t lun, uint64_t tag, int timeout_ms)
{
	uint64_t at = w->f.data_offset + 2048;
	struct virtio_scsi_ctrl_tmf_req *req = (void *)(w->f.mem + at);
	struct front_piece p[2] = {{at, sizeof(*req)}, {at + 512, 1}};
	uint16_t old = w->f.q[0].avail_idx;
	int rc;

	*req = (struct virtio_scsi_ctrl_tmf_req){.subtype = subtype, .lun = {1, 0, 0, lun}};
	req->tag = tag;
	if (timeout_ms) {
		front_add(&w->f, 0, p, 1, 1);
		front_kick(&w->f, 0, old);
	}
	rc = front_wait(&w->f, 0, NULL, timeout_ms ? timeout_ms : 5000);
	return rc < 0 ? rc : w->f.mem[at + 512];
}

static void test_scsi(void **state)
{
	struct front_scsi s;
	struct world w;
	uint64_t at;

	(void)state;
	set_up(&w, CONTROLLER_SCSI, true);
	begin(&w);
	at = w.f.data_offset + 8192;
	scsi_lun(&s, 0);
	s.cdb[0] = 0x12;
	s.cdb[4] = 96;
	s.in_bytes = 255;
	assert_int_equal(front_scsi(&w.f, &s, at), 0);
	assert_int_equal(s.resp.response + s.resp.status, 0);
	assert_int_equal(s.resp.resid, 255 - 96);
	assert_memory_equal(w.f.mem + at + 8, "PERILUNE", 8);
	scsi_lun(&s, 0);
	assert_int_equal(front_scsi(&w.f, &s, at), 0);
	assert_int_equal(s.resp.status, 2);
	assert_int_equal(s.resp.sense_len, 18);
	assert_int_equal(s.resp.sense[12], 0x29);
	scsi_lun(&s, 9);
	assert_int_equal(front_scsi(&w.f, &s, at), 0);
	assert_int_equal(s.resp.sense[12], 0x25);
	s.lun[1] = 1;
	assert_int_equal(front_scsi(&w.f, &s, at), 0);
	assert_int_equal(s.resp.response, VIRTIO_SCSI_S_BAD_TARGET);
	scsi_lun(&s, 0);
	s.cdb[0] = 0x2a;
	s.cdb[8] = 2;
	s.out_bytes = 1024;
	memset(w.f.mem + at, 0x77, 1024);
	assert_int_equal(front_scsi(&w.f, &s, at), 0);
	assert_int_equal(s.resp.status + s.resp.response, 0);
	assert_int_equal(w.m->data[1023], 0x77);
	tear_down(&w);
}

/* A reset is answered when the commands it meant have ended. */
static void test_scsi_reset_waits(void **state)
{
	uint64_t at;
	struct virtio_scsi_cmd_req *req;
	struct front_piece p[3];
	struct front_scsi s;
	struct world w;

	(void)state;
	set_up(&w, CONTROLLER_SCSI, true);
	begin(&w);
	at = w.f.data_offset;
	scsi_lun(&s, 0);
	assert_int_equal(front_scsi(&w.f, &s, at + 8192), 0); /* power on */
	assert_int_equal(tmf(&w, VIRTIO_SCSI_T_TMF_LOGICAL_UNIT_RESET, 0, 0, 5000),
			 VIRTIO_SCSI_S_OK);
	assert_int_equal(front_scsi(&w.f, &s, at + 8192), 0);
	assert_int_equal(s.resp.sense[12], 0x29);
	assert_int_equal(tmf(&w, VIRTIO_SCSI_T_TMF_LOGICAL_UNIT_RESET, 5, 0, 5000),
			 VIRTIO_SCSI_S_INCORRECT_LUN);
	assert_int_equal(tmf(&w, VIRTIO_SCSI_T_TMF_CLEAR_ACA, 0, 0, 5000),
			 VIRTIO_SCSI_S_FUNCTION_REJECTED);
	w.m->hold = true;
	req = (void *)(w.f.mem + at);
	memset(req, 0, sizeof(*req));
	req->lun[0] = 1;
	req->cdb[0] = 0x28;
	req->cdb[8] = 1;
	req->tag = 4711;
	p[0] = (struct front_piece){at, sizeof(*req)};
	p[1] = (struct front_piece){at + 512, sizeof(struct virtio_scsi_cmd_resp)};
	p[2] = (struct front_piece){at + 4096, 512};
	front_add(&w.f, 3, p, 1, 2); /* the second request queue */
	front_kick(&w.f, 3, 0);
	while (!w.m->held_count)
		sleep_ms(1);
	assert_int_equal(tmf(&w, VIRTIO_SCSI_T_TMF_QUERY_TASK, 0, 4711, 5000),
			 VIRTIO_SCSI_S_FUNCTION_SUCCEEDED);
	assert_int_equal(tmf(&w, VIRTIO_SCSI_T_TMF_ABORT_TASK, 0, 1, 5000), VIRTIO_SCSI_S_OK);
	assert_int_equal(tmf(&w, VIRTIO_SCSI_T_TMF_ABORT_TASK, 0, 4711, 50), -ETIMEDOUT);
	iothread_call(w.t, release_call, w.m);
	assert_int_equal(tmf(&w, 0, 0, 0, 0), VIRTIO_SCSI_S_OK);
	assert_true(front_get(&w.f, 3, NULL) >= 0); /* the command was answered before */
	tear_down(&w);
}

/* Hot-plug over the event queue; buffers are taken only when there is something to say. */
static void test_scsi_events(void **state)
{
	struct controller_lun lun = {.lun = 300};
	struct virtio_scsi_event *e;
	struct front_piece p;
	struct memdisk *m;
	struct world w;

	(void)state;
	set_up(&w, CONTROLLER_SCSI, true);
	w.f.features |= 1ULL << VIRTIO_SCSI_F_HOTPLUG | 1ULL << VIRTIO_SCSI_F_CHANGE;
	begin(&w);
	p = (struct front_piece){w.f.data_offset, sizeof(*e)};
	e = (void *)(w.f.mem + w.f.data_offset);
	front_add(&w.f, 1, &p, 0, 1);
	front_kick(&w.f, 1, 0);
	assert_int_equal(front_wait(&w.f, 1, NULL, 30), -ETIMEDOUT);
	m = memdisk_new(iothread_loop(w.t), DISK);
	assert_int_equal(controller_attach(w.ctl, &m->disk, &lun), 0);
	assert_true(front_wait(&w.f, 1, NULL, 5000) >= 0);
	assert_int_equal(e->event, VIRTIO_SCSI_T_TRANSPORT_RESET);
	assert_int_equal(e->reason, VIRTIO_SCSI_EVT_RESET_RESCAN);
	assert_memory_equal(e->lun, "\1\0\x41\x2c", 4);
	assert_int_equal(controller_attach(w.ctl, &m->disk, &lun), -EBUSY);
	/* No buffer: it waits for one. */
	assert_int_equal(controller_detach(w.ctl, 300, NULL, NULL), 0);
	assert_int_equal(controller_detach(w.ctl, 300, NULL, NULL), -ENOENT);
	front_add(&w.f, 1, &p, 0, 1);
	front_kick(&w.f, 1, 1);
	assert_true(front_wait(&w.f, 1, NULL, 5000) >= 0);
	assert_int_equal(e->reason, VIRTIO_SCSI_EVT_RESET_REMOVED);
	assert_true(m->closed);
	memdisk_free(m);
	/* After a reconnect the driver is told that it may have missed some. */
	front_add(&w.f, 1, &p, 0, 1);
	front_disconnect(&w.f);
	assert_true(soon(&w.gone, 1));
	begin(&w);
	assert_true(front_wait(&w.f, 1, NULL, 5000) >= 0);
	assert_int_equal(e->event, VIRTIO_SCSI_T_EVENTS_MISSED);
	tear_down(&w);
}

/* Takes the event that lies in the one buffer there is, and gives the buffer back. */
static void next_event(struct world *w, struct virtio_scsi_event *out)
{
	struct front_piece p = {w->f.data_offset, sizeof(*out)};
	uint16_t old = w->f.q[1].avail_idx;

	front_add(&w->f, 1, &p, 0, 1);
	front_kick(&w->f, 1, old);
	assert_true(front_wait(&w->f, 1, NULL, 5000) >= 0);
	memcpy(out, w->f.mem + w->f.data_offset, sizeof(*out));
}

/* A LUN that leaves is served still; what the guest does with it shows. */
static void test_scsi_leave(void **state)
{
	struct virtio_scsi_event e;
	struct controller_use use;
	struct front_scsi s;
	struct world w;
	uint64_t at;

	(void)state;
	set_up(&w, CONTROLLER_SCSI, true);
	assert_int_equal(controller_get_use(w.ctl, 0, &use), 0);
	assert_false(use.listens);
	w.f.features |= 1ULL << VIRTIO_SCSI_F_HOTPLUG;
	begin(&w);
	at = w.f.data_offset + 8192;
	scsi_lun(&s, 0);
	assert_int_equal(front_scsi(&w.f, &s, at), 0); /* power on */
	assert_int_equal(controller_leave(w.ctl, 1, true), -ENOENT);
	assert_int_equal(controller_leave(w.ctl, 0, true), 0);
	assert_int_equal(controller_leave(w.ctl, 0, true), 0); /* said once */
	assert_int_equal(controller_get_use(w.ctl, 0, &use), 0);
	assert_true(use.listens && !use.told && !use.medium && !use.flushes && !use.in_flight);
	next_event(&w, &e);
	assert_int_equal(e.reason, VIRTIO_SCSI_EVT_RESET_REMOVED);
	scsi_lun(&s, 0);
	s.cdb[0] = 0x2a;
	s.cdb[8] = 1;
	s.out_bytes = 512;
	assert_int_equal(front_scsi(&w.f, &s, at), 0);
	assert_int_equal(s.resp.status, 0);
	scsi_lun(&s, 0);
	s.cdb[0] = 0x35;
	assert_int_equal(front_scsi(&w.f, &s, at), 0);
	assert_int_equal(controller_get_use(w.ctl, 0, &use), 0);
	assert_true(use.told);
	assert_int_equal(use.medium, 2);
	assert_int_equal(use.flushes, 1);
	assert_int_equal(controller_leave(w.ctl, 0, false), 0); /* it stays after all */
	next_event(&w, &e);
	assert_int_equal(e.reason, VIRTIO_SCSI_EVT_RESET_RESCAN);
	assert_int_equal(controller_leave(w.ctl, 0, true), 0);
	next_event(&w, &e);
	assert_int_equal(controller_detach(w.ctl, 0, NULL, NULL), 0);
	for (unsigned i = 0; i < 2000 && !w.m->closed; i++)
		sleep_ms(1);
	scsi_lun(&s, 0);
	assert_int_equal(front_scsi(&w.f, &s, at), 0);
	assert_int_equal(s.resp.sense[12], 0x25);
	assert_int_equal(controller_get_use(w.ctl, 0, &use), -ENOENT);
	tear_down(&w);
}

/* A guest that takes no events for long hears of the first ones, and that it missed some. */
static void test_scsi_events_missed(void **state)
{
	struct virtio_scsi_event e;
	struct memdisk *m[100];
	unsigned n = 0;
	struct world w;

	(void)state;
	set_up(&w, CONTROLLER_SCSI, true);
	w.f.features |= 1ULL << VIRTIO_SCSI_F_HOTPLUG;
	begin(&w);
	for (unsigned i = 0; i < ARRAY_SIZE(m); i++) {
		struct controller_lun lun = {.lun = i + 1};

		m[i] = memdisk_new(iothread_loop(w.t), DISK);
		assert_int_equal(controller_attach(w.ctl, &m[i]->disk, &lun), 0);
	}
	next_event(&w, &e);
	assert_int_equal(e.event, VIRTIO_SCSI_T_EVENTS_MISSED | VIRTIO_SCSI_T_TRANSPORT_RESET);
	assert_int_equal(e.lun[3], 1);
	while (n < 63) {
		next_event(&w, &e);
		assert_int_equal(e.event, VIRTIO_SCSI_T_TRANSPORT_RESET);
		assert_int_equal(e.lun[3], ++n + 1);
	}
	tear_down(&w);
	for (unsigned i = 0; i < ARRAY_SIZE(m); i++)
		memdisk_free(m[i]);
}

/* --- the in-flight region by itself: a kill between any two steps ------------------------------ */

static void test_inflight_steps(void **state)
{
	uint64_t region[64] = {0};
	struct vhost_user_inflight_ring *r = (void *)region;
	struct inflight inf;
	uint16_t heads[8];
	bool resumed;

	(void)state;
	assert_int_equal(inflight_start(&inf, r, 8, 100, heads, &resumed), 0);
	assert_false(resumed);
	inflight_take(&inf, 3);
	inflight_take(&inf, 1);
	inflight_take(&inf, 7);
	/* Killed before anything was answered. */
	assert_int_equal(inflight_start(&inf, r, 8, 100, heads, &resumed), 3);
	assert_true(resumed);
	assert_int_equal(heads[0] * 100 + heads[1] * 10 + heads[2], 317);
	/* Killed with two put, not published. */
	inflight_put(&inf, 7);
	inflight_put(&inf, 3);
	assert_int_equal(inflight_start(&inf, r, 8, 100, heads, &resumed), 3);
	/* Killed with the index moved, marks still set. */
	inflight_put(&inf, 7);
	inflight_put(&inf, 3);
	assert_int_equal(inflight_start(&inf, r, 8, 102, heads, &resumed), 1);
	assert_int_equal(heads[0], 1);
	inflight_take(&inf, 3);
	inflight_put(&inf, 1);
	inflight_published(&inf, 103);
	assert_int_equal(inflight_start(&inf, r, 8, 103, heads, &resumed), 1);
	assert_int_equal(heads[0], 3);
	/* Garbage is refused. */
	assert_int_equal(inflight_start(&inf, r, 8, 300, heads, &resumed), -EINVAL);
	assert_int_equal(inflight_start(&inf, r, 4, 103, heads, &resumed), -EINVAL);
	r->version = 9;
	assert_int_equal(inflight_start(&inf, r, 8, 103, heads, &resumed), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_blk),
		cmocka_unit_test(test_no_write_cache),
		cmocka_unit_test(test_bounce),
		cmocka_unit_test(test_bad_requests_are_answered),
		cmocka_unit_test(test_stop_drains),
		cmocka_unit_test(test_reconnect),
		cmocka_unit_test(test_close_with_parked_requests),
		cmocka_unit_test(test_dirty_log),
		cmocka_unit_test(test_memory_that_shrinks),
		cmocka_unit_test(test_messages_of_garbage),
		cmocka_unit_test(test_scsi),
		cmocka_unit_test(test_scsi_reset_waits),
		cmocka_unit_test(test_scsi_events),
		cmocka_unit_test(test_scsi_leave),
		cmocka_unit_test(test_scsi_events_missed),
		cmocka_unit_test(test_inflight_steps),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
