// SPDX-License-Identifier: Apache-2.0
/* names.h (private to host): what the verbs on objects of a volume share. All block. */
#ifndef HOST_NAMES_H
#define HOST_NAMES_H

#include <stdint.h>
#include <sys/types.h>
#include <jansson.h>

#include "clusterfs/cfs.h"

struct host_call;
struct host_volume;

/* "file", "directory", "disk", "vm" for an enum cfs_file_kind. */
const char *host_kind_name(unsigned kind);
/* Argument `key`, "VOLUME:/path", as a use of the volume and a path (borrowed). */
int host_need_object(struct host_call *call, const char *key, struct host_volume **v,
		     const char **path);
/* A list of objects with "name", sorted by it; takes `list`. */
json_t *host_sorted(json_t *list);

/* The whole file's bytes to `fd`; -EINVAL when it has more than `limit`. */
int host_read_file(struct cfs *fs, const char *path, int fd, uint64_t limit);
/* The file gets the bytes of `fd`, from its offset on; durable, all or nothing. */
int host_write_file(struct cfs *fs, const char *path, enum cfs_file_kind kind, int fd);

/*
 * Opens a file of this machine with the rights of who called (call->uid, gid). -EPERM for a user of another
 * host: the number means somebody else here.
 */
int host_open_as_caller(struct host_call *call, const char *path, int flags, mode_t mode);

#endif
