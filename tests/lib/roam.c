// SPDX-License-Identifier: Apache-2.0
/* roam.c: a VM's lock and its disks, without the VM. */
#include "tests/lib/roam.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "clusterfs/handover.h"
#include "tests/lib/lun.h"

#define SIZE  (256 * MiB)
#define DISK  ROAM_DISK
#define CHUNK ROAM_CHUNK

#define ok(call)                                                              \
	do {                                                                  \
		int rc_ = (int)(call);                                        \
		if (rc_ < 0)                                                  \
			fprintf(stderr, "%s: %s\n", #call, err_message(rc_)); \
		MUST(rc_ >= 0);                                               \
	} while (0)

struct cfs *roam_fs(struct roam *w, unsigned i)
{
	return w->v->fs[i];
}

static void path_of(unsigned disk, char path[32])
{
	(void)str_format(path, 32, "/d%u", disk);
}

void roam_open_disks(struct roam *w, unsigned i)
{
	char path[32];

	for (unsigned d = 0; d < w->disks; d++) {
		path_of(d, path);
		ok(cfs_open(roam_fs(w, i), path, CFS_OPEN_WRITE, cfs_vm_lock_vbn(w->vm[i]),
			    &w->file[i][d]));
	}
}

void roam_close_disks(struct roam *w, unsigned i)
{
	for (unsigned d = 0; d < w->disks; d++)
		ok(cfs_close(w->file[i][d]));
}

/* What round `r` leaves at chunk `n` of a disk: each third chunk is written anew, and there are new ones. */
static uint64_t seed(uint64_t r, unsigned d, uint64_t n)
{
	return r * 1000003 + d * 1009 + n;
}

static uint64_t chunk_at(uint64_t n)
{
	return n * 5 * CHUNK % (DISK - CHUNK) / CHUNK * CHUNK;
}

void roam_write_round(struct roam *w, unsigned i)
{
	uint8_t *buf = xmalloc(CHUNK);

	w->round++;
	for (unsigned d = 0; d < w->disks; d++) {
		for (uint64_t n = 0; n < 3; n++) {
			lun_pattern(buf, CHUNK, seed(w->round, d, n));
			ok(cfs_pwrite(w->file[i][d], buf, CHUNK, chunk_at(w->round + n * 7)));
		}
		ok(cfs_fsync(w->file[i][d]));
	}
	free(buf);
}

/* The newest of all rounds stands at each chunk. */
#define SECTOR 512u

/* What round `r` left at chunk `k`: false: nothing. */
static bool left(uint64_t r, unsigned d, unsigned k, uint8_t *out)
{
	for (uint64_t n = 3; n-- > 0;) {
		if (chunk_at(r + n * 7) / CHUNK != k)
			continue;
		lun_pattern(out, CHUNK, seed(r, d, n));
		return true;
	}
	return false;
}

/* Each sector holds what the rounds up to `durable` left there, or a later one's. */
static bool chunk_right(const struct roam *w, unsigned d, unsigned k, uint64_t durable,
			const uint8_t *got)
{
	uint8_t *want = xcalloc(1, CHUNK);
	bool right[CHUNK / SECTOR] = {0}, all = true;
	uint64_t r = durable;

	while (r && !left(r, d, k, want))
		r--;
	for (r = durable; r <= w->round; r++) {
		if (r > durable && !left(r, d, k, want))
			continue;
		for (unsigned s = 0; s < CHUNK / SECTOR; s++)
			right[s] |= memcmp(got + s * SECTOR, want + s * SECTOR, SECTOR) == 0;
	}
	for (unsigned s = 0; s < CHUNK / SECTOR; s++)
		all &= right[s];
	free(want);
	return all;
}

bool roam_right(struct roam *w, unsigned i, uint64_t durable)
{
	uint8_t *got = xmalloc(CHUNK);
	bool right = true;

	for (unsigned d = 0; d < w->disks && right; d++) {
		for (unsigned k = 0; k < DISK / CHUNK && right; k++) {
			ok(cfs_pread(w->file[i][d], got, CHUNK, k * CHUNK));
			right = chunk_right(w, d, k, durable, got);
			if (!right)
				fprintf(stderr, "disk %u, chunk %u: not what round %llu left\n", d,
					k, (unsigned long long)durable);
		}
	}
	free(got);
	return right;
}

void roam_read_back(struct roam *w, unsigned i)
{
	MUST(roam_right(w, i, w->round));
}

void roam_make_as(struct roam *w, struct vol *v, unsigned disks, unsigned hosts, bool faulty)
{
	char path[32];

	log_set_level(LOG_ERROR);
	memset(w, 0, sizeof(*w));
	w->v = v ? v : vol_make_patient(SIZE);
	w->disks = disks;
	for (unsigned i = 0; i < hosts; i++) {
		w->v->faulty[i] = faulty && i != C;
		ok(vol_mount(w->v, i, NULL));
	}
	ok(cfs_create(roam_fs(w, A), "/vm", CFS_VM, 0));
	for (unsigned d = 0; d < disks; d++) {
		path_of(d, path);
		ok(cfs_create(roam_fs(w, A), path, CFS_DISK, DISK));
	}
	ok(cfs_vm_lock(roam_fs(w, A), "/vm", 0, &w->vm[A]));
	roam_open_disks(w, A);
	roam_write_round(w, A);
}

void roam_make(struct roam *w, unsigned disks, unsigned hosts)
{
	roam_make_as(w, NULL, disks, hosts, false);
}

static void clean(struct roam *w)
{
	struct cfs_check_result r;

	ok(vol_check(w->v, false, true, &r));
	MUST(r.findings == 0);
}

void roam_end(struct roam *w, unsigned i)
{
	roam_read_back(w, i);
	roam_write_round(w, i);
	roam_close_disks(w, i);
	ok(cfs_vm_unlock(w->vm[i]));
	for (unsigned h = 0; h < VOL_HOSTS; h++)
		if (w->v->fs[h])
			ok(vol_unmount(w->v, h));
	clean(w);
	ok(vol_mount(w->v, C, NULL));
	ok(cfs_vm_lock(roam_fs(w, C), "/vm", 20000, &w->vm[C]));
	roam_open_disks(w, C);
	roam_read_back(w, C);
	roam_close_disks(w, C);
	ok(cfs_vm_unlock(w->vm[C]));
	vol_free(w->v);
}

int roam_offer(struct roam *w, unsigned from, unsigned to)
{
	uint32_t epoch;
	unsigned slot;

	cfs_life(roam_fs(w, to), &slot, &epoch);
	return cfs_vm_offer(w->vm[from], slot, epoch);
}

int roam_accept(struct roam *w, unsigned from, unsigned to, const void *baggage, size_t size)
{
	uint32_t epoch;
	unsigned slot;

	cfs_life(roam_fs(w, from), &slot, &epoch);
	return cfs_vm_accept(roam_fs(w, to), "/vm", slot, epoch, baggage, size, &w->vm[to]);
}

int roam_take_up(struct roam *w, unsigned from, unsigned to)
{
	return roam_accept(w, from, to, NULL, 0);
}

void roam_forget(struct roam *w, unsigned i)
{
	MUST(cfs_vm_retract(w->vm[i]) == -ENOENT);
	cfs_vm_forget(w->vm[i]);
	w->vm[i] = NULL;
}

void roam_hand_over(struct roam *w, unsigned from, unsigned to, bool with_baggage)
{
	void *baggage = NULL;
	size_t size = 0;

	ok(cfs_vm_checkpoint(w->vm[from]));
	ok(roam_offer(w, from, to));
	if (with_baggage)
		ok(cfs_vm_baggage(w->vm[from], 4 * MiB, &baggage, &size));
	ok(roam_accept(w, from, to, baggage, size));
	free(baggage);
	roam_open_disks(w, to);
	roam_forget(w, from);
}

void roam_die(struct roam *w, unsigned i)
{
	struct cfs_vm_lock *vm = w->vm[i];

	vol_abandon(w->v, i);
	if (vm)
		free(vm->held);
	free(vm);
	w->vm[i] = NULL;
}

void roam_wait_over(struct roam *w, unsigned who, unsigned slot, uint32_t epoch)
{
	uint64_t end = clock_boot_ms() + 30000;

	while (!cfs_life_over(roam_fs(w, who), slot, epoch) && clock_boot_ms() < end)
		sleep_ms(20);
	MUST(cfs_life_over(roam_fs(w, who), slot, epoch));
}

bool roam_is_everywhere(struct roam *w, enum cfs_vm_state state, const char *host, const char *to)
{
	for (unsigned i = 0; i < VOL_HOSTS; i++) {
		struct cfs_vm_where where;
		bool here = host[0] && (unsigned)(host[4] - '0') == i;

		if (!w->v->fs[i])
			continue;
		MUST(cfs_vm_where(roam_fs(w, i), "/vm", &where) == 0);
		if (where.state == state && !strcmp(where.host, host) && !strcmp(where.to, to) &&
		    where.here == here)
			continue;
		fprintf(stderr, "host%u sees the vm in state %d on %s, to %s\n", i,
			(int)where.state, where.host, where.to);
		return false;
	}
	return true;
}
