// SPDX-License-Identifier: Apache-2.0
/* holder.h (private to host): who holds a disk, by name: a VM or a host. Both block. */
#ifndef HOST_HOLDER_H
#define HOST_HOLDER_H

#include <jansson.h>

struct host_volume;

/* {"kind", "name", "host"}; `holder` as err_holder said when it was refused. A new reference. */
json_t *host_holder_json(struct host_volume *volume, const char *path, const char *holder);
/* For -EBUSY of `path`: puts the VM's name into the thread's error; returns `rc`. */
int host_name_holder(struct host_volume *volume, const char *path, int rc);

#endif
