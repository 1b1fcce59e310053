// SPDX-License-Identifier: Apache-2.0
/* streams.h: two ends of a peer's stream over a real socket, made as hosts make them. */
#ifndef TESTS_LIB_STREAMS_H
#define TESTS_LIB_STREAMS_H

struct peer_stream;

/* Ends the test's process when it cannot be made. */
void streams_pair(struct peer_stream **client, struct peer_stream **server);

#endif
