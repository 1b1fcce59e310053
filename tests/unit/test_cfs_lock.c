// SPDX-License-Identifier: Apache-2.0
/*
 * Locks: taking, wishing, the four steps of leaving, sharing, breaking, unknown outcomes, VMs' disks.
 * The journal's part of the four steps is played by functions here that note their order.
 */
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
#include "blockdev/fault.h"
#include "clusterfs/locks.h"
#include "clusterfs/names.h"
#include "clusterfs/record.h"
#include "clusterfs/slot.h"
#include "clusterfs/txn.h"
#include "tests/lib/bare.h"

#define BEAT  100u
#define QUIET 3u
#define LEASE 1000u

/* --- in the journal's place --------------------------------------------------------------------- */

struct cfs_journal {
	pthread_mutex_t lock;
	char log[64]; /* C checkpoint, R record, W commit waited for, F forgotten */
	unsigned n;
	_Atomic uint64_t owner;
};

static void note(struct cfs *fs, char what)
{
	struct cfs_journal *j = fs->journal;

	if (!j)
		return;
	pthread_mutex_lock(&j->lock);
	if (j->n + 1 < sizeof(j->log))
		j->log[j->n++] = what;
	pthread_mutex_unlock(&j->lock);
}

static void assert_noted(struct cfs_journal *j, const char *what)
{
	char log[sizeof(j->log)];

	pthread_mutex_lock(&j->lock);
	memcpy(log, j->log, sizeof(log));
	pthread_mutex_unlock(&j->lock);
	assert_string_equal(log, what);
}

/* Until the last step the lock stands on the disk as ours. */
static void assert_still_ours(struct cfs *fs, uint64_t vbn)
{
	struct cfs_lock_record r;

	assert_int_equal(cfs_lock_read(fs, vbn, &r), 0);
	assert_int_equal(r.mode, CFS_LOCK_EXCLUSIVE);
	if (r.owner_kind == CFS_OWNER_HOST)
		assert_int_equal(le16_get(r.owner_slot), fs->slot);
}

int cfs_checkpoint(struct cfs *fs, const uint64_t *owner, size_t n)
{
	note(fs, 'C');
	fs->journal->owner = n == 1 ? *owner : 0;
	return 0;
}
int cfs_txn_begin_wait(struct cfs *fs, struct cfs_txn *txn)
{
	txn->fs = fs;
	return 0;
}
void cfs_txn_released(struct cfs_txn *txn, uint64_t lock_vbn)
{
	note(txn->fs, 'R');
	assert_still_ours(txn->fs, lock_vbn);
}
uint64_t cfs_txn_end(struct cfs_txn *txn)
{
	return txn->sequence;
}
int cfs_commit_wait(struct cfs *fs)
{
	note(fs, 'W');
	if (fs->journal->owner)
		assert_still_ours(fs, fs->journal->owner);
	return 0;
}
void cfs_buf_forget_owner(struct cfs *fs, uint64_t owner)
{
	(void)owner;
	note(fs, 'F');
}
int cfs_label_refresh(struct cfs *fs)
{
	(void)fs;
	return 0;
}
int cfs_replay(struct cfs *fs, unsigned slot, uint32_t epoch, uint64_t vbn, uint32_t blocks,
	       int (*apply)(void *arg, uint64_t vbn, const void *block), void *arg)
{
	(void)fs;
	(void)slot;
	(void)epoch;
	(void)vbn;
	(void)blocks;
	(void)apply;
	(void)arg;
	return 0;
}
/* Paths are block numbers here. */
int cfs_walk(struct cfs *fs, const char *path, struct cfs_node *out)
{
	(void)fs;
	memset(out, 0, sizeof(*out));
	out->inode = strtoull(path, NULL, 10) + 1;
	out->kind = CFS_KIND_VM;
	return 0;
}

/* --- hosts ------------------------------------------------------------------------------------------ */

struct host {
	struct bare_host *b;
	struct cfs_journal journal;
};

static int setup(void **state)
{
	*state = bare_volume_make(256 * MiB, BEAT, QUIET, LEASE);
	return 0;
}

static int teardown(void **state)
{
	bare_volume_remove(*state);
	return 0;
}

static struct host *join_with(struct bare_volume *v, const char *name, bool faulty)
{
	struct host *h = xcalloc(1, sizeof(*h));
	bool resumed;

