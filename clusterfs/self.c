// SPDX-License-Identifier: Apache-2.0
/* self.c: the host's identity: what a claim names, and by which a dead process is told. */
#include "clusterfs/self.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/util.h"

static int read_small(const char *path, char *buf, size_t size)
{
	cleanup_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return -errno;
	n = read(fd, buf, size - 1);
	if (n < 0)
		return -errno;
	buf[n] = 0;
	return (int)n;
}

static void machine_id(uint8_t id[16])
{
	char text[64];

	memset(id, 0, 16);
	if (read_small("/etc/machine-id", text, sizeof(text)) < 32)
		return;
	for (unsigned i = 0; i < 16; i++) {
		unsigned byte;

		if (sscanf(text + 2 * (size_t)i, "%2x", &byte) != 1)
			return;
		id[i] = (uint8_t)byte;
	}
}

int cfs_process_start(pid_t pid, uint64_t *start_time)
{
	char path[64], buf[1024], *p;
	unsigned long long start;
	char state;

	(void)str_format(path, sizeof(path), "/proc/%d/stat", (int)pid);
	if (read_small(path, buf, sizeof(buf)) <= 0)
		return -ENOENT;
	p = strrchr(buf, ')'); /* the name may hold anything */
	if (!p || sscanf(p + 1,
			 " %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d "
			 "%*d %llu",
			 &state, &start) != 2)
		return -ENOENT;
	*start_time = start;
	return 0;
}

/* The host id is written beside and linked into place, so that it is there whole or not at all. */
static int host_id(const char *state_dir, uint8_t id[16])
{
	cleanup_free char *path = xasprintf("%s/host-id", state_dir);
	cleanup_free char *temp = xasprintf("%s/host-id.%d", state_dir, (int)getpid());
	char buf[17];
	int fd, n = read_small(path, buf, sizeof(buf));
	bool ok;

	if (n == 16) {
		memcpy(id, buf, 16);
		return 0;
	}
	if (n >= 0)
		return fail(-EUCLEAN, "%s: not a host id; remove it", path);
	if (n != -ENOENT)
		return fail(n, "%s: %s", path, strerror(-n));
	random_bytes(id, 16);
	fd = open(temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		return fail(-errno, "%s: %s", temp, strerror(errno));
	ok = write(fd, id, 16) == 16 && fsync(fd) == 0;
	close(fd);
	if (ok && link(temp, path) == 0) {
		unlink(temp);
		return 0;
	}
	n = ok ? -errno : -EIO;
	unlink(temp);
	if (n == -EEXIST) { /* another thread of ours was quicker */
		n = read_small(path, buf, sizeof(buf));
		if (n == 16) {
			memcpy(id, buf, 16);
			return 0;
		}
		n = -EUCLEAN;
	}
	return fail(n, "%s: %s", path, strerror(-n));
}

int cfs_self_get(const char *state_dir, struct cfs_self *out)
{
	int rc;

	memset(out, 0, sizeof(*out));
	machine_id(out->machine);
	out->pid = (uint32_t)getpid();
	rc = cfs_process_start(getpid(), &out->start_time);
	if (rc < 0)
		return fail(rc, "/proc/self/stat: not there; mount /proc");
	rc = clock_boot_id(out->boot);
	if (rc < 0)
		return rc;
	return host_id(state_dir, out->host);
}

int cfs_state_lock(const char *state_dir, const uint8_t volume[16], const char *name)
{
	struct flock fl = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	char *path = xasprintf("%s/mount-%02x%02x%02x%02x%02x%02x%02x%02x.lock", state_dir,
			       volume[0], volume[1], volume[2], volume[3], volume[4], volume[5],
			       volume[6], volume[7]);
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	int rc = fd;

	if (fd < 0)
		rc = fail(-errno, "%s: %s", path, strerror(errno));
	else if (fcntl(fd, F_OFD_SETLK, &fl) < 0)
		rc = fail(-EBUSY, "volume %s: already mounted by this host (state directory %s)",
			  name, state_dir);
	if (rc < 0 && fd >= 0)
		close(fd);
	free(path);
	return rc;
}
