// SPDX-License-Identifier: Apache-2.0
/* hint.c: hints from and to other hosts; see hint.h. */
#include "clusterfs/hint.h"

#include <errno.h>

#include "clusterfs/locks.h"
#include "clusterfs/slot.h"

void cfs_hint_out(struct cfs *fs, uint64_t slots, const struct cfs_hint *hint)
{
	slots &= ~(1ULL << fs->slot);
	if (slots && fs->options.hint)
		fs->options.hint(fs->options.arg, fs, slots, hint);
}

/* The release thread looks at it next; what does not fit is found in the beats. */
static void wished(struct cfs *fs, unsigned from, uint64_t vbn)
{
	struct cfs_locks *t = fs->locks;

	pthread_mutex_lock(&t->mutex);
	if (t->hinted_n < CFS_LOCK_HINTS) {
		t->hinted[t->hinted_n].vbn = vbn;
		t->hinted[t->hinted_n++].slot = from;
		pthread_cond_signal(&t->work);
	}
	pthread_mutex_unlock(&t->mutex);
}

static void freed(struct cfs *fs, uint64_t vbn)
{
	struct cfs_locks *t = fs->locks;
	struct cfs_lock *l;

	pthread_mutex_lock(&t->mutex);
	l = cfs_locks_find(t, vbn);
	if (l && l->used) {
		l->news = true;
		pthread_cond_broadcast(&t->news);
	}
	pthread_mutex_unlock(&t->mutex);
}

void cfs_hint(struct cfs *fs, unsigned from, const struct cfs_hint *hint)
{
	bool block = cfs_vbn_valid(fs, hint->vbn);

	if (from >= CFS_MAX_SLOTS || from == fs->slot)
		return;
	switch (hint->kind) {
	case CFS_HINT_WISH:
		if (block)
			wished(fs, from, hint->vbn);
		break;
	case CFS_HINT_FREED:
		if (block)
			freed(fs, hint->vbn);
		break;
	case CFS_HINT_EVICT:
	case CFS_HINT_EVICTED:
		cfs_slot_look_soon(fs); /* at claims and beats: what they say counts */
		break;
	}
}
