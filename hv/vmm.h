// SPDX-License-Identifier: Apache-2.0
/*
 * vmm.h: the life of the one guest of this process, as base/vmctl.h tells it: states, requests,
 * events. Knows no sockets; hv/control.h brings requests in and carries events out.
 *
 * All calls come from the main thread. Other threads (vCPUs, lease, vhost) only post bits and
 * signal hv_vmm_wake_fd(); hv_vmm_turn() then does what they ask for.
 */
#ifndef HV_VMM_H
#define HV_VMM_H

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/vmctl.h"
#include "hv/machine.h"

struct hv_vmm;

struct hv_vmm_ops {
	void (*event)(void *opaque, const struct vmctl_event *event);
	/* A START that had to wait for back-ends is decided. */
	void (*started)(void *opaque, int rc);
	/* A SAVE that had to wait is decided. */
	void (*saved)(void *opaque, int rc, uint32_t bytes);
};

/*
 * Maps memory and lease (borrows `kvm_fd` and `memory_fd`, `lease_fd` may be closed). No thread is
 * started before hv_vmm_watch, so that the process can lock itself up in between.
 */
int hv_vmm_create(struct hv_vmm **out, int kvm_fd, int memory_fd, int lease_fd, int uffd,
		  const struct hv_vmm_ops *ops, void *opaque);
int hv_vmm_watch(struct hv_vmm *vmm);

/* Requests; each 0 or -errno with words. */
int hv_vmm_configure(struct hv_vmm *vmm, const struct vmctl_config *config);
int hv_vmm_set_machine(struct hv_vmm *vmm, const struct vmctl_machine *options);
/* 1: waits for back-ends, ops->started tells the end of it. */
int hv_vmm_start(struct hv_vmm *vmm);
int hv_vmm_pause(struct hv_vmm *vmm);
int hv_vmm_resume(struct hv_vmm *vmm);
/* Migration. Descriptors are borrowed, but for hv_vmm_save's, which is taken in any case. */
int hv_vmm_log_start(struct hv_vmm *vmm, int fd);
int hv_vmm_log_sync(struct hv_vmm *vmm);
int hv_vmm_log_stop(struct hv_vmm *vmm);
/* 0: *bytes are written; 1: waits for back-ends, ops->saved tells the end of it. */
int hv_vmm_save(struct hv_vmm *vmm, int fd, uint32_t *bytes);
/* -EBUSY in words: not now. */
int hv_vmm_can_save(struct hv_vmm *vmm);
int hv_vmm_load(struct hv_vmm *vmm, int fd, const struct vmctl_load *how);
/* Before LOAD: *uffd is borrowed, *base as in FAULTS. -EOPNOTSUPP: none could be made. */
int hv_vmm_postcopy(struct hv_vmm *vmm, int *uffd, uint64_t *base);
int hv_vmm_postcopy_end(struct hv_vmm *vmm);
int hv_vmm_get_cpu(struct hv_vmm *vmm, struct cpu_table *out);
int hv_vmm_set_cpu(struct hv_vmm *vmm, const struct cpu_table *baseline);
int hv_vmm_reset(struct hv_vmm *vmm);
int hv_vmm_set_balloon(struct hv_vmm *vmm, uint64_t target);
int hv_vmm_get_balloon(struct hv_vmm *vmm, struct vmctl_balloon *out);
int hv_vmm_power_button(struct hv_vmm *vmm);
/* A network device's taps; takes the descriptors. */
int hv_vmm_net(struct hv_vmm *vmm, const struct vmctl_net *how, const int *fds, unsigned n);
/* Its /dev/vhost-net; likewise. */
int hv_vmm_net_vhost(struct hv_vmm *vmm, unsigned device, const int *fds, unsigned n);
/* They are still the VMM's; how many there are. */
int hv_vmm_net_take(struct hv_vmm *vmm, unsigned device, int fds[VMCTL_FDS_MAX]);
void hv_vmm_status(struct hv_vmm *vmm, struct vmctl_status *out);
void hv_vmm_console_input(struct hv_vmm *vmm, const struct vmctl_console *input);
/* Bytes for the daemon, 0: none. */
size_t hv_vmm_console_take(struct hv_vmm *vmm, uint8_t *dst, size_t max);
/* Takes the socket of a back-end for a device; -EINVAL: no such device, the socket is closed. */
int hv_vmm_connect(struct hv_vmm *vmm, unsigned device, int fd);
/* The same for the agent's connection. */
int hv_vmm_connect_agent(struct hv_vmm *vmm, unsigned device, int fd, bool thaws);
/* A START or SAVE that waits is forgotten: who asked for it is gone. */
void hv_vmm_forget(struct hv_vmm *vmm);

int hv_vmm_wake_fd(const struct hv_vmm *vmm);
/* Does what other threads asked for. */
void hv_vmm_turn(struct hv_vmm *vmm);
/* What to poll for, and to be called for each of them that something has come for. */
#define HV_VMM_POLLS (HV_MACHINE_POLLS + 1)
unsigned hv_vmm_polls(struct hv_vmm *vmm, struct pollfd p[HV_VMM_POLLS]);
void hv_vmm_serve(struct hv_vmm *vmm, const struct pollfd *p);

#endif
