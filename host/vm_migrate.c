// SPDX-License-Identifier: Apache-2.0
/*
 * vm_migrate.c: `vm migrate`: a VM leaves this host while it runs. A task's thread talks to the target and sends
 * memory; the supervisor does what touches VMM and lock, the whole standstill in one piece (vm_standstill.c).
 */
#include "host/vm_leaving.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/cpu_table.h"
#include "base/err.h"
#include "base/log.h"
#include "base/peer_stream.h"
#include "clusterfs/cfs.h"
#include "host/daemon.h"
#include "host/peers.h"
#include "host/verbs.h"
#include "host/vm_frames.h"
#include "host/vm_cpu.h"
#include "host/vm_process.h"
#include "host/volume.h"
#include "migrate/source.h"
#include "vfs/controller.h"

#define STREAMS_DEFAULT	 2u
#define DOWNTIME_DEFAULT 300u  /* ms */
#define DOWNTIME_SLOW	 1500u /* ms, after so many slow rounds: */
#define SLOW_SYNCS	 5u
#define DOWNTIME_MAX	 600000u
#define CHANGE_MS	 10000
#define BEGIN_MS	 15000 /* the target makes a VMM */
#define JOIN_MS		 10000
/* SAVE, LOAD and two round trips: what of a standstill cannot be tried before */
#define UNTRIED_MS 15
#define LUN_STEPS  6 /* and so many requests to the LUN, one after the other */
#define TRIES	   5
#define STAT_BLOCK 512u /* of st_blocks */

/* --- ended by others ---------------------------------------------------------------------------------- */

void vm_move_break(struct host_vm *vm, const char *why)
{
	pthread_mutex_lock(&vm->lock);
	if (vm->move && !vm->move->stop && !vm->move->post) {
		vm->move->stop = true;
		vm->move->why.err = -EINTR;
		(void)str_format(vm->move->why.message, sizeof(vm->move->why.message),
				 "vm %s: not moved: %s", vm->name, why);
		if (vm->move->source)
			mig_source_cancel(vm->move->source);
		pthread_cond_broadcast(&vm->changed);
	}
	pthread_mutex_unlock(&vm->lock);
}

void vm_move_end(struct host_vm *vm, const char *why)
{
	vm_move_break(vm, why);
	pthread_mutex_lock(&vm->lock);
	if (vm->move)
		vm->move->waited_for = true;
	pthread_cond_broadcast(&vm->changed);
	while (vm->move)
		pthread_cond_wait(&vm->changed, &vm->lock);
	pthread_mutex_unlock(&vm->lock);
}

int vm_leaving_stop(struct leaving *l)
{
	int rc = 0;

	pthread_mutex_lock(&l->vm->lock);
	if (l->move.stop)
		rc = err_restore(&l->move.why);
	pthread_mutex_unlock(&l->vm->lock);
	return rc;
}

/* The VM's own reason is behind the error that a cancelled stream tells. */
static int true_error(struct leaving *l, int rc)
{
	struct err_info mine;
	int why;

	if (rc != -ECANCELED)
		return rc;
	err_save(&mine, rc);
	why = vm_leaving_stop(l);
	return why < 0 ? why : err_restore(&mine);
}

void vm_leaving_step(struct leaving *l, const char *name)
{
	host_step(l->call->host, name);
}

/* --- what the target must know ------------------------------------------------------------------------- */

static int get_cpu(struct host_vm *vm, void *arg)
{
	struct leaving *l = arg;
	int rc = vm->features & VMCTL_F_FIRMWARE ? vm_call_plain(vm, VMCTL_CAN_SAVE, VM_CALL_MS)
						 : 0;

	if (rc < 0)
		return rc;
	rc = vm_cpu_get(vm, &l->cpu);
	return rc < 0 ? fail_prefix(rc, "vm %s: its monitor cannot move it", vm->name) : 0;
}

