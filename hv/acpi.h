// SPDX-License-Identifier: Apache-2.0
/*
 * acpi.h: the tables that tell a guest what machine it is on: RSDP, XSDT, FADT, FACS, MADT, DSDT;
 * all of them in the BIOS area from 0xe0000. Source: ACPI specification 6.4, chapter 5.2.
 */
#ifndef HV_ACPI_H
#define HV_ACPI_H

#include <stdint.h>

#define HV_ACPI_GPA   0xe0000ULL
#define HV_ACPI_BYTES 0x10000ULL

struct hv_gmem;

/* Writes the tables; the RSDP is at HV_ACPI_GPA. */
int hv_acpi_write(struct hv_gmem *gmem, unsigned cpus);

#endif
