// SPDX-License-Identifier: Apache-2.0
/*
 * cfs_format.h: what is on the disk. Every structure, its offsets asserted; docs/format.md says the
 * same field by field. All integers little-endian. Disk types only; memory types live elsewhere.
 *
 * Addresses. A *volume block number* (vbn) counts 4 KiB: bits 35..39 the extent (0..31), bits 0..34
 * the block in it; so each extent can grow by itself. 0 means none (block 0 is never metadata).
 * Data is taken in *units* of 64 KiB = 16 blocks, aligned in the extent.
 *
 * An extent, in 4 KiB blocks:
 *	     0..255	empty (zeroed by format: no partition table, no other file system)
 *	   256		label, copy A		768	label, copy B
 *	   257		lock block of the label  (extent 0)
 *	   258		lock block of the fence  (extent 0)
 *	   288..351	claim blocks of slots 0..63 (extent 0)
 *	   352..415	beat blocks of slots 0..63 (extent 0)
 *	  1024...	resource groups, each `group_units` units long (the last may be shorter)
 *
 * A group, in blocks from its start: lock block, header, n bitmap blocks, n reclaim-bitmap blocks;
 * rounded up to whole units, whose bits are set. n = cfs_group_bitmap_blocks(group_units), in a
 * shorter last group too. Bits behind a group's end are clear.
 *
 * INV-FS-1: a block is written either by compare-and-write (label lock, fence lock, claims, lock
 * blocks) or plainly (all others), never both. A record changed by compare-and-write lies in the
 * first 512 bytes of its 4 KiB; on LUNs with 4 KiB logical blocks the rest is zero and compared too.
 */
#ifndef CLUSTERFS_CFS_FORMAT_H
#define CLUSTERFS_CFS_FORMAT_H

#include <assert.h>
#include <stddef.h>

#include "base/util.h"

#define CFS_BLOCK	4096u  /* bytes: metadata block, grain, unit of a vbn */
#define CFS_UNIT	65536u /* bytes: data block */
#define CFS_UNIT_BLOCKS 16u
#define CFS_RECORD	512u /* bytes: what is changed by compare-and-write */

#define CFS_MAX_EXTENTS	      32u
#define CFS_MAX_SLOTS	      64u
#define CFS_EXTENT_SHIFT      35u
#define CFS_MAX_EXTENT_BLOCKS (1ULL << CFS_EXTENT_SHIFT)
#define CFS_VBN_MAX	      (1ULL << 40)

#define CFS_LABEL_A	   256u
#define CFS_LABEL_LOCK	   257u
#define CFS_FENCE_LOCK	   258u
#define CFS_CLAIMS	   288u
#define CFS_BEATS	   352u
#define CFS_LABEL_B	   768u
#define CFS_GROUPS	   1024u
#define CFS_MIN_VOLUME	   (256 * MiB)
#define CFS_MAX_VOLUME	   (64 * TiB)
#define CFS_MIN_GROUP	   (4 * MiB)
#define CFS_MAX_GROUP	   (32 * GiB)
#define CFS_MAX_NAME	   255u /* bytes of one name */
#define CFS_FORMAT_VERSION 1u

static inline uint64_t cfs_vbn(unsigned extent, uint64_t block)
{
	return (uint64_t)extent << CFS_EXTENT_SHIFT | block;
}
static inline unsigned cfs_vbn_extent(uint64_t vbn)
{
	return (unsigned)(vbn >> CFS_EXTENT_SHIFT);
}
static inline uint64_t cfs_vbn_block(uint64_t vbn)
{
	return vbn & (CFS_MAX_EXTENT_BLOCKS - 1);
}

#define CFS_MAGIC 0x4c495250u /* "PRIL" */

enum cfs_type {
	CFS_T_LABEL = 1,
	CFS_T_LOCK,
	CFS_T_CLAIM,
	CFS_T_BEAT,
	CFS_T_GROUP,
	CFS_T_BITMAP,
	CFS_T_RECLAIM,
	CFS_T_INODE,
	CFS_T_MAP_LEAF,
	CFS_T_MAP_NODE,
	CFS_T_DIR_LEAF,
	CFS_T_DIR_NODE,
	CFS_T_JOURNAL_HEAD,
	CFS_T_JOURNAL,
	CFS_T_END,
};

