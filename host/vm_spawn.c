// SPDX-License-Identifier: Apache-2.0
/*
 * vm_spawn.c: the VMM's process: its memory (a memfd that we make and seal, INV-HV-1), its lease
 * page, its listening socket; starting it with four descriptors and nothing else; finding it again.
 * A process is named by pid and start time, and held by a pidfd: a reused pid is not ours.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <dirent.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/util.h"
#include "clusterfs/cfs.h"
#include "host/daemon.h"
#include "host/db.h"
#include "host/vm_run.h"
#include "host/volume.h"

/* Each VMM its own user, so that none can touch another: a range that no system hands out. */
#define UID_BASE	1879100000u
#define UIDS_OF_A_STATE 256u /* per state directory, by its host id, so that hosts differ too */
#define UID_STATES	4096u

/* Descriptors in the VMM. */
enum { FD_KVM = 3, FD_MEMORY, FD_LEASE, FD_LISTEN, FD_END };

#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

static int make_memory(struct host_vm *vm)
{
	vm->memory_fd = memfd_create("guest-memory", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (vm->memory_fd < 0 || ftruncate(vm->memory_fd, (off_t)vm->def.memory) < 0 ||
	    fcntl(vm->memory_fd, F_ADD_SEALS, SEALS) < 0)
		return fail(-errno, "vm %s: cannot make %llu bytes of memory: %s", vm->name,
			    (unsigned long long)vm->def.memory, strerror(errno));
	return 0;
}

int vm_map_lease(struct host_vm *vm)
{
	void *end = mmap(NULL, VMCTL_LEASE_BYTES, PROT_READ, MAP_SHARED,
			 cfs_lease_fd(host_volume_fs(vm->volume)), 0);
	void *own = mmap(NULL, VMCTL_LEASE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, vm->lease_fd,
			 0);

	if (end == MAP_FAILED || own == MAP_FAILED)
		return fail(-errno, "vm %s: cannot map its lease: %s", vm->name, strerror(errno));
	pthread_mutex_lock(&vm->all->lock);
	vm->volume_end = end;
	vm->vmm_end = own;
	atomic_store(vm->vmm_end, atomic_load(vm->volume_end));
	pthread_mutex_unlock(&vm->all->lock);
	return 0;
}

/*
 * A file, not a memfd: the VMM keeps its mapping but no descriptor, and the next daemon must find
 * the page again. A new one for each start: an older VMM may still have the last one mapped.
 */
static int open_lease(struct host_vm *vm, bool fresh)
{
	cleanup_free char *path = xasprintf("%s/vm/%.13s.lease", vm->all->host->state.dir,
					    vm->def.id);

	if (fresh)
		(void)unlink(path);
	vm->lease_fd = open(path, O_RDWR | O_CLOEXEC | (fresh ? O_CREAT | O_EXCL : 0), 0600);
	if (vm->lease_fd < 0 || (fresh && ftruncate(vm->lease_fd, VMCTL_LEASE_BYTES) < 0))
		return fail(-errno, "vm %s: its lease page %s: %s", vm->name, path,
			    strerror(errno));
	return vm_map_lease(vm);
}

static int make_socket(struct host_vm *vm, int *out)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	/* The id's first half is enough to be alone in a directory, and short. */
	(void)str_format(vm->socket, sizeof(vm->socket), "%s/vm/%.13s.sock",
			 vm->all->host->state.dir, vm->def.id);
	(void)str_format(addr.sun_path, sizeof(addr.sun_path), "%s", vm->socket);
	(void)unlink(vm->socket);
	if (fd < 0 || bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 || listen(fd, 16) < 0) {
		int err = -errno;

		if (fd >= 0)
			close(fd);
		return fail(err, "vm %s: %s: %s", vm->name, vm->socket, strerror(-err));
	}
	*out = fd;
	return 0;
}

/* --- the process ------------------------------------------------------------------------------- */

