// SPDX-License-Identifier: Apache-2.0
/*
 * hv/net.h without KVM and without threads: the test is the guest's driver, in its memory, and the other end of
 * the tap, a socket pair.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/vhost.h>
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/log.h"
#include "base/util.h"
#include "hv/gmem.h"
#include "hv/net.h"
#include "hv/net_impl.h"
#include "hv/state.h"

#define MEMORY (2 * MiB)
#define SIZE   16u
#define BIT(n) (1ULL << (n))

enum { RX, TX, CTRL, QUEUES };

/* Guest addresses: a ring's parts, then a page for each of its descriptors. */
#define RING_AT(q)	(0x10000u + 0x4000u * (q))
#define BUFFER_AT(q, i) (0x80000u + 0x20000u * (q) + 0x1000u * (i))

struct rig {
	int memory_fd, wire;
	struct hv_gmem *gmem;
	struct hv_net *net;
	struct hv_virtio *v;
};

static struct vring_desc *desc(struct rig *r, unsigned q)
{
	return hv_gmem_at(r->gmem, RING_AT(q), 16 * SIZE);
}

static struct vring_avail *avail(struct rig *r, unsigned q)
{
	return hv_gmem_at(r->gmem, RING_AT(q) + 0x1000, 64);
}

static struct vring_used *used(struct rig *r, unsigned q)
{
	return hv_gmem_at(r->gmem, RING_AT(q) + 0x2000, 256);
}

static uint8_t *buffer(struct rig *r, unsigned q, unsigned i)
{
	return hv_gmem_at(r->gmem, BUFFER_AT(q, i), 0x1000);
}

static void submit(struct rig *r, unsigned q, unsigned i, uint32_t bytes, unsigned flags)
{
	struct vring_avail *a = avail(r, q);

	desc(r, q)[i] = (struct vring_desc){BUFFER_AT(q, i), bytes, (uint16_t)flags, 0};
	a->ring[a->idx % SIZE] = (uint16_t)i;
	a->idx++;
}

static void run(struct rig *r, uint64_t features)
{
	r->v->driver_features = BIT(VIRTIO_F_VERSION_1) | features;
	for (unsigned q = 0; q < QUEUES; q++) {
		struct hv_virtio_queue *vq = &r->v->queue[q];

		memset(avail(r, q), 0, 64);
		memset(used(r, q), 0, 256);
		vq->size = SIZE;
		vq->enabled = true;
		vq->desc = RING_AT(q);
		vq->driver = RING_AT(q) + 0x1000;
		vq->device = RING_AT(q) + 0x2000;
	}
	r->v->status = VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK;
	r->v->ops->run(r->v);
	hv_net_go(r->net);
}

static void turns(struct rig *r)
{
	struct net_pair *p = &r->net->pair[0];

	net_pair_lock(p);
	while (net_pair_turn(p))
		;
	net_pair_unlock(p);
}

static struct hv_net *make_net(struct rig *r, int tap)
{
	struct hv_net_link link = {.how = {.mtu = 1500, .mac = {2, 0, 0, 0, 0, 9}}, .taps = 1};
	struct hv_net *net;

	link.tap[0] = tap;
	assert_int_equal(hv_net_create(&net, 0, 1, SIZE, r->gmem, &link), 0);
	r->v = hv_net_device(net);
	r->v->config_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	for (unsigned q = 0; q < QUEUES; q++) {
		r->v->queue[q].kick_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
		r->v->queue[q].call_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	}
	return net;
}

static void free_net(struct hv_net *net)
{
	struct hv_virtio *v = hv_net_device(net);

	close(v->config_fd);
	for (unsigned q = 0; q < QUEUES; q++) {
		close(v->queue[q].kick_fd);
		close(v->queue[q].call_fd);
	}
	hv_net_destroy(net);
}

static int taps[2];

static int setup(void **state)
{
	struct rig *r = xcalloc(1, sizeof(*r));

	log_set_level(LOG_ERROR);
	r->memory_fd = memfd_create("guest", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	assert_int_equal(ftruncate(r->memory_fd, MEMORY), 0);
	assert_int_equal(fcntl(r->memory_fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW), 0);
	assert_int_equal(hv_gmem_create(&r->gmem, r->memory_fd), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, taps),
			 0);
	r->wire = taps[1];
	r->net = make_net(r, taps[0]);
	*state = r;
	return 0;
}

