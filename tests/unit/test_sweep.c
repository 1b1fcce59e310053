// SPDX-License-Identifier: Apache-2.0
/* Pages of zeroes: found where they are there, punched where they are so still, no write lost. */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/util.h"
#include "host/vm_sweep.h"

#include <cmocka.h>

#define PAGE VM_SWEEP_PAGE
#define HUGE (2 * MiB / PAGE)
#define NONE UINT64_MAX

struct memory {
	int fd;
	uint64_t pages;
	uint64_t *words;
	struct vm_sweep_found f;
};

static struct memory *make(uint64_t pages)
{
	struct memory *m = xcalloc(1, sizeof(*m));

	m->pages = pages;
	m->fd = memfd_create("guest", MFD_CLOEXEC);
	assert_true(m->fd >= 0);
	assert_int_equal(ftruncate(m->fd, (off_t)(pages * PAGE)), 0);
	m->words = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, m->fd, 0);
	assert_ptr_not_equal(m->words, MAP_FAILED);
	return m;
}

static void destroy(struct memory *m)
{
	munmap(m->words, m->pages * PAGE);
	close(m->fd);
	free(m);
}

static volatile uint64_t *word(struct memory *m, uint64_t page, unsigned i)
{
	return m->words + page * (PAGE / 8) + i;
}

static uint64_t there(const struct memory *m)
{
	struct stat st;

	assert_int_equal(fstat(m->fd, &st), 0);
	return (uint64_t)st.st_blocks / (PAGE / 512);
}

static uint64_t find(struct memory *m, uint64_t from, uint64_t most)
{
	memset(&m->f, 0, sizeof(m->f));
	m->f.from = from;
	vm_sweep_find(m->fd, m->pages * PAGE, most, &m->f);
	return m->f.pages;
}

/* Of the huge page `which`, each page that has one of `n` in 64 numbers is zero; of `holes` more is absent. */
static uint64_t lay(struct memory *m, uint64_t which, unsigned n, unsigned holes)
{
	uint64_t zeroes = 0;

	for (uint64_t i = 0; i < HUGE; i++) {
		if (i % 64 >= 64 - holes)
			continue;
		*word(m, which * HUGE + i, 77) = i % 64 >= n;
		zeroes += i % 64 < n;
	}
	return zeroes;
}

static void only_zeroes_go(void **state)
{
	struct memory *m = make(8 * HUGE);
	uint64_t zeroes = 0, was;

	(void)state;
	(void)lay(m, 0, 7, 0); /* too few to split it */
	zeroes += lay(m, 1, 8, 0);
	zeroes += lay(m, 3, 1, 5); /* it is split already */
	zeroes += lay(m, 4, 64, 0);
	zeroes += lay(m, 6, 20, 20);
	was = there(m);
	assert_int_equal(find(m, 0, NONE), zeroes);
	assert_int_equal(there(m), was); /* looking makes none */
	assert_int_equal(m->f.end, m->pages * PAGE);

	*word(m, 1 * HUGE, 511) = 9; /* written since */
	*word(m, 5 * HUGE - 1, 0) = 9;
	assert_int_equal(vm_sweep_punch(m->fd, &m->f, NONE), (zeroes - 2) * PAGE);
	assert_int_equal(m->f.end, m->pages * PAGE);
	assert_int_equal(there(m), was - (zeroes - 2));
	assert_int_equal(*word(m, 1 * HUGE, 511), 9);
	assert_int_equal(*word(m, 5 * HUGE - 1, 0), 9);
	for (uint64_t i = 0; i < HUGE; i++) {
		assert_int_equal(*word(m, i, 77), i % 64 >= 7);
		assert_int_equal(*word(m, HUGE + i, 77), i % 64 >= 8);
		assert_int_equal(*word(m, 3 * HUGE + i, 77), i % 64 >= 1 && i % 64 < 59);
	}
	destroy(m);
}

static void goes_on_where_it_was(void **state)
{
	struct memory *m = make(8 * HUGE);

	(void)state;
	for (unsigned i = 1; i < 8; i++)
		(void)lay(m, i, 64, 0);
	uint64_t was = there(m), from = 0, punched = 0;
	while (from < m->pages * PAGE) {
		assert_in_range(find(m, from, 3 * MiB), 1, 2 * HUGE);
		punched += vm_sweep_punch(m->fd, &m->f, NONE);
		from = m->f.end;
	}
	assert_int_equal(punched, was * PAGE);
	assert_int_equal(there(m), 0);
	assert_int_equal(find(m, 0, NONE), 0);

	(void)lay(m, 3, 64, 0);
	assert_int_equal(find(m, 3 * HUGE * PAGE, NONE), HUGE);
	assert_int_equal(vm_sweep_punch(m->fd, &m->f, 0), 0); /* no time */
	assert_int_equal(m->f.end, 3 * HUGE * PAGE);
	destroy(m);
}

