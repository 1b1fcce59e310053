// SPDX-License-Identifier: Apache-2.0
/* lun.c: file LUNs for tests. */
#include "tests/lib/lun.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/util.h"

char *lun_make(uint64_t size)
{
	const char *dir = getenv("TEST_DIR");
	char *path = xasprintf("%s/perilune-lun-XXXXXX", dir ? dir : "/var/tmp");
	int fd = mkstemp(path);

	MUST(fd >= 0);
	MUST(ftruncate(fd, (off_t)size) == 0);
	close(fd);
	return path;
}

void lun_remove(char *path)
{
	unlink(path);
	free(path);
}

void lun_pattern(void *buf, uint64_t n, uint64_t seed)
{
	uint64_t *p = buf, x = seed * 0x9e3779b97f4a7c15ULL + 1;

	for (uint64_t i = 0; i < n / 8; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		p[i] = x;
	}
}

int lun_put(void *arg, uint64_t offset, const void *data, uint64_t length)
{
	static const uint8_t zeroes[65536];
	int fd = *(int *)arg;

	while (length) {
		uint64_t n = data ? length : MIN(length, sizeof(zeroes));

		if (pwrite(fd, data ? data : zeroes, n, (off_t)offset) != (ssize_t)n)
			return -EIO;
		offset += n;
		length -= n;
		if (data)
			data = (const uint8_t *)data + n;
	}
	return 0;
}
