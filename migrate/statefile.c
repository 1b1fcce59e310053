// SPDX-License-Identifier: Apache-2.0
/* statefile.c: a guest that stands still, to a file and back. */
#include "migrate/statefile.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/checksum.h"
#include "base/err.h"
#include "migrate/memory.h"

#define BLOCK	    4096u
#define CHUNK_PAGES (MIG_FILE_CHUNK / MIG_PAGE)
#define GAP_PAGES \
	16u /* so few pages of zeroes between others are written along: a unit of the volume */
#define MEMORY_MAX  (16ull << 40)
#define INDEX_PIECE (1u << 20)

static bool page_is_zero(const uint8_t *chunk, unsigned page)
{
	return mig_is_zero(chunk + (size_t)page * MIG_PAGE, MIG_PAGE);
}

static uint64_t head_sum(const struct mig_file_head *h)
{
	return checksum64(h, offsetof(struct mig_file_head, sum));
}

/* --- writing --------------------------------------------------------------------------------------- */

struct writer {
	const struct mig_file_io *io;
	int memory_fd;
	uint64_t memory, data_at, pages;
	struct mig_range there; /* the last one that was looked for; behind it nobody has */
	bool all;		/* ... and there is no other */
	struct mig_file_chunk *index;
	uint8_t *chunk;
};

/* w->there is the range that `at` lies in, or the next one. Each is looked for once: lseek walks all of it. */
static int find_range(struct writer *w, uint64_t at)
{
	int rc = 1;

	while (rc == 1 && !w->all && w->there.offset + w->there.bytes <= at)
		rc = mig_memory_next(w->memory_fd, w->memory, at, &w->there);
	w->all |= rc == 0;
	return MIN(rc, 0);
}

static int read_memory(struct writer *w, uint8_t *dst, uint64_t from, uint64_t end)
{
	while (from < end) {
		ssize_t got = pread(w->memory_fd, dst, end - from, (off_t)from);

		if (got <= 0)
			return fail(got < 0 ? -errno : -EIO, "guest memory: cannot be read");
		dst += got;
		from += (uint64_t)got;
	}
	return 0;
}

/* What is there of the chunk at `at`; the rest is zero. 1: something is. */
static int read_chunk(struct writer *w, uint64_t at)
{
	uint64_t end = at + MIG_FILE_CHUNK, from = at, to;
	int any = 0, rc;

	memset(w->chunk, 0, MIG_FILE_CHUNK);
	for (;;) {
		rc = find_range(w, from);
		if (rc < 0 || w->all || w->there.offset >= end)
			return rc < 0 ? rc : any;
		from = MAX(from, w->there.offset);
		to = MIN(end, w->there.offset + w->there.bytes);
		rc = read_memory(w, w->chunk + (from - at), from, to);
		if (rc < 0)
			return rc;
		any = 1;
		from = to;
		if (from == end)
			return any;
	}
}

/* The runs of pages that are not zero. */
static int write_runs(struct writer *w, uint64_t at)
{
	unsigned page = 0, from, to;

	while (page < CHUNK_PAGES) {
		int rc;

		if (page_is_zero(w->chunk, page)) {
			page++;
			continue;
		}
		from = page;
		to = page + 1;
		for (page = to; page < CHUNK_PAGES && page - to < GAP_PAGES; page++)
			if (!page_is_zero(w->chunk, page))
				to = page + 1;
		page = to;
		rc = w->io->write(w->io->arg, w->chunk + (size_t)from * MIG_PAGE,
				  (size_t)(to - from) * MIG_PAGE,
				  w->data_at + at + (uint64_t)from * MIG_PAGE);
		if (rc < 0)
			return rc;
	}
	return 0;
}

static int write_chunk(struct writer *w, uint64_t at)
{
	struct mig_file_chunk *c = &w->index[at / MIG_FILE_CHUNK];
	unsigned pages = 0;
	int rc = read_chunk(w, at);

	if (rc <= 0)
		return rc;
	for (unsigned i = 0; i < CHUNK_PAGES; i++)
		pages += !page_is_zero(w->chunk, i);
	if (!pages)
		return 0;
	c->pages = le32_of(pages);
	c->sum = le64_of(checksum64(w->chunk, MIG_FILE_CHUNK));
	w->pages += pages;
	return write_runs(w, at);
}

static int write_memory(struct writer *w)
{
	int rc = 0;

	for (uint64_t at = 0; rc == 0 && at < w->memory; at += MIG_FILE_CHUNK) {
		rc = write_chunk(w, at);
		if (rc == 0 && w->io->progress)
			rc = w->io->progress(w->io->arg, at + MIG_FILE_CHUNK, w->memory);
	}
	return rc;
}

static int write_part(const struct mig_file_io *io, const void *src, size_t n, uint64_t at)
{
	for (size_t done = 0; done < n;) {
		size_t k = MIN(n - done, INDEX_PIECE);
		int rc = io->write(io->arg, (const uint8_t *)src + done, k, at + done);

		if (rc < 0)
			return rc;
		done += k;
	}
	return 0;
}

