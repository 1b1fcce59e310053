// SPDX-License-Identifier: Apache-2.0
/*
 * The storage core where hosts, transactions and failing I/O meet: each test is one story that once went
 * wrong.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#undef fail /* base/err.h has its own */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "blockdev/fault.h"
#include "clusterfs/groups.h"
#include "clusterfs/journal.h"
#include "clusterfs/lock.h"
#include "clusterfs/map.h"
#include "clusterfs/names.h"
#include "tests/lib/vol.h"

static void ok(int rc)
{
	if (rc < 0)
		print_error("%s\n", err_message(rc));
	assert_int_equal(rc, 0);
}

static uint64_t root_of(struct cfs *fs)
{
	return le64_get(fs->label.root);
}

/* A metadata block in use, its content an empty one of `type` under `owner`. */
static void put_block(struct cfs *fs, uint64_t vbn, enum cfs_type type, uint64_t owner)
{
	struct cfs_buf *buf;
	struct cfs_txn txn;

	ok(cfs_txn_begin_wait(fs, &txn));
	buf = cfs_buf_new(fs, vbn, type, owner);
	cfs_meta_use(&txn, CFS_SLAB_META, vbn);
	cfs_txn_image(&txn, buf);
	cfs_txn_end(&txn);
	cfs_buf_put(fs, buf);
}

/* Reserves blocks near `near` until it is `vbn`, or all of a slab; gives the others back. */
static bool reserve(struct cfs *fs, uint64_t near, uint64_t vbn)
{
	uint64_t got[CFS_UNIT_BLOCKS];
	unsigned n = 0;
	bool found = false;

	while (!found && n < ARRAY_SIZE(got)) {
		ok(cfs_meta_reserve(fs, CFS_SLAB_META, near, &got[n]));
		found = got[n++] == vbn;
	}
	for (unsigned i = 0; i < n - found; i++)
		cfs_meta_unreserve(fs, CFS_SLAB_META, got[i]);
	return found;
}

/*
 * A block freed here, its group given away before the journal's tail passed that: another host uses it.
 * When the group comes back the block is that host's, in the masks and in the cache.
 */
static void test_freed_and_away(void **state)
{
	struct vol *v = vol_make(256 * MiB);
	uint64_t vbn, mine, its;
	struct cfs_txn txn;
	struct cfs_buf *buf;
	struct cfs *a, *b;
	unsigned g;

	(void)state;
	ok(vol_mount(v, 0, NULL));
	ok(vol_mount(v, 1, NULL));
	a = v->fs[0];
	b = v->fs[1];
	mine = root_of(a) - 1;
	its = le64_get(a->label.trash) - 1;
	ok(cfs_mkdir(a, "/old")); /* what keeps the journal's tail where it is */
	ok(cfs_meta_reserve(a, CFS_SLAB_META, root_of(a), &vbn));
	g = cfs_group_of(a, vbn);
	put_block(a, vbn, CFS_T_DIR_LEAF, mine);
	ok(cfs_group_hold(a, g));
	ok(cfs_txn_begin_wait(a, &txn));
	cfs_meta_free(&txn, CFS_SLAB_META, vbn);
	cfs_txn_end(&txn);
	cfs_group_unhold(a, g);

	ok(cfs_group_hold(b, g));
	assert_true(reserve(b, vbn, vbn));
	put_block(b, vbn, CFS_T_MAP_LEAF, its);
	ok(cfs_checkpoint(b, NULL, 0));
	cfs_group_unhold(b, g);

	ok(cfs_group_hold(a, g));
	ok(cfs_checkpoint(a, NULL, 0));
	groups_settle(a);
	assert_false(reserve(a, vbn, vbn));
	cfs_group_unhold(a, g);
	ok(cfs_buf_get(a, vbn, CFS_T_MAP_LEAF, its, &buf));
	cfs_buf_put(a, buf);
	vol_free(v);
}

