// SPDX-License-Identifier: Apache-2.0
/*
 * iscsi.c: an iSCSI LUN as a node: opening and probing, registration of its sessions, reservations.
 * Reservations go over sessions of their own that block in the caller's thread; data goes over the
 * channels' sessions (iscsi_chan.c).
 */
#include "blockdev/iscsi.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "blockdev/baton.h"

/* A drained login is answered when the old session's last command has ended (LIO: seconds). */
#define DRAIN_MS 30000

/* Whose look runs in this thread: blk_read there goes over this session, not over a channel that
 * may itself be waiting for the look. */
static _Thread_local struct {
	const struct blk *blk;
	struct isess *sess;
} looking;

struct isess *iscsi_looking(const struct blk *lowest)
{
	return looking.blk == lowest ? looking.sess : NULL;
}

static bool iscsi_look_read(struct blk *blk, uint64_t offset, void *buf, size_t length, int *rc)
{
	struct isess *s = iscsi_looking(blk);

	if (!s)
		return false;
	MUST(length <= blk->info.max_transfer);
	*rc = isess_read(s, &blk->info, offset, buf, (uint32_t)length);
	return true;
}

/* --- registration ----------------------------------------------------------------------------- */

int iscsi_login_as(struct iscsi_blk *blk, struct isess *s, unsigned index, unsigned timeout_ms)
{
	unsigned used = atomic_load(&blk->used);

	while (used < index + 1 && index < ISID_CHANNELS &&
	       !atomic_compare_exchange_weak(&blk->used, &used, index + 1))
		;
	return isess_login(s, &blk->target, blk->node.info.name, blk->initiator, blk->isid, index,
			   timeout_ms);
}

static int look_over(struct iscsi_blk *blk, struct isess *s, int (*look)(void *arg), void *arg)
{
	int rc;

	if (!look)
		return 0;
	looking.blk = &blk->node;
	looking.sess = s;
	rc = look(arg);
	looking.blk = NULL;
	looking.sess = NULL;
	return rc ? -ESTALE : 0;
}

int iscsi_enrol(struct iscsi_blk *blk, struct isess *s)
{
	struct scsi_cmd ready = {.cdb_length = 6}; /* takes the attentions of a new session */
	int (*look)(void *arg);
	uint64_t key, generation;
	void *arg;
	int rc;

	pthread_mutex_lock(&blk->reg_lock);
	key = blk->key;
	look = blk->look;
	arg = blk->look_arg;
	generation = atomic_load(&blk->reg_generation);
	pthread_mutex_unlock(&blk->reg_lock);
	rc = scsi_run(&s->nexus, &ready);
	if (rc < 0 && rc != -EBADE)
		return rc;
	rc = 0;
	if (key) {
		/* A login does not end a registration everywhere, and on LIO a REGISTER of a nexus
		 * that has one can deadlock the target with somebody's PREEMPT of it. */
		if (!scsi_pr_is_registered(&s->nexus, blk->initiator, s->isid, key))
			rc = scsi_pr_register(&s->nexus, key);
		if (rc < 0)
			return fail(rc, "LUN %s: registration of key %llx failed", s->name,
				    (unsigned long long)key);
		s->registered = true;
		rc = look_over(blk, s, look, arg);
		if (rc < 0)
			return rc;
	} else if (s->registered) {
		(void)scsi_pr_register(&s->nexus, 0);
		s->registered = false;
	}
	s->generation = generation;
	return 0;
}

static int set_key(struct iscsi_blk *blk, uint64_t key, int (*look)(void *arg), void *arg)
{
	pthread_mutex_lock(&blk->reg_lock);
	blk->key = key;
	blk->look = look;
	blk->look_arg = arg;
	atomic_fetch_add(&blk->reg_generation, 1);
	pthread_mutex_unlock(&blk->reg_lock);
	return 0;
}

/* The service's session enrols now, so that an error is seen; the others before their next use. */
static int iscsi_pr_register(struct blk *node, uint64_t key, int (*look)(void *arg), void *arg)
{
	struct iscsi_blk *blk = iscsi_of(node);
	uint8_t *buf;
	int rc;

	if (!node->info.reservations)
		return fail(-EOPNOTSUPP, "LUN %s: has no persistent reservations", node->info.name);
	/* `look` is for later registrations: there may be no claim to look at yet. */
	set_key(blk, key, NULL, NULL);
	buf = xaligned(4096, node->info.block_size);
	rc = blk_read(node, 0, buf, node->info.block_size);
	free(buf);
	pthread_mutex_lock(&blk->reg_lock);
	blk->look = look;
	blk->look_arg = arg;
	pthread_mutex_unlock(&blk->reg_lock);
	return rc;
}

