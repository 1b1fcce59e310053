// SPDX-License-Identifier: Apache-2.0
/*
 * scsi.c: the target: which LUN, whose turn, and the ways to answer. What commands do is in the
 * other scsi_*.c files; which there are, in scsi_ops.c.
 */
#include "vfs/scsi.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/vring.h"
#include "vfs/scsi_lun.h"

struct scsi_target *scsi_target_new(const char *name, bool read_only)
{
	struct scsi_target *t = xcalloc(1, sizeof(*t));

	t->name = name;
	t->read_only = read_only;
	list_init(&t->leaving);
	return t;
}

void scsi_target_free(struct scsi_target *t)
{
	for (unsigned i = 0; i < CONTROLLER_LUNS; i++)
		MUST(!t->lun[i]);
	MUST(list_empty(&t->leaving));
	free(t);
}

int scsi_attach(struct scsi_target *t, struct vfs_disk *disk, const struct controller_lun *o)
{
	struct scsi_lun *lun;
	int rc;

	if (o->lun >= CONTROLLER_LUNS)
		return fail(-EINVAL, "controller %s: LUN %u; the last is %u", t->name, o->lun,
			    CONTROLLER_LUNS - 1);
	if (t->lun[o->lun])
		return fail(-EBUSY, "controller %s: LUN %u is taken by %s", t->name, o->lun,
			    t->lun[o->lun]->disk->info.name);
	lun = xcalloc(1, sizeof(*lun));
	if (o->pr_bytes) {
		rc = scsi_pr_decode(&lun->pr, o->pr, o->pr_bytes);
		if (rc < 0) {
			free(lun);
			return fail_prefix(rc, "disk %s", disk->info.name);
		}
	}
	lun->target = t;
	lun->number = o->lun;
	lun->disk = disk;
	lun->block = disk->info.block_size;
	lun->write_cache = true;
	lun->pr_store = o->pr_store;
	memcpy(lun->nexus, o->nexus, sizeof(lun->nexus));
	list_init(&lun->commands);
	t->lun[o->lun] = lun;
	scsi_attention(t, -1, ASC_LUNS_CHANGED);
	lun->attentions = 0;
	if (!disk->ops->scsi) /* a LUN that is passed through says so itself */
		lun->attention[lun->attentions++] = ASC_POWER_ON;
	return 0;
}

/* The last command of a LUN that was detached has ended. */
static void left(struct scsi_lun *lun)
{
	list_del(&lun->link);
	free(lun);
}

int scsi_detach(struct scsi_target *t, unsigned number, struct vfs_disk **disk)
{
	struct scsi_lun *lun = number < CONTROLLER_LUNS ? t->lun[number] : NULL;

	if (!lun)
		return fail(-ENOENT, "controller %s: no disk at LUN %u", t->name, number);
	*disk = lun->disk;
	t->lun[number] = NULL;
	list_add_tail(&t->leaving, &lun->link);
	lun->gone = true;
	scsi_attention(t, -1, ASC_LUNS_CHANGED);
	if (list_empty(&lun->commands) && !lun->starting)
		left(lun);
	return 0;
}

struct vfs_disk *scsi_disk(const struct scsi_target *t, unsigned lun)
{
	return lun < CONTROLLER_LUNS && t->lun[lun] ? t->lun[lun]->disk : NULL;
}

bool scsi_get_use(const struct scsi_target *t, unsigned number, struct scsi_use *out)
{
	const struct scsi_lun *lun = number < CONTROLLER_LUNS ? t->lun[number] : NULL;

	*out = (struct scsi_use){0};
	if (!lun)
		return false;
	out->medium = lun->medium;
	out->flushes = lun->flushes;
	for (const struct list *at = lun->commands.next; at != &lun->commands; at = at->next)
		out->in_flight++;
	return true;
}

int scsi_find(const struct scsi_target *t, const struct vfs_disk *disk)
{
	for (int i = 0; i < (int)CONTROLLER_LUNS; i++)
		if (t->lun[i] && t->lun[i]->disk == disk)
			return i;
	return -ENOENT;
}

