// SPDX-License-Identifier: Apache-2.0
/*
 * scsi_pr.c: persistent reservations (SPC-4, 5.13, 6.15, 6.16), emulated. They belong to the disk:
 * each change is stored (controller.h) before it is answered, and takes effect only then.
 *
 * Stored form, little-endian: "PR01", generation (4), type, holder, flags (1: APTPL), count, then
 * for each registration its index, 7 zeroes, key (8), nexus (16).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "vfs/scsi_lun.h"

enum pr_type { /* SPC-4, table 71 */
	       PR_NONE = 0,
	       PR_WRITE_EXCLUSIVE = 1,
	       PR_EXCLUSIVE_ACCESS = 3,
	       PR_WRITE_EXCLUSIVE_RO = 5, /* registrants only */
	       PR_EXCLUSIVE_ACCESS_RO = 6,
	       PR_WRITE_EXCLUSIVE_AR = 7, /* all registrants */
	       PR_EXCLUSIVE_ACCESS_AR = 8,
};
enum pr_action { REGISTER, RESERVE, RELEASE, CLEAR, PREEMPT, PREEMPT_AND_ABORT, REGISTER_IGNORE };

#define STORED_HEADER 12
#define STORED_REG    32

static bool type_is_known(unsigned type)
{
	return type == 1 || type == 3 || (type >= 5 && type <= 8);
}

static bool all_registrants(const struct scsi_pr *pr)
{
	return pr->type == PR_WRITE_EXCLUSIVE_AR || pr->type == PR_EXCLUSIVE_ACCESS_AR;
}

static int find(const struct scsi_pr *pr, const uint8_t nexus[16])
{
	for (int i = 0; i < PR_REGISTRATIONS; i++)
		if (pr->reg[i].key && memcmp(pr->reg[i].nexus, nexus, 16) == 0)
			return i;
	return -1;
}

static bool holds(const struct scsi_pr *pr, int reg)
{
	return reg >= 0 && pr->type && (all_registrants(pr) || pr->holder == reg);
}

static unsigned registrations(const struct scsi_pr *pr)
{
	unsigned n = 0;

	for (int i = 0; i < PR_REGISTRATIONS; i++)
		n += pr->reg[i].key != 0;
	return n;
}

bool scsi_pr_conflict(const struct scsi_lun *lun, const struct scsi_op *op)
{
	const struct scsi_pr *pr = &lun->pr;
	int me;

	if (!pr->type || !(op->flags & (OP_READS | OP_WRITES)))
		return false;
	me = find(pr, lun->nexus);
	if (holds(pr, me))
		return false;
	switch ((enum pr_type)pr->type) {
	case PR_WRITE_EXCLUSIVE:
		return op->flags & OP_WRITES;
	case PR_WRITE_EXCLUSIVE_RO:
	case PR_WRITE_EXCLUSIVE_AR:
		return me < 0 && op->flags & OP_WRITES;
	case PR_EXCLUSIVE_ACCESS_RO:
	case PR_EXCLUSIVE_ACCESS_AR:
		return me < 0;
	case PR_EXCLUSIVE_ACCESS:
	case PR_NONE:
		break;
	}
	return true;
}

/* --- stored form ------------------------------------------------------------------------------- */

size_t scsi_pr_encode(const struct scsi_pr *pr, uint8_t out[CONTROLLER_PR_BYTES])
{
	le32 generation = le32_of(pr->generation);
	size_t at = STORED_HEADER;

	memcpy(out, "PR01", 4);
	memcpy(out + 4, &generation, 4);
	out[8] = pr->type;
	out[9] = pr->holder;
	out[10] = pr->aptpl;
	out[11] = (uint8_t)registrations(pr);
	for (unsigned i = 0; i < PR_REGISTRATIONS; i++) {
		le64 key = le64_of(pr->reg[i].key);

		if (!pr->reg[i].key)
			continue;
		memset(out + at, 0, 8);
		out[at] = (uint8_t)i;
		memcpy(out + at + 8, &key, 8);
		memcpy(out + at + 16, pr->reg[i].nexus, 16);
		at += STORED_REG;
	}
	return at;
}

int scsi_pr_decode(struct scsi_pr *pr, const void *bytes, size_t size)
{
	const uint8_t *p = bytes;
	le32 generation;

	memset(pr, 0, sizeof(*pr));
	if (size < STORED_HEADER || memcmp(p, "PR01", 4) != 0 ||
	    size != STORED_HEADER + (size_t)p[11] * STORED_REG)
		return fail(-EINVAL, "stored reservations of %zu bytes are not what they should be",
			    size);
	memcpy(&generation, p + 4, 4);
	pr->generation = le32_get(generation);
	pr->type = p[8];
	pr->holder = p[9];
	pr->aptpl = p[10] & 1;
	for (unsigned i = 0; i < p[11]; i++) {
		const uint8_t *r = p + STORED_HEADER + i * STORED_REG;
		le64 key;

		memcpy(&key, r + 8, 8);
		if (r[0] >= PR_REGISTRATIONS || !le64_get(key) || pr->reg[r[0]].key)
			return fail(-EINVAL, "stored reservations: registration %u is bad", i);
		pr->reg[r[0]].key = le64_get(key);
		memcpy(pr->reg[r[0]].nexus, r + 16, 16);
	}
	if (pr->type && (!type_is_known(pr->type) || !registrations(pr) ||
			 (!all_registrants(pr) &&
			  (pr->holder >= PR_REGISTRATIONS || !pr->reg[pr->holder].key))))
		return fail(-EINVAL, "stored reservations: nobody holds the one of type %u",
			    pr->type);
	return 0;
}

