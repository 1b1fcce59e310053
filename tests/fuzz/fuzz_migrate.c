// SPDX-License-Identifier: Apache-2.0
/*
 * What comes on a migration's streams, from bytes: bodies of each type, as an honest side would seal
 * them; what the decoders let through is put into a small memory, as the target would.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/peer_proto.h"
#include "migrate/memory.h"
#include "migrate/wire.h"

#define MEMORY (4 * MiB)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct mig_sink *sink(void)
{
	static struct mig_sink *s;
	int fd;

	if (s)
		return s;
	fd = memfd_create("guest", MFD_CLOEXEC);
	MUST(fd >= 0 && ftruncate(fd, MEMORY) == 0 && mig_sink_create(&s, fd, MEMORY, true) == 0);
	return s;
}

static void ranges(const struct frame *f)
{
	static struct mig_range r[MIG_RANGES_MAX];
	static uint8_t again[MIG_TABLE_BYTES(MIG_RANGES_MAX)];
	const uint8_t *bytes;
	uint64_t sum = 0;
	int n = mig_ranges_decode(f, MEMORY, r, &bytes);

	if (n < 0)
		return;
	for (int i = 0; i < n; i++) {
		MUST(r[i].bytes && r[i].offset < MEMORY && r[i].bytes <= MEMORY - r[i].offset);
		sum += r[i].bytes;
	}
	MUST(mig_ranges_encode(r, (unsigned)n, again) == MIG_TABLE_BYTES(n));
	MUST(!memcmp(again, f->body, MIG_TABLE_BYTES(n)));
	if (f->type == FRAME_MIG_PAGES) {
		MUST(bytes + sum == f->body + f->bytes);
		mig_sink_pages(sink(), r, (unsigned)n, bytes);
	} else {
		mig_sink_absent(sink(), r, (unsigned)n);
	}
}

static void decode(const struct frame *f)
{
	static struct mig_range stale[MIG_RANGES_MAX];
	static struct mig_dirty dirty;
	uint64_t wants[PEER_MIG_WANTS_MAX];
	uint8_t token[MIG_TOKEN_BYTES];
	struct mig_net_frame frame;
	const uint8_t *bytes;
	struct mig_range r;
	struct mig_state state;
	const uint8_t *baggage;
	uint64_t round;
	unsigned stream;
	uint32_t n;

	if (!dirty.words)
		mig_dirty_init(&dirty, MEMORY);
	if (f->type == FRAME_MIG_PAGES || f->type == FRAME_MIG_ABSENT)
		ranges(f);
	if (f->type == FRAME_MIG_JOIN && mig_join_decode(f, token, &stream) == 0)
		MUST(stream < MIG_STREAMS_MAX);
	if (f->type == FRAME_MIG_OFFERED && mig_offered_decode(f, &baggage, &n) == 0)
		MUST(baggage + n == f->body + f->bytes);
	if (f->type == FRAME_MIG_FRAME && mig_frame_decode(f, &frame) == 0)
		MUST(frame.n && frame.bytes + frame.n == f->body + f->bytes);
	if (f->type == FRAME_MIG_STALE &&
	    (n = (uint32_t)MAX(0, mig_ranges_decode(f, MEMORY, stale, &bytes))))
		for (uint32_t i = 0; i < n; i++)
			mig_dirty_set(&dirty, &stale[i]);
	if (f->type == FRAME_MIG_WANT)
		for (int i = mig_want_decode(f, MEMORY, wants); i > 0; i--)
			(void)mig_dirty_take_at(&dirty, wants[i - 1], 64 * KiB, &r);
	if (f->type == FRAME_MIG_ROUND)
		(void)mig_round_decode(f, &round);
	if (f->type == FRAME_MIG_STATE && mig_state_decode(f, &state) == 0)
		MUST(state.n && state.bytes + state.n == f->body + f->bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t body[PEER_MIG_PAGES_MAX];
	struct frame f = {.body = data};

	for (int type = FRAME_MIG_BEGIN; type <= FRAME_MIG_FRAME; type++) {
		f.type = (enum frame_type)type;
		f.bytes = MIN((uint32_t)size, frame_type_max((uint16_t)type, 0));
		decode(&f);
	}
	/* A short table, and the pages that it promises. */
	if (size < 8 || size > MIG_TABLE_BYTES(32))
		return 0;
	memcpy(body, data, size);
	f.body = body;
	f.type = FRAME_MIG_PAGES;
	for (unsigned pages = 0; pages < 64; pages += 1 + pages) {
		f.bytes = (uint32_t)size + pages * MIG_PAGE;
		ranges(&f);
	}
	return 0;
}
