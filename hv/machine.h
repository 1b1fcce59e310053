// SPDX-License-Identifier: Apache-2.0
/*
 * machine.h: one life of a guest, from START to its reset or power-off: buses, chips, devices,
 * processors. A reboot is a new machine on the same memory; so no device knows a "reset of all".
 *
 * One lock for all devices, held while a vCPU's exit is answered; what is fast (kicks, interrupts)
 * never comes here. The lock belongs to the VMM, because the vhost devices outlive machines.
 */
#ifndef HV_MACHINE_H
#define HV_MACHINE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/vmctl.h"
#include "hv/virtio.h"

struct hv_agent;
struct hv_gmem;
struct hv_lease;
struct hv_machine;
struct hv_net_link;
struct hv_state_reader;
struct hv_state_writer;
struct hv_vhost;

/* What a machine tells, from any thread. `locked` ones come under the lock. */
struct hv_machine_ops {
	void (*console)(void *opaque, uint8_t byte); /* locked */
	void (*panicked)(void *opaque);		     /* locked */
	void (*watchdog)(
		void *opaque); /* locked; it ran out. A reset follows, if that is its way */
	void (*power_off)(void *opaque); /* locked; the processors are stopped for good */
	void (*reset)(void *opaque);	 /* the same; may come without the lock */
	void (*frozen)(void *opaque);	 /* the lease has ended; all are stopped */
	void (*crashed)(void *opaque, const char *why);
};

struct hv_machine_config {
	int kvm_fd;
	struct hv_gmem *gmem;
	struct hv_lease *lease;
	const struct vmctl_config *config;
	const struct cpu_table
		*baseline; /* processors show no more than this; NULL: no such limit */
	const struct vmctl_machine *options;
	bool watchdog_ran_out;		/* ... and so ended the boot before this one */
	struct hv_state_reader *state;	/* the machine is loaded from it; NULL: it boots */
	uint64_t elapsed_ns;		/* ... and its clocks go on by so much */
	struct hv_vhost *const *vhost;	/* per device of config; NULL for the VMM's own */
	struct hv_net_link *const *net; /* per device of config; NULL: none, or it has no link */
	struct hv_agent *agent;		/* of a config that has one */
	pthread_mutex_t *lock;
	const struct hv_machine_ops *ops;
	void *opaque;
};

/*
 * Builds the machine. The processors stand at the kernel's entry, its tables are written; or they
 * stand where the saved ones stood, vhost devices suspended (hv/vhost.h). Unlocked.
 */
int hv_machine_create(struct hv_machine **out, const struct hv_machine_config *config);
/* Ends the processors. Every vhost device must be idle. Unlocked. */
void hv_machine_destroy(struct hv_machine *machine);

/*
 * All sections, the processors standing still and the vhost devices suspended. The log of written
 * pages (hv/gmem.h): processors' writes are in it from _log on, as of each _log_sync.
 */
int hv_machine_save(struct hv_machine *machine, struct hv_state_writer *w);
/* -EBUSY: not at this moment, in words. The processors stand still. */
int hv_machine_can_save(struct hv_machine *machine);
int hv_machine_log(struct hv_machine *machine, bool on);
int hv_machine_log_sync(struct hv_machine *machine);
/* What its processors show. */
int hv_machine_cpu_table(struct hv_machine *machine, struct cpu_table *out);

/* Lets the processors run, unless the lease has ended (-EPERM then). */
int hv_machine_resume(struct hv_machine *machine);
/* Returns when all stand still. Unlocked. */
void hv_machine_pause(struct hv_machine *machine);
/* Stops them for the lease; returns when all stand still. Unlocked; any thread but a vCPU's. */
void hv_machine_freeze(struct hv_machine *machine);
/* Stops them for good; returns at once. */
void hv_machine_end(struct hv_machine *machine);
/* They stand still because the lease ended. */
bool hv_machine_frozen(struct hv_machine *machine);

/* Under the lock. */
void hv_machine_set_link(struct hv_machine *machine, unsigned device,
			 const struct hv_net_link *link);
void hv_machine_power_button(struct hv_machine *machine);
size_t hv_machine_console_input(struct hv_machine *machine, const uint8_t *data, size_t n);
/*
 * The guest is to have so much of its memory; what is known of that. One that `runs` is asked for newer
 * numbers, which are there at the next look. Without a balloon nothing happens.
 */
void hv_machine_set_balloon(struct hv_machine *machine, uint64_t target);
void hv_machine_get_balloon(struct hv_machine *machine, struct vmctl_balloon *out, bool runs);
/* Bit per device: its driver runs it. */
uint64_t hv_machine_devices_ready(struct hv_machine *machine);

/*
 * The VMM's own devices: descriptors to poll for (each queue's kick), and what to call (under the lock)
 * then.
 */
#define HV_MACHINE_POLLS (VMCTL_DEVICES_MAX * HV_VIRTIO_QUEUES + 1)
unsigned hv_machine_poll_fds(struct hv_machine *machine, int fds[HV_MACHINE_POLLS]);
void hv_machine_serve(struct hv_machine *machine, int fd);

#endif