/* --- writers ---------------------------------------------------------------------------------------------- */

#define WRITERS	 2u
#define SWEEPS	 60u
#define TURNS	 64u
#define LIMIT_MS 5000u

struct guest {
	struct memory *m;
	atomic_bool stop, end;
	atomic_uint wrong;
	atomic_ulong turns;
	pthread_mutex_t runs[WRITERS]; /* a processor has its own while it runs */
};

struct writer {
	struct guest *g;
	unsigned i;
	uint32_t *count;
	uint64_t seed;
};

static uint64_t content(uint64_t page, uint32_t count)
{
	return count % 2 ? (page << 32 | count) : 0;
}

static void write_one(struct writer *w)
{
	static const unsigned at[] = {0, 300, 511};
	struct memory *m = w->g->m;

	w->seed = w->seed * 6364136223846793005ull + 1442695040888963407ull;
	uint64_t page = (w->seed >> 33) % (m->pages / WRITERS) * WRITERS + w->i;
	uint32_t count = w->count[page];
	for (unsigned i = 0; i < ARRAY_SIZE(at); i++)
		if (*word(m, page, at[i]) != content(page, count))
			atomic_fetch_add(&w->g->wrong, 1);
	for (unsigned i = 0; i < ARRAY_SIZE(at); i++)
		*word(m, page, at[i]) = content(page, count + 1);
	w->count[page] = count + 1;
}

static void *writes(void *arg)
{
	struct writer *w = arg;
	struct guest *g = w->g;

	while (!atomic_load(&g->end)) {
		if (atomic_load(&g->stop)) {
			sched_yield();
			continue;
		}
		pthread_mutex_lock(&g->runs[w->i]);
		for (unsigned i = 0; i < TURNS; i++)
			write_one(w);
		pthread_mutex_unlock(&g->runs[w->i]);
		atomic_fetch_add(&g->turns, TURNS);
	}
	return NULL;
}

static void stand(struct guest *g, bool still)
{
	atomic_store(&g->stop, still);
	for (unsigned i = 0; i < WRITERS; i++)
		(void)(still ? pthread_mutex_lock(&g->runs[i]) : pthread_mutex_unlock(&g->runs[i]));
}

/* The brake is a VM's; what is between a look and its punch is as there. */
static void no_write_is_lost(void **state)
{
	struct guest g = {.m = make(4 * HUGE)};
	struct writer w[WRITERS];
	pthread_t thread[WRITERS];
	uint64_t punched = 0, end = clock_boot_ms() + LIMIT_MS, seen;

	(void)state;
	for (unsigned i = 0; i < WRITERS; i++) {
		pthread_mutex_init(&g.runs[i], NULL);
		w[i] = (struct writer){&g, i, xcalloc(g.m->pages, sizeof(uint32_t)), 7 + i};
		assert_int_equal(pthread_create(&thread[i], NULL, writes, &w[i]), 0);
	}
	for (unsigned i = 0; i < SWEEPS && clock_boot_ms() < end; i++) {
		(void)find(g.m, 0, NONE);
		stand(&g, true);
		punched += vm_sweep_punch(g.m->fd, &g.m->f, NONE);
		stand(&g, false);
		seen = atomic_load(&g.turns);
		while (atomic_load(&g.turns) < seen + g.m->pages / 4 && clock_boot_ms() < end)
			sched_yield();
	}
	atomic_store(&g.end, true);
	for (unsigned i = 0; i < WRITERS; i++) {
		pthread_join(thread[i], NULL);
		for (uint64_t page = i; page < g.m->pages; page += WRITERS)
			if (*word(g.m, page, 300) != content(page, w[i].count[page]))
				atomic_fetch_add(&g.wrong, 1);
		free(w[i].count);
		pthread_mutex_destroy(&g.runs[i]);
	}
	assert_int_equal(atomic_load(&g.wrong), 0);
	assert_true(punched > 100 * PAGE);
	destroy(g.m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(only_zeroes_go),
		cmocka_unit_test(goes_on_where_it_was),
		cmocka_unit_test(no_write_is_lost),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
