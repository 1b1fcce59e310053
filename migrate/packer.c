// SPDX-License-Identifier: Apache-2.0
/* packer.c: ranges of guest memory into frames: pages that are there, and zeroes by name. */
#include "migrate/sender.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "base/peer_stream.h"
#include "migrate/memory.h"

struct table {
	struct mig_range range[MIG_RANGES_MAX];
	unsigned n;
};

struct mig_packer {
	int fd;
	struct table pages, absent;
	uint8_t *data; /* the pages' bytes, MIG_DATA_MAX; more comes to `read` */
	uint32_t bytes;
	uint8_t *read;
	uint8_t head[MIG_TABLE_BYTES(MIG_RANGES_MAX)];
	struct mig_sent sent;
};

struct mig_packer *mig_packer_create(int memory_fd)
{
	struct mig_packer *p = xcalloc(1, sizeof(*p));

	p->fd = memory_fd;
	p->data = xaligned(64, MIG_DATA_MAX);
	p->read = xaligned(64, MIG_DATA_MAX);
	return p;
}

void mig_packer_destroy(struct mig_packer *p)
{
	if (!p)
		return;
	free(p->data);
	free(p->read);
	free(p);
}

void mig_packer_sent(const struct mig_packer *p, struct mig_sent *out)
{
	*out = p->sent;
}

static int send_table(struct mig_packer *p, struct peer_stream *s, enum frame_type type,
		      struct table *t, uint32_t bytes)
{
	int rc = 0;

	if (t->n)
		rc = peer_stream_send(s, type, 0, 0, p->head,
				      mig_ranges_encode(t->range, t->n, p->head), p->data, bytes);
	t->n = 0;
	return rc;
}

static int send_pages(struct mig_packer *p, struct peer_stream *s)
{
	uint32_t bytes = p->bytes;

	p->bytes = 0;
	p->sent.bytes += bytes;
	return send_table(p, s, FRAME_MIG_PAGES, &p->pages, bytes);
}

/* True: the table is full. */
static bool add(struct table *t, uint64_t offset)
{
	struct mig_range *last = t->n ? &t->range[t->n - 1] : NULL;

	if (last && last->offset + last->bytes == offset)
		last->bytes += MIG_PAGE;
	else
		t->range[t->n++] = (struct mig_range){offset, MIG_PAGE};
	return t->n == MIG_RANGES_MAX;
}

static int pack_page(struct mig_packer *p, struct peer_stream *s, uint64_t offset,
		     const uint8_t *page, bool fresh)
{
	if (mig_is_zero(page, MIG_PAGE)) {
		p->sent.zeroes += MIG_PAGE;
		if (!fresh && add(&p->absent, offset))
			return send_table(p, s, FRAME_MIG_ABSENT, &p->absent, 0);
		return 0;
	}
	memcpy(p->data + p->bytes, page, MIG_PAGE);
	p->bytes += MIG_PAGE;
	return add(&p->pages, offset) || p->bytes == MIG_DATA_MAX ? send_pages(p, s) : 0;
}

int mig_packer_send(struct mig_packer *p, struct peer_stream *s, const struct mig_range *range,
		    bool fresh)
{
	int rc = 0;

	for (uint64_t at = 0; rc == 0 && at < range->bytes;) {
		ssize_t n = pread(p->fd, p->read, MIN(range->bytes - at, MIG_DATA_MAX),
				  (off_t)(range->offset + at));

		if (n < (ssize_t)MIG_PAGE)
			return fail(n < 0 ? -errno : -EIO, "guest memory: cannot be read");
		for (ssize_t i = 0; rc == 0 && i + (ssize_t)MIG_PAGE <= n; i += MIG_PAGE) {
			rc = pack_page(p, s, range->offset + at, p->read + i, fresh);
			at += MIG_PAGE;
		}
	}
	return rc;
}

int mig_packer_flush(struct mig_packer *p, struct peer_stream *s)
{
	int rc = send_pages(p, s);

	if (rc == 0)
		rc = send_table(p, s, FRAME_MIG_ABSENT, &p->absent, 0);
	return rc < 0 ? rc : peer_stream_flush(s);
}