/* As above, an inode; its lock stayed here, and it is not in place: nobody makes it a new one yet. */
static void test_inode_freed_and_away(void **state)
{
	struct vol *v = vol_make(256 * MiB);
	struct cfs_inode_block *n;
	uint64_t vbn, again[8];
	struct cfs_lock *lock;
	struct cfs_txn txn;
	struct cfs_buf *buf;
	struct cfs *a, *b;
	unsigned g;

	(void)state;
	ok(vol_mount(v, 0, NULL));
	ok(vol_mount(v, 1, NULL));
	a = v->fs[0];
	b = v->fs[1];
	ok(cfs_meta_reserve(a, CFS_SLAB_INODE, root_of(a), &vbn));
	g = cfs_group_of(a, vbn);
	ok(cfs_lock_get(a, vbn - 1, CFS_LOCK_EXCLUSIVE, 0, &lock));
	ok(cfs_txn_begin_wait(a, &txn));
	buf = cfs_buf_new(a, vbn, CFS_T_INODE, vbn - 1);
	cfs_meta_use(&txn, CFS_SLAB_INODE, vbn);
	cfs_txn_image(&txn, buf);
	cfs_txn_end(&txn);
	ok(cfs_group_hold(a, g));
	ok(cfs_txn_begin_wait(a, &txn));
	n = (struct cfs_inode_block *)buf->data;
	n->kind = CFS_KIND_NONE;
	cfs_txn_patch(&txn, buf, &n->kind, 1);
	cfs_meta_free(&txn, CFS_SLAB_INODE, vbn);
	cfs_txn_end(&txn);
	cfs_group_unhold(a, g);
	cfs_buf_put(a, buf);
	cfs_lock_put(lock);

	ok(cfs_group_hold(b, g));
	cfs_group_unhold(b, g);
	ok(cfs_group_hold(a, g));
	for (unsigned i = 0; i < ARRAY_SIZE(again); i++) {
		ok(cfs_meta_reserve(a, CFS_SLAB_INODE, vbn, &again[i]));
		assert_true(again[i] != vbn);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(again); i++)
		cfs_meta_unreserve(a, CFS_SLAB_INODE, again[i]);
	cfs_group_unhold(a, g);
	vol_free(v);
}

/* Takes a certain unit, which no stock would have given, for an entry. */
static void use_unit(struct cfs_map *map, struct cfs_buf *leaf, unsigned slot, struct group *g,
		     uint32_t unit)
{
	struct cfs_entry e = {.block = group_unit_vbn(g, unit), .birth = map->generation};
	struct cfs *fs = map->fs;
	struct cfs_txn txn;

	pthread_mutex_lock(&fs->groups->lock);
	assert_false(bit_get(g->taken, unit));
	bit_put(g->taken, unit, true);
	g->mem_free--;
	atomic_fetch_add(&g->out, 1);
	pthread_mutex_unlock(&fs->groups->lock);
	ok(cfs_txn_begin_wait(fs, &txn));
	cfs_units_use(&txn, e.block, 1);
	cfs_map_set(&txn, map, leaf, slot, &e);
	cfs_txn_end(&txn);
}

/* Units of a leaf far apart in a group of 32 GiB: each in a bitmap block of its own. */
static void test_units_far_apart(void **state)
{
	struct vol *v = vol_make(8 * TiB);
	uint8_t slot[32];
	struct cfs_file *file;
	struct cfs_map *map;
	struct cfs_buf *leaf;
	struct group *g;
	unsigned n = 0;
	struct cfs *fs;

	(void)state;
	ok(vol_mount(v, 0, NULL));
	fs = v->fs[0];
	ok(cfs_create(fs, "/d", CFS_DISK, 64 * MiB));
	ok(cfs_open(fs, "/d", CFS_OPEN_WRITE, 0, &file));
	map = cfs_file_map(file);
	ok(cfs_map_leaf(map, 0, true, &leaf));
	ok(cfs_group_hold(fs, 3));
	g = group_nth(fs->groups, 3);
	assert_true(g->maps >= 16);
	for (uint32_t unit = CFS_BITMAP_BITS - 1; unit < g->units; unit += CFS_BITMAP_BITS) {
		use_unit(map, leaf, 100 + n, g,
			 unit); /* stays: so that the blocks are not zeroes */
		use_unit(map, leaf, n, g, unit - 1);
		slot[n] = (uint8_t)n;
		n++;
	}
	assert_true(n >= 16);
	/* Now each bitmap block's first change logs the whole of it. */
	ok(cfs_checkpoint(fs, NULL, 0));
	ok(cfs_map_reap(map, leaf, slot, n));
	assert_int_equal(le64_get(((struct cfs_inode_block *)map->inode_buf->data)->allocated), n);
	cfs_group_unhold(fs, 3);
	cfs_buf_put(fs, leaf);
	ok(cfs_close(file));
	ok(vol_unmount(v, 0));
	vol_free(v);
}

/* A host that dies between naming its journal and its first head: nothing to replay, no damage. */
static void test_journal_without_head(void **state)
{
	struct vol *v = vol_make(256 * MiB);
	uint32_t blocks;
	uint64_t vbn;
	struct cfs *fs;

	(void)state;
	ok(vol_mount(v, 0, NULL));
	fs = v->fs[0];
	blocks = cfs_journal_blocks(fs);
	ok(cfs_groups_place_journal(fs, blocks, &vbn));
	ok(cfs_replay(fs, fs->slot, fs->epoch, vbn, blocks, NULL, NULL));
	cfs_group_unhold(fs, cfs_group_of(fs, vbn));
	vol_free(v);
}

