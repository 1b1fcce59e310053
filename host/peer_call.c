// SPDX-License-Identifier: Apache-2.0
/*
 * peer_call.c: a verb of the API, run by another host: `--on HOST`. A CALL's body is the length of a
 * JSON document, the document {noun, verb, uid, gid, args}, and the bytes that a verb with a body takes;
 * its answer is the HTTP status, what follows (0 JSON, 1 bytes), and that.
 *
 * Who may: any host that knows the secret of a common volume; it vouches for who asks. One hop: a
 * call that names a further host is refused. If the connection ends in between, nobody knows whether
 * it was done, and nobody asks twice.
 */
#include "host/peers_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "base/log.h"
#include "base/pool.h"
#include "base/util.h"
#include "host/api.h"
#include "host/call.h"
#include "host/daemon.h"
#include "host/task.h"

#define JSON_MAX   (HOST_API_BODY_MAX + 64 * 1024)
#define ANSWER_MAX (FRAME_BODY_MAX - sizeof(struct answer_head))

struct answer_head {
	le32 status; /* 0x00 as HTTP's */
	le32 bytes;  /* 0x04 1: what follows is no JSON */
};
static_assert(sizeof(struct answer_head) == 8, "answer head");

/* --- asking ------------------------------------------------------------------------------------------ */

struct peer_call {
	struct list link; /* of its link's `calls`, or of `finished` */
	struct loop_work work;
	struct peer_request req;
	struct host_peers *peers;
	char on[64];
	char host[64]; /* the name of who was asked */
	uint8_t *body;
	uint32_t bytes;
	struct err_info err;
	void (*done)(void *arg, int err, const struct host_answer *answer);
	void *arg;
};

static int two_names(const char *on)
{
	return fail(-EINVAL,
		    "host %s: two hosts have this name; use the id that perilune host list --json"
		    " shows",
		    on);
}

int host_peers_is_self(const struct host *host, const char *on, bool *self)
{
	struct host_peers *p = host->peers;
	struct peer_volume *v;
	bool other = false;

	*self = !strcmp(on, host->state.id);
	if (*self || strcmp(on, host->name))
		return 0;
	*self = true;
	pthread_mutex_lock(&p->lock);
	list_for_each (v, &p->volumes, link)
		for (unsigned i = 0; v->fs && i < PEER_SLOTS; i++)
			other |= v->to[i].epoch && !strcmp(v->to[i].name, on) &&
				 strcmp(v->to[i].id, host->state.id) != 0;
	pthread_mutex_unlock(&p->lock);
	return other ? two_names(on) : 0;
}

static void call_over(struct peer_call *c)
{
	struct host_peers *p = c->peers;

	free(c->body);
	free(c);
	pthread_mutex_lock(&p->lock);
	if (--p->calls == 0)
		pthread_cond_broadcast(&p->idle);
	peers_check_end(p);
	pthread_mutex_unlock(&p->lock);
}

/* Those that ended while the lock was held: told without it. */
static void finish_deferred(struct loop_work *work)
{
	struct host_peers *p = container_of(work, struct host_peers, finish_work);
	struct list over;

	list_init(&over);
	pthread_mutex_lock(&p->lock);
	list_splice_tail(&over, &p->finished);
	pthread_mutex_unlock(&p->lock);
	while (!list_empty(&over)) {
		struct peer_call *c = list_first(&over, struct peer_call, link);

		list_del(&c->link);
		c->done(c->arg, err_restore(&c->err), NULL);
		call_over(c);
	}
}

void peer_calls_init(struct host_peers *p)
{
	list_init(&p->finished);
	p->finish_work.fn = finish_deferred;
}

/* Lock held; the error is this thread's. */
static void finish(struct peer_call *c, int err)
{
	err_save(&c->err, err);
	list_add_tail(&c->peers->finished, &c->link);
	loop_defer(c->peers->loop, &c->peers->finish_work);
}

static int not_reached(const struct peer_call *c, int err, const char *why)
{
	(void)fail(err, "host %s: not reached: %s", c->host[0] ? c->host : c->on, why);
	err_object("%s", c->on);
	return err;
}

