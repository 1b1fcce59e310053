// SPDX-License-Identifier: Apache-2.0
/* scsi.c: what a status means, running a command, persistent reservations. */
#include "blockdev/scsi.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"

/* A target that is busy or becoming ready for longer than this is not serving. */
#define RESENDS	     100
#define RESEND_MS    20
#define PR_IN_LENGTH (8 + 8 * BLK_PR_MAX_KEYS)
#define FULL_LENGTH  65528 /* some 200 registrations; beyond it one's own may be missed: harmless */

enum {
	KEY_NOT_READY = 2,
	KEY_MEDIUM_ERROR = 3,
	KEY_ILLEGAL_REQUEST = 5,
	KEY_UNIT_ATTENTION = 6,
	KEY_DATA_PROTECT = 7,
	KEY_ABORTED_COMMAND = 0xb,
	KEY_MISCOMPARE = 0xe,
};

int scsi_errno(uint8_t status, const struct scsi_sense_data *sense)
{
	switch (status) {
	case SCSI_GOOD:
		return 0;
	case SCSI_RESERVATION_CONFLICT:
		return -EBADE;
	case SCSI_CHECK_CONDITION:
		break;
	default:
		return -EIO;
	}
	if (sense->asc == 0x27 && sense->ascq == 0x07) /* space allocation failed */
		return -ENOSPC;
	if (sense->key == KEY_MISCOMPARE)
		return -EILSEQ;
	if (sense->key == KEY_DATA_PROTECT)
		return -EROFS;
	if (sense->key == KEY_ILLEGAL_REQUEST && sense->asc != 0x21)
		return -EOPNOTSUPP;
	return -EIO;
}

enum scsi_resend scsi_resend(uint8_t status, const struct scsi_sense_data *sense)
{
	if (status == SCSI_BUSY || status == SCSI_TASK_SET_FULL)
		return SCSI_RESEND_LATER;
	if (status == SCSI_TASK_ABORTED)
		return SCSI_RESEND_ENDED;
	if (status != SCSI_CHECK_CONDITION)
		return SCSI_FINAL;
	if (sense->key == KEY_UNIT_ATTENTION)
		return SCSI_RESEND;
	if (sense->key == KEY_ABORTED_COMMAND)
		return SCSI_RESEND_ENDED;
	if (sense->key == KEY_NOT_READY && sense->asc == 0x04 && sense->ascq != 0x03)
		return SCSI_RESEND_LATER; /* becoming ready, ALUA transition */
	return SCSI_FINAL;
}

bool scsi_power_loss(uint8_t status, const struct scsi_sense_data *sense)
{
	return status == SCSI_CHECK_CONDITION && sense->key == KEY_UNIT_ATTENTION &&
	       sense->asc == 0x29;
}

void scsi_parse_sense(const uint8_t *sense, unsigned length, struct scsi_sense_data *out)
{
	memset(out, 0, sizeof(*out));
	if (length < 4)
		return;
	if ((sense[0] & 0x7f) >= 0x72) { /* descriptor format */
		out->key = sense[1] & 0xf;
		out->asc = sense[2];
		out->ascq = sense[3];
		return;
	}
	out->key = sense[2] & 0xf;
	if (length >= 14) {
		out->asc = sense[12];
		out->ascq = sense[13];
	}
}

int scsi_run(struct scsi_nexus *nexus, struct scsi_cmd *cmd)
{
	for (int n = 0;; n++) {
		enum scsi_resend again;
		int rc = nexus->exec(nexus, cmd);

		if (rc < 0)
			return rc;
		if (nexus->power_count && scsi_power_loss(cmd->status, &cmd->sense))
			atomic_fetch_add(nexus->power_count, 1);
		again = scsi_resend(cmd->status, &cmd->sense);
		if (again == SCSI_FINAL || n == RESENDS)
			return scsi_errno(cmd->status, &cmd->sense);
		if (again != SCSI_RESEND)
			sleep_ms(RESEND_MS);
	}
}

/* --- persistent reservations, SPC-4 6.15 and 6.16 --------------------------------------------- */

enum {
	PR_OUT_REGISTER = 0,
	PR_OUT_RESERVE = 1,
	PR_OUT_CLEAR = 3,
	PR_OUT_PREEMPT = 4,
	PR_OUT_REGISTER_IGNORE = 6,
};
enum { PR_IN_READ_KEYS = 0, PR_IN_READ_RESERVATION = 1, PR_IN_READ_FULL_STATUS = 3 };

static int pr_out(struct scsi_nexus *nexus, uint8_t action, enum blk_pr_type type, uint64_t key,
		  uint64_t service_key)
{
	uint8_t list[24] = {0};
	struct scsi_cmd cmd = {.cdb = {0x5f, action, (uint8_t)type, 0, 0, 0, 0, 0, sizeof(list)},
			       .cdb_length = 10,
			       .dir = SCSI_OUT,
			       .data = list,
			       .length = sizeof(list)};

	be64_put(list, key);
	be64_put(list + 8, service_key);
	return scsi_run(nexus, &cmd);
}

