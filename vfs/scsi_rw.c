// SPDX-License-Identifier: Apache-2.0
/*
 * scsi_rw.c: commands that touch the medium: READ, WRITE, VERIFY, SYNCHRONIZE CACHE, UNMAP, WRITE
 * SAME, COMPARE AND WRITE (SBC-3, chapter 5). A write is durable when answered if FUA asks so or
 * the guest switched the write cache off.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/vring.h"
#include "vfs/disk.h"
#include "vfs/scsi_lun.h"

static struct scsi_cmd *of(struct guest_io *io)
{
	return container_of(io, struct scsi_cmd, io);
}

static void done(struct guest_io *io, int res)
{
	if (res < 0)
		of(io)->moved = 0;
	scsi_result(of(io), res);
}

void scsi_cdb_range(const uint8_t *cdb, uint64_t *lba, uint64_t *blocks)
{
	switch (cdb[0] >> 5) { /* the group code says how long the CDB is */
	case 0:
		*lba = be32_get(cdb) & 0x1fffff;
		*blocks = cdb[4] ? cdb[4] : 256;
		break;
	case 4:
		*lba = be64_get(cdb + 2);
		*blocks = be32_get(cdb + 10);
		break;
	case 5:
		*lba = be32_get(cdb + 2);
		*blocks = be32_get(cdb + 6);
		break;
	default:
		*lba = be32_get(cdb + 2);
		*blocks = be16_get(cdb + 7);
	}
}

static bool on_disk(const struct scsi_lun *lun, uint64_t lba, uint64_t blocks)
{
	uint64_t size = lun->disk->info.size / lun->block;

	return lba <= size && blocks <= size - lba;
}

/*
 * Fills in lba and blocks; answers, and returns false, when they are not on the disk, more than
 * `max` blocks, or none (which is no error).
 */
static bool range(struct scsi_cmd *cmd, uint64_t max)
{
	scsi_cdb_range(cmd->cdb, &cmd->lba, &cmd->blocks);
	if (!on_disk(cmd->lun, cmd->lba, cmd->blocks))
		scsi_check(cmd, KEY_ILLEGAL_REQUEST, ASC_LBA_OUT_OF_RANGE);
	else if (cmd->blocks > max)
		scsi_bad_field(cmd);
	else if (!cmd->blocks)
		scsi_good(cmd);
	else
		return true;
	return false;
}

static unsigned commit(const struct scsi_cmd *cmd, bool fua)
{
	return fua || !cmd->lun->write_cache ? VFS_FUA : 0;
}

static void transfer(struct scsi_cmd *cmd, enum vfs_op op)
{
	bool write = op == VFS_WRITE, six = cmd->cdb[0] >> 5 == 0;
	const struct iovec *pieces = write ? cmd->out : cmd->in;
	unsigned count = write ? cmd->out_count : cmd->in_count;
	uint64_t room = write ? cmd->out_bytes : cmd->in_bytes, bytes;

	if (!range(cmd, GUEST_IO_MAX / cmd->lun->block))
		return;
	if (!six && cmd->cdb[1] & 0xe0) { /* RDPROTECT, WRPROTECT: there is no protection here */
		scsi_bad_field(cmd);
		return;
	}
	bytes = cmd->blocks * cmd->lun->block;
	if (room < bytes) {
		cmd->overrun = true;
		scsi_good(cmd);
		return;
	}
	if (room > bytes) {
		cmd->slice = xmalloc(count * sizeof(*pieces));
		count = iov_slice(cmd->slice, pieces, count, 0, bytes);
		pieces = cmd->slice;
	}
	cmd->moved = bytes;
	guest_io_submit(&cmd->io, cmd->lun->disk, op, cmd->lba * cmd->lun->block, bytes, pieces,
			count, commit(cmd, !six && cmd->cdb[1] & 0x08), done);
}

void scsi_read(struct scsi_cmd *cmd)
{
	transfer(cmd, VFS_READ);
}

void scsi_write(struct scsi_cmd *cmd)
{
	transfer(cmd, VFS_WRITE);
}

/* The whole cache: a range is allowed to be more than was asked for (SBC-3, 5.22). */
void scsi_synchronize(struct scsi_cmd *cmd)
{
	scsi_cdb_range(cmd->cdb, &cmd->lba, &cmd->blocks);
	if (!on_disk(cmd->lun, cmd->lba, cmd->blocks)) {
		scsi_check(cmd, KEY_ILLEGAL_REQUEST, ASC_LBA_OUT_OF_RANGE);
		return;
	}
	guest_io_submit(&cmd->io, cmd->lun->disk, VFS_FLUSH, 0, 0, NULL, 0, 0, done);
}

/* --- reading and comparing: VERIFY, COMPARE AND WRITE ------------------------------------------ */

