// SPDX-License-Identifier: Apache-2.0
/* scsi_lun.h: what the scsi_*.c files share: LUNs, the table of commands, ways to answer. */
#ifndef VFS_SCSI_LUN_H
#define VFS_SCSI_LUN_H

#include "vfs/scsi.h"

#define SCSI_ATTENTIONS 8

#define PR_REGISTRATIONS 16
struct scsi_registration {
	uint64_t key; /* 0: free */
	uint8_t nexus[16];
};
/* Persistent reservations (SPC-4, 5.13). */
struct scsi_pr {
	uint32_t generation;
	uint8_t type;	/* of the reservation; 0: none */
	uint8_t holder; /* index of its registration; of no meaning with ALL REGISTRANTS */
	bool aptpl;
	struct scsi_registration reg[PR_REGISTRATIONS];
};

struct scsi_lun {
	struct scsi_target *target;
	unsigned number;
	struct vfs_disk *disk;
	uint32_t block; /* bytes, logical */
	bool gone;
	bool write_cache;
	uint16_t attention[SCSI_ATTENTIONS];
	unsigned attentions;
	uint64_t medium, flushes;
	struct list commands; /* all that have not ended, in the order they came */
	unsigned running;
	bool alone;	   /* the one that runs does so alone */
	unsigned starting; /* commands are being started: who ends in there leaves the rest to it */
	struct list link;  /* of target->leaving */
	struct scsi_pr pr;
	uint8_t nexus[16];
	void (*pr_store)(struct vfs_disk *disk, const void *pr, size_t pr_bytes,
			 void (*stored)(void *op, int res), void *op);
};

struct scsi_target {
	const char *name;
	bool read_only;
	uint64_t seq;
	struct scsi_lun *lun[CONTROLLER_LUNS];
	struct list leaving; /* detached, with commands that have not ended */
};

enum {
	OP_READS = 1,  /* the medium: refused by another's EXCLUSIVE ACCESS reservation */
	OP_WRITES = 2, /* the medium: also by WRITE EXCLUSIVE, and by a read-only disk */
	OP_ALONE = 4,
	OP_ANY_STATE = 8, /* without regard to unit attentions */
	OP_REPEATABLE = 16,
	OP_FREE = 32, /* no LUN is needed */
	OP_FLUSHES = 64,
};
struct scsi_op {
	uint8_t code;
	int8_t action; /* service action, -1: none */
	uint8_t length;
	uint8_t flags;
	void (*run)(struct scsi_cmd *cmd);
	uint8_t usage[16]; /* bits of the CDB that are looked at (SPC-4, 6.35.3) */
};
const struct scsi_op *scsi_op_find(const uint8_t *cdb);
const struct scsi_op *scsi_op_table(unsigned *count);

/* Answers; each ends the command. */
void scsi_finish(struct scsi_cmd *cmd);
void scsi_good(struct scsi_cmd *cmd);
void scsi_check(struct scsi_cmd *cmd, enum scsi_key key, enum scsi_asc asc);
void scsi_bad_field(struct scsi_cmd *cmd); /* ILLEGAL REQUEST, INVALID FIELD IN CDB */
/* GOOD with data, cut to `allocation` and to what the initiator has room for. */
void scsi_reply(struct scsi_cmd *cmd, const void *data, size_t bytes, size_t allocation);
/* By the answer of a disk. */
void scsi_result(struct scsi_cmd *cmd, int res);
/* Copies `bytes` of parameters; false (answered: PARAMETER LIST LENGTH ERROR) when fewer came. */
bool scsi_parameters(struct scsi_cmd *cmd, void *dst, size_t bytes);

/* scsi_inquiry.c */
void scsi_inquiry(struct scsi_cmd *cmd);
void scsi_report_luns(struct scsi_cmd *cmd, const struct scsi_target *target);
void scsi_read_capacity_10(struct scsi_cmd *cmd);
void scsi_read_capacity_16(struct scsi_cmd *cmd);
void scsi_report_opcodes(struct scsi_cmd *cmd);
void scsi_report_tmf(struct scsi_cmd *cmd);
/* scsi_pass.c: to the LUN, if it is passed through and this command is. */
void scsi_pass(struct scsi_cmd *cmd);
bool scsi_passes(const struct scsi_cmd *cmd);
/* scsi_mode.c */
void scsi_mode_sense(struct scsi_cmd *cmd);
void scsi_mode_select(struct scsi_cmd *cmd);
/* scsi_rw.c */
void scsi_read(struct scsi_cmd *cmd);
void scsi_write(struct scsi_cmd *cmd);
void scsi_verify(struct scsi_cmd *cmd);
void scsi_synchronize(struct scsi_cmd *cmd);
void scsi_unmap(struct scsi_cmd *cmd);
void scsi_write_same(struct scsi_cmd *cmd);
void scsi_compare_and_write(struct scsi_cmd *cmd);
/* LBA and number of blocks of a CDB of 6, 10, 12 or 16 bytes. */
void scsi_cdb_range(const uint8_t *cdb, uint64_t *lba, uint64_t *blocks);
#define SCSI_MAX_CAW	 32u	    /* blocks */
#define SCSI_MAX_UNMAP	 256u	    /* descriptors */
#define SCSI_PATTERN_MAX (1u << 20) /* bytes of a repeated WRITE SAME pattern at once */
/* scsi_pr.c */
void scsi_pr_in(struct scsi_cmd *cmd);
void scsi_pr_out(struct scsi_cmd *cmd);
bool scsi_pr_conflict(const struct scsi_lun *lun, const struct scsi_op *op);
size_t scsi_pr_encode(const struct scsi_pr *pr, uint8_t out[CONTROLLER_PR_BYTES]);
int scsi_pr_decode(struct scsi_pr *pr, const void *bytes, size_t size);

#endif
