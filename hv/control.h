// SPDX-License-Identifier: Apache-2.0
/*
 * control.h: the VMM's main loop: accepts the daemon's connections and answers its messages
 * (base/vmctl.h). One control connection at a time; the newest is the one that counts.
 */
#ifndef HV_CONTROL_H
#define HV_CONTROL_H

#include "hv/vmm.h"

struct hv_control;

/* Takes `listen_fd`, a listening unix stream socket. `ops` are for hv_vmm_create, with the control
 * as opaque. */
struct hv_control *hv_control_create(int listen_fd);
extern const struct hv_vmm_ops hv_control_vmm_ops;
/* Runs until KILL; 0, or -errno when nothing can be heard any more. */
int hv_control_run(struct hv_control *control, struct hv_vmm *vmm);

#endif