/* The first 64 bytes of each 4 KiB metadata block; the first 40 also head each 512-byte record. */
struct cfs_head {
	le32 magic;	    /* 0x00 CFS_MAGIC */
	le16 type;	    /* 0x04 enum cfs_type */
	le16 version;	    /* 0x06 of this structure, 1 */
	uint8_t volume[16]; /* 0x08 volume id */
	le64 self;	    /* 0x18 own vbn */
	le64 checksum; /* 0x20 XXH3-64 of the block (record: of its 512 bytes), this field as 0 */
	le64 sequence; /* 0x28 of the last transaction that changed it (a Lamport clock) */
	le64 owner;    /* 0x30 vbn of the lock block that protects it */
	le64 reserved; /* 0x38 */
};
static_assert(sizeof(struct cfs_head) == 64, "head");
static_assert(offsetof(struct cfs_head, checksum) == 0x20, "head.checksum");
static_assert(offsetof(struct cfs_head, sequence) == 0x28, "head.sequence");
#define CFS_CHECKSUM_AT 0x20u

/* --- label ------------------------------------------------------------------------------------ */

enum cfs_fence_mode { CFS_FENCE_AUTO, CFS_FENCE_TIME };

struct cfs_extent_entry {
	char lun[80];	 /* 0x00 the LUN's id, as blk_info.id; zero padded */
	le64 blocks;	 /* 0x50 size in 4 KiB blocks */
	le32 groups;	 /* 0x58 number of resource groups */
	le32 last_units; /* 0x5c units of the last group */
};
static_assert(sizeof(struct cfs_extent_entry) == 96, "extent entry");

#define CFS_RO_RESERVATIONS 1u /* features_ro: disks' inodes hold persistent reservations */
#define CFS_RO_KNOWN	    1u

/* sequence in the head counts changes of the label; beats carry it. Never printed: secret. */
struct cfs_label {
	struct cfs_head head;	/* 0x000 */
	char name[64];		/* 0x040 volume name, zero padded */
	le32 format_version;	/* 0x080 */
	le32 features_compat;	/* 0x084 unknown bits: mount all the same */
	le32 features_ro;	/* 0x088 unknown bits: mount read-only (we: refuse) */
	le32 features_incompat; /* 0x08c unknown bits: refuse */
	le32 logical_block;	/* 0x090 bytes, 512 or 4096, the same on all extents */
	le16 extents;		/* 0x094 how many */
	le16 extent;		/* 0x096 which one this copy lies on */
	le32 beat_ms;		/* 0x098 */
	le32 silence_beats;	/* 0x09c */
	le32 lease_ms;		/* 0x0a0 */
	le32 flight_ms;		/* 0x0a4 */
	le32 fence_mode;	/* 0x0a8 enum cfs_fence_mode */
	le32 group_units;	/* 0x0ac units of a whole group */
	le64 created;		/* 0x0b0 wall time, ns since 1970 */
	le64 root;		/* 0x0b8 vbn of the root directory's inode */
	le64 trash;		/* 0x0c0 vbn of the hidden directory of files being deleted */
	uint8_t secret[32];	/* 0x0c8 the cluster's secret */
	uint8_t identity[16];	/* 0x0e8 changed by --new-identity: tells a clone from its origin */
	uint8_t reserved[712];	/* 0x0f8 */
	struct cfs_extent_entry extent_table[32]; /* 0x3c0 */
	uint8_t pad[64];			  /* 0xfc0 */
};
static_assert(sizeof(struct cfs_label) == CFS_BLOCK, "label");
static_assert(offsetof(struct cfs_label, extent_table) == 0x3c0, "label.extent_table");

/* --- records changed by compare-and-write ----------------------------------------------------- */

/* head: 40 bytes of cfs_head up to and with `checksum`, then `sequence`. */
struct cfs_record_head {
	le32 magic;	    /* 0x00 */
	le16 type;	    /* 0x04 */
	le16 version;	    /* 0x06 */
	uint8_t volume[16]; /* 0x08 */
	le64 self;	    /* 0x18 */
	le64 checksum;	    /* 0x20 of the 512 bytes */
	le64 sequence;	    /* 0x28 one more with each change */
};
static_assert(sizeof(struct cfs_record_head) == 48, "record head");