static void lay_out(struct mig_file_head *h, const struct mig_file_parts *p, uint64_t memory)
{
	uint64_t at = BLOCK;

	memset(h, 0, sizeof(*h));
	memcpy(h->magic, MIG_FILE_MAGIC, sizeof(h->magic));
	h->version = le32_of(MIG_FILE_VERSION);
	h->chunk = le32_of(MIG_FILE_CHUNK);
	h->memory = le64_of(memory);
	h->meta_bytes = le32_of(p->meta_bytes);
	h->state_bytes = le32_of(p->state_bytes);
	h->meta_at = le64_of(at);
	at += ROUND_UP((uint64_t)p->meta_bytes, BLOCK);
	h->state_at = le64_of(at);
	at += ROUND_UP((uint64_t)p->state_bytes, BLOCK);
	h->index_at = le64_of(at);
	at += memory / MIG_FILE_CHUNK * sizeof(struct mig_file_chunk);
	h->data_at = le64_of(ROUND_UP(at, (uint64_t)MIG_FILE_CHUNK));
}

int mig_file_write(const struct mig_file_io *io, const struct mig_file_parts *p, int memory_fd,
		   uint64_t memory, uint64_t *size)
{
	size_t index_bytes = memory / MIG_FILE_CHUNK * sizeof(struct mig_file_chunk);
	struct mig_file_head *h = xmalloc(sizeof(*h));
	struct writer w = {.io = io, .memory_fd = memory_fd, .memory = memory};
	int rc = 0;

	if (!memory || memory % MIG_FILE_CHUNK || memory > MEMORY_MAX ||
	    p->meta_bytes > MIG_FILE_META_MAX || p->state_bytes > MIG_FILE_STATE_MAX)
		rc = fail(-EINVAL, "a state of %llu bytes of memory, %u and %u bytes beside it",
			  (unsigned long long)memory, p->meta_bytes, p->state_bytes);
	w.index = xcalloc(1, index_bytes + 1);
	w.chunk = xaligned(BLOCK, MIG_FILE_CHUNK);
	if (rc == 0) {
		lay_out(h, p, memory);
		w.data_at = le64_get(h->data_at);
		rc = write_memory(&w);
	}
	if (rc == 0)
		rc = write_part(io, p->meta, p->meta_bytes, le64_get(h->meta_at));
	if (rc == 0)
		rc = write_part(io, p->state, p->state_bytes, le64_get(h->state_at));
	if (rc == 0)
		rc = write_part(io, w.index, index_bytes, le64_get(h->index_at));
	if (rc == 0) {
		h->pages = le64_of(w.pages);
		h->meta_sum = le64_of(checksum64(p->meta, p->meta_bytes));
		h->state_sum = le64_of(checksum64(p->state, p->state_bytes));
		h->index_sum = le64_of(checksum64(w.index, index_bytes));
		h->sum = le64_of(head_sum(h));
		rc = io->write(io->arg, h, sizeof(*h), 0);
		*size = w.data_at + memory;
	}
	free(w.chunk);
	free(w.index);
	free(h);
	return rc;
}

/* --- reading --------------------------------------------------------------------------------------- */

struct mig_file {
	struct mig_file_io io;
	struct mig_file_head head;
	uint64_t memory;
	struct mig_file_chunk *index;
	uint8_t *meta, *state;
};

static int damaged(const char *what)
{
	return fail(-EUCLEAN, "the saved state is damaged: %s; it is not used", what);
}

static int check_head(const struct mig_file_head *h)
{
	uint64_t memory = le64_get(h->memory);
	struct mig_file_parts p = {.meta_bytes = le32_get(h->meta_bytes),
				   .state_bytes = le32_get(h->state_bytes)};
	struct mig_file_head want;

	if (memcmp(h->magic, MIG_FILE_MAGIC, sizeof(h->magic)) != 0)
		return damaged("it has no head");
	if (le64_get(h->sum) != head_sum(h))
		return damaged("its head's checksum is wrong");
	if (le32_get(h->version) > MIG_FILE_VERSION)
		return fail(
			-EPROTONOSUPPORT,
			"the saved state has version %u, this release reads %u; use a newer one",
			le32_get(h->version), MIG_FILE_VERSION);
	if (!memory || memory % MIG_FILE_CHUNK || memory > MEMORY_MAX ||
	    p.meta_bytes > MIG_FILE_META_MAX || p.state_bytes > MIG_FILE_STATE_MAX)
		return damaged("its head has sizes that cannot be");
	lay_out(&want, &p, memory);
	if (memcmp(h, &want, offsetof(struct mig_file_head, pages)) != 0 ||
	    memcmp(&h->meta_at, &want.meta_at,
		   offsetof(struct mig_file_head, meta_sum) -
			   offsetof(struct mig_file_head, meta_at)) != 0)
		return damaged("its head has places that cannot be");
	return 0;
}

