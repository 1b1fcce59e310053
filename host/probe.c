// SPDX-License-Identifier: Apache-2.0
/* probe.c: running probes apart, and those of the machine besides KVM. */
#include "host/probe.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <poll.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <linux/magic.h>
#include <linux/seccomp.h>
#include <unistd.h>

#include "base/util.h"
#include "host/cgroup.h"
#include "host/host.h"

#define TIME_LIMIT_MS 3000

void host_probe_say(struct host_probe_result *out, const char *cure, const char *fmt, ...)
{
	va_list ap;

	out->ok = !cure;
	(void)str_format(out->cure, sizeof(out->cure), "%s", cure ? cure : "");
	va_start(ap, fmt);
	vsnprintf(out->detail, sizeof(out->detail), fmt, ap);
	va_end(ap);
}

void host_probe_run(const struct host_probe *probe, struct host_probe_result *out)
{
	struct pollfd p = {.events = POLLIN};
	int pipe_fd[2], status;
	pid_t pid;

	memset(out, 0, sizeof(*out));
	host_probe_say(out, "report this", "the probe died");
	if (pipe2(pipe_fd, O_CLOEXEC) < 0)
		return;
	pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		probe->run(out);
		_exit(write(pipe_fd[1], out, sizeof(*out)) == sizeof(*out) ? 0 : 1);
	}
	close(pipe_fd[1]);
	p.fd = pipe_fd[0];
	if (pid > 0) {
		if (poll(&p, 1, TIME_LIMIT_MS) == 0)
			host_probe_say(out, "see the kernel's log", "no end after %d s",
				       TIME_LIMIT_MS / 1000);
		else if (read(pipe_fd[0], out, sizeof(*out)) != sizeof(*out))
			host_probe_say(out, "see the kernel's log", "the probe died");
		kill(pid, SIGKILL);
		(void)waitpid(pid, &status, 0);
	}
	close(pipe_fd[0]);
}

static void read_line(const char *path, char *dst, size_t size)
{
	cleanup_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? 0 : read(fd, dst, size - 1);

	dst[n > 0 ? n : 0] = 0;
	dst[strcspn(dst, "\n")] = 0;
}

static void probe_huge(struct host_probe_result *out)
{
	static const char *const path = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
	char line[128], *word;

	read_line(path, line, sizeof(line));
	word = strchr(line, '[');
	if (word && (!strncmp(word, "[advise]", 8) || !strncmp(word, "[always]", 8) ||
		     !strncmp(word, "[within_size]", 13)))
		host_probe_say(out, NULL, "guest memory gets huge pages (%s)", line);
	else
		host_probe_say(out,
			       "echo advise >/sys/kernel/mm/transparent_hugepage/shmem_enabled, at "
			       "each boot",
			       "guest memory gets no huge pages, guests run a third slower (%s)",
			       line[0] ? line : "no such file");
}

static void probe_uring(struct host_probe_result *out)
{
	static const int ops[] = {IORING_OP_READV, IORING_OP_WRITEV, IORING_OP_FSYNC,
				  IORING_OP_POLL_ADD, IORING_OP_FALLOCATE};
	struct io_uring ring;
	struct io_uring_cqe *cqe;
	struct io_uring_probe *probe;
	int rc = io_uring_queue_init(64, &ring, 0);

	if (rc < 0) {
		host_probe_say(out,
			       "sysctl kernel.io_uring_disabled=0; in a container, allow io_uring",
			       "io_uring: %s", strerror(-rc));
		return;
	}
	probe = io_uring_get_probe_ring(&ring);
	for (size_t i = 0; i < ARRAY_SIZE(ops); i++)
		if (!probe || !io_uring_opcode_supported(probe, ops[i])) {
			host_probe_say(out, "use Linux 5.10 or later", "io_uring lacks request %d",
				       ops[i]);
			return;
		}
	io_uring_prep_nop(io_uring_get_sqe(&ring));
	rc = io_uring_submit_and_wait(&ring, 1);
	if (rc < 0 || io_uring_peek_cqe(&ring, &cqe) < 0 || cqe->res < 0)
		host_probe_say(out, "use Linux 5.10 or later", "io_uring does not answer");
	else
		host_probe_say(out, NULL, "a request went round");
}

