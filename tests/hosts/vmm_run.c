// SPDX-License-Identifier: Apache-2.0
/*
 * Runs a kernel in perilune-vmm without a daemon: plays the daemon's part of base/vmctl.h. For tests
 * in the lab, and for people. Console on standard input and output; ends when the guest powers off.
 *
 *	vmm_run --vmm PATH --kernel F [--initrd F] [--append STR] [--memory 256M] [--cpus N]
 *	        [--scsi SOCKET]... [--blk SOCKET]... [--rng] [--once] [--nested]
 *	vmm_run --vmm PATH --firmware F ... boots from the first --scsi disk
 *
 * SIGUSR1 moves the guest to another VMM process, as a migration does: rounds over the log of written
 * pages while it runs, the rest and the state while it stands still; "moved" on standard error. All
 * of both memories is compared then. (A back-end writes past that log: with disks the memory is
 * copied once more instead.)
 *
 * SOCKET is a listening vhost-user back-end; since the VMM only listens itself, a relay joins the
 * two. --once: a reboot ends it too (exit 3); a panic is told on standard error, a crash is exit 4.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/linux_boot.h"
#include "base/util.h"
#include "base/vhost_user.h"
#include "base/vmctl.h"

struct run {
	const char *vmm, *kernel, *initrd, *firmware;
	bool once, nested;
	struct vmctl_config config;
	const char *sockets[VMCTL_DEVICES_MAX];
	int memory_fd;
	uint8_t *memory;
	pid_t pid;
	char path[108];
	unsigned moves;
	struct vmctl_conn *conn;
	uint64_t started_ns;
};

static volatile pid_t child;
static char child_path[108];

static void die(const char *what, int rc)
{
	fprintf(stderr, "vmm_run: %s: %s\n", what, err_message(rc));
	if (child)
		kill(child, SIGKILL);
	exit(1);
}

/* --- memory, kernel ---------------------------------------------------------------------------- */

static void make_memory(struct run *r)
{
	uint64_t n = r->config.memory_bytes;

	r->memory_fd = memfd_create("guest", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (r->memory_fd < 0 || ftruncate(r->memory_fd, (off_t)n) < 0 ||
	    fcntl(r->memory_fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		die("memory", -errno);
	r->memory = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_SHARED, r->memory_fd, 0);
	if (r->memory == MAP_FAILED)
		die("memory", -errno);
	madvise(r->memory, n, MADV_HUGEPAGE);
}

static void read_at(int fd, const char *name, uint64_t offset, void *dst, uint64_t n)
{
	while (n) {
		ssize_t got = pread(fd, dst, n, (off_t)offset);
		if (got <= 0)
			die(name, got ? -errno : -EIO);
		dst = (uint8_t *)dst + got;
		offset += (uint64_t)got;
		n -= (uint64_t)got;
	}
}

static uint64_t open_file(const char *name, int *fd)
{
	struct stat st;

	*fd = open(name, O_RDONLY | O_CLOEXEC);
	if (*fd < 0 || fstat(*fd, &st) < 0)
		die(name, -errno);
	return (uint64_t)st.st_size;
}

static void load_firmware(struct run *r)
{
	struct vmctl_config *c = &r->config;
	int fd;

	c->setup_bytes = open_file(r->firmware, &fd);
	if (c->setup_bytes > VMCTL_FIRMWARE_MAX)
		die(r->firmware, -EINVAL);
	c->boot = VMCTL_BOOT_FIRMWARE;
	c->setup_gpa = MiB - c->setup_bytes;
	read_at(fd, r->firmware, 0, r->memory + c->setup_gpa, c->setup_bytes);
	close(fd);
}

/* As the daemon does before each START. */
static void load(struct run *r)
{
	if (r->firmware) {
		load_firmware(r);
		return;
	}
	uint8_t head[LINUX_BOOT_HEAD];
	struct linux_boot_info info;
	struct linux_boot_place place;
	int kernel, initrd = -1;
	uint64_t size = open_file(r->kernel, &kernel);
	uint64_t initrd_bytes = r->initrd ? open_file(r->initrd, &initrd) : 0;
	struct vmctl_config *c = &r->config;

	read_at(kernel, r->kernel, 0, head, sizeof(head));
	int rc = linux_boot_parse(head, sizeof(head), size, r->kernel, &info);
	if (!rc)
		rc = linux_boot_place(&info, c->memory_bytes, initrd_bytes, r->kernel, &place);
	if (rc)
		die("kernel", rc);
	c->setup_gpa = place.setup_gpa;
	c->setup_bytes = info.setup_bytes;
	c->kernel_gpa = place.kernel_gpa;
	c->kernel_bytes = info.kernel_bytes;
	c->initrd_gpa = place.initrd_gpa;
	c->initrd_bytes = initrd_bytes;
	read_at(kernel, r->kernel, 0, r->memory + place.setup_gpa, info.setup_bytes);
	read_at(kernel, r->kernel, info.setup_bytes, r->memory + place.kernel_gpa,
		info.kernel_bytes);
	if (initrd >= 0)
		read_at(initrd, r->initrd, 0, r->memory + place.initrd_gpa, initrd_bytes);
	close(kernel);
	util_close(&initrd);
}

/* --- the VMM ----------------------------------------------------------------------------------- */

static int make_lease(void)
{
	char path[64];
	const uint64_t none = VMCTL_LEASE_NONE;
	int fd = memfd_create("lease", MFD_CLOEXEC);

	if (fd < 0 || ftruncate(fd, VMCTL_LEASE_BYTES) < 0 || pwrite(fd, &none, 8, 0) != 8)
		die("lease", -errno);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	int ro = open(path, O_RDONLY | O_CLOEXEC);
	close(fd);
	return ro;
}

static int make_listener(struct run *r)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(r->path, sizeof(r->path), "/tmp/vmm_run.%d.%u.sock", getpid(), r->moves);
	(void)str_format(a.sun_path, sizeof(a.sun_path), "%s", r->path);
	unlink(r->path);
	if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(fd, 32) < 0)
		die(r->path, -errno);
	return fd;
}

