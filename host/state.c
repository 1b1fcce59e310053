// SPDX-License-Identifier: Apache-2.0
/*
 * state.c: the state directory. The lock is flock(2) on a file that no child inherits, so it falls
 * with the daemon's last open file: a dying daemon, whose I/O may still be under way, holds it.
 */
#include "host/state.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/util.h"

/* How long a predecessor may take to die: its requests in flight end first. */
#define LOCK_WAIT_MS 3000

int host_state_read(const struct host_state *state, const char *name, char *dst, unsigned size)
{
	cleanup_free char *path = xasprintf("%s/%s", state->dir, name);
	cleanup_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return fail(-errno, "%s: %s", path, strerror(errno));
	n = read(fd, dst, size - 1);
	if (n < 0)
		return fail(-errno, "%s: %s", path, strerror(errno));
	while (n > 0 && (dst[n - 1] == '\n' || dst[n - 1] == ' '))
		n--;
	dst[n] = 0;
	return 0;
}

static int sync_dir(const char *dir)
{
	cleanup_fd int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0 || fsync(fd) < 0)
		return fail(-errno, "%s: %s", dir, strerror(errno));
	return 0;
}

int host_state_write(const struct host_state *state, const char *name, const char *text,
		     unsigned mode)
{
	cleanup_free char *path = xasprintf("%s/%s", state->dir, name);
	cleanup_free char *fresh = xasprintf("%s.new", path);
	cleanup_free char *line = xasprintf("%s\n", text);
	cleanup_fd int fd = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
	size_t n = strlen(line);

	if (fd < 0)
		return fail(-errno, "%s: %s", fresh, strerror(errno));
	if (write(fd, line, n) != (ssize_t)n || fsync(fd) < 0 || rename(fresh, path) < 0)
		return fail(errno ? -errno : -EIO, "%s: cannot write it: %s", path,
			    strerror(errno));
	return sync_dir(state->dir);
}

static int take_lock(struct host_state *state)
{
	cleanup_free char *path = xasprintf("%s/lock", state->dir);
	uint64_t until = clock_boot_ms() + LOCK_WAIT_MS;
	char pid[32] = "";
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	if (fd < 0)
		return fail(-errno, "%s: %s", path, strerror(errno));
	while (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		if (clock_boot_ms() < until) {
			sleep_ms(10);
			continue;
		}
		(void)host_state_read(state, "lock", pid, sizeof(pid));
		close(fd);
		(void)fail(-EBUSY,
			   "%s: another perilund (pid %s) has this state directory; stop it, or"
			   " give this one a --state of its own",
			   state->dir, pid);
		err_object("%s", state->dir);
		err_holder("pid %s", pid);
		return -EBUSY;
	}
	(void)str_format(pid, sizeof(pid), "%d\n", (int)getpid());
	if (ftruncate(fd, 0) < 0 || pwrite(fd, pid, strlen(pid), 0) < 0) {
		int err = -errno;

		close(fd);
		return fail(err, "%s: %s", path, strerror(-err));
	}
	state->lock_fd = fd;
	return 0;
}

/* 16 bytes; clusterfs reads the same file, so that volumes know the host by the same id. */
static int make_id(struct host_state *state)
{
	cleanup_free char *path = xasprintf("%s/host-id", state->dir);
	cleanup_free char *fresh = xasprintf("%s.new", path);
	cleanup_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
	uint8_t b[17];
	ssize_t n = fd < 0 ? 0 : read(fd, b, sizeof(b));

	if (fd < 0 && errno == ENOENT) {
		random_bytes(b, 16);
		b[6] = (uint8_t)((b[6] & 0x0f) | 0x40); /* RFC 4122, version 4 */
		b[8] = (uint8_t)((b[8] & 0x3f) | 0x80);
		fd = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
		n = fd < 0 ? -1 : write(fd, b, 16);
		if (n != 16 || fsync(fd) < 0 || rename(fresh, path) < 0)
			return fail(-errno, "%s: cannot write it: %s", path, strerror(errno));
		if (sync_dir(state->dir) < 0)
			return -EIO;
	}
	if (n != 16)
		return fail(-EUCLEAN, "%s: not a host id; remove it", path);
	(void)str_format(state->id, sizeof(state->id),
			 "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x",
			 b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11],
			 b[12], b[13], b[14], b[15]);
	return 0;
}

/* The initiator's name and ISIDs are kept: a login with the same ones ends the old session. */
static int make_initiator(struct host_state *state)
{
	char text[32];
	int rc = host_state_read(state, "initiator", state->initiator, sizeof(state->initiator));

	if (rc == -ENOENT || (rc == 0 && !state->initiator[0])) {
		(void)str_format(state->initiator, sizeof(state->initiator),
				 "iqn.2026-11.org.perilune:%.8s%.4s", state->id, state->id + 9);
		rc = host_state_write(state, "initiator", state->initiator, 0644);
	}
	if (rc < 0)
		return rc;
	rc = host_state_read(state, "isid", text, sizeof(text));
	if (rc == 0 && sscanf(text, "%x", &state->isid) == 1)
		return 0;
	if (rc != -ENOENT && rc != 0)
		return rc;
	random_bytes(&state->isid, sizeof(state->isid));
	state->isid = (state->isid & 0x00ffffff) | 0x80000000; /* format "random" */
	(void)str_format(text, sizeof(text), "%08x", state->isid);
	return host_state_write(state, "isid", text, 0644);
}

int host_state_open(struct host_state *state, const char *dir)
{
	cleanup_free char *real = NULL;
	int rc;

	memset(state, 0, sizeof(*state));
	state->lock_fd = -1;
	if (mkdir(dir, 0700) < 0 && errno != EEXIST)
		return fail(-errno, "%s: cannot make the state directory: %s", dir,
			    strerror(errno));
	real = realpath(dir, NULL);
	if (!real)
		return fail(-errno, "%s: %s", dir, strerror(errno));
	if (str_format(state->dir, 80, "%s", real) < 0)
		return fail(-EINVAL,
			    "%s: a state directory's path has at most 79 bytes (sockets lie in it)",
			    real);
	rc = take_lock(state);
	if (rc < 0)
		return rc;
	rc = make_id(state);
	if (rc == 0)
		rc = make_initiator(state);
	if (rc < 0)
		host_state_close(state);
	return rc;
}

void host_state_close(struct host_state *state)
{
	if (state->lock_fd >= 0)
		close(state->lock_fd);
	state->lock_fd = -1;
}
