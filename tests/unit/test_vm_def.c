// SPDX-License-Identifier: Apache-2.0
/* Definitions of VMs: disks and their addresses, what is read from a volume, and replacing one. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#undef fail /* base/err.h has its own */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/log.h"
#include "base/util.h"
#include "host/vm_def.h"
#include "host/vm_net.h"
#include "tests/lib/vol.h"

static struct vm_def *def_new(void)
{
	struct vm_def *d = xcalloc(1, sizeof(*d));

	d->memory = 16 * MiB;
	vm_share_init(&d->share, d->memory);
	d->cpus = 1;
	(void)str_format(d->id, sizeof(d->id), "00000000-0000-4000-8000-000000000001");
	return d;
}

static void add(struct vm_def *d, const char *path, int want, unsigned lun)
{
	unsigned got;

	assert_int_equal(vm_def_pick_lun(d, "g", want, &got), 0);
	assert_int_equal(got, lun);
	assert_int_equal(vm_def_add(d, "g", path, got), 0);
}

static struct vm_def *through_json(const struct vm_def *d)
{
	struct vm_def *out = xcalloc(1, sizeof(*out));
	json_t *doc = vm_def_record(d);

	assert_int_equal(vm_def_parse(doc, "g", out), 0);
	json_decref(doc);
	return out;
}

static void test_addresses(void **state)
{
	struct vm_def *d = def_new(), *again;
	unsigned lun;

	(void)state;
	add(d, "/a", -1, 0);
	add(d, "/b", -1, 1);
	add(d, "/c", 7, 7);
	assert_int_equal(vm_def_pick_lun(d, "g", 7, &lun), -EBUSY);
	assert_int_equal(vm_def_pick_lun(d, "g", VM_LUNS, &lun), -EINVAL);
	vm_def_remove(d, 1, true);
	assert_int_equal(vm_def_find(d, "/b"), -ENOENT);
	assert_int_equal(vm_def_find(d, "/c"), 1);
	assert_int_equal(vm_def_pick_lun(d, "g", 1, &lun), -EPERM);
	add(d, "/b", -1, 2); /* 1 rests */
	d->disk[2].pending = true;
	again = through_json(d);
	assert_memory_equal(again, d, sizeof(*d));
	free(again);
	vm_def_remove(d, 0, false); /* of a VM that is off: nobody remembers */
	add(d, "/a", 0, 0);
	free(d);
}

/* All addresses have been used: the one that rests longest comes back first. */
static void test_no_fresh_address_left(void **state)
{
	struct vm_def *d = def_new(), *again;
	unsigned lun;

	(void)state;
	for (unsigned i = 0; i < VM_LUNS; i++) {
		add(d, "/x", -1, i);
		vm_def_remove(d, 0, true);
	}
	assert_int_equal(d->freed, VM_LUNS);
	again = through_json(d);
	assert_memory_equal(again, d, sizeof(*d));
	free(again);
	add(d, "/x", -1, 0);
	add(d, "/y", -1, 1);
	assert_int_equal(d->freed, VM_LUNS - 2);
	assert_int_equal(vm_def_pick_lun(d, "g", 5, &lun), -EPERM);
	free(d);
}

static void test_many(void **state)
{
	struct vm_def *d = def_new(), *again;
	char path[sizeof(d->disk[0].path) + 1];

	(void)state;
	for (unsigned i = 0; i < VM_DISKS_MAX; i++) {
		(void)str_format(path, sizeof(path), "/%0*u", (int)sizeof(d->disk[0].path) - 2, i);
		add(d, path, -1, i);
	}
	assert_int_equal(vm_def_add(d, "g", "/more", 300), -EINVAL);
	again = through_json(d);
	assert_memory_equal(again, d, sizeof(*d));
	free(again);
	vm_def_remove(d, 3, true);
	memset(path, 'p', sizeof(path) - 1);
	path[sizeof(path) - 1] = 0;
	assert_int_equal(vm_def_add(d, "g", path, 300), -EINVAL); /* too long */
	free(d);
}

static void test_what_is_read_is_checked(void **state)
{
	static const char *const lists[] = {
		"[1]",
		"[{\"lun\": 1}]",
		"[\"/a\", {\"path\": \"/b\", \"lun\": 0}]",
		"[{\"path\": \"/b\", \"lun\": -1}]",
		"[{\"path\": \"/b\", \"lun\": 1024}]",
	};
	struct vm_def *d = xcalloc(1, sizeof(*d));

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(lists); i++) {
		json_t *doc = json_pack("{s:i, s:I, s:i, s:o}", "version", 1, "memory",
					(json_int_t)(16 * MiB), "cpus", 1, "disks",
					json_loads(lists[i], 0, NULL));

		assert_int_equal(vm_def_parse(doc, "g", d), -EUCLEAN);
		json_decref(doc);
	}
	free(d);
}