bool scsi_write_cache(const struct scsi_target *t, unsigned lun)
{
	return lun < CONTROLLER_LUNS && t->lun[lun] && t->lun[lun]->write_cache;
}

void scsi_set_write_cache(struct scsi_target *t, unsigned lun, bool on)
{
	if (lun < CONTROLLER_LUNS && t->lun[lun])
		t->lun[lun]->write_cache = on;
}

/* --- unit attentions --------------------------------------------------------------------------- */

static void attention(struct scsi_lun *lun, enum scsi_asc asc)
{
	if (asc == ASC_POWER_ON)
		lun->attentions = 0; /* says all the others did */
	for (unsigned i = 0; i < lun->attentions; i++)
		if (lun->attention[i] == asc || lun->attention[i] == ASC_POWER_ON)
			return;
	if (lun->attentions < SCSI_ATTENTIONS)
		lun->attention[lun->attentions++] = (uint16_t)asc;
}

void scsi_attention(struct scsi_target *t, int number, enum scsi_asc asc)
{
	for (int i = 0; i < (int)CONTROLLER_LUNS; i++)
		if (t->lun[i] && (number < 0 || number == i))
			attention(t->lun[i], asc);
}

static enum scsi_asc next_attention(struct scsi_lun *lun)
{
	enum scsi_asc asc = lun->attention[0];

	lun->attentions--;
	memmove(lun->attention, lun->attention + 1, lun->attentions * sizeof(lun->attention[0]));
	return asc;
}

/* --- answers ----------------------------------------------------------------------------------- */

void scsi_sense(struct scsi_cmd *cmd, enum scsi_key key, enum scsi_asc asc)
{
	cmd->status = SCSI_CHECK_CONDITION;
	cmd->moved = 0;
	memset(cmd->sense, 0, sizeof(cmd->sense));
	cmd->sense[0] = 0x70; /* current, fixed (SPC-4, 4.5.3) */
	cmd->sense[2] = (uint8_t)key;
	cmd->sense[7] = SCSI_SENSE - 8;
	be16_put(cmd->sense + 12, (uint16_t)asc);
	cmd->sense_bytes = SCSI_SENSE;
}

void scsi_good(struct scsi_cmd *cmd)
{
	cmd->status = SCSI_GOOD;
	scsi_finish(cmd);
}

void scsi_check(struct scsi_cmd *cmd, enum scsi_key key, enum scsi_asc asc)
{
	scsi_sense(cmd, key, asc);
	scsi_finish(cmd);
}

void scsi_bad_field(struct scsi_cmd *cmd)
{
	scsi_check(cmd, KEY_ILLEGAL_REQUEST, ASC_INVALID_FIELD_IN_CDB);
}

void scsi_reply(struct scsi_cmd *cmd, const void *data, size_t bytes, size_t allocation)
{
	cmd->moved = iov_write(cmd->in, cmd->in_count, 0, data, MIN(bytes, allocation));
	scsi_good(cmd);
}

void scsi_result(struct scsi_cmd *cmd, int res)
{
	bool write = cmd->op->flags & OP_WRITES;

	switch (-res) {
	case 0:
		scsi_good(cmd);
		break;
	case EINVAL:
		scsi_check(cmd, KEY_ILLEGAL_REQUEST, ASC_LBA_OUT_OF_RANGE);
		break;
	case EROFS:
		scsi_check(cmd, KEY_DATA_PROTECT, ASC_WRITE_PROTECTED);
		break;
	case EBADE: /* a LUN that is passed through */
		cmd->status = SCSI_RESERVATION_CONFLICT;
		scsi_finish(cmd);
		break;
	case EIO:
		scsi_check(cmd, KEY_MEDIUM_ERROR, write ? ASC_WRITE_ERROR : ASC_READ_ERROR);
		break;
	default:
		scsi_check(cmd, KEY_HARDWARE_ERROR, ASC_TARGET_FAILURE);
	}
}