enum cfs_lock_mode { CFS_LOCK_FREE, CFS_LOCK_SHARED, CFS_LOCK_EXCLUSIVE };
enum cfs_lock_state { CFS_LOCK_NONE, CFS_LOCK_ACTIVE, CFS_LOCK_OFFERED, CFS_LOCK_SAVED };
enum cfs_owner_kind { CFS_OWNER_NONE, CFS_OWNER_HOST, CFS_OWNER_VM };

struct cfs_lock_record {
	struct cfs_record_head head; /* 0x00 */
	uint8_t mode;		     /* 0x30 enum cfs_lock_mode */
	uint8_t state;		     /* 0x31 enum cfs_lock_state */
	uint8_t owner_kind;	     /* 0x32 enum cfs_owner_kind; exclusive only */
	uint8_t reserved0;	     /* 0x33 */
	le16 owner_slot;	     /* 0x34 */
	le16 from_slot;		     /* 0x36 offered: who offers */
	le32 owner_epoch;	     /* 0x38 */
	le32 from_epoch;	     /* 0x3c */
	le64 vm;		     /* 0x40 CFS_OWNER_VM: vbn of that VM's lock */
	uint8_t token[16];	     /* 0x48 fresh with each attempt */
	le64 object;		     /* 0x58 vbn of the content block it protects */
	le64 saved;		     /* 0x60 saved: vbn of the inode of the file with its state */
	uint8_t saved_id[16];	     /* 0x68 ... and that inode's id */
	uint8_t reserved1[136];	     /* 0x78 */
	le32 readers[64];	     /* 0x100 shared: epoch of each slot that reads, 0 none */
};
static_assert(sizeof(struct cfs_lock_record) == CFS_RECORD, "lock record");
static_assert(offsetof(struct cfs_lock_record, saved_id) == 0x68, "lock.saved_id");
static_assert(offsetof(struct cfs_lock_record, readers) == 0x100, "lock.readers");

enum cfs_slot_state { CFS_SLOT_FREE, CFS_SLOT_ACTIVE, CFS_SLOT_RECOVERING };

struct cfs_claim_record {
	struct cfs_record_head head; /* 0x000 */
	uint8_t state;		     /* 0x030 enum cfs_slot_state */
	uint8_t flags;		     /* 0x031 CFS_CLAIM_CHECK: not a host but `volume check` */
	le16 slot;		     /* 0x032 */
	le32 epoch;		     /* 0x034 the life it names; one more with each new life */
	le16 by_slot;		     /* 0x038 recovering: who */
	le16 sessions;		     /* 0x03a iscsi sessions used so far, each extent */
	le32 by_epoch;		     /* 0x03c */
	uint8_t token[16];    /* 0x040 fresh with each change, renewed at each daemon start */
	uint8_t machine[16];  /* 0x050 /etc/machine-id */
	uint8_t boot[16];     /* 0x060 boot id */
	uint8_t host[16];     /* 0x070 the state directory's host id */
	le32 pid;	      /* 0x080 */
	le32 lease_ms;	      /* 0x084 longer than the label's if the host needs it, or 0 */
	le64 start_time;      /* 0x088 of the pid: field 22 of /proc/PID/stat */
	le64 journal;	      /* 0x090 vbn of the slot's journal, 0 none yet; outlives epochs */
	le32 journal_blocks;  /* 0x098 */
	le32 isid;	      /* 0x09c iscsi: first four bytes of the ISIDs */
	char name[64];	      /* 0x0a0 host name */
	char initiator[224];  /* 0x0e0 iscsi: initiator name */
	uint8_t reserved[64]; /* 0x1c0 */
};
static_assert(sizeof(struct cfs_claim_record) == CFS_RECORD, "claim record");
static_assert(offsetof(struct cfs_claim_record, initiator) == 0xe0, "claim.initiator");
#define CFS_CLAIM_CHECK 1u

/* --- beat: plain, 512 bytes -------------------------------------------------------------------- */

#define CFS_WISHES 8u
struct cfs_beat_record {
	struct cfs_record_head head; /* 0x000 sequence: the counter that moves */
	le32 epoch;		     /* 0x030 */
	le16 slot;		     /* 0x034 */
	le16 load;	       /* 0x036 percent of one core, for the least loaded to go first */
	le64 label_sequence;   /* 0x038 of the label this host has read */
	char address[64];      /* 0x040 peer address HOST:PORT, zero padded */
	le64 memory_free;      /* 0x080 bytes */
	uint8_t reserved0[24]; /* 0x088 */
	le64 wishes[8];	       /* 0x0a0 vbns of locks this host waits for, 0 none */
	le32 refused[64];      /* 0x0e0 epoch of each slot that this host serves no more */
	uint8_t reserved1[32]; /* 0x1e0 */
};
static_assert(sizeof(struct cfs_beat_record) == CFS_RECORD, "beat record");