static int teardown(void **state)
{
	struct rig *r = *state;

	free_net(r->net);
	close(taps[0]);
	close(taps[1]);
	hv_gmem_destroy(r->gmem);
	close(r->memory_fd);
	free(r);
	return 0;
}

static void wire_sends(struct rig *r, uint32_t bytes, uint8_t stamp)
{
	cleanup_free uint8_t *frame = xcalloc(1, HV_NET_HEADER + bytes);

	memset(frame + HV_NET_HEADER, stamp, bytes);
	assert_int_equal(send(r->wire, frame, HV_NET_HEADER + bytes, 0), HV_NET_HEADER + bytes);
}

static ssize_t wire_gets(struct rig *r, uint8_t frame[4096])
{
	return recv(r->wire, frame, 4096, MSG_DONTWAIT);
}

/* --- frames ---------------------------------------------------------------------------------------- */

static void test_frames_go_both_ways(void **state)
{
	struct rig *r = *state;
	uint8_t frame[4096];

	run(r, 0);
	memset(buffer(r, TX, 3), 0x5a, 1000);
	memset(buffer(r, TX, 3), 0, HV_NET_HEADER);
	submit(r, TX, 3, 1000, 0);
	submit(r, RX, 5, 4096, VRING_DESC_F_WRITE);
	wire_sends(r, 700, 0xa5);
	turns(r);
	assert_int_equal(wire_gets(r, frame), 1000);
	assert_memory_equal(frame, buffer(r, TX, 3), 1000);
	assert_int_equal(used(r, TX)->idx, 1);
	assert_int_equal(used(r, TX)->ring[0].id, 3);
	assert_int_equal(used(r, RX)->idx, 1);
	assert_int_equal(used(r, RX)->ring[0].id, 5);
	assert_int_equal(used(r, RX)->ring[0].len, 700 + HV_NET_HEADER);
	assert_int_equal(buffer(r, RX, 5)[HV_NET_HEADER + 699], 0xa5);
	assert_int_equal(buffer(r, RX, 5)[10], 1); /* num_buffers */
}

static void test_a_long_frame_takes_several_buffers(void **state)
{
	struct rig *r = *state;

	run(r, BIT(VIRTIO_NET_F_MRG_RXBUF));
	for (unsigned i = 0; i < 3; i++)
		submit(r, RX, i, 1024, VRING_DESC_F_WRITE);
	wire_sends(r, 2500, 7);
	turns(r);
	assert_int_equal(used(r, RX)->idx, 3);
	assert_int_equal(buffer(r, RX, 0)[10], 3);
	assert_int_equal(used(r, RX)->ring[0].len, 1024);
	assert_int_equal(used(r, RX)->ring[2].len, 2500 + HV_NET_HEADER - 2048);
	assert_int_equal(buffer(r, RX, 2)[2500 + HV_NET_HEADER - 2048 - 1], 7);
}

static void test_a_frame_waits_for_room_and_is_not_torn(void **state)
{
	struct rig *r = *state;

	run(r, BIT(VIRTIO_NET_F_MRG_RXBUF) | BIT(VIRTIO_RING_F_EVENT_IDX));
	submit(r, RX, 0, 1024, VRING_DESC_F_WRITE);
	submit(r, RX, 1, 1024, VRING_DESC_F_WRITE);
	wire_sends(r, 2500, 7);
	wire_sends(r, 100, 8);
	turns(r);
	assert_int_equal(used(r, RX)->idx, 0);
	assert_true(r->net->pair[0].starved);
	/* The kick that is asked for is one for more than there was: avail_event. */
	assert_int_equal(used(r, RX)->ring[SIZE].id & 0xffff, 2);
	submit(r, RX, 2, 1024, VRING_DESC_F_WRITE);
	turns(r);
	assert_int_equal(used(r, RX)->idx, 3);
	submit(r, RX, 3, 1024, VRING_DESC_F_WRITE);
	turns(r);
	assert_int_equal(used(r, RX)->idx, 4);
	assert_int_equal(used(r, RX)->ring[3].id, 3);
	assert_int_equal(buffer(r, RX, 3)[HV_NET_HEADER], 8);
}

