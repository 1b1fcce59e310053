// SPDX-License-Identifier: Apache-2.0
/* util.c: allocation that cannot fail, scope clean-up, sizes, MUST. Called by everyone. */
#include "base/util.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

void must_failed(const char *cond, const char *file, int line)
{
	fprintf(stderr, "perilune: %s:%d: broken invariant: %s\n", file, line, cond);
	abort();
}

void util_free(void *pp)
{
	free(*(void **)pp);
}

void util_close(int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

static void *checked(void *p)
{
	if (!p) {
		fprintf(stderr, "perilune: out of memory\n");
		abort();
	}
	return p;
}

void *xmalloc(size_t size)
{
	return checked(malloc(size ? size : 1));
}

void *xcalloc(size_t n, size_t size)
{
	return checked(calloc(n ? n : 1, size ? size : 1));
}

void *xrealloc(void *p, size_t size)
{
	return checked(realloc(p, size ? size : 1));
}

char *xstrdup(const char *s)
{
	return checked(strdup(s));
}

char *xasprintf(const char *fmt, ...)
{
	va_list ap;
	char *s = NULL;
	int n;

	va_start(ap, fmt);
	n = vasprintf(&s, fmt, ap);
	va_end(ap);
	return checked(n < 0 ? NULL : s);
}

void *xaligned(size_t align, size_t size)
{
	void *p = NULL;

	if (posix_memalign(&p, align, ROUND_UP(size ? size : 1, align)))
		p = NULL;
	checked(p);
	memset(p, 0, size);
	return p;
}

int str_format(char *dst, size_t size, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(dst, size, fmt, ap);
	va_end(ap);
	if (n < 0 || (size_t)n >= size)
		return -ENAMETOOLONG;
	return n;
}

int parse_size(const char *s, uint64_t *bytes)
{
	static const char units[] = "KMGT";
	unsigned long long v;
	unsigned shift = 0;
	char *end;

	if (!s || *s < '0' || *s > '9')
		return -EINVAL;
	errno = 0;
	v = strtoull(s, &end, 10);
	if (errno)
		return -EINVAL;
	if (*end) {
		const char *u = strchr(units, *end >= 'a' ? *end - 32 : *end);

		if (!u)
			return -EINVAL;
		shift = 10 * (unsigned)(u - units + 1);
		end++;
		if (*end == 'i')
			end++;
		if (*end == 'B' || *end == 'b')
			end++;
		if (*end)
			return -EINVAL;
	}
	if (shift && v >> (64 - shift))
		return -EINVAL;
	*bytes = v << shift;
	return 0;
}

void random_bytes(void *dst, size_t n)
{
	uint8_t *p = dst;

	while (n) {
		ssize_t got = getrandom(p, n, 0);

		if (got < 0) {
			MUST(errno == EINTR);
			continue;
		}
		p += got;
		n -= (size_t)got;
	}
}
