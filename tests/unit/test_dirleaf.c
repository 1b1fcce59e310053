// SPDX-License-Identifier: Apache-2.0
/* test_dirleaf.c: packing and splitting directory leaves on raw blocks, against a plain list. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "clusterfs/dirleaf.h"
#include "clusterfs/validate.h"

struct model {
	unsigned n;
	struct cfs_dirent e[400];
};

static int by_order(const void *a, const void *b)
{
	const struct cfs_dirent *x = a, *y = b;
	int order;

	if (x->hash != y->hash)
		return x->hash < y->hash ? -1 : 1;
	order = memcmp(x->name, y->name, x->len < y->len ? x->len : y->len);
	return order ? order : (int)x->len - (int)y->len;
}

static void same(const struct cfs_dir_leaf *leaf, struct model *m)
{
	struct cfs_dirent e;
	unsigned at = 0, i = 0, next;

	assert_int_equal(cfs_block_validate(leaf, CFS_T_DIR_LEAF), 0);
	qsort(m->e, m->n, sizeof(m->e[0]), by_order);
	while ((next = cfs_dirleaf_entry(leaf, at, &e))) {
		assert_true(i < m->n);
		assert_memory_equal(&e, &m->e[i], sizeof(e));
		at = next;
		i++;
	}
	assert_int_equal(i, m->n);
	assert_int_equal(i, le16_get(leaf->entries));
}

static void random_name(struct cfs_dirent *e, unsigned i)
{
	char name[256];
	unsigned len = (unsigned)snprintf(name, sizeof(name), "n%u-", i);
	unsigned want = len + (unsigned)rand() % (rand() % 4 ? 20 : 255 - len);

	while (len < want)
		name[len++] = (char)('a' + rand() % 26);
	cfs_dirent_set(e, name, len, (enum cfs_kind)(1 + rand() % 4), 16 + (unsigned)rand());
}

static void test_random_changes(void **state)
{
	struct cfs_dir_leaf *leaf = calloc(1, sizeof(*leaf));
	struct model *m = calloc(1, sizeof(*m));

	(void)state;
	srand(7);
	for (unsigned i = 0; i < 20000; i++) {
		struct cfs_dirent e;
		bool found;
		unsigned at;

		if (m->n && rand() % 3 == 0) {
			unsigned k = (unsigned)rand() % m->n;

			at = cfs_dirleaf_find(leaf, &m->e[k], &found);
			assert_true(found);
			cfs_dirleaf_remove(leaf, at);
			m->e[k] = m->e[--m->n];
		} else {
			random_name(&e, i);
			cfs_dirleaf_find(leaf, &e, &found);
			assert_false(found);
			if (!cfs_dirleaf_fits(leaf, &e)) {
				memset(leaf, 0, sizeof(*leaf));
				m->n = 0;
			}
			cfs_dirleaf_insert(leaf, &e);
			m->e[m->n++] = e;
		}
		if (i % 16 == 0)
			same(leaf, m);
	}
	free(leaf);
	free(m);
}

static void test_split(void **state)
{
	struct cfs_dir_leaf *l = malloc(sizeof(*l)), *r = malloc(sizeof(*r));
	struct model *all = malloc(sizeof(*all)), *part = malloc(sizeof(*part));

	(void)state;
	srand(8);
	for (unsigned round = 0; round < 300; round++) {
		struct cfs_dirent e;
		unsigned at, i;
		uint64_t bound;

		memset(l, 0, sizeof(*l));
		memset(r, 0, sizeof(*r));
		all->n = 0;
		for (i = 0;; i++) {
			random_name(&e, i);
			if (!cfs_dirleaf_fits(l, &e))
				break;
			cfs_dirleaf_insert(l, &e);
			all->e[all->n++] = e;
		}
		assert_true(cfs_dirleaf_split_at(l, &e, &at));
		cfs_dirleaf_split(l, r, at);
		bound = le64_get(((struct cfs_dir_entry *)r->data)->hash);
		assert_true(cfs_dirleaf_fits(e.hash < bound ? l : r, &e));
		cfs_dirleaf_insert(e.hash < bound ? l : r, &e);
		all->e[all->n++] = e;
		for (int side = 0; side < 2; side++) {
			part->n = 0;
			for (i = 0; i < all->n; i++) {
				if ((all->e[i].hash < bound) == (side == 0))
					part->e[part->n++] = all->e[i];
			}
			assert_true(part->n > 0);
			same(side ? r : l, part);
		}
	}
	free(l);
	free(r);
	free(all);
	free(part);
}

/* Names made to have one hash: they must not be torn apart, so such a leaf cannot be split. */
static void test_equal_hashes_stay(void **state)
{
	struct cfs_dir_leaf *l = calloc(1, sizeof(*l));
	struct cfs_dirent e;
	unsigned at, i = 0;
	char name[40];

	(void)state;
	for (;; i++) {
		snprintf(name, sizeof(name), "name-%u", i);
		cfs_dirent_set(&e, name, strlen(name), CFS_KIND_FILE, 99);
		e.hash = i < 3 ? 5 : 77;
		if (!cfs_dirleaf_fits(l, &e))
			break;
		cfs_dirleaf_insert(l, &e);
	}
	/* the only border is behind the three of hash 5, and what lies behind it has no room */
	assert_false(!cfs_dirleaf_split_at(l, &e, &at));
	assert_int_equal(at, 3 * CFS_DIR_ENTRY_BYTES(6u));
	memset(l, 0, sizeof(*l));
	for (i = 0;; i++) {
		snprintf(name, sizeof(name), "name-%u", i);
		cfs_dirent_set(&e, name, strlen(name), CFS_KIND_FILE, 99);
		e.hash = 77;
		if (!cfs_dirleaf_fits(l, &e))
			break;
		cfs_dirleaf_insert(l, &e);
	}
	assert_false(cfs_dirleaf_split_at(l, &e, &at));
	free(l);
}