/* Bytes of the host's memory that its guest has. */
static uint64_t memory_in_use(const struct host_vm *vm)
{
	struct stat st;

	return fstat(vm->memory_fd, &st) < 0 ? 0 : (uint64_t)st.st_blocks * STAT_BLOCK;
}

static json_t *make_begin(struct leaving *l)
{
	cleanup_free char *text = vm_cpu_text(&l->cpu);
	struct vm_def *def = xmalloc(sizeof(*def));
	char boot[40];
	json_t *doc;

	vm_get_def(l->vm, def);
	process_boot(boot);
	doc = json_pack("{s:i, s:s, s:o, s:s, s:I, s:I, s:b, s:b, s:b, s:s, s:I}", "version",
			MIG_VERSION, "name", l->vm->name, "definition", vm_def_record(def), "cpu",
			text, "streams", (json_int_t)l->streams_n, "started_ns",
			(json_int_t)l->vm->started_ns, "verify", l->verify, "held", l->held,
			"postcopy", l->postcopy, "boot", boot, "memory_used",
			(json_int_t)memory_in_use(l->vm));
	free(def);
	return doc;
}

static int take_token(struct leaving *l, const struct frame *f)
{
	json_t *doc = json_loadb((const char *)f->body, f->bytes, 0, NULL);
	const char *text = json_string_value(json_object_get(doc, "token"));
	int rc = text && strlen(text) == 2 * MIG_TOKEN_BYTES ? 0 : -EBADMSG;

	for (unsigned i = 0; rc == 0 && i < MIG_TOKEN_BYTES; i++) {
		char two[3] = {text[2 * i], text[2 * i + 1], 0}, *end;

		l->token[i] = (uint8_t)strtoul(two, &end, 16);
		rc = *end ? -EBADMSG : 0;
	}
	json_decref(doc);
	return rc < 0 ? fail(rc, "host %s: its answer is not understood", l->to) : 0;
}

/* The target's refusals come before anything moves: here. */
static int begin(struct leaving *l)
{
	struct host *host = l->call->host;
	struct cfs *fs = host_volume_fs(l->vm->volume);
	struct frame answer;
	json_t *doc;
	char *text;
	int rc = vm_do(l->vm, get_cpu, l);

	if (rc == 0)
		rc = host_peers_stream(host->peers, fs, l->to, &l->control);
	if (rc < 0)
		return rc;
	l->slot = peer_stream_theirs(l->control)->slot;
	l->epoch = peer_stream_theirs(l->control)->epoch;
	doc = make_begin(l);
	text = json_dumps(doc, JSON_COMPACT);
	json_decref(doc);
	if (!text || strlen(text) > PEER_MIG_BEGIN_MAX)
		rc = fail(-EMSGSIZE, "vm %s: its definition is too large", l->vm->name);
	if (rc == 0)
		rc = peer_stream_call(l->control, FRAME_MIG_BEGIN, text, (uint32_t)strlen(text),
				      NULL, 0, BEGIN_MS, &answer);
	free(text);
	return rc < 0 ? rc : take_token(l, &answer);
}

static unsigned streams_of(const struct leaving *l)
{
	return (unsigned)l->streams_n + (l->postcopy ? MIG_POST_STREAMS : 0);
}

static int join(struct leaving *l)
{
	struct cfs *fs = host_volume_fs(l->vm->volume);
	struct mig_join body;
	struct frame answer;
	int rc = 0;

	for (unsigned i = 0; i < streams_of(l) && rc == 0; i++) {
		rc = host_peers_stream(l->call->host->peers, fs, l->to, &l->streams[i]);
		mig_join_encode(l->token, i, &body);
		if (rc == 0)
			rc = peer_stream_call(l->streams[i], FRAME_MIG_JOIN, &body, sizeof(body),
					      NULL, 0, JOIN_MS, &answer);
	}
	return rc;
}

/* --- the log -------------------------------------------------------------------------------------------- */

