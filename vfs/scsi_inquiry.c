// SPDX-License-Identifier: Apache-2.0
/* scsi_inquiry.c: what a LUN says of itself: INQUIRY with VPD, REPORT LUNS, READ CAPACITY. */
#include <stdlib.h>
#include <string.h>

#include "vfs/disk.h"
#include "vfs/scsi_lun.h"

#define VENDOR	"PERILUNE"
#define PRODUCT "VIRTUAL DISK    "
#define VERSION "0001"

static void hex_id(const struct vfs_disk *disk, char out[33])
{
	static const char digit[] = "0123456789abcdef";

	for (unsigned i = 0; i < 16; i++) {
		out[2 * i] = digit[disk->info.id[i] >> 4];
		out[2 * i + 1] = digit[disk->info.id[i] & 15];
	}
	out[32] = 0;
}

static size_t standard(const struct scsi_lun *lun, uint8_t *p)
{
	/* Peripheral qualifier 3: this target could have a LUN here and has none. */
	p[0] = lun ? 0x00 : 0x7f;
	p[2] = 6;    /* SPC-4 */
	p[3] = 0x12; /* HISUP, response data format 2 */
	p[4] = 96 - 5;
	p[7] = 0x02; /* CMDQUE */
	memcpy(p + 8, VENDOR, 8);
	memcpy(p + 16, PRODUCT, 16);
	memcpy(p + 32, VERSION, 4);
	be16_put(p + 58, 0x00a0); /* SAM-5 */
	be16_put(p + 60, 0x0460); /* SPC-4 */
	be16_put(p + 62, 0x04c0); /* SBC-3 */
	return 96;
}

/* Device identification: a locally assigned NAA, and vendor and id (SPC-4, 7.8.5). */
static size_t vpd_83(const struct scsi_lun *lun, uint8_t *p)
{
	char id[33];

	hex_id(lun->disk, id);
	p[0] = 0x01; /* binary */
	p[1] = 0x03; /* NAA, of the logical unit */
	p[3] = 8;
	memcpy(p + 4, lun->disk->info.id, 8);
	p[4] = 0x30 | (p[4] & 0x0f);
	p[12] = 0x02; /* ASCII */
	p[13] = 0x01; /* T10 vendor identification */
	p[15] = 8 + 32;
	memcpy(p + 16, VENDOR, 8);
	memcpy(p + 24, id, 32);
	p[56] = 0x01; /* binary */
	p[57] = 0x14; /* relative target port */
	p[59] = 4;
	p[63] = 1;
	return 64;
}

/* Block limits (SBC-3, 6.6.3). */
static size_t vpd_b0(const struct scsi_lun *lun, uint8_t *p)
{
	const struct vfs_disk_info *info = &lun->disk->info;
	uint32_t grain = MAX(info->grain, info->block_size) / info->block_size;
	uint32_t unit = MAX(info->discard_unit / info->block_size, grain);

	p -= 4;	  /* offsets as in the standard, from the start of the page */
	p[4] = 1; /* WSNZ: WRITE SAME of 0 blocks is refused */
	p[5] = SCSI_MAX_CAW;
	be16_put(p + 6, (uint16_t)grain);
	be32_put(p + 8, GUEST_IO_MAX / info->block_size);
	be32_put(p + 12, (1u << 20) / info->block_size); /* optimal: the volume's longest run */
	be32_put(p + 20, UINT32_MAX);			 /* UNMAP blocks */
	be32_put(p + 24, SCSI_MAX_UNMAP);
	be32_put(p + 28, unit);
	be32_put(p + 32, 0x80000000);			   /* UGAVALID: aligned to 0 */
	be64_put(p + 36, (1ULL << 30) / info->block_size); /* WRITE SAME blocks */
	return 60;
}

static size_t vpd_b1(const struct scsi_lun *lun, uint8_t *p)
{
	(void)lun;
	be16_put(p, 1); /* not rotating */
	return 60;
}

