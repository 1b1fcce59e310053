// SPDX-License-Identifier: Apache-2.0
/*
 * vmctl_format.h: the control messages on the wire. Little-endian, packed by construction; the
 * offset of each field in the margin. vmctl.c alone includes this.
 */
#ifndef BASE_VMCTL_FORMAT_H
#define BASE_VMCTL_FORMAT_H

#include "base/util.h"

struct vmctl_wire_header {
	le32 magic; /*  0 VMCTL_MAGIC */
	le16 type;  /*  4 enum vmctl_type */
	le16 flags; /*  6 zero */
	le32 bytes; /*  8 of the payload that follows */
	le32 tag;   /* 12 */
};
_Static_assert(sizeof(struct vmctl_wire_header) == 16, "header");

struct vmctl_wire_hello {
	le32 version;  /*  0 */
	le32 kind;     /*  4 enum vmctl_kind */
	le32 device;   /*  8 */
	le32 reserved; /* 12 zero */
	le64 features; /* 16 */
};
_Static_assert(sizeof(struct vmctl_wire_hello) == 24, "hello");

struct vmctl_wire_device {
	le16 kind;	 /* 0 enum vmctl_device_kind */
	le16 queues;	 /* 2 */
	le16 queue_size; /* 4 */
	le16 reserved;	 /* 6 zero */
};
_Static_assert(sizeof(struct vmctl_wire_device) == 8, "device");

/* Followed by devices_n devices, then cmdline_bytes of command line. */
struct vmctl_wire_config {
	le32 cpus;	    /*  0 */
	le32 boot;	    /*  4 enum vmctl_boot */
	le64 memory_bytes;  /*  8 */
	le64 setup_gpa;	    /* 16 */
	le64 setup_bytes;   /* 24 */
	le64 kernel_gpa;    /* 32 */
	le64 kernel_bytes;  /* 40 */
	le64 initrd_gpa;    /* 48 */
	le64 initrd_bytes;  /* 56 */
	le32 devices_n;	    /* 64 */
	le32 cmdline_bytes; /* 68 */
};
_Static_assert(sizeof(struct vmctl_wire_config) == 72, "config");

/* Followed by text_bytes of text. */
struct vmctl_wire_status {
	le32 version;		/*  0 */
	le32 state;		/*  4 enum vmctl_state */
	le64 features;		/*  8 */
	le32 pid;		/* 16 */
	le32 boots;		/* 20 */
	le32 flags;		/* 24 VMCTL_WIRE_PANICKED */
	le32 text_bytes;	/* 28 */
	le64 devices_ready;	/* 32 */
	le64 devices_connected; /* 40 */
	le64 console_lost;	/* 48 */
	le64 start_ns;		/* 56 */
	le64 first_output_ns;	/* 64 */
};
_Static_assert(sizeof(struct vmctl_wire_status) == 72, "status");
#define VMCTL_WIRE_PANICKED 1

/* EVENT and REPLY. Followed by text_bytes of text. */
struct vmctl_wire_text {
	le32 kind;	 /* 0 enum vmctl_event_kind; REPLY: the positive errno or 0 */
	le32 code;	 /* 4 REPLY: value */
	le32 text_bytes; /* 8 */
};
_Static_assert(sizeof(struct vmctl_wire_text) == 12, "text");

struct vmctl_wire_set_balloon {
	le64 target; /* 0 */
};
_Static_assert(sizeof(struct vmctl_wire_set_balloon) == 8, "set balloon");

struct vmctl_wire_balloon {
	le64 flags;    /*  0 VMCTL_WIRE_BALLOON_READY */
	le64 target;   /*  8 */
	le64 taken;    /* 16 */
	le64 inflated; /* 24 */
	le64 reported; /* 32 */
	le64 age_ns;   /* 40 */
	le64 stat[10]; /* 48 VMCTL_BALLOON_STATS */
};
_Static_assert(sizeof(struct vmctl_wire_balloon) == 128, "balloon");
#define VMCTL_WIRE_BALLOON_READY 1

struct vmctl_wire_net {
	le32 device;	/* 0 */
	le16 mtu;	/* 4 */
	uint8_t mac[6]; /* 6 */
};
_Static_assert(sizeof(struct vmctl_wire_net) == 12, "net");

struct vmctl_wire_machine {
	le32 flags;    /* 0 VMCTL_WIRE_NESTED */
	le32 watchdog; /* 4 enum vmctl_watchdog */
};
_Static_assert(sizeof(struct vmctl_wire_machine) == 8, "machine");
#define VMCTL_WIRE_NESTED 1

struct vmctl_wire_load {
	le64 bytes;	 /* 0 */
	le64 elapsed_ns; /* 8 */
};
_Static_assert(sizeof(struct vmctl_wire_load) == 16, "load");

#endif
