// SPDX-License-Identifier: Apache-2.0
/*
 * The boot protocol, 64 bits or 32 (Documentation/arch/x86/boot.rst): the setup header is copied from where
 * the daemon put it, so it is parsed again here, as anything that lies in guest memory.
 */
#include "hv/boot.h"

#include <asm/bootparam.h>
#include <errno.h>
#include <string.h>

#include "base/err.h"
#include "base/linux_boot.h"
#include "base/util.h"
#include "base/vmctl.h"
#include "hv/gmem.h"

#define GDT_GPA		0x500ULL
#define PAGE_TABLES_GPA 0x1000ULL
#define ZERO_PAGE_GPA	0x7000ULL
#define STACK_GPA	0x9000ULL /* grows down; the kernel sets its own at once */
#define HEADER_AT	0x1f1
#define LOADER_OTHER	0xff
#define E820_RAM	1
#define E820_RESERVED	2
#define LOW_END		0x9fc00ULL
#define BIOS_START	0xe0000ULL

/* The first 4 GiB, address for address, in pages of 2 MiB: a PML4, a PDPT, four directories. */
static int write_page_tables(struct hv_gmem *gmem)
{
	uint64_t *t = hv_gmem_at(gmem, PAGE_TABLES_GPA, 6 * 4096);

	if (!t)
		return -EFAULT;
	memset(t, 0, 6 * 4096);
	t[0] = (PAGE_TABLES_GPA + 0x1000) | 3; /* present, writable */
	for (unsigned i = 0; i < 4; i++)
		t[512 + i] = (PAGE_TABLES_GPA + 0x2000 + i * 0x1000) | 3;
	for (uint64_t i = 0; i < 4 * 512; i++)
		t[1024 + i] = i << 21 | 0x83; /* present, writable, large */
	return 0;
}

/* Selectors 0x10 (__BOOT_CS) and 0x18 (__BOOT_DS). */
static const uint64_t gdt[] = {0, 0, 0x00af9b000000ffffULL, 0x00cf93000000ffffULL};

static void add_e820(struct boot_params *bp, uint64_t from, uint64_t to, uint32_t type)
{
	if (from >= to)
		return;
	bp->e820_table[bp->e820_entries++] = (struct boot_e820_entry){
		.addr = from,
		.size = to - from,
		.type = type,
	};
}

static void fill_memory_map(struct boot_params *bp, uint64_t memory_bytes)
{
	uint64_t low = vmctl_low_bytes(memory_bytes);

	add_e820(bp, 0, LOW_END, E820_RAM);
	add_e820(bp, LOW_END, 0xa0000, E820_RESERVED);
	add_e820(bp, BIOS_START, MiB, E820_RESERVED);
	add_e820(bp, MiB, low, E820_RAM);
	add_e820(bp, VMCTL_HOLE_END, VMCTL_HOLE_END + memory_bytes - low, E820_RAM);
}

static int copy_header(struct hv_gmem *gmem, const struct vmctl_config *config,
		       struct boot_params *bp, bool *bits32)
{
	uint8_t head[LINUX_BOOT_HEAD];
	struct linux_boot_info info;
	size_t n = MIN(config->setup_bytes, sizeof(head));

	if (hv_gmem_read(gmem, config->setup_gpa, head, n) < 0)
		return fail(-EINVAL, "boot: there is no kernel in guest memory");
	int rc = linux_boot_parse(head, n, config->setup_bytes + config->kernel_bytes, "kernel",
				  &info);
	if (rc)
		return rc;
	if (info.setup_bytes != config->setup_bytes)
		return fail(-EINVAL,
			    "boot: the kernel's setup has %u bytes, the configuration "
			    "says %llu",
			    info.setup_bytes, (unsigned long long)config->setup_bytes);
	if (strlen(config->cmdline) > info.cmdline_max)
		return fail(-EINVAL, "boot: the command line is longer than the kernel's %u bytes",
			    info.cmdline_max);
	*bits32 = info.bits32;
	size_t end = MIN(0x202u + head[0x201], HEADER_AT + sizeof(bp->hdr));
	memcpy(&bp->hdr, head + HEADER_AT, end - HEADER_AT);
	return 0;
}

static int write_zero_page(struct hv_gmem *gmem, const struct vmctl_config *config,
			   uint64_t rsdp_gpa, bool *bits32)
{
	struct boot_params bp = {0};
	int rc = copy_header(gmem, config, &bp, bits32);

	if (rc)
		return rc;
	bp.hdr.type_of_loader = LOADER_OTHER;
	bp.hdr.cmd_line_ptr = (uint32_t)LINUX_BOOT_CMDLINE_GPA;
	bp.hdr.ramdisk_image = (uint32_t)config->initrd_gpa;
	bp.hdr.ramdisk_size = (uint32_t)config->initrd_bytes;
	bp.acpi_rsdp_addr = rsdp_gpa;
	fill_memory_map(&bp, config->memory_bytes);
	rc = hv_gmem_write(gmem, ZERO_PAGE_GPA, &bp, sizeof(bp));
	if (!rc)
		rc = hv_gmem_write(gmem, LINUX_BOOT_CMDLINE_GPA, config->cmdline,
				   strlen(config->cmdline) + 1);
	return rc;
}

int hv_boot_linux(struct hv_gmem *gmem, const struct vmctl_config *config, uint64_t rsdp_gpa,
		  struct hv_entry *entry)
{
	bool bits32 = false;
	int rc = write_zero_page(gmem, config, rsdp_gpa, &bits32);

	if (!rc)
		rc = write_page_tables(gmem);
	if (!rc)
		rc = hv_gmem_write(gmem, GDT_GPA, gdt, sizeof(gdt));
	if (rc)
		return rc;
	*entry = (struct hv_entry){
		.bits32 = bits32,
		.rip = config->kernel_gpa + (bits32 ? 0 : LINUX_BOOT_ENTRY_64),
		.rsi = ZERO_PAGE_GPA,
		.rsp = STACK_GPA,
		.cr3 = PAGE_TABLES_GPA,
		.gdt_gpa = GDT_GPA,
		.gdt_bytes = sizeof(gdt),
	};
	return 0;
}
