// SPDX-License-Identifier: Apache-2.0
/*
 * baggage.c: what a VM takes along when it goes to another host, so that its target reads nothing in the
 * blackout: a head, then records of 512 bytes and blocks of 4 KiB just as they stand on the disk, each
 * behind its length. First the VM's lock; then of each open disk its lock, its inode, blocks of its map, the
 * upper levels first.
 *
 * The sender is a member and could write the LUNs itself; still, nothing is taken that is not whole, of this
 * volume, at its own address, of a kind that belongs here, and under a lock that came along and names the
 * VM. And all of it only if the offer it begins with is the one that was taken up: then the source had
 * these locks until that moment, and what it says of them is so.
 */
#include "clusterfs/handover.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "clusterfs/fileio.h"

#define BAGGAGE_MAGIC 0x31424c50u /* "PLB1" */

struct baggage_head { /* on the wire between hosts */
	le32 magic;
	le32 reserved;
	uint8_t volume[16];
	le64 vm;    /* its lock's block */
	le64 bytes; /* of all, the head with it */
};
static_assert(sizeof(struct baggage_head) == 40, "baggage head");

/* --- packing ----------------------------------------------------------------------------------------- */

struct pack {
	struct cfs *fs;
	uint8_t *bytes;
	size_t used, size, limit;
};

static void *add(struct pack *p, uint32_t bytes)
{
	le32 length = le32_of(bytes);

	while (p->used + sizeof(length) + bytes > p->size) {
		p->size = 2 * p->size + 65536;
		p->bytes = xrealloc(p->bytes, p->size);
	}
	memcpy(p->bytes + p->used, &length, sizeof(length));
	p->used += sizeof(length) + bytes;
	return p->bytes + p->used - bytes;
}

/* A clean buffer is what stands in place; its checksum is made on the way there, so here too. */
static void add_block(struct pack *p, const struct cfs_buf *buf)
{
	uint8_t *block = xaligned(CFS_BLOCK, CFS_BLOCK);

	if (!buf->dirty) {
		memcpy(block, buf->data, CFS_BLOCK);
		cfs_block_seal(block, buf->type, p->fs->id, buf->vbn);
		memcpy(add(p, CFS_BLOCK), block, CFS_BLOCK);
	}
	free(block);
}

/* Its map's blocks of one type that are in memory. */
static void add_blocks(struct pack *p, uint64_t owner, enum cfs_type type)
{
	size_t room = p->used < p->limit ? (p->limit - p->used) / CFS_BLOCK : 0, n;
	struct cfs_buf **buf = xcalloc(room + 1, sizeof(struct cfs_buf *));

	n = cfs_buf_of_owner(p->fs, owner, type, buf, room);
	for (size_t i = 0; i < n; i++) {
		add_block(p, buf[i]);
		cfs_buf_put(p->fs, buf[i]);
	}
	free(buf);
}

static void add_lock(struct pack *p, const struct cfs_lock *l)
{
	memcpy(add(p, CFS_RECORD), &l->rec, CFS_RECORD);
}

int cfs_vm_baggage(struct cfs_vm_lock *vm, size_t limit, void **bytes, size_t *size)
{
	static const enum cfs_type levels[] = {CFS_T_INODE, CFS_T_MAP_NODE, CFS_T_MAP_LEAF};
	struct pack p = {.fs = vm->fs, .limit = MIN(limit, (size_t)CFS_BAGGAGE_MAX / 2)};
	struct baggage_head head = {.magic = le32_of(BAGGAGE_MAGIC), .vm = le64_of(vm->vbn)};

	if (!vm->held || !vm->lock->known || !cfs_lock_is_offered(&vm->lock->rec))
		return fail(-EINVAL, "VM %llu: it is not offered", (unsigned long long)vm->vbn);
	p.used = sizeof(head);
	add_lock(&p, vm->lock);
	for (unsigned i = 0; i < vm->n; i++)
		if (vm->held[i] != vm->lock && vm->held[i]->known)
			add_lock(&p, vm->held[i]);
	for (unsigned level = 0; level < ARRAY_SIZE(levels); level++)
		for (unsigned i = 0; i < vm->n; i++)
			if (vm->held[i] != vm->lock && vm->held[i]->known)
				add_blocks(&p, vm->held[i]->vbn, levels[level]);
	memcpy(head.volume, vm->fs->id, sizeof(head.volume));
	head.bytes = le64_of(p.used);
	memcpy(p.bytes, &head, sizeof(head));
	*bytes = p.bytes;
	*size = p.used;
	return 0;
}

/* --- unpacking ----------------------------------------------------------------------------------------- */

struct unpack {
	struct cfs *fs;
	const uint8_t *at, *end;
	uint64_t vm;
	uint64_t *lock; /* that came along and are ours now, in a hash table */
	size_t locks;
};