/* Reads the command's blocks into its buffer. */
static void read_blocks(struct scsi_cmd *cmd, void (*then)(struct guest_io *io, int res))
{
	struct iovec *iov = xmalloc(sizeof(*iov));

	iov->iov_len = cmd->blocks * cmd->lun->block;
	iov->iov_base = cmd->buffer = xaligned(4096, iov->iov_len);
	cmd->slice = iov;
	guest_io_submit(&cmd->io, cmd->lun->disk, VFS_READ, cmd->lba * cmd->lun->block,
			iov->iov_len, iov, 1, 0, then);
}

/* Answers MISCOMPARE with the offset of the first difference; true when there is none. */
static bool same(struct scsi_cmd *cmd)
{
	uint64_t bytes = cmd->blocks * cmd->lun->block;
	uint8_t *given = xmalloc(bytes);
	uint64_t at = 0;

	iov_read(cmd->out, cmd->out_count, 0, given, bytes);
	while (at < bytes && given[at] == cmd->buffer[at])
		at++;
	free(given);
	if (at == bytes)
		return true;
	scsi_sense(cmd, KEY_MISCOMPARE, ASC_MISCOMPARE);
	cmd->sense[0] |= 0x80; /* INFORMATION is valid */
	be32_put(cmd->sense + 3, (uint32_t)at);
	scsi_finish(cmd);
	return false;
}

static void verify_read(struct guest_io *io, int res)
{
	struct scsi_cmd *cmd = of(io);

	if (res < 0)
		done(io, res);
	else if (same(cmd))
		scsi_good(cmd);
}

/* BYTCHK 0 asks whether blocks can be read: a disk that is there says yes. BYTCHK 1 compares. */
void scsi_verify(struct scsi_cmd *cmd)
{
	unsigned check = cmd->cdb[1] >> 1 & 3;

	if (check > 1 || cmd->cdb[1] & 0xe0) {
		scsi_bad_field(cmd);
		return;
	}
	if (!range(cmd, check ? GUEST_IO_MAX / cmd->lun->block : UINT64_MAX))
		return;
	if (!check) {
		scsi_good(cmd);
		return;
	}
	if (cmd->out_bytes < cmd->blocks * cmd->lun->block) {
		cmd->overrun = true;
		scsi_good(cmd);
		return;
	}
	cmd->moved = cmd->blocks * cmd->lun->block;
	read_blocks(cmd, verify_read);
}

static void compared(struct guest_io *io, int res)
{
	struct scsi_cmd *cmd = of(io);
	uint64_t bytes = cmd->blocks * cmd->lun->block;

	if (res < 0) {
		done(io, res);
		return;
	}
	if (!same(cmd))
		return;
	iov_read(cmd->out, cmd->out_count, bytes, cmd->buffer, bytes);
	cmd->moved = 2 * bytes;
	guest_io_submit(&cmd->io, cmd->lun->disk, VFS_WRITE, cmd->lba * cmd->lun->block, bytes,
			cmd->slice, 1, commit(cmd, cmd->cdb[1] & 0x08), done);
}

/* SBC-3, 5.3. Runs alone on its LUN, so nothing comes in between. */
void scsi_compare_and_write(struct scsi_cmd *cmd)
{
	cmd->lba = be64_get(cmd->cdb + 2);
	cmd->blocks = cmd->cdb[13];
	if (!on_disk(cmd->lun, cmd->lba, cmd->blocks)) {
		scsi_check(cmd, KEY_ILLEGAL_REQUEST, ASC_LBA_OUT_OF_RANGE);
	} else if (cmd->blocks > SCSI_MAX_CAW || cmd->cdb[1] & 0xe0) {
		scsi_bad_field(cmd);
	} else if (!cmd->blocks) {
		scsi_good(cmd);
	} else if (cmd->out_bytes < 2 * cmd->blocks * cmd->lun->block) {
		cmd->overrun = true;
		scsi_good(cmd);
	} else {
		read_blocks(cmd, compared);
	}
}

/* --- UNMAP ------------------------------------------------------------------------------------- */

static void unmap_next(struct scsi_cmd *cmd);

static void unmap_done(struct guest_io *io, int res)
{
	struct scsi_cmd *cmd = of(io);

	if (res < 0) {
		done(io, res);
		return;
	}
	cmd->at++;
	unmap_next(cmd);
}

static void unmap_next(struct scsi_cmd *cmd)
{
	for (; cmd->at < cmd->count; cmd->at++) {
		const uint8_t *d = cmd->buffer + 8 + 16 * cmd->at;
		uint64_t blocks = be32_get(d + 8);

		if (!blocks)
			continue;
		guest_io_submit(&cmd->io, cmd->lun->disk, VFS_DISCARD,
				be64_get(d) * cmd->lun->block, blocks * cmd->lun->block, NULL, 0,
				commit(cmd, false), unmap_done);
		return;
	}
	scsi_good(cmd);
}

