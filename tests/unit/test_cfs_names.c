// SPDX-License-Identifier: Apache-2.0
/* Names and files on a mounted volume: paths, create, rename, delete, read and write, two hosts. */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/util.h"
#include "clusterfs/group.h"
#include "clusterfs/lock.h"
#include "tests/lib/check.h"
#include "tests/lib/lun.h"
#include "tests/lib/vol.h"

static int setup(void **state)
{
	struct vol *v = vol_make(256 * MiB);

	log_set_level(LOG_ERROR);
	*state = v;
	ok(vol_mount(v, 0, NULL));
	return 0;
}

static int teardown(void **state)
{
	struct vol *v = *state;
	struct cfs_check_result r;

	for (unsigned i = 0; i < VOL_HOSTS; i++) {
		if (v->fs[i])
			ok(vol_unmount(v, i));
	}
	ok(vol_check(v, false, true, &r));
	assert_int_equal(r.findings, 0);
	vol_free(v);
	return 0;
}

static struct cfs *fs_of(void **state)
{
	return ((struct vol *)*state)->fs[0];
}

struct names {
	unsigned n;
	uint64_t bytes;
};

static int count(void *arg, const char *name, const struct cfs_stat *st)
{
	struct names *c = arg;

	assert_true(name[0] != 0);
	c->n++;
	c->bytes += st->size;
	return 0;
}

static unsigned entries(struct cfs *fs, const char *path)
{
	struct names c = {0};

	ok(cfs_readdir(fs, path, count, &c));
	return c.n;
}

static void test_paths(void **state)
{
	struct cfs *fs = fs_of(state);
	struct cfs_stat st;
	char longest[300];

	ok(cfs_mkdir(fs, "/a"));
	ok(cfs_mkdir(fs, "/a/b"));
	ok(cfs_create(fs, "/a/b/c", CFS_FILE, 0));
	ok(cfs_create(fs, "/a/disk", CFS_DISK, 10 * GiB));
	assert_int_equal(cfs_mkdir(fs, "/a"), -EEXIST);
	assert_int_equal(cfs_mkdir(fs, "/"), -EINVAL);
	assert_int_equal(cfs_mkdir(fs, "/a/../x"), -EINVAL);
	assert_int_equal(cfs_mkdir(fs, "a"), -EINVAL);
	assert_int_equal(cfs_mkdir(fs, ""), -EINVAL);
	assert_int_equal(cfs_mkdir(fs, "/x/y"), -ENOENT);
	assert_int_equal(cfs_mkdir(fs, "/a/b/c/d"), -ENOENT);
	assert_int_equal(cfs_create(fs, "/a/bad\n", CFS_FILE, 0), -EINVAL);
	assert_int_equal(cfs_create(fs, "/a/odd", CFS_DISK, 1000), -EINVAL);
	assert_int_equal(cfs_create(fs, "/a/empty", CFS_DISK, 0), -EINVAL);
	ok(cfs_stat(fs, "/", &st));
	assert_int_equal(st.kind, CFS_DIR);
	ok(cfs_stat(fs, "//a//b/", &st));
	assert_int_equal(st.kind, CFS_DIR);
	assert_int_equal(st.size, 1);
	ok(cfs_stat(fs, "/a/disk", &st));
	assert_int_equal(st.kind, CFS_DISK);
	assert_int_equal(st.size, 10 * GiB);
	assert_int_equal(st.allocated, 0);
	assert_int_equal(st.generation, 1);
	assert_int_equal(cfs_stat(fs, "/nothing", &st), -ENOENT);
	memset(longest, 'x', sizeof(longest));
	longest[0] = '/';
	longest[256] = 0;
	ok(cfs_create(fs, longest, CFS_FILE, 0));
	ok(cfs_stat(fs, longest, &st));
	ok(cfs_unlink(fs, longest));
	assert_int_equal(cfs_stat(fs, longest, &st), -ENOENT);
	longest[256] = 'x';
	longest[257] = 0;
	assert_int_equal(cfs_create(fs, longest, CFS_FILE, 0), -EINVAL);
	assert_int_equal(entries(fs, "/a"), 2);
}

