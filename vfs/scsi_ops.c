// SPDX-License-Identifier: Apache-2.0
/*
 * scsi_ops.c: the commands there are, and the two that report them. One table drives dispatch,
 * reservations, replay after a restart, and REPORT SUPPORTED OPERATION CODES.
 */
#include <string.h>

#include "vfs/scsi_lun.h"

static void good(struct scsi_cmd *cmd)
{
	scsi_good(cmd);
}

/* REPORT LUNS and REQUEST SENSE are handled before the table; they stand here to be reported. */
#define WRITES	(OP_WRITES | OP_REPEATABLE)
#define READS	(OP_READS | OP_REPEATABLE)
#define FLUSHES (OP_FLUSHES | OP_REPEATABLE)
#define ALL4	0xff, 0xff, 0xff, 0xff
#define ALL8	ALL4, ALL4
#define CONTROL 0x04

static const struct scsi_op table[] = {
	/* TEST UNIT READY, REQUEST SENSE, INQUIRY, START STOP UNIT, SEND DIAGNOSTIC */
	{0x00, -1, 6, 0, good, {0x00, 0, 0, 0, 0, CONTROL}},
	{0x03, -1, 6, OP_ANY_STATE, good, {0x03, 1, 0, 0, 0xff, CONTROL}},
	{0x12, -1, 6, OP_ANY_STATE, scsi_inquiry, {0x12, 1, 0xff, 0xff, 0xff, CONTROL}},
	{0x1b, -1, 6, 0, good, {0x1b, 1, 0, 0x0f, 0xf7, CONTROL}},
	{0x1d, -1, 6, 0, good, {0x1d, 0xf7, 0, 0xff, 0xff, CONTROL}},
	/* MODE SELECT and SENSE */
	{0x15, -1, 6, OP_ALONE, scsi_mode_select, {0x15, 0x11, 0, 0, 0xff, CONTROL}},
	{0x1a, -1, 6, 0, scsi_mode_sense, {0x1a, 0x08, 0xff, 0xff, 0xff, CONTROL}},
	{0x55,
	 -1,
	 10,
	 OP_ALONE,
	 scsi_mode_select,
	 {0x55, 0x11, 0, 0, 0, 0, 0, 0xff, 0xff, CONTROL}},
	{0x5a, -1, 10, 0, scsi_mode_sense, {0x5a, 0x18, 0xff, 0xff, 0, 0, 0, 0xff, 0xff, CONTROL}},
	/* READ CAPACITY */
	{0x25, -1, 10, 0, scsi_read_capacity_10, {0x25, 0, 0, 0, 0, 0, 0, 0, 0, CONTROL}},
	{0x9e,
	 0x10,
	 16,
	 0,
	 scsi_read_capacity_16,
	 {0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, ALL4, 0, CONTROL}},
	/* READ */
	{0x08, -1, 6, READS, scsi_read, {0x08, 0x1f, 0xff, 0xff, 0xff, CONTROL}},
	{0x28, -1, 10, READS, scsi_read, {0x28, 0x18, ALL4, 0, 0xff, 0xff, CONTROL}},
	{0xa8, -1, 12, READS, scsi_read, {0xa8, 0x18, ALL8, 0, CONTROL}},
	{0x88, -1, 16, READS, scsi_read, {0x88, 0x18, ALL8, ALL4, 0, CONTROL}},
	/* WRITE */
	{0x0a, -1, 6, WRITES, scsi_write, {0x0a, 0x1f, 0xff, 0xff, 0xff, CONTROL}},
	{0x2a, -1, 10, WRITES, scsi_write, {0x2a, 0x18, ALL4, 0, 0xff, 0xff, CONTROL}},
	{0xaa, -1, 12, WRITES, scsi_write, {0xaa, 0x18, ALL8, 0, CONTROL}},
	{0x8a, -1, 16, WRITES, scsi_write, {0x8a, 0x18, ALL8, ALL4, 0, CONTROL}},
	/* VERIFY */
	{0x2f, -1, 10, OP_READS, scsi_verify, {0x2f, 0x16, ALL4, 0, 0xff, 0xff, CONTROL}},
	{0xaf, -1, 12, OP_READS, scsi_verify, {0xaf, 0x16, ALL8, 0, CONTROL}},
	{0x8f, -1, 16, OP_READS, scsi_verify, {0x8f, 0x16, ALL8, ALL4, 0, CONTROL}},
	/* SYNCHRONIZE CACHE: harmless to repeat, not refused by WRITE EXCLUSIVE to its holder */
	{0x35, -1, 10, FLUSHES, scsi_synchronize, {0x35, 0x02, ALL4, 0, 0xff, 0xff, CONTROL}},
	{0x91, -1, 16, FLUSHES, scsi_synchronize, {0x91, 0x02, ALL8, ALL4, 0, CONTROL}},
	/* UNMAP, WRITE SAME */
	{0x42, -1, 10, WRITES, scsi_unmap, {0x42, 0, 0, 0, 0, 0, 0, 0xff, 0xff, CONTROL}},
	{0x41, -1, 10, WRITES, scsi_write_same, {0x41, 0x08, ALL4, 0, 0xff, 0xff, CONTROL}},
	{0x93, -1, 16, WRITES, scsi_write_same, {0x93, 0x09, ALL8, ALL4, 0, CONTROL}},
	/* COMPARE AND WRITE */
	{0x89,
	 -1,
	 16,
	 OP_READS | OP_WRITES | OP_ALONE,
	 scsi_compare_and_write,
	 {0x89, 0x18, ALL8, 0, 0, 0, 0xff, 0, CONTROL}},
	/* PERSISTENT RESERVE IN: READ KEYS, RESERVATION, CAPABILITIES, FULL STATUS */
	{0x5e, 0, 10, 0, scsi_pr_in, {0x5e, 0x1f, 0, 0, 0, 0, 0, 0xff, 0xff, CONTROL}},
	{0x5e, 1, 10, 0, scsi_pr_in, {0x5e, 0x1f, 0, 0, 0, 0, 0, 0xff, 0xff, CONTROL}},
	{0x5e, 2, 10, 0, scsi_pr_in, {0x5e, 0x1f, 0, 0, 0, 0, 0, 0xff, 0xff, CONTROL}},
	{0x5e, 3, 10, 0, scsi_pr_in, {0x5e, 0x1f, 0, 0, 0, 0, 0, 0xff, 0xff, CONTROL}},
	/* PERSISTENT RESERVE OUT: REGISTER, RESERVE, RELEASE, CLEAR, PREEMPT (AND ABORT), REGISTER
	 * AND IGNORE */
	{0x5f, 0, 10, OP_ALONE, scsi_pr_out, {0x5f, 0x1f, 0xff, 0, 0, ALL4, CONTROL}},
	{0x5f, 1, 10, OP_ALONE, scsi_pr_out, {0x5f, 0x1f, 0xff, 0, 0, ALL4, CONTROL}},
	{0x5f, 2, 10, OP_ALONE, scsi_pr_out, {0x5f, 0x1f, 0xff, 0, 0, ALL4, CONTROL}},
	{0x5f, 3, 10, OP_ALONE, scsi_pr_out, {0x5f, 0x1f, 0xff, 0, 0, ALL4, CONTROL}},
	{0x5f, 4, 10, OP_ALONE, scsi_pr_out, {0x5f, 0x1f, 0xff, 0, 0, ALL4, CONTROL}},
	{0x5f, 5, 10, OP_ALONE, scsi_pr_out, {0x5f, 0x1f, 0xff, 0, 0, ALL4, CONTROL}},
	{0x5f, 6, 10, OP_ALONE, scsi_pr_out, {0x5f, 0x1f, 0xff, 0, 0, ALL4, CONTROL}},
	/* REPORT LUNS, REPORT SUPPORTED OPERATION CODES, ... TASK MANAGEMENT FUNCTIONS */
	{0xa0, -1, 12, OP_ANY_STATE, good, {0xa0, 0, 0xff, 0, 0, 0, ALL4, 0, CONTROL}},
	{0xa3,
	 0x0c,
	 12,
	 0,
	 scsi_report_opcodes,
	 {0xa3, 0x1f, 0x87, 0xff, ALL4, 0xff, 0xff, 0, CONTROL}},
	{0xa3, 0x0d, 12, 0, scsi_report_tmf, {0xa3, 0x1f, 0x80, 0, 0, 0, ALL4, 0, CONTROL}},
};

