// SPDX-License-Identifier: Apache-2.0
/*
 * vmctl.h: what daemon and VMM say to each other, and the guest's memory as both see it.
 *
 * The VMM is started with descriptors only (perilune-vmm --help): /dev/kvm, the guest's memory, the
 * lease page, and one *listening* unix stream socket. The daemon connects to that socket, at first
 * and again whenever it was restarted; the VMM never connects to anybody. The first message on each
 * connection is HELLO and says what the connection is for:
 *
 *	CONTROL      the messages below, in both directions. A newer control connection replaces an
 *	             older one (whose daemon is dead). The VMM answers with READY (its status), then
 *	             sends what the console said while nobody listened, then events as they come.
 *	VHOST_USER   `device` is an index into the CONFIG's devices. From here on the connection
 *	             speaks the vhost-user protocol: the VMM is the front-end and sends the first
 *	             request, the daemon is the back-end. Nothing more of vmctl comes on it. A newer
 *	             connection for a device replaces an older one; the rings are set up anew, with
 *	             the in-flight area the VMM kept (SET_INFLIGHT_FD), and kicked.
 *	AGENT        `device` is the index of the CONFIG's AGENT. From here on the connection is what
 *	             the guest agent says and hears, byte for byte; the guest sees its port open as
 *	             long as it lasts. Bytes for a guest that has not opened the port are thrown
 *	             away; the VMM closes the connection when the guest closes the port or begins
 *	             anew. A newer connection replaces an older one. With VMCTL_HELLO_THAWS in
 *	             `features` the VMM tells the guest to thaw its file systems should the
 *	             connection break (not when it is replaced: who comes then asks the guest).
 *
 * A refused HELLO is answered with REPLY (CONTROL) or by closing (the others).
 *
 * The life of a VM, by messages (-> daemon to VMM, <- VMM to daemon; each request but CONSOLE_INPUT
 * and STATUS is answered by a REPLY with its tag: 0, or an errno and words):
 *
 *	-> HELLO            <- READY
 *	   (the daemon writes setup sectors, kernel and initrd into guest memory)
 *	-> CONFIG           <- REPLY          state configured; once in a VMM's life
 *	-> START            <- REPLY          state running
 *	                    <- EVENT reset    the guest rebooted: state reset. The daemon writes kernel
 *	                                      and initrd again, then
 *	-> START            <- REPLY
 *	-> PAUSE, RESUME    <- REPLY          state paused, running; vCPUs stand still before the REPLY
 *	                    <- EVENT frozen   the lease ran out: all vCPUs were stopped by the VMM
 *	                                      itself; RESUME when it runs again under the same epoch
 *	-> RESET            <- REPLY          as a reboot by the guest: EVENT reset follows
 *	-> POWER_BUTTON     <- REPLY          the guest's ACPI button; EVENT powered-off may follow
 *	                    <- EVENT powered-off | crashed   vCPUs are ended; the VMM waits for
 *	-> KILL             <- REPLY          and the process ends
 *
 *	-> SET_MACHINE      <- REPLY          VMCTL_F_FIRMWARE; before START, LOAD, GET_CPU, and again in
 *                                      state reset: what is switched on in the machine
 *	-> CAN_SAVE         <- REPLY          whether a SAVE could succeed now; the guest stands still for
 *                                      a moment
 *
 * Live migration and saving to a file (VMCTL_F_STATE in READY's features: the VMM knows these):
 *
 *	-> GET_CPU          <- CPU            what processor the guest sees; before START and LOAD: what
 *	                                      it will see. For a check before anything moves
 *	-> SET_CPU          <- REPLY          state configured: the guest is to see no more than this;
 *	                                      what this host lacks of it is just not seen
 *	-> LOG_START (fd)   <- REPLY          the log of written pages begins, clean
 *	-> LOG_SYNC         <- REPLY          all that was written before the request stands in the log
 *	-> LOG_STOP         <- REPLY
 *	-> SAVE (fd)        <- REPLY          state paused: the back-ends give the rings back, then the
 *	                                      state is written into the memfd; `value`: its bytes.
 *	                                      Still paused. RESUME: back to work, here
 *	-> LOAD (fd)        <- REPLY          in place of START, guest memory being complete: state
 *	                                      paused. Back-ends connect before or after; then RESUME
 *
 * The guest's memory (VMCTL_F_BALLOON, and a device of kind BALLOON):
 *
 *	-> SET_BALLOON      <- REPLY          any state but new: how much of its memory the guest is to have;
 *	                                      kept when it reboots. It does what it can, in its own time
 *	-> GET_BALLOON      <- BALLOON
 *
 * Network devices (VMCTL_F_NET):
 *
 *	-> NET (fds)        <- REPLY          behind CONFIG, before START or LOAD, or later: a network
 *	                                      device's address and the queues of its tap, one
 *	                                      descriptor a pair; in place of those it had. None: no link
 *	-> NET_VHOST (fds)  <- REPLY          behind NET, before START or LOAD: /dev/vhost-net, opened
 *	                                      once for each pair, so that the kernel may serve it
 *	-> NET_TAKE         <- NET_TAPS (fds) state paused: the queues of a device's tap, for what waits
 *	                                      in them to be read
 *
 * Post-copy (VMCTL_F_POSTCOPY): a guest is loaded and runs before all of its memory has come.
 *
 *	-> POSTCOPY         <- FAULTS (fd)    state configured: whoever in the VMM touches a page that is not there
 *	                                      waits, from now on, until the daemon has put it in place. The
 *	                                      descriptor is a userfaultfd(2) of the VMM's memory, registered
 *	                                      from `base` on; its events are the daemon's to read
 *	-> POSTCOPY_END     <- REPLY          all of the memory is there: nobody waits any more
 *
 * A guest that was loaded and reboots asks for its kernel as any other. CONFIG is obeyed again in
 * state reset, for boot, places and command line (a loaded VM was configured with VMCTL_BOOT_NONE).
 *
 * SAVE waits for the back-ends as long as they take. It fails, the VM still paused, when one of a
 * device at work is not connected, goes away, or when RESUME, RESET or another end of the pause
 * comes first. A LOAD that fails leaves state configured; guest memory may be written.
 *
 * The VMM tells every event once to the daemon that is connected; what happened while none was, a
 * new daemon learns from READY's state.
 *
 * On the wire: little-endian, a header of 16 bytes, a payload of at most VMCTL_PAYLOAD_MAX; strings
 * are counted, not terminated. Descriptors travel as SCM_RIGHTS with the message's first byte.
 * Whatever does not decode closes the connection: both sides check each other.
 *
 * Descriptors: LOG_START brings the log, a memfd sealed as guest memory is, with a bit for each
 * 4 KiB page of the *memfd of guest memory* (bit n: byte offset n * 4096; little-endian u64 words).
 * Its size: vmctl_log_bytes(). Bits are set with atomic OR, by the VMM and by the daemon for its own
 * writes; the daemon reads and clears words with atomic exchange. SAVE and LOAD bring a memfd;
 * SAVE's size is the limit of the state.
 */
