// SPDX-License-Identifier: Apache-2.0
/* frame.c: heads of frames. All that is read here comes from the network: answered, never believed. */
#include "base/frame.h"

#include <errno.h>
#include <string.h>

#include "base/checksum.h"
#include "base/err.h"
#include "base/peer_proto.h"

static_assert(offsetof(struct frame_head, tag) == 0x10, "frame.tag");
static_assert(offsetof(struct frame_head, head_checksum) == 0x20, "frame.head_checksum");
#define HEAD_CHECKED offsetof(struct frame_head, head_checksum)

static const struct {
	uint16_t type;
	uint32_t request_max, answer_max; /* bytes; an error's body is a struct frame_error */
} types[] = {
	{FRAME_HELLO, sizeof(struct frame_hello), 0},
	{FRAME_BYE, sizeof(struct frame_error), 0},
	{FRAME_PING, 8, 0},
	{FRAME_WISH, PEER_HINTS_MAX * 8, 0},
	{FRAME_FREED, PEER_HINTS_MAX * 8, 0},
	{FRAME_EVICT, sizeof(struct frame_evict), 0},
	{FRAME_EVICTED, sizeof(struct frame_evict), 0},
	{FRAME_CALL, PEER_CALL_MAX, FRAME_BODY_MAX},
	{FRAME_MIG_BEGIN, PEER_MIG_BEGIN_MAX, PEER_MIG_BEGIN_MAX},
	{FRAME_MIG_JOIN, 32, 8},
	{FRAME_MIG_PAGES, PEER_MIG_PAGES_MAX, 0},
	{FRAME_MIG_ABSENT, PEER_MIG_PAGES_MAX, 0},
	{FRAME_MIG_ROUND, 8, 8},
	{FRAME_MIG_STATE, PEER_MIG_STATE_MAX, 8},
	{FRAME_MIG_OFFERED, PEER_MIG_STATE_MAX, 8},
	{FRAME_MIG_NET, PEER_MIG_NET_MAX, 8},
	{FRAME_MIG_FRAME, PEER_MIG_FRAME_MAX, 0},
	{FRAME_MIG_STALE, PEER_MIG_PAGES_MAX, 0},
	{FRAME_MIG_POST, 8, 8},
	{FRAME_MIG_WANT, PEER_MIG_WANTS_MAX * 8, 0},
	{FRAME_MIG_WHOLE, 8, 0},
};

uint32_t frame_type_max(uint16_t type, unsigned flags)
{
	for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
		if (types[i].type != type)
			continue;
		if (!(flags & FRAME_ANSWER))
			return types[i].request_max;
		if (flags & FRAME_ERROR)
			return types[i].answer_max ? sizeof(struct frame_error) : 0;
		return types[i].answer_max;
	}
	return 0;
}

/* A type that may come with these flags. */
static bool known(uint16_t type, unsigned flags)
{
	if (flags & ~(FRAME_ANSWER | FRAME_ERROR) || flags == FRAME_ERROR)
		return false;
	return frame_type_max(type, flags) > 0;
}

void frame_seal(struct frame_head *head, enum frame_type type, unsigned flags, uint64_t tag,
		const void *body, uint32_t bytes)
{
	MUST(known((uint16_t)type, flags) && bytes <= frame_type_max((uint16_t)type, flags));
	*head = (struct frame_head){
		.magic = le32_of(FRAME_MAGIC),
		.type = le16_of((uint16_t)type),
		.flags = le16_of((uint16_t)flags),
		.bytes = le32_of(bytes),
		.tag = le64_of(tag),
		.body_checksum = le64_of(checksum64(body, bytes)),
	};
	head->head_checksum = le64_of(checksum64(head, HEAD_CHECKED));
}

int64_t frame_length(const void *bytes, size_t n)
{
	struct frame_head h;
	uint32_t body;

	if (n >= 4 && le32_get(*(const le32 *)bytes) != FRAME_MAGIC)
		return fail(-EBADMSG, "no frame: it begins with %08x",
			    le32_get(*(const le32 *)bytes));
	if (n < sizeof(h))
		return 0;
	memcpy(&h, bytes, sizeof(h));
	if (le64_get(h.head_checksum) != checksum64(&h, HEAD_CHECKED))
		return fail(-EBADMSG, "a frame's head has a wrong checksum");
	if (!known(le16_get(h.type), le16_get(h.flags)) || le32_get(h.reserved))
		return fail(-EBADMSG, "a frame of unknown type %u, flags %x", le16_get(h.type),
			    le16_get(h.flags));
	body = le32_get(h.bytes);
	if (body > frame_type_max(le16_get(h.type), le16_get(h.flags)))
		return fail(-EBADMSG, "a frame of type %u has %u bytes; at most %u are possible",
			    le16_get(h.type), body,
			    frame_type_max(le16_get(h.type), le16_get(h.flags)));
	return (int64_t)sizeof(h) + body;
}

int frame_parse(const void *bytes, size_t n, struct frame *out)
{
	int64_t length = frame_length(bytes, n);
	struct frame_head h;

	if (length < 0)
		return (int)length;
	if (length == 0 || (size_t)length != n)
		return fail(-EBADMSG, "a frame is cut off");
	memcpy(&h, bytes, sizeof(h));
	*out = (struct frame){
		.type = (enum frame_type)le16_get(h.type),
		.flags = le16_get(h.flags),
		.tag = le64_get(h.tag),
		.body = (const uint8_t *)bytes + sizeof(h),
		.bytes = le32_get(h.bytes),
	};
	if (le64_get(h.body_checksum) != checksum64(out->body, out->bytes))
		return fail(-EBADMSG, "a frame's body has a wrong checksum");
	return 0;
}
