// SPDX-License-Identifier: Apache-2.0
/*
 * signature.c: partition tables, file systems and disk images, by the magic bytes that their own
 * documents name. For format, which would rather refuse once too often.
 */
#include "clusterfs/signature.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/util.h"
#include "blockdev/blk.h"

#define FRONT (2 * MiB)
#define TAIL  (256 * KiB)

static const struct {
	uint32_t at; /* bytes from the start */
	const char *magic;
	uint8_t n;
	const char *what;
} front[] = {
	{512, "EFI PART", 8, "a GPT partition table"},
	{4096, "EFI PART", 8, "a GPT partition table"},
	{1080, "\x53\xef", 2, "an ext2/3/4 file system"},
	{0, "XFSB", 4, "an XFS file system"},
	{0x10040, "_BHRfS_M", 8, "a btrfs file system"},
	{3, "NTFS    ", 8, "an NTFS file system"},
	{3, "EXFAT   ", 8, "an exFAT file system"},
	{3, "ReFS", 4, "a ReFS file system"},
	{54, "FAT1", 4, "a FAT file system"},
	{82, "FAT32", 5, "a FAT file system"},
	{536, "LVM2 001", 8, "an LVM physical volume"},
	{24, "LVM2 001", 8, "an LVM physical volume"},
	{1048, "LVM2 001", 8, "an LVM physical volume"},
	{1560, "LVM2 001", 8, "an LVM physical volume"},
	{0, "LUKS\xba\xbe", 6, "a LUKS container"},
	{4096, "\xfc\x4e\x2b\xa9", 4, "a member of a Linux RAID"},
	{0, "\xfc\x4e\x2b\xa9", 4, "a member of a Linux RAID"},
	{4086, "SWAPSPACE2", 10, "swap space"},
	{0x100000, "\x0d\xd0\x01\xc0", 4, "a VMFS volume"},
	{0x10000, "\x01\x16\x19\x70", 4, "a GFS2 file system"},
	{1024, "OCFSV2", 6, "an OCFS2 file system"},
	{2048, "OCFSV2", 6, "an OCFS2 file system"},
	{4096, "OCFSV2", 6, "an OCFS2 file system"},
	{8192, "OCFSV2", 6, "an OCFS2 file system"},
	{0x8001, "CD001", 5, "an ISO 9660 file system"},
	{0, "hsqs", 4, "a squashfs file system"},
	{1024, "\x10\x20\xf5\xf2", 4, "an F2FS file system"},
	{4120, "\xc6\x85\x73\xf6\x4e\x1a\x45\xca", 8, "a bcache device"},
	{0, "QFI\xfb", 4, "a qcow2 image"},
	{0, "KDMV", 4, "a VMDK image"},
	{0, "conectix", 8, "a VHD image"},
	{0, "vhdxfile", 8, "a VHDX image"},
};

static bool zfs(const uint8_t *buf)
{
	static const uint8_t le[] = {0x0c, 0xb1, 0xba, 0, 0, 0, 0, 0};
	static const uint8_t be[] = {0, 0, 0, 0, 0, 0xba, 0xb1, 0x0c};

	/* The ring of uberblocks in the first label: 128 KiB on, at least 1 KiB each. */
	for (size_t at = 128 * KiB; at < 256 * KiB; at += 1024)
		if (memcmp(buf + at, le, 8) == 0 || memcmp(buf + at, be, 8) == 0)
			return true;
	return false;
}

static const char *find_front(const uint8_t *buf)
{
	for (size_t i = 0; i < ARRAY_SIZE(front); i++)
		if (memcmp(buf + front[i].at, front[i].magic, front[i].n) == 0)
			return front[i].what;
	if (zfs(buf))
		return "a ZFS pool's device";
	/* Last: boot sectors of file systems end in these bytes too. */
	if (buf[510] == 0x55 && buf[511] == 0xaa)
		return "a partition table";
	return NULL;
}

static const char *find_tail(const uint8_t *buf)
{
	static const uint8_t md[] = {0xfc, 0x4e, 0x2b, 0xa9};

	for (size_t back = 512; back <= 4096; back *= 8)
		if (memcmp(buf + TAIL - back, "EFI PART", 8) == 0)
			return "a GPT partition table's backup";
	for (size_t at = 0; at < TAIL; at += 4096)
		if (memcmp(buf + at, md, 4) == 0)
			return "a member of a Linux RAID";
	return NULL;
}

int cfs_signature_find(struct blk *blk, const char **what)
{
	uint64_t size = ROUND_DOWN(blk_info(blk)->size, 4096);
	uint8_t *buf = xaligned(4096, FRONT);
	int rc;

	*what = NULL;
	MUST(size >= FRONT);
	rc = blk_read(blk, 0, buf, FRONT);
	if (rc == 0)
		*what = find_front(buf);
	if (rc == 0 && !*what) {
		rc = blk_read(blk, size - TAIL, buf, TAIL);
		if (rc == 0)
			*what = find_tail(buf);
	}
	free(buf);
	return rc < 0 ? fail_prefix(rc, "LUN %s", blk_info(blk)->name) : 0;
}
