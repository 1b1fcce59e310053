// SPDX-License-Identifier: Apache-2.0
/* record_format.h: a log's records on disk, little-endian; private to blockdev. */
#ifndef BLOCKDEV_RECORD_FORMAT_H
#define BLOCKDEV_RECORD_FORMAT_H

#include "base/util.h"

#define RECORD_MAGIC  0x31474f4c4b4c4250ULL /* "PBLKLOG1" */
#define RECORD_SUBMIT 1
#define RECORD_ANSWER 2

struct record_head {	      /* once, at the file's beginning */
	le64 magic;	      /*  0 */
	le64 size;	      /*  8 bytes of the LUN */
	le32 block_size;      /* 16 bytes */
	uint8_t reserved[44]; /* 20 */
};
_Static_assert(sizeof(struct record_head) == 64, "record_head");

struct record_entry {	  /* data follows: WRITE its bytes, CAS compare and then write */
	le64 writer;	  /*  0 random: one blk of one process */
	le64 number;	  /*  8 of the request, by its writer */
	le64 offset;	  /* 16 bytes */
	le64 length;	  /* 24 bytes */
	le32 kind;	  /* 32 RECORD_ */
	le32 op;	  /* 36 enum blk_op */
	le32 flags;	  /* 40 BLK_ */
	le32 res;	  /* 44 negative errno */
	le32 maybe_done;  /* 48 */
	le32 data_length; /* 52 bytes that follow */
	le64 checksum;	  /* 56 XXH3 of this entry, with 0 here */
};
_Static_assert(sizeof(struct record_entry) == 64, "record_entry");
_Static_assert(offsetof(struct record_entry, checksum) == 56, "record_entry");

#endif