/* --- resource group ---------------------------------------------------------------------------- */

enum cfs_slab_type { CFS_SLAB_FREE, CFS_SLAB_INODE, CFS_SLAB_META };

/*
 * A slab is a unit cut into 16 blocks. CFS_SLAB_INODE: 8 pairs of lock block and inode (blocks 2i
 * and 2i+1; bit i of `used` for a pair). CFS_SLAB_META: map and directory blocks, one bit each.
 * A slab stays a slab: its blocks never become data (so a late compare-and-write or a replayed
 * image can never hit a guest's bytes).
 */
struct cfs_slab {
	le32 unit; /* index in the group */
	le16 used; /* bitmap */
	uint8_t type;
	uint8_t reserved;
};
#define CFS_SLABS 496u

struct cfs_group {
	struct cfs_head head;	   /* 0x000 */
	le32 index;		   /* 0x040 group number in its extent */
	le32 units;		   /* 0x044 in this group */
	le32 meta_units;	   /* 0x048 used by the group's own metadata, at its start */
	le32 free_units;	   /* 0x04c clear bits */
	le32 reclaim_units;	   /* 0x050 set bits of the reclaim bitmap */
	le16 slabs;		   /* 0x054 entries of `slab` in use */
	le16 extent;		   /* 0x056 */
	uint8_t reserved[40];	   /* 0x058 */
	struct cfs_slab slab[496]; /* 0x080 */
};
static_assert(sizeof(struct cfs_group) == CFS_BLOCK, "group");

#define CFS_BITMAP_BITS (4032u * 8u)
struct cfs_bitmap {
	struct cfs_head head; /* 0x000 */
	uint8_t bits[4032];   /* 0x040 bit i of byte i/8: unit taken (CFS_T_BITMAP), or free but not
			       * yet returned to the array (CFS_T_RECLAIM) */
};
static_assert(sizeof(struct cfs_bitmap) == CFS_BLOCK, "bitmap");

static inline uint32_t cfs_group_bitmap_blocks(uint32_t group_units)
{
	return (uint32_t)DIV_ROUND_UP(group_units, CFS_BITMAP_BITS);
}
static inline uint32_t cfs_group_meta_units(uint32_t group_units)
{
	return (uint32_t)DIV_ROUND_UP(2u + 2u * cfs_group_bitmap_blocks(group_units),
				      CFS_UNIT_BLOCKS);
}

/* --- inodes -------------------------------------------------------------------------------------- */

enum cfs_kind { CFS_KIND_NONE, CFS_KIND_FILE, CFS_KIND_DIR, CFS_KIND_DISK, CFS_KIND_VM };
enum cfs_work { CFS_WORK_NONE, CFS_WORK_DELETE, CFS_WORK_SHRINK };

#define CFS_INODE_INLINE 3072u
#define CFS_INODE_THICK	 1u    /* flags: all blocks allocated at creation */
#define CFS_RESERVATIONS 1024u /* bytes of a disk's persistent reservations at most */

