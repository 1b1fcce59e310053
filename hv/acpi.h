// SPDX-License-Identifier: Apache-2.0
/*
 * acpi.h: the tables that tell a guest what machine it is on: RSDP, XSDT, FADT, FACS, MADT, DSDT, and
 * WDAT where there is a watchdog. Source: ACPI specification 6.4, chapter 5.2.
 *
 * They are built as one piece whose addresses count from its own beginning. A kernel that is entered
 * directly gets them in the BIOS area; firmware takes the piece, puts it where it likes and adds that
 * place to each pointer (hv/fwcfg.h).
 */
#ifndef HV_ACPI_H
#define HV_ACPI_H

#include <stdbool.h>
#include <stdint.h>

#define HV_ACPI_GPA	   0xe0000ULL /* of the RSDP, for a kernel without firmware */
#define HV_ACPI_BYTES	   0x2000     /* of all tables, at most */
#define HV_ACPI_POINTERS   16
#define HV_ACPI_SUMS	   4
#define HV_ACPI_ALIGN	   64
#define HV_ACPI_RSDP_BYTES 36
#define HV_ACPI_RSDP_XSDT  24 /* the XSDT's address in the RSDP, 8 bytes */

struct hv_gmem;

struct hv_acpi {
	uint8_t bytes[HV_ACPI_BYTES];
	uint32_t n;
	uint32_t xsdt; /* where it lies in `bytes` */
	struct {
		uint32_t at;
		uint8_t bytes; /* 4 or 8 */
	} pointer[HV_ACPI_POINTERS];
	unsigned pointers;
	struct {
		uint32_t at, bytes;
	} sum[HV_ACPI_SUMS]; /* tables whose checksum changes with a pointer */
	unsigned sums;
};

void hv_acpi_build(struct hv_acpi *out, unsigned cpus, bool watchdog);
/* Both of its checksums right, the address of the XSDT as given. */
void hv_acpi_rsdp(uint8_t rsdp[HV_ACPI_RSDP_BYTES], uint64_t xsdt);
/* Puts them into the BIOS area; the RSDP is at HV_ACPI_GPA. -EFAULT: there is no such memory. */
int hv_acpi_write(struct hv_gmem *gmem, const struct hv_acpi *acpi);

#endif