	h->b = faulty ? bare_host_open_faulty(v->path, v->state_dir, name)
		      : bare_host_open(v->path, v->state_dir, name);
	pthread_mutex_init(&h->journal.lock, NULL);
	h->b->fs.journal = &h->journal;
	h->b->fs.cache = (struct cfs_cache *)1;
	h->b->fs.sequence = 1;
	assert_int_equal(cfs_slot_take(&h->b->fs, false, &resumed), 0);
	assert_int_equal(cfs_locks_start(&h->b->fs), 0);
	cfs_locks_serve(&h->b->fs);
	return h;
}

static struct host *join(struct bare_volume *v, const char *name)
{
	return join_with(v, name, false);
}

static void leave(struct host *h)
{
	assert_int_equal(cfs_locks_stop(&h->b->fs, true), 0);
	assert_int_equal(cfs_slot_leave(&h->b->fs), 0);
	bare_host_close(h->b);
	free(h);
}

static void die(struct host *h)
{
	assert_int_equal(cfs_locks_stop(&h->b->fs, false), 0);
	cfs_slot_abandon(&h->b->fs);
	bare_host_close(h->b);
	free(h);
}

/* The lock blocks of the first inode slab. */
static uint64_t lock_of(struct host *h, unsigned i)
{
	return le64_get(h->b->fs.label.root) - 1 + 2 * (uint64_t)i;
}

static struct cfs_lock *must_get(struct host *h, uint64_t vbn, enum cfs_lock_mode mode,
				 unsigned wait_ms)
{
	struct cfs_lock *l;
	int rc = cfs_lock_get(&h->b->fs, vbn, mode, wait_ms, &l);

	if (rc < 0)
		print_message("%s: %s\n", h->b->fs.options.host_name, err_message(rc));
	assert_int_equal(rc, 0);
	return l;
}

static void must_be_busy(struct host *h, uint64_t vbn, enum cfs_lock_mode mode, const char *holder)
{
	struct err_info e;
	struct cfs_lock *l;
	int rc = cfs_lock_get(&h->b->fs, vbn, mode, 0, &l);

	assert_int_equal(rc, -EBUSY);
	err_save(&e, rc);
	if (!strstr(e.holder, holder))
		print_message("holder: %s\n", e.holder);
	assert_non_null(strstr(e.holder, holder));
}

static void touch(struct host *h, uint64_t vbn)
{
	cfs_lock_touched(&h->b->fs, vbn, ++h->b->fs.sequence);
}

/* --- tests ------------------------------------------------------------------------------------------- */

/* INV-FS-5: the four steps, in this order; none of the first three when nothing was changed. */
static void test_four_steps(void **state)
{
	struct host *a = join(*state, "alpha"), *b = join(*state, "beta");
	uint64_t vbn = lock_of(a, 0);
	struct cfs_lock *l = must_get(a, vbn, CFS_LOCK_EXCLUSIVE, 0);

	assert_true(cfs_lock_fresh(l));
	assert_false(cfs_lock_fresh(l));
	touch(a, vbn);
	cfs_lock_put(l);
	must_be_busy(b, vbn, CFS_LOCK_EXCLUSIVE, "alpha");
	must_be_busy(b, vbn, CFS_LOCK_SHARED, "alpha");
	l = must_get(b, vbn, CFS_LOCK_EXCLUSIVE, 5000); /* wishes */
	assert_noted(&a->journal, "CRWF");
	assert_int_equal(a->journal.owner, vbn);
	cfs_lock_put(l);
	l = must_get(a, vbn, CFS_LOCK_EXCLUSIVE, 5000);
	assert_true(cfs_lock_fresh(l));
	assert_noted(&b->journal, "F"); /* beta changed nothing */
	assert_int_equal(cfs_lock_drop(l), 0);
	assert_noted(&a->journal, "CRWFF");
	must_get(b, vbn, CFS_LOCK_EXCLUSIVE, 0);
	leave(a);
	die(b);
}

