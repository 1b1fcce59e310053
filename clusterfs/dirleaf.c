// SPDX-License-Identifier: Apache-2.0
/* dirleaf.c: entries of one directory leaf. What it is given was validated (validate.c). */
#include "clusterfs/dirleaf.h"

#include <string.h>

#include "clusterfs/validate.h"

#define NAME_AT offsetof(struct cfs_dir_entry, name)

void cfs_dirent_set(struct cfs_dirent *e, const char *name, size_t len, enum cfs_kind kind,
		    uint64_t inode)
{
	MUST(len >= 1 && len <= CFS_MAX_NAME);
	memset(e, 0, sizeof(*e));
	memcpy(e->name, name, len);
	e->len = (unsigned)len;
	e->hash = cfs_name_hash(name, len);
	e->kind = kind;
	e->inode = inode;
}

static const struct cfs_dir_entry *entry_at(const struct cfs_dir_leaf *leaf, unsigned at)
{
	return (const struct cfs_dir_entry *)(leaf->data + at);
}

static const uint8_t *name_at(const struct cfs_dir_leaf *leaf, unsigned at)
{
	return leaf->data + at + NAME_AT;
}

static unsigned bytes_at(const struct cfs_dir_leaf *leaf, unsigned at)
{
	return (unsigned)CFS_DIR_ENTRY_BYTES(entry_at(leaf, at)->name_len);
}

unsigned cfs_dirleaf_entry(const struct cfs_dir_leaf *leaf, unsigned at, struct cfs_dirent *out)
{
	const struct cfs_dir_entry *d = entry_at(leaf, at);

	if (at >= le16_get(leaf->used))
		return 0;
	memset(out, 0, sizeof(*out));
	out->hash = le64_get(d->hash);
	out->inode = le64_get(d->inode);
	out->kind = (enum cfs_kind)d->kind;
	out->len = d->name_len;
	memcpy(out->name, name_at(leaf, at), out->len);
	return at + bytes_at(leaf, at);
}

/* <0, 0, >0 as the entry at `at` comes before, is, or comes behind `e`. */
static int compare(const struct cfs_dir_leaf *leaf, unsigned at, const struct cfs_dirent *e)
{
	const struct cfs_dir_entry *d = entry_at(leaf, at);
	uint64_t hash = le64_get(d->hash);
	int order;

	if (hash != e->hash)
		return hash < e->hash ? -1 : 1;
	order = memcmp(name_at(leaf, at), e->name, MIN(d->name_len, e->len));
	return order ? order : (int)d->name_len - (int)e->len;
}

unsigned cfs_dirleaf_find(const struct cfs_dir_leaf *leaf, const struct cfs_dirent *e, bool *found)
{
	unsigned at = 0, used = le16_get(leaf->used);
	int order = 1;

	while (at < used && (order = compare(leaf, at, e)) < 0)
		at += bytes_at(leaf, at);
	*found = at < used && order == 0;
	return at;
}

bool cfs_dirleaf_fits(const struct cfs_dir_leaf *leaf, const struct cfs_dirent *e)
{
	return le16_get(leaf->used) + CFS_DIR_ENTRY_BYTES(e->len) <= CFS_DIR_LEAF_BYTES;
}

unsigned cfs_dirleaf_insert(struct cfs_dir_leaf *leaf, const struct cfs_dirent *e)
{
	unsigned used = le16_get(leaf->used), bytes = (unsigned)CFS_DIR_ENTRY_BYTES(e->len), at;
	struct cfs_dir_entry head = {
		.hash = le64_of(e->hash),
		.inode = le64_of(e->inode),
		.kind = (uint8_t)e->kind,
		.name_len = (uint8_t)e->len,
	};
	bool found;

	at = cfs_dirleaf_find(leaf, e, &found);
	MUST(!found && used + bytes <= CFS_DIR_LEAF_BYTES);
	memmove(leaf->data + at + bytes, leaf->data + at, used - at);
	memset(leaf->data + at, 0, bytes);
	memcpy(leaf->data + at, &head, NAME_AT);
	memcpy(leaf->data + at + NAME_AT, e->name, e->len);
	leaf->used = le16_of((uint16_t)(used + bytes));
	leaf->entries = le16_of((uint16_t)(le16_get(leaf->entries) + 1));
	return at;
}

void cfs_dirleaf_remove(struct cfs_dir_leaf *leaf, unsigned at)
{
	unsigned used = le16_get(leaf->used), bytes = bytes_at(leaf, at);

	MUST(at + bytes <= used);
	memmove(leaf->data + at, leaf->data + at + bytes, used - at - bytes);
	memset(leaf->data + used - bytes, 0, bytes);
	leaf->used = le16_of((uint16_t)(used - bytes));
	leaf->entries = le16_of((uint16_t)(le16_get(leaf->entries) - 1));
}

bool cfs_dirleaf_split_at(const struct cfs_dir_leaf *leaf, const struct cfs_dirent *e,
			  unsigned *out)
{
	unsigned used = le16_get(leaf->used), more = (unsigned)CFS_DIR_ENTRY_BYTES(e->len);
	unsigned best = UINT32_MAX, at;
	uint64_t before = 0, here;

	for (at = 0; at < used; at += bytes_at(leaf, at)) {
		unsigned left = at, right = used - at, uneven;

		here = le64_get(entry_at(leaf, at)->hash);
		/* `e` goes where its hash belongs; the right half begins with `here` */
		if (e->hash < here)
			left += more;
		else
			right += more;
		uneven = left > right ? left - right : right - left;
		if (at > 0 && here != before && left <= CFS_DIR_LEAF_BYTES &&
		    right <= CFS_DIR_LEAF_BYTES && uneven < best) {
			best = uneven;
			*out = at;
		}
		before = here;
	}
	return best != UINT32_MAX;
}

void cfs_dirleaf_split(struct cfs_dir_leaf *leaf, struct cfs_dir_leaf *right, unsigned at)
{
	unsigned used = le16_get(leaf->used), n = 0;

	MUST(at > 0 && at < used);
	for (unsigned i = 0; i < at; i += bytes_at(leaf, i))
		n++;
	memcpy(right->data, leaf->data + at, used - at);
	right->used = le16_of((uint16_t)(used - at));
	right->entries = le16_of((uint16_t)(le16_get(leaf->entries) - n));
	memset(leaf->data + at, 0, used - at);
	leaf->used = le16_of((uint16_t)at);
	leaf->entries = le16_of((uint16_t)n);
}
