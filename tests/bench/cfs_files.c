// SPDX-License-Identifier: Apache-2.0
/*
 * cfs_files.c: a host for the benchmark's rows about names and space. Prints one number.
 *
 *	cfs_files LUN DIR format 0	writes a volume
 *	cfs_files LUN DIR create N	format, mount, seconds to create N files durably, unmount
 *	cfs_files LUN DIR leave N	the same without the unmount, as a crash would
 *	cfs_files LUN DIR mount 0	seconds of a mount
 *	cfs_files LUN DIR alloc I	as host I for 2 s: creates disks and allocates 1 MiB in each; operations a second
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/util.h"
#include "blockdev/blk.h"
#include "clusterfs/cfs.h"

#define ALLOC_MS 2000u

static void ok(int rc, const char *what)
{
	if (rc < 0) {
		fprintf(stderr, "cfs_files: %s: %s\n", what, err_message(rc));
		exit(1);
	}
}

static struct cfs *mount_as(struct blk *blk, const char *folder, const char *name)
{
	struct cfs_options o = {.host_name = name};
	struct cfs *fs;
	char *state = xasprintf("%s/state-%s", folder, name);

	mkdir(state, 0700);
	o.state_dir = state;
	ok(cfs_mount(&blk, 1, &o, &fs), "mount");
	free(state);
	return fs;
}

static void format(struct blk *blk)
{
	struct cfs_format_options o = {.name = "bench", .overwrite = true};

	ok(cfs_format(&blk, 1, &o), "format");
}

static double create(struct blk *blk, const char *folder, unsigned n, bool leave)
{
	struct cfs *fs;
	uint64_t start;
	double took;
	char path[64];

	format(blk);
	fs = mount_as(blk, folder, "one");
	start = clock_boot_ns();
	for (unsigned i = 0; i < n; i++) {
		(void)str_format(path, sizeof(path), "/file-%u", i);
		ok(cfs_create(fs, path, CFS_FILE, 0), path);
	}
	ok(cfs_sync(fs), "sync");
	took = (double)(clock_boot_ns() - start) / 1e9;
	if (leave)
		cfs_abandon(fs);
	else
		ok(cfs_unmount(fs), "unmount");
	return took;
}

static double mount_time(struct blk *blk, const char *folder)
{
	uint64_t start = clock_boot_ns();
	struct cfs *fs = mount_as(blk, folder, "one");
	double took = (double)(clock_boot_ns() - start) / 1e9;

	ok(cfs_unmount(fs), "unmount");
	return took;
}

static double alloc(struct blk *blk, const char *folder, unsigned host)
{
	char name[32], path[96];
	struct cfs *fs;
	struct cfs_file *file;
	uint64_t start, n = 0;

	(void)str_format(name, sizeof(name), "host%u", host);
	fs = mount_as(blk, folder, name);
	(void)str_format(path, sizeof(path), "/%s", name);
	ok(cfs_mkdir(fs, path), path);
	start = clock_boot_ns();
	while (clock_boot_ns() - start < ALLOC_MS * NS_PER_MS) {
		(void)str_format(path, sizeof(path), "/%s/d%llu", name, (unsigned long long)n++);
		ok(cfs_create(fs, path, CFS_DISK, 64 * MiB), path);
		ok(cfs_open(fs, path, CFS_OPEN_WRITE, 0, &file), path);
		ok(cfs_allocate(file, 0, MiB), path);
		ok(cfs_close(file), path);
	}
	ok(cfs_sync(fs), "sync");
	double rate = (double)n * 1e9 / (double)(clock_boot_ns() - start);

	ok(cfs_unmount(fs), "unmount");
	return rate;
}

int main(int ac, char **av)
{
	struct blk_options o = {0};
	struct blk *blk;

	if (ac != 5) {
		fprintf(stderr, "usage: see the top of cfs_files.c\n");
		return 2;
	}
	log_set_level(LOG_WARN);
	ok(blk_open(av[1], &o, &blk), av[1]);
	if (strcmp(av[3], "format") == 0)
		format(blk);
	else if (strcmp(av[3], "create") == 0)
		printf("%.4f\n", create(blk, av[2], (unsigned)atoi(av[4]), false));
	else if (strcmp(av[3], "leave") == 0)
		printf("%.4f\n", create(blk, av[2], (unsigned)atoi(av[4]), true));
	else if (strcmp(av[3], "mount") == 0)
		printf("%.4f\n", mount_time(blk, av[2]));
	else if (strcmp(av[3], "alloc") == 0)
		printf("%.2f\n", alloc(blk, av[2], (unsigned)atoi(av[4])));
	else
		return 2;
	blk_close(blk);
	return 0;
}