static void test_shared(void **state)
{
	struct host *a = join(*state, "alpha"), *b = join(*state, "beta"),
		    *c = join(*state, "gamma");
	uint64_t vbn = lock_of(a, 1);
	struct cfs_lock_record r;
	struct cfs_lock *l;

	cfs_lock_put(must_get(a, vbn, CFS_LOCK_SHARED, 0));
	cfs_lock_put(must_get(b, vbn, CFS_LOCK_SHARED, 0));
	must_be_busy(c, vbn, CFS_LOCK_EXCLUSIVE, "(slot");
	cfs_lock_put(must_get(c, vbn, CFS_LOCK_EXCLUSIVE, 5000));
	/* To exclusive and back: alone at once, in company by leaving first. */
	cfs_lock_put(must_get(a, vbn, CFS_LOCK_SHARED, 5000));
	l = must_get(a, vbn, CFS_LOCK_EXCLUSIVE, 0);
	cfs_lock_put(l);
	cfs_lock_put(must_get(a, vbn, CFS_LOCK_SHARED, 0));
	cfs_lock_put(must_get(b, vbn, CFS_LOCK_SHARED, 5000));
	cfs_lock_put(must_get(a, vbn, CFS_LOCK_SHARED, 5000));
	cfs_lock_put(must_get(a, vbn, CFS_LOCK_EXCLUSIVE, 5000));
	assert_int_equal(cfs_lock_read(&a->b->fs, vbn, &r), 0);
	assert_int_equal(r.mode, CFS_LOCK_EXCLUSIVE);
	for (unsigned i = 0; i < CFS_MAX_SLOTS; i++)
		assert_int_equal(le32_get(r.readers[i]), 0);
	leave(a);
	leave(b);
	leave(c);
}

static _Atomic unsigned wishes;
static void wished(void *arg)
{
	(void)arg;
	wishes++;
}

/* What is pinned stays; its owner is told that somebody waits. */
static void test_pins(void **state)
{
	struct host *a = join(*state, "alpha"), *b = join(*state, "beta");
	uint64_t vbn = lock_of(a, 0);
	struct cfs_lock *l = must_get(a, vbn, CFS_LOCK_EXCLUSIVE, 0), *other;

	wishes = 0;
	cfs_lock_pin(l);
	cfs_lock_on_wish(l, wished, NULL);
	cfs_lock_put(l);
	assert_int_equal(cfs_lock_get(&b->b->fs, vbn, CFS_LOCK_EXCLUSIVE, 800, &other), -EBUSY);
	assert_true(wishes > 0);
	cfs_lock_unpin(l);
	cfs_lock_put(must_get(b, vbn, CFS_LOCK_EXCLUSIVE, 5000));
	leave(a);
	leave(b);
}

/* Who looks at an open file has its lock in use meanwhile: it is not closed under his eyes. */
static void test_use_open(void **state)
{
	struct host *a = join(*state, "alpha");
	uint64_t vbn = lock_of(a, 0);
	struct cfs_lock *l = must_get(a, vbn, CFS_LOCK_EXCLUSIVE, 0), *other;

	cfs_lock_put(l);
	assert_null(cfs_lock_use_open(&a->b->fs, vbn, 0)); /* held, not open */
	l = must_get(a, vbn, CFS_LOCK_EXCLUSIVE, 0);
	cfs_lock_pin(l);
	assert_null(cfs_lock_use_open(&a->b->fs, vbn, 0)); /* in use */
	cfs_lock_put(l);
	assert_ptr_equal(cfs_lock_use_open(&a->b->fs, vbn, 0), l);
	assert_int_equal(cfs_lock_get(&a->b->fs, vbn, CFS_LOCK_EXCLUSIVE, 0, &other), -EBUSY);
	cfs_lock_put(l);
	l = must_get(a, vbn, CFS_LOCK_EXCLUSIVE, 0);
	cfs_lock_unpin(l);
	assert_int_equal(cfs_lock_drop(l), 0);
	assert_null(cfs_lock_use_open(&a->b->fs, vbn, 0));
	leave(a);
}

/* Given up unasked, a lock is wished for no more: the next to take it is not asked to let go. */
static void test_drop_wished(void **state)
{
	struct host *a = join(*state, "alpha"), *b = join(*state, "beta");
	uint64_t vbn = lock_of(a, 0);
	struct cfs_lock *l = must_get(a, vbn, CFS_LOCK_EXCLUSIVE, 0), *other;
	struct cfs_locks *t = a->b->fs.locks;
	unsigned wanted = 0;

	for (unsigned i = 0; i < 40 && !wanted; i++) {
		assert_int_equal(cfs_lock_get(&b->b->fs, vbn, CFS_LOCK_EXCLUSIVE, 500, &other),
				 -EBUSY);
		pthread_mutex_lock(&t->mutex);
		wanted = t->wished;
		pthread_mutex_unlock(&t->mutex);
	}
	assert_int_equal(wanted, 1);
	assert_int_equal(cfs_lock_drop(l), 0);
	pthread_mutex_lock(&t->mutex);
	assert_int_equal(t->wished, 0);
	pthread_mutex_unlock(&t->mutex);
	leave(a);
	leave(b);
}

