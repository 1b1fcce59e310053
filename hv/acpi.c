// SPDX-License-Identifier: Apache-2.0
/*
 * ACPI tables. Fixed hardware as in hv/power.h (not "hardware-reduced"), one PCI root, COM1, RTC.
 * PCI functions have MSI-X and no interrupt pins, so there is no _PRT.
 */
#include "hv/acpi.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "hv/aml.h"
#include "hv/gmem.h"
#include "hv/pci.h"
#include "hv/power.h"
#include "hv/watchdog.h"

#define IOAPIC_ADDRESS 0xfec00000u
#define LAPIC_ADDRESS  0xfee00000u

struct table_head {
	char signature[4];
	le32 length;
	uint8_t revision, checksum;
	char oem_id[6], oem_table_id[8];
	le32 oem_revision;
	char creator_id[4];
	le32 creator_revision;
};
_Static_assert(sizeof(struct table_head) == 36, "table head");

struct gas {
	uint8_t space, bits, offset, access; /* space 1: I/O */
	le64 address;
};

struct fadt {
	struct table_head head;
	le32 facs, dsdt;
	uint8_t model, profile;
	le16 sci_irq;
	le32 smi_command;
	uint8_t acpi_enable, acpi_disable, s4bios, pstate;
	le32 pm1a_event, pm1b_event, pm1a_control, pm1b_control, pm2_control, pm_timer;
	le32 gpe0, gpe1;
	uint8_t pm1_event_bytes, pm1_control_bytes, pm2_control_bytes, pm_timer_bytes;
	uint8_t gpe0_bytes, gpe1_bytes, gpe1_base, cstate;
	le16 c2_latency, c3_latency, flush_size, flush_stride;
	uint8_t duty_offset, duty_width, day_alarm, month_alarm, century;
	le16 boot_flags;
	uint8_t reserved;
	le32 flags;
	struct gas reset;
	uint8_t reset_value;
	le16 arm_flags;
	uint8_t minor;
	le64 x_facs, x_dsdt;
	struct gas x_pm1a_event, x_pm1b_event, x_pm1a_control, x_pm1b_control, x_pm2_control;
	struct gas x_pm_timer, x_gpe0, x_gpe1, sleep_control, sleep_status;
	le64 hypervisor;
} __attribute__((packed));
_Static_assert(sizeof(struct fadt) == 276, "fadt");

#define FADT_WBINVD	(1u << 0)
#define FADT_PROC_C1	(1u << 2)
#define FADT_SLP_BUTTON (1u << 5) /* none as fixed hardware */
#define FADT_FIX_RTC	(1u << 6) /* no wake-up by the clock */
#define FADT_TMR_32	(1u << 8)
#define FADT_RESET_REG	(1u << 10)
#define BOOT_LEGACY	(1u << 0) /* COM1 and RTC; no keyboard controller (bit 1) */
#define BOOT_NO_VGA	(1u << 2)
#define BOOT_NO_ASPM	(1u << 4)

/* At the next free place, aligned; returns it. */
static uint32_t place(struct hv_acpi *w, const void *bytes, size_t n)
{
	uint32_t at = ROUND_UP(w->n, HV_ACPI_ALIGN);

	MUST(at + n <= sizeof(w->bytes));
	memcpy(w->bytes + at, bytes, n);
	w->n = at + (uint32_t)n;
	return at;
}

static void add_pointer(struct hv_acpi *w, size_t at, uint8_t bytes)
{
	MUST(w->pointers < HV_ACPI_POINTERS);
	w->pointer[w->pointers].at = (uint32_t)at;
	w->pointer[w->pointers++].bytes = bytes;
}

static void add_sum(struct hv_acpi *w, uint32_t at, size_t bytes)
{
	MUST(w->sums < HV_ACPI_SUMS);
	w->sum[w->sums].at = at;
	w->sum[w->sums++].bytes = (uint32_t)bytes;
}

static uint8_t checksum(const void *p, size_t n)
{
	uint8_t sum = 0;

	for (size_t i = 0; i < n; i++)
		sum += ((const uint8_t *)p)[i];
	return (uint8_t)-sum;
}

