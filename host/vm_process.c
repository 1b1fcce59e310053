// SPDX-License-Identifier: Apache-2.0
/*
 * vm_process.c: starts perilune-vmm so that it is nobody's child in spirit: session, pid namespace
 * and cgroup of its own (neither a signal to the daemon's group nor systemd's end of the daemon's
 * service reaches it), an ordinary target for the out-of-memory killer. The VMM then locks itself
 * up further (hv/sandbox.h).
 */
#include "host/vm_process.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/util.h"
#include "host/cgroup.h"

/* --- the child: between clone and exec only system calls ----------------------------------------- */

struct child {
	const struct process_options *o;
	char *const *argv;
	int error_pipe;
	char cgroup[CGROUPS][CGROUP_PATH];
};

static void write_file(const char *path, const char *text)
{
	int fd = *path ? open(path, O_WRONLY | O_CLOEXEC) : -1;

	if (fd < 0)
		return;
	if (write(fd, text, strlen(text)) < 0)
		errno = 0; /* best effort */
	close(fd);
}

static void keep_open(int fd)
{
	(void)fcntl(fd, F_SETFD, 0);
}

static void run_child(const struct child *c) __attribute__((noreturn));
static void run_child(const struct child *c)
{
	sigset_t none;
	int log, err;

	(void)setsid();
	for (unsigned i = 0; i < CGROUPS; i++)
		write_file(c->cgroup[i], "0");
	write_file("/proc/self/oom_score_adj", "0");
	log = open(c->o->log, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
	if (log >= 0)
		(void)dup2(log, STDERR_FILENO);
	(void)chdir("/");
	keep_open(c->o->kvm);
	keep_open(c->o->memory);
	keep_open(c->o->lease);
	keep_open(c->o->listener);
	(void)signal(SIGPIPE, SIG_DFL);
	sigemptyset(&none);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
	(void)execv(c->o->program, c->argv);
	err = errno;
	if (write(c->error_pipe, &err, sizeof(err)) < 0)
		_exit(126);
	_exit(127);
}

/* As fork(), with a pidfd, and as process 1 of a pid namespace where that is allowed. */
static pid_t clone_child(int *pid_fd)
{
	struct clone_args args = {.flags = CLONE_PIDFD | CLONE_NEWPID,
				  .pidfd = (uint64_t)(uintptr_t)pid_fd,
				  .exit_signal = SIGCHLD};
	long pid = syscall(SYS_clone3, &args, sizeof(args));

	if (pid >= 0 || (errno != EPERM && errno != EINVAL && errno != ENOSYS))
		return (pid_t)pid;
	args.flags = CLONE_PIDFD;
	return (pid_t)syscall(SYS_clone3, &args, sizeof(args));
}

static int start(struct child *c, pid_t *pid, int *pid_fd)
{
	int pipe_fd[2], err = 0;
	ssize_t n;

	if (pipe2(pipe_fd, O_CLOEXEC) < 0)
		return fail(-errno, "pipe: %s", strerror(errno));
	c->error_pipe = pipe_fd[1];
	*pid_fd = -1;
	*pid = clone_child(pid_fd);
	if (*pid == 0)
		run_child(c);
	err = *pid < 0 ? errno : 0;
	close(pipe_fd[1]);
	if (*pid < 0) {
		close(pipe_fd[0]);
		return fail(-err, "cannot make a process: %s", strerror(err));
	}
	do
		n = read(pipe_fd[0], &err, sizeof(err));
	while (n < 0 && errno == EINTR);
	close(pipe_fd[0]);
	if (n != (ssize_t)sizeof(err))
		return 0;
	(void)waitid(P_PIDFD, (id_t)*pid_fd, &(siginfo_t){0}, WEXITED);
	close(*pid_fd);
	*pid_fd = -1;
	*pid = 0;
	return fail(-err, "%s: cannot be run: %s", c->o->program, strerror(err));
}

int process_start(const struct process_options *o, pid_t *pid, int *pid_fd)
{
	char kvm[16], memory[16], lease[16], listener[16], user[16];
	char *argv[] = {(char *)o->program,
			"--kvm",
			"",
			"--memory",
			"",
			"--lease",
			"",
			"--listen",
			"",
			"--id",
			(char *)o->id,
			NULL,
			NULL,
			NULL,
			NULL,
			NULL,
			NULL};
	unsigned n = 11;
	const struct cgroup group = {o->pool, o->id};
	struct child *c = xcalloc(1, sizeof(*c));
	int rc;

	(void)str_format(kvm, sizeof(kvm), "%d", o->kvm);
	(void)str_format(memory, sizeof(memory), "%d", o->memory);
	(void)str_format(lease, sizeof(lease), "%d", o->lease);
	(void)str_format(listener, sizeof(listener), "%d", o->listener);
	(void)str_format(user, sizeof(user), "%u",
			 VMM_UID_FIRST + (unsigned)(o->uid_hash % VMM_UIDS));
	argv[2] = kvm;
	argv[4] = memory;
	argv[6] = lease;
	argv[8] = listener;
	if (geteuid() == 0) {
		argv[n++] = "--uid";
		argv[n++] = user;
		argv[n++] = "--gid";
		argv[n++] = user;
	}
	if (o->postcopy)
		argv[n++] = "--postcopy";
	c->o = o;
	c->argv = argv;
	cgroup_make(&group, c->cgroup);
	rc = start(c, pid, pid_fd);
	if (rc < 0)
		cgroup_forget(&group);
	free(c);
	return rc;
}

/* --- finding it again ------------------------------------------------------------------------------ */

static ssize_t read_proc(pid_t pid, const char *what, char *dst, size_t size)
{
	char path[64];
	cleanup_fd int fd = -1;
	ssize_t n;

	(void)str_format(path, sizeof(path), "/proc/%d/%s", (int)pid, what);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, dst, size - 1);
	if (n >= 0)
		dst[n] = 0;
	return n;
}