static void answered(struct peer_request *req, int err, const struct frame *f)
{
	struct peer_call *c = container_of(req, struct peer_call, req);
	struct host_answer answer = {0};
	struct answer_head head;

	if (err == -ECONNRESET) {
		err = fail_prefix(-EHOSTUNREACH, "host %s", c->host);
		err_object("%s", c->on);
	}
	if (err == 0 && f->bytes < sizeof(head)) {
		err = fail(-EBADMSG, "host %s: an answer of %u bytes", c->host, f->bytes);
	} else if (err == 0) {
		memcpy(&head, f->body, sizeof(head));
		answer.status = le32_get(head.status);
		answer.bytes = le32_get(head.bytes) == 1;
		answer.data = f->body + sizeof(head);
		answer.n = f->bytes - sizeof(head);
		if (answer.status < 200 || answer.status > 599)
			err = fail(-EBADMSG, "host %s: an answer of status %u", c->host,
				   answer.status);
	}
	c->done(c->arg, err, err ? NULL : &answer);
	call_over(c);
}

static void send_call(struct peer_link *l, struct peer_call *c)
{
	int rc;

	c->req.done = answered;
	if (!(peer_conn_features(l->conn) & PEER_F_CALLS))
		rc = fail(-EPROTONOSUPPORT, "host %s: its perilund is too old for --on", l->name);
	else
		rc = peer_conn_request(l->conn, &c->req, FRAME_CALL, c->body, c->bytes, NULL, 0);
	if (rc == -EAGAIN)
		rc = fail(-EBUSY, "host %s: too much is under way to it; try again", l->name);
	if (rc < 0)
		finish(c, rc);
}

void peer_calls_go(struct peer_link *l)
{
	while (!list_empty(&l->calls)) {
		struct peer_call *c = list_first(&l->calls, struct peer_call, link);

		list_del(&c->link);
		send_call(l, c);
	}
}

void peer_calls_fail(struct peer_link *l, int err, const char *why)
{
	while (!list_empty(&l->calls)) {
		struct peer_call *c = list_first(&l->calls, struct peer_call, link);

		list_del(&c->link);
		finish(c, not_reached(c, err, why));
	}
}

int peer_link_find(struct host_peers *p, const struct cfs *fs, const char *on,
		   struct peer_link **out)
{
	struct peer_link *best = NULL;
	struct peer_volume *v;

	list_for_each (v, &p->volumes, link)
		for (unsigned i = 0; v->fs && i < PEER_SLOTS; i++) {
			struct peer_link *l = &v->to[i];

			if (!l->epoch || (strcmp(l->name, on) && strcmp(l->id, on)) ||
			    (fs && v->fs != fs))
				continue;
			if (best && strcmp(best->id, l->id))
				return two_names(on);
			if (!best || l->open || (!best->address[0] && l->address[0]))
				best = l;
		}
	if (!best)
		return fail(-ENOENT, "host %s: on %s; see perilune host list", on,
			    fs ? "this volume there is none of that name"
			       : "none of the volumes mounted here");
	*out = best;
	return 0;
}

static void call_posted(struct loop_work *work)
{
	struct peer_call *c = container_of(work, struct peer_call, work);
	struct host_peers *p = c->peers;
	struct peer_link *l = NULL;
	int rc;

	pthread_mutex_lock(&p->lock);
	peers_look(p);
	rc = p->no_calls ? fail(-ENOTCONN, "perilund is stopping")
			 : peer_link_find(p, NULL, c->on, &l);
	if (rc == 0) {
		memcpy(c->host, l->name, sizeof(c->host));
		if (!peer_link_need(l, true))
			rc = not_reached(c, -EHOSTUNREACH, l->error);
	}
	if (rc < 0) {
		err_object("%s", c->on);
		finish(c, rc);
	} else if (l->open && !l->dropped) {
		send_call(l, c);
	} else {
		list_add_tail(&l->calls, &c->link);
	}
	pthread_mutex_unlock(&p->lock);
}

/* le32 length, the document, the bytes of a verb with a body. */
static int make_body(struct peer_call *c, struct host_call *call)
{
	json_t *doc = json_pack("{s:s, s:s, s:I, s:I, s:O}", "noun", call->verb->noun, "verb",
				call->verb->verb, "uid", (json_int_t)call->uid, "gid",
				(json_int_t)call->gid, "args", call->args);
	cleanup_free char *text = json_dumps(doc, JSON_COMPACT);
	size_t n = text ? strlen(text) : 0, more = 0;
	struct stat st;
	le32 length;

	json_decref(doc);
	if (!n || n > JSON_MAX)
		return fail(-EMSGSIZE, "host %s: the request is too large to pass on", c->on);
	if (call->body_fd >= 0 && fstat(call->body_fd, &st) == 0)
		more = (size_t)st.st_size;
	if (more > PEER_CALL_MAX - 4 - n)
		return fail(-EMSGSIZE, "host %s: %zu MiB are too many to pass on; do it there",
			    c->on, more >> 20);
	c->bytes = (uint32_t)(4 + n + more);
	c->body = xmalloc(c->bytes);
	length = le32_of((uint32_t)n);
	memcpy(c->body, &length, 4);
	memcpy(c->body + 4, text, n);
	if (more && pread(call->body_fd, c->body + 4 + n, more, 0) != (ssize_t)more)
		return fail(-EIO, "host %s: cannot read what was sent", c->on);
	return 0;
}