#ifndef BASE_VMCTL_H
#define BASE_VMCTL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cpu_table.h"
#include "base/util.h"

#define VMCTL_VERSION	    1
#define VMCTL_MAGIC	    0x314d5650 /* "PVM1" */
#define VMCTL_PAYLOAD_MAX   (16 * 1024)
#define VMCTL_HEADER_BYTES  16
#define VMCTL_FDS_MAX	    4
#define VMCTL_CMDLINE_MAX   4095
#define VMCTL_TEXT_MAX	    255
#define VMCTL_DEVICES_MAX   24
#define VMCTL_CPUS_MAX	    64
#define VMCTL_QUEUES_MAX    16 /* request queues of one device */
#define VMCTL_CONSOLE_CHUNK 4096
#define VMCTL_CONSOLE_KEPT  (64 * 1024) /* console output kept while nobody is connected */
#define VMCTL_MEMORY_MIN    (2 * MiB)
#define VMCTL_MEMORY_ALIGN  (2 * MiB)
#define VMCTL_LEASE_NONE    UINT64_MAX
#define VMCTL_LEASE_BYTES   4096
#define VMCTL_LOG_PAGE	    4096
#define VMCTL_STATE_MAX	    (16 * MiB) /* what SAVE writes at most, and LOAD reads */

