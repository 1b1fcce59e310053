// SPDX-License-Identifier: Apache-2.0
/*
 * baton.c: the mutex that baton.h describes and the sections inside of it, one after the other in
 * one thread. Every command of a section is answered before the section ends; when an answer does
 * not come the nexus is given up, and the mutex with it: it stays taken until it counts as silent.
 */
#include "blockdev/baton.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"

#define TYPE	      BLK_PR_WE_REGISTRANTS_ONLY
#define ASK_AGAIN_US  800  /* mean wait between tries is half of it */
#define ASK_LATER_US  8000 /* when the section ahead takes long */
#define READ_STATE_AT 8	   /* tries without success before the keys are read */

enum job_kind { JOB_CAS, JOB_PREEMPT, JOB_RESERVE };

struct job {
	struct loop_work work; /* JOB_CAS: the way back */
	struct list link;
	enum job_kind kind;
	struct blk_req *req; /* JOB_CAS */
	uint64_t victim;     /* JOB_PREEMPT */
	uint64_t deadline_ns;
	int res;
	bool done; /* not JOB_CAS: under baton.lock */
};

struct baton {
	struct blk *blk;
	const struct baton_ops *ops;
	bool fua;
	pthread_t thread;
	pthread_mutex_t lock; /* jobs, ending, job.done; never held across I/O */
	pthread_cond_t more, finished;
	struct list jobs;
	bool ending;
	/* the thread's own */
	struct scsi_nexus *nexus;
	uint64_t key;	 /* of the nexus, when it is not BATON */
	bool left;	 /* the nexus is registered as BATON: we were the last inside */
	bool enrolled;	 /* ops->enrol was called */
	unsigned seed;	 /* of the waits */
	uint64_t holder; /* who was seen inside, at which generation, since when */
	uint32_t generation;
	uint64_t since_ns;
	struct blk_pr_state *state;
	uint8_t *buf; /* one logical block */
};

/* --- the nexus -------------------------------------------------------------------------------- */

static void nexus_drop(struct baton *b)
{
	if (b->nexus)
		b->ops->close(b->blk, b->nexus);
	b->nexus = NULL;
	b->left = false;
}

/* New nexus (or one that has lost its key), register, look: in this order. */
static int enrol(struct baton *b)
{
	int rc;

	random_bytes(&b->key, sizeof(b->key));
	b->key = BATON_TAG << 48 | b->key >> 16;
	b->left = false;
	rc = scsi_pr_register(b->nexus, b->key);
	return rc < 0 ? rc : b->ops->look(b->blk, b->nexus);
}

static int nexus_up(struct baton *b)
{
	struct scsi_cmd ready = {.cdb_length = 6}; /* TEST UNIT READY takes the attentions */
	int rc;

	if (!b->enrolled)
		b->ops->enrol(b->blk);
	b->enrolled = true;
	if (b->nexus)
		return 0;
	rc = b->ops->open(b->blk, &b->nexus);
	if (rc < 0)
		return rc;
	rc = scsi_run(b->nexus, &ready);
	return rc < 0 ? rc : enrol(b);
}

/* --- the mutex -------------------------------------------------------------------------------- */

/* Somebody is inside. When nothing has moved for long he is taken out: 0 then, we are inside. */
static int wait_or_evict(struct baton *b)
{
	const struct blk_pr_state *st = b->state;
	uint64_t now = clock_boot_ns();
	int rc;

	if (st->holder != b->holder || st->generation != b->generation) {
		b->holder = st->holder;
		b->generation = st->generation;
		b->since_ns = now;
		return -EAGAIN;
	}
	if (now - b->since_ns < BATON_SILENT_MS * NS_PER_MS)
		return -EAGAIN;
	log_warn("blk",
		 "LUN %s: the holder of the compare-and-write mutex, key %llx, is silent; "
		 "its key is preempted",
		 b->blk->info.name, (unsigned long long)st->holder);
	b->since_ns = now;
	rc = scsi_pr_preempt(b->nexus, TYPE, b->key, st->holder);
	return rc == -EBADE ? -EAGAIN : rc;
}

/* PREEMPT(BATON) found none: why? -EAGAIN: ask again. */
static int look_around(struct baton *b)
{
	int rc = scsi_pr_read(b->nexus, b->state);

	if (rc < 0)
		return rc;
	if (!scsi_pr_has(b->state, b->key)) { /* preempted, or an array that lost its keys */
		rc = enrol(b);
		return rc < 0 ? rc : -EAGAIN;
	}
	if (b->state->type == BLK_PR_NONE) { /* never used, or lost: one RESERVE succeeds */
		rc = scsi_pr_reserve(b->nexus, TYPE, b->key);
		return rc == -EBADE ? -EAGAIN : rc;
	}
	if (b->state->type != TYPE)
		return fail(-EBUSY,
			    "LUN %s: somebody holds a reservation of type %d on it; release it",
			    b->blk->info.name, b->state->type);
	return wait_or_evict(b);
}