static bool is_open(struct iscsi_blk *blk, unsigned index)
{
	struct blk_chan *chan;
	bool open = false;

	pthread_mutex_lock(&blk->node.lock);
	list_for_each (chan, &blk->node.chans, link)
		open |= chan->index == index;
	pthread_mutex_unlock(&blk->node.lock);
	return open;
}

/* A registration outlives its session: one that has ended comes back to take it away. */
static int unregister_index(struct iscsi_blk *blk, unsigned index)
{
	struct isess s;
	int rc = iscsi_login_as(blk, &s, index, blk->node.options.timeout_ms);

	if (rc < 0)
		return rc;
	(void)scsi_pr_register(&s.nexus, 0);
	isess_close(&s, true);
	return 0;
}

/*
 * When the claim is free, and not before: a REGISTER of a nexus that another host is about to preempt
 * hangs some targets (INV-PR-1). So a channel that is closed earlier leaves its key to be taken away here.
 */
static int iscsi_pr_unregister(struct blk *node)
{
	struct iscsi_blk *blk = iscsi_of(node);
	unsigned used = atomic_load(&blk->used);
	int rc;

	set_key(blk, 0, NULL, NULL);
	iscsi_chans_unregister(blk);
	rc = unregister_index(blk, ISID_ONE_SHOT);
	for (unsigned i = 0; i < used && rc == 0; i++)
		if (!is_open(blk, i))
			rc = unregister_index(blk, i);
	return 0;
}

/* --- one-shot sessions ------------------------------------------------------------------------ */

int iscsi_one_shot(struct iscsi_blk *blk, struct isess *s, uint64_t *key)
{
	int rc = iscsi_login_as(blk, s, ISID_ONE_SHOT, blk->node.options.timeout_ms);

	if (rc < 0)
		return rc;
	rc = iscsi_enrol(blk, s);
	pthread_mutex_lock(&blk->reg_lock);
	*key = blk->key;
	pthread_mutex_unlock(&blk->reg_lock);
	if (rc == 0 && !*key) {
		random_bytes(key, sizeof(*key));
		rc = scsi_pr_register(&s->nexus, *key);
		s->registered = rc == 0;
	}
	if (rc < 0)
		isess_close(s, false);
	return rc;
}

void iscsi_one_shot_end(struct iscsi_blk *blk, struct isess *s)
{
	uint64_t key;

	pthread_mutex_lock(&blk->reg_lock);
	key = blk->key;
	pthread_mutex_unlock(&blk->reg_lock);
	if (s->registered && !s->lost && !key)
		(void)scsi_pr_register(&s->nexus, 0);
	isess_close(s, true);
}

static int iscsi_pr_reserve(struct blk *node, enum blk_pr_type type)
{
	struct iscsi_blk *blk = iscsi_of(node);
	struct isess s;
	uint64_t key;
	int rc;

	if (blk->baton) {
		if (type != BLK_PR_WE_REGISTRANTS_ONLY)
			return fail(-EINVAL, "LUN %s: with the baton the reservation is of type 5",
				    node->info.name);
		return baton_reserve(blk->baton);
	}
	rc = iscsi_one_shot(blk, &s, &key);
	if (rc < 0)
		return rc;
	rc = scsi_pr_reserve(&s.nexus, type, key);
	if (type == BLK_PR_WE_REGISTRANTS_ONLY && rc == 0)
		isess_close(&s, true); /* unregistering the holder would release it */
	else
		iscsi_one_shot_end(blk, &s);
	return rc < 0 ? fail(rc, "LUN %s: reservation of type %d failed", node->info.name, type)
		      : 0;
}

static int iscsi_pr_preempt(struct blk *node, enum blk_pr_type type, uint64_t victim_key)
{
	struct iscsi_blk *blk = iscsi_of(node);
	struct isess s;
	uint64_t key;
	int rc;

	if (blk->baton)
		return baton_preempt(blk->baton, victim_key);
	rc = iscsi_one_shot(blk, &s, &key);
	if (rc < 0)
		return rc;
	rc = scsi_pr_preempt(&s.nexus, type, key, victim_key);
	if (rc == -EBADE) { /* absent, says the target; or was it our own key that is gone? */
		struct blk_pr_state *state = xcalloc(1, sizeof(*state));

		rc = scsi_pr_read(&s.nexus, state);
		if (rc == 0 && scsi_pr_has(state, victim_key))
			rc = -EBADE;
		free(state);
	}
	iscsi_one_shot_end(blk, &s);
	return rc;
}

