// SPDX-License-Identifier: Apache-2.0
/*
 * chans.h: a volume as one I/O thread reaches it: a channel to each extent, shared by all disks that
 * are bound to that thread; and the pool in which blocking metadata work for them is done.
 */
#ifndef VFS_CHANS_H
#define VFS_CHANS_H

#include <stdint.h>

struct cfs;
struct loop;
struct pool;
struct vfs_chans;

/* Blocks (logins): not from the loop's thread. Comes with one reference. */
int vfs_chans_open(struct cfs *fs, struct loop *loop, struct pool *pool, struct vfs_chans **out);
/*
 * Gives that one back and waits until the channels are closed: until then one may be being opened, which
 * needs the volume, the pool and the loop. Not in the loop's thread; the disks have been closed.
 */
void vfs_chans_close(struct vfs_chans *chans);
/* A disk's, in the loop's thread; the last one closes the channels. Nothing of its own is in flight. */
void vfs_chans_put(struct vfs_chans *chans);
void vfs_chans_get(struct vfs_chans *chans);

/* How many disks use it, about. */
unsigned vfs_chans_disks(const struct vfs_chans *chans);
struct cfs *vfs_chans_volume(struct vfs_chans *chans);
struct loop *vfs_chans_loop(struct vfs_chans *chans);
struct pool *vfs_chans_pool(struct vfs_chans *chans);
/*
 * The channel of extent `e`. NULL while there is none yet: the volume has grown, one is being opened; ask
 * again. In the loop's thread.
 */
struct blk_chan;
struct blk_chan *vfs_chan(struct vfs_chans *chans, unsigned e);

#endif
