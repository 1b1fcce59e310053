// SPDX-License-Identifier: Apache-2.0
/*
 * scsi_probe.c: what a LUN is and can. Abilities are tried, since targets list what they refuse and
 * the other way round, but only in ways that cannot change a byte: COMPARE AND WRITE with a random
 * block that is not there, UNMAP and WRITE SAME behind the end.
 */
#include "blockdev/scsi.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"

#define MAX_TRANSFER (4 * MiB)

/* --- identity --------------------------------------------------------------------------------- */

static void put_hex(char *dst, size_t size, const char *prefix, const uint8_t *p, unsigned n)
{
	size_t at = (size_t)snprintf(dst, size, "%s", prefix);

	for (unsigned i = 0; i < n && at + 3 <= size; i++)
		at += (size_t)snprintf(dst + at, size - at, "%02x", p[i]);
}

/* Printable, no blanks at the ends, others as '_': ids are words on command lines. */
static bool put_text(char *dst, size_t size, const char *prefix, const uint8_t *p, unsigned n)
{
	size_t at = (size_t)snprintf(dst, size, "%s", prefix);
	bool any = false;

	while (n && (p[n - 1] == ' ' || p[n - 1] == 0))
		n--;
	while (n && *p == ' ')
		p++, n--;
	for (unsigned i = 0; i < n && at + 1 < size; i++) {
		dst[at++] = isalnum(p[i]) || p[i] == '.' || p[i] == '-' ? (char)p[i] : '_';
		any = true;
	}
	dst[at] = 0;
	return any;
}

/* How much a designator is worth: global ones first, a target's own inventions last. */
static unsigned worth(const uint8_t *d, unsigned n)
{
	unsigned association = d[1] >> 4 & 3, type = d[1] & 0xf;

	if (association != 0 || n == 0)
		return 0;
	switch (type) {
	case 3:
		return n < 8 ? 0 : (d[4] >> 4) == 3 ? 1 : 4; /* NAA 3h is locally assigned */
	case 2:
		return n < 8 ? 0 : 3;
	case 1:
		return 2;
	}
	return 0;
}

int scsi_parse_identity(const uint8_t *page, uint32_t length, char *id, size_t size)
{
	unsigned best = 0;
	uint32_t end;

	if (length < 4 || page[1] != 0x83)
		return -ENODATA;
	end = MIN(length, 4u + be16_get(page + 2));
	for (uint32_t at = 4; at + 4 <= end;) {
		const uint8_t *d = page + at;
		unsigned n = d[3], w;

		if (at + 4 + n > end)
			break;
		w = worth(d, n);
		if (w > best) {
			if ((d[1] & 0xf) == 1) {
				if (!put_text(id, size, "t10.", d + 4, n))
					w = best;
			} else {
				put_hex(id, size, (d[1] & 0xf) == 3 ? "naa." : "eui.", d + 4, n);
			}
			best = w;
		}
		at += 4 + n;
	}
	return best ? 0 : -ENODATA;
}

int scsi_parse_serial(const uint8_t *page, uint32_t length, char *id, size_t size)
{
	if (length < 4 || page[1] != 0x80)
		return -ENODATA;
	return put_text(id, size, "serial.", page + 4, MIN(length - 4u, page[3])) ? 0 : -ENODATA;
}

/* --- commands --------------------------------------------------------------------------------- */

static int inquiry(struct scsi_nexus *nexus, int page, uint8_t *data, uint16_t length,
		   uint32_t *got)
{
	struct scsi_cmd cmd = {.cdb = {0x12, page >= 0, page >= 0 ? (uint8_t)page : 0},
			       .cdb_length = 6,
			       .dir = SCSI_IN,
			       .data = data,
			       .length = length};
	int rc;

	be16_put(cmd.cdb + 3, length);
	rc = scsi_run(nexus, &cmd);
	*got = rc < 0 ? 0 : cmd.got;
	if (rc == 0 && page >= 0 && (cmd.got < 4 || data[1] != page))
		rc = -EOPNOTSUPP;
	return rc;
}