static int iscsi_pr_clear(struct blk *node)
{
	struct iscsi_blk *blk = iscsi_of(node);
	struct isess s;
	uint64_t key;
	int rc = iscsi_one_shot(blk, &s, &key);

	if (rc < 0)
		return rc;
	rc = scsi_pr_clear(&s.nexus, key);
	s.registered = false;
	iscsi_one_shot_end(blk, &s);
	return rc;
}

/* From a session that nobody else uses, unregistered: the truth for a proof. */
static int iscsi_pr_read(struct blk *node, struct blk_pr_state *out)
{
	struct iscsi_blk *blk = iscsi_of(node);
	struct isess s;
	int rc = iscsi_login_as(blk, &s, ISID_ONE_SHOT, node->options.timeout_ms);

	if (rc < 0)
		return rc;
	rc = scsi_pr_read(&s.nexus, out);
	isess_close(&s, true);
	if (blk->baton)
		baton_hide(out);
	return rc;
}

/* --- reinstatement ---------------------------------------------------------------------------- */

static int iscsi_drain_foreign(struct blk *node, const char *initiator, uint32_t isid, unsigned n)
{
	struct iscsi_blk *blk = iscsi_of(node);

	if (!node->info.reinstatement)
		return -EOPNOTSUPP;
	for (unsigned i = 0; i < n + 1; i++) { /* the baton's too */
		struct isess s;
		int rc = isess_login(&s, &blk->target, node->info.name, initiator, isid,
				     i < n ? i : ISID_CONTROL, DRAIN_MS);

		if (rc < 0)
			return rc;
		isess_close(&s, true);
	}
	return 0;
}

/* Whether a second login with the same name and ISID ends the first session. */
static bool try_reinstatement(struct iscsi_blk *blk, struct isess *first)
{
	struct pollfd p = {.fd = first->fd, .events = POLLIN | POLLRDHUP};
	struct isess second;
	bool ended;

	if (iscsi_login_as(blk, &second, ISID_ONE_SHOT, blk->node.options.timeout_ms) < 0)
		return false;
	/* The target closes the first connection before it answers, or soon after. */
	ended = poll(&p, 1, 200) > 0 && (p.revents & (POLLRDHUP | POLLHUP | POLLERR));
	isess_close(&second, true);
	return ended;
}

/* --- the node --------------------------------------------------------------------------------- */

static unsigned iscsi_sessions(const struct blk *node)
{
	return atomic_load(&iscsi_of((struct blk *)node)->used);
}

static int iscsi_rescan(struct blk *node)
{
	struct blk_info info = node->info;
	struct isess s;
	int rc = iscsi_login_as(iscsi_of(node), &s, ISID_ONE_SHOT, node->options.timeout_ms);

	if (rc < 0)
		return rc;
	rc = scsi_read_capacity(&s.nexus, &info);
	isess_close(&s, true);
	if (rc == 0 && info.block_size != node->info.block_size)
		return fail(-EINVAL, "LUN %s: its logical block has changed; mount it again",
			    node->info.name);
	if (rc == 0)
		blk_set_size(node, info.size);
	return rc;
}

/* The baton's control session. */
static int control_open(struct blk *node, struct scsi_nexus **out)
{
	struct isess *s = xcalloc(1, sizeof(*s));
	int rc = iscsi_login_as(iscsi_of(node), s, ISID_CONTROL, node->options.timeout_ms);

	if (rc < 0) {
		free(s);
		return rc == -ETIMEDOUT ? rc : -ENOTCONN;
	}
	*out = &s->nexus;
	return 0;
}

static void control_close(struct blk *node, struct scsi_nexus *nexus)
{
	struct isess *s = container_of(nexus, struct isess, nexus);

	(void)node;
	isess_close(s, true);
	free(s);
}

static int control_look(struct blk *node, struct scsi_nexus *nexus)
{
	struct iscsi_blk *blk = iscsi_of(node);
	int (*look)(void *arg);
	void *arg;

	pthread_mutex_lock(&blk->reg_lock);
	look = blk->look;
	arg = blk->look_arg;
	pthread_mutex_unlock(&blk->reg_lock);
	return look_over(blk, container_of(nexus, struct isess, nexus), look, arg);
}