/* A disk's lock that stayed behind goes before the VM's: who has that takes the disk without asking. */
static void test_vm_unlock_with_disk(void **state)
{
	struct vol *v = vol_make(256 * MiB);
	struct cfs_lock_owner owner = {.kind = CFS_OWNER_VM};
	struct cfs_lock_record r;
	struct cfs_vm_lock *vm;
	struct cfs_lock *lock;
	struct cfs_stat st;
	struct cfs *fs;

	(void)state;
	ok(vol_mount(v, 0, NULL));
	fs = v->fs[0];
	ok(cfs_create(fs, "/vm", CFS_VM, 0));
	ok(cfs_create(fs, "/d", CFS_DISK, MiB));
	ok(cfs_stat(fs, "/d", &st));
	ok(cfs_vm_lock(fs, "/vm", 0, &vm));
	owner.vm = cfs_vm_lock_vbn(vm);
	ok(cfs_lock_get_as(fs, st.inode - 1, &owner, 1000, &lock));
	cfs_lock_put(lock);
	ok(cfs_lock_read(fs, st.inode - 1, &r));
	assert_int_equal(r.mode, CFS_LOCK_EXCLUSIVE);
	ok(cfs_vm_unlock(vm));
	ok(cfs_lock_read(fs, st.inode - 1, &r));
	assert_int_equal(r.mode, CFS_LOCK_FREE);
	ok(vol_unmount(v, 0));
	vol_free(v);
}

/* INV-BLK-1 for metadata: a write without an answer is told of when it cannot land any more. */
static void test_late_write(void **state)
{
	struct vol *v = vol_make(256 * MiB);
	struct fault f = {.kind = FAULT_LATE_WRITE, .value = 100, .ops = FAULT_WRITE, .times = 1};
	uint8_t *page = xaligned(CFS_BLOCK, CFS_BLOCK);
	struct cfs *fs;
	uint64_t vbn;
	unsigned id;

	(void)state;
	ok(vol_mount(v, 0, NULL));
	fs = v->fs[0];
	ok(blk_fault_wrap(fs->extent[0], &fs->extent[0]));
	v->blk[0] = fs->extent[0];
	vbn = cfs_vbn(0, cfs_vbn_block(root_of(fs)) + 100 * CFS_UNIT_BLOCKS);
	(void)str_format(f.target, sizeof(f.target), "%s", blk_info(fs->extent[0])->id);
	f.from = cfs_vbn_block(vbn) * CFS_BLOCK;
	f.to = f.from + CFS_BLOCK;
	ok(fault_add(&f, &id));
	memset(page, 'o', CFS_BLOCK);
	assert_int_equal(cfs_write(fs, vbn, page, CFS_BLOCK, 0), -ETIMEDOUT);
	memset(page, 'n', CFS_BLOCK);
	ok(cfs_write(fs, vbn, page, CFS_BLOCK, 0));
	sleep_ms(300);
	ok(cfs_read(fs, vbn, page, CFS_BLOCK));
	assert_int_equal(page[0], 'n');
	fault_clear(id);
	free(page);
	ok(vol_unmount(v, 0));
	vol_free(v);
}

/*
 * A host dies in the middle of a deletion: who takes it over ends that, and the space is back, mounted as
 * it is.
 */
static void test_trash_of_the_dead(void **state)
{
	struct vol *v = vol_make(TiB);
	struct cfs_check_result r;
	struct cfs_file *f;
	uint64_t before, now = 0, end, pending;
	struct cfs *b;

	(void)state;
	ok(vol_mount(v, 0, NULL));
	ok(vol_mount(v, 1, NULL));
	b = v->fs[1];
	ok(cfs_create(v->fs[0], "/big", CFS_DISK, 48 * GiB));
	ok(cfs_sync(v->fs[0]));
	before = cfs_groups_free_bytes(b, &pending);
	ok(cfs_open(v->fs[0], "/big", CFS_OPEN_WRITE, 0, &f));
	ok(cfs_allocate(f, 0, 48 * GiB));
	ok(cfs_close(f));
	ok(cfs_unlink(v->fs[0], "/big"));
	ok(cfs_sync(v->fs[0]));
	vol_abandon(v, 0); /* most of it is to be done still */
	end = clock_boot_ms() + 60000;
	while (now + 64 * MiB < before && clock_boot_ms() < end) { /* its slabs stay slabs */
		sleep_ms(50);
		now = cfs_groups_free_bytes(b, &pending);
	}
	assert_true(now + 64 * MiB >= before);
	ok(vol_unmount(v, 1));
	ok(vol_check(v, false, true, &r));
	assert_int_equal(r.findings, 0);
	vol_free(v);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_freed_and_away),
		cmocka_unit_test(test_inode_freed_and_away),
		cmocka_unit_test(test_units_far_apart),
		cmocka_unit_test(test_journal_without_head),
		cmocka_unit_test(test_vm_unlock_with_disk),
		cmocka_unit_test(test_late_write),
		cmocka_unit_test(test_trash_of_the_dead),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
