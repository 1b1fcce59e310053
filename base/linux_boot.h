// SPDX-License-Identifier: Apache-2.0
/*
 * linux_boot.h: a Linux kernel for PCs as it is shipped (bzImage), and where its parts go.
 *
 * The daemon reads the first LINUX_BOOT_HEAD bytes of the file, parses them, asks for places, and
 * reads setup sectors, protected-mode kernel and initrd straight from the volume to those places
 * in guest memory, for each start and each reboot of the guest. The VMM gets the places in its
 * CONFIG, parses the setup header again from there, adds what the boot protocol wants (zero page,
 * memory map, page tables) and enters the kernel at its 64-bit entry; one that has none (i386) at its
 * first byte, in protected mode.
 *
 * Source: Documentation/arch/x86/boot.rst and the kernel's uapi asm/bootparam.h; protocol 2.12 or
 * later (every distribution's kernel since 2013).
 *
 * Low guest memory, all of it below 0x9fc00:
 *
 *	0x00500  GDT                      (VMM)
 *	0x01000  page tables, 6 pages     (VMM)
 *	0x07000  zero page (boot_params)  (VMM)
 *	0x10000  setup sectors, at most 33,280 bytes (daemon)
 *	0x20000  command line             (VMM)
 *	0x9fc00  reserved from here to 1 MiB (ACPI tables from 0xe0000, by the VMM)
 */
#ifndef BASE_LINUX_BOOT_H
#define BASE_LINUX_BOOT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LINUX_BOOT_HEAD	       4096 /* bytes of the file that linux_boot_parse needs */
#define LINUX_BOOT_SETUP_GPA   0x10000ULL
#define LINUX_BOOT_SETUP_MAX   (65 * 512)
#define LINUX_BOOT_CMDLINE_GPA 0x20000ULL
#define LINUX_BOOT_ENTRY_64    0x200 /* the 64-bit entry, from the start of the kernel part */

struct linux_boot_info {
	uint16_t version;      /* boot protocol, 0x20c or later */
	bool bits32;	       /* it has no 64-bit entry: an i386 kernel */
	uint32_t setup_bytes;  /* the file's first part: boot sector and setup sectors */
	uint64_t kernel_bytes; /* the rest: the protected-mode kernel */
	uint64_t pref_gpa;     /* where the kernel likes to be loaded */
	uint64_t init_bytes;  /* memory that it needs from there on, before it reads a memory map */
	uint32_t cmdline_max; /* without the terminating zero */
	uint64_t initrd_max;  /* highest address of an initrd's last byte */
};

/*
 * `head`: the first `head_bytes` (LINUX_BOOT_HEAD, less for a shorter file) of a file of
 * `file_bytes` that messages call `name`. -EINVAL with words for what is no such kernel.
 */
int linux_boot_parse(const void *head, size_t head_bytes, uint64_t file_bytes, const char *name,
		     struct linux_boot_info *out);

struct linux_boot_place {
	uint64_t setup_gpa, kernel_gpa;
	uint64_t initrd_gpa; /* 0 without initrd */
};

/*
 * Places for all three in a guest with `memory_bytes` of memory: the kernel where it likes to be,
 * the initrd as high as it may be, on a 4 KiB boundary, all below VMCTL_HOLE_START. -ENOSPC with
 * words that say how much memory it takes.
 */
int linux_boot_place(const struct linux_boot_info *info, uint64_t memory_bytes,
		     uint64_t initrd_bytes, const char *name, struct linux_boot_place *out);

#endif