/* A dead host's lock: not before its slot is recovered, then at once. */
static void test_break(void **state)
{
	struct host *a = join(*state, "alpha"), *b = join(*state, "beta");
	uint64_t vbn = lock_of(a, 0), shared = lock_of(a, 1);
	unsigned slot = a->b->fs.slot;
	struct cfs_lock *l;

	cfs_lock_put(must_get(a, vbn, CFS_LOCK_EXCLUSIVE, 0));
	cfs_lock_put(must_get(a, shared, CFS_LOCK_SHARED, 0));
	assert_int_equal(cfs_slot_wait_beat(&b->b->fs, 1000), 0);
	die(a);
	/* Nobody takes it over yet: silent for ever, its locks stand. */
	assert_int_equal(cfs_lock_get(&b->b->fs, vbn, CFS_LOCK_EXCLUSIVE, (QUIET + 4) * BEAT, &l),
			 -EBUSY);
	assert_int_equal(cfs_recover_slot(&b->b->fs, slot), 0);
	cfs_lock_put(must_get(b, vbn, CFS_LOCK_EXCLUSIVE, 1000));
	cfs_lock_put(must_get(b, shared, CFS_LOCK_EXCLUSIVE, 1000));
	leave(b);
}

/* Locks that name us, unknown to us: taken up, or given up when another host wishes. */
static void test_unknown(void **state)
{
	struct host *a = join(*state, "alpha"), *b;
	uint64_t one = lock_of(a, 0), two = lock_of(a, 1), three = lock_of(a, 2);
	struct cfs_lock *l;

	for (unsigned i = 0; i < 2; i++) {
		l = must_get(a, lock_of(a, i), CFS_LOCK_EXCLUSIVE, 0);
		cfs_lock_put(l);
	}
	cfs_lock_put(must_get(a, three, CFS_LOCK_SHARED, 0));
	die(a); /* and comes back in the same epoch */
	a = join(*state, "alpha");
	b = join(*state, "beta");
	l = must_get(a, one, CFS_LOCK_SHARED, 0);
	cfs_lock_put(l);
	assert_still_ours(&a->b->fs, one); /* exclusive still: the journal may know of it */
	cfs_lock_put(must_get(b, one, CFS_LOCK_EXCLUSIVE, 5000));
	assert_noted(&a->journal, "CRWF"); /* whatever the predecessor changed */
	cfs_lock_put(must_get(b, two, CFS_LOCK_EXCLUSIVE, 10000));
	cfs_lock_put(must_get(b, three, CFS_LOCK_EXCLUSIVE, 10000));
	leave(a);
	leave(b);
}

/* INV-BLK-2: answers swallowed, and executed late: no lock is ever held by two, none is lost. */
static void test_lost_answers(void **state)
{
	static const enum fault_kind kinds[] = {FAULT_LOST_ANSWER, FAULT_LATE_WRITE};

	for (unsigned k = 0; k < ARRAY_SIZE(kinds); k++) {
		struct host *a = join_with(*state, "alpha", true), *b = join(*state, "beta");
		struct fault f = {.kind = kinds[k], .value = 200, .ops = FAULT_CAS, .times = 2};
		uint64_t vbn = lock_of(a, 0);
		struct cfs_lock_record r;
		struct cfs_lock *l;
		unsigned id;

		(void)str_format(f.target, sizeof(f.target), "%s", blk_info(a->b->blk)->name);
		f.from = cfs_vbn_block(vbn) * CFS_BLOCK;
		f.to = f.from + CFS_BLOCK;
		assert_int_equal(fault_add(&f, &id), 0);
		l = must_get(a, vbn, CFS_LOCK_EXCLUSIVE, 5000);
		assert_still_ours(&a->b->fs, vbn);
		sleep_ms(600); /* the late ones come, and miscompare */
		assert_still_ours(&a->b->fs, vbn);
		must_be_busy(b, vbn, CFS_LOCK_EXCLUSIVE, "alpha");
		fault_clear(id);
		assert_int_equal(fault_add(&f, &id), 0);
		assert_int_equal(cfs_lock_drop(l), 0);
		assert_int_equal(cfs_lock_read(&a->b->fs, vbn, &r), 0);
		assert_int_equal(r.mode, CFS_LOCK_FREE);
		l = must_get(b, vbn, CFS_LOCK_EXCLUSIVE, 1000);
		sleep_ms(600);
		assert_still_ours(&b->b->fs, vbn);
		cfs_lock_put(l);
		fault_clear(id);
		leave(a);
		leave(b);
	}
}