static volatile sig_atomic_t move_asked;

static void ask_move(int sig)
{
	(void)sig;
	move_asked = 1;
}

/* The VMM outlives its daemon on purpose; but not this one. */
static void ended(int sig)
{
	kill(child, SIGKILL);
	unlink(child_path);
	_exit(128 + sig);
}

static void spawn(struct run *r)
{
	/* Kept free of each other's numbers: dup2 in the child clears close-on-exec. */
	int fds[4] = {open("/dev/kvm", O_RDWR | O_CLOEXEC), r->memory_fd, make_lease(),
		      make_listener(r)};

	if (fds[0] < 0)
		die("/dev/kvm", -errno);
	r->pid = fork();
	if (r->pid == 0) {
		for (int i = 0; i < 4; i++)
			dup2(fds[i], 100 + i);
		execl(r->vmm, "perilune-vmm", "--kvm", "100", "--memory", "101", "--lease", "102",
		      "--listen", "103", "--id", "vmm_run", "--uid", "65534", "--gid", "65534",
		      NULL);
		_exit(127);
	}
	child = r->pid;
	memcpy(child_path, r->path, sizeof(child_path));
	signal(SIGTERM, ended);
	signal(SIGINT, ended);
	signal(SIGHUP, ended);
	close(fds[0]);
	close(fds[2]);
	close(fds[3]);
}

static int connect_to(const char *path)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	(void)str_format(a.sun_path, sizeof(a.sun_path), "%s", path);
	if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0)
		die(path, -errno);
	return fd;
}

static struct vmctl_conn *say_hello(struct run *r, enum vmctl_kind kind, uint32_t device)
{
	struct vmctl_msg hello = {
		.type = VMCTL_HELLO,
		.hello = {.version = VMCTL_VERSION, .kind = kind, .device = device},
	};
	struct vmctl_conn *conn;
	int rc = vmctl_conn_create(&conn, connect_to(r->path));

	if (!rc)
		rc = vmctl_conn_send(conn, &hello);
	if (rc)
		die("hello", rc);
	return conn;
}

/* --- the relay --------------------------------------------------------------------------------- */

/* Message by message: descriptors belong to the first byte of the one they came with. */
static bool pass_on(int from, int to)
{
	struct vhost_user_msg m = {0};
	int rc = vhost_user_receive(from, &m, true);

	if (rc > 0)
		rc = vhost_user_send(to, &m);
	vhost_user_close_fds(&m);
	return rc >= 0;
}

static void *relay(void *arg)
{
	int *fds = arg;
	struct pollfd p[2] = {{.fd = fds[0], .events = POLLIN}, {.fd = fds[1], .events = POLLIN}};

	for (;;) {
		poll(p, 2, -1);
		for (int i = 0; i < 2; i++) {
			if (p[i].revents && !pass_on(fds[i], fds[!i])) {
				shutdown(fds[0], SHUT_RDWR);
				shutdown(fds[1], SHUT_RDWR);
				return NULL;
			}
		}
	}
}

