// SPDX-License-Identifier: Apache-2.0
/* Sections to bytes and back. */
#include "hv/state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/checksum.h"
#include "base/err.h"
#include "base/util.h"

#define MAGIC	 0x544154534d564c50ULL /* "PLVMSTAT" */
#define FORMAT	 1
#define ALIGN	 8
#define AT_LEAST 64 /* KiB that a writer starts with: a small VM's whole state */

struct head {
	le64 magic;    /*  0 */
	le32 format;   /*  8 */
	le32 sections; /* 12 */
	le64 bytes;    /* 16 of all, this head included */
	le64 checksum; /* 24 of what follows the head */
};
_Static_assert(sizeof(struct head) == 32, "head");

struct section_head {
	char name[HV_STATE_NAME]; /*  0 zero-filled */
	le32 instance;		  /* 16 */
	le32 version;		  /* 20 */
	le64 bytes;		  /* 24 of its contents, without the filling after them */
};
_Static_assert(sizeof(struct section_head) == 32, "section");

/* --- writing ----------------------------------------------------------------------------------- */

static uint8_t *grow(struct hv_state_writer *w, size_t n)
{
	if (w->bytes + n > w->room) {
		w->room = MAX(w->room * 2, ROUND_UP(w->bytes + n, AT_LEAST * KiB));
		w->data = xrealloc(w->data, w->room);
	}
	uint8_t *p = w->data + w->bytes;
	w->bytes += n;
	return p;
}

void hv_state_writer_init(struct hv_state_writer *w)
{
	*w = (struct hv_state_writer){0};
	memset(grow(w, sizeof(struct head)), 0, sizeof(struct head));
}

void hv_state_writer_free(struct hv_state_writer *w)
{
	free(w->data);
	*w = (struct hv_state_writer){0};
}

static void end_section(struct hv_state_writer *w)
{
	if (!w->section)
		return;
	const le64 bytes = le64_of(w->bytes - w->section - sizeof(struct section_head));
	memcpy(w->data + w->section + offsetof(struct section_head, bytes), &bytes, sizeof(bytes));
	size_t filling = ROUND_UP(w->bytes, ALIGN) - w->bytes;
	memset(grow(w, filling), 0, filling);
	w->section = 0;
}

void hv_state_begin(struct hv_state_writer *w, const char *name, uint32_t instance,
		    uint32_t version)
{
	struct section_head h = {.instance = le32_of(instance), .version = le32_of(version)};

	end_section(w);
	MUST(strlen(name) <= sizeof(h.name) && w->sections < HV_STATE_SECTIONS);
	memcpy(h.name, name, strlen(name));
	w->section = w->bytes;
	w->sections++;
	hv_state_put(w, &h, sizeof(h));
}

void hv_state_put(struct hv_state_writer *w, const void *src, size_t n)
{
	memcpy(grow(w, n), src, n);
}

void hv_state_put8(struct hv_state_writer *w, uint8_t value)
{
	hv_state_put(w, &value, 1);
}

void hv_state_put16(struct hv_state_writer *w, uint16_t value)
{
	const le16 v = le16_of(value);

	hv_state_put(w, &v, sizeof(v));
}

void hv_state_put32(struct hv_state_writer *w, uint32_t value)
{
	const le32 v = le32_of(value);

	hv_state_put(w, &v, sizeof(v));
}

void hv_state_put64(struct hv_state_writer *w, uint64_t value)
{
	const le64 v = le64_of(value);

	hv_state_put(w, &v, sizeof(v));
}

const uint8_t *hv_state_finish(struct hv_state_writer *w, size_t *bytes)
{
	end_section(w);
	struct head h = {
		.magic = le64_of(MAGIC),
		.format = le32_of(FORMAT),
		.sections = le32_of(w->sections),
		.bytes = le64_of(w->bytes),
		.checksum = le64_of(checksum64(w->data + sizeof(h), w->bytes - sizeof(h))),
	};
	memcpy(w->data, &h, sizeof(h));
	*bytes = w->bytes;
	return w->data;
}

/* --- reading ----------------------------------------------------------------------------------- */

static int check_head(const uint8_t *data, size_t bytes, uint32_t *sections)
{
	struct head h;

	if (bytes < sizeof(h))
		return fail(-EINVAL, "saved state: %zu bytes are no state", bytes);
	memcpy(&h, data, sizeof(h));
	if (le64_get(h.magic) != MAGIC)
		return fail(-EINVAL, "saved state: it is none");
	if (le32_get(h.format) != FORMAT)
		return fail(-EINVAL, "saved state: format %u is of a newer release",
			    le32_get(h.format));
	*sections = le32_get(h.sections);
	if (le64_get(h.bytes) != bytes ||
	    le64_get(h.checksum) != checksum64(data + sizeof(h), bytes - sizeof(h)) ||
	    *sections > HV_STATE_SECTIONS)
		return fail(-EINVAL, "saved state: it is damaged");
	return 0;
}

