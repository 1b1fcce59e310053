// SPDX-License-Identifier: Apache-2.0
/*
 * tls.h: TLS 1.3 with a pre-shared key (GnuTLS) on a non-blocking stream socket.
 *
 * Both sides know a secret of 32 bytes; the key is derived from it and a name that goes over the
 * wire in the clear (the PSK identity). A fresh Diffie-Hellman exchange each time: who learns the
 * secret later cannot read what was said before. No certificates, no older version, no tickets, no
 * early data.
 *
 * Nothing blocks: -EAGAIN means, wait until the socket is readable, or writable where
 * tls_wants_write says so, and call the same again. Errors are negative errno with words:
 * -EACCES the other side does not know the secret (or knows another), -ECONNRESET it hung up,
 * -EPROTO what came is no TLS. One thread at a time.
 */
#ifndef BASE_TLS_H
#define BASE_TLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define TLS_KEY_BYTES	   32u
#define TLS_IDENTITY_BYTES 64u /* with its end; printable, 7 bits */

struct tls;

/* key = HMAC-SHA256(secret, "perilune peer v1 " identity): the secret itself never is a key. */
int tls_derive_key(const uint8_t secret[32], const char *identity, uint8_t key[TLS_KEY_BYTES]);

/* The key of an identity that a client names: 0 and filled, or -ENOENT. Called in tls_handshake. */
typedef int (*tls_key_fn)(void *arg, const char *identity, uint8_t key[TLS_KEY_BYTES]);

/*
 * Borrow `fd` until tls_destroy; `key` is copied. `bulk`: much will go over it; the cipher that is faster on this
 * machine is asked for first, which is tried out here (some 100 us, milliseconds where processors are emulated).
 */
int tls_client(struct tls **out, int fd, const char *identity, const uint8_t key[TLS_KEY_BYTES],
	       bool bulk);
int tls_server(struct tls **out, int fd, tls_key_fn key_of, void *arg);
/* Says nothing on the wire, closes nothing. */
void tls_destroy(struct tls *tls);

/* 0 when both sides have proved that they know the key. */
int tls_handshake(struct tls *tls);
/* The identity that was agreed on; "" before. */
const char *tls_identity(const struct tls *tls);
/* The cipher that was agreed on, "AES-128-GCM"; "" before. */
const char *tls_cipher(const struct tls *tls);
/* The last -EAGAIN was for room in the socket. */
bool tls_wants_write(const struct tls *tls);

/*
 * Takes some of the bytes (16 KiB a record at most); -EAGAIN: none. What it took goes out with
 * later calls: after the last tls_send, tls_flush until 0.
 */
ssize_t tls_send(struct tls *tls, const void *data, size_t n);
/* 0 when all that was taken lies in the socket. */
int tls_flush(struct tls *tls);
/* Bytes; -ECONNRESET at the end of the stream. */
ssize_t tls_receive(struct tls *tls, void *data, size_t n);

#endif