#define VMCTL_NET_PAIRS_MAX VMCTL_FDS_MAX /* queue pairs of a network device */

#define VMCTL_F_STATE	 1ULL  /* features: the messages from 0x40 on */
#define VMCTL_F_NET	 2ULL  /* network devices and their messages */
#define VMCTL_F_BALLOON	 4ULL  /* ... from 0x68 on, and the device */
#define VMCTL_F_AGENT	 8ULL  /* device and connection AGENT */
#define VMCTL_F_POSTCOPY 16ULL /* ... from 0x70 on */

#define VMCTL_HELLO_THAWS  1ULL	 /* features of a HELLO of AGENT */
#define VMCTL_F_FIRMWARE   32ULL /* VMCTL_BOOT_FIRMWARE, SET_MACHINE, CAN_SAVE */
#define VMCTL_F_WATCHDOG   64ULL /* SET_MACHINE's watchdog */
#define VMCTL_FIRMWARE_MIN (64 * KiB)
#define VMCTL_FIRMWARE_MAX (256 * KiB)

/*
 * Guest memory is one memfd, made and sealed by the daemon (F_SEAL_SHRINK, GROW, SEAL; INV-HV-1).
 * Its bytes below VMCTL_HOLE_START lie at the same guest address; the rest lies from 4 GiB up,
 * so that devices have the hole between.
 *
 * The lease page is a memfd of 4096 bytes, the daemon's to write: one little-endian u64, the end of
 * the lease on CLOCK_BOOTTIME in ns, stored in one piece; VMCTL_LEASE_NONE for a VM on no volume.
 * The VMM gets it read-only (opened anew through /proc/self/fd, so that it cannot be made writable).
 */
#define VMCTL_HOLE_START 0xc0000000ULL
#define VMCTL_HOLE_END	 0x100000000ULL

/* Guest memory that lies below the hole. */
static inline uint64_t vmctl_low_bytes(uint64_t memory_bytes)
{
	return MIN(memory_bytes, VMCTL_HOLE_START);
}

/* Where guest address `gpa` lies in the memfd; UINT64_MAX when it is no memory. */
static inline uint64_t vmctl_memory_offset(uint64_t memory_bytes, uint64_t gpa)
{
	uint64_t offset = gpa;

	if (gpa >= VMCTL_HOLE_END)
		offset = gpa - (VMCTL_HOLE_END - VMCTL_HOLE_START);
	else if (gpa >= VMCTL_HOLE_START)
		return UINT64_MAX;
	return offset < memory_bytes ? offset : UINT64_MAX;
}

/* Bytes of the log for guest memory of this size (a multiple of 2 MiB): whole words. */
static inline uint64_t vmctl_log_bytes(uint64_t memory_bytes)
{
	return memory_bytes / VMCTL_LOG_PAGE / 8;
}

