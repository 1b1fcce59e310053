// SPDX-License-Identifier: Apache-2.0
/* Format, labels, identity: geometry, what is refused, damaged copies, clones. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#undef fail /* base/err.h has its own */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "clusterfs/label.h"
#include "clusterfs/volume.h"
#include "tests/lib/lun.h"

#define LUNS 4

struct fixture {
	unsigned n;
	char *path[LUNS];
	struct blk *blk[LUNS];
};

static void add_lun(struct fixture *f, uint64_t size, uint32_t block_size)
{
	struct blk_options o = {.block_size = block_size};

	f->path[f->n] = lun_make(size);
	assert_int_equal(blk_open(f->path[f->n], &o, &f->blk[f->n]), 0);
	f->n++;
}

static int setup(void **state)
{
	*state = xcalloc(1, sizeof(struct fixture));
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	for (unsigned i = 0; i < f->n; i++) {
		blk_close(f->blk[i]);
		lun_remove(f->path[i]);
	}
	free(f);
	return 0;
}

static const struct cfs_format_options fast = {.name = "v1", .beat_ms = 50, .lease_ms = 300};

static void patch(struct blk *blk, uint64_t block, unsigned at, uint8_t xor_with)
{
	uint8_t buf[CFS_BLOCK];

	assert_int_equal(blk_read(blk, block * CFS_BLOCK, buf, CFS_BLOCK), 0);
	buf[at] ^= xor_with;
	assert_int_equal(blk_write(blk, block * CFS_BLOCK, buf, CFS_BLOCK, 0), 0);
}

/* Every block that format must have written is there, right, and adds up. */
static void check_layout(struct fixture *f, const struct cfs_label *l)
{
	uint32_t whole = le32_get(l->group_units), meta = cfs_group_meta_units(whole);
	uint32_t bitmaps = cfs_group_bitmap_blocks(whole);
	const uint8_t *volume = l->head.volume;
	uint8_t *buf = xaligned(CFS_BLOCK, CFS_GROUPS * CFS_BLOCK);

	assert_int_equal(blk_read(f->blk[0], 0, buf, CFS_GROUPS * CFS_BLOCK), 0);
	for (unsigned i = 0; i < 256 * CFS_BLOCK; i++)
		assert_int_equal(buf[i], 0);
	for (unsigned s = 0; s < CFS_MAX_SLOTS; s++) {
		assert_int_equal(cfs_record_check(buf + (CFS_CLAIMS + s) * CFS_BLOCK, CFS_T_CLAIM,
						  volume, CFS_CLAIMS + s),
				 0);
		assert_int_equal(cfs_record_check(buf + (CFS_BEATS + s) * CFS_BLOCK, CFS_T_BEAT,
						  volume, CFS_BEATS + s),
				 0);
	}
	assert_int_equal(cfs_record_check(buf + CFS_LABEL_LOCK * CFS_BLOCK, CFS_T_LOCK, volume,
					  CFS_LABEL_LOCK),
			 0);
	for (unsigned e = 0; e < f->n; e++) {
		const struct cfs_extent_entry *x = &l->extent_table[e];

		for (uint32_t g = 0; g < le32_get(x->groups); g++) {
			uint64_t at = CFS_GROUPS + (uint64_t)g * whole * CFS_UNIT_BLOCKS;
			uint64_t vbn = cfs_vbn(e, at);
			struct cfs_group *head = (void *)(buf + CFS_BLOCK);
			uint32_t units = g + 1 == le32_get(x->groups) ? le32_get(x->last_units)
								      : whole;
			uint32_t root = e == 0 && g == 0, set = 0;

			assert_true(at + (uint64_t)units * CFS_UNIT_BLOCKS <= le64_get(x->blocks));
			assert_int_equal(blk_read(f->blk[e], at * CFS_BLOCK, buf, meta * CFS_UNIT),
					 0);
			assert_int_equal(cfs_record_check(buf, CFS_T_LOCK, volume, vbn), 0);
			assert_int_equal(cfs_block_check(head, CFS_T_GROUP, volume, vbn + 1), 0);
			assert_int_equal(le32_get(head->units), units);
			assert_int_equal(le32_get(head->meta_units), meta);
			assert_int_equal(le32_get(head->free_units), units - meta - root);
			for (uint32_t i = 0; i < 2 * bitmaps; i++) {
				struct cfs_bitmap *b = (void *)(buf + (2 + i) * CFS_BLOCK);

				assert_int_equal(
					cfs_block_check(b,
							i < bitmaps ? CFS_T_BITMAP : CFS_T_RECLAIM,
							volume, vbn + 2 + i),
					0);
				for (unsigned k = 0; k < sizeof(b->bits); k++)
					set += (uint32_t)__builtin_popcount(b->bits[k]);
			}
			assert_int_equal(set, meta + root);
		}
	}
	for (unsigned i = 0; i < 2; i++) {
		uint64_t vbn = le64_get(i ? l->trash : l->root);
		struct cfs_inode_block *inode = (void *)(buf + CFS_BLOCK);

		assert_int_equal(blk_read(f->blk[0], (vbn - 1) * CFS_BLOCK, buf, 2 * CFS_BLOCK), 0);
		assert_int_equal(cfs_record_check(buf, CFS_T_LOCK, volume, vbn - 1), 0);
		assert_int_equal(cfs_block_check(inode, CFS_T_INODE, volume, vbn), 0);
		assert_int_equal(inode->kind, CFS_KIND_DIR);
		assert_int_equal(le64_get(inode->root), 0);
	}
	free(buf);
}