/* Fills the head of a table of `n` bytes, and its checksum. */
static void finish(void *table, const char *signature, uint8_t revision, size_t n)
{
	struct table_head *h = table;

	memcpy(h->signature, signature, 4);
	h->length = le32_of((uint32_t)n);
	h->revision = revision;
	h->checksum = 0;
	memcpy(h->oem_id, "PERIL ", 6);
	memcpy(h->oem_table_id, "PERILUNE", 8);
	h->oem_revision = le32_of(1);
	memcpy(h->creator_id, "PRLN", 4);
	h->creator_revision = le32_of(1);
	h->checksum = checksum(table, n);
}

static uint32_t write_dsdt(struct hv_acpi *w)
{
	uint8_t t[sizeof(struct table_head) + HV_AML_BYTES];
	struct hv_aml built = {.n = 0}, *aml = &built;
	const uint8_t s5[] = {HV_SLEEP_TYPE_S5, HV_SLEEP_TYPE_S5, 0, 0};

	size_t sb = hv_aml_scope(aml, "\\_SB_");
	size_t pci = hv_aml_device(aml, "PCI0");
	hv_aml_name_eisa(aml, "_HID", "PNP0A03");
	hv_aml_name_int(aml, "_UID", 0);
	size_t crs = hv_aml_resources(aml);
	hv_aml_bus_range(aml, 0, 0xff);
	hv_aml_io(aml, 0xcf8, 8);
	hv_aml_io_range(aml, 0, 0xcf7);
	hv_aml_io_range(aml, 0xd00, 0xffff);
	hv_aml_memory_range(aml, HV_PCI_MMIO_START, HV_PCI_MMIO_LAST);
	hv_aml_resources_end(aml, crs);
	hv_aml_end(aml, pci);

	size_t com = hv_aml_device(aml, "COM1");
	hv_aml_name_eisa(aml, "_HID", "PNP0501");
	hv_aml_name_int(aml, "_UID", 1);
	crs = hv_aml_resources(aml);
	hv_aml_io(aml, 0x3f8, 8);
	hv_aml_irq(aml, 4);
	hv_aml_resources_end(aml, crs);
	hv_aml_end(aml, com);

	size_t rtc = hv_aml_device(aml, "RTC_");
	hv_aml_name_eisa(aml, "_HID", "PNP0B00");
	crs = hv_aml_resources(aml);
	hv_aml_io(aml, 0x70, 2);
	hv_aml_resources_end(aml, crs);
	hv_aml_end(aml, rtc);
	hv_aml_end(aml, sb);
	hv_aml_name_package(aml, "_S5_", s5, sizeof(s5));

	size_t n = sizeof(struct table_head) + aml->n;
	memcpy(t + sizeof(struct table_head), aml->bytes, aml->n);
	finish(t, "DSDT", 2, n);
	return place(w, t, n);
}

static uint32_t write_facs(struct hv_acpi *w)
{
	uint8_t facs[64] = "FACS";

	facs[4] = sizeof(facs);
	facs[32] = 1; /* version */
	return place(w, facs, sizeof(facs));
}

static struct gas io_register(uint16_t port, uint8_t bits)
{
	return (struct gas){
		.space = 1,
		.bits = bits,
		.access = bits == 8    ? 1
			  : bits == 16 ? 2
				       : 3,
		.address = le64_of(port),
	};
}

static uint32_t write_fadt(struct hv_acpi *w, uint32_t facs, uint32_t dsdt)
{
	struct fadt f = {
		.facs = le32_of(facs),
		.dsdt = le32_of(dsdt),
		.sci_irq = le16_of(HV_SCI_IRQ),
		.pm1a_event = le32_of(HV_PM1_EVENT_PORT),
		.pm1a_control = le32_of(HV_PM1_CONTROL_PORT),
		.pm_timer = le32_of(HV_PM_TIMER_PORT),
		.pm1_event_bytes = 4,
		.pm1_control_bytes = 2,
		.pm_timer_bytes = 4,
		.c2_latency = le16_of(0xfff), /* none */
		.c3_latency = le16_of(0xfff),
		.century = 0x32,
		.boot_flags = le16_of(BOOT_LEGACY | BOOT_NO_VGA | BOOT_NO_ASPM),
		.flags = le32_of(FADT_WBINVD | FADT_PROC_C1 | FADT_SLP_BUTTON | FADT_FIX_RTC |
				 FADT_TMR_32 | FADT_RESET_REG),
		.reset = io_register(HV_RESET_PORT, 8),
		.reset_value = HV_RESET_VALUE,
		.minor = 4,
		.x_dsdt = le64_of(dsdt),
		.x_pm1a_event = io_register(HV_PM1_EVENT_PORT, 32),
		.x_pm1a_control = io_register(HV_PM1_CONTROL_PORT, 16),
		.x_pm_timer = io_register(HV_PM_TIMER_PORT, 32),
	};

	finish(&f, "FACP", 6, sizeof(f));
	uint32_t at = place(w, &f, sizeof(f));
	add_pointer(w, at + offsetof(struct fadt, facs), 4);
	add_pointer(w, at + offsetof(struct fadt, dsdt), 4);
	add_pointer(w, at + offsetof(struct fadt, x_dsdt), 8);
	add_sum(w, at, sizeof(f));
	return at;
}