/* --- on a volume ------------------------------------------------------------------------------- */

static int setup(void **state)
{
	struct vol *v = vol_make(256 * MiB);

	log_set_level(LOG_ERROR);
	*state = v;
	assert_int_equal(vol_mount(v, 0, NULL), 0);
	assert_int_equal(cfs_mkdir(v->fs[0], VM_DIR), 0);
	assert_int_equal(cfs_mkdir(v->fs[0], VM_DIR "/g"), 0);
	return 0;
}

static int teardown(void **state)
{
	struct vol *v = *state;

	assert_int_equal(vol_unmount(v, 0), 0);
	vol_free(v);
	return 0;
}

static void expect(struct cfs *fs, const char *first)
{
	struct vm_def *d = xcalloc(1, sizeof(*d));

	assert_int_equal(vm_def_load(fs, "g", d), 0);
	assert_string_equal(d->disk[0].path, first);
	free(d);
}

static bool exists(struct cfs *fs, const char *path)
{
	struct cfs_stat st;

	return cfs_stat(fs, path, &st) == 0;
}

#define OLD VM_DIR "/g/definition.json"
#define NEW VM_DIR "/g/definition.new"

/* After each of its steps there is one whole definition, and the next change puts the rest in order. */
static void test_replace(void **state)
{
	struct cfs *fs = ((struct vol *)*state)->fs[0];
	struct vm_def *a = def_new(), *b = def_new();

	add(a, "/a", -1, 0);
	add(b, "/b", -1, 0);
	assert_int_equal(vm_def_store(fs, OLD, a), 0);
	assert_int_equal(vm_def_replace(fs, "g", b), 0);
	expect(fs, "/b");
	assert_false(exists(fs, NEW));
	/* Cut off while the new one was being written. */
	assert_int_equal(cfs_create(fs, NEW, CFS_FILE, 0), 0);
	expect(fs, "/b");
	assert_int_equal(vm_def_replace(fs, "g", a), 0);
	expect(fs, "/a");
	assert_false(exists(fs, NEW));
	/* Cut off before the new one has its name. */
	assert_int_equal(vm_def_store(fs, NEW, b), 0);
	assert_int_equal(cfs_unlink(fs, OLD), 0);
	expect(fs, "/b");
	assert_int_equal(vm_def_replace(fs, "g", a), 0);
	expect(fs, "/a");
	assert_false(exists(fs, NEW));
	free(a);
	free(b);
}

static void test_nets(void **state)
{
	static const char *const wrong[] = {
		"[{\"mac\": \"02:00:00:00:00:01\", \"queues\": 1}]",
		"[{\"mac\": \"03:00:00:00:00:01\", \"queues\": 1, \"bridge\": \"br0\"}]",
		"[{\"mac\": \"02:00:00:00:00:01\", \"queues\": 5, \"bridge\": \"br0\"}]",
		"[{\"mac\": \"02:00:00:00:00:01\", \"queues\": 1, \"bridge\": \"../br0\"}]",
		"[{\"mac\": \"02:00:00:00:00:01\", \"queues\": 1, \"bridge\": \"b\", \"vlan\": "
		"4095}]",
		"[{\"mac\": \"02:00:00:00:00:01\", \"queues\": 1, \"bridge\": "
		"\"a-name-that-is-too-long\"}]",
	};
	struct vm_def *d = def_new(), *again;

	(void)state;
	assert_int_equal(vm_def_net_add(d, "g", "bridge=br0,vlan=4094,queues=4"), 0);
	assert_int_equal(vm_def_net_add(d, "g", "tap=t0,vhost=off,mac=52:54:00:aA:bb:01"), 0);
	assert_int_equal(d->net[0].mac[0] & 3, 2);
	assert_int_equal(vm_def_net_add(d, "g", "bridge=b,mac=52:54:00:AA:BB:01"), -EINVAL);
	assert_int_equal(vm_def_net_add(d, "g", "tap=t0"), -EINVAL);
	again = through_json(d);
	assert_memory_equal(again, d, sizeof(*d));
	free(again);
	while (d->nets < VM_NETS_MAX)
		assert_int_equal(vm_def_net_add(d, "g", "bridge=br0"), 0);
	assert_int_equal(vm_def_net_add(d, "g", "bridge=br0"), -EINVAL);
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		json_t *list = json_loads(wrong[i], 0, NULL);

		assert_non_null(list);
		d->nets = 0;
		assert_int_equal(vm_def_nets_parse(list, "g", d), -EUCLEAN);
		json_decref(list);
	}
	free(d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_addresses),
		cmocka_unit_test(test_no_fresh_address_left),
		cmocka_unit_test(test_many),
		cmocka_unit_test(test_nets),
		cmocka_unit_test(test_what_is_read_is_checked),
		cmocka_unit_test_setup_teardown(test_replace, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