void host_peers_call(struct host_peers *p, const char *on, struct host_call *call,
		     void (*done)(void *arg, int err, const struct host_answer *answer), void *arg)
{
	struct peer_call *c = xcalloc(1, sizeof(*c));
	int rc = 0;

	c->peers = p;
	c->done = done;
	c->arg = arg;
	(void)str_format(c->on, sizeof(c->on), "%s", on);
	rc = make_body(c, call);
	pthread_mutex_lock(&p->lock);
	if (rc == 0 && p->no_calls)
		rc = fail(-ENOTCONN, "perilund is stopping");
	else if (rc == 0 && p->calls >= PEER_CALLS_MAX)
		rc = fail(-EBUSY, "host %s: %u calls to other hosts are under way; try again", on,
			  PEER_CALLS_MAX);
	if (rc == 0) {
		p->calls++;
		c->work.fn = call_posted;
		loop_post(p->loop, &c->work);
	}
	pthread_mutex_unlock(&p->lock);
	if (rc < 0) {
		free(c->body);
		free(c);
		done(arg, rc, NULL);
	}
}

/* --- serving ----------------------------------------------------------------------------------------- */

struct served_call {
	struct list link; /* of `answers` */
	struct pool_job job;
	struct loop_work work;
	struct host_peers *peers;
	struct peer_served *from;
	uint64_t tag;
	struct host_call *call;
	struct answer_head head;
	uint8_t *data;
	size_t n;
};

int host_peer_call_parse(const void *data, size_t n, struct host_call *call, const void **body,
			 size_t *body_bytes)
{
	const uint8_t *bytes = data;
	const char *noun, *verb;
	json_int_t uid, gid;
	json_t *doc, *args;
	json_error_t error;
	uint32_t length;

	if (n < 4)
		return fail(-EINVAL, "a call of %zu bytes", n);
	length = le32_get(*(const le32 *)data);
	if (length > n - 4 || length > JSON_MAX)
		return fail(-EINVAL, "a call whose document has %u bytes", length);
	doc = json_loadb((const char *)bytes + 4, length, JSON_REJECT_DUPLICATES, &error);
	if (!doc)
		return fail(-EINVAL, "a call that is no JSON: %s", error.text);
	if (json_unpack(doc, "{s:s, s:s, s:I, s:I, s:o}", "noun", &noun, "verb", &verb, "uid", &uid,
			"gid", &gid, "args", &args) < 0 ||
	    !json_is_object(args)) {
		json_decref(doc);
		return fail(-EINVAL, "a call without noun, verb or arguments");
	}
	/* The last number is no user's: to setfsuid(2) it means "leave it as it is". */
	if (uid < 0 || uid >= UINT32_MAX || gid < 0 || gid >= UINT32_MAX) {
		json_decref(doc);
		return fail(-EINVAL, "a call of an impossible user or group");
	}
	call->verb = host_verb_find(noun, verb);
	call->args = json_incref(args);
	call->uid = (uid_t)uid;
	call->gid = (gid_t)gid;
	call->relayed = true;
	if (!call->verb)
		(void)fail(-ENOENT, "%.31s %.31s: this host has no such verb", noun, verb);
	json_decref(doc);
	*body = bytes + 4 + length;
	*body_bytes = n - 4 - length;
	if (!call->verb)
		return -ENOENT;
	if (json_object_get(call->args, "on"))
		return fail(-EINVAL, "%s %s: a passed-on request is not passed on again",
			    call->verb->noun, call->verb->verb);
	if (*body_bytes && !(call->verb->flags & HOST_BODY))
		return fail(-EINVAL, "%s %s: takes no bytes", call->verb->noun, call->verb->verb);
	return 0;
}

/* A file's content, read here: it goes out as one frame. */
static int read_answer(struct served_call *c, int fd)
{
	struct stat st;

	if (fstat(fd, &st) < 0 || (size_t)st.st_size > ANSWER_MAX)
		return fail(-EMSGSIZE, "%s %s: its answer is too large to pass on; ask that host",
			    c->call->verb->noun, c->call->verb->verb);
	c->n = (size_t)st.st_size;
	c->data = xmalloc(c->n + 1);
	if (pread(fd, c->data, c->n, 0) != (ssize_t)c->n)
		return fail(-EIO, "%s %s: cannot read its answer", c->call->verb->noun,
			    c->call->verb->verb);
	c->head.bytes = le32_of(1);
	return 0;
}

