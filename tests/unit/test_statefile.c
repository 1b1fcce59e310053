// SPDX-License-Identifier: Apache-2.0
/* A guest's memory and state to a file and back; each byte of it that changes is found out, none is believed. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#undef fail /* base/err.h has its own */

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/err.h"
#include "base/util.h"
#include "migrate/memory.h"
#include "migrate/statefile.h"

#define MEMORY (16 * MiB)

struct store { /* a file in memory: what was never written reads as zero */
	uint8_t *bytes;
	uint64_t size, written;
	unsigned fail_after; /* writes; 0: never */
	unsigned chunks;
};

static int store_read(void *arg, void *dst, size_t n, uint64_t offset)
{
	struct store *s = arg;

	if (offset > s->size || n > s->size - offset)
		return fail(-EUCLEAN, "it ends early");
	memcpy(dst, s->bytes + offset, n);
	return 0;
}

static int store_write(void *arg, const void *src, size_t n, uint64_t offset)
{
	struct store *s = arg;

	if (s->fail_after && --s->fail_after == 0)
		return fail(-ENOSPC, "full");
	assert_true(offset + n <= s->size);
	assert_true(n <= MIG_FILE_CHUNK);
	memcpy(s->bytes + offset, src, n);
	s->written += n;
	return 0;
}

static int count(void *arg, uint64_t done, uint64_t total)
{
	struct store *s = arg;

	assert_true(done <= total);
	s->chunks++;
	return 0;
}

/* In the place of lseek(2), which walks over all pages that it passes. */
static unsigned seeks;

off_t lseek(int fd, off_t offset, int whence)
{
	seeks++;
	return syscall(SYS_lseek, fd, offset, whence);
}

struct rig {
	struct store store;
	struct mig_file_io io;
	int memory, back;
	uint8_t *map;
	uint64_t size, sum;
	struct mig_file_parts parts;
};

static int fresh_memory(void)
{
	int fd = memfd_create("guest", MFD_CLOEXEC);

	assert_true(fd >= 0 && ftruncate(fd, MEMORY) == 0);
	return fd;
}

static int set_up(void **state)
{
	struct rig *r = xcalloc(1, sizeof(*r));
	static uint8_t blob[10000];

	r->store.size = 32 * MiB;
	r->store.bytes = xcalloc(1, r->store.size);
	r->io = (struct mig_file_io){
		.read = store_read, .write = store_write, .progress = count, .arg = &r->store};
	r->memory = fresh_memory();
	r->back = fresh_memory();
	r->map = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED, r->memory, 0);
	for (unsigned i = 0; i < sizeof(blob); i++)
		blob[i] = (uint8_t)(i * 7 + 1);
	r->parts = (struct mig_file_parts){
		.meta = "{\"name\": \"g\"}", .meta_bytes = 13, .state = blob, .state_bytes = 10000};
	/* One page, a run over chunks, pages far apart, pages of zeroes that are there, the last one. */
	r->map[5] = 1;
	memset(r->map + MiB - 8192, 2, 3 * 8192);
	for (unsigned i = 0; i < 10; i++)
		r->map[3 * MiB + i * 100000] = 3;
	memset(r->map + 5 * MiB, 0, MiB);
	r->map[MEMORY - 1] = 4;
	assert_int_equal(mig_memory_checksum(r->memory, MEMORY, &r->sum), 0);
	*state = r;
	return 0;
}

static int tear_down(void **state)
{
	struct rig *r = *state;

	munmap(r->map, MEMORY);
	close(r->memory);
	close(r->back);
	free(r->store.bytes);
	free(r);
	return 0;
}

static void write_it(struct rig *r)
{
	assert_int_equal(mig_file_write(&r->io, &r->parts, r->memory, MEMORY, &r->size), 0);
	assert_true(r->size <= r->store.size);
	r->store.size = r->size;
}

static int read_back(struct rig *r)
{
	struct mig_file *f;
	int rc = mig_file_open(&r->io, &f);

	if (rc < 0)
		return rc;
	rc = mig_file_load(f, r->back);
	mig_file_close(f);
	return rc;
}

static void test_there_and_back(void **state)
{
	struct rig *r = *state;
	struct mig_file_parts parts;
	struct mig_file *f;
	struct stat st;
	uint64_t sum;

	write_it(r);
	assert_int_equal(r->store.chunks, MEMORY / MIG_FILE_CHUNK);
	assert_true(r->store.written < 512 * KiB); /* what is zero is not written */
	assert_int_equal(mig_file_open(&r->io, &f), 0);
	assert_int_equal(mig_file_memory(f), MEMORY);
	mig_file_parts(f, &parts);
	assert_int_equal(parts.meta_bytes, r->parts.meta_bytes);
	assert_string_equal(parts.meta, r->parts.meta);
	assert_int_equal(parts.state_bytes, r->parts.state_bytes);
	assert_memory_equal(parts.state, r->parts.state, parts.state_bytes);
	assert_int_equal(mig_file_load(f, r->back), 0);
	mig_file_close(f);
	assert_int_equal(mig_memory_checksum(r->back, MEMORY, &sum), 0);
	assert_int_equal(sum, r->sum);
	assert_int_equal(fstat(r->back, &st), 0);
	assert_true((uint64_t)st.st_blocks * 512 <= 6 * MiB); /* huge pages that are touched */
}

