// SPDX-License-Identifier: Apache-2.0
/*
 * peer_hint.c: hints between volumes (clusterfs/cfs.h): what the beats say anyway, a little sooner. They
 * pass a small queue from the volume's threads to ours; what is too much, or too late, is dropped.
 */
#include "host/peers_impl.h"

#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/util.h"

static void send_hint(struct peer_link *l, const struct cfs_hint *hint)
{
	static const enum frame_type types[] = {
		[CFS_HINT_WISH] = FRAME_WISH,
		[CFS_HINT_FREED] = FRAME_FREED,
		[CFS_HINT_EVICT] = FRAME_EVICT,
		[CFS_HINT_EVICTED] = FRAME_EVICTED,
	};
	bool lock = hint->kind == CFS_HINT_WISH || hint->kind == CFS_HINT_FREED;
	le64 vbn = le64_of(hint->vbn);
	struct frame_evict evict;

	static_assert(sizeof(evict) == sizeof(vbn), "one size for both");
	peer_evict_encode(hint->slot, hint->epoch, &evict);
	if (peer_conn_features(l->conn) & PEER_F_HINTS)
		(void)peer_conn_send(l->conn, types[hint->kind], 0, 0,
				     lock ? (const void *)&vbn : &evict, sizeof(vbn), NULL, 0);
}

void peer_hints_go(struct peer_link *l)
{
	if (clock_boot_ms() - l->hints_ms < PEER_HINT_OLD_MS)
		for (unsigned i = 0; i < l->hints_n; i++)
			send_hint(l, &l->hints[i]);
	l->hints_n = 0;
}

static void hint_one(struct peer_link *l, const struct cfs_hint *hint)
{
	uint64_t now = clock_boot_ms();

	if (!peer_link_need(l, false) || l->dropped)
		return;
	if (l->open) {
		send_hint(l, hint);
		return;
	}
	if (now - l->hints_ms >= PEER_HINT_OLD_MS)
		l->hints_n = 0;
	if (l->hints_n == 0)
		l->hints_ms = now;
	if (l->hints_n < PEER_HINTS_WAITING)
		l->hints[l->hints_n++] = *hint;
}

static void hints_posted(struct loop_work *work)
{
	struct host_peers *p = container_of(work, struct host_peers, hint_work);
	struct peer_volume *v;

	pthread_mutex_lock(&p->lock);
	p->hinting = false;
	list_for_each (v, &p->volumes, link) {
		for (unsigned i = 0; v->fs && i < v->hints_n; i++)
			for (uint64_t slots = v->hints[i].slots; slots; slots &= slots - 1)
				hint_one(&v->to[__builtin_ctzll(slots)], &v->hints[i].hint);
		v->hints_n = 0;
	}
	pthread_mutex_unlock(&p->lock);
}

void peer_hints_init(struct host_peers *p)
{
	p->hint_work.fn = hints_posted;
}

void host_peers_hint(struct host_peers *p, struct cfs *fs, uint64_t slots,
		     const struct cfs_hint *hint)
{
	struct peer_volume *v;

	if (!p)
		return;
	pthread_mutex_lock(&p->lock);
	list_for_each (v, &p->volumes, link) {
		if (v->fs != fs || v->hints_n == PEER_HINTS_QUEUED || p->stopping)
			continue;
		v->hints[v->hints_n].slots = slots;
		v->hints[v->hints_n++].hint = *hint;
		if (!p->hinting)
			loop_post(p->loop, &p->hint_work);
		p->hinting = true;
	}
	pthread_mutex_unlock(&p->lock);
}

int peer_hint_serve(struct peer_served *s, const struct frame *f)
{
	unsigned from = peer_conn_theirs(s->conn)->slot;
	struct cfs *fs = s->volume ? s->volume->fs : NULL;
	struct cfs_hint hint = {0};
	uint64_t vbns[PEER_HINTS_MAX];
	int n;

	if (f->type == FRAME_EVICT || f->type == FRAME_EVICTED) {
		n = peer_evict_decode(f, &hint.slot, &hint.epoch);
		hint.kind = f->type == FRAME_EVICT ? CFS_HINT_EVICT : CFS_HINT_EVICTED;
		if (n == 0 && fs)
			cfs_hint(fs, from, &hint);
		return n;
	}
	n = peer_hints_decode(f, vbns);
	hint.kind = f->type == FRAME_WISH ? CFS_HINT_WISH : CFS_HINT_FREED;
	for (int i = 0; i < n && fs; i++) {
		hint.vbn = vbns[i];
		cfs_hint(fs, from, &hint);
	}
	return n < 0 ? n : 0;
}
