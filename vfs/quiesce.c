// SPDX-License-Identifier: Apache-2.0
/*
 * quiesce.c: a controller held still for a migration: no requests taken, none in flight, disks at rest, all
 * durable; its writes to the guest's memory in the host's log; its state for a controller elsewhere.
 *
 * Requests that wait in the rings stay there: the guest's memory goes to the target with them. What a former
 * daemon had taken (a replay) is done first, since only this host's in-flight region knows of it.
 */
#include "vfs/controller_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/err.h"
#include "vfs/disk.h"
#include "vfs/iothread.h"
#include "vfs/scsi.h"

/* --- holding still ------------------------------------------------------------------------------------- */

static struct vfs_disk *disk_at(const struct controller *ctl, unsigned lun)
{
	if (ctl->kind == CONTROLLER_BLK)
		return lun == 0 ? ctl->blk.disk : NULL;
	return scsi_disk(ctl->scsi.target, lun);
}

/* All disks rest, or don't any more; what keeps them from it. */
static unsigned rest_all(struct controller *ctl, bool on, unsigned *n)
{
	unsigned left = 0;

	*n = 0;
	for (unsigned lun = 0; lun < CONTROLLER_LUNS; lun++) {
		struct vfs_disk *disk = disk_at(ctl, lun);

		if (!disk)
			continue;
		left |= vfs_rest(disk, on);
		++*n;
	}
	return left;
}

static void let_go(struct controller *ctl)
{
	unsigned n;

	ctl->dev.quiet = false;
	ctl->quiesce.held = false;
	(void)rest_all(ctl, false, &n);
	if (ctl->dev.session)
		vhost_session_go_on(ctl->dev.session);
}

static void finish(struct controller *ctl, int rc)
{
	struct quiesce *q = &ctl->quiesce;
	sem_t *waiter = q->waiter;

	q->waiter = NULL;
	q->rc = rc;
	q->held = rc == 0;
	if (rc < 0)
		let_go(ctl);
	sem_post(waiter);
}

struct flush {
	struct vfs_req req;
	struct controller *ctl;
	struct vfs_disk *disk;
};

static void flush_done(struct vfs_req *req, int res)
{
	struct flush *f = container_of(req, struct flush, req);
	struct controller *ctl = f->ctl;

	if (res < 0) {
		f->disk->owes_loss |= res == -EIO;
		ctl->quiesce.flush_error = res;
	}
	ctl->quiesce.flushing--;
	free(f);
	quiesce_look(ctl);
}

static void flush_disks(struct controller *ctl)
{
	struct quiesce *q = &ctl->quiesce;

	q->flushed = true;
	q->flush_error = 0;
	q->flushing++; /* one may be done before the next is begun */
	for (unsigned lun = 0; lun < CONTROLLER_LUNS; lun++) {
		struct vfs_disk *disk = disk_at(ctl, lun);
		struct flush *f;

		if (!disk || !(vfs_rest(disk, true) & VFS_UNFLUSHED))
			continue;
		f = xcalloc(1, sizeof(*f));
		f->ctl = ctl;
		f->disk = disk;
		f->req.op = VFS_FLUSH;
		f->req.done = flush_done;
		q->flushing++;
		vfs_submit(disk, &f->req);
	}
	q->flushing--;
	quiesce_look(ctl);
}

/* Of a client that went nobody knows what it was not answered: it has to come back first. */
static bool client_idle(const struct controller *ctl)
{
	const struct vhost_session *s = ctl->dev.session;

	return s ? !vhost_session_dead(s) && vhost_session_idle(s) : !ctl->clients_lost;
}

void quiesce_look(struct controller *ctl)
{
	struct quiesce *q = &ctl->quiesce;
	unsigned left, n;

	if (!q->waiter || q->flushing || !client_idle(ctl))
		return;
	left = rest_all(ctl, true, &n);
	if (left & VFS_BUSY || n < ctl->disks) /* those on their way out, too */
		return;
	if (left & VFS_UNFLUSHED && !q->flushed)
		flush_disks(ctl);
	else
		finish(ctl, q->flushed ? q->flush_error : 0);
}

void quiesce_disk_rested(struct vfs_disk *disk)
{
	quiesce_look(disk->owner);
}

void quiesce_quieter(struct vhost_device *dev)
{
	quiesce_look(container_of(dev, struct controller, dev));
}

void quiesce_give_up(struct controller *ctl)
{
	if (ctl->quiesce.waiter)
		finish(ctl, -ESHUTDOWN);
}

struct hold {
	struct controller *ctl;
	bool flush;
	sem_t done;
};

static int call_begin(void *arg)
{
	struct hold *hold = arg;
	struct quiesce *q = &hold->ctl->quiesce;

	if (hold->ctl->dev.quiet || hold->ctl->closing)
		return fail(-EBUSY, "controller %s: it is %s already", hold->ctl->name,
			    hold->ctl->closing ? "being closed" : "quiesced");
	hold->ctl->dev.quiet = true;
	q->waiter = &hold->done;
	q->flushed = !hold->flush;
	q->flush_error = 0;
	quiesce_look(hold->ctl);
	return 0;
}

static int call_give_up(void *arg)
{
	struct hold *hold = arg;

	if (hold->ctl->quiesce.waiter == &hold->done)
		finish(hold->ctl, -ETIMEDOUT);
	return hold->ctl->quiesce.rc;
}

static bool wait_for(sem_t *sem, unsigned ms)
{
	struct timespec end;
	int rc;

	end = clock_in_ms(ms);
	do
		rc = sem_clockwait(sem, CLOCK_MONOTONIC, &end);
	while (rc < 0 && errno == EINTR);
	return rc == 0;
}

