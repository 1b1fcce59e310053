// SPDX-License-Identifier: Apache-2.0
/*
 * tls.c: GnuTLS on a socket that never blocks, with a push and a pull function of our own. A record
 * that did not fit into the socket stays with GnuTLS, which sends it when it is asked again.
 */
#include "base/tls.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/util.h"

/* One version, PSK with ephemeral Diffie-Hellman, ciphers whose hash is that of the binders. */
#define PRIORITY(first, second)                                              \
	"NONE:+VERS-TLS1.3:+ECDHE-PSK:+" first ":+" second ":+AEAD:+SHA256:" \
	"+GROUP-X25519:+GROUP-SECP256R1:+SIGN-ALL:%DISABLE_TLS13_COMPAT_MODE"
#define AES	     "AES-128-GCM"
#define CHACHA	     "CHACHA20-POLY1305"
#define TRIAL_BYTES  (16u * 1024) /* a record */
#define TRIAL_ROUNDS 4
#define LABEL	     "perilune peer v1 "
#define WARNINGS     16u /* alerts in a row that mean nothing, before we hang up */

struct tls {
	gnutls_session_t session;
	gnutls_psk_client_credentials_t client;
	gnutls_psk_server_credentials_t server;
	int fd;
	int io_err; /* negative errno of the socket */
	bool open;
	bool pending; /* a record is with GnuTLS */
	tls_key_fn key_of;
	void *arg;
	bool unknown; /* the identity that the client named is none */
	char identity[TLS_IDENTITY_BYTES];
};

int tls_derive_key(const uint8_t secret[32], const char *identity, uint8_t key[TLS_KEY_BYTES])
{
	char text[sizeof(LABEL) + TLS_IDENTITY_BYTES];
	int n = str_format(text, sizeof(text), LABEL "%s", identity), rc;

	MUST(n > 0);
	rc = gnutls_hmac_fast(GNUTLS_MAC_SHA256, secret, 32, text, (size_t)n, key);
	return rc < 0 ? fail(-EIO, "tls: HMAC: %s", gnutls_strerror(rc)) : 0;
}

/* --- the socket ---------------------------------------------------------------------------------- */

static int map_errno(struct tls *t, int err)
{
	if (err != EAGAIN && err != EINTR)
		t->io_err = -err;
	return err;
}

static ssize_t push(gnutls_transport_ptr_t ptr, const giovec_t *iov, int n)
{
	struct tls *t = ptr;
	struct msghdr msg = {.msg_iov = (struct iovec *)iov, .msg_iovlen = (size_t)n};
	ssize_t sent = sendmsg(t->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);

	if (sent < 0)
		gnutls_transport_set_errno(t->session, map_errno(t, errno));
	return sent;
}

static ssize_t pull(gnutls_transport_ptr_t ptr, void *data, size_t n)
{
	struct tls *t = ptr;
	ssize_t got = recv(t->fd, data, n, MSG_DONTWAIT);

	if (got < 0)
		gnutls_transport_set_errno(t->session, map_errno(t, errno));
	return got;
}

/* --- setting up ---------------------------------------------------------------------------------- */

static int key_wanted(gnutls_session_t session, const gnutls_datum_t *name, gnutls_datum_t *key)
{
	struct tls *t = gnutls_session_get_ptr(session);
	uint8_t bytes[TLS_KEY_BYTES];

	t->unknown = true;
	if (name->size == 0 || name->size >= sizeof(t->identity))
		return -1;
	for (unsigned i = 0; i < name->size; i++)
		if (name->data[i] <= 0x20 || name->data[i] >= 0x7f)
			return -1;
	memcpy(t->identity, name->data, name->size);
	t->identity[name->size] = 0;
	if (t->key_of(t->arg, t->identity, bytes) < 0)
		return -1;
	key->data = gnutls_malloc(sizeof(bytes));
	MUST(key->data);
	memcpy(key->data, bytes, sizeof(bytes));
	key->size = sizeof(bytes);
	explicit_bzero(bytes, sizeof(bytes));
	t->unknown = false;
	return 0;
}

