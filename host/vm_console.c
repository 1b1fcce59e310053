// SPDX-License-Identifier: Apache-2.0
/* vm_console.c: console output to a log and to clients; a client that does not read is hung up on. */
#include "host/vm_console.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/util.h"

/* A client may lag by that much. */
#define CLIENT_BYTES (256 * 1024)

struct client {
	int fd; /* -1: free */
	char *out;
	size_t out_n;
};

struct vm_console {
	char *log_path;
	int log_fd;
	uint64_t log_bytes;
	char unseen[CONSOLE_UNSEEN];
	size_t unseen_n;
	struct client client[CONSOLE_CLIENTS];
};

struct vm_console *vm_console_create(const char *log_path)
{
	struct vm_console *c = xcalloc(1, sizeof(*c));
	off_t end;

	c->log_path = xstrdup(log_path);
	c->log_fd = open(log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	end = c->log_fd >= 0 ? lseek(c->log_fd, 0, SEEK_END) : 0;
	c->log_bytes = end > 0 ? (uint64_t)end : 0;
	for (unsigned i = 0; i < CONSOLE_CLIENTS; i++)
		c->client[i].fd = -1;
	return c;
}

static void hang_up(struct client *client)
{
	close(client->fd);
	free(client->out);
	client->fd = -1;
	client->out = NULL;
	client->out_n = 0;
}

void vm_console_destroy(struct vm_console *c)
{
	if (!c)
		return;
	for (unsigned i = 0; i < CONSOLE_CLIENTS; i++)
		if (c->client[i].fd >= 0)
			hang_up(&c->client[i]);
	if (c->log_fd >= 0)
		close(c->log_fd);
	free(c->log_path);
	free(c);
}

static void to_log(struct vm_console *c, const void *data, size_t n)
{
	if (c->log_fd < 0)
		return;
	if (c->log_bytes > CONSOLE_LOG_MAX) {
		cleanup_free char *old = xasprintf("%s.old", c->log_path);

		close(c->log_fd);
		(void)rename(c->log_path, old);
		c->log_fd = open(c->log_path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC,
				 0600);
		c->log_bytes = 0;
		if (c->log_fd < 0)
			return;
	}
	if (write(c->log_fd, data, n) > 0)
		c->log_bytes += n;
}

static void to_client(struct client *client, const char *data, size_t n)
{
	if (client->out_n == 0) {
		ssize_t w = send(client->fd, data, n, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (w == (ssize_t)n)
			return;
		if (w < 0 && errno != EAGAIN) {
			hang_up(client);
			return;
		}
		data += MAX(w, 0);
		n -= (size_t)MAX(w, 0);
	}
	if (client->out_n + n > CLIENT_BYTES) {
		hang_up(client);
		return;
	}
	if (!client->out)
		client->out = xmalloc(CLIENT_BYTES);
	memcpy(client->out + client->out_n, data, n);
	client->out_n += n;
}

void vm_console_output(struct vm_console *c, const void *data, size_t n)
{
	bool seen = false;

	to_log(c, data, n);
	for (unsigned i = 0; i < CONSOLE_CLIENTS; i++)
		if (c->client[i].fd >= 0) {
			to_client(&c->client[i], data, n);
			seen = true;
		}
	if (seen || n > CONSOLE_UNSEEN)
		return;
	if (c->unseen_n + n > CONSOLE_UNSEEN) {
		size_t drop = c->unseen_n + n - CONSOLE_UNSEEN;

		memmove(c->unseen, c->unseen + drop, c->unseen_n - drop);
		c->unseen_n -= drop;
	}
	memcpy(c->unseen + c->unseen_n, data, n);
	c->unseen_n += n;
}

void vm_console_attach(struct vm_console *c, int fd)
{
	for (unsigned i = 0; i < CONSOLE_CLIENTS; i++) {
		if (c->client[i].fd >= 0)
			continue;
		c->client[i].fd = fd;
		(void)fcntl(fd, F_SETFL, O_NONBLOCK);
		to_client(&c->client[i], c->unseen, c->unseen_n);
		c->unseen_n = 0;
		return;
	}
	close(fd);
}

unsigned vm_console_polls(struct vm_console *c, struct pollfd *fds)
{
	unsigned n = 0;

	for (unsigned i = 0; i < CONSOLE_CLIENTS; i++)
		if (c->client[i].fd >= 0)
			fds[n++] = (struct pollfd){
				.fd = c->client[i].fd,
				.events = (short)(POLLIN | (c->client[i].out_n ? POLLOUT : 0))};
	return n;
}

static void send_waiting(struct client *client)
{
	ssize_t w = send(client->fd, client->out, client->out_n, MSG_DONTWAIT | MSG_NOSIGNAL);

	if (w < 0 && errno != EAGAIN) {
		hang_up(client);
	} else if (w > 0) {
		memmove(client->out, client->out + w, client->out_n - (size_t)w);
		client->out_n -= (size_t)w;
	}
}

size_t vm_console_serve(struct vm_console *c, const struct pollfd *fds, unsigned n, uint8_t *dst,
			size_t max)
{
	size_t got = 0;

	for (unsigned k = 0; k < n; k++) {
		struct client *client = NULL;
		ssize_t r;

		for (unsigned i = 0; i < CONSOLE_CLIENTS; i++)
			if (c->client[i].fd == fds[k].fd)
				client = &c->client[i];
		if (!client || !fds[k].revents)
			continue;
		if (client->out_n)
			send_waiting(client);
		if (client->fd < 0 || got == max)
			continue;
		r = recv(client->fd, dst + got, max - got, MSG_DONTWAIT);
		if (r > 0)
			got += (size_t)r;
		else if (r == 0 || errno != EAGAIN)
			hang_up(client);
	}
	return got;
}