int scsi_read_capacity(struct scsi_nexus *nexus, struct blk_info *info)
{
	uint8_t data[32] = {0};
	struct scsi_cmd cmd = {.cdb = {0x9e, 0x10},
			       .cdb_length = 16,
			       .dir = SCSI_IN,
			       .data = data,
			       .length = sizeof(data)};
	uint64_t blocks;
	int rc;

	be32_put(cmd.cdb + 10, sizeof(data));
	rc = scsi_run(nexus, &cmd);
	if (rc < 0)
		return fail(rc, "LUN %s: READ CAPACITY(16) failed; is there such a LUN?",
			    info->name);
	blocks = be64_get(data) + 1;
	info->block_size = be32_get(data + 8);
	if (cmd.got < 12 || (info->block_size != 512 && info->block_size != 4096) || !blocks ||
	    blocks > UINT64_MAX / 4096 / 2)
		return fail(-EINVAL, "LUN %s: logical blocks of %u bytes; 512 and 4096 are known",
			    info->name, info->block_size);
	info->size = blocks * info->block_size;
	info->physical_block_size = info->block_size << (data[13] & 0xf);
	info->zeroes_after_unmap = data[14] & 0x40; /* LBPRZ */
	return 0;
}

static int identify(struct scsi_nexus *nexus, const struct blk_options *options,
		    struct blk_info *info)
{
	uint8_t data[255];
	uint32_t got;
	int rc;

	if (options->force_id) {
		(void)str_format(info->id, sizeof(info->id), "%s", options->force_id);
		return 0;
	}
	rc = inquiry(nexus, 0x83, data, sizeof(data), &got);
	if (rc == 0)
		rc = scsi_parse_identity(data, got, info->id, sizeof(info->id));
	if (rc == 0)
		return 0;
	rc = inquiry(nexus, 0x80, data, sizeof(data), &got);
	if (rc == 0)
		rc = scsi_parse_serial(data, got, info->id, sizeof(info->id));
	if (rc == 0)
		return 0;
	return fail(rc == -ENOTCONN || rc == -ETIMEDOUT ? rc : -EINVAL,
		    "LUN %s: has no NAA, EUI or serial number, so two paths to it could not be "
		    "told from two LUNs; give it a serial on the array, or name it by hand",
		    info->name);
}

/* A compare with random bytes: a miscompare is the answer of a target that can. */
static int try_cas(struct scsi_nexus *nexus, const struct blk_info *info, bool fua)
{
	uint8_t *buf = xcalloc(2, info->block_size);
	struct scsi_cmd cmd = {.cdb = {0x89, fua ? 0x08 : 0},
			       .cdb_length = 16,
			       .dir = SCSI_OUT,
			       .data = buf,
			       .length = 2 * info->block_size};
	int rc;

	cmd.cdb[13] = 1;
	random_bytes(buf, info->block_size);
	memcpy(buf + info->block_size, buf, info->block_size);
	rc = scsi_run(nexus, &cmd);
	free(buf);
	return rc == -EILSEQ ? 0 : rc;
}

static void probe_cas(struct scsi_nexus *nexus, struct blk_info *info, struct scsi_limits *limits)
{
	int rc = try_cas(nexus, info, true);

	limits->cas_fua = rc != -EOPNOTSUPP;
	if (rc == -EOPNOTSUPP)
		rc = try_cas(nexus, info, false);
	/* A conflict: a reservation refuses it, so it is known. */
	if (rc == 0 || rc == -EBADE)
		info->cas = BLK_CAS_ATS;
}

/* Behind the end: 21h (out of range) from a target that knows the command. */
static bool knows(struct scsi_nexus *nexus, struct scsi_cmd *cmd)
{
	int rc = scsi_run(nexus, cmd);

	return rc == -EBADE || (rc < 0 && cmd->status == SCSI_CHECK_CONDITION &&
				cmd->sense.key == 5 && cmd->sense.asc == 0x21);
}

static bool try_unmap(struct scsi_nexus *nexus, const struct blk_info *info)
{
	uint8_t list[24] = {0};
	struct scsi_cmd cmd = {.cdb = {0x42},
			       .cdb_length = 10,
			       .dir = SCSI_OUT,
			       .data = list,
			       .length = sizeof(list)};

	be16_put(cmd.cdb + 7, sizeof(list));
	be16_put(list, sizeof(list) - 2);
	be16_put(list + 2, 16);
	be64_put(list + 8, info->size / info->block_size);
	be32_put(list + 16, 1);
	return knows(nexus, &cmd);
}

static bool try_write_same(struct scsi_nexus *nexus, const struct blk_info *info, bool unmap)
{
	uint8_t *zero = xcalloc(1, info->block_size);
	struct scsi_cmd cmd = {.cdb = {0x93, unmap ? 0x08 : 0},
			       .cdb_length = 16,
			       .dir = SCSI_OUT,
			       .data = zero,
			       .length = info->block_size};
	bool known;

	be64_put(cmd.cdb + 2, info->size / info->block_size);
	be32_put(cmd.cdb + 10, 1);
	known = knows(nexus, &cmd);
	free(zero);
	return known;
}

