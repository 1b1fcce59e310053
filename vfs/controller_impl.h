// SPDX-License-Identifier: Apache-2.0
/* controller_impl.h (private to controller.c and quiesce.c): a controller's parts. All in its I/O thread. */
#ifndef VFS_CONTROLLER_IMPL_H
#define VFS_CONTROLLER_IMPL_H

#include <semaphore.h>

#include "vfs/controller.h"
#include "vfs/vhost.h"
#include "vfs/vhost_blk.h"
#include "vfs/vhost_scsi.h"

/* quiesce.c. Whether no requests are fetched is dev.quiet. */
struct quiesce {
	sem_t *waiter;	   /* who called controller_quiesce and waits; NULL: nobody */
	int rc;		   /* for it */
	bool held;	   /* all is still, until controller_unquiesce */
	bool flushed;	   /* the disks were asked to flush */
	unsigned flushing; /* flushes under way */
	int flush_error;
};

struct controller {
	enum controller_kind kind;
	struct iothread *thread;
	struct loop *loop;
	char *name;
	const struct controller_events *events;
	void *arg;
	union {
		struct vhost_device dev;
		struct vhost_blk blk;
		struct vhost_scsi scsi;
	};
	int listen_fd, next_fd; /* next_fd: a client that waits for its turn */
	char *path;
	struct loop_watch listen_watch;
	bool listening;
	bool closing;
	bool clients_lost; /* the last client went, none has come since */
	unsigned disks;	   /* attached, or on their way out */
	void (*closed)(void *arg);
	void *closed_arg;
	struct loop_work close_work, came_work;
	atomic_bool came; /* came_work is posted */
	struct quiesce quiesce;
};

/* Something has ended that a quiesce may wait for. */
void quiesce_look(struct controller *ctl);
void quiesce_disk_rested(struct vfs_disk *disk);
void quiesce_quieter(struct vhost_device *dev);
/* came_work: pages of a guest's memory. */
void quiesce_pages_came(struct loop_work *work);
/* The controller is being closed. */
void quiesce_give_up(struct controller *ctl);

#endif
