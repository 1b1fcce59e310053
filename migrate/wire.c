// SPDX-License-Identifier: Apache-2.0
/* wire.c: bodies of migration's frames, encoded, decoded, checked. All that is read is from outside. */
#include "migrate/wire.h"

#include <errno.h>
#include <string.h>

#include "base/err.h"
#include "base/peer_proto.h"

static_assert(MIG_TABLE_BYTES(MIG_RANGES_MAX) + MIG_DATA_MAX <= PEER_MIG_PAGES_MAX, "pages");

int mig_ranges_decode(const struct frame *f, uint64_t memory, struct mig_range *out,
		      const uint8_t **data)
{
	struct mig_ranges_head head;
	uint64_t sum = 0, rest;
	unsigned n;

	if (f->bytes < sizeof(head))
		return fail(-EBADMSG, "ranges of %u bytes", f->bytes);
	memcpy(&head, f->body, sizeof(head));
	n = le32_get(head.n);
	if (n == 0 || n > MIG_RANGES_MAX || le32_get(head.reserved) ||
	    f->bytes < MIG_TABLE_BYTES(n))
		return fail(-EBADMSG, "%u ranges in %u bytes", n, f->bytes);
	for (unsigned i = 0; i < n; i++) {
		struct mig_wire_range r;

		memcpy(&r, f->body + MIG_TABLE_BYTES(i), sizeof(r));
		out[i] = (struct mig_range){le64_get(r.offset), le64_get(r.bytes)};
		if (!out[i].bytes || out[i].offset % MIG_PAGE || out[i].bytes % MIG_PAGE ||
		    out[i].offset >= memory || out[i].bytes > memory - out[i].offset)
			return fail(-EBADMSG, "a range of %llu bytes at %llu of %llu",
				    (unsigned long long)out[i].bytes,
				    (unsigned long long)out[i].offset, (unsigned long long)memory);
		sum += out[i].bytes; /* at most MIG_RANGES_MAX times the memory: no overflow */
	}
	rest = f->bytes - MIG_TABLE_BYTES(n);
	if (rest != (f->type == FRAME_MIG_PAGES ? sum : 0) || rest > MIG_DATA_MAX)
		return fail(-EBADMSG, "%llu bytes for ranges of %llu", (unsigned long long)rest,
			    (unsigned long long)sum);
	*data = f->body + MIG_TABLE_BYTES(n);
	return (int)n;
}

uint32_t mig_ranges_encode(const struct mig_range *ranges, unsigned n, uint8_t *out)
{
	const struct mig_ranges_head head = {.n = le32_of(n)};

	MUST(n && n <= MIG_RANGES_MAX);
	memcpy(out, &head, sizeof(head));
	for (unsigned i = 0; i < n; i++) {
		const struct mig_wire_range r = {le64_of(ranges[i].offset),
						 le64_of(ranges[i].bytes)};

		memcpy(out + MIG_TABLE_BYTES(i), &r, sizeof(r));
	}
	return (uint32_t)MIG_TABLE_BYTES(n);
}

int mig_join_decode(const struct frame *f, uint8_t token[MIG_TOKEN_BYTES], unsigned *stream)
{
	static const uint8_t zero[sizeof(((struct mig_join *)0)->reserved)];
	struct mig_join j;

	if (f->bytes != sizeof(j))
		return fail(-EBADMSG, "a join of %u bytes", f->bytes);
	memcpy(&j, f->body, sizeof(j));
	memcpy(token, j.token, MIG_TOKEN_BYTES);
	*stream = le32_get(j.stream);
	if (*stream >= MIG_STREAMS_MAX || memcmp(j.reserved, zero, sizeof(zero)) != 0)
		return fail(-EBADMSG, "a join as stream %u", *stream);
	return 0;
}

void mig_join_encode(const uint8_t token[MIG_TOKEN_BYTES], unsigned stream, struct mig_join *out)
{
	*out = (struct mig_join){.stream = le32_of(stream)};
	memcpy(out->token, token, MIG_TOKEN_BYTES);
}

int mig_offered_decode(const struct frame *f, const uint8_t **baggage, uint32_t *n)
{
	le64 zero;

	if (f->bytes < sizeof(zero))
		return fail(-EBADMSG, "an offer of %u bytes", f->bytes);
	memcpy(&zero, f->body, sizeof(zero));
	if (le64_get(zero))
		return fail(-EBADMSG, "an offer that is not understood");
	*baggage = f->body + sizeof(zero);
	*n = f->bytes - (uint32_t)sizeof(zero);
	return 0;
}

int mig_want_decode(const struct frame *f, uint64_t memory, uint64_t *out)
{
	unsigned n = f->bytes / 8;

	if (f->bytes % 8 || n > PEER_MIG_WANTS_MAX)
		return fail(-EBADMSG, "%u bytes of wishes", f->bytes);
	for (unsigned i = 0; i < n; i++) {
		le64 v;

		memcpy(&v, f->body + 8 * i, sizeof(v));
		out[i] = le64_get(v);
		if (out[i] % MIG_PAGE || out[i] >= memory)
			return fail(-EBADMSG, "a wish for %llu of %llu bytes",
				    (unsigned long long)out[i], (unsigned long long)memory);
	}
	return (int)n;
}

int mig_round_decode(const struct frame *f, uint64_t *round)
{
	le64 v;

	if (f->bytes != sizeof(v))
		return fail(-EBADMSG, "a round of %u bytes", f->bytes);
	memcpy(&v, f->body, sizeof(v));
	*round = le64_get(v);
	return 0;
}

int mig_frame_decode(const struct frame *f, struct mig_net_frame *out)
{
	struct mig_frame_head h;

	if (f->bytes <= sizeof(h))
		return fail(-EBADMSG, "a frame in %u bytes", f->bytes);
	memcpy(&h, f->body, sizeof(h));
	*out = (struct mig_net_frame){.net = le32_get(h.net),
				      .bytes = f->body + sizeof(h),
				      .n = f->bytes - (uint32_t)sizeof(h)};
	if (le32_get(h.bytes) != out->n)
		return fail(-EBADMSG, "a frame of %u bytes in %u", le32_get(h.bytes), f->bytes);
	return 0;
}

int mig_state_decode(const struct frame *f, struct mig_state *out)
{
	struct mig_state_head h;

	if (f->bytes <= sizeof(h))
		return fail(-EBADMSG, "a state of %u bytes", f->bytes);
	memcpy(&h, f->body, sizeof(h));
	if (le32_get(h.flags) & ~MIG_STATE_CHECKSUM || le32_get(h.reserved))
		return fail(-EBADMSG, "a state with flags %x", le32_get(h.flags));
	*out = (struct mig_state){
		.checksum = le64_get(h.checksum),
		.has_checksum = le32_get(h.flags) & MIG_STATE_CHECKSUM,
		.bytes = f->body + sizeof(h),
		.n = f->bytes - (uint32_t)sizeof(h),
	};
	return 0;
}

void mig_state_encode(const struct mig_state *s, struct mig_state_head *out)
{
	*out = (struct mig_state_head){
		.checksum = le64_of(s->checksum),
		.flags = le32_of(s->has_checksum ? MIG_STATE_CHECKSUM : 0),
	};
}