static void test_sizes(void **state)
{
	static const struct {
		unsigned n;
		uint64_t size;
		uint32_t block;
	} t[] = {{1, 256 * MiB, 512},
		 {2, 133 * MiB + 512, 512},
		 {1, 300 * MiB + 4096, 4096},
		 {3, 5 * GiB, 512}};

	(void)state;
	for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
		struct fixture *f = xcalloc(1, sizeof(*f));
		struct blk *ordered[LUNS], *shuffled[LUNS];
		struct cfs_identity id;
		struct cfs_label l;

		for (unsigned k = 0; k < t[i].n; k++)
			add_lun(f, t[i].size, t[i].block);
		assert_int_equal(cfs_format(f->blk, f->n, &fast), 0);
		for (unsigned k = 0; k < f->n; k++)
			shuffled[k] = f->blk[f->n - 1 - k];
		assert_int_equal(cfs_label_load(shuffled, f->n, &l, ordered), 0);
		for (unsigned k = 0; k < f->n; k++) {
			assert_ptr_equal(ordered[k], f->blk[k]);
			assert_int_equal(cfs_identify(f->blk[k], &id), 0);
			assert_int_equal(id.extent, k);
			assert_int_equal(id.extents, f->n);
			assert_string_equal(id.lun, blk_info(f->blk[k])->id);
			assert_string_equal(id.name, "v1");
		}
		check_layout(f, &l);
		teardown((void **)&f);
	}
}

/* 64 TiB over sparse files: seconds, not minutes. */
static void test_large(void **state)
{
	struct fixture *f = *state;
	struct blk *ordered[LUNS];
	struct cfs_label l;
	uint64_t start;

	for (unsigned k = 0; k < 4; k++)
		add_lun(f, 15 * TiB, 512);
	start = clock_boot_ms();
	assert_int_equal(cfs_format(f->blk, f->n, &fast), 0);
	start = clock_boot_ms() - start;
	print_message("60 TiB: %llu ms\n", (unsigned long long)start);
	assert_true(start < 30000);
	assert_int_equal(cfs_label_load(f->blk, f->n, &l, ordered), 0);
	assert_int_equal(le32_get(l.group_units), CFS_MAX_GROUP / CFS_UNIT);
}

static void test_refuses(void **state)
{
	struct fixture *f = *state;
	struct cfs_format_options o = fast, insist = fast;
	struct blk *twice[2];
	uint8_t buf[1024] = {0};

	insist.overwrite = true;
	add_lun(f, 256 * MiB, 512);
	add_lun(f, 256 * MiB, 4096);
	add_lun(f, 255 * MiB, 512);
	add_lun(f, 2 * MiB, 512);
	assert_int_equal(cfs_format(f->blk, 2, &fast), -EINVAL); /* mixed block sizes */
	assert_int_equal(cfs_format(f->blk + 2, 1, &fast), -EINVAL);
	assert_int_equal(cfs_format(f->blk + 3, 1, &fast), -EINVAL);
	twice[0] = twice[1] = f->blk[0];
	assert_int_equal(cfs_format(twice, 2, &fast), -EINVAL);
	assert_non_null(strstr(err_message(-EINVAL), "one and the same"));
	o.name = "a/b";
	assert_int_equal(cfs_format(f->blk, 1, &o), -EINVAL);
	o.name = "";
	assert_int_equal(cfs_format(f->blk, 1, &o), -EINVAL);

	buf[510] = 0x55;
	buf[511] = 0xaa;
	assert_int_equal(blk_write(f->blk[0], 0, buf, 1024, 0), 0);
	assert_int_equal(cfs_format(f->blk, 1, &fast), -EPERM);
	assert_non_null(strstr(err_message(-EPERM), "partition table"));
	assert_non_null(strstr(err_message(-EPERM), "--overwrite"));
	memset(buf, 0, sizeof(buf));
	buf[56] = 0x53;
	buf[57] = 0xef;
	assert_int_equal(blk_write(f->blk[0], 1024, buf, 512, 0), 0);
	assert_int_equal(cfs_format(f->blk, 1, &fast), -EPERM);
	assert_non_null(strstr(err_message(-EPERM), "ext2"));
	assert_int_equal(cfs_format(f->blk, 1, &insist), 0);

	/* A volume that nobody uses. */
	assert_int_equal(cfs_format(f->blk, 1, &fast), -EPERM);
	assert_non_null(strstr(err_message(-EPERM), "--overwrite"));
	assert_int_equal(cfs_format(f->blk, 1, &insist), 0);
	patch(f->blk[0], CFS_LABEL_A, 0x50, 1);
	patch(f->blk[0], CFS_LABEL_B, 0x50, 1);
	assert_int_equal(cfs_format(f->blk, 1, &fast), -EPERM);
	assert_int_equal(cfs_format(f->blk, 1, &insist), 0);
}