/* Four hosts add to one counter on the LUN, each under the lock: nothing gets lost. */
struct adder {
	struct host *h;
	pthread_t thread;
	uint64_t vbn;
	unsigned done;
};
#define COUNTER (202 * MiB) /* in no group's metadata */
static void *add_main(void *arg)
{
	struct adder *a = arg;
	uint64_t end = clock_boot_ms() + 3000;
	uint8_t buf[CFS_BLOCK];
	struct cfs_lock *l;

	while (clock_boot_ms() < end) {
		uint64_t n;

		if (cfs_lock_get(&a->h->b->fs, a->vbn, CFS_LOCK_EXCLUSIVE, 20000, &l) < 0)
			return (void *)err_message(-EBUSY);
		if (blk_read(a->h->b->blk, COUNTER, buf, sizeof(buf)) < 0)
			return (void *)"read";
		memcpy(&n, buf, sizeof(n));
		n++;
		memcpy(buf, &n, sizeof(n));
		touch(a->h, a->vbn);
		if (blk_write(a->h->b->blk, COUNTER, buf, sizeof(buf), 0) < 0)
			return (void *)"write";
		a->done++;
		cfs_lock_put(l);
		if (a->done % 3 == 0)
			sleep_ms(7);
	}
	return NULL;
}

static void test_counter(void **state)
{
	struct adder a[4] = {0};
	uint8_t buf[CFS_BLOCK];
	uint64_t n, sum = 0;

	for (unsigned i = 0; i < 4; i++) {
		char name[8] = {'h', (char)('0' + i)};

		a[i].h = join(*state, name);
		a[i].vbn = lock_of(a[i].h, 3);
	}
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&a[i].thread, NULL, add_main, &a[i]), 0);
	for (unsigned i = 0; i < 4; i++) {
		void *why;

		pthread_join(a[i].thread, &why);
		if (why)
			print_message("h%u: %s\n", i, (char *)why);
		assert_null(why);
		assert_true(a[i].done > 0); /* nobody starves */
		sum += a[i].done;
	}
	assert_int_equal(blk_read(a[0].h->b->blk, COUNTER, buf, sizeof(buf)), 0);
	memcpy(&n, buf, sizeof(n));
	assert_int_equal(n, sum);
	for (unsigned i = 0; i < 4; i++)
		leave(a[i].h);
}

static void path_of(uint64_t vbn, char path[32])
{
	(void)str_format(path, 32, "%llu", (unsigned long long)vbn);
}

