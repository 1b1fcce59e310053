// SPDX-License-Identifier: Apache-2.0
/* kernel_probe.c: what ioctls, sysfs and device-mapper say of a block device. */
#include "blockdev/kernel.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/dm-ioctl.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <linux/major.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/err.h"
#include "base/log.h"

#define MAX_TRANSFER (4 * MiB)

/* One line of /sys/dev/block/MAJOR:MINOR/NAME, without its end and blanks; false: there is none. */
static bool sysfs(dev_t dev, const char *name, char *dst, size_t size)
{
	char path[128];
	FILE *f;
	char *line;

	(void)str_format(path, sizeof(path), "/sys/dev/block/%u:%u/%s", major(dev), minor(dev),
			 name);
	f = fopen(path, "re");
	if (!f)
		return false;
	line = fgets(dst, (int)size, f);
	fclose(f);
	if (!line)
		return false;
	for (size_t n = strlen(dst); n && isspace((unsigned char)dst[n - 1]);)
		dst[--n] = 0;
	return dst[0] != 0;
}

static uint64_t sysfs_number(dev_t dev, const char *name)
{
	char text[64];

	return sysfs(dev, name, text, sizeof(text)) ? strtoull(text, NULL, 10) : 0;
}

int kernel_size(int fd, struct blk_info *info)
{
	uint64_t size;

	if (ioctl(fd, BLKGETSIZE64, &size) < 0)
		return fail(-errno, "LUN %s: size: %s", info->name, strerror(errno));
	info->size = ROUND_DOWN(size, (uint64_t)info->block_size);
	return 0;
}

int kernel_geometry(int fd, dev_t dev, struct blk_info *info)
{
	uint64_t max = sysfs_number(dev, "queue/max_sectors_kb") * 1024;
	unsigned physical;
	char cache[64];
	int block;

	if (ioctl(fd, BLKSSZGET, &block) < 0 || ioctl(fd, BLKPBSZGET, &physical) < 0)
		return fail(-errno, "LUN %s: geometry: %s", info->name, strerror(errno));
	if (block != 512 && block != 4096)
		return fail(-EINVAL, "LUN %s: logical blocks of %d bytes; 512 and 4096 are known",
			    info->name, block);
	info->block_size = (uint32_t)block;
	info->physical_block_size = MAX(physical, info->block_size);
	/* The kernel splits by itself; far larger pieces only make its queue uneven. */
	info->max_transfer = (uint32_t)MAX(MIN(max, MAX_TRANSFER), MiB);
	info->unmap = sysfs_number(dev, "queue/discard_max_bytes") > 0;
	info->write_same = sysfs_number(dev, "queue/write_zeroes_max_bytes") > 0;
	info->discard_granularity = (uint32_t)sysfs_number(dev, "queue/discard_granularity");
	info->write_cache = !sysfs(dev, "queue/write_cache", cache, sizeof(cache)) ||
			    strcmp(cache, "write through") != 0;
	return kernel_size(fd, info);
}

bool kernel_loop_identity(int fd, dev_t dev, struct blk_info *info)
{
	struct loop_info64 loop;

	if (major(dev) != LOOP_MAJOR || ioctl(fd, LOOP_GET_STATUS64, &loop) < 0)
		return false;
	(void)str_format(info->id, sizeof(info->id), "loop.%llx-%llx",
			 (unsigned long long)loop.lo_device, (unsigned long long)loop.lo_inode);
	return true;
}

int kernel_sysfs_identity(dev_t dev, struct blk_info *info)
{
	char text[72], *p;

	if (!sysfs(dev, "wwid", text, sizeof(text)) &&
	    !sysfs(dev, "device/wwid", text, sizeof(text))) {
		char serial[64];

		if (!sysfs(dev, "serial", serial, sizeof(serial)))
			return -ENODATA;
		(void)str_format(text, sizeof(text), "serial.%s", serial);
	}
	for (p = text; *p; p++)
		if (!isalnum((unsigned char)*p) && *p != '.' && *p != '-')
			*p = '_';
	(void)str_format(info->id, sizeof(info->id), "%s", text);
	return 0;
}

/* The table of a device-mapper device in words, or "". */
static void dm_table(dev_t dev, char *dst, size_t size)
{
	struct {
		struct dm_ioctl head;
		char data[8192];
	} *io = xcalloc(1, sizeof(*io));
	int fd = open("/dev/mapper/control", O_RDWR | O_CLOEXEC);

	dst[0] = 0;
	io->head.version[0] = DM_VERSION_MAJOR;
	io->head.data_size = sizeof(*io);
	io->head.data_start = sizeof(io->head);
	io->head.dev = dev;
	io->head.flags = DM_STATUS_TABLE_FLAG;
	if (fd >= 0 && ioctl(fd, DM_TABLE_STATUS, io) == 0 && io->head.target_count > 0) {
		const struct dm_target_spec *spec = (const void *)io->data;

		(void)str_format(dst, size, "%s %s", spec->target_type, io->data + sizeof(*spec));
	}
	if (fd >= 0)
		close(fd);
	free(io);
}

void kernel_warn_queueing(dev_t dev, const char *name)
{
	char uuid[160], table[4096];

	if (!sysfs(dev, "dm/uuid", uuid, sizeof(uuid)) || strncmp(uuid, "mpath-", 6) != 0)
		return;
	dm_table(dev, table, sizeof(table));
	if (strstr(table, "queue_if_no_path"))
		log_warn("blk",
			 "LUN %s: its multipath map has queue_if_no_path: with all paths lost the "
			 "kernel keeps requests for ever, and so stalls every VM on it; set "
			 "no_path_retry fail (and fast_io_fail_tmo) in multipath.conf",
			 name);
}
