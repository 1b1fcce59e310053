// SPDX-License-Identifier: Apache-2.0
/*
 * transfer.c: `disk import` and `disk export` of raw files, as tasks. What is sparse stays sparse
 * both ways: holes are skipped, zeroes are found. An import goes on where it was when the volume's LUNs come back. Files are opened with the caller's rights.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/util.h"
#include "clusterfs/cfs.h"
#include "host/daemon.h"
#include "host/holder.h"
#include "host/names.h"
#include "host/verbs.h"
#include "host/volume.h"

#define COPY_BYTES  (4 * MiB)
#define SYNC_BYTES  (256 * MiB) /* what is lost with an array's cache is imported once more */
#define PATIENCE_MS 120000u	/* with a volume that is out of reach */
#define AGAIN_MS    200u
#define LOSSES	    8u /* one after the other, without anything becoming durable: it is no accident */
/* Zeroes shorter than that are written: a disk is allocated in such blocks. */
#define ZERO_BYTES (64 * KiB)

/* Rights to files, of this thread alone (setfsuid(2)). */
static void act_as_caller(const struct host_call *call)
{
	if (call->gid != (gid_t)-1)
		setfsgid(call->gid);
	if (call->uid != (uid_t)-1)
		setfsuid(call->uid);
}

static void act_as_self(void)
{
	setfsuid(geteuid());
	setfsgid(getegid());
}

int host_open_as_caller(struct host_call *call, const char *path, int flags, mode_t mode)
{
	int fd, err;

	if (call->relayed && call->uid != 0) {
		(void)fail(-EPERM,
			   "%s: uid %u of another host has no rights to files of this one; run it"
			   " on host %s itself, or as root",
			   path, call->uid, call->host->name);
		err_object("%s", path);
		return -EPERM;
	}
	act_as_caller(call);
	fd = open(path, flags | O_CLOEXEC, mode);
	err = errno;
	act_as_self();
	if (fd < 0) {
		(void)fail(-err, "%s: %s", path, strerror(err));
		err_object("%s", path);
		return -err;
	}
	return fd;
}

static bool all_zero(const char *p, size_t n)
{
	return n == 0 || (p[0] == 0 && !memcmp(p, p + 1, n - 1));
}

static int read_full(int fd, char *buf, size_t n, uint64_t at, const char *path)
{
	while (n) {
		ssize_t r = pread(fd, buf, n, (off_t)at);

		if (r < 0 && errno == EINTR)
			continue;
		if (r <= 0)
			return fail(r < 0 ? -errno : -EIO, "%s: %s", path,
				    r < 0 ? strerror(errno) : "became shorter meanwhile");
		buf += r;
		at += (uint64_t)r;
		n -= (size_t)r;
	}
	return 0;
}

/* Writes what is not zero of buf, in blocks; the disk is new, so that zeroes are there already. */
static int write_sparse(struct cfs_file *file, const char *buf, size_t n, uint64_t at)
{
	for (size_t i = 0; i < n;) {
		size_t run = 0;
		int64_t rc;

		while (i < n && all_zero(buf + i, MIN(ZERO_BYTES, n - i)))
			i += MIN(ZERO_BYTES, n - i);
		while (i + run < n && !all_zero(buf + i + run, MIN(ZERO_BYTES, n - i - run)))
			run += MIN(ZERO_BYTES, n - i - run);
		if (!run)
			break;
		rc = cfs_pwrite(file, buf + i, run, at + i);
		if (rc < 0)
			return (int)rc;
		i += run;
	}
	return 0;
}

/* --- import --------------------------------------------------------------------------------------- */

struct import {
	struct host_call *call;
	struct cfs *fs;
	struct cfs_file *file;
	const char *from;
	int fd;
	char *buf;
	uint64_t size;
	uint64_t at;	  /* up to here it is written */
	uint64_t synced;  /* up to here it is durable */
	uint64_t last_ms; /* when it last got on, CLOCK_BOOTTIME */
	unsigned losses;  /* since something became durable */
};

/* What a session, or the lease, that is lost meets: it comes back, or the patience ends. */
static bool passing(int rc)
{
	return rc == -ENOTCONN || rc == -ETIMEDOUT || rc == -ECONNRESET || rc == -ESTALE ||
	       rc == -EBADE;
}

/* 0: to be tried again. A write that failed cannot land any more by now (cfs_pwrite, INV-BLK-1). */
static int bear(struct import *im, int rc)
{
	struct err_info why;
	int told;

	if (cfs_evicted(im->fs) || clock_boot_ms() - im->last_ms > PATIENCE_MS)
		return rc;
	err_save(&why, rc);
	told = host_progress(im->call, im->at, im->size, "waiting for the volume");
	if (told < 0)
		return told;
	log_info("host", "%s: import: at byte %llu: %s", im->from, (unsigned long long)im->at,
		 why.message);
	err_clear();
	sleep_ms(AGAIN_MS);
	return 0;
}

static void got_on(struct import *im, uint64_t *what, uint64_t to)
{
	*what = to;
	im->last_ms = clock_boot_ms();
}

