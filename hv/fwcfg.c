// SPDX-License-Identifier: Apache-2.0
/* Items are bytes that are made once, before the guest runs; it only reads. */
#include "hv/fwcfg.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "base/vmctl.h"
#include "hv/acpi.h"
#include "hv/bus.h"
#include "hv/state.h"

#define PORT	      0x510
#define KEY_SIGNATURE 0x00
#define KEY_ID	      0x01 /* bit 0: this interface; bit 1 would be DMA */
#define KEY_CPUS      0x05
#define KEY_MAX_CPUS  0x0f
#define KEY_DIRECTORY 0x19
#define KEY_FILES     0x20
#define KEY_MASK      0x3fff /* the rest: write, architecture's own */
#define KEY_ARCH      0x8000

#define NAME_BYTES 56 /* with the zero */
#define FILES_MAX  8
#define FILE_MAX   (16 * KiB)
#define SERIAL	   0x3f8

#define E820_RAM      1
#define E820_RESERVED 2
#define KVM_PAGES     0xfffbc000ULL /* hv/kvm.c: the identity map's and the TSS's */

#define ZONE_HIGH 1
#define ZONE_FSEG 2

static const char tables_file[] = "etc/acpi/tables", rsdp_file[] = "etc/acpi/rsdp";

struct file {
	char name[NAME_BYTES];
	uint8_t *bytes;
	uint32_t n;
};

struct hv_fwcfg {
	struct hv_region region;
	uint16_t key;
	uint32_t at; /* the next byte of its item */
	uint16_t cpus;
	uint8_t directory[4 + FILES_MAX * (8 + NAME_BYTES)];
	struct file file[FILES_MAX];
	unsigned files;
};

struct e820_entry {
	le64 address, bytes;
	le32 type;
} __attribute__((packed));

/* The script that firmware obeys to put the tables into memory. */
struct loader_entry {
	le32 command; /* 1 allocate, 2 add a pointer, 3 add a checksum */
	union {
		struct {
			char file[NAME_BYTES];
			le32 align;
			uint8_t zone;
		} __attribute__((packed)) allocate;
		struct {
			char in[NAME_BYTES], to[NAME_BYTES];
			le32 at;
			uint8_t bytes;
		} __attribute__((packed)) pointer;
		struct {
			char file[NAME_BYTES];
			le32 at, start, bytes;
		} __attribute__((packed)) sum;
		uint8_t all[124];
	};
} __attribute__((packed));
_Static_assert(sizeof(struct loader_entry) == 128, "loader entry");

/* --- the two ports ----------------------------------------------------------------------------- */

static const uint8_t *item(const struct hv_fwcfg *f, const uint8_t small[4], uint32_t *n)
{
	unsigned key = f->key & KEY_MASK;

	*n = 0;
	if (f->key & KEY_ARCH)
		return NULL;
	if (key >= KEY_FILES && key < KEY_FILES + f->files) {
		*n = f->file[key - KEY_FILES].n;
		return f->file[key - KEY_FILES].bytes;
	}
	switch (key) {
	case KEY_SIGNATURE:
	case KEY_ID:
		*n = 4;
		return small;
	case KEY_CPUS:
	case KEY_MAX_CPUS:
		*n = 2;
		return small;
	case KEY_DIRECTORY:
		*n = 4 + f->files * (8 + NAME_BYTES);
		return f->directory;
	default:
		return NULL;
	}
}

static uint8_t next_byte(struct hv_fwcfg *f)
{
	uint8_t small[4] = "QEMU";
	uint32_t n;

	if ((f->key & KEY_MASK) == KEY_ID)
		memcpy(small, (const uint8_t[4]){1}, 4);
	else if ((f->key & KEY_MASK) != KEY_SIGNATURE)
		memcpy(small, (const uint8_t[4]){(uint8_t)f->cpus, (uint8_t)(f->cpus >> 8)}, 4);
	const uint8_t *bytes = item(f, small, &n);
	return bytes && f->at < n ? bytes[f->at++] : 0;
}