/* Interrupt source override: ISA `irq` is the IOAPIC's `gsi`. Flags 0: as the bus; 0xd: level, high. */
static size_t add_override(uint8_t *p, uint8_t irq, uint8_t gsi, uint8_t flags)
{
	const uint8_t e[10] = {2, sizeof(e), 0, irq, gsi, 0, 0, 0, flags, 0};

	memcpy(p, e, sizeof(e));
	return sizeof(e);
}

static uint32_t write_madt(struct hv_acpi *w, unsigned cpus)
{
	uint8_t t[1024] = {0};
	size_t n = sizeof(struct table_head) + 8;
	const le32 lapic = le32_of(LAPIC_ADDRESS), ioapic = le32_of(IOAPIC_ADDRESS);

	memcpy(t + 36, &lapic, 4);
	t[40] = 1; /* also a dual 8259 */
	for (unsigned i = 0; i < cpus; i++) {
		const uint8_t e[8] = {0, sizeof(e), (uint8_t)i, (uint8_t)i, 1, 0, 0, 0};
		memcpy(t + n, e, sizeof(e));
		n += sizeof(e);
	}
	t[n] = 1; /* the IOAPIC, id 0, GSI from 0 */
	t[n + 1] = 12;
	memcpy(t + n + 4, &ioapic, 4);
	n += 12;
	n += add_override(t + n, 0, 2, 0);
	n += add_override(t + n, HV_SCI_IRQ, HV_SCI_IRQ, 0x0d);
	const uint8_t nmi[6] = {4, sizeof(nmi), 0xff, 0, 0, 1}; /* LINT1 of all */
	memcpy(t + n, nmi, sizeof(nmi));
	n += sizeof(nmi);
	MUST(n <= sizeof(t));
	finish(t, "APIC", 4, n);
	return place(w, t, n);
}

struct wdat {
	struct table_head head;
	le32 head_bytes; /* from here to `period_ms` */
	le16 segment;	 /* 0xff..: no PCI function */
	uint8_t bus, device, function, reserved[3];
	le32 period_ms, max_count, min_count;
	uint8_t flags, reserved2[3];
	le32 entries;
	struct wdat_entry {
		uint8_t action, instruction;
		le16 reserved;
		struct gas at;
		le32 value, mask;
	} __attribute__((packed)) entry[9];
} __attribute__((packed));
_Static_assert(offsetof(struct wdat, entry) == 68 && sizeof(struct wdat_entry) == 24, "wdat");

#define WDAT_ENABLED	 1
#define WDAT_READ_VALUE	 0
#define WDAT_READ_COUNT	 1
#define WDAT_WRITE_VALUE 2
#define WDAT_WRITE_COUNT 3

static struct wdat_entry wdat_entry(uint8_t action, uint8_t instruction, uint16_t port,
				    uint8_t bits, uint32_t value)
{
	return (struct wdat_entry){
		.action = action,
		.instruction = instruction,
		.at = io_register(port, bits),
		.value = le32_of(value),
		.mask = le32_of(bits == 8 ? 0xff : UINT32_MAX),
	};
}

