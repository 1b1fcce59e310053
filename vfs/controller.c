// SPDX-License-Identifier: Apache-2.0
/*
 * controller.c: a controller, its disks and its clients, one at a time. Everything but the calls
 * of controller.h themselves runs in the I/O thread, and they hop there.
 *
 * A client that comes while the last one is still ending waits: its requests must not overtake
 * what is in flight (and what it did not hear of is done again for it).
 */
#include "vfs/controller_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/err.h"
#include "base/log.h"
#include "vfs/disk.h"
#include "vfs/guard.h"
#include "vfs/iothread.h"

static void serve_next(struct controller *ctl);
static void close_step(struct controller *ctl);

/* --- clients ----------------------------------------------------------------------------------- */

static void session_ended(void *arg, const char *why)
{
	struct controller *ctl = arg;

	log_info("vhost", "%s: client gone: %s", ctl->name, why);
	ctl->clients_lost = true;
	if (ctl->events && ctl->events->gone)
		ctl->events->gone(ctl->arg, why);
	if (ctl->closing)
		close_step(ctl);
	else
		serve_next(ctl);
}

static int serve(struct controller *ctl, int fd)
{
	int rc = vhost_session_start(&ctl->dev, fd, session_ended, ctl);

	if (rc < 0)
		return rc;
	log_debug("vhost", "%s: client connected", ctl->name);
	ctl->clients_lost = false;
	if (ctl->events && ctl->events->connected)
		ctl->events->connected(ctl->arg);
	return 0;
}

static void serve_next(struct controller *ctl)
{
	int fd = ctl->next_fd;

	if (fd < 0 || ctl->dev.session)
		return;
	ctl->next_fd = -1;
	if (serve(ctl, fd) < 0)
		close(fd);
}

/* A connected socket: its turn now, or soon; -EBUSY: somebody is being served. */
static int admit(struct controller *ctl, int fd)
{
	struct vhost_session *s = ctl->dev.session;

	if (ctl->closing)
		return fail(-ESHUTDOWN, "controller %s: it is being closed", ctl->name);
	if (!s)
		return serve(ctl, fd);
	if (!vhost_session_dead(s)) {
		/* A client that reconnects may be faster than the news of its hang-up. */
		if (!vhost_session_hung_up(s))
			return fail(-EBUSY, "controller %s: it has a client", ctl->name);
		vhost_session_kill(s, "the client hung up");
	}
	if (ctl->next_fd >= 0)
		close(ctl->next_fd); /* an older one of the same client, given up */
	ctl->next_fd = fd;
	return 0;
}

