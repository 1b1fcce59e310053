// SPDX-License-Identifier: Apache-2.0
/* bare.c: volumes and hosts for tests of clusterfs' parts. */
#include "tests/lib/bare.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "tests/lib/lun.h"

struct bare_volume *bare_volume_make(uint64_t size, uint32_t beat, uint32_t silence, uint32_t lease)
{
	struct cfs_format_options o = {.name = "v1",
				       .beat_ms = beat,
				       .silence_beats = silence,
				       .lease_ms = lease,
				       .flight_ms = lease / 2};
	struct bare_volume *v = xcalloc(1, sizeof(*v));
	struct blk *blk;

	v->path = lun_make(size);
	v->state_dir = xstrdup("/var/tmp/perilune-state-XXXXXX");
	MUST(mkdtemp(v->state_dir));
	MUST(blk_open(v->path, NULL, &blk) == 0);
	MUST(cfs_format(&blk, 1, &o) == 0);
	blk_close(blk);
	return v;
}

static void remove_tree(const char *path)
{
	DIR *dir = opendir(path);
	struct dirent *e;

	while (dir && (e = readdir(dir))) {
		char *sub;

		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		sub = xasprintf("%s/%s", path, e->d_name);
		if (unlink(sub) < 0)
			remove_tree(sub);
		free(sub);
	}
	if (dir)
		closedir(dir);
	rmdir(path);
}

void bare_volume_remove(struct bare_volume *v)
{
	lun_remove(v->path);
	remove_tree(v->state_dir);
	free(v->state_dir);
	free(v);
}

static void on_event(void *arg, const char *kind, const char *text)
{
	struct bare_host *h = arg;

	pthread_mutex_lock(&h->lock);
	if (h->events < ARRAY_SIZE(h->event)) {
		struct bare_event *e = &h->event[h->events++];

		(void)str_format(e->kind, sizeof(e->kind), "%s", kind);
		(void)str_format(e->text, sizeof(e->text), "%s", text);
	}
	pthread_mutex_unlock(&h->lock);
}

bool bare_host_heard(struct bare_host *h, const char *kind)
{
	bool heard = false;

	pthread_mutex_lock(&h->lock);
	for (unsigned i = 0; i < h->events; i++)
		heard |= strcmp(h->event[i].kind, kind) == 0;
	pthread_mutex_unlock(&h->lock);
	return heard;
}

static struct bare_host *host_open(const char *lun, const char *state_dir, const char *name,
				   bool faulty)
{
	struct bare_host *h = xcalloc(1, sizeof(*h));
	struct cfs *fs = &h->fs;
	struct blk *plain;
	struct blk_options o = {.timeout_ms = faulty ? 200 : 0};
	int rc = blk_open(lun, &o, &plain);

	h->blk = plain;
	if (rc == 0 && faulty)
		rc = blk_fault_wrap(plain, &h->blk);
	if (rc == 0)
		rc = cfs_label_load(&h->blk, 1, &fs->label, fs->extent);
	if (rc < 0) {
		fprintf(stderr, "%s\n", err_message(rc));
		MUST(rc == 0);
	}
	(void)str_format(h->state, sizeof(h->state), "%s/%s", state_dir, name);
	MUST(mkdir(h->state, 0700) == 0 || errno == EEXIST);
	pthread_mutex_init(&h->lock, NULL);
	fs->lease_fd = memfd_create("lease", MFD_CLOEXEC);
	MUST(fs->lease_fd >= 0 && ftruncate(fs->lease_fd, 4096) == 0);
	fs->lease_end = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fs->lease_fd, 0);
	MUST((void *)fs->lease_end != MAP_FAILED);
	cfs_label_begin(fs);
	fs->options.host_name = xstrdup(name);
	fs->options.state_dir = h->state;
	fs->options.event = on_event;
	fs->options.arg = h;
	pthread_mutex_init(&fs->label_lock, NULL);
	return h;
}

struct bare_host *bare_host_open(const char *lun, const char *state_dir, const char *name)
{
	return host_open(lun, state_dir, name, false);
}

struct bare_host *bare_host_open_faulty(const char *lun, const char *state_dir, const char *name)
{
	return host_open(lun, state_dir, name, true);
}

void bare_host_close(struct bare_host *h)
{
	MUST(!h->fs.slots);
	blk_close(h->blk);
	cfs_label_end(&h->fs);
	munmap((void *)h->fs.lease_end, 4096);
	close(h->fs.lease_fd);
	pthread_mutex_destroy(&h->fs.label_lock);
	pthread_mutex_destroy(&h->lock);
	free((char *)h->fs.options.host_name);
	free(h);
}
