// SPDX-License-Identifier: Apache-2.0
/*
 * fwcfg.h: how firmware learns what machine it is on: QEMU's fw_cfg device, the I/O part of it.
 *
 *	0x510  u16  write: which item, from its first byte on
 *	0x511  u8   read: its next byte, 0 behind its end or of an item that there is not
 *
 * No DMA: string instructions bring a kilobyte an exit, and nothing here has to touch guest memory.
 * Source: QEMU's docs/specs/fw_cfg.txt; what SeaBIOS asks for: its src/fw/paravirt.c and
 * romfile_loader.h. Calls under the machine's lock.
 */
#ifndef HV_FWCFG_H
#define HV_FWCFG_H

#include <stddef.h>
#include <stdint.h>

struct hv_acpi;
struct hv_bus;
struct hv_fwcfg;
struct hv_state_reader;
struct hv_state_writer;

/* Without files yet: firmware that looks finds the device, and `cpus` processors. */
void hv_fwcfg_create(struct hv_fwcfg **out, struct hv_bus *ports, unsigned cpus);
void hv_fwcfg_destroy(struct hv_fwcfg *fwcfg);

/* A file; `bytes` are copied. Names and sizes are ours: what does not fit is our bug. */
void hv_fwcfg_add(struct hv_fwcfg *fwcfg, const char *name, const void *bytes, size_t n);
/*
 * What SeaBIOS needs of this machine: memory map, ACPI tables with their loader's script, the serial
 * port as console, the boot order (text as QEMU's "bootorder": Open Firmware paths, a line each; "": none).
 */
void hv_fwcfg_fill(struct hv_fwcfg *fwcfg, uint64_t memory_bytes, const struct hv_acpi *acpi,
		   const char *boot_order);

/* Section "fwcfg": the files, too, so that firmware reads on what it began to read. */
void hv_fwcfg_save(const struct hv_fwcfg *fwcfg, struct hv_state_writer *w);
int hv_fwcfg_load(struct hv_fwcfg *fwcfg, struct hv_state_reader *r);

#endif