/* The next piece; 0 at the end, or where it makes no sense. */
static size_t next(struct unpack *u, const uint8_t **piece)
{
	le32 length;
	size_t bytes;

	if ((size_t)(u->end - u->at) < sizeof(length))
		return 0;
	memcpy(&length, u->at, sizeof(length));
	bytes = le32_get(length);
	if ((bytes != CFS_RECORD && bytes != CFS_BLOCK) ||
	    bytes > (size_t)(u->end - u->at) - sizeof(length))
		return 0;
	*piece = u->at + sizeof(length);
	u->at = *piece + bytes;
	return bytes;
}

static bool begin(struct unpack *u, const void *baggage, size_t size)
{
	struct baggage_head head;

	if (size < sizeof(head) || size > CFS_BAGGAGE_MAX)
		return false;
	memcpy(&head, baggage, sizeof(head));
	if (le32_get(head.magic) != BAGGAGE_MAGIC || le64_get(head.bytes) != size ||
	    memcmp(head.volume, u->fs->id, sizeof(head.volume)) != 0 || le64_get(head.vm) != u->vm)
		return false;
	u->at = (const uint8_t *)baggage + sizeof(head);
	u->end = (const uint8_t *)baggage + size;
	return true;
}

bool cfs_baggage_lock(struct cfs *fs, const void *baggage, size_t size, uint64_t vm,
		      struct cfs_lock_record *out)
{
	struct unpack u = {.fs = fs, .vm = vm};
	const uint8_t *piece;

	if (!begin(&u, baggage, size) || next(&u, &piece) != CFS_RECORD)
		return false;
	memcpy(out, piece, CFS_RECORD);
	if (cfs_record_check(out, CFS_T_LOCK, fs->id, vm) == 0)
		return true;
	err_clear();
	return false;
}

static uint64_t *place_of(struct unpack *u, uint64_t vbn)
{
	size_t i = (size_t)(vbn * 0x9e3779b97f4a7c15ULL >> 40) % u->locks;

	while (u->lock[i] && u->lock[i] != vbn)
		i = (i + 1) % u->locks;
	return &u->lock[i];
}

/* A disk's lock that names the VM: it is ours, since the VM's is. */
static void take_lock(struct unpack *u, const uint8_t *piece)
{
	struct cfs_lock_record r;
	struct cfs_lock *l;
	uint64_t vbn;

	memcpy(&r, piece, sizeof(r));
	vbn = le64_get(r.head.self);
	if (vbn == u->vm || !cfs_vbn_valid(u->fs, vbn) ||
	    cfs_record_check(&r, CFS_T_LOCK, u->fs->id, vbn) < 0 || !cfs_lock_is_vm(&r) ||
	    r.state != CFS_LOCK_ACTIVE || le64_get(r.vm) != u->vm)
		return;
	l = cfs_locks_use(u->fs, vbn, 0);
	if (!l)
		return;
	if (l->held == CFS_LOCK_FREE) {
		cfs_lock_note_held(l, CFS_LOCK_EXCLUSIVE, &r);
		l->known = true;
		l->fresh = true;
		l->since = atomic_load(&u->fs->sequence);
		*place_of(u, vbn) = vbn;
	}
	cfs_lock_put(l);
}

static void take_block(struct unpack *u, const uint8_t *piece)
{
	struct cfs_head head;
	struct cfs_buf *buf;
	uint64_t vbn, owner;
	unsigned type;

	memcpy(&head, piece, sizeof(head));
	vbn = le64_get(head.self);
	owner = le64_get(head.owner);
	type = le16_get(head.type);
	if (!owner || *place_of(u, owner) != owner || !cfs_vbn_valid(u->fs, vbn) ||
	    (type == CFS_T_INODE ? vbn != owner + 1
				 : type != CFS_T_MAP_NODE && type != CFS_T_MAP_LEAF))
		return;
	if (cfs_buf_insert(u->fs, vbn, (enum cfs_type)type, owner, piece, &buf) == 0)
		cfs_buf_put(u->fs, buf);
}

void cfs_baggage_unpack(struct cfs *fs, const void *baggage, size_t size, uint64_t vm)
{
	struct unpack u = {.fs = fs, .vm = vm};
	const uint8_t *piece;
	size_t bytes;

	if (!begin(&u, baggage, size))
		return;
	u.locks = 2 * (size / CFS_RECORD) + 1;
	u.lock = xcalloc(u.locks, sizeof(*u.lock));
	while ((bytes = next(&u, &piece))) {
		if (bytes == CFS_RECORD)
			take_lock(&u, piece);
		else
			take_block(&u, piece);
	}
	free(u.lock);
	err_clear();
}