static void accept_clients(struct loop_watch *watch, unsigned events)
{
	struct controller *ctl = container_of(watch, struct controller, listen_watch);
	int fd, rc;

	(void)events;
	while ((fd = accept4(ctl->listen_fd, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
		rc = admit(ctl, fd);
		if (rc < 0) {
			log_warn("vhost", "%s", err_message(rc));
			close(fd);
		}
	}
}

/* --- disks ------------------------------------------------------------------------------------- */

static void disk_full(struct vfs_disk *disk, bool is_full)
{
	struct controller *ctl = disk->owner;

	disk->is_full = is_full;
	if (ctl->events && ctl->events->full)
		ctl->events->full(ctl->arg, disk, is_full);
}

static void disk_resized(struct vfs_disk *disk)
{
	struct controller *ctl = disk->owner;

	if (ctl->kind == CONTROLLER_SCSI)
		vhost_scsi_resized(&ctl->scsi, disk);
	else if (ctl->dev.session)
		vhost_session_config_changed(ctl->dev.session);
}

static int attach(struct controller *ctl, struct vfs_disk *disk, const struct controller_lun *lun)
{
	int rc = 0;

	MUST(disk->loop == ctl->loop);
	if (ctl->closing)
		return fail(-ESHUTDOWN, "controller %s: it is being closed", ctl->name);
	if (ctl->kind == CONTROLLER_SCSI)
		rc = vhost_scsi_attach(&ctl->scsi, disk, lun);
	else if (lun->lun || ctl->blk.disk)
		rc = fail(-EBUSY, "controller %s: it has one disk, as LUN 0", ctl->name);
	else
		vhost_blk_set_disk(&ctl->blk, disk);
	if (rc < 0)
		return rc;
	ctl->disks++;
	disk->owner = ctl;
	disk->full = disk_full;
	disk->resized = disk_resized;
	disk->rested = quiesce_disk_rested;
	if (ctl->dev.quiet)
		vfs_rest(disk, true);
	return 0;
}

struct detach {
	struct controller *ctl;
	void (*detached)(void *arg);
	void *arg;
};

static void disk_closed(void *arg)
{
	struct detach *d = arg;
	struct controller *ctl = d->ctl;

	if (ctl->kind == CONTROLLER_BLK)
		vhost_blk_set_disk(&ctl->blk, NULL);
	if (d->detached)
		d->detached(d->arg);
	free(d);
	ctl->disks--;
	quiesce_look(ctl);
	if (ctl->closing)
		close_step(ctl);
}

/*
 * The disk is closed at once: requests at it end, those that are parked (a full volume, a lease
 * that is over) with an error.
 */
static int detach(struct controller *ctl, unsigned lun, void (*detached)(void *arg), void *arg)
{
	struct vfs_disk *disk = ctl->kind == CONTROLLER_BLK ? ctl->blk.disk : NULL;
	struct detach *d;
	int rc;

	if (ctl->kind == CONTROLLER_BLK && (lun || !disk))
		return fail(-ENOENT, "controller %s: no disk at LUN %u", ctl->name, lun);
	if (ctl->kind == CONTROLLER_BLK && ctl->dev.session && !ctl->closing)
		return fail(-EBUSY, "controller %s: a client uses its disk", ctl->name);
	if (ctl->kind == CONTROLLER_SCSI) {
		rc = vhost_scsi_detach(&ctl->scsi, lun, &disk);
		if (rc < 0)
			return rc;
	}
	d = xcalloc(1, sizeof(*d));
	*d = (struct detach){ctl, detached, arg};
	if (disk->is_full)
		disk_full(disk, false);
	disk->full = NULL;
	disk->resized = NULL;
	disk->rested = NULL;
	vfs_close(disk, disk_closed, d);
	return 0;
}

/* --- closing ----------------------------------------------------------------------------------- */

static void free_now(struct controller *ctl)
{
	void (*closed)(void *arg) = ctl->closed;
	void *arg = ctl->closed_arg;

	if (ctl->kind == CONTROLLER_SCSI)
		vhost_scsi_destroy(&ctl->scsi);
	free(ctl->name);
	free(ctl);
	if (closed)
		closed(arg);
}

static void listen_closed(struct loop_watch *watch)
{
	struct controller *ctl = container_of(watch, struct controller, listen_watch);

	ctl->listening = false;
	close_step(ctl);
}

/* Called when something has ended: goes when nothing is left. */
static void close_step(struct controller *ctl)
{
	if (!ctl->listening && !ctl->dev.session && !ctl->disks)
		loop_defer(ctl->loop, &ctl->close_work);
}

static void close_work(struct loop_work *work)
{
	free_now(container_of(work, struct controller, close_work));
}

static void close_all(struct controller *ctl)
{
	ctl->closing = true;
	quiesce_give_up(ctl);
	if (ctl->path)
		unlink(ctl->path);
	free(ctl->path);
	ctl->path = NULL;
	if (ctl->next_fd >= 0)
		close(ctl->next_fd);
	ctl->next_fd = -1;
	if (ctl->listening) {
		loop_watch_remove(&ctl->listen_watch, listen_closed);
		close(ctl->listen_fd);
	}
	if (ctl->dev.session)
		vhost_session_kill(ctl->dev.session, "the controller is closed");
	/* Not after the session has ended: it waits for requests that only this ends. */
	if (ctl->kind == CONTROLLER_BLK && ctl->blk.disk)
		MUST(detach(ctl, 0, NULL, NULL) == 0);
	for (unsigned lun = 0; ctl->kind == CONTROLLER_SCSI && lun < CONTROLLER_LUNS; lun++)
		if (vhost_scsi_has(&ctl->scsi, lun))
			MUST(detach(ctl, lun, NULL, NULL) == 0);
	close_step(ctl);
}

/* --- calls from other threads ------------------------------------------------------------------ */

int controller_create(struct controller **out, const struct controller_options *o)
{
	struct controller *ctl;
	unsigned queues = o->queues ? o->queues : 1;

	if (queues > CONTROLLER_QUEUES_MAX)
		return fail(-EINVAL, "controller %s: %u queues; at most %u are served", o->name,
			    queues, CONTROLLER_QUEUES_MAX);
	guard_install();
	ctl = xcalloc(1, sizeof(*ctl));
	ctl->kind = o->kind;
	ctl->thread = o->thread;
	ctl->loop = iothread_loop(o->thread);
	ctl->name = xstrdup(o->name);
	ctl->events = o->events;
	ctl->arg = o->arg;
	ctl->listen_fd = ctl->next_fd = -1;
	ctl->listen_watch.fn = accept_clients;
	ctl->close_work.fn = close_work;
	ctl->came_work.fn = quiesce_pages_came;
	ctl->dev.loop = ctl->loop;
	ctl->dev.name = ctl->name;
	ctl->dev.sealed = o->sealed;
	ctl->dev.read_only = o->read_only;
	ctl->dev.quieter = quiesce_quieter;
	if (o->kind == CONTROLLER_SCSI) {
		ctl->dev.rings = queues + 2; /* control and event */
		vhost_scsi_init(&ctl->scsi);
	} else {
		ctl->dev.rings = queues;
		vhost_blk_init(&ctl->blk);
	}
	*out = ctl;
	return 0;
}

struct call {
	struct controller *ctl;
	struct vfs_disk *disk;
	const struct controller_lun *options;
	unsigned lun;
	void (*done)(void *arg);
	void *arg;
	const char *path;
	int fd;
	struct controller_stats *stats;
	struct controller_use *use;
	bool leaving;
};

static int call_close(void *arg)
{
	struct call *c = arg;

	c->ctl->closed = c->done;
	c->ctl->closed_arg = c->arg;
	close_all(c->ctl);
	return 0;
}

void controller_close(struct controller *ctl, void (*closed)(void *arg), void *arg)
{
	struct call c = {.ctl = ctl, .done = closed, .arg = arg};

	iothread_call(ctl->thread, call_close, &c);
}

static int call_attach(void *arg)
{
	struct call *c = arg;

	return attach(c->ctl, c->disk, c->options);
}

int controller_attach(struct controller *ctl, struct vfs_disk *disk,
		      const struct controller_lun *options)
{
	struct call c = {.ctl = ctl, .disk = disk, .options = options};

	if (options->lun >= CONTROLLER_LUNS)
		return fail(-EINVAL, "controller %s: LUN %u; the last is %u", ctl->name,
			    options->lun, CONTROLLER_LUNS - 1);
	return iothread_call(ctl->thread, call_attach, &c);
}

static int call_detach(void *arg)
{
	struct call *c = arg;

	return detach(c->ctl, c->lun, c->done, c->arg);
}

int controller_detach(struct controller *ctl, unsigned lun, void (*detached)(void *arg), void *arg)
{
	struct call c = {.ctl = ctl, .lun = lun, .done = detached, .arg = arg};

	return iothread_call(ctl->thread, call_detach, &c);
}

static int call_leave(void *arg)
{
	struct call *c = arg;

	return vhost_scsi_leave(&c->ctl->scsi, c->lun, c->leaving);
}

int controller_leave(struct controller *ctl, unsigned lun, bool leaving)
{
	struct call c = {.ctl = ctl, .lun = lun, .leaving = leaving};

	MUST(ctl->kind == CONTROLLER_SCSI && lun < CONTROLLER_LUNS);
	return iothread_call(ctl->thread, call_leave, &c);
}

static int call_use(void *arg)
{
	struct call *c = arg;

	return vhost_scsi_use(&c->ctl->scsi, c->lun, c->use);
}

int controller_get_use(struct controller *ctl, unsigned lun, struct controller_use *out)
{
	struct call c = {.ctl = ctl, .lun = lun, .use = out};

	MUST(ctl->kind == CONTROLLER_SCSI && lun < CONTROLLER_LUNS);
	return iothread_call(ctl->thread, call_use, &c);
}

static int call_listen(void *arg)
{
	struct call *c = arg;

	c->ctl->listen_fd = c->fd;
	c->ctl->path = xstrdup(c->path);
	c->ctl->listening = true;
	loop_watch_add(c->ctl->loop, &c->ctl->listen_watch, c->fd, POLLIN);
	return 0;
}

int controller_listen(struct controller *ctl, const char *path)
{
	struct call c = {.ctl = ctl, .path = path};
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	struct stat st;
	int rc;

	if (ctl->listening)
		return fail(-EBUSY, "controller %s: it listens at %s", ctl->name, ctl->path);
	if (str_format(addr.sun_path, sizeof(addr.sun_path), "%s", path) < 0)
		return fail(-ENAMETOOLONG, "socket %s: the path is longer than %zu bytes", path,
			    sizeof(addr.sun_path) - 1);
	if (lstat(path, &st) == 0 && S_ISSOCK(st.st_mode))
		unlink(path);
	c.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	/* The mode is set before bind makes the file: nobody else gets in in between. */
	if (c.fd < 0 || fchmod(c.fd, 0600) < 0 ||
	    bind(c.fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 || listen(c.fd, 8) < 0) {
		rc = -errno;
		if (c.fd >= 0)
			close(c.fd);
		return fail(rc, "socket %s: %s", path, strerror(-rc));
	}
	return iothread_call(ctl->thread, call_listen, &c);
}

static int call_serve(void *arg)
{
	struct call *c = arg;

	return admit(c->ctl, c->fd);
}

int controller_serve(struct controller *ctl, int fd)
{
	struct call c = {.ctl = ctl, .fd = fd};
	int rc = iothread_call(ctl->thread, call_serve, &c);

	if (rc < 0)
		close(fd);
	return rc;
}

static int call_stats(void *arg)
{
	struct call *c = arg;
	struct vhost_device *dev = &c->ctl->dev;

	*c->stats = dev->stats;
	c->stats->connected = dev->session && !vhost_session_dead(dev->session);
	c->stats->in_flight = dev->session ? vhost_session_in_flight(dev->session) : 0;
	return 0;
}

void controller_stats(struct controller *ctl, struct controller_stats *out)
{
	struct call c = {.ctl = ctl, .stats = out};

	iothread_call(ctl->thread, call_stats, &c);
}
