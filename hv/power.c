// SPDX-License-Identifier: Apache-2.0
/* Power and reset. The guest is in ACPI mode from the start (no SMI command is offered). */
#include "hv/power.h"

#include <stdbool.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/util.h"
#include "hv/bus.h"
#include "hv/kvm.h"
#include "hv/state.h"

#define PM1_PWRBTN (1 << 8)
/* Timer, bus master, global, power button, clock, wake; only the power button ever comes on. */
#define PM1_STATUS_BITS	 (1 << 0 | 1 << 4 | 1 << 5 | PM1_PWRBTN | 1 << 10 | 1 << 15)
#define PM1_SCI_EN	 1
#define PM1_SLP_EN	 (1 << 13)
#define PM1_SLP_TYP(x)	 ((x) >> 10 & 7)
#define PM_TIMER_HZ	 3579545ULL
#define KEYBOARD_COMMAND 0x64
#define KEYBOARD_RESET	 0xfe

struct hv_power {
	struct hv_region pm1, timer, keyboard, reset;
	uint32_t timer_offset; /* what the timer reads more than this host's clock says */
	struct hv_kvm *kvm;
	const struct hv_power_ops *ops;
	void *opaque;
	uint16_t status, enable, control;
	uint8_t reset_control;
	bool line;
};

static void update_sci(struct hv_power *p)
{
	bool line = p->status & p->enable;

	if (line == p->line)
		return;
	p->line = line;
	hv_kvm_irq_line(p->kvm, HV_SCI_IRQ, line);
}

/* The three registers as bytes, so that every access size works. */
static uint64_t pm1_read(void *opaque, uint64_t offset, unsigned size)
{
	struct hv_power *p = opaque;
	const uint16_t words[4] = {p->status, p->enable, p->control | PM1_SCI_EN, 0};
	uint64_t value = 0;

	for (unsigned i = 0; i < size && offset + i < sizeof(words); i++)
		value |= (uint64_t)(uint8_t)(words[(offset + i) / 2] >> (offset + i) % 2 * 8)
			 << i * 8;
	return value;
}

static void write_control(struct hv_power *p, uint16_t value)
{
	p->control = value & (7 << 10);
	if (value & PM1_SLP_EN && PM1_SLP_TYP(value) == HV_SLEEP_TYPE_S5)
		p->ops->power_off(p->opaque);
}

static void pm1_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	struct hv_power *p = opaque;

	if (size == 1) {
		/* Half a register: the other half as it is; of status, as nothing. */
		uint16_t old = offset < 2 ? 0 : offset < 4 ? p->enable : p->control;
		unsigned shift = offset % 2 * 8;
		value = (old & ~(0xff << shift)) | (value & 0xff) << shift;
		offset &= ~1ULL;
	}
	if (offset == 0)
		p->status &= (uint16_t) ~(value & PM1_STATUS_BITS); /* written ones clear */
	if (offset == 0 && size == 4)
		p->enable = (uint16_t)(value >> 16) & PM1_STATUS_BITS;
	if (offset == 2)
		p->enable = (uint16_t)value & PM1_STATUS_BITS;
	if (offset == 4)
		write_control(p, (uint16_t)value);
	update_sci(p);
}

static uint32_t timer_ticks(void)
{
	uint64_t now = clock_monotonic_ns();

	return (uint32_t)(now / NS_PER_S * PM_TIMER_HZ + now % NS_PER_S * PM_TIMER_HZ / NS_PER_S);
}

static uint64_t timer_read(void *opaque, uint64_t offset, unsigned size)
{
	const struct hv_power *p = opaque;

	(void)size;
	return (timer_ticks() + p->timer_offset) >> offset * 8;
}

static void ignore_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	(void)opaque;
	(void)offset;
	(void)size;
	(void)value;
}

/* No keyboard: its status says "nothing there, ready for a command". */
static uint64_t keyboard_read(void *opaque, uint64_t offset, unsigned size)
{
	(void)opaque;
	(void)offset;
	(void)size;
	return 0;
}

static void keyboard_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	struct hv_power *p = opaque;

	(void)offset;
	(void)size;
	if ((value & 0xff) == KEYBOARD_RESET)
		p->ops->reset(p->opaque);
}

static uint64_t reset_read(void *opaque, uint64_t offset, unsigned size)
{
	struct hv_power *p = opaque;

	(void)offset;
	(void)size;
	return p->reset_control;
}

static void reset_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	struct hv_power *p = opaque;

	(void)offset;
	(void)size;
	p->reset_control = value & ~4;
	if (value & 4)
		p->ops->reset(p->opaque);
}

static const struct hv_region_ops pm1_ops = {.read = pm1_read, .write = pm1_write};
static const struct hv_region_ops timer_ops = {.read = timer_read, .write = ignore_write};
static const struct hv_region_ops keyboard_ops = {.read = keyboard_read, .write = keyboard_write};
static const struct hv_region_ops reset_ops = {.read = reset_read, .write = reset_write};

static void map(struct hv_power *p, struct hv_bus *ports, struct hv_region *r,
		const struct hv_region_ops *ops, uint64_t port, uint64_t n)
{
	r->ops = ops;
	r->opaque = p;
	hv_bus_map(ports, r, port, n);
}

void hv_power_create(struct hv_power **out, struct hv_bus *ports, struct hv_kvm *kvm,
		     const struct hv_power_ops *ops, void *opaque)
{
	struct hv_power *p = xcalloc(1, sizeof(*p));

	p->kvm = kvm;
	p->ops = ops;
	p->opaque = opaque;
	map(p, ports, &p->pm1, &pm1_ops, HV_PM1_EVENT_PORT, 8);
	map(p, ports, &p->timer, &timer_ops, HV_PM_TIMER_PORT, 4);
	map(p, ports, &p->keyboard, &keyboard_ops, KEYBOARD_COMMAND, 1);
	map(p, ports, &p->reset, &reset_ops, HV_RESET_PORT, 1);
	*out = p;
}

void hv_power_destroy(struct hv_power *p)
{
	if (!p)
		return;
	hv_bus_unmap(&p->pm1);
	hv_bus_unmap(&p->timer);
	hv_bus_unmap(&p->keyboard);
	hv_bus_unmap(&p->reset);
	free(p);
}

void hv_power_button(struct hv_power *p)
{
	p->status |= PM1_PWRBTN;
	update_sci(p);
}

/* --- saved state ------------------------------------------------------------------------------- */

void hv_power_save(const struct hv_power *p, struct hv_state_writer *w)
{
	hv_state_begin(w, "power", 0, 1);
	hv_state_put16(w, p->status);
	hv_state_put16(w, p->enable);
	hv_state_put16(w, p->control);
	hv_state_put8(w, p->reset_control);
	hv_state_put8(w, p->line);
	hv_state_put32(w, timer_ticks() + p->timer_offset);
}

int hv_power_load(struct hv_power *p, struct hv_state_reader *r)
{
	int rc = hv_state_section(r, "power", 0, 1);

	if (rc < 0)
		return rc;
	p->status = hv_state_get16(r) & PM1_STATUS_BITS;
	p->enable = hv_state_get16(r) & PM1_STATUS_BITS;
	p->control = hv_state_get16(r) & (7 << 10);
	p->reset_control = hv_state_get8(r) & ~4;
	p->line = hv_state_get8(r) & 1;
	p->timer_offset = hv_state_get32(r) - timer_ticks();
	return hv_state_done(r);
}