static void probe_discard(struct scsi_nexus *nexus, struct blk_info *info,
			  struct scsi_limits *limits)
{
	uint8_t data[64];
	uint32_t got, granularity = 0;

	if (inquiry(nexus, 0xb0, data, sizeof(data), &got) == 0) {
		if (got >= 12)
			limits->max_transfer = (uint64_t)be32_get(data + 8) * info->block_size;
		if (got >= 32) {
			uint32_t lbas = be32_get(data + 20);

			limits->max_unmap = lbas == UINT32_MAX ? 0
							       : (uint64_t)lbas * info->block_size;
			granularity = be32_get(data + 28);
		}
		if (got >= 44)
			limits->max_write_same = be64_get(data + 36) * info->block_size;
	}
	info->unmap = try_unmap(nexus, info);
	info->write_same = try_write_same(nexus, info, false);
	if (!info->unmap && inquiry(nexus, 0xb2, data, sizeof(data), &got) == 0 && got >= 6 &&
	    (data[5] & 0x40) && info->write_same)
		info->unmap = limits->unmap_by_write_same = try_write_same(nexus, info, true);
	if (info->unmap)
		info->discard_granularity = MAX(granularity, 1u) * info->block_size;
	else
		info->zeroes_after_unmap = false;
}

/* Nobody is registered: then one may register, try, and go again without disturbing anyone. */
static void probe_preempt_abort(struct scsi_nexus *nexus, struct blk_info *info)
{
	uint8_t list[24] = {0};
	uint64_t key, absent;
	struct scsi_cmd cmd = {.cdb = {0x5f, 5, BLK_PR_WE_REGISTRANTS_ONLY},
			       .cdb_length = 10,
			       .dir = SCSI_OUT,
			       .data = list,
			       .length = sizeof(list)};
	int rc;

	random_bytes(&key, sizeof(key));
	random_bytes(&absent, sizeof(absent));
	if (scsi_pr_register(nexus, key) < 0)
		return;
	cmd.cdb[8] = sizeof(list);
	be64_put(list, key);
	be64_put(list + 8, absent);
	rc = scsi_run(nexus, &cmd);
	info->preempt_abort = rc == 0 || rc == -EBADE;
	(void)scsi_pr_register(nexus, 0);
}

/* WCE of the caching page and DPOFUA of the header; a target that does not say may have a cache. */
static void probe_cache(struct scsi_nexus *nexus, struct blk_info *info, struct scsi_limits *limits)
{
	uint8_t data[192] = {0};
	struct scsi_cmd cmd = {.cdb = {0x1a, 0x08, 0x08, 0, sizeof(data)},
			       .cdb_length = 6,
			       .dir = SCSI_IN,
			       .data = data,
			       .length = sizeof(data)};
	unsigned at;

	info->write_cache = true;
	if (scsi_run(nexus, &cmd) < 0 || cmd.got < 4)
		return;
	limits->fua = data[2] & 0x10;
	at = 4u + data[3];
	if (at + 3 <= cmd.got && (data[at] & 0x3f) == 0x08)
		info->write_cache = data[at + 2] & 0x04;
}

int scsi_probe(struct scsi_nexus *nexus, const struct blk_options *options, struct blk_info *info,
	       struct scsi_limits *limits)
{
	struct blk_pr_state *state = xcalloc(1, sizeof(*state));
	uint8_t data[96];
	uint32_t got;
	int rc = inquiry(nexus, -1, data, sizeof(data), &got);

	memset(limits, 0, sizeof(*limits));
	if (rc == 0 && (got < 36 || (data[0] & 0xff) != 0))
		rc = fail(-ENODEV, "LUN %s: is no disk (or there is no such LUN)", info->name);
	if (rc == 0)
		rc = scsi_read_capacity(nexus, info);
	if (rc == 0)
		rc = identify(nexus, options, info);
	if (rc == 0) {
		probe_cache(nexus, info, limits);
		probe_cas(nexus, info, limits);
		probe_discard(nexus, info, limits);
		info->reservations = scsi_pr_read(nexus, state) == 0;
		if (info->reservations && state->keys == 0 && state->type == BLK_PR_NONE &&
		    !options->read_only)
			probe_preempt_abort(nexus, info);
		if (info->cas == BLK_CAS_NONE && info->reservations)
			info->cas = BLK_CAS_BATON;
		info->max_transfer = (uint32_t)(limits->max_transfer
							? MIN(limits->max_transfer, MAX_TRANSFER)
							: MAX_TRANSFER);
	}
	free(state);
	return rc;
}