enum vmctl_type {
	/* daemon to VMM */
	VMCTL_HELLO = 1,
	VMCTL_CONFIG = 2,
	VMCTL_START = 3,
	VMCTL_PAUSE = 4,
	VMCTL_RESUME = 5,
	VMCTL_POWER_BUTTON = 6,
	VMCTL_RESET = 7,
	VMCTL_KILL = 8,
	VMCTL_CONSOLE_INPUT = 9,
	VMCTL_GET_STATUS = 10,
	/* VMM to daemon */
	VMCTL_READY = 32,
	VMCTL_STATUS = 33, /* answers GET_STATUS */
	VMCTL_EVENT = 34,
	VMCTL_CONSOLE_OUTPUT = 35,
	VMCTL_REPLY = 36,
	/* daemon to VMM */
	VMCTL_LOG_START = 0x40,
	VMCTL_LOG_SYNC = 0x41,
	VMCTL_LOG_STOP = 0x42,
	VMCTL_SAVE = 0x43,
	VMCTL_LOAD = 0x44,
	VMCTL_GET_CPU = 0x45,
	VMCTL_SET_CPU = 0x46,
	/* VMM to daemon */
	VMCTL_CPU = 0x50, /* answers GET_CPU */
	/* daemon to VMM */
	VMCTL_NET = 0x60,
	VMCTL_NET_TAKE = 0x61,
	VMCTL_NET_VHOST = 0x63,
	/* VMM to daemon */
	VMCTL_NET_TAPS = 0x62, /* answers NET_TAKE */
	/* daemon to VMM */
	VMCTL_SET_BALLOON = 0x68,
	VMCTL_GET_BALLOON = 0x69,
	/* VMM to daemon */
	VMCTL_BALLOON = 0x6c, /* answers GET_BALLOON */
	/* daemon to VMM */
	VMCTL_SET_MACHINE = 0x78,
	VMCTL_CAN_SAVE = 0x79,
	VMCTL_POSTCOPY = 0x70,
	VMCTL_POSTCOPY_END = 0x71,
	/* VMM to daemon */
	VMCTL_FAULTS = 0x74, /* answers POSTCOPY */
};

enum vmctl_kind {
	VMCTL_KIND_CONTROL = 1,
	VMCTL_KIND_VHOST_USER = 2,
	VMCTL_KIND_AGENT = 3,
};

struct vmctl_hello {
	uint32_t version; /* the sender's VMCTL_VERSION */
	enum vmctl_kind kind;
	uint32_t device; /* VHOST_USER, AGENT: index into the CONFIG's devices */
	uint64_t
		features; /* CONTROL: VMCTL_F_..., none of the daemon's yet; AGENT: VMCTL_HELLO_... */
};

enum vmctl_device_kind {
	VMCTL_DEVICE_SCSI = 1, /* virtio-scsi, back-end by vhost-user */
	VMCTL_DEVICE_BLK = 2,  /* virtio-blk, back-end by vhost-user */
	VMCTL_DEVICE_RNG = 3,  /* virtio-rng, served by the VMM */
	VMCTL_DEVICE_NET = 4,  /* virtio-net on a tap, served by the VMM; queues: pairs of them */
	VMCTL_DEVICE_BALLOON = 5, /* virtio-balloon, served by the VMM; one at most */
	VMCTL_DEVICE_AGENT =
		6, /* virtio-console, the guest agent's port; connection AGENT; one at most */
};

struct vmctl_device {
	enum vmctl_device_kind kind;
	uint16_t queues;     /* request queues, 1 to VMCTL_QUEUES_MAX; others: 1 */
	uint16_t queue_size; /* a power of two, 2 to 1024 */
};

enum vmctl_boot {
	VMCTL_BOOT_NONE = 0,  /* no kernel is there yet: LOAD, or CONFIG again before START */
	VMCTL_BOOT_LINUX = 1, /* bzImage by the boot protocol, see base/linux_boot.h */
	/*
	 * PC firmware that was put right below 1 MiB of guest memory as `setup`, 64 to 256 KiB: it is
	 * entered at the reset vector, and shown read-only below 4 GiB, too. No kernel, no initrd. The
	 * command line is its boot order, see hv/fwcfg.h.
	 */
	VMCTL_BOOT_FIRMWARE = 2,
};

struct vmctl_config {
	uint32_t cpus;
	uint64_t memory_bytes; /* the memfd's size */
	enum vmctl_boot boot;
	/* Where the daemon put the parts (guest addresses); struct linux_boot_place gives them. */
	uint64_t setup_gpa, setup_bytes;
	uint64_t kernel_gpa, kernel_bytes;
	uint64_t initrd_gpa, initrd_bytes; /* 0, 0: none */
	uint32_t devices_n;
	struct vmctl_device devices[VMCTL_DEVICES_MAX]; /* in the order of their PCI slots */
	char cmdline[VMCTL_CMDLINE_MAX + 1];
};