/* One lock decides for a VM; its disks' locks name it, and change only with it in hand. */
static void test_vm(void **state)
{
	struct host *a = join(*state, "alpha"), *b = join(*state, "beta");
	uint64_t vm = lock_of(a, 0), disk = lock_of(a, 1);
	struct cfs_lock_owner as = {.kind = CFS_OWNER_VM, .vm = vm};
	struct cfs_vm_lock *on_a, *on_b;
	uint64_t start, over;
	char path[32], who[64];
	struct cfs_lock *l;
	unsigned slot = a->b->fs.slot;

	path_of(vm, path);
	assert_int_equal(cfs_vm_owner(&a->b->fs, path, who, sizeof(who)), -ENOENT);
	/* Somebody looks at the definition: no hindrance. */
	cfs_lock_put(must_get(b, vm, CFS_LOCK_SHARED, 0));
	assert_int_equal(cfs_lock_get_as(&a->b->fs, disk, &as, 0, &l), -EPERM);
	assert_int_equal(cfs_vm_lock(&a->b->fs, path, 0, &on_a), 0);
	assert_int_equal(cfs_vm_lock_vbn(on_a), vm);
	assert_int_equal(cfs_vm_lock(&a->b->fs, path, 0, &on_b), -EBUSY);
	assert_int_equal(cfs_vm_owner(&b->b->fs, path, who, sizeof(who)), 0);
	assert_string_equal(who, "alpha");
	assert_int_equal(cfs_lock_get_as(&a->b->fs, disk, &as, 0, &l), 0);
	cfs_lock_pin(l);
	cfs_lock_put(l);

	/* It runs on alpha: refused at once, whatever the patience; its disk too. */
	start = clock_boot_ms();
	assert_int_equal(cfs_vm_lock(&b->b->fs, path, 30000, &on_b), -EBUSY);
	assert_non_null(strstr(err_message(-EBUSY), "alpha"));
	assert_true(clock_boot_ms() < start + 2000);
	must_be_busy(b, disk, CFS_LOCK_EXCLUSIVE, "alpha");
	must_be_busy(a, disk, CFS_LOCK_SHARED, "VM");
	/* The host that runs it may change its definition. */
	cfs_lock_put(must_get(a, vm, CFS_LOCK_EXCLUSIVE, 0));

	/* The daemon is killed and comes back: the VM runs on, its lock is adopted. */
	free(on_a);
	die(a);
	a = join(*state, "alpha");
	assert_int_equal(cfs_vm_lock(&a->b->fs, path, 0, &on_a), -EBUSY);
	assert_int_equal(cfs_vm_lock(&b->b->fs, path, 0, &on_b), -EBUSY);
	assert_int_equal(cfs_vm_adopt(&a->b->fs, path, &on_a), 0);
	assert_int_equal(cfs_vm_adopt(&a->b->fs, path, &on_b), -EBUSY);
	assert_int_equal(cfs_lock_get_as(&a->b->fs, disk, &as, 0, &l), 0);
	cfs_lock_put(l);

	/* The host dies: elsewhere it runs when that slot is recovered and its lease is over. */
	assert_int_equal(cfs_slot_wait_beat(&b->b->fs, 1000), 0);
	over = clock_boot_ms() + LEASE - 2 * BEAT;
	free(on_a);
	die(a);
	assert_int_equal(cfs_recover_start(&b->b->fs), 0);
	assert_int_equal(cfs_vm_lock(&b->b->fs, path, 10000, &on_b), 0);
	assert_int_equal(cfs_slot_life(&b->b->fs, slot, 1), CFS_LIFE_DEAD);
	assert_true(clock_boot_ms() >= over);
	assert_true(clock_boot_ms() <= over + LEASE + 10 * BEAT);
	assert_int_equal(cfs_lock_get_as(&b->b->fs, disk, &as, 0, &l), 0);
	assert_true(cfs_lock_fresh(l));
	cfs_lock_put(l);
	assert_int_equal(cfs_vm_unlock(on_b), 0);
	assert_int_equal(cfs_vm_owner(&b->b->fs, path, who, sizeof(who)), -ENOENT);
	cfs_recover_stop(&b->b->fs);
	leave(b);
}

static bool stopped_within(struct host *h, const char *path, unsigned ms)
{
	uint64_t end = clock_boot_ms() + ms;
	struct cfs_vm_where where;

	do {
		assert_int_equal(cfs_vm_where(&h->b->fs, path, &where), 0);
		if (where.state == CFS_VM_STOPPED && !where.owed)
			return true;
		sleep_ms(20);
	} while (clock_boot_ms() < end);
	return false;
}

/* A VM's lock that cannot be given up: nobody's here, so it can be had here, and is given up as soon as that works. */
static void test_owed(void **state)
{
	struct host *a = join_with(*state, "alpha", true), *b = join(*state, "beta");
	struct fault f = {.kind = FAULT_FAIL, .ops = FAULT_CAS | FAULT_READ};
	uint64_t vm = lock_of(a, 0), disk = lock_of(a, 1);
	struct cfs_lock_owner as = {.kind = CFS_OWNER_VM, .vm = vm};
	struct cfs_vm_lock *runs;
	struct cfs_vm_where where;
	struct cfs_lock *l;
	char path[32];
	unsigned id;

	path_of(vm, path);
	(void)str_format(f.target, sizeof(f.target), "%s", blk_info(a->b->blk)->name);
	f.from = cfs_vbn_block(vm) * CFS_BLOCK;
	f.to = f.from + CFS_BLOCK;
	assert_int_equal(cfs_vm_lock(&a->b->fs, path, 0, &runs), 0);
	assert_int_equal(cfs_lock_get_as(&a->b->fs, disk, &as, 0, &l), 0);
	cfs_lock_put(l);
	assert_int_equal(fault_add(&f, &id), 0);
	assert_true(cfs_vm_unlock(runs) < 0);
	sleep_ms(400); /* the first attempts */
	fault_clear(id);
	/* It can be had again where it was, at once. */
	assert_int_equal(cfs_vm_where(&a->b->fs, path, &where), 0);
	assert_int_equal(where.state, CFS_VM_STOPPED);
	assert_int_equal(cfs_vm_lock(&a->b->fs, path, 0, &runs), 0);
	sleep_ms(600);
	must_be_busy(b, vm, CFS_LOCK_EXCLUSIVE, "alpha"); /* nobody gives that up */
	/* Not given up, and then forgotten by all but the host itself. */
	assert_int_equal(fault_add(&f, &id), 0);
	assert_true(cfs_vm_unlock(runs) < 0);
	fault_clear(id);
	assert_true(stopped_within(a, path, 20000));
	assert_int_equal(cfs_vm_lock(&b->b->fs, path, 0, &runs), 0);
	assert_int_equal(cfs_lock_get_as(&b->b->fs, disk, &as, 0, &l), 0);
	cfs_lock_put(l);
	assert_int_equal(cfs_vm_unlock(runs), 0);
	leave(a);
	leave(b);
}

