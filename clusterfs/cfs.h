// SPDX-License-Identifier: Apache-2.0
/*
 * cfs.h: a volume: a cluster file system on one or more LUNs that many hosts mount at once.
 *
 * To mount a volume is to join its cluster: the host takes a slot, beats in it each second, and may
 * write while its lease runs. All calls here block (I/O, other hosts' locks) and are for the
 * daemon's pool, never for an I/O thread. Errors are negative errno with words (base/err.h):
 * -EBUSY somebody holds it (err_holder names him), -ENOENT, -EEXIST, -ENOSPC, -EUCLEAN (a damaged
 * block, named), -EPERM (refused for safety), -ESTALE (our lease is over), -EIO, -ETIMEDOUT.
 *
 * Paths are "/a/b"; a name has 1 to 255 bytes, no '/', no control characters, is not "." or "..".
 */
#ifndef CLUSTERFS_CFS_H
#define CLUSTERFS_CFS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct blk;
struct cfs;
struct cfs_file;

/* --- format (format.c) ---------------------------------------------------------------------------- */

struct cfs_format_options {
	const char *name; /* of the volume, 1..63 bytes, as a file's name */
	bool overwrite;	  /* insist over a partition table, a file system, a dead volume */
	bool fence_time;  /* --fence=time */
	uint32_t beat_ms, silence_beats, lease_ms, flight_ms; /* 0: 1000, 5, 6000, 3000 */
};
/*
 * Writes a volume over `n` LUNs. -EPERM when one holds something (err says what and how to insist) or
 * a live volume (then always; so its beats are watched for a silence), -EINVAL when one is too small.
 */
int cfs_format(struct blk **blks, unsigned n, const struct cfs_format_options *options);

/* What lies on a LUN, without mounting: 0 and filled, -ENOENT no volume here, -EUCLEAN damaged. */
struct cfs_identity {
	char name[64];
	uint8_t id[16];
	unsigned extents, extent; /* how many, and which this one is */
	char luns[32][80];	  /* ids of all extents, in order */
	char lun[80];		  /* the id this one should have: differs on an array's clone */
};
int cfs_identify(struct blk *blk, struct cfs_identity *out);
/*
 * Whether a host has the volume mounted whose first extent `blk` is: -EBUSY, naming it. 0: nobody, as far as can be
 * seen, or it is no first extent. Watches as long as the volume calls silence, where a slot is not free.
 */
int cfs_quiet(struct blk *blk);

/* --- mount (mount.c) --------------------------------------------------------------------------------- */

/*
 * What a host says in its beats, and may be told at once over the network: for speed only. A hint
 * that is lost, late, doubled or false does no harm.
 */
enum cfs_hint_kind {
	CFS_HINT_WISH = 1, /* the sender waits for the lock */
	CFS_HINT_FREED,	   /* the sender has given it up, because somebody wished for it */
	CFS_HINT_EVICT,	   /* the sender takes over the life (slot, epoch): look at its claim */
	CFS_HINT_EVICTED,  /* the sender's beat says that it serves that life no more */
};
struct cfs_hint {
	enum cfs_hint_kind kind;
	uint64_t vbn;	/* of the lock: WISH, FREED */
	unsigned slot;	/* EVICT, EVICTED */
	uint32_t epoch; /* ... */
};

struct cfs_options {
	const char *host_name; /* for people and messages, 1..63 bytes */
	const char *
		state_dir; /* host id and tail files live here; survives the daemon, tmpfs is fine */
	const char *address;   /* peer address HOST:PORT, or "" */
	const char *initiator; /* iscsi initiator name used by the blks, or "" */
	uint32_t isid;
	bool new_identity;  /* the LUNs are an array's clone: give them a new volume id */
	size_t cache_bytes; /* limit of the metadata cache; 0: 64 MiB */
	/* Told from a thread of the volume; must not block. May be NULL. `arg` is handed back. */
	void (*event)(void *arg, const char *kind, const char *text);
	/* The same: to be told the hosts in `slots` (a bit each), if they can be reached. */
	void (*hint)(void *arg, struct cfs *fs, uint64_t slots, const struct cfs_hint *hint);
	void *arg;
};
/*
 * `blks` must be all extents in any order and stay open until unmount. Goes on in the same epoch when
 * this state directory's daemon died on this boot; replays own or, if it must, dead hosts' journals.
 */