int scsi_pr_register(struct scsi_nexus *nexus, uint64_t key)
{
	return pr_out(nexus, PR_OUT_REGISTER_IGNORE, 0, 0, key);
}

int scsi_pr_rename(struct scsi_nexus *nexus, uint64_t old, uint64_t key)
{
	return pr_out(nexus, PR_OUT_REGISTER, 0, old, key);
}

int scsi_pr_reserve(struct scsi_nexus *nexus, enum blk_pr_type type, uint64_t key)
{
	return pr_out(nexus, PR_OUT_RESERVE, type, key, 0);
}

int scsi_pr_preempt(struct scsi_nexus *nexus, enum blk_pr_type type, uint64_t key, uint64_t victim)
{
	return pr_out(nexus, PR_OUT_PREEMPT, type, key, victim);
}

int scsi_pr_clear(struct scsi_nexus *nexus, uint64_t key)
{
	return pr_out(nexus, PR_OUT_CLEAR, 0, key, 0);
}

static int pr_in(struct scsi_nexus *nexus, uint8_t action, uint8_t *data, uint16_t length,
		 uint32_t *got)
{
	struct scsi_cmd cmd = {.cdb = {0x5e, action},
			       .cdb_length = 10,
			       .dir = SCSI_IN,
			       .data = data,
			       .length = length};
	int rc;

	be16_put(cmd.cdb + 7, length);
	rc = scsi_run(nexus, &cmd);
	if (rc < 0)
		return rc;
	if (cmd.got < 8)
		return fail(-EIO, "PERSISTENT RESERVE IN: the target's answer is cut off");
	*got = cmd.got;
	return 0;
}

int scsi_pr_read(struct scsi_nexus *nexus, struct blk_pr_state *out)
{
	uint8_t *data = xcalloc(1, PR_IN_LENGTH);
	uint32_t got, n;
	int rc = pr_in(nexus, PR_IN_READ_KEYS, data, PR_IN_LENGTH, &got);

	memset(out, 0, sizeof(*out));
	if (rc == 0) {
		out->generation = be32_get(data);
		n = MIN(be32_get(data + 4), got - 8) / 8;
		for (uint32_t i = 0; i < n && out->keys < BLK_PR_MAX_KEYS; i++)
			out->key[out->keys++] = be64_get(data + 8 + 8 * i);
		rc = pr_in(nexus, PR_IN_READ_RESERVATION, data, 64, &got);
	}
	if (rc == 0 && got >= 24 && be32_get(data + 4) >= 16) {
		out->holder = be64_get(data + 8);
		out->type = (enum blk_pr_type)(data[21] & 0xf);
	}
	free(data);
	return rc;
}

/* An iSCSI TransportID of format 01b (SPC-4 7.6.4.6): the name, ",i,0x" and the ISID in hex. */
static bool is_nexus(const uint8_t *id, uint32_t length, const char *initiator, const uint8_t *isid)
{
	char want[288], have[288];
	uint32_t n;

	if (length < 4 || id[0] != 0x45)
		return false;
	n = MIN(be16_get(id + 2), MIN(length - 4, (uint32_t)sizeof(have) - 1));
	memcpy(have, id + 4, n);
	have[n] = 0;
	(void)str_format(want, sizeof(want), "%s,i,0x%02x%02x%02x%02x%02x%02x", initiator, isid[0],
			 isid[1], isid[2], isid[3], isid[4], isid[5]);
	return strcasecmp(have, want) == 0;
}

bool scsi_parse_full_status(const uint8_t *data, uint32_t length, const char *initiator,
			    const uint8_t *isid, uint64_t key)
{
	uint32_t end;

	if (length < 8)
		return false;
	end = 8 + MIN(be32_get(data + 4), length - 8);
	for (uint32_t at = 8; at + 24 <= end;) {
		uint32_t n = be32_get(data + at + 20);

		if (n > end - at - 24)
			return false;
		if (be64_get(data + at) == key && is_nexus(data + at + 24, n, initiator, isid))
			return true;
		at += 24 + n;
	}
	return false;
}

bool scsi_pr_is_registered(struct scsi_nexus *nexus, const char *initiator, const uint8_t *isid,
			   uint64_t key)
{
	uint8_t *data = xcalloc(1, FULL_LENGTH);
	uint32_t got;
	bool found = pr_in(nexus, PR_IN_READ_FULL_STATUS, data, FULL_LENGTH, &got) == 0 &&
		     scsi_parse_full_status(data, got, initiator, isid, key);

	free(data);
	return found;
}

bool scsi_pr_has(const struct blk_pr_state *state, uint64_t key)
{
	for (unsigned i = 0; i < state->keys; i++)
		if (state->key[i] == key)
			return true;
	return false;
}