static uint64_t start_time(pid_t pid, char *state)
{
	char path[64], text[1024], *p;
	unsigned long long start = 0;
	cleanup_fd int fd = -1;
	ssize_t n;

	(void)str_format(path, sizeof(path), "/proc/%d/stat", (int)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	if (n <= 0)
		return 0;
	text[n] = 0;
	p = strrchr(text, ')'); /* the name before it may hold anything */
	if (!p || sscanf(p + 2,
			 "%c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d"
			 " %*d %llu",
			 state, &start) != 2)
		return 0;
	return start;
}

struct child {
	const char *program, *id, *uid, *gid;
	int fds[FD_END]; /* from FD_KVM on; all above FD_END */
	int log;
	bool change_user;
};

/* Between fork and exec of a process with threads: only async-signal-safe calls. */
static void child_run(const struct child *c)
{
	const char *argv[] = {c->program, "--kvm",   "3",    "--memory",
			      "4",	  "--lease", "5",    "--listen",
			      "6",	  "--id",    c->id,  c->change_user ? "--uid" : NULL,
			      c->uid,	  "--gid",   c->gid, NULL};
	char *const env[] = {"PATH=/usr/bin:/bin", NULL};
	int null = open("/dev/null", O_RDWR | O_CLOEXEC), oom;
	sigset_t none;

	setsid();
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	/* The daemon is kept from the out-of-memory killer; a guest is not. */
	oom = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	if (oom >= 0 && write(oom, "0", 1) != 1)
		_exit(126);
	dup2(null, 0);
	dup2(c->log >= 0 ? c->log : null, 1);
	dup2(c->log >= 0 ? c->log : null, 2);
	for (int fd = FD_KVM; fd < FD_END; fd++)
		if (dup2(c->fds[fd], fd) != fd)
			_exit(126);
	execve(c->program, (char *const *)argv, env);
	_exit(127);
}

/* Read-only, opened anew: the VMM can never make it writable (base/vmctl.h). */
static int lease_read_only(struct host_vm *vm)
{
	char path[64];

	(void)str_format(path, sizeof(path), "/proc/self/fd/%d", vm->lease_fd);
	return open(path, O_RDONLY | O_CLOEXEC);
}

static int lift(int fd) /* above the VMM's numbers, so that dup2 overwrites none */
{
	int high = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, FD_END + 16);

	if (fd >= 0)
		close(fd);
	return high;
}

/* The first index of this daemon's range that no VM uses. Caller holds the vms' lock. */
static unsigned free_uid(struct host_vm *vm)
{
	struct host_vm *other;

	for (unsigned i = 0; i < UIDS_OF_A_STATE; i++) {
		bool used = false;

		list_for_each (other, &vm->all->list, link)
			if (other != vm && other->uid_index == i)
				used = true;
		if (!used)
			return i;
	}
	return UIDS_OF_A_STATE - 1;
}

static unsigned uid_of(const struct host_vm *vm)
{
	unsigned hash = 0;

	for (const char *p = vm->all->host->state.id; *p; p++)
		hash = hash * 31 + (unsigned char)*p;
	return UID_BASE + (hash % UID_STATES) * UIDS_OF_A_STATE + vm->uid_index;
}

static int fork_vmm(struct host_vm *vm, struct child *c)
{
	pid_t pid;

	for (int fd = FD_KVM; fd < FD_END; fd++)
		if (c->fds[fd] < 0)
			return fail(-errno, "vm %s: descriptor %d for the VMM: %s", vm->name, fd,
				    strerror(errno));
	pid = fork();
	if (pid == 0)
		child_run(c);
	if (pid < 0)
		return fail(-errno, "vm %s: cannot start a process: %s", vm->name, strerror(errno));
	vm->pid = pid;
	vm->pid_fd = (int)syscall(SYS_pidfd_open, pid, 0);
	return vm->pid_fd < 0 ? fail(-errno, "vm %s: pidfd_open: %s", vm->name, strerror(errno))
			      : 0;
}

