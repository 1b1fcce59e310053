// SPDX-License-Identifier: Apache-2.0
/*
 * What a peer sends, from bytes. First as they are: heads and checksums must hold. Then as a body of
 * each type, sealed as an honest side would, so that the decoders behind the checksums are met too:
 * what they take, encodes to something they take again.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/frame.h"
#include "base/netaddr.h"
#include "base/peer_proto.h"
#include "host/call.h"
#include "host/peers.h"
#include "host/task.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void decode(const struct frame *f)
{
	struct peer_hello hello, mine = {.version_min = PEER_VERSION_MIN,
					 .version_max = PEER_VERSION_MAX,
					 .features = PEER_FEATURES};
	struct frame_hello hello_again;
	struct err_info error;
	struct frame_error error_again;
	uint64_t vbns[PEER_HINTS_MAX];
	uint32_t epoch;
	unsigned slot;
	int n;

	if (f->type == FRAME_HELLO && peer_hello_decode(f, &hello) == 0) {
		struct frame again = *f;

		MUST(memchr(hello.name, 0, sizeof(hello.name)) && hello.slot < 64);
		peer_hello_encode(&hello, &hello_again);
		again.body = (const uint8_t *)&hello_again;
		MUST(peer_hello_decode(&again, &hello) == 0);
		memcpy(mine.volume, hello.volume, sizeof(mine.volume));
		if (peer_hello_answer(&mine, &hello) == 0)
			MUST(mine.version_max >= hello.version_min &&
			     mine.version_max <= hello.version_max &&
			     !(mine.features & ~hello.features));
	}
	if ((f->type == FRAME_BYE || f->flags & FRAME_ERROR) && peer_error_decode(f, &error) == 0) {
		struct frame again = *f;

		MUST(error.err < 0 && memchr(error.message, 0, sizeof(error.message)));
		MUST(err_exit_code(error.err) > 0);
		peer_error_encode(&error, &error_again);
		again.body = (const uint8_t *)&error_again;
		MUST(peer_error_decode(&again, &error) == 0);
	}
	if (f->type == FRAME_WISH || f->type == FRAME_FREED) {
		le64 again[PEER_HINTS_MAX];

		n = peer_hints_decode(f, vbns);
		if (n > 0) {
			peer_hints_encode(vbns, (unsigned)n, again);
			MUST(!memcmp(again, f->body, f->bytes));
		}
	}
	if (f->type == FRAME_EVICT || f->type == FRAME_EVICTED)
		if (peer_evict_decode(f, &slot, &epoch) == 0)
			MUST(slot < 64);
}

static void sealed(uint16_t type, unsigned flags, const uint8_t *data, size_t size)
{
	uint32_t bytes = MIN((uint32_t)size, frame_type_max(type, flags));
	uint8_t *whole = malloc(FRAME_HEAD_BYTES + bytes);
	struct frame_head head;
	struct frame f;

	frame_seal(&head, (enum frame_type)type, flags, 7, data, bytes);
	memcpy(whole, &head, sizeof(head));
	if (bytes)
		memcpy(whole + sizeof(head), data, bytes);
	MUST(frame_length(whole, sizeof(head)) == (int64_t)(sizeof(head) + bytes));
	MUST(frame_parse(whole, sizeof(head) + bytes, &f) == 0);
	MUST(f.type == type && f.flags == flags && f.tag == 7 && f.bytes == bytes);
	decode(&f);
	free(whole);
}

/* A call to be passed on here: nothing runs, but what would is whole. */
static void parse_call(const uint8_t *data, size_t size)
{
	struct host_call *call = xcalloc(1, sizeof(*call));
	uint8_t *whole = malloc(size + 4);
	le32 length = le32_of((uint32_t)size);
	const void *body;
	size_t n;

	call->body_fd = call->answer_fd = -1;
	if (host_peer_call_parse(data, size, call, &body, &n) == 0)
		MUST(call->verb && json_is_object(call->args) && n <= size);
	host_call_free(call);
	call = xcalloc(1, sizeof(*call));
	call->body_fd = call->answer_fd = -1;
	memcpy(whole, &length, 4);
	if (size)
		memcpy(whole + 4, data, size);
	if (host_peer_call_parse(whole, size + 4, call, &body, &n) == 0)
		MUST(call->verb && n == 0 && !json_object_get(call->args, "on"));
	host_call_free(call);
	free(whole);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char text[128], again[NETADDR_TEXT];
	struct netaddr a, b;
	struct frame f;
	int64_t n = frame_length(data, size);

	parse_call(data, size);
	if (n > 0 && (size_t)n <= size && frame_parse(data, (size_t)n, &f) == 0)
		decode(&f);
	for (uint16_t type = 0; type < 128; type++)
		for (unsigned flags = 0; flags < 4; flags++)
			if (flags != FRAME_ERROR && frame_type_max(type, flags))
				sealed(type, flags, data, size);
	memcpy(text, data, MIN(size, sizeof(text) - 1));
	text[MIN(size, sizeof(text) - 1)] = 0;
	if (netaddr_parse(text, 1, &a) == 0) {
		netaddr_format(&a, again);
		MUST(netaddr_parse(again, 2, &b) == 0 && netaddr_port(&a) == netaddr_port(&b));
	}
	return 0;
}
