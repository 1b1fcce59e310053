// SPDX-License-Identifier: Apache-2.0
/*
 * A saved state as a volume may hand it back: as it is; and with its checksums made right, so that what is behind
 * them is reached. Nothing outside of the guest's memory is written, and no more memory taken than the file says it has.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/checksum.h"
#include "base/err.h"
#include "migrate/statefile.h"

#define MEMORY_MOST (64u << 20)

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

struct input {
	uint8_t *at;
	size_t n;
};

static int read_it(void *arg, void *dst, size_t n, uint64_t offset)
{
	const struct input *in = arg;

	if (offset > UINT32_MAX || n > UINT32_MAX)
		return fail(-22, "behind its end");
	memset(dst, 0, n);
	if (offset < in->n)
		memcpy(dst, in->at + offset, MIN(n, in->n - (size_t)offset));
	return 0;
}

static int write_it(void *arg, const void *src, size_t n, uint64_t offset)
{
	(void)arg, (void)src, (void)n, (void)offset;
	return fail(-30, "read only");
}

static void try_it(struct input *in)
{
	const struct mig_file_io io = {.read = read_it, .write = write_it, .arg = in};
	struct mig_file *f;
	int fd;

	if (mig_file_open(&io, &f) < 0)
		return;
	fd = memfd_create("guest", MFD_CLOEXEC);
	if (mig_file_memory(f) <= MEMORY_MOST && fd >= 0 &&
	    ftruncate(fd, (off_t)mig_file_memory(f)) == 0)
		(void)mig_file_load(f, fd);
	if (fd >= 0)
		close(fd);
	mig_file_close(f);
}

static uint64_t sum_of(const struct input *in, uint64_t at, uint64_t n)
{
	return at <= in->n && n <= in->n - at ? checksum64(in->at + at, (size_t)n) : 0;
}

/* The first chunks, as they read. */
static void seal_chunks(struct input *in, const struct mig_file_head *h)
{
	uint64_t at = le64_get(h->index_at), n = MIN(le64_get(h->memory) / MIG_FILE_CHUNK, 2u);
	uint8_t *chunk = malloc(MIG_FILE_CHUNK);

	for (uint64_t i = 0; i < n && at < in->n && in->n - at >= (i + 1) * 16; i++) {
		le64 sum;

		if (read_it(in, chunk, MIG_FILE_CHUNK, le64_get(h->data_at) + i * MIG_FILE_CHUNK) <
		    0)
			break;
		sum = le64_of(checksum64(chunk, MIG_FILE_CHUNK));
		memcpy(in->at + at + i * 16, &sum, sizeof(sum));
	}
	free(chunk);
}

static void seal(struct input *in)
{
	struct mig_file_head *h = (void *)in->at;

	if (in->n < sizeof(*h))
		return;
	memcpy(h->magic, MIG_FILE_MAGIC, sizeof(h->magic));
	seal_chunks(in, h);
	h->meta_sum = le64_of(sum_of(in, le64_get(h->meta_at), le32_get(h->meta_bytes)));
	h->state_sum = le64_of(sum_of(in, le64_get(h->state_at), le32_get(h->state_bytes)));
	h->index_sum = le64_of(
		sum_of(in, le64_get(h->index_at), le64_get(h->memory) / MIG_FILE_CHUNK * 16));
	h->sum = le64_of(checksum64(h, offsetof(struct mig_file_head, sum)));
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	struct input in = {.at = malloc(size + 1), .n = size};

	/* Huge ones only cost time: memory for an index is taken by what the head says. */
	if (size >= 0x18 && (bytes[0x14] || bytes[0x15] || bytes[0x16] || bytes[0x17]))
		goto out;
	if (size)
		memcpy(in.at, bytes, size);
	try_it(&in);
	seal(&in);
	try_it(&in);
out:
	free(in.at);
	err_clear();
	return 0;
}