/* A disk whose VM is not running any more, but whose lock still names it: with the VM's lock. */
static void test_steal(void **state)
{
	struct host *a = join(*state, "alpha"), *b = join(*state, "beta");
	uint64_t vm = lock_of(a, 0), disk = lock_of(a, 1), other = lock_of(a, 2);
	struct cfs_lock_owner as = {.kind = CFS_OWNER_VM, .vm = vm};
	struct cfs_lock_owner as_other = {.kind = CFS_OWNER_VM, .vm = other};
	struct cfs_vm_lock *on_a, *on_b;
	struct cfs_lock_record r;
	char path[32], path_other[32];
	struct cfs_lock *l;

	path_of(vm, path);
	path_of(other, path_other);
	assert_int_equal(cfs_vm_lock(&a->b->fs, path, 0, &on_a), 0);
	assert_int_equal(cfs_lock_get_as(&a->b->fs, disk, &as, 0, &l), 0);
	cfs_lock_put(l);
	free(on_a);
	assert_int_equal(cfs_slot_wait_beat(&b->b->fs, 1000), 0);
	die(a);
	/* Another VM wants that disk while the dead one's lock stands. */
	assert_int_equal(cfs_vm_lock(&b->b->fs, path_other, 0, &on_b), 0);
	assert_int_equal(cfs_lock_get_as(&b->b->fs, disk, &as_other, 0, &l), -EBUSY);
	assert_int_equal(cfs_recover_start(&b->b->fs), 0);
	sleep_ms(QUIET * BEAT + LEASE + 8 * BEAT);
	assert_int_equal(cfs_lock_get_as(&b->b->fs, disk, &as_other, 3000, &l), 0);
	cfs_lock_put(l);
	assert_int_equal(cfs_lock_read(&b->b->fs, disk, &r), 0);
	assert_int_equal(le64_get(r.vm), other);
	/* X's lock was taken for it. */
	assert_int_equal(cfs_lock_read(&b->b->fs, vm, &r), 0);
	assert_int_equal(r.owner_kind, CFS_OWNER_HOST);
	assert_int_equal(cfs_vm_unlock(on_b), 0);
	cfs_recover_stop(&b->b->fs);
	leave(b);
}

/* --- hints: a network of function calls ------------------------------------------------------------------ */

static struct cfs *at_slot[CFS_MAX_SLOTS];
static _Atomic bool cut;
static _Atomic unsigned said[3]; /* by kind */

static void say_hint(void *arg, struct cfs *fs, uint64_t slots, const struct cfs_hint *hint)
{
	(void)arg;
	said[hint->kind]++;
	for (unsigned i = 0; i < CFS_MAX_SLOTS && !cut; i++)
		if (slots >> i & 1 && at_slot[i])
			cfs_hint(at_slot[i], fs->slot, hint);
}

static void plug_in(struct host *h)
{
	h->b->fs.options.hint = say_hint;
	at_slot[h->b->fs.slot] = &h->b->fs;
}

static bool freed_within(struct host *h, uint64_t vbn, unsigned ms)
{
	uint64_t end = clock_boot_ms() + ms;
	struct cfs_lock_record r;

	do {
		assert_int_equal(cfs_lock_read(&h->b->fs, vbn, &r), 0);
		if (r.mode == CFS_LOCK_FREE)
			return true;
		sleep_ms(5);
	} while (clock_boot_ms() < end);
	return false;
}

