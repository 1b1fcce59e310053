// SPDX-License-Identifier: Apache-2.0
/* perilune_http.c: the API's client side, libcurl on a unix socket. */
#include "tools/perilune_cli.h"

#include <curl/curl.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/err.h"
#include "base/util.h"

struct buffer {
	char *data;
	size_t n;
	int fd; /* >= 0: good answers go there instead */
	CURL *curl;
	bool failed;
};

static size_t receive(char *data, size_t size, size_t n, void *arg)
{
	struct buffer *b = arg;
	long status = 0;

	n *= size;
	if (b->fd >= 0)
		curl_easy_getinfo(b->curl, CURLINFO_RESPONSE_CODE, &status);
	if (status == 200) {
		for (size_t done = 0; done < n;) {
			ssize_t w = write(b->fd, data + done, n - done);

			if (w < 0) {
				b->failed = true;
				return 0;
			}
			done += (size_t)w;
		}
		return n;
	}
	b->data = xrealloc(b->data, b->n + n + 1);
	memcpy(b->data + b->n, data, n);
	b->n += n;
	b->data[b->n] = 0;
	return n;
}

static size_t send_file(char *data, size_t size, size_t n, void *arg)
{
	ssize_t r = read(*(int *)arg, data, size * n);

	return r < 0 ? CURL_READFUNC_ABORT : (size_t)r;
}

/* The daemon's error becomes this thread's. */
static int take_error(json_t *doc, long status)
{
	static const int by_code[] = {-EIO,   -EIO,    -EINVAL,	 -ENOENT, -EBUSY,
				      -EPERM, -ENOSPC, -EUCLEAN, -EIO,	  -ETIMEDOUT};
	json_t *e = json_object_get(doc, "error");
	json_int_t code = json_integer_value(json_object_get(e, "code"));
	const char *message = json_string_value(json_object_get(e, "message"));
	const char *object = json_string_value(json_object_get(e, "object"));
	const char *holder = json_string_value(json_object_get(e, "holder"));
	int err;

	if (!e || !message)
		return fail(-EPROTO, "the daemon answered %ld without words", status);
	err = code == 1						   ? -ENOTRECOVERABLE
	      : code > 1 && code < (json_int_t)ARRAY_SIZE(by_code) ? by_code[code]
								   : -ENOTRECOVERABLE;
	(void)fail(err, "%s", message);
	if (object)
		err_object("%s", object);
	if (holder)
		err_holder("%s", holder);
	return err;
}

static int failed_call(struct cli *cli, CURLcode rc)
{
	if (rc == CURLE_COULDNT_CONNECT) {
		(void)fail(-ENOTCONN,
			   "%s: no daemon listens there; start perilund, or name another with"
			   " --connect",
			   cli->socket);
		err_object("%s", cli->socket);
		return -ENOTCONN;
	}
	return fail(-EIO, "%s: %s", cli->socket, curl_easy_strerror(rc));
}

/* The keys, and whose daemon is meant. */
static json_t *with_on(const struct cli *cli, json_t *keys)
{
	json_t *all = keys ? json_copy(keys) : json_object();

	if (cli->on && json_object_set_new(all, "on", json_string(cli->on)) < 0)
		(void)json_object_set_new(all, "on", json_string("?")); /* not UTF-8: nobody */
	return all;
}

static char *make_url(CURL *curl, const char *noun, const char *verb, json_t *query)
{
	char *url = xasprintf("http://perilune/v1/%s/%s", noun, verb), *longer;
	const char *key;
	json_t *value;
	char sep = '?';

	json_object_foreach(query, key, value)
	{
		const char *text = json_is_string(value) ? json_string_value(value) : "true";
		char *escaped = curl_easy_escape(curl, text, 0);

		longer = xasprintf("%s%c%s=%s", url, sep, key, escaped);
		curl_free(escaped);
		free(url);
		url = longer;
		sep = '&';
	}
	return url;
}