static int set_client(struct tls *t, const char *identity, const uint8_t key[TLS_KEY_BYTES])
{
	gnutls_datum_t k = {.data = (unsigned char *)(uintptr_t)key, .size = TLS_KEY_BYTES};
	int rc = gnutls_psk_allocate_client_credentials(&t->client);

	if (rc == 0)
		rc = gnutls_psk_set_client_credentials(t->client, identity, &k, GNUTLS_PSK_KEY_RAW);
	if (rc == 0)
		rc = gnutls_credentials_set(t->session, GNUTLS_CRD_PSK, t->client);
	return rc;
}

static int set_server(struct tls *t)
{
	int rc = gnutls_psk_allocate_server_credentials(&t->server);

	if (rc == 0) {
		gnutls_psk_set_server_credentials_function2(t->server, key_wanted);
		rc = gnutls_credentials_set(t->session, GNUTLS_CRD_PSK, t->server);
	}
	return rc;
}

/* Best time of a record, ns; UINT64_MAX: it cannot be done. */
static uint64_t try_cipher(gnutls_cipher_algorithm_t cipher, const uint8_t *in, uint8_t *out)
{
	const unsigned key_bytes = (unsigned)gnutls_cipher_get_key_size(cipher);
	const size_t tag_bytes = gnutls_cipher_get_tag_size(cipher);
	gnutls_datum_t key = {.data = (unsigned char *)(uintptr_t)in, .size = key_bytes};
	gnutls_aead_cipher_hd_t h;
	uint64_t best = UINT64_MAX;

	if (gnutls_aead_cipher_init(&h, cipher, &key) < 0)
		return best;
	for (int i = 0; i < TRIAL_ROUNDS; i++) {
		size_t n = TRIAL_BYTES + tag_bytes;
		uint64_t before = clock_boot_ns();

		if (gnutls_aead_cipher_encrypt(h, in, gnutls_cipher_get_iv_size(cipher), NULL, 0,
					       tag_bytes, in, TRIAL_BYTES, out, &n) < 0)
			break;
		best = MIN(best, clock_boot_ns() - before);
	}
	gnutls_aead_cipher_deinit(h);
	return best;
}

/* AES has instructions of its own on most machines; where it has none, or emulated ones, the other is twice as fast. */
static bool chacha_is_faster(void)
{
	cleanup_free uint8_t *in = xcalloc(1, TRIAL_BYTES);
	cleanup_free uint8_t *out = xcalloc(1, TRIAL_BYTES + 64);

	return try_cipher(GNUTLS_CIPHER_CHACHA20_POLY1305, in, out) <
	       try_cipher(GNUTLS_CIPHER_AES_128_GCM, in, out);
}

static int create(struct tls **out, int fd, unsigned role, const char *identity, const uint8_t *key,
		  bool bulk, tls_key_fn key_of, void *arg)
{
	/* The client's order counts, as long as the server does not insist on its own. */
	const char *ciphers = bulk && chacha_is_faster() ? PRIORITY(CHACHA, AES)
							 : PRIORITY(AES, CHACHA);
	struct tls *t = xcalloc(1, sizeof(*t));
	int rc = gnutls_init(&t->session,
			     role | GNUTLS_NONBLOCK | GNUTLS_NO_SIGNAL | GNUTLS_NO_TICKETS);

	t->fd = fd;
	t->key_of = key_of;
	t->arg = arg;
	if (rc == 0) {
		gnutls_session_set_ptr(t->session, t);
		gnutls_transport_set_ptr(t->session, t);
		gnutls_transport_set_vec_push_function(t->session, push);
		gnutls_transport_set_pull_function(t->session, pull);
		gnutls_handshake_set_max_packet_length(t->session, 8192);
		rc = gnutls_priority_set_direct(t->session, ciphers, NULL);
	}
	if (rc == 0)
		rc = role == GNUTLS_CLIENT ? set_client(t, identity, key) : set_server(t);
	if (rc < 0) {
		tls_destroy(t);
		return fail(-EIO, "tls: %s", gnutls_strerror(rc));
	}
	if (identity)
		(void)str_format(t->identity, sizeof(t->identity), "%s", identity);
	*out = t;
	return 0;
}

int tls_client(struct tls **out, int fd, const char *identity, const uint8_t key[TLS_KEY_BYTES],
	       bool bulk)
{
	MUST(strlen(identity) < TLS_IDENTITY_BYTES);
	return create(out, fd, GNUTLS_CLIENT, identity, key, bulk, NULL, NULL);
}