static void test_a_frame_too_long_for_an_old_driver_is_lost_alone(void **state)
{
	struct rig *r = *state;

	run(r, 0);
	submit(r, RX, 0, 1024, VRING_DESC_F_WRITE);
	wire_sends(r, 2500, 7);
	wire_sends(r, 100, 8);
	turns(r);
	assert_int_equal(used(r, RX)->idx, 1);
	assert_int_equal(used(r, RX)->ring[0].len, 100 + HV_NET_HEADER);
	assert_int_equal(buffer(r, RX, 0)[HV_NET_HEADER], 8);
}

static void test_bad_frames_of_the_guest_are_lost_alone(void **state)
{
	struct rig *r = *state;
	uint8_t frame[4096];

	run(r, 0);
	submit(r, TX, 0, 10, 0);		       /* shorter than a header */
	submit(r, TX, 1, 0x7fffffff, 0);	       /* not all of it is memory */
	submit(r, TX, 2, 1000, VRING_DESC_F_INDIRECT); /* a table of 62.5 */
	submit(r, TX, 3, 100, 0);
	turns(r);
	assert_int_equal(used(r, TX)->idx, 4);
	assert_int_equal(wire_gets(r, frame), 100);
	assert_int_equal(wire_gets(r, frame), -1);
}

static void test_a_broken_ring_is_stopped_and_a_reset_mends_it(void **state)
{
	struct rig *r = *state;
	uint8_t frame[4096];

	run(r, 0);
	avail(r, TX)->idx = 999;
	submit(r, RX, 0, 1024, 0); /* nothing to write to */
	wire_sends(r, 100, 8);
	turns(r);
	assert_false(r->net->pair[0].tx.on || r->net->pair[0].rx.on);
	r->v->resetting = true;
	r->v->ops->reset(r->v);
	assert_false(r->v->resetting);
	run(r, 0);
	submit(r, TX, 3, 100, 0);
	turns(r);
	assert_int_equal(wire_gets(r, frame), 100);
}

/* --- the kernel's part ------------------------------------------------------------------------------ */

/*
 * vhost-net is played here, in the place of ioctl(2): as soon as it has the tap it puts a frame into the first
 * buffer, and it may refuse a ring.
 */
static struct {
	int fd, refuses; /* -1: neither */
	struct rig *rig;
	uint16_t base[2];
	bool served[2];
} kernel = {.fd = -1};

static int set_backend(const struct vhost_vring_file *f)
{
	struct vring_used *u = used(kernel.rig, RX);

	if (f->fd >= 0 && (int)f->index == kernel.refuses) {
		errno = EFAULT;
		return -1;
	}
	kernel.served[f->index] = f->fd >= 0;
	if (f->fd >= 0 && f->index == RX) {
		buffer(kernel.rig, RX, 0)[HV_NET_HEADER] = 0x77;
		u->ring[u->idx % SIZE] = (struct vring_used_elem){0, HV_NET_HEADER + 100};
		u->idx++;
		kernel.base[RX]++;
	}
	return 0;
}

int ioctl(int fd, unsigned long request, ...)
{
	struct vhost_vring_state *state;
	va_list list;
	void *arg;

	va_start(list, request);
	arg = va_arg(list, void *);
	va_end(list);
	if (fd != kernel.fd || fd < 0)
		return (int)syscall(SYS_ioctl, fd, request, arg);
	state = arg;
	switch (request) {
	case VHOST_GET_FEATURES:
		*(uint64_t *)arg = UINT64_MAX;
		return 0;
	case VHOST_SET_VRING_BASE:
		kernel.base[state->index] = (uint16_t)state->num;
		return 0;
	case VHOST_GET_VRING_BASE:
		assert_false(kernel.served[state->index]);
		state->num = kernel.base[state->index];
		return 0;
	case VHOST_NET_SET_BACKEND:
		return set_backend(arg);
	default:
		return 0;
	}
}