bool controller_pr_lasts(const void *bytes, size_t size)
{
	return size >= STORED_HEADER && ((const uint8_t *)bytes)[10] & 1;
}

/* --- PERSISTENT RESERVE IN --------------------------------------------------------------------- */

static size_t read_keys(const struct scsi_pr *pr, uint8_t *p)
{
	size_t at = 8;

	for (unsigned i = 0; i < PR_REGISTRATIONS; i++) {
		if (!pr->reg[i].key)
			continue;
		be64_put(p + at, pr->reg[i].key);
		at += 8;
	}
	return at;
}

static size_t read_reservation(const struct scsi_pr *pr, uint8_t *p)
{
	if (!pr->type)
		return 8;
	be64_put(p + 8, all_registrants(pr) ? 0 : pr->reg[pr->holder].key);
	p[21] = pr->type;
	return 24;
}

/* With a transport id of the SAS kind that is made of the nexus. */
static size_t read_full_status(const struct scsi_pr *pr, uint8_t *p)
{
	size_t at = 8;

	for (int i = 0; i < PR_REGISTRATIONS; i++) {
		if (!pr->reg[i].key)
			continue;
		be64_put(p + at, pr->reg[i].key);
		if (holds(pr, i)) {
			p[at + 12] = 1; /* R_HOLDER */
			p[at + 13] = pr->type;
		}
		be16_put(p + at + 18, 1); /* relative target port */
		be32_put(p + at + 20, 24);
		p[at + 24] = 6; /* SAS */
		memcpy(p + at + 28, pr->reg[i].nexus, 8);
		at += 48;
	}
	return at;
}

void scsi_pr_in(struct scsi_cmd *cmd)
{
	const struct scsi_pr *pr = &cmd->lun->pr;
	uint8_t data[8 + PR_REGISTRATIONS * 48] = {0};
	size_t bytes = 8;

	be32_put(data, pr->generation);
	switch (cmd->cdb[1] & 0x1f) {
	case 0:
		bytes = read_keys(pr, data);
		break;
	case 1:
		bytes = read_reservation(pr, data);
		break;
	case 3:
		bytes = read_full_status(pr, data);
		break;
	default: /* REPORT CAPABILITIES: another header */
		be32_put(data, 0);
		be16_put(data, 8);
		data[2] = cmd->lun->pr_store ? 0x01 : 0; /* PTPL_C */
		data[3] = 0x80 | (pr->aptpl ? 1 : 0);	 /* TMV, PTPL_A */
		data[4] = 0x80 | 0x40 | 0x20 | 0x08 | 0x02;
		data[5] = 0x01;
		scsi_reply(cmd, data, 8, be16_get(cmd->cdb + 7));
		return;
	}
	be32_put(data + 4, (uint32_t)(bytes - 8));
	scsi_reply(cmd, data, bytes, be16_get(cmd->cdb + 7));
}

/* --- PERSISTENT RESERVE OUT -------------------------------------------------------------------- */

enum outcome { OK, CONFLICT, BAD_CDB, BAD_PARAMETERS, BAD_RELEASE, NO_ROOM };

/* Takes a registration away, and with it what it held. */
static void unregister(struct scsi_pr *pr, int reg)
{
	bool held = pr->type && !all_registrants(pr) && pr->holder == reg;

	pr->reg[reg].key = 0;
	if (held || !registrations(pr))
		pr->type = PR_NONE;
}

static enum outcome do_register(struct scsi_pr *pr, const uint8_t nexus[16], int me, bool ignore,
				uint64_t key, uint64_t new_key)
{
	if (!ignore && (me < 0 ? key != 0 : key != pr->reg[me].key))
		return CONFLICT;
	if (me < 0 && !new_key)
		return OK;
	for (int i = 0; me < 0 && i < PR_REGISTRATIONS; i++)
		if (!pr->reg[i].key) {
			memcpy(pr->reg[i].nexus, nexus, 16);
			me = i;
		}
	if (me < 0)
		return NO_ROOM;
	if (new_key)
		pr->reg[me].key = new_key;
	else
		unregister(pr, me);
	pr->generation++;
	return OK;
}

static enum outcome do_reserve(struct scsi_pr *pr, int me, unsigned type)
{
	if (!type_is_known(type))
		return BAD_CDB;
	if (pr->type)
		return holds(pr, me) && pr->type == type ? OK : CONFLICT;
	pr->type = (uint8_t)type;
	pr->holder = (uint8_t)me;
	return OK;
}