/* Logical block provisioning (SBC-3, 6.6.4). */
static size_t vpd_b2(const struct scsi_lun *lun, uint8_t *p)
{
	(void)lun;
	p[1] = 0x80 | 0x40 | 0x20 | 0x04; /* LBPU, LBPWS, LBPWS10, LBPRZ */
	p[2] = 2;			  /* thin */
	return 4;
}

static size_t vpd_80(const struct scsi_lun *lun, uint8_t *p)
{
	char id[33];

	hex_id(lun->disk, id);
	memcpy(p, id, 32);
	return 32;
}

static size_t vpd_00(const struct scsi_lun *lun, uint8_t *p);

static const struct {
	uint8_t page;
	size_t (*fill)(const struct scsi_lun *lun, uint8_t *p);
} vpd[] = {{0x00, vpd_00}, {0x80, vpd_80}, {0x83, vpd_83},
	   {0xb0, vpd_b0}, {0xb1, vpd_b1}, {0xb2, vpd_b2}};

static size_t vpd_00(const struct scsi_lun *lun, uint8_t *p)
{
	(void)lun;
	for (unsigned i = 0; i < ARRAY_SIZE(vpd); i++)
		p[i] = vpd[i].page;
	return ARRAY_SIZE(vpd);
}

/* SPC-4, 6.6 */
void scsi_inquiry(struct scsi_cmd *cmd)
{
	size_t allocation = be16_get(cmd->cdb + 3), bytes;
	uint8_t data[256] = {0};

	if (!(cmd->cdb[1] & 1)) {
		if (cmd->cdb[2]) {
			scsi_bad_field(cmd);
			return;
		}
		scsi_reply(cmd, data, standard(cmd->lun, data), allocation);
		return;
	}
	for (unsigned i = 0; cmd->lun && i < ARRAY_SIZE(vpd); i++) {
		if (vpd[i].page != cmd->cdb[2])
			continue;
		data[1] = vpd[i].page;
		bytes = vpd[i].fill(cmd->lun, data + 4);
		be16_put(data + 2, (uint16_t)bytes);
		scsi_reply(cmd, data, bytes + 4, allocation);
		return;
	}
	scsi_bad_field(cmd);
}

/* SPC-4, 6.33; LUNs as in virtio-scsi requests. */
void scsi_report_luns(struct scsi_cmd *cmd, const struct scsi_target *target)
{
	uint8_t *data = xcalloc(1 + CONTROLLER_LUNS, 8);
	unsigned select = cmd->cdb[2], n = 0;

	if (select > 2) {
		free(data);
		scsi_bad_field(cmd);
		return;
	}
	for (unsigned i = 0; select != 1 && i < CONTROLLER_LUNS; i++) {
		if (!target->lun[i])
			continue;
		n++;
		data[8 * n] = i < 256 ? 0 : (uint8_t)(0x40 | i >> 8);
		data[8 * n + 1] = (uint8_t)i;
	}
	be32_put(data, 8 * n);
	cmd->buffer = data;
	scsi_reply(cmd, data, 8 + 8 * n, be32_get(cmd->cdb + 6));
}

void scsi_read_capacity_10(struct scsi_cmd *cmd)
{
	uint64_t last = cmd->lun->disk->info.size / cmd->lun->block - 1;
	uint8_t data[8];

	be32_put(data, (uint32_t)MIN(last, (uint64_t)UINT32_MAX));
	be32_put(data + 4, cmd->lun->block);
	scsi_reply(cmd, data, sizeof(data), sizeof(data));
}

/* SBC-3, 5.16 */
void scsi_read_capacity_16(struct scsi_cmd *cmd)
{
	const struct vfs_disk_info *info = &cmd->lun->disk->info;
	uint32_t grain = MAX(info->grain, info->block_size) / info->block_size;
	uint8_t data[32] = {0};

	be64_put(data, info->size / info->block_size - 1);
	be32_put(data + 8, info->block_size);
	data[13] = (uint8_t)(__builtin_ctz(grain) & 15); /* logical blocks per physical, as 2^n */
	data[14] = 0x80 | 0x40;				 /* LBPME, LBPRZ */
	scsi_reply(cmd, data, sizeof(data), be32_get(cmd->cdb + 10));
}
