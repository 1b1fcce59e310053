// SPDX-License-Identifier: Apache-2.0
// The lab's agent: runs shell commands in a machine for the test that owns the machine.
//
// It speaks over a virtio-serial port. A frame, both ways: u8 type, le32 id, le32 length, payload.
// A type of 0 is one byte of padding, so that a new client can push a half-read frame out of the
// parser with zeroes. A command's exit is told when the command itself ends, even when something
// that it left behind still holds its output open. Linked statically; init starts it again if it dies.
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { T_PAD, T_HELLO, T_EXEC, T_EXEC_PTY, T_IN, T_KILL, T_OUT, T_ERR, T_EXIT };
enum { HEAD = 9, PAYLOAD_MAX = 32768, JOBS = 64, OUT_HIGH = 1 << 20, IN_MAX = 256 << 20 };

struct buf {
	char *p;
	size_t len, cap;
};

struct job {
	uint32_t id;
	pid_t pid; // 0: the entry is free
	int in, out, err;
	int in_eof; // close `in` once `queue` is empty
	struct buf queue;
};

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static void buf_add(struct buf *b, const void *p, size_t len)
{
	if (b->len + len > b->cap) {
		b->cap = (b->len + len) * 2;
		b->p = realloc(b->p, b->cap);
		if (!b->p)
			die("agent: memory");
	}
	memcpy(b->p + b->len, p, len);
	b->len += len;
}

static void buf_drop(struct buf *b, size_t len)
{
	memmove(b->p, b->p + len, b->len - len);
	b->len -= len;
}

static void put32(char *p, uint32_t v)
{
	for (int i = 0; i < 4; i++)
		p[i] = (char)(v >> (8 * i));
}

static uint32_t get32(const char *p)
{
	const unsigned char *u = (const unsigned char *)p;

	return u[0] | (uint32_t)u[1] << 8 | (uint32_t)u[2] << 16 | (uint32_t)u[3] << 24;
}

static void frame(struct buf *out, int type, uint32_t id, const void *p, size_t len)
{
	char head[HEAD] = {(char)type};

	put32(head + 1, id);
	put32(head + 5, (uint32_t)len);
	buf_add(out, head, HEAD);
	buf_add(out, p, len);
}

static void nonblock(int fd)
{
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
	fcntl(fd, F_SETFD, FD_CLOEXEC);
}

static void close_in(struct job *j)
{
	if (j->in >= 0 && j->in != j->out)
		close(j->in);
	j->in = -1;
	j->queue.len = 0;
}

static void child(const char *command)
{
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	for (int s = 1; s < 32; s++)
		signal(s, SIG_DFL);
	for (int fd = 3; fd < 256; fd++)
		close(fd);
	execl("/bin/sh", "sh", "-c", command, (char *)NULL);
	_exit(127);
}

static void start_pipes(struct job *j, const char *command)
{
	int in[2], out[2], err[2];

	if (pipe(in) || pipe(out) || pipe(err))
		die("agent: pipe");
	j->pid = fork();
	if (j->pid == 0) {
		setsid();
		dup2(in[0], 0);
		dup2(out[1], 1);
		dup2(err[1], 2);
		child(command);
	}
	close(in[0]);
	close(out[1]);
	close(err[1]);
	j->in = in[1];
	j->out = out[0];
	j->err = err[0];
	nonblock(j->in);
	nonblock(j->err);
}

static void start_pty(struct job *j, const char *command)
{
	struct winsize size = {.ws_row = 40, .ws_col = 120};

	j->pid = forkpty(&j->out, NULL, NULL, &size);
	if (j->pid == 0)
		child(command);
	j->in = j->out;
	j->err = -1;
}

static void start(struct job *jobs, struct buf *out, uint32_t id, int pty, const char *command)
{
	struct job *j = NULL;

	for (int i = 0; i < JOBS && !j; i++)
		if (!jobs[i].pid)
			j = &jobs[i];
	if (!j) {
		static const char full[] = "agent: too many commands at once\n";
		char code[4] = {126};

		frame(out, T_ERR, id, full, sizeof(full) - 1);
		frame(out, T_EXIT, id, code, 4);
		return;
	}
	memset(j, 0, sizeof(*j));
	j->id = id;
	if (pty)
		start_pty(j, command);
	else
		start_pipes(j, command);
	if (j->pid < 0)
		die("agent: fork");
	nonblock(j->out);
}

static void handle(struct job *jobs, struct buf *out, int type, uint32_t id, char *p, uint32_t len)
{
	struct job *j = NULL;

	if (type == T_HELLO) {
		frame(out, T_HELLO, id, p, len);
		return;
	}
	if (type == T_EXEC || type == T_EXEC_PTY) {
		char *command = strndup(p, len);

		start(jobs, out, id, type == T_EXEC_PTY, command);
		free(command);
		return;
	}
	for (int i = 0; i < JOBS; i++)
		if (jobs[i].pid && jobs[i].id == id)
			j = &jobs[i];
	if (!j)
		return;
	if (type == T_KILL && len == 4) {
		kill(-j->pid, (int)get32(p));
	} else if (type == T_IN && len == 0) {
		j->in_eof = 1;
	} else if (type == T_IN && j->in >= 0) {
		buf_add(&j->queue, p, len);
		if (j->queue.len > IN_MAX)
			kill(-j->pid, SIGKILL);
	}
}