/* The text behind the blank before field `field` of /proc/PID/stat (3 and on), or NULL. */
static const char *stat_field(char *text, int field)
{
	char *p = strrchr(text, ')'); /* the name before it may hold anything */

	for (int at = 2; p && at < field; at++)
		p = strchr(p + 1, ' ');
	return p;
}

int process_start_time(pid_t pid, uint64_t *out)
{
	char text[1024];
	const char *p;
	unsigned long long start;

	if (read_proc(pid, "stat", text, sizeof(text)) <= 0)
		return fail(-ESRCH, "process %d: is gone", (int)pid);
	p = stat_field(text, 22);
	if (!p || sscanf(p, "%llu", &start) != 1)
		return fail(-EIO, "/proc/%d/stat: not understood", (int)pid);
	*out = start;
	return 0;
}

int process_cpu_ns(pid_t pid, uint64_t *out)
{
	char text[1024];
	const char *p;
	unsigned long long user, system;
	long hz = sysconf(_SC_CLK_TCK);

	if (read_proc(pid, "stat", text, sizeof(text)) <= 0)
		return -ESRCH;
	p = stat_field(text, 14);
	if (!p || hz <= 0 || sscanf(p, "%llu %llu", &user, &system) != 2)
		return -EIO;
	*out = (user + system) * (NS_PER_S / (uint64_t)hz);
	return 0;
}

void process_boot(char dst[40])
{
	uint8_t id[16] = {0};

	(void)clock_boot_id(id);
	for (unsigned i = 0; i < sizeof(id); i++)
		(void)snprintf(dst + 2 * i, 3, "%02x", id[i]);
}

bool process_is_vmm(pid_t pid, const char *id)
{
	char text[4096];
	ssize_t n = read_proc(pid, "cmdline", text, sizeof(text));
	const char *slash, *p = text;
	bool next = false;

	if (n <= 0)
		return false;
	slash = strrchr(text, '/');
	if (strcmp(slash ? slash + 1 : text, "perilune-vmm"))
		return false;
	for (; p < text + n; p += strlen(p) + 1) {
		if (next)
			return !strcmp(p, id);
		next = !strcmp(p, "--id");
	}
	return false;
}