static int try_enter(struct baton *b, unsigned n)
{
	int rc;

	if (b->left) { /* rename it back, if nobody took it meanwhile */
		b->left = false;
		rc = scsi_pr_rename(b->nexus, BATON_KEY, b->key);
		if (rc != -EBADE)
			return rc;
		rc = enrol(b);
		if (rc < 0)
			return rc;
	}
	rc = scsi_pr_preempt(b->nexus, TYPE, b->key, BATON_KEY);
	if (rc != -EBADE)
		return rc;
	return n % READ_STATE_AT == READ_STATE_AT - 1 ? look_around(b) : -EAGAIN;
}

static int enter(struct baton *b, uint64_t deadline_ns)
{
	for (unsigned n = 0;; n++) {
		int rc = nexus_up(b);

		if (rc == 0)
			rc = try_enter(b, n);
		if (rc == 0)
			return 0;
		if (rc == -ENOTCONN || rc == -ETIMEDOUT)
			nexus_drop(b);
		else if (rc != -EAGAIN)
			return rc;
		if (clock_boot_ns() >= deadline_ns)
			return -ETIMEDOUT;
		usleep((unsigned)rand_r(&b->seed) %
		       (n < 4 * READ_STATE_AT ? ASK_AGAIN_US : ASK_LATER_US));
	}
}

static void leave(struct baton *b)
{
	int rc = scsi_pr_rename(b->nexus, b->key, BATON_KEY);

	if (rc == 0)
		b->left = true;
	else if (rc == -EBADE) /* taken out as silent: what was answered was done in time */
		log_warn("blk", "LUN %s: the compare-and-write mutex was taken from this host",
			 b->blk->info.name);
	else
		nexus_drop(b);
}

/* --- sections --------------------------------------------------------------------------------- */

/*
 * A command inside: not sent again by itself. An attention (29h: the array may have forgotten who is
 * inside; 2Ah: somebody changed it) or a conflict means that it was not begun: the section starts
 * again, -EAGAIN.
 */
static int inside(struct baton *b, struct scsi_cmd *cmd)
{
	int rc = b->nexus->exec(b->nexus, cmd);

	if (rc < 0)
		return rc;
	if (cmd->status == SCSI_RESERVATION_CONFLICT)
		return -EAGAIN;
	switch (scsi_resend(cmd->status, &cmd->sense)) {
	case SCSI_FINAL:
		return scsi_errno(cmd->status, &cmd->sense);
	case SCSI_RESEND:
	case SCSI_RESEND_LATER:
		return -EAGAIN;
	case SCSI_RESEND_ENDED:
		return -EIO;
	}
	return -EIO;
}

static int inside_rw(struct baton *b, uint8_t opcode, uint64_t offset, void *buf)
{
	uint32_t n = b->blk->info.block_size;
	struct scsi_cmd cmd = {.cdb = {opcode},
			       .cdb_length = 16,
			       .dir = opcode == 0x88 ? SCSI_IN : SCSI_OUT,
			       .data = buf,
			       .length = n};
	int rc;

	if (opcode == 0x8a && b->fua)
		cmd.cdb[1] = 0x08;
	be64_put(cmd.cdb + 2, offset / n);
	be32_put(cmd.cdb + 10, 1);
	rc = inside(b, &cmd);
	return rc == 0 && opcode == 0x88 && cmd.got != n ? -EIO : rc;
}

static int swap(struct baton *b, struct blk_req *req)
{
	struct scsi_cmd sync = {.cdb = {0x91}, .cdb_length = 16};
	int rc = inside_rw(b, 0x88, req->offset, b->buf);

	if (rc < 0)
		return rc;
	if (memcmp(b->buf, req->iov[0].iov_base, req->length) != 0)
		return -EILSEQ;
	memcpy(b->buf, req->iov[1].iov_base, req->length);
	if (blk_gate_shut(b->blk, req)) /* it may have waited for the mutex */
		return -ESTALE;
	rc = inside_rw(b, 0x8a, req->offset, b->buf);
	req->maybe_done = rc < 0 && rc != -EAGAIN;
	if (rc < 0 || b->fua || !b->blk->info.write_cache)
		return rc;
	rc = inside(b, &sync);
	if (rc < 0) { /* written, but is it durable? The caller settles it. */
		req->maybe_done = true;
		rc = rc == -EAGAIN ? -EIO : rc;
	}
	return rc;
}

static int act(struct baton *b, struct job *job)
{
	int rc;

	switch (job->kind) {
	case JOB_CAS:
		rc = b->ops->look(b->blk, b->nexus);
		return rc < 0 ? rc : swap(b, job->req);
	case JOB_PREEMPT:
		rc = scsi_pr_preempt(b->nexus, TYPE, b->key, job->victim);
		return rc == -EBADE ? 0 : rc; /* it is not there (any more) */
	case JOB_RESERVE:
		return 0; /* being inside is the reservation */
	}
	return -EINVAL;
}