struct cfs_inode_block {
	struct cfs_head head;	   /* 0x000 owner: its lock block, self - 1 */
	uint8_t kind;		   /* 0x040 enum cfs_kind */
	uint8_t work;		   /* 0x041 enum cfs_work: long work that is under way */
	le16 flags;		   /* 0x042 */
	uint8_t height;		   /* 0x044 of the map or directory tree: 0 = root is a leaf */
	uint8_t reserved0;	   /* 0x045 */
	le16 inline_bytes;	   /* 0x046 content that lies in inline_data; then root is 0 */
	uint8_t id[16];		   /* 0x048 random, for life: a disk's serial */
	le64 size;		   /* 0x058 bytes; directories: entries */
	le64 created;		   /* 0x060 wall time, ns */
	le64 modified;		   /* 0x068 wall time, ns, of the last metadata change */
	le64 root;		   /* 0x070 vbn of the tree's root block, 0 none */
	le32 root_birth;	   /* 0x078 generation that wrote the root, or emptied it */
	le32 generation;	   /* 0x07c the head's own: what is born now gets it; from 1 */
	le64 allocated;		   /* 0x080 units that the map names as `block` */
	le64 cursor;		   /* 0x088 where the long work stands */
	le64 parent;		   /* 0x090 vbn of the directory's inode it is in */
	le64 node;		   /* 0x098 unique id of the head generation */
	le32 backup_mark;	   /* 0x0a0 newest generation a backup has taken, 0 none */
	le16 reservation_bytes;	   /* 0x0a4 disks: persistent reservations, in inline_data */
	uint8_t reserved1[90];	   /* 0x0a6 */
	char name[256];		   /* 0x100 own name, zero terminated: for messages and repair */
	uint8_t reserved2[512];	   /* 0x200 */
	uint8_t inline_data[3072]; /* 0x400 */
};
static_assert(sizeof(struct cfs_inode_block) == CFS_BLOCK, "inode");
static_assert(offsetof(struct cfs_inode_block, name) == 0x100, "inode.name");
static_assert(offsetof(struct cfs_inode_block, inline_data) == 0x400, "inode.inline_data");

/* --- map ------------------------------------------------------------------------------------------ */

/* State of a 4 KiB grain, two bits; grain g at bits 2g..2g+1 of `state`. */
enum cfs_grain { CFS_GRAIN_ZERO = 0, CFS_GRAIN_BLOCK = 1, CFS_GRAIN_BELOW = 2 };

#define CFS_ENTRY_REPOSITORY 1u /* flags: `below` lies in a backup repository */

/*
 * 64 KiB of a disk. `block` keeps its unit named even when all grains are zero: a discarded unit
 * stays named until the transaction that clears its bit also clears it here (INV-FS-4).
 */
struct cfs_map_entry {
	uint8_t block[5]; /* 0x00 vbn of the unit, 40 bits, 0 none */
	le32 birth;	  /* 0x05 generation that wrote it, or emptied it */
	uint8_t below[5]; /* 0x09 vbn of the older, frozen unit under it, 0 none */
	le32 below_birth; /* 0x0e */
	le32 state;	  /* 0x12 16 grains, 2 bits each */
	le16 flags;	  /* 0x16 */
};
static_assert(sizeof(struct cfs_map_entry) == 24, "map entry");

#define CFS_LEAF_ENTRIES 160u /* 10 MiB of disk */
#define CFS_NODE_ENTRIES 248u

struct cfs_map_leaf {
	struct cfs_head head;		 /* 0x000 */
	le64 index;			 /* 0x040 which leaf of the disk: disk offset / 10 MiB */
	le32 birth;			 /* 0x048 generation that wrote this block */
	uint8_t reserved[52];		 /* 0x04c */
	struct cfs_map_entry entry[160]; /* 0x080 */
	uint8_t pad[128];		 /* 0xf80 */
};
static_assert(sizeof(struct cfs_map_leaf) == CFS_BLOCK, "map leaf");

struct cfs_map_pointer {
	le64 child; /* vbn, 0: nothing is mapped below */
	le32 birth; /* generation that wrote the child, or emptied the subtree */
	le32 reserved;
};
struct cfs_map_node {
	struct cfs_head head;		     /* 0x000 */
	le64 index;			     /* 0x040 which node of its level */
	le32 birth;			     /* 0x048 */
	uint8_t level;			     /* 0x04c 1: its children are leaves */
	uint8_t reserved[51];		     /* 0x04d */
	struct cfs_map_pointer pointer[248]; /* 0x080 */
};
static_assert(sizeof(struct cfs_map_node) == CFS_BLOCK, "map node");

/* --- directories: a B+ tree by the names' hash (XXH3-64, seed 0) ----------------------------------- */

/* Entries one after the other, sorted by (hash, name), no gaps; each rounded up to 8 bytes. */
struct cfs_dir_entry {
	le64 hash;	  /* 0x00 */
	le64 inode;	  /* 0x08 vbn */
	uint8_t kind;	  /* 0x10 enum cfs_kind */
	uint8_t name_len; /* 0x11 1..255 */
	uint8_t name[6];  /* 0x12 first bytes; goes on behind, zero padded to 8 */
};
#define CFS_DIR_ENTRY_BYTES(name_len) ROUND_UP(18u + (name_len), 8u)
#define CFS_DIR_LEAF_BYTES	      3968u
struct cfs_dir_leaf {
	struct cfs_head head; /* 0x000 */
	le16 entries;	      /* 0x040 */
	le16 used;	      /* 0x042 bytes of `data` */
	uint8_t reserved[60]; /* 0x044 */
	uint8_t data[3968];   /* 0x080 */
};
static_assert(sizeof(struct cfs_dir_leaf) == CFS_BLOCK, "dir leaf");