static void join_device(struct run *r, uint32_t device)
{
	int *fds = xcalloc(2, sizeof(int));
	pthread_t thread;

	fds[0] = vmctl_conn_detach(say_hello(r, VMCTL_KIND_VHOST_USER, device));
	fds[1] = connect_to(r->sockets[device]);
	if (pthread_create(&thread, NULL, relay, fds))
		die("relay", -EAGAIN);
	pthread_detach(thread);
}

/* --- talking ----------------------------------------------------------------------------------- */

static void request(struct run *r, enum vmctl_type type)
{
	struct vmctl_msg *m = xcalloc(1, sizeof(*m));

	m->type = type;
	if (type == VMCTL_CONFIG)
		m->config = r->config;
	if (type == VMCTL_SET_MACHINE)
		m->machine = (struct vmctl_machine){r->nested, VMCTL_WATCHDOG_RESET};
	int rc = vmctl_conn_send(r->conn, m);
	if (rc)
		die("request", rc);
	free(m);
}

static void finish(struct run *r, int code)
{
	request(r, VMCTL_KILL);
	usleep(20000);
	kill(r->pid, SIGKILL);
	unlink(r->path);
	exit(code);
}

static void hear_event(struct run *r, const struct vmctl_event *e)
{
	fprintf(stderr, "vmm_run: event %s %s\n", vmctl_event_name(e->kind), e->text);
	switch (e->kind) {
	case VMCTL_EVENT_POWERED_OFF:
		finish(r, 0);
		break;
	case VMCTL_EVENT_CRASHED:
		finish(r, 4);
		break;
	case VMCTL_EVENT_RESET:
		if (r->once)
			finish(r, 3);
		load(r);
		request(r, VMCTL_START);
		break;
	case VMCTL_EVENT_PANICKED:
	case VMCTL_EVENT_FROZEN:
	case VMCTL_EVENT_DEVICE:
	case VMCTL_EVENT_WATCHDOG:
		break;
	}
}

static void hear(struct run *r)
{
	static struct vmctl_msg m;
	int rc;

	while ((rc = vmctl_conn_receive(r->conn, &m)) > 0) {
		if (m.type == VMCTL_CONSOLE_OUTPUT &&
		    write(STDOUT_FILENO, m.console.data, m.console.bytes) < 0)
			die("standard output", -errno);
		if (m.type == VMCTL_REPLY && m.reply.err) {
			fprintf(stderr, "vmm_run: %s\n", m.reply.text);
			finish(r, 1);
		}
		if (m.type == VMCTL_EVENT)
			hear_event(r, &m.event);
		if (m.type == VMCTL_REPLY && !r->started_ns)
			r->started_ns = clock_boot_ns();
	}
	if (rc < 0)
		die("the VMM", rc);
}

/* --- moving ------------------------------------------------------------------------------------ */

#define ROUNDS 3

/* Sends, and waits for the REPLY; what the console says meanwhile is passed on. */
static uint32_t ask(struct run *r, struct vmctl_msg *m, const char *what)
{
	static uint32_t tag = 1000;
	static struct vmctl_msg got;

	m->tag = ++tag;
	int rc = vmctl_conn_send(r->conn, m);
	while (!rc) {
		rc = vmctl_conn_wait(r->conn, &got, clock_boot_ns() + 60 * NS_PER_S);
		if (rc < 0)
			break;
		rc = 0;
		if (got.type == VMCTL_CONSOLE_OUTPUT &&
		    write(STDOUT_FILENO, got.console.data, got.console.bytes) < 0)
			die("standard output", -errno);
		if (got.type == VMCTL_EVENT)
			hear_event(r, &got.event);
		if (got.type != VMCTL_REPLY || got.tag != tag)
			continue;
		if (got.reply.err) {
			fprintf(stderr, "vmm_run: %s: %s\n", what, got.reply.text);
			exit(1);
		}
		return got.reply.value;
	}
	die(what, rc);
	return 0;
}

static uint32_t ask_plain(struct run *r, enum vmctl_type type, int fd, const char *what)
{
	static struct vmctl_msg m;

	m = (struct vmctl_msg){.type = type, .fds = {fd}, .fds_n = fd >= 0};
	return ask(r, &m, what);
}

