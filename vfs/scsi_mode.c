// SPDX-License-Identifier: Apache-2.0
/* scsi_mode.c: MODE SENSE and MODE SELECT. What a guest can change is the write cache (WCE). */
#include <string.h>

#include "vfs/disk.h"
#include "vfs/scsi_lun.h"

enum { CURRENT, CHANGEABLE, DEFAULT, SAVED }; /* page control */

#define WCE 0x04

static size_t caching(const struct scsi_lun *lun, unsigned control, uint8_t *p)
{
	p[0] = 0x08;
	p[1] = 0x12;
	p[2] = control == CURRENT ? (lun->write_cache ? WCE : 0) : WCE;
	return 20;
}

static size_t error_recovery(const struct scsi_lun *lun, unsigned control, uint8_t *p)
{
	(void)lun;
	(void)control;
	p[0] = 0x01;
	p[1] = 0x0a;
	return 12;
}

static size_t control_page(const struct scsi_lun *lun, unsigned control, uint8_t *p)
{
	p[0] = 0x0a;
	p[1] = 0x0a;
	if (control != CHANGEABLE) {
		p[2] = 0x02; /* GLTSD */
		p[3] = 0x10; /* commands may be reordered */
		p[4] = lun->target->read_only ? 0x08 : 0;
		be16_put(p + 8, 0xffff); /* busy without limit */
	}
	return 12;
}

static size_t exceptions(const struct scsi_lun *lun, unsigned control, uint8_t *p)
{
	(void)lun;
	(void)control;
	p[0] = 0x1c;
	p[1] = 0x0a;
	return 12;
}

static const struct {
	uint8_t page;
	size_t (*fill)(const struct scsi_lun *lun, unsigned control, uint8_t *p);
} pages[] = {{0x01, error_recovery}, {0x08, caching}, {0x0a, control_page}, {0x1c, exceptions}};

static bool read_only(const struct scsi_lun *lun)
{
	return lun->target->read_only || lun->disk->info.read_only;
}

/* One block descriptor, short (SBC-3, 6.5.2). */
static size_t descriptor(const struct scsi_lun *lun, uint8_t *p)
{
	uint64_t blocks = lun->disk->info.size / lun->block;

	be32_put(p, (uint32_t)MIN(blocks, (uint64_t)UINT32_MAX));
	be32_put(p + 4, lun->block); /* byte 4 is reserved; blocks are smaller than 2^24 */
	return 8;
}

/* SPC-4, 6.11 and 6.12 */
void scsi_mode_sense(struct scsi_cmd *cmd)
{
	const uint8_t *cdb = cmd->cdb;
	bool six = cdb[0] == 0x1a, found = false;
	unsigned control = cdb[2] >> 6, page = cdb[2] & 0x3f, sub = cdb[3];
	size_t header = six ? 4 : 8, at = header, blocks = 0;
	uint8_t data[128] = {0};

	if (control == SAVED) {
		scsi_check(cmd, KEY_ILLEGAL_REQUEST, ASC_SAVING_NOT_SUPPORTED);
		return;
	}
	if (!(cdb[1] & 0x08)) /* DBD */
		at += blocks = descriptor(cmd->lun, data + at);
	for (unsigned i = 0; i < ARRAY_SIZE(pages); i++) {
		if (page != 0x3f && page != pages[i].page)
			continue;
		found = true;
		at += pages[i].fill(cmd->lun, control, data + at);
	}
	if (!found || (sub && sub != 0xff)) {
		scsi_bad_field(cmd);
		return;
	}
	if (six) {
		data[0] = (uint8_t)(at - 1);
		data[2] = (read_only(cmd->lun) ? 0x80 : 0) | 0x10; /* WP, DPOFUA */
		data[3] = (uint8_t)blocks;
	} else {
		be16_put(data, (uint16_t)(at - 2));
		data[3] = (read_only(cmd->lun) ? 0x80 : 0) | 0x10;
		be16_put(data + 6, (uint16_t)blocks);
	}
	scsi_reply(cmd, data, at, six ? cdb[4] : be16_get(cdb + 7));
}

/* One page of a list: its length, or 0 when it asks for what cannot be had. */
static size_t select_page(const struct scsi_lun *lun, const uint8_t *p, size_t left, bool *cache)
{
	for (unsigned i = 0; left >= 2 && i < ARRAY_SIZE(pages); i++) {
		uint8_t now[32] = {0}, may[32] = {0};
		size_t bytes;

		if (pages[i].page != (p[0] & 0x3f) || p[0] & 0x40)
			continue;
		bytes = pages[i].fill(lun, CURRENT, now);
		pages[i].fill(lun, CHANGEABLE, may);
		if (left < bytes || p[1] != now[1])
			return 0;
		for (size_t b = 2; b < bytes; b++)
			if ((p[b] ^ now[b]) & ~may[b])
				return 0;
		if (pages[i].page == 0x08)
			*cache = p[2] & WCE;
		return bytes;
	}
	return 0;
}

static void cache_off(struct guest_io *io, int res)
{
	struct scsi_cmd *cmd = container_of(io, struct scsi_cmd, io);

	if (res == 0)
		cmd->lun->write_cache = false;
	scsi_result(cmd, res);
}

/* SPC-4, 6.9 and 6.10. All or nothing. */
void scsi_mode_select(struct scsi_cmd *cmd)
{
	const uint8_t *cdb = cmd->cdb;
	bool six = cdb[0] == 0x15, cache = cmd->lun->write_cache;
	size_t bytes = six ? cdb[4] : be16_get(cdb + 7), header = six ? 4 : 8, at, blocks;
	uint8_t data[256], now[8];

	if (!(cdb[1] & 0x10) || cdb[1] & 0x01 || bytes > sizeof(data)) { /* PF, SP */
		scsi_bad_field(cmd);
		return;
	}
	if (!bytes) {
		scsi_good(cmd);
		return;
	}
	if (!scsi_parameters(cmd, data, bytes))
		return;
	if (bytes < header) {
		scsi_check(cmd, KEY_ILLEGAL_REQUEST, ASC_PARAMETER_LIST_LENGTH);
		return;
	}
	blocks = six ? data[3] : be16_get(data + 6);
	descriptor(cmd->lun, now);
	at = header + blocks;
	if ((blocks != 0 && blocks != 8) || at > bytes ||
	    (blocks && memcmp(data + header + 5, now + 5, 3) != 0))
		at = bytes + 1;
	while (at < bytes) {
		size_t part = select_page(cmd->lun, data + at, bytes - at, &cache);

		at = part ? at + part : bytes + 1;
	}
	if (at != bytes) {
		scsi_check(cmd, KEY_ILLEGAL_REQUEST, ASC_INVALID_FIELD_IN_PARAMETERS);
		return;
	}
	if (cmd->lun->write_cache && !cache) { /* what is cached becomes durable first */
		guest_io_submit(&cmd->io, cmd->lun->disk, VFS_FLUSH, 0, 0, NULL, 0, 0, cache_off);
		return;
	}
	cmd->lun->write_cache = cache;
	scsi_good(cmd);
}
