// SPDX-License-Identifier: Apache-2.0
/*
 * api.c: from HTTP to calls and back. A request goes READING (libmicrohttpd's thread collects its
 * body), RUNNING (suspended; a pool's thread owns it), ANSWERED (resumed; the answer is queued).
 */
#include "host/api.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <microhttpd.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/err.h"
#include "base/log.h"
#include "base/pool.h"
#include "base/util.h"
#include "host/call.h"
#include "host/daemon.h"
#include "host/peers.h"
#include "host/task.h"

#define WORKERS	      8	 /* calls that wait for storage at once */
#define QUICK_WORKERS 2	 /* calls that never do: status, tasks, events */
#define IDLE_SECONDS  60 /* a client that says nothing for that long is cut off */

struct host_api {
	struct host *host;
	struct MHD_Daemon *daemon;
	struct pool *workers, *quick;
	int listen_fd;
	char path[108];
	pthread_mutex_t lock; /* guards the two below */
	pthread_cond_t idle;
	unsigned running;
	bool stopping;
};

enum stage { READING, RUNNING, ANSWERED };
struct request {
	struct host_api *api;
	struct MHD_Connection *connection;
	struct pool_job job;
	enum stage stage;
	struct host_call *call;
	char *body;
	size_t body_bytes, body_room;
	bool upload; /* the body goes to call->body_fd */
	uint64_t uploaded;
	int err; /* while reading: the body is thrown away */
	unsigned status;
	char *text;
	bool octets; /* `text` is no JSON but text_bytes of a file, from another host */
	size_t text_bytes;
};

void host_call_free(struct host_call *call)
{
	if (!call)
		return;
	json_decref(call->args);
	json_decref(call->result);
	if (call->body_fd >= 0)
		close(call->body_fd);
	if (call->answer_fd >= 0)
		close(call->answer_fd);
	if (call->upgrade)
		call->upgrade(call->upgrade_arg, -1);
	free(call);
}

/* --- parsing, free of sockets ----------------------------------------------------------------- */

static int find_verb(const char *method, const char *url, const struct host_verb **out)
{
	char noun[32], verb[32];
	int end = 0;

	if (sscanf(url, "/v1/%31[a-z]/%31[a-z-]%n", noun, verb, &end) != 2 || url[end])
		return fail(-ENOENT, "no such address; it is /v1/NOUN/VERB, as in /v1/lun/list");
	*out = host_verb_find(noun, verb);
	if (!*out)
		return fail(-ENOENT, "/v1/%s/%s: no such verb", noun, verb);
	if (!strcmp(method, "POST") || (!strcmp(method, "PUT") && (*out)->flags & HOST_BODY) ||
	    (!strcmp(method, "GET") && !((*out)->flags & HOST_CHANGES)))
		return 0;
	return fail(-ENOSYS, "/v1/%s/%s: wants %s", noun, verb,
		    (*out)->flags & HOST_CHANGES ? "POST" : "GET or POST");
}

int host_api_parse(const char *method, const char *url, json_t *query, const char *body,
		   size_t body_bytes, struct host_call *call)
{
	json_error_t error;
	json_t *on;
	int rc = find_verb(method, url, &call->verb);

	if (rc < 0)
		return rc;
	if (body_bytes && !(call->verb->flags & HOST_BODY)) {
		call->args = json_loadb(body, body_bytes, JSON_REJECT_DUPLICATES, &error);
		if (!call->args)
			return fail(-EINVAL, "the body is no JSON: %s at byte %d", error.text,
				    error.position);
		if (!json_is_object(call->args))
			return fail(-EINVAL, "the body must be a JSON object");
	} else {
		call->args = json_object();
	}
	if (query)
		json_object_update_missing(call->args, query);
	on = json_object_get(call->args, "on"); /* what names nobody must not be done here */
	if (on && !json_string_length(on))
		return fail(-EINVAL, "\"on\" must be the name or the id of a host");
	return 0;
}

/* --- a request --------------------------------------------------------------------------------- */

void host_api_error(int err, unsigned *status, char **text)
{
	json_t *doc = json_pack("{s:o}", "error", host_error_json(err));

	*status = err == -ENOSYS     ? MHD_HTTP_METHOD_NOT_ALLOWED
		  : err == -EMSGSIZE ? MHD_HTTP_CONTENT_TOO_LARGE
				     : host_http_status(err);
	*text = json_dumps(doc, JSON_COMPACT);
	json_decref(doc);
}

static void answer_error(struct request *r, int err)
{
	free(r->text);
	host_api_error(err, &r->status, &r->text);
}