static void test_rename(void **state)
{
	struct cfs *fs = fs_of(state);
	struct cfs_stat a, b;

	ok(cfs_mkdir(fs, "/d"));
	ok(cfs_mkdir(fs, "/d/e"));
	ok(cfs_mkdir(fs, "/d/e/f"));
	ok(cfs_create(fs, "/d/x", CFS_FILE, 0));
	ok(cfs_stat(fs, "/d/x", &a));
	ok(cfs_rename(fs, "/d/x", "/d/y"));
	ok(cfs_rename(fs, "/d/y", "/d/e/z"));
	ok(cfs_stat(fs, "/d/e/z", &b));
	assert_int_equal(a.inode, b.inode);
	assert_int_equal(cfs_stat(fs, "/d/x", &b), -ENOENT);
	assert_int_equal(cfs_stat(fs, "/d/y", &b), -ENOENT);
	ok(cfs_create(fs, "/d/w", CFS_FILE, 0));
	assert_int_equal(cfs_rename(fs, "/d/w", "/d/e/z"), -EEXIST);
	assert_int_equal(cfs_rename(fs, "/d/none", "/d/n"), -ENOENT);
	assert_int_equal(cfs_rename(fs, "/d", "/d/e/f/g"), -EINVAL);
	assert_int_equal(cfs_rename(fs, "/d/e", "/d/e/f/g"), -EINVAL);
	ok(cfs_rename(fs, "/d/e/f", "/f"));
	ok(cfs_rename(fs, "/d", "/f/d"));
	ok(cfs_stat(fs, "/f/d/e/z", &b));
	assert_int_equal(a.inode, b.inode);
	assert_int_equal(cfs_unlink(fs, "/f"), -ENOTEMPTY);
	assert_int_equal(cfs_unlink(fs, "/f/d/e"), -ENOTEMPTY);
	ok(cfs_unlink(fs, "/f/d/e/z"));
	ok(cfs_unlink(fs, "/f/d/e"));
}

static void put(struct cfs *fs, const char *path, const char *text)
{
	struct cfs_file *file;

	ok(cfs_create(fs, path, CFS_FILE, 0));
	ok(cfs_open(fs, path, CFS_OPEN_WRITE, 0, &file));
	assert_int_equal(cfs_pwrite(file, text, strlen(text), 0), strlen(text));
	ok(cfs_close(file));
}

static void test_replace(void **state)
{
	struct cfs *fs = fs_of(state);
	struct cfs_stat st, before;
	struct cfs_file *file;
	char text[64];

	ok(cfs_mkdir(fs, "/p"));
	ok(cfs_mkdir(fs, "/q"));
	put(fs, "/p/f", "old");
	for (unsigned i = 0; i < 40; i++) { /* names around it, in one leaf or more */
		snprintf(text, sizeof(text), "/p/name-%u", i);
		ok(cfs_create(fs, text, CFS_FILE, 0));
		snprintf(text, sizeof(text), "new content %u", i);
		put(fs, "/p/g", text);
		ok(cfs_stat(fs, "/p/g", &before));
		ok(cfs_replace(fs, "/p/g", "/p/f"));
		assert_int_equal(cfs_stat(fs, "/p/g", &st), -ENOENT);
		ok(cfs_stat(fs, "/p/f", &st));
		assert_int_equal(st.inode, before.inode);
		assert_int_equal(entries(fs, "/p"), i + 2);
	}
	put(fs, "/q/g", "elsewhere");
	assert_int_equal(cfs_replace(fs, "/q/g", "/p/f"), -EINVAL);
	assert_int_equal(cfs_replace(fs, "/p/f", "/p/f"), -EINVAL);
	assert_int_equal(cfs_replace(fs, "/p", "/q"), -EINVAL);
	assert_int_equal(cfs_replace(fs, "/p/none", "/p/f"), -ENOENT);
	assert_int_equal(cfs_replace(fs, "/p/f", "/p/none"), -ENOENT);
	ok(cfs_open(fs, "/p/name-0", CFS_OPEN_WRITE, 0, &file));
	assert_int_equal(cfs_replace(fs, "/p/f", "/p/name-0"), -EBUSY);
	ok(cfs_close(file));
	ok(cfs_replace(fs, "/p/f", "/p/name-0"));
	ok(cfs_open(fs, "/p/name-0", 0, 0, &file));
	assert_int_equal(cfs_pread(file, text, sizeof(text), 0), 14);
	assert_memory_equal(text, "new content 39", 14);
	ok(cfs_close(file));
}