/* The reservation will keep out whoever is not registered: a host without a key makes one up. */
static void control_enrol(struct blk *node)
{
	struct iscsi_blk *blk = iscsi_of(node);
	uint64_t key;

	random_bytes(&key, sizeof(key));
	pthread_mutex_lock(&blk->reg_lock);
	if (!blk->key) {
		blk->key = key;
		atomic_fetch_add(&blk->reg_generation, 1);
	}
	pthread_mutex_unlock(&blk->reg_lock);
}

static const struct baton_ops control_ops = {
	.open = control_open,
	.close = control_close,
	.look = control_look,
	.enrol = control_enrol,
};

static void iscsi_close(struct blk *node)
{
	struct iscsi_blk *blk = iscsi_of(node);

	baton_destroy(blk->baton);
	pthread_mutex_destroy(&blk->reg_lock);
	explicit_bzero(blk->target.password, sizeof(blk->target.password));
}

static const struct blk_ops iscsi_ops = {
	.chan_size = ISCSI_CHAN_SIZE,
	.close = iscsi_close,
	.rescan = iscsi_rescan,
	.chan_open = iscsi_chan_open,
	.chan_close = iscsi_chan_close,
	.submit = iscsi_chan_submit,
	.reset = iscsi_chan_reset,
	.pr_register = iscsi_pr_register,
	.pr_unregister = iscsi_pr_unregister,
	.pr_reserve = iscsi_pr_reserve,
	.pr_preempt = iscsi_pr_preempt,
	.pr_read = iscsi_pr_read,
	.pr_clear = iscsi_pr_clear,
	.drain_foreign = iscsi_drain_foreign,
	.sessions = iscsi_sessions,
	.look_read = iscsi_look_read,
};

static void set_limits(struct iscsi_blk *blk)
{
	const struct scsi_limits *l = &blk->limits;
	uint64_t unmap = l->max_unmap ? l->max_unmap : GiB, same = l->max_write_same;

	if (l->unmap_by_write_same && same)
		unmap = MIN(unmap, same);
	if (blk->node.info.write_same)
		unmap = MIN(unmap, same ? same : 32 * MiB);
	blk->node.max_discard = unmap;
}

static int probe(struct iscsi_blk *blk)
{
	struct blk *node = &blk->node;
	struct isess s;
	int rc = iscsi_login_as(blk, &s, ISID_ONE_SHOT, node->options.timeout_ms);

	if (rc < 0)
		return rc;
	node->info.kind = BLK_ISCSI;
	rc = scsi_probe(&s.nexus, &node->options, &node->info, &blk->limits);
	if (rc == 0)
		node->info.reinstatement = try_reinstatement(blk, &s);
	isess_close(&s, !node->info.reinstatement);
	set_limits(blk);
	return rc;
}

static void name_ourselves(struct iscsi_blk *blk, const struct blk_options *options)
{
	uint32_t r;

	random_bytes(&r, sizeof(r));
	blk->isid = options->isid ? options->isid : r;
	if (options->initiator)
		(void)str_format(blk->initiator, sizeof(blk->initiator), "%s", options->initiator);
	else
		(void)str_format(blk->initiator, sizeof(blk->initiator),
				 "iqn.2026-01.org.perilune:probe.%08x", r);
}

int blk_iscsi_open(const char *name, const struct blk_options *options, struct blk **out)
{
	struct iscsi_blk *blk = xcalloc(1, sizeof(*blk));
	int rc;

	blk_node_init(&blk->node, &iscsi_ops, name, options);
	pthread_mutex_init(&blk->reg_lock, NULL);
	name_ourselves(blk, options);
	rc = iscsi_parse_url(name, &blk->target);
	if (rc == 0 && options->chap_file)
		rc = iscsi_read_chap(options->chap_file, &blk->target);
	if (rc == 0 && options->pass) {
		blk->node.info.kind = BLK_ISCSI;
		blk->node.info.reinstatement = options->drains;
		*out = &blk->node;
		return 0;
	}
	if (rc == 0)
		rc = probe(blk);
	if (rc == 0 && blk->node.info.cas == BLK_CAS_BATON)
		rc = baton_create(&blk->baton, &blk->node, &control_ops, blk->limits.fua);
	if (rc == 0)
		rc = blk_node_start(&blk->node);
	if (rc < 0) {
		blk_node_free(&blk->node);
		return rc;
	}
	*out = &blk->node;
	return 0;
}