enum vmctl_state {
	VMCTL_STATE_NEW = 1,	    /* no CONFIG yet */
	VMCTL_STATE_CONFIGURED = 2, /* waits for START */
	VMCTL_STATE_RUNNING = 3,
	VMCTL_STATE_PAUSED = 4,
	VMCTL_STATE_FROZEN = 5,	     /* the lease ran out */
	VMCTL_STATE_RESET = 6,	     /* the guest rebooted: write the kernel again, then START */
	VMCTL_STATE_POWERED_OFF = 7, /* waits for KILL */
	VMCTL_STATE_CRASHED = 8,     /* the text says why; waits for KILL */
};

struct vmctl_status {
	uint32_t version;
	uint64_t features; /* VMCTL_F_... */
	enum vmctl_state state;
	uint32_t pid;		       /* in the VMM's own pid namespace */
	uint32_t boots;		       /* STARTs that were obeyed */
	bool panicked;		       /* the guest reported a panic since the last START */
	uint64_t devices_ready;	       /* bit per device: its driver runs it (DRIVER_OK) */
	uint64_t devices_connected;    /* bit per device: a back-end is connected and set up */
	uint64_t console_lost;	       /* bytes of console output that no daemon came for in time */
	uint64_t start_ns;	       /* CLOCK_BOOTTIME of the last START, 0: none */
	uint64_t first_output_ns;      /* of the first console byte after it, 0: none */
	char text[VMCTL_TEXT_MAX + 1]; /* why, for CRASHED */
};

enum vmctl_event_kind {
	VMCTL_EVENT_POWERED_OFF = 1,
	VMCTL_EVENT_RESET = 2,
	VMCTL_EVENT_PANICKED = 3, /* pvpanic; the guest may go on to reboot or halt */
	VMCTL_EVENT_CRASHED = 4,
	VMCTL_EVENT_FROZEN = 5,
	VMCTL_EVENT_DEVICE = 6, /* a back-end broke the protocol and was dropped; `code`: device */
	VMCTL_EVENT_WATCHDOG = 7, /* the guest's watchdog ran out; a reset may follow */
};

struct vmctl_event {
	enum vmctl_event_kind kind;
	uint32_t code;
	char text[VMCTL_TEXT_MAX + 1];
};

struct vmctl_reply {
	int err;	/* 0 or negative errno */
	uint32_t value; /* SAVE: bytes of the state; else 0 */
	char text[VMCTL_TEXT_MAX + 1];
};

#define VMCTL_ELAPSED_MAX (24ull * 3600 * 1000000000)
struct vmctl_load {
	uint64_t bytes;	     /* of the state, from the memfd's start; 1 to VMCTL_STATE_MAX */
	uint64_t elapsed_ns; /* the guest's clocks go on by so much: time since SAVE, as measured */
};

/*
 * SET_BALLOON: `target` alone. BALLOON: what the VMM knows; `taken` and `stat` are the guest's words. Each
 * GET_BALLOON asks the guest for newer ones, which the next one finds.
 */
#define VMCTL_BALLOON_STATS 10 /* VIRTIO_BALLOON_S_... of <linux/virtio_balloon.h> */
struct vmctl_balloon {
	uint64_t target; /* bytes of its memory that the guest is to have */
	uint64_t taken;	 /* bytes in the balloon */
	uint64_t
		inflated; /* bytes that went back to the host by the balloon, since the machine began */
	uint64_t reported; /* ... and because the guest did not use them */
	uint64_t age_ns;   /* of the statistics; UINT64_MAX: there are none */
	uint64_t stat
		[VMCTL_BALLOON_STATS]; /* by their tags; bytes or counts; UINT64_MAX: not told */
	bool ready;		       /* the guest has a driver for it */
};

/* NET, NET_VHOST and NET_TAKE; of the latter two `device` alone means anything. NET_TAPS is nothing but descriptors. */
struct vmctl_net {
	uint32_t device;
	uint16_t mtu; /* of the tap and of what is behind it */
	uint8_t mac[6];
};

enum vmctl_watchdog {
	VMCTL_WATCHDOG_OFF = 0, /* the guest has none */
	VMCTL_WATCHDOG_RESET = 1,
	VMCTL_WATCHDOG_REPORT = 2, /* only the event */
};

