// SPDX-License-Identifier: Apache-2.0
/*
 * strangers.c: a small table of addresses. An IPv6 address counts with its whole /64; one of IPv4 that came
 * to an IPv6 socket (::ffff:a.b.c.d) for itself.
 */
#include "host/strangers.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/util.h"

struct entry {
	uint8_t key[17]; /* family, then the address or the /64 */
	bool used, said;
	unsigned failures, pending;
	uint64_t failed_ms; /* last */
	char text[NETADDR_TEXT];
};

struct strangers {
	struct entry entry[STRANGERS_MAX];
	unsigned pending;
	unsigned said; /* bursts, since: */
	uint64_t said_ms;
};

struct strangers *strangers_create(void)
{
	return xcalloc(1, sizeof(struct strangers));
}

void strangers_destroy(struct strangers *s)
{
	free(s);
}

static void key_of(const struct netaddr *a, uint8_t key[17])
{
	const struct in6_addr *v6 = &((const struct sockaddr_in6 *)(const void *)&a->sa)->sin6_addr;
	const struct in_addr *v4 = &((const struct sockaddr_in *)(const void *)&a->sa)->sin_addr;

	memset(key, 0, 17);
	key[0] = (uint8_t)a->sa.ss_family;
	if (a->sa.ss_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(v6)) {
		key[0] = AF_INET;
		memcpy(key + 1, v6->s6_addr + 12, 4);
	} else if (a->sa.ss_family == AF_INET6) {
		memcpy(key + 1, v6, 8);
	} else {
		memcpy(key + 1, v4, 4);
	}
}

static struct entry *find(struct strangers *s, const struct netaddr *from)
{
	uint8_t key[17];

	key_of(from, key);
	for (unsigned i = 0; i < STRANGERS_MAX; i++)
		if (s->entry[i].used && !memcmp(s->entry[i].key, key, sizeof(key)))
			return &s->entry[i];
	return NULL;
}

/* A new one; in a full table that of the longest quiet address with nothing pending. */
static struct entry *make(struct strangers *s, const struct netaddr *from)
{
	struct entry *best = NULL;

	for (unsigned i = 0; i < STRANGERS_MAX; i++) {
		struct entry *e = &s->entry[i];

		if (e->used && e->pending)
			continue;
		if (!best || !e->used || (best->used && e->failed_ms < best->failed_ms))
			best = e;
		if (!e->used)
			break;
	}
	MUST(best); /* fewer are pending than the table holds */
	memset(best, 0, sizeof(*best));
	best->used = true;
	key_of(from, best->key);
	netaddr_format_host(from, best->text);
	return best;
}

int strangers_admit(struct strangers *s, const struct netaddr *from, uint64_t now_ms,
		    unsigned *wait_ms)
{
	struct entry *e = find(s, from);
	unsigned at_once;

	if (s->pending >= STRANGERS_AT_ONCE)
		return -EBUSY;
	if (!e)
		e = make(s, from);
	if (e->failures && now_ms - e->failed_ms >= STRANGER_FORGET_MS)
		e->failures = 0;
	at_once = e->failures ? 2 : STRANGER_AT_ONCE;
	if (e->pending >= at_once)
		return -EBUSY;
	*wait_ms = 0;
	if (e->failures)
		*wait_ms = MIN(STRANGER_WAIT_MS << MIN(e->failures - 1, 10), STRANGER_WAIT_MAX_MS);
	e->pending++;
	s->pending++;
	return 0;
}

/* Who comes from ever new addresses fills no log. */
static bool may_say(struct strangers *s, uint64_t now_ms)
{
	if (!s->said || now_ms - s->said_ms >= STRANGER_FORGET_MS) {
		s->said = 0;
		s->said_ms = now_ms;
	}
	return s->said++ < STRANGERS_SAID;
}

bool strangers_done(struct strangers *s, const struct netaddr *from, uint64_t now_ms, bool proved)
{
	struct entry *e = find(s, from);

	MUST(e && e->pending && s->pending);
	e->pending--;
	s->pending--;
	if (proved) {
		if (!e->failures && !e->pending)
			e->used = false;
		return false;
	}
	e->failures++;
	e->failed_ms = now_ms;
	if (e->failures == 1)
		e->said = may_say(s, now_ms);
	return e->failures == 1 && e->said;
}

bool strangers_forget(struct strangers *s, uint64_t now_ms, char address[NETADDR_TEXT],
		      unsigned *failures)
{
	for (unsigned i = 0; i < STRANGERS_MAX; i++) {
		struct entry *e = &s->entry[i];

		if (!e->used || e->pending || now_ms - e->failed_ms < STRANGER_FORGET_MS)
			continue;
		e->used = false;
		if (!e->failures || !e->said)
			continue;
		*failures = e->failures;
		memcpy(address, e->text, NETADDR_TEXT);
		return true;
	}
	return false;
}
