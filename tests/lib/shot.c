// SPDX-License-Identifier: Apache-2.0
/* shot.c: what is on a volume. */
#include "tests/lib/shot.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checksum.h"
#include "base/err.h"
#include "base/util.h"

#define SECTOR SHOT_SECTOR
#define MOST   (64 * MiB) /* of a file is read */

struct walk {
	struct cfs *fs;
	struct shot *shot;
	const char *dir;
};

uint64_t shot_hash(const void *sector)
{
	static const uint8_t zeroes[SECTOR];

	return memcmp(sector, zeroes, SECTOR) == 0 ? 0 : checksum64(sector, SECTOR);
}

static int add(void *arg, const char *name, const struct cfs_stat *st)
{
	struct walk *w = arg;
	struct shot_file *f;

	w->shot->file = xrealloc(w->shot->file, (w->shot->n + 1) * sizeof(*f));
	f = &w->shot->file[w->shot->n++];
	*f = (struct shot_file){.stat = *st};
	f->path = xasprintf("%s/%s", strcmp(w->dir, "/") ? w->dir : "", name);
	return 0;
}

static int read_file(struct cfs *fs, struct shot_file *f)
{
	uint8_t *buf;
	struct cfs_file *file;
	uint64_t size;
	int rc = cfs_open(fs, f->path, 0, 0, &file);

	if (rc < 0)
		return rc;
	cfs_file_stat(file, &f->stat);
	size = MIN(f->stat.size, MOST);
	f->sectors = (size_t)DIV_ROUND_UP(size, SECTOR);
	f->sector = xcalloc(f->sectors + 1, sizeof(*f->sector));
	buf = xcalloc(1, MiB);
	for (uint64_t at = 0; at < size && rc >= 0; at += MiB) {
		int64_t n;

		memset(buf, 0, MiB);
		n = cfs_pread(file, buf, MIN(size - at, MiB), at);
		rc = n < 0 ? (int)n : 0;
		for (uint64_t k = 0; rc == 0 && k < MiB && at + k < size; k += SECTOR)
			f->sector[(at + k) / SECTOR] = shot_hash(buf + k);
	}
	free(buf);
	cfs_close(file);
	return rc;
}

static int by_path(const void *a, const void *b)
{
	return strcmp(((const struct shot_file *)a)->path, ((const struct shot_file *)b)->path);
}

int shot_take(struct cfs *fs, struct shot *out)
{
	struct walk w = {.fs = fs, .shot = out, .dir = "/"};
	int rc, first = 0;

	memset(out, 0, sizeof(*out));
	rc = cfs_readdir(fs, "/", add, &w);
	for (size_t i = 0; rc == 0 && i < out->n; i++) {
		char *path = out->file[i].path;

		if (out->file[i].stat.kind == CFS_DIR) {
			w.dir = path;
			rc = cfs_readdir(fs, path, add, &w);
		} else {
			rc = read_file(fs, &out->file[i]);
		}
		if (rc < 0 && first == 0)
			first = rc;
		if (rc < 0)
			out->file[i].stat.kind = 0;
		rc = 0;
	}
	if (out->n)
		qsort(out->file, out->n, sizeof(*out->file), by_path);
	return rc < 0 ? rc : first;
}

void shot_free(struct shot *shot)
{
	for (size_t i = 0; i < shot->n; i++) {
		free(shot->file[i].path);
		free(shot->file[i].sector);
	}
	free(shot->file);
	memset(shot, 0, sizeof(*shot));
}

const struct shot_file *shot_find(const struct shot *shot, const char *path)
{
	struct shot_file key = {.path = (char *)path};

	return shot->n ? bsearch(&key, shot->file, shot->n, sizeof(key), by_path) : NULL;
}

static bool differ(bool say, const char *path, const char *what)
{
	if (say)
		fprintf(stderr, "shot: %s: %s\n", path, what);
	return false;
}

bool shot_same(const struct shot *a, const struct shot *b, bool say)
{
	for (size_t i = 0; i < a->n; i++) {
		const struct shot_file *x = &a->file[i], *y = shot_find(b, x->path);

		if (!y)
			return differ(say, x->path, "is missing");
		if (x->stat.kind != y->stat.kind)
			return differ(say, x->path, "is of another kind");
		if (x->stat.size != y->stat.size || x->sectors != y->sectors)
			return differ(say, x->path, "has another size");
		if (x->sectors &&
		    memcmp(x->sector, y->sector, x->sectors * sizeof(*x->sector)) != 0)
			return differ(say, x->path, "has another content");
	}
	for (size_t i = 0; i < b->n; i++) {
		if (!shot_find(a, b->file[i].path))
			return differ(say, b->file[i].path, "is there too");
	}
	return true;
}