static void run_job(struct pool_job *job)
{
	struct served_call *c = container_of(job, struct served_call, job);
	unsigned status;
	char *text = NULL;
	int rc = 0;

	host_api_run(&c->call, &status, &text);
	if (c->call && c->call->upgrade)
		rc = fail(-EOPNOTSUPP, "%s %s: cannot be passed on; ask that host",
			  c->call->verb->noun, c->call->verb->verb);
	else if (c->call && c->call->answer_fd >= 0 && status == 200)
		rc = read_answer(c, c->call->answer_fd);
	else if (strlen(text) > ANSWER_MAX)
		rc = fail(-EMSGSIZE, "its answer is too large to pass on; ask that host");
	if (rc < 0) {
		free(text);
		host_api_error(rc, &status, &text);
	}
	if (rc < 0 || !le32_get(c->head.bytes)) {
		free(c->data);
		c->n = strlen(text);
		c->data = (uint8_t *)text;
		text = NULL;
		c->head.bytes = le32_of(0);
	}
	free(text);
	host_call_free(c->call);
	c->call = NULL;
	c->head.status = le32_of(status);
	loop_post(c->peers->loop, &c->work);
}

void peer_answers_go(struct peer_served *s)
{
	struct served_call *c, *tmp;

	s->calls++; /* it stays until the end of this */
	list_for_each_safe (c, tmp, &s->answers, link) {
		int rc = s->conn ? peer_conn_send(s->conn, FRAME_CALL, FRAME_ANSWER, c->tag,
						  &c->head, sizeof(c->head), c->data,
						  (uint32_t)c->n)
				 : -ENOTCONN;

		if (rc == -EAGAIN)
			break;
		list_del(&c->link);
		s->calls--;
		free(c->data);
		free(c);
	}
	s->calls--;
	peer_served_put(s);
}

static void run_posted(struct loop_work *work)
{
	struct served_call *c = container_of(work, struct served_call, work);
	struct host_peers *p = c->peers;

	pthread_mutex_lock(&p->lock);
	list_add_tail(&c->from->answers, &c->link);
	peer_answers_go(c->from);
	if (--p->runs == 0)
		pthread_cond_broadcast(&p->idle);
	peers_check_end(p);
	pthread_mutex_unlock(&p->lock);
}

static int put_upload(struct host_call *call, const void *body, size_t n)
{
	call->body_fd = memfd_create("upload", MFD_CLOEXEC);
	if (call->body_fd < 0 || pwrite(call->body_fd, body, n, 0) != (ssize_t)n)
		return fail(-ENOSPC, "no place for what is sent: %s", strerror(errno));
	return 0;
}

int peer_call_serve(struct peer_served *s, const struct frame *f)
{
	struct host_peers *p = s->peers;
	struct host_call *call = xcalloc(1, sizeof(*call));
	struct served_call *c;
	const void *body;
	size_t n;
	int rc;

	call->host = p->host;
	call->body_fd = call->answer_fd = -1;
	rc = host_peer_call_parse(f->body, f->bytes, call, &body, &n);
	if (rc == 0 && call->verb->flags & HOST_BODY)
		rc = put_upload(call, body, n);
	pthread_mutex_lock(&p->lock);
	if (rc == 0 && p->no_calls)
		rc = fail(-ENOTCONN, "perilund is stopping");
	else if (rc == 0 && s->calls >= PEER_SERVES_CALLS)
		rc = fail(-EBUSY, "host %s: %u calls of this host are under way; try again",
			  p->host->name, PEER_SERVES_CALLS);
	if (rc == 0) {
		c = xcalloc(1, sizeof(*c));
		c->peers = p;
		c->from = s;
		c->tag = f->tag;
		c->call = call;
		c->job.fn = run_job;
		c->work.fn = run_posted;
		s->calls++;
		p->runs++;
		log_debug("peers", "host %s asks for %s %s", peer_conn_theirs(s->conn)->name,
			  call->verb->noun, call->verb->verb);
		pool_submit(call->verb->flags & (HOST_QUICK | HOST_TASK) ? p->quick : p->workers,
			    &c->job);
	}
	pthread_mutex_unlock(&p->lock);
	if (rc < 0)
		host_call_free(call);
	return rc;
}