/* Hints make a lock leave sooner; lost and false ones change nothing. */
static void test_hints(void **state)
{
	struct host *a = join(*state, "alpha"), *b = join(*state, "beta");
	uint64_t vbn = lock_of(a, 0), vm = lock_of(a, 1);
	struct cfs_hint hint = {.kind = CFS_HINT_WISH, .vbn = vbn};
	struct cfs_vm_lock *runs;
	struct cfs_lock *l;
	char path[32];

	plug_in(a);
	plug_in(b);
	/* Who wishes tells the holder, who tells when it has let go. */
	cfs_lock_put(must_get(a, vbn, CFS_LOCK_EXCLUSIVE, 0));
	cfs_lock_put(must_get(b, vbn, CFS_LOCK_EXCLUSIVE, 5000));
	assert_true(said[CFS_HINT_WISH] >= 1 && said[CFS_HINT_FREED] >= 1);
	/* No beat wishes for it: the hint alone makes it leave. */
	cfs_hint(&b->b->fs, a->b->fs.slot, &hint);
	assert_true(freed_within(a, vbn, 5000));
	/* All lost: the beats do. */
	cut = true;
	cfs_lock_put(must_get(a, vbn, CFS_LOCK_EXCLUSIVE, 5000));
	cfs_lock_put(must_get(b, vbn, CFS_LOCK_EXCLUSIVE, 5000));
	cut = false;
	/* False ones: free, though it is not; a VM's lock; what is no lock, no block, no host. */
	l = must_get(b, vbn, CFS_LOCK_EXCLUSIVE, 0);
	cfs_lock_pin(l);
	cfs_lock_put(l);
	hint.kind = CFS_HINT_FREED;
	cfs_hint(&a->b->fs, b->b->fs.slot, &hint);
	must_be_busy(a, vbn, CFS_LOCK_EXCLUSIVE, "beta");
	cfs_lock_unpin(l);
	(void)str_format(path, sizeof(path), "%llu", (unsigned long long)vm);
	assert_int_equal(cfs_vm_lock(&a->b->fs, path, 0, &runs), 0);
	hint = (struct cfs_hint){.kind = CFS_HINT_WISH, .vbn = vm};
	for (unsigned i = 0; i < 3 * CFS_LOCK_HINTS; i++) {
		cfs_hint(&a->b->fs, b->b->fs.slot, &hint);
		hint.kind = i % 2 ? CFS_HINT_WISH : CFS_HINT_FREED;
		hint.vbn = i % 3 ? vm : ~(uint64_t)i << (i % 64);
	}
	cfs_hint(&a->b->fs, CFS_MAX_SLOTS, &hint);
	assert_false(freed_within(b, vm, 200));
	must_be_busy(b, vm, CFS_LOCK_EXCLUSIVE, "alpha");
	assert_int_equal(cfs_vm_unlock(runs), 0);
	cfs_lock_put(must_get(a, vbn, CFS_LOCK_EXCLUSIVE, 5000));
	at_slot[a->b->fs.slot] = at_slot[b->b->fs.slot] = NULL;
	leave(a);
	leave(b);
}

static void test_plain(void **state)
{
	struct host *a = join(*state, "alpha"), *b = join(*state, "beta");
	uint64_t vbn = cfs_vbn(0, CFS_LABEL_LOCK);
	unsigned slot = a->b->fs.slot;

	assert_int_equal(cfs_plain_lock(&a->b->fs, vbn, 0), 0);
	assert_int_equal(cfs_plain_lock(&b->b->fs, vbn, 100), -EBUSY);
	assert_int_equal(cfs_plain_unlock(&a->b->fs, vbn), 0);
	assert_int_equal(cfs_plain_lock(&b->b->fs, vbn, 0), 0);
	assert_int_equal(cfs_plain_unlock(&b->b->fs, vbn), 0);
	assert_int_equal(cfs_plain_lock(&a->b->fs, vbn, 0), 0);
	die(a);
	assert_int_equal(cfs_plain_lock(&b->b->fs, vbn, 100), -EBUSY);
	assert_int_equal(cfs_recover_slot(&b->b->fs, slot), 0);
	assert_int_equal(cfs_plain_lock(&b->b->fs, vbn, 1000), 0);
	assert_int_equal(cfs_plain_unlock(&b->b->fs, vbn), 0);
	leave(b);
}

int main(void)
{
#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_four_steps),  T(test_shared),	   T(test_pins),    T(test_break),
		T(test_unknown),     T(test_lost_answers), T(test_counter), T(test_vm),
		T(test_steal),	     T(test_plain),	   T(test_hints),   T(test_use_open),
		T(test_drop_wished), T(test_owed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
