// SPDX-License-Identifier: Apache-2.0
/*
 * aml.h: a writer of ACPI bytecode, as much as our DSDT needs.
 *
 * Terms are appended to a buffer of fixed size; packages (scope, device, resource template) are
 * opened and closed, and get their length when they are closed. What does not fit is a bug of ours.
 * Source: ACPI specification 6.4, chapters 6.4 (resources) and 20 (AML).
 */
#ifndef HV_AML_H
#define HV_AML_H

#include <stddef.h>
#include <stdint.h>

#define HV_AML_BYTES 4096

struct hv_aml {
	uint8_t bytes[HV_AML_BYTES];
	size_t n;
};

/* Names are given in full: "\\_SB_", "PCI0"; four characters a segment. */
size_t hv_aml_scope(struct hv_aml *aml, const char *name);
size_t hv_aml_device(struct hv_aml *aml, const char *name);
void hv_aml_end(struct hv_aml *aml, size_t opened);

void hv_aml_name_int(struct hv_aml *aml, const char *name, uint32_t value);
void hv_aml_name_eisa(struct hv_aml *aml, const char *name, const char *id); /* "PNP0A03" */
void hv_aml_name_package(struct hv_aml *aml, const char *name, const uint8_t *values, uint8_t n);

/* Name(_CRS, ResourceTemplate() { ... }) */
size_t hv_aml_resources(struct hv_aml *aml);
void hv_aml_io(struct hv_aml *aml, uint16_t port, uint8_t len);
void hv_aml_irq(struct hv_aml *aml, unsigned irq);
void hv_aml_bus_range(struct hv_aml *aml, uint16_t first, uint16_t last);
void hv_aml_io_range(struct hv_aml *aml, uint16_t first, uint16_t last);
void hv_aml_memory_range(struct hv_aml *aml, uint32_t first, uint32_t last);
void hv_aml_resources_end(struct hv_aml *aml, size_t opened);

#endif