static enum outcome do_release(struct scsi_pr *pr, int me, unsigned type)
{
	if (!pr->type || !holds(pr, me))
		return OK;
	if (pr->type != type)
		return BAD_RELEASE;
	pr->type = PR_NONE;
	return OK;
}

/* SPC-4, 5.13.11.2.5 */
static enum outcome do_preempt(struct scsi_pr *pr, int me, unsigned type, uint64_t victim)
{
	bool all = pr->type && all_registrants(pr), take = false;
	unsigned gone = 0;

	if (!type_is_known(type))
		return BAD_CDB;
	if (!victim && !all)
		return BAD_PARAMETERS;
	if (pr->type)
		take = all ? !victim : pr->reg[pr->holder].key == victim;
	for (int i = 0; i < PR_REGISTRATIONS; i++) {
		if (!pr->reg[i].key || (victim && pr->reg[i].key != victim))
			continue;
		gone++;
		if (i != me)
			pr->reg[i].key = 0;
	}
	if (!gone)
		return CONFLICT;
	if (take) {
		pr->type = (uint8_t)type;
		pr->holder = (uint8_t)me;
	}
	pr->generation++;
	return OK;
}

static enum outcome change(struct scsi_pr *pr, const struct scsi_lun *lun, unsigned action,
			   unsigned type, const uint8_t *parameters)
{
	uint64_t key = be64_get(parameters), other = be64_get(parameters + 8);
	bool aptpl = parameters[20] & 1;
	int me = find(pr, lun->nexus);
	enum outcome rc = OK;

	if (parameters[20] & 0x08 || (aptpl && !lun->pr_store)) /* SPEC_I_PT; APTPL */
		return BAD_PARAMETERS;
	if (action == REGISTER || action == REGISTER_IGNORE) {
		rc = do_register(pr, lun->nexus, me, action == REGISTER_IGNORE, key, other);
		if (rc == OK)
			pr->aptpl = aptpl;
		return rc;
	}
	if (me < 0 || pr->reg[me].key != key)
		return CONFLICT;
	switch ((enum pr_action)action) {
	case RESERVE:
		return do_reserve(pr, me, type);
	case RELEASE:
		return do_release(pr, me, type);
	case CLEAR:
		memset(pr->reg, 0, sizeof(pr->reg));
		pr->type = PR_NONE;
		pr->generation++;
		return OK;
	case PREEMPT:
	case PREEMPT_AND_ABORT: /* the others' commands are their own hosts' */
		return do_preempt(pr, me, type, other);
	case REGISTER:
	case REGISTER_IGNORE:
		break;
	}
	return rc;
}

static void stored(void *op, int res)
{
	struct scsi_cmd *cmd = op;

	if (res == 0)
		MUST(scsi_pr_decode(&cmd->lun->pr, cmd->buffer, cmd->count) == 0);
	scsi_result(cmd, res < 0 ? -EREMOTEIO : 0);
}

static void refuse(struct scsi_cmd *cmd, enum outcome why)
{
	switch (why) {
	case OK:
	case CONFLICT:
		cmd->status = SCSI_RESERVATION_CONFLICT;
		cmd->moved = 0;
		scsi_finish(cmd);
		return;
	case BAD_CDB:
		scsi_bad_field(cmd);
		return;
	case BAD_PARAMETERS:
		scsi_check(cmd, KEY_ILLEGAL_REQUEST, ASC_INVALID_FIELD_IN_PARAMETERS);
		return;
	case BAD_RELEASE:
		scsi_check(cmd, KEY_ILLEGAL_REQUEST, ASC_INVALID_RELEASE);
		return;
	case NO_ROOM:
		scsi_check(cmd, KEY_ILLEGAL_REQUEST, ASC_INSUFFICIENT_REGISTRATION_RESOURCES);
	}
}

void scsi_pr_out(struct scsi_cmd *cmd)
{
	struct scsi_lun *lun = cmd->lun;
	unsigned action = cmd->cdb[1] & 0x1f, scope = cmd->cdb[2] >> 4, type = cmd->cdb[2] & 15;
	struct scsi_pr next = lun->pr;
	uint8_t parameters[24];
	enum outcome rc;

	if (be32_get(cmd->cdb + 5) != sizeof(parameters)) {
		scsi_check(cmd, KEY_ILLEGAL_REQUEST, ASC_PARAMETER_LIST_LENGTH);
		return;
	}
	if (!scsi_parameters(cmd, parameters, sizeof(parameters)))
		return;
	if (scope && action != REGISTER && action != REGISTER_IGNORE && action != CLEAR) {
		scsi_bad_field(cmd);
		return;
	}
	rc = change(&next, lun, action, type, parameters);
	if (rc != OK) {
		refuse(cmd, rc);
		return;
	}
	cmd->buffer = xmalloc(CONTROLLER_PR_BYTES);
	cmd->count = (unsigned)scsi_pr_encode(&next, cmd->buffer);
	if (lun->pr_store)
		lun->pr_store(lun->disk, cmd->buffer, cmd->count, stored, cmd);
	else
		stored(cmd, 0);
}