static void set_claim(struct fixture *f, const struct cfs_label *l, unsigned slot, uint8_t to)
{
	uint8_t buf[CFS_BLOCK];
	struct cfs_claim_record *claim = (void *)buf;
	uint64_t vbn = cfs_vbn(0, CFS_CLAIMS + slot);

	assert_int_equal(blk_read(f->blk[0], vbn * CFS_BLOCK, buf, CFS_BLOCK), 0);
	claim->state = to;
	(void)str_format(claim->name, sizeof(claim->name), "alpha");
	cfs_record_seal(buf, CFS_T_CLAIM, l->head.volume, vbn);
	assert_int_equal(blk_write(f->blk[0], vbn * CFS_BLOCK, buf, CFS_BLOCK, 0), 0);
}

struct beater {
	struct blk *blk;
	const struct cfs_label *label;
	pthread_t thread;
	_Atomic bool stop;
};

static void *beater_main(void *arg)
{
	struct beater *b = arg;
	uint8_t buf[CFS_BLOCK] = {0};
	struct cfs_beat_record *beat = (void *)buf;
	uint64_t vbn = cfs_vbn(0, CFS_BEATS + 5), n = 0;

	while (!b->stop) {
		beat->head.sequence = le64_of(++n);
		cfs_record_seal(buf, CFS_T_BEAT, b->label->head.volume, vbn);
		if (blk_write(b->blk, vbn * CFS_BLOCK, buf, CFS_BLOCK, 0) < 0)
			abort();
		sleep_ms(20);
	}
	return NULL;
}

/* A live volume is refused whatever is said; one whose host is silent, or holds nothing, is not. */
static void test_live(void **state)
{
	struct fixture *f = *state;
	/* Patient: the beater is a thread of a machine that may be busy. */
	struct cfs_format_options insist = {.name = "v1", .beat_ms = 100, .silence_beats = 20};
	struct blk *ordered[LUNS], *other;
	struct beater b = {0};
	struct cfs_label l;

	add_lun(f, 256 * MiB, 512);
	add_lun(f, 256 * MiB, 512);
	assert_int_equal(cfs_format(f->blk, 2, &insist), 0);
	insist.overwrite = true;
	assert_int_equal(cfs_label_load(f->blk, 2, &l, ordered), 0);
	set_claim(f, &l, 5, CFS_SLOT_ACTIVE);
	b.blk = f->blk[0];
	b.label = &l;
	assert_int_equal(pthread_create(&b.thread, NULL, beater_main, &b), 0);
	assert_int_equal(cfs_format(f->blk, 2, &insist), -EPERM);
	assert_non_null(strstr(err_message(-EPERM), "host alpha"));
	assert_int_equal(cfs_format(f->blk, 1, &insist), -EPERM);
	/* Its second LUN alone: nobody can see whether it lives. */
	assert_int_equal(cfs_format(f->blk + 1, 1, &insist), -EPERM);
	assert_non_null(strstr(err_message(-EPERM), "format both together"));
	b.stop = true;
	pthread_join(b.thread, NULL);
	/* Silent, but its process still holds the LUN: stopped, perhaps. */
	assert_int_equal(blk_open(f->path[0], NULL, &other), 0);
	assert_int_equal(blk_host_lock(other, 5), 0);
	assert_int_equal(cfs_format(f->blk, 2, &insist), -EPERM);
	blk_close(other);
	assert_int_equal(cfs_format(f->blk, 2, &insist), 0);
}

