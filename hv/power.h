// SPDX-License-Identifier: Apache-2.0
/*
 * power.h: ACPI's fixed hardware (power button, power-off, timer) and the ways a PC is reset.
 *
 *	0x600  PM1a event block: status, enable (2 bytes each)     IRQ 9 (SCI), level, high
 *	0x604  PM1a control: SLP_TYP 5 with SLP_EN is power-off
 *	0x608  PM timer, 3.579545 MHz, 32 bits
 *	0x64   the keyboard controller's 0xfe: reset
 *	0xcf9  reset control: 0x06 or 0x0e; the FADT's RESET_REG
 *
 * Source: ACPI specification 6.4, chapter 4.8. All calls under the machine's lock.
 */
#ifndef HV_POWER_H
#define HV_POWER_H

#define HV_PM1_EVENT_PORT   0x600
#define HV_PM1_CONTROL_PORT 0x604
#define HV_PM_TIMER_PORT    0x608
#define HV_RESET_PORT	    0xcf9
#define HV_RESET_VALUE	    0x06
#define HV_SCI_IRQ	    9
#define HV_SLEEP_TYPE_S5    5

struct hv_bus;
struct hv_kvm;
struct hv_power;
struct hv_state_reader;
struct hv_state_writer;

struct hv_power_ops {
	void (*power_off)(void *opaque);
	void (*reset)(void *opaque);
};

void hv_power_create(struct hv_power **out, struct hv_bus *ports, struct hv_kvm *kvm,
		     const struct hv_power_ops *ops, void *opaque);
void hv_power_destroy(struct hv_power *power);
/* Presses the button; a guest that does not listen hears nothing. */
void hv_power_button(struct hv_power *power);

/* Section "power". -EINVAL with words: it is none of ours. */
void hv_power_save(const struct hv_power *power, struct hv_state_writer *w);
int hv_power_load(struct hv_power *power, struct hv_state_reader *r);

#endif
