// SPDX-License-Identifier: Apache-2.0
/*
 * statefile.h: a guest that stands still as a file: what `vm save` writes and `vm restore` reads.
 *
 *	0		struct mig_file_head, one block; written last, so that a file that was cut off has none
 *	meta_at		words: what the caller must know of the VM
 *	state_at	the machine's state, as it is sent in MIG_STATE
 *	index_at	struct mig_file_chunk for each MIG_FILE_CHUNK of memory
 *	data_at		memory: byte n of it at data_at + n. Pages of zeroes are holes, and need not be there
 *
 * All of it is under checksums (XXH3-64): header, words, state, index, each chunk as it reads, holes as zeroes. What
 * does not agree is -EUCLEAN, named; the caller loads into memory that it throws away then. Sizes of what was read
 * are bounded before they are believed. Where the bytes lie is the caller's (struct mig_file_io).
 */
#ifndef MIGRATE_STATEFILE_H
#define MIGRATE_STATEFILE_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#include "base/util.h"

#define MIG_FILE_MAGIC	   "PRILSAVE"
#define MIG_FILE_VERSION   1u
#define MIG_FILE_CHUNK	   (1u << 20)
#define MIG_FILE_META_MAX  (1u << 20)
#define MIG_FILE_STATE_MAX (32u << 20)

struct mig_file_head {
	char magic[8];	     /* 0x000 MIG_FILE_MAGIC */
	le32 version;	     /* 0x008 MIG_FILE_VERSION; a larger one is refused */
	le32 chunk;	     /* 0x00c bytes: MIG_FILE_CHUNK */
	le64 memory;	     /* 0x010 bytes of the guest's memory, a multiple of a chunk */
	le64 pages;	     /* 0x018 of them that are not zero, 4 KiB each */
	le64 meta_at;	     /* 0x020 offsets in the file, multiples of 4096 */
	le64 state_at;	     /* 0x028 */
	le64 index_at;	     /* 0x030 */
	le64 data_at;	     /* 0x038 */
	le32 meta_bytes;     /* 0x040 */
	le32 state_bytes;    /* 0x044 */
	le64 meta_sum;	     /* 0x048 XXH3-64 */
	le64 state_sum;	     /* 0x050 */
	le64 index_sum;	     /* 0x058 */
	uint8_t zero[0xf98]; /* 0x060 */
	le64 sum;	     /* 0xff8 of the 4088 bytes before */
};
static_assert(sizeof(struct mig_file_head) == 4096, "state file's head");
static_assert(offsetof(struct mig_file_head, index_sum) == 0x58, "head.index_sum");

struct mig_file_chunk {
	le64 sum;      /* 0x00 of its bytes; pages 0: 0 */
	le32 pages;    /* 0x08 that are not zero; 0: nothing of it is in the file */
	le32 reserved; /* 0x0c */
};
static_assert(sizeof(struct mig_file_chunk) == 16, "state file's chunk");

/* All bytes, or an error. */
struct mig_file_io {
	int (*read)(void *arg, void *dst, size_t n, uint64_t offset);
	int (*write)(void *arg, const void *src, size_t n, uint64_t offset);
	/* After each chunk, `done` of `total` bytes of memory; an error (-ECANCELED) ends it. May be NULL. */
	int (*progress)(void *arg, uint64_t done, uint64_t total);
	void *arg;
};

struct mig_file_parts {
	const void *meta, *state;
	uint32_t meta_bytes, state_bytes;
};

/* Writes it, the head last; to make it durable is the caller's. *size: bytes of the file. */
int mig_file_write(const struct mig_file_io *io, const struct mig_file_parts *parts, int memory_fd,
		   uint64_t memory, uint64_t *size);

struct mig_file;
/* Reads and checks all but the memory. `io` is borrowed until mig_file_close. */
int mig_file_open(const struct mig_file_io *io, struct mig_file **out);
void mig_file_close(struct mig_file *f);
uint64_t mig_file_memory(const struct mig_file *f);
/* Valid until mig_file_close; the words end with a zero behind them. */
void mig_file_parts(const struct mig_file *f, struct mig_file_parts *out);
/* Into a fresh, sealed memfd of mig_file_memory bytes; what is zero stays a hole. */
int mig_file_load(struct mig_file *f, int memory_fd);

#endif