/* A pool's thread, or the HTTP thread for parse errors. */
void host_api_run(struct host_call **owned, unsigned *status, char **text)
{
	struct host_call *call = *owned;
	uint64_t id;
	int rc;

	if (call->verb->flags & HOST_TASK) {
		*owned = NULL; /* the task's, whatever comes */
		rc = host_task_start(call->host->tasks, call, &id);
		if (rc < 0) {
			host_api_error(rc, status, text);
			host_call_free(call);
			return;
		}
		*status = MHD_HTTP_ACCEPTED;
		*text = xasprintf("{\"task\": %llu}", (unsigned long long)id);
		return;
	}
	rc = call->verb->run(call);
	if (rc < 0) {
		host_api_error(rc, status, text);
		return;
	}
	*status = MHD_HTTP_OK;
	*text = call->result ? json_dumps(call->result, JSON_COMPACT) : xstrdup("{}");
	if (!*text)
		host_api_error(fail(-EIO, "the answer is not UTF-8"), status, text);
}

/* The answer is there; from here on the HTTP thread owns `r`. */
static void hand_back(struct request *r)
{
	struct host_api *api = r->api;
	struct MHD_Connection *connection = r->connection;

	r->stage = ANSWERED;
	MHD_resume_connection(connection);
	pthread_mutex_lock(&api->lock);
	if (--api->running == 0)
		pthread_cond_broadcast(&api->idle);
	pthread_mutex_unlock(&api->lock);
}

static void run_job(struct pool_job *job)
{
	struct request *r = container_of(job, struct request, job);

	host_api_run(&r->call, &r->status, &r->text);
	hand_back(r);
}

/* Another host has answered, or cannot be asked. */
static void relayed(void *arg, int err, const struct host_answer *answer)
{
	struct request *r = arg;

	if (err < 0) {
		answer_error(r, err);
	} else {
		r->status = answer->status;
		r->octets = answer->bytes;
		r->text_bytes = answer->n;
		r->text = xmalloc(answer->n + 1);
		memcpy(r->text, answer->data, answer->n);
		r->text[answer->n] = 0;
	}
	hand_back(r);
}

/* "on": whose verb it is; ours too has a name. True: an answer is there or will come. */
static bool run_elsewhere(struct request *r)
{
	cleanup_free char *on = NULL;
	const char *name = host_arg(r->call, "on");
	bool self;
	int rc;

	if (!name || !r->api->host->peers)
		return false;
	on = xstrdup(name);
	json_object_del(r->call->args, "on");
	rc = host_peers_is_self(r->api->host, on, &self);
	if (rc < 0)
		relayed(r, rc, NULL);
	else if (!self)
		host_peers_call(r->api->host->peers, on, r->call, relayed, r);
	return rc < 0 || !self;
}

static enum MHD_Result query_key(void *arg, enum MHD_ValueKind kind, const char *key,
				 const char *value)
{
	json_t *v = json_string(value ? value : "true");

	(void)kind;
	if (!v || json_object_set_new(arg, key, v) < 0)
		json_object_set_new(arg, "", json_false()); /* not UTF-8 */
	return MHD_YES;
}

static void peer_of(struct request *r)
{
	const union MHD_ConnectionInfo *info =
		MHD_get_connection_info(r->connection, MHD_CONNECTION_INFO_CONNECTION_FD);
	struct ucred cred;
	socklen_t n = sizeof(cred);

	r->call->uid = (uid_t)-1;
	r->call->gid = (gid_t)-1;
	if (info && getsockopt(info->connect_fd, SOL_SOCKET, SO_PEERCRED, &cred, &n) == 0) {
		r->call->uid = cred.uid;
		r->call->gid = cred.gid;
	}
}

