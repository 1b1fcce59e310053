// SPDX-License-Identifier: Apache-2.0
/* AML, byte by byte. Package lengths always take two bytes, so that they can be filled in later. */
#include "hv/aml.h"

#include <string.h>

#include "base/util.h"

#define OP_NAME	   0x08
#define OP_DWORD   0x0c
#define OP_BYTE	   0x0a
#define OP_WORD	   0x0b
#define OP_SCOPE   0x10
#define OP_BUFFER  0x11
#define OP_PACKAGE 0x12
#define OP_EXT	   0x5b
#define OP_DEVICE  0x82 /* after OP_EXT */

static void byte(struct hv_aml *aml, uint8_t b)
{
	MUST(aml->n < HV_AML_BYTES);
	aml->bytes[aml->n++] = b;
}

static void word(struct hv_aml *aml, uint16_t w)
{
	byte(aml, (uint8_t)w);
	byte(aml, (uint8_t)(w >> 8));
}

static void dword(struct hv_aml *aml, uint32_t d)
{
	word(aml, (uint16_t)d);
	word(aml, (uint16_t)(d >> 16));
}

static void name_string(struct hv_aml *aml, const char *name)
{
	for (; *name; name++)
		byte(aml, (uint8_t)*name);
}

/* Room for the length; it counts from here to the end of the package. */
static size_t open_package(struct hv_aml *aml)
{
	size_t at = aml->n;

	word(aml, 0);
	return at;
}

static void close_package(struct hv_aml *aml, size_t at)
{
	size_t len = aml->n - at;

	MUST(len < 1 << 12);
	aml->bytes[at] = (uint8_t)(1 << 6 | (len & 0xf));
	aml->bytes[at + 1] = (uint8_t)(len >> 4);
}

size_t hv_aml_scope(struct hv_aml *aml, const char *name)
{
	byte(aml, OP_SCOPE);
	size_t at = open_package(aml);
	name_string(aml, name);
	return at;
}

size_t hv_aml_device(struct hv_aml *aml, const char *name)
{
	byte(aml, OP_EXT);
	byte(aml, OP_DEVICE);
	size_t at = open_package(aml);
	name_string(aml, name);
	return at;
}

void hv_aml_end(struct hv_aml *aml, size_t opened)
{
	close_package(aml, opened);
}

void hv_aml_name_int(struct hv_aml *aml, const char *name, uint32_t value)
{
	byte(aml, OP_NAME);
	name_string(aml, name);
	byte(aml, OP_DWORD);
	dword(aml, value);
}

/* Three letters in 5 bits each, four hexadecimal digits, big-endian. */
void hv_aml_name_eisa(struct hv_aml *aml, const char *name, const char *id)
{
	uint32_t v = 0;

	for (int i = 0; i < 3; i++)
		v = v << 5 | (uint32_t)(id[i] - 0x40);
	for (int i = 3; i < 7; i++)
		v = v << 4 | (uint32_t)(id[i] <= '9' ? id[i] - '0' : id[i] - 'A' + 10);
	hv_aml_name_int(aml, name, __builtin_bswap32(v));
}

void hv_aml_name_package(struct hv_aml *aml, const char *name, const uint8_t *values, uint8_t n)
{
	byte(aml, OP_NAME);
	name_string(aml, name);
	byte(aml, OP_PACKAGE);
	size_t at = open_package(aml);
	byte(aml, n);
	for (unsigned i = 0; i < n; i++) {
		byte(aml, OP_BYTE);
		byte(aml, values[i]);
	}
	close_package(aml, at);
}

size_t hv_aml_resources(struct hv_aml *aml)
{
	byte(aml, OP_NAME);
	name_string(aml, "_CRS");
	byte(aml, OP_BUFFER);
	size_t at = open_package(aml);
	byte(aml, OP_WORD); /* the buffer's size, filled in at the end */
	word(aml, 0);
	return at;
}

void hv_aml_io(struct hv_aml *aml, uint16_t port, uint8_t len)
{
	byte(aml, 0x47); /* small, I/O port, 7 bytes */
	byte(aml, 1);	 /* decodes 16 bits */
	word(aml, port);
	word(aml, port);
	byte(aml, 1);
	byte(aml, len);
}

void hv_aml_irq(struct hv_aml *aml, unsigned irq)
{
	byte(aml, 0x22); /* small, IRQ, edge, active high */
	word(aml, (uint16_t)(1 << irq));
}

/* Word address space: fixed at both ends, decoded positively; `type` 2 bus, 1 I/O. */
static void word_range(struct hv_aml *aml, uint8_t type, uint8_t flags, uint16_t first,
		       uint16_t last)
{
	byte(aml, 0x88);
	word(aml, 13);
	byte(aml, type);
	byte(aml, 0x0c);
	byte(aml, flags);
	word(aml, 0);
	word(aml, first);
	word(aml, last);
	word(aml, 0);
	word(aml, (uint16_t)(last - first + 1));
}

void hv_aml_bus_range(struct hv_aml *aml, uint16_t first, uint16_t last)
{
	word_range(aml, 2, 0, first, last);
}

void hv_aml_io_range(struct hv_aml *aml, uint16_t first, uint16_t last)
{
	word_range(aml, 1, 3, first, last);
}

void hv_aml_memory_range(struct hv_aml *aml, uint32_t first, uint32_t last)
{
	byte(aml, 0x87); /* double word address space */
	word(aml, 23);
	byte(aml, 0); /* memory */
	byte(aml, 0x0c);
	byte(aml, 1); /* read and write, not cacheable */
	dword(aml, 0);
	dword(aml, first);
	dword(aml, last);
	dword(aml, 0);
	dword(aml, last - first + 1);
}

void hv_aml_resources_end(struct hv_aml *aml, size_t opened)
{
	byte(aml, 0x79); /* end tag, no checksum */
	byte(aml, 0);
	size_t size = aml->n - (opened + 2 + 3);
	aml->bytes[opened + 3] = (uint8_t)size;
	aml->bytes[opened + 4] = (uint8_t)(size >> 8);
	close_package(aml, opened);
}