/* Splits up to a second level, walks while it changes, deletes it all. */
static void test_many(void **state)
{
	struct cfs *fs = fs_of(state);
	const unsigned n = 3000;
	struct cfs_stat st;
	char path[300];

	ok(cfs_mkdir(fs, "/many"));
	for (unsigned i = 0; i < n; i++) {
		snprintf(path, sizeof(path), "/many/name-%u-%.*s", i, (int)(i % 60),
			 "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx");
		ok(cfs_create(fs, path, CFS_FILE, 0));
	}
	assert_int_equal(entries(fs, "/many"), n);
	for (unsigned i = 0; i < n; i += 2) {
		snprintf(path, sizeof(path), "/many/name-%u-%.*s", i, (int)(i % 60),
			 "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx");
		ok(cfs_unlink(fs, path));
		assert_int_equal(cfs_stat(fs, path, &st), -ENOENT);
	}
	assert_int_equal(entries(fs, "/many"), n / 2);
	ok(cfs_stat(fs, "/many", &st));
	assert_int_equal(st.size, n / 2);
}

/* Any alignment and size against a copy in memory; also across units, leaves and out of the inode. */
static void test_io(void **state)
{
	struct cfs *fs = fs_of(state);
	const size_t size = 24 * MiB;
	uint8_t *model = calloc(1, size), *buf = malloc(4 * MiB);
	struct cfs_file *f;
	struct cfs_stat st;
	uint64_t end = 0;

	srand(3);
	ok(cfs_create(fs, "/f", CFS_FILE, 0));
	ok(cfs_open(fs, "/f", CFS_OPEN_WRITE, 0, &f));
	for (unsigned i = 0; i < 300; i++) {
		size_t limit = i < 20 ? 3000 : i < 100 ? 200000 : size;
		size_t most = i < 20 ? 500 : i % 7 == 0 ? 3 * MiB : 40000;
		uint64_t at = (uint64_t)(((uint64_t)rand() << 16 ^ (uint64_t)rand()) % limit);
		size_t n = 1 + (size_t)rand() % most;

		n = MIN(n, size - at);
		if (rand() % 3) {
			lun_pattern(buf, ROUND_UP(n, 8), i);
			memcpy(model + at, buf, n);
			assert_int_equal(cfs_pwrite(f, buf, n, at), n);
			end = MAX(end, at + n);
		} else {
			uint64_t have = at < end ? MIN(n, end - at) : 0;

			assert_int_equal(cfs_pread(f, buf, n, at), have);
			assert_memory_equal(buf, model + at, have);
		}
	}
	cfs_file_stat(f, &st);
	assert_int_equal(st.size, end);
	for (uint64_t cut = 5; cut > 0; cut--) { /* shrink, then grow: zeroes behind */
		uint64_t to = end * cut / 6 + 77;

		ok(cfs_truncate(f, to));
		memset(model + to, 0, size - to);
		ok(cfs_truncate(f, MIN(end, to + MiB)));
		assert_int_equal(cfs_pread(f, buf, 2 * MiB, to - 1000),
				 MIN(2 * MiB, MIN(end, to + MiB) - to + 1000));
		assert_memory_equal(buf, model + to - 1000, MIN(end, to + MiB) - to + 1000);
	}
	ok(cfs_fsync(f));
	ok(cfs_close(f));
	ok(cfs_open(fs, "/f", 0, 0, &f));
	assert_int_equal(cfs_pwrite(f, buf, 1, 0), -EPERM);
	assert_int_equal(cfs_pread(f, buf, 64, 0), 64);
	assert_memory_equal(buf, model, 64);
	assert_int_equal(cfs_unlink(fs, "/f"), -EBUSY);
	ok(cfs_close(f));
	free(model);
	free(buf);
}

struct runs {
	unsigned n;
	uint64_t bytes;
};

static int add_run(void *arg, uint64_t offset, uint64_t length, unsigned extent, uint64_t address)
{
	struct runs *r = arg;

	(void)offset;
	assert_int_equal(extent, 0);
	assert_true(address % 4096 == 0 && address + length <= 256 * MiB);
	r->n++;
	r->bytes += length;
	return 0;
}