/* It had begun with one ring: that goes on where the kernel left it, and the pair's thread serves both. */
static void test_a_kernel_that_refuses_half_way(void **state)
{
	struct rig *r = *state;
	struct hv_net_link link = {
		.how = {.mtu = 1500, .mac = {2, 0, 0, 0, 0, 9}}, .taps = 1, .vhosts = 1};
	uint8_t frame[4096];

	for (int refuses = RX; refuses <= TX; refuses++) {
		unsigned taken = refuses == TX;

		kernel.fd = open("/dev/null", O_RDWR | O_CLOEXEC);
		kernel.refuses = refuses;
		kernel.rig = r;
		link.tap[0] = taps[0];
		link.vhost[0] = kernel.fd;
		r->v->resetting = true;
		r->v->ops->reset(r->v);
		run(r, 0);
		for (unsigned i = 0; i < 3; i++)
			submit(r, RX, i, 1024, VRING_DESC_F_WRITE);
		hv_net_set_link(r->net, &link);
		assert_int_equal(used(r, RX)->idx, taken);
		assert_false(r->net->pair[0].by_kernel || kernel.served[RX] || kernel.served[TX]);
		wire_sends(r, 200, 5);
		submit(r, TX, 3, 100, 0);
		turns(r);
		assert_int_equal(wire_gets(r, frame), 100);
		assert_int_equal(used(r, RX)->idx, taken + 1);
		assert_int_equal(used(r, RX)->ring[taken].id, taken);
		assert_int_equal(buffer(r, RX, taken)[HV_NET_HEADER], 5);
		if (taken)
			assert_int_equal(buffer(r, RX, 0)[HV_NET_HEADER], 0x77);
		hv_net_set_link(r->net, NULL);
		close(kernel.fd);
		kernel.fd = -1;
	}
}

/* --- control, announcements ----------------------------------------------------------------------------- */

static uint8_t command(struct rig *r, uint8_t class, uint8_t cmd, const void *data, uint32_t n)
{
	struct vring_desc *d = desc(r, CTRL);
	struct vring_avail *a = avail(r, CTRL);
	uint8_t *p = buffer(r, CTRL, 0);

	p[0] = class;
	p[1] = cmd;
	memcpy(p + 2, data, n);
	p[100] = 0xee;
	d[0] = (struct vring_desc){BUFFER_AT(CTRL, 0), 2 + n, VRING_DESC_F_NEXT, 1};
	d[1] = (struct vring_desc){BUFFER_AT(CTRL, 0) + 100, 1, VRING_DESC_F_WRITE, 0};
	a->ring[a->idx % SIZE] = 0;
	a->idx++;
	turns(r);
	assert_int_equal(used(r, CTRL)->idx, a->idx);
	return p[100];
}

static void test_commands_are_obeyed_or_refused(void **state)
{
	struct rig *r = *state;
	const uint16_t two = 2;

	run(r, BIT(VIRTIO_NET_F_CTRL_VQ) | BIT(VIRTIO_NET_F_GUEST_ANNOUNCE));
	assert_int_equal(command(r, VIRTIO_NET_CTRL_MQ, 0, &two, 2), VIRTIO_NET_ERR);
	assert_int_equal(command(r, VIRTIO_NET_CTRL_RX, 0, "", 1), VIRTIO_NET_ERR);
	assert_int_equal(command(r, VIRTIO_NET_CTRL_MAC, 1, "012345", 6), VIRTIO_NET_ERR);
	atomic_store(&r->net->announcing, true);
	assert_int_equal(command(r, VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_CTRL_ANNOUNCE_ACK, "", 0),
			 VIRTIO_NET_OK);
	assert_false(atomic_load(&r->net->announcing));
}