static void test_damaged(void **state)
{
	struct fixture *f = *state;
	struct blk *ordered[LUNS];
	struct cfs_identity id;
	struct cfs_label l;
	uint8_t buf[CFS_BLOCK];

	add_lun(f, 256 * MiB, 512);
	assert_int_equal(cfs_identify(f->blk[0], &id), -ENOENT);
	assert_int_equal(cfs_format(f->blk, 1, &fast), 0);
	patch(f->blk[0], CFS_LABEL_A, 0x45, 0x80);
	assert_int_equal(cfs_label_load(f->blk, 1, &l, ordered), 0);
	assert_int_equal(cfs_identify(f->blk[0], &id), 0);
	patch(f->blk[0], CFS_LABEL_B, 0xfff, 1);
	assert_int_equal(cfs_label_load(f->blk, 1, &l, ordered), -EUCLEAN);
	assert_int_equal(cfs_identify(f->blk[0], &id), -EUCLEAN);
	patch(f->blk[0], CFS_LABEL_B, 0xfff, 1);
	memset(buf, 0, sizeof(buf));
	assert_int_equal(blk_write(f->blk[0], CFS_LABEL_A * CFS_BLOCK, buf, CFS_BLOCK, 0), 0);
	assert_int_equal(cfs_label_load(f->blk, 1, &l, ordered), 0);

	/* A newer format, and a feature we do not know. */
	for (unsigned at = 0x80; at <= 0x8c; at += 4) {
		struct cfs_label newer = l;

		((uint8_t *)&newer)[at] |= 0x40;
		memcpy(buf, &newer, CFS_BLOCK);
		for (unsigned c = 0; c < 2; c++) {
			uint64_t block = c ? CFS_LABEL_B : CFS_LABEL_A;

			cfs_block_seal(buf, CFS_T_LABEL, l.head.volume, cfs_vbn(0, block));
			assert_int_equal(blk_write(f->blk[0], block * CFS_BLOCK, buf, CFS_BLOCK, 0),
					 0);
		}
		assert_int_equal(cfs_label_load(f->blk, 1, &newer, ordered),
				 at == 0x84 ? 0 : -EPERM); /* compat: mounts all the same */
	}
}

static void copy_lun(struct blk *from, struct blk *to)
{
	size_t n = 8 * MiB;
	uint8_t *buf = xaligned(CFS_BLOCK, n);

	assert_int_equal(blk_read(from, 0, buf, n), 0);
	assert_int_equal(blk_write(to, 0, buf, n, 0), 0);
	free(buf);
}

static void test_clone(void **state)
{
	struct fixture *f = *state;
	struct blk *ordered[LUNS];
	struct cfs_label l, origin;

	for (unsigned i = 0; i < 4; i++)
		add_lun(f, 256 * MiB, 512);
	assert_int_equal(cfs_format(f->blk, 2, &fast), 0);
	assert_int_equal(cfs_label_load(f->blk, 2, &origin, ordered), 0);
	set_claim(f, &origin, 5, CFS_SLOT_ACTIVE);
	copy_lun(f->blk[0], f->blk[2]);
	copy_lun(f->blk[1], f->blk[3]);
	assert_int_equal(cfs_label_load(f->blk + 2, 2, &l, ordered), -EPERM);
	assert_non_null(strstr(err_message(-EPERM), "--new-identity"));
	assert_int_equal(cfs_label_load(f->blk, 3, &l, ordered),
			 -EPERM); /* the same extent twice */
	assert_non_null(strstr(err_message(-EPERM), "clone"));
	assert_int_equal(cfs_label_load(f->blk, 1, &l, ordered), -ENOENT); /* one is missing */
	assert_int_equal(cfs_label_new_identity(f->blk, 2), -EPERM);	   /* no clone */
	assert_int_equal(cfs_label_new_identity(f->blk + 2, 2), 0);
	assert_int_equal(cfs_label_load(f->blk + 2, 2, &l, ordered), 0);
	assert_memory_not_equal(l.identity, origin.identity, 16);
	assert_int_equal(cfs_label_load(f->blk, 2, &l, ordered), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sizes),
		cmocka_unit_test_setup_teardown(test_large, setup, teardown),
		cmocka_unit_test_setup_teardown(test_refuses, setup, teardown),
		cmocka_unit_test_setup_teardown(test_live, setup, teardown),
		cmocka_unit_test_setup_teardown(test_damaged, setup, teardown),
		cmocka_unit_test_setup_teardown(test_clone, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