const struct scsi_op *scsi_op_table(unsigned *count)
{
	*count = ARRAY_SIZE(table);
	return table;
}

const struct scsi_op *scsi_op_find(const uint8_t *cdb)
{
	for (unsigned i = 0; i < ARRAY_SIZE(table); i++)
		if (table[i].code == cdb[0] &&
		    (table[i].action < 0 || table[i].action == (cdb[1] & 0x1f)))
			return &table[i];
	return NULL;
}

/* A descriptor of command time-outs that says nothing (SPC-4, 6.35.4). */
static const uint8_t no_timeouts[12] = {0x00, 0x0a};

static void report_all(struct scsi_cmd *cmd, bool timeouts)
{
	uint8_t data[4 + ARRAY_SIZE(table) * 20] = {0}, *p = data + 4;

	for (unsigned i = 0; i < ARRAY_SIZE(table); i++) {
		p[0] = table[i].code;
		if (table[i].action >= 0) {
			be16_put(p + 2, (uint16_t)table[i].action);
			p[5] |= 1; /* SERVACTV */
		}
		be16_put(p + 6, table[i].length);
		if (timeouts) {
			p[5] |= 2; /* CTDP */
			memcpy(p + 8, no_timeouts, sizeof(no_timeouts));
			p += sizeof(no_timeouts);
		}
		p += 8;
	}
	be32_put(data, (uint32_t)(p - data - 4));
	scsi_reply(cmd, data, (size_t)(p - data), be32_get(cmd->cdb + 6));
}

