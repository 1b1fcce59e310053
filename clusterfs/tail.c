// SPDX-License-Identifier: Apache-2.0
/*
 * tail.c: INV-FS-3. What was answered and is not yet durable lies in a mapped file that outlives the
 * daemon (kill -9 keeps it, a power cut loses it, as a disk's cache). Preallocated, so that a full
 * state directory cannot kill us with SIGBUS in the middle of an answer.
 */
#include "clusterfs/journal.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"

#define TAIL_MAGIC 0x6c6961742e6c6970ULL
#define TAIL_PAGE  4096u

static void tail_path(struct cfs *fs, char *dst, size_t size)
{
	const uint8_t *id = fs->id;

	(void)str_format(dst, size, "%s/tail-%02x%02x%02x%02x%02x%02x%02x%02x",
			 fs->options.state_dir, id[0], id[1], id[2], id[3], id[4], id[5], id[6],
			 id[7]);
}

int cfs_tail_open(struct cfs *fs, struct cfs_tail *tail, bool *matches)
{
	char path[4096];
	uint8_t boot[16];
	void *map;
	int rc;

	*matches = false;
	rc = clock_boot_id(boot);
	if (rc < 0)
		return rc;
	tail_path(fs, path, sizeof(path));
	tail->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (tail->fd < 0)
		return fail(-errno, "%s: %s", path, strerror(errno));
	rc = -posix_fallocate(tail->fd, 0, TAIL_PAGE + CFS_TAIL_BYTES);
	if (rc == 0) {
		map = mmap(NULL, TAIL_PAGE + CFS_TAIL_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED,
			   tail->fd, 0);
		rc = map == MAP_FAILED ? -errno : 0;
	}
	if (rc < 0) {
		close(tail->fd);
		return fail(rc, "%s: %s; the state directory needs 9 MiB for each volume", path,
			    strerror(-rc));
	}
	tail->page = map;
	tail->ring = (uint8_t *)map + TAIL_PAGE;
	*matches = tail->page->magic == TAIL_MAGIC && memcmp(tail->page->volume, fs->id, 16) == 0 &&
		   memcmp(tail->page->boot, boot, 16) == 0 && tail->page->slot == fs->slot &&
		   tail->page->epoch == fs->epoch;
	if (*matches)
		return 0;
	tail->page->magic = 0;
	atomic_store(&tail->page->head, 0);
	atomic_store(&tail->page->durable, 0);
	memcpy(tail->page->volume, fs->id, 16);
	memcpy(tail->page->boot, boot, 16);
	tail->page->slot = fs->slot;
	tail->page->epoch = fs->epoch;
	atomic_thread_fence(memory_order_seq_cst);
	tail->page->magic = TAIL_MAGIC;
	return 0;
}

void cfs_tail_close(struct cfs_tail *tail, bool remove_file, struct cfs *fs)
{
	char path[4096];

	if (!tail->page)
		return;
	if (remove_file) {
		tail_path(fs, path, sizeof(path));
		unlink(path);
	}
	munmap(tail->page, TAIL_PAGE + CFS_TAIL_BYTES);
	close(tail->fd);
	tail->page = NULL;
}

void cfs_tail_put(struct cfs_tail *tail, uint64_t position, const void *data, size_t n)
{
	size_t at = position % CFS_TAIL_BYTES, first = MIN(n, CFS_TAIL_BYTES - at);

	memcpy(tail->ring + at, data, first);
	memcpy(tail->ring, (const uint8_t *)data + first, n - first);
}

void cfs_tail_get(const struct cfs_tail *tail, uint64_t position, void *data, size_t n)
{
	size_t at = position % CFS_TAIL_BYTES, first = MIN(n, CFS_TAIL_BYTES - at);

	memcpy(data, tail->ring + at, first);
	memcpy((uint8_t *)data + first, tail->ring, n - first);
}
