// SPDX-License-Identifier: Apache-2.0
/*
 * scsi.h: a SCSI target with LUNs that are disks: direct-access block devices, thin, solid-state
 * (SAM-5, SPC-4, SBC-3). Knows nothing of virtio: a transport fills a scsi_cmd and gets a status.
 * All in one loop.
 *
 * Commands of a LUN run side by side; ORDERED ones, COMPARE AND WRITE and PERSISTENT RESERVE OUT
 * run alone. One initiator: unit attentions wait for it, each once. Reservations know it by its
 * nexus id, so that the ones of other nexuses, stored with the disk, are honoured.
 */
#ifndef VFS_SCSI_H
#define VFS_SCSI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/util.h"
#include "vfs/controller.h"
#include "vfs/disk.h"
#include "vfs/guest_io.h"

#define SCSI_CDB       32
#define SCSI_SENSE     18 /* fixed format, of ours */
#define SCSI_SENSE_MAX 96 /* of a LUN that is passed through */

enum scsi_status { /* SAM-5, 5.3.1 */
		   SCSI_GOOD = 0x00,
		   SCSI_CHECK_CONDITION = 0x02,
		   SCSI_RESERVATION_CONFLICT = 0x18,
};

/* Additional sense code and qualifier in one (SPC-4, annex F.2): 0x2900 is 29h/00h. */
enum scsi_asc {
	ASC_NONE = 0x0000,
	ASC_WRITE_ERROR = 0x0c00,
	ASC_READ_ERROR = 0x1100,
	ASC_PARAMETER_LIST_LENGTH = 0x1a00,
	ASC_MISCOMPARE = 0x1d00,
	ASC_INVALID_OPCODE = 0x2000,
	ASC_LBA_OUT_OF_RANGE = 0x2100,
	ASC_INVALID_FIELD_IN_CDB = 0x2400,
	ASC_LUN_NOT_SUPPORTED = 0x2500,
	ASC_INVALID_FIELD_IN_PARAMETERS = 0x2600,
	ASC_INVALID_RELEASE = 0x2604,
	ASC_WRITE_PROTECTED = 0x2700,
	ASC_POWER_ON = 0x2900,
	ASC_NEXUS_LOSS = 0x2907,
	ASC_CAPACITY_CHANGED = 0x2a09,
	ASC_SAVING_NOT_SUPPORTED = 0x3900,
	ASC_LUNS_CHANGED = 0x3f0e,
	ASC_TARGET_FAILURE = 0x4400,
	ASC_INSUFFICIENT_REGISTRATION_RESOURCES = 0x5504,
};
enum scsi_key {
	KEY_NO_SENSE = 0,
	KEY_MEDIUM_ERROR = 3,
	KEY_HARDWARE_ERROR = 4,
	KEY_ILLEGAL_REQUEST = 5,
	KEY_UNIT_ATTENTION = 6,
	KEY_DATA_PROTECT = 7,
	KEY_MISCOMPARE = 14,
};

enum scsi_attribute { SCSI_SIMPLE, SCSI_ORDERED, SCSI_HEAD_OF_QUEUE };

struct scsi_target;
struct scsi_lun;
struct scsi_op;

struct scsi_cmd {
	/* The transport's, until done: */
	uint8_t cdb[SCSI_CDB];
	const struct iovec *out, *in; /* data from, and to, the initiator */
	unsigned out_count, in_count;
	uint64_t out_bytes, in_bytes;
	enum scsi_attribute attribute;
	uint64_t tag;
	void (*done)(struct scsi_cmd *cmd);
	/* The answer: */
	enum scsi_status status;
	uint8_t sense[SCSI_SENSE_MAX];
	unsigned sense_bytes; /* 0 without */
	uint64_t moved;	      /* bytes of data transferred, either way */
	bool overrun;	      /* the buffers are smaller than what the CDB asks for */
	/* Private: */
	struct scsi_lun *lun;
	const struct scsi_op *op;
	struct list link;
	uint64_t seq;
	bool running;
	struct guest_io io;
	struct vfs_scsi pass;
	struct iovec limits;
	struct iovec *slice;
	uint8_t *buffer; /* freed with the command */
	uint64_t lba, blocks;
	unsigned at, count;
};

struct scsi_target *scsi_target_new(const char *name, bool read_only);
void scsi_target_free(struct scsi_target *target);
int scsi_attach(struct scsi_target *target, struct vfs_disk *disk,
		const struct controller_lun *options);
/*
 * The LUN is gone for new commands, and for those that wait (25/00). Those at the disk end with it:
 * close it, that answers what is parked. -ENOENT.
 */
int scsi_detach(struct scsi_target *target, unsigned lun, struct vfs_disk **disk);
struct vfs_disk *scsi_disk(const struct scsi_target *target, unsigned lun); /* or NULL */
/*
 * What a guest does with a LUN: commands that were taken for its medium, SYNCHRONIZE CACHE among them, how many
 * of these flushed, and the commands that have not ended. False: there is no such LUN.
 */
struct scsi_use {
	uint64_t medium, flushes;
	unsigned in_flight;
};
bool scsi_get_use(const struct scsi_target *target, unsigned lun, struct scsi_use *out);
/* The LUN of a disk, or -ENOENT. */
int scsi_find(const struct scsi_target *target, const struct vfs_disk *disk);

/* Answered with cmd->done, once, maybe before this returns. */
void scsi_execute(struct scsi_target *target, unsigned lun, struct scsi_cmd *cmd);
/* A command that a former daemon took may be executed again without harm. */
bool scsi_repeatable(const uint8_t *cdb);
/* Fills in an answer of CHECK CONDITION; does not call done. */
void scsi_sense(struct scsi_cmd *cmd, enum scsi_key key, enum scsi_asc asc);

/* Commands taken until now: a number for scsi_busy. */
uint64_t scsi_sequence(const struct scsi_target *target);
/* Commands of `lun` (-1: all) taken up to `seq` that have not ended; `tag`: that one only. */
bool scsi_busy(const struct scsi_target *target, int lun, uint64_t seq, const uint64_t *tag);
/* A unit attention for the LUN, or with -1 for all. */
void scsi_attention(struct scsi_target *target, int lun, enum scsi_asc asc);
/* The write cache's setting, 1 at first (it is the guest's to change): for keeping it. */
bool scsi_write_cache(const struct scsi_target *target, unsigned lun);
void scsi_set_write_cache(struct scsi_target *target, unsigned lun, bool on);
/* controller_save and controller_load (scsi_state.c). */
int scsi_save(const struct scsi_target *target, void *state, size_t size);
/* `target` NULL: is only checked. */
int scsi_load(struct scsi_target *target, const void *state, size_t size);

#endif