int tls_server(struct tls **out, int fd, tls_key_fn key_of, void *arg)
{
	return create(out, fd, GNUTLS_SERVER, NULL, NULL, false, key_of, arg);
}

void tls_destroy(struct tls *t)
{
	if (!t)
		return;
	if (t->session)
		gnutls_deinit(t->session);
	if (t->client)
		gnutls_psk_free_client_credentials(t->client);
	if (t->server)
		gnutls_psk_free_server_credentials(t->server);
	free(t);
}

const char *tls_identity(const struct tls *t)
{
	return t->open ? t->identity : "";
}

const char *tls_cipher(const struct tls *t)
{
	const char *name = t->open ? gnutls_cipher_get_name(gnutls_cipher_get(t->session)) : NULL;

	return name ? name : "";
}

bool tls_wants_write(const struct tls *t)
{
	return t->open ? t->pending : gnutls_record_get_direction(t->session) == 1;
}

/* --- talking --------------------------------------------------------------------------------------- */

/* Words for a fatal error of GnuTLS. */
static int broken(struct tls *t, int rc)
{
	if (t->io_err)
		return fail(t->io_err, "%s", strerror(-t->io_err));
	if (rc == GNUTLS_E_PREMATURE_TERMINATION)
		return fail(-ECONNRESET, "the other side hung up");
	if (rc == GNUTLS_E_FATAL_ALERT_RECEIVED) {
		const char *alert = gnutls_alert_get_name(gnutls_alert_get(t->session));

		return fail(t->open ? -ECONNRESET : -EACCES, "the other side refuses: %s",
			    alert ? alert : "an unknown alert");
	}
	if (!t->open && t->unknown)
		return fail(-EACCES, "it names no volume of this host");
	if (!t->open && (t->identity[0] || t->client))
		return fail(-EACCES, "it does not know the volume's secret (%s)",
			    gnutls_strerror(rc));
	return fail(-EPROTO, "no TLS 1.3 with a pre-shared key: %s", gnutls_strerror(rc));
}

int tls_handshake(struct tls *t)
{
	int rc;

	if (t->open)
		return 0;
	for (unsigned i = 0; i < WARNINGS; i++) {
		rc = gnutls_handshake(t->session);
		if (rc == 0) {
			t->open = true;
			return 0;
		}
		if (rc == GNUTLS_E_AGAIN)
			return -EAGAIN;
		if (gnutls_error_is_fatal(rc))
			break;
	}
	/* The same for an unknown volume and a wrong secret: a stranger learns nothing. */
	if (t->server && t->identity[0] && !t->io_err)
		(void)gnutls_alert_send(t->session, GNUTLS_AL_FATAL, GNUTLS_A_ACCESS_DENIED);
	return broken(t, rc);
}

int tls_flush(struct tls *t)
{
	ssize_t rc;

	if (!t->pending)
		return 0;
	do
		rc = gnutls_record_send(t->session, NULL, 0);
	while (rc == GNUTLS_E_INTERRUPTED);
	if (rc == GNUTLS_E_AGAIN)
		return -EAGAIN;
	t->pending = false;
	return rc < 0 ? broken(t, (int)rc) : 0;
}

ssize_t tls_send(struct tls *t, const void *data, size_t n)
{
	size_t record = MIN(n, gnutls_record_get_max_size(t->session));
	ssize_t rc = tls_flush(t);

	if (rc < 0)
		return rc;
	do
		rc = gnutls_record_send(t->session, data, record);
	while (rc == GNUTLS_E_INTERRUPTED);
	if (rc == GNUTLS_E_AGAIN) { /* encrypted and kept */
		t->pending = true;
		return (ssize_t)record;
	}
	return rc < 0 ? broken(t, (int)rc) : rc;
}

ssize_t tls_receive(struct tls *t, void *data, size_t n)
{
	ssize_t rc = 0;

	for (unsigned i = 0; i < WARNINGS; i++) {
		rc = gnutls_record_recv(t->session, data, n);
		if (rc > 0)
			return rc;
		if (rc == 0)
			return fail(-ECONNRESET, "the other side hung up");
		if (rc == GNUTLS_E_AGAIN)
			return -EAGAIN;
		if (gnutls_error_is_fatal((int)rc))
			break;
	}
	return broken(t, (int)rc);
}