static void test_sparse_and_thick(void **state)
{
	struct cfs *fs = fs_of(state);
	struct runs r = {0};
	struct cfs_file *f;
	struct cfs_stat st;
	uint8_t buf[8192];

	ok(cfs_create(fs, "/thin", CFS_DISK, 4 * TiB));
	ok(cfs_open(fs, "/thin", CFS_OPEN_WRITE, 0, &f));
	memset(buf, 7, sizeof(buf));
	assert_int_equal(cfs_pwrite(f, buf, 8192, 3 * TiB), 8192);
	assert_int_equal(cfs_pwrite(f, buf, 8192, 4 * TiB - 4096), -EINVAL);
	assert_int_equal(cfs_pread(f, buf, 8192, 4 * TiB - 4096), 4096);
	ok(cfs_extents(f, add_run, &r));
	assert_int_equal(r.n, 1);
	assert_int_equal(r.bytes, 8192);
	cfs_file_stat(f, &st);
	assert_int_equal(st.allocated, 65536);
	ok(cfs_close(f));
	ok(cfs_create(fs, "/thick", CFS_DISK, 30 * MiB));
	ok(cfs_open(fs, "/thick", CFS_OPEN_WRITE, 0, &f));
	ok(cfs_allocate(f, 0, 30 * MiB));
	cfs_file_stat(f, &st);
	assert_int_equal(st.allocated, 30 * MiB);
	assert_true(st.thick);
	assert_int_equal(cfs_pread(f, buf, 4096, 5 * MiB), 4096);
	assert_true(buf[0] == 0 && buf[4095] == 0);
	ok(cfs_truncate(f, 60 * MiB));
	ok(cfs_close(f));
}

/* Space of what was deleted comes back, also to be written again. */
static void test_space(void **state)
{
	struct cfs *fs = fs_of(state);
	uint8_t *buf = calloc(1, MiB);
	struct cfs_file *f;

	for (unsigned round = 0; round < 5; round++) {
		int64_t rc = 0;

		ok(cfs_create(fs, "/big", CFS_FILE, 0));
		ok(cfs_open(fs, "/big", CFS_OPEN_WRITE, 0, &f));
		for (unsigned i = 0; i < 150; i++) {
			rc = cfs_pwrite(f, buf, MiB, i * MiB);
			if (rc < 0)
				print_error("round %u, MiB %u: %s\n", round, i,
					    err_message((int)rc));
			assert_int_equal(rc, MiB);
		}
		ok(cfs_close(f));
		ok(cfs_unlink(fs, "/big"));
		ok(cfs_sync(fs));
		for (unsigned i = 0; i < 200; i++) {
			struct cfs_info info;

			ok(cfs_info(fs, &info));
			if (info.free > 200 * MiB)
				break;
			sleep_ms(20);
		}
	}
	/* full: an error, and what was written stays */
	ok(cfs_create(fs, "/full", CFS_FILE, 0));
	ok(cfs_open(fs, "/full", CFS_OPEN_WRITE, 0, &f));
	for (uint64_t at = 0;; at += MiB) {
		int64_t n = cfs_pwrite(f, buf, MiB, at);

		if (n < 0) {
			assert_int_equal(n, -ENOSPC);
			break;
		}
		assert_true(at < 256 * MiB);
	}
	ok(cfs_close(f));
	ok(cfs_unlink(fs, "/full"));
	free(buf);
}