static uint64_t fwcfg_read(void *opaque, uint64_t offset, unsigned size)
{
	return offset == 1 && size == 1 ? next_byte(opaque) : 0;
}

static void fwcfg_write(void *opaque, uint64_t offset, unsigned size, uint64_t value)
{
	struct hv_fwcfg *f = opaque;

	if (offset != 0 || size != 2)
		return;
	f->key = (uint16_t)value;
	f->at = 0;
}

static const struct hv_region_ops fwcfg_ops = {.read = fwcfg_read, .write = fwcfg_write};

void hv_fwcfg_create(struct hv_fwcfg **out, struct hv_bus *ports, unsigned cpus)
{
	struct hv_fwcfg *f = xcalloc(1, sizeof(*f));

	f->cpus = (uint16_t)cpus;
	f->region.ops = &fwcfg_ops;
	f->region.opaque = f;
	hv_bus_map(ports, &f->region, PORT, 2);
	*out = f;
}

static void drop_files(struct hv_fwcfg *f)
{
	while (f->files)
		free(f->file[--f->files].bytes);
}

void hv_fwcfg_destroy(struct hv_fwcfg *f)
{
	if (!f)
		return;
	hv_bus_unmap(&f->region);
	drop_files(f);
	free(f);
}

/* --- files ------------------------------------------------------------------------------------- */

static void put_big(uint8_t *p, unsigned bytes, uint32_t value)
{
	for (unsigned i = 0; i < bytes; i++)
		p[i] = (uint8_t)(value >> (bytes - 1 - i) * 8);
}

/* The directory is big-endian, whatever the machine. */
static void list_file(struct hv_fwcfg *f, unsigned i)
{
	uint8_t *entry = f->directory + 4 + i * (8 + NAME_BYTES);

	put_big(f->directory, 4, i + 1);
	put_big(entry, 4, f->file[i].n);
	put_big(entry + 4, 2, KEY_FILES + i);
	memcpy(entry + 8, f->file[i].name, NAME_BYTES);
}

static void add(struct hv_fwcfg *f, const char *name, uint8_t *bytes, size_t n)
{
	struct file *file = &f->file[f->files];

	MUST(f->files < FILES_MAX && strlen(name) < NAME_BYTES && n <= FILE_MAX);
	memset(file, 0, sizeof(*file));
	memcpy(file->name, name, strlen(name));
	file->bytes = bytes;
	file->n = (uint32_t)n;
	list_file(f, f->files++);
}

void hv_fwcfg_add(struct hv_fwcfg *f, const char *name, const void *bytes, size_t n)
{
	uint8_t *copy = xmalloc(MAX(n, 1u));

	memcpy(copy, bytes, n);
	add(f, name, copy, n);
}

static void add_memory_map(struct hv_fwcfg *f, uint64_t memory_bytes)
{
	uint64_t low = vmctl_low_bytes(memory_bytes);
	const struct e820_entry map[] = {
		{le64_of(0), le64_of(low), le32_of(E820_RAM)},
		{le64_of(KVM_PAGES), le64_of(4 * 4096), le32_of(E820_RESERVED)},
		{le64_of(VMCTL_HOLE_END), le64_of(memory_bytes - low), le32_of(E820_RAM)},
	};

	hv_fwcfg_add(f, "etc/e820", map, sizeof(map) - (memory_bytes > low ? 0 : sizeof(map[0])));
}

static void set_name(char dst[NAME_BYTES], const char *name)
{
	memcpy(dst, name, strlen(name) + 1);
}

static struct loader_entry *allocate(struct loader_entry *e, const char *file, uint32_t align,
				     uint8_t zone)
{
	e->command = le32_of(1);
	set_name(e->allocate.file, file);
	e->allocate.align = le32_of(align);
	e->allocate.zone = zone;
	return e + 1;
}

/* At `at` of file `in` stands an offset into the tables: their address is added. */
static struct loader_entry *pointer(struct loader_entry *e, const char *in, uint32_t at,
				    uint8_t bytes)
{
	e->command = le32_of(2);
	set_name(e->pointer.in, in);
	set_name(e->pointer.to, tables_file);
	e->pointer.at = le32_of(at);
	e->pointer.bytes = bytes;
	return e + 1;
}