// Takes whole frames off the front of `in`.
static void parse(struct job *jobs, struct buf *in, struct buf *out)
{
	size_t at = 0;

	while (at < in->len) {
		char *p = in->p + at;
		uint32_t len;

		if (p[0] == T_PAD) {
			at++;
			continue;
		}
		if (in->len - at < HEAD)
			break;
		len = get32(p + 5);
		if (len > PAYLOAD_MAX) { // not a frame: a client died in the middle of one
			at++;
			continue;
		}
		if (in->len - at < HEAD + len)
			break;
		handle(jobs, out, p[0], get32(p + 1), p + HEAD, len);
		at += HEAD + len;
	}
	buf_drop(in, at);
}

// Reads what a command printed; returns 0 when its end is reached.
static int drain(struct buf *out, int type, uint32_t id, int fd)
{
	char data[8192];
	ssize_t n = read(fd, data, sizeof(data));

	if (n > 0)
		frame(out, type, id, data, (size_t)n);
	return n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR));
}

static void drain_all(struct buf *out, int type, uint32_t id, int fd)
{
	size_t before;

	do {
		before = out->len;
		if (!drain(out, type, id, fd))
			return;
	} while (out->len != before);
}

static void feed(struct job *j)
{
	while (j->queue.len) {
		ssize_t n = write(j->in, j->queue.p, j->queue.len);

		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (n < 0) {
			close_in(j);
			return;
		}
		buf_drop(&j->queue, (size_t)n);
	}
	if (j->in_eof)
		close_in(j);
}

static void reap(struct job *jobs, struct buf *out)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		for (int i = 0; i < JOBS; i++) {
			struct job *j = &jobs[i];
			char code[4];

			if (j->pid != pid)
				continue;
			if (j->out >= 0) {
				drain_all(out, T_OUT, j->id, j->out);
				close(j->out);
			}
			if (j->err >= 0) {
				drain_all(out, T_ERR, j->id, j->err);
				close(j->err);
			}
			if (j->in >= 0 && j->in != j->out)
				close(j->in);
			free(j->queue.p);
			put32(code, WIFEXITED(status) ? (uint32_t)WEXITSTATUS(status)
						      : 128 + (uint32_t)WTERMSIG(status));
			frame(out, T_EXIT, j->id, code, 4);
			memset(j, 0, sizeof(*j));
		}
	}
}

static void port_read(int port, struct buf *in)
{
	char data[65536];
	ssize_t n = read(port, data, sizeof(data));

	if (n > 0)
		buf_add(in, data, (size_t)n);
	else if (n == 0)
		in->len = 0; // the client has gone
}

static void port_write(int port, struct buf *out)
{
	ssize_t n = write(port, out->p, out->len);

	if (n > 0)
		buf_drop(out, (size_t)n);
}

static int watch(struct pollfd *fds, struct job *jobs, const struct buf *out)
{
	int n = 0;

	for (int i = 0; i < JOBS; i++) {
		struct job *j = &jobs[i];

		if (!j->pid)
			continue;
		if (j->out >= 0 && out->len < OUT_HIGH)
			fds[n++] = (struct pollfd){.fd = j->out, .events = POLLIN};
		if (j->err >= 0 && out->len < OUT_HIGH)
			fds[n++] = (struct pollfd){.fd = j->err, .events = POLLIN};
		if (j->in >= 0 && (j->queue.len || j->in_eof))
			fds[n++] = (struct pollfd){.fd = j->in, .events = POLLOUT};
	}
	return n;
}

static void serve_job(struct job *j, struct buf *out)
{
	if (j->in >= 0 && (j->queue.len || j->in_eof))
		feed(j);
	if (out->len >= OUT_HIGH)
		return;
	if (j->out >= 0 && !drain(out, T_OUT, j->id, j->out)) {
		if (j->in == j->out)
			j->in = -1;
		close(j->out);
		j->out = -1;
	}
	if (j->err >= 0 && !drain(out, T_ERR, j->id, j->err)) {
		close(j->err);
		j->err = -1;
	}
}

static void on_child(int sig)
{
	(void)sig;
}

int main(int argc, char **argv)
{
	static struct job jobs[JOBS];
	static struct pollfd fds[3 * JOBS + 1];
	struct buf in = {0}, out = {0};
	struct sigaction sa = {.sa_handler = on_child};
	sigset_t block, unblocked;
	int port = argc == 2 ? open(argv[1], O_RDWR | O_NONBLOCK | O_CLOEXEC) : -1;

	if (port < 0)
		die("agent PORT");
	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&block);
	sigaddset(&block, SIGCHLD);
	sigprocmask(SIG_BLOCK, &block, &unblocked);
	sigdelset(&unblocked, SIGCHLD);
	sigaction(SIGCHLD, &sa, NULL);
	for (;;) {
		int n = watch(fds + 1, jobs, &out) + 1;

		fds[0] = (struct pollfd){.fd = port, .events = (short)(POLLIN | (out.len ? POLLOUT : 0))};
		ppoll(fds, (nfds_t)n, NULL, &unblocked);
		if (fds[0].revents & POLLHUP) { // no client: nobody to tell
			out.len = 0;
			usleep(20000);
		}
		port_read(port, &in);
		parse(jobs, &in, &out);
		for (int i = 0; i < JOBS; i++)
			if (jobs[i].pid)
				serve_job(&jobs[i], &out);
		reap(jobs, &out);
		if (out.len)
			port_write(port, &out);
	}
}