/* What one host does the other sees; files in use are refused with a name; a dead host's go on. */
static void test_two_hosts(void **state)
{
	struct vol *v = *state;
	struct cfs *a = v->fs[0], *b;
	struct cfs_file *f, *g;
	struct cfs_stat st;
	struct err_info e;
	char buf[16];
	int rc;

	ok(vol_mount(v, 1, NULL));
	b = v->fs[1];
	ok(cfs_mkdir(a, "/dir"));
	ok(cfs_create(a, "/dir/one", CFS_FILE, 0));
	ok(cfs_create(b, "/dir/two", CFS_FILE, 0));
	assert_int_equal(entries(a, "/dir"), 2);
	assert_int_equal(entries(b, "/dir"), 2);
	ok(cfs_open(a, "/dir/one", CFS_OPEN_WRITE, 0, &f));
	assert_int_equal(cfs_pwrite(f, "hello", 5, 0), 5);
	rc = cfs_open(b, "/dir/one", 0, 0, &g);
	assert_int_equal(rc, -EBUSY);
	err_save(&e, rc);
	assert_non_null(strstr(e.holder, "host0"));
	assert_int_equal(cfs_unlink(b, "/dir/one"), -EBUSY);
	ok(cfs_stat(b, "/dir/one", &st)); /* what is known of it */
	ok(cfs_close(f));
	ok(cfs_open(b, "/dir/one", 0, 0, &g));
	assert_int_equal(cfs_pread(g, buf, 16, 0), 5);
	assert_memory_equal(buf, "hello", 5);
	ok(cfs_close(g));
	ok(cfs_rename(b, "/dir/one", "/dir/three"));
	ok(cfs_unlink(a, "/dir/two"));
	ok(cfs_open(a, "/dir/three", CFS_OPEN_WRITE, 0, &f));
	assert_int_equal(cfs_pwrite(f, "again", 5, 0), 5);
	ok(cfs_fsync(f));
	vol_abandon(v, 0); /* with the file open */
	for (unsigned i = 0; i < 100; i++) {
		rc = cfs_open(b, "/dir/three", 0, 0, &g);
		if (rc == 0)
			break;
		assert_int_equal(rc, -EBUSY);
		sleep_ms(100);
	}
	ok(rc);
	assert_int_equal(cfs_pread(g, buf, 16, 0), 5);
	assert_memory_equal(buf, "again", 5);
	ok(cfs_close(g));
}

struct crowd {
	struct cfs *fs;
	unsigned me, other;
	_Atomic unsigned *made; /* by each host: how many of its names are there to be deleted */
	int rc;
	char why[300];
};

/* Creates names of its own and deletes the other host's, in the one directory that both want. */
static void *crowd_main(void *arg)
{
	struct crowd *c = arg;
	char path[64];
	unsigned gone = 0;

	for (unsigned i = 0; i < 25 && c->rc == 0; i++) {
		snprintf(path, sizeof(path), "/crowd/%u.%u", c->me, i);
		c->rc = cfs_create(c->fs, path, CFS_FILE, 0);
		if (c->rc == 0)
			c->made[c->me]++;
		while (c->rc == 0 && gone < c->made[c->other]) {
			snprintf(path, sizeof(path), "/crowd/%u.%u", c->other, gone++);
			c->rc = cfs_unlink(c->fs, path);
		}
	}
	if (c->rc < 0)
		snprintf(c->why, sizeof(c->why), "%s: %s", path, err_message(c->rc));
	return NULL;
}

static void test_two_hosts_in_one_directory(void **state)
{
	struct vol *v = *state;
	_Atomic unsigned made[2] = {0, 0};
	struct crowd c[2] = {{.me = 0, .other = 1, .made = made},
			     {.me = 1, .other = 0, .made = made}};
	pthread_t thread[2];

	ok(vol_mount(v, 1, NULL));
	ok(cfs_mkdir(v->fs[0], "/crowd"));
	for (unsigned i = 0; i < 2; i++) {
		c[i].fs = v->fs[i];
		assert_int_equal(pthread_create(&thread[i], NULL, crowd_main, &c[i]), 0);
	}
	for (unsigned i = 0; i < 2; i++)
		pthread_join(thread[i], NULL);
	for (unsigned i = 0; i < 2; i++) {
		if (c[i].rc < 0)
			print_error("host%u: %s\n", i, c[i].why);
		assert_int_equal(c[i].rc, 0);
	}
}

struct creator {
	struct cfs *fs;
	int rc;
};

static void *creator_main(void *arg)
{
	struct creator *c = arg;

	c->rc = cfs_create(c->fs, "/d/new", CFS_FILE, 0);
	return NULL;
}

struct wish {
	uint64_t vbn;
	bool wanted;
};

static void note_wish(void *arg, const struct cfs_lock_info *info)
{
	struct wish *w = arg;

	w->wanted |= info->vbn == w->vbn && info->wanted;
}

/*
 * Directories' locks come before groups'. Who waits for a directory must have no group to himself: the
 * directory's holder may be on his way to take it.
 */