static struct request *request_begin(struct host_api *api, struct MHD_Connection *connection,
				     const char *method, const char *url)
{
	struct request *r = xcalloc(1, sizeof(*r));
	const struct host_verb *verb;

	r->api = api;
	r->connection = connection;
	r->call = xcalloc(1, sizeof(*r->call));
	r->call->host = api->host;
	r->call->body_fd = r->call->answer_fd = -1;
	peer_of(r);
	r->err = find_verb(method, url, &verb);
	if (r->err == 0 && verb->flags & HOST_BODY) {
		r->upload = true;
		r->call->body_fd = open(api->host->state.dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
		if (r->call->body_fd < 0) /* a file system without O_TMPFILE */
			r->call->body_fd = memfd_create("upload", MFD_CLOEXEC);
		if (r->call->body_fd < 0)
			r->err = fail(-errno, "no place for what is sent: %s", strerror(errno));
	}
	if (r->err < 0)
		answer_error(r, r->err);
	return r;
}

static void request_data(struct request *r, const char *data, size_t n)
{
	if (r->err < 0)
		return;
	if (r->upload) {
		r->uploaded += n;
		if (r->uploaded > HOST_API_UPLOAD_MAX)
			r->err = fail(-EMSGSIZE, "more than %llu MiB; use disk import",
				      HOST_API_UPLOAD_MAX / MiB);
		else if (write(r->call->body_fd, data, n) != (ssize_t)n)
			r->err = fail(-ENOSPC, "%s: no space for what is sent",
				      r->api->host->state.dir);
	} else if (r->body_bytes + n > HOST_API_BODY_MAX) {
		r->err = fail(-EMSGSIZE, "the request has more than %d bytes", HOST_API_BODY_MAX);
	} else {
		if (r->body_bytes + n > r->body_room) {
			r->body_room = MAX(4096, 2 * (r->body_bytes + n));
			r->body = xrealloc(r->body, r->body_room);
		}
		memcpy(r->body + r->body_bytes, data, n);
		r->body_bytes += n;
	}
	if (r->err < 0)
		answer_error(r, r->err);
}

/*
 * The body is complete: true when there is an answer at once. False: suspended and handed over, and
 * `r` is not ours any more; its answer may be under way already.
 */
static bool request_dispatch(struct request *r, const char *method, const char *url)
{
	struct host_api *api = r->api;
	json_t *query = json_object();
	int rc;

	MHD_get_connection_values(r->connection, MHD_GET_ARGUMENT_KIND, query_key, query);
	rc = json_object_get(query, "") ? fail(-EINVAL, "the address is not UTF-8") : 0;
	if (rc == 0)
		rc = host_api_parse(method, url, query, r->body, r->body_bytes, r->call);
	json_decref(query);
	pthread_mutex_lock(&api->lock);
	if (rc == 0 && api->stopping)
		rc = fail(-ENOTCONN, "perilund is stopping");
	else if (rc == 0)
		api->running++;
	pthread_mutex_unlock(&api->lock);
	if (rc < 0) {
		answer_error(r, rc);
		r->stage = ANSWERED;
		return true;
	}
	if (r->upload)
		(void)lseek(r->call->body_fd, 0, SEEK_SET);
	r->stage = RUNNING;
	r->job.fn = run_job;
	MHD_suspend_connection(r->connection);
	if (run_elsewhere(r))
		return false;
	pool_submit(r->call->verb->flags & (HOST_QUICK | HOST_TASK) ? api->quick : api->workers,
		    &r->job);
	return false;
}

/* libmicrohttpd's socket stays its own: a copy is handed over, then its side is let go. */
static void upgraded(void *cls, struct MHD_Connection *connection, void *con_cls, const char *extra,
		     size_t extra_size, MHD_socket sock, struct MHD_UpgradeResponseHandle *urh)
{
	struct host_call *call = cls;
	int fd = fcntl(sock, F_DUPFD_CLOEXEC, 0);

	(void)connection;
	(void)con_cls;
	(void)extra;
	(void)extra_size;
	call->upgrade(call->upgrade_arg, fd);
	MHD_upgrade_action(urh, MHD_UPGRADE_ACTION_CLOSE);
	free(call);
}

static enum MHD_Result send_upgrade(struct request *r)
{
	struct host_call *copy = xcalloc(1, sizeof(*copy));
	struct MHD_Response *response;
	enum MHD_Result result;

	copy->upgrade = r->call->upgrade;
	copy->upgrade_arg = r->call->upgrade_arg;
	r->call->upgrade = NULL;
	response = MHD_create_response_for_upgrade(upgraded, copy);
	MHD_add_response_header(response, MHD_HTTP_HEADER_UPGRADE, "perilune-console");
	result = MHD_queue_response(r->connection, MHD_HTTP_SWITCHING_PROTOCOLS, response);
	MHD_destroy_response(response);
	return result;
}

static enum MHD_Result request_answer(struct request *r)
{
	struct MHD_Response *response;
	enum MHD_Result result;
	struct stat st;

	if (r->call && r->call->upgrade)
		return send_upgrade(r);
	if (r->call && r->call->answer_fd >= 0 && r->status == MHD_HTTP_OK &&
	    fstat(r->call->answer_fd, &st) == 0) {
		response = MHD_create_response_from_fd64((uint64_t)st.st_size, r->call->answer_fd);
		r->call->answer_fd = -1; /* the response's */
		MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE,
					"application/octet-stream");
	} else {
		response = MHD_create_response_from_buffer(r->octets ? r->text_bytes
								     : strlen(r->text),
							   r->text, MHD_RESPMEM_MUST_COPY);
		MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE,
					r->octets ? "application/octet-stream"
						  : "application/json");
	}
	result = MHD_queue_response(r->connection, r->status, response);
	MHD_destroy_response(response);
	return result;
}

