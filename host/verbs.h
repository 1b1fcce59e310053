// SPDX-License-Identifier: Apache-2.0
/* verbs.h (private to host): the tables of verbs, one a noun, each ended by a NULL noun. */
#ifndef HOST_VERBS_H
#define HOST_VERBS_H

#include "host/call.h"

extern const struct host_verb host_host_verbs[]; /* status, host check, show; task and event */
extern const struct host_verb host_lun_verbs[];
extern const struct host_verb host_fault_verbs[];
extern const struct host_verb host_volume_raw_verbs[];
extern const struct host_verb host_volume_check_verbs[];
extern const struct host_verb host_volume_grow_verbs[];
extern const struct host_verb host_volume_locks_verbs[];
extern const struct host_verb host_volume_verbs[];
extern const struct host_verb host_transfer_verbs[];
extern const struct host_verb host_bench_verbs[];
extern const struct host_verb host_disk_verbs[];
extern const struct host_verb host_file_verbs[];
extern const struct host_verb host_vm_verbs[];
extern const struct host_verb host_maintenance_verbs[];
extern const struct host_verb host_hotplug_verbs[];
extern const struct host_verb host_vm_set_verbs[];
extern const struct host_verb host_pool_verbs[];
extern const struct host_verb host_vm_top_verbs[];
extern const struct host_verb host_status_verbs[];

#endif