static void test_lock_order(void **state)
{
	struct vol *v = *state;
	struct creator c = {.fs = v->fs[0]};
	struct cfs_lock *lock;
	struct cfs_stat st;
	struct wish w = {0};
	pthread_t thread;

	ok(vol_mount(v, 1, NULL));
	ok(cfs_mkdir(v->fs[0], "/d")); /* the first host's group: new inodes come from there */
	ok(cfs_stat(v->fs[1], "/d", &st));
	/* Shared, so that the name can be looked up; it is the change that must wait. */
	ok(cfs_lock_get(v->fs[1], st.inode - 1, CFS_LOCK_SHARED, 20000, &lock));
	assert_int_equal(pthread_create(&thread, NULL, creator_main, &c), 0);
	w.vbn = st.inode - 1;
	for (unsigned i = 0; i < 1000 && !w.wanted; i++) { /* it waits for the directory now */
		ok(cfs_locks_list(v->fs[1], note_wish, &w));
		sleep_ms(10);
	}
	assert_true(w.wanted);
	ok(cfs_group_hold(v->fs[1], cfs_group_of(v->fs[1], st.inode)));
	cfs_group_unhold(v->fs[1], cfs_group_of(v->fs[1], st.inode));
	cfs_lock_put(lock);
	pthread_join(thread, NULL);
	ok(c.rc);
}

struct said {
	unsigned lines, damaged;
	bool root;
};

static void listen_to(void *arg, const char *text)
{
	struct said *d = arg;

	d->lines++;
	d->damaged += strstr(text, "DAMAGED") != NULL;
	d->root |= strcmp(text, "kind: directory, work: none, flags: 0") == 0;
}

/* The whole in short, and the root's inode, of a volume that is mounted: reads only. */
static void test_dump(void **state)
{
	struct vol *v = *state;
	struct said all = {0}, one = {0};
	struct cfs_stat st;

	ok(cfs_stat(v->fs[0], "/", &st));
	ok(cfs_dump(&v->blk[0], 1, UINT64_MAX, listen_to, &all));
	assert_true(all.lines > 63); /* a line a group at least */
	assert_int_equal(all.damaged, 0);
	ok(cfs_dump(&v->blk[0], 1, st.inode, listen_to, &one));
	assert_true(one.root);
	assert_int_equal(one.damaged, 0);
	assert_int_equal(cfs_dump(&v->blk[0], 1, 1ULL << 38, listen_to, &one), -EINVAL);
}

/* A free inode whose lock somebody keeps (a host that died after a deletion) hinders no creation. */
static void test_create_past_a_lock(void **state)
{
	struct cfs *fs = fs_of(state);
	struct cfs_stat root, st;
	struct cfs_lock *lock;
	uint64_t kept;

	ok(cfs_mkdir(fs, "/first"));
	ok(cfs_stat(fs, "/", &root));
	ok(cfs_meta_reserve(fs, CFS_SLAB_INODE, root.inode, &kept));
	ok(cfs_lock_get(fs, kept - 1, CFS_LOCK_EXCLUSIVE, 0, &lock));
	cfs_meta_unreserve(fs, CFS_SLAB_INODE, kept);
	ok(cfs_create(fs, "/passed", CFS_FILE, 0));
	ok(cfs_stat(fs, "/passed", &st));
	assert_int_not_equal(st.inode, kept);
	cfs_lock_put(lock);
	ok(cfs_create(fs, "/next", CFS_FILE, 0)); /* it is free still, and the next */
	ok(cfs_stat(fs, "/next", &st));
	assert_int_equal(st.inode, kept);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_paths, setup, teardown),
		cmocka_unit_test_setup_teardown(test_rename, setup, teardown),
		cmocka_unit_test_setup_teardown(test_replace, setup, teardown),
		cmocka_unit_test_setup_teardown(test_many, setup, teardown),
		cmocka_unit_test_setup_teardown(test_io, setup, teardown),
		cmocka_unit_test_setup_teardown(test_sparse_and_thick, setup, teardown),
		cmocka_unit_test_setup_teardown(test_space, setup, teardown),
		cmocka_unit_test_setup_teardown(test_two_hosts, setup, teardown),
		cmocka_unit_test_setup_teardown(test_two_hosts_in_one_directory, setup, teardown),
		cmocka_unit_test_setup_teardown(test_lock_order, setup, teardown),
		cmocka_unit_test_setup_teardown(test_create_past_a_lock, setup, teardown),
		cmocka_unit_test_setup_teardown(test_dump, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