/* SPC-4, 6.35 */
void scsi_report_opcodes(struct scsi_cmd *cmd)
{
	const uint8_t *cdb = cmd->cdb;
	unsigned options = cdb[2] & 7, action = be16_get(cdb + 4), bytes;
	uint8_t data[4 + 16 + 12] = {0};
	bool timeouts = cdb[2] & 0x80, with_action = false, without = false;
	const struct scsi_op *found = NULL;

	if (options == 0) {
		report_all(cmd, timeouts);
		return;
	}
	for (unsigned i = 0; i < ARRAY_SIZE(table); i++) {
		const struct scsi_op *op = &table[i];

		if (op->code != cdb[3])
			continue;
		with_action |= op->action >= 0;
		without |= op->action < 0;
		if (op->action < 0 ? options != 2 : options != 1 && op->action == (int)action)
			found = op;
	}
	/* Asked for in a way that this opcode is not made. */
	if (options > 3 || (options == 1 && with_action) || (options == 2 && without)) {
		scsi_bad_field(cmd);
		return;
	}
	data[1] = found ? 3 : 1; /* as in the standard; not supported */
	bytes = 4;
	if (found) {
		be16_put(data + 2, found->length);
		memcpy(data + 4, found->usage, found->length);
		bytes += found->length;
		if (timeouts) {
			data[1] |= 0x80;
			memcpy(data + bytes, no_timeouts, sizeof(no_timeouts));
			bytes += sizeof(no_timeouts);
		}
	}
	scsi_reply(cmd, data, bytes, be32_get(cdb + 6));
}

/* SPC-4, 6.36: ABORT TASK, ABORT TASK SET, CLEAR TASK SET, LOGICAL UNIT RESET, QUERY TASK;
 * I_T NEXUS RESET, QUERY TASK SET */
void scsi_report_tmf(struct scsi_cmd *cmd)
{
	uint8_t data[16] = {0x80 | 0x40 | 0x10 | 0x08 | 0x04, 0x02 | 0x01};
	bool extended = cmd->cdb[2] & 0x80;

	if (extended)
		data[3] = 12;
	scsi_reply(cmd, data, extended ? 16 : 4, be32_get(cmd->cdb + 6));
}