static int read_part(struct mig_file *f, size_t n, uint64_t at, uint64_t sum, const char *what,
		     uint8_t **out)
{
	uint8_t *p = xmalloc(n + 1);
	int rc = 0;

	*out = p;
	p[n] = 0;
	for (size_t done = 0; done < n && rc == 0; done += INDEX_PIECE)
		rc = f->io.read(f->io.arg, p + done, MIN(n - done, INDEX_PIECE), at + done);
	if (rc == 0 && checksum64(p, n) != sum)
		rc = damaged(what);
	return rc;
}

/* What the chunks say of themselves adds up. */
static int check_index(const struct mig_file *f)
{
	uint64_t pages = 0;

	for (uint64_t i = 0; i < f->memory / MIG_FILE_CHUNK; i++) {
		if (le32_get(f->index[i].pages) > CHUNK_PAGES)
			return damaged("its index");
		pages += le32_get(f->index[i].pages);
	}
	return pages == le64_get(f->head.pages) ? 0 : damaged("its index");
}

int mig_file_open(const struct mig_file_io *io, struct mig_file **out)
{
	struct mig_file *f = xcalloc(1, sizeof(*f));
	struct mig_file_head *h = &f->head;
	uint8_t *index = NULL;
	int rc = io->read(io->arg, h, sizeof(*h), 0);

	f->io = *io;
	if (rc == 0)
		rc = check_head(h);
	f->memory = le64_get(h->memory);
	if (rc == 0)
		rc = read_part(f, le32_get(h->meta_bytes), le64_get(h->meta_at),
			       le64_get(h->meta_sum), "what it says of the VM", &f->meta);
	if (rc == 0)
		rc = read_part(f, le32_get(h->state_bytes), le64_get(h->state_at),
			       le64_get(h->state_sum), "the machine's state", &f->state);
	if (rc == 0)
		rc = read_part(f, f->memory / MIG_FILE_CHUNK * sizeof(struct mig_file_chunk),
			       le64_get(h->index_at), le64_get(h->index_sum), "its index", &index);
	f->index = (struct mig_file_chunk *)(void *)index;
	if (rc == 0)
		rc = check_index(f);
	if (rc < 0)
		mig_file_close(f);
	else
		*out = f;
	return rc;
}

void mig_file_close(struct mig_file *f)
{
	if (!f)
		return;
	free(f->index);
	free(f->meta);
	free(f->state);
	free(f);
}

uint64_t mig_file_memory(const struct mig_file *f)
{
	return f->memory;
}

void mig_file_parts(const struct mig_file *f, struct mig_file_parts *out)
{
	*out = (struct mig_file_parts){.meta = f->meta,
				       .state = f->state,
				       .meta_bytes = le32_get(f->head.meta_bytes),
				       .state_bytes = le32_get(f->head.state_bytes)};
}

static int load_chunk(struct mig_file *f, uint64_t at, uint8_t *chunk, uint8_t *memory)
{
	const struct mig_file_chunk *c = &f->index[at / MIG_FILE_CHUNK];
	int rc;

	if (!le32_get(c->pages))
		return 0;
	rc = f->io.read(f->io.arg, chunk, MIG_FILE_CHUNK, le64_get(f->head.data_at) + at);
	if (rc < 0)
		return rc;
	if (checksum64(chunk, MIG_FILE_CHUNK) != le64_get(c->sum))
		return fail(-EUCLEAN,
			    "the saved state is damaged: memory from byte %llu on; it is not used",
			    (unsigned long long)at);
	for (unsigned i = 0; i < CHUNK_PAGES; i++)
		if (!page_is_zero(chunk, i))
			memcpy(memory + at + (size_t)i * MIG_PAGE, chunk + (size_t)i * MIG_PAGE,
			       MIG_PAGE);
	return 0;
}

int mig_file_load(struct mig_file *f, int memory_fd)
{
	uint8_t *map = mmap(NULL, f->memory, PROT_READ | PROT_WRITE, MAP_SHARED, memory_fd, 0);
	uint8_t *chunk;
	int rc = 0;

	if (map == MAP_FAILED)
		return fail(-errno, "guest memory: cannot be mapped: %s", strerror(errno));
	(void)madvise(map, f->memory, MADV_HUGEPAGE);
	(void)madvise(map, f->memory, MADV_DONTDUMP);
	chunk = xaligned(BLOCK, MIG_FILE_CHUNK);
	for (uint64_t at = 0; rc == 0 && at < f->memory; at += MIG_FILE_CHUNK) {
		rc = load_chunk(f, at, chunk, map);
		if (rc == 0 && f->io.progress)
			rc = f->io.progress(f->io.arg, at + MIG_FILE_CHUNK, f->memory);
	}
	free(chunk);
	munmap(map, f->memory);
	return rc;
}