/* Something looks at byte `at` of the file. */
static bool is_looked_at(const struct rig *r, uint64_t at)
{
	const struct mig_file_head *h = (const void *)r->store.bytes;
	const struct mig_file_chunk *index = (const void *)(r->store.bytes + le64_get(h->index_at));
	uint64_t data = le64_get(h->data_at);

	if (at >= data)
		return le32_get(index[(at - data) / MIG_FILE_CHUNK].pages) != 0;
	if (at >= le64_get(h->index_at))
		return at < le64_get(h->index_at) + MEMORY / MIG_FILE_CHUNK * sizeof(*index);
	if (at >= le64_get(h->state_at))
		return at < le64_get(h->state_at) + r->parts.state_bytes;
	return at < le64_get(h->meta_at) + r->parts.meta_bytes;
}

static void test_every_byte_counts(void **state)
{
	struct rig *r = *state;
	unsigned tried = 0;

	write_it(r);
	for (uint64_t at = 0; at < r->size; at += at < MIG_FILE_CHUNK ? 61 : 4096 * 5 + 7) {
		bool looked = is_looked_at(r, at);
		struct err_info e;
		int rc;

		r->store.bytes[at] ^= 0x40;
		rc = read_back(r);
		r->store.bytes[at] ^= 0x40;
		assert_int_equal(rc, looked ? -EUCLEAN : 0);
		if (!looked)
			continue;
		err_save(&e, rc);
		assert_non_null(strstr(e.message, "damaged"));
		tried++;
	}
	assert_true(tried > 200);
	assert_int_equal(read_back(r), 0);
}

static void test_cut_off(void **state)
{
	struct rig *r = *state;
	unsigned writes = 0;

	/* Wherever the writer was stopped: no head, no state. */
	for (writes = 1; writes < 100; writes++) {
		memset(r->store.bytes, 0, r->store.size);
		r->store.fail_after = writes;
		if (mig_file_write(&r->io, &r->parts, r->memory, MEMORY, &r->size) == 0)
			break;
		assert_int_equal(read_back(r), -EUCLEAN);
	}
	assert_in_range(writes, 5, 99);
	r->store.fail_after = 0;
	r->store.size = r->size;
	assert_int_equal(read_back(r), 0);
	/* Or the file is shorter. */
	r->store.size = r->size - 4096;
	assert_int_equal(read_back(r), -EUCLEAN);
	r->store.size = 100;
	assert_int_equal(read_back(r), -EUCLEAN);
}

/* A range of memory is looked for once, however long it is. */
static void test_a_long_range_is_looked_for_once(void **state)
{
	struct rig *r = *state;
	uint64_t sum;

	memset(r->map + MiB, 7, MEMORY - 3 * MiB);
	assert_int_equal(fallocate(r->memory, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096),
			 0);
	assert_int_equal(fallocate(r->memory, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				   8 * MiB + 4096, 3 * MiB),
			 0);
	assert_int_equal(mig_memory_checksum(r->memory, MEMORY, &r->sum), 0);
	seeks = 0;
	write_it(r);
	assert_in_range(seeks, 4, 12); /* 4 ranges at most, 2 for each; and the end */
	assert_int_equal(read_back(r), 0);
	assert_int_equal(mig_memory_checksum(r->back, MEMORY, &sum), 0);
	assert_true(sum == r->sum);
}

static void test_nonsense(void **state)
{
	struct rig *r = *state;
	struct mig_file_parts huge = r->parts;

	assert_int_equal(mig_file_write(&r->io, &r->parts, r->memory, 12345, &r->size), -EINVAL);
	assert_int_equal(mig_file_write(&r->io, &r->parts, r->memory, 0, &r->size), -EINVAL);
	huge.state_bytes = MIG_FILE_STATE_MAX + 1;
	assert_int_equal(mig_file_write(&r->io, &huge, r->memory, MEMORY, &r->size), -EINVAL);
	memset(r->store.bytes, 0xff, r->store.size);
	assert_int_equal(read_back(r), -EUCLEAN);
	memset(r->store.bytes, 0, r->store.size);
	assert_int_equal(read_back(r), -EUCLEAN);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_there_and_back, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_every_byte_counts, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_cut_off, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_a_long_range_is_looked_for_once, set_up,
						tear_down),
		cmocka_unit_test_setup_teardown(test_nonsense, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
