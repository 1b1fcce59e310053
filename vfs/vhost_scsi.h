// SPDX-License-Identifier: Apache-2.0
/*
 * vhost_scsi.h: virtio-scsi (virtio 1.2, 5.6) over vhost-user: target 0 with LUNs; commands go to
 * the SCSI target (scsi.h), task management and events are here. Private to vfs/.
 *
 * LUNs are addressed as QEMU and Linux do: byte 0 is 1, byte 1 the target, bytes 2 and 3 the LUN in
 * peripheral (0x00) or flat (0x40) addressing; events use flat only from LUN 256 on.
 */
#ifndef VFS_VHOST_SCSI_H
#define VFS_VHOST_SCSI_H

#include "base/util.h"
#include "vfs/vhost.h"

struct scsi_target;
struct vfs_disk;
struct vhost_scsi_event;

struct vhost_scsi {
	struct vhost_device dev; /* first */
	struct vhost_device_ops ops;
	struct scsi_target *target;
	struct list tasks;  /* task management that waits for commands to end */
	struct list events; /* not sent yet */
	unsigned event_count;
	uint8_t leaving[CONTROLLER_LUNS / 8]; /* a bit each: the guest was told that it goes */
	bool missed; /* events were lost, or a daemon died: EVENTS_MISSED goes with the next */
	uint64_t features;
};

/* `dev` of which loop, name, rings are filled. */
void vhost_scsi_init(struct vhost_scsi *scsi);
/* No LUN is attached. */
void vhost_scsi_destroy(struct vhost_scsi *scsi);
int vhost_scsi_attach(struct vhost_scsi *scsi, struct vfs_disk *disk,
		      const struct controller_lun *options);
int vhost_scsi_leave(struct vhost_scsi *scsi, unsigned lun, bool leaving);
int vhost_scsi_use(struct vhost_scsi *scsi, unsigned lun, struct controller_use *out);
/* As scsi_detach; the guest is told, if it was not. */
int vhost_scsi_detach(struct vhost_scsi *scsi, unsigned lun, struct vfs_disk **disk);
bool vhost_scsi_has(const struct vhost_scsi *scsi, unsigned lun);
void vhost_scsi_resized(struct vhost_scsi *scsi, struct vfs_disk *disk);

#endif