/* SBC-3, 5.28. All descriptors are checked before the first is done. */
void scsi_unmap(struct scsi_cmd *cmd)
{
	size_t bytes = be16_get(cmd->cdb + 7);

	if (cmd->cdb[1] & 1) { /* ANCHOR */
		scsi_bad_field(cmd);
		return;
	}
	if (!bytes) {
		scsi_good(cmd);
		return;
	}
	cmd->buffer = xcalloc(1, MAX(bytes, (size_t)8));
	if (!scsi_parameters(cmd, cmd->buffer, bytes))
		return;
	if (bytes < 8) {
		scsi_check(cmd, KEY_ILLEGAL_REQUEST, ASC_PARAMETER_LIST_LENGTH);
		return;
	}
	cmd->at = 0;
	cmd->count = (unsigned)(MIN((size_t)be16_get(cmd->buffer + 2), bytes - 8) / 16);
	if (cmd->count > SCSI_MAX_UNMAP) {
		scsi_check(cmd, KEY_ILLEGAL_REQUEST, ASC_INVALID_FIELD_IN_PARAMETERS);
		return;
	}
	for (unsigned i = 0; i < cmd->count; i++) {
		const uint8_t *d = cmd->buffer + 8 + 16 * i;

		if (!on_disk(cmd->lun, be64_get(d), be32_get(d + 8))) {
			scsi_check(cmd, KEY_ILLEGAL_REQUEST, ASC_LBA_OUT_OF_RANGE);
			return;
		}
	}
	unmap_next(cmd);
}

/* --- WRITE SAME -------------------------------------------------------------------------------- */

static void same_next(struct scsi_cmd *cmd);

static void same_done(struct guest_io *io, int res)
{
	struct scsi_cmd *cmd = of(io);

	if (res < 0) {
		done(io, res);
		return;
	}
	cmd->lba += cmd->count;
	cmd->blocks -= cmd->count;
	if (cmd->blocks)
		same_next(cmd);
	else
		scsi_good(cmd);
}

/* Writes the pattern, which fills the buffer, once more. */
static void same_next(struct scsi_cmd *cmd)
{
	uint64_t most = SCSI_PATTERN_MAX / cmd->lun->block;

	cmd->count = (unsigned)MIN(cmd->blocks, most);
	cmd->slice->iov_len = (size_t)cmd->count * cmd->lun->block;
	guest_io_submit(&cmd->io, cmd->lun->disk, VFS_WRITE, cmd->lba * cmd->lun->block,
			cmd->slice->iov_len, cmd->slice, 1, commit(cmd, false), same_done);
}

static bool is_zero(const uint8_t *p, size_t n)
{
	return !p[0] && memcmp(p, p + 1, n - 1) == 0;
}

static void write_pattern(struct scsi_cmd *cmd, const uint8_t *block)
{
	uint32_t size = cmd->lun->block;
	uint64_t bytes = MIN(cmd->blocks * size, (uint64_t)SCSI_PATTERN_MAX);

	cmd->buffer = xaligned(4096, bytes);
	for (uint64_t at = 0; at < bytes; at += size)
		memcpy(cmd->buffer + at, block, size);
	cmd->slice = xmalloc(sizeof(*cmd->slice));
	cmd->slice->iov_base = cmd->buffer;
	same_next(cmd);
}

/* SBC-3, 5.41 and 5.43 */
void scsi_write_same(struct scsi_cmd *cmd)
{
	bool sixteen = cmd->cdb[0] == 0x93, unmap = cmd->cdb[1] & 0x08;
	bool no_data = sixteen && cmd->cdb[1] & 0x01; /* NDOB */
	uint8_t block[4096] = {0};
	uint32_t size = cmd->lun->block;

	scsi_cdb_range(cmd->cdb, &cmd->lba, &cmd->blocks);
	/* WRPROTECT, ANCHOR; 0 blocks (WSNZ); more than block limits say */
	if (cmd->cdb[1] & 0xf0 || !cmd->blocks || cmd->blocks > (1ULL << 30) / size) {
		scsi_bad_field(cmd);
		return;
	}
	if (!range(cmd, UINT64_MAX))
		return;
	if (!no_data && !scsi_parameters(cmd, block, size))
		return;
	if (!is_zero(block, size)) {
		write_pattern(cmd, block);
		return;
	}
	guest_io_submit(&cmd->io, cmd->lun->disk, VFS_WRITE_ZEROES, cmd->lba * size,
			cmd->blocks * size, NULL, 0,
			commit(cmd, false) | (unmap ? VFS_MAY_UNMAP : 0), done);
}
