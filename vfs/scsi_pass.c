// SPDX-License-Identifier: Apache-2.0
/*
 * scsi_pass.c: commands to a LUN that is passed through (pass.h). They go as they came, and the answer
 * comes back as it is, but for
 *
 *	REPORT LUNS	is answered by the target (scsi.c): the guest's LUNs are not the array's
 *	INQUIRY, VPD B0	the LUN's own page, its transfer limits no larger than what gets through here
 *	FORMAT UNIT, WRITE BUFFER, EXTENDED COPY
 *			are refused as unknown, unless the disk is `unfiltered`: they harm more than the
 *			guest's own blocks (the array's firmware; LUNs the guest was not given)
 *	CDBs of more than 16 bytes, data in both directions
 *			are refused: the transports here have no way for them
 *	task management	is answered when the commands it means have ended (vhost_scsi.c); a reset is not
 *			passed on, since other initiators would feel it
 *
 * A session that is lost shows as UNIT ATTENTION 29/07, I_T NEXUS LOSS, of each command that went with it,
 * when none of them can happen any more: the guest does them again.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/vring.h"
#include "vfs/disk.h"
#include "vfs/scsi_lun.h"

#define INQUIRY	      0x12
#define FORMAT_UNIT   0x04
#define WRITE_BUFFER  0x3b
#define EXTENDED_COPY 0x83
#define VARIABLE      0x7f
#define LIMITS_PAGE   0xb0
#define PAGE_MAX      0xffffu

/* SAM-5, 5.2: by group; vendor's own are taken for as long as fits. */
static unsigned cdb_length(uint8_t opcode)
{
	static const uint8_t by_group[] = {6, 10, 10, 16, 16, 12, 16, 16};

	return by_group[opcode >> 5];
}

static bool refused(const struct scsi_cmd *cmd)
{
	switch (cmd->cdb[0]) {
	case FORMAT_UNIT:
	case WRITE_BUFFER:
	case EXTENDED_COPY:
		return !cmd->lun->disk->pass.unfiltered;
	case VARIABLE:
		return true;
	}
	return cmd->in_bytes && cmd->out_bytes;
}

static bool is_limits(const struct scsi_cmd *cmd)
{
	return cmd->cdb[0] == INQUIRY && cmd->cdb[1] & 1 && cmd->cdb[2] == LIMITS_PAGE;
}

static void lower(uint8_t *p, uint32_t limit)
{
	uint32_t said = be32_get(p);

	if (!said || said > limit)
		be32_put(p, limit);
}

/* Block limits (SBC-3, 6.6.3): MAXIMUM and OPTIMAL TRANSFER LENGTH in blocks; 0 says nothing. */
static void clamp(struct scsi_cmd *cmd)
{
	const struct vfs_disk *disk = cmd->lun->disk;
	uint32_t limit = disk->pass.max_transfer / MAX(disk->info.block_size, 512u);

	if (cmd->pass.moved >= 12)
		lower(cmd->buffer + 8, limit);
	if (cmd->pass.moved >= 16 && be32_get(cmd->buffer + 12) > limit)
		be32_put(cmd->buffer + 12, limit);
	cmd->pass.moved = iov_write(cmd->in, cmd->in_count, 0, cmd->buffer, cmd->pass.moved);
}

/* What came back when no status did. */
static void failed(struct scsi_cmd *cmd, int res)
{
	switch (-res) {
	case ENOTCONN:
		scsi_check(cmd, KEY_UNIT_ATTENTION, ASC_NEXUS_LOSS);
		break;
	case EBADE:
		cmd->status = SCSI_RESERVATION_CONFLICT;
		scsi_finish(cmd);
		break;
	case EOPNOTSUPP:
		scsi_check(cmd, KEY_ILLEGAL_REQUEST, ASC_INVALID_OPCODE);
		break;
	default:
		scsi_check(cmd, KEY_HARDWARE_ERROR, ASC_TARGET_FAILURE);
	}
}

static void done(struct vfs_scsi *s, int res)
{
	struct scsi_cmd *cmd = container_of(s, struct scsi_cmd, pass);

	if (cmd->lun->gone && res < 0) { /* closed under it */
		scsi_check(cmd, KEY_ILLEGAL_REQUEST, ASC_LUN_NOT_SUPPORTED);
		return;
	}
	if (res < 0) {
		failed(cmd, res);
		return;
	}
	if (cmd->buffer && s->status == SCSI_GOOD)
		clamp(cmd);
	cmd->status = s->status;
	cmd->sense_bytes = s->sense_bytes;
	cmd->moved = s->moved;
	cmd->overrun = s->overrun;
	scsi_finish(cmd);
}

void scsi_pass(struct scsi_cmd *cmd)
{
	struct vfs_disk *disk = cmd->lun->disk;
	struct vfs_scsi *s = &cmd->pass;

	if (refused(cmd)) {
		scsi_check(cmd, KEY_ILLEGAL_REQUEST, ASC_INVALID_OPCODE);
		return;
	}
	*s = (struct vfs_scsi){
		.cdb = cmd->cdb,
		.cdb_length = cdb_length(cmd->cdb[0]),
		.to_guest = cmd->in_bytes > 0,
		.iov = cmd->in_bytes ? cmd->in : cmd->out,
		.iovcnt = cmd->in_bytes ? cmd->in_count : cmd->out_count,
		.bytes = cmd->in_bytes ? cmd->in_bytes : cmd->out_bytes,
		.sense = cmd->sense,
		.done = done,
	};
	if (s->bytes > GUEST_IO_MAX) {
		scsi_bad_field(cmd);
		return;
	}
	if (is_limits(cmd) && s->bytes) {
		cmd->buffer = xcalloc(1, MIN(s->bytes, PAGE_MAX));
		cmd->limits = (struct iovec){cmd->buffer, MIN(s->bytes, PAGE_MAX)};
		s->iov = &cmd->limits;
		s->iovcnt = 1;
		s->bytes = cmd->limits.iov_len;
	}
	disk->ops->scsi(disk, s);
}

/* READ and WRITE of a kernel device, that ask for nothing but that, are requests: see scsi_rw.c. */
bool scsi_passes(const struct scsi_cmd *cmd)
{
	const struct vfs_disk *disk = cmd->lun->disk;

	if (!disk->ops->scsi)
		return false;
	if (!disk->pass.by_requests)
		return true;
	switch (cmd->cdb[0]) {
	case 0x08:
	case 0x0a:
		return false;
	case 0x28:
	case 0x2a:
	case 0xa8:
	case 0xaa:
	case 0x88:
	case 0x8a:
		return cmd->cdb[1] & 0xe0; /* RDPROTECT, WRPROTECT */
	}
	return true;
}
