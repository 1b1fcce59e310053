// SPDX-License-Identifier: Apache-2.0
/*
 * scsi_state.c: what a guest has made of its LUNs, for a target on another host: settings of write caches,
 * reservations, unit attentions and losses that it has not heard of. It comes from a peer, so it is checked.
 *
 * Little-endian: "PLS1", number of LUNs (4); for each: LUN (2), flags (1: write cache on, 2: the next
 * flush tells of a loss), number of attentions (1), bytes of reservations (4), attentions (2 each),
 * reservations as scsi_pr.c stores them.
 */
#include "vfs/scsi_lun.h"

#include <errno.h>
#include <string.h>

#include "base/err.h"

#define MAGIC "PLS1"

struct saved_head {
	char magic[4];
	le32 luns;
};
struct saved_lun {
	le16 lun;
	uint8_t flags, attentions;
	le32 pr_bytes;
	le16 attention[SCSI_ATTENTIONS];
};
_Static_assert(sizeof(struct saved_lun) == 24, "saved LUN");
#define WRITE_CACHE 1u
#define OWES_LOSS   2u

struct out {
	uint8_t *at, *end;
	bool full;
};

static void put(struct out *o, const void *data, size_t bytes)
{
	if ((size_t)(o->end - o->at) < bytes) {
		o->full = true;
		return;
	}
	memcpy(o->at, data, bytes);
	o->at += bytes;
}

static void save_lun(const struct scsi_lun *lun, struct out *o)
{
	uint8_t pr[CONTROLLER_PR_BYTES];
	struct saved_lun s = {.lun = le16_of((uint16_t)lun->number),
			      .flags = (lun->write_cache ? WRITE_CACHE : 0) |
				       (lun->disk->owes_loss ? OWES_LOSS : 0),
			      .attentions = (uint8_t)lun->attentions};
	size_t bytes = scsi_pr_encode(&lun->pr, pr);

	s.pr_bytes = le32_of((uint32_t)bytes);
	for (unsigned i = 0; i < lun->attentions; i++)
		s.attention[i] = le16_of(lun->attention[i]);
	put(o, &s, sizeof(s));
	put(o, pr, bytes);
}

int scsi_save(const struct scsi_target *t, void *state, size_t size)
{
	struct out o = {.at = state, .end = (uint8_t *)state + size};
	struct saved_head h = {.magic = MAGIC};
	uint32_t n = 0;

	for (unsigned i = 0; i < CONTROLLER_LUNS; i++)
		n += t->lun[i] != NULL;
	h.luns = le32_of(n);
	put(&o, &h, sizeof(h));
	for (unsigned i = 0; i < CONTROLLER_LUNS; i++)
		if (t->lun[i])
			save_lun(t->lun[i], &o);
	if (o.full)
		return fail(-ENOSPC, "controller %s: its state has no room in %zu bytes", t->name,
			    size);
	return (int)(o.at - (uint8_t *)state);
}

static bool get(const uint8_t **at, const uint8_t *end, void *out, size_t bytes)
{
	if ((size_t)(end - *at) < bytes)
		return false;
	memcpy(out, *at, bytes);
	*at += bytes;
	return true;
}

static bool load_lun(struct scsi_target *t, const uint8_t **at, const uint8_t *end)
{
	uint8_t pr_bytes[CONTROLLER_PR_BYTES];
	struct scsi_lun *lun;
	struct saved_lun s;
	struct scsi_pr pr;
	uint32_t bytes;

	if (!get(at, end, &s, sizeof(s)))
		return false;
	bytes = le32_get(s.pr_bytes);
	if (le16_get(s.lun) >= CONTROLLER_LUNS || s.attentions > SCSI_ATTENTIONS ||
	    s.flags & ~(WRITE_CACHE | OWES_LOSS) || bytes > sizeof(pr_bytes) ||
	    !get(at, end, pr_bytes, bytes) || scsi_pr_decode(&pr, pr_bytes, bytes) < 0)
		return false;
	if (!t)
		return true;
	lun = t->lun[le16_get(s.lun)];
	if (!lun)
		return false;
	lun->pr = pr;
	lun->write_cache = s.flags & WRITE_CACHE;
	lun->disk->owes_loss |= (s.flags & OWES_LOSS) != 0;
	lun->attentions = s.attentions;
	for (unsigned i = 0; i < s.attentions; i++)
		lun->attention[i] = le16_get(s.attention[i]);
	return true;
}

int scsi_load(struct scsi_target *t, const void *state, size_t size)
{
	const uint8_t *at = state, *end = at + size;
	struct saved_head h;
	bool good = get(&at, end, &h, sizeof(h)) && memcmp(h.magic, MAGIC, sizeof(h.magic)) == 0 &&
		    le32_get(h.luns) <= CONTROLLER_LUNS;

	for (uint32_t i = 0; good && i < le32_get(h.luns); i++)
		good = load_lun(t, &at, end);
	if (good && at == end)
		return 0;
	return fail(-EINVAL, "controller %s: a state that makes no sense here", t ? t->name : "");
}
