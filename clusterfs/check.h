// SPDX-License-Identifier: Apache-2.0
/*
 * check.h (private to check.c and check_*.c): what is known while a volume is checked.
 *
 * The order is: labels, slots and journals; groups' headers; everything that can be reached from the root
 * and the trash, whose blocks are noted as used; what was put aside because two claimed it; inodes that
 * nobody names; directories that must be written anew; last the bitmaps and counts. So nothing is called
 * free before all that may use it was seen, and a repair that is cut off has only done good.
 *
 * Without --repair the same code runs, and what it would write lands in the overlay (memory) only, where
 * the replay of dead hosts' journals lies too. Nobody else is on the volume meanwhile.
 */
#ifndef CLUSTERFS_CHECK_H
#define CLUSTERFS_CHECK_H

#include "clusterfs/dirleaf.h"
#include "clusterfs/validate.h"
#include "clusterfs/volume.h"

#define CHECK_CACHE_UNITS 256u /* 16 MiB of slabs */
#define CHECK_MAX_MENDS \
	64u /* so many blocks are searched for their one wrong byte: half a second each */

struct check_group {
	uint64_t vbn;
	uint32_t units, index;
	unsigned extent;
	struct cfs_group *header; /* as it will be written; slabs are added and counted in here */
	bool rebuilt;		  /* the header was damaged: its slabs are found again */
	uint8_t *seen;		  /* a bit a unit that is used; NULL: none but the metadata */
	uint8_t *slab_seen;	  /* two bytes a slab: blocks (pairs) that are used */
};

struct check_overlay;
struct check_dir;
struct check_later;
struct check_attach;

struct check {
	struct cfs *fs;
	const struct cfs_check_options *options;
	struct cfs_check_result *result;
	bool repair;
	uint64_t power;	   /* cfs_power() when it began: nothing written since may be lost */
	uint64_t sequence; /* for blocks that are written: larger than all seen */
	unsigned mends;
	struct check_overlay *overlay;
	uint64_t cached_unit[CHECK_CACHE_UNITS];
	uint8_t *cache; /* CHECK_CACHE_UNITS units */
	unsigned groups;
	struct check_group *group;
	struct check_dir **dirs; /* hash table of directories that were reached */
	struct check_dir *todo;	 /* those still to be read */
	struct check_later *later;
	struct check_attach *doubt;	/* entries whose inode says otherwise */
	struct check_attach *attach;	/* lost inodes, and where they want to be */
	uint32_t epochs[CFS_MAX_SLOTS]; /* of the claims: the newest life of each slot */
};

/* --- check_io.c -------------------------------------------------------------------------------------- */

/* Tells a finding; counts it, as mended when `mended` and --repair. */
void check_found(struct check *c, bool mended, const char *object, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));
int check_io_start(struct check *c);
void check_io_stop(struct check *c);
/* Reads a block as it is (overlay, cache, medium) into CFS_BLOCK bytes. */
int check_read(struct check *c, uint64_t vbn, void *block);
/* Puts `block` where it belongs: seals it with the next sequence; overlay, or medium with --repair. */
int check_write(struct check *c, uint64_t vbn, enum cfs_type type, void *block);
/* As check_write, but the block is written as it is. */
int check_write_raw(struct check *c, uint64_t vbn, const void *block, size_t bytes);
int check_overlay_put(void *arg, uint64_t vbn, const void *block);
/*
 * Reads and checks a metadata block: 0 right (perhaps after its one wrong byte was found, which is told
 * and written); 1 damaged, `why` says how; 2 whole, but its content cannot be; <0 I/O.
 */
int check_block(struct check *c, uint64_t vbn, enum cfs_type type, void *block, char why[256]);
/* The same for a 512-byte record that is changed by compare-and-write; `object` for messages. */
int check_record(struct check *c, uint64_t vbn, enum cfs_type type, void *record, char why[256]);
/* Swaps what stands in a record's block for `next`. */
int check_swap(struct check *c, uint64_t vbn, enum cfs_type type, void *next);
/* A lock block must be whole, protect `object`, and name only lives that can end. */
int check_lock(struct check *c, uint64_t vbn, uint64_t object, const char *what);

/* --- check_space.c ---------------------------------------------------------------------------------------- */

