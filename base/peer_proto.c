// SPDX-License-Identifier: Apache-2.0
/* peer_proto.c: bodies of frames, encoded, decoded, checked. */
#include "base/peer_proto.h"

#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "base/frame.h"

#define SLOTS_MAX 64u /* of a volume */
#define ERRNO_MAX 4095u

/* A zero padded text from outside: ended, and without what a terminal would obey. */
static void take_text(char *dst, const char *src, size_t size)
{
	size_t n = strnlen(src, size - 1);

	memset(dst, 0, size);
	for (size_t i = 0; i < n; i++)
		dst[i] = (uint8_t)src[i] < 0x20 || src[i] == 0x7f ? '?' : src[i];
}

static void put_text(char *dst, const char *src, size_t size)
{
	size_t n = strnlen(src, size - 1);

	memset(dst, 0, size);
	memcpy(dst, src, n);
}

void peer_hello_encode(const struct peer_hello *h, struct frame_hello *out)
{
	*out = (struct frame_hello){
		.version_min = le16_of((uint16_t)h->version_min),
		.version_max = le16_of((uint16_t)h->version_max),
		.purpose = le32_of((uint32_t)h->purpose),
		.features = le64_of(h->features),
		.slot = le16_of((uint16_t)h->slot),
		.to_slot = le16_of((uint16_t)h->to_slot),
		.epoch = le32_of(h->epoch),
		.to_epoch = le32_of(h->to_epoch),
		.clock = le64_of(clock_boot_ns()),
	};
	memcpy(out->volume, h->volume, sizeof(out->volume));
	put_text(out->name, h->name, sizeof(out->name));
}

int peer_hello_decode(const struct frame *f, struct peer_hello *out)
{
	struct frame_hello h;
	uint32_t purpose;

	if (f->type != FRAME_HELLO || f->bytes != sizeof(h))
		return fail(-EBADMSG, "no hello: a frame of type %u with %u bytes", f->type,
			    f->bytes);
	memcpy(&h, f->body, sizeof(h));
	purpose = le32_get(h.purpose);
	if (purpose != PEER_CONTROL && purpose != PEER_STREAM)
		return fail(-EBADMSG, "a hello for an unknown purpose, %u", purpose);
	*out = (struct peer_hello){
		.version_min = le16_get(h.version_min),
		.version_max = le16_get(h.version_max),
		.purpose = (enum peer_purpose)purpose,
		.features = le64_get(h.features),
		.slot = le16_get(h.slot),
		.to_slot = le16_get(h.to_slot),
		.epoch = le32_get(h.epoch),
		.to_epoch = le32_get(h.to_epoch),
		.clock_ns = le64_get(h.clock),
	};
	memcpy(out->volume, h.volume, sizeof(out->volume));
	take_text(out->name, h.name, sizeof(out->name));
	if (out->slot >= SLOTS_MAX || out->to_slot >= SLOTS_MAX ||
	    out->version_min > out->version_max || !out->version_min)
		return fail(-EBADMSG, "a hello of slot %u to slot %u, versions %u to %u", out->slot,
			    out->to_slot, out->version_min, out->version_max);
	return 0;
}

int peer_hello_answer(struct peer_hello *mine, const struct peer_hello *theirs)
{
	unsigned version = MIN(mine->version_max, theirs->version_max);

	if (version < mine->version_min || version < theirs->version_min)
		return fail(-EPROTONOSUPPORT,
			    "host %s speaks peer versions %u to %u, this one %u to %u; bring both "
			    "to one release",
			    theirs->name, theirs->version_min, theirs->version_max,
			    mine->version_min, mine->version_max);
	if (memcmp(mine->volume, theirs->volume, sizeof(mine->volume)) != 0)
		return fail(-EBADMSG, "a hello for another volume than its secret's");
	mine->version_min = mine->version_max = version;
	mine->purpose = theirs->purpose;
	mine->features &= theirs->features;
	mine->to_slot = theirs->slot;
	mine->to_epoch = theirs->epoch;
	return 0;
}

void peer_error_encode(const struct err_info *info, struct frame_error *out)
{
	memset(out, 0, sizeof(*out));
	out->err = le32_of((uint32_t)-info->err);
	put_text(out->message, info->message, sizeof(out->message));
	put_text(out->object, info->object, sizeof(out->object));
	put_text(out->holder, info->holder, sizeof(out->holder));
}

int peer_error_decode(const struct frame *f, struct err_info *out)
{
	struct frame_error e;
	uint32_t err;

	if (f->bytes != sizeof(e))
		return fail(-EBADMSG, "an error of %u bytes", f->bytes);
	memcpy(&e, f->body, sizeof(e));
	err = le32_get(e.err);
	if (err == 0 || err > ERRNO_MAX)
		return fail(-EBADMSG, "an error without a number");
	out->err = -(int)err;
	take_text(out->message, e.message, sizeof(out->message));
	take_text(out->object, e.object, sizeof(out->object));
	take_text(out->holder, e.holder, sizeof(out->holder));
	return 0;
}

void peer_hints_encode(const uint64_t *vbns, unsigned n, le64 *out)
{
	MUST(n && n <= PEER_HINTS_MAX);
	for (unsigned i = 0; i < n; i++)
		out[i] = le64_of(vbns[i]);
}

int peer_hints_decode(const struct frame *f, uint64_t out[PEER_HINTS_MAX])
{
	unsigned n = f->bytes / 8;
	le64 v;

	if (f->bytes % 8 || !n || n > PEER_HINTS_MAX)
		return fail(-EBADMSG, "hints of %u bytes", f->bytes);
	for (unsigned i = 0; i < n; i++) {
		memcpy(&v, f->body + (size_t)i * 8, 8);
		out[i] = le64_get(v);
	}
	return (int)n;
}

void peer_evict_encode(unsigned slot, uint32_t epoch, struct frame_evict *out)
{
	*out = (struct frame_evict){.slot = le16_of((uint16_t)slot), .epoch = le32_of(epoch)};
}

int peer_evict_decode(const struct frame *f, unsigned *slot, uint32_t *epoch)
{
	struct frame_evict e;

	if (f->bytes != sizeof(e))
		return fail(-EBADMSG, "an evict of %u bytes", f->bytes);
	memcpy(&e, f->body, sizeof(e));
	*slot = le16_get(e.slot);
	*epoch = le32_get(e.epoch);
	if (*slot >= SLOTS_MAX || le16_get(e.reserved))
		return fail(-EBADMSG, "an evict of slot %u", *slot);
	return 0;
}