/* The next piece that is not a hole; at the end of the source `at` is its size. */
static int import_piece(struct import *im)
{
	off_t data = lseek(im->fd, (off_t)im->at, SEEK_DATA), hole;
	uint64_t at = im->at, end = im->size;
	size_t n;
	int rc;

	if (data < 0 && errno == ENXIO) { /* nothing but a hole is left */
		im->at = im->size;
		return 0;
	}
	if (data >= 0) {
		/* In whole blocks of the disk, so that none is written twice. */
		at = MAX(at, ROUND_DOWN((uint64_t)data, ZERO_BYTES));
		if (at >= im->size) { /* of a source that grew meanwhile */
			im->at = im->size;
			return 0;
		}
		hole = lseek(im->fd, data, SEEK_HOLE);
		if (hole > 0)
			end = MIN(im->size, ROUND_UP((uint64_t)hole, ZERO_BYTES));
	}
	n = MIN(COPY_BYTES, end - at);
	rc = read_full(im->fd, im->buf, n, at, im->from);
	while (rc == 0) {
		rc = write_sparse(im->file, im->buf, n, at);
		if (!passing(rc))
			break;
		rc = bear(im, rc);
	}
	if (rc < 0)
		return rc;
	got_on(im, &im->at, at + n);
	return host_progress(im->call, im->at, im->size, "importing");
}

/* Durable up to here; or, when an array may have lost what it had in its cache, from there once more. */
static int import_sync(struct import *im)
{
	int rc = cfs_fsync(im->file);

	if (rc == 0) {
		got_on(im, &im->synced, im->at);
		im->losses = 0;
	} else if (rc == -EIO) {
		rc = ++im->losses < LOSSES ? bear(im, rc) : rc;
		if (rc == 0)
			im->at = im->synced;
	} else if (passing(rc)) {
		rc = bear(im, rc);
	}
	return rc;
}

static int import_copy(struct import *im)
{
	int rc = 0;

	im->buf = xaligned(4096, COPY_BYTES);
	im->last_ms = clock_boot_ms();
	while (rc == 0 && (im->at < im->size || im->synced < im->at)) {
		if (im->at == im->size || im->at - im->synced >= SYNC_BYTES)
			rc = import_sync(im);
		else
			rc = import_piece(im);
	}
	free(im->buf);
	return rc;
}

static int source_size(int fd, const char *path, uint64_t *size)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return fail(-errno, "%s: %s", path, strerror(errno));
	*size = (uint64_t)st.st_size;
	if (S_ISBLK(st.st_mode) && ioctl(fd, BLKGETSIZE64, size) < 0)
		return fail(-errno, "%s: %s", path, strerror(errno));
	if (!S_ISBLK(st.st_mode) && !S_ISREG(st.st_mode))
		return fail(-EINVAL, "%s: neither a file nor a block device", path);
	if (*size == 0)
		return fail(-EINVAL, "%s: is empty", path);
	return 0;
}

static int disk_import(struct host_call *call)
{
	struct host_volume *v;
	struct cfs_file *file;
	struct err_info why;
	const char *from, *path;
	cleanup_fd int fd = -1;
	uint64_t size;
	int rc = host_arg_need(call, "file", &from), end;

	if (rc < 0)
		return rc;
	fd = host_open_as_caller(call, from, O_RDONLY, 0);
	if (fd < 0)
		return fd;
	rc = source_size(fd, from, &size);
	if (rc == 0)
		rc = host_need_object(call, "path", &v, &path);
	if (rc < 0)
		return rc;
	rc = cfs_create(host_volume_fs(v), path, CFS_DISK, ROUND_UP(size, 4096));
	if (rc < 0)
		goto out;
	rc = cfs_open(host_volume_fs(v), path, CFS_OPEN_WRITE, 0, &file);
	if (rc == 0) {
		struct import im = {.call = call,
				    .fs = host_volume_fs(v),
				    .file = file,
				    .from = from,
				    .fd = fd,
				    .size = size};

		rc = import_copy(&im);
		end = cfs_close(file);
		rc = rc < 0 ? rc : end;
	}
	if (rc < 0) {
		err_save(&why, rc);
		(void)cfs_unlink(host_volume_fs(v), path);
		rc = err_restore(&why);
	} else {
		struct cfs_stat st = {0};

		(void)cfs_stat(host_volume_fs(v), path, &st);
		call->result = json_pack("{s:s, s:I, s:I}", "path", host_arg(call, "path"), "size",
					 (json_int_t)ROUND_UP(size, 4096), "allocated",
					 (json_int_t)st.allocated);
	}
out:
	host_volume_disks_changed(v);
	host_volume_put(v);
	return rc;
}

/* --- export ------------------------------------------------------------------------------------- */

struct run {
	uint64_t offset, length;
};

struct target {
	struct host_call *call;
	struct cfs_file *file;
	int fd;
	const char *path;
	char *buf;
	uint64_t size;
	struct run *runs;
	size_t runs_n, runs_room;
};