static uint64_t *start_log(struct run *r)
{
	uint64_t n = vmctl_log_bytes(r->config.memory_bytes);
	int fd = memfd_create("log", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0 || ftruncate(fd, (off_t)n) < 0 ||
	    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		die("log", -errno);
	uint64_t *log = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (log == MAP_FAILED)
		die("log", -errno);
	ask_plain(r, VMCTL_LOG_START, fd, "LOG_START");
	close(fd);
	return log;
}

static uint64_t copy_written(struct run *r, uint64_t *log, uint8_t *to)
{
	uint64_t pages = 0, words = vmctl_log_bytes(r->config.memory_bytes) / 8;

	ask_plain(r, VMCTL_LOG_SYNC, -1, "LOG_SYNC");
	for (uint64_t i = 0; i < words; i++) {
		uint64_t word = __atomic_exchange_n(&log[i], 0, __ATOMIC_ACQUIRE);
		for (unsigned bit = 0; word >> bit && bit < 64; bit++) {
			uint64_t at = (i * 64 + bit) * VMCTL_LOG_PAGE;
			if (!(word >> bit & 1))
				continue;
			memcpy(to + at, r->memory + at, VMCTL_LOG_PAGE);
			pages++;
		}
	}
	return pages;
}

static uint64_t differing(const struct run *a, const struct run *b)
{
	uint64_t pages = 0;

	for (uint64_t at = 0; at < a->config.memory_bytes; at += VMCTL_LOG_PAGE)
		pages += memcmp(a->memory + at, b->memory + at, VMCTL_LOG_PAGE) != 0;
	return pages;
}

static bool has_disks(const struct run *r)
{
	for (uint32_t i = 0; i < r->config.devices_n; i++) {
		if (r->sockets[i])
			return true;
	}
	return false;
}

/* The other one: configured without a kernel, which it gets when the guest reboots (load). */
static struct run next_vmm(const struct run *r)
{
	struct run next = *r;
	static struct vmctl_msg m;

	next.moves++;
	make_memory(&next);
	spawn(&next);
	next.conn = say_hello(&next, VMCTL_KIND_CONTROL, 0);
	m = (struct vmctl_msg){.type = VMCTL_CONFIG, .config = r->config};
	ask(&next, &m, "CONFIG");
	m = (struct vmctl_msg){.type = VMCTL_SET_MACHINE,
			       .machine = {r->nested, VMCTL_WATCHDOG_RESET}};
	ask(&next, &m, "SET_MACHINE");
	return next;
}

static void move(struct run *r)
{
	static struct vmctl_msg load_msg;
	struct run next = next_vmm(r);
	int state = memfd_create("state", MFD_CLOEXEC);
	uint64_t *log = start_log(r), pages = 0;

	move_asked = 0;
	if (state < 0 || ftruncate(state, VMCTL_STATE_MAX) < 0)
		die("state", -errno);
	memcpy(next.memory, r->memory, r->config.memory_bytes);
	for (unsigned i = 0; i < ROUNDS; i++) {
		usleep(50000);
		pages = copy_written(r, log, next.memory);
	}
	uint64_t stopped_ns = clock_boot_ns();
	ask_plain(r, VMCTL_PAUSE, -1, "PAUSE");
	copy_written(r, log, next.memory);
	uint32_t bytes = ask_plain(r, VMCTL_SAVE, state, "SAVE");
	copy_written(r, log, next.memory);
	if (has_disks(r))
		memcpy(next.memory, r->memory, r->config.memory_bytes);
	uint64_t wrong = differing(r, &next);
	load_msg = (struct vmctl_msg){
		.type = VMCTL_LOAD, .fds = {state}, .fds_n = 1, .load = {.bytes = bytes}};
	ask(&next, &load_msg, "LOAD");
	vmctl_conn_destroy(r->conn);
	kill(r->pid, SIGKILL);
	waitpid(r->pid, NULL, 0);
	unlink(r->path);
	for (uint32_t i = 0; i < r->config.devices_n; i++) {
		if (r->sockets[i])
			join_device(&next, i);
	}
	ask_plain(&next, VMCTL_RESUME, -1, "RESUME");
	fprintf(stderr,
		"vmm_run: moved %u, %llu pages in the last round, state of %u bytes, stood still "
		"for %llu ms, "
		"%llu pages differ\n",
		next.moves, (unsigned long long)pages, bytes,
		(unsigned long long)((clock_boot_ns() - stopped_ns) / NS_PER_MS),
		(unsigned long long)wrong);
	munmap(log, vmctl_log_bytes(r->config.memory_bytes));
	munmap(r->memory, r->config.memory_bytes);
	close(r->memory_fd);
	close(state);
	*r = next;
	if (wrong)
		finish(r, 5);
}

static void talk(struct run *r)
{
	static struct vmctl_msg m = {.type = VMCTL_CONSOLE_INPUT};
	struct pollfd p[2] = {{.fd = vmctl_conn_fd(r->conn), .events = POLLIN},
			      {.fd = STDIN_FILENO, .events = POLLIN}};

	for (;;) {
		hear(r);
		if (move_asked) {
			move(r);
			p[0].fd = vmctl_conn_fd(r->conn);
			continue;
		}
		p[1].revents = 0;
		poll(p, 2, 1000); /* a signal may come just before */
		if (!p[1].revents)
			continue;
		ssize_t n = read(STDIN_FILENO, m.console.data, sizeof(m.console.data));
		if (n <= 0) {
			p[1].fd = -1;
			continue;
		}
		m.console.bytes = (uint32_t)n;
		vmctl_conn_send(r->conn, &m);
	}
}

/* --- options ----------------------------------------------------------------------------------- */

static void add_device(struct run *r, enum vmctl_device_kind kind, const char *socket)
{
	unsigned i = r->config.devices_n++;

	MUST(i < VMCTL_DEVICES_MAX);
	r->config.devices[i] = (struct vmctl_device){.kind = kind, .queues = 1, .queue_size = 256};
	r->sockets[i] = socket;
}

static const struct option options[] = {
	{"vmm", 1, NULL, 'v'},	  {"kernel", 1, NULL, 'k'},   {"initrd", 1, NULL, 'i'},
	{"append", 1, NULL, 'a'}, {"memory", 1, NULL, 'm'},   {"cpus", 1, NULL, 'c'},
	{"scsi", 1, NULL, 's'},	  {"blk", 1, NULL, 'b'},      {"rng", 0, NULL, 'r'},
	{"once", 0, NULL, 'o'},	  {"firmware", 1, NULL, 'f'}, {"nested", 0, NULL, 'n'},
	{NULL, 0, NULL, 0},
};

static void parse(struct run *r, int argc, char **argv)
{
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (c) {
		case 'v':
			r->vmm = optarg;
			break;
		case 'k':
			r->kernel = optarg;
			break;
		case 'i':
			r->initrd = optarg;
			break;
		case 'a':
			(void)str_format(r->config.cmdline, sizeof(r->config.cmdline), "%s",
					 optarg);
			break;
		case 'm':
			if (parse_size(optarg, &r->config.memory_bytes))
				die("--memory", -EINVAL);
			break;
		case 'c':
			r->config.cpus = (uint32_t)atoi(optarg);
			break;
		case 's':
			add_device(r, VMCTL_DEVICE_SCSI, optarg);
			break;
		case 'b':
			add_device(r, VMCTL_DEVICE_BLK, optarg);
			break;
		case 'r':
			add_device(r, VMCTL_DEVICE_RNG, NULL);
			break;
		case 'o':
			r->once = true;
			break;
		case 'f':
			r->firmware = optarg;
			break;
		case 'n':
			r->nested = true;
			break;
		default:
			exit(2);
		}
	}
	if (!r->vmm || (!r->kernel && !r->firmware))
		die("--vmm and --kernel or --firmware are needed", -EINVAL);
}

int main(int argc, char **argv)
{
	struct run r = {.config = {.cpus = 1, .memory_bytes = 256 * MiB, .boot = VMCTL_BOOT_LINUX}};

	parse(&r, argc, argv);
	signal(SIGUSR1, ask_move);
	make_memory(&r);
	spawn(&r);
	r.conn = say_hello(&r, VMCTL_KIND_CONTROL, 0);
	load(&r);
	request(&r, VMCTL_CONFIG);
	/* A device is known only when CONFIG was obeyed: wait for its REPLY before HELLO. */
	static struct vmctl_msg m;
	do {
		int rc = vmctl_conn_wait(r.conn, &m, clock_boot_ns() + 10 * NS_PER_S);
		if (rc < 0)
			die("the VMM", rc);
	} while (m.type != VMCTL_REPLY);
	if (m.reply.err) {
		fprintf(stderr, "vmm_run: %s\n", m.reply.text);
		finish(&r, 1);
	}
	for (uint32_t i = 0; i < r.config.devices_n; i++) {
		if (r.sockets[i])
			join_device(&r, i);
	}
	request(&r, VMCTL_SET_MACHINE);
	request(&r, VMCTL_START);
	talk(&r);
}
