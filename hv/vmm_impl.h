// SPDX-License-Identifier: Apache-2.0
/*
 * vmm_impl.h (private to hv/vmm.c and hv/vmm_state.c): what a VMM consists of, and what the two need of each
 * other. All from the main thread.
 */
#ifndef HV_VMM_IMPL_H
#define HV_VMM_IMPL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "hv/console.h"
#include "hv/vmm.h"

struct hv_agent;
struct hv_gmem;
struct hv_lease;
struct hv_net_link;
struct hv_state_reader;
struct hv_vhost;

struct hv_vmm {
	int kvm_fd, wake_fd;
	int uffd;  /* userfaultfd(2), -1: none could be made, or it is used up */
	bool lazy; /* POSTCOPY until POSTCOPY_END */
	struct hv_gmem *gmem;
	struct hv_lease *lease;
	const struct hv_vmm_ops *ops;
	void *opaque;
	atomic_uint posted;

	/* The main thread's. */
	enum vmctl_state state;
	struct vmctl_config config;
	struct hv_vhost *vhost[VMCTL_DEVICES_MAX];
	struct hv_net_link *net[VMCTL_DEVICES_MAX]; /* NULL: none came */
	struct hv_agent *agent;			    /* NULL: the config has none */
	bool start_waits;			    /* for back-ends */
	bool save_waits;			    /* for back-ends to give rings back */
	int save_fd;				    /* of the SAVE that waits, -1: none */
	struct cpu_table *baseline;		    /* NULL: none was set */
	struct vmctl_machine options;
	bool resetting;		 /* the processors are stopped, rings are on their way back */
	bool machine_ends;	 /* to be taken apart as soon as no back-end has rings */
	uint64_t balloon_target; /* of SET_BALLOON, for the next machine too; 0: none was said */
	uint32_t boots;
	uint64_t start_ns;
	char why[VMCTL_TEXT_MAX + 1]; /* of CRASHED */

	pthread_mutex_t life;
	struct hv_machine *machine;

	pthread_mutex_t lock; /* the machine's; what follows is written under it by any thread */
	struct hv_console console;
	uint64_t first_output_ns;
	bool panicked;
	bool watchdog_ran_out; /* in this boot, or in the one before */
	char crash[VMCTL_TEXT_MAX + 1];
	char drop_why[VMCTL_TEXT_MAX + 1];
	unsigned drop_device;
};

/* --- vmm.c ------------------------------------------------------------------------------------- */

/* There is a machine, and it has not come to its end. */
bool hv_vmm_alive(const struct hv_vmm *vmm);
/* 0, or -EINVAL with words. */
int hv_vmm_need_machine(struct hv_vmm *vmm);
/* Booted, or from `state`, its clocks `elapsed_ns` on; its processors stand still. */
int hv_vmm_create_machine(struct hv_vmm *vmm, struct hv_state_reader *state, uint64_t elapsed_ns);
/* Stops the processors for good and asks for the rings; taken apart when no back-end has any. */
void hv_vmm_end_machine(struct hv_vmm *vmm);
void hv_vmm_take_machine_apart(struct hv_vmm *vmm);

/* --- vmm_state.c ------------------------------------------------------------------------------- */

/* A SAVE that waits ends with -ECANCELED: `why` came first. */
void hv_vmm_cancel_save(struct hv_vmm *vmm, const char *why);
/* While one waits, whenever a back-end has given rings back or gone. */
void hv_vmm_save_if_rings_are_back(struct hv_vmm *vmm);
/* The rings are the back-ends' again. */
void hv_vmm_resume_devices(struct hv_vmm *vmm);

#endif