static enum MHD_Result on_request(void *cls, struct MHD_Connection *connection, const char *url,
				  const char *method, const char *version, const char *data,
				  size_t *data_bytes, void **con_cls)
{
	struct request *r = *con_cls;

	(void)version;
	if (!r) {
		*con_cls = request_begin(cls, connection, method, url);
		return MHD_YES;
	}
	if (r->stage == READING && *data_bytes) {
		request_data(r, data, *data_bytes);
		*data_bytes = 0;
		return MHD_YES;
	}
	if (r->stage == READING && r->err < 0)
		r->stage = ANSWERED;
	if (r->stage == READING && !request_dispatch(r, method, url))
		return MHD_YES;
	return r->stage == ANSWERED ? request_answer(r) : MHD_YES;
}

static void on_completed(void *cls, struct MHD_Connection *connection, void **con_cls,
			 enum MHD_RequestTerminationCode code)
{
	struct request *r = *con_cls;

	(void)cls;
	(void)connection;
	(void)code;
	if (!r)
		return;
	host_call_free(r->call);
	free(r->body);
	free(r->text);
	free(r);
	*con_cls = NULL;
}

/* --- the socket -------------------------------------------------------------------------------- */

static int listen_on(struct host_api *api, const char *path, const char *group)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	struct group *gr = group ? getgrnam(group) : NULL;
	mode_t old;
	int rc;

	if (str_format(addr.sun_path, sizeof(addr.sun_path), "%s", path) < 0)
		return fail(-EINVAL, "%s: a socket's path has at most 107 bytes", path);
	(void)str_format(api->path, sizeof(api->path), "%s", path);
	api->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (api->listen_fd < 0)
		return fail(-errno, "%s: %s", path, strerror(errno));
	(void)unlink(path);
	old = umask(0177);
	rc = bind(api->listen_fd, (struct sockaddr *)&addr, sizeof(addr));
	umask(old);
	if (rc < 0)
		return fail(-errno, "%s: cannot make the socket: %s", path, strerror(errno));
	if (gr && (chown(path, (uid_t)-1, gr->gr_gid) < 0 || chmod(path, 0660) < 0))
		log_warn("host", "%s: cannot give it to group %s: %s", path, group,
			 strerror(errno));
	if (listen(api->listen_fd, 128) < 0)
		return fail(-errno, "%s: %s", path, strerror(errno));
	return 0;
}

static void mhd_log(void *arg, const char *fmt, va_list ap)
{
	char line[256];

	(void)arg;
	vsnprintf(line, sizeof(line), fmt, ap);
	line[strcspn(line, "\n")] = 0;
	log_debug("api", "%s", line);
}

int host_api_start(struct host *host, const char *path, const char *group, struct host_api **out)
{
	struct host_api *api = xcalloc(1, sizeof(*api));
	int rc;

	api->host = host;
	api->listen_fd = -1;
	pthread_mutex_init(&api->lock, NULL);
	pthread_cond_init(&api->idle, NULL);
	rc = pool_create(&api->workers, "api", WORKERS);
	if (rc == 0)
		rc = pool_create(&api->quick, "quick", QUICK_WORKERS);
	if (rc == 0)
		rc = listen_on(api, path, group);
	if (rc == 0) {
		api->daemon = MHD_start_daemon(
			MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_AUTO | MHD_USE_ERROR_LOG |
				MHD_ALLOW_SUSPEND_RESUME | MHD_ALLOW_UPGRADE,
			0, NULL, NULL, on_request, api, MHD_OPTION_EXTERNAL_LOGGER, mhd_log, NULL,
			MHD_OPTION_LISTEN_SOCKET, api->listen_fd, MHD_OPTION_CONNECTION_LIMIT,
			HOST_API_CONNECTIONS_MAX, MHD_OPTION_CONNECTION_TIMEOUT, IDLE_SECONDS,
			MHD_OPTION_NOTIFY_COMPLETED, on_completed, NULL, MHD_OPTION_END);
		if (!api->daemon)
			rc = fail(-EIO, "%s: cannot start the HTTP server", path);
	}
	if (rc < 0) {
		host_api_stop(api);
		return rc;
	}
	*out = api;
	return 0;
}

void host_api_stop(struct host_api *api)
{
	if (!api)
		return;
	pthread_mutex_lock(&api->lock);
	api->stopping = true;
	while (api->running)
		pthread_cond_wait(&api->idle, &api->lock);
	pthread_mutex_unlock(&api->lock);
	if (api->daemon)
		MHD_stop_daemon(api->daemon); /* closes the socket */
	else if (api->listen_fd >= 0)
		close(api->listen_fd);
	if (api->path[0])
		(void)unlink(api->path);
	pool_destroy(api->workers);
	pool_destroy(api->quick);
	free(api);
}