int check_groups_load(struct check *c);
void check_groups_free(struct check *c);
/* The group of a block that may be used for anything; NULL: none, or the group's own metadata. */
struct check_group *check_group_at(struct check *c, uint64_t vbn);
enum check_claim { CHECK_NEW, CHECK_TAKEN, CHECK_IMPOSSIBLE };
/* Notes units as used: NEW, TAKEN (somebody was first), IMPOSSIBLE (a slab, or no such units). */
enum check_claim check_claim_units(struct check *c, uint64_t vbn, uint32_t units);
/* Notes a block, which was found right, as used; the header learns of a slab it did not know. */
enum check_claim check_claim_meta(struct check *c, enum cfs_slab_type type, uint64_t vbn);
bool check_meta_seen(struct check *c, enum cfs_slab_type type, uint64_t vbn);
void check_unclaim_meta(struct check *c, uint64_t vbn);
/* Calls `fn` for each pair of a slab of inodes that its header calls used and that was not seen. */
int check_lost_inodes(struct check *c, int (*fn)(struct check *c, uint64_t vbn));
/* Is the pair in a slab of inodes, and in use as far as the header knows? */
bool check_pair_used(struct check *c, uint64_t vbn);
/* Takes what nobody uses. -ENOSPC. Only when everything in use was noted. */
int check_alloc_unit(struct check *c, uint64_t *vbn);
int check_alloc_meta(struct check *c, enum cfs_slab_type type, uint64_t *vbn);
/* Groups whose header was lost: finds their slabs of inodes again. */
int check_find_slabs(struct check *c);
/* Last: bitmaps, counts, headers. */
int check_groups_store(struct check *c);

/* --- check_map.c -------------------------------------------------------------------------------------------- */

/* A file, disk or VM whose inode is right: its map; then its counts. May change and write `inode`. */
int check_map(struct check *c, uint64_t vbn, struct cfs_inode_block *inode);
/* What two claimed, or what names another owner: whoever is left alone with it gets it. */
int check_map_later(struct check *c);
void check_map_drop(struct check *c);
/*
 * For an inode that was lost: the root of its map among the blocks that name its lock: 0, 1 when there
 * is none.
 */
int check_map_find(struct check *c, uint64_t lock, struct cfs_inode_block *inode);

/* --- check_dir.c ---------------------------------------------------------------------------------------------- */

struct check_entry { /* of a directory that is written anew */
	struct check_entry *next;
	struct cfs_dirent e;
};
struct check_dir { /* one that was reached */
	struct check_dir *next, *todo;
	uint64_t vbn;
	bool rebuild;
	uint64_t names; /* that stay as they are */
	struct check_entry *add, *drop;
};
struct check_attach {
	struct check_attach *next;
	uint64_t dir;
	struct cfs_dirent e;
	bool deleting;
};
void check_dirs_free(struct check *c);
struct check_dir *check_dir_find(struct check *c, uint64_t vbn);
struct check_dir *check_dir_add(struct check *c, uint64_t vbn);
void check_entry_add(struct check_entry **list, const struct cfs_dirent *e);
/*
 * Every entry of a directory's tree that is whole. `quiet`: as it was found whole before, nothing told;
 * else blocks are claimed and what is wrong is told, and sets dir->rebuild.
 */
typedef int check_entry_fn(struct check *c, struct check_dir *d, const struct cfs_dirent *e,
			   void *arg);
int check_dir_walk(struct check *c, struct check_dir *d, const struct cfs_inode_block *n,
		   bool quiet, check_entry_fn *fn, void *arg);
/* Calls `fn` for each block of the tree, after check_dir_walk found it right. */
int check_dir_blocks(struct check *c, struct check_dir *d, const struct cfs_inode_block *n,
		     void (*fn)(void *arg, uint64_t vbn), void *arg);

/* --- check_names.c --------------------------------------------------------------------------------------- */

/* Everything that is reached from root and trash. */
int check_names(struct check *c);
/* Entries whose inode says otherwise, then inodes that nobody names. */
int check_lost(struct check *c);
void check_names_free(struct check *c);

/* --- check_rebuild.c -------------------------------------------------------------------------------------- */

/* Lost inodes get a name; directories that must be are written anew. */
int check_rebuild(struct check *c);
/* "inode 4711 (disk1)", for messages. */
const char *check_inode_text(uint64_t vbn, const struct cfs_inode_block *inode, char dst[320]);

#endif