int cfs_mount(struct blk **blks, unsigned n, const struct cfs_options *options, struct cfs **out);
/*
 * Gives up all locks, checkpoints, frees the slot. -EBUSY: files are open, or a VM's lock is held; nothing happened.
 * Any other error: `fs` is gone, but not in order: our next mount, or another host, replays its journal.
 */
int cfs_unmount(struct cfs *fs);
/*
 * Ends the threads and lets go without a word to the disk, as a crash would: tests, lost leases. Files
 * that are open end with it; nobody uses them meanwhile.
 */
void cfs_abandon(struct cfs *fs);

struct cfs_host_info {
	unsigned slot;
	uint32_t epoch;
	char name[64], id[40], address[64];
	char state[16]; /* "active", "recovering", "silent" */
	uint64_t beat_age_ms;
	bool self;
};
struct cfs_info {
	char name[64], id[40]; /* id as a uuid's text */
	uint64_t size;	       /* bytes */
	uint64_t free;	       /* bytes as last counted; UINT64_MAX: not yet */
	uint64_t promised;     /* sum of the disks' sizes; UINT64_MAX: not counted yet */
	uint64_t reclaim_pending;
	unsigned extents, format_version, slot;
	uint32_t epoch, lease_ms;
	char extent_lun[32][80];
	uint64_t extent_size[32];
	char state[16];	   /* "mounted", "frozen" */
	const char *fence; /* "reservations", "file", "time", "none" */
	unsigned hosts;
	struct cfs_host_info host[64];
};
int cfs_info(struct cfs *fs, struct cfs_info *out);
/* The hosts alone, as the last beat showed them; at most 64; their number. Never waits for I/O. */
unsigned cfs_hosts(struct cfs *fs, struct cfs_host_info out[64]);
/* What the beats say from the next one on, instead of cfs_options.address. Never blocks. */
void cfs_set_address(struct cfs *fs, const char *address);
/* What peers of this volume are known by. The secret is never shown nor sent; wipe it after use. */
struct cfs_membership {
	uint8_t volume[16], secret[32];
	unsigned slot;
	uint32_t epoch;
};
void cfs_membership(struct cfs *fs, struct cfs_membership *out);
/* The host in slot `from` says so. Never blocks. */
void cfs_hint(struct cfs *fs, unsigned from, const struct cfs_hint *hint);
/* Beats and looks at the other hosts now, so that cfs_info knows who came and went. At most `wait_ms`. */
void cfs_look(struct cfs *fs, unsigned wait_ms);
/* Name (64 bytes) and id (40 bytes) alone: cfs_info counts the free space, which takes I/O. */
void cfs_names(struct cfs *fs, char *name, char *id);
/* This host's life on the volume; whether another one is over, and replayed. */
void cfs_life(const struct cfs *fs, unsigned *slot, uint32_t *epoch);
/* It went on in the life of a daemon that ended without unmounting. */
bool cfs_resumed(const struct cfs *fs);
bool cfs_life_over(struct cfs *fs, unsigned slot, uint32_t epoch);
/* Another host took this one's place: nothing that fails with -ESTALE can be done again by this mount. */
bool cfs_evicted(const struct cfs *fs);
/* All that was done by calls that have returned is durable: names, sizes, data. Blocking. */
int cfs_sync(struct cfs *fs);
/* The same without files' data, so that nobody hears of another's that may be lost. */
int cfs_sync_names(struct cfs *fs);
/* A memfd with one page: le64, CLOCK_BOOTTIME ns of the lease's end. Borrowed. */
int cfs_lease_fd(struct cfs *fs);
/* Lets extents be larger, or adds new ones (`blks` of those only); blocking. */
int cfs_grow(struct cfs *fs, struct blk **added, unsigned n);
int cfs_rename_volume(struct cfs *fs, const char *name);
/* Returns freed space to the array: up to `bytes`; counts what was sent in *done. */
int cfs_reclaim(struct cfs *fs, uint64_t bytes, uint64_t *done);
/* Locks held by hosts, for `volume locks`: calls `fn` for each known one. */
struct cfs_lock_info {
	uint64_t vbn, object;
	char what[300]; /* "group 3", "/disks/a" */
	char mode[12], holder[80];
	bool wanted;
};
int cfs_locks_list(struct cfs *fs, void (*fn)(void *arg, const struct cfs_lock_info *), void *arg);

/* --- names (dir.c, names.c) ----------------------------------------------------------------------------- */