bool scsi_parameters(struct scsi_cmd *cmd, void *dst, size_t bytes)
{
	if (iov_read(cmd->out, cmd->out_count, 0, dst, bytes) == bytes) {
		cmd->moved = bytes;
		return true;
	}
	scsi_check(cmd, KEY_ILLEGAL_REQUEST, ASC_PARAMETER_LIST_LENGTH);
	return false;
}

/* --- whose turn -------------------------------------------------------------------------------- */

static void request_sense(struct scsi_cmd *cmd, struct scsi_lun *lun)
{
	size_t allocation = cmd->cdb[4];

	if (cmd->cdb[1] & 1) { /* DESC: descriptor format is not offered */
		scsi_bad_field(cmd);
		return;
	}
	if (!lun)
		scsi_sense(cmd, KEY_ILLEGAL_REQUEST, ASC_LUN_NOT_SUPPORTED);
	else if (lun->attentions)
		scsi_sense(cmd, KEY_UNIT_ATTENTION, next_attention(lun));
	else
		scsi_sense(cmd, KEY_NO_SENSE, ASC_NONE);
	cmd->sense_bytes = 0;
	scsi_reply(cmd, cmd->sense, SCSI_SENSE, allocation);
}

/* A LUN that is not there answers three commands, and 25/00 to the rest (SPC-4, 5.9). */
static void absent(struct scsi_target *t, struct scsi_cmd *cmd)
{
	switch (cmd->cdb[0]) {
	case 0x12:
		scsi_inquiry(cmd);
		break;
	case 0xa0:
		scsi_report_luns(cmd, t);
		break;
	case 0x03:
		request_sense(cmd, NULL);
		break;
	default:
		scsi_check(cmd, KEY_ILLEGAL_REQUEST, ASC_LUN_NOT_SUPPORTED);
	}
}

/* The LUN's own checks, in the order of SAM-5, 5.14 and SPC-4, 5.13.5. */
static void run(struct scsi_cmd *cmd)
{
	struct scsi_lun *lun = cmd->lun;
	const struct scsi_op *op = cmd->op;

	if (lun->gone) {
		scsi_check(cmd, KEY_ILLEGAL_REQUEST, ASC_LUN_NOT_SUPPORTED);
		return;
	}
	if (cmd->cdb[0] == 0xa0) {
		scsi_report_luns(cmd, lun->target);
		return;
	}
	if (cmd->cdb[0] == 0x03 && (lun->attentions || !scsi_passes(cmd))) {
		request_sense(cmd, lun);
		return;
	}
	if (lun->attentions && !(op && op->flags & OP_ANY_STATE)) {
		scsi_check(cmd, KEY_UNIT_ATTENTION, next_attention(lun));
		return;
	}
	if (scsi_passes(cmd)) {
		scsi_pass(cmd);
		return;
	}
	if (!op) {
		scsi_check(cmd, KEY_ILLEGAL_REQUEST, ASC_INVALID_OPCODE);
		return;
	}
	if (cmd->cdb[op->length - 1] & 4) { /* NACA: there is no auto contingent allegiance */
		scsi_bad_field(cmd);
		return;
	}
	if (!lun->disk->ops->scsi && scsi_pr_conflict(lun, op)) {
		cmd->status = SCSI_RESERVATION_CONFLICT;
		scsi_finish(cmd);
		return;
	}
	if (op->flags & OP_WRITES && (lun->target->read_only || lun->disk->info.read_only)) {
		scsi_check(cmd, KEY_DATA_PROTECT, ASC_WRITE_PROTECTED);
		return;
	}
	op->run(cmd);
}

static bool alone(const struct scsi_cmd *cmd)
{
	return cmd->attribute == SCSI_ORDERED || (cmd->op && cmd->op->flags & OP_ALONE);
}

static void start(struct scsi_cmd *cmd)
{
	cmd->running = true;
	cmd->lun->running++;
	cmd->lun->alone = alone(cmd);
	run(cmd);
}

static struct scsi_cmd *last(const struct scsi_lun *lun)
{
	return list_empty(&lun->commands) ? NULL
					  : list_entry(lun->commands.prev, struct scsi_cmd, link);
}