static int section(struct baton *b, struct job *job)
{
	for (;;) {
		int rc = enter(b, job->deadline_ns);

		if (rc < 0)
			return rc;
		rc = act(b, job);
		if (rc == -ENOTCONN || rc == -ETIMEDOUT) {
			/* What was sent may still execute: the mutex is not ours to give. */
			nexus_drop(b);
			return rc;
		}
		leave(b);
		if (rc != -EAGAIN)
			return rc;
		if (clock_boot_ns() >= job->deadline_ns)
			return -ETIMEDOUT;
	}
}

/* --- the thread ------------------------------------------------------------------------------- */

static void deliver(struct loop_work *work)
{
	struct job *job = container_of(work, struct job, work);

	blk_complete(job->req, job->res);
}

static void *baton_main(void *arg)
{
	struct baton *b = arg;

	pthread_mutex_lock(&b->lock);
	for (;;) {
		struct job *job;

		while (list_empty(&b->jobs) && !b->ending)
			pthread_cond_wait(&b->more, &b->lock);
		if (list_empty(&b->jobs))
			break;
		job = list_first(&b->jobs, struct job, link);
		list_del(&job->link);
		pthread_mutex_unlock(&b->lock);
		job->res = section(b, job);
		if (job->kind == JOB_CAS) {
			/* Once it is posted it may be gone: it lies in the request. */
			loop_post(blk_priv(job->req)->chan->loop, &job->work);
			pthread_mutex_lock(&b->lock);
			continue;
		}
		pthread_mutex_lock(&b->lock);
		job->done = true;
		pthread_cond_broadcast(&b->finished);
	}
	pthread_mutex_unlock(&b->lock);
	nexus_drop(b);
	return NULL;
}

static void add_job(struct baton *b, struct job *job, unsigned timeout_ms)
{
	job->deadline_ns = clock_boot_ns() + timeout_ms * NS_PER_MS;
	pthread_mutex_lock(&b->lock);
	list_add_tail(&b->jobs, &job->link);
	pthread_cond_signal(&b->more);
	pthread_mutex_unlock(&b->lock);
}

void baton_submit(struct baton *b, struct blk_chan *chan, struct blk_req *req)
{
	struct job *job = BLK_BACKEND(struct job, req);

	memset(job, 0, sizeof(*job));
	job->kind = JOB_CAS;
	job->req = req;
	job->work.fn = deliver;
	add_job(b, job, blk_chan_timeout_ms(chan));
}

static int run_job(struct baton *b, struct job *job)
{
	/* Room for taking out a silent holder. */
	add_job(b, job, b->blk->options.timeout_ms + 2 * BATON_SILENT_MS);
	pthread_mutex_lock(&b->lock);
	while (!job->done)
		pthread_cond_wait(&b->finished, &b->lock);
	pthread_mutex_unlock(&b->lock);
	return job->res;
}

int baton_preempt(struct baton *b, uint64_t victim)
{
	struct job job = {.kind = JOB_PREEMPT, .victim = victim};

	return run_job(b, &job);
}

static bool own(uint64_t key)
{
	return key == BATON_KEY || key >> 48 == BATON_TAG;
}

void baton_hide(struct blk_pr_state *state)
{
	unsigned n = 0;

	for (unsigned i = 0; i < state->keys; i++)
		if (!own(state->key[i]))
			state->key[n++] = state->key[i];
	state->keys = n;
	if (own(state->holder))
		state->holder = 0;
}

int baton_reserve(struct baton *b)
{
	struct job job = {.kind = JOB_RESERVE};

	return run_job(b, &job);
}

int baton_create(struct baton **out, struct blk *blk, const struct baton_ops *ops, bool fua)
{
	struct baton *b = xcalloc(1, sizeof(*b));
	int rc;

	b->blk = blk;
	b->ops = ops;
	b->fua = fua;
	b->buf = xaligned(4096, blk->info.block_size);
	b->state = xcalloc(1, sizeof(*b->state));
	random_bytes(&b->seed, sizeof(b->seed));
	list_init(&b->jobs);
	pthread_mutex_init(&b->lock, NULL);
	pthread_cond_init(&b->more, NULL);
	pthread_cond_init(&b->finished, NULL);
	rc = -pthread_create(&b->thread, NULL, baton_main, b);
	if (rc < 0) {
		free(b->buf);
		free(b->state);
		free(b);
		return fail(rc, "thread: %s", strerror(-rc));
	}
	pthread_setname_np(b->thread, "blk-baton");
	*out = b;
	return 0;
}

void baton_destroy(struct baton *b)
{
	if (!b)
		return;
	pthread_mutex_lock(&b->lock);
	b->ending = true;
	pthread_cond_signal(&b->more);
	pthread_mutex_unlock(&b->lock);
	pthread_join(b->thread, NULL);
	pthread_cond_destroy(&b->more);
	pthread_cond_destroy(&b->finished);
	pthread_mutex_destroy(&b->lock);
	free(b->buf);
	free(b->state);
	free(b);
}