enum cfs_file_kind { CFS_FILE = 1, CFS_DIR = 2, CFS_DISK = 3, CFS_VM = 4 }; /* as enum cfs_kind */

struct cfs_stat {
	enum cfs_file_kind kind;
	uint64_t inode; /* vbn; the lock block is inode - 1 */
	uint8_t id[16];
	uint64_t size, allocated; /* bytes */
	uint64_t created_ns, modified_ns;
	uint32_t generation;
	bool thick;
	bool deleting; /* long work is under way */
};
int cfs_stat(struct cfs *fs, const char *path, struct cfs_stat *out);
int cfs_mkdir(struct cfs *fs, const char *path);
/* Creates an empty file, disk (`size` bytes, a multiple of 4096) or VM definition. -EEXIST. */
int cfs_create(struct cfs *fs, const char *path, enum cfs_file_kind kind, uint64_t size);
int cfs_rename(struct cfs *fs, const char *from, const char *to);
/*
 * `from` takes the name of `to`, which is deleted: another object of its kind (no directory) in the same
 * directory. One transaction: after a crash there are both, or there is the new one. -EBUSY.
 */
int cfs_replace(struct cfs *fs, const char *from, const char *to);
/* A file, disk, or empty directory. Space comes back in the background; restartable. -EBUSY. */
int cfs_unlink(struct cfs *fs, const char *path);
/*
 * In hash order. `fn` returning non-zero ends the walk with that value. An object that another host has
 * just made and still holds may come with created_ns 0: its kind and inode are all that is known.
 */
int cfs_readdir(struct cfs *fs, const char *path,
		int (*fn)(void *arg, const char *name, const struct cfs_stat *stat), void *arg);

/* --- files (file.c) -------------------------------------------------------------------------------------- */

#define CFS_OPEN_WRITE 1u /* exclusive lock; otherwise shared */
/*
 * Who the lock names: a VM (its lock's vbn; the caller holds that lock), or this host (0).
 * -EBUSY when another host or VM holds it: err_holder says who.
 */
int cfs_open(struct cfs *fs, const char *path, unsigned flags, uint64_t vm, struct cfs_file **out);
/* Writes back, gives the lock up. */
int cfs_close(struct cfs_file *file);
void cfs_file_stat(struct cfs_file *file, struct cfs_stat *out);
/* Blocking I/O through the map, any alignment; for import, export, small files. Byte counts. */
int64_t cfs_pread(struct cfs_file *file, void *buf, size_t n, uint64_t offset);
int64_t cfs_pwrite(struct cfs_file *file, const void *buf, size_t n, uint64_t offset);
/*
 * A disk's persistent reservations, in a form that is its export's: at most CFS_RESERVATIONS (cfs_format.h)
 * bytes into `dst`; 0: none. They are kept with the disk, durably when storing them (blocking) has
 * succeeded. -EOPNOTSUPP: not on a volume that an older release has formatted.
 */
bool cfs_keeps_reservations(struct cfs *fs);
size_t cfs_reservations(struct cfs_file *file, void *dst);
int cfs_store_reservations(struct cfs_file *file, const void *bytes, size_t size);
/* Durable: data, then metadata. */
int cfs_fsync(struct cfs_file *file);
/* Grows or shrinks; shrinking gives back space. */
int cfs_truncate(struct cfs_file *file, uint64_t size);
/* Allocates everything (thick). */
int cfs_allocate(struct cfs_file *file, uint64_t offset, uint64_t length);
/* What is allocated: calls fn for each run of disk offset, length, extent index, byte address. */
int cfs_extents(struct cfs_file *file,
		int (*fn)(void *arg, uint64_t offset, uint64_t length, unsigned extent,
			  uint64_t address),
		void *arg);

/* --- VM locks (vmlock.c) ------------------------------------------------------------------------------------ */

struct cfs_vm_lock;
/*
 * The lock of a VM's definition file at `path`: who holds it runs the VM (one lock decides).
 * -EBUSY: err_holder names the host that runs it. A dead host's lock is taken over once that
 * host's lease is over and its journal is replayed (waits for it, up to `wait_ms`); an offer of a dead
 * host too, whoever it was made to.
 */
int cfs_vm_lock(struct cfs *fs, const char *path, unsigned wait_ms, struct cfs_vm_lock **out);
/*
 * After a daemon's restart in the same epoch: takes up a lock that names us already; one that we had
 * offered is taken back. -ENOENT: it is not ours (any more); an offer to us is not, either.
 */