static void probe_memlock(struct host_probe_result *out)
{
	struct rlimit limit;
	void *p = mmap(NULL, 64 * MiB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	getrlimit(RLIMIT_MEMLOCK, &limit);
	if (p == MAP_FAILED || mlock(p, 64 * MiB) < 0)
		host_probe_say(out, "ulimit -l unlimited, or LimitMEMLOCK=infinity in the unit",
			       "64 MiB cannot be locked (limit %llu KiB)",
			       (unsigned long long)limit.rlim_cur / KiB);
	else
		host_probe_say(out, NULL, "64 MiB were locked");
}

static void probe_memfd(struct host_probe_result *out)
{
	int fd = memfd_create("probe", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0 || ftruncate(fd, 2 * MiB) < 0 ||
	    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		host_probe_say(out, "use a kernel with memfd and seals", "memfd: %s",
			       strerror(errno));
	else if (ftruncate(fd, 0) == 0)
		host_probe_say(out, "use a kernel with memfd and seals",
			       "a sealed memfd could be shrunk");
	else
		host_probe_say(out, NULL, "guest memory can be sealed");
}

static void probe_cgroup(struct host_probe_result *out)
{
	const char *kind = cgroup_kind();
	struct stat st;

	if (kind && !strcmp(kind, "v2"))
		host_probe_say(out, NULL, "cgroup v2; weights, limits and pools of VMs are kept");
	else if (kind)
		host_probe_say(out, NULL, "cgroup v1; weights, limits and pools of VMs are kept");
	else if (stat("/sys/fs/cgroup/cgroup.procs", &st) == 0 ||
		 stat("/sys/fs/cgroup/pids", &st) == 0)
		host_probe_say(out, "run perilund as root, with a writable /sys/fs/cgroup",
			       "no group here shares processors: no weights, limits, pools of VMs");
	else
		host_probe_say(out, "mount -t cgroup2 none /sys/fs/cgroup",
			       "no cgroups: VMs are not set apart; no weights, limits, pools");
}

static void probe_namespaces(struct host_probe_result *out)
{
	if (unshare(CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC) < 0)
		host_probe_say(out, "run perilund as root (CAP_SYS_ADMIN)",
			       "namespaces for VMs: %s", strerror(errno));
	else
		host_probe_say(out, NULL, "mount, pid, net and ipc namespaces");
}

static void probe_seccomp(struct host_probe_result *out)
{
	/* With no filter at all the kernel answers EFAULT; EINVAL means that it knows none. */
	if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, NULL) < 0 && errno == EFAULT)
		host_probe_say(out, NULL, "system call filters work");
	else
		host_probe_say(out, "use a kernel with CONFIG_SECCOMP_FILTER",
			       "no system call filters: %s", strerror(errno));
}

static void probe_files(struct host_probe_result *out)
{
	struct rlimit limit;

	getrlimit(RLIMIT_NOFILE, &limit);
	if (limit.rlim_max < 4096)
		host_probe_say(out, "LimitNOFILE=65536 in the unit",
			       "at most %llu open files, some 40 are needed a VM",
			       (unsigned long long)limit.rlim_max);
	else
		host_probe_say(out, NULL, "%llu open files", (unsigned long long)limit.rlim_max);
}

static void probe_oom(struct host_probe_result *out)
{
	int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, "-1000", 5) != 5)
		host_probe_say(out, "run perilund as root (CAP_SYS_RESOURCE)",
			       "perilund cannot be kept from the kernel's out-of-memory killer");
	else
		host_probe_say(out, NULL, "perilund can be kept from it");
}

static void probe_firmware(struct host_probe_result *out)
{
	struct stat st;

	if (stat(HOST_FIRMWARE, &st) == 0 && st.st_size > 0)
		host_probe_say(out, NULL, "vms may boot from their disk (%s, %lld KiB)",
			       HOST_FIRMWARE, (long long)(st.st_size / KiB));
	else
		host_probe_say(out, "apt install seabios",
			       "vms cannot boot from their disk: %s: %s", HOST_FIRMWARE,
			       strerror(errno));
}

const struct host_probe host_probes_machine[] = {
	{"huge-pages", probe_huge},
	{"io_uring", probe_uring},
	{"memlock", probe_memlock},
	{"sealed-memory", probe_memfd},
	{"cgroups", probe_cgroup},
	{"namespaces", probe_namespaces},
	{"seccomp", probe_seccomp},
	{"open-files", probe_files},
	{"oom-killer", probe_oom},
	{"firmware", probe_firmware},
	{NULL, NULL},
};
