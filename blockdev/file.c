// SPDX-License-Identifier: Apache-2.0
/*
 * file.c: a file as a LUN, for one machine. O_DIRECT and io_uring for data, OFD locks for
 * compare-and-write and for the hosts' fence (DESIGN 7). The LUN's id is device and inode: the
 * same for every process of the machine, and across restarts.
 *
 * Two open files: `fd` carries all data I/O and the host's slot lock, so that the lock falls only
 * when the last request in flight has let go of it; casfile has its own, because OFD locks exclude
 * open files from each other, not requests of one.
 */
#include "blockdev/node.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "base/log.h"
#include "blockdev/casfile.h"
#include "blockdev/uring.h"

#define MAX_TRANSFER (4 * MiB)

struct blk_file {
	struct blk node;
	int fd;
	struct casfile *cas;
};

static struct blk_file *of(struct blk *blk)
{
	return container_of(blk, struct blk_file, node);
}

static void file_submit(struct blk_chan *chan, struct blk_req *req)
{
	struct blk_file *file = of(chan->blk);

	if (uring_submit(chan, req, file->fd))
		return;
	if (req->op == BLK_DISCARD && chan->blk->info.unmap)
		uring_fallocate(chan, req, file->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				NULL);
	else if (req->op == BLK_DISCARD)
		blk_complete(req, -EOPNOTSUPP);
	else if (file->cas)
		casfile_submit(file->cas, chan, req);
	else
		blk_complete(req, -EROFS);
}

static int file_host_lock(struct blk *blk, unsigned slot, bool lock)
{
	return casfile_host_lock(blk, of(blk)->fd, slot, lock);
}

/* Memory and offset alignment that O_DIRECT wants: the logical block under the file system. */
static uint32_t direct_align(int fd, bool direct)
{
	struct statx stx;

	if (direct && statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &stx) == 0 &&
	    (stx.stx_mask & STATX_DIOALIGN) && stx.stx_dio_offset_align > 512)
		return stx.stx_dio_offset_align;
	return 512;
}

/* Before Linux 6.1 STATX_DIOALIGN is not there: a read of 512 bytes tells. */
static uint32_t tried_align(int fd, uint32_t align)
{
	uint8_t *buf = xaligned(4096, 4096);
	ssize_t n = pread(fd, buf + 512, 512, 512);

	if (n < 0 && errno == EINVAL)
		align = 4096;
	free(buf);
	return align;
}

static int file_rescan(struct blk *blk)
{
	struct stat st;

	if (fstat(of(blk)->fd, &st) < 0)
		return fail(-errno, "LUN %s: %s", blk->info.name, strerror(errno));
	blk_set_size(blk, ROUND_DOWN((uint64_t)st.st_size, (uint64_t)blk->info.block_size));
	return 0;
}

/* Tried far behind the end, where it changes nothing, and nothing is by the time it is done, if another host lets the file grow. */
static bool can_punch(int fd, off_t end)
{
	int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
	off_t far = ROUND_UP(end, 4096) + (off_t)TiB;

	if (fallocate(fd, mode, far, 4096) == 0)
		return true;
	return errno == EFBIG && fallocate(fd, mode, ROUND_UP(end, 4096), 4096) == 0;
}

static int probe(struct blk_file *file, bool direct)
{
	struct blk_info *info = &file->node.info;
	const char *force = file->node.options.force_id;
	uint32_t want = file->node.options.block_size;
	struct stat st;

	if (fstat(file->fd, &st) < 0)
		return fail(-errno, "LUN %s: %s", info->name, strerror(errno));
	info->block_size = direct_align(file->fd, direct);
	if (direct && info->block_size == 512)
		info->block_size = tried_align(file->fd, 512);
	if (want && want != 512 && want != 4096)
		return fail(-EINVAL, "LUN %s: a logical block is 512 or 4096 bytes, not %u",
			    info->name, want);
	if (want && want < info->block_size)
		return fail(-EINVAL, "LUN %s: its file system asks for blocks of %u bytes",
			    info->name, info->block_size);
	info->block_size = MAX(want, info->block_size);
	if (info->block_size > 4096)
		return fail(-EINVAL,
			    "LUN %s: its file system asks for blocks of %u bytes; 512 and 4096 are "
			    "supported",
			    info->name, info->block_size);
	info->physical_block_size = MAX(4096u, info->block_size);
	info->kind = BLK_FILE;
	info->max_transfer = MAX_TRANSFER;
	info->write_cache = true;
	info->unmap = !file->node.options.read_only && can_punch(file->fd, st.st_size);
	info->zeroes_after_unmap = info->unmap;
	info->write_same = info->unmap;
	info->discard_granularity = info->unmap ? (uint32_t)st.st_blksize : 0;
	if (force)
		(void)str_format(info->id, sizeof(info->id), "%s", force);
	else
		(void)str_format(info->id, sizeof(info->id), "file.%llx-%llx",
				 (unsigned long long)st.st_dev, (unsigned long long)st.st_ino);
	return file_rescan(&file->node);
}

static void file_close(struct blk *blk)
{
	struct blk_file *file = of(blk);

	casfile_destroy(file->cas);
	if (file->fd >= 0)
		close(file->fd);
}

static const struct blk_ops file_ops = {
	.close = file_close,
	.rescan = file_rescan,
	.submit = file_submit,
	.host_lock = file_host_lock,
};

static int open_direct(const char *name, int flags, bool *direct)
{
	int fd = open(name, flags | O_DIRECT | O_CLOEXEC);

	*direct = fd >= 0;
	if (fd < 0 && errno == EINVAL) { /* tmpfs; the page cache is one for the whole machine */
		log_warn("blk", "LUN %s: its file system has no O_DIRECT; using the page cache",
			 name);
		fd = open(name, flags | O_CLOEXEC);
	}
	if (fd < 0)
		return fail(-errno, "LUN %s: %s", name, strerror(errno));
	return fd;
}

int blk_file_open(const char *name, const struct blk_options *options, struct blk **out)
{
	struct blk_file *file = xcalloc(1, sizeof(*file));
	int flags = options->read_only ? O_RDONLY : O_RDWR, fd, rc;
	bool direct;

	blk_node_init(&file->node, &file_ops, name, options);
	rc = file->fd = open_direct(name, flags, &direct);
	if (rc >= 0)
		rc = probe(file, direct);
	if (rc == 0 && !options->read_only) {
		rc = fd = open_direct(name, flags, &direct);
		if (fd >= 0) {
			rc = casfile_create(&file->cas, &file->node, fd);
			if (rc < 0)
				close(fd);
		}
		file->node.info.cas = BLK_CAS_FILE;
	}
	if (rc == 0)
		rc = blk_node_start(&file->node);
	if (rc < 0) {
		blk_node_free(&file->node);
		return rc;
	}
	*out = &file->node;
	return 0;
}