/* `json` or `upload` or neither is sent; the answer goes to `down` or into *answer. */
static int transfer(struct cli *cli, const char *noun, const char *verb, json_t *query,
		    const char *json, int *upload, int down, json_t **answer)
{
	CURL *curl = curl_easy_init();
	struct buffer b = {.fd = down, .curl = curl};
	struct curl_slist *headers = NULL;
	cleanup_free char *url = NULL;
	long status = 0;
	json_t *doc;
	CURLcode rc;
	int err = 0;

	MUST(curl);
	url = make_url(curl, noun, verb, query);
	headers = curl_slist_append(headers, "Expect:");
	headers = curl_slist_append(headers, upload ? "Content-Type: application/octet-stream"
						    : "Content-Type: application/json");
	curl_easy_setopt(curl, CURLOPT_URL, url);
	curl_easy_setopt(curl, CURLOPT_UNIX_SOCKET_PATH, cli->socket);
	curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
	curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, receive);
	curl_easy_setopt(curl, CURLOPT_WRITEDATA, &b);
	if (json) {
		curl_easy_setopt(curl, CURLOPT_POSTFIELDS, json);
		curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE, (long)strlen(json));
	} else if (upload) {
		curl_easy_setopt(curl, CURLOPT_UPLOAD, 1L);
		curl_easy_setopt(curl, CURLOPT_READFUNCTION, send_file);
		curl_easy_setopt(curl, CURLOPT_READDATA, upload);
	}
	rc = curl_easy_perform(curl);
	curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
	curl_slist_free_all(headers);
	curl_easy_cleanup(curl);
	doc = b.data ? json_loads(b.data, 0, NULL) : NULL;
	free(b.data);
	if (b.failed)
		err = fail(-EIO, "cannot write what comes: %s", strerror(errno));
	else if (status >= 400)
		err = take_error(doc, status);
	else if (rc != CURLE_OK)
		err = failed_call(cli, rc);
	else if (answer && !doc)
		err = fail(-EPROTO, "the daemon's answer is no JSON");
	if (err == 0 && answer)
		*answer = doc;
	else
		json_decref(doc);
	return err;
}

int cli_http(struct cli *cli, const char *noun, const char *verb, json_t *body, json_t **answer)
{
	json_t *all = with_on(cli, body);
	cleanup_free char *text = json_dumps(all, JSON_COMPACT);

	json_decref(all);
	return transfer(cli, noun, verb, NULL, text ? text : "{}", NULL, -1, answer);
}

int cli_http_upload(struct cli *cli, const char *noun, const char *verb, json_t *query, int fd)
{
	json_t *all = with_on(cli, query);
	int rc = transfer(cli, noun, verb, all, NULL, &fd, -1, NULL);

	json_decref(all);
	return rc;
}

int cli_http_download(struct cli *cli, const char *noun, const char *verb, json_t *query, int fd)
{
	json_t *all = with_on(cli, query);
	int rc = transfer(cli, noun, verb, all, NULL, NULL, fd, NULL);

	json_decref(all);
	return rc;
}

/* Reads byte by byte up to the empty line: what follows belongs to the stream. */
static int read_head(int fd, char *head, size_t size)
{
	size_t n = 0;

	while (n + 1 < size) {
		if (read(fd, head + n, 1) != 1)
			return -ECONNRESET;
		head[++n] = 0;
		if (n >= 4 && !memcmp(head + n - 4, "\r\n\r\n", 4))
			return 0;
	}
	return -EMSGSIZE;
}

static int read_refusal(int fd, const char *head)
{
	const char *length = strcasestr(head, "content-length:");
	size_t n = length ? strtoul(length + 15, NULL, 10) : 0, got = 0;
	cleanup_free char *body = xcalloc(1, MIN(n, MiB) + 1);
	json_t *doc;
	int err;

	while (got < MIN(n, MiB)) {
		ssize_t r = read(fd, body + got, MIN(n, MiB) - got);

		if (r <= 0)
			break;
		got += (size_t)r;
	}
	doc = json_loads(body, 0, NULL);
	err = take_error(doc, strtol(head + 9, NULL, 10));
	json_decref(doc);
	return err;
}

int cli_http_stream(struct cli *cli, const char *noun, const char *verb, json_t *query)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	cleanup_fd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	cleanup_free char *url = NULL, *request = NULL;
	CURL *curl = curl_easy_init();
	json_t *all = with_on(cli, query);
	char head[4096];
	int out;

	MUST(curl);
	url = make_url(curl, noun, verb, all);
	json_decref(all);
	curl_easy_cleanup(curl);
	(void)str_format(addr.sun_path, sizeof(addr.sun_path), "%s", cli->socket);
	if (fd < 0 || connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
		return failed_call(cli, CURLE_COULDNT_CONNECT);
	request = xasprintf("GET %s HTTP/1.1\r\nHost: perilune\r\nConnection: Upgrade\r\n"
			    "Upgrade: perilune-console\r\n\r\n",
			    url + strlen("http://perilune"));
	if (write(fd, request, strlen(request)) != (ssize_t)strlen(request) ||
	    read_head(fd, head, sizeof(head)) < 0)
		return fail(-EIO, "%s: the daemon hung up", cli->socket);
	if (strncmp(head, "HTTP/1.1 101", 12))
		return read_refusal(fd, head);
	out = fd;
	fd = -1;
	return out;
}