static struct loader_entry *sum(struct loader_entry *e, const char *file, uint32_t at,
				uint32_t start, uint32_t bytes)
{
	e->command = le32_of(3);
	set_name(e->sum.file, file);
	e->sum.at = le32_of(at);
	e->sum.start = le32_of(start);
	e->sum.bytes = le32_of(bytes);
	return e + 1;
}

#define SUM_AT 9 /* in every table */

static void add_tables(struct hv_fwcfg *f, const struct hv_acpi *acpi)
{
	struct loader_entry script[5 + HV_ACPI_POINTERS + HV_ACPI_SUMS] = {0}, *e = script;
	uint8_t rsdp[HV_ACPI_RSDP_BYTES];

	hv_acpi_rsdp(rsdp, acpi->xsdt);
	hv_fwcfg_add(f, tables_file, acpi->bytes, acpi->n);
	hv_fwcfg_add(f, rsdp_file, rsdp, sizeof(rsdp));
	e = allocate(e, tables_file, HV_ACPI_ALIGN, ZONE_HIGH);
	e = allocate(e, rsdp_file, 16, ZONE_FSEG);
	for (unsigned i = 0; i < acpi->pointers; i++)
		e = pointer(e, tables_file, acpi->pointer[i].at, acpi->pointer[i].bytes);
	for (unsigned i = 0; i < acpi->sums; i++)
		e = sum(e, tables_file, acpi->sum[i].at + SUM_AT, acpi->sum[i].at,
			acpi->sum[i].bytes);
	e = pointer(e, rsdp_file, HV_ACPI_RSDP_XSDT, 8);
	e = sum(e, rsdp_file, 8, 0, 20);
	e = sum(e, rsdp_file, 32, 0, HV_ACPI_RSDP_BYTES);
	hv_fwcfg_add(f, "etc/table-loader", script, (size_t)(e - script) * sizeof(*e));
}

void hv_fwcfg_fill(struct hv_fwcfg *f, uint64_t memory_bytes, const struct hv_acpi *acpi,
		   const char *boot_order)
{
	const le64 serial = le64_of(SERIAL);

	add_memory_map(f, memory_bytes);
	add_tables(f, acpi);
	hv_fwcfg_add(f, "etc/sercon-port", &serial, sizeof(serial));
	if (*boot_order)
		hv_fwcfg_add(f, "bootorder", boot_order, strlen(boot_order) + 1);
}

/* --- saved state ------------------------------------------------------------------------------- */

void hv_fwcfg_save(const struct hv_fwcfg *f, struct hv_state_writer *w)
{
	hv_state_begin(w, "fwcfg", 0, 1);
	hv_state_put16(w, f->key);
	hv_state_put32(w, f->at);
	hv_state_put32(w, f->files);
	for (unsigned i = 0; i < f->files; i++) {
		hv_state_put(w, f->file[i].name, NAME_BYTES);
		hv_state_put32(w, f->file[i].n);
		hv_state_put(w, f->file[i].bytes, f->file[i].n);
	}
}

/* In place of the files that are there. */
int hv_fwcfg_load(struct hv_fwcfg *f, struct hv_state_reader *r)
{
	int rc = hv_state_section(r, "fwcfg", 0, 1);

	if (rc < 0)
		return rc;
	f->key = hv_state_get16(r);
	f->at = hv_state_get32(r);
	uint32_t files = hv_state_get32(r);
	if (files > FILES_MAX)
		return hv_state_refuse(r, "more files than there is room");
	drop_files(f);
	for (uint32_t i = 0; i < files; i++) {
		char name[NAME_BYTES];
		hv_state_get(r, name, sizeof(name));
		uint32_t n = hv_state_get32(r);
		if (name[NAME_BYTES - 1] || n > FILE_MAX)
			return hv_state_refuse(r, "a file that cannot be");
		uint8_t *bytes = xcalloc(1, MAX(n, 1u));
		hv_state_get(r, bytes, n);
		add(f, name, bytes, n);
	}
	return hv_state_done(r);
}
