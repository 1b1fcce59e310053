// SPDX-License-Identifier: Apache-2.0
/*
 * volume.h (private to host): the volumes this host has mounted, by name. A mount is remembered in
 * the inventory until `unmount`: a thread mounts what is missing, at start and whenever its LUNs
 * come back. Calls block.
 */
#ifndef HOST_VOLUME_H
#define HOST_VOLUME_H

#include <stdbool.h>
#include <stdint.h>
#include <jansson.h>

#include "host/lun.h"

struct cfs;
struct host;
struct host_call;
struct host_lun;
struct host_volume;
struct host_volumes;

int host_volumes_create(struct host *host, struct host_volumes **out);
/* Starts mounting what is remembered; returns when each was tried once, at most `wait_ms` later. */
void host_volumes_restore(struct host_volumes *volumes, unsigned wait_ms);
/* Mounts nothing any more. */
void host_volumes_quiesce(struct host_volumes *volumes);
/* host_volumes_quiesce was called: long work is to end. */
bool host_volumes_ending(struct host_volumes *volumes);
/* Unmounts those without VMs, abandons the others. Nothing uses them any more. */
void host_volumes_destroy(struct host_volumes *volumes);

/* A use of the mounted volume `name` (or its id); -ENOENT. Unmount is refused meanwhile. */
int host_volume_get(struct host_volumes *volumes, const char *name, struct host_volume **out);
void host_volume_put(struct host_volume *volume);
struct cfs *host_volume_fs(struct host_volume *volume);
const char *host_volume_name(const struct host_volume *volume);
/* "VOLUME:/path" to a used volume and its path (borrowed from `name`). */
int host_volume_of(struct host_volumes *volumes, const char *name, struct host_volume **volume,
		   const char **path);
/* Calls `fn` for each mounted volume, used meanwhile; non-zero ends the walk. */
int host_volumes_each(struct host_volumes *volumes,
		      int (*fn)(void *arg, struct host_volume *volume), void *arg);
/* How many VMs run on it here; they hold it at unmount and at the daemon's end. */
void host_volume_count_vm(struct host_volume *volume, int change);
/* At the daemon's end it is abandoned, not unmounted: the next one is to go on in this life. */
void host_volume_keep(struct host_volume *volume);

/*
 * Mounts: `names` are LUNs, or one volume's name. Remembers it. A volume that is mounted already
 * is -EBUSY, and so is one with a LUN that a VM has (vm_pass.h), unless it is mounted `again`: then nothing
 * may hang on other volumes.
 */
int host_volume_mount(struct host_volumes *volumes, const char *const *names, unsigned n,
		      const char *chap_file, bool new_identity, bool again, char name[64]);
int host_volume_unmount(struct host_volumes *volumes, const char *name);
/* Remembered ones that are not mounted, and those that are just being unmounted: appends {"name", "id", "state", "error"} to `list`. */
void host_volumes_missing(struct host_volumes *volumes, json_t *list);
/* After a rename or growth: the inventory is brought up to date. */
int host_volume_remember(struct host_volume *volume);
int host_volume_add_luns(struct host_volume *volume, struct host_lun **luns, unsigned n);
/* The LUNs of it; returns their number. */
unsigned host_volume_luns(struct host_volume *volume, struct host_lun **out);

/* Requests to its LUNs one after the other (blk_stats.steps), since the mount; and what one takes now, ns. */
uint64_t host_volume_steps(struct host_volume *volume);
uint64_t host_volume_latency(struct host_volume *volume);

/* Argument "volume" as a use of a mounted one. */
int host_volume_named(struct host_call *call, struct host_volume **out);
struct cfs_info;
/* cfs_info after a look at the other hosts, and what is promised as far as it was counted. Waits 0.7 s at most. */
int host_volume_info(struct host_volume *volume, struct cfs_info *out);
/* A disk was made, resized or deleted: what is promised is to be counted anew. */
void host_volume_disks_changed(struct host_volume *volume);
/* What `volume show` says. */
json_t *host_volume_json(const struct cfs_info *info);

#endif
