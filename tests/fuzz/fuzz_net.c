// SPDX-License-Identifier: Apache-2.0
/*
 * What a hostile guest can do to its network device: any bytes in rings, descriptors and buffers at any time, any
 * features, resets in between, states that are loaded; frames come meanwhile. A socket pair is the tap.
 *
 * Input: features (8), then records of 12 bytes: what (1), length (1), address (2), bytes (8).
 */
#include <fcntl.h>
#include <linux/virtio_config.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "base/util.h"
#include "hv/gmem.h"
#include "hv/net.h"
#include "hv/net_impl.h"
#include "hv/state.h"

#define MEMORY	     (2 * MiB)
#define SIZE	     16u
#define RECORD_BYTES 12u
#define RECORDS_MAX  256u
#define AREA	     0x10000u /* of guest memory that the input writes: rings, tables, headers */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct hv_gmem *gmem;
static int wire[2];
static uint8_t frame[70000];

static void set_up(void)
{
	int fd = memfd_create("guest", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	MUST(fd >= 0 && !ftruncate(fd, MEMORY));
	MUST(!fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW));
	MUST(!hv_gmem_create(&gmem, fd));
	MUST(!socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, wire));
	log_set_level(LOG_ERROR);
}

static struct hv_net *make(void)
{
	struct hv_net_link link = {.how = {.mtu = 1500}, .taps = 2, .tap = {wire[0], wire[0]}};
	struct hv_net *net;

	MUST(!hv_net_create(&net, 0, 2, SIZE, gmem, &link));
	struct hv_virtio *v = hv_net_device(net);
	v->config_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	for (unsigned q = 0; q < v->queues_n; q++) /* one for all: nobody listens */
		v->queue[q].kick_fd = v->queue[q].call_fd = v->config_fd;
	return net;
}

/* Rings lie where they can be written, one behind the other; two of them on one place. */
static void run(struct hv_net *net, uint64_t features)
{
	struct hv_virtio *v = hv_net_device(net);

	v->driver_features = (features & v->ops->features(v)) | 1ULL << VIRTIO_F_VERSION_1;
	for (unsigned q = 0; q < v->queues_n; q++) {
		v->queue[q].size = SIZE;
		v->queue[q].enabled = true;
		v->queue[q].desc = (q & 3) * 0x400;
		v->queue[q].driver = (q & 3) * 0x400 + 0x100;
		v->queue[q].device = (q & 3) * 0x400 + 0x200;
	}
	v->status = VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK;
	v->ops->run(v);
	hv_net_go(net);
}

static void reset(struct hv_net *net)
{
	struct hv_virtio *v = hv_net_device(net);

	v->resetting = true;
	v->ops->reset(v);
	MUST(!v->resetting);
}

static void turns(struct hv_net *net)
{
	for (unsigned i = 0; i < net->pairs; i++) {
		net_pair_lock(&net->pair[i]);
		/* A guest can keep a ring full for ever: not longer than this here. */
		for (unsigned n = 0; n < 8 && net_pair_turn(&net->pair[i]); n++)
			;
		if (i == 0)
			(void)net_announce(net);
		net_pair_unlock(&net->pair[i]);
	}
	while (recv(wire[1], frame, sizeof(frame), 0) > 0)
		;
}

static void save_and_load(struct hv_net *net, const uint8_t *bytes, size_t n)
{
	struct hv_state_reader *r = xcalloc(1, sizeof(*r));
	struct hv_state_writer w;
	const uint8_t *state;
	size_t size;

	hv_net_hold(net);
	hv_state_writer_init(&w);
	if (n & 1) { /* its own, or what the input says */
		hv_state_begin(&w, "net", 0, 1);
		for (unsigned i = 0; i < 8; i++)
			hv_state_put(&w, bytes, 8);
	} else {
		hv_net_save(net, 0, &w);
	}
	state = hv_state_finish(&w, &size);
	MUST(!hv_state_open(r, state, size));
	(void)hv_net_load(net, 0, r);
	hv_state_writer_free(&w);
	free(r);
	hv_net_go(net);
}

static void step(struct hv_net *net, const uint8_t *r, uint64_t features)
{
	uint16_t address;

	memcpy(&address, r + 2, 2);
	switch (r[0] % 8) {
	case 0:
		reset(net);
		run(net, features);
		break;
	case 1:
		memcpy(frame, r + 4, 8);
		(void)!send(wire[1], frame, HV_NET_HEADER + 14u + r[1] * 64u, 0);
		break;
	case 2:
		save_and_load(net, r + 4, r[1]);
		break;
	case 3:
		turns(net);
		break;
	default:
		hv_gmem_write(gmem, address % AREA, r + 4, 8);
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint64_t features = 0;

	if (!gmem)
		set_up();
	if (size < 8)
		return 0;
	memcpy(&features, data, 8);
	memset(hv_gmem_at(gmem, 0, AREA), 0, AREA);
	struct hv_net *net = make();
	run(net, features);
	for (size_t i = 0; i < RECORDS_MAX && 8 + (i + 1) * RECORD_BYTES <= size; i++)
		step(net, data + 8 + i * RECORD_BYTES, features);
	turns(net);
	close(hv_net_device(net)->config_fd);
	hv_net_destroy(net);
	return 0;
}