/* Each damage that the bytes of a leaf can have is found, or leaves a leaf that is right. */
static void test_validate_flips(void **state)
{
	struct cfs_dir_leaf *l = calloc(1, sizeof(*l)), *x = malloc(sizeof(*x));
	struct cfs_dirent e;
	unsigned missed = 0, used;

	(void)state;
	srand(9);
	for (unsigned i = 0; i < 12; i++) {
		random_name(&e, i);
		cfs_dirleaf_insert(l, &e);
	}
	used = le16_get(l->used);
	for (unsigned byte = 0x40; byte < 0x80 + used; byte++) {
		for (unsigned bit = 0; bit < 8; bit++) {
			*x = *l;
			((uint8_t *)x)[byte] ^= (uint8_t)(1u << bit);
			missed += cfs_block_validate(x, CFS_T_DIR_LEAF) == 0;
		}
	}
	/* what cannot be seen in here: other inode numbers and kinds, the reserved bytes */
	assert_true(missed <= 12 * (40 + 3) + 60 * 8);
	free(l);
	free(x);
}

static void test_names(void **state)
{
	char longest[257];

	(void)state;
	memset(longest, 'x', sizeof(longest));
	assert_int_equal(cfs_name_check("a", 1), 0);
	assert_int_equal(cfs_name_check("...", 3), 0);
	assert_int_equal(cfs_name_check(".hidden", 7), 0);
	assert_int_equal(cfs_name_check("\xc3\xbc", 2), 0);
	assert_int_equal(cfs_name_check(longest, 255), 0);
	assert_int_not_equal(cfs_name_check(longest, 256), 0);
	assert_int_not_equal(cfs_name_check("", 0), 0);
	assert_int_not_equal(cfs_name_check(".", 1), 0);
	assert_int_not_equal(cfs_name_check("..", 2), 0);
	assert_int_not_equal(cfs_name_check("a/b", 3), 0);
	assert_int_not_equal(cfs_name_check("a\nb", 3), 0);
	assert_int_not_equal(cfs_name_check("a\0b", 3), 0);
	assert_int_not_equal(cfs_name_check("a\x7f", 2), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_random_changes),
		cmocka_unit_test(test_split),
		cmocka_unit_test(test_equal_hashes_stay),
		cmocka_unit_test(test_validate_flips),
		cmocka_unit_test(test_names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
