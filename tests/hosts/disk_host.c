// SPDX-License-Identifier: Apache-2.0
/*
 * disk_host.c: a thin disk on a volume of its own, driven line by line, for tests that take the target away
 * under it. Formats LUN, mounts it, creates a disk; "ready". Then commands, each answered by its result:
 *
 *	write BYTE [MIB]	4096 bytes there, else at 1 MiB
 *	read [MIB]		the byte that they all are, or -1
 *	flush
 *	lost		how many events told of a loss so far
 *
 *	disk_host LUN STATE_DIR
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/util.h"
#include "blockdev/blk.h"
#include "clusterfs/cfs.h"
#include "tests/lib/rig.h"

static void ok(int rc, const char *what)
{
	if (rc >= 0)
		return;
	fprintf(stderr, "%s: %s\n", what, err_message(rc));
	exit(1);
}

static int run(struct rig *rig, enum vfs_op op, unsigned mib, uint8_t *buf)
{
	return op == VFS_FLUSH ? rig_run(rig, op, 0, 0, NULL, 0)
			       : rig_run(rig, op, mib * MiB, 4096, buf, 0);
}

static int read_byte(struct rig *rig, unsigned mib, uint8_t *buf)
{
	int rc = run(rig, VFS_READ, mib, buf);

	if (rc < 0)
		return rc;
	for (unsigned i = 1; i < 4096; i++)
		if (buf[i] != buf[0])
			return -1;
	return buf[0];
}

int main(int argc, char **argv)
{
	struct cfs_format_options options = {.name = "v"};
	uint8_t *buf = xaligned(4096, 4096);
	struct rig rig = {0};
	struct blk *blk;
	char line[64];

	signal(SIGPIPE, SIG_IGN); /* blk.h */
	if (argc != 3) {
		fprintf(stderr, "usage: disk_host LUN STATE_DIR\n");
		return 2;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	ok(blk_open(argv[1], NULL, &blk), "open");
	ok(cfs_format(&blk, 1, &options), "format");
	ok(rig_open(&rig, blk, argv[2], 16 * MiB), "disk");
	printf("ready\n");
	while (fgets(line, sizeof(line), stdin)) {
		unsigned byte, mib = 1;

		if (sscanf(line, "write %u %u", &byte, &mib) >= 1) {
			memset(buf, (int)byte, 4096);
			printf("%d\n", run(&rig, VFS_WRITE, mib, buf));
		} else if (strcmp(line, "read\n") == 0 || sscanf(line, "read %u", &mib) == 1) {
			printf("%d\n", read_byte(&rig, mib, buf));
		} else if (strcmp(line, "flush\n") == 0) {
			printf("%d\n", run(&rig, VFS_FLUSH, 0, NULL));
		} else if (strcmp(line, "lost\n") == 0) {
			printf("%u\n", rig.lost);
		} else {
			printf("what?\n");
		}
	}
	ok(rig_close(&rig), "close");
	blk_close(blk);
	free(buf);
	return 0;
}
