// SPDX-License-Identifier: Apache-2.0
/*
 * until_seen.c: how long a command takes until some text is seen.
 *
 *	until_seen TEXT - COMMAND...	in the command's standard output; it is killed then
 *	until_seen TEXT DIR COMMAND...	in what is appended to any DIR/NAME.console (perilund's logs of
 *					VMs' consoles); the command ends by itself
 *	until_seen TEXT DIR @SOCKET REQUEST	the same, when that text was sent to a unix socket that
 *					was connected before; "\r" and "\n" in it are such
 *
 * Prints milliseconds from just before the command was started, or the request sent. Exits 1 after a minute, or when the
 * command fails before.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/util.h"

#define GIVE_UP_MS 60000
#define LOGS	   16
#define SEEN	   65536

struct logfile {
	char name[64];
	off_t from;
};

struct watch {
	const char *text, *dir;
	int fd; /* pipe or inotify */
	pid_t pid;
	struct logfile log[LOGS];
	unsigned logs;
	char seen[SEEN + 1];
	size_t n;
};

static void die(const char *what)
{
	fprintf(stderr, "until_seen: %s: %s\n", what, strerror(errno));
	exit(1);
}

/* A connected socket, and the request's text made what it means. */
static int prepare(const char *path, char *request)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	char *to = request;

	if (str_format(addr.sun_path, sizeof(addr.sun_path), "%s", path) < 0 || fd < 0 ||
	    connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
		die(path);
	for (const char *p = request; *p; p++) {
		bool escape = p[0] == '\\' && (p[1] == 'n' || p[1] == 'r');

		if (escape)
			p++;
		*to++ = !escape ? *p : *p == 'n' ? '\n' : '\r';
	}
	*to = 0;
	return fd;
}

static bool found(struct watch *w)
{
	return w->n && memmem(w->seen, w->n, w->text, strlen(w->text));
}

static void start(struct watch *w, char **command)
{
	int out[2] = {-1, -1};

	if (!w->dir && pipe2(out, O_CLOEXEC) < 0)
		die("pipe");
	w->pid = fork();
	if (w->pid < 0)
		die("fork");
	if (w->pid == 0) {
		int null = open("/dev/null", O_RDWR);

		dup2(null, STDIN_FILENO);
		dup2(w->dir ? null : out[1], STDOUT_FILENO);
		execvp(command[0], command);
		_exit(127);
	}
	if (!w->dir) {
		close(out[1]);
		w->fd = out[0];
	}
}

/* What a log holds already does not count. */
static struct logfile *log_of(struct watch *w, const char *name)
{
	for (unsigned i = 0; i < w->logs; i++)
		if (!strcmp(w->log[i].name, name))
			return &w->log[i];
	if (w->logs == LOGS || str_format(w->log[w->logs].name, 64, "%s", name) < 0)
		return NULL;
	return &w->log[w->logs++];
}

static void watch_logs(struct watch *w)
{
	char command[PATH_MAX], path[PATH_MAX];
	FILE *names;

	w->fd = inotify_init1(IN_CLOEXEC);
	if (w->fd < 0 || inotify_add_watch(w->fd, w->dir, IN_MODIFY) < 0)
		die(w->dir);
	(void)str_format(command, sizeof(command), "ls '%s'", w->dir);
	names = popen(command, "re");
	while (names && fgets(command, 64, names)) {
		struct logfile *log;
		struct stat st;

		command[strcspn(command, "\n")] = 0;
		(void)str_format(path, sizeof(path), "%s/%s", w->dir, command);
		log = stat(path, &st) == 0 ? log_of(w, command) : NULL;
		if (log)
			log->from = st.st_size;
	}
	if (names)
		pclose(names);
}

static void read_log(struct watch *w, const char *name)
{
	struct logfile *log = log_of(w, name);
	size_t end = strlen(name);
	char path[PATH_MAX];
	ssize_t n;
	int fd;

	if (!log || end < 8 || strcmp(name + end - 8, ".console"))
		return;
	(void)str_format(path, sizeof(path), "%s/%s", w->dir, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : pread(fd, w->seen + w->n, SEEN - w->n, log->from);
	if (n > 0) {
		w->n += (size_t)n;
		log->from += n;
	}
	if (fd >= 0)
		close(fd);
}

static void take(struct watch *w)
{
	char buf[8192] __attribute__((aligned(8)));
	ssize_t n;

	if (!w->dir) {
		n = read(w->fd, w->seen + w->n, SEEN - w->n);
		if (n <= 0) {
			int status = 0;

			waitpid(w->pid, &status, 0);
			fprintf(stderr, "until_seen: the command ended with %x, or says too much\n",
				status);
			exit(1);
		}
		w->n += (size_t)n;
		return;
	}
	n = read(w->fd, buf, sizeof(buf));
	for (char *p = buf; p < buf + MAX(n, 0);) {
		const struct inotify_event *e = (void *)p;

		if (e->len)
			read_log(w, e->name);
		p += sizeof(*e) + e->len;
	}
}

/* In a minute's time, whatever is waited for: the alarm ends it. */
static void end(struct watch *w)
{
	int status = 0;

	if (!w->dir)
		kill(w->pid, SIGKILL);
	while (waitpid(w->pid, &status, 0) < 0 && errno == EINTR)
		;
	if (w->dir && status) {
		fprintf(stderr, "until_seen: the command failed\n");
		exit(1);
	}
}

int main(int argc, char **argv)
{
	struct watch *w = xcalloc(1, sizeof(*w));
	uint64_t begun, seen_ns;
	int to = -1;

	if (argc < 4) {
		fprintf(stderr, "usage: until_seen TEXT DIR|- COMMAND...\n");
		return 2;
	}
	w->text = argv[1];
	w->dir = strcmp(argv[2], "-") ? argv[2] : NULL;
	if (w->dir)
		watch_logs(w);
	alarm(GIVE_UP_MS / 1000);
	if (w->dir && argv[3][0] == '@' && argc == 5)
		to = prepare(argv[3] + 1, argv[4]);
	begun = clock_boot_ns();
	if (to < 0)
		start(w, argv + 3);
	else if (write(to, argv[4], strlen(argv[4])) < 0)
		die(argv[3]);
	while (!found(w)) {
		struct pollfd p = {.fd = w->fd, .events = POLLIN};

		if (poll(&p, 1, GIVE_UP_MS) == 1)
			take(w);
	}
	seen_ns = clock_boot_ns();
	if (to < 0)
		end(w);
	printf("%.2f\n", (double)(seen_ns - begun) / 1e6);
	return 0;
}