/* Best effort: a group of its own, for accounting and so that service managers leave it alone. */
static void own_cgroup(struct host_vm *vm)
{
	struct statfs fs;
	bool v2 = statfs("/sys/fs/cgroup", &fs) == 0 && fs.f_type == CGROUP2_SUPER_MAGIC;
	const char *base = v2 ? "/sys/fs/cgroup" : "/sys/fs/cgroup/pids";
	char path[160], pid[24];
	int fd;

	(void)str_format(path, sizeof(path), "%s/perilune", base);
	(void)mkdir(path, 0755);
	(void)str_format(path, sizeof(path), "%s/perilune/%.36s", base, vm->def.id);
	(void)mkdir(path, 0755);
	(void)str_format(path, sizeof(path), "%s/perilune/%.36s/cgroup.procs", base, vm->def.id);
	(void)str_format(pid, sizeof(pid), "%d", (int)vm->pid);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, pid, strlen(pid)) < 0)
		log_debug("host", "vm %s: no cgroup of its own: %s", vm->name, strerror(errno));
	if (fd >= 0)
		close(fd);
}

static void leave_cgroup(struct host_vm *vm)
{
	char path[160];

	(void)str_format(path, sizeof(path), "/sys/fs/cgroup/perilune/%.36s", vm->def.id);
	(void)rmdir(path);
	(void)str_format(path, sizeof(path), "/sys/fs/cgroup/pids/perilune/%.36s", vm->def.id);
	(void)rmdir(path);
}

