// SPDX-License-Identifier: Apache-2.0
/*
 * Reads a bzImage's setup header and finds places for its parts. The daemon trusts neither the
 * file nor the VMM, the VMM not the guest's memory: every field is checked here, once for both.
 */
#include "base/linux_boot.h"

#include <asm/bootparam.h>
#include <errno.h>
#include <string.h>

#include "base/err.h"
#include "base/util.h"
#include "base/vmctl.h"

#define HEADER_AT     0x1f1	 /* of struct setup_header in the file */
#define HEADER_MAGIC  0x53726448 /* "HdrS" */
#define PROTOCOL_MIN  0x20c	 /* xloadflags, the first to say whether there is a 64-bit entry */
#define SECTOR_BYTES  512
#define LOW_FREE_FROM 0x100000ULL /* kernels go above 1 MiB */

int linux_boot_parse(const void *head, size_t head_bytes, uint64_t file_bytes, const char *name,
		     struct linux_boot_info *out)
{
	struct setup_header h;

	if (head_bytes < HEADER_AT + sizeof(h) || file_bytes < head_bytes)
		return fail(-EINVAL, "%s: too short for a Linux kernel (bzImage)", name);
	memcpy(&h, (const uint8_t *)head + HEADER_AT, sizeof(h));
	if (le16toh(h.boot_flag) != 0xaa55 || le32toh(h.header) != HEADER_MAGIC)
		return fail(-EINVAL, "%s: no Linux kernel (bzImage); give /boot/vmlinuz-...", name);
	*out = (struct linux_boot_info){
		.version = le16toh(h.version),
		.setup_bytes = (h.setup_sects ? h.setup_sects + 1u : 5u) * SECTOR_BYTES,
		.pref_gpa = le64toh(h.pref_address),
		.init_bytes = le32toh(h.init_size),
		.cmdline_max = le32toh(h.cmdline_size),
		.initrd_max = le32toh(h.initrd_addr_max),
	};
	if (out->version < PROTOCOL_MIN)
		return fail(-EINVAL,
			    "%s: boot protocol %x.%02x; a kernel of 3.8 or later is needed", name,
			    out->version >> 8, out->version & 0xff);
	out->bits32 = !(le16toh(h.xloadflags) & XLF_KERNEL_64);
	if (!(h.loadflags & LOADED_HIGH) || out->setup_bytes > LINUX_BOOT_SETUP_MAX ||
	    file_bytes <= (uint64_t)out->setup_bytes + LINUX_BOOT_ENTRY_64)
		return fail(-EINVAL, "%s: malformed setup header or cut off", name);
	out->kernel_bytes = file_bytes - out->setup_bytes;
	out->init_bytes = MAX(out->init_bytes, out->kernel_bytes);
	if (out->pref_gpa < LOW_FREE_FROM || out->pref_gpa % 4096 ||
	    out->pref_gpa > VMCTL_HOLE_START || out->init_bytes > VMCTL_HOLE_START)
		return fail(-EINVAL, "%s: wants to be loaded at %#llx, which cannot be", name,
			    (unsigned long long)out->pref_gpa);
	return 0;
}

int linux_boot_place(const struct linux_boot_info *info, uint64_t memory_bytes,
		     uint64_t initrd_bytes, const char *name, struct linux_boot_place *out)
{
	uint64_t low = vmctl_low_bytes(memory_bytes);
	uint64_t kernel_end = info->pref_gpa + ROUND_UP(info->init_bytes, 4096);
	uint64_t top = MIN(low, info->initrd_max + 1);
	uint64_t need = kernel_end;

	if (kernel_end > low ||
	    (initrd_bytes && (initrd_bytes > top || kernel_end > top ||
			      ROUND_DOWN(top - initrd_bytes, 4096) < kernel_end))) {
		if (initrd_bytes <= VMCTL_HOLE_START)
			need += ROUND_UP(initrd_bytes, 4096);
		return fail(-ENOSPC,
			    "%s: kernel and initrd do not fit into %llu MiB of memory; "
			    "%llu MiB are the least",
			    name, (unsigned long long)(memory_bytes / MiB),
			    (unsigned long long)DIV_ROUND_UP(need, MiB));
	}
	*out = (struct linux_boot_place){
		.setup_gpa = LINUX_BOOT_SETUP_GPA,
		.kernel_gpa = info->pref_gpa,
		.initrd_gpa = initrd_bytes ? ROUND_DOWN(top - initrd_bytes, 4096) : 0,
	};
	return 0;
}