struct cfs_dir_pointer {
	le64 hash;  /* the smallest hash that may lie in the child; the first one is 0 */
	le64 child; /* vbn */
};
struct cfs_dir_node {
	struct cfs_head head;		     /* 0x000 */
	le16 entries;			     /* 0x040 */
	uint8_t level;			     /* 0x042 1: its children are leaves */
	uint8_t reserved[61];		     /* 0x043 */
	struct cfs_dir_pointer pointer[248]; /* 0x080 */
};
static_assert(sizeof(struct cfs_dir_node) == CFS_BLOCK, "dir node");

/* --- journal --------------------------------------------------------------------------------------- */

/*
 * A slot's journal: its first block is the head, the others a ring. Journal block number s (which
 * never starts again, not with a new epoch either) lies at 1 + s % (blocks - 1). A *batch* is what
 * one commit writes: consecutive blocks whose payloads together are a stream of transactions; the
 * last carries CFS_JOURNAL_END. Replay takes whole batches from the head's `tail` on, and stops at
 * the first block that is not the next one.
 */
struct cfs_journal_head {
	struct cfs_head head;	/* 0x000 */
	le16 slot;		/* 0x040 */
	le16 reserved0;		/* 0x042 */
	le32 epoch;		/* 0x044 */
	le64 tail;		/* 0x048 number of the first block to replay */
	le64 stream;		/* 0x050 position in the slot's record stream at `tail`, bytes */
	uint8_t reserved[4008]; /* 0x058 */
};
static_assert(sizeof(struct cfs_journal_head) == CFS_BLOCK, "journal head");

#define CFS_JOURNAL_END	    1u
#define CFS_JOURNAL_PAYLOAD 4000u
struct cfs_journal_block {
	struct cfs_head head;  /* 0x000 sequence: the block's number */
	le32 epoch;	       /* 0x040 */
	le16 slot;	       /* 0x044 */
	le16 flags;	       /* 0x046 CFS_JOURNAL_END */
	le16 used;	       /* 0x048 bytes of payload */
	uint8_t reserved[6];   /* 0x04a */
	le64 stream;	       /* 0x050 stream position of the first payload byte */
	le64 batch;	       /* 0x058 number of the batch's first block */
	uint8_t payload[4000]; /* 0x060 */
};
static_assert(sizeof(struct cfs_journal_block) == CFS_BLOCK, "journal block");

/* A transaction in the stream: its header, then `records` records. 8-byte aligned throughout. */
struct cfs_txn_header {
	le32 magic;    /* 0x00 CFS_TXN_MAGIC */
	le32 bytes;    /* 0x04 with this header */
	le64 checksum; /* 0x08 XXH3-64 of the `bytes`, this field as 0 */
	le64 stream;   /* 0x10 own position in the stream */
	le64 sequence; /* 0x18 the Lamport number that all its blocks get */
	le32 records;  /* 0x20 */
	le32 epoch;    /* 0x24 */
};
#define CFS_TXN_MAGIC 0x54584e50u
static_assert(sizeof(struct cfs_txn_header) == 40, "txn header");

enum cfs_record_type {
	CFS_R_IMAGE = 1, /* the whole block; what is missing behind `bytes` is zero */
	CFS_R_PATCH,	 /* `bytes` at `offset` */
	CFS_R_RELEASED, /* the lock `vbn` is given up: replay skips what lies before it under that owner */
	CFS_R_FREED, /* the block `vbn` is free: replay skips what lies before it for that block */
};
struct cfs_record {
	le16 type;   /* 0x00 enum cfs_record_type */
	le16 offset; /* 0x02 in the block */
	le32 bytes;  /* 0x04 of data behind this, which is padded to 8 */
	le64 vbn;    /* 0x08 the block (RELEASED: the lock block) */
	le64 owner;  /* 0x10 vbn of the lock block that protects it */
};
static_assert(sizeof(struct cfs_record) == 24, "record");

#endif