int vm_spawn(struct host_vm *vm)
{
	struct host *host = vm->all->host;
	cleanup_free char *log = xasprintf("%s/vm/%.13s.log", host->state.dir, vm->def.id);
	char uid[24], state;
	struct child c = {.program = host->vmm, .id = vm->key, .uid = uid, .gid = uid};
	int listening = -1, rc;

	if (access(host->vmm, X_OK) < 0)
		return fail(-ENOENT, "%s: perilune-vmm is not there; start perilund with --vmm",
			    host->vmm);
	rc = make_memory(vm);
	if (rc == 0)
		rc = open_lease(vm, true);
	if (rc == 0)
		rc = make_socket(vm, &listening);
	if (rc == 0)
		rc = vm_remember(vm);
	if (rc < 0)
		return rc;
	pthread_mutex_lock(&vm->all->lock);
	vm->uid_index = free_uid(vm);
	pthread_mutex_unlock(&vm->all->lock);
	c.change_user = geteuid() == 0;
	(void)str_format(uid, sizeof(uid), "%u", uid_of(vm));
	c.log = open(log, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
	c.fds[FD_KVM] = lift(open("/dev/kvm", O_RDWR | O_CLOEXEC));
	c.fds[FD_MEMORY] = lift(fcntl(vm->memory_fd, F_DUPFD_CLOEXEC, 0));
	c.fds[FD_LEASE] = lift(lease_read_only(vm));
	c.fds[FD_LISTEN] = lift(listening);
	rc = c.fds[FD_KVM] < 0
		     ? fail(-EIO, "/dev/kvm: %s; see perilune host check", strerror(errno))
		     : fork_vmm(vm, &c);
	for (int fd = FD_KVM; fd < FD_END; fd++)
		if (c.fds[fd] >= 0)
			close(c.fds[fd]);
	if (c.log >= 0)
		close(c.log);
	if (rc < 0)
		return rc;
	own_cgroup(vm);
	vm->pid_start = start_time(vm->pid, &state);
	return vm_remember(vm);
}

void vm_end_process(struct host_vm *vm)
{
	struct pollfd p = {.fd = vm->pid_fd, .events = POLLIN};

	if (vm->pid_fd < 0)
		return;
	(void)syscall(SYS_pidfd_send_signal, vm->pid_fd, SIGKILL, NULL, 0);
	while (poll(&p, 1, 10000) < 0 && errno == EINTR)
		;
	(void)waitpid(vm->pid, NULL, WNOHANG); /* not our child after a daemon's restart */
	close(vm->pid_fd);
	vm->pid_fd = -1;
	leave_cgroup(vm);
	if (vm->socket[0])
		(void)unlink(vm->socket);
}

/* --- the inventory ---------------------------------------------------------------------------------- */

int vm_remember(struct host_vm *vm)
{
	json_t *d = json_pack("{s:s, s:s, s:s, s:i, s:I, s:s, s:i, s:I, s:s}", "state", "running",
			      "name", vm->name, "volume", host_volume_name(vm->volume), "pid",
			      (int)vm->pid, "pid_start", (json_int_t)vm->pid_start, "socket",
			      vm->socket, "uid_index", (int)vm->uid_index, "started_ns",
			      (json_int_t)vm->started_ns, "id", vm->def.id);
	int rc = d ? host_db_put(vm->all->host->db, HOST_VMS, vm->key, d)
		   : fail(-EINVAL, "vm %s: its name is not UTF-8", vm->name);

	json_decref(d);
	return rc;
}

void vm_forget(struct host_vm *vm)
{
	if (host_db_put(vm->all->host->db, HOST_VMS, vm->key, NULL) < 0)
		log_warn("host", "vm %s: still in the inventory: %s", vm->name, err_message(-EIO));
}

/* A copy of the VMM's descriptor: no path of its making is opened. */
static int copy_fd(struct host_vm *vm, int number, uint64_t bytes)
{
	int fd = (int)syscall(SYS_pidfd_getfd, vm->pid_fd, number, 0), seals;
	struct stat st;

	if (fd < 0)
		return fail(-errno, "vm %s: descriptor %d of its VMM: %s", vm->name, number,
			    strerror(errno));
	seals = fcntl(fd, F_GET_SEALS);
	if (seals < 0 || (seals & SEALS) != SEALS || fstat(fd, &st) < 0 ||
	    (uint64_t)st.st_size != bytes) {
		close(fd);
		return fail(-EPERM,
			    "vm %s: its VMM has put something else in place of descriptor"
			    " %d",
			    vm->name, number);
	}
	return fd;
}

int vm_take_up(struct host_vm *vm, json_t *record)
{
	uint64_t start = (uint64_t)json_integer_value(json_object_get(record, "pid_start"));
	const char *sock = json_string_value(json_object_get(record, "socket"));
	char state = 0;

	vm->pid = (pid_t)json_integer_value(json_object_get(record, "pid"));
	vm->started_ns = (uint64_t)json_integer_value(json_object_get(record, "started_ns"));
	vm->uid_index = (unsigned)json_integer_value(json_object_get(record, "uid_index"));
	(void)str_format(vm->socket, sizeof(vm->socket), "%s", sock ? sock : "");
	if (vm->pid <= 0)
		return fail(-ESRCH, "vm %s: was not started to the end", vm->name);
	vm->pid_fd = (int)syscall(SYS_pidfd_open, vm->pid, 0);
	vm->pid_start = start_time(vm->pid, &state);
	if (vm->pid_fd < 0 || vm->pid_start != start || state == 'Z' || state == 'X') {
		if (vm->pid_fd >= 0)
			close(vm->pid_fd);
		vm->pid_fd = -1;
		return fail(-ESRCH, "vm %s: its VMM (pid %d) is gone", vm->name, (int)vm->pid);
	}
	vm->memory_fd = copy_fd(vm, FD_MEMORY, vm->def.memory);
	return vm->memory_fd < 0 ? vm->memory_fd : open_lease(vm, false);
}

static bool is_stray(int pid, const char *key)
{
	char path[64], text[2048];
	cleanup_fd int fd = -1;
	ssize_t n;
	size_t len = strlen(key) + 1;

	(void)str_format(path, sizeof(path), "/proc/%d/cmdline", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? 0 : read(fd, text, sizeof(text) - 1);
	if (n <= 0)
		return false;
	text[n] = 0;
	return strstr(text, "perilune-vmm") &&
	       memmem(text, (size_t)n + 1, key, len); /* a whole word */
}

void vm_end_stray(const char *key)
{
	DIR *dir = opendir("/proc");
	struct dirent *e;

	while (dir && (e = readdir(dir))) {
		int pid = atoi(e->d_name);
		int fd = pid > 0 ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;

		if (fd < 0)
			continue;
		if (is_stray(pid, key)) /* the pidfd came first: it is this one */
			(void)syscall(SYS_pidfd_send_signal, fd, SIGKILL, NULL, 0);
		close(fd);
	}
	if (dir)
		closedir(dir);
}