static int write_data(struct target *t, const char *buf, size_t n, uint64_t at)
{
	for (size_t i = 0; i < n;) {
		size_t len = MIN(ZERO_BYTES, n - i), done = 0;

		while (!all_zero(buf + i, len) && done < len) {
			ssize_t w = pwrite(t->fd, buf + i + done, len - done,
					   (off_t)(at + i + done));

			if (w < 0)
				return fail(-errno, "%s: %s", t->path, strerror(errno));
			done += (size_t)w;
		}
		i += len;
	}
	return 0;
}

/* Runs of what is allocated, joined where they touch: they are read when the list is complete. */
static int note_run(void *arg, uint64_t offset, uint64_t length, unsigned extent, uint64_t address)
{
	struct target *t = arg;
	struct run *last = t->runs_n ? &t->runs[t->runs_n - 1] : NULL;

	(void)extent;
	(void)address;
	if (last && last->offset + last->length == offset) {
		last->length += length;
		return 0;
	}
	if (t->runs_n == t->runs_room) {
		t->runs_room = MAX(64, 2 * t->runs_room);
		t->runs = xrealloc(t->runs, t->runs_room * sizeof(*t->runs));
	}
	t->runs[t->runs_n++] = (struct run){offset, length};
	return 0;
}

static int export_run(struct target *t, const struct run *run)
{
	uint64_t at = run->offset, end = MIN(run->offset + run->length, t->size);
	int rc = 0;

	while (rc == 0 && at < end) {
		int64_t n = cfs_pread(t->file, t->buf, MIN(COPY_BYTES, end - at), at);

		if (n <= 0)
			return n < 0 ? (int)n : fail(-EIO, "%s: ends early", t->path);
		rc = write_data(t, t->buf, (size_t)n, at);
		at += (uint64_t)n;
		if (rc == 0)
			rc = host_progress(t->call, at, t->size, "exporting");
	}
	return rc;
}

static int export_copy(struct target *t)
{
	int rc = cfs_extents(t->file, note_run, t);

	t->buf = xaligned(4096, COPY_BYTES);
	for (size_t i = 0; i < t->runs_n && rc == 0; i++)
		rc = export_run(t, &t->runs[i]);
	free(t->buf);
	free(t->runs);
	return rc;
}

static int finish_file(struct target *t, const char *fresh, const char *to, bool overwrite)
{
	cleanup_free char *dir = xstrdup(to);
	cleanup_fd int dirfd = -1;
	char *slash = strrchr(dir, '/');
	int rc, err;

	if (ftruncate(t->fd, (off_t)t->size) < 0 || fsync(t->fd) < 0)
		return fail(-errno, "%s: %s", to, strerror(errno));
	act_as_caller(t->call);
	rc = overwrite ? rename(fresh, to) : link(fresh, to);
	err = errno;
	act_as_self();
	if (rc < 0)
		return fail(err == EEXIST ? -EPERM : -err, "%s: %s", to, strerror(err));
	if (!overwrite)
		(void)unlink(fresh);
	if (slash)
		slash[slash == dir] = 0;
	dirfd = open(slash ? dir : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dirfd < 0 || fsync(dirfd) < 0)
		return fail(-errno, "%s: %s", dir, strerror(errno));
	return 0;
}

static int refuse_existing(const char *to, bool overwrite)
{
	struct stat st;

	if (lstat(to, &st) < 0)
		return 0;
	if (!S_ISREG(st.st_mode))
		return fail(-EPERM, "%s: exists and is no file; name another", to);
	return overwrite ? 0 : fail(-EPERM, "%s: exists; insist with --overwrite", to);
}

static int disk_export(struct host_call *call)
{
	struct target t = {.call = call, .fd = -1};
	cleanup_free char *fresh = NULL;
	bool overwrite = host_arg_bool(call, "overwrite");
	struct host_volume *v;
	struct cfs_stat st;
	const char *path, *to;
	int rc = host_arg_need(call, "file", &to);

	if (rc == 0)
		rc = refuse_existing(to, overwrite);
	if (rc == 0)
		rc = host_need_object(call, "path", &v, &path);
	if (rc < 0)
		return rc;
	rc = cfs_open(host_volume_fs(v), path, 0, 0, &t.file);
	if (rc < 0)
		goto out;
	cfs_file_stat(t.file, &st);
	t.size = st.size;
	t.path = to;
	fresh = xasprintf("%s.%d-%llx.part", to, (int)getpid(), (unsigned long long)st.inode);
	t.fd = host_open_as_caller(call, fresh, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
	rc = t.fd < 0 ? t.fd : 0;
	if (rc == 0) {
		rc = export_copy(&t);
		if (rc == 0)
			rc = finish_file(&t, fresh, to, overwrite);
		if (rc < 0)
			(void)unlink(fresh);
		close(t.fd);
	}
	(void)cfs_close(t.file);
	if (rc == 0)
		call->result = json_pack("{s:s, s:I}", "file", to, "size", (json_int_t)t.size);
out:
	rc = host_name_holder(v, path, rc);
	host_volume_put(v);
	return rc;
}

const struct host_verb host_transfer_verbs[] = {
	{"disk", "import", HOST_CHANGES | HOST_TASK, disk_import},
	{"disk", "export", HOST_CHANGES | HOST_TASK, disk_export},
	{NULL, NULL, 0, NULL},
};
