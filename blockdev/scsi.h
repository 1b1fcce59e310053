// SPDX-License-Identifier: Apache-2.0
/*
 * scsi.h: the SCSI that iscsi and kernel LUNs share: what a status means, identity and limits from
 * INQUIRY pages, persistent reservations, probing. Over any nexus that runs a command; blocking.
 * Private to blockdev. Sources: SPC-4 and SBC-3; what real targets do of it: docs/blockdev.md.
 */
#ifndef BLOCKDEV_SCSI_H
#define BLOCKDEV_SCSI_H

#include <stdbool.h>
#include <stdint.h>

#include "blockdev/blk.h"

enum scsi_dir { SCSI_NO_DATA, SCSI_IN, SCSI_OUT };

/* Status bytes, SAM-5 5.3.1. */
#define SCSI_GOOD		  0x00
#define SCSI_CHECK_CONDITION	  0x02
#define SCSI_BUSY		  0x08
#define SCSI_RESERVATION_CONFLICT 0x18
#define SCSI_TASK_SET_FULL	  0x28
#define SCSI_TASK_ABORTED	  0x40

struct scsi_sense_data {
	uint8_t key;
	uint8_t asc, ascq;
};

struct scsi_cmd {
	uint8_t cdb[16];
	unsigned cdb_length;
	enum scsi_dir dir;
	void *data;
	uint32_t length;
	/* results */
	uint32_t got; /* SCSI_IN: bytes that came */
	uint8_t status;
	struct scsi_sense_data sense;
};

struct scsi_nexus {
	/* 0 when the target answered (cmd->status), else -ENOTCONN, -ETIMEDOUT, ... */
	int (*exec)(struct scsi_nexus *nexus, struct scsi_cmd *cmd);
	/* Attentions that tell of a power-on are counted here; NULL: of a session that is new. */
	_Atomic uint64_t *power_count;
};

/* What a status means: 0, -EILSEQ, -EBADE, -ENOSPC, -EOPNOTSUPP, -EIO, ... (blk.h) */
int scsi_errno(uint8_t status, const struct scsi_sense_data *sense);
enum scsi_resend {
	SCSI_FINAL,
	SCSI_RESEND,	   /* was not begun: send it again at once */
	SCSI_RESEND_LATER, /* was not begun: busy, becoming ready */
	SCSI_RESEND_ENDED, /* ended, perhaps executed: again is safe, but not for compare-and-write */
};
enum scsi_resend scsi_resend(uint8_t status, const struct scsi_sense_data *sense);
/* Power on, reset or nexus loss (29h): the volatile cache may be gone. */
bool scsi_power_loss(uint8_t status, const struct scsi_sense_data *sense);
void scsi_parse_sense(const uint8_t *sense, unsigned length, struct scsi_sense_data *out);

/* Runs `cmd`, again where that is safe, for a bounded time; 0 or as scsi_errno. */
int scsi_run(struct scsi_nexus *nexus, struct scsi_cmd *cmd);

/* --- identity and limits ---------------------------------------------------------------------- */

/* The best designator of VPD page 83h, "naa....", "eui....", "t10....". -ENODATA when there is none. */
int scsi_parse_identity(const uint8_t *page, uint32_t length, char *id, size_t size);
int scsi_parse_serial(const uint8_t *page, uint32_t length, char *id, size_t size);

struct scsi_limits {
	uint64_t max_transfer;	  /* bytes; 0: not told */
	uint64_t max_unmap;	  /* bytes of one descriptor; 0: no limit told */
	uint64_t max_write_same;  /* bytes; 0: no limit told */
	bool cas_fua;		  /* COMPARE AND WRITE takes FUA */
	bool fua;		  /* DPOFUA: WRITE takes FUA */
	bool unmap_by_write_same; /* there is no UNMAP */
};
/* Size and blocks again. */
int scsi_read_capacity(struct scsi_nexus *nexus, struct blk_info *info);
/* Fills in all of `info` but kind and name; harmless to whatever is on the LUN. */
int scsi_probe(struct scsi_nexus *nexus, const struct blk_options *options, struct blk_info *info,
	       struct scsi_limits *limits);

/* --- persistent reservations ------------------------------------------------------------------ */

/* REGISTER AND IGNORE EXISTING KEY; key 0 unregisters. */
int scsi_pr_register(struct scsi_nexus *nexus, uint64_t key);
/* REGISTER: -EBADE unless `old` is this nexus' key. */
int scsi_pr_rename(struct scsi_nexus *nexus, uint64_t old, uint64_t key);
int scsi_pr_reserve(struct scsi_nexus *nexus, enum blk_pr_type type, uint64_t key);
/* -EBADE: the victim's key is not there (or one's own is not). */
int scsi_pr_preempt(struct scsi_nexus *nexus, enum blk_pr_type type, uint64_t key, uint64_t victim);
int scsi_pr_clear(struct scsi_nexus *nexus, uint64_t key);
int scsi_pr_read(struct scsi_nexus *nexus, struct blk_pr_state *out);
/*
 * READ FULL STATUS: whether the nexus of `initiator` and `isid` (6 bytes) is registered with `key`.
 * false where the target does not tell.
 */
bool scsi_pr_is_registered(struct scsi_nexus *nexus, const char *initiator, const uint8_t *isid,
			   uint64_t key);
/* Its parser: `data` as the target sent it. */
bool scsi_parse_full_status(const uint8_t *data, uint32_t length, const char *initiator,
			    const uint8_t *isid, uint64_t key);
bool scsi_pr_has(const struct blk_pr_state *state, uint64_t key);

#endif
