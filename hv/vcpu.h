// SPDX-License-Identifier: Apache-2.0
/*
 * vcpu.h: a machine's virtual processors, a thread each, and the one brake for all of them.
 *
 * Reasons to stand still are bits; processors run while none is set. Anybody may stop them, whole;
 * only who set a reason takes it back. Before a vCPU enters the guest it asks how long it may run
 * (the lease, INV-HA-1), and sets a kernel timer of its own to that end, whose signal throws it out
 * of the guest: no other thread has to be scheduled in time, and a process that was stopped itself
 * does not run on afterwards.
 *
 * A vCPU parks only when the exit it was in is complete (KVM's rule for saving state).
 */
#ifndef HV_VCPU_H
#define HV_VCPU_H

#include <stdbool.h>
#include <stdint.h>

struct cpu_table;
struct hv_kvm;
struct hv_state_reader;
struct hv_state_writer;
struct hv_vcpus;

enum hv_stop {
	HV_STOP_PAUSE = 1, /* the daemon said so */
	HV_STOP_LEASE = 2, /* the lease's end has passed */
	HV_STOP_END = 4,   /* power-off, reset, crash: never taken back */
};

/* What vCPU threads ask and tell; called from them, several at once. */
struct hv_vcpu_ops {
	/* `data` holds `size` bytes, to fill or to take. */
	void (*pio)(void *opaque, bool write, uint16_t port, void *data, unsigned size);
	void (*mmio)(void *opaque, bool write, uint64_t address, void *data, unsigned size);
	/* CLOCK_BOOTTIME in ns, UINT64_MAX: for ever. */
	uint64_t (*runs_until)(void *opaque);
	/* That time has come: the processors were stopped with HV_STOP_LEASE. */
	void (*frozen)(void *opaque);
	/* A triple fault: on a PC, a reset. */
	void (*shutdown)(void *opaque);
	/* KVM cannot go on; the processors were stopped with HV_STOP_END. */
	void (*failed)(void *opaque, const char *why);
};

/*
 * The threads exist, stopped with HV_STOP_PAUSE; the first stands at the reset vector, the others wait
 * for SIPI. `baseline`: they are to show no more than this; NULL: all that the host can. `nested`: the
 * guest may run guests.
 */
int hv_vcpus_create(struct hv_vcpus **out, struct hv_kvm *kvm, unsigned cpus,
		    const struct cpu_table *baseline, bool nested, const struct hv_vcpu_ops *ops,
		    void *opaque);
/* Stops and ends the threads. */
void hv_vcpus_destroy(struct hv_vcpus *vcpus);

/* How the first processor starts instead: flat, interrupts off, in long mode or in protected mode. */
struct hv_entry {
	bool bits32; /* protected mode, without paging */
	uint64_t rip, rsi, rsp;
	uint64_t cr3;
	uint64_t gdt_gpa; /* selector 0x10: code, 0x18: data */
	uint16_t gdt_bytes;
};
int hv_vcpus_set_entry(struct hv_vcpus *vcpus, const struct hv_entry *entry);

/* What such processors show their guest, and what these do; `out` is cleared. */
int hv_vcpus_offered(int kvm_fd, unsigned cpus, const struct cpu_table *baseline, bool nested,
		     struct cpu_table *out);
int hv_vcpus_table(struct hv_vcpus *vcpus, struct cpu_table *out);

/* Saved state, in place of hv_vcpus_set_entry; see hv/vcpu_state.h. They stand still. */
int hv_vcpus_can_save(struct hv_vcpus *vcpus);
int hv_vcpus_save(struct hv_vcpus *vcpus, struct hv_state_writer *w);
int hv_vcpus_load(struct hv_vcpus *vcpus, struct hv_state_reader *r, uint64_t elapsed_ns);

/* Returns at once; from any thread. */
void hv_vcpus_stop(struct hv_vcpus *vcpus, enum hv_stop reason);
/* Until every vCPU stands still. Not from a vCPU's thread, not under a lock that one takes. */
void hv_vcpus_wait(struct hv_vcpus *vcpus);
/* Takes a reason back; the last one lets them run. */
void hv_vcpus_allow(struct hv_vcpus *vcpus, enum hv_stop reason);
/* The reasons that are set, as bits. */
unsigned hv_vcpus_stopped(struct hv_vcpus *vcpus);

#endif