static void test_what_was_saved_goes_on_elsewhere_and_announces_itself(void **state)
{
	struct rig *r = *state;
	struct hv_state_writer w;
	struct hv_state_reader *reader = xcalloc(1, sizeof(*reader));
	uint8_t frame[4096], status[2];
	const uint8_t *bytes;
	size_t n;

	run(r, BIT(VIRTIO_NET_F_CTRL_VQ) | BIT(VIRTIO_NET_F_GUEST_ANNOUNCE));
	for (unsigned i = 0; i < 5; i++)
		submit(r, RX, i, 1024, VRING_DESC_F_WRITE);
	wire_sends(r, 100, 1);
	turns(r);
	hv_net_hold(r->net);
	wire_sends(r, 100, 2);
	turns(r);
	assert_int_equal(used(r, RX)->idx, 1); /* it stands still */
	hv_state_writer_init(&w);
	hv_net_save(r->net, 0, &w);
	bytes = hv_state_finish(&w, &n);

	struct hv_net *old = r->net;
	struct hv_virtio was = *r->v;
	r->net = make_net(r, taps[0]);
	r->v->driver_features = was.driver_features;
	r->v->status = was.status;
	for (unsigned q = 0; q < QUEUES; q++) {
		struct hv_virtio_queue *vq = &r->v->queue[q];

		vq->size = SIZE;
		vq->enabled = true;
		vq->desc = RING_AT(q);
		vq->driver = RING_AT(q) + 0x1000;
		vq->device = RING_AT(q) + 0x2000;
	}
	assert_int_equal(hv_state_open(reader, bytes, n), 0);
	assert_int_equal(hv_net_load(r->net, 0, reader), 0);
	hv_state_writer_free(&w);
	free(reader);
	free_net(old);
	hv_net_go(r->net);
	wire_sends(r, 100, 3); /* the one before was there before the load: the source sends it */
	turns(r);
	assert_int_equal(used(r, RX)->idx, 2);
	assert_int_equal(buffer(r, RX, 1)[HV_NET_HEADER], 3);

	net_pair_lock(&r->net->pair[0]);
	assert_in_range(net_announce(r->net), 1, 51);
	net_pair_unlock(&r->net->pair[0]);
	assert_int_equal(wire_gets(r, frame), HV_NET_HEADER + 60);
	assert_memory_equal(
		frame + HV_NET_HEADER,
		"\xff\xff\xff\xff\xff\xff\x02\0\0\0\0\x09\x80\x35\0\x01\x08\0\x06\x04\0\x03"
		"\x02\0\0\0\0\x09\0\0\0\0\x02\0\0\0\0\x09\0\0\0\0",
		42);
	r->v->ops->config_read(r->v, 6, status, 2);
	assert_int_equal(status[0], VIRTIO_NET_S_LINK_UP | VIRTIO_NET_S_ANNOUNCE);
}

static void test_a_state_that_makes_no_sense_is_refused(void **state)
{
	struct rig *r = *state;
	struct hv_state_reader *reader = xcalloc(1, sizeof(*reader));
	struct hv_state_writer w;
	const uint8_t *bytes;
	size_t n;

	hv_state_writer_init(&w);
	hv_state_begin(&w, "net", 0, 1);
	hv_state_put64(&w, UINT64_MAX);
	hv_state_put16(&w, 77);
	hv_state_put8(&w, 1);
	for (unsigned i = 0; i < 3; i++) {
		hv_state_put8(&w, 1);
		hv_state_put16(&w, 5);
	}
	bytes = hv_state_finish(&w, &n);
	assert_int_equal(hv_state_open(reader, bytes, n), 0);
	assert_int_equal(hv_net_load(r->net, 0, reader), -EINVAL);
	hv_state_writer_free(&w);
	free(reader);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_frames_go_both_ways, setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_long_frame_takes_several_buffers, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_a_frame_waits_for_room_and_is_not_torn, setup,
						teardown),
		cmocka_unit_test_setup_teardown(
			test_a_frame_too_long_for_an_old_driver_is_lost_alone, setup, teardown),
		cmocka_unit_test_setup_teardown(test_bad_frames_of_the_guest_are_lost_alone, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_a_broken_ring_is_stopped_and_a_reset_mends_it,
						setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_kernel_that_refuses_half_way, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_commands_are_obeyed_or_refused, setup,
						teardown),
		cmocka_unit_test_setup_teardown(
			test_what_was_saved_goes_on_elsewhere_and_announces_itself, setup,
			teardown),
		cmocka_unit_test_setup_teardown(test_a_state_that_makes_no_sense_is_refused, setup,
						teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