int cfs_vm_adopt(struct cfs *fs, const char *path, struct cfs_vm_lock **out);
uint64_t cfs_vm_lock_vbn(const struct cfs_vm_lock *lock);
/* What stands on the disk now, read by any thread: 0 it names this host's life; -ESTALE: it does not; -EIO ... */
int cfs_vm_lock_look(const struct cfs_vm_lock *lock);
/*
 * Frees `lock`. An error: storage failed; the VM is nobody's on this host any more (cfs_vm_lock gets it here), but
 * its lock still names us. That is tried again until it works, or this life ends: cfs_vm_where says `owed`, an
 * event "lock" tells when it is over.
 */
int cfs_vm_unlock(struct cfs_vm_lock *lock);
/* Frees `lock`, and all stays as it is, here and on the disk: the daemon ends, the VM runs on (cfs_vm_adopt). */
void cfs_vm_leave(struct cfs_vm_lock *lock);
/* The host that runs it, or that has it while it moves; -ENOENT when nobody does. */
int cfs_vm_owner(struct cfs *fs, const char *path, char *host, size_t size);

enum cfs_vm_state {
	CFS_VM_STOPPED, /* nobody runs it */
	CFS_VM_RUNS,
	CFS_VM_OFFERED, /* handed over just now: `host` has paused it, `to` may take it up */
	CFS_VM_SAVED,	/* nobody runs it, and it goes on from `saved` when somebody does */
};
/* The file that a saved VM's state lies in: its inode, as cfs_stat tells it, and that inode's id. */
struct cfs_saved {
	uint64_t inode;
	uint8_t id[16];
};
struct cfs_vm_where {
	enum cfs_vm_state state;
	char host[64], to[64]; /* names; "" for none */
	unsigned slot, to_slot;
	uint32_t epoch, to_epoch;
	bool here; /* `host` is this one, in this life */
	struct cfs_saved saved;
	bool owed; /* STOPPED, but its lock could not be given up yet: other hosts take it for running here */
};
/* What stands on the disk now, dead lives left out: an offer by a dead host is STOPPED. */
int cfs_vm_where(struct cfs *fs, const char *path, struct cfs_vm_where *out);

/* --- handing a VM over to another host (handover.c) -------------------------------------------------------- */

/*
 * Live migration's instant. The VM's lock decides for all of its disks, whose locks name the VM and do not
 * change; so one compare-and-write offers them all, and one takes them up, or back. Exactly one of these
 * succeeds, whatever is lost, late or dead. What a message says decides nothing: a VM's vCPUs run
 * only after one of the calls here (or cfs_vm_lock, cfs_vm_adopt) has said 0.
 *
 *	source	rounds of pages, with each cfs_vm_checkpoint
 *	source	pauses the vCPUs, controller_quiesce
 *	source	cfs_vm_offer, cfs_vm_baggage; tells the target, with the baggage
 *	target		cfs_vm_accept: 0, cfs_open of its disks, and runs it
 *	target		or gives up: cfs_vm_decline
 *	source	was told that it runs, or hears nothing: cfs_vm_retract until it knows
 *			0: runs on      -ENOENT: kills its VMM, closes the controller, cfs_vm_forget
 *
 * A target that dies: the source takes back. A source that dies: the target may still accept, for it has all of
 * the guest; or anybody starts the VM anew (cfs_vm_lock). Never both.
 */

/* Puts in place what the VM's locks protect, so that the offer finds little to do: once a round. */
int cfs_vm_checkpoint(struct cfs_vm_lock *lock);
/*
 * Offers the VM to the life (slot, epoch). INV-FS-5 first, for its lock and all files that are open under it:
 * their metadata go in place, a RELEASED record is durable, so that no replay of our journal touches them
 * again; then the compare-and-write. The caller sees to it that nothing under these locks is in flight,
 * nor begins (controller_quiesce): from here until retract or forget, other users of these files on this host wait.
 * -ENOENT: that life is none that is active. After any error: cfs_vm_retract, as after an offer.
 */
int cfs_vm_offer(struct cfs_vm_lock *lock, unsigned slot, uint32_t epoch);
/*
 * Takes back: the offer, one of unknown outcome, or one that failed before it was made. 0: the VM is ours, as
 * before. -ENOENT: the target, or since then somebody else, has it: cfs_vm_forget. -EIO, -ETIMEDOUT and the
 * like: not known yet; try again, and run nothing meanwhile. -ESTALE: our lease is over.
 */