/* True when this section's name and instance are new, and its name is a text. */
static bool is_new(const struct hv_state_reader *r, uint32_t n)
{
	const char *name = r->section[n].name;

	for (const char *c = name; *c; c++) {
		if (*c < '!' || *c > '~')
			return false;
	}
	for (uint32_t i = 0; i < n; i++) {
		if (!strcmp(r->section[i].name, name) &&
		    r->section[i].instance == r->section[n].instance)
			return false;
	}
	return *name;
}

int hv_state_open(struct hv_state_reader *r, const uint8_t *data, size_t bytes)
{
	uint32_t sections = 0;
	int rc = check_head(data, bytes, &sections);
	size_t at = sizeof(struct head);

	memset(r, 0, sizeof(*r));
	if (rc)
		return rc;
	r->data = data;
	for (uint32_t i = 0; i < sections; i++) {
		struct section_head h;
		if (bytes - at < sizeof(h))
			return fail(-EINVAL, "saved state: section %u of %u is cut off", i + 1,
				    sections);
		memcpy(&h, data + at, sizeof(h));
		at += sizeof(h);
		if (le64_get(h.bytes) > bytes - at)
			return fail(-EINVAL, "saved state: section %u of %u is cut off", i + 1,
				    sections);
		memcpy(r->section[i].name, h.name, sizeof(h.name));
		r->section[i].instance = le32_get(h.instance);
		r->section[i].version = le32_get(h.version);
		r->section[i].at = at;
		r->section[i].end = at + (size_t)le64_get(h.bytes);
		if (!is_new(r, i))
			return fail(-EINVAL, "saved state: section %u of %u is malformed", i + 1,
				    sections);
		at = MIN(ROUND_UP(r->section[i].end, ALIGN), bytes);
		r->sections++;
	}
	return at == bytes ? 0 : fail(-EINVAL, "saved state: something follows its last section");
}

uint32_t hv_state_count(const struct hv_state_reader *r, const char *name)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < r->sections; i++)
		n += !strcmp(r->section[i].name, name);
	return n;
}

int hv_state_section(struct hv_state_reader *r, const char *name, uint32_t instance,
		     uint32_t newest)
{
	for (uint32_t i = 0; i < r->sections; i++) {
		if (strcmp(r->section[i].name, name) || r->section[i].instance != instance)
			continue;
		uint32_t version = r->section[i].version;
		if (r->section[i].used)
			break;
		if (version < 1 || version > newest)
			return fail(-EINVAL,
				    "saved state: %s %u has version %u, this release knows up "
				    "to %u",
				    name, instance, version, newest);
		r->section[i].used = true;
		r->at = r->section[i].at;
		r->end = r->section[i].end;
		r->bad = false;
		r->name = name;
		r->instance = instance;
		return (int)version;
	}
	return fail(-EINVAL, "saved state: it has no section %s %u", name, instance);
}

void hv_state_get(struct hv_state_reader *r, void *dst, size_t n)
{
	if (r->bad || n > r->end - r->at) {
		r->bad = true;
		memset(dst, 0, n);
		return;
	}
	memcpy(dst, r->data + r->at, n);
	r->at += n;
}

uint8_t hv_state_get8(struct hv_state_reader *r)
{
	uint8_t v;

	hv_state_get(r, &v, 1);
	return v;
}

uint16_t hv_state_get16(struct hv_state_reader *r)
{
	le16 v;

	hv_state_get(r, &v, sizeof(v));
	return le16_get(v);
}

uint32_t hv_state_get32(struct hv_state_reader *r)
{
	le32 v;

	hv_state_get(r, &v, sizeof(v));
	return le32_get(v);
}

uint64_t hv_state_get64(struct hv_state_reader *r)
{
	le64 v;

	hv_state_get(r, &v, sizeof(v));
	return le64_get(v);
}

int hv_state_done(struct hv_state_reader *r)
{
	if (r->bad || r->at != r->end)
		return fail(-EINVAL, "saved state: %s %u has a wrong length", r->name, r->instance);
	return 0;
}

int hv_state_refuse(const struct hv_state_reader *r, const char *what)
{
	return fail(-EINVAL, "saved state: %s %u: %s", r->name, r->instance, what);
}

int hv_state_close(const struct hv_state_reader *r)
{
	for (uint32_t i = 0; i < r->sections; i++) {
		if (!r->section[i].used)
			return fail(-EINVAL, "saved state: %s %u belongs to no device of this vm",
				    r->section[i].name, r->section[i].instance);
	}
	return 0;
}