static int make_log(struct leaving *l)
{
	void *map;

	l->log_bytes = vmctl_log_bytes(l->vm->def.memory);
	l->log_fd = memfd_create("log", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (l->log_fd < 0 || ftruncate(l->log_fd, (off_t)l->log_bytes) < 0 ||
	    fcntl(l->log_fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		return fail(-errno, "vm %s: a log of its memory: %s", l->vm->name, strerror(errno));
	map = mmap(NULL, l->log_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, l->log_fd, 0);
	if (map == MAP_FAILED)
		return fail(-errno, "vm %s: a log of its memory: %s", l->vm->name, strerror(errno));
	l->log = map;
	return 0;
}

static int log_start(struct host_vm *vm, void *arg)
{
	struct leaving *l = arg;
	struct vmctl_msg *msg = xcalloc(1, sizeof(*msg));
	int rc;

	msg->type = VMCTL_LOG_START;
	msg->fds[0] = l->log_fd;
	msg->fds_n = 1;
	controller_log(vm->controller, l->log, vm->def.memory / VMCTL_LOG_PAGE);
	rc = vm_call(vm, msg, VM_CALL_MS);
	free(msg);
	return rc;
}

static int log_stop(struct host_vm *vm, void *arg)
{
	(void)arg;
	return vm_call_plain(vm, VMCTL_LOG_STOP, VM_CALL_MS);
}

/* --- rounds --------------------------------------------------------------------------------------------- */

/*
 * With the log go a drain and a checkpoint, so that those in the standstill find little to do, and it is known what
 * they take: the estimate counts them, the log's two syncs, and what the hand-over asks of the LUN.
 */
static int on_sync(void *arg)
{
	struct leaving *l = arg;
	uint64_t before, checkpoint_ns, constant_ns;
	int rc = vm_do(l->vm, vm_try_drain, l);

	before = clock_boot_ns();
	if (rc == 0)
		rc = cfs_vm_checkpoint(l->vm->vm_lock);
	checkpoint_ns = clock_boot_ns() - before;
	if (rc == 0)
		rc = vm_do(l->vm, vm_log_sync, l);
	if (rc < 0)
		return rc;
	constant_ns = l->drain_ns + checkpoint_ns + 2 * l->log_ns +
		      LUN_STEPS * host_volume_latency(l->vm->volume) + UNTRIED_MS * NS_PER_MS;
	mig_source_constant(l->move.source, constant_ns);
	/* Nobody insists on the default: a guest on slow storage is used to waiting. */
	if (!l->strict && constant_ns > l->max_downtime * NS_PER_MS && ++l->slow == SLOW_SYNCS) {
		l->max_downtime = MAX(l->max_downtime, DOWNTIME_SLOW);
		mig_source_max_downtime(l->move.source, l->max_downtime);
	}
	vm_leaving_step(l, "source.round");
	return 0;
}

static int on_progress(void *arg, const struct mig_progress *p)
{
	struct leaving *l = arg;
	char what[160], eta[32] = "";
	int rc;

	l->last = *p;
	if (p->eta_ms != UINT64_MAX)
		(void)str_format(eta, sizeof(eta), ", %llu s left",
				 (unsigned long long)(p->eta_ms / 1000));
	(void)str_format(what, sizeof(what), "round %u: %llu MiB to send at %llu MiB/s%s%s",
			 p->round + 1, (unsigned long long)(p->remaining / MiB),
			 (unsigned long long)(p->rate / MiB), eta,
			 p->throttle ? ", the guest is slowed down" : "");
	rc = vm_leaving_stop(l);
	if (rc == 0 && l->quick &&
	    vm_is_ending(l->vm)) /* its supervisor sends, and hears nobody else */
		rc = fail(-EINTR, "vm %s: not moved: it ends", l->vm->name);
	return rc < 0 ? rc
		      : host_progress(l->call, p->sent + p->zeroes,
				      p->sent + p->zeroes + p->remaining, what);
}

static int on_throttle(void *arg, unsigned percent)
{
	struct leaving *l = arg;

	l->throttled = percent;
	return vm_throttle(l->vm, percent);
}

static const struct mig_source_ops source_ops = {
	.sync = on_sync, .progress = on_progress, .throttle = on_throttle};

static int make_source(struct leaving *l)
{
	struct mig_source_options o = {
		.memory_fd = l->vm->memory_fd,
		.memory = l->vm->def.memory,
		.log = l->log,
		.control = l->control,
		.streams_n = (unsigned)l->streams_n,
		.bandwidth = l->bandwidth,
		.max_downtime_ms = l->max_downtime,
		.constant_ns = UNTRIED_MS * NS_PER_MS,
		.ops = &source_ops,
		.arg = l,
	};
	struct mig_source *source;
	int rc;

	memcpy(o.streams, l->streams, sizeof(o.streams));
	if (l->postcopy) {
		o.urgent = l->streams[l->streams_n];
		o.wants = l->streams[l->streams_n + 1];
	}
	rc = mig_source_create(&source, &o);
	if (rc < 0)
		return rc;
	pthread_mutex_lock(&l->vm->lock);
	l->move.source = source;
	if (l->move.stop)
		rc = err_restore(&l->move.why);
	pthread_mutex_unlock(&l->vm->lock);
	return rc;
}

/* --- post-copy ---------------------------------------------------------------------------------------- */

/* It runs there; what it lacks is here, and nowhere else. */
static int send_rest(struct leaving *l)
{
	int rc;

	vm_leaving_step(l, "source.rest");
	rc = mig_source_rest(l->move.source);
	vm_leaving_step(l, "source.whole");
	return rc < 0 ? fail_prefix(rc,
				    "vm %s: not all of its memory came to host %s, which ends it "
				    "as with a"
				    " power cut; start it again",
				    l->vm->name, l->to)
		      : 0;
}

/* --- from the beginning to the end ---------------------------------------------------------------------------- */

static int rounds(struct leaving *l)
{
	int rc = -EAGAIN;

	for (int i = 0; i < TRIES && rc == -EAGAIN; i++) {
		rc = l->quick ? 0 : mig_source_rounds(l->move.source);
		l->outrun = mig_source_outrun(l->move.source);
		if (rc == MIG_SOURCE_POST) {
			l->post = true;
			rc = 0;
		}
		if (rc == 0)
			rc = host_progress(l->call, l->last.sent, l->last.sent, "handing it over");
		if (rc == 0)
			rc = vm_do(l->vm, vm_stand_still, l);
	}
	return rc == -EAGAIN ? fail(-ETIMEDOUT,
				    "vm %s: its storage did not answer within %u ms, %d times; it"
				    " cannot be stopped for the move",
				    l->vm->name, LEAVING_DRAIN_MS, TRIES)
			     : rc;
}

static int move_it(struct leaving *l)
{
	int rc;

	(void)host_progress(l->call, 0, 0, "asking the other host");
	rc = begin(l);
	vm_leaving_step(l, "source.begun");
	if (rc == 0)
		rc = join(l);
	if (rc == 0 && l->vm->def.nets)
		l->frames = vm_frames_open(l->call->host->peers, host_volume_fs(l->vm->volume),
					   l->to, l->vm->name);
	if (rc == 0)
		rc = make_log(l);
	if (rc == 0)
		rc = vm_do(l->vm, log_start, l);
	if (rc == 0)
		rc = make_source(l);
	if (rc == 0)
		rc = rounds(l);
	if (rc == 0 && l->post) {
		rc = send_rest(l);
		if (rc == 0 && l->stands)
			vm_leaving_listen(l);
	}
	return rc < 0 ? true_error(l, rc) : 0;
}

/* What one try has made, of a VM that may be gone or going. */
static void clean_up(struct leaving *l, int rc)
{
	struct host_vm *vm = l->vm;
	struct err_info why;

	err_save(&why, rc);
	if (l->throttled)
		(void)vm_throttle(vm, 0);
	if (l->log) { /* also of one that is being taken apart, or gone: its controller waits for us */
		(void)vm_do(vm, log_stop, l);
		controller_log(vm->controller, NULL, 0);
	}
	pthread_mutex_lock(&vm->lock);
	struct mig_source *source = l->move.source;
	l->move.source = NULL;
	pthread_mutex_unlock(&vm->lock);
	mig_source_destroy(source);
	(void)err_restore(&why);
	peer_stream_end(l->control, rc); /* first: its words are what the target hears */
	for (unsigned i = 0; i < streams_of(l); i++)
		peer_stream_end(l->streams[i], 0);
	if (l->frames)
		peer_stream_end(l->frames, 0);
	if (l->log)
		munmap(l->log, l->log_bytes);
	if (l->log_fd >= 0)
		close(l->log_fd);
	(void)err_restore(&why);
}

static json_int_t ms(uint64_t ns)
{
	return (json_int_t)(ns / NS_PER_MS);
}

static json_t *report(const struct leaving *l)
{
	const struct standstill *st = &l->stood;
	json_t *stood = json_pack("{s:I, s:I, s:I, s:I, s:I, s:I}", "pause_ms", ms(st->pause),
				  "drain_ms", ms(st->drain), "pages_ms", ms(st->pages), "state_ms",
				  ms(st->state), "offer_ms", ms(st->offer), "lun_steps",
				  (json_int_t)l->lun_steps);

	return json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:b, s:i, s:I, s:o}", "name", l->vm->name,
			 "to", l->to, "downtime_ms", ms(st->all), "total_ms",
			 ms(l->moved_ns - l->began_ns), "sent", (json_int_t)l->last.sent, "zeroes",
			 (json_int_t)l->last.zeroes, "postcopy", l->post, "rounds",
			 (int)l->last.round, "expected_ms", (json_int_t)l->last.blackout_ms,
			 "standstill", stood);
}

/* The same once more, from the beginning, as a post-copy: `move` stays, so who breaks the one breaks the other. */
static void begin_anew(struct leaving *l)
{
	struct leaving anew = {
		.call = l->call,
		.vm = l->vm,
		.move = l->move,
		.to = l->to,
		.max_downtime = l->max_downtime,
		.bandwidth = l->bandwidth,
		.streams_n = l->streams_n,
		.strict = l->strict,
		.began_ns = l->began_ns,
		.log_fd = -1,
		.postcopy = true,
	};

	*l = anew;
}

/* It writes faster than can be sent: it runs there before all has come, if the target can have that. */
static int move_after_all(struct leaving *l, int rc)
{
	struct err_info why;
	char text[256];

	err_save(&why, rc);
	(void)str_format(text, sizeof(text), "begins anew, as a post-copy: %.200s", why.message);
	vm_tell(l->vm, text);
	begin_anew(l);
	rc = move_it(l);
	clean_up(l, rc);
	return rc == -EOPNOTSUPP ? err_restore(&why) : rc;
}

static void let_go(struct host_vm *vm, int rc)
{
	pthread_mutex_lock(&vm->lock);
	vm->move = NULL;
	if (rc < 0)
		vm->move_to[0] = 0;
	pthread_cond_broadcast(&vm->changed);
	pthread_mutex_unlock(&vm->lock);
}

static int leave(struct leaving *l)
{
	struct host_vm *vm = l->vm;
	char text[256];
	int rc = vm_change_begin(vm, "it moves to another host", true, CHANGE_MS);

	if (rc < 0)
		return rc;
	pthread_mutex_lock(&vm->lock);
	l->held = vm->held;
	l->quick |= l->held;
	if ((vm->phase == VM_RUNNING || (vm->phase == VM_PAUSED && vm->held)) && !vm->closing) {
		vm->move = &l->move;
		(void)str_format(vm->move_to, sizeof(vm->move_to), "%s", l->to);
	} else {
		rc = fail(-EINVAL, "vm %s: does not run now; try again", vm->name);
	}
	pthread_mutex_unlock(&vm->lock);
	if (rc == 0) {
		rc = move_it(l);
		clean_up(l, rc);
		if (rc < 0 && l->outrun && !l->precopy)
			rc = move_after_all(l, rc);
		let_go(vm, rc);
	}
	if (rc < 0) {
		struct err_info why;

		err_save(&why, rc);
		(void)str_format(text, sizeof(text), "not moved to host %s: %.180s", l->to,
				 why.message);
		vm_tell(vm, text);
		(void)err_restore(&why);
	}
	vm_change_end(vm);
	return rc;
}

static int take_options(struct leaving *l)
{
	struct host_call *call = l->call;
	bool self;
	int rc = host_arg_need(call, "to", &l->to);

	if (rc == 0)
		rc = host_peers_is_self(call->host, l->to, &self);
	if (rc == 0 && self)
		rc = fail(-EINVAL, "--to %s: that is this host", l->to);
	if (rc == 0)
		rc = host_arg_u64(call, "max_downtime", UINT64_MAX, &l->max_downtime);
	l->strict = l->max_downtime != UINT64_MAX;
	if (!l->strict)
		l->max_downtime = DOWNTIME_DEFAULT;
	if (rc == 0 && (l->max_downtime < 1 || l->max_downtime > DOWNTIME_MAX))
		rc = fail(-EINVAL, "--max-downtime: 1 to %u ms", DOWNTIME_MAX);
	if (rc == 0)
		rc = host_arg_u64(call, "bandwidth", 0, &l->bandwidth);
	if (rc == 0)
		rc = host_arg_u64(call, "streams", STREAMS_DEFAULT, &l->streams_n);
	if (rc == 0 && (l->streams_n < 1 || l->streams_n > MIG_STREAMS_MAX - MIG_POST_STREAMS))
		rc = fail(-EINVAL, "--streams: 1 to %u", MIG_STREAMS_MAX - MIG_POST_STREAMS);
	l->verify = host_arg_bool(call, "verify");
	l->quick = host_arg_bool(call, "quick");
	l->postcopy = host_arg_bool(call, "postcopy");
	l->precopy = host_arg_bool(call, "no_postcopy");
	if (rc == 0 && l->postcopy && (l->quick || l->verify))
		rc = fail(-EINVAL,
			  "--postcopy: not with --%s: the guest runs before all of its memory came",
			  l->quick ? "quick" : "verify");
	return rc;
}

/* It is there, that is sure; who asked believes that it runs unless told. */
static int does_not_run(struct leaving *l)
{
	struct host_vm *vm = l->vm;
	cleanup_free char *text = NULL;
	char object[200];

	if (!l->stands)
		return 0;
	if (l->word.err)
		text = xasprintf("moved to host %s, which has not said that it runs: %.200s", l->to,
				 l->word.message);
	else
		text = xasprintf("moved to host %s, where it does not run yet", l->to);
	vm_tell(vm, text);
	(void)fail(-EINPROGRESS, "vm %s: %s; see perilune vm show %s --on %s", vm->name, text,
		   vm->name, l->to);
	err_object("%s", vm_object(vm, object));
	return -EINPROGRESS;
}

int vm_migrate(struct host_call *call)
{
	struct leaving *l = xcalloc(1, sizeof(*l));
	int rc;

	l->call = call;
	l->log_fd = -1;
	l->began_ns = clock_boot_ns();
	rc = take_options(l);
	if (rc == 0)
		rc = vm_need_running(call, &l->vm);
	if (rc == 0) {
		rc = leave(l);
		if (rc == 0)
			(void)vm_wait_ended(l->vm, VM_CALL_MS);
		if (rc == 0) {
			call->result = report(l);
			rc = does_not_run(l);
		}
		vm_put(l->vm);
	}
	free(l);
	return rc;
}
