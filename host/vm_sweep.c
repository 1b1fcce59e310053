// SPDX-License-Identifier: Apache-2.0
/* vm_sweep.c: looks, standstill, punches; see vm_sweep.h for why no write is lost. */
#include "host/vm_sweep.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/util.h"
#include "host/vm_run.h"
#include "host/vm_move.h"
#include "migrate/memory.h"
#include "vfs/controller.h"

#define PAGE	  VM_SWEEP_PAGE
#define HUGE_PAGE (2 * MiB)
#define LEAST	  (HUGE_PAGE / PAGE / 8) /* pages of zeroes for which a huge page is split */
#define STAND_MS  25
#define DRAIN_MS  300 /* its processors run on meanwhile */
#define CHANGE_MS 1000
#define SOON_MS	  500 /* its supervisor has other work until then at most, or it is left alone */

/* --- the memory's file ----------------------------------------------------------------------------------- */

/* Of [at, at + n), inside of one huge page. */
static void find_in(int fd, uint64_t at, uint64_t n, uint8_t *buf, struct vm_sweep_found *out)
{
	uint64_t first = (at - out->from) / PAGE, found = 0;

	if (pread(fd, buf, n, (off_t)at) != (ssize_t)n)
		return;
	for (uint64_t i = 0; i < n / PAGE; i++)
		found += mig_is_zero(buf + i * PAGE, PAGE);
	if (n == HUGE_PAGE && found < LEAST)
		return;
	for (uint64_t i = 0; i < n / PAGE; i++)
		if (mig_is_zero(buf + i * PAGE, PAGE))
			out->bits[(first + i) / 64] |= 1ULL << (first + i) % 64;
	out->pages += found;
}

/* A range is asked for once, it may be all of the memory: lseek walks to its end. */
void vm_sweep_find(int fd, uint64_t bytes, uint64_t most, struct vm_sweep_found *out)
{
	cleanup_free uint8_t *buf = xaligned(PAGE, HUGE_PAGE);
	uint64_t end = MIN(bytes, out->from + VM_SWEEP_LOOK), n;
	struct mig_range r = {out->from, 0};

	out->end = out->from;
	while (out->end < end && out->pages * PAGE + HUGE_PAGE <= most) {
		if (out->end == r.offset + r.bytes) {
			bool more = mig_memory_next(fd, bytes, out->end, &r) == 1;

			out->end = more ? MIN(r.offset, end) : end;
			continue;
		}
		n = MIN(ROUND_DOWN(out->end, HUGE_PAGE) + HUGE_PAGE, r.offset + r.bytes);
		n = MIN(n, end) - out->end;
		find_in(fd, out->end, n, buf, out);
		out->end += n;
	}
	err_clear();
}

static bool still_zero(int fd, uint64_t at, uint8_t *buf)
{
	return pread(fd, buf, PAGE, (off_t)at) == (ssize_t)PAGE && mig_is_zero(buf, PAGE);
}

static uint64_t punch(int fd, uint64_t at, uint64_t n)
{
	const int how = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;

	return n && fallocate(fd, how, (off_t)at, (off_t)n) == 0 ? n : 0;
}

uint64_t vm_sweep_punch(int fd, struct vm_sweep_found *f, uint64_t until_ns)
{
	cleanup_free uint8_t *buf = xaligned(PAGE, PAGE);
	uint64_t pages = (f->end - f->from) / PAGE, punched = 0, first = 0, n = 0;

	for (uint64_t page = 0; page <= pages; page++) {
		bool late = page % 64 == 0 && clock_boot_ns() >= until_ns;

		if (!late && page < pages && f->bits[page / 64] >> page % 64 & 1 &&
		    still_zero(fd, f->from + page * PAGE, buf)) {
			first = n++ ? first : page;
			continue;
		}
		punched += punch(fd, f->from + first * PAGE, n * PAGE);
		n = 0;
		if (late) {
			f->end = f->from + page * PAGE;
			break;
		}
	}
	return punched;
}

/* --- the guest --------------------------------------------------------------------------------------- */

struct work {
	int fd; /* of its memory, our own */
	uint64_t bytes, punched;
	struct vm_sweep_found found;
};

/*
 * One that does not run just now, or waits for pages in its VMM, is left alone. So is one that may have guests: for these
 * KVM keeps pages of their hypervisor mapped in the kernel, which a punch would not take away.
 */
static int check(const struct host_vm *vm)
{
	if (vm->def.nested)
		return fail(-EOPNOTSUPP, "it may have guests itself");
	if (vm->phase != VM_RUNNING || vm->resetting || vm->held || vm->lazy || vm->whole_owed)
		return fail(-EAGAIN, "it does not run, or its memory is coming");
	return 0;
}

static int take_fd(struct host_vm *vm, void *arg)
{
	struct work *w = arg;
	int rc = check(vm);

	if (rc < 0)
		return rc;
	w->bytes = vm->def.memory;
	w->fd = fcntl(vm->memory_fd, F_DUPFD_CLOEXEC, 0);
	return w->fd < 0 ? -errno : 0;
}

/* In the supervisor. The controller first: the processors run on until its disks have answered. */
static int punch_here(struct host_vm *vm, void *arg)
{
	struct work *w = arg;
	struct err_info why;
	int rc = check(vm);

	if (rc == 0)
		rc = controller_hold(vm->controller, DRAIN_MS);
	if (rc < 0)
		return rc;
	rc = vm_call_plain(vm, VMCTL_PAUSE, VM_CALL_MS);
	if (rc == 0) {
		host_step(vm->all->host, "sweep.stands");
		w->punched = vm_sweep_punch(w->fd, &w->found,
					    clock_boot_ns() + STAND_MS * NS_PER_MS);
	}
	err_save(&why, rc);
	controller_unquiesce(vm->controller);
	if (rc != -EINVAL) /* refused: it reboots, or ended, just now */
		vm_run_on(vm);
	return err_restore(&why);
}

/* What it uses is looked at anew: the supervisor's figure may be a second old, and count what is given back already. */
static int look_and_punch(struct host_vm *vm, struct work *w, uint64_t keep)
{
	struct stat st = {0};
	uint64_t most;
	int rc = vm_do_soon(vm, take_fd, w, SOON_MS);

	if (rc < 0)
		return rc;
	(void)fstat(w->fd, &st);
	most = (uint64_t)st.st_blocks * 512;
	most = MIN(most - MIN(most, keep), VM_SWEEP_MOST);
	w->found.from = vm->sweep.at;
	w->found.end = w->bytes;
	if (most >= VM_SWEEP_WORTH)
		vm_sweep_find(w->fd, w->bytes, most, &w->found);
	if (w->found.pages * PAGE >= VM_SWEEP_WORTH)
		rc = vm_do_soon(vm, punch_here, w, SOON_MS);
	close(w->fd);
	return rc;
}

int vm_sweep(struct host_vm *vm, uint64_t keep)
{
	struct work *w = xcalloc(1, sizeof(*w));
	int rc = vm_change_begin(vm, "pages of zeroes are given back", false, CHANGE_MS);

	if (rc == 0) {
		rc = look_and_punch(vm, w, keep);
		vm_change_end(vm);
	}
	if (rc == 0) {
		vm->sweep.at = w->found.end;
		vm->sweep.punched += w->punched;
		rc = w->found.end < w->bytes;
	}
	free(w);
	return rc;
}