/*
 * Starts what may start: the list is in order; one that is to run alone waits for all before it,
 * and all behind it wait for it. Commands that end in here do not start others themselves. The
 * LUN may be gone afterwards.
 */
static void start_some(struct scsi_lun *lun)
{
	struct list *at = lun->commands.next;

	lun->starting++;
	while (at != &lun->commands && !lun->alone) {
		struct scsi_cmd *cmd = list_entry(at, struct scsi_cmd, link);

		at = at->next;
		if (cmd->running)
			continue;
		if (alone(cmd) && lun->running)
			break;
		start(cmd);
		at = lun->commands.next; /* it may have ended, and others with it */
	}
	if (!--lun->starting && lun->gone && list_empty(&lun->commands))
		left(lun);
}

void scsi_finish(struct scsi_cmd *cmd)
{
	struct scsi_lun *lun = cmd->lun;

	free(cmd->slice);
	free(cmd->buffer);
	cmd->slice = NULL;
	cmd->buffer = NULL;
	if (lun) {
		list_del(&cmd->link);
		lun->running--;
		lun->alone = false;
		if (cmd->op && cmd->op->flags & OP_FLUSHES && cmd->status == SCSI_GOOD)
			lun->flushes++;
	}
	/* The caller may take it for a new one at once. */
	cmd->done(cmd);
	if (!lun || lun->starting)
		return;
	if (last(lun) ? !last(lun)->running : lun->gone)
		start_some(lun);
}

void scsi_execute(struct scsi_target *t, unsigned number, struct scsi_cmd *cmd)
{
	struct scsi_lun *lun = number < CONTROLLER_LUNS ? t->lun[number] : NULL;
	bool idle; /* nothing waits */

	cmd->status = SCSI_GOOD;
	cmd->sense_bytes = 0;
	cmd->moved = 0;
	cmd->overrun = false;
	cmd->slice = NULL;
	cmd->buffer = NULL;
	cmd->running = false;
	cmd->lun = lun;
	cmd->seq = ++t->seq;
	cmd->op = scsi_op_find(cmd->cdb);
	if (!lun) {
		absent(t, cmd);
		return;
	}
	if (cmd->op && cmd->op->flags & (OP_READS | OP_WRITES | OP_FLUSHES))
		lun->medium++;
	idle = !last(lun) || last(lun)->running;
	list_add_tail(&lun->commands, &cmd->link);
	if (!idle || lun->alone || lun->starting || alone(cmd)) {
		if (!lun->starting)
			start_some(lun);
		return;
	}
	/* The usual case without walking the list: nothing waits. */
	lun->starting++;
	start(cmd);
	lun->starting--;
	if (lun->gone || (last(lun) && !last(lun)->running))
		start_some(lun);
}

bool scsi_repeatable(const uint8_t *cdb)
{
	const struct scsi_op *op = scsi_op_find(cdb);

	return op && op->flags & OP_REPEATABLE;
}

uint64_t scsi_sequence(const struct scsi_target *t)
{
	return t->seq;
}

static bool lun_busy(const struct scsi_lun *lun, uint64_t seq, const uint64_t *tag)
{
	for (const struct list *at = lun->commands.next; at != &lun->commands; at = at->next) {
		const struct scsi_cmd *cmd = list_entry(at, struct scsi_cmd, link);

		if (cmd->seq <= seq && (!tag || cmd->tag == *tag))
			return true;
	}
	return false;
}

bool scsi_busy(const struct scsi_target *t, int number, uint64_t seq, const uint64_t *tag)
{
	const struct scsi_lun *lun;

	for (int i = 0; i < (int)CONTROLLER_LUNS; i++)
		if (t->lun[i] && (number < 0 || number == i) && lun_busy(t->lun[i], seq, tag))
			return true;
	list_for_each (lun, &t->leaving, link)
		if ((number < 0 || number == (int)lun->number) && lun_busy(lun, seq, tag))
			return true;
	return false;
}
