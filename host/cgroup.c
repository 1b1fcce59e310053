// SPDX-License-Identifier: Apache-2.0
/* cgroup.c: control groups, by their files. */
#include "host/cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/util.h"

#define PERIOD_US 100000u
#define V2_ROOT	  "/sys/fs/cgroup"
#define POOL_SIGN "pool-" /* no VM's id begins so: it is a path */

/* Where cgroups may be mounted: version 2 alone, version 2 beside version 1, version 1. */
static const char *const roots[CGROUPS] = {
	"/sys/fs/cgroup",	  "/sys/fs/cgroup/unified",
	"/sys/fs/cgroup/systemd", "/sys/fs/cgroup/cpu,cpuacct",
	"/sys/fs/cgroup/cpu",
};

static void pool_dir(unsigned i, const char *pool, char *dst, size_t size)
{
	(void)str_format(dst, size, "%s/perilune%s%s", roots[i], *pool ? "/" POOL_SIGN : "", pool);
}

static void group_dir(unsigned i, const struct cgroup *g, char *dst, size_t size)
{
	char name[256];
	size_t n;

	pool_dir(i, g->pool, dst, size);
	if (!g->id)
		return;
	(void)str_format(name, sizeof(name), "%s", g->id);
	for (char *p = name; *p; p++)
		if (*p == '/')
			*p = '_';
	n = strlen(dst);
	(void)str_format(dst + n, size - n, "/%s", name);
}

static int write_to(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC), rc = 0;

	if (fd < 0)
		return -ENOENT;
	if (write(fd, text, strlen(text)) < 0)
		rc = -ENOENT;
	close(fd);
	return rc;
}

static int write_in(const char *dir, const char *file, const char *text)
{
	char path[CGROUP_PATH + 32];

	(void)str_format(path, sizeof(path), "%s/%s", dir, file);
	return write_to(path, text);
}

/* Best effort: a machine without cgroups, or one that refuses, runs VMs too. */
static bool make_one(unsigned i, const struct cgroup *g)
{
	char path[CGROUP_PATH];

	(void)str_format(path, sizeof(path), "%s/cgroup.procs", roots[i]);
	if (access(path, W_OK) < 0)
		return false;
	pool_dir(i, "", path, sizeof(path));
	(void)mkdir(path, 0755);
	pool_dir(i, g->pool, path, sizeof(path));
	(void)mkdir(path, 0755);
	group_dir(i, g, path, sizeof(path));
	return mkdir(path, 0755) == 0 || errno == EEXIST;
}

void cgroup_make(const struct cgroup *g, char files[CGROUPS][CGROUP_PATH])
{
	char dir[CGROUP_PATH - 16];

	for (unsigned i = 0; i < CGROUPS; i++) {
		files[i][0] = 0;
		if (!make_one(i, g))
			continue;
		group_dir(i, g, dir, sizeof(dir));
		(void)str_format(files[i], CGROUP_PATH, "%s/cgroup.procs", dir);
	}
}

int cgroup_move(const struct cgroup *g, pid_t pid)
{
	char files[CGROUPS][CGROUP_PATH], text[16];
	int rc = -ENOENT;

	cgroup_make(g, files);
	(void)str_format(text, sizeof(text), "%d", (int)pid);
	for (unsigned i = 0; i < CGROUPS; i++)
		if (files[i][0] && write_to(files[i], text) == 0)
			rc = 0;
	return rc;
}

void cgroup_forget(const struct cgroup *g)
{
	char path[CGROUP_PATH];

	for (unsigned i = 0; i < CGROUPS; i++) {
		group_dir(i, g, path, sizeof(path));
		(void)rmdir(path);
		if (!*g->pool)
			continue;
		pool_dir(i, g->pool, path,
			 sizeof(path)); /* the last one of its pool takes that along */
		(void)rmdir(path);
	}
}

/* --- processors -------------------------------------------------------------------------------- */

/* Version 2: a group's children have a say over processors when all above it pass that on. */
static void pass_on(const struct cgroup *g)
{
	char dir[CGROUP_PATH];

	(void)write_in(V2_ROOT, "cgroup.subtree_control", "+cpu");
	(void)write_in(V2_ROOT "/perilune", "cgroup.subtree_control", "+cpu");
	if (!*g->pool || !g->id)
		return;
	pool_dir(0, g->pool, dir, sizeof(dir));
	(void)write_in(dir, "cgroup.subtree_control", "+cpu");
}

static int set_v2(const char *dir, const struct cgroup_cpu *cpu)
{
	char text[64];
	int rc;

	(void)str_format(text, sizeof(text), "%u", cpu->weight);
	rc = write_in(dir, "cpu.weight", text);
	if (cpu->limit)
		(void)str_format(text, sizeof(text), "%u %u", PERIOD_US / 100 * cpu->limit,
				 PERIOD_US);
	else
		(void)str_format(text, sizeof(text), "max");
	return rc < 0 ? rc : write_in(dir, "cpu.max", text);
}

/* Version 1: shares are 1024 where weights are 100; the quota's period is as long. */
static int set_v1(const char *dir, const struct cgroup_cpu *cpu)
{
	char text[64];
	int rc;

	(void)str_format(text, sizeof(text), "%u", MAX(2u, cpu->weight * 1024 / 100));
	rc = write_in(dir, "cpu.shares", text);
	(void)str_format(text, sizeof(text), "%d",
			 cpu->limit ? (int)(PERIOD_US / 100 * cpu->limit) : -1);
	return rc < 0 ? rc : write_in(dir, "cpu.cfs_quota_us", text);
}

int cgroup_cpu(const struct cgroup *g, const struct cgroup_cpu *cpu)
{
	bool usual = cpu->weight == 100 && !cpu->limit;
	char dir[CGROUP_PATH];

	if (!usual) /* a group that never had more has nothing to take back */
		pass_on(g);
	for (unsigned i = 0; i < CGROUPS; i++) {
		group_dir(i, g, dir, sizeof(dir));
		if (set_v2(dir, cpu) == 0 || set_v1(dir, cpu) == 0)
			return 0;
	}
	return usual ? 0 : -ENOENT;
}

const char *cgroup_kind(void)
{
	char text[256] = "", path[CGROUP_PATH];
	int fd = open(V2_ROOT "/cgroup.controllers", O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 2);

	if (fd >= 0)
		close(fd);
	for (ssize_t k = 0; k < n; k++)
		if (text[k] == '\n')
			text[k] = ' ';
	if (access(V2_ROOT "/cgroup.subtree_control", W_OK) == 0 &&
	    (!strncmp(text, "cpu ", 4) || strstr(text, " cpu ")))
		return "v2";
	for (unsigned i = 3; i < CGROUPS; i++) {
		(void)str_format(path, sizeof(path), "%s/cpu.cfs_quota_us", roots[i]);
		if (access(path, F_OK) < 0)
			(void)str_format(path, sizeof(path), "%s/cpu.shares", roots[i]);
		if (access(path, W_OK) == 0)
			return "v1";
	}
	return NULL;
}
