// SPDX-License-Identifier: Apache-2.0
/*
 * state.h: the saved state of a VM as bytes: named, versioned sections, one or more a device.
 *
 *	magic u64, format u32, sections u32, bytes u64 (of all), XXH3 of what follows u64
 *	for each section: name (16, zero-filled), instance u32, version u32, bytes u64; its bytes
 *
 * Little-endian, sections aligned to 8. What KVM keeps is stored as KVM's own structures, which are
 * a stable ABI. A section's version goes up when its meaning changes; a newer program reads all
 * older ones, an older one refuses what it does not know, in words. Bytes come from another host
 * or a file: a reader checks lengths here, values are checked by who uses them.
 */
#ifndef HV_STATE_H
#define HV_STATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HV_STATE_NAME	  16
#define HV_STATE_SECTIONS 512

/* --- writing: nothing here fails --------------------------------------------------------------- */

struct hv_state_writer {
	uint8_t *data; /* private */
	size_t bytes, room, section;
	uint32_t sections;
};

void hv_state_writer_init(struct hv_state_writer *w);
void hv_state_writer_free(struct hv_state_writer *w);
/* What is put from here on belongs to this section, to the next hv_state_begin. */
void hv_state_begin(struct hv_state_writer *w, const char *name, uint32_t instance,
		    uint32_t version);
void hv_state_put(struct hv_state_writer *w, const void *src, size_t n);
void hv_state_put8(struct hv_state_writer *w, uint8_t value);
void hv_state_put16(struct hv_state_writer *w, uint16_t value);
void hv_state_put32(struct hv_state_writer *w, uint32_t value);
void hv_state_put64(struct hv_state_writer *w, uint64_t value);
/* Head and checksum; the bytes stay the writer's. */
const uint8_t *hv_state_finish(struct hv_state_writer *w, size_t *bytes);

/* --- reading ----------------------------------------------------------------------------------- */

struct hv_state_reader {
	const uint8_t *data; /* private */
	size_t at, end;	     /* of the open section */
	bool bad;	     /* more was asked for than there is */
	const char *name;
	uint32_t instance;
	uint32_t sections;
	struct {
		char name[HV_STATE_NAME + 1];
		uint32_t instance, version;
		size_t at, end;
		bool used;
	} section[HV_STATE_SECTIONS];
};

/* Borrows `data` for as long as the reader is used. -EINVAL with words: damaged, or no such thing. */
int hv_state_open(struct hv_state_reader *r, const uint8_t *data, size_t bytes);
/* How many sections there are of that name (instances 0 to n - 1 of a whole state). */
uint32_t hv_state_count(const struct hv_state_reader *r, const char *name);
/* Its version, 1 to `newest`; -EINVAL: absent, opened before, of a newer release. */
int hv_state_section(struct hv_state_reader *r, const char *name, uint32_t instance,
		     uint32_t newest);
/* Zeroes when the section is too short; hv_state_done tells. */
void hv_state_get(struct hv_state_reader *r, void *dst, size_t n);
uint8_t hv_state_get8(struct hv_state_reader *r);
uint16_t hv_state_get16(struct hv_state_reader *r);
uint32_t hv_state_get32(struct hv_state_reader *r);
uint64_t hv_state_get64(struct hv_state_reader *r);
/* The open section was read wholly, and it made sense so far; else -EINVAL. */
int hv_state_done(struct hv_state_reader *r);
/* A value of the open section is none that we would have saved: -EINVAL with words. */
int hv_state_refuse(const struct hv_state_reader *r, const char *what);
/* Every section was opened; else -EINVAL naming one. */
int hv_state_close(const struct hv_state_reader *r);

#endif