/* Microsoft's "Hardware Watchdog Timers Design Specification": what distribution kernels have a driver for. */
static uint32_t write_wdat(struct hv_acpi *w)
{
	const uint16_t timeout = HV_WATCHDOG_TIMEOUT, left = HV_WATCHDOG_LEFT,
		       control = HV_WATCHDOG_CONTROL, again = HV_WATCHDOG_AGAIN,
		       status = HV_WATCHDOG_STATUS;
	struct wdat t = {
		.head_bytes = le32_of(32),
		.segment = le16_of(0xff),
		.bus = 0xff,
		.device = 0xff,
		.function = 0xff,
		.period_ms = le32_of(HV_WATCHDOG_PERIOD_MS),
		.max_count = le32_of(HV_WATCHDOG_COUNT_MAX),
		.min_count = le32_of(1),
		.flags = WDAT_ENABLED,
		.entries = le32_of(ARRAY_SIZE(t.entry)),
		.entry =
			{
				wdat_entry(0x01, WDAT_WRITE_VALUE, again, 8, 1),
				wdat_entry(0x04, WDAT_READ_COUNT, left, 32, 0),
				wdat_entry(0x05, WDAT_READ_COUNT, timeout, 32, 0),
				wdat_entry(0x06, WDAT_WRITE_COUNT, timeout, 32, 0),
				wdat_entry(0x08, WDAT_READ_VALUE, control, 8, 1),
				wdat_entry(0x09, WDAT_WRITE_VALUE, control, 8, 1),
				wdat_entry(0x0b, WDAT_WRITE_VALUE, control, 8, 0), /* stop */
				wdat_entry(0x20, WDAT_READ_VALUE, status, 8, 1),
				wdat_entry(0x21, WDAT_WRITE_VALUE, status, 8, 0), /* seen */
			},
	};

	finish(&t, "WDAT", 1, sizeof(t));
	return place(w, &t, sizeof(t));
}

static uint32_t write_xsdt(struct hv_acpi *w, const uint32_t *tables, unsigned count)
{
	uint8_t t[36 + 8 * 4];
	size_t n = 36 + 8 * count;

	MUST(n <= sizeof(t));
	for (unsigned i = 0; i < count; i++) {
		const le64 at = le64_of(tables[i]);
		memcpy(t + 36 + 8 * i, &at, 8);
	}
	finish(t, "XSDT", 1, n);
	uint32_t at = place(w, t, n);
	for (unsigned i = 0; i < count; i++)
		add_pointer(w, at + 36 + 8 * i, 8);
	add_sum(w, at, n);
	return at;
}

void hv_acpi_build(struct hv_acpi *out, unsigned cpus, bool watchdog)
{
	uint32_t tables[3];
	unsigned n = 0;

	memset(out, 0, sizeof(*out));
	uint32_t dsdt = write_dsdt(out), facs = write_facs(out);
	tables[n++] = write_fadt(out, facs, dsdt);
	tables[n++] = write_madt(out, cpus);
	if (watchdog)
		tables[n++] = write_wdat(out);
	out->xsdt = write_xsdt(out, tables, n);
}

void hv_acpi_rsdp(uint8_t rsdp[HV_ACPI_RSDP_BYTES], uint64_t xsdt)
{
	const le64 at = le64_of(xsdt);

	memset(rsdp, 0, HV_ACPI_RSDP_BYTES);
	memcpy(rsdp, "RSD PTR ", 8);
	memcpy(rsdp + 9, "PERIL ", 6);
	rsdp[15] = 2; /* revision */
	rsdp[20] = HV_ACPI_RSDP_BYTES;
	memcpy(rsdp + HV_ACPI_RSDP_XSDT, &at, 8);
	rsdp[8] = checksum(rsdp, 20);
	rsdp[32] = checksum(rsdp, HV_ACPI_RSDP_BYTES);
}

/* As firmware would, at `base`. */
static void relocate(struct hv_acpi *a, uint64_t base)
{
	for (unsigned i = 0; i < a->pointers; i++) {
		uint8_t *p = a->bytes + a->pointer[i].at;
		le64 wide = le64_of(0);

		memcpy(&wide, p, a->pointer[i].bytes);
		wide = le64_of(le64_get(wide) + base);
		memcpy(p, &wide, a->pointer[i].bytes);
	}
	for (unsigned i = 0; i < a->sums; i++) {
		struct table_head *h = (struct table_head *)(a->bytes + a->sum[i].at);

		h->checksum = 0;
		h->checksum = checksum(h, a->sum[i].bytes);
	}
}

int hv_acpi_write(struct hv_gmem *gmem, const struct hv_acpi *acpi)
{
	const uint64_t base = HV_ACPI_GPA + HV_ACPI_ALIGN;
	cleanup_free struct hv_acpi *a = xmalloc(sizeof(*a));
	uint8_t rsdp[HV_ACPI_RSDP_BYTES];

	*a = *acpi;
	relocate(a, base);
	hv_acpi_rsdp(rsdp, base + a->xsdt);
	int rc = hv_gmem_write(gmem, base, a->bytes, a->n);
	return rc ? rc : hv_gmem_write(gmem, HV_ACPI_GPA, rsdp, sizeof(rsdp));
}