int cfs_vm_retract(struct cfs_vm_lock *lock);
/*
 * The VM is another host's, or our life is over: lets go of its lock, and closes all files that are open under it
 * (not to be given to cfs_close any more), without a word to the disk. Their disks are closed already. Frees `lock`.
 */
void cfs_vm_forget(struct cfs_vm_lock *lock);

/*
 * What the target would have to read: lock records, inodes, and of the files' maps what is in memory, the upper
 * levels first, for about `limit` bytes. After the offer: *bytes is to be freed. Sent to the target as it is.
 */
int cfs_vm_baggage(struct cfs_vm_lock *lock, size_t limit, void **bytes, size_t *size);
#define CFS_BAGGAGE_MAX (64u << 20) /* bytes; more is refused */

/*
 * Takes up what the life (slot, epoch) has offered to us. `baggage` (may be NULL) comes from a member of the volume:
 * checked block by block, left out where it makes no sense; without it the disk is read. 0: the VM is ours.
 * -ENOENT: it is not offered to us, by them: taken back, or taken by another. Other errors: not known; try
 * again or decline, and run nothing meanwhile.
 */
int cfs_vm_accept(struct cfs *fs, const char *path, unsigned slot, uint32_t epoch,
		  const void *baggage, size_t size, struct cfs_vm_lock **out);
/*
 * Gives an offer back to who made it, dead or alive. 0: it is his. -ENOENT: none is made to us (any more).
 * -EALREADY: an accept of ours that was given up as unknown has come through: the VM is ours (cfs_vm_adopt).
 */
int cfs_vm_decline(struct cfs *fs, const char *path);

/* --- a VM that is saved to its volume (handover.c) ----------------------------------------------------------- */

/*
 * A hand-over to nobody. The VM's lock keeps, instead of a host, the file that its state lies in; its disks' locks
 * go on naming the VM, so nobody else gets them meanwhile: -EBUSY, as if it ran. Who runs it again drops the
 * reference in the same compare-and-write, whatever becomes of the VM then: no state is ever restored twice.
 *
 *	pauses the vCPUs, controller_quiesce; writes the state, durable (cfs_fsync), closes it
 *	cfs_vm_save; after any error cfs_vm_retract, until it is known
 *		0 (of save), -ENOENT (of retract): it is saved: kills its VMM, closes the controller, cfs_vm_forget
 *		0 (of retract): runs on, the file is nothing
 *
 *	reads and checks all of the state into a VMM that runs nothing
 *	cfs_vm_restore: 0: cfs_open of its disks, and runs it
 */

/* As cfs_vm_offer, INV-FS-5 first. The file is whole and durable. */
int cfs_vm_save(struct cfs_vm_lock *lock, const struct cfs_saved *state);
/*
 * Takes up the VM that cfs_vm_where said to be saved with `state`: to restore it, or to throw that away. 0: the VM is
 * ours, and `state` nobody's. -ENOENT: somebody else was quicker. Other errors: while *tried (false at first, handed
 * in again with each try) is false nothing has changed; else it is not known: try again until it is, and run nothing
 * meanwhile, or cfs_vm_owe.
 */
int cfs_vm_restore(struct cfs *fs, const char *path, const struct cfs_saved *state, bool *tried,
		   struct cfs_vm_lock **out);
/* Should its lock name us it is given up, as one is that cfs_vm_unlock could not give up. */
void cfs_vm_owe(struct cfs *fs, const char *path);

/* --- whole volume, unmounted (check.c, dump.c) ------------------------------------------------------------------ */

struct cfs_check_options {
	bool repair;
	const char *host_name;
	/* Each finding in words; `mended` says that it was put right. */
	void (*finding)(void *arg, const char *object, const char *text, bool mended);
	void *arg;
};
struct cfs_check_result {
	uint64_t findings, mended, inodes, directories, units_used;
};
/* -EBUSY with a live host. Takes a slot meanwhile; without `repair` writes nothing but its claim. */
int cfs_check(struct blk **blks, unsigned n, const struct cfs_check_options *options,
	      struct cfs_check_result *result);
/* Any metadata block in words; `vbn` UINT64_MAX: labels, slots and groups in short. */
int cfs_dump(struct blk **blks, unsigned n, uint64_t vbn, void (*line)(void *arg, const char *text),
	     void *arg);

#endif