static int quiesce(struct controller *ctl, unsigned timeout_ms, bool flush)
{
	struct hold hold = {.ctl = ctl, .flush = flush};
	int rc;

	sem_init(&hold.done, 0, 0);
	rc = iothread_call(ctl->thread, call_begin, &hold);
	if (rc == 0) {
		(void)wait_for(&hold.done, timeout_ms);
		rc = iothread_call(ctl->thread, call_give_up, &hold);
		if (rc < 0)
			rc = fail(rc, "controller %s: not quiet within %u ms: %s", ctl->name,
				  timeout_ms, strerror(-rc));
	}
	sem_destroy(&hold.done);
	return rc;
}

int controller_quiesce(struct controller *ctl, unsigned timeout_ms)
{
	return quiesce(ctl, timeout_ms, true);
}

int controller_hold(struct controller *ctl, unsigned timeout_ms)
{
	return quiesce(ctl, timeout_ms, false);
}

static int call_unquiesce(void *arg)
{
	struct controller *ctl = arg;

	if (ctl->quiesce.held)
		let_go(ctl);
	return 0;
}

void controller_unquiesce(struct controller *ctl)
{
	iothread_call(ctl->thread, call_unquiesce, ctl);
}

/* --- the host's log ---------------------------------------------------------------------------------------- */

struct log_call {
	struct controller *ctl;
	uint64_t *words;
	size_t bits;
};

static int call_log(void *arg)
{
	struct log_call *c = arg;
	struct vhost_device *dev = &c->ctl->dev;

	dev->file_log = c->words;
	dev->file_log_bits = c->words ? c->bits : 0;
	if (dev->session)
		vhost_session_update_log(dev->session);
	return 0;
}

void controller_log(struct controller *ctl, uint64_t *words, size_t bits)
{
	struct log_call c = {ctl, words, bits};

	iothread_call(ctl->thread, call_log, &c);
}

/* --- before all of the guest's memory has come -------------------------------------------------------------- */

struct lazy_call {
	struct controller *ctl;
	const uint64_t *present;
	void (*want)(void *arg, uint64_t offset);
	void *want_arg;
};

static int call_lazy(void *arg)
{
	struct lazy_call *c = arg;
	struct vhost_device *dev = &c->ctl->dev;

	dev->present = c->present;
	dev->want = c->want;
	dev->want_arg = c->want_arg;
	if (dev->session) {
		vhost_session_update_log(dev->session);
		vhost_session_pages_came(dev->session);
	}
	return 0;
}

void controller_lazy(struct controller *ctl, const uint64_t *present,
		     void (*want)(void *arg, uint64_t offset), void *want_arg)
{
	struct lazy_call c = {ctl, present, want, want_arg};

	iothread_call(ctl->thread, call_lazy, &c);
}

void quiesce_pages_came(struct loop_work *work)
{
	struct controller *ctl = container_of(work, struct controller, came_work);

	atomic_store(&ctl->came, false);
	if (ctl->dev.session)
		vhost_session_pages_came(ctl->dev.session);
}

void controller_pages_came(struct controller *ctl)
{
	if (!atomic_exchange(&ctl->came, true))
		loop_post(ctl->loop, &ctl->came_work);
}

/* --- state --------------------------------------------------------------------------------------------------- */

struct state_call {
	struct controller *ctl;
	void *out;
	const void *in;
	size_t size;
};

/* A disk without a target has but one thing to be told: nothing, or that its next flush tells of a loss. */
#define BLK_OWES_LOSS "PLB1"
#define BLK_STATE     4u

static int save_blk(const struct state_call *c)
{
	const struct vfs_disk *disk = c->ctl->blk.disk;

	if (!disk || !disk->owes_loss)
		return 0;
	if (c->size < BLK_STATE)
		return fail(-ENOSPC, "controller %s: its state has no room in %zu bytes",
			    c->ctl->name, c->size);
	memcpy(c->out, BLK_OWES_LOSS, BLK_STATE);
	return BLK_STATE;
}

static int load_blk(const struct state_call *c)
{
	struct vfs_disk *disk = c->ctl->blk.disk;

	if (!c->size)
		return 0;
	if (!disk || c->size != BLK_STATE || memcmp(c->in, BLK_OWES_LOSS, BLK_STATE) != 0)
		return fail(-EINVAL, "controller %s: a state that makes no sense here",
			    c->ctl->name);
	disk->owes_loss = true;
	return 0;
}

static int call_save(void *arg)
{
	struct state_call *c = arg;

	return c->ctl->kind == CONTROLLER_BLK ? save_blk(c)
					      : scsi_save(c->ctl->scsi.target, c->out, c->size);
}

int controller_save(struct controller *ctl, void *state, size_t size)
{
	struct state_call c = {.ctl = ctl, .out = state, .size = size};

	return iothread_call(ctl->thread, call_save, &c);
}

static int call_load(void *arg)
{
	struct state_call *c = arg;

	if (c->ctl->kind == CONTROLLER_BLK)
		return load_blk(c);
	return scsi_load(c->ctl->scsi.target, c->in, c->size);
}

int controller_check_state(const void *state, size_t size)
{
	return scsi_load(NULL, state, size);
}

int controller_load(struct controller *ctl, const void *state, size_t size)
{
	struct state_call c = {.ctl = ctl, .in = state, .size = size};

	return iothread_call(ctl->thread, call_load, &c);
}