struct vmctl_machine {
	bool nested; /* the guest sees VMX or SVM, if the host has it */
	enum vmctl_watchdog watchdog;
};

struct vmctl_faults {
	uint64_t
		base; /* where the VMM has the first byte of guest memory mapped; the rest follows */
};

struct vmctl_console {
	uint32_t bytes; /* at most VMCTL_CONSOLE_CHUNK */
	uint8_t data[VMCTL_CONSOLE_CHUNK];
};

struct vmctl_msg {
	enum vmctl_type type;
	uint32_t tag;		/* a REPLY or STATUS carries its request's */
	int fds[VMCTL_FDS_MAX]; /* owned by the receiver */
	unsigned fds_n;
	union {
		struct vmctl_hello hello;
		struct vmctl_config config;
		struct vmctl_status status; /* READY, STATUS */
		struct vmctl_event event;
		struct vmctl_reply reply;
		struct vmctl_console console; /* CONSOLE_INPUT, CONSOLE_OUTPUT */
		struct vmctl_load load;
		struct vmctl_net net;	      /* NET, NET_VHOST, NET_TAKE */
		struct cpu_table cpu;	      /* CPU, SET_CPU */
		struct vmctl_balloon balloon; /* BALLOON, SET_BALLOON */
		struct vmctl_machine machine;
		struct vmctl_faults faults;
	};
};

/* The words for a state: "running". */
const char *vmctl_state_name(enum vmctl_state state);
const char *vmctl_event_name(enum vmctl_event_kind kind);

/*
 * Message to bytes; `buf` holds VMCTL_HEADER_BYTES + VMCTL_PAYLOAD_MAX. Returns the length, or
 * -EINVAL for a message that the other side would refuse.
 */
int vmctl_encode(const struct vmctl_msg *msg, uint8_t *buf, size_t size);
/*
 * Bytes to message (its descriptors are left alone). Returns the bytes used, 0 when more are
 * needed, -EPROTO with words when they are no message.
 */
int vmctl_decode(const uint8_t *buf, size_t bytes, struct vmctl_msg *msg);

/* --- a connection: buffers around a stream socket ---------------------------------------------- */

struct vmctl_conn;

/* Takes `fd` (a connected unix stream socket) and makes it non-blocking. */
int vmctl_conn_create(struct vmctl_conn **out, int fd);
/* Closes the socket and what descriptors nobody took. */
void vmctl_conn_destroy(struct vmctl_conn *conn);
/*
 * Gives the socket back (blocking again) and frees the rest: for a VHOST_USER connection after its
 * HELLO. -EPROTO, and the connection stays, when bytes or descriptors beyond the HELLO were read.
 */
int vmctl_conn_detach(struct vmctl_conn *conn);
int vmctl_conn_fd(const struct vmctl_conn *conn);

/*
 * Queues a message and sends what the socket takes. Descriptors in it are borrowed until they were
 * sent. 0 (all sent or queued), -EAGAIN when too much is queued (nothing was), -EPIPE.
 */
int vmctl_conn_send(struct vmctl_conn *conn, const struct vmctl_msg *msg);
/* Sends what is queued; call it on POLLOUT. 0 when nothing is left, -EAGAIN, -EPIPE. */
int vmctl_conn_flush(struct vmctl_conn *conn);
bool vmctl_conn_pending(const struct vmctl_conn *conn);
/*
 * The next message. 1: `msg` is filled, its descriptors are the caller's; 0: none yet, wait for
 * POLLIN; -ECONNRESET: the other side is gone; -EPROTO with words.
 */
int vmctl_conn_receive(struct vmctl_conn *conn, struct vmctl_msg *msg);
/* As vmctl_conn_receive, waiting up to `deadline_ns` on CLOCK_BOOTTIME; 1 or -ETIMEDOUT, ... */
int vmctl_conn_wait(struct vmctl_conn *conn, struct vmctl_msg *msg, uint64_t deadline_ns);

#endif
