// SPDX-License-Identifier: Apache-2.0
/*
 * serial.h: a 16550A UART at COM1 (I/O port 0x3f8, IRQ 4), the guest's console.
 *
 * What the guest writes is given to `output` at once, byte by byte (an infinitely fast line). Input
 * waits in the device until the guest reads it. All calls under the machine's lock.
 * Source: PC16550D data sheet.
 */
#ifndef HV_SERIAL_H
#define HV_SERIAL_H

#include <stddef.h>
#include <stdint.h>

struct hv_bus;
struct hv_kvm;
struct hv_serial;
struct hv_state_reader;
struct hv_state_writer;

void hv_serial_create(struct hv_serial **out, struct hv_bus *ports, struct hv_kvm *kvm,
		      void (*output)(void *opaque, uint8_t byte), void *opaque);
void hv_serial_destroy(struct hv_serial *serial);
/* Returns how many bytes there was room for. */
size_t hv_serial_input(struct hv_serial *serial, const uint8_t *data, size_t n);

/* Section "serial". The interrupt line itself is in KVM's chips. -EINVAL with words: it is none of ours. */
void hv_serial_save(const struct hv_serial *serial, struct hv_state_writer *w);
int hv_serial_load(struct hv_serial *serial, struct hv_state_reader *r);

#endif
